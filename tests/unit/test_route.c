/* Domain comparison, and the route table against a search of all patterns. */
#include <criterion/criterion.h>

#include <ctype.h>
#include <stdio.h>

#include "core/access.h"
#include "core/domain.h"
#include "relay/route.h"
#include "tests/unit/config_text.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

static int
sign(int n)
{
    return (n > 0) - (n < 0);
}

Test(domain, compares_as_strcmp_of_lower_case)
{
    static const char *const texts[] = {
        "",
        "a",
        "A",
        "b",
        "aa",
        "ab",
        "a.b",
        "a-b",
        "a_b",
        "A.B",
        "example.com",
        "EXAMPLE.com",
        "example.con",
        "example.co",
        "example.comm",
        "xn--bcher-kva.example",
        "b\303\274cher.example",
        "[127.0.0.1]",
        "z",
        "_",
        "~",
    };
    static struct guard guard;

    for (size_t i = 0; i < COUNT_OF(texts); i++)
        for (size_t j = 0; j < COUNT_OF(texts); j++) {
            char name[64], other[64];

            for (size_t k = 0; k <= strlen(texts[i]); k++)
                name[k] = (char)tolower((unsigned char)texts[i][k]);
            for (size_t k = 0; k <= strlen(texts[j]); k++)
                other[k] = (char)tolower((unsigned char)texts[j][k]);
            cr_assert_eq(sign(domain_compare(name, guard_end(&guard, texts[j], strlen(texts[j])))),
                         sign(strcmp(name, other)), "%s, %s", texts[i], texts[j]);
        }
    guard_close(&guard);
}

Test(domain, a_nul_is_no_end)
{
    cr_assert_lt(domain_compare("example.com", SPAN("example.com\0.other.example")), 0);
    cr_assert_lt(domain_compare("", SPAN("\0")), 0);
    cr_assert_gt(domain_compare("example.com", SPAN("example\0com")), 0);
}

Test(domain, wildcards)
{
    static const struct {
        const char *wildcard, *domain;
        bool want;
    } rows[] = {
        { "*.example.com", "a.example.com", true },
        { "*.example.com", "A.EXAMPLE.COM", true },
        { "*.example.com", "b.a.example.com", true },
        { "*.example.com", "example.com", false },
        { "*.example.com", ".example.com", false },
        { "*.example.com", "xexample.com", false },
        { "*.example.com", "a.example.com.other", false },
        { "*.example.com", "com", false },
        { "*.example.com", "", false },
        { "*.com", "example.com", true },
        { "*", "example.com", true },
        { "*", "[127.0.0.1]", true },
        { "*", "", false },
    };
    static struct guard guard;

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_assert_eq(domain_matches(rows[i].wildcard,
                                    guard_end(&guard, rows[i].domain, strlen(rows[i].domain))),
                     rows[i].want, "%s, %s", rows[i].wildcard, rows[i].domain);
    guard_close(&guard);
}

/* --- routes --- */

static struct config *
config_of(const char *text)
{
    static struct config_errors errors;
    struct config *config = config_parse(text, strlen(text), "t.yaml", "", NULL, &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    return config;
}

#define HEAD                                              \
    "hostname: Edge.Example.COM\n"                        \
    "listen: { smtp: { address: \"127.0.0.1:2525\" } }\n" \
    "accept: { networks: \"127.0.0.0/8\" }\n"             \
    "next_hop:\n"                                         \
    "  h0: { servers: \"127.0.0.1:2600\" }\n"             \
    "  h1: { servers: \"127.0.0.1:2601\" }\n"             \
    "  h2: { servers: \"127.0.0.1:2602\" }\n"             \
    "  h3: { servers: \"127.0.0.1:2603\" }\n"             \
    "  h4: { servers: \"127.0.0.1:2604\" }\n"             \
    "  h5: { servers: \"127.0.0.1:2605\" }\n"

static struct path
path_to(const char *domain)
{
    return (struct path){ .local = SPAN("user"), .domain = span_text(domain) };
}

Test(route, the_most_specific_wins)
{
    static const struct {
        const char *name, *routes, *domain;
        uint32_t want;
    } rows[] = {
        { "the only one", "\"*\": h1", "example.com", 1 },
        { "exact before all", "\"*\": h0, \"*.com\": h1, example.com: h2", "example.com", 2 },
        { "any case", "example.com: h2, \"*\": h0", "EXAMPLE.Com", 2 },
        { "wildcard before all", "\"*\": h0, \"*.com\": h1, example.com: h2", "other.com", 1 },
        { "the longer wildcard", "\"*.com\": h1, \"*.a.com\": h2, \"*.b.a.com\": h3", "c.b.a.com",
          3 },
        { "the longer wildcard that matches", "\"*.com\": h1, \"*.a.com\": h2, \"*.b.a.com\": h3",
          "b.a.com", 2 },
        { "a wildcard is not its own domain", "\"*.a.com\": h2, \"*\": h5", "a.com", 5 },
        { "exact below a wildcard", "\"*.a.com\": h2, x.a.com: h4", "x.a.com", 4 },
        { "below an exact one", "a.com: h2, \"*\": h5", "x.a.com", 5 },
        { "none", "a.com: h2, \"*.b.com\": h1", "c.com", ROUTE_NONE },
        { "first of many", "a.com: h1, b.com: h2, c.com: h3, d.com: h4", "a.com", 1 },
        { "last of many", "a.com: h1, b.com: h2, c.com: h3, d.com: h4", "d.com", 4 },
        { "before the first", "b.com: h1, c.com: h2", "a.com", ROUTE_NONE },
        { "behind the last", "b.com: h1, c.com: h2", "d.com", ROUTE_NONE },
        { "a literal", "example.com: h1, \"*\": h3", "[192.0.2.1]", 3 },
        { "a literal without *", "example.com: h1", "[192.0.2.1]", ROUTE_NONE },
        { "no domain: our own name", "edge.example.com: h4, \"*\": h3", "", 4 },
        { "no domain: our own name by wildcard", "\"*.example.com\": h2, \"*\": h3", "", 2 },
        { "no domain, no route", "example.org: h2", "", ROUTE_NONE },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[2048];
        struct path path = path_to(rows[i].domain);
        struct config *config;

        snprintf(text, sizeof(text), HEAD "route: { %s }\n", rows[i].routes);
        config = config_of(text);
        cr_assert_eq(route_find(config, &path), rows[i].want, "%s: %u", rows[i].name,
                     route_find(config, &path));
        config_free(config);
    }
}

/* Labels few and short, so that much matches much. */
static void
draw_name(struct seeded *seeded, char *out, unsigned labels_max)
{
    unsigned labels = 1 + (unsigned)seeded_below(seeded, labels_max);

    for (unsigned i = 0; i < labels; i++) {
        *out++ = (char)('a' + seeded_below(seeded, 3));
        if (seeded_below(seeded, 3) == 0)
            *out++ = (char)('a' + seeded_below(seeded, 3));
        *out++ = '.';
    }
    memcpy(out, "xy", 3);
}

/* Index of the most specific pattern, by looking at all; count: none. */
static size_t
find_slowly(char patterns[][64], size_t count, const char *domain)
{
    size_t best = count, best_len = 0, len = strlen(domain);

    for (size_t i = 0; i < count; i++) {
        size_t suffix = strlen(patterns[i]) - 1;

        if (strcmp(patterns[i], domain) == 0)
            return i;
        if (patterns[i][0] == '*' && len > suffix && suffix + 1 > best_len &&
            strcmp(domain + len - suffix, patterns[i] + 1) == 0) {
            best = i;
            best_len = suffix + 1;
        }
    }
    return best;
}

static void
check_table(struct seeded *seeded, size_t count)
{
    char patterns[80][64], routes[8192], domains[8192], text[20000];
    size_t routes_len = 0, domains_len = 0, made = 0;
    struct config *config;

    while (made < count) {
        char *pattern = patterns[made];
        bool wild = seeded_below(seeded, 3) == 0, known = false;

        memcpy(pattern, "*.", 3);
        draw_name(seeded, wild ? pattern + 2 : pattern, 4);
        for (size_t i = 0; i < made; i++)
            known |= strcmp(patterns[i], pattern) == 0;
        if (known)
            continue;
        routes_len += (size_t)snprintf(routes + routes_len, sizeof(routes) - routes_len,
                                       "%s\"%s\": h%zu", made == 0 ? "" : ", ", pattern, made % 6);
        domains_len += (size_t)snprintf(domains + domains_len, sizeof(domains) - domains_len,
                                        "%s\"%s\"", made == 0 ? "" : ", ", pattern);
        made++;
    }
    snprintf(text, sizeof(text),
             "hostname: edge.example\nlisten: { smtp: { address: \"127.0.0.1:2525\" } }\n"
             "accept: { domains: [ %s ] }\n%s"
             "route: { %s }\n",
             domains, strstr(HEAD, "next_hop"), routes);
    config = config_of(text);
    for (unsigned i = 0; i < 2000; i++) {
        char domain[64];
        struct path path;
        size_t want, found;

        draw_name(seeded, domain, 6);
        want = find_slowly(patterns, count, domain);
        if (seeded_below(seeded, 2) == 0)
            domain[0] = (char)toupper(domain[0]);
        path = path_to(domain);
        cr_assert_eq(route_find(config, &path), want < count ? want % 6 : ROUTE_NONE, "%s in %s",
                     domain, routes);
        found = access_domain_find(config->accept.domains, config->accept.domain_exact_count,
                                   config->accept.domain_count, path.domain);
        if (want == count)
            cr_assert_eq(found, config->accept.domain_count, "%s in %s", domain, domains);
        else
            cr_assert_str_eq(config->accept.domains[found], patterns[want], "%s", domain);
    }
    config_free(config);
}

Test(route, tables_against_a_search_of_all)
{
    static const size_t counts[] = { 1, 2, 3, 7, 20, 50, 80 };
    struct seeded seeded = { 4711 };

    for (size_t i = 0; i < COUNT_OF(counts); i++)
        for (unsigned round = 0; round < 4; round++)
            check_table(&seeded, counts[i]);
}
