/* queue: what waits to be delivered: states, schedule, expiry, order; one instance per worker.
 * Does:    one entry per stored message and next hop; who is due when, who goes first, how many at
 *          a time; counts by state. Time is passed in (Unix seconds). No I/O.
 * Owns:    its entries; bodies and addresses stay in the spool.
 * Memory:  sizeof(struct queue_entry) per entry from a pool that is touched as it grows, and a few
 *          octets per next hop and segment; nothing else grows with the queue.
 * Threads: the worker's.
 * Errors:  a full pool is a result; an operation that its state forbids is our bug: ASSERT.
 * Cost:    constant, but what takes a count, a budget or a whole segment. Invariants: queue.c.
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

/* Set by the owner in what it gives to queue_add(); afterwards it may write attempts, flags that
 * are not internal, reason_class, reason, and recipients. */
struct queue_entry {
    struct spool_place place;
    char id[16];
    uint64_t size;              /* octets of the message */
    uint32_t arrival_s;         /* Unix time */
    uint32_t due_s;             /* WAITING: when; HELD, ACTIVE: it still waited for this; else 0 */
    uint32_t recipients;        /* of this entry, not finished yet */
    uint32_t record_recipients; /* of the record: marks [place.slot, + that) */
    uint32_t next, previous;    /* internal: in the line or wheel slot it stands in */
    uint32_t next_in_segment, previous_in_segment; /* internal */
    uint16_t hop;
    uint8_t state;        /* enum queue_state */
    uint8_t attempts;     /* stops counting at 255 */
    uint8_t flags;        /* enum queue_flag bits */
    uint8_t reason_class; /* of the last deferral: 0 none, 4 told by the next hop, 1 not reached */
    uint16_t reason;      /* index in the worker's table of texts (relay/courier); 0: none */
};
enum queue_flag {
    QUEUE_BODY_FILE = 1,  /* RECORD_BODY_FILE */
    QUEUE_NOTICE = 2,     /* RECORD_NOTICE */
    QUEUE_PAUSED = 4,     /* internal: its segment is being emptied, it is not handed out */
    QUEUE_DELAY_TOLD = 8, /* its owner's: a delay notice was considered */
    QUEUE_URGENT = 16,    /* READY or ACTIVE: retried by an operator, at once, whatever is parked */
    QUEUE_RECOVERED = 32, /* was there at start */
    QUEUE_TO_HOLD = 64,   /* internal, ACTIVE: HELD when the attempt ends */
    QUEUE_TO_RETRY = 128, /* internal, ACTIVE: READY and urgent when the attempt ends */
};

struct queue_schedule {
    const uint32_t *retry_s; /* borrowed; the last repeats */
    uint32_t retry_count;    /* at least one */
    uint32_t expire_s;
    uint32_t delay_s; /* age for a delay notice; 0: none */
};

struct queue_counts {
    uint64_t messages[QUEUE_STATES], bytes[QUEUE_STATES];
};

#define QUEUE_WHEEL_SLOTS 4096   /* seconds; entries due later come round again */
#define QUEUE_SEGMENTS_MAX 65536 /* of the spool's table; its memory is touched as it is used */
/* A clock that steps back by so much or less is waited for; by more: it has been set. */
#define QUEUE_CLOCK_STEP_S 60
struct queue_line {        /* one per next hop */
    uint32_t urgent_first; /* READY and URGENT */
    uint32_t first;        /* READY, the others */
    uint32_t parked_first;
    uint32_t ready, parked, active; /* ready: without paused ones */
};
struct queue_segment {
    uint32_t first; /* if entries > 0: the newest */
    uint32_t entries, active;
    bool paused;
};
struct queue {
    struct pool entries;
    struct queue_line *lines; /* by next hop */
    uint32_t hop_count;
    struct queue_segment *segments; /* QUEUE_SEGMENTS_MAX */
    struct queue_schedule schedule;
    uint32_t farthest_s; /* the longest of its intervals with all of its jitter */
    struct queue_counts counts;
    uint32_t oldest_s[QUEUE_STATES]; /* arrival of the oldest in each state, as of the last round of
                                        the sweep; 0: none */
    uint32_t now_s; /* as of the last queue_tick(); does not go back by small steps */
    /* internal */
    uint32_t wheel_s; /* what was due by then has been handled; lags behind now_s by no more than
                         the wheel's span */
    uint32_t cursor;  /* where queue_tick() ran out of budget in the slot of wheel_s + 1 */
    uint32_t wheel[QUEUE_WHEEL_SLOTS];
    uint32_t sweep_at;
    uint32_t sweeping_s[QUEUE_STATES];
    uint64_t random;
};

/* False: no memory. entries_max: most entries; no more than POOL_GENERATIONS are used. The same
 * seed gives the same jitter. */
MUST_USE bool queue_init(struct queue *queue, uint32_t hop_count, uint32_t entries_max,
                         const struct queue_schedule *schedule, uint32_t now_s, uint64_t seed);
void queue_destroy(struct queue *queue);

/* A new one with the values of `entry` (links, state, due_s, internal flags ignored). held: HELD;
 * due_s is for when it is released. Else due_s 0 or past: READY, UINT32_MAX: ACTIVE (its owner is
 * delivering it), else WAITING. NULL: full. */
MUST_USE struct queue_entry *queue_add(struct queue *queue, const struct queue_entry *entry,
                                       uint32_t due_s, bool held);
/* The next to try at this next hop, ACTIVE then; NULL: none, or active_max are. Urgent ones first,
 * then in the order they became READY. */
MUST_USE struct queue_entry *queue_next(struct queue *queue, uint32_t hop, uint32_t active_max);
/* queue_next() would find one, but for active_max. */
bool queue_has_ready(const struct queue *queue, uint32_t hop);

/* --- the end of an attempt: the entry is ACTIVE. What an operator asked for in the meantime is
 *     applied now, whichever of these ends it: HELD, or READY and urgent --- */
/* Counts the attempt; WAITING until its time by the schedule: retry_s[attempts - 1] from now_s,
 * give or take an eighth (the jitter), a second at least. Returns due_s, 0: an operator wants it
 * tried again at once. Never later than its expiry; one that has expired (its owner did not ask):
 * the next second, for the sweep to find. */
uint32_t queue_defer(struct queue *queue, struct queue_entry *entry);
/* The next hop was not reached: no attempt counted; PARKED until queue_hop_up(). */
void queue_park(struct queue *queue, struct queue_entry *entry);
/* Nothing was tried (no resources): READY again, in front. What came from queue_sweep() and was
 * WAITING or HELD is so again; what was PARKED is READY, as its next hop may be up by now. */
void queue_put_back(struct queue *queue, struct queue_entry *entry);
/* Finished, in any state: it is no more. The pointer is void. */
void queue_remove(struct queue *queue, struct queue_entry *entry);

/* The next hop answers again (or a probe is worth it: count 1): so many of its PARKED, those that
 * were parked first, are READY. Paused ones among them do not count. Takes time by `count`:
 * lines[hop].parked says what is left for the next turn. */
void queue_hop_up(struct queue *queue, uint32_t hop, uint32_t count);

/* --- operators. False: it is ACTIVE; applied when the attempt ends. The last word counts --- */
bool queue_hold(struct queue *queue, struct queue_entry *entry);
/* HELD: WAITING for the time it had, READY if that is past or it had none. Others: as they are. */
bool queue_release(struct queue *queue, struct queue_entry *entry);
/* READY now, before all that are not urgent; held ones are released. */
bool queue_retry(struct queue *queue, struct queue_entry *entry);

/* ACTIVE, for its owner to work on it whatever its state is. False: it is ACTIVE or paused. */
MUST_USE bool queue_take(struct queue *queue, struct queue_entry *entry);

/* --- time --- */
/* Moves what is due by now_s to READY: looks at `budget` entries at most, and never goes round the
 * wheel more than once. False: there is more; call again in the next turn. A clock set back (by
 * more than QUEUE_CLOCK_STEP_S) makes it look at all: what would now be due later than the longest
 * interval allows is READY. */
MUST_USE bool queue_tick(struct queue *queue, uint32_t now_s, uint32_t budget);
enum queue_finding { QUEUE_NOTHING, QUEUE_EXPIRED, QUEUE_DELAYED };
/* Goes round all entries in every state, `budget` steps at most. EXPIRED: too old; DELAYED: old
 * enough for a delay notice that was not considered yet (never for our own notices). *entry is
 * ACTIVE then: remove it, or write its notice, set QUEUE_DELAY_TOLD and put it back. What is ACTIVE
 * or paused is passed over: owners ask queue_expired() when an attempt ends, paused ones are met in
 * another round. Call again with what is left of *budget until NOTHING. *wrapped: a round over all
 * entries has ended (and oldest_s is new); always with NOTHING, whatever is left of *budget. */
enum queue_finding queue_sweep(struct queue *queue, uint32_t now_s, uint32_t *budget,
                               struct queue_entry **entry, bool *wrapped);
bool queue_expired(const struct queue *queue, const struct queue_entry *entry, uint32_t now_s);

/* --- segments --- */
/* Its entries, also those to come, are not handed out by queue_next() and queue_sweep(); time and
 * operators still change their states. Ends with the last entry too: a segment without entries is
 * never paused. Those that are READY when it ends go in front, oldest first. Takes time by the
 * number of its entries, which are few: it is being emptied. */
void queue_segment_pause(struct queue *queue, uint32_t segment, bool paused);
/* Some of its entries are ACTIVE. */
bool queue_segment_busy(const struct queue *queue, uint32_t segment);
/* All of them, in no order that matters; ask for the next before the entry is moved or removed. */
struct queue_entry *queue_segment_first(const struct queue *queue, uint32_t segment);
struct queue_entry *queue_segment_next(const struct queue *queue, const struct queue_entry *entry);
/* It stands in another place now, for good (spool_clean_finish()): paused only if that segment is.
 * In any state. */
void queue_moved(struct queue *queue, struct queue_entry *entry, const struct spool_place *place);

/* --- looking at it --- */
/* Entry at an index of the pool, NULL: none there. [0, queue->entries.touched) are all. */
struct queue_entry *queue_at(const struct queue *queue, uint32_t index);
const char *queue_state_name(enum queue_state state);
/* ASSERTs all invariants (queue.c). Takes time by everything there is: for tests; builds with slow
 * checks call it for small queues after each change. */
void queue_invariants(const struct queue *queue);

#endif
