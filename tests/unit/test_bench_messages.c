/* Messages of ringpost-bench from one end to the other without a network: what load would send,
 * with trace fields in front, cut at every place, is what the sink knows again. Ledgers. The audit.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "bench/tool/intake.h"
#include "bench/tool/ledger.h"
#include "bench/tool/verify.h"
#include "core/crc32c.h"
#include "tests/unit/guard.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define BODY_MAX 20000
#define BUFFERS 64

static const struct message_id an_id = { .run = 0xdeadbeef, .thread = 7, .number = 0x123456789abc };

struct store {
    struct pattern pattern;
    struct body_store bodies;
    struct buffers buffers;
    char *memory;
    struct buffer_meta meta[BUFFERS];
};

static void
store_open(struct store *store, bool chunked)
{
    store->memory = malloc((size_t)BUFFERS * BUFFER_BYTES);
    cr_assert_not_null(store->memory);
    buffers_init(&store->buffers, store->memory, store->meta, BUFFERS);
    cr_assert(pattern_create(&store->pattern, BODY_MAX));
    cr_assert_leq(body_store_buffers(&store->pattern), BUFFERS);
    cr_assert(body_store_fill(&store->bodies, &store->pattern, chunked, &store->buffers));
}

static void
store_close(struct store *store)
{
    body_store_free(&store->bodies, &store->buffers);
    pattern_free(&store->pattern);
    free(store->memory);
}

/* What goes over the wire: head, then the end of the chain. Returns the octets. */
static size_t
wire_make(struct store *store, uint64_t bytes, char *out, size_t size)
{
    struct outbuf wire = { .data = out, .size = size };
    uint32_t index, offset;
    uint64_t len;

    message_head_write(an_id, SPAN("Sun, 22 Nov 2026 00:00:00 +0000"), &wire);
    len = body_store_find(&store->bodies, bytes, &index, &offset);
    while (len > 0) {
        struct span piece = span_after(buffer_span(&store->buffers, index), offset);

        if (piece.len > len)
            piece.len = len;
        outbuf_add(&wire, piece);
        len -= piece.len;
        index = store->meta[index].next;
        offset = 0;
    }
    return wire.len;
}

/* As load works it out. */
static uint32_t
digest_make(const struct store *store, uint64_t bytes)
{
    char text[MESSAGE_HEAD_BYTES_MAX];
    struct outbuf head = { .data = text, .size = sizeof(text) };

    message_head_write(an_id, SPAN("Sun, 22 Nov 2026 00:00:00 +0000"), &head);
    return pattern_digest(&store->pattern,
                          crc32c(0, span_after(outbuf_span(&head), MESSAGE_DIGEST_FROM)), bytes);
}

static bool
same_id(struct message_id a, struct message_id b)
{
    return a.run == b.run && a.thread == b.thread && a.number == b.number;
}

Test(bench_message, identity_comes_back)
{
    char text[MESSAGE_ID_BYTES];
    struct outbuf out = { .data = text, .size = sizeof(text) };
    struct message_id id;

    message_id_write(an_id, &out);
    cr_assert(span_equal(outbuf_span(&out), SPAN("deadbeef0007123456789abc")));
    cr_assert(message_id_parse(outbuf_span(&out), &id));
    cr_assert(same_id(id, an_id));
    cr_assert_not(message_id_parse(SPAN("deadbeef0007123456789ab"), &id));
    cr_assert_not(message_id_parse(SPAN("deadbeef0007123456789abcd"), &id));
    cr_assert_not(message_id_parse(SPAN("deadbeef0007123456789abg"), &id));
}

/* Every size, also those that begin at a dot, within a line end, in another buffer. */
Test(bench_message, every_size_is_known_again)
{
    static struct store store;
    static char wire[2 * BODY_MAX];
    static struct guard guard;

    for (unsigned chunked = 0; chunked < 2; chunked++) {
        store_open(&store, chunked);
        for (uint64_t wanted = 2; wanted < BODY_MAX; wanted += wanted < 3000 ? 1 : 37) {
            uint64_t bytes = pattern_fit(&store.pattern, wanted);
            size_t len = wire_make(&store, bytes, wire, sizeof(wire));
            struct span in = guard_end(&guard, wire, len);
            struct intake intake;
            bool end;

            cr_assert(bytes == wanted || bytes == wanted + 1);
            intake_start(&intake, !chunked, true);
            end = intake_add(&intake, &in);
            cr_assert_eq(end, !chunked, "%lu", bytes);
            cr_assert_eq(in.len, 0);
            cr_assert(intake.identified && same_id(intake.id, an_id));
            cr_assert_eq(intake.digest, digest_make(&store, bytes), "%lu", bytes);
            if (chunked)
                cr_assert_eq(intake.size, len);
        }
        store_close(&store);
    }
}

/* A relay puts fields in front; the octets come in two parts, or one by one. */
Test(bench_message, any_split_and_any_trace_field)
{
    static const char trace[] =
        "Received: from a by b\r\n\twith ESMTP; now\r\nX-Long: "
        "0123456789012345678901234567890123456789012345678901234567890123\r\n"
        "x-ringpost: .\r\n..\r\n";
    static struct store store;
    static char wire[2 * BODY_MAX];
    size_t front = sizeof(trace) - 1, len;
    struct intake intake;

    store_open(&store, false);
    memcpy(wire, trace, front);
    len = front + wire_make(&store, 2600, wire + front, sizeof(wire) - front);
    memcpy(wire + len, "MAIL", 4);
    for (size_t cut = 0; cut <= len; cut++) {
        struct span first = span_of(wire, cut), rest = span_of(wire + cut, len + 4 - cut);
        bool end;

        intake_start(&intake, true, true);
        end = intake_add(&intake, &first);
        cr_assert_eq(end, cut == len, "%zu", cut);
        if (!end)
            cr_assert(intake_add(&intake, &rest), "%zu", cut);
        cr_assert_eq(rest.len, 4);
        cr_assert(intake.identified, "%zu", cut);
        cr_assert_eq(intake.digest, digest_make(&store, 2600), "%zu", cut);
    }
    intake_start(&intake, true, true);
    for (size_t i = 0; i < len; i++) {
        struct span one = span_of(wire + i, 1);

        cr_assert_eq(intake_add(&intake, &one), i + 1 == len, "%zu", i);
    }
    cr_assert_eq(intake.digest, digest_make(&store, 2600));
    store_close(&store);
}

Test(bench_message, one_octet_else_is_another_digest)
{
    static struct store store;
    static char wire[2 * BODY_MAX];
    size_t len;

    store_open(&store, true);
    len = wire_make(&store, 500, wire, sizeof(wire));
    for (size_t i = MESSAGE_DIGEST_FROM; i < len; i++) {
        struct intake intake;
        struct span in = span_of(wire, len);

        wire[i] ^= 1;
        intake_start(&intake, false, true);
        cr_assert_not(intake_add(&intake, &in));
        cr_assert_neq(intake.digest, digest_make(&store, 500), "%zu", i);
        wire[i] ^= 1;
    }
    store_close(&store);
}

/* Where the end is, and where it only looks like it. */
Test(bench_message, ends_of_data)
{
    static const struct {
        const char *in;
        size_t used; /* 0: no end */
        uint64_t size;
    } rows[] = {
        { ".\r\n", 3, 0 },
        { ".\r\n.\r\n", 3, 0 },
        { "a\r\n.\r\n", 6, 3 },
        { "a\r\n..\r\n.\r\nX", 10, 6 },
        { "a\r\n...\r\n.\r\n", 11, 7 },
        { "a\n.\r\n", 0, 5 }, /* a bare LF begins no line (RFC 5321 2.3.8) */
        { "a\r\n.\n", 0, 4 }, /* nor ends one */
        { "a\r\n.\r\r\n", 0, 6 },
        { "a\r.\r\n", 0, 5 },
        { "\n.\r\n", 0, 4 },
        { "a\r\n.b\r\n.\r\n", 10, 6 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t cut = 0; cut <= strlen(rows[i].in); cut++) {
            struct span in = span_of(rows[i].in, cut);
            struct intake intake;
            size_t used;
            bool end;

            intake_start(&intake, true, true);
            end = intake_add(&intake, &in);
            used = cut - in.len;
            if (!end) {
                in = span_after(span_text(rows[i].in), cut);
                end = intake_add(&intake, &in);
                used = strlen(rows[i].in) - in.len;
            }
            cr_assert_eq(end, rows[i].used > 0, "row %zu cut %zu", i, cut);
            cr_assert_eq(intake.size, rows[i].size, "row %zu cut %zu", i, cut);
            if (end)
                cr_assert_eq(used, rows[i].used, "row %zu cut %zu", i, cut);
        }
}

Test(bench_message, digests_by_arithmetic)
{
    static struct store store;
    static const uint64_t sizes[] = { 2, 3, 75, 76, 78, 1000, 4096, 19999 };
    struct digest_shift shift;

    store_open(&store, true);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        digest_shift_make(&shift, &store.pattern, sizes[i]);
        for (uint32_t before = 1; before != 0; before <<= 3)
            cr_assert_eq(digest_shift_use(&shift, before),
                         pattern_digest(&store.pattern, before, sizes[i]));
    }
    store_close(&store);
}

/* --- ledgers --- */

Test(ledger, lines_come_back)
{
    static const struct ledger_record rows[] = {
        { .id = { 1, 2, 3 },
          .code = 250,
          .recipients = 1,
          .size = 4096,
          .digest = 0xa0b1c2d3,
          .time_us = 1764000000000000,
          .queue_id = { "4Yx-9", 5 } },
        { .foreign = true, .code = 451, .queue_id = { NULL, 0 } },
        { .id = { UINT32_MAX, UINT16_MAX, (UINT64_C(1) << 48) - 1 },
          .recipients = UINT32_MAX,
          .size = INT64_MAX,
          .digest = UINT32_MAX,
          .time_us = INT64_MAX },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[LEDGER_LINE_BYTES_MAX];
        struct outbuf out = { .data = text, .size = sizeof(text) };
        struct ledger_record back;

        ledger_write(&rows[i], &out);
        cr_assert_eq(text[out.len - 1], '\n');
        cr_assert(ledger_parse(span_of(text, out.len - 1), &back), "%zu", i);
        cr_assert(same_id(back.id, rows[i].id));
        cr_assert_eq(back.foreign, rows[i].foreign);
        cr_assert_eq(back.code, rows[i].code);
        cr_assert_eq(back.recipients, rows[i].recipients);
        cr_assert_eq(back.size, rows[i].size);
        cr_assert_eq(back.digest, rows[i].digest);
        cr_assert_eq(back.time_us, rows[i].time_us);
        cr_assert(span_equal(back.queue_id, rows[i].queue_id));
        /* Cut anywhere, it is no line, or one with a shorter queue id. */
        for (size_t len = 0; len + 1 < out.len; len++)
            if (ledger_parse(span_of(text, len), &back))
                cr_assert_lt(back.queue_id.len, rows[i].queue_id.len);
    }
}

Test(ledger, queue_ids_of_servers_cannot_make_lines)
{
    char text[LEDGER_LINE_BYTES_MAX], id[200];
    struct outbuf out = { .data = text, .size = sizeof(text) };
    struct ledger_record record = { .queue_id = { id, sizeof(id) } }, back;

    for (size_t i = 0; i < sizeof(id); i++)
        id[i] = (char)i;
    ledger_write(&record, &out);
    cr_assert(ledger_parse(span_of(text, out.len - 1), &back));
    cr_assert_null(memchr(text, '\n', out.len - 1));
    cr_assert_eq(back.queue_id.len, 80);
}

Test(ledger, what_is_no_line)
{
    static const char *const rows[] = {
        "",
        "# ringpost-bench ledger 1",
        "00000001000200000000000 250 1 1 00000000 1 -",
        "000000010002000000000003 650 1 1 00000000 1 -",
        "000000010002000000000003 250 x 1 00000000 1 -",
        "000000010002000000000003 250 1 -1 00000000 1 -",
        "000000010002000000000003 250 1 1 0000000g 1 -",
        "000000010002000000000003 250 1 1 0000000 1 -",
        "000000010002000000000003 250 1 1 00000000 1",
        "000000010002000000000003 250 1 1 00000000 1 - -",
        "000000010002000000000003  250 1 1 00000000 1 -",
    };
    struct ledger_record record;

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_assert_not(ledger_parse(span_text(rows[i]), &record), "%s", rows[i]);
}

/* --- the audit, with enough messages that its table grows --- */

Test(verify, many_messages)
{
    struct verify verify;
    struct verify_result result = { 0 };
    const uint32_t count = 100000;

    cr_assert(verify_init(&verify));
    for (uint32_t i = 0; i < count; i++) {
        struct ledger_record record = { .id = { i % 3, (uint16_t)(i % 5), i },
                                        .code = i % 10 == 9 ? 0 : 250,
                                        .recipients = 2,
                                        .digest = i };

        cr_assert(verify_sent(&verify, &record, &result));
    }
    /* Every tenth is not answered; of these half come. One in 1000 is lost, one in 1001 comes
     * twice, one in 1003 is damaged. */
    for (uint32_t i = count; i-- > 0;) {
        struct ledger_record record = { .id = { i % 3, (uint16_t)(i % 5), i },
                                        .code = 250,
                                        .recipients = 2,
                                        .digest = i + (i % 1003 == 1) };

        if (i % 1000 == 0 || i % 20 == 19)
            continue;
        verify_received(&verify, &record, &result, NULL);
        if (i % 1001 == 2)
            verify_received(&verify, &record, &result, NULL);
    }
    verify_finish(&verify, &result, NULL);
    cr_assert_eq(result.sent, count);
    cr_assert_eq(result.ambiguous, count / 10);
    cr_assert_eq(result.ambiguous_delivered, count / 20);
    cr_assert_eq(result.lost, count / 1000);
    cr_assert_eq(result.unexpected, 0);
    cr_assert_gt(result.duplicated, 80);
    cr_assert_gt(result.damaged, 80);
    cr_assert_not(verify_is_good(&result));
    verify_free(&verify);
}
