/* A next hop's choice of connections: that nobody waits for nobody, whatever becomes of what it
 * waits for; what counts as a failure of a server. */
#include "tests/unit/hop_world.h"

#include "tests/unit/seeded.h"

enum { A, B, C };
#define TRIED(server) (1u << (server))

/* --- those who wait --- */

/* It counted on the connection that was on its way, or busy, and cannot use it: another is opened
 * in the same moment. */
Test(hop, ready_and_of_no_use_to_who_waits)
{
    static const struct {
        const char *name;
        bool fresh;      /* a used connection will not do; else: server A has failed it already */
        uint32_t server; /* that it waits for then */
    } rows[] = {
        { "its server has failed the mail", false, B },
        { "a used one will not do", true, A },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct hop_world *w = world_begin(2, 4);
        struct mail *first = mail_submit(w, 0), *second = &w->mails[WORLD_MAILS - 1];
        struct connection *connection = connection_find(w, A, CONNECTION_OPENING, 0);

        w->name = rows[i].name;
        second->used = true;
        second->transaction.tried = rows[i].fresh ? 0 : TRIED(A);
        second->transaction.fresh = rows[i].fresh;
        if (rows[i].fresh) {
            alone_ready(connection);
            w->no_sockets = true;
        } else {
            alone_withdraw(&w->hop, &first->transaction);
            first->used = false;
        }
        alone_submit(&w->hop, &second->transaction);
        cr_assert(mail_waits(second), "%s", w->name);
        cr_assert_eq(w->opened, 1, "%s", w->name);
        world_check(w);
        w->no_sockets = false;
        if (rows[i].fresh)
            connection_done(connection);
        else
            alone_ready(connection);
        world_check(w);
        cr_assert_eq(connection->state, CONNECTION_IDLE, "%s", w->name);
        cr_assert_eq(connections_count(w, rows[i].server, CONNECTION_OPENING), 1, "%s", w->name);
        alone_ready(connection_find(w, rows[i].server, CONNECTION_OPENING, 0));
        cr_assert_not_null(second->on, "%s", w->name);
        world_check(w);
    }
}

/* The connections that they wait for fail: another server is tried at once, for each, and when none
 * is left each is told. */
Test(hop, refused_to_who_waits)
{
    struct hop_world *w = world_begin(2, 4);
    struct mail *mails[2] = { mail_submit(w, 0), mail_submit(w, 0) };
    struct connection *connections[2] = { connection_find(w, A, CONNECTION_OPENING, 0),
                                          connection_find(w, A, CONNECTION_OPENING, 1) };

    cr_assert_eq(w->opened, 2);
    cr_assert(alone_reachable(&w->hop));
    connection_fails(connections[0]);
    world_check(w);
    /* The server is down: what else is on its way to it counts for nobody. */
    cr_assert_eq(connections_count(w, B, CONNECTION_OPENING), 2);
    connection_fails(connections[1]);
    connection_went(w, connections[0]);
    connection_went(w, connections[1]);
    cr_assert_eq(w->opened, 4);
    cr_assert(mail_waits(mails[0]) && mail_waits(mails[1]));
    world_check(w);
    connections[0] = connection_find(w, B, CONNECTION_OPENING, 0);
    connections[1] = connection_find(w, B, CONNECTION_OPENING, 1);
    connection_fails(connections[0]);
    world_check(w);
    cr_assert_eq(mails[0]->code, 451);
    cr_assert_eq(mails[1]->code, 451);
    connection_fails(connections[1]);
    connection_went(w, connections[0]);
    connection_went(w, connections[1]);
    cr_assert_eq(w->opened, 4);
    cr_assert_eq(w->counters.servers_down, 2);
    /* Nothing from the spool is read for it before one of them may be tried again. */
    cr_assert_not(alone_reachable(&w->hop));
    world_passes(w, 600 * NS_PER_S);
    cr_assert(alone_reachable(&w->hop));
    world_check(w);
}

/* All connections that may be are busy, and the one waited for ends instead of being free. */
Test(hop, gone_while_somebody_waits)
{
    struct hop_world *w = world_begin(1, 1);
    struct mail *first = mail_submit(w, 0), *second;
    struct connection *connection = connection_find(w, A, CONNECTION_OPENING, 0);

    alone_ready(connection);
    second = mail_submit(w, 0);
    cr_assert(mail_waits(second));
    cr_assert_eq(w->opened, 1);
    w->next_hop.messages_per_connection = 1;
    connection_done(connection);
    cr_assert_eq(connection->state, CONNECTION_DRAINING);
    cr_assert(mail_waits(second));
    world_check(w);
    connection_went(w, connection);
    cr_assert_eq(w->opened, 2);
    world_check(w);
    alone_ready(connection_find(w, A, CONNECTION_OPENING, 0));
    cr_assert_not_null(second->on);
    cr_assert_eq(first->code, 250);
    world_check(w);
}

/* A probe of a dead server may take minutes to fail: nobody counts on it while another is up. With
 * none up it is waited for when it was just begun, and only then. */
Test(hop, probes_are_no_promise)
{
    struct hop_world *w = world_begin(2, 8);
    struct mail *mail = mail_submit(w, 0);
    struct connection *probe;

    connection_fails(connection_find(w, A, CONNECTION_OPENING, 0));
    connection_went(w, connection_find(w, A, CONNECTION_CLOSING, 0));
    alone_ready(connection_find(w, B, CONNECTION_OPENING, 0));
    world_passes(w, 6 * NS_PER_S);
    mail = mail_submit(w, 0);
    cr_assert_eq(connections_count(w, A, CONNECTION_OPENING), 1, "it is tried beside the mail");
    cr_assert(connection_find(w, A, CONNECTION_OPENING, 0)->probe);
    cr_assert_eq(connections_count(w, B, CONNECTION_OPENING), 1, "the mail counts on the probe");
    world_check(w);
    connection_fails(connection_find(w, B, CONNECTION_OPENING, 0));
    connection_went(w, connection_find(w, B, CONNECTION_CLOSING, 0));
    cr_assert(mail_waits(mail), "the probe was just begun");
    world_check(w);
    world_passes(w, 2 * NS_PER_S);
    cr_assert_eq(mail_submit(w, 0)->code, 451, "the probe hangs");
    probe = connection_find(w, A, CONNECTION_OPENING, 0);
    connection_fails(probe);
    cr_assert_eq(mail->code, 451);
    connection_went(w, probe);
    /* And when it comes back, whoever waits has it. */
    world_passes(w, 200 * NS_PER_S);
    mail = mail_submit(w, TRIED(B));
    cr_assert(mail_waits(mail));
    alone_ready(connection_find(w, A, CONNECTION_OPENING, 0));
    cr_assert_not_null(mail->on);
    cr_assert_not(w->hop.servers[A].down);
    world_check(w);
}

/* First come, first served, whoever leaves the line before; a mail that needs what no server offers
 * does not use the connection up. */
Test(hop, the_line)
{
    struct hop_world *w = world_begin(1, 1);
    struct mail *mails[5];
    struct connection *connection;

    for (unsigned i = 0; i < 4; i++)
        mails[i] = mail_submit(w, 0);
    connection = connection_find(w, A, CONNECTION_OPENING, 0);
    alone_withdraw(&w->hop, &mails[3]->transaction); /* the last */
    mails[3]->used = false;
    mails[4] = mail_submit(w, 0);
    alone_withdraw(&w->hop, &mails[1]->transaction);
    mails[1]->used = false;
    cr_assert_not(timer_is_set(&mails[1]->transaction.timer));
    mails[0]->refused_by_all = true;
    world_check(w);
    alone_ready(connection);
    cr_assert_eq(mails[0]->code, 550);
    cr_assert_eq(mails[2]->on, connection);
    world_check(w);
    connection_done(connection);
    cr_assert_eq(mails[4]->on, connection);
    cr_assert_null(w->hop.waiting);
    cr_assert_eq(w->counters.waiting, 0);
    world_check(w);
    connection_done(connection);
    mails[0] = mail_submit(w, 0);
    cr_assert_eq(mails[0]->on, connection, "an idle one is used again");
    cr_assert_eq(w->opened, 1);
    connection_done(connection);
    alone_close_idle(&w->hop);
    cr_assert_eq(connection->state, CONNECTION_DRAINING);
    world_check(w);
    alone_destroy(&w->hop);
}

/* Nothing can be opened: what is idle makes room, or is used; with nothing there each is told. */
Test(hop, no_socket_is_left)
{
    struct hop_world *w = world_begin(2, 4);
    struct mail *mail = mail_submit(w, 0);
    struct connection *idle = connection_find(w, A, CONNECTION_OPENING, 0);

    alone_ready(idle);
    connection_done(idle);
    w->no_sockets = true;
    mail = mail_submit(w, TRIED(A));
    cr_assert(mail_waits(mail));
    cr_assert_eq(idle->state, CONNECTION_DRAINING, "it keeps its descriptor");
    world_check(w);
    w->no_sockets = false;
    connection_went(w, idle);
    alone_ready(connection_find(w, B, CONNECTION_OPENING, 0));
    cr_assert_not_null(mail->on);
    connection_done(mail->on);
    world_check(w);
    /* One that only waits for a server that goes down has the idle one of the next. */
    mail = mail_submit(w, 0);
    cr_assert(mail_waits(mail));
    w->no_sockets = true;
    connection_fails(connection_find(w, A, CONNECTION_OPENING, 0));
    cr_assert_eq(mail->on, connection_find(w, B, CONNECTION_BUSY, 0));
    cr_assert_eq(w->opened, 3);
    world_check(w);
    w->worker.now_ns += 100 * NS_PER_S;
    w->hop.servers[B].busy_count--;
    mail->on->state = CONNECTION_CLOSING;
    mail->code = 250;
    connection_went(w, mail->on);
    mail->on = NULL;
    connection_went(w, connection_find(w, A, CONNECTION_CLOSING, 0));
    cr_assert_eq(mail_submit(w, 0)->code, 451);
    world_check(w);
}

/* Idle ones make room when they are gone, not before: the pool has a slot for each that may be, and
 * another next hop needs its own. */
Test(hop, no_more_than_allowed)
{
    static const struct {
        const char *name;
        uint32_t tried;
        bool fresh, down; /* its only server is down, and due */
        uint32_t server;
    } rows[] = {
        { "another server's", TRIED(A), false, false, B },
        { "a used one will not do", TRIED(B), true, false, A },
        { "one of a server that is down", TRIED(B), false, true, A },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct hop_world *w = world_begin(2, 1);
        struct mail *mail = mail_submit(w, 0);
        struct connection *idle = connection_find(w, A, CONNECTION_OPENING, 0);

        w->name = rows[i].name;
        alone_ready(idle);
        connection_done(idle);
        w->hop.servers[A].down = rows[i].down;
        w->counters.servers_down = rows[i].down;
        w->no_sockets = rows[i].down; /* a probe may be one more than allowed */
        mail = &w->mails[WORLD_MAILS - 1];
        mail->used = true;
        mail->transaction.tried = rows[i].tried;
        mail->transaction.fresh = rows[i].fresh;
        alone_submit(&w->hop, &mail->transaction);
        cr_assert(mail_waits(mail), "%s", w->name);
        cr_assert_eq(idle->state, CONNECTION_DRAINING, "%s", w->name);
        cr_assert_eq(w->opened, 1, "%s: two connections of one", w->name);
        w->no_sockets = false;
        connection_went(w, idle);
        alone_ready(connection_find(w, rows[i].server, CONNECTION_OPENING, 0));
        cr_assert_not_null(mail->on, "%s", w->name);
        world_check(w);
    }
}

/* --- health --- */

/* The pause doubles with each attempt that fails, not with each connection of one attempt. */
Test(hop, one_outage_is_one_failure)
{
    static const unsigned pauses_s[] = { 5, 10, 20, 40, 80, 120, 120 };
    struct hop_world *w = world_begin(1, 8);
    const struct server *server = &w->hop.servers[A];

    for (unsigned i = 0; i < 5; i++)
        mail_submit(w, 0);
    world_passes(w, NS_PER_S / 10);
    for (unsigned i = 0; i < sizeof(pauses_s) / sizeof(pauses_s[0]); i++) {
        while (connections_count(w, A, CONNECTION_OPENING) > 0) {
            connection_fails(connection_find(w, A, CONNECTION_OPENING, 0));
            world_passes(w, NS_PER_S / 100);
        }
        cr_assert_eq(server->failures, i + 1);
        cr_assert_geq(server->retry_ns, w->worker.now_ns + (pauses_s[i] - 1) * NS_PER_S, "%u", i);
        cr_assert_leq(server->retry_ns, w->worker.now_ns + pauses_s[i] * NS_PER_S, "%u", i);
        cr_assert_eq(w->counters.servers_down, 1);
        while (connections_count(w, A, CONNECTION_CLOSING) > 0)
            connection_went(w, connection_find(w, A, CONNECTION_CLOSING, 0));
        for (uint32_t m = 0; m < WORLD_MAILS; m++)
            w->mails[m].used = false;
        world_passes(w, pauses_s[i] * NS_PER_S);
        cr_assert(mail_waits(mail_submit(w, 0)), "%u: it is not tried again", i);
        cr_assert_eq(connections_count(w, A, CONNECTION_OPENING), 1);
        world_passes(w, NS_PER_S / 100);
    }
}

/* Who has just repaired the server does not wait for it; who says so again and again does not
 * hammer it. */
Test(hop, an_operator_says_that_it_is_worth_it)
{
    struct hop_world *w = world_begin(1, 8);
    const struct server *server = &w->hop.servers[A];

    alone_try_now(&w->hop);
    cr_assert(alone_reachable(&w->hop), "it was up");
    mail_submit(w, 0);
    connection_fails(connection_find(w, A, CONNECTION_OPENING, 0));
    alone_try_now(&w->hop);
    cr_assert_not(alone_reachable(&w->hop), "not at once");
    cr_assert_eq(server->retry_ns, w->worker.now_ns + NS_PER_S);
    world_passes(w, NS_PER_S);
    cr_assert(alone_reachable(&w->hop));
    alone_try_now(&w->hop);
    cr_assert_eq(server->retry_ns, w->worker.now_ns, "later is never");
}

/* Opportunistic TLS that failed is no failure of the server: the next connection goes without. When
 * the next would go with TLS again it is one, or there would be no pause between attempts. */
Test(hop, tls_that_failed)
{
    static const struct {
        const char *name;
        bool opportunistic, tls;
        int64_t retry_s; /* when TLS is tried again, from now */
        bool down;
    } rows[] = {
        { "the handshake has just failed", true, true, 600, false },
        { "without TLS it fails too", true, false, 600, true },
        { "TLS was tried again, and it failed behind that", true, true, -1, true },
        { "TLS is required", false, true, 600, true },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct hop_world *w = world_begin(1, 4);
        struct connection *connection;

        w->name = rows[i].name;
        w->next_hop.tls =
            rows[i].opportunistic ? CONFIG_HOP_TLS_OPPORTUNISTIC : CONFIG_HOP_TLS_REQUIRE;
        mail_submit(w, 0);
        connection = connection_find(w, A, CONNECTION_OPENING, 0);
        connection->link.tls = rows[i].tls ? (struct tls *)(void *)w : NULL; /* any but NULL */
        w->hop.servers[A].tls_retry_ns =
            w->worker.now_ns + (uint64_t)rows[i].retry_s * NS_PER_S;
        connection_fails(connection);
        cr_assert_eq(w->hop.servers[A].down, rows[i].down, "%s", w->name);
        cr_assert_eq(connections_count(w, A, CONNECTION_OPENING), rows[i].down ? 0 : 1, "%s",
                     w->name);
        world_check(w);
    }
}

/* --- anything --- */

static struct connection *
connection_any(struct hop_world *w, enum connection_state state, struct seeded *seeded)
{
    unsigned counts[WORLD_SERVERS], total = 0, n;

    for (uint32_t s = 0; s < WORLD_SERVERS; s++)
        total += counts[s] = connections_count(w, s, state);
    if (total == 0)
        return NULL;
    n = (unsigned)seeded_below(seeded, total);
    for (uint32_t s = 0; s < WORLD_SERVERS; s++) {
        if (n < counts[s])
            return connection_find(w, s, state, n);
        n -= counts[s];
    }
    return NULL;
}

static void
mails_forget(struct hop_world *w)
{
    for (uint32_t i = 0; i < WORLD_MAILS; i++)
        if (w->mails[i].code != 0)
            w->mails[i].used = false;
}

/* One event of those that can be. */
static void
happen(struct hop_world *w, struct seeded *seeded, unsigned what)
{
    enum connection_state state = what <= 2   ? CONNECTION_OPENING
                                  : what <= 4 ? CONNECTION_BUSY
                                  : what == 5 ? CONNECTION_DRAINING
                                  : what == 6 ? CONNECTION_CLOSING
                                              : CONNECTION_IDLE;
    struct connection *connection = connection_any(w, state, seeded);
    struct mail *mail;

    if (connection == NULL)
        return;
    switch (what) {
    case 0:
    case 1: alone_ready(connection); break;
    case 2: connection_fails(connection); break;
    case 3: connection_done(connection); break;
    case 4: /* the server refuses the mail for now: it goes elsewhere */
        mail = mail_of(connection->transaction);
        connection->transaction = NULL;
        connection->hop->servers[connection->server].busy_count--;
        mail->on = NULL;
        mail->transaction.tried |= 1u << connection->server;
        mail->transaction.fresh = seeded_below(seeded, 4) == 0;
        alone_ready(connection);
        alone_submit(&w->hop, &mail->transaction);
        break;
    case 5:
    case 6: connection_went(w, connection); break;
    default: fake_quit(connection); /* it was idle for too long */
    }
}

/* Random events, and after each of them whoever waits waits for something; in the end all have
 * their answer. */
Test(hop, nobody_waits_for_nobody)
{
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct seeded seeded = { seed };
        struct hop_world *w = world_begin(1 + (uint32_t)seeded_below(&seeded, WORLD_SERVERS),
                                          1 + (uint32_t)seeded_below(&seeded, 6));
        char name[32];
        bool busy = true;

        (void)snprintf(name, sizeof(name), "seed %u", (unsigned)seed);
        w->name = name;
        w->next_hop.messages_per_connection = 1 + (uint32_t)seeded_below(&seeded, 8);
        if (seeded_below(&seeded, 2) == 0)
            w->next_hop.balance = CONFIG_BALANCE_SHARE;
        for (unsigned step = 0; step < 300; step++) {
            unsigned used = 0;

            mails_forget(w);
            for (uint32_t i = 0; i < WORLD_MAILS; i++)
                used += w->mails[i].used;
            if (seeded_below(&seeded, 3) == 0 && used < WORLD_MAILS)
                mail_submit(w, 0);
            else
                happen(w, &seeded, (unsigned)seeded_below(&seeded, 8));
            if (seeded_below(&seeded, 20) == 0)
                world_passes(w, seeded_scale(&seeded, 37));
            if (seeded_below(&seeded, 20) == 0)
                w->no_sockets = seeded_below(&seeded, 2) == 0;
            world_check(w);
        }
        for (unsigned step = 0; busy; step++) {
            cr_assert_lt(step, 2000, "%s: no end", name);
            happen(w, &seeded, (unsigned)seeded_below(&seeded, 7));
            world_check(w);
            busy = w->hop.waiting != NULL;
            for (uint32_t i = 0; i < WORLD_CONNECTIONS; i++)
                busy |= w->slots[i].used && w->slots[i].connection.state != CONNECTION_IDLE;
        }
    }
}
