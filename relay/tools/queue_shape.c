/* How many wait for whom, and since when: the shape of a queue. A column that doubles at each step
 * shows at a glance whether a destination is dead, slow, or just busy. */
#include <stdlib.h>

#include "relay/tools/queue_private.h"

#define SLOTS_FIRST 64
#define NAME_COLUMNS_MIN 12

/* Minutes below which an age falls into a bucket; the last has none. */
static const unsigned limits_min[SHAPE_BUCKETS - 1] = { 5, 10, 20, 40, 80, 160, 320, 640, 1280 };

static size_t
bucket_of(uint64_t age_s)
{
    size_t bucket = 0;

    while (bucket < SHAPE_BUCKETS - 1 && age_s >= limits_min[bucket] * UINT64_C(60))
        bucket++;
    return bucket;
}

/* --- rows --- */

/* FNV-1a. Domains come from strangers, but a slow table hurts only who looks at it. */
static size_t
slot_of(const struct shape *shape, struct span name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    size_t slot;

    for (size_t i = 0; i < name.len; i++)
        hash = (hash ^ (unsigned char)name.data[i]) * UINT64_C(0x100000001b3);
    slot = (size_t)(hash >> 16) & (shape->slots - 1);
    while (shape->rows[slot] != NULL && !span_equal(span_text(shape->rows[slot]->name), name))
        slot = (slot + 1) & (shape->slots - 1);
    return slot;
}

static bool
grow(struct shape *shape)
{
    struct shape larger = *shape;

    if (shape->row_count * 2 < shape->slots)
        return true;
    larger.slots = shape->slots == 0 ? SLOTS_FIRST : shape->slots * 2;
    larger.rows = calloc(larger.slots, sizeof(struct shape_row *));
    if (larger.rows == NULL)
        return false;
    for (size_t i = 0; i < shape->slots; i++)
        if (shape->rows[i] != NULL)
            larger.rows[slot_of(&larger, span_text(shape->rows[i]->name))] = shape->rows[i];
    free(shape->rows);
    *shape = larger;
    return true;
}

static struct shape_row *
row_of(struct shape *shape, struct span name)
{
    struct shape_row *row;
    size_t slot;

    if (!grow(shape))
        return NULL;
    slot = slot_of(shape, name);
    if (shape->rows[slot] != NULL)
        return shape->rows[slot];
    row = calloc(1, sizeof(*row));
    if (row == NULL)
        return NULL;
    row->name = malloc(name.len + 1);
    if (row->name == NULL) {
        free(row);
        return NULL;
    }
    if (name.len > 0)
        memcpy(row->name, name.data, name.len);
    row->name[name.len] = '\0';
    shape->rows[slot] = row;
    shape->row_count++;
    return row;
}

bool
shape_add(struct shape *shape, struct span name, uint64_t age_s, uint64_t count)
{
    struct shape_row *row = row_of(shape, name);
    size_t bucket = bucket_of(age_s);

    if (row == NULL)
        return false;
    row->total += count;
    row->ages[bucket] += count;
    shape->total.total += count;
    shape->total.ages[bucket] += count;
    return true;
}

static int
compare(const void *a, const void *b)
{
    const struct shape_row *left = *(struct shape_row *const *)a;
    const struct shape_row *right = *(struct shape_row *const *)b;

    if (left->total != right->total)
        return left->total > right->total ? -1 : 1;
    return strcmp(left->name, right->name);
}

void
shape_sort(struct shape *shape)
{
    size_t kept = 0;

    for (size_t i = 0; i < shape->slots; i++)
        if (shape->rows[i] != NULL)
            shape->rows[kept++] = shape->rows[i];
    ASSERT(kept == shape->row_count);
    shape->slots = kept;
    if (kept > 0)
        qsort(shape->rows, kept, sizeof(struct shape_row *), compare);
}

void
shape_free(struct shape *shape)
{
    for (size_t i = 0; i < shape->slots; i++) {
        if (shape->rows[i] != NULL)
            free(shape->rows[i]->name);
        free(shape->rows[i]);
    }
    free(shape->rows);
    *shape = (struct shape){ 0 };
}

/* --- printing --- */

static void
print_row(const struct shape_row *row, struct span name, int columns, FILE *out)
{
    for (int i = (int)name.len; i < columns; i++)
        fputc(' ', out);
    print_text(out, name);
    fprintf(out, " %7llu", (unsigned long long)row->total);
    for (size_t i = 0; i < SHAPE_BUCKETS; i++)
        fprintf(out, " %6llu", (unsigned long long)row->ages[i]);
    fputc('\n', out);
}

void
shape_print(const struct shape *shape, FILE *out)
{
    int columns = NAME_COLUMNS_MIN;

    for (size_t i = 0; i < shape->row_count; i++)
        if ((int)strlen(shape->rows[i]->name) > columns)
            columns = (int)strlen(shape->rows[i]->name);
    fprintf(out, "%*s %7s", columns, "", "T");
    for (size_t i = 0; i < SHAPE_BUCKETS - 1; i++)
        fprintf(out, " %5um", limits_min[i]);
    fprintf(out, " %6s\n", "older");
    print_row(&shape->total, SPAN("TOTAL"), columns, out);
    for (size_t i = 0; i < shape->row_count; i++)
        print_row(shape->rows[i], span_text(shape->rows[i]->name), columns, out);
}

static void
print_row_json(const struct shape_row *row, FILE *out)
{
    fprintf(out, "\"total\":%llu,\"ages\":[", (unsigned long long)row->total);
    for (size_t i = 0; i < SHAPE_BUCKETS; i++)
        fprintf(out, "%s%llu", i > 0 ? "," : "", (unsigned long long)row->ages[i]);
    fputc(']', out);
}

/* Members of an object, without its braces. */
void
shape_print_json(const struct shape *shape, FILE *out)
{
    fputs("\"ages_below_minutes\":[", out);
    for (size_t i = 0; i < SHAPE_BUCKETS - 1; i++)
        fprintf(out, "%u,", limits_min[i]);
    fputs("null],", out);
    print_row_json(&shape->total, out);
    fputs(",\"rows\":[", out);
    for (size_t i = 0; i < shape->row_count; i++) {
        fputs(i > 0 ? ",{\"name\":" : "{\"name\":", out);
        print_json_text(out, span_text(shape->rows[i]->name));
        fputc(',', out);
        print_row_json(shape->rows[i], out);
        fputc('}', out);
    }
    fputc(']', out);
}
