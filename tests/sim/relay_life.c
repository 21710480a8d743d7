/* The relay: started, run in turns of its workers in seeded order, stopped, cut off. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "relay/courier.h"
#include "relay/relay.h"
#include "tests/sim/relay_world.h"
#include "tests/sim/sim_relay.h"

/* Turns of all workers in one simulated second, or at one moment: who needs more turns for nothing
 * (A7). */
#define TURNS_PER_SECOND_MAX 60000
#define TURNS_AT_ONCE_MAX 20000
#define DRAIN_NS_MAX (3600 * NS_PER_S)

static struct relay relay;
static struct io *outside; /* posts what the main thread posts */
static bool active[WORKERS_DRAWN_MAX];
static bool draining;
static uint64_t turns_at, turns;

static uint32_t
active_count(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; world.relay != NULL && i < world.worker_count; i++)
        count += active[i];
    return count;
}

static void
worker_turn(uint32_t index)
{
    if (sim_now_ns() >= turns_at + NS_PER_S || sim_now_ns() < turns_at) {
        turns_at = sim_now_ns();
        turns = 0;
    }
    if (++turns > TURNS_PER_SECOND_MAX)
        world_fail(ENDING_LIVENESS, NULL, "A7: worker %u turns for nothing", index);
    world.steps++;
    if (!worker_step(&relay.workers[index]))
        active[index] = false;
    audit_marks(&relay.workers[index]);
}

/* One that has something to do, by chance. False: none. */
static bool
turn_any(void)
{
    uint32_t ready[WORKERS_DRAWN_MAX], count = 0;

    for (uint32_t i = 0; world.relay != NULL && i < world.worker_count; i++)
        if (active[i] && sim_io_ready(relay.workers[i].io))
            ready[count++] = i;
    if (count == 0)
        return false;
    worker_turn(ready[sim_below(&world.random, count)]);
    return true;
}

static uint64_t
next_ns(void)
{
    uint64_t next = sim_next_ns(), wakes;

    for (uint32_t i = 0; world.relay != NULL && i < world.worker_count; i++) {
        if (!active[i])
            continue;
        wakes = sim_io_wakes_ns(relay.workers[i].io);
        if (wakes < next)
            next = wakes;
    }
    return next;
}

static void
cut_if_wanted(void)
{
    if (!world.cut_wanted)
        return;
    world.cut_wanted = false;
    if (world.relay == NULL || world.ending)
        return;
    longjmp(world.power, 2);
}

/* To the next thing that happens, at most so far. */
static void
advance(uint64_t until_ns)
{
    uint64_t next = next_ns();

    if (next > until_ns)
        next = until_ns;
    if (next > sim_now_ns())
        sim_advance(next);
    else
        sim_advance(sim_now_ns());
    cut_if_wanted();
}

void
life_run(uint64_t until_ns)
{
    uint64_t still = 0, at = sim_now_ns();

    while (sim_now_ns() < until_ns) {
        if (sim_now_ns() != at) {
            at = sim_now_ns();
            still = 0;
        }
        if (++still > 10 * TURNS_AT_ONCE_MAX)
            world_fail(ENDING_LIVENESS, NULL, "A7: time stands still");
        cut_if_wanted();
        if (turn_any())
            continue;
        /* Who is drained says so only when asked. */
        for (uint32_t i = 0; draining && world.relay != NULL && i < world.worker_count; i++)
            if (active[i])
                worker_turn(i);
        if (draining && active_count() == 0)
            return;
        advance(until_ns);
    }
}

/* --- start --- */

static bool
start(uint32_t workers, char error[RELAY_ERROR_BYTES])
{
    static const struct io_options small = { .entries = 64, .completions = 128 };
    const uint64_t key[2] = { world.seed, world.life };

    if (!relay_create(&relay, world.config, workers, key, error))
        return false;
    if (!relay_spool_open(&relay, error) || !relay_listen(&relay, error))
        return false;
    for (uint32_t i = 0; i < workers; i++)
        if (!worker_start(&relay.workers[i], error))
            return false;
    outside = io_create(&small, error);
    return outside != NULL;
}

bool
life_begin(uint32_t workers)
{
    char error[RELAY_ERROR_BYTES] = "";

    world.life++;
    ASSERT(world.life < LIVES_MAX);
    world.totals.lives++;
    world.worker_count = workers;
    draining = false;
    if (!start(workers, error)) {
        world_say("world", "the relay does not start: %s", error);
        relay_destroy(&relay);
        sim_process_ends();
        return false;
    }
    world.relay = &relay;
    for (uint32_t i = 0; i < workers; i++) {
        active[i] = true;
        worker_begin(&relay.workers[i]);
        worker_turn(i);
    }
    world_say("world", "life %llu: %u workers", (unsigned long long)world.life, workers);
    return true;
}

/* --- end --- */

void
life_drain(void)
{
    bool clean = true, marks_lost = false;

    world_say("world", "the relay is told to stop");
    for (uint32_t i = 0; i < world.worker_count; i++)
        io_post(outside, relay.workers[i].io, (struct io_ticket){ .kind = WORKER_DRAIN }, 0);
    io_wait(outside, 0);
    draining = true;
    life_run(sim_now_ns() + DRAIN_NS_MAX);
    if (active_count() > 0)
        world_fail(ENDING_LIVENESS, NULL, "A7: a worker does not stop");
    audit_life_end();
    for (uint32_t i = 0; i < world.worker_count; i++)
        clean = clean && (!world.stores || relay.workers[i].stopped_clean) &&
                !relay.workers[i].drain_ending;
    for (uint32_t i = 0; i < world.worker_count; i++)
        marks_lost = marks_lost || relay.workers[i].marks_lost;
    if (marks_lost && !world.any_disk_faults)
        world_fail(ENDING_AUDIT, NULL, "A4: marks are lost, and the disk did not fail");
    if (!clean || marks_lost)
        world.unclean_ns[world.life] = sim_now_ns();
    io_destroy(outside);
    world.relay = NULL;
    relay_destroy(&relay);
    if (clean && sim_memory_bytes() != 0)
        world_fail(ENDING_AUDIT, NULL, "A5: %llu octets are not given back",
                   (unsigned long long)sim_memory_bytes());
    sim_process_ends();
    world_say("world", "the relay has stopped %s", clean ? "in order" : "without order");
}

/* After a power cut: what memory held is gone, but what the C library gave out. */
void
life_abandon(void)
{
    world.relay = NULL;
    world.unclean_ns[world.life] = sim_now_ns();
    sim_relay_lost(&relay);
}

void
life_restore(void)
{
    static const char suffix[] = ".seg.damaged";
    char name[256];

    for (uint32_t i = 0; i < sim_file_count();) {
        size_t len = strlen(sim_file_name(i));

        ASSERT(len < sizeof(name));
        strcpy(name, sim_file_name(i));
        if (len < sizeof(suffix) || strcmp(name + len - strlen(suffix), suffix) != 0) {
            i++;
            continue;
        }
        name[len - strlen(".damaged")] = '\0';
        world_say("world", "%s is put back", name);
        sim_file_rename(i, name);
    }
}

void
life_release(void)
{
    for (uint32_t i = 0; i < world.worker_count; i++) {
        struct courier *courier = relay.workers[i].courier;

        for (uint32_t j = 0; courier != NULL && j < courier->queue.entries.touched; j++) {
            struct queue_entry *entry = queue_at(&courier->queue, j);

            if (entry != NULL && entry->state == QUEUE_HELD)
                courier_hold(courier, entry, false);
        }
    }
}

bool
life_quiet(void)
{
    for (uint32_t i = 0; i < world.worker_count; i++) {
        const struct worker *worker = &relay.workers[i];

        if (worker->sessions.used > 0 || worker->transactions.used > 0)
            return false;
        if (worker->courier == NULL)
            continue;
        if (!worker->courier->recovered)
            return false;
        for (int state = 0; state < QUEUE_STATES; state++)
            if (worker->courier->queue.counts.messages[state] > 0)
                return false;
    }
    return true;
}
