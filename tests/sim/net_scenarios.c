/* Scenarios of sim-net: mail through the unmodified relay, with and without faults. */
#include "tests/sim/net_scenarios.h"

#include "core/clock.h"

#define SOON (30 * NS_PER_S)
#define LATE (3600 * NS_PER_S)

static const char spooling[] = "delivery: { mode: cut-through, on_defer: spool }\n"
                               "spool: { directory: /spool, segment: 1mb, minimum_free: 1mb, "
                               "messages: 1000, retry: [ 1s, 10s ], expire: 5d }\n";
static const char streaming[] = "delivery: { mode: cut-through, on_defer: pass }\n";

#define CLIENT_BEGINS "<< 220", "> EHLO client.example.net", "<< 250"
#define CLIENT_ASKS \
    "=MAIL FROM:<a@example.net>\nRCPT TO:<b@example.com>\nDATA\n", "<< 250", "<< 250", "<< 354"
#define CLIENT_ENDS "> .", "<< 250", "done", "> QUIT", "<< 221", NULL

static const char *const client[] = { CLIENT_BEGINS, CLIENT_ASKS, "body 3000", CLIENT_ENDS };
static const char *const client_large[] = { CLIENT_BEGINS, CLIENT_ASKS, "body 90000", CLIENT_ENDS };
static const char *const client_tls[] = { CLIENT_BEGINS, "> STARTTLS",   "<< 220",
                                          "tls",         "> EHLO again", "<< 250",
                                          CLIENT_ASKS,   "body 40000",   CLIENT_ENDS };
static const char *const client_resets[] = { CLIENT_BEGINS, CLIENT_ASKS, "body 50000", "wait 20",
                                             "reset",       "over",      NULL };
static const char *const client_idle[] = { CLIENT_BEGINS, "over", "<< 421", NULL };
static const char *const client_waits[] = { CLIENT_BEGINS, "wait 1000", CLIENT_ASKS, "body 900",
                                            CLIENT_ENDS };
static const char *const client_injects[] = { CLIENT_BEGINS, "=STARTTLS\nRSET\n", "<< 5", "over",
                                              NULL };
/* Its FIN is behind the QUIT, and it reads late. */
static const char *const client_half[] = { CLIENT_BEGINS, CLIENT_ASKS, "body 100", "=.\nQUIT\n",
                                           "fin",         "deaf",      "wait 500", "hear",
                                           "<< 250",      "<< 221",    "done",     NULL };

#define HOP_BEGINS \
    "> 220 hop.example.com", "< EHLO", "> 250-hop.example.com", "> 250-PIPELINING", "> 250 8BITMIME"
#define HOP_TAKES \
    "< MAIL", "> 250 ok", "< RCPT", "> 250 ok", "< DATA", "> 354 go", "data", "> 250 taken"
#define HOP_ENDS "< QUIT", "> 221 bye", "close", NULL

static const char *const hop[] = { HOP_BEGINS, HOP_TAKES, HOP_ENDS };
static const char *const hop_twice[] = { HOP_BEGINS, HOP_TAKES, HOP_TAKES, HOP_TAKES, HOP_ENDS };
static const char *const hop_deaf[] = { HOP_BEGINS,  "< MAIL", "> 250 ok", "< RCPT",
                                        "> 250 ok",  "< DATA", "> 354 go", "deaf",
                                        "wait 4000", "hear",   "data",     "> 250 taken",
                                        HOP_ENDS };
static const char *const hop_resets[] = { HOP_BEGINS, "< MAIL",   "> 250 ok", "< RCPT", "> 250 ok",
                                          "< DATA",   "> 354 go", "wait 5",   "reset",  NULL };
static const char *const hop_tls[] = { "> 220 hop.example.com",
                                       "< EHLO",
                                       "> 250-hop.example.com",
                                       "> 250 STARTTLS",
                                       "< STARTTLS",
                                       "> 220 go",
                                       "tls",
                                       "< EHLO",
                                       "> 250 hop.example.com",
                                       "< MAIL",
                                       "> 250 ok",
                                       "< RCPT",
                                       "> 250 ok",
                                       "< DATA",
                                       "> 354 go",
                                       "data",
                                       "> 250 taken",
                                       HOP_ENDS };

/* One client, one next hop, and the message comes through. */
static void
comes_through(struct net_world *world, const char *options, const char *const *client_steps,
              const char *const *hop_steps)
{
    world_config(world, 1, "none", options);
    world->hop_steps = hop_steps;
    relay_life_begin(world);
    world_client(world, 0x7f000101, client_steps);
    EXPECT(world, world_run(world, clients_done, SOON));
    EXPECT(world, world->hop_messages == 1 && promises_kept(world));
    relay_life_end(world);
    EXPECT(world, sim_net_relay_sockets() == 0);
}

static void
message(struct net_world *world)
{
    comes_through(world, streaming, client, hop);
}

static void
half_close(struct net_world *world)
{
    comes_through(world, streaming, client_half, hop);
}

static void
deaf_next_hop(struct net_world *world)
{
    uint64_t before = sim_now_ns();

    comes_through(world, streaming, client_large, hop_deaf);
    EXPECT(world, sim_now_ns() - before > 4 * NS_PER_S);
}

static void
workers(struct net_world *world)
{
    world_config(world, 3, "none", spooling);
    world->hop_steps = hop;
    relay_life_begin(world);
    for (uint32_t i = 0; i < 9; i++)
        world_client(world, 0x7f000101 + i, client);
    EXPECT(world, world_run(world, clients_done, SOON));
    EXPECT(world, world->hop_messages == 9 && promises_kept(world));
    for (uint32_t i = 0; i < 3; i++)
        EXPECT(world, world->relay.workers[i].counters.messages_accepted > 0);
    relay_life_end(world);
}

static void
starttls(struct net_world *world)
{
    world_config(world, 2, "starttls", streaming);
    world->hop_steps = hop_tls;
    relay_life_begin(world);
    for (uint32_t i = 0; i < 4; i++)
        world_client(world, 0x7f000101 + i, client_tls);
    EXPECT(world, world_run(world, clients_done, SOON));
    EXPECT(world, world->hop_messages == 4 && promises_kept(world));
    relay_life_end(world);
    EXPECT(world, sim_net_relay_sockets() == 0);
}

static void
injection(struct net_world *world)
{
    world_config(world, 1, "starttls", streaming);
    relay_life_begin(world);
    world_client(world, 0x7f000101, client_injects);
    EXPECT(world, world_run(world, clients_done, SOON));
    relay_life_end(world);
}

static void
client_goes(struct net_world *world)
{
    world_config(world, 1, "none", streaming);
    world->hop_steps = hop;
    relay_life_begin(world);
    world_client(world, 0x7f000101, client_resets);
    EXPECT(world, world_run(world, clients_done, SOON));
    world_run(world, NULL, SOON);
    EXPECT(world, world->hop_messages == 0);
    EXPECT(world, world->relay.workers[0].sessions.used == 0);
    relay_life_end(world);
}

/* The next hop fails one way or the other, and takes the message later. */
static void
delivered_later(struct net_world *world, const char *const *hop_steps,
                const struct sim_net_faults *faults)
{
    world_config(world, 1, "none", spooling);
    world->hop_steps = hop_steps;
    relay_life_begin(world);
    world_client(world, 0x7f000101, client_waits);
    world_run(world, NULL, 900 * NS_PER_MS);
    sim_net_faults_set(faults);
    EXPECT(world, world_run(world, clients_done, 60 * NS_PER_S));
    EXPECT(world, world->hop_messages == 0);
    sim_net_faults_set(NULL);
    world->hop_steps = hop;
    EXPECT(world, world_run(world, promises_kept, LATE));
    relay_life_end(world);
}

static void
next_hop_resets(struct net_world *world)
{
    delivered_later(world, hop_resets, NULL);
}

static void
next_hop_refuses(struct net_world *world)
{
    delivered_later(world, NULL, NULL);
}

static void
next_hop_silent(struct net_world *world)
{
    delivered_later(world, NULL, &(struct sim_net_faults){ .unanswered = 10000 });
}

/* It stops with idle clients and a connect that nobody answers. */
static void
drain(struct net_world *world)
{
    world_config(world, 2, "none", spooling);
    relay_life_begin(world);
    for (uint32_t i = 0; i < 3; i++)
        world_client(world, 0x7f000101 + i, i == 0 ? client_waits : client_idle);
    world_run(world, NULL, 900 * NS_PER_MS);
    sim_net_faults_set(&(struct sim_net_faults){ .unanswered = 10000 });
    world_run(world, NULL, 2 * NS_PER_S);
    relay_life_end(world);
    EXPECT(world, sim_net_relay_sockets() == 0);
}

/* Fewer buffers than the messages need. */
static void
few_buffers(struct net_world *world)
{
    world_config(world, 1, "none", spooling);
    world->config->limits.receive_memory = 256 * BUFFER_BYTES;
    world->hop_steps = hop_deaf;
    relay_life_begin(world);
    for (uint32_t i = 0; i < 12; i++)
        world_client(world, 0x7f000101 + i, client_large);
    EXPECT(world, world_run(world, clients_over, LATE));
    world->hop_steps = hop;
    EXPECT(world, world_run(world, promises_kept, LATE));
    relay_life_end(world);
}

/* --- faults --- */

static uint32_t
some(struct sim_random *random, uint32_t most)
{
    return sim_below(random, 3) == 0 ? (uint32_t)sim_below(random, most) : 0;
}

static void
faults_draw(struct net_world *world)
{
    struct sim_random *random = &world->random;
    const struct sim_net_faults network = { .refuse = some(random, 2000),
                                            .unanswered = some(random, 500),
                                            .reset = some(random, 300),
                                            .stall = some(random, 300),
                                            .split = some(random, 9000),
                                            .merge = some(random, 3000),
                                            .multishot_ends = some(random, 5000),
                                            .no_buffer = some(random, 1000),
                                            .end_missed = some(random, 5000),
                                            .accept = some(random, 2000),
                                            .send = some(random, 200),
                                            .order = some(random, 5000) };
    const struct sim_tls_faults tls = { .handshake = some(random, 1000),
                                        .record = some(random, 100),
                                        .memory = some(random, 1000) };
    const struct sim_faults disk = { .open = some(random, 200),
                                     .write = some(random, 200),
                                     .write_short = some(random, 500),
                                     .sync = some(random, 200),
                                     .allocate = some(random, 500),
                                     .rename = some(random, 500),
                                     .unlink = some(random, 500),
                                     .again = some(random, 500),
                                     .no_space = some(random, 200),
                                     .directory_sync = some(random, 200),
                                     .slow = some(random, 1000) };

    sim_faults_set(&disk);
    sim_net_faults_set(&network);
    sim_tls_faults_set(&tls);
}

static void
faults_none(void)
{
    sim_faults_set(NULL);
    sim_net_faults_set(NULL);
    sim_tls_faults_set(NULL);
}

static void
clients_come(struct net_world *world, bool starttls)
{
    static const char *const *const scripts[] = { client, client_large, client_half, client_waits,
                                                  client_resets };

    for (uint32_t i = 0; i < 10; i++)
        world_client(world, 0x7f000101 + i,
                     starttls && sim_below(&world->random, 2) == 0
                         ? client_tls
                         : scripts[sim_below(&world->random, 5)]);
}

/* Without faults all that was promised comes through, and everything can end. */
static void
good_end(struct net_world *world)
{
    faults_none();
    EXPECT(world, world_run(world, promises_kept, 24 * LATE));
    EXPECT(world, world_run(world, clients_over, LATE));
    relay_life_end(world);
    EXPECT(world, sim_net_relay_sockets() == 0);
}

static void
faulty_life(struct net_world *world, bool starttls, bool cuts)
{
    clients_come(world, starttls);
    if (setjmp(world->power) != 0) {
        faults_none(); /* a start that fails is an end of its own */
        relay_life_cut(world);
    }
    faults_draw(world);
    if (cuts && world->cuts < 4)
        sim_power_fails_after(sim_below(&world->random, 600), &world->power);
    world_run(world, clients_over, LATE);
    sim_power_fails_after(UINT64_MAX, NULL);
    good_end(world);
}

static void
faults(struct net_world *world)
{
    world_config(world, 1 + (unsigned)sim_below(&world->random, 3), "none", spooling);
    world->config->limits.receive_memory = 512 * BUFFER_BYTES;
    world->hop_steps = sim_below(&world->random, 2) == 0 ? hop : hop_twice;
    relay_life_begin(world);
    faulty_life(world, false, false);
}

static void
faults_tls(struct net_world *world)
{
    world_config(world, 1 + (unsigned)sim_below(&world->random, 2), "starttls", spooling);
    world->hop_steps = hop_tls;
    relay_life_begin(world);
    faulty_life(world, true, false);
}

static void
power(struct net_world *world)
{
    world_config(world, 1 + (unsigned)sim_below(&world->random, 2), "none", spooling);
    world->hop_steps = hop;
    relay_life_begin(world);
    faulty_life(world, false, true);
}

/* Stopped and started again amid it all. */
static void
restarts(struct net_world *world)
{
    bool starttls = sim_below(&world->random, 2) == 0;

    world_config(world, 1 + (unsigned)sim_below(&world->random, 3), starttls ? "starttls" : "none",
                 spooling);
    world->hop_steps = starttls ? hop_tls : hop;
    for (int life = 0; life < 3; life++) {
        relay_life_begin(world);
        clients_come(world, starttls);
        faults_draw(world);
        world_run(world, NULL, sim_below(&world->random, 4 * NS_PER_S));
        relay_life_end(world);
        faults_none();
    }
    relay_life_begin(world);
    good_end(world);
}

const struct scenario scenarios[] = {
    { "io-streams", io_streams, true },
    { "io-order", io_order, true },
    { "io-windows", io_windows, false },
    { "io-cancel", io_cancels, false },
    { "io-stop", io_stops, false },
    { "io-once", io_once, false },
    { "io-no-buffers", io_no_buffers, false },
    { "io-ends", io_ends, false },
    { "io-resets", io_resets, false },
    { "io-connects", io_connects, false },
    { "io-accepts", io_accepts, false },
    { "io-last-word", io_last_word, false },
    { "io-posts", io_posts, false },
    { "io-mistakes", io_mistakes, false },
    { "message", message, false },
    { "half-close", half_close, false },
    { "deaf-next-hop", deaf_next_hop, false },
    { "workers", workers, false },
    { "starttls", starttls, false },
    { "injection", injection, false },
    { "client-goes", client_goes, false },
    { "next-hop-resets", next_hop_resets, false },
    { "next-hop-refuses", next_hop_refuses, false },
    { "next-hop-silent", next_hop_silent, false },
    { "drain", drain, false },
    { "few-buffers", few_buffers, false },
    { "faults", faults, true },
    { "faults-tls", faults_tls, true },
    { "power", power, true },
    { "restarts", restarts, true },
    { NULL, NULL, false },
};
