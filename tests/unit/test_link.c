/* Plain links over TCP: lines over every split, taking bodies, back-pressure, starving, both ends of
 * a connection, and nothing left behind whenever it is closed. */
#include <criterion/criterion.h>

#include <errno.h>

#include "core/config.h"
#include "tests/unit/link_world.h"
#include "tests/unit/seeded.h"

/* A plain link and the raw socket of its peer. */
static struct end *
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

/* --- lines --- */

/* Uses up whole lines as sessions do; each goes to `got` with a '|' behind it. */
static void
lines_read(struct end *end)
{
    struct link *link = &end->link;

    for (;;) {
        struct span front = link_front(link);
        const char *last = front.len > 0 ? memchr(front.data, '\n', front.len) : NULL;

        if (last != NULL) {
            wire_add(&end->got, span_first(front, (size_t)(last - front.data) + 1));
            wire_add(&end->got, SPAN("|"));
            link_consume(link, (size_t)(last - front.data) + 1);
        } else if (front.len == 0 || !link_extend(link)) {
            return;
        }
    }
}

static void
lines_check(struct end *end, struct span text, const char *name, size_t cut)
{
    struct wire want = { 0 };

    for (size_t i = 0; i < text.len; i++) {
        wire_add(&want, span_of(text.data + i, 1));
        if (text.data[i] == '\n')
            wire_add(&want, SPAN("|"));
    }
    cr_assert(span_equal(wire_rest(&end->got), wire_rest(&want)), "%s, cut at %zu: %.*s", name, cut,
              (int)(end->got.len < 300 ? end->got.len : 300), end->got.data);
    cr_assert_eq(link_unread(&end->link), 0, "%s, cut at %zu", name, cut);
    cr_assert_null(end->link.carry.data, "%s, cut at %zu: the block stays", name, cut);
    end->got.len = 0;
    free(want.data);
}

/* Some short lines, one of the greatest length, an empty one. */
static struct span
lines_text(void)
{
    static char text[COMMAND_LINE_BYTES_MAX + 200];
    size_t len = 0, head;

    head = (size_t)snprintf(text, 100, "EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n\r\n");
    len = head + COMMAND_LINE_BYTES_MAX;
    memset(text + head, 'x', COMMAND_LINE_BYTES_MAX);
    memcpy(text + len - 2, "\r\n", 2);
    len += (size_t)snprintf(text + len, 100, "RCPT TO:<b@example.com>\r\nDATA\r\n");
    return span_of(text, len);
}

static void
lines_write(struct world *w, struct end *end, int peer, struct span part)
{
    uint64_t want = end->link.bytes_in + part.len;

    if (part.len > 0)
        sockets_write(peer, part.data, part.len);
    WORLD_UNTIL(w, end->link.bytes_in == want);
}

Test(link, lines_over_every_split)
{
    struct span text = lines_text();
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 40);
    end = plain_open(&w, &peer);
    for (size_t cut = 0; cut <= text.len; cut++) {
        lines_write(&w, end, peer, span_first(text, cut));
        lines_read(end);
        lines_write(&w, end, peer, span_after(text, cut));
        lines_read(end);
        lines_check(end, text, "two parts", cut);
    }
    for (size_t step = 1; step < 8; step++) {
        for (size_t at = 0; at < text.len; at += step) {
            size_t rest = text.len - at;

            lines_write(&w, end, peer, span_of(text.data + at, rest < step ? rest : step));
            lines_read(end);
        }
        lines_check(end, text, "in small parts", step);
    }
    close(peer);
    world_close(&w);
}

/* The owner is busy while much comes: lines lie over the ends of buffers in every way. */
Test(link, lines_that_waited)
{
    static char text[16 * BUFFER_BYTES];
    struct seeded seeded = { 99 };
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 100);
    end = plain_open(&w, &peer);
    for (unsigned round = 0; round < 30; round++) {
        size_t at = 0, sent = 0, len;

        while (at + 2 <= sizeof(text)) {
            len = seeded_scale(&seeded, 11) % (sizeof(text) - at - 1);
            memset(text + at, (int)('a' + seeded_below(&seeded, 26)), len);
            memcpy(text + at + len, "\r\n", 2);
            at += len + 2;
        }
        while (sent < at) {
            len = 1 + seeded_below(&seeded, BUFFER_BYTES);
            len = len < at - sent ? len : at - sent;
            lines_write(&w, end, peer, span_of(text + sent, len));
            sent += len;
        }
        lines_read(end);
        lines_check(end, span_of(text, at), "that waited", round);
    }
    cr_assert_lt(w.blocks.used_most, 3);
    close(peer);
    world_close(&w);
}

Test(link, a_part_longer_than_a_block_waits)
{
    static char text[BLOCK_BYTES + 10];
    struct world w;
    struct end *end;
    int peer;

    memset(text, 'x', sizeof(text));
    world_open(&w, 40);
    end = plain_open(&w, &peer);
    cr_assert_not(link_extend(&end->link), "there is nothing");
    lines_write(&w, end, peer, span_of(text, sizeof(text)));
    while (link_extend(&end->link))
        ;
    cr_assert_leq(link_front(&end->link).len, BUFFER_BYTES > BLOCK_BYTES ? sizeof(text) : BLOCK_BYTES);
    /* Its owner drops it, and then goes on. */
    end_read(end);
    cr_assert_eq(end->got.len, sizeof(text));
    lines_write(&w, end, peer, SPAN("NOOP\r\n"));
    end->got.len = 0;
    lines_read(end);
    lines_check(end, SPAN("NOOP\r\n"), "behind it", 0);
    close(peer);
    world_close(&w);
}

/* A client that sends octet by octet while its session waits. */
Test(link, small_pieces_share_buffers)
{
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 100);
    end = plain_open(&w, &peer);
    for (unsigned i = 0; i < 500; i++) {
        char octet = (char)i;

        lines_write(&w, end, peer, span_of(&octet, 1));
    }
    cr_assert_leq(world_buffers_held(&w), 1 + 500 / (BUFFER_BYTES / 2), "%u buffers",
                  world_buffers_held(&w));
    end_read(end);
    for (unsigned i = 0; i < 500; i++)
        cr_assert_eq(end->got.data[i], (char)i);
    close(peer);
    world_close(&w);
}

/* --- bodies in --- */

/* Puts octets into the input queue as one buffer. */
static uint32_t
feed(struct end *end, size_t len, char fill)
{
    struct buffers *buffers = end->link.shared->buffers;
    uint32_t index = buffer_take(buffers, 0);

    for (size_t i = 0; i < len; i++)
        buffer_memory(buffers, index)[i] = (char)(fill + i % 23);
    chain_append(buffers, &end->link.in, index, 0, len);
    return index;
}

static void
chain_check(const struct buffers *buffers, const struct chain *chain, size_t len, char fill,
            const char *name)
{
    size_t at = 0;

    cr_assert_eq(chain->bytes, len, "%s", name);
    for (uint32_t index = chain->first; chain->count > 0 && index != BUFFER_NONE;
         index = buffers->meta[index].next) {
        struct span s = buffer_span(buffers, index);

        for (size_t i = 0; i < s.len; i++, at++)
            cr_assert_eq(s.data[i], (char)(fill + at % 23), "%s at %zu", name, at);
    }
    cr_assert_eq(at, len, "%s", name);
}

Test(link, taking_copies_or_moves)
{
    static const struct {
        const char *name;
        size_t front, take;
        bool none_free; /* no buffer is free */
        bool want, moved;
    } rows[] = {
        { "all of a full buffer", BUFFER_BYTES, BUFFER_BYTES, false, true, true },
        { "nearly all", BUFFER_BYTES, BUFFER_BYTES - 1, false, true, true },
        { "just more than half", BUFFER_BYTES, BUFFER_BYTES / 2 + 1, false, true, true },
        { "half", BUFFER_BYTES, BUFFER_BYTES / 2, false, true, false },
        { "little", BUFFER_BYTES, 10, false, true, false },
        { "all of a small one", 100, 100, false, true, false },
        { "all of the largest that is copied", BUFFER_BYTES / 8, BUFFER_BYTES / 8, false, true,
          false },
        { "all of the next", BUFFER_BYTES / 8 + 1, BUFFER_BYTES / 8 + 1, false, true, true },
        { "one octet of one", 1, 1, false, true, false },
        { "none free: all of it", BUFFER_BYTES, BUFFER_BYTES, true, true, true },
        { "none free: all of a small one", 100, 100, true, true, true },
        { "none free: nearly all", BUFFER_BYTES, BUFFER_BYTES - 1, true, false, false },
        { "none free: little", BUFFER_BYTES, 10, true, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct chain to = CHAIN_EMPTY, held = CHAIN_EMPTY;
        const char *name = rows[i].name;
        struct world w;
        struct end *end;
        uint32_t index;
        int peer;

        world_open(&w, 40);
        end = plain_open(&w, &peer);
        index = feed(end, rows[i].front, 'a');
        feed(end, 50, 'A'); /* what comes later stays behind */
        if (rows[i].none_free)
            held = world_hold_buffers(&w, 0);
        cr_assert_eq(link_take(&end->link, rows[i].take, &to), rows[i].want, "%s", name);
        chain_release(w.buffers, &held);
        if (rows[i].want) {
            chain_check(w.buffers, &to, rows[i].take, 'a', name);
            cr_assert_eq(to.last == index, rows[i].moved, "%s", name);
        } else {
            cr_assert_eq(to.bytes, 0, "%s: a part was taken", name);
        }
        cr_assert_eq(link_unread(&end->link), rows[i].front + 50 - to.bytes, "%s", name);
        while (to.bytes < rows[i].front)
            cr_assert(link_take(&end->link, link_front(&end->link).len, &to), "%s", name);
        chain_check(w.buffers, &to, rows[i].front, 'a', name);
        end_read(end);
        cr_assert_eq(end->got.len, 50, "%s", name);
        cr_assert_eq(end->got.data[0], 'A', "%s", name);
        chain_release(w.buffers, &to);
        close(peer);
        world_close(&w);
    }
}

/* Random parts of a random stream, all taken: nothing is lost, doubled or out of order, and small
 * parts do not hold a buffer each. */
Test(link, taking_all_parts)
{
    struct seeded seeded = { 5 };
    struct chain to = CHAIN_EMPTY;
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 60);
    end = plain_open(&w, &peer);
    for (unsigned round = 0; round < 40; round++) {
        size_t total = 0, most = round % 2 == 0 ? BUFFER_BYTES : BUFFER_BYTES / 16;

        while (total < 8 * BUFFER_BYTES && end->link.in.count < 20) {
            size_t len = 1 + seeded_below(&seeded, most);

            feed(end, len, (char)('a' + total % 23));
            for (size_t i = 0; i < len; i++)
                buffer_memory(w.buffers, end->link.in.last)[i] = (char)('a' + (total + i) % 23);
            total += len;
        }
        while (link_unread(&end->link) > 0) {
            size_t front = link_front(&end->link).len;

            cr_assert(link_take(&end->link, 1 + seeded_below(&seeded, front), &to));
        }
        chain_check(w.buffers, &to, total, 'a', "all parts");
        cr_assert_leq(to.count, 2 + 8 * total / BUFFER_BYTES, "%u buffers for %zu octets", to.count,
                      total);
        chain_release(w.buffers, &to);
    }
    close(peer);
    world_close(&w);
}

/* --- back-pressure --- */

/* Writes as much as goes, over some turns. */
static uint64_t
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
static void
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

Test(link, paused_input_stays_with_the_peer)
{
    static const struct {
        const char *name;
        bool before, after, stuck; /* paused before or after the first octets; our send is stuck */
    } rows[] = {
        { "before anything came", true, false, false },
        { "after the first octets", false, true, false },
        { "before, with a stuck send", true, false, true },
        { "after, with a stuck send", false, true, true },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct chain chain = CHAIN_EMPTY;
        static char room[1 << 16];
        struct link_body body;
        struct world w;
        struct end *end;
        uint64_t written, received = 0;
        bool ended = false;
        int peer;

        world_open(&w, 200 + STUCK_BUFFERS);
        end = plain_open(&w, &peer);
        if (rows[i].stuck)
            stick(&w, end, &chain, &body);
        if (rows[i].before)
            link_pause(&end->link);
        written = flood(&w, peer, 1);
        if (rows[i].after)
            link_pause(&end->link);
        received = end->link.bytes_in;
        written += flood(&w, peer, 200);
        cr_assert_leq(end->link.bytes_in, received + SOCKETS_KERNEL_BYTES_MAX / 4,
                      "%s: %lu octets came in", rows[i].name, (unsigned long)end->link.bytes_in);
        cr_assert_leq(end->link.bytes_in, written);
        link_pause(&end->link); /* once more is the same */
        received = end->link.bytes_in;
        world_settle(&w);
        cr_assert_eq(end->link.bytes_in, received, "%s", rows[i].name);
        cr_assert_not(end->link.receiving, "%s", rows[i].name);
        end->reading = true;
        end_read(end);
        link_resume(&end->link);
        WORLD_UNTIL(&w, end->got.len == written);
        /* Pausing and going on before the kernel has heard of it. */
        link_pause(&end->link);
        link_resume(&end->link);
        written += flood(&w, peer, 2);
        WORLD_UNTIL(&w, end->got.len == written);
        for (received = 0; rows[i].stuck && received < 2 * SOCKETS_KERNEL_BYTES_MAX;) {
            received += sockets_read_some(peer, room, sizeof(room), &ended);
            world_turn(&w, 1 * MS);
            cr_assert_not(ended);
        }
        cr_assert_eq(chain.count, 0, "%s: all of the body went out", rows[i].name);
        close(peer);
        world_close(&w);
    }
}

/* --- no buffers --- */

static void
pattern_fill(char *text, size_t len, unsigned salt)
{
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(i * 13 + i / 977 + salt);
}

/* What waits for buffers stays in the kernel; nobody turns in vain; nothing is lost. */
Test(link, starved_until_buffers_are_back)
{
    static char text[2][4 * BUFFER_BYTES];
    struct world w;
    struct end *ends[2];
    uint64_t before;
    int peers[2];

    world_open(&w, 3);
    for (unsigned i = 0; i < 2; i++) {
        ends[i] = plain_open(&w, &peers[i]);
        pattern_fill(text[i], sizeof(text[i]), i * 77);
        sockets_write(peers[i], text[i], sizeof(text[i]));
    }
    world_settle(&w);
    cr_assert(ends[0]->link.on_starved && ends[1]->link.on_starved);
    cr_assert_leq(ends[0]->link.in.count + ends[1]->link.in.count, 3);
    before = io_counts(w.io).completions;
    for (unsigned i = 0; i < 20; i++)
        world_turn(&w, 1 * MS);
    cr_assert_eq(io_counts(w.io).completions, before, "it turns in vain");
    /* One that is paused meanwhile is not armed when there are buffers again. */
    link_pause(&ends[1]->link);
    for (unsigned i = 0; i < 2; i++) {
        ends[i]->reading = true;
        end_read(ends[i]);
    }
    WORLD_UNTIL(&w, ends[0]->got.len == sizeof(text[0]));
    world_settle(&w);
    cr_assert(ends[0]->link.receiving);
    cr_assert_not(ends[1]->link.receiving);
    cr_assert_lt(ends[1]->got.len, sizeof(text[1]));
    link_resume(&ends[1]->link);
    WORLD_UNTIL(&w, ends[1]->got.len == sizeof(text[1]));
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(memcmp(ends[i]->got.data, text[i], sizeof(text[i])), 0);
        close(peers[i]);
    }
    world_close(&w);
}

/* The replies that set buffers free arrive although bodies hold all buffers that bodies may have. */
Test(link, a_sure_link_does_not_starve)
{
    struct world w;
    struct end *bulk, *sure;
    struct chain bodies;
    int peers[2], pair[2];

    world_open(&w, 2);
    bulk = plain_open(&w, &peers[0]);
    sockets_pair(pair);
    peers[1] = pair[1];
    sure = world_link(&w, pair[0]);
    sure->link.sure = true;
    sure->reading = true;
    link_receive(&sure->link);
    world_settle(&w);
    bodies = world_hold_buffers(&w, WORLD_RESERVE / 2);
    flood(&w, peers[0], 5);
    cr_assert(bulk->link.on_starved);
    for (unsigned i = 0; i < 3 * BUFFERS_SURE; i++) {
        sockets_write(peers[1], "250 ok\r\n", 8);
        WORLD_UNTIL(&w, sure->got.len == 8 * (i + 1));
    }
    cr_assert(bulk->link.on_starved);
    chain_release(w.buffers, &bodies);
    for (unsigned i = 0; i < 2; i++)
        close(peers[i]);
    world_close(&w);
}

/* --- both ends --- */

static void
say(struct end *end, struct span text)
{
    cr_assert(link_room(&end->link, text.len));
    outbuf_add(&end->link.out, text);
}

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

Test(link, finishing_sends_all_then_the_end)
{
    static const struct {
        const char *name;
        bool body, flight, block; /* what is there to send: a stuck body, a reply under way, one
                                   * written behind it */
    } rows[] = {
        { "nothing", false, false, false },  { "a reply", false, false, true },
        { "a reply under way", false, true, false }, { "two replies", false, true, true },
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

Test(link, the_peer_ends_first)
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
    lines_read(end);
    lines_check(end, SPAN("QUIT\r\n"), "before the end", 0);
    say(end, SPAN("221 bye\r\n"));
    link_finish(&end->link);
    cr_assert_eq(read_all(&w, peer, &got), 9);
    free(got.data);
    close(peer);
    world_close(&w);
}

Test(link, a_reset_breaks_it)
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

/* The peer goes amid a body: the send that is under way breaks, and nothing of it counts as sent. */
Test(link, a_send_that_breaks)
{
    static const struct linger hard = { .l_onoff = 1 };
    struct chain chain = CHAIN_EMPTY;
    struct link_body body;
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 20 + STUCK_BUFFERS);
    end = plain_open(&w, &peer);
    stick(&w, end, &chain, &body);
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(peer);
    WORLD_UNTIL(&w, end->link.failed && !end->link.sending);
    cr_assert_lt(body.sent, 2 * SOCKETS_KERNEL_BYTES_MAX);
    cr_assert_eq(chain.bytes + body.sent, 2 * SOCKETS_KERNEL_BYTES_MAX);
    world_settle(&w);
    chain_release(w.buffers, &chain);
    world_close(&w);
}

/* --- connecting --- */

Test(link, connects_or_says_why_not)
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

Test(link, closed_at_any_time)
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
Test(link, closed_while_connecting)
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
