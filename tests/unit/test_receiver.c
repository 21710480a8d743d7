/* What the grid and the transcripts of the receiver cannot say: buffers, limits, accessors,
 * counters, and the order that the caller has to keep. */
#include <criterion/criterion.h>

#include <signal.h>

#include "core/receiver_private.h"
#include "tests/unit/receiver_player.h"

#define TO_MAIL "EHLO client.example\r\nMAIL FROM:<a@example.org>\r\n"
#define TO_RCPT TO_MAIL "RCPT TO:<b@example.com>\r\n"
#define TO_DATA TO_RCPT "DATA\r\n"

static void
start(struct player *player, const char *input)
{
    struct receiver_policy policy = player_policy();

    player_start(player, &policy, false, NULL, 0);
    player_feed(player, input, strlen(input), false);
    player->trace.len = 0;
}

/* A session that only says NOOP is ended; one that sends mail in between is not. */
Test(receiver, commands_that_bring_no_mail_are_bounded)
{
    struct receiver_policy policy = player_policy();
    char room[RECEIVER_REPLY_ROOM];
    struct outbuf out = { .data = room, .size = sizeof(room) };
    struct counters counters = { .replies_2xx = 0 };
    struct receiver receiver;
    unsigned commands = 0;

    receiver_start(&receiver, &policy, &counters, false, &out);
    for (bool closed = false; !closed; commands++) {
        struct span in = SPAN("NOOP\r\n");
        struct receiver_event event;

        out.len = 0;
        do {
            event = receiver_step(&receiver, &in, &out);
            closed = event.kind == RECEIVER_CLOSE;
        } while (in.len > 0 && !closed);
        cr_assert_leq(commands, RECEIVER_IDLE_COMMANDS_MAX + policy.errors_max + 1);
    }
    cr_assert_gt(commands, RECEIVER_IDLE_COMMANDS_MAX);
    cr_assert_eq(counters.violations_too_many_errors, 1);

    out.len = 0;
    receiver_start(&receiver, &policy, &counters, false, &out);
    receiver.idle_commands = RECEIVER_IDLE_COMMANDS_MAX;
    for (const char *line = "EHLO c.example\r\nMAIL FROM:<a@example.org>\r\n"; *line != '\0';) {
        struct span in = span_text(line);

        out.len = 0;
        if (receiver_step(&receiver, &in, &out).kind == RECEIVER_MAIL) {
            out.len = 0;
            receiver_accept(&receiver, &out);
        }
        line = in.data;
    }
    cr_assert_eq(receiver.idle_commands, 0);
    cr_assert_eq(receiver.errors, 1);
}

/* --- buffers --- */

Test(receiver, the_longest_replies_fit_the_room_that_is_asked_for)
{
    static char hostname[DOMAIN_BYTES_MAX], text[REPLY_TEXT_BYTES_MAX + 100];
    static char room[RECEIVER_REPLY_ROOM];
    struct receiver_policy policy = player_policy();
    struct outbuf out = { .data = room, .size = sizeof(room) };
    struct counters counters = { .replies_2xx = 0 };
    struct receiver receiver;

    memset(hostname, 'h', sizeof(hostname));
    memset(text, 't', sizeof(text));
    policy.hostname = span_of(hostname, sizeof(hostname));
    policy.message_size_max = INT64_MAX;
    receiver_start(&receiver, &policy, &counters, false, &out);
    cr_assert_lt(out.len, REPLY_LINE_BYTES_MAX);
    for (int i = REPLY_NONE + 1; i < RECEIVER_REPLIES; i++) {
        out.len = 0;
        receiver_say(&receiver, (enum receiver_reply)i, &out);
        cr_assert_leq(out.len, REPLY_LINE_BYTES_MAX, "reply %d", i);
        cr_assert_eq(memcmp(out.data + out.len - 2, "\r\n", 2), 0, "reply %d", i);
    }
    out.len = 0;
    receiver_say_ehlo(&receiver, &out);
    cr_assert_lt(out.len, RECEIVER_REPLY_ROOM);
    out.len = 0;
    receiver_end(&receiver, "4.3.2", span_of(text, sizeof(text)), &out);
    cr_assert_lt(out.len, RECEIVER_REPLY_ROOM);
    cr_assert_eq(memcmp(out.data + out.len - 2, "\r\n", 2), 0);
}

/* One octet less room than is asked for: BODY and ABORT come all the same, what may lead to a reply
 * does not, and takes nothing from the input. */
Test(receiver, asks_for_room_before_it_answers)
{
    static const struct {
        const char *name, *way, *input;
        enum receiver_event_kind before, then; /* NEED_ROOM; with room */
    } rows[] = {
        { "a command", TO_RCPT, "DATA\r\n", RECEIVER_NEED_ROOM, RECEIVER_DATA },
        { "half a command", TO_RCPT, "DAT", RECEIVER_NEED_ROOM, RECEIVER_NEED_INPUT },
        { "no input", TO_RCPT, "", RECEIVER_NEED_INPUT, RECEIVER_NEED_INPUT },
        { "data", TO_DATA, "x", RECEIVER_BODY, RECEIVER_NEED_INPUT },
        { "the message", TO_DATA, ".\r\n", RECEIVER_BODY, RECEIVER_MESSAGE },
        { "dropped data", TO_DATA, "x\n", RECEIVER_ABORT, RECEIVER_NEED_INPUT },
        { "its end", TO_DATA "x\n", "\r\n.\r\n", RECEIVER_NEED_ROOM, RECEIVER_NEED_INPUT },
        { "a chunk", TO_RCPT "BDAT 3\r\nab", "c", RECEIVER_BODY, RECEIVER_NEED_INPUT },
        { "the last chunk", TO_RCPT "BDAT 1 LAST\r\n", "c", RECEIVER_BODY, RECEIVER_MESSAGE },
        { "a dropped chunk", TO_MAIL "BDAT 1\r\n", "c", RECEIVER_NEED_ROOM, RECEIVER_NEED_INPUT },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct player player;
        enum receiver_event_kind kind;
        struct span in = span_text(rows[i].input);

        start(&player, rows[i].way);
        player.out.len = player.out.size - RECEIVER_REPLY_ROOM + 1;
        kind = receiver_step(&player.receiver, &in, &player.out).kind;
        cr_assert_eq(kind, rows[i].before, "%s", rows[i].name);
        cr_assert_eq(player.out.len, player.out.size - RECEIVER_REPLY_ROOM + 1);
        player.out.len--;
        kind = receiver_step(&player.receiver, &in, &player.out).kind;
        cr_assert_eq(kind, rows[i].then, "%s", rows[i].name);
        player_close(&player);
    }
}

/* After ABORT the 220 waits for room as well. */
Test(receiver, the_handshake_asks_for_room)
{
    struct player player;
    struct span in = SPAN("STARTTLS\r\n");

    start(&player, TO_MAIL);
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_ABORT);
    player.out.len = player.out.size - RECEIVER_REPLY_ROOM + 1;
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_NEED_ROOM);
    player.out.len = 0;
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_START_TLS);
    cr_assert(span_equal(outbuf_span(&player.out), SPAN("220 2.0.0 Ready to start TLS\r\n")));
    player_close(&player);
}

Test(receiver, needs_room_exactly)
{
    struct player player;
    struct span in = SPAN("NOOP\r\n");

    start(&player, "");
    player.out.len = player.out.size - RECEIVER_REPLY_ROOM + 1;
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_NEED_ROOM);
    cr_assert_eq(in.len, 6);
    player.out.len--;
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_NEED_INPUT);
    cr_assert_eq(in.len, 0);
    player_close(&player);
}

/* A partial line stays in `in`, and is not looked at twice. */
Test(receiver, leaves_a_partial_line_to_the_caller)
{
    struct player player;
    struct span in = SPAN("NOOP\r\nNOO");

    start(&player, "");
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_NEED_INPUT);
    cr_assert(span_equal(in, SPAN("NOO")));
    cr_assert(span_equal(outbuf_span(&player.out), SPAN("250 2.0.0 Ok\r\n")));
    in = SPAN("NOOP x\r\nx");
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_NEED_INPUT);
    cr_assert(span_equal(in, SPAN("x")));
    cr_assert(span_equal(outbuf_span(&player.out), SPAN("250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n")));
    player_close(&player);
}

/* Message data is handed out where it lies. */
Test(receiver, body_points_into_the_input)
{
    struct player player;
    struct span in = SPAN("Subject: x\r\n\r\nhello\r\n.\r\nNOOP\r\n");
    const char *data = in.data;
    struct receiver_event event;

    start(&player, TO_DATA);
    event = receiver_step(&player.receiver, &in, &player.out);
    cr_assert_eq(event.kind, RECEIVER_BODY);
    cr_assert_eq(event.body.data, data);
    cr_assert_eq(event.body.len, 24);
    event = receiver_step(&player.receiver, &in, &player.out);
    cr_assert_eq(event.kind, RECEIVER_MESSAGE);
    cr_assert_eq(event.summary.size, 21);
    cr_assert(span_equal(in, SPAN("NOOP\r\n")));
    player_close(&player);
}

/* --- STARTTLS --- */

Test(receiver, injection_after_the_220_left)
{
    struct player player;
    struct span in;

    start(&player, "EHLO c\r\nSTARTTLS\r\n"); /* the player has sent the 220 */
    cr_assert_eq(receiver_waits_for(&player.receiver), RECEIVER_WAITS_TLS);
    receiver_starttls_injection(&player.receiver, &player.out);
    cr_assert_eq(player.out.len, 0, "after the 220 only TLS records may be sent");
    in = SPAN("NOOP\r\n");
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_CLOSE);
    cr_assert_eq(player.counters.violations_starttls_injection, 1);
    player_close(&player);
}

Test(receiver, injection_before_the_220_left)
{
    struct player player;
    struct span in = SPAN("NOOP\r\nSTARTTLS\r\n");
    static const char want[] = "250 2.0.0 Ok\r\n554 5.5.1 Plaintext after STARTTLS refused\r\n";

    start(&player, "EHLO c\r\n");
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_START_TLS);
    receiver_starttls_injection(&player.receiver, &player.out);
    cr_assert(span_equal(outbuf_span(&player.out), span_text(want)), "%.*s", (int)player.out.len,
              player.out.data);
    cr_assert_eq(receiver_step(&player.receiver, &in, &player.out).kind, RECEIVER_CLOSE);
    cr_assert_eq(player.counters.violations_starttls_injection, 1);
    player_close(&player);
}

Test(receiver, tls_makes_the_client_a_stranger)
{
    struct player player;

    start(&player, "EHLO client.example\r\nSTARTTLS\r\n");
    cr_assert(span_equal(receiver_helo(&player.receiver), SPAN("client.example")));
    player_tls_started(&player);
    cr_assert_eq(receiver_helo(&player.receiver).len, 0);
    cr_assert(!receiver_esmtp(&player.receiver));
    cr_assert_eq(player.receiver.state, RECEIVER_STATE_START);
    player_close(&player);
}

/* --- accessors --- */

Test(receiver, accessors)
{
    static const struct {
        const char *input;
        enum receiver_wait wait;
        const char *helo;
        bool idle, esmtp, quit;
    } rows[] = {
        { "", RECEIVER_WAITS_COMMAND, "", true, false, false },
        { "HELO c\r\n", RECEIVER_WAITS_COMMAND, "c", true, false, false },
        { "EHLO c\r\n", RECEIVER_WAITS_COMMAND, "c", true, true, false },
        { "HELO c\r\nEHLO dd\r\n", RECEIVER_WAITS_COMMAND, "dd", true, true, false },
        { "EHLO c\r\nHELO dd\r\n", RECEIVER_WAITS_COMMAND, "dd", true, false, false },
        { "EHLO c\r\nEHLO\r\n", RECEIVER_WAITS_COMMAND, "c", true, true, false },
        { TO_MAIL, RECEIVER_WAITS_COMMAND, "client.example", false, true, false },
        { TO_RCPT, RECEIVER_WAITS_COMMAND, "client.example", false, true, false },
        { TO_RCPT "RSET\r\n", RECEIVER_WAITS_COMMAND, "client.example", true, true, false },
        { TO_DATA, RECEIVER_WAITS_DATA, "client.example", false, true, false },
        { TO_DATA "x\n", RECEIVER_WAITS_DATA, "client.example", false, true, false },
        { TO_DATA ".\r\n", RECEIVER_WAITS_COMMAND, "client.example", true, true, false },
        { TO_RCPT "BDAT 9\r\nx", RECEIVER_WAITS_DATA, "client.example", false, true, false },
        { TO_RCPT "BDAT 1\r\nx", RECEIVER_WAITS_COMMAND, "client.example", false, true, false },
        { "BDAT 9\r\nx", RECEIVER_WAITS_DATA, "", false, false, false },
        { "EHLO c\r\nSTARTTLS\r\n", RECEIVER_WAITS_TLS, "c", false, true, false },
        { "QUIT\r\n", RECEIVER_WAITS_COMMAND, "", true, false, true },
        { "GET / HTTP/1.0\r\n", RECEIVER_WAITS_COMMAND, "", true, false, false },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct player player;

        start(&player, rows[i].input);
        cr_assert_eq(receiver_waits_for(&player.receiver), rows[i].wait, "%s", rows[i].input);
        cr_assert(span_equal(receiver_helo(&player.receiver), span_text(rows[i].helo)), "%s",
                  rows[i].input);
        cr_assert_eq(receiver_idle(&player.receiver), rows[i].idle, "%s", rows[i].input);
        cr_assert_eq(receiver_esmtp(&player.receiver), rows[i].esmtp, "%s", rows[i].input);
        cr_assert_eq(receiver_quit(&player.receiver), rows[i].quit, "%s", rows[i].input);
        player_close(&player);
    }
}

/* --- counters --- */

Test(receiver, counts_what_it_says)
{
    static const struct player_verdict verdicts[] = {
        { .code = 0 },                        /* MAIL */
        { .code = 0 },                        /* RCPT */
        { 550, "5.1.1", "No such user" },     /* RCPT */
        { 451, "4.7.1", "Greylisted" },       /* RCPT */
        { .code = 0 },                        /* DATA */
        { .code = 0 },                        /* MESSAGE */
    };
    static const char input[] =
        "EHLO c\r\nMAIL FROM:<a@example.org>\r\n"
        "RCPT TO:<1@example.com>\r\nRCPT TO:<2@example.com>\r\nRCPT TO:<3@example.com>\r\n"
        "RCPT TO:<>\r\nDATA\r\nhello\r\n..\r\n.\r\n"
        "MAIL FROM:<a@example.org>\r\nRCPT TO:<1@example.com>\r\nDATA\r\nx\n\r\n.\r\n"
        "FOO\r\nNOOP\r\nVRFY x\r\nHELP\r\nRSET\r\nQUIT\r\n";
    struct receiver_policy policy = player_policy();
    struct player player;
    const struct counters *counters = &player.counters;

    player_start(&player, &policy, false, verdicts, sizeof(verdicts) / sizeof(verdicts[0]));
    player_feed(&player, input, sizeof(input) - 1, false);
    cr_assert(player.closed);
    const struct {
        const char *name;
        uint64_t got, want;
    } rows[] = {
        { "commands_ehlo", counters->commands_ehlo, 1 },
        { "commands_mail", counters->commands_mail, 2 },
        { "commands_rcpt", counters->commands_rcpt, 5 },
        { "commands_data", counters->commands_data, 2 },
        { "commands_unknown", counters->commands_unknown, 1 },
        { "commands_noop", counters->commands_noop, 1 },
        { "commands_vrfy", counters->commands_vrfy, 1 },
        { "commands_help", counters->commands_help, 1 },
        { "commands_rset", counters->commands_rset, 1 },
        { "commands_quit", counters->commands_quit, 1 },
        { "command_errors", counters->command_errors, 2 },
        { "replies_2xx", counters->replies_2xx, 12 },
        { "replies_3xx", counters->replies_3xx, 2 },
        { "replies_4xx", counters->replies_4xx, 1 },
        { "replies_5xx", counters->replies_5xx, 4 },
        { "recipients_accepted", counters->recipients_accepted, 2 },
        { "recipients_refused", counters->recipients_refused, 2 },
        { "recipients_deferred", counters->recipients_deferred, 1 },
        { "messages_accepted", counters->messages_accepted, 1 },
        { "messages_refused", counters->messages_refused, 1 },
        { "messages_deferred", counters->messages_deferred, 0 },
        { "message_bytes_accepted", counters->message_bytes_accepted, 10 },
        { "violations_bare_newline", counters->violations_bare_newline, 1 },
        { "refusals_violation", counters->refusals_violation, 1 },
        { "refusals_syntax", counters->refusals_syntax, 1 },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_assert_eq(rows[i].got, rows[i].want, "%s: %llu, want %llu", rows[i].name,
                     (unsigned long long)rows[i].got, (unsigned long long)rows[i].want);
    player_close(&player);
}

/* --- what the caller must not do --- */

Test(receiver, no_step_before_the_verdict, .signal = SIGABRT)
{
    struct player player;
    struct span in = SPAN("MAIL FROM:<>\r\nRSET\r\n");

    start(&player, "EHLO c\r\n");
    (void)!receiver_step(&player.receiver, &in, &player.out).kind;
    (void)!receiver_step(&player.receiver, &in, &player.out).kind;
}

Test(receiver, no_verdict_that_nobody_awaits, .signal = SIGABRT)
{
    struct player player;

    start(&player, "EHLO c\r\n");
    receiver_accept(&player.receiver, &player.out);
}

Test(receiver, no_message_without_a_reply, .signal = SIGABRT)
{
    struct player player;
    struct span in = SPAN("BDAT 0 LAST\r\n");

    start(&player, TO_RCPT);
    if (receiver_step(&player.receiver, &in, &player.out).kind != RECEIVER_DATA)
        return;
    receiver_accept(&player.receiver, &player.out);
    if (receiver_step(&player.receiver, &in, &player.out).kind != RECEIVER_MESSAGE)
        return;
    receiver_accept(&player.receiver, &player.out);
}
