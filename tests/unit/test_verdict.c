/* Delivery policy as a grid that can be read, the codes that are special, what the client is told,
 * and rules that hold for every context there is. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "relay/verdict.h"

#define ROWS_OF(table) (sizeof(table) / sizeof((table)[0]))
#define EXPECTS(name) SENDER_EXPECTS_##name

/* .  continue            D  delivered         d  defer      x  refuse       A  ambiguous
 * S  next server         R  next server when restartable, else defer
 * P  fresh when pooled (reused, nothing answered, restartable), else R
 * I  fresh when pooled, else S */
static const struct grid_row {
    enum sender_expectation expectation;
    const char *cells; /* 2xx 3xx 4xx 5xx lost timeout protocol */
} grid[] = {
    /*                     2 3 4 5 L T P */
    { EXPECTS(NOTHING), "I I I I I S I" },
    { EXPECTS(GREETING), ". S S S S S S" },
    { EXPECTS(EHLO), ". S S S S S S" },
    { EXPECTS(HELO), ". S S S S S S" },
    { EXPECTS(STARTTLS), ". S S S S S S" },
    { EXPECTS(MAIL), ". R d x P R R" },
    { EXPECTS(RCPT), ". R d x P R R" },
    { EXPECTS(DATA), "R . d x P R R" },
    { EXPECTS(CHUNK), ". R d x P R R" },
    { EXPECTS(END), "D A d x A A A" },
    { EXPECTS(RSET), ". I I I I S I" },
    { EXPECTS(QUIT), ". . . . . . ." },
};

/* A code of each class that says no more than its class. */
static const unsigned plain_codes[VERDICT_CLASSES] = { 250, 354, 450, 550, 0, 0, 0 };

static struct verdict_context
context_of(enum sender_expectation expectation, enum verdict_class class, unsigned flags)
{
    return (struct verdict_context){
        .expectation = expectation,
        .class = class,
        .code = plain_codes[class],
        .reused = (flags & 1) != 0,
        .nothing_answered = (flags & 2) != 0,
        .restartable = (flags & 4) != 0,
    };
}

static enum verdict_action
meaning(char cell, unsigned flags)
{
    enum verdict_action restart = (flags & 4) != 0 ? VERDICT_NEXT_SERVER : VERDICT_DEFER;

    switch (cell) {
    case '.': return VERDICT_CONTINUE;
    case 'D': return VERDICT_DELIVERED;
    case 'd': return VERDICT_DEFER;
    case 'x': return VERDICT_REFUSE;
    case 'A': return VERDICT_AMBIGUOUS;
    case 'S': return VERDICT_NEXT_SERVER;
    case 'R': return restart;
    case 'P': return flags == 7 ? VERDICT_FRESH : restart;
    case 'I': return flags == 7 ? VERDICT_FRESH : VERDICT_NEXT_SERVER;
    default: break;
    }
    cr_assert_fail("no cell: %c", cell);
    return VERDICT_CONTINUE;
}

Test(verdict, grid)
{
    bool seen[SENDER_EXPECTATIONS] = { false };

    for (size_t i = 0; i < ROWS_OF(grid); i++) {
        cr_assert_eq(strlen(grid[i].cells), 2 * VERDICT_CLASSES - 1);
        seen[grid[i].expectation] = true;
        for (unsigned class = 0; class < VERDICT_CLASSES; class++) {
            for (unsigned flags = 0; flags < 8; flags++) {
                struct verdict_context context =
                    context_of(grid[i].expectation, (enum verdict_class)class, flags);
                enum verdict_action got = verdict_decide(&context);
                enum verdict_action want = meaning(grid[i].cells[2 * class], flags);
                cr_assert_eq(got, want, "%s, class %u, flags %u: %s, not %s",
                             sender_expectation_name(grid[i].expectation), class, flags,
                             verdict_action_name(got), verdict_action_name(want));
            }
        }
    }
    for (size_t i = 0; i < SENDER_EXPECTATIONS; i++)
        cr_assert(seen[i], "%s has no row", sender_expectation_name((enum sender_expectation)i));
}

/* --- codes that say more than their class --- */

static const struct code_row {
    unsigned code;
    const char *cells; /* the same letters, for MAIL RCPT DATA CHUNK END */
} code_rows[] = {
    /*       M R D C E */
    { 421, "P P P P R" },
    { 450, "d d d d d" },
    { 451, "d d d d d" },
    { 452, "d d d d d" },
    { 454, "d d d d d" },
    { 500, "x x x x x" },
    { 501, "x x x x x" },
    { 502, "x x x x x" },
    { 503, "R x x x x" },
    { 504, "x x x x x" },
    { 521, "R R R R R" },
    { 530, "R R R R R" },
    { 534, "R R R R R" },
    { 535, "R R R R R" },
    { 538, "R R R R R" },
    { 550, "x x x x x" },
    { 551, "x x x x x" },
    { 552, "x d x x x" },
    { 553, "x x x x x" },
    { 554, "x x x x x" },
    { 555, "x x x x x" },
    { 556, "x x x x x" },
};

Test(verdict, code_table)
{
    for (size_t i = 0; i < ROWS_OF(code_rows); i++) {
        for (unsigned column = 0; column < 5; column++) {
            for (unsigned flags = 0; flags < 8; flags++) {
                enum sender_expectation expectation =
                    (enum sender_expectation)(SENDER_EXPECTS_MAIL + column);
                struct verdict_context context = context_of(
                    expectation, code_rows[i].code < 500 ? VERDICT_4XX : VERDICT_5XX, flags);
                context.code = code_rows[i].code;
                enum verdict_action got = verdict_decide(&context);
                enum verdict_action want = meaning(code_rows[i].cells[2 * column], flags);
                cr_assert_eq(got, want, "%u to %s, flags %u: %s, not %s", context.code,
                             sender_expectation_name(expectation), flags,
                             verdict_action_name(got), verdict_action_name(want));
            }
        }
    }
}

/* --- what the client is told --- */

static const struct reply_row {
    enum sender_expectation expectation;
    enum verdict_class class;
    enum verdict_action action;
    unsigned code; /* from the next hop; 0 and no text: nothing known */
    const char *enhanced, *text;
    const char *want;
} reply_rows[] = {
    /* The next hop's own words about the message. */
    { EXPECTS(RCPT), VERDICT_5XX, VERDICT_REFUSE, 550, "5.1.1", "no such user",
      "550 5.1.1 no such user" },
    { EXPECTS(END), VERDICT_5XX, VERDICT_REFUSE, 554, NULL, "spam\nsee https://example.net/",
      "554 spam|see https://example.net/" },
    { EXPECTS(MAIL), VERDICT_4XX, VERDICT_DEFER, 452, "4.3.1", "disk full", "452 4.3.1 disk full" },
    { EXPECTS(END), VERDICT_4XX, VERDICT_DEFER, 450, "4.7.1", "greylisted\nuntil noon",
      "450 4.7.1 greylisted|until noon" },
    { EXPECTS(RCPT), VERDICT_5XX, VERDICT_DEFER, 552, NULL, "too many recipients",
      "452 4.5.3 too many recipients" },
    { EXPECTS(RCPT), VERDICT_5XX, VERDICT_DEFER, 552, "5.2.2", "mailbox full",
      "452 4.2.2 mailbox full" },
    /* About our connection, not about the message. */
    { EXPECTS(RCPT), VERDICT_4XX, VERDICT_DEFER, 421, "4.3.2", "shutting down",
      "451 4.3.2 next hop is closing the connection at RCPT TO: 421 4.3.2 shutting down" },
    { EXPECTS(END), VERDICT_4XX, VERDICT_NEXT_SERVER, 421, NULL, "bye\nbye",
      "451 4.3.2 next hop is closing the connection at end of data: 421 bye bye" },
    { EXPECTS(MAIL), VERDICT_5XX, VERDICT_DEFER, 530, "5.7.0", "Must issue STARTTLS first",
      "451 4.7.0 next hop wants TLS or authentication from us at MAIL FROM: "
      "530 5.7.0 Must issue STARTTLS first" },
    { EXPECTS(MAIL), VERDICT_5XX, VERDICT_NEXT_SERVER, 503, "5.5.1", "EHLO first",
      "451 4.5.1 next hop says that commands are out of order at MAIL FROM: "
      "503 5.5.1 EHLO first" },
    { EXPECTS(RCPT), VERDICT_5XX, VERDICT_NEXT_SERVER, 521, NULL, "no mail here",
      "451 4.3.2 next hop accepts no mail at RCPT TO: 521 no mail here" },
    { EXPECTS(GREETING), VERDICT_5XX, VERDICT_NEXT_SERVER, 554, "5.7.1", "you are listed",
      "451 4.3.2 next hop refuses service at greeting: 554 5.7.1 you are listed" },
    { EXPECTS(EHLO), VERDICT_4XX, VERDICT_NEXT_SERVER, 421, NULL, "too busy",
      "451 4.3.2 next hop refuses service at EHLO: 421 too busy" },
    { EXPECTS(STARTTLS), VERDICT_4XX, VERDICT_NEXT_SERVER, 454, "4.7.0", "no TLS today",
      "451 4.7.4 next hop refuses the TLS that is required at STARTTLS: 454 4.7.0 no TLS today" },
    { EXPECTS(NOTHING), VERDICT_4XX, VERDICT_NEXT_SERVER, 421, NULL, "idle",
      "451 4.3.2 next hop refuses service: 421 idle" },
    { EXPECTS(RSET), VERDICT_5XX, VERDICT_NEXT_SERVER, 500, NULL, "what?",
      "451 4.3.0 next hop refuses at RSET: 500 what?" },
    /* No reply at all. */
    { EXPECTS(NOTHING), VERDICT_LOST, VERDICT_NEXT_SERVER, 0, NULL, NULL,
      "451 4.4.1 no connection to the next hop" },
    { EXPECTS(NOTHING), VERDICT_LOST, VERDICT_NEXT_SERVER, 0, NULL, "Connection refused",
      "451 4.4.1 no connection to the next hop: Connection refused" },
    { EXPECTS(NOTHING), VERDICT_TIMEOUT, VERDICT_NEXT_SERVER, 0, NULL, NULL,
      "451 4.4.1 connecting to the next hop took too long" },
    { EXPECTS(GREETING), VERDICT_TIMEOUT, VERDICT_NEXT_SERVER, 0, NULL, NULL,
      "451 4.4.2 next hop took too long to answer at greeting" },
    { EXPECTS(DATA), VERDICT_LOST, VERDICT_DEFER, 0, NULL, NULL,
      "451 4.4.2 connection to the next hop lost at DATA" },
    { EXPECTS(MAIL), VERDICT_LOST, VERDICT_FRESH, 0, NULL, NULL,
      "451 4.4.2 connection to the next hop lost at MAIL FROM" },
    { EXPECTS(STARTTLS), VERDICT_LOST, VERDICT_NEXT_SERVER, 0, NULL, NULL,
      "451 4.7.5 connection to the next hop lost in TLS setup at STARTTLS" },
    { EXPECTS(STARTTLS), VERDICT_TIMEOUT, VERDICT_NEXT_SERVER, 0, NULL, NULL,
      "451 4.7.5 next hop took too long in TLS setup at STARTTLS" },
    { EXPECTS(STARTTLS), VERDICT_PROTOCOL, VERDICT_NEXT_SERVER, 0, NULL, "certificate has expired",
      "451 4.7.5 TLS with the next hop failed at STARTTLS: certificate has expired" },
    { EXPECTS(GREETING), VERDICT_PROTOCOL, VERDICT_NEXT_SERVER, 0, NULL,
      "not an SMTP reply: SSH-2.0-OpenSSH_9.2",
      "451 4.5.0 next hop does not keep to SMTP at greeting: "
      "not an SMTP reply: SSH-2.0-OpenSSH_9.2" },
    { EXPECTS(DATA), VERDICT_2XX, VERDICT_DEFER, 250, NULL, "go on",
      "451 4.5.0 next hop answered what makes no sense at DATA: 250 go on" },
    /* Nobody knows. */
    { EXPECTS(END), VERDICT_LOST, VERDICT_AMBIGUOUS, 0, NULL, NULL,
      "451 4.4.2 next hop may have the message, the connection was lost after end of data" },
    { EXPECTS(END), VERDICT_TIMEOUT, VERDICT_AMBIGUOUS, 0, NULL, NULL,
      "451 4.4.2 next hop may have the message, it did not answer the end of data" },
    { EXPECTS(END), VERDICT_PROTOCOL, VERDICT_AMBIGUOUS, 0, NULL, "a NUL in a reply: 250 ?",
      "451 4.4.2 next hop may have the message, its answer to the end of data is not SMTP: "
      "a NUL in a reply: 250 ?" },
    { EXPECTS(END), VERDICT_3XX, VERDICT_AMBIGUOUS, 354, NULL, "more",
      "451 4.4.2 next hop may have the message, its answer to the end of data is unclear: "
      "354 more" },
};

static void
reply_make(struct reply *reply, unsigned code, const char *enhanced, const char *text)
{
    reply_clear(reply);
    if (code != 0) {
        reply_set(reply, code, enhanced, span_text(text));
    } else if (text != NULL) {
        reply->text_len = (uint16_t)strlen(text);
        memcpy(reply->text, text, reply->text_len);
    }
}

static const char *
reply_show(const struct reply *reply)
{
    static char shown[REPLY_TEXT_BYTES_MAX + 64];
    char enhanced[32] = "";

    if (reply->enhanced.class != 0)
        (void)snprintf(enhanced, sizeof(enhanced), "%u.%u.%u ", reply->enhanced.class,
                       reply->enhanced.subject, reply->enhanced.detail);
    (void)snprintf(shown, sizeof(shown), "%u %s%.*s", reply->code, enhanced,
                   (int)reply->text_len, reply->text);
    for (char *c = shown; *c != '\0'; c++)
        if (*c == '\n')
            *c = '|';
    return shown;
}

Test(verdict, reply_table)
{
    for (size_t i = 0; i < ROWS_OF(reply_rows); i++) {
        const struct reply_row *row = &reply_rows[i];
        struct verdict_context context = {
            .expectation = row->expectation,
            .class = row->class,
            .code = row->code,
            .reused = row->action == VERDICT_FRESH,
            .nothing_answered = row->action == VERDICT_FRESH,
            .restartable = row->action == VERDICT_FRESH || row->action == VERDICT_NEXT_SERVER,
        };
        struct reply said, told;
        bool known = row->code != 0 || row->text != NULL;

        cr_assert_eq(verdict_decide(&context), row->action, "row %zu, %s", i, row->want);
        reply_make(&said, row->code, row->enhanced, row->text);
        verdict_reply(&context, row->action, known ? &said : NULL, &told);
        cr_assert_str_eq(reply_show(&told), row->want, "row %zu: %s, not %s", i,
                         reply_show(&told), row->want);
    }
}

/* A text that fills a reply, quoted behind our words, is cut; a character is not left in halves. */
Test(verdict, long_texts_are_cut)
{
    static char text[REPLY_TEXT_BYTES_MAX];
    struct verdict_context context = {
        .expectation = EXPECTS(MAIL),
        .class = VERDICT_5XX,
        .code = 530,
    };
    char line[RECEIVER_REPLY_ROOM];

    for (size_t shift = 0; shift < 4; shift++) {
        struct reply said, told;
        struct outbuf out = { .data = line, .size = sizeof(line) };
        for (size_t i = 0; i < sizeof(text); i++)
            text[i] = i < shift ? 'x' : (i - shift) % 2 == 0 ? '\xc3' : '\xa9';
        reply_set(&said, 530, NULL, span_of(text, sizeof(text)));
        verdict_reply(&context, VERDICT_DEFER, &said, &told);
        cr_assert_eq(told.code, 451);
        cr_assert_geq(told.text_len, REPLY_TEXT_BYTES_MAX - 2);
        reply_write(&told, true, &out);
        cr_assert(utf8_valid(outbuf_span(&out)));
    }
}

/* --- what holds whatever happens --- */

static void
context_check_all(const struct verdict_context *context)
{
    enum verdict_action action = verdict_decide(context);
    const char *name = sender_expectation_name(context->expectation);
    bool in_transaction = context->expectation >= SENDER_EXPECTS_MAIL &&
                          context->expectation <= SENDER_EXPECTS_END;
    bool end = context->expectation == SENDER_EXPECTS_END;
    bool answered = context->class == VERDICT_2XX || context->class >= VERDICT_4XX;
    struct reply said, told;

    /* Never sent twice when it may have been taken; never given up when it was not. */
    answered = answered && context->class <= VERDICT_5XX;
    cr_assert_eq(action == VERDICT_AMBIGUOUS, end && !answered, "%s %u", name, context->code);
    cr_assert_eq(action == VERDICT_DELIVERED, end && context->class == VERDICT_2XX);
    /* Sent again only from the start, and fresh only when the pool was to blame. */
    if (action == VERDICT_NEXT_SERVER && in_transaction)
        cr_assert(context->restartable, "%s %u", name, context->code);
    if (action == VERDICT_FRESH)
        cr_assert(context->restartable && context->reused && context->nothing_answered && !end &&
                      (context->class != VERDICT_TIMEOUT), "%s %u", name, context->code);
    /* Only a 5xx of the next hop to this very message is one to the client. */
    if (action == VERDICT_REFUSE)
        cr_assert(in_transaction && context->class == VERDICT_5XX, "%s %u", name, context->code);
    if (action == VERDICT_CONTINUE || action == VERDICT_DELIVERED)
        return;
    reply_make(&said, context->code, NULL, "some text");
    verdict_reply(context, action, &said, &told);
    cr_assert_eq(told.code / 100, action == VERDICT_REFUSE ? 5 : 4, "%s %u", name, context->code);
    cr_assert_neq(told.code, 421, "%s", name);
    cr_assert_gt(told.text_len, 0, "%s", name);
    if (told.enhanced.class != 0)
        cr_assert_eq(told.enhanced.class, told.code / 100, "%s %u", name, context->code);
}

Test(verdict, rules_hold_for_every_context)
{
    for (unsigned expectation = 0; expectation < SENDER_EXPECTATIONS; expectation++) {
        for (unsigned flags = 0; flags < 8; flags++) {
            struct verdict_context context;
            for (unsigned code = 200; code < 600; code++) {
                context = context_of((enum sender_expectation)expectation,
                                     (enum verdict_class)(code / 100 - 2), flags);
                context.code = code;
                context_check_all(&context);
            }
            for (unsigned class = VERDICT_LOST; class < VERDICT_CLASSES; class++) {
                context = context_of((enum sender_expectation)expectation,
                                     (enum verdict_class)class, flags);
                context_check_all(&context);
            }
        }
    }
}

Test(verdict, class_of_a_reply)
{
    static const struct {
        unsigned code;
        enum verdict_class want;
    } rows[] = {
        { 0, VERDICT_PROTOCOL }, { 200, VERDICT_2XX }, { 299, VERDICT_2XX }, { 354, VERDICT_3XX },
        { 421, VERDICT_4XX },    { 499, VERDICT_4XX }, { 500, VERDICT_5XX }, { 599, VERDICT_5XX },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        struct reply reply;
        reply_make(&reply, rows[i].code, NULL, "x");
        cr_assert_eq(verdict_class_of(&reply), rows[i].want, "%u", rows[i].code);
    }
}
