/* record: what stands in a spool segment, byte by byte; encoding and checking only.
 * Does:    segment header and seal, mark blocks, message records and their envelopes; docs/SPOOL.md
 *          has the layout. All numbers are little endian. Bound to the segment's number, so that
 *          what a recycled file still holds is never taken for the present.
 * Owns:    nothing; spans of a decoded envelope point into the octets that were read.
 * Memory:  none allocated. Pure.
 * Errors:  octets that are not what they should be are a result, never an ASSERT: disks rot.
 */
#ifndef RINGPOST_RELAY_SPOOL_RECORD_H
#define RINGPOST_RELAY_SPOOL_RECORD_H

#include "core/envelope.h"
#include "core/limits.h"

#define SPOOL_FORMAT 1 /* in each header; another one is left alone and reported */
#define SPOOL_BLOCK_BYTES 4096u

/* --- a segment: header block | seal block | marks, copy 0 | marks, copy 1 | records --- */
struct segment_header {
    uint64_t number;    /* unique in the spool, ascending with time */
    uint64_t created_s; /* Unix time */
    uint64_t bytes;     /* of the file; a multiple of SPOOL_BLOCK_BYTES */
    uint32_t slots;     /* marks: one per recipient of its messages */
};

void segment_header_write(const struct segment_header *header, char block[SPOOL_BLOCK_BYTES]);
/* False: not a header of this format, or damaged. */
MUST_USE bool segment_header_read(const char block[SPOOL_BLOCK_BYTES], struct segment_header *out);
/* A header of another format (an earlier or a later ringpost's), as far as one can tell. */
MUST_USE bool segment_header_other(const char block[SPOOL_BLOCK_BYTES]);
/* end: offset behind the last record that was promised to anybody. */
void segment_seal_write(uint64_t number, uint64_t end, char block[SPOOL_BLOCK_BYTES]);
MUST_USE bool segment_seal_read(uint64_t number, const char block[SPOOL_BLOCK_BYTES],
                                uint64_t *end);

/* Offsets inside the file. */
uint32_t segment_mark_blocks(uint32_t slots); /* per copy */
uint64_t segment_marks_offset(uint32_t slots, unsigned copy, uint32_t block);
uint64_t segment_records_offset(uint32_t slots);

/* --- marks: what has become of each recipient; written in place, twice in turn --- */
enum mark_state {
    MARK_PENDING,   /* also: never written */
    MARK_DELIVERED, /* a next hop has it */
    MARK_FAILED,    /* refused or expired; its sender was told where one may be told */
    MARK_REMOVED,   /* by an operator */
    MARK_STATES
};
enum mark_flag { MARK_HELD = 1, MARK_DELAY_TOLD = 2 };
struct mark {
    uint8_t state; /* enum mark_state */
    uint8_t flags; /* enum mark_flag bits */
    uint8_t attempts;
    uint8_t reserved;
    uint32_t due_s; /* next attempt, Unix time; 0: at once */
};
/* A block: its marks, then a sequence number and a check over all of it. A torn write breaks the
 * check, and the other copy, one batch older, stands. */
#define MARKS_PER_BLOCK 510u

/* count <= MARKS_PER_BLOCK; the rest is zero. */
void mark_block_write(uint64_t number, uint32_t index, uint64_t sequence, const struct mark *marks,
                      uint32_t count, char block[SPOOL_BLOCK_BYTES]);
MUST_USE bool mark_block_read(uint64_t number, uint32_t index, const char block[SPOOL_BLOCK_BYTES],
                              uint64_t *sequence, struct mark marks[MARKS_PER_BLOCK]);

/* --- records: header | envelope | body | trailer, padded with zeros to RECORD_ALIGNMENT --- */
#define RECORD_HEADER_BYTES 128u
#define RECORD_TRAILER_BYTES 16u
#define RECORD_ALIGNMENT 64u

enum record_flag {
    RECORD_BODY_FILE = 1,   /* the body is in the file ID.body, not in the record */
    RECORD_CHUNKED = 2,     /* the body came by BDAT: octets as they are; else as on the wire of
                             * DATA, dots stuffed, with the terminator */
    RECORD_EIGHT_BIT = 4,   /* struct receiver_summary */
    RECORD_HEADER_UTF8 = 8, /* the same */
    RECORD_ENDS_CRLF = 16,  /* the same */
    RECORD_NOTICE = 32,     /* we wrote it: a bounce or delay notice */
};
struct record {
    uint64_t segment; /* number of its segment */
    uint32_t slot;    /* of its first recipient; the others follow */
    uint32_t recipients;
    char id[16];         /* queue id, NUL-terminated */
    uint64_t arrival_ns; /* Unix time */
    uint64_t size;       /* octets of the message (RFC 1870) */
    uint64_t body_bytes; /* in the record or in the file */
    uint32_t envelope_bytes;
    uint32_t flags;         /* enum record_flag bits */
    uint64_t moved_segment; /* number of the segment that it was copied from; 0: none. While that
                             * segment exists, the original counts and this copy does not */
    uint32_t moved_slot;
    uint32_t envelope_crc;
};

/* Octets in the segment, padding included. */
uint64_t record_bytes(const struct record *record);
void record_header_write(const struct record *record, char out[RECORD_HEADER_BYTES]);
/* Any octets; false: no record of this segment begins here. What it says was checked against
 * itself: lengths do not overflow, the id is a valid file name. */
MUST_USE bool record_header_read(uint64_t segment, struct span in, struct record *out);
/* crc: crc32c() over envelope and body (the envelope alone for a body in a file). */
void record_trailer_write(const struct record *record, uint32_t crc,
                          char out[RECORD_TRAILER_BYTES]);
MUST_USE bool record_trailer_read(const struct record *record, struct span in, uint32_t *crc);

/* --- the envelope of a record --- */
/* Above RECORD_ENVELOPE_BYTES_MAX (core/limits.h) nothing is stored: RCPT is refused (452 4.5.3)
 * before it comes to that. */
struct record_origin {  /* where it came from, for Received:, logs and reports */
    struct span trace;  /* our Received: field with its CRLFs; empty for notices */
    struct span client; /* address text; empty: none */
    struct span helo;
};
/* Only recipients in state RECIPIENT_ACCEPTED count. */
size_t record_envelope_bytes(const struct envelope *envelope, const struct record_origin *origin);
/* What one more recipient adds. */
size_t record_recipient_bytes(size_t mailbox_len, size_t orcpt_len);
/* out needs record_envelope_bytes() of room. */
void record_envelope_write(const struct envelope *envelope, const struct record_origin *origin,
                           struct outbuf *out);

struct record_envelope { /* decoded front; spans point into the input */
    struct record_origin origin;
    struct span reverse_path, envid;
    uint64_t declared_size;
    enum body_type body;
    enum dsn_return dsn_return;
    bool smtputf8, utf8;
    uint32_t recipients;
    struct span rest; /* internal: recipients not read yet */
};
struct record_recipient {
    struct span mailbox, orcpt;
    uint8_t notify;
};
/* False: damaged. `in` is all of the envelope; crc is checked against record->envelope_crc. */
MUST_USE bool record_envelope_read(const struct record *record, struct span in,
                                   struct record_envelope *out);
/* The next recipient, in the order of slots. False: no more (or damage that the crc did not
 * show: ask rest.len == 0). */
MUST_USE bool record_recipient_next(struct record_envelope *envelope,
                                    struct record_recipient *recipient);

#endif
