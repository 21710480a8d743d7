/* Which name a client asks for and verifies, and words for why a certificate was refused. */
#include <stdio.h>

#include "tls/library.h"

bool
tls_dns_name_valid(const char *name)
{
    size_t label = 0;
    size_t length = 0;

    for (; name[length] != '\0'; length++) {
        char c = char_lower(name[length]);

        if (c == '.' && label == 0)
            return false;
        if (c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z'))
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63 || length >= 253)
            return false;
    }
    return label > 0;
}

/* No top-level domain is a number (RFC 1123 2.1): a last label of digits alone is an address. */
static bool
name_is_address(const char *name)
{
    const char *last = strrchr(name, '.');

    last = last ? last + 1 : name;
    return strchr(name, ':') || (*last != '\0' && last[strspn(last, "0123456789")] == '\0');
}

enum tls_name_result
tls_set_name(SSL *library, const char *name)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(library);
    enum tls_name_result result = TLS_NAME_OK;

    /* RFC 9525 2: the subject's common name is no host name. */
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (name_is_address(name)) {
        if (!X509_VERIFY_PARAM_set1_ip_asc(param, name))
            result = TLS_NAME_INVALID;
    } else if (!tls_dns_name_valid(name)) {
        result = TLS_NAME_INVALID;
    } else if (!SSL_set_tlsext_host_name(library, name) ||
               !X509_VERIFY_PARAM_set1_host(param, name, strlen(name))) {
        result = TLS_NAME_NO_MEMORY;
    }
    ERR_clear_error();
    return result;
}

/* The library calls a certificate self-signed only when it could sign others. */
static bool
is_its_own_issuer(const X509 *certificate)
{
    return certificate && X509_NAME_cmp(X509_get_subject_name(certificate),
                                        X509_get_issuer_name(certificate)) == 0;
}

void
tls_verify_describe(char *text, size_t text_size, X509_STORE_CTX *store, const char *name)
{
    int error = X509_STORE_CTX_get_error(store);

    switch (error) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        snprintf(text, text_size, "name does not match %s", name ? name : "");
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        snprintf(text, text_size, "self-signed certificate");
        break;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        snprintf(text, text_size, "its root certificate is not trusted");
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        if (X509_STORE_CTX_get_error_depth(store) == 0 &&
            is_its_own_issuer(X509_STORE_CTX_get_current_cert(store)))
            snprintf(text, text_size, "self-signed certificate");
        else
            snprintf(text, text_size, "unknown certificate authority, or an incomplete chain");
        break;
    default:
        snprintf(text, text_size, "%s", X509_verify_cert_error_string(error));
        break;
    }
}
