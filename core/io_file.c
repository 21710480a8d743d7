/* core/io.h's operations on files, on Linux io_uring: apart from io_uring.c since they share only
 * the ring with it. All of them exist in Linux 6.1. */
#include "core/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/io_uring_private.h"

#define FILE_FLAGS (IO_FILE_CREATE | IO_FILE_WRITE | IO_FILE_DIRECT | IO_FILE_DSYNC)

/* --- queued --- */

/* Why nothing here is repeated when it comes back -EINTR, -EAGAIN or -ECANCELED: the ring keeps no
 * copy of what was asked, so a repetition would need one per operation in flight, and a pause that
 * only the caller's timers give. All three leave the file as it was, or with a part of what the
 * same operation writes again. */

void
io_file_open(struct io *io, struct io_ticket ticket, int directory, const char *name,
             unsigned flags)
{
    /* NOFOLLOW: the directory is ours, a link in it is not. */
    int mode = O_CLOEXEC | O_NOFOLLOW | (flags & IO_FILE_WRITE ? O_RDWR : O_RDONLY) |
               (flags & IO_FILE_CREATE ? O_CREAT | O_EXCL : 0) |
               (flags & IO_FILE_DIRECT ? O_DIRECT : 0) | (flags & IO_FILE_DSYNC ? O_DSYNC : 0);
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT((flags & ~(unsigned)FILE_FLAGS) == 0);
    io_uring_prep_openat(entry, directory, name, mode, 0600);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_read(struct io *io, struct io_ticket ticket, int file, void *to, uint32_t len,
             uint64_t offset)
{
    struct io_uring_sqe *entry = entry_take(io);

    /* A length of 0 would look like the end; an offset of -1 would be the file's position. */
    ASSERT(len > 0);
    ASSERT(len <= INT32_MAX);
    ASSERT(offset <= INT64_MAX);
    io_uring_prep_read(entry, file, to, len, offset);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_read_gather(struct io *io, struct io_ticket ticket, int file, struct io_gather *gather,
                    uint64_t offset)
{
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT(gather->count > 0 && gather->count <= IO_PIECES_MAX);
    ASSERT(offset <= INT64_MAX);
    io_uring_prep_readv(entry, file, (const struct iovec *)(const void *)gather->pieces,
                        gather->count, offset);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_write(struct io *io, struct io_ticket ticket, int file, const void *from, uint32_t len,
              uint64_t offset)
{
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT(len > 0);
    ASSERT(len <= INT32_MAX);
    ASSERT(offset <= INT64_MAX);
    io_uring_prep_write(entry, file, from, len, offset);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_write_gather(struct io *io, struct io_ticket ticket, int file, struct io_gather *gather,
                     uint64_t offset)
{
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT(gather->count > 0 && gather->count <= IO_PIECES_MAX);
    ASSERT(offset <= INT64_MAX);
    io_uring_prep_writev(entry, file, (const struct iovec *)(const void *)gather->pieces,
                         gather->count, offset);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_sync(struct io *io, struct io_ticket ticket, int file, bool directory)
{
    struct io_uring_sqe *entry = entry_take(io);

    /* DATASYNC leaves out the time stamps, never what is needed to read the data again. */
    io_uring_prep_fsync(entry, file, directory ? 0 : IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_allocate(struct io *io, struct io_ticket ticket, int file, uint64_t bytes)
{
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT(bytes > 0);
    ASSERT(bytes <= INT64_MAX);
    io_uring_prep_fallocate(entry, file, 0, 0, bytes);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_rename(struct io *io, struct io_ticket ticket, int directory, const char *from,
               const char *to)
{
    struct io_uring_sqe *entry = entry_take(io);

    io_uring_prep_renameat(entry, directory, from, directory, to, 0);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

void
io_file_unlink(struct io *io, struct io_ticket ticket, int directory, const char *name)
{
    struct io_uring_sqe *entry = entry_take(io);

    io_uring_prep_unlinkat(entry, directory, name, 0);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_FILE));
}

/* --- at once --- */

/* The entry of a new directory is in its parent: unless that is synced, a power cut takes the
 * directory away with everything that was durable inside. */
static int
parent_sync(int directory)
{
    int parent = openat(directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = 0;

    if (parent < 0)
        return -errno;
    if (fsync(parent) != 0)
        error = -errno;
    close(parent);
    return error;
}

int
io_directory_open(const char *path, bool create)
{
    bool created = create && mkdir(path, 0700) == 0;
    int directory, error;

    if (create && !created && errno != EEXIST)
        return -errno;
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return -errno;
    if (!created)
        return directory;
    error = parent_sync(directory);
    if (error == 0)
        return directory;
    /* Or the next start would find it and take it for durable. */
    rmdir(path);
    close(directory);
    return error;
}

/* The pid in the lock file is for people: what goes wrong with it (a full disk) must not stop a
 * start. Written before the file is cut to length, it needs no room where there was one before. */
static void
holder_write(int file)
{
    char text[16];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

    if (pwrite(file, text, (size_t)len, 0) != len)
        len = 0; /* rather none than an old one */
    (void)!ftruncate(file, len);
}

static uint32_t
holder_read(int file)
{
    char text[16];
    ssize_t len = pread(file, text, sizeof(text), 0), at = 0;
    uint64_t holder = 0;

    while (at < len && text[at] >= '0' && text[at] <= '9')
        holder = holder * 10 + (uint64_t)(text[at++] - '0');
    /* Without its newline it is not written yet. */
    return at < len && text[at] == '\n' && holder <= UINT32_MAX ? (uint32_t)holder : 0;
}

int
io_directory_lock(int directory, const char *name, uint32_t *holder)
{
    int file = openat(directory, name, O_CREAT | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
    int error;

    *holder = 0;
    if (file < 0)
        return -errno;
    /* flock() and not fcntl(F_SETLK): that one would be lost by closing any other descriptor of the
     * file, and would not hold against this process itself. */
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        error = -errno;
        if (io_error_is_locked(error))
            *holder = holder_read(file);
        close(file);
        return error;
    }
    holder_write(file);
    return file;
}

int
io_directory_list(int directory,
                  void (*each)(void *context, const struct io_directory_entry *entry),
                  void *context)
{
    /* Opened anew: the stream's position, and its end with closedir(), are not the caller's. */
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *found;
    int error = 0;

    if (stream == NULL) {
        error = -errno;
        if (copy >= 0)
            close(copy);
        return error;
    }
    while (error == 0 && (errno = 0, found = readdir(stream)) != NULL) {
        struct io_directory_entry entry = { .name = found->d_name };
        struct stat status;

        if (fstatat(directory, found->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
            /* Removed since readdir() saw it. */
            if (errno != ENOENT)
                error = -errno;
        } else if (S_ISREG(status.st_mode)) {
            entry.bytes = (uint64_t)status.st_size;
            each(context, &entry);
        }
    }
    if (error == 0)
        error = -errno;
    closedir(stream);
    return error;
}

int
io_directory_space(int directory, uint64_t *free_bytes, uint64_t *total_bytes)
{
    struct statvfs space;
    struct stat status;

    if (fstatvfs(directory, &space) != 0 || fstat(directory, &status) != 0)
        return -errno;
    if (status.st_nlink == 0)
        return -ENOENT;
    /* bavail, not bfree: what is kept for root is none of ours, even when we start as root. */
    *free_bytes = (uint64_t)space.f_bavail * space.f_frsize;
    *total_bytes = (uint64_t)space.f_blocks * space.f_frsize;
    return 0;
}
