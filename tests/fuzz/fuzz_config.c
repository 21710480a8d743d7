/* A configuration may be any bytes: a half-written file, a disk image, a million brackets. Oracles:
 * it is accepted without an error or refused with one; what is accepted keeps the promises of
 * config.h; messages have their shape; the same bytes give the same messages. */
#include <stdint.h>

#include "core/config.h"
#include "core/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
check_messages(const struct config_errors *errors)
{
    ASSERT(errors->count <= CONFIG_ERRORS_MAX);
    ASSERT(errors->count <= errors->error_count + errors->warning_count);
    for (size_t i = 0; i < errors->count; i++) {
        const struct config_error *item = &errors->items[i];
        struct span text = span_text(item->text);
        ASSERT(i == 0 || errors->items[i - 1].line <= item->line);
        ASSERT(span_starts_ignore_case(text, SPAN("fuzz.yaml:")));
        ASSERT(strstr(item->text, item->warning ? ": warning: " : ": error: ") != NULL);
        ASSERT(utf8_valid(text));
        for (size_t k = 0; k < text.len; k++)
            ASSERT((uint8_t)text.data[k] >= ' ' || text.data[k] == '\n' || text.data[k] == '\t');
        if (text.len + 1 < sizeof(item->text))
            ASSERT(text.data[text.len - 1] == '\n');
    }
}

static bool
is_wildcard(const char *pattern)
{
    return pattern[0] == '*';
}

static void
check_order(const char *before, const char *pattern, bool exact)
{
    ASSERT(is_wildcard(pattern) == !exact);
    for (size_t i = 0; pattern[i] != '\0'; i++)
        ASSERT(pattern[i] == char_lower(pattern[i]));
    if (before == NULL)
        return;
    if (!is_wildcard(pattern))
        ASSERT(strcmp(before, pattern) < 0);
    else if (is_wildcard(before))
        ASSERT(strlen(before) >= strlen(pattern) && strcmp(before, pattern) != 0);
}

static void
check_next_hop(const struct config_next_hop *hop)
{
    uint32_t group = 0;

    ASSERT(hop->server_count > 0 && hop->server_count <= SERVERS_PER_HOP_MAX);
    ASSERT(hop->group_count > 0 && hop->group_count <= hop->server_count);
    for (size_t i = 0; i < hop->server_count; i++) {
        const struct config_server *server = &hop->servers[i];
        ASSERT(server->group == group || server->group == group + 1);
        group = server->group;
        ASSERT(server->host[0] != '\0' && server->port > 0);
        ASSERT(server->numeric || hop->tls_name != NULL || server->host[0] != '[');
        ASSERT(!(server->numeric && hop->tls == CONFIG_HOP_TLS_VERIFY && hop->tls_name == NULL));
    }
    ASSERT(hop->servers[0].group == 0 && group + 1 == hop->group_count);
    ASSERT(hop->connections >= 1 && hop->messages_per_connection >= 1);
}

static void
check_config(const struct config *config)
{
    ASSERT(config->hostname[0] != '\0' && strlen(config->hostname) <= DOMAIN_BYTES_MAX);
    ASSERT(config->workers <= WORKERS_MAX);
    ASSERT(config->listener_count > 0 && config->listener_count <= LISTENERS_MAX);
    for (size_t i = 0; i < config->listener_count; i++) {
        ASSERT(config->listeners[i].address_count > 0);
        if (config->listeners[i].tls != CONFIG_LISTENER_TLS_NONE)
            ASSERT(config->certificate_count > 0);
    }
    for (size_t i = 0; i < config->certificate_count; i++)
        ASSERT(config->certificates[i].certificate != NULL && config->certificates[i].key != NULL);
    for (size_t i = 0; i < config->accept.network_count; i++)
        ASSERT(config->accept.networks[i].prefix > 0 && config->accept.networks[i].prefix <= 128);
    for (size_t i = 0; i < config->accept.domain_count; i++) {
        char *const *domains = config->accept.domains;
        check_order(i > 0 ? domains[i - 1] : NULL, domains[i],
                    i < config->accept.domain_exact_count);
        ASSERT(strcmp(domains[i], "*") != 0);
    }
    ASSERT(config->next_hop_count > 0 && config->next_hop_count <= NEXT_HOPS_MAX);
    for (size_t i = 0; i < config->next_hop_count; i++)
        check_next_hop(&config->next_hops[i]);
    ASSERT(config->route_count > 0);
    for (size_t i = 0; i < config->route_count; i++) {
        check_order(i > 0 ? config->routes[i - 1].pattern : NULL, config->routes[i].pattern,
                    i < config->route_exact_count);
        ASSERT(config->routes[i].next_hop < config->next_hop_count);
    }
    ASSERT(config->spool.directory != NULL);
    ASSERT(config->delivery.buffer <= config->limits.receive_memory);
    ASSERT(config->spool.retry_count > 0);
    ASSERT(config->limits.command_line <= COMMAND_LINE_BYTES_MAX);
    ASSERT(config->timeouts.server_retry_ms <= config->timeouts.server_retry_max_ms);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct config_errors first, second;
    struct config *config = config_parse((const char *)data, len, "fuzz.yaml", "/etc/ringpost",
                                         "fuzz.example.com", &first);
    struct config *again = config_parse((const char *)data, len, "fuzz.yaml", "/etc/ringpost",
                                        "fuzz.example.com", &second);

    ASSERT((config == NULL) == (first.error_count > 0));
    ASSERT((again == NULL) == (config == NULL));
    ASSERT(first.count == second.count && first.error_count == second.error_count);
    for (size_t i = 0; i < first.count; i++)
        ASSERT(strcmp(first.items[i].text, second.items[i].text) == 0);
    check_messages(&first);
    if (config != NULL)
        check_config(config);
    config_free(config);
    config_free(again);
    return 0;
}
