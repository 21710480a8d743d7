/* What a good configuration becomes, and how messages are collected and shown. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/config_text.h"

static struct config_errors errors;

/* What is missing as a whole is told at the start of the file. */
Test(config, empty_files)
{
    static const char *const texts[] = { "", "\n", "# only a comment\n", "---\n", "{}", "~" };
    static const char *const wants[] = {
        "1:1: error: 'listen' is missing, expected one such as listen: { smtp: { address: "
        "\"127.0.0.1:2525\" } }",
        "1:1: error: 'next_hop' is missing, expected one such as next_hop: { internal: { servers: "
        "\"127.0.0.1:2626\" } }",
        "1:1: error: 'route' is missing, expected one such as route: { \"*\": internal }",
    };

    for (size_t i = 0; i + 1 < COUNT_OF(texts); i++) {
        const char *text = texts[i];
        cr_assert_null(config_parse(text, strlen(text), "t.yaml", "", "m.example", &errors));
        cr_assert_eq(errors.error_count, COUNT_OF(wants), "'%s'", text);
        for (size_t k = 0; k < COUNT_OF(wants); k++) {
            struct span line = config_text_first_line(&errors.items[k]);
            line = span_after(line, span_starts_ignore_case(line, SPAN("2:1")) ? 3 : 0);
            cr_assert(span_equal(line, span_text(wants[k])), "'%s': %.*s", text, (int)line.len,
                      line.data);
        }
    }
    cr_assert_null(config_parse("~", 1, "t.yaml", "", "m.example", &errors));
    cr_assert_str_eq(errors.items[0].text,
                     "t.yaml:1:1: error: '~' is a value, expected a map of keys and values\n"
                     "    1 | ~\n"
                     "      | ^\n");
}

Test(config, hostname_of_the_machine)
{
    static const struct {
        const char *machine_name;
        const char *want; /* NULL: accepted */
        size_t warning_count;
    } rows[] = {
        { "mx7.example.com", NULL, 0 },
        { "mx7", NULL, 1 },
        { NULL, "t.yaml:1:1: error: 'hostname' is missing and this machine's name cannot stand in "
                "for it, expected one such as edge.example.com\n", 0 },
        { "(none)", "t.yaml:1:1: error: 'hostname' is missing and this machine's name "
          "(none) cannot "
                    "stand in for it, expected one such as edge.example.com\n", 0 },
    };
    static const char text[] = "listen: { a: { address: 127.0.0.1:25 } }\n"
                               "accept: { domains: a.b }\n"
                               "next_hop: { b: { servers: c.d } }\nroute: { \"*\": b }\n";

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct config *config =
            config_parse(text, sizeof(text) - 1, "t.yaml", "", rows[i].machine_name, &errors);
        cr_assert_eq(config == NULL, rows[i].want != NULL, "row %zu", i);
        cr_assert_eq(errors.warning_count, rows[i].warning_count, "row %zu", i);
        if (config != NULL)
            cr_assert_str_eq(config->hostname, rows[i].machine_name);
        else
            cr_assert_eq(strncmp(errors.items[0].text, rows[i].want, strlen(rows[i].want)), 0, "%s",
                         errors.items[0].text);
        config_free(config);
    }
}

/* The file of the contract with users. */
static const char sample[] =
    "hostname: edge.example.com\n"
    "workers: auto                        # one per core this process may run on\n"
    "listen:\n"
    "  smtp: { address: \"127.0.0.1:2525\", tls: starttls }     # tls: none | starttls | implicit\n"
    "tls: { certificate: cert.pem, key: key.pem }             # a list for SNI\n"
    "accept:\n"
    "  networks: [ \"127.0.0.0/8\", \"::1/128\" ]   # clients that may relay anywhere\n"
    "  domains: [ example.com ]                 # anyone may send to these\n"
    "next_hop:\n"
    "  internal: { servers: [ \"127.0.0.1:2626\" ], tls: opportunistic }   # none | require\n"
    "route: { \"*\": internal }             # recipient domain -> next hop; most specific wins\n"
    "delivery: { mode: cut-through, on_defer: spool }         # on_defer: spool | pass\n"
    "spool: { directory: spool, retry: [ 1min, 5min, 15min, 1h ], expire: 5d }   # last repeats\n"
    "stats: { address: \"unix:stats.sock\" }   # and/or \"127.0.0.1:9125\" (a list): HTTP/1.1\n"
    "limits: { message_size: 50mb }\n"
    "log: { target: stderr, format: text }   # target: stderr | syslog | a file\n";

static void
check_sample(const struct config *config, const char *certificate, const char *socket)
{
    static const uint8_t loopback4[16] = { [10] = 0xff, [11] = 0xff, [12] = 127 };
    static const uint8_t loopback6[16] = { [15] = 1 };

    cr_assert_str_eq(config->hostname, "edge.example.com");
    cr_assert_eq(config->workers, 0);
    cr_assert_eq(config->listener_count, 1);
    cr_assert_str_eq(config->listeners[0].name, "smtp");
    cr_assert_eq(config->listeners[0].tls, CONFIG_LISTENER_TLS_STARTTLS);
    cr_assert_eq(config->listeners[0].address_count, 1);
    cr_assert_str_eq(config->listeners[0].addresses[0].text, "127.0.0.1:2525");
    cr_assert_eq(config->listeners[0].addresses[0].family, CONFIG_ADDRESS_IPV4);
    cr_assert_eq(memcmp(config->listeners[0].addresses[0].ip, "\x7f\0\0\1", 4), 0);
    cr_assert_eq(config->listeners[0].addresses[0].port, 2525);
    cr_assert_eq(config->certificate_count, 1);
    cr_assert_str_eq(config->certificates[0].certificate, certificate);
    cr_assert_eq(config->tls.minimum, CONFIG_TLS_MINIMUM_1_2);
    cr_assert(config->tls.tickets);
    cr_assert_eq(config->accept.network_count, 2);
    cr_assert_eq(memcmp(config->accept.networks[0].address, loopback4, 16), 0);
    cr_assert_eq(config->accept.networks[0].prefix, 104);
    cr_assert_eq(memcmp(config->accept.networks[1].address, loopback6, 16), 0);
    cr_assert_eq(config->accept.networks[1].prefix, 128);
    cr_assert_eq(config->accept.domain_count, 1);
    cr_assert_eq(config->accept.domain_exact_count, 1);
    cr_assert_str_eq(config->accept.domains[0], "example.com");
    cr_assert_eq(config->stats.address_count, 1);
    cr_assert_eq(config->stats.addresses[0].family, CONFIG_ADDRESS_UNIX);
    cr_assert_str_eq(config->stats.addresses[0].path, socket);
    cr_assert_str_eq(config->stats.addresses[0].text, "unix:stats.sock");
}

static void
check_sample_delivery(const struct config *config)
{
    const struct config_next_hop *hop = &config->next_hops[0];

    cr_assert_eq(config->next_hop_count, 1);
    cr_assert_str_eq(hop->name, "internal");
    cr_assert_eq(hop->server_count, 1);
    cr_assert_eq(hop->group_count, 1);
    cr_assert_str_eq(hop->servers[0].host, "127.0.0.1");
    cr_assert(hop->servers[0].numeric);
    cr_assert_eq(hop->servers[0].port, 2626);
    cr_assert_eq(hop->servers[0].address.port, 2626);
    cr_assert_eq(hop->tls, CONFIG_HOP_TLS_OPPORTUNISTIC);
    cr_assert_eq(hop->balance, CONFIG_BALANCE_ORDER);
    cr_assert_eq(hop->connections, 64);
    cr_assert_eq(hop->idle_timeout_ms, 30000);
    cr_assert_eq(hop->messages_per_connection, 1000);
    cr_assert_null(hop->ca);
    cr_assert_null(hop->tls_name);
    cr_assert_eq(config->route_count, 1);
    cr_assert_eq(config->route_exact_count, 0);
    cr_assert_str_eq(config->routes[0].pattern, "*");
    cr_assert_eq(config->routes[0].next_hop, 0);
    cr_assert_eq(config->delivery.mode, CONFIG_DELIVERY_CUT_THROUGH);
    cr_assert_eq(config->delivery.on_defer, CONFIG_ON_DEFER_SPOOL);
    cr_assert_eq(config->delivery.buffer, 256 << 10);
    cr_assert_eq(config->delivery.recipient_check, CONFIG_RECIPIENT_CHECK_NONE);
    cr_assert_eq(config->spool.retry_count, 4);
    cr_assert_eq(config->spool.retry_ms[3], 3600000);
    cr_assert_eq(config->spool.expire_ms, 5u * 86400000u);
    cr_assert_eq(config->limits.message_size, 50 << 20);
    cr_assert_eq(config->limits.text_line, 64 << 10);
    cr_assert_eq(config->timeouts.command_ms, 300000);
    cr_assert_eq(config->timeouts.drain_ms, 30000);
    cr_assert_eq(config->log.target, CONFIG_LOG_TARGET_STDERR);
    cr_assert_eq(config->log.format, CONFIG_LOG_FORMAT_TEXT);
}

Test(config, sample_of_the_contract)
{
    struct config *config =
        config_parse(sample, sizeof(sample) - 1, "t.yaml", "/etc/ringpost", NULL, &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    cr_assert_eq(errors.count, 0);
    check_sample(config, "/etc/ringpost/cert.pem", "/etc/ringpost/stats.sock");
    check_sample_delivery(config);
    cr_assert_str_eq(config->spool.directory, "/etc/ringpost/spool");
    cr_assert_str_eq(config->file, "t.yaml");
    config_free(config);
}

static void
write_file(const char *name, const char *text, size_t len)
{
    FILE *file = fopen(name, "w");

    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
}

Test(config, files)
{
    char directory[] = P_tmpdir "/ringpost_config_XXXXXX";
    char name[96], certificate[96], socket[96];
    size_t large = CONFIG_FILE_BYTES_MAX + 1;

    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(name, sizeof(name), "%s/ringpost.yaml", directory);
    (void)snprintf(certificate, sizeof(certificate), "%s/cert.pem", directory);
    (void)snprintf(socket, sizeof(socket), "%s/stats.sock", directory);

    cr_assert_null(config_load(name, NULL, &errors));
    cr_assert_eq(errors.count, 1);
    cr_assert_not_null(strstr(errors.items[0].text, ": error: cannot open: No such file"));
    cr_assert_null(config_load(directory, NULL, &errors));
    cr_assert_not_null(strstr(errors.items[0].text, ": error: cannot read: Is a directory"));

    write_file(name, sample, sizeof(sample) - 1);
    struct config *config = config_load(name, NULL, &errors);
    cr_assert_not_null(config, "%s", errors.items[0].text);
    check_sample(config, certificate, socket);
    cr_assert_str_eq(config->file, name);
    config_free(config);

    /* 1 MiB is read; one byte more is not, whatever it says. */
    char *text = malloc(large);
    cr_assert_not_null(text);
    memset(text, '#', large);
    memcpy(text, sample, sizeof(sample) - 1);
    write_file(name, text, large - 1);
    config = config_load(name, NULL, &errors);
    cr_assert_not_null(config, "%s", errors.items[0].text);
    config_free(config);
    write_file(name, text, large);
    cr_assert_null(config_load(name, NULL, &errors));
    cr_assert_not_null(strstr(errors.items[0].text, ": error: is larger than 1mb"));
    free(text);
    cr_assert_eq(unlink(name), 0);
    cr_assert_eq(rmdir(directory), 0);
}

/* --- accepted forms --- */

Test(config, accepts_yaml_in_all_its_forms)
{
    static const char *const texts[] = {
        "listen:\n  smtp:\n    address:\n      - \"127.0.0.1:2525\"\n      - '[::1]:2525'\n",
        "listen: {smtp: {address: [127.0.0.1:2525, \"[::1]:2525\"]}}\n",
        "%YAML 1.2\n---\nlisten: {smtp: {address: [127.0.0.1:2525, \"[::1]:2525\"]}}\n",
        "\xef\xbb\xbflisten: {smtp: {address: [127.0.0.1:2525, \"[::1]:2525\"]}}\n",
        "listen:\r\n  smtp:\r\n    address: [127.0.0.1:2525, \"[::1]:2525\"]\r\n",
        "\"listen\": {\"smtp\": {\"address\": [\"127.0.0.1:2525\", \"[::1]:2525\"]}}\n",
        "limits:\nlog:\ntls:\nlisten: {smtp: {address: [127.0.0.1:2525, \"[::1]:2525\"]}}\n",
        "stats: {address: '[::1]:1'}\nlisten: {smtp: {address: [127.0.0.1:2525, '[::1]:25']}}\n",
    };

    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct config *config = config_text_parse(texts[i], &errors);
        cr_assert_not_null(config, "%zu: %s", i, errors.items[0].text);
        cr_assert_eq(config->listener_count, 1, "%zu", i);
        cr_assert_eq(config->listeners[0].address_count, 2, "%zu", i);
        cr_assert_eq(config->listeners[0].addresses[1].family, CONFIG_ADDRESS_IPV6, "%zu", i);
        cr_assert_eq(config->listeners[0].addresses[1].ip[15], 1, "%zu", i);
        config_free(config);
    }
}

Test(config, values_keep_their_type)
{
    /* What YAML 1.1 would take for a boolean, a number or nothing is a name here. */
    struct config *config = config_text_parse(
        "listen:\n  no: { address: 127.0.0.1:25 }\n  1: { address: 127.0.0.1:26 }\n"
        "  null: { address: 127.0.0.1:27 }\nspool: { directory: 5 }\nlog: { target: ../x.log }\n",
        &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    cr_assert_str_eq(config->listeners[0].name, "no");
    cr_assert_str_eq(config->listeners[1].name, "1");
    cr_assert_str_eq(config->listeners[2].name, "null");
    cr_assert_str_eq(config->spool.directory, "/etc/ringpost/5");
    cr_assert_eq(config->log.target, CONFIG_LOG_TARGET_FILE);
    cr_assert_str_eq(config->log.path, "/etc/ringpost/../x.log");
    config_free(config);
}

Test(config, aliases)
{
    struct config *config = config_text_parse(
        "next_hop:\n"
        "  a: &hop { servers: &list [ x.example, y.example ], connections: &n 7 }\n"
        "  b: { servers: *list, tls: none }\n  c: *hop\n"
        "limits: { errors: *n }\nroute: { a.example: a, b.example: b, \"*\": c }\n",
        &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    cr_assert_eq(config->next_hop_count, 3);
    cr_assert_eq(config->limits.errors, 7);
    for (size_t i = 0; i < 3; i++) {
        const struct config_next_hop *hop = &config->next_hops[i];
        cr_assert_eq(hop->server_count, 2);
        cr_assert_str_eq(hop->servers[1].host, "y.example");
        cr_assert_eq(hop->connections, i == 1 ? 64 : 7);
    }
    config_free(config);
}

Test(config, certificates)
{
    static const struct {
        const char *text;
        size_t count;
        enum config_tls_minimum minimum;
    } rows[] = {
        { "tls: { certificate: a.pem, key: /b.key }\n", 1, CONFIG_TLS_MINIMUM_1_2 },
        { "tls:\n  - { certificate: a.pem, key: /b.key }\n  - { certificate: c, key: d }\n", 2,
          CONFIG_TLS_MINIMUM_1_2 },
        { "tls: { certificates: { certificate: a.pem, key: /b.key }, minimum: 1.3 }\n", 1,
          CONFIG_TLS_MINIMUM_1_3 },
        { "tls:\n  minimum: \"1.3\"\n  certificates: [ { key: /b.key, certificate: a.pem } ]\n", 1,
          CONFIG_TLS_MINIMUM_1_3 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct config *config = config_text_parse(rows[i].text, &errors);
        cr_assert_not_null(config, "%zu: %s", i, errors.items[0].text);
        cr_assert_eq(config->certificate_count, rows[i].count, "%zu", i);
        cr_assert_str_eq(config->certificates[0].certificate, "/etc/ringpost/a.pem");
        cr_assert_str_eq(config->certificates[0].key, "/b.key");
        cr_assert_eq(config->tls.minimum, rows[i].minimum, "%zu", i);
        config_free(config);
    }
}

Test(config, server_groups)
{
    static const struct {
        const char *text;
        size_t count;
        uint32_t group_count;
        uint32_t groups[4];
    } rows[] = {
        { "next_hop: { internal: { servers: a.b } }\n", 1, 1, { 0 } },
        { "next_hop: { internal: { servers: [ a.b, a.c, a.d ] } }\n", 3, 3, { 0, 1, 2 } },
        { "next_hop: { internal: { servers: [ [ a.b, a.c ], a.d ] } }\n", 3, 2, { 0, 0, 1 } },
        { "next_hop: { internal: { servers: [ a.b, [ a.c, a.d ], [ a.e ] ] } }\n", 4, 3,
          { 0, 1, 1, 2 } },
        { "next_hop: { internal: { servers: [ a.b, a.c ], balance: share } }\n", 2, 1, { 0, 0 } },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct config *config = config_text_parse(rows[i].text, &errors);
        cr_assert_not_null(config, "%zu: %s", i, errors.items[0].text);
        const struct config_next_hop *hop = &config->next_hops[0];
        cr_assert_eq(hop->server_count, rows[i].count, "%zu", i);
        cr_assert_eq(hop->group_count, rows[i].group_count, "%zu: %u", i, hop->group_count);
        for (size_t k = 0; k < hop->server_count; k++) {
            cr_assert_eq(hop->servers[k].group, rows[i].groups[k], "%zu %zu", i, k);
            cr_assert_not(hop->servers[k].numeric);
            cr_assert_eq(hop->servers[k].port, 25);
        }
        config_free(config);
    }
}

Test(config, next_hop_verified)
{
    struct config *config = config_text_parse(
        "next_hop:\n  internal:\n    servers: [ \"192.0.2.1:24\", \"[2001:DB8::1]\" ]\n"
        "    tls: verify\n    tls_name: MX.example.com\n    ca: ca.pem\n",
        &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    const struct config_next_hop *hop = &config->next_hops[0];
    cr_assert_eq(hop->tls, CONFIG_HOP_TLS_VERIFY);
    cr_assert_str_eq(hop->tls_name, "mx.example.com");
    cr_assert_str_eq(hop->ca, "/etc/ringpost/ca.pem");
    cr_assert_str_eq(hop->servers[0].text, "192.0.2.1:24");
    cr_assert_str_eq(hop->servers[1].text, "[2001:DB8::1]");
    cr_assert_str_eq(hop->servers[1].host, "2001:db8::1");
    cr_assert_eq(hop->servers[1].address.family, CONFIG_ADDRESS_IPV6);
    cr_assert_eq(hop->servers[1].address.port, 25);
    config_free(config);
}

Test(config, patterns_are_sorted)
{
    static const char *const routes[] = { "a.example",   "b.example",       "x.b.example",
                                          "*.x.example", "*.y.example",     "*.example", "*" };
    static const char *const domains[] = { "a.example", "z\xc3\xa9.example", "*.long.example",
                                           "*.b.example" };
    struct config *config = config_text_parse(
        "route:\n  \"*.Example\": internal\n  B.example: internal\n  \"*\": internal\n"
        "  \"*.y.example\": internal\n  x.b.example: internal\n  \"*.x.example\": internal\n"
        "  a.example: internal\n"
        "accept: { domains: [ '*.b.example', z\xc3\xa9.example, A.EXAMPLE, '*.long.example' ] }\n",
        &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    cr_assert_eq(config->route_count, COUNT_OF(routes));
    cr_assert_eq(config->route_exact_count, 3);
    for (size_t i = 0; i < COUNT_OF(routes); i++)
        cr_assert_str_eq(config->routes[i].pattern, routes[i]);
    cr_assert_eq(config->accept.domain_count, COUNT_OF(domains));
    cr_assert_eq(config->accept.domain_exact_count, 2);
    for (size_t i = 0; i < COUNT_OF(domains); i++)
        cr_assert_str_eq(config->accept.domains[i], domains[i]);
    config_free(config);
}

/* --- messages --- */

Test(config, messages_show_the_line)
{
    static const struct {
        const char *name, *text, *want;
    } rows[] = {
        { "caret", "hostname: a.b\nlimits: { errors: 0 } # none\n",
          "t.yaml:2:19: error: limits.errors: 0 is too small, expected 1 to 1000\n"
          "    2 | limits: { errors: 0 } # none\n"
          "      |                   ^\n" },
        { "caret counts characters", "limits: { errors: 5, # \xc3\xa9\n  \"\xc3\xa9\": 1, "
          "errors: 6 }\n",
          "t.yaml:2:11: error: limits: duplicate key 'errors', the first one is on line 1\n"
          "    2 |   \"\xc3\xa9\": 1, errors: 6 }\n"
          "      |           ^\n" },
        { "tabs stay tabs", "limits: {\terrors: 0 }\n",
          "t.yaml:1:19: error: limits.errors: 0 is too small, expected 1 to 1000\n"
          "    1 | limits: {\terrors: 0 }\n"
          "      |          \t        ^\n" },
        { "long line",
          "limits: { connections: 1, recipients: 100, received_headers: 10, transactions: "
          "1, errors: "
          "0, text_line: 998 }\n",
          "t.yaml:1:91: error: limits.errors: 0 is too small, expected 1 to 1000\n"
          "    1 | ...ts: 100, received_headers: 10, transactions: 1, errors: 0, text_line: 99...\n"
          "      |                                                            ^\n" },
        { "no control character reaches a terminal", "limits: { errors: 0 } # \xc2\x9b" "31m\n",
          "t.yaml:1:19: error: limits.errors: 0 is too small, expected 1 to 1000\n"
          "    1 | limits: { errors: 0 } # ?31m\n"
          "      |                   ^\n" },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_null(config_text_parse(rows[i].text, &errors), "%s", rows[i].name);
        const char *text = errors.items[errors.count - 1].text;
        cr_assert_str_eq(text, rows[i].want, "%s:\n%s", rows[i].name, text);
    }
}

Test(config, errors_are_collected_in_order)
{
    char text[CONFIG_TEXT_BYTES_MAX] = "timeouts: { mail: 1 }\nhostname: edge\nlimits:\n";
    char *printed = NULL;
    size_t printed_len;

    for (unsigned i = 0; i < 25; i++)
        (void)snprintf(text + strlen(text), 32, "  unheard_of_%u: 1\n", i);
    cr_assert_null(config_text_parse(text, &errors));
    cr_assert_eq(errors.count, CONFIG_ERRORS_MAX);
    cr_assert_eq(errors.error_count, 26);
    cr_assert_eq(errors.warning_count, 1);
    for (size_t i = 0; i < errors.count; i++) {
        cr_assert_not(errors.items[i].warning, "an error takes the place of a warning");
        cr_assert(i == 0 || errors.items[i].line > errors.items[i - 1].line);
    }
    FILE *out = open_memstream(&printed, &printed_len);
    cr_assert_not_null(out);
    config_errors_print(&errors, out);
    cr_assert_eq(fclose(out), 0);
    cr_assert_not_null(strstr(printed, "\nand 7 more\n"));
    free(printed);

    /* The text is in the order of the file though the schema reads `limits` before `timeouts`. */
    struct config *config = config_text_parse(
        "timeouts: { mail: 1 }\nlimits: { errors: 0 }\nfoo: 1\nworkers: x\n", &errors);
    cr_assert_null(config);
    cr_assert_eq(errors.count, 4);
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(errors.items[i].line, i + 1);
}
