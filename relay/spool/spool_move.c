/* Reclaim: a segment of which little lives is emptied by copying the rest, so that its file can go.
 * The owner says when, record by record; here they are read, checked, and counted over. */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/clock.h"
#include "core/crc32c.h"

/* How often to look for a segment, and how long one is left alone that could not be emptied. */
#define LOOK_NS NS_PER_S
#define GIVEN_UP_NS (60 * NS_PER_S)
/* Segments that may be sparse before it is worth the copying. */
#define SLACK_SEGMENTS 4

/* --- reading --- */

void
spool_move(struct spool *spool, struct spool_move *move)
{
    struct spool_clean *clean = &spool->clean;

    ASSERT(clean->segment != NULL && clean->told && !clean->finishing);
    ASSERT(segment_at(spool, move->from.segment) == clean->segment);
    ASSERT(clean->moves < clean->entries_max);
    clean->moves++;
    move->error = 0;
    move->next_move = NULL;
    spool->moves_open++;
    *clean->asked_end = move;
    clean->asked_end = &move->next_move;
}

static void
read_start(struct spool *spool, struct spool_move *move)
{
    struct spool_clean *clean = &spool->clean;
    uint64_t from = move->from.offset / SPOOL_BLOCK_BYTES * SPOOL_BLOCK_BYTES;
    uint64_t end = (move->from.offset + move->from.bytes + SPOOL_BLOCK_BYTES - 1) /
                   SPOOL_BLOCK_BYTES * SPOOL_BLOCK_BYTES;

    ASSERT(end <= clean->segment->bytes);
    ASSERT(end - from <= clean->memory_bytes - clean->memory_used);
    clean->reading++;
    /* To a place of its own: a block that it shares with another record is read twice, and a read
     * that fails leaves who knows what in its memory. */
    move->memory = clean->memory + clean->memory_used + (move->from.offset - from);
    operation_queue(spool, OPERATION_MOVE, move, 0,
                    (struct file_request){ .op = FILE_READ,
                                           .file = clean->segment->file,
                                           .memory = clean->memory + clean->memory_used,
                                           .bytes = end - from,
                                           .offset = from });
    clean->memory_used += end - from;
}

static bool
is_what_was_stored(const struct spool *spool, const struct spool_move *move)
{
    const struct segment *segment = spool->clean.segment;
    struct span in = span_of(move->memory, move->from.bytes);
    struct record record;
    uint64_t body, crc_bytes;
    uint32_t crc;

    if (!record_header_read(segment->number, in, &record) || record.slot != move->from.slot ||
        record_bytes(&record) != move->from.bytes)
        return false;
    body = record.flags & RECORD_BODY_FILE ? 0 : record.body_bytes;
    crc_bytes = record.envelope_bytes + body;
    span_advance(&in, RECORD_HEADER_BYTES);
    return crc32c(0, span_first(in, record.envelope_bytes)) == record.envelope_crc &&
           record_trailer_read(&record, span_first(span_after(in, crc_bytes), RECORD_TRAILER_BYTES),
                               &crc) &&
           crc == crc32c(0, span_first(in, crc_bytes));
}

void
move_complete(struct spool *spool, struct spool_move *move, int32_t result)
{
    struct spool_clean *clean = &spool->clean;
    uint64_t lead = move->from.offset % SPOOL_BLOCK_BYTES;

    ASSERT(clean->reading > 0);
    clean->reading--;
    if (result < 0) {
        char name[SPOOL_NAME_BYTES];

        spool_segment_name(clean->segment->number, name);
        spool_log_error(spool, "read", name, result);
        move_done(spool, move, result);
    } else if ((uint64_t)result < lead + move->from.bytes) {
        /* Cut short, which says nothing of what is there: later, as with an error. */
        move_done(spool, move, -EIO);
    } else if (!is_what_was_stored(spool, move)) {
        spool_log_quarantined(spool, clean->segment->number, move->from.offset, span_of("", 0),
                              "not what was stored");
        move_done(spool, move, -EBADMSG);
    } else if (spool->stopping || spool->sick) {
        move_done(spool, move, spool->sick ? spool->sick_error : -ECANCELED);
    } else {
        move->next_move = NULL;
        *clean->read_end = move;
        clean->read_end = &move->next_move;
    }
}

/* --- for the group commit --- */

struct spool_move *
move_next(struct spool *spool)
{
    return spool->clean.read;
}

void
move_take(struct spool *spool)
{
    struct spool_clean *clean = &spool->clean;

    ASSERT(clean->read != NULL);
    clean->read = clean->read->next_move;
    if (clean->read == NULL)
        clean->read_end = &clean->read;
}

struct span
move_record(const struct spool *spool, const struct spool_move *move, struct record *record,
            uint32_t *crc)
{
    const struct segment *segment = spool->clean.segment;
    struct span in = span_of(move->memory, move->from.bytes);
    uint64_t len;

    if (!record_header_read(segment->number, in, record))
        ASSERT(!"it was checked when it was read");
    len = record->envelope_bytes;
    if ((record->flags & RECORD_BODY_FILE) == 0)
        len += record->body_bytes;
    span_advance(&in, RECORD_HEADER_BYTES);
    if (!record_trailer_read(record, span_first(span_after(in, len), RECORD_TRAILER_BYTES), crc))
        ASSERT(!"it was checked when it was read");
    return span_first(in, len);
}

static uint32_t
recipients_of(const struct spool *spool, const struct spool_move *move)
{
    struct record record;
    uint32_t crc;

    (void)move_record(spool, move, &record, &crc);
    return record.recipients;
}

void
move_done(struct spool *spool, struct spool_move *move, int error)
{
    struct spool_clean *clean = &spool->clean;

    move->error = error;
    if (error == 0) {
        struct segment *segment = segment_at(spool, move->to.segment);

        ASSERT(clean->entry_count < clean->entries_max);
        clean->entries[clean->entry_count++] =
            (struct move_entry){ .from = move->from,
                                 .to = move->to,
                                 .segment = segment,
                                 .recipients = recipients_of(spool, move) };
        /* The copy takes its place in the new segment now; it counts when the clean is over. */
        segment_live_add(spool, segment, move->to.bytes);
        segment_hold(segment);
        counter_increment(&spool->counters->spool_moved);
    }
    move->next_move = NULL;
    *spool->moved_end = move;
    spool->moved_end = &move->next_move;
}

/* --- which, and when (invariant 7) --- */

static bool
is_worth_it(const struct spool *spool)
{
    const struct spool_directory *directory = spool->directory;
    bool full = __atomic_load_n(&directory->full_bytes, __ATOMIC_RELAXED) > 0 ||
                __atomic_load_n(&directory->room_bytes, __ATOMIC_RELAXED) <= 0;

    return full ||
           spool->total_bytes > 2 * spool->live_bytes + SLACK_SEGMENTS * directory->segment_bytes;
}

static struct segment *
sparsest(const struct spool *spool)
{
    struct segment *best = NULL;

    for (uint32_t i = 0; i < spool->segments.touched; i++) {
        struct segment *segment;

        if (!pool_in_use(&spool->segments, i))
            continue;
        segment = segment_at(spool, i);
        if (segment->state != SEGMENT_SEALED || segment->live_records == 0 ||
            segment->live_bytes >= segment->bytes / 2)
            continue;
        /* What people may want to look at keeps what it has; a disk that fails is not worked. */
        if (segment->damaged || segment->failed)
            continue;
        if (best == NULL || segment->live_bytes < best->live_bytes)
            best = segment;
    }
    return best;
}

static void
clean_begin(struct spool *spool, struct segment *segment)
{
    struct spool_clean *clean = &spool->clean;
    uint32_t max = segment->live_records;
    struct move_entry *entries = io_memory(max * sizeof(*entries));
    uint64_t bytes = segment->live_bytes + (uint64_t)max * 2 * SPOOL_BLOCK_BYTES;
    char *memory = io_memory(bytes);

    clean->next_ns = spool->now_ns + LOOK_NS;
    if (entries == NULL || memory == NULL) {
        if (entries != NULL)
            io_memory_free(entries, max * sizeof(*entries));
        if (memory != NULL)
            io_memory_free(memory, bytes);
        return;
    }
    segment_hold(segment);
    *clean = (struct spool_clean){ .segment = segment,
                                   .memory = memory,
                                   .memory_bytes = bytes,
                                   .entries = entries,
                                   .entries_max = max,
                                   .next_ns = clean->next_ns };
    clean->asked_end = &clean->asked;
    clean->read_end = &clean->read;
}

static void
clean_memory_free(struct spool_clean *clean)
{
    io_memory_free(clean->memory, clean->memory_bytes);
    io_memory_free(clean->entries, clean->entries_max * sizeof(*clean->entries));
}

static void
clean_over(struct spool *spool, uint64_t next_ns)
{
    struct spool_clean *clean = &spool->clean;
    struct segment *segment = clean->segment;

    for (uint32_t i = 0; i < clean->entry_count; i++)
        segment_release(spool, clean->entries[i].segment);
    segment->moved_away = clean->finishing;
    clean_memory_free(clean);
    *clean = (struct spool_clean){ .next_ns = next_ns };
    segment_release(spool, segment);
}

/* --- the end --- */

void
clean_forgotten(struct spool *spool, const struct spool_place *place)
{
    struct spool_clean *clean = &spool->clean;

    for (uint32_t i = 0; i < clean->entry_count; i++)
        if (clean->entries[i].from.slot == place->slot)
            clean->entries[i].forgotten = true;
}

static void
copy_marks(struct spool *spool, struct move_entry *entry)
{
    for (uint32_t i = 0; i < entry->recipients; i++) {
        struct mark mark = mark_get(spool->clean.segment, entry->from.slot + i);

        mark_set(spool, entry->segment, entry->to.slot + i, mark);
    }
    entry->point = entry->segment->version;
}

static void
remove_copy(struct spool *spool, struct move_entry *entry)
{
    for (uint32_t i = 0; i < entry->recipients; i++)
        mark_set(spool, entry->segment, entry->to.slot + i, (struct mark){ .state = MARK_REMOVED });
    segment_live_remove(spool, entry->segment, entry->to.bytes);
}

void
spool_clean_finish(struct spool *spool, uint32_t segment_at_index, bool given_up)
{
    struct spool_clean *clean = &spool->clean;

    ASSERT(clean->segment == segment_at(spool, segment_at_index));
    ASSERT(spool->moves_open == 0);
    ASSERT(clean->told && !clean->finishing);
    for (uint32_t i = 0; i < clean->entry_count; i++) {
        if (given_up) {
            remove_copy(spool, &clean->entries[i]);
            continue;
        }
        copy_marks(spool, &clean->entries[i]);
        if (clean->entries[i].forgotten)
            segment_live_remove(spool, clean->entries[i].segment, clean->entries[i].to.bytes);
        else
            segment_live_remove(spool, clean->segment, clean->entries[i].from.bytes);
    }
    if (given_up) {
        clean_over(spool, spool->now_ns + GIVEN_UP_NS);
        return;
    }
    /* A record that lives and was not moved would go with the file. */
    ASSERT(clean->segment->live_records == 0);
    clean->finishing = true;
}

/* Invariant 8. The copies' marks are durable: from here on the old file may go, and with it the
 * originals. */
static bool
copies_durable(const struct spool_clean *clean)
{
#ifdef CANARY_MOVED_BEFORE_MARKS
    return true;
#endif
    for (uint32_t i = 0; i < clean->entry_count; i++)
        if (!marks_durable(clean->entries[i].segment, clean->entries[i].to.slot,
                           clean->entries[i].recipients, clean->entries[i].point))
            return false;
    return true;
}

/* Else it must not wake the worker, either: that would be at once, for ever. */
static bool
may_look(const struct spool *spool)
{
    return !spool->stopping && !spool->sick && recovery_over(spool);
}

void
clean_turn(struct spool *spool)
{
    struct spool_clean *clean = &spool->clean;

    if (clean->segment == NULL) {
        struct segment *segment;

        if (!may_look(spool) || clean->next_ns > spool->now_ns)
            return;
        clean->next_ns = spool->now_ns + LOOK_NS;
        segment = is_worth_it(spool) ? sparsest(spool) : NULL;
        if (segment != NULL)
            clean_begin(spool, segment);
        return;
    }
    if (clean->finishing && copies_durable(clean)) {
        clean_over(spool, spool->now_ns);
        return;
    }
    while (clean->asked != NULL && clean->reading < SPOOL_MOVES_MAX) {
        struct spool_move *move = clean->asked;

        clean->asked = move->next_move;
        if (clean->asked == NULL)
            clean->asked_end = &clean->asked;
        if (spool->stopping)
            move_done(spool, move, -ECANCELED);
        else
            read_start(spool, move);
    }
}

bool
clean_event(struct spool *spool, struct spool_event *event)
{
    struct spool_clean *clean = &spool->clean;
    struct spool_move *move = spool->moved;

    if (move != NULL) {
        spool->moved = move->next_move;
        if (spool->moved == NULL)
            spool->moved_end = &spool->moved;
        ASSERT(spool->moves_open > 0);
        spool->moves_open--;
        *event = (struct spool_event){ .kind = SPOOL_MOVED, .move = move, .owner = move->owner };
        return true;
    }
    if (clean->segment == NULL || clean->told || spool->stopping)
        return false;
    clean->told = true;
    *event = (struct spool_event){ .kind = SPOOL_CLEAN,
                                   .segment = segment_index(spool, clean->segment) };
    return true;
}

/* A clean that is finishing goes on: its owner counts on the new places. One that was not finished
 * is as if it had never begun: the originals count. */
bool
clean_idle(const struct spool *spool)
{
    return spool->moves_open == 0 && (!spool->clean.finishing || spool->marks_failing > 0);
}

uint64_t
clean_wakes_ns(const struct spool *spool)
{
    return spool->clean.segment == NULL && may_look(spool) && is_worth_it(spool)
               ? spool->clean.next_ns
               : NONE;
}

void
clean_destroy(struct spool *spool)
{
    if (spool->clean.segment != NULL)
        clean_memory_free(&spool->clean);
}
