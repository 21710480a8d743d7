/* Choosing a server, reusing connections, remembering which servers are dead. */
#include "relay/hop.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/custody.h"

#define SERVER_NONE UINT32_MAX

void
hop_init(struct hop *hop, struct worker *worker, uint32_t index)
{
    const struct config_next_hop *config = &worker->config->next_hops[index];

    *hop = (struct hop){ .worker = worker,
                         .config = config,
                         .counters = &worker->hop_counters[index],
                         .index = index,
                         .server_count = (uint32_t)config->server_count };
    ASSERT(hop->server_count <= SERVERS_PER_HOP_MAX);
    hop->waiting_tail = &hop->waiting;
    hop->failed =
        (struct verdict_context){ .expectation = SENDER_EXPECTS_NOTHING, .class = VERDICT_LOST };
    for (uint32_t i = 0; i < hop->server_count; i++) {
        hop->servers[i].config = &config->servers[i];
        hop->servers[i].address = &worker->relay->hop_addresses[index][i];
    }
}

/* --- health --- */

static uint32_t
server_group(const struct hop *hop, uint32_t server)
{
    return hop->config->balance == CONFIG_BALANCE_SHARE ? 0 : hop->config->servers[server].group;
}

static bool
server_up(const struct hop *hop, uint32_t server)
{
    return !hop->servers[server].down;
}

/* Down, and left alone for long enough: one connection may find out. */
static bool
server_due(const struct hop *hop, uint32_t server)
{
    const struct server *s = &hop->servers[server];

    return s->down && !s->probing && hop->worker->now_ns >= s->retry_ns;
}

static void
server_failed(struct hop *hop, uint32_t index, const char *why)
{
    struct server *server = &hop->servers[index];
    const struct config_timeouts *timeouts = &hop->worker->config->timeouts;
    uint64_t pause_ms = timeouts->server_retry_ms;
    struct log_line line;
    size_t len = strlen(why);

    for (uint32_t i = 0; i < server->failures && pause_ms < timeouts->server_retry_max_ms; i++)
        pause_ms *= 2;
    if (pause_ms > timeouts->server_retry_max_ms)
        pause_ms = timeouts->server_retry_max_ms;
    server->failures++;
    server->failed_ns = hop->worker->now_ns;
    server->retry_ns = hop->worker->now_ns + pause_ms * NS_PER_MS;
    len = len < sizeof(server->failure) ? len : sizeof(server->failure) - 1;
    memcpy(server->failure, why, len);
    server->failure[len] = '\0';
    if (!server->down)
        gauge_add(&hop->counters->servers_down, 1);
    server->down = true;
    log_begin(&line, LOG_LEVEL_WARNING, "server_down");
    log_text(&line, "next_hop", span_text(hop->config->name));
    log_text(&line, "server", span_text(server->config->text));
    log_text(&line, "reason", span_text(server->failure));
    log_duration(&line, "retry_in", pause_ms * NS_PER_MS);
    log_end(&line);
}

static void
server_recovered(struct hop *hop, uint32_t index)
{
    struct server *server = &hop->servers[index];
    struct log_line line;

    server->failures = 0;
    server->probing = false;
    if (!server->down)
        return;
    server->down = false;
    gauge_subtract(&hop->counters->servers_down, 1);
    log_begin(&line, LOG_LEVEL_NOTICE, "server_up");
    log_text(&line, "next_hop", span_text(hop->config->name));
    log_text(&line, "server", span_text(server->config->text));
    log_end(&line);
    courier_hop_up(hop->worker, hop->index);
}

/* --- choosing --- */

static uint32_t
server_load(const struct hop *hop, uint32_t server)
{
    return hop->servers[server].busy_count + hop->servers[server].connecting_count;
}

/* The best server for a transaction: of the first group that has one up and not tried by it, the
 * least loaded; the order among equals goes round. SERVER_NONE: none. */
static uint32_t
server_choose(struct hop *hop, uint32_t tried)
{
    uint32_t best = SERVER_NONE;

    for (uint32_t i = 0; i < hop->server_count; i++) {
        uint32_t at = (hop->turn + i) % hop->server_count;

        if (!server_up(hop, at) || (tried & 1u << at))
            continue;
        if (best == SERVER_NONE || server_group(hop, at) < server_group(hop, best) ||
            (server_group(hop, at) == server_group(hop, best) &&
             server_load(hop, at) < server_load(hop, best)))
            best = at;
    }
    return best;
}

/* The next transaction begins its look at the server after this one. Only where one is used: a look
 * that leads to nothing must not pass a server over. */
static void
server_used(struct hop *hop, uint32_t server)
{
    hop->turn = (server + 1) % hop->server_count;
}

static void
probing_start(struct hop *hop, uint32_t server)
{
    hop->servers[server].probing = true;
    hop->servers[server].probing_ns = hop->worker->now_ns;
}

/* Servers that may be back are tried beside the mail, so that no message waits for them. */
static void
probe_due(struct hop *hop, uint32_t chosen)
{
    for (uint32_t i = 0; i < hop->server_count; i++) {
        if (!server_due(hop, i))
            continue;
        if (chosen != SERVER_NONE && server_group(hop, i) > server_group(hop, chosen))
            continue;
        if (connection_open(hop, i, true) != NULL)
            probing_start(hop, i);
    }
}

/* A probe that was begun so short a time ago is worth waiting for: a server that is back answers at
 * once, one that is still dead mostly refuses at once. */
#define PROBE_WAIT_NS NS_PER_S

/* With no server up: one that is due, for the transaction itself to wait for. */
static uint32_t
server_last_resort(struct hop *hop, uint32_t tried)
{
    uint32_t best = SERVER_NONE;

    for (uint32_t i = 0; i < hop->server_count; i++) {
        const struct server *server = &hop->servers[i];

        bool fresh = server->probing && hop->worker->now_ns - server->probing_ns < PROBE_WAIT_NS;

        if ((tried & 1u << i) || !(fresh || server_due(hop, i)))
            continue;
        if (best == SERVER_NONE || server_group(hop, i) < server_group(hop, best))
            best = i;
    }
    return best;
}

/* --- waiting --- */

static void
waiting_add(struct hop *hop, struct transaction *transaction)
{
    const struct config *config = hop->worker->config;
    uint64_t ms = config->timeouts.connect_ms + config->timeouts.greeting_ms;

    ASSERT(transaction->previous_waiting == NULL);
    /* Its client waits: no longer than for any other verdict, if the spool can answer instead. */
    if (config->delivery.patience_ms < ms && transaction->complete && custody_may_take(transaction))
        ms = config->delivery.patience_ms;
    transaction->next_waiting = NULL;
    transaction->previous_waiting = hop->waiting_tail;
    *hop->waiting_tail = transaction;
    hop->waiting_tail = &transaction->next_waiting;
    hop->waiting_count++;
    gauge_add(&hop->counters->waiting, 1);
    shortage_wait(hop->worker);
    timer_set(&hop->worker->timers, &transaction->timer, hop->worker->now_ns + ms * NS_PER_MS);
}

void
hop_withdraw(struct hop *hop, struct transaction *transaction)
{
    if (transaction->previous_waiting == NULL)
        return;
    *transaction->previous_waiting = transaction->next_waiting;
    if (transaction->next_waiting != NULL)
        transaction->next_waiting->previous_waiting = transaction->previous_waiting;
    else
        hop->waiting_tail = transaction->previous_waiting;
    transaction->previous_waiting = NULL;
    transaction->next_waiting = NULL;
    hop->waiting_count--;
    gauge_subtract(&hop->counters->waiting, 1);
    timer_cancel(&hop->worker->timers, &transaction->timer);
}

static void
defer(struct hop *hop, struct transaction *transaction)
{
    hop_withdraw(hop, transaction);
    transaction->unreached = transaction->begun_ns == 0;
    if (transaction->final.code == 0)
        verdict_reply(&hop->failed, VERDICT_DEFER, &hop->failed_said, &transaction->final);
    transaction_finish(transaction, VERDICT_DEFER, &transaction->final);
}

/* Connections on their way that somebody may count on: a probe of a dead server may take minutes to
 * fail. */
static uint32_t
connecting_count(const struct hop *hop)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < hop->server_count; i++)
        if (server_up(hop, i))
            count += hop->servers[i].connecting_count;
    return count;
}

/* An idle connection of another server than the chosen one makes room: when it is gone. */
static bool
idle_evict(struct hop *hop, uint32_t but)
{
    for (uint32_t i = 0; i < hop->server_count; i++) {
        if (i != but && hop->servers[i].idle != NULL) {
            connection_quit(hop->servers[i].idle);
            return true;
        }
    }
    return false;
}

/* Sees to it that a connection is on its way for those who wait. False: there is no server for this
 * transaction. */
static bool
connection_seek(struct hop *hop, const struct transaction *transaction)
{
    uint32_t server = server_choose(hop, transaction->tried);

    probe_due(hop, server);
    if (server == SERVER_NONE) {
        server = server_last_resort(hop, transaction->tried);
        if (server == SERVER_NONE)
            return false;
        if (hop->servers[server].probing)
            return true;
    }
    if (connecting_count(hop) >= hop->waiting_count)
        return true;
    if (hop->connection_count < hop->config->connections &&
        connection_open(hop, server, false) != NULL) {
        server_used(hop, server);
        if (hop->servers[server].down)
            probing_start(hop, server);
        return true;
    }
    /* Whoever waits hears of it when one is free or gone. None that it could use is idle: see
     * idle_use(). For whom only a fresh one will do, idle ones of the same server are in the way
     * too. */
    if (idle_evict(hop, transaction->fresh || hop->servers[server].down ? SERVER_NONE : server) ||
        hop->connection_count > 0)
        return true;
    server_failed(hop, server, "no descriptor or no resolved address");
    return connection_seek(hop, transaction);
}

/* --- connections --- */

void
hop_connection_unlink(struct connection *connection)
{
    struct hop *hop = connection->hop;
    struct server *server = &hop->servers[connection->server];

    if (connection->previous_idle == NULL)
        return;
    *connection->previous_idle = connection->next_idle;
    if (connection->next_idle != NULL)
        connection->next_idle->previous_idle = connection->previous_idle;
    connection->previous_idle = NULL;
    connection->next_idle = NULL;
    server->idle_count--;
    gauge_subtract(&hop->counters->connections_idle, 1);
}

static void
idle_add(struct connection *connection)
{
    struct hop *hop = connection->hop;
    struct server *server = &hop->servers[connection->server];

    ASSERT(connection->previous_idle == NULL);
    connection->state = CONNECTION_IDLE;
    connection->next_idle = server->idle;
    if (server->idle != NULL)
        server->idle->previous_idle = &connection->next_idle;
    server->idle = connection;
    connection->previous_idle = &server->idle;
    server->idle_count++;
    gauge_add(&hop->counters->connections_idle, 1);
    connection_deadline_set(connection);
}

/* The best server for it has an idle connection: that is used. */
static bool
idle_use(struct hop *hop, struct transaction *transaction)
{
    uint32_t server = server_choose(hop, transaction->tried);
    struct connection *connection;

    if (transaction->fresh || server == SERVER_NONE || hop->servers[server].idle == NULL)
        return false;
    connection = hop->servers[server].idle;
    hop_connection_unlink(connection);
    hop_withdraw(hop, transaction);
    server_used(hop, server);
    probe_due(hop, server);
    if (!connection_begin(connection, transaction))
        idle_add(connection);
    return true;
}

void
hop_submit(struct hop *hop, struct transaction *transaction)
{
    /* Not behind those that wait: none of them could use a connection that is idle. */
    if (idle_use(hop, transaction))
        return;
    waiting_add(hop, transaction);
    if (!connection_seek(hop, transaction))
        defer(hop, transaction);
}

/* The first that waits and may use this connection. */
static struct transaction *
waiting_for(const struct hop *hop, const struct connection *connection)
{
    struct transaction *transaction = hop->waiting;

    while (transaction != NULL && ((transaction->tried & 1u << connection->server) ||
                                   (transaction->fresh && connection->uses > 0)))
        transaction = transaction->next_waiting;
    return transaction;
}

/* What they waited for has changed: another server may be the best for them now, or none is left,
 * and they are told. */
static void
waiting_review(struct hop *hop)
{
    struct transaction *transaction = hop->waiting;

    while (transaction != NULL) {
        struct transaction *next = transaction->next_waiting;

        if (!idle_use(hop, transaction) && !connection_seek(hop, transaction))
            defer(hop, transaction);
        transaction = next;
    }
}

void
hop_connection_ready(struct connection *connection)
{
    struct hop *hop = connection->hop;
    struct transaction *transaction;

    if (connection->state == CONNECTION_OPENING) {
        hop->servers[connection->server].connecting_count--;
        server_recovered(hop, connection->server);
    }
    connection->state = CONNECTION_IDLE;
    if (connection->link.tls != NULL) {
        struct tls_session *session = tls_take_session(connection->link.tls);

        if (session != NULL) {
            tls_session_free(hop->servers[connection->server].tls_session);
            hop->servers[connection->server].tls_session = session;
        }
    }
    if (connection->uses >= hop->config->messages_per_connection ||
        (hop->worker->draining && hop->waiting == NULL)) {
        connection_quit(connection);
        return;
    }
    while ((transaction = waiting_for(hop, connection)) != NULL) {
        hop_withdraw(hop, transaction);
        if (connection_begin(connection, transaction))
            return;
    }
    idle_add(connection);
    /* Whoever still waits cannot use it, and may have counted on it. */
    if (hop->waiting != NULL)
        waiting_review(hop);
}

void
hop_connection_failed(struct connection *connection, const char *why,
                      const struct verdict_context *context, const struct reply *said)
{
    struct hop *hop = connection->hop;
    struct server *server = &hop->servers[connection->server];
    bool plain_next = hop->config->tls == CONFIG_HOP_TLS_OPPORTUNISTIC &&
                      connection->link.tls != NULL && hop->worker->now_ns < server->tls_retry_ns;
    /* Opened before the server was found down: the same news once more. */
    bool known = server->down && connection->opened_ns < server->failed_ns;

    server->connecting_count--;
    server->probing = false;
    hop->failed = *context;
    hop->failed_said = *said;
    /* Opportunistic TLS that failed says nothing about the server: it is tried again without. */
    if (!plain_next && !known)
        server_failed(hop, connection->server, why);
    if (context->class == VERDICT_TIMEOUT)
        counter_increment(&hop->counters->connections_failed_timeout);
    else if (io_error_is_refused(connection->link.error))
        counter_increment(&hop->counters->connections_failed_refused);
    else if (connection->link.error != 0)
        counter_increment(&hop->counters->connections_failed_network);
    waiting_review(hop);
}

void
hop_connection_gone(struct hop *hop)
{
    if (hop->waiting != NULL)
        waiting_review(hop);
}

bool
hop_reachable(const struct hop *hop)
{
    for (uint32_t i = 0; i < hop->server_count; i++)
        if (server_up(hop, i) || server_due(hop, i))
            return true;
    return false;
}

void
hop_try_now(struct hop *hop)
{
    for (uint32_t i = 0; i < hop->server_count; i++) {
        struct server *server = &hop->servers[i];

        if (server->down && server->retry_ns > server->failed_ns + NS_PER_S)
            server->retry_ns = server->failed_ns + NS_PER_S;
    }
}

void
hop_close_idle(struct hop *hop)
{
    for (uint32_t i = 0; i < hop->server_count; i++)
        while (hop->servers[i].idle != NULL)
            connection_quit(hop->servers[i].idle);
}

void
hop_destroy(struct hop *hop)
{
    for (uint32_t i = 0; i < hop->server_count; i++)
        tls_session_free(hop->servers[i].tls_session);
}
