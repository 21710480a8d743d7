/* The spool as one object: completions to their files, events, room, the turn.
 *
 * Invariants. Each is named where it is kept, and held by a test.
 *
 *  1. SPOOL_STORED with error 0 is given only after the write of the group with the last octet of
 * the record completed whole, and was durable by itself (O_DSYNC) or by a sync that returned 0. A
 *     body in a file is durable, and its name, before its record is written.
 *  2. A record counts only if segment number, lengths and checksums match (record.h). Recovery ends
 *     a segment that has no seal at the first place behind which nothing is valid, and reports what
 *     is invalid before a valid record.
 *  3. After a failed write or sync of records nothing in that segment is promised again: what was
 *     gathered for it gets the error, it is sealed behind its last promise, another is used. No
 * sync is repeated and then believed; what is written again is written whole.
 *  4. Marks may lag: a crash may deliver again what was delivered since the last batch, and loses
 *     nothing. A mark block is never written over its newest valid copy. A file that stays although
 *     all of it is done gets its marks; a stop that leaves some unwritten is none in order.
 *  5. A file has the name of a segment only while its header is durable, and is a segment only once
 *     that name is. A file that is used again has durably lost its old name before it is written.
 *  6. Room for a message is set aside before its sender is told to go on (spool_reserve()): free
 *     space above the floor, less what others have set aside.
 *  7. Work at start grows with the segments that are there, which the reclaim keeps below twice
 * what lives and four more; not with what was ever stored.
 *  8. A body file goes only after the marks that make it needless are durable, or the segment's
 * file has durably gone. A copied record counts once: the original while its segment exists, the
 * copy with its marks durable from then on.
 *  9. A segment's file stays while a record in it lives, is read, or is being copied to it.
 * 10. Every operation is counted, so a spool that is idle has nothing in flight; memory that the
 *     kernel writes to or reads from outlives it.
 */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/clock.h"
#include "core/log.h"

/* How often the file system is asked what is free. */
#define LOOK_NS NS_PER_S
/* Before what failed in passing is asked again. */
#define AGAIN_NS (10 * NS_PER_MS)
/* What a message may take on top of its octets: header, trailer and padding of its record, and the
 * blocks that its group begins and ends with. */
#define RECORD_OVERHEAD_BYTES (2ull * SPOOL_BLOCK_BYTES)
#define WASTE_PARTS 64

/* --- operations --- */

static struct operation *
operation_take(struct spool *spool, enum operation_kind kind, void *object, uint32_t step)
{
    struct operation *operation = pool_take(&spool->operations);

    ASSERT(operation != NULL);
    *operation = (struct operation){ .object = object, .step = step, .kind = (uint8_t)kind };
    return operation;
}

static struct io_ticket
operation_ticket(const struct spool *spool, const struct operation *operation)
{
    uint32_t slot = pool_index(&spool->operations, operation);

    return (struct io_ticket){ .slot = slot,
                               .generation = pool_generation(&spool->operations, slot),
                               .kind = spool->kind };
}

struct io_ticket
operation_start(struct spool *spool, enum operation_kind kind, void *object, uint32_t step)
{
    return operation_ticket(spool, operation_take(spool, kind, object, step));
}

static void
operation_ask(struct spool *spool, const struct operation *operation)
{
    const struct file_request *request = &operation->request;
    struct io_ticket ticket = operation_ticket(spool, operation);
    int directory = spool->directory->directory;
    struct io *io = spool->io;

    ASSERT(request->bytes <= UINT32_MAX);
    switch ((enum file_op)request->op) {
    case FILE_OPEN: io_file_open(io, ticket, directory, request->name, request->flags); break;
    case FILE_READ:
        io_file_read(io, ticket, request->file, request->memory, (uint32_t)request->bytes,
                     request->offset);
        break;
    case FILE_WRITE:
        io_file_write(io, ticket, request->file, request->memory, (uint32_t)request->bytes,
                      request->offset);
        break;
    case FILE_SYNC: io_file_sync(io, ticket, request->file, false); break;
    case FILE_SYNC_DIRECTORY: io_file_sync(io, ticket, directory, true); break;
    case FILE_ALLOCATE: io_file_allocate(io, ticket, request->file, request->bytes); break;
    case FILE_RENAME: io_file_rename(io, ticket, directory, request->name, request->to_name); break;
    case FILE_UNLINK: io_file_unlink(io, ticket, directory, request->name); break;
    case FILE_OTHER: ASSERT(request->op != FILE_OTHER);
    }
}

void
operation_queue(struct spool *spool, enum operation_kind kind, void *object, uint32_t step,
                struct file_request request)
{
    struct operation *operation = operation_take(spool, kind, object, step);

    operation->request = request;
    operation_ask(spool, operation);
}

static bool
operation_again(struct spool *spool, struct operation *operation, int32_t result)
{
    if (!io_error_is_again(result) || operation->request.op == FILE_OTHER ||
        operation->tries == OPERATION_TRIES_MAX)
        return false;
    operation->tries++;
    operation->next_again = spool->again;
    spool->again = operation;
    spool->again_ns = spool->now_ns + AGAIN_NS;
    return true;
}

static void
again_turn(struct spool *spool)
{
    struct operation *operation = spool->again;

    if (operation == NULL || spool->again_ns > spool->now_ns)
        return;
    spool->again = NULL;
    for (; operation != NULL; operation = operation->next_again)
        operation_ask(spool, operation);
}

void
spool_complete(struct spool *spool, const struct io_completion *completion)
{
    uint32_t slot = completion->ticket.slot;
    int32_t result = completion->result;
    struct operation operation;

    ASSERT(completion->op == IO_FILE && completion->ticket.kind == spool->kind);
    ASSERT(pool_in_use(&spool->operations, slot));
    ASSERT(pool_generation(&spool->operations, slot) == completion->ticket.generation);
    if (operation_again(spool, pool_at(&spool->operations, slot), result))
        return;
    operation = *(struct operation *)pool_at(&spool->operations, slot);
    pool_release(&spool->operations, pool_at(&spool->operations, slot));
    switch ((enum operation_kind)operation.kind) {
    case OPERATION_COMMIT: commit_complete(spool, result, operation.step); break;
    case OPERATION_JOB: segment_complete(spool, operation.object, result); break;
    case OPERATION_MARKS: mark_complete(spool, operation.object, result, operation.step); break;
    case OPERATION_REMOVAL: removal_complete(spool, operation.object, result); break;
    case OPERATION_LOAD: load_complete(spool, operation.object, result); break;
    case OPERATION_MOVE: move_complete(spool, operation.object, result); break;
    case OPERATION_BODY: body_complete(spool, operation.object, result, operation.step); break;
    case OPERATION_RECOVER:
        recovery_complete(spool, operation.object, result, operation.step);
        break;
    }
}

uint32_t
directory_failures(const struct spool *spool)
{
    return __atomic_load_n(&spool->directory->sync_failures, __ATOMIC_RELAXED);
}

int32_t
directory_synced(struct spool *spool, uint32_t failures, int32_t result)
{
    if (result < 0)
        __atomic_fetch_add(&spool->directory->sync_failures, 1, __ATOMIC_RELAXED);
    else if (directory_failures(spool) != failures)
        return -EIO;
    return result;
}

/* --- log --- */

void
spool_log_error(struct spool *spool, const char *what, const char *file, int error)
{
    struct log_line line;

    counter_increment(&spool->counters->spool_errors);
    log_begin(&line, LOG_LEVEL_ERROR, "spool_error");
    log_text(&line, "operation", span_text(what));
    log_text(&line, "file", span_text(file));
    log_errno(&line, "error", -error);
    log_end(&line);
}

void
spool_log_quarantined(struct spool *spool, uint64_t number, uint64_t offset, struct span id,
                      const char *why)
{
    struct log_line line;
    char name[SPOOL_NAME_BYTES];

    counter_increment(&spool->counters->spool_quarantined);
    spool_segment_name(number, name);
    log_begin(&line, LOG_LEVEL_ERROR, "spool_quarantined");
    log_id(&line, id);
    log_text(&line, "file", span_text(name));
    log_number(&line, "offset", offset);
    log_text(&line, "reason", span_text(why));
    log_end(&line);
}

/* --- room (invariant 6) --- */

void
room_take(struct spool *spool, uint64_t bytes)
{
    __atomic_fetch_sub(&spool->directory->room_bytes, (int64_t)bytes, __ATOMIC_RELAXED);
}

void
room_give(struct spool *spool, uint64_t bytes)
{
    __atomic_fetch_add(&spool->directory->room_bytes, (int64_t)bytes, __ATOMIC_RELAXED);
}

static void
log_room(const struct spool_directory *directory, enum log_level level, const char *event)
{
    int64_t room = __atomic_load_n(&directory->room_bytes, __ATOMIC_RELAXED);
    struct log_line line;

    log_begin(&line, level, event);
    log_number(&line, "room", room > 0 ? (uint64_t)room : 0);
    log_number(&line, "reserved", __atomic_load_n(&directory->reserved_bytes, __ATOMIC_RELAXED));
    log_number(&line, "floor", directory->floor_bytes);
    log_end(&line);
}

static bool
has_room(const struct spool_directory *directory, uint64_t reserved)
{
    int64_t room = __atomic_load_n(&directory->room_bytes, __ATOMIC_RELAXED);

    return room >= 0 && (uint64_t)room >= reserved;
}

/* At least what lets each worker make one more segment: room comes in whole ones. */
static uint64_t
floor_bytes(const struct spool *spool)
{
    uint64_t one_each = spool->directory->segment_bytes * spool->workers;

    return one_each > spool->directory->floor_bytes ? one_each : spool->directory->floor_bytes;
}

/* One worker asks each second, for all. */
static void
look_at_room(struct spool *spool)
{
    struct spool_directory *directory = spool->directory;
    uint64_t look = __atomic_load_n(&directory->look_ns, __ATOMIC_RELAXED);
    uint64_t free_bytes, total_bytes, unused, full, reserved;
    int result;

    if (look > spool->now_ns ||
        !__atomic_compare_exchange_n(&directory->look_ns, &look, spool->now_ns + LOOK_NS, false,
                                     __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    result = io_directory_space(directory->directory, &free_bytes, &total_bytes);
    if (result != 0) {
        /* A directory that was removed: what is written to its files has no name any more. */
        __atomic_store_n(&directory->room_bytes, -1, __ATOMIC_RELAXED);
        if (__atomic_exchange_n(&directory->full_bytes, 1, __ATOMIC_RELAXED) == 0)
            spool_log_error(spool, "ask for free space", ".", result);
        return;
    }
    unused = __atomic_load_n(&directory->unused_bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&directory->room_bytes, (int64_t)(free_bytes + unused - floor_bytes(spool)),
                     __ATOMIC_RELAXED);
    full = __atomic_load_n(&directory->full_bytes, __ATOMIC_RELAXED);
    reserved = __atomic_load_n(&directory->reserved_bytes, __ATOMIC_RELAXED);
    /* Twice what was refused: not over and over at the edge. */
    if (full > 0 && has_room(directory, reserved + 2 * full) &&
        __atomic_exchange_n(&directory->full_bytes, 0, __ATOMIC_RELAXED) > 0)
        log_room(directory, LOG_LEVEL_NOTICE, "spool_room");
}

/* What a message may take in segments, at the most: with the part of each that holds no records,
 * and, if it is large, what is left empty at the end of a segment that it did not fit. (Smaller
 * ones leave less than a part in WASTE_PARTS empty, which the floor has room for.) A message that
 * fits no segment has its body in a file. */
static uint64_t
cost(const struct spool *spool, uint64_t bytes)
{
    uint64_t segment = spool->directory->segment_bytes;
    uint64_t records = segment_record_bytes_max(spool);
    uint64_t all = bytes + RECORD_OVERHEAD_BYTES;

    if (bytes > segment / WASTE_PARTS && bytes < records)
        all += bytes;
    return all + all / (records / (segment - records));
}

bool
spool_reserve(struct spool *spool, uint64_t bytes)
{
    struct spool_directory *directory = spool->directory;
    uint64_t reserved;

    if (spool->sick || spool->stopping)
        return false;
    reserved = __atomic_add_fetch(&directory->reserved_bytes, cost(spool, bytes), __ATOMIC_RELAXED);
    if (has_room(directory, reserved))
        return true;
    __atomic_fetch_sub(&directory->reserved_bytes, cost(spool, bytes), __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&directory->full_bytes, cost(spool, bytes), __ATOMIC_RELAXED) == 0)
        log_room(directory, LOG_LEVEL_ERROR, "spool_full");
    return false;
}

void
spool_unreserve(struct spool *spool, uint64_t bytes)
{
    uint64_t before =
        __atomic_fetch_sub(&spool->directory->reserved_bytes, cost(spool, bytes), __ATOMIC_RELAXED);

    ASSERT(before >= cost(spool, bytes));
}

/* --- the turn --- */

#ifdef RINGPOST_SLOW_CHECKS
static void
check_segment(const struct spool *spool, const struct segment *segment)
{
    uint32_t dirty = 0;

    for (uint32_t i = 0; segment->marks != NULL && i < segment_mark_blocks(segment->slots); i++)
        dirty += segment->blocks[i].version != segment->blocks[i].written;
    ASSERT(dirty == segment->dirty_blocks);
    ASSERT(dirty == 0 || segment->in_dirty);
    ASSERT(segment->promised <= segment->end || segment->slots == 0);
    ASSERT(segment->end <= segment->bytes);
    ASSERT(segment->slots_used <= segment->slots);
    ASSERT((segment->state == SEGMENT_MAKING) == (segment == spool->making));
    ASSERT((segment->state == SEGMENT_READY) == (segment == spool->ready));
    ASSERT((segment->state == SEGMENT_ACTIVE && !segment->closing) == (segment == spool->active));
    if (segment->state == SEGMENT_REMOVING) /* invariant 9 */
        ASSERT(segment->live_records == 0 && segment->holds == 0 &&
               (!segment->mark_writing || segment->remove_again));
    else
        ASSERT(segment->state == SEGMENT_MAKING || segment->state == SEGMENT_RECOVERING ||
               segment->file >= 0);
}

/* What is kept as a sum is the sum. */
static void
check_sums(const struct spool *spool)
{
    uint64_t total = 0, live = 0;
    uint32_t count = 0, operations = spool->committing;

    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        const struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        check_segment(spool, segment);
        operations += segment->mark_writing;
        live += segment->live_bytes;
        if (segment->state == SEGMENT_ACTIVE || segment->state == SEGMENT_SEALED ||
            segment->state == SEGMENT_RECOVERING) {
            total += segment->bytes;
            count++;
        }
    }
    ASSERT(total == spool->total_bytes && live == spool->live_bytes);
    ASSERT(count == spool->record_segments);
    operations += spool->jobs_running + spool->removals_running + spool->clean.reading;
    ASSERT(operations <= spool->operations.used); /* invariant 10 */
}
#else
static void
check_sums(const struct spool *spool)
{
    (void)spool;
}
#endif

void
spool_turn(struct spool *spool, uint64_t now_ns, uint64_t realtime_ns)
{
    ASSERT(now_ns >= spool->now_ns);
    spool->now_ns = now_ns;
    spool->realtime_ns = realtime_ns;
    again_turn(spool);
    look_at_room(spool);
    recovery_turn(spool);
    body_turn(spool);
    segment_turn(spool);
    store_turn(spool);
    load_turn(spool);
    clean_turn(spool);
    mark_turn(spool);
    segment_jobs_turn(spool);
    check_sums(spool);
}

static void
sooner(uint64_t *wakes_ns, uint64_t at_ns)
{
    if (at_ns < *wakes_ns)
        *wakes_ns = at_ns;
}

uint64_t
spool_wakes_ns(const struct spool *spool)
{
    uint64_t wakes = segment_wakes_ns(spool);

    if (spool->stored != NULL || spool->loaded != NULL || spool->moved != NULL)
        return 0; /* something to tell */
    sooner(&wakes, recovery_wakes_ns(spool));
    sooner(&wakes, body_wakes_ns(spool));
    sooner(&wakes, mark_wakes_ns(spool));
    sooner(&wakes, spool->marks_wake_ns);
    sooner(&wakes, clean_wakes_ns(spool));
    if (spool->again != NULL)
        sooner(&wakes, spool->again_ns);
    if (__atomic_load_n(&spool->directory->full_bytes, __ATOMIC_RELAXED) > 0)
        sooner(&wakes, __atomic_load_n(&spool->directory->look_ns, __ATOMIC_RELAXED));
    return wakes;
}

bool
spool_event(struct spool *spool, struct spool_event *event)
{
    load_told(spool);
    return store_event(spool, event) || load_event(spool, event) || body_event(spool, event) ||
           clean_event(spool, event) || recovery_event(spool, event);
}

void
spool_stop(struct spool *spool)
{
    if (spool->stopping)
        return;
    spool->stopping = true;
    spool->marks_failing = 0; /* once more */
    spool->marks_again_ns = 0;
    segments_remove_again(spool);
    recovery_stop(spool);
}

bool
spool_idle(const struct spool *spool)
{
    return spool->stopping && spool->operations.used == 0 && store_idle(spool) &&
           load_idle(spool) && clean_idle(spool) && body_idle(spool) && recovery_idle(spool) &&
           segment_idle(spool) && mark_idle(spool);
}

uint64_t
spool_segment_number(const struct spool *spool, uint32_t segment)
{
    return segment_at(spool, segment)->number;
}

uint64_t
spool_record_bytes_max(const struct spool *spool)
{
    return segment_record_bytes_max(spool);
}

/* --- life --- */

struct spool *
spool_create(struct spool_directory *directory, const struct config *config, struct io *io,
             struct counters *counters, uint8_t kind, uint32_t worker, uint32_t workers)
{
    struct spool *spool = io_memory(sizeof(*spool));

    ASSERT(worker < workers);
    (void)config;
    if (spool == NULL)
        return NULL;
    spool->directory = directory;
    spool->io = io;
    spool->counters = counters;
    spool->kind = kind;
    spool->worker = worker;
    spool->workers = workers;
    spool->direct = true;
    spool->moved_end = &spool->moved;
    spool->marks_wake_ns = UINT64_MAX;
    counter_set(&counters->spool_sick, 0);
    if (!pool_init(&spool->operations, sizeof(struct operation), SPOOL_OPERATIONS_MAX) ||
        !segments_create(spool) || !stores_create(spool) || !marks_create(spool) ||
        !loads_create(spool) || !bodies_create(spool) || !recovery_create(spool)) {
        spool_destroy(spool);
        return NULL;
    }
    return spool;
}

void
spool_destroy(struct spool *spool)
{
    ASSERT(spool->operations.used == 0);
    recovery_destroy(spool);
    bodies_destroy(spool);
    loads_destroy(spool);
    marks_destroy(spool);
    stores_destroy(spool);
    clean_destroy(spool);
    segments_destroy(spool);
    pool_destroy(&spool->operations);
    io_memory_free(spool, sizeof(*spool));
}
