/* queue: `ringpost queue`: what waits in the queue, and what an operator does about it.
 * Does:    asks the running relay through the private socket in its spool; reads envelopes, bodies
 *          and marks from the spool's files itself. Without a running relay: what the files say.
 * Owns:    nothing that outlives a call.
 * Memory:  heap; it is a command line tool.
 * Threads: the only one of its process.
 * Errors:  told on stderr in words, with what to do; the result is an exit status.
 */
#ifndef RINGPOST_RELAY_TOOLS_QUEUE_H
#define RINGPOST_RELAY_TOOLS_QUEUE_H

#include <stdio.h>

#include "core/config.h"

enum queue_verb {
    VERB_SUMMARY,
    VERB_LIST,
    VERB_SHOW,
    VERB_EXPORT,
    VERB_HOLD,
    VERB_RELEASE,
    VERB_RETRY,
    VERB_REMOVE,
    VERB_VERBS
};

/* Which messages: those that all of what is given says. */
struct queue_select {
    const char *next_hop, *domain, *sender; /* NULL: any */
    uint64_t age_min_s;
    uint32_t states; /* bit per enum queue_state; 0: any */
    bool all;
    char (*ids)[16];
    uint32_t id_count;
};

struct queue_command {
    enum queue_verb verb;
    const char *file; /* of -c; NULL: not given */
    bool json, by_domain, trace;
    struct queue_select select;
};

/* argv[0] is "queue". 0: go on; else an exit status to end with, +1. */
MUST_USE int queue_arguments(int argc, char **argv, struct queue_command *out);
/* Frees the command's ids too. */
MUST_USE int queue_run(struct queue_command *command, const struct config *config, FILE *out,
                       FILE *errors);

#endif
