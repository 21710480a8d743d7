/* Files of segments: prepared ahead, so that a roll-over does not wait; sealed; kept as spares whose
 * blocks were written once, or removed. Each is a chain of operations with one step in flight. */
#include "relay/spool/found.h"
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/clock.h"
#include "core/log.h"

#define RETRY_NS NS_PER_S

/* A step is what is in flight. Making, under the name of a spare until all of it is durable, so that
 * the name of a segment never stands for less than one (invariant 5): */
enum step {
    STEP_OPEN,
    STEP_OPEN_AGAIN, /* the file that was made is unlinked: without O_DIRECT */
    STEP_ALLOCATE,
    STEP_HEADER,
    STEP_HEADER_SYNC,
    STEP_RENAME,
    STEP_RENAME_SYNC,
    STEP_UNMAKE, /* it failed: what is there is unlinked */
    /* sealing */
    STEP_SEAL,
    STEP_SEAL_SYNC,
    /* removing */
    STEP_REMOVE,
    STEP_REMOVE_SYNC,
};

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

static struct segment *
table_take(struct spool *spool, uint64_t number, uint64_t bytes, uint32_t slots)
{
    struct segment *segment = pool_take(&spool->segments);
    uint32_t blocks = segment_mark_blocks(slots);

    if (segment == NULL)
        return NULL;
    *segment = (struct segment){ .number = number,
                                 .bytes = bytes,
                                 .slots = slots,
                                 .file = -1 };
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

static void
table_release(struct spool *spool, struct segment *segment)
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
    struct segment *segment = table_take(spool, header->number, header->bytes, header->slots);

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

static void
unused_set(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    __atomic_fetch_add(&spool->directory->unused_bytes, bytes - segment->unused_bytes,
                       __ATOMIC_RELAXED);
    segment->unused_bytes = bytes;
}

void
segment_use(struct spool *spool, struct segment *segment, uint64_t bytes)
{
    ASSERT(bytes <= segment->unused_bytes);
    unused_set(spool, segment, segment->unused_bytes - bytes);
    room_take(spool, bytes);
}

/* --- jobs --- */

static void
job_add(struct spool *spool, struct segment *segment, enum segment_job job)
{
    ASSERT(segment->job == JOB_NONE);
    segment->job = (uint8_t)job;
    segment->next_job = NULL;
    *spool->jobs_end = segment;
    spool->jobs_end = &segment->next_job;
}

static char *
job_block(const struct spool *spool, const struct segment *segment)
{
    return spool->job_memory + (size_t)segment->job_block * SPOOL_BLOCK_BYTES;
}

static void
job_over(struct spool *spool, struct segment *segment)
{
    ASSERT(spool->jobs_running > 0);
    ASSERT(spool->job_blocks_used & 1u << segment->job_block);
    spool->jobs_running--;
    spool->job_blocks_used = (uint8_t)(spool->job_blocks_used & ~(1u << segment->job_block));
    segment->job = JOB_NONE;
}

static void
step_start(struct spool *spool, struct segment *segment, enum step step,
           struct file_request request)
{
    segment->step = (uint8_t)step;
    request.file = segment->file;
    operation_queue(spool, OPERATION_JOB, segment, step, request);
}

static void
step_name(struct spool *spool, struct segment *segment, enum step step, enum file_op op)
{
    char *name = job_block(spool, segment);

    segment_file_name(segment, name);
    step_start(spool, segment, step, (struct file_request){ .op = (uint8_t)op, .name = name });
}

static void
step_sync(struct spool *spool, struct segment *segment, enum step step, enum file_op op)
{
    step_start(spool, segment, step, (struct file_request){ .op = (uint8_t)op });
}

/* offset: of a block */
static void
step_write(struct spool *spool, struct segment *segment, enum step step, uint64_t offset)
{
    step_start(spool, segment, step,
               (struct file_request){ .op = FILE_WRITE,
                                      .memory = job_block(spool, segment),
                                      .bytes = SPOOL_BLOCK_BYTES,
                                      .offset = offset });
}

/* --- making --- */

static void
make_start(struct spool *spool)
{
    uint64_t number = __atomic_fetch_add(&spool->directory->next_number, 1, __ATOMIC_RELAXED);
    uint64_t bytes = spool->directory->segment_bytes;
    struct segment *segment = table_take(spool, number, bytes, segment_slots(bytes));

    if (segment == NULL) {
        spool->make_again_ns = spool->now_ns + RETRY_NS;
        spool_log_error(spool, "no memory for a segment's table", "", -ENOMEM);
        spool->sick_error = -ENOMEM;
        return;
    }
    segment->state = SEGMENT_MAKING;
    segment->spare = true;
    segment->spare_number = number;
    if (spool->spare_count > 0) {
        segment->recycled = true;
        segment->spare_number = spool->spares[--spool->spare_count];
        counter_set(&spool->counters->spool_segments_spare, spool->spare_count);
        segment->unused_bytes = bytes; /* the spare's, already counted */
    }
    spool->making = segment;
    job_add(spool, segment, JOB_MAKE);
}

static void
make_open(struct spool *spool, struct segment *segment)
{
    char *name = job_block(spool, segment);

    segment_file_name(segment, name);
    segment->direct = spool->direct;
    step_start(spool, segment, STEP_OPEN,
               (struct file_request){ .op = FILE_OPEN,
                                      .name = name,
                                      .flags = segment_open_flags(spool) |
                                               (segment->recycled ? 0u : IO_FILE_CREATE) });
}

static void
make_header(struct spool *spool, struct segment *segment)
{
    const struct segment_header header = { .number = segment->number,
                                           .created_s = spool->realtime_ns / NS_PER_S,
                                           .bytes = segment->bytes,
                                           .slots = segment->slots };

    segment_header_write(&header, job_block(spool, segment));
    step_write(spool, segment, STEP_HEADER, 0);
}

static void
make_rename(struct spool *spool, struct segment *segment)
{
    char *from = job_block(spool, segment), *to = from + SPOOL_NAME_BYTES;

    segment_file_name(segment, from);
    spool_segment_name(segment->number, to);
    step_start(spool, segment, STEP_RENAME,
               (struct file_request){ .op = FILE_RENAME, .name = from, .to_name = to });
}

/* Away with what is there; the spool cannot write until a later attempt, unless a segment is left. */
static void
make_fail(struct spool *spool, struct segment *segment, const char *what, int error)
{
    char name[SPOOL_NAME_BYTES];

    segment_file_name(segment, name);
    spool_log_error(spool, what, name, error);
    segment->job_error = error;
    spool->make_again_ns = spool->now_ns + RETRY_NS;
    spool->sick_error = error;
    if (segment->unused_bytes > 0) {
        room_take(spool, segment->unused_bytes);
        unused_set(spool, segment, 0);
    }
    if (segment->file >= 0)
        io_close(spool->io, segment->file);
    segment->file = -1;
    step_name(spool, segment, STEP_UNMAKE, FILE_UNLINK);
}

static void
make_ready(struct spool *spool, struct segment *segment)
{
    ASSERT(spool->making == segment);
    job_over(spool, segment);
    spool->making = NULL;
    segment->state = SEGMENT_READY;
    ASSERT(spool->ready == NULL);
    spool->ready = segment;
    counter_set(&spool->counters->spool_segments_ready, 1);
    unused_set(spool, segment, segment->bytes - segment->records_offset);
    room_take(spool, segment->records_offset);
}

/* The file system has no O_DIRECT: some say so at the open (and leave the file), some at the first
 * write. From now on with a sync behind each write. */
static bool
make_without_direct(struct spool *spool, struct segment *segment, int32_t result)
{
    if (!io_error_is_unsupported(result) || !segment->direct)
        return false;
    spool->direct = false;
    if (segment->file >= 0)
        io_close(spool->io, segment->file);
    segment->file = -1;
    if (segment->recycled) {
        make_open(spool, segment);
        return true;
    }
    step_name(spool, segment, STEP_OPEN_AGAIN, FILE_UNLINK);
    return true;
}

static void
make_opened(struct spool *spool, struct segment *segment, int32_t result)
{
    if (result >= 0)
        segment->file = result;
    else if (!make_without_direct(spool, segment, result))
        make_fail(spool, segment, "open", result);
    if (result < 0)
        return;
    if (segment->recycled)
        make_header(spool, segment);
    else
        step_start(spool, segment, STEP_ALLOCATE,
                   (struct file_request){ .op = FILE_ALLOCATE, .bytes = segment->bytes });
}

static void
make_step(struct spool *spool, struct segment *segment, int32_t result)
{
    switch ((enum step)segment->step) {
    case STEP_OPEN: make_opened(spool, segment, result); break;
    case STEP_OPEN_AGAIN: make_open(spool, segment); break;
    case STEP_ALLOCATE:
        /* A file system that cannot set room aside: writes may find none, and say so then. */
        if (result < 0 && !io_error_is_unsupported(result))
            make_fail(spool, segment, "allocate", result);
        else
            make_header(spool, segment);
        break;
    case STEP_HEADER:
        if (result == (int32_t)SPOOL_BLOCK_BYTES)
            step_sync(spool, segment, STEP_HEADER_SYNC, FILE_SYNC);
        else if (!make_without_direct(spool, segment, result))
            make_fail(spool, segment, "write header", result < 0 ? result : -EIO);
        break;
    case STEP_HEADER_SYNC:
        if (result < 0)
            make_fail(spool, segment, "sync", result);
        else
            make_rename(spool, segment);
        break;
    case STEP_RENAME:
        segment->spare = result < 0;
        if (result < 0)
            make_fail(spool, segment, "rename", result);
        else
            step_sync(spool, segment, STEP_RENAME_SYNC, FILE_SYNC_DIRECTORY);
        break;
    case STEP_RENAME_SYNC:
        if (result < 0)
            make_fail(spool, segment, "sync directory", result);
        else
            make_ready(spool, segment);
        break;
    case STEP_UNMAKE:
        /* Should the file stay: a spare, or a segment without records; the next start tidies. */
        job_over(spool, segment);
        spool->making = NULL;
        table_release(spool, segment);
        break;
    default: ASSERT(segment->step == STEP_UNMAKE);
    }
}

/* --- sealing --- */

/* Where the disk refuses the seal, the file stays without: recovery then looks at every record,
 * and may find some that were answered with an error. They are delivered: more than promised. */
static void
seal_over(struct spool *spool, struct segment *segment, int error)
{
    char name[SPOOL_NAME_BYTES];

    if (error != 0) {
        spool_segment_name(segment->number, name);
        spool_log_error(spool, "seal", name, error);
        segment->failed = true;
    }
    job_over(spool, segment);
    segment_check(spool, segment);
}

static void
seal_step(struct spool *spool, struct segment *segment, int32_t result)
{
    if (segment->step == STEP_SEAL_SYNC)
        seal_over(spool, segment, result < 0 ? result : 0);
    else if (result != (int32_t)SPOOL_BLOCK_BYTES)
        seal_over(spool, segment, result < 0 ? result : -EIO);
    else if (segment->direct)
        seal_over(spool, segment, 0);
    else
        step_sync(spool, segment, STEP_SEAL_SYNC, FILE_SYNC);
}

static void
seal_start(struct spool *spool, struct segment *segment)
{
    segment_seal_write(segment->number, segment->end, job_block(spool, segment));
    step_write(spool, segment, STEP_SEAL, SPOOL_BLOCK_BYTES);
}

/* --- removing --- */

static bool
keep_as_spare(const struct spool *spool, const struct segment *segment)
{
    return !spool->stopping && !segment->failed && !segment->spare && !segment->damaged &&
           segment->bytes == spool->directory->segment_bytes &&
           spool->spare_count + spool->spares_coming < SPOOL_SPARES_MAX;
}

static void
remove_start(struct spool *spool, struct segment *segment)
{
    char *name = job_block(spool, segment), *to = name + SPOOL_NAME_BYTES;

    if (segment->file >= 0)
        io_close(spool->io, segment->file);
    segment->file = -1;
    segment_file_name(segment, name);
    segment->keep = keep_as_spare(spool, segment);
    if (!segment->keep && !segment->damaged) {
        step_name(spool, segment, STEP_REMOVE, FILE_UNLINK);
        return;
    }
    if (segment->keep) {
        spool->spares_coming++;
        spool_spare_name(segment->number, to);
    } else {
        /* What could not be read is left for people. */
        found_damaged_name(segment->number, to);
    }
    step_start(spool, segment, STEP_REMOVE,
               (struct file_request){ .op = FILE_RENAME, .name = name, .to_name = to });
}

static void
remove_fail(struct spool *spool, struct segment *segment, int error)
{
    char name[SPOOL_NAME_BYTES];

    segment_file_name(segment, name);
    spool_log_error(spool, "remove", name, error);
    spool->spares_coming -= segment->keep;
    if (segment->step == STEP_REMOVE_SYNC) {
        /* Its name is gone already: the next attempt must not take it for a spare. */
        segment->spare = segment->keep;
        segment->spare_number = segment->number;
        segment->failed = true;
    }
    segment->remove_again = true;
    spool->remove_again_ns = spool->now_ns + RETRY_NS;
    job_over(spool, segment);
}

static void
remove_step(struct spool *spool, struct segment *segment, int32_t result)
{
    if (segment->step == STEP_REMOVE && result < 0 && result != -ENOENT) {
        remove_fail(spool, segment, result);
        return;
    }
    if (segment->step == STEP_REMOVE) {
        /* Only then may the file be written again, and its bodies go. */
        step_sync(spool, segment, STEP_REMOVE_SYNC, FILE_SYNC_DIRECTORY);
        return;
    }
    if (result < 0) {
        remove_fail(spool, segment, result);
        return;
    }
    job_over(spool, segment);
    if (!segment->damaged)
        room_give(spool, segment->bytes);
    if (segment->keep) {
        spool->spares_coming--;
        spool->spares[spool->spare_count++] = segment->number;
        counter_set(&spool->counters->spool_segments_spare, spool->spare_count);
        __atomic_fetch_add(&spool->directory->unused_bytes, segment->bytes, __ATOMIC_RELAXED);
    }
    removals_release(spool, segment);
    table_release(spool, segment);
}

static void
remove_later(struct spool *spool, struct segment *segment)
{
    if (segment->state != SEGMENT_READY && segment->state != SEGMENT_REMOVING)
        count_records(spool, segment, false);
    if (segment->unused_bytes > 0) {
        room_take(spool, segment->unused_bytes);
        unused_set(spool, segment, 0);
    }
    segment->state = SEGMENT_REMOVING;
    job_add(spool, segment, JOB_REMOVE);
}

void
segment_check(struct spool *spool, struct segment *segment)
{
    if (segment->state != SEGMENT_SEALED || segment->job != JOB_NONE)
        return;
    if (segment->live_records > 0 || segment->holds > 0 || segment->mark_writing)
        return;
    /* One that people may put back says first what is done. */
    if (segment->damaged && segment->dirty_blocks > 0 && spool->marks_failing == 0)
        return;
    remove_later(spool, segment);
}

static void
remove_again(struct spool *spool)
{
    spool->remove_again_ns = NONE;
    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        if (!segment->remove_again)
            continue;
        segment->remove_again = false;
        job_add(spool, segment, JOB_REMOVE);
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
        if (spool->now_ns < spool->failed_ns + RETRY_NS)
            spool->make_again_ns = spool->now_ns + RETRY_NS;
        spool->failed_ns = spool->now_ns;
    }
    segment_use(spool, segment, segment->unused_bytes);
    job_add(spool, segment, JOB_SEAL);
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
        job_add(spool, segment, JOB_SEAL);
}

void
segment_give_up(struct spool *spool, struct segment *segment)
{
    ASSERT(segment->state == SEGMENT_RECOVERING);
    count_records(spool, segment, false);
    table_release(spool, segment);
}

static void
activate(struct spool *spool)
{
    struct segment *segment = spool->ready;

    spool->ready = NULL;
    counter_set(&spool->counters->spool_segments_ready, 0);
    segment->state = SEGMENT_ACTIVE;
    spool->active = segment;
    spool->sick_error = 0;
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
        struct segment *segment = table_take(spool, 0, 0, 0);

        if (segment == NULL)
            break;
        segment->state = SEGMENT_REMOVING;
        segment->spare = true;
        segment->spare_number = spool->spares[--spool->spare_count];
        job_add(spool, segment, JOB_REMOVE);
    }
    counter_set(&spool->counters->spool_segments_spare, spool->spare_count);
    if (spool->active != NULL)
        segment_finish(spool, spool->active, false);
}

void
segment_turn(struct spool *spool)
{
    const struct segment *active;

    if (spool->remove_again_ns <= spool->now_ns && !spool->stopping)
        remove_again(spool);
    if (spool->stopping && store_idle(spool) && clean_idle(spool)) {
        stop_turn(spool);
        return;
    }
    if (spool->active == NULL && spool->ready != NULL)
        activate(spool);
    active = spool->active;
    if (spool->ready == NULL && spool->making == NULL && spool->make_again_ns <= spool->now_ns &&
        (active == NULL || active->end > active->bytes / 2 ||
         active->slots_used > active->slots / 2))
        make_start(spool);
    if (spool->active == NULL && spool->ready == NULL &&
        (spool->making == NULL || spool->making->job_error != 0 || spool->sick)) {
        ASSERT(spool->sick_error != 0);
        fall_sick(spool);
    }
}

void
segment_jobs_turn(struct spool *spool)
{
    while (spool->jobs != NULL && spool->jobs_running < SPOOL_JOBS_MAX) {
        struct segment *segment = spool->jobs;
        uint8_t block = 0;

        /* One sync of a file at a time: an error is told to one of them only. */
        if (segment->job == JOB_SEAL && !segment->direct && segment->mark_writing)
            break;
        spool->jobs = segment->next_job;
        if (spool->jobs == NULL)
            spool->jobs_end = &spool->jobs;
        while (spool->job_blocks_used & 1u << block)
            block++;
        ASSERT(block < SPOOL_JOBS_MAX);
        spool->job_blocks_used = (uint8_t)(spool->job_blocks_used | 1u << block);
        segment->job_block = block;
        spool->jobs_running++;
        switch ((enum segment_job)segment->job) {
        case JOB_MAKE: make_open(spool, segment); break;
        case JOB_SEAL: seal_start(spool, segment); break;
        case JOB_REMOVE: remove_start(spool, segment); break;
        case JOB_NONE: ASSERT(segment->job != JOB_NONE);
        }
    }
}

void
segment_complete(struct spool *spool, struct segment *segment, int32_t result)
{
    switch ((enum segment_job)segment->job) {
    case JOB_MAKE: make_step(spool, segment, result); break;
    case JOB_SEAL: seal_step(spool, segment, result); break;
    case JOB_REMOVE: remove_step(spool, segment, result); break;
    case JOB_NONE: ASSERT(segment->job != JOB_NONE);
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

    if (spool->ready == NULL && spool->making == NULL && spool->make_again_ns < wakes &&
        spool->make_again_ns > 0)
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
