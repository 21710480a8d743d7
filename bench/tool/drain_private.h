/* drain_private: what drain_thread.c and drain_session.c tell each other; nobody else includes it.
 * Does:    a thread of the sink, its sessions, and the heap of what is to happen later.
 * Owns:    see the structs.
 */
#ifndef RINGPOST_BENCH_DRAIN_PRIVATE_H
#define RINGPOST_BENCH_DRAIN_PRIVATE_H

#include "bench/tool/drain.h"
#include "bench/tool/intake.h"
#include "core/acceptor.h"
#include "relay/link.h"

enum drain_kind { DRAIN_LISTENER, DRAIN_SESSION };

struct drain_session {
    struct link link;
    struct timer timer;
    struct drain_thread *thread;
    struct intake intake;
    const struct sink_fault *fault; /* at `stage`, when its delay is over */
    uint64_t idle_since_ns, chunk_left;
    uint32_t recipients;
    uint8_t stage; /* enum sink_stage */
    bool mail;     /* a transaction is open */
    bool data;     /* octets of DATA come */
    bool chunk;    /* octets of BDAT come, chunk_left of them */
    bool chunk_last, chunk_refused;
    bool begun;   /* the message: BDAT may have more chunks */
    bool waiting; /* a delay or a stall */
    bool tls_pending, tls_shaking;
    bool ending, dropping;
    bool rejecting; /* the greeting refused: 503 to all */
    uint16_t path_len, from_len;
    char path[MAILBOX_BYTES_MAX], from[MAILBOX_BYTES_MAX]; /* with faults only */
};

struct drain_later {
    uint64_t due_ns;
    uint32_t slot, generation;
};

struct drain_thread {
    struct drain_plan *plan;
    unsigned index;
    int listener, state, stop_wish; /* state, stop_wish: atomic */
    struct io *io;
    struct link_shared links;
    struct pool sessions, blocks;
    struct timers timers;
    struct acceptor acceptor;
    struct ledger_buffer ledger;
    struct drain_later *later; /* a heap */
    uint32_t later_count;
    uint64_t now_ns, realtime_offset_ns, random, flushed_ns, serial;
    bool stopping;
    struct drain_counts counts;
    char error[IO_ERROR_BYTES];
};

void drain_session_accept(struct drain_thread *thread, int socket);
void drain_session_complete(struct drain_session *session, const struct io_completion *completion);
void drain_session_timer(struct drain_session *session);
/* A delay is over. */
void drain_session_continue(struct drain_session *session);
void drain_session_stop(struct drain_session *session);

/* Calls drain_session_continue() at that time. */
void drain_later(struct drain_thread *thread, struct drain_session *session, uint64_t due_ns);

/* --- drain_command.c --- */
/* One round on what is at the front. False: nothing more can be done now. */
bool drain_command_step(struct drain_session *session);
/* Carries out the stage at hand: its fault, or what is right. */
void drain_stage_act(struct drain_session *session);
/* Decides what happens at a stage: now, or after a delay. */
void drain_stage_enter(struct drain_session *session, enum sink_stage stage);

/* --- drain_session.c --- */
/* What is written goes out, then our FIN. */
void drain_session_finish(struct drain_session *session);
void drain_session_drop(struct drain_session *session);

#endif
