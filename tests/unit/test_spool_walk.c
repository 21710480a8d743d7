/* The walk over a segment's records: everything that can be read is found, whatever is done to the
 * rest, in windows of any size. */
#include <criterion/criterion.h>

#include "relay/spool/walk.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"
#include "tests/unit/segment_image.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define IMAGE_BYTES (128u * 1024)
#define SLOTS 100u

/* What came of a walk, as text: "a b !c ~" with damage as '!' and a tail as '~', then its id. */
struct told {
    char text[1024];
    size_t len;
    uint64_t damage_offset, damage_bytes; /* of the last one */
};

static void
tell(struct told *told, const char *mark, const char *id)
{
    int len = snprintf(told->text + told->len, sizeof(told->text) - told->len, "%s%s%s",
                       told->len == 0 ? "" : " ", mark, id);

    cr_assert(len > 0 && (size_t)len < sizeof(told->text) - told->len);
    told->len += (size_t)len;
}

/* chunk: octets of a window, at least; more where more is wanted. Its end is guarded. */
static struct told
walk(const struct image *image, bool sealed, uint64_t end, size_t chunk)
{
    struct segment_walk walk;
    struct told told = { .len = 0 };
    uint64_t offset = 0, before = 0;
    struct span window = { 0 };
    struct guard guard = { 0 };

    walk_begin(&walk, &image->header, sealed, end);
    for (unsigned steps = 0;; steps++) {
        enum walk_step step = walk_next(&walk, offset, window);
        uint64_t bytes;

        cr_assert(steps < 100000);
        switch (step) {
        case WALK_END: guard_close(&guard); return told;
        case WALK_READ:
            cr_assert_eq(walk.want_offset % SPOOL_BLOCK_BYTES, 0);
            bytes = walk.want_bytes > chunk ? walk.want_bytes : chunk;
            if (bytes > walk.end - walk.want_offset)
                bytes = walk.end - walk.want_offset;
            cr_assert_geq(bytes, walk.want_bytes);
            cr_assert_leq(walk.want_bytes, WALK_WINDOW_BYTES_MIN);
            offset = walk.want_offset;
            window = guard_end(&guard, image->octets + offset, bytes);
            continue;
        case WALK_RECORD:
            cr_assert_geq(walk.offset, before);
            before = walk.offset + walk.bytes;
            tell(&told, "", walk.record.id);
            continue;
        case WALK_DAMAGE:
        case WALK_TAIL:
            cr_assert_geq(walk.offset, before);
            before = walk.offset + walk.bytes;
            told.damage_offset = walk.offset;
            told.damage_bytes = walk.bytes;
            tell(&told, step == WALK_TAIL ? "~" : "!", walk.id);
            continue;
        }
    }
}

static void
check(const char *name, const struct image *image, bool sealed, const char *want)
{
    static const size_t chunks[] = { 1, 4096, 8192, 65536 };

    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        struct told told = walk(image, sealed, image->end, chunks[i]);

        cr_assert_str_eq(told.text, want, "%s, %s, windows of %zu: \"%s\", not \"%s\"", name,
                         sealed ? "sealed" : "not sealed", chunks[i], told.text, want);
    }
}

/* --- a segment of five, in three groups --- */

static const struct image_record five[] = {
    { .id = "a", .body_bytes = 100 },
    { .id = "b", .recipients = 3, .body_bytes = 5000, .flags = RECORD_CHUNKED },
    { .id = "c", .body_bytes = 1000000, .flags = RECORD_BODY_FILE },
    { .id = "d", .recipients = 60, .body_bytes = 10000 },
    { .id = "e" },
};

/* at: where each begins, and the end. */
static void
five_begin(struct image *image, uint64_t number, uint64_t at[COUNT_OF(five) + 1])
{
    image_begin(image, number, IMAGE_BYTES, SLOTS);
    for (size_t i = 0; i < COUNT_OF(five); i++) {
        if (i == 2 || i == 4)
            image_group(image);
        at[i] = image_add(image, &five[i]);
    }
    at[COUNT_OF(five)] = image->end;
}

static struct record
header_at(const struct image *image, uint64_t at)
{
    struct record record;

    cr_assert(record_header_read(image->header.number,
                                 span_of(image->octets + at, RECORD_HEADER_BYTES), &record));
    return record;
}

Test(spool_walk, finds_what_is_there)
{
    struct image image;
    uint64_t at[COUNT_OF(five) + 1];

    five_begin(&image, 77, at);
    check("five", &image, true, "a b c d e");
    check("five", &image, false, "a b c d e");
    image_group(&image);
    check("five, zeros where the seal says a record", &image, true, "a b c d e !");
    image.header.number = 78;
    check("of another number", &image, false, "");
    image_free(&image);

    image_begin(&image, 77, IMAGE_BYTES, SLOTS);
    check("empty", &image, true, "");
    check("empty", &image, false, "");
    image_free(&image);
}

/* One octet is turned in each part of each record. */
Test(spool_walk, damage_in_each_part)
{
    enum part { MAGIC, FIELD, CHECK, ENVELOPE, BODY, TRAILER, TRAILER_CRC, PARTS };
    static const char *const names[PARTS] = { "magic",    "a field", "the check", "the envelope",
                                              "the body", "trailer", "its crc" };

    for (size_t i = 0; i < COUNT_OF(five); i++)
        for (unsigned part = 0; part < PARTS; part++) {
            struct image image;
            uint64_t at[COUNT_OF(five) + 1], place;
            struct record record;
            char name[64], sealed[64] = "", open[64] = "";
            bool in_record = (five[i].flags & RECORD_BODY_FILE) == 0;
            bool body_or_later = part >= BODY, last = i + 1 == COUNT_OF(five);

            five_begin(&image, 77, at);
            record = header_at(&image, at[i]);
            if (part == BODY && (!in_record || record.body_bytes == 0)) {
                image_free(&image);
                continue;
            }
            place = at[i] + RECORD_HEADER_BYTES + record.envelope_bytes;
            switch ((enum part)part) {
            case MAGIC: place = at[i]; break;
            case FIELD: place = at[i] + 64; break;
            case CHECK: place = at[i] + RECORD_HEADER_BYTES - 1; break;
            case ENVELOPE: place -= 1; break;
            case BODY: place += record.body_bytes / 2; break;
            case TRAILER: place += in_record ? record.body_bytes : 0; break;
            case TRAILER_CRC: place += (in_record ? record.body_bytes : 0) + 4; break;
            case PARTS: break;
            }
            image.octets[place] ^= 0x10;
            (void)snprintf(name, sizeof(name), "%s of %s", names[part], five[i].id);
            for (size_t k = 0; k < COUNT_OF(five); k++) {
                const char *space = k == 0 ? "" : " ", *id = five[k].id;
                const char *mark = part <= CHECK ? "!" : k != i ? "" : last ? "~" : "!";

                /* What is sealed was whole once; its body is looked at when it is loaded. */
                if (k != i || body_or_later)
                    (void)snprintf(sealed + strlen(sealed), 8, "%s%s", space, id);
                else
                    (void)snprintf(sealed + strlen(sealed), 8, "%s!%s", space,
                                   part <= CHECK ? "" : id);
                if (k == i && last && part <= CHECK)
                    continue; /* nothing says that anything was here */
                (void)snprintf(open + strlen(open), 8, "%s%s%s", space, k == i ? mark : "",
                               k == i && part <= CHECK ? "" : id);
            }
            check(name, &image, true, sealed);
            check(name, &image, false, open);
            image_free(&image);
        }
}

/* Every octet in turn: only the record that it belongs to may be missing, and is reported. */
Test(spool_walk, every_octet)
{
    static const struct image_record three[] = { { .id = "a", .body_bytes = 10 },
                                                 { .id = "b", .body_bytes = 70 },
                                                 { .id = "c" } };
    struct image image;
    uint64_t at[4];

    image_begin(&image, 0x1234567800000001, 64 * 1024, SLOTS);
    for (size_t i = 0; i < 3; i++)
        at[i] = image_add(&image, &three[i]);
    at[3] = image.end;
    for (uint64_t place = at[0]; place < at[3]; place++)
        for (unsigned bit = 0; bit < 8; bit += 3) {
            size_t hit = place < at[1] ? 0 : place < at[2] ? 1 : 2;

            image.octets[place] ^= (char)(1 << bit);
            for (int sealed = 0; sealed < 2; sealed++) {
                struct told told = walk(&image, sealed != 0, image.end, 4096);

                for (size_t i = 0; i < 3; i++) {
                    const char *found = strstr(told.text, three[i].id);

                    cr_assert(i == hit ||
                                  (found != NULL && (found == told.text || found[-1] == ' ')),
                              "octet %llu of %s: \"%s\"", (unsigned long long)(place - at[hit]),
                              three[hit].id, told.text);
                }
                if (strchr(told.text, '!') != NULL)
                    cr_assert(told.damage_offset == at[hit] &&
                                  told.damage_offset + told.damage_bytes == at[hit + 1],
                              "octet %llu of %s: \"%s\"", (unsigned long long)(place - at[hit]),
                              three[hit].id, told.text);
            }
            image.octets[place] ^= (char)(1 << bit);
        }
    image_free(&image);
}

/* Where a group was being written, any of its blocks may be there or not. */
Test(spool_walk, torn_tails)
{
    struct image image;
    uint64_t at[COUNT_OF(five) + 1];

    five_begin(&image, 77, at);
    for (uint64_t cut = at[0]; cut < at[5]; cut += 512) {
        struct image torn = image;
        struct told told;
        size_t whole = 0;

        while (whole < 5 && at[whole + 1] - 64 <= cut) /* the padding may be missing */
            whole++;
        torn.octets = calloc(1, IMAGE_BYTES);
        cr_assert_not_null(torn.octets);
        memcpy(torn.octets, image.octets, cut);
        told = walk(&torn, false, 0, 4096);
        cr_assert_null(strchr(told.text, '!'), "%llu: %s", (unsigned long long)cut, told.text);
        for (size_t i = 0; i < 5; i++) {
            const char *found = strstr(told.text, five[i].id);

            cr_assert(i >= whole || found != NULL, "%llu: %s", (unsigned long long)cut, told.text);
            cr_assert(found == NULL || at[i] < cut);
        }
        image_free(&torn);
    }
    image_free(&image);
}

Test(spool_walk, holes_and_earlier_lives)
{
    struct image image, before;
    uint64_t at[COUNT_OF(five) + 1];

    /* A block of zeros where records were. */
    five_begin(&image, 77, at);
    memset(image.octets + at[2], 0, SPOOL_BLOCK_BYTES);
    check("a hole", &image, true, "a b ! e");
    check("a hole", &image, false, "a b ! e");
    image_free(&image);
    five_begin(&image, 77, at);
    memset(image.octets + at[0], 0, at[5] - at[0]);
    check("nothing but a hole", &image, true, "!");
    check("nothing but a hole", &image, false, "");
    image_free(&image);

    /* The file was another segment before. */
    five_begin(&before, 76, at);
    image_begin(&image, 77, IMAGE_BYTES, SLOTS);
    memcpy(image.octets + at[0], before.octets + at[0], IMAGE_BYTES - at[0]);
    check("all of it is older", &image, false, "");
    (void)image_add(&image, &five[0]);
    check("the rest is older", &image, true, "a");
    check("the rest is older", &image, false, "a");
    image_free(&image);
    image_free(&before);
}

/* A message that is a segment: what is in a body is no record, also when its own is damaged. */
Test(spool_walk, records_inside_of_bodies)
{
    struct image image, inner;
    uint64_t at[3];
    struct record record;

    image_begin(&image, 77, IMAGE_BYTES, SLOTS);
    image_begin(&inner, 77, IMAGE_BYTES, SLOTS);
    (void)image_add(&inner, &(struct image_record){ .id = "z" });
    at[0] = image_add(&image, &(struct image_record){ .id = "a", .body_bytes = 40000 });
    at[1] = image_add(&image, &(struct image_record){ .id = "b" });
    record = header_at(&image, at[0]);
    for (size_t i = 0; i < 60; i++) /* on all borders of 64 octets, whatever is before them */
        memcpy(image.octets + at[0] + 1024 + i * 640 + i % 64,
               inner.octets + segment_records_offset(SLOTS),
               inner.end - segment_records_offset(SLOTS));
    check("as it is", &image, true, "a b");
    check("as it is", &image, false, "!a b"); /* its check is of what stood there before */
    image.octets[at[0] + RECORD_HEADER_BYTES] ^= 1;
    check("envelope gone", &image, true, "!a b");
    check("envelope gone", &image, false, "!a b");
    cr_assert_eq(record.body_bytes, 40000);
    image_free(&image);
    image_free(&inner);
}

/* Headers whose check holds and that cannot be true here: octets of an attacker, or ours. */
Test(spool_walk, impossible_records)
{
    static const struct {
        const char *name;
        uint32_t slot, recipients;
        uint64_t body_bytes;
        uint32_t envelope_more;
        const char *sealed, *open;
    } rows[] = {
        { "as it was", 0, 1, 0, 0, "a b", "a b" },
        { "slots that the segment has not", SLOTS, 1, 0, 0, "! b", "! b" },
        { "more recipients than slots", SLOTS - 1, 2, 0, 0, "! b", "! b" },
        { "more recipients than its envelope has", 0, 2, 0, 0, "!a b", "!a b" },
        { "a body beyond the end", 0, 1, IMAGE_BYTES, 0, "! b", "! b" },
        { "a body of any length", 0, 1, (uint64_t)INT64_MAX / 2, 0, "! b", "! b" },
        { "an envelope of another length", 0, 1, 0, 1, "!a b", "!a b" },
#ifndef LIMITS_TINY /* there it fits */
        { "the longest of all envelopes", 0, 1, 0, RECORD_ENVELOPE_BYTES_MAX - 200, "! b", "! b" },
#endif
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct image image;
        struct record record;
        uint64_t at;

        image_begin(&image, 77, IMAGE_BYTES, SLOTS);
        at = image_add(&image, &(struct image_record){ .id = "a" });
        (void)image_add(&image, &(struct image_record){ .id = "b" });
        record = header_at(&image, at);
        record.slot = rows[i].slot;
        record.recipients = rows[i].recipients;
        record.body_bytes = rows[i].body_bytes;
        record.envelope_bytes += rows[i].envelope_more;
        record_header_write(&record, image.octets + at);
        if (i == 0)
            record_trailer_write(&record, record.envelope_crc,
                                 image.octets + at + RECORD_HEADER_BYTES + record.envelope_bytes);
        check(rows[i].name, &image, true, rows[i].sealed);
        check(rows[i].name, &image, false, rows[i].open);
        image_free(&image);
    }
}

Test(spool_walk, impossible_seals)
{
    struct image image;
    uint64_t at[COUNT_OF(five) + 1];
    const uint64_t ends[] = { 0, 64, 8192, IMAGE_BYTES + 64, UINT64_MAX, UINT64_MAX - 63 };

    five_begin(&image, 77, at);
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        struct told told = walk(&image, true, ends[i], 4096);

        cr_assert_str_eq(told.text, "a b c d e", "%llx: %s", (unsigned long long)ends[i],
                         told.text);
    }
    /* In the middle of a record. */
    image.end = at[3] + 64;
    check("in d", &image, true, "a b c !");
    image.end = at[3] + RECORD_HEADER_BYTES;
    check("behind d's header", &image, true, "a b c !");
    image_free(&image);
}

/* Any places of any length are overwritten: every record that was not hit is found, in order. */
Test(spool_walk, untouched_records_are_found)
{
    struct seeded seeded = { .state = 2026 };

    for (unsigned round = 0; round < 600; round++) {
        struct image image;
        uint64_t at[41];
        bool hit[40] = { false };
        char ids[40][8];

        image_begin(&image, 77, IMAGE_BYTES, SLOTS);
        for (size_t i = 0; i < 40; i++) {
            (void)snprintf(ids[i], sizeof(ids[i]), "m%zu", i + 10);
            if (seeded_below(&seeded, 4) == 0)
                image_group(&image);
            at[i] = image_add(
                &image,
                &(struct image_record){ .id = ids[i], .body_bytes = seeded_below(&seeded, 2000) });
        }
        at[40] = image.end;
        for (uint64_t places = seeded_below(&seeded, 5); places > 0; places--) {
            uint64_t from = at[0] + seeded_below(&seeded, at[40] - at[0]);
            uint64_t len = 1 + seeded_scale(&seeded, 13);
            bool zero = seeded_below(&seeded, 2) == 0;

            for (uint64_t k = from; k < from + len && k < at[40]; k++)
                image.octets[k] = zero ? 0 : (char)seeded_next(&seeded);
            for (size_t i = 0; i < 40; i++)
                hit[i] = hit[i] || (from < at[i + 1] && from + len > at[i]);
        }
        for (int sealed = 0; sealed < 2; sealed++) {
            struct told told = walk(&image, sealed != 0, image.end, 4096);
            const char *rest = told.text;

            for (size_t i = 0; i < 40; i++) {
                const char *found = strstr(rest, ids[i]);

                cr_assert(hit[i] || (found != NULL && (found == rest || found[-1] == ' ')),
                          "round %u: %s is missing in \"%s\"", round, ids[i], told.text);
                rest = hit[i] ? rest : found;
            }
        }
        image_free(&image);
    }
}
