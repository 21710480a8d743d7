/* sink_thread: one thread of a sink: its ring, its listener, its sessions.
 * Does:    accepts, dispatches completions and timers, ends when told.
 * Owns:    its pools, timers, sessions and Maildir.
 * Memory:  pools of fixed size, touched as they are needed.
 * Threads: sink_thread_run() is the thread; others read `counters`, `counts` and `state`, and post
 *          SINK_KIND_STOP through io.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_THREAD_H
#define RINGPOST_RELAY_TOOLS_SINK_THREAD_H

#include "core/acceptor.h"
#include "core/receiver.h"
#include "relay/link.h"
#include "relay/tools/sink_faults.h"
#include "relay/tools/sink_maildir.h"

/* Sessions of one thread. Only those that are used cost memory. */
#define SINK_SESSIONS_MAX 16384

enum sink_loudness { SINK_QUIET, SINK_NORMAL, SINK_VERBOSE };

/* What all threads share; read only but for the atomic counts in faults. */
struct sink {
    struct receiver_policy policy;
    struct sink_faults faults;
    struct tls_context *tls; /* NULL: no TLS */
    bool implicit;           /* TLS from the first octet */
    const char *maildir;     /* NULL: messages are counted and dropped */
    bool lf;
    enum sink_loudness loudness;
    uint64_t seed;
    uint64_t idle_ms; /* a session that does nothing for so long is closed */
};

enum sink_kind { SINK_KIND_LISTENER, SINK_KIND_SESSION, SINK_KIND_STOP };

struct sink_counts {
    uint64_t messages; /* kept: those that a fault denies afterwards too */
    uint64_t bytes;    /* of them, as SIZE counts */
    uint64_t faults;   /* that happened */
    uint64_t trusting; /* commands sent before the reply to the one before, though PIPELINING was
                        * not offered */
};

enum sink_thread_state { SINK_THREAD_STARTING, SINK_THREAD_RUNNING, SINK_THREAD_FAILED };

struct sink_thread {
    struct sink *sink;
    unsigned index;
    int listener;
    int state; /* enum sink_thread_state, atomic */
    struct io *io;
    struct link_shared links;
    struct pool sessions, blocks;
    struct timers timers;
    struct acceptor acceptor;
    struct sink_maildir maildir;
    uint64_t now_ns, random;
    bool stopping;
    char error[IO_ERROR_BYTES]; /* FAILED: why */
    struct sink_counts counts;
    struct counters counters;
};

/* Starts, runs until the stop message, ends. */
void sink_thread_run(struct sink_thread *thread);

#endif
