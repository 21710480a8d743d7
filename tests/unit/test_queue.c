/* The queue, rule by rule: every state and operation, order, segments, misuse. */
#include <criterion/criterion.h>

#include "tests/unit/aborts.h"
#include "tests/unit/queue_entries.h"

/* --- every operation on every state --- */

static const struct start_row {
    const char *name;
    char letter; /* of the state */
} starts[] = {
    { "ready", 'R' },
    { "ready, urgent", 'U' },
    { "ready, paused", 'r' },
    { "waiting", 'W' },
    { "parked", 'P' },
    { "held", 'H' },
    { "active", 'A' },
    { "active, hold asked", 'h' },
    { "active, retry asked", 'u' },
    { "active, hold asked and taken back", 'A' },
    { "active, from waiting", 'w' },
    { "active, from held", 'i' },
};

/* State and flags as a letter; gone: '-'. */
static char
letter_of(const struct queue *queue)
{
    const struct queue_entry *entry = queue_at(queue, 0);

    if (entry == NULL)
        return '-';
    switch (entry->state) {
    case QUEUE_READY:
        return entry->flags & QUEUE_URGENT ? 'U' : entry->flags & QUEUE_PAUSED ? 'r' : 'R';
    case QUEUE_ACTIVE:
        if (entry->flags & QUEUE_TO_HOLD)
            return entry->due_s != 0 ? 'i' : 'h';
        return entry->flags & QUEUE_TO_RETRY ? 'u' : entry->due_s != 0 ? 'w' : 'A';
    case QUEUE_WAITING: return 'W';
    case QUEUE_PARKED: return 'P';
    default: return 'H';
    }
}

static struct queue_entry *
make(struct queue *queue, size_t at)
{
    static const uint32_t due_s[COUNT_OF(starts)] = {
        [3] = NOW + 50, [4] = ALL, [5] = 0,         [6] = ALL,      [7] = ALL,
        [8] = ALL,      [9] = ALL, [10] = NOW + 50, [11] = NOW + 50
    };
    struct queue_entry *entry, *found = NULL;

    start(queue, &usual, 8);
    entry = add(queue, 7, due_s[at], at == 5 || at == 11);
    switch (at) {
    case 1: cr_assert(queue_retry(queue, entry)); break;
    case 2: queue_segment_pause(queue, 0, true); break;
    case 4: queue_park(queue, entry); break;
    case 7: cr_assert_not(queue_hold(queue, entry)); break;
    case 8: cr_assert_not(queue_retry(queue, entry)); break;
    case 9:
        cr_assert_not(queue_hold(queue, entry));
        cr_assert_not(queue_release(queue, entry));
        break;
    case 10:
    case 11:
        cr_assert_eq(sweep_one(queue, NOW + 20000, &found), QUEUE_DELAYED);
        cr_assert_eq(found, entry);
        break;
    default: break;
    }
    return entry;
}

static void
do_next(struct queue *queue, struct queue_entry *entry)
{
    struct queue_entry *next = queue_next(queue, 0, ALL);

    cr_assert(next == NULL || next == entry);
}

static void
do_defer(struct queue *queue, struct queue_entry *entry)
{
    cr_assert_eq(queue_defer(queue, entry), entry->due_s);
    cr_assert_eq(entry->attempts, 1);
}

static void
do_hold(struct queue *queue, struct queue_entry *entry)
{
    bool active = entry->state == QUEUE_ACTIVE;

    cr_assert_eq(queue_hold(queue, entry), !active);
}

static void
do_release(struct queue *queue, struct queue_entry *entry)
{
    bool active = entry->state == QUEUE_ACTIVE;

    cr_assert_eq(queue_release(queue, entry), !active);
}

static void
do_retry(struct queue *queue, struct queue_entry *entry)
{
    bool active = entry->state == QUEUE_ACTIVE;

    cr_assert_eq(queue_retry(queue, entry), !active);
}

static void
do_hop_up(struct queue *queue, struct queue_entry *entry)
{
    (void)entry;
    queue_hop_up(queue, 0, 1);
}

static void
do_tick(struct queue *queue, struct queue_entry *entry)
{
    (void)entry;
    cr_assert(queue_tick(queue, NOW + 50, ALL));
}

static void
do_tick_early(struct queue *queue, struct queue_entry *entry)
{
    (void)entry;
    cr_assert(queue_tick(queue, NOW + 49, ALL));
}

static void
sweep_at(struct queue *queue, struct queue_entry *entry, uint32_t now_s, enum queue_finding want)
{
    bool passed_over = entry->state == QUEUE_ACTIVE || (entry->flags & QUEUE_PAUSED);
    struct queue_entry *found;

    queue->sweep_at = 0;
    cr_assert_eq(sweep_one(queue, now_s, &found), passed_over ? QUEUE_NOTHING : want);
    cr_assert_eq(found, passed_over || want == QUEUE_NOTHING ? NULL : entry);
}

static void
do_sweep_young(struct queue *queue, struct queue_entry *entry)
{
    sweep_at(queue, entry, NOW + 14399, QUEUE_NOTHING);
}

static void
do_sweep_delayed(struct queue *queue, struct queue_entry *entry)
{
    sweep_at(queue, entry, NOW + 14400, QUEUE_DELAYED);
}

static void
do_sweep_old(struct queue *queue, struct queue_entry *entry)
{
    sweep_at(queue, entry, NOW + 5 * DAY_S - 1, QUEUE_DELAYED);
}

static void
do_sweep_expired(struct queue *queue, struct queue_entry *entry)
{
    sweep_at(queue, entry, NOW + 5 * DAY_S, QUEUE_EXPIRED);
}

static void
do_pause(struct queue *queue, struct queue_entry *entry)
{
    queue_segment_pause(queue, 0, true);
    cr_assert(entry->flags & QUEUE_PAUSED);
}

static void
do_resume(struct queue *queue, struct queue_entry *entry)
{
    queue_segment_pause(queue, 0, false);
    cr_assert_not(entry->flags & QUEUE_PAUSED);
}

static void
do_moved(struct queue *queue, struct queue_entry *entry)
{
    struct spool_place place = { .segment = 9, .slot = 4, .offset = 64, .bytes = 128 };

    queue_moved(queue, entry, &place);
    cr_assert_eq(memcmp(&entry->place, &place, sizeof(place)), 0);
    cr_assert_null(queue_segment_first(queue, 0));
    cr_assert_eq(queue_segment_first(queue, 9), entry);
}

/* One letter per row of starts: the state afterwards; '!': our bug, it aborts. */
static const struct operation_row {
    const char *name;
    void (*call)(struct queue *queue, struct queue_entry *entry);
    const char *want;
} operations[] = {
    /* clang-format off */
    /*                                         RUrWPHAhuAwi, as in starts */
    { "next",                  do_next,          "AArWPHAhuAwi" },
    { "defer",                 do_defer,         "!!!!!!WHUWWH" },
    { "park",                  queue_park,       "!!!!!!PHUPPH" },
    { "put back",              queue_put_back,   "!!!!!!RHURWH" },
    { "remove",                queue_remove,     "------------" },
    { "hold",                  do_hold,          "HHHHHHhhhhii" },
    { "release",               do_release,       "RUrWPRAAuAww" },
    { "retry",                 do_retry,         "UUUUUUuuuuuu" },
    { "hop up",                do_hop_up,        "RUrWRHAhuAwi" },
    { "tick",                  do_tick,          "RUrRPHAhuAwi" },
    { "tick, early",           do_tick_early,    "RUrWPHAhuAwi" },
    { "sweep, young",          do_sweep_young,   "RUrWPHAhuAwi" },
    { "sweep, delayed",        do_sweep_delayed, "AArwAhAhuAwi" },
    { "sweep, nearly expired", do_sweep_old,     "AArwAhAhuAwi" },
    { "sweep, expired",        do_sweep_expired, "AArwAhAhuAwi" },
    { "pause",                 do_pause,         "rUrWPHAhuAwi" },
    { "resume",                do_resume,        "RURWPHAhuAwi" },
    { "moved",                 do_moved,         "RURWPHAhuAwi" },
    /* clang-format on */
};

static size_t cell_start, cell_operation;

static void
cell_call(void)
{
    static struct queue queue;
    struct queue_entry *entry = make(&queue, cell_start);

    operations[cell_operation].call(&queue, entry);
}

static void
check_counts(const struct queue *queue, const char *name)
{
    struct queue_counts counts = queue->counts;
    const struct queue_entry *entry = queue_at(queue, 0);

    queue_invariants(queue);
    for (unsigned state = 0; state < QUEUE_STATES; state++) {
        bool here = entry != NULL && entry->state == state;

        cr_assert_eq(counts.messages[state], here, "%s: %s", name, queue_state_name(state));
        cr_assert_eq(counts.bytes[state], here ? 1007 : 0, "%s: %s", name, queue_state_name(state));
    }
    cr_assert_eq(queue_segment_busy(queue, entry != NULL ? entry->place.segment : 0),
                 entry != NULL && entry->state == QUEUE_ACTIVE, "%s", name);
}

Test(queue, every_operation_on_every_state)
{
    static struct queue queue;

    for (size_t o = 0; o < COUNT_OF(operations); o++) {
        cr_assert_eq(strlen(operations[o].want), COUNT_OF(starts), "%s", operations[o].name);
        for (size_t s = 0; s < COUNT_OF(starts); s++) {
            char name[128], want = operations[o].want[s];
            struct queue_entry *entry;

            snprintf(name, sizeof(name), "%s: %s", starts[s].name, operations[o].name);
            if (want == '!') {
                struct abort_row row = { name, cell_call };

                cell_start = s;
                cell_operation = o;
                aborts_check(&row, 1);
                continue;
            }
            entry = make(&queue, s);
            cr_assert_eq(letter_of(&queue), starts[s].letter, "%s: starts as %c", name,
                         letter_of(&queue));
            check_counts(&queue, name);
            operations[o].call(&queue, entry);
            cr_assert_eq(letter_of(&queue), want, "%s: %c, not %c", name, letter_of(&queue), want);
            check_counts(&queue, name);
            queue_destroy(&queue);
        }
    }
}

/* --- order --- */

Test(queue, urgent_first_then_as_they_became_ready)
{
    static struct queue queue;
    struct queue_entry *entries[10];

    start(&queue, &usual, 32);
    for (uint32_t i = 0; i < 6; i++)
        entries[i] = add(&queue, i, 0, false);
    entries[6] = add(&queue, 6, NOW + 9, false);
    entries[7] = add(&queue, 7, NOW + 5, false);
    entries[8] = add(&queue, 8, NOW + 5, false);
    entries[9] = add_to(&queue, 9, 1, 0, 0, false); /* another next hop's */
    cr_assert(queue_tick(&queue, NOW + 10, ALL));
    cr_assert(queue_retry(&queue, entries[4]));
    cr_assert(queue_retry(&queue, entries[2]));
    cr_assert(queue_retry(&queue, entries[4])); /* asked twice: keeps its place */
    cr_assert_str_eq(drain(&queue, 0), "4 2 0 1 3 5 7 8 6");
    cr_assert_str_eq(drain(&queue, 1), "9");
    cr_assert_not(queue_has_ready(&queue, 0));
    /* Put back: in front, but behind urgent ones; an urgent one before all. */
    add(&queue, 20, 0, false);
    queue_put_back(&queue, entries[5]);
    queue_put_back(&queue, entries[3]);
    cr_assert_not(queue_retry(&queue, entries[6]));
    queue_park(&queue, entries[6]);
    queue_put_back(&queue, entries[4]);
    cr_assert_str_eq(drain(&queue, 0), "4 6 3 5 20");
    /* Parked ones come in the order they were parked. */
    for (unsigned i = 0; i < 4; i++)
        queue_park(&queue, entries[3 - i]);
    cr_assert_eq(queue.lines[0].parked, 4);
    queue_hop_up(&queue, 1, ALL);
    cr_assert_not(queue_has_ready(&queue, 0));
    queue_hop_up(&queue, 0, 1);
    cr_assert_str_eq(drain(&queue, 0), "3");
    queue_hop_up(&queue, 0, 2);
    cr_assert_str_eq(drain(&queue, 0), "2 1");
    queue_hop_up(&queue, 0, ALL);
    cr_assert_str_eq(drain(&queue, 0), "0");
    queue_hop_up(&queue, 0, ALL);
    cr_assert_null(queue_next(&queue, 0, ALL));
    queue_destroy(&queue);
}

Test(queue, no_more_active_than_asked_for)
{
    static struct queue queue;
    struct queue_entry *active;

    start(&queue, &usual, 32);
    for (uint32_t i = 0; i < 5; i++)
        add(&queue, i, 0, false);
    cr_assert_null(queue_next(&queue, 0, 0));
    active = queue_next(&queue, 0, 1);
    cr_assert_eq(active->recipients, 0);
    cr_assert_null(queue_next(&queue, 0, 1));
    cr_assert(queue_has_ready(&queue, 0));
    cr_assert_eq(queue_next(&queue, 0, 2)->recipients, 1);
    cr_assert_eq(queue.lines[0].active, 2);
    queue_remove(&queue, active);
    cr_assert_eq(queue.lines[0].active, 1);
    cr_assert_eq(queue_next(&queue, 0, 2)->recipients, 2);
    cr_assert_null(queue_next(&queue, 0, 2));
    queue_destroy(&queue);
}

/* --- segments --- */

Test(queue, paused_ones_are_not_handed_out)
{
    static struct queue queue;
    struct queue_entry *entries[6], *late;

    start(&queue, &usual, 32);
    for (uint32_t i = 0; i < 6; i++)
        entries[i] = add_to(&queue, i, 0, i % 2, i == 5 ? NOW + 5 : 0, false);
    cr_assert_eq(queue_next(&queue, 0, ALL), entries[0]);
    cr_assert(queue_segment_busy(&queue, 0));
    queue_segment_pause(&queue, 1, true);
    cr_assert_not(queue_segment_busy(&queue, 1));
    late = add_to(&queue, 9, 0, 1, 0, false);
    cr_assert(queue_tick(&queue, NOW + 10, ALL));
    cr_assert_str_eq(drain(&queue, 0), "2 4");
    cr_assert_eq(queue.counts.messages[QUEUE_READY], 4);
    cr_assert_not(queue_has_ready(&queue, 0));
    /* One is parked and paused: a probe is not wasted on it. */
    cr_assert(queue_hold(&queue, entries[5]));
    queue_park(&queue, entries[0]);
    queue_park(&queue, entries[2]);
    queue_segment_pause(&queue, 0, true);
    queue_moved(&queue, entries[2], &(struct spool_place){ .segment = 70 });
    queue_hop_up(&queue, 0, 1);
    cr_assert_str_eq(drain(&queue, 0), "2");
    cr_assert_eq(entries[0]->state, QUEUE_READY);
    /* Moved into a paused segment, and the other way round. */
    queue_moved(&queue, late, &(struct spool_place){ .segment = 70 });
    queue_moved(&queue, entries[4], &(struct spool_place){ .segment = 1 });
    cr_assert(queue_segment_busy(&queue, 1));
    cr_assert_eq(entries[4]->flags & QUEUE_PAUSED, QUEUE_PAUSED);
    cr_assert_str_eq(drain(&queue, 0), "9");
    /* The end of it: in front, the oldest first. */
    add_to(&queue, 20, 0, 5, 0, false);
    queue_put_back(&queue, entries[4]);
    cr_assert_not(queue_segment_busy(&queue, 1));
    queue_segment_pause(&queue, 1, false);
    cr_assert_str_eq(drain(&queue, 0), "1 3 4 20");
    queue_invariants(&queue);
    queue_destroy(&queue);
}

Test(queue, a_segment_lists_its_entries)
{
    static struct queue queue;
    struct queue_entry *entry, *next;
    unsigned count = 0;

    start(&queue, &usual, 32);
    for (uint32_t i = 0; i < 12; i++)
        add_to(&queue, i, 0, i % 3 == 0 ? QUEUE_SEGMENTS_MAX - 1 : 4, 0, false);
    for (entry = queue_segment_first(&queue, 4); entry != NULL; entry = next) {
        next = queue_segment_next(&queue, entry);
        count++;
        if (entry->recipients % 2 == 0)
            queue_remove(&queue, entry);
        else
            queue_moved(&queue, entry, &(struct spool_place){ .segment = 5 });
        queue_invariants(&queue);
    }
    cr_assert_eq(count, 8);
    cr_assert_null(queue_segment_first(&queue, 4));
    cr_assert_eq(queue.segments[5].entries, 4);
    /* A row of the table is another segment's after the last entry: not paused. */
    queue_segment_pause(&queue, 5, true);
    while ((entry = queue_segment_first(&queue, 5)) != NULL)
        queue_remove(&queue, entry);
    cr_assert_str_eq(drain(&queue, 0), "0 3 6 9");
    add_to(&queue, 30, 0, 5, 0, false);
    cr_assert_str_eq(drain(&queue, 0), "30");
    queue_segment_pause(&queue, 6, true); /* nobody there: no effect */
    add_to(&queue, 31, 0, 6, 0, false);
    cr_assert_str_eq(drain(&queue, 0), "31");
    queue_destroy(&queue);
}

/* --- limits --- */

static struct queue misused;

static void
init_without_schedule(void)
{
    struct queue_schedule none = { .retry_s = retry_s };

    cr_assert(queue_init(&misused, 1, 4, &none, NOW, 1));
}

static void
add_to_no_hop(void)
{
    start(&misused, &usual, 4);
    add_to(&misused, 1, 3, 0, 0, false);
}

static void
add_to_no_segment(void)
{
    start(&misused, &usual, 4);
    add_to(&misused, 1, 0, QUEUE_SEGMENTS_MAX, 0, false);
}

static void
next_of_no_hop(void)
{
    start(&misused, &usual, 4);
    cr_assert_null(queue_next(&misused, 3, 1));
}

static void
remove_twice(void)
{
    struct queue_entry *entry;

    start(&misused, &usual, 4);
    entry = add(&misused, 1, 0, false);
    queue_remove(&misused, entry);
    queue_remove(&misused, entry);
}

static void
state_of_no_name(void)
{
    (void)queue_state_name(QUEUE_STATES);
}

static void
damaged_count(void)
{
    start(&misused, &usual, 4);
    add(&misused, 1, 0, false);
    misused.counts.bytes[QUEUE_READY]++;
    queue_invariants(&misused);
}

static void
damaged_list(void)
{
    start(&misused, &usual, 4);
    add(&misused, 1, 0, false);
    misused.lines[0].first = QUEUE_NONE;
    queue_invariants(&misused);
}

static void
damaged_slot(void)
{
    start(&misused, &usual, 4);
    add(&misused, 1, NOW + 5, false)->due_s = NOW + 6;
    queue_invariants(&misused);
}

Test(queue, misuse_and_damage_abort)
{
    static const struct abort_row rows[] = {
        { "no interval", init_without_schedule },
        { "a next hop that is none", add_to_no_hop },
        { "a segment that is none", add_to_no_segment },
        { "the next of no hop", next_of_no_hop },
        { "removed twice", remove_twice },
        { "a state that is none", state_of_no_name },
        { "a count is wrong", damaged_count },
        { "a list has lost one", damaged_list },
        { "in the wrong slot", damaged_slot },
    };

    aborts_check(rows, COUNT_OF(rows));
}

Test(queue, full_is_a_result)
{
    static struct queue queue;
    struct queue_entry entry = { .size = 1 }, *added[3];

    start(&queue, &usual, 3);
    for (unsigned i = 0; i < 3; i++)
        added[i] = add(&queue, i, 0, false);
    cr_assert_null(queue_add(&queue, &entry, 0, false));
    cr_assert_eq(queue.counts.messages[QUEUE_READY], 3);
    queue_remove(&queue, added[1]);
    cr_assert_null(queue_at(&queue, 1));
    cr_assert_null(queue_at(&queue, 77));
    cr_assert_eq(queue_add(&queue, added[0], 0, true), added[1]); /* a copy of one of its own */
    cr_assert_eq(added[1]->state, QUEUE_HELD);
    queue_invariants(&queue);
    queue_destroy(&queue);
    queue_destroy(&queue); /* once more does nothing */
    cr_assert(queue_init(&queue, 1, UINT32_MAX, &usual, NOW, 0));
    cr_assert_eq(queue.entries.capacity, POOL_GENERATIONS);
    queue_destroy(&queue);
}
