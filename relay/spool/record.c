/* The format of the spool in one place, so that who writes it and who reads it after a crash cannot
 * disagree: here the check and the records, in record_segment.c the blocks at a segment's start, in
 * record_envelope.c the envelopes. Offset, octets, what; unused octets are zero, and read so.
 *
 *   segment header, 4096            seal, 4096                  mark block, 4096
 *      0  8 "ringpost"                 0  8 "ringseal"             0  8 mark 0
 *      8  4 SPOOL_FORMAT               8  8 segment number             0  1 state
 *     12  4 slots                     16  8 end                        1  1 flags
 *     16  8 number                  4088  8 check                      2  1 attempts
 *     24  8 created_s                                                  3  1 zero
 *     32  8 bytes                                                      4  4 due_s
 *   4088  8 check                                                  8  8 mark 1, and so on
 *                                                               4080  8 sequence
 *                                                               4088  8 check, of the index too
 *
 *   record header, 128              record trailer, 16          envelope
 *      0  8 "ringmail"                 0  4 "rend"                 0  8 declared_size
 *      8  4 SPOOL_FORMAT               4  4 crc                    8  4 recipients
 *     12  4 flags                      8  8 check, of the         12  2 octets of trace
 *     16  8 segment                         header too            14  2   of client
 *     24  4 slot                                                  16  2   of helo
 *     28  4 recipients              recipient                     18  2   of reverse_path
 *     32 16 id, zeros after it         0  2 octets of mailbox     20  2   of envid
 *     48  8 arrival_ns                 2  2   of orcpt            22  1 body
 *     56  8 size                       4  1 notify                23  1 dsn_return
 *     64  8 body_bytes                 5    mailbox, orcpt        24  1 bits: 1 smtputf8, 2 utf8
 *     72  4 envelope_bytes                                        28    trace, client, helo,
 *     76  4 envelope_crc                                                reverse_path, envid;
 *     80  8 moved_segment                                               then the recipients
 *     88  4 moved_slot
 *    120  8 check
 */
#include "relay/spool/record_private.h"

static const char record_magic[8] = "ringmail";
static const char trailer_magic[4] = "rend";

#define RECORD_FLAGS                                                             \
    (RECORD_BODY_FILE | RECORD_CHUNKED | RECORD_EIGHT_BIT | RECORD_HEADER_UTF8 | \
     RECORD_ENDS_CRLF | RECORD_NOTICE)
/* Leaves room for all that stands around a body: an offset in a file has 63 bits. */
#define BODY_BYTES_MAX ((uint64_t)INT64_MAX - 2 * RECORD_ENVELOPE_BYTES_MAX)

/* One to one: different before, different after. The odd factors are the golden ratio's and e's
 * digits; each is followed by a shift that brings the high bits, which depend on all others, down
 * again. */
static inline uint64_t
mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 29;
    x *= UINT64_C(0xB7E151628AED2A6B);
    x ^= x >> 32;
    return x;
}

/* Against accidents, not against people: who may write the spool can make a check that holds.
 * Because mix() is one to one, a difference in the segment's number alone, in the place alone or
 * inside a single word of eight octets is always noticed; any other passes once in 2^64 times. */
uint64_t
record_check(enum check_kind kind, uint64_t segment, uint64_t place, struct span in)
{
    uint64_t state = mix(kind);

    ASSERT(in.len % 8 == 0);
#ifdef CANARY_NUMBER_NOT_CHECKED
    segment = 0;
#endif
    state = mix(state ^ segment);
    state = mix(state ^ place);
    /* Adding: else a state of zero would let zeros through unchanged. */
    for (size_t i = 0; i < in.len; i += 8)
        state = mix((state ^ number64_read(in.data + i)) + 0x5EED);
    return state;
}

/* 1..15 letters and digits: a file name, a log field and an "id" clause without further care. 0:
 * it is not that. */
static size_t
id_len(const char id[16])
{
    size_t len = 0;

    for (; len < 16 && id[len] != '\0'; len++) {
        char c = char_lower(id[len]);

        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9'))
            return 0;
    }
    return len < 16 ? len : 0;
}

/* Slots are counted in 32 bits, so the last of them has a number. */
static bool
slots_valid(uint32_t slot, uint32_t recipients)
{
    return recipients > 0 && slot <= UINT32_MAX - recipients;
}

static bool
record_valid(const struct record *record)
{
    uint64_t envelope_bytes_min =
        ENVELOPE_FRONT_BYTES + (uint64_t)record->recipients * ENVELOPE_RECIPIENT_BYTES_MIN;

    if (record->segment == 0 || !slots_valid(record->slot, record->recipients))
        return false;
    if (record->moved_segment == 0 && record->moved_slot != 0)
        return false;
    if (record->moved_segment == record->segment ||
        !slots_valid(record->moved_slot, record->recipients))
        return false;
    if (record->envelope_bytes < envelope_bytes_min ||
        record->envelope_bytes > RECORD_ENVELOPE_BYTES_MAX)
        return false;
    return record->body_bytes <= BODY_BYTES_MAX && (record->flags & ~(uint32_t)RECORD_FLAGS) == 0 &&
           id_len(record->id) > 0;
}

uint64_t
record_bytes(const struct record *record)
{
    uint64_t bytes = RECORD_HEADER_BYTES + (uint64_t)record->envelope_bytes + RECORD_TRAILER_BYTES;

    ASSERT(record->body_bytes <= BODY_BYTES_MAX);
    if ((record->flags & RECORD_BODY_FILE) == 0)
        bytes += record->body_bytes;
    return (bytes + RECORD_ALIGNMENT - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT;
}

void
record_header_write(const struct record *record, char out[RECORD_HEADER_BYTES])
{
    ASSERT(record_valid(record));
    memset(out, 0, RECORD_HEADER_BYTES);
    memcpy(out, record_magic, sizeof(record_magic));
    number32_write(out + 8, SPOOL_FORMAT);
    number32_write(out + 12, record->flags);
    number64_write(out + 16, record->segment);
    number32_write(out + 24, record->slot);
    number32_write(out + 28, record->recipients);
    /* Without what stands behind its NUL. */
    memcpy(out + 32, record->id, id_len(record->id));
    number64_write(out + 48, record->arrival_ns);
    number64_write(out + 56, record->size);
    number64_write(out + 64, record->body_bytes);
    number32_write(out + 72, record->envelope_bytes);
    number32_write(out + 76, record->envelope_crc);
    number64_write(out + 80, record->moved_segment);
    number32_write(out + 88, record->moved_slot);
    number64_write(out + HEADER_CHECKED_BYTES, record_check(CHECK_RECORD, record->segment, 0,
                                                            span_of(out, HEADER_CHECKED_BYTES)));
}

/* The rest of the header, once its check holds. */
static struct record
record_fields_read(const char *data)
{
    struct record record = { .flags = number32_read(data + 12),
                             .segment = number64_read(data + 16),
                             .slot = number32_read(data + 24),
                             .recipients = number32_read(data + 28),
                             .arrival_ns = number64_read(data + 48),
                             .size = number64_read(data + 56),
                             .body_bytes = number64_read(data + 64),
                             .envelope_bytes = number32_read(data + 72),
                             .envelope_crc = number32_read(data + 76),
                             .moved_segment = number64_read(data + 80),
                             .moved_slot = number32_read(data + 88) };

    memcpy(record.id, data + 32, sizeof(record.id));
    return record;
}

bool
record_header_read(uint64_t segment, struct span in, struct record *out)
{
    struct record record;
    size_t id;

    if (in.len < RECORD_HEADER_BYTES || memcmp(in.data, record_magic, sizeof(record_magic)) != 0 ||
        number32_read(in.data + 8) != SPOOL_FORMAT)
        return false;
    if (number64_read(in.data + HEADER_CHECKED_BYTES) !=
        record_check(CHECK_RECORD, segment, 0, span_first(in, HEADER_CHECKED_BYTES)))
        return false;
    record = record_fields_read(in.data);
#ifdef CANARY_NUMBER_NOT_CHECKED
    record.segment = segment;
#endif
    if (record.segment != segment || !record_valid(&record))
        return false;
    id = id_len(record.id);
    if (!octets_zero(record.id + id, sizeof(record.id) - id) ||
        !octets_zero(in.data + 92, HEADER_CHECKED_BYTES - 92))
        return false;
    *out = record;
    return true;
}

/* Bound to the whole header, not to the segment alone: a record that was begun twice at the same
 * offset must not end with the trailer of the first. */
static uint64_t
trailer_check(const struct record *record, const char *trailer)
{
    char header[RECORD_HEADER_BYTES];

    record_header_write(record, header);
    return record_check(CHECK_TRAILER, record->segment,
                        number64_read(header + HEADER_CHECKED_BYTES),
                        span_of(trailer, RECORD_TRAILER_BYTES - CHECK_BYTES));
}

void
record_trailer_write(const struct record *record, uint32_t crc, char out[RECORD_TRAILER_BYTES])
{
    memcpy(out, trailer_magic, sizeof(trailer_magic));
    number32_write(out + 4, crc);
    number64_write(out + 8, trailer_check(record, out));
}

bool
record_trailer_read(const struct record *record, struct span in, uint32_t *crc)
{
    if (in.len < RECORD_TRAILER_BYTES ||
        memcmp(in.data, trailer_magic, sizeof(trailer_magic)) != 0 ||
        number64_read(in.data + 8) != trailer_check(record, in.data))
        return false;
    *crc = number32_read(in.data + 4);
    return true;
}
