/* ESMTP parameters of MAIL and RCPT, and xtext: each row is one rule of RFC 1870, 3461, 4954,
 * 6152, 6531 or 6533, or one way to break it. */
#include <criterion/criterion.h>

#include "core/address.h"
#include "tests/unit/guard.h"

#define A16 "aaaaaaaaaaaaaaaa"
#define A64 A16 A16 A16 A16
#define E_ACUTE "\xC3\xA9"
#define ENVID_100 A64 A16 A16 "aaaa"
#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static struct guard guard_at_end, guard_at_start;

/* A refused text leaves the values empty. */
struct refused_row {
    const char *name;
    struct span input;
    enum parameter_result want;
};

/* --- parameters of MAIL --- */

static const struct mail_row {
    const char *name;
    struct span input;
    uint64_t size;
    enum body_type body;
    enum dsn_return dsn_return;
    bool smtputf8;
    const char *envid, *auth;
} mail_rows[] = {
    { "none", SPAN(""), 0, 0, 0, false, "", "" },
    { "spaces", SPAN("   "), 0, 0, 0, false, "", "" },
    { "size", SPAN(" SIZE=1000"), 1000, 0, 0, false, "", "" },
    { "size 0", SPAN(" SIZE=0"), 0, 0, 0, false, "", "" },
    { "case, spaces", SPAN("  sIzE=7   bOdY=7bit "), 7, BODY_TYPE_7BIT, 0, false, "", "" },
    { "size, 20 digits", SPAN(" SIZE=00000000000000000042"), 42, 0, 0, false, "", "" },
    { "size, largest", SPAN(" SIZE=9223372036854775807"), INT64_MAX, 0, 0, false, "", "" },
    { "body", SPAN(" BODY=8BITMIME"), 0, BODY_TYPE_8BITMIME, 0, false, "", "" },
    { "smtputf8", SPAN(" SMTPUTF8"), 0, 0, 0, true, "", "" },
    { "ret full", SPAN(" RET=FULL"), 0, 0, DSN_RETURN_FULL, false, "", "" },
    { "ret hdrs", SPAN(" ret=hdrs"), 0, 0, DSN_RETURN_HEADERS, false, "", "" },
    { "envid", SPAN(" ENVID=QQ+2B314+3D"), 0, 0, 0, false, "QQ+2B314+3D", "" },
    { "envid of 100", SPAN(" ENVID=" ENVID_100), 0, 0, 0, false, ENVID_100, "" },
    { "envid of 100, one encoded", SPAN(" ENVID=+20" A64 A16 A16 "aaa"), 0, 0, 0, false,
      "+20" A64 A16 A16 "aaa", "" },
    { "auth null", SPAN(" AUTH=<>"), 0, 0, 0, false, "", "<>" },
    { "auth", SPAN(" AUTH=e+3Dmc2@example.com"), 0, 0, 0, false, "", "e+3Dmc2@example.com" },
    { "all", SPAN(" SIZE=1 BODY=7BIT SMTPUTF8 RET=HDRS ENVID=x AUTH=<>"), 1, BODY_TYPE_7BIT,
      DSN_RETURN_HEADERS, true, "x", "<>" },
};

static const struct refused_row mail_refused_rows[] = {
    { "no space first", SPAN("SIZE=1"), PARAMETER_SYNTAX },
    { "tab", SPAN("\tSIZE=1"), PARAMETER_SYNTAX },
    { "tab between", SPAN(" SIZE=1\tBODY=7BIT"), PARAMETER_SYNTAX },
    { "no value", SPAN(" SIZE="), PARAMETER_SYNTAX },
    { "no keyword", SPAN(" =1"), PARAMETER_SYNTAX },
    { "hyphen first", SPAN(" -SIZE=1"), PARAMETER_SYNTAX },
    { "equals in the value", SPAN(" SIZE=1=2"), PARAMETER_SYNTAX },
    { "NUL in the value", SPAN(" SIZE=1\0"), PARAMETER_SYNTAX },
    { "DEL in the value", SPAN(" ENVID=a\x7F"), PARAMETER_SYNTAX },
    { "CR in the value", SPAN(" ENVID=a\r"), PARAMETER_SYNTAX },
    { "keyword and more", SPAN(" SMTPUTF8!"), PARAMETER_SYNTAX },
    { "unknown", SPAN(" XYZ=1"), PARAMETER_UNKNOWN },
    { "unknown, no value", SPAN(" XYZ"), PARAMETER_UNKNOWN },
    { "unknown, UTF-8", SPAN(" XYZ=" E_ACUTE), PARAMETER_UNKNOWN },
    { "longer than known", SPAN(" SIZES=1"), PARAMETER_UNKNOWN },
    { "shorter than known", SPAN(" SIZ=1"), PARAMETER_UNKNOWN },
    { "of RCPT", SPAN(" NOTIFY=NEVER"), PARAMETER_UNKNOWN },
    { "size twice", SPAN(" SIZE=1 SIZE=1"), PARAMETER_DUPLICATE },
    { "envid twice", SPAN(" ENVID=a RET=FULL envid=b"), PARAMETER_DUPLICATE },
    { "smtputf8 twice", SPAN(" SMTPUTF8 SMTPUTF8"), PARAMETER_DUPLICATE },
    { "size, no value", SPAN(" SIZE"), PARAMETER_VALUE },
    { "size, letters", SPAN(" SIZE=1k"), PARAMETER_VALUE },
    { "size, sign", SPAN(" SIZE=-1"), PARAMETER_VALUE },
    { "size, 21 digits", SPAN(" SIZE=000000000000000000042"), PARAMETER_VALUE },
    { "size, 64 bits", SPAN(" SIZE=9223372036854775808"), PARAMETER_TOO_BIG },
    { "size, 20 nines", SPAN(" SIZE=99999999999999999999"), PARAMETER_TOO_BIG },
    { "size, nines and a letter", SPAN(" SIZE=9999999999999999999x"), PARAMETER_VALUE },
    { "body, no value", SPAN(" BODY"), PARAMETER_VALUE },
    { "body, other", SPAN(" BODY=9BIT"), PARAMETER_VALUE },
    { "body, binary", SPAN(" BODY=BinaryMIME"), PARAMETER_BINARY },
    { "smtputf8 with a value", SPAN(" SMTPUTF8=1"), PARAMETER_VALUE },
    { "ret, other", SPAN(" RET=HEADERS"), PARAMETER_VALUE },
    { "ret, no value", SPAN(" RET"), PARAMETER_VALUE },
    { "envid, no value", SPAN(" ENVID"), PARAMETER_VALUE },
    { "envid of 101", SPAN(" ENVID=" ENVID_100 "a"), PARAMETER_VALUE },
    { "envid, encoded LF", SPAN(" ENVID=a+0Ab"), PARAMETER_VALUE },
    { "envid, encoded NUL", SPAN(" ENVID=+00"), PARAMETER_VALUE },
    { "envid, encoded DEL", SPAN(" ENVID=+7F"), PARAMETER_VALUE },
    { "envid, encoded UTF-8", SPAN(" ENVID=+C3+A9"), PARAMETER_VALUE },
    { "envid, UTF-8", SPAN(" ENVID=" E_ACUTE), PARAMETER_VALUE },
    { "envid, no xtext", SPAN(" ENVID=a+2"), PARAMETER_VALUE },
    { "after legal ones", SPAN(" SIZE=1 BODY=7BIT SMTPUTF8 RET=FULL ENVID=a AUTH=<> X"),
      PARAMETER_UNKNOWN },
    { "auth, no value", SPAN(" AUTH"), PARAMETER_VALUE },
    { "auth, no xtext", SPAN(" AUTH=a+"), PARAMETER_VALUE },
    { "auth, UTF-8", SPAN(" AUTH=" E_ACUTE), PARAMETER_VALUE },
};

Test(parameters, mail_table)
{
    for (size_t i = 0; i < COUNT(mail_rows); i++) {
        const struct mail_row *row = &mail_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        struct mail_parameters parameters;

        memset(&parameters, 0x55, sizeof(parameters));
        enum parameter_result result = mail_parameters_parse(in, &parameters);
        cr_assert_eq(result, PARAMETER_OK, "%s: %d", row->name, (int)result);
        cr_assert_eq(parameters.size, row->size, "%s", row->name);
        cr_assert_eq(parameters.body, row->body, "%s", row->name);
        cr_assert_eq(parameters.dsn_return, row->dsn_return, "%s", row->name);
        cr_assert_eq(parameters.smtputf8, row->smtputf8, "%s", row->name);
        cr_assert(span_equal(parameters.envid, span_text(row->envid)), "%s", row->name);
        cr_assert(span_equal(parameters.auth, span_text(row->auth)), "%s", row->name);
    }
}

/* Also after legal ones: an error empties what was read before it. */
Test(parameters, mail_refused_table)
{
    for (size_t i = 0; i < COUNT(mail_refused_rows); i++) {
        const struct refused_row *row = &mail_refused_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        struct mail_parameters parameters;

        memset(&parameters, 0x55, sizeof(parameters));
        enum parameter_result result = mail_parameters_parse(in, &parameters);
        cr_assert_eq(result, row->want, "%s: %d", row->name, (int)result);
        cr_assert_eq(parameters.size, 0, "%s", row->name);
        cr_assert_eq(parameters.body, BODY_TYPE_NONE, "%s", row->name);
        cr_assert_eq(parameters.dsn_return, DSN_RETURN_NONE, "%s", row->name);
        cr_assert_not(parameters.smtputf8, "%s", row->name);
        cr_assert_eq(parameters.envid.len, 0, "%s", row->name);
        cr_assert_eq(parameters.auth.len, 0, "%s", row->name);
    }
}

/* --- parameters of RCPT --- */

#define ORCPT_500 "rfc822;" A64 A64 A64 A64 A64 A64 A64 A16 A16 "aaaaaaaaaaaaa"

static const struct rcpt_row {
    const char *name;
    struct span input;
    unsigned notify;
    bool utf8;
    const char *orcpt;
} rcpt_rows[] = {
    { "none", SPAN(""), 0, false, "" },
    { "never", SPAN(" NOTIFY=NEVER"), DSN_NOTIFY_NEVER, false, "" },
    { "one", SPAN(" notify=delay"), DSN_NOTIFY_DELAY, false, "" },
    { "three", SPAN(" NOTIFY=SUCCESS,delay,FAILURE"),
      DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY, false, "" },
    { "orcpt", SPAN(" ORCPT=rfc822;a+2Bb@c"), 0, false, "rfc822;a+2Bb@c" },
    { "orcpt, other type", SPAN(" ORCPT=x-y;z"), 0, false, "x-y;z" },
    { "orcpt, empty address", SPAN(" ORCPT=rfc822;"), 0, false, "rfc822;" },
    { "orcpt, semicolon", SPAN(" ORCPT=rfc822;a;b"), 0, false, "rfc822;a;b" },
    { "orcpt, encoded space", SPAN(" ORCPT=rfc822;a+20b"), 0, false, "rfc822;a+20b" },
    { "orcpt of 500", SPAN(" ORCPT=" ORCPT_500), 0, false, ORCPT_500 },
    { "orcpt, utf-8", SPAN(" ORCPT=UTF-8;" E_ACUTE "@b"), 0, true, "UTF-8;" E_ACUTE "@b" },
    { "orcpt, utf-8 in ASCII", SPAN(" ORCPT=utf-8;\\x{E9}@b"), 0, false, "utf-8;\\x{E9}@b" },
    { "both", SPAN(" ORCPT=rfc822;a NOTIFY=FAILURE"), DSN_NOTIFY_FAILURE, false, "rfc822;a" },
};

static const struct refused_row rcpt_refused_rows[] = {
    { "no space first", SPAN("NOTIFY=NEVER"), PARAMETER_SYNTAX },
    { "notify=", SPAN(" NOTIFY="), PARAMETER_SYNTAX },
    { "notify with spaces", SPAN(" NOTIFY=SUCCESS, DELAY"), PARAMETER_VALUE },
    { "of MAIL", SPAN(" SIZE=1"), PARAMETER_UNKNOWN },
    { "unknown", SPAN(" RRVS=2014-04-03T23:01:00Z"), PARAMETER_UNKNOWN },
    { "notify twice", SPAN(" NOTIFY=DELAY NOTIFY=FAILURE"), PARAMETER_DUPLICATE },
    { "orcpt twice", SPAN(" ORCPT=rfc822;a ORCPT=rfc822;a"), PARAMETER_DUPLICATE },
    { "notify, no value", SPAN(" NOTIFY"), PARAMETER_VALUE },
    { "never and another", SPAN(" NOTIFY=NEVER,DELAY"), PARAMETER_VALUE },
    { "another and never", SPAN(" NOTIFY=DELAY,NEVER"), PARAMETER_VALUE },
    { "an element twice", SPAN(" NOTIFY=DELAY,DELAY"), PARAMETER_VALUE },
    { "comma first", SPAN(" NOTIFY=,DELAY"), PARAMETER_VALUE },
    { "comma last", SPAN(" NOTIFY=DELAY,"), PARAMETER_VALUE },
    { "two commas", SPAN(" NOTIFY=DELAY,,FAILURE"), PARAMETER_VALUE },
    { "unknown element", SPAN(" NOTIFY=RELAY"), PARAMETER_VALUE },
    { "orcpt, no value", SPAN(" ORCPT"), PARAMETER_VALUE },
    { "orcpt, no type", SPAN(" ORCPT=a@b"), PARAMETER_VALUE },
    { "orcpt, empty type", SPAN(" ORCPT=;a@b"), PARAMETER_VALUE },
    { "orcpt, type no atom", SPAN(" ORCPT=a@b;c"), PARAMETER_VALUE },
    { "orcpt, type UTF-8", SPAN(" ORCPT=" E_ACUTE ";c"), PARAMETER_VALUE },
    { "orcpt of 501", SPAN(" ORCPT=" ORCPT_500 "a"), PARAMETER_VALUE },
    { "orcpt, lower case hex", SPAN(" ORCPT=rfc822;a+2b"), PARAMETER_VALUE },
    { "orcpt, encoded CR LF", SPAN(" ORCPT=rfc822;a+0D+0Ab"), PARAMETER_VALUE },
    { "orcpt, UTF-8 as rfc822", SPAN(" ORCPT=rfc822;" E_ACUTE), PARAMETER_VALUE },
    { "orcpt, utf-8, Latin-1", SPAN(" ORCPT=utf-8;\xE9"), PARAMETER_VALUE },
    { "orcpt, utf-8, control", SPAN(" ORCPT=utf-8;\xC2\x85"), PARAMETER_VALUE },
    { "orcpt, utf-8, encoded LF", SPAN(" ORCPT=utf-8;" E_ACUTE "+0A"), PARAMETER_VALUE },
};

Test(parameters, rcpt_table)
{
    for (size_t i = 0; i < COUNT(rcpt_rows); i++) {
        const struct rcpt_row *row = &rcpt_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        struct rcpt_parameters parameters;

        memset(&parameters, 0x55, sizeof(parameters));
        enum parameter_result result = rcpt_parameters_parse(in, &parameters);
        cr_assert_eq(result, PARAMETER_OK, "%s: %d", row->name, (int)result);
        cr_assert_eq(parameters.notify, row->notify, "%s", row->name);
        cr_assert_eq(parameters.utf8, row->utf8, "%s", row->name);
        cr_assert(span_equal(parameters.orcpt, span_text(row->orcpt)), "%s", row->name);
    }
}

Test(parameters, rcpt_refused_table)
{
    for (size_t i = 0; i < COUNT(rcpt_refused_rows); i++) {
        const struct refused_row *row = &rcpt_refused_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        struct rcpt_parameters parameters;

        memset(&parameters, 0x55, sizeof(parameters));
        enum parameter_result result = rcpt_parameters_parse(in, &parameters);
        cr_assert_eq(result, row->want, "%s: %d", row->name, (int)result);
        cr_assert_eq(parameters.notify, DSN_NOTIFY_NONE, "%s", row->name);
        cr_assert_not(parameters.utf8, "%s", row->name);
        cr_assert_eq(parameters.orcpt.len, 0, "%s", row->name);
    }
}

/* A shorter text may be legal too; it must read the same wherever it lies, and nothing past its
 * end. */
static void
truncated_check(struct span input, const char *name)
{
    for (size_t len = 0; len <= input.len; len++) {
        struct span at_end = guard_end(&guard_at_end, input.data, len);
        struct span at_start = guard_start(&guard_at_start, input.data, len);
        struct mail_parameters mail[2];
        struct rcpt_parameters rcpt[2];

        cr_assert_eq(mail_parameters_parse(at_end, &mail[0]),
                     mail_parameters_parse(at_start, &mail[1]), "%s: %zu", name, len);
        cr_assert_eq(mail[0].size, mail[1].size, "%s: %zu", name, len);
        cr_assert(span_equal(mail[0].envid, mail[1].envid), "%s: %zu", name, len);
        cr_assert_eq(rcpt_parameters_parse(at_end, &rcpt[0]),
                     rcpt_parameters_parse(at_start, &rcpt[1]), "%s: %zu", name, len);
        cr_assert_eq(rcpt[0].notify, rcpt[1].notify, "%s: %zu", name, len);
        cr_assert(span_equal(rcpt[0].orcpt, rcpt[1].orcpt), "%s: %zu", name, len);
    }
}

Test(parameters, truncated)
{
    for (size_t i = 0; i < COUNT(mail_rows); i++)
        truncated_check(mail_rows[i].input, mail_rows[i].name);
    for (size_t i = 0; i < COUNT(mail_refused_rows); i++)
        truncated_check(mail_refused_rows[i].input, mail_refused_rows[i].name);
    for (size_t i = 0; i < COUNT(rcpt_rows); i++)
        truncated_check(rcpt_rows[i].input, rcpt_rows[i].name);
    for (size_t i = 0; i < COUNT(rcpt_refused_rows); i++)
        truncated_check(rcpt_refused_rows[i].input, rcpt_refused_rows[i].name);
}

/* --- xtext --- */

static const struct xtext_row {
    const char *name;
    struct span input;
    bool want;
    size_t decoded_len;
} xtext_rows[] = {
    { "empty", SPAN(""), true, 0 },
    { "plain", SPAN("abc"), true, 3 },
    { "lowest, highest", SPAN("!~"), true, 2 },
    { "encoded", SPAN("a+2Bb+3D"), true, 4 },
    { "encoded, any octet", SPAN("+00+FF"), true, 2 },
    { "plus alone", SPAN("+"), false, 0 },
    { "one digit", SPAN("a+2"), false, 0 },
    { "lower case", SPAN("+2b"), false, 0 },
    { "no digits", SPAN("+GG"), false, 0 },
    { "second no digit", SPAN("+2G"), false, 0 },
    { "equals", SPAN("a=b"), false, 0 },
    { "space", SPAN("a b"), false, 0 },
    { "DEL", SPAN("\x7F"), false, 0 },
    { "above 127", SPAN(E_ACUTE), false, 0 },
    { "NUL", SPAN("\0"), false, 0 },
};

Test(parameters, xtext_table)
{
    for (size_t i = 0; i < COUNT(xtext_rows); i++) {
        const struct xtext_row *row = &xtext_rows[i];
        struct span in = guard_end(&guard_at_end, row->input.data, row->input.len);
        size_t decoded_len = 77;

        cr_assert_eq(xtext_valid(in, &decoded_len), row->want, "%s", row->name);
        cr_assert_eq(decoded_len, row->want ? row->decoded_len : 77, "%s", row->name);
        cr_assert_eq(xtext_valid(in, NULL), row->want, "%s", row->name);
    }
}
