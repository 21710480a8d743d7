/* link_world: links on a real ring, each with an owner that looks only when a link's owner may
 * look: after a completion, or when the next turn carried it on. Does:    turns of a worker without
 * anything but links; counts buffers and blocks at the end. Owns:    ring, pools and links; sockets
 * that were given to links. Errors:  anything left over, or an operation that never ends, fails the
 * test.
 */
#ifndef RINGPOST_TESTS_UNIT_LINK_WORLD_H
#define RINGPOST_TESTS_UNIT_LINK_WORLD_H

#include <criterion/criterion.h>

#include "relay/link.h"
#include "tests/unit/sockets.h"
#include "tests/unit/tls_pair.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define MS UINT64_C(1000000)
#define WORLD_LINKS 4
#define WORLD_BLOCKS 32
/* Buffers that are never offered to the kernel, in the proportion of the real worker. */
#define WORLD_RESERVE (4 * BUFFERS_SURE)

struct end {
    struct link link;
    bool used, open;
    bool reading; /* the owner uses up all input when it looks */
    unsigned looks;
    struct wire got;
};

struct world {
    struct io *io;
    struct buffers *buffers;
    struct pool blocks;
    struct link_shared shared;
    uint32_t handshakes; /* allowed in one turn */
    struct end ends[WORLD_LINKS];
};

/* bulk: receive buffers beside the reserve. */
static inline void
world_open(struct world *w, uint32_t bulk)
{
    struct io_options options = { .entries = 256,
                                  .completions = 4096,
                                  .buffer_count = bulk + BUFFERS_SURE + WORLD_RESERVE,
                                  .buffer_reserve = WORLD_RESERVE };
    char error[IO_ERROR_BYTES];

    *w = (struct world){ .handshakes = 8 };
    w->io = io_create(&options, error);
    cr_assert_not_null(w->io, "%s", error);
    w->buffers = io_buffers(w->io);
    cr_assert(pool_init(&w->blocks, BLOCK_BYTES, WORLD_BLOCKS));
    link_shared_init(&w->shared, w->io, &w->blocks);
}

/* A link over a connected socket; it receives. */
static inline struct end *
world_link(struct world *w, int socket)
{
    for (uint32_t i = 0; i < WORLD_LINKS; i++) {
        struct end *end = &w->ends[i];

        if (end->used)
            continue;
        end->used = end->open = true;
        link_open(&end->link, &w->shared,
                  (struct io_ticket){ .slot = i, .generation = 1, .kind = 1 }, socket);
        return end;
    }
    cr_assert_fail("no room for another link");
    return NULL;
}

static inline void
end_read(struct end *end)
{
    struct span front;

    while ((front = link_front(&end->link)).len > 0) {
        wire_add(&end->got, front);
        link_consume(&end->link, front.len);
    }
}

static inline void
end_look(struct end *end)
{
    end->looks++;
    if (end->link.tls_state == LINK_TLS && end->link.cipher_out != BUFFER_NONE)
        link_flush(&end->link); /* the handshake's last flight */
    if (end->reading && !end->link.closing && end->link.tls_state != LINK_HANDSHAKE)
        end_read(end);
}

static inline struct end *
end_of(struct link *link)
{
    return (struct end *)(void *)((char *)link - offsetof(struct end, link));
}

static inline void
world_progress(void *context, struct link *link)
{
    (void)context;
    end_look(end_of(link));
}

/* One turn of a worker, in its order. */
static inline void
world_turn(struct world *w, uint64_t wait_ns)
{
    struct io_completion completion;

    io_wait(w->io, w->shared.handshakes != NULL ? 0 : wait_ns);
    w->shared.handshakes_left = w->handshakes;
    link_handshakes_continue(&w->shared, world_progress, w);
    while (io_next(w->io, &completion)) {
        struct end *end = &w->ends[completion.ticket.slot];

        cr_assert(completion.ticket.slot < WORLD_LINKS && end->open,
                  "a completion for a link that is gone");
        link_complete(&end->link, &completion);
        end_look(end);
    }
    link_starved_continue(&w->shared);
}

/* Turns until nothing has happened for a while. */
static inline void
world_settle(struct world *w)
{
    uint64_t before;

    do {
        before = io_counts(w->io).completions;
        world_turn(w, 5 * MS);
    } while (io_counts(w->io).completions != before || w->shared.handshakes != NULL);
}

#define WORLD_TURNS_MAX 20000
#define WORLD_RECHECK_TURNS 500

/* What owners do after a second without input: see link_recheck(). */
static inline void
world_recheck(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_LINKS; i++)
        if (w->ends[i].open && !w->ends[i].link.paused)
            (void)link_recheck(&w->ends[i].link);
}

/* Turns until the condition holds. */
#define WORLD_UNTIL(world, condition)                                            \
    do {                                                                         \
        unsigned world_turns = 0;                                                \
        while (!(condition)) {                                                   \
            cr_assert(world_turns++ < WORLD_TURNS_MAX, "never: %s", #condition); \
            if (world_turns % WORLD_RECHECK_TURNS == 0)                          \
                world_recheck(world);                                            \
            world_turn((world), 1 * MS);                                         \
        }                                                                        \
    } while (0)

static inline void
end_close(struct world *w, struct end *end)
{
    link_close(&end->link);
    WORLD_UNTIL(w, end->link.inflight == 0);
    link_release(&end->link);
    end->open = false;
}

/* Buffers that neither the kernel nor anybody's free list has. */
static inline uint32_t
world_buffers_held(const struct world *w)
{
    struct io_counts counts = io_counts(w->io);

    return w->buffers->count - counts.buffers_free - counts.buffers_offered;
}

/* Ends all links, and then everything must be back. */
static inline void
world_close(struct world *w)
{
    for (uint32_t i = 0; i < WORLD_LINKS; i++) {
        if (w->ends[i].open)
            end_close(w, &w->ends[i]);
        free(w->ends[i].got.data);
    }
    world_settle(w);
    cr_assert_eq(w->blocks.used, 0, "%u blocks are lost", w->blocks.used);
    cr_assert_eq(world_buffers_held(w), 0, "%u buffers are lost", world_buffers_held(w));
    cr_assert_null(w->shared.starved);
    cr_assert_null(w->shared.handshakes);
    cr_assert_eq(io_counts(w->io).overflows, 0);
    io_destroy(w->io);
    pool_destroy(&w->blocks);
}

/* Takes all buffers but `left` of them, as bodies of messages do. */
static inline struct chain
world_hold_buffers(struct world *w, uint32_t left)
{
    struct chain held = CHAIN_EMPTY;

    while (w->buffers->free_count > left)
        chain_append(w->buffers, &held, buffer_take(w->buffers, 0), 0, 0);
    return held;
}

/* --- plain links --- */

/* A plain link and the raw socket of its peer. */
static inline struct end *
plain_open(struct world *w, int *peer)
{
    struct end *end;
    int pair[2];

    sockets_pair(pair);
    *peer = pair[1];
    end = world_link(w, pair[0]);
    link_receive(&end->link);
    return end;
}

/* Writes to the link; link_flush() sends it. */
static inline void
say(struct end *end, struct span text)
{
    cr_assert(link_room(&end->link, text.len));
    outbuf_add(&end->link.out, text);
}

/* Writes as much as goes, over some turns. */
static inline uint64_t
flood(struct world *w, int peer, unsigned turns)
{
    static char text[1 << 16];
    uint64_t total = 0;

    for (unsigned i = 0; i < turns; i++) {
        for (size_t n = 1; n > 0; total += n)
            n = sockets_write_some(peer, text, sizeof(text));
        world_turn(w, 1 * MS);
    }
    return total;
}

/* A body that is stuck with the kernel, because the peer does not read. */
static inline void
stick(struct world *w, struct end *end, struct chain *chain, struct link_body *body)
{
    while (chain->bytes < 2 * SOCKETS_KERNEL_BYTES_MAX) {
        uint32_t index = buffer_take(w->buffers, 0);

        cr_assert_neq(index, BUFFER_NONE);
        memset(buffer_memory(w->buffers, index), 'b', BUFFER_BYTES);
        chain_append(w->buffers, chain, index, 0, BUFFER_BYTES);
    }
    *body = (struct link_body){ .chain = chain, .index = BUFFER_NONE, .consume = true };
    end->link.body = body;
    link_flush(&end->link);
    world_settle(w);
    cr_assert(end->link.sending, "it is not stuck");
}

/* The kernel is offered its own first. */
#define STUCK_BUFFERS (BUFFERS_OFFERED + 2 * SOCKETS_KERNEL_BYTES_MAX / BUFFER_BYTES)

/* --- TLS --- */

static inline struct tls_context *
world_server_context(void)
{
    const struct tls_certificate_files files = { test_file("ecdsa.pem"), test_file("ecdsa.key") };
    struct tls_error error;
    struct tls_context *context = tls_server_context_create(&files, 1, NULL, &error);

    cr_assert(context, "%s", error.text);
    return context;
}

static inline struct tls_context *
world_client_context(void)
{
    const struct tls_client_options options = { .verification = TLS_VERIFICATION_NONE };
    struct tls_error error;
    struct tls_context *context = tls_client_context_create(&options, &error);

    cr_assert(context, "%s", error.text);
    return context;
}

/* Two links that are joined and receive. */
static inline void
world_pair(struct world *w, struct end **server, struct end **client)
{
    int pair[2];

    sockets_pair(pair);
    *server = world_link(w, pair[0]);
    *client = world_link(w, pair[1]);
    link_receive(&(*server)->link);
    link_receive(&(*client)->link);
}

static inline void
world_handshake(struct end *server, struct end *client)
{
    struct tls_context *for_server = world_server_context(), *for_client = world_client_context();

    link_start_tls(&server->link, tls_create_server(for_server));
    link_start_tls(&client->link, tls_create_client(for_client, NULL, NULL));
    tls_context_release(for_server);
    tls_context_release(for_client);
}

/* Two links over one connection, their handshake done: ends[0] is the server's. */
static inline void
world_tls(struct world *w, struct end **server, struct end **client)
{
    world_pair(w, server, client);
    world_handshake(*server, *client);
    WORLD_UNTIL(w, (*server)->link.tls_state == LINK_TLS && (*client)->link.tls_state == LINK_TLS);
    world_settle(w);
}

#endif
