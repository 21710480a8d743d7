/* line: finds the ends of command lines and of message data, with strict CRLF.
 * Does:    RFC 5321 2.3.8 (CRLF is the only line end), 4.1.1.4 (CRLF . CRLF is the only end of
 *          data), 4.5.2 (dot stuffing).
 * Owns:    the few bytes of its state; the input is borrowed for the call.
 * Memory:  none allocated; never reads outside the input.
 * Errors:  bare CR, bare LF, NUL and over-long lines are results; the caller chooses the reply.
 * Speed:   64 octets at a time (core/masks.h), with scalar twins that tests and fuzzers hold
 *          against it.
 */
#ifndef RINGPOST_CORE_LINE_H
#define RINGPOST_CORE_LINE_H

#include "core/span.h"

/* --- command and reply lines --- */

enum line_result {
    LINE_PARTIAL,  /* no line end yet; nothing consumed */
    LINE_COMPLETE, /* *line is the line without CRLF */
    LINE_BARE,     /* a CR without LF, or an LF without CR, comes before any CRLF */
    LINE_NUL,      /* the line is complete but holds a NUL */
    LINE_TOO_LONG, /* neither CRLF nor a bare CR or LF within the first max octets */
};

/* Looks for one command or reply line at the start of `in`. max counts the CRLF.
 *
 * LINE_PARTIAL: *consumed is 0. *scanned is the caller's resume point: 0 for a new line; kept for
 * the next call with the same start and more octets, so that none is looked at twice. A CR as the
 * last octet is partial, not bare. With max octets or more there the result is never partial.
 *
 * Any other result: *consumed is the number of octets to drop and *scanned is 0 again. Dropped are
 * the line with its CRLF; for LINE_BARE all up to and with the bare octet; for LINE_TOO_LONG all up
 * to and with the first LF, or, if there is none, all of `in`. In the last case (the last dropped
 * octet is no LF) the caller must call line_skip() on what comes next until it returns true.
 *
 * *line is the line for LINE_COMPLETE and LINE_NUL, what is before the bare octet for LINE_BARE,
 * the first max octets for LINE_TOO_LONG, and empty for LINE_PARTIAL.
 *
 * Any split of the same octets gives the same results. */
MUST_USE enum line_result line_next(struct span in, size_t max, size_t *scanned, struct span *line,
                                    size_t *consumed);

/* After LINE_TOO_LONG without an LF in sight: advances *in past the next LF, or past all of it.
 * True when the LF was found. Keeps no state between calls, so whether a CR came before that LF,
 * and what to do about it if not, is the caller's. */
MUST_USE bool line_skip(struct span *in);

/* The byte-at-a-time twin of line_next, for differential tests and fuzzing. */
MUST_USE enum line_result line_next_scalar(struct span in, size_t max, size_t *scanned,
                                           struct span *line, size_t *consumed);

/* --- message data --- */

/* ".CRLF" behind the last line, which counts for neither SIZE nor the message (RFC 1870 5). */
#define BODY_TERMINATOR_BYTES 3

enum body_result {
    BODY_MORE,     /* all of *in was message data; more must come */
    BODY_END,      /* *in was advanced past CRLF . CRLF; framed only */
    BODY_BARE_CR,  /* *in was advanced past a CR that no LF follows */
    BODY_BARE_LF,  /* *in was advanced past an LF that no CR precedes */
    BODY_LONG_LINE /* *in was advanced past the octet that makes the line too long; once per line */
};

/* Stuffed dots: of lines that begin with one. They do not count for SIZE (RFC 1870). Where the
 * first are is noted, so that they can be left out without a look at all of the message: octets
 * before each, in wire form. Few messages have more. */
#define BODY_DOTS_MAX 4
struct body_dots {
    uint32_t count;             /* of all */
    uint32_t at[BODY_DOTS_MAX]; /* in order; nothing from 4 GiB on */
};

struct body_scanner {
    uint32_t text_line_max; /* octets of a line without CRLF and without the stuffed dot; 998 is
                             * RFC 5321 4.5.3.1.6; UINT32_MAX: no limit */
    uint32_t line_length;   /* such octets of the current line so far, without bare CR and LF */
    uint32_t passed;        /* internal: octets of the calls before; of 4 GiB and more the rest */
    struct body_dots dots;
    uint8_t state;          /* internal: where in CR LF . CR LF */
    bool framed;            /* true: DATA (dots are stuffed, CRLF.CRLF ends it); false: BDAT octets
                             * (RFC 3030): the caller knows the length, dots mean nothing */
    bool eight_bit;         /* an octet above 127 was seen */
    bool nul;               /* a NUL was seen; no result of its own */
    bool ends_with_crlf;    /* the last two octets were CRLF (or nothing was seen yet) */
};

/* framed: the state starts as if a CRLF came before, so that ".CRLF" at once is an empty message
 * (RFC 5321 4.1.1.4: the CRLF of the DATA command is the first one of CRLF . CRLF). For BDAT start
 * once per message, not per chunk: a CRLF may lie across two chunks. */
void body_scanner_start(struct body_scanner *scanner, bool framed, uint32_t text_line_max);

/* Looks at *in and advances it past what it has seen; the data of this call is what it was advanced
 * by. In wire form: for framed data that includes stuffed dots and, at BODY_END, the final ".CRLF".
 *
 * BODY_MORE and BODY_END are the only results of an acceptable message. After one of the other
 * three call on with what is left and what comes, until BODY_END (framed) or until the octets are
 * used up: the true end must be found even so. What follows a bare CR or LF continues the same
 * line: it is never the start of one. After BODY_END no call is legal until the next start.
 *
 * A CR as the last octet is left open: if no LF follows, the next call returns BODY_BARE_CR and may
 * advance *in by nothing. Any split of the same octets gives the same results, each as early. */
MUST_USE enum body_result body_scan(struct body_scanner *scanner, struct span *in);

/* True when the last octet was a CR whose LF has not come yet. At the end of the last BDAT chunk
 * that is a bare CR which no further octet will report. */
MUST_USE bool body_scanner_dangling_cr(const struct body_scanner *scanner);

/* The byte-at-a-time twin of body_scan, for differential tests and fuzzing. */
MUST_USE enum body_result body_scan_scalar(struct body_scanner *scanner, struct span *in);

/* For BDAT octets that must be sent as DATA (RFC 5321 4.5.2): the offset of the first '.' in `in`
 * that begins a line, or in.len if there is none. line_start: in.data[0] begins a line, that is,
 * nothing came before it or the octet before it was an LF. The octets must have passed body_scan()
 * unframed without a bare LF, so that every LF among them ends a line, also one whose CR lies in
 * the buffer before.
 * With an offset below in.len: send what is before it and one '.' of our own, then go on with the
 * octets from the offset and line_start false (that dot has been taken care of). With in.len: send
 * all; line_start for the octets after it is then whether in ends with LF. */
MUST_USE size_t body_find_stuffing(struct span in, bool line_start);

#endif
