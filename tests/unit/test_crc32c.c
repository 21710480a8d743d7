/* CRC-32C: RFC 3720's examples, the two implementations against a third of one line per bit, any
 * split, and no octet read outside the input. */
#include <criterion/criterion.h>

#include "core/crc32c.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* The definition, bit by bit. */
static uint32_t
crc32c_plain(uint32_t crc, struct span in)
{
    crc = ~crc;
    for (size_t i = 0; i < in.len; i++) {
        crc ^= (unsigned char)in.data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static void
fill(char *out, size_t len, int first, int step)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (char)(first + (int)i * step);
}

Test(crc32c, known_values)
{
    static const char read_command[48] = { [0] = 0x01,  [1] = '\xc0', [16] = 0x14, [22] = 0x04,
                                           [27] = 0x14, [31] = 0x18,  [32] = 0x28, [40] = 0x02 };
    char zeros[32], ones[32], up[32], down[32];
    const struct {
        const char *name;
        struct span in;
        uint32_t want;
    } rows[] = {
        { "RFC 3720 B.4: 32 octets of 00", span_of(zeros, 32), 0x8A9136AA },
        { "RFC 3720 B.4: 32 octets of FF", span_of(ones, 32), 0x62A8AB43 },
        { "RFC 3720 B.4: 00 up to 1F", span_of(up, 32), 0x46DD794E },
        { "RFC 3720 B.4: 1F down to 00", span_of(down, 32), 0x113FDB5C },
        { "RFC 3720 B.4: SCSI Read (10)", span_of(read_command, 48), 0xD9963A56 },
        { "the usual nine digits", SPAN("123456789"), 0xE3069283 },
        { "one letter", SPAN("a"), 0xC1D04330 },
        { "nothing", SPAN(""), 0 },
        { "nothing, no address", span_of(NULL, 0), 0 },
    };

    fill(zeros, 32, 0, 0);
    fill(ones, 32, 0xFF, 0);
    fill(up, 32, 0, 1);
    fill(down, 32, 31, -1);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_eq(crc32c_plain(0, rows[i].in), rows[i].want, "%s: the test", rows[i].name);
        cr_assert_eq(crc32c(0, rows[i].in), rows[i].want, "%s", rows[i].name);
        cr_assert_eq(crc32c_portable(0, rows[i].in), rows[i].want, "%s: portable", rows[i].name);
    }
}

/* Every length up to some words, from and up to a page that cannot be read. */
Test(crc32c, twins_agree_and_stay_inside)
{
    struct guard guard = { 0 };
    struct seeded seeded = { .state = 1 };
    char octets[320];

    for (size_t i = 0; i < sizeof(octets); i++)
        octets[i] = (char)seeded_next(&seeded);
    for (size_t len = 0; len <= sizeof(octets); len++) {
        uint32_t start = (uint32_t)seeded_next(&seeded);
        uint32_t want = crc32c_plain(start, span_of(octets, len));
        struct span in = guard_end(&guard, octets, len);

        cr_assert_eq(crc32c(start, in), want, "%zu octets", len);
        cr_assert_eq(crc32c_portable(start, in), want, "%zu octets, portable", len);
        in = guard_start(&guard, octets, len);
        cr_assert_eq(crc32c(start, in), want, "%zu octets at the start", len);
        cr_assert_eq(crc32c_portable(start, in), want, "%zu octets at the start, portable", len);
    }
    guard_close(&guard);
}

Test(crc32c, long_inputs_agree)
{
    static char octets[100000];
    struct seeded seeded = { .state = 2 };

    for (size_t i = 0; i < sizeof(octets); i++)
        octets[i] = (char)seeded_next(&seeded);
    for (int i = 0; i < 50; i++) {
        size_t from = seeded_below(&seeded, 64);
        struct span in = span_of(octets + from, seeded_below(&seeded, sizeof(octets) - from));
        uint32_t want = crc32c_plain(0, in);

        cr_assert_eq(crc32c(0, in), want, "%zu octets from %zu", in.len, from);
        cr_assert_eq(crc32c_portable(0, in), want, "%zu octets from %zu, portable", in.len, from);
    }
}

Test(crc32c, any_split_gives_the_same)
{
    struct seeded seeded = { .state = 3 };
    char octets[200];
    struct span in = span_of(octets, sizeof(octets));
    uint32_t want;

    for (size_t i = 0; i < sizeof(octets); i++)
        octets[i] = (char)seeded_next(&seeded);
    want = crc32c_plain(0, in);
    for (size_t cut = 0; cut <= in.len; cut++) {
        struct span first = span_first(in, cut), second = span_after(in, cut);

        cr_assert_eq(crc32c(crc32c(0, first), second), want, "cut at %zu", cut);
        cr_assert_eq(crc32c_portable(crc32c_portable(0, first), second), want,
                     "cut at %zu, portable", cut);
        cr_assert_eq(crc32c(crc32c_portable(0, first), second), want, "cut at %zu, mixed", cut);
    }
    for (size_t piece = 1; piece < 40; piece++) {
        uint32_t crc = 0;

        for (struct span rest = in; rest.len > 0;) {
            size_t len = rest.len < piece ? rest.len : piece;

            crc = crc32c(crc, span_first(rest, len));
            span_advance(&rest, len);
        }
        cr_assert_eq(crc, want, "pieces of %zu", piece);
    }
}
