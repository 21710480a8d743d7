/* A report is made of what senders, recipients, next hops and originals say. Whatever that is: the
 * wire form is legal, nothing but our own fields stands in its header, the size and the octets
 * above 127 are as told, and how the original lies in buffers changes nothing.
 * Input: lines; reverse path, mailbox, ORCPT, ENVID, reply ("550 5.1.1 text"), server, client, then
 * letters: f RET=FULL, h RET=HDRS, u SMTPUTF8, c chunked, i original incomplete, d delayed, r
 * relayed, o delivered; and behind the end of that line the original. Addresses are those that MAIL
 * and RCPT let through: above ASCII only with SMTPUTF8; what envelopes bound is cut to that. */
#include <stdint.h>
#include <stdlib.h>

#include "relay/bounce.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BUFFERS 512u
#define REPORT_BYTES_MAX (BUFFERS * (size_t)BUFFER_BYTES)

static struct buffers buffers;
static char *report, *other;

static struct span
line_take(struct span *rest, size_t max)
{
    const char *end = rest->len > 0 ? memchr(rest->data, '\n', rest->len) : NULL;
    size_t len = end != NULL ? (size_t)(end - rest->data) : rest->len;
    struct span line = span_first(*rest, len < max ? len : max);

    span_advance(rest, end != NULL ? len + 1 : len);
    return line;
}

static bool
has_letter(struct span s, char letter)
{
    return s.len > 0 && memchr(s.data, letter, s.len) != NULL;
}

static bool
is_mailbox(struct span text, bool smtputf8)
{
    char bytes[MAILBOX_BYTES_MAX + 2];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    struct path path;
    size_t consumed;

    outbuf_add_char(&out, '<');
    outbuf_add(&out, text);
    outbuf_add_char(&out, '>');
    return path_parse(outbuf_span(&out), false, &path, &consumed) == ADDRESS_OK &&
           !path.source_route && consumed == out.len && (smtputf8 || !path.utf8);
}

static struct chain
store(struct span bytes, size_t piece)
{
    struct chain chain = CHAIN_EMPTY;

    while (bytes.len > 0) {
        size_t len = bytes.len < piece ? bytes.len : piece;
        uint32_t index = buffer_take(&buffers, 0);

        ASSERT(index != BUFFER_NONE);
        memcpy(buffer_memory(&buffers, index), bytes.data, len);
        chain_append(&buffers, &chain, index, 0, len);
        span_advance(&bytes, len);
    }
    return chain;
}

static struct span
text_of(const struct chain *chain, char *out)
{
    size_t len = 0;
    uint32_t index = chain->first;

    for (uint32_t i = 0; i < chain->count; i++, index = buffers.meta[index].next) {
        struct span s = buffer_span(&buffers, index);

        memcpy(out + len, s.data, s.len);
        len += s.len;
    }
    return span_of(out, len);
}

/* Returns the octets without stuffed dots and terminator. */
static uint64_t
lines_check(struct span wire, bool *eight_bit)
{
    uint64_t octets = 0;
    bool ended = false;

    *eight_bit = false;
    while (wire.len > 0) {
        const char *end = memchr(wire.data, '\n', wire.len);
        size_t len = end != NULL ? (size_t)(end - wire.data) + 1 : 0;
        size_t dot = wire.data[0] == '.';

        ASSERT(!ended && len >= 2 && len - dot <= 1000);
        ASSERT(memchr(wire.data, '\r', len) == end - 1 && memchr(wire.data, '\0', len) == NULL);
        ended = dot == 1 && len == 3;
        ASSERT(dot == 0 || ended || wire.data[1] == '.');
        for (size_t i = 0; i < len; i++)
            *eight_bit |= (unsigned char)wire.data[i] > 127;
        octets += ended ? 0 : len - dot;
        span_advance(&wire, len);
    }
    ASSERT(ended);
    return octets;
}

static void
header_check(struct span wire)
{
    static const char *const names[] = { "From:", "To:", "Subject:", "Date:", "Message-ID:",
                                         "Auto-Submitted:", "MIME-Version:", "Content-Type:",
                                         "Content-Transfer-Encoding:", "References:",
                                         "In-Reply-To:" };
    unsigned seen = 0;

    while (wire.len > 0 && wire.data[0] != '\r') {
        size_t len = (size_t)((const char *)memchr(wire.data, '\n', wire.len) - wire.data) + 1;
        size_t i = 0;

        while (i < sizeof(names) / sizeof(names[0]) &&
               !span_starts_ignore_case(wire, span_text(names[i])))
            i++;
        if (wire.data[0] != ' ' && wire.data[0] != '\t') {
            ASSERT(i < sizeof(names) / sizeof(names[0]) && (seen & (1u << i)) == 0);
            seen |= 1u << i;
        }
        span_advance(&wire, len);
    }
}

static enum bounce_action
action_of(struct span letters)
{
    return has_letter(letters, 'd')   ? BOUNCE_DELAYED
           : has_letter(letters, 'r') ? BOUNCE_RELAYED
           : has_letter(letters, 'o') ? BOUNCE_DELIVERED
                                      : BOUNCE_FAILED;
}

static void
reply_read(struct span line, struct reply *reply)
{
    struct reply_line parsed;

    reply_clear(reply);
    if (reply_line_parse(line, &parsed))
        (void)!reply_add_line(reply, &parsed);
}

static struct span
write_report(const struct bounce *bounce, struct span original, size_t piece, struct span letters,
             char *out)
{
    struct chain stored = store(original, piece), written = CHAIN_EMPTY;
    bool eight_bit, eight_bit_seen;
    uint64_t size;

    ASSERT(bounce_write(bounce, &buffers, &stored, !has_letter(letters, 'i'),
                        has_letter(letters, 'c'), &written, &eight_bit, &size));
    chain_release(&buffers, &stored);
    struct span wire = text_of(&written, out);
    chain_release(&buffers, &written);
    ASSERT(buffers.free_count == BUFFERS);
    ASSERT(lines_check(wire, &eight_bit_seen) == size);
    ASSERT(eight_bit == eight_bit_seen);
    header_check(wire);
    return wire;
}

static void
start(void)
{
    struct buffer_meta *meta = calloc(BUFFERS, sizeof(*meta));
    char *memory = malloc(REPORT_BYTES_MAX);

    report = malloc(REPORT_BYTES_MAX);
    other = malloc(REPORT_BYTES_MAX);
    if (meta == NULL || memory == NULL || report == NULL || other == NULL)
        abort();
    buffers_init(&buffers, memory, meta, BUFFERS);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span rest = span_of(data, size);
    struct bounce_recipient recipient = { .attempt_s = 1773479000 };
    struct bounce bounce = { .hostname = SPAN("mx.example.org"), .id = SPAN("4ZyR1B"),
                             .original_id = SPAN("4ZyQ0A"), .arrival_s = 1773478000,
                             .now_s = 1773480000, .recipients = &recipient, .count = 1 };
    struct reply reply;

    if (report == NULL)
        start();
    if (size > 8192)
        return -1;
    bounce.reverse_path = line_take(&rest, MAILBOX_BYTES_MAX);
    recipient.mailbox = line_take(&rest, MAILBOX_BYTES_MAX);
    recipient.orcpt = line_take(&rest, ORCPT_BYTES_MAX);
    bounce.envid = line_take(&rest, 3 * ENVID_BYTES_MAX);
    reply_read(line_take(&rest, COMMAND_LINE_BYTES_MAX), &reply);
    recipient.server = line_take(&rest, DOMAIN_BYTES_MAX);
    bounce.origin_client = line_take(&rest, 64);
    struct span letters = line_take(&rest, 16);
    recipient.action = action_of(letters);
    recipient.reply = &reply;
    bounce.smtputf8 = has_letter(letters, 'u');
    if (!is_mailbox(bounce.reverse_path, bounce.smtputf8) ||
        !is_mailbox(recipient.mailbox, bounce.smtputf8))
        return -1;
    bounce.dsn_return = has_letter(letters, 'f')   ? DSN_RETURN_FULL
                        : has_letter(letters, 'h') ? DSN_RETURN_HEADERS
                                                   : DSN_RETURN_NONE;
    struct span whole = write_report(&bounce, rest, BUFFER_BYTES, letters, report);
    struct span pieces = write_report(&bounce, rest, 1 + size % 97 + rest.len / 200, letters,
                                      other);
    ASSERT(span_equal(whole, pieces));
    return 0;
}
