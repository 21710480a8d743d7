/* sim_relay: a relay whose machine has lost its power.
 * Does:    lets go of what its life had from malloc(): all else was io_memory(), and is gone.
 * Owns:    nothing.
 * Memory:  none.
 */
#ifndef RINGPOST_TESTS_SIM_RELAY_H
#define RINGPOST_TESTS_SIM_RELAY_H

struct relay;

/* After the longjmp() of sim_power_fails_after(), before sim_power_lost(). The next life begins
 * with relay_create() on the same struct. TLS objects stay until sim_tls_end(). */
void sim_relay_lost(struct relay *relay);

#endif
