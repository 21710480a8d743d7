/* core/io.h: connecting, listening, posting to another thread's instance, and its errors. */
#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/io_world.h"

/* --- connecting --- */

Test(io, connect_and_refused)
{
    struct io *io = io_open(64, 0);

    for (int six = 0; six < 2; six++) {
        struct config_address address;
        struct io_completion got;
        int listener = listener_open(six != 0, &address), client;

        client = io_socket(&address);
        cr_assert(client >= 0);
        io_connect(io, ticket_of(1), client, &address);
        collect(io, &got, 1);
        cr_assert_eq(got.op, IO_CONNECT);
        cr_assert_eq(got.result, 0, "%s", io_error_text(got.result));
        close(client);
        close(listener);
        client = io_socket(&address);
        io_connect(io, ticket_of(2), client, &address);
        collect(io, &got, 1);
        cr_assert_eq(got.result, -ECONNREFUSED);
        cr_assert_str_eq(io_error_text(got.result), "Connection refused");
        cr_assert_not(io_error_is_shortage(got.result));
        close(client);
    }
    io_shut(io);
}

Test(io, connect_to_a_unix_socket)
{
    char folder[] = "/tmp/ringpost-io-XXXXXX", path[64];
    struct config_address address = { .family = CONFIG_ADDRESS_UNIX, .path = path };
    struct io *io = io_open(64, 0);
    struct io_completion got;
    struct io_peer peer;
    int listener, client;

    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/s", folder);
    listener = io_listen(&address, false);
    cr_assert(listener >= 0, "%s", io_error_text(listener));
    cr_assert_eq(io_port(listener), 0);
    cr_assert_eq(io_listen(&address, false), -EADDRINUSE);
    client = io_socket(&address);
    io_connect(io, ticket_of(1), client, &address);
    collect(io, &got, 1);
    cr_assert_eq(got.result, 0, "%s", io_error_text(got.result));
    cr_assert(io_peer(client, &peer));
    cr_assert(peer.local);
    cr_assert_eq(peer.port, 0);
    close(client);
    close(listener);
    unlink(path);
    rmdir(folder);
    io_shut(io);
}

/* Counted by the peer's kernel, whoever reads; SYN may count too. It is known after the end. */
Test(io, what_the_peer_has_acknowledged)
{
    struct config_address address = { .family = CONFIG_ADDRESS_IPV4, .ip = { 127, 0, 0, 1 } };
    struct io *io = io_open(64, 0);
    struct io_completion got;
    uint64_t octets = 99;
    char text[1000] = "";
    int listener, client, peer, pair[2];

    listener = io_listen(&address, false);
    address.port = io_port(listener);
    client = io_socket(&address);
    io_connect(io, ticket_of(1), client, &address);
    collect(io, &got, 1);
    cr_assert_eq(got.result, 0);
    peer = accept(listener, NULL, NULL);
    cr_assert(io_acknowledged(client, &octets));
    cr_assert_leq(octets, 1);
    for (unsigned round = 1; round <= 3; round++) {
        cr_assert_eq(send(client, text, sizeof(text), 0), sizeof(text));
        cr_assert_eq(recv(peer, text, sizeof(text), MSG_WAITALL), sizeof(text));
        /* An acknowledgement may wait for some 40 ms for something to go with. */
        cr_assert_eq(send(peer, text, 1, 0), 1);
        cr_assert_eq(recv(client, text, 1, 0), 1);
        cr_assert(io_acknowledged(client, &octets));
        cr_assert(octets == round * sizeof(text) || octets == round * sizeof(text) + 1, "%lu",
                  (unsigned long)octets);
    }
    close(peer);
    cr_assert_eq(recv(client, text, 1, 0), 0);
    cr_assert_eq(send(client, text, 500, MSG_NOSIGNAL), 500);
    while (send(client, text, 1, MSG_NOSIGNAL) > 0)
        ;
    cr_assert(io_acknowledged(client, &octets));
    cr_assert_leq(octets, 3 * sizeof(text) + 1, "%lu", (unsigned long)octets);
    close(client);
    close(listener);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_assert_not(io_acknowledged(pair[0], &octets));
    close(pair[0]);
    close(pair[1]);
    io_shut(io);
}

/* More connects in one turn than addresses are kept: each goes where it was sent. */
Test(io, many_connects_in_one_turn)
{
    enum { CONNECTS = 150, LISTENERS = 3 };
    struct io *io = io_open(1024, 0);
    struct config_address addresses[LISTENERS];
    struct io_completion got[CONNECTS];
    int listeners[LISTENERS], clients[CONNECTS];

    for (unsigned i = 0; i < LISTENERS; i++)
        listeners[i] = listener_open(false, &addresses[i]);
    for (unsigned i = 0; i < CONNECTS; i++) {
        struct config_address to = addresses[i % LISTENERS];

        clients[i] = io_socket(&to);
        io_connect(io, ticket_of(i), clients[i], &to);
        memset(&to, 0xff, sizeof(to)); /* the address is needed for the call only */
    }
    collect(io, got, CONNECTS);
    for (unsigned i = 0; i < CONNECTS; i++) {
        struct io_peer peer;

        cr_assert_eq(got[i].op, IO_CONNECT);
        cr_assert_eq(got[i].result, 0, "%s", io_error_text(got[i].result));
        cr_assert(io_peer(clients[i], &peer));
        cr_assert_eq(peer.port, addresses[i % LISTENERS].port, "connect %u", i);
    }
    check_quiet(io);
    for (unsigned i = 0; i < CONNECTS; i++)
        close(clients[i]);
    for (unsigned i = 0; i < LISTENERS; i++)
        close(listeners[i]);
    io_shut(io);
}

/* --- two threads --- */

#define POSTS 5000

struct poster {
    struct io *io;
    struct poster *other;
    pthread_barrier_t *barrier;
    uint32_t received;
    bool wrong;
};

/* Each posts, and waits for the other's; in between it sleeps without end. */
static void *
post_thread(void *argument)
{
    struct poster *poster = argument;
    struct io_completion got;
    uint32_t sent = 0;

    poster->io = io_open(64, 0);
    pthread_barrier_wait(poster->barrier);
    while (sent < POSTS || poster->received < POSTS) {
        for (unsigned i = 0; i < 10 && sent < POSTS; i++, sent++)
            io_post(poster->io, poster->other->io,
                    (struct io_ticket){ .slot = sent, .generation = 0xffffff - sent, .kind = 9 },
                    (int32_t)sent - POSTS / 2);
        io_wait(poster->io, sent < POSTS ? 0 : 2 * SECOND_NS);
        while (io_next(poster->io, &got)) {
            poster->wrong |= got.op != IO_MESSAGE || got.ticket.kind != 9 ||
                             got.ticket.slot >= POSTS ||
                             got.ticket.generation != 0xffffff - got.ticket.slot ||
                             got.result != (int32_t)got.ticket.slot - POSTS / 2;
            poster->received++;
        }
        if (sent == POSTS && poster->received == 0)
            break;
    }
    /* What was queued last must be with the other before this instance goes. */
    io_wait(poster->io, 0);
    pthread_barrier_wait(poster->barrier);
    io_shut(poster->io);
    return NULL;
}

Test(io, posts_between_two_threads)
{
    struct poster posters[2] = { 0 };
    pthread_barrier_t barrier;
    pthread_t threads[2];

    cr_assert_eq(pthread_barrier_init(&barrier, NULL, 2), 0);
    for (unsigned i = 0; i < 2; i++) {
        posters[i].other = &posters[1 - i];
        posters[i].barrier = &barrier;
    }
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, post_thread, &posters[i]), 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_not(posters[i].wrong);
        cr_assert_eq(posters[i].received, POSTS, "%u", posters[i].received);
    }
    pthread_barrier_destroy(&barrier);
}

/* --- sockets and errors --- */

Test(io, listeners_and_ports)
{
    struct config_address address, taken;
    int first = listener_open(false, &address), second, third;

    cr_assert_eq(io_listen(&address, false), -EADDRINUSE);
    cr_assert_eq(io_listen(&address, true), -EADDRINUSE, "the first does not share");
    close(first);
    taken = address_of(true, 0);
    first = io_listen(&taken, true);
    cr_assert(first >= 0, "%s", io_error_text(first));
    taken.port = io_port(first);
    second = io_listen(&taken, true);
    cr_assert(second >= 0, "%s", io_error_text(second));
    cr_assert_eq(io_port(second), taken.port);
    /* IPv6 listeners leave IPv4 alone. */
    address.port = taken.port;
    third = io_listen(&address, false);
    cr_assert(third >= 0 || third == -EADDRINUSE);
    if (third >= 0)
        close(third);
    address.ip[0] = 203;
    address.port = 0;
    cr_assert_eq(io_listen(&address, false), -EADDRNOTAVAIL);
    cr_assert_not(io_peer(first, &(struct io_peer){ 0 }), "a listener has no peer");
    cr_assert_eq(io_port(-1), 0);
    close(first);
    close(second);
}

Test(io, errors)
{
    static const struct {
        int error;
        bool shortage, no_buffer, canceled;
    } rows[] = {
        { -EMFILE, true, false, false },    { -ENFILE, true, false, false },
        { -ENOMEM, true, false, false },    { -ENOBUFS, true, true, false },
        { -ECANCELED, false, false, true }, { -ECONNRESET, false, false, false },
        { -EAGAIN, false, false, false },   { 0, false, false, false },
        { 5, false, false, false },         { ENOBUFS, false, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_eq(io_error_is_shortage(rows[i].error), rows[i].shortage, "row %zu", i);
        cr_assert_eq(io_error_is_no_buffer(rows[i].error), rows[i].no_buffer, "row %zu", i);
        cr_assert_eq(io_error_is_canceled(rows[i].error), rows[i].canceled, "row %zu", i);
    }
    cr_assert_str_eq(io_error_text(-ECONNRESET), "Connection reset by peer");
    cr_assert_str_eq(io_error_text(ECONNRESET), "Connection reset by peer");
    cr_assert_str_eq(io_error_text(-100000), "unknown error");
}

Test(io, what_cannot_be_made_says_why)
{
    struct io_options options = { .entries = 8, .completions = 16, .buffer_count = 65535 };
    char error[IO_ERROR_BYTES];
    struct io *io = io_create(&options, error);

    /* Reserving them all leaves nothing to receive into: the probe notices. */
    cr_assert_not_null(io, "%s", error);
    io_destroy(io);
    options.buffer_count = options.buffer_reserve = 4;
    cr_assert_null(io_create(&options, error));
    cr_assert_neq(error[0], '\0');
    io_destroy(NULL);
}
