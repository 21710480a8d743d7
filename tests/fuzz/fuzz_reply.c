/* A next hop may send anything. Oracle: what is kept of it can be written, and reads back the
 * same. */
#include <stdint.h>

#include "core/reply.h"
#include "core/utf8.h"
#include "tests/unit/reply_round_trip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
line_check(struct span in, const struct reply_line *line)
{
    struct enhanced_code code;

    ASSERT(line->code >= 200 && line->code <= 599);
    ASSERT(line->text.data >= in.data && line->text.data + line->text.len == in.data + in.len);
    if (line->enhanced.class == 0)
        return;
    ASSERT(line->enhanced.class == line->code / 100);
    ASSERT(line->code / 100 != 3);
    ASSERT(enhanced_code_parse(span_after(in, 4), &code) > 0);
    ASSERT(code.class == line->enhanced.class && code.detail == line->enhanced.detail);
}

static void
reply_check_all(struct reply *reply)
{
    ASSERT(reply->text_len <= REPLY_TEXT_BYTES_MAX);
    reply_round_trip(reply, true);
    reply_round_trip(reply, false);
    reply_make_ascii(reply);
    for (size_t i = 0; i < reply->text_len; i++)
        ASSERT(reply->text[i] == '\n' || (reply->text[i] >= ' ' && reply->text[i] <= '~'));
    reply_round_trip(reply, true);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct span in = span_of(data, len);
    struct reply reply;

    reply_clear(&reply);
    while (in.len > 0) {
        const char *line_end = memchr(in.data, '\n', in.len);
        size_t line_len = line_end != NULL ? (size_t)(line_end - in.data) : in.len;
        struct span text = span_first(in, line_len);
        struct reply_line line;

        span_advance(&in, line_len + (line_end != NULL ? 1 : 0));
        if (!reply_line_parse(text, &line))
            continue;
        line_check(text, &line);
        uint16_t code = reply.code;
        ASSERT(reply_add_line(&reply, &line) == (code == 0 || code == line.code));
    }
    if (reply.code != 0)
        reply_check_all(&reply);

    /* The same octets as a text of ours. */
    reply_set(&reply, 451, "4.3.0", span_of(data, len));
    reply_check_all(&reply);
    return 0;
}
