/* link_private: what link.c and link_send.c tell each other; nobody else includes it. */
#ifndef RINGPOST_RELAY_LINK_PRIVATE_H
#define RINGPOST_RELAY_LINK_PRIVATE_H

#include "relay/link.h"

/* A send completed with this result. */
void link_sent(struct link *link, int32_t result);
/* Decrypts or shakes hands with what is in cipher, as far as buffers, back-pressure and the turn's
 * budget allow. */
void link_decrypt(struct link *link);
/* Decrypts what waited for the input queue to be used up. */
void link_refill(struct link *link);
/* Free buffers that this link must leave to those whose input sets buffers free. */
static inline uint32_t
link_reserve(const struct link *link)
{
    return link->sure ? 0 : 2 * BUFFERS_SURE;
}
/* No buffer was free: to be looked at again when one is. */
void link_starved_add(struct link *link);
/* To go on in the next turn, with a look of its owner. */
void link_handshake_add(struct link *link);
void link_handshake_remove(struct link *link);
void link_send_release(struct link *link);

#endif
