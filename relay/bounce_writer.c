/* Writes a report so that nothing which peers said can break it: each octet passes through here,
 * and here alone lines are ended, folded, dot-stuffed and encoded. Invariants:
 *  1. A line of text that is not the original's has at most LINE_BYTES_MAX octets.
 *  2. A dot at a line's start is doubled (RFC 5321 4.5.2), whoever wrote it. */
#include "relay/bounce_private.h"

#include "core/header.h"
#include "core/utf8.h"

enum {
    COLUMNS = 78,         /* RFC 5322 2.1.1 */
    QUOTED_COLUMNS = 75,  /* and '=' (RFC 2045 6.7) */
    TEXT_COLUMNS = 72,    /* of what is encoded then: most lines need no '=' at their end */
    LINE_BYTES_MAX = 998, /* RFC 5322 2.1.1 */
    /* Where foreign text without blanks is cut into lines; room for one character more. */
    WORD_COLUMNS = 900,
    ESCAPE_BYTES_MAX = 10, /* \x{10FFFF} */
};
_Static_assert(WORD_COLUMNS + ESCAPE_BYTES_MAX < LINE_BYTES_MAX, "a cut line is legal");

static const char hex_digits[] = "0123456789ABCDEF";

void
writer_start(struct bounce_writer *writer, struct buffers *buffers)
{
    *writer = (struct bounce_writer){ .buffers = buffers, .chain = CHAIN_EMPTY, .held = -1 };
    writer->pending = (struct outbuf){ .data = writer->piece, .size = sizeof(writer->piece) };
}

static void
writer_flush(struct bounce_writer *writer)
{
    if (!writer->failed)
        writer->failed =
            !chain_copy(writer->buffers, &writer->chain, outbuf_span(&writer->pending));
    writer->pending.len = 0;
}

static void
pending_add(struct bounce_writer *writer, char octet)
{
    if (outbuf_room(&writer->pending) == 0)
        writer_flush(writer);
    outbuf_add_char(&writer->pending, octet);
}

bool
writer_finish(struct bounce_writer *writer, struct chain *out)
{
    ASSERT(writer->wire_column == 0);
    ASSERT(writer->held < 0);
    pending_add(writer, '.');
    pending_add(writer, '\r');
    pending_add(writer, '\n');
    writer_flush(writer);
    if (writer->failed)
        chain_release(writer->buffers, &writer->chain);
    else
        chain_move(writer->buffers, out, &writer->chain);
    return !writer->failed;
}

/* --- octets --- */

static void
wire_octet(struct bounce_writer *writer, char octet)
{
    if (octet == '.' && writer->wire_column == 0)
        pending_add(writer, '.');
    pending_add(writer, octet);
    writer->size++;
    writer->eight_bit |= (unsigned char)octet > 127;
    writer->wire_column = octet == '\n' ? 0 : writer->wire_column + 1;
}

/* A soft line break where the next `len` octets would make the line too long. */
static void
quoted_room(struct bounce_writer *writer, size_t len)
{
    if (writer->wire_column + len <= QUOTED_COLUMNS)
        return;
    wire_octet(writer, '=');
    wire_octet(writer, '\r');
    wire_octet(writer, '\n');
}

static void
quoted_encode(struct bounce_writer *writer, char octet)
{
    unsigned char value = (unsigned char)octet;

    quoted_room(writer, 3);
    wire_octet(writer, '=');
    wire_octet(writer, hex_digits[value >> 4]);
    wire_octet(writer, hex_digits[value & 15]);
}

/* What was held can be written now that its successor is known; -1: nothing follows. */
static void
quoted_release(struct bounce_writer *writer, int next)
{
    int held = writer->held;

    writer->held = -1;
    if (held < 0)
        return;
    /* RFC 2045 6.7 (3): no blank at a line's end. A CR that ends no line is an octet like others.
     */
    if (held == '\r' || next < 0 || next == '\r') {
        quoted_encode(writer, (char)held);
        return;
    }
    quoted_room(writer, 1);
    wire_octet(writer, (char)held);
}

static void
quoted_octet(struct bounce_writer *writer, char octet)
{
    if (writer->held == '\r' && octet == '\n') {
        writer->held = -1;
        wire_octet(writer, '\r');
        wire_octet(writer, '\n');
        return;
    }
    quoted_release(writer, (unsigned char)octet);
    if (octet == '\r' || octet == ' ' || octet == '\t') {
        writer->held = octet;
    } else if (octet > ' ' && octet <= '~' && octet != '=') {
        quoted_room(writer, 1);
        wire_octet(writer, octet);
    } else {
        quoted_encode(writer, octet);
    }
}

void
writer_quote(struct bounce_writer *writer, bool on)
{
    quoted_release(writer, -1);
    writer->quoted = on;
}

void
writer_octet(struct bounce_writer *writer, char octet)
{
    if (writer->quoted)
        quoted_octet(writer, octet);
    else
        wire_octet(writer, octet);
    writer->column = octet == '\n' ? 0 : writer->column + 1;
}

void
writer_add(struct bounce_writer *writer, struct span text)
{
    for (size_t i = 0; i < text.len; i++)
        writer_octet(writer, text.data[i]);
}

void
writer_number(struct bounce_writer *writer, uint64_t number)
{
    char digits[20];
    struct outbuf out = { .data = digits, .size = sizeof(digits) };

    outbuf_add_number(&out, number);
    writer_add(writer, outbuf_span(&out));
}

void
writer_date(struct bounce_writer *writer, uint64_t when_s)
{
    char text[DATE_TIME_BYTES];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    date_time_write(when_s <= INT64_MAX ? (time_t)when_s : INT64_MAX, &out);
    writer_add(writer, outbuf_span(&out));
}

/* --- text of others --- */

bool
any_eight_bit(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.data[i] > 127)
            return true;
    return false;
}

static uint32_t
character_value(struct span character)
{
    static const uint8_t first_masks[5] = { 0, 0x7F, 0x1F, 0x0F, 0x07 };
    uint32_t value = (unsigned char)character.data[0] & first_masks[character.len];

    for (size_t i = 1; i < character.len; i++)
        value = value << 6 | ((unsigned char)character.data[i] & 0x3F);
    return value;
}

/* RFC 6533 3, EmbeddedUnicodeChar: no leading zeros, two digits at least. */
static struct span
character_escape(uint32_t value, char escape[ESCAPE_BYTES_MAX])
{
    struct outbuf out = { .data = escape, .size = ESCAPE_BYTES_MAX };
    unsigned shift = 4;

    while (value >> shift > 15)
        shift += 4;
    outbuf_add(&out, SPAN("\\x{"));
    for (;; shift -= 4) {
        outbuf_add_char(&out, hex_digits[value >> shift & 15]);
        if (shift == 0)
            break;
    }
    outbuf_add_char(&out, '}');
    return outbuf_span(&out);
}

/* What the next character of foreign text becomes; takes it off the text. */
static struct span
character_take(struct span *text, bool utf8, char escape[ESCAPE_BYTES_MAX])
{
    size_t len = utf8_character_len(*text);
    struct span character = span_first(*text, len);

    if (len == 0 || !utf8_printable(character)) {
        span_advance(text, 1);
        return SPAN("?");
    }
    span_advance(text, len);
    return utf8 || len == 1 ? character : character_escape(character_value(character), escape);
}

static void
line_break(struct bounce_writer *writer)
{
    writer_add(writer, SPAN("\r\n"));
    writer_add(writer, writer->indent);
}

void
writer_foreign(struct bounce_writer *writer, struct span text)
{
    char escape[ESCAPE_BYTES_MAX];

    while (text.len > 0) {
        struct span character = character_take(&text, writer->utf8, escape);

        if (writer->column >= WORD_COLUMNS)
            line_break(writer);
        writer_add(writer, character);
    }
}

void
writer_utf8_address(struct bounce_writer *writer, struct span address)
{
    char escape[ESCAPE_BYTES_MAX];

    while (address.len > 0) {
        char octet = address.data[0];

        if (!writer->utf8 && (octet == '+' || octet == '=' || octet == '\\' || octet == ' ')) {
            writer_add(writer, character_escape((unsigned char)octet, escape)); /* no QCHAR */
            span_advance(&address, 1);
            continue;
        }
        size_t len = utf8_character_len(address);
        writer_foreign(writer, span_first(address, len > 0 ? len : 1));
        span_advance(&address, len > 0 ? len : 1);
    }
}

void
writer_gap(struct bounce_writer *writer, size_t len)
{
    size_t columns = writer->quoted ? TEXT_COLUMNS : COLUMNS;

    if (writer->column == 0)
        writer_add(writer, writer->indent);
    else if (writer->column == writer->indent.len)
        return;
    else if (writer->column + 1 + len > columns)
        line_break(writer);
    else
        writer_add(writer, SPAN(" "));
}

static size_t
foreign_len(struct span text, bool utf8)
{
    char escape[ESCAPE_BYTES_MAX];
    size_t len = 0;

    while (text.len > 0)
        len += character_take(&text, utf8, escape).len;
    return len;
}

void
writer_words(struct bounce_writer *writer, struct span text)
{
    while (text.len > 0) {
        size_t len = 0;

        while (len < text.len && text.data[len] != ' ' && text.data[len] != '\n')
            len++;
        struct span word = span_first(text, len);
        if (len > 0) {
            writer_gap(writer, foreign_len(word, writer->utf8));
            writer_foreign(writer, word);
        }
        span_advance(&text, len < text.len ? len + 1 : len);
    }
}
