/* core/io.h's receives on the kernel that runs the tests: how each kind ends, which buffers it
 * takes. */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tests/unit/io_world.h"

Test(io_receive, receives_until_no_buffer_and_again)
{
    enum { BULK = 3 };
    struct io *io = io_open(64, BULK);
    struct buffers *buffers = io_buffers(io);
    uint32_t held[BULK];
    struct io_completion got;
    int pair[2];

    sockets_pair(pair);
    for (unsigned round = 0; round < 3; round++) {
        io_receive(io, ticket_of(round), pair[0]);
        for (unsigned i = 0; i < BULK; i++) {
            char octet = (char)('a' + i);

            sockets_write(pair[1], &octet, 1);
            got = receive_one(io);
            cr_assert_eq(got.result, 1);
            cr_assert(got.more);
            cr_assert_eq(buffer_memory(buffers, got.buffer)[0], octet);
            held[i] = got.buffer;
        }
        cr_assert_not(io_buffers_left(io, false));
        cr_assert(io_buffers_left(io, true));
        cr_assert_eq(io_counts(io).buffers_offered, BUFFERS_SURE);
        cr_assert_eq(io_counts(io).buffers_free, RESERVE);
        sockets_write(pair[1], "late", 4);
        got = receive_one(io);
        cr_assert(io_error_is_no_buffer(got.result), "%s", io_error_text(got.result));
        cr_assert(io_error_is_shortage(got.result));
        cr_assert_not(got.more);
        cr_assert_eq(got.buffer, BUFFER_NONE);
        /* Armed again with nothing to receive into: it says so again, and nothing is lost. */
        io_receive(io, ticket_of(round), pair[0]);
        got = receive_one(io);
        cr_assert(io_error_is_no_buffer(got.result));
        buffer_release(buffers, held[0]);
        cr_assert(io_buffers_left(io, false));
        io_receive(io, ticket_of(round), pair[0]);
        got = receive_one(io);
        cr_assert_eq(got.result, 4);
        cr_assert_eq(memcmp(buffer_memory(buffers, got.buffer), "late", 4), 0);
        buffer_release(buffers, got.buffer);
        for (unsigned i = 1; i < BULK; i++)
            buffer_release(buffers, held[i]);
        io_cancel(io, ticket_of(99), pair[0]);
        collect(io, (struct io_completion[2]){ 0 }, 2);
    }
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* Whether the kernel is at least this one. */
static bool
kernel_is(unsigned major, unsigned minor)
{
    struct utsname name;
    unsigned got[2] = { 0 };

    cr_assert_eq(uname(&name), 0);
    cr_assert_eq(sscanf(name.release, "%u.%u", &got[0], &got[1]), 2);
    return got[0] > major || (got[0] == major && got[1] >= minor);
}

/* It ends by itself although there is more; what is left comes when it is armed again. Where the
 * kernel cannot do that, all comes. */
Test(io_receive, receives_some)
{
    enum { REST = 2 * BUFFER_BYTES, TOTAL = RECEIVE_BYTES_MOST + REST };
    static char text[TOTAL], copy[TOTAL];
    struct io *io = io_open(64, 16);
    size_t len = 0;
    int pair[2];

    for (size_t i = 0; i < TOTAL; i++)
        text[i] = (char)(i * 31 + i / 4099);
    sockets_pair(pair);
    sockets_write(pair[1], text, TOTAL);
    for (unsigned armed = 0; len < TOTAL; armed++) {
        struct io_completion got = { .more = true };
        size_t before = len;

        io_receive_some(io, ticket_of(armed), pair[0]);
        while (got.more && len < TOTAL) {
            got = receive_one(io);
            cr_assert_gt(got.result, 0, "%s", io_error_text(got.result));
            memcpy(copy + len, buffer_memory(io_buffers(io), got.buffer), (size_t)got.result);
            len += (size_t)got.result;
            buffer_release(io_buffers(io), got.buffer);
        }
        if (armed > 0 || !kernel_is(6, 17))
            continue;
        cr_assert_not(got.more);
        cr_assert_geq(len - before, (size_t)RECEIVE_BYTES_MOST);
        cr_assert_lt(len - before, (size_t)RECEIVE_BYTES_MOST + BUFFER_BYTES);
    }
    cr_assert_eq(memcmp(text, copy, TOTAL), 0);
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* One buffer, whatever there is; what io_receive_left() says of it. */
Test(io_receive, receives_once)
{
    enum { BULK = 3, PART = BUFFER_BYTES / 2 };
    static const char text[BUFFER_BYTES + PART];
    static const int32_t want[] = { BUFFER_BYTES, PART };
    struct io *io = io_open(64, BULK);
    struct io_completion got[COUNT_OF(want)], last;
    int pair[2];

    sockets_pair(pair);
    sockets_write(pair[1], text, sizeof(text));
    check_quiet(io);
    cr_assert_eq(io_receive_left(io), BULK);
    for (uint32_t i = 0; i < COUNT_OF(want); i++) {
        io_receive_once(io, ticket_of(1), pair[0]);
        got[i] = receive_one(io);
        cr_assert_eq(got[i].op, IO_RECEIVE);
        cr_assert_eq(got[i].result, want[i], "%d", got[i].result);
        cr_assert_not(got[i].more);
        check_quiet(io);
        cr_assert_eq(io_receive_left(io), BULK - 1 - i);
    }
    for (uint32_t i = 0; i < COUNT_OF(want); i++)
        buffer_release(io_buffers(io), got[i].buffer);
    cr_assert_eq(io_receive_left(io), BULK);
    /* Armed and stopped while there is nothing it takes nothing. */
    io_receive_once(io, ticket_of(2), pair[0]);
    io_receive_stop(io, ticket_of(2), false);
    last = receive_one(io);
    cr_assert(io_error_is_canceled(last.result), "%d", last.result);
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* Next hops' replies have more than their sure ones only where clients' receives want nothing. */
Test(io_receive, more_sure_buffers_where_there_are_many)
{
    enum { RESERVED = 8, OFFERED = 4, MOST = 4 * BUFFERS_SURE };
    static const struct {
        uint32_t more; /* buffers beyond reserve, what clients' receives may have, and sure ones */
        uint32_t offered;
    } rows[] = { { 0, BUFFERS_SURE },
                 { 1, BUFFERS_SURE + 1 },
                 { OFFERED + 1, BUFFERS_SURE + OFFERED + 1 },
                 { MOST, MOST },
                 { 2 * MOST, MOST } };
    char error[IO_ERROR_BYTES];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct io_options options = { .entries = 64,
                                      .completions = 4096,
                                      .buffer_count =
                                          RESERVED + OFFERED + BUFFERS_SURE + rows[i].more,
                                      .buffer_reserve = RESERVED,
                                      .buffers_offered = OFFERED,
                                      .buffers_sure = MOST };
        struct io *io = io_create(&options, error);

        cr_assert_not_null(io, "%s", error);
        check_quiet(io);
        check_quiet(io);
        cr_assert_eq(io_counts(io).buffers_offered, OFFERED + rows[i].offered, "row %zu: %u", i,
                     io_counts(io).buffers_offered);
        io_destroy(io);
    }
}

/* Out of the upper half of the reserve a few are offered too, when all others are held. */
Test(io_receive, the_least_is_offered_out_of_the_reserve)
{
    enum { RESERVED = 8, OFFERED = 4, LEAST = 2 };
    static const struct {
        uint32_t free; /* all others are held, but for those that the kernel has */
        uint32_t offered;
    } rows[] = { { RESERVED + 1, OFFERED }, { RESERVED + 0, OFFERED - 1 },
                 { RESERVED - 2, LEAST }, { RESERVED / 2, LEAST - 1 } };
    struct io_options options = { .entries = 64,
                                  .completions = 4096,
                                  .buffer_count = 2 * RESERVED + OFFERED + BUFFERS_SURE,
                                  .buffer_reserve = RESERVED,
                                  .buffers_offered = OFFERED,
                                  .buffers_least = LEAST };
    char error[IO_ERROR_BYTES];
    struct io *io = io_create(&options, error);
    struct chain held = CHAIN_EMPTY;
    struct buffers *buffers;
    int pair[2];

    cr_assert_not_null(io, "%s", error);
    buffers = io_buffers(io);
    sockets_pair(pair);
    io_receive(io, ticket_of(1), pair[0]);
    check_quiet(io);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct io_completion got;

        while (buffers->free_count > rows[i].free)
            chain_append(buffers, &held, buffer_take(buffers, 0), 0, 1);
        if (i > 0) {
            sockets_write(pair[1], "x", 1);
            got = receive_one(io);
            cr_assert_eq(got.result, 1);
            chain_append(buffers, &held, got.buffer, 0, 1);
        }
        check_quiet(io);
        cr_assert_eq(io_receive_left(io), rows[i].offered + (i == 0), "row %zu: %u", i,
                     io_receive_left(io));
    }
    chain_release(buffers, &held);
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

Test(io_receive, a_stream_arrives_whole_and_ends)
{
    static char text[10 * BUFFER_BYTES + 77];
    struct io *io = io_open(64, 4);
    struct buffers *buffers = io_buffers(io);
    size_t sent = 0, received = 0;
    bool armed = false, ended = false;
    unsigned turns = 0;
    int pair[2];

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 31 + i / 1000);
    sockets_pair(pair);
    while (!ended) {
        struct io_completion got;

        if (sent < sizeof(text)) {
            sent += sockets_write_some(pair[1], text + sent, sizeof(text) - sent);
            if (sent == sizeof(text))
                shutdown(pair[1], SHUT_WR);
        }
        if (!armed)
            io_receive(io, ticket_of(1), pair[0]);
        armed = true;
        /* Kernels may lose an end that comes with data (see link_recheck()): look again. */
        if (io_wait(io, SECOND_NS / 5) == 0)
            io_receive_stop(io, ticket_of(1), false);
        cr_assert_lt(turns++, 10000);
        while (io_next(io, &got)) {
            armed = got.more;
            if (got.result > 0) {
                cr_assert_eq(
                    memcmp(buffer_memory(buffers, got.buffer), text + received, (size_t)got.result),
                    0);
                received += (size_t)got.result;
                buffer_release(buffers, got.buffer);
            } else if (got.result == 0) {
                cr_assert_not(got.more);
                cr_assert_eq(got.buffer, BUFFER_NONE);
                ended = true;
            } else {
                cr_assert(io_error_is_no_buffer(got.result) || io_error_is_canceled(got.result));
            }
        }
    }
    cr_assert_eq(received, sizeof(text));
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* With all other buffers held, replies of a next hop still find some, and more when those are given
 * back. */
Test(io_receive, sure_receives_have_buffers_of_their_own)
{
    enum { BULK = 2 };
    struct io *io = io_open(64, BULK);
    struct buffers *buffers = io_buffers(io);
    uint32_t held[BULK + BUFFERS_SURE + RESERVE], count = 0;
    struct io_completion got;
    int bulk[2], sure[2];

    sockets_pair(bulk);
    sockets_pair(sure);
    io_receive(io, ticket_of(1), bulk[0]);
    io_receive_sure(io, ticket_of(2), sure[0]);
    for (got.result = 1; got.result > 0;) {
        sockets_write(bulk[1], "x", 1);
        got = receive_one(io);
        cr_assert_eq(got.ticket.slot, 1);
        if (got.result > 0)
            held[count++] = got.buffer;
    }
    cr_assert_eq(count, BULK);
    for (unsigned i = 0; i < 3 * BUFFERS_SURE; i++) {
        sockets_write(sure[1], "y", 1);
        got = receive_one(io);
        cr_assert_eq(got.ticket.slot, 2);
        cr_assert_eq(got.result, 1, "reply %u: %s", i, io_error_text(got.result));
        cr_assert(got.more);
        buffer_release(buffers, got.buffer);
    }
    while (count < COUNT_OF(held)) {
        sockets_write(sure[1], "z", 1);
        got = receive_one(io);
        if (got.result < 0)
            break;
        held[count++] = got.buffer;
    }
    cr_assert(io_error_is_no_buffer(got.result), "%d", got.result);
    cr_assert_not(io_buffers_left(io, true));
    while (count > 0)
        buffer_release(buffers, held[--count]);
    cr_assert(io_buffers_left(io, true));
    for (int i = 0; i < 2; i++) {
        close(bulk[i]);
        close(sure[i]);
    }
    io_shut(io);
}
