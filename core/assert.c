/* Our own reasoning was wrong: say where and how we got there, then stop before a wrong answer is
 * given. Formats by hand and writes unbuffered, since the process is not to be trusted any more. */
#include "core/assert.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/trace.h"

static void
say(const struct outbuf *line)
{
    /* stderr is unbuffered; a report that cannot be written must not stop the abort. */
    (void)!fwrite(line->data, 1, line->len, stderr);
}

static void
say_trace(void)
{
    char bytes[TRACE_LINE_BYTES_MAX];

    for (size_t age = TRACE_TRANSITIONS_MAX; age-- > 0;) {
        struct outbuf line = { .data = bytes, .size = sizeof(bytes) };

        if (trace_line(age, &line))
            say(&line);
    }
}

_Noreturn void
assert_failed(const char *file, int line, const char *text)
{
    static _Thread_local bool failing;
    char bytes[512];
    struct outbuf report = { .data = bytes, .size = sizeof(bytes) - 1 };

    /* An ASSERT inside this very report: nothing more can be said. */
    if (failing)
        abort();
    failing = true;
    (void)outbuf_add_some(&report, SPAN("ringpost: assertion failed: "));
    (void)outbuf_add_some(&report, span_text(file));
    (void)outbuf_add_some(&report, SPAN(":"));
    if (outbuf_room(&report) > 20)
        outbuf_add_number(&report, line > 0 ? (uint64_t)line : 0);
    (void)outbuf_add_some(&report, SPAN(": "));
    (void)outbuf_add_some(&report, span_text(text));
    report.size++;
    outbuf_add_char(&report, '\n');
    say(&report);
    say_trace();
    abort();
}
