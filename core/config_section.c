/* The schema: which keys there are, in which order they are read, what must hold between them. */
#include "core/config_section.h"

#include "core/config_option.h"

#define ADDRESSES_MAX 64
#define CERTIFICATES_MAX 256
#define RETRIES_MAX 64
/* As useradd(8) has it. */
#define CONFIG_USER_BYTES_MAX 32
/* sun_path of struct sockaddr_un is 108 bytes with its NUL. */
#define UNIX_PATH_BYTES_MAX 107
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static void
read_hostname(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config *config = target;
    struct span name = config_node_span(node);

    if (!config_walk_is_text(walk, node))
        return;
    const char *problem = config_host_name_check(name);
    if (problem != NULL) {
        config_walk_problem(walk, node, problem);
        return;
    }
    if (memchr(name.data, '.', name.len) == NULL)
        config_walk_warn(walk, node, "'%s' has no dot; many servers refuse such a name (RFC 5321 "
                                     "4.1.1.1 asks for a full domain)", node->text);
    config->hostname = config_walk_copy(walk, name);
}

/* The file names no host: what the machine is called must do. */
static void
default_hostname(struct config_walk *walk)
{
    const char *name = walk->machine_name;

    if (name == NULL || config_host_name_check(span_text(name)) != NULL) {
        config_walk_error(walk, walk->root, "'hostname' is missing and this machine's name%s%.60s "
                                            "cannot stand in for it, expected one such as "
                                            "edge.example.com",
                          name != NULL ? " " : "", name != NULL ? name : "");
        return;
    }
    if (strchr(name, '.') == NULL)
        config_walk_warn(walk, walk->root, "'hostname' is missing and this machine's name '%.60s' "
                                           "has no dot; many servers refuse such a name", name);
    walk->config->hostname = config_walk_copy(walk, span_text(name));
}

static void
read_workers(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config *config = target;
    uint64_t number;

    if (!config_walk_is_text(walk, node) || strcmp(node->text, "auto") == 0)
        return;
    if (config_number_parse(config_node_span(node), &number) != NULL || number < 1 ||
        number > WORKERS_MAX) {
        config_walk_error(walk, node, "'%.60s' is unknown, expected auto or 1 to %d", node->text,
                          WORKERS_MAX);
        return;
    }
    config->workers = (uint32_t)number;
}

/* Whether there is such a user is a question for the machine that it runs on (privileges.c). */
static void
read_user(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config *config = target;
    struct span name = config_node_span(node);

    if (!config_walk_is_text(walk, node))
        return;
    if (name.len > CONFIG_USER_BYTES_MAX || name.data[0] == '-' ||
        strpbrk(node->text, ":/ ") != NULL) {
        config_walk_error(walk, node, "'%.60s' is no user, expected the name of one of this system",
                          node->text);
        return;
    }
    config->user = config_walk_copy(walk, name);
}

/* --- tls --- */

/* The value of these keys is read by read_certificate(), both together. */
static void
read_later(struct config_walk *walk, const struct config_node *node, void *target)
{
    (void)walk;
    (void)node;
    (void)target;
}

static char *
read_file_name(struct config_walk *walk, const struct config_node *map, const char *key,
               const char *expected)
{
    const struct config_node *value = config_node_find(map, key);
    char *path = NULL;

    if (value == NULL) {
        config_walk_error(walk, map, "'%s' is missing, expected %s", key, expected);
        return NULL;
    }
    size_t label = config_walk_enter(walk, key);
    if (config_walk_is_text(walk, value))
        path = config_walk_path(walk, config_node_span(value));
    config_walk_leave(walk, label);
    return path;
}

static void
read_certificate(struct config_walk *walk, const struct config_node *map,
                 struct config_certificate *certificate)
{
    certificate->certificate =
        read_file_name(walk, map, "certificate", "a PEM file of the certificate and its chain");
    certificate->key = read_file_name(walk, map, "key", "a PEM file of the certificate's key");
}

static void
read_certificates(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = {
        { "certificate", NULL, read_later },
        { "key", NULL, read_later },
    };
    static const struct config_schema schema = { NULL, keys, COUNT_OF(keys) };
    struct config *config = walk->config;
    size_t count;
    const struct config_node *item = config_walk_list(walk, node, CERTIFICATES_MAX, &count);

    (void)target;
    if (item == NULL)
        return;
    config->certificates = config_walk_array(walk, count, sizeof(*config->certificates));
    if (config->certificates == NULL)
        return;
    config->certificate_count = count;
    for (size_t i = 0; i < count; i++, item = item->next) {
        config_walk_map(walk, item, &schema, &config->certificates[i]);
        if (item->kind == CONFIG_MAP)
            read_certificate(walk, item, &config->certificates[i]);
    }
}

/* Three forms: a map with one certificate, a map with a list of them, a list of them alone. */
static void
read_tls(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = {
        { "certificate", NULL, read_later },
        { "key", NULL, read_later },
        { "certificates", NULL, read_certificates },
    };
    static const struct config_schema schema = { "tls", keys, COUNT_OF(keys) };
    struct config *config = target;

    if (node->kind == CONFIG_LIST) {
        read_certificates(walk, node, target);
        return;
    }
    config_walk_map(walk, node, &schema, &config->tls);
    if (config_node_find(node, "certificate") == NULL && config_node_find(node, "key") == NULL)
        return;
    if (config_node_find(node, "certificates") != NULL) {
        config_walk_error(walk, node, "both 'certificate' and 'certificates', expected only one");
        return;
    }
    config->certificates = config_walk_array(walk, 1, sizeof(*config->certificates));
    if (config->certificates == NULL)
        return;
    config->certificate_count = 1;
    read_certificate(walk, node, &config->certificates[0]);
}

/* --- listen, stats --- */

static bool
address_equal(const struct config_address *a, const struct config_address *b)
{
    if (a->family != b->family)
        return false;
    if (a->family == CONFIG_ADDRESS_UNIX)
        return strcmp(a->path, b->path) == 0;
    return a->port == b->port && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

/* Reports an address that something before it listens on. */
static void
check_taken(struct config_walk *walk, const struct config_node *node,
            const struct config_address *address, const struct config_address *others,
            size_t other_count, const char *prefix, const char *holder)
{
    for (size_t i = 0; i < other_count; i++) {
        if (&others[i] == address)
            return;
        if (!address_equal(&others[i], address))
            continue;
        config_walk_error(walk, node, "'%.60s' is an address of %s%s already, expected another one",
                          node->text, prefix, holder);
        return;
    }
}

static void
check_listeners(struct config_walk *walk, const struct config_node *node,
                const struct config_address *address)
{
    const struct config *config = walk->config;

    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_listener *listener = &config->listeners[i];
        check_taken(walk, node, address, listener->addresses, listener->address_count, "listen.",
                    listener->name);
    }
}

static void
read_listener_addresses(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_listener *listener = target;
    size_t count;
    const struct config_node *item = config_walk_list(walk, node, ADDRESSES_MAX, &count);

    if (item == NULL)
        return;
    listener->addresses = config_walk_array(walk, count, sizeof(*listener->addresses));
    if (listener->addresses == NULL)
        return;
    for (size_t i = 0; i < count; i++, item = item->next) {
        struct config_address *address = &listener->addresses[listener->address_count];
        if (!config_walk_is_text(walk, item))
            continue;
        const char *problem = config_address_parse(config_node_span(item), address);
        if (problem != NULL) {
            config_walk_problem(walk, item, problem);
            continue;
        }
        address->text = config_walk_copy(walk, config_node_span(item));
        listener->address_count++;
        check_listeners(walk, item, address);
    }
}

static void
read_listener(struct config_walk *walk, const struct config_node *node,
              struct config_listener *listener)
{
    static const struct config_key keys[] = {
        { "address", "one such as \"127.0.0.1:25\", or a list of them", read_listener_addresses },
    };
    static const struct config_schema schema = { "listener", keys, COUNT_OF(keys) };
    const struct config *config = walk->config;

    config_options_default("listener", listener);
    config_walk_map(walk, node, &schema, listener);
    const struct config_node *tls = config_node_find(node, "tls");
    if (tls == NULL || listener->tls == CONFIG_LISTENER_TLS_NONE || config->certificate_count > 0)
        return;
    config_walk_error(walk, tls, "'%s' needs a certificate, expected a section such as tls: "
                                 "{ certificate: cert.pem, key: key.pem }", tls->text);
}

static void
read_listeners(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config *config = target;

    if (!config_walk_names(walk, node, "listener", LISTENERS_MAX))
        return;
    config->listeners = config_walk_array(walk, node->count / 2, sizeof(*config->listeners));
    if (config->listeners == NULL)
        return;
    for (const struct config_node *key = node->first; key != NULL; key = key->next->next) {
        struct config_listener *listener = &config->listeners[config->listener_count];
        listener->name = config_walk_copy(walk, config_node_span(key));
        if (listener->name == NULL)
            return;
        config->listener_count++;
        size_t label = config_walk_enter(walk, listener->name);
        read_listener(walk, key->next, listener);
        config_walk_leave(walk, label);
    }
}

static bool
read_unix_address(struct config_walk *walk, const struct config_node *node, struct span path,
                  struct config_address *address)
{
    address->family = CONFIG_ADDRESS_UNIX;
    if (path.len == 0) {
        config_walk_problem(walk, node, "names no file, expected one such as unix:stats.sock");
        return false;
    }
    address->path = config_walk_path(walk, path);
    if (address->path == NULL)
        return false;
    size_t len = strlen(address->path);
    if (len <= UNIX_PATH_BYTES_MAX)
        return true;
    config_walk_error(walk, node, "the socket's path has %zu bytes with its directory, expected at "
                                  "most %d", len, UNIX_PATH_BYTES_MAX);
    return false;
}

static bool
read_stats_address(struct config_walk *walk, const struct config_node *node,
                   struct config_address *address)
{
    struct span text = config_node_span(node);

    if (!config_walk_is_text(walk, node))
        return false;
    memset(address, 0, sizeof(*address));
    address->text = config_walk_copy(walk, text);
    if (address->text == NULL)
        return false;
    if (span_starts_ignore_case(text, SPAN("unix:")))
        return read_unix_address(walk, node, span_after(text, 5), address);
    const char *problem = config_address_parse(text, address);
    if (problem != NULL)
        config_walk_problem(walk, node, problem);
    return problem == NULL;
}

static void
read_stats_addresses(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_stats *stats = target;
    size_t count;
    const struct config_node *item = config_walk_list(walk, node, ADDRESSES_MAX, &count);

    if (item == NULL)
        return;
    stats->addresses = config_walk_array(walk, count, sizeof(*stats->addresses));
    if (stats->addresses == NULL)
        return;
    for (size_t i = 0; i < count; i++, item = item->next) {
        struct config_address *address = &stats->addresses[stats->address_count];
        if (!read_stats_address(walk, item, address))
            continue;
        stats->address_count++;
        check_listeners(walk, item, address);
        check_taken(walk, item, address, stats->addresses, stats->address_count, "", "stats");
    }
}

static void
read_stats(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = {
        { "address", "one such as \"unix:stats.sock\", or a list of them", read_stats_addresses },
    };
    static const struct config_schema schema = { NULL, keys, COUNT_OF(keys) };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->stats);
}

/* --- accept --- */

static void
read_networks(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_accept *accept = target;
    size_t count;

    if (node->kind == CONFIG_LIST && node->count == 0)
        return;
    const struct config_node *item = config_walk_list(walk, node, CONFIG_FILE_BYTES_MAX, &count);
    accept->networks = config_walk_array(walk, count, sizeof(*accept->networks));
    if (accept->networks == NULL)
        return;
    for (size_t i = 0; i < count; i++, item = item->next) {
        struct config_network *network = &accept->networks[accept->network_count];
        if (!config_walk_is_text(walk, item))
            continue;
        const char *problem = config_network_parse(config_node_span(item), network);
        if (problem != NULL)
            config_walk_problem(walk, item, problem);
        else
            accept->network_count++;
    }
}

static void
read_accept(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = {
        { "networks", NULL, read_networks },
        { "domains", NULL, config_read_domains },
    };
    static const struct config_schema schema = { NULL, keys, COUNT_OF(keys) };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->accept);
}

/* --- delivery, spool --- */

static void
read_delivery(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_schema schema = { "delivery", NULL, 0 };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->delivery);
}

static void
read_spool_directory(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_spool *spool = target;

    if (config_walk_is_text(walk, node))
        spool->directory = config_walk_path(walk, config_node_span(node));
}

static void
read_spool_retry(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_spool *spool = target;
    size_t count;
    const struct config_node *item = config_walk_list(walk, node, RETRIES_MAX, &count);

    if (item == NULL)
        return;
    uint64_t *retry_ms = config_walk_array(walk, count, sizeof(*retry_ms));
    if (retry_ms == NULL)
        return;
    spool->retry_ms = retry_ms;
    spool->retry_count = count;
    for (size_t i = 0; i < count; i++, item = item->next) {
        if (!config_walk_is_text(walk, item))
            continue;
        const char *problem = config_duration_parse(config_node_span(item), &retry_ms[i]);
        if (problem != NULL)
            config_walk_problem(walk, item, problem);
        else if (retry_ms[i] < SECONDS(1) || retry_ms[i] > spool->expire_ms)
            config_walk_error(walk, item, "%.60s is too %s, expected 1s to what spool.expire is",
                              item->text, retry_ms[i] < SECONDS(1) ? "small" : "large");
    }
}

static void
read_spool(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = {
        { "directory", NULL, read_spool_directory },
        { "retry", NULL, read_spool_retry },
    };
    static const struct config_schema schema = { "spool", keys, COUNT_OF(keys) };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->spool);
}

/* --- log, limits, timeouts --- */

/* A misspelt word must not become a file of that name. */
static void
read_log_target(struct config_walk *walk, const struct config_node *node, void *target)
{
    struct config_log *log = target;
    struct span text = config_node_span(node);

    if (!config_walk_is_text(walk, node))
        return;
    if (span_equal(text, SPAN("stderr"))) {
        log->target = CONFIG_LOG_TARGET_STDERR;
    } else if (span_equal(text, SPAN("syslog"))) {
        log->target = CONFIG_LOG_TARGET_SYSLOG;
    } else if (strpbrk(node->text, "/.") != NULL) {
        log->target = CONFIG_LOG_TARGET_FILE;
        log->path = config_walk_path(walk, text);
    } else {
        config_walk_problem(walk, node, "is unknown, expected stderr, syslog or a file such as "
                                        "./ringpost.log");
    }
}

static void
read_log(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_key keys[] = { { "target", NULL, read_log_target } };
    static const struct config_schema schema = { "log", keys, COUNT_OF(keys) };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->log);
}

static void
read_limits(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_schema schema = { "limits", NULL, 0 };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->limits);
}

static void
read_timeouts(struct config_walk *walk, const struct config_node *node, void *target)
{
    static const struct config_schema schema = { "timeouts", NULL, 0 };
    struct config *config = target;

    config_walk_map(walk, node, &schema, &config->timeouts);
}

/* --- the whole --- */

static void
set_defaults(struct config_walk *walk)
{
    static const uint64_t retry_ms[] = { MINUTES(1), MINUTES(5), MINUTES(15), HOURS(1) };
    struct config *config = walk->config;

    config_options_default("process", config);
    config_options_default("tls", &config->tls);
    config_options_default("delivery", &config->delivery);
    config_options_default("spool", &config->spool);
    config_options_default("log", &config->log);
    config_options_default("limits", &config->limits);
    config_options_default("timeouts", &config->timeouts);
    config->spool.directory = config_walk_path(walk, SPAN("spool"));
    config->spool.retry_ms = config_walk_array(walk, COUNT_OF(retry_ms), sizeof(retry_ms[0]));
    if (config->spool.retry_ms == NULL)
        return;
    memcpy(config->spool.retry_ms, retry_ms, sizeof(retry_ms));
    config->spool.retry_count = COUNT_OF(retry_ms);
}

/* The node to blame: the first of two keys of a section that was given, else the root. */
static const struct config_node *
either_node(const struct config_walk *walk, const char *section, const char *first,
            const char *second)
{
    const struct config_node *map = config_node_find(walk->root, section);
    const struct config_node *node = map == NULL ? NULL : config_node_find(map, first);

    if (node == NULL && map != NULL)
        node = config_node_find(map, second);
    return node != NULL ? node : walk->root;
}

static void
check_together(struct config_walk *walk)
{
    const struct config *config = walk->config;
    const struct config_node *accept = config_node_find(walk->root, "accept");

    if (config->delivery.buffer > config->limits.receive_memory)
        config_walk_error(walk, either_node(walk, "delivery", "buffer", "buffer"),
                          "delivery.buffer is larger than limits.receive_memory, expected room for "
                          "one message at least");
    if (config->timeouts.server_retry_ms > config->timeouts.server_retry_max_ms)
        config_walk_error(walk, either_node(walk, "timeouts", "server_retry", "server_retry_max"),
                          "timeouts.server_retry is longer than timeouts.server_retry_max");
    if (config->accept.network_count == 0 && config->accept.domain_count == 0 &&
        walk->errors->error_count == 0)
        config_walk_warn(walk, accept != NULL ? accept : walk->root,
                         "accept has no networks and no domains: every recipient is refused");
}

static void
check_unused_hops(struct config_walk *walk)
{
    const struct config *config = walk->config;
    const struct config_node *hops = config_node_find(walk->root, "next_hop");

    if (walk->errors->error_count > 0)
        return;
    ASSERT(hops != NULL && hops->count / 2 == config->next_hop_count);
    const struct config_node *key = hops->first;
    for (size_t i = 0; i < config->next_hop_count; i++, key = key->next->next) {
        bool used = false;
        for (size_t k = 0; k < config->route_count && !used; k++)
            used = config->routes[k].next_hop == i;
        if (!used)
            config_walk_warn(walk, key, "next_hop.%s is used by no route", key->text);
    }
}

void
config_sections_read(struct config_walk *walk)
{
    /* TLS before listeners, which may need it; listeners before next hops, which may be them; next
     * hops before routes, which name them. */
    static const struct config_key keys[] = {
        { "hostname", NULL, read_hostname },
        { "workers", NULL, read_workers },
        { "user", NULL, read_user },
        { "tls", NULL, read_tls },
        { "listen", "one such as listen: { smtp: { address: \"127.0.0.1:2525\" } }",
          read_listeners },
        { "accept", NULL, read_accept },
        { "next_hop", "one such as next_hop: { internal: { servers: \"127.0.0.1:2626\" } }",
          config_read_next_hops },
        { "route", "one such as route: { \"*\": internal }", config_read_routes },
        { "delivery", NULL, read_delivery },
        { "spool", NULL, read_spool },
        { "stats", NULL, read_stats },
        { "log", NULL, read_log },
        { "limits", NULL, read_limits },
        { "timeouts", NULL, read_timeouts },
    };
    static const struct config_schema schema = { "process", keys, COUNT_OF(keys) };

    set_defaults(walk);
    if (!config_walk_is_map(walk, walk->root))
        return;
    if (config_node_find(walk->root, "hostname") == NULL)
        default_hostname(walk);
    config_walk_map(walk, walk->root, &schema, walk->config);
    check_together(walk);
    check_unused_hops(walk);
}
