/* Reclaim: a segment with little left in it is emptied by its owner; what is moved counts once,
 * whenever the process ends, and what was said of it stays. */
#include "tests/unit/spool_world.h"

enum { COUNT = 240, RECIPIENTS = 3 };

struct reclaim {
    struct world world;
    struct message messages[COUNT];
    struct spool_move moves[COUNT];
    bool live[COUNT];
    struct message *expected[COUNT + 1];
    uint32_t moved;  /* moves that were asked for */
    uint64_t cleans; /* proposals that were answered */
};

/* Segments with many messages, of which every `keep`th lives; the marks of each tell it apart. */
static void
fill(struct reclaim *reclaim, const char *under, uint32_t keep)
{
    struct world *world = &reclaim->world;
    uint64_t bytes;

    world_open(world, under);
    bytes = spool_record_bytes_max(world->spool) / 15;
    for (uint32_t i = 0; i < COUNT; i++) {
        message_store(world, &reclaim->messages[i], i + 1, RECIPIENTS, bytes);
        cr_assert_eq(reclaim->messages[i].store.error, 0);
        spool_mark_set(world->spool, &reclaim->messages[i].store.place, 1,
                       (struct mark){ .attempts = (uint8_t)(i + 1), .due_s = i });
    }
    cr_assert_gt(world->counters->spool_segments, 6);
    for (uint32_t i = 0; i < COUNT; i++) {
        reclaim->live[i] = i % keep == 0;
        if (!reclaim->live[i])
            message_forget(world, &reclaim->messages[i]);
    }
}

static uint32_t
live_count(const struct reclaim *reclaim)
{
    uint32_t live = 0;

    for (uint32_t i = 0; i < COUNT; i++)
        live += reclaim->live[i];
    return live;
}

static bool
is_in(const struct reclaim *reclaim, uint32_t i, uint32_t segment)
{
    return reclaim->live[i] && reclaim->messages[i].store.place.segment == segment;
}

/* Waits for a segment to be proposed and asks for all that lives in it. */
static uint32_t
move_all(struct reclaim *reclaim)
{
    struct world *world = &reclaim->world;
    uint64_t moved = world->moved;
    uint32_t segment;

    WORLD_UNTIL(world, world->cleans > reclaim->cleans);
    reclaim->cleans++;
    segment = world->clean_segment;
    reclaim->moved = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        if (!is_in(reclaim, i, segment))
            continue;
        reclaim->moves[i] = (struct spool_move){ .from = reclaim->messages[i].store.place,
                                                 .owner = &reclaim->messages[i] };
        spool_move(world->spool, &reclaim->moves[i]);
        reclaim->moved++;
    }
    cr_assert_gt(reclaim->moved, 0, "an empty segment goes by itself");
    WORLD_UNTIL(world, world->moved == moved + reclaim->moved);
    for (uint32_t i = 0; i < COUNT; i++)
        if (is_in(reclaim, i, segment))
            cr_assert_eq(reclaim->moves[i].error, 0);
    return segment;
}

static void
finish(struct reclaim *reclaim, uint32_t segment)
{
    spool_clean_finish(reclaim->world.spool, segment, false);
    for (uint32_t i = 0; i < COUNT; i++)
        if (is_in(reclaim, i, segment))
            reclaim->messages[i].store.place = reclaim->moves[i].to;
}

static void
check_all(struct reclaim *reclaim)
{
    for (uint32_t i = 0; i < COUNT; i++) {
        struct mark mark;

        if (!reclaim->live[i])
            continue;
        message_check(&reclaim->world, &reclaim->messages[i]);
        mark = spool_mark(reclaim->world.spool, &reclaim->messages[i].store.place, 1);
        cr_assert_eq(mark.attempts, i + 1);
        cr_assert_eq(mark.due_s, i);
        mark = spool_mark(reclaim->world.spool, &reclaim->messages[i].store.place, 0);
        cr_assert_eq(mark.attempts, 0);
    }
}

static void
collect_found(struct world *world, const struct spool_event *event)
{
    struct reclaim *reclaim = world->context;
    unsigned seed;

    if (event->kind != SPOOL_FOUND)
        return;
    cr_assert_eq(sscanf(event->record->id, "ID%08X", &seed), 1);
    cr_assert_not_null(reclaim->expected[seed], "%s is there twice, or is finished",
                       event->record->id);
    reclaim->expected[seed]->store.place = event->place;
    reclaim->expected[seed] = NULL;
}

/* A start finds each of the live ones once. */
static void
start_and_check(struct reclaim *reclaim)
{
    struct world *world = &reclaim->world;

    world_start(world);
    for (uint32_t i = 0; i < COUNT; i++)
        reclaim->expected[i + 1] = reclaim->live[i] ? &reclaim->messages[i] : NULL;
    world->on_event = collect_found;
    world->context = reclaim;
    WORLD_UNTIL(world, world->recovered > 0);
    world->on_event = NULL;
    for (uint32_t i = 0; i < COUNT; i++)
        cr_assert_null(reclaim->expected[i + 1], "message %u is lost", i);
    cr_assert_eq(world->found, live_count(reclaim));
    cr_assert_eq(world->counters->spool_quarantined, 0);
    check_all(reclaim);
}

static bool
file_is_there(const struct reclaim *reclaim, uint64_t number)
{
    char path[128];

    world_file_path(&reclaim->world, number, path);
    return access(path, F_OK) == 0;
}

Test(spool_reclaim, a_sparse_segment_is_emptied)
{
    static const char *const places[] = { "/tmp", "/dev/shm" };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct reclaim *reclaim = calloc(1, sizeof(*reclaim));
        struct world *world = &reclaim->world;

        fill(reclaim, places[place], 12);
        /* Again and again, until it is not worth it any more. */
        WORLD_UNTIL(world, world->spool->jobs == NULL && world->spool->jobs_running == 0);
        while (world->spool->total_bytes >
                   2 * world->spool->live_bytes + 4 * world->directory.segment_bytes ||
               world->spool->clean.segment != NULL) {
            uint32_t segment = move_all(reclaim);
            uint64_t number = spool_segment_number(world->spool, segment);

            cr_assert(file_is_there(reclaim, number), "until it is finished the originals count");
            check_all(reclaim);
            finish(reclaim, segment);
            WORLD_UNTIL(world, !file_is_there(reclaim, number));
            WORLD_UNTIL(world, world->spool->jobs == NULL && world->spool->jobs_running == 0);
            check_all(reclaim);
        }
        cr_assert_geq(world->counters->spool_moved, 2);
        cr_assert(world->cleans > 0);
        cr_assert_eq(world->counters->spool_errors, 0);
        world_stop(world);
        start_and_check(reclaim);
        world_close(world);
        free(reclaim);
    }
}

/* Where the process ends while a segment is being emptied, and how far it came. */
Test(spool_reclaim, a_crash_leaves_each_message_once)
{
    static const struct {
        const char *name;
        bool finish;
        uint32_t turns; /* after that */
    } rows[] = {
        { "copied", false, 0 },
        { "copied, marks of others written", false, 5 },
        { "finished", true, 0 },
        { "finished, marks on their way", true, 1 },
        { "finished, and more", true, 3 },
        { "finished, the file is gone", true, 200 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct reclaim *reclaim = calloc(1, sizeof(*reclaim));
        uint32_t segment;

        fill(reclaim, "/tmp", 12);
        /* The marks of what is finished, and the attempts, must not be part of the trial. */
        WORLD_UNTIL(&reclaim->world, reclaim->world.spool->dirty == NULL);
        segment = move_all(reclaim);
        if (rows[i].finish)
            finish(reclaim, segment);
        for (uint32_t turn = 0; turn < rows[i].turns; turn++)
            world_turn(&reclaim->world, NS_PER_MS);
        world_crash(&reclaim->world);
        start_and_check(reclaim);
        /* And once more: what was decided stays decided. */
        world_stop(&reclaim->world);
        start_and_check(reclaim);
        world_close(&reclaim->world);
        free(reclaim);
    }
}

/* Given up: the segment stays as it was, the copies are forgotten. */
Test(spool_reclaim, given_up)
{
    struct reclaim *reclaim = calloc(1, sizeof(*reclaim));
    struct world *world = &reclaim->world;
    uint32_t segment, live;
    uint64_t number;

    fill(reclaim, "/tmp", 12);
    live = (uint32_t)world->spool->live_bytes;
    segment = move_all(reclaim);
    number = spool_segment_number(world->spool, segment);
    cr_assert_gt(world->spool->live_bytes, live);
    spool_clean_finish(world->spool, segment, true);
    cr_assert_eq(world->spool->live_bytes, live);
    world_settle(world);
    cr_assert(file_is_there(reclaim, number));
    check_all(reclaim);
    world_stop(world);
    start_and_check(reclaim);
    world_close(world);
    free(reclaim);
}

/* Marks that are set, and messages that finish, while their segment is being emptied: what was said
 * of the old place holds for the new one. */
Test(spool_reclaim, marks_in_between_count)
{
    struct reclaim *reclaim = calloc(1, sizeof(*reclaim));
    struct world *world = &reclaim->world;
    uint32_t segment, gone = COUNT, marked = COUNT;

    fill(reclaim, "/tmp", 5);
    segment = move_all(reclaim);
    for (uint32_t i = 0; i < COUNT; i++) {
        if (!is_in(reclaim, i, segment))
            continue;
        if (gone == COUNT) {
            gone = i;
        } else if (marked == COUNT) {
            marked = i;
            spool_mark_set(world->spool, &reclaim->messages[i].store.place, 2,
                           (struct mark){ .state = MARK_DELIVERED, .attempts = 77 });
        }
    }
    cr_assert(gone < COUNT && marked < COUNT, "the segment has too few for this test");
    message_forget(world, &reclaim->messages[gone]);
    finish(reclaim, segment);
    reclaim->live[gone] = false;
    WORLD_UNTIL(world, !world->spool->clean.finishing);
    cr_assert_eq(spool_mark(world->spool, &reclaim->messages[marked].store.place, 2).attempts, 77);
    world_stop(world);
    start_and_check(reclaim);
    cr_assert_eq(spool_mark(world->spool, &reclaim->messages[marked].store.place, 2).attempts, 77);
    cr_assert_eq(spool_mark(world->spool, &reclaim->messages[marked].store.place, 2).state,
                 MARK_DELIVERED);
    world_close(world);
    free(reclaim);
}

/* What cannot be read is not moved, and the owner gives up. */
Test(spool_reclaim, damage_is_not_moved)
{
    struct reclaim *reclaim = calloc(1, sizeof(*reclaim));
    struct world *world = &reclaim->world;
    uint32_t broken = COUNT;
    char octet;

    fill(reclaim, "/tmp", 12);
    WORLD_UNTIL(world, world->cleans > 0);
    for (uint32_t i = 0; i < COUNT && broken == COUNT; i++)
        if (is_in(reclaim, i, world->clean_segment))
            broken = i;
    cr_assert_lt(broken, COUNT);
    {
        const struct spool_place *place = &reclaim->messages[broken].store.place;
        uint64_t number = spool_segment_number(world->spool, place->segment);
        uint64_t offset = place->offset + place->bytes / 2;

        world_read(world, number, offset, &octet, 1);
        octet = (char)(octet ^ 1);
        world_write(world, number, offset, &octet, 1);
        reclaim->moves[broken].from = *place;
        spool_move(world->spool, &reclaim->moves[broken]);
        WORLD_UNTIL(world, world->moved > 0);
        cr_assert_eq(reclaim->moves[broken].error, -EBADMSG);
        cr_assert_eq(world->counters->spool_quarantined, 1);
        spool_clean_finish(world->spool, place->segment, true);
        octet = (char)(octet ^ 1);
        world_write(world, number, offset, &octet, 1);
    }
    check_all(reclaim);
    world_close(world);
    free(reclaim);
}
