/* custody: a message changes hands: from its client to the spool, so that we may answer 250.
 * Does:    decides when the spool may take a message that its next hop did not; has it stored;
 *          tells the client when it is durable. docs/DELIVERY.md, "The spool as fall-back".
 * Owns:    nothing but what it hangs on a transaction (file, origin block, reserve).
 * Threads: the worker's.
 * Errors:  a spool that cannot take it leaves the verdict as it was: 4xx for the client.
 */
#ifndef RINGPOST_RELAY_CUSTODY_H
#define RINGPOST_RELAY_CUSTODY_H

#include "relay/transaction.h"

/* Of the recipients of one message in a record; MAIL's and our own part come on top. */
#define CUSTODY_RECIPIENTS_BYTES_MAX (RECORD_ENVELOPE_BYTES_MAX - 8192)

/* delivery.mode: spool. */
bool custody_first(const struct worker *worker);
/* Before 354: sets space aside. False: the spool is full, or cannot write: it may not take this
 * message. */
MUST_USE bool custody_reserve(struct transaction *transaction);
/* The next hop's verdict need not be the client's: the message can be stored (all of it that came
 * so far is there) and tried again. */
bool custody_may_take(const struct transaction *transaction);
/* From now on the next hop is not asked before the message is stored. The recipient that the client
 * waits for is accepted. */
void custody_take(struct transaction *transaction);
/* The message is whole: stores it. custody_stored() follows. */
void custody_store(struct transaction *transaction);
/* The next hop's verdict for a whole message that is being stored, or shall be because of it. */
void custody_decided(struct transaction *transaction, enum verdict_action action,
                     const struct reply *reply);
/* delivery.patience begins, if it applies. */
void custody_watch(struct transaction *transaction);

/* --- bodies larger than delivery.buffer --- */
/* It streams from now on: what there is and what comes goes to a file too. */
void custody_stream(struct transaction *transaction);
/* Something is in `incoming`. */
void custody_body(struct transaction *transaction);
/* SPOOL_BODY of a file that is written. */
void custody_written(struct transaction *transaction);

/* SPOOL_STORED. */
void custody_stored(struct transaction *transaction);
/* The transaction ends: gives back what hangs on it. */
void custody_release(struct transaction *transaction);

#endif
