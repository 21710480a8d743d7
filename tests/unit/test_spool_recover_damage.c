/* Recovery when disks have failed: what can be read is found, what cannot is told with file and
 * offset, and stays where people can look at it. */
#include <criterion/criterion.h>

#include <errno.h>

#include "relay/spool/recovery.h"
#include "tests/unit/recover_world.h"

/* --- octets that are not what they were --- */

struct four {
    struct image image;
    uint64_t at[5];
};

/* a, b with a mark each; c, d. a is delivered. */
static void
four_begin(struct four *four, uint64_t number, bool sealed)
{
    static const struct image_record records[4] = {
        { .id = "a" },
        { .id = "b", .recipients = 2, .body_bytes = 3000 },
        { .id = "c", .body_bytes = 9000 },
        { .id = "d" },
    };

    image_new(&four->image, number);
    for (size_t i = 0; i < 4; i++) {
        if (i == 2)
            image_group(&four->image);
        four->at[i] = image_add(&four->image, &records[i]);
    }
    four->at[4] = four->image.end;
    (void)image_mark(&four->image, 0, 1, 0, 1, MARK_DELIVERED);
    if (sealed)
        image_seal(&four->image);
}

enum region { HEADER, SEAL, MARKS, RECORD_B, ENVELOPE_C, BODY_C, RECORD_D };

static uint64_t
region_offset(const struct four *four, enum region region)
{
    switch (region) {
    case HEADER: return 33;
    case SEAL: return SPOOL_BLOCK_BYTES + 17;
    case MARKS: return segment_marks_offset(four->image.header.slots, 0, 0) + 4000;
    case RECORD_B: return four->at[1] + 16;
    case ENVELOPE_C: return four->at[2] + RECORD_HEADER_BYTES + 30;
    case BODY_C: return four->at[2] + 4000;
    case RECORD_D: return four->at[3] + 127;
    }
    return 0;
}

struct damage_row {
    const char *name;
    enum region region;
    const char *sealed, *open;  /* what is found */
    int told_sealed, told_open; /* quarantined: the number of the record, 4 for offset 0,
                                 * -1: nothing */
};

static const struct damage_row damage_rows[] = {
    { "header", HEADER, "b c d", "b c d", 4, 4 },
    { "seal", SEAL, "b c d", "b c d", -1, -1 },
    { "marks", MARKS, "a b c d", "a b c d", -1, -1 },
    { "a record's header", RECORD_B, "c d", "c d", 1, 1 },
    { "an envelope", ENVELOPE_C, "b d", "b d", 2, 2 },
    { "a body", BODY_C, "b c d", "b d", -1, 2 },
    { "the last record's header", RECORD_D, "b c", "b c", 3, -1 },
};

static void
check_damage(const struct damage_row *row, bool sealed)
{
    const char *want = sealed ? row->sealed : row->open;
    int told = sealed ? row->told_sealed : row->told_open;
    struct four four, other;
    struct world world;

    world_begin(&world);
    four_begin(&four, 9, sealed);
    four_begin(&other, 10, true);
    memcpy(other.image.octets + other.at[0], "none", 4); /* only to have another segment */
    four.image.octets[region_offset(&four, row->region)] ^= 0x40;
    world_put_image(&world, &four.image);
    for (unsigned start = 0; start < 2; start++) {
        world_recover(&world, 1);
        cr_assert_str_eq(world_ids(&world), want, "%s, %s, start %u: \"%s\"\n%s", row->name,
                         sealed ? "sealed" : "not sealed", start, world_ids(&world), world.log);
        cr_assert_eq(WORLD_COUNT(&world, spool_quarantined), told < 0 ? 0 : 1, "%s: %s", row->name,
                     world.log);
        if (told >= 0)
            cr_assert(world_told(&world, "spool_quarantined", world_segment(9),
                                 told == 4 ? 0 : four.at[told]),
                      "%s: %s", row->name, world.log);
        world_close(&world, start == 1);
    }
    image_free(&four.image);
    image_free(&other.image);
    world_end(&world);
}

Test(spool_damage, one_octet)
{
    for (size_t i = 0; i < COUNT_OF(damage_rows); i++) {
        check_damage(&damage_rows[i], true);
        check_damage(&damage_rows[i], false);
    }
}

static bool
is_quiet(const struct world *world, uint32_t worker)
{
    const struct spool *spool = world->spool[worker];

    return spool->jobs_running == 0 && spool->jobs == NULL && spool->operations.used == 0 &&
           spool->dirty == NULL && spool->record_segments <= 1;
}

/* A damaged segment whose messages are all done is kept, under another name. */
Test(spool_damage, kept_for_people)
{
    for (unsigned finished_before = 0; finished_before < 2; finished_before++) {
        static const char *const done[] = { "b", "c" };
        const struct mark delivered = { .state = MARK_DELIVERED };
        struct world world;
        struct four four;
        char damaged[SPOOL_NAME_BYTES];

        found_damaged_name(9, damaged);
        world_begin(&world);
        four_begin(&four, 9, true);
        four.image.octets[four.at[3] + 8] ^= 1;
        if (finished_before)
            (void)image_mark(&four.image, 1, 2, 0, 5, MARK_FAILED);
        world_put_image(&world, &four.image);
        world_recover(&world, 1);
        cr_assert_str_eq(world_ids(&world), finished_before ? "" : "b c");
        for (size_t i = 0; i < 2 && !finished_before; i++) {
            const struct world_found *found = world_found_of(&world, done[i]);

            for (uint32_t k = 0; k < found->recipients; k++)
                spool_mark_set(world.spool[0], &found->place, k, delivered);
            spool_forget(world.spool[0], &found->place, found->id, false);
        }
        world_run(&world, is_quiet);
        cr_assert(world_has(&world, damaged), "%s", world.log);
        cr_assert_not(world_has(&world, world_segment(9)));
        world_close(&world, true);
        /* And is spoken of at each start. */
        world_recover(&world, 1);
        cr_assert_not_null(strstr(world.log, "1 damaged segment"), "%s", world.log);
        cr_assert_eq(world.found_count, 0);
        cr_assert(world_has(&world, damaged));
        world_close(&world, true);
        image_free(&four.image);
        world_end(&world);
    }
}

/* --- files that are not what their names say --- */

Test(spool_damage, files_of_any_kind)
{
    static const char noise[100] = { 'n', 'o', 'i', 's', 'e' };
    struct four four, other;
    struct world world;
    char *zeros = calloc(1, WORLD_SEGMENT_BYTES);
    char damaged[6][SPOOL_NAME_BYTES];
    uint32_t format = 2;

    cr_assert_not_null(zeros);
    world_begin(&world);
    four_begin(&four, 0x10, true);
    world_put_image(&world, &four.image);
    /* Of another version: its first twelve octets say so. */
    memcpy(four.image.octets + 8, &format, sizeof(format));
    memset(four.image.octets + SPOOL_BLOCK_BYTES, 7, WORLD_SEGMENT_BYTES - SPOOL_BLOCK_BYTES);
    world_put(&world, world_segment(0x11), four.image.octets, WORLD_SEGMENT_BYTES);
    world_put(&world, world_segment(0x12), "", 0);
    world_put(&world, world_segment(0x13), noise, sizeof(noise));
    world_put(&world, world_segment(0x14), zeros, WORLD_SEGMENT_BYTES);
    /* Under a name that is not its own: none of its octets count. */
    four_begin(&other, 0x20, true);
    world_put(&world, world_segment(0x15), other.image.octets, WORLD_SEGMENT_BYTES);
    world_put(&world, "README", noise, sizeof(noise));
    world_put(&world, "0000000000000010.SEG", noise, sizeof(noise));
    world_put(&world, "0000000000000000.seg", noise, sizeof(noise));
    world_put(&world, "000000000000010.seg", noise, sizeof(noise));
    world_put(&world, "0000000000000031.spare", zeros, 8192);

    world_recover(&world, 2);
    cr_assert_str_eq(world_ids(&world), "b c d", "%s", world.log);
    cr_assert(world_has(&world, world_segment(0x11)));
    cr_assert(world_told(&world, "spool_quarantined", world_segment(0x11), 0), "%s", world.log);
    cr_assert_not_null(strstr(world.log, "another version"));
    for (unsigned i = 2; i < 6; i++) {
        found_damaged_name(0x10 + i, damaged[i]);
        cr_assert(world_has(&world, damaged[i]), "%s", damaged[i]);
        cr_assert_not(world_has(&world, world_segment(0x10 + i)));
        cr_assert(world_told(&world, "spool_quarantined", world_segment(0x10 + i), 0), "%s",
                  world.log);
    }
    cr_assert_eq(WORLD_COUNT(&world, spool_quarantined), 5);
    cr_assert_not_null(strstr(world.log, "4 files do not belong there"), "%s", world.log);
    cr_assert(world_has(&world, "README") && world_has(&world, "0000000000000010.SEG") &&
              world_has(&world, "0000000000000000.seg") &&
              world_has(&world, "000000000000010.seg"));
    cr_assert_not(world_has(&world, "0000000000000031.spare"));
    /* No number that any of them has is used again. */
    cr_assert_gt(world.directory.next_number, 0x31);
    world_close(&world, true);
    image_free(&four.image);
    image_free(&other.image);
    free(zeros);
    world_end(&world);
}

Test(spool_damage, files_cut_short)
{
    static const struct {
        uint64_t keep; /* octets behind the start of record .. */
        unsigned record;
        const char *want;
    } rows[] = {
        { 0, 4, "b c d" }, /* nothing but free space is missing */
        { 0, 3, "b c" },   { 4096, 2, "b" }, { 0, 2, "b" }, { 100, 1, "" },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (unsigned sealed = 0; sealed < 2; sealed++) {
            struct four four;
            struct world world;
            uint64_t keep;

            world_begin(&world);
            four_begin(&four, 9, sealed);
            keep = four.at[rows[i].record] + rows[i].keep;
            world_put(&world, world_segment(9), four.image.octets, keep);
            world_recover(&world, 1);
            /* A block that is there in part is not read (direct I/O is in blocks). */
            keep -= keep % SPOOL_BLOCK_BYTES;
            for (unsigned k = 1; k < 4; k++) {
                const char *id = &"abcd"[k];
                bool there = false;

                for (uint32_t m = 0; m < world.found_count; m++)
                    there = there || world.found[m].id[0] == *id;
                cr_assert_eq(there, four.at[k + 1] <= keep, "row %zu, %c", i, *id);
            }
            cr_assert_geq(WORLD_COUNT(&world, spool_quarantined), 1, "%s", world.log);
            world_close(&world, true);
            image_free(&four.image);
            world_end(&world);
        }
}

/* --- disks that fail while they are read --- */

static unsigned fail_at, fail_count; /* completions in a row, from 0 */
static int32_t fail_with;

static struct span stale; /* a record that is somewhere else in the file */

static int32_t
failing(struct world *world, int32_t result)
{
    const struct spool_recovery *recovery = world->spool[0]->recovery;

    if (world->completions < fail_at || world->completions >= fail_at + fail_count)
        return result;
    /* What a read that failed leaves in memory may look like anything. */
    for (uint32_t at = recovery->window_done;
         recovery->phase > PHASE_OPEN && recovery->phase <= PHASE_WALK &&
         at + stale.len <= recovery->window_len;
         at += (uint32_t)stale.len)
        memcpy(recovery->window + at, stale.data, stale.len);
    return fail_with;
}

/* The n-th operation ends with an error, for each n: what was not read is told, the rest is found
 * at this start, and all of it at the next, or its file stays for people. Without a seal what
 * cannot be read may look like room that was never written. */
Test(spool_damage, operations_fail)
{
    static const struct {
        const char *name;
        int32_t with;
        unsigned count;
        bool passing;        /* tried again: nothing is missing */
        bool block_by_block; /* the same for what was opened */
        bool open;           /* no seal */
    } rows[] = {
        { "once, of a pause", -EAGAIN, 1, true, false, false },
        { "some times, interrupted", -EINTR, 3, true, false, false },
        { "some times, inside a block", 512, 3, true, false, false },
        { "no seal, some times, inside a block", 1024, 3, true, false, true },
#ifndef LIMITS_TINY /* windows of one block */
        { "cannot be read at once", -EIO, 1, false, true, false },
#endif
        { "cannot be read", -EIO, 2, false, false, false },
        { "cannot be read, again and again", -EIO, 3, false, false, false },
        { "no seal, cannot be read", -EIO, 2, false, false, true },
        { "no seal, cannot be read, again and again", -EIO, 40, false, false, true },
        { "the file ends", 0, 1, false, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (fail_at = 0; fail_at < 12; fail_at++) {
            struct world world;
            struct four four;

            /* An open that "succeeds" with 0 would be another file. */
            if (rows[i].with >= 0 && fail_at == 0)
                continue;
            fail_with = rows[i].with;
            fail_count = rows[i].count;
            world_begin(&world);
            world.result = failing;
            four_begin(&four, 9, !rows[i].open);
            stale = span_of(four.image.octets + four.at[1], four.at[2] - four.at[1]);
            stale.len = stale.len / RECORD_ALIGNMENT * RECORD_ALIGNMENT;
            world_put_image(&world, &four.image);
            world_recover(&world, 1);
            for (const char *id = "bcd"; *id != '\0'; id++) {
                const char *first = strchr(world_ids(&world), *id);

                cr_assert(first == NULL || strchr(first + 1, *id) == NULL, "%s, %u: %s",
                          rows[i].name, fail_at, world_ids(&world));
            }
            if (rows[i].passing || (rows[i].block_by_block && fail_at > 0))
                cr_assert_str_eq(world_ids(&world), "b c d", "%s, %u: %s", rows[i].name, fail_at,
                                 world.log);
            else if (world.found_count < 3 && !rows[i].open)
                cr_assert_geq(WORLD_COUNT(&world, spool_quarantined), 1, "%s, %u: %s", rows[i].name,
                              fail_at, world.log);
            world_close(&world, true);
            world.result = NULL;
            if (!world_has(&world, world_segment(9))) {
                char damaged[SPOOL_NAME_BYTES];

                found_damaged_name(9, damaged);
                cr_assert(world_has(&world, damaged), "%s, %u: %s", rows[i].name, fail_at,
                          world.log);
            } else {
                world_recover(&world, 1);
                cr_assert_not_null(strstr(world_ids(&world), "b c d"), "%s, %u: \"%s\"",
                                   rows[i].name, fail_at, world_ids(&world));
                world_close(&world, true);
            }
            image_free(&four.image);
            world_end(&world);
        }
}

/* The file goes, or shrinks, after the list was made. */
Test(spool_damage, changed_under_our_feet)
{
    struct world world;
    struct four four;

    world_begin(&world);
    four_begin(&four, 9, true);
    world_put_image(&world, &four.image);
    image_free(&four.image);
    four_begin(&four, 10, true);
    world_put_image(&world, &four.image);
    world_open(&world, 1);
    cr_assert_eq(unlink(world_file(&world, world_segment(9))), 0);
    cr_assert_eq(truncate(world_file(&world, world_segment(10)), (off_t)four.at[2] + 1000), 0);
    world_run(&world, world_is_recovered);
    /* c's envelope is there still: its body is missed when it is loaded. */
    cr_assert_str_eq(world_ids(&world), "b c", "%s", world.log);
    cr_assert(world_told(&world, "spool_quarantined", world_segment(9), 0), "%s", world.log);
    cr_assert(world_told(&world, "spool_quarantined", world_segment(10), four.at[3]), "%s",
              world.log);
    world_close(&world, true);
    image_free(&four.image);
    world_end(&world);
}

/* --- bodies in files --- */

static void
bodies_put(struct world *world, bool damaged)
{
    struct image image;
    uint64_t at;

    image_new(&image, 9);
    (void)image_add(&image, &(struct image_record){
                                .id = "live", .body_bytes = 1000, .flags = RECORD_BODY_FILE });
    (void)image_add(&image, &(struct image_record){
                                .id = "done", .body_bytes = 1000, .flags = RECORD_BODY_FILE });
    (void)image_add(&image, &(struct image_record){
                                .id = "missing", .body_bytes = 1, .flags = RECORD_BODY_FILE });
    (void)image_add(&image, &(struct image_record){
                                .id = "short", .body_bytes = 1000, .flags = RECORD_BODY_FILE });
    at = image_add(&image, &(struct image_record){ .id = "last" });
    if (damaged)
        image.octets[at] ^= 1;
    (void)image_mark(&image, 0, 1, 1, 1, MARK_DELIVERED);
    image_seal(&image);
    world_put_image(world, &image);
    world_put(world, "live.body", image.octets, 1000);
    world_put(world, "done.body", image.octets, 1000);
    world_put(world, "short.body", image.octets, 999);
    world_put(world, "orphan.body", image.octets, 5);
    world_put(world, "Orphan2.body", "", 0);
    world_put(world, "not-ours.body", "", 0);
    world_put(world, "0123456789abcdefg.body", "", 0);
    image_free(&image);
}

Test(spool_damage, body_files)
{
    for (unsigned damaged = 0; damaged < 3; damaged++) {
        struct world world;
        bool kept;

        world_begin(&world);
        bodies_put(&world, damaged == 1);
        if (damaged == 2) /* of an earlier start */
            world_put(&world, "0000000000000001.seg.damaged", "", 0);
        world_recover(&world, 2);
        cr_assert_str_eq(world_ids(&world), damaged == 1 ? "live" : "last live", "%s", world.log);
        cr_assert_not_null(strstr(world.log, "missing: error: spool_quarantined"), "%s", world.log);
        cr_assert_not_null(strstr(world.log, "short: error: spool_quarantined"), "%s", world.log);
        /* They stay when something cannot be read: it might be theirs. A message without its body
         * is that, too. */
        kept = world_has(&world, "orphan.body");
        cr_assert(kept && world_has(&world, "done.body") && world_has(&world, "Orphan2.body"));
        cr_assert(world_has(&world, "live.body") && world_has(&world, "short.body"));
        cr_assert(world_has(&world, "not-ours.body") &&
                  world_has(&world, "0123456789abcdefg.body"));
        cr_assert_not_null(strstr(world.log, "have no message; they stay"), "%s", world.log);
        world_close(&world, true);
        world_end(&world);
    }
}

Test(spool_damage, body_files_without_a_message)
{
    for (uint32_t workers = 1; workers <= 3; workers++) {
        struct world world;
        struct image image;

        world_begin(&world);
        image_new(&image, 9);
        (void)image_add(&image, &(struct image_record){
                                    .id = "live", .body_bytes = 10, .flags = RECORD_BODY_FILE });
        (void)image_add(&image, &(struct image_record){
                                    .id = "done", .body_bytes = 10, .flags = RECORD_BODY_FILE });
        (void)image_mark(&image, 0, 1, 1, 1, MARK_FAILED);
        world_put_image(&world, &image);
        world_put(&world, "live.body", image.octets, 10);
        world_put(&world, "done.body", image.octets, 10);
        for (unsigned i = 0; i < 20; i++) {
            char name[32];

            (void)snprintf(name, sizeof(name), "o%u.body", i);
            world_put(&world, name, image.octets, i);
        }
        world_recover(&world, workers);
        cr_assert_str_eq(world_ids(&world), "live");
        cr_assert(world_has(&world, "live.body"));
        cr_assert_not(world_has(&world, "done.body"));
        cr_assert_not_null(strstr(world.log, "21 of 21 body files"), "%s", world.log);
        world_close(&world, true);
        cr_assert_eq(world_files(&world), 3); /* clean, the segment, live.body */
        image_free(&image);
        world_end(&world);
    }
}
