/* A thread of load: its turn, the arrivals of the open loop, when connections are opened. */
#include <stdlib.h>

#include "bench/tool/load_private.h"
#include "core/clock.h"

#define RING_ENTRIES 4096
#define RING_COMPLETIONS 65536
/* Connections being opened at a time: more would overflow the server's queue of new ones. */
#define OPENING_MAX 256
#define OPEN_PER_TURN 64
#define ARRIVALS_MAX (1u << 20)
#define BUFFERS_FOR_REPLIES 2048
#define BLOCKS_PER_CONNECTION 3
#define FLUSH_NS NS_PER_S
#define TURN_NS (100 * NS_PER_MS)

#define CONTAINER(type, member, pointer) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* --- lists --- */

void
load_list_add(struct load_connection **list, struct load_connection *connection)
{
    ASSERT(connection->previous == NULL);
    connection->next = *list;
    connection->previous = list;
    if (*list != NULL)
        (*list)->previous = &connection->next;
    *list = connection;
}

void
load_list_remove(struct load_connection *connection)
{
    if (connection->previous == NULL)
        return;
    if (connection->state == READY)
        connection->thread->result.counts.ready--;
    *connection->previous = connection->next;
    if (connection->next != NULL)
        connection->next->previous = connection->previous;
    connection->previous = NULL;
}

/* --- counting --- */

void
load_phase_add(struct load_thread *thread, enum load_phase phase, uint64_t begun_ns)
{
    if (thread->measuring && begun_ns >= thread->plan->measure_ns)
        histogram_add(&thread->result.phases[phase], thread->now_ns - begun_ns);
}

void
load_failed(struct load_thread *thread, enum load_failure failure)
{
    thread->result.counts.failures[failure]++;
}

/* "250 2.0.0 Ok: queued as 4Yx" and its like: the word behind " as ", or behind "id=". */
static struct span
queue_id_find(struct span text)
{
    static const struct span marks[] = { SPAN("queued as "), SPAN(" id="), SPAN(" id ") };

    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        const char *at =
            text.len > 0 ? memmem(text.data, text.len, marks[i].data, marks[i].len) : NULL;
        struct span word;
        size_t len = 0;

        if (at == NULL)
            continue;
        word = span_after(text, (size_t)(at - text.data) + marks[i].len);
        while (len < word.len && word.data[len] > ' ' && word.data[len] != ';')
            len++;
        return span_first(word, len);
    }
    return SPAN("");
}

void
load_thread_answered(struct load_thread *thread, struct load_message *message, unsigned code,
                     struct span text)
{
    struct load_counts *counts = &thread->result.counts;
    uint64_t size = thread->plan->head_bytes + message->bytes;
    struct ledger_record record = {
        .id = { .run = thread->plan->run,
                .thread = (uint16_t)thread->index,
                .number = message->number },
        .code = (uint16_t)code,
        .recipients = message->accepted,
        .size = size,
        .digest = message->digest,
        .time_us = (thread->now_ns + thread->realtime_offset_ns) / 1000,
    };

    thread->result.ended_ns = thread->now_ns;
    if (code / 100 == 2) {
        counts->acknowledged++;
        counts->bytes += size;
        if (thread->measuring && thread->now_ns <= thread->plan->stop_ns) {
            counts->measured++;
            counts->measured_bytes += size;
        }
        load_phase_add(thread, PHASE_MESSAGE, message->due_ns);
    } else if (code != 0) {
        counts->refused++;
    } else {
        counts->ambiguous++;
    }
    if (thread->ledger.file < 0)
        return;
    record.queue_id = queue_id_find(text);
    ledger_add(&thread->ledger, &record);
}

/* --- which message next --- */

bool
load_thread_has_work(const struct load_thread *thread)
{
    const struct load_plan *plan = thread->plan;

    /* What has arrived is served within the drain time: who waited longest counts too. */
    if (plan->rate > 0)
        return !thread->at_once && thread->arrival_count > 0;
    if (thread->stopping)
        return false;
    return plan->messages == UINT64_MAX ||
           __atomic_load_n(&plan->messages_left, __ATOMIC_RELAXED) > 0;
}

bool
load_thread_next(struct load_thread *thread, uint64_t *due_ns)
{
    struct load_plan *plan = thread->plan;

    if (!load_thread_has_work(thread))
        return false;
    if (plan->rate > 0) {
        *due_ns = thread->arrivals[thread->arrival_first];
        thread->arrival_first = (thread->arrival_first + 1) % ARRIVALS_MAX;
        thread->arrival_count--;
        return true;
    }
    if (plan->messages != UINT64_MAX &&
        __atomic_fetch_sub(&plan->messages_left, 1, __ATOMIC_RELAXED) <= 0)
        return false;
    *due_ns = thread->now_ns;
    return true;
}

/* Time goes on whether or not anybody is free: what is due is queued with its time. */
static void
arrivals_make(struct load_thread *thread)
{
    struct load_plan *plan = thread->plan;
    double interval_ns = 1e9 * plan->threads / plan->rate;

    while (!thread->stopping && thread->arrival_next_ns <= (double)thread->now_ns) {
        uint64_t at_ns = (uint64_t)thread->arrival_next_ns;

        if (plan->messages != UINT64_MAX &&
            __atomic_fetch_sub(&plan->messages_left, 1, __ATOMIC_RELAXED) <= 0) {
            thread->arrival_next_ns = 1e30;
            return;
        }
        thread->arrival_next_ns +=
            plan->poisson ? random_exponential(&thread->random, interval_ns) : interval_ns;
        thread->result.counts.arrivals++;
        if (thread->arrival_count == ARRIVALS_MAX) {
            thread->result.counts.dropped++;
            continue;
        }
        thread->arrivals[(thread->arrival_first + thread->arrival_count++) % ARRIVALS_MAX] = at_ns;
    }
}

/* --- when connections are opened --- */

/* Octets, connections: a budget of so many a second, and at most a hundredth of a second's. */
static bool
open_budget_take(struct load_thread *thread)
{
    double rate = thread->plan->open_rate / thread->plan->threads;

    if (rate <= 0)
        return true;
    thread->open_budget += (double)(thread->now_ns - thread->open_budget_ns) * rate / 1e9;
    thread->open_budget_ns = thread->now_ns;
    if (thread->open_budget > rate / 100 + 1)
        thread->open_budget = rate / 100 + 1;
    if (thread->open_budget < 1)
        return false;
    thread->open_budget -= 1;
    return true;
}

/* A connection that is to hold still is opened before it has a message. */
static bool
connection_wanted(struct load_thread *thread, uint64_t *due_ns)
{
    *due_ns = 0;
    if (thread->now_ns < thread->open_pause_ns)
        return false;
    if (thread->plan->idle.count > 0)
        return (thread->plan->rate > 0 && !thread->stopping) || load_thread_has_work(thread);
    return thread->opening < OPENING_MAX && load_thread_has_work(thread);
}

static void
connections_open(struct load_thread *thread)
{
    uint64_t due_ns;

    for (unsigned i = 0; i < OPEN_PER_TURN && thread->closed != NULL; i++) {
        if (thread->opening >= OPENING_MAX || !connection_wanted(thread, &due_ns) ||
            !open_budget_take(thread))
            return;
        if (thread->plan->idle.count == 0 && !load_thread_next(thread, &due_ns))
            return;
        if (!load_connection_open(thread->closed, due_ns)) {
            thread->result.counts.broken += due_ns != 0;
            return;
        }
    }
}

/* Open loop: what is due goes to connections that are free. */
static void
arrivals_give(struct load_thread *thread)
{
    while (thread->arrival_count > 0 && thread->ready != NULL) {
        struct load_connection *connection = thread->ready;

        load_connection_advance(connection);
        if (thread->ready == connection)
            return; /* it cannot be */
    }
}

/* --- the turn --- */

static void
stop(struct load_thread *thread, bool at_once)
{
    thread->stopping = true;
    thread->at_once = at_once;
    for (uint32_t i = 0; i < thread->connection_count; i++)
        load_connection_stop(&thread->connections[i]);
}

static void
clock_look(struct load_thread *thread)
{
    struct load_plan *plan = thread->plan;
    int wish = __atomic_load_n(&thread->stop_wish, __ATOMIC_RELAXED);

    if (!thread->measuring && !thread->measured && thread->now_ns >= plan->measure_ns) {
        thread->measuring = true;
        thread->cpu_begin_ns = clock_thread_cpu_ns();
    }
    if (!thread->stopping && (thread->now_ns >= plan->stop_ns || wish > 0)) {
        thread->result.cpu_ns = clock_thread_cpu_ns() - thread->cpu_begin_ns;
        thread->measured = true;
        stop(thread, wish > 1);
    }
    if (thread->stopping && !thread->at_once &&
        (wish > 1 ||
         (plan->stop_ns != UINT64_MAX && thread->now_ns >= plan->stop_ns + plan->drain_ns)))
        stop(thread, true);
    if (thread->now_ns - thread->flushed_ns >= FLUSH_NS) {
        ledger_flush(&thread->ledger);
        thread->flushed_ns = thread->now_ns;
    }
}

static uint64_t
wait_time(const struct load_thread *thread)
{
    const struct load_plan *plan = thread->plan;
    uint64_t wait_ns = timers_wait_ns(&thread->timers, thread->now_ns), until;

    if (thread->links.handshakes != NULL)
        return 0;
    if (wait_ns > TURN_NS)
        wait_ns = TURN_NS;
    if (!thread->stopping && plan->stop_ns > thread->now_ns &&
        plan->stop_ns - thread->now_ns < wait_ns)
        wait_ns = plan->stop_ns - thread->now_ns;
    if (thread->closed != NULL && load_thread_has_work(thread)) {
        until = thread->open_pause_ns > thread->now_ns ? thread->open_pause_ns - thread->now_ns
                                                       : (plan->open_rate > 0 ? NS_PER_MS : 0);
        if (thread->opening < OPENING_MAX && until < wait_ns)
            wait_ns = until;
    }
    if (plan->rate > 0 && !thread->stopping &&
        thread->arrival_next_ns < (double)(thread->now_ns + wait_ns))
        wait_ns = thread->arrival_next_ns <= (double)thread->now_ns
                      ? 0
                      : (uint64_t)thread->arrival_next_ns - thread->now_ns;
    return wait_ns;
}

static void
link_progress(void *context, struct link *link)
{
    static const struct io_completion nothing = { .op = IO_NONE, .buffer = BUFFER_NONE };

    (void)context;
    load_connection_complete(CONTAINER(struct load_connection, link, link), &nothing);
}

static void
turn(struct load_thread *thread)
{
    struct io_completion completion;
    struct timer *timer;

    io_wait(thread->io, wait_time(thread));
    thread->now_ns = clock_now_ns();
    clock_look(thread);
    thread->links.handshakes_left = UINT32_MAX;
    link_handshakes_continue(&thread->links, link_progress, thread);
    while (io_next(thread->io, &completion)) {
        ASSERT(completion.ticket.slot < thread->connection_count);
        load_connection_complete(&thread->connections[completion.ticket.slot], &completion);
    }
    while ((timer = timers_next_due(&thread->timers, thread->now_ns)) != NULL)
        load_connection_timer(CONTAINER(struct load_connection, timer, timer));
    if (thread->plan->rate > 0) {
        arrivals_make(thread);
        arrivals_give(thread);
    }
    connections_open(thread);
    link_starved_continue(&thread->links);
    thread->result.counts.waiting = thread->arrival_count;
}

/* All messages were given away and answered. */
static bool
done(const struct load_thread *thread)
{
    if (thread->result.counts.open > 0)
        return false;
    if (thread->stopping)
        return !load_thread_has_work(thread);
    if (thread->plan->messages == UINT64_MAX || load_thread_has_work(thread))
        return false;
    return __atomic_load_n(&thread->plan->messages_left, __ATOMIC_RELAXED) <= 0;
}

/* The open loop with a number of messages: when the last one is answered, nothing wakes idle
 * connections. */
static void
end_look(struct load_thread *thread)
{
    if (thread->stopping || thread->plan->rate == 0 || thread->arrival_count > 0 ||
        thread->arrival_next_ns < 1e29 || thread->result.counts.open != thread->result.counts.ready)
        return;
    thread->result.cpu_ns = clock_thread_cpu_ns() - thread->cpu_begin_ns;
    thread->measured = true;
    stop(thread, false);
}

/* --- its life --- */

static bool
memory_take(struct load_thread *thread)
{
    const struct load_plan *plan = thread->plan;
    uint32_t count = plan->connections / plan->threads +
                     (thread->index < plan->connections % plan->threads ? 1 : 0);

    thread->connection_count = count;
    thread->connections_bytes = count * sizeof(struct load_connection);
    thread->connections = io_memory(thread->connections_bytes);
    if (plan->rate > 0)
        thread->arrivals = io_memory(ARRIVALS_MAX * sizeof(*thread->arrivals));
    if (thread->connections == NULL || (plan->rate > 0 && thread->arrivals == NULL) ||
        !pool_init(&thread->blocks, BLOCK_BYTES, count * BLOCKS_PER_CONNECTION) ||
        !pool_init(&thread->bodies, sizeof(struct link_body), count) ||
        !ledger_buffer_init(&thread->ledger, plan->ledger_file))
        return false;
    for (uint32_t i = count; i-- > 0;) {
        thread->connections[i].thread = thread;
        load_list_add(&thread->closed, &thread->connections[i]);
    }
    return true;
}

static void
shifts_make(struct load_thread *thread)
{
    const struct load_plan *plan = thread->plan;

    if (plan->ledger_file < 0)
        return;
    for (uint32_t i = 0; i < plan->size.count; i++) {
        const struct distribution_part *part = &plan->size.parts[i];
        uint64_t bytes = part->least > plan->head_bytes + 2 ? part->least - plan->head_bytes : 2;

        if (part->shape == SHAPE_UNIFORM && part->least == part->most)
            digest_shift_make(&thread->shifts[thread->shift_count++], &plan->pattern,
                              pattern_fit(&plan->pattern, bytes));
    }
}

struct load_thread *
load_thread_create(struct load_plan *plan, unsigned index)
{
    struct load_thread *thread = calloc(1, sizeof(*thread));

    if (thread == NULL)
        return NULL;
    thread->plan = plan;
    thread->index = index;
    thread->random = plan->seed + index * UINT64_C(0x632BE59BD9B4E019);
    shifts_make(thread);
    return thread;
}

/* The ring belongs to the thread that makes it. */
bool
load_thread_prepare(struct load_thread *thread)
{
    struct load_plan *plan = thread->plan;
    struct io_options options = {
        .entries = RING_ENTRIES,
        .completions = RING_COMPLETIONS,
        .buffer_count = body_store_buffers(&plan->pattern) + BUFFERS_FOR_REPLIES,
        .buffer_reserve = BUFFERS_RESERVED,
    };

    if (!memory_take(thread)) {
        memcpy(thread->result.error, "out of memory", sizeof("out of memory"));
        return false;
    }
    thread->io = io_create(&options, thread->result.error);
    if (thread->io == NULL)
        return false;
    if (!body_store_fill(&thread->store, &plan->pattern, plan->bdat, io_buffers(thread->io))) {
        memcpy(thread->result.error, "out of memory", sizeof("out of memory"));
        return false;
    }
    return true;
}

static void
start(struct load_thread *thread)
{
    const struct load_plan *plan = thread->plan;

    thread->now_ns = clock_now_ns();
    thread->realtime_offset_ns = clock_realtime_ns() - thread->now_ns;
    thread->open_budget_ns = thread->flushed_ns = thread->now_ns;
    /* Threads take turns, so that two do not make pairs of arrivals. */
    if (plan->rate > 0)
        thread->arrival_next_ns =
            (double)plan->begin_ns + 1e9 / plan->rate * (double)(thread->index + 1);
    timers_init(&thread->timers, thread->now_ns);
    link_shared_init(&thread->links, thread->io, &thread->blocks);
}

void
load_thread_run(struct load_thread *thread)
{
    start(thread);
    while (!done(thread)) {
        turn(thread);
        end_look(thread);
    }
    if (!thread->measured)
        thread->result.cpu_ns = clock_thread_cpu_ns() - thread->cpu_begin_ns;
    ledger_buffer_end(&thread->ledger);
    thread->result.ledger_error = thread->ledger.error;
}

void
load_thread_free(struct load_thread *thread)
{
    if (thread == NULL)
        return;
    if (thread->io != NULL)
        body_store_free(&thread->store, io_buffers(thread->io));
    io_destroy(thread->io);
    pool_destroy(&thread->blocks);
    pool_destroy(&thread->bodies);
    for (uint32_t i = 0; thread->connections != NULL && i < thread->connection_count; i++)
        tls_session_free(thread->connections[i].session);
    if (thread->connections != NULL)
        io_memory_free(thread->connections, thread->connections_bytes);
    if (thread->arrivals != NULL)
        io_memory_free(thread->arrivals, ARRIVALS_MAX * sizeof(*thread->arrivals));
    free(thread);
}

const struct load_result *
load_thread_result(const struct load_thread *thread)
{
    return &thread->result;
}

void
load_thread_stop(struct load_thread *thread, bool at_once)
{
    __atomic_store_n(&thread->stop_wish, at_once ? 2 : 1, __ATOMIC_RELAXED);
}
