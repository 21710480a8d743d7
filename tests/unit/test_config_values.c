/* The small languages inside values, every row of options.def, hostile sizes, and the reference. */
#include <criterion/criterion.h>

#include <arpa/inet.h>
#include <stdlib.h>

#include "core/config_option.h"
#include "core/config_value.h"
#include "tests/unit/config_text.h"

#define DOCUMENT_BYTES_MAX 65536

static struct config_errors errors;

/* --- values --- */

Test(config, sizes_and_durations)
{
    static const struct {
        const char *text;
        uint64_t want;
        const char *spelled;
    } sizes[] = {
        { "0", 0, "0" }, { "998", 998, "998" }, { "64k", 65536, "64kb" },
        { "256kib", 262144, "256kb" }, { "256KB", 262144, "256kb" },
        { "50mb", 52428800, "50mb" }, { "50MiB", 52428800, "50mb" },
        { "1gb", 1073741824, "1gb" }, { "1g", 1073741824, "1gb" }, { "2gib", 2147483648, "2gb" },
        { "1024b", 1024, "1kb" }, { "18446744073709551615", UINT64_MAX, "18446744073709551615" },
        { "18446744073709551616", UINT64_MAX, "18446744073709551615" },
    }, durations[] = {
        { "100ms", 100, "100ms" }, { "20s", 20000, "20s" }, { "5min", 300000, "5min" },
        { "60s", 60000, "1min" }, { "1h", 3600000, "1h" }, { "5d", 432000000, "5d" },
        { "1w", 604800000, "7d" }, { "5Min", 300000, "5min" }, { "0s", 0, "0ms" },
        { "1500ms", 1500, "1500ms" },
    };
    char text[CONFIG_NUMBER_TEXT_MAX];
    uint64_t got;

    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        cr_assert_null(config_size_parse(span_text(sizes[i].text), &got), "%s", sizes[i].text);
        cr_assert_eq(got, sizes[i].want, "%s", sizes[i].text);
        config_size_format(got, text);
        cr_assert_str_eq(text, sizes[i].spelled);
    }
    for (size_t i = 0; i < COUNT_OF(durations); i++) {
        cr_assert_null(config_duration_parse(span_text(durations[i].text), &got), "%s",
                       durations[i].text);
        cr_assert_eq(got, durations[i].want, "%s", durations[i].text);
        config_duration_format(got, text);
        cr_assert_str_eq(text, durations[i].spelled);
    }
}

/* The system's own reader of addresses is the judge. */
Test(config, addresses)
{
    static const char *const texts[] = {
        "127.0.0.1", "0.0.0.0", "255.255.255.255", "256.0.0.1", "1.2.3", "1.2.3.4.5", "1.2.3.4.",
        ".1.2.3", "1..2.3", "01.2.3.4", "1.2.3.00", "1.2.3.", "", "a.b.c.d", "1.2.3.-4", " 1.2.3.4",
        "::", "::1", "1::", "::1:2", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
        "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::2::3", ":::", ":", "1:", ":1", "1:::2", "12345::",
        "g::", "::ffff:1.2.3.4", "::ffff:1.2.3", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
        "::1.2.3.4:5", "1.2.3.4::", "FE80::ABCD", "fe80::1%1", "::1/128", "1:2:3:4::5:6:7:8",
        "1:2:3::4:5:6:7:8", "::1.2.3.256", "1::1.2.3.4", "::1:2:3:4:5:6:1.2.3.4", "[::1]",
    };
    uint8_t want[16];

    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct config_address got;
        bool read = config_ip_parse(span_text(texts[i]), &got);
        memset(want, 0, sizeof(want));
        bool ipv4 = inet_pton(AF_INET, texts[i], want) == 1;
        bool ipv6 = !ipv4 && inet_pton(AF_INET6, texts[i], want) == 1;
        cr_assert_eq(read, ipv4 || ipv6, "%s", texts[i]);
        if (!read)
            continue;
        cr_assert_eq(got.family, ipv4 ? 4 : 6, "%s", texts[i]);
        cr_assert_eq(memcmp(got.ip, want, 16), 0, "%s", texts[i]);
    }
}

Test(config, nearest_words)
{
    static const char *const words[] = { "workers", "listen", "log", "tls" };
    static const struct {
        const char *word, *want;
    } rows[] = {
        { "wrokers", "workers" }, { "worker", "workers" }, { "WORKERS", "workers" },
        { "lisen", "listen" }, { "listens", "listen" }, { "tsl", "tls" }, { "lgo", "log" },
        { "red", NULL }, { "x", NULL }, { "", NULL }, { "hostname", NULL }, { "woks", NULL },
        { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *got = config_nearest_word(span_text(rows[i].word), words, COUNT_OF(words));
        cr_assert_eq(got == NULL, rows[i].want == NULL, "%s: %s", rows[i].word, got ? got : "none");
        if (got != NULL)
            cr_assert_str_eq(got, rows[i].want);
    }
}

/* Every row of options.def: its ends and its default are accepted, what is beyond is refused. */
static void
check_option(const struct config_option *option, const char *place)
{
    char text[CONFIG_TEXT_BYTES_MAX], problem[CONFIG_PROBLEM_BYTES_MAX];
    char spelled[CONFIG_NUMBER_TEXT_MAX];
    const uint64_t values[] = { option->min, option->value, option->max };
    union {
        char bytes[1024];
        uint64_t align;
    } target;

    for (size_t i = 0; i < COUNT_OF(values); i++) {
        uint64_t stored = 0;
        config_option_spell(option, values[i], spelled);
        memset(&target, 0, sizeof(target));
        cr_assert(option->offset + option->size <= sizeof(target));
        cr_assert(config_option_read(option, span_text(spelled), &target, problem), "%s.%s: %s",
                  option->section, option->key, problem);
        memcpy(&stored, target.bytes + option->offset, option->size);
        cr_assert_eq(stored, values[i], "%s.%s", option->section, option->key);
    }
    if (option->type == CONFIG_OPTION_BOOL || option->type == CONFIG_OPTION_CHOICE)
        return;
    for (int above = option->min == 0; above < 2; above++) { /* nothing is below 0 */
        config_option_spell(option, above ? option->max + 1 : option->min - 1, spelled);
        cr_assert_not(config_option_read(option, span_text(spelled), &target, problem), "%s.%s: %s",
                      option->section, option->key, spelled);
        (void)snprintf(text, sizeof(text), "%s is too %s", spelled, above ? "large" : "small");
        cr_assert_eq(strncmp(problem, text, strlen(text)), 0, "%s", problem);
    }
    (void)snprintf(text, sizeof(text), place, option->key, "x");
    cr_assert_null(config_text_parse(text, &errors));
    cr_assert_eq(errors.items[0].line, 1, "%s", errors.items[0].text);
    cr_assert_not_null(strstr(errors.items[0].text, option->key), "%s", errors.items[0].text);
}

Test(config, every_option)
{
    static const struct {
        const char *section, *place;
    } rows[] = {
        { "listener", "listen: { a: { address: 127.0.0.1:25, %s: %s } }\n" },
        { "tls", "tls: { %s: %s }\n" },
        { "next_hop", "next_hop: { internal: { servers: a.b, %s: %s } }\n" },
        { "delivery", "delivery: { %s: %s }\n" },
        { "spool", "spool: { directory: a, %s: %s }\n" },
        { "log", "log: { %s: %s }\n" },
        { "limits", "limits: { %s: %s }\n" },
        { "timeouts", "timeouts: { %s: %s }\n" },
    };
    size_t count;

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct config_option *options = config_options_of(rows[i].section, &count);
        cr_assert_gt(count, 0, "%s", rows[i].section);
        for (size_t k = 0; k < count; k++)
            check_option(&options[k], rows[i].place);
    }
    cr_assert_null(config_options_of("nothing", &count));
    cr_assert_eq(count, 0);
}

/* --- hostile sizes --- */

Test(config, large_files)
{
    static char text[CONFIG_FILE_BYTES_MAX];
    size_t len = 0;

    /* Many small nodes, under a key that no one knows. */
    memset(text, '[', sizeof(text));
    cr_assert_null(config_parse(text, sizeof(text), "t.yaml", "", NULL, &errors));
    len = (size_t)snprintf(text, sizeof(text), "foo: [");
    while (len + 4 < sizeof(text)) {
        text[len++] = 'a';
        text[len++] = ',';
    }
    text[len++] = ']';
    cr_assert_null(config_parse(text, len, "t.yaml", "", "m.example", &errors));
    cr_assert_not_null(strstr(errors.items[0].text, "unknown key 'foo'"), "%s",
                       errors.items[0].text);

    /* Aliases of aliases: small in the file, 10^9 nodes when copied. */
    len = (size_t)snprintf(text, sizeof(text), "a0: &a0 [ x ]\n");
    for (unsigned i = 1; i < 10; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len,
                                "a%u: &a%u "
                                "[*a%u,*a%u,*a%u,*a%u,*a%u,*a%u,*a%u,*a%u]\n", i, i, i - 1,
                                i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    len += (size_t)snprintf(text + len, sizeof(text) - len, "accept: { domains: *a9 }\n");
    cr_assert_null(config_parse(text, len, "t.yaml", "", NULL, &errors));
    cr_assert_gt(errors.error_count, 10);
}

/* --- the reference --- */

static size_t
read_document(char *text)
{
    FILE *file = fopen("docs/CONFIGURATION.md", "r");

    cr_assert_not_null(file, "docs/CONFIGURATION.md: run the tests in the source directory");
    size_t len = fread(text, 1, DOCUMENT_BYTES_MAX - 1, file);
    cr_assert_lt(len, DOCUMENT_BYTES_MAX - 1);
    text[len] = '\0';
    (void)fclose(file);
    return len;
}

/* What lies between two marks of the document. */
static struct span
between(const char *text, const char *start, const char *end)
{
    const char *from = strstr(text, start);

    cr_assert_not_null(from, "%s", start);
    from += strlen(start);
    const char *to = strstr(from, end);
    cr_assert_not_null(to, "%s", end);
    return span_of(from, (size_t)(to - from));
}

Test(config, reference_is_in_step)
{
    static char text[DOCUMENT_BYTES_MAX];
    char *rows = NULL;
    size_t rows_len;
    FILE *out = open_memstream(&rows, &rows_len);

    (void)read_document(text);
    cr_assert_not_null(out);
    config_print_options(out);
    cr_assert_eq(fclose(out), 0);
    struct span written = between(text, "<!-- options -->\n", "<!-- end of options -->");
    cr_assert(span_equal(written, span_of(rows, rows_len)),
              "docs/CONFIGURATION.md is out of step with core/options.def; expected:\n%s", rows);
    free(rows);

    /* Its examples are whole configurations, and they load. */
    size_t examples = 0;
    for (const char *rest = text; (rest = strstr(rest, "```yaml\n")) != NULL; rest++) {
        struct span example = between(rest, "```yaml\n", "```");
        struct config *config =
            config_parse(example.data, example.len, "t.yaml", "", "m.example", &errors);
        cr_assert_not_null(config, "%s", errors.items[0].text);
        cr_assert_eq(errors.count, 0, "%s", errors.items[0].text);
        config_free(config);
        examples++;
    }
    cr_assert_geq(examples, 2);
}
