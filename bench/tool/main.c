/* ringpost-bench: the subcommands of the load tool. */
#include <stdio.h>
#include <string.h>

#include "bench/tool/compare.h"
#include "bench/tool/drain.h"
#include "bench/tool/load.h"
#include "bench/tool/verify.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} commands[] = {
    { "load", load_main, "send messages at a server: closed or open loop, plain or TLS" },
    { "sink", drain_main, "a fast next hop that counts, delays and fails on demand" },
    { "verify", verify_main, "compare what load was promised with what sink received" },
    { "compare", compare_main, "ringpost beside other relays, and what the kernel alone takes" },
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void
usage(FILE *out)
{
    fprintf(out, "ringpost-bench: measures SMTP servers and relays\n\n"
                 "usage: ringpost-bench COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].what);
    fprintf(out, "\nringpost-bench COMMAND --help says more.\n"
                 "\nTo measure a relay that passes mail on to 127.0.0.1:2626:\n"
                 "  ringpost-bench sink 127.0.0.1:2626 --ledger received &\n"
                 "  ringpost-bench load --to 127.0.0.1:2525 --ledger sent\n"
                 "  kill $!; wait; ringpost-bench verify --sent sent --received received\n");
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("ringpost-bench %s\n", RINGPOST_VERSION);
        return 0;
    }
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "ringpost-bench: unknown command '%s'\nTry: ringpost-bench --help\n", argv[1]);
    return 2;
}
