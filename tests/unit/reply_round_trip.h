/* reply_round_trip: the oracle that the unit test and the fuzz target of core/reply share.
 * Does:    writes a reply, holds the octets against RFC 5321 4.2 and 4.5.3.1.5 without help of the
 *          parser, then reads them back and compares.
 * Owns:    nothing.
 * Memory:  fixed, inside the functions.
 * Errors:  any difference ends the process (ASSERT).
 */
#ifndef RINGPOST_TESTS_UNIT_REPLY_ROUND_TRIP_H
#define RINGPOST_TESTS_UNIT_REPLY_ROUND_TRIP_H

#include "core/reply.h"
#include "core/utf8.h"

struct reply_reading {
    struct reply reply; /* as a client that uses reply_add_line would keep it */
    bool code_in_text;  /* a line written without enhanced code reads as with one */
    size_t lines;
    size_t text_len; /* lines joined by '\n' */
    char text[RECEIVER_REPLY_ROOM];
};

/* Takes one line off the wire octets, with its CRLF: the only place for control characters. */
static inline struct span
wire_line_take(struct span *wire)
{
    const char *cr = memchr(wire->data, '\r', wire->len);

    ASSERT(cr != NULL);
    struct span line = span_first(*wire, (size_t)(cr - wire->data));
    span_advance(wire, line.len);
    ASSERT(wire->len >= 2 && wire->data[1] == '\n');
    span_advance(wire, 2);
    ASSERT(line.len + 2 <= REPLY_LINE_BYTES_MAX);
    ASSERT(line.len >= 4);
    for (size_t i = 0; i < line.len; i++)
        ASSERT((unsigned char)line.data[i] >= ' ' && line.data[i] != 0x7F);
    ASSERT(utf8_valid(line)); /* a fold is between characters */
    ASSERT(line.data[3] == (wire->len > 0 ? '-' : ' '));
    return line;
}

static inline void
reading_add(struct reply_reading *reading, const struct reply_line *line)
{
    if (reading->lines++ > 0)
        reading->text[reading->text_len++] = '\n';
    ASSERT(line->text.len <= sizeof(reading->text) - reading->text_len);
    if (line->text.len > 0)
        memcpy(reading->text + reading->text_len, line->text.data, line->text.len);
    reading->text_len += line->text.len;
}

/* The texts without spaces and line ends: folding turns one into the other, or adds a line end. */
static inline size_t
squeeze(struct span text, char *out)
{
    size_t len = 0;

    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] != ' ' && text.data[i] != '\n')
            out[len++] = text.data[i];
    return len;
}

static inline void
text_compare(const struct reply *reply, const struct reply_reading *reading, size_t wire_len)
{
    struct span text = span_of(reply->text, reply->text_len);
    struct span again = span_of(reading->text, reading->text_len);
    char text_squeezed[REPLY_TEXT_BYTES_MAX], again_squeezed[RECEIVER_REPLY_ROOM];
    size_t text_len = squeeze(text, text_squeezed), again_len = squeeze(again, again_squeezed);

    ASSERT(again_len <= text_len);
    ASSERT(memcmp(text_squeezed, again_squeezed, again_len) == 0);
    if (again_len < text_len) /* cut only for want of room */
        ASSERT(wire_len + REPLY_LINE_BYTES_MAX > RECEIVER_REPLY_ROOM);

    size_t longest = 0, lines = 1;
    for (size_t i = 0, length = 0; i < text.len; i++) {
        length = text.data[i] == '\n' ? 0 : length + 1;
        longest = length > longest ? length : longest;
        lines += text.data[i] == '\n';
    }
    /* 16: "250-2.999.999 " and CRLF. Nothing had to be folded or cut: nothing may differ. */
    if (longest + 16 > REPLY_LINE_BYTES_MAX || text.len + lines * 16 > RECEIVER_REPLY_ROOM)
        return;
    ASSERT(span_equal(text, again));
    ASSERT(span_equal(text, span_of(reading->reply.text, reading->reply.text_len)));
}

static inline void
reply_round_trip(const struct reply *reply, bool with_enhanced)
{
    char bytes[RECEIVER_REPLY_ROOM + 8];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    static struct reply_reading reading;
    unsigned class = reply->code / 100u;

    outbuf_add(&out, SPAN("before")); /* what the buffer held stays */
    reply_write(reply, with_enhanced, &out);
    struct span wire = span_after(outbuf_span(&out), 6);
    ASSERT(span_equal(span_first(outbuf_span(&out), 6), SPAN("before")));
    ASSERT(wire.len > 0 && wire.len <= RECEIVER_REPLY_ROOM);

    memset(&reading, 0, sizeof(reading));
    for (size_t wire_len = wire.len; wire.len > 0;) {
        struct reply_line line;
        ASSERT(reply_line_parse(wire_line_take(&wire), &line));
        ASSERT(line.code == reply->code);
        ASSERT(line.last == (wire.len == 0));
        if (with_enhanced && class != 3) { /* RFC 2034: on every line, and the same */
            ASSERT(line.enhanced.class == class);
            ASSERT(line.enhanced.subject == reply->enhanced.subject);
            ASSERT(line.enhanced.detail == reply->enhanced.detail);
        } else {
            reading.code_in_text = reading.code_in_text || line.enhanced.class != 0;
        }
        reading_add(&reading, &line);
        ASSERT(reply_add_line(&reading.reply, &line));
        if (wire.len == 0 && !reading.code_in_text)
            text_compare(reply, &reading, wire_len);
    }
    ASSERT(reading.reply.code == reply->code);
    if (with_enhanced && reply->enhanced.class != 0)
        ASSERT(reading.reply.enhanced.class == reply->enhanced.class);
}

#endif
