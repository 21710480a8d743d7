/* Envelopes in records: what MAIL and RCPT said, packed, so that a delivery after a restart says
 * the same to the next hop as one before it. */
#include "core/crc32c.h"
#include "relay/spool/record_private.h"

/* In this order; their lengths stand at TEXT_LENGTHS_OFFSET. */
enum { TEXT_TRACE, TEXT_CLIENT, TEXT_HELO, TEXT_REVERSE_PATH, TEXT_ENVID, TEXTS };
enum { BIT_SMTPUTF8 = 1, BIT_UTF8 = 2 };

#define TEXT_LENGTHS_OFFSET 12u
#define ZEROS_OFFSET 25u

/* Who reads these later has buffers of such sizes. */
static const uint16_t text_bytes_max[TEXTS] = {
    [TEXT_TRACE] = TRACE_FIELD_BYTES_MAX, [TEXT_CLIENT] = DOMAIN_BYTES_MAX,
    [TEXT_HELO] = DOMAIN_BYTES_MAX,       [TEXT_REVERSE_PATH] = MAILBOX_BYTES_MAX,
    [TEXT_ENVID] = 3 * ENVID_BYTES_MAX, /* as given, in xtext: up to three octets for one */
};

#define NOTIFY_BITS (DSN_NOTIFY_NEVER | DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY)

struct texts {
    struct span text[TEXTS];
};

static struct texts
texts_of(const struct envelope *envelope, const struct record_origin *origin)
{
    return (struct texts){ { [TEXT_TRACE] = origin->trace,
                             [TEXT_CLIENT] = origin->client,
                             [TEXT_HELO] = origin->helo,
                             [TEXT_REVERSE_PATH] = envelope->reverse_path,
                             [TEXT_ENVID] = envelope->envid } };
}

size_t
record_recipient_bytes(size_t mailbox_len, size_t orcpt_len)
{
    return ENVELOPE_RECIPIENT_BYTES + mailbox_len + orcpt_len;
}

size_t
record_envelope_bytes(const struct envelope *envelope, const struct record_origin *origin)
{
    struct texts texts = texts_of(envelope, origin);
    struct envelope_cursor cursor = envelope_begin(envelope);
    const struct recipient *recipient;
    size_t bytes = ENVELOPE_FRONT_BYTES;

    for (size_t i = 0; i < TEXTS; i++)
        bytes += texts.text[i].len;
    while ((recipient = envelope_next(&cursor)) != NULL)
        if (recipient->state == RECIPIENT_ACCEPTED)
            bytes += record_recipient_bytes(recipient->mailbox_len, recipient->orcpt_len);
    return bytes;
}

/* --- writing --- */

static void
front_write(const struct envelope *envelope, const struct texts *texts, struct outbuf *out)
{
    char front[ENVELOPE_FRONT_BYTES] = { 0 };

    ASSERT(envelope->body <= BODY_TYPE_8BITMIME);
    ASSERT(envelope->dsn_return <= DSN_RETURN_HEADERS);
    number64_write(front, envelope->declared_size);
    number32_write(front + 8, envelope->accepted);
    for (size_t i = 0; i < TEXTS; i++) {
        ASSERT(texts->text[i].len <= text_bytes_max[i]);
        number16_write(front + TEXT_LENGTHS_OFFSET + 2 * i, (uint16_t)texts->text[i].len);
    }
    front[22] = (char)envelope->body;
    front[23] = (char)envelope->dsn_return;
    front[24] = (char)((envelope->smtputf8 ? BIT_SMTPUTF8 : 0) | (envelope->utf8 ? BIT_UTF8 : 0));
    outbuf_add(out, span_of(front, sizeof(front)));
    for (size_t i = 0; i < TEXTS; i++)
        outbuf_add(out, texts->text[i]);
}

static void
recipient_write(const struct recipient *recipient, struct outbuf *out)
{
    char lengths[ENVELOPE_RECIPIENT_BYTES];

    ASSERT(recipient->mailbox_len > 0 && recipient->mailbox_len <= MAILBOX_BYTES_MAX);
    ASSERT(recipient->orcpt_len <= ORCPT_BYTES_MAX);
    ASSERT((recipient->notify & ~NOTIFY_BITS) == 0);
    number16_write(lengths, recipient->mailbox_len);
    number16_write(lengths + 2, recipient->orcpt_len);
    lengths[4] = (char)recipient->notify;
    outbuf_add(out, span_of(lengths, sizeof(lengths)));
    outbuf_add(out, recipient_mailbox(recipient));
    outbuf_add(out, recipient_parameters(recipient).orcpt);
}

void
record_envelope_write(const struct envelope *envelope, const struct record_origin *origin,
                      struct outbuf *out)
{
    struct texts texts = texts_of(envelope, origin);
    struct envelope_cursor cursor = envelope_begin(envelope);
    const struct recipient *recipient;
    uint32_t written = 0;

    front_write(envelope, &texts, out);
    while ((recipient = envelope_next(&cursor)) != NULL) {
        if (recipient->state != RECIPIENT_ACCEPTED)
            continue;
        recipient_write(recipient, out);
        written++;
    }
    ASSERT(written == envelope->accepted);
}

/* --- reading --- */

/* Takes `len` octets off the front of *in. */
static bool
text_take(struct span *in, size_t len, struct span *out)
{
    if (in->len < len)
        return false;
    *out = span_first(*in, len);
    span_advance(in, len);
    return true;
}

static bool
front_valid(const char *front)
{
    return (uint8_t)front[22] <= BODY_TYPE_8BITMIME && (uint8_t)front[23] <= DSN_RETURN_HEADERS &&
           (front[24] & ~(BIT_SMTPUTF8 | BIT_UTF8)) == 0 &&
           octets_zero(front + ZEROS_OFFSET, ENVELOPE_FRONT_BYTES - ZEROS_OFFSET);
}

static bool
front_read(struct span in, struct record_envelope *out)
{
    struct span text[TEXTS], front;

    if (!text_take(&in, ENVELOPE_FRONT_BYTES, &front) || !front_valid(front.data))
        return false;
    for (size_t i = 0; i < TEXTS; i++) {
        size_t len = number16_read(front.data + TEXT_LENGTHS_OFFSET + 2 * i);

        if (len > text_bytes_max[i] || !text_take(&in, len, &text[i]))
            return false;
    }
    *out = (struct record_envelope){ .origin = { .trace = text[TEXT_TRACE],
                                                 .client = text[TEXT_CLIENT],
                                                 .helo = text[TEXT_HELO] },
                                     .reverse_path = text[TEXT_REVERSE_PATH],
                                     .envid = text[TEXT_ENVID],
                                     .declared_size = number64_read(front.data),
                                     .body = (enum body_type)front.data[22],
                                     .dsn_return = (enum dsn_return)front.data[23],
                                     .smtputf8 = (front.data[24] & BIT_SMTPUTF8) != 0,
                                     .utf8 = (front.data[24] & BIT_UTF8) != 0,
                                     .recipients = number32_read(front.data + 8),
                                     .rest = in };
    return true;
}

/* Walks all recipients once, so that a number of them that is not the record's is found here and
 * not when the marks of another message were written. */
bool
record_envelope_read(const struct record *record, struct span in, struct record_envelope *out)
{
    struct record_envelope envelope, walk;
    struct record_recipient recipient;
    uint32_t recipients = 0;

    if (in.len != record->envelope_bytes || crc32c(0, in) != record->envelope_crc ||
        !front_read(in, &envelope) || envelope.recipients != record->recipients)
        return false;
    walk = envelope;
    while (record_recipient_next(&walk, &recipient))
        recipients++;
    if (walk.rest.len > 0 || recipients != record->recipients)
        return false;
    *out = envelope;
    return true;
}

bool
record_recipient_next(struct record_envelope *envelope, struct record_recipient *recipient)
{
    struct span rest = envelope->rest, lengths, mailbox, orcpt;
    size_t mailbox_len, orcpt_len;

    if (!text_take(&rest, ENVELOPE_RECIPIENT_BYTES, &lengths))
        return false;
    mailbox_len = number16_read(lengths.data);
    orcpt_len = number16_read(lengths.data + 2);
    if (mailbox_len == 0 || mailbox_len > MAILBOX_BYTES_MAX || orcpt_len > ORCPT_BYTES_MAX ||
        (lengths.data[4] & ~NOTIFY_BITS) != 0)
        return false;
    if (!text_take(&rest, mailbox_len, &mailbox) || !text_take(&rest, orcpt_len, &orcpt))
        return false;
    *recipient = (struct record_recipient){ .mailbox = mailbox,
                                            .orcpt = orcpt,
                                            .notify = (uint8_t)lengths.data[4] };
    envelope->rest = rest;
    return true;
}
