/* config_section: the schema of the configuration file.
 * Does:    reads each section of the tree into struct config, then checks them together.
 * Threads: the main thread.
 * Errors:  reported in walk->errors; the configuration is good when there is none.
 */
#ifndef RINGPOST_CORE_CONFIG_SECTION_H
#define RINGPOST_CORE_CONFIG_SECTION_H

#include "core/config_value.h"
#include "core/config_walk.h"

/* Reads the whole tree at walk->root into walk->config. */
void config_sections_read(struct config_walk *walk);

/* In config_route.c: `accept.domains`, `next_hop`, `route`. The listeners are read before. */
void config_read_domains(struct config_walk *walk, const struct config_node *node, void *target);
void config_read_next_hops(struct config_walk *walk, const struct config_node *node, void *target);
void config_read_routes(struct config_walk *walk, const struct config_node *node, void *target);

#endif
