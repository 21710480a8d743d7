/* core/io.h on the kernel that runs the tests: what each operation promises, over real sockets. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/io_world.h"

static int
client_connect(const struct config_address *to)
{
    struct sockaddr_in in = { .sin_family = AF_INET,
                              .sin_port = htons(to->port),
                              .sin_addr = { htonl(INADDR_LOOPBACK) } };
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert_eq(connect(client, (struct sockaddr *)&in, sizeof(in)), 0, "%s", strerror(errno));
    return client;
}

/* --- tickets --- */

Test(io, tickets_come_back_unchanged)
{
    static const struct io_ticket tickets[] = {
        { 0, 0, 0 },           { 0xffffff, 0, 0 },           { 0, 0xffffff, 0 },
        { 0, 0, 0xff },        { 0xffffff, 0xffffff, 0xff }, { 1, 2, 3 },
        { 0x800000, 1, 0x80 }, { 0x123456, 0xfedcba, 0x5a },
    };
    struct io *io = io_open(64, 4);

    for (size_t i = 0; i < COUNT_OF(tickets); i++) {
        struct io_completion got[3];
        unsigned seen = 0;
        int pair[2];

        sockets_pair(pair);
        io_receive(io, tickets[i], pair[0]);
        io_send(io, tickets[i], pair[1], SPAN("hello"));
        io_post(io, io, tickets[i], -5);
        collect(io, got, 3);
        for (unsigned n = 0; n < 3; n++) {
            cr_assert_eq(got[n].ticket.slot, tickets[i].slot, "row %zu", i);
            cr_assert_eq(got[n].ticket.generation, tickets[i].generation, "row %zu", i);
            cr_assert_eq(got[n].ticket.kind, tickets[i].kind, "row %zu", i);
            cr_assert_eq(got[n].result, got[n].op == IO_MESSAGE ? -5 : 5, "row %zu", i);
            seen |= 1u << got[n].op;
            if (got[n].op == IO_RECEIVE) {
                cr_assert(got[n].more);
                cr_assert_eq(memcmp(buffer_memory(io_buffers(io), got[n].buffer), "hello", 5), 0);
                buffer_release(io_buffers(io), got[n].buffer);
            } else {
                cr_assert_eq(got[n].buffer, BUFFER_NONE);
            }
        }
        cr_assert_eq(seen, 1u << IO_RECEIVE | 1u << IO_SEND | 1u << IO_MESSAGE, "row %zu", i);
        io_cancel(io, tickets[i], pair[0]);
        collect(io, got, 2);
        close(pair[0]);
        close(pair[1]);
    }
    io_shut(io);
}

/* --- accepting --- */

Test(io, one_accept_takes_many)
{
    struct io *io = io_open(64, 0);
    struct config_address address;
    int listener = listener_open(false, &address), clients[20];
    struct io_completion got[COUNT_OF(clients) + 2];
    unsigned ended = 0;

    io_accept(io, ticket_of(9), listener);
    for (size_t i = 0; i < COUNT_OF(clients); i++)
        clients[i] = client_connect(&address);
    collect(io, got, COUNT_OF(clients));
    for (size_t i = 0; i < COUNT_OF(clients); i++) {
        struct sockaddr_in name;
        socklen_t len = sizeof(name);
        struct io_peer peer;
        int no_delay = 0;
        socklen_t size = sizeof(no_delay);

        cr_assert_eq(got[i].op, IO_ACCEPT);
        cr_assert(got[i].more, "client %zu", i);
        cr_assert(got[i].result >= 0);
        cr_assert(fcntl(got[i].result, F_GETFD) & FD_CLOEXEC);
        cr_assert_eq(getsockopt(got[i].result, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size), 0);
        cr_assert(no_delay != 0, "replies would wait for an ACK");
        cr_assert(io_peer(got[i].result, &peer));
        cr_assert_eq(memcmp(peer.ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16), 0);
        cr_assert_eq(getsockname(clients[i], (struct sockaddr *)&name, &len), 0);
        cr_assert_eq(peer.port, ntohs(name.sin_port));
        cr_assert_not(peer.local);
        io_close_now(got[i].result);
        close(clients[i]);
    }
    io_cancel(io, ticket_of(10), listener);
    collect(io, got, 2);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_not(got[i].more);
        if (got[i].op == IO_CANCEL) {
            cr_assert_eq(got[i].ticket.slot, 10);
            cr_assert_eq(got[i].result, 1);
        } else {
            cr_assert_eq(got[i].op, IO_ACCEPT);
            cr_assert(io_error_is_canceled(got[i].result));
            ended++;
        }
    }
    cr_assert_eq(ended, 1);
    close(listener);
    io_shut(io);
}

/* --- sending --- */

/* Reads what is there, without waiting. Returns how much. */
static size_t
drain(int from)
{
    static char room[1 << 16];
    size_t total = 0;
    ssize_t n;

    while ((n = recv(from, room, sizeof(room), MSG_DONTWAIT)) > 0)
        total += (size_t)n;
    return total;
}

Test(io, a_send_completes_when_all_of_it_is_out)
{
    static char text[3 << 20];
    struct io *io = io_open(64, 0);
    struct io_gather gather = { .count = IO_PIECES_MAX };
    size_t piece = sizeof(text) / IO_PIECES_MAX;
    struct io_completion got;

    for (unsigned i = 0; i < IO_PIECES_MAX; i++)
        gather.pieces[i] = (struct io_piece){ text + i * piece, piece };
    for (int gathered = 0; gathered < 2; gathered++) {
        size_t received = 0;
        bool done = false;
        int pair[2];

        sockets_pair(pair);
        if (gathered)
            io_send_gather(io, ticket_of(3), pair[0], &gather);
        else
            io_send(io, ticket_of(3), pair[0], span_of(text, sizeof(text)));
        while (!done) {
            io_wait(io, SECOND_NS / 100);
            if (io_next(io, &got)) {
                cr_assert_eq(got.op, IO_SEND);
                cr_assert_eq(got.result, (int32_t)sizeof(text));
                done = true;
            }
            received += drain(pair[1]);
            cr_assert(done || received < sizeof(text) || io_wait(io, SECOND_NS) > 0);
        }
        received += drain(pair[1]);
        cr_assert_eq(received, sizeof(text));
        close(pair[0]);
        close(pair[1]);
    }
    io_shut(io);
}

Test(io, sending_to_nobody_is_a_result)
{
    struct io *io = io_open(64, 0);
    struct io_completion got;
    int pair[2];

    sockets_pair(pair);
    close(pair[1]);
    io_send(io, ticket_of(3), pair[0], SPAN("is anybody there?"));
    collect(io, &got, 1);
    cr_assert_eq(got.result, 17, "the kernel takes it, and hears then");
    check_quiet(io);
    io_send(io, ticket_of(3), pair[0], SPAN("is anybody there?"));
    collect(io, &got, 1);
    cr_assert(got.result == -EPIPE || got.result == -ECONNRESET, "%d", got.result);
    close(pair[0]);
    io_shut(io);
}

Test(io, our_end_of_the_stream)
{
    struct io *io = io_open(64, 0);
    struct io_completion got;
    char text[8];
    int pair[2];

    sockets_pair(pair);
    io_send(io, ticket_of(3), pair[0], SPAN("bye"));
    collect(io, &got, 1);
    io_shutdown(io, pair[0]);
    cr_assert_eq(recv(pair[1], text, sizeof(text), 0), 3);
    cr_assert_eq(recv(pair[1], text, sizeof(text), 0), 0);
    sockets_write(pair[1], "still", 5); /* the other direction is open */
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

static bool
descriptor_open(int descriptor)
{
    return fcntl(descriptor, F_GETFD) >= 0;
}

Test(io, last_words_then_closed)
{
    static const struct {
        const char *name;
        unsigned queued; /* entries of the queue of 8 that are taken already */
        bool gone;       /* the peer has closed */
        bool shut;       /* our own end is over: the send fails */
    } rows[] = { { "an empty queue", 0, false, false },
                 { "room for one of the two", 7, false, false },
                 { "a full queue", 8, false, false },
                 { "nobody hears them", 0, true, false },
                 { "they cannot be said", 0, false, true } };
    struct io *io = io_open(8, 0);

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct io_completion got[8];
        int pair[2], other[2];
        char text[8];

        sockets_pair(pair);
        sockets_pair(other);
        if (rows[i].gone)
            close(pair[1]);
        if (rows[i].shut)
            shutdown(pair[0], SHUT_WR);
        for (unsigned n = 0; n < rows[i].queued; n++)
            io_send(io, ticket_of(n), other[0], SPAN("x"));
        io_send_last(io, pair[0], SPAN("421 no\n"));
        collect(io, got, rows[i].queued);
        check_quiet(io);
        if (!rows[i].gone) {
            cr_assert_eq(recv(pair[1], text, sizeof(text), MSG_DONTWAIT), rows[i].shut ? 0 : 7,
                         "%s", rows[i].name);
            cr_assert_eq(recv(pair[1], text, sizeof(text), MSG_DONTWAIT), 0, "%s", rows[i].name);
            close(pair[1]);
        }
        cr_assert_not(descriptor_open(pair[0]), "%s", rows[i].name);
        close(other[0]);
        close(other[1]);
    }
    io_shut(io);
}

Test(io, closing)
{
    struct io *io = io_open(8, 0);
    int pair[2];

    sockets_pair(pair);
    io_close(io, pair[0]);
    cr_assert(descriptor_open(pair[0]), "before it is submitted");
    check_quiet(io);
    cr_assert_not(descriptor_open(pair[0]));
    io_close_now(pair[1]);
    cr_assert_not(descriptor_open(pair[1]));
    io_shut(io);
}

/* --- ending what is under way --- */

Test(io, cancel_ends_every_operation_on_the_socket)
{
    static char much[4 << 20];
    struct io *io = io_open(64, 4);
    struct io_completion got[3];
    int pair[2], other[2], status = 0;

    sockets_pair(pair);
    sockets_pair(other);
    io_receive(io, ticket_of(1), pair[0]);
    io_send(io, ticket_of(2), pair[0], span_of(much, sizeof(much)));
    io_receive(io, ticket_of(3), other[0]);
    check_quiet(io);
    io_cancel(io, ticket_of(4), pair[0]);
    collect(io, got, 3);
    for (unsigned i = 0; i < 3; i++) {
        status |= 1 << got[i].ticket.slot;
        switch (got[i].ticket.slot) {
        case 1:
            cr_assert_eq(got[i].op, IO_RECEIVE);
            cr_assert(io_error_is_canceled(got[i].result));
            cr_assert_not(got[i].more);
            break;
        case 2: /* a part had gone out */
            cr_assert_eq(got[i].op, IO_SEND);
            cr_assert(got[i].result > 0 && got[i].result < (int32_t)sizeof(much));
            break;
        default: cr_assert_eq(got[i].op, IO_CANCEL); cr_assert_eq(got[i].result, 2);
        }
    }
    cr_assert_eq(status, 1 << 1 | 1 << 2 | 1 << 4);
    /* The other socket was not meant. */
    sockets_write(other[1], "x", 1);
    collect(io, got, 1);
    cr_assert_eq(got[0].ticket.slot, 3);
    cr_assert_eq(got[0].result, 1);
    buffer_release(io_buffers(io), got[0].buffer);
    /* Nothing is under way: that completes too. */
    io_cancel(io, ticket_of(5), pair[0]);
    collect(io, got, 1);
    cr_assert_eq(got[0].op, IO_CANCEL);
    cr_assert(got[0].result <= 0);
    io_cancel(io, ticket_of(6), other[0]);
    collect(io, got, 2);
    for (int i = 0; i < 2; i++) {
        close(pair[i]);
        close(other[i]);
    }
    io_shut(io);
}

Test(io, stopping_a_receive_leaves_the_send)
{
    static char much[4 << 20];

    for (int sure = 0; sure < 2; sure++) {
        struct io *io = io_open(64, 4);
        struct io_completion got;
        size_t received = 0;
        int pair[2];

        sockets_pair(pair);
        if (sure)
            io_receive_sure(io, ticket_of(1), pair[0]);
        else
            io_receive(io, ticket_of(1), pair[0]);
        io_send(io, ticket_of(2), pair[0], span_of(much, sizeof(much)));
        check_quiet(io);
        io_receive_stop(io, ticket_of(99), sure); /* nobody's */
        check_quiet(io);
        io_receive_stop(io, ticket_of(1), sure);
        got = receive_one(io);
        cr_assert_eq(got.ticket.slot, 1);
        cr_assert(io_error_is_canceled(got.result));
        cr_assert_not(got.more);
        sockets_write(pair[1], "x", 1);
        check_quiet(io);
        /* Armed again, it gets what came in between. */
        io_receive(io, ticket_of(3), pair[0]);
        got = receive_one(io);
        cr_assert_eq(got.ticket.slot, 3);
        cr_assert_eq(got.result, 1);
        buffer_release(io_buffers(io), got.buffer);
        /* Stopped twice, and again when it is gone. */
        io_receive_stop(io, ticket_of(3), false);
        io_receive_stop(io, ticket_of(3), false);
        got = receive_one(io);
        cr_assert(io_error_is_canceled(got.result));
        io_receive_stop(io, ticket_of(3), false);
        check_quiet(io);
        for (got.op = IO_NONE; got.op != IO_SEND;) {
            received += drain(pair[1]);
            io_wait(io, SECOND_NS / 100);
            if (io_next(io, &got))
                cr_assert_eq(got.result, (int32_t)sizeof(much));
        }
        cr_assert_eq(received + drain(pair[1]), sizeof(much));
        close(pair[0]);
        close(pair[1]);
        io_shut(io);
    }
}

/* --- the turn --- */

static uint64_t
now_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

Test(io, waiting)
{
    static const uint64_t times[] = { 0, 1, SECOND_NS / 1000, SECOND_NS / 20 };
    struct io *io = io_open(64, 0);
    struct io_completion got;
    int pair[2];

    for (size_t i = 0; i < COUNT_OF(times); i++) {
        uint64_t before = now_ns(), took;

        cr_assert_eq(io_wait(io, times[i]), 0);
        took = now_ns() - before;
        cr_assert(took >= times[i] && took < times[i] + SECOND_NS, "%lu ns: %lu",
                  (unsigned long)times[i], (unsigned long)took);
    }
    /* What is not taken is there the next time, and then no more. */
    sockets_pair(pair);
    for (unsigned i = 0; i < 3; i++)
        io_send(io, ticket_of(i), pair[0], SPAN("x"));
    cr_assert_eq(io_wait(io, UINT64_MAX) > 0, true);
    while (io_wait(io, 0) < 3)
        ;
    for (unsigned i = 0; i < 3; i++) {
        cr_assert(io_next(io, &got));
        cr_assert_eq(got.ticket.slot, i);
        cr_assert_eq(io_wait(io, 0), 2 - i);
    }
    cr_assert_not(io_next(io, &got));
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* The quickest of many waits in vain. */
static uint64_t
wait_took_ns(struct io *io, uint64_t timeout_ns)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < 500; i++) {
        uint64_t before = now_ns(), took;

        cr_assert_eq(io_wait(io, timeout_ns), 0);
        took = now_ns() - before;
        least = took < least ? took : least;
    }
    return least;
}

/* A wait of 0, as in each turn that has work of its own left over, asks for no timer. */
Test(io, no_wait_needs_no_timer)
{
    struct io *io = io_open(64, 4);
    uint64_t none_ns, least_ns;

    none_ns = wait_took_ns(io, 0);
    least_ns = wait_took_ns(io, 1);
    cr_assert_lt(none_ns * 3, least_ns * 2, "%lu ns without, %lu ns with one",
                 (unsigned long)none_ns, (unsigned long)least_ns);
    io_shut(io);
}

Test(io, more_operations_than_entries)
{
    struct io *io = io_open(4, 0);
    struct io_completion got[100];
    struct io_counts before = io_counts(io), after;
    int pair[2];

    sockets_pair(pair);
    for (unsigned i = 0; i < COUNT_OF(got); i++)
        io_send(io, ticket_of(i), pair[0], SPAN("x"));
    collect(io, got, COUNT_OF(got));
    for (unsigned i = 0; i < COUNT_OF(got); i++) {
        cr_assert_eq(got[i].ticket.slot, i, "in order");
        cr_assert_eq(got[i].result, 1);
    }
    after = io_counts(io);
    cr_assert_eq(after.submissions - before.submissions, COUNT_OF(got));
    cr_assert_eq(after.completions - before.completions, COUNT_OF(got));
    cr_assert_geq(after.enters - before.enters, COUNT_OF(got) / 4);
    cr_assert_eq(drain(pair[1]), COUNT_OF(got));
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}
