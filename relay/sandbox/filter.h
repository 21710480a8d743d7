/* filter: which system calls a thread can make.
 * Does:    makes a seccomp program of filter.def for each kind of thread (libseccomp), and puts the
 *          calling thread under one. What is not in the list ends the process with a line on
 *          stderr that names the call, or is only logged by the kernel.
 * Memory:  allocated by filters_make(), kept for threads that start later.
 * Threads: filters_make() by one; filter_enter() binds the calling thread, and those it starts.
 * Errors:  0 or a negative errno.
 */
#ifndef RINGPOST_RELAY_SANDBOX_FILTER_H
#define RINGPOST_RELAY_SANDBOX_FILTER_H

#include "core/assert.h"
#include "core/span.h"

/* Each thread first has what the process needs to get up, then only its own. */
enum filter_kind { FILTER_START, FILTER_MAIN, FILTER_WORKER, FILTER_STATS, FILTER_LOG, FILTERS };

struct filter_options {
    bool log_only;
    bool syslog; /* the log thread opens Unix datagram sockets */
};

/* -ENOSYS: no seccomp filters here. */
MUST_USE int filters_make(const struct filter_options *options);

/* Needs PR_SET_NO_NEW_PRIVS. Nothing happens before filters_make(). */
MUST_USE int filter_enter(enum filter_kind kind);

#endif
