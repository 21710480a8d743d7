/* The two renderings of the counters. Both walk one table made from counters.def, so that
 * neither can forget a row. */
#include "relay/stats/stats.h"

#include "core/clock.h"
#include "core/utf8.h"

enum metric_kind {
    METRIC_COUNTER,
    METRIC_GAUGE, /* MAXIMUM rows too: summing them is counters_sum()'s business */
    METRIC_HISTOGRAM,
    METRIC_WORKER_GAUGE,
    METRIC_WORKER_SECONDS,
    METRIC_HOP_COUNTER,
    METRIC_HOP_GAUGE,
    METRIC_PROCESS_COUNTER,
    METRIC_PROCESS_GAUGE,
    METRIC_PROCESS_SECONDS
};

struct metric {
    enum metric_kind kind;
    size_t offset; /* in struct counters, hop_counters or process_values */
    const char *field, *name, *labels, *help;
};

static const struct metric metrics[] = {
#define ROW(kind, owner, field, name, labels, help) \
    { kind, offsetof(struct owner, field), #field, name, labels, help },
#define COUNTER(f, n, l, h) ROW(METRIC_COUNTER, counters, f, n, l, h)
#define GAUGE(f, n, l, h) ROW(METRIC_GAUGE, counters, f, n, l, h)
#define MAXIMUM(f, n, l, h) ROW(METRIC_GAUGE, counters, f, n, l, h)
#define HISTOGRAM(f, n, l, h) ROW(METRIC_HISTOGRAM, counters, f, n, l, h)
#define WORKER_GAUGE(f, n, l, h) ROW(METRIC_WORKER_GAUGE, counters, f, n, l, h)
#define WORKER_SECONDS(f, n, l, h) ROW(METRIC_WORKER_SECONDS, counters, f, n, l, h)
#define HOP_COUNTER(f, n, l, h) ROW(METRIC_HOP_COUNTER, hop_counters, f, n, l, h)
#define HOP_GAUGE(f, n, l, h) ROW(METRIC_HOP_GAUGE, hop_counters, f, n, l, h)
#define PROCESS_COUNTER(f, n, l, h) ROW(METRIC_PROCESS_COUNTER, process_values, f, n, l, h)
#define PROCESS_GAUGE(f, n, l, h) ROW(METRIC_PROCESS_GAUGE, process_values, f, n, l, h)
#define PROCESS_SECONDS(f, n, l, h) ROW(METRIC_PROCESS_SECONDS, process_values, f, n, l, h)
#include "core/counters.def"
#undef ROW
};

#define METRICS (sizeof(metrics) / sizeof(metrics[0]))

/* What one row can take, names and labels of counters.def included; stats_bytes_max() is made
 * of these, and a test renders the worst names against it. */
#define HEAD_BYTES_MAX 512 /* HELP and TYPE */
/* An escaped name is at most twice as long. */
#define SERIES_BYTES_MAX (256 + 2 * STATS_NAME_BYTES_MAX)

static uint32_t
certificates_shown(const struct stats_source *source)
{
    return source->certificate_count < STATS_CERTIFICATES_MAX ? source->certificate_count
                                                              : STATS_CERTIFICATES_MAX;
}

static bool
kind_is_hop(enum metric_kind kind)
{
    return kind == METRIC_HOP_COUNTER || kind == METRIC_HOP_GAUGE;
}

static bool
kind_is_worker(enum metric_kind kind)
{
    return kind == METRIC_WORKER_GAUGE || kind == METRIC_WORKER_SECONDS;
}

static size_t
series_of(const struct stats_source *source, enum metric_kind kind)
{
    if (kind_is_hop(kind))
        return source->hop_count;
    if (kind_is_worker(kind))
        return source->worker_count;
    return kind == METRIC_HISTOGRAM ? HISTOGRAM_BOUNDS + 3 : 1;
}

size_t
stats_bytes_max(const struct stats_source *source)
{
    size_t named = (size_t)source->hop_count + certificates_shown(source);
    /* Build information, certificates, the frame of the JSON. */
    size_t bytes = 4 * HEAD_BYTES_MAX + named * 2 * SERIES_BYTES_MAX;

    for (size_t i = 0; i < METRICS; i++)
        bytes += HEAD_BYTES_MAX + series_of(source, metrics[i].kind) * SERIES_BYTES_MAX;
    return bytes;
}

/* --- values --- */

static const uint64_t *
value_at(const void *base, size_t offset)
{
    return (const uint64_t *)(const void *)((const char *)base + offset);
}

static uint64_t
hop_value(const struct stats_source *source, size_t hop, size_t offset)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < source->worker_count; i++)
        sum += counter_get(value_at(&source->hop_counters[i][hop], offset));
    return sum;
}

static void
counters_total(const struct stats_source *source, struct counters *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (uint32_t i = 0; i < source->worker_count; i++)
        counters_sum(sum, source->workers[i]);
}

/* Seconds with all nine decimals, trailing zeros left out: 0.0025, 5, 600. */
static void
add_seconds(struct outbuf *out, uint64_t nanoseconds)
{
    uint64_t rest = nanoseconds % NS_PER_S;
    char digits[10] = ".";
    size_t len = sizeof(digits);

    outbuf_add_number(out, nanoseconds / NS_PER_S);
    for (size_t i = sizeof(digits) - 1; i > 0; i--) {
        digits[i] = (char)('0' + rest % 10);
        rest /= 10;
    }
    while (len > 1 && digits[len - 1] == '0')
        len--;
    if (len > 1)
        outbuf_add(out, span_of(digits, len));
}

static void
add_signed(struct outbuf *out, int64_t number)
{
    if (number < 0)
        outbuf_add_char(out, '-');
    outbuf_add_number(out, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}

/* --- names that come from the configuration --- */

static struct span
name_span(const char *name)
{
    size_t len = strlen(name);

    return span_of(name, len < STATS_NAME_BYTES_MAX ? len : STATS_NAME_BYTES_MAX);
}

/* The next character of a name: its bytes, or '?' for what is not UTF-8 or is a control
 * character. */
static struct span
name_character(struct span *name)
{
    size_t len = utf8_character_len(*name);
    struct span character = span_first(*name, len > 0 ? len : 1);

    span_advance(name, character.len);
    return len > 0 && utf8_printable(character) ? character : SPAN("?");
}

/* A label value: \, " and line feed are escaped; JSON needs the same where control characters
 * are gone. */
static void
add_name(struct outbuf *out, const char *text)
{
    struct span name = name_span(text);

    while (name.len > 0) {
        struct span character = name_character(&name);

        if (character.data[0] == '"' || character.data[0] == '\\')
            outbuf_add_char(out, '\\');
        outbuf_add(out, character);
    }
}

/* --- Prometheus text --- */

static const char *
type_of(enum metric_kind kind)
{
    switch (kind) {
    case METRIC_COUNTER:
    case METRIC_WORKER_SECONDS:
    case METRIC_HOP_COUNTER:
    case METRIC_PROCESS_COUNTER:
        return "counter";
    case METRIC_HISTOGRAM:
        return "histogram";
    case METRIC_GAUGE:
    case METRIC_WORKER_GAUGE:
    case METRIC_HOP_GAUGE:
    case METRIC_PROCESS_GAUGE:
    case METRIC_PROCESS_SECONDS:
        break;
    }
    return "gauge";
}

static void
add_head(struct outbuf *out, const char *name, const char *type, const char *help)
{
    outbuf_add(out, SPAN("# HELP "));
    outbuf_add(out, span_text(name));
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_text(help));
    outbuf_add(out, SPAN("\n# TYPE "));
    outbuf_add(out, span_text(name));
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_text(type));
    outbuf_add_char(out, '\n');
}

/* name[suffix]{labels,key="  leaves the value of the last label, and the closing brace, to the
 * caller. */
static void
add_series(struct outbuf *out, const struct metric *metric, const char *suffix, const char *key)
{
    outbuf_add(out, span_text(metric->name));
    outbuf_add(out, span_text(suffix));
    if (metric->labels[0] == '\0' && key == NULL)
        return;
    outbuf_add_char(out, '{');
    outbuf_add(out, span_text(metric->labels));
    if (key == NULL) {
        outbuf_add_char(out, '}');
        return;
    }
    if (metric->labels[0] != '\0')
        outbuf_add_char(out, ',');
    outbuf_add(out, span_text(key));
    outbuf_add(out, SPAN("=\""));
}

static void
add_value(struct outbuf *out, enum metric_kind kind, uint64_t value)
{
    outbuf_add_char(out, ' ');
    if (kind == METRIC_WORKER_SECONDS || kind == METRIC_PROCESS_SECONDS)
        add_seconds(out, value);
    else
        outbuf_add_number(out, value);
    outbuf_add_char(out, '\n');
}

static void
add_histogram(struct outbuf *out, const struct metric *metric, const struct histogram *histogram)
{
    uint64_t below = 0;

    for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++) {
        below += histogram->buckets[i];
        add_series(out, metric, "_bucket", "le");
        add_seconds(out, counter_bounds_ns[i]);
        outbuf_add(out, SPAN("\"}"));
        add_value(out, METRIC_HISTOGRAM, below);
    }
    below += histogram->buckets[HISTOGRAM_BOUNDS];
    add_series(out, metric, "_bucket", "le");
    outbuf_add(out, SPAN("+Inf\"}"));
    add_value(out, METRIC_HISTOGRAM, below);
    add_series(out, metric, "_sum", NULL);
    add_value(out, METRIC_PROCESS_SECONDS, histogram->sum_ns);
    add_series(out, metric, "_count", NULL);
    add_value(out, METRIC_HISTOGRAM, below);
}

static void
add_metric(struct outbuf *out, const struct stats_source *source, const struct counters *sum,
           const struct metric *metric)
{
    if (metric->kind == METRIC_HISTOGRAM) {
        add_histogram(out, metric,
                      (const struct histogram *)(const void *)value_at(sum, metric->offset));
    } else if (kind_is_hop(metric->kind)) {
        for (uint32_t hop = 0; hop < source->hop_count; hop++) {
            add_series(out, metric, "", "next_hop");
            add_name(out, source->hops[hop].name);
            outbuf_add(out, SPAN("\"}"));
            add_value(out, metric->kind, hop_value(source, hop, metric->offset));
        }
    } else if (kind_is_worker(metric->kind)) {
        for (uint32_t worker = 0; worker < source->worker_count; worker++) {
            add_series(out, metric, "", "worker");
            outbuf_add_number(out, worker);
            outbuf_add(out, SPAN("\"}"));
            add_value(out, metric->kind,
                      counter_get(value_at(source->workers[worker], metric->offset)));
        }
    } else {
        bool process = metric->kind == METRIC_PROCESS_COUNTER ||
                       metric->kind == METRIC_PROCESS_GAUGE ||
                       metric->kind == METRIC_PROCESS_SECONDS;
        const void *base = process ? (const void *)source->process : (const void *)sum;

        add_series(out, metric, "", NULL);
        add_value(out, metric->kind, counter_get(value_at(base, metric->offset)));
    }
}

void
stats_render_prometheus(const struct stats_source *source, struct outbuf *out)
{
    struct counters sum;

    ASSERT(outbuf_room(out) >= stats_bytes_max(source));
    counters_total(source, &sum);
    add_head(out, "ringpost_build_info", "gauge", "1, with the version of ringpost as a label");
    outbuf_add(out, SPAN("ringpost_build_info{version=\""));
    add_name(out, source->version);
    outbuf_add(out, SPAN("\"} 1\n"));
    add_head(out, "ringpost_certificate_expiry_timestamp_seconds", "gauge",
             "Unix time at which a certificate of ours expires");
    for (uint32_t i = 0; i < certificates_shown(source); i++) {
        outbuf_add(out, SPAN("ringpost_certificate_expiry_timestamp_seconds{certificate=\""));
        add_name(out, source->certificates[i].name);
        outbuf_add(out, SPAN("\"} "));
        add_signed(out, source->certificates[i].not_after_second);
        outbuf_add_char(out, '\n');
    }
    for (size_t i = 0; i < METRICS; i++) {
        if (i == 0 || strcmp(metrics[i].name, metrics[i - 1].name) != 0)
            add_head(out, metrics[i].name, type_of(metrics[i].kind), metrics[i].help);
        add_metric(out, source, &sum, &metrics[i]);
    }
}

/* --- JSON --- */

/* ,"key":  or without the comma at the start of an object. */
static void
json_key(struct outbuf *out, const char *key)
{
    char before = out->len > 0 ? out->data[out->len - 1] : '{';

    if (before != '{' && before != '[')
        outbuf_add_char(out, ',');
    outbuf_add_char(out, '"');
    outbuf_add(out, span_text(key));
    outbuf_add(out, SPAN("\":"));
}

static void
json_name(struct outbuf *out, const char *key, const char *name)
{
    json_key(out, key);
    outbuf_add_char(out, '"');
    add_name(out, name);
    outbuf_add_char(out, '"');
}

static void
json_number(struct outbuf *out, const char *key, uint64_t number)
{
    json_key(out, key);
    outbuf_add_number(out, number);
}

static void
json_seconds(struct outbuf *out, const char *key, uint64_t nanoseconds)
{
    json_key(out, key);
    add_seconds(out, nanoseconds);
}

/* In a list: the comma between its objects. */
static void
json_item(struct outbuf *out, uint32_t index)
{
    outbuf_add(out, index > 0 ? SPAN(",{") : SPAN("{"));
}

/* The rows of these kinds as "field":value. */
static void
json_rows(struct outbuf *out, const void *base, enum metric_kind first, enum metric_kind second)
{
    for (size_t i = 0; i < METRICS; i++)
        if (metrics[i].kind == first || metrics[i].kind == second)
            json_number(out, metrics[i].field, counter_get(value_at(base, metrics[i].offset)));
}

static void
json_histograms(struct outbuf *out, const struct counters *sum)
{
    for (size_t i = 0; i < METRICS; i++) {
        const struct histogram *histogram;

        if (metrics[i].kind != METRIC_HISTOGRAM)
            continue;
        histogram = (const struct histogram *)(const void *)value_at(sum, metrics[i].offset);
        json_key(out, metrics[i].field);
        outbuf_add_char(out, '{');
        json_number(out, "count", histogram_count(histogram));
        json_seconds(out, "sum_seconds", histogram->sum_ns);
        json_seconds(out, "p50_seconds", histogram_quantile_ns(histogram, 500));
        json_seconds(out, "p90_seconds", histogram_quantile_ns(histogram, 900));
        json_seconds(out, "p99_seconds", histogram_quantile_ns(histogram, 990));
        outbuf_add_char(out, '}');
    }
}

static void
json_workers(struct outbuf *out, const struct stats_source *source)
{
    for (uint32_t i = 0; i < source->worker_count; i++) {
        json_item(out, i);
        json_number(out, "sessions_current", counter_get(&source->workers[i]->sessions_current));
        json_seconds(out, "cpu_seconds", counter_get(&source->workers[i]->cpu_ns));
        outbuf_add_char(out, '}');
    }
}

/* Each worker judges servers for itself, so "down" needs all of them to agree. */
static const char *
hop_state(const struct stats_source *source, uint32_t hop)
{
    uint64_t down = hop_value(source, hop, offsetof(struct hop_counters, servers_down));

    if (down == 0)
        return "up";
    return down >= (uint64_t)source->hops[hop].servers * source->worker_count ? "down" : "degraded";
}

static void
json_hops(struct outbuf *out, const struct stats_source *source)
{
    for (uint32_t hop = 0; hop < source->hop_count; hop++) {
        json_item(out, hop);
        json_name(out, "name", source->hops[hop].name);
        json_name(out, "state", hop_state(source, hop));
        json_number(out, "servers", source->hops[hop].servers);
        for (size_t i = 0; i < METRICS; i++)
            if (kind_is_hop(metrics[i].kind))
                json_number(out, metrics[i].field, hop_value(source, hop, metrics[i].offset));
        outbuf_add_char(out, '}');
    }
}

static void
json_certificates(struct outbuf *out, const struct stats_source *source)
{
    for (uint32_t i = 0; i < certificates_shown(source); i++) {
        json_item(out, i);
        json_name(out, "name", source->certificates[i].name);
        json_key(out, "not_after");
        add_signed(out, source->certificates[i].not_after_second);
        outbuf_add_char(out, '}');
    }
}

void
stats_render_json(const struct stats_source *source, uint64_t now_ns, struct outbuf *out)
{
    uint64_t start_ns = counter_get(&source->process->start_time_ns);
    struct counters sum;

    ASSERT(outbuf_room(out) >= stats_bytes_max(source));
    counters_total(source, &sum);
    outbuf_add_char(out, '{');
    json_name(out, "version", source->version);
    json_seconds(out, "time", now_ns);
    json_seconds(out, "uptime_seconds", now_ns > start_ns ? now_ns - start_ns : 0);
    json_key(out, "process");
    outbuf_add_char(out, '{');
    json_rows(out, source->process, METRIC_PROCESS_COUNTER, METRIC_PROCESS_GAUGE);
    json_seconds(out, "start_time", start_ns);
    json_seconds(out, "config_reload_time", counter_get(&source->process->config_reload_time_ns));
    outbuf_add(out, SPAN("}"));
    json_key(out, "counters");
    outbuf_add_char(out, '{');
    json_rows(out, &sum, METRIC_COUNTER, METRIC_COUNTER);
    outbuf_add(out, SPAN("}"));
    json_key(out, "gauges");
    outbuf_add_char(out, '{');
    json_rows(out, &sum, METRIC_GAUGE, METRIC_WORKER_GAUGE);
    outbuf_add(out, SPAN("}"));
    json_key(out, "durations");
    outbuf_add_char(out, '{');
    json_histograms(out, &sum);
    outbuf_add(out, SPAN("}"));
    json_key(out, "workers");
    outbuf_add_char(out, '[');
    json_workers(out, source);
    outbuf_add(out, SPAN("]"));
    json_key(out, "next_hops");
    outbuf_add_char(out, '[');
    json_hops(out, source);
    outbuf_add(out, SPAN("]"));
    json_key(out, "certificates");
    outbuf_add_char(out, '[');
    json_certificates(out, source);
    outbuf_add(out, SPAN("]}\n"));
}
