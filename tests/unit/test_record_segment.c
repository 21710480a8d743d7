/* The blocks at the start of a segment: they come back as they were written, and nothing else is
 * ever taken for one of them: no flipped bit, no torn write, no block of another segment. */
#include <criterion/criterion.h>

#include "relay/spool/record_private.h"
#include "tests/unit/aborts.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define BLOCK SPOOL_BLOCK_BYTES

static const struct segment_header sample_header = {
    .number = 0x1122334455667788, .created_s = 1700000000, .bytes = 1 << 26, .slots = 5000
};

/* --- one way to read all three, for what they have in common --- */

enum kind { HEADER, SEAL, MARKS, KINDS };
static const char *const kind_names[KINDS] = { "header", "seal", "marks" };

#define SAMPLE_NUMBER 0x1122334455667788
#define SAMPLE_INDEX 3u

/* Two images of each: `version` changes what they say, and not whose they are. */
static void
block_write(enum kind kind, unsigned version, char block[BLOCK])
{
    struct segment_header header = sample_header;
    struct mark marks[7] = { { .state = MARK_DELIVERED, .attempts = 1 },
                             { .flags = MARK_HELD, .due_s = 1700000000 },
                             { .state = (uint8_t)(version == 0 ? MARK_PENDING : MARK_FAILED) } };

    header.created_s += version;
    switch (kind) {
    case HEADER: segment_header_write(&header, block); break;
    case SEAL: segment_seal_write(SAMPLE_NUMBER, (1u << 20) + 64 * version, block); break;
    default: mark_block_write(SAMPLE_NUMBER, SAMPLE_INDEX, 9 + version, marks, 7, block);
    }
}

/* Reads a block at the guard page; what it said is in *said. */
static bool
block_read(enum kind kind, uint64_t number, const char *block, uint64_t *said)
{
    static struct guard guard;
    struct span in = guard_end(&guard, block, BLOCK);
    struct mark marks[MARKS_PER_BLOCK];
    struct segment_header header;
    bool fine;

    switch (kind) {
    case HEADER:
        fine = segment_header_read(in.data, &header) && header.number == number;
        *said = fine ? header.created_s - sample_header.created_s : 99;
        return fine;
    case SEAL:
        fine = segment_seal_read(number, in.data, said);
        *said = fine ? (*said - (1u << 20)) / 64 : 99;
        return fine;
    default:
        fine = mark_block_read(number, SAMPLE_INDEX, in.data, said, marks);
        *said = fine ? *said - 9 : 99;
        return fine;
    }
}

Test(record, blocks_notice_every_flipped_bit)
{
    uint64_t said;

    for (enum kind kind = 0; kind < KINDS; kind++) {
        char block[BLOCK];

        block_write(kind, 0, block);
        cr_assert(block_read(kind, SAMPLE_NUMBER, block, &said), "%s", kind_names[kind]);
        for (size_t bit = 0; bit < 8 * (size_t)BLOCK; bit++) {
            block[bit / 8] ^= (char)(1 << bit % 8);
            cr_assert_not(block_read(kind, SAMPLE_NUMBER, block, &said), "%s: bit %zu",
                          kind_names[kind], bit);
            block[bit / 8] ^= (char)(1 << bit % 8);
        }
        cr_assert(block_read(kind, SAMPLE_NUMBER, block, &said), "%s", kind_names[kind]);
    }
}

/* A write that stopped anywhere, over an older block of the same place, over zeros, and over what
 * another segment left there. */
Test(record, blocks_notice_every_torn_write)
{
    for (enum kind kind = 0; kind < KINDS; kind++) {
        char fresh[BLOCK], older[3][BLOCK] = { 0 };

        block_write(kind, 1, fresh);
        block_write(kind, 0, older[1]);
        memset(older[2], 0xA5, BLOCK);
        for (size_t over = 0; over < COUNT_OF(older); over++)
            for (size_t cut = 0; cut <= BLOCK; cut++) {
                char torn[BLOCK];
                uint64_t said, want = 99;

                memcpy(torn, fresh, cut);
                memcpy(torn + cut, older[over] + cut, BLOCK - cut);
                if (memcmp(torn, fresh, BLOCK) == 0)
                    want = 1;
                else if (over == 1 && memcmp(torn, older[1], BLOCK) == 0)
                    want = 0;
                cr_assert_eq(block_read(kind, SAMPLE_NUMBER, torn, &said), want != 99,
                             "%s: over %zu, cut at %zu", kind_names[kind], over, cut);
                cr_assert_eq(said, want, "%s: over %zu, cut at %zu", kind_names[kind], over, cut);
            }
    }
}

Test(record, blocks_of_other_segments_and_kinds_are_refused)
{
    static const uint64_t numbers[] = {
        0, 1, SAMPLE_NUMBER - 1, SAMPLE_NUMBER + 1, SAMPLE_NUMBER ^ (uint64_t)1 << 63, UINT64_MAX
    };
    uint64_t said;

    for (enum kind kind = 0; kind < KINDS; kind++) {
        char block[BLOCK], zeros[BLOCK] = { 0 };

        block_write(kind, 0, block);
        for (size_t i = 0; i < COUNT_OF(numbers); i++)
            cr_assert_not(block_read(kind, numbers[i], block, &said), "%s: number %zu",
                          kind_names[kind], i);
        for (enum kind other = 0; other < KINDS; other++)
            cr_assert_eq(block_read(other, SAMPLE_NUMBER, block, &said), other == kind,
                         "%s read as %s", kind_names[kind], kind_names[other]);
        cr_assert_not(block_read(kind, SAMPLE_NUMBER, zeros, &said), "%s: zeros", kind_names[kind]);
        cr_assert_not(block_read(kind, 0, zeros, &said), "%s: zeros of 0", kind_names[kind]);
    }
}

/* --- what may stand in them --- */

/* A number that its block should not hold, with a check that does hold. */
struct patch {
    const char *name;
    size_t offset, bytes;
    uint64_t value;
    bool want;
};

static void
patched(const struct patch *patch, enum check_kind kind, uint64_t number, uint64_t place,
        char *block)
{
    char value[8];

    number64_write(value, patch->value);
    memcpy(block + patch->offset, value, patch->bytes);
    number64_write(block + BLOCK - 8, record_check(kind, number, place, span_of(block, BLOCK - 8)));
}

Test(record, segment_headers_with_a_good_check_are_still_judged)
{
    static const struct patch rows[] = {
        { "as it was", 24, 8, 1700000000, true },
        { "another time", 24, 8, UINT64_MAX, true },
        { "another format", 8, 4, SPOOL_FORMAT + 1, false },
        { "format 0", 8, 4, 0, false },
        { "no slots", 12, 4, 0, false },
        { "most slots that fit", 12, 4, ((1u << 26) / BLOCK - 2) / 2 * MARKS_PER_BLOCK, true },
        { "one more slot", 12, 4, ((1u << 26) / BLOCK - 2) / 2 * MARKS_PER_BLOCK + 1, false },
        { "as many slots as there are numbers", 12, 4, UINT32_MAX, false },
        { "0 octets", 32, 8, 0, false },
        { "not whole blocks", 32, 8, (1 << 26) + 64, false },
        { "more octets than a file has", 32, 8, (uint64_t)1 << 63, false },
        { "a huge file", 32, 8, (uint64_t)1 << 62, true },
        { "something in the unused part", 40, 1, 1, false },
        { "something at its end", 4087, 1, 1, false },
        { "another magic", 0, 1, 'R', false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct segment_header read = { .number = 7 };
        char block[BLOCK], again[BLOCK];

        segment_header_write(&sample_header, block);
        patched(&rows[i], CHECK_SEGMENT, SAMPLE_NUMBER, 0, block);
        cr_assert_eq(segment_header_read(block, &read), rows[i].want, "%s", rows[i].name);
        if (!rows[i].want) {
            cr_assert_eq(read.number, 7, "%s: out was written", rows[i].name);
            continue;
        }
        segment_header_write(&read, again);
        cr_assert_eq(memcmp(block, again, BLOCK), 0, "%s: not the same again", rows[i].name);
    }
    {
        static const struct patch none = { "number 0", 16, 8, 0, false };
        struct segment_header read;
        char block[BLOCK];

        segment_header_write(&sample_header, block);
        patched(&none, CHECK_SEGMENT, 0, 0, block);
        cr_assert_not(segment_header_read(block, &read), "number 0");
    }
}

Test(record, seals_with_a_good_check_are_still_judged)
{
    static const struct patch rows[] = {
        { "as it was", 16, 8, 1 << 20, true },
        { "right behind the marks", 16, 8, 4 * BLOCK, true },
        { "inside the marks", 16, 8, 4 * BLOCK - 64, false },
        { "0", 16, 8, 0, false },
        { "not at a record's end", 16, 8, (1 << 20) + 8, false },
        { "further than a file goes", 16, 8, (uint64_t)1 << 63, false },
        { "far", 16, 8, (uint64_t)1 << 62, true },
        { "another number than the check's", 8, 8, 1, false },
        { "something in the unused part", 24, 1, 1, false },
        { "something at its end", 4087, 1, 1, false },
        { "another magic", 7, 1, 'L', false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint64_t end = 7;
        char block[BLOCK];

        segment_seal_write(SAMPLE_NUMBER, 1 << 20, block);
        patched(&rows[i], CHECK_SEAL, SAMPLE_NUMBER, 0, block);
        cr_assert_eq(segment_seal_read(SAMPLE_NUMBER, block, &end), rows[i].want, "%s",
                     rows[i].name);
        cr_assert_eq(end, rows[i].want ? rows[i].value : 7, "%s", rows[i].name);
    }
}

Test(record, marks_with_a_good_check_are_still_judged)
{
    static const struct patch rows[] = {
        { "as they were", 0, 1, MARK_DELIVERED, true },
        { "the last state", 0, 1, MARK_STATES - 1, true },
        { "no such state", 0, 1, MARK_STATES, false },
        { "no such state, the last mark", 8 * 509, 1, 255, false },
        { "both flags", 1, 1, MARK_HELD | MARK_DELAY_TOLD, true },
        { "no such flag", 1, 1, 4, false },
        { "no such flag, the last mark", 8 * 509 + 1, 1, 0x80, false },
        { "255 attempts", 2, 1, 255, true },
        { "the reserved octet", 3, 1, 1, false },
        { "the latest time", 4, 4, UINT32_MAX, true },
        { "the highest sequence", 4080, 8, UINT64_MAX, true },
        { "sequence 0", 4080, 8, 0, true },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct mark marks[MARKS_PER_BLOCK] = { { .attempts = 77 } };
        uint64_t sequence = 7;
        char block[BLOCK], again[BLOCK];

        block_write(MARKS, 0, block);
        patched(&rows[i], CHECK_MARKS, SAMPLE_NUMBER, SAMPLE_INDEX, block);
        cr_assert_eq(mark_block_read(SAMPLE_NUMBER, SAMPLE_INDEX, block, &sequence, marks),
                     rows[i].want, "%s", rows[i].name);
        if (!rows[i].want) {
            cr_assert(sequence == 7 && marks[0].attempts == 77, "%s: out was written",
                      rows[i].name);
            continue;
        }
        mark_block_write(SAMPLE_NUMBER, SAMPLE_INDEX, sequence, marks, MARKS_PER_BLOCK, again);
        cr_assert_eq(memcmp(block, again, BLOCK), 0, "%s: not the same again", rows[i].name);
    }
}

/* --- round trips --- */

Test(record, segment_headers_and_seals_come_back)
{
    static const struct segment_header rows[] = {
        { 1, 0, 5 * BLOCK, 1 },
        { SAMPLE_NUMBER, 1700000000, 1 << 26, 5000 },
        { UINT64_MAX, UINT64_MAX, (uint64_t)INT64_MAX / BLOCK * BLOCK, UINT32_MAX },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct segment_header read;
        char block[BLOCK];
        uint64_t end;

        memset(block, 0xFF, sizeof(block));
        segment_header_write(&rows[i], block);
        cr_assert(segment_header_read(block, &read), "row %zu", i);
        cr_assert(read.number == rows[i].number && read.created_s == rows[i].created_s &&
                      read.bytes == rows[i].bytes && read.slots == rows[i].slots,
                  "row %zu", i);
        memset(block, 0xFF, sizeof(block));
        segment_seal_write(rows[i].number, rows[i].bytes, block);
        cr_assert(segment_seal_read(rows[i].number, block, &end), "row %zu", i);
        cr_assert_eq(end, rows[i].bytes, "row %zu", i);
    }
}

Test(record, marks_come_back)
{
    static const uint32_t counts[] = { 0, 1, 2, 509, 510 };
    struct seeded seeded = { .state = 4 };

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct mark marks[MARKS_PER_BLOCK], read[MARKS_PER_BLOCK], zeros[MARKS_PER_BLOCK] = { 0 };
        uint64_t number = seeded_scale(&seeded, 64), sequence = seeded_scale(&seeded, 64), said;
        uint32_t index = (uint32_t)seeded_scale(&seeded, 32);
        size_t used = counts[i] * sizeof(struct mark);
        char block[BLOCK];

        for (size_t m = 0; m < MARKS_PER_BLOCK; m++)
            marks[m] = (struct mark){ .state = (uint8_t)seeded_below(&seeded, MARK_STATES),
                                      .flags = (uint8_t)seeded_below(&seeded, 4),
                                      .attempts = (uint8_t)seeded_next(&seeded),
                                      .due_s = (uint32_t)seeded_next(&seeded) };
        memset(read, 0xFF, sizeof(read));
        memset(block, 0xFF, sizeof(block));
        mark_block_write(number, index, sequence, marks, counts[i], block);
        cr_assert(mark_block_read(number, index, block, &said, read), "%u marks", counts[i]);
        cr_assert_eq(said, sequence, "%u marks", counts[i]);
        cr_assert_eq(memcmp(read, marks, used), 0, "%u marks", counts[i]);
        cr_assert_eq(memcmp(read + counts[i], zeros, sizeof(read) - used), 0, "%u marks: the rest",
                     counts[i]);
        cr_assert_not(mark_block_read(number, index + 1, block, &said, read), "another index");
        cr_assert_not(mark_block_read(number, index ^ 1u << 31, block, &said, read), "far index");
    }
}

/* Octets that other machines and later versions must agree with: when this fails, the format is
 * another one, and SPOOL_FORMAT must say so. */
Test(record, blocks_are_what_the_document_says)
{
    static const struct mark marks[2] = { { MARK_REMOVED, MARK_DELAY_TOLD, 5, 0, 0x04030201 },
                                          { MARK_FAILED, 0, 6, 0, 0 } };
    static const char header[] = "ringpost\1\0\0\0\x88\x13\0\0\x88\x77\x66\x55\x44\x33\x22\x11"
                                 "\0\xF1\x53\x65\0\0\0\0\0\0\0\x04";
    static const char seal[] = "ringseal\2\1\0\0\0\0\0\0\x40\0\x01";
    char want[BLOCK] = { 0 }, block[BLOCK];

    memcpy(want, header, sizeof(header));
    number64_write(want + 4088, 0x51ee3c072d983aa2);
    segment_header_write(&sample_header, block);
    cr_assert_eq(memcmp(block, want, BLOCK), 0, "header");

    memset(want, 0, BLOCK);
    memcpy(want, seal, sizeof(seal));
    number64_write(want + 4088, 0xab3941c55688c14a);
    segment_seal_write(0x102, 0x10040, block);
    cr_assert_eq(memcmp(block, want, BLOCK), 0, "seal");

    memset(want, 0, BLOCK);
    memcpy(want, "\3\2\5\0\1\2\3\4\2\0\6", 11);
    memcpy(want + 4080, "\x09\x08", 2);
    number64_write(want + 4088, 0xd2e184fd79d148ac);
    mark_block_write(0x102, 3, 0x809, marks, 2, block);
    cr_assert_eq(memcmp(block, want, BLOCK), 0, "marks");
}

/* --- offsets --- */

Test(record, offsets_in_a_segment)
{
    static const struct {
        uint32_t slots, blocks;
    } rows[] = { { 1, 1 },     { 509, 1 },     { 510, 1 },
                 { 511, 2 },   { 1020, 2 },    { 1021, 3 },
                 { 5000, 10 }, { 65536, 129 }, { UINT32_MAX, 8421505 } };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint32_t slots = rows[i].slots, last = rows[i].blocks - 1;

        cr_assert_eq(segment_mark_blocks(slots), rows[i].blocks, "%u slots", slots);
        cr_assert_eq(segment_marks_offset(slots, 0, 0), 2 * BLOCK, "%u slots", slots);
        cr_assert_eq(segment_marks_offset(slots, 1, 0),
                     segment_marks_offset(slots, 0, last) + BLOCK, "%u slots", slots);
        cr_assert_eq(segment_records_offset(slots), segment_marks_offset(slots, 1, last) + BLOCK,
                     "%u slots", slots);
        cr_assert_eq(segment_records_offset(slots), (2 + 2 * (uint64_t)rows[i].blocks) * BLOCK,
                     "%u slots", slots);
    }
}

/* --- our own bugs --- */

static char scratch[BLOCK];

static void
header_of(uint64_t number, uint64_t bytes, uint32_t slots)
{
    segment_header_write(&(struct segment_header){ number, 0, bytes, slots }, scratch);
}

static void
header_without_number(void)
{
    header_of(0, 1 << 20, 1);
}

static void
header_without_slots(void)
{
    header_of(1, 1 << 20, 0);
}

static void
header_of_part_of_a_block(void)
{
    header_of(1, (1 << 20) + 1, 1);
}

static void
header_of_a_file_too_small(void)
{
    header_of(1, 3 * BLOCK, 1);
}

static void
seal_without_number(void)
{
    segment_seal_write(0, 1 << 20, scratch);
}

static void
seal_inside_a_record(void)
{
    segment_seal_write(1, (1 << 20) + 1, scratch);
}

static void
marks_too_many(void)
{
    static const struct mark marks[MARKS_PER_BLOCK + 1];

    mark_block_write(1, 0, 0, marks, MARKS_PER_BLOCK + 1, scratch);
}

static void
marks_without_meaning(void)
{
    mark_block_write(1, 0, 0, &(struct mark){ .state = MARK_STATES }, 1, scratch);
}

static void
marks_of_a_third_copy(void)
{
    (void)segment_marks_offset(510, 2, 0);
}

static void
marks_behind_the_last(void)
{
    (void)segment_marks_offset(510, 0, 1);
}

Test(record, blocks_that_make_no_sense_are_not_written)
{
    static const struct abort_row rows[] = {
        { "header: number 0", header_without_number },
        { "header: no slots", header_without_slots },
        { "header: part of a block", header_of_part_of_a_block },
        { "header: no room for its marks", header_of_a_file_too_small },
        { "seal: number 0", seal_without_number },
        { "seal: inside a record", seal_inside_a_record },
        { "marks: 511", marks_too_many },
        { "marks: no such state", marks_without_meaning },
        { "offset: copy 2", marks_of_a_third_copy },
        { "offset: behind the last block", marks_behind_the_last },
    };

    aborts_check(rows, COUNT_OF(rows));
}
