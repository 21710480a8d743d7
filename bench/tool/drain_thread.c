/* The turn of a sink's thread; the heap of what happens later. */
#include <stdlib.h>

#include "bench/tool/drain_private.h"
#include "core/clock.h"

#define BLOCKS_PER_SESSION 3
#define BUFFERS 16384
#define RING_ENTRIES 4096
#define RING_COMPLETIONS 65536
#define STOP_NS (2 * NS_PER_S)
#define TURN_NS (100 * NS_PER_MS)
#define FLUSH_NS NS_PER_S

#define CONTAINER(type, member, pointer) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* --- later --- */

/* A session waits for one thing at most, so there are as many places as sessions. */
void
drain_later(struct drain_thread *thread, struct drain_session *session, uint64_t due_ns)
{
    uint32_t at = thread->later_count++;

    /* Entries of sessions that have gone since stay until they are due. */
    if (at == 2 * thread->plan->sessions_max) {
        thread->later_count--;
        drain_session_drop(session);
        return;
    }
    while (at > 0 && thread->later[(at - 1) / 2].due_ns > due_ns) {
        thread->later[at] = thread->later[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    thread->later[at] = (struct drain_later){ .due_ns = due_ns,
                                              .slot = session->link.ticket.slot,
                                              .generation = session->link.ticket.generation };
}

static struct drain_later
later_pop(struct drain_thread *thread)
{
    struct drain_later first = thread->later[0];
    struct drain_later last = thread->later[--thread->later_count];
    uint32_t at = 0, child;

    while ((child = 2 * at + 1) < thread->later_count) {
        if (child + 1 < thread->later_count &&
            thread->later[child + 1].due_ns < thread->later[child].due_ns)
            child++;
        if (thread->later[child].due_ns >= last.due_ns)
            break;
        thread->later[at] = thread->later[child];
        at = child;
    }
    thread->later[at] = last;
    return first;
}

static void
later_run(struct drain_thread *thread)
{
    while (thread->later_count > 0 && thread->later[0].due_ns <= thread->now_ns) {
        struct drain_later later = later_pop(thread);
        struct drain_session *session;

        if (!pool_in_use(&thread->sessions, later.slot) ||
            pool_generation(&thread->sessions, later.slot) != later.generation)
            continue;
        session = pool_at(&thread->sessions, later.slot);
        if (session->waiting)
            drain_session_continue(session);
    }
}

/* --- accepting --- */

static void
on_accept(struct drain_thread *thread, const struct io_completion *completion)
{
    if (completion->result >= 0 && thread->stopping)
        io_close(thread->io, completion->result);
    else if (completion->result >= 0)
        drain_session_accept(thread, completion->result);
    (void)acceptor_continue(&thread->acceptor, completion, thread->now_ns);
}

static void
stop(struct drain_thread *thread)
{
    thread->stopping = true;
    acceptor_stop(&thread->acceptor);
    for (uint32_t i = 0; i < thread->sessions.touched; i++)
        if (pool_in_use(&thread->sessions, i))
            drain_session_stop(pool_at(&thread->sessions, i));
}

/* --- the turn --- */

static void
dispatch(struct drain_thread *thread, const struct io_completion *completion)
{
    struct io_ticket ticket = completion->ticket;

    if (ticket.kind == DRAIN_LISTENER) {
        if (completion->op == IO_ACCEPT)
            on_accept(thread, completion);
        return;
    }
    ASSERT(pool_in_use(&thread->sessions, ticket.slot));
    ASSERT(pool_generation(&thread->sessions, ticket.slot) == ticket.generation);
    drain_session_complete(pool_at(&thread->sessions, ticket.slot), completion);
}

static void
link_progress(void *context, struct link *link)
{
    static const struct io_completion nothing = { .op = IO_NONE, .buffer = BUFFER_NONE };

    (void)context;
    drain_session_complete(CONTAINER(struct drain_session, link, link), &nothing);
}

static uint64_t
wait_time(const struct drain_thread *thread)
{
    uint64_t wait_ns = timers_wait_ns(&thread->timers, thread->now_ns);

    if (thread->links.handshakes != NULL)
        return 0;
    if (thread->later_count > 0) {
        uint64_t due_ns = thread->later[0].due_ns;

        if (due_ns <= thread->now_ns)
            return 0;
        if (due_ns - thread->now_ns < wait_ns)
            wait_ns = due_ns - thread->now_ns;
    }
    return wait_ns < TURN_NS ? wait_ns : TURN_NS;
}

static void
turn(struct drain_thread *thread)
{
    struct io_completion completion;
    struct timer *timer;

    io_wait(thread->io, wait_time(thread));
    thread->now_ns = clock_now_ns();
    thread->links.handshakes_left = UINT32_MAX;
    link_handshakes_continue(&thread->links, link_progress, thread);
    while (io_next(thread->io, &completion))
        dispatch(thread, &completion);
    later_run(thread);
    while ((timer = timers_next_due(&thread->timers, thread->now_ns)) != NULL) {
        if (timer == &thread->acceptor.pause)
            acceptor_arm(&thread->acceptor);
        else
            drain_session_timer(CONTAINER(struct drain_session, timer, timer));
    }
    link_starved_continue(&thread->links);
    if (thread->now_ns - thread->flushed_ns >= FLUSH_NS) {
        ledger_flush(&thread->ledger);
        thread->flushed_ns = thread->now_ns;
    }
}

/* --- its life --- */

struct drain_thread *
drain_thread_create(struct drain_plan *plan, unsigned index, int listener)
{
    struct drain_thread *thread = calloc(1, sizeof(*thread));

    if (thread == NULL)
        return NULL;
    thread->plan = plan;
    thread->index = index;
    thread->listener = listener;
    thread->random = plan->seed + index * UINT64_C(0x632BE59BD9B4E019) + 1;
    return thread;
}

static bool
start(struct drain_thread *thread)
{
    const struct drain_plan *plan = thread->plan;
    struct io_options options = { .entries = RING_ENTRIES,
                                  .completions = RING_COMPLETIONS,
                                  .buffer_count = BUFFERS,
                                  .buffer_reserve = BUFFERS_RESERVED };

    thread->io = io_create(&options, thread->error);
    if (thread->io == NULL)
        return false;
    thread->later = io_memory(2 * plan->sessions_max * sizeof(*thread->later));
    if (thread->later == NULL ||
        !pool_init(&thread->sessions, sizeof(struct drain_session), plan->sessions_max) ||
        !pool_init(&thread->blocks, BLOCK_BYTES, plan->sessions_max * BLOCKS_PER_SESSION) ||
        !ledger_buffer_init(&thread->ledger, plan->ledger_file)) {
        memcpy(thread->error, "out of memory", sizeof("out of memory"));
        return false;
    }
    thread->now_ns = clock_now_ns();
    thread->realtime_offset_ns = clock_realtime_ns() - thread->now_ns;
    thread->flushed_ns = thread->now_ns;
    timers_init(&thread->timers, thread->now_ns);
    acceptor_init(&thread->acceptor, thread->io, &thread->timers,
                  (struct io_ticket){ .kind = DRAIN_LISTENER }, thread->listener);
    link_shared_init(&thread->links, thread->io, &thread->blocks);
    return true;
}

void
drain_thread_run(struct drain_thread *thread)
{
    uint64_t end_ns;

    if (!start(thread)) {
        __atomic_store_n(&thread->state, -1, __ATOMIC_RELEASE);
        return;
    }
    __atomic_store_n(&thread->state, 1, __ATOMIC_RELEASE);
    acceptor_arm(&thread->acceptor);
    while (__atomic_load_n(&thread->stop_wish, __ATOMIC_RELAXED) == 0)
        turn(thread);
    stop(thread);
    end_ns = thread->now_ns + STOP_NS;
    while ((thread->sessions.used > 0 || thread->acceptor.armed) && thread->now_ns < end_ns)
        turn(thread);
    ledger_buffer_end(&thread->ledger);
}

void
drain_thread_free(struct drain_thread *thread)
{
    if (thread == NULL)
        return;
    io_destroy(thread->io);
    pool_destroy(&thread->sessions);
    pool_destroy(&thread->blocks);
    if (thread->later != NULL)
        io_memory_free(thread->later, 2 * thread->plan->sessions_max * sizeof(*thread->later));
    free(thread);
}

void
drain_thread_stop(struct drain_thread *thread)
{
    __atomic_store_n(&thread->stop_wish, 1, __ATOMIC_RELAXED);
}

const struct drain_counts *
drain_thread_counts(const struct drain_thread *thread)
{
    return &thread->counts;
}

const char *
drain_thread_error(const struct drain_thread *thread)
{
    return thread->error;
}

int
drain_thread_state(const struct drain_thread *thread)
{
    return __atomic_load_n(&thread->state, __ATOMIC_ACQUIRE);
}

int
drain_thread_ledger_error(const struct drain_thread *thread)
{
    return thread->ledger.error;
}
