/* descriptors: how many connections this process may have.
 * Does:    raises the limit of open files, beyond the hard one where that is allowed (root).
 * Owns:    nothing.
 */
#ifndef RINGPOST_BENCH_DESCRIPTORS_H
#define RINGPOST_BENCH_DESCRIPTORS_H

#include <stdint.h>

/* To `wanted`, or as far as it goes. Returns what it is then. */
uint64_t descriptors_raise(uint64_t wanted);

#endif
