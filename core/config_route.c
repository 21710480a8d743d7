/* Where mail may go and which way: accepted domains, next hops with their servers, routes. */
#include "core/config_option.h"
#include "core/config_section.h"

#include <stdlib.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

struct pattern {
    char *text;
    uint32_t next_hop; /* of a route */
    const struct config_node *node;
};

/* 0: a name; 1: "*.example.com"; 2: "*" */
static int
pattern_rank(const char *text)
{
    return text[0] != '*' ? 0 : text[1] != '\0' ? 1 : 2;
}

/* The order told at struct config_accept. The same pattern twice: in the order of the file. */
static int
pattern_compare(const void *left, const void *right)
{
    const struct pattern *a = left, *b = right;
    int rank = pattern_rank(a->text), order = rank - pattern_rank(b->text);

    if (order == 0 && rank == 1) {
        size_t a_len = strlen(a->text), b_len = strlen(b->text);
        order = a_len == b_len ? 0 : a_len > b_len ? -1 : 1;
    }
    if (order == 0)
        order = strcmp(a->text, b->text);
    if (order == 0)
        order = a->node->place.line < b->node->place.line ? -1
                : a->node->place.line > b->node->place.line ? 1
                : a->node->place.column < b->node->place.column ? -1 : 1;
    return order;
}

/* Sorts, reports doubles, and returns how many are names without a wildcard. */
static size_t
sort_patterns(struct config_walk *walk, struct pattern *patterns, size_t count)
{
    size_t exact_count = 0;

    if (count > 0)
        qsort(patterns, count, sizeof(patterns[0]), pattern_compare);
    for (size_t i = 0; i < count; i++) {
        exact_count += pattern_rank(patterns[i].text) == 0;
        if (i > 0 && strcmp(patterns[i - 1].text, patterns[i].text) == 0)
            config_walk_error(walk, patterns[i].node, "duplicate '%.60s', it stands on line %u too",
                              patterns[i].text, patterns[i - 1].node->place.line);
    }
    return exact_count;
}

/* Reads one domain; false after a report. */
static bool
read_pattern(struct config_walk *walk, const struct config_node *node, struct pattern *pattern)
{
    bool star = strcmp(node->text, "*") == 0;
    const char *problem = star ? NULL : config_domain_check(config_node_span(node));

    if (problem != NULL) {
        config_walk_problem(walk, node, problem);
        return false;
    }
    pattern->node = node;
    pattern->text = config_walk_copy_lower(walk, config_node_span(node));
    return pattern->text != NULL;
}

void
config_read_domains(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_accept *accept = target;
    size_t count, kept = 0;

    if (node->kind == CONFIG_LIST && node->count == 0)
        return;
    const struct config_node *item = config_walk_list(walk, node, CONFIG_FILE_BYTES_MAX, &count);
    struct pattern *patterns = config_walk_scratch(walk, count, sizeof(*patterns));
    accept->domains = config_walk_array(walk, count, sizeof(*accept->domains));
    if (patterns == NULL || accept->domains == NULL)
        return;
    for (size_t i = 0; i < count; i++, item = item->next) {
        if (!config_walk_is_text(walk, item))
            continue;
        if (strcmp(item->text, "*") == 0)
            config_walk_problem(walk, item, "would accept mail for every domain from anyone: an "
                                            "open relay; expected the names of your domains");
        else if (read_pattern(walk, item, &patterns[kept]))
            kept++;
    }
    accept->domain_exact_count = sort_patterns(walk, patterns, kept);
    accept->domain_count = kept;
    for (size_t i = 0; i < kept; i++)
        accept->domains[i] = patterns[i].text;
}

/* --- next hops --- */

static void
read_tls_name(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_next_hop *hop = target;

    if (!config_walk_is_text(walk, node))
        return;
    const char *problem = config_host_name_check(config_node_span(node));
    if (problem != NULL) {
        config_walk_problem(walk, node, problem);
        return;
    }
    hop->tls_name = config_walk_copy_lower(walk, config_node_span(node));
    if (hop->tls == CONFIG_HOP_TLS_NONE)
        config_walk_warn(walk, node, "has no effect with tls: none");
}

static void
read_ca(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_next_hop *hop = target;

    if (!config_walk_is_text(walk, node))
        return;
    hop->ca = config_walk_path(walk, config_node_span(node));
    if (hop->tls != CONFIG_HOP_TLS_VERIFY)
        config_walk_warn(walk, node, "has no effect without tls: verify");
}

static bool
is_unspecified(const struct config_address *address)
{
    static const uint8_t zero[16];

    return memcmp(address->ip, zero, sizeof(zero)) == 0;
}

static bool
is_loopback(const struct config_address *address)
{
    static const uint8_t loopback6[16] = { [15] = 1 };

    if (address->family == CONFIG_ADDRESS_IPV4)
        return address->ip[0] == 127;
    return memcmp(address->ip, loopback6, sizeof(loopback6)) == 0;
}

/* Whether connecting to the server ends at this address of ours. Names are not looked up: a loop
 * through DNS is found by counting Received: lines (RFC 5321 6.3). */
static bool
server_is_address(const struct config_server *server, const struct config_address *address,
                  const char *hostname)
{
    bool every = is_unspecified(address);

    if (server->port != address->port)
        return false;
    if (!server->numeric) {
        if (strcmp(server->host, "localhost") == 0)
            return every || is_loopback(address);
        return hostname != NULL &&
               span_equal_ignore_case(span_text(server->host), span_text(hostname));
    }
    if (every && (is_loopback(&server->address) || is_unspecified(&server->address)))
        return true;
    return server->address.family == address->family &&
           memcmp(server->address.ip, address->ip, sizeof(address->ip)) == 0;
}

static void
check_loop(struct config_walk *walk, const struct config_node *node,
           const struct config_server *server)
{
    const struct config *config = walk->config;

    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_listener *listener = &config->listeners[i];
        for (size_t k = 0; k < listener->address_count; k++) {
            if (!server_is_address(server, &listener->addresses[k], config->hostname))
                continue;
            config_walk_error(walk, node, "'%.60s' is listen.%s of this configuration: a loop; "
                                          "expected another server", node->text, listener->name);
            return;
        }
    }
}

static void
check_server(struct config_walk *walk, const struct config_node *node,
             const struct config_next_hop *hop, const struct config_server *server)
{
    check_loop(walk, node, server);
    for (const struct config_server *other = hop->servers; other < server; other++) {
        if (other->port != server->port || strcmp(other->host, server->host) != 0)
            continue;
        config_walk_error(walk, node, "duplicate '%.60s', expected each server once", node->text);
        break;
    }
    if (hop->tls == CONFIG_HOP_TLS_VERIFY && server->numeric && hop->tls_name == NULL)
        config_walk_error(walk, node, "'%.60s' is an address, and tls: verify needs a name: "
                                      "expected a host name here, or tls_name beside servers",
                          node->text);
}

static void
read_server(struct config_walk *walk, const struct config_node *node, struct config_next_hop *hop)
{
    struct config_server *server = &hop->servers[hop->server_count];
    struct span host;

    if (!config_walk_is_text(walk, node))
        return;
    const char *problem = config_server_parse(config_node_span(node), server, &host);
    if (problem != NULL) {
        config_walk_problem(walk, node, problem);
        return;
    }
    server->group = hop->group_count;
    server->text = config_walk_copy(walk, config_node_span(node));
    server->host = config_walk_copy_lower(walk, host);
    server->address.text = server->text;
    if (server->text == NULL || server->host == NULL)
        return;
    hop->server_count++;
    check_server(walk, node, hop, server);
}

/* Each entry is a server, or a list of servers that are equal. */
static size_t
count_servers(const struct config_node *item, size_t item_count)
{
    size_t count = 0;

    for (size_t i = 0; i < item_count; i++, item = item->next)
        count += item->kind == CONFIG_LIST ? item->count : 1;
    return count;
}

static void
read_servers(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_next_hop *hop = target;
    bool share = hop->balance == CONFIG_BALANCE_SHARE;
    size_t item_count;
    const struct config_node *item = config_walk_list(walk, node, SERVERS_PER_HOP_MAX, &item_count);

    if (item == NULL)
        return;
    size_t count = count_servers(item, item_count);
    if (count > SERVERS_PER_HOP_MAX) {
        config_walk_error(walk, node, "%zu servers, expected at most %d", count,
                          SERVERS_PER_HOP_MAX);
        return;
    }
    hop->servers = config_walk_array(walk, count, sizeof(*hop->servers));
    if (hop->servers == NULL)
        return;
    for (size_t i = 0; i < item_count; i++, item = item->next) {
        size_t member_count = 1;
        const struct config_node *member = item;
        if (item->kind == CONFIG_LIST && share)
            config_walk_error(walk, item, "a list inside the list, expected none: balance: share "
                                          "makes all servers equal");
        if (item->kind == CONFIG_LIST)
            member = config_walk_list(walk, item, SERVERS_PER_HOP_MAX, &member_count);
        for (size_t k = 0; member != NULL && k < member_count; k++, member = member->next)
            read_server(walk, member, hop);
        if (!share || i + 1 == item_count)
            hop->group_count++;
    }
}

void
config_read_next_hops(struct config_walk *walk, const struct config_node *node, void *target)
{
    /* The servers are checked against what stands before them here. */
    static const struct config_key keys[] = {
        { "tls_name", NULL, read_tls_name },
        { "ca", NULL, read_ca },
        { "servers", "a list such as [ \"mx1.example.com:25\", \"192.0.2.1:25\" ]", read_servers },
    };
    static const struct config_schema schema = { "next_hop", keys, COUNT_OF(keys) };
    struct config *config = target;

    if (!config_walk_names(walk, node, "next hop", NEXT_HOPS_MAX))
        return;
    config->next_hops = config_walk_array(walk, node->count / 2, sizeof(*config->next_hops));
    if (config->next_hops == NULL)
        return;
    for (const struct config_node *key = node->first; key != NULL; key = key->next->next) {
        struct config_next_hop *hop = &config->next_hops[config->next_hop_count];
        hop->name = config_walk_copy(walk, config_node_span(key));
        if (hop->name == NULL)
            return;
        config->next_hop_count++;
        config_options_default("next_hop", hop);
        size_t label = config_walk_enter(walk, hop->name);
        config_walk_map(walk, key->next, &schema, hop);
        config_walk_leave(walk, label);
    }
}

/* --- routes --- */

static bool
find_next_hop(struct config_walk *walk, const struct config_node *node, uint32_t *next_hop)
{
    const struct config *config = walk->config;
    const char *names[NEXT_HOPS_MAX];

    if (!config_walk_is_text(walk, node))
        return false;
    for (size_t i = 0; i < config->next_hop_count; i++) {
        names[i] = config->next_hops[i].name;
        if (strcmp(names[i], node->text) != 0)
            continue;
        *next_hop = (uint32_t)i;
        return true;
    }
    /* With no next hop at all that is what was reported. */
    if (config->next_hop_count == 0)
        return false;
    const char *nearest =
        config_nearest_word(config_node_span(node), names, config->next_hop_count);
    if (nearest != NULL)
        config_walk_error(walk, node, "unknown next hop '%.60s', did you mean '%s'?", node->text,
                          nearest);
    else
        config_walk_error(walk, node, "unknown next hop '%.60s', expected a name in next_hop",
                          node->text);
    return false;
}

void
config_read_routes(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config *config = target;
    size_t kept = 0;

    if (!config_walk_is_map(walk, node))
        return;
    if (node->count == 0) {
        config_walk_error(walk, node, "empty, expected at least one route");
        return;
    }
    struct pattern *patterns = config_walk_scratch(walk, node->count / 2, sizeof(*patterns));
    config->routes = config_walk_array(walk, node->count / 2, sizeof(*config->routes));
    if (patterns == NULL || config->routes == NULL)
        return;
    for (const struct config_node *key = node->first; key != NULL; key = key->next->next) {
        size_t label = config_walk_enter(walk, key->text);
        bool found = find_next_hop(walk, key->next, &patterns[kept].next_hop);
        config_walk_leave(walk, label);
        if (read_pattern(walk, key, &patterns[kept]) && found)
            kept++;
    }
    config->route_exact_count = sort_patterns(walk, patterns, kept);
    config->route_count = kept;
    for (size_t i = 0; i < kept; i++)
        config->routes[i] = (struct config_route){ patterns[i].text, patterns[i].next_hop };
}
