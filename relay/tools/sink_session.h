/* sink_session: one client of a sink: joins a receiver with a link, and puts faults between them.
 * Does:    accepts everything that the receiver lets through, unless a fault says otherwise.
 * Owns:    its link, receiver and message.
 * Memory:  a slot of the thread's pool; the message's heap.
 * Threads: its sink_thread's.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_SESSION_H
#define RINGPOST_RELAY_TOOLS_SINK_SESSION_H

#include "relay/tools/sink_thread.h"

struct sink_session {
    struct link link;
    struct receiver receiver;
    struct timer timer;
    struct sink_thread *thread;
    struct sink_message message;
    const struct sink_fault *fault; /* at `stage`; NULL: none */
    const struct sink_fault *body_fault;
    enum sink_stage stage; /* where a decision was made last */
    uint64_t body_octets;  /* of this message, in wire form */
    uint64_t body_begun_ns;
    uint64_t size;      /* END: of the message */
    uint64_t active_ns; /* when the client did something last */
    bool started;       /* the greeting was said */
    bool rejecting;     /* it was a refusal: 503 to everything but QUIT */
    bool waiting;       /* a delay runs, or a stall */
    bool stalled;       /* for ever */
    bool slowed;        /* the body's rate is used up for now */
    bool passed;        /* the line at the front was decided about */
    bool body;          /* between the verdict on DATA and the end of the message */
    bool chunked;
    bool stored;      /* END: the message is in the Maildir, or need not be */
    bool tls_pending; /* the 220 to STARTTLS is on its way */
    bool tls_shaking;
    bool ending;                  /* nothing is read any more */
    bool dropping;                /* ending without waiting for the client */
    char path[MAILBOX_BYTES_MAX]; /* MAIL, RCPT: the address at hand */
    size_t path_len;
};

/* A socket was accepted. Takes it. */
void sink_session_accept(struct sink_thread *thread, int socket);
void sink_session_complete(struct sink_session *session, const struct io_completion *completion);
void sink_session_timer(struct sink_session *session);
/* The sink ends: at once. */
void sink_session_stop(struct sink_session *session);

#endif
