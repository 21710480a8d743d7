/* Arguments of `ringpost queue`, and which of its verbs runs. */
#include "relay/tools/queue.h"

#include <getopt.h>
#include <stdlib.h>

#include "core/config_value.h"
#include "relay/tools/queue_private.h"

static const char usage_text[] =
    "ringpost queue: what waits to be delivered, and what to do about it\n"
    "\n"
    "usage: ringpost queue [VERB] [-c FILE] [WHICH] [OPTIONS]\n"
    "\n"
    "  summary              how many messages wait for which next hop since when (the default)\n"
    "  list                 each message, one entry per next hop\n"
    "  show ID...           everything about messages: envelope, recipients, schedule, reason\n"
    "  export ID            the message itself on standard output, as it came\n"
    "  retry                try now, whatever the schedule says; held ones are released\n"
    "  hold                 do not try any more until released; they expire all the same\n"
    "  release              what is held goes on with its schedule\n"
    "  remove               throw away; no sender is told\n"
    "\n"
    "WHICH messages: those that all of this says. The last four want at least one, or --all.\n"
    "  ID...                queue ids, as in logs and in the reply 250\n"
    "  --next-hop NAME      of that next hop; . means: there is no route any more\n"
    "  --domain DOMAIN      with a recipient there who still waits\n"
    "  --sender ADDRESS     from that address, or domain; '<>': reports\n"
    "  --age TIME           older than that: 10min, 2h, 1d\n"
    "  --state STATE        ready, waiting, parked, active or held; may be given more than once\n"
    "  --all                all of them\n"
    "\n"
    "  -c, --config FILE    the configuration, for the spool's directory\n"
    "      --by-domain      with summary: recipients by their domain\n"
    "      --received       with export: with the Received: field that ringpost adds\n"
    "      --json           for programs: list and the last four print one object on each line\n"
    "  -h, --help           this text\n"
    "\n"
    "States: ready is next in its line; waiting has a time; parked waits until its next hop can\n"
    "be reached; active is being delivered; held waits for an operator.\n"
    "When ringpost does not run, the first four show what the spool's files say.\n"
    "Exit status: 0 done, 1 not all of it, 2 wrong arguments.\n";

static const char *const verb_names[VERB_VERBS] = {
    [VERB_SUMMARY] = "summary", [VERB_LIST] = "list",     [VERB_SHOW] = "show",
    [VERB_EXPORT] = "export",   [VERB_HOLD] = "hold",     [VERB_RELEASE] = "release",
    [VERB_RETRY] = "retry",     [VERB_REMOVE] = "remove",
};

enum option_key {
    OPTION_NEXT_HOP = 256,
    OPTION_DOMAIN,
    OPTION_SENDER,
    OPTION_AGE,
    OPTION_STATE,
    OPTION_ALL,
    OPTION_BY_DOMAIN,
    OPTION_RECEIVED,
    OPTION_JSON,
};

static const struct option options[] = {
    { "config", required_argument, NULL, 'c' },
    { "next-hop", required_argument, NULL, OPTION_NEXT_HOP },
    { "domain", required_argument, NULL, OPTION_DOMAIN },
    { "sender", required_argument, NULL, OPTION_SENDER },
    { "age", required_argument, NULL, OPTION_AGE },
    { "state", required_argument, NULL, OPTION_STATE },
    { "all", no_argument, NULL, OPTION_ALL },
    { "by-domain", no_argument, NULL, OPTION_BY_DOMAIN },
    { "received", no_argument, NULL, OPTION_RECEIVED },
    { "json", no_argument, NULL, OPTION_JSON },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

static int
wrong(const char *what, const char *detail)
{
    fprintf(stderr, "ringpost queue: %s%s%s\nTry: ringpost queue --help\n", what,
            detail != NULL ? " " : "", detail != NULL ? detail : "");
    return 2 + 1;
}

static int
read_age(const char *text, struct queue_select *out)
{
    uint64_t age_ms;
    const char *problem = config_duration_parse(span_text(text), &age_ms);

    if (problem != NULL) {
        fprintf(stderr, "ringpost queue: --age '%s' %s\n", text, problem);
        return 2 + 1;
    }
    out->age_min_s = (age_ms + 999) / 1000;
    return 0;
}

static int
read_state(const char *text, struct queue_select *out)
{
    enum queue_state state;

    if (!control_state_read(span_text(text), &state))
        return wrong("--state wants ready, waiting, parked, active or held, not", text);
    out->states |= 1u << state;
    return 0;
}

/* 0, or an exit status, +1. */
static int
read_option(int option, struct queue_command *out)
{
    struct queue_select *select = &out->select;

    switch (option) {
    case 'c': out->file = optarg; return 0;
    case OPTION_NEXT_HOP:
        if (strlen(optarg) == 0 || strlen(optarg) >= CONTROL_NAME_BYTES)
            return wrong("--next-hop wants a name of the configuration, not", optarg);
        select->next_hop = optarg;
        return 0;
    case OPTION_DOMAIN: select->domain = optarg[0] == '@' ? optarg + 1 : optarg; return 0;
    case OPTION_SENDER: select->sender = optarg; return 0;
    case OPTION_AGE: return read_age(optarg, select);
    case OPTION_STATE: return read_state(optarg, select);
    case OPTION_ALL: select->all = true; return 0;
    case OPTION_BY_DOMAIN: out->by_domain = true; return 0;
    case OPTION_RECEIVED: out->trace = true; return 0;
    case OPTION_JSON: out->json = true; return 0;
    case 'h': fputs(usage_text, stdout); return 1;
    default: fputs("Try: ringpost queue --help\n", stderr); return 2 + 1;
    }
}

static int
read_ids(char **ids, int count, struct queue_select *out)
{
    out->ids = calloc((size_t)count + 1, sizeof(*out->ids));
    if (out->ids == NULL)
        return wrong("no memory", NULL);
    for (int i = 0; i < count; i++) {
        /* The same one twice would be acted on twice, and the second time not be there. */
        bool twice = false;

        if (!control_id_read(span_text(ids[i]), out->ids[out->id_count]))
            return wrong("not a queue id:", ids[i]);
        for (uint32_t k = 0; k < out->id_count; k++)
            twice = twice || memcmp(out->ids[k], out->ids[out->id_count], 16) == 0;
        out->id_count += !twice;
    }
    return 0;
}

/* What each verb needs and does not know. */
static int
check(const struct queue_command *command)
{
    const struct queue_select *select = &command->select;
    bool acts = command->verb >= VERB_HOLD;

    if (command->by_domain && command->verb != VERB_SUMMARY)
        return wrong("--by-domain is for summary", NULL);
    if (command->trace && command->verb != VERB_EXPORT)
        return wrong("--received is for export", NULL);
    if (command->verb == VERB_EXPORT && (command->json || select->id_count != 1))
        return wrong("export wants one ID", NULL);
    if (command->verb == VERB_SHOW && select->id_count == 0)
        return wrong("show wants an ID", NULL);
    if (acts && select_is_all(select) && !select->all)
        return wrong(verb_names[command->verb],
                     "wants ids or what else says which messages; --all means all of them");
    if (acts && select->all && !select_is_all(select))
        return wrong("--all means every message: leave it out, or the rest of it", NULL);
    return 0;
}

static bool
read_verb(const char *name, struct queue_command *out)
{
    for (int i = 0; i < VERB_VERBS; i++) {
        if (strcmp(name, verb_names[i]) != 0)
            continue;
        out->verb = (enum queue_verb)i;
        return true;
    }
    return false;
}

int
queue_arguments(int argc, char **argv, struct queue_command *out)
{
    static char name[] = "ringpost queue"; /* in what getopt_long() says */
    bool verb_given = argc > 1 && argv[1][0] != '-';
    int status = 0, option;

    *out = (struct queue_command){ .verb = VERB_SUMMARY };
    if (verb_given && !read_verb(argv[1], out))
        return wrong("unknown verb", argv[1]);
    if (verb_given) {
        argc--;
        argv++;
    }
    argv[0] = name;
    while (status == 0 && (option = getopt_long(argc, argv, "c:h", options, NULL)) != -1)
        status = read_option(option, out);
    if (status == 0 && optind < argc && !verb_given)
        status = wrong("which verb? Not", argv[optind]);
    if (status == 0)
        status = read_ids(argv + optind, argc - optind, &out->select);
    if (status == 0)
        status = check(out);
    if (status != 0)
        free(out->select.ids);
    return status;
}

int
queue_run(struct queue_command *command, const struct config *config, FILE *out, FILE *errors)
{
    static int (*const run[VERB_VERBS])(struct queue_source *, const struct queue_command *,
                                        FILE *) = {
        [VERB_SUMMARY] = queue_summary, [VERB_LIST] = queue_list_print, [VERB_SHOW] = queue_show,
        [VERB_EXPORT] = queue_export,   [VERB_HOLD] = queue_act,        [VERB_RELEASE] = queue_act,
        [VERB_RETRY] = queue_act,       [VERB_REMOVE] = queue_act,
    };
    struct queue_source source;
    int status = 1;

    if (source_open(&source, config, &command->select, errors)) {
        if (!source.running && command->verb < VERB_HOLD)
            source_tell_not_running(&source, "this is what its files say");
        status = run[command->verb](&source, command, out);
    }
    source_close(&source);
    free(command->select.ids);
    if (fflush(out) != 0)
        status = 1;
    return status;
}
