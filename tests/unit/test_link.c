/* Plain links over TCP: lines over every split, taking bodies, back-pressure, starving, both ends
 * of a connection, and nothing left behind whenever it is closed. */
#include <criterion/criterion.h>

#include <errno.h>

#include "core/config.h"
#include "tests/unit/link_world.h"
#include "tests/unit/seeded.h"

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
            /* What follows a carried line stays in its buffer: it may be a body. */
            cr_assert(link->carry.data == NULL || last + 1 == front.data + front.len);
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
    cr_assert_leq(link_front(&end->link).len,
                  BUFFER_BYTES > BLOCK_BYTES ? sizeof(text) : BLOCK_BYTES);
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
        link_pause(&end->link);
        written += flood(&w, peer, 100);
        cr_assert(written - end->got.len > SOCKETS_KERNEL_BYTES_MAX / 16 && !end->link.receiving,
                  "%s: the second pause does not hold", rows[i].name);
        link_resume(&end->link);
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

/* One buffer at a time, each when it is asked for, from a receive that was armed for many. */
Test(link, one_buffer_at_a_time)
{
    static char text[6 * BUFFER_BYTES];
    struct world w;
    struct end *end;
    int peer;

    world_open(&w, 8);
    end = plain_open(&w, &peer);
    world_settle(&w);
    pattern_fill(text, sizeof(text), 7);
    link_receives(&end->link, LINK_RECEIVES_ONE);
    sockets_write(peer, text, sizeof(text));
    world_settle(&w);
    for (uint32_t n = 1; n <= 3; n++) {
        cr_assert_eq(end->link.in.count, n, "%u", end->link.in.count);
        cr_assert(end->link.paused);
        cr_assert_not(end->link.receiving);
        link_resume(&end->link);
        world_settle(&w);
    }
    link_receives(&end->link, LINK_RECEIVES_MUCH);
    end->reading = true;
    end_read(end);
    link_resume(&end->link);
    WORLD_UNTIL(&w, end->got.len == sizeof(text));
    cr_assert_eq(memcmp(end->got.data, text, sizeof(text)), 0);
    cr_assert_not(end->link.paused);
    close(peer);
    world_close(&w);
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

/* The replies that set buffers free arrive although bodies hold all buffers that bodies may have.
 */
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
