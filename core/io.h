/* io: the one door to the kernel for everything that moves bytes; one instance per thread.
 * Does:    queues operations and hands out their completions. Two implementations by linking:
 *          io_uring.c with io_file.c, and the simulator. Nothing here calls back: completions
 *          are pulled, and handlers only queue and change state.
 * Owns:    the ring, its receive buffers (struct buffers), memory for both.
 * Memory:  all at io_create(); queueing and completing allocate nothing.
 * Threads: all calls by the thread that created the instance, but for io_post()'s target.
 * Errors:  results are >= 0 or a negative errno (core/io.h needs no errno.h: see io_error_text()).
 */
#ifndef RINGPOST_CORE_IO_H
#define RINGPOST_CORE_IO_H

#include "core/buffers.h"

struct io;
struct config_address; /* core/config.h */

enum io_op {
    IO_NONE,
    IO_ACCEPT,  /* multishot: result is a descriptor */
    IO_RECEIVE, /* multishot: result is a length, 0 at the end of the stream */
    IO_SEND,    /* result is the length, all of it unless the connection broke */
    IO_CONNECT,
    IO_CANCEL,
    IO_MESSAGE, /* from io_post() of another instance: result and message are what it gave */
    IO_FILE,    /* any operation on a file: result as told there */
};

/* Says which object a completion is for. Comes back unchanged. */
struct io_ticket {
    uint32_t slot;       /* index of the object, below 2^24 */
    uint32_t generation; /* of its use, below 2^24 */
    uint8_t kind;        /* what table the slot is in; the caller's */
};

struct io_completion {
    struct io_ticket ticket;
    uint8_t op; /* enum io_op */
    bool more;  /* ACCEPT, RECEIVE: the operation is still armed; false: arm again or let go */
    int32_t result;
    uint32_t
        buffer; /* RECEIVE with result > 0: the buffer that now is the caller's; else BUFFER_NONE */
    uint64_t message;
};

/* One piece of a gathered send. */
struct io_piece {
    const void *data;
    size_t len;
};
#define IO_PIECES_MAX 64
struct io_gather {
    struct io_piece pieces[IO_PIECES_MAX];
    uint32_t count;
    bool more; /* of a send: another one follows at once, until then the kernel may keep this back;
                * where none does: io_push() */
    _Alignas(8) char private_header[64]; /* struct msghdr, for io_uring.c */
};

struct io_peer {
    uint8_t ip[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint16_t port;
    bool local; /* a Unix socket: no address */
};

struct io_options {
    uint32_t entries;      /* submissions between two waits without an extra system call */
    uint32_t completions;  /* completions that may wait: at least one per operation in flight */
    uint32_t buffer_count; /* receive buffers in all; 0: this instance receives nothing */
    uint32_t
        buffer_reserve; /* of these, never offered to the kernel: for what we must say and copy */
    uint32_t buffers_offered; /* most at a time, a power of two; 0: BUFFERS_OFFERED */
    uint32_t buffers_least;   /* of these, offered out of the upper half of the reserve too */
    uint32_t buffers_sure;    /* most for io_receive_sure(), a power of two; 0: BUFFERS_SURE. More
                               * than that only while all others have theirs */
};

#define IO_ERROR_BYTES 512
/* NULL: *error says what does not work, why, and what to do (kernel too old, sysctl, seccomp
 * profile, memory limit). Probes by doing: what is needed is tried, not looked up in a version
 * number. */
MUST_USE struct io *io_create(const struct io_options *options, char error[IO_ERROR_BYTES]);
void io_destroy(struct io *io);
/* Whether the kernel holds it to the operations of this interface, whoever submits. */
bool io_restricted(const struct io *io);
struct buffers *io_buffers(struct io *io);

/* --- operations: queued now, submitted by the next io_wait() --- */
void io_accept(struct io *io, struct io_ticket ticket, int listener);
void io_receive(struct io *io, struct io_ticket ticket, int socket);
/* The same, but it ends by itself after RECEIVE_BYTES_MOST octets and less than a buffer, where the
 * kernel can do that: what may come in one go from one that is not believed. */
void io_receive_some(struct io *io, struct io_ticket ticket, int socket);
/* The same, but it ends with the first octets: it takes one buffer. */
void io_receive_once(struct io *io, struct io_ticket ticket, int socket);
/* The same for sockets whose input sets buffers free (a next hop's replies): it has buffers even
 * when all others are held by messages. What it receives must be used at once. */
void io_receive_sure(struct io *io, struct io_ticket ticket, int socket);
/* Ends the receive with this ticket, and no other operation: it completes (-ECANCELED, or with what
 * came first). The call itself completes nothing. */
void io_receive_stop(struct io *io, struct io_ticket ticket, bool sure);
/* False: a receive that is armed now would find no buffer. */
bool io_buffers_left(const struct io *io, bool sure);
/* Buffers that io_receive() may still fill, those that the kernel has among them. From one
 * io_wait() to the next the kernel fills only what it was offered. */
uint32_t io_receive_left(const struct io *io);
/* data must stay until the completion. */
void io_send(struct io *io, struct io_ticket ticket, int socket, struct span data);
/* The gather and what it points to must stay until the completion. */
void io_send_gather(struct io *io, struct io_ticket ticket, int socket, struct io_gather *gather);
void io_connect(struct io *io, struct io_ticket ticket, int socket,
                const struct config_address *to);
/* What the kernel kept back for another send leaves. At once, nothing completes. */
void io_push(int socket);
/* Our side of the stream ends (FIN). At once, nothing completes. */
void io_shutdown(struct io *io, int socket);
/* Ends every operation on the socket: each completes (-ECANCELED or its result), and so does this
 * one, with their number; in no order that may be relied on. */
void io_cancel(struct io *io, struct io_ticket ticket, int socket);
/* Closes; nothing completes. Only when nothing is in flight on it: closing does not end operations.
 */
void io_close(struct io *io, int socket);
/* Sends and closes, whatever becomes of the send; nothing completes. data must stay for ever (a
 * literal). */
void io_send_last(struct io *io, int socket, struct span data);
/* Posts a MESSAGE completion with these values to another instance. Best effort order; never
 * blocks. */
void io_post(struct io *io, struct io *target, struct io_ticket ticket, int32_t result);

/* --- files: queued as the others are; each completes once (IO_FILE) with 0, what is told here, or
 * a negative errno. Memory that is given (names too) stays until then: have none in flight at
 * io_destroy(), which does not wait. Names are relative to the directory. In no order: what needs
 * another one done first is queued when that has completed.
 * A result that io_error_is_again() says: not done (or in part what the same would do again), and
 * nothing is wrong with the file: queue the same again, after a pause and not for ever. That is
 * left to the caller, which keeps what another attempt needs and has timers; nothing is repeated
 * here, and a short read or write is not gone on with. */
enum io_file_flag {
    IO_FILE_CREATE = 1, /* must not exist; mode 0600. Its name is durable by a sync of directory */
    IO_FILE_WRITE = 2,  /* and read; else only read */
    IO_FILE_DIRECT = 4, /* O_DIRECT: memory, length and offset are multiples of 4096 */
    IO_FILE_DSYNC = 8,  /* a write completes when it is durable (O_DSYNC) */
};
/* Result: a descriptor, for io_close(). A symbolic link is refused. IO_FILE_DIRECT where there is
 * no such thing: io_error_is_unsupported(), and what IO_FILE_CREATE made is there all the same. */
void io_file_open(struct io *io, struct io_ticket ticket, int directory, const char *name,
                  unsigned flags);
/* Result: octets, fewer than asked for at the end of the file (or of the space), 0 only there. */
void io_file_read(struct io *io, struct io_ticket ticket, int file, void *to, uint32_t len,
                  uint64_t offset);
void io_file_read_gather(struct io *io, struct io_ticket ticket, int file, struct io_gather *gather,
                         uint64_t offset);
void io_file_write(struct io *io, struct io_ticket ticket, int file, const void *from, uint32_t len,
                   uint64_t offset);
void io_file_write_gather(struct io *io, struct io_ticket ticket, int file,
                          struct io_gather *gather, uint64_t offset);
/* What was written is durable when it completes with 0 (fdatasync). On a directory: its entries
 * (fsync). After an error nothing is known of what was written before, and a later 0 says nothing
 * of it: the kernel tells of a failed write once. */
void io_file_sync(struct io *io, struct io_ticket ticket, int file, bool directory);
/* Room for so many octets from the start is taken, and the file is at least that long (fallocate);
 * what was never written reads as zeros. */
void io_file_allocate(struct io *io, struct io_ticket ticket, int file, uint64_t bytes);
/* A file that has the name `to` is replaced. Durable by a sync of the directory, as unlink is. */
void io_file_rename(struct io *io, struct io_ticket ticket, int directory, const char *from,
                    const char *to);
/* Close first: the space of an open file is freed by its close, and that would be in our turn. */
void io_file_unlink(struct io *io, struct io_ticket ticket, int directory, const char *name);

/* The same, at once: for the start and the end, never in a turn. Negative errno on failure. */
/* A descriptor. create: when it is missing, but not its parents; with mode 0700, and durable. */
int io_directory_open(const char *path, bool create);
/* A descriptor that holds the lock until it is closed or the process ends; the file stays.
 * io_error_is_locked(): another process has it, *holder is its pid (0: not known, as otherwise). */
int io_directory_lock(int directory, const char *name, uint32_t *holder);
struct io_directory_entry {
    const char *name; /* lives for the call only */
    uint64_t bytes;
};
/* The regular files in it, in no order; others are left out. */
int io_directory_list(int directory,
                      void (*each)(void *context, const struct io_directory_entry *entry),
                      void *context);
/* Of the file system that holds it: what we may still use, and all there is. Quick enough for a
 * turn. -ENOENT: the directory was removed under us. */
int io_directory_space(int directory, uint64_t *free_bytes, uint64_t *total_bytes);

/* --- the turn --- */
/* Submits what is queued and waits for at least one completion or the time (nanoseconds;
 * UINT64_MAX: for ever). One system call. Returns the number of completions at hand. Also gives
 * receive buffers that were released back to the kernel. */
unsigned io_wait(struct io *io, uint64_t timeout_ns);
/* The next completion of this turn; false: all were handed out. */
MUST_USE bool io_next(struct io *io, struct io_completion *completion);

struct io_counts {
    uint64_t enters, submissions, completions, overflows;
    uint32_t buffers_free, buffers_offered;
};
struct io_counts io_counts(const struct io *io);

/* --- sockets, set up synchronously; results are descriptors or negative errno --- */
int io_listen(const struct config_address *address, bool share_port);
int io_socket(const struct config_address *to);
/* The descriptor is closed at once (no instance needed, nothing in flight). */
void io_close_now(int descriptor);
bool io_peer(int socket, struct io_peer *peer);
/* Octets that have come and that no receive has taken yet. */
uint32_t io_receive_waits(int socket);
/* Octets of ours that the peer's kernel has said it has, also after the connection has ended; SYN
 * and FIN may count as one each. False: not known (no TCP). */
MUST_USE bool io_acknowledged(int socket, uint64_t *octets);
/* Port that a listener got (for port 0). */
uint16_t io_port(int socket);

/* --- odds and ends that need the kernel --- */
const char *io_error_text(int error); /* "connection refused"; thread-safe, for logs */
bool io_error_is_shortage(int error); /* EMFILE, ENFILE, ENOMEM, ENOBUFS: pause, do not give up */
bool io_error_is_no_buffer(int error);
bool io_error_is_refused(int error); /* nobody listens there */
bool io_error_is_canceled(int error);
bool io_error_is_no_space(int error);    /* ENOSPC, EDQUOT */
bool io_error_is_unsupported(int error); /* EINVAL, EOPNOTSUPP: O_DIRECT on some file systems */
bool io_error_is_locked(int error);      /* of io_directory_lock() */
/* Of an operation on a file. EINTR; EAGAIN: a device was busy; ECANCELED: the kernel could not
 * start a thread for it (RLIMIT_NPROC, pids limit). */
bool io_error_is_again(int error);
/* Zero pages, touched lazily. NULL: none. */
void *io_memory(size_t bytes);
void io_memory_free(void *memory, size_t bytes);

#endif
