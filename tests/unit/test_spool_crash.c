/* Crashes at any time, many in a row, with what was not promised torn: each start finds every
 * message that was promised and is not finished, and none twice. */
#include <criterion/criterion.h>

#include "tests/unit/seeded.h"
#include "tests/unit/spool_world.h"

enum { MESSAGES_MAX = 3000 };

enum state {
    ABSENT,
    OFFERED,  /* given to the spool: may be there */
    PROMISED, /* SPOOL_STORED said so: must be there */
    MARKED,   /* finished, but perhaps not on the disk */
};

struct item {
    enum state state;
    bool found; /* at this start */
    struct spool_place place;
};

static struct item items[MESSAGES_MAX];
static uint32_t item_count;
static struct message messages[64];

static void
on_found(struct world *world, const struct spool_event *event)
{
    unsigned long seed;

    (void)world;
    if (event->kind != SPOOL_FOUND)
        return;
    seed = strtoul(event->record->id + 2, NULL, 16);
    cr_assert(seed < item_count, "%s", event->record->id);
    cr_assert_neq(items[seed].state, ABSENT);
    cr_assert_not(items[seed].found, "%s came twice", event->record->id);
    items[seed].found = true;
    items[seed].place = event->place;
}

static void
finish(struct world *world, struct item *item, uint32_t seed)
{
    const struct mark delivered = { .state = MARK_DELIVERED };
    char id[16] = "";

    (void)snprintf(id, sizeof(id), "ID%08X", seed);
    for (uint32_t i = 0; i < 1 + seed % 3; i++)
        spool_mark_set(world->spool, &item->place, i, delivered);
    spool_forget(world->spool, &item->place, id, false);
    item->state = MARKED;
}

/* Some messages at once; all of them are waited for, or none. */
static void
offer(struct world *world, struct seeded *seeded, bool wait)
{
    uint32_t count = 1 + (uint32_t)seeded_below(seeded, COUNT_OF(messages) / 2);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t seed = item_count++;

        items[seed].state = OFFERED;
        message_make(world, &messages[i], seed, 1 + seed % 3, seeded_scale(seeded, 14));
        spool_store(world->spool, &messages[i].store);
    }
    if (wait)
        WORLD_UNTIL(world, messages[count - 1].stored);
    else
        world_turn(world, 0);
    for (uint32_t i = 0; i < count; i++) {
        struct item *item = &items[item_count - count + i];

        if (messages[i].stored && messages[i].store.error == 0) {
            item->state = PROMISED;
            item->place = messages[i].store.place;
        }
    }
    if (wait)
        for (uint32_t i = 0; i < count; i++)
            message_free(world, &messages[i]);
}

/* Behind what was promised anything may stand: parts of what was being written, or nothing. */
static void
tear(const struct world *world, struct seeded *seeded, const char *name, uint64_t promised)
{
    int file = openat(world->directory.directory, name, O_WRONLY);
    uint64_t at = promised + seeded_below(seeded, 64 * 1024);
    char octets[512];

    cr_assert(file >= 0, "%s", name);
    for (size_t i = 0; i < sizeof(octets); i++)
        octets[i] = (char)(seeded_below(seeded, 2) == 0 ? 0 : seeded_next(seeded));
    for (unsigned i = 0; i < 4; i++, at += seeded_below(seeded, 8192)) {
        at -= at % sizeof(octets);
        if (at >= promised && at + sizeof(octets) <= WORLD_SEGMENT_BYTES)
            cr_assert_eq(pwrite(file, octets, sizeof(octets), (off_t)at), sizeof(octets));
    }
    close(file);
}

static void
crash(struct world *world, struct seeded *seeded)
{
    char name[SPOOL_NAME_BYTES];
    uint64_t promised;

    if (world->spool->active == NULL) {
        world_crash(world);
        return;
    }
    spool_segment_name(world->spool->active->number, name);
    /* With what is in flight, which world_crash() lets arrive, and tells nobody. */
    promised = world->spool->active->promised;
    if (seeded_below(seeded, 2) == 0) {
        struct io_completion completion;

        while (world->spool->operations.used > 0) {
            io_wait(world->io, NS_PER_S);
            while (io_next(world->io, &completion))
                spool_complete(world->spool, &completion);
        }
        tear(world, seeded, name, promised);
    }
    world_crash(world);
}

static void
start_and_compare(struct world *world, unsigned round)
{
    for (uint32_t i = 0; i < item_count; i++)
        items[i].found = false;
    world_start(world);
    world->on_event = on_found;
    WORLD_UNTIL(world, recovery_over(world->spool) && world->recovered == 1);
    world->on_event = NULL;
    for (uint32_t i = 0; i < item_count; i++) {
        struct item *item = &items[i];

        cr_assert(item->state != PROMISED || item->found, "round %u: message %u is lost", round, i);
        /* What was not promised may be there all the same, and counts then. */
        item->state = item->found ? PROMISED : ABSENT;
    }
}

Test(spool_crash, promises_are_kept, .timeout = 120)
{
    struct seeded seeded = { .state = 15 };
    struct world world;

    world_open(&world, "/tmp");
    for (unsigned round = 0; round < 40; round++) {
        uint64_t batches = 1 + seeded_below(&seeded, 4);
        bool stop = seeded_below(&seeded, 4) == 0, last_open;
        uint32_t before;

        for (; batches > 0 && item_count + 128 < MESSAGES_MAX; batches--)
            offer(&world, &seeded, true);
        for (uint32_t i = 0; i < item_count; i++)
            if (items[i].state == PROMISED && seeded_below(&seeded, 3) == 0)
                finish(&world, &items[i], i);
        for (uint64_t turns = seeded_below(&seeded, 4); turns > 0; turns--)
            world_turn(&world, 0);
        before = item_count;
        last_open = !stop && item_count + 128 < MESSAGES_MAX;
        if (last_open)
            offer(&world, &seeded, false);
        if (stop)
            world_stop(&world);
        else
            crash(&world, &seeded);
        for (uint32_t i = 0; last_open && i < item_count - before; i++)
            message_free(&world, &messages[i]);
        start_and_compare(&world, round);
    }
    cr_assert_gt(item_count, 500);
    world_close(&world);
}
