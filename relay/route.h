/* route: recipient domain -> next hop.
 * Does:    looks up the configuration's route table; the most specific pattern wins.
 * Memory:  none. Pure. Threads: any.
 */
#ifndef RINGPOST_RELAY_ROUTE_H
#define RINGPOST_RELAY_ROUTE_H

#include "core/address.h"
#include "core/config.h"

#define ROUTE_NONE UINT32_MAX

/* Index into config->next_hops, or ROUTE_NONE. A recipient without a domain (<postmaster>, RFC
 * 5321 4.5.1) goes where our own host name would go. */
uint32_t route_find(const struct config *config, const struct path *recipient);

#endif
