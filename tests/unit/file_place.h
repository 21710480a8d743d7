/* file_place: a ring and an empty directory for tests of operations on files, one at a time.
 * Does:    each call queues one operation and returns its result, with its completion checked.
 * Owns:    the directory, which must be empty again at place_shut().
 * Errors:  what does not come in time fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_FILE_PLACE_H
#define RINGPOST_TESTS_UNIT_FILE_PLACE_H

#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/io_world.h"

#define BLOCK 4096u

/* A ring and an empty directory. */
struct place {
    struct io *io;
    char path[32];
    int directory;
    uint32_t slot; /* of the last ticket */
};

static inline void
place_open(struct place *place, uint32_t entries)
{
    *place = (struct place){ .path = "/tmp/ringpost-file-XXXXXX" };
    cr_assert_not_null(mkdtemp(place->path));
    place->io = io_open(entries, 0);
    place->directory = io_directory_open(place->path, false);
    cr_assert(place->directory >= 0, "%s", io_error_text(place->directory));
}

/* Everything must have been removed. */
static inline void
place_shut(struct place *place)
{
    check_quiet(place->io);
    io_shut(place->io);
    io_close_now(place->directory);
    cr_assert_eq(rmdir(place->path), 0, "%s", strerror(errno));
}

static inline struct io_ticket
next_ticket(struct place *place)
{
    return ticket_of(++place->slot);
}

/* The result of the one operation in flight. */
static inline int32_t
result_of(struct place *place)
{
    struct io_completion got;

    collect(place->io, &got, 1);
    cr_assert_eq(got.op, IO_FILE);
    cr_assert_eq(got.ticket.slot, place->slot);
    cr_assert_eq(got.ticket.generation, 1);
    cr_assert_eq(got.ticket.kind, 1);
    cr_assert_not(got.more);
    cr_assert_eq(got.buffer, BUFFER_NONE);
    return got.result;
}

static inline int32_t
open_at(struct place *place, int directory, const char *name, unsigned flags)
{
    io_file_open(place->io, next_ticket(place), directory, name, flags);
    return result_of(place);
}

static inline int32_t
open_in(struct place *place, const char *name, unsigned flags)
{
    return open_at(place, place->directory, name, flags);
}

static inline int32_t
read_from(struct place *place, int file, void *to, uint32_t len, uint64_t offset)
{
    io_file_read(place->io, next_ticket(place), file, to, len, offset);
    return result_of(place);
}

static inline int32_t
write_to(struct place *place, int file, const void *from, uint32_t len, uint64_t offset)
{
    io_file_write(place->io, next_ticket(place), file, from, len, offset);
    return result_of(place);
}

static inline int32_t
allocate(struct place *place, int file, uint64_t bytes)
{
    io_file_allocate(place->io, next_ticket(place), file, bytes);
    return result_of(place);
}

static inline int32_t
unlink_in(struct place *place, const char *name)
{
    io_file_unlink(place->io, next_ticket(place), place->directory, name);
    return result_of(place);
}

#endif
