/* recover_world: a spool directory of images, and workers that recover it, all in one thread.
 * Does:    writes segments as files, opens the directory with any number of workers, runs them
 * until all have recovered, writes down what they found and what they logged. Owns:    the
 * directory, which world_end() empties and removes. Errors:  what does not come in time fails the
 * test.
 */
#ifndef RINGPOST_TESTS_UNIT_RECOVER_WORLD_H
#define RINGPOST_TESTS_UNIT_RECOVER_WORLD_H

#include <criterion/criterion.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"
#include "relay/spool/found.h"
#include "relay/spool/spool_private.h"
#include "tests/unit/io_world.h"
#include "tests/unit/segment_image.h"

#define WORLD_KIND 3
#define WORLD_WORKERS_MAX 5
#define WORLD_FOUND_MAX 32768
#define WORLD_SEGMENT_BYTES ((uint64_t)SPOOL_SEGMENT_BYTES_MIN)

struct world_found {
    char id[16];
    uint32_t worker;
    uint32_t recipients;
    struct spool_place place;
    uint32_t flags;
};

struct world {
    char path[40];
    struct config config;
    struct spool_directory directory;
    uint32_t workers;
    struct io *io[WORLD_WORKERS_MAX];
    struct spool *spool[WORLD_WORKERS_MAX];
    struct counters *counters; /* [WORLD_WORKERS_MAX] */
    bool recovered[WORLD_WORKERS_MAX];
    struct world_found *found;
    uint32_t found_count;
    /* Decides on the result of an operation of the recovery, as the kernel's; NULL: as it is. */
    int32_t (*result)(struct world *world, int32_t result);
    uint64_t completions; /* of the recoveries */
    char log[64 * 1024];
    size_t log_len;
};

static inline void
world_log(void *context, enum log_level level, struct span line)
{
    struct world *world = context;

    (void)level;
    if (line.len >= sizeof(world->log) - world->log_len)
        return;
    memcpy(world->log + world->log_len, line.data, line.len);
    world->log_len += line.len;
    world->log[world->log_len] = '\0';
}

static inline void
world_begin(struct world *world)
{
    memset(world, 0, sizeof(*world));
    memcpy(world->path, "/tmp/ringpost-spool-XXXXXX", sizeof("/tmp/ringpost-spool-XXXXXX"));
    cr_assert_not_null(mkdtemp(world->path));
    world->config.spool.directory = world->path;
    world->config.spool.segment = WORLD_SEGMENT_BYTES;
    world->config.delivery.buffer = 16384;
    world->found = calloc(WORLD_FOUND_MAX, sizeof(*world->found));
    world->counters = io_memory(WORLD_WORKERS_MAX * sizeof(*world->counters));
    cr_assert(world->found != NULL && world->counters != NULL);
    log_set_sink(world_log, world, LOG_FORMAT_TEXT, LOG_LEVEL_DEBUG);
}

static inline const char *
world_file(const struct world *world, const char *name)
{
    static char path[4][128];
    static unsigned turn;
    char *out = path[turn++ % 4];

    (void)snprintf(out, sizeof(path[0]), "%s/%.60s", world->path, name);
    return out;
}

static inline const char *
world_segment(uint64_t number)
{
    static char name[4][SPOOL_NAME_BYTES];
    static unsigned turn;
    char *out = name[turn++ % 4];

    spool_segment_name(number, out);
    return out;
}

static inline void
world_put(const struct world *world, const char *name, const void *octets, size_t len)
{
    int file = open(world_file(world, name), O_CREAT | O_TRUNC | O_WRONLY, 0600);

    cr_assert(file >= 0, "%s", name);
    cr_assert_eq(write(file, octets, len), (ssize_t)len);
    close(file);
}

static inline void
world_put_image(const struct world *world, const struct image *image)
{
    world_put(world, world_segment(image->header.number), image->octets, image->header.bytes);
}

static inline void
image_new(struct image *image, uint64_t number)
{
    image_begin(image, number, WORLD_SEGMENT_BYTES, segment_slots(WORLD_SEGMENT_BYTES));
}

static inline bool
world_has(const struct world *world, const char *name)
{
    struct stat status;

    return stat(world_file(world, name), &status) == 0;
}

/* Files there, the lock left out. */
static inline unsigned
world_files(const struct world *world)
{
    DIR *stream = opendir(world->path);
    const struct dirent *entry;
    unsigned count = 0;

    cr_assert_not_null(stream);
    while ((entry = readdir(stream)) != NULL)
        count += entry->d_name[0] != '.' && strcmp(entry->d_name, "lock") != 0;
    closedir(stream);
    return count;
}

/* --- workers --- */

static inline void
world_open(struct world *world, uint32_t workers)
{
    char error[SPOOL_ERROR_BYTES];

    world->workers = workers;
    world->found_count = 0;
    world->completions = 0;
    world->log_len = 0;
    world->log[0] = '\0';
    cr_assert(spool_directory_open(&world->directory, &world->config, workers, error), "%s", error);
    memset(world->counters, 0, WORLD_WORKERS_MAX * sizeof(*world->counters));
    for (uint32_t i = 0; i < workers; i++) {
        world->io[i] = io_open(64, 0);
        world->recovered[i] = false;
        world->spool[i] = spool_create(&world->directory, &world->config, world->io[i],
                                       &world->counters[i], WORLD_KIND, i, workers);
        cr_assert_not_null(world->spool[i]);
    }
}

static inline void
world_event(struct world *world, uint32_t worker, const struct spool_event *event)
{
    struct world_found *found = &world->found[world->found_count];
    struct record_envelope envelope;
    struct record_recipient recipient;
    char mailbox[64];
    uint32_t count = 0;

    if (event->kind == SPOOL_RECOVERED) {
        cr_assert_not(world->recovered[worker]);
        world->recovered[worker] = true;
        return;
    }
    if (event->kind != SPOOL_FOUND)
        return;
    cr_assert_not(world->recovered[worker]);
    cr_assert_lt(world->found_count, WORLD_FOUND_MAX);
    world->found_count++;
    *found = (struct world_found){ .worker = worker,
                                   .recipients = event->record->recipients,
                                   .place = event->place,
                                   .flags = event->record->flags };
    memcpy(found->id, event->record->id, sizeof(found->id));
    cr_assert_eq(event->place.slot, event->record->slot);
    cr_assert_eq(event->place.bytes, record_bytes(event->record));
    envelope = *event->envelope;
    cr_assert(span_equal(envelope.reverse_path, SPAN("sender@example.com")));
    while (record_recipient_next(&envelope, &recipient)) {
        int len = snprintf(mailbox, sizeof(mailbox), "r%u@%s.example", count++, found->id);

        cr_assert(span_equal(recipient.mailbox, span_of(mailbox, (size_t)len)), "%s", mailbox);
    }
    cr_assert_eq(count, found->recipients);
}

static inline void
world_turn(struct world *world, uint32_t worker)
{
    struct io *io = world->io[worker];
    struct spool *spool = world->spool[worker];
    struct io_completion completion;
    struct spool_event event;

    io_wait(io, 0);
    while (io_next(io, &completion)) {
        const struct operation *operation = pool_at(&spool->operations, completion.ticket.slot);

        if (operation->kind == OPERATION_RECOVER && world->result != NULL)
            completion.result = world->result(world, completion.result);
        world->completions += operation->kind == OPERATION_RECOVER;
        spool_complete(spool, &completion);
    }
    spool_turn(spool, clock_now_ns(), clock_realtime_ns());
    while (spool_event(spool, &event))
        world_event(world, worker, &event);
}

/* Until it says so for all workers; ten seconds. */
static inline void
world_run(struct world *world, bool (*until)(const struct world *world, uint32_t worker))
{
    uint64_t end_ns = clock_now_ns() + 10 * NS_PER_S;

    for (;;) {
        bool over = true;

        for (uint32_t i = 0; i < world->workers; i++) {
            world_turn(world, i);
            over = over && until(world, i);
        }
        if (over)
            return;
        cr_assert_lt(clock_now_ns(), end_ns, "it does not end; log:\n%s", world->log);
    }
}

static inline bool
world_is_recovered(const struct world *world, uint32_t worker)
{
    const struct spool *spool = world->spool[worker];

    return world->recovered[worker] && recovery_over(spool) && recovery_idle(spool) &&
           recovery_wakes_ns(spool) == UINT64_MAX;
}

static inline bool
world_is_idle(const struct world *world, uint32_t worker)
{
    return spool_idle(world->spool[worker]);
}

static inline void
world_close(struct world *world, bool clean)
{
    for (uint32_t i = 0; i < world->workers; i++)
        spool_stop(world->spool[i]);
    world_run(world, world_is_idle);
    for (uint32_t i = 0; i < world->workers; i++) {
        spool_destroy(world->spool[i]);
        io_shut(world->io[i]);
    }
    spool_directory_close(&world->directory, clean);
}

/* Opens, recovers all. */
static inline void
world_recover(struct world *world, uint32_t workers)
{
    world_open(world, workers);
    world_run(world, world_is_recovered);
}

static inline void
world_end(struct world *world)
{
    DIR *stream = opendir(world->path);
    const struct dirent *entry;

    while ((entry = readdir(stream)) != NULL)
        if (entry->d_name[0] != '.')
            cr_assert_eq(unlink(world_file(world, entry->d_name)), 0, "%s", entry->d_name);
    closedir(stream);
    cr_assert_eq(rmdir(world->path), 0);
    io_memory_free(world->counters, WORLD_WORKERS_MAX * sizeof(*world->counters));
    free(world->found);
    log_set_sink(NULL, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_DEBUG);
}

/* --- what was found --- */

static inline int
world_compare(const void *a, const void *b)
{
    const struct world_found *one = a, *other = b;

    return strcmp(one->id, other->id);
}

/* Their ids in order, "a b c". */
static inline const char *
world_ids(struct world *world)
{
    static char text[4096];
    size_t len = 0;

    qsort(world->found, world->found_count, sizeof(*world->found), world_compare);
    text[0] = '\0';
    for (uint32_t i = 0; i < world->found_count && len < sizeof(text) - 32; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s", i == 0 ? "" : " ",
                                world->found[i].id);
    return text;
}

static inline const struct world_found *
world_found_of(const struct world *world, const char *id)
{
    for (uint32_t i = 0; i < world->found_count; i++)
        if (strcmp(world->found[i].id, id) == 0)
            return &world->found[i];
    cr_assert(false, "%s was not found", id);
    return NULL;
}

static inline uint64_t
world_count(const struct world *world, size_t field)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < world->workers; i++)
        sum += *(const uint64_t *)(const void *)((const char *)&world->counters[i] + field);
    return sum;
}
#define WORLD_COUNT(world, field) world_count(world, offsetof(struct counters, field))

/* A line with this event that names the file and the offset. */
static inline bool
world_told(const struct world *world, const char *event, const char *file, uint64_t offset)
{
    char wanted[128];

    (void)snprintf(wanted, sizeof(wanted), "file=%s, offset=%llu", file,
                   (unsigned long long)offset);
    for (const char *line = strstr(world->log, event); line != NULL;
         line = strstr(line + 1, event)) {
        const char *end = strchr(line, '\n'), *at = strstr(line, wanted);

        if (at != NULL && at < end && (at[strlen(wanted)] == ',' || at[strlen(wanted)] == '\n'))
            return true;
    }
    return false;
}

#endif
