/* Values that only ringpost-bench has on its command line. */
#include "bench/tool/argument.h"

bool
argument_time(const char *value, uint64_t *ns)
{
    const char *why = nanoseconds_parse(span_text(value), ns);

    return why == NULL || argument_wrong(value, why);
}

bool
argument_distribution(const char *value, enum distribution_unit unit, uint64_t most,
                      struct distribution *out)
{
    const char *why = distribution_parse(value, unit, most, out);

    return why == NULL || argument_wrong(value, why);
}
