/* The third part of reports: what of an original is returned and how, in whichever form it is
 * stored; boundaries; and what happens when buffers run out. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "tests/unit/bounce_world.h"
#include "tests/unit/seeded.h"

static struct reply refusal;
static const struct bounce_recipient recipients[BOUNCE_ACTIONS] = {
    { .mailbox = SPAN("b@example.net"), .action = BOUNCE_FAILED, .reply = &refusal },
    { .mailbox = SPAN("b@example.net"), .action = BOUNCE_DELAYED, .reply = &refusal },
    { .mailbox = SPAN("b@example.net"), .action = BOUNCE_DELIVERED, .reply = &refusal },
    { .mailbox = SPAN("b@example.net"), .action = BOUNCE_RELAYED, .reply = &refusal },
};

static void
setup(void)
{
    reply_set(&refusal, 550, NULL, SPAN("no"));
}

TestSuite(bounce, .init = setup);

/* --- what is returned --- */

enum third { NOTHING, HEADER, ALL };

Test(bounce, what_is_asked_for)
{
    static const enum third wants[BOUNCE_ACTIONS][3] = {
        /* RFC 3461 4.3 */
        [BOUNCE_FAILED] = { [DSN_RETURN_NONE] = HEADER,
                            [DSN_RETURN_FULL] = ALL,
                            [DSN_RETURN_HEADERS] = HEADER },
        [BOUNCE_DELAYED] = { HEADER, HEADER, HEADER },
        [BOUNCE_DELIVERED] = { HEADER, HEADER, HEADER },
        [BOUNCE_RELAYED] = { HEADER, HEADER, HEADER },
    };
    struct bounce_world world;

    bounce_world_open(&world);
    for (unsigned action = 0; action < BOUNCE_ACTIONS; action++)
        for (unsigned ret = 0; ret < 3; ret++)
            for (unsigned complete = 0; complete < 2; complete++) {
                struct bounce bounce = sample_bounce(&recipients[action], 1);
                enum third want = complete ? wants[action][ret] : HEADER;
                char name[64];

                snprintf(name, sizeof(name), "action %u ret %u complete %u", action, ret, complete);
                bounce.dsn_return = ret;
                world_write(&world, &bounce, SPAN("A: b\r\n\r\ntext\r\n.\r\n"), 0, complete, false,
                            name);
                cr_assert_eq(world.parts_count, 3, "%s", name);
                cr_assert_eq(span_has(world.parts[2], "Content-Type: message/rfc822\r\n"),
                             want == ALL, "%s", name);
                cr_assert(span_equal(world_body(&world, 2),
                                     want == ALL ? SPAN("A: b\r\n\r\ntext\r\n") : SPAN("A: b\r\n")),
                          "%s", name);
            }
    bounce_world_close(&world);
}

#define E8 "\xe9"

static const struct {
    const char *name;
    struct span in;
    bool chunked, complete, smtputf8;
    const char *type; /* NULL: no third part */
    struct span want; /* decoded */
    const char *encoding;
} forms[] = {
    { "wire", SPAN("A: b\r\n\r\n..dot\r\n...\r\nx.\r\n.\r\n"), false, true, false, "message/rfc822",
      SPAN("A: b\r\n\r\n.dot\r\n..\r\nx.\r\n"), "" },
    { "raw", SPAN("A: b\r\n\r\n.dot\r\n..\r\n.\r\nx\r\n"), true, true, false, "message/rfc822",
      SPAN("A: b\r\n\r\n.dot\r\n..\r\n.\r\nx\r\n"), "" },
    { "raw, dot first", SPAN(".A: b\r\n\r\nx\r\n"), true, true, false, "message/rfc822",
      SPAN(".A: b\r\n\r\nx\r\n"), "" },
    { "wire, dot first", SPAN("..A: b\r\n\r\nx\r\n.\r\n"), false, true, false, "message/rfc822",
      SPAN(".A: b\r\n\r\nx\r\n"), "" },
    { "no last CRLF", SPAN("A: b\r\n\r\ntext"), true, true, false, "message/rfc822",
      SPAN("A: b\r\n\r\ntext"), "" },
    { "no last CRLF, a dot", SPAN("A: b\r\n\r\n."), true, true, false, "message/rfc822",
      SPAN("A: b\r\n\r\n."), "" },
    { "header alone, no CRLF", SPAN("A: b"), true, true, false, "message/rfc822", SPAN("A: b"),
      "" },
    { "header alone", SPAN("A: b\r\n.\r\n"), false, true, false, "message/rfc822", SPAN("A: b\r\n"),
      "" },
    { "empty header", SPAN("\r\nsecret\r\n.\r\n"), false, true, false, "message/rfc822",
      SPAN("\r\nsecret\r\n"), "" },
    { "an empty message", SPAN(".\r\n"), false, true, false, NULL, SPAN(""), "" },
    { "nothing", SPAN(""), true, true, false, NULL, SPAN(""), "" },
    { "not readable", SPAN(""), false, false, false, NULL, SPAN(""), "" },
    { "folded header", SPAN("A: b\r\n c\r\n\td\r\nE: f\r\n\r\nx\r\n"), true, false, false,
      "text/rfc822-headers", SPAN("A: b\r\n c\r\n\td\r\nE: f\r\n"), "" },
    { "cut in the header", SPAN("A: b\r\nC: d"), false, false, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "cut at CR", SPAN("A: b\r\nC: d\r"), false, false, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "cut in the body", SPAN("A: b\r\n\r\nsecret\r\n"), false, false, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "cut before a line", SPAN("A: b"), false, false, false, NULL, SPAN(""), "" },
    { "cut behind a dot", SPAN("A: b\r\n."), false, false, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "cut, no header", SPAN("\r\nsecret\r\n"), true, false, false, NULL, SPAN(""), "" },
    { "cut, junk behind the header", SPAN("A: b\r\nno field here\r\nC: d\r\n\r\n"), true, false,
      false, "text/rfc822-headers", SPAN("A: b\r\n"), "" },
    /* What cannot be sent as it is: the header, encoded where it must be. */
    { "LF in the body", SPAN("A: b\r\n\r\nx\ny\r\n"), true, true, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "LF dot LF in the body", SPAN("A: b\r\n\r\nx\n.\nMAIL\r\n"), true, true, false,
      "text/rfc822-headers", SPAN("A: b\r\n"), "" },
    { "CR at the end", SPAN("A: b\r\n\r\nx\r"), true, true, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "NUL in the body", SPAN("A: b\r\n\r\n\0\r\n"), true, true, false, "text/rfc822-headers",
      SPAN("A: b\r\n"), "" },
    { "LF in the header", SPAN("A: b\nB: c\r\nD: e\r\n\r\n"), true, true, false,
      "text/rfc822-headers", SPAN("A: b\nB: c\r\nD: e\r\n"), "quoted-printable" },
    { "CR in the header", SPAN("A: b\rB: c\r\r\n\r\n"), true, true, false, "text/rfc822-headers",
      SPAN("A: b\rB: c\r\r\n"), "quoted-printable" },
    { "NUL in the header", SPAN("A: \0=20 \r\n\r\n"), true, true, true, "text/rfc822-headers",
      SPAN("A: \0=20 \r\n"), "quoted-printable" },
    /* Octets above 127. */
    { "8 bit body", SPAN("A: b\r\n\r\n" E8 "\r\n"), true, true, false, "message/rfc822",
      SPAN("A: b\r\n\r\n" E8 "\r\n"), "8bit" },
    { "8 bit header, all", SPAN("A: " E8 "\r\n\r\n"), true, true, false, "message/rfc822",
      SPAN("A: " E8 "\r\n\r\n"), "8bit" },
    { "8 bit header, all, SMTPUTF8", SPAN("A: " E8 "\r\n\r\n"), true, true, true, "message/global",
      SPAN("A: " E8 "\r\n\r\n"), "8bit" },
    { "8 bit body, SMTPUTF8", SPAN("A: b\r\n\r\n" E8 "\r\n"), true, true, true, "message/rfc822",
      SPAN("A: b\r\n\r\n" E8 "\r\n"), "8bit" },
    { "8 bit header", SPAN("A: " E8 "\r\n\r\n"), true, false, false, "text/rfc822-headers",
      SPAN("A: " E8 "\r\n"), "quoted-printable" },
    { "8 bit header, SMTPUTF8", SPAN("A: " E8 "\r\n\r\n"), true, false, true,
      "message/global-headers", SPAN("A: " E8 "\r\n"), "8bit" },
    { "8 bit behind the header", SPAN("A: b\r\n\r\n" E8 "\r\n"), true, false, true,
      "text/rfc822-headers", SPAN("A: b\r\n"), "" },
    { "8 bit in a name", SPAN("A: b\r\n" E8 ": c\r\n\r\n"), true, false, true,
      "text/rfc822-headers", SPAN("A: b\r\n"), "" },
};

Test(bounce, forms_of_originals)
{
    struct bounce_world world;

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(forms); i++)
        for (size_t piece = 0; piece <= 3; piece++) {
            struct bounce bounce = sample_bounce(recipients, 1);
            char text[256], type[64], encoding[64];

            bounce.dsn_return = DSN_RETURN_FULL;
            bounce.smtputf8 = forms[i].smtputf8;
            world_write(&world, &bounce, forms[i].in, piece, forms[i].complete, forms[i].chunked,
                        forms[i].name);
            cr_assert_eq(world.parts_count, forms[i].type == NULL ? 2 : 3, "%s", forms[i].name);
            if (forms[i].type == NULL)
                continue;
            snprintf(type, sizeof(type), "\r\nContent-Type: %s\r\n", forms[i].type);
            cr_assert(span_has(world.parts[2], type), "%s", forms[i].name);
            snprintf(encoding, sizeof(encoding), "Content-Transfer-Encoding: %s",
                     forms[i].encoding);
            cr_assert_eq(span_has(world.parts[2], encoding), forms[i].encoding[0] != '\0', "%s",
                         forms[i].name);
            struct span body = world_body(&world, 2);
            if (forms[i].encoding[0] == 'q')
                body = span_of(text, world_unquote(body, text));
            cr_assert(span_equal(body, forms[i].want), "%s:\n%.*s", forms[i].name, (int)body.len,
                      body.data);
        }
    bounce_world_close(&world);
}

/* --- sizes --- */

/* A header of `header` octets in lines of `line`, an empty line, a body up to `bytes` in all. */
static char *
large_original(size_t header, size_t line, size_t bytes)
{
    char *text = malloc(bytes + 1);

    cr_assert_not_null(text);
    for (size_t i = 0; i < bytes; i++) {
        size_t column = i < header ? i % line : (i - header - 2) % 80;
        size_t end = i < header ? line : 80;

        text[i] = column == end - 2 ? '\r' : column == end - 1 ? '\n' : column == 1 ? ':' : 'x';
        if (i >= header && i < header + 2)
            text[i] = i == header ? '\r' : '\n';
    }
    text[bytes] = '\0';
    return text;
}

Test(bounce, sizes_of_originals)
{
    enum { FULL = BOUNCE_FULL_BYTES_MAX, CUT = BOUNCE_HEADER_BYTES_MAX, HUGE = 100 * 1024 };
    static const struct {
        const char *name;
        size_t header, line, bytes;
        enum third want;
        size_t want_bytes; /* decoded */
        bool quoted;
    } rows[] = {
        { "the largest", 800, 80, 802 + 80 * ((FULL - 802) / 80), ALL,
          802 + 80 * ((FULL - 802) / 80), false },
        { "exactly", 800, 80, FULL, ALL, FULL, false },
        { "one more", 800, 80, FULL + 1, HEADER, 800, false },
        { "large", 800, 80, HUGE, HEADER, 800, false },
        { "a large header", 100 * 1000, 100, 100 * 1000 + 2, HEADER, CUT + 100 - CUT % 100, false },
        { "a header that ends at the limit", CUT, 64, HUGE, HEADER, CUT, false },
        { "header cut, all returned", 60 * 1000, 100, 60 * 1000 + 202, ALL, 60 * 1000 + 202,
          false },
        { "longest lines", 100 * 1000, 1000, 100 * 1000 + 2, HEADER, 33 * 1000, false },
        { "lines too long", 1001 * 60, 1001, 1001 * 60 + 2, HEADER, 1001 * 33, true },
        { "one line", HUGE, HUGE, HUGE + 2, HEADER, CUT + 998, true },
        { "a line too long in the body", 800, 80, 60 * 1000, ALL, 60 * 1000, false },
    };
    struct bounce_world world;

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t piece = 0; piece <= 700; piece += 700) {
            struct bounce bounce = sample_bounce(recipients, 1);
            char *text = large_original(rows[i].header, rows[i].line, rows[i].bytes);
            bool spoil = strstr(rows[i].name, "in the body") != NULL;
            size_t want_bytes = spoil ? rows[i].header : rows[i].want_bytes;

            if (spoil)
                memset(text + 2000, 'y', 1200);
            bounce.dsn_return = DSN_RETURN_FULL;
            world_write(&world, &bounce, span_of(text, rows[i].bytes), piece, true, true,
                        rows[i].name);
            cr_assert_eq(world.parts_count, 3, "%s", rows[i].name);
            cr_assert_eq(span_has(world.parts[2], "Content-Type: message/rfc822\r\n"),
                         rows[i].want == ALL && !spoil, "%s", rows[i].name);
            cr_assert_eq(span_has(world.parts[2], "quoted-printable"), rows[i].quoted, "%s",
                         rows[i].name);
            struct span body = world_body(&world, 2);
            char *decoded = malloc(body.len + 1);
            cr_assert_not_null(decoded);
            if (rows[i].quoted)
                body = span_of(decoded, world_unquote(body, decoded));
            cr_assert_eq(body.len, want_bytes, "%s: %zu octets", rows[i].name, body.len);
            cr_assert_eq(memcmp(body.data, text, body.len), 0, "%s", rows[i].name);
            free(decoded);
            free(text);
        }
    bounce_world_close(&world);
}

/* --- boundaries --- */

Test(bounce, boundary_is_not_in_the_original)
{
    static const struct {
        const char *name, *body, *want;
    } rows[] = {
        { "none", "--=_4ZyR1C.0000\r\n", "=_4ZyR1B.0000" },
        { "the first", "--=_4ZyR1B.0000\r\n", "=_4ZyR1B.0001" },
        { "inside a line", "x =_4ZyR1B.0000 y\r\n", "=_4ZyR1B.0001" },
        { "some", "=_4ZyR1B.0001\r\n=_4ZyR1B.0000--\r\n=_4ZyR1B.0003\r\n", "=_4ZyR1B.0002" },
        { "begun twice", "=_4Zy=_4ZyR1B.0=_4ZyR1B.0000\r\n", "=_4ZyR1B.0001" },
        { "doubled", "==_4ZyR1B.0000==_4ZyR1B.0001=\r\n", "=_4ZyR1B.0002" },
        { "more digits", "=_4ZyR1B.00007\r\n", "=_4ZyR1B.0001" },
        { "not digits", "=_4ZyR1B.000g =_4ZyR1B.000\r\n0\r\n", "=_4ZyR1B.0000" },
        { "a stuffed line", ".=_4ZyR1B.0000\r\n", "=_4ZyR1B.0001" },
        { "beyond", "=_4ZyR1B.FFFF\r\n", "=_4ZyR1B.0000" },
    };
    struct bounce_world world;

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t piece = 0; piece <= 1; piece++) {
            struct bounce bounce = sample_bounce(recipients, 1);
            char text[256], want[64];

            snprintf(text, sizeof(text), "A: b\r\n\r\n%s.\r\n", rows[i].body);
            snprintf(want, sizeof(want), " boundary=\"%s\"\r\n", rows[i].want);
            bounce.dsn_return = DSN_RETURN_FULL;
            world_write(&world, &bounce, span_text(text), piece, true, false, rows[i].name);
            cr_assert(span_has(world.header, want), "%s", rows[i].name);
            cr_assert_eq(world.parts_count, 3, "%s", rows[i].name);
        }
    bounce_world_close(&world);
}

/* As many as fit, with the shortest id. */
Test(bounce, every_boundary_taken)
{
    struct bounce_world world;
    struct bounce bounce = sample_bounce(recipients, 1);
    size_t len = 0, size = BOUNCE_FULL_BYTES_MAX;
    char *text = malloc(size + 1), want[32];
    unsigned number = 0;

    cr_assert_not_null(text);
    bounce_world_open(&world);
    bounce.id = SPAN("a");
    bounce.dsn_return = DSN_RETURN_FULL;
    len += (size_t)snprintf(text, size, "\r\n");
    for (; len + 10 <= size; number++)
        len += (size_t)snprintf(text + len, size + 1 - len, "%s=_a.%04X",
                                number % 64 == 0 ? "\r\n" : "", number);
    world_write(&world, &bounce, span_of(text, len), 0, true, true, "taken");
    cr_assert_gt(number, 8100);
    snprintf(want, sizeof(want), " boundary=\"=_a.%04X\"\r\n", number);
    cr_assert(span_has(world.header, want), "%s", want);
    cr_assert_eq(world.parts_count, 3);
    cr_assert(span_equal(world_body(&world, 2), span_of(text, len)));
    free(text);
    bounce_world_close(&world);
}

/* --- any octets --- */

/* Whatever the original holds and however it lies in buffers, the report is whole; and where all of
 * it is returned, all of it is there. */
Test(bounce, any_original)
{
    static const char *const words[] = {
        "\r\n",     "\r\n.", ".", "\r",  "\n", "A: b\r\n",       "=", "--", "=_4ZyR1B.0000",
        "\r\n\r\n", E8,      " ", "xyz", ":",  "Received: \r\n", "\t"
    };
    struct seeded seeded = { .state = 3464 };
    struct bounce_world world;
    unsigned returned = 0;

    bounce_world_open(&world);
    for (unsigned round = 0; round < 3000; round++) {
        struct bounce bounce = sample_bounce(recipients, 1);
        char text[512] = "A: b\r\n", name[32];
        size_t len = 6;
        bool chunked = seeded_below(&seeded, 2) == 0, tame = seeded_below(&seeded, 2) == 0;

        while (len < 400 && seeded_below(&seeded, 30) != 0) {
            const char *word = words[seeded_below(&seeded, COUNT_OF(words))];

            if (tame && (strcmp(word, "\r") == 0 || strcmp(word, "\n") == 0))
                continue;
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s", word);
        }
        snprintf(name, sizeof(name), "round %u", round);
        bounce.dsn_return = DSN_RETURN_FULL;
        bounce.smtputf8 = seeded_below(&seeded, 2) == 0;
        world_write(&world, &bounce, span_of(text, len), seeded_below(&seeded, 9),
                    seeded_below(&seeded, 4) != 0, chunked, name);
        cr_assert_eq(world.parts_count, 3, "%s", name);
        if (span_has(world.parts[2], "Content-Description: Message\r\n") && chunked) {
            cr_assert(span_equal(world_body(&world, 2), span_of(text, len)), "%s", name);
            returned++;
        }
    }
    cr_assert_gt(returned, 300);
    bounce_world_close(&world);
}

/* --- buffers --- */

Test(bounce, no_buffer_left)
{
    struct bounce_world world;
    struct bounce bounce = sample_bounce(recipients, 1);
    char *text = large_original(800, 80, 60 * 1000);
    uint32_t wanted = 0, refused = 0;
    bool written = false;

    bounce_world_open(&world);
    bounce.dsn_return = DSN_RETURN_FULL;
    for (uint32_t left = 0; !written; left++) {
        struct chain stored = world_store(&world, span_of(text, 60 * 1000), 0);
        struct chain out = world_store(&world, SPAN("before"), 0), hidden = CHAIN_EMPTY;
        uint32_t free_count = left;

        while (world.buffers.free_count > left)
            chain_append(&world.buffers, &hidden, buffer_take(&world.buffers, 0), 0, 0);
        world.eight_bit = true;
        world.size = 1;
        written = bounce_write(&bounce, &world.buffers, &stored, true, true, &out, &world.eight_bit,
                               &world.size);
        if (!written) {
            refused++;
            cr_assert_eq(world.buffers.free_count, free_count, "%u left: not all back", left);
            cr_assert(world.eight_bit && world.size == 1, "%u left: results", left);
            cr_assert(out.count == 1 && out.bytes == 6, "%u left: out", left);
            cr_assert(span_equal(buffer_span(&world.buffers, out.first), SPAN("before")));
        } else {
            wanted = left;
            cr_assert_eq(world.buffers.free_count, 0, "as many as it took");
            chain_consume(&world.buffers, &out, 6);
            cr_assert_gt(out.bytes, 60 * 1000);
            cr_assert_not(world.eight_bit);
        }
        cr_assert_eq(stored.bytes, 60 * 1000, "the original is only read");
        chain_release(&world.buffers, &stored);
        chain_release(&world.buffers, &out);
        chain_release(&world.buffers, &hidden);
    }
    cr_assert_eq(refused, wanted);
    cr_assert_gt(wanted, 60 * 1000 / BUFFER_BYTES);
    free(text);
    bounce_world_close(&world);
}

/* What was in `out` stays in front. */
Test(bounce, appends)
{
    struct bounce_world world;
    struct bounce bounce = sample_bounce(recipients, 1);
    struct chain stored, out;

    bounce_world_open(&world);
    stored = world_store(&world, SPAN("A: b\r\n.\r\n"), 0);
    out = world_store(&world, SPAN("before"), 0);
    cr_assert(bounce_write(&bounce, &world.buffers, &stored, true, false, &out, &world.eight_bit,
                           &world.size));
    cr_assert(span_equal(span_first(buffer_span(&world.buffers, out.first), 6), SPAN("before")));
    chain_consume(&world.buffers, &out, 6);
    world_read(&world, &out, "appended");
    cr_assert_eq(world.parts_count, 3);
    chain_release(&world.buffers, &stored);
    bounce_world_close(&world);
}
