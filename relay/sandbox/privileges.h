/* privileges: which user the process is, at which moment.
 * Does:    finds the user of the configuration, becomes it for what needs no root, root again for
 *          what does, and in the end the user alone, with no way back and no capabilities.
 * Owns:    nothing; struct privileges is the caller's.
 * Threads: the main thread. Users and groups change for all threads at once; capabilities are of
 *          each thread: privileges_forget() in those that were there before privileges_drop().
 * Errors:  false, and a text that says what to do.
 */
#ifndef RINGPOST_RELAY_SANDBOX_PRIVILEGES_H
#define RINGPOST_RELAY_SANDBOX_PRIVILEGES_H

#include "core/assert.h"
#include "core/span.h"

#define PRIVILEGES_ERROR_BYTES 512
#define PRIVILEGES_USER_BYTES 64
#define PRIVILEGES_DEFAULT_USER "ringpost"

struct privileges {
    char user[PRIVILEGES_USER_BYTES];
    uint32_t uid, gid;
    bool changes; /* root started us, and the user is another one */
    bool root;    /* root stays */
    bool unasked; /* the same, for want of a user that we could be */
};

/* name: NULL for the default. As root, also takes that user's groups. */
MUST_USE bool privileges_find(struct privileges *privileges, const char *name,
                              char error[PRIVILEGES_ERROR_BYTES]);

/* For a while: both do nothing unless `changes`. After privileges_find() we are still root. */
void privileges_lower(const struct privileges *privileges);
void privileges_raise(const struct privileges *privileges);

/* As root: limits that only root can raise. */
void privileges_limits_raise(void);

/* Lowered, if `changes`: the directory is made when it is not there, and is the user's afterwards
 * if it was root's, with the files in it. */
MUST_USE bool privileges_hand_over(const struct privileges *privileges, const char *directory,
                                   char error[PRIVILEGES_ERROR_BYTES]);

/* What the process can do with a file, or make files in a directory, as it is now. */
bool privileges_can_read(const char *path);
bool privileges_can_write(const char *directory);

/* For good. confine: gives up capabilities too, also those of a root that stays, but for the one by
 * which rings are made. */
MUST_USE bool privileges_drop(const struct privileges *privileges, bool confine,
                              char error[PRIVILEGES_ERROR_BYTES]);

/* All that the calling thread still has. 0 or an errno. */
int privileges_forget(void);

#endif
