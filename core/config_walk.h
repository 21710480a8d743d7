/* config_walk: reading a tree of nodes against a schema.
 * Does:    maps with known keys, maps of names, lists, texts, paths; keeps the label for messages.
 * Owns:    nothing; what it reads goes to the configuration's arena.
 * Threads: the main thread.
 * Errors:  reported at the node that is wrong; the walk goes on, so that one run tells all of them.
 */
#ifndef RINGPOST_CORE_CONFIG_WALK_H
#define RINGPOST_CORE_CONFIG_WALK_H

#include "core/config_yaml.h"

#define CONFIG_LABEL_BYTES_MAX 160

struct config_walk {
    struct config *config;
    struct config_arena *arena;   /* the configuration's */
    struct config_arena *scratch; /* the tree's, gone when the walk is done */
    struct config_errors *errors;
    const struct config_source *source;
    const struct config_node *root;
    const char *base_directory;
    const char *machine_name; /* NULL: none */
    char label[CONFIG_LABEL_BYTES_MAX]; /* "next_hop.internal.servers"; "" at the root */
};

struct config_key {
    const char *name;
    const char *required; /* what is expected of it when it is not there; NULL: it need not be */
    /* Reads its value. target is what the map is read into. */
    void (*read)(struct config_walk *walk, const struct config_node *value, void *target);
};

struct config_schema {
    const char *section; /* rows of options.def that belong to this map; NULL: none */
    const struct config_key *keys; /* read in this order, behind the rows */
    size_t key_count;
};

/* "label: message" at the node. */
__attribute__((format(printf, 3, 4))) void
config_walk_error(struct config_walk *walk, const struct config_node *node, const char *format,
                  ...);
__attribute__((format(printf, 3, 4))) void
config_walk_warn(struct config_walk *walk, const struct config_node *node, const char *format, ...);
/* "label: 'value' problem", where problem is a text of config_value.h. */
void config_walk_problem(struct config_walk *walk, const struct config_node *node,
                         const char *problem);

/* Adds a name to the label; give the result to config_walk_leave(). */
MUST_USE size_t config_walk_enter(struct config_walk *walk, const char *name);
void config_walk_leave(struct config_walk *walk, size_t label_len);

/* Reads a map. Its fields from options.def were set to their defaults before. */
void config_walk_map(struct config_walk *walk, const struct config_node *map,
                     const struct config_schema *schema, void *target);

/* Checks that a node is a map (or a key with nothing behind it: an empty map). */
MUST_USE bool config_walk_is_map(struct config_walk *walk, const struct config_node *node);
/* Checks the names that a person chose, of at most `max` entries; reports doubles. */
MUST_USE bool config_walk_names(struct config_walk *walk, const struct config_node *map,
                                const char *thing, size_t max);

/* The first item of a list, *count items in all; a single value is a list of one. NULL after a
 * report: empty, or more than max. */
MUST_USE const struct config_node *
config_walk_list(struct config_walk *walk, const struct config_node *node, size_t max,
                 size_t *count);

/* True when a node is one value of at least one printable character; reports otherwise. */
MUST_USE bool config_walk_is_text(struct config_walk *walk, const struct config_node *node);

/* Copies and arrays in the configuration's arena; NULL after a report. */
MUST_USE char *config_walk_copy(struct config_walk *walk, struct span text);
MUST_USE char *config_walk_copy_lower(struct config_walk *walk, struct span text);
MUST_USE void *config_walk_array(struct config_walk *walk, size_t count, size_t size);
/* The same, gone when the walk is done. */
MUST_USE void *config_walk_scratch(struct config_walk *walk, size_t count, size_t size);
/* A file name, joined to the directory of the configuration when it is relative. */
MUST_USE char *config_walk_path(struct config_walk *walk, struct span path);

#endif
