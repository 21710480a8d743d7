/* Paths, literals and EHLO names: what a stranger may say, and what not. Parameters:
 * test_parameters.c. */
#include <criterion/criterion.h>

#include <arpa/inet.h>

#include "core/address.h"
#include "tests/unit/guard.h"

#define A16 "aaaaaaaaaaaaaaaa"
#define A63 A16 A16 A16 "aaaaaaaaaaaaaaa"
#define A64 A16 A16 A16 A16
#define E_ACUTE "\xC3\xA9"
#define E_ACUTE_16                                                                          \
    E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE \
        E_ACUTE E_ACUTE E_ACUTE E_ACUTE E_ACUTE
#define DOMAIN_255 A63 "." A63 "." A63 "." A63
#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct guard guard_at_end, guard_at_start;

/* --- paths --- */

enum { NULL_OK = 1, IS_NULL = 2, QUOTED = 4, LITERAL = 8, UTF8 = 16, ROUTE = 32, SPECIAL = 64 };

/* local and domain NULL: the path is refused with want. */
static const struct path_row {
    const char *name;
    struct span input;
    enum address_result want;
    const char *local, *domain;
    int flags;
} path_rows[] = {
    { "plain", SPAN("<user@example.com>"), ADDRESS_OK, "user", "example.com", 0 },
    { "shortest", SPAN("<a@b>"), ADDRESS_OK, "a", "b", 0 },
    { "null", SPAN("<>"), ADDRESS_OK, "", "", NULL_OK | IS_NULL },
    { "null for RCPT", SPAN("<>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "case is kept", SPAN("<UseR@ExAmple.COM>"), ADDRESS_OK, "UseR", "ExAmple.COM", 0 },
    { "all of atext", SPAN("<!#$%&'*+-/=?^_`{|}~09@b>"), ADDRESS_OK, "!#$%&'*+-/=?^_`{|}~09", "b",
      SPECIAL },
    { "dots", SPAN("<a.b.c@d.e>"), ADDRESS_OK, "a.b.c", "d.e", 0 },
    { "percent", SPAN("<a%b@c>"), ADDRESS_OK, "a%b", "c", SPECIAL },
    { "bang", SPAN("<a!b@c>"), ADDRESS_OK, "a!b", "c", SPECIAL },
    { "postmaster", SPAN("<postmaster>"), ADDRESS_OK, "postmaster", "", 0 },
    { "Postmaster", SPAN("<PostMaster>"), ADDRESS_OK, "PostMaster", "", 0 },
    { "local of 64", SPAN("<" A64 "@b>"), ADDRESS_OK, A64, "b", 0 },

    { "empty", SPAN(""), ADDRESS_SYNTAX, NULL, NULL, NULL_OK },
    { "no brackets", SPAN("user@example.com"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "no open bracket", SPAN("user@example.com>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "no close bracket", SPAN("<user@example.com"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "close bracket alone", SPAN(">"), ADDRESS_SYNTAX, NULL, NULL, NULL_OK },
    { "space first", SPAN(" <a@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "space inside, first", SPAN("< a@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "space inside, last", SPAN("<a@b >"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "space in the null path", SPAN("< >"), ADDRESS_SYNTAX, NULL, NULL, NULL_OK },
    { "brackets twice", SPAN("<<a@b>>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "display name", SPAN("A <a@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "comment", SPAN("<a(b)@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "two at signs", SPAN("<a@b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "at sign alone", SPAN("<@>"), ADDRESS_SYNTAX, NULL, NULL, NULL_OK },
    { "no local", SPAN("<@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "dot first", SPAN("<.a@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "dot last", SPAN("<a.@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "two dots", SPAN("<a..b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "backslash", SPAN("<a\\@b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "two addresses", SPAN("<a@b,c@d>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "colon", SPAN("<a:b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "no domain", SPAN("<user>"), ADDRESS_NO_DOMAIN, NULL, NULL, NULL_OK },
    { "no domain, quoted", SPAN("<\"postmaster\">"), ADDRESS_NO_DOMAIN, NULL, NULL, NULL_OK },
    { "longer than postmaster", SPAN("<postmasters>"), ADDRESS_NO_DOMAIN, NULL, NULL, 0 },
    { "local of 65", SPAN("<" A64 "a@b>"), ADDRESS_LOCAL_TOO_LONG, NULL, NULL, 0 },
    { "local of 65, no domain", SPAN("<" A64 "a>"), ADDRESS_LOCAL_TOO_LONG, NULL, NULL, 0 },
    { "NUL", SPAN("<a\0@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },

    { "quoted", SPAN("<\"a b\"@c>"), ADDRESS_OK, "\"a b\"", "c", QUOTED },
    { "quoted, empty", SPAN("<\"\"@c>"), ADDRESS_OK, "\"\"", "c", QUOTED },
    { "quoted at sign", SPAN("<\"a@b\"@c>"), ADDRESS_OK, "\"a@b\"", "c", QUOTED | SPECIAL },
    { "quoted percent", SPAN("<\"a%b\"@c>"), ADDRESS_OK, "\"a%b\"", "c", QUOTED | SPECIAL },
    { "quoted bang", SPAN("<\"a!b\"@c>"), ADDRESS_OK, "\"a!b\"", "c", QUOTED | SPECIAL },
    { "quoted bracket", SPAN("<\">\"@c>"), ADDRESS_OK, "\">\"", "c", QUOTED },
    { "quoted dots", SPAN("<\".a..b.\"@c>"), ADDRESS_OK, "\".a..b.\"", "c", QUOTED },
    { "quoted-pairs", SPAN("<\"\\\"\\\\\\a\\ \"@c>"), ADDRESS_OK, "\"\\\"\\\\\\a\\ \"", "c",
      QUOTED },
    { "quoted-pair at sign", SPAN("<\"a\\@b\"@c>"), ADDRESS_OK, "\"a\\@b\"", "c",
      QUOTED | SPECIAL },
    { "quoted, 64 octets", SPAN("<\"" A16 A16 A16 "aaaaaaaaaaaaaa\"@c>"), ADDRESS_OK,
      "\"" A16 A16 A16 "aaaaaaaaaaaaaa\"", "c", QUOTED },
    { "quoted, 65 octets", SPAN("<\"" A63 "\"@c>"), ADDRESS_LOCAL_TOO_LONG, NULL, NULL, 0 },
    { "quote not closed", SPAN("<\"a@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quote closed by a pair", SPAN("<\"a\\\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quote then atom", SPAN("<\"a\"b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quote then dot", SPAN("<\"a\".b@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "atom then quote", SPAN("<a\"b\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted tab", SPAN("<\"a\tb\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted-pair of a tab", SPAN("<\"a\\\tb\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted-pair of DEL", SPAN("<\"a\\\x7F\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted-pair of UTF-8", SPAN("<\"\\" E_ACUTE "\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted CR LF", SPAN("<\"a\r\nb\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "quoted NUL", SPAN("<\"a\0b\"@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },

    { "source route", SPAN("<@a:u@c>"), ADDRESS_OK, "u", "c", ROUTE },
    { "source route of two", SPAN("<@a.x,@b:\"u\"@c>"), ADDRESS_OK, "\"u\"", "c", ROUTE | QUOTED },
    { "source route to a literal", SPAN("<@a:u@[1.2.3.4]>"), ADDRESS_OK, "u", "[1.2.3.4]",
      ROUTE | LITERAL },
    { "source route, UTF-8", SPAN("<@" E_ACUTE ":u@c>"), ADDRESS_OK, "u", "c", ROUTE | UTF8 },
    { "source route, no mailbox", SPAN("<@a:>"), ADDRESS_SYNTAX, NULL, NULL, NULL_OK },
    { "source route, postmaster", SPAN("<@a:postmaster>"), ADDRESS_NO_DOMAIN, NULL, NULL, 0 },
    { "source route, no colon", SPAN("<@a,@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "source route, no at sign", SPAN("<@a,b:u@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "source route, empty hop", SPAN("<@a,:u@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "source route, bad domain", SPAN("<@a..b:u@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "source route, long domain", SPAN("<@" DOMAIN_255 "a:u@c>"), ADDRESS_DOMAIN_TOO_LONG, NULL,
      NULL, 0 },
    { "source route twice", SPAN("<@a:@b:u@c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },

    { "UTF-8 local", SPAN("<" E_ACUTE "@b>"), ADDRESS_OK, E_ACUTE, "b", UTF8 },
    { "UTF-8 quoted", SPAN("<\" " E_ACUTE "\"@b>"), ADDRESS_OK, "\" " E_ACUTE "\"", "b",
      UTF8 | QUOTED },
    { "UTF-8 domain", SPAN("<a@b." E_ACUTE ".c>"), ADDRESS_OK, "a", "b." E_ACUTE ".c", UTF8 },
    { "UTF-8 label of 64 octets", SPAN("<a@" E_ACUTE_16 E_ACUTE_16 ">"), ADDRESS_OK, "a",
      E_ACUTE_16 E_ACUTE_16, UTF8 },
    { "UTF-8 local of 65", SPAN("<a" E_ACUTE_16 E_ACUTE_16 "@b>"), ADDRESS_LOCAL_TOO_LONG, NULL,
      NULL, 0 },
    { "UTF-8 domain of 256",
      SPAN("<a@" E_ACUTE_16 E_ACUTE_16 E_ACUTE_16 E_ACUTE_16 E_ACUTE_16 E_ACUTE_16 E_ACUTE_16
               E_ACUTE_16 ">"),
      ADDRESS_DOMAIN_TOO_LONG, NULL, NULL, 0 },
    { "four octets", SPAN("<\xF0\x9F\x93\xA8@b>"), ADDRESS_OK, "\xF0\x9F\x93\xA8", "b", UTF8 },
    { "Latin-1", SPAN("<\xE9@b>"), ADDRESS_UTF8_INVALID, NULL, NULL, 0 },
    { "overlong", SPAN("<a\xC0\xAF@b>"), ADDRESS_UTF8_INVALID, NULL, NULL, 0 },
    { "surrogate", SPAN("<a\xED\xA0\x80@b>"), ADDRESS_UTF8_INVALID, NULL, NULL, 0 },
    { "Latin-1 domain", SPAN("<a@\xE9>"), ADDRESS_UTF8_INVALID, NULL, NULL, 0 },
    { "Latin-1 source route", SPAN("<@\xE9:a@b>"), ADDRESS_UTF8_INVALID, NULL, NULL, 0 },
    { "a control above 127", SPAN("<a\xC2\x85@b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },

    { "underscore", SPAN("<a@b_c._d.e_>"), ADDRESS_OK, "a", "b_c._d.e_", 0 },
    { "digits", SPAN("<a@1.2.3.4>"), ADDRESS_OK, "a", "1.2.3.4", 0 },
    { "inner hyphens", SPAN("<a@b--c.xn--d>"), ADDRESS_OK, "a", "b--c.xn--d", 0 },
    { "label of 63", SPAN("<a@" A63 ".b>"), ADDRESS_OK, "a", A63 ".b", 0 },
    { "domain of 255", SPAN("<a@" DOMAIN_255 ">"), ADDRESS_OK, "a", DOMAIN_255, 0 },
    { "label of 64", SPAN("<a@" A64 ".b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "last label of 64", SPAN("<a@b." A64 ">"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain of 256", SPAN("<a@" DOMAIN_255 "a>"), ADDRESS_DOMAIN_TOO_LONG, NULL, NULL, 0 },
    { "domain of 257", SPAN("<a@b." DOMAIN_255 ">"), ADDRESS_DOMAIN_TOO_LONG, NULL, NULL, 0 },
    { "domain: two dots", SPAN("<a@b..c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: dot first", SPAN("<a@.b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: dot last", SPAN("<a@b.>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: dot alone", SPAN("<a@.>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: empty", SPAN("<a@>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: hyphen first", SPAN("<a@-b>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: hyphen last", SPAN("<a@b->"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: hyphen before a dot", SPAN("<a@b-.c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: hyphen after a dot", SPAN("<a@b.-c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: plus", SPAN("<a@b+c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: quoted", SPAN("<a@\"b\">"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: slash", SPAN("<a@b/c>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
    { "domain: port", SPAN("<a@b:25>"), ADDRESS_SYNTAX, NULL, NULL, 0 },
};

static void
path_row_check(const struct path_row *row, struct span in)
{
    size_t consumed = 99;
    struct path path;

    memset(&path, 0x55, sizeof(path));
    enum address_result result = path_parse(in, (row->flags & NULL_OK) != 0, &path, &consumed);
    cr_assert_eq(result, row->want, "%s: result %d", row->name, (int)result);
    if (row->want != ADDRESS_OK) {
        cr_assert_eq(consumed, 0, "%s", row->name);
        cr_assert_eq(path.mailbox.len, 0, "%s", row->name);
        cr_assert_not(path.null, "%s: a refused path is not the null path", row->name);
        return;
    }
    cr_assert_eq(consumed, row->input.len, "%s: consumed %zu", row->name, consumed);
    cr_assert(span_equal(path.local, span_text(row->local)), "%s: local", row->name);
    cr_assert(span_equal(path.domain, span_text(row->domain)), "%s: domain", row->name);
    cr_assert_eq(path.null, (row->flags & IS_NULL) != 0, "%s", row->name);
    cr_assert_eq(path.quoted, (row->flags & QUOTED) != 0, "%s", row->name);
    cr_assert_eq(path.literal, (row->flags & LITERAL) != 0, "%s", row->name);
    cr_assert_eq(path.utf8, (row->flags & UTF8) != 0, "%s", row->name);
    cr_assert_eq(path.source_route, (row->flags & ROUTE) != 0, "%s", row->name);
    cr_assert_eq(path.local_special, (row->flags & SPECIAL) != 0, "%s", row->name);

    /* The mailbox ends before the last bracket and is local, "@", domain. */
    size_t at = path.domain.len > 0 ? 1 : 0;
    cr_assert_eq(path.mailbox.len, path.local.len + at + path.domain.len, "%s", row->name);
    cr_assert(path.mailbox.data + path.mailbox.len == in.data + consumed - 1, "%s", row->name);
    cr_assert(path.local.data == path.mailbox.data, "%s: local's place", row->name);
    cr_assert(path.domain.data == path.local.data + path.local.len + at, "%s: domain's place",
              row->name);
}

Test(address, path_table)
{
    for (size_t i = 0; i < COUNT(path_rows); i++) {
        const struct path_row *row = &path_rows[i];

        path_row_check(row, guard_end(&guard_at_end, row->input.data, row->input.len));
        path_row_check(row, guard_start(&guard_at_start, row->input.data, row->input.len));
        if (row->want == ADDRESS_OK) { /* what follows is not looked at */
            char bytes[600];
            struct outbuf longer = { .data = bytes, .size = sizeof(bytes) };
            outbuf_add(&longer, row->input);
            outbuf_add(&longer, SPAN(" SIZE=1>"));
            path_row_check(row, guard_end(&guard_at_end, bytes, longer.len));
        }
    }
}

Test(address, path_truncated)
{
    for (size_t i = 0; i < COUNT(path_rows); i++)
        for (size_t len = 0; len < path_rows[i].input.len; len++) {
            struct span in = guard_end(&guard_at_end, path_rows[i].input.data, len);
            size_t consumed;
            struct path path;
            enum address_result result = path_parse(in, true, &path, &consumed);
            if (path_rows[i].want == ADDRESS_OK)
                cr_assert_eq(result, ADDRESS_SYNTAX, "%s: %zu", path_rows[i].name, len);
            else
                cr_assert(result != ADDRESS_OK || consumed <= len, "%s", path_rows[i].name);
        }
}

/* No control character is legal at any place of any path. */
Test(address, path_with_a_control_character)
{
    for (size_t i = 0; i < COUNT(path_rows); i++)
        for (size_t at = 0; at < path_rows[i].input.len; at++)
            for (int c = 0; c < 128; c = c == 31 ? 127 : c + 1) {
                struct span row = path_rows[i].input;
                struct span in = guard_end(&guard_at_end, row.data, row.len);
                size_t consumed;
                struct path path;
                guard_at_end.bytes[guard_at_end.size - row.len + at] = (char)c;
                if (path_parse(in, true, &path, &consumed) == ADDRESS_OK)
                    cr_assert(consumed <= at, "%s: %d at %zu", path_rows[i].name, c, at);
            }
}

/* --- address literals --- */

static const struct literal_row {
    const char *name;
    struct span input;
    bool want;
} literal_rows[] = {
    { "IPv4", SPAN("192.0.2.1"), true },
    { "IPv4, zeros", SPAN("0.0.0.0"), true },
    { "IPv4, highest", SPAN("255.255.255.255"), true },
    { "IPv4, 256", SPAN("1.2.3.256"), false },
    { "IPv4, leading zero", SPAN("1.2.3.04"), false },
    { "IPv4, two zeros", SPAN("00.2.3.4"), false },
    { "IPv4, three parts", SPAN("1.2.3"), false },
    { "IPv4, five parts", SPAN("1.2.3.4.5"), false },
    { "IPv4, four digits", SPAN("1.2.3.0004"), false },
    { "IPv4, 1000", SPAN("1.2.3.1000"), false },
    { "IPv4, hexadecimal", SPAN("0x1.2.3.4"), false },
    { "IPv4, sign", SPAN("+1.2.3.4"), false },
    { "IPv4, space", SPAN("1.2.3.4 "), false },
    { "IPv4, empty part", SPAN("1..3.4"), false },
    { "IPv4, port", SPAN("1.2.3.4:25"), false },
    { "empty", SPAN(""), false },
    { "IPv6, full", SPAN("IPv6:2001:db8:1:2:3:4:5:6"), true },
    { "IPv6, tag's case", SPAN("ipV6:2001:DB8::1"), true },
    { "IPv6, loopback", SPAN("IPv6:::1"), true },
    { "IPv6, any", SPAN("IPv6:::"), true },
    { "IPv6, at the end", SPAN("IPv6:1::"), true },
    { "IPv6, one group left out", SPAN("IPv6:1:2:3:4:5:6:7::"), true },
    { "IPv6, first group left out", SPAN("IPv6:::2:3:4:5:6:7:8"), true },
    { "IPv6, leading zeros", SPAN("IPv6:0001::0fFf"), true },
    { "IPv6, IPv4 at the end", SPAN("IPv6:1:2:3:4:5:6:1.2.3.4"), true },
    { "IPv6, mapped", SPAN("IPv6:::ffff:192.0.2.1"), true },
    { "IPv6, compatible", SPAN("IPv6:::1.2.3.4"), true },
    { "IPv6, five groups, IPv4", SPAN("IPv6:1:2:3:4:5::1.2.3.4"), true },
    { "IPv6, empty", SPAN("IPv6:"), false },
    { "IPv6, colon", SPAN("IPv6::"), false },
    { "IPv6, no tag", SPAN("::1"), false },
    { "IPv6, three colons", SPAN("IPv6::::1"), false },
    { "IPv6, three inner colons", SPAN("IPv6:1:::2"), false },
    { "IPv6, twice", SPAN("IPv6:1::2::3"), false },
    { "IPv6, seven groups", SPAN("IPv6:1:2:3:4:5:6:7"), false },
    { "IPv6, nine groups", SPAN("IPv6:1:2:3:4:5:6:7:8:9"), false },
    { "IPv6, eight groups and ::", SPAN("IPv6:1:2:3:4::5:6:7:8"), false },
    { "IPv6, five digits", SPAN("IPv6:12345::"), false },
    { "IPv6, no hexadecimal digit", SPAN("IPv6:g::"), false },
    { "IPv6, colon first", SPAN("IPv6::1:2:3:4:5:6:7:8"), false },
    { "IPv6, colon last", SPAN("IPv6:1:2:3:4:5:6:7:8:"), false },
    { "IPv6, colon last, after ::", SPAN("IPv6:1::2:"), false },
    { "IPv6, zone", SPAN("IPv6:fe80::1%eth0"), false },
    { "IPv6, prefix length", SPAN("IPv6:fe80::/10"), false },
    { "IPv6, IPv4 in the middle", SPAN("IPv6:::1.2.3.4:1"), false },
    { "IPv6, IPv4 alone", SPAN("IPv6:1.2.3.4"), false },
    { "IPv6, seven groups and IPv4", SPAN("IPv6:1:2:3:4:5:6:7:1.2.3.4"), false },
    { "IPv6, bad IPv4", SPAN("IPv6:::1.2.3.256"), false },
    { "general", SPAN("x400:c=us;a=b"), true },
    { "general, hyphen", SPAN("a-b:!~"), true },
    { "general, tag of digits", SPAN("1:2"), true },
    { "general, no content", SPAN("tag:"), false },
    { "general, no tag", SPAN(":x"), false },
    { "general, tag ends in a hyphen", SPAN("a-:x"), false },
    { "general, underscore", SPAN("a_b:x"), false },
    { "general, no colon", SPAN("example.com"), false },
    { "general, bracket", SPAN("tag:a[b"), false },
    { "general, closing bracket", SPAN("tag:a]b"), false },
    { "general, backslash", SPAN("tag:a\\b"), false },
    { "general, space", SPAN("tag:a b"), false },
    { "general, UTF-8", SPAN("tag:" E_ACUTE), false },
};

static enum address_result
literal_parse(struct span content, struct path *path)
{
    char bytes[600];
    struct outbuf text = { .data = bytes, .size = sizeof(bytes) };
    size_t consumed;

    outbuf_add(&text, SPAN("<u@["));
    outbuf_add(&text, content);
    outbuf_add(&text, SPAN("]>"));
    return path_parse(guard_end(&guard_at_end, bytes, text.len), false, path, &consumed);
}

Test(address, literal_table)
{
    for (size_t i = 0; i < COUNT(literal_rows); i++) {
        const struct literal_row *row = &literal_rows[i];
        struct path path;

        enum address_result result = literal_parse(row->input, &path);
        cr_assert_eq(result, row->want ? ADDRESS_OK : ADDRESS_SYNTAX, "%s: %d", row->name, result);
        cr_assert_eq(path.literal, row->want, "%s", row->name);
        if (row->want)
            cr_assert_eq(path.domain.len, row->input.len + 2, "%s", row->name);
    }
}

Test(address, literal_length_and_brackets)
{
    char content[300];
    struct path path;
    size_t consumed;

    memset(content, 'x', sizeof(content));
    memcpy(content, "t:", 2);
    cr_assert_eq(literal_parse(span_of(content, 253), &path), ADDRESS_OK);
    cr_assert_eq(literal_parse(span_of(content, 254), &path), ADDRESS_DOMAIN_TOO_LONG);
    cr_assert_eq(path_parse(SPAN("<u@[1.2.3.4>"), false, &path, &consumed), ADDRESS_SYNTAX);
    cr_assert_eq(path_parse(SPAN("<u@1.2.3.4]>"), false, &path, &consumed), ADDRESS_SYNTAX);
    cr_assert_eq(path_parse(SPAN("<u@[1.2.3.4]x>"), false, &path, &consumed), ADDRESS_SYNTAX);
    cr_assert_eq(path_parse(SPAN("<u@["), false, &path, &consumed), ADDRESS_SYNTAX);
}

static uint64_t
random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Another implementation must agree on any text made of what addresses are made of. */
Test(address, literal_agrees_with_the_system)
{
    static const char *const pieces[] = { ":",     "::", ":",         "1",   "fF0", "0",    "abcd",
                                          "12345", ".",  "192.0.2.1", "1.2", ":0:", "a:b:c" };
    unsigned good4 = 0, good6 = 0;
    uint64_t state = 42;

    for (int round = 0; round < 300000; round++) {
        char text[128] = "IPv6:";
        struct in6_addr v6;
        struct in_addr v4;
        struct path path;
        for (size_t n = random_next(&state) % 12; n > 0; n--)
            strcat(text, pieces[random_next(&state) % COUNT(pieces)]);
        bool want = inet_pton(AF_INET6, text + 5, &v6) == 1;
        good6 += want;
        cr_assert_eq(literal_parse(span_text(text), &path) == ADDRESS_OK, want, "%s", text);

        if (strchr(text + 5, ':') != NULL)
            continue; /* could be a general literal */
        want = inet_pton(AF_INET, text + 5, &v4) == 1;
        good4 += want;
        cr_assert_eq(literal_parse(span_text(text + 5), &path) == ADDRESS_OK, want, "%s", text);
    }
    cr_assert(good6 > 1000 && good4 > 100, "the generator hits legal ones: %u, %u", good6, good4);
}

/* --- EHLO names --- */

static const struct literal_row helo_rows[] = {
    { "plain", SPAN("mail.example.com"), true },
    { "bare word", SPAN("localhost"), true },
    { "underscore", SPAN("my_host"), true },
    { "trailing dot", SPAN("example.com."), true },
    { "dot", SPAN("."), true },
    { "IPv4", SPAN("192.0.2.1"), true },
    { "literal", SPAN("[192.0.2.1]"), true },
    { "IPv6 literal", SPAN("[IPv6:::1]"), true },
    { "literal that is none", SPAN("[x]"), true },
    { "all that is left of ASCII", SPAN("!#$%&'*+-/=?^_`{|}~"), true },
    { "UTF-8", SPAN("b" E_ACUTE ".example"), true },
    { "255", SPAN(DOMAIN_255), true },
    { "256", SPAN(DOMAIN_255 "a"), false },
    { "empty", SPAN(""), false },
    { "space", SPAN("a b"), false },
    { "tab", SPAN("a\tb"), false },
    { "NUL", SPAN("a\0"), false },
    { "CR", SPAN("a\r"), false },
    { "DEL", SPAN("a\x7F"), false },
    { "less", SPAN("a<"), false },
    { "greater", SPAN("a>"), false },
    { "open", SPAN("a("), false },
    { "close", SPAN("a)"), false },
    { "backslash", SPAN("a\\"), false },
    { "quote", SPAN("a\""), false },
    { "comma", SPAN("a,"), false },
    { "semicolon", SPAN("a;"), false },
    { "at sign", SPAN("a@b"), false },
    { "Latin-1", SPAN("b\xE9"), false },
    { "a control above 127", SPAN("b\xC2\x9B"), false },
};

Test(address, helo_table)
{
    for (size_t i = 0; i < COUNT(helo_rows); i++) {
        struct span in = guard_end(&guard_at_end, helo_rows[i].input.data, helo_rows[i].input.len);
        cr_assert_eq(helo_name_valid(in), helo_rows[i].want, "%s", helo_rows[i].name);
    }
}

/* --- UTF-8 --- */

/* RFC 3629 3, the table, without its limits: any value in any number of octets. */
static struct span
utf8_encode(uint32_t value, size_t len, char *out)
{
    static const unsigned char marks[5] = { 0, 0x00, 0xC0, 0xE0, 0xF0 };

    for (size_t i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (value & 0x3F));
        value >>= 6;
    }
    out[0] = (char)(marks[len] | value);
    return span_of(out, len);
}

/* Every value that 1, 2, 3 and 4 octets can hold: legal exactly in its shortest form, no
 * surrogates, up to U+10FFFF; and never without its last octet. */
Test(address, utf8_every_character)
{
    static const uint32_t ends[5] = { 0, 0x80, 0x800, 0x10000, 0x200000 };

    for (size_t len = 1; len <= 4; len++)
        for (uint32_t value = 0; value < ends[len]; value++) {
            char bytes[4];
            struct span s = utf8_encode(value, len, bytes);
            bool want =
                value >= ends[len - 1] && value <= 0x10FFFF && (value < 0xD800 || value > 0xDFFF);
            bool control = value < 0x20 || (value >= 0x7F && value <= 0x9F);
            if (utf8_character_len(s) != (want ? len : 0) || utf8_valid(s) != want ||
                utf8_printable(s) != (want && !control))
                cr_assert_fail("U+%X in %zu octets", value, len);
            if (len > 1 && utf8_character_len(span_first(s, len - 1)) != 0)
                cr_assert_fail("U+%X without its last octet", value);
        }
}

/* Eight octets at a time must find what one at a time finds: each pair of octets at each place. */
Test(address, utf8_plain_run)
{
    char text[24];
    size_t errors = 0;

    for (unsigned pair = 0; pair < 65536; pair++) {
        for (size_t at = 0; at + 1 < sizeof(text); at += 1 + at / 8 * 5) {
            size_t want = 0;

            memset(text, '~', sizeof(text));
            text[at] = (char)(pair >> 8);
            text[at + 1] = (char)pair;
            while (want < sizeof(text) && (unsigned char)text[want] >= ' ' &&
                   (unsigned char)text[want] < 127)
                want++;
            errors += utf8_plain_len(span_of(text, sizeof(text))) != want;
        }
    }
    cr_assert_eq(errors, 0);
    cr_assert_eq(utf8_plain_len(guard_end(&guard_at_end, "plain text, 26 octets long", 26)), 26);
    cr_assert_eq(utf8_plain_len(SPAN("")), 0);
}

Test(address, utf8_strings)
{
    static const struct literal_row rows[] = {
        { "empty", SPAN(""), true },
        { "ASCII", SPAN("abc"), true },
        { "mixed",
          SPAN("a" E_ACUTE "\xE2\x82\xAC"
               "b\xF0\x9F\x93\xA8"),
          true },
        { "continuation first", SPAN("\x80"), false },
        { "continuation too many", SPAN(E_ACUTE "\xA9"), false },
        { "cut in the middle",
          SPAN("a\xE2\x82"
               "b"),
          false },
        { "cut at the end", SPAN("a\xF0\x9F\x93"), false },
        { "third octet wrong", SPAN("\xE2\x82\x2F"), false },
        { "fourth octet wrong", SPAN("\xF0\x9F\x93\xC0"), false },
        { "FE", SPAN("\xFE\x80\x80\x80"), false },
        { "FF", SPAN("\xFF"), false },
        { "five octets", SPAN("\xF8\x88\x80\x80\x80"), false },
    };

    for (size_t i = 0; i < COUNT(rows); i++)
        cr_assert_eq(utf8_valid(guard_end(&guard_at_end, rows[i].input.data, rows[i].input.len)),
                     rows[i].want, "%s", rows[i].name);
    cr_assert(utf8_valid(SPAN("a\nb")));
    cr_assert_not(utf8_printable(SPAN("a\nb")));
    cr_assert_eq(utf8_character_len(SPAN("")), 0);
}

/* --- property: paths built from the grammar of RFC 5321 4.1.2, from seeds that repeat --- */

#define PICK(state, table) ((table)[random_next(state) % COUNT(table)])

static void
random_local(uint64_t *state, struct outbuf *out)
{
    static const char *const atoms[] = { "a", "user", "!#$&'*", "x+y", "-", "Z9", E_ACUTE, "=?=" };
    static const char *const quoted[] = { "",   " ",   "a",  "\\\"",  "\\\\", "\\ ",
                                          "<>", ",;:", "..", E_ACUTE, "[]",   "()" };
    size_t count = 1 + random_next(state) % 4;

    if (random_next(state) % 3 == 0) {
        outbuf_add_char(out, '"');
        while (count-- > 0)
            outbuf_add(out, span_text(PICK(state, quoted)));
        outbuf_add_char(out, '"');
        return;
    }
    outbuf_add(out, span_text(PICK(state, atoms)));
    while (count-- > 1) {
        outbuf_add_char(out, '.');
        outbuf_add(out, span_text(PICK(state, atoms)));
    }
}

static void
random_domain(uint64_t *state, struct outbuf *out)
{
    static const char *const labels[] = { "a", "b-c", "0", "xn--p1ai", "A_b", E_ACUTE, A63 };

    outbuf_add(out, span_text(PICK(state, labels)));
    for (size_t count = random_next(state) % 3; count > 0; count--) {
        outbuf_add_char(out, '.');
        outbuf_add(out, span_text(PICK(state, labels)));
    }
}

static void
random_path_check(uint64_t seed)
{
    static const char *const literals[] = { "[127.0.0.1]", "[IPv6:2001:db8::1]", "[tag:!]" };
    uint64_t state = seed * 0x9E3779B97F4A7C15u;
    char bytes[1024], local[128], domain[256];
    struct outbuf text = { .data = bytes, .size = sizeof(bytes) };
    struct outbuf want_local = { .data = local, .size = sizeof(local) };
    struct outbuf want_domain = { .data = domain, .size = sizeof(domain) };
    bool route = random_next(&state) % 4 == 0, literal = random_next(&state) % 4 == 0;
    size_t consumed;
    struct path path;

    outbuf_add_char(&text, '<');
    for (size_t hops = route ? 1 + random_next(&state) % 2 : 0; hops > 0; hops--) {
        outbuf_add_char(&text, '@');
        random_domain(&state, &text);
        outbuf_add_char(&text, hops > 1 ? ',' : ':');
    }
    random_local(&state, &want_local);
    if (literal)
        outbuf_add(&want_domain, span_text(PICK(&state, literals)));
    else
        random_domain(&state, &want_domain);
    outbuf_add(&text, outbuf_span(&want_local));
    outbuf_add_char(&text, '@');
    outbuf_add(&text, outbuf_span(&want_domain));
    outbuf_add_char(&text, '>');

    struct span in = guard_end(&guard_at_end, bytes, text.len);
    cr_assert_eq(path_parse(in, false, &path, &consumed), ADDRESS_OK, "seed %lu: %.*s",
                 (unsigned long)seed, (int)text.len, bytes);
    cr_assert_eq(consumed, text.len, "%.*s", (int)text.len, bytes);
    cr_assert(span_equal(path.local, outbuf_span(&want_local)), "%.*s", (int)text.len, bytes);
    cr_assert(span_equal(path.domain, outbuf_span(&want_domain)), "%.*s", (int)text.len, bytes);
    cr_assert_eq(path.source_route, route, "%.*s", (int)text.len, bytes);
    cr_assert_eq(path.literal, literal, "%.*s", (int)text.len, bytes);
    cr_assert_eq(path.quoted, local[0] == '"', "%.*s", (int)text.len, bytes);
}

Test(address, paths_from_the_grammar)
{
    for (uint64_t seed = 1; seed <= 20000; seed++)
        random_path_check(seed);
}
