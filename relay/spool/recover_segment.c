/* One segment of the recovery: opened, its header and marks read, its records gone over. What
 * cannot be read is told and stays where it is; nothing here is written but the marks of void
 * copies. */
#include <errno.h>

#include "core/log.h"
#include "relay/spool/recovery.h"

/* Blocks that cannot be read before the rest of a segment is given up: each costs a sick disk
 * seconds. */
#define UNREADABLE_MAX 64
/* Readings of one block that end inside of it. */
#define SHORT_READS_MAX 16
#define FRONT_BYTES (2 * SPOOL_BLOCK_BYTES)

_Static_assert(RECOVERY_WINDOW_BYTES % SPOOL_BLOCK_BYTES == 0, "direct I/O is in blocks");
_Static_assert(RECOVERY_WINDOW_BYTES >= 2 * FRONT_BYTES, "both copies of a mark block fit");

/* --- the log --- */

/* Once for each thing that has to be tried again. */
static void
log_again(struct spool *spool, struct spool_recovery *recovery, const char *what, int error)
{
    if (!recovery->told_again)
        spool_log_error(spool, what, recovery->name, error);
    recovery->told_again = true;
}

static void
quarantine(struct spool *spool, struct spool_recovery *recovery, uint64_t offset, struct span id,
           const char *why)
{
    recovery->damaged = true;
    recovery->quarantined++;
    spool_log_quarantined(spool, recovery->found->number, offset, id, why);
}

/* What was being written when the machine stopped: nobody was told that it is safe. */
static void
log_tail(const struct spool_recovery *recovery)
{
    const struct segment_walk *walk = &recovery->walk;
    struct log_line line;

    log_begin(&line, LOG_LEVEL_NOTICE, "spool_tail");
    log_id(&line, span_text(walk->id));
    log_text(&line, "file", span_text(recovery->name));
    log_number(&line, "offset", walk->offset);
    log_number(&line, "records", walk->headers);
    log_end(&line);
}

/* --- the window: a run of octets of the file; what cannot be read is zeros there --- */

static void
window_begin(struct spool_recovery *recovery, uint32_t at, uint64_t offset, uint32_t len)
{
    ASSERT(offset % SPOOL_BLOCK_BYTES == 0 && len % SPOOL_BLOCK_BYTES == 0);
    ASSERT(len > 0 && len <= RECOVERY_WINDOW_BYTES && at <= RECOVERY_WINDOW_BYTES - len);
    recovery->window = recovery->memory + at;
    recovery->window_offset = offset;
    recovery->window_len = len;
    recovery->window_done = 0;
    recovery->by_blocks = false;
}

static void
window_zero(struct spool_recovery *recovery, uint32_t len)
{
    memset(recovery->window + recovery->window_done, 0, len);
    recovery->window_done += len;
}

static void
window_failed(struct spool *spool, struct spool_recovery *recovery, int error)
{
    if (!recovery->by_blocks && recovery->window_len - recovery->window_done > SPOOL_BLOCK_BYTES) {
        recovery->by_blocks = true;
        return;
    }
    if (recovery->unreadable++ == 0)
        spool_log_error(spool, "read", recovery->name, error);
    /* Behind the last record that was found it looks like room that was never written, and may have
     * been a message all the same: the file stays. */
    recovery->damaged = true;
    recovery->by_blocks = true;
    window_zero(recovery, SPOOL_BLOCK_BYTES);
}

static void
window_result(struct spool *spool, struct spool_recovery *recovery, int32_t result)
{
    uint32_t left = recovery->window_len - recovery->window_done;
    uint64_t at = recovery->window_offset + recovery->window_done;

    ASSERT(result <= (int64_t)left);
    if (io_error_is_again(result)) {
        log_again(spool, recovery, "read", result);
        recovery_pause(spool, recovery, RECOVERY_AGAIN_NS);
    } else if (result < 0) {
        window_failed(spool, recovery, result);
    } else if (result == 0 || (result % (int32_t)SPOOL_BLOCK_BYTES != 0 &&
                               at + (uint32_t)result >= recovery->found->bytes)) {
        /* The file ends here, whatever its header says. */
        recovery->window_done += (uint32_t)result;
        window_zero(recovery, left - (uint32_t)result);
    } else if (result < (int32_t)SPOOL_BLOCK_BYTES) {
        /* Some sectors of a block: read again, but not for ever; then that is all there is. */
        if (++recovery->short_reads < SHORT_READS_MAX)
            return;
        recovery->damaged = true;
        recovery->short_reads = 0;
        recovery->window_done += (uint32_t)result;
        window_zero(recovery, SPOOL_BLOCK_BYTES - (uint32_t)result);
    } else {
        recovery->short_reads = 0;
        recovery->window_done += (uint32_t)result / SPOOL_BLOCK_BYTES * SPOOL_BLOCK_BYTES;
    }
}

/* False: it is being read. */
static bool
window_ready(struct spool *spool, struct spool_recovery *recovery)
{
    int file = recovery->segment != NULL ? recovery->segment->file : recovery->file;
    uint32_t left;
    int32_t result;

    if (recovery_result(recovery, &result))
        window_result(spool, recovery, result);
    left = recovery->window_len - recovery->window_done;
    if (left == 0)
        return true;
    if (recovery->again_ns > spool->now_ns)
        return false;
    if (recovery->unreadable >= UNREADABLE_MAX) {
        window_zero(recovery, left);
        return true;
    }
    if (recovery->by_blocks)
        left = SPOOL_BLOCK_BYTES;
    io_file_read(spool->io, recovery_start(spool, recovery), file,
                 recovery->window + recovery->window_done, left,
                 recovery->window_offset + recovery->window_done);
    return false;
}

/* --- one segment: opening --- */

/* All that was found of it is known now: whoever waits for that may go by it. */
static void
recover_over(struct spool *spool, struct spool_recovery *recovery)
{
    struct spool_found *found = spool->directory->found;

    if (recovery->damaged)
        __atomic_store_n(&found->damaged, 1, __ATOMIC_RELEASE);
    recovery->done++;
    counter_set(&spool->counters->spool_recovery_segments, recovery->count - recovery->done);
    recovery->phase = PHASE_NEXT;
}

void
recover_open(struct spool *spool, struct spool_recovery *recovery)
{
    int32_t result;

    if (!recovery_result(recovery, &result)) {
        /* Where direct writes are refused only when one is made, its marks could never be written:
         * the first segment that is made finds out. If it cannot be made, nobody knows: through
         * the page cache then. */
        if (!spool->direct_known && spool->make_again_ns == 0) {
            recovery_pause(spool, recovery, RECOVERY_DIRECT_NS);
            return;
        }
        recovery->direct = spool->direct && spool->direct_known;
        io_file_open(spool->io, recovery_start(spool, recovery), spool->directory->directory,
                     recovery->name,
                     recovery->direct ? segment_open_flags(spool) : IO_FILE_WRITE);
        return;
    }
    if (result >= 0) {
        recovery->file = result;
        recovery->told_again = false;
        window_begin(recovery, 0, 0, FRONT_BYTES);
        recovery->phase = PHASE_FRONT;
    } else if (recovery->direct && io_error_is_unsupported(result)) {
        spool->direct = false;
    } else if (io_error_is_again(result) || io_error_is_shortage(result)) {
        log_again(spool, recovery, "open", result);
        recovery_pause(spool, recovery, RECOVERY_AGAIN_NS);
    } else {
        /* Left where it is, under its name: the next start may have more luck. */
        quarantine(spool, recovery, 0, SPAN(""), io_error_text(result));
        recover_over(spool, recovery);
    }
}

/* --- one segment: header, seal, marks --- */

/* What its file says it is; else what name and size say: records are bound to the number, and so
 * are marks, so that nothing is taken for what it is not. False: there is no room for a record. */
static bool
header_choose(struct spool_recovery *recovery, struct segment_header *header)
{
    uint64_t bytes = recovery->found->bytes - recovery->found->bytes % SPOOL_BLOCK_BYTES;

    recovery->other_format = segment_header_other(recovery->window);
    recovery->guessed =
        !segment_header_read(recovery->window, header) || header->number != recovery->found->number;
    if (recovery->guessed && bytes <= SPOOL_SEGMENT_BYTES_MAX)
        *header = (struct segment_header){ .number = recovery->found->number,
                                           .bytes = bytes,
                                           .slots = segment_slots(bytes) };
    else if (recovery->guessed)
        return false;
    recovery->cut_short = header->bytes > bytes;
    recovery->damaged = recovery->damaged || recovery->guessed || recovery->cut_short;
    if (recovery->cut_short)
        header->bytes = bytes;
    return header->slots > 0 && segment_records_offset(header->slots) < header->bytes;
}

static void
marks_begin(struct spool_recovery *recovery, unsigned copy)
{
    uint32_t slots = recovery->segment->slots;
    uint32_t left = segment_mark_blocks(slots) - recovery->mark_block;
    uint32_t most = RECOVERY_WINDOW_BYTES / 2 / SPOOL_BLOCK_BYTES;
    uint32_t bytes;

    recovery->mark_blocks = left < most ? left : most;
    recovery->mark_copy = copy;
    bytes = recovery->mark_blocks * SPOOL_BLOCK_BYTES;
    /* The second copy stands behind the first one. */
    window_begin(recovery, copy * bytes, segment_marks_offset(slots, copy, recovery->mark_block),
                 bytes);
}

/* Not a record in it can be read. */
static void
set_aside(struct spool *spool, struct spool_recovery *recovery)
{
    if (recovery->segment != NULL)
        segment_give_up(spool, recovery->segment);
    else
        io_close(spool->io, recovery->file);
    recovery->segment = NULL;
    recovery->file = -1;
    if (recovery->other_format) {
        /* For the ringpost that made it: under its name, as it is. */
        quarantine(spool, recovery, 0, SPAN(""), "another version of ringpost made it");
        recover_over(spool, recovery);
        return;
    }
    quarantine(spool, recovery, 0, SPAN(""), "no record can be read in it");
    found_damaged_name(recovery->found->number, recovery->aside_name);
    recovery->phase = PHASE_ASIDE;
}

void
recover_front(struct spool *spool, struct spool_recovery *recovery)
{
    struct segment_header header;
    bool sealed;

    if (!window_ready(spool, recovery))
        return;
    if (!header_choose(recovery, &header)) {
        set_aside(spool, recovery);
        return;
    }
    recovery->segment = segment_take(spool, &header);
    if (recovery->segment == NULL) {
        log_again(spool, recovery, "no room in the table of segments", -ENOMEM);
        recovery_pause(spool, recovery, RECOVERY_AGAIN_NS);
        return;
    }
    recovery->segment->file = recovery->file;
    recovery->segment->direct = recovery->direct;
    recovery->file = -1;
    recovery->end = header.bytes;
    sealed = segment_seal_read(header.number, recovery->window + SPOOL_BLOCK_BYTES, &recovery->end);
    walk_begin(&recovery->walk, &header, sealed, recovery->end);
    recovery->sealed = recovery->walk.sealed;
    recovery->end = recovery->sealed ? recovery->walk.end : recovery->segment->records_offset;
    recovery->mark_block = 0;
    marks_begin(recovery, 0);
    recovery->phase = PHASE_MARKS;
}

/* The newest copy that is whole: a crash may have torn the other one. Neither: never written (or
 * both gone: then what was delivered is delivered again). */
static void
marks_choose(struct segment *segment, uint32_t index, const char *first, const char *second)
{
    const char *copies[2] = { first, second };
    struct mark marks[2][MARKS_PER_BLOCK];
    uint64_t sequences[2];
    bool whole[2];
    unsigned newest;

    for (unsigned copy = 0; copy < 2; copy++)
        whole[copy] =
            mark_block_read(segment->number, index, copies[copy], &sequences[copy], marks[copy]);
    if (!whole[0] && !whole[1])
        return;
    newest = whole[1] && (!whole[0] || sequences[1] > sequences[0]);
    mark_block_adopt(segment, index, newest, sequences[newest], marks[newest]);
}

static void
window_wanted(struct spool_recovery *recovery)
{
    const struct segment_walk *walk = &recovery->walk;
    uint64_t left = walk->end - walk->want_offset;
    uint64_t len =
        walk->want_bytes > SPOOL_RECOVERY_BYTES ? walk->want_bytes : SPOOL_RECOVERY_BYTES;

    if (len > left)
        len = left;
    /* A seal may end inside a block. */
    len += (SPOOL_BLOCK_BYTES - len % SPOOL_BLOCK_BYTES) % SPOOL_BLOCK_BYTES;
    ASSERT(len >= walk->want_bytes && len <= RECOVERY_WINDOW_BYTES);
    window_begin(recovery, 0, walk->want_offset, (uint32_t)len);
}

void
recover_marks(struct spool *spool, struct spool_recovery *recovery)
{
    struct segment *segment = recovery->segment;

    if (!window_ready(spool, recovery))
        return;
    if (recovery->mark_copy == 0) {
        marks_begin(recovery, 1);
        return;
    }
    for (uint32_t i = 0; i < recovery->mark_blocks; i++) {
        const char *first = recovery->memory + (size_t)i * SPOOL_BLOCK_BYTES;

        marks_choose(segment, recovery->mark_block + i, first,
                     first + (size_t)recovery->mark_blocks * SPOOL_BLOCK_BYTES);
    }
    recovery->mark_block += recovery->mark_blocks;
    if (recovery->mark_block < segment_mark_blocks(segment->slots)) {
        marks_begin(recovery, 0);
        return;
    }
    recovery->window_done = recovery->window_len = 0;
    recovery->phase = PHASE_WALK;
}

/* --- one segment: its records --- */

static bool
is_final(struct mark mark)
{
    return mark.state == MARK_DELIVERED || mark.state == MARK_FAILED || mark.state == MARK_REMOVED;
}

static bool
is_finished(const struct segment *segment, const struct record *record)
{
    for (uint32_t i = 0; i < record->recipients; i++)
        if (!is_final(mark_get(segment, record->slot + i)))
            return false;
    return true;
}

enum copy { COPY_NONE, COPY_UNDECIDED, COPY_COUNTS, COPY_VOID };

static enum copy
copy_decide(const struct spool *spool, const struct spool_recovery *recovery)
{
    const struct found_segment *original;

    if (recovery->walk.record.moved_segment == 0)
        return COPY_NONE;
    original = found_segment_of(spool->directory->found, recovery->walk.record.moved_segment);
    if (original == NULL)
        return COPY_NONE;
    if (!recovery->second_round)
        return COPY_UNDECIDED;
    return found_record_has(original, recovery->walk.record.moved_slot) ? COPY_VOID : COPY_COUNTS;
}

static void
copy_void(struct spool *spool, struct segment *segment, const struct record *record)
{
    for (uint32_t i = 0; i < record->recipients; i++) {
        struct mark mark = mark_get(segment, record->slot + i);

        if (is_final(mark))
            continue;
        mark.state = MARK_REMOVED;
        mark_set(spool, segment, record->slot + i, mark);
    }
}

/* False: the message cannot be delivered; it stays where it is. */
static bool
body_file_claim(struct spool *spool, struct spool_recovery *recovery)
{
    const struct record *record = &recovery->walk.record;
    struct found_body *body = found_body_of(spool->directory->found, record->id);

    if (body != NULL)
        __atomic_store_n(&body->needed, 1, __ATOMIC_RELEASE);
    if (body != NULL && body->bytes >= record->body_bytes)
        return true;
    quarantine(spool, recovery, recovery->walk.offset, span_text(record->id),
               body == NULL ? "the file of its body is missing"
                            : "the file of its body is too short");
    return false;
}

static void
record_found(struct spool *spool, struct spool_recovery *recovery)
{
    const struct segment_walk *walk = &recovery->walk;
    struct segment *segment = recovery->segment;
    enum copy copy = copy_decide(spool, recovery);

    if (!recovery->second_round) {
        recovery->records++;
        found_record_add(recovery->found, walk->record.slot, segment->slots);
        recovery->end = recovery->sealed ? recovery->end : walk->offset + walk->bytes;
    }
    /* Each record is looked at in one of the rounds. */
    if (recovery->second_round ? copy == COPY_NONE : copy == COPY_UNDECIDED) {
        recovery->copies = true;
        return;
    }
    if (is_finished(segment, &walk->record))
        return;
    if (copy == COPY_VOID) {
        copy_void(spool, segment, &walk->record);
        return;
    }
    if ((walk->record.flags & RECORD_BODY_FILE) != 0 && !body_file_claim(spool, recovery))
        return;
    segment_live_add(spool, segment, walk->bytes);
    recovery->place = (struct spool_place){ .segment = segment_index(spool, segment),
                                            .slot = walk->record.slot,
                                            .offset = walk->offset,
                                            .bytes = walk->bytes };
    recovery->found_ready = true;
    recovery->messages++;
    counter_increment(&spool->counters->spool_recovered);
}

static void
damage_found(struct spool *spool, struct spool_recovery *recovery)
{
    const struct segment_walk *walk = &recovery->walk;

    /* Told in the first round. */
    if (recovery->second_round)
        return;
    quarantine(spool, recovery, walk->offset, span_text(walk->id),
               walk->headers == 0 ? "no record can be read here" : "a record that is not whole");
}

/* A damaged one is not sealed: with a seal the next start would not look at the bodies again, and
 * less is written to what people may want to look at. */
static void
adopt(struct spool *spool, struct spool_recovery *recovery)
{
    segment_adopt(spool, recovery->segment, recovery->end,
                  recovery->sealed || recovery->segment->damaged);
}

/* All of it was read. */
static void
walk_over(struct spool *spool, struct spool_recovery *recovery)
{
    struct segment *segment = recovery->segment;

    segment->damaged = segment->damaged || recovery->damaged;
    if (recovery->second_round) {
        if (recovery->damaged)
            __atomic_store_n(&spool->directory->found->damaged, 1, __ATOMIC_RELEASE);
        adopt(spool, recovery);
        recovery->phase = PHASE_AGAIN;
        return;
    }
    if (recovery->guessed && recovery->records == 0) {
        set_aside(spool, recovery);
        return;
    }
    if (recovery->guessed)
        quarantine(spool, recovery, 0, SPAN(""), "the header cannot be read, the records were");
    else if (recovery->cut_short)
        quarantine(spool, recovery, recovery->found->bytes, SPAN(""), "the file was cut short");
    if (recovery->copies)
        recovery->again[recovery->again_count++] = (struct recovery_again){
            .segment = segment, .end = recovery->end, .sealed = recovery->sealed
        };
    else
        adopt(spool, recovery);
    recover_over(spool, recovery);
}

void
recover_records(struct spool *spool, struct spool_recovery *recovery)
{
    enum walk_step step;

    if (!window_ready(spool, recovery))
        return;
    step = walk_next(&recovery->walk, recovery->window_offset,
                     span_of(recovery->window, recovery->window_done));
    switch (step) {
    case WALK_READ:
        recovery->windows_left--;
        window_wanted(recovery);
        break;
    case WALK_RECORD: record_found(spool, recovery); break;
    case WALK_DAMAGE: damage_found(spool, recovery); break;
    case WALK_TAIL:
        if (!recovery->second_round)
            log_tail(recovery);
        break;
    case WALK_END: walk_over(spool, recovery); break;
    }
}

void
recover_aside(struct spool *spool, struct spool_recovery *recovery)
{
    int32_t result;

    if (!recovery_result(recovery, &result)) {
        io_file_rename(spool->io, recovery_start(spool, recovery), spool->directory->directory,
                       recovery->name, recovery->aside_name);
        return;
    }
    if (result < 0)
        spool_log_error(spool, "rename", recovery->name, result);
    recover_over(spool, recovery);
}
