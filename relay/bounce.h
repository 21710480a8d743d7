/* bounce: the reports that senders get: not delivered, delayed, delivered or relayed.
 * Does:    writes one RFC 3464 message (multipart/report, RFC 6522; RFC 6533 for UTF-8 addresses)
 *          about some recipients of a message; says who gets told what (RFC 3461 4, 5.2, 6).
 * Owns:    nothing.
 * Memory:  none allocated; buffers of the caller's for the text.
 * Errors:  no buffer left is a result.
 */
#ifndef RINGPOST_RELAY_BOUNCE_H
#define RINGPOST_RELAY_BOUNCE_H

#include "core/address.h"
#include "core/buffers.h"
#include "core/reply.h"

enum bounce_action { /* RFC 3464 2.3.3 */
                     BOUNCE_FAILED,
                     BOUNCE_DELAYED,
                     BOUNCE_DELIVERED, /* a next hop that has no DSN took it for NOTIFY=SUCCESS:
                                          "relayed" is told */
                     BOUNCE_RELAYED,
};

struct bounce_recipient {
    struct span mailbox, orcpt; /* orcpt as given: addr-type;xtext */
    uint8_t notify;             /* enum dsn_notify bits */
    enum bounce_action action;
    const struct reply *reply; /* what the next hop said, or ours; code 0: our own diagnosis */
    struct span server;        /* who said it: becomes Remote-MTA; empty: nobody */
};

/* Whether a sender is to be told of this (RFC 3461 4.1, 5.2; RFC 5321 4.5.5): never with a null
 * reverse-path. */
bool bounce_wanted(struct span reverse_path, uint8_t notify, enum bounce_action action);

struct bounce {
    struct span hostname; /* ours: Reporting-MTA and the From: */
    struct span id;       /* of the report itself: Message-ID, boundary */
    struct span original_id;
    struct span reverse_path; /* who gets it; not empty */
    struct span envid;        /* xtext as given; empty: none */
    enum dsn_return dsn_return;
    bool smtputf8;
    uint64_t arrival_s, now_s; /* Unix time */
    uint64_t expires_s;        /* for delays: will be tried until */
    const struct bounce_recipient *recipients;
    uint32_t count;
    struct span origin_client; /* address text of who gave us the message, for the text */
};

/* Octets of an original that are returned with RET=FULL; larger ones: headers only. */
#define BOUNCE_FULL_BYTES_MAX (64u * 1024u)
/* Octets of an original's header section that are returned; cut at a line's end behind that. */
#define BOUNCE_HEADER_BYTES_MAX (32u * 1024u)

/* Appends the whole message, wire form of DATA with its terminator, to `out`. original: the body of
 * the original as it is stored (chunked: octets; else wire form), may be empty when it cannot be
 * read; original_complete: all of it is there. False: no buffer left; `out` as before.
 * eight_bit: whether the report has octets above 127; *size: octets of the message (RFC 1870). */
MUST_USE bool bounce_write(const struct bounce *bounce, struct buffers *buffers,
                           const struct chain *original, bool original_complete, bool chunked,
                           struct chain *out, bool *eight_bit, uint64_t *size);

#endif
