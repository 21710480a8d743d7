/* spool_world: one worker's spool on a real ring and in a directory of its own, without a worker.
 * Does:    opens and opens again, makes messages, stores them, turns until something is so,
 * collects what the spool tells; reads files of the spool past it. Owns:    the directory, which is
 * removed at the end. Errors:  what does not come in time fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_SPOOL_WORLD_H
#define RINGPOST_TESTS_UNIT_SPOOL_WORLD_H

#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/config.h"
#include "core/crc32c.h"
#include "core/io.h"
#include "core/log.h"
#include "relay/spool/spool_private.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define WORLD_KIND 7
#define WORLD_WAIT_NS (20 * NS_PER_S)
#define WORLD_BUFFERS 4096u
#define WORLD_EVENTS 64u
/* Small enough that a test fills several. */
#define WORLD_SEGMENT_BYTES (1024u * 1024u)

struct message { /* one stored message, and what it should be */
    struct spool_store store;
    struct envelope envelope;
    struct chain body;
    uint64_t body_bytes;
    uint32_t seed;
    bool stored; /* SPOOL_STORED came */
};

struct world {
    char path[64];
    struct spool_directory directory;
    struct config config;
    struct io *io;
    struct counters *counters;
    struct spool *spool;
    struct pool blocks;
    struct buffers buffers;
    char *memory;
    struct buffer_meta *meta;
    uint64_t stored, loaded, moved; /* events that came */
    uint64_t bodies, found, recovered;
    uint32_t clean_segment; /* of the last SPOOL_CLEAN */
    uint64_t cleans;
    /* what a test wants to see of an event; may be NULL */
    void (*on_event)(struct world *world, const struct spool_event *event);
    void *context;
};

/* --- octets that can be told apart --- */

static inline char
world_octet(uint32_t seed, uint64_t at)
{
    uint64_t n = (at / 8 + 1) * UINT64_C(0x9E3779B97F4A7C15) + seed * UINT64_C(0xBF58476D1CE4E5B9);

    n ^= n >> 29;
    return (char)(n >> (8 * (at % 8)));
}

/* A body of so many octets in buffers that are filled unevenly. */
static inline struct chain
world_body(struct world *world, uint32_t seed, uint64_t bytes)
{
    struct chain chain = CHAIN_EMPTY;
    uint64_t at = 0;
    uint32_t n = 0;

    while (at < bytes) {
        uint32_t index = buffer_take(&world->buffers, 0);
        size_t start = n % 3 == 1 ? 17 : 0;
        size_t len = BUFFER_BYTES - start - (n % 5 == 2 ? 100 : 0);

        cr_assert_neq(index, BUFFER_NONE, "the test has too few buffers");
        if (len > bytes - at)
            len = bytes - at;
        for (size_t i = 0; i < len; i++)
            buffer_memory(&world->buffers, index)[start + i] = world_octet(seed, at + i);
        chain_append(&world->buffers, &chain, index, start, len);
        at += len;
        n++;
    }
    return chain;
}

static inline bool
world_body_is(const struct world *world, const struct chain *chain, uint32_t seed, uint64_t bytes)
{
    uint64_t at = 0;

    if (chain->bytes != bytes)
        return false;
    for (uint32_t index = chain->first; at < bytes; index = world->buffers.meta[index].next) {
        struct span octets = buffer_span(&world->buffers, index);

        for (size_t i = 0; i < octets.len; i++)
            if (octets.data[i] != world_octet(seed, at + i))
                return false;
        at += octets.len;
    }
    return true;
}

/* --- life --- */

static inline void
world_remove_files(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    char name[512];

    cr_assert_not_null(directory, "%s", path);
    while ((entry = readdir(directory)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        cr_assert_eq(unlink(name), 0, "%s", name);
    }
    closedir(directory);
}

/* Files whose names end so. */
static inline unsigned
world_files(const struct world *world, const char *end)
{
    DIR *directory = opendir(world->path);
    struct dirent *entry;
    unsigned count = 0;

    cr_assert_not_null(directory);
    while ((entry = readdir(directory)) != NULL) {
        size_t len = strlen(entry->d_name), end_len = strlen(end);

        if (entry->d_name[0] != '.' && len >= end_len &&
            strcmp(entry->d_name + len - end_len, end) == 0)
            count++;
    }
    closedir(directory);
    return count;
}

static inline void
world_log(void *context, enum log_level level, struct span line)
{
    (void)context;
    if (level <= LOG_LEVEL_WARNING && getenv("SPOOL_WORLD_LOG") != NULL)
        fprintf(stderr, "%.*s", (int)line.len, line.data);
}

/* The directory must exist; what is in it is found. */
static inline void
world_start(struct world *world)
{
    const struct io_options options = { .entries = 64, .completions = 4096 };
    char error[SPOOL_ERROR_BYTES];

    cr_assert(spool_directory_open(&world->directory, &world->config, 1, error), "%s", error);
    world->io = io_create(&options, error);
    cr_assert_not_null(world->io, "%s", error);
    world->counters = aligned_alloc(128, (sizeof(struct counters) + 127) / 128 * 128);
    cr_assert_not_null(world->counters);
    memset(world->counters, 0, sizeof(struct counters));
    world->spool = spool_create(&world->directory, &world->config, world->io, world->counters,
                                WORLD_KIND, 0, 1);
    cr_assert_not_null(world->spool);
    world->stored = world->loaded = world->moved = 0;
    world->found = world->recovered = world->bodies = world->cleans = 0;
}

/* under: a directory, on a file system to be tried. */
static inline void
world_open(struct world *world, const char *under)
{
    *world = (struct world){ 0 };
    snprintf(world->path, sizeof(world->path), "%s/ringpost-spool-XXXXXX", under);
    cr_assert_not_null(mkdtemp(world->path), "%s", world->path);
    log_set_sink(world_log, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_DEBUG);
    world->config.spool.directory = world->path;
    world->config.spool.segment = WORLD_SEGMENT_BYTES;
    world->config.delivery.buffer = 16 * 1024;
    world->memory = malloc((size_t)WORLD_BUFFERS * BUFFER_BYTES);
    world->meta = calloc(WORLD_BUFFERS, sizeof(*world->meta));
    cr_assert(world->memory != NULL && world->meta != NULL);
    buffers_init(&world->buffers, world->memory, world->meta, WORLD_BUFFERS);
    cr_assert(pool_init(&world->blocks, BLOCK_BYTES, 65536));
    world_start(world);
}

/* One turn as a worker's. Waits at most so long. */
static inline void
world_turn(struct world *world, uint64_t wait_ns)
{
    struct io_completion completion;
    struct spool_event event;

    io_wait(world->io, wait_ns);
    while (io_next(world->io, &completion))
        spool_complete(world->spool, &completion);
    while (spool_event(world->spool, &event)) {
        switch (event.kind) {
        case SPOOL_STORED:
            world->stored++;
            ((struct message *)event.owner)->stored = true;
            break;
        case SPOOL_LOADED: world->loaded++; break;
        case SPOOL_BODY: world->bodies++; break;
        case SPOOL_FOUND: world->found++; break;
        case SPOOL_RECOVERED: world->recovered++; break;
        case SPOOL_CLEAN:
            world->cleans++;
            world->clean_segment = event.segment;
            break;
        case SPOOL_MOVED: world->moved++; break;
        }
        if (world->on_event != NULL)
            world->on_event(world, &event);
    }
    spool_turn(world->spool, clock_now_ns(), clock_realtime_ns());
}

/* Turns until the condition holds. */
#define WORLD_UNTIL(world, condition)                                         \
    do {                                                                      \
        uint64_t world_end = clock_now_ns() + WORLD_WAIT_NS;                  \
        while (!(condition)) {                                                \
            cr_assert(clock_now_ns() < world_end, "in time: %s", #condition); \
            world_turn(world, 2 * NS_PER_MS);                                 \
        }                                                                     \
    } while (0)

/* Until all that the spool does by itself is done; the stop comes later. */
static inline void
world_settle(struct world *world)
{
    WORLD_UNTIL(world, world->spool->operations.used == 0 && recovery_over(world->spool) &&
                           world->spool->dirty == NULL && world->spool->jobs == NULL &&
                           world->spool->jobs_running == 0 &&
                           (world->spool->active != NULL || world->spool->ready != NULL));
}

static inline void
world_end(struct world *world, bool clean)
{
    spool_destroy(world->spool);
    spool_directory_close(&world->directory, clean);
    io_destroy(world->io);
    free(world->counters);
}

/* In order, and open again. */
static inline void
world_stop(struct world *world)
{
    spool_stop(world->spool);
    WORLD_UNTIL(world, spool_idle(world->spool));
    cr_assert_eq(world->directory.reserved_bytes, 0);
    world_end(world, true);
}

/* What is in flight arrives, nothing more is begun, what is in memory is lost. */
static inline void
world_crash(struct world *world)
{
    struct io_completion completion;

    while (world->spool->operations.used > 0) {
        io_wait(world->io, NS_PER_S);
        while (io_next(world->io, &completion))
            spool_complete(world->spool, &completion);
    }
    world_end(world, false);
}

/* All that was taken was given back. */
static inline void
world_close(struct world *world)
{
    world_stop(world);
    cr_assert_eq(world->buffers.free_count, WORLD_BUFFERS, "buffers are missing");
    cr_assert_eq(world->blocks.used, 0, "blocks are missing");
    world_remove_files(world->path);
    cr_assert_eq(rmdir(world->path), 0);
    pool_destroy(&world->blocks);
    free(world->memory);
    free(world->meta);
    log_set_sink(NULL, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_DEBUG);
}

/* --- messages --- */

static inline void
message_make(struct world *world, struct message *message, uint32_t seed, uint32_t recipients,
             uint64_t body_bytes)
{
    const struct mail_parameters parameters = { .size = body_bytes };
    struct path path = { .mailbox = SPAN("sender@example.org") };
    char text[64];

    *message = (struct message){ .seed = seed, .body_bytes = body_bytes };
    cr_assert(envelope_start(&message->envelope, &world->blocks, &path, &parameters));
    for (uint32_t i = 0; i < recipients; i++) {
        const struct rcpt_parameters none = { 0 };

        snprintf(text, sizeof(text), "r%u.%u@example.com", (unsigned)seed, (unsigned)i);
        path.mailbox = span_text(text);
        cr_assert_not_null(envelope_add(&message->envelope, &path, &none, RECIPIENT_ACCEPTED));
    }
    message->body = world_body(world, seed, body_bytes);
    message->store = (struct spool_store){
        .envelope = &message->envelope,
        .origin = { .trace = SPAN("Received: from client\r\n"), .client = SPAN("192.0.2.1") },
        .buffers = &world->buffers,
        .body = &message->body,
        .owner = message,
        .record = { .arrival_ns = 1000u + seed,
                    .size = body_bytes,
                    .flags = RECORD_CHUNKED,
                    .recipients = recipients,
                    .body_bytes = body_bytes },
    };
    snprintf(message->store.record.id, sizeof(message->store.record.id), "ID%08X", seed);
}

static inline void
message_free(struct world *world, struct message *message)
{
    chain_release(&world->buffers, &message->body);
    envelope_clear(&message->envelope);
}

/* Stores and waits; the message's own memory is given back, as its owner would. */
static inline void
message_store(struct world *world, struct message *message, uint32_t seed, uint32_t recipients,
              uint64_t body_bytes)
{
    message_make(world, message, seed, recipients, body_bytes);
    spool_store(world->spool, &message->store);
    cr_assert_not(message->stored);
    WORLD_UNTIL(world, message->stored);
    message_free(world, message);
}

/* What was stored is read back octet by octet. */
struct world_check {
    const struct message *message;
    bool done;
};

static inline void
world_check_loaded(struct world *world, const struct spool_event *event)
{
    struct world_check *check = world->context;
    const struct message *message = check->message;
    struct record_recipient recipient;
    struct spool_load *load;
    uint32_t count = 0;
    char text[64];

    if (event->kind != SPOOL_LOADED)
        return;
    load = event->load;
    check->done = true;
    cr_assert_eq(load->error, 0, "%s: %s", message->store.record.id, io_error_text(load->error));
    cr_assert_str_eq(load->record.id, message->store.record.id);
    cr_assert_eq(load->record.arrival_ns, message->store.record.arrival_ns);
    cr_assert_eq(load->record.size, message->store.record.size);
    cr_assert_eq(load->record.flags, message->store.record.flags);
    cr_assert_eq(load->record.recipients, message->store.record.recipients);
    cr_assert(span_equal(load->envelope.reverse_path, SPAN("sender@example.org")));
    cr_assert(span_equal(load->envelope.origin.trace, SPAN("Received: from client\r\n")));
    while (record_recipient_next(&load->envelope, &recipient)) {
        snprintf(text, sizeof(text), "r%u.%u@example.com", (unsigned)message->seed,
                 (unsigned)count++);
        cr_assert(span_equal(recipient.mailbox, span_text(text)), "recipient %u", count);
    }
    cr_assert_eq(count, message->store.record.recipients);
    cr_assert(
        world_body_is(world, &load->body, message->seed,
                      message->store.record.flags & RECORD_BODY_FILE ? 0 : message->body_bytes),
        "body of %s", message->store.record.id);
}

static inline void
message_check(struct world *world, const struct message *message)
{
    struct world_check check = { .message = message };
    struct spool_load load = { .place = message->store.place, .buffers = &world->buffers };

    world->on_event = world_check_loaded;
    world->context = &check;
    spool_load(world->spool, &load);
    WORLD_UNTIL(world, check.done);
    world->on_event = NULL;
    chain_release(&world->buffers, &load.body);
}

static inline void
message_forget(struct world *world, const struct message *message)
{
    for (uint32_t i = 0; i < message->store.record.recipients; i++)
        spool_mark_set(world->spool, &message->store.place, i,
                       (struct mark){ .state = MARK_DELIVERED, .attempts = 1 });
    spool_forget(world->spool, &message->store.place, message->store.record.id,
                 message->store.record.flags & RECORD_BODY_FILE);
}

/* --- files, past the spool --- */

static inline void
world_file_path(const struct world *world, uint64_t number, char path[128])
{
    char name[SPOOL_NAME_BYTES];

    spool_segment_name(number, name);
    snprintf(path, 128, "%s/%s", world->path, name);
}

static inline int
world_file_open(const struct world *world, uint64_t number, int flags)
{
    char path[128];
    int file;

    world_file_path(world, number, path);
    file = open(path, flags | O_CLOEXEC);
    cr_assert(file >= 0, "%s", path);
    return file;
}

/* Octets of a segment's file as they are on the disk. */
static inline void
world_read(const struct world *world, uint64_t number, uint64_t offset, void *to, size_t len)
{
    int file = world_file_open(world, number, O_RDONLY);

    cr_assert_eq(pread(file, to, len, (off_t)offset), (ssize_t)len, "segment %llu",
                 (unsigned long long)number);
    close(file);
}

static inline void
world_write(const struct world *world, uint64_t number, uint64_t offset, const void *from,
            size_t len)
{
    int file = world_file_open(world, number, O_WRONLY);

    cr_assert_eq(pwrite(file, from, len, (off_t)offset), (ssize_t)len, "segment %llu",
                 (unsigned long long)number);
    close(file);
}

#endif
