/* The audit: nothing that was promised may be missing, and nothing else may have come. */
#include "bench/tool/verify.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>

#include "core/io.h"
#include "relay/tools/argument.h"
#include "relay/tools/print.h"

#define SLOTS_FIRST 1024
#define DETAILS_MAX 10

static const char usage_text[] =
    "ringpost-bench verify: compares what load was promised with what sink received\n"
    "\n"
    "usage: ringpost-bench verify --sent LEDGER --received LEDGER [OPTIONS]\n"
    "\n"
    "  --sent FILE        ledger of ringpost-bench load; may be given several times\n"
    "  --received FILE    ledger of ringpost-bench sink; may be given several times\n"
    "  --allow-duplicates copies are counted, but no fault (next hops that break off behind the "
    "dot\n"
    "                     make them: RFC 1047)\n"
    "  --json             the result as JSON\n"
    "  -h, --help         this text\n"
    "\n"
    "lost        answered 2xx, and not delivered to all of its recipients\n"
    "duplicated  delivered more often than it has recipients\n"
    "damaged     delivered with other octets behind the identity's header field\n"
    "unexpected  delivered though refused, or not known to the sender\n"
    "Messages that were sent and never answered may be delivered or not.\n"
    "\n"
    "Exit status: 0 all is well; 1 something was lost, duplicated, damaged or unexpected; 2 wrong\n"
    "arguments; 3 a file cannot be read, or has lines that are none.\n";

/* --- the table --- */

static uint64_t
slot_of(const struct verify *verify, struct message_id id)
{
    uint64_t z = id.number + ((uint64_t)id.thread << 48) + id.run * UINT64_C(0x9E3779B97F4A7C15);

    z = (z ^ z >> 32) * UINT64_C(0xD6E8FEB86659FD93);
    return (z ^ z >> 29) & (verify->slots - 1);
}

static bool
same(struct message_id a, struct message_id b)
{
    return a.run == b.run && a.thread == b.thread && a.number == b.number;
}

/* Its entry, or the free one where it would be. */
static struct verify_entry *
find(const struct verify *verify, struct message_id id)
{
    uint64_t slot = slot_of(verify, id);

    while (verify->entries[slot].used && !same(verify->entries[slot].id, id))
        slot = (slot + 1) & (verify->slots - 1);
    return &verify->entries[slot];
}

bool
verify_init(struct verify *verify)
{
    verify->count = 0;
    verify->slots = SLOTS_FIRST;
    verify->entries = calloc(verify->slots, sizeof(*verify->entries));
    return verify->entries != NULL;
}

void
verify_free(struct verify *verify)
{
    free(verify->entries);
    verify->entries = NULL;
}

static bool
grow(struct verify *verify)
{
    struct verify larger = { .slots = 2 * verify->slots, .count = verify->count };

    larger.entries = calloc(larger.slots, sizeof(*larger.entries));
    if (larger.entries == NULL)
        return false;
    for (uint64_t i = 0; i < verify->slots; i++)
        if (verify->entries[i].used)
            *find(&larger, verify->entries[i].id) = verify->entries[i];
    free(verify->entries);
    *verify = larger;
    return true;
}

/* --- the audit --- */

static void
detail(FILE *details, uint64_t number, const char *what, struct message_id id)
{
    char text[MESSAGE_ID_BYTES];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (details == NULL || number > DETAILS_MAX)
        return;
    message_id_write(id, &out);
    fprintf(details, "%s: %.*s\n", what, (int)out.len, out.data);
}

bool
verify_sent(struct verify *verify, const struct ledger_record *record, struct verify_result *result)
{
    struct verify_entry *entry;

    if (verify->count * 3 >= verify->slots * 2 && !grow(verify))
        return false;
    entry = find(verify, record->id);
    if (record->foreign || entry->used) {
        result->malformed++;
        return true;
    }
    *entry = (struct verify_entry){ .id = record->id,
                                    .size = record->size,
                                    .digest = record->digest,
                                    .recipients = record->recipients,
                                    .code = record->code,
                                    .used = true };
    verify->count++;
    result->sent++;
    if (record->code == 0)
        result->ambiguous++;
    else if (record->code / 100 == 2)
        result->acknowledged++;
    else
        result->refused++;
    return true;
}

void
verify_received(struct verify *verify, const struct ledger_record *record,
                struct verify_result *result, FILE *details)
{
    struct verify_entry *entry;

    /* A copy that the sink refused, or left unanswered, is not delivered: it must come again. */
    if (record->code / 100 != 2)
        return;
    result->received++;
    if (record->foreign) {
        result->foreign++;
        return;
    }
    entry = find(verify, record->id);
    if (!entry->used) {
        detail(details, ++result->unexpected, "unexpected, unknown to the sender", record->id);
        return;
    }
    entry->copies++;
    entry->delivered += record->recipients;
    if (entry->code != 0 && entry->code / 100 != 2 && entry->copies == 1)
        detail(details, ++result->unexpected, "unexpected, was refused", record->id);
    if (record->digest != entry->digest && !entry->damaged) {
        entry->damaged = true;
        detail(details, ++result->damaged, "damaged", record->id);
    }
}

void
verify_finish(const struct verify *verify, struct verify_result *result, FILE *details)
{
    for (uint64_t i = 0; i < verify->slots; i++) {
        const struct verify_entry *entry = &verify->entries[i];
        bool missing = entry->delivered < entry->recipients;
        bool more = entry->delivered > entry->recipients;

        if (!entry->used || (entry->code != 0 && entry->code / 100 != 2))
            continue;
        if (more)
            detail(details, ++result->duplicated, "duplicated", entry->id);
        if (entry->code == 0) {
            result->ambiguous_delivered += entry->copies > 0;
            continue;
        }
        if (missing)
            detail(details, ++result->lost, "lost", entry->id);
        else if (!more && !entry->damaged)
            result->good++;
    }
}

bool
verify_is_good(const struct verify_result *result)
{
    return result->lost == 0 && result->duplicated == 0 && result->damaged == 0 &&
           result->unexpected == 0;
}

/* --- files --- */

static bool
ledger_read(const char *path, bool sent, struct verify *verify, struct verify_result *result,
            FILE *details)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    bool good = file != NULL;

    while (good && (len = getline(&line, &size, file)) > 0) {
        struct ledger_record record;

        if (line[0] == '#')
            continue;
        /* A last line without its end: the writer was killed in the middle of it. */
        if (line[len - 1] != '\n' || !ledger_parse(span_of(line, (size_t)len - 1), &record)) {
            result->malformed++;
            continue;
        }
        if (!sent)
            verify_received(verify, &record, result, details);
        else if (!verify_sent(verify, &record, result))
            good = false;
    }
    if (!good || ferror(file) != 0) {
        fprintf(stderr, "ringpost-bench: verify: %s: %s\n", path, io_error_text(errno));
        good = false;
    }
    free(line);
    if (file != NULL)
        fclose(file);
    return good;
}

static void
result_print(const struct verify_result *result, bool json)
{
    const struct print_count all[] = {
        { result->sent, "sent" },
        { result->acknowledged, "acknowledged" },
        { result->refused, "refused" },
        { result->ambiguous, "ambiguous" },
        { result->received, "received" },
        { result->good, "good" },
        { result->lost, "lost" },
        { result->duplicated, "duplicated" },
        { result->damaged, "damaged" },
        { result->unexpected, "unexpected" },
        { result->ambiguous_delivered, "ambiguous_delivered" },
        { result->foreign, "foreign" },
        { result->malformed, "malformed" },
    };

    if (json) {
        printf("{");
        PRINT_COUNTS_JSON(all);
        printf("}\n");
        return;
    }
    printf("%llu acknowledged, %llu received: %llu good, %llu lost, %llu duplicated, "
           "%llu damaged, %llu unexpected; %llu of %llu without an answer were delivered\n",
           (unsigned long long)result->acknowledged, (unsigned long long)result->received,
           (unsigned long long)result->good, (unsigned long long)result->lost,
           (unsigned long long)result->duplicated, (unsigned long long)result->damaged,
           (unsigned long long)result->unexpected, (unsigned long long)result->ambiguous_delivered,
           (unsigned long long)result->ambiguous);
    if (result->foreign > 0)
        printf("%llu received without an identity of load's (reports, for instance)\n",
               (unsigned long long)result->foreign);
    if (result->malformed > 0)
        printf("%llu lines that are none, or repeated\n", (unsigned long long)result->malformed);
}

/* A file for each process that wrote one. */
#define FILES_MAX 16

struct arguments {
    const char *files[2][FILES_MAX]; /* received, sent */
    unsigned counts[2];
    bool json, allow_duplicates;
};

static bool
option_take(int key, const char *value, struct arguments *arguments)
{
    unsigned which = key == 's';

    switch (key) {
    case 'j': arguments->json = true; return true;
    case 'd': arguments->allow_duplicates = true; return true;
    default:
        ASSERT(key == 's' || key == 'r');
        if (arguments->counts[which] == FILES_MAX)
            return argument_wrong(value, "is one file too many");
        arguments->files[which][arguments->counts[which]++] = value;
        return true;
    }
}

static bool
files_given(const struct arguments *arguments)
{
    return (arguments->counts[0] > 0 && arguments->counts[1] > 0) ||
           argument_refuse("wants --sent FILE and --received FILE");
}

/* 0: go on; else an exit status + 1. */
static int
arguments_read(int argc, char **argv, struct arguments *arguments)
{
    static const struct option options[] = { { "sent", required_argument, NULL, 's' },
                                             { "received", required_argument, NULL, 'r' },
                                             { "allow-duplicates", no_argument, NULL, 'd' },
                                             { "json", no_argument, NULL, 'j' },
                                             { "help", no_argument, NULL, 'h' },
                                             { NULL, 0, NULL, 0 } };
    int key;

    argument_command("ringpost-bench", "verify", usage_text);
    while ((key = argument_next(argc, argv, "h", options)) != -1) {
        if (key == 'h')
            return argument_help();
        if (key == '?' || !option_take(key, optarg, arguments))
            return ARGUMENT_WRONG;
    }
    return argument_none_left(argc, argv) && files_given(arguments) ? ARGUMENT_GOOD
                                                                    : ARGUMENT_WRONG;
}

int
verify_main(int argc, char **argv)
{
    struct arguments arguments = { .json = false };
    struct verify_result result = { 0 };
    struct verify verify;
    int status = arguments_read(argc, argv, &arguments);
    bool good;

    if (status != 0)
        return status - 1;
    good = verify_init(&verify);
    for (unsigned which = 2; good && which-- > 0;)
        for (unsigned i = 0; good && i < arguments.counts[which]; i++)
            good = ledger_read(arguments.files[which][i], which == 1, &verify, &result, stderr);
    if (good) {
        verify_finish(&verify, &result, stderr);
        result_print(&result, arguments.json);
    }
    verify_free(&verify);
    if (!good || result.malformed > 0)
        return 3;
    if (arguments.allow_duplicates)
        result.duplicated = 0;
    return verify_is_good(&result) ? 0 : 1;
}
