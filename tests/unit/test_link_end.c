/* Plain links from their beginning to their end: connecting, finishing, breaking, and nothing left
 * behind whenever one is closed. */
#include <criterion/criterion.h>

#include <errno.h>

#include "core/config.h"
#include "tests/unit/link_world.h"

/* Reads until the stream's end; how much came. */
static size_t
read_all(struct world *w, int peer, struct wire *got)
{
    static char room[1 << 16];
    bool ended = false;

    for (unsigned i = 0; !ended; i++) {
        cr_assert_lt(i, WORLD_TURNS_MAX, "no end comes");
        wire_add(got, span_of(room, sockets_read_some(peer, room, sizeof(room), &ended)));
        world_turn(w, MS / 10);
    }
    return got->len;
}

Test(link_end, finishing_sends_all_then_the_end)
{
    static const struct {
        const char *name;
        bool body, flight, block; /* what is there to send: a stuck body, a reply under way, one
                                   * written behind it */
    } rows[] = {
        { "nothing", false, false, false },
        { "a reply", false, false, true },
        { "a reply under way", false, true, false },
        { "two replies", false, true, true },
        { "a body", true, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct chain chain = CHAIN_EMPTY;
        struct link_body body;
        struct wire got = { 0 };
        struct world w;
        struct end *end;
        size_t want = 0;
        int peer;

        world_open(&w, 20 + STUCK_BUFFERS);
        end = plain_open(&w, &peer);
        if (rows[i].body) {
            stick(&w, end, &chain, &body);
            want += 2 * SOCKETS_KERNEL_BYTES_MAX;
        }
        if (rows[i].flight) {
            say(end, SPAN("250 first\r\n"));
            want += 11;
            link_flush(&end->link);
        }
        if (rows[i].block) {
            say(end, SPAN("221 last\r\n"));
            want += 10;
        }
        link_finish(&end->link);
        link_finish(&end->link);
        cr_assert_eq(end->link.finished, want == 0, "%s", rows[i].name);
        cr_assert_eq(read_all(&w, peer, &got), want, "%s: %zu octets", rows[i].name, got.len);
        if (rows[i].flight && rows[i].block)
            cr_assert(span_equal(wire_rest(&got), SPAN("250 first\r\n221 last\r\n")));
        cr_assert(end->link.finished, "%s", rows[i].name);
        cr_assert(link_drained(&end->link), "%s", rows[i].name);
        cr_assert_not(end->link.failed);
        cr_assert_eq(end->link.bytes_out, want, "%s", rows[i].name);
        /* The other direction is open until the peer ends it. */
        cr_assert_not(link_at_end(&end->link));
        sockets_write(peer, "more", 4);
        shutdown(peer, SHUT_WR);
        WORLD_UNTIL(&w, link_at_end(&end->link));
        end_read(end);
        cr_assert_eq(end->got.len, 4);
        free(got.data);
        close(peer);
        world_close(&w);
    }
}

Test(link_end, the_peer_ends_first)
{
    struct world w;
    struct end *end;
    struct wire got = { 0 };
    int peer;

    world_open(&w, 20);
    end = plain_open(&w, &peer);
    sockets_write(peer, "QUIT\r\n", 6);
    shutdown(peer, SHUT_WR);
    WORLD_UNTIL(&w, link_at_end(&end->link));
    cr_assert_not(end->link.failed);
    cr_assert_eq(link_unread(&end->link), 6, "what came before the end is there");
    cr_assert_not(end->link.receiving);
    end_read(end);
    cr_assert(span_equal(wire_rest(&end->got), SPAN("QUIT\r\n")));
    say(end, SPAN("221 bye\r\n"));
    link_finish(&end->link);
    cr_assert_eq(read_all(&w, peer, &got), 9);
    free(got.data);
    close(peer);
    world_close(&w);
}

/* Arming anew in case the kernel has lost the end: once after each input, with nothing lost. */
Test(link_end, looking_again)
{
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 20);
    end = plain_open(&w, &peer);
    for (unsigned round = 1; round < 4; round++) {
        cr_assert(link_recheck(&end->link), "round %u", round);
        cr_assert_not(link_recheck(&end->link), "round %u: twice", round);
        world_settle(&w);
        cr_assert(end->link.receiving, "round %u: it is not armed again", round);
        cr_assert_not(link_recheck(&end->link), "round %u: nothing came since", round);
        sockets_write(peer, "NOOP\r\n", 6);
        WORLD_UNTIL(&w, end->link.bytes_in == 6 * round);
    }
    link_pause(&end->link);
    cr_assert_not(link_recheck(&end->link), "paused");
    world_settle(&w);
    cr_assert_not(end->link.receiving, "paused");
    link_resume(&end->link);
    cr_assert(link_recheck(&end->link));
    shutdown(peer, SHUT_WR);
    WORLD_UNTIL(&w, link_at_end(&end->link));
    cr_assert_not(link_recheck(&end->link), "it has ended");
    cr_assert_eq(link_unread(&end->link), 18);
    close(peer);
    world_close(&w);
}

Test(link_end, a_reset_breaks_it)
{
    static const struct linger hard = { .l_onoff = 1 };
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 20);
    end = plain_open(&w, &peer);
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(peer);
    WORLD_UNTIL(&w, end->link.ended);
    cr_assert(end->link.failed);
    cr_assert_eq(end->link.error, -ECONNRESET, "%d", end->link.error);
    cr_assert(link_at_end(&end->link));
    say(end, SPAN("250 ok\r\n"));
    link_flush(&end->link);
    cr_assert_not(end->link.sending, "nothing can be sent any more");
    link_finish(&end->link);
    cr_assert_not(end->link.finished);
    world_close(&w);
}

/* The peer goes amid a body: the send that is under way breaks, and nothing of it counts as sent.
 */
Test(link_end, a_send_that_breaks)
{
    static const struct linger hard = { .l_onoff = 1 };
    struct chain chain = CHAIN_EMPTY;
    struct link_body body;
    struct world w;
    struct end *end;
    uint64_t sent;
    int peer;

    world_open(&w, 20 + STUCK_BUFFERS);
    end = plain_open(&w, &peer);
    stick(&w, end, &chain, &body);
    sent = body.sent;
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(peer);
    WORLD_UNTIL(&w, end->link.failed && !end->link.sending);
    cr_assert_eq(body.sent, sent, "a part counts as the whole");
    cr_assert_eq(chain.bytes + body.sent, 2 * SOCKETS_KERNEL_BYTES_MAX);
    world_settle(&w);
    chain_release(w.buffers, &chain);
    world_close(&w);
}

/* --- connecting --- */

Test(link_end, connects_or_says_why_not)
{
    struct config_address address = { .family = CONFIG_ADDRESS_IPV4, .ip = { 127, 0, 0, 1 } };
    int listener = io_listen(&address, false), peer;
    struct world w;
    struct end *end;

    cr_assert(listener >= 0);
    address.port = io_port(listener);
    world_open(&w, 20);
    end = world_link(&w, io_socket(&address));
    link_connect(&end->link, &address);
    WORLD_UNTIL(&w, end->link.inflight == 0);
    cr_assert_not(end->link.failed);
    peer = accept(listener, NULL, NULL);
    link_receive(&end->link);
    say(end, SPAN("EHLO a\r\n"));
    link_flush(&end->link);
    sockets_write(peer, "220 b\r\n", 7);
    WORLD_UNTIL(&w, link_unread(&end->link) == 7 && link_drained(&end->link));
    close(peer);
    close(listener);
    end = world_link(&w, io_socket(&address));
    link_connect(&end->link, &address);
    WORLD_UNTIL(&w, end->link.inflight == 0);
    cr_assert(end->link.failed && end->link.ended);
    cr_assert_eq(end->link.error, -ECONNREFUSED);
    world_close(&w);
}

/* --- what a peer that is gone may have read --- */

enum peer_deed { PEER_READS, PEER_READS_AND_CLOSES, PEER_CLOSES, PEER_CLOSES_UNREAD, PEER_RESETS };

struct unheard_row {
    const char *name;
    enum peer_deed deed;
    bool sent_before; /* the message left before the peer did it */
    bool want;
};

/* Sends the message; the peer does its deed before or after that. */
static bool
unheard(const struct unheard_row *row, int listener, const struct config_address *address)
{
    static const struct linger at_once = { .l_onoff = 1 };
    static char text[4000];
    struct world w;
    struct end *end;
    char room[8192];
    bool answer;
    int peer;

    memset(text, 'x', sizeof(text));
    world_open(&w, 20);
    end = world_link(&w, io_socket(address));
    link_connect(&end->link, address);
    WORLD_UNTIL(&w, end->link.inflight == 0);
    peer = accept(listener, NULL, NULL);
    if (row->deed == PEER_READS)
        link_receive(&end->link);
    for (int round = 0; round < 2; round++) {
        if (round == row->sent_before) {
            if (row->deed == PEER_READS || row->deed == PEER_READS_AND_CLOSES)
                cr_assert_eq(recv(peer, room, sizeof(room), MSG_DONTWAIT), sizeof(text));
            if (row->deed == PEER_RESETS)
                setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
            if (row->deed == PEER_READS)
                sockets_write(peer, "250\r\n", 5);
            else
                close(peer);
            continue;
        }
        cr_assert(link_room(&end->link, sizeof(text)));
        outbuf_add(&end->link.out, span_of(text, sizeof(text)));
        link_flush(&end->link);
        WORLD_UNTIL(&w, !end->link.sending);
    }
    /* Not armed before: the end must not be known when the message leaves. */
    if (!end->link.receiving)
        link_receive(&end->link);
    WORLD_UNTIL(&w, end->link.ended || end->link.failed || link_unread(&end->link) > 0);
    answer = link_unheard(&end->link);
    if (row->deed == PEER_READS)
        close(peer);
    world_close(&w);
    return answer;
}

Test(link_end, what_nobody_can_have_read)
{
    static const struct unheard_row rows[] = {
        { "the peer read it and is there", PEER_READS, true, false },
        { "the peer read it and closed", PEER_READS_AND_CLOSES, true, false },
        { "the peer had closed before", PEER_CLOSES, false, true },
        /* A reset is what these end in: not to be told from one that comes from between. */
        { "the peer closed without having read it", PEER_CLOSES_UNREAD, true, false },
        { "the peer reset the connection", PEER_RESETS, true, false },
    };
    struct config_address address = { .family = CONFIG_ADDRESS_IPV4, .ip = { 127, 0, 0, 1 } };
    int listener = io_listen(&address, false);

    cr_assert(listener >= 0);
    address.port = io_port(listener);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_assert_eq(unheard(&rows[i], listener, &address), rows[i].want, "%s", rows[i].name);
    close(listener);
}

/* --- closing at any time --- */

static struct chain close_chain;
static struct link_body close_body;

static void
before_nothing(struct world *w, struct end *end, int peer)
{
    (void)w;
    (void)end;
    (void)peer;
}

static void
before_input(struct world *w, struct end *end, int peer)
{
    sockets_write(peer, "EHLO a\r\nMAIL FROM", 17);
    WORLD_UNTIL(w, link_unread(&end->link) == 17);
    link_consume(&end->link, 8);
    cr_assert_not(link_extend(&end->link));
}

static void
before_flood(struct world *w, struct end *end, int peer)
{
    (void)end;
    flood(w, peer, 2);
}

static void
before_stuck(struct world *w, struct end *end, int peer)
{
    (void)peer;
    close_chain = CHAIN_EMPTY;
    stick(w, end, &close_chain, &close_body);
}

static void
before_stuck_and_paused(struct world *w, struct end *end, int peer)
{
    before_stuck(w, end, peer);
    link_pause(&end->link);
    say(end, SPAN("250 ok\r\n"));
    flood(w, peer, 3);
}

static void
before_fresh_send(struct world *w, struct end *end, int peer)
{
    (void)w;
    (void)peer;
    say(end, SPAN("250 ok\r\n"));
    link_flush(&end->link);
    link_pause(&end->link); /* all of it in one submission */
}

static void
before_unsent(struct world *w, struct end *end, int peer)
{
    (void)w;
    (void)peer;
    say(end, SPAN("250 ok\r\n"));
}

static void
before_starved(struct world *w, struct end *end, int peer)
{
    flood(w, peer, 5);
    cr_assert(end->link.on_starved || end->link.in.count > 0);
}

static void
before_finish(struct world *w, struct end *end, int peer)
{
    before_stuck(w, end, peer);
    link_finish(&end->link);
}

static void
before_handshake(struct world *w, struct end *end, int peer)
{
    struct tls_context *context = world_client_context();

    (void)peer; /* it stays silent */
    link_start_tls(&end->link, tls_create_client(context, NULL, NULL));
    tls_context_release(context);
    world_settle(w);
    cr_assert_eq(end->link.tls_state, LINK_HANDSHAKE);
}

static void
before_handshakes_turn(struct world *w, struct end *end, int peer)
{
    struct tls_context *context = world_server_context();

    (void)peer;
    w->shared.handshakes_left = 0;
    link_start_tls(&end->link, tls_create_server(context));
    tls_context_release(context);
    cr_assert(end->link.on_handshakes);
}

static void
before_bad_record(struct world *w, struct end *end, int peer)
{
    struct tls_context *context = world_server_context();

    link_start_tls(&end->link, tls_create_server(context));
    tls_context_release(context);
    sockets_write(peer, "EHLO in the clear\r\n", 19);
    WORLD_UNTIL(w, end->link.failed);
}

Test(link_end, closed_at_any_time)
{
    static const struct {
        const char *name;
        void (*before)(struct world *, struct end *, int peer);
        uint32_t bulk;
    } rows[] = {
        { "at once", before_nothing, 20 },
        { "with input and a carried part", before_input, 20 },
        { "amid much input", before_flood, 200 },
        { "with a stuck send", before_stuck, 20 + STUCK_BUFFERS },
        { "with a stuck send, paused", before_stuck_and_paused, 200 + STUCK_BUFFERS },
        { "with a send not submitted yet", before_fresh_send, 20 },
        { "with output nobody flushed", before_unsent, 20 },
        { "starved", before_starved, 2 },
        { "finishing", before_finish, 20 + STUCK_BUFFERS },
        { "amid a handshake", before_handshake, 20 },
        { "waiting for a handshake's turn", before_handshakes_turn, 20 },
        { "after a bad record", before_bad_record, 20 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (int settled = 0; settled < 2; settled++) {
            struct world w;
            struct end *end;
            unsigned turns = 0;
            int peer;

            close_chain = CHAIN_EMPTY;
            world_open(&w, rows[i].bulk);
            end = plain_open(&w, &peer);
            if (settled)
                world_settle(&w);
            rows[i].before(&w, end, peer);
            link_close(&end->link);
            link_close(&end->link);
            for (; end->link.inflight > 0; turns++) {
                cr_assert_lt(turns, 20, "%s: %u operations do not end", rows[i].name,
                             end->link.inflight);
                world_turn(&w, 100 * MS);
            }
            link_release(&end->link);
            end->open = false;
            chain_release(w.buffers, &close_chain);
            close(peer);
            world_close(&w);
        }
}

/* A connect that nobody answers: the listener's queue is full. */
/* With nothing in flight no completion comes: the owner is told in the next turn. */
Test(link_end, closed_while_starved)
{
    struct world w;
    struct end *end;
    struct chain held;
    unsigned looks;
    int peer;

    world_open(&w, 2);
    end = plain_open(&w, &peer);
    world_settle(&w);
    sockets_write(peer, "1", 1);
    world_settle(&w);
    held = world_hold_buffers(&w, 0);
    for (unsigned i = 0; i < 4 * BUFFERS_OFFERED && !end->link.on_starved; i++) {
        sockets_write(peer, "x", 1);
        world_settle(&w);
    }
    cr_assert(end->link.on_starved);
    cr_assert_eq(end->link.inflight, 0);
    looks = end->looks;
    link_close(&end->link);
    world_turn(&w, 1000 * MS);
    cr_assert_eq(end->looks, looks + 1, "nobody was told");
    link_release(&end->link);
    end->open = false;
    chain_release(w.buffers, &held);
    close(peer);
    world_close(&w);
}

Test(link_end, closed_while_connecting)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct config_address address = { .family = CONFIG_ADDRESS_IPV4, .ip = { 127, 0, 0, 1 } };
    int listener = sockets_one(), fillers[2];
    struct world w;
    struct end *end;

    cr_assert_eq(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(listen(listener, 0), 0);
    at.sin_port = htons(address.port = io_port(listener));
    world_open(&w, 20);
    for (unsigned i = 0; i < COUNT_OF(fillers); i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)!connect(fillers[i], (struct sockaddr *)&at, sizeof(at));
    }
    world_settle(&w);
    end = world_link(&w, io_socket(&address));
    link_connect(&end->link, &address);
    world_settle(&w);
    cr_assert_eq(end->link.inflight, 1, "it is under way");
    end_close(&w, end);
    for (unsigned i = 0; i < COUNT_OF(fillers); i++)
        close(fillers[i]);
    close(listener);
    world_close(&w);
}

/* --- the last completion --- */

#define HELD_MAX 8

/* All that completes, kept back. */
static unsigned
hold_completions(struct world *w, struct io_completion *held, unsigned count)
{
    uint64_t before;

    do {
        before = io_counts(w->io).completions;
        io_wait(w->io, 5 * MS);
        while (io_next(w->io, &held[count])) {
            count++;
            cr_assert_lt(count, HELD_MAX);
        }
    } while (io_counts(w->io).completions != before);
    return count;
}

/* The owner of a link that is being closed gets these completions. It lets go of the link when
 * nothing is in flight; how often it did. */
static unsigned
hand_out(struct end *end, const struct io_completion *held, unsigned count, const uint8_t order[3])
{
    unsigned released = 0;

    for (unsigned o = 0; o < 3; o++)
        for (unsigned i = 0; i < count; i++) {
            if (held[i].op != order[o])
                continue;
            cr_assert_eq(released, 0, "a completion for a link that is gone");
            link_complete(&end->link, &held[i]);
            if (end->link.inflight > 0)
                continue;
            link_release(&end->link);
            released++;
        }
    return released;
}

/* A receive that was told to stop has not ended yet when the link is closed; then all completes, in
 * whatever order: the link is let go once, with the last of them, and begins nothing any more. */
Test(link_end, freed_once_after_the_last_completion)
{
    static const uint8_t orders[][3] = {
        { IO_RECEIVE, IO_SEND, IO_CANCEL }, { IO_RECEIVE, IO_CANCEL, IO_SEND },
        { IO_SEND, IO_RECEIVE, IO_CANCEL }, { IO_SEND, IO_CANCEL, IO_RECEIVE },
        { IO_CANCEL, IO_RECEIVE, IO_SEND }, { IO_CANCEL, IO_SEND, IO_RECEIVE },
    };
    static const struct {
        const char *name;
        bool pause, recheck;  /* how the receive was told to stop */
        bool under_way;       /* the kernel has that already; else it gets both at once */
        bool input, body;     /* input that nobody has looked at; a send under way */
        unsigned completions;
    } rows[] = {
        { "receiving", false, false, true, false, false, 2 },
        { "pausing", true, false, false, false, false, 2 },
        { "paused, not known yet", true, false, true, false, false, 2 },
        { "rechecking", false, true, false, false, false, 2 },
        { "rechecked, not known yet", false, true, true, false, false, 2 },
        { "rechecked, with input", false, true, true, true, false, 3 },
        { "rechecking, with a send", false, true, false, false, true, 3 },
        { "paused, with a send and input", true, false, true, true, true, 4 },
    };

    for (size_t i = 0; i < COUNT_OF(rows) * COUNT_OF(orders); i++) {
        size_t row = i / COUNT_OF(orders);
        struct io_completion held[HELD_MAX];
        struct chain chain = CHAIN_EMPTY;
        struct link_body body;
        struct world w;
        struct end *end;
        unsigned count = 0;
        int peer;

        world_open(&w, 20 + STUCK_BUFFERS);
        end = plain_open(&w, &peer);
        world_settle(&w);
        if (rows[row].body)
            stick(&w, end, &chain, &body);
        if (rows[row].input)
            sockets_write(peer, "NOOP\r\n", 6);
        if (rows[row].input) /* what came is told before the stop */
            count = hold_completions(&w, held, count);
        if (rows[row].pause)
            link_pause(&end->link);
        if (rows[row].recheck)
            cr_assert(link_recheck(&end->link));
        if (rows[row].under_way)
            count = hold_completions(&w, held, count);
        link_close(&end->link);
        count = hold_completions(&w, held, count);
        cr_assert_eq(count, rows[row].completions, "%s: %u completions", rows[row].name, count);
        cr_assert_eq(hand_out(end, held, count, orders[i % COUNT_OF(orders)]), 1, "%s, order %zu",
                     rows[row].name, i % COUNT_OF(orders));
        end->open = false;
        chain_release(w.buffers, &chain);
        close(peer);
        world_close(&w);
    }
}
