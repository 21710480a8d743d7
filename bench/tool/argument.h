/* argument: values on the command line of ringpost-bench, the same for each of its commands.
 * Does:    reads numbers, times and distributions; says on standard error what is wrong.
 * Owns:    the name of the command that runs, for messages.
 * Threads: the main thread, at the start.
 * Errors:  false, and the user was told.
 */
#ifndef RINGPOST_BENCH_TOOL_ARGUMENT_H
#define RINGPOST_BENCH_TOOL_ARGUMENT_H

#include "bench/tool/distribution.h"

/* "load": lives as long as the process. */
void argument_command(const char *name);
/* Returns false. */
bool argument_wrong(const char *value, const char *why);
MUST_USE bool argument_number(const char *value, uint64_t least, uint64_t most, uint64_t *out);
/* At least 1. */
MUST_USE bool argument_number32(const char *value, uint32_t most, uint32_t *out);
MUST_USE bool argument_time(const char *value, uint64_t *ns);
MUST_USE bool argument_distribution(const char *value, enum distribution_unit unit, uint64_t most,
                                    struct distribution *out);

#endif
