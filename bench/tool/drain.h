/* drain: `ringpost-bench sink`: a next hop that costs as little as one can.
 * Does:    answers SMTP with constant replies and looks at no more than it must; delays and faults
 *          on demand (the language of `ringpost sink --fault`); a ledger of what came.
 * Owns:    the process.
 * Memory:  pools of fixed size, touched as they are needed.
 * Threads: the plan is shared and not changed, but for what faults count (atomic).
 * Errors:  what clients do is counted; what fails here is told on stderr.
 */
#ifndef RINGPOST_BENCH_DRAIN_H
#define RINGPOST_BENCH_DRAIN_H

#include "bench/tool/distribution.h"
#include "bench/tool/ledger.h"
#include "core/config.h"
#include "core/io.h"
#include "relay/tools/sink_faults.h"
#include "tls/context.h"

#define DRAIN_THREADS_MAX 64

struct drain_plan {
    struct config_address address;
    const char *hostname, *certificate, *key, *ledger;
    struct tls_context *tls;
    bool implicit, json, quiet, progress;
    bool no_pipelining, no_chunking, no_8bitmime, no_size;
    unsigned threads;
    uint32_t sessions_max; /* of a thread */
    uint64_t idle_ns;
    struct sink_faults faults;
    struct distribution delays[SINK_STAGES];
    uint64_t seed;
    int ledger_file;
    char ehlo[512], ehlo_tls[512]; /* the reply, before and after STARTTLS */
    size_t ehlo_len, ehlo_tls_len;
    char greeting[320];
    size_t greeting_len;
};

struct drain_counts {
    uint64_t connections, open, handshakes, tls_failures;
    uint64_t messages, recipients, bytes; /* answered 2xx */
    uint64_t refused;                     /* messages that a fault refused behind the dot */
    uint64_t unanswered;                  /* that came whole and got no answer, by a fault */
    uint64_t foreign;                     /* with a ledger: without an identity of load's */
    uint64_t cut;                         /* the client went away in the middle of one */
    uint64_t faults, delays, unknown;     /* unknown: commands */
};

struct drain_thread;
MUST_USE struct drain_thread *drain_thread_create(struct drain_plan *plan, unsigned index,
                                                  int listener);
void drain_thread_free(struct drain_thread *thread);
/* Runs until it is told to stop. */
void drain_thread_run(struct drain_thread *thread);
void drain_thread_stop(struct drain_thread *thread);
const struct drain_counts *drain_thread_counts(const struct drain_thread *thread);
/* After it has ended. */
const char *drain_thread_error(const struct drain_thread *thread);
/* 1: runs; -1: could not start; 0: not yet. */
int drain_thread_state(const struct drain_thread *thread);
int drain_thread_ledger_error(const struct drain_thread *thread);

/* --- drain_options.c --- */
/* 0: go on; else an exit status + 1. */
MUST_USE int drain_arguments(int argc, char **argv, struct drain_plan *plan);

int drain_main(int argc, char **argv);

#endif
