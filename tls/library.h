/* library: what the files of tls/ share: BoringSSL's headers and the inside of a context.
 * Does:    keeps the library behind tls/: nothing outside tls/ includes this file.
 * Owns:    see the structs; a context owns all it points to.
 * Threads: a context is not changed after it was created, but for its reference count.
 */
#ifndef RINGPOST_TLS_LIBRARY_H
#define RINGPOST_TLS_LIBRARY_H

#include <openssl/ssl.h>

#if !defined(OPENSSL_IS_BORINGSSL) || BORINGSSL_API_VERSION < 17
#error "ringpost needs BoringSSL, BORINGSSL_API_VERSION >= 17 (android-libboringssl-dev)"
#endif

#include <openssl/bio.h>
#include <openssl/bytestring.h>
#include <openssl/cipher.h>
#include <openssl/ec.h>
#include <openssl/ec_key.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/mem.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <stdatomic.h>

#include "tls/tls.h"

struct tls_certificate {
    SSL_CTX *library; /* chain and key are in it */
    bool ecdsa;
    uint16_t signature; /* ECDSA: the one TLS 1.3 signature scheme of its curve */
    uint16_t group;     /* ECDSA: its curve as a TLS named group */
    int64_t expiry_seconds;
};

/* One DNS name of one certificate. Sorted by (wildcard, name, certificate). */
struct tls_certificate_name {
    char *name; /* lower case; without the "*." of a wildcard */
    bool wildcard;
    uint16_t certificate;
};

struct tls_certificate_set {
    struct tls_certificate *certificates;
    size_t count;
    struct tls_certificate_name *names;
    size_t names_count;
};

struct tls_context {
    atomic_uint references;
    bool server;
    enum tls_verification verification;
    SSL_CTX *library; /* each connection begins with it: versions, ciphers, ticket keys */
    BIO_METHOD *pump;
    struct tls_certificate_set certificates;
};

/* --- context.c --- */
/* Versions, groups, ciphers and limits that server and client contexts have in common. */
MUST_USE SSL_CTX *tls_library_context_create(enum tls_version_min version_min);
/* Adds "subject: text" of a failed library call, from the error queue, and empties that. */
void tls_library_error(struct tls_error *error, const char *subject, const char *fallback);
/* Adds one message to error; several are joined by "; ". */
void tls_error_add(struct tls_error *error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* --- certificates.c --- */
MUST_USE bool tls_certificates_load(struct tls_certificate_set *set,
                                    const struct tls_certificate_files *files, size_t count,
                                    enum tls_version_min version_min, struct tls_error *error);
void tls_certificates_free(struct tls_certificate_set *set);
/* Which of the set this client should see. */
size_t tls_certificates_choose(const struct tls_certificate_set *set, const SSL_CLIENT_HELLO *hello,
                               const char *server_name);
/* True for what can be a DNS name: letters, digits, '-', '_' and inner dots, up to 253 octets. */
bool tls_dns_name_valid(const char *name);

/* --- tls.c --- */
BIO_METHOD *tls_pump_create(void);
/* The connection behind a library object: its BIO carries it. */
struct tls *tls_of(const SSL *library);
struct tls_context *tls_context_of(const struct tls *tls);
void tls_note_alert(const SSL *library, int type, int value); /* SSL_CTX_set_info_callback */
int tls_keep_session(SSL *library, SSL_SESSION *session);     /* SSL_CTX_sess_set_new_cb */
int tls_verify_step(int good, X509_STORE_CTX *store);         /* SSL_CTX_set_verify */

/* --- verify.c --- */
enum tls_name_result { TLS_NAME_OK, TLS_NAME_INVALID, TLS_NAME_NO_MEMORY };
/* Sets SNI and the name to verify. The name's final dot is gone already. */
MUST_USE enum tls_name_result tls_set_name(SSL *library, const char *name);
/* One line about why verification failed; name may be NULL. */
void tls_verify_describe(char *text, size_t text_size, X509_STORE_CTX *store, const char *name);

#endif
