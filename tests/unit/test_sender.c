/* The sender role: every expectation against every kind of reply, as a grid that can be read; the
 * commands it writes; what it knows when a connection is lost. Whole dialogues:
 * test_sender_transcripts.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/sender.h"
#include "tests/unit/guard.h"

#define ROWS_OF(table) (sizeof(table) / sizeof((table)[0]))
#define EHLO_ALL                                                                   \
    "250-mx.example.net\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SIZE 1000000\r\n" \
    "250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-STARTTLS\r\n250 ENHANCEDSTATUSCODES\r\n"

struct bench {
    struct sender sender;
    char bytes[16384];
    struct outbuf out;
};

static struct guard guard;

static void
bench_start(struct bench *bench, enum sender_tls tls)
{
    bench->out = (struct outbuf){ .data = bench->bytes, .size = sizeof(bench->bytes) };
    sender_start(&bench->sender, SPAN("edge.example.com"), tls, false);
}

/* One step; all of the input must be taken. */
static struct sender_event
say(struct bench *bench, const char *text)
{
    struct span in = guard_end(&guard, text, strlen(text));
    struct sender_event event = sender_step(&bench->sender, &in, &bench->out);

    cr_assert_eq(in.len, 0, "left over: %.*s", (int)in.len, in.data);
    return event;
}

/* Up to READY, with the given reply to EHLO. */
static void
bench_ready(struct bench *bench, const char *ehlo_reply)
{
    bench_start(bench, SENDER_TLS_NONE);
    cr_assert_eq(say(bench, "220 mx.example.net\r\n").kind, SENDER_NEED_INPUT);
    cr_assert_eq(say(bench, ehlo_reply).kind, SENDER_READY);
    bench->out.len = 0;
}

static void
mail(struct bench *bench)
{
    struct sender_mail mail = { .reverse_path = SPAN("a@example.com") };

    sender_mail(&bench->sender, &mail, &bench->out);
}

static void
rcpt(struct bench *bench)
{
    struct rcpt_parameters none = { .notify = DSN_NOTIFY_NONE };

    sender_rcpt(&bench->sender, SPAN("b@example.net"), &none, &bench->out);
}

static void
mail_accepted(struct bench *bench)
{
    bench_ready(bench, EHLO_ALL);
    mail(bench);
    cr_assert_eq(say(bench, "250 ok\r\n").kind, SENDER_REPLY);
}

static void
rcpt_accepted(struct bench *bench)
{
    mail_accepted(bench);
    rcpt(bench);
    cr_assert_eq(say(bench, "250 ok\r\n").kind, SENDER_REPLY);
}

/* A connection on which exactly this is outstanding. */
static void
bench_reach(struct bench *bench, enum sender_expectation expectation, enum sender_tls tls)
{
    switch (expectation) {
    case SENDER_EXPECTS_NOTHING:
        bench_ready(bench, EHLO_ALL);
        return;
    case SENDER_EXPECTS_GREETING:
    case SENDER_EXPECTS_EHLO:
    case SENDER_EXPECTS_HELO:
    case SENDER_EXPECTS_STARTTLS:
        bench_start(bench, tls);
        if (expectation != SENDER_EXPECTS_GREETING)
            (void)say(bench, "220 mx\r\n");
        if (expectation == SENDER_EXPECTS_HELO)
            (void)say(bench, "500 what?\r\n");
        if (expectation == SENDER_EXPECTS_STARTTLS)
            (void)say(bench, EHLO_ALL);
        bench->out.len = 0;
        return;
    case SENDER_EXPECTS_MAIL:
        bench_ready(bench, EHLO_ALL);
        mail(bench);
        break;
    case SENDER_EXPECTS_RCPT:
        mail_accepted(bench);
        rcpt(bench);
        break;
    case SENDER_EXPECTS_DATA:
        rcpt_accepted(bench);
        sender_data(&bench->sender, &bench->out);
        break;
    case SENDER_EXPECTS_CHUNK:
    case SENDER_EXPECTS_END:
        rcpt_accepted(bench);
        sender_chunk(&bench->sender, 5, expectation == SENDER_EXPECTS_END, &bench->out);
        break;
    case SENDER_EXPECTS_RSET:
        bench_ready(bench, EHLO_ALL);
        sender_reset(&bench->sender, &bench->out);
        break;
    case SENDER_EXPECTS_QUIT:
        bench_ready(bench, EHLO_ALL);
        sender_quit(&bench->sender, &bench->out);
        break;
    case SENDER_EXPECTATIONS:
        cr_assert_fail("no expectation");
    }
    bench->out.len = 0;
}

/* --- the table of sender.c --- */

static const char *const column_replies[] = {
    "250 yes\r\n", "354 go on\r\n", "450 not now\r\n", "550 no\r\n", "421 bye\r\n", NULL,
};
#define GRID_COLUMNS ROWS_OF(column_replies)

struct grid_row {
    enum sender_tls tls;
    enum sender_expectation expectation;
    const char *want[GRID_COLUMNS];
};

/* unasked: BROKEN with code 0; broken: BROKEN with the reply; reply!: REPLY, then BROKEN at the
 * next step; a verb: that command is written. EHLO 2xx offers STARTTLS only in row STARTTLS. */
#define ANY SENDER_TLS_OPPORTUNISTIC
#define REQ SENDER_TLS_REQUIRE
#define EXPECTS(name) SENDER_EXPECTS_##name
static const struct grid_row grid[] = {
    /*                        2xx        3xx        4xx        5xx        421       lost */
    { ANY, EXPECTS(NOTHING), { "unasked", "unasked", "unasked", "unasked", "broken", "lost" } },
    { ANY, EXPECTS(GREETING), { "EHLO", "broken", "broken", "broken", "broken", "lost" } },
    { ANY, EXPECTS(EHLO), { "ready", "broken", "broken", "HELO", "broken", "lost" } },
    { ANY, EXPECTS(HELO), { "ready", "broken", "broken", "broken", "broken", "lost" } },
    { ANY, EXPECTS(STARTTLS), { "tls", "broken", "ready", "ready", "broken", "lost" } },
    { ANY, EXPECTS(MAIL), { "reply", "broken", "reply", "reply", "reply!", "lost" } },
    { ANY, EXPECTS(RCPT), { "reply", "broken", "reply", "reply", "reply!", "lost" } },
    { ANY, EXPECTS(DATA), { "broken", "reply", "reply", "reply", "reply!", "lost" } },
    { ANY, EXPECTS(CHUNK), { "reply", "broken", "reply", "reply", "reply!", "lost" } },
    { ANY, EXPECTS(END), { "reply", "broken", "reply", "reply", "reply!", "ambiguous" } },
    { ANY, EXPECTS(RSET), { "ready", "broken", "broken", "broken", "broken", "lost" } },
    { ANY, EXPECTS(QUIT), { "closed", "closed", "closed", "closed", "closed", "lost" } },
    /* Where TLS is required plaintext is never ready. */
    { REQ, EXPECTS(GREETING), { "EHLO", "broken", "broken", "broken", "broken", "lost" } },
    { REQ, EXPECTS(EHLO), { "unasked", "broken", "broken", "broken", "broken", "lost" } },
    { REQ, EXPECTS(STARTTLS), { "tls", "broken", "broken", "broken", "broken", "lost" } },
};

static void
broken_check(struct bench *bench, const struct sender_event *event)
{
    struct sender_event again = say(bench, "250 and more\r\n");

    cr_assert_eq(event->expectation, sender_lost(&bench->sender));
    cr_assert_eq(again.kind, SENDER_BROKEN);
    cr_assert_eq(again.expectation, event->expectation);
    cr_assert_eq(again.reply->code, event->reply->code);
    cr_assert_not(sender_ready(&bench->sender, 0));
    cr_assert_not(sender_may_send(&bench->sender));
    cr_assert_not(sender_idle(&bench->sender));
}

/* What happened, in the words of the grid. */
static const char *
observe(struct bench *bench, const char *reply, enum sender_expectation expectation)
{
    static char verb[16];
    struct sender_event event;

    if (reply == NULL)
        return sender_ambiguous(&bench->sender) ? "ambiguous" : "lost";
    event = say(bench, reply);
    switch (event.kind) {
    case SENDER_READY:
        return "ready";
    case SENDER_START_TLS:
        return "tls";
    case SENDER_CLOSED:
        cr_assert_eq(say(bench, "250 and more\r\n").kind, SENDER_CLOSED);
        return "closed";
    case SENDER_BROKEN:
        broken_check(bench, &event);
        return event.reply->code == 0 ? "unasked" : "broken";
    case SENDER_REPLY:
        cr_assert_eq(event.expectation, expectation);
        cr_assert_eq(event.reply->code, (reply[0] - '0') * 100 + (reply[1] - '0') * 10 +
                                            (reply[2] - '0'));
        if (event.reply->code != 421)
            return "reply";
        event = say(bench, "");
        cr_assert_eq(event.kind, SENDER_BROKEN);
        cr_assert_eq(event.reply->code, 421);
        broken_check(bench, &event);
        return "reply!";
    case SENDER_NEED_INPUT:
        cr_assert_gt(bench->out.len, 4);
        memcpy(verb, bench->out.data, 4);
        verb[4] = '\0';
        return verb;
    case SENDER_NEED_ROOM:
        break;
    }
    return "?";
}

Test(sender, grid)
{
    bool seen[SENDER_EXPECTATIONS] = { false };
    struct bench bench;

    for (size_t i = 0; i < ROWS_OF(grid); i++) {
        seen[grid[i].expectation] = true;
        for (size_t column = 0; column < GRID_COLUMNS; column++) {
            bench_reach(&bench, grid[i].expectation, grid[i].tls);
            const char *name = sender_expectation_name(grid[i].expectation);
            cr_assert_eq(sender_lost(&bench.sender), grid[i].expectation, "%s", name);
            const char *got = observe(&bench, column_replies[column], grid[i].expectation);
            cr_assert_str_eq(got, grid[i].want[column], "row %zu %s, column %zu: %s, not %s", i,
                             name, column, got, grid[i].want[column]);
        }
    }
    for (size_t i = 0; i < SENDER_EXPECTATIONS; i++)
        cr_assert(seen[i], "%s has no row", sender_expectation_name((enum sender_expectation)i));
}

/* --- what is no reply --- */

#define X20 "xxxxxxxxxxxxxxxxxxxx"
#define X100 X20 X20 X20 X20 X20
#define X1000 X100 X100 X100 X100 X100 X100 X100 X100 X100 X100

static const struct bad_row {
    const char *name;
    struct span input;
    const char *want; /* the text begins so */
} bad_rows[] = {
    { "bare LF", SPAN("250 ok\n250 ok\r\n"), "a bare CR or LF in a reply: 250 ok" },
    { "bare CR", SPAN("250 o\rk\r\n"), "a bare CR or LF in a reply: 250 o" },
    { "CR CR LF", SPAN("250 ok\r\r\n"), "a bare CR or LF in a reply: 250 ok" },
    { "NUL", SPAN("250 a\0b\r\n"), "a NUL in a reply: 250 a?b" },
    { "no reply", SPAN("SSH-2.0-OpenSSH_9.2\r\n"), "not an SMTP reply: SSH-2.0-OpenSSH_9.2" },
    { "HTTP", SPAN("HTTP/1.1 400 Bad Request\r\n"), "not an SMTP reply: HTTP/1.1 400" },
    { "empty line", SPAN("\r\n"), "not an SMTP reply" },
    { "code 199", SPAN("199 x\r\n"), "not an SMTP reply" },
    { "code 600", SPAN("600 x\r\n"), "not an SMTP reply" },
    { "two digits", SPAN("25 x\r\n"), "not an SMTP reply" },
    { "no separator", SPAN("250ok\r\n"), "not an SMTP reply" },
    { "a control character", SPAN("250 \x1b[2J\r\n"), "not an SMTP reply: 250 ?[2J" },
    { "above 127 in a fault", SPAN("\xff\xfe x\r\n"), "not an SMTP reply: ?? x" },
    { "code changes", SPAN("250-a\r\n251 b\r\n"), "the code changes within a reply: 251 b" },
    { "too long, ended", SPAN("250 " X1000 X1000 X100 "\r\n"), "a reply line that is too long" },
    { "too long, no end", SPAN("250 " X1000 X1000 X100), "a reply line that is too long" },
};

Test(sender, what_is_no_reply)
{
    struct bench bench;

    for (size_t i = 0; i < ROWS_OF(bad_rows); i++) {
        const struct bad_row *row = &bad_rows[i];
        for (size_t expectation = SENDER_EXPECTS_MAIL; expectation <= SENDER_EXPECTS_END;
             expectation++) {
            bench_reach(&bench, (enum sender_expectation)expectation, SENDER_TLS_NONE);
            struct span in = guard_end(&guard, row->input.data, row->input.len);
            struct sender_event event = sender_step(&bench.sender, &in, &bench.out);

            cr_assert_eq(event.kind, SENDER_BROKEN, "%s", row->name);
            cr_assert_eq(event.expectation, expectation, "%s", row->name);
            cr_assert_eq(event.reply->code, 0, "%s", row->name);
            cr_assert_eq(in.len, 0, "%s", row->name);
            cr_assert_geq(event.reply->text_len, strlen(row->want), "%s", row->name);
            cr_assert_arr_eq(event.reply->text, row->want, strlen(row->want), "%s: %.*s", row->name,
                             (int)event.reply->text_len, event.reply->text);
            cr_assert_eq(sender_ambiguous(&bench.sender), expectation == SENDER_EXPECTS_END);
        }
    }
}

/* The longest line and the most lines that are still a reply, and one more of each. */
Test(sender, reply_bounds)
{
    static char input[REPLY_LINES_MAX * 8 + SENDER_REPLY_LINE_BYTES_MAX + 64];
    struct bench bench;

    for (size_t extra = 0; extra <= 1; extra++) {
        size_t len = SENDER_REPLY_LINE_BYTES_MAX + extra;
        memset(input, 'x', len);
        memcpy(input, "250 ", 4);
        memcpy(input + len - 2, "\r\n", 3);
        bench_reach(&bench, SENDER_EXPECTS_MAIL, SENDER_TLS_NONE);
        struct sender_event event = say(&bench, input);
        cr_assert_eq(event.kind, extra == 0 ? SENDER_REPLY : SENDER_BROKEN);
        if (extra == 0)
            cr_assert_eq(event.reply->text_len, REPLY_TEXT_BYTES_MAX);
    }
    for (size_t extra = 0; extra <= 1; extra++) {
        size_t lines = REPLY_LINES_MAX + extra;
        for (size_t i = 0; i < lines; i++)
            memcpy(input + i * 7, i + 1 < lines ? "250-a\r\n" : "250 a\r\n", 8);
        bench_reach(&bench, SENDER_EXPECTS_MAIL, SENDER_TLS_NONE);
        cr_assert_eq(say(&bench, input).kind, extra == 0 ? SENDER_REPLY : SENDER_BROKEN);
    }
}

/* --- capabilities --- */

static const struct capability_row {
    const char *name, *input; /* the reply to EHLO */
    struct sender_capabilities want;
} capability_rows[] = {
    { "all", EHLO_ALL,
      { true, true, true, true, true, true, true, true, true, 1000000 } },
    { "none", "250 mx\r\n", { .esmtp = true } },
    { "no text", "250\r\n", { .esmtp = true } },
    { "the first line is no keyword", "250-PIPELINING\r\n250 DSN\r\n",
      { .esmtp = true, .dsn = true } },
    { "case", "250-mx\r\n250-pipelining\r\n250 StartTls\r\n",
      { .esmtp = true, .pipelining = true, .starttls = true } },
    { "SIZE alone", "250-mx\r\n250 SIZE\r\n", { .esmtp = true, .size = true } },
    { "SIZE 0 is no limit", "250-mx\r\n250 SIZE 0\r\n", { .esmtp = true, .size = true } },
    { "SIZE with an equals sign", "250-mx\r\n250 SIZE=77\r\n",
      { .esmtp = true, .size = true, .size_max = 77 } },
    { "SIZE and spaces", "250-mx\r\n250 SIZE  77 x\r\n",
      { .esmtp = true, .size = true, .size_max = 77 } },
    { "SIZE, 64 bits", "250-mx\r\n250 SIZE 18446744073709551615\r\n",
      { .esmtp = true, .size = true, .size_max = UINT64_MAX } },
    { "SIZE beyond 64 bits", "250-mx\r\n250 SIZE 18446744073709551616\r\n",
      { .esmtp = true, .size = true } },
    { "SIZE, no number", "250-mx\r\n250 SIZE 10MB\r\n", { .esmtp = true, .size = true } },
    { "SIZE, negative", "250-mx\r\n250 SIZE -1\r\n", { .esmtp = true, .size = true } },
    { "AUTH=LOGIN", "250-mx\r\n250-AUTH=LOGIN\r\n250-AUTH LOGIN PLAIN\r\n250 DSN\r\n",
      { .esmtp = true, .dsn = true } },
    { "a prefix is not the keyword", "250-mx\r\n250-DSNX\r\n250-X-DSN\r\n250 SIZES 5\r\n",
      { .esmtp = true } },
    { "parameters of a keyword without", "250-mx\r\n250-PIPELINING now\r\n250 DSN\t\r\n",
      { .esmtp = true, .pipelining = true, .dsn = true } },
    { "empty lines", "250-mx\r\n250-\r\n250 \r\n", { .esmtp = true } },
    { "any 2xx", "220-mx\r\n220 DSN\r\n", { .esmtp = true, .dsn = true } },
};

static void
capabilities_check(const struct sender_capabilities *got, const struct sender_capabilities *want,
                   const char *name)
{
    cr_assert_eq(got->esmtp, want->esmtp, "%s: esmtp", name);
    cr_assert_eq(got->pipelining, want->pipelining, "%s: pipelining", name);
    cr_assert_eq(got->chunking, want->chunking, "%s: chunking", name);
    cr_assert_eq(got->size, want->size, "%s: size", name);
    cr_assert_eq(got->eight_bit_mime, want->eight_bit_mime, "%s: 8bitmime", name);
    cr_assert_eq(got->smtputf8, want->smtputf8, "%s: smtputf8", name);
    cr_assert_eq(got->dsn, want->dsn, "%s: dsn", name);
    cr_assert_eq(got->starttls, want->starttls, "%s: starttls", name);
    cr_assert_eq(got->enhanced_codes, want->enhanced_codes, "%s: enhanced codes", name);
    cr_assert_eq(got->size_max, want->size_max, "%s: %ju", name, (uintmax_t)got->size_max);
}

Test(sender, capability_table)
{
    struct bench bench;

    for (size_t i = 0; i < ROWS_OF(capability_rows); i++) {
        bench_ready(&bench, capability_rows[i].input);
        capabilities_check(&bench.sender.offered, &capability_rows[i].want,
                           capability_rows[i].name);
    }
}

/* Nothing of a refused EHLO, and nothing from before TLS, is believed (RFC 3207 4.2). */
Test(sender, capabilities_are_forgotten)
{
    const struct sender_capabilities none = { .esmtp = false };
    const struct sender_capabilities dsn = { .esmtp = true, .dsn = true };
    struct bench bench;

    bench_start(&bench, SENDER_TLS_NONE);
    (void)say(&bench, "220 mx\r\n");
    (void)say(&bench, "500-mx\r\n500-DSN\r\n500 PIPELINING\r\n");
    cr_assert_eq(say(&bench, "250-mx\r\n250 PIPELINING\r\n").kind, SENDER_READY);
    capabilities_check(&bench.sender.offered, &none, "HELO");

    bench_reach(&bench, SENDER_EXPECTS_STARTTLS, SENDER_TLS_REQUIRE);
    cr_assert_eq(say(&bench, "220 go\r\n").kind, SENDER_START_TLS);
    cr_assert_eq(sender_lost(&bench.sender), SENDER_EXPECTS_STARTTLS);
    cr_assert_eq(sender_deadline_kind(&bench.sender), SENDER_TIMER_COMMAND);
    cr_assert_not(sender_idle(&bench.sender));
    sender_tls_started(&bench.sender, &bench.out);
    capabilities_check(&bench.sender.offered, &none, "after the handshake");
    cr_assert_eq(say(&bench, "250-mx\r\n250-STARTTLS\r\n250 DSN\r\n").kind, SENDER_READY);
    capabilities_check(&bench.sender.offered, &dsn, "second EHLO");

    /* Implicit TLS satisfies REQUIRE; an EHLO that is refused then leads to HELO as ever. */
    sender_start(&bench.sender, SPAN("edge"), SENDER_TLS_REQUIRE, true);
    (void)say(&bench, "220 mx\r\n");
    cr_assert_eq(say(&bench, "502 no EHLO\r\n").kind, SENDER_NEED_INPUT);
    cr_assert_eq(say(&bench, "250 mx\r\n").kind, SENDER_READY);
}

/* --- commands --- */

static const struct command_row {
    const char *name;
    bool offered; /* everything, or nothing */
    struct sender_mail mail;
    struct span mailbox;
    struct rcpt_parameters rcpt;
    const char *want;
} command_rows[] = {
    { "plain", true, { .reverse_path = SPAN("a@x.example") }, SPAN("b@y.example"), { 0 },
      "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n" },
    { "null path, postmaster", true, { .size = 0 }, SPAN("postmaster"), { 0 },
      "MAIL FROM:<>\r\nRCPT TO:<postmaster>\r\n" },
    { "everything", true,
      { SPAN("a@x.example"), 123, BODY_TYPE_8BITMIME, true, DSN_RETURN_HEADERS, SPAN("id+2B1") },
      SPAN("b@y.example"),
      { .notify = DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY,
        .orcpt = SPAN("rfc822;b@y.example") },
      "MAIL FROM:<a@x.example> SIZE=123 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1\r\n"
      "RCPT TO:<b@y.example> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b@y.example\r\n" },
    { "everything, nothing offered", false,
      { SPAN("a@x.example"), 123, BODY_TYPE_8BITMIME, true, DSN_RETURN_HEADERS, SPAN("id") },
      SPAN("b@y.example"), { .notify = DSN_NOTIFY_NEVER, .orcpt = SPAN("rfc822;b@y.example") },
      "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n" },
    { "7bit, full, never", true,
      { SPAN("a@x.example"), UINT64_MAX, BODY_TYPE_7BIT, false, DSN_RETURN_FULL, SPAN("") },
      SPAN("b@y.example"), { .notify = DSN_NOTIFY_NEVER },
      "MAIL FROM:<a@x.example> SIZE=18446744073709551615 BODY=7BIT RET=FULL\r\n"
      "RCPT TO:<b@y.example> NOTIFY=NEVER\r\n" },
    { "quoted local parts, UTF-8", true,
      { .reverse_path = SPAN("\"a b>\\\" c\"@x.example"), .smtputf8 = true },
      SPAN("\xc3\xbc@y.example"), { 0 },
      "MAIL FROM:<\"a b>\\\" c\"@x.example> SMTPUTF8\r\nRCPT TO:<\xc3\xbc@y.example>\r\n" },
    { "UTF-8 in ORCPT", true, { .smtputf8 = true }, SPAN("b@y.example"),
      { .utf8 = true, .orcpt = SPAN("utf-8;\xc3\xbc@y.example") },
      "MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<b@y.example> ORCPT=utf-8;\xc3\xbc@y.example\r\n" },
};

Test(sender, command_table)
{
    struct bench bench;

    for (size_t i = 0; i < ROWS_OF(command_rows); i++) {
        const struct command_row *row = &command_rows[i];
        bench_ready(&bench, row->offered ? EHLO_ALL : "250 mx\r\n");
        sender_mail(&bench.sender, &row->mail, &bench.out);
        (void)say(&bench, "250 ok\r\n");
        sender_rcpt(&bench.sender, row->mailbox, &row->rcpt, &bench.out);
        cr_assert_eq(bench.out.len, strlen(row->want), "%s: %.*s", row->name, (int)bench.out.len,
                     bench.out.data);
        cr_assert_arr_eq(bench.out.data, row->want, bench.out.len, "%s: %.*s", row->name,
                         (int)bench.out.len, bench.out.data);
    }
}

/* The longest values that limits.h lets through fit the room that a command asks for. */
Test(sender, longest_commands_fit)
{
    static char long_text[MAILBOX_BYTES_MAX + ORCPT_BYTES_MAX];
    struct bench bench;
    struct sender_mail mail = {
        span_of(long_text, MAILBOX_BYTES_MAX), UINT64_MAX, BODY_TYPE_8BITMIME, true,
        DSN_RETURN_HEADERS, span_of(long_text, ENVID_BYTES_MAX),
    };
    struct rcpt_parameters parameters = {
        .notify = DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY,
        .orcpt = span_of(long_text, ORCPT_BYTES_MAX),
    };

    memset(long_text, 'm', sizeof(long_text));
    bench_ready(&bench, EHLO_ALL);
    bench.out.size = SENDER_COMMAND_ROOM;
    sender_mail(&bench.sender, &mail, &bench.out);
    bench.out.len = 0;
    (void)say(&bench, "250 ok\r\n");
    sender_rcpt(&bench.sender, span_of(long_text, MAILBOX_BYTES_MAX), &parameters, &bench.out);
    cr_assert_gt(bench.out.len, MAILBOX_BYTES_MAX + ORCPT_BYTES_MAX);
}

Test(sender, room_is_asked_for_only_while_opening)
{
    struct bench bench;
    struct span in = SPAN("220 mx\r\n");

    bench_start(&bench, SENDER_TLS_NONE);
    bench.out.size = SENDER_COMMAND_ROOM - 1;
    cr_assert_eq(sender_step(&bench.sender, &in, &bench.out).kind, SENDER_NEED_ROOM);
    cr_assert_eq(in.len, 8);
    bench.out.size = SENDER_COMMAND_ROOM;
    cr_assert_eq(sender_step(&bench.sender, &in, &bench.out).kind, SENDER_NEED_INPUT);
    cr_assert_eq(in.len, 0);

    bench_reach(&bench, SENDER_EXPECTS_MAIL, SENDER_TLS_NONE);
    bench.out.size = bench.out.len;
    cr_assert_eq(say(&bench, "250 ok\r\n").kind, SENDER_REPLY);
}

/* --- what may be done when --- */

#define E_PIPELINING "250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n"
#define E_NONE "250-mx\r\n250 CHUNKING\r\n"

/* Letters drive a connection: m MAIL, r RCPT, d DATA, c BDAT, l BDAT LAST, e final dot, s RSET,
 * q QUIT; 2 3 4 5 a reply of that class, 1 a 421. */
static const struct state_row {
    const char *script;
    bool pipelining;
    bool may_send, idle;
    enum sender_timer timer;
    enum sender_expectation lost;
} state_rows[] = {
    { "", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "m", true, true, false, SENDER_TIMER_MAIL, EXPECTS(MAIL) },
    { "m", false, false, false, SENDER_TIMER_MAIL, EXPECTS(MAIL) },
    { "m2", false, true, false, SENDER_TIMER_NONE, EXPECTS(MAIL) },
    { "m4", false, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "m5", false, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "m1", true, false, false, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrr2", true, true, false, SENDER_TIMER_RCPT, EXPECTS(RCPT) },
    { "m2r", false, false, false, SENDER_TIMER_RCPT, EXPECTS(RCPT) },
    { "m2r5", false, true, false, SENDER_TIMER_NONE, EXPECTS(RCPT) },
    { "mrd", true, false, false, SENDER_TIMER_MAIL, EXPECTS(MAIL) },
    { "mrd22", true, false, false, SENDER_TIMER_DATA_INITIATION, EXPECTS(DATA) },
    { "mrd225", true, true, false, SENDER_TIMER_NONE, EXPECTS(DATA) },
    { "mrd223", true, false, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(DATA) },
    { "mrd223e", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(END) },
    { "mrd223e2", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd223e5", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd223e1", true, false, false, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd223e3", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(END) },
    /* MAIL refused, the rest of the group too, or not (RFC 2920 3.1). */
    { "mrd5", true, false, false, SENDER_TIMER_RCPT, EXPECTS(RCPT) },
    { "mrd555", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd553", true, false, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(DATA) },
    { "mrd553e", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(DATA) },
    { "mrd553e5", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd253e", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(DATA) },
    { "mrd253e2", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    /* BDAT LAST in the first burst: ambiguous until it is known that nobody gets it. */
    { "mrl", true, false, false, SENDER_TIMER_MAIL, EXPECTS(END) },
    { "mrl2", true, false, false, SENDER_TIMER_RCPT, EXPECTS(END) },
    { "mrl5", true, false, false, SENDER_TIMER_RCPT, EXPECTS(RCPT) },
    { "mrl25", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(CHUNK) },
    { "mrrl25", true, false, false, SENDER_TIMER_RCPT, EXPECTS(END) },
    { "mrrl252", true, false, false, SENDER_TIMER_DATA_END, EXPECTS(END) },
    { "mrrl21", true, false, false, SENDER_TIMER_RCPT, EXPECTS(END) },
    { "mrl1", true, false, false, SENDER_TIMER_RCPT, EXPECTS(RCPT) },
    { "mrccl222", true, false, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(END) },
    { "mrcc22", true, true, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(CHUNK) },
    { "m2r2c2", false, true, false, SENDER_TIMER_NONE, EXPECTS(CHUNK) },
    { "m2r2l2", false, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    /* RFC 3030 2: after a refused BDAT only RSET helps. */
    { "m2r2l5", false, true, false, SENDER_TIMER_NONE, EXPECTS(CHUNK) },
    { "m2r2l5s", false, false, false, SENDER_TIMER_COMMAND, EXPECTS(RSET) },
    { "m2r2l5s2", false, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrl555", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrrs", true, false, false, SENDER_TIMER_MAIL, EXPECTS(MAIL) },
    { "mrrs2222", true, true, true, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "s5", true, false, false, SENDER_TIMER_COMMAND, EXPECTS(RSET) },
    { "q", true, false, false, SENDER_TIMER_QUIT, EXPECTS(QUIT) },
    { "mq5", true, false, false, SENDER_TIMER_QUIT, EXPECTS(QUIT) },
    { "q2", true, false, false, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "1", true, false, false, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "5", true, false, false, SENDER_TIMER_NONE, EXPECTS(NOTHING) },
    { "mrd2231", true, false, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(DATA) },
    { "mrd2235", true, false, false, SENDER_TIMER_DATA_BLOCK, EXPECTS(DATA) },
};

static void
drive(struct bench *bench, char letter)
{
    struct sender *sender = &bench->sender;

    switch (letter) {
    case 'm': mail(bench); break;
    case 'r': rcpt(bench); break;
    case 'd': sender_data(sender, &bench->out); break;
    case 'c': sender_chunk(sender, 5, false, &bench->out); break;
    case 'l': sender_chunk(sender, 5, true, &bench->out); break;
    case 'e': sender_end_of_data(sender); break;
    case 's': sender_reset(sender, &bench->out); break;
    case 'q': sender_quit(sender, &bench->out); break;
    default: {
        char reply[] = "?00 x\r\n";
        reply[0] = letter;
        (void)say(bench, letter == '1' ? "421 x\r\n" : reply);
    }
    }
    bench->out.len = 0;
}

Test(sender, state_table)
{
    struct bench bench;

    for (size_t i = 0; i < ROWS_OF(state_rows); i++) {
        const struct state_row *row = &state_rows[i];
        bench_ready(&bench, row->pipelining ? E_PIPELINING : E_NONE);
        for (const char *letter = row->script; *letter != '\0'; letter++)
            drive(&bench, *letter);
        cr_assert_eq(sender_may_send(&bench.sender), row->may_send, "%s: may send", row->script);
        cr_assert_eq(sender_idle(&bench.sender), row->idle, "%s: idle", row->script);
        cr_assert_eq(sender_deadline_kind(&bench.sender), row->timer, "%s: timer %d", row->script,
                     (int)sender_deadline_kind(&bench.sender));
        cr_assert_eq(sender_lost(&bench.sender), row->lost, "%s: lost %s", row->script,
                     sender_expectation_name(sender_lost(&bench.sender)));
        cr_assert_eq(sender_ambiguous(&bench.sender), row->lost == SENDER_EXPECTS_END,
                     "%s: ambiguous", row->script);
    }
}

/* A group as large as the FIFO, again and again, so that it wraps at every position. */
Test(sender, fifo_is_bounded_and_wraps)
{
    struct bench bench;

    bench_ready(&bench, E_PIPELINING);
    for (unsigned round = 0; round < SENDER_EXPECTATIONS_MAX + 2; round++) {
        unsigned recipients = round % 2 == 0 ? SENDER_EXPECTATIONS_MAX - 2 : 1;
        cr_assert(sender_ready(&bench.sender, SENDER_EXPECTATIONS_MAX));
        cr_assert_not(sender_ready(&bench.sender, SENDER_EXPECTATIONS_MAX + 1));
        mail(&bench);
        for (unsigned i = 0; i < recipients; i++) {
            bench.out.len = 0;
            rcpt(&bench);
        }
        bench.out.len = 0;
        sender_data(&bench.sender, &bench.out);
        cr_assert_eq(sender_ready(&bench.sender, 1), round % 2 != 0);
        cr_assert_eq(say(&bench, "250 ok\r\n").expectation, SENDER_EXPECTS_MAIL);
        for (unsigned i = 0; i < recipients; i++) {
            struct sender_event event = say(&bench, i % 3 == 1 ? "550 no\r\n" : "250 ok\r\n");
            cr_assert_eq(event.expectation, SENDER_EXPECTS_RCPT);
            cr_assert_eq(event.recipient, i);
        }
        cr_assert_eq(say(&bench, "354 go\r\n").expectation, SENDER_EXPECTS_DATA);
        sender_end_of_data(&bench.sender);
        cr_assert_eq(say(&bench, "250 ok\r\n").expectation, SENDER_EXPECTS_END);
        cr_assert(sender_idle(&bench.sender));
    }
}

/* --- sender_check --- */

static const struct check_row {
    const char *name;
    struct sender_capabilities offered;
    struct sender_needs needs;
    unsigned want; /* 0: it can go */
    struct enhanced_code enhanced;
} check_rows[] = {
    { "nothing needed, nothing offered", { 0 }, { 0 }, 0, { 0 } },
    { "size as the limit", { .size = true, .size_max = 100 }, { .size = 100 }, 0, { 0 } },
    { "size over the limit", { .size = true, .size_max = 100 }, { .size = 101 }, 552, { 5, 3, 4 } },
    { "SIZE without a limit", { .size = true }, { .size = UINT64_MAX }, 0, { 0 } },
    { "no SIZE", { .esmtp = true }, { .size = UINT64_MAX }, 0, { 0 } },
    { "8 bit, offered", { .eight_bit_mime = true }, { .eight_bit = true }, 0, { 0 } },
    { "8 bit, not offered", { .smtputf8 = true }, { .eight_bit = true }, 554, { 5, 6, 3 } },
    { "UTF-8, offered", { .smtputf8 = true }, { .smtputf8 = true }, 0, { 0 } },
    { "UTF-8, not offered", { .eight_bit_mime = true }, { .smtputf8 = true }, 553, { 5, 6, 7 } },
    { "UTF-8 says more than 8 bit", { 0 }, { .smtputf8 = true, .eight_bit = true }, 553,
      { 5, 6, 7 } },
    { "notice, offered", { .dsn = true }, { .success_notice = true }, 0, { 0 } },
    { "notice, not offered", { 0 }, { .success_notice = true }, 550, { 5, 3, 3 } },
};

Test(sender, check_table)
{
    for (size_t i = 0; i < ROWS_OF(check_rows); i++) {
        const struct check_row *row = &check_rows[i];
        struct reply refusal;
        bool goes = sender_check(&row->offered, &row->needs, &refusal);

        cr_assert_eq(goes, row->want == 0, "%s", row->name);
        if (goes)
            continue;
        cr_assert_eq(refusal.code, row->want, "%s", row->name);
        cr_assert_eq(refusal.enhanced.class, row->enhanced.class, "%s", row->name);
        cr_assert_eq(refusal.enhanced.subject, row->enhanced.subject, "%s", row->name);
        cr_assert_eq(refusal.enhanced.detail, row->enhanced.detail, "%s", row->name);
        cr_assert_gt(refusal.text_len, 20, "%s", row->name);
    }
}

/* --- our own errors end the process --- */

static const struct misuse_row {
    const char *name, *script; /* letters as in state_rows; the last one must not be allowed */
    bool pipelining;
    struct span mailbox; /* not empty: RCPT with this mailbox is the misuse */
} misuse_rows[] = {
    { "MAIL in a transaction", "m2m", true, SPAN("") },
    { "MAIL before all is answered", "mr5m", true, SPAN("") },
    { "RCPT without MAIL", "r", true, SPAN("") },
    { "RCPT after a refused MAIL", "m5r", true, SPAN("") },
    { "DATA without RCPT", "m2d", true, SPAN("") },
    { "a command behind DATA", "mrdr", true, SPAN("") },
    { "a command behind QUIT", "qm", true, SPAN("") },
    { "a command in the body", "mrd223r", true, SPAN("") },
    { "RSET in the body", "mrd223s", true, SPAN("") },
    { "no PIPELINING", "mr", false, SPAN("") },
    { "dot before 354", "mrd22e", true, SPAN("") },
    { "dot twice", "mrd223ee", true, SPAN("") },
    { "DATA after BDAT", "mrc222d", true, SPAN("") },
    { "RCPT after BDAT", "mrc222r", true, SPAN("") },
    { "after 421", "m1m", true, SPAN("") },
    { "CR LF in a mailbox", "m2", true, SPAN("a@b\r\nDATA") },
    { "LF in quotes", "m2", true, SPAN("\"a\n\"@b") },
    { "LF behind a backslash", "m2", true, SPAN("\"a\\\n\"@b") },
    { "NUL in a mailbox", "m2", true, SPAN("a\0@b") },
    { "space in a mailbox", "m2", true, SPAN("a b@c") },
    { "bracket in a mailbox", "m2", true, SPAN("a> X=<b@c") },
    { "open quotes", "m2", true, SPAN("\"a@b") },
};

/* In a child process: the script without or with its last step. */
static void
misuse(const struct misuse_row *row, bool last)
{
    struct rcpt_parameters none = { .notify = DSN_NOTIFY_NONE };
    struct bench bench;

    if (freopen("/dev/null", "w", stderr) == NULL)
        _exit(1);
    bench_ready(&bench, row->pipelining ? E_PIPELINING : E_NONE);
    for (const char *letter = row->script; *letter != '\0'; letter++)
        if (last || letter[1] != '\0' || row->mailbox.len > 0)
            drive(&bench, *letter);
    if (last && row->mailbox.len > 0)
        sender_rcpt(&bench.sender, row->mailbox, &none, &bench.out);
    _exit(0);
}

Test(sender, misuse_is_caught)
{
    for (size_t i = 0; i < ROWS_OF(misuse_rows) * 2; i++) {
        const struct misuse_row *row = &misuse_rows[i / 2];
        bool last = i % 2 == 1;
        int status = 0;
        pid_t child = fork();

        cr_assert_geq(child, 0);
        if (child == 0)
            misuse(row, last);
        cr_assert_eq(waitpid(child, &status, 0), child);
        if (last)
            cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: not caught",
                      row->name);
        else
            cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: caught too early",
                      row->name);
    }
}
