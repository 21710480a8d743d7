/* What the process before us left, read in the background while new mail is taken: segment by
 * segment the header, the seal, the marks, then the records (relay/spool/walk.h). It never stops
 * the start, never drops what may have been promised, and says of each place that it cannot read
 * where it is.
 *
 *   NEXT -> OPEN -> FRONT -> MARKS -> WALK -> NEXT ...  a segment after the other; [ASIDE]: renamed
 *   WAIT   for the other workers' segments, if there are copies whose original is with one of them
 *   AGAIN  -> WALK -> AGAIN ...                         these segments once more, for the copies
 *   BODIES the last worker: body files that no message needs are removed
 *   OVER
 *
 * A message that was being copied when the process ended (spool_move) is there twice: the original
 * counts, and its copy gets final marks. Where the original cannot be read the copy counts. */
#include "core/log.h"
#include "relay/spool/recovery.h"

/* Bounds of one turn: messages given, and windows worked off without waiting for the disk. */
#define FOUND_PER_TURN 64
#define WINDOWS_PER_TURN 4
#define WAIT_NS (10 * NS_PER_MS)
#define PROGRESS_NS NS_PER_S

static void
log_progress(struct spool *spool, const struct spool_recovery *recovery, bool over)
{
    struct log_line line;

    log_begin(&line, over ? LOG_LEVEL_NOTICE : LOG_LEVEL_INFO, "spool_recovery");
    log_number(&line, "worker", spool->worker);
    log_text(&line, "state", over ? SPAN("done") : SPAN("running"));
    log_number(&line, "segments", recovery->done);
    log_number(&line, "of", recovery->count);
    log_number(&line, "messages", recovery->messages);
    log_number(&line, "quarantined", recovery->quarantined);
    log_duration(&line, "duration", spool->now_ns - recovery->started_ns);
    log_end(&line);
}

/* --- operations --- */

struct io_ticket
recovery_start(struct spool *spool, struct spool_recovery *recovery)
{
    ASSERT(!recovery->running && !recovery->has_result);
    recovery->running = true;
    return operation_start(spool, OPERATION_RECOVER, recovery, 0);
}

bool
recovery_result(struct spool_recovery *recovery, int32_t *result)
{
    if (!recovery->has_result)
        return false;
    recovery->has_result = false;
    *result = recovery->result;
    return true;
}

void
recovery_pause(struct spool *spool, struct spool_recovery *recovery, uint64_t pause_ns)
{
    recovery->again_ns = spool->now_ns + pause_ns;
}

/* --- the second round, and the end --- */

static void
rounds_over(struct spool *spool, struct spool_recovery *recovery)
{
    bool last = __atomic_sub_fetch(&spool->directory->recovering, 1, __ATOMIC_ACQ_REL) == 0;

    recovery->recovered_ready = true;
    recovery->phase = last ? PHASE_BODIES : PHASE_OVER;
    if (recovery->count > 0)
        log_progress(spool, recovery, true);
}

static void
next_segment(struct spool *spool, struct spool_recovery *recovery)
{
    struct spool_found *found = spool->directory->found;

    recovery->segment = NULL;
    recovery->file = -1;
    if (recovery->next >= found->segment_count) {
        __atomic_sub_fetch(&found->reading, 1, __ATOMIC_ACQ_REL);
        if (recovery->again_count > 0)
            recovery->phase = PHASE_WAIT;
        else
            rounds_over(spool, recovery);
        return;
    }
    recovery->found = &found->segments[recovery->next];
    recovery->next += spool->workers;
    spool_segment_name(recovery->found->number, recovery->name);
    recovery->sealed = recovery->guessed = recovery->damaged = recovery->copies = false;
    recovery->records = 0;
    recovery->unreadable = 0;
    recovery->phase = PHASE_OPEN;
}

/* The other workers may still be reading originals. */
static void
wait_for_others(struct spool *spool, struct spool_recovery *recovery)
{
    if (__atomic_load_n(&spool->directory->found->reading, __ATOMIC_ACQUIRE) > 0) {
        recovery_pause(spool, recovery, WAIT_NS);
        return;
    }
    recovery->second_round = true;
    recovery->phase = PHASE_AGAIN;
}

static void
next_again(struct spool *spool, struct spool_recovery *recovery)
{
    const struct recovery_again *again = &recovery->again[recovery->again_next];
    struct segment_header header;

    if (recovery->again_next == recovery->again_count) {
        recovery->segment = NULL;
        rounds_over(spool, recovery);
        return;
    }
    recovery->again_next++;
    recovery->segment = again->segment;
    recovery->found = found_segment_of(spool->directory->found, again->segment->number);
    ASSERT(recovery->found != NULL);
    spool_segment_name(again->segment->number, recovery->name);
    recovery->damaged = false;
    recovery->unreadable = 0;
    recovery->sealed = again->sealed;
    recovery->end = again->end;
    header = (struct segment_header){ .number = again->segment->number,
                                      .bytes = again->segment->bytes,
                                      .slots = again->segment->slots };
    /* As if it were sealed: the bodies were checked in the first round. */
    walk_begin(&recovery->walk, &header, true, again->end);
    recovery->window_done = recovery->window_len = 0;
    recovery->phase = PHASE_WALK;
}

static void
bodies_over(struct spool *spool, struct spool_recovery *recovery, bool kept)
{
    const struct spool_found *found = spool->directory->found;
    uint32_t unneeded = 0;

    for (uint32_t i = 0; i < found->body_count; i++)
        unneeded += __atomic_load_n(&found->bodies[i].needed, __ATOMIC_ACQUIRE) == 0;
    recovery->phase = PHASE_OVER;
    if (unneeded > 0 && kept)
        log_plain(LOG_LEVEL_WARNING,
                  "spool: %u body files (ID.body) have no message; they stay, because a damaged "
                  "segment may have it",
                  unneeded);
    else if (unneeded > 0)
        log_plain(LOG_LEVEL_INFO, "spool: %u of %u body files without a message removed",
                  recovery->bodies_removed, unneeded);
}

static void
remove_bodies(struct spool *spool, struct spool_recovery *recovery)
{
    const struct spool_found *found = spool->directory->found;
    bool kept = __atomic_load_n(&found->damaged, __ATOMIC_ACQUIRE) != 0;
    int32_t result;

    if (recovery_result(recovery, &result)) {
        const struct found_body *body = &found->bodies[recovery->body_next++];

        if (result < 0) {
            spool_log_error(spool, "unlink", recovery->name, result);
        } else {
            recovery->bodies_removed++;
            room_give(spool, body->bytes);
        }
    }
    while (!kept && recovery->body_next < found->body_count &&
           __atomic_load_n(&found->bodies[recovery->body_next].needed, __ATOMIC_ACQUIRE) != 0)
        recovery->body_next++;
    if (kept || recovery->body_next == found->body_count) {
        bodies_over(spool, recovery, kept);
        return;
    }
    spool_body_name(found->bodies[recovery->body_next].id, recovery->name);
    io_file_unlink(spool->io, recovery_start(spool, recovery), spool->directory->directory,
                   recovery->name);
}

static void
step(struct spool *spool, struct spool_recovery *recovery)
{
    switch (recovery->phase) {
    case PHASE_NEXT: next_segment(spool, recovery); break;
    case PHASE_OPEN: recover_open(spool, recovery); break;
    case PHASE_FRONT: recover_front(spool, recovery); break;
    case PHASE_MARKS: recover_marks(spool, recovery); break;
    case PHASE_WALK: recover_records(spool, recovery); break;
    case PHASE_ASIDE: recover_aside(spool, recovery); break;
    case PHASE_WAIT: wait_for_others(spool, recovery); break;
    case PHASE_AGAIN: next_again(spool, recovery); break;
    case PHASE_BODIES: remove_bodies(spool, recovery); break;
    case PHASE_OVER: ASSERT(recovery->phase != PHASE_OVER);
    }
}

static bool
may_step(const struct spool *spool, const struct spool_recovery *recovery)
{
    return recovery->phase != PHASE_OVER && !recovery->stopped && !recovery->running &&
           !recovery->found_ready && recovery->found_left > 0 && recovery->windows_left > 0 &&
           recovery->again_ns <= spool->now_ns;
}

static void
advance(struct spool *spool, struct spool_recovery *recovery)
{
    while (may_step(spool, recovery))
        step(spool, recovery);
    if (recovery->phase == PHASE_OVER && recovery->memory != NULL && !recovery->running &&
        !recovery->found_ready) {
        io_memory_free(recovery->memory, RECOVERY_WINDOW_BYTES);
        recovery->memory = NULL;
    }
}

/* --- for spool.c --- */

static uint32_t
segments_of(const struct spool *spool)
{
    uint32_t all = spool->directory->found->segment_count;

    return all <= spool->worker ? 0 : (all - spool->worker - 1) / spool->workers + 1;
}

bool
recovery_create(struct spool *spool)
{
    struct spool_recovery *recovery = io_memory(sizeof(*recovery));

    if (recovery == NULL)
        return false;
    spool->recovery = recovery;
    recovery->file = -1;
    recovery->next = spool->worker;
    recovery->count = segments_of(spool);
    recovery->memory = io_memory(RECOVERY_WINDOW_BYTES);
    if (recovery->count > 0)
        recovery->again = io_memory(recovery->count * sizeof(*recovery->again));
    counter_set(&spool->counters->spool_recovery_segments, recovery->count);
    return recovery->memory != NULL && (recovery->count == 0 || recovery->again != NULL);
}

void
recovery_destroy(struct spool *spool)
{
    struct spool_recovery *recovery = spool->recovery;

    if (recovery == NULL)
        return;
    ASSERT(!recovery->running);
    if (recovery->file >= 0)
        io_close_now(recovery->file);
    if (recovery->memory != NULL)
        io_memory_free(recovery->memory, RECOVERY_WINDOW_BYTES);
    if (recovery->again != NULL)
        io_memory_free(recovery->again, recovery->count * sizeof(*recovery->again));
    io_memory_free(recovery, sizeof(*recovery));
    spool->recovery = NULL;
}

void
recovery_turn(struct spool *spool)
{
    struct spool_recovery *recovery = spool->recovery;

    recovery->found_left = FOUND_PER_TURN;
    recovery->windows_left = WINDOWS_PER_TURN;
    if (recovery->phase == PHASE_OVER)
        return;
    if (recovery->started_ns == 0)
        recovery->started_ns = recovery->progress_ns = spool->now_ns;
    if (spool->now_ns - recovery->progress_ns >= PROGRESS_NS && recovery->count > 0 &&
        recovery->phase < PHASE_BODIES) {
        recovery->progress_ns = spool->now_ns;
        log_progress(spool, recovery, false);
    }
    advance(spool, recovery);
}

void
recovery_complete(struct spool *spool, void *object, int32_t result, uint32_t of)
{
    struct spool_recovery *recovery = object;

    ASSERT(recovery == spool->recovery && recovery->running && of == 0);
    recovery->running = false;
    recovery->result = result;
    recovery->has_result = true;
    /* Nobody else will close what was opened. */
    if (recovery->stopped && recovery->phase == PHASE_OPEN && result >= 0)
        recovery->file = result;
}

bool
recovery_event(struct spool *spool, struct spool_event *event)
{
    struct spool_recovery *recovery = spool->recovery;

    advance(spool, recovery);
    if (recovery->found_ready) {
        recovery->found_ready = false;
        recovery->found_left--;
        *event = (struct spool_event){ .kind = SPOOL_FOUND,
                                       .place = recovery->place,
                                       .segment = recovery->place.segment,
                                       .record = &recovery->walk.record,
                                       .envelope = &recovery->walk.envelope };
        return true;
    }
    if (recovery->recovered_ready) {
        recovery->recovered_ready = false;
        *event = (struct spool_event){ .kind = SPOOL_RECOVERED };
        return true;
    }
    return false;
}

void
recovery_stop(struct spool *spool)
{
    struct spool_recovery *recovery = spool->recovery;

    recovery->stopped = true;
    recovery->found_ready = recovery->recovered_ready = false;
}

bool
recovery_idle(const struct spool *spool)
{
    return !spool->recovery->running;
}

bool
recovery_over(const struct spool *spool)
{
    const struct spool_recovery *recovery = spool->recovery;

    return recovery->stopped || recovery->phase == PHASE_OVER || recovery->phase == PHASE_BODIES;
}

uint64_t
recovery_wakes_ns(const struct spool *spool)
{
    const struct spool_recovery *recovery = spool->recovery;

    if (recovery->phase == PHASE_OVER || recovery->stopped || recovery->running)
        return recovery->recovered_ready ? 0 : UINT64_MAX;
    return recovery->again_ns;
}

struct spool_progress
spool_progress(const struct spool *spool)
{
    const struct spool_recovery *recovery = spool->recovery;

    return (struct spool_progress){ .segments = recovery->count,
                                    .segments_done = recovery->done,
                                    .messages = recovery->messages };
}
