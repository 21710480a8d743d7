/* Our Received: field is made of what a client said. Whatever that is: one field, lines that are
 * legal, and nothing of the client's that could be a field, a comment's end or another clause.
 * Input: lines; HELO name, recipient, client's address, TLS version, cipher, then letters: e ESMTP,
 * a authenticated, u SMTPUTF8. */
#include <stdint.h>

#include "core/address.h"
#include "core/header.h"
#include "core/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct span
line_take(struct span *rest)
{
    const char *end = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;
    size_t len = end != NULL ? (size_t)(end - rest->data) : rest->len;
    struct span line = span_first(*rest, len);

    span_advance(rest, end != NULL ? len + 1 : len);
    return line;
}

static bool
has_letter(struct span s, char letter)
{
    return s.len > 0 && memchr(s.data, letter, s.len) != NULL;
}

/* RFC 5322 2.2: lines end in CRLF, are at most 998 octets, and all but the first are folded. */
static void
lines_check(struct span field)
{
    size_t column = 0;

    ASSERT(field.len <= TRACE_FIELD_BYTES_MAX);
    ASSERT(span_starts_ignore_case(field, SPAN("Received: from")));
    ASSERT(memcmp(field.data + field.len - 2, "\r\n", 2) == 0);
    for (size_t i = 0; i < field.len; i++, column++) {
        unsigned char octet = (unsigned char)field.data[i];

        if (octet == '\r') {
            ASSERT(i + 1 < field.len && field.data[i + 1] == '\n');
            ASSERT(column <= 998);
            if (i + 2 < field.len)
                ASSERT(field.data[i + 2] == '\t' || field.data[i + 2] == ' ');
        } else if (octet == '\n') {
            ASSERT(i > 0 && field.data[i - 1] == '\r');
            column = 0;
        } else {
            ASSERT(octet == '\t' || (octet >= ' ' && octet != 127));
        }
    }
}

/* Outside of quoted strings and address literals: comments end, and there is one ';', the one
 * before the date. */
static void
clauses_check(struct span field)
{
    unsigned depth = 0, semicolons = 0;
    bool quoted = false, literal = false;

    for (size_t i = 0; i < field.len; i++) {
        char c = field.data[i];

        if (quoted && c == '\\') {
            i++;
        } else if (c == '"' && !literal) {
            quoted = !quoted;
        } else if (!quoted && (c == '[' || c == ']')) {
            ASSERT(literal == (c == ']'));
            literal = c == '[';
        } else if (!quoted && !literal) {
            ASSERT(c != ')' || depth > 0);
            depth += c == '(';
            depth -= c == ')';
            semicolons += c == ';';
            ASSERT(depth <= 1);
        }
    }
    ASSERT(depth == 0 && !quoted && !literal && semicolons == 1);
}

/* Only what RCPT let through comes here. */
static struct span
mailbox(struct span text)
{
    char bytes[MAILBOX_BYTES_MAX + 2];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    struct path path;
    size_t consumed;

    if (text.len > MAILBOX_BYTES_MAX)
        return SPAN("");
    outbuf_add_char(&out, '<');
    outbuf_add(&out, text);
    outbuf_add_char(&out, '>');
    if (path_parse(outbuf_span(&out), false, &path, &consumed) != ADDRESS_OK ||
        path.source_route || consumed != out.len)
        return SPAN("");
    return text;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span rest = span_of(data, size);
    char bytes[TRACE_FIELD_BYTES_MAX];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    struct header_scanner scanner;
    struct trace trace = { .by = SPAN("mx.example.com"), .queue_id = SPAN("4ZyR1B"),
                           .when = 1773480000 };

    if (size > COMMAND_LINE_BYTES_MAX)
        return -1;
    trace.helo = line_take(&rest);
    trace.recipient = mailbox(line_take(&rest));
    /* Ours, in every form that there is. */
    trace.client = has_letter(line_take(&rest), ':') ? SPAN("2001:db8::1") : SPAN("192.0.2.1");
    trace.tls_version = line_take(&rest);
    trace.tls_cipher = line_take(&rest);
    trace.esmtp = has_letter(rest, 'e');
    trace.authenticated = has_letter(rest, 'a');
    trace.smtputf8 = has_letter(rest, 'u');
    trace_write(&trace, &out);
    lines_check(outbuf_span(&out));
    clauses_check(outbuf_span(&out));
    header_scanner_start(&scanner);
    header_scan(&scanner, outbuf_span(&out), false);
    ASSERT(scanner.received == 1 && !scanner.ended);
    ASSERT(!scanner.eight_bit || trace.smtputf8);
    return 0;
}
