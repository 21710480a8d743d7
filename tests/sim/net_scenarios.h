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

#endif
