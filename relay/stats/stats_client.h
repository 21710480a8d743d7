/* stats_client: `ringpost stats`, which asks a running relay and shows the answer.
 * Does:    GET /stats.json from the first stats address; prints it raw, or as a table for a person.
 * Owns:    nothing that outlives a call.
 * Memory:  heap; it is a command line tool.
 * Errors:  told on stderr in words, with what to do; the result is an exit status.
 */
#ifndef RINGPOST_RELAY_STATS_STATS_CLIENT_H
#define RINGPOST_RELAY_STATS_STATS_CLIENT_H

#include <stdio.h>

#include "core/config.h"

/* Exit status: 0, or 1 when there is no address or no answer. */
MUST_USE int stats_client_run(const struct config *config, bool json, FILE *out, FILE *errors);

/* The table of a /stats.json text. False: it is none (nothing was printed). */
MUST_USE bool stats_table_print(struct span json, FILE *out);

#endif
