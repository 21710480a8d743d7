/* Sizes and times as distributions: real mail is not all of one size, nor does it come in step. */
#include "bench/tool/distribution.h"

#include <math.h>
#include <stdlib.h>

#include "core/config_value.h"

#define NUMBER_TEXT_MAX 32
/* Sizes without an end of their own go up to this: what most servers take. */
#define SIZE_TAIL_MAX (UINT64_C(32) << 20)

uint64_t
random_next(uint64_t *random)
{
    uint64_t z = *random += UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

double
random_part(uint64_t *random)
{
    return (double)(random_next(random) >> 11) * 0x1p-53;
}

double
random_exponential(uint64_t *random, double mean)
{
    return -mean * log1p(-random_part(random));
}

/* Box and Muller's, one of the two. */
static double
random_normal(uint64_t *random)
{
    double radius = sqrt(-2 * log1p(-random_part(random)));

    return radius * cos(2 * 3.14159265358979323846 * random_part(random));
}

/* --- reading --- */

static bool
decimal_take(struct span text, double *number, struct span *rest)
{
    char copy[NUMBER_TEXT_MAX];
    char *end;

    if (text.len == 0 || text.len >= sizeof(copy) || !char_is_digit(text.data[0]))
        return false;
    memcpy(copy, text.data, text.len);
    copy[text.len] = '\0';
    *number = strtod(copy, &end);
    *rest = span_after(text, (size_t)(end - copy));
    return true;
}

const char *
nanoseconds_parse(struct span text, uint64_t *ns)
{
    static const struct {
        struct span name;
        double ns;
    } units[] = { { SPAN("ns"), 1 },     { SPAN("us"), 1e3 },   { SPAN("ms"), 1e6 },
                  { SPAN("s"), 1e9 },    { SPAN("min"), 60e9 }, { SPAN("m"), 60e9 },
                  { SPAN("h"), 3600e9 }, { SPAN("d"), 86400e9 } };
    struct span unit;
    double number;

    if (!decimal_take(text, &number, &unit))
        return "is no time, expected one such as 250us, 10ms, 5s or 2min";
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (!span_equal_ignore_case(unit, units[i].name))
            continue;
        if (number * units[i].ns > 365 * 86400e9)
            return "is longer than a year";
        *ns = (uint64_t)(number * units[i].ns + 0.5);
        return NULL;
    }
    if (unit.len == 0 && !(number > 0)) {
        *ns = 0;
        return NULL;
    }
    return "has no unit, expected ns, us, ms, s, min, h or d";
}

static const char *
value_parse(struct span text, enum distribution_unit unit, uint64_t *value)
{
    if (unit == UNIT_NANOSECONDS)
        return nanoseconds_parse(text, value);
    /* "4k" as well as "4kb". */
    if (text.len > 1 && strchr("kKmMgG", text.data[text.len - 1]) != NULL) {
        char copy[NUMBER_TEXT_MAX];

        if (text.len + 2 > sizeof(copy))
            return "is no size";
        memcpy(copy, text.data, text.len);
        copy[text.len] = 'b';
        return config_size_parse(span_of(copy, text.len + 1), value);
    }
    return config_size_parse(text, value);
}

/* What is before the first `c`, and in *rest what is behind it; all of it if there is none. */
static struct span
until(struct span text, char c, struct span *rest)
{
    const char *at = text.len > 0 ? memchr(text.data, c, text.len) : NULL;

    *rest = at != NULL ? span_after(text, (size_t)(at - text.data) + 1) : SPAN("");
    return at != NULL ? span_first(text, (size_t)(at - text.data)) : text;
}

/* "lognormal:16k:1.2" with a weight behind it or not. */
static const char *
shape_parse(struct span text, enum distribution_unit unit, struct distribution_part *part,
            struct span *weight)
{
    struct span name = until(text, ':', weight), value, left;
    uint64_t median;
    const char *why;

    part->shape =
        span_equal_ignore_case(name, SPAN("lognormal")) ? SHAPE_LOGNORMAL : SHAPE_EXPONENTIAL;
    value = until(*weight, ':', weight);
    why = value_parse(value, unit, &median);
    if (why != NULL)
        return why;
    if (median == 0)
        return "is zero, which no such distribution has";
    part->median = (double)median;
    part->least = 0;
    if (unit == UNIT_BYTES && part->most > SIZE_TAIL_MAX)
        part->most = SIZE_TAIL_MAX;
    if (part->shape == SHAPE_EXPONENTIAL)
        return NULL;
    value = until(*weight, ':', weight);
    if (!decimal_take(value, &part->sigma, &left) || left.len > 0 || part->sigma > 10)
        return "has no sigma from 0 to 10, expected lognormal:MEDIAN:SIGMA";
    return NULL;
}

static const char *
part_parse(struct span text, enum distribution_unit unit, struct distribution_part *part,
           double *share)
{
    struct span weight, range, high, left;
    const char *why;

    *share = 1;
    if (span_starts_ignore_case(text, SPAN("lognormal:")) ||
        span_starts_ignore_case(text, SPAN("exponential:"))) {
        why = shape_parse(text, unit, part, &weight);
    } else {
        range = until(until(text, ':', &weight), '-', &high);
        why = value_parse(range, unit, &part->least);
        part->most = part->least;
        if (why == NULL && high.len > 0)
            why = value_parse(high, unit, &part->most);
        if (why == NULL && part->most < part->least)
            why = "ends below its start";
    }
    if (why == NULL && weight.len > 0 &&
        (!decimal_take(weight, share, &left) || left.len > 0 || !(*share > 0)))
        why = "has a weight that is no positive number";
    return why;
}

const char *
distribution_parse(const char *text, enum distribution_unit unit, uint64_t most,
                   struct distribution *out)
{
    struct span rest = span_text(text);
    double sum = 0, share;

    *out = (struct distribution){ .count = 0 };
    do {
        struct distribution_part *part = &out->parts[out->count];
        struct span item = until(rest, ',', &rest);
        const char *why;

        if (out->count == DISTRIBUTION_PARTS_MAX)
            return "has more than 16 parts";
        *part = (struct distribution_part){ .most = most };
        why = part_parse(item, unit, part, &share);
        if (why != NULL)
            return why;
        if (part->most > most)
            return "is too large";
        sum += share;
        part->until = sum;
        out->count++;
    } while (rest.len > 0);
    for (uint32_t i = 0; i < out->count; i++)
        out->parts[i].until /= sum;
    return NULL;
}

/* --- drawing --- */

static uint64_t
part_draw(const struct distribution_part *part, uint64_t *random)
{
    double value;

    if (part->shape == SHAPE_UNIFORM) {
        uint64_t width = part->most - part->least + 1;

        return width <= 1 ? part->least : part->least + random_next(random) % width;
    }
    value = part->shape == SHAPE_LOGNORMAL ? part->median * exp(part->sigma * random_normal(random))
                                           : random_exponential(random, part->median);
    return value < (double)part->most ? (uint64_t)value : part->most;
}

uint64_t
distribution_draw(const struct distribution *distribution, uint64_t *random)
{
    uint32_t i = 0;

    ASSERT(distribution->count > 0);
    if (distribution->count > 1) {
        double at = random_part(random);

        while (i + 1 < distribution->count && at >= distribution->parts[i].until)
            i++;
    }
    return part_draw(&distribution->parts[i], random);
}

uint64_t
distribution_most(const struct distribution *distribution)
{
    uint64_t most = 0;

    for (uint32_t i = 0; i < distribution->count; i++)
        if (distribution->parts[i].most > most)
            most = distribution->parts[i].most;
    return most;
}
