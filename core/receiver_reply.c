/* Every reply that the receiver gives of itself, in one table, so that texts, codes and what is
 * counted for them can be read side by side. Replies that the caller decides come as struct
 * reply. */
#include "core/octets.h"
#include "core/receiver_private.h"

/* Where a reply is counted besides its first digit; 0 (no counter of ours is the first) is
 * nowhere. */
#define COUNTED(field) ((uint16_t)offsetof(struct counters, field))

struct reply_row {
    struct span line;   /* the whole line, or what is before our host name */
    struct span rest;   /* what is after our host name; empty: the line is whole */
    uint16_t reason;    /* refusals_... */
    uint16_t violation; /* violations_... */
};

/* clang-format off */
#define LINE(text) .line = SPAN(text "\r\n")
/* RFC 5321 4.2 wants the host name first in the texts of 221 and 421. */
#define HOST(before, after) .line = SPAN(before " "), .rest = SPAN(" " after "\r\n")

/* Enhanced codes: RFC 3463 and the registry of RFC 5248; one on each 2xx, 4xx and 5xx line and none
 * on 3xx (RFC 2034 4). Of the two for a command that is not understood, x.5.1 is for one that is
 * out of order or not supported, x.5.2 for one that could not be read or is not known (RFC 3463
 * 3.6). */
static const struct reply_row rows[RECEIVER_REPLIES] = {
    [REPLY_MAIL_OK] = { LINE("250 2.1.0 Ok") },
    [REPLY_RCPT_OK] = { LINE("250 2.1.5 Ok") },
    [REPLY_DATA_GO] = { LINE("354 Send the message; a line with one dot ends it") },
    [REPLY_OK] = { LINE("250 2.0.0 Ok") },
    [REPLY_HELP] = { LINE("214 2.0.0 EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY QUIT") },
    [REPLY_VRFY] = { LINE("252 2.5.2 Not verified; send mail to find out") },
    [REPLY_QUIT] = { HOST("221 2.0.0", "closes the connection") },
    [REPLY_START_TLS] = { LINE("220 2.0.0 Ready to start TLS") },

    [REPLY_UNKNOWN] = { LINE("500 5.5.2 Command not recognized") },
    [REPLY_NOT_IMPLEMENTED] = { LINE("502 5.5.1 Command not implemented") },
    [REPLY_FOREIGN] = { LINE("500 5.5.2 This is SMTP"), .reason = COUNTED(refusals_violation) },
    [REPLY_LINE_TOO_LONG] = { LINE("500 5.5.2 Command line too long"),
                              .violation = COUNTED(violations_long_line) },
    [REPLY_LINE_NUL] = { LINE("500 5.5.2 NUL octet in a command"),
                         .violation = COUNTED(violations_nul) },
    [REPLY_LINE_BARE] = { LINE("500 5.5.2 Lines end with CR LF; bare CR or LF refused"),
                          .reason = COUNTED(refusals_violation),
                          .violation = COUNTED(violations_bare_newline) },
    [REPLY_NO_ARGUMENT] = { LINE("501 5.5.4 This command takes no argument") },
    [REPLY_ARGUMENT_MISSING] = { LINE("501 5.5.4 Argument missing") },
    [REPLY_ARGUMENT_OCTETS] = { LINE("501 5.5.4 Argument is not printable ASCII") },

    [REPLY_SAY_HELO] = { LINE("503 5.5.1 Send EHLO or HELO first") },
    [REPLY_SAY_EHLO] = { LINE("503 5.5.1 Send EHLO first; HELO allows no extensions") },
    [REPLY_SAY_MAIL] = { LINE("503 5.5.1 Send MAIL first") },
    [REPLY_SAY_RCPT] = { LINE("503 5.5.1 Send RCPT first") },
    [REPLY_NESTED] = { LINE("503 5.5.1 A transaction is open already") },
    [REPLY_BETWEEN_CHUNKS] = { LINE("503 5.5.1 Only BDAT or RSET between chunks") },
    [REPLY_NO_RECIPIENTS] = { LINE("554 5.5.1 No valid recipients") },
    [REPLY_TLS_NOT_OFFERED] = { LINE("502 5.5.1 STARTTLS is not offered") },
    [REPLY_TLS_ACTIVE] = { LINE("503 5.5.1 TLS is active already") },
    [REPLY_TLS_REQUIRED] = { LINE("530 5.7.0 Send STARTTLS first"),
                             .reason = COUNTED(refusals_tls_required) },
    [REPLY_TLS_INJECTION] = { LINE("554 5.5.1 Plaintext after STARTTLS refused"),
                              .reason = COUNTED(refusals_violation),
                              .violation = COUNTED(violations_starttls_injection) },

    [REPLY_HELO_NAME] = { LINE("501 5.5.4 A host name or address literal is needed") },
    [REPLY_MAIL_SYNTAX] = { LINE("501 5.5.4 Syntax: MAIL FROM:<address> [parameters]"),
                            .reason = COUNTED(refusals_syntax) },
    [REPLY_MAIL_ADDRESS] = { LINE("501 5.1.7 Bad sender address"),
                             .reason = COUNTED(refusals_syntax) },
    [REPLY_MAIL_TOO_LONG] = { LINE("501 5.1.7 Sender address too long"),
                              .reason = COUNTED(refusals_syntax) },
    [REPLY_MAIL_NO_DOMAIN] = { LINE("501 5.1.7 Sender address without a domain"),
                               .reason = COUNTED(refusals_syntax) },
    [REPLY_MAIL_UTF8] = { LINE("501 5.1.7 Sender address is not UTF-8"),
                          .reason = COUNTED(refusals_syntax) },
    [REPLY_RCPT_SYNTAX] = { LINE("501 5.5.4 Syntax: RCPT TO:<address> [parameters]"),
                            .reason = COUNTED(refusals_syntax) },
    [REPLY_RCPT_ADDRESS] = { LINE("501 5.1.3 Bad recipient address"),
                             .reason = COUNTED(refusals_syntax) },
    [REPLY_RCPT_TOO_LONG] = { LINE("501 5.1.3 Recipient address too long"),
                              .reason = COUNTED(refusals_syntax) },
    [REPLY_RCPT_NO_DOMAIN] = { LINE("501 5.1.3 Recipient address without a domain"),
                               .reason = COUNTED(refusals_syntax) },
    [REPLY_RCPT_UTF8] = { LINE("501 5.1.3 Recipient address is not UTF-8"),
                          .reason = COUNTED(refusals_syntax) },
    /* RFC 6531 3.5 leaves 550 and 553; 553 is the one for mailbox names. */
    [REPLY_NEEDS_SMTPUTF8] = { LINE("553 5.6.7 Address needs the SMTPUTF8 parameter of MAIL"),
                               .reason = COUNTED(refusals_syntax) },
    [REPLY_PARAMETER_SYNTAX] = { LINE("501 5.5.4 Parameters are malformed"),
                                 .reason = COUNTED(refusals_syntax) },
    [REPLY_PARAMETER_VALUE] = { LINE("501 5.5.4 Bad value of a parameter"),
                                .reason = COUNTED(refusals_syntax) },
    [REPLY_PARAMETER_TWICE] = { LINE("501 5.5.4 Parameter given twice"),
                                .reason = COUNTED(refusals_syntax) },
    [REPLY_PARAMETER_UNKNOWN] = { LINE("555 5.5.4 Parameter not recognized"),
                                  .reason = COUNTED(refusals_extension) },
    [REPLY_PARAMETER_BINARY] = { LINE("555 5.6.1 BINARYMIME is not offered"),
                                 .reason = COUNTED(refusals_extension) },
    [REPLY_BDAT_SYNTAX] = { LINE("501 5.5.4 Syntax: BDAT size [LAST]"),
                            .reason = COUNTED(refusals_syntax) },

    [REPLY_MESSAGE_TOO_BIG] = { LINE("552 5.3.4 Message too big"),
                                .reason = COUNTED(refusals_size) },
    [REPLY_RECIPIENTS_LIMIT] = { LINE("452 4.5.3 Too many recipients"),
                                 .reason = COUNTED(refusals_recipients) },
    [REPLY_TRIES_LIMIT] = { HOST("421 4.7.0", "too many tries, closes the connection"),
                            .reason = COUNTED(refusals_recipients) },
    [REPLY_ERRORS_LIMIT] = { HOST("421 4.7.0", "too many errors, closes the connection"),
                             .violation = COUNTED(violations_too_many_errors) },
    [REPLY_TRANSACTIONS_LIMIT] = { HOST("421 4.7.0", "too many messages, please connect again") },

    /* Not in the registry, where an unknown detail reads as 5.6.0 (RFC 3463 2); but it is what
     * Exchange tells for this very fault, and so what a postmaster who looks it up will find
     * explained. */
    [REPLY_DATA_BARE] = { LINE("550 5.6.11 Bare CR or LF in the message (RFC 5321 2.3.8)"),
                          .reason = COUNTED(refusals_violation),
                          .violation = COUNTED(violations_bare_newline) },
    [REPLY_DATA_NUL] = { LINE("554 5.6.0 NUL octet in the message"),
                         .reason = COUNTED(refusals_violation),
                         .violation = COUNTED(violations_nul) },
    [REPLY_DATA_LONG_LINE] = { LINE("554 5.6.0 Line too long in the message"),
                               .reason = COUNTED(refusals_syntax),
                               .violation = COUNTED(violations_long_line) },
    [REPLY_DATA_LOOP] = { LINE("554 5.4.6 Too many Received fields; mail loop?"),
                          .reason = COUNTED(refusals_loop) },
};
/* clang-format on */

_Static_assert(sizeof(struct counters) <= UINT16_MAX, "COUNTED fits its field");
_Static_assert(offsetof(struct counters, connections_accepted) == 0, "COUNTED is never 0");

struct span
receiver_reply_line(enum receiver_reply reply)
{
    ASSERT(reply > REPLY_NONE);
    ASSERT(reply < RECEIVER_REPLIES);
    return rows[reply].line;
}

static void
count(struct receiver *receiver, uint16_t counted)
{
    if (counted != 0)
        counter_increment((uint64_t *)(void *)((char *)receiver->counters + counted));
}

void
receiver_say(struct receiver *receiver, enum receiver_reply reply, struct outbuf *out)
{
    const struct reply_row *row = &rows[reply];

    ASSERT(row->line.len > 0);
    outbuf_add(out, row->line);
    if (row->rest.len > 0) {
        outbuf_add(out, receiver->policy->hostname);
        outbuf_add(out, row->rest);
    }
    counter_reply(receiver->counters, (unsigned)(row->line.data[0] - '0') * 100);
    count(receiver, row->reason);
    count(receiver, row->violation);
}

void
receiver_say_greeting(struct receiver *receiver, struct outbuf *out)
{
    /* RFC 5321 4.2: the host name first; 3.1 and many clients: "ESMTP" says that EHLO is worth
     * it. */
    outbuf_add(out, SPAN("220 "));
    outbuf_add(out, receiver->policy->hostname);
    outbuf_add(out, SPAN(" ESMTP ringpost\r\n"));
    counter_reply(receiver->counters, 220);
}

void
receiver_say_ehlo(struct receiver *receiver, struct outbuf *out)
{
    const struct receiver_policy *policy = receiver->policy;

    outbuf_add(out, SPAN("250-"));
    outbuf_add(out, policy->hostname);
    outbuf_add(out, SPAN("\r\n"));
    if ((policy->without & RECEIVER_PIPELINING) == 0)
        outbuf_add(out, SPAN("250-PIPELINING\r\n"));
    if ((policy->without & RECEIVER_SIZE) == 0) {
        outbuf_add(out, SPAN("250-SIZE "));
        outbuf_add_number(out, policy->message_size_max);
        outbuf_add(out, SPAN("\r\n"));
    }
    if ((policy->without & RECEIVER_8BITMIME) == 0)
        outbuf_add(out, SPAN("250-8BITMIME\r\n"));
    if ((policy->without & RECEIVER_SMTPUTF8) == 0)
        outbuf_add(out, SPAN("250-SMTPUTF8\r\n"));
    if ((policy->without & RECEIVER_DSN) == 0)
        outbuf_add(out, SPAN("250-DSN\r\n"));
    /* RFC 3207 4.2: not again once TLS is active. */
    if (policy->starttls && !receiver->tls)
        outbuf_add(out, SPAN("250-STARTTLS\r\n"));
    if ((policy->without & RECEIVER_CHUNKING) == 0)
        outbuf_add(out, SPAN("250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n"));
    else
        outbuf_add(out, SPAN("250 ENHANCEDSTATUSCODES\r\n"));
    counter_reply(receiver->counters, 250);
}

void
receiver_say_helo(struct receiver *receiver, struct outbuf *out)
{
    outbuf_add(out, SPAN("250 "));
    outbuf_add(out, receiver->policy->hostname);
    outbuf_add(out, SPAN("\r\n"));
    counter_reply(receiver->counters, 250);
}

void
receiver_say_chunk(struct receiver *receiver, struct outbuf *out)
{
    outbuf_add(out, SPAN("250 2.0.0 "));
    outbuf_add_number(out, receiver->chunk_size);
    outbuf_add(out, SPAN(" octets received\r\n"));
    counter_reply(receiver->counters, 250);
}

void
receiver_say_verdict(struct receiver *receiver, const struct reply *reply, struct outbuf *out)
{
    if (receiver->smtputf8 || !octets_any_high(span_of(reply->text, reply->text_len))) {
        reply_write(reply, true, out);
    } else {
        struct reply ascii = *reply;

        reply_make_ascii(&ascii);
        reply_write(&ascii, true, out);
    }
    counter_reply(receiver->counters, reply->code);
}
