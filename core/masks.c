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
            masks.nul |= octet == 0;
            masks.eight_bit |= octet > 127;
        }
        out[block] = masks;
    }
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

static void
masks_read_sse2(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        __m128i octets[4], any, least;

        for (int i = 0; i < 4; i++)
            octets[i] = _mm_loadu_si128((const __m128i *)(const void *)(data + 16 * i));
        any = _mm_or_si128(_mm_or_si128(octets[0], octets[1]), _mm_or_si128(octets[2], octets[3]));
        least =
            _mm_min_epu8(_mm_min_epu8(octets[0], octets[1]), _mm_min_epu8(octets[2], octets[3]));
        out[block] = (struct octet_masks){
            .cr = equal_sse2(octets, '\r'),
            .lf = equal_sse2(octets, '\n'),
            .dot = equal_sse2(octets, '.'),
            .nul = _mm_movemask_epi8(_mm_cmpeq_epi8(least, _mm_setzero_si128())) != 0,
            .eight_bit = _mm_movemask_epi8(any) != 0,
        };
    }
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

AVX2 static void
masks_read_avx2(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)data);
        __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(data + 32));
        __m256i least = _mm256_min_epu8(low, high);

        out[block] = (struct octet_masks){
            .cr = equal_avx2(low, high, '\r'),
            .lf = equal_avx2(low, high, '\n'),
            .dot = equal_avx2(low, high, '.'),
            .nul = _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_setzero_si256())) != 0,
            .eight_bit = _mm256_movemask_epi8(_mm256_or_si256(low, high)) != 0,
        };
    }
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

#define LINE_OCTETS_WIDTH 16

/* Bit i: octet i is CR or LF. */
static inline unsigned
line_octets(const char *data)
{
    __m128i octets = _mm_loadu_si128((const __m128i *)(const void *)data);
    __m128i cr = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\r'));
    __m128i lf = _mm_cmpeq_epi8(octets, _mm_set1_epi8('\n'));

    return (unsigned)_mm_movemask_epi8(_mm_or_si128(cr, lf));
}

#elif defined(__aarch64__)

/* Lane i of a comparison becomes bit i % 8; adding neighbours three times packs them into bits. */
static const uint8_t lane_bits[16] = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };

static inline uint64_t
equal_neon(const uint8x16_t octets[4], uint8_t octet)
{
    uint8x16_t bits = vld1q_u8(lane_bits);
    uint8x16_t wanted = vdupq_n_u8(octet);
    uint8x16_t first = vpaddq_u8(vandq_u8(vceqq_u8(octets[0], wanted), bits),
                                 vandq_u8(vceqq_u8(octets[1], wanted), bits));
    uint8x16_t second = vpaddq_u8(vandq_u8(vceqq_u8(octets[2], wanted), bits),
                                  vandq_u8(vceqq_u8(octets[3], wanted), bits));
    uint8x16_t sums = vpaddq_u8(first, second);

    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)), 0);
}

static void
masks_read_neon(const char *data, size_t blocks, struct octet_masks *out)
{
    for (size_t block = 0; block < blocks; block++, data += MASKS_OCTETS) {
        uint8x16_t octets[4], most, least;

        for (int i = 0; i < 4; i++)
            octets[i] = vld1q_u8((const uint8_t *)data + 16 * i);
        most = vmaxq_u8(vmaxq_u8(octets[0], octets[1]), vmaxq_u8(octets[2], octets[3]));
        least = vminq_u8(vminq_u8(octets[0], octets[1]), vminq_u8(octets[2], octets[3]));
        out[block] = (struct octet_masks){
            .cr = equal_neon(octets, '\r'),
            .lf = equal_neon(octets, '\n'),
            .dot = equal_neon(octets, '.'),
            .nul = vminvq_u8(least) == 0,
            .eight_bit = vmaxvq_u8(most) > 127,
        };
    }
}

void
masks_read(const char *data, size_t blocks, struct octet_masks *out)
{
    masks_read_neon(data, blocks, out);
}

#define LINE_OCTETS_WIDTH 16

/* Bit i: octet i is CR or LF. */
static inline unsigned
line_octets(const char *data)
{
    uint8x16_t octets = vld1q_u8((const uint8_t *)data);
    uint8x16_t found =
        vorrq_u8(vceqq_u8(octets, vdupq_n_u8('\r')), vceqq_u8(octets, vdupq_n_u8('\n')));
    uint8x16_t bits = vandq_u8(found, vld1q_u8(lane_bits));

    return vaddv_u8(vget_low_u8(bits)) | (unsigned)vaddv_u8(vget_high_u8(bits)) << 8;
}

#else

void
masks_read(const char *data, size_t blocks, struct octet_masks *out)
{
    masks_read_plain(data, blocks, out);
}

#define LINE_OCTETS_WIDTH 1

static inline unsigned
line_octets(const char *data)
{
    return *data == '\r' || *data == '\n';
}

#endif

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
        if (data[at] == '\r' || data[at] == '\n')
            return at;
    return len;
}

size_t
masks_kernels(struct masks_kernel kernels[MASKS_KERNELS_MAX])
{
    size_t count = 0;

    kernels[count++] = (struct masks_kernel){ "plain", masks_read_plain, true };
#if defined(__x86_64__)
    kernels[count++] = (struct masks_kernel){ "sse2", masks_read_sse2, true };
    kernels[count++] = (struct masks_kernel){ "avx2", masks_read_avx2, have_avx2() };
#elif defined(__aarch64__)
    kernels[count++] = (struct masks_kernel){ "neon", masks_read_neon, true };
#endif
    return count;
}
