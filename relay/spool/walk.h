/* walk: goes over the records of a segment that was found at start, whatever the disk made of it.
 * Does:    gives each record that can be read, and each place between two of them that cannot. The
 *          caller reads the file, in windows as asked for.
 * Owns:    nothing; the window is the caller's, spans of an envelope point into it.
 * Memory:  none allocated. Pure: no I/O, the same for recovery and for the fuzzer.
 * Errors:  any octets are a result. Every step ends within one window's length of work.
 *
 * A sealed segment is walked up to its end; what stands there was promised. One that is not sealed
 * is walked to the end of the file, and each record's own check is made, body included: what was
 * being written when the machine stopped may be there in part. Only what lies before a valid record
 * is damage then; behind the last one begins the tail, which nobody was promised.
 */
#ifndef RINGPOST_RELAY_SPOOL_WALK_H
#define RINGPOST_RELAY_SPOOL_WALK_H

#include "relay/spool/record.h"

enum walk_step {
    WALK_READ,   /* wants a window from want_offset (a multiple of SPOOL_BLOCK_BYTES) on that has
                  * at least want_bytes, or all there is up to walk->end */
    WALK_RECORD, /* record and envelope, at offset, of so many bytes */
    WALK_DAMAGE, /* [offset, offset + bytes) cannot be read; headers, id */
    WALK_TAIL,   /* the same, where a segment that was not sealed ends; nothing follows */
    WALK_END,
};

/* What a window must be able to hold: the largest front of a record, from the start of a block. */
#define WALK_WINDOW_BYTES_MIN (2 * SPOOL_BLOCK_BYTES + RECORD_ENVELOPE_BYTES_MAX)

struct segment_walk {
    struct segment_header header;
    uint64_t end; /* nothing is read beyond */
    bool sealed;
    /* results of a step */
    uint64_t want_offset, want_bytes;
    uint64_t offset, bytes;
    struct record record;
    struct record_envelope envelope;
    uint32_t headers; /* DAMAGE, TAIL: records in it that still say who they are, */
    char id[16];      /* and the first one's id; "": none */
    /* internal */
    uint64_t at;        /* the next record should begin here */
    uint64_t gap;       /* where the place began that cannot be read; UINT64_MAX */
    uint64_t body_at;   /* octets before it are in crc */
    uint32_t crc;       /* of envelope and body so far */
    bool body_checking; /* the record at `at` is being read to its end */
    bool body_checked;  /* the record at `at` is whole */
    uint32_t gap_headers;
    char gap_id[16];
};

/* sealed: end is that of its seal; where this cannot be, the segment is walked as one without. */
void walk_begin(struct segment_walk *walk, const struct segment_header *header, bool sealed,
                uint64_t end);
/* window: the octets of the file at window_offset; empty at first. */
enum walk_step walk_next(struct segment_walk *walk, uint64_t window_offset, struct span window);

#endif
