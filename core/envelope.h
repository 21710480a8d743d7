/* envelope: reverse-path, recipients and their parameters of one mail transaction.
 * Does:    keeps copies of what MAIL and RCPT said (RFC 5321 2.3.1, RFC 3461), packed into blocks.
 * Owns:    its blocks, from a pool that the caller gives; envelope_clear() returns them.
 * Memory:  none allocated; one block holds some 60 recipients of usual length.
 * Errors:  a pool that is empty is a result: false.
 */
#ifndef RINGPOST_CORE_ENVELOPE_H
#define RINGPOST_CORE_ENVELOPE_H

#include "core/address.h"
#include "core/pool.h"

enum recipient_state {
    RECIPIENT_ACCEPTED, /* answered 250 to the client */
    RECIPIENT_ASKED,    /* the client waits for the answer */
    RECIPIENT_REFUSED,  /* not part of the message */
    /* of a stored message: */
    RECIPIENT_ELSEWHERE, /* finished, or another next hop's: not part of this attempt */
    RECIPIENT_TAKEN,     /* RCPT was answered 2xx: shares the verdict on the message */
    RECIPIENT_DELIVERED, /* the outcome of the attempt, from here on */
    RECIPIENT_DEFERRED,
    RECIPIENT_FAILED,
};

struct recipient {
    uint16_t record_bytes; /* of this record, to find the next one */
    uint16_t mailbox_len, orcpt_len;
    uint8_t notify; /* enum dsn_notify bits */
    uint8_t state;  /* enum recipient_state */
    char bytes[];   /* mailbox, then ORCPT's value */
};

struct envelope_block;

struct envelope {
    struct pool *blocks;
    struct envelope_block *first, *last;
    struct span reverse_path; /* mailbox; empty: <> */
    struct span envid;
    uint64_t declared_size;
    enum body_type body;
    enum dsn_return dsn_return;
    bool smtputf8;                 /* the client gave SMTPUTF8 */
    bool utf8;                     /* an address holds octets above 127 */
    uint32_t recipients, accepted; /* records; of these RECIPIENT_ACCEPTED */
};

struct envelope_cursor {
    struct envelope_block *block;
    uint32_t offset;
};

/* Starts an envelope with what MAIL said. False: no block. */
MUST_USE bool envelope_start(struct envelope *envelope, struct pool *blocks,
                             const struct path *reverse_path,
                             const struct mail_parameters *parameters);
/* Adds a recipient; NULL: no block. The record stays where it is until envelope_clear(). */
MUST_USE struct recipient *envelope_add(struct envelope *envelope, const struct path *forward_path,
                                        const struct rcpt_parameters *parameters,
                                        enum recipient_state state);
void recipient_set(struct envelope *envelope, struct recipient *recipient,
                   enum recipient_state state);
/* Walks in order of arrival, refused ones included. */
struct envelope_cursor envelope_begin(const struct envelope *envelope);
struct recipient *envelope_next(struct envelope_cursor *cursor);
void envelope_clear(struct envelope *envelope);
/* Recipients that take part in the attempt: neither REFUSED nor ELSEWHERE. */
uint32_t envelope_count(const struct envelope *envelope);

static inline struct span
recipient_mailbox(const struct recipient *recipient)
{
    return span_of(recipient->bytes, recipient->mailbox_len);
}

static inline struct rcpt_parameters
recipient_parameters(const struct recipient *recipient)
{
    return (struct rcpt_parameters){ .notify = recipient->notify,
                                     .orcpt = span_of(recipient->bytes + recipient->mailbox_len,
                                                      recipient->orcpt_len) };
}

#endif
