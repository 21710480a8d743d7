/* One connection to a server: opening it, its loop, its deadlines, losing it. What a transaction
 * does on it is in delivery.c. */
#include "relay/connection.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection_private.h"

/* --- time --- */

static uint64_t
timeout_ms(const struct config_timeouts *timeouts, enum sender_timer kind)
{
    switch (kind) {
    case SENDER_TIMER_GREETING:
    case SENDER_TIMER_COMMAND: return timeouts->greeting_ms;
    case SENDER_TIMER_MAIL: return timeouts->mail_ms;
    case SENDER_TIMER_RCPT: return timeouts->rcpt_ms;
    case SENDER_TIMER_DATA_INITIATION: return timeouts->data_initiation_ms;
    case SENDER_TIMER_DATA_BLOCK: return timeouts->data_block_ms;
    case SENDER_TIMER_DATA_END: return timeouts->data_end_ms;
    case SENDER_TIMER_QUIT: return timeouts->quit_ms;
    case SENDER_TIMER_NONE:
    case SENDER_TIMERS: break;
    }
    return 0;
}

void
connection_deadline_set(struct connection *connection)
{
    struct worker *worker = worker_of(connection);
    const struct config_timeouts *timeouts = &worker->config->timeouts;
    uint64_t ms = timeout_ms(timeouts, sender_deadline_kind(&connection->sender));

    if (connection->state == CONNECTION_IDLE)
        ms = connection->hop->config->idle_timeout_ms;
    else if (connection->link.tls_state == LINK_HANDSHAKE)
        ms = timeouts->tls_ms;
    else if (ms == 0 ||
             (connection->go_ahead && !connection->end_sent && !connection->link.sending))
        /* It is the client's turn: it is at its next command (live) or its data (streaming). */
        ms = timeouts->command_ms + timeouts->message_ms;
    connection->deadline_ns = worker->now_ns + ms * NS_PER_MS;
    timer_set(&worker->timers, &connection->timer,
              !connection->link.rechecked && ms * NS_PER_MS > LINK_RECHECK_NS
                  ? worker->now_ns + LINK_RECHECK_NS
                  : connection->deadline_ns);
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
    connection->link.sure = true;
    link_connect(&connection->link, address);
    hop->connection_count++;
    hop->servers[server].connecting_count++;
    gauge_add(&hop->counters->connections_current, 1);
    counter_increment(&hop->counters->connections_opened);
    timer_set(&worker->timers, &connection->timer,
              worker->now_ns + worker->config->timeouts.connect_ms * NS_PER_MS);
    return connection;
}

void
connection_close(struct connection *connection)
{
    connection->state = CONNECTION_CLOSING;
    link_close(&connection->link);
}

static void
connection_release(struct connection *connection)
{
    struct worker *worker = worker_of(connection);
    struct hop *hop = connection->hop;
    struct transaction *retry;

    delivery_late(connection);
    retry = connection->retry ? connection->transaction : NULL;
    delivery_detach(connection);
    chain_release(worker->links.buffers, &connection->orphan);
    timer_cancel(&worker->timers, &connection->timer);
    link_release(&connection->link);
    hop->connection_count--;
    gauge_subtract(&hop->counters->connections_current, 1);
    pool_release(&worker->connections, connection);
    hop_connection_gone(hop);
    if (retry != NULL)
        delivery_again(hop, retry);
}

/* said: the server's reply, or NULL when it was none. */
static void
opening_failed(struct connection *connection, const char *why, enum sender_expectation expectation,
               enum verdict_class class, const struct reply *said)
{
    struct verdict_context context = { .expectation = expectation,
                                       .class = class,
                                       .restartable = true,
                                       .code = said != NULL ? said->code : 0 };
    struct reply known;

    reply_clear(&known);
    if (said == NULL && expectation == SENDER_EXPECTS_STARTTLS) {
        size_t len = strlen(why);

        known.text_len = (uint16_t)(len < sizeof(known.text) ? len : sizeof(known.text));
        memcpy(known.text, why, known.text_len);
    }
    connection_close(connection);
    hop_connection_failed(connection, why, &context, said != NULL ? said : &known);
}

static enum sender_tls
tls_wanted(const struct connection *connection)
{
    const struct server *server = server_of(connection);

    switch (connection->hop->config->tls) {
    case CONFIG_HOP_TLS_NONE: return SENDER_TLS_NONE;
    case CONFIG_HOP_TLS_OPPORTUNISTIC:
        return worker_of(connection)->now_ns < server->tls_retry_ns ? SENDER_TLS_NONE
                                                                    : SENDER_TLS_OPPORTUNISTIC;
    case CONFIG_HOP_TLS_REQUIRE:
    case CONFIG_HOP_TLS_VERIFY: break;
    }
    return SENDER_TLS_REQUIRE;
}

static void
on_connected(struct connection *connection)
{
    link_receive(&connection->link);
    sender_start(&connection->sender, span_text(worker_of(connection)->config->hostname),
                 tls_wanted(connection), false);
    connection_deadline_set(connection);
}

static void
start_tls(struct connection *connection)
{
    struct hop *hop = connection->hop;
    struct server *server = server_of(connection);
    const char *name = hop->config->tls_name != NULL ? hop->config->tls_name : server->config->host;
    struct tls *tls = NULL;

    if (link_unread(&connection->link) > 0) {
        opening_failed(connection, "plaintext after the reply to STARTTLS (response injection)",
                       SENDER_EXPECTS_STARTTLS, VERDICT_PROTOCOL, NULL);
        return;
    }
    if (worker_of(connection)->tls->clients[hop->index] != NULL) {
        tls = tls_create_client(worker_of(connection)->tls->clients[hop->index], name,
                                server->tls_session);
        server->tls_session = NULL; /* it was used up */
    }
    if (tls == NULL) {
        opening_failed(connection, "out of memory for TLS", SENDER_EXPECTS_STARTTLS, VERDICT_LOST,
                       NULL);
        return;
    }
    connection->tls_pending = true;
    connection->tls_started_ns = worker_of(connection)->now_ns;
    link_start_tls(&connection->link, tls);
    connection_deadline_set(connection);
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
    if (!link_room(&connection->link, SENDER_COMMAND_ROOM)) {
        counter_increment(&counters->pool_exhausted);
        opening_failed(connection, "out of memory for EHLO", SENDER_EXPECTS_STARTTLS, VERDICT_LOST,
                       NULL);
        return;
    }
    sender_tls_started(&connection->sender, &connection->link.out);
    link_flush(&connection->link);
    connection_deadline_set(connection);
}

static void
tls_broke(struct connection *connection, bool timed_out)
{
    struct server *server = server_of(connection);
    struct span why = timed_out ? SPAN("timed out") : tls_failure(connection->link.tls);
    char text[192];
    struct outbuf out = { .data = text, .size = sizeof(text) - 1 };
    struct log_line line;

    outbuf_add_some(&out, SPAN("TLS handshake failed: "));
    if (why.len == 0)
        why = SPAN("connection closed by the server");
    outbuf_add_some(&out, why);
    text[out.len] = '\0';
    counter_increment(&worker_of(connection)->counters.tls_client_failed);
    if (!timed_out) /* that is counted in hop_connection_failed() */
        counter_increment(&connection->hop->counters->connections_failed_tls);
    log_begin(&line, LOG_LEVEL_WARNING, "tls_failed");
    log_text(&line, "side", SPAN("client"));
    log_text(&line, "next_hop", span_text(connection->hop->config->name));
    log_text(&line, "server", span_text(server->config->text));
    log_text(&line, "reason", why);
    log_end(&line);
    connection->tls_pending = false;
    if (connection->hop->config->tls == CONFIG_HOP_TLS_OPPORTUNISTIC) {
        /* RFC 7435: opportunistic TLS that fails is no reason not to deliver. */
        server->tls_retry_ns = worker_of(connection)->now_ns + 600 * NS_PER_S;
    }
    opening_failed(connection, text, SENDER_EXPECTS_STARTTLS,
                   timed_out ? VERDICT_TIMEOUT : VERDICT_PROTOCOL, NULL);
}

/* --- losing it --- */

static void
connection_lost(struct connection *connection, enum verdict_class class, const struct reply *reply)
{
    struct transaction *transaction = connection->transaction;
    struct verdict_context context;

    switch (connection->state) {
    case CONNECTION_OPENING:
        opening_failed(connection,
                       class == VERDICT_TIMEOUT      ? "timed out"
                       : connection->link.error != 0 ? io_error_text(connection->link.error)
                                                     : "connection closed by the server",
                       SENDER_EXPECTS_NOTHING, class, NULL);
        return;
    case CONNECTION_BUSY: break;
    case CONNECTION_IDLE:
        hop_connection_unlink(connection);
        connection_close(connection);
        return;
    case CONNECTION_DRAINING:
    case CONNECTION_CLOSING: connection_close(connection); return;
    }
    context = delivery_context(connection, sender_lost(&connection->sender), class,
                               reply != NULL ? reply->code : 0);
    connection->state = CONNECTION_CLOSING;
    if (!transaction->complete && !transaction->streaming && transaction->asked == NULL) {
        delivery_detach(connection);
        transaction->live = false; /* nobody waits: it goes again as a burst */
    } else {
        delivery_fail(connection, &context, reply);
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
        /* Without EHLO there is no STARTTLS: where TLS is required, that is what is missing. */
        opening_failed(connection, text,
                       connection->sender.tls == SENDER_TLS_REQUIRE &&
                               event->expectation == SENDER_EXPECTS_EHLO
                           ? SENDER_EXPECTS_STARTTLS
                           : event->expectation,
                       verdict_class_of(event->reply), event->reply);
        return;
    }
    connection_lost(connection,
                    event->reply->code != 0 ? verdict_class_of(event->reply) : VERDICT_PROTOCOL,
                    event->reply);
}

/* --- the loop --- */

static void
on_ready(struct connection *connection)
{
    struct worker *worker = worker_of(connection);

    if (!connection->hop->config->chunking)
        connection->sender.offered.chunking = false;
    if (connection->state == CONNECTION_OPENING)
        histogram_observe(&worker->counters.next_hop_connect,
                          worker->now_ns - connection->opened_ns);
    hop_connection_ready(connection);
}

/* One event. False: wait. */
static bool
connection_event(struct connection *connection, const struct sender_event *event, size_t left)
{
    switch (event->kind) {
    case SENDER_NEED_INPUT:
        return left > 0 ? link_extend(&connection->link) : connection->link.in.count > 0;
    case SENDER_NEED_ROOM: return false;
    case SENDER_START_TLS: start_tls(connection); return false;
    case SENDER_READY: on_ready(connection); return true;
    case SENDER_REPLY: delivery_reply(connection, event); return true;
    case SENDER_BROKEN: on_broken(connection, event); return false;
    case SENDER_CLOSED: connection_close(connection); return false;
    }
    return false;
}

void
connection_run(struct connection *connection)
{
    struct link *link = &connection->link;
    bool moved = false;

    while (!link->closing && connection->state != CONNECTION_CLOSING &&
           link->tls_state != LINK_HANDSHAKE) {
        struct sender_event event;
        struct span front, in;
        uint16_t oldest = connection->sender.first;

        if (connection->state == CONNECTION_OPENING && !link_room(link, SENDER_COMMAND_ROOM)) {
            link_flush(link);
            if (!link_room(link, SENDER_COMMAND_ROOM))
                return;
        }
        front = in = link_front(link);
        event = sender_step(&connection->sender, &in, &link->out);
        link_consume(link, front.len - in.len);
        if (event.kind == SENDER_REPLY || event.kind == SENDER_READY)
            connection->heard_ns = worker_of(connection)->now_ns;
        moved |= event.kind != SENDER_NEED_INPUT || connection->sender.first != oldest;
        if (!connection_event(connection, &event, in.len))
            break;
    }
    if (link->closing || connection->state == CONNECTION_CLOSING)
        return;
    link_flush(link);
    /* A deadline is for a whole reply: octets that complete none do not put it off. */
    if (moved && connection->state != CONNECTION_IDLE)
        connection_deadline_set(connection);
}

static void
on_progress(struct connection *connection)
{
    struct link *link = &connection->link;

    if (connection->tls_pending) {
        if (link->tls_state == LINK_TLS)
            tls_done(connection);
        else if (link->failed || link->ended) {
            tls_broke(connection, false);
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
        delivery_drain_next(connection);
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
    struct worker *worker = worker_of(connection);

    if (!link->closing && worker->now_ns < connection->deadline_ns) {
        link_recheck(link);
        link->rechecked = true;
        timer_set(&worker->timers, &connection->timer, connection->deadline_ns);
        return;
    }
    if (!link->closing) {
        if (connection->tls_pending)
            tls_broke(connection, true);
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
    if (!sender_may_send(&connection->sender) ||
        !link_room(&connection->link, SENDER_COMMAND_ROOM)) {
        connection_close(connection);
        return;
    }
    sender_quit(&connection->sender, &connection->link.out);
    connection->state = CONNECTION_DRAINING;
    connection->reset_sent = true; /* nothing but the answer to QUIT is awaited, */
    connection->go_ahead = false;  /* and the last message is long over */
    link_flush(&connection->link);
    connection_deadline_set(connection);
}
