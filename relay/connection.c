/* One connection to a server: opening it, the commands and body of a transaction, what replies and losses mean. */
#include "relay/connection.h"

#include "core/clock.h"
#include "core/header.h"
#include "core/log.h"
#include "relay/session.h"

/* Connections that one transaction may find unusable before it is deferred. */
#define RESTARTS_MAX 16

static struct worker *
worker_of(const struct connection *connection)
{
    return connection->hop->worker;
}

static struct server *
server_of(const struct connection *connection)
{
    return &connection->hop->servers[connection->server];
}

/* --- time --- */

static void
deadline_set(struct connection *connection)
{
    struct worker *worker = worker_of(connection);
    const struct config_timeouts *timeouts = &worker->config->timeouts;
    const uint64_t durations_ms[SENDER_TIMERS] = {
        [SENDER_TIMER_GREETING] = timeouts->greeting_ms,
        [SENDER_TIMER_COMMAND] = timeouts->mail_ms,
        [SENDER_TIMER_MAIL] = timeouts->mail_ms,
        [SENDER_TIMER_RCPT] = timeouts->rcpt_ms,
        [SENDER_TIMER_DATA_INITIATION] = timeouts->data_initiation_ms,
        [SENDER_TIMER_DATA_BLOCK] = timeouts->data_block_ms,
        [SENDER_TIMER_DATA_END] = timeouts->data_end_ms,
        [SENDER_TIMER_QUIT] = timeouts->quit_ms,
    };
    uint64_t ms = durations_ms[sender_deadline_kind(&connection->sender)];

    if (connection->state == CONNECTION_IDLE)
        ms = connection->hop->config->idle_timeout_ms;
    else if (connection->link.tls_state == LINK_HANDSHAKE)
        ms = timeouts->tls_ms;
    else if (ms == 0) /* live: the client is at its next command or its data */
        ms = timeouts->command_ms + timeouts->message_ms;
    timer_set(&worker->timers, &connection->timer, worker->now_ns + ms * NS_PER_MS);
}

/* --- opening --- */

struct connection *
connection_open(struct hop *hop, uint32_t server, bool probe)
{
    struct worker *worker = hop->worker;
    struct connection *connection;
    const struct config_address *address = hop->servers[server].address;
    int socket;

    if (address == NULL || address->family == 0)
        return NULL;
    connection = pool_take(&worker->connections);
    if (connection == NULL) {
        counter_increment(&worker->counters.pool_exhausted);
        return NULL;
    }
    socket = io_socket(address);
    if (socket < 0) {
        pool_release(&worker->connections, connection);
        return NULL;
    }
    memset(connection, 0, sizeof(*connection));
    connection->hop = hop;
    connection->server = server;
    connection->probe = probe;
    connection->state = CONNECTION_OPENING;
    connection->opened_ns = worker->now_ns;
    connection->orphan = CHAIN_EMPTY;
    connection->timer.kind = WORKER_CONNECTION;
    link_open(&connection->link, &worker->links,
              worker_ticket(&worker->connections, connection, WORKER_CONNECTION), socket);
    link_connect(&connection->link, address);
    hop->connection_count++;
    hop->servers[server].connecting_count++;
    gauge_add(&hop->counters->connections_current, 1);
    counter_increment(&hop->counters->connections_opened);
    timer_set(&worker->timers, &connection->timer,
              worker->now_ns + worker->config->timeouts.connect_ms * NS_PER_MS);
    return connection;
}

static void
connection_close(struct connection *connection)
{
    connection->state = CONNECTION_CLOSING;
    link_close(&connection->link);
}

static void
opening_failed(struct connection *connection, const char *why)
{
    connection_close(connection);
    hop_connection_failed(connection, why);
}

static enum sender_tls
tls_wanted(const struct connection *connection)
{
    const struct server *server = server_of(connection);

    switch (connection->hop->config->tls) {
    case CONFIG_HOP_TLS_NONE:
        return SENDER_TLS_NONE;
    case CONFIG_HOP_TLS_OPPORTUNISTIC:
        return server->plain_only && worker_of(connection)->now_ns < server->tls_retry_ns
                   ? SENDER_TLS_NONE
                   : SENDER_TLS_OPPORTUNISTIC;
    case CONFIG_HOP_TLS_REQUIRE:
    case CONFIG_HOP_TLS_VERIFY:
        break;
    }
    return SENDER_TLS_REQUIRE;
}

static void
on_connected(struct connection *connection)
{
    link_receive(&connection->link);
    sender_start(&connection->sender, span_text(worker_of(connection)->config->hostname),
                 tls_wanted(connection), false);
    deadline_set(connection);
}

static void
start_tls(struct connection *connection)
{
    struct hop *hop = connection->hop;
    struct server *server = server_of(connection);
    const char *name = hop->config->tls_name != NULL ? hop->config->tls_name : server->config->host;
    struct tls *tls = NULL;

    if (link_unread(&connection->link) > 0) {
        opening_failed(connection, "plaintext after the reply to STARTTLS (response injection)");
        return;
    }
    if (worker_of(connection)->tls->clients[hop->index] != NULL)
        tls = tls_create_client(worker_of(connection)->tls->clients[hop->index], name,
                                server->tls_session);
    server->tls_session = NULL;
    if (tls == NULL) {
        opening_failed(connection, "out of memory for TLS");
        return;
    }
    connection->tls_pending = true;
    connection->tls_started_ns = worker_of(connection)->now_ns;
    link_start_tls(&connection->link, tls);
    deadline_set(connection);
}

static void
tls_done(struct connection *connection)
{
    struct counters *counters = &worker_of(connection)->counters;
    const struct tls *tls = connection->link.tls;

    connection->tls_pending = false;
    counter_increment(&counters->tls_client_ok);
    if (!tls_verified(tls))
        counter_increment(&counters->tls_client_unverified);
    if (tls_resumed(tls))
        counter_increment(&counters->tls_client_resumed);
    counter_increment(strcmp(tls_version(tls), "TLSv1.3") == 0 ? &counters->tls_client_version_1_3
                                                               : &counters->tls_client_version_1_2);
    histogram_observe(&counters->tls_handshake_client,
                      worker_of(connection)->now_ns - connection->tls_started_ns);
    if (link_room(&connection->link, SENDER_COMMAND_ROOM))
        sender_tls_started(&connection->sender, &connection->link.out);
    link_flush(&connection->link);
    deadline_set(connection);
}

static void
tls_broke(struct connection *connection)
{
    struct server *server = server_of(connection);
    struct span why = tls_failure(connection->link.tls);
    char text[192];
    struct outbuf out = { .data = text, .size = sizeof(text) - 1 };
    struct log_line line;

    outbuf_add_some(&out, SPAN("TLS handshake failed: "));
    outbuf_add_some(&out, why.len > 0 ? why : SPAN("connection closed by the server"));
    text[out.len] = '\0';
    counter_increment(&worker_of(connection)->counters.tls_client_failed);
    counter_increment(&connection->hop->counters->connections_failed_tls);
    log_begin(&line, LOG_LEVEL_WARNING, "tls_failed");
    log_text(&line, "side", SPAN("client"));
    log_text(&line, "next_hop", span_text(connection->hop->config->name));
    log_text(&line, "server", span_text(server->config->text));
    log_text(&line, "reason", why.len > 0 ? why : SPAN("connection closed by the server"));
    log_end(&line);
    connection->tls_pending = false;
    if (connection->hop->config->tls == CONFIG_HOP_TLS_OPPORTUNISTIC) {
        /* RFC 7435: opportunistic TLS that fails is no reason not to deliver. */
        server->plain_only = true;
        server->tls_retry_ns = worker_of(connection)->now_ns + 600 * NS_PER_S;
    }
    opening_failed(connection, text);
}

/* --- the transaction: commands --- */

bool
connection_begin(struct connection *connection, struct transaction *transaction)
{
    struct worker *worker = worker_of(connection);
    struct sender_needs needs = {
        .size = transaction->complete ? transaction->summary.size : transaction->envelope.declared_size,
        .eight_bit = transaction->complete ? transaction->summary.eight_bit
                                           : transaction->envelope.body == BODY_TYPE_8BITMIME,
        .smtputf8 = transaction->envelope.utf8 ||
                    (transaction->envelope.smtputf8 &&
                     (!transaction->complete || transaction->summary.header_utf8)),
    };
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    struct reply refusal;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        needs.success_notice |= r->state != RECIPIENT_REFUSED && (r->notify & DSN_NOTIFY_SUCCESS);
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
    connection->answered = connection->mail_sent = connection->data_sent = connection->end_sent = false;
    connection->go_ahead = connection->refused = connection->reset_sent = false;
    connection->recipients_sent = connection->recipients_answered = 0;
    connection->to_send = connection->to_answer = envelope_begin(&transaction->envelope);
    connection_advance(connection);
    return true;
}

static struct recipient *
recipient_next(struct envelope_cursor *cursor)
{
    struct recipient *recipient;

    do
        recipient = envelope_next(cursor);
    while (recipient != NULL && recipient->state == RECIPIENT_REFUSED);
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

    /* What is true is said, whatever the client declared (RFC 6152 3: raw 8-bit data without BODY= is a gamble). */
    if (transaction->complete && transaction->summary.eight_bit)
        mail.body = BODY_TYPE_8BITMIME;
    sender_mail(&connection->sender, &mail, &connection->link.out);
    connection->mail_sent = true;
}

/* Whether DATA may go out now: with one recipient in the same group as its RCPT, else when all said yes. */
static bool
data_allowed(const struct connection *connection)
{
    const struct transaction *transaction = connection->transaction;

    if (connection->data_sent || connection->refused || transaction->asked != NULL ||
        !(transaction->complete || transaction->streaming) || connection->recipients_sent == 0)
        return false;
    if (connection->recipients_answered == connection->recipients_sent)
        return true;
    /* BDAT LAST in one burst would make each dead pooled connection an ambiguous one: see sender_ambiguous(). */
    return connection->recipients_sent == 1 &&
           !(transaction->chunked && connection->sender.offered.chunking);
}

static void
trace_add(struct connection *connection, struct outbuf *out)
{
    const struct transaction *transaction = connection->transaction;
    const struct session *session = transaction->session;
    struct worker *worker = worker_of(connection);
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    const struct recipient *first = recipient_next(&cursor);
    char client[64];
    struct trace trace = {
        .helo = receiver_helo(&session->receiver),
        .client = session_client_text(session, client),
        .by = span_text(worker->config->hostname),
        .queue_id = span_text(transaction->id),
        .esmtp = receiver_esmtp(&session->receiver),
        .smtputf8 = transaction->envelope.smtputf8,
        .when = (time_t)(worker->realtime_ns / NS_PER_S),
    };

    if (first != NULL && transaction->envelope.accepted == 1)
        trace.recipient = recipient_mailbox(first);
    if (session->link.tls_state == LINK_TLS) {
        trace.tls_version = span_text(tls_version(session->link.tls));
        trace.tls_cipher = span_text(tls_cipher(session->link.tls));
    }
    trace_write(&trace, out);
}

static void
body_start(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;

    connection->body.chain = &transaction->body;
    connection->body.index = BUFFER_NONE;
    connection->body.offset = 0;
    connection->body.sent = connection->body.flight = 0;
    connection->body.consume = transaction->streaming;
    connection->body.stuff = transaction->chunked && !connection->bdat;
    connection->body.line_start = true;
    connection->body.dot_done = false;
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
    trace_add(connection, &trace);
    sender_chunk(&connection->sender, trace.len + connection->transaction->body.bytes, true,
                 &connection->link.out);
    outbuf_add(&connection->link.out, outbuf_span(&trace));
    connection->go_ahead = true;
    body_start(connection);
}

/* Writes the next command if there is one. */
static bool
command_next(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;
    struct link *link = &connection->link;

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
    if (!data_allowed(connection))
        return false;
    connection->data_sent = true;
    if (transaction->chunked && !transaction->streaming && connection->sender.offered.chunking) {
        command_chunk(connection);
    } else {
        connection->bdat = false;
        sender_data(&connection->sender, &link->out);
    }
    return true;
}

/* True when every octet of the body is with the kernel or on its way in the send that is under way. */
static bool
body_handed_over(const struct connection *connection)
{
    const struct link_body *body = &connection->body;

    return body->consume ? body->chain->bytes == body->flight
                         : body->chain->bytes == body->sent + body->flight;
}

/* After a flush: has the end of the message left? Only here end_sent becomes true (invariant 1). */
static void
body_end(struct connection *connection)
{
    struct transaction *transaction = connection->transaction;
    struct link *link = &connection->link;

    if (!connection->go_ahead || connection->end_sent || !transaction->complete ||
        !body_handed_over(connection))
        return;
    if (connection->body.stuff) {
        /* Octets that came by BDAT go out as DATA: the terminator is ours to add, behind the body. */
        if (link->sending || link->out.data != NULL || !link_room(link, BLOCK_BYTES / 2))
            return;
        outbuf_add(&link->out, transaction->summary.ends_with_crlf ? SPAN(".\r\n") : SPAN("\r\n.\r\n"));
        connection->body.stuff = false;
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
    body_end(connection);
    deadline_set(connection);
}

/* --- the transaction: its end --- */

/* The body is no longer ours to send. A send under way still reads its buffers: they stay with the connection until that
 * has completed, or bytes of another message could go out in their place. */
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
static void
transaction_detach(struct connection *connection)
{
    if (connection->transaction == NULL)
        return;
    body_release(connection);
    connection->transaction->connection = NULL;
    connection->transaction = NULL;
    server_of(connection)->busy_count--;
}

static void
drain_next(struct connection *connection)
{
    struct link *link = &connection->link;

    if (connection->state != CONNECTION_DRAINING)
        return;
    if (connection->go_ahead) {
        connection_close(connection); /* between 354 and the dot there is no other way out */
        return;
    }
    if (!connection->reset_sent && sender_may_send(&connection->sender) &&
        link_room(link, SENDER_COMMAND_ROOM)) {
        sender_reset(&connection->sender, &link->out);
        connection->reset_sent = true;
        link_flush(link);
    }
    deadline_set(connection);
}

/* The transaction is over for this connection. */
static void
connection_drain(struct connection *connection)
{
    transaction_detach(connection);
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
        drain_next(connection);
}

void
connection_abandon(struct connection *connection)
{
    ASSERT(connection->transaction != NULL);
    ASSERT(!connection->end_sent);
    if (connection->go_ahead || connection->data_sent) {
        /* Inside DATA the only way not to deliver is not to say the final dot. */
        transaction_detach(connection);
        connection_close(connection);
        return;
    }
    connection_drain(connection);
}

static void
again(struct hop *hop, struct transaction *transaction)
{
    if (++transaction->restarts > RESTARTS_MAX) {
        if (transaction->final.code == 0)
            reply_set(&transaction->final, 451, "4.4.2", SPAN("Next hop unstable, try again later"));
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

static void
connection_release(struct connection *connection)
{
    struct worker *worker = worker_of(connection);
    struct hop *hop = connection->hop;
    struct transaction *retry = connection->retry ? connection->transaction : NULL;

    transaction_detach(connection);
    chain_release(worker->links.buffers, &connection->orphan);
    timer_cancel(&worker->timers, &connection->timer);
    link_release(&connection->link);
    hop->connection_count--;
    gauge_subtract(&hop->counters->connections_current, 1);
    pool_release(&worker->connections, connection);
    hop_connection_gone(hop);
    if (retry != NULL)
        again(hop, retry);
}

/* The verdict. The transaction's log line still names this server. */
static void
transaction_end(struct connection *connection, enum verdict_action action, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;

    body_release(connection);
    connection->transaction = NULL;
    server_of(connection)->busy_count--;
    transaction_finish(transaction, action, reply);
}

/* What came instead of a good reply. */
static void
connection_fail(struct connection *connection, const struct verdict_context *context,
                const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    enum verdict_action action = verdict_decide(context);
    struct hop_counters *counters = connection->hop->counters;
    struct reply told;

    verdict_reply(context, action, reply, &told);
    counter_increment(action == VERDICT_AMBIGUOUS       ? &counters->verdicts_ambiguous
                      : context->class == VERDICT_5XX   ? &counters->verdicts_5xx
                      : context->class == VERDICT_4XX   ? &counters->verdicts_4xx
                                                        : &counters->verdicts_lost);
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
        again(connection->hop, transaction);
        return;
    }
    transaction_end(connection, action, &told);
    if (connection->state == CONNECTION_CLOSING || connection->go_ahead || connection->link.sending)
        connection_close(connection);
    else
        connection_drain(connection);
}

static struct verdict_context
context_of(const struct connection *connection, enum sender_expectation expectation,
           enum verdict_class class, unsigned code)
{
    const struct transaction *transaction = connection->transaction;

    /* Not all of the message has left: nothing can have been taken. */
    if (expectation == SENDER_EXPECTS_END && !connection->end_sent && class > VERDICT_5XX)
        expectation = SENDER_EXPECTS_DATA;
    return (struct verdict_context){ .expectation = expectation,
                                     .class = class,
                                     .reused = connection->uses > 1,
                                     .nothing_answered = !connection->answered,
                                     .restartable = !transaction->started,
                                     .code = code };
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
        connection_close(connection); /* a reply before we had sent all: not to be trusted with another */
}

static void
count_recipient(struct hop_counters *counters, const struct reply *reply)
{
    counter_increment(reply_class(reply) == 2   ? &counters->recipients_accepted
                      : reply_class(reply) == 5 ? &counters->recipients_refused
                                                : &counters->recipients_deferred);
}

static void
on_recipient(struct connection *connection, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct recipient *recipient = recipient_next(&connection->to_answer);
    struct verdict_context context =
        context_of(connection, SENDER_EXPECTS_RCPT, verdict_class_of(reply), reply->code);
    enum verdict_action action = verdict_decide(&context);
    struct reply told;

    ASSERT(recipient != NULL);
    connection->recipients_answered++;
    connection->answered = true;
    count_recipient(connection->hop->counters, reply);
    if (action == VERDICT_NEXT_SERVER || action == VERDICT_FRESH ||
        (action != VERDICT_CONTINUE && connection->recipients_sent == 1 && !transaction->live)) {
        connection_fail(connection, &context, reply);
        return;
    }
    if (transaction->live) {
        told = *reply;
        if (action != VERDICT_CONTINUE)
            verdict_reply(&context, action, reply, &told);
        /* A refused recipient that nobody else shares leaves the transaction open for the next one. */
        transaction_answered(transaction, recipient, action, &told);
    } else if (action != VERDICT_CONTINUE) {
        /* Several recipients that were accepted before, on another connection, and now one is not. */
        connection->refused = true;
        reply_set(&told, 451, "4.5.3", SPAN("Recipients' verdicts differ, try again later"));
        transaction_end(connection, VERDICT_DEFER, &told);
        connection_drain(connection);
    }
}

static void
on_reply(struct connection *connection, const struct sender_event *event)
{
    struct transaction *transaction = connection->transaction;
    const struct reply *reply = event->reply;
    struct verdict_context context;

    if (connection->state != CONNECTION_BUSY) {
        if (event->expectation == SENDER_EXPECTS_DATA && reply_class(reply) == 3)
            connection->go_ahead = true;
        drain_next(connection);
        return;
    }
    if (event->expectation == SENDER_EXPECTS_RCPT) {
        on_recipient(connection, reply);
    } else {
        context = context_of(connection, event->expectation, verdict_class_of(reply), reply->code);
        switch (verdict_decide(&context)) {
        case VERDICT_CONTINUE:
            connection->answered = true;
            if (event->expectation == SENDER_EXPECTS_DATA) {
                connection->go_ahead = true;
                if (!link_room(&connection->link, TRACE_FIELD_BYTES_MAX) || transaction->session == NULL) {
                    connection_abandon(connection);
                    return;
                }
                trace_add(connection, &connection->link.out);
                body_start(connection);
            }
            break;
        case VERDICT_DELIVERED:
            on_delivered(connection, reply);
            return;
        default:
            connection_fail(connection, &context, reply);
            return;
        }
    }
    if (connection->transaction != NULL)
        connection_advance(connection);
}

/* --- losing it --- */

static void
connection_lost(struct connection *connection, enum verdict_class class, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct verdict_context context;

    switch (connection->state) {
    case CONNECTION_OPENING:
        opening_failed(connection, class == VERDICT_TIMEOUT ? "timed out"
                                   : connection->link.error != 0
                                       ? io_error_text(connection->link.error)
                                       : "connection closed by the server");
        return;
    case CONNECTION_BUSY:
        break;
    case CONNECTION_IDLE:
        hop_connection_unlink(connection);
        connection_close(connection);
        return;
    case CONNECTION_DRAINING:
    case CONNECTION_CLOSING:
        connection_close(connection);
        return;
    }
    context = context_of(connection, sender_lost(&connection->sender), class,
                         reply != NULL ? reply->code : 0);
    connection->state = CONNECTION_CLOSING;
    if (!transaction->complete && !transaction->streaming && transaction->asked == NULL) {
        transaction_detach(connection);
        transaction->live = false; /* nobody waits: it goes again as a burst */
    } else {
        connection_fail(connection, &context, reply);
    }
    connection_close(connection);
}

static void
on_broken(struct connection *connection, const struct sender_event *event)
{
    char text[160];
    struct outbuf out = { .data = text, .size = sizeof(text) - 1 };

    if (connection->state == CONNECTION_OPENING) {
        outbuf_add_some(&out, SPAN("in "));
        outbuf_add_some(&out, span_text(sender_expectation_name(event->expectation)));
        outbuf_add_some(&out, SPAN(": "));
        if (event->reply->code != 0) {
            outbuf_add_number(&out, event->reply->code);
            outbuf_add_char(&out, ' ');
        }
        outbuf_add_some(&out, span_of(event->reply->text, event->reply->text_len));
        text[out.len] = '\0';
        counter_increment(&connection->hop->counters->connections_failed_greeting);
        opening_failed(connection, text);
        return;
    }
    connection_lost(connection, event->reply->code != 0 ? verdict_class_of(event->reply) : VERDICT_PROTOCOL,
                    event->reply);
}

/* --- the loop --- */

static void
on_ready(struct connection *connection)
{
    struct worker *worker = worker_of(connection);

    if (connection->state == CONNECTION_OPENING)
        histogram_observe(&worker->counters.next_hop_connect, worker->now_ns - connection->opened_ns);
    hop_connection_ready(connection);
}

/* One event. False: wait. */
static bool
connection_event(struct connection *connection, const struct sender_event *event, size_t left)
{
    switch (event->kind) {
    case SENDER_NEED_INPUT:
        return left > 0 ? link_extend(&connection->link) : connection->link.in.count > 0;
    case SENDER_NEED_ROOM:
        return false;
    case SENDER_START_TLS:
        start_tls(connection);
        return false;
    case SENDER_READY:
        on_ready(connection);
        return true;
    case SENDER_REPLY:
        on_reply(connection, event);
        return true;
    case SENDER_BROKEN:
        on_broken(connection, event);
        return false;
    case SENDER_CLOSED:
        connection_close(connection);
        return false;
    }
    return false;
}

void
connection_run(struct connection *connection)
{
    struct link *link = &connection->link;

    while (!link->closing && connection->state != CONNECTION_CLOSING &&
           link->tls_state != LINK_HANDSHAKE) {
        struct sender_event event;
        struct span front, in;

        if (connection->state == CONNECTION_OPENING && !link_room(link, SENDER_COMMAND_ROOM)) {
            link_flush(link);
            if (!link_room(link, SENDER_COMMAND_ROOM))
                return;
        }
        front = in = link_front(link);
        event = sender_step(&connection->sender, &in, &link->out);
        link_consume(link, front.len - in.len);
        if (!connection_event(connection, &event, in.len))
            break;
    }
    if (link->closing || connection->state == CONNECTION_CLOSING)
        return;
    link_flush(link);
    if (connection->state != CONNECTION_IDLE)
        deadline_set(connection);
}

static void
on_progress(struct connection *connection)
{
    struct link *link = &connection->link;

    if (connection->tls_pending) {
        if (link->tls_state == LINK_TLS)
            tls_done(connection);
        else if (link->failed || link->ended) {
            tls_broke(connection);
            return;
        }
    }
    if (link->tls_state == LINK_HANDSHAKE)
        return;
    if (link->in.count > 0 || link->carry.data != NULL)
        connection_run(connection);
    if (link->closing)
        return;
    if (link_at_end(link) || link->failed)
        connection_lost(connection, VERDICT_LOST, NULL);
    else if (connection->state == CONNECTION_DRAINING)
        drain_next(connection);
}

void
connection_complete(struct connection *connection, const struct io_completion *completion)
{
    struct link *link = &connection->link;

    link_complete(link, completion);
    if (!link->closing) {
        if (completion->op == IO_CONNECT && !link->failed)
            on_connected(connection);
        else if (completion->op == IO_SEND && connection->transaction != NULL && !link->failed) {
            transaction_body_sent(connection->transaction);
            connection_advance(connection);
        }
        if (completion->op != IO_CONNECT || link->failed)
            on_progress(connection);
    }
    if (link->closing && link->inflight == 0)
        connection_release(connection);
}

void
connection_timer(struct connection *connection)
{
    struct link *link = &connection->link;

    if (!link->closing) {
        if (connection->tls_pending)
            tls_broke(connection);
        else if (connection->state == CONNECTION_IDLE)
            connection_quit(connection);
        else
            connection_lost(connection, VERDICT_TIMEOUT, NULL);
    }
    if (link->closing && link->inflight == 0)
        connection_release(connection);
}

void
connection_quit(struct connection *connection)
{
    hop_connection_unlink(connection);
    connection->state = CONNECTION_CLOSING;
    if (!sender_may_send(&connection->sender) || !link_room(&connection->link, SENDER_COMMAND_ROOM)) {
        connection_close(connection);
        return;
    }
    sender_quit(&connection->sender, &connection->link.out);
    connection->state = CONNECTION_DRAINING;
    connection->reset_sent = true; /* nothing but the answer to QUIT is awaited */
    link_flush(&connection->link);
    deadline_set(connection);
}
