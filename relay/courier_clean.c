/* A segment with little left in it is emptied: its live messages are copied to the present one, so
 * that one message that waits for days does not keep 64 MiB. Nothing of the segment is handed out
 * meanwhile, and nothing is copied while one of its messages is being delivered: marks have one
 * place at any time. */
#include <stdlib.h>

#include "relay/courier.h"
#include "relay/worker.h"

/* Records of one segment: enough for the smallest messages in one that is half full. */
#define MOVED_MAX 65536u

struct courier_moved { /* a record of the segment */
    struct spool_place from, to;
};

bool
courier_clean_init(struct courier *courier)
{
    courier->moved = io_memory(MOVED_MAX * sizeof(*courier->moved));
    return courier->moved != NULL;
}

void
courier_clean_destroy(struct courier *courier)
{
    io_memory_free(courier->moved, MOVED_MAX * sizeof(*courier->moved));
}

static int
by_offset(const void *a, const void *b)
{
    const struct courier_moved *one = a, *other = b;

    return (one->from.offset > other->from.offset) - (one->from.offset < other->from.offset);
}

/* The records that have entries, each once: several next hops share one. */
static bool
records_collect(struct courier *courier, uint32_t segment)
{
    uint32_t count = 0, distinct = 0;

    for (struct queue_entry *entry = queue_segment_first(&courier->queue, segment); entry != NULL;
         entry = queue_segment_next(&courier->queue, entry)) {
        if (count == MOVED_MAX)
            return false;
        courier->moved[count++].from = entry->place;
    }
    qsort(courier->moved, count, sizeof(*courier->moved), by_offset);
    for (uint32_t i = 0; i < count; i++)
        if (distinct == 0 ||
            courier->moved[distinct - 1].from.offset != courier->moved[i].from.offset)
            courier->moved[distinct++] = courier->moved[i];
    courier->moved_count = distinct;
    return true;
}

void
courier_clean(struct courier *courier, uint32_t segment)
{
    /* What the queue does not know of would not be moved, and would go with the file. */
    if (courier->clean_segment != UINT32_MAX || courier->stopping || courier->unlisted) {
        spool_clean_finish(courier->spool, segment, true);
        return;
    }
    courier->clean_segment = segment;
    courier->clean_failed = courier->clean_begun = false;
    courier->moves_flying = courier->moved_count = courier->moves_begun = 0;
    queue_segment_pause(&courier->queue, segment, true);
}

static void
finish(struct courier *courier)
{
    struct queue *queue = &courier->queue;
    uint32_t segment = courier->clean_segment;
    struct queue_entry *entry = queue_segment_first(queue, segment), *next;

    for (; entry != NULL && !courier->clean_failed; entry = next) {
        struct courier_moved key = { .from = entry->place }, *moved;

        next = queue_segment_next(queue, entry);
        moved = bsearch(&key, courier->moved, courier->moved_count, sizeof(key), by_offset);
        ASSERT(moved != NULL);
        queue_moved(queue, entry, &moved->to);
    }
    if (courier->clean_failed)
        queue_segment_pause(queue, segment, false);
    courier->clean_segment = UINT32_MAX;
    spool_clean_finish(courier->spool, segment, courier->clean_failed);
}

void
courier_clean_step(struct courier *courier)
{
    uint32_t segment = courier->clean_segment;

    if (segment == UINT32_MAX ||
        (!courier->clean_begun && queue_segment_busy(&courier->queue, segment)))
        return;
    if (!courier->clean_begun) {
        courier->clean_begun = true;
        courier->clean_failed = !records_collect(courier, segment);
    }
    for (uint32_t i = 0; i < COURIER_MOVES_MAX && !courier->clean_failed &&
                         courier->moves_begun < courier->moved_count;
         i++) {
        struct spool_move *move = &courier->moves[i];

        if (move->owner != NULL)
            continue;
        *move = (struct spool_move){ .from = courier->moved[courier->moves_begun++].from,
                                     .owner = courier };
        courier->moves_flying++;
        spool_move(courier->spool, move);
    }
    if (courier->moves_flying == 0)
        finish(courier);
}

void
courier_moved(struct courier *courier, struct spool_move *move)
{
    struct courier_moved key = { .from = move->from }, *moved;

    move->owner = NULL;
    courier->moves_flying--;
    if (move->error != 0) {
        courier->clean_failed = true;
        return;
    }
    moved = bsearch(&key, courier->moved, courier->moved_count, sizeof(key), by_offset);
    ASSERT(moved != NULL);
    moved->to = move->to;
}
