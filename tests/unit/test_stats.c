/* The renderings of the counters: syntax, values, the bound on their size; and the table of
 * `ringpost stats`. */
#include <criterion/criterion.h>

#include <libfyaml.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/utf8.h"
#include "relay/stats/stats.h"
#include "relay/stats/stats_client.h"

#define WORKERS 2
#define HOPS 3

static struct counters worker_counters[WORKERS];
static struct hop_counters hop_counters[WORKERS][HOPS];
static struct process_values process;
static const struct counters *const workers[WORKERS] = { &worker_counters[0], &worker_counters[1] };
static const struct hop_counters *const hops_of[WORKERS] = { hop_counters[0], hop_counters[1] };
static const struct stats_hop hops[HOPS] = { { "internal", 2 }, { "archive", 1 }, { "none", 1 } };
static const struct stats_certificate certificates[] = { { "cert.pem", 1800000000 },
                                                         { "old.pem", -1 } };

static struct stats_source
source_example(void)
{
    process.start_time_ns = 1000 * NS_PER_S;
    process.workers = WORKERS;
    process.config_reload_ok = 1;
    process.log_lines_written = 17;
    worker_counters[0].messages_accepted = 40;
    worker_counters[1].messages_accepted = 60;
    worker_counters[0].sessions_current = 3;
    worker_counters[1].sessions_current = 4;
    worker_counters[0].cpu_ns = 1250000000;
    worker_counters[0].sessions_high_water = 8;
    worker_counters[1].sessions_high_water = 5;
    worker_counters[0].refusals_relay_denied = 12;
    histogram_observe(&worker_counters[0].message_total, 2 * NS_PER_MS);
    histogram_observe(&worker_counters[1].message_total, 700 * NS_PER_S);
    hop_counters[0][0].messages_sent = 30;
    hop_counters[1][0].messages_sent = 31;
    hop_counters[0][0].servers_down = 1;
    hop_counters[0][1].servers_down = 1;
    hop_counters[1][1].servers_down = 1;
    return (struct stats_source){ .version = "0.1.0",
                                  .workers = workers,
                                  .hop_counters = hops_of,
                                  .hops = hops,
                                  .certificates = certificates,
                                  .process = &process,
                                  .worker_count = WORKERS,
                                  .hop_count = HOPS,
                                  .certificate_count = 2 };
}

/* Exactly as large as promised, so that the address sanitizer sees a byte too many.
 * NUL-terminated copy. */
static char *
render(const struct stats_source *source, bool json)
{
    size_t size = stats_bytes_max(source);
    struct outbuf out = { .data = malloc(size), .size = size };
    char *text;

    cr_assert(out.data != NULL);
    if (json)
        stats_render_json(source, 1061500 * NS_PER_MS, &out);
    else
        stats_render_prometheus(source, &out);
    text = strndup(out.data, out.len);
    cr_assert(text != NULL);
    cr_assert_eq(strlen(text), out.len);
    free(out.data);
    return text;
}

/* --- Prometheus text --- */

static bool
has_line(const char *text, const char *line)
{
    size_t len = strlen(line);

    for (const char *at = text; (at = strstr(at, line)) != NULL; at++)
        if ((at == text || at[-1] == '\n') && at[len] == '\n')
            return true;
    return false;
}

Test(stats, prometheus_values)
{
    static const char *const lines[] = {
        "ringpost_build_info{version=\"0.1.0\"} 1",
        "ringpost_certificate_expiry_timestamp_seconds{certificate=\"cert.pem\"} 1800000000",
        "ringpost_certificate_expiry_timestamp_seconds{certificate=\"old.pem\"} -1",
        "ringpost_process_start_time_seconds 1000",
        "ringpost_log_lines_total{result=\"written\"} 17",
        "# HELP ringpost_messages_total Messages received whole, by the final reply to the client",
        "# TYPE ringpost_messages_total counter",
        "ringpost_messages_total{result=\"accepted\"} 100",
        "ringpost_messages_total{result=\"refused\"} 0",
        "# TYPE ringpost_sessions_current gauge",
        "ringpost_sessions_current{worker=\"0\"} 3",
        "ringpost_sessions_current{worker=\"1\"} 4",
        "ringpost_worker_cpu_seconds_total{worker=\"0\"} 1.25",
        "ringpost_worker_cpu_seconds_total{worker=\"1\"} 0",
        "ringpost_pool_high_water{pool=\"sessions\"} 8",
        "# TYPE ringpost_message_total_seconds histogram",
        "ringpost_message_total_seconds_bucket{le=\"0.0001\"} 0",
        "ringpost_message_total_seconds_bucket{le=\"0.001\"} 0",
        "ringpost_message_total_seconds_bucket{le=\"0.0025\"} 1",
        "ringpost_message_total_seconds_bucket{le=\"600\"} 1",
        "ringpost_message_total_seconds_bucket{le=\"+Inf\"} 2",
        "ringpost_message_total_seconds_sum 700.002",
        "ringpost_message_total_seconds_count 2",
        "ringpost_tls_handshake_seconds_bucket{side=\"server\",le=\"+Inf\"} 0",
        "ringpost_tls_handshake_seconds_sum{side=\"client\"} 0",
        "ringpost_next_hop_messages_total{next_hop=\"internal\"} 61",
        "ringpost_next_hop_messages_total{next_hop=\"archive\"} 0",
        "ringpost_next_hop_verdicts_total{class=\"ambiguous\",next_hop=\"none\"} 0",
    };
    struct stats_source source = source_example();
    char *text = render(&source, false);

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        cr_assert(has_line(text, lines[i]), "no line %s in:\n%s", lines[i], text);
    free(text);
}

/* The name that a sample belongs to: without labels, and without the suffix of a histogram's
 * sample. */
static size_t
family_len(const char *line, bool histogram)
{
    static const char *const suffixes[] = { "_bucket", "_sum", "_count" };
    size_t len = strcspn(line, "{ ");

    for (size_t i = 0; i < 3 && histogram; i++) {
        size_t suffix = strlen(suffixes[i]);

        if (len > suffix && strncmp(line + len - suffix, suffixes[i], suffix) == 0)
            return len - suffix;
    }
    return len;
}

/* The format's grammar: HELP, TYPE, then that metric's samples and no other's; every series
 * once. */
static void
check_grammar(const char *text)
{
    char name[256] = "", type[16] = "";
    size_t samples = 0;

    for (const char *line = text, *end; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        cr_assert(end != NULL, "the last line has no end");
        if (strncmp(line, "# HELP ", 7) == 0) {
            cr_assert_eq(sscanf(line, "# HELP %255s", name), 1);
            cr_assert_eq(strncmp(end + 1, "# TYPE ", 7), 0, "%s", name);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            char typed[256];

            cr_assert_eq(sscanf(line, "# TYPE %255s %15s", typed, type), 2);
            cr_assert_eq(strcmp(name, typed), 0);
        } else {
            size_t len = family_len(line, strcmp(type, "histogram") == 0);
            const char *value = strrchr(strndupa(line, (size_t)(end - line)), ' ');
            char *series = strndupa(line, (size_t)(end - line) - strlen(value) + 1);
            char *rest;

            cr_assert(len == strlen(name) && strncmp(line, name, len) == 0, "%.*s under %s",
                      (int)(end - line), line, name);
            strtod(value, &rest);
            cr_assert(rest != value && *rest == '\0', "value '%s'", value);
            cr_assert(strstr(end, series) == NULL || strstr(end, series)[-1] != '\n',
                      "twice: %s", series);
            samples++;
        }
    }
    cr_assert(samples > 200);
}

/* No next hop, no certificate, no worker. */
static void
source_empty(struct stats_source *source)
{
    source->hop_count = 0;
    source->certificate_count = 0;
    source->worker_count = 0;
}

Test(stats, prometheus_grammar)
{
    struct stats_source source = source_example();
    char *text = render(&source, false);

    check_grammar(text);
    free(text);
    source_empty(&source);
    text = render(&source, false);
    check_grammar(text);
    cr_assert(has_line(text, "ringpost_messages_total{result=\"accepted\"} 0"));
    free(text);
}

/* --- JSON --- */

static struct fy_document *
json_parse(const char *text)
{
    struct fy_parse_cfg configuration = { .flags = FYPCF_JSON_FORCE };
    struct fy_document *document = fy_document_build_from_string(&configuration, text, FY_NT);

    cr_assert(document != NULL, "no JSON: %s", text);
    return document;
}

static const char *
json_at(struct fy_document *document, const char *path)
{
    struct fy_node *node =
        fy_node_by_path(fy_document_root(document), path, FY_NT, FYNWF_DONT_FOLLOW);

    cr_assert(node != NULL, "no %s", path);
    return fy_node_get_scalar0(node);
}

Test(stats, json_values)
{
    static const struct {
        const char *path, *want;
    } rows[] = {
        { "/version", "0.1.0" },
        { "/time", "1061.5" },
        { "/uptime_seconds", "61.5" },
        { "/process/workers", "2" },
        { "/process/start_time", "1000" },
        { "/process/log_lines_written", "17" },
        { "/counters/messages_accepted", "100" },
        { "/counters/refusals_relay_denied", "12" },
        { "/gauges/sessions_current", "7" },
        { "/gauges/sessions_high_water", "8" },
        { "/durations/message_total/count", "2" },
        { "/durations/message_total/sum_seconds", "700.002" },
        { "/durations/message_total/p50_seconds", "0.0025" },
        { "/durations/message_total/p99_seconds", "600" },
        { "/durations/next_hop_connect/p99_seconds", "0" },
        { "/workers/0/sessions_current", "3" },
        { "/workers/1/cpu_seconds", "0" },
        { "/next_hops/0/name", "internal" },
        { "/next_hops/0/state", "degraded" },
        { "/next_hops/0/messages_sent", "61" },
        { "/next_hops/1/state", "down" },
        { "/next_hops/2/state", "up" },
        { "/next_hops/2/servers", "1" },
        { "/certificates/0/name", "cert.pem" },
        { "/certificates/1/not_after", "-1" },
    };
    struct stats_source source = source_example();
    char *text = render(&source, true);
    struct fy_document *document = json_parse(text);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_assert_eq(strcmp(json_at(document, rows[i].path), rows[i].want), 0, "%s is %s",
                     rows[i].path, json_at(document, rows[i].path));
    fy_document_destroy(document);
    free(text);
    source_empty(&source);
    text = render(&source, true);
    fy_document_destroy(json_parse(text));
    free(text);
}

/* --- the bound, with the worst that a configuration and a long run can bring --- */

Test(stats, worst_case_fits)
{
    static const char *const worst[] = { "\"", "\\", "\xf0\x9f\x93\xac", "\n", "\xff", "a" };
    static struct counters full;
    struct stats_source source = source_example();
    struct stats_hop *many_hops = calloc(NEXT_HOPS_MAX, sizeof(*many_hops));
    struct hop_counters *full_hops = aligned_alloc(128, NEXT_HOPS_MAX * sizeof(*full_hops));
    struct stats_certificate *many = calloc(STATS_CERTIFICATES_MAX + 9, sizeof(*many));
    const struct counters *const one_worker[] = { &full };
    const struct hop_counters *const its_hops[] = { full_hops };

    cr_assert(many_hops != NULL && full_hops != NULL && many != NULL);
    memset(&full, 0xff, sizeof(full));
    memset(full_hops, 0xff, NEXT_HOPS_MAX * sizeof(*full_hops));
    memset(&process, 0xff, sizeof(process));
    source.workers = one_worker;
    source.hop_counters = its_hops;
    source.hops = many_hops;
    source.certificates = many;
    source.worker_count = 1;
    source.hop_count = NEXT_HOPS_MAX;
    source.certificate_count = STATS_CERTIFICATES_MAX + 9;
    for (size_t i = 0; i < sizeof(worst) / sizeof(worst[0]); i++) {
        char name[4 * STATS_NAME_BYTES_MAX + 1] = "";
        char *text;

        for (size_t len = 0; len < STATS_NAME_BYTES_MAX + 8; len += strlen(worst[i]))
            memcpy(name + len, worst[i], strlen(worst[i]) + 1);
        for (size_t j = 0; j < NEXT_HOPS_MAX; j++)
            many_hops[j] = (struct stats_hop){ name, 16 };
        for (size_t j = 0; j < source.certificate_count; j++)
            many[j] = (struct stats_certificate){ name, INT64_MIN };
        source.version = name;
        text = render(&source, false);
        cr_assert(utf8_valid(span_text(text)), "%s", worst[i]);
        free(text);
        text = render(&source, true);
        cr_assert(utf8_valid(span_text(text)), "%s", worst[i]);
        cr_assert(strchr(text, '\n') == text + strlen(text) - 1);
        free(text);
    }
    free(many_hops);
    free(full_hops);
    free(many);
}

/* --- the table --- */

Test(stats, table)
{
    static const char *const wanted[] = {
        "ringpost 0.1.0, 2 workers, up 00:01:01\n",
        "sessions    7 now, 0 accepted\n",
        "messages    100 accepted (1.63/s since start), 0 refused, 0 deferred, 0 ambiguous\n",
        "refusals    relay_denied 12\n",
        "message_total                   2     2.5ms      600s      600s\n",
        "internal               degraded      0      0         61          0        0        0",
        "archive                down ",
        "none                   up ",
        "certificate cert.pem expires in 20833 days\n",
        "certificate old.pem EXPIRED since 0 days\n",
    };
    struct stats_source source = source_example();
    char *json = render(&source, true), *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    cr_assert(out != NULL);
    cr_assert(stats_table_print(span_text(json), out));
    cr_assert_eq(fflush(out), 0);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        cr_assert(strstr(text, wanted[i]) != NULL, "no '%s' in:\n%s", wanted[i], text);
    cr_assert(strstr(text, "next_hop_connect") == NULL, "not without observations");
    cr_assert(strstr(text, "violations") == NULL, "groups of zeros are left out");
    len = 0;
    rewind(out);
    cr_assert(!stats_table_print(SPAN(""), out));
    cr_assert(!stats_table_print(SPAN("{}"), out));
    cr_assert(!stats_table_print(SPAN("[1,2]"), out));
    cr_assert(!stats_table_print(SPAN("{\"version\":"), out));
    cr_assert(!stats_table_print(SPAN("<html>"), out));
    cr_assert_eq(ftell(out), 0, "nothing is printed of what is no answer");
    fclose(out);
    free(text);
    free(json);
}
