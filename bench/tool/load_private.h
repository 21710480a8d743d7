/* load_private: what load_thread.c and load_connection.c tell each other; nobody else includes it.
 * Does:    a thread of load, and its connections: each a small client that keeps a FIFO of the
 *          replies that it waits for.
 * Owns:    see the structs.
 */
#ifndef RINGPOST_BENCH_LOAD_PRIVATE_H
#define RINGPOST_BENCH_LOAD_PRIVATE_H

#include "bench/tool/load.h"
#include "core/timers.h"
#include "relay/link.h"

/* Messages of one connection whose final reply is outstanding: only LOAD_DEEP has more than one. */
#define WINDOW 8
#define EXPECTATIONS_MAX 64 /* power of two; RCPTs in a row are one */
#define SIZES_KNOWN_MAX 16

enum load_step {
    STEP_MAIL,
    STEP_RCPT,
    STEP_DATA,
    STEP_WAIT, /* for 354 */
    STEP_BODY, /* is on its way */
    STEP_DONE, /* nothing more is to be sent for this message */
};

struct load_message {
    uint64_t due_ns, mail_ns, sent_ns; /* sent_ns: 0, not all of it yet */
    uint64_t number, bytes;            /* bytes: of the body, without header section */
    uint64_t bytes_left;               /* BDAT: not sent yet */
    uint32_t digest;
    uint16_t recipients, accepted, due_replies;
    uint16_t code; /* first refusal */
    uint8_t step;
    bool refused, end_expected, content_begun;
};

enum load_state { CLOSED, CONNECTING, OPENING, READY, QUITTING, CLOSING };

struct load_connection {
    struct link link;
    struct timer timer; /* a reply is late; or the idle time is over */
    struct load_thread *thread;
    struct link_body *body;                   /* NULL: none on its way */
    uint64_t body_end;                        /* octets of it */
    uint64_t body_start;                      /* what link_body.sent counts from */
    struct load_connection *next, **previous; /* on one of the thread's lists */
    struct {
        uint8_t kind;
        uint16_t left;
    } expected[EXPECTATIONS_MAX];
    struct load_message messages[WINDOW];
    struct tls_session *session; /* of the one before, to resume */
    uint64_t deadline_ns;
    uint64_t phase_ns;   /* when the phase at hand began */
    uint64_t due_ns;     /* of the message for which it was opened; 0: none */
    uint64_t sent_count; /* messages begun on it */
    uint8_t state, expected_first, expected_count, oldest, open, code_seen;
    bool pipelining, chunking, starttls, size, tls_shaking, tls_done;
    bool reset_due; /* RSET must go ahead of the next MAIL */
    bool idling;    /* between two messages */
    bool idled;     /* the pause before this message is over */
    bool held;      /* the kernel may keep the end of a body back for what follows it */
};

struct load_thread {
    struct load_plan *plan;
    unsigned index;
    struct io *io;
    struct link_shared links;
    struct pool blocks, bodies;
    struct timers timers;
    struct load_connection *connections;
    uint32_t connection_count;
    size_t connections_bytes;
    struct load_connection *closed, *ready; /* lists; ready: open loop, with nothing to do */
    struct body_store store;
    struct digest_shift shifts[SIZES_KNOWN_MAX];
    uint32_t shift_count;
    struct ledger_buffer ledger;
    uint64_t now_ns, realtime_offset_ns, random, number, flushed_ns;
    uint64_t *arrivals; /* ring of times; open loop */
    uint32_t arrival_first, arrival_count;
    double arrival_next_ns;
    uint64_t open_pause_ns, source_next;
    double open_budget;
    uint64_t open_budget_ns;
    uint32_t opening;
    uint64_t cpu_begin_ns;
    bool measuring, measured, stopping, at_once;
    int stop_wish; /* atomic: 0, 1 stop, 2 at once */
    struct load_result result;
};

/* --- load_connection.c --- */
/* Opens it; due_ns: of the message that waits for it, 0: none. False: it could not. */
MUST_USE bool load_connection_open(struct load_connection *connection, uint64_t due_ns);
void load_connection_complete(struct load_connection *connection,
                              const struct io_completion *completion);
void load_connection_timer(struct load_connection *connection);
/* Sends what may be sent now. */
void load_connection_advance(struct load_connection *connection);
/* The thread stops: what is under way is finished unless at once. */
void load_connection_stop(struct load_connection *connection);

/* --- load_message.c --- */
/* Writes what may be written of the newest message. */
void load_message_advance(struct load_connection *connection);
void load_message_begin(struct load_connection *connection, uint64_t due_ns);
void load_message_reply(struct load_connection *connection, enum load_expectation kind,
                        unsigned code, struct span text);
/* The connection is lost: what that means for its messages. */
void load_messages_lost(struct load_connection *connection);
/* What the kernel has of a body. */
void load_body_look(struct load_connection *connection);
void load_body_release(struct load_connection *connection);
void load_expect(struct load_connection *connection, enum load_expectation kind);

/* --- load_thread.c --- */
/* False: no message for this connection now. */
MUST_USE bool load_thread_next(struct load_thread *thread, uint64_t *due_ns);
bool load_thread_has_work(const struct load_thread *thread);
void load_list_add(struct load_connection **list, struct load_connection *connection);
void load_list_remove(struct load_connection *connection);
/* A message got its final answer or was lost. */
void load_thread_answered(struct load_thread *thread, struct load_message *message, unsigned code,
                          struct span text);
void load_phase_add(struct load_thread *thread, enum load_phase phase, uint64_t begun_ns);
void load_failed(struct load_thread *thread, enum load_failure failure);

/* --- load_source.c --- */
/* Binds the socket to the thread's next source address. 0, or a negative errno. */
int load_source_bind(struct load_thread *thread, int socket);

/* Bytes of what stands in front of every body. */
size_t load_head_bytes(const struct load_plan *plan);

#endif
