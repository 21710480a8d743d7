/* connection: one connection to a server of a next hop: joins a sender (the protocol) with a link
 * (the bytes) and the
 * transaction it works on.
 * Does:    opens, shakes hands, runs one transaction after the other, keeps the RFC 5321 4.5.3.2
 *          deadlines.
 * Owns:    its link and sender.
 * Memory:  a slot of the worker's pool.
 * Threads: the worker's.
 */
#ifndef RINGPOST_RELAY_CONNECTION_H
#define RINGPOST_RELAY_CONNECTION_H

#include "relay/hop.h"

enum connection_state {
    CONNECTION_OPENING,  /* up to the sender's READY */
    CONNECTION_IDLE,     /* in its server's idle list */
    CONNECTION_BUSY,     /* works on a transaction */
    CONNECTION_DRAINING, /* the transaction is over: waits for replies that are still owed, then
                            RSET */
    CONNECTION_CLOSING,
};

struct connection {
    struct link link;
    struct sender sender;
    struct timer timer;
    struct hop *hop;
    struct transaction *transaction;
    struct connection *next_idle, **previous_idle;
    uint32_t server;
    enum connection_state state;
    bool probe;       /* nobody waits for it: finds out whether a server is back */
    bool tls_pending; /* handshake under way */
    bool answered;    /* a reply to this transaction came */
    bool mail_sent, data_sent, end_sent;
    bool go_ahead;   /* 354 came, or BDAT: the body may be sent */
    bool refused;    /* a recipient was refused in a group */
    bool bdat;       /* the body goes by BDAT */
    bool reset_sent; /* DRAINING: RSET (or QUIT) was sent */
    uint32_t recipients_sent, recipients_answered, recipients_taken;
    struct envelope_cursor to_send, to_answer;
    uint32_t uses; /* transactions so far */
    uint64_t opened_ns, tls_started_ns;
    uint64_t heard_ns;    /* a reply came */
    uint64_t deadline_ns; /* what the timer is for; it may fire earlier: link_recheck() */
    bool retry; /* CLOSING: the transaction goes elsewhere when the send under way has ended */
    bool late;  /* CLOSING: its verdict follows then: see transaction_end() */
    struct chain orphan; /* body of a transaction that is over, still read by a send under way */
    struct link_body body;
};

/* Opens one; NULL: no slot or no socket (the hop is told nothing). */
struct connection *connection_open(struct hop *hop, uint32_t server, bool probe);
/* Begins a transaction. False: this next hop cannot take it, it was refused; the connection is
 * still free. */
MUST_USE bool connection_begin(struct connection *connection, struct transaction *transaction);
/* The transaction has more: a recipient, body bytes, its end. */
void connection_advance(struct connection *connection);
/* The transaction gives up before the final dot was sent. */
void connection_abandon(struct connection *connection);
/* The same while the spool may be reading the body: if a send reads it too, transaction_finish()
 * follows when that has ended. */
void connection_abandon_stored(struct connection *connection);
void connection_complete(struct connection *connection, const struct io_completion *completion);
void connection_timer(struct connection *connection);
/* The timer for what is awaited now. */
void connection_deadline_set(struct connection *connection);
/* After bytes or a handshake came: goes on as far as possible. */
void connection_run(struct connection *connection);
/* QUIT and close. */
void connection_quit(struct connection *connection);

#endif
