/* timers: deadlines of many objects in user space; time is passed in.
 * Does:    a hierarchical wheel of 1/64 s ticks: set, move and cancel in O(1). A timer never fires
 *          early; it fires at most one tick late. Moving a deadline further away costs one store:
 *          the entry is moved when its old time comes.
 * Owns:    lists through the struct timer inside the caller's objects.
 * Memory:  none allocated.
 * Threads: the worker's.
 */
#ifndef RINGPOST_CORE_TIMERS_H
#define RINGPOST_CORE_TIMERS_H

#include "core/span.h"

#define TIMER_TICK_NS UINT64_C(15625000)
#define TIMER_LEVELS 6 /* 2^36 ticks: 34 years, so the wheel never turns over */
#define TIMER_SLOTS 64

struct timer {
    struct timer *next, **previous; /* previous == NULL: not set */
    uint64_t deadline_ns;           /* when it shall fire */
    uint64_t tick; /* the tick whose slot it stands in: at or before the deadline's */
    uint32_t kind; /* the caller's: what kind of object holds it */
};

struct timers {
    struct timer *slots[TIMER_LEVELS][TIMER_SLOTS];
    uint64_t occupied[TIMER_LEVELS]; /* a bit per slot that may hold timers */
    uint64_t tick;                   /* all ticks up to this one were handled */
    struct timer *due;               /* expired, waiting to be handed out */
    uint32_t count;
};

void timers_init(struct timers *timers, uint64_t now_ns);
void timer_cancel(struct timers *timers, struct timer *timer);
static inline bool
timer_is_set(const struct timer *timer)
{
    return timer->previous != NULL;
}
/* What timer_set() does when more is to do than a store. */
void timer_move(struct timers *timers, struct timer *timer, uint64_t deadline_ns);
/* Sets or moves. Deadlines in the past fire at the next tick. */
static inline void
timer_set(struct timers *timers, struct timer *timer, uint64_t deadline_ns)
{
    if (timer_is_set(timer) && timer->tick > timers->tick &&
        deadline_ns / TIMER_TICK_NS >= timer->tick)
        timer->deadline_ns = deadline_ns;
    else
        timer_move(timers, timer, deadline_ns);
}
/* The next timer that is due at now_ns, taken out of the wheel, or NULL. */
struct timer *timers_next_due(struct timers *timers, uint64_t now_ns);
/* How long one may sleep: nanoseconds until the next tick that holds a timer, UINT64_MAX when none
 * is set. */
uint64_t timers_wait_ns(const struct timers *timers, uint64_t now_ns);

#endif
