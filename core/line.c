/* Strict line ends in one place: what ends a command line and what ends message data must never
 * depend on how the octets were split into buffers, or mail can be smuggled past us. */
#include "core/line.h"

#include "core/masks.h"

/* --- command and reply lines --- */

/* What the line at the start of `in` is, given the offset of its first CR or LF (or, if there is
 * none in the first max octets, the number of octets looked at), and whether a NUL is before. */
static inline __attribute__((always_inline)) enum line_result
line_judge(struct span in, size_t max, size_t found, bool nul, size_t *scanned, struct span *line,
           size_t *consumed)
{
    const char *lf;

    *line = span_of(in.data, 0);
    *consumed = 0;
    if (in.len < max && (found == in.len || (found + 1 == in.len && in.data[found] == '\r'))) {
        *scanned = found;
        return LINE_PARTIAL;
    }
    *scanned = 0;
    /* A CR as octet number max cannot end a line of max octets, whatever follows. Judging by the
     * first max octets alone makes the result the same for every split. */
    if (found == max || (found + 1 == max && in.data[found] == '\r')) {
        lf = memchr(in.data + found, '\n', in.len - found);
        *line = span_first(in, max);
        *consumed = lf != NULL ? (size_t)(lf - in.data) + 1 : in.len;
        return LINE_TOO_LONG;
    }
    *line = span_first(in, found);
    if (in.data[found] == '\n' || in.data[found + 1] != '\n') {
        *consumed = found + 1;
        return LINE_BARE;
    }
    *consumed = found + 2;
    ASSERT(*consumed <= max);
    return nul ? LINE_NUL : LINE_COMPLETE;
}

enum line_result
line_next(struct span in, size_t max, size_t *scanned, struct span *line, size_t *consumed)
{
    size_t window = in.len < max ? in.len : max;
    size_t found;
    bool nul = false;

    ASSERT(max >= 2);
    ASSERT(*scanned <= window);
    /* NULs are found in the same go as the line's end, but in what an earlier call has seen. */
    if (*scanned > 0)
        nul = memchr(in.data, '\0', *scanned) != NULL;
    found = masks_find_line_octet(in.data, *scanned, window);
    while (found < window && in.data[found] == '\0') {
        nul = true;
        found = masks_find_line_octet(in.data, found + 1, window);
    }
    return line_judge(in, max, found, nul, scanned, line, consumed);
}

enum line_result
line_next_scalar(struct span in, size_t max, size_t *scanned, struct span *line, size_t *consumed)
{
    size_t window = in.len < max ? in.len : max;
    size_t found = 0;
    bool nul = false;

    ASSERT(max >= 2);
    ASSERT(*scanned <= window);
    for (; found < window && in.data[found] != '\r' && in.data[found] != '\n'; found++)
        nul |= in.data[found] == '\0';
    return line_judge(in, max, found, nul, scanned, line, consumed);
}

bool
line_skip(struct span *in)
{
    const char *lf = in->len > 0 ? memchr(in->data, '\n', in->len) : NULL;

    *in = lf != NULL ? span_after(*in, (size_t)(lf - in->data) + 1) : span_of(in->data, 0);
    return lf != NULL;
}

/* --- message data --- */

/* Where the scanner is in CR LF . CR LF; -> is the octet that comes next.
 *
 *   AT_LINE_START  '.' (framed) -> AFTER_DOT     CR -> AFTER_CR      else -> IN_LINE
 *   IN_LINE                                      CR -> AFTER_CR      else -> IN_LINE
 *   AFTER_CR       LF -> AT_LINE_START           else: the CR is bare, same octet again in IN_LINE
 *   AFTER_DOT                                    CR -> AFTER_DOT_CR  else: stuffed dot, IN_LINE
 *   AFTER_DOT_CR   LF -> AFTER_END               else: stuffed dot, the CR is bare, as AFTER_CR
 *
 * A bare LF leads to IN_LINE: neither it nor a bare CR ever makes the next octet a line start. */
enum body_state {
    AT_LINE_START,
    IN_LINE,
    AFTER_CR,
    AFTER_DOT,
    AFTER_DOT_CR,
    AFTER_END,
};

void
body_scanner_start(struct body_scanner *scanner, bool framed, uint32_t text_line_max)
{
    *scanner = (struct body_scanner){
        .text_line_max = text_line_max,
        .state = AT_LINE_START,
        .framed = framed,
        .ends_with_crlf = true,
    };
}

bool
body_scanner_dangling_cr(const struct body_scanner *scanner)
{
    return scanner->state == AFTER_CR || scanner->state == AFTER_DOT_CR;
}

/* The octet after a CR. It is not taken when the CR turns out to be bare: it may itself be a CR. */
static enum body_result
body_step_after_cr(struct body_scanner *scanner, unsigned char octet)
{
    bool after_dot = scanner->state == AFTER_DOT_CR;

    if (octet != '\n') {
        scanner->dots.count += after_dot;
        scanner->state = IN_LINE;
        return BODY_BARE_CR;
    }
    if (after_dot) {
        scanner->state = AFTER_END;
        return BODY_END;
    }
    scanner->line_length = 0;
    scanner->state = AT_LINE_START;
    return BODY_MORE;
}

/* One octet. It is taken, but for BODY_BARE_CR. */
static inline enum body_result
body_step(struct body_scanner *scanner, unsigned char octet)
{
    switch ((enum body_state)scanner->state) {
    case AT_LINE_START:
        if (octet == '.' && scanner->framed) {
            scanner->state = AFTER_DOT;
            return BODY_MORE;
        }
        break;
    case AFTER_DOT:
        if (octet == '\r') {
            scanner->state = AFTER_DOT_CR;
            return BODY_MORE;
        }
#ifdef CANARY_END_AT_BARE_LF
        if (octet == '\n') {
            scanner->state = AFTER_END;
            return BODY_END;
        }
#endif
        scanner->dots.count++;
        break;
    case AFTER_CR:
    case AFTER_DOT_CR: return body_step_after_cr(scanner, octet);
    case IN_LINE: break;
    case AFTER_END: ASSERT(scanner->state != AFTER_END);
    }
    scanner->state = octet == '\r' ? AFTER_CR : IN_LINE;
    if (octet == '\r')
        return BODY_MORE;
#ifdef CANARY_END_AT_BARE_LF
    if (octet == '\n')
        scanner->state = AT_LINE_START;
#endif
    if (octet == '\n')
        return BODY_BARE_LF;
    scanner->nul |= octet == 0;
    scanner->eight_bit |= octet > 127;
    if (scanner->line_length == UINT32_MAX)
        return BODY_MORE;
    return scanner->line_length++ == scanner->text_line_max ? BODY_LONG_LINE : BODY_MORE;
}

/* Octet by octet from *at to end, or to the first result that the caller must hear of. */
static enum body_result
body_steps(struct body_scanner *scanner, struct span in, size_t *at, size_t end)
{
    for (; *at < end; ++*at) {
        uint32_t dots = scanner->dots.count;
        enum body_result result = body_step(scanner, (unsigned char)in.data[*at]);

        /* It is known for one by the octet behind it, or behind the CR behind it. */
        if (scanner->dots.count != dots && dots < BODY_DOTS_MAX)
            scanner->dots.at[dots] =
                scanner->passed + (uint32_t)*at - (result == BODY_BARE_CR ? 2 : 1);
        if (result != BODY_MORE) {
            *at += result != BODY_BARE_CR;
            return result;
        }
    }
    return BODY_MORE;
}

static enum body_result
body_finish(struct body_scanner *scanner, struct span *in, size_t at, enum body_result result)
{
    scanner->ends_with_crlf = scanner->state == AT_LINE_START || scanner->state == AFTER_END;
    scanner->passed += (uint32_t)at;
    if (at > 0)
        span_advance(in, at);
    ASSERT(result != BODY_MORE || in->len == 0);
    return result;
}

enum body_result
body_scan_scalar(struct body_scanner *scanner, struct span *in)
{
    size_t at = 0;
    enum body_result result;

    ASSERT(scanner->state != AFTER_END);
    result = body_steps(scanner, *in, &at, in->len);
    return body_finish(scanner, in, at, result);
}

/* How many octets may be passed over without a look at the length of lines: a line that goes on
 * then is within the limit (or was told of already), and one that begins then as well. */
static size_t
body_room(const struct body_scanner *scanner)
{
    size_t room = scanner->line_length > scanner->text_line_max
                      ? scanner->text_line_max
                      : scanner->text_line_max - scanner->line_length;

    if (scanner->text_line_max == UINT32_MAX)
        return SIZE_MAX;
    return room < MASKS_OCTETS ? room : room - room % MASKS_OCTETS;
}

/* After octets of which none needed a closer look; at least one. */
static void
body_passed(struct body_scanner *scanner, struct span passed)
{
    const char *lf = memrchr(passed.data, '\n', passed.len);
    char last = passed.data[passed.len - 1];
    uint64_t length = passed.len - (last == '\r');

    if (lf != NULL)
        length -= (size_t)(lf - passed.data) + 1;
    else
        length += scanner->line_length;
    scanner->line_length = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX;
    scanner->state = last == '\r' ? AFTER_CR : last == '\n' ? AT_LINE_START : IN_LINE;
}

/* Advances *at over what is ordinary. False: it stands before an octet that needs a closer look.
 * The octet before *at was seen in this call, and says what the state does. */
static bool
body_pass(struct body_scanner *scanner, struct span in, size_t *at)
{
    struct octets_seen seen = { .nul = scanner->nul, .eight_bit = scanner->eight_bit };
    size_t start = *at, left = in.len - start, room = body_room(scanner);
    size_t end = start + (left < room ? left : room);

    if (scanner->state == AFTER_DOT || scanner->state == AFTER_DOT_CR || start == end)
        return false;
    *at = masks_pass_ordinary(in.data, start, end, scanner->framed, &seen);
    scanner->nul = seen.nul;
    scanner->eight_bit = seen.eight_bit;
    if (*at > start)
        body_passed(scanner, span_of(in.data + start, *at - start));
    return *at == end;
}

/* Octets stepped through at one that needs it: ".CRLF" and the octet after it. */
#define CLOSER_LOOK 4

enum body_result
body_scan(struct body_scanner *scanner, struct span *in)
{
    size_t at = 0, left;
    enum body_result result;

    ASSERT(scanner->state != AFTER_END);
    while (at < in->len) {
        left = in->len - at;
        result = body_steps(scanner, *in, &at, at + (left < CLOSER_LOOK ? left : CLOSER_LOOK));
        if (result != BODY_MORE)
            return body_finish(scanner, in, at, result);
        while (at < in->len && body_pass(scanner, *in, &at))
            continue;
    }
    return body_finish(scanner, in, at, BODY_MORE);
}

size_t
body_find_stuffing(struct span in, bool line_start)
{
    struct octets_seen seen = { 0 };
    size_t at = 1;

    if (in.len == 0 || (line_start && in.data[0] == '.'))
        return 0;
    /* It also stops at a CR or LF that is alone: that is none of our business here. */
    while ((at = masks_pass_ordinary(in.data, at, in.len, true, &seen)) < in.len) {
        if (in.data[at] == '.' && in.data[at - 1] == '\n')
            return at;
        at++;
    }
    return in.len;
}
