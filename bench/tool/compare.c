/* Finds bench/measure.py from where this program lies, and becomes it. */
#include "bench/tool/compare.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGUMENTS_MAX 64
/* build/, or build/MODE/. */
#define LEVELS_MAX 2

/* Takes the last part off. False: there is none. */
static bool
parent(char *path)
{
    char *slash = strrchr(path, '/');

    if (slash == NULL || slash == path)
        return false;
    *slash = '\0';
    return true;
}

/* The script of the tree that holds `folder`, into script. */
static bool
script_find(const char *folder, char script[PATH_MAX])
{
    char tree[PATH_MAX];

    snprintf(tree, sizeof(tree), "%s", folder);
    for (int i = 0; i < LEVELS_MAX && parent(tree); i++)
        if ((size_t)snprintf(script, PATH_MAX, "%s/bench/measure.py", tree) < PATH_MAX &&
            access(script, R_OK) == 0)
            return true;
    return false;
}

int
compare_main(int argc, char **argv)
{
    char folder[PATH_MAX], binary[PATH_MAX + 16], script[PATH_MAX];
    char *arguments[ARGUMENTS_MAX + 4] = { "python3", script, "compare" };
    ssize_t len = readlink("/proc/self/exe", folder, sizeof(folder) - 1);

    if (argc > ARGUMENTS_MAX) {
        fprintf(stderr, "ringpost-bench compare: too many arguments\n");
        return 2;
    }
    folder[len > 0 ? len : 0] = '\0';
    if (!parent(folder) || !script_find(folder, script)) {
        fprintf(stderr, "ringpost-bench compare: works in the source tree only (it needs "
                        "bench/measure.py): make bench, make bench-full\n");
        return 3;
    }
    snprintf(binary, sizeof(binary), "%s/ringpost", folder);
    setenv("RINGPOST", binary, 0);
    for (int i = 1; i < argc; i++)
        arguments[2 + i] = argv[i];
    execvp(arguments[0], arguments);
    fprintf(stderr, "ringpost-bench compare: python3: %s\n", strerror(errno));
    return 3;
}
