/* sim_tls: tls/tls.h without cryptography, for the simulator; linked in place of tls/.
 * Does:    records as TLS has them (header, type, length, a sum over content, order and length), so
 *          that octets that are lost, doubled or in the wrong order are bad records; a handshake
 *          of three flights of drawn sizes; tickets; close_notify. Octets of text are never seen in
 *          a record as they are. Relay and actors use the same functions.
 * Owns:    all connections and contexts until sim_tls_end(), also those that a power cut left.
 * Memory:  malloc(); sim_tls_end() frees all of it.
 * Threads: one.
 */
#ifndef RINGPOST_TESTS_SIM_TLS_H
#define RINGPOST_TESTS_SIM_TLS_H

#include "tls/tls.h"

struct sim_tls_faults {  /* chances in 10000 */
    uint32_t handshake;  /* of a side in a handshake: it does not like the other one, and says so */
    uint32_t record;     /* of a record that is written: one of its bits is flipped on the way */
    uint32_t unverified; /* of a client's handshake: the certificate is not good */
    uint32_t memory;     /* of a creation: there is none */
};

/* What is drawn follows from the seed and the order of calls. */
void sim_tls_start(uint64_t seed);
void sim_tls_faults_set(const struct sim_tls_faults *faults); /* NULL: none */
void sim_tls_end(void);
/* Connections that exist. */
uint32_t sim_tls_count(void);
/* A record that this side has written was spoiled: nothing from that one on can be read. */
bool sim_tls_spoiled(const struct tls *tls);

#endif
