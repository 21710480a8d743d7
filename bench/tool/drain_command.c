/* The sink's side of SMTP: constant replies to commands that are told by four letters. */
#include "bench/tool/drain_private.h"
#include "core/reply.h"

#define ROOM RECEIVER_REPLY_ROOM
#define LINE_BYTES_MAX 4096

/* --- what a message was --- */

static void
message_record(struct drain_session *session, unsigned code)
{
    struct drain_thread *thread = session->thread;
    struct intake *intake = &session->intake;
    struct ledger_record record = {
        .id = intake->id,
        .foreign = !intake->identified,
        .code = (uint16_t)code,
        .recipients = session->recipients,
        .size = intake->size,
        .digest = intake->digest,
        .time_us = (thread->now_ns + thread->realtime_offset_ns) / 1000,
    };

    if (code / 100 == 2) {
        thread->counts.messages++;
        thread->counts.recipients += session->recipients;
        thread->counts.bytes += intake->size;
    } else if (code != 0) {
        thread->counts.refused++;
    } else {
        thread->counts.unanswered++;
    }
    thread->counts.foreign += intake->summing && !intake->identified;
    ledger_add(&thread->ledger, &record);
}

static void
transaction_end(struct drain_session *session)
{
    session->mail = false;
    session->begun = false;
    session->recipients = 0;
}

/* --- stages --- */

static void
say(struct drain_session *session, struct span text)
{
    outbuf_add(&session->link.out, text);
}

static void
end_good(struct drain_session *session)
{
    struct drain_thread *thread = session->thread;
    struct outbuf *out = &session->link.out;

    outbuf_add(out, SPAN("250 2.0.0 Ok: queued as "));
    outbuf_add_number(out, thread->index);
    outbuf_add_char(out, '-');
    outbuf_add_number(out, ++thread->serial);
    outbuf_add(out, SPAN("\r\n"));
    message_record(session, 250);
    transaction_end(session);
}

static void
ehlo_good(struct drain_session *session)
{
    const struct drain_plan *plan = session->thread->plan;

    transaction_end(session);
    if (plan->tls != NULL && !plan->implicit && session->link.tls_state == LINK_PLAIN)
        say(session, span_of(plan->ehlo, plan->ehlo_len));
    else
        say(session, span_of(plan->ehlo_tls, plan->ehlo_tls_len));
}

static void
stage_good(struct drain_session *session)
{
    const struct drain_plan *plan = session->thread->plan;

    switch ((enum sink_stage)session->stage) {
    case SINK_GREETING: say(session, span_of(plan->greeting, plan->greeting_len)); break;
    case SINK_EHLO: ehlo_good(session); break;
    case SINK_HELO:
        transaction_end(session);
        say(session, SPAN("250 hello\r\n"));
        break;
    case SINK_STARTTLS:
        say(session, SPAN("220 2.0.0 Go on\r\n"));
        session->tls_pending = true;
        break;
    case SINK_MAIL:
        session->mail = true;
        say(session, SPAN("250 2.1.0 Ok\r\n"));
        break;
    case SINK_RCPT:
        session->recipients++;
        say(session, SPAN("250 2.1.5 Ok\r\n"));
        break;
    case SINK_DATA:
        session->data = true;
        intake_start(&session->intake, true, session->thread->ledger.file >= 0);
        say(session, SPAN("354 Go on\r\n"));
        break;
    case SINK_END: end_good(session); break;
    case SINK_RSET:
        transaction_end(session);
        say(session, SPAN("250 2.0.0 Ok\r\n"));
        break;
    case SINK_QUIT:
        say(session, SPAN("221 2.0.0 Bye\r\n"));
        drain_session_finish(session);
        break;
    case SINK_CONNECT:
    case SINK_TLS:
    case SINK_BODY:
    case SINK_STAGES: ASSERT(!"a stage that is acted upon");
    }
}

/* A reply of a fault in place of the right one. */
static void
fault_reply(struct drain_session *session, const struct sink_fault *fault)
{
    if (fault->action == SINK_RAW)
        (void)outbuf_add_some(&session->link.out,
                              span_of(fault->reply.text, fault->reply.text_len));
    else
        reply_write(&fault->reply, fault->reply.enhanced.class != 0, &session->link.out);
    if (session->stage == SINK_GREETING)
        session->rejecting = true;
    if (session->stage == SINK_END) {
        message_record(session, fault->action == SINK_RAW ? 0 : fault->reply.code);
        transaction_end(session);
    }
    if (fault->action != SINK_RAW && fault->reply.code == 421)
        drain_session_finish(session);
}

void
drain_stage_act(struct drain_session *session)
{
    const struct sink_fault *fault = session->fault;

    session->fault = NULL;
    if (fault == NULL) {
        stage_good(session);
        return;
    }
    session->thread->counts.faults++;
    switch (fault->action) {
    case SINK_REPLY:
    case SINK_RAW: fault_reply(session, fault); return;
    case SINK_DROP:
    case SINK_STALL:
        if (session->stage == SINK_END) {
            message_record(session, fault->keep ? 250 : 0);
            transaction_end(session);
        }
        if (fault->action == SINK_DROP)
            drain_session_drop(session);
        else
            session->waiting = true;
        return;
    case SINK_DELAY:
    case SINK_SLOW: ASSERT(!"delays were added up, and slow bodies refused at the start");
    }
}

void
drain_stage_enter(struct drain_session *session, enum sink_stage stage)
{
    struct drain_thread *thread = session->thread;
    struct drain_plan *plan = thread->plan;
    uint64_t delay_ns = 0;

    session->stage = (uint8_t)stage;
    session->fault = NULL;
    if (plan->delays[stage].count > 0)
        delay_ns = distribution_draw(&plan->delays[stage], &thread->random);
    if (sink_faults_have(&plan->faults, stage)) {
        struct sink_occasion occasion = { .stage = stage,
                                          .path = span_of(session->path, session->path_len),
                                          .from = span_of(session->from, session->from_len) };
        struct sink_decision decision;

        thread->random |= thread->random == 0;
        decision = sink_faults_decide(&plan->faults, &occasion, &thread->random);
        session->fault = decision.fault;
        delay_ns += decision.delay_ms * 1000000;
    }
    if (delay_ns == 0) {
        drain_stage_act(session);
        return;
    }
    thread->counts.delays++;
    session->waiting = true;
    drain_later(thread, session, thread->now_ns + delay_ns);
}

/* --- commands --- */

/* What is between < and > of MAIL and RCPT; only patterns of faults want to know. */
static void
path_note(struct drain_session *session, struct span line)
{
    const char *begin = memchr(line.data, '<', line.len);
    const char *end =
        begin != NULL ? memchr(begin, '>', line.len - (size_t)(begin - line.data)) : NULL;
    size_t len = end != NULL ? (size_t)(end - begin) - 1 : 0;

    if (len > sizeof(session->path))
        len = sizeof(session->path);
    if (len > 0)
        memcpy(session->path, begin + 1, len);
    session->path_len = (uint16_t)len;
}

static void
on_mail(struct drain_session *session, struct span line)
{
    if (session->mail) {
        say(session, SPAN("503 5.5.1 A transaction is open\r\n"));
        return;
    }
    if (session->thread->plan->faults.count > 0) {
        path_note(session, line);
        memcpy(session->from, session->path, session->path_len);
        session->from_len = session->path_len;
    }
    drain_stage_enter(session, SINK_MAIL);
}

static void
on_rcpt(struct drain_session *session, struct span line)
{
    if (!session->mail) {
        say(session, SPAN("503 5.5.1 MAIL first\r\n"));
        return;
    }
    if (session->thread->plan->faults.count > 0)
        path_note(session, line);
    drain_stage_enter(session, SINK_RCPT);
}

static void
on_data(struct drain_session *session)
{
    if (session->recipients == 0 || session->begun)
        say(session, SPAN("503 5.5.1 RCPT first\r\n"));
    else
        drain_stage_enter(session, SINK_DATA);
}

static void
on_bdat(struct drain_session *session, struct span line)
{
    struct span rest = span_after(line, 4);
    uint64_t octets;

    while (rest.len > 0 && rest.data[0] == ' ')
        span_advance(&rest, 1);
    if (!span_take_number(&rest, &octets) || octets > INT64_MAX) {
        say(session, SPAN("501 5.5.4 A number of octets, please\r\n"));
        drain_session_finish(session); /* where the next command begins, nobody knows */
        return;
    }
    while (rest.len > 0 && rest.data[0] == ' ')
        span_advance(&rest, 1);
    session->chunk = true;
    session->chunk_left = octets;
    session->chunk_last = span_starts_ignore_case(rest, SPAN("LAST"));
    session->chunk_refused = session->recipients == 0;
    if (!session->chunk_refused && !session->begun) {
        session->begun = true;
        intake_start(&session->intake, false, session->thread->ledger.file >= 0);
    }
}

static void
on_starttls(struct drain_session *session)
{
    const struct drain_plan *plan = session->thread->plan;

    if (plan->tls == NULL || plan->implicit || session->link.tls_state != LINK_PLAIN)
        say(session, SPAN("502 5.5.1 Not here\r\n"));
    else
        drain_stage_enter(session, SINK_STARTTLS);
}

#define VERB(a, b, c, d) \
    ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

static void
on_command(struct drain_session *session, struct span line)
{
    uint32_t verb = 0;

    for (unsigned i = 0; i < 4; i++)
        verb = verb << 8 | (i < line.len ? (uint8_t)line.data[i] & 0xdfu : 0);
    if (session->rejecting && verb != VERB('Q', 'U', 'I', 'T')) {
        say(session, SPAN("503 5.5.1 No service\r\n"));
        return;
    }
    switch (verb) {
    case VERB('M', 'A', 'I', 'L'): on_mail(session, line); break;
    case VERB('R', 'C', 'P', 'T'): on_rcpt(session, line); break;
    case VERB('D', 'A', 'T', 'A'): on_data(session); break;
    case VERB('B', 'D', 'A', 'T'): on_bdat(session, line); break;
    case VERB('E', 'H', 'L', 'O'): drain_stage_enter(session, SINK_EHLO); break;
    case VERB('H', 'E', 'L', 'O'): drain_stage_enter(session, SINK_HELO); break;
    case VERB('R', 'S', 'E', 'T'): drain_stage_enter(session, SINK_RSET); break;
    case VERB('Q', 'U', 'I', 'T'): drain_stage_enter(session, SINK_QUIT); break;
    case VERB('N', 'O', 'O', 'P'): say(session, SPAN("250 2.0.0 Ok\r\n")); break;
    case VERB('S', 'T', 'A', 'R'): on_starttls(session); break;
    default: session->thread->counts.unknown++; say(session, SPAN("500 5.5.1 What?\r\n"));
    }
}

/* --- octets of messages --- */

static void
data_step(struct drain_session *session, struct span front)
{
    struct span in = front;
    bool end = intake_add(&session->intake, &in);

    link_consume(&session->link, front.len - in.len);
    if (!end)
        return;
    session->data = false;
    drain_stage_enter(session, SINK_END);
}

/* False: the chunk is not whole. */
static bool
chunk_step(struct drain_session *session, struct span front)
{
    size_t part = front.len < session->chunk_left ? front.len : (size_t)session->chunk_left;
    struct span in = span_first(front, part);

    if (!session->chunk_refused && intake_add(&session->intake, &in))
        ASSERT(!"BDAT has no end of its own");
    link_consume(&session->link, part);
    session->chunk_left -= part;
    if (session->chunk_left > 0)
        return part > 0;
    session->chunk = false;
    if (session->chunk_refused)
        say(session, SPAN("503 5.5.1 RCPT first\r\n"));
    else if (session->chunk_last)
        drain_stage_enter(session, SINK_END);
    else
        say(session, SPAN("250 2.0.0 Go on\r\n"));
    return true;
}

bool
drain_command_step(struct drain_session *session)
{
    struct link *link = &session->link;
    struct span front = link_front(link), line;
    const char *end;
    size_t len;

    if (front.len == 0 && !(session->chunk && session->chunk_left == 0))
        return false;
    if (!link_room(link, ROOM)) {
        link_flush(link);
        if (link->sending || !link_room(link, ROOM))
            return false; /* goes on when the send completes */
    }
    if (session->chunk)
        return chunk_step(session, front);
    if (session->data) {
        data_step(session, front);
        return true;
    }
    end = memchr(front.data, '\n', front.len);
    if (end == NULL) {
        if (front.len >= LINE_BYTES_MAX) {
            drain_session_drop(session);
            return false;
        }
        return link_extend(link);
    }
    len = (size_t)(end - front.data) + 1;
    line = span_first(front, len - 1);
    if (line.len > 0 && line.data[line.len - 1] == '\r')
        line.len--;
    on_command(session, line);
    if (!link->closing)
        link_consume(link, len);
    return true;
}
