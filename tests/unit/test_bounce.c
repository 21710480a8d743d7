/* Reports: who is told, the exact text of each kind, and that nothing which peers and senders said
 * can break one. What is done with originals: test_bounce_original.c. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "tests/unit/aborts.h"
#include "tests/unit/bounce_world.h"

Test(bounce, who_is_told)
{
    enum { F = 1, D = 2, S = 4 }; /* failures, delays, both kinds of success */
    static const struct {
        unsigned notify, want;
    } rows[] = {
        { DSN_NOTIFY_NONE, F | D },
        { DSN_NOTIFY_NEVER, 0 },
        { DSN_NOTIFY_SUCCESS, S },
        { DSN_NOTIFY_FAILURE, F },
        { DSN_NOTIFY_DELAY, D },
        { DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE, S | F },
        { DSN_NOTIFY_SUCCESS | DSN_NOTIFY_DELAY, S | D },
        { DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY, F | D },
        { DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY, S | F | D },
        /* Not legal together; what asks for silence wins. */
        { DSN_NOTIFY_NEVER | DSN_NOTIFY_SUCCESS, 0 },
        { DSN_NOTIFY_NEVER | DSN_NOTIFY_FAILURE, 0 },
        { DSN_NOTIFY_NEVER | DSN_NOTIFY_DELAY, 0 },
    };
    static const unsigned bits[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = F, [BOUNCE_DELAYED] = D, [BOUNCE_DELIVERED] = S, [BOUNCE_RELAYED] = S
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (unsigned action = 0; action < BOUNCE_ACTIONS; action++) {
            uint8_t notify = (uint8_t)rows[i].notify;

            cr_assert_eq(bounce_wanted(SPAN("a@example.org"), notify, action),
                         (rows[i].want & bits[action]) != 0, "notify %u action %u", notify, action);
            cr_assert_not(bounce_wanted(SPAN(""), notify, action), "null: notify %u action %u",
                          notify, action);
        }
}

/* --- exact texts --- */

#define ORIGINAL "Subject: Minutes\r\nFrom: alice@example.org\r\n\r\nHello\r\n..hidden\r\n.\r\n"

#define HEAD(subject)                                                  \
    "Date: Sat, 14 Mar 2026 09:20:00 +0000\r\n"                        \
    "From: MAILER-DAEMON@mx.example.org (Mail Delivery System)\r\n"    \
    "To: alice@example.org\r\n"                                        \
    "Subject: " subject "\r\n"                                         \
    "Message-ID: <4ZyR1B@mx.example.org>\r\n"                          \
    "Auto-Submitted: auto-replied\r\n"                                 \
    "MIME-Version: 1.0\r\n"                                            \
    "Content-Type: multipart/report; report-type=delivery-status;\r\n" \
    " boundary=\"=_4ZyR1B.0000\"\r\n"
#define TEXT                                              \
    "\r\nThis is a report in MIME format (RFC 3464).\r\n" \
    "\r\n--=_4ZyR1B.0000\r\n"                             \
    "Content-Description: Notification\r\n"               \
    "Content-Type: text/plain; charset=us-ascii\r\n\r\n"  \
    "This is a report of the mail server mx.example.org.\r\n\r\n"
#define CLOSING(what)                                                        \
    "\r\nThis report says nothing of recipients who are not listed.\r\n"     \
    "\r\nBelow are the same for programs, and " what "your message.\r\n"     \
    "\r\nFor mail administrators: message 4ZyQ0A from 192.0.2.7 arrived\r\n" \
    "Sat, 14 Mar 2026 08:46:40 +0000; this is report 4ZyR1B.\r\n"
#define FIELDS                                          \
    "\r\n--=_4ZyR1B.0000\r\n"                           \
    "Content-Description: Delivery report\r\n"          \
    "Content-Type: message/delivery-status\r\n\r\n"     \
    "Original-Envelope-Id: QQ+314159\r\n"               \
    "Reporting-MTA: dns; mx.example.org\r\n"            \
    "Arrival-Date: Sat, 14 Mar 2026 08:46:40 +0000\r\n" \
    "X-Ringpost-Queue-ID: 4ZyQ0A\r\n\r\n"
#define HEADER_RETURNED                               \
    "\r\n--=_4ZyR1B.0000\r\n"                         \
    "Content-Description: Message headers\r\n"        \
    "Content-Type: text/rfc822-headers\r\n\r\n"       \
    "Subject: Minutes\r\nFrom: alice@example.org\r\n" \
    "\r\n--=_4ZyR1B.0000--\r\n"

static const char failed_text[] = HEAD("Undelivered Mail Returned to Sender") TEXT
    "Your message was NOT delivered to the recipients listed here. It is not tried\r\n"
    "any more.\r\n\r\n"
    "  <bob@example.net>\r\n"
    "    The server mail.example.net said:\r\n"
    "      550 5.1.1 No such user here\r\n"
    "      See https://example.net/help for a longer text that has to be folded\r\n"
    "      somewhere\r\n"
    "    What to do now: Check the address: a letter may be wrong, or the mailbox\r\n"
    "    may exist no more. Then send the message again.\r\n" CLOSING("") FIELDS
    "Original-Recipient: rfc822; bob+x@example.net\r\n"
    "Final-Recipient: rfc822; bob@example.net\r\n"
    "Action: failed\r\n"
    "Status: 5.1.1\r\n"
    "Remote-MTA: dns; mail.example.net\r\n"
    "Diagnostic-Code: smtp; 550 5.1.1 No such user here See\r\n"
    " https://example.net/help for a longer text that has to be folded somewhere\r\n"
    "Last-Attempt-Date: Sat, 14 Mar 2026 09:19:59 +0000\r\n"
    "\r\n--=_4ZyR1B.0000\r\n"
    "Content-Description: Message\r\n"
    "Content-Type: message/rfc822\r\n\r\n"
    "Subject: Minutes\r\nFrom: alice@example.org\r\n\r\nHello\r\n.hidden\r\n"
    "\r\n--=_4ZyR1B.0000--\r\n";

static const char delayed_text[] = HEAD("Delayed Mail (still being retried)") TEXT
    "Your message was not delivered YET to the recipients listed here. You need not\r\n"
    "do anything, and need not send it again: it is tried again by itself until\r\n"
    "Thu, 19 Mar 2026 06:00:00 +0000.\r\n\r\n"
    "  <bob@example.net>\r\n"
    "    The server mail.example.net said:\r\n"
    "      451 Try again later\r\n" CLOSING("the header of ") FIELDS
    "Original-Recipient: rfc822; bob+x@example.net\r\n"
    "Final-Recipient: rfc822; bob@example.net\r\n"
    "Action: delayed\r\n"
    "Status: 4.0.0\r\n"
    "Remote-MTA: dns; mail.example.net\r\n"
    "Diagnostic-Code: smtp; 451 Try again later\r\n"
    "Last-Attempt-Date: Sat, 14 Mar 2026 09:19:59 +0000\r\n"
    "Will-Retry-Until: Thu, 19 Mar 2026 06:00:00 +0000\r\n" HEADER_RETURNED;

static const char relayed_text[] = HEAD("Successful Mail Delivery Report") TEXT
    "Your message was passed on for the recipients listed here, to a server that\r\n"
    "does not tell when it delivers: no further report of success will come.\r\n\r\n"
    "  <bob@example.net>\r\n"
    "    The server mail.example.net said:\r\n"
    "      250 2.0.0 Ok: queued as 1234\r\n" CLOSING("the header of ") FIELDS
    "Original-Recipient: rfc822; bob+x@example.net\r\n"
    "Final-Recipient: rfc822; bob@example.net\r\n"
    "Action: relayed\r\n"
    "Status: 2.0.0\r\n"
    "Remote-MTA: dns; mail.example.net\r\n"
    "Diagnostic-Code: smtp; 250 2.0.0 Ok: queued as 1234\r\n"
    "Last-Attempt-Date: Sat, 14 Mar 2026 09:19:59 +0000\r\n" HEADER_RETURNED;

static const char delivered_text[] = HEAD("Successful Mail Delivery Report") TEXT
    "Your message was delivered to the recipients listed here.\r\n\r\n"
    "  <bob@example.net>\r\n" CLOSING("the header of ") FIELDS
    "Original-Recipient: rfc822; bob+x@example.net\r\n"
    "Final-Recipient: rfc822; bob@example.net\r\n"
    "Action: delivered\r\n"
    "Status: 2.0.0\r\n"
    "Last-Attempt-Date: Sat, 14 Mar 2026 09:19:59 +0000\r\n" HEADER_RETURNED;

Test(bounce, one_of_each_kind)
{
    static const struct {
        const char *name, *text, *want;
        enum bounce_action action;
        unsigned code;
        const char *enhanced;
        bool server;
    } rows[] = {
        { "failed",
          "No such user here\nSee https://example.net/help for a longer text that has to be "
          "folded somewhere",
          failed_text, BOUNCE_FAILED, 550, "5.1.1", true },
        { "delayed", "Try again later", delayed_text, BOUNCE_DELAYED, 451, NULL, true },
        { "relayed", "Ok: queued as 1234", relayed_text, BOUNCE_RELAYED, 250, "2.0.0", true },
        { "delivered", "", delivered_text, BOUNCE_DELIVERED, 0, NULL, false },
    };
    struct bounce_world world;

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct reply reply;
        struct bounce_recipient recipient = {
            .mailbox = SPAN("bob@example.net"),
            .orcpt = SPAN("rfc822;bob+2Bx@example.net"),
            .action = rows[i].action,
            .reply = &reply,
            .server = rows[i].server ? SPAN("mail.example.net") : SPAN(""),
            .attempt_s = 1773479999,
        };
        struct bounce bounce = sample_bounce(&recipient, 1);

        reply_clear(&reply);
        if (rows[i].code != 0)
            reply_set(&reply, rows[i].code, rows[i].enhanced, span_text(rows[i].text));
        bounce.envid = SPAN("QQ+2B314159");
        bounce.dsn_return = DSN_RETURN_FULL;
        bounce.expires_s = 1773900000;
        bounce.origin_client = SPAN("192.0.2.7");
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].name);
        cr_assert_str_eq(world.text, rows[i].want, "%s:\n%s", rows[i].name, world.text);
        cr_assert_not(world.eight_bit);
    }
    bounce_world_close(&world);
}

/* --- the status --- */

Test(bounce, status_goes_with_the_action)
{
    static const struct {
        const char *name;
        enum bounce_action action;
        unsigned code;
        const char *enhanced, *want;
    } rows[] = {
        { "given", BOUNCE_FAILED, 550, "5.7.26", "Status: 5.7.26\r\n" },
        { "by code", BOUNCE_FAILED, 554, NULL, "Status: 5.0.0\r\n" },
        { "expired", BOUNCE_FAILED, 451, "4.4.7", "Status: 4.4.7\r\n" },
        { "failed for now", BOUNCE_FAILED, 421, NULL, "Status: 4.0.0\r\n" },
        { "failed by 2xx", BOUNCE_FAILED, 250, "2.1.0", "Status: 5.0.0\r\n" },
        { "failed by 3xx", BOUNCE_FAILED, 354, NULL, "Status: 5.0.0\r\n" },
        { "failed by nobody", BOUNCE_FAILED, 0, NULL, "Status: 5.0.0\r\n" },
        { "delayed", BOUNCE_DELAYED, 450, "4.2.2", "Status: 4.2.2\r\n" },
        { "delayed by code", BOUNCE_DELAYED, 450, NULL, "Status: 4.0.0\r\n" },
        { "delayed by 5xx", BOUNCE_DELAYED, 550, "5.1.1", "Status: 4.0.0\r\n" },
        { "delayed by nobody", BOUNCE_DELAYED, 0, NULL, "Status: 4.0.0\r\n" },
        { "relayed", BOUNCE_RELAYED, 250, "2.6.0", "Status: 2.6.0\r\n" },
        { "relayed by code", BOUNCE_RELAYED, 250, NULL, "Status: 2.0.0\r\n" },
        { "delivered by 4xx", BOUNCE_DELIVERED, 450, "4.1.1", "Status: 2.0.0\r\n" },
    };
    struct bounce_world world;

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct reply reply;
        struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"),
                                              .action = rows[i].action,
                                              .reply = &reply };
        struct bounce bounce = sample_bounce(&recipient, 1);

        reply_clear(&reply);
        if (rows[i].code != 0)
            reply_set(&reply, rows[i].code, rows[i].enhanced, SPAN("words"));
        world_write(&world, &bounce, SPAN(""), 0, false, false, rows[i].name);
        cr_assert(span_has(world_body(&world, 1), rows[i].want), "%s", rows[i].name);
    }
    bounce_world_close(&world);
}

Test(bounce, what_to_do)
{
    static const struct {
        const char *enhanced, *want;
    } rows[] = {
        { "5.1.1", "Check the address:" },
        { "5.1.7", "Your own address" },
        { "5.1.8", "Your own address" },
        { "5.1.10", "behind the @" },
        { "5.2.1", "does not take messages now" },
        { "5.2.2", "mailbox is full" },
        { "5.2.3", "too large" },
        { "5.3.4", "too large" },
        { "5.3.0", "forward this report" },
        { "5.4.7", "until its time was over" },
        { "5.4.4", "could not be reached" },
        { "5.6.7", "plain" },
        { "5.7.1", "by its rules" },
        { "5.9.9", "forward this report" },
    };
    struct bounce_world world;
    struct reply reply;
    struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"), .reply = &reply };
    struct bounce bounce = sample_bounce(&recipient, 1);

    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        reply_set(&reply, 550, rows[i].enhanced, SPAN("no"));
        recipient.action = BOUNCE_FAILED;
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].enhanced);
        cr_assert(span_has(world.parts[0], rows[i].want), "%s", rows[i].enhanced);
        recipient.action = BOUNCE_DELAYED;
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].enhanced);
        cr_assert_not(span_has(world.parts[0], "What to do"), "%s", rows[i].enhanced);
    }
    bounce_world_close(&world);
}

/* --- what peers say --- */

static void
fields_hold(struct bounce_world *world, const char *name)
{
    static const char *const starts[] = {
        "Original-Envelope-Id: ",
        "Reporting-MTA: ",
        "Arrival-Date: ",
        "X-Ringpost-Queue-ID: ",
        "Original-Recipient: ",
        "Final-Recipient: ",
        "Action: ",
        "Status: ",
        "Remote-MTA: ",
        "Diagnostic-Code: ",
        "Last-Attempt-Date: ",
        "Will-Retry-Until: ",
        " ",
        "\r\n",
    };
    struct span body = world_body(world, 1);

    while (body.len > 0) {
        const char *end = memchr(body.data, '\n', body.len);
        size_t i = 0, len = (size_t)(end - body.data) + 1;

        while (i < COUNT_OF(starts) && strncmp(body.data, starts[i], strlen(starts[i])) != 0)
            i++;
        cr_assert_lt(i, COUNT_OF(starts), "%s: a field nobody meant: %.*s", name, (int)len,
                     body.data);
        cr_assert_not(strncmp(body.data, " \r\n", 3) == 0, "%s: a blank line", name);
        span_advance(&body, len);
    }
}

Test(bounce, hostile_replies)
{
    static char long_word[REPLY_TEXT_BYTES_MAX + 1], long_utf8[REPLY_TEXT_BYTES_MAX + 1];
    struct {
        const char *name, *text; /* raw: a reply from a damaged disk may hold what none should */
        const char *want;        /* in the fields; NULL: whatever holds for all */
    } rows[] = {
        { "a field", "no\r\nX-Evil: yes\r\n\r\nFinal-Recipient: x", NULL },
        { "lines", "one\ntwo\n\nthree", "Diagnostic-Code: smtp; 550 one two three\r\n" },
        { "only lines", "\n\n\n", "Diagnostic-Code: smtp; 550\r\n" },
        { "nothing", "", "Diagnostic-Code: smtp; 550\r\n" },
        { "blanks", "   a    b   ", "Diagnostic-Code: smtp; 550 a b\r\n" },
        { "CR", "a\rb", "550 a?b\r\n" },
        { "control", "a\x01\x1b[2Jb\x7f", "550 a??[2Jb?\r\n" },
        { "UTF-8", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xaa",
          "550 caf\\x{E9} \\x{20AC} \\x{1F4EA}\r\n" },
        { "not UTF-8", "caf\xe9 \xc0\xaf \xed\xa0\x80", "550 caf? ?? ???\r\n" },
        { "C1",
          "a\xc2\x85"
          "b",
          "550 a??b\r\n" },
        { "a boundary", "\n--=_4ZyR1B.0000--\n--=_4ZyR1B.0000", NULL },
        { "dots", "\n.\n..\n.a", "550 . .. .a\r\n" },
        { "encoded", "=\n=3D =?utf-8?q?x?=", NULL },
        { "long word", long_word, NULL },
        { "long UTF-8", long_utf8, NULL },
    };
    struct bounce_world world;

    memset(long_word, 'w', REPLY_TEXT_BYTES_MAX);
    for (size_t i = 0; i < REPLY_TEXT_BYTES_MAX; i += 4)
        memcpy(long_utf8 + i, "\xf0\x9f\x93\xaa", 4);
    bounce_world_open(&world);
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (unsigned code = 0; code <= 550; code += 550) {
            struct reply reply = { .code = (uint16_t)code,
                                   .text_len = (uint16_t)strlen(rows[i].text) };
            struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"),
                                                  .reply = &reply,
                                                  .server = SPAN("a\r\nb: c\x01 \xff") };
            struct bounce bounce = sample_bounce(&recipient, 1);

            memcpy(reply.text, rows[i].text, reply.text_len);
            world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].name);
            fields_hold(&world, rows[i].name);
            cr_assert_eq(world.parts_count, 3, "%s", rows[i].name);
            cr_assert_not(world.eight_bit, "%s", rows[i].name);
            cr_assert(span_has(world_body(&world, 1), "Remote-MTA: dns; a??b: c? ?\r\n"));
            if (code == 0)
                cr_assert_not(span_has(world_body(&world, 1), "smtp;"), "%s", rows[i].name);
            else if (rows[i].want != NULL)
                cr_assert(span_has(world_body(&world, 1), rows[i].want), "%s:\n%s", rows[i].name,
                          world.text);
        }
    bounce_world_close(&world);
}

/* The first part shows UTF-8 to people, encoded so that the report needs nothing of servers. */
Test(bounce, people_read_utf8)
{
    struct bounce_world world;
    struct reply reply;
    struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"), .reply = &reply };
    struct bounce bounce = sample_bounce(&recipient, 1);
    char text[8192];

    bounce_world_open(&world);
    reply_set(&reply, 550, NULL, SPAN("Почтовый ящик не существует = 100 %"));
    world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, "utf8");
    cr_assert(span_has(world.parts[0], "charset=utf-8\r\nContent-Transfer-Encoding: "
                                       "quoted-printable\r\n\r\n"));
    size_t len = world_unquote(world_body(&world, 0), text);
    cr_assert(span_has(span_of(text, len), "      550 Почтовый ящик не существует = 100 %\r\n"));
    cr_assert(span_has(world.parts[0], "=3D 100 %"));
    cr_assert_not(world.eight_bit);
    bounce_world_close(&world);
}

/* --- what senders gave --- */

Test(bounce, envelope_id_and_original_recipient)
{
    static char orcpt_long[ORCPT_BYTES_MAX + 2], type_long[ORCPT_BYTES_MAX + 1];
    static const char absent[] = "";
    struct {
        const char *name, *envid, *orcpt, *want_id, *want_recipient; /* "": no field */
    } rows[] = {
        { "none", "", "", absent, absent },
        { "plain", "abc", "rfc822;b@example.net", "abc", "rfc822; b@example.net" },
        { "decoded", "a+20b+3D+2B", "rfc822;b+2Bc+3Dd@example.net", "a b=+",
          "rfc822; b+c=d@example.net" },
        { "other types", "x", "X400;/c=de/", "x", absent }, /* '=' is not xtext */
        { "x400", "x", "x400;/c+3Dde/", "x", "x400; /c=de/" },
        { "utf-8", "x", "utf-8;j\\x{FC}rgen@example.net", "x", "utf-8; j\\x{FC}rgen@example.net" },
        { "no type", "x", "b@example.net", "x", absent },
        { "empty type", "x", ";b@example.net", "x", absent },
        { "bad type", "x", "rfc 822;b@example.net", "x", absent },
        { "field in type", "x", "rfc822\r\nX: y;b", "x", absent },
        { "empty address", "x", "rfc822;", "x", absent },
        { "empty utf-8 address", "x", "utf-8;", "x", absent },
        { "not xtext", "a+2", "rfc822;b+zz", absent, absent },
        { "lower case", "a+2b", "rfc822;b+2b", absent, absent },
        { "encoded field", "a+0D+0AX: y", "rfc822;b+0D+0AX", absent, "rfc822; b??X" },
        { "encoded octets", "a+00+FFb", "rfc822;b+00+FF+7F", "a??b", "rfc822; b???" },
        { "too long", "x", orcpt_long, "x", absent },
        { "long type", "x", type_long, "x", NULL },
    };
    struct bounce_world world;
    struct reply reply;

    memset(orcpt_long, 'a', ORCPT_BYTES_MAX + 1);
    memcpy(orcpt_long, "rfc822;", 7);
    memset(type_long, 'a', ORCPT_BYTES_MAX);
    type_long[ORCPT_BYTES_MAX - 2] = ';';
    bounce_world_open(&world);
    reply_set(&reply, 550, NULL, SPAN("no"));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"),
                                              .orcpt = span_text(rows[i].orcpt),
                                              .reply = &reply };
        struct bounce bounce = sample_bounce(&recipient, 1);
        char want[600];

        bounce.envid = span_text(rows[i].envid);
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].name);
        fields_hold(&world, rows[i].name);
        snprintf(want, sizeof(want), "Original-Envelope-Id: %s%s", rows[i].want_id,
                 rows[i].want_id == absent ? "" : "\r\n");
        cr_assert_eq(span_has(world_body(&world, 1), want), rows[i].want_id != absent, "%s: %s",
                     rows[i].name, want);
        if (rows[i].want_recipient == NULL)
            continue;
        snprintf(want, sizeof(want), "Original-Recipient: %s%s", rows[i].want_recipient,
                 rows[i].want_recipient == absent ? "" : "\r\n");
        cr_assert_eq(span_has(world_body(&world, 1), want), rows[i].want_recipient != absent,
                     "%s: %s", rows[i].name, want);
    }
    bounce_world_close(&world);
}

#define UE "\xc3\xbc"

Test(bounce, utf8_addresses)
{
    static const struct {
        const char *name, *mailbox, *orcpt;
        bool smtputf8, global;
        const char *want;
    } rows[] = {
        { "raw", "j" UE "rgen@b" UE ".example", "", true, true,
          "Final-Recipient: utf-8; j" UE "rgen@b" UE ".example\r\n" },
        { "plus in a UTF-8 address", "j" UE "+x=y@b.example", "", true, true,
          "Final-Recipient: utf-8; j" UE "+x=y@b.example\r\n" },
        { "ASCII with SMTPUTF8", "b@example.net", "", true, false,
          "Final-Recipient: rfc822; b@example.net\r\n" },
        { "orcpt in UTF-8", "b@example.net", "utf-8;j" UE "\\x{2B}@b.example", true, true,
          "Original-Recipient: utf-8; j" UE "+@b.example\r\nFinal-Recipient: rfc822; b@" },
        { "orcpt escaped", "j" UE "@b.example", "utf-8;\\x{20AC}\\x{1F4EA}\\x{E9}@b.example", true,
          true, "Original-Recipient: utf-8; \xe2\x82\xac\xf0\x9f\x93\xaa\xc3\xa9@b.example\r\n" },
        { "escaped controls stay", "j" UE "@b.example", "utf-8;a\\x{0D}\\x{0A}X@b", true, true,
          "Original-Recipient: utf-8; a\\x{0D}\\x{0A}X@b\r\n" },
        { "escaped surrogates stay", "j" UE "@b.example", "utf-8;a\\x{D800}\\x{110000}@b", true,
          true, "Original-Recipient: utf-8; a\\x{D800}\\x{110000}@b\r\n" },
        { "escapes that are none", "j" UE "@b.example", "utf-8;\\x{}\\x{12\\x{1234567}@b", true,
          true, "Original-Recipient: utf-8; \\x{}\\x{12\\x{1234567}@b\r\n" },
        { "without SMTPUTF8", "j" UE "+\\x@b.example", "utf-8;j" UE "@b", false, false,
          "Original-Recipient: utf-8; j\\x{FC}@b\r\n"
          "Final-Recipient: utf-8; j\\x{FC}\\x{2B}\\x{5C}x@b.example\r\n" },
        { "not UTF-8", "j\xfc@b.example", "", true, true, "utf-8; j?@b.example\r\n" },
    };
    struct bounce_world world;
    struct reply reply;

    bounce_world_open(&world);
    reply_set(&reply, 550, NULL, SPAN("caf\xc3\xa9"));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct bounce_recipient recipient = { .mailbox = span_text(rows[i].mailbox),
                                              .orcpt = span_text(rows[i].orcpt),
                                              .reply = &reply };
        struct bounce bounce = sample_bounce(&recipient, 1);

        bounce.smtputf8 = rows[i].smtputf8;
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].name);
        fields_hold(&world, rows[i].name);
        cr_assert(span_has(world_body(&world, 1), rows[i].want), "%s:\n%s", rows[i].name,
                  world.text);
        cr_assert_eq(span_has(world.parts[1], "Content-Type: message/global-delivery-status\r\n"),
                     rows[i].global, "%s", rows[i].name);
        cr_assert_neq(span_has(world.parts[1], "Content-Type: message/delivery-status\r\n"),
                      rows[i].global, "%s", rows[i].name);
        cr_assert(span_has(world_body(&world, 1),
                           rows[i].global ? "550 caf\xc3\xa9\r\n" : "550 caf\\x{E9}\r\n"),
                  "%s", rows[i].name);
        cr_assert_eq(world.eight_bit, rows[i].global, "%s", rows[i].name);
    }
    bounce_world_close(&world);
}

Test(bounce, whom_it_is_to)
{
    static const struct {
        const char *name, *reverse_path;
        bool smtputf8;
        const char *want;
    } rows[] = {
        { "plain", "a@example.org", false, "\r\nTo: a@example.org\r\n" },
        { "quoted", "\"a b\"@example.org", false, "\r\nTo: \"a b\"@example.org\r\n" },
        { "UTF-8", UE "@example.org", true, "\r\nTo: " UE "@example.org\r\n" },
        { "UTF-8 unasked", UE "@example.org", false, "\r\nTo: undisclosed-recipients:;\r\n" },
        { "field", "a@b\r\nBcc: c@d", true, "\r\nTo: undisclosed-recipients:;\r\n" },
        { "not UTF-8", "\xfc@example.org", true, "\r\nTo: undisclosed-recipients:;\r\n" },
    };
    struct bounce_world world;
    struct reply reply;
    struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"), .reply = &reply };
    struct bounce bounce = sample_bounce(&recipient, 1);

    bounce_world_open(&world);
    reply_set(&reply, 550, NULL, SPAN("no"));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        bounce.reverse_path = span_text(rows[i].reverse_path);
        bounce.smtputf8 = rows[i].smtputf8;
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].name);
        cr_assert(span_has(world.header, rows[i].want), "%s", rows[i].name);
    }
    bounce_world_close(&world);
}

Test(bounce, names_of_servers)
{
    static const struct {
        const char *server, *want;
    } rows[] = {
        { "mail.example.net", "Remote-MTA: dns; mail.example.net\r\n" },
        { "192.0.2.1", "Remote-MTA: dns; [192.0.2.1]\r\n" },
        { "2001:db8::1", "Remote-MTA: dns; [IPv6:2001:db8::1]\r\n" },
        { "[192.0.2.1]", "Remote-MTA: dns; [192.0.2.1]\r\n" },
        { "192.0.2.1.example", "Remote-MTA: dns; 192.0.2.1.example\r\n" },
        { "", "Status: 5.0.0\r\nDiagnostic-Code: " },
    };
    struct bounce_world world;
    struct reply reply;
    struct bounce_recipient recipient = { .mailbox = SPAN("b@example.net"), .reply = &reply };
    struct bounce bounce = sample_bounce(&recipient, 1);

    bounce_world_open(&world);
    reply_set(&reply, 550, NULL, SPAN("no"));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        recipient.server = span_text(rows[i].server);
        world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, rows[i].server);
        cr_assert(span_has(world_body(&world, 1), rows[i].want), "%s", rows[i].server);
    }
    /* Every span at its longest: lines stay legal, and the report whole. */
    static char name[4096];
    memset(name, 'n', sizeof(name));
    recipient.server = bounce.original_id = bounce.origin_client = span_of(name, sizeof(name));
    recipient.mailbox = span_of(name, MAILBOX_BYTES_MAX);
    bounce.reverse_path = span_of(name, MAILBOX_BYTES_MAX);
    bounce.hostname = span_of(name, DOMAIN_BYTES_MAX);
    bounce.id = span_of(name, BOUNCE_ID_BYTES_MAX);
    world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, "long");
    cr_assert_eq(world.parts_count, 3);
    fields_hold(&world, "long");
    bounce_world_close(&world);
}

/* --- many recipients --- */

static unsigned
count_of(struct span s, const char *text)
{
    unsigned count = 0;
    const char *at;

    while ((at = memmem(s.data, s.len, text, strlen(text))) != NULL) {
        count++;
        span_advance(&s, (size_t)(at - s.data) + 1);
    }
    return count;
}

Test(bounce, many_recipients)
{
    enum { COUNT = 200 };
    static struct bounce_recipient recipients[COUNT];
    static char names[COUNT][40];
    static struct reply reply;
    struct bounce_world world;
    struct bounce bounce = sample_bounce(recipients, COUNT);

    bounce_world_open(&world);
    reply_set(&reply, 550, "5.1.1", SPAN("no such user"));
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof(names[i]), "user%u@example.net", i);
        recipients[i] = (struct bounce_recipient){ .mailbox = span_text(names[i]),
                                                   .action = i % BOUNCE_ACTIONS,
                                                   .reply = &reply };
    }
    world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, "many");
    fields_hold(&world, "many");
    cr_assert(span_has(world.header, "\r\nSubject: Undelivered Mail Returned to Sender\r\n"));
    cr_assert_eq(count_of(world_body(&world, 1), "\r\n\r\nFinal-Recipient: "), COUNT);
    cr_assert_eq(count_of(world_body(&world, 0), "recipients listed here"), BOUNCE_ACTIONS);
    for (unsigned i = 0; i < COUNT; i++) {
        char want[80];

        snprintf(want, sizeof(want), "\r\n  <user%u@example.net>\r\n", i);
        cr_assert_eq(count_of(world_body(&world, 0), want), 1, "%s", want);
        snprintf(want, sizeof(want), "\r\nFinal-Recipient: rfc822; user%u@example.net\r\n", i);
        cr_assert_eq(count_of(world_body(&world, 1), want), 1, "%s", want);
    }
    bounce.recipients++; /* no failure but these */
    bounce.count = 1;
    world_write(&world, &bounce, SPAN(ORIGINAL), 0, true, false, "one");
    cr_assert(span_has(world.header, "\r\nSubject: Delayed Mail (still being retried)\r\n"));
    bounce_world_close(&world);
}

/* --- our own mistakes --- */

static struct reply no_reply;
static const struct bounce_recipient one = { .mailbox = SPAN("b@example.net"), .reply = &no_reply };

static void
write_wrong(struct bounce bounce)
{
    struct buffer_meta meta[1];
    static char memory[BUFFER_BYTES];
    struct buffers buffers;
    struct chain chain = CHAIN_EMPTY, out = CHAIN_EMPTY;
    bool eight_bit;
    uint64_t size;

    buffers_init(&buffers, memory, meta, 1);
    if (!bounce_write(&bounce, &buffers, &chain, false, false, &out, &eight_bit, &size))
        _exit(1);
}

static void
wrong_null(void)
{
    struct bounce bounce = sample_bounce(&one, 1);
    bounce.reverse_path.len = 0;
    write_wrong(bounce);
}

static void
wrong_count(void)
{
    write_wrong(sample_bounce(&one, 0));
}

static void
wrong_id(void)
{
    struct bounce bounce = sample_bounce(&one, 1);
    bounce.id = SPAN("a\"b");
    write_wrong(bounce);
}

static void
wrong_empty_id(void)
{
    struct bounce bounce = sample_bounce(&one, 1);
    bounce.id = SPAN("");
    write_wrong(bounce);
}

static void
wrong_long_id(void)
{
    struct bounce bounce = sample_bounce(&one, 1);
    bounce.id = SPAN("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    write_wrong(bounce);
}

Test(bounce, misuse)
{
    static const struct abort_row rows[] = {
        { "a null reverse-path", wrong_null }, { "no recipient", wrong_count },
        { "an id with a quote", wrong_id },    { "no id", wrong_empty_id },
        { "a long id", wrong_long_id },
    };

    aborts_check(rows, COUNT_OF(rows));
}
