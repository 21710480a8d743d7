/* core/io.h and core/clock.h without a kernel: instances, virtual time, and operations that end in
 * seeded order. Files: sim_files.c. Sockets: sim_sockets.c. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "core/clock.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_private.h"

/* Between two calls of io_wait(): what a turn takes. */
#define TURN_NS 2000
#define START_REALTIME_NS (UINT64_C(1800000000) * NS_PER_S)

struct sim sim;

const char *const sim_event_names[SIM_EVENTS] = {
    [SIM_OPERATIONS] = "operations",
    [SIM_FAULT_OPEN] = "failed opens",
    [SIM_FAULT_SHORTAGE] = "opens without a descriptor",
    [SIM_FAULT_READ] = "failed reads",
    [SIM_FAULT_READ_SHORT] = "short reads",
    [SIM_FAULT_WRITE] = "failed writes",
    [SIM_FAULT_WRITE_SHORT] = "short writes",
    [SIM_FAULT_SYNC] = "failed syncs",
    [SIM_FAULT_DIRECTORY_SYNC] = "failed directory syncs",
    [SIM_FAULT_ALLOCATE] = "failed allocations",
    [SIM_FAULT_RENAME] = "failed renames",
    [SIM_FAULT_UNLINK] = "failed unlinks",
    [SIM_FAULT_AGAIN] = "tries again",
    [SIM_FAULT_NO_SPACE] = "no space",
    [SIM_FAULT_SLOW] = "slow operations",
    [SIM_DISK_FULL] = "full disk",
    [SIM_FAULT_REFUSE] = "refused connects",
    [SIM_FAULT_UNANSWERED] = "unanswered connects",
    [SIM_FAULT_RESET] = "resets",
    [SIM_FAULT_STALL] = "stalls",
    [SIM_FAULT_SPLIT] = "cut pieces",
    [SIM_FAULT_MERGE] = "joined pieces",
    [SIM_FAULT_MULTISHOT_ENDS] = "ended multishots",
    [SIM_FAULT_NO_BUFFER] = "missing buffers",
    [SIM_FAULT_END_MISSED] = "deaf receives",
    [SIM_FAULT_ACCEPT] = "failed accepts",
    [SIM_FAULT_SEND] = "failed sends",
    [SIM_FAULT_ORDER] = "late completions",
    [SIM_FAULT_HANDSHAKE] = "refused handshakes",
    [SIM_FAULT_RECORD] = "spoiled records",
    [SIM_FAULT_UNVERIFIED] = "bad certificates",
    [SIM_FAULT_TLS_MEMORY] = "TLS without memory",
    [SIM_POWER_CUTS] = "power cuts",
    [SIM_UNITS_KEPT] = "unsynced changes kept",
    [SIM_UNITS_LOST] = "lost",
    [SIM_UNITS_TORN] = "torn",
};

/* --- the world --- */

void
sim_start(const struct sim_options *options)
{
    uint64_t counts[SIM_EVENTS];
    bool verbose = sim.verbose;

    memcpy(counts, sim.counts, sizeof(counts));
    memset(&sim, 0, sizeof(sim));
    memcpy(sim.counts, counts, sizeof(counts));
    sim.verbose = verbose;
    sim.options = *options;
    sim.random = sim_random_of(options->seed, 1);
    sim.crash = sim_random_of(options->seed, 2);
    sim.disk.changes_end = &sim.disk.changes;
    sim.memory.next = sim.memory.previous = &sim.memory;
    sim.now_ns = NS_PER_S;
    sim.power_left = UINT64_MAX;
}

void
sim_reseed(uint64_t seed)
{
    sim.random = sim_random_of(seed, 1);
    sim.crash = sim_random_of(seed, 2);
}

void
sim_end(void)
{
    sim_world_forget();
    sim_disk_clear(&sim.disk);
}

void
sim_faults_set(const struct sim_faults *faults)
{
    sim.faults = faults == NULL ? (struct sim_faults){ 0 } : *faults;
}

void
sim_clock_set(uint64_t realtime_ns)
{
    sim.clock_set_ns = realtime_ns - START_REALTIME_NS - sim.now_ns;
}

uint64_t
sim_memory_bytes(void)
{
    uint64_t bytes = 0;

    for (const struct sim_memory *at = sim.memory.next; at != &sim.memory; at = at->next)
        bytes += at->bytes;
    return bytes;
}

void
sim_disk_taken(uint64_t bytes)
{
    sim.taken_bytes = bytes;
}

void
sim_disk_bytes(uint64_t bytes)
{
    sim.options.disk_bytes = bytes;
}

void
sim_event_count(enum sim_event event)
{
    sim.counts[event]++;
}

bool
sim_fault(struct sim_random *random, enum sim_event event, uint32_t chance)
{
    if (!sim_chance(random, chance))
        return false;
    sim_event_count(event);
    return true;
}

uint64_t
sim_count(enum sim_event event)
{
    return sim.counts[event];
}

uint64_t
sim_trace_hash(void)
{
    return sim.hash;
}

void
sim_verbose(bool on)
{
    sim.verbose = on;
}

void
sim_operation_free(struct sim_operation *operation)
{
    free(operation->copy);
    free(operation);
}

static void
operations_free(struct sim_operation *first)
{
    while (first != NULL) {
        struct sim_operation *next = first->next;

        sim_operation_free(first);
        first = next;
    }
}

static void
instance_free(struct io *io)
{
    sim_net_instance_forget(io);
    operations_free(io->queued);
    operations_free(io->done);
    free(io->groups[0].ring);
    free(io->groups[1].ring);
    free(io);
}

void
sim_world_forget(void)
{
    sim_net_machine_gone(true);
    operations_free(sim.flying);
    sim.flying = NULL;
    while (sim.instances != NULL) {
        struct io *io = sim.instances;

        sim.instances = io->next;
        instance_free(io);
    }
    while (sim.memory.next != &sim.memory)
        io_memory_free(sim.memory.next->memory, sim.memory.next->bytes);
    memset(sim.descriptors, 0, sizeof(sim.descriptors));
}

void
sim_power_fails_after(uint64_t operations, jmp_buf *where)
{
    sim.power_left = operations;
    sim.power_where = where;
}

/* --- time --- */

uint64_t
sim_now_ns(void)
{
    return sim.now_ns;
}

uint64_t
clock_now_ns(void)
{
    return sim.now_ns;
}

uint64_t
clock_realtime_ns(void)
{
    return START_REALTIME_NS + sim.now_ns + sim.clock_set_ns;
}

uint64_t
clock_thread_cpu_ns(void)
{
    return sim.now_ns;
}

uint64_t
sim_next_ns(void)
{
    uint64_t file_ns = sim.flying == NULL ? UINT64_MAX : sim.flying->ready_ns;
    uint64_t net_ns = sim_net_next_ns();

    return file_ns < net_ns ? file_ns : net_ns;
}

static const char *
kind_name(enum sim_kind kind)
{
    static const char *const names[] = {
        [SIM_OPEN] = "open",          [SIM_READ] = "read",         [SIM_WRITE] = "write",
        [SIM_SYNC] = "sync",          [SIM_ALLOCATE] = "allocate", [SIM_RENAME_FILE] = "rename",
        [SIM_UNLINK_FILE] = "unlink", [SIM_CLOSE] = "close",
    };

    return names[kind];
}

static void
trace(const struct sim_operation *operation)
{
    const uint64_t values[] = { operation->kind,   operation->ready_ns, (uint64_t)operation->result,
                                operation->offset, operation->len,      operation->number };

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        sim.hash = sim_mix(sim.hash ^ values[i]) + 1;
    if (sim.verbose)
        fprintf(stderr, "%12.6f %s %d %s%s%s offset %llu len %llu = %d\n", (double)sim.now_ns / 1e9,
                kind_name(operation->kind), operation->descriptor, operation->name_copy,
                operation->to_copy[0] != '\0' ? " -> " : "", operation->to_copy,
                (unsigned long long)operation->offset, (unsigned long long)operation->len,
                operation->result);
}

void
sim_operation_done(struct sim_operation *operation)
{
    struct io *io = operation->io;

    io->counts.completions++;
    operation->next = NULL;
    *io->done_end = operation;
    io->done_end = &operation->next;
    io->done_count++;
}

/* The first operation on a file that is under way ends. */
static void
end_one(void)
{
    struct sim_operation *operation = sim.flying;

    sim.flying = operation->next;
    if (operation->ready_ns > sim.now_ns)
        sim.now_ns = operation->ready_ns;
    operation->result = sim_operation_end(operation);
    trace(operation);
    sim_event_count(SIM_OPERATIONS);
    operation->io->flying--;
    sim_operation_done(operation);
}

static void
power_step(void)
{
    if (sim.power_left == 0)
        longjmp(*sim.power_where, 1);
    if (sim.power_left != UINT64_MAX)
        sim.power_left--;
}

void
sim_advance(uint64_t until_ns)
{
    for (;;) {
        uint64_t file_ns = sim.flying == NULL ? UINT64_MAX : sim.flying->ready_ns;
        uint64_t net_ns = sim_net_next_ns();

        if ((file_ns < net_ns ? file_ns : net_ns) > until_ns || (file_ns & net_ns) == UINT64_MAX)
            break;
        power_step();
        if (file_ns <= net_ns)
            end_one();
        else
            sim_net_step();
    }
    if (until_ns > sim.now_ns)
        sim.now_ns = until_ns;
}

/* --- instances --- */

/* As buffers_create() of core/io_uring.c. */
static void
groups_create(struct io *io, const struct io_options *options)
{
    io->groups[0] =
        (struct sim_group){ .most = options->buffers_offered != 0 ? options->buffers_offered
                                                                  : BUFFERS_OFFERED,
                            .reserve = options->buffer_reserve,
                            .least = options->buffers_least };
    io->groups[1] =
        (struct sim_group){ .most = BUFFERS_SURE, .reserve = options->buffer_reserve / 2 };
    for (int i = 0; i < 2; i++) {
        io->groups[i].ring = calloc(io->groups[i].most, sizeof(uint32_t));
        ASSERT(io->groups[i].ring != NULL);
    }
}

struct io *
io_create(const struct io_options *options, char error[IO_ERROR_BYTES])
{
    struct io *io = calloc(1, sizeof(*io));
    char *memory;

    ASSERT(io != NULL);
    error[0] = '\0';
    io->queued_end = &io->queued;
    io->done_end = &io->done;
    io->next = sim.instances;
    sim.instances = io;
    if (options->buffer_count == 0)
        return io;
    memory = io_memory((size_t)options->buffer_count * BUFFER_BYTES);
    io->meta = io_memory((size_t)options->buffer_count * sizeof(*io->meta));
    ASSERT(memory != NULL && io->meta != NULL);
    buffers_init(&io->buffers, memory, io->meta, options->buffer_count);
    groups_create(io, options);
    io->stepped = sim_net_there();
    return io;
}

void
io_destroy(struct io *io)
{
    struct io **at = &sim.instances;

    if (io == NULL)
        return;
    /* A relay that was told to end at once leaves some; the kernel ends them. */
    while (io->stepped && io->flying > 0)
        sim_advance(sim_next_ns());
    ASSERT(io->flying == 0);
    while (*at != io)
        at = &(*at)->next;
    *at = io->next;
    if (io->meta != NULL) {
        io_memory_free(io->buffers.memory, (size_t)io->buffers.count * BUFFER_BYTES);
        io_memory_free(io->meta, io->buffers.count * sizeof(*io->meta));
    }
    instance_free(io);
}

struct buffers *
io_buffers(struct io *io)
{
    return &io->buffers;
}

struct io_counts
io_counts(const struct io *io)
{
    struct io_counts counts = io->counts;

    counts.buffers_free = io->buffers.free_count;
    counts.buffers_offered = io->groups[0].offered + io->groups[1].offered;
    return counts;
}

/* --- operations are queued --- */

struct sim_operation *
sim_operation_queue(struct io *io, struct io_ticket ticket, enum sim_kind kind, int descriptor)
{
    struct sim_operation *operation = calloc(1, sizeof(*operation));

    ASSERT(operation != NULL);
    ASSERT(ticket.slot < 1u << 24 && ticket.generation < 1u << 24);
    operation->io = io;
    operation->ticket = ticket;
    operation->kind = kind;
    operation->descriptor = descriptor;
    *io->queued_end = operation;
    io->queued_end = &operation->next;
    io->counts.submissions++;
    return operation;
}

void
io_close(struct io *io, int socket)
{
    sim_operation_queue(io, (struct io_ticket){ 0 }, SIM_CLOSE, socket);
}

void
io_close_now(int descriptor)
{
    sim_descriptor_close(descriptor);
}

void
io_file_open(struct io *io, struct io_ticket ticket, int directory, const char *name,
             unsigned flags)
{
    struct sim_operation *operation = sim_operation_queue(io, ticket, SIM_OPEN, directory);

    operation->name = name;
    operation->flags = flags;
}

static void
queue_pieces(struct io *io, struct io_ticket ticket, enum sim_kind kind, int file,
             const struct io_piece *pieces, uint32_t count, uint64_t offset)
{
    struct sim_operation *operation = sim_operation_queue(io, ticket, kind, file);

    ASSERT(count > 0 && count <= IO_PIECES_MAX && offset <= INT64_MAX);
    operation->offset = offset;
    operation->piece_count = count;
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(pieces[i].len > 0);
        operation->pieces[i] = pieces[i];
        operation->len += pieces[i].len;
    }
    ASSERT(operation->len <= INT32_MAX);
}

void
io_file_read(struct io *io, struct io_ticket ticket, int file, void *to, uint32_t len,
             uint64_t offset)
{
    queue_pieces(io, ticket, SIM_READ, file, &(struct io_piece){ .data = to, .len = len }, 1,
                 offset);
}

void
io_file_read_gather(struct io *io, struct io_ticket ticket, int file, struct io_gather *gather,
                    uint64_t offset)
{
    queue_pieces(io, ticket, SIM_READ, file, gather->pieces, gather->count, offset);
}

void
io_file_write(struct io *io, struct io_ticket ticket, int file, const void *from, uint32_t len,
              uint64_t offset)
{
    queue_pieces(io, ticket, SIM_WRITE, file, &(struct io_piece){ .data = from, .len = len }, 1,
                 offset);
}

void
io_file_write_gather(struct io *io, struct io_ticket ticket, int file, struct io_gather *gather,
                     uint64_t offset)
{
    queue_pieces(io, ticket, SIM_WRITE, file, gather->pieces, gather->count, offset);
}

void
io_file_sync(struct io *io, struct io_ticket ticket, int file, bool directory)
{
    sim_operation_queue(io, ticket, SIM_SYNC, file)->directory = directory;
}

void
io_file_allocate(struct io *io, struct io_ticket ticket, int file, uint64_t bytes)
{
    ASSERT(bytes > 0 && bytes <= INT64_MAX);
    sim_operation_queue(io, ticket, SIM_ALLOCATE, file)->len = bytes;
}

void
io_file_rename(struct io *io, struct io_ticket ticket, int directory, const char *from,
               const char *to)
{
    struct sim_operation *operation = sim_operation_queue(io, ticket, SIM_RENAME_FILE, directory);

    operation->name = from;
    operation->to = to;
}

void
io_file_unlink(struct io *io, struct io_ticket ticket, int directory, const char *name)
{
    sim_operation_queue(io, ticket, SIM_UNLINK_FILE, directory)->name = name;
}

/* --- the turn --- */

static uint64_t
delay_draw(void)
{
    if (sim_fault(&sim.random, SIM_FAULT_SLOW, sim.faults.slow))
        return sim_between(&sim.random, 100 * NS_PER_MS, 2 * NS_PER_S);
    switch (sim_below(&sim.random, 8)) {
    case 0: return sim_between(&sim.random, NS_PER_MS, 20 * NS_PER_MS);
    case 1: return sim_between(&sim.random, 1000, 10000);
    default: return sim_between(&sim.random, 20000, 400000);
    }
}

static void
submit(struct io *io)
{
    while (io->queued != NULL) {
        struct sim_operation *operation = io->queued, **at = &sim.flying;

        io->queued = operation->next;
        if (operation->kind >= SIM_ACCEPT) {
            sim_net_submit(operation);
            continue;
        }
        if (operation->kind == SIM_CLOSE) {
            sim_descriptor_close(operation->descriptor);
            sim_operation_free(operation);
            continue;
        }
        sim_operation_submit(operation);
        operation->number = ++sim.operation_number;
        operation->ready_ns = sim.now_ns + delay_draw();
        while (*at != NULL && (*at)->ready_ns <= operation->ready_ns)
            at = &(*at)->next;
        operation->next = *at;
        *at = operation;
        io->flying++;
    }
    io->queued_end = &io->queued;
}

/* In a world with a network the driver turns the time on, and steps whoever sim_io_ready(). */
static unsigned
wait_stepped(struct io *io, uint64_t timeout_ns)
{
    bool due = sim.now_ns >= io->wakes_ns, submitted = io->queued != NULL;

    sim_net_offer(io);
    submit(io);
    sim.now_ns += TURN_NS;
    /* After a turn that had something to do the worker knows better how long it can sleep: it says
     * so in the next one. */
    io->restless = due || submitted || io->done_count > 0;
    io->wakes_ns = timeout_ns > UINT64_MAX - sim.now_ns ? UINT64_MAX : sim.now_ns + timeout_ns;
    return io->done_count;
}

bool
sim_io_ready(const struct io *io)
{
    return io->restless || io->done_count > 0 || io->queued != NULL || sim.now_ns >= io->wakes_ns;
}

uint64_t
sim_io_files_flying(const struct io *io)
{
    return io->flying;
}

uint64_t
sim_io_wakes_ns(const struct io *io)
{
    return io->wakes_ns;
}

unsigned
io_wait(struct io *io, uint64_t timeout_ns)
{
    uint64_t until;

    io->counts.enters++;
    if (io->stepped)
        return wait_stepped(io, timeout_ns);
    submit(io);
    if (!sim_net_there() || timeout_ns > 0)
        sim_advance(sim.now_ns + TURN_NS);
    until = timeout_ns > UINT64_MAX - sim.now_ns ? UINT64_MAX : sim.now_ns + timeout_ns;
    while (io->done_count == 0 && sim.now_ns < until) {
        uint64_t next = sim_next_ns();

        /* Else it would wait for ever. */
        ASSERT(until < UINT64_MAX || next < UINT64_MAX);
        sim_advance(next < until ? next : until);
    }
    return io->done_count;
}

bool
io_next(struct io *io, struct io_completion *completion)
{
    struct sim_operation *operation = io->done;

    if (operation == NULL)
        return false;
    io->done = operation->next;
    if (io->done == NULL)
        io->done_end = &io->done;
    io->done_count--;
    if (operation->kind >= SIM_ACCEPT) {
        *completion = operation->completion;
        sim_net_handed_out(io, operation);
    } else {
        *completion = (struct io_completion){ .ticket = operation->ticket,
                                              .op = IO_FILE,
                                              .result = operation->result,
                                              .buffer = BUFFER_NONE };
    }
    sim_operation_free(operation);
    return true;
}

/* --- memory --- */

void *
io_memory(size_t bytes)
{
    struct sim_memory *entry = malloc(sizeof(*entry));
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    ASSERT(entry != NULL && memory != MAP_FAILED);
    *entry = (struct sim_memory){
        .next = sim.memory.next, .previous = &sim.memory, .memory = memory, .bytes = bytes
    };
    sim.memory.next->previous = entry;
    sim.memory.next = entry;
    return memory;
}

void
io_memory_free(void *memory, size_t bytes)
{
    struct sim_memory *entry = sim.memory.next;

    while (entry != &sim.memory && entry->memory != memory)
        entry = entry->next;
    ASSERT(entry != &sim.memory && entry->bytes == bytes);
    entry->next->previous = entry->previous;
    entry->previous->next = entry->next;
    free(entry);
    munmap(memory, bytes);
}
