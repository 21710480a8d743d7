/* Octets above 127 reach us in paths, parameters, EHLO names and replies. They go on to other
 * machines, logs and terminals, so each place asks the same two questions here. */
#include "core/utf8.h"

static bool
is_continuation(unsigned char octet)
{
    return (octet & 0xC0) == 0x80;
}

/* RFC 3629 4: the second octet's range depends on the first one; that is what keeps out overlong
 * forms, surrogates and values above U+10FFFF. */
static bool
second_octet_valid(unsigned char first, unsigned char second)
{
    switch (first) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return is_continuation(second);
    }
}

static size_t
len_by_first_octet(unsigned char first)
{
    if (first <= 0x7F)
        return 1;
    if (first < 0xC2 || first > 0xF4)
        return 0;
    return first <= 0xDF ? 2 : first <= 0xEF ? 3 : 4;
}

size_t
utf8_character_len(struct span s)
{
    const unsigned char *octets = (const unsigned char *)s.data;

    if (s.len == 0)
        return 0;
    size_t len = len_by_first_octet(octets[0]);
    if (len > s.len)
        return 0;
    if (len >= 2 && !second_octet_valid(octets[0], octets[1]))
        return 0;
    for (size_t i = 2; i < len; i++)
        if (!is_continuation(octets[i]))
            return 0;
    return len;
}

bool
utf8_valid(struct span s)
{
    while (s.len > 0) {
        size_t len = utf8_character_len(s);
        if (len == 0)
            return false;
        span_advance(&s, len);
    }
    return true;
}

static bool
is_control(struct span character)
{
    const unsigned char *octets = (const unsigned char *)character.data;

    if (character.len == 1)
        return octets[0] < ' ' || octets[0] == 0x7F;
    return octets[0] == 0xC2 && octets[1] <= 0x9F; /* U+0080 to U+009F */
}

bool
utf8_printable(struct span s)
{
    for (span_advance(&s, utf8_plain_len(s)); s.len > 0; span_advance(&s, utf8_plain_len(s))) {
        size_t len = utf8_character_len(s);
        if (len == 0 || is_control(span_first(s, len)))
            return false;
        span_advance(&s, len);
    }
    return true;
}
