/* The queue and time: schedule, wheel, clocks that are set, the sweep. */
#include <criterion/criterion.h>

#include "tests/unit/queue_entries.h"

/* --- the schedule --- */

struct schedule_case {
    const char *name;
    uint32_t retry_s[4];
    uint32_t count;
    uint32_t before; /* attempts so far */
    uint32_t want_s; /* without jitter */
};

/* Many draws: all inside +-1/8, both halves met, and the ends nearly reached. */
static void
check_draws(const struct schedule_case *row)
{
    static struct queue queue;
    struct queue_schedule schedule = { row->retry_s, row->count, 300 * DAY_S, 0 };
    uint32_t eighth = row->want_s / 8, least = UINT32_MAX, most = 0;
    uint64_t sum = 0;

    start(&queue, &schedule, 8);
    for (unsigned i = 0; i < 2000; i++) {
        struct queue_entry *entry = add(&queue, 1, ALL, false);
        uint32_t due_s;

        entry->attempts = (uint8_t)row->before;
        due_s = queue_defer(&queue, entry);
        cr_assert_eq(due_s, entry->due_s, "%s", row->name);
        cr_assert_eq(entry->state, QUEUE_WAITING, "%s", row->name);
        cr_assert_eq(entry->attempts, row->before < 255 ? row->before + 1 : 255, "%s", row->name);
        cr_assert(due_s - NOW >= row->want_s - eighth && due_s - NOW <= row->want_s + eighth,
                  "%s: %u s", row->name, due_s - NOW);
        least = due_s < least ? due_s : least;
        most = due_s > most ? due_s : most;
        sum += due_s - NOW;
        queue_remove(&queue, entry);
    }
    cr_assert(least - NOW <= row->want_s - eighth + eighth / 50, "%s: %u", row->name, least - NOW);
    cr_assert(most - NOW >= row->want_s + eighth - eighth / 50, "%s: %u", row->name, most - NOW);
    sum /= 2000;
    cr_assert(sum + eighth / 10 + 1 >= row->want_s && sum <= row->want_s + eighth / 10 + 1,
              "%s: %lu s on average", row->name, (unsigned long)sum);
    queue_destroy(&queue);
}

Test(queue, schedule_and_jitter)
{
    static const struct schedule_case rows[] = {
        { "the first", { 60, 300, 900, 3600 }, 4, 0, 60 },
        { "the second", { 60, 300, 900, 3600 }, 4, 1, 300 },
        { "the last", { 60, 300, 900, 3600 }, 4, 3, 3600 },
        { "the last repeats", { 60, 300, 900, 3600 }, 4, 4, 3600 },
        { "for ever", { 60, 300, 900, 3600 }, 4, 254, 3600 },
        { "and stops counting", { 60, 300, 900, 3600 }, 4, 255, 3600 },
        { "only one", { 900 }, 1, 0, 900 },
        { "only one, repeated", { 900 }, 1, 9, 900 },
        { "a second: no jitter", { 1 }, 1, 0, 1 },
        { "seven: no jitter", { 7 }, 1, 0, 7 },
        { "eight", { 8 }, 1, 0, 8 },
        { "longer than the wheel", { 60, 14400 }, 2, 1, 14400 },
        { "shorter again", { 3600, 60 }, 2, 1, 60 },
        { "thirty days", { 30 * DAY_S }, 1, 0, 30 * DAY_S },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        check_draws(&rows[i]);
}

/* None has a schedule of its own: who comes first has no better times; a seed gives them again. */
Test(queue, same_seed_same_times)
{
    static struct queue queues[3];
    unsigned same = 0;

    for (unsigned i = 0; i < 3; i++)
        cr_assert(queue_init(&queues[i], 1, 8, &usual, NOW, i / 2));
    for (unsigned i = 0; i < 100; i++) {
        uint32_t due_s[3];

        for (unsigned q = 0; q < 3; q++) {
            struct queue_entry *entry = add(&queues[q], i, ALL, false);

            entry->attempts = 200;
            due_s[q] = queue_defer(&queues[q], entry);
            queue_remove(&queues[q], entry);
        }
        cr_assert_eq(due_s[0], due_s[1]);
        same += due_s[0] == due_s[2];
    }
    cr_assert_lt(same, 10);
    for (unsigned i = 0; i < 3; i++)
        queue_destroy(&queues[i]);
}

Test(queue, never_due_later_than_it_may_be)
{
    static const struct {
        const char *name;
        uint32_t arrival_s, expire_s, due_s, want_s; /* want 0: READY */
    } rows[] = {
        { "in time", NOW, 1000, NOW + 999, NOW + 999 },
        { "at its expiry", NOW, 1000, NOW + 1000, NOW + 1000 },
        { "later than its expiry", NOW, 1000, NOW + 1001, NOW + 1000 },
        { "much later", NOW, 1000, UINT32_MAX - 1, NOW + 1000 },
        { "at once", NOW, 1000, 0, 0 },
        { "past", NOW, 1000, NOW - 1, 0 },
        { "now", NOW, 1000, NOW, 0 },
        { "next second", NOW, 1000, NOW + 1, NOW + 1 },
        { "expired, due", NOW - 1000, 1000, NOW, 0 },
        { "expired, not due", NOW - 1000, 1000, NOW + 10, NOW + 1 },
        { "long expired", NOW - 100000, 1000, NOW + 10, NOW + 1 },
        { "farther than any interval", NOW, 5 * DAY_S, NOW + 100000, NOW + 4050 },
        { "the end of Unix time", UINT32_MAX - 5, 5 * DAY_S, NOW + 10, NOW + 10 },
    };
    static struct queue queue;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct queue_schedule schedule = usual;
        struct queue_entry entry = { .arrival_s = rows[i].arrival_s }, *added;
        uint32_t due_s;

        schedule.expire_s = rows[i].expire_s;
        start(&queue, &schedule, 8);
        added = queue_add(&queue, &entry, rows[i].due_s, false);
        cr_assert_eq(added->due_s, rows[i].want_s, "%s: %u", rows[i].name, added->due_s - NOW);
        cr_assert_eq(added->state, rows[i].want_s == 0 ? QUEUE_READY : QUEUE_WAITING, "%s",
                     rows[i].name);
        /* The same clip behind an attempt, when the schedule says 1 h. */
        queue_remove(&queue, added);
        entry.attempts = 9;
        added = queue_add(&queue, &entry, ALL, false);
        due_s = queue_defer(&queue, added);
        if (queue_expired(&queue, added, NOW))
            cr_assert_eq(due_s, NOW + 1, "%s", rows[i].name);
        else
            cr_assert(due_s > NOW && !queue_expired(&queue, added, due_s - 1), "%s", rows[i].name);
        cr_assert_eq(added->state, QUEUE_WAITING, "%s", rows[i].name);
        queue_destroy(&queue);
    }
}

Test(queue, end_of_unix_time)
{
    static struct queue queue;
    struct queue_entry entry = { .arrival_s = UINT32_MAX - 100 }, *added;

    cr_assert(queue_init(&queue, 1, 4, &usual, UINT32_MAX - 50, 1));
    added = queue_add(&queue, &entry, ALL, false);
    added->attempts = 3;
    cr_assert_eq(queue_defer(&queue, added), UINT32_MAX - 1);
    cr_assert(queue_tick(&queue, UINT32_MAX - 2, ALL));
    cr_assert_eq(added->state, QUEUE_WAITING);
    cr_assert(queue_tick(&queue, UINT32_MAX - 1, ALL));
    cr_assert_eq(added->state, QUEUE_READY);
    cr_assert_not(queue_expired(&queue, added, UINT32_MAX));
    queue_destroy(&queue);
}

/* --- the wheel --- */

Test(queue, neither_early_nor_late)
{
    static const uint32_t delays_s[] = { 1,    2,    59,   4094, 4095,  4096,  4097,
                                         8191, 8192, 8193, 9999, 40960, 40961, 100000 };
    static const uint32_t far[] = { 100000 };
    static const struct queue_schedule schedule = { far, 1, 30 * DAY_S, 0 };
    static struct queue queue;
    struct queue_entry *entries[COUNT_OF(delays_s)];

    for (unsigned leap = 0; leap < 2; leap++) {
        start(&queue, &schedule, 32);
        for (size_t i = 0; i < COUNT_OF(delays_s); i++)
            entries[i] = add(&queue, (uint32_t)i, NOW + delays_s[i], false);
        for (size_t i = 0; i < COUNT_OF(delays_s); i++) {
            /* Second by second, or from one to the next in a leap. */
            for (uint32_t s = i > 0 ? delays_s[i - 1] + 1 : 1; !leap && s < delays_s[i]; s++)
                cr_assert(queue_tick(&queue, NOW + s, ALL));
            cr_assert(queue_tick(&queue, NOW + delays_s[i] - 1, ALL));
            cr_assert_eq(entries[i]->state, QUEUE_WAITING, "%u s: early", delays_s[i]);
            cr_assert(queue_tick(&queue, NOW + delays_s[i], ALL));
            cr_assert_eq(entries[i]->state, QUEUE_READY, "%u s: late", delays_s[i]);
            queue_invariants(&queue);
        }
        queue_destroy(&queue);
    }
}

Test(queue, tick_stays_within_its_budget)
{
    static const uint32_t budgets[] = { 1, 3, 7, 100 };
    static struct queue queue;

    for (size_t b = 0; b < COUNT_OF(budgets); b++) {
        struct queue_entry *last = NULL;
        unsigned calls = 1;

        start(&queue, &usual, 64);
        for (uint32_t i = 0; i < 40; i++)
            last = add(&queue, i, NOW + 10 + i % 2, false);
        for (; !queue_tick(&queue, NOW + 20, budgets[b]); calls++) {
            cr_assert_eq(queue.counts.messages[QUEUE_READY], calls * budgets[b]);
            queue_invariants(&queue);
            if (calls == 1) { /* one of them is held where the tick stopped, one comes */
                cr_assert(queue_hold(&queue, queue_at(&queue, queue.cursor)));
                queue_invariants(&queue);
                cr_assert(queue_release(&queue, last));
            }
        }
        cr_assert_eq(queue.counts.messages[QUEUE_WAITING], 0);
        cr_assert_eq(calls, budgets[b] == 100 ? 1 : (39 + budgets[b] - 1) / budgets[b],
                     "budget %u: %u calls", budgets[b], calls);
        queue_destroy(&queue);
    }
    /* No budget at all: no progress, and no harm. */
    start(&queue, &usual, 8);
    add(&queue, 1, NOW + 1, false);
    cr_assert_not(queue_tick(&queue, NOW + 1, 0));
    cr_assert_not(queue_tick(&queue, NOW + 1, 0));
    cr_assert(queue_tick(&queue, NOW + 1, 1));
    cr_assert_str_eq(drain(&queue, 0), "1");
    queue_destroy(&queue);
}

/* Everything that waits is READY in time whatever the clock does; how many calls that takes. */
Test(queue, clock_jumps)
{
    static const struct {
        const char *name;
        int64_t jump_s;
        uint32_t delay_s; /* at NOW */
        int64_t ready_s;  /* seconds after NOW by the new clock; INT64_MIN: at the jump */
    } rows[] = {
        { "none", 0, 60, 60 },
        { "forward, not over it", 50, 60, 60 },
        { "forward, over it", 100, 60, INT64_MIN },
        { "forward, a wheel", 4096, 60, INT64_MIN },
        { "forward, two wheels", 8192, 4000, INT64_MIN },
        { "forward, ten years", 3650 * (int64_t)DAY_S, 4000, INT64_MIN },
        { "back, a little: it is waited for", -1, 60, 60 },
        { "back, a step", -60, 60, 60 },
        { "back, set", -61, 60, 60 },
        { "back, as far as an interval may be", -3990, 60, 60 },
        { "back, farther", -3991, 60, INT64_MIN },
        { "back, a day", -(int64_t)DAY_S, 4050, INT64_MIN },
        { "back, ten years", -3650 * (int64_t)DAY_S, 1, INT64_MIN },
        { "back, to the beginning of time", -(int64_t)NOW, 60, INT64_MIN },
    };
    static struct queue queue;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        int64_t now_s = NOW + rows[i].jump_s;
        struct queue_entry *entry;

        start(&queue, &usual, 16);
        entry = add(&queue, 1, NOW + rows[i].delay_s, false);
        entry->arrival_s = 0; /* its age is of no matter here */
        cr_assert(queue_tick(&queue, (uint32_t)now_s, ALL));
        queue_invariants(&queue);
        if (rows[i].ready_s == INT64_MIN) {
            cr_assert_eq(entry->state, QUEUE_READY, "%s", rows[i].name);
        } else {
            while (entry->state == QUEUE_WAITING && now_s < NOW + rows[i].ready_s + 10)
                cr_assert(queue_tick(&queue, (uint32_t)++now_s, ALL));
            cr_assert_eq(now_s - NOW, rows[i].ready_s, "%s: %ld", rows[i].name, (long)now_s - NOW);
        }
        /* It goes on from there: a new one, by the new clock. */
        entry = add(&queue, 2, ALL, false);
        entry->arrival_s = queue.now_s;
        cr_assert_leq(queue_defer(&queue, entry) - queue.now_s, 67, "%s", rows[i].name);
        cr_assert(queue_tick(&queue, queue.now_s + 68, ALL));
        cr_assert_eq(entry->state, QUEUE_READY, "%s", rows[i].name);
        queue_destroy(&queue);
    }
}

/* A jump is one round over what waits, whatever the budget is. */
Test(queue, a_jump_is_one_round)
{
    static const int64_t jumps_s[] = { 5000, 1000000, -1000, -100000 };
    static struct queue queue;

    for (size_t i = 0; i < COUNT_OF(jumps_s); i++) {
        uint64_t looks = 0;
        bool more = true;

        start(&queue, &usual, 1000);
        for (uint32_t n = 0; n < 1000; n++)
            add(&queue, n, NOW + 1 + n * 4, false);
        while (more) {
            more = !queue_tick(&queue, (uint32_t)(NOW + jumps_s[i]), 7);
            looks += 7;
        }
        cr_assert_geq(looks, 1000);
        cr_assert_lt(looks, 1000 + 14, "jump %ld: %lu looks", (long)jumps_s[i],
                     (unsigned long)looks);
        queue_invariants(&queue);
        cr_assert_eq(queue.counts.messages[QUEUE_READY], i == 2 ? 237 : 1000, "jump %ld: %lu",
                     (long)jumps_s[i], (unsigned long)queue.counts.messages[QUEUE_READY]);
        queue_destroy(&queue);
    }
}

/* --- the sweep --- */

Test(queue, sweep_meets_every_state_once_a_round)
{
    static struct queue queue;
    struct queue_entry *entries[QUEUE_STATES + 1], *found;
    uint32_t budget = 6, met = 0;
    bool wrapped;

    start(&queue, &usual, 16);
    entries[QUEUE_READY] = add(&queue, 0, 0, false);
    entries[QUEUE_WAITING] = add(&queue, 1, NOW + 60, false);
    entries[QUEUE_PARKED] = add(&queue, 2, ALL, false);
    queue_park(&queue, entries[QUEUE_PARKED]);
    entries[QUEUE_ACTIVE] = add(&queue, 3, ALL, false);
    entries[QUEUE_HELD] = add(&queue, 4, 0, true);
    entries[5] = add_to(&queue, 5, 1, 3, 0, false);
    queue_segment_pause(&queue, 3, true);
    for (unsigned i = 0; i < 6; i++)
        entries[i]->arrival_s = NOW - i;
    while (queue_sweep(&queue, NOW + 5 * DAY_S, &budget, &found, &wrapped) == QUEUE_EXPIRED) {
        cr_assert_eq(found->state, QUEUE_ACTIVE);
        cr_assert_not(wrapped);
        met = met * 10 + found->recipients;
    }
    cr_assert_eq(met, 124, "not the active, not the paused: %u", met); /* 0124 */
    cr_assert(wrapped);
    cr_assert_eq(budget, 0);
    cr_assert_eq(queue.counts.messages[QUEUE_ACTIVE], 5);
    for (unsigned state = 0; state < QUEUE_STATES; state++)
        cr_assert_eq(queue.oldest_s[state], state == QUEUE_READY ? NOW - 5 : NOW - state, "%s: %u",
                     queue_state_name(state), queue.oldest_s[state]);
    queue_segment_pause(&queue, 3, false);
    budget = 100;
    cr_assert_eq(queue_sweep(&queue, NOW + 5 * DAY_S, &budget, &found, &wrapped), QUEUE_EXPIRED);
    cr_assert_eq(found, entries[5]);
    cr_assert_eq(budget, 94);
    for (unsigned i = 0; i < 6; i++)
        queue_remove(&queue, entries[i]);
    cr_assert_eq(queue_sweep(&queue, NOW + 5 * DAY_S, &budget, &found, &wrapped), QUEUE_NOTHING);
    cr_assert_eq(queue_sweep(&queue, NOW + 5 * DAY_S, &budget, &found, &wrapped), QUEUE_NOTHING);
    cr_assert(wrapped);
    for (unsigned state = 0; state < QUEUE_STATES; state++)
        cr_assert_eq(queue.oldest_s[state], 0);
    queue_destroy(&queue);
}

Test(queue, sweep_tells_of_delays_once)
{
    static const struct {
        const char *name;
        uint8_t flags;
        uint32_t delay_s, age_s;
        enum queue_finding want;
    } rows[] = {
        { "young", 0, 100, 99, QUEUE_NOTHING },
        { "old enough", 0, 100, 100, QUEUE_DELAYED },
        { "told", QUEUE_DELAY_TOLD, 100, 100, QUEUE_NOTHING },
        { "a notice of ours", QUEUE_NOTICE, 100, 100, QUEUE_NOTHING },
        { "a notice of ours, expired", QUEUE_NOTICE, 100, 1000, QUEUE_EXPIRED },
        { "nobody is told", 0, 0, 999, QUEUE_NOTHING },
        { "told, expired", QUEUE_DELAY_TOLD, 100, 1000, QUEUE_EXPIRED },
        { "both", 0, 100, 1000, QUEUE_EXPIRED },
        { "from the future", 0, 100, UINT32_MAX - 10, QUEUE_NOTHING },
    };
    static struct queue queue;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct queue_schedule schedule = usual;
        struct queue_entry *entry, *found;

        schedule.expire_s = 1000;
        schedule.delay_s = rows[i].delay_s;
        start(&queue, &schedule, 4);
        entry = add(&queue, 1, 0, false);
        entry->flags |= rows[i].flags;
        entry->arrival_s = NOW - rows[i].age_s; /* modulo 2^32 */
        cr_assert_eq(sweep_one(&queue, NOW, &found), rows[i].want, "%s", rows[i].name);
        if (rows[i].want == QUEUE_DELAYED) {
            entry->flags |= QUEUE_DELAY_TOLD;
            queue_put_back(&queue, entry);
            (void)sweep_one(&queue, NOW, &found);
            cr_assert_eq(sweep_one(&queue, NOW, &found), QUEUE_NOTHING);
            cr_assert_eq(entry->state, QUEUE_READY);
        }
        queue_destroy(&queue);
    }
}
