/* The records of a segment, one by one, and what lies between them when a disk has failed. */
#include "relay/spool/walk.h"

#include "core/crc32c.h"

#define GAP_NONE UINT64_MAX

void
walk_begin(struct segment_walk *walk, const struct segment_header *header, bool sealed,
           uint64_t end)
{
    uint64_t start = segment_records_offset(header->slots);

    *walk = (struct segment_walk){ .header = *header, .at = start, .gap = GAP_NONE };
    walk->sealed = sealed && end >= start && end <= header->bytes && end % RECORD_ALIGNMENT == 0;
    walk->end = walk->sealed ? end : header->bytes;
}

/* The octets [at, at + bytes) if the window has them all. */
static bool
window_has(uint64_t window_offset, struct span window, uint64_t at, uint64_t bytes,
           struct span *found)
{
    if (at < window_offset || at - window_offset > window.len ||
        bytes > window.len - (at - window_offset))
        return false;
    *found = span_of(window.data + (at - window_offset), bytes);
    return true;
}

static void
want(struct segment_walk *walk, uint64_t at, uint64_t bytes)
{
    ASSERT(bytes > 0 && at < walk->end && bytes <= walk->end - at);
    walk->want_offset = at - at % SPOOL_BLOCK_BYTES;
    walk->want_bytes = at + bytes - walk->want_offset;
}

static bool
is_zero(struct span octets)
{
    for (size_t i = 0; i < octets.len; i++)
        if (octets.data[i] != 0)
            return false;
    return true;
}

/* What a record's header says must be possible in this segment; its own check has shown that these
 * are the octets that were written, but not that we wrote them. */
static bool
record_fits(const struct segment_walk *walk, const struct record *record)
{
    return record->recipients > 0 && record->slot < walk->header.slots &&
           record->recipients <= walk->header.slots - record->slot &&
           record->envelope_bytes <= RECORD_ENVELOPE_BYTES_MAX &&
           record_bytes(record) <= walk->end - walk->at;
}

/* The envelope with all its recipients, as many as there are marks. */
static bool
envelope_is_whole(const struct record *record, struct span octets, struct record_envelope *envelope)
{
    struct record_envelope rest;
    struct record_recipient recipient;
    uint32_t count = 0;

    if (!record_envelope_read(record, octets, envelope))
        return false;
    rest = *envelope;
    while (record_recipient_next(&rest, &recipient))
        count++;
    return count == record->recipients && rest.rest.len == 0;
}

/* --- places that cannot be read --- */

static void
gap_open(struct segment_walk *walk)
{
    if (walk->gap != GAP_NONE)
        return;
    walk->gap = walk->at;
    walk->gap_headers = 0;
    walk->gap_id[0] = '\0';
}

static enum walk_step
gap_close(struct segment_walk *walk, enum walk_step step)
{
    walk->offset = walk->gap;
    walk->bytes = walk->at - walk->gap;
    walk->headers = walk->gap_headers;
    memcpy(walk->id, walk->gap_id, sizeof(walk->id));
    walk->gap = GAP_NONE;
    return step;
}

/* A record whose header can be read and nothing else. Its length is as good as its header: what is
 * inside is skipped, and never taken for records, whatever a stranger wrote into a message. */
static void
pass_over_broken(struct segment_walk *walk)
{
    gap_open(walk);
    if (walk->gap_headers++ == 0)
        memcpy(walk->gap_id, walk->record.id, sizeof(walk->gap_id));
    walk->body_checked = false;
    walk->at += record_bytes(&walk->record);
}

/* No record begins here. A group of records ends on the border of a block, filled with zeros; but a
 * seal is behind a record. False: a window is missing. */
static bool
pass_over_nothing(struct segment_walk *walk, uint64_t window_offset, struct span window)
{
    uint64_t left = (SPOOL_BLOCK_BYTES - walk->at % SPOOL_BLOCK_BYTES) % SPOOL_BLOCK_BYTES;
    struct span padding;

    if (left > walk->end - walk->at)
        left = walk->end - walk->at;
    if (walk->gap == GAP_NONE && left > 0 && !(walk->sealed && walk->at + left == walk->end)) {
        if (!window_has(window_offset, window, walk->at, left, &padding)) {
            want(walk, walk->at, left);
            return false;
        }
        if (is_zero(padding)) {
            walk->at += left;
            return true;
        }
    }
    gap_open(walk);
    walk->body_checked = false;
    walk->at += RECORD_ALIGNMENT;
    return true;
}

/* --- one record --- */

enum found { FOUND_RECORD, FOUND_NONE, FOUND_BROKEN, FOUND_WANT };

/* What stands at `at`. WANT: a window is missing. */
static enum found
read_front(struct segment_walk *walk, uint64_t window_offset, struct span window)
{
    struct span octets;
    uint64_t front;

    if (walk->end - walk->at < RECORD_HEADER_BYTES)
        return FOUND_NONE;
    if (!window_has(window_offset, window, walk->at, RECORD_HEADER_BYTES, &octets)) {
        want(walk, walk->at, RECORD_HEADER_BYTES);
        return FOUND_WANT;
    }
    if (!record_header_read(walk->header.number, octets, &walk->record) ||
        !record_fits(walk, &walk->record))
        return FOUND_NONE;
    front = RECORD_HEADER_BYTES + walk->record.envelope_bytes;
    if (!window_has(window_offset, window, walk->at, front, &octets)) {
        want(walk, walk->at, front);
        return FOUND_WANT;
    }
    span_advance(&octets, RECORD_HEADER_BYTES);
    if (!envelope_is_whole(&walk->record, octets, &walk->envelope))
        return FOUND_BROKEN;
    walk->crc = crc32c(0, octets);
    walk->body_at = walk->at + front;
    return FOUND_RECORD;
}

/* The check over envelope and body, as far as the window goes. */
static enum found
read_body(struct segment_walk *walk, uint64_t window_offset, struct span window)
{
    const struct record *record = &walk->record;
    uint64_t body_end = walk->at + RECORD_HEADER_BYTES + record->envelope_bytes +
                        ((record->flags & RECORD_BODY_FILE) != 0 ? 0 : record->body_bytes);
    uint64_t window_end = window_offset + window.len;
    struct span octets;
    uint32_t crc;

    if (walk->body_at < body_end && walk->body_at >= window_offset && walk->body_at < window_end) {
        uint64_t here = window_end < body_end ? window_end : body_end;

        octets = span_of(window.data + (walk->body_at - window_offset), here - walk->body_at);
        walk->crc = crc32c(walk->crc, octets);
        walk->body_at = here;
    }
    if (walk->body_at < body_end) {
        want(walk, walk->body_at, 1);
        return FOUND_WANT;
    }
    if (!window_has(window_offset, window, body_end, RECORD_TRAILER_BYTES, &octets)) {
        want(walk, body_end, RECORD_TRAILER_BYTES);
        return FOUND_WANT;
    }
#ifdef CANARY_BODY_NOT_CHECKED
    return FOUND_RECORD;
#endif
    return record_trailer_read(record, octets, &crc) && crc == walk->crc ? FOUND_RECORD
                                                                         : FOUND_BROKEN;
}

static enum found
read_record(struct segment_walk *walk, uint64_t window_offset, struct span window)
{
    enum found found;

    if (!walk->body_checking) {
        found = read_front(walk, window_offset, window);
        if (found != FOUND_RECORD || walk->sealed || walk->body_checked)
            return found;
        walk->body_checking = true;
    }
    found = read_body(walk, window_offset, window);
    if (found == FOUND_WANT)
        return found;
    walk->body_checking = false;
    walk->body_checked = found == FOUND_RECORD;
    /* A long body has moved the window away from the envelope: once more from the front. */
    return found == FOUND_RECORD ? read_front(walk, window_offset, window) : found;
}

enum walk_step
walk_next(struct segment_walk *walk, uint64_t window_offset, struct span window)
{
    while (walk->at < walk->end) {
        switch (read_record(walk, window_offset, window)) {
        case FOUND_WANT: return WALK_READ;
        case FOUND_BROKEN: pass_over_broken(walk); break;
        case FOUND_NONE:
            if (!pass_over_nothing(walk, window_offset, window))
                return WALK_READ;
            break;
        case FOUND_RECORD:
            if (walk->gap != GAP_NONE)
                return gap_close(walk, WALK_DAMAGE);
            walk->offset = walk->at;
            walk->bytes = record_bytes(&walk->record);
            walk->at += walk->bytes;
            walk->body_checked = false;
            return WALK_RECORD;
        }
    }
    ASSERT(walk->at == walk->end);
    if (walk->gap == GAP_NONE)
        return WALK_END;
    if (walk->sealed)
        return gap_close(walk, WALK_DAMAGE);
    /* What a file held in an earlier life, or a part of a record: nobody was promised it. */
    return gap_close(walk, walk->gap_headers > 0 ? WALK_TAIL : WALK_END);
}
