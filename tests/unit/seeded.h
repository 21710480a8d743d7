/* seeded: repeatable random numbers for property tests.
 * Does:    splitmix64; the seed stands in the test, so a failure comes again.
 * Owns:    its state, in the caller's struct.
 * Memory:  none allocated.
 */
#ifndef RINGPOST_TESTS_UNIT_SEEDED_H
#define RINGPOST_TESTS_UNIT_SEEDED_H

#include <stdint.h>

struct seeded {
    uint64_t state;
};

static inline uint64_t
seeded_next(struct seeded *seeded)
{
    uint64_t z = seeded->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Below `limit`, which is not 0. */
static inline uint64_t
seeded_below(struct seeded *seeded, uint64_t limit)
{
    return seeded_next(seeded) % limit;
}

/* Below 2^bits_max, each length in bits as likely as the next: small and huge in one draw. */
static inline uint64_t
seeded_scale(struct seeded *seeded, unsigned bits_max)
{
    return seeded_next(seeded) >> (63 - seeded_below(seeded, bits_max));
}

#endif
