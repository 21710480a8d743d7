/* The timer wheel against a list of deadlines: never early, at most one tick late, each once. */
#include <criterion/criterion.h>

#include "core/timers.h"
#include "tests/unit/seeded.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define T TIMER_TICK_NS
#define HOUR_NS (UINT64_C(3600) * 1000000000)
#define TIMERS 200

/* What the model knows of one timer. */
struct expected {
    struct timer timer;
    bool set;
    uint64_t deadline_ns, set_ns; /* set_ns: when it was set or moved last */
};

struct model {
    struct timers timers;
    struct expected all[TIMERS];
    uint64_t now_ns;
    uint32_t set_count;
    uint64_t fired;
};

/* The tick by which it must have fired: that of its deadline, or the next one if that was past. */
static uint64_t
tick_latest(const struct expected *e)
{
    uint64_t own = (e->deadline_ns + T - 1) / T, next = e->set_ns / T + 1;

    return own > next ? own : next;
}

static void
model_set(struct model *m, struct expected *e, uint64_t deadline_ns)
{
    m->set_count += !e->set;
    e->set = true;
    e->deadline_ns = deadline_ns;
    e->set_ns = m->now_ns;
    timer_set(&m->timers, &e->timer, deadline_ns);
    cr_assert(timer_is_set(&e->timer));
}

static void
model_cancel(struct model *m, struct expected *e)
{
    m->set_count -= e->set;
    e->set = false;
    timer_cancel(&m->timers, &e->timer);
    cr_assert_not(timer_is_set(&e->timer));
}

/* Takes one that is due. False: none is left. */
static bool
model_fire(struct model *m)
{
    struct timer *timer = timers_next_due(&m->timers, m->now_ns);
    struct expected *e = (struct expected *)(void *)timer;

    if (timer == NULL)
        return false;
    cr_assert(e->set, "timer %ld fired and was not set", (long)(e - m->all));
    cr_assert(e->deadline_ns <= m->now_ns, "early by %lu ns",
              (unsigned long)(e->deadline_ns - m->now_ns));
    cr_assert_not(timer_is_set(timer));
    e->set = false;
    m->set_count--;
    m->fired++;
    return true;
}

static void
model_check_none_late(const struct model *m)
{
    uint64_t tick = m->now_ns / T, first = UINT64_MAX, wait = timers_wait_ns(&m->timers, m->now_ns);

    cr_assert_eq(m->timers.count, m->set_count);
    for (unsigned i = 0; i < TIMERS; i++) {
        const struct expected *e = &m->all[i];

        cr_assert_eq(timer_is_set(&e->timer), e->set, "timer %u", i);
        if (!e->set)
            continue;
        cr_assert(tick_latest(e) > tick, "timer %u is late: tick %lu at %lu", i,
                  (unsigned long)tick_latest(e), (unsigned long)tick);
        if (tick_latest(e) < first)
            first = tick_latest(e);
    }
    if (first == UINT64_MAX)
        cr_assert_eq(wait, UINT64_MAX);
    else
        cr_assert(wait > 0 && m->now_ns + wait <= first * T, "sleeps too long: %lu ns",
                  (unsigned long)wait);
}

/* From 1 ns in the past to some 39 hours ahead, each order of magnitude as likely as the next. */
static uint64_t
deadline_draw(struct model *m, struct seeded *seeded)
{
    uint64_t far = seeded_scale(seeded, 47);

    switch (seeded_below(seeded, 8)) {
    case 0: return m->now_ns - (far < m->now_ns ? far : m->now_ns);
    case 1: return (m->now_ns / T + far / T) * T; /* on a tick */
    default: return m->now_ns + far;
    }
}

static void
model_walk(struct model *m, struct seeded *seeded, unsigned steps)
{
    for (unsigned step = 0; step < steps; step++) {
        struct expected *e = &m->all[seeded_below(seeded, TIMERS)];

        switch (seeded_below(seeded, 8)) {
        case 0:
        case 1:
        case 2: model_set(m, e, deadline_draw(m, seeded)); break;
        case 3: /* what a session does with each command: the same distance from now */
            model_set(m, e, m->now_ns + HOUR_NS / 12);
            break;
        case 4: model_cancel(m, e); break;
        case 5: /* some of what is due, as a turn with a bound does */
            m->now_ns += seeded_scale(seeded, 36);
            for (uint64_t n = seeded_below(seeded, 4); n > 0 && model_fire(m); n--)
                ;
            break;
        default:
            m->now_ns += seeded_scale(seeded, 44); /* up to 4.9 hours */
            while (model_fire(m))
                ;
            model_check_none_late(m);
        }
    }
}

Test(timers, as_a_list_of_deadlines)
{
    static const uint64_t starts[] = {
        0, 1, T - 1, T, 63 * T, 4096 * T - 1, 30 * 24 * HOUR_NS, T << 24, (T << 30) - HOUR_NS
    };
    static struct model m;

    for (size_t i = 0; i < COUNT_OF(starts); i++) {
        struct seeded seeded = { 1000 + i };

        memset(&m, 0, sizeof(m));
        m.now_ns = starts[i];
        timers_init(&m.timers, m.now_ns);
        model_walk(&m, &seeded, 20000);
        cr_assert_gt(m.fired, 1000, "start %zu: only %lu fired", i, (unsigned long)m.fired);
        for (unsigned n = 0; n < TIMERS; n++)
            model_cancel(&m, &m.all[n]);
        cr_assert_eq(m.timers.count, 0);
        cr_assert_eq(timers_wait_ns(&m.timers, m.now_ns), UINT64_MAX, "none is set");
    }
}

/* --- one timer at each edge of each level --- */

static void
check_one(uint64_t start_ns, uint64_t deadline_ns)
{
    struct timers timers;
    struct timer timer = { 0 };
    uint64_t tick = (deadline_ns + T - 1) / T;

    if (tick <= start_ns / T)
        tick = start_ns / T + 1;
    timers_init(&timers, start_ns);
    timer_set(&timers, &timer, deadline_ns);
    cr_assert_null(timers_next_due(&timers, start_ns));
    cr_assert_null(timers_next_due(&timers, tick * T - 1), "start %lu, deadline %lu: early",
                   (unsigned long)start_ns, (unsigned long)deadline_ns);
    cr_assert_eq(timers_wait_ns(&timers, tick * T - 1), 1);
    cr_assert_eq(timers_next_due(&timers, tick * T), &timer, "start %lu, deadline %lu: late",
                 (unsigned long)start_ns, (unsigned long)deadline_ns);
    cr_assert_null(timers_next_due(&timers, tick * T));
    cr_assert_null(timers_next_due(&timers, tick * T + 100 * HOUR_NS), "it fired again");
    /* In one leap over it. */
    timers_init(&timers, start_ns);
    timer_set(&timers, &timer, deadline_ns);
    cr_assert_eq(timers_next_due(&timers, tick * T + 100 * HOUR_NS), &timer);
    cr_assert_null(timers_next_due(&timers, tick * T + 200 * HOUR_NS));
}

Test(timers, edges_of_each_level)
{
    static const int64_t near[] = { -1, 0, 1 };

    for (unsigned from = 0; from < TIMER_LEVELS; from++)
        for (unsigned to = 0; to < TIMER_LEVELS; to++)
            for (size_t a = 0; a < COUNT_OF(near); a++)
                for (size_t b = 0; b < COUNT_OF(near); b++)
                    for (size_t c = 0; c < COUNT_OF(near); c++) {
                        uint64_t start = ((UINT64_C(1) << (6 * from)) + near[a]) * T;
                        uint64_t ticks = (UINT64_C(1) << (6 * to)) + near[b];

                        if (start == 0) /* the other tests start there */
                            continue;
                        check_one(start, start + ticks * T + near[c]);
                        if (start / T + 63 * ticks + 1 < UINT64_C(1) << (6 * TIMER_LEVELS))
                            check_one(start + T / 2, start + 63 * ticks * T + near[c]);
                    }
}

/* The last level's slots, one after the other: 34 years in 64 steps. */
Test(timers, the_whole_wheel)
{
    static struct timer all[TIMER_LEVELS][TIMER_SLOTS];
    struct timers timers;
    uint64_t now = 0;

    timers_init(&timers, 0);
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        for (unsigned slot = 1; slot < TIMER_SLOTS; slot++)
            timer_set(&timers, &all[level][slot], ((uint64_t)slot << (6 * level)) * T);
    cr_assert_eq(timers.count, TIMER_LEVELS * (TIMER_SLOTS - 1));
    for (unsigned level = 0; level < TIMER_LEVELS; level++)
        for (unsigned slot = 1; slot < TIMER_SLOTS; slot++) {
            uint64_t at = ((uint64_t)slot << (6 * level)) * T;

            while (timers_wait_ns(&timers, now) < at - now) {
                now += timers_wait_ns(&timers, now);
                cr_assert_null(timers_next_due(&timers, now), "level %u slot %u", level, slot);
            }
            cr_assert_null(timers_next_due(&timers, at - 1), "level %u slot %u", level, slot);
            cr_assert_eq(timers_next_due(&timers, at), &all[level][slot], "level %u slot %u", level,
                         slot);
            cr_assert_null(timers_next_due(&timers, at));
            now = at;
        }
    cr_assert_eq(timers.count, 0);
}

/* One who sleeps exactly as long as told wakes in time, and seldom in vain. */
Test(timers, sleeping_as_long_as_told)
{
    static struct model m;
    struct seeded seeded = { 7 };
    uint64_t wakes = 0;

    m.now_ns = 123456789012345;
    timers_init(&m.timers, m.now_ns);
    for (unsigned i = 0; i < TIMERS; i++)
        model_set(&m, &m.all[i], m.now_ns + seeded_scale(&seeded, 47));
    while (m.set_count > 0) {
        uint64_t wait = timers_wait_ns(&m.timers, m.now_ns);

        cr_assert(wait > 0 && wait != UINT64_MAX);
        m.now_ns += wait;
        while (model_fire(&m))
            ;
        model_check_none_late(&m);
        wakes++;
    }
    cr_assert_eq(m.fired, TIMERS);
    cr_assert_leq(wakes, TIMERS * (TIMER_LEVELS + 1), "%lu wakes", (unsigned long)wakes);
}

/* --- moving --- */

Test(timers, moved_and_canceled)
{
    static const struct {
        const char *name;
        uint64_t first, advance, second; /* ticks; the second deadline is set after the advance */
        uint64_t want;                   /* the tick at which it fires */
    } rows[] = {
        { "later", 10, 5, 20, 20 },
        { "later, beyond a level", 10, 5, 10000, 10000 },
        { "much later, then over the old place", 10, 9, 4096, 4096 },
        { "earlier", 20, 5, 10, 10 },
        { "earlier, from a high level", 100000, 5, 10, 10 },
        { "to now", 20, 5, 5, 6 },
        { "to the past", 20, 5, 1, 6 },
        { "to the past, from the next tick", 6, 5, 1, 6 },
        { "to the same", 20, 5, 20, 20 },
        { "past its old place before it was looked at", 10, 15, 20, 20 },
        { "taken with the wheel still behind now, to the past", 10, 15, 1, 15 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t base = 1000 * T, fired = 0;
        struct timers timers;
        struct timer timer = { 0 }, other = { 0 };

        timers_init(&timers, base);
        timer_set(&timers, &timer, base + rows[i].first * T);
        /* Something to hand out makes the wheel turn; `timer` may then stand on the due list. */
        timer_set(&timers, &other, base + rows[i].advance * T);
        cr_assert_not_null(timers_next_due(&timers, base + rows[i].advance * T), "%s",
                           rows[i].name);
        timer_cancel(&timers, &other);
        timer_set(&timers, &timer, base + rows[i].second * T);
        cr_assert_eq(timers.count, 1, "%s", rows[i].name);
        for (uint64_t tick = rows[i].advance; tick < rows[i].want + 200; tick++)
            if (timers_next_due(&timers, base + tick * T) != NULL) {
                cr_assert_eq(fired, 0, "%s: twice", rows[i].name);
                fired = tick;
            }
        cr_assert_eq(fired, rows[i].want, "%s: at tick %lu", rows[i].name, (unsigned long)fired);
        cr_assert_eq(timers.count, 0, "%s", rows[i].name);
    }
}

Test(timers, due_ones_may_be_canceled_and_moved)
{
    struct timers timers;
    struct timer a = { .kind = 7 }, b = { 0 }, c = { 0 };
    struct timer *first;

    timers_init(&timers, 0);
    timer_cancel(&timers, &a); /* not set: nothing happens */
    timer_set(&timers, &a, 5 * T);
    timer_set(&timers, &b, 5 * T);
    timer_set(&timers, &c, 5 * T);
    first = timers_next_due(&timers, 6 * T);
    cr_assert_not_null(first);
    cr_assert_eq(timers_wait_ns(&timers, 6 * T), 0, "two are due");
    for (struct timer *t = &a;; t = t == &a ? &b : &c)
        if (t != first) {
            timer_cancel(&timers, t);
            break;
        }
    for (struct timer *t = &c;; t = t == &c ? &b : &a)
        if (timer_is_set(t)) {
            timer_set(&timers, t, 8 * T);
            cr_assert_null(timers_next_due(&timers, 6 * T));
            cr_assert_eq(timers_wait_ns(&timers, 6 * T), 2 * T);
            cr_assert_eq(timers_next_due(&timers, 8 * T), t);
            break;
        }
    cr_assert_null(timers_next_due(&timers, HOUR_NS));
    cr_assert_eq(timers.count, 0);
    cr_assert_eq(a.kind, 7, "the caller's own");
    cr_assert_eq(timers_wait_ns(&timers, HOUR_NS), UINT64_MAX);
}

Test(timers, a_canceled_one_keeps_nobody_awake)
{
    struct timers timers;
    struct timer a = { 0 };

    timers_init(&timers, 3 * T);
    timer_set(&timers, &a, HOUR_NS);
    timer_cancel(&timers, &a);
    cr_assert_eq(timers_wait_ns(&timers, 3 * T), UINT64_MAX);
    cr_assert_null(timers_next_due(&timers, 2 * HOUR_NS));
    timer_set(&timers, &a, 2 * HOUR_NS + 10 * T);
    cr_assert_eq(timers_next_due(&timers, 2 * HOUR_NS + 11 * T), &a);
}
