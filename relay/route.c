/* The route table is sorted by config.c: exact names first, then wildcards from long to short,
 * then "*". */
#include "relay/route.h"

#include "core/domain.h"

uint32_t
route_find(const struct config *config, const struct path *recipient)
{
    struct span domain =
        recipient->domain.len > 0 ? recipient->domain : span_text(config->hostname);
    size_t low = 0, high = config->route_exact_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = domain_compare(config->routes[middle].pattern, domain);

        if (order == 0)
            return config->routes[middle].next_hop;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (size_t i = config->route_exact_count; i < config->route_count; i++)
        if (domain_matches(config->routes[i].pattern, domain))
            return config->routes[i].next_hop;
    return ROUTE_NONE;
}
