/* The loop counter must count what any relay before us wrote, however it was split; the trace field
 * must be legal whatever the client said. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "core/header.h"
#include "core/octets.h"
#include "tests/unit/guard.h"

#define INPUT(literal) literal, sizeof(literal) - 1
#define ROWS(table) (sizeof(table) / sizeof((table)[0]))

/* --- reading --- */

static const struct header_row {
    const char *name;
    const char *input;
    size_t len;
    uint32_t received;
    bool ended, eight_bit;
} header_rows[] = {
    { "nothing", INPUT(""), 0, false, false },
    { "one field", INPUT("Received: x\r\n\r\n"), 1, true, false },
    { "not ended yet", INPUT("Received: x\r\n"), 1, false, false },
    { "the name is enough", INPUT("Received:"), 1, false, false },
    { "the name without colon is not", INPUT("Received"), 0, false, false },
    { "any case", INPUT("RECEIVED: x\r\nreceived: y\r\nrEcEiVeD:\r\n\r\n"), 3, true, false },
    { "blank before the colon", INPUT("Received : x\r\nReceived\t \t: y\r\n\r\n"), 2, true, false },
    { "longer name", INPUT("Received-SPF: x\r\nReceivedd: x\r\n\r\n"), 0, true, false },
    { "shorter name", INPUT("Receive: x\r\nR: x\r\n\r\n"), 0, true, false },
    { "prefix", INPUT("X-Received: x\r\nXReceived: x\r\n\r\n"), 0, true, false },
    { "in a value", INPUT("Subject: Received: x Received: y\r\n\r\n"), 0, true, false },
    { "in a folded line", INPUT("Subject: x\r\n Received: y\r\n\tReceived: z\r\n\r\n"), 0, true,
      false },
    { "after a folded line", INPUT("A: x\r\n y\r\nReceived: z\r\n\r\n"), 1, true, false },
    { "in the body", INPUT("A: x\r\n\r\nReceived: z\r\n"), 0, true, false },
    { "in a body without header", INPUT("\r\nReceived: z\r\n"), 0, true, false },
    { "dot before the name", INPUT(".Received: z\r\nReceived: z\r\n..Received: z\r\n"), 1, false,
      false },
    { "end of data", INPUT("Received: z\r\n.\r\n"), 1, true, false },
    { "end of data at once", INPUT(".\r\n"), 0, true, false },
    { "no field", INPUT("Hello world\r\nReceived: x\r\n"), 0, true, false },
    { "mbox line", INPUT("From a@example.com Sun Nov 22\r\nReceived: x\r\n"), 0, true, false },
    { "no field after a field", INPUT("Received: x\r\nHello\r\nReceived: x\r\n"), 1, true, false },
    { "colon first", INPUT(": x\r\nReceived: x\r\n"), 0, true, false },
    { "folded line first", INPUT(" x\r\nReceived: x\r\n"), 0, true, false },
    { "blank line of spaces goes on", INPUT("A: x\r\n \r\nReceived: y\r\n"), 1, false, false },
    { "name with a space in it", INPUT("A B: x\r\nReceived: x\r\n"), 0, true, false },
    { "NUL in a name", INPUT("A\0: x\r\nReceived: x\r\n"), 0, true, false },
    { "NUL in a value", INPUT("A: \0\r\nReceived: x\r\n"), 1, false, false },
    { "8-bit in a value", INPUT("Subject: caf\xc3\xa9\r\n\r\n"), 0, true, true },
    { "8-bit at a value's end", INPUT("Subject: 1234567890\xff"), 0, false, true },
    { "8-bit in a folded line", INPUT("Subject: x\r\n \xc3\xa9\r\n\r\n"), 0, true, true },
    { "8-bit after a bare CR", INPUT("Subject: x\r\xc3\xa9\r\n\r\n"), 0, true, true },
    { "8-bit in the body", INPUT("Subject: x\r\n\r\n\xc3\xa9\r\n"), 0, true, false },
    { "8-bit in a name is no field", INPUT("Subj\xc3\xa9: x\r\nReceived: x\r\n"), 0, true, false },
    { "bare LF ends no line", INPUT("A: x\nReceived: y\r\n\r\n"), 0, true, false },
    { "bare CR ends no line", INPUT("A: x\rReceived: y\r\n\r\n"), 0, true, false },
    { "CR CR LF", INPUT("A: x\r\r\nReceived: y\r\n\r\n"), 1, true, false },
    { "bare LF at a line start", INPUT("A: x\r\n\nReceived: y\r\n"), 0, true, false },
    { "bare CR at a line start", INPUT("A: x\r\n\rReceived: y\r\n"), 0, true, false },
};

static void
header_check(const struct header_row *row, const struct header_scanner *got, size_t cut)
{
    cr_assert_eq(got->received, row->received, "%s, cut at %zu: %u", row->name, cut, got->received);
    cr_assert_eq(got->ended, row->ended, "%s, cut at %zu: ended", row->name, cut);
    cr_assert_eq(got->eight_bit, row->eight_bit, "%s, cut at %zu: eight_bit", row->name, cut);
}

Test(header, scan_every_split)
{
    static struct guard guards[2];

    for (size_t i = 0; i < ROWS(header_rows); i++) {
        const struct header_row *row = &header_rows[i];
        struct header_scanner scanner;

        for (size_t cut = 0; cut <= row->len; cut++) {
            header_scanner_start(&scanner);
            header_scan(&scanner, guard_end(&guards[0], row->input, cut), false);
            header_scan(&scanner, guard_end(&guards[1], row->input + cut, row->len - cut), false);
            header_check(row, &scanner, cut);
        }
        header_scanner_start(&scanner);
        for (size_t at = 0; at < row->len; at++)
            header_scan(&scanner, guard_end(&guards[0], row->input + at, 1), false);
        header_check(row, &scanner, SIZE_MAX);
    }
}

/* Every truncation has a state that goes on to the same end: no input of these octets, cut
 * anywhere, gives another state than whole. */
Test(header, scan_exhaustive_splits)
{
    static const char alphabet[] = { '\r', '\n', ' ', ':', 'R', '\xff' };
    char text[16] = "Received: ";
    size_t count = 6 * 6 * 6 * 6 * 6;

    for (size_t number = 0; number < count; number++) {
        struct header_scanner whole, split;
        size_t rest = number;

        for (size_t i = 0; i < 5; i++, rest /= sizeof(alphabet))
            text[10 + i] = alphabet[rest % sizeof(alphabet)];
        for (size_t start = 8; start <= 10; start++) {
            struct span in = span_of(text + start, 15 - start);

            header_scanner_start(&whole);
            header_scan(&whole, in, false);
            for (size_t cut = 0; cut <= in.len; cut++) {
                header_scanner_start(&split);
                header_scan(&split, span_first(in, cut), false);
                header_scan(&split, span_after(in, cut), !octets_any_high(span_after(in, cut)));
                cr_assert(split.received == whole.received && split.ended == whole.ended &&
                              split.eight_bit == whole.eight_bit && split.state == whole.state &&
                              split.matched == whole.matched && split.any_field == whole.any_field,
                          "input %zu from %zu, cut at %zu", number, start, cut);
            }
        }
    }
}

/* --- writing --- */

#define LABEL_63 "a23456789012345678901234567890123456789012345678901234567890123"
#define DOMAIN_255 LABEL_63 "." LABEL_63 "." LABEL_63 "." LABEL_63
#define WHEN 1795305600 /* 2026-11-22 00:00:00 */
#define TLS_13 .tls_version = SPAN("TLSv1.3"), .tls_cipher = SPAN("TLS_AES_128_GCM_SHA256")
#define BASE .by = SPAN("edge.example.com"), .queue_id = SPAN("4Xy0001a"), .when = WHEN
#define BASE_4 BASE, .client = SPAN("192.0.2.1")
#define DATE "\tSun, 22 Nov 2026 00:00:00 +0000\r\n"

static const struct trace_row {
    const char *name;
    struct trace trace;
    const char *want;
} trace_rows[] = {
    { "all of it",
      { BASE_4, TLS_13, .helo = SPAN("mail.example.org"), .recipient = SPAN("user@example.com"),
        .esmtp = true },
      "Received: from mail.example.org ([192.0.2.1])\r\n"
      "\tby edge.example.com with ESMTPS (TLSv1.3 TLS_AES_128_GCM_SHA256)\r\n"
      "\tid 4Xy0001a for <user@example.com>;\r\n" DATE },
    { "HELO",
      { BASE_4, .helo = SPAN("mail") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with SMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "HELO after STARTTLS: no S without E",
      { BASE_4, TLS_13, .helo = SPAN("mail"), .authenticated = true },
      "Received: from mail ([192.0.2.1])\r\n"
      "\tby edge.example.com with SMTP (TLSv1.3 TLS_AES_128_GCM_SHA256)\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "IPv6",
      { BASE, .client = SPAN("2001:db8::1"), .helo = SPAN("mail"), .esmtp = true },
      "Received: from mail ([IPv6:2001:db8::1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "IPv6 with a zone",
      { BASE, .client = SPAN("fe80::1%eth0"), .helo = SPAN("mail"), .esmtp = true },
      "Received: from mail ([IPv6:fe80::1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "helo is an address literal",
      { BASE_4, .helo = SPAN("[198.51.100.7]"), .esmtp = true },
      "Received: from [198.51.100.7] ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "helo is an IPv6 address literal",
      { BASE_4, .helo = SPAN("[IPv6:2001:db8::7]"), .esmtp = true },
      "Received: from [IPv6:2001:db8::7] ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "no address",
      { BASE, .helo = SPAN("mail.example.org"), .esmtp = true },
      "Received: from mail.example.org\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "no address and a literal, which may not stand alone",
      { BASE, .helo = SPAN("[192.0.2.1]"), .esmtp = true },
      "Received: from unknown\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "no queue id",
      { .by = SPAN("edge.example.com"),
        .when = WHEN,
        .client = SPAN("192.0.2.1"),
        .helo = SPAN("mail"),
        .esmtp = true },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTP;\r\n" DATE },
    { "cipher unknown",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .tls_version = SPAN("TLSv1.2"),
        .tls_cipher = SPAN("odd (cipher)") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTPS (TLSv1.2)\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "long names are folded",
      { BASE_4, .helo = SPAN(DOMAIN_255), .esmtp = true,
        .recipient = SPAN(LABEL_63 "@" DOMAIN_255) },
      "Received: from\r\n\t" DOMAIN_255 "\r\n\t([192.0.2.1])\r\n"
      "\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a\r\n\tfor <" LABEL_63 "@" DOMAIN_255 ">;\r\n" DATE },
    { "line of 78",
      { BASE_4, .helo = SPAN("a234567890.a234567890.a234567890.a234567890.a2345"), .esmtp = true },
      "Received: from a234567890.a234567890.a234567890.a234567890.a2345 ([192.0.2.1])\r\n"
      "\tby edge.example.com with ESMTP\r\n\tid 4Xy0001a;\r\n" DATE },
    { "line of 79",
      { BASE_4, .helo = SPAN("a234567890.a234567890.a234567890.a234567890.a23456"), .esmtp = true },
      "Received: from a234567890.a234567890.a234567890.a234567890.a23456\r\n\t([192.0.2.1])\r\n"
      "\tby edge.example.com with ESMTP\r\n\tid 4Xy0001a;\r\n" DATE },
    { "quoted recipient with a space",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .recipient = SPAN("\"a b\"@example.com") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a for <\"a b\"@example.com>;\r\n" DATE },
    { "postmaster without domain is no path",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .recipient = SPAN("postmaster") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "UTF-8 recipient",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .smtputf8 = true,
        .recipient = SPAN("us\xc3\xa9r@example.com") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with UTF8SMTP\r\n"
      "\tid 4Xy0001a for <us\xc3\xa9r@example.com>;\r\n" DATE },
    { "UTF-8 recipient of another kind of message",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .recipient = SPAN("us\xc3\xa9r@example.com") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
    { "line break in the recipient",
      { BASE_4, .helo = SPAN("mail"), .esmtp = true, .recipient = SPAN("a\r\nX: y@example.com") },
      "Received: from mail ([192.0.2.1])\r\n\tby edge.example.com with ESMTP\r\n"
      "\tid 4Xy0001a;\r\n" DATE },
};

/* The offset of `wanted` in s, or s.len. */
static size_t
find(struct span s, struct span wanted)
{
    for (size_t at = 0; at + wanted.len <= s.len; at++)
        if (memcmp(s.data + at, wanted.data, wanted.len) == 0)
            return at;
    return s.len;
}

static struct span
trace_text(const struct trace *trace)
{
    static struct guard guard;
    static const char filler[TRACE_FIELD_BYTES_MAX];
    /* Exactly the promised room, and a guard page behind it. */
    struct span room = guard_end(&guard, filler, sizeof(filler));
    struct outbuf out = { .data = (char *)(uintptr_t)room.data, .size = room.len };

    trace_write(trace, &out);
    return outbuf_span(&out);
}

Test(header, trace_table)
{
    for (size_t i = 0; i < ROWS(trace_rows); i++) {
        struct span got = trace_text(&trace_rows[i].trace);

        cr_assert(span_equal(got, span_text(trace_rows[i].want)), "%s: got\n%.*s",
                  trace_rows[i].name, (int)got.len, got.data);
    }
}

Test(header, trace_names_that_are_not_legal)
{
    // clang-format off
    static const struct span helos[] = {
        SPAN(""), SPAN("under_score.example.com"), SPAN("trailing.dot."), SPAN(".leading"),
        SPAN("two..dots"), SPAN("-hyphen"), SPAN("hyphen-"), SPAN("a.-b"), SPAN("a-.b"),
        SPAN("with space"), SPAN("paren(x)"), SPAN("x\r\nInjected: y"), SPAN("x\ny"), SPAN("x\0y"),
        SPAN("caf\xc3\xa9.example"), SPAN(LABEL_63 "4.example"), SPAN(DOMAIN_255 ".x"),
        SPAN("[192.0.2.256]"), SPAN("[192.0.2.1"), SPAN("192.0.2.1]"), SPAN("[]"), SPAN("["),
        SPAN("[IPv6:2001::db8::1]"), SPAN("[192.0.2.1]x"), SPAN("[192.0.2.1]>"),
        SPAN("[tag:with space]"), SPAN("a@b"), SPAN("<a>"), SPAN("(comment)"), SPAN("a;b"),
    };
    // clang-format on

    for (size_t i = 0; i < ROWS(helos); i++) {
        struct trace trace = { BASE_4, .helo = helos[i], .esmtp = true };
        struct span got = trace_text(&trace);

        cr_assert(span_equal(got, SPAN("Received: from [192.0.2.1] ([192.0.2.1])\r\n"
                                       "\tby edge.example.com with ESMTP\r\n"
                                       "\tid 4Xy0001a;\r\n" DATE)),
                  "%.*s: got\n%.*s", (int)helos[i].len, helos[i].data, (int)got.len, got.data);
    }
}

Test(header, trace_protocols)
{
    static const char *const want[16] = {
        /* bits: 1 esmtp, 2 TLS, 4 authenticated, 8 smtputf8 */
        "SMTP", "ESMTP",    "SMTP", "ESMTPS",    "SMTP", "ESMTPA",    "SMTP", "ESMTPSA",
        NULL,   "UTF8SMTP", NULL,   "UTF8SMTPS", NULL,   "UTF8SMTPA", NULL,   "UTF8SMTPSA",
    };

    for (unsigned bits = 0; bits < 16; bits++) {
        struct trace trace = { BASE_4, .esmtp = bits & 1, .authenticated = bits & 4,
                               .smtputf8 = bits & 8,
                               .tls_version = bits & 2 ? SPAN("TLSv1.2") : SPAN("") };
        char line[100];

        if (want[bits] == NULL)
            continue;
        snprintf(line, sizeof(line), "\tby edge.example.com with %s%s\r\n", want[bits],
                 bits & 2 ? " (TLSv1.2)" : "");
        struct span got = trace_text(&trace);
        cr_assert(find(got, span_text(line)) < got.len, "%u: got\n%.*s", bits, (int)got.len,
                  got.data);
    }
}

/* All lengths of the variable parts: every line is at most 78 octets or one word that cannot be
 * folded, none is blank, and the field is one field. */
static void
trace_check_shape(struct span got)
{
    cr_assert(got.len <= TRACE_FIELD_BYTES_MAX && got.len > 2);
    while (got.len > 0) {
        struct span line = span_first(got, find(got, SPAN("\r\n")));

        cr_assert(line.len < got.len);
        span_advance(&got, line.len + 2);
        cr_assert(got.len == 0 || got.data[0] == '\t', "a line that is not folded");
        cr_assert(line.len > 1 && line.data[line.len - 1] != ' ', "a blank at a line's end");
        if (line.len > 78) { /* only "for <...>" holds a space that is no place to fold */
            const char *space = memchr(line.data + 1, ' ', line.len - 1);

            cr_assert(space == NULL || memcmp(line.data + 1, "for <", 5) == 0, "%.*s",
                      (int)line.len, line.data);
        }
        for (size_t i = 1; i < line.len; i++)
            cr_assert(line.data[i] >= ' ' && line.data[i] <= '~');
    }
}

Test(header, trace_shape_for_all_lengths)
{
    static const char name[] = DOMAIN_255, recipient[] = LABEL_63 "@" DOMAIN_255;
    char cipher[] = "TLS_A_CIPHER_WITH_A_NAME_THAT_IS_AS_LONG_AS_ANY_CAN_BE_64_OCTETS";

    cr_assert_eq(strlen(cipher), 64);
    for (size_t len = 1; len <= 255; len++) {
        struct span part = span_of(name, len);
        size_t small = len < 64 ? len : 64;
        struct trace trace = {
            .helo = part,
            .by = part,
            .queue_id = span_of(name, len < 60 ? len : 60),
            .client = SPAN("1111:2222:3333:4444:5555:6666:255.255.255.255"),
            .tls_version = SPAN("TLSv1.3"),
            .tls_cipher = span_of(cipher, small),
            .recipient = span_of(recipient, 65 + len),
            .esmtp = true,
            .authenticated = true,
            .smtputf8 = true,
            .when = WHEN,
        };

        trace_check_shape(trace_text(&trace));
        trace.recipient = span_of(recipient, 65 + 255 - len);
        trace.tls_version.len = trace.tls_cipher.len = 0;
        trace_check_shape(trace_text(&trace));
    }
}

/* A recipient that does not fit takes "for" with it, not the field. */
Test(header, trace_recipient_too_long)
{
    static char recipient[TRACE_FIELD_BYTES_MAX];
    struct trace trace = { BASE_4, .helo = SPAN("mail"), .esmtp = true };

    memset(recipient, 'a', sizeof(recipient));
    recipient[64] = '@';
    trace.recipient = span_of(recipient, MAILBOX_BYTES_MAX);
    struct span got = trace_text(&trace);
    cr_assert(find(got, SPAN("for <")) < got.len);
    trace_check_shape(got);
    trace.recipient.len++;
    got = trace_text(&trace);
    cr_assert(find(got, SPAN("for <")) == got.len);
    trace.recipient.len = sizeof(recipient);
    trace_check_shape(trace_text(&trace));
}

static void
date_check(time_t when, time_t shown)
{
    struct trace trace = { BASE_4, .helo = SPAN("mail"), .esmtp = true };
    char want[64];
    struct tm tm;

    trace.when = when;
    cr_assert_not_null(gmtime_r(&shown, &tm));
    size_t len = strftime(want, sizeof(want), "\t%a, %d %b %Y %H:%M:%S +0000\r\n", &tm);
    struct span got = trace_text(&trace);
    cr_assert(got.len > len && memcmp(got.data + got.len - len, want, len) == 0, "%lld: got %.*s",
              (long long)when, (int)len, got.data + got.len - len);
}

Test(header, trace_dates)
{
    static const time_t latest = 253402300799;

    for (time_t when = 0; when < latest; when += 86399 * 13 + 7919)
        date_check(when, when);
    /* Each second around ends of years and of February, leap and not. */
    static const time_t turns[] = { 68169600,   94694400,   951782400,  1709164800,
                                    1772323200, 4107542400, 4133894400, 13574563200 };
    for (size_t i = 0; i < ROWS(turns); i++)
        for (time_t when = turns[i] - 3; when < turns[i] + 3 + 86400 * 2; when += 7199)
            date_check(when, when);
    date_check(WHEN, WHEN);
    date_check(WHEN, WHEN); /* from the cache */
    date_check(latest, latest);
    date_check(latest + 1, latest); /* a broken clock is held within four digits */
    date_check(-1, 0);
}
