/* Marks: what has become of each recipient, in memory per segment and written in batches; and body
 * files, which must not go before the marks that make them needless are durable. */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/clock.h"
#include "core/log.h"

#define MARK_WRITE_BYTES ((uint32_t)SPOOL_MARK_BLOCKS * SPOOL_BLOCK_BYTES)

enum mark_step { MARK_WRITE, MARK_SYNC };

struct spool_removal { /* in spool->removals */
    struct spool_removal *next;
    uint64_t point; /* version of its segment that must be durable; NONE: its file must be gone */
    char name[SPOOL_NAME_BYTES];
};

/* --- marks in memory --- */

struct mark
mark_get(const struct segment *segment, uint32_t slot)
{
    ASSERT(slot < segment->slots);
    return segment->marks[slot];
}

static void
dirty_add(struct spool *spool, struct segment *segment)
{
    if (segment->in_dirty)
        return;
    segment->in_dirty = true;
    segment->next_dirty = spool->dirty;
    spool->dirty = segment;
}

void
marks_forget(struct spool *spool, struct segment *segment)
{
    struct segment **at = &spool->dirty;

    ASSERT(segment->in_dirty);
    while (*at != segment)
        at = &(*at)->next_dirty;
    *at = segment->next_dirty;
    segment->in_dirty = false;
}

void
mark_set(struct spool *spool, struct segment *segment, uint32_t slot, struct mark mark)
{
    struct mark_block *block = &segment->blocks[slot / MARKS_PER_BLOCK];

    ASSERT(slot < segment->slots);
    ASSERT(mark.state < MARK_STATES);
    if (memcmp(&segment->marks[slot], &mark, sizeof(mark)) == 0)
        return;
    segment->marks[slot] = mark;
    if (block->version == block->written)
        segment->dirty_blocks++;
    block->version = ++segment->version;
    dirty_add(spool, segment);
}

void
mark_block_adopt(struct segment *segment, uint32_t index, unsigned copy, uint64_t sequence,
                 const struct mark marks[MARKS_PER_BLOCK])
{
    struct mark_block *block = &segment->blocks[index];

    ASSERT(index < segment_mark_blocks(segment->slots) && copy < 2);
    ASSERT(block->version == block->written);
    memcpy(segment->marks + (size_t)index * MARKS_PER_BLOCK, marks,
           MARKS_PER_BLOCK * sizeof(struct mark));
    block->sequence = sequence;
    block->copy = (uint8_t)(copy ^ 1);
}

/* A block that was set since may have been written up to the point all the same; then this says no
 * until its next write, which is on its way. */
bool
marks_durable(const struct segment *segment, uint32_t slot, uint32_t count, uint64_t point)
{
    ASSERT(count > 0);
    for (uint32_t i = slot / MARKS_PER_BLOCK; i <= (slot + count - 1) / MARKS_PER_BLOCK; i++) {
        const struct mark_block *block = &segment->blocks[i];

        if (block->version != block->written && block->written < point)
            return false;
    }
    return true;
}

static struct segment *
segment_of(const struct spool *spool, const struct spool_place *place)
{
    struct segment *segment = segment_at(spool, place->segment);

    ASSERT(segment->live_records > 0);
    ASSERT(segment->state == SEGMENT_ACTIVE || segment->state == SEGMENT_SEALED ||
           segment->state == SEGMENT_RECOVERING);
    ASSERT(place->slot < segment->slots_used);
    return segment;
}

struct mark
spool_mark(const struct spool *spool, const struct spool_place *place, uint32_t recipient)
{
    return mark_get(segment_of(spool, place), place->slot + recipient);
}

void
spool_mark_set(struct spool *spool, const struct spool_place *place, uint32_t recipient,
               struct mark mark)
{
    mark_set(spool, segment_of(spool, place), place->slot + recipient, mark);
}

void
spool_forget(struct spool *spool, const struct spool_place *place, const char id[16],
             bool body_file)
{
    struct segment *segment = segment_of(spool, place);

    if (body_file)
        removal_add(spool, segment, id, false);
    if (spool->clean.segment == segment)
        clean_forgotten(spool, place);
    segment_live_remove(spool, segment, place->bytes);
    segment_check(spool, segment);
}

/* --- body files that go (invariant 8) --- */

static void
removal_due(struct spool *spool, struct spool_removal *removal)
{
    removal->next = NULL;
    *spool->removals_due_end = removal;
    spool->removals_due_end = &removal->next;
}

/* Without a place on the list the file stays, and goes at the next start: no record needs it then.
 */
void
removal_add(struct spool *spool, struct segment *segment, const char id[16], bool never_before_end)
{
    struct spool_removal *removal = pool_take(&spool->removals);

    if (removal == NULL) {
        counter_increment(&spool->counters->pool_exhausted);
        return;
    }
    spool_body_name(id, removal->name);
    removal->point = never_before_end ? NONE : segment->version;
#ifdef CANARY_BODY_BEFORE_MARKS
    removal->point = 0;
#endif
    removal->next = segment->removals;
    segment->removals = removal;
    dirty_add(spool, segment);
}

/* Up to which version all marks of the segment are durable. */
static uint64_t
durable_point(const struct segment *segment)
{
    uint64_t point = NONE - 1;

    if (segment->dirty_blocks == 0)
        return point;
    for (uint32_t i = 0; i < segment_mark_blocks(segment->slots); i++) {
        const struct mark_block *block = &segment->blocks[i];

        if (block->version != block->written && block->written < point)
            point = block->written;
    }
    return point;
}

static void
removals_check(struct spool *spool, struct segment *segment)
{
    struct spool_removal **at = &segment->removals;
    uint64_t point;

    if (segment->removals == NULL)
        return;
    point = durable_point(segment);
    while (*at != NULL) {
        struct spool_removal *removal = *at;

        if (removal->point <= point) {
            *at = removal->next;
            removal_due(spool, removal);
        } else {
            at = &removal->next;
        }
    }
}

void
removals_release(struct spool *spool, struct segment *segment)
{
    while (segment->removals != NULL) {
        struct spool_removal *removal = segment->removals;

        segment->removals = removal->next;
        removal_due(spool, removal);
    }
}

static void
removals_start(struct spool *spool)
{
    while (spool->removals_due != NULL && spool->removals_running < SPOOL_REMOVALS_RUNNING_MAX) {
        struct spool_removal *removal = spool->removals_due;

        spool->removals_due = removal->next;
        if (spool->removals_due == NULL)
            spool->removals_due_end = &spool->removals_due;
        spool->removals_running++;
        operation_queue(spool, OPERATION_REMOVAL, removal, 0,
                        (struct file_request){ .op = FILE_UNLINK, .name = removal->name });
    }
}

void
removal_complete(struct spool *spool, struct spool_removal *removal, int32_t result)
{
    ASSERT(spool->removals_running > 0);
    spool->removals_running--;
    if (result < 0 && result != -ENOENT)
        spool_log_error(spool, "remove", removal->name, result);
    pool_release(&spool->removals, removal);
}

/* --- writing --- */

/* A run of dirty blocks that go to the same copy, from where the last run ended, so that none waits
 * for ever. */
static void
write_start(struct spool *spool, struct segment *segment)
{
    struct mark_write *write = spool->mark_writes_free;
    uint32_t blocks = segment_mark_blocks(segment->slots);
    uint32_t first = segment->dirty_next < blocks ? segment->dirty_next : 0;
    struct mark_block *block = &segment->blocks[first];
    unsigned copy;

    ASSERT(segment->dirty_blocks > 0);
    while (block->version == block->written) {
        first = (first + 1) % blocks;
        block = &segment->blocks[first];
    }
    copy = block->copy;
    spool->mark_writes_free = write->next_free;
    write->segment = segment;
    write->stopping = spool->stopping;
    write->first = first;
    write->count = 0;
    while (write->count < SPOOL_MARK_BLOCKS && first + write->count < blocks) {
        uint32_t index = first + write->count;

        block = &segment->blocks[index];
        if (block->version == block->written || block->copy != copy)
            break;
        block->writing = block->version;
        mark_block_write(segment->number, index, block->sequence + 1,
                         segment->marks + (size_t)index * MARKS_PER_BLOCK, MARKS_PER_BLOCK,
                         write->memory + (size_t)write->count * SPOOL_BLOCK_BYTES);
        write->count++;
    }
    segment->dirty_next = first + write->count;
    segment->mark_writing = true;
    segment->marks_began_ns = spool->now_ns;
    operation_queue(spool, OPERATION_MARKS, write, MARK_WRITE,
                    (struct file_request){
                        .op = FILE_WRITE,
                        .file = segment->file,
                        .memory = write->memory,
                        .bytes = write->count * SPOOL_BLOCK_BYTES,
                        .offset = segment_marks_offset(segment->slots, copy, first),
                    });
}

static void
write_ok(struct spool *spool, struct mark_write *write)
{
    struct segment *segment = write->segment;

    spool->marks_failing = 0;
    counter_increment(&spool->counters->spool_mark_writes);
    counter_add(&spool->counters->spool_bytes_marks, write->count * SPOOL_BLOCK_BYTES);
    for (uint32_t i = 0; i < write->count; i++) {
        struct mark_block *block = &segment->blocks[write->first + i];

        block->sequence++;
        block->written = block->writing;
#ifndef CANARY_MARKS_OVER_NEWEST
        block->copy ^= 1;
#endif
        if (block->version == block->written) {
            ASSERT(segment->dirty_blocks > 0);
            segment->dirty_blocks--;
        }
    }
}

void
mark_complete(struct spool *spool, struct mark_write *write, int32_t result, uint32_t step)
{
    struct segment *segment = write->segment;
    int32_t len = (int32_t)(write->count * SPOOL_BLOCK_BYTES);

    ASSERT(segment->mark_writing);
    if (step == MARK_WRITE && result == len && !segment->direct) {
        operation_queue(spool, OPERATION_MARKS, write, MARK_SYNC,
                        (struct file_request){ .op = FILE_SYNC, .file = segment->file });
        return;
    }
    segment->mark_writing = false;
    spool->marks_first = false;
    write->next_free = spool->mark_writes_free;
    spool->mark_writes_free = write;
    if (result == (step == MARK_WRITE ? len : 0)) {
        write_ok(spool, write);
        removals_check(spool, segment);
    } else {
        char name[SPOOL_NAME_BYTES];

        /* Invariant 4. The copy that was hit is written again, all of it, and the other one stands
         * until that has worked. */
        spool_segment_name(segment->number, name);
        spool_log_error(spool, "write marks", name, result < 0 ? result : -EIO);
        /* What was in flight at the stop was not the attempt that the stop makes. */
        if (!spool->stopping || write->stopping) {
            spool->marks_failing++;
            spool->marks_again_ns = spool->now_ns + SPOOL_RETRY_NS;
        }
    }
    segment_check(spool, segment);
    /* None of the others waits for its own attempt any more. */
    for (segment = spool->dirty; segment != NULL && spool->stopping && spool->marks_failing > 0;
         segment = segment->next_dirty)
        segment_check(spool, segment);
}

/* How long the disk took says how long it is left alone. */
static void
pause(struct spool *spool, struct segment *segment)
{
    uint64_t pause_ns;

    if (segment->mark_writing || segment->marks_began_ns == 0)
        return;
    pause_ns = (spool->now_ns - segment->marks_began_ns) * SPOOL_MARKS_PAUSE_SHARE;
    if (pause_ns < SPOOL_MARKS_PAUSE_NS)
        pause_ns = SPOOL_MARKS_PAUSE_NS;
    if (pause_ns > SPOOL_MARKS_PAUSE_MAX_NS)
        pause_ns = SPOOL_MARKS_PAUSE_MAX_NS;
    segment->marks_next_ns = spool->now_ns + pause_ns;
    segment->marks_began_ns = 0;
}

/* The first mark goes at once, those that follow closely wait for each other: a write costs more
 * than the deliveries that it tells of, and a mark may lag. */
bool
marks_due(const struct spool *spool, const struct segment *segment)
{
    return segment->dirty_blocks > 0 &&
           (segment->marks_next_ns <= spool->now_ns || spool->stopping);
}

static bool
may_write(const struct spool *spool, const struct segment *segment)
{
    if (!marks_due(spool, segment) || segment->mark_writing)
        return false;
    /* They go with its file. Where that fails, the next start finds it, and must see what is done.
     */
    if (segment->state == SEGMENT_REMOVING && segment->job != JOB_NONE)
        return false;
#ifdef CANARY_MARKS_LOST_AT_STOP
    if (spool->stopping)
        return false;
#endif
    if (segment->direct)
        return true;
    /* One sync at a time: see store_turn(). */
    return segment->job == JOB_NONE &&
           !(spool->committing && spool->groups[spool->filling ^ 1].segment == segment);
}

void
mark_turn(struct spool *spool)
{
    struct segment **at = &spool->dirty;

    spool->marks_wake_ns = UINT64_MAX;
    while (*at != NULL) {
        struct segment *segment = *at;

        pause(spool, segment);
        if (spool->mark_writes_free != NULL && spool->marks_again_ns <= spool->now_ns &&
            may_write(spool, segment))
            write_start(spool, segment);
        else if (segment->dirty_blocks > 0 && segment->marks_next_ns > spool->now_ns &&
                 segment->marks_next_ns < spool->marks_wake_ns)
            spool->marks_wake_ns = segment->marks_next_ns;
        if (segment->dirty_blocks == 0)
            removals_check(spool, segment);
        if (segment->dirty_blocks > 0 || segment->mark_writing) {
            at = &segment->next_dirty;
        } else {
            *at = segment->next_dirty;
            segment->in_dirty = false;
        }
    }
    removals_start(spool);
}

/* What can be written now waits for the next attempt; the rest for something that completes. */
uint64_t
mark_wakes_ns(const struct spool *spool)
{
    if ((spool->marks_failing == 0 && spool->marks_again_ns <= spool->now_ns) ||
        spool->mark_writes_free == NULL)
        return NONE;
    for (const struct segment *segment = spool->dirty; segment != NULL;
         segment = segment->next_dirty)
        if (segment->dirty_blocks > 0 && may_write(spool, segment))
            return spool->marks_again_ns;
    return NONE;
}

/* At the end: all is written, or the disk does not take it. */
bool
mark_idle(const struct spool *spool)
{
    if (spool->removals_running > 0 || spool->removals_due != NULL)
        return false;
#ifdef CANARY_MARKS_LOST_AT_STOP
    return true;
#endif
    for (const struct segment *segment = spool->dirty; segment != NULL;
         segment = segment->next_dirty) {
        if (segment->mark_writing || (segment->dirty_blocks > 0 && spool->marks_failing == 0))
            return false;
    }
    return true;
}

bool
spool_marks_durable(const struct spool *spool)
{
    if (spool->marks_lost)
        return false;
    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        const struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        /* An original that could not be removed counts again, and has old marks. */
        if (segment->dirty_blocks > 0 || (segment->moved_away && segment->remove_again))
            return false;
    }
    return true;
}

bool
marks_create(struct spool *spool)
{
    spool->removals_due_end = &spool->removals_due;
    spool->mark_memory = io_memory((size_t)SPOOL_MARK_WRITES_MAX * MARK_WRITE_BYTES);
    if (spool->mark_memory == NULL ||
        !pool_init(&spool->removals, sizeof(struct spool_removal), SPOOL_REMOVALS_MAX))
        return false;
    for (uint32_t i = 0; i < SPOOL_MARK_WRITES_MAX; i++) {
        struct mark_write *write = &spool->mark_writes[i];

        write->memory = spool->mark_memory + (size_t)i * MARK_WRITE_BYTES;
        write->next_free = spool->mark_writes_free;
        spool->mark_writes_free = write;
    }
    return true;
}

void
marks_destroy(struct spool *spool)
{
    pool_destroy(&spool->removals);
    if (spool->mark_memory != NULL)
        io_memory_free(spool->mark_memory, (size_t)SPOOL_MARK_WRITES_MAX * MARK_WRITE_BYTES);
}
