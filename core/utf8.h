/* utf8: what is a UTF-8 character (RFC 3629), and which text may be shown or handed on.
 * Does:    RFC 3629 well-formedness: no overlong forms, no surrogates, nothing above U+10FFFF.
 * Owns:    nothing.
 * Memory:  none allocated.
 */
#ifndef RINGPOST_CORE_UTF8_H
#define RINGPOST_CORE_UTF8_H

#include "core/octets.h"

/* Octets at the start of s that are printable ASCII (SP to '~'), eight at a time: nearly all text
 * is that and nothing else. */
static inline size_t
utf8_plain_len(struct span s)
{
    size_t len = 0;
    uint64_t odd;

    for (; s.len - len >= OCTETS_WIDTH; len += OCTETS_WIDTH) {
        odd = octets_outside(octets_load(s.data + len), ' ');
        if (odd != 0)
            return len + octets_first(odd);
    }
    if (len == s.len)
        return len;
    odd = octets_within(octets_outside(octets_load_rest(s, len), ' '), s.len - len);
    return odd != 0 ? len + octets_first(odd) : s.len;
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
