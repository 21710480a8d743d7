/* segment_image: a segment in memory, record by record as the spool would write it, for tests that
 * then do to it what disks do.
 * Does:    header, seal, both copies of the marks, records with bodies that can be told apart.
 * Owns:    its octets, until image_free().
 * Errors:  what does not fit fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_SEGMENT_IMAGE_H
#define RINGPOST_TESTS_UNIT_SEGMENT_IMAGE_H

#include <stdio.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "relay/spool/record.h"

struct image {
    struct segment_header header;
    char *octets; /* header.bytes of them */
    uint64_t end; /* where the next record goes */
    uint32_t slot;
};

struct image_record { /* what to add */
    const char *id;
    uint32_t recipients; /* 0: 1 */
    size_t body_bytes;
    uint32_t flags;
    uint64_t moved_segment;
    uint32_t moved_slot;
};

static inline void
image_begin(struct image *image, uint64_t number, uint64_t bytes, uint32_t slots)
{
    *image = (struct image){
        .header = { .number = number, .created_s = 1000000000, .bytes = bytes, .slots = slots },
        .octets = calloc(1, bytes),
        .end = segment_records_offset(slots),
    };
    ASSERT(image->octets != NULL && image->end < bytes);
    segment_header_write(&image->header, image->octets);
}

static inline void
image_free(struct image *image)
{
    free(image->octets);
}

/* The octet of a message's body. */
static inline char
image_body_octet(const char *id, size_t at)
{
    return (char)(' ' + ((unsigned char)id[0] + at * 7 + at / 61) % 95);
}

/* A front of one sender and recipients r0@ID.example, r1@ID.example, ... */
static inline size_t
image_envelope_write(const struct image_record *wanted, uint32_t recipients, struct outbuf *out)
{
    struct pool blocks;
    struct envelope envelope;
    const struct record_origin origin = { .trace = SPAN("Received: by test.example\r\n"),
                                          .client = SPAN("192.0.2.1"),
                                          .helo = SPAN("client.example") };
    const struct path from = { .mailbox = SPAN("sender@example.com") };
    const struct mail_parameters parameters = { .size = 7 };
    const struct rcpt_parameters none = { .notify = 0 };

    ASSERT(pool_init(&blocks, BLOCK_BYTES, 1024));
    ASSERT(envelope_start(&envelope, &blocks, &from, &parameters));
    for (uint32_t i = 0; i < recipients; i++) {
        char mailbox[64];
        int len = snprintf(mailbox, sizeof(mailbox), "r%u@%s.example", i, wanted->id);
        const struct path to = { .mailbox = span_of(mailbox, (size_t)len) };

        ASSERT(envelope_add(&envelope, &to, &none, RECIPIENT_ACCEPTED) != NULL);
    }
    record_envelope_write(&envelope, &origin, out);
    envelope_clear(&envelope);
    pool_destroy(&blocks);
    return out->len;
}

/* Returns where it begins. */
static inline uint64_t
image_add(struct image *image, const struct image_record *wanted)
{
    uint64_t at = image->end;
    char *out = image->octets + at;
    struct outbuf envelope = { .data = out + RECORD_HEADER_BYTES,
                               .size = image->header.bytes - at - RECORD_HEADER_BYTES };
    struct record record = { .segment = image->header.number,
                             .slot = image->slot,
                             .recipients = wanted->recipients == 0 ? 1 : wanted->recipients,
                             .arrival_ns = 1,
                             .size = wanted->body_bytes,
                             .body_bytes = wanted->body_bytes,
                             .flags = wanted->flags,
                             .moved_segment = wanted->moved_segment,
                             .moved_slot = wanted->moved_slot };
    uint32_t crc;
    char *body;

    (void)snprintf(record.id, sizeof(record.id), "%s", wanted->id);
    record.envelope_bytes = (uint32_t)image_envelope_write(wanted, record.recipients, &envelope);
    crc = record.envelope_crc = crc32c(0, outbuf_span(&envelope));
    ASSERT(record_bytes(&record) <= image->header.bytes - at);
    body = envelope.data + envelope.len;
    if ((wanted->flags & RECORD_BODY_FILE) == 0) {
        for (size_t i = 0; i < wanted->body_bytes; i++)
            body[i] = image_body_octet(wanted->id, i);
        crc = crc32c(crc, span_of(body, wanted->body_bytes));
        body += wanted->body_bytes;
    }
    record_header_write(&record, out);
    record_trailer_write(&record, crc, body);
    image->end += record_bytes(&record);
    image->slot += record.recipients;
    ASSERT(image->slot <= image->header.slots);
    return at;
}

/* A group ends: the next record begins a block. */
static inline void
image_group(struct image *image)
{
    image->end += (SPOOL_BLOCK_BYTES - image->end % SPOOL_BLOCK_BYTES) % SPOOL_BLOCK_BYTES;
}

static inline void
image_seal(struct image *image)
{
    segment_seal_write(image->header.number, image->end, image->octets + SPOOL_BLOCK_BYTES);
}

/* One copy of the mark block of `slot`, with this state for it and the next `count`, others
 * pending. */
static inline char *
image_mark(struct image *image, unsigned copy, uint64_t sequence, uint32_t slot, uint32_t count,
           enum mark_state state)
{
    uint32_t index = slot / MARKS_PER_BLOCK;
    struct mark marks[MARKS_PER_BLOCK] = { { 0 } };
    char *block = image->octets + segment_marks_offset(image->header.slots, copy, index);

    for (uint32_t i = 0; i < count && slot % MARKS_PER_BLOCK + i < MARKS_PER_BLOCK; i++)
        marks[slot % MARKS_PER_BLOCK + i].state = (uint8_t)state;
    mark_block_write(image->header.number, index, sequence, marks, MARKS_PER_BLOCK, block);
    return block;
}

#endif
