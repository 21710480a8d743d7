/* The vector instructions against plain C: each kernel that this processor can run must give the
 * masks that the first one gives, for every alignment, and the search for a line octet must find
 * what a plain loop finds, from every start; and so must passing over ordinary octets. Input: the
 * octets, and nothing else. */
#include <stdint.h>

#include "core/masks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BLOCKS_MAX 4
#define OCTETS_MAX (BLOCKS_MAX * MASKS_OCTETS)

static bool
same(const struct octet_masks *a, const struct octet_masks *b)
{
    return a->cr == b->cr && a->lf == b->lf && a->dot == b->dot && a->nul == b->nul &&
           a->eight_bit == b->eight_bit;
}

/* What masks.h promises, octet by octet. */
static struct octet_masks
plain(const char *data)
{
    struct octet_masks masks = { .cr = 0 };

    for (unsigned i = 0; i < MASKS_OCTETS; i++) {
        uint64_t bit = UINT64_C(1) << i;

        masks.cr |= data[i] == '\r' ? bit : 0;
        masks.lf |= data[i] == '\n' ? bit : 0;
        masks.dot |= data[i] == '.' ? bit : 0;
        masks.nul |= data[i] == '\0' ? bit : 0;
        masks.eight_bit |= (unsigned char)data[i] > 127 ? bit : 0;
    }
    return masks;
}

static void
blocks_check(const char *data, size_t blocks)
{
    struct masks_kernel kernels[MASKS_KERNELS_MAX];
    struct octet_masks got[BLOCKS_MAX], chosen[BLOCKS_MAX];
    size_t count = masks_kernels(kernels);

    masks_read(data, blocks, chosen);
    for (size_t kernel = 0; kernel < count; kernel++) {
        if (!kernels[kernel].usable)
            continue;
        kernels[kernel].read(data, blocks, got);
        for (size_t i = 0; i < blocks; i++) {
            struct octet_masks want = plain(data + i * MASKS_OCTETS);

            ASSERT(same(&got[i], &want));
            ASSERT(same(&chosen[i], &want));
        }
    }
}

static void
search_check(const char *data, size_t len)
{
    size_t want = len;

    ASSERT(masks_find_line_octet(data, len, len) == len);
    for (size_t from = len; from-- > 0;) {
        if (data[from] == '\r' || data[from] == '\n' || data[from] == '\0')
            want = from;
        ASSERT(masks_find_line_octet(data, from, len) == want);
    }
}

/* Passing over ordinary octets from one place, and by each kernel from the second octet on. */
static void
pass_check(const char *data, size_t from, size_t len, bool dots)
{
    struct masks_kernel kernels[MASKS_KERNELS_MAX];
    size_t count = masks_kernels(kernels), blocks = (len - from) / MASKS_OCTETS, at = from;
    struct octets_seen want = { .nul = false }, before_block = want, got = want;
    size_t taken = 0;

    for (; at < len; at++) {
        if ((data[at - 1] == '\r') != (data[at] == '\n') ||
            (dots && data[at - 1] == '\n' && data[at] == '.'))
            break;
        want.nul |= data[at] == '\0';
        want.eight_bit |= (unsigned char)data[at] > 127;
        if ((at + 1 - from) % MASKS_OCTETS == 0) {
            taken++;
            before_block = want;
        }
    }
    ASSERT(masks_pass_ordinary(data, from, len, dots, &got) == at);
    ASSERT(got.nul == want.nul && got.eight_bit == want.eight_bit);
    for (size_t kernel = 0; kernel < count; kernel++) {
        if (!kernels[kernel].usable)
            continue;
        got = (struct octets_seen){ .nul = false };
        ASSERT(kernels[kernel].ordinary(data + from, blocks, dots ? '.' : '\n', &got) == taken);
        ASSERT(got.nul == before_block.nul && got.eight_bit == before_block.eight_bit);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char octets[OCTETS_MAX + MASKS_OCTETS];

    if (size > OCTETS_MAX)
        return -1;
    /* Short findings of the fuzzer must meet every place of a block. */
    for (size_t shift = 0; shift < MASKS_OCTETS; shift += size > MASKS_OCTETS ? 13 : 1) {
        size_t blocks = (shift + size) / MASKS_OCTETS;

        memset(octets, 'a', shift);
        memcpy(octets + shift, data, size);
        memset(octets + shift + size, 'b', MASKS_OCTETS - shift % MASKS_OCTETS);
        blocks_check(octets, blocks < BLOCKS_MAX ? blocks + 1 : BLOCKS_MAX);
        if (shift < 3)
            search_check(octets, shift + size);
        for (size_t from = 1; from <= shift + size; from += 1 + from / 4) {
            pass_check(octets, from, shift + size, true);
            pass_check(octets, from, shift + size, false);
        }
    }
    return 0;
}
