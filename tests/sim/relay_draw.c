/* What a seed draws of the world: a configuration as a file would have it, what next hops can do
 * and how they behave, which faults there are and how often. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/relay_world.h"

static uint32_t
chance_draw(uint32_t most)
{
    struct sim_random *random = &world.random;

    return sim_chance(random, 5000)
               ? (uint32_t)sim_between(random, 1, sim_chance(random, 2000) ? 4 * most : most)
               : 0;
}

/* A kind of fault, and the most of 10000 that a world has of it: much of what happens seldom. */
struct kind {
    size_t offset;
    uint32_t most;
};
#define DISK(name, most) { offsetof(struct sim_faults, name), most }
#define NET(name, most) { offsetof(struct sim_net_faults, name), most }
#define TLS(name, most) { offsetof(struct sim_tls_faults, name), most }

static const struct kind disk_kinds[] = {
    DISK(open, 4000),     DISK(write, 1500),          DISK(write_short, 3000),
    DISK(sync, 6000),     DISK(directory_sync, 4000), DISK(read, 2500),
    DISK(allocate, 6000), DISK(read_short, 5000),     DISK(rename, 8000),
    DISK(unlink, 7000),   DISK(shortage, 4000),       DISK(no_space, 1500),
    DISK(again, 2000),
};
static const struct kind net_kinds[] = {
    NET(refuse, 5000),       NET(unanswered, 3000), NET(reset, 200),       NET(stall, 500),
    NET(multishot_ends, 3000), NET(accept, 5000),   NET(end_missed, 4000), NET(no_buffer, 1500),
    NET(send, 300),
};
static const struct kind tls_kinds[] = {
    TLS(handshake, 3000), TLS(record, 400), TLS(unverified, 8000), TLS(memory, 3000),
};

/* None, one to three kinds, or all; weak, usual, strong. False: none. */
static bool
kinds_draw(void *faults, const struct kind *kinds, size_t count)
{
    struct sim_random *random = &world.random;
    uint64_t how = sim_below(random, 100), strength = sim_below(random, 4);
    uint64_t few = how < 20 ? 0 : how < 70 ? sim_between(random, 1, 3) : count;

    for (uint64_t i = 0; i < few; i++) {
        const struct kind *kind = &kinds[few == count ? i : sim_below(random, count)];
        uint32_t most = kind->most / (strength == 0 ? 16 : strength == 1 ? 4 : 1) /
                        (few == count ? 3 : 1);

        *(uint32_t *)((char *)faults + kind->offset) = (uint32_t)sim_between(random, 1, most);
    }
    return few > 0;
}
#define KINDS_DRAW(faults, kinds) \
    kinds_draw(faults, kinds, sizeof(kinds) / sizeof((kinds)[0]))

static void
faults_draw(void)
{
    world.any_disk_faults = KINDS_DRAW(&world.disk_faults, disk_kinds);
    world.any_net_faults = KINDS_DRAW(&world.net_faults, net_kinds);
    if (world.tls)
        KINDS_DRAW(&world.tls_faults, tls_kinds);
    /* Time and pieces are as they like, and nobody's fault. */
    world.disk_faults.slow = chance_draw(400);
    world.net_faults.split = chance_draw(3000);
    world.net_faults.merge = chance_draw(2000);
    world.net_faults.order = chance_draw(1000);
}

static void
hop_draw(uint32_t index)
{
    struct sim_random *random = &world.hops_random;
    struct next_hop *hop = &world.hops[index];

    *hop = (struct next_hop){ .index = index,
                         .servers = (uint32_t)sim_between(random, 1, SERVERS_MAX),
                         .well = sim_chance(random, 3000) };
    hop->offers.ehlo = !sim_chance(random, 500);
    hop->offers.pipelining = sim_chance(random, 7500);
    hop->offers.eight_bit = sim_chance(random, 9000);
    hop->offers.utf8 = hop->offers.eight_bit && sim_chance(random, 8000);
    hop->offers.chunking = sim_chance(random, 5000);
    hop->offers.dsn = sim_chance(random, 5000);
    hop->offers.size = sim_chance(random, 8000);
    hop->offers.tls = world.tls && sim_chance(random, 7000);
    if (!hop->offers.ehlo)
        memset(&hop->offers, 0, sizeof(hop->offers));
    hop->by_data = (world.seed >> index) % 5 == 0;
    hop->verified = hop->offers.tls && sim_chance(random, 4000);
    hop->mood = (struct mood){ .later = chance_draw(1500),
                               .no = chance_draw(1000),
                               .closing = chance_draw(300),
                               .drop = chance_draw(300),
                               .drop_after_end = chance_draw(800),
                               .slow = chance_draw(1500),
                               .stall = chance_draw(100),
                               .pieces = chance_draw(3000),
                               .garbage = chance_draw(100) };
}

/* --- the configuration --- */

static uint64_t
one_of(const uint64_t *list, uint64_t count)
{
    return list[sim_below(&world.random, count)];
}
#define ONE_OF(...) \
    one_of((const uint64_t[]){ __VA_ARGS__ }, \
           sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static void
hops_write(struct text *yaml)
{
    text_format(yaml, "next_hop:\n");
    for (uint32_t i = 0; i < world.hop_count; i++) {
        const char *tls = !world.tls ? "none" : world.hops[i].verified ? "verify" : "opportunistic";

        text_format(yaml, "  hop%u:\n    servers: [ ", i);
        for (uint32_t j = 0; j < world.hops[i].servers; j++)
            text_format(yaml, "%s\"127.0.0.2:%u\"", j > 0 ? ", " : "", HOP_PORT + 10 * i + j);
        text_format(yaml, " ]\n    tls: %s\n%s    balance: %s\n", tls,
                    world.tls ? "    tls_name: edge.example\n" : "",
                    sim_chance(&world.random, 5000) ? "order" : "share");
        text_format(yaml, "    connections: %llu\n    idle_timeout: %llus\n"
                    "    messages_per_connection: %llu\n    chunking: %s\n",
                    (unsigned long long)ONE_OF(1, 2, 4, 8), (unsigned long long)ONE_OF(1, 5, 30),
                    (unsigned long long)ONE_OF(1, 2, 5, 1000),
                    world.hops[i].by_data ? "false" : "true");
    }
    text_format(yaml, "route:\n  senders.example: hop%u\n",
                (unsigned)sim_below(&world.random, world.hop_count));
    for (uint32_t i = 0; i < world.hop_count; i++)
        text_format(yaml, "  h%u.example: hop%u\n", i, i);
}

static void
limits_write(struct text *yaml)
{
    world.message_size = ONE_OF(65536, 65536, 131072, 262144);
    world.text_line = ONE_OF(998, 2000, 65536);
    world.connections = (uint32_t)ONE_OF(2, 5, 20, 60);
    text_format(yaml, "limits:\n  message_size: %llub\n  text_line: %llub\n  connections: %u\n"
                "  receive_memory: 4mb\n  transactions: %llu\n",
                (unsigned long long)world.message_size, (unsigned long long)world.text_line,
                world.connections, (unsigned long long)ONE_OF(2, 10, 10000));
}

static void
timeouts_write(struct text *yaml)
{
    world.data_end_ms = ONE_OF(10000, 60000, 600000);
    text_format(yaml, "timeouts:\n  command: %llus\n  data: %llus\n  data_end: %llums\n",
                (unsigned long long)ONE_OF(30, 300), (unsigned long long)ONE_OF(30, 300),
                (unsigned long long)world.data_end_ms);
    text_format(yaml, "  greeting: %llus\n  mail: %llus\n  rcpt: %llus\n  drain: %llus\n",
                (unsigned long long)ONE_OF(5, 300), (unsigned long long)ONE_OF(5, 300),
                (unsigned long long)ONE_OF(5, 300), (unsigned long long)ONE_OF(1, 30, 300));
    text_format(yaml, "  server_retry: %llus\n  server_retry_max: %llus\n",
                (unsigned long long)ONE_OF(1, 5), (unsigned long long)ONE_OF(5, 120));
}

static void
config_write(struct text *yaml)
{
    static const char *const retries[] = { "1s", "5s, 10s, 60s", "1min, 5min, 15min" };
    static const uint64_t retry_ms[] = { 1000, 60000, 900000 };
    uint64_t retry = sim_below(&world.random, 3);

    world.cut_through = sim_chance(&world.random, 7000);
    world.on_defer_spool = sim_chance(&world.random, 7500);
    world.stores = !world.cut_through || world.on_defer_spool;
    world.patience_ms = ONE_OF(100, 2000, 20000);
    world.retry_ms = retry_ms[retry];
    /* No interval may be longer than that. */
    world.expire_ms = retry == 2 ? ONE_OF(900000, 3600000, 432000000)
                                 : ONE_OF(60000, 3600000, 432000000, 432000000);
    text_format(yaml, "hostname: edge.example\nworkers: 1\n"
                "listen: { smtp: { address: \"127.0.0.1:%u\", tls: %s } }\n%s"
                "accept: { networks: [ \"127.0.0.0/8\" ] }\n", CLIENT_PORT,
                world.implicit ? "implicit" : world.tls ? "starttls" : "none",
                world.tls ? "tls: { certificate: cert.pem, key: key.pem }\n" : "");
    hops_write(yaml);
    text_format(yaml, "delivery:\n  mode: %s\n  on_defer: %s\n  patience: %llums\n"
                "  buffer: %llub\n  recipient_check: %s\n",
                world.cut_through ? "cut-through" : "spool",
                world.on_defer_spool ? "spool" : "pass", (unsigned long long)world.patience_ms,
                (unsigned long long)ONE_OF(16384, 16384, 65536),
                sim_chance(&world.random, 2500) ? "next_hop" : "none");
    if (world.stores)
        text_format(yaml, "spool:\n  directory: spool\n  retry: [ %s ]\n  expire: %llums\n"
                    "  messages: 1000\n  segment: 1mb\n  minimum_free: %u\n",
                    retries[retry], (unsigned long long)world.expire_ms,
                    sim_chance(&world.random, 5000) ? 0 : 100000);
    limits_write(yaml);
    timeouts_write(yaml);
}

void
world_draw(void)
{
    struct config_errors errors = { 0 };

    world.hostile = sim_chance(&world.random, 4000);
    world.any_cuts = sim_chance(&world.random, 6000);
    world.any_jumps = sim_chance(&world.random, 3000);
    world.tls = sim_chance(&world.random, 4500);
    world.implicit = world.tls && sim_chance(&world.random, 3000);
    world.hop_count = (uint32_t)sim_between(&world.random, 1, HOPS_MAX);
    for (uint32_t i = 0; i < world.hop_count; i++)
        hop_draw(i);
    faults_draw();
    config_write(&world.yaml);
    world.config = config_parse(world.yaml.data, world.yaml.len, "sim.yaml", "", NULL, &errors);
    if (world.verbose || world.config == NULL)
        fprintf(stderr, "%.*s", (int)world.yaml.len, world.yaml.data);
    if (world.config == NULL) {
        config_errors_print(&errors, stderr);
        world_fail(ENDING_ASSERTION, NULL, "what is drawn is no configuration");
    }
}
