/* config_value: the small languages inside configuration values.
 * Does:    numbers, sizes, durations, addresses, networks, names; words near a misspelt one.
 * Owns:    nothing; results hold no pointers unless told.
 * Memory:  none allocated.
 * Errors:  a parser returns NULL, or a fixed text that says what is wrong and what was expected, to
 *          stand behind the quoted value: "'5' " + "has no unit, expected ...".
 */
#ifndef RINGPOST_CORE_CONFIG_VALUE_H
#define RINGPOST_CORE_CONFIG_VALUE_H

#include "core/config.h"

MUST_USE const char *config_number_parse(struct span s, uint64_t *number);
/* kb = kib = 2^10 and so on: a mail administrator's "50mb" is 50 * 2^20. */
MUST_USE const char *config_size_parse(struct span s, uint64_t *bytes);
MUST_USE const char *config_duration_parse(struct span s, uint64_t *duration_ms);

#define CONFIG_NUMBER_TEXT_MAX 24
/* The shortest spelling that the parsers read back: "50mb", "998", "5min". */
void config_size_format(uint64_t bytes, char text[CONFIG_NUMBER_TEXT_MAX]);
void config_duration_format(uint64_t duration_ms, char text[CONFIG_NUMBER_TEXT_MAX]);

/* An address without brackets or zone. Sets family and ip only. */
MUST_USE bool config_ip_parse(struct span s, struct config_address *out);
/* "127.0.0.1:25" or "[::1]:25". Sets family, ip and port. */
MUST_USE const char *config_address_parse(struct span s, struct config_address *out);
/* The same, and port 0 for whichever is free: tools listen there, configurations may not. */
MUST_USE const char *config_address_parse_any(struct span s, struct config_address *out);
/* "mx.example.com:25", "192.0.2.1", "[::1]:25". Sets port, numeric, address; *host is in s. */
MUST_USE const char *
config_server_parse(struct span s, struct config_server *out, struct span *host);
/* "192.0.2.0/24", "::1". */
MUST_USE const char *config_network_parse(struct span s, struct config_network *out);

/* A host name as DNS has them, without a dot at the end; underscores pass. One label is enough. */
MUST_USE const char *config_host_name_check(struct span s);
/* "example.com" or "*.example.com", UTF-8 labels (RFC 6531) allowed. */
MUST_USE const char *config_domain_check(struct span s);

/* The word that s may have been meant for; NULL: none is near. */
const char *config_nearest_word(struct span s, const char *const *words, size_t count);

#endif
