/* Recovery of what the process before left: every message that is not finished is found once, by
 * whatever number of workers, and nothing else is. */
#include <criterion/criterion.h>

#include "tests/unit/recover_world.h"

/* a, b (three recipients), c, d, in two groups. */
static void
four_put(struct image *image, uint64_t number)
{
    image_new(image, number);
    (void)image_add(image, &(struct image_record){ .id = "a", .body_bytes = 500 });
    (void)image_add(image, &(struct image_record){ .id = "b", .recipients = 3 });
    image_group(image);
    (void)image_add(image, &(struct image_record){ .id = "c", .body_bytes = 9000 });
    (void)image_add(image, &(struct image_record){ .id = "d" });
}

/* --- marks --- */

Test(spool_recover, finished_and_not)
{
    static const struct {
        const char *name;
        uint32_t slot, count;
        enum mark_state state;
        const char *want;
    } rows[] = {
        { "nothing marked", 0, 0, MARK_PENDING, "a b c d" },
        { "a delivered", 0, 1, MARK_DELIVERED, "b c d" },
        { "b failed in part", 1, 2, MARK_FAILED, "a b c d" },
        { "b failed", 1, 3, MARK_FAILED, "a c d" },
        { "b removed, and a in front of it", 0, 4, MARK_REMOVED, "c d" },
        { "d delivered", 5, 1, MARK_DELIVERED, "a b c" },
        { "pending by mark", 0, 6, MARK_PENDING, "a b c d" },
        { "all", 0, 6, MARK_DELIVERED, "" },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (unsigned sealed = 0; sealed < 2; sealed++) {
            struct world world;
            struct image image;

            world_begin(&world);
            four_put(&image, 9);
            if (rows[i].count > 0)
                (void)image_mark(&image, i % 2, 5, rows[i].slot, rows[i].count, rows[i].state);
            if (sealed)
                image_seal(&image);
            world_put_image(&world, &image);
            world_recover(&world, 1);
            cr_assert_str_eq(world_ids(&world), rows[i].want, "%s", rows[i].name);
            cr_assert_eq(WORLD_COUNT(&world, spool_recovered), world.found_count);
            cr_assert_eq(WORLD_COUNT(&world, spool_quarantined), 0);
            cr_assert_eq(WORLD_COUNT(&world, spool_errors), 0, "%s", world.log);
            cr_assert_eq(spool_progress(world.spool[0]).messages, world.found_count);
            cr_assert_eq(spool_progress(world.spool[0]).segments_done, 1);
            for (uint32_t k = 0; k < world.found_count; k++)
                cr_assert_eq(spool_segment_number(world.spool[0], world.found[k].place.segment), 9);
            world_close(&world, true);
            /* What is finished goes, what is not is there at the next start, too. */
            cr_assert_eq(world_has(&world, world_segment(9)), rows[i].want[0] != '\0');
            world_recover(&world, 1);
            cr_assert_str_eq(world_ids(&world), rows[i].want, "%s, again", rows[i].name);
            world_close(&world, true);
            image_free(&image);
            world_end(&world);
        }
}

/* The copies of a mark block are written in turn; a crash tears one of them. */
Test(spool_recover, marks_of_both_copies)
{
    enum copy { NONE_AT_ALL, OLD, NEW, TORN, OTHER_SEGMENT };
    static const struct {
        enum copy copies[2];
        const char *want;
    } rows[] = {
        { { NONE_AT_ALL, NONE_AT_ALL }, "a b c d" },
        { { OLD, NONE_AT_ALL }, "b c d" },
        { { NONE_AT_ALL, OLD }, "b c d" },
        { { OLD, NEW }, "c d" },
        { { NEW, OLD }, "c d" },
        { { OLD, TORN }, "b c d" },
        { { TORN, OLD }, "b c d" },
        { { NEW, TORN }, "c d" },
        { { TORN, TORN }, "a b c d" },
        { { OTHER_SEGMENT, OLD }, "b c d" },
        { { OTHER_SEGMENT, TORN }, "a b c d" },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct world world;
        struct image image, other;

        world_begin(&world);
        four_put(&image, 9);
        four_put(&other, 8);
        for (unsigned k = 0; k < 2; k++) {
            char *block = image.octets + segment_marks_offset(image.header.slots, k, 0);

            switch (rows[i].copies[k]) {
            case NONE_AT_ALL: break;
            case OLD: (void)image_mark(&image, k, 7, 0, 1, MARK_DELIVERED); break;
            case NEW: (void)image_mark(&image, k, 8, 0, 4, MARK_DELIVERED); break;
            case TORN: /* its second half is what was there before */
                (void)image_mark(&image, k, 8, 0, 4, MARK_DELIVERED);
                (void)image_mark(&other, k, 6, 0, 1, MARK_DELIVERED);
                memcpy(block + 2048,
                       other.octets + segment_marks_offset(other.header.slots, k, 0) + 2048, 2048);
                break;
            case OTHER_SEGMENT:
                memcpy(block, image_mark(&other, k, 9, 0, 6, MARK_DELIVERED), SPOOL_BLOCK_BYTES);
                break;
            }
        }
        world_put_image(&world, &image);
        world_recover(&world, 1);
        cr_assert_str_eq(world_ids(&world), rows[i].want, "row %zu", i);
        world_close(&world, false);
        image_free(&image);
        image_free(&other);
        world_end(&world);
    }
}

/* Marks that are set after the start go on from the copy that counted. */
Test(spool_recover, marks_go_on)
{
    struct world world;
    struct image image;

    world_begin(&world);
    four_put(&image, 9);
    (void)image_mark(&image, 1, 41, 0, 1, MARK_DELIVERED);
    image_seal(&image);
    world_put_image(&world, &image);
    for (uint32_t i = 0; i < 3; i++) {
        static const char *const want[] = { "b c d", "c d", "d" };
        static const char *const id[] = { "b", "c", "d" };
        const struct mark delivered = { .state = MARK_DELIVERED };
        const struct world_found *found;

        world_recover(&world, 1);
        cr_assert_str_eq(world_ids(&world), want[i]);
        found = world_found_of(&world, id[i]);
        for (uint32_t k = 0; k < found->recipients; k++)
            spool_mark_set(world.spool[0], &found->place, k, delivered);
        spool_forget(world.spool[0], &found->place, found->id, false);
        world_close(&world, true);
    }
    cr_assert_eq(world_files(&world), 1); /* "clean" */
    image_free(&image);
    world_end(&world);
}

/* --- many segments, many workers --- */

Test(spool_recover, any_number_of_workers)
{
    for (uint32_t workers = 1; workers <= WORLD_WORKERS_MAX; workers++) {
        struct world world;
        char want[256] = "";

        world_begin(&world);
        for (unsigned i = 0; i < 7; i++) {
            struct image image;
            char ids[3][8];

            image_new(&image, 0x100000000 + i * 3);
            for (unsigned k = 0; k < 3; k++) {
                (void)snprintf(ids[k], sizeof(ids[k]), "m%u%u", i, k);
                (void)image_add(&image, &(struct image_record){ .id = ids[k] });
                (void)snprintf(want + strlen(want), sizeof(want) - strlen(want), "%s%s",
                               i + k == 0 ? "" : " ", ids[k]);
            }
            if (i % 2 == 0)
                image_seal(&image);
            world_put_image(&world, &image);
            image_free(&image);
        }
        world_recover(&world, workers);
        cr_assert_str_eq(world_ids(&world), want, "%u workers: %s", workers, world_ids(&world));
        cr_assert_eq(world.directory.recovering, 0);
        for (uint32_t i = 0; i < workers; i++) {
            struct spool_progress progress = spool_progress(world.spool[i]);

            cr_assert_eq(progress.segments, progress.segments_done);
            cr_assert_eq(progress.segments, 7 / workers + (i < 7 % workers));
            cr_assert_eq(world.counters[i].spool_recovery_segments, 0);
        }
        world_close(&world, true);
        world_end(&world);
    }
}

Test(spool_recover, twenty_thousand_messages, .timeout = 60)
{
    enum { MESSAGES = 20000 };
    struct world world;
    struct image image = { .octets = NULL };
    uint64_t number = 5;
    bool *seen = calloc(MESSAGES, sizeof(*seen));
    uint64_t start_ns;

    cr_assert_not_null(seen);
    world_begin(&world);
    for (unsigned i = 0; i < MESSAGES; i++) {
        char id[16];

        if (image.octets == NULL)
            image_new(&image, number++);
        (void)snprintf(id, sizeof(id), "%u", i);
        (void)image_add(&image, &(struct image_record){ .id = id, .body_bytes = 300 });
        if (i % 50 == 49)
            image_group(&image);
        if (image.end + 4096 > image.header.bytes || i == MESSAGES - 1) {
            if (i != MESSAGES - 1)
                image_seal(&image);
            world_put_image(&world, &image);
            image_free(&image);
            image.octets = NULL;
        }
    }
    start_ns = clock_now_ns();
    world_recover(&world, 2);
    cr_assert_lt(clock_now_ns() - start_ns, 20 * NS_PER_S);
    cr_assert_eq(world.found_count, MESSAGES);
    for (unsigned i = 0; i < MESSAGES; i++) {
        unsigned long at = strtoul(world.found[i].id, NULL, 10);

        cr_assert(at < MESSAGES && !seen[at]);
        seen[at] = true;
    }
    cr_assert_not_null(strstr(world.log, "spool_recovery worker=1, state=done"), "%s", world.log);
    world_close(&world, true);
    free(seen);
    world_end(&world);
}

/* A stop in the middle, at any point: nothing is sealed too early, nothing is lost or kept. */
static uint64_t stop_after;

static bool
has_seen_enough(const struct world *world, uint32_t worker)
{
    (void)worker;
    return world->completions >= stop_after ||
           (world_is_recovered(world, 0) && world_is_recovered(world, 1));
}

Test(spool_recover, stopped_in_the_middle)
{
    struct world world;

    world_begin(&world);
    for (unsigned i = 0; i < 4; i++) {
        struct image image;
        char ids[2][8];

        image_new(&image, 50 + i);
        for (unsigned k = 0; k < 2; k++) {
            (void)snprintf(ids[k], sizeof(ids[k]), "m%u%u", i, k);
            (void)image_add(&image, &(struct image_record){ .id = ids[k], .body_bytes = 20000 });
        }
        world_put_image(&world, &image);
        image_free(&image);
    }
    for (stop_after = 0; stop_after < 30; stop_after++) {
        world_open(&world, 2);
        world_run(&world, has_seen_enough);
        world_close(&world, stop_after % 2 == 0);
    }
    world_recover(&world, 1);
    cr_assert_str_eq(world_ids(&world), "m00 m01 m10 m11 m20 m21 m30 m31");
    cr_assert_eq(WORLD_COUNT(&world, spool_quarantined), 0, "%s", world.log);
    world_close(&world, true);
    world_end(&world);
}

/* --- messages that were being copied --- */

enum original { WHOLE, GONE, OTHER_DAMAGED, DAMAGED, HEADER_DAMAGED, FINISHED };

/* number 20 has "a" and "b"; 30 has "x" and a copy of "b". */
static void
moved_put(struct world *world, enum original original)
{
    struct image from, to;
    uint64_t a, b;

    image_new(&from, 20);
    a = image_add(&from, &(struct image_record){ .id = "a" });
    b = image_add(&from, &(struct image_record){ .id = "b", .recipients = 2 });
    image_seal(&from);
    if (original == OTHER_DAMAGED)
        from.octets[a + 8] ^= 1;
    if (original == DAMAGED)
        from.octets[b + RECORD_HEADER_BYTES + 3] ^= 1;
    if (original == HEADER_DAMAGED)
        from.octets[20] ^= 1;
    if (original == FINISHED)
        (void)image_mark(&from, 0, 1, 1, 2, MARK_DELIVERED);
    if (original != GONE)
        world_put_image(world, &from);
    image_new(&to, 30);
    (void)image_add(&to, &(struct image_record){ .id = "x" });
    (void)image_add(&to, &(struct image_record){
                             .id = "b", .recipients = 2, .moved_segment = 20, .moved_slot = 1 });
    world_put_image(world, &to);
    image_free(&from);
    image_free(&to);
}

Test(spool_recover, copies)
{
    static const struct {
        const char *name;
        enum original original;
        const char *want, *later;
        uint64_t counts; /* segment of the one that does; 0: none */
    } rows[] = {
        { "both: the original counts", WHOLE, "a b x", "x", 20 },
        { "the copy alone", GONE, "b x", "b x", 30 },
        { "the original's neighbour is damaged", OTHER_DAMAGED, "b x", "x", 20 },
        { "a damaged original: the copy counts", DAMAGED, "a b x", "b x", 30 },
        { "its segment's header is damaged", HEADER_DAMAGED, "a b x", "x", 20 },
        { "the original was delivered since", FINISHED, "a x", "x", 0 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (uint32_t workers = 1; workers <= 3; workers++) {
            struct world world;

            world_begin(&world);
            moved_put(&world, rows[i].original);
            world_recover(&world, workers);
            cr_assert_str_eq(world_ids(&world), rows[i].want, "%s, %u workers: %s", rows[i].name,
                             workers, world_ids(&world));
            if (rows[i].counts != 0)
                cr_assert_eq(spool_segment_number(world.spool[world_found_of(&world, "b")->worker],
                                                  world_found_of(&world, "b")->place.segment),
                             rows[i].counts);
            world_close(&world, true);
            /* Without the original's file: a copy that was passed over stays so. */
            if (rows[i].original != GONE)
                cr_assert_eq(unlink(world_file(&world, world_segment(20))), 0);
            world_recover(&world, workers);
            cr_assert_str_eq(world_ids(&world), rows[i].later, "%s, later", rows[i].name);
            world_close(&world, true);
            world_end(&world);
        }
}

/* The copy's worker is done with its own segment long before the original's has begun. */
Test(spool_recover, copies_wait_for_their_originals)
{
    struct world world;

    world_begin(&world);
    moved_put(&world, WHOLE);
    world_open(&world, 2);
    for (unsigned i = 0; i < 200; i++) {
        world_turn(&world, 1);
        (void)usleep(200);
    }
    cr_assert_str_eq(world_ids(&world), "x");
    cr_assert_eq(spool_progress(world.spool[1]).segments_done, 1);
    cr_assert_not(world.recovered[1]);
    world_run(&world, world_is_recovered);
    cr_assert_str_eq(world_ids(&world), "a b x");
    cr_assert_eq(world_found_of(&world, "b")->worker, 0);
    world_close(&world, true);
    world_end(&world);
}
