/* Hierarchical timer wheel. Level 0 has one slot per tick; a slot of level n spans 64 slots of
 * level n-1 and is spread over them when its time comes. */
#include "core/timers.h"

#define SLOT_BITS 6
#define SLOT_MASK (TIMER_SLOTS - 1)

_Static_assert(TIMER_SLOTS == 1 << SLOT_BITS, "slots are indexed by bits");

void
timers_init(struct timers *timers, uint64_t now_ns)
{
    *timers = (struct timers){ .tick = now_ns / TIMER_TICK_NS };
}

static void
list_push(struct timer **head, struct timer *timer)
{
    timer->next = *head;
    timer->previous = head;
    if (*head != NULL)
        (*head)->previous = &timer->next;
    *head = timer;
}

static void
list_remove(struct timer *timer)
{
    *timer->previous = timer->next;
    if (timer->next != NULL)
        timer->next->previous = timer->previous;
    timer->previous = NULL;
    timer->next = NULL;
}

/* Rounded up: a timer never fires early. */
static uint64_t
tick_of(uint64_t deadline_ns)
{
    return deadline_ns / TIMER_TICK_NS + (deadline_ns % TIMER_TICK_NS != 0);
}

/* The level is that of the highest bit in which the timer's tick differs from now's: it is looked
 * at again exactly when all higher bits agree. */
static void
wheel_insert(struct timers *timers, struct timer *timer)
{
    uint64_t difference = timer->tick ^ timers->tick;
    unsigned level =
        difference == 0 ? 0 : (63u - (unsigned)__builtin_clzll(difference)) / SLOT_BITS;
    unsigned slot;

    ASSERT(timer->tick > timers->tick);
    ASSERT(level < TIMER_LEVELS);
    slot = (unsigned)(timer->tick >> (level * SLOT_BITS)) & SLOT_MASK;
    timers->occupied[level] |= UINT64_C(1) << slot;
    list_push(&timers->slots[level][slot], timer);
}

void
timer_move(struct timers *timers, struct timer *timer, uint64_t deadline_ns)
{
    uint64_t tick = tick_of(deadline_ns);

    timer->deadline_ns = deadline_ns;
    if (tick <= timers->tick)
        tick = timers->tick + 1;
    if (timer_is_set(timer)) {
        /* Later than where it stands: leave it; it is moved when that tick comes. */
        if (tick >= timer->tick && timer->tick > timers->tick)
            return;
        list_remove(timer);
        timers->count--;
    }
    timer->tick = tick;
    wheel_insert(timers, timer);
    timers->count++;
}

void
timer_cancel(struct timers *timers, struct timer *timer)
{
    if (!timer_is_set(timer))
        return;
    list_remove(timer);
    timers->count--;
}

/* Takes a slot's list off and puts each timer where it belongs now: nearer, or on the due list. */
static void
slot_spread(struct timers *timers, unsigned level, unsigned slot)
{
    struct timer *timer;

    timers->occupied[level] &= ~(UINT64_C(1) << slot);
    while ((timer = timers->slots[level][slot]) != NULL) {
        uint64_t tick = tick_of(timer->deadline_ns);

        list_remove(timer);
        if (tick <= timers->tick) {
            list_push(&timers->due, timer);
            continue;
        }
        timers->count--;
        timer_move(timers, timer, timer->deadline_ns);
    }
}

/* The next tick after timers->tick at which some slot must be looked at; UINT64_MAX: none. */
static uint64_t
next_tick(const struct timers *timers)
{
    for (unsigned level = 0; level < TIMER_LEVELS; level++) {
        unsigned shift = level * SLOT_BITS;
        unsigned here = (unsigned)(timers->tick >> shift) & SLOT_MASK;
        uint64_t later =
            here == SLOT_MASK ? 0 : timers->occupied[level] & (~UINT64_C(0) << (here + 1));

        if (later != 0) {
            uint64_t base = timers->tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);

            return base | ((uint64_t)__builtin_ctzll(later) << shift);
        }
    }
    return UINT64_MAX;
}

static void
tick_enter(struct timers *timers, uint64_t tick)
{
    timers->tick = tick;
    for (unsigned level = TIMER_LEVELS; level-- > 0;) {
        unsigned shift = level * SLOT_BITS;
        unsigned slot = (unsigned)(tick >> shift) & SLOT_MASK;

        /* A slot of a higher level begins only where all bits below are zero. */
        if ((tick & ((UINT64_C(1) << shift) - 1)) != 0)
            continue;
        if (timers->occupied[level] & (UINT64_C(1) << slot))
            slot_spread(timers, level, slot);
    }
}

struct timer *
timers_next_due(struct timers *timers, uint64_t now_ns)
{
    uint64_t now = now_ns / TIMER_TICK_NS;

    while (timers->due == NULL && timers->tick < now) {
        uint64_t tick = next_tick(timers);

        if (tick > now) {
            timers->tick = now;
            break;
        }
        tick_enter(timers, tick);
    }
    if (timers->due != NULL) {
        struct timer *timer = timers->due;

        list_remove(timer);
        timers->count--;
        return timer;
    }
    return NULL;
}

uint64_t
timers_wait_ns(const struct timers *timers, uint64_t now_ns)
{
    uint64_t tick;

    if (timers->due != NULL)
        return 0;
    /* Slots of canceled timers are still marked; they need not wake anybody. */
    if (timers->count == 0)
        return UINT64_MAX;
    tick = next_tick(timers);
    if (tick == UINT64_MAX)
        return UINT64_MAX;
    return tick * TIMER_TICK_NS > now_ns ? tick * TIMER_TICK_NS - now_ns : 0;
}
