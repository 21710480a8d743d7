/* queue_entries: a small queue and its entries, for the tests of the queue.
 * Does:    makes entries that are told apart by a number, and writes down in which order they come.
 * Owns:    the text that drain() returns, until its next call.
 * Errors:  what should not fail fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_QUEUE_ENTRIES_H
#define RINGPOST_TESTS_UNIT_QUEUE_ENTRIES_H

#include <criterion/criterion.h>

#include <stdio.h>

#include "relay/queue/queue.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define NOW 1700000000u
#define ALL UINT32_MAX
#define DAY_S 86400u

static const uint32_t retry_s[] = { 60, 300, 900, 3600 };
static const struct queue_schedule usual = {
    .retry_s = retry_s, .retry_count = COUNT_OF(retry_s), .expire_s = 5 * DAY_S, .delay_s = 14400
};

static inline void
start(struct queue *queue, const struct queue_schedule *schedule, uint32_t entries_max)
{
    cr_assert(queue_init(queue, 3, entries_max, schedule, NOW, 42));
}

/* number: told apart by, in `recipients`. */
static inline struct queue_entry *
add_to(struct queue *queue, uint32_t number, uint32_t hop, uint32_t segment, uint32_t due_s,
       bool held)
{
    struct queue_entry entry = { .place = { .segment = segment, .slot = number },
                                 .id = "0123456789ABCDE",
                                 .size = 1000 + number,
                                 .arrival_s = NOW,
                                 .recipients = number,
                                 .hop = (uint16_t)hop };
    struct queue_entry *added = queue_add(queue, &entry, due_s, held);

    cr_assert_not_null(added);
    return added;
}

static inline struct queue_entry *
add(struct queue *queue, uint32_t number, uint32_t due_s, bool held)
{
    return add_to(queue, number, 0, 0, due_s, held);
}

/* The numbers in the order in which next hop `hop` gets them; they are ACTIVE then. */
static inline const char *
drain(struct queue *queue, uint32_t hop)
{
    static char text[256];
    struct queue_entry *entry;
    size_t len = 0;

    text[0] = 0;
    while ((entry = queue_next(queue, hop, ALL)) != NULL)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u", len > 0 ? " " : "",
                                entry->recipients);
    return text;
}

static inline enum queue_finding
sweep_one(struct queue *queue, uint32_t now_s, struct queue_entry **entry)
{
    uint32_t budget = ALL;
    bool wrapped;

    return queue_sweep(queue, now_s, &budget, entry, &wrapped);
}

#endif
