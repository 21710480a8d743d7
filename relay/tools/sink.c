/* Arguments, threads, signals and the summary of `ringpost sink`. */
#include "relay/tools/sink.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/config.h"
#include "relay/descriptors.h"
#include "relay/tools/argument.h"
#include "relay/tools/print.h"
#include "relay/tools/sink_thread.h"

#define DEFAULT_ADDRESS "127.0.0.1:2626"
#define THREADS_MAX 64
/* How often the file of --count-file is written at most. */
#define COUNT_INTERVAL_NS (100 * NS_PER_MS)

static const char usage_text[] =
    "ringpost sink: a next hop for tests and demos that accepts everything\n"
    "\n"
    "usage: ringpost sink [ADDRESS] [OPTIONS]         (default ADDRESS " DEFAULT_ADDRESS
    ", port 0: any)\n"
    "\n"
    "  --maildir DIR          write each message to DIR/new; without it they are counted\n"
    "  --lf                   with line ends LF\n"
    "  --count-file FILE      write running totals there, at most every 100 ms\n"
    "  --hostname NAME        what the greeting says (default: sink.example)\n"
    "  --tls starttls|implicit --certificate FILE --key FILE\n"
    "  --no-pipelining --no-chunking --no-8bitmime --no-smtputf8 --no-dsn --no-size --no-starttls\n"
    "                         do not offer this extension, and refuse it\n"
    "  --no-ehlo              refuse EHLO with 502\n"
    "  --size-max SIZE        largest message (default 1gb)\n"
    "  --recipients-max N     per message (default 100000)\n"
    "  --threads N            share the port among N threads (default 1)\n"
    "  --timeout TIME         close sessions that do nothing for so long (default 10min)\n"
    "  --fault SPEC           go wrong on demand; may be given several times\n"
    "  --seed N               make chance in faults repeatable\n"
    "  -v, --verbose          a line for each message and fault    -q, --quiet   errors only\n"
    "  -h, --help             this text\n"
    "\n"
    "SPEC is STAGE[~PATTERN]=ACTION[,CONDITION]...\n"
    "  STAGE      connect tls greeting ehlo helo starttls mail rcpt data body end rset quit;\n"
    "             mail~PATTERN (or from~PATTERN), rcpt~PATTERN: these addresses only (* and ?)\n"
    "  ACTION     CODE [ENHANCED] [TEXT]  this reply (\\n parts its lines); raw:TEXT  as it is\n"
    "             drop       close without a reply      stall       never reply\n"
    "             keep-drop  end only: keep the message, then drop   keep-stall  then stall\n"
    "             delay=TIME do it later, then what else applies\n"
    "             body=drop:N, body=stall:N  after N octets; body=slow:N  N octets a second\n"
    "  CONDITION  %PERCENT, after=N (from the Nth on), every=N, times=N (at most),\n"
    "             from~PATTERN, rcpt~PATTERN (of the transaction so far)\n"
    "  examples   --fault 'end=451 4.3.0 Busy,times=1'  --fault 'end=drop,%10'\n"
    "             --fault 'rcpt~bad*=550 5.1.1 No such user'  --fault 'greeting=delay=3s'\n";

struct arguments {
    struct config_address address;
    const char *certificate, *key, *count_file, *hostname;
    bool tls, no_starttls;
    unsigned threads;
};

enum option_key {
    OPTION_MAILDIR = 256,
    OPTION_LF,
    OPTION_COUNT_FILE,
    OPTION_HOSTNAME,
    OPTION_TLS,
    OPTION_CERTIFICATE,
    OPTION_KEY,
    OPTION_SIZE_MAX,
    OPTION_RECIPIENTS_MAX,
    OPTION_THREADS,
    OPTION_TIMEOUT,
    OPTION_FAULT,
    OPTION_SEED,
    OPTION_NO_STARTTLS,
    OPTION_WITHOUT = 4096, /* + enum receiver_extension */
};

static const struct option options[] = {
    { "maildir", required_argument, NULL, OPTION_MAILDIR },
    { "lf", no_argument, NULL, OPTION_LF },
    { "count-file", required_argument, NULL, OPTION_COUNT_FILE },
    { "hostname", required_argument, NULL, OPTION_HOSTNAME },
    { "tls", required_argument, NULL, OPTION_TLS },
    { "certificate", required_argument, NULL, OPTION_CERTIFICATE },
    { "key", required_argument, NULL, OPTION_KEY },
    { "size-max", required_argument, NULL, OPTION_SIZE_MAX },
    { "recipients-max", required_argument, NULL, OPTION_RECIPIENTS_MAX },
    { "threads", required_argument, NULL, OPTION_THREADS },
    { "timeout", required_argument, NULL, OPTION_TIMEOUT },
    { "fault", required_argument, NULL, OPTION_FAULT },
    { "seed", required_argument, NULL, OPTION_SEED },
    { "no-starttls", no_argument, NULL, OPTION_NO_STARTTLS },
    { "no-pipelining", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_PIPELINING },
    { "no-size", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_SIZE },
    { "no-8bitmime", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_8BITMIME },
    { "no-smtputf8", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_SMTPUTF8 },
    { "no-dsn", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_DSN },
    { "no-chunking", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_CHUNKING },
    { "no-ehlo", no_argument, NULL, OPTION_WITHOUT + (int)RECEIVER_EHLO },
    { "verbose", no_argument, NULL, 'v' },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* --- arguments --- */

static bool
tls_take(const char *value, struct sink *sink, struct arguments *arguments)
{
    arguments->tls = true;
    sink->implicit = strcmp(value, "implicit") == 0;
    return sink->implicit || strcmp(value, "starttls") == 0 ||
           argument_wrong(value, "is neither starttls nor implicit");
}

static bool
fault_take(const char *value, struct sink *sink)
{
    char error[SINK_FAULT_ERROR_BYTES];

    return sink_faults_add(&sink->faults, value, error) ||
           argument_refuse("--fault %s: %s", value, error);
}

static bool
numeric_option_take(int key, const char *value, struct sink *sink, struct arguments *arguments)
{
    switch (key) {
    case OPTION_SIZE_MAX: return argument_size(value, 1, INT64_MAX, &sink->policy.message_size_max);
    case OPTION_RECIPIENTS_MAX:
        return argument_number32(value, 1000000, &sink->policy.recipients_max);
    case OPTION_THREADS: return argument_number32(value, THREADS_MAX, &arguments->threads);
    case OPTION_SEED: return argument_number(value, 0, UINT64_MAX, &sink->seed);
    default: ASSERT(key == OPTION_TIMEOUT); return argument_duration(value, &sink->idle_ms);
    }
}

static bool
option_take(int key, const char *value, struct sink *sink, struct arguments *arguments)
{
    switch (key) {
    case OPTION_MAILDIR: sink->maildir = value; return true;
    case OPTION_LF: sink->lf = true; return true;
    case OPTION_COUNT_FILE: arguments->count_file = value; return true;
    case OPTION_HOSTNAME: arguments->hostname = value; return argument_host_name(value);
    case OPTION_TLS: return tls_take(value, sink, arguments);
    case OPTION_CERTIFICATE: arguments->certificate = value; return true;
    case OPTION_KEY: arguments->key = value; return true;
    case OPTION_FAULT: return fault_take(value, sink);
    case OPTION_NO_STARTTLS: arguments->no_starttls = true; return true;
    case 'v': sink->loudness = SINK_VERBOSE; return true;
    case 'q': sink->loudness = SINK_QUIET; return true;
    default:
        if (key < OPTION_WITHOUT)
            return numeric_option_take(key, value, sink, arguments);
        sink->policy.without |= (uint32_t)(key - OPTION_WITHOUT);
        return true;
    }
}

static bool
tls_prepare(struct sink *sink, const struct arguments *arguments)
{
    struct tls_certificate_files files = { .certificate = arguments->certificate,
                                           .key = arguments->key };
    struct tls_error error;

    if (!arguments->tls && arguments->certificate == NULL && arguments->key == NULL)
        return true;
    if (files.certificate == NULL)
        return argument_refuse("%s needs --certificate", arguments->tls ? "--tls" : "--key");
    if (files.key == NULL)
        files.key = files.certificate;
    sink->tls = tls_server_context_create(&files, 1, NULL, &error);
    if (error.text[0] != '\0')
        fprintf(stderr, "ringpost: sink: %s\n", error.text);
    sink->policy.starttls = sink->tls != NULL && !sink->implicit && !arguments->no_starttls;
    return sink->tls != NULL;
}

/* 0: go on; else an exit status + 1. */
static int
arguments_read(int argc, char **argv, struct sink *sink, struct arguments *arguments)
{
    const char *address = DEFAULT_ADDRESS;
    int key;

    argument_command("ringpost", "sink", usage_text);
    while ((key = argument_next(argc, argv, "vqh", options)) != -1) {
        if (key == 'h')
            return argument_help();
        if (key == '?' || !option_take(key, optarg, sink, arguments))
            return ARGUMENT_WRONG;
    }
    if (optind < argc)
        address = argv[optind++];
    if (!argument_none_left(argc, argv) || !argument_address(address, &arguments->address))
        return ARGUMENT_WRONG;
    sink->policy.hostname = span_text(arguments->hostname);
    return tls_prepare(sink, arguments) ? 0 : sink->tls == NULL && arguments->certificate ? 2 : 3;
}

/* --- threads --- */

static void *
thread_main(void *thread)
{
    sink_thread_run(thread);
    return NULL;
}

/* A listener for each thread, all on the port that the first one got. */
static bool
listen_all(struct sink_thread *threads, unsigned count, struct config_address *address)
{
    for (unsigned i = 0; i < count; i++) {
        threads[i].listener = io_listen(address, count > 1);
        if (threads[i].listener < 0) {
            fprintf(stderr, "ringpost: sink: cannot listen on port %u: %s\n", address->port,
                    io_error_text(threads[i].listener));
            return false;
        }
        address->port = io_port(threads[i].listener);
    }
    return true;
}

/* Waits until the thread runs or has failed. */
static bool
thread_started(struct sink_thread *thread)
{
    static const struct timespec short_while = { .tv_nsec = 1000000 };
    int state;

    while ((state = __atomic_load_n(&thread->state, __ATOMIC_ACQUIRE)) == SINK_THREAD_STARTING)
        nanosleep(&short_while, NULL);
    if (state == SINK_THREAD_FAILED)
        fprintf(stderr, "ringpost: sink: %s\n", thread->error);
    return state == SINK_THREAD_RUNNING;
}

/* --- totals --- */

struct totals {
    uint64_t connections, messages, bytes, refused, quits, faults, trusting;
};

static struct totals
totals_of(const struct sink_thread *threads, unsigned count)
{
    struct totals totals = { 0 };

    for (unsigned i = 0; i < count; i++) {
        const struct sink_thread *thread = &threads[i];

        totals.connections += counter_get(&thread->counters.connections_accepted);
        totals.messages += counter_get(&thread->counts.messages);
        totals.bytes += counter_get(&thread->counts.bytes);
        totals.refused += counter_get(&thread->counters.replies_4xx);
        totals.refused += counter_get(&thread->counters.replies_5xx);
        totals.quits += counter_get(&thread->counters.commands_quit);
        totals.faults += counter_get(&thread->counts.faults);
        totals.trusting += counter_get(&thread->counts.trusting);
    }
    return totals;
}

/* Whole or not at all, for readers: written beside it and moved over it. */
static void
count_file_write(const char *path, const struct totals *totals)
{
    char beside[4096];
    FILE *file;

    snprintf(beside, sizeof(beside), "%s.new", path);
    file = fopen(beside, "we");
    if (file == NULL) {
        fprintf(stderr, "ringpost: sink: %s: %s\n", beside, io_error_text(errno));
        return;
    }
    fprintf(file, "mesg=%llu sess=%llu quit=%llu bytes=%llu refused=%llu faults=%llu\n",
            (unsigned long long)totals->messages, (unsigned long long)totals->connections,
            (unsigned long long)totals->quits, (unsigned long long)totals->bytes,
            (unsigned long long)totals->refused, (unsigned long long)totals->faults);
    if (fclose(file) != 0 || rename(beside, path) != 0)
        fprintf(stderr, "ringpost: sink: %s: %s\n", path, io_error_text(errno));
}

static void
summary_print(const struct totals *totals)
{
    const struct print_count besides[] = {
        { totals->faults, "faults" },
        { totals->trusting, "commands pipelined though that was not offered" },
    };

    printf("sink: %llu connections, %llu messages, %llu bytes, %llu refused",
           (unsigned long long)totals->connections, (unsigned long long)totals->messages,
           (unsigned long long)totals->bytes, (unsigned long long)totals->refused);
    PRINT_COUNTS(", ", besides);
    printf("\n");
}

/* Until SIGINT or SIGTERM. */
static void
wait_for_end(const sigset_t *signals, const struct sink_thread *threads, unsigned count,
             const char *count_file)
{
    static const struct timespec interval = { .tv_nsec = COUNT_INTERVAL_NS };
    struct totals written, now;

    if (count_file == NULL) {
        while (sigwaitinfo(signals, NULL) < 0)
            ;
        return;
    }
    written = totals_of(threads, count);
    count_file_write(count_file, &written);
    while (sigtimedwait(signals, NULL, &interval) < 0) {
        now = totals_of(threads, count);
        if (memcmp(&now, &written, sizeof(now)) == 0)
            continue;
        count_file_write(count_file, &now);
        written = now;
    }
}

/* --- the process --- */

/* Starts the threads; the number that run. */
static unsigned
threads_start(struct sink *sink, struct sink_thread *threads, pthread_t *handles, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int error;

        threads[i].sink = sink;
        threads[i].index = i;
        error = pthread_create(&handles[i], NULL, thread_main, &threads[i]);
        if (error != 0) {
            fprintf(stderr, "ringpost: sink: cannot start a thread: %s\n", io_error_text(error));
            return i;
        }
        if (!thread_started(&threads[i])) {
            pthread_join(handles[i], NULL);
            return i;
        }
    }
    return count;
}

static void
threads_stop(struct io *io, struct sink_thread *threads, pthread_t *handles, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        io_post(io, threads[i].io, (struct io_ticket){ .kind = SINK_KIND_STOP }, 0);
    io_wait(io, 0);
    for (unsigned i = 0; i < count; i++)
        pthread_join(handles[i], NULL);
}

static int
serve(struct sink *sink, struct arguments *arguments, struct sink_thread *threads, struct io *io)
{
    pthread_t handles[THREADS_MAX];
    unsigned running;
    sigset_t signals;
    struct totals totals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* the threads inherit it */
    running = threads_start(sink, threads, handles, arguments->threads);
    if (running == arguments->threads) {
        if (sink->loudness != SINK_QUIET)
            print_listening(&arguments->address);
        wait_for_end(&signals, threads, running, arguments->count_file);
    }
    threads_stop(io, threads, handles, running);
    if (running < arguments->threads)
        return 1;
    totals = totals_of(threads, running);
    if (arguments->count_file != NULL)
        count_file_write(arguments->count_file, &totals);
    if (sink->loudness != SINK_QUIET)
        summary_print(&totals);
    return 0;
}

static int
start(struct sink *sink, struct arguments *arguments)
{
    struct io_options io_options = { .entries = 2 * THREADS_MAX, .completions = 4 * THREADS_MAX };
    size_t bytes = arguments->threads * sizeof(struct sink_thread);
    struct sink_thread *threads = io_memory(bytes);
    char error[IO_ERROR_BYTES];
    struct io *io;
    int status = 1;

    if (threads == NULL) {
        fprintf(stderr, "ringpost: sink: out of memory\n");
        return 1;
    }
    io = io_create(&io_options, error);
    if (io == NULL)
        fprintf(stderr, "ringpost: sink: %s\n", error);
    else if (listen_all(threads, arguments->threads, &arguments->address))
        status = serve(sink, arguments, threads, io);
    io_destroy(io);
    io_memory_free(threads, bytes);
    return status;
}

int
sink_main(int argc, char **argv)
{
    static struct sink sink; /* the faults make it too large for a stack */
    struct arguments arguments = { .hostname = "sink.example", .threads = 1 };
    int status;

    sink = (struct sink){
        .policy = { .message_size_max = UINT64_C(1) << 30,
                    .recipients_max = 100000,
                    .errors_max = UINT32_MAX - 1,
                    .transactions_max = UINT32_MAX,
                    .command_line_max = COMMAND_LINE_BYTES_MAX,
                    .text_line_max = UINT32_MAX,
                    .received_max = 1000 },
        .loudness = SINK_NORMAL,
        .idle_ms = 600000,
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getrandom(&sink.seed, sizeof(sink.seed), GRND_NONBLOCK) != sizeof(sink.seed))
        sink.seed = clock_now_ns();
    status = arguments_read(argc, argv, &sink, &arguments);
    if (status != 0)
        return status - 1;
    /* Each session may have a file of the Maildir open. */
    descriptors_raise(UINT64_C(2) * SINK_SESSIONS_MAX * arguments.threads + 64);
    status = start(&sink, &arguments);
    tls_context_release(sink.tls);
    return status;
}
