/* io_world: a small instance of core/io.h for tests, and waiting for what it completes.
 * Does:    creates, collects completions, holds that nothing more comes, counts buffers at the end.
 * Owns:    nothing; io_shut() destroys.
 * Errors:  what does not come in time fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_IO_WORLD_H
#define RINGPOST_TESTS_UNIT_IO_WORLD_H

#include <criterion/criterion.h>

#include "core/config.h"
#include "core/io.h"
#include "tests/unit/sockets.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define SECOND_NS UINT64_C(1000000000)

/* bulk: buffers for io_receive(); 0: none at all. RESERVE more stay ours. */
#define RESERVE 2

static inline struct io *
io_open(uint32_t entries, uint32_t bulk)
{
    struct io_options options = { .entries = entries,
                                  .completions = 4096,
                                  .buffer_count = bulk == 0 ? 0 : bulk + BUFFERS_SURE + RESERVE,
                                  .buffer_reserve = RESERVE };
    char error[IO_ERROR_BYTES];
    struct io *io = io_create(&options, error);

    cr_assert_not_null(io, "%s", error);
    cr_assert_eq(error[0], '\0');
    return io;
}

/* All completions until `count` have come. Two seconds without one fail the test. */
static inline void
collect(struct io *io, struct io_completion *out, unsigned count)
{
    unsigned have = 0;

    while (have < count) {
        cr_assert_gt(io_wait(io, 2 * SECOND_NS), 0, "%u of %u completions came", have, count);
        while (have < count && io_next(io, &out[have]))
            have++;
    }
}

/* The next completion, which is a receive's. */
static inline struct io_completion
receive_one(struct io *io)
{
    struct io_completion got;

    collect(io, &got, 1);
    cr_assert_eq(got.op, IO_RECEIVE);
    return got;
}

static inline void
check_quiet(struct io *io)
{
    struct io_completion completion;

    io_wait(io, SECOND_NS / 50);
    cr_assert_not(io_next(io, &completion), "an operation %d completed with %d", completion.op,
                  completion.result);
}

/* Every buffer is free or with the kernel. */
static inline void
io_shut(struct io *io)
{
    struct io_counts counts = io_counts(io);

    cr_assert_eq(counts.buffers_free + counts.buffers_offered, io_buffers(io)->count,
                 "a buffer is lost");
    cr_assert_eq(counts.overflows, 0);
    io_destroy(io);
}

static inline struct io_ticket
ticket_of(uint32_t slot)
{
    return (struct io_ticket){ .slot = slot, .generation = 1, .kind = 1 };
}

static inline struct config_address
address_of(bool six, uint16_t port)
{
    struct config_address address = { .family = six ? CONFIG_ADDRESS_IPV6 : CONFIG_ADDRESS_IPV4,
                                      .ip = { 127, 0, 0, 1 },
                                      .port = port };

    if (six)
        memcpy(address.ip, &in6addr_loopback, 16);
    return address;
}

static inline int
listener_open(bool six, struct config_address *address)
{
    int listener;

    *address = address_of(six, 0);
    listener = io_listen(address, false);
    cr_assert(listener >= 0, "%s", io_error_text(listener));
    address->port = io_port(listener);
    cr_assert_neq(address->port, 0);
    return listener;
}

#endif
