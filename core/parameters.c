/* The ESMTP parameters of MAIL and RCPT: half of what address.h promises, in a file of its own
 * because it shares nothing with paths. Values that go on to next hops and into bounces are
 * checked to the letter. */
#include "core/address.h"

struct parameter {
    struct span keyword;
    struct span value; /* empty: there was no '=' */
};

enum mail_keyword {
    MAIL_SIZE,
    MAIL_BODY,
    MAIL_SMTPUTF8,
    MAIL_RET,
    MAIL_ENVID,
    MAIL_AUTH,
    MAIL_KEYWORDS
};

static const struct span mail_keywords[MAIL_KEYWORDS] = {
    [MAIL_SIZE] = SPAN("SIZE"),         /* RFC 1870 */
    [MAIL_BODY] = SPAN("BODY"),         /* RFC 6152 */
    [MAIL_SMTPUTF8] = SPAN("SMTPUTF8"), /* RFC 6531 */
    [MAIL_RET] = SPAN("RET"),           /* RFC 3461 4.3 */
    [MAIL_ENVID] = SPAN("ENVID"),       /* RFC 3461 4.4 */
    [MAIL_AUTH] = SPAN("AUTH"),         /* RFC 4954 5 */
};

enum rcpt_keyword { RCPT_NOTIFY, RCPT_ORCPT, RCPT_KEYWORDS };

static const struct span rcpt_keywords[RCPT_KEYWORDS] = {
    [RCPT_NOTIFY] = SPAN("NOTIFY"), /* RFC 3461 4.1 */
    [RCPT_ORCPT] = SPAN("ORCPT"),   /* RFC 3461 4.2 */
};

/* --- splitting, RFC 5321 4.1.2 (esmtp-param) --- */

static size_t
keyword_len(struct span s)
{
    size_t len = 0;

    while (len < s.len &&
           (char_is_letter(s.data[len]) || char_is_digit(s.data[len]) ||
            (len > 0 && s.data[len] == '-')))
        len++;
    return len;
}

/* esmtp-value: printable ASCII but '='; RFC 6531 3.3 adds UTF-8. */
static size_t
value_len(struct span s)
{
    size_t len = 0;

    while (len < s.len && s.data[len] != '=' && s.data[len] != ' ' &&
           (unsigned char)s.data[len] > ' ' && s.data[len] != 0x7F)
        len++;
    return len;
}

/* Takes the spaces before the next parameter, and the parameter. An empty keyword says that none
 * is left. */
static enum parameter_result
parameter_take(struct span *in, struct parameter *out)
{
    *out = (struct parameter){ .keyword = span_first(*in, 0) };
    if (in->len == 0)
        return PARAMETER_OK;
    if (in->data[0] != ' ')
        return PARAMETER_SYNTAX;
    while (in->len > 0 && in->data[0] == ' ')
        span_advance(in, 1);
    if (in->len == 0)
        return PARAMETER_OK;

    size_t len = keyword_len(*in);
    if (len == 0)
        return PARAMETER_SYNTAX;
    out->keyword = span_first(*in, len);
    span_advance(in, len);
    if (in->len == 0 || in->data[0] != '=')
        return PARAMETER_OK; /* an octet that belongs to no keyword is refused by the next call */
    span_advance(in, 1);
    len = value_len(*in);
    if (len == 0)
        return PARAMETER_SYNTAX;
    out->value = span_first(*in, len);
    span_advance(in, len);
    return PARAMETER_OK;
}

/* The keyword's place in the table; *seen has a bit for each that was there before. */
static enum parameter_result
keyword_find(struct span keyword, const struct span *keywords, unsigned keywords_count,
             unsigned *seen, unsigned *found)
{
    for (unsigned i = 0; i < keywords_count; i++) {
        if (!span_equal_ignore_case(keyword, keywords[i]))
            continue;
        if ((*seen & (1u << i)) != 0)
            return PARAMETER_DUPLICATE;
        *seen |= 1u << i;
        *found = i;
        return PARAMETER_OK;
    }
    return PARAMETER_UNKNOWN;
}

/* --- xtext, RFC 3461 4 --- */

/* The value of an upper case hexadecimal digit (lower case is not xtext), or -1. */
static int
hex_value(char c)
{
    if (char_is_digit(c))
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Takes one xchar or hexchar and returns the octet it stands for; -1: neither. */
static int
xtext_octet_take(struct span *s)
{
    ASSERT(s->len > 0);
    char c = s->data[0];

    if (c == '+') {
        if (s->len < 3 || hex_value(s->data[1]) < 0 || hex_value(s->data[2]) < 0)
            return -1;
        int octet = hex_value(s->data[1]) * 16 + hex_value(s->data[2]);
        span_advance(s, 3);
        return octet;
    }
    if (c < '!' || c > '~' || c == '=')
        return -1;
    span_advance(s, 1);
    return c;
}

bool
xtext_valid(struct span s, size_t *decoded_len)
{
    size_t len = 0;

    for (; s.len > 0; len++)
        if (xtext_octet_take(&s) < 0)
            return false;
    if (decoded_len != NULL)
        *decoded_len = len;
    return true;
}

/* ENVID and ORCPT are written, decoded, into the fields of a delivery status notification: RFC
 * 3461 4.2 and 4.4 allow them printable ASCII and spaces alone. An encoded CR LF would be a field
 * of the sender's choice. */
static bool
xtext_printable(struct span s)
{
    while (s.len > 0) {
        int octet = xtext_octet_take(&s);
        if (octet < ' ' || octet > '~')
            return false;
    }
    return true;
}

/* --- values of MAIL --- */

/* RFC 1870 4: size-value = 1*20DIGIT. */
static enum parameter_result
size_read(struct span value, uint64_t *size)
{
    uint64_t number;

    if (value.len > 20)
        return PARAMETER_VALUE;
    if (!span_take_number(&value, &number) || value.len > 0)
        return PARAMETER_VALUE;
    if (number > INT64_MAX)
        return PARAMETER_TOO_BIG;
    *size = number;
    return PARAMETER_OK;
}

static enum parameter_result
body_read(struct span value, enum body_type *body)
{
    if (span_equal_ignore_case(value, SPAN("BINARYMIME")))
        return PARAMETER_BINARY; /* RFC 3030 3 */
    if (span_equal_ignore_case(value, SPAN("7BIT")))
        *body = BODY_TYPE_7BIT;
    else if (span_equal_ignore_case(value, SPAN("8BITMIME")))
        *body = BODY_TYPE_8BITMIME;
    else
        return PARAMETER_VALUE;
    return PARAMETER_OK;
}

static enum parameter_result
return_read(struct span value, enum dsn_return *dsn_return)
{
    if (span_equal_ignore_case(value, SPAN("FULL")))
        *dsn_return = DSN_RETURN_FULL;
    else if (span_equal_ignore_case(value, SPAN("HDRS")))
        *dsn_return = DSN_RETURN_HEADERS;
    else
        return PARAMETER_VALUE;
    return PARAMETER_OK;
}

static enum parameter_result
envid_read(struct span value, struct span *envid)
{
    size_t decoded_len;

    if (value.len == 0 || !xtext_valid(value, &decoded_len) || !xtext_printable(value))
        return PARAMETER_VALUE;
    if (decoded_len > ENVID_BYTES_MAX)
        return PARAMETER_VALUE;
    *envid = value;
    return PARAMETER_OK;
}

/* "<>" needs no case of its own: both characters are xchars. */
static enum parameter_result
auth_read(struct span value, struct span *auth)
{
    if (value.len == 0 || !xtext_valid(value, NULL))
        return PARAMETER_VALUE;
    *auth = value;
    return PARAMETER_OK;
}

static enum parameter_result
mail_value_read(unsigned keyword, struct span value, void *to)
{
    struct mail_parameters *out = to;

    switch ((enum mail_keyword)keyword) {
    case MAIL_SIZE: return size_read(value, &out->size);
    case MAIL_BODY: return body_read(value, &out->body);
    case MAIL_SMTPUTF8:
        out->smtputf8 = true;
        return value.len == 0 ? PARAMETER_OK : PARAMETER_VALUE; /* RFC 6531 3.4: takes no value */
    case MAIL_RET: return return_read(value, &out->dsn_return);
    case MAIL_ENVID: return envid_read(value, &out->envid);
    case MAIL_AUTH: return auth_read(value, &out->auth);
    case MAIL_KEYWORDS: break;
    }
    ASSERT(keyword < MAIL_KEYWORDS);
    return PARAMETER_UNKNOWN;
}

/* --- values of RCPT --- */

static enum dsn_notify
notify_element(struct span name)
{
    static const struct {
        struct span name;
        enum dsn_notify bit;
    } elements[] = {
        { SPAN("NEVER"), DSN_NOTIFY_NEVER },
        { SPAN("SUCCESS"), DSN_NOTIFY_SUCCESS },
        { SPAN("FAILURE"), DSN_NOTIFY_FAILURE },
        { SPAN("DELAY"), DSN_NOTIFY_DELAY },
    };

    for (size_t i = 0; i < sizeof(elements) / sizeof(elements[0]); i++)
        if (span_equal_ignore_case(name, elements[i].name))
            return elements[i].bit;
    return DSN_NOTIFY_NONE;
}

static enum parameter_result
notify_read(struct span value, uint8_t *notify)
{
    unsigned bits = 0;

    for (;;) {
        const char *comma = value.len > 0 ? memchr(value.data, ',', value.len) : NULL;
        size_t len = comma != NULL ? (size_t)(comma - value.data) : value.len;
        unsigned bit = notify_element(span_first(value, len));
        if (bit == DSN_NOTIFY_NONE || (bits & bit) != 0)
            return PARAMETER_VALUE;
        bits |= bit;
        if (comma == NULL)
            break;
        span_advance(&value, len + 1);
    }
    if ((bits & DSN_NOTIFY_NEVER) != 0 && bits != DSN_NOTIFY_NEVER)
        return PARAMETER_VALUE; /* RFC 3461 4.1: NEVER by itself */
    *notify = (uint8_t)bits;
    return PARAMETER_OK;
}

/* addr-type = atom, RFC 3461 4.2 and RFC 822 3.3. */
static bool
is_atom(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] <= ' ' || s.data[i] > '~' || strchr("()<>@,;:\\\".[]", s.data[i]) != NULL)
            return false;
    return s.len > 0;
}

/* RFC 6533 3: with the addr-type utf-8 characters above 127 may stand as they are. */
static bool
unitext_printable(struct span s, bool *utf8)
{
    while (s.len > 0) {
        if ((unsigned char)s.data[0] <= 0x7F) {
            int octet = xtext_octet_take(&s);
            if (octet < ' ' || octet > '~')
                return false;
            continue;
        }
        size_t len = utf8_character_len(s);
        if (len == 0 || !utf8_printable(span_first(s, len)))
            return false;
        *utf8 = true;
        span_advance(&s, len);
    }
    return true;
}

static enum parameter_result
orcpt_read(struct span value, struct rcpt_parameters *out)
{
    const char *semicolon = value.len > 0 ? memchr(value.data, ';', value.len) : NULL;

    if (semicolon == NULL || value.len > ORCPT_BYTES_MAX)
        return PARAMETER_VALUE;
    struct span type = span_first(value, (size_t)(semicolon - value.data));
    struct span address = span_after(value, type.len + 1);
    if (!is_atom(type))
        return PARAMETER_VALUE;
    if (span_equal_ignore_case(type, SPAN("utf-8"))) {
        if (!unitext_printable(address, &out->utf8))
            return PARAMETER_VALUE;
    } else if (!xtext_printable(address)) {
        return PARAMETER_VALUE;
    }
    out->orcpt = value;
    return PARAMETER_OK;
}

static enum parameter_result
rcpt_value_read(unsigned keyword, struct span value, void *to)
{
    struct rcpt_parameters *out = to;

    switch ((enum rcpt_keyword)keyword) {
    case RCPT_NOTIFY: return notify_read(value, &out->notify);
    case RCPT_ORCPT: return orcpt_read(value, out);
    case RCPT_KEYWORDS: break;
    }
    ASSERT(keyword < RCPT_KEYWORDS);
    return PARAMETER_UNKNOWN;
}

/* --- the two commands --- */

/* Each parameter, with its place in the table of keywords, goes to `read`. */
static enum parameter_result
parameters_each(struct span in, const struct span *keywords, unsigned keywords_count,
                enum parameter_result (*read)(unsigned keyword, struct span value, void *out),
                void *out)
{
    unsigned seen = 0, keyword = keywords_count;

    for (;;) {
        struct parameter parameter;
        enum parameter_result result = parameter_take(&in, &parameter);
        if (result == PARAMETER_OK && parameter.keyword.len == 0)
            return PARAMETER_OK;
        if (result == PARAMETER_OK)
            result = keyword_find(parameter.keyword, keywords, keywords_count, &seen, &keyword);
        if (result == PARAMETER_OK)
            result = read(keyword, parameter.value, out);
        if (result != PARAMETER_OK)
            return result;
    }
}

enum parameter_result
mail_parameters_parse(struct span in, struct mail_parameters *out)
{
    struct mail_parameters parameters = { .size = 0 };
    enum parameter_result result =
        parameters_each(in, mail_keywords, MAIL_KEYWORDS, mail_value_read, &parameters);

    *out = result == PARAMETER_OK ? parameters : (struct mail_parameters){ .size = 0 };
    return result;
}

enum parameter_result
rcpt_parameters_parse(struct span in, struct rcpt_parameters *out)
{
    struct rcpt_parameters parameters = { .notify = DSN_NOTIFY_NONE };
    enum parameter_result result =
        parameters_each(in, rcpt_keywords, RCPT_KEYWORDS, rcpt_value_read, &parameters);

    *out = result == PARAMETER_OK ? parameters
                                  : (struct rcpt_parameters){ .notify = DSN_NOTIFY_NONE };
    return result;
}
