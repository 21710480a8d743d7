/* What a disk can do at best for a relay that makes messages durable: the same writes, and nothing
 * else. bench/measure.py compares the relay with it.
 *
 *   commit_loop FOLDER WRITERS COMMIT_BYTES SEGMENT_BYTES SECONDS
 *
 * Each writer has a segment file of its own, allocated and written once before the clock starts,
 * and writes it from front to back, again and again, COMMIT_BYTES at a time, one write in flight,
 * O_DIRECT|O_DSYNC by io_uring. Prints JSON: commits, how many a second, and times of a commit.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define WRITERS_MAX 256
#define FILL_BYTES (1024u * 1024)
/* Commit times in steps of 4 us up to 65 ms; the last row counts all that are longer. */
#define STEP_NS 4000
#define STEPS 16384

struct writer {
    pthread_t thread;
    struct io_uring ring;
    const char *folder;
    unsigned index;
    uint64_t commit_bytes, segment_bytes, run_ns;
    uint64_t commits, ended_ns;
    uint32_t times[STEPS];
};

static pthread_barrier_t ready;

static void
die(const char *what, int error)
{
    fprintf(stderr, "commit_loop: %s: %s\n", what, strerror(error));
    exit(1);
}

static uint64_t
now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Blocks that were written once cost no change of the file's map: like a segment that is used
 * again. The name goes at once: nothing is left behind, however this ends. */
static int
segment_open(const struct writer *writer)
{
    char name[4096];
    char *fill = NULL;
    int file, error;

    snprintf(name, sizeof(name), "%s/commit-%u-%d", writer->folder, writer->index, getpid());
    file = open(name, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_DSYNC, 0600);
    if (file < 0)
        die(name, errno);
    if (unlink(name) != 0)
        die(name, errno);
    error = posix_fallocate(file, 0, (off_t)writer->segment_bytes);
    if (error != 0)
        die("posix_fallocate", error);
    error = posix_memalign((void **)&fill, BLOCK_BYTES, FILL_BYTES);
    if (error != 0)
        die("posix_memalign", error);
    memset(fill, 'f', FILL_BYTES);
    for (uint64_t offset = 0; offset < writer->segment_bytes; offset += FILL_BYTES)
        if (pwrite(file, fill, FILL_BYTES, (off_t)offset) != (ssize_t)FILL_BYTES)
            die("pwrite", errno);
    free(fill);
    return file;
}

static void
commit(struct writer *writer, int file, const char *memory, uint64_t offset)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&writer->ring);
    struct io_uring_cqe *cqe;
    int result;

    if (sqe == NULL)
        die("io_uring_get_sqe", EBUSY);
    io_uring_prep_write(sqe, file, memory, (unsigned)writer->commit_bytes, offset);
    result = io_uring_submit_and_wait(&writer->ring, 1);
    if (result < 0)
        die("io_uring_submit_and_wait", -result);
    result = io_uring_wait_cqe(&writer->ring, &cqe);
    if (result < 0)
        die("io_uring_wait_cqe", -result);
    if (cqe->res != (int)writer->commit_bytes)
        die("write", cqe->res < 0 ? -cqe->res : EIO);
    io_uring_cqe_seen(&writer->ring, cqe);
}

static void *
writer_run(void *argument)
{
    struct writer *writer = argument;
    int file = segment_open(writer);
    uint64_t offset = 0, start, before, after;
    char *memory = NULL;
    int error;

    error = posix_memalign((void **)&memory, BLOCK_BYTES, writer->commit_bytes);
    if (error != 0)
        die("posix_memalign", error);
    memset(memory, 'm', writer->commit_bytes);
    error = io_uring_queue_init(8, &writer->ring, 0);
    if (error != 0)
        die("io_uring_queue_init", -error);
    pthread_barrier_wait(&ready);
    start = before = now_ns();
    do {
        uint64_t step;

        if (offset + writer->commit_bytes > writer->segment_bytes)
            offset = 0;
        memcpy(memory, &writer->commits, sizeof(writer->commits));
        commit(writer, file, memory, offset);
        offset += writer->commit_bytes;
        writer->commits++;
        after = now_ns();
        step = (after - before) / STEP_NS;
        writer->times[step < STEPS ? step : STEPS - 1]++;
        before = after;
    } while (after - start < writer->run_ns);
    writer->ended_ns = after - start;
    io_uring_queue_exit(&writer->ring);
    free(memory);
    close(file);
    return NULL;
}

static double
time_us(const uint64_t times[STEPS], uint64_t commits, double share)
{
    uint64_t wanted = (uint64_t)((double)commits * share), seen = 0;

    for (unsigned step = 0; step < STEPS; step++) {
        seen += times[step];
        if (seen > wanted)
            return (step + 0.5) * STEP_NS / 1000;
    }
    return STEPS * (double)STEP_NS / 1000;
}

static uint64_t
number(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*end != '\0' || end == text || value < least || value > most) {
        fprintf(stderr, "commit_loop: %s: not a number from %" PRIu64 " to %" PRIu64 "\n", text,
                least, most);
        exit(2);
    }
    return value;
}

static void
report(const struct writer *writers, unsigned count)
{
    static uint64_t times[STEPS];
    uint64_t commits = 0;
    double rate = 0;

    for (unsigned i = 0; i < count; i++) {
        commits += writers[i].commits;
        rate += (double)writers[i].commits * 1e9 / (double)writers[i].ended_ns;
        for (unsigned step = 0; step < STEPS; step++)
            times[step] += writers[i].times[step];
    }
    printf("{\"commits\": %" PRIu64 ", \"commits_per_s\": %.1f, \"p50_us\": %.0f, "
           "\"p99_us\": %.0f}\n",
           commits, rate, time_us(times, commits, 0.5), time_us(times, commits, 0.99));
}

int
main(int argc, char **argv)
{
    struct writer *writers;
    unsigned count;
    uint64_t commit_bytes, segment_bytes, seconds;
    int error;

    if (argc != 6) {
        fprintf(stderr, "usage: commit_loop FOLDER WRITERS COMMIT_BYTES SEGMENT_BYTES SECONDS\n");
        return 2;
    }
    count = (unsigned)number(argv[2], 1, WRITERS_MAX);
    segment_bytes = number(argv[4], FILL_BYTES, UINT64_C(1) << 30) / FILL_BYTES * FILL_BYTES;
    commit_bytes = number(argv[3], BLOCK_BYTES, segment_bytes) / BLOCK_BYTES * BLOCK_BYTES;
    seconds = number(argv[5], 1, 3600);
    writers = calloc(count, sizeof(*writers));
    if (writers == NULL)
        die("calloc", ENOMEM);
    error = pthread_barrier_init(&ready, NULL, count);
    if (error != 0)
        die("pthread_barrier_init", error);
    for (unsigned i = 0; i < count; i++) {
        writers[i].folder = argv[1];
        writers[i].index = i;
        writers[i].commit_bytes = commit_bytes;
        writers[i].segment_bytes = segment_bytes;
        writers[i].run_ns = seconds * 1000000000;
        error = pthread_create(&writers[i].thread, NULL, writer_run, &writers[i]);
        if (error != 0)
            die("pthread_create", error);
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(writers[i].thread, NULL);
    report(writers, count);
    free(writers);
    return 0;
}
