/* A disk that has changed what was durable: bits, whole sectors, lengths, files that nobody made.
 * Whatever stands there, a start must not end in a crash, and what was not hit is found. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/spool_world.h"

static bool
is_segment(const char *name)
{
    return strlen(name) == 20 && strcmp(name + 16, ".seg") == 0;
}

static bool
is_body_of(const char *name, const struct message *message)
{
    char body[32];

    (void)snprintf(body, sizeof(body), "%s.body", message->id);
    return strcmp(name, body) == 0;
}

/* Octets [from, to) of the file are not what they were. */
static void
excuse(struct world *world, const char *name, uint64_t from, uint64_t to)
{
    uint64_t number = is_segment(name) ? strtoull(name, NULL, 16) : 0;

    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        for (uint32_t j = 0; j < message->place_count; j++) {
            const struct place_note *place = &message->places[j];

            /* In front of a segment: a file of another version is left alone, all of it. */
            if (place->number == number && from < 12)
                message->spoiled = true;
            if (place->number == number && place->offset < to &&
                place->offset + place->bytes > from)
                message->spoiled = true;
        }
        if (is_body_of(name, message))
            message->spoiled = true;
    }
}

static uint32_t
file_draw(struct sim_random *random)
{
    return (uint32_t)sim_below(random, sim_file_count());
}

/* Where it hurts: at or near the beginning of a record, or in what stands before all records. */
static uint64_t
offset_draw(const struct world *world, struct sim_random *random, uint32_t file)
{
    uint64_t number = strtoull(sim_file_name(file), NULL, 16), bytes = sim_file_bytes(file);
    const struct message *message;

    if (world->message_count == 0 || sim_chance(random, 4000))
        return sim_below(random, bytes);
    if (sim_chance(random, 3000))
        return sim_below(random, bytes < 81920 ? bytes : 81920);
    message = world->messages[sim_below(random, world->message_count)];
    for (uint32_t i = 0; i < message->place_count; i++)
        if (message->places[i].number == number && message->places[i].offset + 160 < bytes)
            return message->places[i].offset + sim_below(random, 160);
    return sim_below(random, bytes);
}

static void
flip(struct world *world, struct sim_random *random)
{
    uint32_t file = file_draw(random);
    uint64_t offset;

    if (sim_file_bytes(file) == 0)
        return;
    offset = offset_draw(world, random, file);
    sim_file_flip(file, offset, (unsigned)sim_below(random, 8));
    excuse(world, sim_file_name(file), offset, offset + 1);
}

/* A sector, or a block, of zeros or of anything. */
static void
blot(struct world *world, struct sim_random *random)
{
    uint32_t file = file_draw(random);
    uint64_t bytes = sim_file_bytes(file), len = sim_chance(random, 5000) ? 512 : 4096;
    bool zeros = sim_chance(random, 5000);
    uint64_t offset;

    if (bytes < len)
        return;
    offset = offset_draw(world, random, file) / len * len;
    if (offset + len > bytes)
        return;
    for (uint64_t i = offset; i < offset + len; i++) {
        uint8_t flips = (uint8_t)(zeros ? (uint8_t)sim_file_octets(file)[i] : sim_next(random));

        for (unsigned bit = 0; bit < 8; bit++)
            if (flips & 1u << bit)
                sim_file_flip(file, i, bit);
    }
    excuse(world, sim_file_name(file), offset, offset + len);
}

static void
resize(struct world *world, struct sim_random *random)
{
    uint32_t file = file_draw(random);
    uint64_t bytes = sim_file_bytes(file), to = sim_below(random, bytes + 100000);

    /* Longer than any segment, and without a header: nobody could say what it is. */
    if (is_segment(sim_file_name(file)) && to > SPOOL_SEGMENT_BYTES_MAX)
        to = SPOOL_SEGMENT_BYTES_MAX;
    sim_file_resize(file, to);
    if (to < bytes) /* whole blocks are read */
        excuse(world, sim_file_name(file), to / 4096 * 4096, UINT64_MAX);
    else if (!is_segment(sim_file_name(file)))
        excuse(world, sim_file_name(file), 0, 1);
}

static void
stranger(struct sim_random *random)
{
    static const char *const names[] = { "0000000000000000.seg",  "00000000000000aa.seg",
                                         "00000000000000ab.seg",  "00000000000000ac.spare",
                                         "nothing.body",          "m00ffff.body",
                                         "00000000000000ad.seg.damaged", "core", "x.seg",
                                         "00000000000000AE.seg",  ".hidden" };
    const char *name = names[sim_below(random, sizeof(names) / sizeof(names[0]))];
    uint64_t bytes = sim_chance(random, 3000) ? 0 : sim_below(random, 300000);
    char *octets;

    if (sim_file_find(name) != UINT32_MAX)
        return;
    octets = malloc(bytes + 1);
    ASSERT(octets != NULL);
    /* A segment under another's name, or noise. */
    if (sim_file_count() > 0 && sim_chance(random, 5000)) {
        uint32_t file = file_draw(random);

        if (sim_file_bytes(file) < bytes || sim_chance(random, 5000))
            bytes = sim_file_bytes(file);
        free(octets);
        octets = malloc(bytes + 1);
        ASSERT(octets != NULL);
        if (bytes > 0)
            memcpy(octets, sim_file_octets(file), bytes);
    } else {
        for (uint64_t i = 0; i < bytes; i++)
            octets[i] = (char)sim_next(random);
    }
    sim_file_add(name, octets, bytes);
    free(octets);
}

void
rot(struct world *world, struct sim_random *random)
{
    uint64_t count = sim_between(random, 1, 12);

    world->relaxed = true;
    for (uint64_t i = 0; i < count && sim_file_count() > 0; i++) {
        switch (sim_below(random, 8)) {
        case 0: blot(world, random); break;
        case 1:
            if (sim_chance(random, 3000))
                resize(world, random);
            break;
        case 2: stranger(random); break;
        default: flip(world, random);
        }
    }
}
