/* The queue's states and lists. Every change of state is queue_leave() and queue_enter(), so that
 * lists and counts cannot drift apart.
 *
 * Invariants (queue_check.c asserts them):
 *  1. An entry stands in one list at most, by its state: READY in its next hop's urgent or common
 *     line, WAITING in the wheel's slot of due_s, PARKED in its next hop's parked ones; ACTIVE and
 *     HELD ones, and READY ones that are paused, in none.
 *  2. Every entry stands in its segment's list; PAUSED is set if and only if the segment is paused.
 *  3. counts, lines[].ready, parked, active and segments[].entries, active are what a count of all
 *     entries would give.
 *  4. URGENT is for READY and ACTIVE; TO_HOLD or TO_RETRY, never both, for ACTIVE.
 *  5. due_s is 0 for READY and PARKED. When the wheel does not lag, what WAITS is due later than
 *     now_s, and not later than farthest_s from it.
 *
 *  READY   -> ACTIVE  queue_next              ACTIVE  -> WAITING queue_defer
 *  WAITING -> READY   queue_tick              ACTIVE  -> PARKED  queue_park
 *  PARKED  -> READY   queue_hop_up            ACTIVE  -> READY   queue_put_back
 *  any     -> HELD    queue_hold              HELD    -> WAITING or READY  queue_release
 *  any     -> READY   queue_retry             any     -> ACTIVE  queue_sweep, then queue_put_back
 *
 * Lists are linked by index. `next` ends with QUEUE_NONE; `previous` of the first is the last, so
 * that a list is one number and can be joined at both ends. */
#include "relay/queue/queue.h"

#include <stdlib.h>

#include "core/io.h"
#include "core/limits.h"
#include "relay/queue/queue_private.h"

_Static_assert(sizeof(struct queue_entry) <= 96, "a million entries are 96 MB; 128 is the promise");
_Static_assert(QUEUE_STATES <= UINT8_MAX, "state is an octet");
_Static_assert((UINT64_C(1) << 32) % QUEUE_WHEEL_SLOTS == 0, "slots go on where time turns over");
#ifdef SPOOL_SEGMENTS_MAX
_Static_assert(SPOOL_SEGMENTS_MAX <= QUEUE_SEGMENTS_MAX, "every segment of the spool has a row");
#endif

/* --- lists --- */

static void
list_insert(struct queue *queue, uint32_t *list, struct queue_entry *entry, bool front)
{
    uint32_t index = pool_index(&queue->entries, entry);
    struct queue_entry *first;

    entry->next = QUEUE_NONE;
    entry->previous = index;
    if (*list == QUEUE_NONE) {
        *list = index;
        return;
    }
    first = entry_at(queue, *list);
    entry->previous = first->previous;
    first->previous = index;
    if (front) {
        entry->next = *list;
        *list = index;
    } else {
        entry_at(queue, entry->previous)->next = index;
    }
}

static void
list_remove(struct queue *queue, uint32_t *list, struct queue_entry *entry)
{
    uint32_t index = pool_index(&queue->entries, entry);

    ASSERT(*list != QUEUE_NONE);
    if (entry->next != QUEUE_NONE)
        entry_at(queue, entry->next)->previous = entry->previous;
    else
        entry_at(queue, *list)->previous = entry->previous;
    if (*list == index)
        *list = entry->next;
    else
        entry_at(queue, entry->previous)->next = entry->next;
    entry->next = entry->previous = QUEUE_NONE;
}

const uint32_t *
queue_list(const struct queue *queue, const struct queue_entry *entry)
{
    const struct queue_line *line = &queue->lines[entry->hop];

    switch ((enum queue_state)entry->state) {
    case QUEUE_READY:
        if (entry->flags & QUEUE_PAUSED)
            return NULL;
        return entry->flags & QUEUE_URGENT ? &line->urgent_first : &line->first;
    case QUEUE_WAITING: return &queue->wheel[entry->due_s % QUEUE_WHEEL_SLOTS];
    case QUEUE_PARKED: return &line->parked_first;
    case QUEUE_ACTIVE:
    case QUEUE_HELD: return NULL;
    case QUEUE_STATES: break;
    }
    ASSERT(!"a state that is none");
    return NULL;
}

static void
line_join(struct queue *queue, struct queue_entry *entry, bool front)
{
    uint32_t *list = (uint32_t *)queue_list(queue, entry);

    if (list != NULL)
        list_insert(queue, list, entry, front);
}

static void
line_quit(struct queue *queue, struct queue_entry *entry)
{
    uint32_t *list = (uint32_t *)queue_list(queue, entry);

    if (list == NULL)
        return;
    /* queue_tick() goes on behind it. Was it the slot's last, it looks at the slot once more. */
    if (entry->state == QUEUE_WAITING && queue->cursor == pool_index(&queue->entries, entry))
        queue->cursor = entry->next;
    list_remove(queue, list, entry);
}

/* --- counts --- */

static uint32_t *
line_count(struct queue *queue, const struct queue_entry *entry)
{
    struct queue_line *line = &queue->lines[entry->hop];

    switch (entry->state) {
    case QUEUE_READY: return entry->flags & QUEUE_PAUSED ? NULL : &line->ready;
    case QUEUE_PARKED: return &line->parked;
    case QUEUE_ACTIVE: return &line->active;
    default: return NULL;
    }
}

static void
count_in(struct queue *queue, const struct queue_entry *entry)
{
    uint32_t *count = line_count(queue, entry);

    queue->counts.messages[entry->state]++;
    queue->counts.bytes[entry->state] += entry->size;
    queue->segments[entry->place.segment].active += entry->state == QUEUE_ACTIVE;
    if (count != NULL)
        ++*count;
}

static void
count_out(struct queue *queue, const struct queue_entry *entry)
{
    uint32_t *count = line_count(queue, entry);

    ASSERT(queue->counts.messages[entry->state] > 0);
    ASSERT(queue->counts.bytes[entry->state] >= entry->size);
    queue->counts.messages[entry->state]--;
    queue->counts.bytes[entry->state] -= entry->size;
    queue->segments[entry->place.segment].active -= entry->state == QUEUE_ACTIVE;
    if (count != NULL)
        --*count;
}

/* --- states --- */

void
queue_leave(struct queue *queue, struct queue_entry *entry)
{
    line_quit(queue, entry);
    count_out(queue, entry);
}

void
queue_enter(struct queue *queue, struct queue_entry *entry, enum queue_state state, bool front)
{
    if (state == QUEUE_WAITING) {
        entry->due_s = queue_due_clip(queue, entry, entry->due_s);
        if (entry->due_s <= queue->now_s)
            state = QUEUE_READY;
    }
    if (state == QUEUE_READY || state == QUEUE_PARKED)
        entry->due_s = 0;
    if (state != QUEUE_READY && state != QUEUE_ACTIVE)
        entry->flags &= (uint8_t)~QUEUE_URGENT;
    entry->state = (uint8_t)state;
    count_in(queue, entry);
    line_join(queue, entry, front);
}

void
queue_settle(struct queue *queue, struct queue_entry *entry, enum queue_state state, bool front)
{
    if (entry->flags & QUEUE_TO_HOLD) {
        state = QUEUE_HELD;
    } else if (entry->flags & QUEUE_TO_RETRY) {
        entry->flags |= QUEUE_URGENT;
        state = QUEUE_READY;
        front = false;
    }
    entry->flags &= (uint8_t) ~(QUEUE_TO_HOLD | QUEUE_TO_RETRY);
    queue_enter(queue, entry, state, front);
    queue_check(queue);
}

/* --- segments --- */

static struct queue_segment *
segment_at(const struct queue *queue, uint32_t segment)
{
    ASSERT(segment < QUEUE_SEGMENTS_MAX);
    return &queue->segments[segment];
}

static void
segment_join(struct queue *queue, struct queue_entry *entry)
{
    struct queue_segment *segment = segment_at(queue, entry->place.segment);
    uint32_t index = pool_index(&queue->entries, entry);

    entry->previous_in_segment = QUEUE_NONE;
    entry->next_in_segment = QUEUE_NONE;
    if (segment->entries > 0) {
        entry->next_in_segment = segment->first;
        entry_at(queue, segment->first)->previous_in_segment = index;
    }
    segment->first = index;
    segment->entries++;
}

static void
segment_quit(struct queue *queue, struct queue_entry *entry)
{
    struct queue_segment *segment = segment_at(queue, entry->place.segment);

    ASSERT(segment->entries > 0);
    if (entry->next_in_segment != QUEUE_NONE)
        entry_at(queue, entry->next_in_segment)->previous_in_segment = entry->previous_in_segment;
    if (entry->previous_in_segment != QUEUE_NONE)
        entry_at(queue, entry->previous_in_segment)->next_in_segment = entry->next_in_segment;
    else
        segment->first = entry->next_in_segment;
    segment->entries--;
    /* Its row may be another segment's next: that one starts unpaused. */
    if (segment->entries == 0)
        segment->paused = false;
}

/* Whoever is READY keeps its place in the line if nothing changes. */
static void
entry_pause(struct queue *queue, struct queue_entry *entry, bool paused)
{
    bool ready = entry->state == QUEUE_READY;

    if (paused == ((entry->flags & QUEUE_PAUSED) != 0))
        return;
    if (ready)
        queue_leave(queue, entry);
    entry->flags ^= QUEUE_PAUSED;
    if (ready)
        queue_enter(queue, entry, QUEUE_READY, true);
}

void
queue_segment_pause(struct queue *queue, uint32_t segment, bool paused)
{
    struct queue_entry *entry = queue_segment_first(queue, segment);

    if (entry != NULL)
        segment_at(queue, segment)->paused = paused;
    /* The list begins with the newest, so that the oldest is the last to step in front. */
    for (; entry != NULL; entry = queue_segment_next(queue, entry))
        entry_pause(queue, entry, paused);
    queue_check(queue);
}

bool
queue_segment_busy(const struct queue *queue, uint32_t segment)
{
    return segment_at(queue, segment)->active > 0;
}

struct queue_entry *
queue_segment_first(const struct queue *queue, uint32_t segment)
{
    const struct queue_segment *row = segment_at(queue, segment);

    return row->entries > 0 ? entry_at(queue, row->first) : NULL;
}

struct queue_entry *
queue_segment_next(const struct queue *queue, const struct queue_entry *entry)
{
    return entry->next_in_segment != QUEUE_NONE ? entry_at(queue, entry->next_in_segment) : NULL;
}

void
queue_moved(struct queue *queue, struct queue_entry *entry, const struct spool_place *place)
{
    bool active = entry->state == QUEUE_ACTIVE;

    segment_at(queue, entry->place.segment)->active -= active;
    segment_quit(queue, entry);
    entry->place = *place;
    segment_join(queue, entry);
    segment_at(queue, entry->place.segment)->active += active;
    entry_pause(queue, entry, segment_at(queue, entry->place.segment)->paused);
    queue_check(queue);
}

/* --- beginning and end --- */

/* xorshift has no way out of 0. */
static uint64_t
random_start(uint64_t seed)
{
    uint64_t mixed = (seed ^ seed >> 32) * UINT64_C(0x9e3779b97f4a7c15) + 0x632be5ab;

    return mixed != 0 ? mixed : 1;
}

static uint32_t
interval_longest(const struct queue_schedule *schedule)
{
    uint32_t longest_s = 1;

    for (uint32_t i = 0; i < schedule->retry_count; i++)
        if (schedule->retry_s[i] > longest_s)
            longest_s = schedule->retry_s[i];
    return longest_s > UINT32_MAX - longest_s / 8 ? UINT32_MAX : longest_s + longest_s / 8;
}

bool
queue_init(struct queue *queue, uint32_t hop_count, uint32_t entries_max,
           const struct queue_schedule *schedule, uint32_t now_s, uint64_t seed)
{
    uint32_t capacity = entries_max < POOL_GENERATIONS ? entries_max : POOL_GENERATIONS;

    ASSERT(schedule->retry_count > 0);
    ASSERT(hop_count <= UINT16_MAX + 1u);
    *queue = (struct queue){ .hop_count = hop_count,
                             .schedule = *schedule,
                             .farthest_s = interval_longest(schedule),
                             .now_s = now_s,
                             .wheel_s = now_s,
                             .cursor = QUEUE_NONE,
                             .random = random_start(seed) };
    for (uint32_t slot = 0; slot < QUEUE_WHEEL_SLOTS; slot++)
        queue->wheel[slot] = QUEUE_NONE;
    queue->lines = io_memory((hop_count + 1) * sizeof(*queue->lines));
    queue->segments = io_memory(QUEUE_SEGMENTS_MAX * sizeof(*queue->segments));
    if (queue->lines == NULL || queue->segments == NULL ||
        !pool_init(&queue->entries, sizeof(struct queue_entry), capacity)) {
        queue_destroy(queue);
        return false;
    }
    for (uint32_t hop = 0; hop < hop_count; hop++) {
        struct queue_line *line = &queue->lines[hop];

        line->urgent_first = line->first = line->parked_first = QUEUE_NONE;
    }
    return true;
}

void
queue_destroy(struct queue *queue)
{
    if (queue->lines != NULL)
        io_memory_free(queue->lines, (queue->hop_count + 1) * sizeof(*queue->lines));
    if (queue->segments != NULL)
        io_memory_free(queue->segments, QUEUE_SEGMENTS_MAX * sizeof(*queue->segments));
    pool_destroy(&queue->entries);
    queue->lines = NULL;
    queue->segments = NULL;
}

struct queue_entry *
queue_add(struct queue *queue, const struct queue_entry *entry, uint32_t due_s, bool held)
{
    struct queue_entry *added;
    enum queue_state state = QUEUE_WAITING;

    ASSERT(entry->hop < queue->hop_count);
    ASSERT(entry->place.segment < QUEUE_SEGMENTS_MAX);
    added = pool_take(&queue->entries);
    if (added == NULL)
        return NULL;
    *added = *entry;
    added->next = added->previous = QUEUE_NONE;
    added->flags &= (uint8_t) ~(QUEUE_PAUSED | QUEUE_TO_HOLD | QUEUE_TO_RETRY);
    segment_join(queue, added);
    if (segment_at(queue, added->place.segment)->paused)
        added->flags |= QUEUE_PAUSED;
    if (held)
        state = QUEUE_HELD;
    else if (due_s == UINT32_MAX)
        state = QUEUE_ACTIVE;
    added->due_s = due_s == UINT32_MAX ? 0 : due_s;
    queue_enter(queue, added, state, false);
    queue_check(queue);
    return added;
}

void
queue_remove(struct queue *queue, struct queue_entry *entry)
{
    queue_leave(queue, entry);
    segment_quit(queue, entry);
    pool_release(&queue->entries, entry);
    queue_check(queue);
}

/* --- attempts --- */

static struct queue_line *
line_at(const struct queue *queue, uint32_t hop)
{
    ASSERT(hop < queue->hop_count);
    return &queue->lines[hop];
}

struct queue_entry *
queue_next(struct queue *queue, uint32_t hop, uint32_t active_max)
{
    const struct queue_line *line = line_at(queue, hop);
    uint32_t index = line->urgent_first != QUEUE_NONE ? line->urgent_first : line->first;
    struct queue_entry *entry;

    if (index == QUEUE_NONE || line->active >= active_max)
        return NULL;
    entry = entry_at(queue, index);
    queue_leave(queue, entry);
    queue_enter(queue, entry, QUEUE_ACTIVE, false);
    queue_check(queue);
    return entry;
}

bool
queue_take(struct queue *queue, struct queue_entry *entry)
{
    if (entry->state == QUEUE_ACTIVE || (entry->flags & QUEUE_PAUSED))
        return false;
    queue_leave(queue, entry);
    if (entry->state == QUEUE_HELD)
        entry->flags |= QUEUE_TO_HOLD; /* should it be put back */
    queue_enter(queue, entry, QUEUE_ACTIVE, false);
    queue_check(queue);
    return true;
}

bool
queue_has_ready(const struct queue *queue, uint32_t hop)
{
    return line_at(queue, hop)->ready > 0;
}

void
queue_park(struct queue *queue, struct queue_entry *entry)
{
    ASSERT(entry->state == QUEUE_ACTIVE);
    queue_leave(queue, entry);
    entry->flags &= (uint8_t)~QUEUE_URGENT;
    entry->due_s = 0;
    queue_settle(queue, entry, QUEUE_PARKED, false);
}

void
queue_put_back(struct queue *queue, struct queue_entry *entry)
{
    ASSERT(entry->state == QUEUE_ACTIVE);
    queue_leave(queue, entry);
    /* due_s is 0 but for what the sweep took while it waited for that. */
    queue_settle(queue, entry, QUEUE_WAITING, true);
}

void
queue_hop_up(struct queue *queue, uint32_t hop, uint32_t count)
{
    const struct queue_line *line = line_at(queue, hop);

    while (count > 0 && line->parked_first != QUEUE_NONE) {
        struct queue_entry *entry = entry_at(queue, line->parked_first);

        queue_leave(queue, entry);
        queue_enter(queue, entry, QUEUE_READY, false);
        /* A paused one would be no probe: nobody hands it out now. */
        count -= (entry->flags & QUEUE_PAUSED) == 0;
    }
    queue_check(queue);
}

/* --- operators --- */

bool
queue_hold(struct queue *queue, struct queue_entry *entry)
{
    if (entry->state == QUEUE_ACTIVE) {
        entry->flags &= (uint8_t)~QUEUE_TO_RETRY;
        entry->flags |= QUEUE_TO_HOLD;
        return false;
    }
    if (entry->state != QUEUE_HELD) {
        queue_leave(queue, entry);
        queue_enter(queue, entry, QUEUE_HELD, false);
        queue_check(queue);
    }
    return true;
}

bool
queue_release(struct queue *queue, struct queue_entry *entry)
{
    if (entry->state == QUEUE_ACTIVE) {
        entry->flags &= (uint8_t)~QUEUE_TO_HOLD;
        return false;
    }
    if (entry->state == QUEUE_HELD) {
        queue_leave(queue, entry);
        queue_enter(queue, entry, QUEUE_WAITING, false);
        queue_check(queue);
    }
    return true;
}

bool
queue_retry(struct queue *queue, struct queue_entry *entry)
{
    if (entry->state == QUEUE_ACTIVE) {
        entry->flags &= (uint8_t)~QUEUE_TO_HOLD;
        entry->flags |= QUEUE_TO_RETRY;
        return false;
    }
    if (entry->flags & QUEUE_URGENT) /* it stands there already */
        return true;
    queue_leave(queue, entry);
    entry->flags |= QUEUE_URGENT;
    queue_enter(queue, entry, QUEUE_READY, false);
    queue_check(queue);
    return true;
}

/* --- looking at it --- */

struct queue_entry *
queue_at(const struct queue *queue, uint32_t index)
{
    return pool_in_use(&queue->entries, index) ? entry_at(queue, index) : NULL;
}

const char *
queue_state_name(enum queue_state state)
{
    static const char *const names[QUEUE_STATES] = {
        [QUEUE_READY] = "ready",   [QUEUE_WAITING] = "waiting", [QUEUE_PARKED] = "parked",
        [QUEUE_ACTIVE] = "active", [QUEUE_HELD] = "held",
    };

    ASSERT(state < QUEUE_STATES);
    return names[state];
}
