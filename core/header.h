/* header: what a relay reads of a message's header section, and the one field that it adds.
 * Does:    counts Received: fields for loop detection (RFC 5321 6.3); writes our Received: field
 *          (RFC 5321 4.4, RFC 3848, RFC 6531 4.3), and dates.
 * Owns:    a few bytes of state; the input is borrowed for the call.
 * Memory:  none allocated; the last written date is kept per thread.
 */
#ifndef RINGPOST_CORE_HEADER_H
#define RINGPOST_CORE_HEADER_H

#include <time.h>

#include "core/limits.h"
#include "core/span.h"

struct header_scanner {
    uint32_t received; /* Received: fields so far */
    bool ended;        /* the empty line, or a line that cannot be a field's, was seen */
    bool eight_bit;    /* an octet above 127 in a field: the message needs SMTPUTF8 (RFC 6532) */
    bool any_field;    /* internal: a field came before, so a line may continue it */
    uint8_t state;     /* internal: where in the line */
    uint8_t matched;   /* internal: octets of "Received" that the field name equals so far */
};

void header_scanner_start(struct header_scanner *scanner);

/* Looks at the next octets of the message (wire form, from its first octet on), up to the end of
 * the header section; costs next to nothing once that has ended. Any split of the same octets gives
 * the same state. Lines end with CRLF only; a dot, stuffed or not, is an octet of the name.
 * seven_bit: the caller knows that none of the octets is above 127, and they are not asked. */
void header_scan(struct header_scanner *scanner, struct span in, bool seven_bit);

struct trace {
    struct span helo;        /* what the client said; empty: none */
    struct span client;      /* its address as text, without brackets: "192.0.2.1", "2001:db8::1";
                              * empty: it has none (a Unix socket) */
    struct span by;          /* our host name */
    struct span queue_id;    /* letters, digits and hyphens; becomes "id"; empty: left out */
    struct span recipient;   /* mailbox; becomes "for <...>". Give it when there is exactly one
                              * (RFC 5321 7.2: more would disclose blind copies), else empty */
    struct span tls_version; /* "TLSv1.3"; empty: no TLS */
    struct span tls_cipher;  /* "TLS_AES_128_GCM_SHA256" */
    bool esmtp;              /* EHLO was used */
    bool authenticated;      /* RFC 3848 'A' */
    bool smtputf8;           /* the message came with SMTPUTF8 (RFC 6531 4.3) */
    time_t when;             /* seconds; written as RFC 5322 date-time in UTC ("+0000") */
};

/* Writes "Received: from ... by ... with ... id ... for ...; date" with its CRLFs, folded so that
 * lines are at most 78 octets where words allow. `out` needs TRACE_FIELD_BYTES_MAX of room.
 *
 * Nothing that a client said is written unless it is legal there, since it would else let clients
 * write header fields: helo only if it is a domain or address literal of RFC 5321 4.1.2 (else the
 * address literal stands in its place), recipient only if it is a mailbox of printable octets with
 * a domain, and above 127 only with smtputf8. It is left out, too, where it does not fit. */
void trace_write(const struct trace *trace, struct outbuf *out);

/* RFC 5322 3.3 date-time in UTC: "Sat, 14 Mar 2026 09:26:53 +0000". A time that no year of four
 * digits can say is held within 1970 and 9999. `out` needs DATE_TIME_BYTES of room. */
#define DATE_TIME_BYTES 31
void date_time_write(time_t when, struct outbuf *out);

#endif
