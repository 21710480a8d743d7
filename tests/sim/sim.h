/* sim: a machine that can lose its power, behind core/io.h and core/clock.h; linked in place of
 * core/io_uring.c, core/io_file.c and core/clock.c.
 * Does:    one disk with one directory, virtual time, completions in seeded order, faults by seed;
 *          a power cut keeps, loses or tears what was not durable, and the next life finds that.
 * Owns:    files, descriptors, instances, all of io_memory(): one world per process.
 * Memory:  malloc(); sim_end() frees all of it.
 * Threads: one; workers are stepped in turn.
 * Errors:  what no kernel would forgive (a buffer changed while it is written, a closed descriptor,
 *          a misaligned direct write) is an ASSERT.
 */
#ifndef RINGPOST_TESTS_SIM_H
#define RINGPOST_TESTS_SIM_H

#include <setjmp.h>

#include "core/io.h"
#include "tests/sim/sim_random.h"

/* --- the world --- */

struct sim_faults { /* chances in 10000, of each operation of the kind */
    uint32_t open, write, write_short, sync, allocate, read, read_short, rename, unlink;
    uint32_t again;    /* of any: not done, to be tried again */
    uint32_t shortage; /* of an open: no descriptor left */
    uint32_t no_space; /* of write and allocate, besides a disk that is full */
    uint32_t directory_sync;
    uint32_t slow; /* takes up to two seconds */
};

struct sim_options {
    uint64_t seed;
    uint64_t disk_bytes;
    bool direct_refused;      /* by the open, which makes the file all the same */
    bool direct_refused_late; /* by the first write */
    bool allocate_refused;    /* no such operation: files grow as they are written */
    bool any_order; /* changes of the directory survive in any order; else as in a journal:
                     * each only with all before it */
    bool directory_forgets; /* a sync of it that fails may lose what others had changed */
    bool garbage;   /* a file may survive longer than its octets, with others' in them */
};

void sim_start(const struct sim_options *options);
void sim_end(void);
/* Choices from here on follow from this. */
void sim_reseed(uint64_t seed);
/* All chances 0 at the start. NULL: none from now on. */
void sim_faults_set(const struct sim_faults *faults);
/* Somebody else takes that much of the disk. */
void sim_disk_taken(uint64_t bytes);
/* A larger disk, or a smaller one. */
void sim_disk_bytes(uint64_t bytes);

/* --- time --- */

uint64_t sim_now_ns(void);
/* Somebody sets the time of day; what measures durations goes on as it did. */
void sim_clock_set(uint64_t realtime_ns);
/* When the next operation ends; UINT64_MAX: none is under way. */
uint64_t sim_next_ns(void);
/* Operations end as their time comes. */
void sim_advance(uint64_t until_ns);

/* --- power cuts --- */

enum sim_fate { SIM_LOST, SIM_KEPT, SIM_TORN };

/* After so many operations have ended, counted from now, the power fails in the next io_wait() or
 * sim_advance(): longjmp(where, 1). Everything that ran is to be left as it lies; then
 * sim_power_lost(). operations UINT64_MAX: never. */
void sim_power_fails_after(uint64_t operations, jmp_buf *where);
/* What had not become durable becomes a list of units (writes, changes of the directory, operations
 * under way, in the order of time). Descriptors, instances and io_memory() are gone. */
uint32_t sim_power_lost(void);
/* Chooses what becomes of each unit (choose NULL: by seed), and the machine is on again. */
void sim_power_on(enum sim_fate (*choose)(void *context, uint32_t unit), void *context);
/* True: unit can be torn, and not only be lost or kept. */
bool sim_unit_tears(uint32_t unit);
/* Between power_lost and power_on: the disk to come back to any number of times. */
struct sim_disk;
struct sim_disk *sim_disk_copy(void);
void sim_disk_restore(const struct sim_disk *copy);
void sim_disk_free(struct sim_disk *copy);
/* The end of a process: what it wrote stays, and becomes durable or not later. Nothing may be under
 * way. */
void sim_process_ends(void);

/* --- looking at the disk (of the machine that runs), and spoiling it --- */

uint32_t sim_file_count(void);
const char *sim_file_name(uint32_t index);
uint64_t sim_file_bytes(uint32_t index);
/* UINT32_MAX: none. */
uint32_t sim_file_find(const char *name);
/* Flips a bit, durably. */
void sim_file_flip(uint32_t index, uint64_t offset, unsigned bit);
/* Makes it longer or shorter, durably. */
void sim_file_resize(uint32_t index, uint64_t bytes);
/* Another name, durably. */
void sim_file_rename(uint32_t index, const char *to);
/* A new file, durably. */
void sim_file_add(const char *name, const void *octets, uint64_t bytes);
const char *sim_file_octets(uint32_t index);

/* io_memory() that was not given back. */
uint64_t sim_memory_bytes(void);

/* --- what happened --- */

enum sim_event {
    SIM_OPERATIONS,
    /* struct sim_faults */
    SIM_FAULT_OPEN,
    SIM_FAULT_SHORTAGE,
    SIM_FAULT_READ,
    SIM_FAULT_READ_SHORT,
    SIM_FAULT_WRITE,
    SIM_FAULT_WRITE_SHORT,
    SIM_FAULT_SYNC,
    SIM_FAULT_DIRECTORY_SYNC,
    SIM_FAULT_ALLOCATE,
    SIM_FAULT_RENAME,
    SIM_FAULT_UNLINK,
    SIM_FAULT_AGAIN,
    SIM_FAULT_NO_SPACE,
    SIM_FAULT_SLOW,
    SIM_DISK_FULL,
    /* struct sim_net_faults */
    SIM_FAULT_REFUSE,
    SIM_FAULT_UNANSWERED,
    SIM_FAULT_RESET,
    SIM_FAULT_STALL,
    SIM_FAULT_SPLIT,
    SIM_FAULT_MERGE,
    SIM_FAULT_MULTISHOT_ENDS,
    SIM_FAULT_NO_BUFFER,
    SIM_FAULT_END_MISSED,
    SIM_FAULT_ACCEPT,
    SIM_FAULT_SEND,
    SIM_FAULT_ORDER,
    /* struct sim_tls_faults */
    SIM_FAULT_HANDSHAKE,
    SIM_FAULT_RECORD,
    SIM_FAULT_UNVERIFIED,
    SIM_FAULT_TLS_MEMORY,
    SIM_POWER_CUTS,
    SIM_UNITS_KEPT,
    SIM_UNITS_LOST,
    SIM_UNITS_TORN,
    SIM_EVENTS
};
#define SIM_FAULTS_FIRST SIM_FAULT_OPEN
#define SIM_FAULTS_LAST SIM_FAULT_TLS_MEMORY
extern const char *const sim_event_names[SIM_EVENTS];
uint64_t sim_count(enum sim_event event);
/* A number that is the same if and only if all operations and results were. */
uint64_t sim_trace_hash(void);
/* One line per operation on stderr. */
void sim_verbose(bool on);

#endif
