/* print: what tools say the same way: counts in a line or as JSON, where a sink listens.
 * Does:    writes to standard output.
 * Owns:    nothing.
 * Threads: the main thread.
 */
#ifndef RINGPOST_RELAY_TOOLS_PRINT_H
#define RINGPOST_RELAY_TOOLS_PRINT_H

#include "core/config.h"

/* A row of a table of counts: what stands behind the number, or is its name in JSON. */
struct print_count {
    uint64_t count;
    const char *what;
};

/* "3 refused, 2 lost", with `before` in front of each: what is 0 is left out. */
void print_counts(const char *before, const struct print_count *counts, size_t len);
/* "name": 3, "other": 0 */
void print_counts_json(const struct print_count *counts, size_t len);
/* Both of a table. */
#define PRINT_COUNTS(before, counts) \
    print_counts(before, counts, sizeof(counts) / sizeof((counts)[0]))
#define PRINT_COUNTS_JSON(counts) print_counts_json(counts, sizeof(counts) / sizeof((counts)[0]))

/* "sink: listening on 127.0.0.1:2626": whoever starts a sink waits for this line. */
void print_listening(const struct config_address *address);

#endif
