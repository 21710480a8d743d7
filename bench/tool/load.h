/* load: `ringpost-bench load`: sends messages at a server, as fast as it takes them or at a rate,
 * and says how it took them.
 * Does:    the plan that arguments make; threads, each with a ring, connections and histograms of
 *          its own; the report.
 * Owns:    the process.
 * Memory:  at the start only.
 * Threads: the plan is shared and not changed, but for messages_left (atomic).
 * Errors:  what the server does is counted; what fails here is told on stderr.
 */
#ifndef RINGPOST_BENCH_LOAD_H
#define RINGPOST_BENCH_LOAD_H

#include "bench/tool/distribution.h"
#include "bench/tool/histogram.h"
#include "bench/tool/ledger.h"
#include "core/config.h"
#include "core/io.h"
#include "tls/context.h"

#define LOAD_THREADS_MAX 64
#define LOAD_CONNECTIONS_MAX 1000000
#define LOAD_RECIPIENTS_MAX 1000

enum load_tls { LOAD_PLAIN, LOAD_STARTTLS, LOAD_IMPLICIT };
enum load_pipelining {
    LOAD_ONE_BY_ONE, /* each command waits for the reply to the one before */
    LOAD_GROUPS,     /* MAIL, RCPT and DATA in one go (RFC 2920) */
    LOAD_DEEP,       /* and the next message's behind the end of data */
};

/* Addresses to send from: base + 0 .. base + count - 1, each connection the next one. */
struct load_sources {
    struct config_address base;
    uint64_t count; /* 0: the kernel's choice */
};

struct load_plan {
    struct config_address to;
    const char *to_text, *tls_name, *helo, *from, *rcpt, *ledger;
    enum load_tls tls;
    bool resume; /* TLS sessions */
    struct tls_context *tls_context;
    unsigned threads;
    uint32_t connections;    /* of all threads */
    uint64_t per_connection; /* messages; UINT64_MAX: all */
    struct distribution size, idle;
    bool bdat, poisson, json, quiet, progress;
    uint64_t chunk_bytes;
    enum load_pipelining pipelining;
    uint32_t recipients;
    double rate;      /* arrivals a second; 0: closed loop */
    double open_rate; /* connections a second at most; 0: no limit */
    uint64_t warmup_ns, duration_ns, timeout_ns, drain_ns;
    uint64_t messages; /* UINT64_MAX: no limit but the time */
    struct load_sources sources;
    uint64_t seed;
    uint32_t run;
    /* Made of these at the start. */
    int ledger_file;
    struct pattern pattern;
    uint64_t begin_ns, measure_ns, stop_ns; /* of clock_now_ns(); stop_ns: UINT64_MAX, none */
    int64_t messages_left;                  /* atomic */
    char date[64];
    uint64_t head_bytes; /* in front of each body */
};

enum load_phase {
    PHASE_CONNECT, /* the TCP handshake */
    PHASE_TLS,
    PHASE_EHLO,     /* greeting and EHLO, without TLS */
    PHASE_ENVELOPE, /* MAIL to the reply to DATA, or to the last RCPT with BDAT */
    PHASE_REPLY,    /* the message's last octet handed to the kernel, to the final reply */
    PHASE_MESSAGE,  /* all of it, since the message was due */
    LOAD_PHASES
};

/* Which command a reply was for. */
enum load_expectation {
    EXPECT_GREETING,
    EXPECT_EHLO,
    EXPECT_STARTTLS,
    EXPECT_MAIL,
    EXPECT_RCPT,
    EXPECT_DATA,
    EXPECT_CHUNK,
    EXPECT_END,
    EXPECT_RSET,
    EXPECT_QUIT,
    LOAD_EXPECTATIONS
};

enum load_failure {
    FAILED_REFUSED, /* connection refused */
    FAILED_CONNECT, /* any other failure to connect */
    FAILED_RESET,
    FAILED_CLOSED, /* by the server, in the middle of something */
    FAILED_TIMEOUT,
    FAILED_TLS,
    FAILED_PROTOCOL, /* no SMTP reply, or STARTTLS not offered */
    FAILED_SERVICE,  /* 421, or a greeting or EHLO that refuses */
    FAILED_LOCAL,    /* no socket, no address, no memory */
    FAILED_IDLE,     /* closed by the server between two messages: its right, and no error */
    LOAD_FAILURES
};

#define LOAD_CODES 600

/* What a thread counts. Since the beginning, unless told otherwise. */
struct load_counts {
    uint64_t acknowledged, refused;    /* messages with 2xx, and with another final answer */
    uint64_t ambiguous;                /* sent whole, and no reply came */
    uint64_t broken;                   /* the connection ended before the message was sent whole */
    uint64_t bytes;                    /* of acknowledged messages */
    uint64_t measured, measured_bytes; /* acknowledged between warm-up and stop */
    uint64_t connections;              /* that were opened */
    uint64_t resumed;                  /* TLS sessions */
    uint64_t arrivals, dropped;        /* open loop; dropped: the backlog was full */
    uint64_t waiting;     /* open loop: arrived and not begun: now, at the end for ever */
    uint64_t open, ready; /* connections, now */
    uint64_t failures[LOAD_FAILURES];
    uint64_t codes[LOAD_EXPECTATIONS][LOAD_CODES]; /* replies of 4xx and 5xx */
};

/* What a thread shows to others. */
struct load_result {
    struct load_counts counts;
    struct histogram phases[LOAD_PHASES];
    uint64_t cpu_ns;   /* of the thread, between warm-up and stop */
    uint64_t ended_ns; /* when the last message was answered */
    int ledger_error;
    char error[IO_ERROR_BYTES]; /* it could not start */
};

/* --- load_options.c --- */
/* 0: go on; else an exit status + 1. */
MUST_USE int load_arguments(int argc, char **argv, struct load_plan *plan);
/* "127.0.0.0/8", "192.0.2.1-192.0.2.9". NULL, or what is wrong. */
MUST_USE const char *load_sources_parse(const char *text, struct load_sources *out);

/* --- load_thread.c --- */
struct load_thread;
MUST_USE struct load_thread *load_thread_create(struct load_plan *plan, unsigned index);
void load_thread_free(struct load_thread *thread);
/* Both in the thread itself. False: load_result.error says why. */
MUST_USE bool load_thread_prepare(struct load_thread *thread);
/* Runs until the plan, whose times are set by now, is done. */
void load_thread_run(struct load_thread *thread);
const struct load_result *load_thread_result(const struct load_thread *thread);
/* From a signal or the main thread: no new messages; a second time: at once. */
void load_thread_stop(struct load_thread *thread, bool at_once);

/* --- load_report.c --- */
/* Sums of all threads; *out is large. */
void load_sum(struct load_thread *const *threads, unsigned count, struct load_result *out);
/* One line of what goes on. last: what was there a second ago. */
void load_print_line(const struct load_plan *plan, const struct load_result *now,
                     const struct load_result *last, double seconds);
void load_print_report(const struct load_plan *plan, const struct load_result *sum);
void load_print_json(const struct load_plan *plan, const struct load_result *sum);

int load_main(int argc, char **argv);

#endif
