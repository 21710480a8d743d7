/* `ringpost-bench sink`: threads, signals, totals. */
#include "bench/tool/drain.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "relay/descriptors.h"
#include "relay/tools/print.h"

#define LOOK_NS (50 * NS_PER_MS)

struct crew {
    struct drain_plan *plan;
    struct drain_thread *threads[DRAIN_THREADS_MAX];
    pthread_t handles[DRAIN_THREADS_MAX];
    int listeners[DRAIN_THREADS_MAX];
    unsigned count;
};

static void *
thread_main(void *thread)
{
    drain_thread_run(thread);
    return NULL;
}

static void
line_add(char *text, size_t size, size_t *len, const char *keyword)
{
    *len += (size_t)snprintf(text + *len, size - *len, "250-%s\r\n", keyword);
}

static void
replies_make(struct drain_plan *plan)
{
    char *texts[2] = { plan->ehlo, plan->ehlo_tls };
    size_t lens[2], size = sizeof(plan->ehlo);

    plan->greeting_len = (size_t)snprintf(plan->greeting, sizeof(plan->greeting),
                                          "220 %s ESMTP ringpost-bench\r\n", plan->hostname);
    for (unsigned i = 0; i < 2; i++) {
        lens[i] = 0;
        line_add(texts[i], size, &lens[i], plan->hostname);
        if (!plan->no_pipelining)
            line_add(texts[i], size, &lens[i], "PIPELINING");
        if (!plan->no_chunking)
            line_add(texts[i], size, &lens[i], "CHUNKING");
        if (!plan->no_8bitmime)
            line_add(texts[i], size, &lens[i], "8BITMIME");
        if (!plan->no_size)
            line_add(texts[i], size, &lens[i], "SIZE 0");
        if (i == 0)
            line_add(texts[i], size, &lens[i], "STARTTLS");
        lens[i] +=
            (size_t)snprintf(texts[i] + lens[i], size - lens[i], "250 ENHANCEDSTATUSCODES\r\n");
    }
    plan->ehlo_len = lens[0];
    plan->ehlo_tls_len = lens[1];
}

/* False: said why. */
static bool
plan_prepare(struct drain_plan *plan)
{
    struct tls_certificate_files files = { .certificate = plan->certificate,
                                           .key =
                                               plan->key != NULL ? plan->key : plan->certificate };
    struct tls_error error;

    /* Fewer will do too: what cannot be accepted waits. */
    descriptors_raise((uint64_t)plan->sessions_max * plan->threads + 64);
    plan->ledger_file = -1;
    if (plan->certificate != NULL) {
        plan->tls = tls_server_context_create(&files, 1, NULL, &error);
        if (error.text[0] != '\0')
            fprintf(stderr, "ringpost-bench: sink: %s\n", error.text);
        if (plan->tls == NULL)
            return false;
    }
    if (plan->ledger != NULL) {
        plan->ledger_file = ledger_open(plan->ledger);
        if (plan->ledger_file < 0) {
            fprintf(stderr, "ringpost-bench: sink: %s: %s\n", plan->ledger,
                    io_error_text(plan->ledger_file));
            return false;
        }
    }
    replies_make(plan);
    return true;
}

/* --- threads --- */

static bool
crew_listen(struct crew *crew)
{
    struct drain_plan *plan = crew->plan;

    for (unsigned i = 0; i < plan->threads; i++) {
        crew->listeners[i] = io_listen(&plan->address, plan->threads > 1);
        if (crew->listeners[i] < 0) {
            fprintf(stderr, "ringpost-bench: sink: cannot listen on port %u: %s\n",
                    plan->address.port, io_error_text(crew->listeners[i]));
            return false;
        }
        plan->address.port = io_port(crew->listeners[i]);
    }
    return true;
}

static bool
crew_start(struct crew *crew)
{
    static const struct timespec moment = { .tv_nsec = 1000000 };

    for (unsigned i = 0; i < crew->plan->threads; i++) {
        int state;

        crew->threads[i] = drain_thread_create(crew->plan, i, crew->listeners[i]);
        if (crew->threads[i] == NULL ||
            pthread_create(&crew->handles[i], NULL, thread_main, crew->threads[i]) != 0) {
            drain_thread_free(crew->threads[i]);
            fprintf(stderr, "ringpost-bench: sink: cannot start its threads\n");
            return false;
        }
        crew->count++;
        while ((state = drain_thread_state(crew->threads[i])) == 0)
            nanosleep(&moment, NULL);
        if (state < 0) {
            fprintf(stderr, "ringpost-bench: sink: %s\n", drain_thread_error(crew->threads[i]));
            return false;
        }
    }
    return true;
}

static struct drain_counts
crew_counts(const struct crew *crew)
{
    struct drain_counts sum = { 0 };
    uint64_t *to = (uint64_t *)(void *)&sum;

    _Static_assert(sizeof(sum) % sizeof(uint64_t) == 0, "nothing but counts");
    for (unsigned i = 0; i < crew->count; i++) {
        const uint64_t *from =
            (const uint64_t *)(const void *)drain_thread_counts(crew->threads[i]);

        for (size_t j = 0; j < sizeof(sum) / sizeof(uint64_t); j++)
            to[j] += __atomic_load_n(&from[j], __ATOMIC_RELAXED);
    }
    return sum;
}

/* --- what is said --- */

static void
totals_print(const struct drain_counts *counts)
{
    const struct print_count besides[] = {
        { counts->refused, "refused" },
        { counts->unanswered, "left without an answer" },
        { counts->cut, "cut short by clients" },
        { counts->foreign, "not from ringpost-bench load" },
        { counts->faults, "faults" },
        { counts->unknown, "unknown commands" },
        { counts->tls_failures, "TLS handshakes failed" },
    };

    printf("%llu messages, %llu recipients, %llu octets over %llu connections",
           (unsigned long long)counts->messages, (unsigned long long)counts->recipients,
           (unsigned long long)counts->bytes, (unsigned long long)counts->connections);
    PRINT_COUNTS(", ", besides);
    printf("\n");
}

static void
totals_json(const struct drain_counts *counts, double cpu_seconds)
{
    const struct print_count all[] = {
        { counts->messages, "messages" },
        { counts->recipients, "recipients" },
        { counts->bytes, "bytes" },
        { counts->connections, "connections" },
        { counts->refused, "refused" },
        { counts->unanswered, "unanswered" },
        { counts->cut, "cut" },
        { counts->foreign, "foreign" },
        { counts->faults, "faults" },
        { counts->delays, "delays" },
        { counts->unknown, "unknown_commands" },
        { counts->handshakes, "tls_handshakes" },
        { counts->tls_failures, "tls_failures" },
    };

    printf("{\"version\": \"%s\", ", RINGPOST_VERSION);
    PRINT_COUNTS_JSON(all);
    printf(", \"cpu_seconds\": %.6f}\n", cpu_seconds);
}

/* Until SIGINT or SIGTERM: a line each second in which something came. */
static void
crew_watch(struct crew *crew, const sigset_t *signals)
{
    static const struct timespec look = { .tv_nsec = LOOK_NS };
    bool terminal = isatty(STDERR_FILENO) != 0;
    bool live = !crew->plan->quiet && (terminal || crew->plan->progress);
    uint64_t last_ns = clock_now_ns(), last = 0, now_ns;

    while (sigtimedwait(signals, NULL, &look) <= 0) {
        struct drain_counts counts;

        now_ns = clock_now_ns();
        if (!live || now_ns - last_ns < NS_PER_S)
            continue;
        counts = crew_counts(crew);
        if (counts.messages != last)
            fprintf(stderr, "%s%9.1f/s  %llu messages  %llu open%s", terminal ? "\r\033[K" : "",
                    (double)(counts.messages - last) * 1e9 / (double)(now_ns - last_ns),
                    (unsigned long long)counts.messages, (unsigned long long)counts.open,
                    terminal ? "" : "\n");
        last = counts.messages;
        last_ns = now_ns;
    }
    if (terminal && live)
        fprintf(stderr, "\r\033[K");
}

static double
cpu_seconds_used(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int
serve(struct crew *crew)
{
    sigset_t signals;
    bool good;
    int status = 3;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* the threads inherit it */
    good = crew_start(crew);
    if (good) {
        if (!crew->plan->quiet && !crew->plan->json)
            print_listening(&crew->plan->address);
        crew_watch(crew, &signals);
        status = 0;
    }
    for (unsigned i = 0; i < crew->count; i++)
        drain_thread_stop(crew->threads[i]);
    for (unsigned i = 0; i < crew->count; i++) {
        pthread_join(crew->handles[i], NULL);
        if (drain_thread_ledger_error(crew->threads[i]) != 0) {
            fprintf(stderr, "ringpost-bench: sink: %s: %s\n", crew->plan->ledger,
                    io_error_text(drain_thread_ledger_error(crew->threads[i])));
            status = 3;
        }
    }
    if (good) {
        struct drain_counts counts = crew_counts(crew);

        if (crew->plan->json)
            totals_json(&counts, cpu_seconds_used());
        else
            totals_print(&counts);
    }
    for (unsigned i = 0; i < crew->count; i++)
        drain_thread_free(crew->threads[i]);
    return status;
}

int
drain_main(int argc, char **argv)
{
    static struct drain_plan plan; /* the faults make it too large for a stack */
    struct crew crew = { .plan = &plan };
    int status;

    plan = (struct drain_plan){
        .hostname = "sink.bench.example",
        .threads = 1,
        .sessions_max = 65536,
        .idle_ns = 600 * NS_PER_S,
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getrandom(&plan.seed, sizeof(plan.seed), GRND_NONBLOCK) != sizeof(plan.seed))
        plan.seed = clock_now_ns();
    status = drain_arguments(argc, argv, &plan);
    if (status != 0)
        return status - 1;
    status = plan_prepare(&plan) && crew_listen(&crew) ? serve(&crew) : 3;
    tls_context_release(plan.tls);
    if (plan.ledger_file >= 0)
        io_close_now(plan.ledger_file);
    return status;
}
