/* The transition ring, and the report that a failed ASSERT makes of it. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/trace.h"

static const char *
line_at(size_t age)
{
    static char bytes[TRACE_LINE_BYTES_MAX + 1];
    struct outbuf out = { .data = bytes, .size = TRACE_LINE_BYTES_MAX };

    if (!trace_line(age, &out))
        return NULL;
    bytes[out.len] = '\0';
    return bytes;
}

Test(trace, newest_first_and_no_more_than_the_ring)
{
    static const char *const names[] = { "a", "b" };

    cr_assert_null(line_at(0));
    trace_transition("machine", (const void *)0x1f0, "START", "READY", "EHLO");
    cr_assert_str_eq(line_at(0), "1 machine 1f0: START -> READY (EHLO)\n");
    cr_assert_null(line_at(1));
    for (unsigned i = 0; i < TRACE_TRANSITIONS_MAX; i++)
        trace_transition("m", NULL, names[i % 2], names[(i + 1) % 2], "next");
    cr_assert_str_eq(line_at(0), "129 m 0: b -> a (next)\n");
    cr_assert_str_eq(line_at(TRACE_TRANSITIONS_MAX - 1), "2 m 0: a -> b (next)\n");
    cr_assert_null(line_at(TRACE_TRANSITIONS_MAX));
}

Test(trace, what_does_not_fit_is_cut)
{
    char text[2 * TRACE_LINE_BYTES_MAX], bytes[10];
    struct outbuf small = { .data = bytes, .size = sizeof(bytes) };

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    trace_transition(text, NULL, "a", "b", "c");
    cr_assert_eq(strlen(line_at(0)), TRACE_LINE_BYTES_MAX);
    cr_assert_eq(line_at(0)[TRACE_LINE_BYTES_MAX - 1], '\n');
    cr_assert(trace_line(0, &small));
    cr_assert_eq(small.len, sizeof(bytes));
    cr_assert_eq(memcmp(bytes, "1 xxxxxxxx", sizeof(bytes)), 0);
}

/* What a process that fails says on stderr. */
static void
report(char *out, size_t size)
{
    int ends[2], status;
    size_t len = 0;
    ssize_t n;
    pid_t child;

    cr_assert_eq(pipe(ends), 0);
    child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        trace_transition("first", NULL, "A", "B", "one");
        trace_transition("second", NULL, "C", "D", "two");
        assert_failed("core/somewhere.c", 42, "1 == 2");
    }
    close(ends[1]);
    while (len < size - 1 && (n = read(ends[0], out + len, size - 1 - len)) > 0)
        len += (size_t)n;
    out[len] = '\0';
    close(ends[0]);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status));
    cr_assert_eq(WTERMSIG(status), SIGABRT);
}

Test(assert, tells_the_place_and_the_way_there)
{
    char text[1024];

    report(text, sizeof(text));
    cr_assert_str_eq(text, "ringpost: assertion failed: core/somewhere.c:42: 1 == 2\n"
                           "1 first 0: A -> B (one)\n"
                           "2 second 0: C -> D (two)\n", "%s", text);
}
