/* counters: statistics, each named once in counters.def; one struct per worker, its only writer.
 * Does:    adds with a relaxed load and store (no locked instruction), so that any other thread may
 *          read at any time.
 * Owns:    nothing; whoever runs the workers owns the structs, zeroed and aligned.
 * Memory:  none allocated.
 * Threads: one writer per struct; a reader sees each value whole, but not all of the same instant.
 */
#ifndef RINGPOST_CORE_COUNTERS_H
#define RINGPOST_CORE_COUNTERS_H

#include "core/limits.h"
#include "core/span.h"

/* Two lines: the adjacent-line prefetcher makes neighbours share in pairs. */
#define COUNTERS_ALIGNED __attribute__((aligned(128)))

/* 100 us to 600 s in steps of 1, 2.5, 5. */
#define HISTOGRAM_BOUNDS 22

struct histogram {
    uint64_t buckets[HISTOGRAM_BOUNDS + 1]; /* not cumulative; the last one is above every bound */
    uint64_t sum_ns;
};

extern const uint64_t counter_bounds_ns[HISTOGRAM_BOUNDS];

struct counters { /* one per worker */
#define COUNTER(field, name, labels, help) uint64_t field;
#define GAUGE(field, name, labels, help) uint64_t field;
#define MAXIMUM(field, name, labels, help) uint64_t field;
#define WORKER_GAUGE(field, name, labels, help) uint64_t field;
#define WORKER_SECONDS(field, name, labels, help) uint64_t field;
#define HISTOGRAM(field, name, labels, help) struct histogram field;
#include "core/counters.def"
} COUNTERS_ALIGNED;

struct hop_counters { /* one per worker and configured next hop */
#define HOP_COUNTER(field, name, labels, help) uint64_t field;
#define HOP_GAUGE(field, name, labels, help) uint64_t field;
#include "core/counters.def"
} COUNTERS_ALIGNED;

struct process_values { /* one; the statistics thread fills it before it renders */
#define PROCESS_COUNTER(field, name, labels, help) uint64_t field;
#define PROCESS_GAUGE(field, name, labels, help) uint64_t field;
#define PROCESS_SECONDS(field, name, labels, help) uint64_t field;
#include "core/counters.def"
};

/* --- the writer --- */

static inline uint64_t
counter_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static inline void
counter_set(uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

static inline void
counter_add(uint64_t *counter, uint64_t n)
{
    counter_set(counter, counter_get(counter) + n);
}

static inline void
counter_increment(uint64_t *counter)
{
    counter_add(counter, 1);
}

static inline void
gauge_add(uint64_t *gauge, uint64_t n)
{
    counter_add(gauge, n);
}

/* A gauge below zero is a pairing bug of ours. */
static inline void
gauge_subtract(uint64_t *gauge, uint64_t n)
{
    uint64_t now = counter_get(gauge);

    ASSERT(now >= n);
    counter_set(gauge, now - n);
}

static inline void
counter_raise(uint64_t *maximum, uint64_t value)
{
    if (value > counter_get(maximum))
        counter_set(maximum, value);
}

/* Counts a reply to a client by its first digit; a code outside 2xx..5xx is our bug. */
void counter_reply(struct counters *counters, unsigned code);

void histogram_observe(struct histogram *histogram, uint64_t nanoseconds);

/* --- the reader --- */

/* sum += what `worker` holds: everything is added, but MAXIMUM rows keep the larger value. */
void counters_sum(struct counters *sum, const struct counters *worker);

uint64_t histogram_count(const struct histogram *histogram);
/* The duration below which `permille` of 1000 observations lie, interpolated inside the bucket; the
 * last bound for what lies above it; 0 without observations. */
uint64_t histogram_quantile_ns(const struct histogram *histogram, unsigned permille);

#endif
