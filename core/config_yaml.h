/* config_yaml: YAML text as a tree of nodes that know their places.
 * Does:    YAML 1.2 through libfyaml's events; aliases are resolved. Refused, with the place:
 *          tags, merge keys, keys that are no text, a second document, deep nesting, binary bytes.
 * Owns:    nothing; the tree lives in the arena that is given.
 * Threads: the main thread.
 * Errors:  NULL and a report. No node has a type: every scalar is its text.
 */
#ifndef RINGPOST_CORE_CONFIG_YAML_H
#define RINGPOST_CORE_CONFIG_YAML_H

#include "core/config_arena.h"
#include "core/config_error.h"

/* Our schema needs six levels. */
#define CONFIG_DEPTH_MAX 16
/* Searched from end to end for each alias. */
#define CONFIG_ANCHORS_MAX 256

enum config_node_kind { CONFIG_SCALAR, CONFIG_LIST, CONFIG_MAP };

struct config_node {
    enum config_node_kind kind;
    bool given;  /* false: a key with nothing behind it, or an empty file: an empty scalar */
    bool open;   /* its end was not read yet: an alias to it would be a circle */
    struct config_place place;
    char *text; /* scalar: ends with a NUL that is not part of it; "" for others */
    size_t len;
    size_t count;              /* items of a list; keys and values of a map */
    struct config_node *first; /* a map's children are key, value, key, value, ... */
    struct config_node *last;
    struct config_node *next;
};

MUST_USE struct config_node *
config_yaml_read(struct config_arena *arena, const struct config_source *source,
                 struct config_errors *errors);

/* The value of a key; NULL: not there. */
const struct config_node *config_node_find(const struct config_node *map, const char *key);

static inline struct span
config_node_span(const struct config_node *node)
{
    return span_of(node->text, node->len);
}

#endif
