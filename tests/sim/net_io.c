/* core/io.h on the simulated network, without a relay: what is promised there, and that mistakes
 * are seen. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/config.h"
#include "tests/sim/net_scenarios.h"

#define NOTES_MAX 4096
#define STREAM_BYTES 60000

/* What came of the operations, in the order in which it was told. */
struct side {
    struct net_world *world;
    struct io *io;
    struct io_completion notes[NOTES_MAX];
    uint32_t count;
    char *stream; /* octets received, in order */
    size_t len;
    bool keep; /* buffers are not given back */
};

struct party { /* an actor that notes */
    struct sim_end *end;
    char text[STREAM_BYTES + 1];
    size_t len;
    uint32_t connected, ended, broken, sent;
    int error;
};

static struct party party, other;
static struct side side;

/* --- the actor --- */

static void
on_connected(void *context, struct sim_end *end)
{
    struct party *at = context;

    at->end = end;
    at->connected++;
}

static void
on_broken(void *context, struct sim_end *end, int error)
{
    struct party *at = context;

    (void)end;
    at->end = NULL;
    at->broken++;
    at->error = error;
}

static void
on_received(void *context, struct sim_end *end, const char *data, size_t len)
{
    struct party *at = context;

    (void)end;
    ASSERT(at->len + len <= STREAM_BYTES);
    memcpy(at->text + at->len, data, len);
    at->len += len;
}

static void
on_ended(void *context, struct sim_end *end)
{
    (void)end;
    ((struct party *)context)->ended++;
}

static void
on_sent(void *context, struct sim_end *end)
{
    (void)end;
    ((struct party *)context)->sent++;
}

static const struct sim_actor notes_all = { .connected = on_connected,
                                            .failed = on_broken,
                                            .received = on_received,
                                            .ended = on_ended,
                                            .broken = on_broken,
                                            .sent = on_sent };

static bool
accepts(void *context, struct sim_end *end, const struct sim_actor **actor, void **end_context)
{
    on_connected(context, end);
    *actor = &notes_all;
    *end_context = context;
    return true;
}

/* --- the side of core/io.h --- */

static const struct io_ticket ticket = { .slot = 7, .generation = 3, .kind = 1 };

static void
side_begin(struct net_world *world, uint32_t buffers)
{
    const struct io_options options = {
        .entries = 64, .completions = 256, .buffer_count = buffers, .buffer_reserve = 8
    };
    char error[IO_ERROR_BYTES];

    free(side.stream);
    memset(&side, 0, sizeof(side));
    memset(&party, 0, sizeof(party));
    memset(&other, 0, sizeof(other));
    side.world = world;
    side.io = io_create(&options, error);
    side.stream = malloc(STREAM_BYTES);
    ASSERT(side.io != NULL && side.stream != NULL);
}

static void
side_end(void)
{
    io_destroy(side.io);
    sim_process_ends();
    free(side.stream);
    side.stream = NULL;
}

static void
note(const struct io_completion *completion)
{
    struct buffers *buffers = io_buffers(side.io);

    ASSERT(side.count < NOTES_MAX);
    side.notes[side.count++] = *completion;
    if (completion->buffer == BUFFER_NONE)
        return;
    ASSERT(completion->result > 0 && completion->result <= BUFFER_BYTES);
    ASSERT(side.len + (size_t)completion->result <= STREAM_BYTES);
    memcpy(side.stream + side.len, buffer_memory(buffers, completion->buffer),
           (size_t)completion->result);
    side.len += (size_t)completion->result;
    if (!side.keep)
        buffer_release(buffers, completion->buffer);
}

/* Turns, and time that goes on where nothing is ready. */
static void
turns(uint64_t for_ns)
{
    uint64_t until = sim_now_ns() + for_ns;
    struct io_completion completion;

    for (;;) {
        uint64_t next;

        io_wait(side.io, UINT64_MAX);
        while (io_next(side.io, &completion))
            note(&completion);
        if (sim_io_ready(side.io))
            continue;
        if (sim_now_ns() >= until)
            return;
        next = sim_next_ns();
        sim_advance(next < until ? next : until);
    }
}

/* The last completion of a kind; NULL: there was none. */
static const struct io_completion *
last_of(enum io_op op)
{
    for (uint32_t i = side.count; i-- > 0;)
        if (side.notes[i].op == op)
            return &side.notes[i];
    return NULL;
}

static int32_t
result_of(enum io_op op)
{
    const struct io_completion *completion = last_of(op);

    EXPECT(side.world, completion != NULL);
    EXPECT(side.world, completion->ticket.slot == ticket.slot &&
                           completion->ticket.generation == ticket.generation &&
                           completion->ticket.kind == ticket.kind);
    return completion->result;
}

static struct config_address
address(uint16_t port)
{
    return (struct config_address){ .family = CONFIG_ADDRESS_IPV4, .port = port };
}

static int
listener_open(uint16_t port)
{
    struct config_address at = address(port);
    int listener = io_listen(&at, false);

    EXPECT(side.world, listener >= 0 && io_port(listener) == port);
    return listener;
}

/* An accepted connection: party's. */
static int
connection_accepted(int listener)
{
    int32_t descriptor;

    io_accept(side.io, ticket, listener);
    sim_net_connect(&notes_all, &party, 0x7f000005, CLIENT_PORT);
    turns(NS_PER_S);
    descriptor = result_of(IO_ACCEPT);
    EXPECT(side.world, descriptor >= 0 && party.connected == 1);
    io_cancel(side.io, ticket, listener);
    turns(NS_PER_S);
    EXPECT(side.world, result_of(IO_ACCEPT) == -ECANCELED || !last_of(IO_ACCEPT)->more);
    EXPECT(side.world, result_of(IO_CANCEL) == (last_of(IO_ACCEPT)->result == -ECANCELED));
    io_close_now(listener);
    return descriptor;
}

static int
connection_begin(struct net_world *world, uint32_t buffers)
{
    side_begin(world, buffers);
    return connection_accepted(listener_open(CLIENT_PORT));
}

/* Both ends have closed. */
static void
connection_end(int socket)
{
    io_cancel(side.io, ticket, socket);
    turns(NS_PER_S);
    io_close(side.io, socket);
    turns(NS_PER_S);
    EXPECT(side.world, sim_net_relay_sockets() == 0);
    side_end();
}

static void
stream_fill(char *to, size_t len, unsigned from)
{
    for (size_t i = 0; i < len; i++)
        to[i] = (char)(from + i * 31 + i / 251);
}

/* --- streams --- */

static void
faults_some(struct net_world *world)
{
    const struct sim_net_faults faults = {
        .stall = (uint32_t)sim_below(&world->random, 300),
        .split = (uint32_t)sim_below(&world->random, 10000),
        .merge = (uint32_t)sim_below(&world->random, 5000),
        .multishot_ends = (uint32_t)sim_below(&world->random, 5000),
        .no_buffer = (uint32_t)sim_below(&world->random, 1000),
        .order = (uint32_t)sim_below(&world->random, 10000),
    };

    sim_net_faults_set(&faults);
}

/* Octets both ways at once, each in order and whole. */
void
io_streams(struct net_world *world)
{
    static char in[STREAM_BYTES], out[STREAM_BYTES];
    int socket = connection_begin(world, 64);
    size_t given = 0, sent = 0;
    bool armed = false, sending = false;

    stream_fill(in, sizeof(in), 1);
    stream_fill(out, sizeof(out), 2);
    faults_some(world);
    for (int i = 0; i < 5000 && (side.len < STREAM_BYTES || party.len < STREAM_BYTES); i++) {
        size_t part = 1 + sim_below(&world->random, 4000);
        uint32_t seen = side.count;

        if (given + part > STREAM_BYTES)
            part = STREAM_BYTES - given;
        sim_end_write(party.end, in + given, part);
        given += part;
        part = 1 + sim_below(&world->random, 4000);
        if (!sending && sent < STREAM_BYTES) {
            part = sent + part > STREAM_BYTES ? STREAM_BYTES - sent : part;
            io_send(side.io, ticket, socket, span_of(out + sent, part));
            sent += part;
            sending = true;
        }
        if (!armed)
            io_receive(side.io, ticket, socket);
        armed = true;
        turns(sim_below(&world->random, 200) * NS_PER_MS);
        side.count = seen == NOTES_MAX ? 0 : side.count;
        for (; seen < side.count; seen++) {
            if (side.notes[seen].op == IO_RECEIVE)
                armed = side.notes[seen].more;
            if (side.notes[seen].op == IO_SEND)
                sending = false;
        }
        if (side.count > NOTES_MAX / 2)
            side.count = 0;
    }
    EXPECT(world, side.len == STREAM_BYTES && memcmp(side.stream, in, STREAM_BYTES) == 0);
    EXPECT(world, party.len == STREAM_BYTES && memcmp(party.text, out, STREAM_BYTES) == 0);
    EXPECT(world, sim_end_taken(party.end) == STREAM_BYTES);
    EXPECT(world, sim_end_received(party.end) == STREAM_BYTES);
    EXPECT(world, party.sent > 0);
    sim_net_faults_set(NULL);
    sim_end_close(party.end);
    connection_end(socket);
}

/* Completions of one receive stay in order however late they are told. */
void
io_order(struct net_world *world)
{
    int socket = connection_begin(world, 64);
    static char in[20000];

    stream_fill(in, sizeof(in), 9);
    sim_net_faults_set(&(struct sim_net_faults){ .order = 6000, .split = 3000 });
    io_receive(side.io, ticket, socket);
    for (size_t at = 0; at < sizeof(in); at += 1000) {
        sim_end_write(party.end, in + at, 1000);
        turns(2 * NS_PER_MS);
        if (!last_of(IO_RECEIVE) || last_of(IO_RECEIVE)->more)
            continue;
        EXPECT(world, result_of(IO_RECEIVE) == -ENOBUFS);
        io_receive(side.io, ticket, socket);
    }
    sim_end_shut(party.end);
    turns(5 * NS_PER_S);
    while (result_of(IO_RECEIVE) == -ENOBUFS) {
        io_receive(side.io, ticket, socket);
        turns(5 * NS_PER_S);
    }
    EXPECT(world, side.len == sizeof(in) && memcmp(side.stream, in, sizeof(in)) == 0);
    EXPECT(world, result_of(IO_RECEIVE) == 0 && !last_of(IO_RECEIVE)->more);
    sim_end_close(party.end);
    connection_end(socket);
}

/* A peer that reads nothing: the send stalls, and goes on. */
void
io_windows(struct net_world *world)
{
    static char out[STREAM_BYTES];
    int socket = connection_begin(world, 16);
    size_t sent = 0;

    stream_fill(out, sizeof(out), 4);
    sim_end_pause(party.end, true);
    /* Two windows of 256 KiB at most: more than that stands still. */
    for (int i = 0; i < 20 && sent == (size_t)i; i++) {
        io_send(side.io, ticket, socket, span_of(out, sizeof(out)));
        side.count = 0;
        turns(5 * NS_PER_S);
        sent += last_of(IO_SEND) != NULL;
    }
    EXPECT(world, sent < 20 && party.len == 0);
    party.len = 0;
    io_cancel(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CANCEL) == 1);
    EXPECT(world, result_of(IO_SEND) == -ECANCELED ||
                      (result_of(IO_SEND) > 0 && result_of(IO_SEND) < STREAM_BYTES));
    sim_end_close(party.end);
    connection_end(socket);
}

/* --- ends of operations --- */

/* Everything on a socket ends, and nothing on another one. */
void
io_cancels(struct net_world *world)
{
    int socket = connection_begin(world, 32);
    uint32_t canceled = 0;

    io_cancel(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CANCEL) == 0);
    io_receive(side.io, ticket, socket);
    turns(NS_PER_S);
    side.count = 0;
    io_cancel(side.io, ticket, socket);
    turns(NS_PER_S);
    for (uint32_t i = 0; i < side.count; i++)
        canceled += side.notes[i].op == IO_RECEIVE && side.notes[i].result == -ECANCELED;
    EXPECT(world, canceled == 1 && result_of(IO_CANCEL) == 1);
    /* What comes after it is not lost. */
    sim_end_write(party.end, "later", 5);
    turns(NS_PER_S);
    EXPECT(world, side.len == 0);
    io_receive(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, side.len == 5 && last_of(IO_RECEIVE)->more);
    sim_end_close(party.end);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_RECEIVE) == 0 && !last_of(IO_RECEIVE)->more);
    connection_end(socket);
}

/* io_receive_stop() ends that receive and no send; it completes nothing itself. */
void
io_stops(struct net_world *world)
{
    static char out[STREAM_BYTES];
    int socket = connection_begin(world, 32);
    uint32_t seen;

    sim_end_pause(party.end, true);
    for (int i = 0; i < 20; i++) {
        side.count = 0;
        io_send(side.io, ticket, socket, span_of(out, sizeof(out)));
        turns(5 * NS_PER_S);
        if (last_of(IO_SEND) == NULL)
            break;
    }
    EXPECT(world, last_of(IO_SEND) == NULL);
    io_receive_sure(side.io, ticket, socket);
    turns(NS_PER_MS);
    io_receive_stop(side.io, ticket, false); /* that is another one */
    turns(NS_PER_S);
    EXPECT(world, side.count == 0);
    io_receive_stop(side.io, ticket, true);
    turns(NS_PER_S);
    EXPECT(world, side.count == 1 && result_of(IO_RECEIVE) == -ECANCELED);
    seen = side.count;
    io_receive_stop(side.io, ticket, true);
    turns(NS_PER_S);
    EXPECT(world, side.count == seen);
    sim_end_reset(party.end);
    turns(NS_PER_S);
    EXPECT(world, last_of(IO_SEND) != NULL && last_of(IO_SEND)->result < STREAM_BYTES);
    connection_end(socket);
}

void
io_once(struct net_world *world)
{
    static char many[RECEIVE_BYTES_MOST + 2 * BUFFER_BYTES];
    int socket = connection_begin(world, 32);

    io_receive_once(side.io, ticket, socket);
    sim_end_write(party.end, "one", 3);
    turns(NS_PER_S);
    EXPECT(world, side.len == 3 && !last_of(IO_RECEIVE)->more);
    sim_end_write(party.end, "two", 3);
    turns(NS_PER_S);
    EXPECT(world, side.len == 3);
    io_receive_once(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, side.len == 6 && memcmp(side.stream, "onetwo", 6) == 0);
    io_receive_some(side.io, ticket, socket);
    sim_end_write(party.end, many, sizeof(many));
    turns(NS_PER_S);
    EXPECT(world, side.len >= 6 + RECEIVE_BYTES_MOST && !last_of(IO_RECEIVE)->more);
    EXPECT(world, side.len < sizeof(many));
    sim_end_close(party.end);
    connection_end(socket);
}

/* A client takes all buffers; what sets buffers free has some of its own. */
void
io_no_buffers(struct net_world *world)
{
    static char in[64 * BUFFER_BYTES];
    int socket = connection_begin(world, 24);
    struct buffers *buffers = io_buffers(side.io);
    uint32_t taken = 0;

    side.keep = true;
    sim_end_write(party.end, in, sizeof(in) - 1);
    for (int i = 0; i < 100 && io_buffers_left(side.io, false); i++) {
        io_receive(side.io, ticket, socket);
        turns(NS_PER_S);
        EXPECT(world, result_of(IO_RECEIVE) == -ENOBUFS);
    }
    EXPECT(world, !io_buffers_left(side.io, false) && io_buffers_left(side.io, true));
    EXPECT(world, io_receive_left(side.io) == 0);
    EXPECT(world, buffers->free_count == 8);
    for (uint32_t i = 0; i < side.count; i++)
        taken += side.notes[i].buffer != BUFFER_NONE;
    io_receive_sure(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, side.notes[side.count - 2].buffer != BUFFER_NONE);
    EXPECT(world, result_of(IO_RECEIVE) == -ENOBUFS);
    for (uint32_t i = 0; i < side.count; i++)
        if (side.notes[i].buffer != BUFFER_NONE)
            buffer_release(buffers, side.notes[i].buffer);
    EXPECT(world, taken > 0);
    sim_end_close(party.end);
    connection_end(socket);
}

/* Half closes: each direction ends by itself. */
void
io_ends(struct net_world *world)
{
    int socket = connection_begin(world, 16);

    sim_end_write(party.end, "last", 4);
    sim_end_shut(party.end);
    io_receive(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, side.len == 4 && result_of(IO_RECEIVE) == 0);
    io_send(side.io, ticket, socket, SPAN("still"));
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_SEND) == 5 && party.len == 5 && party.ended == 0);
    io_shutdown(side.io, socket);
    turns(NS_PER_S);
    EXPECT(world, party.ended == 1);
    io_send(side.io, ticket, socket, SPAN("too late"));
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_SEND) == -EPIPE);
    sim_end_close(party.end);
    connection_end(socket);
}

/* Who closes with octets unread, or writes to who has closed, makes a reset. */
void
io_resets(struct net_world *world)
{
    struct io_peer peer;
    int socket = connection_begin(world, 16);

    EXPECT(world, io_peer(socket, &peer) && peer.ip[12] == 127 && peer.ip[15] == 5);
    sim_end_reset(party.end);
    io_receive(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_RECEIVE) == -ECONNRESET && !io_peer(socket, &peer));
    io_receive(side.io, ticket, socket);
    io_send(side.io, ticket, socket, SPAN("x"));
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_RECEIVE) == 0 && result_of(IO_SEND) == -EPIPE);
    connection_end(socket);

    socket = connection_begin(world, 16);
    sim_end_write(party.end, "unread", 6);
    turns(NS_PER_S);
    io_close(side.io, socket);
    turns(NS_PER_S);
    EXPECT(world, party.broken == 1 && party.ended == 0 && party.error == ECONNRESET);
    side_end();

    socket = connection_begin(world, 16);
    io_close(side.io, socket);
    turns(NS_PER_S);
    EXPECT(world, party.ended == 1 && party.broken == 0);
    sim_end_write(party.end, "anybody?", 8);
    turns(NS_PER_S);
    EXPECT(world, party.broken == 1);
    side_end();
}

/* --- beginnings --- */

static int
connect_to(uint16_t port)
{
    struct config_address to = address(port);
    int socket = io_socket(&to);

    EXPECT(side.world, socket >= 0);
    side.count = 0;
    io_connect(side.io, ticket, socket, &to);
    return socket;
}

void
io_connects(struct net_world *world)
{
    int socket;

    side_begin(world, 16);
    sim_net_listen(99, accepts, &other);
    socket = connect_to(98);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CONNECT) == -ECONNREFUSED);
    io_close(side.io, socket);
    socket = connect_to(99);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CONNECT) == 0 && other.connected == 1);
    sim_end_write(other.end, "220\r\n", 5);
    io_receive_sure(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, side.len == 5);
    sim_end_close(other.end);
    turns(NS_PER_S);
    io_close(side.io, socket);
    sim_net_unlisten(99);
    socket = connect_to(99);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CONNECT) == -ECONNREFUSED);
    io_close(side.io, socket);
    sim_net_faults_set(&(struct sim_net_faults){ .unanswered = 10000 });
    socket = connect_to(99);
    turns(NS_PER_S);
    EXPECT(world, side.count == 0);
    io_cancel(side.io, ticket, socket);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_CONNECT) == -ECANCELED && result_of(IO_CANCEL) == 1);
    io_close(side.io, socket);
    socket = connect_to(99);
    turns(128 * NS_PER_S);
    EXPECT(world, result_of(IO_CONNECT) == -ETIMEDOUT);
    connection_end(socket);
}

/* Ports that are shared and not, and connections that wait. */
void
io_accepts(struct net_world *world)
{
    struct config_address at = address(CLIENT_PORT);
    int first, second;

    side_begin(world, 16);
    sim_net_connect(&notes_all, &party, 1, CLIENT_PORT);
    turns(NS_PER_S);
    EXPECT(world, party.broken == 1 && party.error == ECONNREFUSED);
    first = io_listen(&at, false);
    EXPECT(world, first >= 0 && io_listen(&at, true) == -EADDRINUSE);
    io_close_now(first);
    first = io_listen(&at, true);
    second = io_listen(&at, true);
    EXPECT(world, first >= 0 && second >= 0 && io_listen(&at, false) == -EADDRINUSE);
    /* Connected before anybody accepts; reset when the listener closes. */
    memset(&party, 0, sizeof(party));
    for (int i = 0; i < 20; i++)
        sim_net_connect(&notes_all, &party, 1, CLIENT_PORT);
    turns(NS_PER_S);
    EXPECT(world, party.connected == 20 && side.count == 0);
    io_accept(side.io, ticket, first);
    turns(NS_PER_S);
    EXPECT(world, side.count > 0 && side.count < 20); /* the others are the second one's */
    io_close_now(second);
    turns(NS_PER_S);
    EXPECT(world, party.broken == 20 - side.count);
    sim_net_faults_set(&(struct sim_net_faults){ .accept = 10000 });
    sim_net_connect(&notes_all, &party, 1, CLIENT_PORT);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_ACCEPT) < 0 && !last_of(IO_ACCEPT)->more);
    side_end();
    EXPECT(world, sim_net_relay_sockets() == 0);
}

/* A word that goes with the close. */
void
io_last_word(struct net_world *world)
{
    int socket = connection_begin(world, 16);

    io_send_last(side.io, socket, SPAN("421 too many\r\n"));
    turns(NS_PER_S);
    EXPECT(world, party.len == 14 && party.ended == 1 && sim_net_relay_sockets() == 0);
    side_end();
}

/* --- between instances --- */

void
io_posts(struct net_world *world)
{
    const struct io_options small = { .entries = 8, .completions = 16 };
    char error[IO_ERROR_BYTES];
    struct io *sender;

    side_begin(world, 16);
    turns(NS_PER_MS);
    EXPECT(world, !sim_io_ready(side.io) && sim_io_wakes_ns(side.io) == UINT64_MAX);
    sender = io_create(&small, error);
    io_post(sender, side.io, ticket, 42);
    io_wait(sender, 0);
    turns(NS_PER_S);
    EXPECT(world, result_of(IO_MESSAGE) == 42);
    io_destroy(sender);
    side_end();
}

/* --- mistakes that no kernel would tell of --- */

static char given[64] = "what is being sent";

static void
mistake_changed(int socket)
{
    sim_end_pause(party.end, true);
    for (int i = 0; i < 40; i++) {
        static char out[STREAM_BYTES];

        side.count = 0;
        io_send(side.io, ticket, socket, span_of(out, sizeof(out)));
        turns(5 * NS_PER_S);
        if (last_of(IO_SEND) == NULL) {
            out[sizeof(out) - 1]++;
            break;
        }
    }
    sim_end_pause(party.end, false);
    turns(NS_PER_S);
}

static void
mistake_closed_twice(int socket)
{
    io_close(side.io, socket);
    io_close(side.io, socket);
    turns(NS_PER_S);
}

static void
mistake_closed_early(int socket)
{
    io_receive(side.io, ticket, socket);
    io_close(side.io, socket);
    turns(NS_PER_S);
}

static void
mistake_used_closed(int socket)
{
    io_close(side.io, socket);
    turns(NS_PER_S);
    io_send(side.io, ticket, socket, span_text(given));
}

static void
mistake_two_receives(int socket)
{
    io_receive(side.io, ticket, socket);
    io_receive(side.io, ticket, socket);
    turns(NS_PER_S);
}

static void
mistake_two_sends(int socket)
{
    static char out[STREAM_BYTES];

    sim_end_pause(party.end, true);
    for (int i = 0; i < 40; i++)
        io_send(side.io, ticket, socket, span_of(out, sizeof(out)));
    turns(NS_PER_S);
}

static void
mistake_none(int socket)
{
    io_send(side.io, ticket, socket, span_text(given));
    turns(NS_PER_S);
}

static bool
dies(void (*mistake)(int socket), struct net_world *world)
{
    int status;
    pid_t child = fork();

    ASSERT(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(2);
        mistake(connection_begin(world, 16));
        _exit(0);
    }
    ASSERT(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void
io_mistakes(struct net_world *world)
{
    static void (*const mistakes[])(int socket) = {
        mistake_changed,     mistake_closed_twice, mistake_closed_early,
        mistake_used_closed, mistake_two_receives, mistake_two_sends,
    };

    /* Seeds make no difference here, and processes take time. */
    if (world->seed > 2)
        return;
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++)
        if (!dies(mistakes[i], world))
            world_fail(world, "mistake %zu was not seen", i);
    EXPECT(world, !dies(mistake_none, world));
}
