/* A message from any client to a strict next hop, without sockets: receiver, envelope, Received:
 * field, sender and dot stuffing in a row. The next hop reads what we say by the letter of the RFC,
 * in its own plain way, and must find exactly the transactions that the receiver accepted: the same
 * paths, the same octets behind our field, no command more, no parameter that it did not offer.
 *
 * Input: a line of letters, what the next hop offers: p PIPELINING, c CHUNKING, 8 8BITMIME, s SIZE,
 * u SMTPUTF8, d DSN; then what the client says. */
#include <stdint.h>
#include <stdlib.h>

#include "core/envelope.h"
#include "core/receiver.h"
#include "relay/sender.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_BYTES_MAX 4096
#define WIRE_BYTES (1u << 17)

struct text {
    char data[WIRE_BYTES];
    size_t len;
};

/* The next hop. */
struct server {
    struct sender_capabilities offers;
    struct span pending; /* of wire, not read yet */
    struct text replies;
    struct text paths; /* of the transaction: "<...>" each */
    struct text octets;
    size_t transactions;
    bool in_data;
};

static struct server server;
static struct text wire; /* all that we said to it */
static struct text body; /* the message as the client sent it */
static struct text expected_paths, expected_octets;
static struct envelope envelope;
static struct pool blocks;
static uint32_t random_state;

static void
text_add(struct text *text, struct span s)
{
    ASSERT(s.len <= WIRE_BYTES - text->len);
    if (s.len > 0)
        memcpy(text->data + text->len, s.data, s.len);
    text->len += s.len;
}

static void
text_add_path(struct text *text, struct span mailbox)
{
    text_add(text, SPAN("<"));
    text_add(text, mailbox);
    text_add(text, SPAN(">"));
}

static size_t
draw(size_t below)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % below;
}

/* --- the next hop, by the letter --- */

static void
server_mail(struct span line)
{
    struct mail_parameters parameters;
    struct path path;
    size_t consumed;

    span_advance(&line, 10);
    ASSERT(path_parse(line, true, &path, &consumed) == ADDRESS_OK && !path.source_route);
    server.paths.len = 0;
    text_add_path(&server.paths, path.mailbox);
    span_advance(&line, consumed);
    ASSERT(mail_parameters_parse(line, &parameters) == PARAMETER_OK);
    ASSERT(server.offers.size || parameters.size == 0);
    ASSERT(server.offers.eight_bit_mime || parameters.body == BODY_TYPE_NONE);
    ASSERT(server.offers.smtputf8 || !(parameters.smtputf8 || path.utf8));
    ASSERT(server.offers.dsn ||
           (parameters.dsn_return == DSN_RETURN_NONE && parameters.envid.len == 0));
    ASSERT(!path.utf8 || parameters.smtputf8);
    text_add(&server.replies, SPAN("250 2.1.0 Ok\r\n"));
}

static void
server_rcpt(struct span line)
{
    struct rcpt_parameters parameters;
    struct path path;
    size_t consumed;

    span_advance(&line, 8);
    ASSERT(path_parse(line, false, &path, &consumed) == ADDRESS_OK && !path.source_route);
    text_add_path(&server.paths, path.mailbox);
    span_advance(&line, consumed);
    ASSERT(rcpt_parameters_parse(line, &parameters) == PARAMETER_OK);
    ASSERT(server.offers.dsn || (parameters.notify == 0 && parameters.orcpt.len == 0));
    text_add(&server.replies, SPAN("250 2.1.5 Ok\r\n"));
}

/* The message is there: it must be what was expected. */
static void
server_message(void)
{
    ASSERT(server.paths.len == expected_paths.len);
    ASSERT(memcmp(server.paths.data, expected_paths.data, server.paths.len) == 0);
    ASSERT(server.octets.len == expected_octets.len);
    ASSERT(memcmp(server.octets.data, expected_octets.data, server.octets.len) == 0);
    server.transactions++;
    text_add(&server.replies, SPAN("250 2.0.0 Ok\r\n"));
}

static void
server_chunk(struct span line)
{
    uint64_t size;

    ASSERT(server.offers.chunking);
    span_advance(&line, 5);
    ASSERT(span_take_number(&line, &size) && span_equal(line, SPAN(" LAST")));
    ASSERT(size == server.pending.len);
    server.octets.len = 0;
    text_add(&server.octets, server.pending);
    span_advance(&server.pending, server.pending.len);
    server_message();
}

/* RFC 5321 4.1.1.4 and 4.5.2, octet by octet; and nothing in it that another server might take for
 * a line's end. */
static void
server_data(void)
{
    struct span s = server.pending;
    size_t at = 0;
    bool line_start = true;

    server.octets.len = 0;
    for (;; at++) {
        ASSERT(at < s.len);
        if (line_start && s.data[at] == '.') {
            ASSERT(at + 1 < s.len);
            at++;
            if (s.data[at] == '\r')
                break;
        }
        ASSERT(s.data[at] != '\0');
        ASSERT((s.data[at] == '\r') == (at + 1 < s.len && s.data[at + 1] == '\n'));
        line_start = s.data[at] == '\n';
        text_add(&server.octets, span_of(s.data + at, 1));
    }
    ASSERT(at + 2 == s.len && s.data[at + 1] == '\n');
    span_advance(&server.pending, s.len);
    server.in_data = false;
    server_message();
}

static void
server_command(void)
{
    const char *end = memchr(server.pending.data, '\n', server.pending.len);

    ASSERT(end != NULL);
    size_t len = (size_t)(end - server.pending.data);
    ASSERT(len > 0 && end[-1] == '\r' && len < COMMAND_LINE_BYTES_MAX);
    struct span line = span_first(server.pending, len - 1);
    span_advance(&server.pending, len + 1);
    ASSERT(memchr(line.data, '\r', line.len) == NULL && memchr(line.data, 0, line.len) == NULL);
    if (span_starts_ignore_case(line, SPAN("MAIL FROM:"))) {
        server_mail(line);
    } else if (span_starts_ignore_case(line, SPAN("RCPT TO:"))) {
        server_rcpt(line);
    } else if (span_starts_ignore_case(line, SPAN("BDAT "))) {
        server_chunk(line);
    } else {
        ASSERT(span_equal(line, SPAN("DATA")));
        ASSERT(server.pending.len == 0); /* it ends a group: the 354 is waited for */
        server.in_data = true;
        text_add(&server.replies, SPAN("354 go\r\n"));
    }
}

/* --- our side --- */

static void
sender_hear(struct sender *sender)
{
    struct span in = span_of(server.replies.data, server.replies.len);
    char bytes[SENDER_COMMAND_ROOM];

    for (;;) {
        struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
        struct sender_event event = sender_step(sender, &in, &out);

        if (event.kind == SENDER_NEED_INPUT)
            break;
        ASSERT(event.kind == SENDER_READY || event.kind == SENDER_REPLY);
        ASSERT(event.kind == SENDER_READY || reply_class(event.reply) < 4);
    }
    ASSERT(in.len == 0);
    server.replies.len = 0;
}

/* All that was said so far reaches the next hop, and its answers us. */
static void
exchange(struct sender *sender)
{
    server.pending = span_of(wire.data, wire.len);
    if (server.in_data && wire.len > 0)
        server_data();
    while (server.pending.len > 0)
        server_command();
    wire.len = 0;
    sender_hear(sender);
}

static void
open_connection(struct sender *sender)
{
    char bytes[SENDER_COMMAND_ROOM];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    const struct sender_capabilities *offers = &server.offers;
    struct span greeting = SPAN("220 hop ESMTP\r\n");

    sender_start(sender, SPAN("edge.example.com"), SENDER_TLS_NONE, false);
    struct sender_event event = sender_step(sender, &greeting, &out);
    ASSERT(event.kind == SENDER_NEED_INPUT && out.len > 0);
    text_add(&server.replies, SPAN("250-hop\r\n"));
    text_add(&server.replies, offers->pipelining ? SPAN("250-PIPELINING\r\n") : SPAN(""));
    text_add(&server.replies, offers->chunking ? SPAN("250-CHUNKING\r\n") : SPAN(""));
    text_add(&server.replies, offers->eight_bit_mime ? SPAN("250-8BITMIME\r\n") : SPAN(""));
    text_add(&server.replies, offers->size ? SPAN("250-SIZE\r\n") : SPAN(""));
    text_add(&server.replies, offers->smtputf8 ? SPAN("250-SMTPUTF8\r\n") : SPAN(""));
    text_add(&server.replies, offers->dsn ? SPAN("250-DSN\r\n") : SPAN(""));
    text_add(&server.replies, SPAN("250 HELP\r\n"));
    sender_hear(sender);
    ASSERT(sender_idle(sender));
}

/* BDAT octets as DATA, in drawn pieces: what link_send.c does. */
static void
stuff(struct span s)
{
    bool line_start = true;

    while (s.len > 0) {
        struct span piece = span_first(s, 1 + draw(s.len < 40 ? s.len : 40));

        span_advance(&s, piece.len);
        while (piece.len > 0) {
            size_t stop = body_find_stuffing(piece, line_start);

            text_add(&wire, span_first(piece, stop));
            line_start = stop < piece.len ? false : piece.data[piece.len - 1] == '\n';
            if (stop < piece.len)
                text_add(&wire, SPAN("."));
            span_advance(&piece, stop);
        }
    }
}

static void
body_send(struct sender *sender, const struct receiver_summary *summary, struct span field)
{
    char bytes[SENDER_COMMAND_ROOM];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    bool chunked = summary->chunked && sender->offered.chunking;

    if (chunked) {
        sender_chunk(sender, field.len + body.len, true, &out);
        text_add(&wire, outbuf_span(&out));
    } else {
        sender_data(sender, &out);
        text_add(&wire, outbuf_span(&out));
        exchange(sender);
    }
    text_add(&wire, field);
    if (summary->chunked && !chunked) {
        stuff(span_of(body.data, body.len));
        text_add(&wire, summary->ends_with_crlf ? SPAN(".\r\n") : SPAN("\r\n.\r\n"));
    } else {
        text_add(&wire, span_of(body.data, body.len));
    }
    if (!chunked)
        sender_end_of_data(sender);
    exchange(sender);
}

/* The recipients in groups as large as the next hop allows. */
static void
envelope_send(struct sender *sender, const struct receiver_summary *summary)
{
    struct envelope_cursor cursor = envelope_begin(&envelope);
    char bytes[SENDER_COMMAND_ROOM];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    struct sender_mail mail = {
        .reverse_path = envelope.reverse_path,
        .size = summary->size,
        .body = summary->eight_bit ? BODY_TYPE_8BITMIME : envelope.body,
        .smtputf8 = envelope.smtputf8 || envelope.utf8,
        .dsn_return = envelope.dsn_return,
        .envid = envelope.envid,
    };

    sender_mail(sender, &mail, &out);
    text_add(&wire, outbuf_span(&out));
    for (struct recipient *one; (one = envelope_next(&cursor)) != NULL;) {
        struct rcpt_parameters parameters = recipient_parameters(one);

        if (!sender_may_send(sender))
            exchange(sender);
        out.len = 0;
        sender_rcpt(sender, recipient_mailbox(one), &parameters, &out);
        text_add(&wire, outbuf_span(&out));
    }
    exchange(sender);
}

/* What the next hop has to find. */
static void
expect(const struct receiver_summary *summary, struct span field)
{
    struct envelope_cursor cursor = envelope_begin(&envelope);
    size_t end = summary->chunked ? body.len : body.len - 3;

    expected_paths.len = expected_octets.len = 0;
    text_add_path(&expected_paths, envelope.reverse_path);
    for (struct recipient *one; (one = envelope_next(&cursor)) != NULL;)
        text_add_path(&expected_paths, recipient_mailbox(one));
    text_add(&expected_octets, field);
    for (size_t i = 0; i < end; i++)
        if (summary->chunked || body.data[i] != '.' || (i > 0 && body.data[i - 1] != '\n'))
            text_add(&expected_octets, span_of(body.data + i, 1));
    if (summary->chunked && !summary->ends_with_crlf && !server.offers.chunking)
        text_add(&expected_octets, SPAN("\r\n"));
}

static void
relay(const struct receiver *receiver, const struct receiver_summary *summary)
{
    static struct sender sender;
    const struct sender_needs needs = {
        .size = summary->size,
        .eight_bit = summary->eight_bit,
        .smtputf8 = envelope.utf8 || (envelope.smtputf8 && summary->header_utf8),
    };
    struct envelope_cursor cursor = envelope_begin(&envelope);
    char bytes[TRACE_FIELD_BYTES_MAX];
    struct outbuf field = { .data = bytes, .size = sizeof(bytes) };
    struct trace trace = {
        .helo = receiver_helo(receiver), .client = SPAN("192.0.2.1"), .by = SPAN("edge.example"),
        .queue_id = SPAN("4ZyR1B"), .esmtp = receiver_esmtp(receiver),
        .smtputf8 = envelope.smtputf8, .when = 1773480000,
    };
    size_t before = server.transactions;
    struct reply refusal;

    if (envelope.accepted == 1)
        trace.recipient = recipient_mailbox(envelope_next(&cursor));
    trace_write(&trace, &field);
    server.in_data = false;
    open_connection(&sender);
    if (!sender_check(&sender.offered, &needs, &refusal))
        return;
    expect(summary, outbuf_span(&field));
    envelope_send(&sender, summary);
    body_send(&sender, summary, outbuf_span(&field));
    ASSERT(server.transactions == before + 1);
    ASSERT(sender_idle(&sender));
}

/* --- the client's side --- */

static void
on_event(struct receiver *receiver, const struct receiver_event *event, struct outbuf *out)
{
    struct reply queued;

    switch (event->kind) {
    case RECEIVER_MAIL:
        ASSERT(envelope_start(&envelope, &blocks, &event->path, &event->mail));
        receiver_accept(receiver, out);
        break;
    case RECEIVER_RECIPIENT:
        ASSERT(envelope_add(&envelope, &event->path, &event->rcpt, RECIPIENT_ACCEPTED) != NULL);
        receiver_accept(receiver, out);
        break;
    case RECEIVER_DATA:
        body.len = 0;
        receiver_accept(receiver, out);
        break;
    case RECEIVER_BODY:
        text_add(&body, event->body);
        break;
    case RECEIVER_MESSAGE:
        relay(receiver, &event->summary);
        reply_set(&queued, 250, "2.0.0", SPAN("Ok"));
        receiver_verdict(receiver, &queued, out);
        envelope_clear(&envelope);
        break;
    case RECEIVER_ABORT:
        envelope_clear(&envelope);
        break;
    default:
        break;
    }
}

static void
session(struct span in)
{
    static const struct receiver_policy policy = {
        .hostname = SPAN("edge.example"), .message_size_max = 8192, .recipients_max = 200,
        .errors_max = 50, .transactions_max = 20, .command_line_max = COMMAND_LINE_BYTES_MAX,
        .text_line_max = 998, .received_max = 100,
    };
    static struct counters counters;
    static struct receiver receiver;
    char bytes[BLOCK_BYTES];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    enum receiver_event_kind kind;

    receiver_start(&receiver, &policy, &counters, false, &out);
    do {
        struct receiver_event event = receiver_step(&receiver, &in, &out);

        kind = event.kind;
        on_event(&receiver, &event, &out);
        out.len = 0;
    } while (kind != RECEIVER_NEED_INPUT && kind != RECEIVER_CLOSE);
    if (kind == RECEIVER_CLOSE)
        return;
    receiver_end(&receiver, "4.4.2", SPAN("lost"), &out);
    do {
        struct receiver_event event = receiver_step(&receiver, &in, &out);

        kind = event.kind;
        on_event(&receiver, &event, &out);
        out.len = 0;
    } while (kind != RECEIVER_CLOSE);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);

    if (size > INPUT_BYTES_MAX)
        return -1;
    if (blocks.slots == NULL)
        ASSERT(pool_init(&blocks, BLOCK_BYTES, 256));
    server.offers = (struct sender_capabilities){ .pipelining = false };
    random_state = (uint32_t)size;
    for (; in.len > 0 && in.data[0] != '\n'; span_advance(&in, 1)) {
        server.offers.pipelining |= in.data[0] == 'p';
        server.offers.chunking |= in.data[0] == 'c';
        server.offers.eight_bit_mime |= in.data[0] == '8';
        server.offers.size |= in.data[0] == 's';
        server.offers.smtputf8 |= in.data[0] == 'u';
        server.offers.dsn |= in.data[0] == 'd';
    }
    if (in.len > 0)
        span_advance(&in, 1);
    session(in);
    return 0;
}
