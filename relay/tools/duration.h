/* duration: times in arguments of sink and send.
 * Does:    as config_duration_parse(), with a bound: in nanoseconds, and added to the clock, it
 *          must still be a number.
 * Memory:  none allocated.
 * Errors:  as config_duration_parse(): a text to stand behind the value.
 */
#ifndef RINGPOST_RELAY_TOOLS_DURATION_H
#define RINGPOST_RELAY_TOOLS_DURATION_H

#include "core/config_value.h"

#define DURATION_MS_MAX (365 * UINT64_C(86400000))

MUST_USE static inline const char *
duration_parse(struct span s, uint64_t *duration_ms)
{
    const char *why = config_duration_parse(s, duration_ms);

    return why == NULL && *duration_ms > DURATION_MS_MAX ? "is longer than a year" : why;
}

#endif
