/* log_ring: the byte ring between one thread that writes log lines and the log thread; and what
 *           log.c and log_writer.c share. Nobody else includes this but tests.
 * Does:    single producer, single consumer; records are a log_record head and the line's bytes.
 * Owns:    its bytes; lines are copied in and out.
 * Memory:  the caller's, zeroed.
 * Threads: put: the producer; take: the log thread; empty, dropped: any.
 */
#ifndef RINGPOST_CORE_LOG_RING_H
#define RINGPOST_CORE_LOG_RING_H

#include "core/log.h"

#define LOG_CACHE_LINES __attribute__((aligned(128)))

struct log_record {
    uint16_t len;          /* bytes of the line, '\n' included */
    uint16_t prefix_bytes; /* of these: time and process */
    uint32_t level;
};

struct log_ring {
    /* The producer's: bytes ever put. head and tail never wrap; their low bits are the place. */
    LOG_CACHE_LINES uint64_t head;
    uint64_t tail_seen; /* what the producer last saw of tail */
    uint64_t dropped;   /* lines that found no room */
    /* The log thread's: bytes ever taken. */
    LOG_CACHE_LINES uint64_t tail;
    uint64_t dropped_told;
    LOG_CACHE_LINES char data[LOG_RING_BYTES];
};

_Static_assert((LOG_RING_BYTES & (LOG_RING_BYTES - 1)) == 0, "places are masked");
_Static_assert(LOG_RING_BYTES >= 4 * LOG_LINE_BYTES_MAX, "a ring holds some of the longest lines");

static inline void
log_ring_copy_in(struct log_ring *ring, uint64_t at, const void *from, size_t bytes)
{
    size_t place = at & (LOG_RING_BYTES - 1);
    size_t first = LOG_RING_BYTES - place < bytes ? LOG_RING_BYTES - place : bytes;

    memcpy(ring->data + place, from, first);
    memcpy(ring->data, (const char *)from + first, bytes - first);
}

static inline void
log_ring_copy_out(const struct log_ring *ring, uint64_t at, void *to, size_t bytes)
{
    size_t place = at & (LOG_RING_BYTES - 1);
    size_t first = LOG_RING_BYTES - place < bytes ? LOG_RING_BYTES - place : bytes;

    memcpy(to, ring->data + place, first);
    memcpy((char *)to + first, ring->data, bytes - first);
}

enum log_put {
    LOG_PUT_DROPPED,
    LOG_PUT_DONE,
    LOG_PUT_HALF_FULL /* done, and this line crossed the middle: the writer must not pause */
};

static inline enum log_put
log_ring_put(struct log_ring *ring, const struct log_record *record, const char *line)
{
    uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);
    uint64_t bytes = sizeof(*record) + record->len;
    uint64_t used;

    ASSERT(record->len > 0 && record->len <= LOG_LINE_BYTES_MAX);
    if (head - ring->tail_seen + bytes > LOG_RING_BYTES / 2)
        ring->tail_seen = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    used = head - ring->tail_seen;
    if (used + bytes > LOG_RING_BYTES) {
        __atomic_store_n(&ring->dropped, ring->dropped + 1, __ATOMIC_RELAXED);
        return LOG_PUT_DROPPED;
    }
    log_ring_copy_in(ring, head, record, sizeof(*record));
    log_ring_copy_in(ring, head + sizeof(*record), line, record->len);
    /* Sequentially consistent: the producer then looks whether the writer sleeps, and the
     * writer, having said that it sleeps, looks whether there is something here. One of the two
     * must see the other. */
    __atomic_store_n(&ring->head, head + bytes, __ATOMIC_SEQ_CST);
    return used < LOG_RING_BYTES / 2 && used + bytes >= LOG_RING_BYTES / 2 ? LOG_PUT_HALF_FULL
                                                                           : LOG_PUT_DONE;
}

/* How far the producer has come; log_ring_take() up to there. */
static inline uint64_t
log_ring_end(const struct log_ring *ring)
{
    return __atomic_load_n(&ring->head, __ATOMIC_SEQ_CST);
}

static inline bool
log_ring_empty(const struct log_ring *ring)
{
    return log_ring_end(ring) == __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);
}

/* Takes the next line unless the ring is at `end`. `line` has LOG_LINE_BYTES_MAX. */
static inline bool
log_ring_take(struct log_ring *ring, uint64_t end, struct log_record *record, char *line)
{
    uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_RELAXED);

    if (tail == end)
        return false;
    ASSERT(end - tail > sizeof(*record) && end - tail <= LOG_RING_BYTES);
    log_ring_copy_out(ring, tail, record, sizeof(*record));
    ASSERT(record->len > 0 && record->len <= LOG_LINE_BYTES_MAX);
    ASSERT(record->prefix_bytes < record->len);
    ASSERT(end - tail >= sizeof(*record) + record->len);
    log_ring_copy_out(ring, tail + sizeof(*record), line, record->len);
    __atomic_store_n(&ring->tail, tail + sizeof(*record) + record->len, __ATOMIC_RELEASE);
    return true;
}

static inline uint64_t
log_ring_dropped(const struct log_ring *ring)
{
    return __atomic_load_n(&ring->dropped, __ATOMIC_RELAXED);
}

/* --- log.c, for the writer --- */

/* The rings that exist, the shared one first. */
size_t log_rings_count(void);
struct log_ring *log_rings_get(size_t index);
/* Makes the shared ring and lets lines through. False: no memory. */
MUST_USE bool log_rings_open(enum log_format format, enum log_level level, uint32_t process_id);
/* Lets no line through any more; with `release` also frees every ring. */
void log_rings_close(bool release);
/* Builds a whole line that does not go through a ring: the writer's own. */
void log_message_build(struct log_line *line, enum log_level level, struct span message);

/* --- log_writer.c, for log.c --- */

/* For adding rings and for putting on the shared one. */
void log_writer_lock(void);
void log_writer_unlock(void);
/* Something was put: wakes the log thread if it sleeps, or always. */
void log_writer_notice(bool always);
/* One line to stderr while there is no log thread. */
void log_writer_early(struct span line);

#endif
