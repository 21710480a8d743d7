/* Strict line ends in one place: what ends a command line and what ends message data must never
 * depend on how the octets were split into buffers, or mail can be smuggled past us. */
#include "core/line.h"

#include "core/masks.h"

/* --- command and reply lines --- */

/* What the line at the start of `in` is, given the offset of its first CR or LF (or, if there is
 * none in the first max octets, the number of octets looked at). */
static enum line_result
line_judge(struct span in, size_t max, size_t found, size_t *scanned, struct span *line,
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
    return found > 0 && memchr(in.data, '\0', found) != NULL ? LINE_NUL : LINE_COMPLETE;
}

enum line_result
line_next(struct span in, size_t max, size_t *scanned, struct span *line, size_t *consumed)
{
    size_t window = in.len < max ? in.len : max;

    ASSERT(max >= 2);
    ASSERT(*scanned <= window);
    return line_judge(in, max, masks_find_line_octet(in.data, *scanned, window), scanned, line,
                      consumed);
}

enum line_result
line_next_scalar(struct span in, size_t max, size_t *scanned, struct span *line, size_t *consumed)
{
    size_t window = in.len < max ? in.len : max;
    size_t found = *scanned;

    ASSERT(max >= 2);
    ASSERT(*scanned <= window);
    while (found < window && in.data[found] != '\r' && in.data[found] != '\n')
        found++;
    return line_judge(in, max, found, scanned, line, consumed);
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
        scanner->stuffed_dots += after_dot;
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
        scanner->stuffed_dots++;
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
        enum body_result result = body_step(scanner, (unsigned char)in.data[*at]);

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

/* What body_scan carries from one block to the next while all is ordinary: body_scanner in the
 * form that block arithmetic wants. */
struct body_carry {
    uint64_t line_length;
    uint64_t line_start; /* 0 or 1: the next octet begins a line */
    uint64_t after_cr;   /* 0 or 1 */
    bool nul;
    bool eight_bit;
};

/* Where the block holds something that needs a closer look: a CR or LF that is not half of a CRLF
 * (the bit is that of the octet after a bare CR), or a dot at a line start where dots count. */
static inline __attribute__((always_inline)) uint64_t
body_odd_octets(const struct body_scanner *scanner, const struct body_carry *carry,
                const struct octet_masks *masks, uint64_t inside)
{
    uint64_t starts = masks->lf << 1 | carry->line_start;
    uint64_t dots = scanner->framed ? masks->dot & starts : 0;

    return ((masks->lf ^ (masks->cr << 1 | carry->after_cr)) | dots) & inside;
}

/* Takes the first `width` octets of a block if none of them is odd and no line passes the limit.
 * False: nothing was changed. A line that begins and ends inside the block is shorter than the
 * block, hence within the limit as long as text_line_max >= MASKS_OCTETS: only the first and the
 * last line need a look, and no loop over lines is needed. */
static inline __attribute__((always_inline)) bool
body_take(const struct body_scanner *scanner, struct body_carry *carry,
          const struct octet_masks *masks, unsigned width)
{
    uint64_t inside = UINT64_MAX >> (MASKS_OCTETS - width);
    uint64_t cr = masks->cr & inside, lf = masks->lf & inside;
    uint64_t last_is_cr = cr >> (width - 1);
    uint64_t length = carry->line_length;

    if (body_odd_octets(scanner, carry, masks, inside) != 0)
        return false;
    if (!carry->after_cr)
        length += cr != 0 ? (unsigned)__builtin_ctzll(cr) : width;
    if (length > scanner->text_line_max && carry->line_length <= scanner->text_line_max)
        return false;
    if (lf != 0)
        length = (unsigned)__builtin_clzll(lf) - (MASKS_OCTETS - width) - last_is_cr;
    carry->line_length = length;
    carry->line_start = lf >> (width - 1);
    carry->after_cr = last_is_cr;
    carry->nul |= masks->nul;
    carry->eight_bit |= masks->eight_bit;
    return true;
}

static inline struct body_carry
body_carry(const struct body_scanner *scanner)
{
    return (struct body_carry){
        .line_length = scanner->line_length,
        .line_start = scanner->state == AT_LINE_START,
        .after_cr = scanner->state == AFTER_CR,
    };
}

static bool
body_after_dot(const struct body_scanner *scanner)
{
    return scanner->state == AFTER_DOT || scanner->state == AFTER_DOT_CR;
}

/* Takes ordinary blocks from the front and returns how many. width < 64 only with one block. */
static inline __attribute__((always_inline)) size_t
body_take_blocks(struct body_scanner *scanner, const struct octet_masks *masks, size_t blocks,
                 unsigned width)
{
    struct body_carry carry = body_carry(scanner);
    size_t taken = 0;

    if (body_after_dot(scanner))
        return 0;
    while (taken < blocks && body_take(scanner, &carry, masks + taken, width))
        taken++;
    scanner->line_length =
        carry.line_length < UINT32_MAX ? (uint32_t)carry.line_length : UINT32_MAX;
    scanner->state = carry.after_cr ? AFTER_CR : carry.line_start ? AT_LINE_START : IN_LINE;
    scanner->nul |= carry.nul;
    scanner->eight_bit |= carry.eight_bit;
    return taken;
}

/* Takes what comes before the first odd octet of a refused block and returns how much that is. The
 * block's NUL and 8-bit marks may be of octets behind it: then, unless known anyway, nothing. */
static size_t
body_take_front(struct body_scanner *scanner, const struct octet_masks *masks, unsigned width)
{
    struct body_carry carry = body_carry(scanner);
    uint64_t inside = UINT64_MAX >> (MASKS_OCTETS - width);
    uint64_t odd = body_odd_octets(scanner, &carry, masks, inside);
    unsigned front = odd != 0 ? (unsigned)__builtin_ctzll(odd) : 0;

    if ((masks->nul && !scanner->nul) || (masks->eight_bit && !scanner->eight_bit) || front == 0)
        return 0;
    return body_take_blocks(scanner, masks, 1, front) * front;
}

enum {
    BATCH_FIRST = 2,
    BATCH_MAX = 16,
    CLOSER_LOOK = 4, /* octets stepped through at an odd one: ".CRLF" and the octet after it */
};

/* Takes what it can of the next blocks, whole blocks or (at most 63 octets) the tail, and advances
 * *at. False: it stands before an octet that needs a closer look. */
static bool
body_take_batch(struct body_scanner *scanner, struct span in, size_t *at, size_t batch)
{
    struct octet_masks masks[BATCH_MAX];
    size_t left = in.len - *at, blocks = left / MASKS_OCTETS, taken;

    blocks = blocks < batch ? blocks : batch;
    masks_read(in.data + *at, blocks, masks);
    taken = body_take_blocks(scanner, masks, blocks, MASKS_OCTETS);
    *at += taken * MASKS_OCTETS;
    if (taken < blocks)
        *at += body_take_front(scanner, masks + taken, MASKS_OCTETS);
    return taken == blocks;
}

/* The last, incomplete block: read together with the octets before it, which were seen already, so
 * that nothing beyond the input is touched. Their NULs and 8-bit octets are known: no harm. */
static bool
body_take_tail(struct body_scanner *scanner, struct span in, size_t *at)
{
    unsigned width = (unsigned)(in.len - *at);
    struct octet_masks masks;
    size_t taken;

    ASSERT(in.len >= MASKS_OCTETS);
    ASSERT(width > 0 && width < MASKS_OCTETS);
    masks_read(in.data + in.len - MASKS_OCTETS, 1, &masks);
    masks.cr >>= MASKS_OCTETS - width;
    masks.lf >>= MASKS_OCTETS - width;
    masks.dot >>= MASKS_OCTETS - width;
    taken = body_take_blocks(scanner, &masks, 1, width) * width;
    *at += taken > 0 ? taken : body_take_front(scanner, &masks, width);
    return taken > 0;
}

enum body_result
body_scan(struct body_scanner *scanner, struct span *in)
{
    bool fast = in->len >= MASKS_OCTETS && scanner->text_line_max >= MASKS_OCTETS;
    size_t at = 0, batch = BATCH_FIRST;
    enum body_result result;

    ASSERT(scanner->state != AFTER_END);
    if (fast && (in->data[0] == '\r' || in->data[0] == '\n')) {
        /* A flood of bare CR or LF ends each call here: reading ahead would make it dear for us. */
        result = body_steps(scanner, *in, &at, 2);
        if (result != BODY_MORE)
            return body_finish(scanner, in, at, result);
    }
    while (fast && at < in->len) {
        size_t left = in->len - at;
        bool ordinary = left >= MASKS_OCTETS ? body_take_batch(scanner, *in, &at, batch)
                                             : body_take_tail(scanner, *in, &at);

        if (ordinary) {
            batch = batch < BATCH_MAX ? batch * 2 : BATCH_MAX;
            continue;
        }
        /* Start small again: where one octet is odd others are, and reading ahead is wasted. */
        batch = BATCH_FIRST;
        left = in->len - at;
        result = body_steps(scanner, *in, &at, at + (left < CLOSER_LOOK ? left : CLOSER_LOOK));
        if (result != BODY_MORE)
            return body_finish(scanner, in, at, result);
    }
    result = body_steps(scanner, *in, &at, in->len);
    return body_finish(scanner, in, at, result);
}

size_t
body_find_stuffing(struct span in, bool line_start)
{
    struct octet_masks masks;
    uint64_t starts = line_start, found;
    size_t at = 0;

    for (; in.len - at >= MASKS_OCTETS; at += MASKS_OCTETS) {
        masks_read(in.data + at, 1, &masks);
        found = masks.dot & (masks.lf << 1 | starts);
        if (found != 0)
            return at + (unsigned)__builtin_ctzll(found);
        starts = masks.lf >> (MASKS_OCTETS - 1);
    }
    for (; at < in.len; at++) {
        if (in.data[at] == '.' && starts)
            return at;
        starts = in.data[at] == '\n';
    }
    return in.len;
}
