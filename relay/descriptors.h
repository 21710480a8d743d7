/* descriptors: how many sockets this process may have.
 * Does:    raises the limit of open files, beyond the hard one where that is allowed (root).
 * Owns:    nothing.
 * Threads: the main thread, at the start.
 */
#ifndef RINGPOST_RELAY_DESCRIPTORS_H
#define RINGPOST_RELAY_DESCRIPTORS_H

#include <stdint.h>

/* To `wanted`, or as far as it goes; never down. Returns what may be open then, 0 if that is not
 * known. */
uint64_t descriptors_raise(uint64_t wanted);

#endif
