/* config: the whole configuration as one immutable value.
 * Does:    reads a YAML file, checks it against our own schema, says what is wrong where.
 * Owns:    config_load() gives the caller the whole tree; what is inside lives until config_free().
 * Memory:  heap, at start and on reload only.
 * Threads: loaded by the main thread; any thread may read it afterwards.
 * Errors:  NULL and at least one error in `errors`. Warnings do not refuse a configuration.
 */
#ifndef RINGPOST_CORE_CONFIG_H
#define RINGPOST_CORE_CONFIG_H

#include <stdio.h>

#include "core/assert.h"
#include "core/limits.h"
#include "core/options.def"
#include "core/span.h"

/* --- the words that options choose from, in the order of their tables in config_option.c --- */
enum config_sandbox { CONFIG_SANDBOX_OFF, CONFIG_SANDBOX_LOG, CONFIG_SANDBOX_ON };
enum config_scheduling { CONFIG_SCHEDULING_OTHER, CONFIG_SCHEDULING_BATCH };
enum config_listener_tls {
    CONFIG_LISTENER_TLS_NONE,
    CONFIG_LISTENER_TLS_STARTTLS,
    CONFIG_LISTENER_TLS_IMPLICIT,
};
enum config_hop_tls {
    CONFIG_HOP_TLS_NONE,
    CONFIG_HOP_TLS_OPPORTUNISTIC,
    CONFIG_HOP_TLS_REQUIRE,
    CONFIG_HOP_TLS_VERIFY,
};
enum config_tls_minimum { CONFIG_TLS_MINIMUM_1_2, CONFIG_TLS_MINIMUM_1_3 };
enum config_balance { CONFIG_BALANCE_ORDER, CONFIG_BALANCE_SHARE };
enum config_delivery_mode { CONFIG_DELIVERY_CUT_THROUGH, CONFIG_DELIVERY_SPOOL };
enum config_on_defer { CONFIG_ON_DEFER_PASS, CONFIG_ON_DEFER_SPOOL };
enum config_recipient_check { CONFIG_RECIPIENT_CHECK_NONE, CONFIG_RECIPIENT_CHECK_NEXT_HOP };
enum config_log_format { CONFIG_LOG_FORMAT_TEXT, CONFIG_LOG_FORMAT_JSON };
enum config_log_target {
    CONFIG_LOG_TARGET_STDERR,
    CONFIG_LOG_TARGET_SYSLOG,
    CONFIG_LOG_TARGET_FILE,
};

/* --- fields from options.def: durations are `key_ms`, all others `key` (sizes in bytes) --- */
#define CONFIG_FIELD(section, key, type, unit, ...) CONFIG_FIELD_##type(key, unit)
#define CONFIG_FIELD_COUNT(key, unit) uint32_t key;
#define CONFIG_FIELD_SIZE(key, unit) uint64_t key;
#define CONFIG_FIELD_DURATION(key, unit) uint64_t key##_ms;
#define CONFIG_FIELD_BOOL(key, unit) bool key;
#define CONFIG_FIELD_CHOICE(key, unit) enum config_##unit key;

enum config_address_family {
    CONFIG_ADDRESS_UNIX = 1,
    CONFIG_ADDRESS_IPV4 = 4,
    CONFIG_ADDRESS_IPV6 = 6,
};

struct config_address {
    uint8_t family; /* enum config_address_family */
    uint8_t ip[16]; /* network order; IPv4 uses the first four bytes */
    uint16_t port;  /* host order */
    char *path;     /* unix: joined to the configuration's directory, fits sun_path; else NULL */
    char *text;     /* as written: "127.0.0.1:25", "[::1]:25", "unix:stats.sock" */
};

struct config_listener {
    char *name;
    struct config_address *addresses; /* IPv4 and IPv6 only; at least one */
    size_t address_count;
    OPTIONS_LISTENER(CONFIG_FIELD)
};

struct config_certificate {
    char *certificate; /* files, joined to the configuration's directory; not opened here */
    char *key;
};

struct config_tls {
    OPTIONS_TLS(CONFIG_FIELD)
};

struct config_network {
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d; bits behind the prefix are 0 */
    uint8_t prefix;      /* 0..128: an IPv4 /8 is 104 here */
};

/* Names here and in routes are lower case, with no dot at the end. Order: exact names first, sorted
 * by strcmp() for a binary search; then "*.example.com", longest first; then "*". So the first that
 * matches is the most specific. */
struct config_accept {
    struct config_network *networks;
    size_t network_count;
    char **domains;
    size_t domain_count;
    size_t domain_exact_count; /* domains[0..domain_exact_count) have no wildcard */
};

struct config_server {
    char *text;     /* as written: "mx.example.com:25" */
    char *host;     /* name (lower case) or address, without brackets and port */
    uint16_t port;  /* 25 when none was written */
    bool numeric;   /* host is an address: no look-up, and no name to verify */
    uint32_t group; /* ascending: 0, 1, ...; a lower one first, its members share the load */
    struct config_address address; /* valid when numeric */
};

struct config_next_hop {
    char *name;
    struct config_server *servers; /* at least one */
    size_t server_count;
    uint32_t group_count;
    char *ca;       /* file of trusted certificates; NULL: the system's */
    char *tls_name; /* name for SNI and verification in place of the server's host; NULL: none */
    OPTIONS_NEXT_HOP(CONFIG_FIELD)
};

struct config_route {
    char *pattern;     /* "example.com", "*.example.com" (subdomains only), "*" */
    uint32_t next_hop; /* index into config->next_hops */
};

struct config_delivery {
    OPTIONS_DELIVERY(CONFIG_FIELD)
};

struct config_spool {
    char *directory;
    uint64_t *retry_ms; /* at least one; the last interval repeats */
    size_t retry_count;
    OPTIONS_SPOOL(CONFIG_FIELD)
};

/* Whether messages are ever stored: with `mode: cut-through, on_defer: pass` none is, and no spool
 * is opened. */
static inline bool
config_stores(const struct config_delivery *delivery)
{
    return delivery->mode == CONFIG_DELIVERY_SPOOL || delivery->on_defer == CONFIG_ON_DEFER_SPOOL;
}

struct config_stats {
    struct config_address *addresses;
    size_t address_count; /* 0: no stats socket */
};

struct config_log {
    enum config_log_target target;
    char *path; /* CONFIG_LOG_TARGET_FILE only, else NULL */
    OPTIONS_LOG(CONFIG_FIELD)
};

struct config_limits {
    OPTIONS_LIMITS(CONFIG_FIELD)
};

struct config_timeouts {
    OPTIONS_TIMEOUTS(CONFIG_FIELD)
};

struct config {
    char *file;       /* as given to config_load() */
    char *hostname;   /* our name: greeting, EHLO, Received: */
    uint32_t workers; /* 0: auto, one for each core this process may run on */
    char *user;       /* that the process becomes when root starts it; NULL: not given */
    struct config_listener *listeners;
    size_t listener_count;
    struct config_certificate *certificates; /* the first one where a client's SNI matches none */
    size_t certificate_count;
    struct config_tls tls;
    struct config_accept accept;
    struct config_next_hop *next_hops;
    size_t next_hop_count;
    struct config_route *routes; /* in the order told at struct config_accept; "*" may lack */
    size_t route_count;
    size_t route_exact_count;
    struct config_delivery delivery;
    struct config_spool spool;
    struct config_stats stats;
    struct config_log log;
    struct config_limits limits;
    struct config_timeouts timeouts;
    OPTIONS_PROCESS(CONFIG_FIELD)
    struct config_chunk *_chunks; /* memory of all the above */
};

#define CONFIG_ERRORS_MAX 20
#define CONFIG_ERROR_BYTES_MAX 1024
#define CONFIG_FILE_BYTES_MAX (1u << 20)

struct config_error {
    bool warning;
    uint32_t line, column; /* from 1; 0: about the file as a whole */
    /* "FILE:LINE:COLUMN: error: what, expected what", the source line, a caret; three lines. */
    char text[CONFIG_ERROR_BYTES_MAX];
};

struct config_errors {
    struct config_error items[CONFIG_ERRORS_MAX]; /* in the order of the file */
    size_t count;         /* items used */
    size_t error_count;   /* also those for which there was no room */
    size_t warning_count; /* the same */
};

/* Reads and checks a file. machine_name: the hostname when the file gives none; NULL: it must.
 * `errors` need not be set before the call. NULL: errors->error_count > 0. */
MUST_USE struct config *
config_load(const char *file, const char *machine_name, struct config_errors *errors);

/* The same with no file access. `name` stands in messages; relative paths are joined to
 * base_directory ("": left as they are). */
MUST_USE struct config *
config_parse(const char *text, size_t len, const char *name, const char *base_directory,
             const char *machine_name, struct config_errors *errors);

/* NULL is allowed. */
void config_free(struct config *config);

/* All items, and how many more there were. */
void config_errors_print(const struct config_errors *errors, FILE *out);

/* The rows of options.def as Markdown tables, one for each section: for help and the reference. */
void config_print_options(FILE *out);

#endif
