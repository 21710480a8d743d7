/* pool: a fixed number of objects of one size, taken and given back by index.
 * Does:    last-in-first-out reuse; each object has a generation that counts its uses, so that a
 *          late completion for an earlier use is told from one for the present use.
 * Owns:    memory from io_memory(): zero pages that cost nothing until they are touched.
 * Threads: its owner's.
 * Errors:  an empty pool is a result (NULL); giving back twice is our bug: ASSERT.
 */
#ifndef RINGPOST_CORE_POOL_H
#define RINGPOST_CORE_POOL_H

#include "core/span.h"

struct pool_slot { /* pool.c's */
    uint32_t next;
    uint32_t generation : 24;
    uint32_t in_use : 1;
};

struct pool {
    char *objects;
    struct pool_slot *slots;
    size_t object_bytes;
    uint64_t inverse; /* 2^64 / object_bytes, rounded up */
    uint32_t capacity;
    uint32_t used, used_most; /* now, and the high-water mark */
    uint32_t touched;         /* slots [0, touched) were used at least once */
    uint32_t free_first;
};

#define POOL_GENERATIONS (1u << 24)

/* False: no memory. */
MUST_USE bool pool_init(struct pool *pool, size_t object_bytes, uint32_t capacity);
void pool_destroy(struct pool *pool);

/* An object, not cleared, or NULL. */
MUST_USE void *pool_take(struct pool *pool);
void pool_release(struct pool *pool, void *object);

/* Index of an object. */
uint32_t pool_index(const struct pool *pool, const void *object);

/* Object of an index; it must be in use. */
static inline void *
pool_at(const struct pool *pool, uint32_t index)
{
    ASSERT(index < pool->touched);
    return pool->objects + (size_t)index * pool->object_bytes;
}

/* The present generation of an index, below POOL_GENERATIONS. */
static inline uint32_t
pool_generation(const struct pool *pool, uint32_t index)
{
    ASSERT(index < pool->touched);
    return pool->slots[index].generation;
}

static inline bool
pool_in_use(const struct pool *pool, uint32_t index)
{
    return index < pool->touched && pool->slots[index].in_use;
}

#endif
