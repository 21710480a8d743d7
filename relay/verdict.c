/* Delivery policy in one table, so that it can be read, argued about and tested as a whole. Order
 * of concern: never lose a message, never deliver it twice where that can be avoided, never tell a
 * temporary fault as a permanent one, and then get it delivered soon. */
#include "relay/verdict.h"

/* What a cell says; some depend on the rest of the context. */
enum rule {
    RULE_EMPTY, /* a cell that nobody filled: our bug */
    RULE_CONTINUE,
    RULE_DELIVERED,
    RULE_SERVER,    /* the server's matter, before any message was on the connection */
    RULE_RESTART,   /* the server's or connection's matter with a message under way: another server
                     * if the message can be sent from the start, else defer */
    RULE_POOL,      /* a pooled connection that died before it said anything: FRESH; else RESTART */
    RULE_POOL_IDLE, /* the same while no message was on it: FRESH, else SERVER */
    RULE_DEFER,
    RULE_REFUSE,
    RULE_AMBIGUOUS,
};

#define CELLS(two, three, four, five, lost, timeout, protocol)                      \
    {                                                                               \
        [VERDICT_2XX] = RULE_##two, [VERDICT_3XX] = RULE_##three,                   \
        [VERDICT_4XX] = RULE_##four, [VERDICT_5XX] = RULE_##five,                   \
        [VERDICT_LOST] = RULE_##lost, [VERDICT_TIMEOUT] = RULE_##timeout,           \
        [VERDICT_PROTOCOL] = RULE_##protocol                                        \
    }

/*                   2xx       3xx       4xx       5xx       lost       timeout    protocol   */
static const uint8_t TABLE[SENDER_EXPECTATIONS][VERDICT_CLASSES] = {
    /* Connecting failed, or an idle connection ended: the message is not concerned. */
    [SENDER_EXPECTS_NOTHING] =
        CELLS(POOL_IDLE, POOL_IDLE, POOL_IDLE, POOL_IDLE, POOL_IDLE, SERVER, POOL_IDLE),
    /* RFC 5321 3.1: a 554 greeting is this host's refusal of everybody, or of us; no message was
     * named yet, so it cannot be the message's fault. The same up to STARTTLS. */
    [SENDER_EXPECTS_GREETING] =
        CELLS(CONTINUE, SERVER, SERVER, SERVER, SERVER, SERVER, SERVER),
    [SENDER_EXPECTS_EHLO] =
        CELLS(CONTINUE, SERVER, SERVER, SERVER, SERVER, SERVER, SERVER),
    [SENDER_EXPECTS_HELO] =
        CELLS(CONTINUE, SERVER, SERVER, SERVER, SERVER, SERVER, SERVER),
    [SENDER_EXPECTS_STARTTLS] =
        CELLS(CONTINUE, SERVER, SERVER, SERVER, SERVER, SERVER, SERVER),
    /* From MAIL on a 4xx or 5xx is about this message (RFC 5321 4.2.1), and is handed on. A server
     * that is slow is not a dead pooled connection: a timeout is never FRESH. */
    [SENDER_EXPECTS_MAIL] =
        CELLS(CONTINUE, RESTART, DEFER, REFUSE, POOL, RESTART, RESTART),
    [SENDER_EXPECTS_RCPT] =
        CELLS(CONTINUE, RESTART, DEFER, REFUSE, POOL, RESTART, RESTART),
    /* LOST also while the body was under way: without its end nothing was taken (4.1.1.4). */
    [SENDER_EXPECTS_DATA] =
        CELLS(RESTART, CONTINUE, DEFER, REFUSE, POOL, RESTART, RESTART),
    [SENDER_EXPECTS_CHUNK] =
        CELLS(CONTINUE, RESTART, DEFER, REFUSE, POOL, RESTART, RESTART),
    /* RFC 1047: no clear answer to the end of data means that nobody knows. */
    [SENDER_EXPECTS_END] =
        CELLS(DELIVERED, AMBIGUOUS, DEFER, REFUSE, AMBIGUOUS, AMBIGUOUS, AMBIGUOUS),
    /* Between transactions. A server that refuses RSET is odd, its fresh connection may do. */
    [SENDER_EXPECTS_RSET] =
        CELLS(CONTINUE, POOL_IDLE, POOL_IDLE, POOL_IDLE, POOL_IDLE, SERVER, POOL_IDLE),
    /* All was decided before QUIT. */
    [SENDER_EXPECTS_QUIT] =
        CELLS(CONTINUE, CONTINUE, CONTINUE, CONTINUE, CONTINUE, CONTINUE, CONTINUE),
};

#define BIT(expectation) (1u << SENDER_EXPECTS_##expectation)
#define BEFORE_END (BIT(MAIL) | BIT(RCPT) | BIT(DATA) | BIT(CHUNK))
#define TRANSACTION (BEFORE_END | BIT(END))

/* Codes that say more than their class. `why` begins our text when a code cannot be told as it is;
 * NULL: it is told, as a temporary one. */
struct code_row {
    uint16_t code;
    uint8_t rule;
    uint32_t expectations;
    const char *enhanced;
    const char *why;
};

static const struct code_row CODES[] = {
    /* RFC 5321 3.8: the connection goes down. At the end of data it still is a clear no. */
    { 421, RULE_POOL, BEFORE_END, "4.3.2", "next hop is closing the connection" },
    { 421, RULE_RESTART, BIT(END), "4.3.2", "next hop is closing the connection" },
    /* Commands out of step: nothing that a message could have caused, as MAIL is the first. */
    { 503, RULE_RESTART, BIT(MAIL), "4.5.1", "next hop says that commands are out of order" },
    /* RFC 7504: the host takes no mail at all: a wrong next hop is no fault of the message. */
    { 521, RULE_RESTART, TRANSACTION, "4.3.2", "next hop accepts no mail" },
    /* RFC 3207 4, RFC 4954 6: what this server wants from us, not from the client. */
    { 530, RULE_RESTART, TRANSACTION, "4.7.0", "next hop wants TLS or authentication from us" },
    { 534, RULE_RESTART, TRANSACTION, "4.7.0", "next hop wants TLS or authentication from us" },
    { 535, RULE_RESTART, TRANSACTION, "4.7.0", "next hop wants TLS or authentication from us" },
    { 538, RULE_RESTART, TRANSACTION, "4.7.0", "next hop wants TLS or authentication from us" },
    /* RFC 5321 4.5.3.1.10: old servers say 552 for too many recipients, and mean 452. */
    { 552, RULE_DEFER, BIT(RCPT), "4.5.3", NULL },
};

static const struct code_row *
code_row_of(const struct verdict_context *context)
{
    if (context->code < 400) /* all rows are of refusals: most replies need not ask each of them */
        return NULL;
    for (size_t i = 0; i < sizeof(CODES) / sizeof(CODES[0]); i++)
        if (CODES[i].code == context->code &&
            (CODES[i].expectations & (1u << context->expectation)) != 0)
            return &CODES[i];
    return NULL;
}

static void
context_check(const struct verdict_context *context)
{
    ASSERT(context->expectation < SENDER_EXPECTATIONS);
    ASSERT(context->class < VERDICT_CLASSES);
    if (context->class <= VERDICT_5XX)
        ASSERT(context->code / 100 == (unsigned)context->class + 2);
    else
        ASSERT(context->code == 0);
}

enum verdict_action
verdict_decide(const struct verdict_context *context)
{
    context_check(context);
    const struct code_row *row = code_row_of(context);
    enum rule rule = (enum rule)(row != NULL ? row->rule
                                             : TABLE[context->expectation][context->class]);
    /* Restartable too: FRESH begins from the start as NEXT_SERVER does. */
    bool pooled = context->reused && context->nothing_answered && context->restartable;
    enum verdict_action restart = context->restartable ? VERDICT_NEXT_SERVER : VERDICT_DEFER;

    switch (rule) {
    case RULE_CONTINUE:
        return VERDICT_CONTINUE;
    case RULE_DELIVERED:
        return VERDICT_DELIVERED;
    case RULE_SERVER:
        return VERDICT_NEXT_SERVER;
    case RULE_RESTART:
        return restart;
    case RULE_POOL:
        return pooled ? VERDICT_FRESH : restart;
    case RULE_POOL_IDLE:
        return pooled ? VERDICT_FRESH : VERDICT_NEXT_SERVER;
    case RULE_DEFER:
        return VERDICT_DEFER;
    case RULE_REFUSE:
        return VERDICT_REFUSE;
    case RULE_AMBIGUOUS:
        return VERDICT_AMBIGUOUS;
    case RULE_EMPTY:
        break;
    }
    ASSERT(false);
}

enum verdict_class
verdict_class_of(const struct reply *reply)
{
    if (reply->code == 0)
        return VERDICT_PROTOCOL;
    ASSERT(reply->code >= 200);
    ASSERT(reply->code <= 599);
    return (enum verdict_class)(reply_class(reply) - 2);
}

const char *
verdict_action_name(enum verdict_action action)
{
    static const char *const names[] = {
        [VERDICT_CONTINUE] = "continue",       [VERDICT_DELIVERED] = "delivered",
        [VERDICT_NEXT_SERVER] = "next_server", [VERDICT_FRESH] = "fresh",
        [VERDICT_DEFER] = "defer",             [VERDICT_REFUSE] = "refuse",
        [VERDICT_AMBIGUOUS] = "ambiguous",
    };

    ASSERT(action < sizeof(names) / sizeof(names[0]));
    return names[action];
}

/* --- what the client is told --- */

/* The next hop's words in one line, with its code, as a person would look for them in its log. */
static void
quote_add(const struct reply *said, struct outbuf *text)
{
    char bytes[REPLY_CODES_BYTES_MAX];
    struct outbuf codes = { .data = bytes, .size = sizeof(bytes) };

    reply_codes_write(said, &codes);
    (void)outbuf_add_some(text, outbuf_span(&codes));
    for (size_t i = 0; i < said->text_len && outbuf_room(text) > 0; i++)
        outbuf_add_char(text, said->text[i] == '\n' ? ' ' : said->text[i]);
}

/* "451 4.x.y <what happened> at <where>: <what the next hop said>" */
static void
own_reply(struct reply *to_client, const char *enhanced, const char *what, const char *where,
          const struct reply *said)
{
    char bytes[REPLY_TEXT_BYTES_MAX];
    struct outbuf text = { .data = bytes, .size = sizeof(bytes) };

    outbuf_add(&text, span_text(what));
    if (where != NULL) {
        outbuf_add(&text, SPAN(" at "));
        outbuf_add(&text, span_text(where));
    }
    if (said != NULL && (said->code != 0 || said->text_len > 0)) {
        outbuf_add(&text, SPAN(": "));
        quote_add(said, &text);
    }
    reply_set(to_client, 451, enhanced, outbuf_span(&text));
}

/* 552 5.2.2 "mailbox full" -> 452 4.2.2: the class changes, the reason stays. */
static void
soften(const struct reply *said, const char *enhanced, struct reply *to_client)
{
    struct enhanced_code given = said->enhanced;

    reply_set(to_client, said->code - 100u, enhanced, span_of(said->text, said->text_len));
    if (given.class != 0) {
        given.class = 4;
        to_client->enhanced = given;
    }
}

struct own_text {
    const char *enhanced;
    const char *what;
};

/* RFC 3463: 4.4.1 nobody answered, 4.4.2 the connection was there and failed, 4.3.2 the system
 * takes no mail now, 4.5.0 a protocol fault, 4.7.5 TLS failed. */
static struct own_text
own_text_of(const struct verdict_context *context)
{
    bool opening = context->expectation >= SENDER_EXPECTS_GREETING &&
                   context->expectation <= SENDER_EXPECTS_HELO;
    bool connecting = context->expectation == SENDER_EXPECTS_NOTHING;
    bool tls = context->expectation == SENDER_EXPECTS_STARTTLS;

    switch (context->class) {
    case VERDICT_2XX:
    case VERDICT_3XX:
        return (struct own_text){ "4.5.0", "next hop answered what makes no sense" };
    case VERDICT_4XX:
    case VERDICT_5XX:
        if (tls)
            return (struct own_text){ "4.7.4", "next hop refuses the TLS that is required" };
        if (opening || connecting)
            return (struct own_text){ "4.3.2", "next hop refuses service" };
        return (struct own_text){ "4.3.0", "next hop refuses" };
    case VERDICT_LOST:
        if (connecting)
            return (struct own_text){ "4.4.1", "no connection to the next hop" };
        if (tls)
            return (struct own_text){ "4.7.5", "connection to the next hop lost in TLS setup" };
        return (struct own_text){ "4.4.2", "connection to the next hop lost" };
    case VERDICT_TIMEOUT:
        if (connecting)
            return (struct own_text){ "4.4.1", "connecting to the next hop took too long" };
        if (tls)
            return (struct own_text){ "4.7.5", "next hop took too long in TLS setup" };
        return (struct own_text){ "4.4.2", "next hop took too long to answer" };
    case VERDICT_PROTOCOL:
        if (tls)
            return (struct own_text){ "4.7.5", "TLS with the next hop failed" };
        return (struct own_text){ "4.5.0", "next hop does not keep to SMTP" };
    case VERDICT_CLASSES:
        break;
    }
    ASSERT(false);
}

static void
deferral(const struct verdict_context *context, const struct reply *said, struct reply *to_client)
{
    const struct code_row *row = code_row_of(context);
    /* Only from MAIL on are the next hop's 4xx words about the message, and 421 (a row) is not. */
    bool about_message = context->expectation >= SENDER_EXPECTS_MAIL &&
                         context->expectation <= SENDER_EXPECTS_END;
    const char *where = context->expectation == SENDER_EXPECTS_NOTHING
                            ? NULL
                            : sender_expectation_name(context->expectation);

    if (row != NULL && row->why == NULL) {
        soften(said, row->enhanced, to_client);
    } else if (row != NULL) {
        own_reply(to_client, row->enhanced, row->why, where, said);
    } else if (context->class == VERDICT_4XX && about_message) {
        *to_client = *said;
    } else {
        struct own_text own = own_text_of(context);
        own_reply(to_client, own.enhanced, own.what, where, said);
    }
}

/* The client will send it again, and somebody may get it twice: say why. */
static void
ambiguity(const struct verdict_context *context, const struct reply *said,
          struct reply *to_client)
{
    static const char *const what[VERDICT_CLASSES] = {
        [VERDICT_3XX] = "next hop may have the message, its answer to the end of data is unclear",
        [VERDICT_LOST] = "next hop may have the message, the connection was lost after end of data",
        [VERDICT_TIMEOUT] = "next hop may have the message, it did not answer the end of data",
        [VERDICT_PROTOCOL] = "next hop may have the message, its answer to the end of data is "
                             "not SMTP",
    };

    ASSERT(what[context->class] != NULL);
    own_reply(to_client, "4.4.2", what[context->class], NULL, said);
}

void
verdict_reply(const struct verdict_context *context, enum verdict_action action,
              const struct reply *from_next_hop, struct reply *to_client)
{
    context_check(context);
    if (context->class <= VERDICT_5XX) {
        ASSERT(from_next_hop != NULL);
        ASSERT(verdict_class_of(from_next_hop) == context->class);
        ASSERT(from_next_hop->code == context->code);
    }
    switch (action) {
    case VERDICT_REFUSE:
        ASSERT(context->class == VERDICT_5XX);
        ASSERT(code_row_of(context) == NULL);
        *to_client = *from_next_hop;
        return;
    case VERDICT_DEFER:
    case VERDICT_NEXT_SERVER:
    case VERDICT_FRESH:
        deferral(context, from_next_hop, to_client);
        ASSERT(reply_class(to_client) == 4);
        ASSERT(to_client->code != 421);
        return;
    case VERDICT_AMBIGUOUS:
        ambiguity(context, from_next_hop, to_client);
        return;
    case VERDICT_CONTINUE:
    case VERDICT_DELIVERED:
        break; /* nothing to tell */
    }
    ASSERT(false);
}
