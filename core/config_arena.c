/* An allocator for a value that is built once and freed as a whole: no ownership rules inside. */
#include "core/config_arena.h"

#include <stdalign.h>
#include <stdlib.h>

#define CHUNK_BYTES ((size_t)8192)

struct config_chunk {
    struct config_chunk *next;
    size_t used; /* bytes of data */
    size_t size;
    alignas(max_align_t) char data[];
};

static struct config_chunk *
chunk_add(struct config_arena *arena, size_t bytes)
{
    size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;

    if (size > CONFIG_ARENA_BYTES_MAX - arena->bytes)
        return NULL;
    struct config_chunk *chunk = calloc(1, sizeof(*chunk) + size);
    if (chunk == NULL)
        return NULL;
    chunk->size = size;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    arena->bytes += size;
    return chunk;
}

void *
config_arena_allocate(struct config_arena *arena, size_t count, size_t size)
{
    const size_t align = alignof(max_align_t);

    ASSERT(arena->bytes <= CONFIG_ARENA_BYTES_MAX);
    ASSERT(size > 0);
    if (count > CONFIG_ARENA_BYTES_MAX / size)
        return NULL;
    size_t bytes = (count * size + align - 1) / align * align;
    struct config_chunk *chunk = arena->chunks;
    if (chunk == NULL || chunk->size - chunk->used < bytes)
        chunk = chunk_add(arena, bytes);
    if (chunk == NULL)
        return NULL;
    void *piece = chunk->data + chunk->used;
    chunk->used += bytes;
    return piece;
}

char *
config_arena_text(struct config_arena *arena, struct span s)
{
    char *text = config_arena_allocate(arena, s.len + 1, 1);

    if (text != NULL && s.len > 0)
        memcpy(text, s.data, s.len);
    return text;
}

void
config_arena_free(struct config_arena *arena)
{
    while (arena->chunks != NULL) {
        struct config_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
    arena->bytes = 0;
}
