/* sink_link: what every sink does with a client's link: holding a fast one back, and its end.
 * Does:    what `ringpost sink` and `ringpost-bench sink` have in common; the rest of their
 *          sessions differs.
 * Memory:  none allocated.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_LINK_H
#define RINGPOST_RELAY_TOOLS_SINK_LINK_H

#include "relay/link.h"

/* A session that ends: nothing that still comes is looked at. dropping: the client's end is not
 * awaited. */
static inline void
sink_link_ending(struct link *link, bool dropping)
{
    struct span front;

    while ((front = link_front(link)).len > 0)
        link_consume(link, front.len);
    if (link->failed || (link->finished && link_drained(link) && (link->ended || dropping)))
        link_close(link);
}

/* A client that sends on while it has to wait is stopped at high_bytes received and not used. */
static inline void
sink_link_pressure(struct link *link, uint64_t high_bytes)
{
    uint64_t unread = link_unread(link);

    if (!link->paused && unread > high_bytes)
        link_pause(link);
    else if (link->paused && unread < high_bytes / 4)
        link_resume(link);
}

#endif
