/* masks: where in 64 octets the CRs, LFs and dots are, as bits.
 * Does:    the one place with vector instructions, also for passing over message data as long as
 *          nothing in it needs a closer look: AVX2 where the processor has it, else SSE2, on
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
    uint64_t nul;
    uint64_t eight_bit; /* octets above 127 */
};

/* What was among octets that were passed over; set, never cleared. */
struct octets_seen {
    bool nul;
    bool eight_bit; /* an octet above 127 */
};

/* Reads blocks * MASKS_OCTETS octets and fills out[0..blocks). */
void masks_read(const char *data, size_t blocks, struct octet_masks *out);

/* Passes over message data from `from` (at least 1: the octet before it is read) to the first octet
 * that needs a closer look, and returns its offset, or len. Such is: an LF that no CR precedes, an
 * octet other than LF behind a CR and, if `dots`, a dot behind an LF. A CR as the last is none. */
MUST_USE size_t masks_pass_ordinary(const char *data, size_t from, size_t len, bool dots,
                                    struct octets_seen *seen);

/* The offset of the first CR, LF or NUL at or after `from`, or len. */
MUST_USE size_t masks_find_line_octet(const char *data, size_t from, size_t len);

/* Each implementation by name, for the tests. Returns how many there are; the first is plain C. */
#define MASKS_KERNELS_MAX 3
struct masks_kernel {
    const char *name;
    void (*read)(const char *data, size_t blocks, struct octet_masks *out);
    /* How many blocks from the front hold nothing that needs a closer look. Reads data[-1]; dot:
     * which octet does behind an LF. */
    size_t (*ordinary)(const char *data, size_t blocks, char dot, struct octets_seen *seen);
    bool usable; /* this processor can run it */
};
size_t masks_kernels(struct masks_kernel kernels[MASKS_KERNELS_MAX]);

#endif
