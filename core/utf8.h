/* utf8: what is a UTF-8 character (RFC 3629), and which text may be shown or handed on.
 * Does:    RFC 3629 well-formedness: no overlong forms, no surrogates, nothing above U+10FFFF.
 * Owns:    nothing.
 * Memory:  none allocated.
 */
#ifndef RINGPOST_CORE_UTF8_H
#define RINGPOST_CORE_UTF8_H

#include "core/span.h"

/* Octets at the start of s that are printable ASCII (SP to '~'), eight at a time: nearly all text
 * is that and nothing else. */
static inline size_t
utf8_plain_len(struct span s)
{
    const uint64_t ones = UINT64_MAX / 255, highs = ones << 7;
    size_t len = 0;

    for (; s.len - len >= sizeof(uint64_t); len += sizeof(uint64_t)) {
        uint64_t octets, odd;

        memcpy(&octets, s.data + len, sizeof(octets));
        /* The high bit of an octet: it has one, is below SP, or is DEL. A borrow or carry out of an
         * odd octet can only make another one look odd. */
        odd = (octets | (octets - ones * ' ') | (octets + ones)) & highs;
        if (odd != 0)
            break;
    }
    while (len < s.len && s.data[len] >= ' ' && s.data[len] <= '~')
        len++;
    return len;
}

/* Octets of the character at the start of s: 1 to 4; 0 when there is none or it is not
 * well-formed. */
MUST_USE size_t utf8_character_len(struct span s);

/* True when s is well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms). */
MUST_USE bool utf8_valid(struct span s);

/* True when s is well-formed and holds no control character: neither below SP, nor DEL, nor
 * U+0080 to U+009F (terminals obey those too). */
MUST_USE bool utf8_printable(struct span s);

#endif
