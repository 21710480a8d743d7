/* aborts: holds that a call ends the process by an ASSERT, many calls in one test.
 * Does:    runs each in a child.
 * Owns:    nothing.
 * Errors:  another end, or no child: the test fails.
 */
#ifndef RINGPOST_TESTS_UNIT_ABORTS_H
#define RINGPOST_TESTS_UNIT_ABORTS_H

#include <signal.h>

#include "tests/unit/child.h"

struct abort_row {
    const char *name;
    void (*call)(void);
};

static inline int
abort_call(const void *row)
{
    signal(SIGABRT, SIG_DFL);
    ((const struct abort_row *)row)->call();
    return 0;
}

static inline void
aborts_check(const struct abort_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int status = child_run(abort_call, &rows[i]);

        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: status %#x",
                  rows[i].name, (unsigned)status);
    }
}

#endif
