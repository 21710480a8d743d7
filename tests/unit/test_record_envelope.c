/* Envelopes of records: what was accepted comes back whole and in order, refused recipients are
 * left out, and what a disk made of it is noticed. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "core/crc32c.h"
#include "relay/spool/record_private.h"
#include "tests/unit/aborts.h"
#include "tests/unit/guard.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Octets that say which text they are of and where in it. */
static struct span
text_of(char *room, size_t len, unsigned number)
{
    for (size_t i = 0; i < len; i++)
        room[i] = (char)('!' + (number * 31 + i * 7) % 94);
    return span_of(room, len);
}

struct shape {
    const char *name;
    size_t trace, client, helo, reverse_path, envid; /* octets of each */
    size_t mailbox_max, orcpt_max;                   /* of the recipients: 1.. and 0.. */
    uint32_t recipients;                             /* accepted ones */
    bool refused;                                    /* with others between them */
    uint64_t declared_size;
    enum body_type body;
    enum dsn_return dsn_return;
    bool smtputf8, utf8;
};

/* Recipients: the envelopes of these shapes stay below RECORD_ENVELOPE_BYTES_MAX. */
#ifdef LIMITS_TINY
#define MANY 60u
#else
#define MANY 3000u
#endif

static const struct shape shapes[] = {
    { "as small as it gets", 0, 0, 0, 0, 0, 1, 0, 1, false, 0, 0, 0, false, false },
    { "usual", 200, 9, 20, 30, 0, 30, 0, 1, false, 10000, BODY_TYPE_8BITMIME, 0, false, false },
    { "usual, and refused ones", 200, 9, 20, 30, 10, 30, 40, 3, true, 0, BODY_TYPE_7BIT,
      DSN_RETURN_FULL, false, false },
    { "a notice", 0, 0, 0, 0, 0, 40, 0, 1, false, 0, 0, 0, false, false },
    { "UTF-8", 100, 39, 1, 20, 0, 20, 20, 2, true, 0, BODY_TYPE_8BITMIME, DSN_RETURN_HEADERS, true,
      true },
    { "SMTPUTF8 alone", 0, 0, 0, 1, 0, 9, 9, 5, true, 1, 0, 0, true, false },
    { "the longest of everything", TRACE_FIELD_BYTES_MAX, DOMAIN_BYTES_MAX, DOMAIN_BYTES_MAX,
      MAILBOX_BYTES_MAX, 3 * ENVID_BYTES_MAX, MAILBOX_BYTES_MAX, ORCPT_BYTES_MAX, MANY / 6, true,
      UINT64_MAX, BODY_TYPE_8BITMIME, DSN_RETURN_HEADERS, true, true },
    { "many recipients", 250, 15, 30, 30, 0, 100, 20, MANY, false, 0, 0, 0, false, false },
    { "many recipients, and refused ones", 250, 15, 30, 30, 0, 64, 40, MANY, true, 5000,
      BODY_TYPE_8BITMIME, 0, false, false },
};

/* Lengths and bits of the n-th accepted recipient of a shape. */
static size_t
mailbox_len(const struct shape *shape, uint32_t n)
{
    return 1 + (n * 37 + shape->mailbox_max - 1) % shape->mailbox_max;
}

static size_t
orcpt_len(const struct shape *shape, uint32_t n)
{
    return n % 4 == 1 ? 0 : (n * 91 + shape->orcpt_max) % (shape->orcpt_max + 1);
}

struct texts {
    char trace[TRACE_FIELD_BYTES_MAX], client[DOMAIN_BYTES_MAX], helo[DOMAIN_BYTES_MAX];
    char reverse_path[MAILBOX_BYTES_MAX], envid[3 * ENVID_BYTES_MAX];
    char mailbox[MAILBOX_BYTES_MAX], orcpt[ORCPT_BYTES_MAX];
};

static void
recipient_add(struct envelope *envelope, struct span mailbox, struct span orcpt, uint32_t n,
              enum recipient_state state)
{
    struct path path = { .mailbox = mailbox };
    struct rcpt_parameters parameters = { .notify = (uint8_t)(n % 16), .orcpt = orcpt };

    cr_assert_not_null(envelope_add(envelope, &path, &parameters, state), "recipient %u", n);
}

static struct record_origin
origin_of(const struct shape *shape, struct texts *texts)
{
    return (struct record_origin){ .trace = text_of(texts->trace, shape->trace, 1),
                                   .client = text_of(texts->client, shape->client, 2),
                                   .helo = text_of(texts->helo, shape->helo, 3) };
}

/* Some refused recipients go before each accepted one, and one behind the last. */
static void
envelope_of(const struct shape *shape, struct pool *blocks, struct texts *texts,
            struct envelope *envelope)
{
    struct path path = { .mailbox = text_of(texts->reverse_path, shape->reverse_path, 4),
                         .utf8 = shape->utf8 };
    struct mail_parameters parameters = { .size = shape->declared_size,
                                          .body = shape->body,
                                          .dsn_return = shape->dsn_return,
                                          .smtputf8 = shape->smtputf8,
                                          .envid = text_of(texts->envid, shape->envid, 5) };

    cr_assert(envelope_start(envelope, blocks, &path, &parameters), "%s", shape->name);
    for (uint32_t n = 0; n <= shape->recipients; n++) {
        if (shape->refused && n % 3 != 1)
            recipient_add(envelope, SPAN("refused"), SPAN(""), n, RECIPIENT_REFUSED);
        if (shape->refused && n % 3 == 2)
            recipient_add(envelope, SPAN("asked"), SPAN("orcpt"), n, RECIPIENT_ASKED);
        if (n < shape->recipients)
            recipient_add(envelope, text_of(texts->mailbox, mailbox_len(shape, n), 6 + n),
                          text_of(texts->orcpt, orcpt_len(shape, n), 7 + n), n, RECIPIENT_ACCEPTED);
    }
}

/* Writes the envelope of a shape into exactly the room that was asked for. */
static struct span
shape_write(const struct shape *shape, struct pool *blocks, struct guard *guard,
            struct record *record)
{
    static struct texts texts;
    struct record_origin origin = origin_of(shape, &texts);
    struct envelope envelope;
    struct outbuf out = { 0 };
    struct span written;

    envelope_of(shape, blocks, &texts, &envelope);
    out.size = record_envelope_bytes(&envelope, &origin);
    cr_assert_leq(out.size, RECORD_ENVELOPE_BYTES_MAX, "%s: %zu", shape->name, out.size);
    out.data = malloc(out.size);
    cr_assert_not_null(out.data);
    record_envelope_write(&envelope, &origin, &out);
    cr_assert_eq(out.len, out.size, "%s: %zu of %zu", shape->name, out.len, out.size);
    written = guard_end(guard, out.data, out.len);
    free(out.data);
    envelope_clear(&envelope);
    *record = (struct record){ .segment = 1,
                               .id = "A",
                               .recipients = shape->recipients,
                               .envelope_bytes = (uint32_t)written.len,
                               .envelope_crc = crc32c(0, written) };
    return written;
}

static void
front_check(const struct shape *shape, const struct record_envelope *read)
{
    struct texts texts;
    struct record_origin origin = origin_of(shape, &texts);

    cr_assert(span_equal(read->origin.trace, origin.trace), "%s", shape->name);
    cr_assert(span_equal(read->origin.client, origin.client), "%s", shape->name);
    cr_assert(span_equal(read->origin.helo, origin.helo), "%s", shape->name);
    cr_assert(span_equal(read->reverse_path, text_of(texts.reverse_path, shape->reverse_path, 4)),
              "%s", shape->name);
    cr_assert(span_equal(read->envid, text_of(texts.envid, shape->envid, 5)), "%s", shape->name);
    cr_assert_eq(read->declared_size, shape->declared_size, "%s", shape->name);
    cr_assert_eq(read->body, shape->body, "%s", shape->name);
    cr_assert_eq(read->dsn_return, shape->dsn_return, "%s", shape->name);
    cr_assert_eq(read->smtputf8, shape->smtputf8, "%s", shape->name);
    cr_assert_eq(read->utf8, shape->utf8, "%s", shape->name);
    cr_assert_eq(read->recipients, shape->recipients, "%s", shape->name);
}

Test(record, envelopes_come_back)
{
    struct pool blocks;

    cr_assert(pool_init(&blocks, BLOCK_BYTES, 300));
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *shape = &shapes[i];
        struct record_recipient recipient;
        struct record_envelope read;
        struct guard guard = { 0 };
        struct record record;
        struct texts texts;
        struct span in = shape_write(shape, &blocks, &guard, &record);

        cr_assert(record_envelope_read(&record, in, &read), "%s", shape->name);
        front_check(shape, &read);
        for (uint32_t n = 0; n < shape->recipients; n++) {
            cr_assert(record_recipient_next(&read, &recipient), "%s: %u", shape->name, n);
            cr_assert(
                span_equal(recipient.mailbox, text_of(texts.mailbox, mailbox_len(shape, n), 6 + n)),
                "%s: %u", shape->name, n);
            cr_assert(span_equal(recipient.orcpt, text_of(texts.orcpt, orcpt_len(shape, n), 7 + n)),
                      "%s: %u", shape->name, n);
            cr_assert_eq(recipient.notify, n % 16, "%s: %u", shape->name, n);
        }
        cr_assert_not(record_recipient_next(&read, &recipient), "%s: one more", shape->name);
        cr_assert_eq(read.rest.len, 0, "%s", shape->name);
        cr_assert_eq(blocks.used, 0);
        guard_close(&guard);
    }
    pool_destroy(&blocks);
}

/* The caller counts while RCPT comes in, before there is a record. */
Test(record, bytes_of_one_more_recipient)
{
    static const size_t lengths[][2] = {
        { 1, 0 }, { 13, 0 }, { 13, 29 }, { MAILBOX_BYTES_MAX, ORCPT_BYTES_MAX }
    };
    static struct texts texts;
    struct record_origin origin = { .trace = SPAN("Received: x\r\n") };
    struct shape shape = shapes[1];
    struct envelope envelope;
    struct pool blocks;

    cr_assert(pool_init(&blocks, BLOCK_BYTES, 4));
    envelope_of(&shape, &blocks, &texts, &envelope);
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        size_t before = record_envelope_bytes(&envelope, &origin);
        struct span mailbox = text_of(texts.mailbox, lengths[i][0], 1);
        struct span orcpt = text_of(texts.orcpt, lengths[i][1], 2);

        recipient_add(&envelope, mailbox, orcpt, 0, RECIPIENT_REFUSED);
        recipient_add(&envelope, mailbox, orcpt, 0, RECIPIENT_ASKED);
        cr_assert_eq(record_envelope_bytes(&envelope, &origin), before, "row %zu", i);
        recipient_add(&envelope, mailbox, orcpt, 0, RECIPIENT_ACCEPTED);
        cr_assert_eq(record_envelope_bytes(&envelope, &origin) - before,
                     record_recipient_bytes(mailbox.len, orcpt.len), "row %zu", i);
    }
    envelope_clear(&envelope);
    pool_destroy(&blocks);
}

Test(record, envelopes_notice_every_bit_and_every_cut)
{
    struct guard whole = { 0 }, cut = { 0 };
    struct record_envelope read = { .declared_size = 99 };
    struct record record;
    struct pool blocks;
    char octets[1024];
    struct span in;

    cr_assert(pool_init(&blocks, BLOCK_BYTES, 4));
    in = shape_write(&shapes[2], &blocks, &whole, &record);
    cr_assert_lt(in.len, sizeof(octets));
    memcpy(octets, in.data, in.len);
    for (size_t bit = 0; bit < 8 * in.len; bit++) {
        octets[bit / 8] ^= (char)(1 << bit % 8);
        cr_assert_not(record_envelope_read(&record, span_of(octets, in.len), &read), "bit %zu",
                      bit);
        octets[bit / 8] ^= (char)(1 << bit % 8);
    }
    /* Cut with a header that knows of it, and with one that does not. */
    for (size_t len = 0; len < in.len; len++) {
        struct span shorter = guard_end(&cut, in.data, len);
        struct record shorter_record = record;

        cr_assert_not(record_envelope_read(&record, shorter, &read), "%zu octets", len);
        shorter_record.envelope_bytes = (uint32_t)len;
        shorter_record.envelope_crc = crc32c(0, shorter);
        cr_assert_not(record_envelope_read(&shorter_record, shorter, &read), "%zu octets told",
                      len);
    }
    octets[in.len] = 0;
    cr_assert_not(record_envelope_read(&record, span_of(octets, in.len + 1), &read), "one more");
    cr_assert_eq(read.declared_size, 99, "out was written");
    cr_assert(record_envelope_read(&record, span_of(octets, in.len), &read));
    guard_close(&whole);
    guard_close(&cut);
    pool_destroy(&blocks);
}

/* A number that should not stand there, under a crc that holds. */
struct patch {
    const char *name;
    size_t offset, bytes;
    uint64_t value;
    bool want;
};

/* The envelope of the rows below: front 28, trace 1, client 2, helo 3, reverse-path 4, envid 5,
 * then "m1" with "o1" at 43, "m2" without at 52. */
static size_t
small_envelope(char *out)
{
    static const char octets[] = "\x10\0\0\0\0\0\0\0\2\0\0\0\1\0\2\0\3\0\4\0\5\0\1\2\3\0\0\0"
                                 "tcchhhrrrreeeee\2\0\2\0\x0Fm1o1\2\0\0\0\0m2";

    memcpy(out, octets, sizeof(octets) - 1);
    return sizeof(octets) - 1;
}

Test(record, envelopes_with_a_good_crc_are_still_judged)
{
    static const struct patch rows[] = {
        { "as it was", 0, 8, 16, true },
        { "any declared size", 0, 8, UINT64_MAX, true },
        { "more recipients than the record has", 8, 4, 3, false },
        { "fewer", 8, 4, 1, false },
        { "a trace that takes the rest", 12, 2, 1 + 9 + 7 + 14, false },
        { "a trace longer than all", 12, 2, 1000, false },
        { "a trace longer than any", 12, 2, UINT16_MAX, false },
        { "a client that overlaps a recipient", 14, 2, 3, false },
        { "an ENVID longer than all", 20, 2, 300, false },
        { "no ENVID: its octets are no recipient", 20, 2, 0, false },
        { "the last body type", 22, 1, BODY_TYPE_8BITMIME, true },
        { "no such body type", 22, 1, BODY_TYPE_8BITMIME + 1, false },
        { "a negative body type", 22, 1, 0xFF, false },
        { "no such RET", 23, 1, DSN_RETURN_HEADERS + 1, false },
        { "a negative RET", 23, 1, 0x80, false },
        { "no bits", 24, 1, 0, true },
        { "no such bit", 24, 1, 4, false },
        { "the highest bit", 24, 1, 0x80, false },
        { "something in the first unused octet", 25, 1, 1, false },
        { "something in the last", 27, 1, 1, false },
        { "an empty mailbox", 43, 2, 0, false },
        { "a mailbox that takes the ORCPT too", 43, 2, 4, false },
        { "one that does, with no ORCPT said", 43, 4, 4, true },
        { "a mailbox longer than any", 43, 2, MAILBOX_BYTES_MAX + 1, false },
        { "an ORCPT longer than any", 45, 2, ORCPT_BYTES_MAX + 1, false },
        { "an ORCPT longer than all", 45, 2, ORCPT_BYTES_MAX, false },
        { "an ORCPT that takes the next recipient", 45, 2, 9, false },
        { "no such NOTIFY bit", 47, 1, 16, false },
        { "the highest NOTIFY bit", 47, 1, 0x80, false },
        { "the second: all NOTIFY bits", 56, 1, 15, true },
        { "the second: a mailbox too long by one", 52, 2, 3, false },
        { "the second: a mailbox too short by one", 52, 2, 1, false },
        { "the second: an ORCPT that is not there", 54, 2, 1, false },
    };
    struct guard guard = { 0 };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct record_envelope read;
        char octets[100], value[8];
        size_t len = small_envelope(octets);
        struct record record = { .recipients = 2, .envelope_bytes = (uint32_t)len };

        number64_write(value, rows[i].value);
        memcpy(octets + rows[i].offset, value, rows[i].bytes);
        record.envelope_crc = crc32c(0, span_of(octets, len));
        cr_assert_eq(record_envelope_read(&record, guard_end(&guard, octets, len), &read),
                     rows[i].want, "%s", rows[i].name);
    }
    guard_close(&guard);
}

/* Lengths that are there, but that no reader has room for. */
Test(record, envelopes_with_texts_too_long_are_refused)
{
    static const struct {
        const char *name;
        size_t offset, most;
    } rows[] = {
        { "trace", 12, TRACE_FIELD_BYTES_MAX }, { "client", 14, DOMAIN_BYTES_MAX },
        { "helo", 16, DOMAIN_BYTES_MAX },       { "reverse-path", 18, MAILBOX_BYTES_MAX },
        { "envid", 20, 3 * ENVID_BYTES_MAX },   { "mailbox", 28, MAILBOX_BYTES_MAX },
        { "orcpt", 30, ORCPT_BYTES_MAX },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (size_t more = 0; more < 2; more++) {
            bool of_recipient = rows[i].offset >= ENVELOPE_FRONT_BYTES;
            char octets[4096] = { 0 };
            size_t len = ENVELOPE_FRONT_BYTES + ENVELOPE_RECIPIENT_BYTES + 1 + rows[i].most + more;
            size_t recipient =
                of_recipient ? ENVELOPE_FRONT_BYTES : ENVELOPE_FRONT_BYTES + rows[i].most + more;
            struct record record = { .recipients = 1 };
            struct record_envelope read;

            number32_write(octets + 8, 1);
            number16_write(octets + recipient, 1);
            number16_write(octets + rows[i].offset, (uint16_t)(rows[i].most + more));
            len -= rows[i].offset == 28; /* its one octet was counted */
            record.envelope_bytes = (uint32_t)len;
            record.envelope_crc = crc32c(0, span_of(octets, len));
            cr_assert_eq(record_envelope_read(&record, span_of(octets, len), &read), more == 0,
                         "%s, %zu more", rows[i].name, more);
        }
}

/* The octets were read again after the crc was looked at, and are other ones now. */
Test(record, a_recipient_that_went_bad_ends_the_walk)
{
    struct record_recipient recipient;
    struct record_envelope read;
    char octets[100];
    size_t len = small_envelope(octets);
    struct record record = { .recipients = 2,
                             .envelope_bytes = (uint32_t)len,
                             .envelope_crc = crc32c(0, span_of(octets, len)) };

    cr_assert(record_envelope_read(&record, span_of(octets, len), &read));
    octets[53] = 1; /* the second mailbox: 258 octets */
    cr_assert(record_recipient_next(&read, &recipient));
    cr_assert(span_equal(recipient.mailbox, SPAN("m1")) && span_equal(recipient.orcpt, SPAN("o1")));
    for (int again = 0; again < 2; again++) {
        cr_assert_not(record_recipient_next(&read, &recipient));
        cr_assert_eq(read.rest.len, 7, "what is left shows the damage");
    }
    octets[53] = 0;
    cr_assert(record_recipient_next(&read, &recipient));
    cr_assert(span_equal(recipient.mailbox, SPAN("m2")) && recipient.orcpt.len == 0);
}

/* --- our own bugs --- */

static void
write_envelope(size_t mailbox, uint8_t notify, size_t room)
{
    static char octets[1000];
    struct path path = { .mailbox = span_of(octets, mailbox) };
    struct rcpt_parameters rcpt = { .notify = notify };
    struct mail_parameters mail = { 0 };
    struct outbuf out = { .data = octets, .size = room };
    struct record_origin origin = { 0 };
    struct envelope envelope;
    struct pool blocks;

    if (!pool_init(&blocks, BLOCK_BYTES, 1) || !envelope_start(&envelope, &blocks, &path, &mail) ||
        envelope_add(&envelope, &path, &rcpt, RECIPIENT_ACCEPTED) == NULL)
        return;
    record_envelope_write(&envelope, &origin, &out);
}

static void
envelope_with_an_empty_recipient(void)
{
    write_envelope(0, 0, 1000);
}

static void
envelope_with_too_long_a_path(void)
{
    write_envelope(MAILBOX_BYTES_MAX + 1, 0, 1000);
}

static void
envelope_with_unknown_notify(void)
{
    write_envelope(5, 16, 1000);
}

static void
envelope_without_room(void)
{
    write_envelope(5, 0, 28 + 5 + 5 + 5 - 1);
}

Test(record, envelopes_that_make_no_sense_are_not_written)
{
    static const struct abort_row rows[] = {
        { "an empty recipient", envelope_with_an_empty_recipient },
        { "a path too long", envelope_with_too_long_a_path },
        { "an unknown NOTIFY bit", envelope_with_unknown_notify },
        { "no room", envelope_without_room },
    };

    write_envelope(5, 15, 28 + 5 + 5 + 5); /* the helper itself does not abort */
    aborts_check(rows, COUNT_OF(rows));
}
