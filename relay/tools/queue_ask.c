/* One question to the running relay. Blocking: it is a program of its own that asks one thing at a
 * time. */
#include <errno.h>
#include <stdlib.h>

#include "core/io.h"
#include "relay/stats/stats_socket.h"
#include "relay/tools/queue_private.h"

#define TIMEOUT_MS 30000
#define ANSWER_BYTES_MAX (HTTP_RESPONSE_HEAD_BYTES_MAX + CONTROL_PAGE_BYTES_MAX + 4096u)

static int
read_all(int socket, char *data, size_t size, size_t *len)
{
    *len = 0;
    while (*len < size) {
        long n = stats_receive(socket, data + *len, size - *len);

        if (n <= 0)
            return (int)n;
        *len += (size_t)n;
    }
    return -EMSGSIZE;
}

/* The body of an answer that is whole, and its status; 0: it is no answer. */
static unsigned
answer_split(struct span answer, struct span *body)
{
    static const char start[] = "HTTP/1.1 ";
    const char *end = answer.len > 0 ? memmem(answer.data, answer.len, "\r\n\r\n", 4) : NULL;
    struct span rest, length;
    uint64_t status, bytes;
    const char *field;

    if (end == NULL || !span_starts_ignore_case(answer, span_text(start)))
        return 0;
    *body = span_after(answer, (size_t)(end + 4 - answer.data));
    rest = span_after(answer, strlen(start));
    field = memmem(answer.data, answer.len, "\r\nContent-Length: ", 18);
    if (!span_take_number(&rest, &status) || status < 200 || status > 599 || field == NULL ||
        field > end)
        return 0;
    length = span_of(field + 18, (size_t)(end - field - 18));
    return span_take_number(&length, &bytes) && bytes == body->len ? (unsigned)status : 0;
}

static int
page_take(struct span answer, struct control_page *page,
          uint16_t (*hop_index)(void *context, struct span name), void *context, char **text)
{
    struct span body = { 0 };
    unsigned status = answer_split(answer, &body);

    if (status == 200 && control_page_read(body, page, hop_index, context))
        return 0;
    if (status == 0 || status == 200)
        body = SPAN("what answers there is another version of ringpost");
    *text = malloc(body.len + 1);
    if (*text == NULL)
        return -ENOMEM;
    memcpy(*text, body.data, body.len);
    (*text)[body.len] = '\0';
    return -EPROTO;
}

int
ask_page(const struct config_address *address, const struct control_request *request,
         struct control_page *page, uint16_t (*hop_index)(void *context, struct span name),
         void *context, char **text)
{
    static char question[HTTP_REQUEST_BYTES_MAX];
    struct outbuf out = { .data = question, .size = sizeof(question) };
    char *answer;
    size_t len;
    int result, socket;

    *text = NULL;
    control_request_write(request, &out);
    socket = stats_connect(address, TIMEOUT_MS);
    if (socket < 0)
        return socket;
    answer = malloc(ANSWER_BYTES_MAX);
    result = answer == NULL ? -ENOMEM : stats_send(socket, outbuf_span(&out));
    if (result == 0)
        result = read_all(socket, answer, ANSWER_BYTES_MAX, &len);
    if (result == 0 && len == 0)
        result = -ETIMEDOUT;
    if (result == 0)
        result = page_take(span_of(answer, len), page, hop_index, context, text);
    io_close_now(socket);
    free(answer);
    return result;
}
