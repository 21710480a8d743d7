/* The arguments of `ringpost-bench load`. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/tool/argument.h"
#include "bench/tool/load.h"
#include "core/config_value.h"

static const char usage_text[] =
    "ringpost-bench load: sends messages at an SMTP server and measures how it takes them\n"
    "\n"
    "usage: ringpost-bench load --to ADDRESS:PORT [OPTIONS]\n"
    "\n"
    "How much, and how fast\n"
    "  --connections N        at a time, over all threads (default 50)\n"
    "  --threads N            default 1\n"
    "  --duration TIME        send for so long (default 10s, unless --messages is given)\n"
    "  --messages N           send so many\n"
    "  --warmup TIME          leave the first so long out of the measurement (default 0)\n"
    "  --per-connection N     messages on one connection, then QUIT; all: no end (default all)\n"
    "  --rate N               open loop: N messages a second arrive, whether or not the server\n"
    "                         keeps up; latency counts from the arrival. Without it: closed loop,\n"
    "                         each connection sends its next message when the last is answered\n"
    "  --arrivals poisson|constant   how they arrive (default poisson)\n"
    "  --idle TIMES           pause before each message: with a long one, idle connections\n"
    "  --open-rate N          connections opened a second at most\n"
    "\n"
    "What is sent\n"
    "  --size SIZES           of a message with its header section (default 4k)\n"
    "  --recipients N         for each message (default 1)\n"
    "  --pipelining off|groups|deep   groups (default): MAIL, RCPT, DATA in one go; deep: and the\n"
    "                         next message's behind the end of this one\n"
    "  --bdat                 BDAT in place of DATA      --chunk SIZE  in chunks of this size\n"
    "  --from TEXT --rcpt TEXT   addresses; %n is the message's number, %r the recipient's, %t\n"
    "                         the thread's (default sender@bench.example, rcpt-%r@bench.example)\n"
    "  --helo NAME            default bench.example\n"
    "\n"
    "How it connects\n"
    "  --starttls             TLS by STARTTLS       --tls   TLS from the first octet\n"
    "  --tls-name NAME        name to ask for (SNI)       --resume   TLS sessions\n"
    "                         Certificates are not verified: this is no mail client.\n"
    "  --from-addresses NET   send from all addresses of a network (127.0.0.0/8): for more than\n"
    "                         28,000 connections, or limits that count by address\n"
    "  --timeout TIME         for a connection and for each reply (default 60s)\n"
    "  --drain TIME           wait so long for answers after the end (default 10s)\n"
    "\n"
    "What comes out\n"
    "  --ledger FILE          a line for each message that was sent whole (ringpost-bench verify)\n"
    "  --json                 the result as JSON       -q, --quiet   no progress line\n"
    "  --progress             a progress line also when standard error is no terminal\n"
    "  --seed N               the same chance again\n"
    "  -h, --help             this text\n"
    "\n"
    "SIZES and TIMES are a value (4k, 200ms), a range with equal chances (4k-64k), either with a\n"
    "weight, in a list (4k:7,64k:2,1m:1), lognormal:MEDIAN:SIGMA (lognormal:16k:1.3), or\n"
    "exponential:MEAN (exponential:5s).\n"
    "\n"
    "Exit status: 0 all messages were answered 2xx; 1 some were not, or a connection failed;\n"
    "2 wrong arguments; 3 it could not run.\n";

enum option_key {
    OPTION_TO = 256,
    OPTION_CONNECTIONS,
    OPTION_THREADS,
    OPTION_DURATION,
    OPTION_MESSAGES,
    OPTION_WARMUP,
    OPTION_PER_CONNECTION,
    OPTION_RATE,
    OPTION_ARRIVALS,
    OPTION_IDLE,
    OPTION_OPEN_RATE,
    OPTION_SIZE,
    OPTION_RECIPIENTS,
    OPTION_PIPELINING,
    OPTION_BDAT,
    OPTION_CHUNK,
    OPTION_FROM,
    OPTION_RCPT,
    OPTION_HELO,
    OPTION_STARTTLS,
    OPTION_TLS,
    OPTION_TLS_NAME,
    OPTION_RESUME,
    OPTION_SOURCES,
    OPTION_TIMEOUT,
    OPTION_DRAIN,
    OPTION_LEDGER,
    OPTION_JSON,
    OPTION_PROGRESS,
    OPTION_SEED,
};

static const struct option options[] = {
    { "to", required_argument, NULL, OPTION_TO },
    { "connections", required_argument, NULL, OPTION_CONNECTIONS },
    { "threads", required_argument, NULL, OPTION_THREADS },
    { "duration", required_argument, NULL, OPTION_DURATION },
    { "messages", required_argument, NULL, OPTION_MESSAGES },
    { "warmup", required_argument, NULL, OPTION_WARMUP },
    { "per-connection", required_argument, NULL, OPTION_PER_CONNECTION },
    { "rate", required_argument, NULL, OPTION_RATE },
    { "arrivals", required_argument, NULL, OPTION_ARRIVALS },
    { "idle", required_argument, NULL, OPTION_IDLE },
    { "open-rate", required_argument, NULL, OPTION_OPEN_RATE },
    { "size", required_argument, NULL, OPTION_SIZE },
    { "recipients", required_argument, NULL, OPTION_RECIPIENTS },
    { "pipelining", required_argument, NULL, OPTION_PIPELINING },
    { "bdat", no_argument, NULL, OPTION_BDAT },
    { "chunk", required_argument, NULL, OPTION_CHUNK },
    { "from", required_argument, NULL, OPTION_FROM },
    { "rcpt", required_argument, NULL, OPTION_RCPT },
    { "helo", required_argument, NULL, OPTION_HELO },
    { "starttls", no_argument, NULL, OPTION_STARTTLS },
    { "tls", no_argument, NULL, OPTION_TLS },
    { "tls-name", required_argument, NULL, OPTION_TLS_NAME },
    { "resume", no_argument, NULL, OPTION_RESUME },
    { "from-addresses", required_argument, NULL, OPTION_SOURCES },
    { "timeout", required_argument, NULL, OPTION_TIMEOUT },
    { "drain", required_argument, NULL, OPTION_DRAIN },
    { "ledger", required_argument, NULL, OPTION_LEDGER },
    { "json", no_argument, NULL, OPTION_JSON },
    { "progress", no_argument, NULL, OPTION_PROGRESS },
    { "seed", required_argument, NULL, OPTION_SEED },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* --- single values --- */

static bool
rate_take(const char *value, double *rate)
{
    char *end;

    *rate = strtod(value, &end);
    return (end != value && *end == '\0' && *rate > 0 && *rate <= 1e8) ||
           argument_wrong(value, "is no number of times a second");
}

static bool
pipelining_take(const char *value, enum load_pipelining *out)
{
    static const char *const words[] = { "off", "groups", "deep" };

    for (unsigned i = 0; i < 3; i++) {
        if (strcmp(value, words[i]) == 0) {
            *out = (enum load_pipelining)i;
            return true;
        }
    }
    return argument_wrong(value, "is none of off, groups and deep");
}

/* What MAIL and RCPT say: no octet may end the path or the line. */
static bool
template_take(const char *value, const char **out)
{
    *out = value;
    for (const char *at = value; *at != '\0'; at++)
        if ((unsigned char)*at <= ' ' || *at == '<' || *at == '>' || *at == 127)
            return argument_wrong(value, "has a character that no address has");
    return strlen(value) <= 200 || argument_wrong(value, "is longer than 200 octets");
}

static uint64_t
bits_count(unsigned bits)
{
    return bits >= 40 ? UINT64_C(1) << 40 : UINT64_C(1) << bits;
}

const char *
load_sources_parse(const char *text, struct load_sources *out)
{
    static const uint8_t v4[12] = { [10] = 0xff, [11] = 0xff };
    struct config_network network;
    const char *why = config_network_parse(span_text(text), &network);
    bool mapped;

    if (why != NULL)
        return why;
    memset(out, 0, sizeof(*out));
    mapped = network.prefix >= 96 && memcmp(network.address, v4, sizeof(v4)) == 0;
    out->base.family = mapped ? 4 : 6;
    memcpy(out->base.ip, network.address + (mapped ? 12 : 0), mapped ? 4 : 16);
    out->count = bits_count(128u - network.prefix);
    /* The network's own address, and its last one, are nobody's. */
    if (out->count > 2) {
        out->base.ip[mapped ? 3 : 15]++;
        out->count -= 2;
    }
    return NULL;
}

static bool
sources_take(const char *value, struct load_sources *out)
{
    const char *why = load_sources_parse(value, out);

    return why == NULL || argument_wrong(value, why);
}

static bool
to_take(const char *value, struct load_plan *plan)
{
    const char *why = config_address_parse(span_text(value), &plan->to);

    plan->to_text = value;
    return why == NULL || argument_wrong(value, why);
}

static bool
per_connection_take(const char *value, uint64_t *out)
{
    *out = UINT64_MAX;
    return strcmp(value, "all") == 0 || argument_number(value, 1, UINT64_MAX - 1, out);
}

static bool
arrivals_take(const char *value, bool *poisson)
{
    *poisson = strcmp(value, "poisson") == 0;
    return *poisson || strcmp(value, "constant") == 0 ||
           argument_wrong(value, "is neither poisson nor constant");
}

/* --- all of them --- */

static bool
option_what(int key, const char *value, struct load_plan *plan)
{
    uint64_t number;

    switch (key) {
    case OPTION_SIZE:
        return argument_distribution(value, UNIT_BYTES, MESSAGE_BYTES_MAX, &plan->size);
    case OPTION_RECIPIENTS: return argument_number32(value, LOAD_RECIPIENTS_MAX, &plan->recipients);
    case OPTION_PIPELINING: return pipelining_take(value, &plan->pipelining);
    case OPTION_BDAT: plan->bdat = true; return true;
    case OPTION_CHUNK: {
        struct distribution chunk;

        if (!argument_distribution(value, UNIT_BYTES, MESSAGE_BYTES_MAX, &chunk))
            return false;
        number = distribution_most(&chunk);
        plan->chunk_bytes = number;
        return number >= 128 || argument_wrong(value, "is less than 128 octets");
    }
    case OPTION_FROM: return template_take(value, &plan->from);
    case OPTION_RCPT: return template_take(value, &plan->rcpt);
    case OPTION_HELO: return template_take(value, &plan->helo);
    case OPTION_SEED: return argument_number(value, 0, UINT64_MAX, &plan->seed);
    case OPTION_LEDGER: plan->ledger = value; return true;
    case OPTION_JSON: plan->json = true; return true;
    case OPTION_PROGRESS: plan->progress = true; return true;
    default:
        ASSERT(key == 'q');
        plan->quiet = true;
        return true;
    }
}

static bool
option_take(int key, const char *value, struct load_plan *plan)
{
    switch (key) {
    case OPTION_TO: return to_take(value, plan);
    case OPTION_CONNECTIONS:
        return argument_number32(value, LOAD_CONNECTIONS_MAX, &plan->connections);
    case OPTION_THREADS: return argument_number32(value, LOAD_THREADS_MAX, &plan->threads);
    case OPTION_DURATION: return argument_time(value, &plan->duration_ns);
    case OPTION_MESSAGES: return argument_number(value, 1, INT64_MAX, &plan->messages);
    case OPTION_WARMUP: return argument_time(value, &plan->warmup_ns);
    case OPTION_PER_CONNECTION: return per_connection_take(value, &plan->per_connection);
    case OPTION_RATE: return rate_take(value, &plan->rate);
    case OPTION_ARRIVALS: return arrivals_take(value, &plan->poisson);
    case OPTION_IDLE:
        return argument_distribution(value, UNIT_NANOSECONDS, 365 * UINT64_C(86400000000000),
                                     &plan->idle);
    case OPTION_OPEN_RATE: return rate_take(value, &plan->open_rate);
    case OPTION_STARTTLS: plan->tls = LOAD_STARTTLS; return true;
    case OPTION_TLS: plan->tls = LOAD_IMPLICIT; return true;
    case OPTION_TLS_NAME: plan->tls_name = value; return true;
    case OPTION_RESUME: plan->resume = true; return true;
    case OPTION_SOURCES: return sources_take(value, &plan->sources);
    case OPTION_TIMEOUT: return argument_time(value, &plan->timeout_ns);
    case OPTION_DRAIN: return argument_time(value, &plan->drain_ns);
    default: return option_what(key, value, plan);
    }
}

static bool
plan_complete(struct load_plan *plan)
{
    if (plan->to_text == NULL)
        return argument_refuse("--to ADDRESS:PORT is missing");
    if (plan->size.count == 0 &&
        distribution_parse("4k", UNIT_BYTES, MESSAGE_BYTES_MAX, &plan->size) != NULL)
        return false;
    if (plan->messages == UINT64_MAX && plan->duration_ns == 0)
        plan->duration_ns = 10 * UINT64_C(1000000000);
    if (plan->threads > plan->connections)
        plan->threads = plan->connections;
    if (plan->chunk_bytes > 0 && !plan->bdat)
        return argument_refuse("--chunk needs --bdat");
    if (plan->sources.count > 0 && plan->sources.base.family != plan->to.family)
        return argument_refuse("--from-addresses are of another family than --to");
    return true;
}

int
load_arguments(int argc, char **argv, struct load_plan *plan)
{
    int key;

    argument_command("ringpost-bench", "load", usage_text);
    while ((key = argument_next(argc, argv, "qh", options)) != -1) {
        if (key == 'h')
            return argument_help();
        if (key == '?' || !option_take(key, optarg, plan))
            return ARGUMENT_WRONG;
    }
    return argument_none_left(argc, argv) && plan_complete(plan) ? ARGUMENT_GOOD : ARGUMENT_WRONG;
}
