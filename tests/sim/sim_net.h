/* sim_net: the simulated network as those see it who are not the relay: clients, next hops.
 * Does:    byte streams between actors and the relay's sockets, with delays, cuts into pieces,
 *          stalls, resets, half closes and refusals by seed; actors' timers.
 * Owns:    connections of both sides, listeners by port, until sim_net_end().
 * Memory:  malloc(). A power cut (sim_power_lost()) or the end of the process (sim_process_ends())
 *          ends every connection that has an end in the relay; actors live on.
 * Threads: one. Callbacks come out of sim_advance(), and of io_wait() of an instance that has no
 *          receive buffers; never out of a call below. In them everything below may be called.
 * Errors:  using an end that is gone is an ASSERT.
 */
#ifndef RINGPOST_TESTS_SIM_NET_H
#define RINGPOST_TESTS_SIM_NET_H

#include "tests/sim/sim.h"

/* --- faults: chances in 10000, of each operation of the kind, drawn by the network --- */

struct sim_net_faults {
    uint32_t refuse;     /* of a connection by either side: ECONNREFUSED after a delay */
    uint32_t unanswered; /* of a connection: nothing ever happens, until ETIMEDOUT after 127 s */
    uint32_t reset;      /* of each transfer of a piece, either way: both ends see a reset */
    uint32_t stall;      /* of each transfer: that direction stands still for up to 30 s */
    uint32_t split;      /* of each transfer: only 1 to n octets of what could go */
    uint32_t merge;      /* of each transfer: wait, so that it goes together with what follows */
    uint32_t multishot_ends; /* of a multishot completion: it was the last (more == false) */
    uint32_t no_buffer;      /* of a receive: ENOBUFS although there is a buffer */
    uint32_t end_missed;     /* of a receive that has taken octets: an end of the stream that comes
                              * then does not wake it (some kernels): see link_recheck() */
    uint32_t accept;         /* of an accept: EMFILE, ENFILE or ECONNABORTED */
    uint32_t send;  /* of a send: ECONNRESET, EPIPE, or what the kernel had no memory for */
    uint32_t order; /* of a completion: it is told later than others that came after it */
};
/* All chances 0 at the start; NULL: none from now on. */
void sim_net_faults_set(const struct sim_net_faults *faults);

/* --- actors --- */

struct sim_end; /* an actor's end of one connection */

struct sim_actor {
    void (*connected)(void *context, struct sim_end *end); /* what sim_net_connect() began */
    void (*failed)(void *context, struct sim_end *end,
                   int error); /* the same; end is gone after it */
    /* All octets that came; it takes all (unless sim_end_pause()). */
    void (*received)(void *context, struct sim_end *end, const char *data, size_t len);
    void (*ended)(void *context, struct sim_end *end); /* the relay's FIN, after its octets */
    void (*broken)(void *context, struct sim_end *end, int error); /* reset; end is gone after it */
    void (*sent)(void *context, struct sim_end *end); /* all octets given are on the other side */
};

/* Ports are the name of a place; addresses 127.x.y.z as the actor likes (shown to io_peer()).
 * The relay listens by io_listen(): a connect to a port that nobody listens on is refused. */
struct sim_end *sim_net_connect(const struct sim_actor *actor, void *context, uint32_t from_ipv4,
                                uint16_t port);
/* A place that the relay can io_connect() to. accepted(): the new end's actor and context are
 * what it returns through *actor, *end_context; false: refused. */
void sim_net_listen(uint16_t port,
                    bool (*accepted)(void *context, struct sim_end *end,
                                     const struct sim_actor **actor, void **end_context),
                    void *context);
/* Nobody listens there any more: refused. What was accepted lives on. */
void sim_net_unlisten(uint16_t port);

/* Octets are copied, and go when the network likes. After sim_end_shut() none may be given. */
void sim_end_write(struct sim_end *end, const char *data, size_t len);
void sim_end_shut(struct sim_end *end);  /* our FIN, after all octets given */
void sim_end_reset(struct sim_end *end); /* at once; end is gone */
void sim_end_close(struct sim_end *end); /* FIN, nothing more is told; end is gone */
/* Takes nothing until resumed: the relay's sends fill the window (sim_net draws its size, 1 KiB to
 * 256 KiB) and stop. */
void sim_end_pause(struct sim_end *end, bool paused);
/* Octets of the relay that this end has been given so far: how far it can have read. */
uint64_t sim_end_received(const struct sim_end *end);
/* Octets of this end that the relay's receives have completed with so far. */
uint64_t sim_end_taken(const struct sim_end *end);
uint32_t sim_end_number(const struct sim_end *end); /* counts from 1 in each world; for traces */

/* --- timers of actors --- */

/* Once, at that time (sim_now_ns() or later). Gone with sim_net_end(). */
void sim_net_at(uint64_t at_ns, void (*fire)(void *context), void *context);

/* --- the world --- */

void sim_net_start(uint64_t seed); /* after sim_start() */
void sim_net_end(void);
/* Connections with an end in the relay that is open. */
uint32_t sim_net_relay_sockets(void);

/* --- stepping workers: io_wait() never waits in a world with a network; it hands out what is there
 * and notes until when the worker wanted to sleep --- */

/* True: this instance's next io_wait() would return at once (completions, operations queued, or its
 * time has come). */
bool sim_io_ready(const struct io *io);
/* Operations on files that are under way. */
uint64_t sim_io_files_flying(const struct io *io);
/* When its time comes; UINT64_MAX: it waits for completions only. */
uint64_t sim_io_wakes_ns(const struct io *io);

#endif
