/* session: a client connection: joins a receiver (the protocol) with a link (the bytes) and its
 * transaction.
 * Does:    feeds the receiver, carries out its events, keeps the time, refuses at the door.
 * Owns:    its link and receiver; the transaction while the client waits for it.
 * Memory:  a slot of the worker's pool, at most 1 KiB; an idle session holds nothing else (TLS:
 *          the library's part).
 * Threads: the worker's.
 */
#ifndef RINGPOST_RELAY_SESSION_H
#define RINGPOST_RELAY_SESSION_H

#include "core/header.h"
#include "relay/worker.h"

struct session {
    struct link link;
    struct receiver receiver;
    struct timer timer;
    struct worker *worker;
    struct transaction *transaction; /* NULL: none open */
    struct session *next_ready;
    uint64_t deadline_ns;         /* what the timer is for; it may fire earlier: link_recheck() */
    uint64_t message_deadline_ns; /* of the message being received; 0: none */
    uint64_t tls_started_ns;
    struct shortage_mark mark;
    uint32_t listener, access_slot;
    struct io_peer peer;
    bool trusted; /* in accept.networks */
    bool on_ready;
    bool waiting;     /* for a verdict */
    bool tls_pending; /* the 220 to STARTTLS is on its way */
    bool ending;      /* CLOSE was said: nothing is read any more */
    bool wants_room;  /* session_run() stopped: it goes on when a send completes */
    bool timed_out;   /* we ended it, because of the time */
    bool drained;     /* we ended it, because the process ends */
    bool stalled;     /* we ended it, because others need what it holds */
};

/* A socket was accepted (or handed over). Takes it. */
void session_accept(struct worker *worker, uint32_t listener, int socket);
void session_complete(struct session *session, const struct io_completion *completion);
void session_timer(struct session *session);
/* Goes on as far as possible. */
void session_run(struct session *session);
/* The verdict that it waits for: for a recipient or for the message. The session runs later in this
 * turn. */
void session_verdict(struct session *session, const struct reply *reply);
/* Stops or resumes reading from the client by what is held of it. */
void session_pressure(struct session *session);
/* It was on the worker's ready list. */
void session_ready(struct session *session);
/* The process ends: 421 when nothing is under way, after the transaction else. now: in the middle
 * of it too (RFC 5321 3.8), but not while a verdict is awaited. */
void session_drain(struct session *session, bool now);
/* It holds `buffers` that others need, and does not go on: 421. It may be gone after. */
void session_stalled(struct session *session, struct span reason, uint32_t buffers);
/* The log line of a recipient that was refused. */
void session_log_recipient(struct session *session, struct span mailbox, const struct reply *reply);
/* What our Received: field says of the client; spans point into the session and `client`. The
 * caller adds recipient and smtputf8. */
void session_trace(const struct session *session, const char *queue_id, char client[64],
                   struct trace *trace);
/* Text of the client's address. */
struct span session_client_text(const struct session *session, char text[64]);

#endif
