/* net_scenarios: what sim-net runs.
 * Does:    names each scenario and says whether faults make it worth more seeds.
 * Owns:    nothing.
 */
#ifndef RINGPOST_TESTS_SIM_NET_SCENARIOS_H
#define RINGPOST_TESTS_SIM_NET_SCENARIOS_H

#include "tests/sim/net_world.h"

struct scenario {
    const char *name;
    void (*run)(struct net_world *world);
    bool faulty;
};
extern const struct scenario scenarios[]; /* ends with a NULL name */

/* --- net_io.c: core/io.h alone, without a relay --- */

void io_streams(struct net_world *world);
void io_order(struct net_world *world);
void io_windows(struct net_world *world);
void io_cancels(struct net_world *world);
void io_stops(struct net_world *world);
void io_once(struct net_world *world);
void io_no_buffers(struct net_world *world);
void io_ends(struct net_world *world);
void io_resets(struct net_world *world);
void io_connects(struct net_world *world);
void io_accepts(struct net_world *world);
void io_last_word(struct net_world *world);
void io_posts(struct net_world *world);
void io_mistakes(struct net_world *world);

#endif
