/* A sink's session: the loop between receiver and link, with a place for a fault before each thing that is said. */
#include "relay/sink_session.h"

#include <stdio.h>

#include "core/clock.h"

/* After our FIN: how long we wait for the client's. */
#define LINGER_NS (2 * NS_PER_S)
/* Octets received and not used above which no more are taken from the kernel. */
#define UNREAD_HIGH_BYTES (4 * BUFFER_BYTES)
/* How often a slowed session reads. */
#define SLOW_STEP_NS (50 * NS_PER_MS)
/* Until there is room for a reply again. */
#define ROOM_RETRY_NS (10 * NS_PER_MS)

static void run(struct sink_session *session);

static void
timer_start(struct sink_session *session, uint64_t after_ns)
{
    timer_set(&session->thread->timers, &session->timer, session->thread->now_ns + after_ns);
}

static void
idle_timer_start(struct sink_session *session)
{
    timer_start(session, session->thread->sink->idle_ms * NS_PER_MS);
}

static struct sink_maildir *
maildir_of(struct sink_session *session)
{
    return &session->thread->maildir;
}

/* --- the end --- */

/* What is written goes out, then our FIN, then the client's end is awaited. */
static void
finish(struct sink_session *session)
{
    session->ending = true;
    session->waiting = false;
    link_finish(&session->link);
    timer_start(session, LINGER_NS);
}

/* Closed without another word; what was said before still goes out. */
static void
drop(struct sink_session *session)
{
    struct link *link = &session->link;

    if (link->sending || link->out.data != NULL) {
        session->dropping = true;
        finish(session);
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

    if (!session->link.closing || session->link.inflight > 0)
        return;
    sink_message_drop(&session->message, maildir_of(session));
    sink_message_free(&session->message);
    timer_cancel(&thread->timers, &session->timer);
    link_release(&session->link);
    pool_release(&thread->sessions, session);
}

/* --- words --- */

static void
say(struct sink_session *session, const struct sink_fault *fault)
{
    const struct reply *reply = &fault->reply;

    ASSERT(session->link.out.data != NULL);
    if (fault->action == SINK_RAW)
        (void)outbuf_add_some(&session->link.out, span_of(reply->text, reply->text_len));
    else
        reply_write(reply, reply->enhanced.class != 0, &session->link.out);
}

/* What the receiver must be told so that it goes on as if it had said the fault's reply itself. */
static void
verdict(struct sink_session *session, const struct sink_fault *fault)
{
    char silence[RECEIVER_REPLY_ROOM];
    struct outbuf scratch = { .data = silence, .size = sizeof(silence) };
    unsigned class = fault->action == SINK_RAW ? 0 : reply_class(&fault->reply);
    struct reply refusal;

    if (session->stage == SINK_DATA && class == 3) {
        receiver_accept(&session->receiver, &scratch);
    } else if (class >= 4 || (class == 2 && session->stage != SINK_DATA)) {
        receiver_verdict(&session->receiver, &fault->reply, &scratch);
    } else {
        /* "250" to DATA and the like: nothing that a client may go on from. */
        reply_set(&refusal, 554, "5.5.0", SPAN("Refused"));
        receiver_verdict(&session->receiver, &refusal, &scratch);
    }
    say(session, fault);
}

/* The line at the front is used up, in silence; with `heard` the receiver acts on it. */
static void
line_swallow(struct sink_session *session, bool heard)
{
    struct span front = link_front(&session->link);
    size_t len = (size_t)((const char *)memchr(front.data, '\n', front.len) - front.data) + 1;
    struct span line = span_first(front, len);

    while (heard && line.len > 0) {
        char silence[RECEIVER_REPLY_ROOM];
        struct outbuf scratch = { .data = silence, .size = sizeof(silence) };
        struct receiver_event event = receiver_step(&session->receiver, &line, &scratch);

        if (event.kind == RECEIVER_ABORT)
            sink_message_drop(&session->message, maildir_of(session));
        else if (event.kind != RECEIVER_NEED_INPUT)
            break;
    }
    link_consume(&session->link, len);
}

/* --- stages --- */

static void stage_enter(struct sink_session *session, enum sink_stage stage);

static void
start_tls(struct sink_session *session)
{
    struct tls *tls = tls_create_server(session->thread->sink->tls);

    if (tls == NULL) {
        link_close(&session->link);
        return;
    }
    session->tls_shaking = true;
    link_start_tls(&session->link, tls);
}

static void
greet(struct sink_session *session)
{
    struct sink_thread *thread = session->thread;

    receiver_start(&session->receiver, &thread->sink->policy, &thread->counters,
                   session->link.tls_state == LINK_TLS, &session->link.out);
    session->started = true;
}

static void
body_begin(struct sink_session *session)
{
    session->body = true;
    session->body_octets = 0;
    session->body_fault = NULL;
    stage_enter(session, SINK_BODY);
}

static void
print_message(const struct sink_session *session, const char *what)
{
    const struct sink_message *message = &session->message;
    struct span rest = sink_text_span(&message->recipients);
    char line[1024];
    struct outbuf out = { .data = line, .size = sizeof(line) - 1 };

    (void)outbuf_add_some(&out, SPAN("from=<"));
    (void)outbuf_add_some(&out, sink_text_span(&message->from));
    (void)outbuf_add_some(&out, SPAN("> to="));
    while (rest.len > 0 && outbuf_room(&out) > 0) {
        const char *stop = memchr(rest.data, '\n', rest.len);
        size_t len = (size_t)(stop - rest.data);

        (void)outbuf_add_some(&out, SPAN("<"));
        (void)outbuf_add_some(&out, span_first(rest, len));
        (void)outbuf_add_some(&out, rest.len > len + 1 ? SPAN(">,") : SPAN(">"));
        span_advance(&rest, len + 1);
    }
    printf("sink: message %.*s size=%llu %s\n", (int)out.len, line,
           (unsigned long long)session->size, what);
}

/* The message is whole, and no fault denies it. */
static void
message_keep(struct sink_session *session)
{
    struct sink_thread *thread = session->thread;

    session->stored = thread->sink->maildir == NULL ||
                      sink_message_keep(&session->message, &thread->maildir, session->chunked);
    if (!session->stored) {
        fprintf(stderr, "ringpost: sink: cannot store a message: %s\n",
                sink_maildir_error(&thread->maildir));
        return;
    }
    counter_increment(&thread->counts.messages);
    counter_add(&thread->counts.bytes, session->size);
    if (thread->sink->loudness == SINK_VERBOSE)
        print_message(session, "kept");
}

/* Accepts the address at hand; fault: with its words. */
static void
path_accept(struct sink_session *session, const struct sink_fault *fault)
{
    struct span path = span_of(session->path, session->path_len);
    bool good = session->stage == SINK_MAIL ? sink_message_from(&session->message, path)
                                            : sink_message_recipient(&session->message, path);
    struct reply refusal;

    if (!good) {
        reply_set(&refusal, 452, "4.3.1", SPAN("Out of memory"));
        receiver_verdict(&session->receiver, &refusal, &session->link.out);
    } else if (fault != NULL) {
        verdict(session, fault);
    } else {
        receiver_accept(&session->receiver, &session->link.out);
    }
}

static void
pass_end(struct sink_session *session)
{
    struct reply reply;

    if (session->stored)
        reply_set(&reply, 250, "2.0.0", SPAN("Ok"));
    else
        reply_set(&reply, 451, "4.3.0", SPAN("Cannot store the message"));
    receiver_verdict(&session->receiver, &reply, &session->link.out);
    sink_message_drop(&session->message, maildir_of(session));
}

/* No fault: what always happens. */
static void
stage_pass(struct sink_session *session)
{
    switch (session->stage) {
    case SINK_CONNECT:
        stage_enter(session, session->thread->sink->implicit ? SINK_TLS : SINK_GREETING);
        break;
    case SINK_TLS:
        start_tls(session);
        break;
    case SINK_GREETING:
        greet(session);
        break;
    case SINK_MAIL:
    case SINK_RCPT:
        path_accept(session, NULL);
        break;
    case SINK_DATA:
        receiver_accept(&session->receiver, &session->link.out);
        body_begin(session);
        break;
    case SINK_BODY:
        break;
    case SINK_END:
        pass_end(session);
        break;
    default:
        session->passed = true; /* the receiver may have the line */
        break;
    }
}

static void
stage_reply(struct sink_session *session)
{
    const struct sink_fault *fault = session->fault;
    unsigned code = fault->action == SINK_RAW ? 0 : fault->reply.code;
    char silence[RECEIVER_REPLY_ROOM];
    struct outbuf scratch = { .data = silence, .size = sizeof(silence) };

    switch (session->stage) {
    case SINK_CONNECT:
    case SINK_BODY:
        say(session, fault);
        finish(session);
        return;
    case SINK_GREETING:
        receiver_start(&session->receiver, &session->thread->sink->policy,
                       &session->thread->counters, session->link.tls_state == LINK_TLS, &scratch);
        session->started = true;
        session->rejecting = code / 100 != 2 && fault->action != SINK_RAW;
        say(session, fault);
        break;
    case SINK_MAIL:
    case SINK_RCPT:
        if (code / 100 == 2)
            path_accept(session, fault);
        else
            verdict(session, fault);
        return; /* the receiver knows what a 421 is */
    case SINK_END:
        if (code / 100 == 2 && !session->stored) {
            pass_end(session);
            return;
        }
        verdict(session, fault);
        sink_message_drop(&session->message, maildir_of(session));
        return;
    case SINK_DATA:
        if (!session->chunked)
            verdict(session, fault);
        else if (code >= 400) /* told after the octets of the chunk */
            receiver_verdict(&session->receiver, &fault->reply, &session->link.out);
        else
            receiver_accept(&session->receiver, &session->link.out);
        if (code / 100 == 3 || (session->chunked && code < 400))
            body_begin(session);
        return;
    default: /* a command that the receiver decides about: it hears it if it is accepted */
        line_swallow(session, code / 100 == 2 && session->stage != SINK_STARTTLS);
        say(session, fault);
        break;
    }
    if (code == 421 || session->stage == SINK_QUIT)
        finish(session);
}

static void
fault_count(struct sink_session *session)
{
    struct sink_thread *thread = session->thread;

    counter_increment(&thread->counts.faults);
    if (thread->sink->loudness == SINK_VERBOSE)
        printf("sink: fault %s\n", session->fault->spec);
}

/* The delay is over, if there was one. */
static void
stage_act(struct sink_session *session)
{
    if (session->fault == NULL) {
        stage_pass(session);
        return;
    }
    if (session->stage == SINK_BODY && session->body_fault == NULL) {
        session->body_fault = session->fault; /* when its octets are here: see body_admit() */
        session->body_begun_ns = session->thread->now_ns;
        return;
    }
    fault_count(session);
    switch (session->fault->action) {
    case SINK_REPLY:
    case SINK_RAW:
        stage_reply(session);
        break;
    case SINK_DROP:
        drop(session);
        break;
    case SINK_STALL:
        session->waiting = session->stalled = true;
        break;
    case SINK_DELAY:
    case SINK_SLOW:
        ASSERT(!"neither is decided here");
    }
}

/* Whether the message of this END counts as taken. */
static bool
keeps(const struct sink_fault *fault)
{
    return fault == NULL || fault->keep ||
           (fault->action == SINK_REPLY && reply_class(&fault->reply) == 2);
}

static void
stage_enter(struct sink_session *session, enum sink_stage stage)
{
    struct sink_thread *thread = session->thread;
    struct sink_decision decision = { .fault = NULL };

    session->stage = stage;
    session->passed = false;
    if (sink_faults_have(&thread->sink->faults, stage)) {
        struct sink_occasion occasion = {
            .stage = stage,
            .path = span_of(session->path, session->path_len),
            .from = sink_text_span(&session->message.from),
            .recipients = sink_text_span(&session->message.recipients),
        };

        if (stage == SINK_MAIL)
            occasion.from = occasion.path;
        decision = sink_faults_decide(&thread->sink->faults, &occasion, &thread->random);
    }
    session->fault = decision.fault;
    /* Before any delay: a server that is slow to answer has the message all the same (RFC 1047). */
    if (stage == SINK_END && keeps(session->fault))
        message_keep(session);
    if (decision.delay_ms > 0) {
        session->waiting = true;
        timer_start(session, decision.delay_ms * NS_PER_MS);
        return;
    }
    stage_act(session);
}

/* --- faults between the receiver's events --- */

/* The command at the front, if it is one that a fault can be for. False: wait, or it was dealt with: look again. */
static bool
line_admit(struct sink_session *session, struct span front)
{
    static const struct {
        struct span verb;
        enum sink_stage stage;
    } verbs[] = { { { "EHLO", 4 }, SINK_EHLO }, { { "HELO", 4 }, SINK_HELO },
                  { { "RSET", 4 }, SINK_RSET }, { { "QUIT", 4 }, SINK_QUIT },
                  { { "STARTTLS", 8 }, SINK_STARTTLS } };
    const struct sink_faults *faults = &session->thread->sink->faults;

    if ((faults->stages & (1u << SINK_EHLO | 1u << SINK_HELO | 1u << SINK_RSET | 1u << SINK_QUIT |
                           1u << SINK_STARTTLS)) == 0 ||
        session->passed || receiver_waits_for(&session->receiver) != RECEIVER_WAITS_COMMAND)
        return true;
    if (front.len == 0 || memchr(front.data, '\n', front.len) == NULL)
        return true; /* a part of a line: the receiver waits too */
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (!sink_faults_have(faults, verbs[i].stage) ||
            !span_starts_ignore_case(front, verbs[i].verb))
            continue;
        stage_enter(session, verbs[i].stage);
        return false;
    }
    return true;
}

/* How much of the body at the front may be used now: shortens *in. False: nothing. */
static bool
body_admit(struct sink_session *session, struct span *in)
{
    const struct sink_fault *fault = session->body_fault;
    uint64_t most, elapsed_ns = session->thread->now_ns - session->body_begun_ns;

    if (!session->body || fault == NULL || in->len == 0 ||
        receiver_waits_for(&session->receiver) != RECEIVER_WAITS_DATA)
        return true;
    if (fault->action == SINK_SLOW) {
        most = (uint64_t)((double)fault->number * (double)elapsed_ns / (double)NS_PER_S);
        most = most > session->body_octets ? most - session->body_octets : 0;
        session->slowed = most == 0;
        if (session->slowed)
            timer_start(session, fault->number >= 20 ? SLOW_STEP_NS : NS_PER_S / fault->number);
    } else {
        ASSERT(session->body_octets <= fault->number);
        most = fault->number - session->body_octets;
        if (most == 0)
            stage_act(session);
    }
    if (in->len > most)
        *in = span_first(*in, (size_t)most);
    return most > 0;
}

/* After a greeting that refuses (RFC 5321 3.1): 503 to everything but QUIT. False: wait. */
static bool
line_reject(struct sink_session *session, struct span front)
{
    struct link *link = &session->link;
    bool quit = span_starts_ignore_case(front, SPAN("QUIT"));

    if (front.len == 0 || memchr(front.data, '\n', front.len) == NULL) {
        if (front.len > BLOCK_BYTES / 2)
            drop(session);
        return front.len > 0 && link_extend(link);
    }
    line_swallow(session, false);
    if (quit) {
        outbuf_add(&link->out, SPAN("221 2.0.0 Bye\r\n"));
        finish(session);
        return false;
    }
    outbuf_add(&link->out, SPAN("503 5.5.1 No service here, only QUIT\r\n"));
    return true;
}

/* --- the receiver's events --- */

static void
on_path(struct sink_session *session, const struct path *path, enum sink_stage stage)
{
    ASSERT(path->mailbox.len <= sizeof(session->path));
    memcpy(session->path, path->mailbox.data, path->mailbox.len);
    session->path_len = path->mailbox.len;
    stage_enter(session, stage);
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
    receiver_end(&session->receiver, "4.3.0", SPAN("Cannot store the message"),
                 &session->link.out);
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
        stage_enter(session, SINK_DATA);
        break;
    case RECEIVER_MESSAGE:
        session->body = false;
        session->size = event->summary.size;
        stage_enter(session, SINK_END);
        break;
    case RECEIVER_ABORT:
        session->body = false;
        sink_message_drop(&session->message, maildir_of(session));
        break;
    case RECEIVER_START_TLS:
        on_start_tls(session);
        break;
    case RECEIVER_CLOSE:
        finish(session);
        break;
    case RECEIVER_NEED_INPUT:
        return left > 0 ? link_extend(link) : link->in.count > 0;
    default:
        break;
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
        return line_reject(session, front);
    if (!line_admit(session, front))
        return true;
    if (!body_admit(session, &in))
        return false;
    offered = in.len;
    event = receiver_step(&session->receiver, &in, &link->out);
    if (offered > in.len)
        session->passed = false;
    if (event.kind == RECEIVER_NEED_ROOM) {
        link_flush(link);
        return link->sending && link->out.data == NULL;
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
        finish(session);
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
    struct link *link = &session->link;
    uint64_t unread = link_unread(link);

    if (link->closing || session->ending)
        return;
    if (!link->paused && unread > UNREAD_HIGH_BYTES)
        link_pause(link);
    else if (link->paused && unread < UNREAD_HIGH_BYTES / 4)
        link_resume(link);
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
        stage_enter(session, SINK_TLS);
    }
    if (!session->tls_shaking || link->closing)
        return;
    if (link->tls_state == LINK_TLS) {
        session->tls_shaking = false;
        if (session->started)
            receiver_tls_started(&session->receiver);
        else if (link_room(link, RECEIVER_REPLY_ROOM))
            stage_enter(session, SINK_GREETING);
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

/* Nothing that still comes is looked at. */
static void
ending_look(struct sink_session *session)
{
    struct link *link = &session->link;
    struct span front;

    while ((front = link_front(link)).len > 0)
        link_consume(link, front.len);
    if (link->failed || (link->finished && link_drained(link) && (link->ended || session->dropping)))
        link_close(link);
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
        stage_enter(session, SINK_CONNECT);
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
        if (session->ending)
            ending_look(session);
        else if (link->failed || (session->stalled && link->ended))
            link_close(link);
        else
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
            timer_start(session, ROOM_RETRY_NS);
        } else {
            session->waiting = false;
            stage_act(session);
            run(session);
        }
    } else if (session->slowed) {
        session->slowed = false;
        run(session);
        pressure(session);
    } else if (session->active_ns + idle_ns <= session->thread->now_ns) {
        link_close(link);
    } else {
        timer_start(session, session->active_ns + idle_ns - session->thread->now_ns);
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
