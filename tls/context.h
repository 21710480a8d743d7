/* context: what many TLS connections share: certificates and keys, trusted roots, ticket keys,
 * versions and ciphers.
 * Does:    server contexts choose the certificate by SNI (RFC 6066 3) and by what the client can
 *          verify; client contexts hold the policy of verification (RFC 9525: subjectAltName only).
 * Owns:    library objects; counted references. Paths and options are borrowed for the call.
 * Memory:  allocated at create; released with the last reference.
 * Threads: create in one thread; acquire, release and use in any. Not changed after create: a
 *          reload makes a new context and swaps the caller's pointer; connections keep the old one
 *          alive. (Tickets of the old one end with it.)
 * Errors:  create returns NULL and a text for the user. Files are read in create only, by the
 *          library.
 */
#ifndef RINGPOST_TLS_CONTEXT_H
#define RINGPOST_TLS_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/assert.h"

#define TLS_CERTIFICATES_MAX 256

struct tls_context;

/* PEM files: the chain, leaf first; the key, not encrypted (it may be in the same file). */
struct tls_certificate_files {
    const char *certificate;
    const char *key;
};

enum tls_version_min { TLS_VERSION_MIN_1_2, TLS_VERSION_MIN_1_3 };

struct tls_server_options {
    enum tls_version_min version_min;
    bool no_tickets; /* each handshake is a full one */
};

enum tls_verification {
    TLS_VERIFICATION_NONE,    /* nothing is looked at (RFC 7435: opportunistic) */
    TLS_VERIFICATION_RECORD,  /* chain and name are checked for the log, the handshake goes on */
    TLS_VERIFICATION_REQUIRE, /* the handshake fails unless both are good */
};

struct tls_client_options {
    enum tls_verification verification;
    const char *ca_file; /* PEM; NULL: TLS_SYSTEM_CA_FILE. Not read with verification NONE */
    enum tls_version_min version_min;
};

#define TLS_SYSTEM_CA_FILE "/etc/ssl/certs/ca-certificates.crt"

/* NULL returned: what is wrong ("key.pem does not match cert.pem"). A context returned: empty, or a
 * warning ("cert.pem has expired"; several are joined by "; "). Always terminated, one line. */
struct tls_error {
    char text[512];
};

/* The first certificate is the default: no SNI, or a name that none has. Several for one name are
 * fine (RSA and ECDSA: the client's abilities decide, ECDSA first). NULL options: all defaults. */
MUST_USE struct tls_context *
tls_server_context_create(const struct tls_certificate_files *files, size_t count,
                          const struct tls_server_options *options, struct tls_error *error);
MUST_USE struct tls_context *tls_client_context_create(const struct tls_client_options *options,
                                                       struct tls_error *error);

struct tls_context *tls_context_acquire(struct tls_context *context); /* returns its argument */
void tls_context_release(struct tls_context *context);                /* NULL is fine */

/* Server: when the first of its certificates ends, in seconds since 1970. For the statistics. */
int64_t tls_context_expiry_seconds(const struct tls_context *context);
/* The same for one of them, in the order of tls_server_context_create(). */
int64_t tls_context_certificate_expiry_seconds(const struct tls_context *context, size_t index);

#endif
