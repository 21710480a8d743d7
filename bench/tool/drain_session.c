/* A session of the sink: its link, TLS, its end. */
#include "bench/tool/drain_private.h"
#include "relay/tools/sink_link.h"

#define LINGER_NS (2 * UINT64_C(1000000000))
#define ROOM RECEIVER_REPLY_ROOM
#define UNREAD_HIGH_BYTES (8 * BUFFER_BYTES)

static void
idle_timer_start(struct drain_session *session)
{
    struct drain_thread *thread = session->thread;
    uint64_t after_ns = thread->plan->idle_ns;

    timer_set(&thread->timers, &session->timer,
              thread->now_ns + (after_ns < LINK_RECHECK_NS ? after_ns : LINK_RECHECK_NS));
}

/* --- the end --- */

void
drain_session_finish(struct drain_session *session)
{
    session->ending = true;
    session->waiting = false;
    link_finish(&session->link);
    timer_set(&session->thread->timers, &session->timer, session->thread->now_ns + LINGER_NS);
}

void
drain_session_drop(struct drain_session *session)
{
    struct link *link = &session->link;

    session->dropping = true;
    if (link->sending || link->out.data != NULL) {
        drain_session_finish(session);
    } else {
        session->ending = true;
        link_close(link);
    }
}

/* Nothing may touch the session after this. */
static void
settle(struct drain_session *session)
{
    struct drain_thread *thread = session->thread;

    if (session->ending && !session->link.closing)
        sink_link_ending(&session->link, session->dropping);
    if (!session->link.closing || session->link.inflight > 0)
        return;
    thread->counts.cut += session->data || session->chunk;
    thread->counts.open--;
    timer_cancel(&thread->timers, &session->timer);
    link_release(&session->link);
    pool_release(&thread->sessions, session);
}

/* --- the loop --- */

static bool
may_step(const struct drain_session *session)
{
    return !session->waiting && !session->ending && !session->tls_pending &&
           !session->link.closing && session->link.tls_state != LINK_HANDSHAKE;
}

/* The 220 has left us: the handshake begins. */
static void
starttls_look(struct drain_session *session)
{
    struct link *link = &session->link;
    struct tls *tls;

    if (link_unread(link) > 0) {
        link_close(link); /* plaintext before the handshake */
        return;
    }
    if (!link_drained(link))
        return;
    session->tls_pending = false;
    tls = tls_create_server(session->thread->plan->tls);
    if (tls == NULL) {
        link_close(link);
        return;
    }
    session->tls_shaking = true;
    session->mail = false;
    link_start_tls(link, tls);
}

static void
tls_look(struct drain_session *session)
{
    struct link *link = &session->link;

    if (link->tls_state == LINK_TLS) {
        session->tls_shaking = false;
        session->thread->counts.handshakes++;
        if (session->thread->plan->implicit && link_room(link, ROOM))
            drain_stage_enter(session, SINK_GREETING);
        link_flush(link); /* the last flight */
    } else if (link->failed || link->ended) {
        session->thread->counts.tls_failures++;
        link_close(link);
    }
}

static void
run(struct drain_session *session)
{
    struct link *link = &session->link;

    if (session->tls_pending)
        starttls_look(session);
    if (session->tls_shaking)
        tls_look(session);
    while (may_step(session) && drain_command_step(session))
        ;
    if (session->ending || link->closing)
        return;
    if (link->failed || (link_at_end(link) && may_step(session))) {
        drain_session_drop(session);
        return;
    }
    link_flush(link);
    if (session->tls_pending)
        starttls_look(session);
}

static void
pressure(struct drain_session *session)
{
    if (!session->link.closing && !session->ending)
        sink_link_pressure(&session->link, UNREAD_HIGH_BYTES);
}

/* --- ways in --- */

void
drain_session_accept(struct drain_thread *thread, int socket)
{
    struct drain_session *session = pool_take(&thread->sessions);
    struct link *link;

    thread->counts.connections++;
    if (session == NULL) {
        io_send_last(thread->io, socket, SPAN("421 4.3.2 Too many connections\r\n"));
        return;
    }
    thread->counts.open++;
    memset(session, 0, offsetof(struct drain_session, path));
    session->thread = thread;
    session->idle_since_ns = thread->now_ns;
    link = &session->link;
    link_open(link, &thread->links,
              (struct io_ticket){ .slot = pool_index(&thread->sessions, session),
                                  .generation = pool_generation(
                                      &thread->sessions, pool_index(&thread->sessions, session)),
                                  .kind = DRAIN_SESSION },
              socket);
    link_receive(link);
    idle_timer_start(session);
    if (thread->plan->implicit) {
        struct tls *tls = tls_create_server(thread->plan->tls);

        if (tls == NULL) {
            link_close(link);
            return;
        }
        session->tls_shaking = true;
        link_start_tls(link, tls);
    } else if (link_room(link, ROOM)) {
        drain_stage_enter(session, SINK_GREETING);
    } else {
        link_close(link);
    }
    run(session);
    settle(session);
}

void
drain_session_complete(struct drain_session *session, const struct io_completion *completion)
{
    link_complete(&session->link, completion);
    if (completion->op == IO_RECEIVE && completion->result > 0 && !session->ending) {
        session->idle_since_ns = session->thread->now_ns;
        idle_timer_start(session);
    }
    run(session);
    pressure(session);
    settle(session);
}

void
drain_session_continue(struct drain_session *session)
{
    session->waiting = false;
    if (!session->ending && !session->link.closing) {
        if (link_room(&session->link, ROOM)) {
            drain_stage_act(session);
        } else {
            /* A send that the client does not take. */
            session->waiting = true;
            drain_later(session->thread, session, session->thread->now_ns + 10000000);
        }
    }
    run(session);
    pressure(session);
    settle(session);
}

void
drain_session_timer(struct drain_session *session)
{
    struct drain_thread *thread = session->thread;

    if (session->ending) {
        link_close(&session->link);
    } else if (thread->now_ns - session->idle_since_ns >= thread->plan->idle_ns) {
        link_close(&session->link);
    } else {
        /* Once after each input: an end that came with it may have been lost. */
        link_recheck(&session->link);
        timer_set(&thread->timers, &session->timer, session->idle_since_ns + thread->plan->idle_ns);
    }
    settle(session);
}

void
drain_session_stop(struct drain_session *session)
{
    session->ending = true;
    link_close(&session->link);
    settle(session);
}
