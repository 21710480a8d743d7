/* The command lines of the sender role. They stand apart from sender.c because they only ever write
 * and push: what comes of a command is decided there, by the reply. */
#include "relay/sender.h"

#include "core/octets.h"
#include "relay/sender_private.h"

static bool
is_control(char c)
{
    return (unsigned char)c < ' ' || c == 0x7F;
}

/* A value that ends up in a command line must not be able to end the line, the argument, or the
 * path. It was checked when it was received; a hole there must not become a hole here. */
static bool
value_safe(struct span value)
{
    for (size_t i = 0; i < value.len; i++)
        if (is_control(value.data[i]) || value.data[i] == ' ')
            return false;
    return true;
}

/* Octets that mailbox_safe() need not think about: nearly all. */
static bool
is_plain(char c)
{
    return c > '>' ? c != '\\' && c != 0x7F : c > ' ' && c != '"' && c != '<' && c != '>';
}

/* How many of these are at the start, eight at a time; '!' and '"' are left to the caller. */
static size_t
plain_len(struct span s)
{
    size_t len = 0;

    for (; s.len - len >= OCTETS_WIDTH; len += OCTETS_WIDTH) {
        uint64_t octets = octets_load(s.data + len);
        /* '<' and '>' differ in one bit. */
        uint64_t odd = octets_outside(octets, '#') | octets_equal(octets, '\\') |
                       octets_equal(octets & ~(OCTETS_ONES * ('<' ^ '>')), '<');

        if (odd != 0)
            return len + octets_first(odd);
    }
    return len;
}

static bool
mailbox_safe(struct span mailbox)
{
    bool quoted = false;

    for (size_t i = plain_len(mailbox); i < mailbox.len; i++) {
        char c = mailbox.data[i];
        if (is_plain(c))
            continue;
        if (is_control(c))
            return false;
        if (c == '"')
            quoted = !quoted;
        else if (c == '\\' && quoted && ++i < mailbox.len && is_control(mailbox.data[i]))
            return false;
        else if (!quoted && (c == ' ' || c == '<' || c == '>'))
            return false;
    }
    return !quoted;
}

static void
command_end(struct sender *sender, enum sender_expectation expectation, struct outbuf *out)
{
    outbuf_add(out, SPAN("\r\n"));
    sender_expect(sender, expectation);
    sender_invariants(sender);
}

static void
mail_dsn_write(const struct sender_mail *mail, struct outbuf *out)
{
    if (mail->dsn_return == DSN_RETURN_FULL)
        outbuf_add(out, SPAN(" RET=FULL"));
    if (mail->dsn_return == DSN_RETURN_HEADERS)
        outbuf_add(out, SPAN(" RET=HDRS"));
    if (mail->envid.len > 0) {
        outbuf_add(out, SPAN(" ENVID="));
        outbuf_add(out, mail->envid);
    }
}

void
sender_mail(struct sender *sender, const struct sender_mail *mail, struct outbuf *out)
{
    const struct sender_capabilities *offered = &sender->offered;

    /* Also not while replies to what was sent behind a refused MAIL are on their way. */
    ASSERT(sender_idle(sender));
    ASSERT(mailbox_safe(mail->reverse_path));
    ASSERT(value_safe(mail->envid));
    sender->in_transaction = true;
    sender->mail_refused = false;
    sender->chunked = false;
    sender->recipients_sent = 0;
    sender->recipients_answered = 0;
    sender->recipients_accepted = 0;
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("MAIL FROM:<"));
    outbuf_add(out, mail->reverse_path);
    outbuf_add_char(out, '>');
    if (offered->size && mail->size > 0) {
        outbuf_add(out, SPAN(" SIZE="));
        outbuf_add_number(out, mail->size);
    }
    if (offered->eight_bit_mime && mail->body == BODY_TYPE_8BITMIME)
        outbuf_add(out, SPAN(" BODY=8BITMIME"));
    if (offered->eight_bit_mime && mail->body == BODY_TYPE_7BIT)
        outbuf_add(out, SPAN(" BODY=7BIT"));
    if (offered->smtputf8 && mail->smtputf8)
        outbuf_add(out, SPAN(" SMTPUTF8"));
    if (offered->dsn)
        mail_dsn_write(mail, out);
    command_end(sender, SENDER_EXPECTS_MAIL, out);
}

static void
notify_write(unsigned notify, struct outbuf *out)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {
        { DSN_NOTIFY_NEVER, "NEVER" },
        { DSN_NOTIFY_SUCCESS, "SUCCESS" },
        { DSN_NOTIFY_FAILURE, "FAILURE" },
        { DSN_NOTIFY_DELAY, "DELAY" },
    };
    struct span before = SPAN(" NOTIFY=");

    /* RFC 3461 4.1: NEVER stands alone. */
    ASSERT((notify & DSN_NOTIFY_NEVER) == 0 || notify == DSN_NOTIFY_NEVER);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if ((notify & names[i].bit) == 0)
            continue;
        outbuf_add(out, before);
        outbuf_add(out, span_text(names[i].name));
        before = SPAN(",");
    }
}

void
sender_rcpt(struct sender *sender, struct span mailbox, const struct rcpt_parameters *parameters,
            struct outbuf *out)
{
    ASSERT(sender_may_send(sender));
    ASSERT(sender->in_transaction);
    ASSERT(!sender->chunked);
    ASSERT(mailbox.len > 0);
    ASSERT(mailbox_safe(mailbox));
    ASSERT(value_safe(parameters->orcpt));
    ASSERT(sender->recipients_sent < UINT16_MAX);
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("RCPT TO:<"));
    outbuf_add(out, mailbox);
    outbuf_add_char(out, '>');
    if (sender->offered.dsn) {
        notify_write(parameters->notify, out);
        /* RFC 6533 3: bytes above 127 only where SMTPUTF8 is; better without than wrong. */
        if (parameters->orcpt.len > 0 && (!parameters->utf8 || sender->offered.smtputf8)) {
            outbuf_add(out, SPAN(" ORCPT="));
            outbuf_add(out, parameters->orcpt);
        }
    }
    sender->recipients_sent++;
    command_end(sender, SENDER_EXPECTS_RCPT, out);
}

void
sender_data(struct sender *sender, struct outbuf *out)
{
    ASSERT(sender_may_send(sender));
    ASSERT(sender->in_transaction);
    ASSERT(sender->recipients_sent > 0);
    ASSERT(!sender->chunked); /* RFC 3030 2: DATA and BDAT do not mix */
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("DATA"));
    command_end(sender, SENDER_EXPECTS_DATA, out);
}

void
sender_chunk(struct sender *sender, uint64_t size, bool last, struct outbuf *out)
{
    ASSERT(sender_may_send(sender));
    ASSERT(sender->offered.chunking);
    ASSERT(sender->in_transaction);
    ASSERT(sender->recipients_sent > 0);
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("BDAT "));
    outbuf_add_number(out, size);
    if (last)
        outbuf_add(out, SPAN(" LAST"));
    sender->chunked = true;
    command_end(sender, last ? SENDER_EXPECTS_END : SENDER_EXPECTS_CHUNK, out);
}

void
sender_end_of_data(struct sender *sender)
{
    ASSERT(sender->data_open);
    ASSERT(sender->count == 0);
    sender->data_open = false;
    sender_expect(sender, SENDER_EXPECTS_END);
    sender_invariants(sender);
}

void
sender_reset(struct sender *sender, struct outbuf *out)
{
    ASSERT(sender_may_send(sender));
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("RSET"));
    command_end(sender, SENDER_EXPECTS_RSET, out);
}

void
sender_quit(struct sender *sender, struct outbuf *out)
{
    ASSERT(sender_may_send(sender));
    ASSERT(outbuf_room(out) >= SENDER_COMMAND_ROOM);
    outbuf_add(out, SPAN("QUIT"));
    command_end(sender, SENDER_EXPECTS_QUIT, out);
    sender->quitting = true;
}

/* --- what the next hop can take --- */

static void
size_refuse(struct reply *refusal, uint64_t size, uint64_t size_max)
{
    char text[128];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    outbuf_add(&out, SPAN("message of "));
    outbuf_add_number(&out, size);
    outbuf_add(&out, SPAN(" octets is larger than the "));
    outbuf_add_number(&out, size_max);
    outbuf_add(&out, SPAN(" that the next hop takes"));
    reply_set(refusal, 552, "5.3.4", outbuf_span(&out));
}

bool
sender_check(const struct sender_capabilities *offered, const struct sender_needs *needs,
             struct reply *refusal)
{
    /* RFC 1870 6.1: no use in sending what is larger than the declared maximum. */
    if (offered->size && offered->size_max > 0 && needs->size > offered->size_max) {
        size_refuse(refusal, needs->size, offered->size_max);
        return false;
    }
    /* RFC 6531 3.2: not to be sent to a server that does not offer it; we do not rewrite. 3.5: 553
     * is the code for a mailbox that cannot be had in this way. */
    if (needs->smtputf8 && !offered->smtputf8) {
        reply_set(refusal, 553, "5.6.7", SPAN("addresses or header need SMTPUTF8, which the next "
                                              "hop does not offer"));
        return false;
    }
    /* RFC 6152 3: convert, or treat as a permanent error; never send it raw. Converting would
     * break signatures (RFC 6376). */
    if (needs->eight_bit && !offered->eight_bit_mime) {
        reply_set(refusal, 554, "5.6.3", SPAN("message has 8-bit content and the next hop does "
                                              "not offer 8BITMIME"));
        return false;
    }
    /* RFC 3461 5.2.2: who hands a message to a server without DSN owes the sender a "relayed"
     * notice; whoever cannot send one must not take it. 5.3.3: RFC 3463 3.4. */
    if (needs->success_notice && !offered->dsn) {
        reply_set(refusal, 550, "5.3.3", SPAN("NOTIFY=SUCCESS cannot be kept: the next hop does "
                                              "not offer DSN"));
        return false;
    }
    return true;
}
