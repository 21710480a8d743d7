/* crc32c: the Castagnoli checksum (RFC 3720 B.4), by the processor's instruction where it has one.
 * Owns:    nothing.
 * Memory:  none. Pure.
 */
#ifndef RINGPOST_CORE_CRC32C_H
#define RINGPOST_CORE_CRC32C_H

#include "core/span.h"

/* Goes on from crc (0 at the start): crc32c(crc32c(0, a), b) is that of a and b in a row. */
uint32_t crc32c(uint32_t crc, struct span in);
/* The same without the instruction: its twin, for tests and other processors. */
uint32_t crc32c_portable(uint32_t crc, struct span in);

#endif
