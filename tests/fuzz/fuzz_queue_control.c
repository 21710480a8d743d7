/* Targets: control_request_read() behind http_request_parse(), and control_page_read(). Checks that
 * what is understood comes back the same when it is written and read again, and stays within its
 * bounds. */
#include <stdlib.h>

#include "relay/queue/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool good)
{
    if (!good)
        abort();
}

/* --- requests --- */

static bool
read_request(struct span in, struct control_request *out)
{
    struct http_request http;
    unsigned status = 0;
    const char *wrong;

    if (http_request_parse(in, &http) != HTTP_COMPLETE)
        return false;
    wrong = control_request_read(&http, out, &status);
    check(wrong == NULL ? status == 200 : status >= 400 && wrong[0] != '\0');
    return wrong == NULL;
}

static void
check_request(struct span in)
{
    static char text[2][HTTP_REQUEST_BYTES_MAX];
    struct control_request request;
    struct outbuf out[2];

    if (!read_request(in, &request))
        return;
    check(request.target_count <= CONTROL_TARGETS_MAX);
    check(request.action < CONTROL_ACTIONS);
    check(request.states < 1u << QUEUE_STATES);
    check(strnlen(request.hop, CONTROL_NAME_BYTES) < CONTROL_NAME_BYTES);
    if (request.action != CONTROL_LIST)
        check(request.all || request.hop_given || request.states != 0 || request.age_min_s != 0 ||
              request.target_count > 0);
    for (uint32_t i = 0; i < request.target_count; i++)
        check(request.targets[i].id[0] != '\0' && request.targets[i].id[15] == '\0');
    for (int i = 0; i < 2; i++) {
        out[i] = (struct outbuf){ .data = text[i], .size = sizeof(text[i]) };
        control_request_write(&request, &out[i]);
        check(read_request(outbuf_span(&out[i]), &request));
    }
    check(span_equal(outbuf_span(&out[0]), outbuf_span(&out[1])));
}

/* --- pages --- */

struct names {
    char text[8][CONTROL_NAME_BYTES];
    uint16_t count;
};

static uint16_t
name_index(void *context, struct span name)
{
    struct names *names = context;

    check(name.len > 0 && name.len < CONTROL_NAME_BYTES);
    for (uint16_t i = 0; i < names->count; i++)
        if (span_equal(span_text(names->text[i]), name))
            return i;
    if (names->count == 8 || memchr(name.data, '\0', name.len) != NULL)
        return UINT16_MAX;
    memcpy(names->text[names->count], name.data, name.len);
    names->text[names->count][name.len] = '\0';
    return names->count++;
}

static const char *
name_of(const void *context, uint32_t hop)
{
    const struct names *names = context;

    check(hop < names->count);
    return names->text[hop];
}

static void
check_page(struct span in)
{
    static char text[2][CONTROL_PAGE_BYTES_MAX];
    static struct control_page page;
    struct names names = { .count = 0 };
    struct outbuf out[2];

    if (!control_page_read(in, &page, name_index, &names))
        return;
    check(page.count <= CONTROL_ITEMS_MAX && page.worker < page.workers);
    for (int i = 0; i < 2; i++) {
        out[i] = (struct outbuf){ .data = text[i], .size = sizeof(text[i]) };
        control_page_write(&page, name_of, &names, &out[i]);
        check(control_page_read(outbuf_span(&out[i]), &page, name_index, &names));
    }
    check(span_equal(outbuf_span(&out[0]), outbuf_span(&out[1])));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);

    check_request(in);
    check_page(in);
    return 0;
}
