/* octets: eight octets at a time in a register, for text that is too short for vectors.
 * Does:    loads and comparisons whose result has the high bit of each octet that it is about set;
 *          that of the first such octet is exact, later ones may be false (a borrow or a carry out
 *          of an octet that is itself one): ask for the first, or whether there is any.
 * Owns:    nothing.
 * Memory:  reads exactly the octets it is given.
 */
#ifndef RINGPOST_CORE_OCTETS_H
#define RINGPOST_CORE_OCTETS_H

#include "core/span.h"

#define OCTETS_WIDTH sizeof(uint64_t)
#define OCTETS_ONES (UINT64_MAX / 255)
#define OCTETS_HIGHS (OCTETS_ONES << 7)

/* The first octet in memory is the lowest. */
static inline uint64_t
octets_load(const char *data)
{
    uint64_t octets;

    memcpy(&octets, data, sizeof(octets));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    octets = __builtin_bswap64(octets);
#endif
    return octets;
}

/* Fewer than eight; zeros behind them. */
static inline uint64_t
octets_load_few(struct span s)
{
    uint64_t octets = 0;

    for (size_t i = s.len; i-- > 0;)
        octets = octets << 8 | (unsigned char)s.data[i];
    return octets;
}

/* The octets of s from `at` on, fewer than eight; zeros behind them. at: a multiple of eight. What
 * was seen before is read again, in place of an octet at a time. */
static inline uint64_t
octets_load_rest(struct span s, size_t at)
{
    if (at == 0)
        return octets_load_few(s);
    return octets_load(s.data + s.len - OCTETS_WIDTH) >> 8 * (at + OCTETS_WIDTH - s.len);
}

/* The part of a result that is of the first `count` octets; fewer than eight. */
static inline uint64_t
octets_within(uint64_t found, size_t count)
{
    return found & ((UINT64_C(1) << 8 * count) - 1);
}

static inline uint64_t
octets_equal(uint64_t octets, char octet)
{
    uint64_t differ = octets ^ (OCTETS_ONES * (unsigned char)octet);

    return (differ - OCTETS_ONES) & ~differ & OCTETS_HIGHS;
}

/* Not from `least` to '~'; least is at most 128. */
static inline uint64_t
octets_outside(uint64_t octets, char least)
{
    return (octets | (octets - OCTETS_ONES * (unsigned char)least) | (octets + OCTETS_ONES)) &
           OCTETS_HIGHS;
}

/* Which octet the lowest bit of a result belongs to: 0 to 7. */
static inline size_t
octets_first(uint64_t found)
{
    return (size_t)__builtin_ctzll(found) / 8;
}

/* memcpy() for what is mostly short and of no constant length: without the call up to sixteen. */
static inline void
octets_copy(char *to, struct span s)
{
    uint64_t first, last;
    uint32_t few_first, few_last;

    if (s.len > 2 * OCTETS_WIDTH) {
        memcpy(to, s.data, s.len);
    } else if (s.len >= OCTETS_WIDTH) {
        memcpy(&first, s.data, sizeof(first));
        memcpy(&last, s.data + s.len - sizeof(last), sizeof(last));
        memcpy(to, &first, sizeof(first));
        memcpy(to + s.len - sizeof(last), &last, sizeof(last));
    } else if (s.len >= sizeof(few_first)) {
        memcpy(&few_first, s.data, sizeof(few_first));
        memcpy(&few_last, s.data + s.len - sizeof(few_last), sizeof(few_last));
        memcpy(to, &few_first, sizeof(few_first));
        memcpy(to + s.len - sizeof(few_last), &few_last, sizeof(few_last));
    } else {
        for (size_t i = 0; i < s.len; i++)
            to[i] = s.data[i];
    }
}

/* An octet above 127. */
static inline bool
octets_any_high(struct span s)
{
    uint64_t all = 0;
    size_t at = 0;

    if (s.len < OCTETS_WIDTH) {
        for (; at < s.len; at++)
            all |= (unsigned char)s.data[at];
        return (all & 0x80) != 0;
    }
    for (; s.len - at > OCTETS_WIDTH; at += OCTETS_WIDTH)
        all |= octets_load(s.data + at);
    /* The last eight, some of them for the second time: cheaper than the rest one by one. */
    all |= octets_load(s.data + s.len - OCTETS_WIDTH);
    return (all & OCTETS_HIGHS) != 0;
}

#endif
