/* access: who may connect, who may relay where.
 * Does:    counts connections in total and per client address; decides whether a recipient is for
 *          us to take (relay control).
 * Owns:    one table of counts, shared by all workers: a connection costs two atomic operations, a
 *          message none.
 * Memory:  fixed at access_init().
 * Threads: any.
 * Errors:  a full table counts a client under nobody's name: it is let in (the total limit still
 *          holds).
 */
#ifndef RINGPOST_CORE_ACCESS_H
#define RINGPOST_CORE_ACCESS_H

#include "core/address.h"
#include "core/config.h"

#define ACCESS_CLIENT_SLOTS (1u << 16)

struct access {
    uint64_t
        *clients; /* ACCESS_CLIENT_SLOTS: tag of an address (48 bits), its connections (16 bits) */
    uint64_t key[2]; /* of the hash; random, so that nobody can aim at a slot */
    uint64_t connections;
};

enum access_result { ACCESS_OK, ACCESS_TOTAL_LIMIT, ACCESS_CLIENT_LIMIT };

/* The slot to give back when the connection ends; ACCESS_UNCOUNTED: none. */
#define ACCESS_UNCOUNTED UINT32_MAX

MUST_USE bool access_init(struct access *access, const uint64_t key[2]);
void access_destroy(struct access *access);

/* A client connects. trusted (accept.networks): exempt from the limit per client. IPv6 clients
 * count by /64: that is what one customer gets. Not ACCESS_OK: nothing was counted. */
enum access_result access_enter(struct access *access, const struct config_limits *limits,
                                const uint8_t ip[16], bool trusted, uint32_t *slot);
void access_leave(struct access *access, uint32_t slot);

/* True when the address is in accept.networks. ip: IPv4 as ::ffff:a.b.c.d. */
bool access_network_trusted(const struct config_accept *accept, const uint8_t ip[16]);
/* True when anyone may send to this recipient: its domain is in accept.domains and its local part
 * hides no second address (percent hack, UUCP path, quoted @: RFC 5321 7.9 and the classic
 * open-relay tests). <postmaster> without a domain: true. */
bool access_recipient_local(const struct config_accept *accept, const struct path *recipient);

/* Finds `domain` (any case) in a list sorted as config.h says: exact names first (binary search),
 * then wildcards. Returns its index, or count. */
size_t access_domain_find(char *const *domains, size_t exact_count, size_t count,
                          struct span domain);

#endif
