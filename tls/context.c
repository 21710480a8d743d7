/* Contexts: the settings that make every connection of ringpost alike, and the counted life of what
 * they share. */
#include <stdarg.h>
#include <stdio.h>

#include "core/clauses.h"
#include "tls/library.h"

/* The largest message of a peer's handshake, a certificate chain; the library allows 100 KiB. */
#define PEER_CHAIN_BYTES_MAX (32 * 1024)

/* For TLS 1.2, best first (the order of TLS 1.3 suites is the library's). Those after the AEADs are
 * for old mail servers: the other choice of a peer is often no encryption at all (RFC 7435 3). */
#define CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:RSA+AESGCM:RSA+AES"
/* Where the certificate is required, the peer is known and can be modern too (RFC 9325 4). */
#define CIPHERS_STRICT "ECDHE+AESGCM:ECDHE+CHACHA20"
#define TICKET_SECONDS (2 * 60 * 60)
/* The library sends two behind each TLS 1.3 handshake, for clients that open connections by the
 * dozen. A mail client goes on with one, and each connection brings the next. */
#define TICKETS_AT_ONCE 1
#define GROUPS "X25519:P-256:P-384"
/* What the library signs and believes by itself, but SHA-1 (RFC 9155 3-5). */
static const uint16_t SIGNATURES[] = {
    SSL_SIGN_ED25519,
    SSL_SIGN_ECDSA_SECP256R1_SHA256,
    SSL_SIGN_RSA_PSS_RSAE_SHA256,
    SSL_SIGN_RSA_PKCS1_SHA256,
    SSL_SIGN_ECDSA_SECP384R1_SHA384,
    SSL_SIGN_RSA_PSS_RSAE_SHA384,
    SSL_SIGN_RSA_PKCS1_SHA384,
    SSL_SIGN_ECDSA_SECP521R1_SHA512,
    SSL_SIGN_RSA_PSS_RSAE_SHA512,
    SSL_SIGN_RSA_PKCS1_SHA512,
};
#define SIGNATURE_COUNT (sizeof(SIGNATURES) / sizeof(SIGNATURES[0]))

void
tls_error_add(struct tls_error *error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    clauses_add(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
}

/* The library shouts ("BAD_BASE64_DECODE"), errno begins a sentence ("No such file"). */
static void
reason_write(char *text, size_t text_size, uint32_t error)
{
    const char *reason = ERR_reason_error_string(error);
    bool system = ERR_GET_LIB(error) == ERR_LIB_SYS;
    size_t i = 0;

    if (!reason)
        reason = "unknown error";
    for (; reason[i] != '\0' && i + 1 < text_size; i++) {
        text[i] = system && i > 0 ? reason[i] : char_lower(reason[i]);
        if (text[i] == '_')
            text[i] = ' ';
    }
    text[i] = '\0';
}

static bool
error_is(uint32_t error, int library, int reason)
{
    return ERR_GET_LIB(error) == library && ERR_GET_REASON(error) == reason;
}

void
tls_library_error(struct tls_error *error, const char *subject, const char *fallback)
{
    uint32_t first = ERR_get_error();
    char text[128];

    if (first == 0 || error_is(first, ERR_LIB_PEM, PEM_R_NO_START_LINE) ||
        error_is(first, ERR_LIB_X509, X509_R_NO_CERTIFICATE_OR_CRL_FOUND))
        snprintf(text, sizeof(text), "%s", fallback);
    else if (error_is(first, ERR_LIB_PEM, PEM_R_BAD_PASSWORD_READ))
        snprintf(text, sizeof(text), "is encrypted; a key without a passphrase is needed");
    else
        reason_write(text, sizeof(text), first);
    tls_error_add(error, "%s: %s", subject, text);
    ERR_clear_error();
}

SSL_CTX *
tls_library_context_create(enum tls_version_min version_min)
{
    SSL_CTX *library = SSL_CTX_new(TLS_method());
    uint16_t lowest = version_min == TLS_VERSION_MIN_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;

    if (!library)
        return NULL;
    if (!SSL_CTX_set_min_proto_version(library, lowest) ||
        !SSL_CTX_set_max_proto_version(library, TLS1_3_VERSION) ||
        !SSL_CTX_set_strict_cipher_list(library, CIPHERS) ||
        !SSL_CTX_set1_curves_list(library, GROUPS) ||
        !SSL_CTX_set_signing_algorithm_prefs(library, SIGNATURES, SIGNATURE_COUNT)) {
        ERR_clear_error();
        SSL_CTX_free(library);
        return NULL;
    }
    /* Old peers put their old suites first. */
    SSL_CTX_set_options(library, SSL_OP_CIPHER_SERVER_PREFERENCE);
    /* Tickets carry the sessions: no memory here, no lock between workers. */
    SSL_CTX_set_session_cache_mode(library, SSL_SESS_CACHE_OFF);
    /* With TLS 1.3 they would be good for two days, with 1.2 they are for two hours. */
    SSL_CTX_set_timeout(library, TICKET_SECONDS);
    SSL_CTX_set_session_psk_dhe_timeout(library, TICKET_SECONDS);
    SSL_CTX_set_max_cert_list(library, PEER_CHAIN_BYTES_MAX);
    SSL_CTX_set_info_callback(library, tls_note_alert);
    return library;
}

static struct tls_context *
context_create(enum tls_version_min version_min)
{
    struct tls_context *context = OPENSSL_malloc(sizeof(*context));

    if (!context)
        return NULL;
    memset(context, 0, sizeof(*context));
    atomic_init(&context->references, 1);
    context->library = tls_library_context_create(version_min);
    context->pump = tls_pump_create();
    if (!context->library || !context->pump) {
        tls_context_release(context);
        return NULL;
    }
    return context;
}

/* RFC 6066 3: a session of one name must not be resumed under another. */
static bool
bind_session_to_name(SSL *library, const char *name)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char lower[256];
    size_t length = name ? strlen(name) : 0;

    if (length > sizeof(lower))
        length = sizeof(lower);
    for (size_t i = 0; i < length; i++)
        lower[i] = char_lower(name[i]);
    SHA256((const uint8_t *)lower, length, digest);
    return SSL_set_session_id_context(library, digest, sizeof(digest));
}

static enum ssl_select_cert_result_t
select_certificate(const SSL_CLIENT_HELLO *hello)
{
    struct tls_context *context = tls_context_of(tls_of(hello->ssl));
    const char *name = SSL_get_servername(hello->ssl, TLSEXT_NAMETYPE_host_name);
    size_t chosen = tls_certificates_choose(&context->certificates, hello, name);

    if (!bind_session_to_name(hello->ssl, name) ||
        !SSL_set_SSL_CTX(hello->ssl, context->certificates.certificates[chosen].library))
        return ssl_select_cert_error;
    return ssl_select_cert_success;
}

struct tls_context *
tls_server_context_create(const struct tls_certificate_files *files, size_t count,
                          const struct tls_server_options *options, struct tls_error *error)
{
    enum tls_version_min version_min = options ? options->version_min : TLS_VERSION_MIN_1_2;
    struct tls_context *context;

    error->text[0] = '\0';
    if (count == 0 || count > TLS_CERTIFICATES_MAX) {
        tls_error_add(error, "%zu certificates: at least one and at most %d", count,
                      TLS_CERTIFICATES_MAX);
        return NULL;
    }
    context = context_create(version_min);
    if (!context) {
        tls_error_add(error, "out of memory");
        return NULL;
    }
    context->server = true;
    if (!SSL_CTX_set_num_tickets(context->library, TICKETS_AT_ONCE)) {
        tls_error_add(error, "tickets cannot be set");
        tls_context_release(context);
        return NULL;
    }
    if (options && options->no_tickets)
        SSL_CTX_set_options(context->library, SSL_OP_NO_TICKET);
    SSL_CTX_set_select_certificate_cb(context->library, select_certificate);
    if (!tls_certificates_load(&context->certificates, files, count, version_min, error)) {
        tls_context_release(context);
        return NULL;
    }
    return context;
}

static enum ssl_verify_result_t
verify_nothing(SSL *library, uint8_t *alert)
{
    (void)library;
    (void)alert;
    return ssl_verify_ok;
}

static bool
client_configure(struct tls_context *context, const char *ca_file, struct tls_error *error)
{
    SSL_CTX *library = context->library;

    SSL_CTX_set_session_cache_mode(library,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(library, tls_keep_session);
    if (context->verification == TLS_VERIFICATION_NONE) {
        /* Without this the library would build chains only to forget the result. */
        SSL_CTX_set_custom_verify(library, SSL_VERIFY_NONE, verify_nothing);
        return true;
    }
    SSL_CTX_set_verify(library, SSL_VERIFY_PEER, tls_verify_step);
    if (context->verification == TLS_VERIFICATION_REQUIRE &&
        (!SSL_CTX_set_strict_cipher_list(library, CIPHERS_STRICT) ||
         !SSL_CTX_set_verify_algorithm_prefs(library, SIGNATURES, SIGNATURE_COUNT))) {
        tls_library_error(error, "ciphers", "cannot be set");
        return false;
    }
    if (!SSL_CTX_load_verify_locations(library, ca_file, NULL)) {
        tls_library_error(error, ca_file, "holds no certificate in PEM form");
        return false;
    }
    /* Whatever stands in that file is trusted, also a next hop's own certificate. */
    return X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(library), X509_V_FLAG_PARTIAL_CHAIN);
}

struct tls_context *
tls_client_context_create(const struct tls_client_options *options, struct tls_error *error)
{
    static const struct tls_client_options defaults = { .verification = TLS_VERIFICATION_NONE };
    struct tls_context *context;

    error->text[0] = '\0';
    if (!options)
        options = &defaults;
    context = context_create(options->version_min);
    if (!context) {
        tls_error_add(error, "out of memory");
        return NULL;
    }
    context->verification = options->verification;
    if (!client_configure(context, options->ca_file ? options->ca_file : TLS_SYSTEM_CA_FILE,
                          error)) {
        tls_context_release(context);
        return NULL;
    }
    return context;
}

struct tls_context *
tls_context_acquire(struct tls_context *context)
{
    unsigned before = atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);

    ASSERT(before > 0);
    return context;
}

void
tls_context_release(struct tls_context *context)
{
    unsigned before;

    if (!context)
        return;
    before = atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before > 1)
        return;
    tls_certificates_free(&context->certificates);
    SSL_CTX_free(context->library);
    BIO_meth_free(context->pump);
    OPENSSL_free(context);
}

int64_t
tls_context_expiry_seconds(const struct tls_context *context)
{
    int64_t first = INT64_MAX;

    ASSERT(context->server);
    for (size_t i = 0; i < context->certificates.count; i++)
        if (context->certificates.certificates[i].expiry_seconds < first)
            first = context->certificates.certificates[i].expiry_seconds;
    return first;
}

int64_t
tls_context_certificate_expiry_seconds(const struct tls_context *context, size_t index)
{
    ASSERT(context->server);
    ASSERT(index < context->certificates.count);
    return context->certificates.certificates[index].expiry_seconds;
}
