/* queue: what waits to be delivered: states, schedule, expiry, order; one instance per worker.
 * Does:    one entry per stored message and next hop; who is due when, who goes first, how many at
 *          a time; counts by state. Time is passed in (Unix seconds). No I/O.
 * Owns:    its entries; bodies and addresses stay in the spool.
 * Memory:  sizeof(struct queue_entry) per message from a pool that is touched as it grows; nothing
 *          else grows with the queue.
 * Threads: the worker's.
 * Errors:  a full pool is a result.
 */
#ifndef RINGPOST_RELAY_QUEUE_QUEUE_H
#define RINGPOST_RELAY_QUEUE_QUEUE_H

#include "core/pool.h"
#include "relay/spool/spool.h"

enum queue_state {
    QUEUE_READY,   /* due: in its next hop's line, oldest due first */
    QUEUE_WAITING, /* for its next attempt's time */
    QUEUE_PARKED, /* its next hop could not be reached: waits for that, not for a time of its own */
    QUEUE_ACTIVE, /* being read or delivered */
    QUEUE_HELD,   /* by an operator: not tried; it expires as the others do */
    QUEUE_STATES
};

#define QUEUE_NONE UINT32_MAX

struct queue_entry {
    struct spool_place place;
    char id[16];
    uint64_t size;              /* octets of the message */
    uint32_t arrival_s;         /* Unix time */
    uint32_t due_s;             /* WAITING: when */
    uint32_t recipients;        /* of this entry, not finished yet */
    uint32_t record_recipients; /* of the record: marks [place.slot, + that) */
    uint32_t next, previous;    /* internal: line, wheel slot or list it stands in */
    uint32_t next_in_segment, previous_in_segment;
    uint16_t hop;
    uint8_t state;        /* enum queue_state */
    uint8_t attempts;     /* stops counting at 255 */
    uint8_t flags;        /* enum queue_flag bits */
    uint8_t reason_class; /* of the last deferral: 0 none, 4 told by the next hop, 1 not reached */
    uint16_t reason;      /* index in the worker's table of texts (relay/courier); 0: none */
};
enum queue_flag {
    QUEUE_BODY_FILE = 1, /* RECORD_BODY_FILE */
    QUEUE_NOTICE = 2,    /* RECORD_NOTICE */
    QUEUE_PAUSED = 4,    /* its segment is being emptied: not handed out */
    QUEUE_DELAY_TOLD = 8,
    QUEUE_URGENT = 16,    /* retried by an operator: at once, whatever is parked */
    QUEUE_RECOVERED = 32, /* was there at start */
};

struct queue_schedule {
    const uint32_t *retry_s; /* borrowed; the last repeats */
    uint32_t retry_count;
    uint32_t expire_s;
    uint32_t delay_s; /* age for a delay notice; 0: none */
};

struct queue_counts {
    uint64_t messages[QUEUE_STATES], bytes[QUEUE_STATES];
};

#define QUEUE_WHEEL_SLOTS 4096 /* seconds; entries due later come round again */
struct queue_line {            /* one per next hop */
    uint32_t first, last;      /* READY */
    uint32_t parked_first, parked_last;
    uint32_t ready, parked, active;
};
struct queue {
    struct pool entries;
    struct queue_line *lines; /* by next hop */
    uint32_t hop_count;
    uint32_t wheel[QUEUE_WHEEL_SLOTS];
    uint32_t now_s;      /* the wheel stands here */
    uint32_t held_first; /* list */
    uint32_t *segments;  /* first entry of each segment of the spool's table */
    uint32_t segment_count;
    struct queue_schedule schedule;
    struct queue_counts counts;
    uint32_t oldest_s[QUEUE_STATES]; /* arrival of the oldest in each state, as of the last sweep;
                                        0: none */
    uint32_t sweep_at;               /* internal, as what follows */
    uint32_t sweeping_s[QUEUE_STATES];
    uint64_t random;
};

/* False: no memory. entries_max: most messages. */
MUST_USE bool queue_init(struct queue *queue, uint32_t hop_count, uint32_t entries_max,
                         const struct queue_schedule *schedule, uint32_t now_s, uint64_t seed);
void queue_destroy(struct queue *queue);

/* A new one with the values of `entry` (links, state ignored). due_s 0: READY, UINT32_MAX: ACTIVE
 * (its owner is delivering it), else WAITING. NULL: full. */
MUST_USE struct queue_entry *queue_add(struct queue *queue, const struct queue_entry *entry,
                                       uint32_t due_s, bool held);
/* The next to try at this next hop, ACTIVE then; NULL: none, or active_max are. Urgent ones first,
 * then in the order they became due. */
MUST_USE struct queue_entry *queue_next(struct queue *queue, uint32_t hop, uint32_t active_max);
bool queue_has_ready(const struct queue *queue, uint32_t hop);

/* --- the end of an attempt: the entry is ACTIVE --- */
/* Counts the attempt; WAITING until its time by the schedule: retry_s[attempts - 1], give or take
 * an eighth (the jitter). Returns due_s. Never later than its expiry. */
uint32_t queue_defer(struct queue *queue, struct queue_entry *entry);
/* The next hop was not reached: no attempt counted; PARKED until queue_hop_up(). */
void queue_park(struct queue *queue, struct queue_entry *entry);
/* READY again, in front: nothing was tried (no resources). */
void queue_put_back(struct queue *queue, struct queue_entry *entry);
/* Finished, in any state: it is no more. */
void queue_remove(struct queue *queue, struct queue_entry *entry);
/* Its remaining recipients go to another next hop: READY there. */
void queue_reroute(struct queue *queue, struct queue_entry *entry, uint32_t hop,
                   uint32_t recipients);

/* The next hop answers again (or a probe is worth it: count 1): so many of its PARKED, oldest
 * first, are READY. */
void queue_hop_up(struct queue *queue, uint32_t hop, uint32_t count);

/* --- operators; ACTIVE: applied by queue_defer()/queue_park() (flags), false then --- */
bool queue_hold(struct queue *queue, struct queue_entry *entry);
bool queue_release(struct queue *queue, struct queue_entry *entry);
/* READY now and in front; held ones are released. */
bool queue_retry(struct queue *queue, struct queue_entry *entry);

/* --- time --- */
/* Moves what is due by now_s to READY: at most `budget` entries in one call; false: there is more.
 * A clock that jumps back does not stop it, one that jumps forward does not make it loop. */
MUST_USE bool queue_tick(struct queue *queue, uint32_t now_s, uint32_t budget);
enum queue_finding { QUEUE_NOTHING, QUEUE_EXPIRED, QUEUE_DELAYED };
/* Goes round all entries in every state, `budget` steps in one call. EXPIRED: too old; ACTIVE then
 * (unless it was ACTIVE: those are passed over, their owner asks queue_expired()). DELAYED: old
 * enough for a delay notice that was not considered yet; ACTIVE then. Call again with what is left
 * of the budget until NOTHING. *wrapped: one round over all entries has ended. */
enum queue_finding queue_sweep(struct queue *queue, uint32_t now_s, uint32_t *budget,
                               struct queue_entry **entry, bool *wrapped);
bool queue_expired(const struct queue *queue, const struct queue_entry *entry, uint32_t now_s);

/* --- segments --- */
void queue_segment_pause(struct queue *queue, uint32_t segment, bool paused);
/* Entries of a segment that are ACTIVE. */
bool queue_segment_busy(const struct queue *queue, uint32_t segment);
struct queue_entry *queue_segment_first(const struct queue *queue, uint32_t segment);
struct queue_entry *queue_segment_next(const struct queue *queue, const struct queue_entry *entry);
/* It stands in another place now. */
void queue_moved(struct queue *queue, struct queue_entry *entry, const struct spool_place *place);

/* --- looking at it --- */
/* Entry at an index of the pool, NULL: none there. [0, queue->entries.touched) are all. */
struct queue_entry *queue_at(const struct queue *queue, uint32_t index);
const char *queue_state_name(enum queue_state state);

#endif
