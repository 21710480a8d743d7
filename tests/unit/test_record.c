/* Headers and trailers of records, and the check: they come back as they were written, and nothing
 * else is taken for one. */
#include <criterion/criterion.h>

#include "relay/spool/record_private.h"
#include "tests/unit/aborts.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static const struct record sample = { .segment = 0x102,
                                      .slot = 7,
                                      .recipients = 2,
                                      .id = "0B9Zb",
                                      .arrival_ns = 0x1112131415161718,
                                      .size = 1000,
                                      .body_bytes = 1003,
                                      .envelope_bytes = 77,
                                      .flags =
                                          RECORD_BODY_FILE | RECORD_EIGHT_BIT | RECORD_ENDS_CRLF,
                                      .moved_segment = 0x99,
                                      .moved_slot = 5,
                                      .envelope_crc = 0xCAFEF00D };

static bool
records_equal(const struct record *a, const struct record *b)
{
    return a->segment == b->segment && a->slot == b->slot && a->recipients == b->recipients &&
           strcmp(a->id, b->id) == 0 && a->arrival_ns == b->arrival_ns && a->size == b->size &&
           a->body_bytes == b->body_bytes && a->envelope_bytes == b->envelope_bytes &&
           a->flags == b->flags && a->moved_segment == b->moved_segment &&
           a->moved_slot == b->moved_slot && a->envelope_crc == b->envelope_crc;
}

/* --- the check --- */

/* Each bit of what goes in turns about half of the bits that come out, and each of those about as
 * often as not. */
Test(record, check_is_well_distributed)
{
    struct seeded seeded = { .state = 5 };
    unsigned turned[64] = { 0 }, total = 0, rounds = 0;

    for (int sample_number = 0; sample_number < 40; sample_number++) {
        char octets[32];

        for (size_t i = 0; i < sizeof(octets); i++)
            octets[i] = (char)(sample_number % 2 == 0 ? 0 : seeded_next(&seeded));
        for (size_t bit = 0; bit < 8 * sizeof(octets); bit++, rounds++) {
            uint64_t before, after;

            before = record_check(CHECK_MARKS, 1, 0, span_of(octets, sizeof(octets)));
            octets[bit / 8] ^= (char)(1 << bit % 8);
            after = record_check(CHECK_MARKS, 1, 0, span_of(octets, sizeof(octets)));
            octets[bit / 8] ^= (char)(1 << bit % 8);
            total += (unsigned)__builtin_popcountll(before ^ after);
            for (unsigned i = 0; i < 64; i++)
                turned[i] += (unsigned)((before ^ after) >> i & 1);
        }
    }
    cr_assert(total > rounds * 31 && total < rounds * 33, "%u of %u", total, rounds * 64);
    for (unsigned i = 0; i < 64; i++)
        cr_assert(turned[i] > rounds * 46 / 100 && turned[i] < rounds * 54 / 100,
                  "bit %u: %u of %u", i, turned[i], rounds);
}

/* --- headers and trailers --- */

Test(record, headers_and_trailers_come_back)
{
    static const struct record rows[] = {
        { .segment = 1, .recipients = 1, .id = "1", .envelope_bytes = 34 },
        { .segment = 2, .recipients = 1, .id = "0123456789BCDFz", .envelope_bytes = 300 },
        { .segment = UINT64_MAX,
          .slot = UINT32_MAX - RECORD_ENVELOPE_BYTES_MAX / 8,
          .recipients = RECORD_ENVELOPE_BYTES_MAX / 8, /* the shortest there are take 6 */
          .id = "abc",
          .arrival_ns = UINT64_MAX,
          .size = UINT64_MAX,
          .body_bytes = (uint64_t)INT64_MAX - 2 * RECORD_ENVELOPE_BYTES_MAX,
          .envelope_bytes = RECORD_ENVELOPE_BYTES_MAX,
          .flags = 63,
          .moved_segment = UINT64_MAX - 1,
          .moved_slot = UINT32_MAX - RECORD_ENVELOPE_BYTES_MAX / 8,
          .envelope_crc = UINT32_MAX },
    };
    struct guard guard = { 0 };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char header[RECORD_HEADER_BYTES], trailer[RECORD_TRAILER_BYTES];
        uint32_t crc = 0;
        struct record read;

        record_header_write(&rows[i], header);
        cr_assert(
            record_header_read(rows[i].segment, guard_end(&guard, header, sizeof(header)), &read),
            "row %zu", i);
        cr_assert(records_equal(&read, &rows[i]), "row %zu", i);
        cr_assert(octets_zero(read.id + strlen(read.id), 16 - strlen(read.id)), "row %zu", i);
        record_trailer_write(&rows[i], 0x01020304 + (uint32_t)i, trailer);
        cr_assert(record_trailer_read(&read, guard_end(&guard, trailer, sizeof(trailer)), &crc),
                  "row %zu", i);
        cr_assert_eq(crc, 0x01020304 + i, "row %zu", i);
    }
    guard_close(&guard);
}

/* See blocks_are_what_the_document_says: another outcome is another SPOOL_FORMAT. */
Test(record, records_are_what_the_document_says)
{
    static const char text[] = "ringmail\1\0\0\0\x15\0\0\0\2\1\0\0\0\0\0\0\7\0\0\0\2\0\0\0"
                               "0B9Zb\0\0\0\0\0\0\0\0\0\0\0\x18\x17\x16\x15\x14\x13\x12\x11"
                               "\xE8\3\0\0\0\0\0\0\xEB\3\0\0\0\0\0\0\x4D\0\0\0\x0D\xF0\xFE\xCA"
                               "\x99\0\0\0\0\0\0\0\5";
    char want[RECORD_HEADER_BYTES] = { 0 }, header[RECORD_HEADER_BYTES];
    char trailer[RECORD_TRAILER_BYTES];
    struct record dirty = sample;

    memcpy(want, text, sizeof(text));
    number64_write(want + 120, 0x0df0fea69fb95006);
    memcpy(dirty.id + 6, "left over", 10);
    record_header_write(&dirty, header);
    cr_assert_eq(memcmp(header, want, sizeof(want)), 0, "header");
    memcpy(want, "rend\xEF\xBE\xAD\xDE", 8);
    number64_write(want + 8, 0xb1c1181da99b8a65);
    record_trailer_write(&sample, 0xDEADBEEF, trailer);
    cr_assert_eq(memcmp(trailer, want, sizeof(trailer)), 0, "trailer");
}

Test(record, headers_notice_every_bit_and_every_cut)
{
    struct guard guard = { 0 };
    char header[RECORD_HEADER_BYTES], more[RECORD_HEADER_BYTES + 1];
    struct record read = { .slot = 99 };

    record_header_write(&sample, header);
    for (size_t bit = 0; bit < 8 * sizeof(header); bit++) {
        header[bit / 8] ^= (char)(1 << bit % 8);
        cr_assert_not(record_header_read(sample.segment, span_of(header, sizeof(header)), &read),
                      "bit %zu", bit);
        header[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (size_t len = 0; len < sizeof(header); len++)
        cr_assert_not(record_header_read(sample.segment, guard_end(&guard, header, len), &read),
                      "%zu octets", len);
    for (uint64_t segment = 0; segment < 0x400; segment++)
        if (segment != sample.segment)
            cr_assert_not(record_header_read(segment, span_of(header, sizeof(header)), &read),
                          "segment %lu", segment);
    cr_assert_eq(read.slot, 99, "out was written");
    /* What follows is not looked at. */
    memcpy(more, header, sizeof(header));
    more[RECORD_HEADER_BYTES] = 'x';
    cr_assert(record_header_read(sample.segment, span_of(more, sizeof(more)), &read));
    cr_assert(records_equal(&read, &sample));
    guard_close(&guard);
}

Test(record, trailers_belong_to_one_header)
{
    struct guard guard = { 0 };
    char trailer[RECORD_TRAILER_BYTES];
    struct record others[11];
    uint32_t crc = 99;

    for (size_t i = 0; i < COUNT_OF(others); i++)
        others[i] = sample;
    others[0].segment++;
    others[1].slot++;
    others[2].recipients--;
    others[3].id[0]++;
    others[4].arrival_ns++;
    others[5].size++;
    others[6].body_bytes++;
    others[7].envelope_bytes++;
    others[8].flags ^= RECORD_CHUNKED;
    others[9].moved_segment = others[9].moved_slot = 0;
    others[10].envelope_crc++;

    record_trailer_write(&sample, 0, trailer);
    for (size_t i = 0; i < COUNT_OF(others); i++)
        cr_assert_not(record_trailer_read(&others[i], span_of(trailer, sizeof(trailer)), &crc),
                      "field %zu", i);
    for (size_t bit = 0; bit < 8 * sizeof(trailer); bit++) {
        trailer[bit / 8] ^= (char)(1 << bit % 8);
        cr_assert_not(record_trailer_read(&sample, span_of(trailer, sizeof(trailer)), &crc),
                      "bit %zu", bit);
        trailer[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (size_t len = 0; len < sizeof(trailer); len++)
        cr_assert_not(record_trailer_read(&sample, guard_end(&guard, trailer, len), &crc),
                      "%zu octets", len);
    cr_assert_eq(crc, 99, "out was written");
    cr_assert(record_trailer_read(&sample, span_of(trailer, sizeof(trailer)), &crc));
    guard_close(&guard);
}

/* A number that should not stand there, under a check that holds. */
struct patch {
    const char *name;
    size_t offset, bytes;
    uint64_t value;
    bool want;
};

Test(record, headers_with_a_good_check_are_still_judged)
{
    static const struct patch rows[] = {
        { "as it was", 16, 8, 0x102, true },
        { "another format", 8, 4, SPOOL_FORMAT + 1, false },
        { "another magic", 0, 1, 'R', false },
        { "all flags", 12, 4, 63, true },
        { "one more flag", 12, 4, 64, false },
        { "the highest flag", 12, 4, 1u << 31, false },
        { "another segment than the check's", 16, 8, 0x103, false },
        { "segment 0", 16, 8, 0, false },
        { "the last slots", 24, 4, UINT32_MAX - 2, true },
        { "slots past the last", 24, 4, UINT32_MAX - 1, false },
        { "no recipients", 28, 4, 0, false },
        { "as many recipients as the envelope holds", 28, 4, 8, true },
        { "one more", 28, 4, 9, false },
        { "all recipients there can be", 28, 4, UINT32_MAX, false },
        { "an empty id", 32, 1, 0, false },
        { "an id with a slash", 32, 1, '/', false },
        { "an id with a dot", 33, 1, '.', false },
        { "an id with a hyphen", 34, 1, '-', false },
        { "an id with an octet above 127", 34, 1, 0xE9, false },
        { "an id with something behind its NUL", 47, 1, 'A', false },
        { "an id between digits and letters", 32, 1, ':', false },
        { "an id below the letters", 32, 1, '@', false },
        { "an id of capital letters", 32, 4, 0x5A595857, true },
        { "an id of small letters", 32, 4, 0x7A797877, true },
        { "any time", 48, 8, UINT64_MAX, true },
        { "any size", 56, 8, UINT64_MAX, true },
        { "no body", 64, 8, 0, true },
        { "the longest body", 64, 8, INT64_MAX - 2 * RECORD_ENVELOPE_BYTES_MAX, true },
        { "a body longer than that", 64, 8, INT64_MAX - 2 * RECORD_ENVELOPE_BYTES_MAX + 1, false },
        { "a body whose end is a small number", 64, 8, UINT64_MAX - 100, false },
        { "no envelope", 72, 4, 0, false },
        { "an envelope too small for two recipients", 72, 4, 28 + 11, false },
        { "one that may just hold them", 72, 4, 28 + 12, true },
        { "the largest envelope", 72, 4, RECORD_ENVELOPE_BYTES_MAX, true },
        { "a larger one", 72, 4, RECORD_ENVELOPE_BYTES_MAX + 1, false },
        { "one whose end is a small number", 72, 4, UINT32_MAX, false },
        { "moved from itself", 80, 8, 0x102, false },
        { "moved from nowhere, with a slot", 80, 8, 0, false },
        { "moved from anywhere", 80, 8, UINT64_MAX, true },
        { "moved from slots past the last", 88, 4, UINT32_MAX - 1, false },
        { "moved from the last slots", 88, 4, UINT32_MAX - 2, true },
        { "something in the unused part", 92, 1, 1, false },
        { "something at its end", 119, 1, 1, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char header[RECORD_HEADER_BYTES], again[RECORD_HEADER_BYTES], value[8];
        struct record read;

        record_header_write(&sample, header);
        number64_write(value, rows[i].value);
        memcpy(header + rows[i].offset, value, rows[i].bytes);
        number64_write(header + 120, record_check(CHECK_RECORD, sample.segment, 0,
                                                  span_of(header, RECORD_HEADER_BYTES - 8)));
        cr_assert_eq(record_header_read(sample.segment, span_of(header, sizeof(header)), &read),
                     rows[i].want, "%s", rows[i].name);
        if (!rows[i].want)
            continue;
        record_header_write(&read, again);
        cr_assert_eq(memcmp(header, again, sizeof(again)), 0, "%s: not the same again",
                     rows[i].name);
    }
}

Test(record, an_id_without_its_nul_is_refused)
{
    char header[RECORD_HEADER_BYTES];
    struct record read;

    record_header_write(&sample, header);
    memset(header + 32, 'A', 16);
    for (int last = 0; last < 2; last++) {
        number64_write(header + 120, record_check(CHECK_RECORD, sample.segment, 0,
                                                  span_of(header, RECORD_HEADER_BYTES - 8)));
        cr_assert_eq(record_header_read(sample.segment, span_of(header, sizeof(header)), &read),
                     last == 1);
        header[47] = 0;
    }
    cr_assert_str_eq(read.id, "AAAAAAAAAAAAAAA");
}

Test(record, bytes_of_a_record)
{
    static const struct {
        uint64_t body_bytes;
        uint32_t envelope_bytes, flags;
        uint64_t want;
    } rows[] = {
        { 0, 48, 0, 192 },
        { 0, 49, 0, 256 },
        { 1, 47, 0, 192 },
        { 1000, 48, 0, 1216 },
        { 1000, 48, RECORD_BODY_FILE, 192 },
        { 1u << 30, 100, RECORD_CHUNKED, (1u << 30) + 256 },
        { 1u << 30, 100, RECORD_BODY_FILE | RECORD_CHUNKED, 256 },
        { (uint64_t)5 << 32, RECORD_ENVELOPE_BYTES_MAX, 0,
          ((uint64_t)5 << 32) + RECORD_ENVELOPE_BYTES_MAX + 192 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct record record = { .body_bytes = rows[i].body_bytes,
                                 .envelope_bytes = rows[i].envelope_bytes,
                                 .flags = rows[i].flags };

        cr_assert_eq(record_bytes(&record), rows[i].want, "row %zu: %lu", i, record_bytes(&record));
    }
}

/* --- our own bugs --- */

static void
write_record(struct record record)
{
    char header[RECORD_HEADER_BYTES];

    record_header_write(&record, header);
}

static void
record_without_recipients(void)
{
    struct record record = sample;

    record.recipients = 0;
    write_record(record);
}

static void
record_without_id(void)
{
    struct record record = sample;

    record.id[0] = '\0';
    write_record(record);
}

static void
record_with_a_path_as_id(void)
{
    struct record record = sample;

    memcpy(record.id, "../x", 5);
    write_record(record);
}

static void
record_with_a_huge_envelope(void)
{
    struct record record = sample;

    record.envelope_bytes = RECORD_ENVELOPE_BYTES_MAX + 1;
    write_record(record);
}

Test(record, records_that_make_no_sense_are_not_written)
{
    static const struct abort_row rows[] = {
        { "no recipients", record_without_recipients },
        { "no id", record_without_id },
        { "a path as id", record_with_a_path_as_id },
        { "an envelope too large", record_with_a_huge_envelope },
    };

    aborts_check(rows, COUNT_OF(rows));
}
