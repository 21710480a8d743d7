/* Counts per client in a lock-free table; relay control by sorted lists of the configuration. */
#include "core/access.h"

#include "core/domain.h"
#include "core/io.h"

#define COUNT_BITS 16
#define COUNT_MASK ((UINT64_C(1) << COUNT_BITS) - 1)
#define PROBES 16

bool
access_init(struct access *access, const uint64_t key[2])
{
    *access = (struct access){ .key = { key[0], key[1] } };
    access->clients = io_memory(ACCESS_CLIENT_SLOTS * sizeof(uint64_t));
    return access->clients != NULL;
}

void
access_destroy(struct access *access)
{
    if (access->clients != NULL)
        io_memory_free(access->clients, ACCESS_CLIENT_SLOTS * sizeof(uint64_t));
    access->clients = NULL;
}

/* Two rounds of multiply-and-fold keyed by secret words: enough against aimed collisions in a table
 * that only counts. */
static uint64_t
address_hash(const struct access *access, const uint8_t ip[16])
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    uint64_t words[2];
    __uint128_t product;

    memcpy(words, ip, 16);
    if (memcmp(ip, mapped, sizeof(mapped)) != 0)
        words[1] = 0; /* IPv6: the /64 */
    product = (__uint128_t)(words[0] ^ access->key[0]) *
              (words[1] ^ access->key[1] ^ UINT64_C(0x9e3779b97f4a7c15));
    words[0] = (uint64_t)product ^ (uint64_t)(product >> 64);
    product = (__uint128_t)(words[0] ^ access->key[1]) * UINT64_C(0xd6e8feb86659fd93);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Counts one more under this tag. False: the client is at its limit. */
static bool
client_enter(struct access *access, uint64_t hash, uint64_t most, uint32_t *slot)
{
    uint64_t tag = hash | COUNT_MASK;
    uint32_t at = (uint32_t)(hash % ACCESS_CLIENT_SLOTS);

    tag = tag & ~COUNT_MASK;
    if (tag == 0)
        tag = COUNT_MASK + 1;
    /* First where the tag is, then where nothing is. A lost race takes another round. */
    for (int round = 0; round < 4; round++) {
        uint32_t empty = ACCESS_UNCOUNTED;

        for (uint32_t i = 0; i < PROBES; i++) {
            uint32_t here = (at + i) % ACCESS_CLIENT_SLOTS;
            uint64_t value = __atomic_load_n(&access->clients[here], __ATOMIC_RELAXED);

            while ((value & ~COUNT_MASK) == tag && (value & COUNT_MASK) != 0) {
                if ((value & COUNT_MASK) >= most)
                    return false;
                if (__atomic_compare_exchange_n(&access->clients[here], &value, value + 1, true,
                                                __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
                    *slot = here;
                    return true;
                }
            }
            if ((value & COUNT_MASK) == 0 && empty == ACCESS_UNCOUNTED)
                empty = here;
        }
        if (empty == ACCESS_UNCOUNTED)
            return true; /* full: not counted */
        uint64_t free_value = 0;

        if (__atomic_compare_exchange_n(&access->clients[empty], &free_value, tag | 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            *slot = empty;
            return true;
        }
    }
    return true;
}

enum access_result
access_enter(struct access *access, const struct config_limits *limits, const uint8_t ip[16],
             bool trusted, uint32_t *slot)
{
    uint64_t most = limits->connections_per_client;

    *slot = ACCESS_UNCOUNTED;
    if (__atomic_add_fetch(&access->connections, 1, __ATOMIC_RELAXED) > limits->connections) {
        __atomic_sub_fetch(&access->connections, 1, __ATOMIC_RELAXED);
        return ACCESS_TOTAL_LIMIT;
    }
    /* Where the limit is beyond what a slot can count there is no need to. */
    if (trusted || most >= COUNT_MASK)
        return ACCESS_OK;
    if (client_enter(access, address_hash(access, ip), most, slot))
        return ACCESS_OK;
    __atomic_sub_fetch(&access->connections, 1, __ATOMIC_RELAXED);
    return ACCESS_CLIENT_LIMIT;
}

void
access_leave(struct access *access, uint32_t slot)
{
    uint64_t value, less;

    ASSERT(__atomic_load_n(&access->connections, __ATOMIC_RELAXED) > 0);
    __atomic_sub_fetch(&access->connections, 1, __ATOMIC_RELAXED);
    if (slot == ACCESS_UNCOUNTED)
        return;
    value = __atomic_load_n(&access->clients[slot], __ATOMIC_RELAXED);
    do {
        ASSERT((value & COUNT_MASK) > 0);
        less = (value & COUNT_MASK) == 1 ? 0 : value - 1;
    } while (!__atomic_compare_exchange_n(&access->clients[slot], &value, less, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

static bool
network_contains(const struct config_network *network, const uint8_t ip[16])
{
    unsigned whole = network->prefix / 8, bits = network->prefix % 8;

    if (memcmp(network->address, ip, whole) != 0)
        return false;
    return bits == 0 || (network->address[whole] ^ ip[whole]) >> (8 - bits) == 0;
}

bool
access_network_trusted(const struct config_accept *accept, const uint8_t ip[16])
{
    for (size_t i = 0; i < accept->network_count; i++)
        if (network_contains(&accept->networks[i], ip))
            return true;
    return false;
}

size_t
access_domain_find(char *const *domains, size_t exact_count, size_t count, struct span domain)
{
    size_t low = 0, high = exact_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = domain_compare(domains[middle], domain);

        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (size_t i = exact_count; i < count; i++)
        if (domain_matches(domains[i], domain))
            return i;
    return count;
}

bool
access_recipient_local(const struct config_accept *accept, const struct path *recipient)
{
    if (recipient->domain.len == 0)
        return span_equal_ignore_case(recipient->local, SPAN("postmaster"));
    if (recipient->local_special)
        return false;
    return access_domain_find(accept->domains, accept->domain_exact_count, accept->domain_count,
                              recipient->domain) < accept->domain_count;
}
