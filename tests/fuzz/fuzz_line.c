/* Differential fuzzing of core/line.c and core/header.c: vector code against its scalar twin, and
 * any split against the whole. What differs is a way to smuggle mail.
 * Input: four octets that choose (limit, padding, first cut, further cuts), then the octets. */
#include <stdlib.h>

#include "core/header.h"
#include "core/line.h"
#include "core/masks.h"
#include "core/octets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHOICES = 4, INPUT_MAX = 8192, EVENTS_MAX = 2 * INPUT_MAX };

/* abort() and not ASSERT: a difference is the fuzzer's finding, whatever the build. */
static void
must(bool condition)
{
    if (!condition)
        abort();
}

/* --- message data --- */

struct body_trace {
    size_t count;
    struct {
        size_t offset;
        enum body_result result;
    } events[EVENTS_MAX];
    struct body_scanner scanner;
    bool ended;
};

static struct body_trace whole, other;

typedef enum body_result body_scan_function(struct body_scanner *, struct span *);

/* The scan of one exact-size copy (so that the address sanitizer sees a read beyond it). */
static void
body_feed(struct body_trace *trace, body_scan_function *scan, struct span piece, size_t offset)
{
    char *copy = malloc(piece.len > 0 ? piece.len : 1);
    struct span in = span_of(copy, piece.len);

    must(copy != NULL);
    if (piece.len > 0)
        memcpy(copy, piece.data, piece.len);
    while (in.len > 0 && !trace->ended) {
        enum body_result result = scan(&trace->scanner, &in);

        if (result == BODY_MORE) {
            must(in.len == 0);
            break;
        }
        must(trace->count < EVENTS_MAX);
        trace->events[trace->count].offset = offset + piece.len - in.len;
        trace->events[trace->count++].result = result;
        trace->ended = result == BODY_END;
    }
    free(copy);
}

static void
body_run(struct body_trace *trace, body_scan_function *scan, struct span in, bool framed,
         uint32_t max, size_t first, size_t step)
{
    size_t at = 0, len = first;

    trace->count = 0;
    trace->ended = false;
    body_scanner_start(&trace->scanner, framed, max);
    while (at < in.len) {
        len = len < in.len - at ? len : in.len - at;
        body_feed(trace, scan, span_of(in.data + at, len), at);
        at += len;
        len = step;
    }
}

static void
body_compare(void)
{
    const struct body_scanner *a = &whole.scanner, *b = &other.scanner;

    must(whole.count == other.count && whole.ended == other.ended);
    for (size_t i = 0; i < whole.count; i++)
        must(whole.events[i].offset == other.events[i].offset &&
             whole.events[i].result == other.events[i].result);
    must(a->line_length == b->line_length && a->state == b->state && a->nul == b->nul &&
         a->eight_bit == b->eight_bit && a->dots.count == b->dots.count &&
         memcmp(&a->dots, &b->dots, sizeof(a->dots)) == 0 && a->passed == b->passed &&
         a->ends_with_crlf == b->ends_with_crlf &&
         body_scanner_dangling_cr(a) == body_scanner_dangling_cr(b));
}

/* The end of data is CRLF.CRLF and nothing else (RFC 5321 4.1.1.4), looked for in a plain way. */
static void
body_check_end(struct span in)
{
    size_t end = 0;

    for (size_t i = 0; end == 0 && i + 3 <= in.len; i++)
        if (memcmp(in.data + i, ".\r\n", 3) == 0 &&
            (i == 0 || (i >= 2 && memcmp(in.data + i - 2, "\r\n", 2) == 0)))
            end = i + 3;
    must(whole.ended == (end > 0));
    must(!whole.ended || whole.events[whole.count - 1].offset == end);
}

static void
check_body(struct span in, bool framed, uint32_t max, size_t first, size_t step)
{
    body_run(&whole, body_scan_scalar, in, framed, max, SIZE_MAX, 1);
    if (framed)
        body_check_end(in);
    else
        must(!whole.ended);
    body_run(&other, body_scan, in, framed, max, SIZE_MAX, 1);
    body_compare();
    body_run(&other, body_scan, in, framed, max, first, step);
    body_compare();
    body_run(&other, body_scan_scalar, in, framed, max, first, step);
    body_compare();
}

static void
check_stuffing(struct span in, bool line_start)
{
    size_t want = 0, got = body_find_stuffing(in, line_start);

    while (want < in.len &&
           !(in.data[want] == '.' && (want == 0 ? line_start : in.data[want - 1] == '\n')))
        want++;
    must(got == want);
}

/* --- command lines --- */

/* One line from octets that come piece by piece, as a receiver reads it; returns what it drops. */
static size_t
line_take(struct span in, size_t max, size_t first, size_t step, enum line_result *result,
          struct span *line)
{
    size_t len = first < in.len ? first : in.len, scanned = 0, consumed, dropped;

    for (;;) {
        *result = line_next(span_first(in, len), max, &scanned, line, &consumed);
        must(consumed <= len && scanned <= len);
        if (*result != LINE_PARTIAL || len == in.len)
            break;
        must(consumed == 0 && line->len == 0);
        len = step < in.len - len ? len + step : in.len;
    }
    dropped = consumed;
    if (*result == LINE_TOO_LONG && in.data[consumed - 1] != '\n') {
        struct span rest = span_after(in, consumed);

        (void)!line_skip(&rest);
        dropped = in.len - rest.len;
    }
    return dropped;
}

static void
check_lines(struct span in, size_t max, size_t first, size_t step)
{
    while (in.len > 0) {
        size_t scanned = 0, scanned_scalar = 0, consumed, consumed_scalar, dropped;
        struct span line, line_scalar;
        enum line_result result = line_next(in, max, &scanned, &line, &consumed);
        enum line_result scalar =
            line_next_scalar(in, max, &scanned_scalar, &line_scalar, &consumed_scalar);

        must(result == scalar && scanned == scanned_scalar && consumed == consumed_scalar);
        must(line.data == line_scalar.data && line.len == line_scalar.len);
        must(result != LINE_COMPLETE || (memchr(in.data, 0, consumed) == NULL &&
                                         memcmp(line.data + line.len, "\r\n", 2) == 0));
        dropped = line_take(in, max, first, step, &scalar, &line_scalar);
        must(result == scalar && consumed == dropped && line.len == line_scalar.len);
        if (result == LINE_PARTIAL)
            break;
        must(consumed > 0);
        span_advance(&in, consumed);
    }
}

/* --- header --- */

static void
check_header(struct span in, size_t first, size_t step)
{
    struct header_scanner a, b;
    size_t at = 0, len = first;

    header_scanner_start(&a);
    header_scan(&a, in, false);
    header_scanner_start(&b);
    while (at < in.len) {
        len = len < in.len - at ? len : in.len - at;
        header_scan(&b, span_of(in.data + at, len), !octets_any_high(span_of(in.data + at, len)));
        at += len;
        len = step;
    }
    must(a.received == b.received && a.ended == b.ended && a.eight_bit == b.eight_bit &&
         a.any_field == b.any_field && a.state == b.state && a.matched == b.matched);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t limits[] = { 998, 64, 70, 130, 2, 0, UINT32_MAX, 100 };
    static char text[INPUT_MAX];
    size_t padding, len, first, step;
    uint32_t max;

    if (size < CHOICES || size > INPUT_MAX / 2)
        return 0;
    max = limits[data[0] % 8];
    padding = data[1] % 140;
    first = (size_t)data[2] + 1;
    step = (size_t)data[3] + 1;
    len = size - CHOICES;
    /* Short findings of the fuzzer must meet every place of a vector block. */
    memset(text, data[1] & 128 ? '.' : 'a', padding);
    memcpy(text + padding, data + CHOICES, len);
    memset(text + padding + len, 'b', padding);
    struct span in = span_of(text, 2 * padding + len);

    check_body(in, true, max, first, step);
    check_body(in, false, max, first, step);
    check_stuffing(in, true);
    check_stuffing(span_after(in, padding), data[0] & 128);
    check_lines(in, max < 2 ? 2 : max, first, step);
    check_header(span_after(in, padding), first, step);
    return 0;
}
