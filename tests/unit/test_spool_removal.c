/* Body files: durable before their record, and gone only when no start can need them (invariants 1
 * and 8). */
#include "tests/unit/spool_world.h"

struct large { /* a message whose body is in a file */
    struct message message;
    struct spool_body *body;
    char path[128];
};

static bool
is_there(const struct large *large)
{
    return access(large->path, F_OK) == 0;
}

static void
large_write(struct world *world, struct large *large, uint32_t seed, uint64_t bytes)
{
    struct message *message = &large->message;
    char name[SPOOL_NAME_BYTES];

    message_make(world, message, seed, 2, bytes);
    message->store.body = NULL;
    message->store.record.flags |= RECORD_BODY_FILE;
    spool_body_name(message->store.record.id, name);
    snprintf(large->path, sizeof(large->path), "%s/%s", world->path, name);
    large->body =
        spool_body_create(world->spool, message->store.record.id, &world->buffers, &world->spool);
    cr_assert_not_null(large->body);
    spool_body_write(large->body, &message->body);
    WORLD_UNTIL(world, spool_body_pending(large->body) == 0);
    cr_assert_eq(spool_body_error(large->body), 0);
    chain_release(&world->buffers, spool_body_written(large->body));
    message->store.body_file = large->body;
}

static void
large_store(struct world *world, struct large *large, uint32_t seed, uint64_t bytes)
{
    large_write(world, large, seed, bytes);
    spool_store(world->spool, &large->message.store);
    WORLD_UNTIL(world, large->message.stored);
    envelope_clear(&large->message.envelope);
}

/* Whether the file of the segment says that this recipient is done. */
static bool
is_marked_on_disk(struct world *world, const struct segment *segment, uint32_t slot)
{
    uint64_t best = 0, sequence;
    bool done = false;

    for (unsigned copy = 0; copy < 2; copy++) {
        char block[SPOOL_BLOCK_BYTES];
        struct mark marks[MARKS_PER_BLOCK];

        world_read(world, segment->number,
                   segment_marks_offset(segment->slots, copy, slot / MARKS_PER_BLOCK), block,
                   sizeof(block));
        if (mark_block_read(segment->number, slot / MARKS_PER_BLOCK, block, &sequence, marks) &&
            sequence > best) {
            best = sequence;
            done = marks[slot % MARKS_PER_BLOCK].state != MARK_PENDING;
        }
    }
    return done;
}

Test(spool_removal, a_body_goes_after_its_marks)
{
    static const char *const places[] = { "/tmp", "/dev/shm" };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct world world;
        struct large large, other;
        const struct segment *segment;

        world_open(&world, places[place]);
        large_store(&world, &large, 1, 5 * BUFFER_BYTES);
        cr_assert_eq(large.message.store.error, 0);
        large_store(&world, &other, 2, 7);
        cr_assert_eq(world.counters->spool_body_files, 2);
        message_check(&world, &large.message);
        segment = segment_at(world.spool, large.message.store.place.segment);
        message_forget(&world, &large.message);
        while (is_there(&large)) {
            bool marked = is_marked_on_disk(&world, segment, large.message.store.place.slot + 1);

            cr_assert(marked || is_there(&large), "the body went first");
            world_turn(&world, NS_PER_MS);
        }
        cr_assert(is_marked_on_disk(&world, segment, large.message.store.place.slot + 1));
        cr_assert(is_there(&other));
        world_crash(&world);
        world_start(&world);
        WORLD_UNTIL(&world, world.recovered > 0);
        cr_assert_eq(world.found, 1);
        cr_assert_eq(world.counters->spool_quarantined, 0);
        cr_assert(is_there(&other));
        world_close(&world);
    }
}

/* With its segment: nothing in it counts, so its marks are not written; the body outlives it. */
Test(spool_removal, a_body_goes_after_its_segment)
{
    struct world world;
    struct large large;
    struct message filler;
    char path[128];
    uint64_t number;

    world_open(&world, "/tmp");
    large_store(&world, &large, 1, 1000);
    number = spool_segment_number(world.spool, large.message.store.place.segment);
    world_file_path(&world, number, path);
    /* The next one does not fit: the segment ends. */
    message_store(&world, &filler, 2, 1, spool_record_bytes_max(world.spool) - 2048);
    cr_assert_neq(spool_segment_number(world.spool, filler.store.place.segment), number);
    world_settle(&world);
    message_forget(&world, &large.message);
    while (is_there(&large)) {
        bool segment = access(path, F_OK) == 0;

        cr_assert(!segment || is_there(&large), "the body went first");
        world_turn(&world, NS_PER_MS);
    }
    cr_assert_neq(access(path, F_OK), 0);
    world_close(&world);
}

/* The record fails: it may be on the disk all the same, so the body stays as long as its segment.
 */
Test(spool_removal, a_body_whose_record_failed)
{
    struct world world;
    struct message first;
    struct large large;
    const struct segment *segment;
    int broken;

    world_open(&world, "/tmp");
    message_store(&world, &first, 1, 1, 10);
    world_settle(&world);
    large_write(&world, &large, 2, 3000);
    segment = world.spool->active;
    broken = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(dup2(broken, segment->file), segment->file);
    close(broken);
    spool_store(world.spool, &large.message.store);
    WORLD_UNTIL(&world, large.message.stored);
    cr_assert_lt(large.message.store.error, 0);
    envelope_clear(&large.message.envelope);
    world_settle(&world);
    cr_assert(is_there(&large));
    message_forget(&world, &first);
    WORLD_UNTIL(&world, !is_there(&large));
    cr_assert_neq(access(world.path, F_OK), -1);
    world_close(&world);
}

/* Many at once: more than are removed at a time. */
Test(spool_removal, many)
{
    enum { COUNT = 3 * SPOOL_REMOVALS_RUNNING_MAX };
    struct world world;
    struct large large[COUNT];

    world_open(&world, "/tmp");
    for (uint32_t i = 0; i < COUNT; i++) {
        large_store(&world, &large[i], i + 1, i);
        cr_assert_eq(large[i].message.store.error, 0);
    }
    for (uint32_t i = 0; i < COUNT; i++)
        message_forget(&world, &large[i].message);
    for (uint32_t i = 0; i < COUNT; i++)
        WORLD_UNTIL(&world, !is_there(&large[i]));
    world_close(&world);
}

/* --- files that stay although all in them is done --- */

/* A sealed segment with one message, and another one behind it that goes on living. */
static struct segment *
sealed_segment(struct world *world, struct message *message, struct message *filler)
{
    struct segment *segment;

    message_store(world, message, 1, 2, 1000);
    segment = segment_at(world->spool, message->store.place.segment);
    /* The next one does not fit: the segment ends. */
    message_store(world, filler, 2, 1, spool_record_bytes_max(world->spool) - 2048);
    world_settle(world);
    cr_assert_eq(segment->state, SEGMENT_SEALED);
    return segment;
}

/* In place of its file, or of the spare that it is to be: nothing can be removed or renamed there.
 */
static void
block_name(const struct world *world, uint64_t number, bool spare, char path[128])
{
    char name[SPOOL_NAME_BYTES], aside[160];

    if (spare)
        spool_spare_name(number, name);
    else
        spool_segment_name(number, name);
    snprintf(path, 128, "%s/%s", world->path, name);
    snprintf(aside, sizeof(aside), "%s.aside", path);
    if (!spare)
        cr_assert_eq(rename(path, aside), 0);
    cr_assert_eq(mkdir(path, 0700), 0);
}

static void
unblock_name(const char path[128], bool spare)
{
    char aside[160];

    snprintf(aside, sizeof(aside), "%s.aside", path);
    cr_assert_eq(rmdir(path), 0);
    if (!spare)
        cr_assert_eq(rename(aside, path), 0);
}

/* The disk does not let go of it: the next start finds it, and must not find its messages. */
Test(spool_removal, a_segment_that_stays_says_what_is_done)
{
    static const char *const places[] = { "/tmp", "/dev/shm" };

    for (size_t row = 0; row < 2 * COUNT_OF(places); row++) {
        struct world world;
        struct message message, filler;
        const struct segment *segment;
        char path[128];

        world_open(&world, places[row / 2]);
        segment = sealed_segment(&world, &message, &filler);
        block_name(&world, segment->number, true, path);
        message_forget(&world, &message);
        WORLD_UNTIL(&world, is_marked_on_disk(&world, segment, message.store.place.slot + 1));
        cr_assert_gt(world.counters->spool_errors, 0);
        if (row % 2 == 0) { /* once it is possible it goes */
            unblock_name(path, true);
            WORLD_UNTIL(&world, world.counters->spool_segments_spare > 0);
        } else {
            world_crash(&world);
            unblock_name(path, true);
            world_start(&world);
            WORLD_UNTIL(&world, world.recovered > 0);
            cr_assert_eq(world.found, 1, "what was done is found again");
        }
        world_close(&world);
    }
}

/* One that people may put back goes when its marks are there, however often that fails. */
Test(spool_removal, a_damaged_segment_waits_for_its_marks)
{
    struct world world;
    struct message message, filler;
    struct segment *segment;
    char path[128], damaged[160];
    int good, broken = open("/dev/null", O_RDONLY | O_CLOEXEC);

    world_open(&world, "/tmp");
    segment = sealed_segment(&world, &message, &filler);
    segment->damaged = true;
    world_file_path(&world, segment->number, path);
    snprintf(damaged, sizeof(damaged), "%s.damaged", path);
    good = dup(segment->file);
    cr_assert_eq(dup2(broken, segment->file), segment->file);
    message_forget(&world, &message);
    WORLD_UNTIL(&world, world.spool->marks_failing > 1);
    cr_assert_eq(access(path, F_OK), 0);
    cr_assert_neq(access(damaged, F_OK), 0);
    cr_assert_eq(dup2(good, segment->file), segment->file);
    close(good);
    close(broken);
    WORLD_UNTIL(&world, is_marked_on_disk(&world, segment, message.store.place.slot + 1));
    WORLD_UNTIL(&world, access(damaged, F_OK) == 0);
    world_close(&world);
}

/* What a stop says of marks that it could not write: the next start must know. */
Test(spool_removal, a_stop_without_all_marks)
{
    static const struct {
        const char *name;
        bool broken, blocked, damaged, durable;
    } rows[] = {
        { "a disk that works", false, false, false, true },
        { "no marks", true, false, false, false },
        { "no marks, and it is left for people", true, false, true, false },
        { "it stays, with its marks", false, true, false, true },
        { "it stays without", true, true, false, false },
        { "it goes, and needs none", true, false, false, true },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct world world;
        struct message message, filler;
        struct segment *segment;
        char path[128];
        int broken = open("/dev/null", O_RDONLY | O_CLOEXEC);

        world_open(&world, "/tmp");
        segment = sealed_segment(&world, &message, &filler);
        segment->damaged = rows[i].damaged;
        if (rows[i].broken)
            cr_assert_eq(dup2(broken, segment->file), segment->file);
        close(broken);
        if (rows[i].blocked)
            block_name(&world, segment->number, false, path);
        if (rows[i].blocked || rows[i].damaged || rows[i].durable)
            message_forget(&world, &message);
        else
            spool_mark_set(world.spool, &message.store.place, 0,
                           (struct mark){ .state = MARK_DELIVERED });
        spool_stop(world.spool);
        WORLD_UNTIL(&world, spool_idle(world.spool));
        cr_assert_eq(spool_marks_durable(world.spool), rows[i].durable, "%s", rows[i].name);
        world_end(&world, false);
        if (rows[i].blocked)
            unblock_name(path, false);
        world_start(&world);
        WORLD_UNTIL(&world, world.recovered > 0);
        cr_assert_eq(world.found, rows[i].durable || rows[i].damaged ? 1 : 2, "%s", rows[i].name);
        world_close(&world);
    }
}
