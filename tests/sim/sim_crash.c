/* What a power cut leaves of a disk; and looking at a disk, copying it, spoiling it. */
#include <stdlib.h>

#include "tests/sim/sim_private.h"

/* Operations of all workers that a power cut finds under way. */
#define FLYING_MAX 4096

/* --- from changes to units --- */

static int
units_compare(const void *a, const void *b)
{
    const struct sim_unit *one = a, *other = b;

    return (one->version > other->version) - (one->version < other->version);
}

static void
unit_add(struct sim_disk *disk, struct sim_unit unit)
{
    if ((disk->unit_count & (disk->unit_count - 1)) == 0) {
        uint32_t max = disk->unit_count == 0 ? 1 : disk->unit_count * 2;

        disk->units = realloc(disk->units, max * sizeof(*disk->units));
        ASSERT(disk->units != NULL);
    }
    disk->units[disk->unit_count++] = unit;
}

static void
units_build(struct sim_disk *disk)
{
    disk->unit_count = 0;
    for (uint32_t i = 0; i < disk->file_count; i++)
        for (struct sim_write *write = disk->files[i].writes; write != NULL; write = write->next)
            unit_add(disk,
                     (struct sim_unit){ .version = write->version, .file = i, .write = write });
    for (struct sim_change *change = disk->changes; change != NULL; change = change->next)
        unit_add(disk, (struct sim_unit){
                           .version = change->version, .file = change->file, .change = change });
    if (disk->unit_count > 0)
        qsort(disk->units, disk->unit_count, sizeof(*disk->units), units_compare);
}

/* What was under way may have happened, in part or not at all. */
static void
operation_interrupt(const struct sim_operation *operation)
{
    uint32_t file = SIM_NONE;

    if (operation->kind == SIM_WRITE || operation->kind == SIM_ALLOCATE)
        file = sim_descriptor_at(operation->descriptor)->file;
    else if (operation->name != NULL)
        file = sim_names_find(&sim.disk.now, operation->name_copy);
    switch (operation->kind) {
    case SIM_WRITE:
        if (!(sim_descriptor_at(operation->descriptor)->direct && sim.options.direct_refused_late))
            sim_file_put(file, operation->copy, operation->len, operation->offset, false);
        break;
    case SIM_ALLOCATE:
        if (!sim.options.allocate_refused)
            sim_file_grow(file, operation->len, false);
        break;
    case SIM_OPEN:
        if ((operation->flags & IO_FILE_CREATE) != 0 && file == SIM_NONE)
            sim_change_add(SIM_CREATE, operation->name_copy, NULL, sim_file_new());
        break;
    case SIM_RENAME_FILE:
        if (file != SIM_NONE)
            sim_change_add(SIM_RENAME, operation->name_copy, operation->to_copy, file);
        break;
    case SIM_UNLINK_FILE:
        if (file != SIM_NONE)
            sim_change_add(SIM_UNLINK, operation->name_copy, NULL, file);
        break;
    default: break;
    }
}

static int
operations_compare(const void *a, const void *b)
{
    const struct sim_operation *const *one = a, *const *other = b;

    return ((*one)->number > (*other)->number) - ((*one)->number < (*other)->number);
}

uint32_t
sim_power_lost(void)
{
    const struct sim_operation *flying[FLYING_MAX];
    uint32_t count = 0;

    for (const struct sim_operation *at = sim.flying; at != NULL; at = at->next) {
        ASSERT(count < FLYING_MAX);
        flying[count++] = at;
    }
    qsort(flying, count, sizeof(flying[0]), operations_compare);
    for (uint32_t i = 0; i < count; i++)
        operation_interrupt(flying[i]);
    sim_event_count(SIM_POWER_CUTS);
    sim_world_forget();
    units_build(&sim.disk);
    return sim.disk.unit_count;
}

bool
sim_unit_tears(uint32_t unit)
{
    ASSERT(unit < sim.disk.unit_count);
    return sim.disk.units[unit].write != NULL && sim.disk.units[unit].write->len > SIM_SECTOR_BYTES;
}

/* --- fates --- */

static enum sim_fate
fate_draw(void)
{
    static const enum sim_fate fates[] = { SIM_LOST, SIM_KEPT, SIM_TORN };

    return fates[sim_below(&sim.crash, 3)];
}

static void
write_tear(struct sim_file *file, const struct sim_write *write)
{
    uint64_t sectors = (write->len + SIM_SECTOR_BYTES - 1) / SIM_SECTOR_BYTES;
    uint64_t shape = sim_below(&sim.crash, 3), edge = sim_below(&sim.crash, sectors + 1);
    struct sim_write part = *write;

    if (sim_chance(&sim.crash, 5000))
        part.size = 0;
    for (uint64_t i = 0; i < sectors; i++) {
        uint64_t at = i * SIM_SECTOR_BYTES, left = write->len - at;
        bool kept = shape == 0 ? i < edge : shape == 1 ? i >= edge : sim_chance(&sim.crash, 5000);

        if (kept)
            sim_write_apply(file, &part, at, left < SIM_SECTOR_BYTES ? left : SIM_SECTOR_BYTES);
    }
}

/* Its length came to the disk, its octets did not. */
static void
write_lose(struct sim_file *file, const struct sim_write *write)
{
    struct sim_write part = { .size = write->size };

    if (write->size <= file->kept_size || write->data == NULL ||
        !sim_chance(&sim.crash, sim.options.garbage ? 3000 : 1000))
        return;
    sim_write_apply(file, &part, 0, 0);
    if (!sim.options.garbage)
        return;
    for (uint64_t i = 0; i < write->len; i++)
        file->kept[write->offset + i] = (char)sim_next(&sim.crash);
}

static void
unit_end(struct sim_disk *disk, const struct sim_unit *unit, enum sim_fate fate)
{
    static const enum sim_event events[] = { SIM_UNITS_LOST, SIM_UNITS_KEPT, SIM_UNITS_TORN };
    struct sim_file *file = &disk->files[unit->file];

    sim_event_count(events[fate]);
    if (unit->change != NULL) {
        if (fate == SIM_KEPT)
            sim_change_keep(disk, unit->change);
        return;
    }
    switch (fate) {
    case SIM_KEPT: sim_write_apply(file, unit->write, 0, unit->write->len); break;
    case SIM_TORN: write_tear(file, unit->write); break;
    case SIM_LOST: write_lose(file, unit->write); break;
    }
}

/* Octets behind the end are not there. */
static void
files_settle(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->file_count; i++) {
        struct sim_file *file = &disk->files[i];

        if (!file->used)
            continue;
        while (file->writes != NULL) {
            struct sim_write *write = file->writes;

            file->writes = write->next;
            sim_write_free(write);
        }
        file->writes_end = &file->writes;
        if (file->room > 0) {
            memset(file->kept + file->kept_size, 0, file->room - file->kept_size);
            memcpy(file->now, file->kept, file->room);
        }
        file->size = file->kept_size;
        file->open = 0;
    }
}

static void
names_settle(struct sim_disk *disk)
{
    while (disk->changes != NULL) {
        struct sim_change *change = disk->changes;

        disk->changes = change->next;
        free(change);
    }
    disk->changes_end = &disk->changes;
    disk->now.count = 0;
    for (uint32_t i = 0; i < disk->kept.count; i++)
        sim_names_set(&disk->now, disk->kept.list[i].name, disk->kept.list[i].file);
}

void
sim_power_on(enum sim_fate (*choose)(void *context, uint32_t unit), void *context)
{
    struct sim_disk *disk = &sim.disk;
    bool journal_ended = false;

    for (uint32_t i = 0; i < disk->unit_count; i++) {
        struct sim_unit *unit = &disk->units[i];
        enum sim_fate fate = choose != NULL ? choose(context, i) : fate_draw();

        if (!sim_unit_tears(i) && fate == SIM_TORN)
            fate = choose == NULL && sim_chance(&sim.crash, 5000) ? SIM_LOST : SIM_KEPT;
        if (unit->change != NULL) {
            if (journal_ended)
                fate = SIM_LOST;
            journal_ended = !sim.options.any_order && fate == SIM_LOST;
        }
        unit_end(disk, unit, fate);
    }
    free(disk->units);
    disk->units = NULL;
    disk->unit_count = 0;
    files_settle(disk);
    names_settle(disk);
    sim_files_collect();
}

void
sim_process_ends(void)
{
    ASSERT(sim.flying == NULL);
    sim_net_machine_gone(false);
    sim_world_forget();
    for (uint32_t i = 0; i < sim.disk.file_count; i++)
        sim.disk.files[i].open = 0;
    sim_files_collect();
}

/* --- copies --- */

static char *
octets_copy(const char *octets, uint64_t bytes)
{
    char *copy = bytes == 0 ? NULL : malloc(bytes);

    if (copy != NULL)
        memcpy(copy, octets, bytes);
    ASSERT(copy != NULL || bytes == 0);
    return copy;
}

static void
file_copy(struct sim_file *to, const struct sim_file *from)
{
    *to = *from;
    to->now = octets_copy(from->now, from->room);
    to->kept = octets_copy(from->kept, from->room);
    to->writes = NULL;
    to->writes_end = &to->writes;
    for (const struct sim_write *write = from->writes; write != NULL; write = write->next) {
        struct sim_write *copy = malloc(sizeof(*copy));

        ASSERT(copy != NULL);
        *copy = *write;
        copy->next = NULL;
        copy->data = write->data == NULL ? NULL : octets_copy(write->data, write->len);
        *to->writes_end = copy;
        to->writes_end = &copy->next;
    }
}

static void
names_copy(struct sim_names *to, const struct sim_names *from)
{
    *to = (struct sim_names){ 0 };
    for (uint32_t i = 0; i < from->count; i++)
        sim_names_set(to, from->list[i].name, from->list[i].file);
}

static void
disk_copy(struct sim_disk *to, const struct sim_disk *from)
{
    *to = (struct sim_disk){ .version = from->version, .file_count = from->file_count };
    to->changes_end = &to->changes;
    to->files = calloc(from->file_count == 0 ? 1 : from->file_count, sizeof(*to->files));
    ASSERT(to->files != NULL);
    for (uint32_t i = 0; i < from->file_count; i++)
        if (from->files[i].used)
            file_copy(&to->files[i], &from->files[i]);
    names_copy(&to->now, &from->now);
    names_copy(&to->kept, &from->kept);
    for (const struct sim_change *change = from->changes; change != NULL; change = change->next) {
        struct sim_change *copy = malloc(sizeof(*copy));

        ASSERT(copy != NULL);
        *copy = *change;
        copy->next = NULL;
        *to->changes_end = copy;
        to->changes_end = &copy->next;
    }
}

struct sim_disk *
sim_disk_copy(void)
{
    struct sim_disk *copy = malloc(sizeof(*copy));

    ASSERT(copy != NULL);
    disk_copy(copy, &sim.disk);
    return copy;
}

void
sim_disk_restore(const struct sim_disk *copy)
{
    sim_world_forget();
    sim_disk_clear(&sim.disk);
    disk_copy(&sim.disk, copy);
    sim.disk.changes_end = &sim.disk.changes;
    while (*sim.disk.changes_end != NULL)
        sim.disk.changes_end = &(*sim.disk.changes_end)->next;
    units_build(&sim.disk);
}

void
sim_disk_free(struct sim_disk *copy)
{
    sim_disk_clear(copy);
    free(copy);
}

/* --- looking, and spoiling --- */

uint32_t
sim_file_count(void)
{
    return sim.disk.now.count;
}

const char *
sim_file_name(uint32_t index)
{
    ASSERT(index < sim.disk.now.count);
    return sim.disk.now.list[index].name;
}

static struct sim_file *
named(uint32_t index)
{
    ASSERT(index < sim.disk.now.count);
    return sim_file_at(sim.disk.now.list[index].file);
}

uint64_t
sim_file_bytes(uint32_t index)
{
    return named(index)->size;
}

const char *
sim_file_octets(uint32_t index)
{
    return named(index)->now;
}

uint32_t
sim_file_find(const char *name)
{
    for (uint32_t i = 0; i < sim.disk.now.count; i++)
        if (strcmp(sim.disk.now.list[i].name, name) == 0)
            return i;
    return UINT32_MAX;
}

void
sim_file_flip(uint32_t index, uint64_t offset, unsigned bit)
{
    struct sim_file *file = named(index);

    ASSERT(offset < file->size);
    file->now[offset] = (char)(file->now[offset] ^ 1 << bit);
    file->kept[offset] = file->now[offset];
}

void
sim_file_resize(uint32_t index, uint64_t bytes)
{
    struct sim_file *file = named(index);

    if (bytes > file->size)
        sim_file_grow(sim.disk.now.list[index].file, bytes, true);
    file->size = file->kept_size = bytes;
    if (file->room > 0) {
        memset(file->now + bytes, 0, file->room - bytes);
        memset(file->kept + bytes, 0, file->room - bytes);
    }
}

void
sim_file_rename(uint32_t index, const char *to)
{
    uint32_t file = sim.disk.now.list[index].file;
    char name[SIM_NAME_BYTES];

    strcpy(name, sim.disk.now.list[index].name);
    sim_names_remove(&sim.disk.now, name);
    sim_names_remove(&sim.disk.kept, name);
    sim_names_set(&sim.disk.now, to, file);
    sim_names_set(&sim.disk.kept, to, file);
}

void
sim_file_add(const char *name, const void *octets, uint64_t bytes)
{
    uint32_t file = sim_file_new();

    sim_names_set(&sim.disk.now, name, file);
    sim_names_set(&sim.disk.kept, name, file);
    if (bytes > 0)
        sim_file_put(file, octets, bytes, 0, true);
}
