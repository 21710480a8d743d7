/* core/io.h's calls for directories, done at once: opening, listing, space, locks; full ones. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/file_place.h"

/* --- no room --- */

/* A file system of 16 blocks over the place, in a name space of this test's own. */
static bool
mount_small(struct place *place)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", place->path, "tmpfs", 0, "size=65536,nr_blocks=16") != 0)
        return false;
    io_close_now(place->directory);
    place->directory = io_directory_open(place->path, false);
    return place->directory >= 0;
}

/* A thread of the ring may let go of a file a moment after its operation has completed, and until
 * then it counts as open for writing. */
static int
read_only(const struct place *place)
{
    int result;

    for (unsigned tries = 0; tries < 2000; tries++) {
        result = mount(NULL, place->path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
        if (result == 0 || errno != EBUSY)
            break;
        usleep(1000);
    }
    return result;
}

Test(io_directory, a_full_file_system)
{
    static char data[20 * BLOCK];
    uint64_t free_bytes, total_bytes, free_before, page = (uint64_t)sysconf(_SC_PAGESIZE);
    struct place place;
    uint32_t holder;
    int file, lock, second;

    place_open(&place, 64);
    if (page != BLOCK || !mount_small(&place)) {
        place_shut(&place);
        cr_skip_test("a tmpfs cannot be mounted here");
    }
    cr_assert_eq(io_directory_space(place.directory, &free_before, &total_bytes), 0);
    cr_assert_eq(total_bytes, 16 * BLOCK);
    cr_assert(free_before <= total_bytes);
    file = open_in(&place, "f", IO_FILE_CREATE | IO_FILE_WRITE);
    cr_assert_eq(allocate(&place, file, 4 * BLOCK), 0);
    cr_assert_eq(io_directory_space(place.directory, &free_bytes, &total_bytes), 0);
    cr_assert_eq(free_bytes, free_before - 4 * BLOCK);
    cr_assert(io_error_is_no_space(allocate(&place, file, 17 * BLOCK)));
    cr_assert_eq(write_to(&place, file, data, sizeof(data), 0), (int32_t)free_before);
    cr_assert(io_error_is_no_space(write_to(&place, file, data, BLOCK, free_before)));
    cr_assert_eq(io_directory_space(place.directory, &free_bytes, &total_bytes), 0);
    cr_assert_eq(free_bytes, 0);

    /* A start on a full disk is possible, only the pid is missing. */
    lock = io_directory_lock(place.directory, "lock", &holder);
    cr_assert(lock >= 0, "%s", io_error_text(lock));
    second = io_directory_lock(place.directory, "lock", &holder);
    cr_assert(io_error_is_locked(second));
    cr_assert_eq(holder, 0);
    io_close_now(lock);
    io_close_now(file);

    cr_assert_eq(read_only(&place), 0, "%s", strerror(errno));
    cr_assert_eq(open_in(&place, "new", IO_FILE_CREATE | IO_FILE_WRITE), -EROFS);
    cr_assert_eq(open_in(&place, "f", IO_FILE_WRITE), -EROFS);
    cr_assert_eq(unlink_in(&place, "f"), -EROFS);
    cr_assert_eq(io_directory_lock(place.directory, "lock", &holder), -EROFS);
    io_close_now(place.directory);
    cr_assert_eq(umount(place.path), 0);
    place.directory = io_directory_open(place.path, false);
    place_shut(&place);
}

/* --- directories --- */

static int
directory_mode(int directory)
{
    struct stat status;

    cr_assert_eq(fstat(directory, &status), 0);
    return status.st_mode & 07777;
}

Test(io_directory, a_directory_is_opened_or_made)
{
    static const struct {
        const char *name, *path;
        bool create;
        int want; /* 0: a descriptor */
    } rows[] = {
        { "missing", "a", false, -ENOENT },
        { "made", "a", true, 0 },
        { "there", "a", false, 0 },
        { "there, may be made", "a", true, 0 },
        { "a slash behind it", "b/", true, 0 },
        { "parents are not made", "c/d", true, -ENOENT },
        { "a file", "f", false, -ENOTDIR },
        { "a file in its place", "f", true, -ENOTDIR },
    };
    struct place place;
    char path[64];
    int file;

    umask(0);
    place_open(&place, 64);
    file = open_in(&place, "f", IO_FILE_CREATE);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int got;

        snprintf(path, sizeof(path), "%s/%s", place.path, rows[i].path);
        got = io_directory_open(path, rows[i].create);
        if (rows[i].want < 0) {
            cr_assert_eq(got, rows[i].want, "%s: %s", rows[i].name, io_error_text(got));
            continue;
        }
        cr_assert(got >= 0, "%s: %s", rows[i].name, io_error_text(got));
        cr_assert_eq(directory_mode(got), 0700, "%s", rows[i].name);
        cr_assert(fcntl(got, F_GETFD) & FD_CLOEXEC);
        io_close_now(got);
    }
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "f"), 0);
    cr_assert_eq(unlinkat(place.directory, "a", AT_REMOVEDIR), 0);
    cr_assert_eq(unlinkat(place.directory, "b", AT_REMOVEDIR), 0);
    place_shut(&place);
}

struct listing {
    int directory;
    unsigned seen[300], count;
    bool removing;
};

static void
list_one(void *context, const struct io_directory_entry *entry)
{
    struct listing *listing = context;
    unsigned index;
    char name[16];

    cr_assert_eq(sscanf(entry->name, "file%u", &index), 1, "%s", entry->name);
    cr_assert_lt(index, COUNT_OF(listing->seen));
    cr_assert_eq(entry->bytes, (uint64_t)index * index, "%s", entry->name);
    listing->seen[index]++;
    listing->count++;
    for (unsigned i = 0; listing->removing && i < COUNT_OF(listing->seen); i++) {
        snprintf(name, sizeof(name), "file%u", i);
        unlinkat(listing->directory, name, 0);
    }
    errno = EIO; /* nobody's business but the callback's */
}

Test(io_directory, a_directory_lists_its_regular_files)
{
    struct listing listing = { 0 };
    struct place place;
    char name[16];
    int file;

    place_open(&place, 64);
    cr_assert_eq(io_directory_list(place.directory, list_one, &listing), 0);
    cr_assert_eq(listing.count, 0);
    for (unsigned i = 0; i < COUNT_OF(listing.seen); i++) {
        snprintf(name, sizeof(name), "file%u", i);
        file = openat(place.directory, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        cr_assert_eq(ftruncate(file, (off_t)i * i), 0);
        close(file);
    }
    cr_assert_eq(mkdirat(place.directory, "folder", 0700), 0);
    cr_assert_eq(symlinkat("file1", place.directory, "link"), 0);
    for (unsigned round = 1; round <= 2; round++) {
        cr_assert_eq(io_directory_list(place.directory, list_one, &listing), 0);
        for (unsigned i = 0; i < COUNT_OF(listing.seen); i++)
            cr_assert_eq(listing.seen[i], round, "file%u", i);
    }
    cr_assert_eq(fcntl(place.directory, F_GETFD), FD_CLOEXEC, "the caller's is still open");
    file = openat(place.directory, "file1", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(io_directory_list(file, list_one, &listing), -ENOTDIR);
    close(file);
    cr_assert_eq(io_directory_list(-1, list_one, &listing), -EBADF);
    /* What vanishes under way is left out. */
    listing = (struct listing){ .directory = place.directory, .removing = true };
    cr_assert_eq(io_directory_list(place.directory, list_one, &listing), 0);
    cr_assert_eq(listing.count, 1);
    cr_assert_eq(unlink_in(&place, "link"), 0);
    cr_assert_eq(unlinkat(place.directory, "folder", AT_REMOVEDIR), 0);
    place_shut(&place);
}

Test(io_directory, the_space_of_a_file_system)
{
    uint64_t free_bytes = 0, total_bytes = 0;
    struct place place;
    int gone;

    place_open(&place, 64);
    cr_assert_eq(io_directory_space(place.directory, &free_bytes, &total_bytes), 0);
    cr_assert_gt(total_bytes, 0);
    cr_assert(free_bytes <= total_bytes);
    cr_assert_eq(io_directory_space(-1, &free_bytes, &total_bytes), -EBADF);
    cr_assert_eq(mkdirat(place.directory, "gone", 0700), 0);
    gone = openat(place.directory, "gone", O_RDONLY | O_DIRECTORY);
    cr_assert_geq(gone, 0);
    cr_assert_eq(io_directory_space(gone, &free_bytes, &total_bytes), 0);
    cr_assert_eq(unlinkat(place.directory, "gone", AT_REMOVEDIR), 0);
    cr_assert_eq(io_directory_space(gone, &free_bytes, &total_bytes), -ENOENT);
    close(gone);
    place_shut(&place);
}

/* --- locks --- */

/* Another process that holds the lock until it is killed. */
static pid_t
holder_start(int directory, const char *name)
{
    int ready[2];
    char octet;
    pid_t child;

    cr_assert_eq(pipe(ready), 0);
    child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        uint32_t holder;

        octet = io_directory_lock(directory, name, &holder) >= 0 ? 'y' : 'n';
        if (write(ready[1], &octet, 1) == 1)
            pause();
        _exit(1);
    }
    cr_assert_eq(read(ready[0], &octet, 1), 1);
    cr_assert_eq(octet, 'y');
    close(ready[0]);
    close(ready[1]);
    return child;
}

Test(io_directory, a_lock_is_held_once)
{
    static const struct {
        const char *name, *content;
        uint32_t want;
    } rows[] = {
        { "a pid", "12\n", 12 },
        { "more behind it", "12\nabc", 12 },
        { "the largest", "4294967295\n", 4294967295 },
        { "empty", "", 0 },
        { "not finished", "12", 0 },
        { "no number", "abc\n", 0 },
        { "only a newline", "\n", 0 },
        { "negative", "-12\n", 0 },
        { "too large", "4294967296\n", 0 },
        { "too long", "0000000000000000000000000001\n", 0 },
    };
    char content[32], want[16];
    struct place place;
    uint32_t holder = 99;
    pid_t child;
    int lock, side;

    place_open(&place, 64);
    /* What a former holder left is longer than ours. */
    side = openat(place.directory, "lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    cr_assert_eq(write(side, "99999999999999999999\n", 21), 21);
    child = holder_start(place.directory, "lock");
    cr_assert_eq(io_directory_lock(place.directory, "lock", &holder), -EWOULDBLOCK);
    cr_assert_eq(holder, (uint32_t)child);
    cr_assert_eq(kill(child, SIGKILL), 0);
    cr_assert_eq(waitpid(child, NULL, 0), child);

    lock = io_directory_lock(place.directory, "lock", &holder);
    cr_assert(lock >= 0, "%s", io_error_text(lock));
    cr_assert_eq(holder, 0);
    cr_assert(fcntl(lock, F_GETFD) & FD_CLOEXEC);
    snprintf(want, sizeof(want), "%d\n", (int)getpid());
    cr_assert_eq(pread(side, content, sizeof(content), 0), (ssize_t)strlen(want));
    cr_assert_eq(memcmp(content, want, strlen(want)), 0);
    cr_assert(io_error_is_locked(io_directory_lock(place.directory, "lock", &holder)));
    cr_assert_eq(holder, (uint32_t)getpid());
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        size_t len = strlen(rows[i].content);

        cr_assert_eq(ftruncate(side, 0), 0);
        cr_assert_eq(pwrite(side, rows[i].content, len, 0), (ssize_t)len);
        cr_assert(io_error_is_locked(io_directory_lock(place.directory, "lock", &holder)));
        cr_assert_eq(holder, rows[i].want, "%s: %u", rows[i].name, holder);
    }
    close(side);
    cr_assert(io_error_is_locked(io_directory_lock(place.directory, "lock", &holder)),
              "closing another descriptor of the file must not end the lock");
    io_close_now(lock);
    lock = io_directory_lock(place.directory, "lock", &holder);
    cr_assert(lock >= 0, "%s", io_error_text(lock));
    io_close_now(lock);
    cr_assert_eq(io_directory_lock(-1, "lock", &holder), -EBADF);
    cr_assert_eq(symlinkat("lock", place.directory, "link"), 0);
    cr_assert_eq(io_directory_lock(place.directory, "link", &holder), -ELOOP);
    cr_assert_eq(unlink_in(&place, "link"), 0);
    cr_assert_eq(unlink_in(&place, "lock"), 0);
    place_shut(&place);
}
