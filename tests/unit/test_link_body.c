/* Bodies on their way out: gathered from receive buffers or as TLS records, with and without
 * stuffing, whole or while they still come in; held against a slow and simple way to say the same.
 */
#include <criterion/criterion.h>

#include "core/line.h"
#include "core/limits.h"
#include "tests/unit/link_world.h"
#include "tests/unit/seeded.h"

#define TEXT_BYTES (12 * BUFFER_BYTES)
#define TERMINATOR SPAN(".\r\n")

/* The message as it comes by BDAT: much that is next to a line's start. */
static size_t
text_draw(struct seeded *seeded, char *text, size_t most)
{
    static const char *const parts[] = {
        "\r\n",
        "\r\n.",
        "\r\n..",
        "\r\n.\r\n",
        ".",
        "..",
        "a",
        "\r\n.a",
        "Subject: x\r\n",
        "\r",
        "text without an end and with dots. And more. ",
    };
    size_t len = 0;

    while (len + 200 < most) {
        const char *part = parts[seeded_below(seeded, COUNT_OF(parts))];

        if (seeded_below(seeded, 20) == 0) {
            size_t run = seeded_below(seeded, 150);

            memset(text + len, 'x', run);
            len += run;
            continue;
        }
        memcpy(text + len, part, strlen(part));
        len += strlen(part);
    }
    return len;
}

/* RFC 5321 4.5.2, octet by octet. */
static void
stuff_slowly(struct wire *out, struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == '.' && (i == 0 || text.data[i - 1] == '\n'))
            wire_add(out, SPAN("."));
        wire_add(out, span_of(text.data + i, 1));
    }
}

/* Puts the next octets at the end of the chain: in a buffer of their own, or behind what is there.
 */
static size_t
chain_add(struct world *w, struct chain *chain, struct span text, struct seeded *seeded,
          unsigned scale)
{
    size_t len = 1 + seeded_scale(seeded, scale) % BUFFER_BYTES;
    uint32_t index;

    len = len < text.len ? len : text.len;
    if (seeded_below(seeded, 3) == 0 || w->buffers->free_count < 2 * WORLD_RESERVE) {
        cr_assert(chain_copy(w->buffers, chain, span_first(text, len)));
        return len;
    }
    index = buffer_take(w->buffers, 0);
    cr_assert_neq(index, BUFFER_NONE);
    memcpy(buffer_memory(w->buffers, index) + BUFFER_BYTES - len, text.data, len);
    chain_append(w->buffers, chain, index, BUFFER_BYTES - len, len);
    return len;
}

struct body_row {
    const char *name;
    bool tls, consume;
    enum link_dots dots;
    bool streamed;  /* the body comes in while it goes out */
    bool slow;      /* the peer reads little at a time */
    unsigned scale; /* bits of the size of the parts */
    bool known; /* where the dots are */
};

/* The peer: a raw socket, or a TLS link that reads by itself. */
struct other {
    int socket;
    struct end *end;
    struct wire *got;
};

static void
other_read(const struct body_row *row, struct other *other)
{
    static char room[1 << 16];
    bool ended = false;

    if (other->end != NULL)
        return;
    wire_add(other->got, span_of(room, sockets_read_some(other->socket, room,
                                                         row->slow ? 3000 : sizeof(room), &ended)));
    cr_assert_not(ended);
}

/* What is in the chain: the message as it came. To be sent with fewer dots, it came by DATA. */
static void
came(struct wire *out, const struct body_row *row, struct span text)
{
    if (row->dots != LINK_DOTS_REMOVE) {
        wire_add(out, text);
        return;
    }
    stuff_slowly(out, text);
    wire_add(out, TERMINATOR);
}

/* What is to be read of it. */
static void
goes(struct wire *out, const struct body_row *row, struct span text)
{
    if (row->dots == LINK_DOTS_INSERT)
        stuff_slowly(out, text);
    else
        wire_add(out, text);
}

/* Where the dots are in what came, if they are few enough to be known; else NULL. */
static const struct body_dots *
dots_find(struct span in, struct body_dots *dots)
{
    dots->count = 0;
    for (size_t i = 0; i + TERMINATOR.len < in.len; i++) {
        if (in.data[i] != '.' || (i > 0 && in.data[i - 1] != '\n'))
            continue;
        if (dots->count == BODY_DOTS_MAX)
            return NULL;
        dots->at[dots->count++] = (uint32_t)i;
    }
    return dots;
}

/* No line but the first few begins with a dot. */
static void
dots_thin(char *text, size_t len)
{
    uint32_t count = 0;

    for (size_t i = 0; i < len; i++)
        if (text[i] == '.' && (i == 0 || text[i - 1] == '\n') && ++count > BODY_DOTS_MAX)
            text[i] = '-';
}

/* Sends block, body and a last line as a delivery does. */
static void
body_send(struct world *w, const struct body_row *row, struct end *end, struct other *other,
          struct span text, struct chain *chain, struct seeded *seeded)
{
    struct link_body body = { .chain = chain,
                              .index = BUFFER_NONE,
                              .consume = row->consume,
                              .omit = row->dots == LINK_DOTS_REMOVE ? TERMINATOR.len : 0,
                              .dots = row->dots,
                              .line_start = true };
    struct body_dots dots;
    struct link *link = &end->link;
    size_t added = 0;

    if (row->known)
        body.known = dots_find(text, &dots);
    while (!row->streamed && added < text.len)
        added += chain_add(w, chain, span_after(text, added), seeded, row->scale);
    cr_assert(link_room(link, 100));
    outbuf_add(&link->out, SPAN("BDAT or DATA\r\n"));
    link->body = &body;
    while (added < text.len || link_body_left(&body) > 0 || link->sending) {
        if (added < text.len && w->buffers->free_count > WORLD_RESERVE)
            added += chain_add(w, chain, span_after(text, added), seeded, row->scale);
        link_flush(link);
        world_turn(w, link->sending && row->tls == false ? MS / 20 : 0);
        other_read(row, other);
    }
    cr_assert_eq(body.sent, text.len - body.omit, "%s: %lu sent", row->name,
                 (unsigned long)body.sent);
    cr_assert_eq(body.flight, 0);
    link->body = NULL;
    cr_assert(link_room(link, 10));
    outbuf_add(&link->out, SPAN(".\r\n"));
    link_flush(link);
}

static void
body_check(const struct body_row *row, struct span text, const struct wire *got)
{
    struct wire want = { 0 };
    size_t same = 0;

    wire_add(&want, SPAN("BDAT or DATA\r\n"));
    goes(&want, row, text);
    wire_add(&want, SPAN(".\r\n"));
    while (same < want.len && same < got->len && want.data[same] == got->data[same])
        same++;
    cr_assert_eq(same, want.len, "%s: differs at %zu of %zu", row->name, same, want.len);
    cr_assert_eq(got->len, want.len, "%s: %zu octets too many", row->name, got->len - want.len);
    free(want.data);
}

/* A body that was not consumed is as it was: it may go to the next server. */
static void
chain_check(struct world *w, const struct chain *chain, struct span text)
{
    size_t at = 0;

    for (uint32_t index = chain->first; at < text.len; index = w->buffers->meta[index].next) {
        struct span s = buffer_span(w->buffers, index);

        cr_assert(at + s.len <= text.len && memcmp(s.data, text.data + at, s.len) == 0);
        at += s.len;
    }
    cr_assert_eq(chain->bytes, text.len);
}

static size_t
want_len(const struct body_row *row, struct span text)
{
    struct wire want = { 0 };
    size_t len;

    goes(&want, row, text);
    len = want.len;
    free(want.data);
    return len + strlen("BDAT or DATA\r\n.\r\n");
}

static void
check_body(const struct body_row *row, struct span text, struct seeded *seeded)
{
    struct chain chain = CHAIN_EMPTY;
    struct other other = { 0 };
    struct wire got = { 0 }, in = { 0 };
    struct world w;
    struct end *end;

    came(&in, row, text);
    world_open(&w, BUFFERS_OFFERED + 1200);
    if (row->tls) {
        world_tls(&w, &end, &other.end);
        other.end->reading = true;
        other.got = &other.end->got;
    } else {
        int pair[2];

        sockets_pair(pair);
        end = world_link(&w, pair[0]);
        other.socket = pair[1];
        other.got = &got;
    }
    /* Twice over one connection: the second body starts afresh. */
    for (int round = 0; round < 2; round++) {
        size_t want = want_len(row, text);

        other.got->len = 0;
        body_send(&w, row, end, &other, wire_rest(&in), &chain, seeded);
        for (unsigned turns = 0; other.got->len < want; turns++) {
            cr_assert_lt(turns, WORLD_TURNS_MAX, "%s: %zu of %zu", row->name, other.got->len, want);
            world_turn(&w, MS / 20);
            other_read(row, &other);
        }
        body_check(row, text, other.got);
        if (row->consume)
            cr_assert_eq(chain.count, 0, "%s", row->name);
        else
            chain_check(&w, &chain, wire_rest(&in));
        chain_release(w.buffers, &chain);
    }
    cr_assert_not(end->link.failed);
    WORLD_UNTIL(&w, link_drained(&end->link));
    free(got.data);
    free(in.data);
    if (other.end == NULL)
        close(other.socket);
    world_close(&w);
}

Test(link_body, goes_out_as_it_came)
{
    static const struct body_row rows[] = {
        { "whole", false, false, LINK_DOTS_KEEP, false, false, 14, false },
        { "whole, small parts", false, false, LINK_DOTS_KEEP, false, false, 8, false },
        { "whole, slow peer", false, false, LINK_DOTS_KEEP, false, true, 14, false },
        { "whole, stuffed", false, false, LINK_DOTS_INSERT, false, false, 14, false },
        { "whole, stuffed, small parts", false, false, LINK_DOTS_INSERT, false, false, 6, false },
        { "consumed", false, true, LINK_DOTS_KEEP, false, false, 14, false },
        { "consumed, stuffed", false, true, LINK_DOTS_INSERT, false, false, 10, false },
        { "streamed", false, true, LINK_DOTS_KEEP, true, false, 14, false },
        { "streamed, kept", false, false, LINK_DOTS_KEEP, true, false, 12, false },
        { "streamed, stuffed", false, true, LINK_DOTS_INSERT, true, false, 10, false },
        { "streamed, stuffed, slow peer", false, true, LINK_DOTS_INSERT, true, true, 14, false },
        { "TLS", true, false, LINK_DOTS_KEEP, false, false, 14, false },
        { "TLS, small parts", true, false, LINK_DOTS_KEEP, false, false, 8, false },
        { "TLS, stuffed", true, false, LINK_DOTS_INSERT, false, false, 14, false },
        { "TLS, consumed, stuffed", true, true, LINK_DOTS_INSERT, false, false, 9, false },
        { "dots removed", false, false, LINK_DOTS_REMOVE, false, false, 14, false },
        { "dots removed, small parts", false, false, LINK_DOTS_REMOVE, false, false, 6, false },
        { "dots removed, slow peer", false, false, LINK_DOTS_REMOVE, false, true, 12, false },
        { "known dots", false, false, LINK_DOTS_REMOVE, false, false, 14, true },
        { "known dots, small parts", false, false, LINK_DOTS_REMOVE, false, false, 6, true },
        { "known dots, slow peer", false, false, LINK_DOTS_REMOVE, false, true, 12, true },
        { "TLS, known dots", true, false, LINK_DOTS_REMOVE, false, false, 14, true },
        { "TLS, dots removed", true, false, LINK_DOTS_REMOVE, false, false, 14, false },
        { "TLS, dots removed, small parts", true, false, LINK_DOTS_REMOVE, false, false, 6, false },
        { "TLS, streamed", true, true, LINK_DOTS_KEEP, true, false, 14, false },
        { "TLS, streamed, stuffed", true, true, LINK_DOTS_INSERT, true, false, 10, false },
        { "TLS, streamed, kept, stuffed", true, false, LINK_DOTS_INSERT, true, false, 12, false },
    };
    static char text[TEXT_BYTES];

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (unsigned seed = 0; seed < 3; seed++) {
            struct seeded seeded = { 100 * i + seed };
            /* Parts of an octet or two: few of them, or they would need too many buffers. */
            size_t most = rows[i].scale < 12 ? TEXT_BYTES / 6 : TEXT_BYTES;
            size_t len = text_draw(&seeded, text, most);

            if (rows[i].known)
                dots_thin(text, len);
            check_body(&rows[i], span_of(text, len), &seeded);
        }
}

/* A chain in three parts, sent and compared. Each part goes out before the next one comes
 * (`apart`), or all at once. */
static void
check_cuts(struct world *w, struct end *end, int peer, enum link_dots dots, struct span in,
           const size_t cuts[4], bool apart, bool known, struct span want)
{
    struct chain chain = CHAIN_EMPTY;
    struct body_dots places;
    struct link_body body = { .chain = &chain,
                              .index = BUFFER_NONE,
                              .omit = dots == LINK_DOTS_REMOVE ? TERMINATOR.len : 0,
                              .dots = dots,
                              .line_start = true };
    struct wire got = { 0 };
    char room[64];
    bool ended = false;

    if (known)
        body.known = dots_find(in, &places);
    for (size_t n = 0; n < 3; n++) {
        uint32_t index;

        if (cuts[n] == cuts[n + 1])
            continue;
        index = buffer_take(w->buffers, 0);
        memcpy(buffer_memory(w->buffers, index), in.data + cuts[n], cuts[n + 1] - cuts[n]);
        chain_append(w->buffers, &chain, index, 0, cuts[n + 1] - cuts[n]);
        if (!apart)
            continue;
        end->link.body = &body;
        link_flush(&end->link);
        WORLD_UNTIL(w, link_drained(&end->link));
    }
    end->link.body = &body;
    link_flush(&end->link);
    WORLD_UNTIL(w, link_drained(&end->link));
    end->link.body = NULL;
    for (unsigned turns = 0; got.len < want.len && turns < 1000; turns++)
        wire_add(&got, span_of(room, sockets_read_some(peer, room, sizeof(room), &ended)));
    cr_assert(span_equal(wire_rest(&got), want), "%.*s cut at %zu and %zu: %.*s", (int)in.len,
              in.data, cuts[1], cuts[2], (int)got.len, got.data);
    free(got.data);
    chain_release(w->buffers, &chain);
}

/* Every split of a small body in two and three buffers, dots inserted and removed: where a dot
 * stands alone, at an end or at a start. */
Test(link_body, dots_over_every_split)
{
    static const char *const texts[] = { ".",
                                         "..",
                                         ".\r\n",
                                         "\r\n.",
                                         "\r\n.\r\n",
                                         "a\r\n..b\r\n.",
                                         "\r\n.\r\n.\r\n..",
                                         "...\r\n...\r\n" };
    static const struct body_row forms[] = { { .dots = LINK_DOTS_INSERT },
                                             { .dots = LINK_DOTS_REMOVE },
                                             { .dots = LINK_DOTS_REMOVE, .known = true } };
    struct world w;
    struct end *end;
    int pair[2];

    world_open(&w, 40);
    sockets_pair(pair);
    end = world_link(&w, pair[0]);
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (size_t form = 0; form < COUNT_OF(forms); form++) {
            struct wire in = { 0 }, want = { 0 };

            came(&in, &forms[form], span_text(texts[i]));
            goes(&want, &forms[form], span_text(texts[i]));
            for (size_t a = 0; a <= in.len; a++)
                for (size_t b = a; b <= in.len; b++)
                    check_cuts(&w, end, pair[1], forms[form].dots, wire_rest(&in),
                               (size_t[]){ 0, a, b, in.len },
                               b % 2 == 0 && forms[form].dots == LINK_DOTS_INSERT,
                               forms[form].known, wire_rest(&want));
            free(in.data);
            free(want.data);
        }
    close(pair[1]);
    world_close(&w);
}
