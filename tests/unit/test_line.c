/* Line ends decide where one message stops and the next command begins, so every short input is
 * tried, against the scalar twin and against an oracle that sees the whole input at once. */
#include <criterion/criterion.h>

#include "core/line.h"
#include "core/masks.h"
#include "tests/unit/guard.h"

/* Octets of a string literal that may hold NULs. */
#define INPUT(literal) literal, sizeof(literal) - 1

enum { INPUT_MAX = 4096, EVENTS_MAX = 2 * INPUT_MAX };

/* --- command lines --- */

typedef enum line_result line_next_function(struct span, size_t, size_t *, struct span *, size_t *);

static const struct line_row {
    const char *name;
    const char *input;
    size_t len;
    size_t max;
    enum line_result want;
    size_t want_line, want_consumed;
} line_rows[] = {
    { "nothing", INPUT(""), 512, LINE_PARTIAL, 0, 0 },
    { "no end", INPUT("NOOP"), 512, LINE_PARTIAL, 0, 0 },
    { "CR last", INPUT("NOOP\r"), 512, LINE_PARTIAL, 0, 0 },
    { "complete", INPUT("NOOP\r\n"), 512, LINE_COMPLETE, 4, 6 },
    { "empty line", INPUT("\r\n"), 512, LINE_COMPLETE, 0, 2 },
    { "first of two", INPUT("RSET\r\nNOOP\r\n"), 512, LINE_COMPLETE, 4, 6 },
    { "bare LF", INPUT("NOOP\nQUIT\r\n"), 512, LINE_BARE, 4, 5 },
    { "bare LF alone", INPUT("\n"), 512, LINE_BARE, 0, 1 },
    { "bare CR", INPUT("NO\rOP\r\n"), 512, LINE_BARE, 2, 3 },
    { "CR CR LF", INPUT("NOOP\r\r\n"), 512, LINE_BARE, 4, 5 },
    { "LF CR", INPUT("NOOP\n\r"), 512, LINE_BARE, 4, 5 },
    { "bare LF after CRLF", INPUT("NOOP\r\n\n"), 512, LINE_COMPLETE, 4, 6 },
    { "NUL", INPUT("NO\0OP\r\n"), 512, LINE_NUL, 5, 7 },
    { "NUL first", INPUT("\0\r\n"), 512, LINE_NUL, 1, 3 },
    { "NUL after the line", INPUT("NOOP\r\n\0"), 512, LINE_COMPLETE, 4, 6 },
    { "NUL before a bare LF", INPUT("N\0\n"), 512, LINE_BARE, 2, 3 },
    { "as long as may be", INPUT("123456\r\n"), 8, LINE_COMPLETE, 6, 8 },
    { "too long by one", INPUT("1234567\r\n"), 8, LINE_TOO_LONG, 8, 9 },
    { "too long by two", INPUT("12345678\r\n"), 8, LINE_TOO_LONG, 8, 10 },
    { "too long, no end", INPUT("12345678"), 8, LINE_TOO_LONG, 8, 8 },
    { "too long, CR is the last", INPUT("1234567\r"), 8, LINE_TOO_LONG, 8, 8 },
    { "too long, bare CR is the last", INPUT("1234567\rX\r\nY"), 8, LINE_TOO_LONG, 8, 11 },
    { "too long, ends with bare LF", INPUT("123456789\nX"), 8, LINE_TOO_LONG, 8, 10 },
    { "too long with NUL", INPUT("1234567\0X\r\n"), 8, LINE_TOO_LONG, 8, 11 },
    { "one below the limit", INPUT("1234567"), 8, LINE_PARTIAL, 0, 0 },
    { "one below the limit, CR", INPUT("123456\r"), 8, LINE_PARTIAL, 0, 0 },
    { "bare LF is the last", INPUT("1234567\n"), 8, LINE_BARE, 7, 8 },
    { "smallest limit", INPUT("\r\n"), 2, LINE_COMPLETE, 0, 2 },
    { "longer than a vector", INPUT("EHLO a-rather-long-name.of-a-client.example.com\r\nX"), 512,
      LINE_COMPLETE, 47, 49 },
    { "bare LF in the second vector", INPUT("EHLO a-rather-long-name\nof-a-client\r\n"), 512,
      LINE_BARE, 23, 24 },
};

static void
line_check(const char *name, line_next_function *next, struct span in, const struct line_row *row)
{
    size_t scanned = 0, consumed = 77;
    struct span line;
    enum line_result got = next(in, row->max, &scanned, &line, &consumed);

    cr_assert_eq(got, row->want, "%s: result %d", name, (int)got);
    cr_assert_eq(consumed, row->want_consumed, "%s: consumed %zu", name, consumed);
    cr_assert_eq(line.len, row->want_line, "%s: line of %zu", name, line.len);
    cr_assert_eq(line.data, in.data, "%s: line start", name);
    cr_assert(got == LINE_PARTIAL ? scanned <= in.len : scanned == 0, "%s: scanned", name);
}

Test(line, next_table)
{
    static struct guard guard;

    for (size_t i = 0; i < sizeof(line_rows) / sizeof(line_rows[0]); i++) {
        const struct line_row *row = &line_rows[i];

        line_check(row->name, line_next, guard_end(&guard, row->input, row->len), row);
        line_check(row->name, line_next_scalar, guard_end(&guard, row->input, row->len), row);
        line_check(row->name, line_next, guard_start(&guard, row->input, row->len), row);
    }
    guard_close(&guard);
}

/* Octets come one by one, or a few at a time: the first result that is not partial must be that of
 * the whole input, at the same place, and line_skip() must then find the rest of a long line. */
static void
line_check_growing(const struct line_row *row, size_t step)
{
    static struct guard guard;
    size_t scanned = 0, consumed = 0, len = 0, dropped;
    enum line_result got = LINE_PARTIAL;
    struct span in, line, rest;

    while (got == LINE_PARTIAL && len < row->len) {
        len = len + step < row->len ? len + step : row->len;
        in = guard_end(&guard, row->input, len);
        got = line_next(in, row->max, &scanned, &line, &consumed);
    }
    cr_assert_eq(got, row->want, "%s by %zu: result %d", row->name, step, (int)got);
    cr_assert_eq(line.len, row->want_line, "%s by %zu: line", row->name, step);
    dropped = consumed;
    if (got == LINE_TOO_LONG && in.data[consumed - 1] != '\n') {
        rest = guard_end(&guard, row->input + dropped, row->len - dropped);
        bool found = line_skip(&rest);

        dropped = row->len - rest.len;
        cr_assert_eq(found, row->input[dropped - 1] == '\n', "%s: line_skip", row->name);
    }
    cr_assert_eq(dropped, row->want_consumed, "%s by %zu: dropped %zu", row->name, step, dropped);
}

Test(line, next_every_split)
{
    for (size_t i = 0; i < sizeof(line_rows) / sizeof(line_rows[0]); i++)
        for (size_t step = 1; step <= line_rows[i].len; step++)
            line_check_growing(&line_rows[i], step);
}

/* A CR or LF at every offset of inputs of every length around the vector width. */
Test(line, next_every_offset)
{
    static struct guard guard;
    char text[100];

    for (size_t len = 1; len < sizeof(text); len++) {
        for (size_t at = 0; at < len; at++) {
            for (size_t from = 0; from <= len; from += 7) {
                memset(text, 'a', len);
                text[at] = len % 2 ? '\r' : '\n';
                struct span in = guard_end(&guard, text, len);
                size_t want = at >= from ? at : len;

                cr_assert_eq(masks_find_line_octet(in.data, from, len), want,
                             "octet %zu of %zu from %zu", at, len, from);
            }
        }
    }
    cr_assert_eq(masks_find_line_octet(NULL, 0, 0), 0);
}

Test(line, skip)
{
    struct span in = SPAN("rest of it\r\nNOOP\r\n");

    cr_assert(line_skip(&in));
    cr_assert(span_equal(in, SPAN("NOOP\r\n")));
    in = SPAN("no end");
    cr_assert(!line_skip(&in));
    cr_assert_eq(in.len, 0);
    in = span_of(NULL, 0);
    cr_assert(!line_skip(&in));
}

/* --- masks --- */

Test(line, masks_kernels_agree)
{
    static struct guard guard;
    static const unsigned char octets[] = { '\r', '\n', '.', 0, 'a', 127, 128, 255, '-', '/', 1 };
    struct masks_kernel kernels[MASKS_KERNELS_MAX];
    size_t count = masks_kernels(kernels);
    char text[3 * MASKS_OCTETS];
    uint32_t random = 1;

    cr_assert(count >= 1 && count <= MASKS_KERNELS_MAX);
    for (int round = 0; round < 20000; round++) {
        struct octet_masks want[3], got[3];

        /* Few of them special, so that nul and eight_bit are false often enough. */
        for (size_t i = 0; i < sizeof(text); i++) {
            random = random * 1664525u + 1013904223u;
            text[i] = round % 3 == 0 || (random >> 24) < 8
                          ? (char)octets[(random >> 8) % sizeof(octets)]
                          : 'a';
        }
        struct span in = guard_end(&guard, text, sizeof(text));

        kernels[0].read(in.data, 3, want);
        for (size_t k = 1; k < count; k++) {
            if (!kernels[k].usable)
                continue;
            kernels[k].read(in.data, 3, got);
            for (size_t b = 0; b < 3; b++)
                cr_assert(got[b].cr == want[b].cr && got[b].lf == want[b].lf &&
                              got[b].dot == want[b].dot && got[b].nul == want[b].nul &&
                              got[b].eight_bit == want[b].eight_bit,
                          "%s, round %d, block %zu", kernels[k].name, round, b);
        }
    }
    guard_close(&guard);
}

/* What masks.h promises, octet by octet. */
static size_t
pass_plainly(const char *data, size_t from, size_t len, bool dots, struct octets_seen *seen)
{
    for (; from < len; from++) {
        char before = data[from - 1], octet = data[from];

        if ((before == '\r') != (octet == '\n') || (dots && before == '\n' && octet == '.'))
            return from;
        seen->nul |= octet == '\0';
        seen->eight_bit |= (unsigned char)octet > 127;
    }
    return len;
}

/* Lines of chance, nearly all of them ordinary. */
static void
lines_fill(char *text, size_t size, uint32_t *random)
{
    static const char *const pieces[] = { "\r\n", "a", "ab.c", "\r\n.", "\r", "\n", "\0", "\xff",
                                          "\r\na long line of text, as most lines of text are" };
    static const uint8_t lengths[] = { 2, 1, 4, 3, 1, 1, 1, 1, 47 };

    for (size_t at = 0; at < size;) {
        *random = *random * 1664525u + 1013904223u;
        size_t rare = *random >> 28 == 0 ? 8 : 3, piece = (*random >> 16) % rare;
        size_t len;

        if ((*random >> 12 & 3) != 0)
            piece = 8;
        len = lengths[piece] < size - at ? lengths[piece] : size - at;
        memcpy(text + at, pieces[piece], len);
        at += len;
    }
}

Test(line, ordinary_octets_are_passed_over)
{
    static struct guard guard;
    struct masks_kernel kernels[MASKS_KERNELS_MAX];
    size_t count = masks_kernels(kernels);
    char text[5 * MASKS_OCTETS];
    uint32_t random = 7;

    for (int round = 0; round < 20000; round++) {
        size_t len = 1 + (size_t)round % sizeof(text), from = 1 + (size_t)round % 7;
        size_t blocks = (len - 1) / MASKS_OCTETS, got, want;
        bool dots = round % 5 != 0;
        struct octets_seen seen = { .nul = round % 11 == 0 }, plainly = seen, by_blocks;

        lines_fill(text, len, &random);
        from = from < len ? from : len;
        struct span in = guard_end(&guard, text, len);

        want = pass_plainly(in.data, from, len, dots, &plainly);
        got = masks_pass_ordinary(in.data, from, len, dots, &seen);
        cr_assert(got == want && seen.nul == plainly.nul && seen.eight_bit == plainly.eight_bit,
                  "round %d: %zu, not %zu of %zu", round, got, want, len);
        plainly = (struct octets_seen){ 0 };
        want = (pass_plainly(in.data, 1, len, dots, &plainly) - 1) / MASKS_OCTETS;
        want = want < blocks ? want : blocks;
        plainly = (struct octets_seen){ 0 };
        (void)pass_plainly(in.data, 1, 1 + want * MASKS_OCTETS, dots, &plainly);
        for (size_t k = 0; k < count; k++) {
            if (!kernels[k].usable)
                continue;
            by_blocks = (struct octets_seen){ 0 };
            got = kernels[k].ordinary(in.data + 1, blocks, dots ? '.' : '\n', &by_blocks);
            cr_assert(got == want && by_blocks.nul == plainly.nul &&
                          by_blocks.eight_bit == plainly.eight_bit,
                      "%s, round %d: %zu, not %zu blocks", kernels[k].name, round, got, want);
        }
    }
    guard_close(&guard);
}

/* --- message data: what a scan of some input says --- */

struct event {
    size_t offset; /* octets advanced over so far */
    enum body_result result;
};

struct body_trace {
    size_t count;
    struct event events[EVENTS_MAX];
    uint32_t stuffed_dots;
    struct body_dots dots;
    bool ended, eight_bit, nul, ends_with_crlf, dangling_cr;
};

typedef enum body_result body_scan_function(struct body_scanner *, struct span *);

static void
trace_add(struct body_trace *trace, size_t offset, enum body_result result)
{
    cr_assert(trace->count < EVENTS_MAX);
    trace->events[trace->count++] = (struct event){ offset, result };
}

/* Feeds one piece that starts at `offset` of the message. */
static void
trace_feed(struct body_trace *trace, body_scan_function *scan, struct body_scanner *scanner,
           struct span in, size_t offset)
{
    while (in.len > 0 && !trace->ended) {
        struct span before = in;
        enum body_result result = scan(scanner, &in);

        cr_assert(in.len <= before.len && in.data + in.len == before.data + before.len);
        offset += before.len - in.len;
        if (result == BODY_MORE)
            cr_assert_eq(in.len, 0, "all must be taken in one call");
        else
            trace_add(trace, offset, result);
        trace->ended = result == BODY_END;
    }
}

static void
trace_finish(struct body_trace *trace, const struct body_scanner *scanner)
{
    trace->stuffed_dots = scanner->dots.count;
    trace->dots = scanner->dots;
    trace->eight_bit = scanner->eight_bit;
    trace->nul = scanner->nul;
    trace->ends_with_crlf = scanner->ends_with_crlf;
    trace->dangling_cr = body_scanner_dangling_cr(scanner);
}

/* --- the oracle: the same answers from the whole message at once, without a state machine --- */

static bool
oracle_is(struct span in, size_t at, char octet)
{
    return at < in.len && in.data[at] == octet;
}

static bool
oracle_line_start(struct span in, size_t at)
{
    return at == 0 || (at >= 2 && in.data[at - 2] == '\r' && in.data[at - 1] == '\n');
}

/* An octet that counts for the length of its line. */
static bool
oracle_counts(struct span in, bool framed, size_t at)
{
    if (in.data[at] == '\r' || in.data[at] == '\n')
        return false;
    return !(framed && in.data[at] == '.' && oracle_line_start(in, at));
}

static void
oracle_octet(struct body_trace *trace, struct span in, size_t at, size_t *length, uint32_t max)
{
    bool cr = in.data[at] == '\r', lf = in.data[at] == '\n';

    if (cr && at + 1 < in.len && in.data[at + 1] != '\n')
        trace_add(trace, at + 1, BODY_BARE_CR);
    if (lf && !(at > 0 && in.data[at - 1] == '\r'))
        trace_add(trace, at + 1, BODY_BARE_LF);
    trace->nul |= in.data[at] == 0;
    trace->eight_bit |= (unsigned char)in.data[at] > 127;
    if (*length == (size_t)max + 1)
        trace_add(trace, at + 1, BODY_LONG_LINE);
}

static void
oracle(struct body_trace *trace, struct span in, bool framed, uint32_t max)
{
    size_t length = 0, at = 0;

    for (; at < in.len && !trace->ended; at++) {
        bool start = oracle_line_start(in, at), counts = oracle_counts(in, framed, at);
        size_t none = 0;

        if (start)
            length = 0;
        length += counts;
        oracle_octet(trace, in, at, counts ? &length : &none, max);
        if (!framed || !start || in.data[at] != '.' || at + 1 == in.len)
            continue;
        if (oracle_is(in, at + 1, '\r') && oracle_is(in, at + 2, '\n')) {
            trace_add(trace, at + 3, BODY_END);
            trace->ended = true;
            at += 2;
        } else if (!oracle_is(in, at + 1, '\r') || at + 2 < in.len) {
            if (trace->stuffed_dots < BODY_DOTS_MAX)
                trace->dots.at[trace->stuffed_dots] = (uint32_t)at;
            trace->stuffed_dots++;
        }
    }
    trace->ends_with_crlf = oracle_line_start(in, at);
    trace->dangling_cr = at == in.len && at > 0 && in.data[at - 1] == '\r';
}

static void
trace_compare(const char *name, const struct body_trace *got, const struct body_trace *want)
{
    cr_assert_eq(got->count, want->count, "%s: %zu results, not %zu", name, got->count,
                 want->count);
    for (size_t i = 0; i < got->count; i++)
        cr_assert(got->events[i].offset == want->events[i].offset &&
                      got->events[i].result == want->events[i].result,
                  "%s: result %zu is %d at %zu, not %d at %zu", name, i, (int)got->events[i].result,
                  got->events[i].offset, (int)want->events[i].result, want->events[i].offset);
    cr_assert_eq(got->ended, want->ended, "%s: ended", name);
    cr_assert_eq(got->stuffed_dots, want->stuffed_dots, "%s: %u stuffed dots, not %u", name,
                 got->stuffed_dots, want->stuffed_dots);
    for (uint32_t i = 0; i < got->stuffed_dots && i < BODY_DOTS_MAX; i++)
        cr_assert_eq(got->dots.at[i], want->dots.at[i], "%s: dot %u at %u, not %u", name, i,
                     got->dots.at[i], want->dots.at[i]);
    cr_assert_eq(got->eight_bit, want->eight_bit, "%s: eight_bit", name);
    cr_assert_eq(got->nul, want->nul, "%s: nul", name);
    cr_assert_eq(got->ends_with_crlf, want->ends_with_crlf, "%s: ends_with_crlf", name);
    cr_assert_eq(got->dangling_cr, want->dangling_cr, "%s: dangling CR", name);
}

/* Too large for the stack together; static, and cleared only as far as used. */
static struct body_trace traces[3];

static struct body_trace *
trace_clear(size_t index)
{
    struct body_trace *trace = &traces[index];

    trace->count = 0;
    trace->stuffed_dots = 0;
    trace->ended = trace->eight_bit = trace->nul = false;
    trace->ends_with_crlf = trace->dangling_cr = false;
    return trace;
}

/* The input whole and, if cut is inside it, in two pieces: vector, scalar and oracle agree. */
static void
body_check(const char *name, struct span in, bool framed, uint32_t max, size_t cut)
{
    static struct guard guards[2];
    struct body_trace *want = trace_clear(0);
    static body_scan_function *const scans[] = { body_scan, body_scan_scalar };

    cut = cut < in.len ? cut : in.len;
    oracle(want, in, framed, max);
    for (size_t i = 0; i < 2; i++) {
        struct body_trace *got = trace_clear(1 + i);
        struct body_scanner scanner;

        body_scanner_start(&scanner, framed, max);
        trace_feed(got, scans[i], &scanner, guard_end(&guards[0], in.data, cut), 0);
        trace_feed(got, scans[i], &scanner, guard_end(&guards[1], in.data + cut, in.len - cut),
                   cut);
        trace_finish(got, &scanner);
        trace_compare(name, got, want);
    }
}

/* --- message data: rows --- */

static const struct body_row {
    const char *name;
    const char *input;
    size_t len;
    bool framed;
    const char *want; /* of each result a letter: E(nd), C(R bare), L(F bare), T(oo long) */
    uint32_t stuffed_dots;
    size_t end; /* octets up to the end, if it ended */
} body_rows[] = {
    { "nothing", INPUT(""), true, "", 0, 0 },
    { "empty message", INPUT(".\r\n"), true, "E", 0, 3 },
    { "one line", INPUT("a\r\n.\r\n"), true, "E", 0, 6 },
    { "octets after the end stay", INPUT("a\r\n.\r\nQUIT\r\n"), true, "E", 0, 6 },
    { "stuffed dot", INPUT("..\r\n.\r\n"), true, "E", 1, 7 },
    { "stuffed dot and text", INPUT("a\r\n.a\r\n.\r\n"), true, "E", 1, 10 },
    { "dot inside a line", INPUT("a.\r\n.\r\n"), true, "E", 0, 7 },
    { "empty lines", INPUT("\r\n\r\n.\r\n"), true, "E", 0, 7 },
    { "LF . LF", INPUT("a\n.\nb\r\n.\r\n"), true, "LLE", 0, 10 },
    { "LF . CRLF", INPUT("a\n.\r\nb\r\n.\r\n"), true, "LE", 0, 11 },
    { "CR . CR", INPUT("a\r.\rb\r\n.\r\n"), true, "CCE", 0, 10 },
    { "CR . CRLF", INPUT("a\r.\r\nb\r\n.\r\n"), true, "CE", 0, 11 },
    { "CRLF . LF", INPUT("a\r\n.\nb\r\n.\r\n"), true, "LE", 1, 11 },
    { "CRLF . CR", INPUT("a\r\n.\rb\r\n.\r\n"), true, "CE", 1, 11 },
    { "CRLF . CR CRLF", INPUT("a\r\n.\r\r\nb\r\n.\r\n"), true, "CE", 1, 13 },
    { "CRLF . CR . CRLF", INPUT("a\r\n.\r.\r\nb\r\n.\r\n"), true, "CE", 1, 14 },
    { "CR CRLF . CRLF", INPUT("a\r\r\n.\r\n"), true, "CE", 0, 7 },
    { "LF CRLF . CRLF", INPUT("a\n\r\n.\r\n"), true, "LE", 0, 7 },
    { "CRLF LF . CRLF", INPUT("a\r\n\n.\r\n.\r\n"), true, "LE", 0, 10 },
    { "CRLF NUL . CRLF", INPUT("a\r\n\0.\r\n.\r\n"), true, "E", 0, 10 },
    { "CRLF . NUL CRLF", INPUT("a\r\n.\0\r\n.\r\n"), true, "E", 1, 10 },
    { "CRLF . CRLF without an end", INPUT("a\r\n.\r"), true, "", 0, 0 },
    { "only CR", INPUT("\r"), true, "", 0, 0 },
    { "LF first", INPUT("\n.\r\n"), true, "L", 0, 0 },
    { "8-bit", INPUT("\xc3\xa9\r\n.\r\n"), true, "E", 0, 7 },
    { "line of ten", INPUT("1234567890\r\n.\r\n"), true, "E", 0, 15 },
    { "line of eleven", INPUT("12345678901\r\n.\r\n"), true, "TE", 0, 16 },
    { "line of ten and a stuffed dot", INPUT(".1234567890\r\n.\r\n"), true, "E", 1, 16 },
    { "line of ten dots, stuffed", INPUT("...........\r\n.\r\n"), true, "E", 1, 16 },
    { "two long lines", INPUT("123456789012345\r\n123456789012345\r\n.\r\n"), true, "TTE", 0, 37 },
    { "bare LF joins two lines", INPUT("123456\n789012\r\n.\r\n"), true, "LTE", 0, 18 },
    { "chunk: dots mean nothing", INPUT("a\r\n.\r\nb\r\n..\r\n"), false, "", 0, 0 },
    { "chunk: bare LF", INPUT("a\nb"), false, "L", 0, 0 },
    { "chunk: bare CR", INPUT("a\rb"), false, "C", 0, 0 },
    { "chunk: CR last", INPUT("a\r"), false, "", 0, 0 },
    { "chunk: a dot counts for the length", INPUT(".1234567890\r\n"), false, "T", 0, 0 },
};

static void
body_check_row(const struct body_row *row, size_t pieces_len)
{
    static const char letters[] = {
        [BODY_END] = 'E', [BODY_BARE_CR] = 'C', [BODY_BARE_LF] = 'L', [BODY_LONG_LINE] = 'T'
    };
    static struct guard guard;
    struct body_trace *got = trace_clear(1);
    struct body_scanner scanner;
    size_t len;

    body_scanner_start(&scanner, row->framed, 10);
    for (size_t at = 0; at < row->len; at += len) {
        len = row->len - at < pieces_len ? row->len - at : pieces_len;
        trace_feed(got, body_scan, &scanner, guard_end(&guard, row->input + at, len), at);
    }
    trace_finish(got, &scanner);
    cr_assert_eq(got->count, strlen(row->want), "%s: %zu results", row->name, got->count);
    for (size_t i = 0; i < got->count; i++)
        cr_assert_eq(letters[got->events[i].result], row->want[i], "%s: result %zu is %c",
                     row->name, i, letters[got->events[i].result]);
    cr_assert_eq(got->stuffed_dots, row->stuffed_dots, "%s: %u stuffed dots", row->name,
                 got->stuffed_dots);
    cr_assert_eq(got->ended ? got->events[got->count - 1].offset : 0, row->end, "%s: end",
                 row->name);
}

/* Every row in equal pieces of every size, and (with the oracle) cut in two at every octet, alone
 * and with other octets around it, so that each cut and each octet meets each place of a block. */
Test(line, body_every_split)
{
    static char text[INPUT_MAX];

    for (size_t i = 0; i < sizeof(body_rows) / sizeof(body_rows[0]); i++) {
        const struct body_row *row = &body_rows[i];

        for (size_t len = 1; len <= row->len; len++)
            body_check_row(row, len);
        for (size_t before = 0; before <= 130; before += before < 4 ? 1 : 7) {
            memset(text, 'a', sizeof(text));
            if (before >= 2)
                memcpy(text + before - 2, "\r\n", 2);
            memcpy(text + before, row->input, row->len);
            for (size_t after = 0; after <= 140; after += 70)
                for (size_t cut = 0; cut <= before + row->len + after; cut++)
                    body_check(row->name, span_of(text, before + row->len + after), row->framed,
                               150, cut);
        }
    }
}

/* --- message data: every short input --- */

/* Alone (the scalar path) and across the border of two blocks, at and not at a line start. */
static void
body_check_around(const char *octets, size_t len, bool framed)
{
    char text[3 * MASKS_OCTETS];
    char name[8] = { 0 }; /* CR as 'r', LF as 'n', NUL as '0' */

    for (size_t i = 0; i < len; i++)
        name[i] = octets[i] == '\r'   ? 'r'
                  : octets[i] == '\n' ? 'n'
                  : octets[i] == '\0' ? '0'
                                      : octets[i];
    body_check(name, span_of(octets, len), framed, 2, SIZE_MAX);
    for (size_t at = MASKS_OCTETS - len; at <= MASKS_OCTETS; at += len > 3 ? 3 : 1) {
        memset(text, 'a', sizeof(text));
        memcpy(text + at, octets, len);
        body_check(name, span_of(text, 2 * MASKS_OCTETS + len), framed, 998, SIZE_MAX);
        memcpy(text + at - 2, "\r\n", 2);
        body_check(name, span_of(text, 2 * MASKS_OCTETS + len), framed, 998, SIZE_MAX);
        body_check(name, span_of(text, at + len), framed, 998, at);
    }
}

static void
body_check_all(size_t len, bool framed)
{
    static const char alphabet[] = { '\r', '\n', '.', '\0', 'a' };
    size_t count = 1;
    char octets[8] = { 0 };

    for (size_t i = 0; i < len; i++)
        count *= sizeof(alphabet);
    for (size_t number = 0; number < count; number++) {
        size_t rest = number;

        for (size_t i = 0; i < len; i++, rest /= sizeof(alphabet))
            octets[i] = alphabet[rest % sizeof(alphabet)];
        body_check_around(octets, len, framed);
    }
}

Test(line, body_exhaustive_framed)
{
    for (size_t len = 1; len <= 7; len++)
        body_check_all(len, true);
}

Test(line, body_exhaustive_chunk)
{
    for (size_t len = 1; len <= 7; len++)
        body_check_all(len, false);
}

/* --- message data: the ordinary, and long lines --- */

Test(line, body_line_length_limits)
{
    static char text[INPUT_MAX];
    static const uint32_t limits[] = { 0, 1, 62, 63, 64, 65, 127, 128, 998, UINT32_MAX };

    for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
        size_t limit = limits[i] < 998 ? limits[i] : 998;

        for (size_t length = limit > 3 ? limit - 3 : 0; length < limit + 4; length++) {
            for (size_t before = 0; before < 3 * MASKS_OCTETS; before += 5) {
                memset(text, 'a', sizeof(text));
                memcpy(text + before, "\r\n", 2);
                memcpy(text + before + 2 + length, "\r\nb\r\n.\r\n", 8);
                struct span in = span_of(text, before + 2 + length + 8);

                body_check("line length", in, true, limits[i], SIZE_MAX);
                body_check("line length", in, true, limits[i], before + 2 + length / 2);
                body_check("line length", in, false, limits[i], before + 2 + length + 1);
            }
        }
    }
}

/* Mail-like input with now and then something odd, cut at a random place. */
Test(line, body_random)
{
    // clang-format off
    static const char *const pieces[] = {
        "\r\n", "\r\n", "\r\n", "\r\n..", "\r\n.\r", "\r\n.", "\r", "\n", ".", "\xff", "word ",
        "a rather long run of text without any end of line in it, longer than a block is, yes. ",
    };
    // clang-format on
    static char text[INPUT_MAX];
    uint32_t random = 7;

    for (int round = 0; round < 20000; round++) {
        size_t len = 0, odd = round % 4 == 0 ? 0 : (size_t)round % 40 + 1;

        random = random * 1664525u + 1013904223u;
        size_t target = (random >> 8) % 1000;
        while (len < target) {
            random = random * 1664525u + 1013904223u;
            size_t pick = (random >> 8) % (20 * odd + 12);
            const char *piece = pieces[pick < 12 ? pick : pick % 7 == 0 ? 0 : 10];

            memcpy(text + len, piece, strlen(piece));
            len += strlen(piece);
        }
        body_check("random", span_of(text, len), random & 1 << 20, random & 1 << 21 ? 998 : 70,
                   (random >> 10) % (len + 1));
    }
}

Test(line, body_flags_cover_what_was_taken_only)
{
    /* The odd octets lie in the same block as the event, after it. */
    struct span in = SPAN("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n\0\xff"
                          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    struct body_scanner scanner;

    body_scanner_start(&scanner, true, 998);
    cr_assert(scanner.ends_with_crlf);
    cr_assert_eq(body_scan(&scanner, &in), BODY_BARE_LF);
    cr_assert(!scanner.nul && !scanner.eight_bit && !scanner.ends_with_crlf);
    cr_assert_eq(body_scan(&scanner, &in), BODY_MORE);
    cr_assert(scanner.nul && scanner.eight_bit);
}

/* --- stuffing --- */

static size_t
find_stuffing_plainly(struct span in, bool line_start)
{
    for (size_t i = 0; i < in.len; i++)
        if (in.data[i] == '.' && (i == 0 ? line_start : in.data[i - 1] == '\n'))
            return i;
    return in.len;
}

/* Stuffs `in`, given in two pieces, as the header tells a caller to. */
static size_t
stuff(struct span in, size_t cut, char *out)
{
    static struct guard guard;
    bool line_start = true;
    size_t len = 0;

    for (int i = 0; i < 2; i++) {
        struct span piece = i == 0 ? guard_end(&guard, in.data, cut)
                                   : guard_end(&guard, in.data + cut, in.len - cut);
        bool next = piece.len > 0 ? piece.data[piece.len - 1] == '\n' : line_start;

        for (;;) {
            size_t at = body_find_stuffing(piece, line_start);

            cr_assert_eq(at, find_stuffing_plainly(piece, line_start), "cut %zu", cut);
            memcpy(out + len, piece.data, at);
            len += at;
            if (at == piece.len)
                break;
            out[len++] = '.';
            piece = span_after(piece, at);
            line_start = false;
        }
        line_start = next;
    }
    return len;
}

Test(line, find_stuffing)
{
    static const struct {
        const char *name, *input, *want;
    } rows[] = {
        { "nothing", "", "" },
        { "no dot at a line start", "a.b\r\nc.\r\n", "a.b\r\nc.\r\n" },
        { "first octet", ".a\r\n", "..a\r\n" },
        { "only the first of two", "..\r\n", "...\r\n" },
        { "the end of data", "a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n" },
        { "every line", ".\r\n.\r\n.\r\n", "..\r\n..\r\n..\r\n" },
        { "beyond a block",
          "0123456789012345678901234567890123456789012345678901234567890\r\n.1\r\n.0123456789012345"
          "67890123456789012345678901234567890123456789.\r\n.",
          "0123456789012345678901234567890123456789012345678901234567890\r\n..1\r\n..01234567890123"
          "4567890123456789012345678901234567890123456789.\r\n.." },
    };
    char out[512];

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct span in = span_text(rows[i].input);

        for (size_t cut = 0; cut <= in.len; cut++) {
            size_t len = stuff(in, cut, out);

            cr_assert(span_equal(span_of(out, len), span_text(rows[i].want)), "%s, cut at %zu",
                      rows[i].name, cut);
        }
    }
}
