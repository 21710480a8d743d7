/* Short histories, cut at every operation; and for each cut every fate of what was last under way.
 */
#include <stdlib.h>

#include "tests/sim/spool_world.h"

#define DEPTH_MAX 8

/* --- the ledger, as it was at the cut --- */

struct ledger {
    struct message *messages;
    uint32_t count;
};

static void *
octets_keep(const void *octets, size_t bytes)
{
    void *copy = malloc(bytes > 0 ? bytes : 1);

    ASSERT(copy != NULL);
    if (bytes > 0)
        memcpy(copy, octets, bytes);
    return copy;
}

static void
message_copy(struct message *to, const struct message *from)
{
    *to = *from;
    to->base = octets_keep(from->base, from->recipients * sizeof(struct mark));
    to->marks = octets_keep(from->marks, from->recipients * sizeof(struct mark));
    to->notes = octets_keep(from->notes, from->note_count * sizeof(struct mark_note));
    to->notes_max = from->note_count;
}

static void
message_parts_free(struct message *message)
{
    free(message->base);
    free(message->marks);
    free(message->notes);
}

static void
ledger_take(struct ledger *ledger, const struct world *world)
{
    ledger->count = world->message_count;
    ledger->messages = calloc(world->message_count + 1, sizeof(*ledger->messages));
    ASSERT(ledger->messages != NULL);
    for (uint32_t i = 0; i < world->message_count; i++)
        message_copy(&ledger->messages[i], world->messages[i]);
}

static void
ledger_restore(const struct ledger *ledger, struct world *world)
{
    ASSERT(world->message_count == ledger->count);
    for (uint32_t i = 0; i < ledger->count; i++) {
        message_parts_free(world->messages[i]);
        message_copy(world->messages[i], &ledger->messages[i]);
    }
}

static void
ledger_free(struct ledger *ledger)
{
    for (uint32_t i = 0; i < ledger->count; i++)
        message_parts_free(&ledger->messages[i]);
    free(ledger->messages);
}

/* --- fates --- */

struct fates {
    uint32_t count, depth; /* units, and how many of the last ones are chosen one by one */
    enum sim_fate older, last[DEPTH_MAX];
};

static enum sim_fate
fate_of(void *context, uint32_t unit)
{
    const struct fates *fates = context;

    return unit + fates->depth < fates->count ? fates->older
                                              : fates->last[unit + fates->depth - fates->count];
}

/* False: that were all. */
static bool
fates_next(struct fates *fates)
{
    for (uint32_t i = 0; i < fates->depth; i++) {
        enum sim_fate most = sim_unit_tears(fates->count - fates->depth + i) ? SIM_TORN : SIM_KEPT;

        if (fates->last[i] < most) {
            fates->last[i]++;
            return true;
        }
        fates->last[i] = SIM_LOST;
    }
    if (fates->older == SIM_KEPT || fates->depth == fates->count)
        return false;
    fates->older = SIM_KEPT;
    return true;
}

/* --- histories --- */

static void
history(struct world *world, uint32_t steps)
{
    if (!world_open(world, 1))
        world_fail(world, NULL, "the spool cannot be opened without faults");
    for (uint32_t i = 0; i < steps; i++)
        history_step(world, &mix_prefixes);
    world_stop(world);
}

/* True: the power failed in it. */
static bool
history_cut(struct world *world, const struct sim_options *options, uint32_t steps,
            uint64_t operations)
{
    world_init(world, options->seed);
    sim_start(options);
    sim_power_fails_after(operations, &world->power);
    if (setjmp(world->power) != 0)
        return true;
    history(world, steps);
    return false;
}

static void
image_check(struct world *world)
{
    sim_power_fails_after(UINT64_MAX, NULL);
    world->check_all = true;
    if (!world_open(world, 1 + (uint32_t)(world->life % 2)))
        world_fail(world, NULL, "the spool cannot be opened without faults");
    world_settle(world);
    for (uint32_t i = 0; i < world->message_count; i++)
        if (world->messages[i]->live)
            owner_load(world, world->messages[i]);
    world_settle(world);
    world_stop(world);
}

static uint64_t
images_check(struct world *world, uint64_t seed, uint64_t operations, uint32_t depth)
{
    struct fates fates = { 0 };
    struct ledger ledger;
    struct sim_disk *disk;
    uint64_t images = 0, life;

    world_abandon(world);
    fates.count = sim_power_lost();
    fates.depth = fates.count < depth ? fates.count : depth;
    sim_reseed(seed ^ sim_mix(operations + 1));
    disk = sim_disk_copy();
    ledger_take(&ledger, world);
    life = world->life;
    do {
        sim_power_on(fate_of, &fates);
        image_check(world);
        images++;
        ledger_restore(&ledger, world);
        world->life = life;
        sim_disk_restore(disk);
    } while (fates_next(&fates));
    sim_disk_free(disk);
    ledger_free(&ledger);
    return images;
}

uint64_t
prefixes_run(uint64_t seed, uint32_t steps, uint32_t depth, uint64_t operation_only)
{
    static struct world world;
    const struct sim_options options = { .seed = seed,
                                         .disk_bytes = 64u << 20,
                                         .direct_refused = seed % 3 == 0,
                                         .any_order = seed % 2 == 0 };
    uint64_t images = 0, operations = operation_only == UINT64_MAX ? 0 : operation_only;
    bool cut = true;

    ASSERT(depth <= DEPTH_MAX);
    while (cut) {
        cut = history_cut(&world, &options, steps, operations);
        world.steps = operations; /* for a report: which prefix it was */
        if (cut)
            images += images_check(&world, seed, operations, depth);
        sim_end();
        world_end(&world);
        operations++;
        if (operation_only != UINT64_MAX)
            break;
    }
    return images;
}
