/* relay: what the workers of a process share, put together from a configuration.
 * Does:    TLS contexts, listeners, next hops' addresses, the spool's directory. No threads, no
 *          signals, no name resolution: those are process.c's, and the simulator has none.
 * Owns:    all that struct relay (relay/worker.h) points to, but the configuration.
 * Memory:  io_memory() and the TLS library's; given back by relay_destroy().
 * Threads: created and destroyed by one, before the workers start and after they have ended.
 * Errors:  false and a text for the user.
 */
#ifndef RINGPOST_RELAY_RELAY_H
#define RINGPOST_RELAY_RELAY_H

#include "relay/worker.h"

#define RELAY_ERROR_BYTES 1024

/* Everything that touches neither the spool nor a port. key: of the hash of client addresses.
 * Servers that have a name instead of an address are left with family 0. Also after a failure:
 * relay_destroy(). */
MUST_USE bool relay_create(struct relay *relay, const struct config *config, uint32_t workers,
                           const uint64_t key[2], char error[RELAY_ERROR_BYTES]);
/* Takes the spool, if the configuration stores anything. */
MUST_USE bool relay_spool_open(struct relay *relay, char error[RELAY_ERROR_BYTES]);
/* Every worker's listening sockets; then worker_start() for each. */
MUST_USE bool relay_listen(struct relay *relay, char error[RELAY_ERROR_BYTES]);
/* What to tell of an address that cannot be listened on. */
void relay_listen_error(const struct config_address *address, int code,
                        char error[RELAY_ERROR_BYTES]);
/* The workers do not run any more: stops them and lets go of everything. */
void relay_destroy(struct relay *relay);

/* All contexts, or NULL and a message that says which file is at fault. */
struct relay_tls *relay_tls_load(const struct config *config, struct tls_error *error);
void relay_tls_release(struct relay_tls *tls, const struct config *config); /* NULL is fine */

#endif
