/* What ringpost-bench counts with: histograms within their error, distributions within their bounds
 * and near their means, and texts that are none. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "bench/tool/distribution.h"
#include "bench/tool/histogram.h"
#include "bench/tool/load.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define DRAWS 20000

/* --- histogram --- */

static int
compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return left < right ? -1 : left > right;
}

Test(histogram, one_value_comes_back)
{
    static struct histogram histogram;

    for (uint64_t value = 0; value < UINT64_C(1) << 42; value = value * 21 / 20 + 1) {
        memset(&histogram, 0, sizeof(histogram));
        histogram_add(&histogram, value);
        cr_assert_eq(histogram_at(&histogram, 0.5), value, "%lu", value);
        cr_assert_eq(histogram_mean_ns(&histogram), value);
    }
}

/* Against the sorted values themselves, over nine powers of ten. */
Test(histogram, percentiles_are_within_one_percent)
{
    static struct histogram histogram;
    static uint64_t values[DRAWS];
    static const double parts[] = { 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 };
    uint64_t random = 7;

    for (size_t i = 0; i < DRAWS; i++) {
        values[i] = (uint64_t)pow(10, 9 * random_part(&random) + 1);
        histogram_add(&histogram, values[i]);
    }
    qsort(values, DRAWS, sizeof(values[0]), compare);
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        size_t index = (size_t)ceil(parts[i] * DRAWS);
        double want = (double)values[index > 0 ? index - 1 : 0];
        double got = (double)histogram_at(&histogram, parts[i]);

        cr_assert(fabs(got - want) <= 0.01 * want, "%g: %g, not %g", parts[i], got, want);
    }
    cr_assert_eq(histogram.most_ns, values[DRAWS - 1]);
    cr_assert_eq(histogram.least_ns, values[0]);
}

Test(histogram, merged_is_the_same_as_added)
{
    static struct histogram one, parts[3], empty;
    uint64_t random = 3;

    for (size_t i = 0; i < DRAWS; i++) {
        uint64_t value = random_next(&random) >> (i % 50 + 10);

        histogram_add(&one, value);
        histogram_add(&parts[i % 2], value);
    }
    histogram_merge(&parts[2], &empty);
    cr_assert_eq(histogram_at(&parts[2], 0.99), 0);
    histogram_merge(&parts[2], &parts[0]);
    histogram_merge(&parts[2], &parts[1]);
    histogram_merge(&parts[2], &empty);
    cr_assert_eq(memcmp(&one, &parts[2], sizeof(one)), 0);
}

Test(histogram, what_is_too_long_is_the_longest)
{
    static struct histogram histogram;

    histogram_add(&histogram, UINT64_MAX);
    histogram_add(&histogram, 5);
    cr_assert_eq(histogram.most_ns, UINT64_MAX);
    cr_assert_eq(histogram.counts[HISTOGRAM_BUCKETS - 1], 1);
    cr_assert_geq(histogram_at(&histogram, 0.99), UINT64_C(1) << 42);
    cr_assert_eq(histogram_at(&histogram, 0.1), 5);
}

/* --- distributions --- */

Test(distribution, bounds_and_means)
{
    static const struct {
        const char *text;
        enum distribution_unit unit;
        double least, most, mean;
    } rows[] = {
        { "4k", UNIT_BYTES, 4096, 4096, 4096 },
        { "4096", UNIT_BYTES, 4096, 4096, 4096 },
        { "4k-64k", UNIT_BYTES, 4096, 65536, 34816 },
        { "1k:3,3k:1", UNIT_BYTES, 1024, 3072, 1536 },
        { "1k-3k:1,10k:1", UNIT_BYTES, 1024, 10240, 6144 },
        { "exponential:1k", UNIT_BYTES, 0, 32 << 20, 1024 },
        { "lognormal:10k:0", UNIT_BYTES, 10240, 10240, 10240 },
        { "lognormal:10k:1:1", UNIT_BYTES, 0, 32 << 20, 10240 * 1.6487 },
        { "lognormal:1k:1:1,4k:0.0001", UNIT_BYTES, 0, 32 << 20, 1024 * 1.6487 },
        { "2ms", UNIT_NANOSECONDS, 2e6, 2e6, 2e6 },
        { "0", UNIT_NANOSECONDS, 0, 0, 0 },
        { "1us-3us", UNIT_NANOSECONDS, 1e3, 3e3, 2e3 },
        { "exponential:1.5s", UNIT_NANOSECONDS, 0, 1e13, 1.5e9 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct distribution distribution;
        uint64_t random = 1, most = rows[i].unit == UNIT_BYTES ? UINT64_C(1) << 28 : (uint64_t)1e13;
        const char *why = distribution_parse(rows[i].text, rows[i].unit, most, &distribution);
        double sum = 0;

        cr_assert_null(why, "%s: %s", rows[i].text, why);
        for (unsigned draw = 0; draw < DRAWS; draw++) {
            double value = (double)distribution_draw(&distribution, &random);

            cr_assert(value >= rows[i].least && value <= rows[i].most, "%s: %g", rows[i].text,
                      value);
            cr_assert(value <= (double)distribution_most(&distribution));
            sum += value;
        }
        cr_assert(fabs(sum / DRAWS - rows[i].mean) <= 0.05 * rows[i].mean, "%s: mean %g",
                  rows[i].text, sum / DRAWS);
    }
}

Test(distribution, wrong_texts)
{
    static const struct {
        const char *text;
        enum distribution_unit unit;
    } rows[] = {
        { "", UNIT_BYTES },
        { "k", UNIT_BYTES },
        { "4q", UNIT_BYTES },
        { "4k-", UNIT_NANOSECONDS },
        { "4k-2k", UNIT_BYTES },
        { "4k:", UNIT_NANOSECONDS },
        { "4k:0", UNIT_BYTES },
        { "4k:x", UNIT_BYTES },
        { "4k:-1", UNIT_BYTES },
        { "1tb", UNIT_BYTES },
        { "4k,,4k", UNIT_BYTES },
        { "lognormal:4k", UNIT_BYTES },
        { "lognormal:4k:11", UNIT_BYTES },
        { "lognormal:4k:x", UNIT_BYTES },
        { "exponential:0b", UNIT_BYTES },
        { "gauss:4k", UNIT_BYTES },
        { "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", UNIT_BYTES },
        { "5", UNIT_NANOSECONDS },
        { "5x", UNIT_NANOSECONDS },
        { "366d", UNIT_NANOSECONDS },
        { "99999999999999999999999999999999h", UNIT_NANOSECONDS },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct distribution distribution;

        cr_assert_not_null(
            distribution_parse(rows[i].text, rows[i].unit, UINT64_C(1) << 28, &distribution), "%s",
            rows[i].text);
    }
}

Test(distribution, the_same_seed_draws_the_same)
{
    uint64_t one = 5, two = 5, other = 6;
    unsigned different = 0;

    for (unsigned i = 0; i < 100; i++) {
        uint64_t value = random_next(&one);

        cr_assert_eq(value, random_next(&two));
        different += value != random_next(&other);
    }
    cr_assert_eq(different, 100);
}

/* --- source addresses --- */

Test(sources, networks)
{
    static const struct {
        const char *text;
        uint8_t family, last;
        uint64_t count;
    } rows[] = {
        { "127.0.0.0/8", 4, 1, (1 << 24) - 2 },
        { "192.0.2.0/24", 4, 1, 254 },
        { "192.0.2.7", 4, 7, 1 },
        { "192.0.2.6/31", 4, 6, 2 },
        { "2001:db8::/64", 6, 1, (UINT64_C(1) << 40) - 2 },
        { "::1", 6, 1, 1 },
    };
    struct load_sources sources;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_null(load_sources_parse(rows[i].text, &sources), "%s", rows[i].text);
        cr_assert_eq(sources.base.family, rows[i].family, "%s", rows[i].text);
        cr_assert_eq(sources.base.ip[rows[i].family == 4 ? 3 : 15], rows[i].last, "%s",
                     rows[i].text);
        cr_assert_eq(sources.count, rows[i].count, "%s", rows[i].text);
    }
    cr_assert_not_null(load_sources_parse("127.0.0.0/33", &sources));
    cr_assert_not_null(load_sources_parse("here", &sources));
}
