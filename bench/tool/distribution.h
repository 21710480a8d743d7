/* distribution: numbers drawn by chance: message sizes, times between arrivals, delays.
 * Does:    reads "4k", "4k-64k" (each as likely), "4k:7,64k:2,1m-2m:1" (weights),
 *          "lognormal:MEDIAN:SIGMA", "exponential:MEAN"; draws from a seeded generator.
 * Owns:    its fields.
 * Memory:  none allocated.
 * Threads: a distribution is not changed by drawing; the generator is its caller's.
 * Errors:  a wrong text is a result.
 */
#ifndef RINGPOST_BENCH_DISTRIBUTION_H
#define RINGPOST_BENCH_DISTRIBUTION_H

#include "core/span.h"

#define DISTRIBUTION_PARTS_MAX 16

enum distribution_shape { SHAPE_UNIFORM, SHAPE_LOGNORMAL, SHAPE_EXPONENTIAL };
enum distribution_unit { UNIT_BYTES, UNIT_NANOSECONDS };

struct distribution_part {
    enum distribution_shape shape;
    uint64_t least, most; /* UNIFORM: both included; else bounds */
    double median, sigma; /* LOGNORMAL; EXPONENTIAL: the mean is in median */
    double until;         /* sum of the weights up to and with this part, of 1 */
};

struct distribution {
    struct distribution_part parts[DISTRIBUTION_PARTS_MAX];
    uint32_t count; /* 0: not given */
};

/* NULL, or a fixed text that says what is wrong. most: nothing above that is drawn. */
MUST_USE const char *distribution_parse(const char *text, enum distribution_unit unit,
                                        uint64_t most, struct distribution *out);
uint64_t distribution_draw(const struct distribution *distribution, uint64_t *random);
/* The largest value that can come. */
uint64_t distribution_most(const struct distribution *distribution);

/* "250us", "10ms", "1.5s", "2min", "1h": nanoseconds. */
MUST_USE const char *nanoseconds_parse(struct span text, uint64_t *ns);

/* The next number of a generator whose state is *random: any value will do. */
uint64_t random_next(uint64_t *random);
/* In [0, 1). */
double random_part(uint64_t *random);
/* Exponentially distributed with this mean: times between arrivals of many strangers. */
double random_exponential(uint64_t *random, double mean);

#endif
