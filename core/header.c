/* The only two places where a relay touches a header section: counting trace fields, so that a mail
 * loop ends, and writing our own. All else in it is the sender's. */
#include "core/header.h"

#include "core/address.h"
#include "core/utf8.h"

/* --- reading --- */

/* Where header_scan is in a line. A field is name, optional blanks (RFC 5322 4.5), colon, value. */
enum header_state {
    LINE_START,
    FIRST_CR, /* a CR at the line start: the empty line, if LF follows */
    NAME,
    NAME_BLANK, /* blanks between name and colon */
    VALUE,
    VALUE_CR, /* a CR in the value: the line's end, if LF follows */
};

enum { NAME_DIFFERS = UINT8_MAX }; /* for header_scanner.matched */

static const char received_name[] = "received";
enum { RECEIVED_LEN = sizeof(received_name) - 1 };

void
header_scanner_start(struct header_scanner *scanner)
{
    *scanner = (struct header_scanner){ .state = LINE_START };
}

/* Passes over the value from `at` to its next CR, at memory speed: most of a header is values. */
static size_t
header_skip_value(struct header_scanner *scanner, struct span in, size_t at, bool seven_bit)
{
    const char *cr = memchr(in.data + at, '\r', in.len - at);
    size_t len = cr != NULL ? (size_t)(cr - in.data) - at : in.len - at;

    if (!seven_bit && !scanner->eight_bit)
        scanner->eight_bit = octets_any_high(span_of(in.data + at, len));
    return at + len;
}

static bool
blank(char octet)
{
    return octet == ' ' || octet == '\t';
}

/* RFC 5322 3.6.8 ftext: printable ASCII but for the colon. RFC 6532 does not extend it. */
static bool
name_octet(char octet)
{
    return octet > ' ' && octet <= '~' && octet != ':';
}

/* Passes over the rest of a name that is not ours to count, as nearly all are. */
static size_t
header_skip_name(struct span in, size_t at)
{
    for (; in.len - at >= OCTETS_WIDTH; at += OCTETS_WIDTH) {
        uint64_t octets = octets_load(in.data + at);
        uint64_t found = octets_outside(octets, '!') | octets_equal(octets, ':');

        if (found != 0)
            return at + octets_first(found);
    }
    while (at < in.len && name_octet(in.data[at]))
        at++;
    return at;
}

static enum header_state
header_name_ends(struct header_scanner *scanner)
{
    scanner->received += scanner->matched == RECEIVED_LEN;
    scanner->any_field = true;
    return VALUE;
}

/* One octet at a line start, in a name or in the blanks after it. */
static void
header_step_name(struct header_scanner *scanner, char octet)
{
    bool start = scanner->state == LINE_START;

    if (start && octet == '\r') {
        scanner->state = FIRST_CR;
    } else if (start && blank(octet) && scanner->any_field) {
        scanner->state = VALUE; /* a folded line goes on with the value (RFC 5322 2.2.3) */
    } else if (scanner->state != NAME_BLANK && name_octet(octet)) {
        uint8_t matched = start ? 0 : scanner->matched;
        bool equal = matched < RECEIVED_LEN && char_lower(octet) == received_name[matched];

        scanner->matched = equal ? (uint8_t)(matched + 1) : NAME_DIFFERS;
        scanner->state = NAME;
    } else if (!start && octet == ':') {
        scanner->state = (uint8_t)header_name_ends(scanner);
    } else if (!start && blank(octet)) {
        scanner->state = NAME_BLANK;
    } else {
        scanner->ended = true; /* no line of a header looks like this: the body came without one */
    }
}

/* A name that differs from ours, from its octet at `at` on; with the colon, if that follows. */
static size_t
header_other_name(struct header_scanner *scanner, struct span in, size_t at)
{
    scanner->state = NAME;
    scanner->matched = NAME_DIFFERS;
    at = header_skip_name(in, at);
    if (at == in.len || in.data[at] != ':')
        return at;
    scanner->state = (uint8_t)header_name_ends(scanner);
    return at + 1;
}

/* The value, and its CR, if that is here. */
static size_t
header_value(struct header_scanner *scanner, struct span in, size_t at, bool seven_bit)
{
    at = header_skip_value(scanner, in, at, seven_bit);
    if (at == in.len)
        return at;
    scanner->state = VALUE_CR;
    return at + 1;
}

void
header_scan(struct header_scanner *scanner, struct span in, bool seven_bit)
{
    size_t at = 0;

    while (!scanner->ended && at < in.len) {
        char octet = in.data[at];

        switch ((enum header_state)scanner->state) {
        case LINE_START:
            if (name_octet(octet) && char_lower(octet) != received_name[0]) {
                at = header_other_name(scanner, in, at + 1);
                break;
            }
            header_step_name(scanner, octet);
            at++;
            break;
        case NAME:
            if (scanner->matched == NAME_DIFFERS && name_octet(octet)) {
                at = header_other_name(scanner, in, at + 1);
                break;
            }
            header_step_name(scanner, octet);
            at++;
            break;
        case NAME_BLANK:
            header_step_name(scanner, octet);
            at++;
            break;
        case FIRST_CR: /* the empty line, or a bare CR, which no field begins with */
            scanner->ended = true;
            break;
        case VALUE:
            at = header_value(scanner, in, at, seven_bit);
            break;
        case VALUE_CR:
            scanner->state = octet == '\n' ? LINE_START : VALUE;
            at += octet == '\n'; /* else this octet is the value's: it may be a CR or 8-bit */
            break;
        }
    }
}

/* --- writing --- */

enum {
    COLUMNS = 78, /* RFC 5322 2.1.1 */
    CLIENT_BYTES_MAX = 64,
    QUEUE_ID_BYTES_MAX = 64,
    TLS_WORD_BYTES_MAX = 64,
    LITERAL_BYTES_MAX = CLIENT_BYTES_MAX + 7, /* [IPv6:] */
    FOLD_BYTES = 3,                           /* CR LF HT */
    TAIL_BYTES = FOLD_BYTES + DATE_TIME_BYTES + 2,
    /* All but "for": the fixed words are "Received: from ", "()", "by ", "with UTF8SMTPSA ", "( )",
     * "id ", ";"; each of at most 12 words can be preceded by a fold. */
    FIELD_BYTES_MAX = 64 + 12 * FOLD_BYTES + 2 * DOMAIN_BYTES_MAX + LITERAL_BYTES_MAX +
                      2 * TLS_WORD_BYTES_MAX + QUEUE_ID_BYTES_MAX + TAIL_BYTES,
};
_Static_assert(FIELD_BYTES_MAX + 2 * FOLD_BYTES + 6 + MAILBOX_BYTES_MAX <= TRACE_FIELD_BYTES_MAX,
               "a trace field fits its limit, with any legal mailbox");

/* A field under construction: words with blanks between them that become folds where needed. */
struct field {
    struct outbuf *out;
    size_t column; /* octets in this line; a HT counts as one */
    bool blank;    /* the last octet is blank already */
};

static void
field_add(struct field *field, struct span s)
{
    outbuf_add(field->out, s);
    field->column += s.len;
    field->blank = false;
}

static void
field_fold(struct field *field)
{
    outbuf_add(field->out, SPAN("\r\n\t"));
    field->column = 1;
    field->blank = true;
}

/* Makes room for a word of len octets: nothing after a fold, else a space or a fold. */
static void
field_gap(struct field *field, size_t len)
{
    if (field->blank)
        return;
    if (field->column + 1 + len > COLUMNS) {
        field_fold(field);
        return;
    }
    field_add(field, SPAN(" "));
    field->blank = true;
}

static void
field_word(struct field *field, struct span word)
{
    field_gap(field, word.len);
    field_add(field, word);
}

static const bool letters_and_digits[256] = {
    ['0' ... '9'] = true,
    ['A' ... 'Z'] = true,
    ['a' ... 'z'] = true,
};

static inline bool
letter_or_digit(char octet)
{
    return letters_and_digits[(unsigned char)octet];
}

/* Letters, digits, '-' and `also`: what is an atom or stands in a comment as it is. */
static bool
plain_word(struct span s, char also)
{
    for (size_t i = 0; i < s.len; i++)
        if (!letter_or_digit(s.data[i]) && s.data[i] != '-' && s.data[i] != also)
            return false;
    return s.len > 0;
}

/* RFC 5321 4.1.2 Domain, to the letter: path_parse() and helo_name_valid() pass more, since more is
 * in use, but what we write must be legal for the strictest reader. */
static bool
domain_legal(struct span s)
{
    size_t at = 0, label;

    if (s.len > DOMAIN_BYTES_MAX)
        return false;
    for (;; at++) {
        label = at;
        while (at < s.len && (letter_or_digit(s.data[at]) || s.data[at] == '-'))
            at++;
        if (at == label || at - label > 63 || s.data[label] == '-' || s.data[at - 1] == '-')
            return false;
        if (at == s.len)
            return true;
        if (s.data[at] != '.')
            return false;
    }
}

/* RFC 5321 4.1.3, by the one parser that we have for it, as the domain of a path. */
static bool
literal_legal(struct span s)
{
    char text[4 + DOMAIN_BYTES_MAX];
    struct outbuf path_text = { .data = text, .size = sizeof(text) };
    struct path path;
    size_t consumed;

    if (s.len < 2 || s.len > DOMAIN_BYTES_MAX || s.data[0] != '[')
        return false;
    outbuf_add(&path_text, SPAN("<a@"));
    outbuf_add(&path_text, s);
    outbuf_add(&path_text, SPAN(">"));
    return path_parse(outbuf_span(&path_text), false, &path, &consumed) == ADDRESS_OK &&
           path.literal && !path.utf8 && path.domain.len == s.len;
}

/* [192.0.2.1] or [IPv6:2001:db8::1]; a zone ("%eth0") means nothing to others. Nothing for none. */
static void
literal_write(struct span client, struct outbuf *out)
{
    const char *zone = client.len > 0 ? memchr(client.data, '%', client.len) : NULL;

    if (zone != NULL)
        client.len = (size_t)(zone - client.data);
    ASSERT(client.len <= CLIENT_BYTES_MAX);
    if (client.len == 0)
        return;
    outbuf_add(out, SPAN("["));
    if (memchr(client.data, ':', client.len) != NULL)
        outbuf_add(out, SPAN("IPv6:"));
    outbuf_add(out, client);
    outbuf_add(out, SPAN("]"));
}

/* RFC 5321 4.4 Extended-Domain: the name as said, then in parentheses the address as seen. An
 * address literal may not stand without the latter; a Domain may. */
static void
field_from(struct field *field, const struct trace *trace)
{
    char text[LITERAL_BYTES_MAX];
    struct outbuf literal = { .data = text, .size = sizeof(text) };
    bool said = domain_legal(trace->helo) || literal_legal(trace->helo);

    literal_write(trace->client, &literal);
    field_word(field, SPAN("from"));
    if (literal.len == 0) {
        field_word(field, domain_legal(trace->helo) ? trace->helo : SPAN("unknown"));
        return;
    }
    field_word(field, said ? trace->helo : outbuf_span(&literal));
    field_gap(field, literal.len + 2);
    field_add(field, SPAN("("));
    field_add(field, outbuf_span(&literal));
    field_add(field, SPAN(")"));
}

/* RFC 3848, RFC 6531 4.3. S and A exist only with EHLO: STARTTLS and AUTH need it, but a client may
 * say HELO after them. SMTPUTF8 is a parameter, so EHLO was used. */
static struct span
protocol_name(const struct trace *trace)
{
    static const struct span names[2][2][2] = {
        /* [smtputf8][tls][authenticated] */
        { { SPAN("ESMTP"), SPAN("ESMTPA") }, { SPAN("ESMTPS"), SPAN("ESMTPSA") } },
        { { SPAN("UTF8SMTP"), SPAN("UTF8SMTPA") }, { SPAN("UTF8SMTPS"), SPAN("UTF8SMTPSA") } },
    };

    if (!trace->esmtp && !trace->smtputf8)
        return SPAN("SMTP");
    return names[trace->smtputf8][trace->tls_version.len > 0][trace->authenticated];
}

/* The version and cipher as a comment, which may stand wherever CFWS may. */
static void
field_tls(struct field *field, struct span version, struct span cipher)
{
    if (!plain_word(version, '.') || version.len > TLS_WORD_BYTES_MAX)
        return;
    if (!plain_word(cipher, '_') || cipher.len > TLS_WORD_BYTES_MAX)
        cipher = span_of("", 0);
    field_gap(field, version.len + cipher.len + 3);
    field_add(field, SPAN("("));
    field_add(field, version);
    if (cipher.len > 0)
        field_word(field, cipher);
    field_add(field, SPAN(")"));
}

/* Whether "for <recipient>" is legal: a Path has a domain (so not <postmaster>), and RFC 6531 3.7.3
 * allows UTF-8 only in messages that need SMTPUTF8 anyway. */
static bool
recipient_legal(struct span recipient, bool smtputf8)
{
    for (size_t i = utf8_plain_len(recipient); i < recipient.len; i++) {
        unsigned char octet = (unsigned char)recipient.data[i];

        if (octet < ' ' || octet == 127 || (octet > 127 && !smtputf8))
            return false;
    }
    return recipient.len > 0 && memchr(recipient.data, '@', recipient.len) != NULL;
}

/* --- the date --- */

static void
digits_write(char *at, unsigned count, uint64_t number)
{
    while (count-- > 0) {
        at[count] = (char)('0' + number % 10);
        number /= 10;
    }
}

static bool
leap_year(unsigned year)
{
    return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* RFC 5322 3.3. Counting the years and months one by one is dear, but happens once a second. */
static void
date_write(uint64_t when, char date[DATE_TIME_BYTES])
{
    static const char weekdays[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const uint8_t month_days[12] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    uint64_t days = when / 86400, seconds = when % 86400;
    uint64_t weekday = (days + 4) % 7; /* 1970-01-01 was a Thursday */
    unsigned year = 1970, month = 0, length;

    for (; days >= (length = leap_year(year) ? 366 : 365); year++)
        days -= length;
    for (; days >= (length = month_days[month] + (month == 1 && leap_year(year))); month++)
        days -= length;
    ASSERT(month < 12);
    memcpy(date, "Ddd, 00 Mmm 0000 00:00:00 +0000", DATE_TIME_BYTES);
    memcpy(date, weekdays + 3 * weekday, 3);
    digits_write(date + 5, 2, days + 1);
    memcpy(date + 8, months + 3 * month, 3);
    digits_write(date + 12, 4, year);
    digits_write(date + 17, 2, seconds / 3600);
    digits_write(date + 20, 2, seconds / 60 % 60);
    digits_write(date + 23, 2, seconds % 60);
}

/* A broken clock is the environment's fault: it is held within what a four-digit year can say. */
static struct span
date_text(time_t when)
{
    static const time_t latest = 253402300799; /* the last second of 9999 */
    static _Thread_local struct {
        bool written;
        time_t when;
        char text[DATE_TIME_BYTES];
    } last;

    when = when < 0 ? 0 : when > latest ? latest : when;
    if (!last.written || last.when != when) {
        date_write((uint64_t)when, last.text);
        last.when = when;
        last.written = true;
    }
    return span_of(last.text, DATE_TIME_BYTES);
}

void
date_time_write(time_t when, struct outbuf *out)
{
    outbuf_add(out, date_text(when));
}

void
trace_write(const struct trace *trace, struct outbuf *out)
{
    struct field field = { .out = out };
    size_t start = out->len;
    struct span recipient = trace->recipient;
    bool id = trace->queue_id.len > 0;

    ASSERT(outbuf_room(out) >= TRACE_FIELD_BYTES_MAX);
    ASSERT(trace->by.len > 0 && trace->by.len <= DOMAIN_BYTES_MAX);
    ASSERT(trace->queue_id.len <= QUEUE_ID_BYTES_MAX);
    ASSERT(!id || plain_word(trace->queue_id, '-'));
    field_add(&field, SPAN("Received:"));
    field_from(&field, trace);
    field_fold(&field);
    field_word(&field, SPAN("by"));
    field_word(&field, trace->by);
    field_gap(&field, protocol_name(trace).len + 5);
    field_add(&field, SPAN("with "));
    field_add(&field, protocol_name(trace));
    field_tls(&field, trace->tls_version, trace->tls_cipher);

    if (!recipient_legal(recipient, trace->smtputf8) || recipient.len > MAILBOX_BYTES_MAX)
        recipient.len = 0;
    if (id || recipient.len > 0)
        field_fold(&field);
    if (id) {
        field_add(&field, SPAN("id "));
        field_add(&field, trace->queue_id);
    }
    if (recipient.len > 0) {
        field_gap(&field, recipient.len + 7);
        field_add(&field, SPAN("for <"));
        field_add(&field, recipient);
        field_add(&field, SPAN(">"));
    }
    field_add(&field, SPAN(";"));
    field_fold(&field);
    field_add(&field, date_text(trace->when));
    outbuf_add(out, SPAN("\r\n"));
    ASSERT(out->len - start <= TRACE_FIELD_BYTES_MAX);
}
