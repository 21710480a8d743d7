/* Histories: several lives of a spool, each drawn from the seed, with what owners do, what the disk
 * does, and how each life ends; at the end all that is due must be there. */
#include "core/clock.h"
#include "tests/sim/spool_world.h"

#define LIVES_MAX 6
#define DISK_BYTES ((uint64_t)64 << 20)

/* --- steps --- */

static struct message *
message_draw(struct world *world)
{
    struct message *message;

    if (world->message_count == 0)
        return NULL;
    /* The later ones more often: of the earlier ones most are gone. */
    for (int tries = 0; tries < 12; tries++) {
        uint64_t back = sim_below(&world->random, sim_between(&world->random, 1,
                                                              world->message_count));

        message = world->messages[world->message_count - 1 - back];
        if (message->live && !message->forgotten && message->activity == ACTIVITY_NONE)
            return message;
    }
    return NULL;
}

static struct mark
mark_draw(struct world *world, bool final)
{
    static const uint8_t states[] = { MARK_DELIVERED, MARK_DELIVERED, MARK_FAILED, MARK_REMOVED };
    struct sim_random *random = &world->random;

    return (struct mark){ .state = final ? states[sim_below(random, 4)] : MARK_PENDING,
                          .flags = (uint8_t)sim_below(random, 4),
                          .attempts = (uint8_t)sim_below(random, 256),
                          .due_s = (uint32_t)sim_next(random) };
}

static void
step_mark(struct world *world)
{
    struct message *message = message_draw(world);
    uint64_t count;

    if (message == NULL || message_finished(message))
        return;
    count = sim_between(&world->random, 1, 3);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t recipient = (uint32_t)sim_below(&world->random, message->recipients);

        if (!mark_is_final(message->marks[recipient]))
            owner_mark(world, message, recipient,
                       mark_draw(world, sim_chance(&world->random, 4000)));
    }
    if (message_finished(message) && !message->moving)
        owner_forget(world, message);
}

/* In many segments at once: to be durable with the stop that follows. */
static void
mark_all(struct world *world)
{
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (message->live && !message->forgotten && !mark_is_final(message->marks[0]))
            owner_mark(world, message, 0, mark_draw(world, false));
    }
}

static void
step_finish(struct world *world)
{
    struct message *message = message_draw(world);

    if (message == NULL || message->moving)
        return;
    for (uint32_t i = 0; i < message->recipients; i++)
        if (!mark_is_final(message->marks[i]))
            owner_mark(world, message, i, mark_draw(world, true));
    owner_forget(world, message);
}

static void
step_load(struct world *world)
{
    struct message *message = message_draw(world);
    const struct worker *worker;

    if (message == NULL)
        return;
    worker = &world->workers[message->worker];
    if (!worker->cleaning || message->place.segment != worker->clean_segment)
        owner_load(world, message);
}

/* The disk fills up by what others write, or is free again. */
static void
step_disk(struct world *world)
{
    sim_disk_taken(sim_chance(&world->random, 5000)
                       ? 0
                       : sim_below(&world->random, 70u * 1024 * 1024));
}

/* At rest, with room on the disk. */
static void
step_settle(struct world *world)
{
    bool on = world->faults_on;

    sim_disk_taken(0);
    sim_disk_bytes(DISK_BYTES);
    world_settle(world);
    world_faults(world, on);
}

static const struct mix mixes[] = {
    { .stores = 180, .marks = 220, .finishes = 120, .loads = 80, .passes = 130, .pauses = 10,
      .settles = 3 },
    /* segments fill up */
    { .stores = 330, .marks = 70, .finishes = 120, .loads = 80, .passes = 130, .pauses = 10,
      .settles = 2 },
    /* little is left in many segments, and is moved */
    { .stores = 240, .marks = 100, .finishes = 220, .loads = 30, .passes = 100, .pauses = 40,
      .settles = 10 },
    /* marks, mostly */
    { .stores = 60, .marks = 500, .finishes = 20, .loads = 20, .passes = 200, .pauses = 20,
      .settles = 10 },
};
const struct mix mix_prefixes = { .stores = 300, .marks = 100, .finishes = 120, .loads = 80,
                                  .passes = 140, .pauses = 10 };

void
history_step(struct world *world, const struct mix *mix)
{
    struct worker *worker = &world->workers[sim_below(&world->random, world->worker_count)];
    int64_t kind = (int64_t)sim_below(&world->random, 1000);

    world->steps++;
    if ((kind -= mix->stores) < 0)
        owner_store(world, worker, sim_chance(&world->random, 1200));
    else if ((kind -= mix->marks) < 0)
        step_mark(world);
    else if ((kind -= mix->finishes) < 0)
        step_finish(world);
    else if ((kind -= mix->loads) < 0)
        step_load(world);
    else if ((kind -= mix->passes) < 0)
        world_pass(world, NS_PER_MS);
    else if ((kind -= mix->pauses) < 0)
        world_pass(world, NS_PER_S);
    else if ((kind -= mix->settles) < 0)
        step_settle(world);
    else if (kind < 2 && world->full_disks && mix != &mix_prefixes)
        step_disk(world);
    else
        world_turn(world, worker);
}

static bool
is_unread(const struct world *world, const struct message *message)
{
    const struct worker *worker = &world->workers[message->worker];

    return message->live && !message->forgotten && !message->audited &&
           message->activity == ACTIVITY_NONE &&
           !(worker->cleaning && message->place.segment == worker->clean_segment);
}

static bool
none_unread(const struct world *world)
{
    for (uint32_t i = 0; i < world->message_count; i++) {
        const struct message *message = world->messages[i];

        if (message->live && !message->forgotten && !message->audited && !message->spoiled)
            return false;
    }
    return true;
}

/* Every message that is known is read back and compared. */
static void
load_all(struct world *world)
{
    /* A few at a time: buffers and open bodies are few. */
    for (uint32_t rounds = 0; rounds < 1000; rounds++) {
        uint32_t asked = 0;

        for (uint32_t i = 0; i < world->message_count && asked < 4; i++) {
            if (!is_unread(world, world->messages[i]))
                continue;
            owner_load(world, world->messages[i]);
            asked++;
        }
        if (asked == 0 && none_unread(world))
            break;
        world_pass(world, NS_PER_S);
        for (uint32_t i = 0; i < 1000 && asked > 0 && owner_busy(world); i++)
            world_pass(world, NS_PER_S);
    }
    world_settle(world);
    for (uint32_t i = 0; i < world->message_count; i++) {
        const struct message *message = world->messages[i];

        if (message->live && !message->forgotten && !message->audited && !message->spoiled)
            world_fail(world, message, "cannot be read back without faults");
    }
}

/* --- what is drawn for all lives --- */

static uint32_t
chance_draw(struct sim_random *random, uint32_t most)
{
    return sim_chance(random, 5000)
               ? (uint32_t)sim_between(random, 1, sim_chance(random, 3000) ? 5 * most : most)
               : 0;
}

static void
world_draw(struct world *world, struct sim_options *options)
{
    struct sim_random *random = &world->random;
    uint64_t kind = sim_below(random, 10);
    uint32_t most = sim_chance(random, 2500) ? 1000 : 200;

    *options = (struct sim_options){
        .seed = world->seed,
        .disk_bytes = sim_chance(random, 1500) ? sim_between(random, 3, 10) << 20 : DISK_BYTES,
        .direct_refused = kind < 3,
        .direct_refused_late = kind == 3,
        .allocate_refused = sim_chance(random, 1500),
        .any_order = sim_chance(random, 5000),
        .garbage = sim_chance(random, 3000),
    };
    if (sim_chance(random, 6000))
        world->faults = (struct sim_faults){ .open = chance_draw(random, most),
                                             .write = chance_draw(random, most),
                                             .write_short = chance_draw(random, most),
                                             .sync = chance_draw(random, most),
                                             .allocate = chance_draw(random, most),
                                             .read = chance_draw(random, most),
                                             .read_short = chance_draw(random, most),
                                             .rename = chance_draw(random, most),
                                             .unlink = chance_draw(random, most),
                                             .again = chance_draw(random, most),
                                             .shortage = chance_draw(random, most),
                                             .no_space = chance_draw(random, most),
                                             .directory_sync = chance_draw(random, most) };
    /* All that is promised hangs on syncs, and they fail. */
    if (sim_chance(random, 1000)) {
        options->direct_refused = true;
        options->direct_refused_late = false;
        world->faults = (struct sim_faults){ .sync = (uint32_t)sim_between(random, 300, 3000) };
    }
    world->faults.slow = chance_draw(random, 200);
    /* The spool finds out with the first segment that it makes; one that cannot be made then is
     * the one case in which it does not. */
    if (options->direct_refused_late) {
        world->faults = (struct sim_faults){ .read = world->faults.read,
                                             .read_short = world->faults.read_short,
                                             .slow = world->faults.slow };
        options->disk_bytes = DISK_BYTES;
    }
    world->full_disks = !options->direct_refused_late;
    world->bad_reads = sim_chance(random, 800);
    world->config.spool.minimum_free = sim_chance(random, 5000) ? 0 : 100000;
}

/* --- lives --- */

enum end { END_STOP, END_POWER };

/* A start that a fault refused is tried again, at last without faults. */
static void
life_begin(struct world *world, uint32_t workers)
{
    for (uint32_t tries = 0; !world_open(world, workers); tries++) {
        if (!world->faults_on)
            world_fail(world, NULL, "the spool cannot be opened without faults");
        if (tries == 3)
            world_faults(world, false);
    }
}

static enum end
life_run(struct world *world)
{
    struct sim_random *random = &world->random;
    uint64_t steps = sim_between(random, 20, sim_chance(random, 3000) ? 900 : 250);
    uint32_t workers = (uint32_t)sim_between(random, 1, WORLD_WORKERS_MAX);
    uint64_t operations = sim_chance(random, 2500)
                              ? UINT64_MAX
                              : sim_between(random, 0, sim_chance(random, 3000) ? 80 : 1500);
    const struct mix *mix = &mixes[sim_below(random, sizeof(mixes) / sizeof(mixes[0]))];

    world->moment = sim_chance(random, 5000) ? (enum moment)sim_below(random, MOMENTS)
                                             : MOMENT_NONE;
    sim_power_fails_after(operations, &world->power);
    if (setjmp(world->power) != 0)
        return END_POWER;
    world_faults(world, sim_chance(random, 7000));
    life_begin(world, workers);
    for (uint64_t i = 0; i < steps; i++)
        history_step(world, mix);
    if (sim_chance(random, 4000))
        mark_all(world);
    world_faults(world, world->faults_on && sim_chance(random, 3000));
    world_stop(world);
    world->moment = MOMENT_NONE;
    sim_power_fails_after(UINT64_MAX, NULL);
    return END_STOP;
}

static void
power_cut(struct world *world)
{
    world->cut = true;
    world->moment = MOMENT_NONE;
    world_abandon(world);
    (void)sim_power_lost();
    sim_power_on(NULL, NULL);
}

/* All that is due is there; then all of it is finished, and nothing is left. */
static void
last_lives(struct world *world)
{
    sim_power_fails_after(UINT64_MAX, NULL);
    sim_disk_taken(0);
    sim_disk_bytes(DISK_BYTES);
    world->bad_reads = false;
    world_faults(world, false);
    life_begin(world, (uint32_t)sim_between(&world->random, 1, WORLD_WORKERS_MAX));
    world_settle(world);
    load_all(world);
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        while (message->moving)
            world_pass(world, NS_PER_S);
        if (!message->live || message->forgotten)
            continue;
        for (uint32_t j = 0; j < message->recipients; j++)
            if (!mark_is_final(message->marks[j]))
                owner_mark(world, message, j, mark_draw(world, true));
        owner_forget(world, message);
    }
    world_settle(world);
    world_stop(world);
    if (!world->relaxed)
        audit_directory(world);
    life_begin(world, (uint32_t)sim_between(&world->random, 1, WORLD_WORKERS_MAX));
    world_settle(world);
    world_stop(world);
    if (!world->relaxed)
        audit_directory(world);
}

uint64_t
history_run(uint64_t seed, bool directory_forgets, struct history_totals *totals)
{
    static struct world world;
    struct sim_options options;
    uint64_t lives, hash;

    world_init(&world, seed);
    world_draw(&world, &options);
    options.directory_forgets = directory_forgets;
    sim_start(&options);
    lives = sim_between(&world.random, 1, LIVES_MAX);
    for (uint64_t i = 0; i < lives; i++) {
        if (life_run(&world) == END_POWER)
            power_cut(&world);
        else if (sim_chance(&world.random, 3000))
            power_cut(&world); /* with the process gone in order */
        if (i + 1 == lives && sim_chance(&world.random, 1500))
            rot(&world, &world.random);
    }
    last_lives(&world);
    totals->lives += world.lives;
    totals->stored += world.stored;
    totals->found += world.found;
    totals->finished += world.finished;
    totals->moves += world.moves;
    totals->cleans += world.cleans;
    totals->loads += world.loads;
    hash = sim_trace_hash();
    sim_end();
    world_end(&world);
    return hash;
}
