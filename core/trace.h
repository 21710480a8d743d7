/* trace: the last state changes of this thread, for the report of a failed ASSERT.
 * Does:    keeps who went from which state to which and why, newest TRACE_TRANSITIONS_MAX of them.
 * Owns:    one ring per thread, in thread-local memory.
 * Memory:  none allocated. The texts are borrowed for ever: literals only.
 * Threads: each sees its own ring.
 * Errors:  none. Reading takes no lock and formats without stdio, so it is safe in a dying process.
 */
#ifndef RINGPOST_CORE_TRACE_H
#define RINGPOST_CORE_TRACE_H

#include "core/span.h"

/* A turn of the worker seldom changes more states than this; 5 KiB a thread. A power of two. */
#define TRACE_TRANSITIONS_MAX 128
/* One line of trace_line(): four short texts, a number, an address. */
#define TRACE_LINE_BYTES_MAX 256

/* machine: "receiver"; object: which one (only its address is kept); cause: the command or event.
 * Five stores. */
void trace_transition(const char *machine, const void *object, const char *from, const char *to,
                      const char *cause);

/* Writes one line, with its '\n', about the transition `age` transitions ago (0: the last); what
 * does not fit in `out` is cut. False: the ring does not reach back so far. */
bool trace_line(size_t age, struct outbuf *out);

#endif
