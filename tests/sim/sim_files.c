/* core/io.h's operations on files, on the simulated disk: what each does when its time has come,
 * and how it can fail. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim_private.h"

#define DIRECT_BYTES 4096u

/* --- descriptors --- */

struct sim_descriptor *
sim_descriptor_at(int descriptor)
{
    struct sim_descriptor *found;

    ASSERT(descriptor >= SIM_DESCRIPTOR_FIRST);
    ASSERT(descriptor < SIM_DESCRIPTOR_FIRST + SIM_DESCRIPTORS_MAX);
    found = &sim.descriptors[descriptor - SIM_DESCRIPTOR_FIRST];
    ASSERT(found->used);
    return found;
}

int
sim_descriptor_new(struct sim_descriptor fields)
{
    for (int n = 0; n < SIM_DESCRIPTORS_MAX; n++) {
        int i = (sim.descriptor_from + n) % SIM_DESCRIPTORS_MAX;

        if (sim.descriptors[i].used)
            continue;
        /* A number that is used again at once hides who uses it too late; in half of all worlds
         * it is, as a kernel would. */
        if (sim_net_there() && sim.options.seed % 2 == 0)
            sim.descriptor_from = i + 1;
        sim.descriptors[i] = fields;
        sim.descriptors[i].used = true;
        return SIM_DESCRIPTOR_FIRST + i;
    }
    return -EMFILE;
}

void
sim_descriptor_close(int descriptor)
{
    struct sim_descriptor *closed = sim_descriptor_at(descriptor);

    ASSERT(closed->flying == 0);
    closed->used = false;
    if (closed->socket != NULL) {
        sim_socket_close(closed->socket);
        closed->socket = NULL;
        return;
    }
    if (closed->directory || closed->lock)
        return;
    ASSERT(sim_file_at(closed->file)->open > 0);
    sim_file_at(closed->file)->open--;
    sim_files_collect();
}

/* --- submission: what the kernel looks at now --- */

static void
ranges_check(const struct sim_operation *operation)
{
    uint64_t end = operation->offset + operation->len;

    for (const struct sim_operation *other = sim.flying; other != NULL; other = other->next) {
        if ((other->kind != SIM_WRITE && other->kind != SIM_READ) ||
            sim_descriptor_at(other->descriptor)->file !=
                sim_descriptor_at(operation->descriptor)->file)
            continue;
        if (operation->kind == SIM_READ && other->kind == SIM_READ)
            continue;
        if (other->offset < end && operation->offset < other->offset + other->len)
            ASSERT(!"two operations on the same octets, and one writes them");
    }
}

static void
direct_check(const struct sim_operation *operation)
{
    ASSERT(operation->offset % DIRECT_BYTES == 0);
    for (uint32_t i = 0; i < operation->piece_count; i++) {
        ASSERT((uintptr_t)operation->pieces[i].data % DIRECT_BYTES == 0);
        ASSERT(operation->pieces[i].len % DIRECT_BYTES == 0);
    }
}

void
sim_operation_submit(struct sim_operation *operation)
{
    struct sim_descriptor *descriptor;
    char *copy;

    if (operation->name != NULL) {
        ASSERT(strlen(operation->name) < SIM_NAME_BYTES);
        strcpy(operation->name_copy, operation->name);
    }
    if (operation->to != NULL) {
        ASSERT(strlen(operation->to) < SIM_NAME_BYTES);
        strcpy(operation->to_copy, operation->to);
    }
    descriptor = sim_descriptor_at(operation->descriptor);
    descriptor->flying++;
    operation->barrier = sim.disk.version;
    if (operation->kind != SIM_READ && operation->kind != SIM_WRITE)
        return;
    ASSERT(!descriptor->directory && !descriptor->lock);
    if (descriptor->direct)
        direct_check(operation);
    ranges_check(operation);
    operation->copy = copy = malloc(operation->len);
    ASSERT(copy != NULL);
    for (uint32_t i = 0; i < operation->piece_count; i++) {
        const struct io_piece *piece = &operation->pieces[i];

        if (operation->kind == SIM_WRITE)
            memcpy(copy, piece->data, piece->len);
        else /* who uses it before it has come sees this */
            memset((void *)(uintptr_t)piece->data, 0xdb, piece->len);
        copy += piece->len;
    }
}

/* --- ends --- */

static bool
fault(enum sim_event event, uint32_t chance)
{
    return sim_fault(&sim.random, event, chance);
}

static int32_t
again(void)
{
    static const int32_t errors[] = { -EAGAIN, -EINTR, -ECANCELED };

    return errors[sim_below(&sim.random, 3)];
}

static int32_t
open_end(const struct sim_operation *operation)
{
    bool create = (operation->flags & IO_FILE_CREATE) != 0;
    bool direct = (operation->flags & IO_FILE_DIRECT) != 0;
    uint32_t file = sim_names_find(&sim.disk.now, operation->name_copy);
    bool broken = fault(SIM_FAULT_OPEN, sim.faults.open);

    if (fault(SIM_FAULT_SHORTAGE, sim.faults.shortage))
        return -EMFILE;
    if (broken && sim_chance(&sim.random, 5000))
        return -EIO;
    if (create && file != SIM_NONE)
        return -EEXIST;
    if (!create && file == SIM_NONE)
        return -ENOENT;
    if (create) {
        file = sim_file_new();
        sim_names_set(&sim.disk.now, operation->name_copy, file);
        sim_change_add(SIM_CREATE, operation->name_copy, NULL, file);
    }
    if (broken)
        return -EIO;
    if (direct && sim.options.direct_refused)
        return -EINVAL;
    sim_file_at(file)->open++;
    return sim_descriptor_new(
        (struct sim_descriptor){ .file = file,
                                 .direct = direct,
                                 .dsync = (operation->flags & IO_FILE_DSYNC) != 0,
                                 .writable = (operation->flags & IO_FILE_WRITE) != 0 });
}

static void
scatter(const struct sim_operation *operation, const char *from, uint64_t len)
{
    for (uint32_t i = 0; i < operation->piece_count && len > 0; i++) {
        const struct io_piece *piece = &operation->pieces[i];
        uint64_t part = piece->len < len ? piece->len : len;

        memcpy((void *)(uintptr_t)piece->data, from, part);
        from += part;
        len -= part;
    }
}

static int32_t
read_end(const struct sim_operation *operation)
{
    const struct sim_file *file = sim_file_at(sim_descriptor_at(operation->descriptor)->file);
    uint64_t len = operation->len;

    if (fault(SIM_FAULT_READ, sim.faults.read))
        return -EIO;
    if (operation->offset >= file->size)
        return 0;
    if (len > file->size - operation->offset)
        len = file->size - operation->offset;
    if (len > SIM_SECTOR_BYTES && fault(SIM_FAULT_READ_SHORT, sim.faults.read_short))
        len = sim_between(&sim.random, 1, len / SIM_SECTOR_BYTES) * SIM_SECTOR_BYTES;
    if (len > operation->len)
        len = operation->len;
    scatter(operation, file->now + operation->offset, len);
    return (int32_t)len;
}

/* An error: none of it, a part from the front, or some sectors. With O_DSYNC they are on the disk,
 * or not: no page cache lies between. */
static void
write_broken(const struct sim_operation *operation, uint32_t file, bool dsync)
{
    uint64_t sectors = (operation->len + SIM_SECTOR_BYTES - 1) / SIM_SECTOR_BYTES;
    uint64_t shape = sim_below(&sim.random, 3);
    uint64_t front = shape == 1 ? sim_below(&sim.random, sectors + 1) : 0;

    for (uint64_t i = 0; i < sectors; i++) {
        uint64_t at = i * SIM_SECTOR_BYTES, left = operation->len - at;
        bool written = shape == 1 ? i < front : shape == 2 && sim_chance(&sim.random, 5000);

        if (written)
            sim_file_put(file, operation->copy + at,
                         left < SIM_SECTOR_BYTES ? left : SIM_SECTOR_BYTES, operation->offset + at,
                         dsync);
    }
}

static uint64_t
room_left(void)
{
    uint64_t used = sim_disk_used();

    return used < sim.options.disk_bytes ? sim.options.disk_bytes - used : 0;
}

static int32_t
write_end(const struct sim_operation *operation)
{
    struct sim_descriptor *descriptor = sim_descriptor_at(operation->descriptor);
    uint32_t file = descriptor->file;
    uint64_t end = operation->offset + operation->len, size = sim_file_at(file)->size;
    uint64_t more = end > size ? end - size : 0, len = operation->len;

    ASSERT(descriptor->writable);
    if (descriptor->direct && sim.options.direct_refused_late)
        return -EINVAL;
    if (more > room_left()) {
        sim_event_count(SIM_DISK_FULL);
        len = more - room_left() >= len ? 0 : len - (more - room_left());
        len -= len % SIM_SECTOR_BYTES;
        sim_file_put(file, operation->copy, len, operation->offset, descriptor->dsync);
        return len == 0 ? -ENOSPC : (int32_t)len;
    }
    if (fault(SIM_FAULT_WRITE, sim.faults.write)) {
        write_broken(operation, file, descriptor->dsync);
        return -EIO;
    }
    if (fault(SIM_FAULT_NO_SPACE, sim.faults.no_space)) {
        write_broken(operation, file, descriptor->dsync);
        return -ENOSPC;
    }
    if (len > SIM_SECTOR_BYTES && fault(SIM_FAULT_WRITE_SHORT, sim.faults.write_short)) {
        len = sim_between(&sim.random, 1, (len - 1) / SIM_SECTOR_BYTES) * SIM_SECTOR_BYTES;
        sim_file_put(file, operation->copy, len, operation->offset, descriptor->dsync);
        return (int32_t)len;
    }
    sim_file_put(file, operation->copy, len, operation->offset, descriptor->dsync);
    return (int32_t)len;
}

static int32_t
sync_end(const struct sim_operation *operation)
{
    const struct sim_descriptor *descriptor = sim_descriptor_at(operation->descriptor);
    bool failed;

    ASSERT(descriptor->directory == operation->directory);
    if (operation->directory) {
        failed = fault(SIM_FAULT_DIRECTORY_SYNC, sim.faults.directory_sync);
        sim_directory_sync(operation->barrier, failed);
    } else {
        failed = fault(SIM_FAULT_SYNC, sim.faults.sync);
        sim_file_sync(descriptor->file, operation->barrier, failed);
    }
    return failed ? -EIO : 0;
}

static int32_t
allocate_end(const struct sim_operation *operation)
{
    uint32_t file = sim_descriptor_at(operation->descriptor)->file;
    uint64_t size = sim_file_at(file)->size;

    if (sim.options.allocate_refused)
        return -EOPNOTSUPP;
    if (fault(SIM_FAULT_ALLOCATE, sim.faults.allocate))
        return -EIO;
    if (fault(SIM_FAULT_NO_SPACE, sim.faults.no_space))
        return -ENOSPC;
    if (operation->len > size && operation->len - size > room_left()) {
        sim_event_count(SIM_DISK_FULL);
        return -ENOSPC;
    }
    sim_file_grow(file, operation->len, false);
    return 0;
}

static int32_t
rename_end(const struct sim_operation *operation)
{
    uint32_t file = sim_names_find(&sim.disk.now, operation->name_copy);
    bool broken = fault(SIM_FAULT_RENAME, sim.faults.rename);

    if (broken && sim_chance(&sim.random, 7500))
        return -EIO;
    if (file == SIM_NONE)
        return -ENOENT;
    sim_names_remove(&sim.disk.now, operation->name_copy);
    sim_names_set(&sim.disk.now, operation->to_copy, file);
    sim_change_add(SIM_RENAME, operation->name_copy, operation->to_copy, file);
    return broken ? -EIO : 0;
}

static int32_t
unlink_end(const struct sim_operation *operation)
{
    uint32_t file = sim_names_find(&sim.disk.now, operation->name_copy);
    bool broken = fault(SIM_FAULT_UNLINK, sim.faults.unlink);

    if (broken && sim_chance(&sim.random, 7500))
        return -EIO;
    if (file == SIM_NONE)
        return -ENOENT;
    sim_names_remove(&sim.disk.now, operation->name_copy);
    sim_change_add(SIM_UNLINK, operation->name_copy, NULL, file);
    sim_files_collect();
    return broken ? -EIO : 0;
}

/* Memory that the kernel was given must be as it was. */
static void
memory_check(const struct sim_operation *operation)
{
    const char *copy = operation->copy;

    ASSERT(operation->name == NULL || strcmp(operation->name, operation->name_copy) == 0);
    ASSERT(operation->to == NULL || strcmp(operation->to, operation->to_copy) == 0);
    for (uint32_t i = 0; operation->kind == SIM_WRITE && i < operation->piece_count; i++) {
        ASSERT(memcmp(copy, operation->pieces[i].data, operation->pieces[i].len) == 0);
        copy += operation->pieces[i].len;
    }
}

int32_t
sim_operation_end(struct sim_operation *operation)
{
    memory_check(operation);
    ASSERT(sim_descriptor_at(operation->descriptor)->flying > 0);
    sim_descriptor_at(operation->descriptor)->flying--;
    if (fault(SIM_FAULT_AGAIN, sim.faults.again)) {
        const struct sim_descriptor *descriptor = sim_descriptor_at(operation->descriptor);

        if (operation->kind == SIM_WRITE && sim_chance(&sim.random, 3000))
            write_broken(operation, descriptor->file, descriptor->dsync);
        return again();
    }
    switch (operation->kind) {
    case SIM_OPEN: return open_end(operation);
    case SIM_READ: return read_end(operation);
    case SIM_WRITE: return write_end(operation);
    case SIM_SYNC: return sync_end(operation);
    case SIM_ALLOCATE: return allocate_end(operation);
    case SIM_RENAME_FILE: return rename_end(operation);
    case SIM_UNLINK_FILE: return unlink_end(operation);
    default: break;
    }
    ASSERT(!"an operation that does not end");
    return 0;
}

/* --- at once --- */

int
io_directory_open(const char *path, bool create)
{
    (void)path;
    (void)create;
    return sim_descriptor_new((struct sim_descriptor){ .directory = true });
}

/* One process: who holds it is a bug of the test. */
int
io_directory_lock(int directory, const char *name, uint32_t *holder)
{
    *holder = 0;
    ASSERT(sim_descriptor_at(directory)->directory);
    for (int i = 0; i < SIM_DESCRIPTORS_MAX; i++)
        ASSERT(!sim.descriptors[i].used || !sim.descriptors[i].lock);
    if (sim_names_find(&sim.disk.now, name) == SIM_NONE)
        sim_file_add(name, "1\n", 2);
    return sim_descriptor_new((struct sim_descriptor){ .lock = true });
}

int
io_directory_list(int directory,
                  void (*each)(void *context, const struct io_directory_entry *entry),
                  void *context)
{
    ASSERT(sim_descriptor_at(directory)->directory);
    for (uint32_t i = 0; i < sim.disk.now.count; i++)
        each(context,
             &(struct io_directory_entry){ .name = sim.disk.now.list[i].name,
                                           .bytes = sim_file_at(sim.disk.now.list[i].file)->size });
    return 0;
}

int
io_directory_space(int directory, uint64_t *free_bytes, uint64_t *total_bytes)
{
    ASSERT(sim_descriptor_at(directory)->directory);
    *free_bytes = room_left();
    *total_bytes = sim.options.disk_bytes;
    return 0;
}
