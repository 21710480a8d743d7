/* domain: compares a domain of any case with the lower-case names and wildcards of a configuration.
 * Memory:  none. Pure. RFC 5321 2.4: domains ignore case (ASCII).
 */
#ifndef RINGPOST_CORE_DOMAIN_H
#define RINGPOST_CORE_DOMAIN_H

#include "core/span.h"

/* strcmp() order of a lower-case name and a domain. */
int domain_compare(const char *name, struct span domain);
/* "*.example.com" matches every name below example.com, "*" every name. */
bool domain_matches(const char *wildcard, struct span domain);

#endif
