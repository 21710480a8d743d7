/* queue_private: what the files of the queue share.
 * Does:    entries by index, and the one way in and out of a state.
 * Owns:    nothing of its own.
 * Memory:  none allocated.
 * Threads: the worker's.
 */
#ifndef RINGPOST_RELAY_QUEUE_PRIVATE_H
#define RINGPOST_RELAY_QUEUE_PRIVATE_H

#include "relay/queue/queue.h"

static inline struct queue_entry *
entry_at(const struct queue *queue, uint32_t index)
{
    return pool_at(&queue->entries, index);
}

/* Out of its list and out of the counts; queue_enter() must follow, or its end. */
void queue_leave(struct queue *queue, struct queue_entry *entry);
/* Into a state. WAITING becomes READY when due_s has passed. front: before those that are READY. */
void queue_enter(struct queue *queue, struct queue_entry *entry, enum queue_state state,
                 bool front);
/* The same at the end of an attempt, after queue_leave(): what operators asked for comes first. */
void queue_settle(struct queue *queue, struct queue_entry *entry, enum queue_state state,
                  bool front);
/* due_s, if that is not later than it may be. */
uint32_t queue_due_clip(const struct queue *queue, const struct queue_entry *entry, uint64_t due_s);
/* The list that it stands in, NULL: none. */
const uint32_t *queue_list(const struct queue *queue, const struct queue_entry *entry);

/* After each change of a small queue, in builds with slow checks. */
static inline void
queue_check(const struct queue *queue)
{
#ifdef RINGPOST_SLOW_CHECKS
    if (queue->entries.touched <= 64)
        queue_invariants(queue);
#else
    (void)queue;
#endif
}

#endif
