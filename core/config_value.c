/* Values are typed by the key that holds them, never guessed from their looks. */
#include "core/config_value.h"

struct unit {
    const char *name;
    uint64_t factor;
};

static const struct unit size_units[] = {
    { "gb", GIB(1) }, { "gib", GIB(1) }, { "g", GIB(1) }, { "mb", MIB(1) }, { "mib", MIB(1) },
    { "m", MIB(1) },  { "kb", KIB(1) },  { "kib", KIB(1) }, { "k", KIB(1) }, { "b", 1 },
};

static const struct unit duration_units[] = {
    { "d", DAYS(1) }, { "h", HOURS(1) }, { "min", MINUTES(1) }, { "s", SECONDS(1) },
    { "ms", 1 },      { "w", DAYS(7) },
};

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define IP_GAP_NONE 17

const char *
config_number_parse(struct span s, uint64_t *number)
{
    if (!span_take_number(&s, number) || s.len > 0)
        return "is not a whole number, expected digits only";
    return NULL;
}

static const struct unit *
find_unit(struct span name, const struct unit *units, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (span_equal_ignore_case(name, span_text(units[i].name)))
            return &units[i];
    return NULL;
}

static uint64_t
multiply(uint64_t number, uint64_t factor)
{
    uint64_t product;

    return __builtin_mul_overflow(number, factor, &product) ? UINT64_MAX : product;
}

const char *
config_size_parse(struct span s, uint64_t *bytes)
{
    if (!span_take_number(&s, bytes))
        return "is not a size, expected a number and a unit such as 50mb, 64kib or 998";
    if (s.len == 0)
        return NULL;
    if (s.data[0] == '.' || s.data[0] == ',')
        return "has a fraction, expected a whole number and a unit such as 512kb";
    const struct unit *unit = find_unit(s, size_units, COUNT_OF(size_units));
    if (unit == NULL)
        return "has an unknown unit, expected kb, mb or gb (or kib, mib, gib), "
               "with no space before it";
    *bytes = multiply(*bytes, unit->factor);
    return NULL;
}

const char *
config_duration_parse(struct span s, uint64_t *duration_ms)
{
    if (!span_take_number(&s, duration_ms))
        return "is not a duration, expected a number and a unit such as 100ms, 20s, 5min or 1h";
    if (s.len == 0)
        return "has no unit, expected a duration such as 100ms, 20s, 5min, 1h or 5d";
    if (s.data[0] == '.' || s.data[0] == ',')
        return "has a fraction, expected a whole number and a unit such as 1500ms";
    const struct unit *unit = find_unit(s, duration_units, COUNT_OF(duration_units));
    if (unit == NULL)
        return "has an unknown unit, expected ms, s, min, h, d or w, with no space before it";
    *duration_ms = multiply(*duration_ms, unit->factor);
    return NULL;
}

/* The first unit of the table that divides the number: the tables begin with the largest. */
static void
format_with_unit(uint64_t number, const struct unit *units, size_t count, const char *last,
                 char text[CONFIG_NUMBER_TEXT_MAX])
{
    for (size_t i = 0; i < count; i++) {
        if (number == 0 || number % units[i].factor != 0 || units[i].factor == 1)
            continue;
        (void)snprintf(text, CONFIG_NUMBER_TEXT_MAX, "%llu%s",
                       (unsigned long long)(number / units[i].factor), units[i].name);
        return;
    }
    (void)snprintf(text, CONFIG_NUMBER_TEXT_MAX, "%llu%s", (unsigned long long)number, last);
}

void
config_size_format(uint64_t bytes, char text[CONFIG_NUMBER_TEXT_MAX])
{
    format_with_unit(bytes, size_units, COUNT_OF(size_units), "", text);
}

void
config_duration_format(uint64_t duration_ms, char text[CONFIG_NUMBER_TEXT_MAX])
{
    format_with_unit(duration_ms, duration_units, COUNT_OF(duration_units), "ms", text);
}

static bool
ipv4_parse(struct span s, uint8_t ip[4])
{
    for (size_t i = 0; i < 4; i++) {
        uint64_t octet;
        struct span before = s;

        if (i > 0) {
            if (s.len == 0 || s.data[0] != '.')
                return false;
            span_advance(&s, 1);
            before = s;
        }
        if (!span_take_number(&s, &octet) || octet > 255)
            return false;
        /* 010 is 8 to some and 10 to others. */
        if (before.data[0] == '0' && before.len - s.len > 1)
            return false;
        ip[i] = (uint8_t)octet;
    }
    return s.len == 0;
}

static bool
take_hex_group(struct span *s, uint8_t group[2])
{
    unsigned value = 0;
    size_t digits = 0;

    for (; digits < 4 && s->len > 0; digits++) {
        char c = char_lower(s->data[0]);
        if (!char_is_digit(c) && !(c >= 'a' && c <= 'f'))
            break;
        value = value << 4 | (unsigned)(char_is_digit(c) ? c - '0' : c - 'a' + 10);
        span_advance(s, 1);
    }
    group[0] = (uint8_t)(value >> 8);
    group[1] = (uint8_t)value;
    return digits > 0;
}

/* RFC 4291 2.2, all three forms. */
static bool
ipv6_parse(struct span s, uint8_t ip[16])
{
    size_t used = 0, gap = IP_GAP_NONE;

    if (s.len >= 2 && s.data[0] == ':' && s.data[1] == ':') {
        gap = 0;
        span_advance(&s, 2);
    }
    while (s.len > 0) {
        bool last = memchr(s.data, ':', s.len) == NULL;
        if (last && used <= 12 && memchr(s.data, '.', s.len) != NULL) {
            if (!ipv4_parse(s, ip + used))
                return false;
            used += 4;
            break;
        }
        if (used == 16 || !take_hex_group(&s, ip + used))
            return false;
        used += 2;
        if (s.len == 0)
            break;
        if (s.data[0] != ':' || s.len == 1)
            return false;
        span_advance(&s, 1);
        if (s.data[0] == ':') {
            if (gap != IP_GAP_NONE)
                return false;
            gap = used;
            span_advance(&s, 1);
        }
    }
    if (gap == IP_GAP_NONE)
        return used == 16;
    if (used > 14)
        return false;
    memmove(ip + 16 - (used - gap), ip + gap, used - gap);
    memset(ip + gap, 0, 16 - used);
    return true;
}

bool
config_ip_parse(struct span s, struct config_address *out)
{
    memset(out->ip, 0, sizeof(out->ip));
    if (ipv4_parse(s, out->ip)) {
        out->family = CONFIG_ADDRESS_IPV4;
        return true;
    }
    memset(out->ip, 0, sizeof(out->ip));
    out->family = CONFIG_ADDRESS_IPV6;
    return ipv6_parse(s, out->ip);
}

/* Takes "host:port" apart. *port is empty when there is none; bracketed: host stood in brackets. */
static const char *
split_port(struct span s, struct span *host, struct span *port, bool *bracketed)
{
    *bracketed = s.len > 0 && s.data[0] == '[';
    *port = SPAN("");
    if (*bracketed) {
        const char *end = memchr(s.data, ']', s.len);
        if (end == NULL)
            return "has no closing bracket, expected an address such as [::1]:25";
        size_t len = (size_t)(end - s.data);
        *host = span_of(s.data + 1, len - 1);
        s = span_after(s, len + 1);
        if (s.len > 0 && s.data[0] != ':')
            return "has text behind its bracket, expected an address such as [::1]:25";
    } else {
        const char *colon = memchr(s.data, ':', s.len);
        size_t len = colon == NULL ? s.len : (size_t)(colon - s.data);
        *host = span_first(s, len);
        s = span_after(s, len);
        if (s.len > 0 && memchr(s.data + 1, ':', s.len - 1) != NULL)
            return "has more than one colon, expected an IPv6 address in brackets: [::1]:25";
    }
    if (s.len == 1)
        return "has nothing behind its colon, expected a port";
    if (s.len > 0)
        *port = span_after(s, 1);
    return NULL;
}

static const char *
port_parse(struct span s, uint16_t *port)
{
    uint64_t number;

    if (!span_take_number(&s, &number) || s.len > 0 || number < 1 || number > 65535)
        return "has a port that is none, expected 1 to 65535";
    *port = (uint16_t)number;
    return NULL;
}

static const char *
address_parse(struct span s, bool any_port, struct config_address *out)
{
    struct span host, port;
    bool bracketed;
    const char *problem = split_port(s, &host, &port, &bracketed);

    if (problem != NULL)
        return problem;
    if (host.len == 0 || span_equal(host, SPAN("*")))
        return "names no address, expected 0.0.0.0:PORT for every IPv4 address or [::]:PORT for "
               "every IPv6 address";
    if (!config_ip_parse(host, out) || bracketed != (out->family == CONFIG_ADDRESS_IPV6))
        return "is not an address and port, expected one such as 127.0.0.1:25 or [::1]:25";
    if (port.len == 0)
        return "has no port, expected one such as 127.0.0.1:25 or [::1]:25";
    if (any_port && span_equal(port, SPAN("0"))) {
        out->port = 0;
        return NULL;
    }
    return port_parse(port, &out->port);
}

const char *
config_address_parse(struct span s, struct config_address *out)
{
    return address_parse(s, false, out);
}

const char *
config_address_parse_any(struct span s, struct config_address *out)
{
    return address_parse(s, true, out);
}

const char *
config_server_parse(struct span s, struct config_server *out, struct span *host)
{
    struct span port;
    bool bracketed;
    const char *problem = split_port(s, host, &port, &bracketed);

    if (problem != NULL)
        return problem;
    out->numeric = config_ip_parse(*host, &out->address);
    bool ipv6 = out->numeric && out->address.family == CONFIG_ADDRESS_IPV6;
    if (bracketed != ipv6)
        return "is not a server, expected one such as mx.example.com:25, 192.0.2.1:25 or [::1]:25";
    if (!out->numeric && config_host_name_check(*host) != NULL)
        return "is not a server, expected one such as mx.example.com:25, 192.0.2.1:25 or [::1]:25";
    out->port = 25;
    if (port.len > 0)
        problem = port_parse(port, &out->port);
    out->address.port = out->port;
    return problem;
}

static bool
clear_behind_prefix(uint8_t address[16], unsigned prefix)
{
    bool was_clear = true;

    for (unsigned i = prefix; i < 128; i++) {
        uint8_t bit = (uint8_t)(0x80u >> (i % 8));
        was_clear = was_clear && (address[i / 8] & bit) == 0;
        address[i / 8] &= (uint8_t)~bit;
    }
    return was_clear;
}

/* Whether the network holds all of IPv4, as "0.0.0.0/0" and "::/0" do. */
static bool
holds_all_ipv4(const struct config_network *network)
{
    uint8_t mapped[16] = { [10] = 0xff, [11] = 0xff };

    (void)clear_behind_prefix(mapped, network->prefix);
    return network->prefix <= 96 && memcmp(mapped, network->address, 16) == 0;
}

const char *
config_network_parse(struct span s, struct config_network *out)
{
    const char *slash = s.len > 0 ? memchr(s.data, '/', s.len) : NULL;
    struct span ip = slash == NULL ? s : span_first(s, (size_t)(slash - s.data));
    struct config_address address;
    uint64_t prefix;

    if (!config_ip_parse(ip, &address))
        return "is not a network, expected one such as 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32";
    bool ipv4 = address.family == CONFIG_ADDRESS_IPV4;
    uint64_t prefix_max = ipv4 ? 32 : 128;
    prefix = prefix_max;
    if (slash != NULL) {
        struct span digits = span_after(s, ip.len + 1);
        if (!span_take_number(&digits, &prefix) || digits.len > 0 || prefix > prefix_max)
            return ipv4 ? "has a prefix that is none, expected /0 to /32 behind an IPv4 address"
                        : "has a prefix that is none, expected /0 to /128 behind an IPv6 address";
    }
    memset(out, 0, sizeof(*out));
    out->prefix = (uint8_t)(prefix + (ipv4 ? 96 : 0));
    if (ipv4) {
        out->address[10] = out->address[11] = 0xff;
        memcpy(out->address + 12, address.ip, 4);
    } else {
        memcpy(out->address, address.ip, 16);
    }
    if (!clear_behind_prefix(out->address, out->prefix))
        return "has bits set behind its prefix, expected the first address of the network";
    if (holds_all_ipv4(out))
        return "would let every client relay: an open relay; expected your own networks";
    return NULL;
}

/* Labels of 1 to 63 bytes: letters, digits, underscores, hyphens but not at the ends; the last is
 * not a number, or it would be an IPv4 address to somebody (RFC 1123 2.1). */
static bool
labels_valid(struct span s, bool utf8_allowed)
{
    size_t label = 0, digits = 0;

    if (s.len == 0 || s.len > DOMAIN_BYTES_MAX)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        char c = s.data[i];
        bool edge = label == 0 || i + 1 == s.len || s.data[i + 1] == '.';

        if (c == '.') {
            if (label == 0)
                return false;
            label = digits = 0;
            continue;
        }
        if (!char_is_letter(c) && !char_is_digit(c) && c != '_' && !(c == '-' && !edge) &&
            !(utf8_allowed && (uint8_t)c >= 0x80))
            return false;
        digits += char_is_digit(c);
        if (++label > 63)
            return false;
    }
    return label > digits;
}

const char *
config_host_name_check(struct span s)
{
    if (s.len > 0 && s.data[s.len - 1] == '.')
        return "ends with a dot, expected a host name such as edge.example.com";
    if (!labels_valid(s, false))
        return "is not a host name, expected one such as edge.example.com";
    return NULL;
}

const char *
config_domain_check(struct span s)
{
    if (s.len > 0 && memchr(s.data, '@', s.len) != NULL)
        return "is a mail address, expected a domain such as example.com or *.example.com";
    if (s.len > 0 && s.data[s.len - 1] == '.')
        return "ends with a dot, expected a domain such as example.com";
    if (s.len > 2 && s.data[0] == '*' && s.data[1] == '.')
        span_advance(&s, 2);
    if (!labels_valid(s, true))
        return "is not a domain, expected one such as example.com or *.example.com";
    return NULL;
}

#define WORD_BYTES_MAX 32

/* Insertions, deletions, replacements and swaps of neighbours that make a into b. */
static unsigned
edit_distance(struct span a, struct span b)
{
    unsigned distance[WORD_BYTES_MAX + 1][WORD_BYTES_MAX + 1];

    for (unsigned i = 0; i <= a.len; i++)
        distance[i][0] = i;
    for (unsigned k = 0; k <= b.len; k++)
        distance[0][k] = k;
    for (size_t i = 1; i <= a.len; i++) {
        for (size_t k = 1; k <= b.len; k++) {
            char x = char_lower(a.data[i - 1]), y = char_lower(b.data[k - 1]);
            unsigned best = distance[i - 1][k - 1] + (x != y);

            if (distance[i - 1][k] + 1 < best)
                best = distance[i - 1][k] + 1;
            if (distance[i][k - 1] + 1 < best)
                best = distance[i][k - 1] + 1;
            if (i > 1 && k > 1 && x == char_lower(b.data[k - 2]) &&
                y == char_lower(a.data[i - 2]) && distance[i - 2][k - 2] + 1 < best)
                best = distance[i - 2][k - 2] + 1;
            distance[i][k] = best;
        }
    }
    return distance[a.len][b.len];
}

const char *
config_nearest_word(struct span s, const char *const *words, size_t count)
{
    const char *nearest = NULL;
    unsigned best = s.len > 5 ? 3 : 2; /* one less than this is still near */

    if (s.len > WORD_BYTES_MAX)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        struct span word = span_text(words[i]);
        if (word.len > WORD_BYTES_MAX)
            continue;
        unsigned distance = edit_distance(s, word);
        if (distance < best && distance < s.len && distance < word.len) {
            best = distance;
            nearest = words[i];
        }
    }
    return nearest;
}
