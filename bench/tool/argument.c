/* Values on the command line of ringpost-bench, and what is said of wrong ones. */
#include "bench/tool/argument.h"

#include <stdio.h>

#include "core/config_value.h"

static const char *command = "";

void
argument_command(const char *name)
{
    command = name;
}

bool
argument_wrong(const char *value, const char *why)
{
    fprintf(stderr, "ringpost-bench: %s: '%s' %s\nTry: ringpost-bench %s --help\n", command, value,
            why, command);
    return false;
}

bool
argument_number(const char *value, uint64_t least, uint64_t most, uint64_t *out)
{
    const char *why = config_number_parse(span_text(value), out);

    if (why == NULL && (*out < least || *out > most))
        why = "is out of range";
    return why == NULL || argument_wrong(value, why);
}

bool
argument_number32(const char *value, uint32_t most, uint32_t *out)
{
    uint64_t number;

    if (!argument_number(value, 1, most, &number))
        return false;
    *out = (uint32_t)number;
    return true;
}

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
