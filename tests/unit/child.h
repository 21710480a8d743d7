/* child: calls that end their process, many in one test.
 * Does:    runs the call in a child without stderr and says how that ended.
 * Owns:    the child, until it is gone.
 * Errors:  no child: the test fails.
 */
#ifndef RINGPOST_TESTS_UNIT_CHILD_H
#define RINGPOST_TESTS_UNIT_CHILD_H

#include <criterion/criterion.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of a child that could not begin. */
#define CHILD_FAILED 202

/* The child's status as waitpid() gives it; its exit status is what `call` returns. */
static inline int
child_run(int (*call)(const void *context), const void *context)
{
    pid_t child;
    int status;

    fflush(NULL);
    child = fork();
    cr_assert(child >= 0);
    if (child == 0) {
        /* A child that is ended says so. */
        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(CHILD_FAILED);
        _exit(call(context));
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return status;
}

#endif
