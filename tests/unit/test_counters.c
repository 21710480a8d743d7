/* Counters: sums, histograms, and the rules that every row of counters.def and docs/METRICS.md
 * keep. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/counters.h"

#define NS_PER_SECOND UINT64_C(1000000000)

static const struct row {
    const char *type, *field, *name, *labels, *help;
    const char *added; /* the label that the renderer adds */
} rows[] = {
#define COUNTER(f, n, l, h) { "counter", #f, n, l, h, "" },
#define GAUGE(f, n, l, h) { "gauge", #f, n, l, h, "" },
#define MAXIMUM(f, n, l, h) { "gauge", #f, n, l, h, "" },
#define HISTOGRAM(f, n, l, h) { "histogram", #f, n, l, h, "" },
#define WORKER_GAUGE(f, n, l, h) { "gauge", #f, n, l, h, "worker=\"0\"" },
#define WORKER_SECONDS(f, n, l, h) { "counter", #f, n, l, h, "worker=\"0\"" },
#define HOP_COUNTER(f, n, l, h) { "counter", #f, n, l, h, "next_hop=\"NAME\"" },
#define HOP_GAUGE(f, n, l, h) { "gauge", #f, n, l, h, "next_hop=\"NAME\"" },
#define PROCESS_COUNTER(f, n, l, h) { "counter", #f, n, l, h, "" },
#define PROCESS_GAUGE(f, n, l, h) { "gauge", #f, n, l, h, "" },
#define PROCESS_SECONDS(f, n, l, h) { "gauge", #f, n, l, h, "" },
#include "core/counters.def"
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static bool
ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* The rules at the head of counters.def. */
Test(counters, rows_follow_the_rules)
{
    for (size_t i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        bool first = i == 0 || strcmp(row->name, rows[i - 1].name) != 0;

        cr_assert_eq(strncmp(row->name, "ringpost_", 9), 0, "%s", row->name);
        cr_assert_eq(strspn(row->name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(row->name),
                     "%s", row->name);
        cr_assert_eq(ends_with(row->name, "_total"), strcmp(row->type, "counter") == 0, "%s",
                     row->name);
        cr_assert(strcmp(row->type, "histogram") != 0 || ends_with(row->name, "_seconds"), "%s",
                  row->name);
        cr_assert_eq(row->help[0] != '\0', first, "%s %s: help in the first row alone", row->name,
                     row->field);
        cr_assert(strpbrk(row->help, "\n\\") == NULL, "%s", row->name);
        cr_assert(first || strcmp(row->type, rows[i - 1].type) == 0, "%s", row->field);
        for (size_t j = 0; j < i; j++) {
            bool same_name = strcmp(row->name, rows[j].name) == 0;

            cr_assert(!same_name || !first, "%s: rows of a name are neighbours", row->name);
            cr_assert(!same_name || strcmp(row->labels, rows[j].labels) != 0, "%s{%s} twice",
                      row->name, row->labels);
        }
    }
}

static char *
file_read(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text;
    long len;

    cr_assert(file != NULL, "%s: run the tests from the repository's root", path);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    len = ftell(file);
    rewind(file);
    text = calloc(1, (size_t)len + 1);
    cr_assert(text != NULL);
    cr_assert_eq(fread(text, 1, (size_t)len, file), (size_t)len);
    fclose(file);
    return text;
}

/* The line of a metric's table row: every label value, in the order of the rows, and the help
 * text. */
static void
document_row(size_t first, char *out, size_t size)
{
    struct outbuf row = { .data = out, .size = size - 1 };
    bool any = rows[first].added[0] != '\0';

    outbuf_add(&row, SPAN("| `"));
    outbuf_add(&row, span_text(rows[first].name));
    outbuf_add(&row, SPAN("` | "));
    outbuf_add(&row, span_text(rows[first].type));
    outbuf_add(&row, SPAN(" | "));
    if (any) {
        outbuf_add(&row, SPAN("`"));
        outbuf_add(&row, span_text(rows[first].added));
        outbuf_add(&row, rows[first].added[0] == 'w' ? SPAN("`, ...") : SPAN("`"));
    }
    for (size_t i = first; i < ROWS && strcmp(rows[i].name, rows[first].name) == 0; i++) {
        if (rows[i].labels[0] == '\0')
            continue;
        outbuf_add(&row, any ? SPAN(", `") : SPAN("`"));
        outbuf_add(&row, span_text(rows[i].labels));
        outbuf_add(&row, SPAN("`"));
        any = true;
    }
    outbuf_add(&row, SPAN(" | "));
    outbuf_add(&row, span_text(rows[first].help));
    outbuf_add(&row, SPAN(" |\n"));
    out[row.len] = '\0';
}

Test(counters, documentation_is_complete)
{
    char *text = file_read("docs/METRICS.md");
    size_t documented = 0, defined = 2; /* build and certificate metrics have no row */
    char want[2048];

    for (size_t i = 0; i < ROWS; i++) {
        if (i > 0 && strcmp(rows[i].name, rows[i - 1].name) == 0)
            continue;
        defined++;
        document_row(i, want, sizeof(want));
        cr_assert(strstr(text, want) != NULL, "docs/METRICS.md lacks the line:\n%s", want);
    }
    for (const char *at = text; (at = strstr(at, "\n| `ringpost_")) != NULL; at++)
        documented++;
    cr_assert_eq(documented, defined, "docs/METRICS.md has %zu metrics, counters.def %zu",
                 documented, defined);
    free(text);
}

Test(counters, counting)
{
    static struct counters counters;
    static const struct {
        unsigned code;
        uint64_t *counter;
    } codes[] = {
        { 200, &counters.replies_2xx }, { 250, &counters.replies_2xx },
        { 354, &counters.replies_3xx }, { 421, &counters.replies_4xx },
        { 499, &counters.replies_4xx }, { 500, &counters.replies_5xx },
        { 599, &counters.replies_5xx },
    };

    cr_assert_eq(sizeof(counters) % 128, 0);
    cr_assert_eq(_Alignof(struct hop_counters), 128);
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        uint64_t before = counter_get(codes[i].counter);

        counter_reply(&counters, codes[i].code);
        cr_assert_eq(counter_get(codes[i].counter), before + 1, "%u", codes[i].code);
    }
    gauge_add(&counters.buffers_in_use, 3);
    gauge_subtract(&counters.buffers_in_use, 2);
    cr_assert_eq(counter_get(&counters.buffers_in_use), 1);
    counter_raise(&counters.buffers_high_water, 7);
    counter_raise(&counters.buffers_high_water, 5);
    cr_assert_eq(counter_get(&counters.buffers_high_water), 7);
}

Test(counters, sums)
{
    static struct counters sum, one, two;

    one.messages_accepted = 2;
    two.messages_accepted = 3;
    one.sessions_current = 1;
    two.sessions_current = 4;
    one.cpu_ns = 5;
    one.buffers_high_water = 9;
    two.buffers_high_water = 8;
    histogram_observe(&one.message_total, 1);
    histogram_observe(&two.message_total, 600 * NS_PER_SECOND + 1);
    counters_sum(&sum, &one);
    counters_sum(&sum, &two);
    cr_assert_eq(sum.messages_accepted, 5);
    cr_assert_eq(sum.sessions_current, 5);
    cr_assert_eq(sum.cpu_ns, 5);
    cr_assert_eq(sum.buffers_high_water, 9);
    cr_assert_eq(histogram_count(&sum.message_total), 2);
    cr_assert_eq(sum.message_total.sum_ns, 600 * NS_PER_SECOND + 2);
}

Test(counters, histogram_buckets)
{
    for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
        uint64_t bound = counter_bounds_ns[i];
        struct histogram histogram = { 0 };

        cr_assert(i == 0 || bound > counter_bounds_ns[i - 1]);
        histogram_observe(&histogram, bound); /* "le": the bound belongs to its bucket */
        histogram_observe(&histogram, bound + 1);
        histogram_observe(&histogram, bound - 1);
        cr_assert_eq(histogram.buckets[i], 2, "bound %zu", i);
        cr_assert_eq(histogram.buckets[i + 1], 1, "bound %zu", i);
        cr_assert_eq(histogram.sum_ns, 3 * bound);
    }
    cr_assert_eq(counter_bounds_ns[0], 100000);
    cr_assert_eq(counter_bounds_ns[HISTOGRAM_BOUNDS - 1], 600 * NS_PER_SECOND);
}

Test(counters, histogram_quantiles)
{
    static const struct {
        const char *name;
        uint64_t observations[4]; /* nanoseconds, 0: none */
        unsigned times, permille;
        uint64_t want_ns;
    } quantiles[] = {
        { "none", { 0 }, 1, 500, 0 },
        { "half of the first bucket", { 1 }, 10, 500, 50000 },
        { "all of the first bucket", { 1 }, 10, 1000, 100000 },
        { "inside a bucket", { 2000000 }, 100, 500, 1750000 },
        { "second of two buckets", { 2000000, 7000000 }, 50, 750, 7500000 },
        { "up to the end of the first", { 2000000, 7000000 }, 50, 500, 2500000 },
        { "above all bounds", { 700 * NS_PER_SECOND }, 5, 990, 600 * NS_PER_SECOND },
        { "99 of 100", { 1000, 1000, 1000, 900 * NS_PER_SECOND }, 1, 990, 600 * NS_PER_SECOND },
        { "lowest", { 2000000 }, 4, 0, 1000000 },
    };

    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        struct histogram histogram = { 0 };
        uint64_t got;

        for (unsigned times = 0; times < quantiles[i].times; times++)
            for (size_t j = 0; j < 4; j++)
                if (quantiles[i].observations[j] > 0)
                    histogram_observe(&histogram, quantiles[i].observations[j]);
        got = histogram_quantile_ns(&histogram, quantiles[i].permille);
        cr_assert_eq(got, quantiles[i].want_ns, "%s: %llu", quantiles[i].name,
                     (unsigned long long)got);
    }
}
