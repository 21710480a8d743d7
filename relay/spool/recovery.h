/* recovery: what spool_recover.c (rounds over all segments, events, body files) and
 * recover_segment.c (one segment: window, header, marks, records) share. Does:    struct
 * spool_recovery, one per worker. Owns:    the window's memory until the recovery is over. Threads:
 * the worker's.
 */
#ifndef RINGPOST_RELAY_SPOOL_RECOVERY_H
#define RINGPOST_RELAY_SPOOL_RECOVERY_H

#include "core/clock.h"
#include "relay/spool/found.h"
#include "relay/spool/spool_private.h"
#include "relay/spool/walk.h"

#define RECOVERY_WINDOW_BYTES (WALK_WINDOW_BYTES_MIN + SPOOL_RECOVERY_BYTES)
/* What cannot be done now is tried again: without an end, it is mail. */
#define RECOVERY_AGAIN_NS (100 * NS_PER_MS)
#define RECOVERY_DIRECT_NS NS_PER_MS

enum phase {
    PHASE_NEXT,
    PHASE_OPEN,
    PHASE_FRONT,
    PHASE_MARKS,
    PHASE_WALK,
    PHASE_ASIDE,
    PHASE_WAIT,
    PHASE_AGAIN,
    PHASE_BODIES,
    PHASE_OVER,
};

struct recovery_again { /* a segment with copies to decide on */
    struct segment *segment;
    uint64_t end;
    bool sealed;
};

struct spool_recovery {
    enum phase phase;
    bool running; /* an operation is in flight */
    bool stopped;
    bool second_round; /* PHASE_WALK goes back to PHASE_AGAIN */
    int32_t result;    /* of the operation; valid with has_result */
    bool has_result;
    uint64_t again_ns; /* not before; 0: at once */
    bool told_again;   /* that something has to be tried again */
    uint32_t found_left, windows_left;
    /* segments */
    uint32_t next, done, count; /* next: in the list of what was found */
    struct found_segment *found;
    struct segment *segment;
    char name[SPOOL_NAME_BYTES], aside_name[SPOOL_NAME_BYTES];
    int file;    /* before the segment has it */
    bool direct; /* how it was opened */
    bool sealed;
    bool other_format;
    bool cut_short; /* the file is shorter than its header says */
    bool guessed;   /* the header cannot be read: it is made up from name and size */
    bool damaged;
    bool copies;  /* has records to decide on in the second round */
    uint64_t end; /* behind the last record */
    uint64_t records;
    uint32_t mark_block, mark_blocks; /* being read: the first, how many */
    unsigned mark_copy;
    struct recovery_again *again;
    uint32_t again_count, again_next;
    /* the window */
    char *memory;                     /* RECOVERY_WINDOW_BYTES */
    char *window;                     /* in it */
    uint64_t window_offset;           /* in the file */
    uint32_t window_len, window_done; /* wanted, and read */
    uint32_t unreadable;              /* blocks of this segment */
    uint32_t short_reads;             /* of one block, in a row */
    bool by_blocks;                   /* a read failed: this window block by block */
    struct segment_walk walk;
    /* events */
    bool found_ready, recovered_ready;
    struct spool_place place;
    uint64_t messages;
    uint64_t started_ns, progress_ns;
    uint64_t quarantined;
    uint32_t body_next, bodies_removed;
};

/* --- recover_segment.c: a step of each phase, none waits --- */

void recover_open(struct spool *spool, struct spool_recovery *recovery);
void recover_front(struct spool *spool, struct spool_recovery *recovery);
void recover_marks(struct spool *spool, struct spool_recovery *recovery);
void recover_records(struct spool *spool, struct spool_recovery *recovery);
void recover_aside(struct spool *spool, struct spool_recovery *recovery);

/* --- spool_recover.c --- */

/* The ticket of the one operation at a time. */
struct io_ticket recovery_start(struct spool *spool, struct spool_recovery *recovery);
/* The result of what was started, once. False: nothing was. */
MUST_USE bool recovery_result(struct spool_recovery *recovery, int32_t *result);
void recovery_pause(struct spool *spool, struct spool_recovery *recovery, uint64_t pause_ns);

#endif
