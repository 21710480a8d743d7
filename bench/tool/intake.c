/* The receiving side's look at a message: one pass over its octets, two with a ledger. */
#include "bench/tool/intake.h"

#include "core/crc32c.h"
#include "core/line.h"

enum { AFTER_NOTHING, AFTER_DOT, AFTER_DOT_CR };

void
intake_start(struct intake *intake, bool framed, bool summing)
{
    *intake = (struct intake){ .framed = framed, .summing = summing, .before = { '\r', '\n' } };
}

/* --- content, without stuffing --- */

/* A header line is whole. */
static void
header_line(struct intake *intake)
{
    struct span line = span_of(intake->line, intake->line_len);

    intake->line_len = 0;
    if (line.len > 0 && line.data[line.len - 1] == '\r')
        line.len--;
    if (line.len == 0)
        intake->header_done = true;
    else if (span_starts_ignore_case(line, SPAN(MESSAGE_ID_FIELD)))
        intake->identified =
            message_id_parse(span_after(line, sizeof(MESSAGE_ID_FIELD) - 1), &intake->id);
}

/* What it used of the header section. */
static size_t
header_take(struct intake *intake, struct span s)
{
    size_t used = 0;

    while (used < s.len && !intake->identified && !intake->header_done) {
        const char *at = s.data + used;
        const char *end = memchr(at, '\n', s.len - used);
        size_t len = end != NULL ? (size_t)(end - at) : s.len - used;
        size_t room = sizeof(intake->line) - intake->line_len;

        memcpy(intake->line + intake->line_len, at, len < room ? len : room);
        intake->line_len = (uint8_t)(intake->line_len + (len < room ? len : room));
        used += end != NULL ? len + 1 : len;
        if (end != NULL)
            header_line(intake);
    }
    return used;
}

static void
content(struct intake *intake, struct span s)
{
    intake->size += s.len;
    if (!intake->summing)
        return;
    if (!intake->identified && !intake->header_done)
        span_advance(&s, header_take(intake, s));
    if (intake->identified)
        intake->digest = crc32c(intake->digest, s);
}

/* --- the wire --- */

static void
remember(struct intake *intake, struct span s)
{
    if (s.len >= 2)
        intake->before[0] = s.data[s.len - 2];
    else if (s.len == 1)
        intake->before[0] = intake->before[1];
    if (s.len >= 1)
        intake->before[1] = s.data[s.len - 1];
}

/* Behind a dot that began a line. True: the message ends here. */
static bool
after_dot(struct intake *intake, struct span *in)
{
    char c = in->data[0];

    if (intake->after == AFTER_DOT && c == '\r') {
        intake->after = AFTER_DOT_CR;
        span_advance(in, 1);
        return false;
    }
    if (intake->after == AFTER_DOT_CR && c == '\n') {
        span_advance(in, 1);
        return true;
    }
    if (intake->after == AFTER_DOT_CR) {
        content(intake, SPAN("\r"));
        remember(intake, SPAN("\r"));
    }
    intake->after = AFTER_NOTHING;
    return false;
}

/* The next dot behind a whole CRLF (RFC 5321 4.1.1.4: nothing else begins a line). */
static size_t
dot_find(const struct intake *intake, struct span in, bool line_start)
{
    size_t at = 0;

    for (;;) {
        at += body_find_stuffing(span_after(in, at), line_start && at == 0);
        if (at == in.len || at == 0)
            return at;
        if ((at == 1 ? intake->before[1] : in.data[at - 2]) == '\r')
            return at;
        at++;
        if (at == in.len)
            return at;
    }
}

bool
intake_add(struct intake *intake, struct span *in)
{
    if (!intake->framed) {
        content(intake, *in);
        span_advance(in, in->len);
        return false;
    }
    while (in->len > 0) {
        bool line_start = intake->before[0] == '\r' && intake->before[1] == '\n';
        size_t at;

        if (intake->after != AFTER_NOTHING) {
            if (after_dot(intake, in))
                return true;
            if (intake->after != AFTER_NOTHING)
                continue;
            line_start = false;
        }
        at = dot_find(intake, *in, line_start);
        content(intake, span_first(*in, at));
        remember(intake, span_first(*in, at));
        span_advance(in, at);
        if (in->len > 0) {
            /* before[] says '.': what follows begins no line. */
            remember(intake, SPAN("."));
            span_advance(in, 1);
            intake->after = AFTER_DOT;
        }
    }
    return false;
}
