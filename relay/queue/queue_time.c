/* The queue and time: the schedule of retries, the wheel of what waits, and the sweep for what is
 * too old. The clock may be set in either direction while we run. */
#include "relay/queue/queue_private.h"

/* --- the schedule --- */

/* Unix time from which on it has expired. */
static uint64_t
expires_s(const struct queue *queue, const struct queue_entry *entry)
{
    return (uint64_t)entry->arrival_s + queue->schedule.expire_s;
}

bool
queue_expired(const struct queue *queue, const struct queue_entry *entry, uint32_t now_s)
{
    return now_s >= expires_s(queue, entry);
}

uint32_t
queue_due_clip(const struct queue *queue, const struct queue_entry *entry, uint64_t due_s)
{
    uint64_t latest_s = expires_s(queue, entry);
    uint64_t farthest_s = (uint64_t)queue->now_s + queue->farthest_s;

    /* It should be gone: not at once, or it would be tried without a pause until the sweep comes
     * by. */
    if (latest_s <= queue->now_s)
        latest_s = (uint64_t)queue->now_s + 1;
    if (latest_s > farthest_s)
        latest_s = farthest_s;
    if (latest_s > UINT32_MAX - 1)
        latest_s = UINT32_MAX - 1;
    return (uint32_t)(due_s < latest_s ? due_s : latest_s);
}

/* xorshift64*: messages that were deferred together shall not come back together; no secret. */
static uint64_t
random_next(struct queue *queue)
{
    uint64_t x = queue->random;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    queue->random = x;
    return (x * UINT64_C(0x2545f4914f6cdd1d)) >> 16;
}

static uint64_t
interval_draw(struct queue *queue, uint32_t attempts)
{
    const struct queue_schedule *schedule = &queue->schedule;
    uint32_t row = attempts < schedule->retry_count ? attempts : schedule->retry_count;
    uint64_t retry_s = schedule->retry_s[row - 1], jitter_s = retry_s / 8;
    uint64_t interval_s = retry_s - jitter_s + random_next(queue) % (2 * jitter_s + 1);

    return interval_s > 0 ? interval_s : 1;
}

uint32_t
queue_defer(struct queue *queue, struct queue_entry *entry)
{
    ASSERT(entry->state == QUEUE_ACTIVE);
    queue_leave(queue, entry);
    if (entry->attempts < UINT8_MAX)
        entry->attempts++;
    entry->flags &= (uint8_t)~QUEUE_URGENT;
    entry->due_s =
        queue_due_clip(queue, entry, queue->now_s + interval_draw(queue, entry->attempts));
    queue_settle(queue, entry, QUEUE_WAITING, false);
    return entry->due_s;
}

/* --- the wheel --- */

/* All slots are to be looked at, each once. */
static void
wheel_turn(struct queue *queue)
{
    queue->wheel_s = queue->now_s - QUEUE_WHEEL_SLOTS; /* modulo 2^32, as the slots are */
    queue->cursor = QUEUE_NONE;
}

static void
clock_move(struct queue *queue, uint32_t now_s)
{
    if ((uint64_t)now_s + QUEUE_CLOCK_STEP_S < queue->now_s) {
        queue->now_s = now_s;
        wheel_turn(queue);
    } else if (now_s > queue->now_s) {
        /* What lies further back than the wheel's span is in the same slots. */
        bool far = (uint64_t)now_s - queue->now_s + (uint32_t)(queue->now_s - queue->wheel_s) >
                   QUEUE_WHEEL_SLOTS;

        queue->now_s = now_s;
        if (far)
            wheel_turn(queue);
    }
}

bool
queue_tick(struct queue *queue, uint32_t now_s, uint32_t budget)
{
    clock_move(queue, now_s);
    while (queue->wheel_s != queue->now_s) {
        uint32_t slot = (queue->wheel_s + 1) % QUEUE_WHEEL_SLOTS;

        if (queue->cursor == QUEUE_NONE)
            queue->cursor = queue->wheel[slot];
        while (queue->cursor != QUEUE_NONE) {
            struct queue_entry *entry = entry_at(queue, queue->cursor);

            if (budget == 0)
                return false;
            budget--;
            queue->cursor = entry->next;
            /* Later than any interval: the clock has been set back since. */
            if (entry->due_s <= queue->now_s || entry->due_s - queue->now_s > queue->farthest_s) {
                queue_leave(queue, entry);
                queue_enter(queue, entry, QUEUE_READY, false);
            }
        }
        queue->wheel_s++;
    }
    queue_check(queue);
    return true;
}

/* --- the sweep --- */

static void
sweep_wrap(struct queue *queue)
{
    memcpy(queue->oldest_s, queue->sweeping_s, sizeof(queue->oldest_s));
    memset(queue->sweeping_s, 0, sizeof(queue->sweeping_s));
    queue->sweep_at = 0;
}

static enum queue_finding
sweep_look(struct queue *queue, const struct queue_entry *entry, uint32_t now_s)
{
    const struct queue_schedule *schedule = &queue->schedule;
    uint32_t *oldest_s = &queue->sweeping_s[entry->state];

    if (*oldest_s == 0 || entry->arrival_s < *oldest_s)
        *oldest_s = entry->arrival_s;
    if (entry->state == QUEUE_ACTIVE || (entry->flags & QUEUE_PAUSED))
        return QUEUE_NOTHING;
    if (queue_expired(queue, entry, now_s))
        return QUEUE_EXPIRED;
    if (schedule->delay_s == 0 || (entry->flags & (QUEUE_NOTICE | QUEUE_DELAY_TOLD)))
        return QUEUE_NOTHING;
    return (uint64_t)entry->arrival_s + schedule->delay_s <= now_s ? QUEUE_DELAYED : QUEUE_NOTHING;
}

enum queue_finding
queue_sweep(struct queue *queue, uint32_t now_s, uint32_t *budget, struct queue_entry **entry,
            bool *wrapped)
{
    *wrapped = false;
    *entry = NULL;
    for (;;) {
        enum queue_finding finding;
        struct queue_entry *found;

        if (queue->sweep_at >= queue->entries.touched) {
            sweep_wrap(queue);
            *wrapped = true;
            return QUEUE_NOTHING;
        }
        if (*budget == 0)
            return QUEUE_NOTHING;
        --*budget;
        found = queue_at(queue, queue->sweep_at++);
        finding = found != NULL ? sweep_look(queue, found, now_s) : QUEUE_NOTHING;
        if (finding == QUEUE_NOTHING)
            continue;
        queue_leave(queue, found);
        if (found->state == QUEUE_HELD)
            found->flags |= QUEUE_TO_HOLD;
        queue_enter(queue, found, QUEUE_ACTIVE, false);
        queue_check(queue);
        *entry = found;
        return finding;
    }
}
