/* How fast the parts are that work on octets without any I/O: scanners in octets per cycle, vector
 * code against its scalar twin, and the two state machines in commands and replies per second.
 *
 *   micro [--json] [SECONDS]           (default: 0.5 for each measurement)
 *
 * CPU time of this thread; each is repeated, and the fastest repetition counts: what slows a loop
 * that does no I/O is other work of the machine. Cycles are those of the time stamp counter: its
 * rate is fixed, that of the processor is not, so that octets per cycle compare within a run; on
 * processors without one they are left out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "core/clock.h"
#include "core/crc32c.h"
#include "core/line.h"
#include "core/masks.h"
#include "core/receiver.h"
#include "relay/sender.h"

#define BODY_BYTES (64u * 1024) /* as a level 2 cache holds */
#define MESSAGE_BYTES 4096u
#define REPETITIONS 10
#define RUNS_PER_CLOCK 16 /* it takes a system call */
#define RESULTS_MAX 32

/* Does its work once; returns how many octets, or commands, that was. */
typedef uint64_t work(void *argument);

struct result {
    const char *name, *unit;
    double per_second, per_cycle; /* per_cycle 0: not said */
};

static struct {
    double seconds, cycles_per_ns;
    struct result results[RESULTS_MAX];
    size_t count;
    char body[BODY_BYTES + 1]; /* text lines, no end of data */
    char
        message[MESSAGE_BYTES + 512]; /* MAIL, RCPT, DATA and the message, as one client sends it */
    size_t message_bytes;
    struct octet_masks masks[BODY_BYTES / MASKS_OCTETS];
    volatile uint64_t sink; /* nothing is optimised away */
} micro;

/* --- measuring --- */

/* Of the time stamp counter; 0: this processor has none that we read. */
static double
cycles_per_ns(void)
{
#if defined(__x86_64__)
    uint64_t began_ns = clock_now_ns(), began = __rdtsc(), ns;

    do
        ns = clock_now_ns() - began_ns;
    while (ns < 20 * NS_PER_MS);
    return (double)(__rdtsc() - began) / (double)ns;
#else
    return 0;
#endif
}

/* By the CPU time of this thread, so that others who have the processor for a while do not count.
 */
static void
measure(const char *name, const char *unit, work *run, void *argument)
{
    struct result *result = &micro.results[micro.count++];
    uint64_t budget_ns = (uint64_t)(micro.seconds / REPETITIONS * 1e9);

    ASSERT(micro.count <= RESULTS_MAX);
    *result = (struct result){ .name = name, .unit = unit };
    run(argument);
    for (int i = 0; i < REPETITIONS; i++) {
        uint64_t began_ns = clock_thread_cpu_ns(), ns, done = 0;

        do {
            for (int j = 0; j < RUNS_PER_CLOCK; j++)
                done += run(argument);
            ns = clock_thread_cpu_ns() - began_ns;
        } while (ns < budget_ns);
        if ((double)done * 1e9 / (double)ns > result->per_second)
            result->per_second = (double)done * 1e9 / (double)ns;
    }
    if (micro.cycles_per_ns > 0 && strcmp(unit, "octets") == 0)
        result->per_cycle = result->per_second / 1e9 / micro.cycles_per_ns;
}

/* --- scanners --- */

static uint64_t
run_masks(void *argument)
{
    const struct masks_kernel *kernel = argument;

    kernel->read(micro.body, BODY_BYTES / MASKS_OCTETS, micro.masks);
    micro.sink += micro.masks[7].lf;
    return BODY_BYTES;
}

static uint64_t
run_body_scan(void *argument)
{
    struct body_scanner scanner;
    struct span in = span_of(micro.body, BODY_BYTES);
    bool scalar = argument != NULL;
    enum body_result result;

    body_scanner_start(&scanner, true, 998);
    result = scalar ? body_scan_scalar(&scanner, &in) : body_scan(&scanner, &in);
    ASSERT(result == BODY_MORE);
    return BODY_BYTES;
}

static uint64_t
run_lines(void *argument)
{
    struct span in = span_of(micro.body, BODY_BYTES), line;
    size_t scanned = 0, consumed;
    bool scalar = argument != NULL;

    while (in.len > 0) {
        enum line_result result = scalar ? line_next_scalar(in, 1000, &scanned, &line, &consumed)
                                         : line_next(in, 1000, &scanned, &line, &consumed);

        if (result == LINE_PARTIAL)
            break;
        ASSERT(result == LINE_COMPLETE);
        span_advance(&in, consumed);
    }
    return BODY_BYTES;
}

static uint64_t
run_stuffing(void *argument)
{
    struct span in = span_of(micro.body, BODY_BYTES);
    bool line_start = true;

    (void)argument;
    while (in.len > 0) {
        span_advance(&in, body_find_stuffing(in, line_start));
        micro.sink++;
        line_start = false;
    }
    return BODY_BYTES;
}

static uint64_t
run_crc(void *argument)
{
    (void)argument;
    micro.sink += crc32c(0, span_of(micro.body, BODY_BYTES));
    return BODY_BYTES;
}

/* --- addresses and replies --- */

static uint64_t
run_paths(void *argument)
{
    static const struct span paths[] = {
        SPAN("<someone.with.a.name@mail.example.com>"),
        SPAN("<a@b.example>"),
        SPAN("<\"quoted string\"@example.org>"),
        SPAN("<list-owner+bounce=4711@lists.example.net>"),
    };
    struct path path;
    size_t consumed;

    (void)argument;
    for (size_t i = 0; i < 4 * 64; i++)
        if (path_parse(paths[i & 3], true, &path, &consumed) != ADDRESS_OK)
            abort();
    return 4 * 64;
}

static uint64_t
run_reply_lines(void *argument)
{
    static const struct span lines[] = {
        SPAN("250 2.1.0 Ok"),
        SPAN("250-PIPELINING"),
        SPAN("354 End data with <CR><LF>.<CR><LF>"),
        SPAN("550 5.1.1 <nobody@example.com>: Recipient address rejected: no such user"),
    };
    struct reply_line line;

    (void)argument;
    for (size_t i = 0; i < 4 * 64; i++)
        if (!reply_line_parse(lines[i & 3], &line))
            abort();
    return 4 * 64;
}

/* --- the receiver --- */

struct receiver_run {
    struct receiver receiver;
    struct receiver_policy policy;
    struct counters counters;
    struct reply taken;
    struct span input; /* repeated */
    uint64_t commands; /* in it */
    char out[16384];
};

static void
receiver_feed(struct receiver_run *run, struct span in)
{
    struct outbuf out = { .data = run->out, .size = sizeof(run->out) };

    for (;;) {
        struct receiver_event event = receiver_step(&run->receiver, &in, &out);

        switch (event.kind) {
        case RECEIVER_NEED_INPUT: ASSERT(in.len == 0); return;
        case RECEIVER_NEED_ROOM: out.len = 0; break;
        case RECEIVER_MAIL:
        case RECEIVER_RECIPIENT:
        case RECEIVER_DATA: receiver_accept(&run->receiver, &out); break;
        case RECEIVER_MESSAGE: receiver_verdict(&run->receiver, &run->taken, &out); break;
        case RECEIVER_BODY: micro.sink += event.body.len; break;
        case RECEIVER_ABORT: break; /* RSET */
        default: fprintf(stderr, "micro: event %d\n", event.kind); abort();
        }
    }
}

static uint64_t
run_receiver(void *argument)
{
    struct receiver_run *run = argument;

    receiver_feed(run, run->input);
    return run->commands;
}

static void
receiver_begin(struct receiver_run *run, struct span input, uint64_t commands)
{
    struct outbuf out = { .data = run->out, .size = sizeof(run->out) };

    *run = (struct receiver_run){ .policy = { .hostname = SPAN("relay.test"),
                                              .message_size_max = 1 << 20,
                                              .recipients_max = 1000,
                                              .errors_max = 10,
                                              .transactions_max = UINT32_MAX,
                                              .command_line_max = 2048,
                                              .text_line_max = 998,
                                              .received_max = 100 },
                                  .input = input,
                                  .commands = commands };
    reply_set(&run->taken, 250, "2.0.0", SPAN("Ok: queued as 001KVLCTQCZJ0"));
    receiver_start(&run->receiver, &run->policy, &run->counters, false, &out);
    receiver_feed(run, SPAN("EHLO client.example.com\r\n"));
}

/* --- the sender --- */

struct sender_run {
    struct sender sender;
    char out[16384];
};

static void
sender_feed(struct sender_run *run, struct span in, unsigned events)
{
    struct outbuf out = { .data = run->out, .size = sizeof(run->out) };

    for (;;) {
        struct sender_event event = sender_step(&run->sender, &in, &out);

        if (event.kind == SENDER_NEED_INPUT)
            break;
        ASSERT(event.kind == SENDER_READY || event.kind == SENDER_REPLY);
        ASSERT(events > 0);
        events--;
    }
    ASSERT(in.len == 0);
    ASSERT(events == 0);
}

/* One message: three commands, the end of data, four replies. */
static uint64_t
run_sender(void *argument)
{
    static const struct sender_mail mail = { .reverse_path = SPAN("from@client.example.com"),
                                             .size = MESSAGE_BYTES };
    static const struct rcpt_parameters none;
    struct sender_run *run = argument;
    struct outbuf out = { .data = run->out, .size = sizeof(run->out) };

    sender_mail(&run->sender, &mail, &out);
    sender_rcpt(&run->sender, SPAN("someone@mail.example.com"), &none, &out);
    sender_data(&run->sender, &out);
    sender_feed(run,
                SPAN("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"), 3);
    sender_end_of_data(&run->sender);
    sender_feed(run, SPAN("250 2.0.0 Ok: queued as 4bZ1x93Jz1z9rxN\r\n"), 1);
    return 4;
}

static void
sender_begin(struct sender_run *run)
{
    sender_start(&run->sender, SPAN("relay.test"), SENDER_TLS_NONE, false);
    sender_feed(run, SPAN("220 mx.example.com ESMTP\r\n"), 0);
    sender_feed(run,
                SPAN("250-mx.example.com\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n"
                     "250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n"),
                1);
}

/* --- what is measured --- */

/* Lines of 40 to 76 octets, as mail has them; seldom a dot at the start, which is stuffed. */
static void
text_fill(char *text, size_t len)
{
    size_t at = 0, line = 0;

    while (at < len) {
        size_t octets = 40 + line * 7 % 37;

        if (len - at < 2 * 80)
            octets = len - at > 80 ? (len - at) / 2 : len - at;
        ASSERT(octets > 2);
        memset(text + at, 'a' + (int)(line % 26), octets - 2);
        if (line % 50 == 49)
            memset(text + at, '.', 2);
        memcpy(text + at + octets - 2, "\r\n", 2);
        at += octets;
        line++;
    }
}

static void
inputs_make(void)
{
    struct outbuf out = { .data = micro.message, .size = sizeof(micro.message) };

    text_fill(micro.body, BODY_BYTES);
    outbuf_add(&out, SPAN("MAIL FROM:<from@client.example.com> SIZE=4096\r\n"
                          "RCPT TO:<someone@mail.example.com>\r\nDATA\r\n"
                          "Received: from a.example (a.example [192.0.2.1]) by b.example;\r\n"
                          "\tSun, 22 Nov 2026 06:59:08 +0000\r\nFrom: <from@client.example.com>\r\n"
                          "To: <someone@mail.example.com>\r\nSubject: a test\r\n\r\n"));
    text_fill(micro.message + out.len, MESSAGE_BYTES - out.len);
    out.len = MESSAGE_BYTES;
    outbuf_add(&out, SPAN(".\r\n"));
    micro.message_bytes = out.len;
}

static void
scanners_measure(void)
{
    static char names[MASKS_KERNELS_MAX][32];
    struct masks_kernel kernels[MASKS_KERNELS_MAX];
    size_t count = masks_kernels(kernels);

    for (size_t i = 0; i < count; i++) {
        if (!kernels[i].usable)
            continue;
        snprintf(names[i], sizeof(names[i]), "masks, %s", kernels[i].name);
        measure(names[i], "octets", run_masks, &kernels[i]);
    }
    measure("message data, vector", "octets", run_body_scan, NULL);
    measure("message data, scalar", "octets", run_body_scan, &micro);
    measure("lines of 58 octets, vector", "octets", run_lines, NULL);
    measure("lines of 58 octets, scalar", "octets", run_lines, &micro);
    measure("dots to stuff, vector", "octets", run_stuffing, NULL);
    measure("CRC-32C", "octets", run_crc, NULL);
}

static void
machines_measure(void)
{
    static struct receiver_run receiver;
    static struct sender_run sender;
    const struct span refused = SPAN("MAIL FROM:<from@client.example.com>\r\n"
                                     "RCPT TO:<someone@mail.example.com>\r\nRSET\r\n");

    measure("paths", "paths", run_paths, NULL);
    measure("reply lines", "lines", run_reply_lines, NULL);
    receiver_begin(&receiver, refused, 3);
    measure("receiver: MAIL, RCPT, RSET", "commands", run_receiver, &receiver);
    receiver_begin(&receiver, span_of(micro.message, micro.message_bytes), 1);
    measure("receiver: messages of 4 KiB", "messages", run_receiver, &receiver);
    sender_begin(&sender);
    measure("sender: MAIL, RCPT, DATA, end and their replies", "commands", run_sender, &sender);
}

static void
print_text(void)
{
    printf("| what | per second | octets per cycle |\n| --- | --- | --- |\n");
    for (size_t i = 0; i < micro.count; i++) {
        const struct result *result = &micro.results[i];
        bool octets = strcmp(result->unit, "octets") == 0;

        printf("| %s | %.*f %s%s | ", result->name, octets ? 2 : 1,
               result->per_second / (octets ? 1e9 : 1e6), octets ? "billion " : "million ",
               result->unit);
        if (!octets)
            printf("- |\n");
        else if (result->per_cycle > 0)
            printf("%.2f |\n", result->per_cycle);
        else
            printf("not known |\n");
    }
}

static void
print_json(void)
{
    printf("{");
    for (size_t i = 0; i < micro.count; i++)
        printf("%s\"%s\": {\"per_second\": %.0f, \"unit\": \"%s\", \"per_cycle\": %.3f}",
               i > 0 ? ",\n " : "", micro.results[i].name, micro.results[i].per_second,
               micro.results[i].unit, micro.results[i].per_cycle);
    printf("}\n");
}

int
main(int argc, char **argv)
{
    bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    int at = json ? 2 : 1;

    micro.seconds = argc > at ? strtod(argv[at], NULL) : 0.5;
    if (argc > at + 1 || micro.seconds <= 0 || micro.seconds > 60) {
        fprintf(stderr, "usage: micro [--json] [SECONDS]\n");
        return 2;
    }
    micro.cycles_per_ns = cycles_per_ns();
    inputs_make();
    scanners_measure();
    machines_measure();
    if (json)
        print_json();
    else
        print_text();
    return 0;
}
