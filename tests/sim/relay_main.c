/* The whole relay in a simulated world: runs seeds, each in a child that may die, and says for each
 * that failed how to repeat it.
 *
 * usage: sim [--jobs N] [--verbose] [--file FILE] MODE...
 *   --seeds FIRST COUNT   these seeds
 *   --list FILE           the seeds at the beginnings of its lines
 *   --minutes N           new seeds from the clock, with a line of progress
 *   --until-failure N     seeds from 1 to N, to the first that fails (for canaries)
 * --each-kind: a kind of fault that never happened is a failure.
 * --file: failing seeds are added to it.
 * exit: 0 all is well, 2 usage, 3 a promise was broken (A1 to A6), 4 something never ends (A7),
 *       5 an ASSERT or a sanitizer, 6 the same seed was another history (A8); of several the
 *       highest. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/relay_world.h"
#include "tests/sim/sim_driver.h"

/* A seed that takes longer hangs. */
#define SEED_SECONDS_MAX 120
#define JOBS_MAX 64
#define TWICE_EACH 20
#define FAILURES_MAX 20
#define PROGRESS_SECONDS 10

struct shared { /* with all children */
    uint64_t next, end; /* seeds */
    const uint64_t *list;
    uint64_t passed;
    struct totals totals;
    uint64_t counts[SIM_EVENTS];
};

struct job {
    pid_t child;   /* 0: none */
    uint64_t seed; /* shared with its child */
};

static struct shared *shared;
static struct job *jobs;
static uint32_t job_count = 2;
static bool verbose, first_only, each_kind;
static const char *failures_file;
static uint64_t failed, failed_first;
static enum ending worst;
static time_t started;

/* --- the child --- */

static void
add(uint64_t *to, uint64_t amount)
{
    __atomic_add_fetch(to, amount, __ATOMIC_RELAXED);
}

static void
totals_add(const struct totals *totals)
{
    const uint64_t *from = (const uint64_t *)totals;
    uint64_t *to = (uint64_t *)&shared->totals;

    for (size_t i = 0; i < sizeof(*totals) / sizeof(uint64_t); i++)
        add(&to[i], from[i]);
}

/* Some of them twice: the same seed is the same history, or no failure could be repeated. */
static void
seed_run(uint64_t seed)
{
    struct totals totals;
    uint64_t hash, again;

    world.verbose = verbose;
    hash = world_run(seed, &totals);
    totals_add(&totals);
    if (seed % TWICE_EACH != 0)
        return;
    world.verbose = false;
    again = world_run(seed, &totals);
    if (hash != again) {
        fprintf(stderr, "sim: seed %llu: A8: another history the second time\n",
                (unsigned long long)seed);
        _exit(ENDING_OTHER);
    }
}

_Noreturn static void
child_run(struct job *job)
{
    uint64_t counts[SIM_EVENTS] = { 0 };

    for (;;) {
        uint64_t next = __atomic_fetch_add(&shared->next, 1, __ATOMIC_RELAXED);

        if (next >= shared->end)
            _exit(ENDING_WELL);
        job->seed = shared->list != NULL ? shared->list[next] : next;
        alarm(SEED_SECONDS_MAX);
        seed_run(job->seed);
        add(&shared->passed, 1);
        for (int i = 0; i < SIM_EVENTS; i++) {
            add(&shared->counts[i], sim_count((enum sim_event)i) - counts[i]);
            counts[i] = sim_count((enum sim_event)i);
        }
    }
}

/* --- the parent --- */

static void
job_start(struct job *job)
{
    pid_t child = sim_fork("sim");

    if (child == 0)
        child_run(job);
    job->child = child;
}

static enum ending
ending_of(int status)
{
    if (WIFEXITED(status)) {
        int code = WEXITSTATUS(status);

        return code == ENDING_WELL || code == ENDING_AUDIT || code == ENDING_LIVENESS ||
                       code == ENDING_OTHER
                   ? (enum ending)code
                   : ENDING_ASSERTION;
    }
    return WTERMSIG(status) == SIGALRM ? ENDING_LIVENESS : ENDING_ASSERTION;
}

static void
failure(uint64_t seed, enum ending ending)
{
    static const char *const words[] = { [ENDING_AUDIT] = "a promise was broken",
                                         [ENDING_LIVENESS] = "it never ends",
                                         [ENDING_ASSERTION] = "an assertion or a sanitizer",
                                         [ENDING_OTHER] = "another history" };
    FILE *file = failures_file != NULL ? fopen(failures_file, "a") : NULL;

    if (failed++ == 0)
        failed_first = seed;
    worst = ending > worst ? ending : worst;
    printf("FAILED: seed %llu (%s); repeat with: make sim SEED=%llu VERBOSE=1\n",
           (unsigned long long)seed, words[ending], (unsigned long long)seed);
    if (file != NULL) {
        fprintf(file, "%llu %s; make sim SEED=%llu VERBOSE=1\n", (unsigned long long)seed,
                words[ending], (unsigned long long)seed);
        (void)fclose(file);
    }
}

static void
job_end(struct job *job, int status)
{
    enum ending ending = ending_of(status);

    job->child = 0;
    if (ending == ENDING_WELL)
        return;
    failure(job->seed, ending);
    if (first_only || failed >= FAILURES_MAX)
        __atomic_store_n(&shared->next, UINT64_MAX / 2, __ATOMIC_RELAXED);
    else
        job_start(job);
}

static uint64_t
faults(void)
{
    uint64_t sum = shared->totals.cuts;

    for (int i = SIM_FAULTS_FIRST; i <= SIM_FAULTS_LAST; i++)
        sum += shared->counts[i];
    return sum;
}

static void
progress(void)
{
    const struct totals *totals = &shared->totals;
    double seconds = difftime(time(NULL), started);

    printf("%.0f s: %llu seeds (%.1f/s), %.0f simulated hours, %llu faults, %llu power cuts, "
           "%llu letters audited, %llu failed\n",
           seconds, (unsigned long long)shared->passed,
           (double)shared->passed / (seconds < 1 ? 1 : seconds), (double)totals->hours_ns / 3.6e12,
           (unsigned long long)faults(), (unsigned long long)totals->cuts,
           (unsigned long long)totals->letters, (unsigned long long)failed);
}

/* Until all are done, or the time is over. */
static void
wait_all(time_t end)
{
    static time_t told;
    uint32_t running = job_count;

    while (running > 0) {
        running = 0;
        for (uint32_t i = 0; i < job_count; i++) {
            int status;

            if (jobs[i].child == 0)
                continue;
            running++;
            if (waitpid(jobs[i].child, &status, WNOHANG) == jobs[i].child)
                job_end(&jobs[i], status);
        }
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
        if (end == 0)
            continue;
        if (time(NULL) >= end)
            __atomic_store_n(&shared->next, UINT64_MAX / 2, __ATOMIC_RELAXED);
        if (time(NULL) >= told + PROGRESS_SECONDS) {
            told = time(NULL);
            progress();
        }
    }
}

static void
run(uint64_t first, uint64_t end, const uint64_t *list, time_t until)
{
    shared->next = first;
    shared->end = end;
    shared->list = list;
    for (uint32_t i = 0; i < job_count; i++)
        job_start(&jobs[i]);
    wait_all(until);
}

static void
run_minutes(uint64_t minutes)
{
    struct timespec now;
    uint64_t first;

    clock_gettime(CLOCK_REALTIME, &now);
    first = ((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000) % 100000000000 * 1000;
    printf("seeds from the clock: %llu on\n", (unsigned long long)first);
    run(first, UINT64_MAX / 4, NULL, time(NULL) + (time_t)minutes * 60);
}

static void
run_list(const char *name)
{
    static uint64_t list[1000];
    char line[512];
    uint64_t count = 0;
    FILE *file = fopen(name, "r");

    if (file == NULL) {
        perror(name);
        exit(2);
    }
    while (count < sizeof(list) / sizeof(list[0]) && fgets(line, sizeof(line), file) != NULL)
        if (line[0] >= '0' && line[0] <= '9')
            list[count++] = strtoull(line, NULL, 10);
    (void)fclose(file);
    run(0, count, list, 0);
}

static void
report(void)
{
    const struct totals *totals = &shared->totals;

    progress();
    printf("%llu lives; %llu letters: %llu accepted (%llu stored), %llu refused for good, "
           "%llu taken by next hops, %llu of them again, %llu reports to senders\n",
           (unsigned long long)totals->lives, (unsigned long long)totals->letters,
           (unsigned long long)totals->accepted, (unsigned long long)totals->queued,
           (unsigned long long)totals->refused, (unsigned long long)totals->delivered,
           (unsigned long long)totals->duplicates, (unsigned long long)totals->reports);
    printf("%llu cuts just when a 250 was queued, %llu times the clock was set, %llu injections "
           "around STARTTLS\n", (unsigned long long)totals->durable_cuts,
           (unsigned long long)totals->jumps, (unsigned long long)totals->injections);
    for (int i = 0; i < SIM_EVENTS; i++)
        printf("%s%llu %s", i == 0 ? "" : ", ", (unsigned long long)shared->counts[i],
               sim_event_names[i]);
    printf("\n");
    for (int i = 0; each_kind && i < SIM_EVENTS; i++)
        if (shared->counts[i] == 0) {
            printf("FAILED: 0 %s: the worlds are too quiet\n", sim_event_names[i]);
            worst = worst > ENDING_OTHER ? worst : ENDING_OTHER;
        }
    printf("%llu passed, %llu failed\n", (unsigned long long)shared->passed,
           (unsigned long long)failed);
}

/* --- arguments --- */

static uint64_t
number(char **arguments, int *at)
{
    return sim_argument_number("sim", arguments, at);
}

static const char *
word(char **arguments, int *at)
{
    if (arguments[*at + 1] == NULL) {
        fprintf(stderr, "sim: %s needs a file\n", arguments[*at]);
        exit(2);
    }
    return arguments[++*at];
}

static void
argument(char **arguments, int *at)
{
    const char *name = arguments[*at];
    uint64_t value;

    if (strcmp(name, "--verbose") == 0) {
        verbose = true;
    } else if (strcmp(name, "--each-kind") == 0) {
        each_kind = true;
    } else if (strcmp(name, "--file") == 0) {
        failures_file = word(arguments, at);
    } else if (strcmp(name, "--list") == 0) {
        run_list(word(arguments, at));
    } else if (strcmp(name, "--jobs") == 0) {
        value = number(arguments, at);
        job_count = value < 1 ? 1 : value > JOBS_MAX ? JOBS_MAX : (uint32_t)value;
    } else if (strcmp(name, "--seeds") == 0) {
        value = number(arguments, at);
        run(value, value + number(arguments, at), NULL, 0);
    } else if (strcmp(name, "--minutes") == 0) {
        run_minutes(number(arguments, at));
    } else if (strcmp(name, "--until-failure") == 0) {
        first_only = true;
        run(1, number(arguments, at) + 1, NULL, 0);
    } else {
        fprintf(stderr, "sim: unknown option %s\n", name);
        exit(2);
    }
}

int
main(int argc, char **argv)
{
    jobs = mmap(NULL, JOBS_MAX * sizeof(*jobs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                -1, 0);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (jobs == MAP_FAILED || shared == MAP_FAILED)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    started = time(NULL);
    for (int i = 1; i < argc; i++)
        argument(argv, &i);
    report();
    return (int)worst;
}
