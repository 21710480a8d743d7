/* Eight octets at a time must say what a loop over them says, for every value at every place, and
 * touch no octet behind them. */
#include <criterion/criterion.h>

#include "core/octets.h"
#include "tests/unit/guard.h"

/* Where the first octet is that is `octet`, or is not from `least` to '~'; 8: nowhere. */
static size_t
first_plainly(const char *text, bool outside, char octet)
{
    for (size_t i = 0; i < OCTETS_WIDTH; i++)
        if (outside ? (unsigned char)text[i] < (unsigned char)octet || (unsigned char)text[i] > '~'
                    : text[i] == octet)
            return i;
    return OCTETS_WIDTH;
}

static size_t
first_of(uint64_t found)
{
    return found != 0 ? octets_first(found) : OCTETS_WIDTH;
}

Test(octets, first_is_exact)
{
    static const char wanted[] = { '\0', '\n', ' ', '!', '"', ':', '@', '~', '\x7f' };
    static const char least[] = { '\0', ' ', '!', '#', '~' };
    char text[OCTETS_WIDTH];
    uint32_t random = 3;

    for (int round = 0; round < 200000; round++) {
        for (size_t i = 0; i < sizeof(text); i++) {
            random = random * 1664525u + 1013904223u;
            /* Few that are odd, else the first one always is; those at the edges often. */
            text[i] = (random >> 28) < 12 ? 'a' + (char)(random >> 24 & 15)
                                          : (char)(random >> 16 & 0xff);
            if ((random >> 28) == 15)
                text[i] = (char)(wanted[(random >> 8) % sizeof(wanted)] + (random >> 6 & 3) - 1);
        }
        uint64_t octets = octets_load(text);

        for (size_t i = 0; i < sizeof(wanted); i++)
            cr_assert_eq(first_of(octets_equal(octets, wanted[i])),
                         first_plainly(text, false, wanted[i]), "round %d, equal %zu", round, i);
        for (size_t i = 0; i < sizeof(least); i++)
            cr_assert_eq(first_of(octets_outside(octets, least[i])),
                         first_plainly(text, true, least[i]), "round %d, outside %zu", round, i);
    }
}

/* Up to the end of a page: nothing behind the span is read or written. */
Test(octets, pieces_of_every_length)
{
    static struct guard in_guard, out_guard;
    char text[40], empty[40] = { 0 }, rest[OCTETS_WIDTH];

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('A' + i);
    for (size_t len = 0; len <= sizeof(text); len++) {
        struct span s = guard_end(&in_guard, text, len);
        struct span to = guard_end(&out_guard, empty, len);
        size_t at = len / OCTETS_WIDTH * OCTETS_WIDTH;
        uint64_t octets;

        octets_copy((char *)(uintptr_t)to.data, s);
        cr_assert(span_equal(to, s), "copy of %zu", len);
        if (at < len) {
            octets = octets_load_rest(s, at);
            memset(rest, 0, sizeof(rest));
            memcpy(rest, text + at, len - at);
            cr_assert_eq(octets, octets_load(rest), "rest of %zu", len);
            cr_assert_eq(octets_within(OCTETS_HIGHS, len - at),
                         OCTETS_HIGHS >> 8 * (OCTETS_WIDTH - (len - at)), "within %zu", len);
        }
        cr_assert(!octets_any_high(s), "none high of %zu", len);
        for (size_t high = 0; high < len; high++) {
            text[high] = (char)(text[high] | 0x80);
            cr_assert(octets_any_high(guard_end(&in_guard, text, len)), "%zu of %zu", high, len);
            text[high] = (char)(text[high] & 0x7f);
        }
    }
    guard_close(&in_guard);
    guard_close(&out_guard);
}
