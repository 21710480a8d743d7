/* Counts and bounds what BoringSSL allocates, through the weak hooks that it looks for in the
 * program: peers decide how much TLS memory there is, so the worker must see it. */
#include <limits.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "tls/library.h"

/* When the program has these three, the library calls them instead of malloc and free. */
void *OPENSSL_memory_alloc(size_t size);
void OPENSSL_memory_free(void *memory);
size_t OPENSSL_memory_get_size(void *memory);

/* Threads add to the common count in steps of this, so that records do not pull one cache line
 * between cores. */
#define COUNT_STEP_BYTES (64 * 1024)

static atomic_llong bytes_in_use;
static atomic_llong bytes_max; /* 0: no limit */
static _Thread_local long long bytes_not_counted_yet;

static void
count(long long bytes)
{
    bytes_not_counted_yet += bytes;
    if (bytes_not_counted_yet > COUNT_STEP_BYTES || bytes_not_counted_yet < -COUNT_STEP_BYTES) {
        atomic_fetch_add_explicit(&bytes_in_use, bytes_not_counted_yet, memory_order_relaxed);
        bytes_not_counted_yet = 0;
    }
}

void *
OPENSSL_memory_alloc(size_t size)
{
    long long limit = atomic_load_explicit(&bytes_max, memory_order_relaxed);
    void *memory;

    if (limit > 0 && (size > (size_t)limit || (long long)(tls_memory_in_use() + size) > limit))
        return NULL;
    memory = malloc(size > 0 ? size : 1); /* the library takes NULL for no memory */
    if (memory)
        count((long long)malloc_usable_size(memory));
    return memory;
}

/* The library leaves the wiping of keys and plain text to this hook. */
void
OPENSSL_memory_free(void *memory)
{
    size_t size = malloc_usable_size(memory);

    if (!memory)
        return;
    count(-(long long)size);
    OPENSSL_cleanse(memory, size);
    free(memory);
}

size_t
OPENSSL_memory_get_size(void *memory)
{
    return memory ? malloc_usable_size(memory) : 0;
}

void
tls_memory_limit(size_t bytes)
{
    ASSERT(bytes <= LLONG_MAX);
    atomic_store_explicit(&bytes_max, (long long)bytes, memory_order_relaxed);
}

size_t
tls_memory_in_use(void)
{
    long long bytes = atomic_load_explicit(&bytes_in_use, memory_order_relaxed);

    bytes += bytes_not_counted_yet;
    return bytes > 0 ? (size_t)bytes : 0;
}
