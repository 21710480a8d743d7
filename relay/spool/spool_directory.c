/* The spool before there are workers: whose it is, what is there, how large a segment may be, and
 * whether the process before us stopped in order. Blocks; nothing here runs in a turn. */
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "relay/spool/found.h"
#include "relay/spool/spool_private.h"

/* Segments of each worker that a disk must have room for: one being written, the next one, two
 * spares, one being emptied into another, and as many that still have something in them. */
#define SEGMENTS_PER_WORKER 8
/* Below minimum_free: a disk of 5 GiB must not have half of it set aside. */
#define FLOOR_PARTS 20
/* Transient failures (io_error_is_again) of one operation before they count. */
#define TRIES_MAX 100
#define TRY_AGAIN_NS (10 * NS_PER_MS)

/* --- operations on files, waited for --- */

enum at_once_kind { AT_ONCE_UNLINK, AT_ONCE_CREATE, AT_ONCE_SYNC, AT_ONCE_SYNC_DIRECTORY };

static int
complete_one(struct io *io)
{
    struct io_completion completion;

    while (!io_next(io, &completion))
        io_wait(io, UINT64_MAX);
    return completion.result;
}

/* file: of SYNC; else name is used. */
static int
at_once(struct io *io, enum at_once_kind kind, int directory, int file, const char *name)
{
    const struct io_ticket ticket = { .slot = 0 };
    int result = 0;

    for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
        switch (kind) {
        case AT_ONCE_UNLINK: io_file_unlink(io, ticket, directory, name); break;
        case AT_ONCE_CREATE:
            io_file_open(io, ticket, directory, name, IO_FILE_CREATE | IO_FILE_WRITE);
            break;
        case AT_ONCE_SYNC: io_file_sync(io, ticket, file, false); break;
        case AT_ONCE_SYNC_DIRECTORY: io_file_sync(io, ticket, directory, true); break;
        }
        result = complete_one(io);
        if (!io_error_is_again(result))
            break;
        io_wait(io, TRY_AGAIN_NS);
    }
    return result;
}

/* From the open to the close: after the sandbox has begun, no ring can be made any more. */
static bool
at_once_open(struct spool_directory *directory, const char *path, char error[SPOOL_ERROR_BYTES])
{
    const struct io_options options = { .entries = 8, .completions = 16 };
    char io_error[IO_ERROR_BYTES];

    directory->io = io_create(&options, io_error);
    if (directory->io == NULL)
        (void)snprintf(error, SPOOL_ERROR_BYTES, "spool %s: %.300s", path, io_error);
    return directory->io != NULL;
}

/* --- opening --- */

static bool
refuse(char error[SPOOL_ERROR_BYTES], const char *path, const char *what, int code,
       const char *advice)
{
    (void)snprintf(error, SPOOL_ERROR_BYTES, "spool %s: %s: %s; %s", path, what,
                   io_error_text(code), advice);
    return false;
}

static bool
lock_take(struct spool_directory *directory, const char *path, char error[SPOOL_ERROR_BYTES])
{
    uint32_t holder = 0;
    int lock = io_directory_lock(directory->directory, FOUND_LOCK_NAME, &holder);

    if (lock >= 0) {
        directory->lock = lock;
        return true;
    }
    if (!io_error_is_locked(lock))
        return refuse(error, path, "cannot lock it", lock,
                      "the directory must be writable for the user that ringpost runs as");
    if (holder != 0)
        (void)snprintf(error, SPOOL_ERROR_BYTES,
                       "spool %s: the process %u has it, and two would deliver the same messages; "
                       "stop that one first, or give this one another spool.directory",
                       path, holder);
    else
        (void)snprintf(error, SPOOL_ERROR_BYTES,
                       "spool %s: another process has it, and two would deliver the same messages; "
                       "stop that one first, or give this one another spool.directory",
                       path);
    return false;
}

/* What the process before us left for us: spares are room, and its word that it stopped in order
 * holds once. */
static bool
leftovers_remove(struct spool_directory *directory, const char *path, char error[SPOOL_ERROR_BYTES])
{
    const struct spool_found *found = directory->found;
    char name[SPOOL_NAME_BYTES];
    struct io *io = directory->io;
    int result = 0;

    if (found->spare_count == 0 && !found->clean)
        return true;
    for (uint32_t i = 0; i < found->spare_count && result >= 0; i++) {
        spool_spare_name(found->spares[i], name);
        result = at_once(io, AT_ONCE_UNLINK, directory->directory, -1, name);
    }
    if (result >= 0 && found->clean)
        result = at_once(io, AT_ONCE_UNLINK, directory->directory, -1, FOUND_CLEAN_NAME);
    if (result >= 0)
        result = at_once(io, AT_ONCE_SYNC_DIRECTORY, directory->directory, -1, NULL);
    if (result < 0)
        return refuse(error, path, "cannot remove what is not needed any more", result,
                      "the directory must be writable for the user that ringpost runs as");
    return true;
}

/* The largest record that is not put into a file of its own must fit a segment. */
static uint64_t
segment_bytes_least(const struct config *config)
{
    uint64_t record = RECORD_HEADER_BYTES + RECORD_ENVELOPE_BYTES_MAX + config->delivery.buffer +
                      RECORD_TRAILER_BYTES + 2 * SPOOL_BLOCK_BYTES;
    uint64_t bytes = SPOOL_SEGMENT_BYTES_MIN;

    while (bytes < SPOOL_SEGMENT_BYTES_MAX &&
           segment_records_offset(segment_slots(bytes)) + record > bytes)
        bytes *= 2;
    return bytes;
}

static uint64_t
segment_bytes_choose(const struct config *config, uint32_t workers, uint64_t room)
{
    uint64_t most = config->spool.segment, bytes = segment_bytes_least(config);

    if (most > SPOOL_SEGMENT_BYTES_MAX)
        most = SPOOL_SEGMENT_BYTES_MAX;
    most -= most % SPOOL_BLOCK_BYTES;
    while (bytes * 2 <= most && bytes * 2 * SEGMENTS_PER_WORKER * workers <= room)
        bytes *= 2;
    /* The configuration's own number, when there is room for it, need not be a power of two. */
    if (bytes < most && most * SEGMENTS_PER_WORKER * workers <= room)
        bytes = most;
    if (bytes < most)
        log_plain(LOG_LEVEL_NOTICE,
                  "spool: segments of %llu KiB instead of %llu, so that %u of them fit the disk "
                  "for each worker",
                  (unsigned long long)bytes >> 10, (unsigned long long)most >> 10,
                  SEGMENTS_PER_WORKER);
    return bytes;
}

static bool
space_measure(struct spool_directory *directory, const struct config *config, uint32_t workers,
              char error[SPOOL_ERROR_BYTES])
{
    uint64_t free_bytes, total_bytes, floor, room;
    int result = io_directory_space(directory->directory, &free_bytes, &total_bytes);

    if (result < 0)
        return refuse(error, config->spool.directory, "cannot ask for its free space", result,
                      "it must be on a file system that tells");
    floor = config->spool.minimum_free;
    if (floor > total_bytes / FLOOR_PARTS)
        floor = total_bytes / FLOOR_PARTS;
    directory->floor_bytes = floor;
    directory->room_bytes = (int64_t)free_bytes - (int64_t)floor;
    /* With what the spool has already: else a full spool would come back with small segments. */
    room = free_bytes + directory->found->bytes;
    directory->segment_bytes =
        segment_bytes_choose(config, workers, room > floor ? room - floor : 0);
    return true;
}

/* Above every number that was ever used here. The lower half cannot be guessed from outside: a
 * record is bound to its segment's number, so that nobody can put octets into a message that pass
 * for a record where a damaged one had to be searched for. */
static bool
number_choose(struct spool_directory *directory, const char *path, char error[SPOOL_ERROR_BYTES])
{
    uint64_t epoch = directory->found->number_most >> 32;
    uint64_t odds = (clock_realtime_ns() ^ clock_now_ns() << 20) * UINT64_C(0x9E3779B97F4A7C15);

    if (epoch >= UINT32_MAX) {
        (void)snprintf(error, SPOOL_ERROR_BYTES,
                       "spool %s: there is a file with the number %016llx, and no larger numbers "
                       "are left; no ringpost made it: move it away",
                       path, (unsigned long long)directory->found->number_most);
        return false;
    }
    /* Half of the numbers of an epoch are left to count in. */
    directory->next_number = (epoch + 1) << 32 | (odds >> 33);
    return true;
}

static void
tell_what_is_there(const struct spool_directory *directory, const char *path)
{
    const struct spool_found *found = directory->found;

    if (directory->unclean)
        log_plain(LOG_LEVEL_NOTICE,
                  "spool %s: the process before did not stop in order; what it promised is looked "
                  "for, and some messages may be delivered twice",
                  path);
    if (found->damaged_files > 0)
        log_plain(LOG_LEVEL_WARNING,
                  "spool %s: %u damaged segments of earlier starts are still there (NAME.damaged)",
                  path, found->damaged_files);
    if (found->other_files > 0)
        log_plain(LOG_LEVEL_WARNING,
                  "spool %s: %u files do not belong there and are left alone, such as %s", path,
                  found->other_files, found->other_name);
}

static bool
contents_take(struct spool_directory *directory, const struct config *config, uint32_t workers,
              char error[SPOOL_ERROR_BYTES])
{
    const char *path = config->spool.directory;
    int result;

    directory->found = calloc(1, sizeof(*directory->found));
    result = directory->found == NULL ? 0 : found_list(directory->found, directory->directory);
    if (result < 0)
        return refuse(error, path, "cannot list it", result,
                      "it must be readable for the user that ringpost runs as");
    if (directory->found == NULL || directory->found->no_memory) {
        (void)snprintf(error, SPOOL_ERROR_BYTES, "spool %s: no memory for the list of its files",
                       path);
        return false;
    }
    directory->found->reading = workers;
    directory->unclean = !directory->found->clean && directory->found->segment_count > 0;
    return number_choose(directory, path, error) && leftovers_remove(directory, path, error) &&
           space_measure(directory, config, workers, error);
}

bool
spool_directory_open(struct spool_directory *directory, const struct config *config,
                     uint32_t workers, char error[SPOOL_ERROR_BYTES])
{
    const char *path = config->spool.directory;

    ASSERT(path != NULL);
    ASSERT(workers > 0);
    error[0] = '\0';
    *directory = (struct spool_directory){ .directory = -1, .lock = -1 };
    directory->recovering = workers;
    directory->directory = io_directory_open(path, true);
    if (directory->directory < 0)
        return refuse(error, path, "cannot open it", directory->directory,
                      "its parent must exist, and it must be writable for the user that ringpost "
                      "runs as");
    if (lock_take(directory, path, error) && at_once_open(directory, path, error) &&
        contents_take(directory, config, workers, error)) {
        tell_what_is_there(directory, path);
        return true;
    }
    spool_directory_close(directory, false);
    return false;
}

/* --- closing --- */

static int
clean_write(const struct spool_directory *directory)
{
    struct io *io = directory->io;
    int file, result;

    file = at_once(io, AT_ONCE_CREATE, directory->directory, -1, FOUND_CLEAN_NAME);
    result = file;
    if (file >= 0) {
        result = at_once(io, AT_ONCE_SYNC, directory->directory, file, NULL);
        io_close_now(file);
    }
    if (result >= 0)
        result = at_once(io, AT_ONCE_SYNC_DIRECTORY, directory->directory, -1, NULL);
    return result;
}

void
spool_directory_close(struct spool_directory *directory, bool clean)
{
    int result = clean ? clean_write(directory) : 0;

    /* The next start takes it for a crash and looks more closely: nothing is lost by that. */
    if (result < 0)
        log_plain(LOG_LEVEL_WARNING, "spool: cannot note that it was stopped in order: %s",
                  io_error_text(result));
    if (directory->io != NULL)
        io_destroy(directory->io);
    directory->io = NULL;
    if (directory->found != NULL)
        found_free(directory->found);
    free(directory->found);
    directory->found = NULL;
    if (directory->directory >= 0)
        io_close_now(directory->directory);
    /* Last: who waits for the lock finds everything done. */
    if (directory->lock >= 0)
        io_close_now(directory->lock);
    directory->directory = directory->lock = -1;
}
