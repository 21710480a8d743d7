/* A history: what one seed draws: configuration, clients, next hops, faults, lives and how each
 * ends; then everything is well, and must come to rest with every promise kept. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "tests/sim/relay_secure.h"

#define DISK_BYTES ((uint64_t)64 << 20)
#define LIVES_DRAWN_MAX 5

struct world world;

/* --- telling --- */

static void
hash_add(const void *data, size_t len)
{
    const unsigned char *octets = data;

    for (size_t i = 0; i < len; i++)
        world.hash = (world.hash ^ octets[i]) * UINT64_C(0x100000001b3);
}

void
world_say(const char *who, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    uint64_t now_ns = sim_now_ns();

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    hash_add(&now_ns, sizeof(now_ns));
    hash_add(text, strlen(text));
    if (world.verbose)
        fprintf(stderr, "%14.6f %s %s\n", (double)now_ns / 1e9, who, text);
}

static void
letter_print(const struct letter *letter)
{
    static const char *const words[] = { "nothing", "yes", "later", "no" };

    fprintf(stderr, "sim: letter %u%s%s%s%s%s, %zu octets, client %s; told %s%s: %s\n",
            letter->number, letter->illegal ? ", illegal" : "", letter->evil ? ", evil" : "",
            letter->loose ? ", loose" : "", letter->chunked ? ", by BDAT" : "",
            letter->null_sender ? ", no sender" : "", letter->bytes,
            letter->complete ? "sent all of it" : "did not send all of it", words[letter->told],
            letter->queued ? " (stored)" : "", letter->reply);
    for (uint32_t i = 0; i < letter->count; i++)
        fprintf(stderr, "sim:   recipient %u at hop%u: told %s; next hop has it %u times%s%s%s\n",
                i, letter->to[i].hop, words[letter->to[i].told], letter->to[i].taken,
                letter->to[i].no ? ", said no" : "", letter->to[i].later ? ", said later" : "",
                letter->to[i].reported ? ", its sender has a report" : "");
    for (const struct delivery *at = letter->deliveries; at != NULL; at = at->next)
        fprintf(stderr, "sim:   taken at %.6f s in life %llu, recipients %llx, reply %s\n",
                (double)at->end_ns / 1e9, (unsigned long long)at->life,
                (unsigned long long)at->recipients,
                at->reply_end == 0 ? "none" : delivery_heard(at) ? "heard" : "not heard");
}

void
world_fail(enum ending ending, const struct letter *letter, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "sim: seed %llu, life %llu, %.6f s: %s\n", (unsigned long long)world.seed,
            (unsigned long long)world.life, (double)sim_now_ns() / 1e9, text);
    if (letter != NULL)
        letter_print(letter);
    fflush(stderr);
    _Exit((int)ending);
}

static void
log_line(void *context, enum log_level level, struct span line)
{
    (void)context, (void)level;
    hash_add(line.data, line.len);
    audit_log(line);
    if (world.verbose)
        fprintf(stderr, "%14.6f relay %.*s", (double)sim_now_ns() / 1e9, (int)line.len, line.data);
}

/* --- faults --- */

static void
faults_set(bool on)
{
    world.faults_on = on;
    sim_faults_set(on ? &world.disk_faults : NULL);
    sim_net_faults_set(on ? &world.net_faults : NULL);
    sim_tls_faults_set(on ? &world.tls_faults : NULL);
    world_say("world", "faults are %s", on ? "on" : "off");
}

/* Somebody else fills the disk for a while. */
static void
disk_weather(void *context)
{
    bool full = context == NULL && !world.ending;

    sim_disk_taken(full ? DISK_BYTES - sim_below(&world.random, 3u << 20) : 0);
    world_say("world", "the disk is %s", full ? "nearly full" : "free again");
    if (!world.ending)
        sim_net_at(sim_now_ns() + sim_between(&world.random, 1, 90) * NS_PER_S, disk_weather,
                   full ? &world : NULL);
}

/* The time of day is set: by seconds, hours, days, either way; in the end it is right again. */
static void
clock_weather(void *context)
{
    static const uint64_t spans[] = { NS_PER_S, 70 * NS_PER_S, 3700 * NS_PER_S, 90000 * NS_PER_S };
    uint64_t now_ns = clock_realtime_ns(), by_ns;

    (void)context;
    if (world.ending)
        return;
    if (now_ns > world.realtime_most_ns)
        world.realtime_most_ns = now_ns;
    by_ns = sim_below(&world.random, spans[sim_below(&world.random, 4)]);
    sim_clock_set(sim_chance(&world.random, 5000) ? now_ns + by_ns : now_ns - by_ns);
    if (clock_realtime_ns() > world.realtime_most_ns)
        world.realtime_most_ns = clock_realtime_ns();
    for (struct letter *letter = world.letters; letter != NULL; letter = letter->next)
        if (clock_realtime_ns() < letter->realtime_least_ns)
            letter->realtime_least_ns = clock_realtime_ns();
    world.totals.jumps++;
    world_say("world", "the clock was %.3f and is %.3f", (double)now_ns / 1e9,
              (double)clock_realtime_ns() / 1e9);
    sim_net_at(sim_now_ns() + sim_between(&world.random, 1, 200) * NS_PER_S, clock_weather, NULL);
}

/* --- lives --- */

static enum sim_fate
lose(void *context, uint32_t unit)
{
    (void)context, (void)unit;
    return SIM_LOST;
}

static void
power_cut(bool all_lost)
{
    world_say("world", "the power fails%s", all_lost ? ", and takes all that is not durable" : "");
    world.totals.cuts++;
    world.cut_wanted = false;
    life_abandon();
    (void)sim_power_lost();
    sim_power_on(all_lost ? lose : NULL, NULL);
    sim_power_fails_after(UINT64_MAX, NULL);
}

static void
begin(uint32_t workers)
{
    for (uint32_t tries = 0; !life_begin(workers); tries++) {
        if (!world.faults_on)
            world_fail(ENDING_LIVENESS, NULL, "A7: the relay does not start without faults");
        if (tries == 2)
            faults_set(false);
    }
}

static uint32_t
workers_draw(void)
{
    return sim_chance(&world.random, 5000)
               ? 1
               : (uint32_t)sim_between(&world.random, 1, WORKERS_DRAWN_MAX);
}

/* One life, to its end: by a power cut, by a stop. */
static void
life(uint64_t until_ns)
{
    struct sim_random *random = &world.random;
    uint64_t operations = UINT64_MAX;
    uint32_t workers = workers_draw();
    int how;

    if (world.any_cuts && sim_chance(random, 6000))
        operations = sim_below(random, sim_chance(random, 3000) ? 60 : 4000);
    sim_power_fails_after(operations, &world.power);
    how = setjmp(world.power);
    if (how != 0) {
        power_cut(how == 2);
        return;
    }
    begin(workers);
    life_run(until_ns);
    life_drain();
    if (world.any_cuts && sim_chance(random, 2000))
        power_cut(false); /* with the process gone in order */
    sim_power_fails_after(UINT64_MAX, NULL);
}

/* Nobody relays: clients are refused, next hops wait. */
static void
pause_between(void)
{
    if (sim_chance(&world.random, 5000))
        life_run(sim_now_ns() + sim_below(&world.random, 40 * NS_PER_S));
}

/* --- the end --- */

/* A7: everything is well, and comes to rest in this time. */
static uint64_t
rest_ns_max(void)
{
    return (world.retry_ms * 2 + world.data_end_ms + 3600 * 1000) * NS_PER_MS;
}

static void
last_lives(void)
{
    uint64_t until_ns;

    world.ending = true;
    faults_set(false);
    sim_disk_taken(0);
    hops_well();
    clients_stop();
    life_restore();
    begin(workers_draw());
    until_ns = sim_now_ns() + rest_ns_max();
    while (!(clients_done() && life_quiet())) {
        if (sim_now_ns() >= until_ns && !clients_done())
            world_fail(ENDING_LIVENESS, NULL, "A7: %s still waits",
                       client_name(client_waiting()));
        if (sim_now_ns() >= until_ns)
            world_fail(ENDING_LIVENESS, NULL, "A7: the queue does not empty");
        life_run(sim_now_ns() + NS_PER_S);
        life_release();
    }
    life_drain();
    audit_end();
    /* What is finished stays finished. */
    if (world.stores && sim_chance(&world.random, 3000)) {
        begin(workers_draw());
        life_run(sim_now_ns() + 100 * NS_PER_S);
        life_drain();
        audit_end();
    }
}

static void
world_free(void)
{
    while (world.letters != NULL) {
        struct letter *letter = world.letters;

        world.letters = letter->next;
        while (letter->deliveries != NULL) {
            struct delivery *delivery = letter->deliveries;

            letter->deliveries = delivery->next;
            free(delivery);
        }
        free(letter->octets);
        free(letter);
    }
    free(world.by_number);
    text_free(&world.yaml);
    config_free(world.config);
}

static void
clients_draw(uint64_t span_ns)
{
    struct sim_random *random = &world.clients_random;
    uint64_t count = sim_between(random, 1, sim_chance(random, 2000) ? 40 : 14);

    for (uint64_t i = 0; i < count; i++)
        client_new(sim_now_ns() + sim_below(random, span_ns),
                   world.hostile && sim_chance(random, 2000) ? CLIENT_HOSTILE : CLIENT_POLITE);
}

uint64_t
world_run(uint64_t seed, struct totals *totals)
{
    struct sim_options options = { .seed = seed, .disk_bytes = DISK_BYTES };
    bool verbose = world.verbose;
    uint64_t lives, span_ns;

    world = (struct world){ .seed = seed, .verbose = verbose, .random = sim_random_of(seed, 20),
                            .clients_random = sim_random_of(seed, 21),
                            .hops_random = sim_random_of(seed, 22),
                            .hash = UINT64_C(0xcbf29ce484222325) };
    world.letters_end = &world.letters;
    world.reads_failed = sim_count(SIM_FAULT_READ);
    options.direct_refused = sim_chance(&world.random, 3000);
    options.allocate_refused = sim_chance(&world.random, 1500);
    options.direct_refused_late = sim_chance(&world.random, 1000);
    options.directory_forgets = sim_chance(&world.random, 2000);
    options.any_order = sim_chance(&world.random, 5000);
    options.garbage = sim_chance(&world.random, 3000);
    sim_start(&options);
    sim_net_start(seed);
    sim_tls_start(seed);
    secure_world_start();
    log_set_sink(log_line, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    world_draw();
    hops_start();
    lives = world.any_cuts ? sim_between(&world.random, 1, LIVES_DRAWN_MAX)
                           : sim_between(&world.random, 1, 2);
    span_ns = sim_between(&world.random, 5, sim_chance(&world.random, 3000) ? 900 : 150) * NS_PER_S;
    clients_draw(span_ns * lives);
    if (world.stores && world.any_disk_faults && sim_chance(&world.random, 3000))
        disk_weather(NULL);
    if (world.any_jumps)
        sim_net_at(sim_now_ns() + sim_between(&world.random, 1, 60) * NS_PER_S, clock_weather,
                   NULL);
    for (uint64_t i = 0; i < lives; i++) {
        faults_set(sim_chance(&world.random, 8000));
        life(sim_now_ns() + sim_between(&world.random, 1, 2 * span_ns / NS_PER_S) * NS_PER_S);
        pause_between();
    }
    last_lives();
    hash_add(&(uint64_t){ sim_trace_hash() }, sizeof(uint64_t));
    world.totals.worlds = 1;
    world.totals.letters = world.letter_count;
    world.totals.hours_ns = sim_now_ns();
    *totals = world.totals;
    hops_free();
    clients_free();
    secure_world_end();
    sim_net_end();
    sim_tls_end();
    sim_end();
    world_free();
    return world.hash;
}
