/* What a disk is made of here: octets as the process sees them, octets as they would be after a
 * power cut, and between the two what is not durable yet, in the order in which it came. */
#include <stdlib.h>

#include "tests/sim/sim_private.h"

/* --- files --- */

struct sim_file *
sim_file_at(uint32_t file)
{
    ASSERT(file < sim.disk.file_count && sim.disk.files[file].used);
    return &sim.disk.files[file];
}

uint32_t
sim_file_new(void)
{
    struct sim_disk *disk = &sim.disk;
    uint32_t file = 0;

    while (file < disk->file_count && disk->files[file].used)
        file++;
    if (file == disk->file_count) {
        uint32_t count = file == 0 ? 16 : file * 2;

        /* Files hold pointers into themselves only while they have writes: mend those. */
        disk->files = realloc(disk->files, count * sizeof(*disk->files));
        ASSERT(disk->files != NULL);
        for (uint32_t i = 0; i < file; i++)
            if (disk->files[i].writes == NULL)
                disk->files[i].writes_end = &disk->files[i].writes;
        memset(disk->files + file, 0, (count - file) * sizeof(*disk->files));
        disk->file_count = count;
    }
    disk->files[file] = (struct sim_file){ .used = true };
    disk->files[file].writes_end = &disk->files[file].writes;
    return file;
}

void
sim_write_free(struct sim_write *write)
{
    free(write->data);
    free(write);
}

static void
file_free(struct sim_file *file)
{
    while (file->writes != NULL) {
        struct sim_write *write = file->writes;

        file->writes = write->next;
        sim_write_free(write);
    }
    free(file->now);
    free(file->kept);
    *file = (struct sim_file){ 0 };
}

static bool
file_needed(const struct sim_disk *disk, uint32_t file)
{
    if (disk->files[file].open > 0)
        return true;
    for (uint32_t i = 0; i < disk->now.count; i++)
        if (disk->now.list[i].file == file)
            return true;
    for (uint32_t i = 0; i < disk->kept.count; i++)
        if (disk->kept.list[i].file == file)
            return true;
    for (const struct sim_change *change = disk->changes; change != NULL; change = change->next)
        if (change->file == file)
            return true;
    return false;
}

void
sim_files_collect(void)
{
    for (uint32_t i = 0; i < sim.disk.file_count; i++)
        if (sim.disk.files[i].used && !file_needed(&sim.disk, i))
            file_free(&sim.disk.files[i]);
}

/* Files that are open or have a name: what a file system would say. */
uint64_t
sim_disk_used(void)
{
    const struct sim_disk *disk = &sim.disk;
    uint64_t used = sim.taken_bytes;

    for (uint32_t i = 0; i < disk->file_count; i++) {
        bool named = false;

        if (!disk->files[i].used)
            continue;
        for (uint32_t j = 0; j < disk->now.count && !named; j++)
            named = disk->now.list[j].file == i;
        if (named || disk->files[i].open > 0)
            used += disk->files[i].size;
    }
    return used;
}

static void
room_make(struct sim_file *file, uint64_t bytes)
{
    uint64_t room = file->room == 0 ? 4096 : file->room;

    if (bytes <= file->room)
        return;
    while (room < bytes)
        room *= 2;
    file->now = realloc(file->now, room);
    file->kept = realloc(file->kept, room);
    ASSERT(file->now != NULL && file->kept != NULL);
    memset(file->now + file->room, 0, room - file->room);
    memset(file->kept + file->room, 0, room - file->room);
    file->room = room;
}

/* --- writes --- */

static void
write_add(uint32_t index, const char *data, uint64_t len, uint64_t offset, uint64_t size)
{
    struct sim_file *file = sim_file_at(index);
    struct sim_write *write = calloc(1, sizeof(*write));

    ASSERT(write != NULL);
    *write = (struct sim_write){
        .version = ++sim.disk.version, .offset = offset, .len = len, .size = size
    };
    if (data != NULL) {
        write->data = malloc(len);
        ASSERT(write->data != NULL);
        memcpy(write->data, data, len);
    }
    *file->writes_end = write;
    file->writes_end = &write->next;
}

/* A part of it becomes durable. */
void
sim_write_apply(struct sim_file *file, const struct sim_write *write, uint64_t from, uint64_t len)
{
    if (write->data != NULL) {
        ASSERT(from + len <= write->len);
        room_make(file, write->offset + write->len);
        memcpy(file->kept + write->offset + from, write->data + from, len);
    }
    if (write->size > file->kept_size) {
        room_make(file, write->size);
        file->kept_size = write->size;
    }
}

static void
overlapping_keep(struct sim_file *file, uint64_t offset, uint64_t len)
{
    for (struct sim_write **at = &file->writes; *at != NULL;) {
        struct sim_write *write = *at;

        if (write->data == NULL || write->offset >= offset + len ||
            write->offset + write->len <= offset) {
            at = &write->next;
            continue;
        }
        sim_write_apply(file, write, 0, write->len);
        *at = write->next;
        if (*at == NULL)
            file->writes_end = at;
        sim_write_free(write);
    }
}

void
sim_file_put(uint32_t index, const char *data, uint64_t len, uint64_t offset, bool durable)
{
    struct sim_file *file = sim_file_at(index);
    uint64_t end = offset + len, size = end > file->size ? end : 0;

    if (len == 0)
        return;
    room_make(file, end);
    memcpy(file->now + offset, data, len);
    if (end > file->size)
        file->size = end;
    if (!durable) {
        write_add(index, data, len, offset, size);
        return;
    }
    overlapping_keep(file, offset, len);
    memcpy(file->kept + offset, data, len);
    if (end > file->kept_size)
        file->kept_size = end;
    sim.disk.version++;
}

void
sim_file_grow(uint32_t index, uint64_t size, bool durable)
{
    struct sim_file *file = sim_file_at(index);

    room_make(file, size);
    if (size <= file->size)
        return;
    file->size = size;
    if (durable)
        file->kept_size = size;
    else
        write_add(index, NULL, 0, 0, size);
}

/* A sync that failed: of each write it may be durable all the same; or the page counts as clean and
 * is never written again, with the process still seeing it; or it was dropped from memory. */
static void
write_fail(struct sim_file *file, const struct sim_write *write)
{
    switch (sim_below(&sim.random, 3)) {
    case 0: sim_write_apply(file, write, 0, write->len); break;
    case 1: break;
    default:
        if (write->data != NULL)
            memcpy(file->now + write->offset, file->kept + write->offset, write->len);
    }
}

void
sim_file_sync(uint32_t index, uint64_t barrier, bool failed)
{
    struct sim_file *file = sim_file_at(index);

    while (file->writes != NULL && file->writes->version <= barrier) {
        struct sim_write *write = file->writes;

        if (failed)
            write_fail(file, write);
        else
            sim_write_apply(file, write, 0, write->len);
        file->writes = write->next;
        sim_write_free(write);
    }
    if (file->writes == NULL)
        file->writes_end = &file->writes;
}

/* --- names --- */

uint32_t
sim_names_find(const struct sim_names *names, const char *name)
{
    for (uint32_t i = 0; i < names->count; i++)
        if (strcmp(names->list[i].name, name) == 0)
            return names->list[i].file;
    return SIM_NONE;
}

void
sim_names_remove(struct sim_names *names, const char *name)
{
    for (uint32_t i = 0; i < names->count; i++) {
        if (strcmp(names->list[i].name, name) != 0)
            continue;
        names->list[i] = names->list[--names->count];
        return;
    }
}

void
sim_names_set(struct sim_names *names, const char *name, uint32_t file)
{
    ASSERT(strlen(name) < SIM_NAME_BYTES);
    sim_names_remove(names, name);
    if (names->count == names->max) {
        names->max = names->max == 0 ? 16 : names->max * 2;
        names->list = realloc(names->list, names->max * sizeof(*names->list));
        ASSERT(names->list != NULL);
    }
    names->list[names->count].file = file;
    strcpy(names->list[names->count++].name, name);
}

void
sim_change_add(enum sim_change_kind kind, const char *name, const char *to, uint32_t file)
{
    struct sim_change *change = calloc(1, sizeof(*change));

    ASSERT(change != NULL);
    change->version = ++sim.disk.version;
    change->kind = kind;
    change->file = file;
    strcpy(change->name, name);
    if (to != NULL)
        strcpy(change->to, to);
    *sim.disk.changes_end = change;
    sim.disk.changes_end = &change->next;
}

/* A file has one name: a rename that survives takes it from wherever it was. */
static void
names_forget(struct sim_names *names, uint32_t file)
{
    for (uint32_t i = names->count; i-- > 0;)
        if (names->list[i].file == file)
            names->list[i] = names->list[--names->count];
}

void
sim_change_keep(struct sim_disk *disk, const struct sim_change *change)
{
    struct sim_names *kept = &disk->kept;

    switch (change->kind) {
    case SIM_CREATE: sim_names_set(kept, change->name, change->file); break;
    case SIM_RENAME:
        names_forget(kept, change->file);
        sim_names_set(kept, change->to, change->file);
        break;
    case SIM_UNLINK:
        if (sim_names_find(kept, change->name) == change->file)
            sim_names_remove(kept, change->name);
        break;
    }
}

/* A journal that cannot be written stops the file system, or is written later: what failed here is
 * not forgotten, but some of it may be there already. directory_forgets: a file system without a
 * journal, that tells one of those who sync of an error and the next one nothing. */
void
sim_directory_sync(uint64_t barrier, bool failed)
{
    struct sim_disk *disk = &sim.disk;

    while (disk->changes != NULL && disk->changes->version <= barrier) {
        struct sim_change *change = disk->changes;

        bool lost = failed && sim_chance(&sim.random, 5000);

        if (lost && !sim.options.directory_forgets)
            break;
        if (!lost)
            sim_change_keep(disk, change);
        disk->changes = change->next;
        free(change);
    }
    if (disk->changes == NULL)
        disk->changes_end = &disk->changes;
    sim_files_collect();
}

void
sim_disk_clear(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->file_count; i++)
        if (disk->files[i].used)
            file_free(&disk->files[i]);
    free(disk->files);
    free(disk->now.list);
    free(disk->kept.list);
    while (disk->changes != NULL) {
        struct sim_change *change = disk->changes;

        disk->changes = change->next;
        free(change);
    }
    free(disk->units);
    *disk = (struct sim_disk){ 0 };
    disk->changes_end = &disk->changes;
}
