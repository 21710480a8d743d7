/* `ringpost-bench load`: threads, signals, progress. */
#include "bench/tool/load.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "bench/tool/load_private.h"
#include "core/clock.h"
#include "relay/descriptors.h"

#define LOOK_NS (50 * NS_PER_MS)

struct crew {
    struct load_plan *plan;
    struct load_thread *threads[LOAD_THREADS_MAX];
    pthread_t handles[LOAD_THREADS_MAX];
    unsigned count;
    int running, prepared; /* atomic */
    pthread_barrier_t prepare, begin;
};

struct start {
    struct crew *crew;
    unsigned index;
};

static void *
thread_main(void *argument)
{
    struct start *start = argument;

    struct crew *crew = start->crew;
    struct load_thread *thread = crew->threads[start->index];

    free(start);
    if (load_thread_prepare(thread))
        __atomic_fetch_add(&crew->prepared, 1, __ATOMIC_RELAXED);
    pthread_barrier_wait(&crew->prepare);
    pthread_barrier_wait(&crew->begin);
    /* All or none: a rate is shared out among them. */
    if (__atomic_load_n(&crew->prepared, __ATOMIC_RELAXED) == (int)crew->plan->threads)
        load_thread_run(thread);
    __atomic_fetch_sub(&crew->running, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Files beside the connections. */
#define FILES_BESIDE 64

static void
descriptors_look(const struct load_plan *plan)
{
    uint64_t wanted = (uint64_t)plan->connections + FILES_BESIDE;
    uint64_t limit = descriptors_raise(wanted);

    if (limit < wanted)
        fprintf(stderr,
                "ringpost-bench: load: only %llu files may be open (ulimit -n): fewer connections "
                "than %u will be\n",
                (unsigned long long)limit, plan->connections);
}

/* False: said why. */
static bool
plan_prepare(struct load_plan *plan)
{
    struct tls_client_options tls = { .verification = TLS_VERIFICATION_NONE };
    struct tls_error error;
    time_t now = time(NULL);
    struct tm parts;

    plan->ledger_file = -1;
    if (plan->ledger != NULL) {
        plan->ledger_file = ledger_open(plan->ledger);
        if (plan->ledger_file < 0) {
            fprintf(stderr, "ringpost-bench: load: %s: %s\n", plan->ledger,
                    io_error_text(plan->ledger_file));
            return false;
        }
    }
    if (plan->tls != LOAD_PLAIN) {
        plan->tls_context = tls_client_context_create(&tls, &error);
        if (plan->tls_context == NULL) {
            fprintf(stderr, "ringpost-bench: load: %s\n", error.text);
            return false;
        }
    }
    gmtime_r(&now, &parts);
    strftime(plan->date, sizeof(plan->date), "%a, %d %b %Y %H:%M:%S +0000", &parts);
    plan->head_bytes = load_head_bytes(plan);
    plan->messages_left = plan->messages == UINT64_MAX ? 0 : (int64_t)plan->messages;
    if (!pattern_create(&plan->pattern, distribution_most(&plan->size))) {
        fprintf(stderr, "ringpost-bench: load: out of memory\n");
        return false;
    }
    return true;
}

static void
times_set(struct load_plan *plan)
{
    plan->begin_ns = clock_now_ns();
    plan->measure_ns = plan->begin_ns + plan->warmup_ns;
    plan->stop_ns = plan->duration_ns == 0 ? UINT64_MAX : plan->measure_ns + plan->duration_ns;
}

static bool
crew_start(struct crew *crew)
{
    if (pthread_barrier_init(&crew->prepare, NULL, crew->plan->threads + 1) != 0 ||
        pthread_barrier_init(&crew->begin, NULL, crew->plan->threads + 1) != 0)
        return false;
    for (unsigned i = 0; i < crew->plan->threads; i++) {
        struct start *start = malloc(sizeof(*start));

        crew->threads[i] = load_thread_create(crew->plan, i);
        if (start == NULL || crew->threads[i] == NULL) {
            free(start);
            return false;
        }
        *start = (struct start){ .crew = crew, .index = i };
        crew->count++;
        __atomic_fetch_add(&crew->running, 1, __ATOMIC_RELAXED);
        if (pthread_create(&crew->handles[i], NULL, thread_main, start) != 0) {
            __atomic_fetch_sub(&crew->running, 1, __ATOMIC_RELAXED);
            crew->count--;
            load_thread_free(crew->threads[i]);
            free(start);
            return false;
        }
    }
    return true;
}

static void
crew_stop(struct crew *crew, bool at_once)
{
    for (unsigned i = 0; i < crew->count; i++)
        load_thread_stop(crew->threads[i], at_once);
}

/* Until all threads have ended: a line each second, and signals. */
static void
crew_watch(struct crew *crew, const sigset_t *signals, bool live, bool terminal)
{
    static const struct timespec look = { .tv_nsec = LOOK_NS };
    static struct load_result results[2];
    uint64_t last_ns = clock_now_ns(), now_ns;
    unsigned which = 0;
    bool signalled = false, shown = false;

    while (__atomic_load_n(&crew->running, __ATOMIC_ACQUIRE) > 0) {
        if (sigtimedwait(signals, NULL, &look) > 0) {
            crew_stop(crew, signalled);
            signalled = true;
        }
        now_ns = clock_now_ns();
        if (!live || now_ns - last_ns < NS_PER_S)
            continue;
        load_sum(crew->threads, crew->count, &results[which]);
        if (terminal)
            fprintf(stderr, "\r\033[K");
        load_print_line(crew->plan, &results[which], &results[1 - which],
                        (double)(now_ns - last_ns) / 1e9);
        if (!terminal)
            fprintf(stderr, "\n");
        fflush(stderr);
        shown = true;
        which = 1 - which;
        last_ns = now_ns;
    }
    if (terminal && shown)
        fprintf(stderr, "\r\033[K");
}

/* The exit status that the result is worth; says what failed here. */
static int
status_of(const struct crew *crew, const struct load_result *sum)
{
    uint64_t bad = sum->counts.refused + sum->counts.ambiguous + sum->counts.broken +
                   sum->counts.dropped + sum->counts.waiting;

    for (unsigned i = 0; i < crew->count; i++) {
        const struct load_result *result = load_thread_result(crew->threads[i]);

        if (result->error[0] != '\0') {
            fprintf(stderr, "ringpost-bench: load: %s\n", result->error);
            return 3;
        }
        if (result->ledger_error != 0) {
            fprintf(stderr, "ringpost-bench: load: %s: %s\n", crew->plan->ledger,
                    io_error_text(result->ledger_error));
            return 3;
        }
    }
    for (unsigned i = 0; i < LOAD_FAILURES; i++)
        bad += i != FAILED_IDLE ? sum->counts.failures[i] : 0;
    return bad > 0 ? 1 : 0;
}

static int
run(struct crew *crew)
{
    static struct load_result sum;
    struct load_plan *plan = crew->plan;
    bool terminal = isatty(STDERR_FILENO) != 0;
    int status;
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* the threads inherit it */
    if (!crew_start(crew)) {
        fprintf(stderr, "ringpost-bench: load: cannot start its threads\n");
        _exit(3); /* those that were started wait for the others for ever */
    }
    pthread_barrier_wait(&crew->prepare);
    times_set(plan);
    pthread_barrier_wait(&crew->begin);
    crew_watch(crew, &signals, !plan->quiet && (terminal || plan->progress), terminal);
    for (unsigned i = 0; i < crew->count; i++)
        pthread_join(crew->handles[i], NULL);
    load_sum(crew->threads, crew->count, &sum);
    status = status_of(crew, &sum);
    if (status != 3) {
        if (plan->json)
            load_print_json(plan, &sum);
        else
            load_print_report(plan, &sum);
    }
    for (unsigned i = 0; i < crew->count; i++)
        load_thread_free(crew->threads[i]);
    return status;
}

int
load_main(int argc, char **argv)
{
    struct load_plan plan = {
        .helo = "bench.example",
        .from = "sender@bench.example",
        .rcpt = "rcpt-%r@bench.example",
        .threads = 1,
        .connections = 50,
        .per_connection = UINT64_MAX,
        .poisson = true,
        .pipelining = LOAD_GROUPS,
        .recipients = 1,
        .timeout_ns = 60 * NS_PER_S,
        .drain_ns = 10 * NS_PER_S,
        .messages = UINT64_MAX,
    };
    struct crew crew = { .plan = &plan };
    int status;

    if (getrandom(&plan.seed, sizeof(plan.seed), GRND_NONBLOCK) != sizeof(plan.seed))
        plan.seed = clock_realtime_ns();
    plan.run = (uint32_t)(plan.seed >> 16 ^ clock_realtime_ns() / NS_PER_MS);
    status = load_arguments(argc, argv, &plan);
    if (status != 0)
        return status - 1;
    descriptors_look(&plan);
    status = plan_prepare(&plan) ? run(&crew) : 3;
    pattern_free(&plan.pattern);
    tls_context_release(plan.tls_context);
    if (plan.ledger_file >= 0)
        io_close_now(plan.ledger_file);
    return status;
}
