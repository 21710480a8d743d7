/* The queue's invariants (numbered in queue.c), each asserted by counting anew. */
#include "relay/queue/queue_private.h"

/* Invariant 1, from the list's side: every one in it belongs there. Returns how many. */
static uint64_t
check_list(const struct queue *queue, const uint32_t *list)
{
    uint32_t index = *list, before = QUEUE_NONE;
    uint64_t count = 0;

    for (; index != QUEUE_NONE; before = index, index = entry_at(queue, index)->next) {
        const struct queue_entry *entry = queue_at(queue, index);

        ASSERT(entry != NULL);
        ASSERT(queue_list(queue, entry) == list);
        ASSERT(index == *list || entry->previous == before);
        count++;
        ASSERT(count <= queue->entries.used);
    }
    if (count > 0)
        ASSERT(entry_at(queue, *list)->previous == before);
    return count;
}

/* Invariants 4 and 5, and the entry's side of 2. */
static void
check_entry(const struct queue *queue, const struct queue_entry *entry)
{
    bool paused = entry->flags & QUEUE_PAUSED, urgent = entry->flags & QUEUE_URGENT;

    ASSERT(entry->state < QUEUE_STATES);
    ASSERT(entry->hop < queue->hop_count);
    ASSERT(paused == queue->segments[entry->place.segment].paused);
    if (entry->state != QUEUE_READY && entry->state != QUEUE_ACTIVE)
        ASSERT(!urgent);
    if (entry->state != QUEUE_ACTIVE)
        ASSERT((entry->flags & (QUEUE_TO_HOLD | QUEUE_TO_RETRY)) == 0);
    ASSERT((entry->flags & QUEUE_TO_HOLD) == 0 || (entry->flags & QUEUE_TO_RETRY) == 0);
    if (entry->state == QUEUE_READY || entry->state == QUEUE_PARKED)
        ASSERT(entry->due_s == 0);
    if (entry->state == QUEUE_WAITING && queue->wheel_s == queue->now_s) {
        ASSERT(entry->due_s > queue->now_s);
        ASSERT(entry->due_s - queue->now_s <= queue->farthest_s);
    }
}

/* Invariant 2, from the segment's side; asked of its first entry alone. */
static void
check_segment(const struct queue *queue, uint32_t number)
{
    const struct queue_segment *segment = &queue->segments[number];
    const struct queue_entry *entry = queue_segment_first(queue, number);
    uint32_t before = QUEUE_NONE, entries = 0, active = 0;

    for (; entry != NULL; entry = queue_segment_next(queue, entry)) {
        uint32_t index = pool_index(&queue->entries, entry);

        ASSERT(pool_in_use(&queue->entries, index));
        ASSERT(entry->place.segment == number);
        ASSERT(entry->previous_in_segment == before);
        entries++;
        ASSERT(entries <= queue->entries.used);
        active += entry->state == QUEUE_ACTIVE;
        before = index;
    }
    ASSERT(segment->entries == entries);
    ASSERT(segment->active == active);
}

static void
check_lines(const struct queue *queue)
{
    uint64_t parked = 0, active = 0;

    for (uint32_t hop = 0; hop < queue->hop_count; hop++) {
        const struct queue_line *line = &queue->lines[hop];
        uint64_t urgent = check_list(queue, &line->urgent_first);

        ASSERT(urgent + check_list(queue, &line->first) == line->ready);
        ASSERT(check_list(queue, &line->parked_first) == line->parked);
        parked += line->parked;
        active += line->active;
    }
    ASSERT(parked == queue->counts.messages[QUEUE_PARKED]);
    ASSERT(active == queue->counts.messages[QUEUE_ACTIVE]);
}

void
queue_invariants(const struct queue *queue)
{
    struct queue_counts counts = { 0 };
    uint64_t waiting = 0, ready = 0, in_segments = 0;

    for (uint32_t index = 0; index < queue->entries.touched; index++) {
        const struct queue_entry *entry = queue_at(queue, index);

        if (entry == NULL)
            continue;
        check_entry(queue, entry);
        counts.messages[entry->state]++;
        counts.bytes[entry->state] += entry->size;
        ready += entry->state == QUEUE_READY && (entry->flags & QUEUE_PAUSED) == 0;
        if (entry->previous_in_segment == QUEUE_NONE) {
            check_segment(queue, entry->place.segment);
            in_segments += queue->segments[entry->place.segment].entries;
        }
    }
    ASSERT(in_segments == queue->entries.used);
    ASSERT(memcmp(&counts, &queue->counts, sizeof(counts)) == 0); /* invariant 3 */
    for (uint32_t hop = 0; hop < queue->hop_count; hop++)
        ready -= queue->lines[hop].ready;
    ASSERT(ready == 0);
    check_lines(queue);
    for (uint32_t slot = 0; slot < QUEUE_WHEEL_SLOTS; slot++)
        waiting += check_list(queue, &queue->wheel[slot]);
    ASSERT(waiting == counts.messages[QUEUE_WAITING]);
    ASSERT((uint32_t)(queue->now_s - queue->wheel_s) <= QUEUE_WHEEL_SLOTS);
    if (queue->cursor != QUEUE_NONE) {
        const struct queue_entry *entry = queue_at(queue, queue->cursor);

        ASSERT(entry != NULL && entry->state == QUEUE_WAITING);
        ASSERT(entry->due_s % QUEUE_WHEEL_SLOTS == (queue->wheel_s + 1) % QUEUE_WHEEL_SLOTS);
    }
}
