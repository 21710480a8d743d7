/* A sink's session: the loop between receiver and link, with a place for a fault before each thing
 * that is said. */
#include "relay/tools/sink_session.h"

#include <stdio.h>

#include "core/clock.h"
#include "relay/tools/sink_link.h"
#include "relay/tools/sink_private.h"

/* After our FIN: how long we wait for the client's. */
#define LINGER_NS (2 * NS_PER_S)
/* Octets received and not used above which no more are taken from the kernel. */
#define UNREAD_HIGH_BYTES (4 * BUFFER_BYTES)
/* Until there is room for a reply again. */
#define ROOM_RETRY_NS (10 * NS_PER_MS)

void
sink_timer_start(struct sink_session *session, uint64_t after_ns)
{
    timer_set(&session->thread->timers, &session->timer, session->thread->now_ns + after_ns);
}

static void
idle_timer_start(struct sink_session *session)
{
    sink_timer_start(session, session->thread->sink->idle_ms * NS_PER_MS);
}

/* --- the end --- */

/* What is written goes out, then our FIN, then the client's end is awaited. */
void
sink_session_finish(struct sink_session *session)
{
    session->ending = true;
    session->waiting = false;
    link_finish(&session->link);
    sink_timer_start(session, LINGER_NS);
}

/* Closed without another word; what was said before still goes out. */
void
sink_session_drop(struct sink_session *session)
{
    struct link *link = &session->link;

    if (link->sending || link->out.data != NULL) {
        session->dropping = true;
        sink_session_finish(session);
    } else {
        session->ending = true;
        link_close(link);
    }
}

/* At the end of each way in: nothing may touch the session after this. */
static void
settle(struct sink_session *session)
{
    struct sink_thread *thread = session->thread;

    /* Not only when something completes: a client that ended first says nothing more. */
    if (session->ending && !session->link.closing)
        sink_link_ending(&session->link, session->dropping);
    if (!session->link.closing || session->link.inflight > 0)
        return;
    sink_message_drop(&session->message, &session->thread->maildir);
    sink_message_free(&session->message);
    timer_cancel(&thread->timers, &session->timer);
    link_release(&session->link);
    pool_release(&thread->sessions, session);
}

/* --- the receiver's events --- */

static void
on_path(struct sink_session *session, const struct path *path, enum sink_stage stage)
{
    ASSERT(path->mailbox.len <= sizeof(session->path));
    memcpy(session->path, path->mailbox.data, path->mailbox.len);
    session->path_len = path->mailbox.len;
    sink_stage_enter(session, stage);
}

static void
on_body(struct sink_session *session, struct span body)
{
    struct sink_thread *thread = session->thread;

    session->body_octets += body.len;
    if (thread->sink->maildir == NULL ||
        sink_message_body(&session->message, &thread->maildir, body, session->chunked))
        return;
    fprintf(stderr, "ringpost: sink: cannot store a message: %s\n",
            sink_maildir_error(&thread->maildir));
    receiver_end(&session->receiver, "4.3.0", SPAN("Cannot store the message"), &session->link.out);
}

static void
on_start_tls(struct sink_session *session)
{
    if (link_unread(&session->link) > 0)
        receiver_starttls_injection(&session->receiver, &session->link.out);
    else
        session->tls_pending = true;
}

/* Carries out one event. False: nothing more can be done now. */
static bool
on_event(struct sink_session *session, const struct receiver_event *event, size_t used, size_t left)
{
    struct link *link = &session->link;

    if (event->kind == RECEIVER_BODY)
        on_body(session, event->body);
    /* Spans of the event point into these octets, and what was decided keeps a copy. */
    if (event->kind == RECEIVER_MAIL)
        on_path(session, &event->path, SINK_MAIL);
    else if (event->kind == RECEIVER_RECIPIENT)
        on_path(session, &event->path, SINK_RCPT);
    link_consume(link, used);
    switch (event->kind) {
    case RECEIVER_DATA:
        session->chunked = event->chunked;
        sink_stage_enter(session, SINK_DATA);
        break;
    case RECEIVER_MESSAGE:
        session->body = false;
        session->size = event->summary.size;
        sink_stage_enter(session, SINK_END);
        break;
    case RECEIVER_ABORT:
        session->body = false;
        sink_message_drop(&session->message, &session->thread->maildir);
        break;
    case RECEIVER_START_TLS: on_start_tls(session); break;
    case RECEIVER_CLOSE: sink_session_finish(session); break;
    case RECEIVER_NEED_INPUT: return left > 0 ? link_extend(link) : link->in.count > 0;
    default: break;
    }
    return true;
}

static bool
may_step(const struct sink_session *session)
{
    return session->started && !session->waiting && !session->ending && !session->tls_pending &&
           !session->link.closing && session->link.tls_state != LINK_HANDSHAKE;
}

/* A command is here before the one at hand was answered, though we said that we cannot. */
static void
trust_count(struct sink_session *session)
{
    struct sink_thread *thread = session->thread;

    if ((thread->sink->policy.without & RECEIVER_PIPELINING) == 0 ||
        receiver_waits_for(&session->receiver) != RECEIVER_WAITS_COMMAND ||
        session->link.out.len == 0 || link_front(&session->link).len == 0)
        return;
    counter_increment(&thread->counts.trusting);
}

/* One round. False: nothing more can be done now. */
static bool
run_once(struct sink_session *session)
{
    struct link *link = &session->link;
    struct receiver_event event;
    struct span front, in;
    size_t offered;

    if (!link_room(link, RECEIVER_REPLY_ROOM)) {
        link_flush(link);
        if (link->sending || !link_room(link, RECEIVER_REPLY_ROOM))
            return false; /* goes on when the send completes */
    }
    front = in = link_front(link);
    if (session->rejecting)
        return sink_line_reject(session, front);
    switch (sink_line_admit(session, front)) {
    case SINK_LINE_DEALT_WITH: return true;
    case SINK_LINE_PART: return link_extend(link);
    case SINK_LINE_ADMITTED: break;
    }
    sink_line_limit(session, &in);
    if (!sink_body_admit(session, &in))
        return false;
    offered = in.len;
    event = receiver_step(&session->receiver, &in, &link->out);
    if (offered > in.len && front.data[offered - in.len - 1] == '\n')
        session->passed = false; /* not within a line that was too long to wait for its end */
    if (event.kind == RECEIVER_NEED_ROOM) {
        link_consume(link, offered - in.len); /* what filled the block must not be read again */
        link_flush(link);
        return link->sending && link->out.data == NULL;
    }
    if (event.kind == RECEIVER_NEED_INPUT && in.len > 0 && offered < front.len) {
        /* The limit of a body cut the line behind it: as a command it is not limited. */
        link_consume(link, offered - in.len);
        return offered > in.len;
    }
    if (!on_event(session, &event, offered - in.len, in.len))
        return false;
    trust_count(session);
    return true;
}

static void
run(struct sink_session *session)
{
    struct link *link = &session->link;

    while (may_step(session) && run_once(session))
        ;
    if (session->ending || link->closing)
        return;
    if (link_at_end(link) && may_step(session) && !session->slowed) {
        sink_session_finish(session);
        return;
    }
    link_flush(link);
    if (!timer_is_set(&session->timer))
        idle_timer_start(session);
}

/* --- ways in --- */

static void
pressure(struct sink_session *session)
{
    if (!session->link.closing && !session->ending)
        sink_link_pressure(&session->link, UNREAD_HIGH_BYTES);
}

/* After any completion: has the handshake moved on? */
static void
tls_look(struct sink_session *session)
{
    struct link *link = &session->link;

    if (session->tls_pending && link_unread(link) > 0) {
        link_close(link); /* plaintext before the 220 left us */
        return;
    }
    if (session->tls_pending && link_drained(link)) {
        session->tls_pending = false;
        sink_stage_enter(session, SINK_TLS);
    }
    if (!session->tls_shaking || link->closing)
        return;
    if (link->tls_state == LINK_TLS) {
        session->tls_shaking = false;
        if (session->started)
            receiver_tls_started(&session->receiver);
        else if (link_room(link, RECEIVER_REPLY_ROOM))
            sink_stage_enter(session, SINK_GREETING);
        else
            link_close(link);
        link_flush(link);
    } else if (link->failed || link->ended) {
        struct span why = tls_failure(link->tls);

        if (session->thread->sink->loudness == SINK_VERBOSE)
            printf("sink: TLS handshake failed: %.*s\n", (int)why.len, why.data);
        link_flush(link);
        link_close(link);
    }
}

void
sink_session_accept(struct sink_thread *thread, int socket)
{
    struct sink_session *session = pool_take(&thread->sessions);
    uint32_t slot;

    if (session == NULL) {
        io_send_last(thread->io, socket, SPAN("421 4.3.2 Too many connections\r\n"));
        return;
    }
    memset(session, 0, sizeof(*session));
    slot = pool_index(&thread->sessions, session);
    session->thread = thread;
    session->timer.kind = SINK_KIND_SESSION;
    session->active_ns = thread->now_ns;
    sink_message_init(&session->message);
    counter_increment(&thread->counters.connections_accepted);
    link_open(&session->link, &thread->links,
              (struct io_ticket){ .slot = slot,
                                  .generation = pool_generation(&thread->sessions, slot),
                                  .kind = SINK_KIND_SESSION },
              socket);
    link_receive(&session->link);
    if (link_room(&session->link, RECEIVER_REPLY_ROOM)) {
        sink_stage_enter(session, SINK_CONNECT);
        run(session);
    } else {
        link_close(&session->link);
    }
    settle(session);
}

void
sink_session_complete(struct sink_session *session, const struct io_completion *completion)
{
    struct link *link = &session->link;

    session->active_ns = session->thread->now_ns;
    link_complete(link, completion);
    if (!link->closing) {
        if (session->tls_pending || session->tls_shaking)
            tls_look(session);
        if (!session->ending && (link->failed || (session->stalled && link->ended)))
            link_close(link);
        else if (!session->ending)
            run(session);
        pressure(session);
    }
    settle(session);
}

void
sink_session_timer(struct sink_session *session)
{
    struct link *link = &session->link;
    uint64_t idle_ns = session->thread->sink->idle_ms * NS_PER_MS;

    if (session->ending || link->closing) {
        link_close(link);
    } else if (session->waiting && !session->stalled) {
        if (!link_room(link, RECEIVER_REPLY_ROOM)) {
            sink_timer_start(session, ROOM_RETRY_NS);
        } else {
            session->waiting = false;
            sink_stage_act(session);
            run(session);
        }
    } else if (session->slowed) {
        session->slowed = false;
        run(session);
        pressure(session);
    } else if (session->active_ns + idle_ns <= session->thread->now_ns) {
        link_close(link);
    } else {
        sink_timer_start(session, session->active_ns + idle_ns - session->thread->now_ns);
    }
    settle(session);
}

void
sink_session_stop(struct sink_session *session)
{
    session->ending = true;
    link_close(&session->link);
    settle(session);
}
