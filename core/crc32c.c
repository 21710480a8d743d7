/* The checksum runs over every octet that is stored, so it is here twice: by the processor's own
 * instruction, and by tables where there is none. */
#include "core/crc32c.h"

#include <endian.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

static inline uint64_t
word_at(const char *data)
{
    uint64_t word;

    memcpy(&word, data, sizeof(word));
    return le64toh(word);
}

/* --- by tables: eight octets at a time ("slicing by 8") --- */

/* The polynomial 0x1EDC6F41 with its bits in reverse: the lowest bit is the highest power. */
#define POLYNOMIAL 0x82F63B78u

/* One bit further. The constants below are what 0..63 of these make of the polynomial; since the
 * checksum is linear, each table entry is the sum of eight of them. So the compiler makes the
 * tables, and no thread ever sees them half filled. */
#define STEP(x) ((x) >> 1 ^ (((x)&1u) != 0 ? POLYNOMIAL : 0u))
/* clang-format off */
#define OCTET_AFTER(n, previous) \
    P##n##0 = STEP(previous), P##n##1 = STEP(P##n##0), P##n##2 = STEP(P##n##1), \
    P##n##3 = STEP(P##n##2),  P##n##4 = STEP(P##n##3), P##n##5 = STEP(P##n##4), \
    P##n##6 = STEP(P##n##5),  P##n##7 = STEP(P##n##6)

enum {
    OCTET_AFTER(0, 1u), /* a lone highest power, one step on, is the polynomial */
    OCTET_AFTER(1, P07), OCTET_AFTER(2, P17), OCTET_AFTER(3, P27), OCTET_AFTER(4, P37),
    OCTET_AFTER(5, P47), OCTET_AFTER(6, P57), OCTET_AFTER(7, P67),
};

#define BIT(i, bit, value) (((unsigned)(i) & (bit)) != 0 ? (value) : 0u)
#define ENTRY(n, i) \
    (BIT(i, 128u, P##n##0) ^ BIT(i, 64u, P##n##1) ^ BIT(i, 32u, P##n##2) ^ BIT(i, 16u, P##n##3) ^ \
     BIT(i, 8u, P##n##4) ^ BIT(i, 4u, P##n##5) ^ BIT(i, 2u, P##n##6) ^ BIT(i, 1u, P##n##7))
#define ENTRIES_4(n, i) ENTRY(n, i), ENTRY(n, (i) + 1), ENTRY(n, (i) + 2), ENTRY(n, (i) + 3)
#define ENTRIES_16(n, i) \
    ENTRIES_4(n, i), ENTRIES_4(n, (i) + 4), ENTRIES_4(n, (i) + 8), ENTRIES_4(n, (i) + 12)
#define ENTRIES_64(n, i) \
    ENTRIES_16(n, i), ENTRIES_16(n, (i) + 16), ENTRIES_16(n, (i) + 32), ENTRIES_16(n, (i) + 48)
#define TABLE(n) \
    { ENTRIES_64(n, 0), ENTRIES_64(n, 64), ENTRIES_64(n, 128), ENTRIES_64(n, 192) }
/* clang-format on */

/* tables[n][octet]: what an octet does to the checksum when n more octets follow it. */
static const uint32_t tables[8][256] = { TABLE(0), TABLE(1), TABLE(2), TABLE(3),
                                         TABLE(4), TABLE(5), TABLE(6), TABLE(7) };

uint32_t
crc32c_portable(uint32_t crc, struct span in)
{
    crc = ~crc;
    for (; in.len >= 8; span_advance(&in, 8)) {
        uint64_t word = word_at(in.data) ^ crc;

        /* Written out: gcc leaves a loop here a loop, at half the speed. */
        crc = tables[7][word & 0xff] ^ tables[6][word >> 8 & 0xff] ^ tables[5][word >> 16 & 0xff] ^
              tables[4][word >> 24 & 0xff] ^ tables[3][word >> 32 & 0xff] ^
              tables[2][word >> 40 & 0xff] ^ tables[1][word >> 48 & 0xff] ^ tables[0][word >> 56];
    }
    for (size_t i = 0; i < in.len; i++)
        crc = crc >> 8 ^ tables[0][(crc ^ (unsigned char)in.data[i]) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)

/* --- by the instruction of SSE4.2: compiled in always, called only where the processor has it ---
 */

__attribute__((target("sse4.2"))) static uint32_t
crc32c_sse42(uint32_t crc, struct span in)
{
    uint64_t state = ~crc;

    for (; in.len >= 8; span_advance(&in, 8))
        state = _mm_crc32_u64(state, word_at(in.data));
    crc = (uint32_t)state;
    for (size_t i = 0; i < in.len; i++)
        crc = _mm_crc32_u8(crc, (unsigned char)in.data[i]);
    return ~crc;
}

/* The start-up code of the compiler's runtime asks the processor once; this reads its answer. */
uint32_t
crc32c(uint32_t crc, struct span in)
{
    if (__builtin_cpu_supports("sse4.2"))
        return crc32c_sse42(crc, in);
    return crc32c_portable(crc, in);
}

#else

uint32_t
crc32c(uint32_t crc, struct span in)
{
    return crc32c_portable(crc, in);
}

#endif
