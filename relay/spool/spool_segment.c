/* The life of a segment: in the table, prepared, active, sealed, gone; and what it counts for. What
 * is done to its file is in spool_job.c. */
#include "relay/spool/found.h"
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/clock.h"
#include "core/log.h"

/* --- the table --- */

uint32_t
segment_index(const struct spool *spool, const struct segment *segment)
{
    return pool_index(&spool->segments, segment);
}

struct segment *
segment_at(const struct spool *spool, uint32_t index)
{
    return pool_at(&spool->segments, index);
}

uint32_t
segment_slots(uint64_t bytes)
{
    uint64_t slots = bytes / SPOOL_BYTES_PER_SLOT;

    ASSERT(slots < UINT32_MAX);
    return slots < SPOOL_SLOTS_MIN ? SPOOL_SLOTS_MIN : (uint32_t)slots;
}

uint64_t
segment_record_bytes_max(const struct spool *spool)
{
    uint64_t bytes = spool->directory->segment_bytes;

    return bytes - segment_records_offset(segment_slots(bytes));
}

void
segment_file_name(const struct segment *segment, char name[SPOOL_NAME_BYTES])
{
    if (segment->spare)
        spool_spare_name(segment->spare_number, name);
    else
        spool_segment_name(segment->number, name);
}

unsigned
segment_open_flags(const struct spool *spool)
{
    return IO_FILE_WRITE | (spool->direct ? IO_FILE_DIRECT | IO_FILE_DSYNC : 0u);
}

static size_t
marks_bytes(uint32_t slots)
{
    return segment_mark_blocks(slots) *
           (MARKS_PER_BLOCK * sizeof(struct mark) + sizeof(struct mark_block));
}

struct segment *
segment_table_take(struct spool *spool, uint64_t number, uint64_t bytes, uint32_t slots)
{
    struct segment *segment = pool_take(&spool->segments);
    uint32_t blocks = segment_mark_blocks(slots);

    if (segment == NULL)
        return NULL;
    *segment = (struct segment){ .number = number, .bytes = bytes, .slots = slots, .file = -1 };
    if (slots == 0)
        return segment;
    segment->records_offset = segment_records_offset(slots);
    segment->end = segment->promised = segment->records_offset;
    segment->marks = io_memory(marks_bytes(slots));
    if (segment->marks == NULL) {
        pool_release(&spool->segments, segment);
        return NULL;
    }
    segment->blocks = (struct mark_block *)(void *)(segment->marks + blocks * MARKS_PER_BLOCK);
    return segment;
}

void
segment_table_release(struct spool *spool, struct segment *segment)
{
    ASSERT(segment->holds == 0 && segment->live_records == 0);
    ASSERT(!segment->mark_writing && segment->job == JOB_NONE);
    ASSERT(segment->unused_bytes == 0);
    ASSERT(segment->removals == NULL);
    if (segment->file >= 0)
        io_close(spool->io, segment->file);
    if (segment->marks != NULL)
        io_memory_free(segment->marks, marks_bytes(segment->slots));
    /* It may still stand on spool->dirty: that list is walked before the slot is used again. */
    segment->marks = NULL;
    segment->file = -1;
    if (segment->in_dirty)
        marks_forget(spool, segment);
    pool_release(&spool->segments, segment);
}

/* The sums of what the table holds; the reclaim goes by them. */
static void
count_records(struct spool *spool, const struct segment *segment, bool in)
{
    spool->record_segments += in ? 1u : -1u;
    spool->total_bytes += in ? segment->bytes : -segment->bytes;
    counter_set(&spool->counters->spool_segments, spool->record_segments);
    counter_set(&spool->counters->spool_bytes_total, spool->total_bytes);
}

struct segment *
segment_take(struct spool *spool, const struct segment_header *header)
{
    struct segment *segment =
        segment_table_take(spool, header->number, header->bytes, header->slots);

    if (segment == NULL)
        return NULL;
    segment->state = SEGMENT_RECOVERING;
    segment->slots_used = header->slots;
    segment->end = header->bytes;
    count_records(spool, segment, true);
    return segment;
}

void
segment_live_add(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    segment->live_records++;
    segment->live_bytes += bytes;
    spool->live_bytes += bytes;
    counter_set(&spool->counters->spool_bytes_live, spool->live_bytes);
}

void
segment_live_remove(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    ASSERT(segment->live_records > 0);
    ASSERT(segment->live_bytes >= bytes);
    segment->live_records--;
    segment->live_bytes -= bytes;
    ASSERT(segment->live_records > 0 || segment->live_bytes == 0);
    spool->live_bytes -= bytes;
    counter_set(&spool->counters->spool_bytes_live, spool->live_bytes);
}

void
segment_hold(struct segment *segment)
{
    ASSERT(segment->state != SEGMENT_REMOVING);
    segment->holds++;
}

void
segment_release(struct spool *spool, struct segment *segment)
{
    ASSERT(segment->holds > 0);
    segment->holds--;
    segment_check(spool, segment);
}

/* --- its share of directory->unused_bytes --- */

void
segment_unused_set(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    __atomic_fetch_add(&spool->directory->unused_bytes, bytes - segment->unused_bytes,
                       __ATOMIC_RELAXED);
    segment->unused_bytes = bytes;
}

void
segment_use(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    ASSERT(bytes <= segment->unused_bytes);
    segment_unused_set(spool, segment, segment->unused_bytes - bytes);
    room_take(spool, bytes);
}

/* --- its end --- */

static void
remove_later(struct spool *spool, struct segment *segment)
{
    if (segment->state != SEGMENT_READY && segment->state != SEGMENT_REMOVING)
        count_records(spool, segment, false);
    if (segment->unused_bytes > 0) {
        room_take(spool, segment->unused_bytes);
        segment_unused_set(spool, segment, 0);
    }
    segment->state = SEGMENT_REMOVING;
    segment_job(spool, segment, JOB_REMOVE);
}

/* Invariant 9. */
void
segment_check(struct spool *spool, struct segment *segment)
{
    if (segment->state != SEGMENT_SEALED || segment->job != JOB_NONE)
        return;
    if (segment->live_records > 0 || segment->holds > 0 || segment->mark_writing)
        return;
    /* One that people may put back says first what is done; but a stop does not wait for a disk
     * that refuses it. */
    if (segment->damaged && segment->dirty_blocks > 0 &&
        !(spool->stopping && spool->marks_failing > 0))
        return;
    remove_later(spool, segment);
}

void
segments_remove_again(struct spool *spool)
{
    spool->remove_again_ns = NONE;
    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        if (!segment->remove_again)
            continue;
        if (segment->mark_writing) {
            spool->remove_again_ns = spool->now_ns + SPOOL_RETRY_NS;
            continue;
        }
        segment->remove_again = false;
        segment_job(spool, segment, JOB_REMOVE);
    }
}

/* --- the life of a segment --- */

void
segment_close(struct spool *spool)
{
    ASSERT(spool->active != NULL);
    spool->active->closing = true;
    spool->active = NULL;
}

void
segment_finish(struct spool *spool, struct segment *segment, bool failed)
{
    ASSERT(segment->state == SEGMENT_ACTIVE);
    if (spool->active == segment)
        spool->active = NULL;
    segment->closing = false;
    segment->failed = failed;
    segment->state = SEGMENT_SEALED;
    /* Invariant 3: what was written behind the last promise does not count. */
    segment->end = segment->promised;
    if (failed) {
        /* Once: the next one at once. Again and again: the disk, not so fast. */
        if (spool->now_ns < spool->failed_ns + SPOOL_RETRY_NS) {
            spool->make_again_ns = spool->now_ns + SPOOL_RETRY_NS;
            spool->failed_twice = true;
        }
        spool->failed_ns = spool->now_ns;
    }
    segment_use(spool, segment, segment->unused_bytes);
    segment_job(spool, segment, JOB_SEAL);
}

void
segment_adopt(struct spool *spool, struct segment *segment, uint64_t end, bool sealed)
{
    ASSERT(segment->state == SEGMENT_RECOVERING);
    ASSERT(segment->file >= 0);
    segment->state = SEGMENT_SEALED;
    segment->end = segment->promised = end;
    if (sealed || segment->live_records == 0)
        segment_check(spool, segment);
    else
        segment_job(spool, segment, JOB_SEAL);
}

void
segment_give_up(struct spool *spool, struct segment *segment)
{
    ASSERT(segment->state == SEGMENT_RECOVERING);
    count_records(spool, segment, false);
    segment_table_release(spool, segment);
}

static void
activate(struct spool *spool)
{
    struct segment *segment = spool->ready;

    spool->ready = NULL;
    counter_set(&spool->counters->spool_segments_ready, 0);
    segment->state = SEGMENT_ACTIVE;
    spool->active = segment;
    count_records(spool, segment, true);
    if (spool->sick) {
        struct log_line line;

        spool->sick = false;
        counter_set(&spool->counters->spool_sick, 0);
        log_begin(&line, LOG_LEVEL_NOTICE, "spool_ok");
        log_end(&line);
    }
}

/* No segment can be written, and none is coming. */
static void
fall_sick(struct spool *spool)
{
    struct log_line line;

    if (!spool->sick) {
        spool->sick = true;
        counter_set(&spool->counters->spool_sick, 1);
        log_begin(&line, LOG_LEVEL_ERROR, "spool_sick");
        log_errno(&line, "error", -spool->sick_error);
        log_end(&line);
    }
    stores_fail(spool, spool->sick_error);
}

/* At the end: what holds no record goes, spares too. */
static void
stop_turn(struct spool *spool)
{
    if (spool->ready != NULL) {
        remove_later(spool, spool->ready);
        spool->ready = NULL;
        counter_set(&spool->counters->spool_segments_ready, 0);
    }
    while (spool->spare_count > 0) {
        struct segment *segment = segment_table_take(spool, 0, 0, 0);

        if (segment == NULL)
            break;
        segment->state = SEGMENT_REMOVING;
        segment->spare = true;
        segment->spare_number = spool->spares[--spool->spare_count];
        segment_job(spool, segment, JOB_REMOVE);
    }
    counter_set(&spool->counters->spool_segments_spare, spool->spare_count);
    if (spool->active != NULL)
        segment_finish(spool, spool->active, false);
}

/* All that was asked for is answered: nothing more is written but seals and marks. */
static bool
stores_over(const struct spool *spool)
{
    return spool->stopping && store_idle(spool) && clean_idle(spool);
}

/* A segment is to be made, at make_again_ns at the earliest. */
static bool
make_wanted(const struct spool *spool)
{
    const struct segment *active = spool->active;

    return !stores_over(spool) && spool->ready == NULL && spool->making == NULL &&
           (active == NULL || active->end > active->bytes / 2 ||
            active->slots_used > active->slots / 2);
}

void
segment_turn(struct spool *spool)
{
    if (spool->remove_again_ns <= spool->now_ns && !spool->stopping)
        segments_remove_again(spool);
    if (stores_over(spool)) {
        stop_turn(spool);
        return;
    }
    if (spool->active == NULL && spool->ready != NULL)
        activate(spool);
    if (make_wanted(spool) && spool->make_again_ns <= spool->now_ns)
        segment_make(spool);
    if (spool->active == NULL && spool->ready == NULL &&
        (spool->making == NULL || spool->making->job_error != 0 || spool->sick)) {
        ASSERT(spool->sick_error != 0);
        fall_sick(spool);
    }
}

/* What could not be removed stays for the next start. */
bool
segment_idle(const struct spool *spool)
{
    return spool->active == NULL && spool->ready == NULL && spool->making == NULL &&
           spool->spare_count == 0 && spool->jobs == NULL && spool->jobs_running == 0;
}

uint64_t
segment_wakes_ns(const struct spool *spool)
{
    uint64_t wakes = spool->stopping ? NONE : spool->remove_again_ns;

    if (make_wanted(spool) && spool->make_again_ns < wakes && spool->make_again_ns > 0)
        wakes = spool->make_again_ns;
    return wakes;
}

bool
segments_create(struct spool *spool)
{
    spool->jobs_end = &spool->jobs;
    spool->remove_again_ns = NONE;
    spool->job_memory = io_memory((size_t)SPOOL_JOBS_MAX * SPOOL_BLOCK_BYTES);
    return spool->job_memory != NULL &&
           pool_init(&spool->segments, sizeof(struct segment), SPOOL_SEGMENTS_MAX);
}

void
segments_destroy(struct spool *spool)
{
    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        if (segment->file >= 0)
            io_close_now(segment->file);
        if (segment->marks != NULL)
            io_memory_free(segment->marks, marks_bytes(segment->slots));
    }
    pool_destroy(&spool->segments);
    if (spool->job_memory != NULL)
        io_memory_free(spool->job_memory, (size_t)SPOOL_JOBS_MAX * SPOOL_BLOCK_BYTES);
}
