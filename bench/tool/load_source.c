/* Source addresses of load: one address has 64 Ki ports for a server, a network has more. */
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "bench/tool/load_private.h"

/* The address that is `add` above the base. */
static void
address_add(const struct config_address *base, uint64_t add, uint8_t ip[16])
{
    unsigned len = base->family == 4 ? 4 : 16;
    unsigned carry = 0;

    memcpy(ip, base->ip, 16);
    for (unsigned i = len; i-- > 0;) {
        unsigned sum = ip[i] + (unsigned)(add & 255) + carry;

        ip[i] = (uint8_t)sum;
        carry = sum >> 8;
        add >>= 8;
    }
}

int
load_source_bind(struct load_thread *thread, int socket)
{
    const struct load_sources *sources = &thread->plan->sources;
    struct sockaddr_in in = { .sin_family = AF_INET };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
    uint8_t ip[16];
    int one = 1, result;

    if (sources->count == 0)
        return 0;
    address_add(&sources->base,
                (thread->source_next++ * thread->plan->threads + thread->index) % sources->count,
                ip);
    /* The port is chosen at connect, by the pair: else 28,000 connections would be the end. */
    setsockopt(socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    if (sources->base.family == 4) {
        memcpy(&in.sin_addr, ip, 4);
        result = bind(socket, (struct sockaddr *)&in, sizeof(in));
    } else {
        memcpy(&in6.sin6_addr, ip, 16);
        result = bind(socket, (struct sockaddr *)&in6, sizeof(in6));
    }
    return result == 0 ? 0 : -errno;
}
