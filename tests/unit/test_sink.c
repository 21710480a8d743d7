/* The grammar of faults and which one applies when; messages as a sink stores them and as `ringpost
 * send` prepares them; extensions that a receiver does not offer. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "core/receiver.h"
#include "relay/tools/send_message.h"
#include "relay/tools/sink_faults.h"
#include "relay/tools/sink_maildir.h"

#define ROWS_OF(table) (sizeof(table) / sizeof((table)[0]))

/* --- reading faults --- */

/* A fault as one line: stage, action, what belongs to it, conditions that are not the usual ones.
 */
static void
describe(const struct sink_fault *fault, char *text, size_t size)
{
    static const char *const actions[] = {
        [SINK_REPLY] = "reply", [SINK_RAW] = "raw",     [SINK_DROP] = "drop",
        [SINK_STALL] = "stall", [SINK_DELAY] = "delay", [SINK_SLOW] = "slow",
    };
    const struct reply *reply = &fault->reply;
    struct outbuf out = { .data = text, .size = size - 1 };
    char part[400];
    int len;

    len = snprintf(part, sizeof(part), "%s%s%s", sink_stage_name(fault->stage),
                   fault->keep ? " keep " : " ", actions[fault->action]);
    outbuf_add(&out, span_of(part, (size_t)len));
    len = 0;
    if (fault->action == SINK_REPLY)
        len = snprintf(part, sizeof(part), " %u %u.%u.%u [%.*s]", reply->code,
                       reply->enhanced.class, reply->enhanced.subject, reply->enhanced.detail,
                       (int)reply->text_len, reply->text);
    else if (fault->action == SINK_RAW)
        len = snprintf(part, sizeof(part), " [%.*s]", (int)reply->text_len, reply->text);
    else if (fault->number != 0)
        len = snprintf(part, sizeof(part), " %llu", (unsigned long long)fault->number);
    outbuf_add(&out, span_of(part, (size_t)len));
    len = snprintf(part, sizeof(part), "%s%.*s%s%.*s%s%.*s", fault->path.data ? " path=" : "",
                   (int)fault->path.len, fault->path.data ? fault->path.data : "",
                   fault->from.data ? " from=" : "", (int)fault->from.len,
                   fault->from.data ? fault->from.data : "", fault->to.data ? " to=" : "",
                   (int)fault->to.len, fault->to.data ? fault->to.data : "");
    outbuf_add(&out, span_of(part, (size_t)len));
    len = 0;
    if (fault->first != 1 || fault->every != 1)
        len = snprintf(part, sizeof(part), " first=%llu every=%llu",
                       (unsigned long long)fault->first, (unsigned long long)fault->every);
    outbuf_add(&out, span_of(part, (size_t)len));
    len = 0;
    if (fault->times != UINT64_MAX)
        len += snprintf(part, sizeof(part), " times=%llu", (unsigned long long)fault->times);
    if (fault->chance != SINK_CHANCE_WHOLE)
        len += snprintf(part + len, sizeof(part) - (size_t)len, " chance=%u", fault->chance);
    outbuf_add(&out, span_of(part, (size_t)len));
    text[out.len] = '\0';
}

Test(sink, faults_are_read)
{
    static const struct {
        const char *spec, *want;
    } rows[] = {
        { "mail=451", "mail reply 451 0.0.0 [Try again later]" },
        { "mail=550", "mail reply 550 0.0.0 [Refused]" },
        { "end=250", "end reply 250 0.0.0 [Ok]" },
        { "data=354", "data reply 354 0.0.0 [Go on]" },
        { "rcpt=550 5.1.1 No such user", "rcpt reply 550 5.1.1 [No such user]" },
        { "rcpt=550 5.1.1", "rcpt reply 550 5.1.1 [Refused]" },
        /* An enhanced code of another class than the code is text. */
        { "rcpt=550 4.1.1 Odd", "rcpt reply 550 0.0.0 [4.1.1 Odd]" },
        { "rcpt=550 5.1.1x", "rcpt reply 550 0.0.0 [5.1.1x]" },
        { "end=451 4.3.0 Busy, really, busy", "end reply 451 4.3.0 [Busy, really, busy]" },
        { "end=451 Busy, really,times=1", "end reply 451 0.0.0 [Busy, really] times=1" },
        { "end=451 a\\nb\\\\n", "end reply 451 0.0.0 [a\nb\\n]" },
        { "greeting=220 mx hello", "greeting reply 220 0.0.0 [mx hello]" },
        { "end=451 =sign", "end reply 451 0.0.0 [=sign]" },
        { "mail=raw:SSH-2.0\\r\\n", "mail raw [SSH-2.0\r\n]" },
        { "connect=drop", "connect drop" },
        { "END=Drop", "end drop" },
        { "end=keep-drop", "end keep drop" },
        { "end=keep-stall,%0.5", "end keep stall chance=5000" },
        { "body=drop:4kb", "body drop 4096" },
        { "body=stall=10", "body stall 10" },
        { "body=slow:1000", "body slow 1000" },
        { "quit=delay=2s", "quit delay 2000" },
        { "tls=stall", "tls stall" },
        { "rcpt~bad*=550", "rcpt reply 550 0.0.0 [Refused] path=bad*" },
        { "from~*@x.example=554", "mail reply 554 0.0.0 [Refused] path=*@x.example" },
        { "mail~=554", "mail reply 554 0.0.0 [Refused] path=" },
        { "end=drop,from~a*,rcpt~?b", "end drop from=a* to=?b" },
        { "end=drop,%10", "end drop chance=100000" },
        { "end=drop,%0.0001", "end drop chance=1" },
        { "end=drop,%100", "end drop" },
        { "end=drop,after=3", "end drop first=3 every=1" },
        { "end=drop,every=10", "end drop first=10 every=10" },
        { "end=drop,every=10,after=2,times=5", "end drop first=2 every=10 times=5" },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        struct sink_faults *faults = calloc(1, sizeof(*faults));
        char error[SINK_FAULT_ERROR_BYTES] = "", text[512];

        cr_assert(sink_faults_add(faults, rows[i].spec, error), "%s: %s", rows[i].spec, error);
        describe(&faults->items[0], text, sizeof(text));
        cr_assert_str_eq(text, rows[i].want, "%s", rows[i].spec);
        cr_assert_eq(faults->count, 1);
        cr_assert_eq(faults->stages, 1u << faults->items[0].stage, "%s", rows[i].spec);
        free(faults);
    }
}

Test(sink, wrong_faults_are_refused)
{
    static const struct {
        const char *spec, *want;
    } rows[] = {
        { "", "has no '='" },
        { "mail", "has no '='" },
        { "=drop", "is no stage" },
        { "mial=drop", "'mial' is no stage" },
        { "mail=", "is no action" },
        { "mail=dropped", "is no action" },
        { "mail=45", "is no action" },
        { "mail=4511", "is no action" },
        { "mail=199", "is no action" },
        { "mail=600", "is no action" },
        { "mail=raw:", "says nothing" },
        { "mail=451,time=3", "is no condition" },
        { "mail=451 text,times=0", "is no condition" },
        { "mail=451,after=x", "is no condition" },
        { "mail=451,%0", "is no condition" },
        { "mail=451,%101", "is no condition" },
        { "mail=451,%1.00001", "is no condition" },
        { "end=drop,rcpt~", "is no condition" },
        { "mail=keep-drop", "only end can do" },
        { "mail=drop:5", "takes no number" },
        { "mail=slow:5", "body only" },
        { "body=slow", "octets a second" },
        { "body=slow:0", "octets a second" },
        { "mail=delay", "is not a duration" },
        { "mail=delay=5", "has no unit" },
        { "tls=454", "TLS handshake" },
        { "end~a*=451", "has a pattern" },
        { "quit=drop,from~a", "knows none" },
        { "connect=drop,rcpt~a", "knows none" },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        struct sink_faults *faults = calloc(1, sizeof(*faults));
        char error[SINK_FAULT_ERROR_BYTES] = "";

        cr_assert_not(sink_faults_add(faults, rows[i].spec, error), "%s", rows[i].spec);
        cr_assert_not_null(strstr(error, rows[i].want), "%s: %s", rows[i].spec, error);
        cr_assert_eq(faults->count, 0, "%s", rows[i].spec);
        free(faults);
    }
}

Test(sink, patterns)
{
    static const struct {
        const char *pattern, *text;
        bool want;
    } rows[] = {
        { "", "", true },
        { "", "a", false },
        { "*", "", true },
        { "*", "abc", true },
        { "a", "A", true },
        { "a", "b", false },
        { "a*", "a", true },
        { "a*", "ba", false },
        { "*a", "banana", true },
        { "*a", "bananas", false },
        { "*an*an*", "banana", true },
        { "*an*an*an*", "banana", false },
        { "?", "", false },
        { "?", "x", true },
        { "b?d*@x.?", "Bad7@X.y", true },
        { "bad*@*", "bad", false },
        { "a*b*c", "aXbYbZc", true },
        { "**", "x", true },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++)
        cr_assert_eq(sink_pattern_match(span_text(rows[i].pattern), span_text(rows[i].text)),
                     rows[i].want, "'%s' '%s'", rows[i].pattern, rows[i].text);
}

/* --- choosing --- */

/* What happens at the occasion "from>recipient,recipient", as a character: '.' nothing, else the
 * number of the fault (from 1); a delay as a '~' in front. The number of characters. */
static size_t
choose(struct sink_faults *faults, enum sink_stage stage, const char *text, uint64_t *random,
       char *got)
{
    struct span from = span_text(text), to = SPAN("");
    const char *arrow = strchr(text, '>');
    char recipients[64];
    size_t len = 0, n = 0;

    if (arrow != NULL) {
        to = span_text(arrow + 1);
        from.len = (size_t)(arrow - text);
    }
    for (size_t i = 0; i < to.len; i++)
        recipients[len++] = to.data[i] == ',' ? '\n' : to.data[i];
    if (len > 0)
        recipients[len++] = '\n';
    struct sink_occasion occasion = { .stage = stage,
                                      .path = stage == SINK_RCPT ? to : from,
                                      .from = from,
                                      .recipients =
                                          span_of(recipients, stage == SINK_RCPT ? 0 : len) };
    struct sink_decision decision = sink_faults_decide(faults, &occasion, random);

    if (decision.delay_ms > 0)
        got[n++] = '~';
    got[n++] = decision.fault == NULL ? '.' : (char)('1' + (decision.fault - faults->items));
    return n;
}

Test(sink, faults_are_chosen)
{
    static const struct {
        const char *specs[4];
        enum sink_stage stage;
        const char *occasions[9];
        const char *want;
    } rows[] = {
        { { "end=451,times=2" }, SINK_END, { "a", "a", "a", "a" }, "11.." },
        { { "end=451,after=3" }, SINK_END, { "a", "a", "a", "a" }, "..11" },
        { { "end=451,every=2" }, SINK_END, { "a", "a", "a", "a", "a" }, ".1.1." },
        { { "end=451,every=3,after=2" }, SINK_END, { "a", "a", "a", "a", "a" }, ".1..1" },
        { { "end=451,every=2,times=1" }, SINK_END, { "a", "a", "a", "a" }, ".1.." },
        { { "mail=451" }, SINK_END, { "a", "a" }, ".." },
        /* The first that applies; the second is not even counted then. */
        { { "end=451,times=1", "end=drop,times=1" }, SINK_END, { "a", "a", "a" }, "12." },
        { { "end=delay=1s", "end=451,after=2" }, SINK_END, { "a", "a" }, "~.~2" },
        { { "end=451", "end=delay=1s" }, SINK_END, { "a" }, "1" },
        { { "mail~b*=554" }, SINK_MAIL, { "a@x", "B@x", "" }, ".1." },
        { { "mail~=554" }, SINK_MAIL, { "a@x", "" }, ".1" },
        { { "rcpt~bad*=550", "rcpt~slow*=451" },
          SINK_RCPT,
          { "a>bad@x", "a>good@x", "a>slow@x", "bad>x" },
          "1.2." },
        { { "rcpt=550,from~spam*" }, SINK_RCPT, { "spam>x", "ham>x" }, "1." },
        { { "end=451,rcpt~late*" }, SINK_END, { "a>late", "a>x", "a>x,late", "a>xlate" }, "1.1." },
        { { "end=451,rcpt~late*,from~a*,times=1" },
          SINK_END,
          { "b>late", "a>late", "a>late" },
          ".1." },
        /* Only occasions that fit the patterns count. */
        { { "rcpt~b*=550,after=2" }, SINK_RCPT, { "a>b", "a>c", "a>b", "a>c" }, "..1." },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        struct sink_faults *faults = calloc(1, sizeof(*faults));
        char error[SINK_FAULT_ERROR_BYTES], got[32] = "";
        uint64_t random = 1;
        size_t n = 0;

        for (size_t j = 0; j < 4 && rows[i].specs[j] != NULL; j++)
            cr_assert(sink_faults_add(faults, rows[i].specs[j], error), "%s", rows[i].specs[j]);
        for (size_t j = 0; j < 9 && rows[i].occasions[j] != NULL; j++)
            n += choose(faults, rows[i].stage, rows[i].occasions[j], &random, got + n);
        got[n] = '\0';
        cr_assert_str_eq(got, rows[i].want, "row %zu: %s", i, rows[i].specs[0]);
        free(faults);
    }
}

Test(sink, chance_is_repeatable_and_fair)
{
    struct sink_faults *faults = calloc(2, sizeof(*faults));
    struct sink_occasion occasion = { .stage = SINK_END,
                                      .from = SPAN("a"),
                                      .recipients = SPAN("b\n") };
    char error[SINK_FAULT_ERROR_BYTES];
    uint64_t random[2] = { 77, 77 };
    unsigned happened = 0;

    cr_assert(sink_faults_add(&faults[0], "end=451,%10", error));
    cr_assert(sink_faults_add(&faults[1], "end=451,%10", error));
    for (int i = 0; i < 20000; i++) {
        bool first = sink_faults_decide(&faults[0], &occasion, &random[0]).fault != NULL;
        bool second = sink_faults_decide(&faults[1], &occasion, &random[1]).fault != NULL;

        cr_assert_eq(first, second, "draw %d", i);
        happened += first;
    }
    cr_assert_gt(happened, 1800);
    cr_assert_lt(happened, 2200);
    free(faults);
}

/* --- messages that come in --- */

struct stored_row {
    const char *name;
    const char *wire; /* DATA: with stuffed dots and final dot */
    bool chunked, lf;
    const char *want; /* behind our own lines */
};

static const struct stored_row stored_rows[] = {
    { "empty", ".\r\n", false, false, "" },
    { "one line", "a\r\n.\r\n", false, false, "a\r\n" },
    { "stuffed dots", "..\r\n..a\r\n...\r\nb.\r\n.\r\n", false, false, ".\r\n.a\r\n..\r\nb.\r\n" },
    { "stuffed dots, LF", "..\r\n..a\r\n...\r\nb.\r\n.\r\n", false, true, ".\n.a\n..\nb.\n" },
    { "empty lines", "\r\n\r\n.\r\n", false, true, "\n\n" },
    { "BDAT keeps its dots", ".\r\n..\r\nend", true, false, ".\r\n..\r\nend" },
    { "BDAT, LF", ".\r\n..\r\nend\r\n", true, true, ".\n..\nend\n" },
    { "BDAT of nothing", "", true, false, "" },
};

static void
read_stored(const char *directory, char *content, size_t size)
{
    char command[128];
    FILE *in;
    size_t len;

    snprintf(command, sizeof(command), "cat %s/new/*", directory);
    in = popen(command, "r");
    cr_assert_not_null(in);
    len = fread(content, 1, size - 1, in);
    pclose(in);
    content[len] = '\0';
}

/* The row with a cut before each octet; parts are fed one after the other. */
static void
check_stored(const struct stored_row *row, size_t cut)
{
    char directory[] = "/tmp/ringpost-sink-XXXXXX", content[512], want[512], command[128];
    const char *end = row->lf ? "\n" : "\r\n";
    struct sink_maildir maildir;
    struct sink_message message;
    struct span wire = span_text(row->wire);
    bool good;

    cr_assert_not_null(mkdtemp(directory));
    cr_assert(sink_maildir_open(&maildir, directory, row->lf, 3, SPAN("mx/a:b")));
    sink_message_init(&message);
    good = sink_message_from(&message, SPAN("a@x")) &&
           sink_message_recipient(&message, SPAN("b@y")) &&
           sink_message_recipient(&message, SPAN("c@z")) &&
           sink_message_body(&message, &maildir, span_first(wire, cut), row->chunked) &&
           sink_message_body(&message, &maildir, span_after(wire, cut), row->chunked) &&
           sink_message_keep(&message, &maildir, row->chunked);
    cr_assert(good, "%s: %s", row->name, sink_maildir_error(&maildir));
    read_stored(directory, content, sizeof(content));
    snprintf(want, sizeof(want), "Return-Path: <a@x>%sX-Original-To: b@y%sX-Original-To: c@z%s%s",
             end, end, end, row->want);
    cr_assert_str_eq(content, want, "%s, cut at %zu", row->name, cut);
    sink_message_drop(&message, &maildir);
    sink_message_free(&message);
    sink_maildir_close(&maildir);
    snprintf(command, sizeof(command), "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
}

Test(sink, messages_are_stored_for_any_split)
{
    for (size_t i = 0; i < ROWS_OF(stored_rows); i++)
        for (size_t cut = 0; cut <= strlen(stored_rows[i].wire); cut++)
            check_stored(&stored_rows[i], cut);
}

/* More than is kept in memory: goes to the file early, and away with the message when dropped. */
Test(sink, a_large_message_that_is_dropped_leaves_nothing)
{
    static char piece[16384];
    char directory[] = "/tmp/ringpost-sink-XXXXXX", command[160];
    struct sink_maildir maildir;
    struct sink_message message;

    memset(piece, 'x', sizeof(piece));
    cr_assert_not_null(mkdtemp(directory));
    cr_assert(sink_maildir_open(&maildir, directory, false, 0, SPAN("mx")));
    sink_message_init(&message);
    cr_assert(sink_message_from(&message, SPAN("")));
    for (int i = 0; i < 40; i++)
        cr_assert(sink_message_body(&message, &maildir, span_of(piece, sizeof(piece)), true));
    cr_assert_geq(message.file, 0);
    snprintf(command, sizeof(command), "test -n \"$(ls %s/tmp)\" -a -z \"$(ls %s/new)\"", directory,
             directory);
    cr_assert_eq(system(command), 0);
    sink_message_drop(&message, &maildir);
    snprintf(command, sizeof(command), "test -z \"$(find %s/tmp %s/new -type f)\" && rm -r %s",
             directory, directory, directory);
    cr_assert_eq(system(command), 0);
    sink_message_free(&message);
    sink_maildir_close(&maildir);
}

/* --- messages that go out --- */

Test(send, messages_are_framed)
{
    static const struct {
        const char *name, *file;
        bool chunked;
        const char *want;
        uint64_t size;
        bool eight_bit;
    } rows[] = {
        { "nothing", "", false, ".\r\n", 0, false },
        { "LF", "a\nb\n", false, "a\r\nb\r\n.\r\n", 6, false },
        { "CRLF", "a\r\nb\r\n", false, "a\r\nb\r\n.\r\n", 6, false },
        { "both", "a\r\nb\n\n\r\n", false, "a\r\nb\r\n\r\n\r\n.\r\n", 10, false },
        { "no end", "a", false, "a\r\n.\r\n", 3, false },
        { "dots", ".\n..\n.a\nb.\n", false, "..\r\n...\r\n..a\r\nb.\r\n.\r\n", 15, false },
        { "dots, BDAT", ".\n..\n.a\n", true, ".\r\n..\r\n.a\r\n", 11, false },
        { "no end, BDAT", "a", true, "a\r\n", 3, false },
        { "8 bit", "\xc3\xa4\n", false, "\xc3\xa4\r\n.\r\n", 4, true },
        { "a CR of its own stays", "a\rb\n", true, "a\rb\r\n", 5, false },
    };

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        char path[] = "/tmp/ringpost-send-XXXXXX", error[SEND_ERROR_BYTES] = "";
        struct send_message message = { .len = 0 };
        int file = mkstemp(path);

        cr_assert_geq(file, 0);
        cr_assert_eq(write(file, rows[i].file, strlen(rows[i].file)),
                     (ssize_t)strlen(rows[i].file));
        close(file);
        cr_assert(send_message_read(&message, path, error), "%s: %s", rows[i].name, error);
        unlink(path);
        cr_assert(send_message_frame(&message, rows[i].chunked, error), "%s: %s", rows[i].name,
                  error);
        cr_assert(span_equal(span_of(message.data, message.len), span_text(rows[i].want)),
                  "%s: '%.*s'", rows[i].name, (int)message.len, message.data);
        cr_assert_eq(message.size, rows[i].size, "%s", rows[i].name);
        cr_assert_eq(message.eight_bit, rows[i].eight_bit, "%s", rows[i].name);
        send_message_free(&message);
    }
}

Test(send, a_composed_message)
{
    const struct span to[] = { SPAN("b@y"), SPAN("c@z") };
    struct send_header header = { .from = SPAN("a@x"),
                                  .to = to,
                                  .to_count = 2,
                                  .subject = SPAN("hello"),
                                  .helo = SPAN("me"),
                                  .when = 951782400 }; /* a leap day */
    struct send_message message = { .len = 0 };
    char error[SEND_ERROR_BYTES];
    const char *want = "From: <a@x>\r\nTo: <b@y>,\r\n <c@z>\r\nSubject: hello\r\n"
                       "Date: Tue, 29 Feb 2000 00:00:00 +0000\r\n\r\none\r\n.two\r\n";

    cr_assert(send_message_compose(&message, &header, "one\n.two", 0, error));
    cr_assert(send_message_frame(&message, true, error));
    cr_assert(span_equal(span_of(message.data, message.len), span_text(want)), "'%.*s'",
              (int)message.len, message.data);
    send_message_free(&message);
    header.from = SPAN("");
    cr_assert(send_message_compose(&message, &header, "\xc3\xa4", 0, error));
    cr_assert_not_null(memmem(message.data, message.len, "From: <postmaster@me>\r\n", 23));
    cr_assert_not_null(memmem(message.data, message.len, "Transfer-Encoding: 8bit\r\n", 25));
    send_message_free(&message);
}

/* Any number of octets makes whole lines, without a bare CR or LF. */
Test(send, filling_has_the_size_that_was_asked_for)
{
    const struct span to = SPAN("b@y");
    const struct send_header header = { .from = SPAN("a@x"), .to = &to, .to_count = 1 };
    char error[SEND_ERROR_BYTES];

    for (uint64_t size = 0; size < 500; size++) {
        struct send_message message = { .len = 0 };
        const char *body;
        size_t len;

        cr_assert(send_message_compose(&message, &header, NULL, size, error));
        body = memmem(message.data, message.len, "\r\n\r\n", 4);
        cr_assert_not_null(body);
        body += 4;
        len = message.len - (size_t)(body - message.data);
        cr_assert_eq(len, size == 1 ? 2 : size, "%llu octets", (unsigned long long)size);
        for (size_t i = 0; i < len; i++) {
            if (body[i] == '\r')
                cr_assert(i + 1 < len && body[i + 1] == '\n', "%llu octets",
                          (unsigned long long)size);
            if (body[i] == '\n')
                cr_assert(i > 0 && body[i - 1] == '\r', "%llu octets", (unsigned long long)size);
        }
        cr_assert(len == 0 || body[len - 1] == '\n', "%llu octets", (unsigned long long)size);
        send_message_free(&message);
    }
}

/* --- what a sink does not offer --- */

static const struct receiver_policy plain_policy = {
    .hostname = { "mx", 2 },
    .message_size_max = 1000,
    .recipients_max = 3,
    .errors_max = 50,
    .transactions_max = 100,
    .command_line_max = 512,
    .text_line_max = 200,
    .received_max = 3,
};

/* All that is said to these commands; every MAIL and RCPT that comes through is accepted. */
static void
converse(const struct receiver_policy *policy, const char *commands, char *said, size_t size)
{
    static struct counters counters;
    char room[RECEIVER_REPLY_ROOM * 4];
    struct outbuf out = { .data = room, .size = sizeof(room) };
    struct receiver receiver;
    struct receiver_event event;
    struct span in = span_text(commands);

    receiver_start(&receiver, policy, &counters, false, &out);
    out.len = 0;
    while ((event = receiver_step(&receiver, &in, &out)).kind != RECEIVER_NEED_INPUT)
        if (event.kind != RECEIVER_ABORT)
            receiver_accept(&receiver, &out);
    cr_assert_lt(out.len, size);
    memcpy(said, out.data, out.len);
    said[out.len] = '\0';
}

Test(sink, extensions_that_are_not_offered)
{
    static const struct {
        uint32_t without;
        const char *commands, *want;
    } rows[] = {
        { 0, "EHLO x\r\n",
          "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n"
          "250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n" },
        { RECEIVER_PIPELINING | RECEIVER_SIZE | RECEIVER_8BITMIME, "EHLO x\r\n",
          "250-mx\r\n250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n" },
        { RECEIVER_SMTPUTF8 | RECEIVER_DSN | RECEIVER_CHUNKING, "EHLO x\r\n",
          "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 "
          "ENHANCEDSTATUSCODES\r\n" },
        { RECEIVER_EHLO, "EHLO x\r\nHELO x\r\n",
          "502 5.5.1 Command not implemented\r\n250 mx\r\n" },
        { RECEIVER_CHUNKING, "HELO x\r\nBDAT 0 LAST\r\n",
          "250 mx\r\n502 5.5.1 Command not implemented\r\n" },
    };
    static const struct {
        uint32_t without;
        const char *mail, *rcpt; /* "" and a parameter */
    } parameters[] = {
        { RECEIVER_SIZE, " SIZE=5", "" },        { RECEIVER_8BITMIME, " BODY=8BITMIME", "" },
        { RECEIVER_8BITMIME, " BODY=7BIT", "" }, { RECEIVER_SMTPUTF8, " SMTPUTF8", "" },
        { RECEIVER_DSN, " RET=FULL", "" },       { RECEIVER_DSN, " ENVID=a", "" },
        { RECEIVER_DSN, "", " NOTIFY=NEVER" },   { RECEIVER_DSN, "", " ORCPT=rfc822;a@b" },
    };
    struct receiver_policy policy = plain_policy;
    char said[2048], commands[256];

    for (size_t i = 0; i < ROWS_OF(rows); i++) {
        policy.without = rows[i].without;
        converse(&policy, rows[i].commands, said, sizeof(said));
        cr_assert_str_eq(said, rows[i].want, "row %zu", i);
    }
    for (size_t i = 0; i < ROWS_OF(parameters); i++) {
        snprintf(commands, sizeof(commands), "EHLO x\r\nMAIL FROM:<a@b>%s\r\nRCPT TO:<c@d>%s\r\n",
                 parameters[i].mail, parameters[i].rcpt);
        policy.without = 0;
        converse(&policy, commands, said, sizeof(said));
        cr_assert_null(strstr(said, "555"), "%s", commands);
        policy.without = ~(uint32_t)RECEIVER_EHLO & ~parameters[i].without;
        converse(&policy, commands, said, sizeof(said));
        cr_assert_null(strstr(said, "555"), "%s", commands);
        policy.without = parameters[i].without;
        converse(&policy, commands, said, sizeof(said));
        cr_assert_not_null(strstr(said, "\r\n555 5.5.4 "), "%s", commands);
    }
}
