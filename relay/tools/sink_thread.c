/* The turn of a sink's thread: wait, completions, timers; starting and stopping. */
#include "relay/tools/sink_thread.h"

#include "core/clock.h"
#include "relay/tools/sink_session.h"

/* A session: one block being filled, one being sent, one carried line. */
#define BLOCKS_PER_SESSION 3
/* Nearly all input is used up in the turn in which it comes; slow and stalled sessions hold up to
 * five buffers. */
#define BUFFERS 8192
#define RING_ENTRIES 4096
#define RING_COMPLETIONS 65536
/* How long the end may take. */
#define STOP_NS (2 * NS_PER_S)

#define CONTAINER(type, member, pointer) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static void
on_accept(struct sink_thread *thread, const struct io_completion *completion)
{
    if (completion->result >= 0 && thread->stopping)
        io_close(thread->io, completion->result);
    else if (completion->result >= 0)
        sink_session_accept(thread, completion->result);
    (void)acceptor_continue(&thread->acceptor, completion, thread->now_ns);
}

static void
on_stop(struct sink_thread *thread)
{
    if (thread->stopping)
        return;
    thread->stopping = true;
    acceptor_stop(&thread->acceptor);
    for (uint32_t i = 0; i < thread->sessions.touched; i++)
        if (pool_in_use(&thread->sessions, i))
            sink_session_stop(pool_at(&thread->sessions, i));
}

static void
dispatch(struct sink_thread *thread, const struct io_completion *completion)
{
    struct io_ticket ticket = completion->ticket;

    switch ((enum sink_kind)ticket.kind) {
    case SINK_KIND_LISTENER:
        if (completion->op == IO_ACCEPT)
            on_accept(thread, completion);
        break;
    case SINK_KIND_SESSION:
        ASSERT(pool_in_use(&thread->sessions, ticket.slot));
        ASSERT(pool_generation(&thread->sessions, ticket.slot) == ticket.generation);
        sink_session_complete(pool_at(&thread->sessions, ticket.slot), completion);
        break;
    case SINK_KIND_STOP: on_stop(thread); break;
    }
}

/* A link went on by itself: its session looks after it. */
static void
link_progress(void *context, struct link *link)
{
    static const struct io_completion nothing = { .op = IO_NONE, .buffer = BUFFER_NONE };

    (void)context;
    sink_session_complete(CONTAINER(struct sink_session, link, link), &nothing);
}

static void
turn(struct sink_thread *thread, uint64_t wait_ns)
{
    struct io_completion completion;
    struct timer *timer;
    uint64_t timers_ns = timers_wait_ns(&thread->timers, thread->now_ns);

    if (thread->links.handshakes != NULL)
        wait_ns = 0;
    io_wait(thread->io, timers_ns < wait_ns ? timers_ns : wait_ns);
    thread->now_ns = clock_now_ns();
    thread->links.handshakes_left = UINT32_MAX;
    link_handshakes_continue(&thread->links, link_progress, thread);
    while (io_next(thread->io, &completion))
        dispatch(thread, &completion);
    while ((timer = timers_next_due(&thread->timers, thread->now_ns)) != NULL) {
        if (timer->kind == SINK_KIND_SESSION)
            sink_session_timer(CONTAINER(struct sink_session, timer, timer));
        else
            acceptor_arm(&thread->acceptor);
    }
    link_starved_continue(&thread->links);
}

static bool
start(struct sink_thread *thread)
{
    struct io_options options = { .entries = RING_ENTRIES,
                                  .completions = RING_COMPLETIONS,
                                  .buffer_count = BUFFERS,
                                  .buffer_reserve = BUFFERS_RESERVED };
    const struct sink *sink = thread->sink;

    thread->maildir.tmp = thread->maildir.new = -1;
    thread->io = io_create(&options, thread->error);
    if (thread->io == NULL)
        return false;
    if (!pool_init(&thread->sessions, sizeof(struct sink_session), SINK_SESSIONS_MAX) ||
        !pool_init(&thread->blocks, BLOCK_BYTES, SINK_SESSIONS_MAX * BLOCKS_PER_SESSION)) {
        struct outbuf error = { .data = thread->error, .size = sizeof(thread->error) };

        outbuf_add(&error, span_of("no memory for sessions", sizeof("no memory for sessions")));
        return false;
    }
    if (sink->maildir != NULL && !sink_maildir_open(&thread->maildir, sink->maildir, sink->lf,
                                                    thread->index, sink->policy.hostname)) {
        struct outbuf error = { .data = thread->error, .size = sizeof(thread->error) - 1 };

        (void)outbuf_add_some(&error, span_text(sink->maildir));
        (void)outbuf_add_some(&error, SPAN(": "));
        (void)outbuf_add_some(&error, span_text(sink_maildir_error(&thread->maildir)));
        thread->error[error.len] = '\0';
        return false;
    }
    thread->now_ns = clock_now_ns();
    /* Any odd number is a fine step; 0 is the one state that the generator must not have. */
    thread->random = (sink->seed + thread->index * UINT64_C(0x9E3779B97F4A7C15)) | 1;
    timers_init(&thread->timers, thread->now_ns);
    acceptor_init(&thread->acceptor, thread->io, &thread->timers,
                  (struct io_ticket){ .kind = SINK_KIND_LISTENER }, thread->listener);
    link_shared_init(&thread->links, thread->io, &thread->blocks);
    return true;
}

static void
stop(struct sink_thread *thread)
{
    sink_maildir_close(&thread->maildir);
    io_close_now(thread->listener);
    io_destroy(thread->io);
    pool_destroy(&thread->sessions);
    pool_destroy(&thread->blocks);
}

void
sink_thread_run(struct sink_thread *thread)
{
    uint64_t end_ns = 0;
    bool good = start(thread);

    __atomic_store_n(&thread->state, good ? SINK_THREAD_RUNNING : SINK_THREAD_FAILED,
                     __ATOMIC_RELEASE);
    if (good) {
        acceptor_arm(&thread->acceptor);
        while (!thread->stopping)
            turn(thread, UINT64_MAX);
        end_ns = thread->now_ns + STOP_NS;
        while ((thread->sessions.used > 0 || thread->acceptor.armed) && thread->now_ns < end_ns)
            turn(thread, STOP_NS / 10);
    }
    stop(thread);
}
