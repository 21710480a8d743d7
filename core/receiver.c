/* One SMTP session, as states. The verbs are in receiver_command.c, message data in
 * receiver_data.c, texts in receiver_reply.c.
 *
 *                        EHLO, HELO                MAIL             RCPT
 *            +-------+             +-------+               +------+        +------+ ---+ RCPT
 *   220 ---->| START |------------>| READY |-------------->| MAIL |------->| RCPT |<---+
 *            +-------+             +-------+               +------+        +------+
 *               ^                    ^ ^ ^   RSET, EHLO, HELO |              |  |
 *               | handshake          | | +--------------------+--------------+  |
 *            +-----+   STARTTLS      | |                                        |
 *            | TLS |<---- from READY,| |   verdict, or      +------+    DATA    |
 *            +-----+  MAIL, RCPT or  | +--------------------| DATA |<-----------+
 *                     CHUNKED        |  end of dropped data +------+            |
 *                                    |                                          |
 *            +--------+              |   verdict, or      +-------+  BDAT       |
 *            | CLOSED |<-- from all  +--------------------| CHUNK |<------------+
 *            +--------+              ^  end of dropped    +-------+
 *                                    |  chunk                |  ^
 *                                    |            end, no LAST  | BDAT
 *                                    |                       v  |
 *                                    |   RSET, EHLO,      +---------+
 *                                    +--------------------| CHUNKED |
 *                                        HELO             +---------+
 *
 * Transitions and who makes them (all by receiver_enter()):
 *   START -> READY                greet() in receiver_command.c
 *   READY -> MAIL                 receiver_accept(), receiver_verdict(): MAIL
 *   MAIL, RCPT -> RCPT            the same: RECIPIENT (the second and later ones are no transition)
 *   RCPT -> DATA, CHUNK           receiver_data_begin(), after the verdict on DATA
 *   CHUNKED -> CHUNK              receiver_command_bdat()
 *   CHUNK -> CHUNKED              chunk_end()
 *   DATA, CHUNK -> READY          receiver_verdict(): MESSAGE
 *   DATA -> READY                 receiver_step_data(), after dropped data
 *   any but DATA, TLS -> CHUNK    chunk_drop(): a BDAT that is refused, for its octets
 *   CHUNK -> READY, START         chunk_end(), after a dropped chunk
 *   MAIL, RCPT, CHUNKED -> READY  reset(): RSET, EHLO, HELO
 *   READY, MAIL, RCPT, CHUNKED -> TLS   command_starttls()
 *   TLS -> START                  receiver_tls_started()
 *   any -> CLOSED                 receiver_close(), receiver_end(), receiver_verdict() with 421,
 *                                 receiver_starttls_injection()
 *
 * What each state guarantees:
 *   START    nothing is known of the client; helo_len is 0.
 *   READY    a name was given; no transaction is open: nothing is owed for what came before.
 *   MAIL     the caller accepted a reverse-path; recipients is 0; size is 0.
 *   RCPT     recipients is 1 to recipients_max; no message data came yet.
 *   DATA     354 was said. While discard is KEEP all octets so far were handed out and are in
 *            order; else ABORT was told (or is about to be: aborting) and no BODY comes any more.
 *   CHUNK    chunk_left octets of a BDAT are to come. discard as in DATA; a chunk that was refused
 *            before its octets came is dropped whole.
 *   CHUNKED  all chunks so far were handed out, and answered.
 *   TLS      no command is read any more in plaintext. awaiting says whether START_TLS was told.
 *   CLOSED   the last reply is in out. Nothing is read.
 * A transaction is open in MAIL, RCPT, CHUNKED, and in DATA and CHUNK while discard is KEEP; the
 * caller was then told MAIL and will be told either MESSAGE or ABORT. */
#include "core/receiver.h"

#include "core/receiver_private.h"
#include "core/trace.h"

const char *
receiver_state_name(enum receiver_state state)
{
    static const char *const names[RECEIVER_STATES] = {
        [RECEIVER_STATE_START] = "START",
        [RECEIVER_STATE_READY] = "READY",
        [RECEIVER_STATE_MAIL] = "MAIL",
        [RECEIVER_STATE_RCPT] = "RCPT",
        [RECEIVER_STATE_DATA] = "DATA",
        [RECEIVER_STATE_CHUNK] = "CHUNK",
        [RECEIVER_STATE_CHUNKED] = "CHUNKED",
        [RECEIVER_STATE_TLS] = "TLS",
        [RECEIVER_STATE_CLOSED] = "CLOSED",
    };

    ASSERT(state < RECEIVER_STATES);
    return names[state];
}

/* --- states --- */

#define TO(state) (1u << RECEIVER_STATE_##state)

static const uint16_t transitions[RECEIVER_STATES] = {
    [RECEIVER_STATE_START] = TO(READY) | TO(CHUNK) | TO(CLOSED),
    [RECEIVER_STATE_READY] = TO(MAIL) | TO(CHUNK) | TO(TLS) | TO(CLOSED),
    [RECEIVER_STATE_MAIL] = TO(RCPT) | TO(CHUNK) | TO(READY) | TO(TLS) | TO(CLOSED),
    [RECEIVER_STATE_RCPT] = TO(DATA) | TO(CHUNK) | TO(READY) | TO(TLS) | TO(CLOSED),
    [RECEIVER_STATE_DATA] = TO(READY) | TO(CLOSED),
    [RECEIVER_STATE_CHUNK] = TO(CHUNKED) | TO(READY) | TO(START) | TO(CLOSED),
    [RECEIVER_STATE_CHUNKED] = TO(CHUNK) | TO(READY) | TO(TLS) | TO(CLOSED),
    [RECEIVER_STATE_TLS] = TO(START) | TO(CLOSED),
    [RECEIVER_STATE_CLOSED] = 0,
};

void
receiver_enter(struct receiver *receiver, enum receiver_state to, const char *cause)
{
    enum receiver_state from = receiver->state;

    ASSERT(to < RECEIVER_STATES);
    trace_transition("receiver", receiver, receiver_state_name(from), receiver_state_name(to),
                     cause);
    ASSERT((transitions[from] & (1u << to)) != 0);
    receiver->state = to;
}

static bool
transaction_open(const struct receiver *receiver)
{
    switch (receiver->state) {
    case RECEIVER_STATE_MAIL:
    case RECEIVER_STATE_RCPT:
    case RECEIVER_STATE_CHUNKED:
        return true;
    case RECEIVER_STATE_DATA:
    case RECEIVER_STATE_CHUNK:
        return receiver->discard == RECEIVER_KEEP;
    default:
        return false;
    }
}

/* What the head of this file promises. Every function that changes a receiver ends with it, so that
 * it holds when the next one begins. */
static void
check(const struct receiver *receiver)
{
    ASSERT(receiver->state < RECEIVER_STATES);
    ASSERT(receiver->recipients <= receiver->policy->recipients_max);
    ASSERT(receiver->state != RECEIVER_STATE_START || receiver->helo_len == 0);
    ASSERT(receiver->state != RECEIVER_STATE_READY || receiver->helo_len > 0);
    ASSERT(receiver->state != RECEIVER_STATE_MAIL || receiver->recipients == 0);
    ASSERT(receiver->state != RECEIVER_STATE_RCPT || receiver->recipients > 0);
    ASSERT(receiver->chunk_left <= receiver->chunk_size);
    ASSERT(receiver->errors <= receiver->policy->errors_max ||
           receiver->state == RECEIVER_STATE_CLOSED);
}

void
receiver_end_transaction(struct receiver *receiver)
{
    if (transaction_open(receiver))
        receiver->aborting = true;
}

void
receiver_close(struct receiver *receiver, enum receiver_reply reply, const char *cause,
               struct outbuf *out)
{
    receiver_end_transaction(receiver);
    receiver_enter(receiver, RECEIVER_STATE_CLOSED, cause);
    receiver_say(receiver, reply, out);
}

/* --- errors of the client --- */

bool
receiver_count_error(struct receiver *receiver, struct outbuf *out)
{
    counter_increment(&receiver->counters->command_errors);
    if (++receiver->errors <= receiver->policy->errors_max)
        return true;
    receiver_close(receiver, REPLY_ERRORS_LIMIT, "errors", out);
    return false;
}

bool
receiver_count_excused(struct receiver *receiver, struct outbuf *out)
{
    /* Room for a client that sends twice as many recipients as it may in one group, and some
     * more. */
    if (++receiver->tries <= (uint64_t)receiver->policy->recipients_max * 2 + 100)
        return true;
    receiver_close(receiver, REPLY_TRIES_LIMIT, "tries", out);
    return false;
}

void
receiver_refuse(struct receiver *receiver, enum receiver_reply reply, struct outbuf *out)
{
    if (receiver_count_error(receiver, out))
        receiver_say(receiver, reply, out);
}

/* --- steps --- */

/* After LINE_TOO_LONG: drops up to the end of the line. A bare LF there is as suspect as anywhere:
 * what follows it may be a line to us and a part of this one to somebody before us. */
static bool
skip_line(struct receiver *receiver, struct span *in, struct outbuf *out)
{
    struct span before = *in;
    bool ended = line_skip(in);
    size_t dropped = before.len - in->len;
    bool after_cr = receiver->skipped_cr;

    *in = span_after(before, dropped);
    if (dropped == 0)
        return false;
    if (ended && dropped > 1)
        after_cr = before.data[dropped - 2] == '\r';
    receiver->skipped_cr = before.data[dropped - 1] == '\r';
    if (!ended)
        return false;
    receiver->skipping_line = false;
    if (after_cr)
        receiver_refuse(receiver, REPLY_LINE_TOO_LONG, out);
    else
        receiver_close(receiver, REPLY_LINE_BARE, "bare newline", out);
    return true;
}

/* One command. False: no event, go on. */
static bool
step_command(struct receiver *receiver, struct span *in, struct outbuf *out,
             struct receiver_event *event)
{
    struct span line;
    size_t consumed;

    if (in->len == 0)
        return true; /* NEED_INPUT, also without room */
    if (outbuf_room(out) < RECEIVER_REPLY_ROOM) {
        event->kind = RECEIVER_NEED_ROOM;
        return true;
    }
    if (receiver->skipping_line)
        return !skip_line(receiver, in, out);
    switch (line_next(*in, receiver->policy->command_line_max, &receiver->scanned, &line,
                      &consumed)) {
    case LINE_PARTIAL:
        return true; /* NEED_INPUT */
    case LINE_COMPLETE:
        span_advance(in, consumed);
        receiver_command(receiver, line, out, event);
        break;
    case LINE_BARE:
        /* RFC 5321 2.3.8: only CRLF ends a line. A sender that says otherwise may have been made to
         * say things (smuggling): nothing that follows is trusted. */
        span_advance(in, consumed);
        receiver_close(receiver, REPLY_LINE_BARE, "bare newline", out);
        break;
    case LINE_NUL:
        span_advance(in, consumed);
        receiver_refuse(receiver, REPLY_LINE_NUL, out);
        break;
    case LINE_TOO_LONG: /* RFC 5321 4.5.3.1.10: 500. Refused whole, neither cut nor split. */
        receiver->skipping_line = true;
        receiver->skipped_cr = false;
        return !skip_line(receiver, in, out);
    }
    return event->kind != RECEIVER_NEED_INPUT;
}

/* STARTTLS was accepted, and ABORT was told if need be. What is here already was sent before our
 * 220: a man in the middle may have put it there, to be read as if it had come encrypted. RFC 3207
 * 4.2 and RFC 8314 4.1; refused rather than ignored, since then the client learns of it. */
static bool
step_tls(struct receiver *receiver, struct span *in, struct outbuf *out,
         struct receiver_event *event)
{
    if (outbuf_room(out) < RECEIVER_REPLY_ROOM) {
        event->kind = RECEIVER_NEED_ROOM;
        return true;
    }
    if (in->len > 0) {
        receiver_close(receiver, REPLY_TLS_INJECTION, "plaintext after STARTTLS", out);
        return false;
    }
    receiver_say(receiver, REPLY_START_TLS, out);
    receiver->awaiting = RECEIVER_START_TLS;
    event->kind = RECEIVER_START_TLS;
    return true;
}

/* One step of the state. False: no event, go on. */
static bool
step(struct receiver *receiver, struct span *in, struct outbuf *out, struct receiver_event *event)
{
    if (receiver->aborting) {
        receiver->aborting = false;
        event->kind = RECEIVER_ABORT;
        return true;
    }
    switch (receiver->state) {
    case RECEIVER_STATE_START:
    case RECEIVER_STATE_READY:
    case RECEIVER_STATE_MAIL:
    case RECEIVER_STATE_RCPT:
    case RECEIVER_STATE_CHUNKED:
        return step_command(receiver, in, out, event);
    case RECEIVER_STATE_DATA:
        return receiver_step_data(receiver, in, out, event);
    case RECEIVER_STATE_CHUNK:
        return receiver_step_chunk(receiver, in, out, event);
    case RECEIVER_STATE_TLS:
        return step_tls(receiver, in, out, event);
    case RECEIVER_STATE_CLOSED:
        event->kind = RECEIVER_CLOSE;
        return true;
    case RECEIVER_STATES:
        break;
    }
    ASSERT(receiver->state < RECEIVER_STATES);
    return false;
}

void
receiver_step_to(struct receiver *receiver, struct span *in, struct outbuf *out,
                 struct receiver_event *event)
{
    ASSERT(receiver->awaiting == 0);
    event->kind = RECEIVER_NEED_INPUT;
    event->chunked = false;
    while (!step(receiver, in, out, event))
        continue;
    check(receiver);
}

struct receiver_event
receiver_step(struct receiver *receiver, struct span *in, struct outbuf *out)
{
    struct receiver_event event = { .kind = RECEIVER_NEED_INPUT };

    receiver_step_to(receiver, in, out, &event);
    return event;
}

/* --- verdicts --- */

static void
accept_mail(struct receiver *receiver)
{
    receiver->recipients = 0;
    receiver->tries = 0;
    receiver->size = 0;
    receiver->group_failed = false;
    receiver_enter(receiver, RECEIVER_STATE_MAIL, "MAIL accepted");
}

static void
accept_recipient(struct receiver *receiver)
{
    receiver->recipients++;
    counter_increment(&receiver->counters->recipients_accepted);
    if (receiver->state == RECEIVER_STATE_MAIL)
        receiver_enter(receiver, RECEIVER_STATE_RCPT, "RCPT accepted");
}

static void
accept_message(struct receiver *receiver)
{
    counter_increment(&receiver->counters->messages_accepted);
    counter_add(&receiver->counters->message_bytes_accepted, receiver_message_size(receiver));
    receiver_enter(receiver, RECEIVER_STATE_READY, "message accepted");
}

/* The reply, and what it means. reply: NULL for the usual text. */
static void
accept_awaited(struct receiver *receiver, const struct reply *reply, struct outbuf *out)
{
    enum receiver_event_kind kind = receiver->awaiting;
    enum receiver_reply usual;

    receiver->awaiting = 0;
    switch (kind) {
    case RECEIVER_MAIL:
        accept_mail(receiver);
        usual = REPLY_MAIL_OK;
        break;
    case RECEIVER_RECIPIENT:
        accept_recipient(receiver);
        usual = REPLY_RCPT_OK;
        break;
    case RECEIVER_DATA:
        receiver_data_begin(receiver);
        if (!receiver->chunked) /* a BDAT is answered after its octets */
            receiver_say(receiver, REPLY_DATA_GO, out);
        return;
    default:
        ASSERT(kind == RECEIVER_MESSAGE);
        ASSERT(reply != NULL);
        accept_message(receiver);
        usual = REPLY_NONE;
        break;
    }
    if (reply == NULL)
        receiver_say(receiver, usual, out);
    else
        receiver_say_verdict(receiver, reply, out);
}

static void
refuse_awaited(struct receiver *receiver, const struct reply *reply, struct outbuf *out)
{
    enum receiver_event_kind kind = receiver->awaiting;
    struct counters *counters = receiver->counters;
    bool later = reply_class(reply) == 4;

    receiver->awaiting = 0;
    switch (kind) {
    case RECEIVER_MAIL:
        break;
    case RECEIVER_RECIPIENT:
        counter_increment(later ? &counters->recipients_deferred : &counters->recipients_refused);
        break;
    case RECEIVER_DATA:
        /* 421 closes, so that nobody asks for the end of the chunk. */
        if (!receiver->chunked || reply->code == 421)
            break;
        receiver_chunk_refused(receiver, reply);
        return;
    default:
        ASSERT(kind == RECEIVER_MESSAGE);
        counter_increment(later ? &counters->messages_deferred : &counters->messages_refused);
        receiver_enter(receiver, RECEIVER_STATE_READY, "message refused");
        break;
    }
    if (reply->code == 421) {
        receiver_end_transaction(receiver);
        receiver_enter(receiver, RECEIVER_STATE_CLOSED, "verdict 421");
    }
    receiver_say_verdict(receiver, reply, out);
}

void
receiver_accept(struct receiver *receiver, struct outbuf *out)
{
    accept_awaited(receiver, NULL, out);
    check(receiver);
}

void
receiver_verdict(struct receiver *receiver, const struct reply *reply, struct outbuf *out)
{
    if (reply_class(reply) == 2) {
        accept_awaited(receiver, reply, out);
    } else {
        ASSERT(reply_class(reply) == 4 || reply_class(reply) == 5);
        refuse_awaited(receiver, reply, out);
    }
    check(receiver);
}

/* --- the session --- */

void
receiver_start(struct receiver *receiver, const struct receiver_policy *policy,
               struct counters *counters, bool tls, struct outbuf *out)
{
    ASSERT(policy->hostname.len > 0);
    ASSERT(policy->hostname.len <= DOMAIN_BYTES_MAX);
    ASSERT(policy->message_size_max > 0);
    ASSERT(policy->message_size_max <= INT64_MAX);
    ASSERT(policy->command_line_max >= 2);
    ASSERT(policy->command_line_max <= COMMAND_LINE_BYTES_MAX);
    *receiver = (struct receiver){
        .policy = policy,
        .counters = counters,
        .state = RECEIVER_STATE_START,
        .tls = tls,
    };
    receiver_say_greeting(receiver, out);
    check(receiver);
}

void
receiver_tls_started(struct receiver *receiver)
{
    ASSERT(receiver->awaiting == RECEIVER_START_TLS);
    receiver->awaiting = 0;
    receiver->tls = true;
    receiver->esmtp = false;
    receiver->helo_len = 0;
    receiver->group_failed = false;
    receiver->smtputf8 = false;
    receiver->tries = 0;
    receiver->scanned = 0;
    receiver_enter(receiver, RECEIVER_STATE_START, "TLS started");
    check(receiver);
}

void
receiver_starttls_injection(struct receiver *receiver, struct outbuf *out)
{
    struct span go_ahead = receiver_reply_line(REPLY_START_TLS);

    ASSERT(receiver->awaiting == RECEIVER_START_TLS);
    receiver->awaiting = 0;
    if (out->len >= go_ahead.len &&
        memcmp(out->data + out->len - go_ahead.len, go_ahead.data, go_ahead.len) == 0) {
        out->len -= go_ahead.len;
        receiver_close(receiver, REPLY_TLS_INJECTION, "plaintext after STARTTLS", out);
        check(receiver);
        return;
    }
    /* The 220 is on its way: after it only TLS records may be sent. */
    counter_increment(&receiver->counters->violations_starttls_injection);
    receiver_enter(receiver, RECEIVER_STATE_CLOSED, "plaintext after 220");
    check(receiver);
}

void
receiver_end(struct receiver *receiver, const char *enhanced, struct span text,
             struct outbuf *out)
{
    bool silent = receiver->state == RECEIVER_STATE_TLS && receiver->awaiting != 0;
    char bytes[DOMAIN_BYTES_MAX + REPLY_TEXT_BYTES_MAX];
    struct outbuf words = { .data = bytes, .size = sizeof(bytes) };
    struct reply reply;

    if (receiver->state == RECEIVER_STATE_CLOSED)
        return;
    ASSERT(receiver->awaiting == 0 || silent);
    receiver->awaiting = 0;
    receiver_end_transaction(receiver);
    receiver_enter(receiver, RECEIVER_STATE_CLOSED, "ended by us");
    check(receiver);
    if (silent)
        return;
    outbuf_add(&words, receiver->policy->hostname); /* RFC 5321 4.2: first, as for all 421 */
    (void)outbuf_add_some(&words, SPAN(" "));
    (void)outbuf_add_some(&words, text);
    reply_set(&reply, 421, enhanced, outbuf_span(&words));
    receiver_say_verdict(receiver, &reply, out);
}

enum receiver_wait
receiver_waits_for(const struct receiver *receiver)
{
    if (receiver->state == RECEIVER_STATE_TLS)
        return RECEIVER_WAITS_TLS;
    if (receiver->awaiting != 0)
        return RECEIVER_WAITS_VERDICT;
    if (receiver->state == RECEIVER_STATE_DATA || receiver->state == RECEIVER_STATE_CHUNK)
        return RECEIVER_WAITS_DATA;
    return RECEIVER_WAITS_COMMAND;
}

bool
receiver_idle(const struct receiver *receiver)
{
    if (receiver->awaiting != 0 || receiver->aborting)
        return false;
    return receiver->state == RECEIVER_STATE_START || receiver->state == RECEIVER_STATE_READY ||
           receiver->state == RECEIVER_STATE_CLOSED;
}

bool
receiver_quit(const struct receiver *receiver)
{
    return receiver->quit;
}

struct span
receiver_helo(const struct receiver *receiver)
{
    return span_of(receiver->helo, receiver->helo_len);
}

bool
receiver_esmtp(const struct receiver *receiver)
{
    return receiver->esmtp;
}
