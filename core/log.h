/* log: structured events, one line each, that never block the thread that writes them.
 * Does:    a line is built in struct log_line and copied to the calling thread's ring; the log
 *          thread (log_writer.c) takes the rings to stderr, a file or syslog. See docs/LOGS.md.
 * Owns:    a ring of LOG_RING_BYTES per attached thread, from log_thread_attach() to log_stop().
 * Memory:  allocated by log_start() and log_thread_attach() only; none for a line, and no printf.
 * Threads: any may write lines. A thread that attached has its own ring (no lock); the others share
 *          one behind a mutex, meant for start and rare lines. One thread starts, reopens, stops.
 * Errors:  a full ring drops the line and counts it; the writer says how many. A target that cannot
 *          be written (disk full, closed pipe) is counted and stops nothing. Before log_start()
 *          log_plain() goes straight to stderr and event lines go nowhere.
 */
#ifndef RINGPOST_CORE_LOG_H
#define RINGPOST_CORE_LOG_H

#include "core/span.h"

/* A finished line, its end included. A longer one is cut at a field and marked with cut=yes. */
#define LOG_LINE_BYTES_MAX 2048
/* Source bytes of one value; a longer one is shortened and ends with "...". */
#define LOG_VALUE_BYTES_MAX 512
/* Half of it, at which the writer is woken, is 5 ms of 130000 lines of 200 bytes a second: as long
 * again for the writer to come. A power of two. */
#define LOG_RING_BYTES (256 * 1024)
/* WORKERS_MAX workers, the statistics thread, helpers. */
#define LOG_THREADS_MAX 272

enum log_level { /* syslog.h owns the short names */
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };
enum log_target { LOG_TARGET_STDERR, LOG_TARGET_FILE, LOG_TARGET_SYSLOG };

struct log_options {
    enum log_target target;
    enum log_format format;
    enum log_level level; /* the least important level that is written */
    const char *path;     /* LOG_TARGET_FILE; copied */
};

/* One line being built. Lives on the stack of one function; do not look inside. */
struct log_line {
    const char *event;     /* until it is written, which waits for the id */
    uint16_t len;          /* bytes in text */
    uint16_t prefix_bytes; /* time and process, which syslog writes itself */
    uint8_t level;
    uint8_t format;
    bool active; /* false: the level is not wanted, every call returns at once */
    bool cut;
    bool has_fields;
    bool goes_on; /* text format, fields are there, and more may follow: nothing else to ask */
    char text[LOG_LINE_BYTES_MAX];
};

/* --- building a line (any thread) --- */

/* Whether lines of this level are written: to skip work that only a log line needs. */
bool log_enabled(enum log_level level);

/* `event` and `key` are literals of ours, [a-z0-9_]+; values are a stranger's: quoted as needed. */
void log_begin(struct log_line *line, enum log_level level, const char *event);
/* The queue id; comes first. An empty span writes nothing. */
void log_id(struct log_line *line, struct span queue_id);
static inline void log_text(struct log_line *line, const char *key, struct span value);
static inline void log_number(struct log_line *line, const char *key, uint64_t number);
/* Written in seconds with 3 to 6 decimals: delay=0.0123. */
static inline void log_duration(struct log_line *line, const char *key, uint64_t nanoseconds);
/* The system's text for an errno value. */
void log_errno(struct log_line *line, const char *key, int error_number);
void log_end(struct log_line *line);

/* What is behind the three above: inline, so that the length of a literal key costs nothing. */
void log_field_text(struct log_line *line, struct span key, struct span value);
void log_field_number(struct log_line *line, struct span key, uint64_t number);
void log_field_duration(struct log_line *line, struct span key, uint64_t nanoseconds);

static inline void
log_text(struct log_line *line, const char *key, struct span value)
{
    log_field_text(line, span_text(key), value);
}

static inline void
log_number(struct log_line *line, const char *key, uint64_t number)
{
    log_field_number(line, span_text(key), number);
}

static inline void
log_duration(struct log_line *line, const char *key, uint64_t nanoseconds)
{
    log_field_duration(line, span_text(key), nanoseconds);
}

/* printf for start, stop and configuration: the text becomes the whole message (in JSON: event
 * "plain", field "text"). Not for the hot path. */
void log_plain(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The time (nanoseconds since 1970) of the lines this thread writes from now on: a worker sets it
 * once a turn. A thread that never does, or passes 0, pays for clock_realtime_ns() on each line. */
void log_set_time(uint64_t realtime_ns);

/* Gives the calling thread its own ring. Call after log_start(). False: no memory or too many
 * threads; the thread then writes through the shared ring. Rings live until log_stop(). */
bool log_thread_attach(void);

/* --- the process (main thread) --- */

/* Opens the target and starts the log thread. Returns 0, or an errno value: nothing was started. */
MUST_USE int log_start(const struct log_options *options);
/* SIGHUP: the log thread opens the file again; if that fails it keeps the old one and says so. */
void log_reopen(void);
void log_set_level(enum log_level level);
/* Has the log thread call that once, and waits for it: what holds for one thread must be asked of
 * each. False: there is no log thread. */
bool log_thread_call(void (*function)(void *context), void *context);
/* Waits until the lines written before this call are with the target. False: not in this time. */
bool log_flush(unsigned timeout_ms);
/* Writes out what is left, ends the log thread, frees the rings. No other thread may write lines
 * any more. Waits at most two seconds for a target that blocks. */
void log_stop(void);

struct log_totals { /* since log_start() */
    uint64_t lines_written, lines_dropped, bytes_written, write_errors, wakeups;
};
/* Any thread. */
struct log_totals log_totals(void);

/* Instead of the rings, every finished line (its '\n' included) goes to `sink`, on the thread that
 * wrote it. For tests and the simulator, before threads start. NULL ends it. */
void log_set_sink(void (*sink)(void *context, enum log_level level, struct span line),
                  void *context, enum log_format format, enum log_level level);

#endif
