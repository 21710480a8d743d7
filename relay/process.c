/* Start, signals, reload and end of the relay process. */
#include "relay/process.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/io.h"
#include "core/log.h"
#include "relay/descriptors.h"
#include "relay/queue/control_server.h"
#include "relay/relay.h"
#include "relay/sandbox/confine.h"
#include "relay/stats/stats_server.h"

#ifndef RINGPOST_VERSION
#define RINGPOST_VERSION "0.1.0"
#endif
const char ringpost_version[] = RINGPOST_VERSION;

struct process {
    struct config *config;
    struct relay relay;
    struct io *io; /* only to post messages to the workers */
    pthread_t *threads;
    bool *running;             /* threads that were started */
    uint32_t ended;            /* atomic: threads that left worker_run() */
    uint32_t failed;           /* atomic: threads that could not start */
    struct relay_tls *retired; /* replaced by a reload, still used by a worker */
    struct stats_server *stats;
    struct process_values values;
    struct stats_hop *stat_hops;
    struct stats_certificate *stat_certificates;
    uint32_t stat_certificate_count;
    const struct counters **stat_workers;
    const struct hop_counters **stat_hop_counters;
    cpu_set_t cpus;
    struct confine confine;
};

struct thread_start {
    struct process *process;
    struct worker *worker;
    int cpu;
};

static void *
allocate(size_t count, size_t bytes)
{
    void *memory = calloc(count > 0 ? count : 1, bytes);

    if (memory == NULL) {
        fprintf(stderr, "ringpost: out of memory\n");
        exit(1);
    }
    return memory;
}

bool
process_check(const struct config *config)
{
    struct tls_error error;
    struct relay_tls *tls = relay_tls_load(config, &error);

    if (tls == NULL) {
        fprintf(stderr, "%s: error: tls: %s\n", config->file, error.text);
        return false;
    }
    relay_tls_release(tls, config);
    return true;
}

/* --- next hops' addresses --- */

static void
resolve(const struct config_server *server, struct config_address *out)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
    int result;

    if (server->numeric)
        return;
    result = getaddrinfo(server->host, NULL, &hints, &found);
    if (result != 0) {
        log_plain(LOG_LEVEL_WARNING, "next hop server %s: %s", server->text, gai_strerror(result));
        return;
    }
    if (found->ai_family == AF_INET) {
        out->family = CONFIG_ADDRESS_IPV4;
        memcpy(out->ip, &((const struct sockaddr_in *)(const void *)found->ai_addr)->sin_addr, 4);
    } else if (found->ai_family == AF_INET6) {
        out->family = CONFIG_ADDRESS_IPV6;
        memcpy(out->ip, &((const struct sockaddr_in6 *)(const void *)found->ai_addr)->sin6_addr,
               16);
    }
    freeaddrinfo(found);
}

static void
resolve_all(struct process *process)
{
    const struct config *config = process->config;

    for (size_t i = 0; i < config->next_hop_count; i++)
        for (size_t j = 0; j < config->next_hops[i].server_count; j++)
            resolve(&config->next_hops[i].servers[j], &process->relay.hop_addresses[i][j]);
}

/* --- threads --- */

static void
pin(int cpu)
{
    cpu_set_t one;

    if (cpu < 0)
        return;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    /* Not being allowed to pin costs speed, nothing else. */
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
}

/* A wake-up of SCHED_BATCH does not interrupt what runs on the core: more has come in by the time
 * the worker runs, and there are fewer switches. Where source and sink share the cores with two
 * workers a message takes 95 us instead of 135 (one each), 37 instead of 52 (reused); with a core
 * to itself nothing changes. Whoever chose another policy before us (systemd, chrt) keeps it. */
static void
schedule(enum config_scheduling scheduling)
{
    const struct sched_param none = { .sched_priority = 0 };

    if (scheduling == CONFIG_SCHEDULING_BATCH && sched_getscheduler(0) == SCHED_OTHER)
        sched_setscheduler(0, SCHED_BATCH, &none); /* not being allowed to costs speed only */
}

static int
cpu_number(const cpu_set_t *cpus, uint32_t n)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, cpus) && n-- == 0)
            return cpu;
    return -1;
}

static void *
worker_thread(void *argument)
{
    struct thread_start start = *(struct thread_start *)argument;
    char error[IO_ERROR_BYTES];
    char name[16];

    free(argument);
    snprintf(name, sizeof(name), "worker-%u", start.worker->index);
    pthread_setname_np(pthread_self(), name);
    pin(start.cpu);
    schedule(start.process->config->scheduling);
    if (!log_thread_attach())
        log_plain(LOG_LEVEL_WARNING, "worker %u: no log ring of its own", start.worker->index);
    if (!worker_start(start.worker, error)) {
        log_plain(LOG_LEVEL_ERROR, "worker %u: %s", start.worker->index, error);
        __atomic_add_fetch(&start.process->failed, 1, __ATOMIC_RELEASE);
        return NULL;
    }
    sandbox_thread(FILTER_WORKER);
    worker_run(start.worker);
    __atomic_add_fetch(&start.process->ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

static bool
threads_start(struct process *process)
{
    struct relay *relay = &process->relay;
    uint32_t cpus = (uint32_t)CPU_COUNT(&process->cpus);

    for (uint32_t i = 0; i < relay->worker_count; i++) {
        struct thread_start *start = allocate(1, sizeof(*start));

        *start = (struct thread_start){
            .process = process,
            .worker = &relay->workers[i],
            /* More workers than cores: pinning two to one would leave others idle. */
            .cpu = relay->worker_count <= cpus ? cpu_number(&process->cpus, i) : -1,
        };
        if (pthread_create(&process->threads[i], NULL, worker_thread, start) != 0) {
            free(start);
            log_plain(LOG_LEVEL_ERROR, "cannot create a thread for worker %u", i);
            return false;
        }
        process->running[i] = true;
    }
    /* Until each has its ring or has said why not. */
    for (uint32_t i = 0; i < relay->worker_count; i++)
        while (!__atomic_load_n(&relay->workers[i].started, __ATOMIC_ACQUIRE)) {
            if (__atomic_load_n(&process->failed, __ATOMIC_ACQUIRE) > 0)
                return false;
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
        }
    return true;
}

static void
post_all(struct process *process, enum worker_kind kind)
{
    for (uint32_t i = 0; i < process->relay.worker_count; i++)
        io_post(process->io, process->relay.workers[i].io,
                (struct io_ticket){ .kind = (uint8_t)kind }, 0);
    io_wait(process->io, 0);
}

/* --- statistics --- */

/* A new list: the server may still be reading the one before. */
static void
certificates_fill(struct process *process)
{
    const struct config *config = process->config;
    size_t count = process->relay.tls->server != NULL ? config->certificate_count : 0;
    struct stats_certificate *list = allocate(count, sizeof(*list));

    for (size_t i = 0; i < count; i++)
        list[i] = (struct stats_certificate){
            .name = config->certificates[i].certificate,
            .not_after_second =
                tls_context_certificate_expiry_seconds(process->relay.tls->server, i),
        };
    process->stat_certificates = list;
    process->stat_certificate_count = (uint32_t)count;
}

static struct stats_source
stats_source(struct process *process)
{
    return (struct stats_source){ .version = ringpost_version,
                                  .workers = process->stat_workers,
                                  .hop_counters = process->stat_hop_counters,
                                  .hops = process->stat_hops,
                                  .certificates = process->stat_certificates,
                                  .process = &process->values,
                                  .worker_count = process->relay.worker_count,
                                  .hop_count = (uint32_t)process->config->next_hop_count,
                                  .certificate_count = process->stat_certificate_count };
}

/* After a reload: other dates. */
static void
stats_certificates_update(struct process *process)
{
    struct stats_certificate *before = process->stat_certificates;
    struct stats_source source;

    if (process->stats == NULL)
        return;
    certificates_fill(process);
    source = stats_source(process);
    stats_server_update(process->stats, &source);
    free(before);
}

/* The sockets, while the process may still make some. */
static bool
stats_listen(struct process *process)
{
    const struct config *config = process->config;
    struct relay *relay = &process->relay;
    char error[STATS_ERROR_BYTES];

    if (config->stats.address_count == 0 && !process->relay.spool_open)
        return true;
    if (process->relay.spool_open) {
        __atomic_store_n(&relay->control, control_create(relay), __ATOMIC_RELEASE);
        if (relay->control == NULL) {
            log_plain(LOG_LEVEL_ERROR, "no memory for `ringpost queue`");
            return false;
        }
    }
    process->stats = stats_server_open(config->stats.addresses, config->stats.address_count,
                                       relay->control, error);
    if (process->stats == NULL)
        log_plain(LOG_LEVEL_ERROR, "stats: %s", error);
    return process->stats != NULL;
}

static bool
stats_start(struct process *process)
{
    const struct config *config = process->config;
    struct relay *relay = &process->relay;
    char error[STATS_ERROR_BYTES];
    struct stats_source source;

    process->values.start_time_ns = clock_realtime_ns();
    process->values.config_reload_time_ns = process->values.start_time_ns;
    process->values.config_reload_ok = 1;
    process->values.workers = relay->worker_count;
    process->values.sandbox_landlock = (uint64_t)process->confine.report.landlock_abi;
    process->values.sandbox_seccomp = process->confine.report.seccomp;
    process->values.sandbox_rings = io_restricted(process->io);
    process->values.sandbox_user = !process->confine.privileges.root;
    if (process->stats == NULL)
        return true;
    process->stat_hops = allocate(config->next_hop_count, sizeof(struct stats_hop));
    process->stat_workers = allocate(relay->worker_count, sizeof(void *));
    process->stat_hop_counters = allocate(relay->worker_count, sizeof(void *));
    for (size_t i = 0; i < config->next_hop_count; i++)
        process->stat_hops[i] = (struct stats_hop){
            .name = config->next_hops[i].name,
            .servers = (uint32_t)config->next_hops[i].server_count,
        };
    for (uint32_t i = 0; i < relay->worker_count; i++) {
        process->stat_workers[i] = &relay->workers[i].counters;
        process->stat_hop_counters[i] = relay->workers[i].hop_counters;
    }
    certificates_fill(process);
    source = stats_source(process);
    if (stats_server_start(process->stats, &source, error))
        return true;
    log_plain(LOG_LEVEL_ERROR, "stats: %s", error);
    return false;
}

/* --- reload --- */

static bool
all_use(const struct process *process, const struct relay_tls *tls)
{
    for (uint32_t i = 0; i < process->relay.worker_count; i++)
        if (__atomic_load_n(&process->relay.workers[i].tls, __ATOMIC_ACQUIRE) != tls)
            return false;
    return true;
}

static void
retire(struct process *process)
{
    if (process->retired == NULL || !all_use(process, process->relay.tls))
        return;
    relay_tls_release(process->retired, process->config);
    process->retired = NULL;
}

static void
reload(struct process *process)
{
    struct tls_error error;
    struct relay_tls *tls;

    log_reopen();
    if (process->retired != NULL) {
        log_plain(LOG_LEVEL_WARNING, "reload: the last one is still under way, try again");
        return;
    }
    tls = relay_tls_load(process->config, &error);
    if (tls == NULL) {
        log_plain(LOG_LEVEL_ERROR, "reload: tls: %s; the certificates in use stay", error.text);
        counter_set(&process->values.config_reload_ok, 0);
        return;
    }
    process->retired = process->relay.tls;
    __atomic_store_n(&process->relay.tls, tls, __ATOMIC_RELEASE);
    post_all(process, WORKER_RELOAD);
    stats_certificates_update(process);
    counter_set(&process->values.config_reload_ok, 1);
    counter_set(&process->values.config_reload_time_ns, clock_realtime_ns());
    log_plain(LOG_LEVEL_NOTICE, "reload: certificates read again, log opened again; a new "
                                "configuration needs a restart");
}

/* --- the main thread --- */

static void
wait_for_signals(struct process *process, const sigset_t *signals)
{
    const struct timespec second = { .tv_sec = 1 }, short_while = { .tv_nsec = 20000000 };
    bool draining = false;

    while (__atomic_load_n(&process->ended, __ATOMIC_ACQUIRE) < process->relay.worker_count) {
        int signal =
            sigtimedwait(signals, NULL, draining || process->retired ? &short_while : &second);

        retire(process);
        if (signal == SIGHUP) {
            reload(process);
        } else if (signal == SIGTERM || signal == SIGINT) {
            if (draining) {
                log_plain(LOG_LEVEL_NOTICE, "second signal: ending at once");
                log_flush(200);
                _exit(0);
            }
            draining = true;
            counter_set(&process->values.draining, 1);
            log_plain(LOG_LEVEL_NOTICE, "draining: no new connections; at most %llu s",
                      (unsigned long long)(process->config->timeouts.drain_ms / 1000));
            post_all(process, WORKER_DRAIN);
        }
    }
}

/* The log too is opened as the user: it will be opened again as the user. */
static bool
user_take(struct process *process)
{
    char error[PRIVILEGES_ERROR_BYTES];

    if (!privileges_find(&process->confine.privileges, process->config->user, error)) {
        fprintf(stderr, "ringpost: %s\n", error);
        return false;
    }
    privileges_lower(&process->confine.privileges);
    return true;
}

static bool
log_begin_from(const struct config *config)
{
    static const enum log_target targets[] = { [CONFIG_LOG_TARGET_STDERR] = LOG_TARGET_STDERR,
                                               [CONFIG_LOG_TARGET_SYSLOG] = LOG_TARGET_SYSLOG,
                                               [CONFIG_LOG_TARGET_FILE] = LOG_TARGET_FILE };
    struct log_options options = { .target = targets[config->log.target],
                                   .format = config->log.format == CONFIG_LOG_FORMAT_JSON
                                                 ? LOG_FORMAT_JSON
                                                 : LOG_FORMAT_TEXT,
                                   .level = LOG_LEVEL_INFO,
                                   .path = config->log.path };
    int error = log_start(&options);

    if (error != 0)
        fprintf(stderr, "ringpost: cannot write the log%s%s: %s\n",
                config->log.path != NULL ? " to " : "",
                config->log.path != NULL ? config->log.path : "", strerror(error));
    return error == 0;
}

/* What the TLS library may hold: an idle connection takes 3 KiB, one in its handshake some ten
 * times that. */
#define TLS_BYTES_FIXED (64u << 20)
#define TLS_BYTES_PER_CONNECTION (32u << 10)

static void
tls_memory_bound(const struct config *config, uint32_t workers)
{
    uint64_t connections = config->limits.connections;

    for (size_t i = 0; i < config->next_hop_count; i++)
        connections += (uint64_t)config->next_hops[i].connections * workers;
    tls_memory_limit((size_t)(TLS_BYTES_FIXED + connections * TLS_BYTES_PER_CONNECTION));
}

/* Client and next-hop sockets, listeners, rings: as many as the limits say, if we may. */
static void
descriptors_look(const struct config *config, uint32_t workers)
{
    uint64_t wanted = config->limits.connections + 256, allowed;

    for (size_t i = 0; i < config->next_hop_count; i++)
        wanted += (uint64_t)config->next_hops[i].connections * workers;
    allowed = descriptors_raise(wanted);
    if (allowed < wanted && allowed > 0)
        log_plain(
            LOG_LEVEL_WARNING,
            "%llu descriptors are allowed, limits.connections and the next hops may want %llu: "
            "raise LimitNOFILE (ulimit -n)",
            (unsigned long long)allowed, (unsigned long long)wanted);
}

/* The kernel may still be taking down the ring, and with it the listener, of a process that was
 * killed a moment ago. */
#define ADDRESS_TRIES 20
#define ADDRESS_PAUSE_MS 50

/* Workers share a port, and so could another ringpost of the same user, unnoticed, and get a part
 * of the mail. So each address is first asked for as by one that shares with nobody. */
static int
address_test(const struct config_address *address)
{
    const struct timespec pause = { .tv_nsec = ADDRESS_PAUSE_MS * 1000000 };
    int listener = io_listen(address, false);

    for (int i = 1; i < ADDRESS_TRIES && listener == -EADDRINUSE; i++) {
        nanosleep(&pause, NULL);
        listener = io_listen(address, false);
    }
    if (listener < 0)
        return listener;
    io_close_now(listener);
    return 0;
}

static bool
listen_all(struct process *process, char error[RELAY_ERROR_BYTES])
{
    struct relay *relay = &process->relay;
    bool good = true;

    privileges_raise(&process->confine.privileges);
    for (uint32_t i = 0; i < relay->listener_count && good; i++) {
        int code = address_test(relay->listeners[i].address);

        good = code == 0;
        if (!good)
            relay_listen_error(relay->listeners[i].address, code, error);
    }
    good = good && relay_listen(relay, error);
    privileges_lower(&process->confine.privileges);
    return good;
}

static uint32_t
workers_wanted(const struct process *process, unsigned workers)
{
    uint32_t wanted = workers != 0                    ? workers
                      : process->config->workers != 0 ? process->config->workers
                                                      : (uint32_t)CPU_COUNT(&process->cpus);

    return wanted < WORKERS_MAX ? wanted : WORKERS_MAX;
}

/* What root does when there is another user to be: limits and keys. */
static bool
create(struct process *process, unsigned workers, const uint64_t key[2],
       char error[RELAY_ERROR_BYTES])
{
    const struct privileges *privileges = &process->confine.privileges;
    uint32_t count = workers_wanted(process, workers);
    bool good;

    privileges_raise(privileges);
    privileges_limits_raise();
    descriptors_look(process->config, count);
    good = relay_create(&process->relay, process->config, count, key, error);
    privileges_lower(privileges);
    return good;
}

static bool
start(struct process *process, unsigned workers)
{
    struct relay *relay = &process->relay;
    struct io_options small = { .entries = 256, .completions = 512 };
    char error[RELAY_ERROR_BYTES];
    uint64_t key[2];
    bool good;

    if (getrandom(key, sizeof(key), 0) != sizeof(key))
        key[0] = key[1] = clock_realtime_ns();
    CPU_ZERO(&process->cpus);
    if (sched_getaffinity(0, sizeof(process->cpus), &process->cpus) != 0)
        CPU_SET(0, &process->cpus);
    good = create(process, workers, key, error);
    if (good) {
        process->threads = allocate(relay->worker_count, sizeof(pthread_t));
        process->running = allocate(relay->worker_count, sizeof(bool));
        process->io = io_create(&small, error);
        good = process->io != NULL;
    }
    if (good) {
        resolve_all(process);
        tls_memory_bound(process->config, relay->worker_count);
        /* The spool first: a second process on it must not take connections from the first one. */
        good = confine_files(&process->confine, process->config, error) &&
               relay_spool_open(relay, error) && listen_all(process, error);
    }
    if (!good)
        log_plain(LOG_LEVEL_ERROR, "%s", error);
    if (!good || !stats_listen(process) || !confine_begin(&process->confine, process->config) ||
        !threads_start(process) || !stats_start(process))
        return false;
    sandbox_thread(FILTER_MAIN);
    return true;
}

static void
announce(const struct process *process)
{
    confine_announce(&process->confine, io_restricted(process->io));
    for (uint32_t i = 0; i < process->relay.listener_count; i++)
        log_plain(LOG_LEVEL_NOTICE, "listening on %s (%s)",
                  process->relay.listeners[i].address->text,
                  process->relay.listeners[i].config->name);
    for (size_t i = 0; i < process->config->stats.address_count; i++)
        log_plain(LOG_LEVEL_NOTICE, "statistics on %s", process->config->stats.addresses[i].text);
    log_plain(LOG_LEVEL_NOTICE, "ringpost %s is up: %u worker%s", ringpost_version,
              process->relay.worker_count, process->relay.worker_count == 1 ? "" : "s");
}

static void
stop(struct process *process)
{
    struct relay *relay = &process->relay;

    stats_server_stop(process->stats);
    for (uint32_t i = 0; i < relay->worker_count && process->running != NULL; i++)
        if (process->running[i])
            pthread_join(process->threads[i], NULL);
    relay_tls_release(process->retired, process->config);
    relay_destroy(relay);
    io_destroy(process->io);
    free(process->threads);
    free(process->running);
    free(process->stat_hops);
    free(process->stat_certificates);
    free(process->stat_workers);
    free(process->stat_hop_counters);
}

int
process_run(struct config *config, unsigned workers)
{
    struct process process = { .config = config };
    sigset_t signals;
    bool up;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of a write (EFBIG), not our end */
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (!user_take(&process) || !log_begin_from(config)) {
        config_free(config);
        return 1;
    }
    up = start(&process, workers);
    if (!up && process.threads != NULL) {
        /* Workers that did start must not wait for mail. */
        for (uint32_t i = 0; i < process.relay.worker_count; i++)
            if (process.running[i] &&
                __atomic_load_n(&process.relay.workers[i].started, __ATOMIC_ACQUIRE))
                io_post(process.io, process.relay.workers[i].io,
                        (struct io_ticket){ .kind = WORKER_DRAIN }, 0);
        if (process.io != NULL)
            io_wait(process.io, 0);
    }
    if (up) {
        announce(&process);
        wait_for_signals(&process, &signals);
    }
    stop(&process);
    if (up)
        log_plain(LOG_LEVEL_NOTICE, "ringpost ended");
    log_stop();
    config_free(config);
    return up ? 0 : 1;
}
