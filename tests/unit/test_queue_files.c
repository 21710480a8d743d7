/* `ringpost queue` without a relay: arguments, and what it says of a spool's files, whole and
 * damaged. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/crc32c.h"
#include "relay/spool/spool.h"
#include "relay/tools/queue.h"
#include "tests/unit/config_text.h"

/* --- arguments --- */

Test(queue_files, arguments, .init = cr_redirect_stderr)
{
    static const struct {
        const char *line;
        int status; /* 0: go on */
        enum queue_verb verb;
    } rows[] = {
        { "", 0, VERB_SUMMARY },
        { "-c a.yaml --by-domain --json", 0, VERB_SUMMARY },
        { "summary --age 2h", 0, VERB_SUMMARY },
        { "list", 0, VERB_LIST },
        { "list --next-hop a --domain b --sender <> --age 1d --state held --state parked A1 B2", 0,
          VERB_LIST },
        { "list --all", 0, VERB_LIST },
        { "show A1", 0, VERB_SHOW },
        { "show", 2 + 1, 0 },
        { "export A1", 0, VERB_EXPORT },
        { "export A1 --received", 0, VERB_EXPORT },
        { "export", 2 + 1, 0 },
        { "export A1 B1", 2 + 1, 0 },
        { "export A1 --json", 2 + 1, 0 },
        { "hold A1", 0, VERB_HOLD },
        { "hold A1 A1", 0, VERB_HOLD },
        { "release --state held", 0, VERB_RELEASE },
        { "retry --next-hop .", 0, VERB_RETRY },
        { "remove --all", 0, VERB_REMOVE },
        { "remove --sender spam.example", 0, VERB_REMOVE },
        { "hold", 2 + 1, 0 },
        { "release", 2 + 1, 0 },
        { "retry", 2 + 1, 0 },
        { "remove", 2 + 1, 0 },
        { "remove --json", 2 + 1, 0 },
        { "remove --age 0s", 2 + 1, 0 },
        { "remove --all A1", 2 + 1, 0 },
        { "remove --all --age 1d", 2 + 1, 0 },
        { "delete A1", 2 + 1, 0 },
        { "--json A1", 2 + 1, 0 },
        { "list --state frozen", 2 + 1, 0 },
        { "list --age 5", 2 + 1, 0 },
        { "list --age never", 2 + 1, 0 },
        { "list ../../etc", 2 + 1, 0 },
        { "list 0123456789ABCDEF", 2 + 1, 0 },
        { "list --by-domain", 2 + 1, 0 },
        { "list --received", 2 + 1, 0 },
        { "list --nothing", 2 + 1, 0 },
        { "list --domain", 2 + 1, 0 },
        { "list --next-hop 0123456789012345678901234567890123456789012345678901234567890123456",
          2 + 1, 0 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char line[256] = "queue ", *argv[20], *place;
        struct queue_command command;
        int argc = 0, status;

        strcat(line, rows[i].line);
        for (char *word = strtok_r(line, " ", &place); word != NULL;
             word = strtok_r(NULL, " ", &place))
            argv[argc++] = word;
        argv[argc] = NULL;
        optind = 0; /* getopt begins anew */
        status = queue_arguments(argc, argv, &command);
        cr_assert_eq(status, rows[i].status, "%s: %d", rows[i].line, status);
        if (status != 0)
            continue;
        cr_assert_eq(command.verb, rows[i].verb, "%s", rows[i].line);
        if (strcmp(rows[i].line, "hold A1 A1") == 0)
            cr_assert_eq(command.select.id_count, 1);
        free(command.select.ids);
    }
}

/* --- a spool --- */

#define SEGMENT_BYTES (64u * 1024u)
#define SLOTS 64u
#define FIRST 0x1234u

static char folder[] = "/tmp/ringpost-queue-XXXXXX";
static char segment[SEGMENT_BYTES];
static uint64_t segment_at; /* where the next record goes */
static uint32_t segment_slot;
static struct mark segment_marks[SLOTS];

static void
file_write(const char *name, const char *octets, size_t len)
{
    char path[128];
    int file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    cr_assert_geq(file, 0);
    cr_assert_eq(write(file, octets, len), (ssize_t)len);
    close(file);
}

static void
segment_begin(uint64_t number)
{
    struct segment_header header = {
        .number = number, .created_s = 1, .bytes = SEGMENT_BYTES, .slots = SLOTS
    };

    memset(segment, 0, sizeof(segment));
    memset(segment_marks, 0, sizeof(segment_marks));
    segment_header_write(&header, segment);
    segment_at = segment_records_offset(SLOTS);
    segment_slot = 0;
}

static void
segment_end(uint64_t number, bool sealed)
{
    char name[SPOOL_NAME_BYTES];
    struct mark old[SLOTS] = { { 0 } };

    if (sealed)
        segment_seal_write(number, segment_at, segment + SPOOL_BLOCK_BYTES);
    /* The newer copy is the second one. */
    mark_block_write(number, 0, 4, old, SLOTS, segment + segment_marks_offset(SLOTS, 0, 0));
    mark_block_write(number, 0, 5, segment_marks, SLOTS,
                     segment + segment_marks_offset(SLOTS, 1, 0));
    spool_segment_name(number, name);
    file_write(name, segment, SEGMENT_BYTES);
}

struct message {
    const char *id, *from;
    const char *to[3];
    uint32_t age_s;
    const char *body; /* wire form */
    uint32_t flags;
    uint64_t moved_from;
    uint32_t moved_slot;
    struct mark marks[3];
};

static void
record_add(uint64_t number, const struct message *message)
{
    struct path from = { .mailbox = span_text(message->from), .null = message->from[0] == '\0' };
    struct mail_parameters mail = { .envid = SPAN("e1"), .dsn_return = DSN_RETURN_FULL };
    struct record_origin origin = { .trace = SPAN("Received: from c by us; now\r\n"),
                                    .client = SPAN("192.0.2.7"),
                                    .helo = SPAN("client.example") };
    struct record record = { .segment = number,
                             .slot = segment_slot,
                             .arrival_ns = clock_realtime_ns() - message->age_s * NS_PER_S,
                             .size = strlen(message->body),
                             .body_bytes = strlen(message->body),
                             .flags = message->flags,
                             .moved_segment = message->moved_from,
                             .moved_slot = message->moved_slot };
    struct envelope envelope;
    struct outbuf out;
    struct pool blocks;
    uint32_t crc;

    cr_assert(pool_init(&blocks, BLOCK_BYTES, 8));
    cr_assert(envelope_start(&envelope, &blocks, &from, &mail));
    for (; record.recipients < 3 && message->to[record.recipients] != NULL; record.recipients++) {
        struct path to = { .mailbox = span_text(message->to[record.recipients]) };
        struct rcpt_parameters rcpt = { .notify = DSN_NOTIFY_FAILURE };

        cr_assert_not_null(envelope_add(&envelope, &to, &rcpt, RECIPIENT_ACCEPTED));
        segment_marks[segment_slot++] = message->marks[record.recipients];
    }
    memcpy(record.id, message->id, strlen(message->id));
    record.envelope_bytes = (uint32_t)record_envelope_bytes(&envelope, &origin);
    out = (struct outbuf){ .data = segment + segment_at + RECORD_HEADER_BYTES,
                           .size = record.envelope_bytes };
    record_envelope_write(&envelope, &origin, &out);
    record.envelope_crc = crc32c(0, outbuf_span(&out));
    crc = record.envelope_crc;
    if (!(message->flags & RECORD_BODY_FILE)) {
        memcpy(out.data + out.len, message->body, record.body_bytes);
        crc = crc32c(crc, span_text(message->body));
        out.len += record.body_bytes;
    }
    record_header_write(&record, segment + segment_at);
    record_trailer_write(&record, crc, out.data + out.len);
    segment_at += record_bytes(&record);
    envelope_clear(&envelope);
    pool_destroy(&blocks);
}

/* clang-format off */
static const struct message messages[] = {
    { .id = "AA1", .from = "a@sender.example", .age_s = 400,
      .to = { "x@one.example", "y@other.example", "z@one.example" },
      .body = "Subject: 1\r\n\r\n..a\r\n.\r\n",
      .marks = { { .state = MARK_DELIVERED }, { .attempts = 3 },
                 { .attempts = 2, .due_s = UINT32_MAX } } },
    { .id = "AA2", .from = "b@Sender.Example", .age_s = 7200, .to = { "x@one.example" },
      .body = "held\r\n.\r\n", .marks = { { .flags = MARK_HELD } } },
    { .id = "AA3", .from = "", .age_s = 10, .to = { "done@one.example" }, .body = "gone\r\n.\r\n",
      .marks = { { .state = MARK_FAILED } } },
};
static const struct message later[] = {
    { .id = "BB1", .from = "", .to = { "y@other.example" },
      .body = "Subject: chunk\r\n\r\n.as it is\r\n",
      .flags = RECORD_CHUNKED | RECORD_BODY_FILE },
    /* Copied from there: it counts where the original cannot be read. */
    { .id = "AA2", .from = "b@Sender.Example", .age_s = 7200, .to = { "x@one.example" },
      .body = "held\r\n.\r\n", .moved_from = FIRST, .moved_slot = 3 },
};
/* clang-format on */

static struct config *config;

static void
spool_make(void)
{
    struct config_errors errors;
    char text[512];

    cr_assert_not_null(mkdtemp(folder));
    snprintf(text, sizeof(text),
             "spool: { directory: %s }\n"
             "next_hop: { internal: { servers: \"127.0.0.1:1\" }, far: { servers: "
             "\"127.0.0.1:2\" } }\n"
             "route: { \"*\": internal, other.example: far }\n",
             folder);
    config = config_text_parse(text, &errors);
    cr_assert_not_null(config, "%s", errors.items[0].text);
    segment_begin(FIRST);
    for (size_t i = 0; i < COUNT_OF(messages); i++)
        record_add(FIRST, &messages[i]);
    segment_end(FIRST, true);
    segment_begin(FIRST + 1);
    for (size_t i = 0; i < COUNT_OF(later); i++)
        record_add(FIRST + 1, &later[i]);
    segment_end(FIRST + 1, false);
    file_write("BB1.body", later[0].body, strlen(later[0].body));
    file_write("lock", "1\n", 2);
}

static void
spool_remove(void)
{
    char command[64];

    config_free(config);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
}

/* What the command prints; *status is its exit status, `said` what it says on stderr. */
static char *said;

static const char *
run(const char *words, int *status)
{
    static char *text;
    char line[256] = "queue ", *argv[20], *place;
    struct queue_command command;
    size_t text_len, said_len;
    FILE *out, *errors;
    int argc = 0;

    free(text);
    free(said);
    strcat(line, words);
    for (char *word = strtok_r(line, " ", &place); word != NULL; word = strtok_r(NULL, " ", &place))
        argv[argc++] = word;
    argv[argc] = NULL;
    optind = 0;
    cr_assert_eq(queue_arguments(argc, argv, &command), 0, "%s", words);
    out = open_memstream(&text, &text_len);
    errors = open_memstream(&said, &said_len);
    *status = queue_run(&command, config, out, errors);
    fclose(out);
    fclose(errors);
    return text;
}

static void
check(const char *words, int want, const char *const contains[], const char *const lacks[])
{
    int status;
    const char *text = run(words, &status);

    cr_assert_eq(status, want, "%s: %d %s%s", words, status, text, said);
    for (; *contains != NULL; contains++)
        cr_assert(strstr(text, *contains) != NULL, "%s: no '%s' in\n%s%s", words, *contains, text,
                  said);
    for (; *lacks != NULL; lacks++)
        cr_assert(strstr(text, *lacks) == NULL, "%s: '%s' in\n%s", words, *lacks, text);
}

#define TEXTS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

Test(queue_files, lists, .timeout = 60)
{
    spool_make();
    check("list", 0,
          TEXTS("4 messages, ", "AA1             ready ",
                " far          <a@sender.example> to "
                "<y@other.example>\n",
                " internal     <a@sender.example> to <z@one.example>\n", "AA2             held ",
                " <> to <y@other.example>\n"),
          TEXTS("AA3", "x@one.example> and", "<x@one.example>\nAA1"));
    cr_assert_not_null(strstr(said, "not running"), "%s", said);
    check("list --next-hop far", 0, TEXTS("2 messages", "AA1", "BB1"), TEXTS("AA2"));
    check("list --next-hop nobody", 0, TEXTS("No message of the queue is like that"), TEXTS("A1"));
    check("list --state held", 0, TEXTS("AA2", "1 message,"), TEXTS("AA1", "BB1"));
    check("list --state waiting --state held", 0, TEXTS("AA2", "AA1", "2 messages"), TEXTS("BB1"));
    check("list --age 5min", 0, TEXTS("AA1", "AA2", "3 messages"), TEXTS("BB1"));
    check("list --age 1h", 0, TEXTS("AA2", "1 message,"), TEXTS("AA1"));
    check("list --domain ONE.example", 0, TEXTS("AA1", "AA2", "2 messages"), TEXTS("far", "BB1"));
    check("list --domain @other.example", 0, TEXTS("AA1", "BB1", "2 messages"), TEXTS("AA2"));
    check("list --domain example", 0, TEXTS("No message"), TEXTS("AA1"));
    check("list --sender sender.example", 0, TEXTS("AA1", "AA2", "3 messages"), TEXTS("BB1"));
    check("list --sender <a@sender.example>", 0, TEXTS("AA1", "2 messages"), TEXTS("AA2"));
    check("list --sender B@SENDER.EXAMPLE", 0, TEXTS("AA2", "1 message,"), TEXTS("AA1"));
    check("list --sender <>", 0, TEXTS("BB1", "1 message,"), TEXTS("AA1"));
    check("list AA2 BB1 CC1", 0, TEXTS("AA2", "BB1", "2 messages"), TEXTS("AA1"));
    check("list --json AA1", 0,
          TEXTS("{\"id\":\"AA1\",\"state\":\"ready\",\"next_hop\":\"far\",\"size\":22,",
                "\"attempts\":3,\"recipients_left\":1,\"recipients_total\":3,",
                "\"segment\":\"0000000000001234.seg\",", "\"due\":4294967295,",
                "\"sender\":\"a@sender.example\",\"recipients\":[\"z@one.example\"],"),
          TEXTS("x@one.example", "messages"));
    spool_remove();
}

Test(queue_files, summaries, .timeout = 60)
{
    spool_make();
    check("", 0,
          TEXTS("4 messages, ", ": 2 ready, 1 waiting, 1 held; the oldest 2h",
                "         far       2      1      1 ", "    internal       2      0      1 "),
          TEXTS("AA1"));
    check("summary --by-domain", 0,
          TEXTS("  one.example       2      0      1 ", "other.example       2      1      1 "),
          TEXTS("internal"));
    check("--json", 0,
          TEXTS("{\"running\":false,\"complete\":true,\"messages\":4,",
                "\"states\":{\"ready\":2,\"waiting\":1,\"parked\":0,\"active\":0,\"held\":1},"
                "\"by\":\"next_hop\",\"ages_below_minutes\"",
                "\"rows\":[{\"name\":\"far\",\"total\":2,"),
          TEXTS("messages by"));
    check("summary --domain nowhere.example", 0, TEXTS("No message"), TEXTS("TOTAL"));
    spool_remove();
}

Test(queue_files, single_messages, .timeout = 60)
{
    static const char *const actions[] = { "hold AA1", "release --all", "retry --age 1h",
                                           "remove --sender a@b" };
    int status;

    spool_make();
    check("show AA1", 0,
          TEXTS("AA1\n", "  next hop     far: ready; 3 attempts, 1 recipient left\n",
                "  next hop     internal: waiting, next attempt in ", "; 2 attempts",
                "  size         22 octets\n", "  client       192.0.2.7 (client.example)\n",
                "  from         <a@sender.example> RET=FULL ENVID=e1\n",
                "  to           <x@one.example> delivered; NOTIFY=FAILURE\n",
                "<y@other.example> waiting, by far;", "<z@one.example> waiting, by internal;",
                "0000000000001234.seg, offset 16384\n"),
          TEXTS("held"));
    check("show AA2 BB1", 0,
          TEXTS("<x@one.example> waiting, held, by internal", "; its body in BB1.body\n",
                "from         <>"),
          TEXTS("AA1"));
    check("show --json AA1", 0,
          TEXTS("{\"id\":\"AA1\",\"entries\":[{", "\"envid\":\"e1\",\"client\":\"192.0.2.7\"",
                "{\"address\":\"x@one.example\",\"state\":\"delivered\",\"held\":false,",
                "\"received\":\"Received: from c by us; now\\u000d\\u000a\""),
          TEXTS("AA2"));
    check("show CC1", 1, TEXTS(""), TEXTS("CC1"));
    cr_assert_not_null(strstr(said, "CC1: not in the queue"), "%s", said);
    check("show AA3", 1, TEXTS(""), TEXTS("AA3")); /* all is done with it */
    cr_assert_str_eq(run("export AA1", &status), "Subject: 1\r\n\r\n.a\r\n");
    cr_assert_eq(status, 0);
    cr_assert_str_eq(run("export AA1 --received", &status),
                     "Received: from c by us; now\r\nSubject: 1\r\n\r\n.a\r\n");
    cr_assert_str_eq(run("export BB1", &status), later[0].body);
    cr_assert_eq(status, 0);
    cr_assert_str_eq(run("export CC1", &status), "");
    cr_assert_eq(status, 1);
    for (size_t i = 0; i < COUNT_OF(actions); i++) {
        cr_assert_str_eq(run(actions[i], &status), "");
        cr_assert_eq(status, 1, "%s", actions[i]);
        cr_assert_not_null(strstr(said, "systemctl start ringpost"), "%s", said);
    }
    spool_remove();
}

/* What a disk made of it is told, and the rest is shown. */
Test(queue_files, damage, .timeout = 60)
{
    uint64_t records = segment_records_offset(SLOTS);
    int status;

    spool_make();
    /* The first message's body: its envelope is whole, so that it is listed, not exported. */
    segment_begin(FIRST);
    for (size_t i = 0; i < COUNT_OF(messages); i++)
        record_add(FIRST, &messages[i]);
    *(char *)memmem(segment + records, SEGMENT_BYTES - records, "Subject", 7) = 's';
    segment_end(FIRST, true);
    check("list AA1", 0, TEXTS("2 messages"), TEXTS("cannot"));
    cr_assert_str_eq(run("export AA1", &status), "");
    cr_assert_eq(status, 1);
    cr_assert_not_null(strstr(said, "AA1: its body is damaged"), "%s", said);
    /* Its header: what stands behind it is still found. */
    segment[records + 20] ^= 1;
    segment_end(FIRST, true);
    check("list", 0, TEXTS("AA2", "BB1", "2 messages"), TEXTS("AA1"));
    cr_assert_not_null(strstr(said, "1 segment of the spool cannot be read"), "%s", said);
    /* Marks that nobody can read: all wait. */
    memset(segment + segment_marks_offset(SLOTS, 0, 0), 'x', SPOOL_BLOCK_BYTES);
    memset(segment + segment_marks_offset(SLOTS, 1, 0), 'x', SPOOL_BLOCK_BYTES);
    file_write("0000000000001234.seg", segment, SEGMENT_BYTES);
    check("list AA2 AA3", 0, TEXTS("AA2             ready", "AA3             ready"),
          TEXTS("held"));
    /* No segment any more: then the copy counts. A body file that is too short. */
    file_write("0000000000001234.seg", "x", 1);
    file_write("BB1.body", "Subject", 7);
    check("list", 0, TEXTS("BB1", "AA2             ready", "2 messages"), TEXTS("AA1"));
    cr_assert_not_null(strstr(said, "1 segment of the spool cannot be read"), "%s", said);
    run("export BB1", &status);
    cr_assert_eq(status, 1);
    cr_assert_not_null(strstr(said, "damaged"), "%s", said);
    file_write("0000000000001234.seg.damaged", "x", 1);
    cr_assert_eq(
        unlinkat(AT_FDCWD, strcat(strcpy((char[64]){ 0 }, folder), "/0000000000001234.seg"), 0), 0);
    cr_assert_eq(unlinkat(AT_FDCWD, strcat(strcpy((char[64]){ 0 }, folder), "/BB1.body"), 0), 0);
    check("list", 0, TEXTS("BB1", "AA2             ready", "2 messages"), TEXTS("AA1"));
    run("export BB1", &status);
    cr_assert_eq(status, 1);
    cr_assert_not_null(strstr(said, "ended or moved"), "%s", said);
    spool_remove();
}

Test(queue_files, no_spool)
{
    struct config_errors errors;
    int status;

    config = config_text_parse("spool: { directory: /nowhere/spool }\n", &errors);
    cr_assert_not_null(config);
    cr_assert_str_eq(run("list", &status), "");
    cr_assert_eq(status, 1);
    cr_assert_not_null(strstr(said, "nothing was ever stored"), "%s", said);
    config_free(config);
}
