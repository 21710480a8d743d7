/* bounce: the reports that senders get: not delivered, delayed, delivered or relayed.
 * Does:    writes one RFC 3464 message (multipart/report, RFC 6522; RFC 6533 for UTF-8 addresses)
 *          about some recipients of a message; says who gets told what (RFC 3461 4, 5.2, 6).
 * Owns:    nothing.
 * Memory:  none allocated; buffers of the caller's for the text.
 * Errors:  no buffer left is a result. Octets of peers and disks cannot break the report: what is
 *          not legal where it would stand is replaced, escaped or left out.
 */
#ifndef RINGPOST_RELAY_BOUNCE_H
#define RINGPOST_RELAY_BOUNCE_H

#include "core/address.h"
#include "core/buffers.h"
#include "core/reply.h"

/* RFC 3464 2.3.3. */
enum bounce_action {
    BOUNCE_FAILED,
    BOUNCE_DELAYED,
    BOUNCE_DELIVERED, /* in the recipient's mailbox: what a relay hardly ever knows */
    BOUNCE_RELAYED,   /* NOTIFY=SUCCESS, and a next hop without DSN took it (RFC 3461 5.2.2) */
    BOUNCE_ACTIONS
};

struct bounce_recipient {
    struct span mailbox, orcpt; /* orcpt as given: addr-type;xtext */
    uint8_t notify;             /* enum dsn_notify bits */
    enum bounce_action action;
    const struct reply *reply; /* what the next hop said, or ours; code 0: our own diagnosis */
    struct span server;        /* who said it: becomes Remote-MTA; empty: nobody */
    uint64_t attempt_s;        /* the last attempt, Unix time: Last-Attempt-Date; 0: not known, and
                                * then the field may not be there (RFC 3464 2.3.7) */
};

/* Whether a sender is to be told of this (RFC 3461 4.1, 5.2; RFC 5321 4.5.5): never with a null
 * reverse-path, never with NOTIFY=NEVER. Without NOTIFY: failures (4.1), and delays too, which are
 * ours to decide: whether and when there are delay notices at all is the caller's. Successes only
 * when asked for. */
MUST_USE bool bounce_wanted(struct span reverse_path, uint8_t notify, enum bounce_action action);

struct bounce {
    struct span hostname;    /* ours: Reporting-MTA and the From: */
    struct span id;          /* of the report itself: Message-ID, boundary; 1 to BOUNCE_ID_BYTES_MAX
                              * letters, digits and hyphens */
    struct span original_id; /* empty: not told */
    struct span reverse_path; /* who gets it; not empty */
    struct span envid;        /* xtext as given; empty: none */
    enum dsn_return dsn_return;
    bool smtputf8;
    uint64_t arrival_s, now_s; /* Unix time */
    uint64_t expires_s;        /* for delays: will be tried until; 0: not told */
    const struct bounce_recipient *recipients;
    uint32_t count;            /* not 0 */
    struct span origin_client; /* address text of who gave us the message, for the text */
};
#define BOUNCE_ID_BYTES_MAX 48

/* Octets of an original that are returned with RET=FULL; larger ones: headers only. */
#define BOUNCE_FULL_BYTES_MAX (64u * 1024u)
/* Octets of an original's header section that are returned; cut at a line's end behind that. */
#define BOUNCE_HEADER_BYTES_MAX (32u * 1024u)

/* Appends the whole message, wire form of DATA with its terminator, to `out`. original: the body of
 * the original as it is stored (chunked: octets; else wire form), may be empty when it cannot be
 * read; original_complete: all of it is there. False: no buffer left; `out` as before, and the
 * results are not set. (One that never fits: give fewer recipients at a time.)
 *
 * The third part is the whole original only where RET=FULL asked for it and a recipient failed (RFC
 * 3461 4.3), and it can stand there as it is: complete, not above BOUNCE_FULL_BYTES_MAX, lines of
 * at most 998 octets that end in CRLF, no NUL. Else it is the header section, without RET as well:
 * senders know what they wrote, and a forged sender does not get a stranger's text from us. There
 * is no third part when there is no header section.
 *
 * The status is the reply's enhanced code, or else X.0.0; its class is one that the action may have
 * (5 or 4 for failures, 4 for delays, 2 for the others).
 *
 * eight_bit: whether the report has octets above 127 (only with the whole original, or with
 * smtputf8); those of the report's own header, which call for SMTPUTF8, are in To: alone, so
 * reverse_path tells. *size: octets of the message (RFC 1870). */
MUST_USE bool bounce_write(const struct bounce *bounce, struct buffers *buffers,
                           const struct chain *original, bool original_complete, bool chunked,
                           struct chain *out, bool *eight_bit, uint64_t *size);

#endif
