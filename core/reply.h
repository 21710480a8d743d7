/* reply: one SMTP reply, as a value; reading reply lines from a next hop, writing them to a client.
 * Does:    RFC 5321 4.2 (syntax), RFC 2034/3463 (enhanced status codes).
 * Owns:    struct reply holds its text itself (no pointers), so it can be copied and stored.
 * Memory:  none allocated.
 * Errors:  a line that is not a reply is a result code, never an ASSERT.
 */
#ifndef RINGPOST_CORE_REPLY_H
#define RINGPOST_CORE_REPLY_H

#include "core/limits.h"
#include "core/span.h"

struct enhanced_code { /* 0.0.0: none was given */
    uint8_t class;
    uint16_t subject, detail;
};

struct reply {
    uint16_t code; /* 200..599; 0: no reply */
    uint16_t text_len;
    struct enhanced_code enhanced;
    char text[REPLY_TEXT_BYTES_MAX]; /* without code and enhanced code; lines joined by '\n';
                                      * no other control character, well-formed UTF-8 */
};

/* One line of a reply, without its CRLF. */
struct reply_line {
    uint16_t code;
    bool last;                     /* "250 " rather than "250-" */
    struct enhanced_code enhanced; /* taken off the text when its class equals the code's first
                                    * digit; never with 3xx (RFC 2034) */
    bool plain;                    /* the text is printable ASCII and nothing else */
    struct span text;              /* into the line that was parsed; may be empty ("250" alone is
                                    * legal, 4.2) */
};

/* Reads one line without its CRLF. False: not a reply line (code outside 200..599, no SP or '-'
 * after it, a control character other than TAB in the text). The caller decides about NUL and
 * length before. */
MUST_USE bool reply_line_parse(struct span line, struct reply_line *out);

/* Empties the reply, then: */
void reply_clear(struct reply *reply);
/* Takes one more line: the code comes from the first line, the enhanced code from the first line
 * that has one. The text is appended; where it would pass the limit it is cut and ends in "...".
 * TAB becomes a space; bytes that are not printable ASCII or UTF-8 are replaced by '?'. False:
 * the code differs from the lines before (4.2.1), and the reply is as it was. */
MUST_USE bool reply_add_line(struct reply *reply, const struct reply_line *line);

/* Sets a whole reply. `enhanced` such as "4.7.0", or NULL (always with 3xx). '\n' in the text
 * parts its lines; else the text is treated as in reply_add_line. */
void reply_set(struct reply *reply, unsigned code, const char *enhanced, struct span text);

/* Replaces each character above 127 by one '?': for a client that did not use SMTPUTF8 (RFC 6531
 * 3.7.4). */
void reply_make_ascii(struct reply *reply);

/* Writes the reply as lines "code[-| ]enhanced text CRLF", each at most REPLY_LINE_BYTES_MAX.
 * with_enhanced: whether the client gets enhanced codes at all; a 2xx/4xx/5xx reply that has none
 * gets x.0.0 then. Text is folded at words where a line would be too long. `out` needs
 * RECEIVER_REPLY_ROOM, and no more than that is written: lines that do not fit are left out. */
void reply_write(const struct reply *reply, bool with_enhanced, struct outbuf *out);

static inline unsigned
reply_class(const struct reply *reply)
{
    return reply->code / 100u;
}

/* Parses "4.7.0" at the start of `in`. Returns the bytes it took, 0 when it is none (RFC 3463:
 * class 2, 4 or 5, subject and detail up to 999). What follows is the caller's to judge, but is
 * no digit. */
size_t enhanced_code_parse(struct span in, struct enhanced_code *out);
/* "4.7.0" */
#define ENHANCED_CODE_BYTES_MAX (sizeof("5.999.999") - 1)
void enhanced_code_write(struct enhanced_code code, struct outbuf *out);
/* "450 4.7.0 ": what stands before a reply's text when people read it; only what there is. */
#define REPLY_CODES_BYTES_MAX (sizeof("599 5.999.999 ") - 1)
void reply_codes_write(const struct reply *reply, struct outbuf *out);

#endif
