/* Whole dialogues with a next hop from tests/transcripts/sender/: each is run in one piece, cut at
 * every byte, and byte by byte, and must give the same events and the same commands each time. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "relay/sender.h"
#include "tests/unit/guard.h"

#define FOLDER "tests/transcripts/sender"
#define TRANSCRIPTS_MIN 20
#define FILE_BYTES_MAX 16384
#define TRACE_BYTES_MAX 32768
#define BY_BYTE SIZE_MAX

struct run {
    const char *name;
    struct sender sender;
    size_t cut;          /* the next hop's bytes come in two pieces, cut here; or BY_BYTE */
    size_t said;         /* bytes of the next hop so far */
    size_t pending;      /* bytes in `input`: said, and not taken yet */
    bool deaf;           /* BROKEN, CLOSED, START_TLS or !lost: no steps for now */
    bool whole;          /* !whole: where it is cut matters */
    struct outbuf trace; /* what happened, in the notation of the file */
    struct outbuf want;  /* what the file says */
    char input[FILE_BYTES_MAX];
    char trace_bytes[TRACE_BYTES_MAX], want_bytes[TRACE_BYTES_MAX];
};

static struct guard guard;

static void
trace_text(struct run *run, const char *text)
{
    outbuf_add(&run->trace, span_text(text));
}

static void
trace_reply(struct run *run, const struct reply *reply)
{
    const struct enhanced_code *enhanced = &reply->enhanced;
    char numbers[64];

    if (enhanced->class != 0)
        (void)snprintf(numbers, sizeof(numbers), ": %u %u.%u.%u", reply->code, enhanced->class,
                       enhanced->subject, enhanced->detail);
    else
        (void)snprintf(numbers, sizeof(numbers), ": %u", reply->code);
    trace_text(run, numbers);
    if (reply->text_len > 0)
        trace_text(run, " ");
    for (size_t i = 0; i < reply->text_len; i++)
        outbuf_add_char(&run->trace, reply->text[i] == '\n' ? '|' : reply->text[i]);
}

static void
trace_commands(struct run *run, const struct outbuf *out)
{
    bool line_start = true;

    for (size_t i = 0; i < out->len; i++) {
        if (line_start)
            trace_text(run, "C: ");
        line_start = out->data[i] == '\n';
        if (out->data[i] == '\r')
            cr_assert(i + 1 < out->len && out->data[i + 1] == '\n', "%s: bare CR", run->name);
        else
            outbuf_add_char(&run->trace, out->data[i]);
    }
    cr_assert(line_start, "%s: a command without a line end", run->name);
}

static void
trace_event(struct run *run, const struct sender_event *event)
{
    char number[16];

    switch (event->kind) {
    case SENDER_NEED_INPUT:
        return;
    case SENDER_NEED_ROOM:
        cr_assert_fail("%s: room", run->name);
    case SENDER_START_TLS:
        trace_text(run, "!event START_TLS");
        run->deaf = true;
        break;
    case SENDER_READY:
        trace_text(run, "!event READY");
        break;
    case SENDER_CLOSED:
        trace_text(run, "!event CLOSED");
        run->deaf = true;
        break;
    case SENDER_REPLY:
    case SENDER_BROKEN:
        trace_text(run, event->kind == SENDER_REPLY ? "!event REPLY " : "!event BROKEN ");
        trace_text(run, sender_expectation_name(event->expectation));
        if (event->kind == SENDER_REPLY && event->expectation == SENDER_EXPECTS_RCPT) {
            (void)snprintf(number, sizeof(number), " %u", event->recipient);
            trace_text(run, number);
        }
        trace_reply(run, event->reply);
        run->deaf = event->kind == SENDER_BROKEN;
        break;
    }
    trace_text(run, "\n");
}

/* Steps until more input is needed, as a worker would. */
static void
step_all(struct run *run)
{
    char bytes[SENDER_COMMAND_ROOM * 2];
    struct sender_event event;

    if (run->deaf) { /* nobody reads any more; in a handshake TLS would, which is for !whole */
        cr_assert(run->sender.broken || run->sender.closed, "%s: bytes for TLS", run->name);
        run->pending = 0;
        return;
    }
    do {
        struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
        struct span in = guard_end(&guard, run->input, run->pending);
        event = sender_step(&run->sender, &in, &out);
        memmove(run->input, run->input + run->pending - in.len, in.len);
        run->pending = in.len;
        trace_commands(run, &out);
        trace_event(run, &event);
    } while (event.kind != SENDER_NEED_INPUT && !run->deaf);
}

static void
next_hop_says(struct run *run, struct span bytes)
{
    while (bytes.len > 0) {
        size_t len = bytes.len;

        if (run->cut == BY_BYTE)
            len = 1;
        else if (run->cut > run->said && run->cut - run->said < len)
            len = run->cut - run->said;
        cr_assert_leq(run->pending + len, sizeof(run->input), "%s", run->name);
        memcpy(run->input + run->pending, bytes.data, len);
        run->pending += len;
        run->said += len;
        span_advance(&bytes, len);
        step_all(run);
    }
}

static unsigned
hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

/* \r \n \t \0 \xHH \\ in what the next hop says. */
static void
unescape(struct span text, struct outbuf *out)
{
    for (size_t i = 0; i < text.len; i++) {
        char c = text.data[i];
        if (c == '\\' && i + 1 < text.len) {
            c = text.data[++i];
            if (c == 'x') {
                c = (char)(hex_digit(text.data[i + 1]) * 16 + hex_digit(text.data[i + 2]));
                i += 2;
            } else if (c != '\\') {
                cr_assert(c == 'r' || c == 'n' || c == 't' || c == '0', "escape \\%c?", c);
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : '\0';
            }
        }
        outbuf_add_char(out, c);
    }
}

/* --- directives --- */

static void
direct_mail(struct run *run, struct span words, struct outbuf *out)
{
    struct mail_parameters parameters;
    struct sender_mail mail;
    struct path path;
    size_t len;

    cr_assert_eq(path_parse(words, true, &path, &len), ADDRESS_OK, "%s", run->name);
    cr_assert_eq(mail_parameters_parse(span_after(words, len), &parameters), PARAMETER_OK);
    mail = (struct sender_mail){
        .reverse_path = path.mailbox,
        .size = parameters.size,
        .body = parameters.body,
        .smtputf8 = parameters.smtputf8,
        .dsn_return = parameters.dsn_return,
        .envid = parameters.envid,
    };
    sender_mail(&run->sender, &mail, out);
}

static void
direct_rcpt(struct run *run, struct span words, struct outbuf *out)
{
    struct rcpt_parameters parameters;
    struct path path;
    size_t len;

    cr_assert_eq(path_parse(words, false, &path, &len), ADDRESS_OK, "%s", run->name);
    cr_assert_eq(rcpt_parameters_parse(span_after(words, len), &parameters), PARAMETER_OK);
    sender_rcpt(&run->sender, path.mailbox, &parameters, out);
}

static void
direct_start(struct run *run, struct span words)
{
    enum sender_tls tls = SENDER_TLS_OPPORTUNISTIC;
    bool implicit = span_equal(words, SPAN("implicit"));

    if (span_equal(words, SPAN("none")))
        tls = SENDER_TLS_NONE;
    if (span_equal(words, SPAN("require")) || implicit)
        tls = SENDER_TLS_REQUIRE;
    sender_start(&run->sender, SPAN("edge.example.com"), tls, implicit);
}

static void
direct_lost(struct run *run)
{
    trace_text(run, "!event LOST ");
    trace_text(run, sender_expectation_name(sender_lost(&run->sender)));
    trace_text(run, sender_ambiguous(&run->sender) ? " ambiguous\n" : "\n");
    run->deaf = true;
}

static bool
direct_command(struct run *run, struct span verb, struct span words, struct outbuf *out)
{
    if (span_equal(verb, SPAN("mail")))
        direct_mail(run, words, out);
    else if (span_equal(verb, SPAN("rcpt")))
        direct_rcpt(run, words, out);
    else if (span_equal(verb, SPAN("data")))
        sender_data(&run->sender, out);
    else if (span_equal(verb, SPAN("chunk")))
        sender_chunk(&run->sender, 5, false, out);
    else if (span_equal(verb, SPAN("last")))
        sender_chunk(&run->sender, 5, true, out);
    else if (span_equal(verb, SPAN("end")))
        sender_end_of_data(&run->sender);
    else if (span_equal(verb, SPAN("reset")))
        sender_reset(&run->sender, out);
    else if (span_equal(verb, SPAN("quit")))
        sender_quit(&run->sender, out);
    else
        return false;
    return true;
}

static void
direct(struct run *run, struct span line)
{
    char bytes[SENDER_COMMAND_ROOM];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    const char *space = memchr(line.data, ' ', line.len);
    size_t len = space != NULL ? (size_t)(space - line.data) : line.len;
    struct span verb = span_first(line, len);
    struct span words = span_after(line, space != NULL ? len + 1 : len);

    if (span_equal(verb, SPAN("start"))) {
        direct_start(run, words);
    } else if (span_equal(verb, SPAN("whole"))) {
        run->whole = true;
    } else if (span_equal(verb, SPAN("lost"))) {
        direct_lost(run);
    } else if (span_equal(verb, SPAN("tls"))) {
        run->deaf = false;
        sender_tls_started(&run->sender, &out);
    } else {
        cr_assert(direct_command(run, verb, words, &out), "%s: !%.*s?", run->name, (int)line.len,
                  line.data);
    }
    trace_commands(run, &out);
}

/* --- files --- */

/* Takes the lines of one flow of the next hop: "S: " lines and "!raw" one after the other. */
static bool
flow_add(struct span line, struct outbuf *flow)
{
    if (span_starts_ignore_case(line, SPAN("S: "))) {
        unescape(span_after(line, 3), flow);
        outbuf_add(flow, SPAN("\r\n"));
        return true;
    }
    if (span_starts_ignore_case(line, SPAN("!raw "))) {
        unescape(span_after(line, 5), flow);
        return true;
    }
    return false;
}

static void
run_file(struct run *run, struct span text, size_t cut)
{
    static char flow_bytes[FILE_BYTES_MAX];
    struct outbuf flow = { .data = flow_bytes, .size = sizeof(flow_bytes) };

    run->cut = cut;
    run->said = run->pending = 0;
    run->deaf = run->whole = false;
    run->trace = (struct outbuf){ .data = run->trace_bytes, .size = TRACE_BYTES_MAX };
    run->want = (struct outbuf){ .data = run->want_bytes, .size = TRACE_BYTES_MAX };
    while (text.len > 0) {
        const char *end = memchr(text.data, '\n', text.len);
        cr_assert_not_null(end, "%s: no newline at the end", run->name);
        struct span line = span_first(text, (size_t)(end - text.data));

        span_advance(&text, line.len + 1);
        if (line.len == 0 || line.data[0] == '#' || flow_add(line, &flow))
            continue;
        next_hop_says(run, outbuf_span(&flow));
        flow.len = 0;
        if (line.data[0] == '!' && !span_starts_ignore_case(line, SPAN("!event "))) {
            direct(run, span_after(line, 1));
        } else {
            outbuf_add(&run->want, line);
            outbuf_add_char(&run->want, '\n');
        }
    }
    next_hop_says(run, outbuf_span(&flow));
    if (!span_equal(outbuf_span(&run->trace), outbuf_span(&run->want)))
        cr_assert_fail("%s, cut at %zd:\n--- wanted:\n%.*s--- got:\n%.*s", run->name,
                       (ssize_t)cut, (int)run->want.len, run->want.data, (int)run->trace.len,
                       run->trace.data);
    cr_assert_eq(run->pending, 0, "%s: bytes left over", run->name);
}

static struct span
file_read(const char *name)
{
    static char text[FILE_BYTES_MAX];
    char path[512];
    FILE *file;
    size_t len;

    (void)snprintf(path, sizeof(path), FOLDER "/%s", name);
    file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    len = fread(text, 1, sizeof(text), file);
    (void)fclose(file);
    cr_assert(len > 0 && len < sizeof(text), "%s: %zu bytes", path, len);
    return span_of(text, len);
}

Test(sender_transcripts, every_split_gives_the_same_events)
{
    static struct run run;
    struct dirent **names;
    int count = scandir(FOLDER, &names, NULL, alphasort);
    unsigned transcripts = 0;

    cr_assert_gt(count, 0, "run from the root of the repository");
    for (int i = 0; i < count; i++) {
        const char *dot = strrchr(names[i]->d_name, '.');
        if (dot != NULL && strcmp(dot, ".smtp") == 0) {
            struct span text = file_read(names[i]->d_name);
            run.name = names[i]->d_name;
            transcripts++;
            run_file(&run, text, 0);
            cr_assert_gt(run.want.len, 0, "%s wants nothing", run.name);
            size_t bytes = run.said;
            if (!run.whole) {
                run_file(&run, text, BY_BYTE);
                for (size_t cut = 1; cut < bytes; cut++)
                    run_file(&run, text, cut);
            }
        }
        free(names[i]);
    }
    free(names);
    cr_assert_geq(transcripts, TRANSCRIPTS_MIN);
}
