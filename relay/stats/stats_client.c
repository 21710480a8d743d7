/* The command line's view of the counters. Blocking, unlike everything else: it is a program of
 * its own that asks one question. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memmem */
#endif
#include "relay/stats/stats_client.h"

#include <errno.h>
#include <libfyaml.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/io.h"
#include "relay/stats/stats_socket.h"

#define TIMEOUT_MS 10000
/* Far above what 256 next hops and workers take. */
#define ANSWER_BYTES_MAX (64u << 20)

/* --- reading values --- */

static struct span
node_span(struct fy_node *node)
{
    size_t len = 0;
    const char *text = node != NULL ? fy_node_get_scalar(node, &len) : NULL;

    return text != NULL ? span_of(text, len) : SPAN("");
}

static struct fy_node *
node_at(struct fy_node *from, const char *path)
{
    return from != NULL ? fy_node_by_path(from, path, FY_NT, FYNWF_DONT_FOLLOW) : NULL;
}

static uint64_t
node_number(struct fy_node *node)
{
    struct span digits = node_span(node);
    uint64_t number;

    (void)span_take_number(&digits, &number);
    return number;
}

static uint64_t
number_at(struct fy_node *from, const char *path)
{
    return node_number(node_at(from, path));
}

static double
seconds_at(struct fy_node *from, const char *path)
{
    struct span text = node_span(node_at(from, path));
    char copy[32] = "";

    memcpy(copy, text.data, text.len < sizeof(copy) ? text.len : sizeof(copy) - 1);
    return strtod(copy, NULL);
}

/* --- showing them --- */

static void
print_uptime(double seconds, FILE *out)
{
    uint64_t s = (uint64_t)seconds;

    if (s >= 86400)
        fprintf(out, "%llud ", (unsigned long long)(s / 86400));
    fprintf(out, "%02u:%02u:%02u", (unsigned)(s / 3600 % 24), (unsigned)(s / 60 % 60),
            (unsigned)(s % 60));
}

/* Three digits and a unit: 250us, 12.3ms, 4.56s, 120s. */
static void
print_duration(double seconds, FILE *out)
{
    char text[32];

    if (seconds < 0.001)
        snprintf(text, sizeof(text), "%.0fus", seconds * 1e6);
    else if (seconds < 1)
        snprintf(text, sizeof(text), "%.3gms", seconds * 1e3);
    else
        snprintf(text, sizeof(text), "%.3gs", seconds);
    fprintf(out, " %9s", text);
}

static void
print_bytes(uint64_t bytes, FILE *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    fprintf(out, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

/* Every counter of a group that is not zero, without the group's name: "relay_denied 12, size
 * 1". */
static void
print_group(struct fy_node *counters, const char *title, const char *prefix, FILE *out)
{
    struct fy_node_pair *pair;
    void *place = NULL;
    bool any = false;

    while ((pair = fy_node_mapping_iterate(counters, &place)) != NULL) {
        struct span key = node_span(fy_node_pair_key(pair));
        uint64_t number = node_number(fy_node_pair_value(pair));

        if (number == 0 || !span_starts_ignore_case(key, span_text(prefix)))
            continue;
        key = span_after(key, strlen(prefix));
        if (any)
            fputs(", ", out);
        else
            fprintf(out, "%-12s", title);
        any = true;
        fprintf(out, "%.*s %llu", (int)key.len, key.data, (unsigned long long)number);
    }
    if (any)
        fputc('\n', out);
}

static void
print_messages(struct fy_node *root, FILE *out)
{
    struct fy_node *counters = node_at(root, "/counters");
    double uptime = seconds_at(root, "/uptime_seconds");
    uint64_t accepted = number_at(counters, "messages_accepted");

    fprintf(out, "%-12s%llu now, %llu accepted\n", "sessions",
            (unsigned long long)number_at(root, "/gauges/sessions_current"),
            (unsigned long long)number_at(counters, "connections_accepted"));
    print_group(counters, "connections", "connections_", out);
    fprintf(out, "%-12s%llu accepted (%.2f/s since start), ", "messages",
            (unsigned long long)accepted, uptime > 0 ? (double)accepted / uptime : 0.0);
    fprintf(out, "%llu refused, %llu deferred, %llu ambiguous\n",
            (unsigned long long)number_at(counters, "messages_refused"),
            (unsigned long long)number_at(counters, "messages_deferred"),
            (unsigned long long)number_at(counters, "messages_ambiguous"));
    fprintf(out, "%-12sin ", "text");
    print_bytes(number_at(counters, "message_bytes_accepted"), out);
    fputs(", out ", out);
    print_bytes(number_at(counters, "message_bytes_sent"), out);
    fputc('\n', out);
    print_group(counters, "recipients", "recipients_", out);
    print_group(counters, "refusals", "refusals_", out);
    print_group(counters, "violations", "violations_", out);
    print_group(counters, "tls", "tls_", out);
}

static void
print_durations(struct fy_node *root, FILE *out)
{
    struct fy_node *durations = node_at(root, "/durations");
    struct fy_node_pair *pair;
    void *place = NULL;

    fprintf(out, "\n%-22s %10s %9s %9s %9s\n", "duration", "count", "p50", "p90", "p99");
    while ((pair = fy_node_mapping_iterate(durations, &place)) != NULL) {
        struct span key = node_span(fy_node_pair_key(pair));
        struct fy_node *value = fy_node_pair_value(pair);

        if (number_at(value, "count") == 0)
            continue;
        fprintf(out, "%-22.*s %10llu", (int)key.len, key.data,
                (unsigned long long)number_at(value, "count"));
        print_duration(seconds_at(value, "p50_seconds"), out);
        print_duration(seconds_at(value, "p90_seconds"), out);
        print_duration(seconds_at(value, "p99_seconds"), out);
        fputc('\n', out);
    }
}

static void
print_hops(struct fy_node *root, FILE *out)
{
    static const char *const columns[] = {
        "connections_current", "connections_idle", "messages_sent", "verdicts_2xx",
        "verdicts_4xx",        "verdicts_5xx",     "verdicts_lost", "verdicts_ambiguous",
    };
    struct fy_node *hops = node_at(root, "/next_hops"), *hop;
    void *place = NULL;

    fprintf(out, "\n%-22s %-8s %6s %6s %10s %10s %8s %8s %6s %6s\n", "next hop", "state", "conns",
            "idle", "sent", "2xx", "4xx", "5xx", "lost", "ambig");
    while ((hop = fy_node_sequence_iterate(hops, &place)) != NULL) {
        static const int widths[] = { 6, 6, 10, 10, 8, 8, 6, 6 };
        struct span name = node_span(node_at(hop, "name"));
        struct span state = node_span(node_at(hop, "state"));

        fprintf(out, "%-22.*s %-8.*s", (int)name.len, name.data, (int)state.len, state.data);
        for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
            fprintf(out, " %*llu", widths[i], (unsigned long long)number_at(hop, columns[i]));
        fputc('\n', out);
    }
}

static void
print_certificates(struct fy_node *root, FILE *out)
{
    struct fy_node *certificates = node_at(root, "/certificates"), *certificate;
    double now = seconds_at(root, "/time");
    void *place = NULL;

    while ((certificate = fy_node_sequence_iterate(certificates, &place)) != NULL) {
        struct span name = node_span(node_at(certificate, "name"));
        double left = seconds_at(certificate, "not_after") - now;

        fprintf(out, "certificate %.*s %s %.0f days\n", (int)name.len, name.data,
                left < 0 ? "EXPIRED since" : "expires in", (left < 0 ? -left : left) / 86400);
    }
}

/* NULL: it is no JSON, of which nothing is said on stderr: the caller does. */
static struct fy_document *
document_parse(struct span json)
{
    struct fy_parse_cfg configuration = { .flags = FYPCF_JSON_FORCE };
    struct fy_document *document;
    struct fy_diag_cfg quiet;

    fy_diag_cfg_default(&quiet);
    quiet.fp = NULL;
    configuration.diag = fy_diag_create(&quiet);
    if (configuration.diag == NULL)
        return NULL;
    fy_diag_set_collect_errors(configuration.diag, true);
    document = fy_document_build_from_string(&configuration, json.data, json.len);
    fy_diag_destroy(configuration.diag);
    return document;
}

bool
stats_table_print(struct span json, FILE *out)
{
    struct fy_document *document = document_parse(json);
    struct fy_node *root = document != NULL ? fy_document_root(document) : NULL;
    struct span version = node_span(node_at(root, "/version"));
    bool good = version.len > 0 && node_at(root, "/counters") != NULL;

    if (good) {
        fprintf(out, "ringpost %.*s, %d workers, up ", (int)version.len, version.data,
                fy_node_sequence_item_count(node_at(root, "/workers")));
        print_uptime(seconds_at(root, "/uptime_seconds"), out);
        fputs(number_at(root, "/process/draining") != 0 ? ", draining\n\n" : "\n\n", out);
        print_messages(root, out);
        print_durations(root, out);
        print_hops(root, out);
        print_certificates(root, out);
    }
    fy_document_destroy(document);
    return good;
}

/* --- asking --- */

struct answer {
    char *data;
    size_t len;
};

/* Reads to the end of the stream. 0, or a negative errno. */
static int
answer_read(int socket, struct answer *answer)
{
    size_t size = 0;

    while (answer->len < ANSWER_BYTES_MAX) {
        long n;

        if (answer->len == size) {
            char *more = realloc(answer->data, size += 64 * 1024);

            if (more == NULL)
                return -ENOMEM;
            answer->data = more;
        }
        n = stats_receive(socket, answer->data + answer->len, size - answer->len);
        if (n <= 0)
            return (int)n;
        answer->len += (size_t)n;
    }
    return -EMSGSIZE;
}

/* The body of a 200 answer that is whole; an empty span for anything else. */
static struct span
answer_body(const struct answer *answer)
{
    static const char status[] = "HTTP/1.1 200 ";
    struct span all = span_of(answer->data, answer->len);
    const char *end, *length;
    struct span body;

    if (answer->data == NULL)
        return SPAN("");
    end = memmem(all.data, all.len, "\r\n\r\n", 4);
    length = memmem(all.data, all.len, "\r\nContent-Length: ", 18);
    if (end == NULL || length == NULL || length > end ||
        !span_starts_ignore_case(all, span_text(status)))
        return SPAN("");
    body = span_after(all, (size_t)(end + 4 - all.data));
    return strtoull(length + 18, NULL, 10) == body.len ? body : SPAN("");
}

static int
ask(const struct config_address *address, struct answer *answer)
{
    int result, socket = stats_connect(address, TIMEOUT_MS);

    if (socket < 0)
        return socket;
    result = stats_send(socket, SPAN("GET /stats.json HTTP/1.1\r\nHost: ringpost\r\n"
                                     "Connection: close\r\n\r\n"));
    if (result == 0)
        result = answer_read(socket, answer);
    io_close_now(socket);
    return result;
}

static void
explain(const struct config_address *address, int error, FILE *errors)
{
    bool nobody = error == -ENOENT || error == -ECONNREFUSED;

    fprintf(errors, "ringpost stats: %s: %s%s\n", address->text, io_error_text(error),
            nobody ? "; is ringpost running, and with this configuration?"
            : error == -EACCES ? "; its directory or file does not let you in"
            : error == -EAGAIN ? " (no answer in time)"
                               : "");
}

int
stats_client_run(const struct config *config, bool json, FILE *out, FILE *errors)
{
    const struct config_address *address = config->stats.addresses;
    struct answer answer = { 0 };
    struct span body;
    int error, status = 1;

    if (config->stats.address_count == 0) {
        fprintf(errors, "ringpost stats: %s has no stats.address to ask\n", config->file);
        return 1;
    }
    error = ask(address, &answer);
    body = error == 0 ? answer_body(&answer) : SPAN("");
    if (error != 0)
        explain(address, error, errors);
    else if (body.len > 0 && json)
        status = fwrite(body.data, 1, body.len, out) == body.len ? 0 : 1;
    else if (body.len > 0 && stats_table_print(body, out))
        status = 0;
    else
        fprintf(errors, "ringpost stats: %s: what answers there is not ringpost\n", address->text);
    free(answer.data);
    return status;
}
