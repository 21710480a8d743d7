/* The arguments of `ringpost-bench sink`. */
#include <getopt.h>
#include <stdio.h>

#include "bench/tool/argument.h"
#include "bench/tool/drain.h"

static const char usage_text[] =
    "ringpost-bench sink: a next hop that accepts all mail and costs as little as one can\n"
    "\n"
    "usage: ringpost-bench sink [ADDRESS:PORT] [OPTIONS]   (default 127.0.0.1:2626)\n"
    "\n"
    "  --threads N            share the port among N threads (default 1)\n"
    "  --sessions N           at most so many on each thread (default 65536)\n"
    "  --ledger FILE          a line for each message that came (ringpost-bench verify)\n"
    "  --certificate FILE --key FILE   offer STARTTLS     --tls   TLS from the first octet\n"
    "  --no-pipelining --no-chunking --no-8bitmime --no-size   do not offer it\n"
    "  --hostname NAME        what the greeting says (default sink.bench.example)\n"
    "  --delay STAGE=TIMES    answer later; may be given several times\n"
    "  --fault SPEC           go wrong; may be given several times, the first that applies does\n"
    "  --timeout TIME         close sessions that say nothing for so long (default 10min)\n"
    "  --seed N               the same chance again\n"
    "  --json                 the totals at the end as JSON     -q, --quiet   no progress line\n"
    "  --progress             a progress line also when standard error is no terminal\n"
    "  -h, --help             this text\n"
    "\n"
    "STAGE is greeting, ehlo, helo, starttls, mail, rcpt, data, end (the final reply), rset, "
    "quit.\n"
    "TIMES are a value (200us), a range (1ms-5ms), a list with weights (1ms:99,200ms:1),\n"
    "lognormal:MEDIAN:SIGMA or exponential:MEAN.\n"
    "SPEC is that of ringpost sink, without `body`, `connect` and `tls`:\n"
    "  'end=451 4.3.0 Busy,%1'   'rcpt~bad*=550 5.1.1 No'   'mail=421 4.3.2 Later,every=1000'\n"
    "  'end=drop,%0.5'  gone behind the dot, without an answer     'rcpt=drop,%1'\n"
    "\n"
    "It does not look at what it need not: addresses, parameters, line lengths. Ends with SIGINT "
    "or\n"
    "SIGTERM, exit status 0; 2 for wrong arguments, 3 if it could not run.\n";

enum option_key {
    OPTION_THREADS = 256,
    OPTION_SESSIONS,
    OPTION_LEDGER,
    OPTION_CERTIFICATE,
    OPTION_KEY,
    OPTION_TLS,
    OPTION_NO_PIPELINING,
    OPTION_NO_CHUNKING,
    OPTION_NO_8BITMIME,
    OPTION_NO_SIZE,
    OPTION_HOSTNAME,
    OPTION_DELAY,
    OPTION_FAULT,
    OPTION_TIMEOUT,
    OPTION_SEED,
    OPTION_JSON,
    OPTION_PROGRESS,
};

static const struct option options[] = {
    { "threads", required_argument, NULL, OPTION_THREADS },
    { "sessions", required_argument, NULL, OPTION_SESSIONS },
    { "ledger", required_argument, NULL, OPTION_LEDGER },
    { "certificate", required_argument, NULL, OPTION_CERTIFICATE },
    { "key", required_argument, NULL, OPTION_KEY },
    { "tls", no_argument, NULL, OPTION_TLS },
    { "no-pipelining", no_argument, NULL, OPTION_NO_PIPELINING },
    { "no-chunking", no_argument, NULL, OPTION_NO_CHUNKING },
    { "no-8bitmime", no_argument, NULL, OPTION_NO_8BITMIME },
    { "no-size", no_argument, NULL, OPTION_NO_SIZE },
    { "hostname", required_argument, NULL, OPTION_HOSTNAME },
    { "delay", required_argument, NULL, OPTION_DELAY },
    { "fault", required_argument, NULL, OPTION_FAULT },
    { "timeout", required_argument, NULL, OPTION_TIMEOUT },
    { "seed", required_argument, NULL, OPTION_SEED },
    { "json", no_argument, NULL, OPTION_JSON },
    { "progress", no_argument, NULL, OPTION_PROGRESS },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* Stages at which this sink can do something. */
static bool
stage_known(enum sink_stage stage)
{
    return stage != SINK_CONNECT && stage != SINK_TLS && stage != SINK_BODY;
}

static bool
delay_take(const char *value, struct drain_plan *plan)
{
    const char *equals = strchr(value, '=');

    for (unsigned i = 0; equals != NULL && i < SINK_STAGES; i++) {
        const char *name = sink_stage_name((enum sink_stage)i);

        if (!stage_known((enum sink_stage)i) || strlen(name) != (size_t)(equals - value) ||
            memcmp(name, value, strlen(name)) != 0)
            continue;
        return argument_distribution(equals + 1, UNIT_NANOSECONDS, UINT64_C(3600000000000),
                                     &plan->delays[i]);
    }
    return argument_wrong(value, "is no STAGE=TIMES, such as end=2ms");
}

static bool
fault_take(const char *value, struct drain_plan *plan)
{
    char error[SINK_FAULT_ERROR_BYTES];
    const struct sink_fault *fault;

    if (!sink_faults_add(&plan->faults, value, error))
        return argument_wrong(value, error);
    fault = &plan->faults.items[plan->faults.count - 1];
    if (!stage_known(fault->stage) || fault->action == SINK_SLOW)
        return argument_wrong(
            value, "is for ringpost sink: this one knows no connect, tls and body faults");
    if (fault->to.data != NULL)
        return argument_wrong(value, "has a condition on recipients, which is for ringpost sink");
    return true;
}

static bool
option_take(int key, const char *value, struct drain_plan *plan)
{
    switch (key) {
    case OPTION_THREADS: return argument_number32(value, DRAIN_THREADS_MAX, &plan->threads);
    case OPTION_SESSIONS: return argument_number32(value, 1000000, &plan->sessions_max);
    case OPTION_LEDGER: plan->ledger = value; return true;
    case OPTION_CERTIFICATE: plan->certificate = value; return true;
    case OPTION_KEY: plan->key = value; return true;
    case OPTION_TLS: plan->implicit = true; return true;
    case OPTION_NO_PIPELINING: plan->no_pipelining = true; return true;
    case OPTION_NO_CHUNKING: plan->no_chunking = true; return true;
    case OPTION_NO_8BITMIME: plan->no_8bitmime = true; return true;
    case OPTION_NO_SIZE: plan->no_size = true; return true;
    case OPTION_HOSTNAME: plan->hostname = value; return argument_host_name(value);
    case OPTION_DELAY: return delay_take(value, plan);
    case OPTION_FAULT: return fault_take(value, plan);
    case OPTION_TIMEOUT: return argument_time(value, &plan->idle_ns);
    case OPTION_SEED: return argument_number(value, 0, UINT64_MAX, &plan->seed);
    case OPTION_JSON: plan->json = true; return true;
    case OPTION_PROGRESS: plan->progress = true; return true;
    default:
        ASSERT(key == 'q');
        plan->quiet = true;
        return true;
    }
}

int
drain_arguments(int argc, char **argv, struct drain_plan *plan)
{
    const char *address = "127.0.0.1:2626";
    int key;

    argument_command("ringpost-bench", "sink", usage_text);
    while ((key = argument_next(argc, argv, "qh", options)) != -1) {
        if (key == 'h')
            return argument_help();
        if (key == '?' || !option_take(key, optarg, plan))
            return ARGUMENT_WRONG;
    }
    if (optind < argc)
        address = argv[optind++];
    if (!argument_none_left(argc, argv) || !argument_address(address, &plan->address))
        return ARGUMENT_WRONG;
    if (plan->implicit && plan->certificate == NULL) {
        argument_refuse("--tls needs --certificate");
        return ARGUMENT_WRONG;
    }
    return ARGUMENT_GOOD;
}
