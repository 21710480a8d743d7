/* The spool against power cuts and disks that fail: runs seeds, each in a child that may die, and
 * says for each that failed how to repeat it.
 *
 * usage: sim-spool [--seeds FIRST COUNT] [--clock COUNT] [--minutes N] [--prefixes FIRST COUNT]
 *                  [--steps N] [--depth N] [--operation N] [--jobs N]
 *                  [--until-failure COUNT] [--directory-forgets] [--verbose] */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"
#include "tests/sim/sim_driver.h"
#include "tests/sim/spool_world.h"

/* A seed that takes longer hangs. */
#define SEED_SECONDS_MAX 120
#define JOBS_MAX 64
#define TWICE_EACH 25
#define SHOWN_FAILURES_MAX 20

enum mode { MODE_SEEDS, MODE_PREFIXES };

struct job { /* shared with its child */
    enum mode mode;
    uint64_t next, end; /* seeds; next: the one that runs */
    uint64_t passed, images;
    uint64_t counts[SIM_EVENTS];
    struct history_totals totals;
    pid_t child; /* 0: none */
};

struct options {
    uint32_t jobs, steps, depth;
    uint64_t operation;
    bool verbose, directory_forgets;
};

static struct options options = { .jobs = 2, .steps = 60, .depth = 3, .operation = UINT64_MAX };
static struct job *jobs;
static uint64_t passed, failed;

/* --- the child --- */

static void
log_line(void *context, enum log_level level, struct span line)
{
    audit_log(context, level, line);
    if (options.verbose)
        fprintf(stderr, "%.*s", (int)line.len, line.data);
}

/* Some of them twice: the same seed is the same history, or no failure could be repeated. */
static void
history(uint64_t seed, struct history_totals *totals)
{
    uint64_t hash = history_run(seed, options.directory_forgets, totals);
    struct history_totals again = { 0 };

    if (seed % TWICE_EACH != 0 ||
        hash == history_run(seed, options.directory_forgets, &again))
        return;
    fprintf(stderr, "sim-spool: seed %llu: another history the second time\n",
            (unsigned long long)seed);
    abort();
}

_Noreturn static void
child_run(struct job *job)
{
    sim_verbose(options.verbose);
    log_set_sink(log_line, NULL, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    for (; job->next < job->end; job->next++) {
        alarm(job->mode == MODE_SEEDS ? SEED_SECONDS_MAX : 20 * SEED_SECONDS_MAX);
        if (job->mode == MODE_SEEDS)
            history(job->next, &job->totals);
        else
            job->images += prefixes_run(job->next, options.steps, options.depth,
                                        options.operation);
        job->passed++;
        for (int i = 0; i < SIM_EVENTS; i++)
            job->counts[i] = sim_count((enum sim_event)i);
    }
    _exit(0);
}

/* --- the parent --- */

static void
job_start(struct job *job)
{
    pid_t child = sim_fork("sim-spool");

    if (child == 0)
        child_run(job);
    job->child = child; /* the memory is shared: not in the child */
}

static void
totals_add(struct history_totals *to, const struct history_totals *from)
{
    to->lives += from->lives;
    to->stored += from->stored;
    to->found += from->found;
    to->finished += from->finished;
    to->moves += from->moves;
    to->cleans += from->cleans;
    to->loads += from->loads;
}

static struct history_totals totals;
static uint64_t counts[SIM_EVENTS], images;

static void
job_end(struct job *job, int status)
{
    job->child = 0;
    passed += job->passed;
    images += job->images;
    totals_add(&totals, &job->totals);
    for (int i = 0; i < SIM_EVENTS; i++)
        counts[i] += job->counts[i];
    job->passed = job->images = 0;
    job->totals = (struct history_totals){ 0 };
    memset(job->counts, 0, sizeof(job->counts));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (++failed <= SHOWN_FAILURES_MAX)
        printf("FAILED: %s seed %llu (%s %d); repeat with: make sim-spool %s=%llu\n",
               job->mode == MODE_SEEDS ? "history" : "prefixes of", (unsigned long long)job->next,
               WIFSIGNALED(status) ? "signal" : "exit status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
               job->mode == MODE_SEEDS ? "SEED" : "PREFIXES", (unsigned long long)job->next);
    fflush(stdout);
    if (++job->next < job->end)
        job_start(job);
}

static void
wait_one(void)
{
    int status;
    pid_t child = wait(&status);

    for (uint32_t i = 0; i < options.jobs; i++)
        if (jobs[i].child == child && child > 0)
            job_end(&jobs[i], status);
}

static bool
any_runs(void)
{
    for (uint32_t i = 0; i < options.jobs; i++)
        if (jobs[i].child != 0)
            return true;
    return false;
}

/* The seeds in equal parts. */
static void
run(enum mode mode, uint64_t first, uint64_t count)
{
    for (uint32_t i = 0; i < options.jobs; i++) {
        jobs[i] = (struct job){ .mode = mode,
                                .next = first + count * i / options.jobs,
                                .end = first + count * (i + 1) / options.jobs };
        if (jobs[i].next < jobs[i].end)
            job_start(&jobs[i]);
    }
    while (any_runs())
        wait_one();
}

static uint64_t
clock_seed(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 % 100000000000;
}

static void
run_clock(uint64_t count)
{
    uint64_t first = clock_seed();

    printf("seeds from the clock: %llu to %llu\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1));
    run(MODE_SEEDS, first, count);
}

static void
run_minutes(uint64_t minutes)
{
    time_t end = time(NULL) + (time_t)minutes * 60;
    uint64_t first = clock_seed(), round = 0;

    printf("seeds from the clock: %llu on\n", (unsigned long long)first);
    while (time(NULL) < end && failed < SHOWN_FAILURES_MAX) {
        run(MODE_SEEDS, first, 200);
        if (round++ % 10 == 0)
            run(MODE_PREFIXES, first, options.jobs);
        first += 200;
    }
}

/* For canaries: how many seeds it takes. */
static void
run_until_failure(uint64_t count)
{
    uint32_t parts = options.jobs;

    options.jobs = 1;
    for (uint64_t seed = 1; seed <= count && failed == 0; seed += 20)
        run(MODE_SEEDS, seed, seed + 20 <= count + 1 ? 20 : count + 1 - seed);
    options.jobs = parts;
}

static void
report(void)
{
    printf("%llu lives: %llu messages stored, %llu found after a start, %llu finished, %llu read "
           "back, %llu moved in %llu cleanings\n",
           (unsigned long long)totals.lives, (unsigned long long)totals.stored,
           (unsigned long long)totals.found, (unsigned long long)totals.finished,
           (unsigned long long)totals.loads, (unsigned long long)totals.moves,
           (unsigned long long)totals.cleans);
    for (int i = 0; i < SIM_EVENTS; i++)
        printf("%s%llu %s", i == 0 ? "" : ", ", (unsigned long long)counts[i], sim_event_names[i]);
    printf("\n");
    if (images > 0)
        printf("%llu images of cut histories\n", (unsigned long long)images);
    printf("%llu passed, %llu failed\n", (unsigned long long)passed, (unsigned long long)failed);
}

/* --- arguments --- */

static uint64_t
number(char **arguments, int *at)
{
    return sim_argument_number("sim-spool", arguments, at);
}

int
main(int argc, char **argv)
{
    jobs = mmap(NULL, JOBS_MAX * sizeof(*jobs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                -1, 0);
    if (jobs == MAP_FAILED)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        bool flag =
            strcmp(name, "--verbose") == 0 || strcmp(name, "--directory-forgets") == 0;
        uint64_t value = flag ? 0 : number(argv, &i);

        if (strcmp(name, "--verbose") == 0)
            options.verbose = true;
        else if (flag)
            options.directory_forgets = true;
        else if (strcmp(name, "--jobs") == 0)
            options.jobs = value < 1 ? 1 : value > JOBS_MAX ? JOBS_MAX : (uint32_t)value;
        else if (strcmp(name, "--steps") == 0)
            options.steps = (uint32_t)value;
        else if (strcmp(name, "--depth") == 0)
            options.depth = (uint32_t)value;
        else if (strcmp(name, "--operation") == 0)
            options.operation = value;
        else if (strcmp(name, "--seeds") == 0)
            run(MODE_SEEDS, value, number(argv, &i));
        else if (strcmp(name, "--prefixes") == 0)
            run(MODE_PREFIXES, value, number(argv, &i));
        else if (strcmp(name, "--clock") == 0)
            run_clock(value);
        else if (strcmp(name, "--until-failure") == 0)
            run_until_failure(value);
        else if (strcmp(name, "--minutes") == 0)
            run_minutes(value);
        else {
            fprintf(stderr, "sim-spool: unknown option %s\n", name);
            return 2;
        }
    }
    report();
    return failed == 0 ? 0 : 1;
}
