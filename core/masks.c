/* Finding CR, LF, dot, NUL and 8-bit octets is the only per-octet work of relaying a body; it lives
 * here so that the line logic (line.c) has no vector code and the vector code no logic. */
#include "core/masks.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

static void
masks_read_plain(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++) {
        struct octet_masks masks = { 0 };

        for (unsigned i = 0; i < MASKS_OCTETS; i++) {
            unsigned char octet = (unsigned char)data[block * MASKS_OCTETS + i];

            masks.cr |= (uint64_t)(octet == '\r') << i;
            masks.lf |= (uint64_t)(octet == '\n') << i;
            masks.dot |= (uint64_t)(octet == '.') << i;
            masks.nul |= (uint64_t)(octet == 0) << i;
            masks.eight_bit |= (uint64_t)(octet > 127) << i;
        }
        out[block] = masks;
    }
}

static size_t
ordinary_blocks_plain(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    for (size_t block = 0; block < blocks; block++) {
        struct octets_seen here = { 0 };

        for (unsigned i = 0; i < MASKS_OCTETS; i++, data++) {
            if ((data[-1] == '\r') != (data[0] == '\n') || (data[-1] == '\n' && data[0] == dot))
                return block;
            here.nul |= *data == 0;
            here.eight_bit |= (unsigned char)*data > 127;
        }
        seen->nul |= here.nul;
        seen->eight_bit |= here.eight_bit;
    }
    return blocks;
}

#if defined(__x86_64__)

/* --- SSE2: every x86-64 has it --- */

static inline uint64_t
equal_sse2(const __m128i octets[4], char octet)
{
    __m128i wanted = _mm_set1_epi8(octet);
    uint64_t mask = 0;

    for (int i = 0; i < 4; i++) {
        int bits = _mm_movemask_epi8(_mm_cmpeq_epi8(octets[i], wanted));

        mask |= (uint64_t)(uint32_t)bits << (16 * i);
    }
    return mask;
}

static inline uint64_t
eight_bit_sse2(const __m128i octets[4])
{
    uint64_t mask = 0;

    for (int i = 0; i < 4; i++)
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(octets[i]) << (16 * i);
    return mask;
}

static inline __m128i
load_sse2(const char *data)
{
    return _mm_loadu_si128((const __m128i *)(const void *)data);
}

static void
masks_read_sse2(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        __m128i octets[4];

        for (int i = 0; i < 4; i++)
            octets[i] = load_sse2(data + 16 * i);
        out[block] = (struct octet_masks){
            .cr = equal_sse2(octets, '\r'),
            .lf = equal_sse2(octets, '\n'),
            .dot = equal_sse2(octets, '.'),
            .nul = equal_sse2(octets, 0),
            .eight_bit = eight_bit_sse2(octets),
        };
    }
}

/* All bits of an octet that is odd are set. The loads at data - 1 are the octets before. */
static inline __m128i
odd_sse2(const char *data, char dot)
{
    __m128i cr = _mm_set1_epi8('\r'), lf = _mm_set1_epi8('\n');
    __m128i octets = load_sse2(data), before = load_sse2(data - 1);
    __m128i unpaired = _mm_xor_si128(_mm_cmpeq_epi8(octets, lf), _mm_cmpeq_epi8(before, cr));
    __m128i dots =
        _mm_and_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8(dot)), _mm_cmpeq_epi8(before, lf));

    return _mm_or_si128(unpaired, dots);
}

static size_t
ordinary_blocks_sse2(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    __m128i any = _mm_setzero_si128(), least = _mm_set1_epi8(-1);
    size_t block = 0;

    for (; block < blocks; block++, data += MASKS_OCTETS) {
        __m128i odd = _mm_setzero_si128();

        for (int i = 0; i < 4; i++)
            odd = _mm_or_si128(odd, odd_sse2(data + 16 * i, dot));
        if (_mm_movemask_epi8(odd) != 0)
            break;
        for (int i = 0; i < 4; i++) {
            any = _mm_or_si128(any, load_sse2(data + 16 * i));
            least = _mm_min_epu8(least, load_sse2(data + 16 * i));
        }
    }
    seen->nul |= _mm_movemask_epi8(_mm_cmpeq_epi8(least, _mm_setzero_si128())) != 0;
    seen->eight_bit |= _mm_movemask_epi8(any) != 0;
    return block;
}

/* --- AVX2: compiled in always, called only where the processor has it --- */

#define AVX2 __attribute__((target("avx2")))

AVX2 static inline uint64_t
equal_avx2(__m256i low, __m256i high, char octet)
{
    __m256i wanted = _mm256_set1_epi8(octet);
    int low_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(low, wanted));
    int high_bits = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, wanted));

    return (uint64_t)(uint32_t)high_bits << 32 | (uint32_t)low_bits;
}

AVX2 static inline __m256i
load_avx2(const char *data)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)data);
}

AVX2 static void
masks_read_avx2(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        __m256i low = load_avx2(data), high = load_avx2(data + 32);

        out[block] = (struct octet_masks){
            .cr = equal_avx2(low, high, '\r'),
            .lf = equal_avx2(low, high, '\n'),
            .dot = equal_avx2(low, high, '.'),
            .nul = equal_avx2(low, high, 0),
            .eight_bit = (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32 |
                         (uint32_t)_mm256_movemask_epi8(low),
        };
    }
}

/* As odd_sse2(). */
AVX2 static inline __m256i
odd_avx2(__m256i octets, __m256i before, char dot)
{
    __m256i cr = _mm256_set1_epi8('\r'), lf = _mm256_set1_epi8('\n');
    __m256i unpaired =
        _mm256_xor_si256(_mm256_cmpeq_epi8(octets, lf), _mm256_cmpeq_epi8(before, cr));
    __m256i dots = _mm256_and_si256(_mm256_cmpeq_epi8(octets, _mm256_set1_epi8(dot)),
                                    _mm256_cmpeq_epi8(before, lf));

    return _mm256_or_si256(unpaired, dots);
}

AVX2 static size_t
ordinary_blocks_avx2(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    __m256i any = _mm256_setzero_si256(), least = _mm256_set1_epi8(-1);
    const char *at = data, *end = data + blocks * MASKS_OCTETS;

    for (; at < end; at += MASKS_OCTETS) {
        __m256i low = load_avx2(at), high = load_avx2(at + 32);
        __m256i odd = _mm256_or_si256(odd_avx2(low, load_avx2(at - 1), dot),
                                      odd_avx2(high, load_avx2(at + 31), dot));

        if (!_mm256_testz_si256(odd, odd))
            break;
        any = _mm256_or_si256(any, _mm256_or_si256(low, high));
        least = _mm256_min_epu8(least, _mm256_min_epu8(low, high));
    }
    seen->nul |= _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_setzero_si256())) != 0;
    seen->eight_bit |= _mm256_movemask_epi8(any) != 0;
    return (size_t)(at - data) / MASKS_OCTETS;
}

/* The start-up code of the compiler's runtime asks the processor once; this reads its answer. */
static inline bool
have_avx2(void)
{
    return __builtin_cpu_supports("avx2") != 0;
}

void
masks_read(const char *data, size_t blocks, struct octet_masks *out)
{
    if (have_avx2())
        masks_read_avx2(data, blocks, out);
    else
        masks_read_sse2(data, blocks, out);
}

static inline size_t
ordinary_blocks(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    return have_avx2() ? ordinary_blocks_avx2(data, blocks, dot, seen)
                       : ordinary_blocks_sse2(data, blocks, dot, seen);
}

#define LINE_OCTETS_WIDTH 16

/* Bit i: octet i is CR, LF or NUL. */
static inline unsigned
line_octets(const char *data)
{
    __m128i octets = _mm_loadu_si128((const __m128i *)(const void *)data);
    __m128i cr = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\r'));
    __m128i lf = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\n'));
    __m128i nul = _mm_cmpeq_epi8(octets, _mm_setzero_si128());

    return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(cr, lf), nul));
}

#elif defined(__aarch64__)

/* Lane i of a comparison becomes bit i % 8; adding neighbours three times packs them into bits. */
static const uint8_t lane_bits[16] = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };

/* Lanes that are all ones or all zeros, as bits. */
static inline uint64_t
bits_neon(const uint8x16_t found[4])
{
    uint8x16_t bits = vld1q_u8(lane_bits);
    uint8x16_t first = vpaddq_u8(vandq_u8(found[0], bits), vandq_u8(found[1], bits));
    uint8x16_t second = vpaddq_u8(vandq_u8(found[2], bits), vandq_u8(found[3], bits));
    uint8x16_t sums = vpaddq_u8(first, second);

    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)), 0);
}

static inline uint64_t
equal_neon(const uint8x16_t octets[4], uint8_t octet)
{
    uint8x16_t found[4];

    for (int i = 0; i < 4; i++)
        found[i] = vceqq_u8(octets[i], vdupq_n_u8(octet));
    return bits_neon(found);
}

static void
masks_read_neon(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        uint8x16_t octets[4], high[4];

        for (int i = 0; i < 4; i++) {
            octets[i] = vld1q_u8((const uint8_t *)data + 16 * i);
            high[i] = vcgtq_u8(octets[i], vdupq_n_u8(127));
        }
        out[block] = (struct octet_masks){
            .cr = equal_neon(octets, '\r'),
            .lf = equal_neon(octets, '\n'),
            .dot = equal_neon(octets, '.'),
            .nul = equal_neon(octets, 0),
            .eight_bit = bits_neon(high),
        };
    }
}

/* All bits of an octet that is odd are set. The load at data - 1 is the octets before. */
static inline uint8x16_t
odd_neon(const uint8_t *data, char dot)
{
    uint8x16_t octets = vld1q_u8(data), before = vld1q_u8(data - 1);
    uint8x16_t unpaired =
        veorq_u8(vceqq_u8(octets, vdupq_n_u8('\n')), vceqq_u8(before, vdupq_n_u8('\r')));
    uint8x16_t dots = vandq_u8(vceqq_u8(octets, vdupq_n_u8((uint8_t)dot)),
                               vceqq_u8(before, vdupq_n_u8('\n')));

    return vorrq_u8(unpaired, dots);
}

static size_t
ordinary_blocks_neon(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    uint8x16_t most = vdupq_n_u8(0), least = vdupq_n_u8(255);
    size_t block = 0;

    for (; block < blocks; block++, data += MASKS_OCTETS) {
        const uint8_t *octets = (const uint8_t *)data;
        uint8x16_t odd = vdupq_n_u8(0);

        for (int i = 0; i < 4; i++)
            odd = vorrq_u8(odd, odd_neon(octets + 16 * i, dot));
        if (vmaxvq_u8(odd) != 0)
            break;
        for (int i = 0; i < 4; i++) {
            most = vmaxq_u8(most, vld1q_u8(octets + 16 * i));
            least = vminq_u8(least, vld1q_u8(octets + 16 * i));
        }
    }
    seen->nul |= vminvq_u8(least) == 0;
    seen->eight_bit |= vmaxvq_u8(most) > 127;
    return block;
}

static inline size_t
ordinary_blocks(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    return ordinary_blocks_neon(data, blocks, dot, seen);
}

void
masks_read(const char *data, size_t blocks, struct octet_masks *out)
{
    masks_read_neon(data, blocks, out);
}

#define LINE_OCTETS_WIDTH 16

/* Bit i: octet i is CR, LF or NUL. */
static inline unsigned
line_octets(const char *data)
{
    uint8x16_t octets = vld1q_u8((const uint8_t *)data);
    uint8x16_t found =
        vorrq_u8(vceqq_u8(octets, vdupq_n_u8('\r')), vceqq_u8(octets, vdupq_n_u8('\n')));
    uint8x16_t bits = vandq_u8(vorrq_u8(found, vceqzq_u8(octets)), vld1q_u8(lane_bits));

    return vaddv_u8(vget_low_u8(bits)) | (unsigned)vaddv_u8(vget_high_u8(bits)) << 8;
}

#else

void
masks_read(const char *data, size_t blocks, struct octet_masks *out)
{
    masks_read_plain(data, blocks, out);
}

static inline size_t
ordinary_blocks(const char *data, size_t blocks, char dot, struct octets_seen *seen)
{
    return ordinary_blocks_plain(data, blocks, dot, seen);
}

#define LINE_OCTETS_WIDTH 1

static inline unsigned
line_octets(const char *data)
{
    return *data == '\r' || *data == '\n' || *data == '\0';
}

#endif

/* The octets of a block from its bit `skip` on up to the first odd one; how many. What is before
 * them in the block was seen already. */
static size_t
ordinary_in_block(const char *data, unsigned skip, char dot, struct octets_seen *seen)
{
    struct octet_masks masks;
    uint64_t odd, inside = UINT64_MAX << skip;
    unsigned first;

    masks_read(data, 1, &masks);
    odd = (masks.lf ^ (masks.cr << 1 | (data[-1] == '\r')));
    if (dot == '.')
        odd |= masks.dot & (masks.lf << 1 | (data[-1] == '\n'));
    odd &= inside;
    first = odd != 0 ? (unsigned)__builtin_ctzll(odd) : MASKS_OCTETS;
    if (first < MASKS_OCTETS)
        inside &= (UINT64_C(1) << first) - 1;
    seen->nul |= (masks.nul & inside) != 0;
    seen->eight_bit |= (masks.eight_bit & inside) != 0;
    return first - skip;
}

static size_t
ordinary_octets(const char *data, size_t from, size_t len, char dot, struct octets_seen *seen)
{
    for (; from < len; from++) {
        const char *octet = data + from;

        if ((octet[-1] == '\r') != (*octet == '\n') || (octet[-1] == '\n' && *octet == dot))
            return from;
        seen->nul |= *octet == 0;
        seen->eight_bit |= (unsigned char)*octet > 127;
    }
    return len;
}

size_t
masks_pass_ordinary(const char *data, size_t from, size_t len, bool dots, struct octets_seen *seen)
{
    /* An LF behind an LF is odd in any case: looking for it is looking for no dots. */
    char dot = dots ? '.' : '\n';
    size_t left;

    ASSERT(from > 0 && from <= len);
    from += ordinary_blocks(data + from, (len - from) / MASKS_OCTETS, dot, seen) * MASKS_OCTETS;
    left = len - from;
    if (left >= MASKS_OCTETS)
        return from + ordinary_in_block(data + from, 0, dot, seen);
    /* Fewer are left: read the last whole block, of which the first octets were seen before. */
    if (left > 0 && len > MASKS_OCTETS)
        return from + ordinary_in_block(data + len - MASKS_OCTETS, MASKS_OCTETS - (unsigned)left,
                                        dot, seen);
    return ordinary_octets(data, from, len, dot, seen);
}

size_t
masks_find_line_octet(const char *data, size_t from, size_t len)
{
    size_t at = from;
    unsigned found;

    ASSERT(from <= len);
    for (; len - at >= LINE_OCTETS_WIDTH; at += LINE_OCTETS_WIDTH) {
        found = line_octets(data + at);
        if (found != 0)
            return at + (unsigned)__builtin_ctz(found);
    }
    if (at < len && len >= LINE_OCTETS_WIDTH) {
        /* Fewer than a vector are left: read the last whole one and drop what was seen before. */
        found = line_octets(data + len - LINE_OCTETS_WIDTH) >> (LINE_OCTETS_WIDTH - (len - at));
        return found != 0 ? at + (unsigned)__builtin_ctz(found) : len;
    }
    for (; at < len; at++)
        if (data[at] == '\r' || data[at] == '\n' || data[at] == '\0')
            return at;
    return len;
}

size_t
masks_kernels(struct masks_kernel kernels[MASKS_KERNELS_MAX])
{
    size_t count = 0;

    kernels[count++] =
        (struct masks_kernel){ "plain", masks_read_plain, ordinary_blocks_plain, true };
#if defined(__x86_64__)
    kernels[count++] =
        (struct masks_kernel){ "sse2", masks_read_sse2, ordinary_blocks_sse2, true };
    kernels[count++] =
        (struct masks_kernel){ "avx2", masks_read_avx2, ordinary_blocks_avx2, have_avx2() };
#elif defined(__aarch64__)
    kernels[count++] =
        (struct masks_kernel){ "neon", masks_read_neon, ordinary_blocks_neon, true };
#endif
    return count;
}
