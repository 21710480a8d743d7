/* argument: what stands on the command line of a tool, the same for sink, send and ringpost-bench.
 * Does:    walks through the options; reads numbers, sizes and times; says on standard error what
 *          is wrong, and with which option.
 * Owns:    the names of the command that runs and of the option at hand.
 * Threads: the main thread, at the start.
 * Errors:  false, and the user was told.
 */
#ifndef RINGPOST_RELAY_TOOLS_ARGUMENT_H
#define RINGPOST_RELAY_TOOLS_ARGUMENT_H

#include "core/span.h"

struct option;         /* <getopt.h> */
struct config_address; /* core/config.h */

/* "ringpost", "sink", its text for --help: they live as long as the process. */
void argument_command(const char *program, const char *name, const char *usage);
/* As getopt_long(): the value is in optarg; -1 is the end of the options. */
int argument_next(int argc, char **argv, const char *letters, const struct option *options);
/* What the command's reader of arguments returns: 0, or its exit status + 1. */
enum argument_status { ARGUMENT_GOOD, ARGUMENT_HELP = 1, ARGUMENT_WRONG = 3 };
/* The key 'h'. */
MUST_USE enum argument_status argument_help(void);
/* Nothing stands behind what was read. */
MUST_USE bool argument_none_left(int argc, char **argv);

/* The value of the option at hand, or an argument behind the options. Returns false. */
bool argument_wrong(const char *value, const char *why);
/* Anything else that is wrong with them. Returns false. */
bool argument_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

MUST_USE bool argument_number(const char *value, uint64_t least, uint64_t most, uint64_t *out);
/* At least 1. */
MUST_USE bool argument_number32(const char *value, uint32_t most, uint32_t *out);
/* Octets, with a unit or without. */
MUST_USE bool argument_size(const char *value, uint64_t least, uint64_t most, uint64_t *bytes);
/* More than none, up to a year. */
MUST_USE bool argument_duration(const char *value, uint64_t *duration_ms);
MUST_USE bool argument_host_name(const char *value);
/* To listen on: port 0 is any. */
MUST_USE bool argument_address(const char *value, struct config_address *address);

#endif
