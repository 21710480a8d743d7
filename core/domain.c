/* Domain comparison for sorted tables (core/access.c, relay/route.c). */
#include "core/domain.h"

int
domain_compare(const char *name, struct span domain)
{
    for (size_t i = 0; i < domain.len; i++) {
        unsigned char a = (unsigned char)name[i], b = (unsigned char)char_lower(domain.data[i]);

        if (a != b)
            return a < b ? -1 : 1;
        /* The name ends here; a NUL in the domain is an octet like others. */
        if (a == '\0')
            return -1;
    }
    return name[domain.len] == '\0' ? 0 : 1;
}

bool
domain_matches(const char *wildcard, struct span domain)
{
    struct span suffix = span_text(wildcard + 1); /* ".example.com"; "" for "*" */

    return domain.len > suffix.len &&
           span_equal_ignore_case(span_after(domain, domain.len - suffix.len), suffix);
}
