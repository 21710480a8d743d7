/* Scenarios of sim-net: mail through the unmodified relay, with and without faults. */
#include "tests/sim/net_scenarios.h"

#include "core/clock.h"

#define SOON (30 * NS_PER_S)

static const char spooling[] = "delivery: { mode: cut-through, on_defer: spool }\n"
                               "spool: { directory: /spool, segment: 1mb, minimum_free: 1mb, "
                               "messages: 1000, retry: [ 1s, 10s ], expire: 5d }\n";
static const char streaming[] = "delivery: { mode: cut-through, on_defer: pass }\n";

static const char *const client[] = {
    "<< 220", "> EHLO client.example.net",
    "<< 250", "=MAIL FROM:<a@example.net>\nRCPT TO:<b@example.com>\nDATA\n",
    "<< 250", "<< 250",
    "<< 354", "body 3000",
    "> .",    "<< 250",
    "> QUIT", "<< 221",
    "done",   NULL
};

static const char *const hop[] = { "> 220 hop.example.com",
                                   "< EHLO",
                                   "> 250-hop.example.com",
                                   "> 250-PIPELINING",
                                   "> 250 8BITMIME",
                                   "< MAIL",
                                   "> 250 ok",
                                   "< RCPT",
                                   "> 250 ok",
                                   "< DATA",
                                   "> 354 go",
                                   "data",
                                   "> 250 taken",
                                   "< QUIT",
                                   "> 221 bye",
                                   "close",
                                   NULL };

static void
message(struct net_world *world)
{
    world_config(world, 1, "none", streaming);
    world->hop_steps = hop;
    relay_life_begin(world);
    world_client(world, 0x7f000101, client);
    EXPECT(world, world_run(world, clients_done, SOON));
    EXPECT(world, world->hop_messages == 1);
    relay_life_end(world);
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
    EXPECT(world, world->hop_messages == 9);
    for (uint32_t i = 0; i < 3; i++)
        EXPECT(world, world->relay.workers[i].counters.messages_accepted > 0);
    relay_life_end(world);
}

const struct scenario scenarios[] = {
    { "message", message, false },
    { "workers", workers, false },
    { NULL, NULL, false },
};
