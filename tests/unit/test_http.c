/* Request heads of the statistics endpoint: what is answered, what is refused, at every
 * truncation. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "core/clock.h"
#include "relay/stats/http.h"
#include "tests/unit/guard.h"

#define HOST "Host: a\r\n"

static const struct request_row {
    const char *name;
    struct span input;
    enum http_result want;
    enum http_method method;
    const char *path;
} request_rows[] = {
    { "curl", SPAN("GET /metrics HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.88.1\r\n"
                   "Accept: */*\r\n\r\n"),
      HTTP_COMPLETE, HTTP_GET, "/metrics" },
    { "prometheus", SPAN("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9125\r\nUser-Agent: Prometheus/"
                         "2.42.0\r\nAccept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n"
                         "X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"),
      HTTP_COMPLETE, HTTP_GET, "/metrics" },
    { "HTTP/1.0 without Host", SPAN("HEAD /healthz HTTP/1.0\r\n\r\n"), HTTP_COMPLETE, HTTP_HEAD,
      "/healthz" },
    { "query", SPAN("GET /metrics?a=b?c HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE, HTTP_GET,
      "/metrics" },
    { "absolute form", SPAN("GET http://a:1/stats.json HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE,
      HTTP_GET, "/stats.json" },
    { "absolute form without path", SPAN("GET HTTP://a?x HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE,
      HTTP_GET, "/" },
    { "absolute form, authority alone", SPAN("GET http://a HTTP/1.1\r\n" HOST "\r\n"),
      HTTP_COMPLETE, HTTP_GET, "/" },
    { "asterisk form", SPAN("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE, HTTP_OTHER, "*" },
    { "other method", SPAN("POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nbody"),
      HTTP_COMPLETE, HTTP_POST, "/" },
    { "methods are case-sensitive", SPAN("get / HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE,
      HTTP_OTHER, "/" },
    { "empty lines first", SPAN("\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE, HTTP_GET,
      "/" },
    { "minor version", SPAN("GET / HTTP/1.9\r\nhOST:a\r\n\r\n"), HTTP_COMPLETE, HTTP_GET, "/" },
    { "empty values, any bytes", SPAN("GET / HTTP/1.1\r\n" HOST "X:\r\nY:\t\xff\xfe \r\n\r\n"),
      HTTP_COMPLETE, HTTP_GET, "/" },
    { "percent stays", SPAN("GET /%6detrics HTTP/1.1\r\n" HOST "\r\n"), HTTP_COMPLETE, HTTP_GET,
      "/%6detrics" },
    { "nothing", SPAN(""), HTTP_PARTIAL, HTTP_GET, NULL },
    { "only empty lines", SPAN("\r\n\r\n"), HTTP_PARTIAL, HTTP_GET, NULL },
    { "no Host in 1.1", SPAN("GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "two Hosts", SPAN("GET / HTTP/1.1\r\n" HOST HOST "\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "two Hosts in 1.0", SPAN("GET / HTTP/1.0\r\n" HOST HOST "\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "bare LF", SPAN("GET / HTTP/1.1\n"), HTTP_BAD, HTTP_GET, NULL },
    { "bare CR", SPAN("GET / HTTP/1.1\rHost"), HTTP_BAD, HTTP_GET, NULL },
    { "bare LF in a field", SPAN("GET / HTTP/1.1\r\nHost: a\n"), HTTP_BAD, HTTP_GET, NULL },
    { "NUL", SPAN("GET /\0 HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "NUL in a field", SPAN("GET / HTTP/1.1\r\nHost: \0"), HTTP_BAD, HTTP_GET, NULL },
    { "NUL as a method", SPAN("\0 / HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "no method", SPAN(" / HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "no target", SPAN("GET  HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "no version (0.9)", SPAN("GET /\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "method alone", SPAN("GET\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "two spaces", SPAN("GET /  HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "space at the end", SPAN("GET / HTTP/1.1 \r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "tab for a space", SPAN("GET\t/ HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "tab in the target", SPAN("GET /\ta HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "relative target", SPAN("GET metrics HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "authority form", SPAN("CONNECT a:443 HTTP/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "lower case version", SPAN("GET / http/1.1\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "long version", SPAN("GET / HTTP/1.10\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "version letters", SPAN("GET / HTTP/1.x\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "HTTP/2", SPAN("PRI * HTTP/2.0\r\n"), HTTP_VERSION, HTTP_GET, NULL },
    { "space before colon", SPAN("GET / HTTP/1.1\r\nHost : a\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "folded field", SPAN("GET / HTTP/1.1\r\nHost: a\r\n b\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "no colon", SPAN("GET / HTTP/1.1\r\nHost\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "no field name", SPAN("GET / HTTP/1.1\r\n: a\r\n"), HTTP_BAD, HTTP_GET, NULL },
    { "TLS hello", SPAN("\x16\x03\x01\x02"), HTTP_BAD, HTTP_GET, NULL },
};

/* Every row as it is, and cut at every byte: a part of what is accepted is PARTIAL, and a part
 * of what is refused is PARTIAL until the result is final. */
Test(http, requests)
{
    static struct guard guard;

    for (size_t i = 0; i < sizeof(request_rows) / sizeof(request_rows[0]); i++) {
        const struct request_row *row = &request_rows[i];
        struct http_request request;

        for (size_t len = 0; len <= row->input.len; len++) {
            struct span input = guard_end(&guard, row->input.data, len);
            enum http_result result = http_request_parse(input, &request);

            if (len < row->input.len)
                cr_assert(result == HTTP_PARTIAL || result == row->want, "%s: %d at %zu", row->name,
                          result, len);
            else
                cr_assert_eq(result, row->want, "%s: %d", row->name, result);
            if (result == HTTP_COMPLETE) {
                cr_assert_eq(request.method, row->method, "%s", row->name);
                cr_assert(span_equal(request.path, span_text(row->path)), "%s: %.*s", row->name,
                          (int)request.path.len, request.path.data);
            }
        }
    }
}

Test(http, queries)
{
    static const struct {
        const char *target, *path, *query;
    } rows[] = {
        { "/", "/", "" },          { "/?", "/", "" },          { "/a?b=c&d", "/a", "b=c&d" },
        { "/a?b?c", "/a", "b?c" }, { "/?/a", "/", "/a" },      { "http://h/a?b", "/a", "b" },
        { "http://h?b", "/", "b" }, { "http://h?", "/", "" }, { "http://h", "/", "" },
        { "*", "*", "" },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct http_request request = { .query = SPAN("before") };
        char head[128];

        snprintf(head, sizeof(head), "GET %s HTTP/1.0\r\n\r\n", rows[i].target);
        cr_assert_eq(http_request_parse(span_text(head), &request), HTTP_COMPLETE);
        cr_assert(span_equal(request.path, span_text(rows[i].path)), "%s", rows[i].target);
        cr_assert(span_equal(request.query, span_text(rows[i].query)), "%s", rows[i].target);
    }
}

Test(http, long_heads)
{
    static char input[HTTP_REQUEST_BYTES_MAX + 1];
    static const char start[] = "GET / HTTP/1.1\r\nHost: ";
    struct http_request request;

    memset(input, 'a', sizeof(input));
    memcpy(input, start, sizeof(start) - 1);
    cr_assert_eq(http_request_parse(span_of(input, HTTP_REQUEST_BYTES_MAX - 1), &request),
                 HTTP_PARTIAL);
    cr_assert_eq(http_request_parse(span_of(input, HTTP_REQUEST_BYTES_MAX), &request),
                 HTTP_TOO_LONG);
    memcpy(input + HTTP_REQUEST_BYTES_MAX - 4, "\r\n\r\n", 4);
    cr_assert_eq(http_request_parse(span_of(input, HTTP_REQUEST_BYTES_MAX), &request),
                 HTTP_COMPLETE);
    memmove(input + HTTP_REQUEST_BYTES_MAX - 3, "\r\n\r\n", 4);
    input[HTTP_REQUEST_BYTES_MAX - 4] = 'a';
    cr_assert_eq(http_request_parse(span_of(input, sizeof(input)), &request), HTTP_TOO_LONG);
    cr_assert_eq(http_result_status(HTTP_BAD), 400);
    cr_assert_eq(http_result_status(HTTP_TOO_LONG), 431);
    cr_assert_eq(http_result_status(HTTP_VERSION), 505);
}

Test(http, responses)
{
    static const struct {
        unsigned status;
        uint64_t second;
        const char *line, *date, *extra;
    } rows[] = {
        { 200, 784111777, "200 OK", "Sun, 06 Nov 1994 08:49:37 GMT", "" },
        { 400, 0, "400 Bad Request", "Thu, 01 Jan 1970 00:00:00 GMT", "" },
        { 404, 951782400, "404 Not Found", "Tue, 29 Feb 2000 00:00:00 GMT", "" },
        { 405, 1735689599, "405 Method Not Allowed", "Tue, 31 Dec 2024 23:59:59 GMT",
          "Allow: GET, HEAD\r\n" },
        { 431, 1735689600, "431 Request Header Fields Too Large", "Wed, 01 Jan 2025 00:00:00 GMT",
          "" },
        { 500, 4107542400, "500 Internal Server Error", "Mon, 01 Mar 2100 00:00:00 GMT", "" },
        { 503, 1709164800, "503 Service Unavailable", "Thu, 29 Feb 2024 00:00:00 GMT", "" },
        { 505, 1709251200, "505 HTTP Version Not Supported", "Fri, 01 Mar 2024 00:00:00 GMT", "" },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct http_response response = { .status = rows[i].status,
                                          .content_type = SPAN("text/plain"),
                                          .content_bytes = UINT64_MAX,
                                          .date_ns = rows[i].second * NS_PER_S };
        char data[HTTP_RESPONSE_HEAD_BYTES_MAX], want[HTTP_RESPONSE_HEAD_BYTES_MAX];
        struct outbuf out = { .data = data, .size = sizeof(data) };

        http_response_write(&response, &out);
        snprintf(want, sizeof(want),
                 "HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: text/plain\r\n"
                 "Content-Length: 18446744073709551615\r\n%s"
                 "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
                 rows[i].line, rows[i].date, rows[i].extra);
        cr_assert(span_equal(outbuf_span(&out), span_text(want)), "%.*s", (int)out.len, data);
    }
}
