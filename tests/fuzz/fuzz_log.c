/* What strangers say ends up in log lines: a value must stay a value. Each input is written as the
 * values of some fields, in both formats, and read again: one line, no control octets, in JSON a
 * flat object of just the members that were written. */
#include <stdint.h>

#include "core/log.h"
#include "core/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char text[2 * LOG_LINE_BYTES_MAX];
static size_t text_len;

static void
capture(void *context, enum log_level level, struct span line)
{
    (void)context;
    (void)level;
    ASSERT(text_len == 0); /* one event, one line */
    ASSERT(line.len <= LOG_LINE_BYTES_MAX);
    memcpy(text, line.data, line.len);
    text_len = line.len;
}

static void
line_check(void)
{
    ASSERT(text_len > 0 && text[text_len - 1] == '\n');
    text_len--;
    for (size_t i = 0; i < text_len; i++)
        ASSERT((unsigned char)text[i] >= ' ' && text[i] != 0x7F);
    ASSERT(utf8_valid(span_of(text, text_len)));
}

/* A JSON string at *at (RFC 8259 7); false: none. */
static bool
string_take(size_t *at)
{
    size_t i = *at;

    if (i >= text_len || text[i++] != '"')
        return false;
    while (i < text_len && text[i] != '"') {
        size_t escape = text[i] == '\\' ? (i + 1 < text_len && text[i + 1] == 'u' ? 6 : 2) : 1;

        if (escape > 1)
            ASSERT(i + 1 < text_len && strchr("\"\\/bfnrtu", text[i + 1]) != NULL);
        for (size_t k = 2; escape == 6 && k < 6; k++)
            ASSERT(i + k < text_len && strchr("0123456789abcdefABCDEF", text[i + k]) != NULL);
        i += escape;
    }
    ASSERT(i < text_len);
    *at = i + 1;
    return true;
}

/* Returns the number of members. */
static unsigned
object_check(void)
{
    size_t at = 0;
    unsigned members = 0;

    ASSERT(text[at++] == '{');
    for (;;) {
        ASSERT(string_take(&at));
        ASSERT(at < text_len && text[at++] == ':');
        if (!string_take(&at)) {
            size_t start = at;

            while (at < text_len && strchr("0123456789.true", text[at]) != NULL)
                at++;
            ASSERT(at > start);
        }
        members++;
        ASSERT(at < text_len);
        if (text[at] == '}')
            break;
        ASSERT(text[at++] == ',');
    }
    ASSERT(at + 1 == text_len);
    return members;
}

static void
write_event(struct span id, struct span a, struct span b)
{
    struct log_line line;

    text_len = 0;
    log_begin(&line, LOG_LEVEL_INFO, "refused");
    log_id(&line, id);
    log_text(&line, "helo", a);
    log_number(&line, "port", 25);
    log_text(&line, "reply", b);
    log_end(&line);
    line_check();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct span a = span_first(in, size / 2), b = span_after(in, size / 2);

    if (size > 4 * LOG_VALUE_BYTES_MAX)
        return -1;
    log_set_time(UINT64_C(1773480000) * 1000000000);
    log_set_sink(capture, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    write_event(SPAN("4ZyR1B"), a, b);
    write_event(SPAN(""), in, SPAN(""));
    log_set_sink(capture, NULL, LOG_FORMAT_JSON, LOG_LEVEL_INFO);
    write_event(SPAN("4ZyR1B"), a, b);
    /* time, level, event, id, helo, port, reply; cut=yes where it did not all fit */
    unsigned members = object_check();
    ASSERT(members == 7 || memmem(text, text_len, "\"cut\"", 5) != NULL);
    write_event(SPAN(""), in, SPAN("250 2.0.0 Ok"));
    (void)object_check();
    return 0;
}
