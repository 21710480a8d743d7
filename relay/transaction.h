/* transaction: one message on its way: from MAIL to the verdict, or from the spool to its next hop.
 * Does:    keeps envelope and body; decides burst, stream or live (each RCPT put to the next hop),
 *          spool or not; answers for the next hop or the spool. See docs/DELIVERY.md.
 * Owns:    its envelope and body. Linked with its session (while a client waits for it) and a
 *          connection (while one works on it).
 * Memory:  a slot of the worker's pool, blocks for the envelope, receive buffers for the body.
 * Threads: the worker's.
 * Invariants: at the head of transaction.c.
 */
#ifndef RINGPOST_RELAY_TRANSACTION_H
#define RINGPOST_RELAY_TRANSACTION_H

#include "core/envelope.h"
#include "relay/spool/spool.h"
#include "relay/verdict.h"
#include "relay/worker.h"

struct connection;

/* Who answers for the message. */
enum transaction_custody {
    CUSTODY_CLIENT,  /* its client, until it hears a verdict */
    CUSTODY_STORING, /* the same; it is on its way into the spool */
    CUSTODY_SPOOL,   /* we do: it is durable, and `entry` of the queue stands
                        for it */
};

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
    bool spool_first;      /* no next hop hears of it before it is in the spool */
    bool notice;           /* we wrote it: no client */
    bool decided;          /* STORING: the next hop's verdict is known: `verdict`, `final` */
    bool withdrawn;        /* STORING: what is stored is to be forgotten: its client knows better */
    bool unreached;        /* the verdict is that no server could be reached */
    bool store_waits;      /* for the body's file */
    bool reporting;        /* the front of its body's file is read for a report */
    bool relayed_silently; /* delivered, and the next hop tells nobody (no DSN) */
    uint8_t custody;       /* enum transaction_custody */
    uint8_t verdict;       /* enum verdict_action */
    uint8_t purpose;       /* enum courier_purpose: why it was taken from the spool */
    uint8_t promised; /* of worker->memory.promised: see transaction_weigh() */
    uint8_t restarts;
    char id[16];
    uint64_t started_ns, data_ns, complete_ns,
        begun_ns;                /* MAIL, first body byte allowed, whole, given to a connection */
    char *origin_block;          /* holds what origin points to; NULL: none */
    struct record_origin origin; /* trace.len > 0: our Received: field is made */
    struct spool_body *file;     /* a body larger than delivery.buffer: written to, or read from */
    struct chain incoming;       /* of it: not given to the file yet */
    uint64_t body_bytes;         /* in the file, given to it or found there */
    uint64_t reserved;           /* octets set aside in the spool */
    uint64_t arrival_ns;         /* Unix time */
    size_t envelope_bytes;       /* what it takes in a record */
    uint32_t entry;              /* of the queue; QUEUE_NONE */
    struct note *notes;          /* what the next hop said of single recipients */
    struct transaction *parent;  /* notice: waits for it to be stored; NULL: nobody */
    uint32_t notices_pending;    /* reports about it that are not stored yet */
    bool notices_failed;
    struct reply final;
    union { /* one at a time; not cleared at the start, as `final` is not */
        struct spool_store store;
        struct spool_load load;
    };
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
/* Every octet of the body is in its chain: what is sent of it ends the message. */
bool transaction_whole(const struct transaction *transaction);
/* What is promised to it of the receive buffers follows what it holds: call it where that changed.
 */
void transaction_weigh(struct transaction *transaction);
/* Octets that it holds of a message that is still coming: for back-pressure. */
uint64_t transaction_held(const struct transaction *transaction);
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

/* --- from custody.c and the courier --- */
/* The next hop may have it now: it waits for a connection, or is on one. It may be gone after. */
void transaction_submit(struct transaction *transaction);
/* A new one without a client. NULL: no room. */
struct transaction *transaction_new(struct worker *worker);
/* Its client hears this; it is no longer concerned with it. */
void transaction_tell(struct transaction *transaction, const struct reply *reply);
/* The log line of its end or of one attempt. `event` is a literal. */
void transaction_log(const struct transaction *transaction, const char *event, struct span status,
                     const struct reply *reply);
void transaction_free(struct transaction *transaction);

#endif
