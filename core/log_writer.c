/* The log thread: the one place where logging meets the kernel. It may block on a slow disk or a
 * full pipe; the threads that write lines never do.
 *
 * Sleeping and waking: the thread sleeps on an eventfd only when every ring was empty. Before it
 * sleeps it sets `asleep` and looks at the rings once more; a producer first puts its line and
 * then looks at `asleep`. Both are sequentially consistent, so one of the two sees the other.
 * Between two drains it pauses for PAUSE_MS, or until a ring is half full: under load there are
 * about 20 wake-ups a second.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_setname_np, O_CLOEXEC */
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "core/log_ring.h"

/* A wake-up and its write cost as much as some tens of lines: see docs/PERFORMANCE.md for 10 ms. */
#define PAUSE_MS 50
#define BATCH_BYTES (64 * 1024)
/* How long a target that takes nothing (a full pipe that does not block) is waited for. */
#define FULL_TARGET_WAIT_MS 1000
#define STOP_WAIT_MS 2000
#define LOG_FILE_MODE 0640

static struct {
    pthread_t thread;
    int wake; /* eventfd; -1: there is no log thread */
    int fd;   /* stderr or the file; -1 with syslog */
    enum log_target target;
    bool journal;  /* stderr goes to the journal: lines begin with <priority> */
    bool torn;     /* the last write ended inside a line */
    char path[PATH_MAX];

    /* Requests to the log thread; relaxed is enough where the eventfd follows. */
    int asleep, stop, reopen;

    /* flush_wanted counts log_flush() calls; flush_done is the last one that was served. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t flush_wanted, flush_done;
    bool ended;
    /* What log_thread_call() asks for; NULL when it was called. */
    void (*call)(void *context);
    void *call_context;

    uint64_t errors_untold; /* failed writes since the last that did not fail */
    struct log_totals totals; /* written by the log thread alone */
    size_t batch_len, batch_lines;
    char batch[BATCH_BYTES];
} writer = { .wake = -1, .fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;

void
log_writer_lock(void)
{
    pthread_mutex_lock(&rings_lock);
}

void
log_writer_unlock(void)
{
    pthread_mutex_unlock(&rings_lock);
}

static void
total_add(uint64_t *total, uint64_t n)
{
    __atomic_store_n(total, __atomic_load_n(total, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* --- waking --- */

static void
wake(void)
{
    uint64_t one = 1;

    /* Cannot fail but with EAGAIN, when 2^64-2 wake-ups wait already. */
    if (write(writer.wake, &one, sizeof(one)) < 0)
        return;
}

void
log_writer_notice(bool always)
{
    if (__atomic_load_n(&writer.asleep, __ATOMIC_SEQ_CST) != 0) {
        if (__atomic_exchange_n(&writer.asleep, 0, __ATOMIC_SEQ_CST) != 0)
            wake();
    } else if (always) {
        wake();
    }
}

/* Waits until woken or until the time is over (-1: for ever). */
static void
wait_for_wake(int timeout_ms)
{
    struct pollfd ready = { .fd = writer.wake, .events = POLLIN };
    uint64_t count;

    if (poll(&ready, 1, timeout_ms) == 1 && read(writer.wake, &count, sizeof(count)) > 0)
        total_add(&writer.totals.wakeups, 1);
}

static bool
rings_empty(void)
{
    size_t count = log_rings_count();

    for (size_t i = 0; i < count; i++)
        if (!log_ring_empty(log_rings_get(i)))
            return false;
    return true;
}

static void
sleep_until_needed(void)
{
    __atomic_store_n(&writer.asleep, 1, __ATOMIC_SEQ_CST);
    if (rings_empty())
        wait_for_wake(-1);
    __atomic_store_n(&writer.asleep, 0, __ATOMIC_SEQ_CST);
}

/* --- writing --- */

/* True: try again. A target that says EAGAIN is waited for; every other error ends the attempt. */
static bool
write_may_continue(int error)
{
    struct pollfd ready = { .fd = writer.fd, .events = POLLOUT };

    if (error == EINTR)
        return true;
    return error == EAGAIN && poll(&ready, 1, FULL_TARGET_WAIT_MS) == 1 &&
           (ready.revents & POLLOUT) != 0;
}

static bool
write_all(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(writer.fd, data, len);

        if (n < 0) {
            if (write_may_continue(errno))
                continue;
            return false;
        }
        writer.torn = data[n - 1] != '\n';
        total_add(&writer.totals.bytes_written, (uint64_t)n);
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static void
batch_write(void)
{
    if (writer.batch_len == 0)
        return;
    /* After a disk was full: what follows must not continue half a line. */
    if ((!writer.torn || write_all("\n", 1)) && write_all(writer.batch, writer.batch_len)) {
        total_add(&writer.totals.lines_written, writer.batch_lines);
        writer.errors_untold = 0; /* a batch begins with their number */
    } else {
        total_add(&writer.totals.write_errors, 1);
        writer.errors_untold++;
    }
    writer.batch_len = 0;
    writer.batch_lines = 0;
}

static int
priority_of(uint32_t level)
{
    static const int priorities[] = {
        [LOG_LEVEL_ERROR] = LOG_ERR,    [LOG_LEVEL_WARNING] = LOG_WARNING,
        [LOG_LEVEL_NOTICE] = LOG_NOTICE, [LOG_LEVEL_INFO] = LOG_INFO,
        [LOG_LEVEL_DEBUG] = LOG_DEBUG,
    };

    ASSERT(level <= LOG_LEVEL_DEBUG);
    return priorities[level];
}

static void
line_write(const struct log_record *record, const char *line)
{
    if (writer.target == LOG_TARGET_SYSLOG) {
        syslog(priority_of(record->level), "%.*s", record->len - record->prefix_bytes - 1,
               line + record->prefix_bytes);
        total_add(&writer.totals.lines_written, 1);
        total_add(&writer.totals.bytes_written, record->len);
        return;
    }
    if (BATCH_BYTES - writer.batch_len < record->len + (size_t)3)
        batch_write();
    if (writer.journal) {
        writer.batch[writer.batch_len++] = '<';
        writer.batch[writer.batch_len++] = (char)('0' + priority_of(record->level));
        writer.batch[writer.batch_len++] = '>';
    }
    memcpy(writer.batch + writer.batch_len, line, record->len);
    writer.batch_len += record->len;
    writer.batch_lines++;
}

static void
message_write(enum log_level level, struct span message)
{
    struct log_record record;
    struct log_line line;

    log_message_build(&line, level, message);
    record = (struct log_record){
        .len = line.len, .prefix_bytes = line.prefix_bytes, .level = line.level};
    line_write(&record, line.text);
}

/* Goes ahead of the first lines that are tried after a failed write. */
static void
errors_tell(void)
{
    char text[64];
    int len;

    if (writer.errors_untold == 0 || writer.batch_len > 0)
        return;
    len = snprintf(text, sizeof(text), "%llu writes to the log failed, their lines are lost",
                   (unsigned long long)writer.errors_untold);
    message_write(LOG_LEVEL_ERROR, span_of(text, (size_t)len));
}

static void
dropped_tell(struct log_ring *ring)
{
    uint64_t dropped = log_ring_dropped(ring);
    char text[64];
    int len;

    if (dropped == ring->dropped_told)
        return;
    len = snprintf(text, sizeof(text), "%llu log lines dropped",
                   (unsigned long long)(dropped - ring->dropped_told));
    ring->dropped_told = dropped;
    message_write(LOG_LEVEL_WARNING, span_of(text, (size_t)len));
}

/* Takes from each ring what was there when its turn came, so that one busy thread does not keep
 * the others waiting. Returns whether there was anything. */
static bool
drain(void)
{
    char line[LOG_LINE_BYTES_MAX];
    struct log_record record;
    size_t count = log_rings_count();
    bool any = false;

    for (size_t i = 0; i < count; i++) {
        struct log_ring *ring = log_rings_get(i);
        uint64_t end = log_ring_end(ring);

        while (log_ring_take(ring, end, &record, line)) {
            errors_tell();
            line_write(&record, line);
            any = true;
        }
        dropped_tell(ring);
    }
    batch_write();
    return any;
}

/* --- the file --- */

static int
file_open(const char *path)
{
    return open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, LOG_FILE_MODE);
}

static void
file_reopen(void)
{
    char text[PATH_MAX + 128];
    int fd, len;

    if (writer.target != LOG_TARGET_FILE)
        return;
    fd = file_open(writer.path);
    if (fd >= 0) {
        close(writer.fd);
        writer.fd = fd;
        writer.torn = false;
        return;
    }
    len = snprintf(text, sizeof(text), "cannot reopen the log file %s: %s; the old one stays",
                   writer.path, strerrordesc_np(errno));
    message_write(LOG_LEVEL_ERROR, span_of(text, (size_t)len));
    batch_write();
}

/* Whether stderr is the journal's socket: systemd gives its device and inode (systemd.exec(5));
 * the variable alone would also be true for a child whose stderr went elsewhere. */
static bool
stderr_is_journal(void)
{
    const char *value = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat status;

    return value != NULL && sscanf(value, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void
log_writer_early(struct span line)
{
    /* There is nobody to tell when this fails. */
    if (write(STDERR_FILENO, line.data, line.len) < 0)
        return;
}

/* --- the thread --- */

static void *
writer_run(void *unused)
{
    bool stopping;

    (void)unused;
    do {
        uint64_t flush;
        bool any;

        stopping = __atomic_load_n(&writer.stop, __ATOMIC_ACQUIRE) != 0;
        pthread_mutex_lock(&writer.lock);
        flush = writer.flush_wanted;
        if (writer.call != NULL)
            writer.call(writer.call_context);
        writer.call = NULL;
        pthread_mutex_unlock(&writer.lock);
        any = drain();
        if (__atomic_exchange_n(&writer.reopen, 0, __ATOMIC_ACQ_REL) != 0)
            file_reopen();
        pthread_mutex_lock(&writer.lock);
        writer.flush_done = flush;
        writer.ended = stopping;
        pthread_cond_broadcast(&writer.changed);
        pthread_mutex_unlock(&writer.lock);
        if (stopping)
            break;
        if (any)
            wait_for_wake(PAUSE_MS);
        else
            sleep_until_needed();
    } while (true);
    return NULL;
}

static int
target_open(const struct log_options *options)
{
    writer.target = options->target;
    writer.fd = -1;
    writer.journal = false;
    if (options->target == LOG_TARGET_SYSLOG) {
        openlog("ringpost", LOG_PID | LOG_NDELAY, LOG_MAIL);
        return 0;
    }
    if (options->target == LOG_TARGET_STDERR) {
        writer.fd = STDERR_FILENO;
        writer.journal = stderr_is_journal();
        return 0;
    }
    if (strlen(options->path) >= sizeof(writer.path))
        return ENAMETOOLONG;
    memcpy(writer.path, options->path, strlen(options->path) + 1);
    writer.fd = file_open(writer.path);
    return writer.fd < 0 ? errno : 0;
}

static void
target_close(void)
{
    if (writer.target == LOG_TARGET_SYSLOG)
        closelog();
    if (writer.target == LOG_TARGET_FILE && writer.fd >= 0)
        close(writer.fd);
    writer.fd = -1;
    if (writer.wake >= 0)
        close(writer.wake);
    writer.wake = -1;
}

/* The thread takes no signals: they are the main thread's, and a closed pipe must be EPIPE here. */
static int
thread_start(void)
{
    pthread_condattr_t attributes;
    sigset_t all, before;
    int error;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&writer.changed, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&writer.thread, NULL, writer_run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0)
        pthread_setname_np(writer.thread, "log");
    return error;
}

int
log_start(const struct log_options *options)
{
    int error;

    if (writer.wake >= 0)
        return EBUSY;
    error = target_open(options);
    if (error != 0)
        return error;
    writer.torn = false;
    writer.asleep = writer.stop = writer.reopen = 0;
    writer.flush_wanted = writer.flush_done = 0;
    writer.ended = false;
    writer.totals = (struct log_totals){ 0 };
    writer.batch_len = writer.batch_lines = 0;
    writer.errors_untold = 0;
    writer.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (writer.wake < 0)
        error = errno;
    else if (!log_rings_open(options->format, options->level, (uint32_t)getpid()))
        error = ENOMEM;
    else
        error = thread_start();
    if (error != 0) {
        log_rings_close(true);
        target_close();
    }
    return error;
}

void
log_reopen(void)
{
    if (writer.wake < 0)
        return;
    __atomic_store_n(&writer.reopen, 1, __ATOMIC_RELEASE);
    wake();
}

static struct timespec
deadline_after(unsigned timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    return deadline;
}

bool
log_flush(unsigned timeout_ms)
{
    struct timespec deadline = deadline_after(timeout_ms);
    uint64_t mine;
    int error = 0;
    bool done;

    if (writer.wake < 0)
        return true;
    pthread_mutex_lock(&writer.lock);
    mine = ++writer.flush_wanted;
    wake();
    while (writer.flush_done < mine && error == 0)
        error = pthread_cond_timedwait(&writer.changed, &writer.lock, &deadline);
    done = writer.flush_done >= mine;
    pthread_mutex_unlock(&writer.lock);
    return done;
}

bool
log_thread_call(void (*function)(void *context), void *context)
{
    if (writer.wake < 0)
        return false;
    pthread_mutex_lock(&writer.lock);
    writer.call = function;
    writer.call_context = context;
    wake();
    while (writer.call != NULL)
        pthread_cond_wait(&writer.changed, &writer.lock);
    pthread_mutex_unlock(&writer.lock);
    return true;
}

void
log_stop(void)
{
    struct timespec deadline = deadline_after(STOP_WAIT_MS);
    int error = 0;
    bool ended;

    if (writer.wake < 0)
        return;
    log_rings_close(false);
    __atomic_store_n(&writer.stop, 1, __ATOMIC_RELEASE);
    wake();
    pthread_mutex_lock(&writer.lock);
    while (!writer.ended && error == 0)
        error = pthread_cond_timedwait(&writer.changed, &writer.lock, &deadline);
    ended = writer.ended;
    pthread_mutex_unlock(&writer.lock);
    if (!ended) {
        /* It hangs in a write. It keeps what it uses until the process ends. */
        pthread_detach(writer.thread);
        return;
    }
    pthread_join(writer.thread, NULL);
    pthread_cond_destroy(&writer.changed);
    log_rings_close(true);
    target_close();
}

struct log_totals
log_totals(void)
{
    struct log_totals totals = {
        .lines_written = __atomic_load_n(&writer.totals.lines_written, __ATOMIC_RELAXED),
        .bytes_written = __atomic_load_n(&writer.totals.bytes_written, __ATOMIC_RELAXED),
        .write_errors = __atomic_load_n(&writer.totals.write_errors, __ATOMIC_RELAXED),
        .wakeups = __atomic_load_n(&writer.totals.wakeups, __ATOMIC_RELAXED),
    };
    size_t count = log_rings_count();

    for (size_t i = 0; i < count; i++)
        totals.lines_dropped += log_ring_dropped(log_rings_get(i));
    return totals;
}
