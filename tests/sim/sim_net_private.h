/* sim_net_private: what the parts of the simulated network share: connections and their two flows
 * (sim_wire.c), the world and the actors (sim_net.c), the relay's sockets (sim_sockets.c).
 * Does:    says what a connection is; nobody else includes this.
 * Owns:    see the structs; `net` is the one network.
 * Threads: one.
 */
#ifndef RINGPOST_TESTS_SIM_NET_PRIVATE_H
#define RINGPOST_TESTS_SIM_NET_PRIVATE_H

#include "core/clock.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_private.h"

struct net_octets { /* a queue */
    char *data;
    size_t start, len, room;
};

/* One direction. What was sent waits (in the sender's kernel, on the wire) until it is moved, in
 * pieces, to where the receiver can take it. */
struct net_flow {
    struct net_octets sent, arrived;
    size_t sent_window, arrived_window;
    bool fin;         /* follows what was sent */
    bool fin_arrived; /* behind what has arrived */
    bool fin_taken;
    bool moving;     /* the next move is an event that comes */
    bool delivering; /* out: so is a look of the actor at what has arrived */
    bool merged;     /* a move was put off so that more goes at once */
};

enum net_state { NET_CONNECTING, NET_OPEN, NET_GONE };

/* A connection: the actor's end, and what the relay's socket is the other end of. Stays until
 * sim_net_end(), so that events may come too late. */
struct sim_end {
    struct sim_end *next;
    struct sim_end *next_waiting; /* in a listener's queue */
    const struct sim_actor *actor;
    void *context;
    uint32_t number;
    uint32_t from_ipv4;
    uint16_t from_port, port;
    uint8_t state;
    bool actor_there;  /* it has not closed and not been told that it is over */
    bool relay_there;  /* the relay has a socket for it, or will have by accepting */
    bool relay_began;  /* io_connect() */
    bool relay_reset;  /* nothing moves any more for the relay */
    bool actor_resets; /* what was sent goes before the reset */
    int relay_error;   /* told once, by whichever operation comes first (SO_ERROR) */
    int actor_error;   /* of the reset that is on its way to it */
    int connect_error;
    bool paused;
    struct net_socket *socket; /* NULL: not accepted yet, or closed */
    struct net_flow in, out;   /* towards the relay, towards the actor */
    uint64_t delay_ns;
    uint64_t received, taken;
};

struct net_socket { /* of the relay; stays until sim_net_end(), as connections do */
    struct net_socket *next;
    struct sim_end *end;
    int descriptor;
    bool listener, shared, shut, waking, closed;
    uint32_t late; /* completions of receives that are told later: the next ones wait for them */
    uint16_t port;
    uint32_t inflight; /* operations whose last completion was not handed out */
    struct sim_operation *receive, *send, *connect, *accept;
    struct sim_end *waiting, **waiting_end; /* LISTENER: to be accepted */
};

struct net_place { /* an actor that listens */
    struct net_place *next;
    uint16_t port;
    bool (*accepted)(void *context, struct sim_end *end, const struct sim_actor **actor,
                     void **end_context);
    void *context;
};

struct net_event {
    uint64_t at_ns, number;
    void (*happen)(void *context); /* NULL: it was taken back */
    void *context;
};

struct net {
    bool there;
    struct sim_random random;
    struct sim_net_faults faults;
    struct net_event *events; /* a heap */
    uint32_t event_count, event_room;
    uint64_t event_number;
    struct sim_end *ends;
    uint32_t end_count;
    struct net_socket *sockets, *closed_sockets;
    struct net_place *places;
    uint16_t next_port;
};
extern struct net net;

/* --- sim_net.c --- */

void net_event_add(uint64_t delay_ns, void (*happen)(void *context), void *context);
bool net_fault(enum sim_event event, uint32_t chance);
/* In the hash, and told when sim_verbose(). data may be NULL. */
void net_trace(const char *what, uint32_t number, int64_t result, const char *data, size_t len);
uint64_t net_delay(const struct sim_end *end);
void net_relay_connect(struct net_socket *socket, uint16_t port);
struct sim_end *net_end_new(uint32_t from_ipv4, uint16_t port);

/* --- sim_wire.c --- */

void octets_push(struct net_octets *octets, const char *data, size_t len);
void octets_pop(struct net_octets *octets, size_t len);
void octets_clear(struct net_octets *octets);
/* Something was given or taken: moves go on. */
void net_in_kick(struct sim_end *end);
void net_out_kick(struct sim_end *end);
/* The actor looks at what has arrived, soon. */
void net_deliver_soon(struct sim_end *end);
/* The relay's kernel hears of a reset. */
void net_relay_reset(struct sim_end *end, int error);
/* A reset is on its way to the actor, behind what is on the wire; or it comes now. */
void net_actor_reset_soon(struct sim_end *end, int error);
void net_actor_reset(struct sim_end *end, int error);
/* The same of a machine whose power has failed: within some seconds. */
void net_actor_reset_later(struct sim_end *end, int error);
/* The relay's end is closed by its kernel. */
void net_relay_closes(struct sim_end *end);

/* --- sim_sockets.c, sim_kernel.c --- */

/* Its state has changed: operations that wait for that go on. */
void net_socket_wake(struct net_socket *socket);
void net_send_run(struct net_socket *socket);
/* A client has come to this port. False: nobody listens there. */
bool net_socket_arrive(struct sim_end *end);
void net_socket_connected(struct net_socket *socket, int result);
void net_socket_run(struct net_socket *socket);
/* A descriptor for who was waiting; or -EMFILE. */
int net_socket_accepted(struct sim_end *end);

#endif
