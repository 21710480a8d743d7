/* worker: one thread, one ring, everything that lives on it; the composition root of the relay.
 * Does:    accepts, spreads connections over the workers, dispatches completions and timers,
 *          drains.
 * Owns:    its pools, timers, sessions, next-hop connections. Nothing here is shared with another
 *          worker but what
 *          struct relay says.
 * Memory:  pools sized at start from the limits; pages are touched as they are needed.
 * Threads: worker_run() is the thread; the main thread posts messages through its own io.
 */
#ifndef RINGPOST_RELAY_WORKER_H
#define RINGPOST_RELAY_WORKER_H

#include "core/acceptor.h"
#include "core/access.h"
#include "core/counters.h"
#include "core/receiver.h"
#include "relay/link.h"
#include "relay/memory.h"
#include "relay/shortage.h"
#include "relay/spool/spool.h"

struct control;
struct courier;
struct hop;
struct session;
struct transaction;
struct worker;

/* What is behind a ticket's slot, or a timer. */
enum worker_kind {
    WORKER_LISTENER,
    WORKER_SESSION,
    WORKER_CONNECTION,
    WORKER_TRANSACTION, /* timers only */
    WORKER_SHORTAGE,    /* the same */
    WORKER_HAND_OVER,   /* messages: an accepted socket from another worker; slot: its listener */
    WORKER_DRAIN,       /* messages: stop accepting, finish, end */
    WORKER_RELOAD,      /* messages: take the new TLS contexts */
    WORKER_SPOOL,       /* the spool's files */
    WORKER_QUEUE,       /* messages: an operator asks; slot: the mailbox of relay->control */
};

/* One listening address; the same list in each worker, each with a socket of its own. */
struct relay_listener {
    const struct config_listener *config;
    const struct config_address *address;
    struct receiver_policy policy;
};

/* What a reload replaces as a whole. Workers hold a reference each; contexts count their own. */
struct relay_tls {
    struct tls_context *server;   /* NULL: no certificate */
    struct tls_context **clients; /* one per next hop */
};

/* The process: read only for workers, but for `access` (atomic) and what is marked. */
struct relay {
    const struct config *config;
    struct access access;
    struct relay_listener *listeners;
    uint32_t listener_count;
    struct worker *workers;
    uint32_t worker_count;
    struct relay_tls *tls; /* replaced by the main thread (atomic); see WORKER_RELOAD */
    struct spool_directory spool; /* where config_stores(); shared as its header says */
    bool spool_open;
    struct control *control;      /* atomic; NULL: nothing is ever stored */
    struct config_address **hop_addresses; /* [hop][server]: resolved; family 0: unknown name */
};

struct worker {
    struct relay *relay;
    const struct config *config;
    uint32_t index;
    struct io *io;
    struct counters counters;
    struct hop_counters *hop_counters; /* one per next hop */
    uint64_t now_ns, realtime_ns;
    struct link_shared links;
    struct memory memory;
    struct shortage shortage;
    struct pool sessions, connections, transactions, blocks;
    struct timers timers;
    struct acceptor *acceptors; /* as relay->listeners; listener -1: closed */
    struct hop *hops;
    struct courier *courier; /* NULL: nothing is ever stored */
    struct relay_tls *tls;
    struct session *ready, **ready_tail; /* sessions that can go on: their verdict came */
    uint32_t load; /* sessions given to it (atomic): counted up by whoever accepted, down by its own
                      end */
    uint64_t next_id; /* of queue ids */
    uint64_t cpu_counted_ns;
    bool draining, drain_ending, drain_forced;
    bool stopped_clean; /* the spool is idle: what was marked in it is written, or given up */
    bool marks_lost;    /* given up: the disk did not take all of it */
    struct timer drain_timer;
    bool started; /* atomic: its ring is there, connections may be handed to it */
};

/* Before its thread starts: opens the listening sockets. 0, or a negative errno and *which says of
 * what address. */
int worker_listen(struct worker *worker, struct relay *relay, uint32_t index,
                  const struct config_address **which);
/* Called in the worker's thread: the ring and the pools. False: *error says why. */
MUST_USE bool worker_start(struct worker *worker, char error[IO_ERROR_BYTES]);
/* The loop; returns when drained. */
void worker_run(struct worker *worker);
/* One turn of it, for who drives workers himself: worker_begin() once, then worker_step() while it
 * is true. */
void worker_begin(struct worker *worker);
bool worker_step(struct worker *worker);
/* After worker_run(), or instead of it. */
void worker_stop(struct worker *worker);

/* --- for the parts of a worker --- */
/* The session can go on: run it later in this turn (never from inside another part's call: no
 * recursion). */
void worker_ready(struct worker *worker, struct session *session);
/* A queue id: sortable by time, unique over workers and restarts. Writes at most 15 characters and
 * a NUL. */
void worker_queue_id(struct worker *worker, char id[16]);
struct io_ticket worker_ticket(const struct pool *pool, const void *object, enum worker_kind kind);

#endif
