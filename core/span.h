/* span: slices of bytes that somebody else owns, and the bounded buffer that replies are written
 * to.
 * Does:    struct span is a read-only view; struct outbuf collects output up to a fixed size.
 * Owns:    nothing; the memory behind both belongs to the caller and must outlive the view.
 * Memory:  none allocated.
 * Errors:  writing past an outbuf's size is our bug: ASSERT. Ask outbuf_room() first.
 */
#ifndef RINGPOST_CORE_SPAN_H
#define RINGPOST_CORE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/assert.h"

struct span {
    const char *data;
    size_t len; /* bytes */
};

struct outbuf {
    char *data;
    size_t len;  /* bytes written so far */
    size_t size; /* bytes at data */
};

/* A span over a string literal. */
#define SPAN(literal) ((struct span){ .data = "" literal, .len = sizeof(literal) - 1 })

static inline struct span
span_of(const void *data, size_t len)
{
    return (struct span){ .data = data, .len = len };
}

static inline struct span
span_text(const char *text)
{
    return span_of(text, strlen(text));
}

static inline struct span
span_first(struct span s, size_t len)
{
    ASSERT(len <= s.len);
    return span_of(s.data, len);
}

static inline struct span
span_after(struct span s, size_t len)
{
    ASSERT(len <= s.len);
    /* An empty span may have no data at all, and NULL + 0 is undefined. */
    return len == 0 ? s : span_of(s.data + len, s.len - len);
}

static inline void
span_advance(struct span *s, size_t len)
{
    *s = span_after(*s, len);
}

static inline bool
span_equal(struct span a, struct span b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* ASCII only, as SMTP keywords and domains are compared (RFC 5321 2.4). */
static inline char
char_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static inline bool
char_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool
char_is_letter(char c)
{
    return char_lower(c) >= 'a' && char_lower(c) <= 'z';
}

static inline bool
span_equal_ignore_case(struct span a, struct span b)
{
    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++)
        if (char_lower(a.data[i]) != char_lower(b.data[i]))
            return false;
    return true;
}

static inline bool
span_starts_ignore_case(struct span s, struct span prefix)
{
    return s.len >= prefix.len && span_equal_ignore_case(span_first(s, prefix.len), prefix);
}

/* Takes the decimal digits at the start of *s. False: there are none. *number is UINT64_MAX when
 * they say more than that. */
static inline bool
span_take_number(struct span *s, uint64_t *number)
{
    size_t len = 0;

    *number = 0;
    for (; len < s->len && char_is_digit(s->data[len]); len++)
        if (__builtin_mul_overflow(*number, 10, number) ||
            __builtin_add_overflow(*number, (uint64_t)(s->data[len] - '0'), number))
            *number = UINT64_MAX;
    span_advance(s, len);
    return len > 0;
}

static inline struct span
outbuf_span(const struct outbuf *out)
{
    return span_of(out->data, out->len);
}

static inline size_t
outbuf_room(const struct outbuf *out)
{
    ASSERT_SLOW(out->len <= out->size);
    return out->size - out->len;
}

static inline void
outbuf_add(struct outbuf *out, struct span s)
{
    ASSERT(s.len <= outbuf_room(out));
    if (s.len > 0)
        memcpy(out->data + out->len, s.data, s.len);
    out->len += s.len;
}

static inline void
outbuf_add_char(struct outbuf *out, char c)
{
    ASSERT(outbuf_room(out) > 0);
    out->data[out->len++] = c;
}

/* Decimal, without snprintf: log lines and BDAT sizes are written on the hot path. */
static inline void
outbuf_add_number(struct outbuf *out, uint64_t number)
{
    size_t digits = 1;

    for (uint64_t rest = number; rest >= 10; rest /= 10)
        digits++;
    ASSERT(digits <= outbuf_room(out));
    out->len += digits;
    for (char *to = out->data + out->len; digits > 0; digits--, number /= 10)
        *--to = (char)('0' + number % 10);
}

/* As much of s as fits; returns false when it was cut. For log lines and reply texts. */
static inline bool
outbuf_add_some(struct outbuf *out, struct span s)
{
    size_t room = outbuf_room(out);

    outbuf_add(out, span_first(s, s.len < room ? s.len : room));
    return s.len <= room;
}

#endif
