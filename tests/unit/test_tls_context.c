/* Contexts: certificates by SNI and by the client's abilities, verification, sessions, reload. */
#include <criterion/criterion.h>

#include <pthread.h>

#include "core/span.h"
#include "tests/unit/tls_pair.h"
#include "tls/library.h"

static const struct pieces whole = { 0 };

/* The client's library object, for the certificate that it saw. */
static _Thread_local SSL *client_seen;

static void
see_client(const SSL *library, int type, int value)
{
    client_seen = (SSL *)library;
    tls_note_alert(library, type, value);
}

/* A context with certificates by their file names without ".pem" and ".key". */
static struct tls_context *
server_context(const char *const *names, size_t count)
{
    struct tls_certificate_files files[8];
    struct tls_error error;
    struct tls_context *context;
    char name[64];

    cr_assert_leq(count, 4); /* test_file() keeps eight paths */
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof(name), "%s.pem", names[i]);
        files[i].certificate = test_file(name);
        snprintf(name, sizeof(name), "%s.key", names[i]);
        files[i].key = test_file(name);
    }
    context = tls_server_context_create(files, count, NULL, &error);
    cr_assert(context, "%s", error.text);
    return context;
}

static struct tls_context *
server_context_of(const char *name)
{
    return server_context(&name, 1);
}

static struct tls_context *
client_context(enum tls_verification verification, const char *ca)
{
    const struct tls_client_options options = {
        .verification = verification,
        .ca_file = test_file(ca),
    };
    struct tls_error error;
    struct tls_context *context = tls_client_context_create(&options, &error);

    cr_assert(context, "%s", error.text);
    SSL_CTX_set_info_callback(context->library, see_client);
    return context;
}

static void
assert_text(struct span got, const char *want, const char *name)
{
    cr_assert(span_equal(got, span_text(want)), "%s: got \"%.*s\", want \"%s\"", name,
              (int)got.len, got.data, want);
}

/* --- creating --- */

/* What the files are, and the end of the text that the user gets; ok: a context, and a warning. */
static const struct {
    const char *name, *certificate, *key;
    bool ok;
    const char *want;
} creations[] = {
    { "good", "ecdsa.pem", "ecdsa.key", true, "" },
    { "RSA", "rsa.pem", "rsa.key", true, "" },
    { "P-384", "p384.pem", "p384.key", true, "" },
    { "no certificate", "missing.pem", "ecdsa.key", false,
      "missing.pem: no such file or directory" },
    { "no key", "ecdsa.pem", "missing.key", false, "missing.key: no such file or directory" },
    { "key of another", "ecdsa.pem", "other.key", false, "ecdsa.pem" },
    { "key of another type", "ecdsa.pem", "rsa.key", false, "ecdsa.pem" },
    { "swapped", "ecdsa.key", "ecdsa.pem", false,
      "ecdsa.key: holds no certificate in PEM form" },
    { "key file without a key", "ecdsa.pem", "ecdsa.pem", false,
      "ecdsa.pem: holds no private key in PEM form" },
    { "encrypted", "ecdsa.pem", "encrypted.key", false,
      "encrypted.key: is encrypted; a key without a passphrase is needed" },
    { "a directory", ".", "ecdsa.key", false, "holds no certificate in PEM form" },
    { "expired", "expired.pem", "expired.key", true, "expired.pem has expired" },
};

static bool
ends_with(const char *text, const char *end)
{
    size_t length = strlen(text);

    return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

Test(tls_context, server_create)
{
    for (size_t i = 0; i < sizeof(creations) / sizeof(creations[0]); i++) {
        const struct tls_certificate_files files = {
            .certificate = test_file(creations[i].certificate),
            .key = test_file(creations[i].key),
        };
        struct tls_error error;
        struct tls_context *context = tls_server_context_create(&files, 1, NULL, &error);

        cr_assert_eq(context != NULL, creations[i].ok, "%s: %s", creations[i].name, error.text);
        if (creations[i].want[0] == '\0')
            cr_assert_str_eq(error.text, "", "%s", creations[i].name);
        cr_assert(ends_with(error.text, creations[i].want), "%s: %s", creations[i].name,
                  error.text);
        if (context) /* 2054-01-01, or 2021-01-01 */
            cr_assert_eq(tls_context_expiry_seconds(context),
                         creations[i].want[0] == '\0' ? 2650838400 : 1609459200, "%s",
                         creations[i].name);
        cr_assert_eq(ERR_peek_error(), 0, "%s", creations[i].name);
        tls_context_release(context);
    }
}

Test(tls_context, create_other)
{
    static char long_path[2000];
    struct tls_certificate_files files[2] = {
        { test_file("expired.pem"), test_file("expired.key") },
        { test_file("ecdsa.pem"), test_file("other.key") },
    };
    struct tls_client_options options = { .verification = TLS_VERIFICATION_REQUIRE };
    struct tls_error error;
    char want[sizeof(error.text)];

    cr_assert_null(tls_server_context_create(files, 2, NULL, &error));
    snprintf(want, sizeof(want), "%s has expired; %s does not match %s", files[0].certificate,
             files[1].key, files[1].certificate);
    cr_assert_str_eq(error.text, want);
    cr_assert_null(tls_server_context_create(files, 0, NULL, &error));
    cr_assert_null(tls_server_context_create(files, TLS_CERTIFICATES_MAX + 1, NULL, &error));
    memset(long_path, 'x', sizeof(long_path) - 1);
    files[0] = (struct tls_certificate_files){ long_path, long_path };
    cr_assert_null(tls_server_context_create(files, 1, NULL, &error));
    cr_assert_eq(strlen(error.text), sizeof(error.text) - 1);

    options.ca_file = test_file("missing.pem");
    cr_assert_null(tls_client_context_create(&options, &error));
    cr_assert(ends_with(error.text, "missing.pem: no such file or directory"), "%s", error.text);
    options.ca_file = test_file("ecdsa.key");
    cr_assert_null(tls_client_context_create(&options, &error));
    cr_assert(ends_with(error.text, "ecdsa.key: holds no certificate in PEM form"), "%s",
              error.text);
    tls_context_release(NULL);
}

Test(tls_context, names)
{
    static const struct {
        const char *name;
        bool want;
    } rows[] = {
        { "mail.example.com", true },
        { "a", true },
        { "A_b-c.9", true },
        { "", false },
        { ".", false },
        { ".a", false },
        { "a.", false },
        { "a..b", false },
        { "a b", false },
        { "a\nb", false },
        { "*.example.com", false },
        { "\303\244.example.com", false },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b", true },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b", false },
    };
    char name[300];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_assert_eq(tls_dns_name_valid(rows[i].name), rows[i].want, "%s", rows[i].name);
    for (size_t i = 0; i < sizeof(name); i++)
        name[i] = i % 2 == 0 ? 'a' : '.';
    name[253] = '\0';
    cr_assert(tls_dns_name_valid(name));
    memcpy(name + 251, "aaa", 4);
    cr_assert(!tls_dns_name_valid(name));
}

/* --- the choice of a certificate --- */

/* What a client can do. */
enum ability { MODERN, ONLY_1_2, ONLY_1_2_RSA, NO_ECDSA_SIGNATURES, ONLY_P384_SIGNATURES };

static void
client_limit(struct tls_context *client, enum ability ability)
{
    static const uint16_t rsa[] = { SSL_SIGN_RSA_PSS_RSAE_SHA256, SSL_SIGN_RSA_PKCS1_SHA256 };
    static const uint16_t p384[] = { SSL_SIGN_ECDSA_SECP384R1_SHA384,
                                     SSL_SIGN_RSA_PSS_RSAE_SHA256 };
    SSL_CTX *library = client->library;

    if (ability == ONLY_1_2 || ability == ONLY_1_2_RSA)
        cr_assert(SSL_CTX_set_max_proto_version(library, TLS1_2_VERSION));
    if (ability == ONLY_1_2_RSA)
        cr_assert(SSL_CTX_set_strict_cipher_list(library, "ECDHE-RSA-AES128-GCM-SHA256"));
    if (ability == NO_ECDSA_SIGNATURES)
        cr_assert(SSL_CTX_set_verify_algorithm_prefs(library, rsa, 2));
    if (ability == ONLY_P384_SIGNATURES)
        cr_assert(SSL_CTX_set_verify_algorithm_prefs(library, p384, 2));
}

static void
assert_certificate(const char *file, const char *name)
{
    FILE *stream = fopen(test_file(file), "r");
    X509 *want, *got;

    cr_assert(stream, "%s", file);
    want = PEM_read_X509(stream, NULL, NULL, NULL);
    got = SSL_get_peer_certificate(client_seen);
    cr_assert(want && got, "%s", name);
    cr_assert_eq(X509_cmp(want, got), 0, "%s: not %s", name, file);
    X509_free(want);
    X509_free(got);
    fclose(stream);
}

Test(tls_context, certificate_by_name)
{
    static const char *const certificates[] = { "ecdsa", "rsa", "other", "p384" };
    static const struct {
        const char *name; /* SNI; NULL: none */
        enum ability ability;
        const char *want;
    } rows[] = {
        { NULL, MODERN, "ecdsa.pem" },
        { NULL, NO_ECDSA_SIGNATURES, "rsa.pem" },
        { NULL, ONLY_1_2_RSA, "rsa.pem" },
        { "mail.example.com", MODERN, "ecdsa.pem" },
        { "MAIL.example.COM", MODERN, "ecdsa.pem" },
        { "mail.example.com", ONLY_1_2, "ecdsa.pem" },
        { "mail.example.com", ONLY_1_2_RSA, "rsa.pem" },
        { "mail.example.com", NO_ECDSA_SIGNATURES, "rsa.pem" },
        { "mail.example.com", ONLY_P384_SIGNATURES, "rsa.pem" },
        { "mx.example.com", MODERN, "ecdsa.pem" },
        { "rsa-only.example.com", MODERN, "rsa.pem" },
        { "other.example.net", MODERN, "other.pem" },
        { "any.wild.example.com", MODERN, "ecdsa.pem" },
        { "deep.wild.example.com", MODERN, "other.pem" }, /* the exact name wins */
        { "two.labels.wild.example.com", MODERN, "ecdsa.pem" }, /* by default */
        { "wild.example.com", ONLY_1_2_RSA, "rsa.pem" },        /* by default */
        { "p384.example.org", MODERN, "p384.pem" },
        { "p384.example.org", ONLY_P384_SIGNATURES, "p384.pem" },
        { "nobody.example", MODERN, "ecdsa.pem" },
        { "nobody.example", NO_ECDSA_SIGNATURES, "rsa.pem" },
    };
    struct tls_context *server = server_context(certificates, 4);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tls_context *client = client_context(TLS_VERIFICATION_NONE, "authority.pem");
        struct pair pair;

        client_limit(client, rows[i].ability);
        pair = pair_create(client, server, rows[i].name, NULL);
        cr_assert(pair_handshake(&pair, whole), "%zu %s: %.*s", i, rows[i].name,
                  (int)tls_failure(pair.server).len, tls_failure(pair.server).data);
        assert_certificate(rows[i].want, rows[i].name ? rows[i].name : "(none)");
        assert_text(tls_server_name(pair.server), rows[i].name ? rows[i].name : "", "SNI");
        pair_free(&pair);
        tls_context_release(client);
    }
    tls_context_release(server);
}

/* --- verification --- */

static const struct {
    const char *name, *server, *ca, *server_name;
    bool good;         /* what a client that requires verification thinks */
    const char *error; /* and why not */
} verifications[] = {
    { "good", "ecdsa", "authority.pem", "mail.example.com", true, "" },
    { "RSA", "rsa", "authority.pem", "mail.example.com", true, "" },
    { "case, final dot", "ecdsa", "authority.pem", "MAIL.Example.com.", true, "" },
    { "wildcard", "ecdsa", "authority.pem", "a.wild.example.com", true, "" },
    { "wildcard, two labels", "ecdsa", "authority.pem", "a.b.wild.example.com", false,
      "name does not match a.b.wild.example.com" },
    { "wildcard, no label", "ecdsa", "authority.pem", "wild.example.com", false,
      "name does not match wild.example.com" },
    { "IPv4", "ecdsa", "authority.pem", "127.0.0.1", true, "" },
    { "IPv6", "ecdsa", "authority.pem", "::1", true, "" },
    { "IPv6, long form", "ecdsa", "authority.pem", "0:0:0:0:0:0:0:1", true, "" },
    { "other IPv4", "ecdsa", "authority.pem", "127.0.0.2", false,
      "name does not match 127.0.0.2" },
    { "other IPv6", "ecdsa", "authority.pem", "::2", false, "name does not match ::2" },
    { "other name", "ecdsa", "authority.pem", "mail.example.org", false,
      "name does not match mail.example.org" },
    { "common name alone", "bare", "authority.pem", "mail.example.com", false,
      "name does not match mail.example.com" },
    { "expired", "expired", "authority.pem", "mail.example.com", false,
      "certificate has expired" },
    { "unknown authority", "ecdsa", "stranger.pem", "mail.example.com", false,
      "unknown certificate authority, or an incomplete chain" },
    { "self-signed", "selfsigned", "authority.pem", "mail.example.com", false,
      "self-signed certificate" },
    { "self-signed, as a root", "ownroot", "authority.pem", "mail.example.com", false,
      "self-signed certificate" },
    { "with a root of its own", "chained", "authority.pem", "mail.example.com", false,
      "its root certificate is not trusted" },
    { "with a root of its own, trusted", "chained", "stranger.pem", "mail.example.com", true, "" },
    { "self-signed as a root, trusted", "ownroot", "ownroot.pem", "mail.example.com", true, "" },
    { "self-signed and trusted", "selfsigned", "selfsigned.pem", "mail.example.com", true, "" },
    { "trusted itself, without its root", "ecdsa", "ecdsa.pem", "mail.example.com", true, "" },
    { "trusted itself, other name", "selfsigned", "selfsigned.pem", "mx.example.com", false,
      "name does not match mx.example.com" },
};

Test(tls_context, verification_required)
{
    for (size_t i = 0; i < sizeof(verifications) / sizeof(verifications[0]); i++) {
        const char *name = verifications[i].name;
        struct tls_context *server = server_context_of(verifications[i].server);
        struct tls_context *client =
            client_context(TLS_VERIFICATION_REQUIRE, verifications[i].ca);
        struct pair pair = pair_create(client, server, verifications[i].server_name, NULL);
        bool good = pair_handshake(&pair, whole);
        struct span failure = tls_failure(pair.client);
        char want[200];

        cr_assert_eq(good, verifications[i].good, "%s: %.*s", name, (int)failure.len,
                     failure.data);
        cr_assert_eq(tls_verified(pair.client), good, "%s", name);
        assert_text(tls_verification_error(pair.client), verifications[i].error, name);
        snprintf(want, sizeof(want), "handshake: certificate: %s (alert sent: ",
                 verifications[i].error);
        cr_assert_eq(span_starts_ignore_case(failure, span_text(want)), !good, "%s: %.*s", name,
                     (int)failure.len, failure.data);
        cr_assert_eq(tls_failure(pair.server).len > 0, !good, "%s", name);
        pair_free(&pair);
        tls_context_release(client);
        tls_context_release(server);
    }
}

/* RFC 9155: nothing is signed with SHA-1, and where the certificate is required none of that is
 * believed. An old next hop's word is taken where the other choice is no encryption. */
Test(tls_context, no_signature_with_sha1)
{
    static const uint16_t sha1[] = { SSL_SIGN_RSA_PKCS1_SHA1 };
    static const struct {
        const char *name;
        enum tls_verification verification;
        bool client_old, server_old, good;
    } rows[] = {
        { "both new", TLS_VERIFICATION_REQUIRE, false, false, true },
        { "an old client", TLS_VERIFICATION_NONE, true, false, false },
        { "an old server", TLS_VERIFICATION_NONE, false, true, true },
        { "an old server that must be verified", TLS_VERIFICATION_REQUIRE, false, true, false },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tls_context *server = server_context_of("rsa");
        struct tls_context *client = client_context(rows[i].verification, "authority.pem");
        struct pair pair;

        cr_assert(SSL_CTX_set_max_proto_version(client->library, TLS1_2_VERSION));
        if (rows[i].client_old)
            cr_assert(SSL_CTX_set_verify_algorithm_prefs(client->library, sha1, 1));
        if (rows[i].server_old)
            cr_assert(SSL_CTX_set_signing_algorithm_prefs(
                server->certificates.certificates[0].library, sha1, 1));
        pair = pair_create(client, server, "mail.example.com", NULL);
        cr_assert_eq(pair_handshake(&pair, whole), rows[i].good, "%s", rows[i].name);
        pair_free(&pair);
        tls_context_release(client);
        tls_context_release(server);
    }
}

Test(tls_context, verification_recorded_or_not)
{
    for (size_t i = 0; i < sizeof(verifications) / sizeof(verifications[0]); i++) {
        const char *name = verifications[i].name;
        struct tls_context *server = server_context_of(verifications[i].server);
        struct tls_context *client = client_context(TLS_VERIFICATION_RECORD, verifications[i].ca);
        struct pair pair = pair_create(client, server, verifications[i].server_name, NULL);

        cr_assert(pair_handshake(&pair, whole), "%s", name);
        cr_assert_eq(tls_verified(pair.client), verifications[i].good, "%s", name);
        assert_text(tls_verification_error(pair.client), verifications[i].error, name);
        assert_text(tls_failure(pair.client), "", name);
        pair_free(&pair);
        tls_context_release(client);

        client = client_context(TLS_VERIFICATION_NONE, "missing.pem");
        pair = pair_create(client, server, verifications[i].server_name, NULL);
        cr_assert(pair_handshake(&pair, whole), "%s", name);
        cr_assert(!tls_verified(pair.client), "%s", name);
        assert_text(tls_verification_error(pair.client), "", name);
        pair_free(&pair);
        tls_context_release(client);
        tls_context_release(server);
    }
}

Test(tls_context, names_that_cannot_be_verified)
{
    static const struct {
        const char *name;
        enum tls_verification verification;
        const char *want; /* the failure; NULL: none */
    } rows[] = {
        { NULL, TLS_VERIFICATION_REQUIRE, "handshake: no server name to verify" },
        { NULL, TLS_VERIFICATION_RECORD, NULL },
        { NULL, TLS_VERIFICATION_NONE, NULL },
        { "", TLS_VERIFICATION_NONE,
          "handshake: the server name is neither a DNS name nor an address" },
        { "a b", TLS_VERIFICATION_REQUIRE,
          "handshake: the server name is neither a DNS name nor an address" },
        { "1.2.3.400", TLS_VERIFICATION_REQUIRE,
          "handshake: the server name is neither a DNS name nor an address" },
        { "[::1]", TLS_VERIFICATION_RECORD,
          "handshake: the server name is neither a DNS name nor an address" },
        { "a\r\nb.example", TLS_VERIFICATION_RECORD,
          "handshake: the server name is neither a DNS name nor an address" },
    };
    struct tls_context *server = server_context_of("ecdsa");

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tls_context *client = client_context(rows[i].verification, "authority.pem");
        struct pair pair = pair_create(client, server, rows[i].name, NULL);

        if (rows[i].want) {
            cr_assert_eq(pair_step(pair.client, &pair.to_client, &pair.to_server, whole),
                         TLS_FAILED, "%zu", i);
            cr_assert_eq(pair.to_server.len, 0, "%zu", i);
            assert_text(tls_failure(pair.client), rows[i].want, rows[i].want);
        } else {
            cr_assert(pair_handshake(&pair, whole), "%zu", i);
            cr_assert(!tls_verified(pair.client), "%zu", i);
            assert_text(tls_verification_error(pair.client),
                        rows[i].verification == TLS_VERIFICATION_RECORD ? "no server name to verify"
                                                                        : "",
                        "no name");
        }
        pair_free(&pair);
        tls_context_release(client);
    }
    tls_context_release(server);
}

/* --- sessions and reload --- */

/* A connection that gives its session. */
static struct tls_session *
session_of(struct tls_context *client, struct tls_context *server, const char *name,
           struct tls_session *resume, bool want_resumed)
{
    struct pair pair = pair_create(client, server, name, resume);
    struct tls_session *session;
    struct wire plain = { 0 };

    cr_assert(pair_handshake(&pair, whole));
    cr_assert_eq(tls_resumed(pair.client), want_resumed, "%s", name);
    cr_assert_eq(tls_resumed(pair.server), want_resumed, "%s", name);
    cr_assert_eq(tls_verified(pair.client),
                 client->verification != TLS_VERIFICATION_NONE && strcmp(name, "wrong.example"),
                 "%s", name);
    cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("220\r\n"), whole), TLS_OK);
    cr_assert_eq(pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server, whole),
                 TLS_WANT_INPUT);
    cr_assert(span_equal(wire_rest(&plain), SPAN("220\r\n")));
    free(plain.data);
    session = tls_take_session(pair.client);
    cr_assert(session);
    cr_assert_null(tls_take_session(pair.client));
    pair_free(&pair);
    return session;
}

Test(tls_context, resumption)
{
    static const char *const certificates[] = { "ecdsa", "other" };

    for (unsigned row = 0; row < 2; row++) {
        struct tls_context *server = server_context(certificates, 2);
        struct tls_context *client = client_context(TLS_VERIFICATION_RECORD, "authority.pem");
        struct tls_context *strict = client_context(TLS_VERIFICATION_REQUIRE, "authority.pem");
        struct tls_session *session;

        if (row == 0)
            cr_assert(SSL_CTX_set_max_proto_version(client->library, TLS1_2_VERSION));
        session = session_of(client, server, "mail.example.com", NULL, false);
        session = session_of(client, server, "mail.example.com", session, true);
        session = session_of(client, server, "mail.example.com", session, true);
        /* Another name, another policy: not resumed. */
        session = session_of(client, server, "other.example.net", session, false);
        session = session_of(client, server, "other.example.net", session, true);
        session = session_of(strict, server, "other.example.net", session, false);
        tls_session_free(session);
        /* What was not verified is not verified by resuming it. */
        session = session_of(client, server, "wrong.example", NULL, false);
        session = session_of(client, server, "wrong.example", session, true);
        tls_session_free(session);
        tls_session_free(NULL);
        tls_context_release(strict);
        tls_context_release(client);
        tls_context_release(server);
    }
}

/* Behind a handshake there is one ticket, with the first record, or none. */
Test(tls_context, one_ticket)
{
    static const struct {
        const char *name;
        bool no_tickets;
        size_t least, most; /* octets beside the record of 5 octets of plain text */
    } rows[] = {
        { "a ticket", false, 100, 299 }, /* two are 370 with the smallest certificate */
        { "no ticket", true, 0, 0 },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tls_certificate_files files = { test_file("ecdsa.pem"), test_file("ecdsa.key") };
        struct tls_server_options options = { .no_tickets = rows[i].no_tickets };
        struct tls_error error;
        struct tls_context *server = tls_server_context_create(&files, 1, &options, &error);
        struct tls_context *client = client_context(TLS_VERIFICATION_NONE, NULL);
        struct pair pair;
        size_t more;

        cr_assert(server, "%s", error.text);
        pair = pair_create(client, server, "mail.example.com", NULL);
        cr_assert(pair_handshake(&pair, whole));
        more = pair.to_client.len;
        cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("220\r\n"), whole), TLS_OK);
        more = pair.to_client.len - more - 5 - 22;
        cr_assert(more >= rows[i].least && more <= rows[i].most, "%s: %zu octets", rows[i].name,
                  more);
        pair_free(&pair);
        tls_context_release(client);
        tls_context_release(server);
    }
}

/* A session that the client would resume under another name: the server does not (RFC 6066 3). */
Test(tls_context, server_binds_tickets_to_names)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < 2; i++) {
        struct tls_context *server = server_context_of("ecdsa");
        struct tls_context *client = client_context(TLS_VERIFICATION_NONE, "authority.pem");
        struct tls_session *session;
        struct pair pair;

        cr_assert(SSL_CTX_set_max_proto_version(client->library, versions[i]));
        for (unsigned same = 0; same < 2; same++) {
            session = session_of(client, server, "mail.example.com", NULL, false);
            pair = pair_create(client, server, "mail.example.com", session);
            if (!same) {
                cr_assert_eq(pair_step(pair.client, &pair.to_client, &pair.to_server, whole),
                             TLS_WANT_INPUT);
                /* The octets of the name in the ClientHello. */
                for (size_t at = 0; at + 4 < pair.to_server.len; at++)
                    if (memcmp(pair.to_server.data + at, "mail", 4) == 0)
                        pair.to_server.data[at] = 'n';
                cr_assert_neq(
                    pair_step(pair.server, &pair.to_server, &pair.to_client, whole), TLS_OK);
                assert_text(tls_server_name(pair.server), "nail.example.com", "SNI");
                cr_assert(!SSL_session_reused(client_seen));
            } else {
                cr_assert(pair_handshake(&pair, whole));
                cr_assert(tls_resumed(pair.server));
            }
            pair_free(&pair);
        }
        tls_context_release(client);
        tls_context_release(server);
    }
}

Test(tls_context, reload)
{
    struct tls_context *current = server_context_of("ecdsa");
    struct tls_context *client = client_context(TLS_VERIFICATION_REQUIRE, "authority.pem");
    struct pair old = pair_create(client, current, "mail.example.com", NULL);
    struct tls_session *session = session_of(client, current, "mail.example.com", NULL, false);
    struct pair begun = pair_create(client, current, "mx.example.com", NULL);
    struct pair fresh;
    struct wire plain = { 0 };
    struct tls_context *next = server_context_of("rsa");

    cr_assert(pair_handshake(&old, whole));
    cr_assert_eq(pair_step(begun.client, &begun.to_client, &begun.to_server, whole),
                 TLS_WANT_INPUT);
    cr_assert_eq(tls_context_acquire(current), current);
    tls_context_release(current);
    tls_context_release(current); /* the owner's; the two connections hold it now */
    current = next;

    cr_assert(pair_handshake(&begun, whole), "a handshake goes on with what it began with");
    assert_certificate("ecdsa.pem", "begun");
    cr_assert_eq(pair_send(old.client, &old.to_server, SPAN("DATA\r\n"), whole), TLS_OK);
    cr_assert_eq(pair_receive(old.server, &old.to_server, &plain, &old.to_client, whole),
                 TLS_WANT_INPUT);
    cr_assert(span_equal(wire_rest(&plain), SPAN("DATA\r\n")));
    fresh = pair_create(client, current, "mail.example.com", session);
    cr_assert(pair_handshake(&fresh, whole), "an old ticket is no error");
    cr_assert(!tls_resumed(fresh.client));
    assert_certificate("rsa.pem", "fresh");
    free(plain.data);
    pair_free(&old);
    pair_free(&begun);
    pair_free(&fresh);
    tls_context_release(client);
    tls_context_release(current);
}

/* --- threads --- */

struct shared {
    struct tls_context *client, *server;
    bool good;
};

static void *
handshakes(void *argument)
{
    struct shared *shared = argument;

    shared->good = true;
    for (unsigned i = 0; i < 50; i++) {
        struct pair pair = pair_create(tls_context_acquire(shared->client), shared->server,
                                       i % 2 == 0 ? "mail.example.com" : "other.example.net", NULL);
        struct tls_session *session;
        struct wire plain = { 0 };

        tls_context_release(shared->client);
        shared->good = shared->good && pair_handshake(&pair, whole) &&
                       pair_send(pair.server, &pair.to_client, SPAN("220\r\n"), whole) == TLS_OK &&
                       pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server,
                                    whole) == TLS_WANT_INPUT;
        session = tls_take_session(pair.client);
        pair_free(&pair);
        pair = pair_create(shared->client, shared->server,
                           i % 2 == 0 ? "mail.example.com" : "other.example.net", session);
        shared->good = shared->good && pair_handshake(&pair, whole) && tls_resumed(pair.server);
        pair_free(&pair);
        free(plain.data);
    }
    return NULL;
}

/* One context, all workers: also the ticket of one worker is good at another. */
Test(tls_context, shared_by_threads)
{
    enum { THREADS = 4 };
    static const char *const certificates[] = { "ecdsa", "rsa", "other" };
    struct tls_context *server = server_context(certificates, 3);
    struct tls_context *client = client_context(TLS_VERIFICATION_REQUIRE, "authority.pem");
    struct shared shared[THREADS];
    pthread_t threads[THREADS];

    for (size_t i = 0; i < THREADS; i++) {
        shared[i] = (struct shared){ .client = client, .server = server };
        cr_assert_eq(pthread_create(&threads[i], NULL, handshakes, &shared[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        cr_assert(shared[i].good, "thread %zu", i);
    }
    tls_context_release(client);
    tls_context_release(server);
}
