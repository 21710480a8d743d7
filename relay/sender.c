/* The sender role knows what each reply answers only by its order, so everything that was sent
 * stands in one FIFO, and what a reply does is a row and a column of one table: no combination of
 * command and reply is left to chance. */
#include "relay/sender.h"

#include "core/line.h"
#include "relay/sender_private.h"

/* How a connection goes; a word in brackets is an event.
 *
 *   GREETING 2xx -> EHLO 2xx ------------------------------------> [READY]
 *                    |  `-> STARTTLS 2xx -> [START_TLS] -> EHLO    (offered, wanted, not yet on)
 *                    |        `4xx 5xx -> [READY] in plaintext     (opportunistic only)
 *                    `5xx -> HELO 2xx ---------------------------> [READY]
 *   READY: MAIL, RCPT, DATA, BDAT, end of data: each reply -> [REPLY]; RSET 2xx -> [READY];
 *          QUIT, any reply -> [CLOSED]
 *   Anything else, and anything that is no reply -> [BROKEN].
 *
 * Invariants, checked by sender_invariants() around each step and after each command:
 *  1. The FIFO holds the commands sent and not answered, oldest first; a reply that ends in BROKEN
 *     takes none away, so that what is lost is known.
 *  2. recipients_accepted <= recipients_answered <= recipients_sent.
 *  3. Between 354 and the final dot nothing is outstanding.
 *  4. No command is outstanding while TLS is being started: nothing said before it is believed
 *     after it (RFC 3207 4.2). */

_Static_assert(SENDER_REPLY_LINE_BYTES_MAX <= BLOCK_BYTES, "a carried reply line fits one block");
_Static_assert(SENDER_EXPECTATIONS <= UINT8_MAX, "the FIFO holds expectations as bytes");
_Static_assert(SENDER_EXPECTATIONS_MAX <= UINT16_MAX, "first and count hold FIFO positions");

/* What a reply does. */
enum outcome {
    OUTCOME_EMPTY,     /* a cell that nobody filled: our bug */
    OUTCOME_UNASKED,   /* a reply to nothing */
    OUTCOME_BROKEN,    /* refused, or of a class that makes no sense here */
    OUTCOME_SAY_EHLO,
    OUTCOME_SAY_HELO,  /* unless TLS is required and not on yet */
    OUTCOME_OFFERED,   /* the capabilities are complete: STARTTLS or ready */
    OUTCOME_READY,
    OUTCOME_START_TLS,
    OUTCOME_PLAINTEXT, /* STARTTLS was refused: go on without, if that is allowed */
    OUTCOME_REPLY,     /* to be handed out */
    OUTCOME_CLOSED,
    OUTCOME_LOST,      /* not answered: nothing was taken */
    OUTCOME_AMBIGUOUS, /* not answered: the next hop may have taken the message */
};

enum reply_column { COLUMN_2XX, COLUMN_3XX, COLUMN_4XX, COLUMN_5XX, COLUMN_LOST, COLUMNS };

struct expectation_row {
    const char *name;
    enum sender_timer timer;
    bool ends_group; /* no command may be sent before it is answered, also with PIPELINING */
    uint8_t outcomes[COLUMNS];
};

#define OUTCOMES(two, three, four, five, lost)                                    \
    {                                                                             \
        [COLUMN_2XX] = OUTCOME_##two, [COLUMN_3XX] = OUTCOME_##three,             \
        [COLUMN_4XX] = OUTCOME_##four, [COLUMN_5XX] = OUTCOME_##five,             \
        [COLUMN_LOST] = OUTCOME_##lost                                            \
    }

/* RFC 2920 3.1: EHLO, DATA, QUIT end a group. STARTTLS does by RFC 3207 4. That RSET and the end of
 * data do so too is our choice: the caller then has one transaction on a connection at a time.
 * A 421 is not in the table: see closing(). */
static const struct expectation_row ROWS[SENDER_EXPECTATIONS] = {
    [SENDER_EXPECTS_NOTHING] = {
        .name = "no command", .timer = SENDER_TIMER_NONE, .ends_group = false,
        .outcomes = OUTCOMES(UNASKED, UNASKED, UNASKED, UNASKED, LOST) },
    [SENDER_EXPECTS_GREETING] = {
        .name = "greeting", .timer = SENDER_TIMER_GREETING, .ends_group = true,
        .outcomes = OUTCOMES(SAY_EHLO, BROKEN, BROKEN, BROKEN, LOST) },
    [SENDER_EXPECTS_EHLO] = { /* RFC 5321 3.2: a client falls back to HELO when EHLO is refused */
        .name = "EHLO", .timer = SENDER_TIMER_COMMAND, .ends_group = true,
        .outcomes = OUTCOMES(OFFERED, BROKEN, BROKEN, SAY_HELO, LOST) },
    [SENDER_EXPECTS_HELO] = {
        .name = "HELO", .timer = SENDER_TIMER_COMMAND, .ends_group = true,
        .outcomes = OUTCOMES(READY, BROKEN, BROKEN, BROKEN, LOST) },
    [SENDER_EXPECTS_STARTTLS] = {
        .name = "STARTTLS", .timer = SENDER_TIMER_COMMAND, .ends_group = true,
        .outcomes = OUTCOMES(START_TLS, BROKEN, PLAINTEXT, PLAINTEXT, LOST) },
    [SENDER_EXPECTS_MAIL] = {
        .name = "MAIL FROM", .timer = SENDER_TIMER_MAIL, .ends_group = false,
        .outcomes = OUTCOMES(REPLY, BROKEN, REPLY, REPLY, LOST) },
    [SENDER_EXPECTS_RCPT] = {
        .name = "RCPT TO", .timer = SENDER_TIMER_RCPT, .ends_group = false,
        .outcomes = OUTCOMES(REPLY, BROKEN, REPLY, REPLY, LOST) },
    [SENDER_EXPECTS_DATA] = { /* 250 to DATA: is the body a message or commands? Do not find out. */
        .name = "DATA", .timer = SENDER_TIMER_DATA_INITIATION, .ends_group = true,
        .outcomes = OUTCOMES(BROKEN, REPLY, REPLY, REPLY, LOST) },
    [SENDER_EXPECTS_CHUNK] = {
        .name = "BDAT", .timer = SENDER_TIMER_DATA_BLOCK, .ends_group = false,
        .outcomes = OUTCOMES(REPLY, BROKEN, REPLY, REPLY, LOST) },
    [SENDER_EXPECTS_END] = { /* RFC 1047: whoever loses the reply does not know */
        .name = "end of data", .timer = SENDER_TIMER_DATA_END, .ends_group = true,
        .outcomes = OUTCOMES(REPLY, BROKEN, REPLY, REPLY, AMBIGUOUS) },
    [SENDER_EXPECTS_RSET] = { /* refused: the old transaction may still be there, so never reuse */
        .name = "RSET", .timer = SENDER_TIMER_COMMAND, .ends_group = true,
        .outcomes = OUTCOMES(READY, BROKEN, BROKEN, BROKEN, LOST) },
    [SENDER_EXPECTS_QUIT] = {
        .name = "QUIT", .timer = SENDER_TIMER_QUIT, .ends_group = true,
        .outcomes = OUTCOMES(CLOSED, CLOSED, CLOSED, CLOSED, LOST) },
};

static enum outcome
outcome_of(enum sender_expectation expectation, enum reply_column column)
{
    ASSERT(expectation < SENDER_EXPECTATIONS);
    ASSERT(column < COLUMNS);
    enum outcome outcome = (enum outcome)ROWS[expectation].outcomes[column];
    ASSERT(outcome != OUTCOME_EMPTY);
    return outcome;
}

const char *
sender_expectation_name(enum sender_expectation expectation)
{
    ASSERT(expectation < SENDER_EXPECTATIONS);
    return ROWS[expectation].name;
}

void
sender_invariants(const struct sender *sender)
{
    ASSERT(sender->count <= SENDER_EXPECTATIONS_MAX);
    ASSERT(sender->first < SENDER_EXPECTATIONS_MAX);
    ASSERT(sender->recipients_accepted <= sender->recipients_answered);
    ASSERT(sender->recipients_answered <= sender->recipients_sent);
    ASSERT(!sender->data_open || sender->count == 0);
    ASSERT(!sender->tls_pending || (sender->count == 0 && !sender->ready && !sender->tls_active));
    ASSERT(sender->lines < REPLY_LINES_MAX);
}

/* --- the FIFO --- */

void
sender_expect(struct sender *sender, enum sender_expectation expectation)
{
    ASSERT(sender->count < SENDER_EXPECTATIONS_MAX);
    ASSERT(expectation != SENDER_EXPECTS_NOTHING);
    size_t at = ((size_t)sender->first + sender->count) % SENDER_EXPECTATIONS_MAX;
    sender->expectations[at] = (uint8_t)expectation;
    sender->count++;
}

static enum sender_expectation
expectation_at(const struct sender *sender, size_t position)
{
    ASSERT(position < sender->count);
    size_t at = (sender->first + position) % SENDER_EXPECTATIONS_MAX;
    return (enum sender_expectation)sender->expectations[at];
}

static enum sender_expectation
expectation_first(const struct sender *sender)
{
    return sender->count > 0 ? expectation_at(sender, 0) : SENDER_EXPECTS_NOTHING;
}

static void
expectation_pop(struct sender *sender)
{
    ASSERT(sender->count > 0);
    sender->first = (uint16_t)((sender->first + 1u) % SENDER_EXPECTATIONS_MAX);
    sender->count--;
}

/* --- what is known without a reply --- */

bool
sender_ambiguous(const struct sender *sender)
{
    bool all_refused = sender->recipients_accepted == 0 &&
                       sender->recipients_answered == sender->recipients_sent;

    if (sender->mail_refused || all_refused)
        return false;
    for (size_t i = 0; i < sender->count; i++)
        if (outcome_of(expectation_at(sender, i), COLUMN_LOST) == OUTCOME_AMBIGUOUS)
            return true;
    return false;
}

enum sender_expectation
sender_lost(const struct sender *sender)
{
    if (sender_ambiguous(sender))
        return SENDER_EXPECTS_END;
    if (sender->count == 0)
        return (enum sender_expectation)sender->phase;
    enum sender_expectation first = expectation_first(sender);
    if (first == SENDER_EXPECTS_END) /* with no recipient: there is nothing that could be taken */
        return sender->chunked ? SENDER_EXPECTS_CHUNK : SENDER_EXPECTS_DATA;
    return first;
}

enum sender_timer
sender_deadline_kind(const struct sender *sender)
{
    if (sender->count > 0)
        return ROWS[expectation_first(sender)].timer;
    if (sender->data_open)
        return SENDER_TIMER_DATA_BLOCK;
    return sender->tls_pending ? SENDER_TIMER_COMMAND : SENDER_TIMER_NONE;
}

bool
sender_ready(const struct sender *sender, unsigned n)
{
    if (!sender->ready || sender->broken || sender->closed || sender->quitting)
        return false;
    return n <= SENDER_EXPECTATIONS_MAX - (unsigned)sender->count;
}

bool
sender_may_send(const struct sender *sender)
{
    if (!sender_ready(sender, 1) || sender->data_open)
        return false;
    if (sender->count == 0)
        return true;
    enum sender_expectation last = expectation_at(sender, sender->count - 1u);
    return sender->offered.pipelining && !ROWS[last].ends_group;
}

bool
sender_idle(const struct sender *sender)
{
    return sender_ready(sender, 1) && sender->count == 0 && !sender->in_transaction &&
           !sender->data_open;
}

/* --- reading replies --- */

/* What the next hop did wrong becomes a reply with code 0 that shows the line: "SSH-2.0-..." tells
 * a person more than any explanation. */
static void
fault_set(struct sender *sender, struct span what, struct span line)
{
    struct reply *reply = &sender->reply;
    struct outbuf text = { .data = reply->text, .size = 160 };

    _Static_assert(REPLY_TEXT_BYTES_MAX >= 160, "a fault and a piece of the line fit a reply");
    reply_clear(reply);
    outbuf_add(&text, what);
    if (line.len > 0)
        outbuf_add(&text, SPAN(": "));
    (void)outbuf_add_some(&text, line);
    for (size_t i = what.len; i < text.len; i++)
        if (reply->text[i] < ' ' || reply->text[i] > '~') /* also above 127: a char may be signed */
            reply->text[i] = '?';
    reply->text_len = (uint16_t)text.len;
}

struct capability {
    const char *keyword;
    size_t flag; /* offset in struct sender_capabilities */
};

#define CAPABILITY(field) offsetof(struct sender_capabilities, field)

static const struct capability CAPABILITIES[] = {
    { "PIPELINING", CAPABILITY(pipelining) },              /* RFC 2920 */
    { "CHUNKING", CAPABILITY(chunking) },                  /* RFC 3030 */
    { "SIZE", CAPABILITY(size) },                          /* RFC 1870 */
    { "8BITMIME", CAPABILITY(eight_bit_mime) },            /* RFC 6152 */
    { "SMTPUTF8", CAPABILITY(smtputf8) },                  /* RFC 6531 */
    { "DSN", CAPABILITY(dsn) },                            /* RFC 3461 */
    { "STARTTLS", CAPABILITY(starttls) },                  /* RFC 3207 */
    { "ENHANCEDSTATUSCODES", CAPABILITY(enhanced_codes) }, /* RFC 2034 */
};

/* RFC 1870 4: a number of up to 20 digits, 0 for no fixed limit, or no number at all. What is no
 * such number, or too large for one, is taken as no limit: the next hop refuses what it must. */
static uint64_t
size_parse(struct span value)
{
    uint64_t size = 0;

    for (size_t i = 0; i < value.len && value.data[i] != ' ' && value.data[i] != '\t'; i++) {
        if (value.data[i] < '0' || value.data[i] > '9')
            return 0;
        if (__builtin_mul_overflow(size, 10u, &size) ||
            __builtin_add_overflow(size, (unsigned)(value.data[i] - '0'), &size))
            return 0;
    }
    return size;
}

/* One line of the EHLO reply but the first (RFC 5321 4.1.1.1). Keywords ignore case; old servers
 * write '=' where a space belongs ("AUTH=LOGIN"). */
static void
capability_read(struct sender_capabilities *offered, struct span text)
{
    size_t len = 0;

    while (len < text.len && text.data[len] != ' ' && text.data[len] != '=' &&
           text.data[len] != '\t')
        len++;
    struct span keyword = span_first(text, len);
    for (size_t i = 0; i < sizeof(CAPABILITIES) / sizeof(CAPABILITIES[0]); i++) {
        if (!span_equal_ignore_case(keyword, span_text(CAPABILITIES[i].keyword)))
            continue;
        *(bool *)(void *)((char *)offered + CAPABILITIES[i].flag) = true;
        if (CAPABILITIES[i].flag != CAPABILITY(size))
            return;
        while (len < text.len && (text.data[len] == ' ' || text.data[len] == '='))
            len++;
        offered->size_max = size_parse(span_after(text, len));
        return;
    }
}

enum read_result { READ_PARTIAL, READ_REPLY, READ_FAULT };

/* One complete line. False: the reply is not one; sender->reply says why. */
static bool
reply_line_take(struct sender *sender, struct span line, bool *last)
{
    struct reply_line parsed;

    if (!reply_line_parse(line, &parsed)) {
        fault_set(sender, SPAN("not an SMTP reply"), line);
        return false;
    }
    if (sender->lines == 0)
        reply_clear(&sender->reply);
    if (!reply_add_line(&sender->reply, &parsed)) {
        fault_set(sender, SPAN("the code changes within a reply"), line);
        return false;
    }
    if (sender->lines > 0 && expectation_first(sender) == SENDER_EXPECTS_EHLO)
        capability_read(&sender->offered, parsed.text);
    *last = parsed.last;
    if (!parsed.last && sender->lines + 1 == REPLY_LINES_MAX) {
        fault_set(sender, SPAN("a reply with too many lines"), line);
        return false;
    }
    sender->lines = parsed.last ? 0 : (uint16_t)(sender->lines + 1);
    return true;
}

/* Lines up to the end of one reply. CRLF is the only line end here too (RFC 5321 2.3.8): a bare CR
 * or LF means that the other side may see other replies than we do. */
static enum read_result
reply_read(struct sender *sender, struct span *in)
{
    bool last = false;

    while (!last) {
        struct span line;
        size_t consumed;

        switch (line_next(*in, SENDER_REPLY_LINE_BYTES_MAX, &sender->scanned, &line, &consumed)) {
        case LINE_PARTIAL:
            return READ_PARTIAL;
        case LINE_BARE:
            fault_set(sender, SPAN("a bare CR or LF in a reply"), line);
            return READ_FAULT;
        case LINE_NUL:
            fault_set(sender, SPAN("a NUL in a reply"), line);
            return READ_FAULT;
        case LINE_TOO_LONG:
            fault_set(sender, SPAN("a reply line that is too long"), line);
            return READ_FAULT;
        case LINE_COMPLETE:
            break;
        }
        if (!reply_line_take(sender, line, &last))
            return READ_FAULT;
        span_advance(in, consumed);
    }
    return READ_REPLY;
}

/* --- acting on a reply --- */

static void
hello_write(struct sender *sender, enum sender_expectation expectation, struct outbuf *out)
{
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    sender->offered = (struct sender_capabilities){ .esmtp = false };
    outbuf_add(out, expectation == SENDER_EXPECTS_EHLO ? SPAN("EHLO ") : SPAN("HELO "));
    outbuf_add(out, sender->hostname);
    outbuf_add(out, SPAN("\r\n"));
    sender_expect(sender, expectation);
}

static struct sender_event
broken_event(struct sender *sender, struct span *in)
{
    sender->broken = true;
    span_advance(in, in->len);
    return (struct sender_event){
        .kind = SENDER_BROKEN,
        .expectation = sender_lost(sender),
        .recipient = sender->recipients_answered,
        .reply = &sender->reply,
    };
}

static struct sender_event
closed_event(struct sender *sender, struct span *in)
{
    sender->closed = true;
    span_advance(in, in->len);
    return (struct sender_event){ .kind = SENDER_CLOSED };
}

static struct sender_event
ready_event(struct sender *sender)
{
    ASSERT(sender->count == 0);
    ASSERT(sender->tls != SENDER_TLS_REQUIRE || sender->tls_active);
    sender->ready = true;
    sender->in_transaction = false;
    sender->phase = SENDER_EXPECTS_NOTHING;
    return (struct sender_event){ .kind = SENDER_READY };
}

/* EHLO was accepted. True: an event came of it. */
static bool
offered_act(struct sender *sender, struct span *in, struct outbuf *out, struct sender_event *event)
{
    struct sender_capabilities *offered = &sender->offered;

    expectation_pop(sender);
    offered->esmtp = true;
    if (sender->tls_active)
        offered->starttls = false; /* RFC 3207 4.2: must not be offered again; not believed if so */
    if (sender->tls_active || sender->tls == SENDER_TLS_NONE) {
        *event = ready_event(sender);
        return true;
    }
    if (offered->starttls) {
        ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
        outbuf_add(out, SPAN("STARTTLS\r\n"));
        sender_expect(sender, SENDER_EXPECTS_STARTTLS);
        return false;
    }
    if (sender->tls == SENDER_TLS_REQUIRE) {
        fault_set(sender, SPAN("TLS is required, but STARTTLS is not offered"), SPAN(""));
        sender->phase = SENDER_EXPECTS_STARTTLS;
        *event = broken_event(sender, in);
        return true;
    }
    *event = ready_event(sender);
    return true;
}

static struct sender_event
start_tls_event(struct sender *sender, struct span *in)
{
    /* What came in plaintext behind the 220 would be taken for replies that came by TLS
     * (RFC 3207 5, CVE-2011-0411): somebody is between us and the next hop. */
    if (in->len > 0) {
        fault_set(sender, SPAN("bytes after the reply to STARTTLS and before TLS (response "
                               "injection)"), span_first(*in, in->len < 32 ? in->len : 32));
        return broken_event(sender, in);
    }
    expectation_pop(sender);
    sender->tls_pending = true;
    sender->phase = SENDER_EXPECTS_STARTTLS;
    return (struct sender_event){ .kind = SENDER_START_TLS };
}

/* A reply in a transaction: what it means for the transaction, and its event. */
static struct sender_event
transaction_reply(struct sender *sender, enum sender_expectation expectation)
{
    struct sender_event event = {
        .kind = SENDER_REPLY,
        .expectation = expectation,
        .reply = &sender->reply,
    };
    bool refused = reply_class(&sender->reply) >= 4;

    expectation_pop(sender);
    if (expectation == SENDER_EXPECTS_MAIL && refused) {
        sender->mail_refused = true;
        sender->in_transaction = false;
    } else if (expectation == SENDER_EXPECTS_RCPT) {
        event.recipient = sender->recipients_answered++;
        sender->recipients_accepted = (uint16_t)(sender->recipients_accepted + !refused);
    } else if (expectation == SENDER_EXPECTS_DATA && !refused) {
        sender->data_open = true; /* even when MAIL was refused: then a dot must be sent */
    } else if (expectation == SENDER_EXPECTS_END) {
        /* After a refused BDAT the next hop's state is not known until RSET (RFC 3030 2); the final
         * dot ends the transaction, whatever is said about it (RFC 5321 4.1.1.4). */
        sender->in_transaction = refused && sender->chunked && !sender->mail_refused;
    }
    bool open = sender->in_transaction || sender->data_open;
    if (expectation == SENDER_EXPECTS_END)
        expectation = SENDER_EXPECTS_CHUNK; /* END is for what is not known: see sender_lost() */
    sender->phase = (uint8_t)(open ? expectation : SENDER_EXPECTS_NOTHING);
    if (sender->reply.code == 421)
        sender->broken = true; /* the next step says so */
    return event;
}

/* RFC 5321 3.8: 421 may come at any time, as a reply to anything, and then the connection goes
 * down: it is no refusal of EHLO or STARTTLS that one could go on after. */
static enum outcome
closing(enum outcome outcome)
{
    return outcome == OUTCOME_REPLY || outcome == OUTCOME_CLOSED ? outcome : OUTCOME_BROKEN;
}

static struct sender_event
unasked_event(struct sender *sender, struct span *in)
{
    char text[64];
    struct outbuf shown = { .data = text, .size = sizeof(text) };
    struct span said = span_of(sender->reply.text, sender->reply.text_len);

    outbuf_add_number(&shown, sender->reply.code);
    outbuf_add_char(&shown, ' ');
    (void)outbuf_add_some(&shown, said);
    fault_set(sender, SPAN("a reply that no command asked for"), outbuf_span(&shown));
    return broken_event(sender, in);
}

/* One whole reply. True: an event came of it. */
static bool
reply_act(struct sender *sender, struct span *in, struct outbuf *out, struct sender_event *event)
{
    enum sender_expectation expectation = expectation_first(sender);
    unsigned class = reply_class(&sender->reply);

    ASSERT(class >= 2);
    ASSERT(class <= 5);
    enum outcome outcome = outcome_of(expectation, (enum reply_column)(class - 2));
    if (sender->reply.code == 421)
        outcome = closing(outcome);
    if (outcome == OUTCOME_SAY_HELO && sender->tls == SENDER_TLS_REQUIRE && !sender->tls_active)
        outcome = OUTCOME_BROKEN; /* without EHLO there is no STARTTLS */
    if (outcome == OUTCOME_PLAINTEXT && sender->tls == SENDER_TLS_REQUIRE)
        outcome = OUTCOME_BROKEN;
    switch (outcome) {
    case OUTCOME_SAY_EHLO:
    case OUTCOME_SAY_HELO:
        expectation_pop(sender);
        hello_write(sender, outcome == OUTCOME_SAY_EHLO ? SENDER_EXPECTS_EHLO
                                                        : SENDER_EXPECTS_HELO, out);
        return false;
    case OUTCOME_OFFERED:
        return offered_act(sender, in, out, event);
    case OUTCOME_READY:
    case OUTCOME_PLAINTEXT:
        expectation_pop(sender);
        *event = ready_event(sender);
        return true;
    case OUTCOME_START_TLS:
        *event = start_tls_event(sender, in);
        return true;
    case OUTCOME_REPLY:
        *event = transaction_reply(sender, expectation);
        return true;
    case OUTCOME_CLOSED:
        expectation_pop(sender);
        *event = closed_event(sender, in);
        return true;
    case OUTCOME_UNASKED:
        *event = unasked_event(sender, in);
        return true;
    case OUTCOME_BROKEN:
        *event = broken_event(sender, in);
        return true;
    case OUTCOME_EMPTY:
    case OUTCOME_LOST:
    case OUTCOME_AMBIGUOUS:
        break; /* no reply has these */
    }
    ASSERT(false);
}

static struct sender_event
step(struct sender *sender, struct span *in, struct outbuf *out)
{
    struct sender_event event;

    if (sender->broken)
        return broken_event(sender, in);
    if (sender->closed)
        return closed_event(sender, in);
    for (;;) {
        if (in->len == 0)
            return (struct sender_event){ .kind = SENDER_NEED_INPUT };
        if (!sender->ready && outbuf_room(out) < SENDER_COMMAND_ROOM)
            return (struct sender_event){ .kind = SENDER_NEED_ROOM };
        switch (reply_read(sender, in)) {
        case READ_PARTIAL:
            return (struct sender_event){ .kind = SENDER_NEED_INPUT };
        case READ_FAULT:
            return broken_event(sender, in);
        case READ_REPLY:
            if (reply_act(sender, in, out, &event))
                return event;
        }
    }
}

struct sender_event
sender_step(struct sender *sender, struct span *in, struct outbuf *out)
{
    ASSERT(!sender->tls_pending);
    sender_invariants(sender);
    struct sender_event event = step(sender, in, out);
    sender_invariants(sender);
    return event;
}

/* --- the connection --- */

void
sender_start(struct sender *sender, struct span hostname, enum sender_tls tls, bool tls_active)
{
    ASSERT(hostname.len > 0);
    ASSERT(hostname.len <= DOMAIN_BYTES_MAX);
    *sender = (struct sender){ .hostname = hostname, .tls = tls, .tls_active = tls_active };
    reply_clear(&sender->reply);
    sender_expect(sender, SENDER_EXPECTS_GREETING);
    sender_invariants(sender);
}

void
sender_tls_started(struct sender *sender, struct outbuf *out)
{
    ASSERT(sender->tls_pending);
    sender->tls_pending = false;
    sender->tls_active = true;
    sender->phase = SENDER_EXPECTS_NOTHING;
    hello_write(sender, SENDER_EXPECTS_EHLO, out);
    sender_invariants(sender);
}
