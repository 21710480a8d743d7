/* What is done to the files of segments: made under the name of a spare until all of it is durable,
 * sealed, kept as spares or removed. Each job is a chain of operations with one step in flight. */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "relay/spool/found.h"

/* A step is what is in flight. Making, under the name of a spare until all of it is durable, so
 * that the name of a segment never stands for less than one (invariant 5): */
enum step {
    STEP_OPEN,
    STEP_OPEN_AGAIN, /* the file that was made is unlinked: without O_DIRECT */
    STEP_ALLOCATE,
    STEP_EXTEND, /* where the file system cannot allocate: its last block is written */
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

/* --- jobs --- */

void
segment_job(struct spool *spool, struct segment *segment, enum segment_job job)
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

void
segment_make(struct spool *spool)
{
    uint64_t number = __atomic_fetch_add(&spool->directory->next_number, 1, __ATOMIC_RELAXED);
    uint64_t bytes = spool->directory->segment_bytes;
    struct segment *segment = segment_table_take(spool, number, bytes, segment_slots(bytes));

    if (segment == NULL) {
        spool->make_again_ns = spool->now_ns + SPOOL_RETRY_NS;
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
    segment->sync_failures = directory_failures(spool);
    spool->making = segment;
    segment_job(spool, segment, JOB_MAKE);
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

/* Away with what is there; the spool cannot write until a later attempt, unless a segment is left.
 */
static void
make_fail(struct spool *spool, struct segment *segment, const char *what, int error)
{
    char name[SPOOL_NAME_BYTES];

    segment_file_name(segment, name);
    spool_log_error(spool, what, name, error);
    segment->job_error = error;
    spool->make_again_ns = spool->now_ns + SPOOL_RETRY_NS;
    spool->sick_error = error;
    if (segment->unused_bytes > 0) {
        room_take(spool, segment->unused_bytes);
        segment_unused_set(spool, segment, 0);
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
    segment_unused_set(spool, segment, segment->bytes - segment->records_offset);
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
    spool->direct_known = true;
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

/* A file system that cannot set room aside: writes may find none, and say so then. But the file is
 * as long as its header says, or recovery would have to take it for one that was cut short. */
static void
make_extend(struct spool *spool, struct segment *segment)
{
    char *block = job_block(spool, segment);

    memset(block, 0, SPOOL_BLOCK_BYTES);
    step_start(spool, segment, STEP_EXTEND,
               (struct file_request){ .op = FILE_WRITE,
                                      .memory = block,
                                      .bytes = SPOOL_BLOCK_BYTES,
                                      .offset = segment->bytes - SPOOL_BLOCK_BYTES });
}

static void
make_step(struct spool *spool, struct segment *segment, int32_t result)
{
    switch ((enum step)segment->step) {
    case STEP_OPEN: make_opened(spool, segment, result); break;
    case STEP_OPEN_AGAIN: make_open(spool, segment); break;
    case STEP_ALLOCATE:
        if (result >= 0)
            make_header(spool, segment);
        else if (io_error_is_unsupported(result))
            make_extend(spool, segment);
        else
            make_fail(spool, segment, "allocate", result);
        break;
    case STEP_EXTEND:
        if (result == (int32_t)SPOOL_BLOCK_BYTES)
            make_header(spool, segment);
        else if (!make_without_direct(spool, segment, result))
            make_fail(spool, segment, "extend", result < 0 ? result : -EIO);
        break;
    case STEP_HEADER:
        spool->direct_known = spool->direct_known || result == (int32_t)SPOOL_BLOCK_BYTES;
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
#ifdef CANARY_NAME_NOT_SYNCED
            make_ready(spool, segment);
#else
            step_sync(spool, segment, STEP_RENAME_SYNC, FILE_SYNC_DIRECTORY);
#endif
        break;
    case STEP_RENAME_SYNC:
        result = directory_synced(spool, segment->sync_failures, result);
        if (result < 0)
            make_fail(spool, segment, "sync directory", result);
        else
            make_ready(spool, segment);
        break;
    case STEP_UNMAKE:
        /* Should the file stay: a spare, or a segment without records; the next start tidies. */
        job_over(spool, segment);
        spool->making = NULL;
        segment_table_release(spool, segment);
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

    /* Its file stays open: if it cannot be removed, its marks say what is done. */
    segment_file_name(segment, name);
    segment->sync_failures = directory_failures(spool);
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
    spool->remove_again_ns = spool->now_ns + SPOOL_RETRY_NS;
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
        /* Only then may the file be written again (5), and its bodies go (8). */
        step_sync(spool, segment, STEP_REMOVE_SYNC, FILE_SYNC_DIRECTORY);
        return;
    }
    result = directory_synced(spool, segment->sync_failures, result);
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
    if (segment->damaged && segment->dirty_blocks > 0)
        spool->marks_lost = true; /* and somebody may put it back */
    /* Nobody waits for a close at the end: the file system may be wanted back. */
    if (spool->stopping && segment->file >= 0) {
        io_close_now(segment->file);
        segment->file = -1;
    }
    removals_release(spool, segment);
    segment_table_release(spool, segment);
}

/* --- which, and what came of it --- */

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
