/* What comes from a next hop is read, made harmless and written again; each table row is one
 * trap. */
#include <criterion/criterion.h>

#include "core/reply.h"
#include "core/utf8.h"
#include "tests/unit/guard.h"
#include "tests/unit/reply_round_trip.h"

#define X8 "xxxxxxxx"
#define X64 X8 X8 X8 X8 X8 X8 X8 X8
#define X480 X64 X64 X64 X64 X64 X64 X64 X8 X8 X8 X8

static struct guard guard_at_end, guard_at_start;

/* --- enhanced codes --- */

static const struct enhanced_row {
    const char *name;
    struct span input;
    size_t want_len;
    struct enhanced_code want;
} enhanced_rows[] = {
    { "plain", SPAN("4.7.0"), 5, { 4, 7, 0 } },
    { "class 2", SPAN("2.1.5 ok"), 5, { 2, 1, 5 } },
    { "class 5, longest", SPAN("5.999.999"), 9, { 5, 999, 999 } },
    { "text at once", SPAN("5.1.1x"), 5, { 5, 1, 1 } },
    { "a fourth part is left", SPAN("5.1.1.9"), 5, { 5, 1, 1 } },
    { "leading zeros", SPAN("4.007.00"), 8, { 4, 7, 0 } },
    { "empty", SPAN(""), 0, { 0, 0, 0 } },
    { "class 1", SPAN("1.0.0"), 0, { 0, 0, 0 } },
    { "class 3", SPAN("3.0.0"), 0, { 0, 0, 0 } },
    { "class of two digits", SPAN("44.7.0"), 0, { 0, 0, 0 } },
    { "subject of four digits", SPAN("4.1000.0"), 0, { 0, 0, 0 } },
    { "detail of four digits", SPAN("4.1.0000"), 0, { 0, 0, 0 } },
    { "no subject", SPAN("4..0"), 0, { 0, 0, 0 } },
    { "no detail", SPAN("4.7."), 0, { 0, 0, 0 } },
    { "no second dot", SPAN("4.7"), 0, { 0, 0, 0 } },
    { "letters", SPAN("4.a.0"), 0, { 0, 0, 0 } },
    { "space first", SPAN(" 4.7.0"), 0, { 0, 0, 0 } },
};

static bool
enhanced_equal(struct enhanced_code a, struct enhanced_code b)
{
    return a.class == b.class && a.subject == b.subject && a.detail == b.detail;
}

Test(reply, enhanced_code_table)
{
    for (size_t i = 0; i < sizeof(enhanced_rows) / sizeof(enhanced_rows[0]); i++) {
        const struct enhanced_row *row = &enhanced_rows[i];
        struct enhanced_code code = { 9, 9, 9 };
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);

        cr_assert_eq(enhanced_code_parse(in, &code), row->want_len, "%s", row->name);
        cr_assert(enhanced_equal(code, row->want), "%s: %u.%u.%u", row->name, code.class,
                  code.subject, code.detail);
    }
}

/* --- lines --- */

static const struct line_row {
    const char *name;
    struct span input;
    bool want;
    unsigned code;
    bool last;
    struct enhanced_code enhanced;
    const char *text;
} line_rows[] = {
    { "plain", SPAN("250 ok"), true, 250, true, { 0, 0, 0 }, "ok" },
    { "not the last", SPAN("250-ok"), true, 250, false, { 0, 0, 0 }, "ok" },
    { "code alone", SPAN("250"), true, 250, true, { 0, 0, 0 }, "" },
    { "no text after the space", SPAN("250 "), true, 250, true, { 0, 0, 0 }, "" },
    { "no text after the hyphen", SPAN("250-"), true, 250, false, { 0, 0, 0 }, "" },
    { "lowest code", SPAN("200 x"), true, 200, true, { 0, 0, 0 }, "x" },
    { "highest code", SPAN("599 x"), true, 599, true, { 0, 0, 0 }, "x" },
    { "a second space is text", SPAN("250  ok"), true, 250, true, { 0, 0, 0 }, " ok" },
    { "tab in the text", SPAN("250 a\tb"), true, 250, true, { 0, 0, 0 }, "a\tb" },
    { "octets above 127", SPAN("250 \xC3\xA9\xFF"), true, 250, true, { 0, 0, 0 }, "\xC3\xA9\xFF" },
    { "enhanced", SPAN("250 2.1.5 ok"), true, 250, true, { 2, 1, 5 }, "ok" },
    { "enhanced, more to come", SPAN("550-5.7.1 no"), true, 550, false, { 5, 7, 1 }, "no" },
    { "enhanced alone", SPAN("451 4.3.0"), true, 451, true, { 4, 3, 0 }, "" },
    { "enhanced and a space", SPAN("451 4.3.0 "), true, 451, true, { 4, 3, 0 }, "" },
    { "enhanced and a tab", SPAN("451 4.3.0\tx"), true, 451, true, { 4, 3, 0 }, "x" },
    { "enhanced and two spaces", SPAN("451 4.3.0  x"), true, 451, true, { 4, 3, 0 }, " x" },
    { "class 5 in a 4xx", SPAN("451 5.3.0 x"), true, 451, true, { 0, 0, 0 }, "5.3.0 x" },
    { "class 4 in a 5xx", SPAN("550 4.7.1 x"), true, 550, true, { 0, 0, 0 }, "4.7.1 x" },
    { "class 2 in a 3xx", SPAN("354 2.0.0 go"), true, 354, true, { 0, 0, 0 }, "2.0.0 go" },
    { "class 3 in a 3xx", SPAN("354 3.0.0 go"), true, 354, true, { 0, 0, 0 }, "3.0.0 go" },
    { "colon after it", SPAN("550 5.1.1: x"), true, 550, true, { 0, 0, 0 }, "5.1.1: x" },
    { "an IPv4 address", SPAN("250 2.1.1.1 x"), true, 250, true, { 0, 0, 0 }, "2.1.1.1 x" },
    { "enhanced after a space", SPAN("250  2.0.0 x"), true, 250, true, { 0, 0, 0 }, " 2.0.0 x" },
    { "empty", SPAN(""), false, 0, false, { 0, 0, 0 }, NULL },
    { "two digits", SPAN("25"), false, 0, false, { 0, 0, 0 }, NULL },
    { "two digits and a space", SPAN("25 ok"), false, 0, false, { 0, 0, 0 }, NULL },
    { "four digits", SPAN("2500 ok"), false, 0, false, { 0, 0, 0 }, NULL },
    { "1xx", SPAN("199 x"), false, 0, false, { 0, 0, 0 }, NULL },
    { "6xx", SPAN("600 x"), false, 0, false, { 0, 0, 0 }, NULL },
    { "letters", SPAN("2x0 x"), false, 0, false, { 0, 0, 0 }, NULL },
    { "tab after the code", SPAN("250\tok"), false, 0, false, { 0, 0, 0 }, NULL },
    { "space before the code", SPAN(" 250 ok"), false, 0, false, { 0, 0, 0 }, NULL },
    { "CR in the text", SPAN("250 a\rb"), false, 0, false, { 0, 0, 0 }, NULL },
    { "LF in the text", SPAN("250 a\nb"), false, 0, false, { 0, 0, 0 }, NULL },
    { "NUL in the text", SPAN("250 a\0b"), false, 0, false, { 0, 0, 0 }, NULL },
    { "NUL for the space", SPAN("250\0"), false, 0, false, { 0, 0, 0 }, NULL },
    { "escape in the text", SPAN("250 \x1B[31m"), false, 0, false, { 0, 0, 0 }, NULL },
    { "DEL in the text", SPAN("250 \x7F"), false, 0, false, { 0, 0, 0 }, NULL },
};

Test(reply, line_table)
{
    for (size_t i = 0; i < sizeof(line_rows) / sizeof(line_rows[0]); i++) {
        const struct line_row *row = &line_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        struct reply_line line;

        cr_assert_eq(reply_line_parse(in, &line), row->want, "%s", row->name);
        if (!row->want) {
            cr_assert_eq(line.code, 0, "%s: code %u", row->name, line.code);
            continue;
        }
        cr_assert_eq(line.code, row->code, "%s: code %u", row->name, line.code);
        cr_assert_eq(line.last, row->last, "%s", row->name);
        cr_assert(enhanced_equal(line.enhanced, row->enhanced), "%s", row->name);
        cr_assert(span_equal(line.text, span_text(row->text)), "%s: '%.*s'", row->name,
                  (int)line.text.len, line.text.data);
        cr_assert(line.text.data >= in.data && line.text.data + line.text.len == in.data + in.len,
                  "%s: the text is the end of the line", row->name);
    }
}

/* Shorter than "250" is no reply; from there on each truncation is one, with what is left of the
 * text. */
Test(reply, line_truncated)
{
    for (size_t i = 0; i < sizeof(line_rows) / sizeof(line_rows[0]); i++) {
        const struct line_row *row = &line_rows[i];
        if (!row->want)
            continue;
        for (size_t len = 0; len < row->input.len; len++) {
            struct reply_line line, again;
            struct span in = guard_end(&guard_at_end, row->input.data, len);
            bool good = reply_line_parse(in, &line);
            cr_assert_eq(good, len >= 3, "%s: %zu octets", row->name, len);
            in = guard_start(&guard_at_start, row->input.data, len);
            cr_assert_eq(reply_line_parse(in, &again), good, "%s: %zu", row->name, len);
            cr_assert_eq(line.code, again.code, "%s: %zu octets", row->name, len);
            cr_assert(span_equal(line.text, again.text), "%s: %zu octets", row->name, len);
        }
    }
}

/* --- replies --- */

static const struct keep_row {
    const char *name;
    const char *lines[4];
    unsigned code;
    struct enhanced_code enhanced;
    struct span text;
} keep_rows[] = {
    { "one line", { "250 2.0.0 ok" }, 250, { 2, 0, 0 }, SPAN("ok") },
    { "code alone", { "250" }, 250, { 0, 0, 0 }, SPAN("") },
    { "three lines",
      { "550-5.7.1 a", "550-5.7.1 b", "550 5.7.1 c" },
      550,
      { 5, 7, 1 },
      SPAN("a\nb\nc") },
    { "empty lines stay", { "250-", "250-", "250 x" }, 250, { 0, 0, 0 }, SPAN("\n\nx") },
    { "an empty last line", { "250-x", "250" }, 250, { 0, 0, 0 }, SPAN("x\n") },
    { "the first line's code counts",
      { "550-5.7.1 a", "550 5.1.1 b" },
      550,
      { 5, 7, 1 },
      SPAN("a\nb") },
    { "a code on a later line only", { "550-a", "550 5.1.1 b" }, 550, { 5, 1, 1 }, SPAN("a\nb") },
    { "another class later",
      { "550-5.7.1 a", "550 4.7.1 b" },
      550,
      { 5, 7, 1 },
      SPAN("a\n4.7.1 b") },
    { "tab becomes a space", { "250 a\tb" }, 250, { 0, 0, 0 }, SPAN("a b") },
    { "UTF-8 stays",
      { "250 \xC3\xA9t\xC3\xA9 \xF0\x9F\x93\xA8" },
      250,
      { 0, 0, 0 },
      SPAN("\xC3\xA9t\xC3\xA9 \xF0\x9F\x93\xA8") },
    { "Latin-1 does not", { "250 \xE9t\xE9" }, 250, { 0, 0, 0 }, SPAN("?t?") },
    { "cut UTF-8 does not", { "250 \xF0\x9F\x93" }, 250, { 0, 0, 0 }, SPAN("???") },
    { "a control above 127",
      { "250 a\xC2\x85"
        "b" },
      250,
      { 0, 0, 0 },
      SPAN("a??b") },
    { "a coded LF, overlong",
      { "250 a\xC0\x8A"
        "b" },
      250,
      { 0, 0, 0 },
      SPAN("a??b") },
    { "3xx", { "354 2.0.0 go" }, 354, { 0, 0, 0 }, SPAN("2.0.0 go") },
};

Test(reply, keep_table)
{
    for (size_t i = 0; i < sizeof(keep_rows) / sizeof(keep_rows[0]); i++) {
        const struct keep_row *row = &keep_rows[i];
        struct reply reply;

        memset(&reply, 0x55, sizeof(reply));
        reply_clear(&reply);
        cr_assert_eq(reply.code, 0);
        for (size_t l = 0; l < 4 && row->lines[l] != NULL; l++) {
            struct reply_line line;
            struct span in = guard_end(&guard_at_end, row->lines[l], strlen(row->lines[l]));
            cr_assert(reply_line_parse(in, &line), "%s", row->name);
            cr_assert(reply_add_line(&reply, &line), "%s", row->name);
        }
        cr_assert_eq(reply.code, row->code, "%s: %u", row->name, reply.code);
        cr_assert_eq(reply_class(&reply), row->code / 100, "%s", row->name);
        cr_assert(enhanced_equal(reply.enhanced, row->enhanced), "%s", row->name);
        cr_assert(span_equal(span_of(reply.text, reply.text_len), row->text), "%s: '%.*s'",
                  row->name, (int)reply.text_len, reply.text);
        reply_round_trip(&reply, true);
        reply_round_trip(&reply, false);
    }
}

Test(reply, another_code_is_refused)
{
    struct reply reply, before;
    struct reply_line line;

    reply_clear(&reply);
    cr_assert(reply_line_parse(SPAN("550-5.1.1 a"), &line));
    cr_assert(reply_add_line(&reply, &line));
    before = reply;
    cr_assert(reply_line_parse(SPAN("551 5.1.6 b"), &line));
    cr_assert_not(reply_add_line(&reply, &line));
    cr_assert_eq(reply.code, before.code);
    cr_assert_eq(reply.text_len, before.text_len);
    cr_assert_eq(memcmp(reply.text, before.text, before.text_len), 0);
}

/* The limit can fall anywhere in a character of any length; the text must be whole characters,
 * full, and marked as cut; and a full text takes nothing more. */
Test(reply, cut_at_the_limit)
{
    static const struct span fills[] = {
        SPAN("a"),
        SPAN("\xC3\xA9"),
        SPAN("\xE2\x82\xAC"),
        SPAN("\xF0\x9F\x93\xA8"),
    };

    for (size_t f = 0; f < sizeof(fills) / sizeof(fills[0]); f++)
        for (size_t shift = 0; shift < 8; shift++) {
            char bytes[REPLY_TEXT_BYTES_MAX + 64];
            struct outbuf text = { .data = bytes, .size = sizeof(bytes) };
            struct reply reply;
            struct reply_line line;

            outbuf_add(&text, span_first(SPAN(X8), shift));
            while (text.len <= REPLY_TEXT_BYTES_MAX)
                outbuf_add(&text, fills[f]);
            reply_set(&reply, 550, "5.0.0", outbuf_span(&text));
            cr_assert_eq(reply.text_len, REPLY_TEXT_BYTES_MAX, "fill %zu shift %zu", f, shift);
            cr_assert(utf8_printable(span_of(reply.text, reply.text_len)), "%zu/%zu", f, shift);
            cr_assert_eq(memcmp(reply.text + REPLY_TEXT_BYTES_MAX - 3, "...", 3), 0);
            reply_round_trip(&reply, true);

            cr_assert(reply_line_parse(SPAN("550 5.1.1 more"), &line));
            cr_assert(reply_add_line(&reply, &line));
            cr_assert_eq(reply.text_len, REPLY_TEXT_BYTES_MAX);
        }
}

Test(reply, as_long_as_the_limit_is_not_cut)
{
    char bytes[REPLY_TEXT_BYTES_MAX];
    struct reply reply;

    memset(bytes, 'y', sizeof(bytes));
    reply_set(&reply, 250, NULL, span_of(bytes, sizeof(bytes)));
    cr_assert_eq(reply.text_len, REPLY_TEXT_BYTES_MAX);
    cr_assert_eq(memcmp(reply.text, bytes, sizeof(bytes)), 0);
    reply_round_trip(&reply, true);
}

Test(reply, make_ascii)
{
    struct reply reply;

    reply_set(&reply, 250, "2.0.0", SPAN("\xC3\xA9t\xC3\xA9\n\xE2\x82\xAC \xF0\x9F\x93\xA8."));
    reply_make_ascii(&reply);
    cr_assert(span_equal(span_of(reply.text, reply.text_len), SPAN("?t?\n? ?.")));
    reply_round_trip(&reply, true);
}

/* --- writing --- */

static const struct write_row {
    const char *name;
    unsigned code;
    const char *enhanced;
    struct span text;
    bool with_enhanced;
    const char *want;
} write_rows[] = {
    { "plain", 250, "2.1.0", SPAN("ok"), true, "250 2.1.0 ok\r\n" },
    { "not wanted", 250, "2.1.0", SPAN("ok"), false, "250 ok\r\n" },
    { "none given", 451, NULL, SPAN("later"), true, "451 4.0.0 later\r\n" },
    { "none given, not wanted", 451, NULL, SPAN("later"), false, "451 later\r\n" },
    { "none with 3xx", 354, NULL, SPAN("go"), true, "354 go\r\n" },
    { "empty", 250, NULL, SPAN(""), false, "250 \r\n" },
    { "empty, enhanced", 250, "2.0.0", SPAN(""), true, "250 2.0.0 \r\n" },
    { "three lines", 550, "5.7.1", SPAN("a\nb\nc"), true,
      "550-5.7.1 a\r\n550-5.7.1 b\r\n550 5.7.1 c\r\n" },
    { "an empty line", 250, NULL, SPAN("a\n\nb"), false, "250-a\r\n250-\r\n250 b\r\n" },
    { "long numbers", 599, "5.999.999", SPAN("x"), true, "599 5.999.999 x\r\n" },
    { "CR and NUL", 250, NULL, SPAN("a\rb\0c"), false, "250 a?b?c\r\n" },
    { "CRLF", 250, NULL, SPAN("a\r\n354 go"), false, "250-a?\r\n250 354 go\r\n" },
    { "folded at the last word", 250, "2.0.0", SPAN(X480 " wwwwwww zzzzzzzzzzzzz"), true,
      "250-2.0.0 " X480 " wwwwwww\r\n250 2.0.0 zzzzzzzzzzzzz\r\n" },
    { "folded without a word", 250, "2.0.0", SPAN(X480 X64), true,
      "250-2.0.0 " X480 X8 X8 "\r\n250 2.0.0 " X8 X8 X8 X8 X8 X8 "\r\n" },
    { "a space where the fold is", 250, "2.0.0", SPAN(X480 X8 X8 " end"), true,
      "250-2.0.0 " X480 X8 X8 "\r\n250 2.0.0 end\r\n" },
    { "nothing but a space after the fold", 250, "2.0.0", SPAN(X480 X8 X8 " "), true,
      "250 2.0.0 " X480 X8 X8 "\r\n" },
};

Test(reply, write_table)
{
    for (size_t i = 0; i < sizeof(write_rows) / sizeof(write_rows[0]); i++) {
        const struct write_row *row = &write_rows[i];
        char bytes[RECEIVER_REPLY_ROOM];
        struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
        struct reply reply;

        reply_set(&reply, row->code, row->enhanced, row->text);
        reply_write(&reply, row->with_enhanced, &out);
        cr_assert(span_equal(outbuf_span(&out), span_text(row->want)), "%s: '%.*s'", row->name,
                  (int)out.len, out.data);
        reply_round_trip(&reply, row->with_enhanced);
    }
}

/* 1024 line ends would be 14 KiB of prefixes. */
Test(reply, never_more_than_the_room)
{
    char text[REPLY_TEXT_BYTES_MAX];
    struct reply reply;

    for (size_t step = 1; step < 600; step += step < 20 ? 1 : 37) {
        memset(text, 'x', sizeof(text));
        for (size_t i = step; i < sizeof(text); i += step + 1)
            text[i] = '\n';
        reply_set(&reply, 550, "5.999.999", span_of(text, sizeof(text)));
        reply_round_trip(&reply, true);
        reply_round_trip(&reply, false);
    }
    memset(text, '\n', sizeof(text));
    reply_set(&reply, 550, "5.999.999", span_of(text, sizeof(text)));
    reply_round_trip(&reply, true);
}

/* --- property: any reply, from seeds that repeat --- */

static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void
random_text(uint64_t *state, struct outbuf *text)
{
    static const struct span pieces[] = {
        SPAN("a"),
        SPAN("word "),
        SPAN(" "),
        SPAN("\n"),
        SPAN("2.0.0 "),
        SPAN("\t"),
        SPAN("5.1.1 no "),
        SPAN("250-"),
        SPAN("\xC3\xA9"),
        SPAN("\xE2\x82\xAC"),
        SPAN("\r\n"),
        SPAN("\xFF"),
        SPAN("\xC2\x85"),
        SPAN("\0"),
        SPAN("\xF0\x9F\x93\xA8"),
        SPAN(X64),
    };
    size_t count = random_next(state) % 120;
    size_t kinds = 1 + random_next(state) % (sizeof(pieces) / sizeof(pieces[0]));

    while (count-- > 0)
        (void)outbuf_add_some(text, pieces[random_next(state) % kinds]);
}

Test(reply, round_trip_property)
{
    static const unsigned codes[] = { 200, 220, 250, 252, 334, 354, 421, 451, 550, 554, 599 };
    static const char *const details[] = { ".0.0", ".1.10", ".7.999", ".999.999" };

    for (uint64_t seed = 1; seed <= 4000; seed++) {
        uint64_t state = seed * 0x9E3779B97F4A7C15u;
        char bytes[1400], enhanced[16];
        struct outbuf text = { .data = bytes, .size = sizeof(bytes) };
        struct reply reply;
        unsigned code = codes[random_next(&state) % (sizeof(codes) / sizeof(codes[0]))];
        bool given = code / 100 != 3 && random_next(&state) % 2 == 0;

        enhanced[0] = (char)('0' + code / 100);
        strcpy(enhanced + 1, details[random_next(&state) % 4]);
        random_text(&state, &text);
        reply_set(&reply, code, given ? enhanced : NULL, outbuf_span(&text));
        reply_round_trip(&reply, true);
        reply_round_trip(&reply, false);
        reply_make_ascii(&reply);
        reply_round_trip(&reply, true);
    }
}
