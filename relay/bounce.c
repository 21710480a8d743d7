/* Who is told what became of a message, and the report itself: its header, the part for programs
 * (RFC 3464), and the order of its parts (RFC 6522). */
#include "relay/bounce.h"

#include <arpa/inet.h>

#include "core/utf8.h"
#include "relay/bounce_private.h"

/* --- who is told --- */

bool
bounce_wanted(struct span reverse_path, uint8_t notify, enum bounce_action action)
{
    static const uint8_t bits[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = DSN_NOTIFY_FAILURE,
        [BOUNCE_DELAYED] = DSN_NOTIFY_DELAY,
        [BOUNCE_DELIVERED] = DSN_NOTIFY_SUCCESS,
        [BOUNCE_RELAYED] = DSN_NOTIFY_SUCCESS,
    };

    ASSERT(action < BOUNCE_ACTIONS);
    if (reverse_path.len == 0 || (notify & DSN_NOTIFY_NEVER) != 0)
        return false; /* RFC 5321 4.5.5, 6.1; RFC 3461 4.1 */
    if (notify == DSN_NOTIFY_NONE)
        return action == BOUNCE_FAILED || action == BOUNCE_DELAYED;
    return (notify & bits[action]) != 0;
}

/* --- words and numbers of the report --- */

/* RFC 3464 2.3.4 with 2.3.3: the class that goes with the action; RFC 3463 3.1: X.0.0 says no more
 * than that. A failure keeps 4.4.7, what became of a temporary error (RFC 3463 3.5). */
struct enhanced_code
bounce_status(const struct bounce_recipient *recipient)
{
    static const uint8_t classes[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = 5,
        [BOUNCE_DELAYED] = 4,
        [BOUNCE_DELIVERED] = 2,
        [BOUNCE_RELAYED] = 2,
    };
    const struct reply *reply = recipient->reply;
    uint8_t class = classes[recipient->action], given = (uint8_t)reply_class(reply);

    if (reply->enhanced.class != 0)
        given = reply->enhanced.class;
    if (given != class && !(recipient->action == BOUNCE_FAILED && given == 4))
        return (struct enhanced_code){ .class = class };
    if (reply->enhanced.class == 0)
        return (struct enhanced_code){ .class = given };
    return reply->enhanced;
}

static void
status_write(struct enhanced_code status, struct bounce_writer *writer)
{
    char text[ENHANCED_CODE_BYTES_MAX];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    enhanced_code_write(status, &out);
    writer_add(writer, outbuf_span(&out));
}

void
bounce_codes_write(const struct reply *reply, struct bounce_writer *writer)
{
    if (reply->code == 0)
        return;
    writer_number(writer, reply->code);
    if (reply->enhanced.class != 0) {
        writer_add(writer, SPAN(" "));
        status_write(reply->enhanced, writer);
    }
}

static void
field_end(struct bounce_writer *writer)
{
    writer_add(writer, SPAN("\r\n"));
}

static void
date_field(struct bounce_writer *writer, struct span name, uint64_t when_s)
{
    writer_add(writer, name);
    writer_date(writer, when_s);
    field_end(writer);
}

/* An address literal is a name, too, but with brackets (RFC 5321 4.1.3). */
static void
mta_name_write(struct bounce_writer *writer, struct span name)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    bool ipv4 = false, ipv6 = false;

    if (name.len < sizeof(text)) {
        memcpy(text, name.data, name.len);
        text[name.len] = '\0';
        ipv4 = inet_pton(AF_INET, text, &address) == 1;
        ipv6 = inet_pton(AF_INET6, text, &address) == 1;
    }
    writer_add(writer, ipv6 ? SPAN("[IPv6:") : ipv4 ? SPAN("[") : SPAN(""));
    writer_foreign(writer, name);
    writer_add(writer, ipv4 || ipv6 ? SPAN("]") : SPAN(""));
}

/* --- addresses as their senders gave them --- */

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* RFC 3461 4. False: not xtext, or longer than the room. */
static bool
xtext_decode(struct span s, struct outbuf *out)
{
    if (!xtext_valid(s, NULL) || s.len > outbuf_room(out))
        return false;
    while (s.len > 0) {
        bool encoded = s.data[0] == '+';

        outbuf_add_char(out, encoded ? (char)(hex_value(s.data[1]) * 16 + hex_value(s.data[2]))
                                     : s.data[0]);
        span_advance(&s, encoded ? 3 : 1);
    }
    return out->len > 0;
}

static void
utf8_add(struct outbuf *out, uint32_t value)
{
    static const uint8_t first_octets[5] = { 0, 0, 0xC0, 0xE0, 0xF0 };
    unsigned len = value < 0x80 ? 1 : value < 0x800 ? 2 : value < 0x10000 ? 3 : 4;

    outbuf_add_char(out, (char)(first_octets[len] | value >> 6 * (len - 1)));
    for (unsigned left = len - 1; left-- > 0;)
        outbuf_add_char(out, (char)(0x80 | (value >> 6 * left & 0x3F)));
}

/* RFC 6533 3: EmbeddedUnicodeChar, "\x{HEX}". Octets that it takes; 0: there is none. Never shorter
 * than its character. */
static size_t
embedded_character(struct span s, uint32_t *value)
{
    size_t at = 3;

    *value = 0;
    if (!span_starts_ignore_case(s, SPAN("\\x{")))
        return 0;
    for (; at < s.len && at < 9 && hex_value(s.data[at]) >= 0; at++)
        *value = *value * 16 + (uint32_t)hex_value(s.data[at]);
    return at > 3 && at < s.len && s.data[at] == '}' && *value <= 0x10FFFF ? at + 1 : 0;
}

/* utf-8-addr-xtext and -unitext to utf-8-address. False: something in it is none. */
static bool
unitext_decode(struct span s, struct outbuf *out)
{
    if (s.len > outbuf_room(out))
        return false;
    while (s.len > 0) {
        uint32_t value;
        size_t len = embedded_character(s, &value);

        if (len > 0)
            utf8_add(out, value);
        else
            outbuf_add_char(out, s.data[0]);
        span_advance(&s, len > 0 ? len : 1);
    }
    return utf8_printable(outbuf_span(out)) && out->len > 0;
}

/* RFC 3464 2.1.2: an atom. */
static bool
type_valid(struct span type)
{
    for (size_t i = 0; i < type.len; i++) {
        char c = char_lower(type.data[i]);

        if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-')
            return false;
    }
    return type.len > 0;
}

/* RFC 3461 6.3 (c), RFC 6533 3: decoded, and only where there was an ORCPT. */
static void
original_recipient_write(struct bounce_writer *writer, struct span orcpt)
{
    char text[ORCPT_BYTES_MAX];
    struct outbuf decoded = { .data = text, .size = sizeof(text) };
    const char *semicolon = orcpt.len > 0 ? memchr(orcpt.data, ';', orcpt.len) : NULL;
    size_t type_len = semicolon != NULL ? (size_t)(semicolon - orcpt.data) : 0;
    struct span type = span_first(orcpt, type_len), address = span_after(orcpt, type_len);
    bool utf8 = span_equal_ignore_case(type, SPAN("utf-8"));

    if (!type_valid(type) || orcpt.len > ORCPT_BYTES_MAX)
        return;
    span_advance(&address, 1);
    if (!utf8 && !xtext_decode(address, &decoded))
        return;
    if (utf8 && address.len == 0)
        return;
    writer_add(writer, SPAN("Original-Recipient: "));
    writer_add(writer, type);
    writer_add(writer, SPAN("; "));
    if (!utf8)
        writer_foreign(writer, outbuf_span(&decoded));
    else if (writer->utf8 && unitext_decode(address, &decoded))
        writer_utf8_address(writer, outbuf_span(&decoded));
    else
        writer_foreign(writer, address); /* escapes stand as they are, the rest gets them */
    field_end(writer);
}

static void
final_recipient_write(struct bounce_writer *writer, struct span mailbox)
{
    if (any_eight_bit(mailbox)) {
        writer_add(writer, SPAN("Final-Recipient: utf-8; "));
        writer_utf8_address(writer, mailbox);
    } else {
        writer_add(writer, SPAN("Final-Recipient: rfc822; "));
        writer_foreign(writer, mailbox);
    }
    field_end(writer);
}

/* --- the second part --- */

/* RFC 3464 2.3.6. What no server said has a type of our own. */
static void
diagnostic_write(struct bounce_writer *writer, const struct reply *reply)
{
    if (reply->code == 0 && reply->text_len == 0)
        return;
    if (reply->code != 0) {
        writer_add(writer, SPAN("Diagnostic-Code: smtp; "));
        bounce_codes_write(reply, writer);
    } else {
        writer_add(writer, SPAN("Diagnostic-Code: X-ringpost;"));
    }
    writer_words(writer, span_of(reply->text, reply->text_len));
    field_end(writer);
}

/* In the order of RFC 3464 2.3. */
static void
recipient_fields_write(const struct bounce *bounce, const struct bounce_recipient *recipient,
                       struct bounce_writer *writer)
{
    static const struct span actions[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = SPAN("Action: failed\r\n"),
        [BOUNCE_DELAYED] = SPAN("Action: delayed\r\n"),
        [BOUNCE_DELIVERED] = SPAN("Action: delivered\r\n"),
        [BOUNCE_RELAYED] = SPAN("Action: relayed\r\n"),
    };

    original_recipient_write(writer, recipient->orcpt);
    final_recipient_write(writer, recipient->mailbox);
    writer_add(writer, actions[recipient->action]);
    writer_add(writer, SPAN("Status: "));
    status_write(bounce_status(recipient), writer);
    field_end(writer);
    if (recipient->server.len > 0) {
        writer_add(writer, SPAN("Remote-MTA: dns; "));
        mta_name_write(writer, recipient->server);
        field_end(writer);
    }
    diagnostic_write(writer, recipient->reply);
    if (recipient->attempt_s != 0)
        date_field(writer, SPAN("Last-Attempt-Date: "), recipient->attempt_s);
    if (recipient->action == BOUNCE_DELAYED && bounce->expires_s != 0)
        date_field(writer, SPAN("Will-Retry-Until: "), bounce->expires_s);
}

/* In the order of RFC 3464 2.2. */
static void
status_fields_write(const struct bounce *bounce, struct bounce_writer *writer)
{
    char text[3 * ENVID_BYTES_MAX];
    struct outbuf envid = { .data = text, .size = sizeof(text) };

    writer->indent = SPAN(" ");
    if (xtext_decode(bounce->envid, &envid)) {
        writer_add(writer, SPAN("Original-Envelope-Id: "));
        writer_foreign(writer, outbuf_span(&envid));
        field_end(writer);
    }
    writer_add(writer, SPAN("Reporting-MTA: dns; "));
    writer_foreign(writer, bounce->hostname);
    field_end(writer);
    date_field(writer, SPAN("Arrival-Date: "), bounce->arrival_s);
    if (bounce->original_id.len > 0) {
        writer_add(writer, SPAN("X-Ringpost-Queue-ID: "));
        writer_foreign(writer, bounce->original_id);
        field_end(writer);
    }
    for (uint32_t i = 0; i < bounce->count; i++) {
        writer_add(writer, SPAN("\r\n"));
        recipient_fields_write(bounce, &bounce->recipients[i], writer);
    }
}

/* --- the whole --- */

struct report {
    const struct bounce *bounce;
    struct bounce_original original;
    struct outbuf boundary;
    char boundary_text[BOUNDARY_BYTES_MAX];
    enum bounce_action action; /* the worst of all */
    bool text_utf8;            /* the first part has more than ASCII */
    bool global;               /* RFC 6533: the second has */
    struct bounce_writer writer;
};

/* What the report as a whole is about. An address above 127 in a message without SMTPUTF8 cannot
 * have come by SMTP; it is escaped like all that only might be shown. */
static void
report_judge(struct report *report)
{
    static const enum bounce_action worst_first[] = { BOUNCE_FAILED, BOUNCE_DELAYED, BOUNCE_RELAYED,
                                                      BOUNCE_DELIVERED };
    const struct bounce *bounce = report->bounce;
    bool seen[BOUNCE_ACTIONS] = { false };
    unsigned at = 0;

    report->text_utf8 = any_eight_bit(bounce->hostname) || any_eight_bit(bounce->original_id) ||
                        any_eight_bit(bounce->origin_client);
    for (uint32_t i = 0; i < bounce->count; i++) {
        const struct bounce_recipient *recipient = &bounce->recipients[i];
        bool mailbox = any_eight_bit(recipient->mailbox);

        ASSERT(recipient->action < BOUNCE_ACTIONS);
        ASSERT(recipient->reply->text_len <= REPLY_TEXT_BYTES_MAX);
        seen[recipient->action] = true;
        report->global |= bounce->smtputf8 && (mailbox || any_eight_bit(recipient->orcpt));
        report->text_utf8 |=
            mailbox || any_eight_bit(recipient->server) ||
            any_eight_bit(span_of(recipient->reply->text, recipient->reply->text_len));
    }
    while (!seen[worst_first[at]])
        at++;
    report->action = worst_first[at];
}

/* The third part's octets above 127, as they are. */
static bool
third_part_eight_bit(const struct report *report)
{
    const struct bounce_original *original = &report->original;

    if (original->returned == BOUNCE_RETURNS_HEADER)
        return original->eight_bit && !original->irregular && report->bounce->smtputf8;
    return original->eight_bit;
}

static void
to_write(const struct bounce *bounce, struct bounce_writer *writer)
{
    struct span address = bounce->reverse_path;
    bool shown = utf8_printable(address) && address.len <= MAILBOX_BYTES_MAX &&
                 (bounce->smtputf8 || !any_eight_bit(address));

    writer_add(writer, SPAN("To: "));
    writer_add(writer, shown ? address : SPAN("undisclosed-recipients:;"));
    field_end(writer);
}

static void
header_write(struct report *report)
{
    static const struct span subjects[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = SPAN("Subject: Undelivered Mail Returned to Sender\r\n"),
        [BOUNCE_DELAYED] = SPAN("Subject: Delayed Mail (still being retried)\r\n"),
        [BOUNCE_DELIVERED] = SPAN("Subject: Successful Mail Delivery Report\r\n"),
        [BOUNCE_RELAYED] = SPAN("Subject: Successful Mail Delivery Report\r\n"),
    };
    const struct bounce *bounce = report->bounce;
    struct bounce_writer *writer = &report->writer;

    writer->indent = SPAN(" ");
    date_field(writer, SPAN("Date: "), bounce->now_s);
    writer_add(writer, SPAN("From: MAILER-DAEMON@"));
    writer_foreign(writer, bounce->hostname);
    writer_words(writer, SPAN("(Mail Delivery System)"));
    field_end(writer);
    to_write(bounce, writer);
    writer_add(writer, subjects[report->action]);
    writer_add(writer, SPAN("Message-ID: <"));
    writer_foreign(writer, bounce->id);
    writer_add(writer, SPAN("@"));
    writer_foreign(writer, bounce->hostname);
    writer_add(writer, SPAN(">\r\nAuto-Submitted: auto-replied\r\n" /* RFC 3834 5 */
                            "MIME-Version: 1.0\r\n"
                            "Content-Type: multipart/report; report-type=delivery-status;\r\n"
                            " boundary=\""));
    writer_add(writer, outbuf_span(&report->boundary));
    writer_add(writer, SPAN("\"\r\n"));
    if (report->global || third_part_eight_bit(report)) /* RFC 2045 6.4: the whole of its parts */
        writer_add(writer, SPAN("Content-Transfer-Encoding: 8bit\r\n"));
    writer_add(writer, SPAN("\r\nThis is a report in MIME format (RFC 3464).\r\n"));
}

/* RFC 2046 5.1.1: the CRLF before it belongs to the boundary, so a part keeps its last one. */
static void
boundary_write(struct report *report, struct span rest)
{
    writer_quote(&report->writer, false);
    writer_add(&report->writer, SPAN("\r\n--"));
    writer_add(&report->writer, outbuf_span(&report->boundary));
    writer_add(&report->writer, rest);
}

static void
text_part_write(struct report *report)
{
    boundary_write(report, SPAN("\r\nContent-Description: Notification\r\n"));
    /* Encoded rather than 8bit, so that the report goes everywhere. */
    writer_add(&report->writer, report->text_utf8
                                    ? SPAN("Content-Type: text/plain; charset=utf-8\r\n"
                                           "Content-Transfer-Encoding: quoted-printable\r\n\r\n")
                                    : SPAN("Content-Type: text/plain; charset=us-ascii\r\n\r\n"));
    writer_quote(&report->writer, report->text_utf8);
    report->writer.utf8 = true;
    bounce_text_write(report->bounce, report->original.returned, &report->writer);
}

static void
status_part_write(struct report *report)
{
    boundary_write(report, SPAN("\r\nContent-Description: Delivery report\r\n"));
    writer_add(&report->writer, report->global
                                    ? SPAN("Content-Type: message/global-delivery-status\r\n"
                                           "Content-Transfer-Encoding: 8bit\r\n\r\n")
                                    : SPAN("Content-Type: message/delivery-status\r\n\r\n"));
    report->writer.utf8 = report->global;
    status_fields_write(report->bounce, &report->writer);
}

/* RFC 6522 3 and 4; RFC 6533 4 for octets above 127 in the header of a message with SMTPUTF8.
 * Without SMTPUTF8 they are a fault of the original's, and encoded as RFC 6522 4 allows. */
static void
original_part_write(struct report *report)
{
    const struct bounce_original *original = &report->original;
    bool all = original->returned == BOUNCE_RETURNS_ALL;
    bool eight_bit = third_part_eight_bit(report);
    bool quoted = !all && !eight_bit && (original->eight_bit || original->irregular);
    bool global = report->bounce->smtputf8 && !quoted &&
                  (all ? original->header_eight_bit : original->eight_bit);

    if (original->returned == BOUNCE_RETURNS_NOTHING)
        return;
    boundary_write(report, all ? SPAN("\r\nContent-Description: Message\r\nContent-Type: ")
                               : SPAN("\r\nContent-Description: Message headers\r\n"
                                      "Content-Type: "));
    if (all)
        writer_add(&report->writer,
                   global ? SPAN("message/global\r\n") : SPAN("message/rfc822\r\n"));
    else
        writer_add(&report->writer,
                   global ? SPAN("message/global-headers\r\n") : SPAN("text/rfc822-headers\r\n"));
    if (quoted)
        writer_add(&report->writer, SPAN("Content-Transfer-Encoding: quoted-printable\r\n"));
    else if (eight_bit)
        writer_add(&report->writer, SPAN("Content-Transfer-Encoding: 8bit\r\n"));
    writer_add(&report->writer, SPAN("\r\n"));
    writer_quote(&report->writer, quoted);
    original_copy(original, &report->writer);
}

static bool
id_valid(struct span id)
{
    return type_valid(id) && id.len <= BOUNCE_ID_BYTES_MAX;
}

bool
bounce_write(const struct bounce *bounce, struct buffers *buffers, const struct chain *original,
             bool original_complete, bool chunked, struct chain *out, bool *eight_bit,
             uint64_t *size)
{
    struct report report = { .bounce = bounce };

    ASSERT(bounce->reverse_path.len > 0); /* none about null */
    ASSERT(bounce->count > 0);
    ASSERT(id_valid(bounce->id));
    report_judge(&report);
    /* RFC 3461 4.3: RET is about failures; else the header is enough. */
    original_survey(&report.original, buffers, original, original_complete, chunked,
                    bounce->dsn_return == DSN_RETURN_FULL && report.action == BOUNCE_FAILED);
    report.boundary =
        (struct outbuf){ .data = report.boundary_text, .size = sizeof(report.boundary_text) };
    original_boundary(&report.original, bounce->id, &report.boundary);

    writer_start(&report.writer, buffers);
    header_write(&report);
    text_part_write(&report);
    status_part_write(&report);
    original_part_write(&report);
    boundary_write(&report, SPAN("--\r\n"));
    if (!writer_finish(&report.writer, out))
        return false;
    *eight_bit = report.writer.eight_bit;
    *size = report.writer.size;
    return true;
}
