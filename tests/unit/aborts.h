/* aborts: holds that a call ends the process by an ASSERT, many calls in one test.
 * Does:    runs the call in a child without stderr and says how that ended.
 * Owns:    the child, until it is gone.
 * Errors:  no child: the test fails.
 */
#ifndef RINGPOST_TESTS_UNIT_ABORTS_H
#define RINGPOST_TESTS_UNIT_ABORTS_H

#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct abort_row {
    const char *name;
    void (*call)(void);
};

static inline void
aborts_check(const struct abort_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        pid_t child;
        int status;

        fflush(NULL);
        child = fork();
        cr_assert(child >= 0);
        if (child == 0) {
            if (freopen("/dev/null", "w", stderr) == NULL)
                _exit(3);
            signal(SIGABRT, SIG_DFL);
            rows[i].call();
            _exit(0);
        }
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "%s: status %#x",
                  rows[i].name, (unsigned)status);
    }
}

#endif
