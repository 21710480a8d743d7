/* core/io.h's operations on files, on real files of the kernel that runs the tests. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/file_place.h"

/* Not zeros, and different at each place. */
static void
fill(char *data, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(1 + (i * 7 + i / 251 + seed) % 255);
}

/* --- one file --- */

Test(io_file, a_file_from_its_creation_to_its_end)
{
    static const struct {
        const char *name;
        uint64_t offset;
        uint32_t len;
        int32_t want;
        const char *data;
    } reads[] = {
        { "all", 0, 11, 11, "hello world" },     { "a part", 6, 3, 3, "wor" },
        { "across the end", 6, 64, 5, "world" }, { "at the end", 11, 64, 0, "" },
        { "behind the end", 4096, 64, 0, "" },
    };
    struct place place;
    struct stat status;
    char room[64];
    int file, again;

    umask(0);
    place_open(&place, 64);
    file = open_in(&place, "new", IO_FILE_CREATE | IO_FILE_WRITE);
    cr_assert(file >= 0, "%s", io_error_text(file));
    cr_assert(fcntl(file, F_GETFD) & FD_CLOEXEC);
    cr_assert_eq(fstat(file, &status), 0);
    cr_assert_eq(status.st_mode & 07777, 0600);
    cr_assert_eq(write_to(&place, file, "hello", 5, 0), 5);
    cr_assert_eq(write_to(&place, file, " world", 6, 5), 6);
    for (size_t i = 0; i < COUNT_OF(reads); i++) {
        int32_t got = read_from(&place, file, room, reads[i].len, reads[i].offset);

        cr_assert_eq(got, reads[i].want, "%s: %d", reads[i].name, got);
        cr_assert_eq(memcmp(room, reads[i].data, (size_t)got), 0, "%s", reads[i].name);
    }
    io_file_sync(place.io, next_ticket(&place), file, false);
    cr_assert_eq(result_of(&place), 0);

    io_file_rename(place.io, next_ticket(&place), place.directory, "new", "kept");
    cr_assert_eq(result_of(&place), 0);
    io_file_sync(place.io, next_ticket(&place), place.directory, true);
    cr_assert_eq(result_of(&place), 0);
    cr_assert_eq(open_in(&place, "new", 0), -ENOENT);
    again = open_in(&place, "kept", 0);
    cr_assert(again >= 0);
    cr_assert_eq(read_from(&place, again, room, 11, 0), 11);
    cr_assert_eq(memcmp(room, "hello world", 11), 0);
    cr_assert_eq(write_to(&place, again, "x", 1, 0), -EBADF, "it was opened to be read");
    io_close_now(again);

    /* A second file takes the name. */
    again = open_in(&place, "other", IO_FILE_CREATE | IO_FILE_WRITE);
    cr_assert_eq(write_to(&place, again, "2", 1, 0), 1);
    io_file_rename(place.io, next_ticket(&place), place.directory, "other", "kept");
    cr_assert_eq(result_of(&place), 0);
    cr_assert_eq(fstat(file, &status), 0);
    cr_assert_eq(status.st_nlink, 0);
    io_close_now(again);
    again = open_in(&place, "kept", IO_FILE_WRITE);
    cr_assert_eq(read_from(&place, again, room, sizeof(room), 0), 1);
    cr_assert_eq(room[0], '2');
    io_close_now(again);
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "kept"), 0);
    cr_assert_eq(unlink_in(&place, "kept"), -ENOENT);
    place_shut(&place);
}

Test(io_file, what_cannot_be_opened_says_why)
{
    static const struct {
        const char *name, *file;
        unsigned flags;
        int32_t want;
    } rows[] = {
        { "missing", "none", 0, -ENOENT },
        { "missing, to write", "none", IO_FILE_WRITE, -ENOENT },
        { "exists", "there", IO_FILE_CREATE | IO_FILE_WRITE, -EEXIST },
        { "a link", "link", 0, -ELOOP },
        { "a link, to write", "link", IO_FILE_WRITE, -ELOOP },
        { "to create where a link leads", "dangling", IO_FILE_CREATE | IO_FILE_WRITE, -EEXIST },
        { "a directory, to write", "folder", IO_FILE_WRITE, -EISDIR },
        { "below a file", "there/x", 0, -ENOTDIR },
        { "below nothing", "none/x", IO_FILE_CREATE, -ENOENT },
    };
    char long_name[300];
    struct place place;
    int file;

    place_open(&place, 64);
    file = open_in(&place, "there", IO_FILE_CREATE);
    cr_assert(file >= 0);
    io_close_now(file);
    cr_assert_eq(symlinkat("there", place.directory, "link"), 0);
    cr_assert_eq(symlinkat("none", place.directory, "dangling"), 0);
    cr_assert_eq(mkdirat(place.directory, "folder", 0700), 0);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int32_t got = open_in(&place, rows[i].file, rows[i].flags);

        cr_assert_eq(got, rows[i].want, "%s: %s", rows[i].name, io_error_text(got));
    }
    memset(long_name, 'a', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    cr_assert_eq(open_in(&place, long_name, IO_FILE_CREATE), -ENAMETOOLONG);
    cr_assert_eq(open_at(&place, -1, "there", 0), -EBADF);
    io_file_rename(place.io, next_ticket(&place), place.directory, "none", "there");
    cr_assert_eq(result_of(&place), -ENOENT);
    cr_assert_eq(unlink_in(&place, "folder"), -EISDIR);
    cr_assert_eq(unlinkat(place.directory, "folder", AT_REMOVEDIR), 0);
    cr_assert_eq(unlink_in(&place, "link"), 0);
    cr_assert_eq(unlink_in(&place, "dangling"), 0);
    cr_assert_eq(unlink_in(&place, "there"), 0, "the link was followed");
    place_shut(&place);
}

/* --- gathers --- */

/* Pieces of 1, 2, 3 ... octets in a row; returns their sum. */
static int32_t
gather_of(struct io_gather *gather, char *memory, uint32_t count)
{
    int32_t sum = 0;

    gather->count = count;
    for (uint32_t i = 0; i < count; i++) {
        gather->pieces[i] = (struct io_piece){ .data = memory + sum, .len = i + 1 };
        sum += (int32_t)i + 1;
    }
    return sum;
}

Test(io_file, gathers_write_and_read_pieces_in_order)
{
    static const uint32_t counts[] = { 1, 2, 7, IO_PIECES_MAX - 1, IO_PIECES_MAX };
    static char out[IO_PIECES_MAX * IO_PIECES_MAX], in[IO_PIECES_MAX * IO_PIECES_MAX];
    static struct io_gather gather;
    struct place place;
    int file;

    place_open(&place, 64);
    file = open_in(&place, "f", IO_FILE_CREATE | IO_FILE_WRITE);
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        uint64_t offset = i * 10000;
        int32_t sum = gather_of(&gather, out, counts[i]);

        fill(out, sizeof(out), counts[i]);
        io_file_write_gather(place.io, next_ticket(&place), file, &gather, offset);
        cr_assert_eq(result_of(&place), sum, "%u pieces", counts[i]);
        memset(in, 0, sizeof(in));
        cr_assert_eq(read_from(&place, file, in, (uint32_t)sum, offset), sum);
        cr_assert_eq(memcmp(in, out, (size_t)sum), 0, "%u pieces", counts[i]);

        memset(in, 0, sizeof(in));
        cr_assert_eq(gather_of(&gather, in, counts[i]), sum);
        io_file_read_gather(place.io, next_ticket(&place), file, &gather, offset);
        cr_assert_eq(result_of(&place), sum, "%u pieces", counts[i]);
        cr_assert_eq(memcmp(in, out, (size_t)sum), 0, "%u pieces", counts[i]);
        /* From the last octet on: fewer than asked for. */
        memset(in, 0, sizeof(in));
        io_file_read_gather(place.io, next_ticket(&place), file, &gather,
                            offset + (uint64_t)sum - 1);
        cr_assert_eq(result_of(&place), 1, "%u pieces", counts[i]);
        cr_assert_eq(in[0], out[sum - 1]);
        cr_assert_eq(in[1], 0);
    }
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "f"), 0);
    place_shut(&place);
}

/* --- durable writes into an allocated file --- */

Test(io_file, direct_and_durable_writes_into_an_allocated_file)
{
    static _Alignas(4096) char out[4 * BLOCK], in[64 * BLOCK];
    const unsigned plain = IO_FILE_CREATE | IO_FILE_WRITE | IO_FILE_DSYNC;
    static struct io_gather gather;
    struct stat status;
    struct place place;
    int file, reader, flags;

    place_open(&place, 64);
    file = open_in(&place, "segment", plain | IO_FILE_DIRECT);
    if (file < 0) {
        /* A tmpfs before Linux 6.6. It may leave the file behind. */
        cr_assert(io_error_is_unsupported(file), "%s", io_error_text(file));
        unlink_in(&place, "segment");
        file = open_in(&place, "segment", plain);
    } else {
        cr_assert(fcntl(file, F_GETFL) & O_DIRECT);
    }
    cr_assert(file >= 0, "%s", io_error_text(file));
    flags = fcntl(file, F_GETFL);
    cr_assert(flags & O_DSYNC);
    cr_assert_eq(flags & O_ACCMODE, O_RDWR);
    cr_assert_eq(allocate(&place, file, sizeof(in)), 0);
    cr_assert_eq(fstat(file, &status), 0);
    cr_assert_eq(status.st_size, sizeof(in));
    cr_assert(status.st_blocks * 512 >= (blkcnt_t)sizeof(in), "the room is not taken");
    cr_assert_eq(allocate(&place, file, BLOCK), 0);
    cr_assert_eq(fstat(file, &status), 0);
    cr_assert_eq(status.st_size, sizeof(in), "allocating less does not cut");

    fill(out, sizeof(out), 1);
    cr_assert_eq(write_to(&place, file, out, 2 * BLOCK, 3 * BLOCK), 2 * BLOCK);
    gather =
        (struct io_gather){ .pieces = { { out + 3 * BLOCK, BLOCK }, { out, BLOCK } }, .count = 2 };
    io_file_write_gather(place.io, next_ticket(&place), file, &gather, 5 * BLOCK);
    cr_assert_eq(result_of(&place), 2 * BLOCK);
    reader = open_in(&place, "segment", 0);
    for (int direct = 0; direct < 2; direct++) {
        memset(in, 1, sizeof(in));
        cr_assert_eq(read_from(&place, direct ? file : reader, in, sizeof(in), 0), sizeof(in));
        for (size_t i = 0; i < sizeof(in); i++)
            if (i < 3 * BLOCK || i >= 7 * BLOCK)
                cr_assert_eq(in[i], 0, "direct %d: octet %zu", direct, i);
        cr_assert_eq(memcmp(in + 3 * BLOCK, out, 2 * BLOCK), 0);
        cr_assert_eq(memcmp(in + 5 * BLOCK, out + 3 * BLOCK, BLOCK), 0);
        cr_assert_eq(memcmp(in + 6 * BLOCK, out, BLOCK), 0);
        cr_assert_eq(read_from(&place, direct ? file : reader, in, 2 * BLOCK, sizeof(in) - BLOCK),
                     BLOCK);
        cr_assert_eq(read_from(&place, direct ? file : reader, in, BLOCK, sizeof(in)), 0);
    }
    cr_assert_eq(allocate(&place, reader, sizeof(in)), -EBADF);
    io_close_now(reader);
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "segment"), 0);
    place_shut(&place);
}

/* --- no room --- */

Test(io_file, a_device_without_room)
{
    struct place place;
    int devices = io_directory_open("/dev", false), file;

    place_open(&place, 64);
    file = open_at(&place, devices, "full", IO_FILE_WRITE);
    cr_assert(file >= 0, "%s", io_error_text(file));
    cr_assert(io_error_is_no_space(write_to(&place, file, "x", 1, 0)));
    io_close_now(file);
    io_close_now(devices);
    place_shut(&place);
}

Test(io_file, a_limit_on_file_size_cuts_a_write)
{
    struct rlimit limit = { BLOCK, BLOCK };
    static char data[2 * BLOCK];
    struct place place;
    int32_t got;
    int file;

    place_open(&place, 64);
    file = open_in(&place, "f", IO_FILE_CREATE | IO_FILE_WRITE);
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(write_to(&place, file, data, sizeof(data), 0), BLOCK);
    got = write_to(&place, file, data, 1, BLOCK);
    cr_assert_eq(got, -EFBIG);
    cr_assert_str_eq(io_error_text(got), "File too large");
    cr_assert_not(io_error_is_no_space(got));
    cr_assert_eq(allocate(&place, file, sizeof(data)), -EFBIG);
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "f"), 0);
    place_shut(&place);
}

/* --- many at once --- */

#define FILES 150u
#define PIECE 600u

/* Each of the first `count` tickets completes once, with `want`, or a descriptor put into files. */
static void
collect_each(struct io *io, uint32_t count, int32_t want, int *files)
{
    static struct io_completion got[4 * FILES];
    static bool seen[4 * FILES];

    cr_assert_leq(count, COUNT_OF(got));
    memset(seen, 0, sizeof(seen));
    collect(io, got, count);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = got[i].ticket.slot;

        cr_assert_eq(got[i].op, IO_FILE);
        cr_assert_lt(slot, count);
        cr_assert_not(seen[slot], "%u completed twice", slot);
        seen[slot] = true;
        if (files != NULL) {
            cr_assert(got[i].result >= 0, "%u: %s", slot, io_error_text(got[i].result));
            files[slot] = got[i].result;
        } else {
            cr_assert_eq(got[i].result, want, "%u: %d", slot, got[i].result);
        }
    }
}

Test(io_file, many_operations_at_once)
{
    static char names[FILES][16], others[FILES][16];
    static char out[4 * FILES][PIECE], in[4 * FILES][PIECE];
    struct place place;
    int files[FILES];

    /* Far more of them than the queue has entries. */
    place_open(&place, 16);
    fill(out[0], sizeof(out), 3);
    for (uint32_t i = 0; i < FILES; i++) {
        snprintf(names[i], sizeof(names[i]), "a%u", i);
        snprintf(others[i], sizeof(others[i]), "b%u", i);
        io_file_open(place.io, ticket_of(i), place.directory, names[i],
                     IO_FILE_CREATE | IO_FILE_WRITE);
    }
    collect_each(place.io, FILES, 0, files);
    for (uint32_t i = 0; i < 4 * FILES; i++)
        io_file_write(place.io, ticket_of(i), files[i / 4], out[i], PIECE,
                      (uint64_t)(3 - i % 4) * PIECE);
    collect_each(place.io, 4 * FILES, PIECE, NULL);
    for (uint32_t i = 0; i < FILES; i++)
        io_file_rename(place.io, ticket_of(i), place.directory, names[i], others[i]);
    collect_each(place.io, FILES, 0, NULL);
    for (uint32_t i = 0; i < 4 * FILES; i++)
        io_file_read(place.io, ticket_of(i), files[i / 4], in[i], PIECE,
                     (uint64_t)(3 - i % 4) * PIECE);
    collect_each(place.io, 4 * FILES, PIECE, NULL);
    cr_assert_eq(memcmp(in, out, sizeof(in)), 0);
    for (uint32_t i = 0; i < 16; i++)
        io_file_sync(place.io, ticket_of(i), i == 15 ? place.directory : files[i], i == 15);
    collect_each(place.io, 16, 0, NULL);
    for (uint32_t i = 0; i < FILES; i++)
        io_close(place.io, files[i]);
    for (uint32_t i = 0; i < FILES; i++)
        io_file_unlink(place.io, ticket_of(i), place.directory, others[i]);
    collect_each(place.io, FILES, 0, NULL);
    for (uint32_t i = 0; i < FILES; i++)
        cr_assert_eq(fcntl(files[i], F_GETFD), -1, "file %u was not closed", i);
    place_shut(&place);
}

/* --- the kernel's threads --- */

/* Those that stand behind this process's rings. */
static unsigned
kernel_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *task;
    unsigned count = 0;

    cr_assert_not_null(tasks);
    while ((task = readdir(tasks)) != NULL) {
        char path[300], name[32] = "";
        int file;

        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
        file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, name, sizeof(name) - 1) > 0 && strncmp(name, "iou-wrk", 7) == 0)
            count++;
        if (file >= 0)
            close(file);
    }
    closedir(tasks);
    return count;
}

/* Opening to write waits for him who holds a lease, as it would for a disk that hangs. */
Test(io_file, what_hangs_takes_few_threads)
{
    struct timespec pause_time = { .tv_nsec = 20000000 };
    struct io_completion completion;
    struct place place;
    int files[12], lease;

    place_open(&place, 64);
    signal(SIGIO, SIG_IGN); /* tells the holder that somebody waits */
    io_close_now(open_in(&place, "f", IO_FILE_CREATE));
    lease = openat(place.directory, "f", O_RDONLY | O_CLOEXEC);
    if (fcntl(lease, F_SETLEASE, F_RDLCK) != 0) {
        unlink_in(&place, "f");
        place_shut(&place);
        cr_skip_test("no leases on this file system");
    }
    for (uint32_t i = 0; i < COUNT_OF(files); i++)
        io_file_open(place.io, ticket_of(i), place.directory, "f", IO_FILE_WRITE);
    io_wait(place.io, SECOND_NS / 20);
    cr_assert_not(io_next(place.io, &completion), "it did not wait");
    for (int turn = 0; turn < 50 && kernel_threads() < 4; turn++)
        nanosleep(&pause_time, NULL);
    for (int turn = 0; turn < 5; turn++) {
        cr_assert_eq(kernel_threads(), 4);
        nanosleep(&pause_time, NULL);
    }
    close(lease);
    collect_each(place.io, COUNT_OF(files), 0, files);
    for (uint32_t i = 0; i < COUNT_OF(files); i++)
        io_close_now(files[i]);
    cr_assert_eq(unlink_in(&place, "f"), 0);
    place_shut(&place);
}

Test(io_file, no_thread_to_be_had_is_a_reason_to_try_again)
{
    struct rlimit limit, none;
    struct place place;
    int32_t got;
    int file;

    place_open(&place, 64);
    file = openat(place.directory, "f", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    /* The limit does not bind root. */
    if (geteuid() == 0 &&
        (chown(place.path, 65534, 65534) != 0 || setgid(65534) != 0 || setuid(65534) != 0)) {
        unlink_in(&place, "f");
        place_shut(&place);
        cr_skip_test("cannot become nobody");
    }
    cr_assert_eq(getrlimit(RLIMIT_NPROC, &limit), 0);
    none = (struct rlimit){ .rlim_cur = 0, .rlim_max = limit.rlim_max };
    cr_assert_eq(setrlimit(RLIMIT_NPROC, &none), 0);
    io_file_sync(place.io, next_ticket(&place), file, false);
    got = result_of(&place);
    cr_assert(io_error_is_again(got), "%s", io_error_text(got));
    cr_assert_eq(setrlimit(RLIMIT_NPROC, &limit), 0);
    io_file_sync(place.io, next_ticket(&place), file, false);
    cr_assert_eq(result_of(&place), 0);
    io_close_now(file);
    cr_assert_eq(unlink_in(&place, "f"), 0);
    place_shut(&place);
}

/* --- errors --- */

Test(io_file, errors_have_texts_and_kinds)
{
    enum { SPACE = 1, UNSUPPORTED = 2, LOCKED = 4, AGAIN = 8, SHORTAGE = 16, CANCELED = 32 };
    static const struct {
        int error;
        const char *text;
        unsigned kinds;
    } rows[] = {
        { ENOSPC, "No space left on device", SPACE },
        { EDQUOT, "Disk quota exceeded", SPACE },
        { EFBIG, "File too large", 0 },
        { EIO, "Input/output error", 0 },
        { EROFS, "Read-only file system", 0 },
        { ENOENT, "No such file or directory", 0 },
        { EEXIST, "File exists", 0 },
        { EACCES, "Permission denied", 0 },
        { EPERM, "Operation not permitted", 0 },
        { ENOTDIR, "Not a directory", 0 },
        { EISDIR, "Is a directory", 0 },
        { EBADF, "Bad file descriptor", 0 },
        { ELOOP, "Too many levels of symbolic links", 0 },
        { EINVAL, "Invalid argument", UNSUPPORTED },
        { EOPNOTSUPP, "Operation not supported", UNSUPPORTED },
        { EWOULDBLOCK, "Resource temporarily unavailable", LOCKED | AGAIN },
        { EINTR, "Interrupted system call", AGAIN },
        { ECANCELED, "Operation canceled", AGAIN | CANCELED },
        { EMFILE, "Too many open files", SHORTAGE },
        { 0, "Success", 0 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int error = -rows[i].error;
        unsigned kinds = (io_error_is_no_space(error) ? SPACE : 0) |
                         (io_error_is_unsupported(error) ? UNSUPPORTED : 0) |
                         (io_error_is_locked(error) ? LOCKED : 0) |
                         (io_error_is_again(error) ? AGAIN : 0) |
                         (io_error_is_shortage(error) ? SHORTAGE : 0) |
                         (io_error_is_canceled(error) ? CANCELED : 0);

        cr_assert_str_eq(io_error_text(error), rows[i].text);
        cr_assert_eq(kinds, rows[i].kinds, "%s: %#x", rows[i].text, kinds);
    }
}
