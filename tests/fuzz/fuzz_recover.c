/* A disk may hold anything where a segment's records should be. Oracle: the walk gives the same in
 * windows of any size; what it gives as records are records, in order and apart; what lies between
 * them is told as damage, or is padding.
 *
 * First octet: bit 0 sealed; bit 1: checks are made right first, so that octets that were changed
 * get past them; bits 2..7: blocks of the smaller windows. The rest stands where records begin. */
#include <stdint.h>
#include <stdlib.h>

#include "core/crc32c.h"
#include "relay/spool/record_private.h"
#include "relay/spool/walk.h"

#define NUMBER 0x5EED00000001ull
#define SLOTS 64u
#define STEPS_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct told {
    enum walk_step step;
    uint64_t offset, bytes;
    uint32_t headers;
    char id[16];
};

struct tale {
    struct told told[STEPS_MAX];
    uint32_t count;
};

/* What an input cannot guess: numbers that are checks of others. */
static void
repair(char *octets, uint64_t at, uint64_t end)
{
    char *header = octets + at;
    uint32_t envelope_bytes = number32_read(header + 72);
    uint64_t body_bytes = number64_read(header + 64), left = end - at - RECORD_HEADER_BYTES;
    struct record record;
    struct span content;

    if ((number32_read(header + 12) & RECORD_BODY_FILE) != 0)
        body_bytes = 0;
    number32_write(header + 8, SPOOL_FORMAT);
    number64_write(header + 16, NUMBER);
    if (envelope_bytes <= left)
        number32_write(header + 76,
                       crc32c(0, span_of(header + RECORD_HEADER_BYTES, envelope_bytes)));
    number64_write(header + HEADER_CHECKED_BYTES,
                   record_check(CHECK_RECORD, NUMBER, 0, span_of(header, HEADER_CHECKED_BYTES)));
    if (!record_header_read(NUMBER, span_of(header, RECORD_HEADER_BYTES), &record) ||
        envelope_bytes > left || body_bytes > left - envelope_bytes ||
        RECORD_TRAILER_BYTES > left - envelope_bytes - body_bytes)
        return;
    content = span_of(header + RECORD_HEADER_BYTES, envelope_bytes + body_bytes);
    record_trailer_write(&record, crc32c(0, content), header + RECORD_HEADER_BYTES + content.len);
}

static void
walk_all(const struct segment_header *header, const char *octets, bool sealed, uint64_t end,
         uint64_t chunk, struct tale *tale)
{
    struct segment_walk walk;
    uint64_t offset = 0;
    struct span window = { 0 };
    char *copy = NULL;

    tale->count = 0;
    walk_begin(&walk, header, sealed, end);
    for (;;) {
        enum walk_step step = walk_next(&walk, offset, window);
        struct told *told = &tale->told[tale->count];
        uint64_t bytes;

        if (step == WALK_END)
            break;
        if (step == WALK_READ) {
            ASSERT(walk.want_offset % SPOOL_BLOCK_BYTES == 0 && walk.want_bytes > 0);
            ASSERT(walk.want_bytes <= WALK_WINDOW_BYTES_MIN);
            ASSERT(walk.want_bytes <= walk.end - walk.want_offset);
            bytes = walk.want_bytes > chunk ? walk.want_bytes : chunk;
            if (bytes > walk.end - walk.want_offset)
                bytes = walk.end - walk.want_offset;
            /* In memory of its own: the sanitizer sees a step beyond it. */
            free(copy);
            copy = malloc(bytes);
            ASSERT(copy != NULL);
            memcpy(copy, octets + walk.want_offset, bytes);
            offset = walk.want_offset;
            window = span_of(copy, bytes);
            continue;
        }
        ASSERT(tale->count < STEPS_MAX);
        tale->count++;
        *told = (struct told){ .step = step, .offset = walk.offset, .bytes = walk.bytes };
        told->headers = step == WALK_RECORD ? 0 : walk.headers;
        memcpy(told->id, step == WALK_RECORD ? walk.record.id : walk.id, sizeof(told->id));
    }
    free(copy);
}

/* By itself, from its octets alone. */
static void
record_is_whole(const char *octets, const struct told *told, bool sealed)
{
    struct span in = span_of(octets + told->offset, told->bytes);
    struct record record;
    struct record_envelope envelope;
    struct record_recipient recipient;
    uint32_t crc, count = 0;
    uint64_t content;

    ASSERT(record_header_read(NUMBER, in, &record));
    ASSERT(record_bytes(&record) == told->bytes && strcmp(record.id, told->id) == 0);
    ASSERT(record.slot + record.recipients <= SLOTS);
    ASSERT(record_envelope_read(
        &record, span_of(in.data + RECORD_HEADER_BYTES, record.envelope_bytes), &envelope));
    while (record_recipient_next(&envelope, &recipient))
        count++;
    ASSERT(count == record.recipients);
    if (sealed)
        return;
    content =
        record.envelope_bytes + ((record.flags & RECORD_BODY_FILE) != 0 ? 0 : record.body_bytes);
    span_advance(&in, RECORD_HEADER_BYTES);
    ASSERT(record_trailer_read(&record, span_after(in, content), &crc));
    ASSERT(crc == crc32c(0, span_first(in, content)));
}

static void
tale_holds(const struct tale *tale, const char *octets, uint64_t start, uint64_t end, bool sealed)
{
    uint64_t at = start;

    for (uint32_t i = 0; i < tale->count; i++) {
        const struct told *told = &tale->told[i];

        ASSERT(told->offset >= at && told->bytes > 0 && told->bytes <= end - told->offset);
        ASSERT(told->offset % RECORD_ALIGNMENT == 0 && told->bytes % RECORD_ALIGNMENT == 0);
        /* Padding, up to the end of a block. */
        ASSERT(told->offset == at || told->offset % SPOOL_BLOCK_BYTES == 0);
        ASSERT(told->offset - at < SPOOL_BLOCK_BYTES);
        ASSERT(octets_zero(octets + at, told->offset - at));
        ASSERT(told->step != WALK_TAIL || (!sealed && i == tale->count - 1 && told->headers > 0));
        if (told->step == WALK_RECORD)
            record_is_whole(octets, told, sealed);
        at = told->offset + told->bytes;
    }
    ASSERT(!sealed || at == end);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct tale whole, parts;
    uint64_t start = segment_records_offset(SLOTS), end, bytes;
    struct segment_header header = { .number = NUMBER, .created_s = 1, .slots = SLOTS };
    bool sealed, right;
    char *octets;

    if (len < 1 || len > STEPS_MAX * RECORD_ALIGNMENT / 2)
        return 0;
    sealed = (data[0] & 1) != 0;
    right = (data[0] & 2) != 0;
    bytes = start + len - 1;
    bytes += SPOOL_BLOCK_BYTES - bytes % SPOOL_BLOCK_BYTES;
    end = sealed ? start + (len - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT : bytes;
    octets = calloc(1, bytes);
    ASSERT(octets != NULL);
    memcpy(octets + start, data + 1, len - 1);
    for (uint64_t at = start; right && at + RECORD_HEADER_BYTES <= end; at += RECORD_ALIGNMENT)
        if (memcmp(octets + at, "ringmail", 8) == 0)
            repair(octets, at, end);
    header.bytes = bytes;
    walk_all(&header, octets, sealed, end, bytes, &whole);
    walk_all(&header, octets, sealed, end, (data[0] >> 2) * SPOOL_BLOCK_BYTES, &parts);
    tale_holds(&whole, octets, start, end, sealed);
    ASSERT(whole.count == parts.count);
    for (uint32_t i = 0; i < whole.count; i++) {
        ASSERT(whole.told[i].step == parts.told[i].step);
        ASSERT(whole.told[i].offset == parts.told[i].offset);
        ASSERT(whole.told[i].bytes == parts.told[i].bytes);
        ASSERT(whole.told[i].headers == parts.told[i].headers);
        ASSERT(memcmp(whole.told[i].id, parts.told[i].id, sizeof(whole.told[i].id)) == 0);
    }
    free(octets);
    return 0;
}
