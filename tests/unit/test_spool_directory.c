/* The spool's directory at start: whose it is, what the process before said, how large a segment
 * may be; and the lists of what is there. */
#include <criterion/criterion.h>

#include <errno.h>
#include <sys/wait.h>

#include "tests/unit/recover_world.h"

static char error[SPOOL_ERROR_BYTES];

Test(spool_directory, one_process_has_it)
{
    struct world world;
    struct spool_directory second;
    char pid[16];

    world_begin(&world);
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    cr_assert_eq(error[0], '\0');
    cr_assert_not(spool_directory_open(&second, &world.config, 1, error));
    (void)snprintf(pid, sizeof(pid), "process %d ", (int)getpid());
    cr_assert_not_null(strstr(error, pid), "%s", error);
    cr_assert_not_null(strstr(error, world.path), "%s", error);
    cr_assert_eq(second.directory, -1);
    cr_assert_eq(second.lock, -1);
    cr_assert_null(second.found);
    spool_directory_close(&world.directory, true);
    cr_assert(spool_directory_open(&second, &world.config, 1, error), "%s", error);
    spool_directory_close(&second, false);
    /* A process that is gone holds nothing, however it went. */
    pid_t child = fork();
    int status;
    if (child == 0) {
        struct spool_directory directory;

        _exit(spool_directory_open(&directory, &world.config, 1, error) ? 3 : 4);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    cr_assert(spool_directory_open(&second, &world.config, 1, error), "%s", error);
    spool_directory_close(&second, false);
    world_end(&world);
}

Test(spool_directory, what_the_process_before_said)
{
    struct world world;
    struct image image;

    world_begin(&world);
    /* A new one: nobody was there to say anything. */
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    cr_assert_not(world.directory.unclean);
    cr_assert_not(world_has(&world, FOUND_CLEAN_NAME));
    spool_directory_close(&world.directory, false);

    image_new(&image, 5);
    (void)image_add(&image, &(struct image_record){ .id = "a" });
    world_put_image(&world, &image);
    for (unsigned clean = 0; clean < 4; clean++) {
        world.log_len = 0;
        world.log[0] = '\0';
        cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
        cr_assert_eq(world.directory.unclean, clean % 2 == 0, "%u", clean);
        cr_assert_eq(strstr(world.log, "did not stop in order") != NULL, clean % 2 == 0, "%s",
                     world.log);
        /* It is said once. */
        cr_assert_not(world_has(&world, FOUND_CLEAN_NAME));
        spool_directory_close(&world.directory, clean % 2 == 0);
        cr_assert_eq(world_has(&world, FOUND_CLEAN_NAME), clean % 2 == 0);
    }
    image_free(&image);
    world_end(&world);
}

Test(spool_directory, refusals)
{
    struct world world;
    char path[128];

    world_begin(&world);
    /* Its parent is missing. */
    (void)snprintf(path, sizeof(path), "%s/no/spool", world.path);
    world.config.spool.directory = path;
    cr_assert_not(spool_directory_open(&world.directory, &world.config, 1, error));
    cr_assert_not_null(strstr(error, "No such file"), "%s", error);
    cr_assert_not_null(strstr(error, "its parent must exist"), "%s", error);
    /* It is a file. */
    world_put(&world, "file", "x", 1);
    (void)snprintf(path, sizeof(path), "%s/file", world.path);
    cr_assert_not(spool_directory_open(&world.directory, &world.config, 1, error));
    cr_assert_not_null(strstr(error, path), "%s", error);
    cr_assert_eq(unlink(path), 0);
    /* Made when it is missing. */
    (void)snprintf(path, sizeof(path), "%s/new", world.path);
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    spool_directory_close(&world.directory, false);
    cr_assert_eq(unlink(world_file(&world, "new/lock")), 0);
    cr_assert_eq(rmdir(path), 0);
    /* A number that leaves none above it. */
    world.config.spool.directory = world.path;
    world_put(&world, "ffffffff00000000.seg", "x", 1);
    cr_assert_not(spool_directory_open(&world.directory, &world.config, 1, error));
    cr_assert_not_null(strstr(error, "ffffffff00000000"), "%s", error);
    cr_assert_eq(unlink(world_file(&world, "ffffffff00000000.seg")), 0);
    /* One that cannot be written to. */
    cr_assert_eq(chmod(world.path, 0500), 0);
    if (geteuid() == 0) {
        cr_assert_eq(chmod(world.path, 0555), 0);
        cr_assert_eq(seteuid(65534), 0);
    }
    cr_assert_not(spool_directory_open(&world.directory, &world.config, 1, error));
    cr_assert_not_null(strstr(error, "must be writable"), "%s", error);
    cr_assert_eq(world.directory.directory, -1);
    if (getuid() == 0)
        cr_assert_eq(seteuid(0), 0);
    cr_assert_eq(chmod(world.path, 0700), 0);
    world_end(&world);
}

Test(spool_directory, numbers_are_never_used_again)
{
    static const char *const names[] = { "0000000000000007.seg", "00000003ffffffff.seg",
                                         "0000000500000001.spare", "0000000900000000.seg.damaged" };
    static const uint64_t least[] = { 1, 4, 6, 10 };
    struct world world;
    uint64_t before = 0;

    world_begin(&world);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        world_put(&world, names[i], "x", 1);
        cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
        cr_assert_eq(world.directory.next_number >> 32, least[i], "%s: %llx", names[i],
                     (unsigned long long)world.directory.next_number);
        spool_directory_close(&world.directory, false);
    }
    /* And cannot be told in advance. */
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    before = world.directory.next_number;
    spool_directory_close(&world.directory, false);
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    cr_assert_neq(world.directory.next_number, before);
    spool_directory_close(&world.directory, false);
    world_end(&world);
}

Test(spool_directory, sizes)
{
    struct world world;
    uint64_t free_bytes, total_bytes, floor, least;

    world_begin(&world);
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    /* No less than a record needs. */
    least = world.directory.segment_bytes;
    cr_assert_geq(least - segment_records_offset(segment_slots(least)),
                  world.config.delivery.buffer + RECORD_ENVELOPE_BYTES_MAX);
    cr_assert(least == SPOOL_SEGMENT_BYTES_MIN ||
              least / 2 < world.config.delivery.buffer + RECORD_ENVELOPE_BYTES_MAX +
                              segment_records_offset(segment_slots(least)));
    cr_assert_eq(world.directory.floor_bytes, 0);
    cr_assert_eq(io_directory_space(world.directory.directory, &free_bytes, &total_bytes), 0);
    spool_directory_close(&world.directory, false);

    /* A floor of a twentieth at most. */
    world.config.spool.minimum_free = UINT64_MAX;
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    floor = world.directory.floor_bytes;
    cr_assert(floor > 0 && floor <= total_bytes / 20 + 4096);
    spool_directory_close(&world.directory, false);
    world.config.spool.minimum_free = 12345;
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    cr_assert_eq(world.directory.floor_bytes, 12345);
    cr_assert_gt(world.directory.room_bytes, 0);
    spool_directory_close(&world.directory, false);

    /* As large as the configuration says; as small as a worker's share of the disk allows. */
    world.config.spool.segment = SPOOL_SEGMENT_BYTES_MAX;
    for (uint32_t workers = 1; workers <= WORKERS_MAX; workers *= 4) {
        uint64_t bytes;

        cr_assert(spool_directory_open(&world.directory, &world.config, workers, error), "%s",
                  error);
        bytes = world.directory.segment_bytes;
        cr_assert(bytes >= least && bytes <= SPOOL_SEGMENT_BYTES_MAX);
        cr_assert(bytes == least || bytes * 8 * workers <= free_bytes);
        cr_assert(bytes == SPOOL_SEGMENT_BYTES_MAX || bytes * 2 * 8 * workers > free_bytes / 2);
        spool_directory_close(&world.directory, false);
    }

    /* The largest message that is not put into a file of its own fits. */
    world.config.spool.segment = SPOOL_SEGMENT_BYTES_MIN;
    world.config.delivery.buffer = SPOOL_SEGMENT_BYTES_MAX / 4;
    cr_assert(spool_directory_open(&world.directory, &world.config, WORKERS_MAX, error), "%s",
              error);
    cr_assert(world.directory.segment_bytes -
                      segment_records_offset(segment_slots(world.directory.segment_bytes)) >=
                  SPOOL_SEGMENT_BYTES_MAX / 4 + RECORD_ENVELOPE_BYTES_MAX,
              "%llu", (unsigned long long)world.directory.segment_bytes);
    spool_directory_close(&world.directory, false);
    world_end(&world);
}

Test(spool_directory, names)
{
    static const struct {
        uint64_t number;
        const char *segment, *spare, *damaged;
    } rows[] = {
        { 1, "0000000000000001.seg", "0000000000000001.spare", "0000000000000001.seg.damaged" },
        { 0xFEDCBA9876543210, "fedcba9876543210.seg", "fedcba9876543210.spare",
          "fedcba9876543210.seg.damaged" },
        { UINT64_MAX, "ffffffffffffffff.seg", "ffffffffffffffff.spare",
          "ffffffffffffffff.seg.damaged" },
    };
    char name[SPOOL_NAME_BYTES];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        spool_segment_name(rows[i].number, name);
        cr_assert_str_eq(name, rows[i].segment);
        spool_spare_name(rows[i].number, name);
        cr_assert_str_eq(name, rows[i].spare);
        found_damaged_name(rows[i].number, name);
        cr_assert_str_eq(name, rows[i].damaged);
    }
    spool_body_name((const char[16]){ "a" }, name);
    cr_assert_str_eq(name, "a.body");
    spool_body_name((const char[16]){ "0123456789BCDFz" }, name);
    cr_assert_str_eq(name, "0123456789BCDFz.body");
}

Test(spool_directory, lists)
{
    struct world world;
    const struct spool_found *found;

    world_begin(&world);
    world_put(&world, "0000000000000020.seg", "1234", 4);
    world_put(&world, "0000000000000003.seg", "12", 2);
    world_put(&world, "000000000000000a.seg", "", 0);
    world_put(&world, "B.body", "123", 3);
    world_put(&world, "a.body", "1", 1);
    world_put(&world, "body", "1", 1);
    world_put(&world, "0000000000000001.seg.damaged", "", 0);
    world_put(&world, "0000000000000001.seg.old", "", 0);
    world_put(&world, "0000000000000001.body", "", 0); /* 16: no id is as long */
    cr_assert(spool_directory_open(&world.directory, &world.config, 1, error), "%s", error);
    found = world.directory.found;
    cr_assert_eq(found->segment_count, 3);
    cr_assert_eq(found->segments[0].number, 3);
    cr_assert_eq(found->segments[1].number, 10);
    cr_assert_eq(found->segments[2].number, 32);
    cr_assert_eq(found_segment_of(found, 32)->bytes, 4);
    cr_assert_null(found_segment_of(found, 4));
    cr_assert_eq(found->body_count, 2);
    cr_assert_eq(found_body_of(found, (const char[16]){ "a" })->bytes, 1);
    cr_assert_eq(found_body_of(found, (const char[16]){ "B" })->bytes, 3);
    cr_assert_null(found_body_of(found, (const char[16]){ "b" }));
    cr_assert_eq(found->damaged_files, 1);
    cr_assert_eq(found->damaged, 1);
    cr_assert_eq(found->other_files, 3);
    spool_directory_close(&world.directory, false);
    world_end(&world);
}

/* --- */

Test(spool_directory, nothing_there)
{
    struct world world;

    world_begin(&world);
    for (uint32_t workers = 1; workers <= 3; workers++) {
        world_recover(&world, workers);
        cr_assert_eq(world.found_count, 0);
        cr_assert_null(strstr(world.log, "error"), "%s", world.log);
        world_close(&world, true);
        cr_assert_eq(world_files(&world), 1); /* "clean" */
    }
    world_end(&world);
}
