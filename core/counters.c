/* Summing and reading statistics; the adding itself is inline in counters.h. */
#include "core/counters.h"

#define US(n) (UINT64_C(n) * 1000)
#define MS(n) (UINT64_C(n) * 1000000)

const uint64_t counter_bounds_ns[HISTOGRAM_BOUNDS] = {
    US(100),   US(250),   US(500),   MS(1),     US(2500),  MS(5),      MS(10),     MS(25),
    MS(50),    MS(100),   MS(250),   MS(500),   MS(1000),  MS(2500),   MS(5000),   MS(10000),
    MS(25000), MS(50000), MS(100000), MS(250000), MS(500000), MS(600000),
};

void
counter_reply(struct counters *counters, unsigned code)
{
    uint64_t *const by_class[] = { &counters->replies_2xx, &counters->replies_3xx,
                                  &counters->replies_4xx, &counters->replies_5xx};

    ASSERT(code >= 200 && code <= 599);
    counter_increment(by_class[code / 100 - 2]);
}

void
histogram_observe(struct histogram *histogram, uint64_t nanoseconds)
{
    size_t low = 0, high = HISTOGRAM_BOUNDS;

    /* The first bound that is not below the value: Prometheus' "le" includes the bound itself. */
    while (low < high) {
        size_t middle = (low + high) / 2;

        if (counter_bounds_ns[middle] < nanoseconds)
            low = middle + 1;
        else
            high = middle;
    }
    counter_increment(&histogram->buckets[low]);
    counter_add(&histogram->sum_ns, nanoseconds);
}

static void
sum_add(uint64_t *sum, const uint64_t *value)
{
    *sum += counter_get(value);
}

static void
sum_maximum(uint64_t *sum, const uint64_t *value)
{
    uint64_t v = counter_get(value);

    *sum = v > *sum ? v : *sum;
}

static void
sum_histogram(struct histogram *sum, const struct histogram *value)
{
    for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++)
        sum_add(&sum->buckets[i], &value->buckets[i]);
    sum_add(&sum->sum_ns, &value->sum_ns);
}

void
counters_sum(struct counters *sum, const struct counters *worker)
{
#define COUNTER(field, name, labels, help) sum_add(&sum->field, &worker->field);
#define GAUGE COUNTER
#define WORKER_GAUGE COUNTER
#define WORKER_SECONDS COUNTER
#define MAXIMUM(field, name, labels, help) sum_maximum(&sum->field, &worker->field);
#define HISTOGRAM(field, name, labels, help) sum_histogram(&sum->field, &worker->field);
#include "core/counters.def"
}

uint64_t
histogram_count(const struct histogram *histogram)
{
    uint64_t count = 0;

    for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++)
        count += counter_get(&histogram->buckets[i]);
    return count;
}

uint64_t
histogram_quantile_ns(const struct histogram *histogram, unsigned permille)
{
    double count = (double)histogram_count(histogram);
    double rank = count * permille / 1000.0;
    double below = 0;

    ASSERT(permille <= 1000);
    if (count <= 0)
        return 0;
    for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
        double here = (double)counter_get(&histogram->buckets[i]);
        double floor_ns = i > 0 ? (double)counter_bounds_ns[i - 1] : 0;

        if (here > 0 && below + here >= rank)
            return (uint64_t)(floor_ns +
                              ((double)counter_bounds_ns[i] - floor_ns) * (rank - below) / here);
        below += here;
    }
    return counter_bounds_ns[HISTOGRAM_BOUNDS - 1];
}
