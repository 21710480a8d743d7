/* relay_secure: an actor's side of TLS.
 * Does:    handshake, records in and out over the simulator's TLS (sim_tls.h).
 * Owns:    its struct tls, until secure_end().
 * Memory:  malloc().
 * Errors:  false: the connection is of no use any more.
 */
#ifndef RINGPOST_TESTS_SIM_RELAY_SECURE_H
#define RINGPOST_TESTS_SIM_RELAY_SECURE_H

#include "tests/sim/relay_world.h"
#include "tests/sim/sim_tls.h"

struct secure {
    struct tls *tls; /* NULL: in the clear */
    bool shaking;
    struct text cipher;
};

MUST_USE bool secure_begin(struct secure *secure, struct sim_end *end, bool server,
                           uint64_t *written);
/* What came; plain text is added to `plain`. */
MUST_USE bool secure_feed(struct secure *secure, struct sim_end *end, const char *data, size_t len,
                          struct text *plain, uint64_t *written);
/* In the clear or not; counts octets of the connection. */
void secure_write(struct secure *secure, struct sim_end *end, const char *data, size_t len,
                  uint64_t *written);
void secure_end(struct secure *secure);

/* Contexts of all actors of a world. */
void secure_world_start(void);
void secure_world_end(void);

#endif
