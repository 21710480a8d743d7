/* buffers: the fixed set of BUFFER_BYTES receive buffers of one worker, and chains of filled ones.
 * Does:    who holds which buffer: the kernel (offered), a chain (message data, bytes waiting to
 *          be parsed), nobody. A buffer has one holder at a time and moves whole; nothing counts
 *          references.
 * Owns:    the bookkeeping; the memory is the caller's and must outlive it.
 * Memory:  none allocated after buffers_init.
 * Threads: the worker's.
 * Errors:  running out is a result (BUFFER_NONE); giving back twice is our bug: ASSERT.
 */
#ifndef RINGPOST_CORE_BUFFERS_H
#define RINGPOST_CORE_BUFFERS_H

#include "core/limits.h"
#include "core/span.h"

#define BUFFER_NONE UINT32_MAX

struct buffer_meta {
    uint32_t next;  /* in a chain, or on the free list */
    uint16_t start; /* first byte that counts */
    uint16_t len;   /* bytes that count */
    bool held;      /* not on the free list */
};

struct buffers {
    char *memory;
    struct buffer_meta *meta;
    uint32_t count, free_first, free_count;
    uint32_t free_least; /* low-water mark, for the statistics */
};

struct chain { /* filled buffers in order */
    uint32_t first, last, count;
    uint64_t bytes;
};

#define CHAIN_EMPTY ((struct chain){ .first = BUFFER_NONE, .last = BUFFER_NONE })

/* memory: count * BUFFER_BYTES; meta: count entries. Both stay the caller's. */
void buffers_init(struct buffers *buffers, char *memory, struct buffer_meta *meta, uint32_t count);

/* Takes a free buffer, the one given back last first (its lines are still in the cache).
 * BUFFER_NONE: none is left above the reserve. */
MUST_USE uint32_t buffer_take(struct buffers *buffers, uint32_t reserve);
void buffer_release(struct buffers *buffers, uint32_t index);

static inline char *
buffer_memory(const struct buffers *buffers, uint32_t index)
{
    ASSERT_SLOW(index < buffers->count);
    return buffers->memory + (size_t)index * BUFFER_BYTES;
}

static inline struct span
buffer_span(const struct buffers *buffers, uint32_t index)
{
    const struct buffer_meta *meta = &buffers->meta[index];

    return span_of(buffer_memory(buffers, index) + meta->start, meta->len);
}

/* Appends a buffer that the caller holds; the chain holds it then. */
void chain_append(struct buffers *buffers, struct chain *chain, uint32_t index, size_t start,
                  size_t len);
/* Copies bytes to the end of the chain, into the room of its last buffer and into fresh ones.
 * False: no buffer was left (nothing was added). */
MUST_USE bool chain_copy(struct buffers *buffers, struct chain *chain, struct span bytes);
/* Octets that chain_copy() can add without a fresh buffer. */
size_t chain_room(const struct buffers *buffers, const struct chain *chain);
/* What chain_room() tells, to be written to from outside; then the chain has len octets more. */
struct outbuf chain_tail(const struct buffers *buffers, const struct chain *chain);
void chain_grow(struct buffers *buffers, struct chain *chain, size_t len);
/* Takes the first buffer out of the chain; the caller holds it then. */
MUST_USE uint32_t chain_pop(struct buffers *buffers, struct chain *chain);
/* Drops len bytes from the front; buffers that become empty are released. */
void chain_consume(struct buffers *buffers, struct chain *chain, size_t len);
void chain_release(struct buffers *buffers, struct chain *chain);
/* Moves all of `from` to the end of `to`. */
void chain_move(struct buffers *buffers, struct chain *to, struct chain *from);

#endif
