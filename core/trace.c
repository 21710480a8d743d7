/* When an ASSERT fails, the state that broke is seldom the state that erred: the way there is worth
 * more than the place. This keeps the way, at the price of a few stores per transition. */
#include "core/trace.h"

struct transition {
    const char *machine, *from, *to, *cause;
    const void *object;
};

_Static_assert((TRACE_TRANSITIONS_MAX & (TRACE_TRANSITIONS_MAX - 1)) == 0, "the index is masked");

static _Thread_local struct {
    uint64_t count; /* transitions since the thread began */
    struct transition last[TRACE_TRANSITIONS_MAX];
} ring;

void
trace_transition(const char *machine, const void *object, const char *from, const char *to,
                 const char *cause)
{
    ring.last[ring.count++ & (TRACE_TRANSITIONS_MAX - 1)] = (struct transition){
        .machine = machine, .from = from, .to = to, .cause = cause, .object = object,
    };
}

static void
add_address(struct outbuf *out, const void *object)
{
    uintptr_t address = (uintptr_t)object;
    char digits[2 * sizeof(address)];
    size_t n = 0;

    do {
        digits[sizeof(digits) - ++n] = "0123456789abcdef"[address & 15];
        address >>= 4;
    } while (address > 0);
    (void)outbuf_add_some(out, span_of(digits + sizeof(digits) - n, n));
}

bool
trace_line(size_t age, struct outbuf *out)
{
    const struct transition *transition;
    char bytes[TRACE_LINE_BYTES_MAX];
    struct outbuf line = { .data = bytes, .size = sizeof(bytes) - 1 }; /* the '\n' always fits */

    if (age >= TRACE_TRANSITIONS_MAX || age >= ring.count)
        return false;
    transition = &ring.last[(ring.count - 1 - age) & (TRACE_TRANSITIONS_MAX - 1)];
    outbuf_add_number(&line, ring.count - age);
    (void)outbuf_add_some(&line, SPAN(" "));
    (void)outbuf_add_some(&line, span_text(transition->machine));
    (void)outbuf_add_some(&line, SPAN(" "));
    add_address(&line, transition->object);
    (void)outbuf_add_some(&line, SPAN(": "));
    (void)outbuf_add_some(&line, span_text(transition->from));
    (void)outbuf_add_some(&line, SPAN(" -> "));
    (void)outbuf_add_some(&line, span_text(transition->to));
    (void)outbuf_add_some(&line, SPAN(" ("));
    (void)outbuf_add_some(&line, span_text(transition->cause));
    (void)outbuf_add_some(&line, SPAN(")"));
    line.size++;
    outbuf_add_char(&line, '\n');
    (void)outbuf_add_some(out, outbuf_span(&line));
    return true;
}
