/* Buffers and chains: exhaustion and reserve, every operation against a plain string, misuse. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "core/buffers.h"
#include "tests/unit/aborts.h"
#include "tests/unit/seeded.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define COUNT 6u

struct fixture {
    struct buffers buffers;
    struct buffer_meta meta[COUNT];
    char *memory;
};

static void
fixture_open(struct fixture *f)
{
    f->memory = malloc(COUNT * (size_t)BUFFER_BYTES);
    cr_assert_not_null(f->memory);
    buffers_init(&f->buffers, f->memory, f->meta, COUNT);
}

/* All buffers are back. */
static void
fixture_close(struct fixture *f)
{
    bool seen[COUNT] = { false };
    uint32_t index = f->buffers.free_first;

    cr_assert_eq(f->buffers.free_count, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        cr_assert_lt(index, COUNT);
        cr_assert_not(seen[index], "the free list holds %u twice", index);
        cr_assert_not(f->meta[index].held);
        seen[index] = true;
        index = f->meta[index].next;
    }
    cr_assert_eq(index, BUFFER_NONE);
    free(f->memory);
}

Test(buffers, run_out_above_the_reserve)
{
    struct fixture f;

    fixture_open(&f);
    for (uint32_t reserve = 0; reserve <= COUNT + 1; reserve++) {
        uint32_t taken[COUNT], n = 0, most = reserve < COUNT ? COUNT - reserve : 0;
        bool seen[COUNT] = { false };

        while (n < COUNT && (taken[n] = buffer_take(&f.buffers, reserve)) != BUFFER_NONE) {
            cr_assert_not(seen[taken[n]], "reserve %u: %u twice", reserve, taken[n]);
            seen[taken[n]] = true;
            cr_assert_eq(buffer_span(&f.buffers, taken[n]).len, 0);
            cr_assert_eq(buffer_memory(&f.buffers, taken[n]),
                         f.memory + taken[n] * (size_t)BUFFER_BYTES);
            n++;
        }
        cr_assert_eq(n, most, "reserve %u: %u taken", reserve, n);
        cr_assert_eq(f.buffers.free_count, COUNT - most);
        cr_assert_eq(buffer_take(&f.buffers, reserve), BUFFER_NONE);
        while (n > 0)
            buffer_release(&f.buffers, taken[--n]);
    }
    cr_assert_eq(f.buffers.free_least, 0);
    fixture_close(&f);
}

Test(buffers, last_given_back_is_first_taken)
{
    struct fixture f;
    uint32_t a, b, c;

    fixture_open(&f);
    cr_assert_eq(f.buffers.free_least, COUNT);
    a = buffer_take(&f.buffers, 0);
    b = buffer_take(&f.buffers, 0);
    c = buffer_take(&f.buffers, 0);
    buffer_release(&f.buffers, b);
    buffer_release(&f.buffers, c);
    cr_assert_eq(buffer_take(&f.buffers, 0), c);
    cr_assert_eq(buffer_take(&f.buffers, 0), b);
    cr_assert_eq(f.buffers.free_least, COUNT - 3);
    buffer_release(&f.buffers, a);
    buffer_release(&f.buffers, b);
    buffer_release(&f.buffers, c);
    cr_assert_eq(f.buffers.free_least, COUNT - 3, "the low-water mark stays");
    fixture_close(&f);
}

Test(buffers, copy_takes_all_or_nothing)
{
    static const struct {
        const char *name;
        size_t before, len; /* octets in the chain already; octets to add */
        uint32_t free;      /* buffers left when they are added */
        bool want;
        uint32_t count; /* buffers of the chain then */
    } rows[] = {
        { "nothing", 0, 0, 0, true, 0 },
        { "one octet, no buffer", 0, 1, 0, false, 0 },
        { "one octet", 0, 1, 1, true, 1 },
        { "one buffer exactly", 0, BUFFER_BYTES, 1, true, 1 },
        { "one octet more, one buffer", 0, BUFFER_BYTES + 1, 1, false, 0 },
        { "one octet more, two buffers", 0, BUFFER_BYTES + 1, 2, true, 2 },
        { "into the room of the last", 10, BUFFER_BYTES - 10, 0, true, 1 },
        { "one more than that room", 10, BUFFER_BYTES - 9, 0, false, 1 },
        { "one more and a buffer for it", 10, BUFFER_BYTES - 9, 1, true, 2 },
        { "behind a full one", BUFFER_BYTES, 1, 0, false, 1 },
        { "three and a bit", 1, 3 * BUFFER_BYTES, 3, true, 4 },
        { "three and a bit, one short", 1, 3 * BUFFER_BYTES, 2, false, 1 },
    };
    static char text[4 * BUFFER_BYTES];

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * 7 + i / 251);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct fixture f;
        struct chain chain = CHAIN_EMPTY, held = CHAIN_EMPTY;
        size_t at = 0, want = rows[i].before + (rows[i].want ? rows[i].len : 0);

        fixture_open(&f);
        cr_assert(chain_copy(&f.buffers, &chain, span_of(text, rows[i].before)));
        while (f.buffers.free_count > rows[i].free)
            chain_append(&f.buffers, &held, buffer_take(&f.buffers, 0), 0, 0);
        cr_assert_eq(chain_copy(&f.buffers, &chain, span_of(text + rows[i].before, rows[i].len)),
                     rows[i].want, "%s", rows[i].name);
        cr_assert_eq(chain.bytes, want, "%s", rows[i].name);
        cr_assert_eq(chain.count, rows[i].count, "%s: %u buffers", rows[i].name, chain.count);
        for (uint32_t index = chain.first; chain.count > 0 && index != BUFFER_NONE;
             index = f.meta[index].next) {
            struct span s = buffer_span(&f.buffers, index);

            cr_assert_eq(memcmp(s.data, text + at, s.len), 0, "%s at %zu", rows[i].name, at);
            at += s.len;
        }
        cr_assert_eq(at, want, "%s", rows[i].name);
        chain_release(&f.buffers, &chain);
        chain_release(&f.buffers, &held);
        cr_assert_eq(chain.count, 0);
        fixture_close(&f);
    }
}

/* --- two chains against two strings --- */

struct twin {
    struct chain chain;
    size_t len;
    char text[COUNT * (size_t)BUFFER_BYTES];
};

static void
twin_check(struct fixture *f, const struct twin *twin, unsigned step)
{
    size_t at = 0;
    uint32_t count = 0, last = BUFFER_NONE;

    cr_assert_eq(twin->chain.bytes, twin->len, "step %u", step);
    for (uint32_t index = twin->chain.first; index != BUFFER_NONE; index = f->meta[index].next) {
        struct span s = buffer_span(&f->buffers, index);

        cr_assert(f->meta[index].held);
        cr_assert_leq(at + s.len, twin->len, "step %u", step);
        cr_assert_eq(memcmp(s.data, twin->text + at, s.len), 0, "step %u at %zu", step, at);
        at += s.len;
        count++;
        last = index;
    }
    cr_assert_eq(at, twin->len, "step %u", step);
    cr_assert_eq(count, twin->chain.count, "step %u", step);
    if (count > 0)
        cr_assert_eq(last, twin->chain.last, "step %u", step);
}

static void
twin_drop(struct twin *twin, size_t len)
{
    memmove(twin->text, twin->text + len, twin->len - len);
    twin->len -= len;
}

/* A filled buffer at the end, its octets not from its first byte on. */
static void
step_append(struct fixture *f, struct twin *twin, struct seeded *seeded)
{
    uint32_t index = buffer_take(&f->buffers, 0);
    size_t start, len;

    if (index == BUFFER_NONE)
        return;
    start = seeded_scale(seeded, 14) % BUFFER_BYTES;
    len = 1 + seeded_scale(seeded, 14) % (BUFFER_BYTES - start);
    for (size_t i = 0; i < len; i++)
        twin->text[twin->len + i] = buffer_memory(&f->buffers, index)[start + i] =
            (char)seeded_next(seeded);
    twin->len += len;
    chain_append(&f->buffers, &twin->chain, index, start, len);
}

static void
step_copy(struct fixture *f, struct twin *twin, struct seeded *seeded)
{
    static char text[2 * BUFFER_BYTES];
    size_t len = seeded_scale(seeded, 15) % sizeof(text);

    for (size_t i = 0; i < len; i++)
        text[i] = (char)seeded_next(seeded);
    if (!chain_copy(&f->buffers, &twin->chain, span_of(text, len)))
        return;
    memcpy(twin->text + twin->len, text, len);
    twin->len += len;
}

/* Written into the room behind the last octet, as decryption does. */
static void
step_grow(struct fixture *f, struct twin *twin, struct seeded *seeded)
{
    struct outbuf tail = chain_tail(&f->buffers, &twin->chain);
    size_t len = seeded_scale(seeded, 14) % (tail.size + 1);

    cr_assert_eq(tail.size, chain_room(&f->buffers, &twin->chain));
    for (size_t i = 0; i < len; i++)
        twin->text[twin->len + i] = tail.data[i] = (char)seeded_next(seeded);
    chain_grow(&f->buffers, &twin->chain, len);
    twin->len += len;
}

static void
step_pop(struct fixture *f, struct twin *twin)
{
    uint32_t index;

    if (twin->chain.count == 0)
        return;
    index = chain_pop(&f->buffers, &twin->chain);
    twin_drop(twin, buffer_span(&f->buffers, index).len);
    buffer_release(&f->buffers, index);
}

static void
step_consume(struct fixture *f, struct twin *twin, struct seeded *seeded)
{
    size_t len = seeded_scale(seeded, 17) % (twin->len + 1);

    chain_consume(&f->buffers, &twin->chain, len);
    twin_drop(twin, len);
}

static void
step_move(struct fixture *f, struct twin *to, struct twin *from)
{
    memcpy(to->text + to->len, from->text, from->len);
    to->len += from->len;
    from->len = 0;
    chain_move(&f->buffers, &to->chain, &from->chain);
    cr_assert_eq(from->chain.count, 0);
    cr_assert_eq(from->chain.first, BUFFER_NONE);
}

Test(buffers, chains_behave_as_strings)
{
    static struct twin twins[2];
    struct seeded seeded = { 20240611 };
    struct fixture f;

    fixture_open(&f);
    twins[0].chain = twins[1].chain = CHAIN_EMPTY;
    for (unsigned step = 0; step < 5000; step++) {
        struct twin *twin = &twins[seeded_below(&seeded, 2)];

        switch (seeded_below(&seeded, 9)) {
        case 0:
        case 1: step_append(&f, twin, &seeded); break;
        case 6: step_grow(&f, twin, &seeded); break;
        case 2:
        case 3: step_copy(&f, twin, &seeded); break;
        case 4: step_pop(&f, twin); break;
        case 5: step_move(&f, twin, &twins[twin == twins]); break;
        default: step_consume(&f, twin, &seeded); break;
        }
        twin_check(&f, &twins[0], step);
        twin_check(&f, &twins[1], step);
        cr_assert_eq(f.buffers.free_count + twins[0].chain.count + twins[1].chain.count, COUNT,
                     "step %u", step);
    }
    cr_assert_eq(f.buffers.free_least, 0, "the walk did not run out of buffers once");
    chain_release(&f.buffers, &twins[0].chain);
    chain_release(&f.buffers, &twins[1].chain);
    fixture_close(&f);
}

/* --- misuse --- */

static struct fixture misused;
static struct chain misused_chain = CHAIN_EMPTY;

Test(buffers, giving_back_twice_aborts, .signal = SIGABRT)
{
    uint32_t index;

    fixture_open(&misused);
    index = buffer_take(&misused.buffers, 0);
    buffer_release(&misused.buffers, index);
    buffer_release(&misused.buffers, index);
}

static void
release_beyond(void)
{
    buffer_release(&misused.buffers, COUNT);
}

static void
release_none(void)
{
    buffer_release(&misused.buffers, BUFFER_NONE);
}

static void
append_free(void)
{
    chain_append(&misused.buffers, &misused_chain, misused.buffers.free_first, 0, 1);
}

static void
append_too_long(void)
{
    chain_append(&misused.buffers, &misused_chain, buffer_take(&misused.buffers, 0), 1,
                 BUFFER_BYTES);
}

static void
append_beyond(void)
{
    chain_append(&misused.buffers, &misused_chain, COUNT, 0, 1);
}

static void
grow_too_much(void)
{
    if (chain_copy(&misused.buffers, &misused_chain, SPAN("abc")))
        chain_grow(&misused.buffers, &misused_chain, BUFFER_BYTES - 2);
}

static void
pop_empty(void)
{
    buffer_release(&misused.buffers, chain_pop(&misused.buffers, &misused_chain));
}

static void
consume_too_much(void)
{
    if (chain_copy(&misused.buffers, &misused_chain, SPAN("abc")))
        chain_consume(&misused.buffers, &misused_chain, 4);
}

Test(buffers, misuse_aborts)
{
    static const struct abort_row rows[] = {
        { "giving back an index that there is not", release_beyond },
        { "giving back none", release_none },
        { "chaining a buffer that nobody holds", append_free },
        { "chaining an index that there is not", append_beyond },
        { "more octets than a buffer has", append_too_long },
        { "growing beyond the last buffer", grow_too_much },
        { "the first of an empty chain", pop_empty },
        { "using more than there is", consume_too_much },
    };

    fixture_open(&misused);
    aborts_check(rows, COUNT_OF(rows));
    free(misused.memory);
}
