/* acceptor: one listening socket: who has connected to it.
 * Does:    keeps a multishot accept armed; pauses when descriptors or memory are short, since the
 *          same connection would fail again at once.
 * Owns:    its timer. The socket stays the caller's.
 * Memory:  none allocated. Must not move: timers point into it.
 * Threads: the thread's that has the ring.
 */
#ifndef RINGPOST_CORE_ACCEPTOR_H
#define RINGPOST_CORE_ACCEPTOR_H

#include "core/io.h"
#include "core/timers.h"

struct acceptor {
    struct io *io;
    struct timers *timers;
    struct timer pause; /* of the ticket's kind; when it fires: acceptor_arm() */
    struct io_ticket ticket;
    int listener;
    bool armed; /* an accept will still complete */
    bool stopped;
};

/* The ticket comes back in completions, its kind in the timer. */
void acceptor_init(struct acceptor *acceptor, struct io *io, struct timers *timers,
                   struct io_ticket ticket, int listener);
/* Does nothing when it is armed or stopped. */
void acceptor_arm(struct acceptor *acceptor);
/* After each completion of the accept, when its descriptor was dealt with (result >= 0: it is the
 * caller's, also when stopped). False: a shortage, accepting pauses; the result says which. */
bool acceptor_continue(struct acceptor *acceptor, const struct io_completion *completion,
                       uint64_t now_ns);
/* No more connections. While armed is true the accept, canceled, still completes. */
void acceptor_stop(struct acceptor *acceptor);

#endif
