/* guard: puts test input where reading one byte too far, or too early, ends the test at once.
 * Does:    guard_end() copies bytes so that the last one is followed by a PROT_NONE page,
 *          guard_start() so that the first one comes right after such a page.
 * Owns:    its mapping. A copy lives until the next call on the same guard: use two guards for two
 *          copies.
 * Memory:  maps pages on first use, and again for a larger copy; guard_close() returns them.
 * Errors:  no memory: abort().
 *
 *     static struct guard guard;
 *     struct span in = guard_end(&guard, row->input, row->input_len);
 */
#ifndef RINGPOST_TESTS_UNIT_GUARD_H
#define RINGPOST_TESTS_UNIT_GUARD_H

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/span.h"

struct guard {
    char *bytes; /* the usable bytes; a PROT_NONE page lies before and after them */
    size_t size; /* a multiple of the page size; 0: nothing is mapped yet */
};

static inline size_t
guard_page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static inline void
guard_close(struct guard *guard)
{
    size_t page = guard_page_bytes();

    if (guard->size > 0 && munmap(guard->bytes - page, guard->size + 2 * page) != 0)
        abort();
    *guard = (struct guard){ 0 };
}

static inline void
guard_reserve(struct guard *guard, size_t len)
{
    size_t page = guard_page_bytes();
    size_t size = len / page * page + page;
    char *map;

    if (guard->size >= len && guard->size > 0)
        return;
    guard_close(guard);
    map = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        abort();
    if (mprotect(map + page, size, PROT_READ | PROT_WRITE) != 0)
        abort();
    *guard = (struct guard){ .bytes = map + page, .size = size };
}

/* A copy of the bytes that ends exactly at an unreadable page. An empty one points at that page. */
static inline struct span
guard_end(struct guard *guard, const void *data, size_t len)
{
    char *copy;

    guard_reserve(guard, len);
    copy = guard->bytes + guard->size - len;
    if (len > 0)
        memcpy(copy, data, len);
    return span_of(copy, len);
}

/* A copy of the bytes that starts exactly after an unreadable page. */
static inline struct span
guard_start(struct guard *guard, const void *data, size_t len)
{
    guard_reserve(guard, len);
    if (len > 0)
        memcpy(guard->bytes, data, len);
    return span_of(guard->bytes, len);
}

#endif
