/* The queue against a naive model of it, at random; and with a million entries. */
#include <criterion/criterion.h>

#include <time.h>
#include <unistd.h>

#include "tests/unit/queue_entries.h"
#include "tests/unit/seeded.h"

#define TWINS 48
#define HOPS 3
#define SEGMENTS 4

static const struct queue_schedule quick = {
    .retry_s = retry_s, .retry_count = COUNT_OF(retry_s), .expire_s = 20000, .delay_s = 3000
};
#define FARTHEST_S 4050

/* What the model knows of an entry; lists are found by looking at all. */
struct twin {
    struct queue_entry *entry; /* NULL: none */
    uint32_t state, due_s, arrival_s, hop, segment, attempts;
    uint64_t size;
    bool urgent, paused, to_hold, to_retry, told;
    int64_t order;          /* in whatever list it stands; smaller is first */
    uint64_t segment_order; /* when it came to its segment */
};

struct model {
    struct queue queue;
    struct seeded seeded;
    struct twin twins[TWINS];
    bool paused[SEGMENTS];
    int64_t front, back;
    uint64_t segment_order;
    uint32_t clock_s, now_s, wheel_s, sweep_at;
    uint32_t sweeping_s[QUEUE_STATES], oldest_s[QUEUE_STATES];
    uint64_t done[16]; /* how often each step had something to do */
};

static uint32_t
draw(struct model *m, uint32_t limit)
{
    return (uint32_t)seeded_below(&m->seeded, limit);
}

static uint32_t
model_clip(const struct model *m, const struct twin *t, uint64_t due_s)
{
    uint64_t expires_s = (uint64_t)t->arrival_s + quick.expire_s;

    if (expires_s <= m->now_s)
        expires_s = m->now_s + 1;
    if (due_s > expires_s)
        due_s = expires_s;
    return (uint32_t)(due_s > m->now_s + FARTHEST_S ? m->now_s + FARTHEST_S : due_s);
}

static void
model_enter(struct model *m, struct twin *t, uint32_t state, bool front)
{
    if (state == QUEUE_WAITING) {
        t->due_s = model_clip(m, t, t->due_s);
        if (t->due_s <= m->now_s)
            state = QUEUE_READY;
    }
    if (state == QUEUE_READY || state == QUEUE_PARKED)
        t->due_s = 0;
    if (state != QUEUE_READY && state != QUEUE_ACTIVE)
        t->urgent = false;
    t->state = state;
    t->order = front ? --m->front : ++m->back;
}

static void
model_settle(struct model *m, struct twin *t, uint32_t state, bool front)
{
    if (t->to_retry)
        t->urgent = true;
    if (t->to_hold)
        model_enter(m, t, QUEUE_HELD, false);
    else
        model_enter(m, t, t->to_retry ? QUEUE_READY : state, front && !t->to_retry);
    t->to_hold = t->to_retry = false;
}

static void
model_segment_left(struct model *m, uint32_t segment)
{
    for (unsigned i = 0; i < TWINS; i++)
        if (m->twins[i].entry != NULL && m->twins[i].segment == segment)
            return;
    m->paused[segment] = false;
}

/* The first in a list. hop HOPS: what waits and is due, in the order of the wheel. */
static struct twin *
model_first(struct model *m, uint32_t state, uint32_t hop)
{
    struct twin *first = NULL;
    uint64_t first_key = 0;

    for (unsigned i = 0; i < TWINS; i++) {
        struct twin *t = &m->twins[i];
        uint64_t key = t->urgent ? 0 : 1;

        if (t->entry == NULL || t->state != state || (hop < HOPS && t->hop != hop))
            continue;
        if (state == QUEUE_READY && t->paused)
            continue;
        if (hop == HOPS && t->due_s > m->now_s && t->due_s - m->now_s <= FARTHEST_S)
            continue;
        if (hop == HOPS)
            key = (t->due_s - 1 - m->wheel_s) % QUEUE_WHEEL_SLOTS;
        if (first == NULL || key < first_key || (key == first_key && t->order < first->order)) {
            first = t;
            first_key = key;
        }
    }
    return first;
}

static bool
model_add(struct model *m, struct twin *t)
{
    static const uint32_t due_s[] = { 0, UINT32_MAX, 1, 100, 4000, 30000 };
    uint32_t row = draw(m, COUNT_OF(due_s)), due = row < 2 ? due_s[row] : m->now_s + due_s[row];
    bool held = draw(m, 8) == 0;
    struct queue_entry entry = { .hop = (uint16_t)draw(m, HOPS),
                                 .size = draw(m, 100000),
                                 .flags =
                                     UINT8_MAX & ~(QUEUE_URGENT | QUEUE_NOTICE | QUEUE_DELAY_TOLD),
                                 .place.segment = draw(m, SEGMENTS),
                                 .arrival_s = m->now_s - draw(m, 100) };

    if (t->entry != NULL)
        return false;
    *t = (struct twin){ .entry = queue_add(&m->queue, &entry, due, held),
                        .due_s = due == UINT32_MAX ? 0 : due,
                        .arrival_s = entry.arrival_s,
                        .hop = entry.hop,
                        .size = entry.size,
                        .segment = entry.place.segment,
                        .segment_order = ++m->segment_order,
                        .paused = m->paused[entry.place.segment] };
    cr_assert_not_null(t->entry);
    model_enter(m, t, held ? QUEUE_HELD : row == 1 ? QUEUE_ACTIVE : QUEUE_WAITING, false);
    return true;
}

static bool
model_next(struct model *m)
{
    uint32_t hop = draw(m, HOPS), active_max = 2 + draw(m, 12), active = 0;
    struct twin *t = model_first(m, QUEUE_READY, hop);
    struct queue_entry *entry = queue_next(&m->queue, hop, active_max);

    for (unsigned i = 0; i < TWINS; i++)
        active += m->twins[i].entry != NULL && m->twins[i].state == QUEUE_ACTIVE &&
                  m->twins[i].hop == hop;
    if (active >= active_max)
        t = NULL;
    cr_assert_eq(entry, t != NULL ? t->entry : NULL);
    if (t != NULL)
        model_enter(m, t, QUEUE_ACTIVE, false);
    return t != NULL;
}

static void
model_defer(struct model *m, struct twin *t)
{
    uint32_t due_s, interval_s;
    bool retry = t->to_retry;

    t->attempts += t->attempts < 255;
    interval_s = retry_s[t->attempts < 4 ? t->attempts - 1 : 3];
    due_s = queue_defer(&m->queue, t->entry);
    t->due_s = retry ? 0 : due_s;
    t->urgent = false;
    cr_assert_eq(due_s, t->entry->due_s);
    if (retry)
        cr_assert_eq(due_s, 0);
    else
        cr_assert(due_s >= model_clip(m, t, (uint64_t)m->now_s + interval_s - interval_s / 8) &&
                      due_s <= model_clip(m, t, (uint64_t)m->now_s + interval_s + interval_s / 8),
                  "attempt %u: in %u s", t->attempts, due_s - m->now_s);
    model_settle(m, t, QUEUE_WAITING, false);
}

/* The ends of an attempt. */
static bool
model_end(struct model *m, struct twin *t)
{
    if (t->entry == NULL || t->state != QUEUE_ACTIVE)
        return false;
    switch (draw(m, 4)) {
    case 0:
    case 1: model_defer(m, t); break;
    case 2:
        queue_park(&m->queue, t->entry);
        t->urgent = false;
        t->due_s = 0;
        model_settle(m, t, QUEUE_PARKED, false);
        break;
    default:
        queue_put_back(&m->queue, t->entry);
        model_settle(m, t, QUEUE_WAITING, true);
    }
    return true;
}

static bool
model_operator(struct model *m, struct twin *t)
{
    uint32_t what = draw(m, 3);
    bool active = t->state == QUEUE_ACTIVE, done;

    if (t->entry == NULL)
        return false;
    if (what == 0) {
        done = queue_hold(&m->queue, t->entry);
        if (!active && t->state != QUEUE_HELD)
            model_enter(m, t, QUEUE_HELD, false);
    } else if (what == 1) {
        done = queue_release(&m->queue, t->entry);
        if (t->state == QUEUE_HELD)
            model_enter(m, t, QUEUE_WAITING, false);
    } else {
        done = queue_retry(&m->queue, t->entry);
        if (!active && !t->urgent) {
            t->urgent = true;
            model_enter(m, t, QUEUE_READY, false);
        }
    }
    cr_assert_eq(done, !active);
    if (active) {
        t->to_hold = what == 0; /* each of them takes a hold back */
        t->to_retry = what == 2 || (what == 1 && t->to_retry);
    }
    return true;
}

static bool
model_hop_up(struct model *m)
{
    uint32_t hop = draw(m, HOPS), count = draw(m, 4);
    struct twin *t;
    bool any = false;

    queue_hop_up(&m->queue, hop, count);
    while (count > 0 && (t = model_first(m, QUEUE_PARKED, hop)) != NULL) {
        model_enter(m, t, QUEUE_READY, false);
        count -= !t->paused;
        any = true;
    }
    return any;
}

static bool
model_pause(struct model *m)
{
    uint32_t segment = draw(m, SEGMENTS);
    bool paused = !m->paused[segment] && draw(m, 3) == 0;

    m->paused[segment] = paused;
    queue_segment_pause(&m->queue, segment, paused);
    for (;;) { /* the newest that is not yet as it shall be */
        struct twin *t = NULL;

        for (unsigned i = 0; i < TWINS; i++)
            if (m->twins[i].entry != NULL && m->twins[i].segment == segment &&
                m->twins[i].paused != paused &&
                (t == NULL || m->twins[i].segment_order > t->segment_order))
                t = &m->twins[i];
        if (t == NULL)
            break;
        t->paused = paused;
        if (t->state == QUEUE_READY)
            t->order = --m->front;
    }
    model_segment_left(m, segment); /* an empty one is never paused */
    return paused;
}

static bool
model_moved(struct model *m, struct twin *t)
{
    struct spool_place place = { .segment = draw(m, SEGMENTS) };
    uint32_t from = t->segment;

    if (t->entry == NULL)
        return false;
    queue_moved(&m->queue, t->entry, &place);
    /* Being the only one it takes its segment's pause with it into nothing. */
    t->segment = SEGMENTS;
    model_segment_left(m, from);
    t->segment = place.segment;
    t->segment_order = ++m->segment_order;
    if (t->state == QUEUE_READY && t->paused != m->paused[place.segment])
        t->order = --m->front;
    t->paused = m->paused[place.segment];
    return true;
}

static bool
model_remove(struct model *m, struct twin *t)
{
    if (t->entry == NULL)
        return false;
    queue_remove(&m->queue, t->entry);
    t->entry = NULL;
    model_segment_left(m, t->segment);
    return true;
}

static bool
model_tick(struct model *m)
{
    static const int32_t moves_s[] = { 0, 1, 1, 5, 30, 100, 400, 1000, 5000, -20, -60, -61, -6000 };
    uint32_t move = draw(m, 4) > 0 ? draw(m, 6) : draw(m, COUNT_OF(moves_s));
    uint32_t budget = 1 + draw(m, 5);
    struct twin *t;
    bool any = false;

    m->clock_s += (uint32_t)moves_s[move];
    if (m->clock_s + QUEUE_CLOCK_STEP_S < m->now_s) {
        m->now_s = m->clock_s;
        m->wheel_s = m->now_s - QUEUE_WHEEL_SLOTS;
    } else if (m->clock_s > m->now_s) {
        m->now_s = m->clock_s;
        if (m->now_s - m->wheel_s > QUEUE_WHEEL_SLOTS)
            m->wheel_s = m->now_s - QUEUE_WHEEL_SLOTS;
    }
    while (!queue_tick(&m->queue, m->clock_s, budget))
        ;
    while ((t = model_first(m, QUEUE_WAITING, HOPS)) != NULL) {
        model_enter(m, t, QUEUE_READY, false);
        any = true;
    }
    m->wheel_s = m->now_s;
    return any;
}

static struct twin *
model_twin(struct model *m, uint32_t index)
{
    for (unsigned i = 0; i < TWINS; i++)
        if (m->twins[i].entry != NULL && pool_index(&m->queue.entries, m->twins[i].entry) == index)
            return &m->twins[i];
    return NULL;
}

/* What the sweep finds next; *steps are left. */
static enum queue_finding
model_sweep_step(struct model *m, uint32_t *steps, struct twin **found, bool *wrapped)
{
    for (; m->sweep_at<m->queue.entries.touched && * steps> 0; --*steps) {
        struct twin *t = model_twin(m, m->sweep_at++);
        uint64_t age_s = t != NULL && t->arrival_s < m->clock_s ? m->clock_s - t->arrival_s : 0;

        if (t == NULL)
            continue;
        if (m->sweeping_s[t->state] == 0 || t->arrival_s < m->sweeping_s[t->state])
            m->sweeping_s[t->state] = t->arrival_s;
        if (t->state == QUEUE_ACTIVE || t->paused || age_s < quick.delay_s)
            continue;
        if (age_s < quick.expire_s && t->told)
            continue;
        --*steps;
        *found = t;
        return age_s >= quick.expire_s ? QUEUE_EXPIRED : QUEUE_DELAYED;
    }
    *wrapped = m->sweep_at == m->queue.entries.touched;
    return QUEUE_NOTHING;
}

static bool
model_sweep(struct model *m)
{
    struct queue_entry *entry;
    struct twin *t = NULL;
    uint32_t steps = draw(m, 40), budget = steps;
    bool wrapped = false, want_wrapped = false;
    enum queue_finding want = model_sweep_step(m, &steps, &t, &want_wrapped);

    cr_assert_eq(queue_sweep(&m->queue, m->clock_s, &budget, &entry, &wrapped), want);
    cr_assert_eq(wrapped, want_wrapped);
    cr_assert_eq(budget, steps);
    if (wrapped) {
        memcpy(m->oldest_s, m->sweeping_s, sizeof(m->oldest_s));
        memset(m->sweeping_s, 0, sizeof(m->sweeping_s));
        m->sweep_at = 0;
    }
    cr_assert_eq(memcmp(m->queue.oldest_s, m->oldest_s, sizeof(m->oldest_s)), 0);
    cr_assert_eq(entry, t != NULL ? t->entry : NULL);
    if (t == NULL)
        return false;
    t->to_hold = t->state == QUEUE_HELD;
    model_enter(m, t, QUEUE_ACTIVE, false);
    if (want == QUEUE_DELAYED && draw(m, 2) == 0) {
        t->told = true;
        entry->flags |= QUEUE_DELAY_TOLD;
    }
    return true;
}

static void
model_compare(const struct model *m)
{
    struct queue_counts counts = { 0 };
    uint32_t ready[HOPS] = { 0 }, live = 0;

    for (unsigned i = 0; i < TWINS; i++) {
        const struct twin *t = &m->twins[i];
        unsigned flags = (t->urgent ? QUEUE_URGENT : 0) | (t->paused ? QUEUE_PAUSED : 0) |
                         (t->to_hold ? QUEUE_TO_HOLD : 0) | (t->to_retry ? QUEUE_TO_RETRY : 0) |
                         (t->told ? QUEUE_DELAY_TOLD : 0) | QUEUE_BODY_FILE | QUEUE_RECOVERED;

        if (t->entry == NULL)
            continue;
        cr_assert_eq(t->entry->state, t->state, "%s, not %s", queue_state_name(t->entry->state),
                     queue_state_name(t->state));
        cr_assert_eq(t->entry->flags, flags, "flags %#x, not %#x", t->entry->flags, flags);
        cr_assert_eq(t->entry->due_s, t->due_s, "%s", queue_state_name(t->state));
        cr_assert_eq(t->entry->hop, t->hop);
        cr_assert_eq(t->entry->attempts, t->attempts);
        cr_assert_eq(t->entry->place.segment, t->segment);
        live++;
        counts.messages[t->state]++;
        counts.bytes[t->state] += t->size;
        ready[t->hop] += t->state == QUEUE_READY && !t->paused;
    }
    cr_assert_eq(m->queue.entries.used, live);
    cr_assert_eq(memcmp(&m->queue.counts, &counts, sizeof(counts)), 0);
    for (uint32_t hop = 0; hop < HOPS; hop++) {
        cr_assert_eq(m->queue.lines[hop].ready, ready[hop]);
        cr_assert_eq(queue_has_ready(&m->queue, hop), ready[hop] > 0);
    }
}

static void
model_step(struct model *m)
{
    struct twin *t = &m->twins[draw(m, TWINS)];
    uint32_t what = draw(m, 16);
    bool done;

    switch (what) {
    case 0:
    case 1: done = model_add(m, t); break;
    case 2:
    case 3:
    case 4:
    case 5: done = model_next(m); break;
    case 6: done = model_operator(m, t); break;
    case 7: done = model_hop_up(m); break;
    case 8: done = model_pause(m); break;
    case 9: done = model_moved(m, t); break;
    case 10: done = draw(m, 4) == 0 && model_remove(m, t); break;
    case 11: done = model_tick(m); break;
    case 12: done = model_sweep(m); break;
    default: done = model_end(m, t); break;
    }
    m->done[what] += done;
}

Test(queue, as_a_naive_model)
{
    static struct model m;

    for (uint64_t seed = 1; seed <= 4; seed++) {
        memset(&m, 0, sizeof(m));
        m.seeded.state = seed;
        m.clock_s = m.now_s = m.wheel_s = NOW;
        start(&m.queue, &quick, TWINS);
        for (unsigned step = 0; step < 50000; step++) {
            model_step(&m);
            model_compare(&m);
            if (step % 64 == 0)
                queue_invariants(&m.queue);
        }
        for (unsigned what = 0; what < COUNT_OF(m.done); what++)
            cr_assert_gt(m.done[what], 100, "step %u: had something to do %lu times", what,
                         (unsigned long)m.done[what]);
        queue_destroy(&m.queue);
    }
}

/* --- ticks that never finish, with everything else in between --- */

static void
disturb(struct queue *queue, struct seeded *seeded)
{
    struct queue_entry *entry = queue_at(queue, (uint32_t)seeded_below(seeded, 60));
    struct queue_entry *next = queue_next(queue, 0, ALL);

    if (next != NULL)
        (void)queue_defer(queue, next);
    if (entry == NULL || entry->state == QUEUE_ACTIVE)
        return;
    switch (seeded_below(seeded, 4)) {
    case 0: cr_assert(queue_hold(queue, entry)); break;
    case 1: cr_assert(queue_release(queue, entry)); break;
    case 2: cr_assert(queue_retry(queue, entry)); break;
    default:
        queue_remove(queue, entry);
        add(queue, 1, queue->now_s + (uint32_t)seeded_below(seeded, 40), false);
    }
}

Test(queue, ticks_that_are_cut_short)
{
    static struct queue queue;
    struct seeded seeded = { 11 };
    uint32_t now_s = NOW;
    unsigned cut = 0;

    start(&queue, &usual, 60);
    for (uint32_t i = 0; i < 60; i++)
        add(&queue, i, NOW + 1 + i % 4, false);
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t kind = seeded_below(&seeded, 500);

        now_s += kind == 0 ? 9000 : kind == 1 ? -5000u : (uint32_t)(kind % 16 == 0);
        cut += !queue_tick(&queue, now_s, (uint32_t)seeded_below(&seeded, 3));
        disturb(&queue, &seeded);
        queue_invariants(&queue);
        if (step % 100 == 99) { /* none was lost on the way: the invariants say so */
            while (!queue_tick(&queue, now_s, 7))
                ;
            queue_invariants(&queue);
            cr_assert_eq(queue.wheel_s, queue.now_s);
        }
    }
    cr_assert_gt(cut, 1000);
    cr_assert_eq(queue.entries.used, 60);
    queue_destroy(&queue);
}
/* --- a million --- */

#define MANY 1000000u

static uint64_t
clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Of this process, in memory. */
static uint64_t
resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long all, resident = 0;

    cr_assert_not_null(file);
    cr_assert_eq(fscanf(file, "%lu %lu", &all, &resident), 2);
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t
lap(const char *what, uint64_t since_ns, uint64_t count)
{
    uint64_t now_ns = clock_ns();

    fprintf(stderr, "queue: 10^6 entries: %-10s %4lu ns\n", what,
            (unsigned long)((now_ns - since_ns) / count));
    return clock_ns();
}

static void
many_expire(struct queue *queue)
{
    uint64_t ns = clock_ns(), swept = 0;
    struct queue_entry *entry;
    uint32_t budget = MANY;
    bool wrapped;

    while (queue_sweep(queue, NOW + 5 * DAY_S, &budget, &entry, &wrapped) == QUEUE_EXPIRED) {
        queue_remove(queue, entry);
        swept++;
    }
    lap("expire", ns, MANY);
    cr_assert(wrapped);
    cr_assert_eq(swept, MANY);
    cr_assert_eq(queue->entries.used, 0);
}

Test(queue, a_million)
{
    static struct queue queue;
    struct queue_entry entry = { .arrival_s = NOW, .size = 1 };
    struct queue_entry *next;
    struct seeded seeded = { 5 };
    uint64_t before, ns, bytes;

    start(&queue, &usual, 2 * MANY);
    before = resident_bytes();
    ns = clock_ns();
    for (uint32_t i = 0; i < MANY; i++) {
        entry.place.segment = i / 1000;
        cr_assert_not_null(queue_add(&queue, &entry, 0, false));
    }
    ns = lap("add", ns, MANY);
    bytes = resident_bytes() - before;
    fprintf(stderr, "queue: sizeof(struct queue_entry) %zu, in memory %lu per entry\n",
            sizeof(struct queue_entry), (unsigned long)(bytes / MANY));
    cr_assert_leq(bytes / MANY, 128 + 4);
    ns = clock_ns();
    while ((next = queue_next(&queue, 0, ALL)) != NULL)
        (void)queue_defer(&queue, next);
    ns = lap("try, defer", ns, MANY);
    cr_assert_eq(queue.counts.messages[QUEUE_WAITING], MANY);
    for (uint32_t s = 0; s <= 68; s++)
        while (!queue_tick(&queue, NOW + s, 256))
            ;
    ns = lap("tick", ns, MANY);
    cr_assert_eq(queue.counts.messages[QUEUE_READY], MANY);
    while ((next = queue_next(&queue, 0, ALL)) != NULL)
        queue_park(&queue, next);
    ns = lap("try, park", ns, MANY);
    queue_hop_up(&queue, 0, MANY);
    ns = lap("hop up", ns, MANY);
    for (uint32_t i = 0; i < MANY; i++)
        cr_assert(queue_hold(&queue, queue_at(&queue, (uint32_t)seeded_below(&seeded, MANY))));
    ns = lap("hold", ns, MANY);
    for (uint32_t i = 0; i < MANY; i++)
        cr_assert(queue_retry(&queue, queue_at(&queue, (uint32_t)seeded_below(&seeded, MANY))));
    lap("retry", ns, MANY);
    many_expire(&queue);
    queue_invariants(&queue);
    queue_destroy(&queue);
}
