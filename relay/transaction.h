/* transaction: one mail transaction from MAIL to the verdict; plans how it reaches the next hop.
 * Does:    keeps envelope and body; decides burst, stream or live (each RCPT put to the next hop);
 *          answers for the next hop; logs one line per message. See docs/DELIVERY.md.
 * Owns:    its envelope and body chain. Linked with its session (until that ends) and a connection
 *          (while one works on it).
 * Memory:  a slot of the worker's pool, blocks for the envelope, receive buffers for the body.
 * Threads: the worker's.
 * Invariants (checked where they are made):
 *   1. The final dot goes out only when the client's message was received whole and well-formed.
 *   2. The client gets 250 only after the next hop's 2xx to the end of data.
 *   3. After the final dot was sent and its reply lost, it is ambiguous and never sent again.
 *   4. All recipients answered 250 share one verdict: none of them is dropped silently.
 */
#ifndef RINGPOST_RELAY_TRANSACTION_H
#define RINGPOST_RELAY_TRANSACTION_H

#include "core/envelope.h"
#include "relay/verdict.h"
#include "relay/worker.h"

struct connection;

struct transaction {
    struct worker *worker;
    struct session *session;                              /* NULL: the client is gone */
    struct connection *connection;                        /* NULL: none works on it */
    struct hop *hop;                                      /* NULL until the first recipient */
    struct transaction *next_waiting, **previous_waiting; /* in hop->waiting; NULL: not there */
    struct timer timer;                                   /* while it waits for a connection */
    struct envelope envelope;
    struct chain body;
    struct receiver_summary summary; /* valid when complete */
    struct recipient *asked;         /* its verdict is what the client waits for */
    uint32_t tried;                  /* bit per server of the next hop that failed it */
    bool live;                       /* the next hop is asked about recipients as they come */
    bool streaming;                  /* body bytes leave before all have come */
    bool started;  /* streaming: some body bytes were given back: it cannot be sent again */
    bool complete; /* the message was received whole */
    bool chunked;  /* it came by BDAT */
    bool sealed;   /* no more recipients: 452 */
    bool failed;   /* its verdict is known already: `final` */
    bool fresh;    /* wants a connection that was not used before */
    bool client_lost;
    uint8_t restarts;
    char id[16];
    uint64_t started_ns, data_ns, complete_ns,
        begun_ns; /* MAIL, first body byte allowed, whole, given to a connection */
    struct reply final;
};

/* MAIL. NULL: no room; *refusal is set. */
struct transaction *transaction_start(struct session *session, const struct path *reverse_path,
                                      const struct mail_parameters *parameters,
                                      struct reply *refusal);
enum transaction_answer { TRANSACTION_ACCEPT, TRANSACTION_REFUSE, TRANSACTION_WAIT };
/* RCPT. REFUSE: *refusal is set. WAIT: session_verdict() follows. */
enum transaction_answer transaction_recipient(struct transaction *transaction,
                                              const struct path *path,
                                              const struct rcpt_parameters *parameters,
                                              struct reply *refusal);
/* DATA or the first BDAT. */
enum transaction_answer transaction_data(struct transaction *transaction, bool chunked,
                                         struct reply *refusal);
/* Body bytes: the first len octets of the session link's front. False: no buffer is free. */
MUST_USE bool transaction_body(struct transaction *transaction, struct link *link, size_t len);
/* The client's bytes found no buffer: what there is of the message leaves now, to make room. */
void transaction_starved(struct transaction *transaction);
/* The message is whole: session_verdict() follows. */
void transaction_complete(struct transaction *transaction, const struct receiver_summary *summary);
/* The client gave it up (RSET, broken message, session end). Frees it, or lets it finish alone when
 * the final dot is out. */
void transaction_abort(struct transaction *transaction);

/* --- from the connection and the hop --- */
/* The next hop answered MAIL (recipient == NULL) or a recipient in live mode. */
void transaction_answered(struct transaction *transaction, struct recipient *recipient,
                          enum verdict_action action, const struct reply *reply);
/* The verdict for the whole transaction. The connection is no longer concerned with it. */
void transaction_finish(struct transaction *transaction, enum verdict_action action,
                        const struct reply *reply);
/* Streaming: body bytes were sent. */
void transaction_body_sent(struct transaction *transaction);
void transaction_timer(struct transaction *transaction);

#endif
