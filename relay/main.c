/* Arguments and subcommands of the ringpost binary. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/config.h"
#include "relay/process.h"
#include "relay/tools/queue.h"
#include "relay/tools/send.h"
#include "relay/tools/sink.h"
#include "relay/stats/stats_client.h"

#define DEFAULT_FILE "/etc/ringpost/ringpost.yaml"

static const char usage_text[] =
    "ringpost: an SMTP edge relay\n"
    "\n"
    "usage: ringpost COMMAND [OPTIONS]\n"
    "\n"
    "  run    [-c FILE] [--workers N]   relay in the foreground until SIGTERM or SIGINT\n"
    "  check  [-c FILE]                 look for errors in a configuration\n"
    "  stats  [-c FILE] [--json]        what a running relay counts\n"
    "  queue  [VERB] [OPTIONS]          what waits to be delivered (ringpost queue --help)\n"
    "  sink   [ADDRESS] [OPTIONS]       a next hop for tests and demos (ringpost sink --help)\n"
    "  send   [OPTIONS]                 a small client for tests and demos (ringpost send --help)\n"
    "\n"
    "  -c, --config FILE    the configuration (default " DEFAULT_FILE ")\n"
    "      --workers N      worker threads, in place of the configuration's `workers`\n"
    "      --options        with check: print every option with unit, default and range\n"
    "      --json           with stats: as JSON\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "SIGTERM, SIGINT: finish what is under way, then end (a second one ends at once).\n"
    "SIGHUP: read certificates again, open the log file again.\n";

struct arguments {
    const char *file;
    bool file_given;
    unsigned workers;
    bool json, options;
};

static int
usage_error(const char *what, const char *detail)
{
    fprintf(stderr, "ringpost: %s%s%s\nTry: ringpost --help\n", what, detail != NULL ? " " : "",
            detail != NULL ? detail : "");
    return 2;
}

/* 0, or an exit status to end with (+1, so that 0 means go on). */
static int
arguments_read(int argc, char **argv, struct arguments *out)
{
    static const struct option options[] = {
        { "config", required_argument, NULL, 'c' }, { "workers", required_argument, NULL, 'w' },
        { "json", no_argument, NULL, 'j' },         { "options", no_argument, NULL, 'o' },
        { "help", no_argument, NULL, 'h' },         { NULL, 0, NULL, 0 }
    };
    int option;
    char *end;
    unsigned long workers;

    *out = (struct arguments){ .file = DEFAULT_FILE };
    while ((option = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            out->file = optarg;
            out->file_given = true;
            break;
        case 'w':
            workers = strtoul(optarg, &end, 10);
            if (*end != '\0' || workers == 0 || workers > WORKERS_MAX)
                return usage_error("--workers wants a number from 1 to 256, not", optarg) + 1;
            out->workers = (unsigned)workers;
            break;
        case 'j': out->json = true; break;
        case 'o': out->options = true; break;
        case 'h': fputs(usage_text, stdout); return 1;
        default: return 3;
        }
    }
    if (optind < argc)
        return usage_error("unexpected argument", argv[optind]) + 1;
    return 0;
}

/* The configuration, or NULL after saying why. */
static struct config *
configuration(const struct arguments *arguments)
{
    static struct config_errors errors;
    char machine[256];
    struct config *config;

    if (!arguments->file_given && access(arguments->file, F_OK) != 0 && errno == ENOENT) {
        fprintf(stderr,
                "ringpost: there is no %s\n"
                "To start: copy a sample configuration there (packaging/ringpost.yaml in the "
                "source), or "
                "name one: ringpost run -c FILE\n",
                arguments->file);
        return NULL;
    }
    if (gethostname(machine, sizeof(machine)) != 0)
        machine[0] = '\0';
    machine[sizeof(machine) - 1] = '\0';
    config = config_load(arguments->file, machine[0] != '\0' ? machine : NULL, &errors);
    config_errors_print(&errors, stderr);
    return config;
}

static int
command_run(const struct arguments *arguments)
{
    struct config *config = configuration(arguments);

    return config == NULL ? 1 : process_run(config, arguments->workers);
}

static int
command_check(const struct arguments *arguments)
{
    struct config *config;
    int status;

    if (arguments->options) {
        config_print_options(stdout);
        return 0;
    }
    config = configuration(arguments);
    if (config == NULL)
        return 1;
    status = process_check(config) ? 0 : 1;
    if (status == 0)
        printf("%s: good\n", arguments->file);
    config_free(config);
    return status;
}

static int
command_stats(const struct arguments *arguments)
{
    struct config *config = configuration(arguments);
    int status;

    if (config == NULL)
        return 1;
    status = stats_client_run(config, arguments->json, stdout, stderr);
    config_free(config);
    return status;
}

static int
command_queue(int argc, char **argv)
{
    struct queue_command command;
    struct arguments arguments = { .file = DEFAULT_FILE };
    struct config *config;
    int status = queue_arguments(argc, argv, &command);

    if (status != 0)
        return status - 1;
    if (command.file != NULL) {
        arguments.file = command.file;
        arguments.file_given = true;
    }
    config = configuration(&arguments);
    if (config == NULL)
        return 1;
    status = queue_run(&command, config, stdout, stderr);
    config_free(config);
    return status;
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct arguments *);
    } commands[] = { { "run", command_run },
                     { "check", command_check },
                     { "stats", command_stats } };
    struct arguments arguments;
    int status;

    if (argc < 2)
        return usage_error("no command", NULL);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        fputs(usage_text, stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("ringpost %s\n", ringpost_version);
        return 0;
    }
    if (strcmp(argv[1], "sink") == 0)
        return sink_main(argc - 1, argv + 1);
    if (strcmp(argv[1], "send") == 0)
        return send_main(argc - 1, argv + 1);
    if (strcmp(argv[1], "queue") == 0)
        return command_queue(argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        status = arguments_read(argc - 1, argv + 1, &arguments);
        return status != 0 ? status - 1 : commands[i].run(&arguments);
    }
    return usage_error("unknown command", argv[1]);
}
