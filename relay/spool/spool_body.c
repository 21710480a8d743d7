/* Bodies too large for a record, in files of their own: written from the receive buffers and read
 * back into them. Through the page cache, and not directly: a body comes in pieces of any size. It
 * is made durable by the store, before its record is (invariant 1).
 *
 * One operation of a file is in flight at a time; body_advance() alone chooses the next one:
 * open -> write or read, as long as there is something -> sync, sync of the directory (for a store)
 * -> close, unlink. */
#include <errno.h>

#include "core/clock.h"
#include "relay/spool/spool_private.h"

/* An operation that the kernel could not do now (io_error_is_again) is tried again so often. */
#define BODY_TRIES_MAX 100
#define BODY_AGAIN_NS (10 * NS_PER_MS)
/* Of the buffers, this part is not taken for reading: messages that are stored wait without harm,
 * clients do not. */
#define BODY_BUFFERS_KEPT_PART 8

enum body_step {
    BODY_OPEN,
    BODY_WRITE,
    BODY_READ,
    BODY_SYNC,
    BODY_SYNC_DIRECTORY,
    BODY_UNLINK,
};

struct spool_body {
    struct spool *spool;
    struct buffers *buffers;
    void *owner;
    char id[16];
    char name[SPOOL_NAME_BYTES];
    int file; /* -1: not open */
    int error;
    bool create;
    bool made;    /* its name is ours */
    bool running; /* an operation is in flight */
    bool closing; /* the owner has let go */
    bool remove;
    bool on_due, on_told;
    uint8_t synced;    /* of a store: 0 nothing, 1 the file, 2 its name too */
    uint32_t sync_failures; /* directory->sync_failures when it was opened */
    uint16_t tries;    /* of the operation that could not be done */
    uint64_t again_ns; /* not before; 0: at once */
    uint64_t offset;   /* octets written, or read */
    /* writing */
    struct chain pending, written;
    size_t skip; /* octets of the first pending buffer that are written */
    struct spool_store *store;
    /* reading */
    struct chain *into; /* the owner's; NULL: nothing is asked for */
    uint64_t into_max, body_bytes;
    uint32_t reading[IO_PIECES_MAX], reading_count;
    struct io_gather gather;
    struct spool_body *next_due, *next_told;
};

struct spool_bodies {
    struct pool pool;
    struct spool_body *due, **due_end; /* body_turn() looks at them */
    struct spool_body *told, **told_end;
    uint32_t running;
};

static void body_advance(struct spool_body *body);

/* --- lists --- */

static void
due_add(struct spool_body *body)
{
    struct spool_bodies *bodies = body->spool->bodies;

    if (body->on_due)
        return;
    body->on_due = true;
    body->next_due = NULL;
    *bodies->due_end = body;
    bodies->due_end = &body->next_due;
}

/* The owner gets an event, one however much has happened since. */
static void
body_tell(struct spool_body *body)
{
    struct spool_bodies *bodies = body->spool->bodies;

    if (body->on_told || body->closing || body->store != NULL)
        return;
    body->on_told = true;
    body->next_told = NULL;
    *bodies->told_end = body;
    bodies->told_end = &body->next_told;
}

/* --- operations --- */

static struct io_ticket
body_start(struct spool_body *body, enum body_step step)
{
    ASSERT(!body->running);
    body->running = true;
    body->spool->bodies->running++;
    return operation_start(body->spool, OPERATION_BODY, body, step);
}

static void
open_start(struct spool_body *body)
{
    struct spool *spool = body->spool;

    body->sync_failures = directory_failures(spool);
    io_file_open(spool->io, body_start(body, BODY_OPEN), spool->directory->directory, body->name,
                 body->create ? IO_FILE_CREATE | IO_FILE_WRITE : 0);
}

static void
write_start(struct spool_body *body)
{
    struct io_gather *gather = &body->gather;
    uint32_t index = body->pending.first;
    size_t skip = body->skip;

    for (gather->count = 0; gather->count < IO_PIECES_MAX && index != BUFFER_NONE;
         index = body->buffers->meta[index].next) {
        struct span octets = span_after(buffer_span(body->buffers, index), skip);

        skip = 0;
        if (octets.len > 0)
            gather->pieces[gather->count++] =
                (struct io_piece){ .data = octets.data, .len = octets.len };
    }
    ASSERT(gather->count > 0);
    io_file_write_gather(body->spool->io, body_start(body, BODY_WRITE), body->file, gather,
                         body->offset);
}

/* False: no buffers now. */
static bool
read_start(struct spool_body *body, uint64_t bytes)
{
    struct buffers *buffers = body->buffers;
    struct io_gather *gather = &body->gather;

    for (gather->count = 0; gather->count < IO_PIECES_MAX && bytes > 0; gather->count++) {
        uint32_t index = buffer_take(buffers, buffers->count / BODY_BUFFERS_KEPT_PART);
        size_t len = bytes < BUFFER_BYTES ? (size_t)bytes : BUFFER_BYTES;

        if (index == BUFFER_NONE)
            break;
        body->reading[gather->count] = index;
        gather->pieces[gather->count] =
            (struct io_piece){ .data = buffer_memory(buffers, index), .len = len };
        bytes -= len;
    }
    body->reading_count = gather->count;
    if (gather->count == 0)
        return false;
    io_file_read_gather(body->spool->io, body_start(body, BODY_READ), body->file, gather,
                        body->offset);
    return true;
}

/* Octets to read now, 0: none are asked for or there are no more. */
static uint64_t
read_wanted(const struct spool_body *body)
{
    uint64_t left = body->body_bytes - body->offset;
    uint64_t room;

    if (body->into == NULL || body->into->bytes >= body->into_max)
        return 0;
    room = body->into_max - body->into->bytes;
    /* A drop at a time would cost a buffer for each; what is there already keeps its owner busy. */
    if (room < BUFFER_BYTES && room < left && body->into->bytes > 0)
        return 0;
    return room < left ? room : left;
}

/* --- the end --- */

static void
chains_release(struct spool_body *body)
{
    chain_release(body->buffers, &body->pending);
    chain_release(body->buffers, &body->written);
    body->skip = 0;
}

static void
body_end(struct spool_body *body)
{
    struct spool *spool = body->spool;

    chains_release(body);
    if (body->file >= 0)
        io_close(spool->io, body->file);
    body->file = -1;
    if (body->remove && body->made) {
        io_file_unlink(spool->io, body_start(body, BODY_UNLINK), spool->directory->directory,
                       body->name);
        return;
    }
    /* From a list it goes when that is worked off. */
    if (!body->on_due && !body->on_told)
        pool_release(&spool->bodies->pool, body);
}

static void
store_end(struct spool_body *body, int error)
{
    struct spool_store *store = body->store;

    body->store = NULL;
    store_body_synced(body->spool, store, error);
}

/* --- the one place where the next step is chosen --- */

static void
store_advance(struct spool_body *body)
{
    struct spool *spool = body->spool;

#ifdef CANARY_BODY_NOT_SYNCED
    body->synced = 2;
#endif
    switch (body->synced) {
    case 0: io_file_sync(spool->io, body_start(body, BODY_SYNC), body->file, false); return;
    case 1:
        io_file_sync(spool->io, body_start(body, BODY_SYNC_DIRECTORY), spool->directory->directory,
                     true);
        return;
    default: store_end(body, 0);
    }
}

static void
body_advance(struct spool_body *body)
{
    uint64_t wanted;

    if (body->running)
        return;
    if (body->again_ns > body->spool->now_ns) {
        due_add(body);
        return;
    }
    if (body->closing) {
        body_end(body);
        return;
    }
    if (body->error != 0) {
        if (body->store != NULL)
            store_end(body, body->error);
        return;
    }
    if (body->file < 0) {
        open_start(body);
        return;
    }
    if (body->pending.bytes > body->skip) {
        write_start(body);
        return;
    }
    if (body->store != NULL) {
        store_advance(body);
        return;
    }
    wanted = read_wanted(body);
    if (wanted > 0 && !read_start(body, wanted))
        due_add(body); /* when buffers have come back */
}

void
body_turn(struct spool *spool)
{
    struct spool_bodies *bodies = spool->bodies;
    struct spool_body *body = bodies->due;

    bodies->due = NULL;
    bodies->due_end = &bodies->due;
    while (body != NULL) {
        struct spool_body *next = body->next_due;

        body->on_due = false;
        body_advance(body);
        body = next;
    }
}

uint64_t
body_wakes_ns(const struct spool *spool)
{
    uint64_t wakes = spool->bodies->told != NULL ? 0 : UINT64_MAX;

    /* Few: those that wait for buffers, which come back with a turn, or after a failure. */
    for (const struct spool_body *body = spool->bodies->due; body != NULL; body = body->next_due)
        if (body->again_ns != 0 && body->again_ns < wakes)
            wakes = body->again_ns;
        else if (body->store != NULL || body->closing)
            wakes = 0;
    return wakes;
}

/* --- completions --- */

/* What will not be written goes back to the owner, behind what was. */
static void
give_back(struct spool_body *body)
{
    chain_move(body->buffers, &body->written, &body->pending);
    body->skip = 0;
}

static void
body_fail(struct spool_body *body, const char *what, int error)
{
    if (body->error == 0)
        spool_log_error(body->spool, what, body->name, error);
    body->error = error;
    give_back(body);
    body_tell(body);
}

static void
opened(struct spool_body *body, int32_t result)
{
    if (result < 0) {
        body_fail(body, "open", result);
        return;
    }
    body->file = result;
    body->made = true;
}

/* Whole buffers go on to the owner; the last one may be written in part. */
static void
write_ended(struct spool_body *body, int32_t result)
{
    struct spool *spool = body->spool;
    size_t left;

    if (result <= 0) {
        body_fail(body, "write", result == 0 ? -ENOSPC : result);
        return;
    }
    body->offset += (uint32_t)result;
    room_take(spool, (uint32_t)result);
    counter_add(&spool->counters->spool_bytes_bodies, (uint32_t)result);
    left = (size_t)result + body->skip;
    while (body->pending.count > 0) {
        struct buffer_meta meta = body->buffers->meta[body->pending.first];
        uint32_t index;

        if (left < meta.len)
            break;
        left -= meta.len;
        index = chain_pop(body->buffers, &body->pending);
        chain_append(body->buffers, &body->written, index, meta.start, meta.len);
    }
    ASSERT(left == 0 || body->pending.count > 0);
    body->skip = left;
    body_tell(body);
}

static void
read_ended(struct spool_body *body, int32_t result)
{
    size_t left = result > 0 ? (size_t)result : 0;

    for (uint32_t i = 0; i < body->reading_count; i++) {
        size_t len = body->gather.pieces[i].len < left ? body->gather.pieces[i].len : left;

        if (len > 0 && body->into != NULL)
            chain_append(body->buffers, body->into, body->reading[i], 0, len);
        else
            buffer_release(body->buffers, body->reading[i]);
        left -= len;
    }
    ASSERT(left == 0);
    body->reading_count = 0;
    if (result <= 0) {
        /* Shorter than its record says. */
        body_fail(body, "read", result == 0 ? -EBADMSG : result);
        return;
    }
    body->offset += (uint32_t)result;
    body_tell(body);
}

static void
unlinked(struct spool_body *body, int32_t result)
{
    body->remove = false;
    if (result < 0 && result != -ENOENT)
        spool_log_error(body->spool, "unlink", body->name, result);
    else
        room_give(body->spool, body->offset);
}

static void
step_ended(struct spool_body *body, int32_t result, enum body_step step)
{
    switch (step) {
    case BODY_OPEN: opened(body, result); break;
    case BODY_WRITE: write_ended(body, result); break;
    case BODY_READ: read_ended(body, result); break;
    case BODY_SYNC_DIRECTORY:
        result = directory_synced(body->spool, body->sync_failures, result);
        __attribute__((fallthrough));
    case BODY_SYNC:
        if (result < 0)
            body_fail(body, "sync", result);
        else
            body->synced++;
        break;
    case BODY_UNLINK: unlinked(body, result); break;
    }
}

/* Not done, and nothing is wrong: the same again, later. A sync is another matter: what a failed
 * one left undone, a later one may not tell. */
static bool
again_later(struct spool_body *body, int32_t result, enum body_step step)
{
    bool sync = step == BODY_SYNC || step == BODY_SYNC_DIRECTORY;
    bool shortage = step == BODY_OPEN && io_error_is_shortage(result);

    if (sync || !(io_error_is_again(result) || shortage) || body->tries >= BODY_TRIES_MAX)
        return false;
    for (uint32_t i = 0; i < body->reading_count; i++)
        buffer_release(body->buffers, body->reading[i]);
    body->reading_count = 0;
    body->tries++;
    body->again_ns = body->spool->now_ns + BODY_AGAIN_NS;
    return true;
}

void
body_complete(struct spool *spool, struct spool_body *body, int32_t result, uint32_t step)
{
    ASSERT(body->running && body->spool == spool);
    body->running = false;
    ASSERT(spool->bodies->running > 0);
    spool->bodies->running--;
    if (!again_later(body, result, (enum body_step)step)) {
        body->tries = 0;
        body->again_ns = 0;
        step_ended(body, result, (enum body_step)step);
    }
    body_advance(body);
}

/* --- for owners --- */

static struct spool_body *
body_take(struct spool *spool, const char id[16], struct buffers *buffers, void *owner)
{
    struct spool_body *body = pool_take(&spool->bodies->pool);

    if (body == NULL)
        return NULL;
    *body = (struct spool_body){ .spool = spool,
                                 .buffers = buffers,
                                 .owner = owner,
                                 .file = -1,
                                 .pending = CHAIN_EMPTY,
                                 .written = CHAIN_EMPTY };
    memcpy(body->id, id, sizeof(body->id));
    spool_body_name(id, body->name);
    return body;
}

struct spool_body *
spool_body_create(struct spool *spool, const char id[16], struct buffers *buffers, void *owner)
{
    struct spool_body *body = spool->stopping ? NULL : body_take(spool, id, buffers, owner);

    if (body == NULL)
        return NULL;
    body->create = true;
    open_start(body);
    return body;
}

struct spool_body *
spool_body_open(struct spool *spool, const char id[16], struct buffers *buffers,
                uint64_t body_bytes, void *owner)
{
    struct spool_body *body = body_take(spool, id, buffers, owner);

    if (body == NULL)
        return NULL;
    body->body_bytes = body_bytes;
    open_start(body);
    return body;
}

void
spool_body_write(struct spool_body *file, struct chain *body)
{
    ASSERT(file->create && !file->closing && file->store == NULL);
    chain_move(file->buffers, &file->pending, body);
    if (file->error != 0) {
        give_back(file);
        body_tell(file);
    }
    body_advance(file);
}

uint64_t
spool_body_pending(const struct spool_body *file)
{
    return file->pending.bytes - file->skip;
}

struct chain *
spool_body_written(struct spool_body *file)
{
    return &file->written;
}

void
spool_body_read(struct spool_body *file, struct chain *body, uint64_t bytes_max)
{
    ASSERT(!file->create && !file->closing);
    file->into = body;
    file->into_max = bytes_max;
    body_advance(file);
}

uint64_t
spool_body_left(const struct spool_body *file)
{
    return file->body_bytes - file->offset;
}

int
spool_body_error(const struct spool_body *file)
{
    return file->error;
}

void
spool_body_close(struct spool_body *file, bool remove)
{
    ASSERT(!file->closing && file->store == NULL);
    file->closing = true;
    file->remove = remove;
    file->into = NULL;
    file->again_ns = 0;
    body_advance(file);
}

/* --- for the spool --- */

void
body_sync(struct spool *spool, struct spool_body *body, struct spool_store *store)
{
    ASSERT(body->spool == spool && body->create && !body->closing && body->store == NULL);
    body->store = store;
    due_add(body);
}

bool
body_event(struct spool *spool, struct spool_event *event)
{
    struct spool_bodies *bodies = spool->bodies;

    while (bodies->told != NULL) {
        struct spool_body *body = bodies->told;

        bodies->told = body->next_told;
        if (bodies->told == NULL)
            bodies->told_end = &bodies->told;
        body->on_told = false;
        if (body->closing) {
            body_advance(body); /* which may be its end */
            continue;
        }
        if (body->store != NULL)
            continue;
        *event = (struct spool_event){ .kind = SPOOL_BODY, .owner = body->owner };
        return true;
    }
    return false;
}

bool
bodies_create(struct spool *spool)
{
    struct spool_bodies *bodies = io_memory(sizeof(*bodies));

    if (bodies == NULL)
        return false;
    spool->bodies = bodies;
    bodies->due_end = &bodies->due;
    bodies->told_end = &bodies->told;
    return pool_init(&bodies->pool, sizeof(struct spool_body), SPOOL_BODIES_MAX);
}

void
bodies_destroy(struct spool *spool)
{
    if (spool->bodies == NULL)
        return;
    ASSERT(body_idle(spool));
    pool_destroy(&spool->bodies->pool);
    io_memory_free(spool->bodies, sizeof(*spool->bodies));
    spool->bodies = NULL;
}

bool
body_idle(const struct spool *spool)
{
    return spool->bodies->running == 0 && spool->bodies->due == NULL;
}
