/* Builds log lines, without malloc, printf or system calls, and puts them on rings. Nothing
 * that a stranger sends may end a line, forge a field or break the JSON: all values pass
 * add_escaped(). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strerrordesc_np */
#endif
#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log_ring.h"
#include "core/octets.h"
#include "core/utf8.h"

/* Room kept for the end of a line: ,"cut":true}\n */
#define TAIL_ROOM 16

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error", [LOG_LEVEL_WARNING] = "warning", [LOG_LEVEL_NOTICE] = "notice",
    [LOG_LEVEL_INFO] = "info",   [LOG_LEVEL_DEBUG] = "debug",
};

/* --- what is shared by all threads --- */

static int level_wanted = -1; /* enum log_level; -1: nothing is written */
static int format_wanted;     /* enum log_format */
static char process_tag[32] = "ringpost[0]: ";

static struct log_ring *rings[1 + LOG_THREADS_MAX];
static size_t rings_count;        /* stored with release: the writer reads it without the lock */
static uint32_t rings_generation; /* changes when rings are freed, so that no thread keeps one */

static void (*sink)(void *context, enum log_level level, struct span line);
static void *sink_context;

/* --- what each thread has --- */

static _Thread_local struct log_ring *own_ring;
static _Thread_local uint32_t own_ring_generation;
static _Thread_local uint64_t own_time_ns;
static _Thread_local struct {
    uint64_t second; /* since 1970 */
    char text[20];   /* 2026-11-22T10:11:12. */
} own_date;

bool
log_enabled(enum log_level level)
{
    return (int)level <= __atomic_load_n(&level_wanted, __ATOMIC_RELAXED);
}

void
log_set_level(enum log_level level)
{
    if (__atomic_load_n(&level_wanted, __ATOMIC_RELAXED) >= 0)
        __atomic_store_n(&level_wanted, (int)level, __ATOMIC_RELAXED);
}

void
log_set_time(uint64_t realtime_ns)
{
    own_time_ns = realtime_ns;
}

/* --- escaping --- */

/* The well-formed UTF-8 character at in: its length and code point; 0 if there is none. */
static size_t
utf8_decode(struct span in, uint32_t *point)
{
    size_t len = utf8_character_len(in);

    if (len == 0)
        return 0;
    *point = len == 1 ? (uint8_t)in.data[0] : (uint8_t)in.data[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++)
        *point = *point << 6 | ((uint8_t)in.data[i] & 0x3fu);
    return len;
}

/* Characters that end a line or change what a terminal shows of its rest: C0 and C1 controls,
 * line and paragraph separators, marks and overrides of direction, invisible ones. */
static bool
point_misleads(uint32_t point)
{
    return point < 0x20 || (point >= 0x7f && point <= 0x9f) ||
           (point >= 0x200b && point <= 0x200f) || (point >= 0x2028 && point <= 0x202e) ||
           (point >= 0x2060 && point <= 0x206f) || point == 0xfeff ||
           (point >= 0xfff9 && point <= 0xfffb);
}

/* \u0000 as JSON writes it; the text format uses the same. */
static bool
add_point_escape(struct outbuf *out, uint32_t point)
{
    static const char hex[] = "0123456789abcdef";
    char text[6] = { '\\', 'u' };

    for (size_t i = 0; i < 4; i++)
        text[2 + i] = hex[point >> (12 - 4 * i) & 0xf];
    return outbuf_room(out) >= sizeof(text) && outbuf_add_some(out, span_of(text, sizeof(text)));
}

static bool
add_byte_escape(struct outbuf *out, char byte)
{
    char text[2] = { '\\', byte };

    switch (byte) {
    case '"':
    case '\\':
        break;
    case '\n':
        text[1] = 'n';
        break;
    case '\r':
        text[1] = 'r';
        break;
    case '\t':
        text[1] = 't';
        break;
    default:
        /* A byte that is not UTF-8 is shown as the character of its number, as Latin-1 has it. */
        return add_point_escape(out, (uint8_t)byte);
    }
    return outbuf_room(out) >= sizeof(text) && outbuf_add_some(out, span_of(text, sizeof(text)));
}

/* What may stand inside quotes as it is, and what without any: printable ASCII but '"' and '\\';
 * without quotes no space and no comma either. */
enum byte_kind { BYTE_PLAIN, BYTE_BARE };

static inline uint64_t
octets_not(uint64_t octets, enum byte_kind kind)
{
    uint64_t not_plain = octets_equal(octets, '"') | octets_equal(octets, '\\');

    if (kind == BYTE_PLAIN)
        return not_plain | octets_outside(octets, ' ');
    return not_plain | octets_equal(octets, ',') | octets_outside(octets, '!');
}

/* How many at the start are of this kind, eight at a time: each byte of each line is looked at. */
static inline size_t
kind_len(struct span in, enum byte_kind kind)
{
    size_t len = 0;
    uint64_t found;

    for (; in.len - len >= OCTETS_WIDTH; len += OCTETS_WIDTH) {
        found = octets_not(octets_load(in.data + len), kind);
        if (found != 0)
            return len + octets_first(found);
    }
    if (len == in.len)
        return len;
    found = octets_within(octets_not(octets_load_rest(in, len), kind), in.len - len);
    return found != 0 ? len + octets_first(found) : in.len;
}

/* The inside of a quoted string. False: it did not fit; what is written then ends between
 * characters. */
static bool
add_escaped(struct outbuf *out, struct span in)
{
    while (in.len > 0) {
        size_t plain = kind_len(in, BYTE_PLAIN);
        uint32_t point = 0;
        size_t len;

        if (!outbuf_add_some(out, span_first(in, plain)))
            return false;
        span_advance(&in, plain);
        if (in.len == 0)
            return true;
        len = utf8_decode(in, &point);
        if (len > 1 && !point_misleads(point)) {
            if (outbuf_room(out) < len)
                return false;
            outbuf_add(out, span_first(in, len));
        } else if (len > 1 ? !add_point_escape(out, point) : !add_byte_escape(out, in.data[0])) {
            return false;
        }
        span_advance(&in, len > 0 ? len : 1);
    }
    return true;
}

/* Whether the text format can show the value as it is. */
static bool
value_is_bare(struct span in)
{
    if (in.len == 0)
        return false;
    for (;;) {
        uint32_t point = 0;
        size_t len;

        span_advance(&in, kind_len(in, BYTE_BARE));
        if (in.len == 0)
            return true;
        len = utf8_decode(in, &point);
        if (len <= 1 || point_misleads(point))
            return false;
        span_advance(&in, len);
    }
}

/* --- parts of a line --- */

static void
add_digits(char *out, size_t digits, uint64_t number)
{
    while (digits > 0) {
        out[--digits] = (char)('0' + number % 10);
        number /= 10;
    }
}

/* Date and time of day of a second since 1970, proleptic Gregorian; years count from March, so
 * that the leap day is the last of its year. */
static void
date_write(uint64_t second, char out[20])
{
    uint64_t days = second / 86400 + 719468; /* since 0000-03-01 */
    uint64_t era = days / 146097;
    uint64_t day_of_era = days % 146097;
    uint64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    uint64_t day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    uint64_t march_month = (5 * day_of_year + 2) / 153;
    uint64_t month = march_month < 10 ? march_month + 3 : march_month - 9;

    memcpy(out, "0000-00-00T00:00:00.", 20);
    add_digits(out, 4, year_of_era + era * 400 + (month <= 2 ? 1 : 0));
    add_digits(out + 5, 2, month);
    add_digits(out + 8, 2, day_of_year - (153 * march_month + 2) / 5 + 1);
    add_digits(out + 11, 2, second / 3600 % 24);
    add_digits(out + 14, 2, second / 60 % 60);
    add_digits(out + 17, 2, second % 60);
}

static void
add_time(struct outbuf *out)
{
    uint64_t now = own_time_ns != 0 ? own_time_ns : clock_realtime_ns();
    char *to = out->data + out->len;

    ASSERT(outbuf_room(out) >= sizeof(own_date.text) + 7);
    if (own_date.second != now / NS_PER_S || own_date.text[0] == '\0') {
        own_date.second = now / NS_PER_S;
        date_write(own_date.second, own_date.text);
    }
    memcpy(to, own_date.text, sizeof(own_date.text));
    to += sizeof(own_date.text);
    add_digits(to, 6, now % NS_PER_S / 1000);
    to[6] = 'Z';
    out->len += sizeof(own_date.text) + 7;
}

static struct outbuf
line_out(struct log_line *line)
{
    return (struct outbuf){
        .data = line->text, .len = line->len, .size = sizeof(line->text) - TAIL_ROOM};
}

static void
line_keep(struct log_line *line, const struct outbuf *out)
{
    line->len = (uint16_t)out->len;
}

/* The level is part of the text only where somebody should look. */
static void
add_level_text(struct outbuf *out, uint8_t level)
{
    if (level <= LOG_LEVEL_WARNING) {
        outbuf_add(out, span_text(level_names[level]));
        outbuf_add(out, SPAN(": "));
    }
}

static void
line_event(struct log_line *line)
{
    struct outbuf out = line_out(line);

    if (line->event == NULL)
        return;
    if (line->format == LOG_FORMAT_JSON) {
        outbuf_add(&out, SPAN(",\"event\":\""));
        outbuf_add(&out, span_text(line->event));
        outbuf_add(&out, SPAN("\""));
    } else {
        add_level_text(&out, line->level);
        outbuf_add(&out, span_text(line->event));
    }
    line->event = NULL;
    line_keep(line, &out);
}

static void
line_start(struct log_line *line, enum log_level level, const char *event)
{
    struct outbuf out;

    line->event = event;
    line->len = 0;
    line->level = (uint8_t)level;
    line->format = (uint8_t)__atomic_load_n(&format_wanted, __ATOMIC_RELAXED);
    line->active = true;
    line->cut = false;
    line->has_fields = false;
    line->goes_on = false;
    out = line_out(line);
    if (line->format == LOG_FORMAT_JSON) {
        outbuf_add(&out, SPAN("{\"time\":\""));
        add_time(&out);
        outbuf_add(&out, SPAN("\",\"level\":\""));
        outbuf_add(&out, span_text(level_names[level]));
        outbuf_add(&out, SPAN("\""));
        line->prefix_bytes = 0;
    } else {
        add_time(&out);
        outbuf_add_char(&out, ' ');
        outbuf_add(&out, span_text(process_tag));
        line->prefix_bytes = (uint16_t)out.len;
    }
    line_keep(line, &out);
}

void
log_begin(struct log_line *line, enum log_level level, const char *event)
{
    line->active = false;
    line->goes_on = false;
    if (!log_enabled(level))
        return;
    ASSERT(level <= LOG_LEVEL_DEBUG);
    line_start(line, level, event);
}

/* ", key=" in one go: 15 times in the line of a message. */
static inline bool
add_key(struct outbuf *out, struct span key, bool comma)
{
    char *to = out->data + out->len;

    if (outbuf_room(out) < key.len + 3)
        return false;
    *to = ',';
    to += comma;
    *to++ = ' ';
    octets_copy(to, key);
    to[key.len] = '=';
    out->len += key.len + 2 + comma;
    return true;
}

static bool
add_key_json(struct outbuf *out, struct span key)
{
    return outbuf_add_some(out, SPAN(",\"")) && outbuf_add_some(out, key) &&
           outbuf_add_some(out, SPAN("\":"));
}

/* Writes the key. False: the line takes no more fields. */
static inline __attribute__((always_inline)) bool
field_begin(struct log_line *line, struct span key, struct outbuf *out)
{
    if (!line->active || line->cut)
        return false;
    if (line->event != NULL)
        line_event(line);
    *out = line_out(line);
    line->cut = line->format == LOG_FORMAT_JSON ? !add_key_json(out, key)
                                                : !add_key(out, key, line->has_fields);
    line->goes_on &= !line->cut;
    return !line->cut;
}

/* Keeps the field if it is whole, else takes none of it and ends the line's fields. */
static void
field_end(struct log_line *line, const struct outbuf *out, bool whole)
{
    line->cut = !whole;
    line->goes_on = whole && line->format == LOG_FORMAT_TEXT;
    if (!whole)
        return;
    line->has_fields = true;
    line_keep(line, out);
}

/* The short way: all fields but the first of a line in text format that has room. Room for a value
 * of up to `bytes`, with the key before it; no data: the long way, which finds out why. */
static inline struct outbuf
field_short(const struct log_line *line, struct span key, size_t bytes)
{
    char *to = (char *)line->text + line->len;

    if (!line->goes_on || line->len + key.len + 3 + bytes > sizeof(line->text) - TAIL_ROOM)
        return (struct outbuf){ 0 };
    memcpy(to, ", ", 2);
    octets_copy(to + 2, key);
    to[key.len + 2] = '=';
    return (struct outbuf){ .data = to + key.len + 3, .size = bytes };
}

static inline void
field_short_end(struct log_line *line, const struct outbuf *out)
{
    line->len = (uint16_t)(out->data + out->len - line->text);
}

/* Where to shorten a long value: not inside a UTF-8 sequence. */
static struct span
value_shortened(struct span value)
{
    size_t len = LOG_VALUE_BYTES_MAX - 3;
    size_t start = len;

    while (start > len - 3 && ((uint8_t)value.data[start] & 0xc0) == 0x80)
        start--;
    return span_first(value, ((uint8_t)value.data[start] & 0xc0) == 0x80 ? len : start);
}

static __attribute__((noinline)) void
field_text(struct log_line *line, struct span key, struct span value)
{
    bool shortened = value.len > LOG_VALUE_BYTES_MAX;
    struct outbuf out;
    bool whole;

    if (!field_begin(line, key, &out))
        return;
    if (shortened)
        value = value_shortened(value);
    if (line->format == LOG_FORMAT_TEXT && value_is_bare(value))
        whole = outbuf_add_some(&out, value) && (!shortened || outbuf_add_some(&out, SPAN("...")));
    else
        whole = outbuf_add_some(&out, SPAN("\"")) && add_escaped(&out, value) &&
                outbuf_add_some(&out, shortened ? SPAN("...\"") : SPAN("\""));
    field_end(line, &out, whole);
}

void
log_field_text(struct log_line *line, struct span key, struct span value)
{
    struct outbuf out = { 0 };

    if (value.len > 0 && value.len <= LOG_VALUE_BYTES_MAX &&
        kind_len(value, BYTE_BARE) == value.len)
        out = field_short(line, key, value.len);
    if (out.data == NULL) {
        field_text(line, key, value);
        return;
    }
    octets_copy(out.data, value);
    out.len = value.len;
    field_short_end(line, &out);
}

void
log_id(struct log_line *line, struct span queue_id)
{
    struct outbuf out;

    if (!line->active || queue_id.len == 0)
        return;
    if (line->format == LOG_FORMAT_JSON || line->event == NULL) {
        log_text(line, "id", queue_id);
        return;
    }
    out = line_out(line);
    if (add_escaped(&out, queue_id) && outbuf_room(&out) > LOG_LINE_BYTES_MAX / 2) {
        outbuf_add(&out, SPAN(": "));
        line_keep(line, &out);
    }
}

#define NUMBER_BYTES_MAX 20
#define DECIMALS 6 /* of a duration, at most; 3 at least */

static void
add_duration(struct outbuf *out, uint64_t nanoseconds)
{
    char *decimals;
    size_t len = DECIMALS;

    outbuf_add_number(out, nanoseconds / NS_PER_S);
    outbuf_add_char(out, '.');
    decimals = out->data + out->len;
    add_digits(decimals, len, nanoseconds % NS_PER_S / 1000);
    while (len > 3 && decimals[len - 1] == '0')
        len--;
    out->len += len;
}

static __attribute__((noinline)) void
field_number(struct log_line *line, struct span key, uint64_t number, bool duration)
{
    struct outbuf out;

    if (!field_begin(line, key, &out))
        return;
    if (outbuf_room(&out) < NUMBER_BYTES_MAX + (duration ? 1 + DECIMALS : 0)) {
        field_end(line, &out, false);
        return;
    }
    if (duration)
        add_duration(&out, number);
    else
        outbuf_add_number(&out, number);
    field_end(line, &out, true);
}

void
log_field_number(struct log_line *line, struct span key, uint64_t number)
{
    struct outbuf out = field_short(line, key, NUMBER_BYTES_MAX);

    if (out.data == NULL) {
        field_number(line, key, number, false);
        return;
    }
    outbuf_add_number(&out, number);
    field_short_end(line, &out);
}

void
log_field_duration(struct log_line *line, struct span key, uint64_t nanoseconds)
{
    struct outbuf out = field_short(line, key, NUMBER_BYTES_MAX + 1 + DECIMALS);

    if (out.data == NULL) {
        field_number(line, key, nanoseconds, true);
        return;
    }
    add_duration(&out, nanoseconds);
    field_short_end(line, &out);
}

void
log_errno(struct log_line *line, const char *key, int error_number)
{
    const char *text;

    if (!line->active)
        return;
    text = strerrordesc_np(error_number);
    log_text(line, key, text != NULL ? span_text(text) : SPAN("unknown error"));
}

/* --- sending it off --- */

static void
line_finish(struct log_line *line)
{
    struct outbuf out;

    line_event(line);
    out = line_out(line);
    out.size = sizeof(line->text);
    if (line->format == LOG_FORMAT_JSON)
        outbuf_add(&out, line->cut ? SPAN(",\"cut\":true}\n") : SPAN("}\n"));
    else
        outbuf_add(&out, line->cut ? SPAN(", cut=yes\n") : SPAN("\n"));
    line_keep(line, &out);
    line->active = false;
    line->goes_on = false;
}

static void
line_send(struct log_line *line)
{
    struct log_record record = {
        .len = line->len, .prefix_bytes = line->prefix_bytes, .level = line->level};
    enum log_put put = LOG_PUT_DROPPED;

    if (sink != NULL) {
        sink(sink_context, line->level, span_of(line->text, line->len));
        return;
    }
    if (own_ring != NULL &&
        own_ring_generation == __atomic_load_n(&rings_generation, __ATOMIC_ACQUIRE)) {
        put = log_ring_put(own_ring, &record, line->text);
    } else {
        log_writer_lock();
        if (rings_count > 0)
            put = log_ring_put(rings[0], &record, line->text);
        log_writer_unlock();
    }
    if (put != LOG_PUT_DROPPED)
        log_writer_notice(put == LOG_PUT_HALF_FULL);
}

void
log_end(struct log_line *line)
{
    if (!line->active)
        return;
    line_finish(line);
    line_send(line);
}

void
log_message_build(struct log_line *line, enum log_level level, struct span message)
{
    struct outbuf out;

    line_start(line, level, "plain");
    if (line->format == LOG_FORMAT_JSON) {
        line_event(line);
        out = line_out(line);
        outbuf_add(&out, SPAN(",\"text\":\""));
        out.size--; /* the closing quote */
        line->cut = !add_escaped(&out, message);
        out.size++;
        outbuf_add_char(&out, '"');
    } else {
        line->event = NULL;
        out = line_out(line);
        add_level_text(&out, line->level);
        line->cut = !add_escaped(&out, message);
    }
    line_keep(line, &out);
    line_finish(line);
}

void
log_plain(enum log_level level, const char *format, ...)
{
    char text[LOG_LINE_BYTES_MAX];
    struct log_line line;
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (len < 0)
        return;
    if ((size_t)len >= sizeof(text))
        len = sizeof(text) - 1;
    if (__atomic_load_n(&level_wanted, __ATOMIC_RELAXED) < 0) {
        if (level > LOG_LEVEL_INFO)
            return;
        log_message_build(&line, level, span_of(text, (size_t)len));
        log_writer_early(span_of(line.text, line.len));
        return;
    }
    if (!log_enabled(level))
        return;
    log_message_build(&line, level, span_of(text, (size_t)len));
    line_send(&line);
}

void
log_set_sink(void (*new_sink)(void *context, enum log_level level, struct span line), void *context,
             enum log_format format, enum log_level level)
{
    sink = new_sink;
    sink_context = context;
    __atomic_store_n(&format_wanted, (int)format, __ATOMIC_RELAXED);
    __atomic_store_n(&level_wanted, new_sink != NULL ? (int)level : -1, __ATOMIC_RELAXED);
}

/* --- rings --- */

static struct log_ring *
ring_make(void)
{
    struct log_ring *ring = aligned_alloc(128, sizeof(struct log_ring));

    if (ring != NULL)
        memset(ring, 0, sizeof(*ring));
    return ring;
}

/* With the lock held. */
static void
ring_add(struct log_ring *ring)
{
    rings[rings_count] = ring;
    __atomic_store_n(&rings_count, rings_count + 1, __ATOMIC_RELEASE);
}

bool
log_thread_attach(void)
{
    struct log_ring *ring = NULL;

    log_writer_lock();
    if (rings_count > 0 && rings_count <= LOG_THREADS_MAX)
        ring = ring_make();
    if (ring != NULL) {
        ring_add(ring);
        own_ring_generation = __atomic_load_n(&rings_generation, __ATOMIC_RELAXED);
    }
    own_ring = ring;
    log_writer_unlock();
    return ring != NULL;
}

size_t
log_rings_count(void)
{
    return __atomic_load_n(&rings_count, __ATOMIC_ACQUIRE);
}

struct log_ring *
log_rings_get(size_t index)
{
    return rings[index];
}

bool
log_rings_open(enum log_format format, enum log_level level, uint32_t process_id)
{
    struct log_ring *ring = ring_make();

    if (ring == NULL)
        return false;
    ASSERT(log_rings_count() == 0);
    snprintf(process_tag, sizeof(process_tag), "ringpost[%u]: ", process_id);
    log_writer_lock();
    ring_add(ring);
    log_writer_unlock();
    sink = NULL;
    __atomic_store_n(&format_wanted, (int)format, __ATOMIC_RELAXED);
    __atomic_store_n(&level_wanted, (int)level, __ATOMIC_RELAXED);
    return true;
}

void
log_rings_close(bool release)
{
    __atomic_store_n(&level_wanted, -1, __ATOMIC_RELAXED);
    if (!release)
        return;
    log_writer_lock();
    for (size_t i = 0; i < rings_count; i++) {
        free(rings[i]);
        rings[i] = NULL;
    }
    __atomic_store_n(&rings_count, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&rings_generation, rings_generation + 1, __ATOMIC_RELEASE);
    log_writer_unlock();
}
