/* landlock: a list of what files and TCP ports a thread can reach from then on.
 * Does:    Landlock by its system calls (glibc has none), at the level that the kernel offers.
 * Owns:    the descriptor of the list, until landlock_close().
 * Threads: built by one; landlock_enter() binds the calling thread and those it will start.
 * Errors:  0 or a negative errno.
 */
#ifndef RINGPOST_RELAY_SANDBOX_LANDLOCK_H
#define RINGPOST_RELAY_SANDBOX_LANDLOCK_H

#include "core/assert.h"
#include "core/span.h"

enum landlock_access {
    LANDLOCK_READ,   /* files below: read */
    LANDLOCK_SPOOL,  /* files below: read, list, make, write, cut, rename, remove */
    LANDLOCK_APPEND, /* files below: make, write */
    LANDLOCK_REMOVE, /* files below: remove */
};

struct landlock {
    int abi; /* of the kernel, 0: it has no Landlock */
    int list;
};

#define LANDLOCK_ABI_PORTS 4
#define LANDLOCK_ABI_SCOPES 6

/* -EOPNOTSUPP: built in, but not switched on; -ENOSYS: not built in; -EPERM: by a container. */
MUST_USE int landlock_open(struct landlock *landlock);
void landlock_close(struct landlock *landlock);

/* A directory with all below it, or one file. What is not there is no error: -ENOENT. */
MUST_USE int landlock_allow(const struct landlock *landlock, const char *path,
                            enum landlock_access access);
/* Connecting to a TCP port, whatever the address. Without LANDLOCK_ABI_PORTS all can be reached. */
MUST_USE int landlock_allow_port(const struct landlock *landlock, uint16_t port);

/* Needs PR_SET_NO_NEW_PRIVS. */
MUST_USE int landlock_enter(const struct landlock *landlock);

#endif
