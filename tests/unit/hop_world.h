/* hop_world: hop.c by itself: its connections and transactions are told what happens to them by the
 * test, without sockets or time.
 * Does:    includes relay/hop.c a second time, under other names, with the functions that it calls
 *          in relay/connection.c, delivery.c and transaction.c replaced; keeps count of all.
 * Owns:    a hop with up to WORLD_SERVERS servers, a slot for each connection and transaction.
 * Errors:  a transaction that waits while nothing is under way, a count that is not true, or more
 *          connections than allowed fail the test: see world_check().
 */
#ifndef RINGPOST_TESTS_UNIT_HOP_WORLD_H
#define RINGPOST_TESTS_UNIT_HOP_WORLD_H

#include <criterion/criterion.h>

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/hop.h"

/* hop.c's own functions, and those that it calls, for this file alone. */
static void alone_init(struct hop *hop, struct worker *worker, uint32_t index);
static void alone_submit(struct hop *hop, struct transaction *transaction);
static void alone_withdraw(struct hop *hop, struct transaction *transaction);
static void alone_ready(struct connection *connection);
static void alone_failed(struct connection *connection, const char *why,
                         const struct verdict_context *context, const struct reply *said);
static void alone_unlink(struct connection *connection);
static void alone_gone(struct hop *hop);
static void alone_close_idle(struct hop *hop);
static void alone_destroy(struct hop *hop);
static bool alone_reachable(const struct hop *hop);
static void alone_try_now(struct hop *hop);
static struct connection *fake_open(struct hop *hop, uint32_t server, bool probe);
static bool fake_begin(struct connection *connection, struct transaction *transaction);
static void fake_quit(struct connection *connection);
static void fake_deadline_set(struct connection *connection);
static void fake_finish(struct transaction *transaction, enum verdict_action action,
                        const struct reply *reply);

#define hop_init alone_init
#define hop_submit alone_submit
#define hop_withdraw alone_withdraw
#define hop_connection_ready alone_ready
#define hop_connection_failed alone_failed
#define hop_connection_unlink alone_unlink
#define hop_connection_gone alone_gone
#define hop_close_idle alone_close_idle
#define hop_destroy alone_destroy
#define hop_reachable alone_reachable
#define hop_try_now alone_try_now
#define connection_open fake_open
#define connection_begin fake_begin
#define connection_quit fake_quit
#define connection_deadline_set fake_deadline_set
#define transaction_finish fake_finish
#include "relay/hop.c"

#define WORLD_SERVERS 3
#define WORLD_CONNECTIONS 16
#define WORLD_MAILS 16

struct mail {
    struct transaction transaction; /* first: see mail_of() */
    bool used, refused_by_all; /* what it needs is offered by no server: see connection_begin() */
    struct connection *on;     /* the connection that it was given to */
    unsigned code;             /* of its verdict; 0: none yet */
};

struct hop_world {
    struct config config;
    struct config_next_hop next_hop;
    struct config_server servers[WORLD_SERVERS];
    struct config_address addresses[WORLD_SERVERS], *hop_addresses[1];
    struct relay relay;
    struct worker worker;
    struct hop_counters counters;
    struct hop hop;
    struct {
        bool used;
        struct connection connection;
    } slots[WORLD_CONNECTIONS];
    struct mail mails[WORLD_MAILS];
    unsigned opened; /* connections in all */
    bool no_sockets;
    const char *name; /* of the row, for messages */
};

static struct hop_world the_world;

/* Servers in groups of one each: in the order of their numbers; or in one group. */
static inline struct hop_world *
world_begin(uint32_t servers, uint32_t connections)
{
    struct hop_world *w = &the_world;

    memset(w, 0, sizeof(*w));
    w->name = "";
    w->config.next_hops = &w->next_hop;
    w->config.next_hop_count = 1;
    w->config.timeouts.connect_ms = 30000;
    w->config.timeouts.greeting_ms = 300000;
    w->config.timeouts.server_retry_ms = 5000;
    w->config.timeouts.server_retry_max_ms = 120000;
    w->next_hop = (struct config_next_hop){
        .name = "inside", .servers = w->servers, .server_count = servers, .group_count = servers
    };
    w->next_hop.connections = connections;
    w->next_hop.messages_per_connection = 100;
    for (uint32_t i = 0; i < servers; i++)
        w->servers[i] = (struct config_server){ .text = "mx", .host = "mx", .group = i };
    w->hop_addresses[0] = w->addresses;
    w->relay.hop_addresses = w->hop_addresses;
    w->worker.config = &w->config;
    w->worker.relay = &w->relay;
    w->worker.hop_counters = &w->counters;
    w->worker.now_ns = 1000 * NS_PER_S;
    timers_init(&w->worker.timers, w->worker.now_ns);
    alone_init(&w->hop, &w->worker, 0);
    return w;
}

static inline void
world_passes(struct hop_world *w, uint64_t ns)
{
    w->worker.now_ns += ns;
}

/* --- what hop.c calls --- */

static struct connection *
fake_open(struct hop *hop, uint32_t server, bool probe)
{
    struct hop_world *w = &the_world;

    for (uint32_t i = 0; i < WORLD_CONNECTIONS && !w->no_sockets; i++) {
        struct connection *connection = &w->slots[i].connection;

        if (w->slots[i].used)
            continue;
        w->slots[i].used = true;
        memset(connection, 0, sizeof(*connection));
        connection->hop = hop;
        connection->server = server;
        connection->probe = probe;
        connection->opened_ns = w->worker.now_ns;
        hop->connection_count++;
        hop->servers[server].connecting_count++;
        w->opened++;
        return connection;
    }
    return NULL;
}

static inline struct mail *
mail_of(struct transaction *transaction)
{
    return (struct mail *)(void *)transaction;
}

static bool
fake_begin(struct connection *connection, struct transaction *transaction)
{
    struct mail *mail = mail_of(transaction);

    cr_assert_null(mail->on, "%s: it is on a connection", the_world.name);
    cr_assert_eq(connection->state, CONNECTION_IDLE, "%s", the_world.name);
    cr_assert_null(connection->previous_idle, "%s: it is in the idle list", the_world.name);
    if (mail->refused_by_all) {
        mail->code = 550;
        return false;
    }
    cr_assert_eq(transaction->tried & 1u << connection->server, 0, "%s", the_world.name);
    cr_assert_not(transaction->fresh && connection->uses > 0, "%s", the_world.name);
    mail->on = connection;
    connection->state = CONNECTION_BUSY;
    connection->transaction = transaction;
    connection->uses++;
    connection->hop->servers[connection->server].busy_count++;
    return true;
}

static void
fake_quit(struct connection *connection)
{
    alone_unlink(connection);
    connection->state = CONNECTION_DRAINING;
}

static void
fake_deadline_set(struct connection *connection)
{
    cr_assert_eq(connection->state, CONNECTION_IDLE, "%s", the_world.name);
}

static void
fake_finish(struct transaction *transaction, enum verdict_action action, const struct reply *reply)
{
    cr_assert_eq(action, VERDICT_DEFER, "%s", the_world.name);
    cr_assert_null(transaction->previous_waiting, "%s: it waits still", the_world.name);
    mail_of(transaction)->code = reply->code;
}

/* --- what happens --- */

static inline struct mail *
mail_submit(struct hop_world *w, uint32_t tried)
{
    for (uint32_t i = 0; i < WORLD_MAILS; i++) {
        struct mail *mail = &w->mails[i];

        if (mail->used)
            continue;
        *mail = (struct mail){ .used = true };
        mail->transaction.worker = &w->worker;
        mail->transaction.hop = &w->hop;
        mail->transaction.tried = tried;
        alone_submit(&w->hop, &mail->transaction);
        return mail;
    }
    cr_assert_fail("no room for another mail");
    return NULL;
}

static inline bool
mail_waits(const struct mail *mail)
{
    return mail->transaction.previous_waiting != NULL;
}

/* The n-th connection to the server in this state; NULL: there is none. */
static inline struct connection *
connection_find(struct hop_world *w, uint32_t server, enum connection_state state, unsigned n)
{
    for (uint32_t i = 0; i < WORLD_CONNECTIONS; i++)
        if (w->slots[i].used && w->slots[i].connection.server == server &&
            w->slots[i].connection.state == state && n-- == 0)
            return &w->slots[i].connection;
    return NULL;
}

static inline unsigned
connections_count(struct hop_world *w, uint32_t server, enum connection_state state)
{
    unsigned n = 0;

    while (connection_find(w, server, state, n) != NULL)
        n++;
    return n;
}

/* Its transaction is over. */
static inline void
connection_done(struct connection *connection)
{
    struct mail *mail = mail_of(connection->transaction);

    connection->hop->servers[connection->server].busy_count--;
    connection->transaction = NULL;
    mail->on = NULL;
    mail->code = 250;
    alone_ready(connection);
}

/* Opening it came to nothing; connection_went() follows. */
static inline void
connection_fails(struct connection *connection)
{
    static const struct verdict_context context = { .expectation = SENDER_EXPECTS_NOTHING,
                                                    .class = VERDICT_LOST,
                                                    .restartable = true };
    struct reply said;

    reply_clear(&said);
    connection->state = CONNECTION_CLOSING;
    alone_failed(connection, "connection refused", &context, &said);
}

/* Nothing is in flight any more: see connection_release(). */
static inline void
connection_went(struct hop_world *w, struct connection *connection)
{
    cr_assert(connection->state == CONNECTION_DRAINING || connection->state == CONNECTION_CLOSING);
    for (uint32_t i = 0; i < WORLD_CONNECTIONS; i++)
        if (&w->slots[i].connection == connection)
            w->slots[i].used = false;
    w->hop.connection_count--;
    alone_gone(&w->hop);
}

/* --- what must be true --- */

static inline void
world_check(struct hop_world *w)
{
    uint32_t waiting = 0, connections = 0, at_work = 0, probes = 0;

    for (uint32_t s = 0; s < w->hop.server_count; s++) {
        const struct server *server = &w->hop.servers[s];

        cr_assert_eq(server->connecting_count, connections_count(w, s, CONNECTION_OPENING), "%s",
                     w->name);
        cr_assert_eq(server->busy_count, connections_count(w, s, CONNECTION_BUSY), "%s", w->name);
        cr_assert_eq(server->idle_count, connections_count(w, s, CONNECTION_IDLE), "%s", w->name);
    }
    for (uint32_t i = 0; i < WORLD_CONNECTIONS; i++) {
        connections += w->slots[i].used;
        probes += w->slots[i].used && w->slots[i].connection.probe; /* beside the mail */
        at_work += w->slots[i].used && w->slots[i].connection.state != CONNECTION_IDLE;
    }
    cr_assert_eq(w->hop.connection_count, connections, "%s", w->name);
    cr_assert_leq(connections, w->next_hop.connections + probes, "%s", w->name);
    for (struct transaction *t = w->hop.waiting; t != NULL; t = t->next_waiting, waiting++) {
        cr_assert(timer_is_set(&t->timer), "%s: it waits without a deadline", w->name);
        cr_assert_eq(mail_of(t)->code, 0, "%s: it waits with a verdict", w->name);
    }
    cr_assert_eq(w->hop.waiting_count, waiting, "%s", w->name);
    cr_assert(waiting == 0 || at_work > 0, "%s: %u wait for nobody", w->name, waiting);
    for (uint32_t i = 0; i < WORLD_MAILS; i++)
        if (w->mails[i].used)
            cr_assert_eq((w->mails[i].on != NULL) + (w->mails[i].code != 0) +
                             mail_waits(&w->mails[i]),
                         1, "%s: mail %u is nowhere, or twice", w->name, i);
}

#endif
