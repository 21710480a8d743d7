/* spool: messages made durable, read back, marked and forgotten; one instance per worker.
 * Does:    append-only segments with group commit, marks in place, bodies too large for a record in
 *          files of their own, background recovery, reclaim. Invariants: head of spool.c.
 * Owns:    its segments and body files; staging memory. Tickets are borrowed until their event.
 * Memory:  staging at start, a table of marks per segment that is in use.
 * Threads: the worker's; struct spool_directory is shared, its fields say how.
 * Errors:  in tickets (negative errno), in events and in the log; a spool that cannot write says no
 *          (spool_reserve), and tries again by itself.
 * Order:   nothing calls back. spool_turn() once per turn of the worker; events are pulled.
 */
#ifndef RINGPOST_RELAY_SPOOL_SPOOL_H
#define RINGPOST_RELAY_SPOOL_SPOOL_H

#include "core/config.h"
#include "core/counters.h"
#include "core/io.h"
#include "relay/spool/record.h"

struct spool;

/* --- the process --- */

struct spool_directory {
    int directory;             /* descriptor */
    int lock;                  /* descriptor */
    struct io *io;             /* of the thread that opens and closes it */
    uint64_t segment_bytes;    /* of new segments: the configuration's, less on small disks */
    uint64_t floor_bytes;      /* free space below which nothing new is taken */
    uint64_t next_number;      /* atomic: of new segments */
    int64_t room_bytes;        /* atomic: free space above the floor, unused_bytes included */
    uint64_t reserved_bytes;   /* atomic: set aside for messages on their way */
    uint64_t unused_bytes;     /* atomic: of segments and spares: taken from the disk, unwritten */
    uint64_t look_ns;          /* atomic: when room_bytes is to be looked up again */
    uint64_t full_bytes;       /* atomic: what a refused message needed; 0: there is room */
    uint32_t recovering;       /* atomic: workers whose recovery is not over */
    uint32_t sync_failures;    /* atomic: syncs of the directory that failed: directory_synced() */
    struct spool_found *found; /* what was there at start; see spool_directory.c */
    bool unclean;              /* the process before us did not stop in order */
};

/* Before the workers start: makes the directory, takes the lock, lists what is there. Blocks.
 * False: error says what is wrong and what to do. */
#define SPOOL_ERROR_BYTES 512
MUST_USE bool spool_directory_open(struct spool_directory *directory, const struct config *config,
                                   uint32_t workers, char error[SPOOL_ERROR_BYTES]);
/* clean: all workers stopped in order and everything they marked is written. */
void spool_directory_close(struct spool_directory *directory, bool clean);

/* --- a worker's instance --- */

/* `kind` is that of its tickets at io. NULL: no memory. */
MUST_USE struct spool *spool_create(struct spool_directory *directory, const struct config *config,
                                    struct io *io, struct counters *counters, uint8_t kind,
                                    uint32_t worker, uint32_t workers);
/* Nothing may be in flight: spool_idle(). */
void spool_destroy(struct spool *spool);
/* A completion of its kind. */
void spool_complete(struct spool *spool, const struct io_completion *completion);
/* At the end of the worker's turn: starts what has gathered. */
void spool_turn(struct spool *spool, uint64_t now_ns, uint64_t realtime_ns);
/* When it wants the next turn at the latest (clock_now_ns() time), UINT64_MAX: no matter. */
uint64_t spool_wakes_ns(const struct spool *spool);
/* Stop in order: writes what is marked, seals, then is idle; stores are refused (-ECANCELED). */
void spool_stop(struct spool *spool);
bool spool_idle(const struct spool *spool);
/* Then: whether the disk has all that was marked. False: the next start may repeat deliveries. */
bool spool_marks_durable(const struct spool *spool);

/* Where a record is. */
struct spool_place {
    uint32_t segment; /* index in the worker's table, valid while a record in it is live */
    uint32_t slot;    /* of its first recipient */
    uint64_t offset;  /* in the file */
    uint64_t bytes;   /* record_bytes() */
};

/* Room for a message of so many octets (body and envelope) is set aside. False: below the floor, or
 * the spool cannot write now. Given back by spool_unreserve(), whatever became of the message. */
MUST_USE bool spool_reserve(struct spool *spool, uint64_t bytes);
void spool_unreserve(struct spool *spool, uint64_t bytes);

/* --- storing --- */

struct spool_store { /* one message on its way to the disk; inside its owner's object */
    /* set by the owner; all borrowed until SPOOL_STORED */
    const struct envelope *envelope;
    struct record_origin origin;
    const struct buffers *buffers;
    const struct chain *body; /* NULL: body_file */
    struct spool_body *body_file;
    struct record record; /* id, arrival_ns, size, flags, recipients, body_bytes */
    void *owner;
    /* set by SPOOL_STORED */
    struct spool_place place;
    int error;                      /* 0: durable; -ECANCELED, -ENOSPC, -EIO, ... */
    struct spool_store *next_store; /* internal */
    uint64_t progress;              /* internal */
    uint32_t crc;                   /* internal */
};
/* Always ends in one SPOOL_STORED, never within the call. A body_file must be complete; the store
 * makes it and its name durable first, and takes it over: it is closed. */
void spool_store(struct spool *spool, struct spool_store *store);

/* --- bodies in files, for messages larger than delivery.buffer --- */

struct spool_body;
/* A file ID.body to write to, or NULL: too many are open. Opening goes on by itself. */
MUST_USE struct spool_body *spool_body_create(struct spool *spool, const char id[16],
                                              struct buffers *buffers, void *owner);
/* To read from; begins at `from` octets. place: its record. */
MUST_USE struct spool_body *spool_body_open(struct spool *spool, const char id[16],
                                            struct buffers *buffers, uint64_t body_bytes,
                                            void *owner);
/* Moves buffers out of `body` into the file's queue; each write that ends is a SPOOL_BODY event. */
void spool_body_write(struct spool_body *file, struct chain *body);
/* Octets given to write and not written yet. */
uint64_t spool_body_pending(const struct spool_body *file);
/* Buffers that were written, in order, for the owner to send on or to release; with an error also
 * all that will not be written. */
struct chain *spool_body_written(struct spool_body *file);
/* Reads ahead up to bytes_max octets into `body`; SPOOL_BODY when something has come. Octets that
 * are in flight count. `body` stays borrowed until the file is closed. To be called again when
 * there is room for a buffer's worth; without free buffers it goes on by itself when there are. */
void spool_body_read(struct spool_body *file, struct chain *body, uint64_t bytes_max);
/* Read: octets that are not in `body` yet. */
uint64_t spool_body_left(const struct spool_body *file);
/* 0, or the negative errno that it broke with: nothing more is written or read. */
int spool_body_error(const struct spool_body *file);
/* Closes it, later if something is in flight (no event follows); remove: and unlinks it. */
void spool_body_close(struct spool_body *file, bool remove);

/* --- reading back --- */

struct spool_load { /* inside its owner's object */
    struct spool_place place;
    struct buffers *buffers;
    void *owner;
    /* set by SPOOL_LOADED */
    int error; /* -EBADMSG: damaged (quarantined, logged); -ENOBUFS */
    struct record record;
    struct record_envelope envelope; /* spans live until the next spool_event() */
    struct chain body;               /* the owner's then; empty for a body in a file */
    struct spool_load *next_load;    /* internal */
    uint64_t progress;               /* internal */
};
void spool_load(struct spool *spool, struct spool_load *load);

/* --- marks --- */

struct mark spool_mark(const struct spool *spool, const struct spool_place *place,
                       uint32_t recipient);
/* Written with the next batch of marks; may be lost in a crash until then. */
void spool_mark_set(struct spool *spool, const struct spool_place *place, uint32_t recipient,
                    struct mark mark);
/* All its recipients have a final mark and nobody reads it any more: its space, and its body file,
 * go when the marks are durable. id: of the record; body_file: RECORD_BODY_FILE. */
void spool_forget(struct spool *spool, const struct spool_place *place, const char id[16],
                  bool body_file);

/* --- reclaim: a segment with little left in it is emptied by copying --- */

/* Answer to SPOOL_CLEAN, when no message of that segment is being read: copies one record to the
 * present segment. SPOOL_MOVED says where it is now; the old place counts until
 * spool_clean_finish(). */
struct spool_move {
    struct spool_place from, to;
    void *owner;
    int error;
    struct spool_move *next_move; /* internal */
    uint64_t progress;            /* internal */
    char *memory;                 /* internal */
};
void spool_move(struct spool *spool, struct spool_move *move);
/* All that was live has been moved (marks too): the file goes when the new marks are durable.
 * given_up: a copy failed; the segment stays as it is, and the copies are forgotten. */
void spool_clean_finish(struct spool *spool, uint32_t segment, bool given_up);

/* --- events --- */

enum spool_event_kind {
    SPOOL_STORED,    /* store */
    SPOOL_LOADED,    /* load */
    SPOOL_BODY,      /* owner: its body file has moved on */
    SPOOL_FOUND,     /* recovery: a message that is not finished: place, record, envelope */
    SPOOL_RECOVERED, /* recovery is over for this worker */
    SPOOL_CLEAN,     /* segment: should be emptied */
    SPOOL_MOVED,     /* move */
};
struct spool_event {
    enum spool_event_kind kind;
    struct spool_store *store;
    struct spool_load *load;
    struct spool_move *move;
    void *owner;
    struct spool_place place;
    const struct record *record;            /* until the next call */
    const struct record_envelope *envelope; /* the same */
    uint32_t segment;
};
/* The next event; false: none now. Recovery gives a bounded number of FOUND in each turn. */
MUST_USE bool spool_event(struct spool *spool, struct spool_event *event);

/* --- for commands and statistics --- */
/* Of a record: more does not fit a segment (-EMSGSIZE), its body needs a file. */
uint64_t spool_record_bytes_max(const struct spool *spool);
uint64_t spool_segment_number(const struct spool *spool, uint32_t segment);
struct spool_progress { /* of the recovery */
    uint32_t segments, segments_done;
    uint64_t messages;
};
struct spool_progress spool_progress(const struct spool *spool);
/* "0123456789abcdef.seg" */
#define SPOOL_NAME_BYTES 32
void spool_segment_name(uint64_t number, char name[SPOOL_NAME_BYTES]);
void spool_body_name(const char id[16], char name[SPOOL_NAME_BYTES]);

#endif
