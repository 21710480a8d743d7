/* sim-net: tests of the simulated network, with a whole relay on it: each scenario runs twice, and
 * both must have the same trace. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/log.h"
#include "tests/sim/net_scenarios.h"

#define SEEDS 20

struct totals {
    uint64_t runs, steps, connections, messages, cuts;
};

static const char *running;
static uint64_t running_seed;

/* An ASSERT does not know of seeds. */
static void
on_abort(int number)
{
    fprintf(stderr, "sim-net: repeat with: make sim-net SCENARIO=%s SEED=%llu\n", running,
            (unsigned long long)running_seed);
    signal(number, SIG_DFL);
}

static void
log_line(void *context, enum log_level level, struct span line)
{
    (void)level;
    if (*(const bool *)context)
        (void)fwrite(line.data, 1, line.len, stderr);
}

static uint64_t
run_once(const struct scenario *scenario, uint64_t seed, struct totals *totals)
{
    static struct net_world world;
    uint64_t hash;

    running = scenario->name;
    running_seed = seed;
    world_begin(&world, scenario->name, seed);
    scenario->run(&world);
    hash = sim_trace_hash();
    totals->runs++;
    totals->steps += world.steps;
    totals->connections += world.hop_connections;
    totals->messages += world.hop_messages;
    totals->cuts += world.cuts;
    world_end(&world);
    return hash;
}

static void
run(const struct scenario *scenario, uint64_t seed, struct totals *totals)
{
    uint64_t first = run_once(scenario, seed, totals);
    uint64_t second = run_once(scenario, seed, totals);

    if (first == second)
        return;
    fprintf(stderr, "sim-net: %s, seed %llu: two runs differ\n", scenario->name,
            (unsigned long long)seed);
    exit(1);
}

int
main(int argc, char **argv)
{
    static const struct option options[] = { { "seed", required_argument, NULL, 's' },
                                             { "seeds", required_argument, NULL, 'n' },
                                             { "scenario", required_argument, NULL, 'c' },
                                             { "verbose", no_argument, NULL, 'v' },
                                             { NULL, 0, NULL, 0 } };
    uint64_t first = 1, count = SEEDS;
    const char *only = NULL;
    struct totals totals = { 0 };
    unsigned passed = 0;
    bool verbose = false;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 's':
            first = strtoull(optarg, NULL, 10);
            count = 1;
            break;
        case 'n': count = strtoull(optarg, NULL, 10); break;
        case 'c': only = optarg; break;
        case 'v': verbose = true; break;
        default: return 2;
        }
    }
    sim_verbose(verbose);
    log_set_sink(log_line, &verbose, LOG_FORMAT_TEXT, LOG_LEVEL_INFO);
    signal(SIGABRT, on_abort);
    for (const struct scenario *scenario = scenarios; scenario->name != NULL; scenario++) {
        uint64_t seeds = count * (scenario->faulty ? 3 : 1);

        if (only != NULL && strcmp(only, scenario->name) != 0)
            continue;
        for (uint64_t seed = first; seed < first + (count == 1 ? 1 : seeds); seed++)
            run(scenario, seed, &totals);
        printf("ok %s\n", scenario->name);
        passed++;
    }
    printf(
        "%llu runs, %llu turns, %llu next-hop connections, %llu messages there, %llu power cuts\n",
        (unsigned long long)totals.runs, (unsigned long long)totals.steps,
        (unsigned long long)totals.connections, (unsigned long long)totals.messages,
        (unsigned long long)totals.cuts);
    /* What fails ends the process. */
    printf("%u passed, 0 failed\n", passed);
    return passed > 0 ? 0 : 2;
}
