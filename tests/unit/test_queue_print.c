/* What `ringpost queue` makes of what it reads: bodies as they were sent, the table of ages, text
 * that is safe to show. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "relay/tools/queue_private.h"
#include "tests/unit/guard.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* --- unstuffing --- */

static const struct unstuff_row {
    const char *name;
    struct span in, want;
} unstuff_rows[] = {
    { "nothing but the end", SPAN(".\r\n"), SPAN("") },
    { "a line", SPAN("a\r\n.\r\n"), SPAN("a\r\n") },
    { "a dot", SPAN("..\r\n.\r\n"), SPAN(".\r\n") },
    { "two dots", SPAN("...\r\n.\r\n"), SPAN("..\r\n") },
    { "a dot and text", SPAN("..a\r\n.\r\n"), SPAN(".a\r\n") },
    { "dots inside", SPAN("a.b\r\na..\r\n.\r\n"), SPAN("a.b\r\na..\r\n") },
    { "an empty line, then a dot", SPAN("\r\n..\r\n\r\n.\r\n"), SPAN("\r\n.\r\n\r\n") },
    { "header and body", SPAN("S: x\r\n\r\n..x\r\ny\r\n.\r\n"), SPAN("S: x\r\n\r\n.x\r\ny\r\n") },
    { "NUL and octets above 127", SPAN("\0\xff\r\n.\r\n"), SPAN("\0\xff\r\n") },
    /* Not what we store; nothing may get lost of it. */
    { "a bare CR after a dot", SPAN(".\ra\r\n.\r\n"), SPAN("\ra\r\n") },
    { "two CRs after a dot", SPAN(".\r\r\n.\r\n"), SPAN("\r\r\n") },
    { "a bare LF", SPAN("a\n.b\r\n.\r\n"), SPAN("a\n.b\r\n") },
    { "a bare CR", SPAN("a\r.b\r\n.\r\n"), SPAN("a\r.b\r\n") },
    { "no end", SPAN("a"), SPAN("a") },
};

/* Every row in two pieces, cut at every octet, and octet by octet. */
Test(queue_print, unstuffing)
{
    static struct guard guard;

    for (size_t i = 0; i < COUNT_OF(unstuff_rows); i++) {
        const struct unstuff_row *row = &unstuff_rows[i];
        char out[64];
        size_t len;

        for (size_t cut = 0; cut <= row->in.len; cut++) {
            struct unstuff state = { 0 };

            len = unstuff(&state, guard_end(&guard, row->in.data, cut), out);
            len += unstuff(&state, guard_end(&guard, row->in.data + cut, row->in.len - cut),
                           out + len);
            cr_assert(span_equal(span_of(out, len), row->want), "%s at %zu: %.*s", row->name, cut,
                      (int)len, out);
        }
        len = 0;
        for (struct {
                 size_t at;
                 struct unstuff state;
             } one = { 0 };
             one.at < row->in.len; one.at++)
            len += unstuff(&one.state, span_of(row->in.data + one.at, 1), out + len);
        cr_assert(span_equal(span_of(out, len), row->want), "%s: %.*s", row->name, (int)len, out);
    }
}

/* --- the table --- */

Test(queue_print, ages_fall_into_buckets)
{
    static const struct {
        uint64_t age_s;
        unsigned bucket;
    } rows[] = { { 0, 0 },     { 299, 0 },           { 300, 1 },       { 599, 1 },
                 { 600, 2 },   { 1199, 2 },          { 1200, 3 },      { 2400, 4 },
                 { 4799, 4 },  { 4800, 5 },          { 9600, 6 },      { 19200, 7 },
                 { 38400, 8 }, { 1280 * 60 - 1, 8 }, { 1280 * 60, 9 }, { UINT64_MAX, 9 } };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct shape shape = { 0 };

        cr_assert(shape_add(&shape, SPAN("a"), rows[i].age_s, 3));
        for (unsigned bucket = 0; bucket < SHAPE_BUCKETS; bucket++)
            cr_assert_eq(shape.total.ages[bucket], bucket == rows[i].bucket ? 3 : 0, "%llu",
                         (unsigned long long)rows[i].age_s);
        shape_free(&shape);
    }
}

Test(queue_print, table)
{
    static const char want[] =
        "                        T     5m    10m    20m    40m    80m   160m   320m   640m  1280m "
        " older\n"
        "            TOTAL       7      3      2      0      0      0      0      0      0      0 "
        "     2\n"
        "      example.com       4      3      1      0      0      0      0      0      0      0 "
        "     0\n"
        "long.example.test       2      0      0      0      0      0      0      0      0      0 "
        "     2\n"
        "                b       1      0      1      0      0      0      0      0      0      0 "
        "     0\n";
    static const char want_json[] =
        "\"ages_below_minutes\":[5,10,20,40,80,160,320,640,1280,null],"
        "\"total\":7,\"ages\":[3,2,0,0,0,0,0,0,0,2],\"rows\":["
        "{\"name\":\"example.com\",\"total\":4,\"ages\":[3,1,0,0,0,0,0,0,0,0]},"
        "{\"name\":\"long.example.test\",\"total\":2,\"ages\":[0,0,0,0,0,0,0,0,0,2]},"
        "{\"name\":\"b\",\"total\":1,\"ages\":[0,1,0,0,0,0,0,0,0,0]}]";
    struct shape shape = { 0 };
    char *text = NULL;
    size_t len;
    FILE *out;

    cr_assert(shape_add(&shape, SPAN("b"), 301, 1));
    cr_assert(shape_add(&shape, SPAN("example.com"), 0, 1));
    cr_assert(shape_add(&shape, SPAN("long.example.test"), 999999, 2));
    cr_assert(shape_add(&shape, SPAN("example.com"), 0, 2));
    cr_assert(shape_add(&shape, SPAN("example.com"), 400, 1));
    shape_sort(&shape);
    out = open_memstream(&text, &len);
    shape_print(&shape, out);
    fclose(out);
    cr_assert_str_eq(text, want);
    free(text);
    out = open_memstream(&text, &len);
    shape_print_json(&shape, out);
    fclose(out);
    cr_assert_str_eq(text, want_json);
    free(text);
    shape_free(&shape);
}

/* Far more names than the table begins with. */
Test(queue_print, many_names)
{
    struct shape shape = { 0 };
    char name[32];

    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < 5000; i++) {
            snprintf(name, sizeof(name), "d%u.example.com", i);
            cr_assert(shape_add(&shape, span_text(name), i, i % 7));
        }
    cr_assert_eq(shape.row_count, 5000);
    shape_sort(&shape);
    for (size_t i = 1; i < shape.row_count; i++)
        cr_assert(shape.rows[i - 1]->total > shape.rows[i]->total ||
                  (shape.rows[i - 1]->total == shape.rows[i]->total &&
                   strcmp(shape.rows[i - 1]->name, shape.rows[i]->name) < 0));
    shape_free(&shape);
}

/* --- text --- */

static const char *
shown(void (*print)(FILE *, struct span), struct span in)
{
    static char *text;
    size_t len;
    FILE *out;

    free(text);
    text = NULL;
    out = open_memstream(&text, &len);
    print(out, in);
    fclose(out);
    return text;
}

Test(queue_print, strangers_text)
{
    static const struct {
        struct span in;
        const char *text, *json;
    } rows[] = {
        { SPAN("a@example.com"), "a@example.com", "\"a@example.com\"" },
        { SPAN("\"a b\"@x\\y"), "\"a b\"@x\\y", "\"\\\"a b\\\"@x\\\\y\"" },
        { SPAN("j\xc3\xbcrgen"), "j\xc3\xbcrgen", "\"j\xc3\xbcrgen\"" },
        { SPAN("\x1b[2J"), "?[2J", "\"\\u001b[2J\"" },
        { SPAN("a\r\nb\0c"), "a??b?c", "\"a\\u000d\\u000ab\\u0000c\"" },
        { SPAN("\xff\xc3"), "??", "\"\\u00ff\\u00c3\"" },
        { SPAN("\xc2\x9b"), "?", "\"\xc2\x9b\"" },
        { SPAN("\x7f"), "?", "\"\\u007f\"" },
        { SPAN(""), "", "\"\"" },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_str_eq(shown(print_text, rows[i].in), rows[i].text);
        cr_assert_str_eq(shown(print_json_text, rows[i].in), rows[i].json);
    }
}

Test(queue_print, numbers)
{
    static const struct {
        uint64_t number;
        const char *age, *bytes;
    } rows[] = {
        { 0, "0s", "0 B" },
        { 119, "119s", "119 B" },
        { 120, "2m", "120 B" },
        { 7199, "119m", "7.0 KiB" },
        { 7200, "2h", "7.0 KiB" },
        { 172799, "47h", "168.7 KiB" },
        { 172800, "2d", "168.8 KiB" },
        { 5 * 1024 * 1024, "60d", "5.0 MiB" },
        { UINT64_MAX, "213503982334601d", "16.0 EiB" },
    };
    char text[QUEUE_TEXT_BYTES];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_str_eq(age_text(rows[i].number, text), rows[i].age);
        cr_assert_str_eq(bytes_text(rows[i].number, text), rows[i].bytes);
    }
    cr_assert_str_eq(time_text(951782399, text), "2000-02-28 23:59:59 UTC");
}
