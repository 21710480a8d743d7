/* The pool: who has which object, generations, running out, and misuse. */
#include <criterion/criterion.h>

#include "core/pool.h"
#include "tests/unit/aborts.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static struct pool
pool_of(size_t object_bytes, uint32_t capacity)
{
    struct pool pool;

    cr_assert(pool_init(&pool, object_bytes, capacity));
    return pool;
}

static void
check_whole_life(size_t object_bytes, uint32_t capacity)
{
    struct pool pool = pool_of(object_bytes, capacity);
    char *objects[8];

    cr_assert(capacity <= COUNT_OF(objects));
    for (uint32_t i = 0; i < capacity; i++) {
        cr_assert_not(pool_in_use(&pool, i), "%zu bytes", object_bytes);
        objects[i] = pool_take(&pool);
        cr_assert_not_null(objects[i]);
        cr_assert_eq((uintptr_t)objects[i] % 16, 0, "%zu bytes", object_bytes);
        for (size_t at = 0; at < object_bytes; at++)
            cr_assert_eq(objects[i][at], 0, "%zu bytes: not zero", object_bytes);
        memset(objects[i], (int)('a' + i), object_bytes);
        cr_assert_eq(pool_index(&pool, objects[i]), i);
        cr_assert_eq(pool_at(&pool, i), objects[i]);
        cr_assert_eq(pool_generation(&pool, i), 1);
        cr_assert(pool_in_use(&pool, i));
        cr_assert_eq(pool.used, i + 1);
    }
    cr_assert_null(pool_take(&pool), "%zu bytes: more than its capacity", object_bytes);
    cr_assert_null(pool_take(&pool), "%zu bytes: again", object_bytes);
    /* Nobody's bytes are anybody else's. */
    for (uint32_t i = 0; i < capacity; i++)
        for (size_t at = 0; at < object_bytes; at++)
            cr_assert_eq(objects[i][at], (char)('a' + i), "%zu bytes", object_bytes);
    for (uint32_t i = 0; i < capacity; i++)
        pool_release(&pool, objects[i]);
    cr_assert_eq(pool.used, 0);
    cr_assert_eq(pool.used_most, capacity);
    for (uint32_t i = capacity; i-- > 0;) {
        cr_assert_not(pool_in_use(&pool, i));
        cr_assert_eq(pool_take(&pool), objects[i], "%zu bytes: last in first out", object_bytes);
        cr_assert_eq(pool_generation(&pool, i), 2);
    }
    cr_assert_null(pool_take(&pool));
    cr_assert_eq(pool.used_most, capacity);
    pool_destroy(&pool);
    cr_assert_null(pool.objects);
    pool_destroy(&pool); /* once more does nothing */
}

Test(pool, takes_up_to_its_capacity_and_reuses)
{
    static const struct {
        size_t object_bytes;
        uint32_t capacity;
    } rows[] = { { 1, 1 }, { 15, 3 }, { 16, 8 }, { 17, 5 }, { 4096, 4 }, { 10000, 2 } };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        check_whole_life(rows[i].object_bytes, rows[i].capacity);
}

Test(pool, in_use_says_no_beyond_what_was_ever_used)
{
    struct pool pool = pool_of(64, 4);
    void *object = pool_take(&pool);

    cr_assert(pool_in_use(&pool, 0));
    cr_assert_not(pool_in_use(&pool, 1));
    cr_assert_not(pool_in_use(&pool, 4));
    cr_assert_not(pool_in_use(&pool, UINT32_MAX));
    pool_release(&pool, object);
    pool_destroy(&pool);
}

Test(pool, generation_counts_uses_and_wraps)
{
    struct pool pool = pool_of(16, 2);
    void *other = pool_take(&pool), *object;
    uint32_t index = 1, expected = 0;

    for (uint32_t use = 0; use < POOL_GENERATIONS + 2; use++) {
        object = pool_take(&pool);
        expected = (expected + 1) % POOL_GENERATIONS;
        if (pool_index(&pool, object) != index || pool_generation(&pool, index) != expected)
            cr_assert_fail("use %u: generation %u, not %u", use, pool_generation(&pool, index),
                           expected);
        pool_release(&pool, object);
    }
    cr_assert_eq(expected, 2, "it went over the end");
    cr_assert_eq(pool_generation(&pool, index), 2, "giving back changes nothing");
    cr_assert_eq(pool_generation(&pool, 0), 1);
    cr_assert_eq(pool.used_most, 2);
    pool_release(&pool, other);
    pool_destroy(&pool);
}

Test(pool, no_memory_is_a_result)
{
    struct pool pool;

    cr_assert_not(pool_init(&pool, (size_t)1 << 44, 1u << 16));
    cr_assert_null(pool.objects);
    cr_assert_null(pool.slots);
    cr_assert_eq(pool.used, 0);
}

Test(pool, giving_back_twice_aborts, .signal = SIGABRT)
{
    struct pool pool = pool_of(64, 2);
    void *object = pool_take(&pool);

    pool_release(&pool, object);
    pool_release(&pool, object);
}

static void
release_foreign(void)
{
    struct pool pool = pool_of(64, 2), other = pool_of(64, 2);

    if (pool_take(&pool) != NULL)
        pool_release(&pool, pool_take(&other));
}

static void
release_inside(void)
{
    struct pool pool = pool_of(64, 2);
    char *object = pool_take(&pool);

    pool_release(&pool, object + 16);
}

static void
release_before(void)
{
    struct pool pool = pool_of(64, 2);
    char *object = pool_take(&pool);

    pool_release(&pool, object - 64);
}

static void
release_never_taken(void)
{
    struct pool pool = pool_of(64, 2);
    char *object = pool_take(&pool);

    pool_release(&pool, object + 64);
}

static void
at_never_taken(void)
{
    struct pool pool = pool_of(64, 2);

    (void)pool_at(&pool, 0);
}

static void
generation_never_taken(void)
{
    struct pool pool = pool_of(64, 2);

    (void)pool_generation(&pool, 1);
}

Test(pool, misuse_aborts)
{
    static const struct abort_row rows[] = {
        { "another pool's object", release_foreign },
        { "a pointer into an object", release_inside },
        { "a pointer before the first", release_before },
        { "an object that nobody took", release_never_taken },
        { "the object of an index never used", at_never_taken },
        { "the generation of an index never used", generation_never_taken },
    };

    aborts_check(rows, COUNT_OF(rows));
}
