/* Counts and addresses as all tools print them: scripts read these lines. */
#include "relay/tools/print.h"

#include <stdio.h>

void
print_counts(const char *before, const struct print_count *counts, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (counts[i].count > 0)
            printf("%s%llu %s", before, (unsigned long long)counts[i].count, counts[i].what);
}

void
print_counts_json(const struct print_count *counts, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%s\"%s\": %llu", i > 0 ? ", " : "", counts[i].what,
               (unsigned long long)counts[i].count);
}

void
print_listening(const struct config_address *address)
{
    const uint8_t *ip = address->ip;

    printf("sink: listening on ");
    if (address->family == CONFIG_ADDRESS_IPV4)
        printf("%u.%u.%u.%u", ip[0], ip[1], ip[2], ip[3]);
    else
        for (unsigned i = 0; i < 16; i += 2)
            printf("%s%x%s", i == 0 ? "[" : ":", (unsigned)ip[i] << 8 | ip[i + 1],
                   i == 14 ? "]" : "");
    printf(":%u\n", address->port);
}
