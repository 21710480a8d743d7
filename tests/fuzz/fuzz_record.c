/* The spool is read back after a crash, from a disk that may have done anything. Each input is read
 * as it is, and with the check that would make it look whole. Oracles: what is taken holds what it
 * promises and is written again as the same octets; one bit more or less, and it is not taken. */
#include <stdint.h>

#include "core/crc32c.h"
#include "relay/spool/record_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define BLOCK SPOOL_BLOCK_BYTES

/* The input from the start, zeros, and the check at the end. */
static void
block_fill(char *block, struct span in)
{
    memset(block, 0, BLOCK);
    memcpy(block, in.data, in.len < BLOCK ? in.len : BLOCK);
}

static void
block_seal(char *block, enum check_kind kind, uint64_t number, uint64_t place)
{
    number64_write(block + BLOCK_CHECKED_BYTES,
                   record_check(kind, number, place, span_of(block, BLOCK_CHECKED_BYTES)));
}

/* A bit that the input chooses. */
static void
bit_flip(char *octets, size_t len, uint32_t choice)
{
    octets[choice / 8 % len] ^= (char)(1 << choice % 8);
}

static bool
header_check(const char *block)
{
    struct segment_header header;
    char again[BLOCK];

    if (!segment_header_read(block, &header))
        return false;
    ASSERT(header.number > 0 && header.slots > 0 && header.bytes % BLOCK == 0);
    ASSERT(segment_records_offset(header.slots) <= header.bytes);
    segment_header_write(&header, again);
    ASSERT(memcmp(again, block, BLOCK) == 0);
    return true;
}

static bool
seal_check(uint64_t number, const char *block)
{
    char again[BLOCK];
    uint64_t end;

    if (!segment_seal_read(number, block, &end))
        return false;
    segment_seal_write(number, end, again);
    ASSERT(memcmp(again, block, BLOCK) == 0);
    return true;
}

static bool
marks_check(uint64_t number, uint32_t index, const char *block)
{
    struct mark marks[MARKS_PER_BLOCK];
    uint64_t sequence;
    char again[BLOCK];

    if (!mark_block_read(number, index, block, &sequence, marks))
        return false;
    for (size_t i = 0; i < MARKS_PER_BLOCK; i++)
        ASSERT(marks[i].state < MARK_STATES && marks[i].flags < 4);
    mark_block_write(number, index, sequence, marks, MARKS_PER_BLOCK, again);
    ASSERT(memcmp(again, block, BLOCK) == 0);
    return true;
}

static void
header_input(struct span in, uint32_t choice)
{
    char block[BLOCK];

    block_fill(block, in);
    (void)header_check(block);
    block_seal(block, CHECK_SEGMENT, number64_read(block + 16), 0);
    if (header_check(block)) {
        bit_flip(block, BLOCK, choice);
        ASSERT(!header_check(block));
    }
}

static void
seal_input(struct span in, uint32_t choice)
{
    char block[BLOCK];
    uint64_t number;

    block_fill(block, in);
    number = number64_read(block + 8);
    (void)seal_check(number, block);
    block_seal(block, CHECK_SEAL, number, 0);
    if (number > 0 && seal_check(number, block)) {
        ASSERT(!seal_check(number + 1, block));
        bit_flip(block, BLOCK, choice);
        ASSERT(!seal_check(number, block));
    }
}

static void
marks_input(struct span in, uint32_t choice)
{
    uint64_t number = choice;
    uint32_t index = choice / 3;
    char block[BLOCK];

    block_fill(block, in);
    (void)marks_check(number, index, block);
    block_seal(block, CHECK_MARKS, number, index);
    if (marks_check(number, index, block)) {
        ASSERT(!marks_check(number + 1, index, block));
        ASSERT(!marks_check(number, index + 1, block));
        bit_flip(block, BLOCK, choice);
        ASSERT(!marks_check(number, index, block));
    }
}

/* --- records --- */

static bool
record_header_check(uint64_t segment, struct span in, struct record *record)
{
    char again[RECORD_HEADER_BYTES];

    if (!record_header_read(segment, in, record))
        return false;
    ASSERT(record->segment == segment && record->recipients > 0);
    ASSERT((uint64_t)record->slot + record->recipients <= UINT32_MAX);
    ASSERT(record->envelope_bytes <= RECORD_ENVELOPE_BYTES_MAX);
    ASSERT(memchr(record->id, 0, sizeof(record->id)) != NULL && record->id[0] != '\0');
    ASSERT(record_bytes(record) % RECORD_ALIGNMENT == 0);
    ASSERT(record_bytes(record) <= INT64_MAX);
    ASSERT(record_bytes(record) >= RECORD_HEADER_BYTES + RECORD_TRAILER_BYTES);
    record_header_write(record, again);
    ASSERT(memcmp(again, in.data, sizeof(again)) == 0);
    return true;
}

/* `in`: octets that shall be its trailer. */
static void
trailer_input(const struct record *record, struct span in, uint32_t choice)
{
    char trailer[RECORD_TRAILER_BYTES];
    uint32_t crc;

    if (record_trailer_read(record, in, &crc)) {
        record_trailer_write(record, crc, trailer);
        ASSERT(memcmp(trailer, in.data, sizeof(trailer)) == 0);
    }
    record_trailer_write(record, choice, trailer);
    ASSERT(record_trailer_read(record, span_of(trailer, sizeof(trailer)), &crc) && crc == choice);
    bit_flip(trailer, sizeof(trailer), choice);
    ASSERT(!record_trailer_read(record, span_of(trailer, sizeof(trailer)), &crc));
}

static void
record_input(struct span in, uint32_t choice)
{
    char header[RECORD_HEADER_BYTES] = { 0 };
    struct record record;
    uint64_t segment;

    memcpy(header, in.data, in.len < sizeof(header) ? in.len : sizeof(header));
    segment = number64_read(header + 16);
    (void)record_header_check(segment, in, &record);
    number64_write(header + HEADER_CHECKED_BYTES,
                   record_check(CHECK_RECORD, segment, 0, span_of(header, HEADER_CHECKED_BYTES)));
    if (!record_header_check(segment, span_of(header, sizeof(header)), &record))
        return;
    trailer_input(&record, in, choice);
    ASSERT(!record_header_read(segment + 1, span_of(header, sizeof(header)), &record));
    bit_flip(header, sizeof(header), choice);
    ASSERT(!record_header_read(segment, span_of(header, sizeof(header)), &record));
}

/* --- envelopes --- */

static struct pool *
envelope_blocks(void)
{
    static struct pool blocks;

    if (blocks.capacity == 0)
        ASSERT(pool_init(&blocks, BLOCK_BYTES, 1000));
    return &blocks;
}

static void
inside(struct span in, struct span s)
{
    ASSERT(s.data >= in.data && s.data + s.len <= in.data + in.len);
}

/* As MAIL and RCPT would have filled it. */
static void
envelope_rebuild(struct record_envelope read, struct span in, struct envelope *envelope)
{
    struct path path = { .mailbox = read.reverse_path, .utf8 = read.utf8 };
    struct mail_parameters mail = { .size = read.declared_size,
                                    .body = read.body,
                                    .dsn_return = read.dsn_return,
                                    .smtputf8 = read.smtputf8,
                                    .envid = read.envid };
    struct record_recipient recipient;

    ASSERT(envelope_start(envelope, envelope_blocks(), &path, &mail));
    while (record_recipient_next(&read, &recipient)) {
        struct path to = { .mailbox = recipient.mailbox };
        struct rcpt_parameters rcpt = { .notify = recipient.notify, .orcpt = recipient.orcpt };

        inside(in, recipient.mailbox);
        inside(in, recipient.orcpt);
        ASSERT(envelope_add(envelope, &to, &rcpt, RECIPIENT_ACCEPTED) != NULL);
    }
    ASSERT(read.rest.len == 0);
    ASSERT(envelope->accepted == read.recipients);
}

static void
envelope_input(struct span in, uint32_t choice)
{
    static char bytes[RECORD_ENVELOPE_BYTES_MAX];
    struct outbuf again = { .data = bytes, .size = sizeof(bytes) };
    struct record record = { .envelope_bytes = (uint32_t)in.len, .envelope_crc = crc32c(0, in) };
    struct record_envelope read;
    struct envelope envelope;

    if (in.len > sizeof(bytes))
        return;
    ASSERT(crc32c_portable(0, in) == record.envelope_crc);
    if (in.len >= ENVELOPE_FRONT_BYTES)
        record.recipients = number32_read(in.data + 8);
    if (!record_envelope_read(&record, in, &read))
        return;
    inside(in, read.origin.trace);
    inside(in, read.envid);
    envelope_rebuild(read, in, &envelope);
    ASSERT(record_envelope_bytes(&envelope, &read.origin) == in.len);
    record_envelope_write(&envelope, &read.origin, &again);
    ASSERT(span_equal(outbuf_span(&again), in));
    envelope_clear(&envelope);
    bit_flip(bytes, again.len, choice);
    ASSERT(!record_envelope_read(&record, outbuf_span(&again), &read));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct span in = span_of(data, len);
    uint32_t choice = crc32c(0, in);

    if (len == 0)
        return 0;
    span_advance(&in, 1);
    if (in.len == 0)
        in = SPAN("");
    switch (data[0]) {
    case 'h': header_input(in, choice); break;
    case 's': seal_input(in, choice); break;
    case 'm': marks_input(in, choice); break;
    case 'r': record_input(in, choice); break;
    default: envelope_input(in, choice);
    }
    return 0;
}
