/* receiver_player: plays one session against core/receiver and writes down what came of it.
 * Does:    feeds bytes (in front of a PROT_NONE page), gives the verdicts of a list, and keeps a
 *          readable trace: "S: " and each reply line, "E: " and each event. Checks on the way what
 *          must hold for any input: the order of events, the form and the number of replies, the
 *          bounds of both buffers.
 * Owns:    its buffers, until player_close().
 * Errors:  a broken promise of the receiver is an ASSERT: tests and fuzzers end there.
 */
#ifndef RINGPOST_TESTS_UNIT_RECEIVER_PLAYER_H
#define RINGPOST_TESTS_UNIT_RECEIVER_PLAYER_H

#include <stdio.h>
#include <stdlib.h>

#include "core/receiver.h"
#include "tests/unit/guard.h"

#define PLAYER_VERDICTS_MAX 1024
/* Little more than one reply: NEED_ROOM comes often. */
#define PLAYER_OUT_BYTES (RECEIVER_REPLY_ROOM + 64)

struct player_verdict {
    uint16_t code; /* 0: receiver_accept(), "250 2.0.0 Queued" for a message */
    char enhanced[12];
    char text[100];
};

struct player_bytes {
    char *data;
    size_t len, size;
};

struct player {
    struct receiver receiver;
    struct receiver_policy policy;
    struct counters counters;
    const struct player_verdict *verdicts; /* for each event that awaits one; then the default */
    size_t verdicts_count, verdicts_used;
    struct guard guard_in, guard_out;
    struct outbuf out;
    struct player_bytes trace;   /* lines with '\n' */
    struct player_bytes body;    /* of the message being received */
    struct player_bytes pending; /* given, not taken yet */
    struct player_bytes envelope;  /* of the open transaction: "MAIL <...>\n", "RCPT <...>\n" */
    struct player_bytes delivered; /* of each accepted message: its envelope, "OCTETS ...\n" */
    /* What the events so far allow. */
    bool transaction, data, chunked, closed, handshake;
    unsigned recipients;
    uint64_t body_octets; /* of accepted messages */
    size_t replies;       /* whole replies seen */
    size_t line_ends;     /* CR and LF fed: an upper bound of the commands */
};

static inline void
player_add(struct player_bytes *bytes, const void *data, size_t len)
{
    while (bytes->size - bytes->len < len) {
        bytes->size = bytes->size == 0 ? 4096 : bytes->size * 2;
        bytes->data = realloc(bytes->data, bytes->size);
        if (bytes->data == NULL)
            abort();
    }
    if (len > 0)
        memcpy(bytes->data + bytes->len, data, len);
    bytes->len += len;
}

static inline void
player_add_text(struct player_bytes *bytes, const char *text)
{
    player_add(bytes, text, strlen(text));
}

static inline void
player_add_escaped(struct player_bytes *bytes, const char *data, size_t len)
{
    char escaped[8];

    for (size_t i = 0; i < len; i++) {
        unsigned char octet = (unsigned char)data[i];

        if (octet >= ' ' && octet < 127 && octet != '\\')
            player_add(bytes, data + i, 1);
        else if (octet == '\r' || octet == '\n')
            player_add_text(bytes, octet == '\r' ? "\\r" : "\\n");
        else {
            snprintf(escaped, sizeof(escaped), "\\x%02x", octet);
            player_add_text(bytes, escaped);
        }
    }
}

static inline void
player_close(struct player *player)
{
    free(player->trace.data);
    free(player->body.data);
    free(player->pending.data);
    free(player->envelope.data);
    free(player->delivered.data);
    guard_close(&player->guard_in);
    guard_close(&player->guard_out);
    *player = (struct player){ .verdicts = NULL };
}

/* --- replies --- */

/* One line without CRLF. RFC 5321 4.2: code, then '-' or SP; RFC 2034: enhanced code on 2xx, 4xx,
 * 5xx but the greeting, the replies to EHLO and HELO (which say our host name) and none on 3xx. */
static inline void
player_check_reply_line(struct player *player, struct span line)
{
    struct reply_line parsed;
    bool ok = reply_line_parse(line, &parsed);

    ASSERT(ok);
    ASSERT(line.len + 2 <= REPLY_LINE_BYTES_MAX);
    ASSERT(line.len > 3);
    ASSERT(parsed.code >= 200);
    if (parsed.code == 354)
        ASSERT(parsed.enhanced.class == 0);
    else if (parsed.code != 250 && !(parsed.code == 220 && player->replies == 0))
        ASSERT(parsed.enhanced.class == parsed.code / 100);
    player->replies += parsed.last;
}

static inline void
player_drain(struct player *player)
{
    struct span rest = outbuf_span(&player->out);

    ASSERT(player->out.len <= player->out.size);
    while (rest.len > 0) {
        const char *lf = memchr(rest.data, '\n', rest.len);
        size_t len;

        ASSERT(lf != NULL);
        len = (size_t)(lf - rest.data);
        ASSERT(len > 0);
        ASSERT(rest.data[len - 1] == '\r');
        player_check_reply_line(player, span_first(rest, len - 1));
        player_add_text(&player->trace, "S: ");
        player_add(&player->trace, rest.data, len - 1);
        player_add_text(&player->trace, "\n");
        span_advance(&rest, len + 1);
    }
    player->out.len = 0;
    /* The greeting, then at most one for each command and for each final dot; and a last 421. */
    ASSERT(player->replies <= player->line_ends + 2);
}

/* --- events --- */

static inline void
player_span(struct player *player, const char *name, struct span s)
{
    if (s.len == 0)
        return;
    player_add_text(&player->trace, name);
    player_add_escaped(&player->trace, s.data, s.len);
}

static inline void
player_number(struct player *player, const char *name, uint64_t number)
{
    char digits[24];

    if (number == 0)
        return;
    snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number);
    player_add_text(&player->trace, name);
    player_add_text(&player->trace, digits);
}

static inline void
player_path(struct player *player, const struct path *path)
{
    player_add_text(&player->trace, " <");
    player_add_escaped(&player->trace, path->mailbox.data, path->mailbox.len);
    player_add_text(&player->trace, ">");
    ASSERT(path->null == (path->mailbox.len == 0));
}

static inline void
player_note_mail(struct player *player, const struct receiver_event *event)
{
    ASSERT(!player->transaction);
    player_add_text(&player->trace, "E: MAIL");
    player_path(player, &event->path);
    player_number(player, " size=", event->mail.size);
    player_number(player, " body=", event->mail.body);
    player_number(player, " ret=", event->mail.dsn_return);
    player_number(player, " smtputf8=", event->mail.smtputf8);
    player_span(player, " envid=", event->mail.envid);
    player_span(player, " auth=", event->mail.auth);
    player_add_text(&player->trace, "\n");
}

static inline void
player_note_recipient(struct player *player, const struct receiver_event *event)
{
    ASSERT(player->transaction);
    ASSERT(!player->data);
    ASSERT(player->recipients < player->policy.recipients_max);
    ASSERT(!event->path.null);
    player_add_text(&player->trace, "E: RECIPIENT");
    player_path(player, &event->path);
    player_number(player, " notify=", event->rcpt.notify);
    player_span(player, " orcpt=", event->rcpt.orcpt);
    player_add_text(&player->trace, "\n");
}

static inline void
player_note_message(struct player *player, const struct receiver_event *event)
{
    const struct receiver_summary *summary = &event->summary;

    ASSERT(player->transaction);
    ASSERT(player->data);
    ASSERT(summary->chunked == player->chunked);
    ASSERT(summary->size <= player->policy.message_size_max);
    ASSERT(!summary->chunked || summary->size == player->body.len);
    ASSERT(summary->chunked || summary->size + 3 <= player->body.len);
    if (player->body.len > 0) {
        ASSERT(memchr(player->body.data, '\0', player->body.len) == NULL);
        player_add_text(&player->trace, "E: BODY ");
        player_add_escaped(&player->trace, player->body.data, player->body.len);
        player_add_text(&player->trace, "\n");
    }
    player_add_text(&player->trace, "E: MESSAGE");
    player_number(player, " size=", summary->size);
    player_number(player, " received=", summary->received);
    player_add_text(&player->trace, summary->eight_bit ? " eight_bit" : "");
    player_add_text(&player->trace, summary->header_utf8 ? " header_utf8" : "");
    player_add_text(&player->trace, summary->chunked ? " chunked" : "");
    player_add_text(&player->trace, summary->ends_with_crlf ? "" : " no_crlf");
    player_add_text(&player->trace, "\n");
}

static inline void
player_transaction_over(struct player *player)
{
    player->transaction = player->data = false;
    player->recipients = 0;
    player->body.len = 0;
}

/* --- what is to be delivered --- */

static inline void
player_add_delivery(struct player_bytes *out, const char *octets, size_t len)
{
    player_add_text(out, "OCTETS ");
    player_add_escaped(out, octets, len);
    player_add_text(out, "\n");
}

static inline void
player_envelope(struct player *player, const char *verb, const struct path *path)
{
    player_add_text(&player->envelope, verb);
    player_add_text(&player->envelope, " <");
    player_add_escaped(&player->envelope, path->mailbox.data, path->mailbox.len);
    player_add_text(&player->envelope, ">\n");
}

/* Undoes RFC 5321 4.5.2 in its own, plain way. */
static inline void
player_delivered(struct player *player)
{
    struct player_bytes octets = { .data = NULL };
    const char *body = player->body.data;
    size_t len = player->chunked ? player->body.len : player->body.len - 3;

    player_add(&octets, "", 0);
    for (size_t i = 0; i < len; i++)
        if (player->chunked || body[i] != '.' || (i > 0 && body[i - 1] != '\n'))
            player_add(&octets, body + i, 1);
    player_add(&player->delivered, player->envelope.data, player->envelope.len);
    player_add_delivery(&player->delivered, octets.data, octets.len);
    free(octets.data);
}

/* What an accepted verdict leads to. */
static inline void
player_accepted(struct player *player, const struct receiver_event *event)
{
    if (event->kind == RECEIVER_MAIL) {
        player->transaction = true;
        player->envelope.len = 0;
        player_envelope(player, "MAIL", &event->path);
    }
    if (event->kind == RECEIVER_RECIPIENT) {
        player->recipients++;
        player_envelope(player, "RCPT", &event->path);
    }
    if (event->kind == RECEIVER_DATA) {
        player->data = true;
        player->chunked = event->chunked;
    }
    if (event->kind == RECEIVER_MESSAGE) {
        player->body_octets += event->summary.size;
        player_delivered(player);
    }
}

static inline void
player_give_verdict(struct player *player, const struct receiver_event *event)
{
    struct player_verdict verdict = { .code = 0 };
    struct reply reply;

    if (player->verdicts_used < player->verdicts_count)
        verdict = player->verdicts[player->verdicts_used];
    player->verdicts_used++;
    ASSERT(receiver_waits_for(&player->receiver) == RECEIVER_WAITS_VERDICT);
    ASSERT(outbuf_room(&player->out) >= RECEIVER_REPLY_ROOM);
    if (verdict.code == 0 && event->kind != RECEIVER_MESSAGE) {
        receiver_accept(&player->receiver, &player->out);
    } else {
        if (verdict.code == 0)
            verdict = (struct player_verdict){ 250, "2.0.0", "Queued" };
        reply_set(&reply, verdict.code, verdict.enhanced[0] != '\0' ? verdict.enhanced : NULL,
                  span_text(verdict.text));
        receiver_verdict(&player->receiver, &reply, &player->out);
    }
    if (verdict.code < 300)
        player_accepted(player, event);
    if (event->kind == RECEIVER_MESSAGE)
        player_transaction_over(player);
}

static inline void
player_note(struct player *player, const struct receiver_event *event, struct span before,
            struct span after)
{
    ASSERT(!player->closed);
    switch (event->kind) {
    case RECEIVER_NEED_INPUT:
    case RECEIVER_NEED_ROOM:
        return;
    case RECEIVER_MAIL:
        player_note_mail(player, event);
        break;
    case RECEIVER_RECIPIENT:
        player_note_recipient(player, event);
        break;
    case RECEIVER_DATA:
        ASSERT(player->recipients > 0);
        ASSERT(!player->data);
        player_add_text(&player->trace, event->chunked ? "E: DATA chunked\n" : "E: DATA\n");
        break;
    case RECEIVER_BODY:
        ASSERT(player->data);
        ASSERT(event->body.len > 0);
        ASSERT(event->body.data >= before.data);
        ASSERT(event->body.data + event->body.len == after.data);
        player_add(&player->body, event->body.data, event->body.len);
        return;
    case RECEIVER_MESSAGE:
        player_note_message(player, event);
        break;
    case RECEIVER_ABORT:
        ASSERT(player->transaction);
        player_transaction_over(player);
        player_add_text(&player->trace, "E: ABORT\n");
        return;
    case RECEIVER_START_TLS:
        ASSERT(!player->transaction);
        player->handshake = true;
        player_add_text(&player->trace, "E: START_TLS\n");
        return;
    case RECEIVER_CLOSE:
        ASSERT(!player->transaction);
        player->closed = true;
        player_add_text(&player->trace, "E: CLOSE\n");
        return;
    }
    player_give_verdict(player, event);
}

/* --- playing --- */

static inline void
player_start(struct player *player, const struct receiver_policy *policy, bool tls,
             const struct player_verdict *verdicts, size_t verdicts_count)
{
    *player = (struct player){ .policy = *policy, .verdicts = verdicts,
                               .verdicts_count = verdicts_count };
    guard_reserve(&player->guard_out, PLAYER_OUT_BYTES);
    player->out.data = player->guard_out.bytes + player->guard_out.size - PLAYER_OUT_BYTES;
    player->out.size = PLAYER_OUT_BYTES;
    receiver_start(&player->receiver, &player->policy, &player->counters, tls, &player->out);
    player_drain(player);
}

/* Steps until the receiver wants more input, a handshake, or the end. `more`: bytes that were sent
 * before the receiver could answer follow in another call. */
static inline void
player_run(struct player *player, bool more)
{
    struct span in = guard_end(&player->guard_in, player->pending.data, player->pending.len);
    enum receiver_event_kind kind;

    do {
        struct span before = in;
        struct receiver_event event = receiver_step(&player->receiver, &in, &player->out);

        kind = event.kind;
        ASSERT(in.len <= before.len);
        ASSERT(in.data + in.len == before.data + before.len);
        if (kind == RECEIVER_START_TLS && more) {
            receiver_starttls_injection(&player->receiver, &player->out);
            continue;
        }
        player_drain(player);
        player_note(player, &event, before, in);
        ASSERT(player->transaction || player->recipients == 0);
    } while (!player->closed && !player->handshake && kind != RECEIVER_NEED_INPUT);
    player_drain(player);
    if (in.len > 0)
        memmove(player->pending.data, player->pending.data + player->pending.len - in.len, in.len);
    player->pending.len = in.len;
}

static inline void
player_feed(struct player *player, const char *data, size_t len, bool more)
{
    for (size_t i = 0; i < len; i++)
        player->line_ends += data[i] == '\n' || data[i] == '\r';
    player_add(&player->pending, data, len);
    if (player->closed)
        return;
    if (player->handshake) {
        /* The 220 is gone: what comes now is no TLS. */
        receiver_starttls_injection(&player->receiver, &player->out);
        player->handshake = false;
    }
    player_run(player, more);
}

static inline void
player_tls_started(struct player *player)
{
    ASSERT(player->handshake);
    player->handshake = false;
    receiver_tls_started(&player->receiver);
}

static inline void
player_end(struct player *player, const char *enhanced, const char *text)
{
    receiver_end(&player->receiver, enhanced, span_text(text), &player->out);
    player->handshake = false;
    if (!player->closed)
        player_run(player, false);
}

/* The deliveries as a string. */
static inline const char *
player_deliveries(struct player *player)
{
    player_add(&player->delivered, "", 1);
    player->delivered.len--;
    return player->delivered.data;
}

/* The trace as a string. */
static inline const char *
player_trace(struct player *player)
{
    player_add(&player->trace, "", 1);
    player->trace.len--;
    return player->trace.data;
}

/* What most tests play under: limits that are easy to reach. */
static inline struct receiver_policy
player_policy(void)
{
    return (struct receiver_policy){
        .hostname = SPAN("mx.example.com"),
        .message_size_max = 1000,
        .recipients_max = 3,
        .errors_max = 50,
        .transactions_max = 100,
        .command_line_max = 512,
        .text_line_max = 200,
        .received_max = 3,
        .starttls = true,
    };
}

#endif
