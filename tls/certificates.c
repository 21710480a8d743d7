/* A server's certificates: reads them, lists their DNS names, and chooses one for a ClientHello. */
#include <stdlib.h>

#include "tls/library.h"

/* RFC 8446 4.2, the extensions of a ClientHello that the choice looks at. */
#define EXTENSION_SUPPORTED_GROUPS 10
#define EXTENSION_SIGNATURE_ALGORITHMS 13
#define EXTENSION_SUPPORTED_VERSIONS 43

/* --- loading --- */

static bool
key_describe(struct tls_certificate *certificate, const X509 *leaf)
{
    EVP_PKEY *key = X509_get_pubkey((X509 *)leaf);
    int type = key ? EVP_PKEY_id(key) : EVP_PKEY_NONE;
    int curve = NID_undef;

    if (type == EVP_PKEY_EC)
        curve = EC_GROUP_get_curve_name(EC_KEY_get0_group(EVP_PKEY_get0_EC_KEY(key)));
    EVP_PKEY_free(key);
    certificate->ecdsa = type == EVP_PKEY_EC;
    switch (curve) {
    case NID_X9_62_prime256v1:
        certificate->signature = SSL_SIGN_ECDSA_SECP256R1_SHA256;
        certificate->group = SSL_CURVE_SECP256R1;
        return true;
    case NID_secp384r1:
        certificate->signature = SSL_SIGN_ECDSA_SECP384R1_SHA384;
        certificate->group = SSL_CURVE_SECP384R1;
        return true;
    default:
        return type == EVP_PKEY_RSA;
    }
}

/* Against a fixed date, so that no clock is needed. */
static bool
expiry_read(struct tls_certificate *certificate, const X509 *leaf)
{
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    int days = 0;
    int seconds = 0;
    bool read = epoch && ASN1_TIME_diff(&days, &seconds, epoch, X509_get0_notAfter(leaf));

    ASN1_TIME_free(epoch);
    certificate->expiry_seconds = (int64_t)days * 86400 + seconds;
    return read;
}

static void
warn_about_dates(const X509 *leaf, const char *file, struct tls_error *error)
{
    if (X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0)
        tls_error_add(error, "%s has expired", file);
    else if (X509_cmp_current_time(X509_get0_notBefore(leaf)) > 0)
        tls_error_add(error, "%s is not valid yet", file);
}

static bool
name_add(struct tls_certificate_set *set, size_t certificate, const char *text, size_t length)
{
    struct tls_certificate_name *names;
    struct tls_certificate_name name = { .certificate = (uint16_t)certificate };

    if (length > 2 && text[0] == '*' && text[1] == '.') {
        name.wildcard = true;
        text += 2;
        length -= 2;
    }
    names = OPENSSL_realloc(set->names, (set->names_count + 1) * sizeof(*names));
    if (!names)
        return false;
    set->names = names;
    name.name = OPENSSL_strndup(text, length);
    if (!name.name)
        return false;
    for (char *c = name.name; *c != '\0'; c++)
        *c = char_lower(*c);
    /* "*", "a*.example.com", or no host name: matches nothing. */
    if (!tls_dns_name_valid(name.name)) {
        OPENSSL_free(name.name);
        return true;
    }
    set->names[set->names_count++] = name;
    return true;
}

static bool
names_read(struct tls_certificate_set *set, size_t certificate, const X509 *leaf)
{
    GENERAL_NAMES *names = X509_get_ext_d2i((X509 *)leaf, NID_subject_alt_name, NULL, NULL);
    bool read = true;

    for (size_t i = 0; names && read && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type == GEN_DNS)
            read = name_add(set, certificate,
                            (const char *)ASN1_STRING_get0_data(name->d.dNSName),
                            (size_t)ASN1_STRING_length(name->d.dNSName));
    }
    GENERAL_NAMES_free(names);
    ERR_clear_error();
    return read;
}

static bool
files_read(SSL_CTX *library, const struct tls_certificate_files *files, struct tls_error *error)
{
    if (!SSL_CTX_use_certificate_chain_file(library, files->certificate)) {
        tls_library_error(error, files->certificate, "holds no certificate in PEM form");
        return false;
    }
    if (SSL_CTX_use_PrivateKey_file(library, files->key, SSL_FILETYPE_PEM) &&
        SSL_CTX_check_private_key(library))
        return true;
    switch (ERR_GET_REASON(ERR_peek_last_error())) {
    case X509_R_KEY_VALUES_MISMATCH:
    case X509_R_KEY_TYPE_MISMATCH:
        if (ERR_GET_LIB(ERR_peek_last_error()) == ERR_LIB_X509) {
            tls_error_add(error, "%s does not match %s", files->key, files->certificate);
            ERR_clear_error();
            return false;
        }
        break;
    default:
        break;
    }
    tls_library_error(error, files->key, "holds no private key in PEM form");
    return false;
}

static bool
certificate_load(struct tls_certificate_set *set, const struct tls_certificate_files *files,
                 enum tls_version_min version_min, struct tls_error *error)
{
    struct tls_certificate *certificate = &set->certificates[set->count];
    const X509 *leaf;

    certificate->library = tls_library_context_create(version_min);
    if (!certificate->library) {
        tls_error_add(error, "out of memory");
        return false;
    }
    set->count++;
    if (!files_read(certificate->library, files, error))
        return false;
    leaf = SSL_CTX_get0_certificate(certificate->library);
    if (!key_describe(certificate, leaf)) {
        tls_error_add(error, "%s: the key must be RSA, or ECDSA on P-256 or P-384",
                      files->certificate);
        return false;
    }
    if (!expiry_read(certificate, leaf) || !names_read(set, set->count - 1, leaf)) {
        tls_library_error(error, files->certificate, "cannot be read");
        return false;
    }
    warn_about_dates(leaf, files->certificate, error);
    return true;
}

/* --- names --- */

static int
name_compare(const struct tls_certificate_name *a, bool wildcard, const char *name)
{
    if (a->wildcard != wildcard)
        return a->wildcard ? 1 : -1;
    return strcmp(a->name, name);
}

static int
name_order(const void *left, const void *right)
{
    const struct tls_certificate_name *a = left;
    const struct tls_certificate_name *b = right;
    int order = name_compare(a, b->wildcard, b->name);

    return order != 0 ? order : (int)a->certificate - (int)b->certificate;
}

/* The first of the entries for this name; set->names_count when there is none. */
static size_t
name_find(const struct tls_certificate_set *set, bool wildcard, const char *name)
{
    size_t low = 0;
    size_t high = set->names_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (name_compare(&set->names[middle], wildcard, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < set->names_count && name_compare(&set->names[low], wildcard, name) == 0)
        return low;
    return set->names_count;
}

bool
tls_certificates_load(struct tls_certificate_set *set, const struct tls_certificate_files *files,
                      size_t count, enum tls_version_min version_min, struct tls_error *error)
{
    ASSERT(set->count == 0 && count > 0 && count <= TLS_CERTIFICATES_MAX);
    set->certificates = OPENSSL_malloc(count * sizeof(*set->certificates));
    if (!set->certificates) {
        tls_error_add(error, "out of memory");
        return false;
    }
    memset(set->certificates, 0, count * sizeof(*set->certificates));
    for (size_t i = 0; i < count; i++)
        if (!certificate_load(set, &files[i], version_min, error))
            return false;
    if (set->names_count > 0)
        qsort(set->names, set->names_count, sizeof(*set->names), name_order);
    return true;
}

void
tls_certificates_free(struct tls_certificate_set *set)
{
    for (size_t i = 0; i < set->names_count; i++)
        OPENSSL_free(set->names[i].name);
    for (size_t i = 0; i < set->count; i++)
        SSL_CTX_free(set->certificates[i].library);
    OPENSSL_free(set->names);
    OPENSSL_free(set->certificates);
    memset(set, 0, sizeof(*set));
}

/* --- the choice --- */

static bool
list_has(CBS list, uint16_t wanted)
{
    uint16_t value;

    while (CBS_get_u16(&list, &value))
        if (value == wanted)
            return true;
    return false;
}

/* Looks for `wanted` in a list of 16-bit numbers. length_octets: how wide the list's length is. */
static bool
extension_has(const SSL_CLIENT_HELLO *hello, uint16_t extension, unsigned length_octets,
              uint16_t wanted, bool if_absent)
{
    const uint8_t *data;
    size_t length;
    CBS body, list;
    bool read;

    if (!SSL_early_callback_ctx_extension_get(hello, extension, &data, &length))
        return if_absent;
    CBS_init(&body, data, length);
    read = length_octets == 1 ? CBS_get_u8_length_prefixed(&body, &list)
                              : CBS_get_u16_length_prefixed(&body, &list);
    return read && list_has(list, wanted);
}

/* TLS 1.2 names the key type in the cipher suite; these are all that ringpost offers. */
static bool
suites_have_ecdsa(const SSL_CLIENT_HELLO *hello)
{
    static const uint16_t suites[] = { 0xc02b, 0xc02c, 0xcca9, 0xc009, 0xc00a };
    CBS list;

    CBS_init(&list, hello->cipher_suites, hello->cipher_suites_len);
    for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
        if (list_has(list, suites[i]))
            return true;
    return false;
}

/* RSA is what every client can do, so only ECDSA needs a look (RFC 8446 4.2.3, RFC 8422 5.1). */
static bool
client_supports(const SSL_CLIENT_HELLO *hello, const struct tls_certificate *certificate)
{
    if (!certificate->ecdsa)
        return true;
    if (!extension_has(hello, EXTENSION_SIGNATURE_ALGORITHMS, 2, certificate->signature, false))
        return false;
    if (extension_has(hello, EXTENSION_SUPPORTED_VERSIONS, 1, TLS1_3_VERSION, false))
        return true;
    return suites_have_ecdsa(hello) &&
           extension_has(hello, EXTENSION_SUPPORTED_GROUPS, 2, certificate->group, true);
}

struct choice {
    size_t certificate;
    unsigned score; /* 0: nothing yet; 1: has the name; 2: the client can use it; 3: and ECDSA */
};

static void
choice_offer(struct choice *choice, const struct tls_certificate_set *set, size_t candidate,
             const SSL_CLIENT_HELLO *hello)
{
    const struct tls_certificate *certificate = &set->certificates[candidate];
    unsigned score = 1;

    if (client_supports(hello, certificate))
        score = certificate->ecdsa ? 3 : 2;
    if (score > choice->score)
        *choice = (struct choice){ .certificate = candidate, .score = score };
}

static void
choice_offer_name(struct choice *choice, const struct tls_certificate_set *set, bool wildcard,
                  const char *name, const SSL_CLIENT_HELLO *hello)
{
    for (size_t i = name_find(set, wildcard, name);
         i < set->names_count && name_compare(&set->names[i], wildcard, name) == 0; i++)
        choice_offer(choice, set, set->names[i].certificate, hello);
}

/* Nothing has the name: the first certificate, or one that shares a name with it if the client
 * cannot use the first. */
static void
choice_offer_default(struct choice *choice, const struct tls_certificate_set *set,
                     const SSL_CLIENT_HELLO *hello)
{
    choice_offer(choice, set, 0, hello);
    for (size_t i = 0; i < set->names_count && choice->score < 2; i++)
        if (set->names[i].certificate == 0)
            choice_offer_name(choice, set, set->names[i].wildcard, set->names[i].name, hello);
}

size_t
tls_certificates_choose(const struct tls_certificate_set *set, const SSL_CLIENT_HELLO *hello,
                        const char *server_name)
{
    struct choice choice = { 0 };
    char name[256];
    const char *parent;
    size_t length = 0;

    if (set->count == 1)
        return 0;
    if (server_name && tls_dns_name_valid(server_name)) {
        for (; server_name[length] != '\0'; length++)
            name[length] = char_lower(server_name[length]);
        name[length] = '\0';
        choice_offer_name(&choice, set, false, name, hello);
        parent = strchr(name, '.');
        if (choice.score < 2 && parent)
            choice_offer_name(&choice, set, true, parent + 1, hello);
    }
    if (choice.score == 0)
        choice_offer_default(&choice, set, hello);
    return choice.certificate;
}
