/* Latency histograms: percentiles over millions of values without keeping them. */
#include "bench/tool/histogram.h"

#define EXACT (2 * HISTOGRAM_HALF)
#define VALUE_MAX ((UINT64_C(1) << 43) - 1)

static size_t
bucket_of(uint64_t value)
{
    unsigned shift;

    if (value < EXACT)
        return value;
    if (value > VALUE_MAX)
        value = VALUE_MAX;
    shift = 63 - (unsigned)__builtin_clzll(value) - 7;
    return (size_t)shift * HISTOGRAM_HALF + (value >> shift);
}

/* The middle of what a bucket holds. */
static uint64_t
bucket_value(size_t bucket)
{
    unsigned shift;

    if (bucket < EXACT)
        return bucket;
    shift = (unsigned)(bucket / HISTOGRAM_HALF) - 1;
    return (((uint64_t)(bucket % HISTOGRAM_HALF) + HISTOGRAM_HALF) << shift) +
           (UINT64_C(1) << shift) / 2;
}

void
histogram_add(struct histogram *histogram, uint64_t ns)
{
    histogram->counts[bucket_of(ns)]++;
    if (histogram->count == 0 || ns < histogram->least_ns)
        histogram->least_ns = ns;
    if (ns > histogram->most_ns)
        histogram->most_ns = ns;
    histogram->count++;
    histogram->sum_ns += ns;
}

void
histogram_merge(struct histogram *histogram, const struct histogram *from)
{
    if (from->count == 0)
        return;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        histogram->counts[i] += from->counts[i];
    if (histogram->count == 0 || from->least_ns < histogram->least_ns)
        histogram->least_ns = from->least_ns;
    if (from->most_ns > histogram->most_ns)
        histogram->most_ns = from->most_ns;
    histogram->count += from->count;
    histogram->sum_ns += from->sum_ns;
}

uint64_t
histogram_at(const struct histogram *histogram, double part)
{
    uint64_t seen = 0, wanted = (uint64_t)(part * (double)histogram->count);

    if (histogram->count == 0)
        return 0;
    if ((double)wanted < part * (double)histogram->count)
        wanted++;
    if (wanted == 0)
        wanted = 1;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->counts[i];
        if (seen >= wanted) {
            uint64_t value = bucket_value(i);

            return value > histogram->most_ns    ? histogram->most_ns
                   : value < histogram->least_ns ? histogram->least_ns
                                                 : value;
        }
    }
    return histogram->most_ns;
}

uint64_t
histogram_mean_ns(const struct histogram *histogram)
{
    return histogram->count == 0 ? 0 : histogram->sum_ns / histogram->count;
}
