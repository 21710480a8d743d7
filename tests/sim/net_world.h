/* net_world: a whole relay on the simulated machine and peers that follow scripts, for the tests of
 * the simulator itself (net_main.c).
 * Does:    starts, steps and stops a relay; plays clients and next hops line by line, with TLS.
 * Owns:    the relay's life, all peers, what is noted of messages.
 * Memory:  malloc(); world_end() frees all of it.
 * Threads: one.
 * Errors:  what a scenario does not expect ends the process with the seed.
 */
#ifndef RINGPOST_TESTS_SIM_NET_WORLD_H
#define RINGPOST_TESTS_SIM_NET_WORLD_H

#include "relay/relay.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_tls.h"

#define CLIENT_PORT 25
#define MARKS_MAX 64
#define HOP_PORT 2525

struct peer {
    struct peer *next;
    struct net_world *world;
    struct sim_end *end;      /* NULL: it is over */
    const char *const *steps; /* see peer_run() */
    uint32_t at;
    uint32_t mark; /* of the client's message */
    bool server, waits, failed, ended, done, promised, broken;
    uint32_t mark_seen;
    bool marked;
    int error;
    struct tls *tls;
    bool shaking;
    char *input; /* plain text that no step has used */
    size_t input_len, input_room;
    char *cipher;
    size_t cipher_len, cipher_room;
};

struct net_world {
    const char *scenario;
    uint64_t seed;
    struct sim_random random;
    struct config *config;
    struct relay relay;
    bool up;
    bool *drained;
    struct tls_context *tls_server, *tls_client;
    struct peer *peers;
    const char *const *hop_steps; /* of each connection to the next hop; NULL: refused */
    uint32_t hop_connections, hop_messages, steps, clients, cuts;
    uint32_t delivered[MARKS_MAX]; /* messages by the number of their client */
    jmp_buf power;
};

/* options: what stands in the configuration besides listeners, next hop and route; may be "". */
void world_begin(struct net_world *world, const char *scenario, uint64_t seed);
void world_config(struct net_world *world, unsigned workers, const char *tls, const char *options);
void relay_life_begin(struct net_world *world);
/* Drains, and lets go of everything. */
void relay_life_end(struct net_world *world);
/* The power has failed (world->power), and comes again; a new life begins. */
void relay_life_cut(struct net_world *world);
void world_end(struct net_world *world);

/* Until met() is true, or for so long. False: it was not met. */
bool world_run(struct net_world *world, bool (*met)(struct net_world *world), uint64_t for_ns);
void world_fail(const struct net_world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
#define EXPECT(world, condition)                                                     \
    do {                                                                             \
        if (!(condition))                                                            \
            world_fail(world, "%s:%d: expected %s", __FILE__, __LINE__, #condition); \
    } while (0)

/* A client that connects and follows the script:
 *   "> TEXT"   says a line            "< TEXT"   waits for a line that begins so
 *   "<< TEXT"  waits for a reply, of several lines perhaps, whose last begins so
 *   "=TEXT"    says octets as they are; \n is CRLF     "body N"   N octets of lines
 *   "data"     takes a message up to its dot            "tls"     shakes hands
 *   "fin" "close" "reset" "deaf" "hear" "wait MS"  "done" (all before was as it should: the
 * message is promised)  "over" (the same, and no message is) */
struct peer *world_client(struct net_world *world, uint32_t from_ipv4, const char *const *steps);
/* Of sim_net_listen(); context: the world. */
bool world_hop_accepted(void *context, struct sim_end *end, const struct sim_actor **its_actor,
                        void **its_context);
bool clients_done(struct net_world *world);
/* Done, or over. */
bool clients_over(struct net_world *world);
/* What a client was promised has been delivered. */
bool promises_kept(struct net_world *world);

#endif
