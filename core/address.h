/* address: reads reverse-paths, forward-paths and the parameters of MAIL and RCPT.
 * Does:    RFC 5321 4.1.2 (paths; source routes are read and dropped, 4.1.1.3), 4.1.3 (literals),
 *          RFC 6531 (UTF-8 in both parts), RFC 1870 SIZE, RFC 6152 BODY, RFC 4954 AUTH,
 *          RFC 3461 RET ENVID NOTIFY ORCPT. Paths are in address.c, parameters in parameters.c.
 * Owns:    nothing: all spans point into the line that was parsed.
 * Memory:  none allocated.
 * Errors:  enum address_result and enum parameter_result; each has one reply in receiver.c.
 *          On an error *out is empty, whatever was read before it.
 */
#ifndef RINGPOST_CORE_ADDRESS_H
#define RINGPOST_CORE_ADDRESS_H

#include "core/limits.h"
#include "core/span.h"
#include "core/utf8.h"

enum address_result {
    ADDRESS_OK,
    ADDRESS_SYNTAX,          /* not a path: 501 5.1.7 (MAIL), 5.1.3 (RCPT) */
    ADDRESS_LOCAL_TOO_LONG,  /* more than 64 octets */
    ADDRESS_DOMAIN_TOO_LONG, /* more than 255 octets */
    ADDRESS_NO_DOMAIN,       /* <local> without a domain that is not postmaster */
    ADDRESS_UTF8_INVALID,    /* bytes above 127 that are not UTF-8 (RFC 3629) */
};

struct path {
    struct span mailbox; /* local@domain as it was given, without source route; empty for <>;
                          * "postmaster" alone is kept */
    struct span local;   /* as given, with its quotes if quoted */
    struct span domain;  /* as given; "[...]" for a literal; empty for <> and <postmaster> */
    bool null;           /* <> */
    bool quoted;         /* the local part is a quoted-string */
    bool literal;        /* the domain is an address literal: IPv4 and IPv6 were checked,
                          * of others (4.1.3 General-address-literal) the syntax only */
    bool utf8;           /* a byte above 127 somewhere: needs SMTPUTF8 */
    bool source_route;   /* one was there, and was dropped */
    bool local_special;  /* an unquoted '%' or '!', or a quoted '@', '%' or '!': second addresses
                          * inside the local part */
};

/* Reads a path with its brackets at the start of `in`. null_allowed: <> is legal (MAIL).
 * *consumed: bytes with brackets. Domains: letters, digits, hyphens (not at a label's ends),
 * underscores (real mail has them), labels up to 63, no empty label; one dot at the very end is
 * refused. A label with bytes above 127 has no limit of its own: 63 holds for its A-label. No
 * copy: quoting is left as it is. */
MUST_USE enum address_result path_parse(struct span in, bool null_allowed, struct path *out,
                                        size_t *consumed);

/* The domain or address literal that EHLO and HELO carry. Real clients send underscores, trailing
 * dots and bare words: those pass. False: empty, longer than 255, or a byte that is no printable
 * ASCII (or UTF-8), or a space, or one of < > ( ) \ " , ; @ */
MUST_USE bool helo_name_valid(struct span name);

enum parameter_result {
    PARAMETER_OK,
    PARAMETER_SYNTAX,    /* 501 5.5.4 */
    PARAMETER_UNKNOWN,   /* 555 5.5.4 (RFC 5321 4.1.1.11) */
    PARAMETER_VALUE,     /* a known parameter with a value that is not legal: 501 5.5.4 */
    PARAMETER_DUPLICATE, /* 501 5.5.4 (RFC 3461 4.1: once each) */
    PARAMETER_BINARY,    /* BODY=BINARYMIME, which is not offered: 501 5.5.4 would lie; 555 5.6.1 */
    PARAMETER_TOO_BIG,   /* SIZE= is no number that fits 63 bits: 552 5.3.4 */
};

enum body_type { BODY_TYPE_NONE, BODY_TYPE_7BIT, BODY_TYPE_8BITMIME };
enum dsn_return { DSN_RETURN_NONE, DSN_RETURN_FULL, DSN_RETURN_HEADERS };
/* Bits. */
enum dsn_notify {
    DSN_NOTIFY_NONE = 0, /* the parameter was not given */
    DSN_NOTIFY_NEVER = 1,
    DSN_NOTIFY_SUCCESS = 2,
    DSN_NOTIFY_FAILURE = 4,
    DSN_NOTIFY_DELAY = 8,
};

struct mail_parameters {
    uint64_t size; /* octets, as declared; 0: not given or SIZE=0 (RFC 1870: no claim) */
    enum body_type body;
    enum dsn_return dsn_return;
    bool smtputf8;
    struct span envid; /* xtext as given; empty: none */
    struct span auth;  /* the value of AUTH= as given (RFC 4954 5: read, checked, not trusted, not
                        * passed on) */
};

struct rcpt_parameters {
    uint8_t notify;    /* enum dsn_notify bits */
    bool utf8;         /* orcpt has bytes above 127 (addr-type utf-8 only, RFC 6533 3): needs
                        * SMTPUTF8 */
    struct span orcpt; /* addr-type;xtext as given; empty: none */
};

/* Reads " KEY=VALUE KEY ..." up to the end of `in`: what stands after the path, with its space
 * (anything but a space at the start is PARAMETER_SYNTAX). More spaces than one are passed over,
 * trailing ones too. Keywords ignore case. smtputf8_offered etc. are not asked here: a keyword is
 * known or not. */
MUST_USE enum parameter_result mail_parameters_parse(struct span in, struct mail_parameters *out);
MUST_USE enum parameter_result rcpt_parameters_parse(struct span in, struct rcpt_parameters *out);

/* RFC 3461 4: xtext. True when `s` is legal xtext (empty is); *decoded_len (may be NULL) is its
 * length decoded, set when true. */
MUST_USE bool xtext_valid(struct span s, size_t *decoded_len);

#endif
