/* sim_random: the seeded choices of the simulator; each user has a stream of its own, so that one
 * draw more in one place does not change all others.
 * Does:    splitmix64 and a few shapes of it.
 * Owns:    its state, in the caller's struct.
 * Memory:  none allocated.
 */
#ifndef RINGPOST_TESTS_SIM_RANDOM_H
#define RINGPOST_TESTS_SIM_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

struct sim_random {
    uint64_t state;
};

static inline uint64_t
sim_mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* stream: who draws. */
static inline struct sim_random
sim_random_of(uint64_t seed, uint64_t stream)
{
    return (struct sim_random){ .state = sim_mix(seed) ^ sim_mix(stream + 1) };
}

static inline uint64_t
sim_next(struct sim_random *random)
{
    return sim_mix(random->state += UINT64_C(0x9e3779b97f4a7c15));
}

/* Below `limit`, which is not 0. */
static inline uint64_t
sim_below(struct sim_random *random, uint64_t limit)
{
    return sim_next(random) % limit;
}

/* From `first` to `last`, both possible. */
static inline uint64_t
sim_between(struct sim_random *random, uint64_t first, uint64_t last)
{
    return first + sim_below(random, last - first + 1);
}

/* With this chance in 10000. */
static inline bool
sim_chance(struct sim_random *random, uint32_t of_10000)
{
    return of_10000 > 0 && sim_below(random, 10000) < of_10000;
}

#endif
