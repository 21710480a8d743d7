/* sim_private: what sim_io.c (instances, time, queued operations) and the disk (sim_disk.c,
 * sim_crash.c, sim_files.c) share.
 * Does:    the world's state, operations under way, files and names.
 * Owns:    see sim.h; `sim` is the one world.
 * Threads: one.
 */
#ifndef RINGPOST_TESTS_SIM_PRIVATE_H
#define RINGPOST_TESTS_SIM_PRIVATE_H

#include "tests/sim/sim.h"

#define SIM_SECTOR_BYTES 512u
#define SIM_NAME_BYTES 64
#define SIM_DESCRIPTOR_FIRST 1000
#define SIM_DESCRIPTORS_MAX 4096
#define SIM_NONE UINT32_MAX

struct net_socket; /* sim_net_private.h */

/* --- the disk --- */

struct sim_write { /* not durable yet */
    struct sim_write *next;
    uint64_t version; /* counts all changes of the disk */
    uint64_t offset, len;
    uint64_t size; /* != 0: the file is this long with it */
    char *data;    /* NULL: the length only */
};

struct sim_file {
    uint32_t open; /* descriptors */
    bool used;
    char *now;  /* as the process sees it */
    char *kept; /* as the disk has it */
    uint64_t size, kept_size, room;
    struct sim_write *writes, **writes_end;
};

struct sim_name {
    char name[SIM_NAME_BYTES];
    uint32_t file;
};
struct sim_names {
    struct sim_name *list;
    uint32_t count, max;
};

enum sim_change_kind { SIM_CREATE, SIM_RENAME, SIM_UNLINK };
struct sim_change { /* of the directory, not durable yet */
    struct sim_change *next;
    uint64_t version;
    enum sim_change_kind kind;
    char name[SIM_NAME_BYTES], to[SIM_NAME_BYTES];
    uint32_t file;
};

struct sim_unit { /* after a power cut: one write or change */
    uint64_t version;
    uint32_t file;
    struct sim_write *write;
    struct sim_change *change;
};

struct sim_disk {
    struct sim_file *files;
    uint32_t file_count;
    struct sim_names now, kept;
    struct sim_change *changes, **changes_end;
    uint64_t version;
    struct sim_unit *units;
    uint32_t unit_count;
};

/* --- descriptors --- */

struct sim_descriptor {
    bool used, directory, lock, direct, dsync, writable;
    bool direct_tried;
    uint32_t file;
    uint32_t flying;           /* operations under way */
    struct net_socket *socket; /* NULL: a file */
};

/* --- operations --- */

enum sim_kind {
    SIM_OPEN,
    SIM_READ,
    SIM_WRITE,
    SIM_SYNC,
    SIM_ALLOCATE,
    SIM_RENAME_FILE,
    SIM_UNLINK_FILE,
    SIM_CLOSE,  /* when it is submitted; completes nothing */
    SIM_ACCEPT, /* this and what follows: sim_sockets.c */
    SIM_RECEIVE,
    SIM_RECEIVE_ONCE,
    SIM_RECEIVE_SURE,
    SIM_RECEIVE_STOP,
    SIM_SEND,
    SIM_SEND_LAST,
    SIM_CONNECT,
    SIM_CANCEL,
    SIM_POST,
};

struct sim_operation {
    struct sim_operation *next;
    struct io *io;
    struct io_ticket ticket;
    enum sim_kind kind;
    uint64_t ready_ns, number;
    int descriptor;
    unsigned flags;
    uint64_t offset, len;
    struct io_piece pieces[IO_PIECES_MAX];
    uint32_t piece_count;
    char *copy;            /* WRITE: the octets when it was submitted */
    const char *name, *to; /* the caller's, which must stay */
    char name_copy[SIM_NAME_BYTES], to_copy[SIM_NAME_BYTES];
    bool directory;
    uint64_t barrier; /* SYNC: covers changes up to this */
    int32_t result;
    /* Of sockets. */
    struct io *target; /* POST */
    uint64_t sent;     /* SEND: octets that the kernel has taken */
    const struct io_gather *gather;
    uint16_t port;                   /* CONNECT */
    bool deaf;                       /* RECEIVE: the end of the stream does not wake it */
    struct io_completion completion; /* of one that is done */
    uint32_t buffer;                 /* done: what it has filled, or only taken */
    struct net_socket *socket;
    bool buffer_taken;
    bool last; /* done: nothing more comes of it */
};

/* What the kernel may receive into; as in core/io_uring.c. */
struct sim_group {
    uint32_t most, reserve, least, offered;
    uint32_t *ring; /* `most` of them; those that the kernel has not filled */
    uint32_t first, count;
};

struct io {
    struct io *next;
    struct buffers buffers;
    struct buffer_meta *meta;
    struct sim_operation *queued, **queued_end;
    struct sim_operation *done, **done_end;
    unsigned done_count;
    uint64_t flying;
    struct sim_group groups[2]; /* for clients, and for what sets buffers free */
    bool stepped;               /* io_wait() does not wait: sim_net.h */
    bool restless;              /* the turn before this one had something to do */
    uint64_t wakes_ns;
    struct io_counts counts;
};

struct sim_memory {
    struct sim_memory *next, *previous;
    void *memory;
    size_t bytes;
};

struct sim {
    struct sim_options options;
    struct sim_faults faults;
    struct sim_random random, crash;
    struct sim_disk disk;
    struct sim_descriptor descriptors[SIM_DESCRIPTORS_MAX];
    int descriptor_from;
    struct io *instances;
    struct sim_operation *flying; /* by ready_ns, then number */
    uint64_t operation_number;
    uint64_t now_ns;
    uint64_t clock_set_ns; /* by so much the time of day is off; modulo 2^64 */
    uint64_t taken_bytes;
    uint64_t power_left;
    jmp_buf *power_where;
    struct sim_memory memory; /* ring */
    uint64_t counts[SIM_EVENTS];
    uint64_t hash;
    bool verbose;
};
extern struct sim sim;

/* --- sim_disk.c: files, names, what is durable --- */

struct sim_file *sim_file_at(uint32_t file);
uint32_t sim_file_new(void);
/* Files that no name, descriptor or change needs any more. */
void sim_files_collect(void);
uint64_t sim_disk_used(void);
uint32_t sim_names_find(const struct sim_names *names, const char *name);
void sim_names_set(struct sim_names *names, const char *name, uint32_t file);
void sim_names_remove(struct sim_names *names, const char *name);
/* As the process sees it at once; durable: and so does the disk. */
void sim_file_put(uint32_t file, const char *data, uint64_t len, uint64_t offset, bool durable);
void sim_file_grow(uint32_t file, uint64_t size, bool durable);
void sim_write_apply(struct sim_file *file, const struct sim_write *write, uint64_t from,
                     uint64_t len);
void sim_write_free(struct sim_write *write);
void sim_change_add(enum sim_change_kind kind, const char *name, const char *to, uint32_t file);
void sim_change_keep(struct sim_disk *disk, const struct sim_change *change);
/* What a sync makes durable; failed: some of it, and the rest never. */
void sim_file_sync(uint32_t file, uint64_t barrier, bool failed);
void sim_directory_sync(uint64_t barrier, bool failed);
void sim_disk_clear(struct sim_disk *disk);

/* --- sim_files.c: operations on files --- */

void sim_operation_submit(struct sim_operation *operation);
int32_t sim_operation_end(struct sim_operation *operation);
struct sim_descriptor *sim_descriptor_at(int descriptor);
/* Negative: -EMFILE. */
int sim_descriptor_new(struct sim_descriptor fields);
void sim_descriptor_close(int descriptor);

/* --- sim_io.c --- */

void sim_event_count(enum sim_event event);
/* Drawn, and counted when it happens. */
bool sim_fault(struct sim_random *random, enum sim_event event, uint32_t chance);
void sim_world_forget(void); /* instances, operations, memory */
struct sim_operation *sim_operation_queue(struct io *io, struct io_ticket ticket,
                                          enum sim_kind kind, int descriptor);
void sim_operation_free(struct sim_operation *operation);
/* It is handed out by io_next(); counts for the power. */
void sim_operation_done(struct sim_operation *operation);

/* --- sim_net.c, sim_sockets.c: nothing happens where there is no network --- */

bool sim_net_there(void);
uint64_t sim_net_next_ns(void);                       /* UINT64_MAX: nothing is under way */
void sim_net_step(void);                              /* what comes next happens */
void sim_net_submit(struct sim_operation *operation); /* takes it */
void sim_net_handed_out(struct io *io, const struct sim_operation *operation);
void sim_net_offer(struct io *io);
void sim_net_instance_forget(struct io *io);
/* All sockets of the relay end: by the kernel, or with the power. */
void sim_net_machine_gone(bool power);
void sim_socket_close(struct net_socket *socket);

#endif
