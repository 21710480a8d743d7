/* The life of a relay on the simulated machine: start, turns of its workers in drawn order, end. */
#include "tests/sim/net_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "tests/sim/sim_relay.h"

/* Turns in a row in which no operation begins or ends. */
#define SPINS_MAX 5000
#define DRAIN_NS_MAX (300 * NS_PER_S)

static const char configuration[] = "hostname: relay.example.com\n"
                                    "listen: { smtp: { address: \"127.0.0.1:25\", tls: %s } }\n"
                                    "%s"
                                    "accept: { domains: [ example.com ] }\n"
                                    "next_hop: { hop: { servers: [ \"127.0.0.2:2525\" ], "
                                    "tls: %s } }\n"
                                    "route: { \"*\": hop }\n"
                                    "limits: { connections: 40, connections_per_client: 40, "
                                    "receive_memory: 4mb, message_size: 256kb }\n"
                                    "%s";

void
world_fail(const struct net_world *world, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "sim-net: %s, seed %llu, %.6f s: ", world->scenario,
            (unsigned long long)world->seed, (double)sim_now_ns() / 1e9);
    (void)vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    for (const struct peer *peer = world->peers; peer != NULL; peer = peer->next)
        fprintf(stderr, "sim-net:   %s at step %u (%s)%s%s%s\n",
                peer->server ? "next hop" : "client", peer->at,
                peer->steps[peer->at] == NULL ? "end" : peer->steps[peer->at],
                peer->failed ? ", failed" : "", peer->broken ? ", broken" : "",
                peer->ended ? ", ended" : "");
    abort();
}

void
world_begin(struct net_world *world, const char *scenario, uint64_t seed)
{
    const struct sim_options options = { .seed = seed, .disk_bytes = 64u << 20 };
    struct tls_error error;

    *world =
        (struct net_world){ .scenario = scenario, .seed = seed, .random = sim_random_of(seed, 10) };
    sim_start(&options);
    sim_net_start(seed);
    sim_tls_start(seed);
    world->tls_server = tls_server_context_create(
        &(struct tls_certificate_files){ "hop.pem", "hop.pem" }, 1, NULL, &error);
    world->tls_client = tls_client_context_create(NULL, &error);
    sim_net_listen(HOP_PORT, world_hop_accepted, world);
}

void
world_config(struct net_world *world, unsigned workers, const char *tls, const char *options)
{
    static struct config_errors errors;
    char text[4096];
    bool starttls = strcmp(tls, "none") != 0;
    int len = snprintf(text, sizeof(text), configuration, tls,
                       starttls ? "tls: { certificate: cert.pem, key: key.pem }\n" : "",
                       starttls ? "require" : "none", options);

    ASSERT(len > 0 && (size_t)len < sizeof(text));
    world->config = config_parse(text, (size_t)len, "sim", "", NULL, &errors);
    if (world->config == NULL) {
        config_errors_print(&errors, stderr);
        world_fail(world, "no configuration");
    }
    world->config->workers = workers;
}

void
relay_life_begin(struct net_world *world)
{
    const uint64_t key[2] = { world->seed, 1 };
    char error[RELAY_ERROR_BYTES];

    if (!relay_create(&world->relay, world->config, world->config->workers, key, error) ||
        !relay_spool_open(&world->relay, error) || !relay_listen(&world->relay, error))
        world_fail(world, "%s", error);
    for (uint32_t i = 0; i < world->relay.worker_count; i++) {
        if (!worker_start(&world->relay.workers[i], error))
            world_fail(world, "%s", error);
        worker_begin(&world->relay.workers[i]);
    }
    world->drained = calloc(world->relay.worker_count, sizeof(bool));
    ASSERT(world->drained != NULL);
    world->up = true;
}

/* Those that are ready, from a drawn one on. False: none is. */
static bool
workers_step(struct net_world *world)
{
    uint32_t count = world->relay.worker_count;
    uint32_t from = (uint32_t)sim_below(&world->random, count);
    bool any = false;

    for (uint32_t n = 0; n < count; n++) {
        uint32_t i = (from + n) % count;
        struct worker *worker = &world->relay.workers[i];

        if (world->drained[i] || !sim_io_ready(worker->io))
            continue;
        world->drained[i] = !worker_step(worker);
        world->steps++;
        any = true;
    }
    return any;
}

static uint64_t
next_ns(const struct net_world *world)
{
    uint64_t next = sim_next_ns();

    for (uint32_t i = 0; world->up && i < world->relay.worker_count; i++)
        if (!world->drained[i] && sim_io_wakes_ns(world->relay.workers[i].io) < next)
            next = sim_io_wakes_ns(world->relay.workers[i].io);
    return next;
}

bool
world_run(struct net_world *world, bool (*met)(struct net_world *world), uint64_t for_ns)
{
    uint64_t until = sim_now_ns() + for_ns, hash = 0;
    uint32_t spins = 0;

    for (;;) {
        uint64_t next;

        sim_advance(sim_now_ns());
        if (met != NULL && met(world))
            return true;
        if (world->up && workers_step(world)) {
            spins = sim_trace_hash() == hash ? spins + 1 : 0;
            hash = sim_trace_hash();
            if (spins > SPINS_MAX)
                world_fail(world, "workers turn and turn, and nothing happens");
            continue;
        }
        spins = 0;
        next = next_ns(world);
        if (next > until)
            break;
        sim_advance(next);
    }
    sim_advance(until);
    return met != NULL && met(world);
}

static bool
all_drained(struct net_world *world)
{
    for (uint32_t i = 0; i < world->relay.worker_count; i++)
        if (!world->drained[i])
            return false;
    return true;
}

void
relay_life_end(struct net_world *world)
{
    const struct io_options small = { .entries = 8, .completions = 16 };
    char error[IO_ERROR_BYTES];
    struct io *io = io_create(&small, error);

    for (uint32_t i = 0; i < world->relay.worker_count; i++)
        io_post(io, world->relay.workers[i].io, (struct io_ticket){ .kind = (uint8_t)WORKER_DRAIN },
                0);
    io_wait(io, 0);
    if (!world_run(world, all_drained, DRAIN_NS_MAX))
        world_fail(world, "it does not end");
    io_destroy(io);
    world->up = false;
    relay_destroy(&world->relay);
    sim_process_ends();
    free(world->drained);
    world->drained = NULL;
}

void
relay_life_cut(struct net_world *world)
{
    world->cuts++;
    world->up = false;
    free(world->drained);
    world->drained = NULL;
    sim_power_fails_after(UINT64_MAX, NULL);
    sim_relay_lost(&world->relay);
    sim_power_lost();
    sim_power_on(NULL, NULL);
    relay_life_begin(world);
}

void
world_end(struct net_world *world)
{
    while (world->peers != NULL) {
        struct peer *peer = world->peers;

        world->peers = peer->next;
        tls_free(peer->tls);
        free(peer->input);
        free(peer->cipher);
        free(peer);
    }
    sim_net_end();
    sim_tls_end();
    sim_end();
    config_free(world->config);
}
