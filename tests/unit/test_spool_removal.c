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
