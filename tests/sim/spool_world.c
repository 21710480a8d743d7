/* A life of the spool on the simulated machine: start, turns of its workers, rest, stop; and the
 * owner of messages, who asks for what the relay would ask. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "relay/spool/spool_private.h"
#include "tests/sim/spool_world.h"

/* A spool that has nothing to do for so long is at rest: it tries again each second. */
#define REST_NS (3 * NS_PER_S)
/* ... and comes to rest in this time without faults, or never will. */
#define REST_NS_MAX (300 * NS_PER_S)
#define SPINS_MAX 2000
#define PIECE_BYTES_MAX 24000u

void
world_fail(const struct world *world, const struct message *message, const char *format, ...)
{
    char text[512] = "";
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(stderr, "sim-spool: seed %llu, life %llu, step %llu, %.6f s: %s\n",
            (unsigned long long)world->seed, (unsigned long long)world->life,
            (unsigned long long)world->steps, (double)sim_now_ns() / 1e9, text);
    if (message != NULL) {
        message_describe(message, text, sizeof(text));
        fprintf(stderr, "sim-spool: %s\n", text);
    }
    abort();
}

uint64_t
world_read_faults(void)
{
    return sim_count(SIM_FAULT_READ) + sim_count(SIM_FAULT_READ_SHORT) +
           sim_count(SIM_FAULT_OPEN) + sim_count(SIM_FAULT_SHORTAGE);
}

void
world_faults(struct world *world, bool on)
{
    struct sim_faults faults = world->faults;

    world->faults_on = on;
    if (!world->recovered && !world->bad_reads)
        faults.read = faults.read_short = faults.open = 0;
    sim_faults_set(on ? &faults : NULL);
}

struct message *
world_message(const struct world *world, const char id[16])
{
    char *end;
    unsigned long index;

    if (id[0] != 'm')
        return NULL;
    index = strtoul(id + 1, &end, 16);
    return *end == '\0' && index < world->message_count ? world->messages[index] : NULL;
}

void
world_moment(struct world *world, enum moment moment)
{
    /* Cleanings are few. */
    if (world->moment == moment &&
        sim_chance(&world->random, moment == MOMENT_CLEANED ? 5000 : 1500))
        sim_power_fails_after(sim_below(&world->random, 16), &world->power);
}

/* --- start and end --- */

void
world_init(struct world *world, uint64_t seed)
{
    static char path[] = "spool";

    *world = (struct world){ .seed = seed, .random = sim_random_of(seed, 10) };
    world->sync_faults = sim_count(SIM_FAULT_SYNC);
    world->config.delivery.buffer = 100 * 1024;
    world->config.spool.directory = path;
    world->config.spool.segment = SPOOL_SEGMENT_BYTES_MAX;
}

void
world_end(struct world *world)
{
    for (uint32_t i = 0; i < world->message_count; i++)
        message_free(world->messages[i]);
    free(world->messages);
    world->messages = NULL;
    world->message_count = world->messages_max = 0;
}

bool
world_open(struct world *world, uint32_t workers)
{
    const struct io_options options = { .entries = 64,
                                        .completions = SPOOL_OPERATIONS_MAX,
                                        .buffer_count = WORLD_BUFFERS };
    char error[SPOOL_ERROR_BYTES], io_error[IO_ERROR_BYTES];

    world->life++;
    world->lives++;
    world->recovered = world->excused = world->stopping = false;
    world_faults(world, world->faults_on);
    world->read_faults = world_read_faults();
    audit_begin();
    world->worker_count = workers;
    if (!spool_directory_open(&world->directory, &world->config, workers, error)) {
        sim_process_ends();
        return false;
    }
    world->open = true;
    for (uint32_t i = 0; i < workers; i++) {
        struct worker *worker = &world->workers[i];

        *worker = (struct worker){ .clean_segment = UINT32_MAX };
        worker->io = io_create(&options, io_error);
        ASSERT(worker->io != NULL && pool_init(&worker->blocks, BLOCK_BYTES, 256));
        worker->spool = spool_create(&world->directory, &world->config, worker->io,
                                     &worker->counters, TICKET_KIND, i, workers);
        ASSERT(worker->spool != NULL);
    }
    return true;
}

void
world_abandon(struct world *world)
{
    if (world->directory.found != NULL) {
        found_free(world->directory.found);
        free(world->directory.found);
    }
    world->directory = (struct spool_directory){ 0 };
    world->open = false;
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        /* Its record was never asked for. */
        if (message->activity == ACTIVITY_FILLING)
            message->story = STORY_GONE;
        message->activity = ACTIVITY_NONE;
        message->live = message->moving = message->moved = message->forgotten = false;
        message->body = CHAIN_EMPTY;
        message->reserved = 0;
    }
}

/* --- storing --- */

static void
unreserve(struct world *world, struct message *message)
{
    if (message->reserved > 0)
        spool_unreserve(world->workers[message->worker].spool, message->reserved);
    message->reserved = 0;
}

static void
store_give(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];
    struct spool_store *store = &message->store;

    message->activity = ACTIVITY_STORING;
    store->envelope = &message->envelope;
    store->buffers = io_buffers(worker->io);
    store->body = message->file == NULL ? &message->body : NULL;
    store->body_file = message->file;
    store->owner = message;
    store->record = (struct record){ .arrival_ns = message->arrival_ns,
                                     .size = message->body_bytes,
                                     .flags = message->flags,
                                     .recipients = message->recipients,
                                     .body_bytes = message->body_bytes };
    memcpy(store->record.id, message->id, sizeof(store->record.id));
    spool_store(worker->spool, store);
}

static void
store_withdraw(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];

    chain_release(io_buffers(worker->io), &message->body);
    envelope_clear(&message->envelope);
    unreserve(world, message);
    message->activity = ACTIVITY_NONE;
}

/* More of a body file, or all was written and the store can be asked for. */
static void
fill(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];
    struct buffers *buffers = io_buffers(worker->io);
    uint64_t left = message->body_bytes - message->done;
    uint64_t piece = sim_between(&world->random, 1, PIECE_BYTES_MAX);

    chain_release(buffers, spool_body_written(message->file));
    if (spool_body_error(message->file) != 0 || (world->stopping && left > 0)) {
        spool_body_close(message->file, true);
        message->story = STORY_GONE;
        store_withdraw(world, message);
        return;
    }
    if (left == 0) {
        if (spool_body_pending(message->file) == 0)
            store_give(world, message);
        return;
    }
    piece = piece < left ? piece : left;
    if (spool_body_pending(message->file) > 2 * PIECE_BYTES_MAX ||
        buffers->free_count < piece / BUFFER_BYTES + 2)
        return;
    if (!message_body_add(message, buffers, &message->body, piece))
        ASSERT(!"there were enough buffers");
    spool_body_write(message->file, &message->body);
}

void
owner_store(struct world *world, struct worker *worker, bool large)
{
    struct message *message = message_new(world, large);
    struct buffers *buffers = io_buffers(worker->io);
    uint64_t bytes = message->body_bytes + 512 + message->recipients * 64;

    message->worker = (uint32_t)(worker - world->workers);
    message->story = STORY_GONE;
    message->given_life = world->life;
    if (!spool_reserve(worker->spool, bytes))
        return;
    message->reserved = bytes;
    message->file = NULL;
    if (buffers->free_count < message->body_bytes / BUFFER_BYTES + 2 ||
        !message_envelope_make(message, worker)) {
        unreserve(world, message);
        return;
    }
    if (!large) {
        if (!message_body_add(message, buffers, &message->body, message->body_bytes))
            ASSERT(!"there were enough buffers");
        message->story = STORY_GIVEN;
        store_give(world, message);
        return;
    }
    message->file = spool_body_create(worker->spool, message->id, buffers, message);
    if (message->file == NULL) {
        store_withdraw(world, message);
        return;
    }
    message->story = STORY_GIVEN;
    message->activity = ACTIVITY_FILLING;
    fill(world, message);
}

static void
stored(struct world *world, struct message *message)
{
    ASSERT(message->activity == ACTIVITY_STORING);
    store_withdraw(world, message);
    message->file = NULL;
    if (message->store.error == 0) {
        audit_stored(world, message);
        /* A first attempt that failed: most messages that stay have marks. */
        if (sim_chance(&world->random, 4000))
            owner_mark(world, message, 0, (struct mark){ .attempts = 1 });
    } else {
        message->story = STORY_FAILED;
    }
    world_moment(world, MOMENT_STORED);
}

/* --- reading back --- */

static bool
may_fail(const struct message *message)
{
    return message->spoiled || message->faults != world_read_faults();
}

void
owner_load(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];

    ASSERT(message->live && message->activity == ACTIVITY_NONE);
    message->activity = ACTIVITY_LOADING;
    message->faults = world_read_faults();
    message->done = 0;
    message->load = (struct spool_load){ .place = message->place,
                                         .buffers = io_buffers(worker->io),
                                         .owner = message };
    spool_load(worker->spool, &message->load);
    world->loads++;
}

static void
read_open(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];

    message->activity = ACTIVITY_NONE;
    message->file = spool_body_open(worker->spool, message->id, io_buffers(worker->io),
                                    message->body_bytes, message);
    if (message->file == NULL)
        return;
    message->activity = ACTIVITY_READING;
    spool_body_read(message->file, &message->body, sim_between(&world->random, 1, 40000));
}

static void
loaded(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];
    struct spool_load *load = &message->load;
    const char *wrong;

    ASSERT(message->activity == ACTIVITY_LOADING);
    message->activity = ACTIVITY_NONE;
    if (load->error != 0) {
        if (!may_fail(message) && !io_error_is_shortage(load->error))
            world_fail(world, message, "cannot be loaded: %s", io_error_text(load->error));
        message->audited = message->spoiled;
        return;
    }
    wrong = message_record_check(message, &load->record, &load->envelope);
    if (wrong != NULL)
        world_fail(world, message, "loaded with another %s", wrong);
    if ((message->flags & RECORD_BODY_FILE) != 0) {
        ASSERT(load->body.count == 0);
        read_open(world, message);
        return;
    }
    if (!message_body_check(message, io_buffers(worker->io), &load->body) ||
        message->done != message->body_bytes)
        world_fail(world, message, "loaded with another body, after %llu octets",
                   (unsigned long long)message->done);
    message->audited = true;
    chain_release(io_buffers(worker->io), &load->body);
}

static void
body_read(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];
    int error = spool_body_error(message->file);
    uint64_t done = message->done + message->body.bytes;

    if (!message_body_check(message, io_buffers(worker->io), &message->body) && !message->spoiled)
        world_fail(world, message, "another body in its file");
    message->done = done;
    chain_release(io_buffers(worker->io), &message->body);
    if (error != 0 && !may_fail(message))
        world_fail(world, message, "its body file cannot be read: %s", io_error_text(error));
    if (error != 0 || message->done >= message->body_bytes || world->stopping) {
        message->audited = message->audited || message->spoiled ||
                           message->done == message->body_bytes;
        message->activity = ACTIVITY_NONE;
        spool_body_close(message->file, false);
        message->file = NULL;
        return;
    }
    spool_body_read(message->file, &message->body, sim_between(&world->random, 1, 40000));
}

/* --- marks --- */

void
owner_mark(struct world *world, struct message *message, uint32_t recipient, struct mark mark)
{
    struct worker *worker = &world->workers[message->worker];

    ASSERT(message->live && !message->forgotten);
    message->marks[recipient] = mark;
    if (message->note_count == message->notes_max) {
        message->notes_max = message->notes_max == 0 ? 16 : message->notes_max * 2;
        message->notes = realloc(message->notes, message->notes_max * sizeof(message->notes[0]));
        ASSERT(message->notes != NULL);
    }
    message->notes[message->note_count++] =
        (struct mark_note){ .recipient = recipient, .mark = mark };
    spool_mark_set(worker->spool, &message->place, recipient, mark);
}

void
owner_forget(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];

    ASSERT(message->live && !message->forgotten && !message->moving);
    ASSERT(message->activity == ACTIVITY_NONE && message_finished(message));
    spool_forget(worker->spool, &message->place, message->id,
                 (message->flags & RECORD_BODY_FILE) != 0);
    message->forgotten = true;
    message->live = message->moved; /* until the clean is over */
    world->finished++;
    world_moment(world, MOMENT_FORGOTTEN);
}

/* --- turns --- */

static void
event_take(struct world *world, struct worker *worker, const struct spool_event *event)
{
    struct message *message;

    switch (event->kind) {
    case SPOOL_STORED: stored(world, event->owner); break;
    case SPOOL_LOADED: loaded(world, event->owner); break;
    case SPOOL_BODY:
        message = event->owner;
        if (message->activity == ACTIVITY_FILLING)
            fill(world, message);
        else if (message->activity == ACTIVITY_READING)
            body_read(world, message);
        break;
    case SPOOL_FOUND: audit_found(world, worker, event); break;
    case SPOOL_RECOVERED: worker->recovered = true; break;
    case SPOOL_CLEAN: owner_clean_begin(world, worker, event->segment); break;
    case SPOOL_MOVED: owner_moved(world, worker, event->move); break;
    }
}

static void
recovered_check(struct world *world)
{
    for (uint32_t i = 0; i < world->worker_count; i++)
        if (!world->workers[i].recovered)
            return;
    audit_recovered(world);
    world_faults(world, world->faults_on);
}

void
world_turn(struct world *world, struct worker *worker)
{
    struct io_completion completion;
    struct spool_event event;

    (void)io_wait(worker->io, 0);
    while (io_next(worker->io, &completion)) {
        spool_complete(worker->spool, &completion);
        world->active_ns = sim_now_ns();
    }
    while (spool_event(worker->spool, &event)) {
        event_take(world, worker, &event);
        world->active_ns = sim_now_ns();
    }
    if (!world->recovered && !world->stopping)
        recovered_check(world);
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (message->activity == ACTIVITY_FILLING && &world->workers[message->worker] == worker)
            fill(world, message);
    }
    owner_clean_step(world, worker);
    spool_turn(worker->spool, sim_now_ns(), clock_realtime_ns());
    audit_marks_wait(world, worker);
    (void)io_wait(worker->io, 0); /* what it has queued begins */
}

/* A worker that is woken at once, over and over, with nothing to do takes a whole core. */
static void
spins_check(struct world *world, bool at_once)
{
    bool busy = world->active_ns + NS_PER_MS > sim_now_ns();

    world->spins = at_once && !busy ? world->spins + 1 : 0;
    for (uint32_t i = 0; world->spins > SPINS_MAX && i < world->worker_count; i++) {
        const struct spool *spool = world->workers[i].spool;

        if (spool_wakes_ns(spool) <= sim_now_ns())
            world_fail(world, NULL,
                       "worker %u turns without a pause, and has nothing to do: segments %llu, "
                       "recovery %llu, bodies %llu, reclaim %llu, marks %llu, again %llu, "
                       "room %llu", i, (unsigned long long)segment_wakes_ns(spool),
                       (unsigned long long)recovery_wakes_ns(spool),
                       (unsigned long long)body_wakes_ns(spool),
                       (unsigned long long)clean_wakes_ns(spool),
                       (unsigned long long)(spool->dirty != NULL ? spool->marks_again_ns : NONE),
                       (unsigned long long)(spool->again != NULL ? spool->again_ns : NONE),
                       (unsigned long long)spool->directory->look_ns);
    }
}

void
world_pass(struct world *world, uint64_t most_ns)
{
    uint64_t now = sim_now_ns(), next = now + most_ns;

    if (sim_next_ns() < next)
        next = sim_next_ns();
    for (uint32_t i = 0; i < world->worker_count; i++) {
        uint64_t wakes = spool_wakes_ns(world->workers[i].spool);

        if (wakes < next)
            next = wakes;
    }
    spins_check(world, next <= now);
    sim_advance(next > now ? next : now + 1000);
    for (uint32_t i = 0; i < world->worker_count; i++)
        world_turn(world, &world->workers[i]);
}

static bool
may_rest(const struct world *world)
{
    return sim_next_ns() == UINT64_MAX && world->recovered &&
           sim_now_ns() - world->active_ns >= REST_NS;
}

void
world_settle(struct world *world)
{
    uint64_t begun = sim_now_ns();

    world_faults(world, false);
    world->active_ns = begun;
    for (uint32_t i = 0; i < world->worker_count; i++)
        world_turn(world, &world->workers[i]);
    while (!may_rest(world)) {
        if (sim_now_ns() - begun > REST_NS_MAX)
            world_fail(world, NULL, "does not come to rest");
        world_pass(world, NS_PER_S);
    }
    audit_settled(world);
}

/* --- stop --- */

static bool
all_idle(const struct world *world)
{
    for (uint32_t i = 0; i < world->worker_count; i++)
        if (!spool_idle(world->workers[i].spool))
            return false;
    return true;
}

bool
owner_busy(const struct world *world)
{
    for (uint32_t i = 0; i < world->message_count; i++)
        if (world->messages[i]->activity != ACTIVITY_NONE || world->messages[i]->moving)
            return true;
    return false;
}

static void
workers_destroy(struct world *world)
{
    for (uint32_t i = 0; i < world->worker_count; i++) {
        struct worker *worker = &world->workers[i];

        spool_destroy(worker->spool);
        pool_destroy(&worker->blocks);
        (void)io_wait(worker->io, 0);
        io_destroy(worker->io);
    }
    spool_directory_close(&world->directory, true);
    sim_process_ends();
}

void
world_stop(struct world *world)
{
    uint64_t begun = sim_now_ns();
    bool quiet = !world->faults_on;

    world->stopping = true;
    for (uint32_t i = 0; i < world->worker_count; i++)
        spool_stop(world->workers[i].spool);
    while (!all_idle(world) || owner_busy(world)) {
        if (sim_now_ns() - begun > REST_NS_MAX / 10 && world->faults_on)
            world_faults(world, false);
        if (sim_now_ns() - begun > REST_NS_MAX)
            world_fail(world, NULL, "does not stop");
        world_pass(world, NS_PER_S);
    }
    /* Else some may be unwritten: the disk did not take it. */
    if (quiet && world->recovered)
        audit_settled(world);
    workers_destroy(world);
    world_abandon(world);
}
