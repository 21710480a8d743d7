/* courier: takes what the spool keeps to its next hop; one per worker that has a spool.
 * Does:    makes queue entries of what is stored or found at start; reads what is due, submits it
 *          like any transaction; writes down results; reports to senders; expires; empties
 *          segments. docs/DELIVERY.md, "The queue".
 * Owns:    the worker's spool and queue, and the transactions that it made.
 * Memory:  at start; see struct courier.
 * Threads: the worker's.
 * Errors:  whatever goes wrong leaves a message in the queue, or says so in the log.
 */
#ifndef RINGPOST_RELAY_COURIER_H
#define RINGPOST_RELAY_COURIER_H

#include "relay/bounce.h"
#include "relay/hop.h"
#include "relay/queue/control.h"

/* Stored messages that are being read, delivered or reported at a time, beside those of clients. */
#define COURIER_TRANSACTIONS_MAX 512
/* Recipients that one report speaks of. */
#define COURIER_REPORT_RECIPIENTS_MAX 64
/* Texts of "why not yet" that are kept, each once, however many messages wait for it. */
#define COURIER_REASONS_MAX 512
#define COURIER_REASON_BYTES 128
/* Records copied at a time when a segment is emptied. */
#define COURIER_MOVES_MAX 16

enum courier_purpose { COURIER_DELIVER, COURIER_EXPIRE, COURIER_TELL_DELAY, COURIER_REMOVE };

struct courier_reason {
    char text[COURIER_REASON_BYTES];
    uint32_t uses;
};

struct courier {
    struct worker *worker;
    struct spool *spool;
    struct queue queue;
    uint32_t active;       /* transactions of its own */
    uint64_t second_ns;    /* when the next second's work is due */
    uint64_t starved_ns;   /* no buffers: nothing is read before */
    bool stopping, recovered, tick_again, any_rising;
    bool unlisted; /* the spool has messages that the queue had no room for: see queue_full() */
    bool rising[NEXT_HOPS_MAX]; /* by next hop: it answers again, its parked ones are let go */
    struct courier_reason *reasons;
    /* the report being written */
    struct bounce_recipient *told;
    struct reply *told_replies;
    /* the segment being emptied; see courier_clean.c */
    uint32_t clean_segment; /* UINT32_MAX: none */
    uint32_t moves_flying, moves_begun, moved_count;
    bool clean_begun, clean_failed;
    struct spool_move moves[COURIER_MOVES_MAX];
    struct courier_moved *moved;
    struct control_pending control; /* what operators ask */
};

/* NULL: no memory. */
MUST_USE struct courier *courier_create(struct worker *worker);
void courier_destroy(struct courier *courier);
/* What the spool has to say; sessions may become ready. */
void courier_events(struct courier *courier);
/* Time, and what can be begun. */
void courier_turn(struct courier *courier);
uint64_t courier_wakes_ns(const struct courier *courier);
/* The process ends: nothing is begun any more; verdicts that clients wait for are not waited for
 * long. */
void courier_stop(struct courier *courier);
/* All transactions are over: what is marked is written. True: it is. */
bool courier_stopped(struct courier *courier);
/* A server of the next hop answers again. */
void courier_hop_up(struct worker *worker, uint32_t hop);
/* The queue has room for another message. */
bool courier_room(const struct courier *courier);
/* Next hop of a mailbox, or the queue's line for those without a route (next_hop_count). */
uint32_t courier_route(const struct worker *worker, struct span mailbox);

/* --- a transaction's message, once it is stored --- */
/* It was stored: the queue has entries for it; `entry` is the one of its own next hop. */
void courier_enter(struct transaction *transaction);
/* Nobody works on it: now if it can be, else later from the spool. It may be gone after. */
void courier_first_attempt(struct transaction *transaction);
/* An attempt has ended (transaction_finish()). It is gone, or waits for its reports. */
void courier_result(struct transaction *transaction, enum verdict_action action,
                    const struct reply *reply);
/* More of a body that is read from a file. */
void courier_read(struct transaction *transaction);
/* Stored, and now it shall not be: all its marks final. */
void courier_forget(struct courier *courier, const char id[16], const struct spool_place *place,
                    uint32_t recipients, bool body_file);

/* --- reading (courier_load.c) --- */
/* The entry is ACTIVE. False: no room; it is READY again. */
MUST_USE bool courier_load(struct courier *courier, struct queue_entry *entry,
                           enum courier_purpose purpose);
/* SPOOL_LOADED. */
void courier_loaded(struct courier *courier, struct transaction *transaction);
/* SPOOL_BODY. */
void courier_body_moved(struct transaction *transaction);
/* What it was made for. */
void courier_begin(struct transaction *transaction);
/* Nothing was tried: it is over, its entry READY. */
void courier_put_back(struct transaction *transaction);

/* --- results and reports (courier_report.c) --- */
struct note;
/* What the next hop said of one recipient. */
void note_add(struct transaction *transaction, const struct recipient *recipient,
              const struct reply *reply);
void notes_clear(struct transaction *transaction);
/* Delivered without our having stored it: recipients that want to know and whose next hop cannot
 * tell them are told. */
void courier_relayed(struct transaction *transaction);
/* A report of ours was stored, or could not be: its parent goes on. */
void courier_notice_done(struct transaction *notice, bool stored);
/* SPOOL_BODY while `reporting`. */
void courier_report_read(struct transaction *transaction);
/* A delay notice for what was loaded. */
void courier_tell_delay(struct transaction *transaction);
void courier_set_reason(struct courier *courier, struct queue_entry *entry,
                        const struct reply *reply);
void courier_drop_entry(struct courier *courier, struct queue_entry *entry);

/* Its recipients of this entry are marked as removed; nobody is told. */
void courier_removed(struct transaction *transaction);

/* --- operators --- */
/* Remembered over a restart. One that is being delivered is held after that attempt. */
void courier_hold(struct courier *courier, struct queue_entry *entry, bool held);
/* False: it is being delivered, or too much is under way. It is gone a little later. */
bool courier_remove(struct courier *courier, struct queue_entry *entry);

/* --- emptying segments (courier_clean.c) --- */
void courier_clean(struct courier *courier, uint32_t segment);
void courier_clean_step(struct courier *courier);
void courier_moved(struct courier *courier, struct spool_move *move);
MUST_USE bool courier_clean_init(struct courier *courier);
void courier_clean_destroy(struct courier *courier);

#endif
