/* Target: http_request_parse(). Checks that more bytes never change a final answer, that a
 * complete request points into its input, and that the answer does not depend on what lies
 * behind the head. */
#include <stdlib.h>

#include "relay/stats/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool good)
{
    if (!good)
        abort();
}

static void
check_complete(struct span in, const struct http_request *request)
{
    check(request->method <= HTTP_OTHER);
    check(request->path.len > 0 && request->path.len < in.len);
    check(request->path.data[0] == '/' || request->path.data[0] == '*');
    for (size_t i = 0; i < request->path.len; i++)
        check((uint8_t)request->path.data[i] > ' ' && request->path.data[i] != '?');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct http_request request;
    enum http_result whole = http_request_parse(in, &request);

    if (whole == HTTP_COMPLETE)
        check_complete(in, &request);
    if (whole == HTTP_TOO_LONG)
        check(size >= HTTP_REQUEST_BYTES_MAX);
    /* The same bytes as a connection brings them. */
    for (size_t len = 0; len <= size && size < 512; len++) {
        enum http_result part = http_request_parse(span_first(in, len), &request);

        if (part == HTTP_PARTIAL)
            continue;
        check(part == whole);
        break;
    }
    return 0;
}
