/* config_arena: memory that is given out in pieces and given back all at once.
 * Does:    zeroed pieces for the configuration and for the YAML tree that it is read from.
 * Owns:    every piece, until config_arena_free().
 * Memory:  heap, at most CONFIG_ARENA_BYTES_MAX.
 * Threads: the main thread.
 * Errors:  NULL when memory is at its end; the caller reports it.
 */
#ifndef RINGPOST_CORE_CONFIG_ARENA_H
#define RINGPOST_CORE_CONFIG_ARENA_H

#include "core/span.h"

/* A file of 1 MiB of the shortest nodes (two bytes each) becomes a tree of about 50 MiB. */
#define CONFIG_ARENA_BYTES_MAX ((size_t)128 << 20)

struct config_chunk;

struct config_arena {
    struct config_chunk *chunks; /* newest first */
    size_t bytes;                /* of all chunks */
};

/* count pieces of `size` bytes in a row, zeroed and aligned for any type. count may be 0. */
MUST_USE void *config_arena_allocate(struct config_arena *arena, size_t count, size_t size);

/* A copy of s with a NUL behind it. */
MUST_USE char *config_arena_text(struct config_arena *arena, struct span s);

void config_arena_free(struct config_arena *arena);

#endif
