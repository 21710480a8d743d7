/* The envelope: what MAIL and RCPT said is kept whole, in order, in as many blocks as it needs. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/envelope.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static struct pool
blocks_of(uint32_t count)
{
    struct pool pool;

    cr_assert(pool_init(&pool, BLOCK_BYTES, count));
    return pool;
}

static struct path
path_of(const char *mailbox)
{
    return (struct path){ .mailbox = span_text(mailbox) };
}

Test(envelope, keeps_what_mail_said)
{
    static const struct {
        const char *name, *mailbox, *envid;
        uint64_t size;
        enum body_type body;
        enum dsn_return dsn_return;
        bool smtputf8, utf8;
    } rows[] = {
        { "null reverse-path", "", "", 0, BODY_TYPE_NONE, DSN_RETURN_NONE, false, false },
        { "plain", "a@example.com", "", 1000, BODY_TYPE_7BIT, DSN_RETURN_NONE, false, false },
        { "everything", "b@example.com", "QQ314159", UINT64_MAX, BODY_TYPE_8BITMIME,
          DSN_RETURN_HEADERS, true, true },
        { "ENVID with a null reverse-path", "", "id", 1, BODY_TYPE_NONE, DSN_RETURN_FULL, false,
          false },
    };
    struct pool blocks = blocks_of(2);

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char mailbox[32], envid[32];
        struct path path;
        struct mail_parameters parameters = { .size = rows[i].size,
                                              .body = rows[i].body,
                                              .dsn_return = rows[i].dsn_return,
                                              .smtputf8 = rows[i].smtputf8 };
        struct envelope_cursor cursor;
        struct envelope envelope;

        snprintf(mailbox, sizeof(mailbox), "%s", rows[i].mailbox);
        snprintf(envid, sizeof(envid), "%s", rows[i].envid);
        path = path_of(mailbox);
        path.utf8 = rows[i].utf8;
        parameters.envid = span_text(envid);
        cr_assert(envelope_start(&envelope, &blocks, &path, &parameters), "%s", rows[i].name);
        /* Copies: the command line goes away. */
        memset(mailbox, 'x', sizeof(mailbox));
        memset(envid, 'x', sizeof(envid));
        cr_assert(span_equal(envelope.reverse_path, span_text(rows[i].mailbox)), "%s",
                  rows[i].name);
        cr_assert(span_equal(envelope.envid, span_text(rows[i].envid)), "%s", rows[i].name);
        cr_assert_eq(envelope.declared_size, rows[i].size, "%s", rows[i].name);
        cr_assert_eq(envelope.body, rows[i].body, "%s", rows[i].name);
        cr_assert_eq(envelope.dsn_return, rows[i].dsn_return, "%s", rows[i].name);
        cr_assert_eq(envelope.smtputf8, rows[i].smtputf8, "%s", rows[i].name);
        cr_assert_eq(envelope.utf8, rows[i].utf8, "%s", rows[i].name);
        cursor = envelope_begin(&envelope);
        cr_assert_null(envelope_next(&cursor), "%s: a recipient out of nowhere", rows[i].name);
        cr_assert_null(envelope_next(&cursor), "%s: again", rows[i].name);
        cr_assert_eq(blocks.used, 1);
        envelope_clear(&envelope);
        cr_assert_eq(blocks.used, 0, "%s: a block is lost", rows[i].name);
    }
    pool_destroy(&blocks);
}

/* --- recipients of every length, over many blocks --- */

/* "nnn....@example.com" of exactly `len` octets, and the ORCPT text that goes with it. */
static struct span
text_of(char *room, size_t len, unsigned number, char fill)
{
    memset(room, fill, len);
    if (len >= 6) {
        char digits[7];

        snprintf(digits, sizeof(digits), "%06u", number % 1000000);
        memcpy(room, digits, 6);
    }
    return span_of(room, len);
}

static size_t
mailbox_len(unsigned number)
{
    return 1 + number * 37 % MAILBOX_BYTES_MAX;
}

static size_t
orcpt_len(unsigned number)
{
    return number % 3 == 0 ? 0 : number * 91 % (ORCPT_BYTES_MAX + 1);
}

static struct recipient *
add_numbered(struct envelope *envelope, unsigned number)
{
    char mailbox[MAILBOX_BYTES_MAX], orcpt[ORCPT_BYTES_MAX];
    struct path path = { .mailbox = text_of(mailbox, mailbox_len(number), number, 'm') };
    struct rcpt_parameters parameters = { .notify = (uint8_t)(number % 16),
                                          .orcpt = text_of(orcpt, orcpt_len(number), number, 'o') };

    return envelope_add(envelope, &path, &parameters, (enum recipient_state)(number % 3));
}

static void
check_numbered(const struct envelope *envelope, unsigned count)
{
    struct envelope_cursor cursor = envelope_begin(envelope);
    char text[ORCPT_BYTES_MAX];

    for (unsigned i = 0; i < count; i++) {
        const struct recipient *r = envelope_next(&cursor);
        struct rcpt_parameters parameters;

        cr_assert_not_null(r, "recipient %u of %u is missing", i, count);
        parameters = recipient_parameters(r);
        cr_assert(span_equal(recipient_mailbox(r), text_of(text, mailbox_len(i), i, 'm')),
                  "recipient %u", i);
        cr_assert(span_equal(parameters.orcpt, text_of(text, orcpt_len(i), i, 'o')), "recipient %u",
                  i);
        cr_assert_eq(parameters.notify, i % 16);
        cr_assert_eq(r->state, i % 3);
    }
    cr_assert_null(envelope_next(&cursor), "more than %u", count);
}

Test(envelope, recipients_come_back_in_order)
{
    static const struct {
        const char *name, *mailbox, *envid;
    } starts[] = { { "null", "", "" },
                   { "odd", "abc", "" },
                   { "even", "abcd@example.com", "" },
                   { "with ENVID", "a@b", "0123456789012345678901234567890123456789" } };

    for (size_t i = 0; i < COUNT_OF(starts); i++) {
        struct pool blocks = blocks_of(200);
        struct path path = path_of(starts[i].mailbox);
        struct mail_parameters parameters = { .envid = span_text(starts[i].envid) };
        struct recipient *records[1000];
        struct envelope envelope;

        cr_assert(envelope_start(&envelope, &blocks, &path, &parameters));
        for (unsigned n = 0; n < COUNT_OF(records); n++) {
            records[n] = add_numbered(&envelope, n);
            cr_assert_not_null(records[n], "%s: recipient %u", starts[i].name, n);
            cr_assert_eq(envelope.recipients, n + 1);
            if (n % 100 == 0)
                check_numbered(&envelope, n + 1);
        }
        check_numbered(&envelope, COUNT_OF(records));
        cr_assert_eq(envelope.accepted, (COUNT_OF(records) + 2) / 3);
        cr_assert_gt(blocks.used, 50);
        /* A record stays where it is. */
        cr_assert(span_equal(span_first(recipient_mailbox(records[10]), 6), SPAN("000010")));
        cr_assert(span_equal(envelope.reverse_path, path.mailbox), "%s", starts[i].name);
        cr_assert(span_equal(envelope.envid, parameters.envid), "%s", starts[i].name);
        envelope_clear(&envelope);
        cr_assert_eq(blocks.used, 0);
        cr_assert_eq(envelope.recipients, 0);
        envelope_clear(&envelope); /* of an empty one: nothing */
        pool_destroy(&blocks);
    }
}

Test(envelope, usual_recipients_share_a_block)
{
    struct pool blocks = blocks_of(4);
    struct path from = path_of("somebody@example.org"), to;
    struct mail_parameters parameters = { 0 };
    struct rcpt_parameters none = { 0 };
    struct envelope envelope;
    char mailbox[64];

    cr_assert(envelope_start(&envelope, &blocks, &from, &parameters));
    for (unsigned i = 0; i < 60; i++) {
        snprintf(mailbox, sizeof(mailbox), "recipient.%u@department.example.com", i);
        to = path_of(mailbox);
        to.utf8 = i == 59;
        cr_assert_not(envelope.utf8);
        cr_assert_not_null(envelope_add(&envelope, &to, &none, RECIPIENT_ACCEPTED));
    }
    cr_assert(envelope.utf8, "one of them needs SMTPUTF8");
    cr_assert_eq(blocks.used, 1, "%u blocks", blocks.used);
    envelope_clear(&envelope);
    pool_destroy(&blocks);
}

Test(envelope, no_block_is_a_result)
{
    struct pool blocks = blocks_of(2);
    struct path path = path_of("a@example.com");
    struct mail_parameters parameters = { 0 };
    struct envelope envelope, second;
    unsigned count = 0;
    void *held = pool_take(&blocks), *other = pool_take(&blocks);

    cr_assert_not(envelope_start(&envelope, &blocks, &path, &parameters));
    envelope_clear(&envelope);
    pool_release(&blocks, other);
    cr_assert(envelope_start(&envelope, &blocks, &path, &parameters));
    while (add_numbered(&envelope, count) != NULL)
        count++;
    cr_assert_gt(count, 3);
    cr_assert_eq(envelope.recipients, count, "the one that did not fit does not count");
    check_numbered(&envelope, count);
    cr_assert_not(envelope_start(&second, &blocks, &path, &parameters));
    envelope_clear(&second);
    check_numbered(&envelope, count);
    pool_release(&blocks, held);
    cr_assert_not_null(add_numbered(&envelope, count), "there is a block now");
    check_numbered(&envelope, count + 1);
    envelope_clear(&envelope);
    cr_assert_eq(blocks.used, 0);
    pool_destroy(&blocks);
}

Test(envelope, counts_those_accepted)
{
    static const struct {
        enum recipient_state from, to;
        uint32_t before, after;
    } rows[] = {
        { RECIPIENT_ASKED, RECIPIENT_ACCEPTED, 0, 1 },
        { RECIPIENT_ASKED, RECIPIENT_REFUSED, 0, 0 },
        { RECIPIENT_ACCEPTED, RECIPIENT_REFUSED, 1, 0 },
        { RECIPIENT_ACCEPTED, RECIPIENT_ACCEPTED, 1, 1 },
        { RECIPIENT_REFUSED, RECIPIENT_REFUSED, 0, 0 },
        { RECIPIENT_REFUSED, RECIPIENT_ACCEPTED, 0, 1 },
    };
    struct pool blocks = blocks_of(1);
    struct path path = path_of("a@example.com");
    struct mail_parameters parameters = { 0 };
    struct rcpt_parameters none = { 0 };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct envelope_cursor cursor;
        struct envelope envelope;
        struct recipient *r;

        cr_assert(envelope_start(&envelope, &blocks, &path, &parameters));
        r = envelope_add(&envelope, &path, &none, rows[i].from);
        cr_assert_not_null(r);
        cr_assert_eq(envelope.accepted, rows[i].before, "row %zu", i);
        recipient_set(&envelope, r, rows[i].to);
        cr_assert_eq(envelope.accepted, rows[i].after, "row %zu", i);
        cr_assert_eq(r->state, rows[i].to, "row %zu", i);
        cr_assert_eq(envelope.recipients, 1);
        /* Walking shows refused ones too. */
        cursor = envelope_begin(&envelope);
        cr_assert_eq(envelope_next(&cursor), r);
        envelope_clear(&envelope);
    }
    pool_destroy(&blocks);
}

Test(envelope, the_longest_of_everything)
{
    char mailbox[MAILBOX_BYTES_MAX], envid[ENVID_BYTES_MAX], orcpt[ORCPT_BYTES_MAX];
    struct pool blocks = blocks_of(40);
    struct path path = { .mailbox = text_of(mailbox, sizeof(mailbox), 1, 'm') };
    struct mail_parameters parameters = { .envid = text_of(envid, sizeof(envid), 2, 'e') };
    struct rcpt_parameters rcpt = { .orcpt = text_of(orcpt, sizeof(orcpt), 3, 'o'), .notify = 15 };
    struct envelope_cursor cursor;
    struct envelope envelope;
    const struct recipient *r;

    cr_assert(envelope_start(&envelope, &blocks, &path, &parameters));
    for (int i = 0; i < 100; i++)
        cr_assert_not_null(envelope_add(&envelope, &path, &rcpt, RECIPIENT_ACCEPTED), "%d", i);
    cursor = envelope_begin(&envelope);
    for (int i = 0; i < 100; i++) {
        r = envelope_next(&cursor);
        cr_assert_not_null(r, "%d", i);
        cr_assert(span_equal(recipient_mailbox(r), path.mailbox), "%d", i);
        cr_assert(span_equal(recipient_parameters(r).orcpt, rcpt.orcpt), "%d", i);
    }
    cr_assert_null(envelope_next(&cursor));
    envelope_clear(&envelope);
    cr_assert_eq(blocks.used, 0);
    pool_destroy(&blocks);
}
