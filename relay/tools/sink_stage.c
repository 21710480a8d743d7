/* What a sink's session does at each stage, and what a fault makes of it. */
#include <stdio.h>

#include "core/clock.h"
#include "relay/tools/sink_private.h"

/* How often a slowed session reads. */
#define SLOW_STEP_NS (50 * NS_PER_MS)

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

/* The same for words that the receiver knows nothing of: it cannot count them as refusals. */
static void
say_alone(struct sink_session *session, const struct sink_fault *fault)
{
    struct counters *counters = &session->thread->counters;
    unsigned class = fault->action == SINK_RAW ? 0 : reply_class(&fault->reply);

    if (class == 4)
        counter_increment(&counters->replies_4xx);
    else if (class == 5)
        counter_increment(&counters->replies_5xx);
    say(session, fault);
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
            sink_message_drop(&session->message, &session->thread->maildir);
        else if (event.kind != RECEIVER_NEED_INPUT)
            break;
    }
    link_consume(&session->link, len);
}

/* --- stages --- */

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
    sink_stage_enter(session, SINK_BODY);
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
    sink_message_drop(&session->message, &session->thread->maildir);
}

/* No fault: what always happens. */
static void
stage_pass(struct sink_session *session)
{
    switch (session->stage) {
    case SINK_CONNECT:
        sink_stage_enter(session, session->thread->sink->implicit ? SINK_TLS : SINK_GREETING);
        break;
    case SINK_TLS: start_tls(session); break;
    case SINK_GREETING: greet(session); break;
    case SINK_MAIL:
    case SINK_RCPT: path_accept(session, NULL); break;
    case SINK_DATA:
        receiver_accept(&session->receiver, &session->link.out);
        body_begin(session);
        break;
    case SINK_BODY: break;
    case SINK_END: pass_end(session); break;
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
        say_alone(session, fault);
        sink_session_finish(session);
        return;
    case SINK_GREETING:
        receiver_start(&session->receiver, &session->thread->sink->policy,
                       &session->thread->counters, session->link.tls_state == LINK_TLS, &scratch);
        session->started = true;
        session->rejecting = code / 100 != 2 && fault->action != SINK_RAW;
        say_alone(session, fault);
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
        sink_message_drop(&session->message, &session->thread->maildir);
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
        say_alone(session, fault);
        break;
    }
    if (code == 421 || session->stage == SINK_QUIT)
        sink_session_finish(session);
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
void
sink_stage_act(struct sink_session *session)
{
    if (session->fault == NULL) {
        stage_pass(session);
        return;
    }
    if (session->stage == SINK_BODY && session->body_fault == NULL) {
        session->body_fault = session->fault; /* when its octets are here: see sink_body_admit() */
        session->body_begun_ns = session->thread->now_ns;
        if (session->fault->action == SINK_SLOW)
            fault_count(session);
        return;
    }
    fault_count(session);
    switch (session->fault->action) {
    case SINK_REPLY:
    case SINK_RAW: stage_reply(session); break;
    case SINK_DROP: sink_session_drop(session); break;
    case SINK_STALL: session->waiting = session->stalled = true; break;
    case SINK_DELAY:
    case SINK_SLOW: ASSERT(false); /* neither is decided here */
    }
}

/* Whether the message of this END counts as taken. */
static bool
keeps(const struct sink_fault *fault)
{
    return fault == NULL || fault->keep ||
           (fault->action == SINK_REPLY && reply_class(&fault->reply) == 2);
}

void
sink_stage_enter(struct sink_session *session, enum sink_stage stage)
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
        sink_timer_start(session, decision.delay_ms * NS_PER_MS);
        return;
    }
    sink_stage_act(session);
}

/* --- faults between the receiver's events --- */

static bool
commands_have_faults(const struct sink_session *session)
{
    return (session->thread->sink->faults.stages &
            (1u << SINK_EHLO | 1u << SINK_HELO | 1u << SINK_RSET | 1u << SINK_QUIT |
             1u << SINK_STARTTLS)) != 0;
}

/* The receiver takes all the lines that it is given, and a chunk behind its BDAT: where a fault may
 * be for the next of them it is given one line at a time. */
void
sink_line_limit(const struct sink_session *session, struct span *in)
{
    const char *end;

    if (receiver_waits_for(&session->receiver) != RECEIVER_WAITS_COMMAND || in->len == 0 ||
        !(commands_have_faults(session) || (session->body && session->body_fault != NULL)))
        return;
    end = memchr(in->data, '\n', in->len);
    if (end != NULL)
        *in = span_first(*in, (size_t)(end - in->data) + 1);
}

/* The command at the front, if it is one that a fault can be for. DEALT_WITH: look again. */
enum sink_line
sink_line_admit(struct sink_session *session, struct span front)
{
    static const struct {
        struct span verb;
        enum sink_stage stage;
    } verbs[] = { { { "EHLO", 4 }, SINK_EHLO },
                  { { "HELO", 4 }, SINK_HELO },
                  { { "RSET", 4 }, SINK_RSET },
                  { { "QUIT", 4 }, SINK_QUIT },
                  { { "STARTTLS", 8 }, SINK_STARTTLS } };
    const struct sink_faults *faults = &session->thread->sink->faults;

    if (session->passed || front.len == 0 || !commands_have_faults(session) ||
        receiver_waits_for(&session->receiver) != RECEIVER_WAITS_COMMAND)
        return SINK_LINE_ADMITTED;
    if (memchr(front.data, '\n', front.len) == NULL) {
        /* The receiver remembers what it saw of a line: a part is not for it before we know that
         * the whole is. What is too long is for it alone. */
        session->passed = front.len >= COMMAND_LINE_BYTES_MAX;
        return session->passed ? SINK_LINE_ADMITTED : SINK_LINE_PART;
    }
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (!sink_faults_have(faults, verbs[i].stage) ||
            !span_starts_ignore_case(front, verbs[i].verb))
            continue;
        sink_stage_enter(session, verbs[i].stage);
        return SINK_LINE_DEALT_WITH;
    }
    return SINK_LINE_ADMITTED;
}

/* How much of the body at the front may be used now: shortens *in. False: nothing. */
bool
sink_body_admit(struct sink_session *session, struct span *in)
{
    const struct sink_fault *fault = session->body_fault;
    uint64_t most, elapsed_ns = session->thread->now_ns - session->body_begun_ns;

    if (!session->body || fault == NULL || in->len == 0 ||
        receiver_waits_for(&session->receiver) != RECEIVER_WAITS_DATA)
        return true;
    if (fault->action == SINK_SLOW) {
        double all = (double)fault->number * (double)elapsed_ns / (double)NS_PER_S;

        most = all < (double)INT64_MAX ? (uint64_t)all : INT64_MAX;
        most = most > session->body_octets ? most - session->body_octets : 0;
        session->slowed = most == 0;
        if (session->slowed)
            sink_timer_start(session,
                             fault->number >= 20 ? SLOW_STEP_NS : NS_PER_S / fault->number);
    } else {
        ASSERT(session->body_octets <= fault->number);
        most = fault->number - session->body_octets;
        if (most == 0) {
            /* Between chunks other commands were at their stages. */
            session->stage = SINK_BODY;
            session->fault = fault;
            sink_stage_act(session);
        }
    }
    if (in->len > most)
        *in = span_first(*in, (size_t)most);
    return most > 0;
}

/* After a greeting that refuses (RFC 5321 3.1): 503 to everything but QUIT. False: wait. */
bool
sink_line_reject(struct sink_session *session, struct span front)
{
    struct link *link = &session->link;
    bool quit = span_starts_ignore_case(front, SPAN("QUIT"));

    if (front.len == 0 || memchr(front.data, '\n', front.len) == NULL) {
        if (front.len > BLOCK_BYTES / 2)
            sink_session_drop(session);
        return front.len > 0 && link_extend(link);
    }
    line_swallow(session, false);
    if (quit) {
        outbuf_add(&link->out, SPAN("221 2.0.0 Bye\r\n"));
        sink_session_finish(session);
        return false;
    }
    counter_increment(&session->thread->counters.replies_5xx);
    outbuf_add(&link->out, SPAN("503 5.5.1 No service here, only QUIT\r\n"));
    return true;
}
