/* Bodies in files: octets come back as they were, however the disk takes them; every buffer goes
 * back; files are there exactly while a message needs them. */
#include <criterion/criterion.h>

#include "tests/unit/seeded.h"
#include "tests/unit/spool_world.h"

static const char id[16] = "Body1";

/* As world_turn(), but what the kernel did may be told otherwise. */
static int32_t (*told_instead)(int32_t result);

static void
turn(struct world *world)
{
    struct io_completion completion;
    struct spool_event event;

    io_wait(world->io, NS_PER_MS);
    while (io_next(world->io, &completion)) {
        if (told_instead != NULL)
            completion.result = told_instead(completion.result);
        spool_complete(world->spool, &completion);
    }
    while (spool_event(world->spool, &event)) {
        world->stored += event.kind == SPOOL_STORED;
        world->bodies += event.kind == SPOOL_BODY;
        if (event.kind == SPOOL_BODY)
            cr_assert_eq(event.owner, world);
        if (event.kind == SPOOL_STORED)
            ((struct message *)event.owner)->stored = true;
        if (event.kind == SPOOL_FOUND && world->on_event != NULL)
            world->on_event(world, &event);
    }
    spool_turn(world->spool, clock_now_ns(), clock_realtime_ns());
}

#define TURN_UNTIL(world, condition)                                         \
    do {                                                                     \
        uint64_t turn_end = clock_now_ns() + WORLD_WAIT_NS;                  \
        while (!(condition)) {                                               \
            cr_assert(clock_now_ns() < turn_end, "in time: %s", #condition); \
            turn(world);                                                     \
        }                                                                    \
    } while (0)

static bool
has_file(const struct world *world, uint64_t *bytes)
{
    char name[SPOOL_NAME_BYTES], path[128];
    struct stat status;

    spool_body_name(id, name);
    (void)snprintf(path, sizeof(path), "%s/%s", world->path, name);
    if (stat(path, &status) != 0)
        return false;
    if (bytes != NULL)
        *bytes = (uint64_t)status.st_size;
    return true;
}

/* Nothing of it is left. */
static void
body_discard(struct world *world, struct spool_body *file)
{
    spool_body_close(file, true);
    TURN_UNTIL(world, body_idle(world->spool));
    cr_assert_not(has_file(world, NULL));
}

/* What was written goes back to whoever had it: in order, whole. */
static void
take_written(struct world *world, struct spool_body *file, uint32_t seed, uint64_t *at)
{
    struct chain *written = spool_body_written(file);

    while (written->count > 0) {
        uint32_t index = written->first;
        struct span octets = buffer_span(&world->buffers, index);

        for (size_t i = 0; i < octets.len; i++)
            cr_assert_eq(octets.data[i], world_octet(seed, *at + i), "octet %llu",
                         (unsigned long long)(*at + i));
        *at += octets.len;
        index = chain_pop(&world->buffers, written);
        buffer_release(&world->buffers, index);
    }
}

static struct spool_body *
write_whole(struct world *world, uint32_t seed, uint64_t bytes)
{
    struct spool_body *file = spool_body_create(world->spool, id, &world->buffers, world);
    struct chain body = world_body(world, seed, bytes);
    uint64_t at = 0;

    cr_assert_not_null(file);
    spool_body_write(file, &body);
    cr_assert_eq(body.count, 0);
    cr_assert_eq(spool_body_pending(file), bytes);
    TURN_UNTIL(world, spool_body_pending(file) == 0);
    take_written(world, file, seed, &at);
    cr_assert_eq(at, bytes);
    cr_assert_eq(spool_body_error(file), 0);
    return file;
}

static void
read_whole(struct world *world, uint32_t seed, uint64_t bytes, uint64_t ahead)
{
    struct spool_body *file = spool_body_open(world->spool, id, &world->buffers, bytes, world);
    struct chain body = CHAIN_EMPTY;
    uint64_t at = 0;

    cr_assert_not_null(file);
    while (at < bytes) {
        uint64_t before = world->bodies;

        spool_body_read(file, &body, ahead);
        TURN_UNTIL(world, world->bodies > before);
        cr_assert_eq(spool_body_error(file), 0, "%s", io_error_text(spool_body_error(file)));
        cr_assert_leq(body.bytes, ahead);
        while (body.count > 0) {
            struct span octets = buffer_span(&world->buffers, body.first);

            for (size_t i = 0; i < octets.len; i++)
                cr_assert_eq(octets.data[i], world_octet(seed, at + i));
            at += octets.len;
            chain_consume(&world->buffers, &body, octets.len);
        }
    }
    cr_assert_eq(at, bytes);
    /* There is no more. */
    spool_body_read(file, &body, ahead);
    for (int i = 0; i < 3; i++)
        turn(world);
    cr_assert_eq(body.bytes, 0);
    spool_body_close(file, false);
}

/* --- there and back --- */

static struct seeded dice;

static int32_t
as_it_was(int32_t result)
{
    return result;
}

/* Less than was asked for; what is done again is the same. */
static int32_t
partly(int32_t result)
{
    /* Below 100 are descriptors: another one would be another file. */
    return result > 100 && seeded_below(&dice, 2) == 0
               ? 1 + (int32_t)seeded_below(&dice, (uint64_t)result)
               : result;
}

static int32_t
interrupted(int32_t result)
{
    return result > 100 && seeded_below(&dice, 3) == 0 ? -EINTR : result;
}

Test(spool_body, octets_come_back)
{
    static const struct {
        const char *name;
        int32_t (*told)(int32_t);
        uint64_t bytes, ahead;
    } rows[] = {
        { "one octet", as_it_was, 1, BUFFER_BYTES },
        { "a buffer", as_it_was, BUFFER_BYTES, 4 * BUFFER_BYTES },
        { "many writes", as_it_was, 200 * BUFFER_BYTES + 77, 10 * BUFFER_BYTES },
        { "read in drops", as_it_was, 5 * BUFFER_BYTES + 1, 100 },
        { "in parts", partly, 70 * BUFFER_BYTES + 5, 8 * BUFFER_BYTES },
        { "interrupted", interrupted, 70 * BUFFER_BYTES + 5, 8 * BUFFER_BYTES },
    };
    struct world world;

    world_open(&world, "/tmp");
    world_settle(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t bytes = 0;
        struct spool_body *file;

        dice.state = i;
        told_instead = rows[i].told;
        file = write_whole(&world, (uint32_t)i, rows[i].bytes);
        told_instead = NULL;
        spool_body_close(file, false);
        TURN_UNTIL(&world, body_idle(world.spool));
        cr_assert(has_file(&world, &bytes) && bytes == rows[i].bytes, "%s: %llu", rows[i].name,
                  (unsigned long long)bytes);
        told_instead = rows[i].told;
        read_whole(&world, (uint32_t)i, rows[i].bytes, rows[i].ahead);
        told_instead = NULL;
        cr_assert_eq(unlinkat(world.directory.directory, "Body1.body", 0), 0);
        cr_assert_eq(world.buffers.free_count, WORLD_BUFFERS, "%s", rows[i].name);
    }
    cr_assert_eq(world.spool->bodies != NULL && world.counters->spool_errors, 0);
    world_close(&world);
}

/* Given in portions while it is being written, as a client sends it. */
Test(spool_body, written_while_it_comes)
{
    struct world world;
    struct spool_body *file;
    struct chain all;
    uint64_t at = 0, bytes = 60 * BUFFER_BYTES + 3;

    world_open(&world, "/tmp");
    all = world_body(&world, 3, bytes);
    file = spool_body_create(world.spool, id, &world.buffers, &world);
    cr_assert_not_null(file);
    for (unsigned i = 0; all.count > 0; i++) {
        struct chain portion = CHAIN_EMPTY;

        for (unsigned k = 0; k <= i % 5 && all.count > 0; k++) {
            struct buffer_meta meta = world.buffers.meta[all.first];
            uint32_t index = chain_pop(&world.buffers, &all);

            chain_append(&world.buffers, &portion, index, meta.start, meta.len);
        }
        spool_body_write(file, &portion);
        turn(&world);
        take_written(&world, file, 3, &at);
    }
    TURN_UNTIL(&world, spool_body_pending(file) == 0);
    take_written(&world, file, 3, &at);
    cr_assert_eq(at, bytes);
    cr_assert_gt(world.bodies, 0);
    body_discard(&world, file);
    world_close(&world);
}

/* What is left of `ahead` when a little was taken is not worth a buffer. */
Test(spool_body, not_read_in_drops)
{
    struct world world;
    struct spool_body *file;
    struct chain body = CHAIN_EMPTY;

    world_open(&world, "/tmp");
    spool_body_close(write_whole(&world, 1, 5 * BUFFER_BYTES), false);
    file = spool_body_open(world.spool, id, &world.buffers, 5 * BUFFER_BYTES, &world);
    cr_assert_not_null(file);
    spool_body_read(file, &body, 2 * BUFFER_BYTES);
    TURN_UNTIL(&world, body.bytes == 2 * BUFFER_BYTES);
    chain_consume(&world.buffers, &body, 5);
    spool_body_read(file, &body, 2 * BUFFER_BYTES);
    for (int i = 0; i < 10; i++)
        turn(&world);
    cr_assert_eq(body.bytes, 2 * BUFFER_BYTES - 5);
    chain_consume(&world.buffers, &body, BUFFER_BYTES - 5);
    spool_body_read(file, &body, 2 * BUFFER_BYTES);
    TURN_UNTIL(&world, body.bytes == 2 * BUFFER_BYTES);
    chain_release(&world.buffers, &body);
    spool_body_close(file, true);
    world_close(&world);
}

/* --- the end of a file --- */

/* Whatever it is doing: nothing is left in flight, of memory or on the disk. */
Test(spool_body, closed_at_any_time)
{
    for (unsigned turns = 0; turns < 8; turns++)
        for (unsigned reading = 0; reading < 2; reading++) {
            struct world world;
            struct spool_body *file;
            struct chain body = CHAIN_EMPTY;

            world_open(&world, "/tmp");
            if (reading) {
                spool_body_close(write_whole(&world, 1, 3 * BUFFER_BYTES), false);
                file = spool_body_open(world.spool, id, &world.buffers, 3 * BUFFER_BYTES, &world);
                cr_assert_not_null(file);
                spool_body_read(file, &body, 100 * BUFFER_BYTES);
            } else {
                file = spool_body_create(world.spool, id, &world.buffers, &world);
                cr_assert_not_null(file);
                body = world_body(&world, 1, 100 * BUFFER_BYTES);
                spool_body_write(file, &body);
            }
            for (unsigned i = 0; i < turns; i++)
                turn(&world);
            spool_body_close(file, true);
            chain_release(&world.buffers, &body);
            TURN_UNTIL(&world, body_idle(world.spool) && world.spool->operations.used == 0);
            cr_assert_not(has_file(&world, NULL), "after %u turns", turns);
            world_close(&world);
        }
}

Test(spool_body, no_more_than_so_many)
{
    struct world world;
    struct spool_body *files[SPOOL_BODIES_MAX];
    char name[16];

    world_open(&world, "/tmp");
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < SPOOL_BODIES_MAX; i++) {
            (void)snprintf(name, sizeof(name), "b%u", i);
            files[i] = spool_body_create(world.spool, name, &world.buffers, &world);
            cr_assert_not_null(files[i], "%u", i);
        }
        cr_assert_null(spool_body_create(world.spool, id, &world.buffers, &world));
        cr_assert_null(spool_body_open(world.spool, id, &world.buffers, 1, &world));
        for (unsigned i = 0; i < SPOOL_BODIES_MAX; i++)
            spool_body_close(files[i], true);
        TURN_UNTIL(&world, body_idle(world.spool));
    }
    cr_assert_eq(world_files(&world, ".body"), 0);
    spool_stop(world.spool);
    cr_assert_null(spool_body_create(world.spool, id, &world.buffers, &world));
    world_close(&world);
}

/* --- what goes wrong --- */

static int32_t fail_with;
static unsigned fail_in; /* completions */

static int32_t
fails(int32_t result)
{
    return fail_in > 0 && --fail_in == 0 ? fail_with : result;
}

Test(spool_body, errors_are_told)
{
    struct world world;
    struct spool_body *file;
    struct chain body = CHAIN_EMPTY;
    uint64_t bytes = 0;

    world_open(&world, "/tmp");
    world_settle(&world);
    /* A name that is taken: the file is another's, and stays. */
    spool_body_close(write_whole(&world, 1, 5000), false);
    world.bodies = 0;
    file = spool_body_create(world.spool, id, &world.buffers, &world);
    cr_assert_not_null(file);
    TURN_UNTIL(&world, world.bodies > 0);
    cr_assert_eq(spool_body_error(file), -EEXIST);
    spool_body_close(file, true);
    TURN_UNTIL(&world, body_idle(world.spool));
    cr_assert(has_file(&world, &bytes) && bytes == 5000);

    /* Shorter than it should be: what is there comes, then the error. */
    world.bodies = 0;
    file = spool_body_open(world.spool, id, &world.buffers, 5001, &world);
    cr_assert_not_null(file);
    spool_body_read(file, &body, 100 * BUFFER_BYTES);
    TURN_UNTIL(&world, spool_body_error(file) != 0);
    cr_assert_eq(spool_body_error(file), -EBADMSG);
    cr_assert(world_body_is(&world, &body, 1, 5000));
    chain_release(&world.buffers, &body);
    body_discard(&world, file);

    /* Not there. */
    world.bodies = 0;
    file = spool_body_open(world.spool, id, &world.buffers, 10, &world);
    cr_assert_not_null(file);
    TURN_UNTIL(&world, world.bodies > 0);
    cr_assert_eq(spool_body_error(file), -ENOENT);
    spool_body_read(file, &body, 100);
    spool_body_close(file, false);

    /* A disk that is full, in the second write. */
    world.bodies = 0;
    file = spool_body_create(world.spool, id, &world.buffers, &world);
    cr_assert_not_null(file);
    body = world_body(&world, 1, 100 * BUFFER_BYTES);
    fail_with = -ENOSPC;
    fail_in = 3;
    told_instead = fails;
    spool_body_write(file, &body);
    TURN_UNTIL(&world, spool_body_error(file) != 0);
    told_instead = NULL;
    cr_assert_eq(spool_body_error(file), -ENOSPC);
    /* All of it is the owner's again: the next hop may still want it. */
    cr_assert_eq(spool_body_pending(file), 0);
    cr_assert_eq(spool_body_written(file)->bytes, 100 * BUFFER_BYTES);
    body = world_body(&world, 2, 10);
    spool_body_write(file, &body); /* more may be on its way: it goes nowhere */
    turn(&world);
    body_discard(&world, file);
    world_close(&world);
}

/* No buffers for reading: it goes on when there are. The last ones are left to others. */
Test(spool_body, waits_for_buffers)
{
    struct world world;
    struct spool_body *file;
    struct chain body = CHAIN_EMPTY, all = CHAIN_EMPTY;
    uint32_t left;

    world_open(&world, "/tmp");
    spool_body_close(write_whole(&world, 1, 2 * BUFFER_BYTES), false);
    TURN_UNTIL(&world, body_idle(world.spool));
    while (world.buffers.free_count > 1)
        chain_append(&world.buffers, &all, buffer_take(&world.buffers, 0), 0, 1);
    file = spool_body_open(world.spool, id, &world.buffers, 2 * BUFFER_BYTES, &world);
    cr_assert_not_null(file);
    world.bodies = 0;
    spool_body_read(file, &body, 2 * BUFFER_BYTES);
    for (int i = 0; i < 20; i++)
        turn(&world);
    cr_assert_eq(world.bodies, 0);
    left = world.buffers.free_count;
    cr_assert_eq(left, 1);
    chain_release(&world.buffers, &all);
    TURN_UNTIL(&world, body.bytes == 2 * BUFFER_BYTES);
    cr_assert(world_body_is(&world, &body, 1, 2 * BUFFER_BYTES));
    chain_release(&world.buffers, &body);
    spool_body_close(file, true);
    world_close(&world);
}

/* --- with a message --- */

/* A message whose body is the file. */
static void
file_message(struct world *world, struct message *message, uint64_t bytes)
{
    message_make(world, message, 4, 2, 0);
    message->body_bytes = bytes;
    message->store.body = NULL;
    message->store.body_file = write_whole(world, 4, bytes);
    message->store.record.body_bytes = bytes;
    message->store.record.size = bytes;
    message->store.record.flags |= RECORD_BODY_FILE;
    memcpy(message->store.record.id, id, sizeof(id));
}

static void
note_found(struct world *world, const struct spool_event *event)
{
    if (event->kind != SPOOL_FOUND)
        return;
    cr_assert_str_eq(event->record->id, id);
    cr_assert_eq(event->record->flags & RECORD_BODY_FILE, RECORD_BODY_FILE);
    *(struct spool_place *)world->context = event->place;
    world->found++;
}

Test(spool_body, of_a_stored_message)
{
    const struct mark delivered = { .state = MARK_DELIVERED };
    uint64_t bytes = 20 * BUFFER_BYTES + 9;
    struct world world;
    struct message message;
    struct spool_place place;

    world_open(&world, "/tmp");
    file_message(&world, &message, bytes);
    spool_store(world.spool, &message.store);
    TURN_UNTIL(&world, message.stored);
    cr_assert_eq(message.store.error, 0);
    cr_assert_eq(world.counters->spool_body_files, 1);
    message_free(&world, &message);
    read_whole(&world, 4, bytes, 4 * BUFFER_BYTES);
    TURN_UNTIL(&world, body_idle(world.spool));

    /* It is there after a crash, whole. */
    world_crash(&world);
    world_start(&world);
    world.on_event = note_found;
    world.context = &place;
    TURN_UNTIL(&world, recovery_over(world.spool));
    cr_assert_eq(world.found, 1);
    world.on_event = NULL;
    read_whole(&world, 4, bytes, 4 * BUFFER_BYTES);
    spool_mark_set(world.spool, &place, 0, delivered);
    spool_mark_set(world.spool, &place, 1, delivered);
    spool_forget(world.spool, &place, id, true);
    TURN_UNTIL(&world, !has_file(&world, NULL));
    world_close(&world);
}

/* A body without its message goes at the next start. */
Test(spool_body, without_its_message)
{
    struct world world;

    world_open(&world, "/tmp");
    spool_body_close(write_whole(&world, 9, 5000), false);
    TURN_UNTIL(&world, body_idle(world.spool));
    cr_assert(has_file(&world, NULL));
    world_crash(&world);
    world_start(&world);
    TURN_UNTIL(&world, !has_file(&world, NULL));
    world_close(&world);
}

/* The file's sync, or its name's, fails: no promise, no file. */
Test(spool_body, that_cannot_be_made_durable)
{
    for (unsigned at = 1; at <= 2; at++) {
        struct world world;
        struct message message;

        world_open(&world, "/tmp");
        world_settle(&world);
        file_message(&world, &message, 5000);
        fail_with = -EIO;
        fail_in = at;
        told_instead = fails;
        spool_store(world.spool, &message.store);
        TURN_UNTIL(&world, message.stored);
        told_instead = NULL;
        cr_assert_eq(message.store.error, -EIO);
        message_free(&world, &message);
        TURN_UNTIL(&world, body_idle(world.spool) && !has_file(&world, NULL));
        world_close(&world);
    }
}
