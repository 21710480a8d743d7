/* What load says of its work: a line each second, a report or JSON at the end. */
#include <stdio.h>

#include "bench/tool/load.h"
#include "relay/tools/print.h"

static const char *const phase_names[LOAD_PHASES] = { "connect",  "tls",   "ehlo",
                                                      "envelope", "reply", "message" };
static const char *const expectation_names[LOAD_EXPECTATIONS] = {
    "greeting", "ehlo", "starttls", "mail", "rcpt", "data", "bdat", "end", "rset", "quit"
};
static const char *const failure_names[LOAD_FAILURES] = {
    "connection refused", "cannot connect",  "reset", "closed by the server", "timeout", "tls",
    "protocol",           "refused service", "local", "closed while idle"
};

static const double parts[] = { 0.5, 0.9, 0.99, 0.999 };
static const char *const part_names[] = { "p50", "p90", "p99", "p99_9" };

/* --- sums --- */

static void
counts_add(struct load_counts *sum, const struct load_counts *counts)
{
    const uint64_t *from = (const uint64_t *)(const void *)counts;
    uint64_t *to = (uint64_t *)(void *)sum;

    _Static_assert(sizeof(struct load_counts) % sizeof(uint64_t) == 0, "nothing but counts");
    for (size_t i = 0; i < sizeof(*sum) / sizeof(uint64_t); i++)
        to[i] += __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}

void
load_sum(struct load_thread *const *threads, unsigned count, struct load_result *out)
{
    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < count; i++) {
        const struct load_result *result = load_thread_result(threads[i]);

        counts_add(&out->counts, &result->counts);
        for (unsigned phase = 0; phase < LOAD_PHASES; phase++)
            histogram_merge(&out->phases[phase], &result->phases[phase]);
        out->cpu_ns += result->cpu_ns;
        if (result->ended_ns > out->ended_ns)
            out->ended_ns = result->ended_ns;
    }
}

static uint64_t
failures_sum(const struct load_counts *counts)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < LOAD_FAILURES; i++)
        if (i != FAILED_IDLE)
            sum += counts->failures[i];
    return sum;
}

/* --- text --- */

#define TIME_TEXT_BYTES 24

static const char *
time_text(uint64_t ns, char text[TIME_TEXT_BYTES])
{
    double value = (double)ns;

    if (ns < 1000)
        snprintf(text, TIME_TEXT_BYTES, "%.0f ns", value);
    else if (ns < 1000000)
        snprintf(text, TIME_TEXT_BYTES, "%.*f us", ns < 100000 ? 1 : 0, value / 1e3);
    else if (ns < UINT64_C(1000000000))
        snprintf(text, TIME_TEXT_BYTES, "%.*f ms", ns < 100000000 ? 2 : 0, value / 1e6);
    else
        snprintf(text, TIME_TEXT_BYTES, "%.2f s", value / 1e9);
    return text;
}

/* Of the second between: what is there now less what was. */
static void
second_of(const struct histogram *now, const struct histogram *last, struct histogram *out)
{
    *out = *now;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        out->counts[i] -= last->counts[i] <= now->counts[i] ? last->counts[i] : now->counts[i];
    out->count = 0;
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
        out->count += out->counts[i];
}

void
load_print_line(const struct load_plan *plan, const struct load_result *now,
                const struct load_result *last, double seconds)
{
    static struct histogram second;
    const struct load_counts *counts = &now->counts;
    char p50[TIME_TEXT_BYTES], p99[TIME_TEXT_BYTES], max[TIME_TEXT_BYTES];
    uint64_t errors = counts->refused + counts->ambiguous + counts->broken + failures_sum(counts);

    second_of(&now->phases[PHASE_MESSAGE], &last->phases[PHASE_MESSAGE], &second);
    fprintf(stderr, "%6.1f/s  %llu messages  %llu errors  p50 %s  p99 %s  max %s  %llu open",
            (double)(counts->acknowledged - last->counts.acknowledged) / seconds,
            (unsigned long long)counts->acknowledged, (unsigned long long)errors,
            time_text(histogram_at(&second, 0.5), p50), time_text(histogram_at(&second, 0.99), p99),
            time_text(now->phases[PHASE_MESSAGE].most_ns, max), (unsigned long long)counts->open);
    if (plan->rate > 0)
        fprintf(stderr, "  %llu waiting", (unsigned long long)counts->waiting);
}

/* From the end of the warm-up to the stop, or to the last answer. */
static double
measured_seconds(const struct load_plan *plan, const struct load_result *sum)
{
    uint64_t end_ns = plan->stop_ns;

    if (sum->ended_ns != 0 && (end_ns == UINT64_MAX || plan->messages != UINT64_MAX) &&
        sum->ended_ns < end_ns)
        end_ns = sum->ended_ns;
    return end_ns == UINT64_MAX || end_ns <= plan->measure_ns
               ? 0
               : (double)(end_ns - plan->measure_ns) / 1e9;
}

static void
phases_print(const struct load_result *sum)
{
    char text[TIME_TEXT_BYTES];

    printf("\n%-10s %10s %10s %10s %10s %10s %10s\n", "latency", "count", "p50", "p90", "p99",
           "p99.9", "max");
    for (unsigned i = 0; i < LOAD_PHASES; i++) {
        const struct histogram *phase = &sum->phases[i];

        if (phase->count == 0)
            continue;
        printf("%-10s %10llu", phase_names[i], (unsigned long long)phase->count);
        for (unsigned j = 0; j < sizeof(parts) / sizeof(parts[0]); j++)
            printf(" %10s", time_text(histogram_at(phase, parts[j]), text));
        printf(" %10s\n", time_text(phase->most_ns, text));
    }
}

static void
errors_print(const struct load_counts *counts)
{
    for (unsigned i = 0; i < LOAD_FAILURES; i++)
        if (counts->failures[i] > 0)
            printf("connections lost: %llu %s\n", (unsigned long long)counts->failures[i],
                   failure_names[i]);
    for (unsigned i = 0; i < LOAD_EXPECTATIONS; i++)
        for (unsigned code = 0; code < LOAD_CODES; code++)
            if (counts->codes[i][code] > 0)
                printf("replies: %llu times %u to %s\n", (unsigned long long)counts->codes[i][code],
                       code, expectation_names[i]);
}

void
load_print_report(const struct load_plan *plan, const struct load_result *sum)
{
    const struct load_counts *counts = &sum->counts;
    const struct print_count besides[] = {
        { counts->refused, "refused" },
        { counts->ambiguous, "sent without an answer" },
        { counts->broken, "not sent whole" },
        { counts->dropped, "arrivals given up: too many waited" },
        { counts->waiting, "arrivals still waiting at the end" },
    };
    double seconds = measured_seconds(plan, sum);

    printf("%llu messages acknowledged", (unsigned long long)counts->acknowledged);
    PRINT_COUNTS(", ", besides);
    printf("; %llu connections", (unsigned long long)counts->connections);
    if (counts->resumed > 0)
        printf(" (%llu with a resumed session)", (unsigned long long)counts->resumed);
    printf("\n");
    if (seconds > 0)
        printf("%.1f messages/s, %.2f MB/s over %.2f s; %.2f us CPU here for each message\n",
               (double)counts->measured / seconds, (double)counts->measured_bytes / seconds / 1e6,
               seconds,
               counts->measured > 0 ? (double)sum->cpu_ns / 1e3 / (double)counts->measured : 0);
    errors_print(counts);
    phases_print(sum);
}

/* --- JSON --- */

static void
phases_json(const struct load_result *sum)
{
    const char *comma = "";

    printf("  \"latency_ns\": {");
    for (unsigned i = 0; i < LOAD_PHASES; i++) {
        const struct histogram *phase = &sum->phases[i];

        if (phase->count == 0)
            continue;
        printf("%s\n    \"%s\": {\"count\": %llu, \"min\": %llu, \"mean\": %llu", comma,
               phase_names[i], (unsigned long long)phase->count,
               (unsigned long long)phase->least_ns, (unsigned long long)histogram_mean_ns(phase));
        for (unsigned j = 0; j < sizeof(parts) / sizeof(parts[0]); j++)
            printf(", \"%s\": %llu", part_names[j],
                   (unsigned long long)histogram_at(phase, parts[j]));
        printf(", \"max\": %llu}", (unsigned long long)phase->most_ns);
        comma = ",";
    }
    printf("\n  },\n");
}

static void
errors_json(const struct load_counts *counts)
{
    const char *comma = "";

    printf("  \"failures\": {");
    for (unsigned i = 0; i < LOAD_FAILURES; i++) {
        if (counts->failures[i] == 0)
            continue;
        printf("%s\"%s\": %llu", comma, failure_names[i], (unsigned long long)counts->failures[i]);
        comma = ", ";
    }
    printf("},\n  \"replies\": {");
    comma = "";
    for (unsigned i = 0; i < LOAD_EXPECTATIONS; i++) {
        for (unsigned code = 0; code < LOAD_CODES; code++) {
            if (counts->codes[i][code] == 0)
                continue;
            printf("%s\"%s %u\": %llu", comma, expectation_names[i], code,
                   (unsigned long long)counts->codes[i][code]);
            comma = ", ";
        }
    }
    printf("}\n");
}

void
load_print_json(const struct load_plan *plan, const struct load_result *sum)
{
    const struct load_counts *counts = &sum->counts;
    const struct print_count all[] = {
        { counts->acknowledged, "acknowledged" },
        { counts->refused, "refused" },
        { counts->ambiguous, "ambiguous" },
        { counts->broken, "broken" },
        { counts->bytes, "bytes" },
        { counts->connections, "connections_opened" },
        { counts->resumed, "tls_resumed" },
        { counts->arrivals, "arrivals" },
        { counts->dropped, "arrivals_dropped" },
        { counts->waiting, "arrivals_waiting" },
    };
    double seconds = measured_seconds(plan, sum);

    printf("{\n  \"version\": \"%s\",\n  \"run\": \"%08x\",\n", RINGPOST_VERSION, plan->run);
    printf("  \"threads\": %u,\n  \"connections\": %u,\n  \"rate\": %.3f,\n", plan->threads,
           plan->connections, plan->rate);
    printf("  ");
    PRINT_COUNTS_JSON(all);
    printf(",\n");
    printf("  \"measured\": {\"seconds\": %.6f, \"messages\": %llu, \"bytes\": %llu, "
           "\"messages_per_second\": %.3f, \"cpu_seconds\": %.6f},\n",
           seconds, (unsigned long long)counts->measured,
           (unsigned long long)counts->measured_bytes,
           seconds > 0 ? (double)counts->measured / seconds : 0, (double)sum->cpu_ns / 1e9);
    phases_json(sum);
    errors_json(counts);
    printf("}\n");
}
