/* http: the little HTTP/1.1 that a statistics endpoint needs, as pure functions.
 * Does:    reads a request head (RFC 9112 2 to 5), writes a response head (RFC 9110, RFC 9112 4).
 *          No bodies, no keep-alive: every response closes the connection.
 * Owns:    nothing; a request points into the input.
 * Memory:  none allocated.
 * Errors:  whatever a client sends is a result; the result says which status answers it.
 */
#ifndef RINGPOST_RELAY_STATS_HTTP_H
#define RINGPOST_RELAY_STATS_HTTP_H

#include "core/span.h"

/* Request line and fields together. Prometheus sends about 300 bytes, a browser about 1000. */
#define HTTP_REQUEST_BYTES_MAX 4096
#define HTTP_RESPONSE_HEAD_BYTES_MAX 512

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OTHER };

struct http_request {
    enum http_method method;
    struct span path;  /* begins with '/', query cut off; not percent-decoded */
    struct span query; /* behind the first '?', without it; empty: none; not percent-decoded */
};

enum http_result {
    HTTP_PARTIAL,  /* well-formed so far */
    HTTP_COMPLETE, /* *request is set */
    HTTP_BAD,      /* 400 */
    HTTP_TOO_LONG, /* 431 */
    HTTP_VERSION   /* 505 */
};

/* `in` is all that came so far. */
MUST_USE enum http_result http_request_parse(struct span in, struct http_request *request);

struct http_response {
    unsigned status; /* 200, 400, 404, 405, 431, 500, 503, 505 */
    struct span content_type;
    uint64_t content_bytes;
    uint64_t date_ns; /* since 1970, for Date: */
};

/* `out` needs HTTP_RESPONSE_HEAD_BYTES_MAX. */
void http_response_write(const struct http_response *response, struct outbuf *out);

/* The status that answers a result other than PARTIAL and COMPLETE. */
unsigned http_result_status(enum http_result result);

#endif
