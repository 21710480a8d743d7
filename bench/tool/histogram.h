/* histogram: how often each duration was seen, in buckets that grow with the value.
 * Does:    log-linear: exact below 256 ns, above that 128 buckets for each power of two, so that a
 *          value read back is at most 1/256 away from one that was put in.
 * Owns:    its counts.
 * Memory:  fixed, about 38 KiB; none allocated.
 * Threads: one writer; histogram_merge() of others' into one's own after they have stopped, or
 *          for a display that may be behind by a few.
 */
#ifndef RINGPOST_BENCH_HISTOGRAM_H
#define RINGPOST_BENCH_HISTOGRAM_H

#include "core/span.h"

#define HISTOGRAM_HALF 128 /* buckets for each power of two */
/* Up to 2^43 ns, 2.4 hours; what is longer is counted as that long. */
#define HISTOGRAM_POWERS 36
#define HISTOGRAM_BUCKETS (HISTOGRAM_HALF * (HISTOGRAM_POWERS + 1))

struct histogram {
    uint64_t counts[HISTOGRAM_BUCKETS];
    uint64_t count, sum_ns, least_ns, most_ns;
};

void histogram_add(struct histogram *histogram, uint64_t ns);
/* Adds all that `from` has. */
void histogram_merge(struct histogram *histogram, const struct histogram *from);
/* What all but one in so many are below: part 0.99 for p99. 0: it is empty. Never more than the
 * largest value that was added. */
uint64_t histogram_at(const struct histogram *histogram, double part);
uint64_t histogram_mean_ns(const struct histogram *histogram);

#endif
