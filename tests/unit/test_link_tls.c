/* TLS links over TCP: the handshake's budget, both kinds of end, waiting for buffers and for the
 * owner, and small records. */
#include <criterion/criterion.h>

#include "tests/unit/link_world.h"
#include "tests/unit/seeded.h"

/* A body that goes out as it is. */
static void
body_of(struct world *w, struct chain *chain, struct link_body *body, struct span text)
{
    *chain = CHAIN_EMPTY;
    cr_assert(chain_copy(w->buffers, chain, text));
    *body = (struct link_body){ .chain = chain, .index = BUFFER_NONE, .consume = true };
}

static struct span
pattern(size_t len)
{
    static char text[16 * BUFFER_BYTES];

    cr_assert_leq(len, sizeof(text));
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(i * 29 + i / 1009);
    return span_of(text, len);
}

/* --- the handshake --- */

Test(link_tls, plain_then_tls)
{
    struct end *server, *client;
    struct world w;

    world_open(&w, 40);
    world_pair(&w, &server, &client);
    say(client, SPAN("STARTTLS\r\n"));
    link_flush(&client->link);
    WORLD_UNTIL(&w, link_unread(&server->link) == 10);
    link_consume(&server->link, 10);
    say(server, SPAN("220 go\r\n"));
    link_flush(&server->link);
    WORLD_UNTIL(&w, link_drained(&server->link) && link_unread(&client->link) == 8);
    link_consume(&client->link, 8);
    world_handshake(server, client);
    /* Written amid the handshake: it goes out encrypted, behind it. */
    say(client, SPAN("EHLO a\r\n"));
    link_flush(&client->link);
    WORLD_UNTIL(&w, link_unread(&server->link) == 8);
    cr_assert_eq(server->link.tls_state, LINK_TLS);
    cr_assert(span_equal(link_front(&server->link), SPAN("EHLO a\r\n")));
    cr_assert_gt(server->link.bytes_in, 100, "it came in records");
    world_settle(&w);
    cr_assert(link_drained(&client->link) && link_drained(&server->link));
    cr_assert_eq(w.blocks.used, 0, "idle links hold blocks");
    link_consume(&server->link, 8);
    cr_assert_eq(world_buffers_held(&w), 0, "idle links hold buffers");
    world_close(&w);
}

/* A client's Finished does not leave before what its owner has to say: both are one send. */
Test(link_tls, last_flight_goes_with_what_follows)
{
    struct end *server, *client;
    struct world w;

    world_open(&w, 40);
    world_pair(&w, &server, &client);
    world_handshake(server, client);
    say(client, SPAN("EHLO client.example\r\n"));
    WORLD_UNTIL(&w, client->link.tls_state == LINK_TLS);
    cr_assert(client->link.sending);
    /* Finished alone is 64 octets, or 80 with SHA-384. */
    cr_assert_gt(client->link.flight_bytes, 80 + 21, "%zu octets",
                 (size_t)client->link.flight_bytes);
    WORLD_UNTIL(&w, link_unread(&server->link) == 21);
    world_close(&w);
}

/* Handshakes beyond the turn's number wait, in order, and their owners hear of each step. */
Test(link_tls, handshakes_wait_their_turn)
{
    struct end *ends[4];
    struct world w;

    world_open(&w, 40);
    w.handshakes = 1;
    for (unsigned i = 0; i < 4; i += 2)
        world_pair(&w, &ends[i], &ends[i + 1]);
    for (unsigned i = 0; i < 4; i += 2)
        world_handshake(ends[i], ends[i + 1]);
    for (unsigned i = 0; i < 4; i++)
        cr_assert(ends[i]->link.on_handshakes, "%u", i);
    world_turn(&w, 0);
    cr_assert_not(ends[0]->link.on_handshakes);
    cr_assert_eq(ends[0]->looks, 1);
    cr_assert(ends[1]->link.on_handshakes);
    /* One of them goes before its turn. */
    end_close(&w, ends[2]);
    for (unsigned i = 0; i < 2; i++)
        WORLD_UNTIL(&w, ends[i]->link.tls_state == LINK_TLS);
    WORLD_UNTIL(&w, ends[3]->link.ended);
    say(ends[0], SPAN("250 ok\r\n"));
    link_flush(&ends[0]->link);
    WORLD_UNTIL(&w, link_unread(&ends[1]->link) == 8);
    world_close(&w);
}

/* --- the end --- */

Test(link_tls, finishing_sends_all_then_the_end)
{
    static const struct {
        const char *name;
        size_t body;        /* octets of a body under way */
        bool flight, block; /* a reply under way; one written behind it */
    } rows[] = {
        { "nothing", 0, false, false },
        { "a reply", 0, false, true },
        { "a reply under way", 0, true, false },
        { "two replies", 0, true, true },
        { "a body", 10 * BUFFER_BYTES, false, false },
        { "a reply and a body", 10 * BUFFER_BYTES, true, false },
        { "an odd body", 3 * BUFFER_BYTES + 77, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct end *server, *client;
        struct link_body body;
        struct chain chain = CHAIN_EMPTY;
        struct wire want = { 0 };
        struct world w;

        world_open(&w, BUFFERS_OFFERED + 40);
        world_tls(&w, &server, &client);
        client->reading = true;
        if (rows[i].flight) {
            say(server, SPAN("250 first\r\n"));
            wire_add(&want, SPAN("250 first\r\n"));
            link_flush(&server->link);
            cr_assert(server->link.sending);
        }
        if (rows[i].body > 0) {
            body_of(&w, &chain, &body, pattern(rows[i].body));
            wire_add(&want, pattern(rows[i].body));
            server->link.body = &body;
        }
        if (rows[i].block) {
            say(server, SPAN("221 last\r\n"));
            wire_add(&want, SPAN("221 last\r\n"));
        }
        link_finish(&server->link);
        link_finish(&server->link);
        WORLD_UNTIL(&w, link_at_end(&client->link) && server->link.finished);
        cr_assert(span_equal(wire_rest(&client->got), wire_rest(&want)), "%s: %zu octets of %zu",
                  rows[i].name, client->got.len, want.len);
        cr_assert_not(server->link.failed, "%s", rows[i].name);
        cr_assert_not(client->link.failed, "%s: %.*s", rows[i].name,
                      (int)tls_failure(client->link.tls).len, tls_failure(client->link.tls).data);
        cr_assert(client->link.cipher_ended, "%s: close_notify is missing", rows[i].name);
        cr_assert_eq(tls_failure(client->link.tls).len, 0, "%s", rows[i].name);
        /* The client answers the same way. */
        say(client, SPAN("x"));
        link_finish(&client->link);
        WORLD_UNTIL(&w, link_at_end(&server->link));
        cr_assert_eq(link_unread(&server->link), 1, "%s", rows[i].name);
        free(want.data);
        world_close(&w);
    }
}

/* close_notify leaves with the last words, and the FIN waits where it was not asked for. */
Test(link_tls, last_words_are_one_send)
{
    static const struct {
        const char *name;
        void (*end)(struct link *);
        bool fin;
        size_t body;
    } rows[] = {
        { "said", link_say_last, false, 0 },
        { "finished", link_finish, true, 0 },
        { "said behind a body", link_say_last, false, BUFFER_BYTES / 4 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct chain chain = CHAIN_EMPTY;
        struct end *server, *client;
        struct link_body body;
        uint64_t before, flight;
        struct world w;

        world_open(&w, 40);
        world_tls(&w, &server, &client);
        client->reading = true;
        before = server->link.bytes_out;
        say(server, SPAN("221 bye\r\n"));
        if (rows[i].body > 0) {
            body_of(&w, &chain, &body, pattern(rows[i].body));
            body.consume = false;
            server->link.body = &body;
        }
        rows[i].end(&server->link);
        cr_assert(server->link.sending && server->link.close_said, "%s", rows[i].name);
        flight = server->link.flight_bytes;
        WORLD_UNTIL(&w, link_at_end(&client->link));
        world_settle(&w);
        cr_assert_eq(client->got.len, 9 + rows[i].body, "%s", rows[i].name);
        cr_assert(client->link.cipher_ended, "%s", rows[i].name);
        cr_assert_eq(server->link.finished, rows[i].fin, "%s", rows[i].name);
        link_finish(&server->link);
        WORLD_UNTIL(&w, server->link.finished);
        cr_assert_eq(server->link.bytes_out - before, flight, "%s: more than one send",
                     rows[i].name);
        chain_release(w.buffers, &chain);
        world_close(&w);
    }
}

/* The stream ends without a close_notify when all that was written is with the kernel. */
static void
stream_cut(struct world *world, struct end *end)
{
    link_flush(&end->link);
    WORLD_UNTIL(world, link_drained(&end->link));
    io_shutdown(world->io, end->link.socket);
}

/* What came is there, and the cut is noticed. */
Test(link_tls, a_cut_is_noticed)
{
    struct end *server, *client;
    struct world w;

    world_open(&w, 40);
    world_tls(&w, &server, &client);
    say(server, SPAN("250 ok\r\n"));
    stream_cut(&w, server);
    WORLD_UNTIL(&w, link_at_end(&client->link));
    cr_assert_eq(link_unread(&client->link), 8);
    cr_assert_gt(tls_failure(client->link.tls).len, 0);
    /* A peer may end one direction only. */
    cr_assert_not(client->link.failed);
    say(client, SPAN("QUIT\r\n"));
    link_flush(&client->link);
    WORLD_UNTIL(&w, link_unread(&server->link) == 6);
    world_close(&w);
}

/* Much comes while the owner waits, then the end, with or without a close_notify. */
static void
check_end(size_t block, size_t len, bool clean)
{
    struct end *server, *client;
    struct link_body body;
    struct chain chain;
    struct wire want = { 0 };
    struct world w;

    world_open(&w, BUFFERS_OFFERED + 40);
    world_tls(&w, &server, &client);
    if (block > 0) {
        say(server, pattern(block));
        wire_add(&want, pattern(block));
    }
    body_of(&w, &chain, &body, pattern(len));
    wire_add(&want, pattern(len));
    server->link.body = &body;
    if (clean) {
        link_finish(&server->link);
    } else {
        stream_cut(&w, server);
    }
    WORLD_UNTIL(&w, client->link.ended);
    cr_assert_leq(client->link.in.bytes, 6 * BUFFER_BYTES, "all of it is decrypted");
    cr_assert(client->link.in.bytes == want.len || !link_at_end(&client->link),
              "%zu and %zu octets: ended with %lu", block, len,
              (unsigned long)client->link.in.bytes);
    end_read(client);
    cr_assert(link_at_end(&client->link), "%zu and %zu octets", block, len);
    cr_assert(span_equal(wire_rest(&client->got), wire_rest(&want)), "%zu and %zu octets: %zu came",
              block, len, client->got.len);
    free(want.data);
    world_close(&w);
}

/* All of it is there in the end, whatever the library, the queue of records and the queue of plain
 * text each hold when the end comes: around the size at which decryption waits for the owner. */
Test(link_tls, all_that_came_before_the_end)
{
    for (size_t len = 3 * BUFFER_BYTES; len < 5 * BUFFER_BYTES; len += BUFFER_BYTES / 29) {
        check_end(0, len, true);
        check_end(BLOCK_BYTES / 5, len, true);
        check_end(0, len, false);
        check_end(BLOCK_BYTES / 5, len, false);
    }
    for (size_t whole = 6; whole < 12; whole++)
        check_end(whole, whole * BUFFER_BYTES, whole % 2 == 0);
}

/* Decryption stops amid a record, all octets of the peer are with the library, and the stream ends:
 * the rest of that record comes when the owner has made room. */
Test(link_tls, what_the_library_holds_at_the_end)
{
    struct end *server, *client;
    struct link_body body;
    struct chain chain;
    struct world w;

    world_open(&w, BUFFERS_OFFERED + 40);
    world_tls(&w, &server, &client);
    /* Four full buffers are the most that waits; the next record does not fit the fourth. */
    for (unsigned i = 1; i < 16; i++) {
        say(server, pattern(BUFFER_BYTES / 4));
        link_flush(&server->link);
        WORLD_UNTIL(&w, client->link.in.bytes == i * (BUFFER_BYTES / 4));
    }
    body_of(&w, &chain, &body, pattern(BUFFER_BYTES / 2));
    server->link.body = &body;
    stream_cut(&w, server);
    WORLD_UNTIL(&w, client->link.ended);
    cr_assert_eq(client->link.in.bytes, 4 * BUFFER_BYTES);
    cr_assert_eq(client->link.cipher.bytes, 0, "the library has them");
    cr_assert_not(link_at_end(&client->link));
    end_read(client);
    cr_assert(link_at_end(&client->link));
    cr_assert_eq(client->got.len, 17 * BUFFER_BYTES / 4);
    cr_assert_eq(memcmp(client->got.data + 15 * BUFFER_BYTES / 4, pattern(BUFFER_BYTES / 2).data,
                        BUFFER_BYTES / 2),
                 0);
    world_close(&w);
}

/* --- waiting --- */

/* A client that sends small records while its session waits does not hold a buffer for each. */
Test(link_tls, small_records_share_buffers)
{
    struct end *server, *client;
    struct world w;

    world_open(&w, 100);
    world_tls(&w, &server, &client);
    for (unsigned i = 0; i < 300; i++) {
        char octet = (char)i;

        say(client, span_of(&octet, 1));
        link_flush(&client->link);
        WORLD_UNTIL(&w, server->link.in.bytes == i + 1);
    }
    cr_assert_leq(server->link.in.count, 1 + 300 / (BUFFER_BYTES / 2), "%u buffers",
                  server->link.in.count);
    end_read(server);
    for (unsigned i = 0; i < 300; i++)
        cr_assert_eq(server->got.data[i], (char)i);
    world_close(&w);
}

Test(link_tls, paused_and_resumed)
{
    struct end *server, *client;
    struct link_body body;
    struct chain chain;
    struct world w;
    uint64_t held;

    world_open(&w, BUFFERS_OFFERED + 2 * SOCKETS_KERNEL_BYTES_MAX / BUFFER_BYTES);
    world_tls(&w, &server, &client);
    chain = CHAIN_EMPTY;
    while (chain.bytes < SOCKETS_KERNEL_BYTES_MAX)
        cr_assert(chain_copy(w.buffers, &chain, pattern(8 * BUFFER_BYTES)));
    body = (struct link_body){ .chain = &chain, .index = BUFFER_NONE, .consume = true };
    link_pause(&server->link);
    client->link.body = &body;
    link_flush(&client->link);
    world_settle(&w);
    held = link_unread(&server->link);
    cr_assert_lt(held, SOCKETS_KERNEL_BYTES_MAX / 2, "%lu", (unsigned long)held);
    cr_assert(client->link.sending, "the client is not held back");
    server->reading = true;
    link_resume(&server->link);
    end_look(server);
    WORLD_UNTIL(&w, server->got.len >= SOCKETS_KERNEL_BYTES_MAX && !client->link.sending);
    cr_assert_eq(server->got.len, body.sent);
    for (size_t at = 0; at < server->got.len; at += 8 * BUFFER_BYTES)
        cr_assert_eq(
            memcmp(server->got.data + at, pattern(8 * BUFFER_BYTES).data, 8 * BUFFER_BYTES), 0);
    world_close(&w);
}

/* Records that could not be decrypted for want of a buffer: when there are buffers again the owner
 * is told, without another octet of the peer. */
Test(link_tls, starved_input_goes_on_by_itself)
{
    struct end *server, *client;
    struct chain held;
    struct world w;
    unsigned looks;

    world_open(&w, 40);
    world_tls(&w, &server, &client);
    server->reading = true;
    say(client, SPAN("NOOP\r\n"));
    link_flush(&client->link);
    /* The records are sealed and on their way; now bodies take all the rest. */
    held = world_hold_buffers(&w, 0);
    world_settle(&w);
    cr_assert_eq(server->got.len, 0);
    cr_assert(server->link.on_starved);
    cr_assert_gt(link_unread(&server->link), 0);
    looks = server->looks;
    world_settle(&w);
    cr_assert_eq(server->looks, looks, "it turns in vain");
    chain_release(w.buffers, &held);
    WORLD_UNTIL(&w, server->got.len == 6);
    cr_assert_not(server->link.on_starved);
    say(client, SPAN("NOOP\r\n"));
    link_flush(&client->link);
    WORLD_UNTIL(&w, server->got.len == 12);
    world_close(&w);
}

/* The same for what we want to say. */
Test(link_tls, starved_output_goes_on_by_itself)
{
    struct end *server, *client;
    struct chain held;
    struct world w;

    world_open(&w, 40);
    world_tls(&w, &server, &client);
    client->reading = true;
    held = world_hold_buffers(&w, 0);
    say(server, SPAN("250 ok\r\n"));
    link_flush(&server->link);
    world_settle(&w);
    cr_assert(server->link.on_starved);
    cr_assert_not(link_drained(&server->link));
    chain_release(w.buffers, &held);
    WORLD_UNTIL(&w, client->got.len == 8);
    cr_assert(link_drained(&server->link));
    world_close(&w);
}

/* Starved amid a handshake: it goes on too. */
Test(link_tls, starved_handshake_goes_on_by_itself)
{
    struct end *server, *client;
    struct chain held;
    struct world w;

    world_open(&w, 40);
    world_pair(&w, &server, &client);
    world_settle(&w);
    held = world_hold_buffers(&w, 0);
    world_handshake(server, client);
    world_settle(&w);
    cr_assert(client->link.on_starved);
    cr_assert_eq(client->link.tls_state, LINK_HANDSHAKE);
    chain_release(w.buffers, &held);
    WORLD_UNTIL(&w, server->link.tls_state == LINK_TLS && client->link.tls_state == LINK_TLS);
    world_close(&w);
}

/* --- closed amid a handshake --- */

#define HELD_MAX 12

/* Turns in which the server goes on and the client's owner is slow: what completes for the client
 * is kept back. */
static unsigned
hold_client(struct world *w, const struct end *client, struct io_completion *held, unsigned count)
{
    uint64_t before;

    do {
        before = io_counts(w->io).completions;
        io_wait(w->io, 5 * MS);
        w->shared.handshakes_left = w->handshakes;
        while (io_next(w->io, &held[count])) {
            struct end *end = &w->ends[held[count].ticket.slot];

            if (end != client) {
                link_complete(&end->link, &held[count]);
                continue;
            }
            count++;
            cr_assert_lt(count, HELD_MAX);
        }
    } while (io_counts(w->io).completions != before);
    return count;
}

/* The completions of one operation. */
static void
hand_out(struct end *end, const struct io_completion *held, unsigned count, enum io_op op)
{
    for (unsigned i = 0; i < count; i++)
        if (held[i].op == op)
            link_complete(&end->link, &held[i]);
}

/* The server's flight is here, ours to answer it with waits for something, and the link is closed:
 * when what it waited for comes, nothing goes out any more. It would end by itself only, after the
 * owner has let go. */
Test(link_tls, no_flight_leaves_after_the_close)
{
    static const struct {
        const char *name;
        bool no_buffer; /* the flight waits for a buffer; else for the send before it to end */
        bool starved;   /* and after the close the receive finds no buffer either */
    } rows[] = {
        { "behind a send", false, false },
        { "for want of a buffer", true, false },
        { "for want of a buffer, also for input", true, true },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct io_completion held[HELD_MAX];
        struct chain taken = CHAIN_EMPTY;
        struct end *server, *client;
        struct world w;
        unsigned before, count;
        uint64_t said;

        world_open(&w, 40);
        world_pair(&w, &server, &client);
        w.shared.handshakes_left = w.handshakes;
        world_handshake(server, client);
        cr_assert(client->link.sending, "%s", rows[i].name);
        before = hold_client(&w, client, held, 0);
        said = server->link.bytes_in;
        if (rows[i].no_buffer)
            taken = world_hold_buffers(&w, 0);
        w.shared.handshakes_left = w.handshakes;
        hand_out(client, held, before, IO_RECEIVE);
        cr_assert_eq(client->link.on_starved, rows[i].no_buffer, "%s", rows[i].name);
        cr_assert_eq(client->link.cipher_out != BUFFER_NONE, !rows[i].no_buffer, "%s",
                     rows[i].name);
        link_close(&client->link);
        chain_release(w.buffers, &taken);
        hand_out(client, held, before, IO_SEND);
        cr_assert_not(client->link.sending, "%s: the flight left", rows[i].name);
        cr_assert_eq(client->link.tls_state, rows[i].no_buffer ? LINK_HANDSHAKE : LINK_TLS,
                     "%s: it shakes hands still", rows[i].name);
        count = hold_client(&w, client, held, 0);
        for (unsigned n = 0; n < count && rows[i].starved; n++)
            if (held[n].op == IO_RECEIVE && held[n].result < 0)
                held[n].result = -ENOBUFS;
        hand_out(client, held, count, IO_RECEIVE);
        cr_assert_eq(client->link.on_starved, rows[i].starved, "%s", rows[i].name);
        w.shared.handshakes_left = w.handshakes;
        link_starved_continue(&w.shared);
        cr_assert_not(client->link.sending, "%s: the flight left", rows[i].name);
        hand_out(client, held, count, IO_CANCEL);
        cr_assert_eq(client->link.inflight, 0, "%s", rows[i].name);
        link_release(&client->link);
        client->open = false;
        world_settle(&w);
        cr_assert_eq(server->link.bytes_in, said, "%s: the server heard of it", rows[i].name);
        world_close(&w);
    }
}

/* --- both at once --- */

/* Random talk in both directions, with pauses, waits and want of buffers: every octet arrives. */
struct talker {
    struct end *end, *other;
    size_t sent, total;
};

static void
talk_step(struct world *w, struct talker *t, struct seeded *seeded, struct span text)
{
    struct link *link = &t->end->link;
    size_t len = 1 + seeded_scale(seeded, 12) % BLOCK_BYTES;

    switch (seeded_below(seeded, 8)) {
    case 0: link_pause(link); break;
    case 1:
    case 2: link_resume(link); break;
    case 3: t->end->reading = false; break;
    case 4:
        t->end->reading = true;
        end_look(t->end);
        break;
    default:
        len = len < t->total - t->sent ? len : t->total - t->sent;
        if (len > 0 && link_room(link, len)) {
            outbuf_add(&link->out, span_of(text.data + t->sent, len));
            t->sent += len;
        }
        link_flush(link);
    }
    (void)w;
}

static void
talk(bool tls, uint64_t seed)
{
    struct span text = pattern(14 * BUFFER_BYTES);
    struct seeded seeded = { seed };
    struct chain held = CHAIN_EMPTY;
    struct talker talkers[2];
    struct world w;
    unsigned steps = 0;

    world_open(&w, 12);
    for (unsigned i = 0; i < 2; i++)
        talkers[i] = (struct talker){ .total = text.len - i * 1000 };
    if (tls) {
        world_tls(&w, &talkers[0].end, &talkers[1].end);
    } else {
        int pair[2];

        sockets_pair(pair);
        for (unsigned i = 0; i < 2; i++) {
            talkers[i].end = world_link(&w, pair[i]);
            link_receive(&talkers[i].end->link);
        }
    }
    for (unsigned i = 0; i < 2; i++)
        talkers[i].other = talkers[1 - i].end;
    while (talkers[0].other->got.len < talkers[0].total ||
           talkers[1].other->got.len < talkers[1].total) {
        cr_assert_lt(steps++, 100000, "seed %lu: stuck at %zu and %zu", (unsigned long)seed,
                     talkers[0].other->got.len, talkers[1].other->got.len);
        talk_step(&w, &talkers[seeded_below(&seeded, 2)], &seeded, text);
        if (held.count == 0 && seeded_below(&seeded, 50) == 0)
            held = world_hold_buffers(&w, (uint32_t)seeded_below(&seeded, 20));
        else if (held.count > 0 && seeded_below(&seeded, 10) == 0)
            chain_release(w.buffers, &held);
        world_turn(&w, seeded_below(&seeded, 4) == 0 ? MS / 10 : 0);
    }
    chain_release(w.buffers, &held);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(talkers[i].other->got.len, talkers[i].total);
        cr_assert_eq(memcmp(talkers[i].other->got.data, text.data, talkers[i].total), 0, "seed %lu",
                     (unsigned long)seed);
        cr_assert_not(talkers[i].end->link.failed);
    }
    world_close(&w);
}

Test(link_tls, random_talk_both_ways)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        talk(true, seed);
        talk(false, seed);
    }
}
