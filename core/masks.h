/* masks: where in 64 octets the CRs, LFs and dots are, as bits.
 * Does:    the one place with vector instructions: AVX2 where the processor has it, else SSE2, on
 *          x86-64; NEON on aarch64; plain C elsewhere and as the twin that tests hold against them.
 * Owns:    nothing; the input is borrowed for the call.
 * Memory:  none allocated; reads exactly the octets it is given.
 */
#ifndef RINGPOST_CORE_MASKS_H
#define RINGPOST_CORE_MASKS_H

#include "core/span.h"

#define MASKS_OCTETS 64

/* Bit i stands for octet i of the block. */
struct octet_masks {
    uint64_t cr;
    uint64_t lf;
    uint64_t dot;
    bool nul;       /* a NUL somewhere in the block */
    bool eight_bit; /* an octet above 127 somewhere in the block */
};

/* Reads blocks * MASKS_OCTETS octets and fills out[0..blocks). */
void masks_read(const char *data, size_t blocks, struct octet_masks *out);

/* The offset of the first CR or LF at or after `from`, or len. */
MUST_USE size_t masks_find_line_octet(const char *data, size_t from, size_t len);

/* Each implementation by name, for the tests. Returns how many there are; the first is plain C. */
#define MASKS_KERNELS_MAX 3
struct masks_kernel {
    const char *name;
    void (*read)(const char *data, size_t blocks, struct octet_masks *out);
    bool usable; /* this processor can run it */
};
size_t masks_kernels(struct masks_kernel kernels[MASKS_KERNELS_MAX]);

#endif
