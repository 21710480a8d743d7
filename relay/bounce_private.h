/* bounce_private: what the files of bounce share: a writer that keeps every line legal, and the
 * original.
 * Does:    writer: wire form, folding, quoted-printable, harmless characters. original: what of it
 *          can be returned and how; a boundary that does not occur in it.
 * Owns:    the writer: the chain that it fills, until that is moved or released.
 * Memory:  none allocated.
 * Errors:  no buffer left: the writer remembers (failed), and writes nothing more.
 */
#ifndef RINGPOST_RELAY_BOUNCE_PRIVATE_H
#define RINGPOST_RELAY_BOUNCE_PRIVATE_H

#include "relay/bounce.h"

/* --- writer --- */

struct bounce_writer {
    struct buffers *buffers;
    struct chain chain;
    struct outbuf pending; /* over piece: what was not copied to the chain yet */
    char piece[512];
    bool failed;
    bool eight_bit;     /* an octet above 127 was written */
    bool utf8;          /* the current part may hold UTF-8; else it is escaped */
    bool quoted;        /* the current part is quoted-printable (RFC 2045 6.7) */
    int held;           /* quoted: a blank or CR whose successor decides; -1: none */
    uint64_t size;      /* octets of the message: no dots of ours (RFC 1870) */
    size_t wire_column; /* octets in the line, as it goes out */
    size_t column;      /* octets in the line, before quoted-printable */
    struct span indent; /* what lines begin with where writer_gap() begins them */
};

void writer_start(struct bounce_writer *writer, struct buffers *buffers);
/* ".", and all to the end of `out`; or gives everything back, and false. */
MUST_USE bool writer_finish(struct bounce_writer *writer, struct chain *out);
void writer_quote(struct bounce_writer *writer, bool on);

/* One octet, CRs and LFs too, as they are. */
void writer_octet(struct bounce_writer *writer, char octet);
/* Our own text, with CRLF where a line ends. */
void writer_add(struct bounce_writer *writer, struct span text);
void writer_number(struct bounce_writer *writer, uint64_t number);
void writer_date(struct bounce_writer *writer, uint64_t when_s);
/* Text of others, in one piece: controls and what is not UTF-8 become '?'; characters above 127 are
 * escaped as \x{HEX} (RFC 6533 3) where the part has no UTF-8. */
void writer_foreign(struct bounce_writer *writer, struct span text);
/* The same for an address of type utf-8: utf-8-addr-xtext without UTF-8, utf-8-address with it. */
void writer_utf8_address(struct bounce_writer *writer, struct span address);
/* A space before a word of so many octets; or a line's end and the indent, if it would pass column
 * 78 (quoted: 72); the indent alone at a line's start. */
void writer_gap(struct bounce_writer *writer, size_t len);
/* Text of anybody, folded at its blanks and line ends. */
void writer_words(struct bounce_writer *writer, struct span text);
/* Whether an octet is above 127. */
MUST_USE bool any_eight_bit(struct span s);

/* --- original --- */

enum bounce_returned { BOUNCE_RETURNS_NOTHING, BOUNCE_RETURNS_HEADER, BOUNCE_RETURNS_ALL };

struct bounce_original {
    const struct buffers *buffers;
    const struct chain *chain;
    bool chunked;
    enum bounce_returned returned;
    uint64_t bytes;        /* of the message, from its start: what is returned */
    bool eight_bit;        /* octets above 127 in them */
    bool header_eight_bit; /* in its header section, as far as that was looked at */
    bool irregular;        /* they are no lines that may be sent: NUL, CR or LF alone, too long */
};

/* Looks at it and decides. all: it was asked for. */
void original_survey(struct bounce_original *original, const struct buffers *buffers,
                     const struct chain *chain, bool complete, bool chunked, bool all);

/* Digits behind "=_", the id and a dot. */
#define BOUNDARY_DIGITS 4
#define BOUNDARY_BYTES_MAX (2 + BOUNCE_ID_BYTES_MAX + 1 + BOUNDARY_DIGITS)
_Static_assert(BOUNDARY_BYTES_MAX <= 70, "RFC 2046 5.1.1");
/* Writes one that does not occur in what is returned. */
void original_boundary(const struct bounce_original *original, struct span id,
                       struct outbuf *boundary);
void original_copy(const struct bounce_original *original, struct bounce_writer *writer);

/* --- the parts --- */

/* Class, subject and detail for the Status: field. */
struct enhanced_code bounce_status(const struct bounce_recipient *recipient);
/* The first part's text: for somebody who knows nothing of mail servers. */
void bounce_text_write(const struct bounce *bounce, enum bounce_returned returned,
                       struct bounce_writer *writer);
/* "550 5.1.1": as much of it as there is, and no more. */
void bounce_codes_write(const struct reply *reply, struct bounce_writer *writer);

#endif
