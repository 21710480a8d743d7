/* What exists once per process and needs no process: shared by `ringpost run` and the simulator. */
#include "relay/relay.h"

#include <errno.h>
#include <stdio.h>

#include "core/io.h"
#include "core/log.h"
#include "relay/queue/control_server.h"

/* --- TLS contexts --- */

static size_t
clients_bytes(const struct config *config)
{
    return config->next_hop_count * sizeof(struct tls_context *);
}

void
relay_tls_release(struct relay_tls *tls, const struct config *config)
{
    if (tls == NULL)
        return;
    tls_context_release(tls->server);
    for (size_t i = 0; tls->clients != NULL && i < config->next_hop_count; i++)
        tls_context_release(tls->clients[i]);
    if (tls->clients != NULL)
        io_memory_free(tls->clients, clients_bytes(config));
    io_memory_free(tls, sizeof(*tls));
}

static struct tls_context *
server_context(const struct config *config, struct tls_error *error)
{
    struct tls_certificate_files files[TLS_CERTIFICATES_MAX];
    struct tls_server_options options = { .version_min =
                                              config->tls.minimum == CONFIG_TLS_MINIMUM_1_3
                                                  ? TLS_VERSION_MIN_1_3
                                                  : TLS_VERSION_MIN_1_2,
                                          .no_tickets = !config->tls.tickets };
    /* One more than there is room for is still too many, and says so. */
    size_t count = config->certificate_count;

    for (size_t i = 0; i < count && i < TLS_CERTIFICATES_MAX; i++)
        files[i] = (struct tls_certificate_files){ config->certificates[i].certificate,
                                                   config->certificates[i].key };
    return tls_server_context_create(files, count, &options, error);
}

static struct tls_context *
client_context(const struct config *config, const struct config_next_hop *hop,
               struct tls_error *error)
{
    struct tls_client_options options = {
        .verification =
            hop->tls == CONFIG_HOP_TLS_VERIFY ? TLS_VERIFICATION_REQUIRE : TLS_VERIFICATION_NONE,
        .ca_file = hop->ca,
        .version_min = config->tls.minimum == CONFIG_TLS_MINIMUM_1_3 ? TLS_VERSION_MIN_1_3
                                                                     : TLS_VERSION_MIN_1_2
    };

    return tls_client_context_create(&options, error);
}

static bool
contexts_create(struct relay_tls *tls, const struct config *config, struct tls_error *error)
{
    if (config->certificate_count > 0) {
        tls->server = server_context(config, error);
        if (tls->server == NULL)
            return false;
        if (error->text[0] != '\0')
            log_plain(LOG_LEVEL_WARNING, "tls: %s", error->text);
    }
    for (size_t i = 0; i < config->next_hop_count; i++) {
        if (config->next_hops[i].tls == CONFIG_HOP_TLS_NONE)
            continue;
        tls->clients[i] = client_context(config, &config->next_hops[i], error);
        if (tls->clients[i] == NULL)
            return false;
    }
    return true;
}

struct relay_tls *
relay_tls_load(const struct config *config, struct tls_error *error)
{
    struct relay_tls *tls = io_memory(sizeof(*tls));

    *error = (struct tls_error){ .text = "out of memory" };
    if (tls == NULL)
        return NULL;
    if (config->next_hop_count > 0)
        tls->clients = io_memory(clients_bytes(config));
    if (config->next_hop_count == 0 || tls->clients != NULL) {
        error->text[0] = '\0';
        if (contexts_create(tls, config, error))
            return tls;
    }
    relay_tls_release(tls, config);
    return NULL;
}

/* --- next hops' addresses --- */

/* The list of lists, and behind it the lists. */
static size_t
addresses_bytes(const struct config *config)
{
    size_t bytes = config->next_hop_count * sizeof(struct config_address *);

    for (size_t i = 0; i < config->next_hop_count; i++)
        bytes += config->next_hops[i].server_count * sizeof(struct config_address);
    return bytes;
}

static bool
addresses_fill(struct relay *relay)
{
    const struct config *config = relay->config;
    struct config_address *at;

    if (config->next_hop_count == 0)
        return true;
    relay->hop_addresses = io_memory(addresses_bytes(config));
    if (relay->hop_addresses == NULL)
        return false;
    at = (struct config_address *)(void *)(relay->hop_addresses + config->next_hop_count);
    for (size_t i = 0; i < config->next_hop_count; i++) {
        const struct config_next_hop *hop = &config->next_hops[i];

        relay->hop_addresses[i] = at;
        for (size_t j = 0; j < hop->server_count; j++, at++) {
            const struct config_server *server = &hop->servers[j];

            if (server->numeric)
                *at = server->address;
            else
                *at = (struct config_address){ .text = server->text, .port = server->port };
        }
    }
    return true;
}

/* --- listeners --- */

static uint32_t
listeners_count(const struct config *config)
{
    size_t count = 0;

    for (size_t i = 0; i < config->listener_count; i++)
        count += config->listeners[i].address_count;
    return (uint32_t)count;
}

static bool
listeners_fill(struct relay *relay)
{
    const struct config *config = relay->config;

    relay->listeners = io_memory(listeners_count(config) * sizeof(struct relay_listener));
    if (relay->listeners == NULL)
        return false;
    for (size_t i = 0; i < config->listener_count; i++) {
        const struct config_listener *listener = &config->listeners[i];

        for (size_t j = 0; j < listener->address_count; j++)
            relay->listeners[relay->listener_count++] = (struct relay_listener){
                .config = listener,
                .address = &listener->addresses[j],
                .policy = { .hostname = span_text(config->hostname),
                            .message_size_max = config->limits.message_size,
                            .recipients_max = config->limits.recipients,
                            .errors_max = config->limits.errors,
                            .transactions_max = config->limits.transactions,
                            .command_line_max = (uint32_t)config->limits.command_line,
                            .text_line_max = (uint32_t)config->limits.text_line,
                            .received_max = config->limits.received_headers,
                            .starttls = listener->tls == CONFIG_LISTENER_TLS_STARTTLS },
            };
    }
    return true;
}

void
relay_listen_error(const struct config_address *address, int code, char error[RELAY_ERROR_BYTES])
{
    (void)snprintf(error, RELAY_ERROR_BYTES, "cannot listen on %s: %s%s", address->text,
                   io_error_text(code),
                   code == -EACCES       ? " (ports below 1024 need CAP_NET_BIND_SERVICE)"
                   : code == -EADDRINUSE ? " (is another ringpost or MTA running there?)"
                                         : "");
}

bool
relay_listen(struct relay *relay, char error[RELAY_ERROR_BYTES])
{
    const struct config_address *which = NULL;

    for (uint32_t i = 0; i < relay->worker_count; i++) {
        int code = worker_listen(&relay->workers[i], relay, i, &which);

        if (code != 0) {
            relay_listen_error(which, code, error);
            return false;
        }
    }
    return true;
}

/* --- the whole --- */

static size_t
workers_bytes(const struct relay *relay)
{
    return relay->worker_count * sizeof(struct worker);
}

bool
relay_create(struct relay *relay, const struct config *config, uint32_t workers,
             const uint64_t key[2], char error[RELAY_ERROR_BYTES])
{
    struct tls_error tls_error;

    *relay = (struct relay){ .config = config, .worker_count = workers };
    relay->workers = io_memory(workers_bytes(relay));
    if (relay->workers == NULL || !access_init(&relay->access, key) || !addresses_fill(relay) ||
        !listeners_fill(relay)) {
        (void)snprintf(error, RELAY_ERROR_BYTES, "no memory for %u workers", workers);
        return false;
    }
    relay->tls = relay_tls_load(config, &tls_error);
    if (relay->tls == NULL)
        (void)snprintf(error, RELAY_ERROR_BYTES, "tls: %s", tls_error.text);
    return relay->tls != NULL;
}

bool
relay_spool_open(struct relay *relay, char error[RELAY_ERROR_BYTES])
{
    _Static_assert(RELAY_ERROR_BYTES >= SPOOL_ERROR_BYTES, "what the spool says fits");

    if (!config_stores(&relay->config->delivery))
        return true;
    relay->spool_open =
        spool_directory_open(&relay->spool, relay->config, relay->worker_count, error);
    return relay->spool_open;
}

void
relay_destroy(struct relay *relay)
{
    const struct config *config = relay->config;
    bool clean = true;

    if (config == NULL)
        return;
    for (uint32_t i = 0; i < relay->worker_count && relay->workers != NULL; i++)
        if (relay->workers[i].relay != NULL) {
            clean = clean && relay->workers[i].stopped_clean && !relay->workers[i].marks_lost;
            worker_stop(&relay->workers[i]);
        }
    control_destroy(relay->control);
    if (relay->spool_open)
        spool_directory_close(&relay->spool, clean);
    relay_tls_release(relay->tls, config);
    if (relay->hop_addresses != NULL)
        io_memory_free(relay->hop_addresses, addresses_bytes(config));
    if (relay->listeners != NULL)
        io_memory_free(relay->listeners, listeners_count(config) * sizeof(struct relay_listener));
    access_destroy(&relay->access);
    if (relay->workers != NULL)
        io_memory_free(relay->workers, workers_bytes(relay));
    *relay = (struct relay){ 0 };
}
