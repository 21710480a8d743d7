/* Every MAIL, RCPT and EHLO of a stranger passes here, and what passes is handed on to next hops,
 * logs and bounces as it stands: so this is the one place that decides which octets an address
 * may hold. */
#include "core/address.h"

/* What an octet may be part of; bits. */
enum {
    CHAR_ATOM = 1,    /* atext, RFC 5322 3.2.3; with UTF-8, RFC 6531 3.3 */
    CHAR_QUOTED = 2,  /* qtextSMTP, RFC 5321 4.1.2; with UTF-8 */
    CHAR_LABEL = 4,   /* a domain's label; with UTF-8 (U-label), and '_' */
    CHAR_LITERAL = 8, /* dcontent, RFC 5321 4.1.3 */
    CHAR_TAG = 16,    /* Ldh-str */
    CHAR_HELO = 32,   /* helo_name_valid */
    CHAR_ROUTING = 64, /* may name another host in a local part */
};

#define CHAR_IN_LABEL (CHAR_ATOM | CHAR_QUOTED | CHAR_LABEL | CHAR_LITERAL | CHAR_HELO)
#define CHAR_LETTER_OR_DIGIT (CHAR_IN_LABEL | CHAR_TAG)
#define CHAR_IN_ATOM (CHAR_ATOM | CHAR_QUOTED | CHAR_LITERAL | CHAR_HELO)
#define CHAR_SPECIAL (CHAR_QUOTED | CHAR_LITERAL)

/* Control characters, NUL among them, have no bit: they are refused everywhere. */
static const uint8_t char_classes[256] = {
    [' '] = CHAR_QUOTED,
    ['!'] = CHAR_IN_ATOM | CHAR_ROUTING,
    ['"'] = CHAR_LITERAL,
    ['#' ... '$'] = CHAR_IN_ATOM,
    ['%'] = CHAR_IN_ATOM | CHAR_ROUTING,
    ['&' ... '\''] = CHAR_IN_ATOM,
    ['(' ... ')'] = CHAR_SPECIAL,
    ['*' ... '+'] = CHAR_IN_ATOM,
    [','] = CHAR_SPECIAL,
    ['-'] = CHAR_LETTER_OR_DIGIT,
    ['.'] = CHAR_SPECIAL | CHAR_HELO,
    ['/'] = CHAR_IN_ATOM,
    ['0' ... '9'] = CHAR_LETTER_OR_DIGIT,
    [':'] = CHAR_SPECIAL | CHAR_HELO,
    [';' ... '<'] = CHAR_SPECIAL,
    ['='] = CHAR_IN_ATOM,
    ['>'] = CHAR_SPECIAL,
    ['?'] = CHAR_IN_ATOM,
    ['@'] = CHAR_SPECIAL | CHAR_ROUTING,
    ['A' ... 'Z'] = CHAR_LETTER_OR_DIGIT,
    ['['] = CHAR_QUOTED | CHAR_HELO,
    ['\\'] = 0, /* begins a quoted-pair */
    [']'] = CHAR_QUOTED | CHAR_HELO,
    ['^'] = CHAR_IN_ATOM,
    ['_'] = CHAR_IN_LABEL,
    ['`'] = CHAR_IN_ATOM,
    ['a' ... 'z'] = CHAR_LETTER_OR_DIGIT,
    ['{' ... '~'] = CHAR_IN_ATOM,
    /* Looked at as UTF-8 later. */
    [0x80 ... 0xFF] = CHAR_ATOM | CHAR_QUOTED | CHAR_LABEL | CHAR_HELO,
};

static bool
char_is(char c, unsigned classes)
{
    return (char_classes[(unsigned char)c] & classes) != 0;
}

/* Length of the longest prefix made of these classes. */
static size_t
run_len(struct span s, unsigned classes)
{
    size_t len = 0;

    while (len < s.len && char_is(s.data[len], classes))
        len++;
    return len;
}

static bool
has_any(struct span s, unsigned classes)
{
    for (size_t i = 0; i < s.len; i++)
        if (char_is(s.data[i], classes))
            return true;
    return false;
}

static bool
next_is(struct span s, char c)
{
    return s.len > 0 && s.data[0] == c;
}

static bool
take(struct span *s, char c)
{
    if (!next_is(*s, c))
        return false;
    span_advance(s, 1);
    return true;
}

/* --- address literals, RFC 5321 4.1.3 --- */

/* Snum: no sign, no leading zero (some resolvers read "010" as octal), 0 to 255. */
static bool
ipv4_number_take(struct span *s)
{
    struct span before = *s;
    uint64_t value;

    if (!span_take_number(s, &value) || value > 255)
        return false;
    return before.data[0] != '0' || before.len - s->len == 1;
}

static bool
ipv4_valid(struct span s)
{
    for (int i = 0; i < 4; i++)
        if ((i > 0 && !take(&s, '.')) || !ipv4_number_take(&s))
            return false;
    return s.len == 0;
}

static bool
ipv6_group_take(struct span *s)
{
    size_t len = 0;

    while (len < s->len && len < 4 &&
           ((s->data[len] >= '0' && s->data[len] <= '9') ||
            (char_lower(s->data[len]) >= 'a' && char_lower(s->data[len]) <= 'f')))
        len++;
    span_advance(s, len);
    return len > 0;
}

/* RFC 4291 2.2, all three forms. RFC 5321 lets "::" stand for two groups or more; RFC 4291 for
 * one or more, and that is what other software writes. */
static bool
ipv6_valid(struct span s)
{
    bool compressed = span_starts_ignore_case(s, SPAN("::"));
    unsigned groups = 0;

    if (compressed)
        span_advance(&s, 2);
    while (s.len > 0) {
        if (ipv4_valid(s)) {
            groups += 2;
            break;
        }
        if (!ipv6_group_take(&s))
            return false;
        groups++;
        if (s.len == 0)
            break;
        if (!take(&s, ':') || s.len == 0)
            return false;
        if (take(&s, ':')) {
            if (compressed)
                return false;
            compressed = true;
        }
    }
    return compressed ? groups <= 7 : groups == 8;
}

/* What stands between the brackets. */
static bool
literal_valid(struct span s)
{
    if (ipv4_valid(s))
        return true;
    if (span_starts_ignore_case(s, SPAN("IPv6:")))
        return ipv6_valid(span_after(s, 5));
    size_t tag = run_len(s, CHAR_TAG);
    if (tag == 0 || s.data[tag - 1] == '-')
        return false;
    span_advance(&s, tag);
    return take(&s, ':') && s.len > 0 && run_len(s, CHAR_LITERAL) == s.len;
}

static enum address_result
literal_take(struct span *s, struct span *literal)
{
    ASSERT(next_is(*s, '['));
    size_t content = run_len(span_after(*s, 1), CHAR_LITERAL);

    if (!next_is(span_after(*s, 1 + content), ']'))
        return ADDRESS_SYNTAX;
    if (content + 2 > DOMAIN_BYTES_MAX)
        return ADDRESS_DOMAIN_TOO_LONG;
    if (!literal_valid(span_of(s->data + 1, content)))
        return ADDRESS_SYNTAX;
    *literal = span_first(*s, content + 2);
    span_advance(s, content + 2);
    return ADDRESS_OK;
}

/* --- domains, RFC 5321 4.1.2 --- */

/* The hyphen rule is RFC 5321's (sub-domain = Let-dig [Ldh-str]); 63 is RFC 1035's. */
static bool
label_valid(struct span label)
{
    if (label.len == 0 || label.data[0] == '-' || label.data[label.len - 1] == '-')
        return false;
    return label.len <= 63 || octets_any_high(label);
}

static enum address_result
domain_take(struct span *s, struct span *domain)
{
    size_t end = 0;
    bool valid = true;

    for (;;) {
        size_t label = run_len(span_after(*s, end), CHAR_LABEL);

        valid = valid && label_valid(span_of(s->data + end, label));
        end += label;
        if (end == s->len || s->data[end] != '.')
            break;
        end++;
    }
    if (end > DOMAIN_BYTES_MAX)
        return ADDRESS_DOMAIN_TOO_LONG;
    if (!valid)
        return ADDRESS_SYNTAX;
    *domain = span_first(*s, end);
    span_advance(s, end);
    return ADDRESS_OK;
}

/* --- local parts, RFC 5321 4.1.2 --- */

/* Length of a Dot-string at the start of s; 0: none. */
static size_t
dot_string_len(struct span s)
{
    size_t len = 0;

    for (;;) {
        size_t atom = run_len(span_after(s, len), CHAR_ATOM);
        if (atom == 0)
            return 0;
        len += atom;
        if (len == s.len || s.data[len] != '.')
            return len;
        len++;
    }
}

/* Length of a Quoted-string with its quotes; 0: none. The RFC lets one be empty. A quoted-pair is
 * '\' and a printable ASCII character or space; RFC 6531 does not extend that to UTF-8. */
static size_t
quoted_string_len(struct span s)
{
    size_t len = 1;

    ASSERT(next_is(s, '"'));
    for (;;) {
        len += run_len(span_after(s, len), CHAR_QUOTED);
        if (len == s.len)
            return 0;
        if (s.data[len] == '"')
            return len + 1;
        if (s.data[len] != '\\' || len + 1 == s.len)
            return 0;
        if (s.data[len + 1] < ' ' || s.data[len + 1] > '~')
            return 0;
        len += 2;
    }
}

/* --- paths, RFC 5321 4.1.2 --- */

/* A-d-l: "@a,@b:". Read and dropped, as 4.1.1.3 and appendix C ask. */
static enum address_result
source_route_take(struct span *s, bool *found)
{
    struct span domain;

    *found = next_is(*s, '@');
    if (!*found)
        return ADDRESS_OK;
    do {
        if (!take(s, '@'))
            return ADDRESS_SYNTAX;
        enum address_result result = domain_take(s, &domain);
        if (result != ADDRESS_OK)
            return result;
    } while (take(s, ','));
    return take(s, ':') ? ADDRESS_OK : ADDRESS_SYNTAX;
}

static enum address_result
mailbox_take(struct span *s, struct path *path)
{
    struct span start = *s;

    path->quoted = next_is(*s, '"');
    size_t local_len = path->quoted ? quoted_string_len(*s) : dot_string_len(*s);
    if (local_len == 0)
        return ADDRESS_SYNTAX;
    if (local_len > LOCAL_PART_BYTES_MAX)
        return ADDRESS_LOCAL_TOO_LONG;
    path->local = span_first(*s, local_len);
    path->local_special = has_any(path->local, CHAR_ROUTING);
    span_advance(s, local_len);

    if (take(s, '@')) {
        path->literal = next_is(*s, '[');
        enum address_result result =
            path->literal ? literal_take(s, &path->domain) : domain_take(s, &path->domain);
        if (result != ADDRESS_OK)
            return result;
    } else if (!next_is(*s, '>')) {
        return ADDRESS_SYNTAX;
    } else if (path->source_route || !span_equal_ignore_case(path->local, SPAN("postmaster"))) {
        return ADDRESS_NO_DOMAIN; /* 4.1.1.3 and 4.5.1 name <Postmaster> alone, in any case */
    } else {
        path->domain = span_first(*s, 0);
    }
    path->mailbox = span_first(start, start.len - s->len);
    return ADDRESS_OK;
}

static enum address_result
path_take(struct span *s, bool null_allowed, struct path *path)
{
    struct span start = *s;

    if (!take(s, '<'))
        return ADDRESS_SYNTAX;
    if (next_is(*s, '>')) {
        path->null = true;
        path->mailbox = path->local = path->domain = span_first(*s, 0);
        (void)take(s, '>');
        return null_allowed ? ADDRESS_OK : ADDRESS_SYNTAX;
    }
    enum address_result result = source_route_take(s, &path->source_route);
    if (result == ADDRESS_OK)
        result = mailbox_take(s, path);
    if (result != ADDRESS_OK)
        return result;
    if (!take(s, '>'))
        return ADDRESS_SYNTAX;

    struct span whole = span_first(start, start.len - s->len);
    path->utf8 = octets_any_high(whole);
    if (path->utf8 && !utf8_valid(whole))
        return ADDRESS_UTF8_INVALID;
    if (path->utf8 && !utf8_printable(whole))
        return ADDRESS_SYNTAX; /* U+0080 to U+009F are control characters too */
    return ADDRESS_OK;
}

enum address_result
path_parse(struct span in, bool null_allowed, struct path *out, size_t *consumed)
{
    struct span rest = in;
    struct path path = { .null = false };

    enum address_result result = path_take(&rest, null_allowed, &path);
    *out = result == ADDRESS_OK ? path : (struct path){ .null = false };
    *consumed = result == ADDRESS_OK ? in.len - rest.len : 0;
    return result;
}

bool
helo_name_valid(struct span name)
{
    if (name.len == 0 || name.len > DOMAIN_BYTES_MAX)
        return false;
    return run_len(name, CHAR_HELO) == name.len && utf8_printable(name);
}
