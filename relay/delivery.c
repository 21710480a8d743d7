/* A transaction on a connection: its commands, its body, what the replies mean for it. */
#include "core/clock.h"
#include "core/header.h"
#include "core/line.h"
#include "core/log.h"
#include "relay/connection_private.h"
#include "relay/courier.h"
#include "relay/custody.h"
#include "relay/session.h"

/* Connections that one transaction may find unusable before it is deferred. */
#define RESTARTS_MAX 16

/* A server that ends connections without a word behind some message would make the next message of
 * each an ambiguous one: after the first it is spared groups with BDAT for so long. */
#define GROUP_RETRY_NS (UINT64_C(3600) * NS_PER_S)

/* --- commands and body --- */

bool
connection_begin(struct connection *connection, struct transaction *transaction)
{
    struct worker *worker = worker_of(connection);
    struct sender_needs needs = {
        .size =
            transaction->complete ? transaction->summary.size : transaction->envelope.declared_size,
        .eight_bit = transaction->complete ? transaction->summary.eight_bit
                                           : transaction->envelope.body == BODY_TYPE_8BITMIME,
        .smtputf8 = transaction->envelope.utf8 ||
                    (transaction->envelope.smtputf8 &&
                     (!transaction->complete || transaction->summary.header_utf8)),
    };
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    struct reply refusal;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        needs.success_notice |= worker->courier == NULL && r->state != RECIPIENT_REFUSED &&
                                (r->notify & DSN_NOTIFY_SUCCESS);
    transaction->connection = connection; /* the log names the server */
    if (!sender_check(&connection->sender.offered, &needs, &refusal)) {
        counter_increment(&worker->counters.refusals_extension);
        transaction_finish(transaction, VERDICT_REFUSE, &refusal);
        return false;
    }
    connection->state = CONNECTION_BUSY;
    connection->transaction = transaction;
    if (transaction->begun_ns == 0)
        transaction->begun_ns = worker->now_ns;
    if (connection->uses > 0)
        counter_increment(&connection->hop->counters->connections_reused);
    server_of(connection)->busy_count++;
    connection->uses++;
    connection->answered = connection->mail_sent = connection->data_sent = connection->end_sent =
        false;
    connection->go_ahead = connection->refused = connection->reset_sent = false;
    connection->recipients_sent = connection->recipients_answered = 0;
    connection->recipients_taken = 0;
    connection->to_send = connection->to_answer = envelope_begin(&transaction->envelope);
    custody_watch(transaction);
    connection_advance(connection);
    return true;
}

static struct recipient *
recipient_next(struct envelope_cursor *cursor)
{
    struct recipient *recipient;

    do
        recipient = envelope_next(cursor);
    while (recipient != NULL && recipient->state != RECIPIENT_ACCEPTED &&
           recipient->state != RECIPIENT_ASKED);
    return recipient;
}

static void
command_mail(struct connection *connection)
{
    const struct transaction *transaction = connection->transaction;
    const struct envelope *envelope = &transaction->envelope;
    struct sender_mail mail = {
        .reverse_path = envelope->reverse_path,
        .size = transaction->complete ? transaction->summary.size + TRACE_FIELD_BYTES_MAX / 4
                                      : envelope->declared_size,
        .body = envelope->body,
        .smtputf8 = envelope->smtputf8 || envelope->utf8,
        .dsn_return = envelope->dsn_return,
        .envid = envelope->envid,
    };

    /* What is true is said, whatever the client declared (RFC 6152 3: raw 8-bit data without BODY=
     * is a gamble). */
    if (transaction->complete && transaction->summary.eight_bit)
        mail.body = BODY_TYPE_8BITMIME;
    sender_mail(&connection->sender, &mail, &connection->link.out);
    connection->mail_sent = true;
}

/* The body can go as one chunk. */
static bool
chunk_fits(const struct connection *connection)
{
    const struct transaction *transaction = connection->transaction;

    return connection->sender.offered.chunking && transaction->complete &&
           !transaction->streaming;
}

/* BDAT LAST may go out before its recipient is known: one round trip for a message (RFC 3030 4.2).
 * Whoever loses the connection then does not know what became of the message, so only where that is
 * unlikely: this server took mail over this connection, and spoke a moment ago. What it does not
 * want has come in vain: so only small ones. With kept connections a sixth fewer operations for a
 * message, with clients that pipeline a quarter; see docs/PERFORMANCE.md. */
static bool
chunk_in_group(const struct connection *connection)
{
    uint64_t now_ns = worker_of(connection)->now_ns;

    return connection->uses > 1 &&
           connection->transaction->body.bytes <= CHUNK_IN_GROUP_BYTES_MAX &&
           now_ns - connection->heard_ns < CHUNK_IN_GROUP_HEARD_NS &&
           now_ns >= server_of(connection)->group_retry_ns;
}

enum body_way { BODY_WAITS, BODY_BY_DATA, BODY_BY_CHUNK };

/* Whether DATA or BDAT may go out now, and which: with one recipient in the same group as its RCPT,
 * else when all said yes. */
static enum body_way
body_way(const struct connection *connection)
{
    const struct transaction *transaction = connection->transaction;
    bool known = connection->recipients_answered == connection->recipients_sent;
    bool single = connection->recipients_sent == 1;

    if (connection->data_sent || connection->refused || transaction->asked != NULL ||
        !(transaction->complete || transaction->streaming) || connection->recipients_sent == 0)
        return BODY_WAITS;
    if (known && transaction->custody == CUSTODY_SPOOL && connection->recipients_taken == 0)
        return BODY_WAITS;
    if (chunk_fits(connection)) {
        if (known || (single && chunk_in_group(connection)))
            return BODY_BY_CHUNK;
        if (transaction->chunked)
            return BODY_WAITS; /* for the recipient, rather than to be stuffed */
    }
    return known || single ? BODY_BY_DATA : BODY_WAITS;
}

static void
trace_add(struct connection *connection, struct outbuf *out)
{
    const struct transaction *transaction = connection->transaction;
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    const struct recipient *first = recipient_next(&cursor);
    char client[64];
    struct trace trace;

    if (transaction->notice)
        return; /* it begins here */
    if (transaction->origin.trace.len > 0) {
        outbuf_add(out, transaction->origin.trace); /* it was made when the message was stored */
        return;
    }
    session_trace(transaction->session, transaction->id, client, &trace);
    trace.smtputf8 = transaction->envelope.smtputf8;
    if (first != NULL && transaction->envelope.accepted == 1)
        trace.recipient = recipient_mailbox(first);
    trace_write(&trace, out);
}

/* What came by DATA and goes by BDAT is looked through for stuffed dots only where there are some,
 * and more than the receiver has noted: 2.3 thousand instructions less for a message of 4 KiB. */
static enum link_dots
dots_of(const struct connection *connection)
{
    const struct transaction *transaction = connection->transaction;

    if (transaction->chunked == connection->bdat)
        return LINK_DOTS_KEEP;
    if (!connection->bdat)
        return LINK_DOTS_INSERT;
    return link_body_left(&connection->body) > transaction->summary.size ? LINK_DOTS_REMOVE
                                                                         : LINK_DOTS_KEEP;
}

static bool
dots_known(const struct receiver_summary *summary)
{
    return summary->dots.count > 0 && summary->dots.count <= BODY_DOTS_MAX &&
           summary->size < UINT32_MAX - BODY_DOTS_MAX;
}

static void
body_start(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;

    connection->body.chain = &transaction->body;
    connection->body.index = BUFFER_NONE;
    connection->body.offset = 0;
    connection->body.sent = connection->body.flight = 0;
    connection->body.omit = connection->bdat && !transaction->chunked ? BODY_TERMINATOR_BYTES : 0;
    connection->body.consume = transaction->streaming;
    connection->body.line_start = true;
    connection->body.dot_done = false;
    connection->body.dots = dots_of(connection);
    connection->body.known = dots_known(&transaction->summary) ? &transaction->summary.dots : NULL;
    connection->link.body = &connection->body;
    if (transaction->streaming)
        transaction->started = true;
}

/* The whole message as one chunk. */
static void
command_chunk(struct connection *connection)
{
    char text[TRACE_FIELD_BYTES_MAX];
    struct outbuf trace = { .data = text, .size = sizeof(text) };

    connection->bdat = true;
    body_start(connection);
    trace_add(connection, &trace);
    sender_chunk(&connection->sender, trace.len + connection->transaction->summary.size, true,
                 &connection->link.out);
    outbuf_add(&connection->link.out, outbuf_span(&trace));
    connection->go_ahead = true;
}

/* There is something to be said now. */
static bool
command_due(const struct connection *connection)
{
    struct envelope_cursor at = connection->to_send;

    return !connection->mail_sent ||
           (!connection->data_sent && recipient_next(&at) != NULL) ||
           body_way(connection) != BODY_WAITS;
}

/* Writes the next command if there is one. */
static bool
command_next(struct connection *connection)
{
    struct link *link = &connection->link;
    enum body_way way;

    if (!sender_may_send(&connection->sender) ||
        !link_room(link, SENDER_COMMAND_ROOM + TRACE_FIELD_BYTES_MAX))
        return false;
    if (!connection->mail_sent) {
        command_mail(connection);
        return true;
    }
    if (!connection->data_sent) {
        struct envelope_cursor at = connection->to_send;
        struct recipient *recipient = recipient_next(&at);

        if (recipient != NULL) {
            struct rcpt_parameters parameters = recipient_parameters(recipient);

            sender_rcpt(&connection->sender, recipient_mailbox(recipient), &parameters, &link->out);
            connection->to_send = at;
            connection->recipients_sent++;
            return true;
        }
    }
    way = body_way(connection);
    if (way == BODY_WAITS)
        return false;
    connection->data_sent = true;
    if (way == BODY_BY_CHUNK) {
        command_chunk(connection);
    } else {
        connection->bdat = false;
        sender_data(&connection->sender, &link->out);
    }
    return true;
}

static void no_room(struct connection *connection);

/* After a flush: has the end of the message left? Only here end_sent becomes true (invariant 1). */
static void
body_end(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;
    struct link *link = &connection->link;

    if (!connection->go_ahead || connection->end_sent || !transaction_whole(transaction) ||
        link_body_left(&connection->body) > 0)
        return;
    if (connection->body.dots == LINK_DOTS_INSERT) {
        /* Octets that came by BDAT go out as DATA: the terminator is ours to add, behind the body.
         */
        if (link->sending || link->out.data != NULL)
            return;
        if (!link_room(link, BLOCK_BYTES / 2)) {
            no_room(connection);
            return;
        }
        outbuf_add(&link->out,
                   transaction->summary.ends_with_crlf ? SPAN(".\r\n") : SPAN("\r\n.\r\n"));
        connection->body.dots = LINK_DOTS_KEEP;
        link->body = NULL;
        link_flush(link);
    }
    connection->end_sent = true;
    counter_increment(&connection->hop->counters->messages_sent);
    counter_add(&worker_of(connection)->counters.message_bytes_sent, transaction->summary.size);
    if (!connection->bdat)
        sender_end_of_data(&connection->sender);
}

void
connection_advance(struct connection *connection)
{
    ASSERT(connection->transaction != NULL);
    if (connection->state != CONNECTION_BUSY)
        return;
    while (command_next(connection))
        ;
    link_flush(&connection->link);
    if (!connection->link.sending && sender_may_send(&connection->sender) &&
        sender_deadline_kind(&connection->sender) == SENDER_TIMER_NONE && command_due(connection)) {
        no_room(connection); /* no reply and no send will come that could go on here */
        return;
    }
    body_end(connection);
    if (connection->state == CONNECTION_BUSY)
        connection_deadline_set(connection);
}

/* --- its end --- */

/* The body is no longer ours to send. A send under way still reads its buffers: they stay with the
 * connection until that has completed, or bytes of another message could go out in their place. */
static void
body_release(struct connection *connection)
{
    struct link *link = &connection->link;

    if (link->body == NULL)
        return;
    if (link->sending) {
        chain_move(link->shared->buffers, &connection->orphan, connection->body.chain);
        connection_close(connection);
    }
    link->body = NULL;
}

/* Takes the transaction off. */
void
delivery_detach(struct connection *connection)
{
    if (connection->transaction == NULL)
        return;
    body_release(connection);
    connection->transaction->connection = NULL;
    connection->transaction = NULL;
    server_of(connection)->busy_count--;
}

void
delivery_drain_next(struct connection *connection)
{
    struct link *link = &connection->link;

    if (connection->state != CONNECTION_DRAINING)
        return;
    if (connection->go_ahead && !(connection->bdat && connection->end_sent)) {
        connection_close(connection); /* within a message there is no other way out */
        return;
    }
    if (!connection->reset_sent && sender_may_send(&connection->sender)) {
        if (link_room(link, SENDER_COMMAND_ROOM)) {
            sender_reset(&connection->sender, &link->out);
            connection->reset_sent = true;
            link_flush(link);
        } else if (link->out.data == NULL && !link->sending) {
            connection_close(connection); /* it is not worth waiting for a block */
            return;
        }
    }
    connection_deadline_set(connection);
}

/* The transaction is over for this connection. */
static void
connection_drain(struct connection *connection)
{
    delivery_detach(connection);
    if (connection->state == CONNECTION_CLOSING)
        return;
    if (!connection->mail_sent || (sender_idle(&connection->sender) && connection->end_sent)) {
        hop_connection_ready(connection);
        return;
    }
    connection->state = CONNECTION_DRAINING;
    if (!sender_ready(&connection->sender, 1))
        connection_close(connection); /* 421 */
    else
        delivery_drain_next(connection);
}

void
connection_abandon(struct connection *connection)
{
    ASSERT(connection->transaction != NULL);
    ASSERT(!connection->end_sent);
    if (connection->go_ahead || connection->data_sent) {
        /* Inside DATA the only way not to deliver is not to say the final dot. */
        delivery_detach(connection);
        connection_close(connection);
        return;
    }
    connection_drain(connection);
}

void
delivery_again(struct hop *hop, struct transaction *transaction)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        if (r->state == RECIPIENT_TAKEN)
            r->state = RECIPIENT_ACCEPTED;
    /* A client that is gone was told nothing: its message must not go out now. */
    if ((transaction->session == NULL && transaction->custody != CUSTODY_SPOOL) ||
        ++transaction->restarts > RESTARTS_MAX) {
        if (transaction->final.code == 0)
            reply_set(&transaction->final, 451, "4.4.2",
                      SPAN("Next hop unstable, try again later"));
        transaction_finish(transaction, VERDICT_DEFER, &transaction->final);
        return;
    }
    /* Live and nobody waits: it goes again as a burst when the client has sent the message. */
    if (!transaction->complete && !transaction->streaming && transaction->asked == NULL) {
        transaction->live = false;
        return;
    }
    hop_submit(hop, transaction);
}

/* The body is needed when the attempt is over: the spool shall have it, or has it and reads it, or
 * a report quotes it. */
static bool
body_kept(const struct transaction *transaction, enum verdict_action action)
{
    return transaction->custody != CUSTODY_CLIENT ||
           (action != VERDICT_DELIVERED && action != VERDICT_REFUSE &&
            custody_may_take(transaction));
}

/* The verdict. The transaction's log line still names this server. */
static void
transaction_end(struct connection *connection, enum verdict_action action,
                const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;

    if (connection->link.body != NULL && connection->link.sending &&
        body_kept(transaction, action)) {
        /* A send under way reads it, and its buffers cannot be given to two. */
        connection->late = true;
        transaction->verdict = (uint8_t)action;
        if (reply != &transaction->final)
            transaction->final = *reply;
        connection_close(connection);
        return;
    }
    body_release(connection);
    connection->transaction = NULL;
    server_of(connection)->busy_count--;
    transaction_finish(transaction, action, reply);
}

void
delivery_late(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;

    if (!connection->late || transaction == NULL)
        return;
    ASSERT(!connection->link.sending);
    connection->late = connection->retry = false;
    transaction_end(connection, (enum verdict_action)transaction->verdict, &transaction->final);
}

void
connection_abandon_stored(struct connection *connection)
{
    struct reply reply;

    ASSERT(connection->transaction->custody == CUSTODY_STORING);
    if (connection->link.body == NULL || !connection->link.sending) {
        connection_abandon(connection);
        return;
    }
    ASSERT(!connection->end_sent);
    reply_set(&reply, 451, "4.4.2", SPAN("Client gone"));
    transaction_end(connection, VERDICT_DEFER, &reply);
}

/* What came instead of a good reply. */
void
delivery_fail(struct connection *connection, const struct verdict_context *context,
              const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    enum verdict_action action = verdict_decide(context);
    struct hop_counters *counters = connection->hop->counters;
    struct reply told;

    verdict_reply(context, action, reply, &told);
    counter_increment(action == VERDICT_AMBIGUOUS     ? &counters->verdicts_ambiguous
                      : context->class == VERDICT_5XX ? &counters->verdicts_5xx
                      : context->class == VERDICT_4XX ? &counters->verdicts_4xx
                                                      : &counters->verdicts_lost);
    if (action == VERDICT_AMBIGUOUS && !connection->answered)
        server_of(connection)->group_retry_ns = worker_of(connection)->now_ns + GROUP_RETRY_NS;
    if (context->class > VERDICT_5XX || context->code == 421)
        connection->state = CONNECTION_CLOSING;
    if (action == VERDICT_NEXT_SERVER || action == VERDICT_FRESH) {
        if (action == VERDICT_NEXT_SERVER) {
            transaction->tried |= 1u << connection->server;
            transaction->final = told;
            counter_increment(&counters->server_failovers);
        } else {
            transaction->fresh = true;
            counter_increment(&counters->connections_replaced);
        }
        if (connection->link.body != NULL && connection->link.sending) {
            connection->retry = true; /* when the send has ended: see connection_release() */
            connection_close(connection);
            return;
        }
        connection_drain(connection);
        if (connection->state == CONNECTION_CLOSING)
            link_close(&connection->link);
        delivery_again(connection->hop, transaction);
        return;
    }
    transaction_end(connection, action, &told);
    if (connection->state == CONNECTION_CLOSING || connection->link.sending ||
        (connection->go_ahead && !connection->end_sent))
        connection_close(connection);
    else
        connection_drain(connection);
}

struct verdict_context
delivery_context(const struct connection *connection, enum sender_expectation expectation,
                 enum verdict_class class, unsigned code)
{
    const struct transaction *transaction = connection->transaction;

    /* Not all of the message has left, or it came to nobody: nothing can have been taken. */
    if (expectation == SENDER_EXPECTS_END && class > VERDICT_5XX &&
        (!connection->end_sent || (class == VERDICT_LOST && link_unheard(&connection->link))))
        expectation = SENDER_EXPECTS_DATA;
    return (struct verdict_context){ .expectation = expectation,
                                     .class = class,
                                     .reused = connection->uses > 1,
                                     .nothing_answered = !connection->answered,
                                     .restartable = !transaction->started,
                                     .code = code };
}

/* No block is left for what must be said now, and nothing is under way that could bring one: the
 * message is not sent, its client tries again. */
static void
no_room(struct connection *connection)
{
    struct reply told;

    counter_increment(&worker_of(connection)->counters.pool_exhausted);
    reply_set(&told, 451, "4.3.1", SPAN("Insufficient system resources, try again later"));
    transaction_end(connection, VERDICT_DEFER, &told);
    connection_close(connection);
}

static void
on_delivered(struct connection *connection, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct worker *worker = worker_of(connection);

    counter_increment(&connection->hop->counters->verdicts_2xx);
    histogram_observe(&worker->counters.next_hop_verdict, worker->now_ns - transaction->begun_ns);
    transaction_end(connection, VERDICT_DELIVERED, reply);
    if (connection->state == CONNECTION_BUSY && sender_idle(&connection->sender))
        hop_connection_ready(connection);
    else
        connection_close(
            connection); /* a reply before we had sent all: not to be trusted with another */
}

/* 250 before all octets had left us, as can be to BDAT LAST (to DATA it is a reply to nothing):
 * what the next hop has taken, if anything, is not the message. */
static void
answered_early(struct connection *connection, const struct reply *reply)
{
    const struct verdict_context context = { .expectation = SENDER_EXPECTS_END,
                                             .class = VERDICT_PROTOCOL,
                                             .reused = connection->uses > 1,
                                             .restartable = false };

    delivery_fail(connection, &context, reply);
}

static void
count_recipient(struct hop_counters *counters, const struct reply *reply)
{
    counter_increment(reply_class(reply) == 2   ? &counters->recipients_accepted
                      : reply_class(reply) == 5 ? &counters->recipients_refused
                                                : &counters->recipients_deferred);
}

/* A stored message: each recipient has a verdict of its own. */
static void
on_recipient_apart(struct connection *connection, struct recipient *recipient,
                   const struct verdict_context *context, enum verdict_action action,
                   const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct envelope_cursor rest = connection->to_send;
    struct reply told = *reply;

    if (action == VERDICT_CONTINUE) {
        recipient->state = RECIPIENT_TAKEN;
    } else {
        verdict_reply(context, action, reply, &told);
        recipient->state = action == VERDICT_REFUSE ? RECIPIENT_FAILED : RECIPIENT_DEFERRED;
        note_add(transaction, recipient, &told);
    }
    if (connection->recipients_answered == connection->recipients_sent &&
        recipient_next(&rest) == NULL && connection->recipients_taken == 0) {
        transaction_end(connection, VERDICT_DEFER, &told); /* each has its outcome already */
        connection_drain(connection);
    }
}

static void
on_recipient(struct connection *connection, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct recipient *recipient = recipient_next(&connection->to_answer);
    struct verdict_context context =
        delivery_context(connection, SENDER_EXPECTS_RCPT, verdict_class_of(reply), reply->code);
    enum verdict_action action = verdict_decide(&context);
    struct envelope_cursor rest = connection->to_send;
    bool single = connection->recipients_sent == 1 && recipient_next(&rest) == NULL;
    struct reply told;

    ASSERT(recipient != NULL);
#ifdef CANARY_VERDICT_OF_ANOTHER
    if (action == VERDICT_REFUSE && transaction->custody == CUSTODY_SPOOL && !single) {
        struct envelope_cursor first = envelope_begin(&transaction->envelope);

        recipient = envelope_next(&first);
    }
#endif
    connection->recipients_answered++;
    connection->answered = true;
    if (action == VERDICT_CONTINUE)
        connection->recipients_taken++;
    count_recipient(connection->hop->counters, reply);
    if (action == VERDICT_NEXT_SERVER || action == VERDICT_FRESH ||
        (action != VERDICT_CONTINUE && single && !transaction->live)) {
        delivery_fail(connection, &context, reply);
        return;
    }
    if (transaction->custody == CUSTODY_SPOOL) {
        on_recipient_apart(connection, recipient, &context, action, reply);
    } else if (transaction->live) {
        told = *reply;
        if (action != VERDICT_CONTINUE)
            verdict_reply(&context, action, reply, &told);
        /* A refused recipient that nobody else shares leaves the transaction open for the next one.
         */
        transaction_answered(transaction, recipient, action, &told);
    } else if (action != VERDICT_CONTINUE) {
        /* Several recipients that were accepted before, on another connection, and now one is not.
         */
        connection->refused = true;
        reply_set(&told, 451, "4.5.3", SPAN("Recipients' verdicts differ, try again later"));
        transaction_end(connection, VERDICT_DEFER, &told);
        connection_drain(connection);
    }
}

void
delivery_reply(struct connection *connection, const struct sender_event *event)
{
    const struct reply *reply = event->reply;
    struct verdict_context context;

    if (connection->state != CONNECTION_BUSY) {
        if (event->expectation == SENDER_EXPECTS_DATA && reply_class(reply) == 3)
            connection->go_ahead = true;
        delivery_drain_next(connection);
        return;
    }
    if (event->expectation == SENDER_EXPECTS_RCPT) {
        on_recipient(connection, reply);
    } else {
        context =
            delivery_context(connection, event->expectation, verdict_class_of(reply), reply->code);
        switch (verdict_decide(&context)) {
        case VERDICT_CONTINUE:
            connection->answered = true;
            if (event->expectation == SENDER_EXPECTS_DATA) {
                connection->go_ahead = true;
                if (!link_room(&connection->link, TRACE_FIELD_BYTES_MAX)) {
                    no_room(connection);
                    return;
                }
                trace_add(connection, &connection->link.out);
                body_start(connection);
            }
            break;
        case VERDICT_DELIVERED:
            if (connection->end_sent && connection->body.flight == 0)
                on_delivered(connection, reply);
            else
                answered_early(connection, reply);
            return;
        default: delivery_fail(connection, &context, reply); return;
        }
    }
    if (connection->transaction != NULL)
        connection_advance(connection);
}
