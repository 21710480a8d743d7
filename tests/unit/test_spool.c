/* The spool on a real disk: what is stored is durable and reads back the same; marks; segments that
 * fill, end and are used again; room; errors of the disk; the stop. */
#include "tests/unit/spool_world.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

/* Where temporary files are: a file system with O_DIRECT here, and one without. */
static const char *const places[] = { "/tmp", "/dev/shm" };

static uint32_t
live_records(const struct world *world)
{
    uint32_t live = 0;

    for (uint32_t i = 0; i < world->spool->segments.touched; i++)
        if (pool_in_use(&world->spool->segments, i))
            live += segment_at(world->spool, i)->live_records;
    return live;
}

/* Every size of body around the bounds of buffers, chunks, groups and padding. */
Test(spool, what_is_stored_reads_back)
{
    static const struct {
        const char *name;
        uint64_t body_bytes;
        uint32_t recipients;
    } rows[] = {
        { "no body", 0, 1 },
        { "one octet", 1, 1 },
        { "short", 200, 3 },
        { "a block", 4096, 1 },
        { "a buffer", BUFFER_BYTES, 1 },
        { "a buffer and one", BUFFER_BYTES + 1, 2 },
        { "a chunk of a load", SPOOL_LOAD_BYTES, 1 },
        { "more than a chunk", SPOOL_LOAD_BYTES + 4097, 1 },
        { "a group, less what comes before and a trailer", SPOOL_STAGING_BYTES - 256, 1 },
        { "a group", SPOOL_STAGING_BYTES, 1 },
        { "many recipients", 5000, 300 },
    };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct message messages[COUNT_OF(rows)];
        struct world world;

        world_open(&world, places[place]);
        world.config.spool.segment = 4 * WORLD_SEGMENT_BYTES;
        world_stop(&world);
        world_start(&world);
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            uint64_t bytes = rows[i].body_bytes;

            if (bytes + 65536 > spool_record_bytes_max(world.spool))
                bytes = spool_record_bytes_max(world.spool) / 2;
            message_store(&world, &messages[i], (uint32_t)i + 1, rows[i].recipients, bytes);
            cr_assert_eq(messages[i].store.error, 0, "%s: %s", rows[i].name,
                         io_error_text(messages[i].store.error));
        }
        for (size_t i = 0; i < COUNT_OF(rows); i++)
            message_check(&world, &messages[i]);
        cr_assert_eq(live_records(&world), COUNT_OF(rows));
        cr_assert_eq(world.counters->spool_messages_stored, COUNT_OF(rows));
        cr_assert_eq(world.counters->spool_messages_loaded, COUNT_OF(rows));
        cr_assert_eq(world.counters->spool_errors, 0);
        world_close(&world);
    }
}

/* Around the end of a group, octet by octet of the padding's step: trailers that are split. */
Test(spool, records_that_end_at_the_end_of_a_group)
{
    struct world world;
    struct message message;

    world_open(&world, "/tmp");
    for (uint32_t n = 0; n < 24; n++) {
        uint64_t bytes = SPOOL_STAGING_BYTES - 512 + n * 20;

        if (bytes + 65536 > spool_record_bytes_max(world.spool))
            break;
        message_store(&world, &message, n + 1, 1, bytes);
        cr_assert_eq(message.store.error, 0);
        message_check(&world, &message);
        message_forget(&world, &message);
    }
    world_close(&world);
}

/* Invariant 1: what the event promised is in the file, by then, with its checks. */
static void
check_on_disk(struct world *world, const struct message *message)
{
    const struct spool_place *place = &message->store.place;
    uint64_t number = spool_segment_number(world->spool, place->segment);
    char *octets = malloc(place->bytes);
    struct record record;
    uint32_t crc;
    uint64_t len;

    world_read(world, number, place->offset, octets, place->bytes);
    cr_assert(record_header_read(number, span_of(octets, place->bytes), &record));
    cr_assert_eq(record.slot, place->slot);
    len = record.envelope_bytes + record.body_bytes;
    cr_assert(record_trailer_read(
        &record, span_of(octets + RECORD_HEADER_BYTES + len, RECORD_TRAILER_BYTES), &crc));
    cr_assert_eq(crc, crc32c(0, span_of(octets + RECORD_HEADER_BYTES, len)));
    free(octets);
}

static void
check_stored(struct world *world, const struct spool_event *event)
{
    if (event->kind == SPOOL_STORED && event->store->error == 0)
        check_on_disk(world, event->owner);
}

/* Many at once, of all sizes: they share writes, fill segments, and each is where it says. */
Test(spool, many_at_once_share_writes)
{
    enum { COUNT = 300 };
    struct message *messages = calloc(COUNT, sizeof(*messages));

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        uint64_t before;
        struct world world;

        world_open(&world, places[place]);
        world_settle(&world);
        before = world.counters->spool_commits_ok;
        world.on_event = check_stored;
        for (uint32_t i = 0; i < COUNT; i++) {
            message_make(&world, &messages[i], i + 1, 1 + i % 4, (i * 37) % 7000);
            spool_store(world.spool, &messages[i].store);
        }
        WORLD_UNTIL(&world, world.stored == COUNT);
        world.on_event = NULL;
        for (uint32_t i = 0; i < COUNT; i++) {
            cr_assert_eq(messages[i].store.error, 0);
            message_free(&world, &messages[i]);
            message_check(&world, &messages[i]);
        }
        cr_assert_lt(
            world.counters->spool_commits_ok - before, COUNT / 4, "%llu writes for %u messages",
            (unsigned long long)(world.counters->spool_commits_ok - before), (unsigned)COUNT);
        cr_assert_eq(histogram_count(&world.counters->spool_commit),
                     world.counters->spool_commits_ok);
        cr_assert_gt(world.counters->spool_segments, 1, "one segment is not enough for all");
        for (uint32_t i = 0; i < COUNT; i++)
            message_forget(&world, &messages[i]);
        world_close(&world);
    }
    free(messages);
}

/* What cannot be stored is said so at once, but not within the call. */
Test(spool, too_large_is_an_answer)
{
    struct world world;
    struct message message;
    uint64_t most;

    world_open(&world, "/tmp");
    most = spool_record_bytes_max(world.spool);
    message_store(&world, &message, 1, 1, most);
    cr_assert_eq(message.store.error, -EMSGSIZE);
    message_store(&world, &message, 2, 1, most - 1024);
    cr_assert_eq(message.store.error, 0);
    message_check(&world, &message);
    /* Slots of the segment: as many recipients as fit, in as small an envelope as there is. */
    message_store(&world, &message, 3, segment_slots(world.directory.segment_bytes) + 1, 10);
    cr_assert_eq(message.store.error, -EMSGSIZE);
    cr_assert_eq(world.counters->spool_messages_failed, 2);
    world_close(&world);
}

/* Segments end, are forgotten, become spares and are written again; the number of files stays. */
Test(spool, segments_are_used_again)
{
    enum { ROUNDS = 40 };
    struct world world;
    uint64_t numbers[4] = { 0 };
    unsigned recycled = 0;

    world_open(&world, "/tmp");
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct message messages[4];

        for (uint32_t i = 0; i < 4; i++) {
            uint64_t bytes = spool_record_bytes_max(world.spool) / 3;

            message_make(&world, &messages[i], round * 4 + i + 1, 2, bytes);
            spool_store(world.spool, &messages[i].store);
        }
        WORLD_UNTIL(&world, world.stored == (round + 1) * 4);
        for (uint32_t i = 0; i < 4; i++) {
            uint64_t number;

            cr_assert_eq(messages[i].store.error, 0);
            number = spool_segment_number(world.spool, messages[i].store.place.segment);
            cr_assert_geq(number, numbers[i], "numbers ascend");
            numbers[i] = number;
            message_free(&world, &messages[i]);
            message_check(&world, &messages[i]);
            message_forget(&world, &messages[i]);
        }
        recycled += world.spool->active != NULL && world.spool->active->recycled;
        cr_assert_leq(world_files(&world, ""), 10);
    }
    world_settle(&world);
    cr_assert_eq(live_records(&world), 0);
    cr_assert_eq(world_files(&world, ".spare"), world.counters->spool_segments_spare);
    cr_assert_gt(recycled, ROUNDS / 2, "files were used again %u times", recycled);
    cr_assert_eq(world.counters->spool_bytes_live, 0);
    cr_assert_eq(world.counters->spool_errors, 0);
    world_stop(&world);
    /* An empty spool leaves nothing behind. */
    cr_assert_eq(world_files(&world, ".seg"), 0);
    cr_assert_eq(world_files(&world, ".spare"), 0);
    world_start(&world);
    cr_assert_not(world.directory.unclean);
    world_close(&world);
}

/* --- marks --- */

static void
collect_found(struct world *world, const struct spool_event *event)
{
    struct message **found = world->context;
    unsigned seed;

    if (event->kind != SPOOL_FOUND)
        return;
    cr_assert_eq(sscanf(event->record->id, "ID%08X", &seed), 1);
    cr_assert_not_null(found[seed], "%s was found twice, or is finished", event->record->id);
    found[seed]->store.place = event->place;
    found[seed] = NULL;
}

/* Marks are what they were after a stop and a start, and what is finished is not found again. */
Test(spool, marks_stay)
{
    enum { COUNT = 60 };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct message messages[COUNT], *expected[COUNT + 1] = { 0 };
        struct world world;

        world_open(&world, places[place]);
        for (uint32_t i = 0; i < COUNT; i++) {
            message_store(&world, &messages[i], i + 1, 30, 2000);
            cr_assert_eq(messages[i].store.error, 0);
        }
        for (uint32_t i = 0; i < COUNT; i++) {
            const struct spool_place *at = &messages[i].store.place;

            if (i % 3 == 0) {
                message_forget(&world, &messages[i]);
                continue;
            }
            expected[i + 1] = &messages[i];
            for (uint32_t n = 0; n < 30; n += 1 + i % 2)
                spool_mark_set(world.spool, at, n,
                               (struct mark){ .state = n % 2 ? MARK_DELIVERED : MARK_PENDING,
                                              .flags = n == 4 ? MARK_HELD : 0,
                                              .attempts = (uint8_t)(i + 1),
                                              .due_s = 1000 + n });
            world_turn(&world, 0);
        }
        world_stop(&world);
        world_start(&world);
        cr_assert_not(world.directory.unclean);
        world.on_event = collect_found;
        world.context = expected;
        WORLD_UNTIL(&world, world.recovered > 0);
        world.on_event = NULL;
        cr_assert_eq(world.found, COUNT - COUNT / 3);
        for (uint32_t i = 0; i < COUNT; i++) {
            if (i % 3 == 0)
                continue;
            for (uint32_t n = 0; n < 30; n++) {
                struct mark mark = spool_mark(world.spool, &messages[i].store.place, n);
                bool set = n % (1 + i % 2) == 0;

                cr_assert_eq(mark.state, set && n % 2 ? MARK_DELIVERED : MARK_PENDING);
                cr_assert_eq(mark.flags, set && n == 4 ? MARK_HELD : 0);
                cr_assert_eq(mark.attempts, set ? i + 1 : 0);
                cr_assert_eq(mark.due_s, set ? 1000 + n : 0);
            }
            message_check(&world, &messages[i]);
            message_forget(&world, &messages[i]);
        }
        world_close(&world);
    }
}

/* Invariant 4: the two copies of a block are written in turn, so one of them always stands. */
Test(spool, marks_are_written_in_turn)
{
    struct world world;
    struct message message;
    const struct segment *segment;
    uint64_t sequences[2] = { 0 };

    world_open(&world, "/tmp");
    message_store(&world, &message, 1, 1, 100);
    segment = segment_at(world.spool, message.store.place.segment);
    for (uint32_t n = 1; n <= 6; n++) {
        uint64_t highest = 0;

        spool_mark_set(world.spool, &message.store.place, 0,
                       (struct mark){ .attempts = (uint8_t)n, .due_s = n });
        WORLD_UNTIL(&world, world.spool->dirty == NULL);
        for (unsigned copy = 0; copy < 2; copy++) {
            char block[SPOOL_BLOCK_BYTES];
            struct mark marks[MARKS_PER_BLOCK];
            uint64_t sequence = 0;

            world_read(&world, segment->number, segment_marks_offset(segment->slots, copy, 0),
                       block, sizeof(block));
            if (!mark_block_read(segment->number, 0, block, &sequence, marks)) {
                cr_assert(n == 1, "a copy is broken");
                continue;
            }
            cr_assert_eq(marks[0].attempts, sequence);
            cr_assert_geq(sequence, sequences[copy]);
            sequences[copy] = sequence;
            if (sequence > highest)
                highest = sequence;
        }
        cr_assert_eq(highest, n);
        cr_assert(n == 1 || sequences[0] + sequences[1] == 2 * n - 1, "both are of one batch");
    }
    message_forget(&world, &message);
    world_close(&world);
}

/* However many deliveries end one after the other, the disk is asked once in a while only. */
Test(spool, marks_that_follow_share_a_write)
{
    enum { RECIPIENTS = 200 };
    struct world world;
    struct message message;
    uint64_t began_ns, writes;

    world_open(&world, "/tmp");
    message_store(&world, &message, 1, RECIPIENTS, 100);
    began_ns = clock_now_ns();
    for (uint32_t i = 0; i < RECIPIENTS; i++) {
        spool_mark_set(world.spool, &message.store.place, i,
                       (struct mark){ .state = MARK_DELIVERED });
        world_turn(&world, NS_PER_MS / 10);
    }
    WORLD_UNTIL(&world, world.spool->dirty == NULL);
    writes = counter_get(&world.counters->spool_mark_writes);
    cr_assert_geq(writes, 1);
    cr_assert_leq(writes, 2 + (clock_now_ns() - began_ns) / SPOOL_MARKS_PAUSE_NS);
    message_forget(&world, &message);
    world_close(&world);
}

/* --- room (invariant 6) --- */

Test(spool, room_is_set_aside)
{
    struct world world;
    uint64_t room, taken = 0, again = 0;

    world_open(&world, "/tmp");
    world_settle(&world);
    room = (uint64_t)world.directory.room_bytes;
    cr_assert_gt(room, 1 << 20);
    cr_assert(spool_reserve(world.spool, 1000));
    cr_assert_not(spool_reserve(world.spool, room));
    cr_assert_neq(world.directory.full_bytes, 0);
    while (spool_reserve(world.spool, room / 4)) {
        taken++;
        cr_assert_leq(taken, 4);
    }
    cr_assert_geq(taken, 2); /* and the rest is for what is not a message's own octets */
    for (uint64_t i = 0; i < taken; i++)
        spool_unreserve(world.spool, room / 4);
    spool_unreserve(world.spool, 1000);
    cr_assert_eq(world.directory.reserved_bytes, 0);
    while (spool_reserve(world.spool, room / 4))
        again++;
    cr_assert_eq(again, taken);
    while (again-- > 0)
        spool_unreserve(world.spool, room / 4);
    world_close(&world);
}

/* A file system of its own, so small that it fills. False: not allowed here. */
static bool
small_disk(char path[64], const char *size)
{
    char options[64];

    snprintf(path, 64, "/tmp/ringpost-disk-XXXXXX");
    cr_assert_not_null(mkdtemp(path));
    snprintf(options, sizeof(options), "size=%s", size);
    if (mount("ringpost", path, "tmpfs", 0, options) == 0)
        return true;
    rmdir(path);
    return false;
}

static void
small_disk_end(const char *path)
{
    cr_assert_eq(umount(path), 0);
    cr_assert_eq(rmdir(path), 0);
}

/* Reserve, store, until there is no room; no store fails for want of it, then or later; when half
 * of it is gone there is room again. */
Test(spool, a_full_disk_is_told_before)
{
    enum { COUNT = 4000 };
    struct message *messages;
    char disk[64];
    struct world world;
    uint32_t count = 0;
    uint64_t bytes;

    if (!small_disk(disk, "12m"))
        cr_skip_test("needs the right to mount");
    messages = calloc(COUNT, sizeof(*messages));
    world_open(&world, disk);
    bytes = spool_record_bytes_max(world.spool) / 5;
    for (;;) {
        if (!spool_reserve(world.spool, bytes + 4096))
            break;
        message_store(&world, &messages[count], count + 1, 1, bytes);
        cr_assert_eq(messages[count].store.error, 0, "message %u: %s", count,
                     io_error_text(messages[count].store.error));
        spool_unreserve(world.spool, bytes + 4096);
        cr_assert_lt(++count, COUNT);
    }
    cr_assert_gt(count, 8);
    cr_assert_eq(world.counters->spool_errors, 0);
    cr_assert_neq(world.directory.full_bytes, 0);
    for (uint32_t i = 0; i < count; i++) {
        message_check(&world, &messages[i]);
        message_forget(&world, &messages[i]);
    }
    WORLD_UNTIL(&world, world.directory.full_bytes == 0);
    cr_assert(spool_reserve(world.spool, bytes));
    spool_unreserve(world.spool, bytes);
    world_close(&world);
    small_disk_end(disk);
    free(messages);
}

/* --- errors (invariant 3) --- */

/* The file of the active segment does not take writes any more. */
static void
break_active(struct world *world)
{
    struct segment *segment = world->spool->active;
    int broken;

    cr_assert_not_null(segment);
    broken = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cr_assert(broken >= 0);
    cr_assert_eq(dup2(broken, segment->file), segment->file);
    close(broken);
}

/* A segment that failed promises nothing more; what it promised before stays; the next one takes
 * over, and a start finds what was promised and nothing else. */
Test(spool, a_failed_write_is_an_error_and_no_promise)
{
    enum { COUNT = 20 };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct message before, messages[COUNT], after, *expected[COUNT + 3] = { 0 };
        struct world world;
        const struct segment *broken;

        world_open(&world, places[place]);
        message_store(&world, &before, COUNT + 1, 1, 1000);
        cr_assert_eq(before.store.error, 0);
        world_settle(&world);
        broken = world.spool->active;
        break_active(&world);
        for (uint32_t i = 0; i < COUNT; i++) {
            message_make(&world, &messages[i], i + 1, 1, 3000);
            spool_store(world.spool, &messages[i].store);
        }
        WORLD_UNTIL(&world, world.stored == 1 + COUNT);
        for (uint32_t i = 0; i < COUNT; i++) {
            cr_assert_lt(messages[i].store.error, 0);
            message_free(&world, &messages[i]);
        }
        cr_assert(broken->failed && broken->state == SEGMENT_SEALED);
        cr_assert_eq(broken->end, before.store.place.offset + before.store.place.bytes);
        cr_assert_eq(world.counters->spool_commits_failed, 1);
        WORLD_UNTIL(&world, world.spool->active != NULL && !world.spool->sick);
        cr_assert_neq(world.spool->active, broken);
        message_store(&world, &after, COUNT + 2, 1, 1000);
        cr_assert_eq(after.store.error, 0);
        cr_assert(spool_reserve(world.spool, 1000));
        spool_unreserve(world.spool, 1000);
        world_stop(&world);
        world_start(&world);
        expected[COUNT + 1] = &before;
        expected[COUNT + 2] = &after;
        world.on_event = collect_found;
        world.context = expected;
        WORLD_UNTIL(&world, world.recovered > 0);
        cr_assert_eq(world.found, 2);
        message_check(&world, &before);
        message_check(&world, &after);
        world_close(&world);
    }
}

/* Errors in a row, and a disk that works again: nobody waits for the next attempt's time. */
Test(spool, after_errors_in_a_row)
{
    struct world world;
    struct message message;
    uint64_t bytes;
    uint32_t seed = 0;

    world_open(&world, "/tmp");
    bytes = spool_record_bytes_max(world.spool) / 5;
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 3; i++) {
            message_store(&world, &message, ++seed, 1, bytes);
            cr_assert_eq(message.store.error, 0);
        }
        WORLD_UNTIL(&world, world.spool->ready != NULL);
        break_active(&world);
        message_store(&world, &message, ++seed, 1, bytes);
        cr_assert_lt(message.store.error, 0);
    }
    for (uint32_t i = 0; i < 15; i++) {
        message_store(&world, &message, ++seed, 1, bytes);
        cr_assert_eq(message.store.error, 0, "message %u: %s", i,
                     io_error_text(message.store.error));
        cr_assert_not(world.spool->sick);
    }
    world_close(&world);
}

/* The record that is spread over groups, and what was gathered behind it, fail together. */
Test(spool, a_half_written_record_fails_with_its_segment)
{
    struct world world;
    struct message large, small;

    world_open(&world, "/tmp");
    world.config.spool.segment = 8 * WORLD_SEGMENT_BYTES;
    world_stop(&world);
    world_start(&world);
    WORLD_UNTIL(&world, world.spool->active != NULL);
    world_settle(&world);
    break_active(&world);
    message_make(&world, &large, 1, 1, SPOOL_STAGING_BYTES * 5 / 2);
    message_make(&world, &small, 2, 1, 100);
    if (large.store.place.bytes < spool_record_bytes_max(world.spool)) {
        spool_store(world.spool, &large.store);
        spool_store(world.spool, &small.store);
        WORLD_UNTIL(&world, world.stored == 2);
        cr_assert_lt(large.store.error, 0);
        /* The small one waited behind it and went to the next segment. */
        cr_assert_eq(small.store.error, 0);
        message_check(&world, &small);
    }
    message_free(&world, &large);
    message_free(&world, &small);
    world_close(&world);
}

/* No segment can be made: stores get the error, spool_reserve() says no, and by itself it comes
 * back. */
Test(spool, sick_and_well_again)
{
    struct world world;
    struct message message;
    struct rlimit limit, none;

    world_open(&world, "/tmp");
    message_store(&world, &message, 1, 1, 100);
    cr_assert_eq(message.store.error, 0);
    world_settle(&world);
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    none = limit;
    none.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
    /* The active one, the one that was prepared, and then none. */
    for (uint32_t i = 0; i < 20 && !world.spool->sick; i++) {
        message_store(&world, &message, i + 2, 1, 3000);
        cr_assert_lt(message.store.error, 0);
    }
    WORLD_UNTIL(&world, world.spool->sick);
    cr_assert_eq(world.counters->spool_sick, 1);
    cr_assert_not(spool_reserve(world.spool, 100));
    message_store(&world, &message, 100, 1, 3000);
    cr_assert_lt(message.store.error, 0);
    cr_assert_lt(spool_wakes_ns(world.spool), clock_now_ns() + 2 * NS_PER_S);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    WORLD_UNTIL(&world, !world.spool->sick);
    cr_assert_eq(world.counters->spool_sick, 0);
    cr_assert(spool_reserve(world.spool, 100));
    spool_unreserve(world.spool, 100);
    message_store(&world, &message, 101, 1, 3000);
    cr_assert_eq(message.store.error, 0);
    message_check(&world, &message);
    world_close(&world);
}

/* What is damaged on the disk is an error of the load, and nothing else. */
Test(spool, damage_is_found_when_it_is_loaded)
{
    static const struct {
        const char *name;
        uint64_t at; /* in the record; from its end when large */
    } rows[] = {
        { "header", 8 },
        { "envelope", RECORD_HEADER_BYTES + 3 },
        { "body", RECORD_HEADER_BYTES + 500 },
        { "last octet of the body", UINT64_MAX - 80 },
        { "trailer", UINT64_MAX - 64 },
    };
    struct world world;

    world_open(&world, "/tmp");
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct message message, whole;
        struct spool_load load;
        uint64_t number, offset, found;
        char octet;

        message_store(&world, &whole, (uint32_t)i + 100, 1, 300);
        /* So long that the trailer begins 64 octets before the end: no padding in between. */
        message_make(&world, &message, (uint32_t)i + 1, 1, 40000);
        message.store.record.envelope_bytes =
            (uint32_t)record_envelope_bytes(&message.envelope, &message.store.origin);
        message_free(&world, &message);
        found = (RECORD_HEADER_BYTES + message.store.record.envelope_bytes) % RECORD_ALIGNMENT;
        message_store(&world, &message, (uint32_t)i + 1, 1, 40000 / 64 * 64 - found);
        cr_assert_eq(message.store.error, 0);
        number = spool_segment_number(world.spool, message.store.place.segment);
        offset =
            message.store.place.offset +
            (rows[i].at < UINT64_MAX / 2 ? rows[i].at
                                         : message.store.place.bytes - (UINT64_MAX - rows[i].at));
        world_read(&world, number, offset, &octet, 1);
        octet = (char)(octet ^ 0x10);
        world_write(&world, number, offset, &octet, 1);
        load = (struct spool_load){ .place = message.store.place, .buffers = &world.buffers };
        found = world.counters->spool_quarantined;
        spool_load(world.spool, &load);
        WORLD_UNTIL(&world, world.spool->loads_open == 0);
        cr_assert_eq(load.error, -EBADMSG, "%s: %d", rows[i].name, load.error);
        cr_assert_eq(load.body.count, 0);
        cr_assert_eq(world.counters->spool_quarantined, found + 1);
        message_check(&world, &whole);
    }
    world_close(&world);
}

/* Without buffers a load says so, keeps none, and works later. */
Test(spool, loads_without_buffers)
{
    struct world world;
    struct message message;
    struct spool_load load;
    struct chain all;

    world_open(&world, "/tmp");
    message_store(&world, &message, 1, 1, 3 * BUFFER_BYTES);
    all = world_body(&world, 0, (uint64_t)(WORLD_BUFFERS / 2) * (BUFFER_BYTES - 200));
    while (world.buffers.free_count > 2)
        chain_append(&world.buffers, &all, buffer_take(&world.buffers, 0), 0, 1);
    load = (struct spool_load){ .place = message.store.place, .buffers = &world.buffers };
    spool_load(world.spool, &load);
    WORLD_UNTIL(&world, world.spool->loads_open == 0);
    cr_assert_eq(load.error, -ENOBUFS);
    cr_assert_eq(world.buffers.free_count, 2);
    chain_release(&world.buffers, &all);
    message_check(&world, &message);
    message_forget(&world, &message);
    world_close(&world);
}

/* More loads than areas: they take turns, and a segment stays while one is read. */
Test(spool, many_loads_at_once)
{
    enum { COUNT = 3 * SPOOL_LOADS_MAX };
    struct message messages[COUNT];
    struct spool_load loads[COUNT];
    struct world world;

    world_open(&world, "/tmp");
    for (uint32_t i = 0; i < COUNT; i++)
        message_store(&world, &messages[i], i + 1, 1, i * 100);
    for (uint32_t i = 0; i < COUNT; i++) {
        loads[i] =
            (struct spool_load){ .place = messages[i].store.place, .buffers = &world.buffers };
        spool_load(world.spool, &loads[i]);
    }
    WORLD_UNTIL(&world, world.loaded == COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_eq(loads[i].error, 0);
        cr_assert(world_body_is(&world, &loads[i].body, i + 1, i * 100));
        chain_release(&world.buffers, &loads[i].body);
        message_forget(&world, &messages[i]);
    }
    world_close(&world);
}

/* --- the stop --- */

Test(spool, the_stop_writes_everything)
{
    enum { COUNT = 40 };
    struct message messages[COUNT], late, *expected[COUNT + 1] = { 0 };
    struct world world;

    world_open(&world, "/tmp");
    WORLD_UNTIL(&world, world.spool->active != NULL);
    for (uint32_t i = 0; i < COUNT; i++) {
        message_make(&world, &messages[i], i + 1, 1, 5000);
        spool_store(world.spool, &messages[i].store);
        expected[i + 1] = &messages[i];
    }
    cr_assert_not(spool_idle(world.spool));
    spool_stop(world.spool);
    cr_assert_not(spool_reserve(world.spool, 1));
    message_make(&world, &late, COUNT + 1, 1, 10);
    spool_store(world.spool, &late.store);
    cr_assert_not(late.stored);
    WORLD_UNTIL(&world, spool_idle(world.spool));
    cr_assert(late.stored);
    cr_assert_eq(late.store.error, -ECANCELED);
    message_free(&world, &late);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert(messages[i].stored);
        cr_assert_eq(messages[i].store.error, 0);
        message_free(&world, &messages[i]);
    }
    world_end(&world, true);
    world_start(&world);
    world.on_event = collect_found;
    world.context = expected;
    WORLD_UNTIL(&world, world.recovered > 0);
    cr_assert_eq(world.found, COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        message_check(&world, &messages[i]);
    world_close(&world);
}

/* A crash loses nothing that was promised, whatever marks and segments were about to do. */
Test(spool, a_crash_loses_no_promise)
{
    enum { COUNT = 50 };

    for (size_t place = 0; place < COUNT_OF(places); place++) {
        struct message messages[COUNT], *expected[COUNT + 1] = { 0 };
        struct world world;

        world_open(&world, places[place]);
        for (uint32_t i = 0; i < COUNT; i++) {
            message_make(&world, &messages[i], i + 1, 1, (i * 977) % 20000);
            spool_store(world.spool, &messages[i].store);
        }
        while (world.stored < COUNT / 2)
            world_turn(&world, NS_PER_MS);
        for (uint32_t i = 0; i < COUNT; i++)
            if (messages[i].stored)
                expected[i + 1] = &messages[i];
        world_crash(&world);
        for (uint32_t i = 0; i < COUNT; i++) {
            /* One that was not promised may be there or not. */
            if (!messages[i].stored)
                expected[i + 1] = &messages[i];
            message_free(&world, &messages[i]);
        }
        world_start(&world);
        cr_assert(world.directory.unclean);
        world.on_event = collect_found;
        world.context = expected;
        WORLD_UNTIL(&world, world.recovered > 0);
        for (uint32_t i = 0; i < COUNT; i++) {
            cr_assert(!messages[i].stored || expected[i + 1] == NULL, "message %u is lost", i);
            if (expected[i + 1] == NULL)
                message_check(&world, &messages[i]);
        }
        world_close(&world);
    }
}
