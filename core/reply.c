/* What a next hop says is handed on to our client, so the text of a reply is made harmless when it
 * enters a struct reply; writing, logging and bounces may rely on that. Invariants of a reply:
 *  1. text holds well-formed UTF-8 without control characters, but for '\n' between lines;
 *  2. enhanced.class is 0 or equals the code's first digit, and is 0 for 3xx;
 *  3. enhanced.subject and .detail are at most 999. */
#include "core/reply.h"

#include "core/utf8.h"

#define CUT_MARK_BYTES 3 /* "..." */

/* "250-2.999.999 " and CRLF around the text of a line. */
#define LINE_PREFIX_BYTES_MAX REPLY_CODES_BYTES_MAX
#define LINE_TEXT_BYTES_MAX (REPLY_LINE_BYTES_MAX - LINE_PREFIX_BYTES_MAX - 2)

_Static_assert(RECEIVER_REPLY_ROOM >= REPLY_LINE_BYTES_MAX, "a reply's first line always fits");
_Static_assert(REPLY_TEXT_BYTES_MAX <= UINT16_MAX, "text_len holds the length");

/* The class that enhanced codes of this reply code have; 0: it has none (3xx, RFC 2034). */
static unsigned
enhanced_class(unsigned code)
{
    unsigned class = code / 100;

    return class == 2 || class == 4 || class == 5 ? class : 0;
}

static void
reply_check(const struct reply *reply)
{
    ASSERT(reply->code == 0 || (reply->code >= 200 && reply->code <= 599));
    ASSERT(reply->text_len <= REPLY_TEXT_BYTES_MAX);
    ASSERT(reply->enhanced.class == 0 || reply->enhanced.class == enhanced_class(reply->code));
    ASSERT(reply->enhanced.subject <= 999);
    ASSERT(reply->enhanced.detail <= 999);
}

/* Each character: where a reply is complete, not for each line that is added. */
static void
text_check(const struct reply *reply)
{
#ifdef RINGPOST_SLOW_CHECKS
    struct span rest = span_of(reply->text, reply->text_len);
    while (rest.len > 0) {
        size_t len = utf8_character_len(rest);
        ASSERT(len > 0);
        ASSERT(rest.data[0] == '\n' || utf8_printable(span_first(rest, len)));
        span_advance(&rest, len);
    }
#else
    (void)reply;
#endif
}

/* --- reading --- */

/* "." 1*3DIGIT; bytes taken, 0: none. */
static size_t
sub_code_parse(struct span in, uint16_t *out)
{
    size_t len = 1;
    unsigned value = 0;

    if (in.len == 0 || in.data[0] != '.')
        return 0;
    while (len < in.len && len < 4 && char_is_digit(in.data[len]))
        value = value * 10 + (unsigned)(in.data[len++] - '0');
    if (len == 1 || (len < in.len && char_is_digit(in.data[len])))
        return 0;
    *out = (uint16_t)value;
    return len;
}

/* "2.1.0", as nearly all are: one digit each, and none behind them. */
static bool
single_digits(struct span in)
{
    return in.len >= 5 && in.data[1] == '.' && char_is_digit(in.data[2]) && in.data[3] == '.' &&
           char_is_digit(in.data[4]) && (in.len == 5 || !char_is_digit(in.data[5]));
}

size_t
enhanced_code_parse(struct span in, struct enhanced_code *out)
{
    struct enhanced_code code = { .class = 0 };

    *out = code;
    if (in.len == 0 || (in.data[0] != '2' && in.data[0] != '4' && in.data[0] != '5'))
        return 0;
    code.class = (uint8_t)(in.data[0] - '0');
    if (single_digits(in)) {
        code.subject = (uint16_t)(in.data[2] - '0');
        code.detail = (uint16_t)(in.data[4] - '0');
        *out = code;
        return 5;
    }
    size_t subject = sub_code_parse(span_after(in, 1), &code.subject);
    if (subject == 0)
        return 0;
    size_t detail = sub_code_parse(span_after(in, 1 + subject), &code.detail);
    if (detail == 0)
        return 0;
    *out = code;
    return 1 + subject + detail;
}

/* RFC 5321 4.2 lets the text be TAB and printable ASCII; octets above 127 are judged when they
 * are kept. */
static bool
text_acceptable(struct span text, bool *plain)
{
    size_t plain_len = utf8_plain_len(text);

    *plain = plain_len == text.len;
    for (size_t i = plain_len; i < text.len; i++) {
        unsigned char octet = (unsigned char)text.data[i];
        if ((octet < ' ' && octet != '\t') || octet == 0x7F)
            return false;
    }
    return true;
}

/* RFC 2034 4: the code stands at the start of the text, and a space after it. One of another
 * class (or before a colon, or in a 3xx reply) is no code for us, but text that a person may want
 * to read. */
static void
enhanced_code_take(struct reply_line *line)
{
    struct enhanced_code code;
    size_t len = enhanced_code_parse(line->text, &code);

    if (len == 0 || code.class != enhanced_class(line->code))
        return;
    if (len < line->text.len) {
        if (line->text.data[len] != ' ' && line->text.data[len] != '\t')
            return;
        len++;
    }
    line->enhanced = code;
    span_advance(&line->text, len);
}

bool
reply_line_parse(struct span line, struct reply_line *out)
{
    struct reply_line parsed = { .last = true, .text = span_after(line, line.len) };

    *out = parsed;
    if (line.len < 3 || line.data[0] < '2' || line.data[0] > '5')
        return false;
    if (!char_is_digit(line.data[1]) || !char_is_digit(line.data[2]))
        return false;
    for (size_t i = 0; i < 3; i++)
        parsed.code = (uint16_t)(parsed.code * 10 + (line.data[i] - '0'));
    if (line.len > 3) { /* a server may leave out the space before no text, 4.2 */
        if (line.data[3] != ' ' && line.data[3] != '-')
            return false;
        parsed.last = line.data[3] == ' ';
        parsed.text = span_after(line, 4);
        if (!text_acceptable(parsed.text, &parsed.plain))
            return false;
        enhanced_code_take(&parsed);
    }
    *out = parsed;
    return true;
}

/* --- keeping --- */

void
reply_clear(struct reply *reply)
{
    reply->code = 0;
    reply->text_len = 0;
    reply->enhanced = (struct enhanced_code){ .class = 0 };
}

/* Fills the text up to its limit with dots, from a character's start. A full text takes no more
 * lines. */
static void
text_mark_cut(struct reply *reply)
{
    size_t end = REPLY_TEXT_BYTES_MAX - CUT_MARK_BYTES;

    ASSERT(reply->text_len >= end);
    while (end > 0 && end < reply->text_len && (reply->text[end] & 0xC0) == 0x80)
        end--;
    memset(reply->text + end, '.', REPLY_TEXT_BYTES_MAX - end);
    reply->text_len = REPLY_TEXT_BYTES_MAX;
}

/* What a character of foreign text becomes; *len is what it takes of the text. */
static struct span
character_clean(struct span text, bool line_ends_kept, size_t *len)
{
    size_t character_len = utf8_character_len(text);

    *len = 1;
    if (text.data[0] == '\t')
        return SPAN(" ");
    if (text.data[0] == '\n' && line_ends_kept)
        return SPAN("\n");
    if (character_len == 0 || !utf8_printable(span_first(text, character_len)))
        return SPAN("?");
    *len = character_len;
    return span_first(text, character_len);
}

static void
text_add(struct reply *reply, struct span text, bool plain, bool line_ends_kept)
{
    if (plain && text.len <= (size_t)(REPLY_TEXT_BYTES_MAX - reply->text_len)) {
        octets_copy(reply->text + reply->text_len, text);
        reply->text_len = (uint16_t)(reply->text_len + text.len);
        return;
    }
    while (text.len > 0) {
        size_t len = utf8_plain_len(text), room = REPLY_TEXT_BYTES_MAX - reply->text_len;
        struct span clean;

        if (len > 1 && room > 1) { /* nearly all of nearly every reply: in one go */
            len = len < room ? len : room;
            memcpy(reply->text + reply->text_len, text.data, len);
            reply->text_len = (uint16_t)(reply->text_len + len);
            span_advance(&text, len);
            continue;
        }
        clean = character_clean(text, line_ends_kept, &len);
        if (clean.len > (size_t)(REPLY_TEXT_BYTES_MAX - reply->text_len)) {
            text_mark_cut(reply);
            return;
        }
        memcpy(reply->text + reply->text_len, clean.data, clean.len);
        reply->text_len = (uint16_t)(reply->text_len + clean.len);
        span_advance(&text, len);
    }
}

bool
reply_add_line(struct reply *reply, const struct reply_line *line)
{
    ASSERT(line->code >= 200 && line->code <= 599);
    ASSERT(line->enhanced.class == 0 || line->enhanced.class == enhanced_class(line->code));
    bool first = reply->code == 0;

    if (!first && reply->code != line->code)
        return false;
    reply->code = line->code;
    if (reply->enhanced.class == 0)
        reply->enhanced = line->enhanced;
    if (reply->text_len < REPLY_TEXT_BYTES_MAX) {
        if (!first)
            reply->text[reply->text_len++] = '\n';
        text_add(reply, line->text, line->plain, false);
    }
    reply_check(reply);
    return true;
}

void
reply_set(struct reply *reply, unsigned code, const char *enhanced, struct span text)
{
    ASSERT(code >= 200 && code <= 599);
    reply_clear(reply);
    reply->code = (uint16_t)code;
    if (enhanced != NULL) {
        struct span written = span_text(enhanced);
        ASSERT(written.len > 0);
        ASSERT(enhanced_code_parse(written, &reply->enhanced) == written.len);
    }
    text_add(reply, text, false, true);
    reply_check(reply);
    text_check(reply);
}

void
reply_make_ascii(struct reply *reply)
{
    size_t kept = 0;

    for (size_t i = 0; i < reply->text_len; i++) {
        unsigned char octet = (unsigned char)reply->text[i];
        if ((octet & 0xC0) != 0x80) /* each character but its first octet goes */
            reply->text[kept++] = octet > 0x7F ? '?' : (char)octet;
    }
    reply->text_len = (uint16_t)kept;
}

/* --- writing --- */

/* Where to end a line of at most LINE_TEXT_BYTES_MAX when there is more text than that: at the
 * last space, or else before a character. */
static size_t
fold_position(struct span text)
{
    size_t end = LINE_TEXT_BYTES_MAX;

    ASSERT(text.len > end);
    for (size_t i = end; i > 0; i--)
        if (text.data[i] == ' ')
            return i;
    while (end > 0 && (text.data[end] & 0xC0) == 0x80)
        end--;
    ASSERT(end > 0);
    return end;
}

/* Takes the text of the next line to write. *more: another line follows. */
static struct span
line_take(struct span *rest, bool *more)
{
    const char *line_end = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;
    size_t len = line_end != NULL ? (size_t)(line_end - rest->data) : rest->len;
    struct span line;

    if (len <= LINE_TEXT_BYTES_MAX) {
        line = span_first(*rest, len);
        *more = line_end != NULL;
        span_advance(rest, len + (line_end != NULL ? 1 : 0));
        return line;
    }
    line = span_first(*rest, fold_position(*rest));
    span_advance(rest, line.len + (rest->data[line.len] == ' ' ? 1 : 0));
    *more = rest->len > 0;
    return line;
}

void
enhanced_code_write(struct enhanced_code code, struct outbuf *out)
{
    outbuf_add_number(out, code.class);
    outbuf_add_char(out, '.');
    outbuf_add_number(out, code.subject);
    outbuf_add_char(out, '.');
    outbuf_add_number(out, code.detail);
}

void
reply_codes_write(const struct reply *reply, struct outbuf *out)
{
    if (reply->code != 0) {
        outbuf_add_number(out, reply->code);
        outbuf_add_char(out, ' ');
    }
    if (reply->enhanced.class != 0) {
        enhanced_code_write(reply->enhanced, out);
        outbuf_add_char(out, ' ');
    }
}

/* "250-" or "250-2.0.0 ": what each line of the reply begins with. A reply that came without an
 * enhanced code gets the one that says nothing more than its class (RFC 3463 3.1). */
static struct span
prefix_write(const struct reply *reply, bool with_enhanced, struct outbuf *out)
{
    unsigned class = enhanced_class(reply->code);
    bool given = reply->enhanced.class != 0;

    outbuf_add_number(out, reply->code);
    outbuf_add_char(out, '-');
    if (with_enhanced && class != 0) {
        enhanced_code_write(
            given ? reply->enhanced : (struct enhanced_code){ .class = (uint8_t)class }, out);
        outbuf_add_char(out, ' ');
    }
    return outbuf_span(out);
}

void
reply_write(const struct reply *reply, bool with_enhanced, struct outbuf *out)
{
    char prefix_bytes[LINE_PREFIX_BYTES_MAX];
    struct outbuf prefix_out = { .data = prefix_bytes, .size = sizeof(prefix_bytes) };
    struct span rest = span_of(reply->text, reply->text_len);
    size_t start = out->len, separator = 0;
    bool more;

    ASSERT(reply->code != 0);
    ASSERT(outbuf_room(out) >= RECEIVER_REPLY_ROOM);
    reply_check(reply);
    text_check(reply);
    struct span prefix = prefix_write(reply, with_enhanced, &prefix_out);
    do {
        struct span line = line_take(&rest, &more);
        size_t bytes = prefix.len + line.len + 2;
        ASSERT(bytes <= REPLY_LINE_BYTES_MAX);
        if (out->len - start + bytes > RECEIVER_REPLY_ROOM)
            break;
        separator = out->len + 3;
        outbuf_add(out, prefix);
        outbuf_add(out, line);
        outbuf_add(out, SPAN("\r\n"));
    } while (more);
    /* Only now is it known which line is the last one, the one with a space (4.2.1). */
    ASSERT(separator > 0);
    out->data[separator] = ' ';
}
