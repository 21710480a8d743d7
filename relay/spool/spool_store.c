/* Group commit: while one group of records is being written the next one gathers, so the number of
 * messages that share a write follows the load and the disk, and no timer is needed. */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/crc32c.h"
#include "core/log.h"

/* What stands behind a body: trailer and padding. */
#define TAIL_BYTES_MAX (RECORD_TRAILER_BYTES + RECORD_ALIGNMENT)

enum commit_step { COMMIT_WRITE, COMMIT_SYNC };

/* A record on its way into groups: a store's, or a move's. */
struct source {
    struct record *record;
    uint64_t *progress; /* octets of body and tail copied */
    uint32_t *crc;
    struct spool_store *store; /* or */
    struct spool_move *move;
    struct span body; /* of a move: all of it */
};

static struct spool_group *
group_filling(struct spool *spool)
{
    return &spool->groups[spool->filling];
}

static struct spool_group *
group_in_flight(struct spool *spool)
{
    return &spool->groups[spool->filling ^ 1];
}

static void
group_reset(struct spool_group *group)
{
    *group = (struct spool_group){ .memory = group->memory };
    group->stores_end = &group->stores;
    group->moves_end = &group->moves;
}

static uint32_t
group_room(const struct spool_group *group)
{
    return SPOOL_STAGING_BYTES - group->len;
}

/* --- ends --- */

static void
store_done(struct spool *spool, struct spool_store *store, int error)
{
    store->error = error;
    counter_increment(error == 0 ? &spool->counters->spool_messages_stored
                                 : &spool->counters->spool_messages_failed);
    store->next_store = NULL;
    *spool->stored_end = store;
    spool->stored_end = &store->next_store;
}

/* Nothing of its record was given to the disk. */
static void
store_refuse(struct spool *spool, struct spool_store *store, int error)
{
    ASSERT(error < 0);
    if (store->body_file != NULL) {
        spool_body_close(store->body_file, true);
        store->body_file = NULL;
    }
    store_done(spool, store, error);
}

/* Its record may be on the disk, whole even: the body file must stay until the segment is gone, for
 * a start in between must not find the one without the other. */
static void
store_break(struct spool *spool, struct segment *segment, struct spool_store *store, int error)
{
    if (store->body_file != NULL) {
        spool_body_close(store->body_file, false);
        store->body_file = NULL;
        removal_add(spool, segment, store->record.id, true);
    }
    store_done(spool, store, error);
}

static void
store_keep(struct spool *spool, struct segment *segment, struct spool_store *store)
{
    if (store->body_file != NULL) {
        spool_body_close(store->body_file, false);
        store->body_file = NULL;
    }
    segment_live_add(spool, segment, store->place.bytes);
    store_done(spool, store, 0);
}

void
stores_fail(struct spool *spool, int error)
{
    struct spool_store *store = spool->waiting;
    struct spool_move *move;

    spool->waiting = NULL;
    spool->waiting_end = &spool->waiting;
    while (store != NULL) {
        struct spool_store *next = store->next_store;

        store_refuse(spool, store, error);
        store = next;
    }
    while ((move = move_next(spool)) != NULL) {
        move_take(spool);
        move_done(spool, move, error);
    }
}

/* --- what the owner asks for --- */

static void
wait_for_group(struct spool *spool, struct spool_store *store)
{
    if (spool->sick) {
        store_refuse(spool, store, spool->sick_error);
        return;
    }
    store->next_store = NULL;
    *spool->waiting_end = store;
    spool->waiting_end = &store->next_store;
}

void
spool_store(struct spool *spool, struct spool_store *store)
{
    struct record *record = &store->record;
    size_t envelope_bytes = record_envelope_bytes(store->envelope, &store->origin);

    ASSERT((store->body == NULL) == (store->body_file != NULL));
    ASSERT(store->body == NULL || store->body->bytes == record->body_bytes);
    ASSERT(((record->flags & RECORD_BODY_FILE) != 0) == (store->body_file != NULL));
    ASSERT(record->recipients > 0);
    ASSERT(record->recipients == store->envelope->accepted);
    store->error = 0;
    store->progress = 0;
    spool->stores_open++;
    if (spool->stopping) {
        store_refuse(spool, store, -ECANCELED);
        return;
    }
    if (envelope_bytes <= RECORD_ENVELOPE_BYTES_MAX) {
        record->envelope_bytes = (uint32_t)envelope_bytes;
        store->place.bytes = record_bytes(record);
    }
    if (envelope_bytes > RECORD_ENVELOPE_BYTES_MAX ||
        store->place.bytes > segment_record_bytes_max(spool) ||
        record->recipients > segment_slots(spool->directory->segment_bytes)) {
        store_refuse(spool, store, -EMSGSIZE);
        return;
    }
    if (store->body_file != NULL) {
        counter_increment(&spool->counters->spool_body_files);
        body_sync(spool, store->body_file, store);
    } else {
        wait_for_group(spool, store);
    }
}

void
store_body_synced(struct spool *spool, struct spool_store *store, int error)
{
    if (error != 0)
        store_refuse(spool, store, error);
    else
        wait_for_group(spool, store);
}

/* --- gathering --- */

/* Body octets from `progress` on, as many as there is room for. */
static void
copy_chain(struct spool_group *group, const struct spool_store *store, uint32_t *crc, uint64_t from,
           uint64_t len)
{
    const struct chain *chain = store->body;
    uint32_t index = chain->first;
    char *out = group->memory + group->len;

    for (uint64_t left = len; left > 0; index = store->buffers->meta[index].next) {
        struct span part;

        ASSERT(index != BUFFER_NONE);
        part = buffer_span(store->buffers, index);
        if (from >= part.len) {
            from -= part.len;
            continue;
        }
        span_advance(&part, from);
        from = 0;
        if (part.len > left)
            part.len = left;
        memcpy(out, part.data, part.len);
        out += part.len;
        left -= part.len;
    }
    *crc = crc32c(*crc, span_of(group->memory + group->len, len));
    group->len += (uint32_t)len;
}

static uint64_t
source_body_bytes(const struct source *source)
{
    return source->record->flags & RECORD_BODY_FILE ? 0 : source->record->body_bytes;
}

/* As much of body, trailer and padding as there is room for. True: that was all. */
static bool
source_copy(struct spool_group *group, const struct source *source)
{
    const struct record *record = source->record;
    uint64_t body = source_body_bytes(source);
    uint64_t all = record_bytes(record) - RECORD_HEADER_BYTES - record->envelope_bytes;
    char tail[TAIL_BYTES_MAX] = { 0 };
    uint64_t part;

    ASSERT(all - body >= RECORD_TRAILER_BYTES && all - body <= TAIL_BYTES_MAX);
    if (*source->progress < body) {
        part = body - *source->progress;
        if (part > group_room(group))
            part = group_room(group);
        if (source->store != NULL) {
            copy_chain(group, source->store, source->crc, *source->progress, part);
        } else {
            memcpy(group->memory + group->len, source->body.data + *source->progress, part);
            group->len += (uint32_t)part;
        }
        *source->progress += part;
    }
    if (*source->progress < body)
        return false;
    part = all - *source->progress;
    if (part > group_room(group))
        part = group_room(group);
    record_trailer_write(record, *source->crc, tail);
    memcpy(group->memory + group->len, tail + (*source->progress - body), part);
    group->len += (uint32_t)part;
    *source->progress += part;
    return *source->progress == all;
}

/* A group for a record of so many octets and slots: the filling one, with a segment that has room
 * for all of it. False: not now; the group is closed if it is in the way. */
static bool
group_open(struct spool *spool, uint64_t front, uint64_t bytes, uint32_t slots)
{
    struct spool_group *group = group_filling(spool);

    if (front > group_room(group)) {
        group->closed = true;
        return false;
    }
    if (group->segment == NULL) {
        if (spool->active == NULL)
            return false;
        group->segment = spool->active;
        group->offset = group->segment->end;
    }
    ASSERT(group->segment == spool->active);
    if (group->offset + group->len + bytes <= group->segment->bytes &&
        group->segment->slots_used + slots <= group->segment->slots)
        return true;
    segment_close(spool);
    if (group->len > 0) {
        group->closed = true;
        return false;
    }
    if (!spool->committing || group_in_flight(spool)->segment != group->segment)
        segment_finish(spool, group->segment, false);
    group->segment = NULL;
    segment_turn(spool); /* the one that was prepared */
    return spool->active != NULL && group_open(spool, front, bytes, slots);
}

/* Header and envelope. */
static void
store_begin(struct spool *spool, struct spool_store *store)
{
    struct spool_group *group = group_filling(spool);
    struct segment *segment = group->segment;
    struct record *record = &store->record;
    char *front = group->memory + group->len;
    struct outbuf envelope = { .data = front + RECORD_HEADER_BYTES,
                               .size = record->envelope_bytes };

    record_envelope_write(store->envelope, &store->origin, &envelope);
    ASSERT(envelope.len == record->envelope_bytes);
    store->crc = crc32c(0, outbuf_span(&envelope));
    record->envelope_crc = store->crc;
    record->segment = segment->number;
    record->slot = segment->slots_used;
    record->moved_segment = 0;
    record->moved_slot = 0;
    record_header_write(record, front);
    store->place.segment = segment_index(spool, segment);
    store->place.slot = record->slot;
    store->place.offset = group->offset + group->len;
    segment->slots_used += record->recipients;
    group->len += RECORD_HEADER_BYTES + record->envelope_bytes;
}

static void
move_begin(struct spool *spool, struct spool_move *move, struct record *record, struct span body)
{
    struct spool_group *group = group_filling(spool);
    struct segment *segment = group->segment;
    char *front = group->memory + group->len;

    record->segment = segment->number;
    record->slot = segment->slots_used;
    record->moved_segment = spool->clean.segment->number;
    record->moved_slot = move->from.slot;
    record_header_write(record, front);
    memcpy(front + RECORD_HEADER_BYTES, body.data, record->envelope_bytes);
    move->to = (struct spool_place){ .segment = segment_index(spool, segment),
                                     .slot = record->slot,
                                     .offset = group->offset + group->len,
                                     .bytes = move->from.bytes };
    segment->slots_used += record->recipients;
    group->len += RECORD_HEADER_BYTES + record->envelope_bytes;
}

static void
store_whole(struct spool *spool, struct spool_store *store)
{
    struct spool_group *group = group_filling(spool);

    group->promises = store->place.offset + store->place.bytes;
    ASSERT(group->promises == group->offset + group->len);
    store->next_store = NULL;
    *group->stores_end = store;
    group->stores_end = &store->next_store;
}

static void
move_whole(struct spool *spool, struct spool_move *move)
{
    struct spool_group *group = group_filling(spool);

    group->promises = move->to.offset + move->to.bytes;
    ASSERT(group->promises == group->offset + group->len);
    move->next_move = NULL;
    *group->moves_end = move;
    group->moves_end = &move->next_move;
}

/* The rest of a record that did not fit the group before. */
static void
partial_continue(struct spool *spool)
{
    struct spool_group *group = group_filling(spool);
    struct spool_store *store = spool->partial_store;
    struct spool_move *move = spool->partial_move;
    struct source source = { 0 };
    struct record record;
    uint32_t crc;

    if (group->segment == NULL) {
        group->segment = spool->partial_segment;
        group->offset = group->segment->end;
    }
    if (store != NULL) {
        source = (struct source){ .record = &store->record,
                                  .progress = &store->progress,
                                  .crc = &store->crc,
                                  .store = store };
    } else {
        struct span all = move_record(spool, move, &record, &crc);

        record.segment = spool->partial_segment->number;
        record.slot = move->to.slot;
        record.moved_segment = spool->clean.segment->number;
        record.moved_slot = move->from.slot;
        source = (struct source){ .record = &record,
                                  .progress = &move->progress,
                                  .crc = &crc,
                                  .move = move,
                                  .body = span_after(all, record.envelope_bytes) };
    }
    if (!source_copy(group, &source)) {
        group->closed = true;
        return;
    }
    spool->partial_store = NULL;
    spool->partial_move = NULL;
    spool->partial_segment = NULL;
    if (store != NULL)
        store_whole(spool, store);
    else
        move_whole(spool, move);
}

static bool
gather_store(struct spool *spool, struct spool_store *store)
{
    const struct record *record = &store->record;

    if (!group_open(spool, RECORD_HEADER_BYTES + record->envelope_bytes, store->place.bytes,
                    record->recipients))
        return false;
    spool->waiting = store->next_store;
    if (spool->waiting == NULL)
        spool->waiting_end = &spool->waiting;
    store_begin(spool, store);
    spool->partial_store = store;
    return true;
}

static bool
gather_move(struct spool *spool, struct spool_move *move)
{
    struct record record;
    uint32_t crc;
    struct span body = move_record(spool, move, &record, &crc);

    if (!group_open(spool, RECORD_HEADER_BYTES + record.envelope_bytes, move->from.bytes,
                    record.recipients))
        return false;
    move_take(spool);
    move_begin(spool, move, &record, body);
    move->progress = 0;
    spool->partial_move = move;
    return true;
}

static void
gather(struct spool *spool)
{
    struct spool_group *group = group_filling(spool);

    while (!group->closed) {
        struct spool_move *move = move_next(spool);
        bool begun;

        if (spool->partial_segment != NULL) {
            partial_continue(spool);
            continue;
        }
        if (spool->waiting == NULL && move == NULL)
            break;
        /* In turn: neither keeps the other waiting for long. */
        if (move != NULL && (spool->move_next || spool->waiting == NULL))
            begun = gather_move(spool, move);
        else
            begun = gather_store(spool, spool->waiting);
        if (!begun)
            break;
        spool->move_next = !spool->move_next;
        spool->partial_segment = group->segment;
        if (group_room(group) == 0)
            group->closed = true;
    }
}

/* --- committing --- */

static void
commit_start(struct spool *spool)
{
    struct spool_group *group = group_filling(spool);
    struct segment *segment = group->segment;
    uint32_t rest = (SPOOL_BLOCK_BYTES - group->len % SPOOL_BLOCK_BYTES) % SPOOL_BLOCK_BYTES;

    ASSERT(!spool->committing);
    ASSERT(segment->state == SEGMENT_ACTIVE);
    ASSERT(group->offset == segment->end && group->offset % SPOOL_BLOCK_BYTES == 0);
    memset(group->memory + group->len, 0, rest);
    group->len += rest;
    ASSERT(group->offset + group->len <= segment->bytes);
    segment->end += group->len;
    segment_use(spool, segment, group->len);
    spool->committing = true;
    spool->commit_started_ns = spool->now_ns;
    spool->filling ^= 1;
    ASSERT(group_filling(spool)->len == 0 && !group_filling(spool)->closed);
    operation_queue(spool, OPERATION_COMMIT, NULL, COMMIT_WRITE,
                    (struct file_request){ .op = FILE_WRITE,
                                           .file = segment->file,
                                           .memory = group->memory,
                                           .bytes = group->len,
                                           .offset = group->offset });
#ifdef CANARY_STORED_BEFORE_WRITE
    for (struct spool_store *store = group->stores, *next; store != NULL; store = next) {
        next = store->next_store;
        store_keep(spool, segment, store);
    }
    group->stores = NULL;
    group->stores_end = &group->stores;
#endif
}

/* Without O_DSYNC the syncs of a segment go one after the other, marks and groups in turn: an error
 * of the disk is told to one of two syncs only, and the other would promise what is lost. */
static bool
must_wait(const struct spool *spool)
{
    const struct spool_group *group = &spool->groups[spool->filling];
    const struct segment *segment = group->segment;

    if (segment->direct)
        return false;
    return segment->mark_writing ||
           (spool->marks_first && marks_due(spool, segment) && spool->marks_failing == 0);
}

void
store_turn(struct spool *spool)
{
    if (spool->commit_observed_ns != 0)
        histogram_observe(&spool->counters->spool_commit,
                          spool->now_ns - spool->commit_observed_ns);
    spool->commit_observed_ns = 0;
    gather(spool);
    if (spool->committing || group_filling(spool)->len == 0 || must_wait(spool))
        return;
    commit_start(spool);
    gather(spool); /* while that one is being written */
}

/* Its stores and moves. Invariant 1: error 0 is the promise, and only given behind a write that is
 * durable. */
static void
group_end(struct spool *spool, struct spool_group *group, int error)
{
    struct segment *segment = group->segment;
    struct spool_store *store = group->stores;
    struct spool_move *move = group->moves;

    group_reset(group);
    while (store != NULL) {
        struct spool_store *next = store->next_store;

        if (error == 0)
            store_keep(spool, segment, store);
        else
            store_break(spool, segment, store, error);
        store = next;
    }
    while (move != NULL) {
        struct spool_move *next = move->next_move;

        move_done(spool, move, error);
        move = next;
    }
}

/* Invariant 3: with this write ends all that this segment promises; also what is gathered for it
 * and the record that is half written. */
static void
commit_fail(struct spool *spool, int error)
{
    struct spool_group *group = group_in_flight(spool), *other = group_filling(spool);
    struct segment *segment = group->segment;
    char name[SPOOL_NAME_BYTES];

    spool_segment_name(segment->number, name);
    spool_log_error(spool, "write", name, error);
    counter_increment(&spool->counters->spool_commits_failed);
    spool->sick_error = error;
    if (spool->partial_segment == segment) {
        if (spool->partial_store != NULL)
            store_break(spool, segment, spool->partial_store, error);
        else
            move_done(spool, spool->partial_move, error);
        spool->partial_store = NULL;
        spool->partial_move = NULL;
        spool->partial_segment = NULL;
    }
    group_end(spool, group, error);
    if (other->segment == segment)
        group_end(spool, other, error);
    segment_finish(spool, segment, true);
}

void
commit_complete(struct spool *spool, int32_t result, uint32_t step)
{
    struct spool_group *group = group_in_flight(spool);
    struct segment *segment = group->segment;
    uint32_t len = group->len;

    ASSERT(spool->committing);
#ifdef CANARY_SYNC_ERROR_IGNORED
    result = step == COMMIT_SYNC ? 0 : result;
#endif
    if (step == COMMIT_WRITE && result == (int32_t)len && !segment->direct) {
        operation_queue(spool, OPERATION_COMMIT, NULL, COMMIT_SYNC,
                        (struct file_request){ .op = FILE_SYNC, .file = segment->file });
        return;
    }
    spool->committing = false;
    spool->marks_first = true;
    spool->commit_observed_ns = spool->commit_started_ns;
    if (result != (step == COMMIT_WRITE ? (int32_t)len : 0)) {
        commit_fail(spool, result < 0 ? result : -EIO);
        return;
    }
    if (spool->failed_twice)
        spool->make_again_ns = 0; /* the disk works */
    spool->failed_twice = false;
    counter_increment(&spool->counters->spool_commits_ok);
    counter_add(&spool->counters->spool_bytes_records, len);
    if (group->promises > 0)
        segment->promised = group->promises;
    ASSERT(segment->promised <= segment->end);
    group_end(spool, group, 0);
    if (segment->closing && group_filling(spool)->segment != segment)
        segment_finish(spool, segment, false);
}

bool
store_event(struct spool *spool, struct spool_event *event)
{
    struct spool_store *store = spool->stored;

    if (store == NULL)
        return false;
    spool->stored = store->next_store;
    if (spool->stored == NULL)
        spool->stored_end = &spool->stored;
    ASSERT(spool->stores_open > 0);
    spool->stores_open--;
    *event = (struct spool_event){ .kind = SPOOL_STORED, .store = store, .owner = store->owner };
    return true;
}

bool
store_idle(const struct spool *spool)
{
    return spool->stores_open == 0 && !spool->committing && spool->partial_segment == NULL &&
           spool->groups[0].len == 0 && spool->groups[1].len == 0;
}

bool
stores_create(struct spool *spool)
{
    spool->waiting_end = &spool->waiting;
    spool->stored_end = &spool->stored;
    for (int i = 0; i < 2; i++) {
        spool->groups[i].memory = io_memory(SPOOL_STAGING_BYTES);
        if (spool->groups[i].memory == NULL)
            return false;
        group_reset(&spool->groups[i]);
    }
    return true;
}

void
stores_destroy(struct spool *spool)
{
    for (int i = 0; i < 2; i++)
        if (spool->groups[i].memory != NULL)
            io_memory_free(spool->groups[i].memory, SPOOL_STAGING_BYTES);
}
