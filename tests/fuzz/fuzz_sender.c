/* A next hop that says anything, and a caller that uses the connection in every legal way. A model
 * of what is outstanding, kept here, must agree with the sender after each event; the same bytes in
 * one piece, one by one and in random pieces must give the same events and commands.
 *
 * Input: a letter for TLS (n none, o opportunistic, r require, i implicit), a byte that seeds the
 * caller, then what the next hop says; '~' stands where a TLS handshake may take place. */
#include <stdio.h>
#include <stdlib.h>

#include "relay/sender.h"
#include "relay/verdict.h"

#define OUT_BYTES SENDER_COMMAND_ROOM

enum split { SPLIT_WHOLE, SPLIT_BYTES, SPLIT_RANDOM };

struct model {
    struct sender sender;
    uint8_t outstanding[SENDER_EXPECTATIONS_MAX];
    unsigned count, recipients_sent, recipients_answered, recipients_accepted;
    bool in_transaction, mail_refused, data_open, chunked, quitting;
    bool ready, tls, ended;
    uint64_t caller_random, split_random;
    uint64_t trace; /* hash of all events and commands */
    char *out;      /* on the heap, so that one byte too many is seen */
};

static void
must(bool condition, const char *what)
{
    if (condition)
        return;
    (void)fprintf(stderr, "fuzz_sender: %s\n", what);
    abort();
}

static unsigned
draw(uint64_t *state, unsigned below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*state >> 33) % below;
}

static void
trace_add(struct model *model, struct span bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        model->trace = (model->trace ^ (unsigned char)bytes.data[i]) * 1099511628211u;
}

static void
trace_number(struct model *model, unsigned number)
{
    trace_add(model, span_of(&number, sizeof(number)));
}

/* --- the caller --- */

/* What was written is whole lines of printable ASCII. */
static void
commands_check(struct model *model, const struct outbuf *out)
{
    must(out->len <= OUT_BYTES, "output overrun");
    for (size_t i = 0; i < out->len; i++) {
        char c = out->data[i];
        bool line_end = c == '\r' && i + 1 < out->len && out->data[i + 1] == '\n';
        must((c >= ' ' && c <= '~') || line_end, "a command that is not a line");
        i += line_end;
        must(line_end || i + 1 < out->len, "a command without its end");
    }
    trace_add(model, outbuf_span(out));
}

static void
push(struct model *model, enum sender_expectation expectation)
{
    must(model->count < SENDER_EXPECTATIONS_MAX, "more commands than the FIFO holds");
    model->outstanding[model->count++] = (uint8_t)expectation;
}

static enum sender_expectation
pop(struct model *model)
{
    must(model->count > 0, "a reply to nothing");
    enum sender_expectation first = (enum sender_expectation)model->outstanding[0];
    memmove(model->outstanding, model->outstanding + 1, --model->count);
    return first;
}

static void
say_mail(struct model *model, struct outbuf *out)
{
    static const struct sender_mail mails[] = {
        { .reverse_path = { "a@example.com", 13 } },
        { .size = 77, .body = BODY_TYPE_8BITMIME, .dsn_return = DSN_RETURN_FULL },
        { .smtputf8 = true, .envid = { "x+2B", 4 }, .body = BODY_TYPE_7BIT },
    };

    sender_mail(&model->sender, &mails[draw(&model->caller_random, 3)], out);
    push(model, SENDER_EXPECTS_MAIL);
    model->in_transaction = true;
    model->mail_refused = model->chunked = false;
    model->recipients_sent = model->recipients_answered = model->recipients_accepted = 0;
}

static void
say_in_transaction(struct model *model, struct outbuf *out)
{
    const struct rcpt_parameters parameters = {
        .notify = DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY,
        .orcpt = SPAN("rfc822;b"),
    };
    unsigned choice = draw(&model->caller_random, 8);

    if ((choice < 5 || model->recipients_sent == 0) && !model->chunked) {
        sender_rcpt(&model->sender, SPAN("b@example.net"), &parameters, out);
        model->recipients_sent++;
        push(model, SENDER_EXPECTS_RCPT);
    } else if (choice == 5 || model->recipients_sent == 0) {
        sender_reset(&model->sender, out);
        push(model, SENDER_EXPECTS_RSET);
    } else if (model->sender.offered.chunking && choice == 6) {
        bool last = draw(&model->caller_random, 2) == 0;
        sender_chunk(&model->sender, 9, last, out);
        push(model, last ? SENDER_EXPECTS_END : SENDER_EXPECTS_CHUNK);
        model->chunked = true;
    } else if (!model->chunked) {
        sender_data(&model->sender, out);
        push(model, SENDER_EXPECTS_DATA);
    }
}

/* Some commands after an event; now and then a group that fills the FIFO. */
static void
caller_act(struct model *model)
{
    unsigned commands = draw(&model->caller_random, 6);

    if (draw(&model->caller_random, 16) == 0)
        commands = SENDER_EXPECTATIONS_MAX + 2;
    if (model->data_open && draw(&model->caller_random, 4) != 0) {
        sender_end_of_data(&model->sender);
        push(model, SENDER_EXPECTS_END);
        model->data_open = false;
    }
    while (commands-- > 0 && sender_may_send(&model->sender)) {
        struct outbuf out = { .data = model->out, .size = OUT_BYTES };
        must(!model->data_open, "a command within the body");
        must(!model->quitting, "a command after QUIT");
        must(model->count == 0 || model->sender.offered.pipelining, "no PIPELINING");
        if (draw(&model->caller_random, 64) == 0) {
            sender_quit(&model->sender, &out);
            push(model, SENDER_EXPECTS_QUIT);
            model->quitting = true;
        } else if (model->in_transaction) {
            say_in_transaction(model, &out);
        } else if (sender_idle(&model->sender)) {
            say_mail(model, &out);
        } else {
            break;
        }
        commands_check(model, &out);
    }
}

/* --- what must hold --- */

static void
model_check(const struct model *model)
{
    const struct sender *sender = &model->sender;
    bool end = false;

    for (unsigned i = 0; i < model->count; i++)
        end = end || model->outstanding[i] == SENDER_EXPECTS_END;
    bool nobody = model->mail_refused || (model->recipients_accepted == 0 &&
                                          model->recipients_answered == model->recipients_sent);
    must(sender_ambiguous(sender) == (end && !nobody), "ambiguous");
    must((sender_lost(sender) == SENDER_EXPECTS_END) == sender_ambiguous(sender), "lost END");
    if (model->ready && model->count > 0 && !sender_ambiguous(sender) &&
        model->outstanding[0] != SENDER_EXPECTS_END)
        must(sender_lost(sender) == model->outstanding[0], "lost first");
    if (model->ready && !model->ended)
        must(sender_idle(sender) == (model->count == 0 && !model->in_transaction &&
                                     !model->data_open && !model->quitting), "idle");
    if (model->ended || !model->ready)
        must(!sender_idle(sender) && !sender_may_send(sender), "usable");
    must(!model->tls || !sender->offered.starttls || !model->ready, "STARTTLS within TLS");
    must(sender_deadline_kind(sender) != SENDER_TIMER_NONE || model->count == 0, "no deadline");
}

/* Whatever happened, delivery policy has an answer, and never a 5xx that nobody gave. */
static void
verdict_ask(enum sender_expectation expectation, enum verdict_class class, unsigned flags,
            const struct reply *said)
{
    struct verdict_context context = {
        .expectation = expectation,
        .class = class,
        .code = class <= VERDICT_5XX ? said->code : 0,
        .reused = (flags & 1) != 0,
        .nothing_answered = (flags & 2) != 0,
        .restartable = (flags & 4) != 0,
    };
    enum verdict_action action = verdict_decide(&context);
    struct reply told;

    if (action == VERDICT_CONTINUE || action == VERDICT_DELIVERED)
        return;
    verdict_reply(&context, action, said, &told);
    must(reply_class(&told) == (action == VERDICT_REFUSE ? 5 : 4), "verdict class");
    must(action != VERDICT_REFUSE || said->code / 100 == 5, "a refusal that nobody gave");
}

/* --- events --- */

static void
on_reply(struct model *model, const struct sender_event *event)
{
    unsigned class = reply_class(event->reply);

    must(event->expectation == pop(model), "a reply out of order");
    must(class != 3 || event->expectation == SENDER_EXPECTS_DATA, "3xx");
    must(class != 2 || event->expectation != SENDER_EXPECTS_DATA, "2xx to DATA");
    switch (event->expectation) {
    case SENDER_EXPECTS_MAIL:
        model->mail_refused = class >= 4;
        model->in_transaction = class < 4;
        break;
    case SENDER_EXPECTS_RCPT:
        must(event->recipient == model->recipients_answered, "recipient number");
        model->recipients_answered++;
        model->recipients_accepted += class < 4;
        break;
    case SENDER_EXPECTS_DATA:
        model->data_open = class == 3;
        break;
    case SENDER_EXPECTS_END:
        model->in_transaction = class >= 4 && model->chunked && !model->mail_refused;
        break;
    default:
        must(event->expectation == SENDER_EXPECTS_CHUNK, "a reply to what is no transaction");
    }
    model->ended = event->reply->code == 421;
}

/* The one place where it matters how the bytes are cut: what stands behind the 220 to STARTTLS is
 * injection when it is there at once, and rubbish in the TLS handshake when it comes later. */
static void
injected(struct model *model)
{
    trace_add(model, SPAN("injected"));
    model->ended = true;
}

static void
on_event(struct model *model, const struct sender_event *event)
{
    if (event->kind == SENDER_BROKEN && event->expectation == SENDER_EXPECTS_STARTTLS &&
        event->reply->code == 0 && model->count == 0 && event->reply->text_len > 16 &&
        memcmp(event->reply->text, "bytes after", 11) == 0) {
        injected(model);
        return;
    }
    trace_number(model, event->kind);
    if (event->kind == SENDER_READY) {
        must(model->sender.tls != SENDER_TLS_REQUIRE || model->tls, "plaintext");
        if (model->ready)
            must(pop(model) == SENDER_EXPECTS_RSET, "READY");
        must(model->count == 0, "READY with commands outstanding");
        model->ready = true;
        model->in_transaction = false;
    }
    if (event->kind == SENDER_REPLY || event->kind == SENDER_BROKEN) {
        trace_number(model, event->expectation);
        trace_number(model, event->recipient);
        trace_number(model, event->reply->code);
        trace_add(model, span_of(event->reply->text, event->reply->text_len));
        verdict_ask(event->expectation, verdict_class_of(event->reply),
                    (unsigned)model->trace % 8, event->reply);
    }
    if (event->kind == SENDER_REPLY)
        on_reply(model, event);
    if (event->kind == SENDER_CLOSED)
        must(pop(model) == SENDER_EXPECTS_QUIT, "CLOSED");
    if (event->kind == SENDER_CLOSED || event->kind == SENDER_BROKEN)
        model->ended = true;
    model_check(model);
    if (!model->ended && (event->kind == SENDER_READY || event->kind == SENDER_REPLY))
        caller_act(model);
    model_check(model);
}

/* Steps over the bytes that are there; returns how many were taken. The copy on the heap ends where
 * the bytes end. *tls: a handshake is due. */
static size_t
steps(struct model *model, struct span input, bool *tls)
{
    char *copy = malloc(input.len + 1);
    struct span in = span_of(copy + 1, input.len);

    must(copy != NULL, "no memory");
    if (input.len > 0)
        memcpy(copy + 1, input.data, input.len);
    *tls = false;
    for (;;) {
        struct outbuf out = { .data = model->out, .size = OUT_BYTES };
        struct sender_event event = sender_step(&model->sender, &in, &out);
        bool last = event.kind == SENDER_NEED_INPUT || event.kind == SENDER_BROKEN ||
                    event.kind == SENDER_CLOSED || event.kind == SENDER_START_TLS;
        commands_check(model, &out);
        *tls = event.kind == SENDER_START_TLS;
        if (event.kind != SENDER_NEED_INPUT && event.kind != SENDER_NEED_ROOM && !*tls)
            on_event(model, &event);
        if (last)
            break;
    }
    must(in.len == 0 || !model->ended, "BROKEN leaves bytes");
    must(in.len < SENDER_REPLY_LINE_BYTES_MAX, "a partial line without a bound");
    size_t taken = input.len - in.len;
    free(copy);
    return taken;
}

static size_t
piece(struct model *model, enum split split, size_t left)
{
    size_t len = left;

    if (split == SPLIT_BYTES)
        len = 1;
    if (split == SPLIT_RANDOM)
        len = 1 + draw(&model->split_random, 40);
    return len < left ? len : left;
}

static void
tls_start(struct model *model)
{
    struct outbuf out = { .data = model->out, .size = OUT_BYTES };

    model->tls = true;
    sender_tls_started(&model->sender, &out);
    commands_check(model, &out);
    model_check(model);
}

/* What the next hop says up to the next '~'. `held` keeps a partial line from call to call. */
static void
stretch(struct model *model, enum split split, struct span input, struct outbuf *held)
{
    while (input.len > 0 && !model->ended) {
        size_t len = piece(model, split, input.len);
        bool tls;

        outbuf_add(held, span_first(input, len));
        span_advance(&input, len);
        size_t taken = steps(model, outbuf_span(held), &tls);
        held->len -= taken;
        memmove(held->data, held->data + taken, held->len);
        if (tls && input.len + held->len > 0)
            injected(model);
        else if (tls)
            tls_start(model);
    }
}

static uint64_t
run(enum split split, const uint8_t *data, size_t size)
{
    static struct model model;
    static char held_bytes[1 << 16];
    struct outbuf held = { .data = held_bytes, .size = sizeof(held_bytes) };
    struct span input = span_of(data + 2, size - 2);
    static const enum sender_tls modes[] = {
        SENDER_TLS_NONE, SENDER_TLS_OPPORTUNISTIC, SENDER_TLS_REQUIRE, SENDER_TLS_REQUIRE,
    };
    unsigned mode = data[0] == 'n' ? 0 : data[0] == 'o' ? 1 : data[0] == 'r' ? 2 : 3;

    model = (struct model){
        .tls = mode == 3,
        .caller_random = data[1],
        .split_random = size,
        .trace = 14695981039346656037u,
        .out = malloc(OUT_BYTES),
    };
    must(model.out != NULL, "no memory");
    sender_start(&model.sender, SPAN("edge.example.com"), modes[mode], model.tls);
    while (input.len > 0) {
        const char *mark = memchr(input.data, '~', input.len);
        size_t len = mark != NULL ? (size_t)(mark - input.data) : input.len;
        stretch(&model, split, span_first(input, len), &held);
        span_advance(&input, mark != NULL ? len + 1 : len);
    }
    struct reply nothing;
    reply_clear(&nothing);
    verdict_ask(sender_lost(&model.sender), VERDICT_LOST, data[1] % 8u, &nothing);
    verdict_ask(sender_lost(&model.sender), VERDICT_TIMEOUT, data[1] % 8u, &nothing);
    free(model.out);
    return model.trace;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > (1 << 15))
        return 0;
    uint64_t trace = run(SPLIT_WHOLE, data, size);
    must(run(SPLIT_BYTES, data, size) == trace, "byte by byte is not as in one piece");
    must(run(SPLIT_RANDOM, data, size) == trace, "in pieces is not as in one piece");
    return 0;
}
