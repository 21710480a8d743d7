/* The worker's turn: wait, completions, timers, handshakes, sessions that can go on; accepting and
 * spreading; draining. */
#include "relay/worker.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/queue/control_server.h"
#include "relay/session.h"

/* Timers handled in one turn, so that completions are not kept waiting behind a burst of them. */
#define TIMERS_PER_TURN 1024
/* Submissions that fit one turn without an extra system call. */
#define RING_ENTRIES 4096
#define RING_COMPLETIONS_MAX 65536
/* Between the 421 to everybody and the end. */
#define DRAIN_LAST_WORD_NS (250 * NS_PER_MS)
#define CPU_COUNT_INTERVAL_NS NS_PER_S

int
worker_listen(struct worker *worker, struct relay *relay, uint32_t index,
              const struct config_address **which)
{
    memset(worker, 0, sizeof(*worker));
    worker->relay = relay;
    worker->config = relay->config;
    worker->index = index;
    worker->acceptors = io_memory(relay->listener_count * sizeof(struct acceptor));
    worker->hop_counters = io_memory(relay->config->next_hop_count * sizeof(struct hop_counters));
    worker->hops = io_memory(relay->config->next_hop_count * sizeof(struct hop));
    ASSERT(worker->acceptors != NULL);
    ASSERT(worker->hop_counters != NULL && worker->hops != NULL);
    for (uint32_t i = 0; i < relay->listener_count; i++)
        worker->acceptors[i].listener = -1;
    for (uint32_t i = 0; i < relay->listener_count; i++) {
        int listener = io_listen(relay->listeners[i].address, relay->worker_count > 1);

        if (listener < 0) {
            *which = relay->listeners[i].address;
            return listener;
        }
        worker->acceptors[i].listener = listener;
    }
    return 0;
}

static uint32_t
power_of_two(uint64_t at_least, uint32_t most)
{
    uint32_t n = 1;

    while (n < at_least && n < most)
        n *= 2;
    return n;
}

static bool
pools_init(struct worker *worker)
{
    const struct config *config = worker->config;
    uint32_t sessions = config->limits.connections, connections = 0, blocks, transactions;

    for (size_t i = 0; i < config->next_hop_count; i++)
        connections += config->next_hops[i].connections;
    /* A session: one block being filled, one being sent, one carried line. A transaction: its
     * envelope, and one more for every 60 recipients, of which all together get as much again. A
     * connection: filled, sent, carried. */
    blocks = sessions * 3 + sessions * 2 + connections * 3;
    /* One per session; those whose client has its answer from the spool while a next hop still
     * thinks; those that come from the spool, and a report about each. */
    transactions = sessions;
    if (config_stores(&config->delivery)) {
        transactions += connections + 2 * COURIER_TRANSACTIONS_MAX;
        /* Origin, envelope, notes of what comes from the spool. */
        blocks += sessions + connections * 2 + COURIER_TRANSACTIONS_MAX * 6;
    }
    return pool_init(&worker->sessions, sizeof(struct session), sessions) &&
           pool_init(&worker->transactions, sizeof(struct transaction), transactions) &&
           pool_init(&worker->connections, sizeof(struct connection), connections) &&
           pool_init(&worker->blocks, BLOCK_BYTES, blocks);
}

bool
worker_start(struct worker *worker, char error[IO_ERROR_BYTES])
{
    const struct config *config = worker->config;
    uint64_t buffers = config->limits.receive_memory / BUFFER_BYTES;
    struct io_options options = {
        .entries = RING_ENTRIES,
        /* A session has up to three operations in flight, a next-hop connection too; the spool has
         * a bound of its own. */
        .completions = power_of_two(RING_ENTRIES + SPOOL_OPERATIONS_MAX +
                                        4ull * config->limits.connections,
                                    RING_COMPLETIONS_MAX),
        .buffer_count = (uint32_t)(buffers < UINT16_MAX ? buffers : UINT16_MAX),
        .buffer_reserve = BUFFERS_RESERVED,
        /* What clients send before they can be stopped comes out of these: few where there are
         * few. */
        .buffers_offered = power_of_two(buffers / 16 - 8, BUFFERS_OFFERED),
        .buffers_least = BUFFERS_LEAST,
        .buffers_sure = buffers / 64 >= BUFFERS_SURE_MOST ? BUFFERS_SURE_MOST : BUFFERS_SURE,
    };

    worker->io = io_create(&options, error);
    if (worker->io == NULL)
        return false;
    if (!pools_init(worker)) {
        memcpy(error, "no memory for the pools; lower limits.connections", 50);
        return false;
    }
    worker->memory.offered = options.buffers_offered;
    worker->now_ns = clock_now_ns();
    worker->realtime_ns = clock_realtime_ns();
    worker->next_id = worker->realtime_ns;
    link_shared_init(&worker->links, worker->io, &worker->blocks);
    timers_init(&worker->timers, worker->now_ns);
    worker->ready_tail = &worker->ready;
    for (uint32_t i = 0; i < worker->relay->listener_count; i++)
        acceptor_init(&worker->acceptors[i], worker->io, &worker->timers,
                      (struct io_ticket){ .slot = i, .kind = WORKER_LISTENER },
                      worker->acceptors[i].listener);
    worker->drain_timer.kind = WORKER_DRAIN;
    worker->shortage.timer.kind = WORKER_SHORTAGE;
    worker->tls = __atomic_load_n(&worker->relay->tls, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < config->next_hop_count; i++)
        hop_init(&worker->hops[i], worker, i);
    if (config_stores(&config->delivery)) {
        worker->courier = courier_create(worker);
        if (worker->courier == NULL) {
            memcpy(error, "no memory for the spool and its queue; lower spool.messages", 60);
            return false;
        }
    }
    return true;
}

struct io_ticket
worker_ticket(const struct pool *pool, const void *object, enum worker_kind kind)
{
    uint32_t slot = pool_index(pool, object);

    return (struct io_ticket){ .slot = slot,
                               .generation = pool_generation(pool, slot),
                               .kind = (uint8_t)kind };
}

void
worker_queue_id(struct worker *worker, char id[16])
{
    static const char digits[] = "0123456789BCDFGHJKLMNPQRSTVWXYZb"; /* no vowels: no words */
    uint64_t stamp = worker->realtime_ns;
    uint64_t value;

    /* 0.26 ms steps since 1970, one more if this worker has used that step: 13 digits for time and
     * worker. */
    if (stamp >> 18 <= worker->next_id >> 18)
        stamp = worker->next_id + (1 << 18);
    worker->next_id = stamp;
    value = stamp >> 18 << 8 | (worker->index & 0xff);
    for (int i = 12; i >= 0; i--) {
        id[i] = digits[value & 31];
        value >>= 5;
    }
    id[13] = '\0';
}

void
worker_ready(struct worker *worker, struct session *session)
{
    if (session->on_ready)
        return;
    session->on_ready = true;
    session->next_ready = NULL;
    *worker->ready_tail = session;
    worker->ready_tail = &session->next_ready;
}

/* --- accepting --- */

static uint32_t
load_of(const struct worker *worker)
{
    return __atomic_load_n(&worker->load, __ATOMIC_RELAXED);
}

/* SO_REUSEPORT spreads only statistically: 50 connections may come 33 to 17. Whoever accepted
 * passes a connection on when another worker has clearly fewer; with many connections that is rare.
 */
static struct worker *
spread_choose(struct worker *worker)
{
    struct relay *relay = worker->relay;
    struct worker *best = worker;
    uint32_t mine = load_of(worker), least = mine;

    for (uint32_t i = 0; i < relay->worker_count; i++) {
        uint32_t load = load_of(&relay->workers[i]);

        if (load < least && __atomic_load_n(&relay->workers[i].started, __ATOMIC_ACQUIRE)) {
            least = load;
            best = &relay->workers[i];
        }
    }
    return mine - least >= 2 + least / 8 ? best : worker;
}

/* Draining: closed at once, so that new clients are refused by the kernel and go elsewhere. */
static void
listener_close(struct acceptor *acceptor)
{
    if (acceptor->armed || acceptor->listener < 0)
        return;
    io_close_now(acceptor->listener);
    acceptor->listener = -1;
}

static void
on_accept(struct worker *worker, const struct io_completion *completion)
{
    struct acceptor *acceptor = &worker->acceptors[completion->ticket.slot];

    if (completion->result >= 0) {
        struct worker *target = spread_choose(worker);

        __atomic_add_fetch(&target->load, 1, __ATOMIC_RELAXED);
        if (target == worker) {
            session_accept(worker, completion->ticket.slot, completion->result);
        } else {
            counter_increment(&worker->counters.connections_handed_over);
            io_post(worker->io, target->io,
                    (struct io_ticket){ .slot = completion->ticket.slot, .kind = WORKER_HAND_OVER },
                    completion->result);
        }
    }
    if (!acceptor_continue(acceptor, completion, worker->now_ns)) {
        struct log_line line;

        counter_increment(&worker->counters.accept_errors);
        log_begin(&line, LOG_LEVEL_ERROR, "accept_paused");
        log_text(&line, "reason", span_text(io_error_text(completion->result)));
        log_end(&line);
    }
    if (worker->draining)
        listener_close(acceptor);
}

/* --- draining --- */

static void
sessions_drain(struct worker *worker, bool now)
{
    for (uint32_t i = 0; i < worker->sessions.touched; i++)
        if (pool_in_use(&worker->sessions, i))
            session_drain(pool_at(&worker->sessions, i), now);
}

/* The time for draining is over: everybody hears 421, and has a moment to read it. */
static void
drain_end(struct worker *worker)
{
    if (worker->drain_ending) {
        worker->drain_forced = true;
        return;
    }
    worker->drain_ending = true;
    sessions_drain(worker, true);
    timer_set(&worker->timers, &worker->drain_timer, worker->now_ns + DRAIN_LAST_WORD_NS);
}

static void
drain_begin(struct worker *worker)
{
    if (worker->draining)
        return;
    worker->draining = true;
    for (uint32_t i = 0; i < worker->relay->listener_count; i++) {
        acceptor_stop(&worker->acceptors[i]);
        listener_close(&worker->acceptors[i]); /* paused: no completion would do it */
    }
    sessions_drain(worker, false);
    if (worker->courier != NULL)
        courier_stop(worker->courier);
    for (uint32_t i = 0; i < worker->config->next_hop_count; i++)
        hop_close_idle(&worker->hops[i]);
    timer_set(&worker->timers, &worker->drain_timer,
              worker->now_ns + worker->config->timeouts.drain_ms * NS_PER_MS);
}

static bool
drained(const struct worker *worker)
{
    if (!worker->draining)
        return false;
    /* A listener that is still accepting would outlive the process for a moment, inside the ring's
     * deferred end, and a restart would find its address in use. */
    for (uint32_t i = 0; i < worker->relay->listener_count; i++)
        if (worker->acceptors[i].armed && !worker->drain_forced)
            return false;
    if (worker->drain_forced)
        return true;
    if (worker->courier != NULL && !worker->stopped_clean)
        return false;
    /* When the time is over, what a next hop still thinks about is in the spool, or was only the
     * client's. */
    return worker->sessions.used == 0 && (worker->drain_ending || (worker->transactions.used == 0 &&
                                                                   worker->connections.used == 0));
}

/* --- dispatch --- */

static void
on_message(struct worker *worker, const struct io_completion *completion)
{
    switch ((enum worker_kind)completion->ticket.kind) {
    case WORKER_HAND_OVER:
        if (worker->draining) {
            io_close(worker->io, completion->result);
            __atomic_sub_fetch(&worker->load, 1, __ATOMIC_RELAXED);
            counter_increment(&worker->counters.connections_refused_draining);
        } else {
            session_accept(worker, completion->ticket.slot, completion->result);
        }
        break;
    case WORKER_DRAIN: drain_begin(worker); break;
    case WORKER_RELOAD:
        __atomic_store_n(&worker->tls, __atomic_load_n(&worker->relay->tls, __ATOMIC_ACQUIRE),
                         __ATOMIC_RELEASE);
        break;
    case WORKER_QUEUE:
        control_receive(worker->courier, control_mailbox(__atomic_load_n(&worker->relay->control,
                                                                         __ATOMIC_ACQUIRE),
                                                         completion->ticket.slot));
        break;
    case WORKER_LISTENER:
    case WORKER_SESSION:
    case WORKER_CONNECTION:
    case WORKER_SPOOL:
    case WORKER_SHORTAGE:
    case WORKER_TRANSACTION: ASSERT(!"nobody posts this");
    }
}

/* The object of a completion. A wrong generation means that a slot was given back with an operation
 * in flight: our bug. */
static void *
object_of(const struct pool *pool, struct io_ticket ticket)
{
#ifndef CANARY_OLD_GENERATION
    ASSERT(pool_in_use(pool, ticket.slot));
    ASSERT(pool_generation(pool, ticket.slot) == ticket.generation);
#endif
    return pool_at(pool, ticket.slot);
}

static void
dispatch(struct worker *worker, const struct io_completion *completion)
{
    if (completion->op == IO_MESSAGE) {
        on_message(worker, completion);
        return;
    }
    switch ((enum worker_kind)completion->ticket.kind) {
    case WORKER_SESSION:
        session_complete(object_of(&worker->sessions, completion->ticket), completion);
        break;
    case WORKER_CONNECTION:
        connection_complete(object_of(&worker->connections, completion->ticket), completion);
        break;
    case WORKER_LISTENER:
        if (completion->op == IO_ACCEPT)
            on_accept(worker, completion);
        break;
    case WORKER_SPOOL: spool_complete(worker->courier->spool, completion); break;
    case WORKER_TRANSACTION:
    case WORKER_SHORTAGE:
    case WORKER_HAND_OVER:
    case WORKER_DRAIN:
    case WORKER_QUEUE:
    case WORKER_RELOAD: ASSERT(!"no operation has this kind");
    }
}

#define CONTAINER(type, member, pointer) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static void
timer_fired(struct worker *worker, struct timer *timer)
{
    counter_increment(&worker->counters.timers_fired);
    switch ((enum worker_kind)timer->kind) {
    case WORKER_SESSION: session_timer(CONTAINER(struct session, timer, timer)); break;
    case WORKER_CONNECTION: connection_timer(CONTAINER(struct connection, timer, timer)); break;
    case WORKER_TRANSACTION: transaction_timer(CONTAINER(struct transaction, timer, timer)); break;
    case WORKER_LISTENER: acceptor_arm(CONTAINER(struct acceptor, pause, timer)); break;
    case WORKER_SHORTAGE: shortage_timer(worker); break;
    case WORKER_DRAIN: drain_end(worker); break;
    case WORKER_HAND_OVER:
    case WORKER_SPOOL:
    case WORKER_QUEUE:
    case WORKER_RELOAD: ASSERT(!"no timer has this kind");
    }
}

static void
handshake_progress(void *context, struct link *link)
{
    static const struct io_completion nothing = { .op = IO_NONE, .buffer = BUFFER_NONE };

    (void)context;
    if (link->ticket.kind == WORKER_SESSION)
        session_complete(CONTAINER(struct session, link, link), &nothing);
    else
        connection_complete(CONTAINER(struct connection, link, link), &nothing);
}

static void
ready_run(struct worker *worker)
{
    while (worker->ready != NULL) {
        struct session *session = worker->ready;

        worker->ready = session->next_ready;
        if (worker->ready == NULL)
            worker->ready_tail = &worker->ready;
        session->on_ready = false;
        session_ready(session);
    }
}

static void
count_turn(struct worker *worker)
{
    struct counters *counters = &worker->counters;
    struct io_counts counts = io_counts(worker->io);

    counter_increment(&counters->loop_turns);
    counter_set(&counters->loop_enters, counts.enters);
    counter_set(&counters->loop_submissions, counts.submissions);
    counter_set(&counters->loop_completions, counts.completions);
    counter_set(&counters->loop_overflows, counts.overflows);
    counter_set(&counters->buffers_in_use,
                worker->links.buffers->count - counts.buffers_free - counts.buffers_offered);
    counter_raise(&counters->buffers_high_water, counter_get(&counters->buffers_in_use));
    counter_set(&counters->sessions_high_water, worker->sessions.used_most);
    counter_set(&counters->transactions_high_water, worker->transactions.used_most);
    counter_set(&counters->connections_high_water, worker->connections.used_most);
    counter_set(&counters->blocks_high_water, worker->blocks.used_most);
    counter_set(&counters->timers_armed, worker->timers.count);
    if (worker->now_ns >= worker->cpu_counted_ns + CPU_COUNT_INTERVAL_NS) {
        worker->cpu_counted_ns = worker->now_ns;
        counter_set(&counters->cpu_ns, clock_thread_cpu_ns());
    }
}

static uint64_t
wait_ns(const struct worker *worker)
{
    uint64_t wait, wakes;

    if (worker->ready != NULL || worker->links.handshakes != NULL || worker->timers.due != NULL)
        return 0;
    wait = timers_wait_ns(&worker->timers, worker->now_ns);
    if (worker->courier == NULL)
        return wait;
    wakes = courier_wakes_ns(worker->courier);
    if (wakes == UINT64_MAX)
        return wait;
    wakes = wakes > worker->now_ns ? wakes - worker->now_ns : 0;
    return wakes < wait ? wakes : wait;
}

static void
turn(struct worker *worker)
{
    struct io_completion completion;
    struct timer *timer;

    io_wait(worker->io, wait_ns(worker));
    worker->now_ns = clock_now_ns();
    worker->realtime_ns = clock_realtime_ns();
    log_set_time(worker->realtime_ns);
    worker->links.handshakes_left = worker->config->limits.tls_handshakes;
    link_handshakes_continue(&worker->links, handshake_progress, worker);
    while (io_next(worker->io, &completion))
        dispatch(worker, &completion);
    for (int i = 0; i < TIMERS_PER_TURN; i++) {
        timer = timers_next_due(&worker->timers, worker->now_ns);
        if (timer == NULL)
            break;
        timer_fired(worker, timer);
    }
    if (worker->courier != NULL)
        courier_events(worker->courier);
    memory_look(worker);
    ready_run(worker);
    if (worker->courier != NULL) {
        /* Behind the sessions: what they have stored in this turn goes out as one group. */
        courier_turn(worker->courier);
        ready_run(worker);
    }
    link_starved_continue(&worker->links);
    count_turn(worker);
}

/* No mail is left: those that wait for it end, and those that are being opened (probes of dead
 * servers may take minutes to fail). */
static void
connections_end(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->config->next_hop_count; i++)
        hop_close_idle(&worker->hops[i]);
    for (uint32_t i = 0; i < worker->connections.touched; i++) {
        struct connection *connection = pool_at(&worker->connections, i);

        if (pool_in_use(&worker->connections, i) && connection->state == CONNECTION_OPENING)
            link_close(&connection->link);
    }
}

void
worker_begin(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->relay->listener_count; i++)
        acceptor_arm(&worker->acceptors[i]);
    __atomic_store_n(&worker->started, true, __ATOMIC_RELEASE);
}

bool
worker_step(struct worker *worker)
{
    if (drained(worker)) {
        counter_set(&worker->counters.cpu_ns, clock_thread_cpu_ns());
        return false;
    }
    turn(worker);
    if (!worker->draining || worker->sessions.used > 0)
        return true;
    if (worker->transactions.used == 0)
        connections_end(worker);
    if (worker->courier != NULL && (worker->transactions.used == 0 || worker->drain_ending))
        worker->stopped_clean = courier_stopped(worker->courier);
    return true;
}

void
worker_run(struct worker *worker)
{
    worker_begin(worker);
    while (worker_step(worker))
        continue;
}

static void
arrays_free(struct worker *worker)
{
    size_t listeners = worker->relay->listener_count, hops = worker->config->next_hop_count;

    io_memory_free(worker->acceptors, listeners * sizeof(struct acceptor));
    io_memory_free(worker->hop_counters, hops * sizeof(struct hop_counters));
    io_memory_free(worker->hops, hops * sizeof(struct hop));
}

void
worker_stop(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->relay->listener_count; i++)
        if (worker->acceptors != NULL && worker->acceptors[i].listener >= 0)
            io_close_now(worker->acceptors[i].listener);
    /* In a forced end something may be in flight, and the memory that it reads must stay. */
    if (worker->courier != NULL && (worker->stopped_clean || !worker->draining))
        courier_destroy(worker->courier);
    if (worker->io != NULL)
        for (uint32_t i = 0; i < worker->config->next_hop_count; i++)
            hop_destroy(&worker->hops[i]);
    io_destroy(worker->io);
    pool_destroy(&worker->sessions);
    pool_destroy(&worker->transactions);
    pool_destroy(&worker->connections);
    pool_destroy(&worker->blocks);
    arrays_free(worker);
}
