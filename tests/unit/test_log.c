/* Log lines: what they look like, that no value can forge one, and that the rings and the log
 * thread neither lose lines silently nor stop on a broken target. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <libfyaml.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/log_ring.h"
#include "core/utf8.h"
#include "tests/unit/guard.h"

/* 2026-11-22T10:11:12.123456789Z */
#define NOON_NS UINT64_C(1795342272123456789)
#define TEXT_HEAD "2026-11-22T10:11:12.123456Z ringpost[0]: "
#define JSON_HEAD "{\"time\":\"2026-11-22T10:11:12.123456Z\",\"level\":"

struct capture {
    char text[LOG_LINE_BYTES_MAX];
    size_t len;
    unsigned lines;
};

static void
capture_line(void *context, enum log_level level, struct span line)
{
    struct capture *capture = context;

    cr_assert(level <= LOG_LEVEL_DEBUG);
    cr_assert(line.len <= sizeof(capture->text));
    memcpy(capture->text, line.data, line.len);
    capture->len = line.len;
    capture->lines++;
}

/* --- the shape of lines --- */

static const struct value_row {
    const char *name;
    struct span value;
    const char *text, *json; /* after key= and after "key": */
} value_rows[] = {
    { "plain", SPAN("mx.example.com"), "mx.example.com", "\"mx.example.com\"" },
    { "path", SPAN("<a+b=c@example.com>"), "<a+b=c@example.com>", "\"<a+b=c@example.com>\"" },
    { "empty", SPAN(""), "\"\"", "\"\"" },
    { "space", SPAN("250 Ok"), "\"250 Ok\"", "\"250 Ok\"" },
    { "comma", SPAN("a, forged=1"), "\"a, forged=1\"", "\"a, forged=1\"" },
    { "quote", SPAN("a\"b"), "\"a\\\"b\"", "\"a\\\"b\"" },
    { "backslash", SPAN("a\\"), "\"a\\\\\"", "\"a\\\\\"" },
    { "line end", SPAN("a\r\nb\tc"), "\"a\\r\\nb\\tc\"", "\"a\\r\\nb\\tc\"" },
    { "NUL and ESC", SPAN("\0\x1b[2J"), "\"\\u0000\\u001b[2J\"", "\"\\u0000\\u001b[2J\"" },
    { "DEL", SPAN("\x7f"), "\"\\u007f\"", "\"\\u007f\"" },
    { "UTF-8", SPAN("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f", "\"gr\xc3\xbc\xc3\x9f\"" },
    { "four bytes", SPAN("\xf0\x9f\x93\xac"), "\xf0\x9f\x93\xac", "\"\xf0\x9f\x93\xac\"" },
    { "not UTF-8", SPAN("gr\xfc\xdf"), "\"gr\\u00fc\\u00df\"", "\"gr\\u00fc\\u00df\"" },
    { "cut UTF-8", SPAN("\xe2\x82"), "\"\\u00e2\\u0082\"", "\"\\u00e2\\u0082\"" },
    { "overlong", SPAN("\xc0\xaf"), "\"\\u00c0\\u00af\"", "\"\\u00c0\\u00af\"" },
    { "C1 control", SPAN("\xc2\x9b"), "\"\\u009b\"", "\"\\u009b\"" },
    { "line separator", SPAN("a\xe2\x80\xa8" "b"), "\"a\\u2028b\"", "\"a\\u2028b\"" },
    { "right to left", SPAN("a\xe2\x80\xae"), "\"a\\u202e\"", "\"a\\u202e\"" },
    { "byte order mark", SPAN("\xef\xbb\xbf"), "\"\\ufeff\"", "\"\\ufeff\"" },
};

static void
check_line(const char *name, const struct capture *capture, const char *want)
{
    cr_assert_eq(capture->len, strlen(want), "%s: got %.*s", name, (int)capture->len,
                 capture->text);
    cr_assert_eq(memcmp(capture->text, want, capture->len), 0, "%s: got %.*s", name,
                 (int)capture->len, capture->text);
}

static void
write_value(struct span value)
{
    struct log_line line;

    log_begin(&line, LOG_LEVEL_INFO, "refused");
    log_text(&line, "why", value);
    log_end(&line);
}

Test(log, values)
{
    static struct guard guard;
    struct capture capture = { 0 };
    char want[512];

    log_set_time(NOON_NS);
    for (size_t i = 0; i < sizeof(value_rows) / sizeof(value_rows[0]); i++) {
        const struct value_row *row = &value_rows[i];
        struct span value = guard_end(&guard, row->value.data, row->value.len);

        log_set_sink(capture_line, &capture, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
        write_value(value);
        snprintf(want, sizeof(want), TEXT_HEAD "refused why=%s\n", row->text);
        check_line(row->name, &capture, want);
        log_set_sink(capture_line, &capture, LOG_FORMAT_JSON, LOG_LEVEL_INFO);
        write_value(value);
        snprintf(want, sizeof(want), JSON_HEAD "\"info\",\"event\":\"refused\",\"why\":%s}\n",
                 row->json);
        check_line(row->name, &capture, want);
    }
}

static void
write_example(enum log_level level, struct span id, bool id_late)
{
    struct log_line line;

    log_begin(&line, level, "message_sent");
    if (!id_late)
        log_id(&line, id);
    log_text(&line, "to", SPAN("<b@example.com>"));
    log_number(&line, "size", UINT64_MAX);
    log_duration(&line, "delay", 12300000);
    log_errno(&line, "error", ECONNREFUSED);
    if (id_late)
        log_id(&line, id);
    log_end(&line);
}

#define EXAMPLE_TEXT \
    "message_sent to=<b@example.com>, size=18446744073709551615, delay=0.0123, " \
    "error=\"Connection refused\""
#define EXAMPLE_JSON \
    "\"to\":\"<b@example.com>\",\"size\":18446744073709551615,\"delay\":0.0123," \
    "\"error\":\"Connection refused\""

Test(log, lines)
{
    static const struct {
        const char *name;
        enum log_level level;
        enum log_format format;
        struct span id;
        bool id_late;
        const char *want;
    } rows[] = {
        { "info", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, SPAN("4f2a"), false,
          TEXT_HEAD "4f2a: " EXAMPLE_TEXT "\n" },
        { "no id", LOG_LEVEL_NOTICE, LOG_FORMAT_TEXT, SPAN(""), false,
          TEXT_HEAD EXAMPLE_TEXT "\n" },
        { "warning", LOG_LEVEL_WARNING, LOG_FORMAT_TEXT, SPAN("4f2a"), false,
          TEXT_HEAD "4f2a: warning: " EXAMPLE_TEXT "\n" },
        { "error", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT, SPAN(""), false,
          TEXT_HEAD "error: " EXAMPLE_TEXT "\n" },
        { "late id", LOG_LEVEL_INFO, LOG_FORMAT_TEXT, SPAN("4f2a"), true,
          TEXT_HEAD EXAMPLE_TEXT ", id=4f2a\n" },
        { "JSON", LOG_LEVEL_DEBUG, LOG_FORMAT_JSON, SPAN("4f2a"), false,
          JSON_HEAD "\"debug\",\"event\":\"message_sent\",\"id\":\"4f2a\"," EXAMPLE_JSON "}\n" },
        { "JSON, no id", LOG_LEVEL_WARNING, LOG_FORMAT_JSON, SPAN(""), false,
          JSON_HEAD "\"warning\",\"event\":\"message_sent\"," EXAMPLE_JSON "}\n" },
    };
    struct capture capture = { 0 };

    log_set_time(NOON_NS);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        log_set_sink(capture_line, &capture, rows[i].format, LOG_LEVEL_DEBUG);
        write_example(rows[i].level, rows[i].id, rows[i].id_late);
        check_line(rows[i].name, &capture, rows[i].want);
    }
}

Test(log, plain_messages)
{
    struct capture capture = { 0 };

    log_set_time(NOON_NS);
    log_set_sink(capture_line, &capture, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    log_plain(LOG_LEVEL_WARNING, "cannot open %s: \"%s\"\n", "a b", "no");
    check_line("text", &capture, TEXT_HEAD "warning: cannot open a b: \\\"no\\\"\\n\n");
    log_set_sink(capture_line, &capture, LOG_FORMAT_JSON, LOG_LEVEL_INFO);
    log_plain(LOG_LEVEL_INFO, "%d workers", 4);
    check_line("JSON", &capture,
               JSON_HEAD "\"info\",\"event\":\"plain\",\"text\":\"4 workers\"}\n");
    log_plain(LOG_LEVEL_INFO, "%05000d", 0);
    cr_assert(capture.len > LOG_LINE_BYTES_MAX - 16 && capture.len <= LOG_LINE_BYTES_MAX);
    cr_assert_eq(memcmp(capture.text + capture.len - 14, "\",\"cut\":true}\n", 14), 0);
}

Test(log, durations_dates_and_levels)
{
    static const struct {
        uint64_t nanoseconds;
        const char *want;
    } durations[] = {
        { 0, "0.000" },          { 999, "0.000" },           { 1000, "0.000001" },
        { 100000, "0.0001" },    { 1000000, "0.001" },       { 12340000, "0.01234" },
        { 1500000000, "1.500" }, { 600000000000, "600.000" }, { 1000001000, "1.000001" },
    };
    static const struct {
        uint64_t second;
        const char *want;
    } dates[] = {
        { 1, "1970-01-01T00:00:01" },          { 951782399, "2000-02-28T23:59:59" },
        { 951782400, "2000-02-29T00:00:00" },  { 951868800, "2000-03-01T00:00:00" },
        { 1709164800, "2024-02-29T00:00:00" }, { 1735689599, "2024-12-31T23:59:59" },
        { 1735689600, "2025-01-01T00:00:00" }, { 4107542400, "2100-03-01T00:00:00" },
    };
    struct capture capture = { 0 };
    struct log_line line;
    char want[128];

    log_set_sink(capture_line, &capture, LOG_FORMAT_TEXT, LOG_LEVEL_NOTICE);
    for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
        log_set_time(NOON_NS);
        log_begin(&line, LOG_LEVEL_NOTICE, "done");
        log_duration(&line, "delay", durations[i].nanoseconds);
        log_end(&line);
        snprintf(want, sizeof(want), TEXT_HEAD "done delay=%s\n", durations[i].want);
        check_line(durations[i].want, &capture, want);
    }
    for (size_t i = 0; i < sizeof(dates) / sizeof(dates[0]); i++) {
        log_set_time(dates[i].second * 1000000000);
        log_begin(&line, LOG_LEVEL_NOTICE, "done");
        log_end(&line);
        snprintf(want, sizeof(want), "%s.000000Z ringpost[0]: done\n", dates[i].want);
        check_line(dates[i].want, &capture, want);
    }
    capture.lines = 0;
    cr_assert(!log_enabled(LOG_LEVEL_INFO));
    write_value(SPAN("not wanted"));
    log_plain(LOG_LEVEL_DEBUG, "not wanted");
    cr_assert_eq(capture.lines, 0);
    log_set_level(LOG_LEVEL_INFO);
    write_value(SPAN("wanted"));
    cr_assert_eq(capture.lines, 1);
}

Test(log, long_lines_are_cut_at_a_field)
{
    static const enum log_format formats[] = { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };
    static const char *const ends[] = { ", cut=yes\n", ",\"cut\":true}\n" };
    struct capture capture = { 0 };
    char value[LOG_VALUE_BYTES_MAX + 100];
    struct log_line line;

    log_set_time(NOON_NS);
    memset(value, 'v', sizeof(value));
    for (size_t f = 0; f < 2; f++) {
        log_set_sink(capture_line, &capture, formats[f], LOG_LEVEL_INFO);
        /* Every length of the line up to and over the limit, with every kind of field last. */
        for (size_t len = 0; len <= 500; len++) {
            log_begin(&line, LOG_LEVEL_INFO, "event");
            for (int i = 0; i < 3; i++)
                log_text(&line, "a", span_of(value, 500));
            log_text(&line, "b", span_of(value, len));
            if (len % 3 == 0)
                log_text(&line, "last", SPAN("\n\n\n\n\n\n"));
            else if (len % 3 == 1)
                log_number(&line, "last", len);
            else
                log_duration(&line, "last", len);
            log_number(&line, "very_last", 1);
            if (line.cut) /* a field that would still fit: none may follow one that did not */
                log_text(&line, "z", SPAN("v"));
            log_end(&line);
            cr_assert(capture.len <= LOG_LINE_BYTES_MAX);
            cr_assert(memmem(capture.text, capture.len, "z", 1) == NULL, "%zu", len);
            cr_assert_eq(capture.text[capture.len - 1], '\n');
            if (memmem(capture.text, capture.len, "very_last", 9) == NULL)
                cr_assert_eq(memcmp(capture.text + capture.len - strlen(ends[f]), ends[f],
                                    strlen(ends[f])), 0, "%zu: %.*s", len, (int)capture.len,
                             capture.text);
            cr_assert_eq(memmem(capture.text, capture.len, "very_last", 9) == NULL,
                         memmem(capture.text, capture.len, "cut", 3) != NULL);
        }
        cr_assert(memmem(capture.text, capture.len, "cut", 3) != NULL);
    }
    log_set_sink(capture_line, &capture, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    for (size_t at = LOG_VALUE_BYTES_MAX - 8; at < LOG_VALUE_BYTES_MAX; at++) {
        memset(value, 'v', sizeof(value));
        memcpy(value + at, "\xf0\x9f\x93\xac", 4);
        write_value(span_of(value, sizeof(value)));
        cr_assert(utf8_valid(span_of(capture.text, capture.len)), "at %zu", at);
        cr_assert_eq(memcmp(capture.text + capture.len - 4, "...\n", 4), 0);
        cr_assert(capture.len > LOG_VALUE_BYTES_MAX - 8 && capture.len < LOG_VALUE_BYTES_MAX + 64);
    }
}

/* What the JSON parser gives back: the value, with bytes that are no UTF-8 as Latin-1
 * characters. */
static void
check_json_value(const struct capture *capture, struct span value)
{
    struct fy_parse_cfg configuration = { .flags = FYPCF_JSON_FORCE | FYPCF_QUIET };
    struct fy_document *document =
        fy_document_build_from_string(&configuration, capture->text, capture->len - 1);
    struct fy_node *node;
    size_t len = 0;
    const char *text;

    cr_assert(document != NULL, "no JSON: %.*s", (int)capture->len, capture->text);
    cr_assert_eq(fy_node_mapping_item_count(fy_document_root(document)), 4);
    node = fy_node_by_path(fy_document_root(document), "/why", FY_NT, FYNWF_DONT_FOLLOW);
    cr_assert(node != NULL);
    text = fy_node_get_scalar(node, &len);
    if (utf8_valid(value)) {
        cr_assert_eq(len, value.len);
        cr_assert_eq(memcmp(text, value.data, len), 0);
    }
    fy_document_destroy(document);
}

/* No value makes a second line, a second field or broken JSON. */
Test(log, nothing_is_forged)
{
    static const char pieces[][5] = {
        "a",    "\"", "\\", "\n", "\r", ",",    " ",        "=",        "}",        "\x01",
        "\x80", "\xff", "\xc3\xbc", "\xe2\x80\xa8", "\xf0\x9f\x93\xac", "\xed\xa0\x80", "\xc2\x85",
    };
    struct capture capture = { 0 };
    unsigned random = 1;

    log_set_time(NOON_NS);
    for (int round = 0; round < 20000; round++) {
        char value[64];
        struct outbuf out = { .data = value, .size = sizeof(value) };
        bool text = round % 2 == 0;
        int quotes = 0;

        for (random = random * 1103515245 + 12345; (random >> 16) % 12 != 0 && out.len < 56;
             random = random * 1103515245 + 12345)
            outbuf_add(&out, span_text(pieces[(random >> 20) % (sizeof(pieces) / 5)]));
        log_set_sink(capture_line, &capture, text ? LOG_FORMAT_TEXT : LOG_FORMAT_JSON,
                     LOG_LEVEL_INFO);
        write_value(outbuf_span(&out));
        cr_assert(utf8_printable(span_of(capture.text, capture.len - 1)), "%.*s",
                  (int)capture.len, capture.text);
        cr_assert_eq(capture.text[capture.len - 1], '\n');
        if (!text) {
            check_json_value(&capture, outbuf_span(&out));
            continue;
        }
        for (size_t i = strlen(TEXT_HEAD "refused why="); i + 1 < capture.len; i++) {
            char c = capture.text[i];

            quotes += c == '"';
            i += c == '\\';
            cr_assert(quotes == 1 || (c != ' ' && c != ',' && c != '\\') ||
                          i + 1 == capture.len, "%.*s", (int)capture.len, capture.text);
        }
        cr_assert(quotes == 0 || quotes == 2, "%.*s", (int)capture.len, capture.text);
    }
}

/* --- the ring --- */

Test(log, ring_keeps_records_whole_and_in_order)
{
    struct log_ring *ring = aligned_alloc(128, sizeof(*ring));
    struct log_record record = { .level = LOG_LEVEL_INFO };
    char in[LOG_LINE_BYTES_MAX], out[LOG_LINE_BYTES_MAX];
    uint64_t put = 0, taken = 0, dropped = 0, crossings = 0;

    cr_assert(ring != NULL);
    memset(ring, 0, sizeof(*ring));
    /* Odd lengths, so that records begin at every place and wrap in their head and in their
     * text. */
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 400; i++) {
            enum log_put result;

            record.len = (uint16_t)(1 + (put + dropped) * 7 % 1999);
            memset(in, (char)put, record.len);
            result = log_ring_put(ring, &record, in);
            put += result != LOG_PUT_DROPPED;
            dropped += result == LOG_PUT_DROPPED;
            crossings += result == LOG_PUT_HALF_FULL;
        }
        cr_assert_eq(log_ring_dropped(ring), dropped);
        cr_assert(crossings > 0 && dropped > 0);
        for (uint64_t end = log_ring_end(ring); log_ring_take(ring, end, &record, out); taken++) {
            memset(in, (char)taken, record.len);
            cr_assert_eq(memcmp(in, out, record.len), 0);
        }
        cr_assert_eq(put, taken);
        cr_assert(log_ring_empty(ring));
    }
    free(ring);
}

#define RING_LINES 200000

static void *
ring_produce(void *argument)
{
    struct log_ring *ring = argument;
    struct log_record record = { .level = LOG_LEVEL_INFO };
    char line[64];

    for (uint64_t i = 0; i < RING_LINES;) {
        record.len = (uint16_t)(8 + i % 56);
        memset(line, (char)i, record.len);
        memcpy(line, &i, sizeof(i));
        i += log_ring_put(ring, &record, line) != LOG_PUT_DROPPED;
    }
    return NULL;
}

/* Nothing but the ring's own ordering between the two threads: for the thread sanitizer. */
Test(log, ring_between_two_threads, .timeout = 60)
{
    struct log_ring *ring = aligned_alloc(128, sizeof(*ring));
    struct log_record record;
    char line[LOG_LINE_BYTES_MAX], want[64];
    pthread_t producer;
    uint64_t next = 0;

    cr_assert(ring != NULL);
    memset(ring, 0, sizeof(*ring));
    cr_assert_eq(pthread_create(&producer, NULL, ring_produce, ring), 0);
    while (next < RING_LINES) {
        for (uint64_t end = log_ring_end(ring); log_ring_take(ring, end, &record, line); next++) {
            cr_assert_eq(record.len, 8 + next % 56);
            memset(want, (char)next, record.len);
            memcpy(want, &next, sizeof(next));
            cr_assert_eq(memcmp(line, want, record.len), 0, "line %llu", (unsigned long long)next);
        }
    }
    pthread_join(producer, NULL);
    free(ring);
}

/* --- the log thread --- */

static char folder[] = "/tmp/ringpost-log-XXXXXX";
static char log_path[64], log_path_old[64];

static struct log_options
file_options(void)
{
    cr_assert(mkdtemp(folder) != NULL);
    snprintf(log_path, sizeof(log_path), "%s/log", folder);
    snprintf(log_path_old, sizeof(log_path_old), "%s/log.1", folder);
    return (struct log_options){ .target = LOG_TARGET_FILE, .format = LOG_FORMAT_TEXT,
                                 .level = LOG_LEVEL_INFO, .path = log_path };
}

static void
folder_remove(void)
{
    unlink(log_path);
    unlink(log_path_old);
    cr_assert_eq(rmdir(folder), 0);
}

#define PRODUCERS 3
#define LINES_EACH 30000

static void *
produce(void *argument)
{
    uint64_t number = *(const uint64_t *)argument;
    struct log_line line;

    /* The last producer shares the ring of those that have none. */
    if (number < PRODUCERS - 1)
        cr_assert(log_thread_attach());
    for (uint64_t i = 0; i < LINES_EACH; i++) {
        log_set_time(NOON_NS + i);
        log_begin(&line, LOG_LEVEL_INFO, "line");
        log_number(&line, "producer", number);
        log_number(&line, "number", i);
        log_end(&line);
    }
    return NULL;
}

struct audit {
    uint64_t next[PRODUCERS], lines, told;
};

static void
audit_file(const char *path, struct audit *audit)
{
    FILE *file = fopen(path, "r");
    char text[LOG_LINE_BYTES_MAX + 1];

    cr_assert(file != NULL);
    while (fgets(text, sizeof(text), file) != NULL) {
        unsigned long long producer, number;
        const char *at = strstr(text, "]: ");

        cr_assert(at != NULL && strchr(text, '\n') != NULL, "torn: %s", text);
        if (sscanf(at, "]: line producer=%llu, number=%llu\n", &producer, &number) == 2) {
            cr_assert(producer < PRODUCERS);
            cr_assert(number >= audit->next[producer], "out of order: %s", text);
            audit->next[producer] = number + 1;
            audit->lines++;
        } else {
            cr_assert_eq(sscanf(at, "]: warning: %llu log lines dropped\n", &number), 1, "%s",
                         text);
            audit->told += number;
        }
    }
    fclose(file);
}

/* Every line is in the file, whole and in order, or is counted and told as dropped. */
Test(log, threads, .timeout = 60)
{
    struct log_options options = file_options();
    pthread_t threads[PRODUCERS];
    uint64_t numbers[PRODUCERS];
    struct audit audit = { 0 };
    struct log_totals totals;

    cr_assert_eq(log_start(&options), 0);
    cr_assert_eq(log_start(&options), EBUSY);
    for (uint64_t i = 0; i < PRODUCERS; i++) {
        numbers[i] = i;
        cr_assert_eq(pthread_create(&threads[i], NULL, produce, &numbers[i]), 0);
    }
    for (uint64_t i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert(log_flush(10000));
    totals = log_totals();
    audit_file(log_path, &audit);
    cr_assert_eq(audit.told, totals.lines_dropped);
    cr_assert_eq(audit.lines + totals.lines_dropped, PRODUCERS * LINES_EACH);
    cr_assert(totals.lines_written >= audit.lines);
    cr_assert_eq(totals.write_errors, 0);
    log_stop();
    log_stop(); /* harmless */
    folder_remove();
}

static void
thread_name(void *context)
{
    cr_assert_eq(pthread_getname_np(pthread_self(), context, 16), 0);
}

Test(log, thread_call)
{
    struct log_options options = file_options();
    char name[16] = "";

    cr_assert_not(log_thread_call(thread_name, name), "there is no log thread");
    cr_assert_eq(log_start(&options), 0);
    for (int i = 0; i < 100; i++) {
        name[0] = '\0';
        cr_assert(log_thread_call(thread_name, name));
        cr_assert_str_eq(name, "log");
    }
    log_stop();
    folder_remove();
}

Test(log, reopen_flush_and_few_wakeups, .timeout = 30)
{
    struct log_options options = file_options();
    struct audit audit = { 0 };
    uint64_t number = 0;
    struct stat status;

    cr_assert_eq(log_start(&options), 0);
    cr_assert(log_thread_attach());
    cr_assert_eq(stat(log_path, &status), 0);
    cr_assert_eq(status.st_mode & 0777 & ~0640u, 0);
    for (uint64_t i = 0; i < 300; i++) {
        struct log_line line;

        log_begin(&line, LOG_LEVEL_INFO, "line");
        log_number(&line, "producer", number);
        log_number(&line, "number", i);
        log_end(&line);
        usleep(1000);
        if (i == 100) {
            cr_assert(log_flush(5000));
            cr_assert_eq(rename(log_path, log_path_old), 0);
            log_reopen();
            cr_assert(log_flush(5000));
            cr_assert_eq(access(log_path, F_OK), 0, "reopened");
        }
    }
    cr_assert(log_flush(5000));
    /* 300 lines in more than 300 ms: not one wake-up for each, but one in 50 ms at most. */
    cr_assert(log_totals().wakeups < 150, "%llu wake-ups",
              (unsigned long long)log_totals().wakeups);
    log_stop();
    audit_file(log_path_old, &audit);
    cr_assert(audit.lines >= 101 && audit.lines < 300);
    audit_file(log_path, &audit);
    cr_assert_eq(audit.lines, 300);
    folder_remove();
    /* With the folder gone, there is nothing to open: start says so and leaves nothing behind. */
    cr_assert_eq(log_start(&options), ENOENT);
    cr_assert(!log_enabled(LOG_LEVEL_ERROR));
}

/* A full disk and a closed pipe are counted; the log works again, and says so, when they do. */
Test(log, broken_targets, .timeout = 30)
{
    struct log_options options = { .target = LOG_TARGET_FILE, .format = LOG_FORMAT_TEXT,
                                   .level = LOG_LEVEL_INFO, .path = "/dev/full" };
    int ends[2];

    cr_assert_eq(log_start(&options), 0);
    write_value(SPAN("lost"));
    cr_assert(log_flush(5000));
    cr_assert_eq(log_totals().write_errors, 1);
    cr_assert_eq(log_totals().lines_written, 0);
    log_stop();

    options.target = LOG_TARGET_STDERR;
    cr_assert_eq(pipe(ends), 0);
    cr_assert(dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[0]);
    cr_assert_eq(log_start(&options), 0);
    write_value(SPAN("lost"));
    cr_assert(log_flush(5000));
    cr_assert_eq(log_totals().write_errors, 1);
    cr_assert_eq(pipe(ends), 0);
    cr_assert(dup2(ends[1], STDERR_FILENO) >= 0);
    write_value(SPAN("works"));
    cr_assert(log_flush(5000));
    cr_assert_eq(log_totals().lines_written, 2);
    log_stop();

    char text[1024];
    ssize_t len = read(ends[0], text, sizeof(text));

    cr_assert(len > 0);
    cr_assert(memmem(text, (size_t)len, "error: 1 writes to the log failed", 33) != NULL);
    cr_assert(memmem(text, (size_t)len, "refused why=works\n", 18) != NULL);
    cr_assert(memmem(text, (size_t)len, "lost\n", 5) != NULL);
}

/* A reader that does not read: producers go on, lines are dropped, and stopping takes no longer
 * than it says. */
Test(log, blocked_target, .timeout = 30)
{
    struct log_options options = { .target = LOG_TARGET_STDERR, .format = LOG_FORMAT_JSON,
                                   .level = LOG_LEVEL_INFO };
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    cr_assert(dup2(ends[1], STDERR_FILENO) >= 0);
    cr_assert_eq(log_start(&options), 0);
    cr_assert(log_thread_attach());
    for (int i = 0; i < 20000; i++)
        write_value(SPAN("into the void"));
    cr_assert(log_totals().lines_dropped > 1000);
    cr_assert(!log_flush(100));
    log_stop();
    write_value(SPAN("after the end"));
    cr_assert(!log_enabled(LOG_LEVEL_ERROR));
}

Test(log, before_the_start)
{
    char text[256];
    ssize_t len;
    int ends[2];

    cr_assert_eq(pipe(ends), 0);
    cr_assert(dup2(ends[1], STDERR_FILENO) >= 0);
    log_set_time(NOON_NS);
    write_value(SPAN("nowhere"));
    log_plain(LOG_LEVEL_DEBUG, "nowhere");
    log_plain(LOG_LEVEL_ERROR, "no such file: %s", "x.yaml");
    len = read(ends[0], text, sizeof(text));
    cr_assert(len > 0);
    cr_assert_eq((size_t)len, strlen(TEXT_HEAD "error: no such file: x.yaml\n"));
    cr_assert_eq(memcmp(text, TEXT_HEAD "error: no such file: x.yaml\n", (size_t)len), 0);
    cr_assert(log_flush(0));
    cr_assert(!log_thread_attach());
}
