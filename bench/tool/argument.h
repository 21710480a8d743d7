/* argument: relay/tools/argument.h, and values that only ringpost-bench has.
 * Does:    reads times below a millisecond, and distributions.
 * Owns:    nothing.
 * Threads: the main thread, at the start.
 * Errors:  false, and the user was told.
 */
#ifndef RINGPOST_BENCH_TOOL_ARGUMENT_H
#define RINGPOST_BENCH_TOOL_ARGUMENT_H

#include "bench/tool/distribution.h"
#include "relay/tools/argument.h"

MUST_USE bool argument_time(const char *value, uint64_t *ns);
MUST_USE bool argument_distribution(const char *value, enum distribution_unit unit, uint64_t most,
                                    struct distribution *out);

#endif
