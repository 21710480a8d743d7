/* The blocks at the start of a segment: its header, its seal and the marks of its recipients. Each
 * is written alone and in place, so each must say by itself whether it is whole. */
#include "relay/spool/record_private.h"

static const char segment_magic[8] = "ringpost";
static const char seal_magic[8] = "ringseal";

/* Header and seal. */
#define MARKS_OFFSET (2u * SPOOL_BLOCK_BYTES)
#define SEQUENCE_OFFSET (MARKS_PER_BLOCK * 8u)

_Static_assert(SEQUENCE_OFFSET + 8 == BLOCK_CHECKED_BYTES,
               "marks, sequence and check fill a block");

static void
block_check_write(enum check_kind kind, uint64_t number, uint64_t place, char *block)
{
    number64_write(block + BLOCK_CHECKED_BYTES,
                   record_check(kind, number, place, span_of(block, BLOCK_CHECKED_BYTES)));
}

static bool
block_check_holds(enum check_kind kind, uint64_t number, uint64_t place, const char *block)
{
    return number64_read(block + BLOCK_CHECKED_BYTES) ==
           record_check(kind, number, place, span_of(block, BLOCK_CHECKED_BYTES));
}

/* 0 says "none" where a record was moved from. */
static bool
header_valid(const struct segment_header *header)
{
    return header->number > 0 && header->slots > 0 && header->bytes <= INT64_MAX &&
           header->bytes % SPOOL_BLOCK_BYTES == 0 &&
           header->bytes >= segment_records_offset(header->slots);
}

void
segment_header_write(const struct segment_header *header, char block[SPOOL_BLOCK_BYTES])
{
    ASSERT(header_valid(header));
    memset(block, 0, SPOOL_BLOCK_BYTES);
    memcpy(block, segment_magic, sizeof(segment_magic));
    number32_write(block + 8, SPOOL_FORMAT);
    number32_write(block + 12, header->slots);
    number64_write(block + 16, header->number);
    number64_write(block + 24, header->created_s);
    number64_write(block + 32, header->bytes);
    block_check_write(CHECK_SEGMENT, header->number, 0, block);
}

bool
segment_header_read(const char block[SPOOL_BLOCK_BYTES], struct segment_header *out)
{
    struct segment_header header;

    if (memcmp(block, segment_magic, sizeof(segment_magic)) != 0 ||
        number32_read(block + 8) != SPOOL_FORMAT)
        return false;
    header = (struct segment_header){ .number = number64_read(block + 16),
                                      .created_s = number64_read(block + 24),
                                      .bytes = number64_read(block + 32),
                                      .slots = number32_read(block + 12) };
    if (!block_check_holds(CHECK_SEGMENT, header.number, 0, block) || !header_valid(&header) ||
        !octets_zero(block + 40, BLOCK_CHECKED_BYTES - 40))
        return false;
    *out = header;
    return true;
}

bool
segment_header_other(const char block[SPOOL_BLOCK_BYTES])
{
    return memcmp(block, segment_magic, sizeof(segment_magic)) == 0 &&
           number32_read(block + 8) != SPOOL_FORMAT;
}

/* Behind a record, or where the first would stand. */
static bool
end_valid(uint64_t end)
{
    return end >= segment_records_offset(1) && end <= INT64_MAX && end % RECORD_ALIGNMENT == 0;
}

void
segment_seal_write(uint64_t number, uint64_t end, char block[SPOOL_BLOCK_BYTES])
{
    ASSERT(number > 0);
    ASSERT(end_valid(end));
    memset(block, 0, SPOOL_BLOCK_BYTES);
    memcpy(block, seal_magic, sizeof(seal_magic));
    number64_write(block + 8, number);
    number64_write(block + 16, end);
    block_check_write(CHECK_SEAL, number, 0, block);
}

bool
segment_seal_read(uint64_t number, const char block[SPOOL_BLOCK_BYTES], uint64_t *end)
{
    if (memcmp(block, seal_magic, sizeof(seal_magic)) != 0 || number64_read(block + 8) != number ||
        !block_check_holds(CHECK_SEAL, number, 0, block))
        return false;
    if (!end_valid(number64_read(block + 16)) || !octets_zero(block + 24, BLOCK_CHECKED_BYTES - 24))
        return false;
    *end = number64_read(block + 16);
    return true;
}

/* --- offsets --- */

uint32_t
segment_mark_blocks(uint32_t slots)
{
    return slots / MARKS_PER_BLOCK + (slots % MARKS_PER_BLOCK != 0);
}

uint64_t
segment_marks_offset(uint32_t slots, unsigned copy, uint32_t block)
{
    uint64_t blocks = segment_mark_blocks(slots);

    ASSERT(copy < 2);
    ASSERT(block < blocks);
    return MARKS_OFFSET + (copy * blocks + block) * SPOOL_BLOCK_BYTES;
}

uint64_t
segment_records_offset(uint32_t slots)
{
    return MARKS_OFFSET + 2 * (uint64_t)segment_mark_blocks(slots) * SPOOL_BLOCK_BYTES;
}

/* --- marks --- */

static bool
mark_valid(struct mark mark)
{
    return mark.state < MARK_STATES && (mark.flags & ~(MARK_HELD | MARK_DELAY_TOLD)) == 0 &&
           mark.reserved == 0;
}

static struct mark
mark_read(const char *in)
{
    return (struct mark){ .state = (uint8_t)in[0],
                          .flags = (uint8_t)in[1],
                          .attempts = (uint8_t)in[2],
                          .reserved = (uint8_t)in[3],
                          .due_s = number32_read(in + 4) };
}

void
mark_block_write(uint64_t number, uint32_t index, uint64_t sequence, const struct mark *marks,
                 uint32_t count, char block[SPOOL_BLOCK_BYTES])
{
    ASSERT(count <= MARKS_PER_BLOCK);
    memset(block, 0, SPOOL_BLOCK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        char *out = block + i * 8;

        ASSERT(mark_valid(marks[i]));
        out[0] = (char)marks[i].state;
        out[1] = (char)marks[i].flags;
        out[2] = (char)marks[i].attempts;
        number32_write(out + 4, marks[i].due_s);
    }
    number64_write(block + SEQUENCE_OFFSET, sequence);
    block_check_write(CHECK_MARKS, number, index, block);
}

/* Every mark is looked at before the first is handed out: a block is taken whole or not at all. */
bool
mark_block_read(uint64_t number, uint32_t index, const char block[SPOOL_BLOCK_BYTES],
                uint64_t *sequence, struct mark marks[MARKS_PER_BLOCK])
{
    if (!block_check_holds(CHECK_MARKS, number, index, block))
        return false;
    for (uint32_t i = 0; i < MARKS_PER_BLOCK; i++)
        if (!mark_valid(mark_read(block + i * 8)))
            return false;
    for (uint32_t i = 0; i < MARKS_PER_BLOCK; i++)
        marks[i] = mark_read(block + i * 8);
    *sequence = number64_read(block + SEQUENCE_OFFSET);
    return true;
}
