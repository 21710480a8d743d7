/* A client connection: the loop between receiver and link, timers, TLS, the door. */
#include "relay/session.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/transaction.h"

_Static_assert(sizeof(struct session) <= 1024, "an idle session costs at most 1 KiB");

/* After the last reply: how long the client may end the stream first. Whoever does keeps the
 * TIME_WAIT state and its cost; nearly all clients close as soon as they see 221 (one message per
 * connection: 128 and 130 us instead of 133 and 149, alternating in one run). */
#define FIN_PAUSE_NS (50 * NS_PER_MS)
/* After our FIN: how long we wait for the client's. */
#define LINGER_NS (2 * NS_PER_S)
/* Octets received and not used above which no more are taken from the kernel. */
#define UNREAD_HIGH_BYTES (4 * BUFFER_BYTES)
/* And below which they are again: more than the part of a TLS record that waits for its rest, or
 * that would never come. */
#define UNREAD_LOW_BYTES (2 * BUFFER_BYTES)

static struct counters *
counters_of(struct session *session)
{
    return &session->worker->counters;
}

/* --- lines for the log --- */

static void
log_client(struct log_line *line, const struct session *session)
{
    char text[64];

    log_text(line, "client", session_client_text(session, text));
    log_number(line, "port", session->peer.port);
}

/* One line for each refusal: what the receiver has just written, if it begins with 4 or 5. */
static void
log_refusal(struct session *session, struct span reply)
{
    const char *end;
    struct log_line line;

    if (reply.len == 0 || (reply.data[0] != '4' && reply.data[0] != '5') ||
        !log_enabled(LOG_LEVEL_INFO))
        return;
    end = memchr(reply.data, '\r', reply.len);
    log_begin(&line, LOG_LEVEL_INFO, "refused");
    if (session->transaction != NULL)
        log_id(&line, span_text(session->transaction->id));
    log_client(&line, session);
    log_text(&line, "helo", receiver_helo(&session->receiver));
    if (session->transaction != NULL)
        log_text(&line, "from", session->transaction->envelope.reverse_path);
    log_text(&line, "reply", end == NULL ? reply : span_of(reply.data, (size_t)(end - reply.data)));
    log_end(&line);
}

void
session_log_recipient(struct session *session, struct span mailbox, const struct reply *reply)
{
    struct log_line line;
    char text[RECEIVER_REPLY_ROOM];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (!log_enabled(LOG_LEVEL_INFO))
        return;
    reply_write(reply, true, &out);
    log_begin(&line, LOG_LEVEL_INFO, "refused");
    log_id(&line, span_text(session->transaction->id));
    log_client(&line, session);
    log_text(&line, "helo", receiver_helo(&session->receiver));
    log_text(&line, "from", session->transaction->envelope.reverse_path);
    log_text(&line, "to", mailbox);
    log_text(&line, "reply", span_first(outbuf_span(&out), out.len - 2));
    log_end(&line);
}

static void
log_tls_failure(struct session *session)
{
    struct log_line line;
    struct span why = tls_failure(session->link.tls);

    log_begin(&line, LOG_LEVEL_NOTICE, "tls_failed");
    log_client(&line, session);
    log_text(&line, "side", SPAN("server"));
    log_text(&line, "reason", why.len > 0 ? why : SPAN("connection closed during the handshake"));
    log_end(&line);
}

/* --- the door --- */

static void
refuse_at_door(struct worker *worker, int socket, struct span reply)
{
    /* Best effort and no session: one send that the socket's empty buffer takes at once, or not. */
    io_send_last(worker->io, socket, reply);
}

static void
session_timeout_set(struct session *session)
{
    const struct config_timeouts *timeouts = &session->worker->config->timeouts;
    uint64_t wait_ms = timeouts->command_ms, deadline;
    bool in_data = receiver_waits_for(&session->receiver) == RECEIVER_WAITS_DATA;

    if (session->link.tls_state == LINK_HANDSHAKE || session->tls_pending)
        wait_ms = timeouts->tls_ms;
    else if (session->waiting)
        wait_ms = timeouts->data_end_ms + timeouts->connect_ms;
    else if (in_data)
        wait_ms = timeouts->data_ms;
    deadline = session->worker->now_ns + wait_ms * NS_PER_MS;
    /* A chunk that was refused before its octets came has no DATA event: its time begins here. */
    if (in_data && session->message_deadline_ns == 0)
        session->message_deadline_ns =
            session->worker->now_ns + timeouts->message_ms * NS_PER_MS;
    if (!in_data && session->transaction == NULL)
        session->message_deadline_ns = 0;
    if (in_data && session->message_deadline_ns < deadline)
        deadline = session->message_deadline_ns;
    session->deadline_ns = deadline;
    if (!session->link.rechecked && deadline > session->worker->now_ns + LINK_RECHECK_NS)
        deadline = session->worker->now_ns + LINK_RECHECK_NS;
    timer_set(&session->worker->timers, &session->timer, deadline);
}

static bool
start_tls(struct session *session)
{
    struct tls *tls = tls_create_server(session->worker->tls->server);

    if (tls == NULL)
        return false;
    session->tls_started_ns = session->worker->now_ns;
    link_start_tls(&session->link, tls);
    return true;
}

static bool
enter(struct worker *worker, int socket, struct io_peer *peer, bool *trusted, uint32_t *slot)
{
    struct log_line line;
    enum access_result result;

    if (!io_peer(socket, peer)) {
        io_close(worker->io, socket); /* it is gone already */
        return false;
    }
    *trusted = access_network_trusted(&worker->config->accept, peer->ip);
    result =
        access_enter(&worker->relay->access, &worker->config->limits, peer->ip, *trusted, slot);
    if (result == ACCESS_OK)
        return true;
    counter_increment(result == ACCESS_TOTAL_LIMIT
                          ? &worker->counters.connections_refused_total_limit
                          : &worker->counters.connections_refused_client_limit);
    log_begin(&line, LOG_LEVEL_NOTICE, "connection_refused");
    log_client(&line, &(struct session){ .peer = *peer });
    log_text(&line, "reason",
             result == ACCESS_TOTAL_LIMIT ? SPAN("limits.connections")
                                          : SPAN("limits.connections_per_client"));
    log_end(&line);
    refuse_at_door(worker, socket,
                   result == ACCESS_TOTAL_LIMIT
                       ? SPAN("421 4.3.2 Too many connections, try again later\r\n")
                       : SPAN("421 4.7.0 Too many connections from your address\r\n"));
    return false;
}

void
session_accept(struct worker *worker, uint32_t listener, int socket)
{
    const struct relay_listener *at = &worker->relay->listeners[listener];
    struct session *session;
    struct io_peer peer;
    uint32_t slot;
    bool trusted, implicit = at->config->tls == CONFIG_LISTENER_TLS_IMPLICIT;

    if (!enter(worker, socket, &peer, &trusted, &slot)) {
        __atomic_sub_fetch(&worker->load, 1, __ATOMIC_RELAXED);
        return;
    }
    session = pool_take(&worker->sessions);
    if (session == NULL) {
        __atomic_sub_fetch(&worker->load, 1, __ATOMIC_RELAXED);
        access_leave(&worker->relay->access, slot);
        counter_increment(&worker->counters.pool_exhausted);
        refuse_at_door(worker, socket, SPAN("421 4.3.2 Too many connections, try again later\r\n"));
        return;
    }
    memset(session, 0, sizeof(*session));
    session->worker = worker;
    session->listener = listener;
    session->access_slot = slot;
    session->peer = peer;
    session->trusted = trusted;
    counter_increment(&worker->counters.connections_accepted);
    gauge_add(&worker->counters.sessions_current, 1);
    link_open(&session->link, &worker->links,
              worker_ticket(&worker->sessions, session, WORKER_SESSION), socket);
    session->timer.kind = WORKER_SESSION;
    link_receives(&session->link, LINK_RECEIVES_SOME);
    link_receive(&session->link);
    if (!link_room(&session->link, RECEIVER_REPLY_ROOM) || (implicit && !start_tls(session))) {
        counter_increment(&worker->counters.pool_exhausted);
        link_close(&session->link);
        return; /* the cancelled receive completes and ends it */
    }
    /* With implicit TLS the greeting waits in out until the handshake is done. */
    receiver_start(&session->receiver, &at->policy, &worker->counters, implicit,
                   &session->link.out);
    session_timeout_set(session);
    if (!implicit)
        link_flush(&session->link);
}

/* --- the end --- */

static void
session_gone(struct session *session)
{
    struct worker *worker = session->worker;

    ASSERT(!session->on_ready);
    timer_cancel(&worker->timers, &session->timer);
    link_release(&session->link);
    access_leave(&worker->relay->access, session->access_slot);
    gauge_subtract(&worker->counters.sessions_current, 1);
    __atomic_sub_fetch(&worker->load, 1, __ATOMIC_RELAXED);
    pool_release(&worker->sessions, session);
}

static void
transaction_drop(struct session *session)
{
    struct transaction *transaction = session->transaction;

    if (transaction == NULL)
        return;
    session->transaction = NULL;
    transaction->session = NULL;
    transaction_abort(transaction);
}

/* Nothing more is said or read. */
static void
session_break(struct session *session, uint64_t *how)
{
    if (session->link.closing)
        return;
    if (!session->ending)
        counter_increment(how);
    session->ending = true;
    session->waiting = false;
    transaction_drop(session);
    link_close(&session->link);
    if (session->link.inflight == 0)
        worker_ready(session->worker, session); /* nothing will complete any more: let go there */
}

static uint64_t *
closed_how(struct session *session)
{
    struct counters *counters = counters_of(session);

    return receiver_quit(&session->receiver) ? &counters->sessions_closed_quit
           : session->timed_out              ? &counters->sessions_closed_timeout
           : session->drained                ? &counters->sessions_closed_shutdown
           : session->stalled                ? &counters->sessions_closed_stalled
                                             : &counters->sessions_closed_error;
}

/* The receiver said CLOSE: what is written goes out, then the client's FIN comes and ours goes, or
 * the other way round. */
static void
session_end(struct session *session, uint64_t *how)
{
    bool wait = session->link.tls_state != LINK_HANDSHAKE && !session->link.ended;

    session->ending = true;
    counter_increment(how);
    transaction_drop(session);
    if (wait)
        link_say_last(&session->link);
    else
        link_finish(&session->link);
    timer_set(&session->worker->timers, &session->timer,
              session->worker->now_ns + (wait ? FIN_PAUSE_NS : LINGER_NS));
    if (session->link.ended && link_drained(&session->link))
        link_close(&session->link); /* nothing is left to say, and nobody to say it to */
}

/* --- events --- */

static void
answer(struct session *session, enum transaction_answer what, const struct reply *refusal)
{
    ASSERT(what != TRANSACTION_WAIT);
    if (what == TRANSACTION_ACCEPT)
        receiver_accept(&session->receiver, &session->link.out);
    else
        receiver_verdict(&session->receiver, refusal, &session->link.out);
}

static void
on_mail(struct session *session, const struct receiver_event *event)
{
    struct reply refusal;

    ASSERT(session->transaction == NULL);
    session->transaction = transaction_start(session, &event->path, &event->mail, &refusal);
    answer(session, session->transaction != NULL ? TRANSACTION_ACCEPT : TRANSACTION_REFUSE,
           &refusal);
}

static void
on_recipient(struct session *session, const struct receiver_event *event)
{
    struct reply refusal;
    enum transaction_answer what;

    session->waiting = true; /* the verdict may come while we ask */
    what = transaction_recipient(session->transaction, &event->path, &event->rcpt, &refusal);
    if (what == TRANSACTION_WAIT)
        return;
    session->waiting = false;
    if (what == TRANSACTION_REFUSE)
        session_log_recipient(session, event->path.mailbox, &refusal);
    answer(session, what, &refusal);
}

static void
on_data(struct session *session, const struct receiver_event *event)
{
    struct reply refusal;

    session->message_deadline_ns =
        session->worker->now_ns + session->worker->config->timeouts.message_ms * NS_PER_MS;
    answer(session, transaction_data(session->transaction, event->chunked, &refusal), &refusal);
}

/* used: octets of the front that the step consumed; the body is the end of them. */
static void
on_body(struct session *session, const struct receiver_event *event, size_t used)
{
    ASSERT(event->body.len <= used);
    link_consume(&session->link, used - event->body.len);
    if (transaction_body(session->transaction, &session->link, event->body.len))
        return;
    counter_increment(&counters_of(session)->refusals_resources);
    receiver_end(&session->receiver, "4.3.1", SPAN("Out of memory for messages, try again later"),
                 &session->link.out);
}

static void
on_start_tls(struct session *session)
{
    /* Any plaintext that is here already was sent before our 220 could be seen (CVE-2011-0411). */
    if (link_unread(&session->link) > 0) {
        receiver_starttls_injection(&session->receiver, &session->link.out);
        return;
    }
    session->tls_pending = true;
}

/* Carries out one event. False: nothing more can be done now. */
static bool
session_event(struct session *session, const struct receiver_event *event, size_t used, size_t left)
{
    struct link *link = &session->link;

    if (event->kind == RECEIVER_BODY) {
        on_body(session, event, used);
        return true;
    }
    /* Spans of the event point into these octets: they are given back after the event. */
    switch (event->kind) {
    case RECEIVER_MAIL: on_mail(session, event); break;
    case RECEIVER_RECIPIENT: on_recipient(session, event); break;
    case RECEIVER_DATA: on_data(session, event); break;
    case RECEIVER_MESSAGE:
        session->waiting = true;
        transaction_complete(session->transaction, &event->summary);
        break;
    case RECEIVER_ABORT: transaction_drop(session); break;
    default: break;
    }
    link_consume(link, used);
    if (event->kind == RECEIVER_START_TLS)
        on_start_tls(session);
    else if (event->kind == RECEIVER_CLOSE)
        session_end(session, closed_how(session));
    else if (event->kind == RECEIVER_NEED_INPUT)
        return left > 0 ? link_extend(link) : link->in.count > 0;
    return true;
}

static bool
session_may_step(struct session *session)
{
    return !session->waiting && !session->ending && !session->tls_pending &&
           !session->link.closing && session->link.tls_state != LINK_HANDSHAKE;
}

void
session_run(struct session *session)
{
    struct link *link = &session->link;
    bool moved = false;

    session->wants_room = true; /* until it is known otherwise */
    while (session_may_step(session)) {
        struct receiver_event event;
        struct span front, in;
        size_t written, len;

        if (!link_room(link, RECEIVER_REPLY_ROOM)) {
            link_flush(link);
            if (link->sending || !link_room(link, RECEIVER_REPLY_ROOM))
                return; /* goes on when the send completes: a client that does not read is not read
                         */
        }
        front = in = link_front(link);
        written = link->out.len;
        receiver_step_to(&session->receiver, &in, &link->out, &event);
        len = link->out.len;
        moved |= len > written || event.kind != RECEIVER_NEED_INPUT;
        if (len > written && !session->waiting)
            log_refusal(session, span_of(link->out.data + written, len - written));
        if (event.kind == RECEIVER_NEED_ROOM) {
            /* The commands whose replies filled the block, and data that was dropped: read again
             * they would be obeyed again, or be commands of whoever wrote the data. */
#ifndef CANARY_COMMANDS_AGAIN
            link_consume(link, front.len - in.len);
#endif
            link_flush(link);
            if (link->sending && link->out.data == NULL)
                continue;
            return;
        }
        if (!session_event(session, &event, front.len - in.len, in.len))
            break;
    }
    session->wants_room = false;
    if (session->ending || link->closing)
        return;
    if (link_at_end(link) && session_may_step(session)) {
        /* The client has ended its stream and all of it was used. */
        session_end(session, &counters_of(session)->sessions_closed_lost);
        return;
    }
    if (session->worker->draining)
        session_drain(session, false);
    link_flush(link);
    /* A deadline is for a whole command or handshake: octets that complete none do not put it off.
     * Those of a message do, up to timeouts.message. */
    if (moved || receiver_waits_for(&session->receiver) == RECEIVER_WAITS_DATA)
        session_timeout_set(session);
}

void
session_verdict(struct session *session, const struct reply *reply)
{
    ASSERT(session->waiting);
    session->waiting = false;
    if (!link_room(&session->link, RECEIVER_REPLY_ROOM)) {
        /* No block for the reply: the client must not hear nothing and believe nothing. */
        session_break(session, &counters_of(session)->sessions_closed_error);
        return;
    }
    receiver_verdict(&session->receiver, reply, &session->link.out);
    session_timeout_set(session);
    worker_ready(session->worker, session);
}

/* It is in the middle of a message that is kept. */
static bool
session_in_data(const struct session *session)
{
    return session->transaction != NULL && !session->transaction->failed &&
           receiver_waits_for(&session->receiver) == RECEIVER_WAITS_DATA;
}

static bool
is_large(const struct transaction *transaction)
{
    return transaction->streaming || transaction->body.bytes > RECEIVE_BYTES_MOST;
}

/* Memory is short, and what the client sends now would be kept: message data, or what it may send
 * while it waits for a verdict or does not read our replies. */
static bool
stopped_by_memory(const struct session *session)
{
    const struct link *link = &session->link;
    enum memory_level level = session->worker->memory.level;
    bool data = session_in_data(session);

    if (level == MEMORY_PLENTY)
        return false;
    if (!data && !session->waiting)
        return link->in.count > 0;
    return level == MEMORY_OUT || link->in.count > 0 ||
           (data && session->transaction->body.bytes > 0);
}

/* How much of its input may come before we have looked at it. A large message may come in large
 * pieces: armed anew for each 64 KiB it costs a quarter more CPU (1 MiB). */
static enum link_receives
receives_of(const struct session *session)
{
    const struct transaction *transaction = session->transaction;
    bool data = session_in_data(session);

    if (session->worker->memory.level != MEMORY_PLENTY && (session->waiting || data))
        return LINK_RECEIVES_ONE;
    return data && is_large(transaction) ? LINK_RECEIVES_MUCH : LINK_RECEIVES_SOME;
}

/* Back-pressure: what a client sends faster than we can use stays in the kernel, and so with the
 * client. */
void
session_pressure(struct session *session)
{
    struct link *link = &session->link;
    const struct transaction *transaction = session->transaction;
    uint64_t unread = link_unread(link), body = 0,
             buffer = session->worker->config->delivery.buffer;
    bool stop;

    if (link->closing || session->ending)
        return;
    if (session->worker->memory.level == MEMORY_PLENTY && !link->paused &&
        link->receives == LINK_RECEIVES_SOME && unread <= UNREAD_HIGH_BYTES &&
        (transaction == NULL || !is_large(transaction)))
        return; /* nearly always */
    if (transaction != NULL && transaction->streaming)
        body = transaction_held(transaction);
    stop = stopped_by_memory(session);
    link_receives(link, receives_of(session));
    if (!link->paused && (stop || unread > UNREAD_HIGH_BYTES || body > buffer))
        link_pause(link);
    else if (link->paused && !stop && unread < UNREAD_LOW_BYTES && body <= buffer / 2)
        link_resume(link);
    if (stop && transaction != NULL)
        transaction_starved(session->transaction);
}

void
session_ready(struct session *session)
{
    session_run(session);
    session_pressure(session);
    if (session->link.closing && session->link.inflight == 0 && !session->on_ready)
        session_gone(session);
}

/* --- TLS --- */

static void
handshake_done(struct session *session)
{
    struct counters *counters = counters_of(session);
    const struct tls *tls = session->link.tls;

    counter_increment(&counters->tls_server_ok);
    if (tls_resumed(tls))
        counter_increment(&counters->tls_server_resumed);
    counter_increment(strcmp(tls_version(tls), "TLSv1.3") == 0 ? &counters->tls_server_version_1_3
                                                               : &counters->tls_server_version_1_2);
    histogram_observe(&counters->tls_handshake_server,
                      session->worker->now_ns - session->tls_started_ns);
    if (receiver_waits_for(&session->receiver) == RECEIVER_WAITS_TLS)
        receiver_tls_started(&session->receiver);
    session->tls_started_ns = 0;
    session_timeout_set(session);
    link_flush(&session->link); /* implicit TLS: the greeting */
}

/* After any completion: has the handshake moved on? */
static void
tls_look(struct session *session)
{
    struct link *link = &session->link;

    if (session->tls_pending && link_unread(link) > 0) {
        /* More plaintext before the 220 left us: an injection, too late for a reply. */
        counter_increment(&counters_of(session)->violations_starttls_injection);
        session_break(session, &counters_of(session)->sessions_closed_error);
        return;
    }
    if (session->tls_pending && link_drained(link)) {
        session->tls_pending = false;
        if (!start_tls(session)) {
            session_break(session, &counters_of(session)->sessions_closed_error);
            return;
        }
        session_timeout_set(session);
    }
    if (session->tls_started_ns == 0)
        return;
    if (link->tls_state == LINK_TLS) {
        handshake_done(session);
    } else if (link->failed || link->ended) {
        counter_increment(&counters_of(session)->tls_server_failed);
        log_tls_failure(session);
        session->tls_started_ns = 0;
        link_flush(link);
        session_break(session, &counters_of(session)->sessions_closed_error);
    }
}

/* --- completions and time --- */

static void
count_io(struct session *session, const struct io_completion *completion)
{
    struct counters *counters = counters_of(session);

    if (completion->op == IO_RECEIVE && completion->result > 0)
        counter_add(&counters->bytes_received, (uint64_t)completion->result);
    else if (completion->op == IO_SEND && completion->result > 0)
        counter_add(&counters->bytes_sent, (uint64_t)completion->result);
    else if (completion->op == IO_RECEIVE && io_error_is_no_buffer(completion->result))
        counter_increment(&counters->buffers_starved);
}

/* No part of a record waits for what a completed send sets free. */
static bool
tls_is_quiet(const struct session *session)
{
    const struct link *link = &session->link;

    return link->tls_state == LINK_TLS && session->tls_started_ns == 0 && link->cipher.count == 0 &&
           !link->plain_waits && !link->on_starved;
}

/* A reply is out and nothing waits for that: nearly half of a session's completions. Without this
 * they take some 2,000 more of 47,000 instructions per message. */
static bool
nothing_to_do(const struct session *session, const struct io_completion *completion)
{
    const struct link *link = &session->link;

    return completion->op == IO_SEND && link->in.count == 0 &&
           (link->tls_state == LINK_PLAIN || tls_is_quiet(session)) &&
           link->carry.data == NULL && !link->ended && !link->failed && !link->closing &&
           !link->paused && !session->wants_room && !session->tls_pending && !session->ending &&
           !session->worker->draining;
}

void
session_complete(struct session *session, const struct io_completion *completion)
{
    struct link *link = &session->link;

    count_io(session, completion);
    link_complete(link, completion);
    if (nothing_to_do(session, completion))
        return;
    if (link->on_starved && session->transaction != NULL && !link->closing)
        transaction_starved(session->transaction);
    if (!link->closing) {
        if (link->tls_state == LINK_HANDSHAKE || session->tls_pending ||
            session->tls_started_ns != 0)
            tls_look(session);
        if (session->ending) {
            if ((link->ended && link_drained(link)) || link->failed)
                link_close(link);
            else if (link_unread(link) > 0)
                link_consume(link, link_front(link).len);
        } else if (link->failed && !link->closing) {
            if (link->tls_state == LINK_TLS && tls_failure(link->tls).len > 0)
                log_tls_failure(session); /* a bad record, or an alert, in mid-session */
            session_break(session, &counters_of(session)->sessions_closed_lost);
        } else {
            session_run(session);
        }
        session_pressure(session);
    }
#ifdef CANARY_OLD_GENERATION
    if (link->closing && !session->on_ready)
#else
    if (link->closing && link->inflight == 0 && !session->on_ready)
#endif
        session_gone(session);
}

void
session_timer(struct session *session)
{
    struct link *link = &session->link;

    if (!session->ending && !link->closing && session->worker->now_ns < session->deadline_ns) {
        link_recheck(link);
        link->rechecked = true;
        timer_set(&session->worker->timers, &session->timer, session->deadline_ns);
        return;
    }

    if (session->ending && !link->closing && !link->finishing && !link->failed) {
        link_finish(link);
        timer_set(&session->worker->timers, &session->timer, session->worker->now_ns + LINGER_NS);
    } else if (session->ending || link->closing) {
        link_close(link);
    } else if (session->waiting) {
        session_timeout_set(session); /* the next hop's deadlines decide */
        return;
    } else if (link->tls_state == LINK_HANDSHAKE || session->tls_pending) {
        struct log_line line;

        counter_increment(&counters_of(session)->tls_server_failed);
        log_begin(&line, LOG_LEVEL_NOTICE, "tls_failed");
        log_client(&line, session);
        log_text(&line, "side", SPAN("server"));
        log_text(&line, "reason", SPAN("handshake timed out"));
        log_end(&line);
        session_break(session, &counters_of(session)->sessions_closed_timeout);
    } else if (link->sending || !link_room(link, RECEIVER_REPLY_ROOM)) {
        /* The client does not even read what we said before. */
        session_break(session, &counters_of(session)->sessions_closed_timeout);
    } else {
        counter_increment(&counters_of(session)->refusals_timeout);
        session->timed_out = true;
        receiver_end(&session->receiver, "4.4.2", SPAN("Timeout, closing connection"), &link->out);
        log_refusal(session, outbuf_span(&link->out));
        session_run(session);
    }
    if (link->closing && link->inflight == 0 && !session->on_ready)
        session_gone(session);
}

void
session_drain(struct session *session, bool now)
{
    if (session->waiting || session->ending || session->link.closing ||
        (!now && !receiver_idle(&session->receiver)) || session->link.tls_state == LINK_HANDSHAKE ||
        session->tls_pending || !link_room(&session->link, RECEIVER_REPLY_ROOM))
        return;
    session->drained = true;
    counter_increment(&counters_of(session)->refusals_draining);
    receiver_end(&session->receiver, "4.3.2", SPAN("Service shutting down"), &session->link.out);
    worker_ready(session->worker, session);
}

void
session_stalled(struct session *session, struct span reason, uint32_t buffers)
{
    struct link *link = &session->link;
    struct log_line line;

    ASSERT(!session->waiting && !session->ending && !link->closing);
    session->stalled = true;
    counter_increment(&counters_of(session)->refusals_stalled);
    log_begin(&line, LOG_LEVEL_NOTICE, "stalled");
    if (session->transaction != NULL)
        log_id(&line, span_text(session->transaction->id));
    log_client(&line, session);
    log_text(&line, "reason", reason);
    log_number(&line, "buffers", buffers);
    log_duration(&line, "since", session->worker->now_ns - session->mark.at_ns);
    log_end(&line);
    if (link->tls_state == LINK_HANDSHAKE || session->tls_pending || link->sending ||
        !link_room(link, RECEIVER_REPLY_ROOM)) {
        session_break(session, &counters_of(session)->sessions_closed_stalled);
    } else {
        receiver_end(&session->receiver, "4.3.1",
                     SPAN("Stopped while others wait, closing connection"), &link->out);
        session_run(session);
    }
    if (link->closing && link->inflight == 0 && !session->on_ready)
        session_gone(session);
}
