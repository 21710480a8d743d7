/* A strict parser of request heads: what RFC 9112 lets a server reject is rejected, because
 * nobody who has a right to read statistics sends it. */
#include "relay/stats/http.h"

#include "core/clock.h"

/* RFC 9110 5.6.2 */
static bool
byte_is_token(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static size_t
token_len(struct span in)
{
    size_t len = 0;

    while (len < in.len && byte_is_token(in.data[len]))
        len++;
    return len;
}

enum line_result { LINE_PARTIAL, LINE_DONE, LINE_BAD };

/* Takes one line off *in. A bare CR or LF, or another control character, makes it bad (RFC 9112
 * 2.2, RFC 9110 5.5). */
static enum line_result
line_take(struct span *in, struct span *line)
{
    for (size_t i = 0; i < in->len; i++) {
        uint8_t c = (uint8_t)in->data[i];

        if (c == '\r') {
            if (i + 1 == in->len)
                return LINE_PARTIAL;
            if (in->data[i + 1] != '\n')
                return LINE_BAD;
            *line = span_first(*in, i);
            span_advance(in, i + 2);
            return LINE_DONE;
        }
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return LINE_BAD;
    }
    return LINE_PARTIAL;
}

/* HTTP-version (RFC 9112 2.3). Any minor version of 1 is ours to answer (RFC 9110 2.5). */
static enum http_result
version_parse(struct span version, bool *needs_host)
{
    if (version.len != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.' ||
        version.data[5] < '0' || version.data[5] > '9' || version.data[7] < '0' ||
        version.data[7] > '9')
        return HTTP_BAD;
    if (version.data[5] != '1')
        return HTTP_VERSION;
    *needs_host = version.data[7] != '0';
    return HTTP_COMPLETE;
}

/* Path and query of a request target: origin-form, or absolute-form, which a server must accept
 * (RFC 9112 3.2.2). */
static enum http_result
target_parse(struct span target, struct http_request *request)
{
    size_t end = 0;

    for (size_t i = 0; i < target.len; i++)
        if (target.data[i] <= ' ' || target.data[i] == 0x7f)
            return HTTP_BAD;
    if (span_starts_ignore_case(target, SPAN("http://"))) {
        span_advance(&target, strlen("http://"));
        while (target.len > 0 && target.data[0] != '/' && target.data[0] != '?')
            span_advance(&target, 1);
        if (target.len == 0 || target.data[0] == '?') {
            request->path = SPAN("/");
            request->query = span_after(target, target.len > 0);
            return HTTP_COMPLETE;
        }
    }
    if (target.len == 0 || (target.data[0] != '/' && !span_equal(target, SPAN("*"))))
        return HTTP_BAD;
    while (end < target.len && target.data[end] != '?')
        end++;
    request->path = span_first(target, end);
    request->query = span_after(target, end < target.len ? end + 1 : end);
    return HTTP_COMPLETE;
}

/* method SP request-target SP HTTP-version (RFC 9112 3) */
static enum http_result
request_line_parse(struct span line, struct http_request *request, bool *needs_host)
{
    size_t len = token_len(line);
    struct span method = span_first(line, len);
    enum http_result result;

    if (len == 0 || len == line.len || line.data[len] != ' ')
        return HTTP_BAD;
    line = span_after(line, len + 1);
    for (len = 0; len < line.len && line.data[len] != ' ';)
        len++;
    if (len == line.len)
        return HTTP_BAD;
    result = version_parse(span_after(line, len + 1), needs_host);
    if (result != HTTP_COMPLETE)
        return result;
    /* Methods are case-sensitive (RFC 9110 9.1). */
    request->method = span_equal(method, SPAN("GET"))    ? HTTP_GET
                      : span_equal(method, SPAN("HEAD")) ? HTTP_HEAD
                      : span_equal(method, SPAN("POST")) ? HTTP_POST
                                                         : HTTP_OTHER;
    return target_parse(span_first(line, len), request);
}

/* field-name ":" value. No white space before the colon and no folding (RFC 9112 5.1, 5.2): a
 * folded line begins with white space, which is no token either. */
static bool
field_parse(struct span line, unsigned *hosts)
{
    size_t len = token_len(line);

    if (len == 0 || len == line.len || line.data[len] != ':')
        return false;
    *hosts += span_equal_ignore_case(span_first(line, len), SPAN("Host"));
    return true;
}

static enum http_result
head_parse(struct span in, struct http_request *request)
{
    bool needs_host = false, first = true;
    unsigned hosts = 0;

    while (true) {
        struct span line;
        enum line_result taken = line_take(&in, &line);
        enum http_result result;

        if (taken == LINE_BAD)
            return HTTP_BAD;
        if (taken == LINE_PARTIAL)
            return HTTP_PARTIAL;
        if (first && line.len == 0)
            continue; /* empty lines before the request line are skipped (RFC 9112 2.2) */
        if (first) {
            first = false;
            result = request_line_parse(line, request, &needs_host);
            if (result != HTTP_COMPLETE)
                return result;
        } else if (line.len == 0) {
            /* One Host field in HTTP/1.1, and never two (RFC 9112 3.2). */
            return hosts > 1 || (needs_host && hosts == 0) ? HTTP_BAD : HTTP_COMPLETE;
        } else if (!field_parse(line, &hosts)) {
            return HTTP_BAD;
        }
    }
}

enum http_result
http_request_parse(struct span in, struct http_request *request)
{
    bool full = in.len >= HTTP_REQUEST_BYTES_MAX;
    enum http_result result;

    result = head_parse(span_first(in, full ? HTTP_REQUEST_BYTES_MAX : in.len), request);
    return result == HTTP_PARTIAL && full ? HTTP_TOO_LONG : result;
}

unsigned
http_result_status(enum http_result result)
{
    ASSERT(result != HTTP_PARTIAL && result != HTTP_COMPLETE);
    return result == HTTP_BAD ? 400 : result == HTTP_TOO_LONG ? 431 : 505;
}

static struct span
status_text(unsigned status)
{
    switch (status) {
    case 200:
        return SPAN("200 OK");
    case 400:
        return SPAN("400 Bad Request");
    case 404:
        return SPAN("404 Not Found");
    case 405:
        return SPAN("405 Method Not Allowed");
    case 431:
        return SPAN("431 Request Header Fields Too Large");
    case 500:
        return SPAN("500 Internal Server Error");
    case 503:
        return SPAN("503 Service Unavailable");
    default:
        ASSERT(status == 505);
        return SPAN("505 HTTP Version Not Supported");
    }
}

static void
add_two_digits(struct outbuf *out, uint64_t number)
{
    outbuf_add_char(out, (char)('0' + number / 10 % 10));
    outbuf_add_char(out, (char)('0' + number % 10));
}

/* IMF-fixdate (RFC 9110 5.6.7): Sun, 06 Nov 1994 08:49:37 GMT */
static void
add_date(struct outbuf *out, uint64_t second)
{
    static const char day_names[] = "ThuFriSatSunMonTueWed"; /* 1970 began on a Thursday */
    static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const uint8_t month_days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    uint64_t day = second / 86400, year = 1970, month = 0, name = day % 7;

    while (true) {
        bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        uint64_t days = month_days[month] + (month == 1 && leap ? 1u : 0u);

        if (day < days)
            break;
        day -= days;
        month = (month + 1) % 12;
        year += month == 0;
    }
    outbuf_add(out, span_of(day_names + 3 * name, 3));
    outbuf_add(out, SPAN(", "));
    add_two_digits(out, day + 1);
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_of(month_names + 3 * month, 3));
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, year);
    outbuf_add_char(out, ' ');
    add_two_digits(out, second / 3600 % 24);
    outbuf_add_char(out, ':');
    add_two_digits(out, second / 60 % 60);
    outbuf_add_char(out, ':');
    add_two_digits(out, second % 60);
    outbuf_add(out, SPAN(" GMT"));
}

void
http_response_write(const struct http_response *response, struct outbuf *out)
{
    ASSERT(outbuf_room(out) >= HTTP_RESPONSE_HEAD_BYTES_MAX);
    outbuf_add(out, SPAN("HTTP/1.1 "));
    outbuf_add(out, status_text(response->status));
    outbuf_add(out, SPAN("\r\nDate: "));
    add_date(out, response->date_ns / NS_PER_S);
    outbuf_add(out, SPAN("\r\nContent-Type: "));
    outbuf_add(out, response->content_type);
    outbuf_add(out, SPAN("\r\nContent-Length: "));
    outbuf_add_number(out, response->content_bytes);
    /* RFC 9110 15.5.6: a 405 names what is allowed. */
    if (response->status == 405)
        outbuf_add(out, SPAN("\r\nAllow: GET, HEAD"));
    outbuf_add(out, SPAN("\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"));
}
