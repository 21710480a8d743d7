/* config_text: configurations for tests that write only what they are about.
 * Does:    puts what else a configuration needs behind a text, so that its places stay the same.
 * Owns:    nothing; the caller frees the configuration.
 * Errors:  a text that is too long fails the test.
 */
#ifndef RINGPOST_TESTS_UNIT_CONFIG_TEXT_H
#define RINGPOST_TESTS_UNIT_CONFIG_TEXT_H

#include <criterion/criterion.h>

#include "core/config.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define CONFIG_TEXT_BYTES_MAX 4096

/* Adds the line unless the text names that key. */
static inline void
config_text_complete(char *text, const char *key, const char *line)
{
    if (strstr(text, key) != NULL)
        return;
    cr_assert(strlen(text) + strlen(line) < CONFIG_TEXT_BYTES_MAX);
    strcat(text, line);
}

static inline struct config *
config_text_parse(const char *text, struct config_errors *errors)
{
    char whole[CONFIG_TEXT_BYTES_MAX];

    cr_assert(strlen(text) < sizeof(whole));
    strcpy(whole, text);
    config_text_complete(whole, "hostname", "hostname: edge.example.com\n");
    config_text_complete(whole, "listen", "listen: { smtp: { address: \"127.0.0.1:2525\" } }\n");
    config_text_complete(whole, "accept", "accept: { domains: example.com }\n");
    config_text_complete(whole, "next_hop",
                         "next_hop: { internal: { servers: \"127.0.0.1:2626\" } }\n");
    config_text_complete(whole, "route", "route: { \"*\": internal }\n");
    return config_parse(whole, strlen(whole), "t.yaml", "/etc/ringpost", NULL, errors);
}

/* The first line of a message, without "t.yaml:". */
static inline struct span
config_text_first_line(const struct config_error *error)
{
    const char *text = error->text;
    const char *end = strchr(text, '\n');

    cr_assert_not_null(end);
    if (strncmp(text, "t.yaml:", 7) == 0)
        text += 7;
    return span_of(text, (size_t)(end - text));
}

#endif
