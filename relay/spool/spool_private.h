/* spool_private: what the files of relay/spool share: segments, operations, who calls whom.
 * Does:    struct spool and struct segment, the table of operations in flight, and the functions
 *          that spool.c (dispatch, events, turn), spool_segment.c (making, sealing, removing),
 *          spool_store.c (group commit), spool_move.c (reclaim), spool_mark.c, spool_load.c,
 *          spool_body.c, spool_recover.c and spool_directory.c give each other.
 * Owns:    see spool.h. Every segment keeps its file open while it is in the table.
 * Memory:  io_memory() only: staging, areas and tables at start, touched as they are used; marks
 *          per segment.
 * Threads: the worker's; fields of struct spool_directory that say so are atomic.
 */
#ifndef RINGPOST_RELAY_SPOOL_SPOOL_PRIVATE_H
#define RINGPOST_RELAY_SPOOL_SPOOL_PRIVATE_H

#include "core/clock.h"
#include "core/pool.h"
#include "relay/spool/spool.h"

#define NONE UINT64_MAX
/* What failed is tried again after this. */
#define SPOOL_RETRY_NS NS_PER_S

/* --- segments --- */

enum segment_state {
    SEGMENT_MAKING,     /* its file is being prepared: not in the spool yet (invariant 5) */
    SEGMENT_READY,      /* exists, durable, empty: the next one to be written */
    SEGMENT_ACTIVE,     /* new records go here */
    SEGMENT_RECOVERING, /* found at start, being read; marks may be set, records loaded */
    SEGMENT_SEALED,     /* never appended to again; the seal block may be on its way */
    SEGMENT_REMOVING,   /* nothing in it counts: its file is on its way out */
    SEGMENT_STATES
};

enum segment_job { /* one at a time per segment, SPOOL_JOBS_MAX at a time per spool */
                   JOB_NONE,
                   JOB_MAKE,
                   JOB_SEAL,
                   JOB_REMOVE,
};

/* Marks of MARKS_PER_BLOCK slots; written to its two copies in turn. */
struct mark_block {
    uint64_t sequence; /* of the last that is durable */
    uint64_t version;  /* segment->version when it was last set */
    uint64_t written;  /* version that is durable; != version: dirty */
    uint64_t writing;  /* version in flight */
    uint8_t copy;      /* where it goes next: never over the newest that is valid */
};

struct spool_removal; /* a body file to unlink (spool_mark.c) */

struct segment {
    uint64_t number;
    uint64_t bytes;          /* of the file */
    uint64_t records_offset; /* segment_records_offset(slots) */
    uint64_t end;            /* ACTIVE: of what was given to write; later: of what counts */
    uint64_t promised;       /* behind the last record that was promised */
    uint64_t live_bytes;     /* of records that are not forgotten */
    uint64_t unused_bytes;   /* its part of directory->unused_bytes */
    uint64_t version;        /* counts marks set */
    uint64_t marks_began_ns; /* the write of marks whose end mark_turn() has not seen; 0: none */
    uint64_t marks_next_ns;  /* the next one, no sooner */
    struct mark *marks;      /* [slots], and blocks behind them in one piece of memory */
    struct mark_block *blocks;
    struct spool_removal *removals; /* wait for marks of this segment, or for its end */
    struct segment *next_job, *next_dirty;
    uint32_t slots, slots_used;
    uint32_t live_records;
    uint32_t holds;        /* loads, moves, a reclaim: its file must stay */
    uint32_t dirty_blocks; /* version != written */
    uint32_t dirty_next;   /* where the next mark write begins to look */
    int file;              /* -1: none */
    uint8_t state;         /* enum segment_state */
    uint8_t job;           /* enum segment_job */
    uint8_t step;          /* of the job, in spool_segment.c */
    uint8_t job_block;     /* of spool->job_memory, while the job runs */
    bool direct;           /* opened O_DIRECT|O_DSYNC; else a write needs a sync behind it */
    bool failed;           /* a write or sync failed: nothing in it is promised again */
    bool damaged;          /* recovery could not read all of it: JOB_REMOVE keeps the file for
                            * people, as found_damaged_name() */
    bool mark_writing;     /* one mark write at a time */
    bool in_dirty;         /* on spool->dirty */
    bool closing;          /* ACTIVE, but the next records go elsewhere */
    bool recycled;         /* JOB_MAKE: from a spare, whose octets were written once */
    bool spare;            /* its file has the name of a spare, spare_number */
    bool keep;             /* JOB_REMOVE: as a spare */
    bool remove_again;     /* JOB_REMOVE failed: later */
    bool moved_away;       /* what lived in it counts elsewhere, as soon as its file is gone */
    int job_error;         /* JOB_MAKE: it goes away again with this */
    uint32_t sync_failures; /* JOB_MAKE, JOB_REMOVE: directory->sync_failures at the start */
    uint64_t spare_number;
};

/* --- operations in flight --- */

enum operation_kind {                   /* whose: what `object` is */
                      OPERATION_COMMIT, /* the group: NULL */
                      OPERATION_JOB,    /* struct segment */
                      OPERATION_MARKS,  /* struct mark_write */
                      OPERATION_REMOVAL,
                      OPERATION_LOAD,    /* struct load_area */
                      OPERATION_MOVE,    /* struct spool_move */
                      OPERATION_BODY,    /* struct spool_body */
                      OPERATION_RECOVER, /* spool_recover.c's choice */
};
enum file_op {
    FILE_OTHER, /* operation_start(): its owner tries again by itself */
    FILE_OPEN,  /* name, flags */
    FILE_READ,  /* file, memory, bytes, offset */
    FILE_WRITE, /* the same */
    FILE_SYNC,  /* file */
    FILE_SYNC_DIRECTORY,
    FILE_ALLOCATE, /* file, bytes */
    FILE_RENAME,   /* name, to_name */
    FILE_UNLINK,   /* name */
};
/* What is asked of core/io.h, kept for another attempt; names are in the spool's directory. */
struct file_request {
    void *memory;
    const char *name, *to_name;
    uint64_t bytes, offset;
    int file;
    unsigned flags;
    uint8_t op; /* enum file_op */
};
struct operation {
    void *object;
    uint32_t step; /* its owner's */
    uint8_t kind;  /* enum operation_kind */
    uint8_t tries;
    struct file_request request;
    struct operation *next_again;
};
/* What failed for want of something that passes (io_error_is_again()) is asked again after a pause,
 * for a second in all; then it is an error like others. */
#define OPERATION_TRIES_MAX 100

/* --- group commit (spool_store.c) --- */

struct spool_group { /* a staging area and what is promised when it is durable */
    char *memory;    /* SPOOL_STAGING_BYTES, page aligned */
    uint32_t len;    /* octets gathered */
    bool closed;     /* nothing more fits, or its segment is full */
    struct segment *segment;
    uint64_t offset;            /* in the segment */
    uint64_t promises;          /* end of its last whole record, 0: none */
    struct spool_store *stores; /* whole with this group */
    struct spool_store **stores_end;
    struct spool_move *moves;
    struct spool_move **moves_end;
};

/* --- loading (spool_load.c) --- */

/* Room for what comes before a body, whole, and then chunks of the body. */
#define LOAD_FRONT_BYTES                                                             \
    ((RECORD_HEADER_BYTES + RECORD_ENVELOPE_BYTES_MAX + 2 * SPOOL_BLOCK_BYTES - 1) / \
     SPOOL_BLOCK_BYTES * SPOOL_BLOCK_BYTES)
struct load_area {
    char *memory; /* LOAD_FRONT_BYTES + SPOOL_LOAD_BYTES */
    struct spool_load *load;
    uint64_t front_offset; /* where the first octet of memory is in the file */
    uint32_t front_bytes;  /* read so far, from front_offset on */
    uint32_t asked_bytes;  /* in flight */
    uint32_t came_bytes;   /* of these: a read may end early, and goes on */
    uint32_t tries;        /* of this read */
    char *to;              /* where they go */
    uint64_t from_offset;  /* in the file */
    bool in_body;          /* the chunk behind the front is in flight, else the front */
    bool whole;            /* all of it came, and is right */
    uint64_t chunk_offset; /* in the file */
    uint32_t crc;          /* over envelope and body so far */
    char trailer[RECORD_TRAILER_BYTES];
    struct load_area *next_area;
};

/* --- reclaim (spool_move.c) --- */

struct move_entry { /* a record that has a copy; until spool_clean_finish() the old one counts */
    struct spool_place from, to;
    struct segment *segment; /* of `to`, held */
    uint64_t point;          /* version of `to`'s segment that must be durable */
    uint32_t recipients;
    bool forgotten; /* the old place was, since */
};
struct spool_clean {
    struct segment *segment; /* NULL: none is being emptied */
    bool told;               /* SPOOL_CLEAN was given */
    bool finishing;          /* waits for the new marks */
    char *memory;            /* for all that lives in it, each record in blocks of its own */
    uint64_t memory_bytes, memory_used;
    struct move_entry *entries;
    uint32_t entry_count, entries_max;
    uint32_t moves;           /* that were asked for */
    uint32_t reading;         /* in flight, SPOOL_MOVES_MAX */
    struct spool_move *asked; /* not read yet */
    struct spool_move **asked_end;
    struct spool_move *read; /* read and checked: to be gathered */
    struct spool_move **read_end;
    uint64_t next_ns; /* when to look for a segment again */
};

/* --- the instance --- */

struct mark_write { /* a batch of mark blocks of one segment, one copy */
    char *memory;   /* SPOOL_MARK_BLOCKS blocks */
    struct segment *segment;
    uint32_t first, count;
    bool stopping; /* it began after spool_stop() */
    struct mark_write *next_free;
};

struct spool_bodies;   /* spool_body.c */
struct spool_recovery; /* spool_recover.c */

struct spool {
    struct spool_directory *directory;
    struct io *io;
    struct counters *counters;
    uint64_t now_ns, realtime_ns; /* of the last turn */
    uint32_t worker, workers;
    uint8_t kind;      /* of its tickets */
    bool direct;       /* how files of segments are opened; false once the file system refused */
    bool direct_known; /* one was written so, or it has refused: at the open, or at the first write
                        */
    bool stopping;
    bool sick;               /* no segment can be written now */
    int sick_error;          /* the last that a segment could not be made or written for */
    struct pool operations;  /* struct operation, SPOOL_OPERATIONS_MAX */
    struct operation *again; /* to be asked again, all at again_ns */
    uint64_t again_ns;

    /* segments */
    struct pool segments; /* struct segment, SPOOL_SEGMENTS_MAX */
    struct segment *active, *ready, *making;
    struct segment *jobs, **jobs_end; /* waiting for their turn */
    uint32_t jobs_running;
    char *job_memory;                  /* SPOOL_JOBS_MAX blocks */
    uint8_t job_blocks_used;           /* bits */
    uint64_t spares[SPOOL_SPARES_MAX]; /* numbers of their files */
    uint32_t spare_count;              /* each of directory->segment_bytes */
    uint32_t spares_coming;            /* being renamed */
    uint64_t make_again_ns;            /* not before: after a failure */
    bool failed_twice;                 /* make_again_ns is because of that */
    uint64_t failed_ns;                /* of the last segment that failed */
    uint64_t remove_again_ns;          /* NONE: nothing to do again */
    uint32_t record_segments;          /* in the table, not MAKING, READY, REMOVING */
    uint64_t total_bytes, live_bytes;  /* of segments in the table that hold records */

    /* stores */
    struct spool_group groups[2];
    unsigned filling; /* groups[filling] gathers, the other may be in flight */
    bool committing;
    uint64_t commit_started_ns;
    uint64_t commit_observed_ns; /* != 0: started then, ended since the last turn */
    struct spool_store *waiting, **waiting_end;
    /* A record that has begun and goes on, in the next group if need be: */
    struct segment *partial_segment; /* NULL: none */
    struct spool_store *partial_store;
    struct spool_move *partial_move;
    uint32_t stores_open; /* given, and their event not pulled yet */
    struct spool_store *stored, **stored_end;
    struct spool_clean clean;
    struct spool_move *moved, **moved_end;
    uint32_t moves_open;
    bool move_next; /* a move goes before the next store */

    /* marks */
    struct segment *dirty; /* segments with dirty blocks, or removals that may be due */
    struct mark_write mark_writes[SPOOL_MARK_WRITES_MAX];
    struct mark_write *mark_writes_free;
    char *mark_memory;
    uint64_t marks_again_ns; /* a mark write failed: not before */
    uint64_t marks_wake_ns;  /* when a segment's marks may be written; UINT64_MAX: none waits */
    uint32_t marks_failing;  /* failures in a row */
    bool marks_lost;         /* of a file that was kept, some could not be written */
    bool marks_first;        /* a segment without O_DSYNC: marks go before the next commit */
    struct pool removals;
    struct spool_removal *removals_due, **removals_due_end;
    uint32_t removals_running;

    /* loads */
    struct load_area load_areas[SPOOL_LOADS_MAX];
    struct load_area *load_areas_free;
    struct load_area *load_told; /* its envelope is shown until the next spool_event() */
    char *load_memory;
    struct spool_load *loads, **loads_end; /* waiting for an area */
    struct load_area *loaded, **loaded_end;
    uint32_t loads_open;

    struct spool_bodies *bodies;     /* spool_body.c's */
    struct spool_recovery *recovery; /* spool_recover.c's */
};

/* --- spool.c --- */

/* Syncs of the directory that have failed, for all workers. */
uint32_t directory_failures(const struct spool *spool);
/* What a sync of the directory says to who has changed a name since so many had failed. The kernel
 * tells of an error once for a descriptor, and that one is all workers': another one may have heard
 * of what was meant for this name. (One that ends before this one and is heard of only after it is
 * missed: two workers within a turn, on a file system without a journal.) */
MUST_USE int32_t directory_synced(struct spool *spool, uint32_t failures, int32_t result);

/* One more operation at io; completes through spool_complete(). There are always enough: each kind
 * has its own bound, SPOOL_OPERATIONS_MAX is their sum (limits.h). */
void operation_queue(struct spool *spool, enum operation_kind kind, void *object, uint32_t step,
                     struct file_request request);
/* Without another attempt. */
struct io_ticket operation_start(struct spool *spool, enum operation_kind kind, void *object,
                                 uint32_t step);
/* Free space is used, or comes back: a guess until the next look at the file system. */
void room_take(struct spool *spool, uint64_t bytes);
void room_give(struct spool *spool, uint64_t bytes);
/* One log line: event spool_error, what failed, the file, the error. And counts it. */
void spool_log_error(struct spool *spool, const char *what, const char *file, int error);
/* One log line: event spool_quarantined. And counts it. */
void spool_log_quarantined(struct spool *spool, uint64_t number, uint64_t offset, struct span id,
                           const char *why);

/* --- spool_segment.c --- */

/* How files of segments are opened now: IO_FILE_WRITE and, until the file system refused it,
 * IO_FILE_DIRECT | IO_FILE_DSYNC. Who gets -EINVAL with them sets spool->direct = false and tries
 * again. segment->direct says how its own file was opened. */
unsigned segment_open_flags(const struct spool *spool);
/* Marks that a segment of so many octets has. */
uint32_t segment_slots(uint64_t bytes);
/* A segment in the table, RECOVERING, no file, nothing live. NULL: no memory or a full table. For
 * recovery; the header is what its file says. */
struct segment *segment_take(struct spool *spool, const struct segment_header *header);
/* Recovery read it: end of what counts, file and direct are set, live records were added. sealed:
 * the file says so already; else it gets its seal. It goes at once if nothing in it lives. */
void segment_adopt(struct spool *spool, struct segment *segment, uint64_t end, bool sealed);
/* Recovery cannot use it: out of the table; closes its file. */
void segment_give_up(struct spool *spool, struct segment *segment);
/* A record that counts (bytes: record_bytes()), or one less. */
void segment_live_add(struct spool *spool, struct segment *segment, uint64_t bytes);
void segment_live_remove(struct spool *spool, struct segment *segment, uint64_t bytes);
uint32_t segment_index(const struct spool *spool, const struct segment *segment);
struct segment *segment_at(const struct spool *spool, uint32_t index);
void segment_hold(struct segment *segment);
void segment_release(struct spool *spool, struct segment *segment);
/* If nothing in it counts and nobody needs it: its file goes. Call when that may have changed. */
void segment_check(struct spool *spool, struct segment *segment);
/* A segment that can be written becomes the active one, or is prepared. */
void segment_turn(struct spool *spool);
/* The next record goes to another segment; this one is finished when its last group is written. */
void segment_close(struct spool *spool);
/* Nothing of it is gathered or in flight any more, or has just failed: sealed behind what was
 * promised. */
void segment_finish(struct spool *spool, struct segment *segment, bool failed);
/* So many octets of its room were used. */
void segment_use(struct spool *spool, struct segment *segment, uint64_t bytes);
bool segment_idle(const struct spool *spool);
uint64_t segment_wakes_ns(const struct spool *spool);
/* Files that could not be removed are tried again: their last marks are written nowhere else. */
void segments_remove_again(struct spool *spool);
/* Of a record that any segment can take. */
uint64_t segment_record_bytes_max(const struct spool *spool);
void segment_file_name(const struct segment *segment, char name[SPOOL_NAME_BYTES]);
bool segments_create(struct spool *spool);
void segments_destroy(struct spool *spool);

/* A place in the table; slots 0: without marks. NULL: none, or no memory. */
struct segment *segment_table_take(struct spool *spool, uint64_t number, uint64_t bytes,
                                   uint32_t slots);
void segment_table_release(struct spool *spool, struct segment *segment);
void segment_unused_set(struct spool *spool, struct segment *segment, uint64_t bytes);

/* --- spool_job.c --- */

/* A new segment: spool->making until it is spool->ready, or could not be made. */
void segment_make(struct spool *spool);
/* Waits for its turn. */
void segment_job(struct spool *spool, struct segment *segment, enum segment_job job);
/* Starts jobs that wait. */
void segment_jobs_turn(struct spool *spool);
void segment_complete(struct spool *spool, struct segment *segment, int32_t result);

/* --- spool_store.c --- */

bool stores_create(struct spool *spool);
void stores_destroy(struct spool *spool);
void store_turn(struct spool *spool);
void commit_complete(struct spool *spool, int32_t result, uint32_t step);
/* Everything that waits for a segment gets this error: there is none. */
void stores_fail(struct spool *spool, int error);
/* spool_body.c: body_sync() of this store is over. */
void store_body_synced(struct spool *spool, struct spool_store *store, int error);
bool store_event(struct spool *spool, struct spool_event *event);
bool store_idle(const struct spool *spool);

/* --- spool_move.c --- */

void clean_turn(struct spool *spool);
/* The next move whose record is read and can be gathered; NULL: none. */
struct spool_move *move_next(struct spool *spool);
/* It is being gathered. */
void move_take(struct spool *spool);
/* The record of a move: its header as it was, the check of its trailer, envelope and body. */
struct span move_record(const struct spool *spool, const struct spool_move *move,
                        struct record *record, uint32_t *crc);
void move_done(struct spool *spool, struct spool_move *move, int error);
void move_complete(struct spool *spool, struct spool_move *move, int32_t result);
/* The old place of a move was forgotten. */
void clean_forgotten(struct spool *spool, const struct spool_place *place);
bool clean_event(struct spool *spool, struct spool_event *event);
bool clean_idle(const struct spool *spool);
uint64_t clean_wakes_ns(const struct spool *spool);
void clean_destroy(struct spool *spool);

/* --- spool_mark.c --- */

bool marks_create(struct spool *spool);
void marks_destroy(struct spool *spool);
/* Recovery: this copy of a block is the newest that is valid. Before any mark is set in it. */
void mark_block_adopt(struct segment *segment, uint32_t index, unsigned copy, uint64_t sequence,
                      const struct mark marks[MARKS_PER_BLOCK]);
/* Slot of the segment, for recovery and reclaim. Written with the next batch. */
void mark_set(struct spool *spool, struct segment *segment, uint32_t slot, struct mark mark);
struct mark mark_get(const struct segment *segment, uint32_t slot);
/* All marks of these slots that were set up to `point` (segment->version) are durable. */
bool marks_durable(const struct segment *segment, uint32_t slot, uint32_t count, uint64_t point);
/* Something is dirty, and it is time to write it. */
bool marks_due(const struct spool *spool, const struct segment *segment);
void mark_turn(struct spool *spool);
/* Its segment leaves the table. */
void marks_forget(struct spool *spool, struct segment *segment);
void mark_complete(struct spool *spool, struct mark_write *write, int32_t result, uint32_t step);
/* The body file goes when all marks of the segment that are set now are durable, or its file is
 * gone. never_before_end: only the latter. */
void removal_add(struct spool *spool, struct segment *segment, const char id[16],
                 bool never_before_end);
void removals_release(struct spool *spool, struct segment *segment); /* its file is gone */
void removal_complete(struct spool *spool, struct spool_removal *removal, int32_t result);
bool mark_idle(const struct spool *spool);
uint64_t mark_wakes_ns(const struct spool *spool);

/* --- spool_load.c --- */

bool loads_create(struct spool *spool);
void loads_destroy(struct spool *spool);
void load_turn(struct spool *spool);
void load_complete(struct spool *spool, struct load_area *area, int32_t result);
bool load_event(struct spool *spool, struct spool_event *event);
/* The event that was given last is over: its area is free. */
void load_told(struct spool *spool);
bool load_idle(const struct spool *spool);

/* --- spool_body.c; at most SPOOL_BODIES_MAX, SPOOL_BODY_OPERATIONS in flight each --- */

bool bodies_create(struct spool *spool);
void bodies_destroy(struct spool *spool);
void body_turn(struct spool *spool);
void body_complete(struct spool *spool, struct spool_body *body, int32_t result, uint32_t step);
/* Makes the file and its name durable, then calls store_body_synced(), never within this call. The
 * store closes it afterwards (spool_body_close()). */
void body_sync(struct spool *spool, struct spool_body *body, struct spool_store *store);
bool body_event(struct spool *spool, struct spool_event *event);
bool body_idle(const struct spool *spool);
uint64_t body_wakes_ns(const struct spool *spool);

/* --- spool_recover.c; at most SPOOL_RECOVERY_OPERATIONS in flight --- */

bool recovery_create(struct spool *spool);
void recovery_destroy(struct spool *spool);
void recovery_turn(struct spool *spool);
void recovery_complete(struct spool *spool, void *object, int32_t result, uint32_t step);
bool recovery_event(struct spool *spool, struct spool_event *event);
/* Spool stops: ends at the next step, what was not read stays as it is. */
void recovery_stop(struct spool *spool);
bool recovery_idle(const struct spool *spool);
/* Over (SPOOL_RECOVERED given, or stopped): reclaim may begin. */
bool recovery_over(const struct spool *spool);
uint64_t recovery_wakes_ns(const struct spool *spool);

/* --- spool_directory.c --- */

/* "0123456789abcdef.spare": a file that is no segment, whatever it holds; removed at start. */
void spool_spare_name(uint64_t number, char name[SPOOL_NAME_BYTES]);

#endif
