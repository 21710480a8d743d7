/* Objects in one run of lazily touched pages, a free list of indexes beside them. */
#include "core/pool.h"

#include "core/io.h"

#define POOL_NONE UINT32_MAX

bool
pool_init(struct pool *pool, size_t object_bytes, uint32_t capacity)
{
    /* 16-byte steps keep every object aligned for whatever it holds. */
    size_t step = (object_bytes + 15) & ~(size_t)15;

    *pool = (struct pool){ .object_bytes = step,
                           .inverse = UINT64_MAX / step + 1,
                           .capacity = capacity,
                           .free_first = POOL_NONE };
    pool->objects = io_memory(step * capacity);
    pool->slots = io_memory(sizeof(struct pool_slot) * capacity);
    if (pool->objects == NULL || pool->slots == NULL) {
        pool_destroy(pool);
        return false;
    }
    return true;
}

void
pool_destroy(struct pool *pool)
{
    if (pool->objects != NULL)
        io_memory_free(pool->objects, pool->object_bytes * pool->capacity);
    if (pool->slots != NULL)
        io_memory_free(pool->slots, sizeof(struct pool_slot) * pool->capacity);
    *pool = (struct pool){ .free_first = POOL_NONE };
}

void *
pool_take(struct pool *pool)
{
    uint32_t index = pool->free_first;

    if (index != POOL_NONE) {
        pool->free_first = pool->slots[index].next;
    } else {
        if (pool->touched == pool->capacity)
            return NULL;
        index = pool->touched++;
    }
    ASSERT(!pool->slots[index].in_use);
    pool->slots[index].in_use = 1;
    pool->slots[index].generation = (pool->slots[index].generation + 1) & (POOL_GENERATIONS - 1);
    if (++pool->used > pool->used_most)
        pool->used_most = pool->used;
    return pool->objects + (size_t)index * pool->object_bytes;
}

void
pool_release(struct pool *pool, void *object)
{
    uint32_t index = pool_index(pool, object);

    ASSERT(pool->slots[index].in_use);
    pool->slots[index].in_use = 0;
    pool->slots[index].next = pool->free_first;
    pool->free_first = index;
    pool->used--;
}

uint32_t
pool_index(const struct pool *pool, const void *object)
{
    size_t offset = (size_t)((const char *)object - pool->objects);

    /* A division would take more time than all else here. */
    size_t index = (size_t)((unsigned __int128)offset * pool->inverse >> 64);

    ASSERT(index < pool->touched);
    ASSERT(index * pool->object_bytes == offset);
    return (uint32_t)index;
}
