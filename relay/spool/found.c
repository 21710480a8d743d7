/* Which files of the spool's directory are what, by their names alone. What is none of ours is left
 * where it is, and told once. */
#include "relay/spool/found.h"

#include <stdlib.h>

#include "relay/spool/spool_private.h"

#define NUMBER_DIGITS 16
#define SEGMENT_SUFFIX ".seg"
#define SPARE_SUFFIX ".spare"
#define BODY_SUFFIX ".body"
#define DAMAGED_SUFFIX ".damaged"

/* --- names --- */

static void
name_write(uint64_t number, const char *suffix, char name[SPOOL_NAME_BYTES])
{
    static const char digits[16] = "0123456789abcdef";
    size_t len = strlen(suffix);

    ASSERT(NUMBER_DIGITS + len < SPOOL_NAME_BYTES);
    for (unsigned i = 0; i < NUMBER_DIGITS; i++)
        name[i] = digits[number >> (60 - 4 * i) & 15];
    memcpy(name + NUMBER_DIGITS, suffix, len + 1);
}

void
spool_segment_name(uint64_t number, char name[SPOOL_NAME_BYTES])
{
    name_write(number, SEGMENT_SUFFIX, name);
}

void
spool_spare_name(uint64_t number, char name[SPOOL_NAME_BYTES])
{
    name_write(number, SPARE_SUFFIX, name);
}

void
found_damaged_name(uint64_t number, char name[SPOOL_NAME_BYTES])
{
    name_write(number, SEGMENT_SUFFIX DAMAGED_SUFFIX, name);
}

void
spool_body_name(const char id[16], char name[SPOOL_NAME_BYTES])
{
    size_t len = strnlen(id, 16);

    ASSERT(len > 0 && len < 16);
    memcpy(name, id, len);
    memcpy(name + len, BODY_SUFFIX, sizeof(BODY_SUFFIX));
}

/* Takes the number off the front. */
static bool
number_read(struct span *name, uint64_t *number)
{
    uint64_t value = 0;

    if (name->len < NUMBER_DIGITS)
        return false;
    for (unsigned i = 0; i < NUMBER_DIGITS; i++) {
        char c = name->data[i];

        if (c >= '0' && c <= '9')
            value = value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    span_advance(name, NUMBER_DIGITS);
    *number = value;
    return value != 0;
}

/* Takes an id off the front of ID.body. */
static bool
body_id_read(struct span name, char id[16])
{
    size_t len = 0;

    for (; len < name.len && len < 16; len++) {
        char c = char_lower(name.data[len]);

        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9'))
            break;
    }
    if (len == 0 || len == 16 || !span_equal(span_after(name, len), SPAN(BODY_SUFFIX)))
        return false;
    memset(id, 0, 16);
    memcpy(id, name.data, len);
    return true;
}

/* --- the lists --- */

/* Room for one more entry, or NULL. */
static void *
list_add(void **list, uint32_t *count, uint32_t *max, size_t entry_bytes)
{
    if (*count == *max) {
        uint32_t wanted = *max == 0 ? 64 : *max * 2;
        void *larger = *max > UINT32_MAX / 4 ? NULL : realloc(*list, wanted * entry_bytes);

        if (larger == NULL)
            return NULL;
        *list = larger;
        *max = wanted;
    }
    return (char *)*list + entry_bytes * (*count)++;
}

static void
segment_add(struct spool_found *found, uint64_t number, uint64_t bytes)
{
    struct found_segment *segment = list_add((void **)&found->segments, &found->segment_count,
                                             &found->segments_max, sizeof(*found->segments));

    if (segment == NULL)
        found->no_memory = true;
    else
        *segment = (struct found_segment){ .number = number, .bytes = bytes };
    found->bytes += bytes;
}

static void
body_add(struct spool_found *found, const char id[16], uint64_t bytes)
{
    struct found_body *body = list_add((void **)&found->bodies, &found->body_count,
                                       &found->bodies_max, sizeof(*found->bodies));

    if (body == NULL) {
        found->no_memory = true;
        return;
    }
    *body = (struct found_body){ .bytes = bytes };
    memcpy(body->id, id, sizeof(body->id));
    found->bytes += bytes;
}

static void
spare_add(struct spool_found *found, uint64_t number, uint64_t bytes)
{
    uint64_t *spare = list_add((void **)&found->spares, &found->spare_count, &found->spares_max,
                               sizeof(*found->spares));

    if (spare == NULL)
        found->no_memory = true;
    else
        *spare = number;
    found->bytes += bytes;
}

static void
other_add(struct spool_found *found, struct span name)
{
    found->other_files++;
    name = span_first(name, name.len < sizeof(found->other_name) ? name.len
                                                                 : sizeof(found->other_name) - 1);
    memcpy(found->other_name, name.data, name.len);
    found->other_name[name.len] = '\0';
}

static void
each_file(void *context, const struct io_directory_entry *entry)
{
    struct spool_found *found = context;
    struct span name = span_text(entry->name), rest = name;
    uint64_t number;
    char id[16];

    if (number_read(&rest, &number) && rest.len > 0 && rest.data[0] == '.') {
        bool segment = span_equal(rest, SPAN(SEGMENT_SUFFIX));
        bool spare = span_equal(rest, SPAN(SPARE_SUFFIX));
        bool damaged = span_equal(rest, SPAN(SEGMENT_SUFFIX DAMAGED_SUFFIX));

        if (segment)
            segment_add(found, number, entry->bytes);
        if (spare)
            spare_add(found, number, entry->bytes);
        if (damaged)
            found->damaged_files++;
        /* A number is never used twice: what a file still holds is told by it. */
        if ((segment || spare || damaged) && number > found->number_most)
            found->number_most = number;
        if (segment || spare || damaged)
            return;
    }
    if (body_id_read(name, id))
        body_add(found, id, entry->bytes);
    else if (span_equal(name, SPAN(FOUND_CLEAN_NAME)))
        found->clean = true;
    else if (!span_equal(name, SPAN(FOUND_LOCK_NAME)))
        other_add(found, name);
}

static int
segments_compare(const void *a, const void *b)
{
    const struct found_segment *one = a, *other = b;

    return (one->number > other->number) - (one->number < other->number);
}

static int
bodies_compare(const void *a, const void *b)
{
    const struct found_body *one = a, *other = b;

    return memcmp(one->id, other->id, sizeof(one->id));
}

int
found_list(struct spool_found *found, int directory)
{
    int error;

    *found = (struct spool_found){ 0 };
    error = io_directory_list(directory, each_file, found);
    if (found->segment_count > 0)
        qsort(found->segments, found->segment_count, sizeof(*found->segments), segments_compare);
    if (found->body_count > 0)
        qsort(found->bodies, found->body_count, sizeof(*found->bodies), bodies_compare);
    found->damaged = found->damaged_files > 0;
    return error;
}

void
found_free(struct spool_found *found)
{
    for (uint32_t i = 0; i < found->segment_count; i++)
        if (found->segments[i].records != NULL)
            io_memory_free(found->segments[i].records, found->segments[i].slots / 8 + 1);
    free(found->segments);
    free(found->bodies);
    free(found->spares);
    *found = (struct spool_found){ 0 };
}

void
found_record_add(struct found_segment *segment, uint32_t slot, uint32_t slots)
{
    ASSERT(slot < slots);
    ASSERT(segment->records == NULL || segment->slots == slots);
    if (segment->records == NULL) {
        segment->slots = slots;
        segment->records = io_memory(slots / 8 + 1);
    }
    if (segment->records != NULL)
        segment->records[slot / 8] |= (uint8_t)(1u << slot % 8);
}

bool
found_record_has(const struct found_segment *segment, uint32_t slot)
{
    return segment->records != NULL && slot < segment->slots &&
           (segment->records[slot / 8] >> slot % 8 & 1) != 0;
}

struct found_segment *
found_segment_of(const struct spool_found *found, uint64_t number)
{
    struct found_segment wanted = { .number = number };

    return found->segment_count == 0 ? NULL
                                     : bsearch(&wanted, found->segments, found->segment_count,
                                               sizeof(wanted), segments_compare);
}

struct found_body *
found_body_of(const struct spool_found *found, const char id[16])
{
    struct found_body wanted = { .bytes = 0 };

    memcpy(wanted.id, id, sizeof(wanted.id));
    return found->body_count == 0
               ? NULL
               : bsearch(&wanted, found->bodies, found->body_count, sizeof(wanted), bodies_compare);
}
