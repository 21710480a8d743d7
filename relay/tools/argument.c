/* Command lines of tools: each says the same of the same mistake. */
#include "relay/tools/argument.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>

#include "core/config_value.h"
#include "relay/tools/duration.h"

static const char *program = "", *command = "", *usage_text = "";
static const char *option_name; /* NULL: none is at hand */

void
argument_command(const char *of, const char *name, const char *usage)
{
    program = of;
    command = name;
    usage_text = usage;
    option_name = NULL;
}

int
argument_next(int argc, char **argv, const char *letters, const struct option *options)
{
    int key = getopt_long(argc, argv, letters, options, NULL);

    option_name = NULL;
    for (const struct option *option = options; key != -1 && option->name != NULL; option++)
        if (option->val == key)
            option_name = option->name;
    return key;
}

enum argument_status
argument_help(void)
{
    fputs(usage_text, stdout);
    return ARGUMENT_HELP;
}

bool
argument_none_left(int argc, char **argv)
{
    return optind == argc || argument_wrong(argv[optind], "is one argument too many");
}

bool
argument_wrong(const char *value, const char *why)
{
    if (option_name != NULL)
        return argument_refuse("--%s '%s' %s", option_name, value, why);
    return argument_refuse("'%s' %s", value, why);
}

bool
argument_refuse(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s: %s: ", program, command);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTry: %s %s --help\n", program, command);
    return false;
}

/* What a parser says of the value, or else whether it is within its bounds. */
static bool
bounded(const char *value, const char *why, uint64_t number, uint64_t least, uint64_t most)
{
    if (why == NULL && number < least)
        why = "is too small";
    else if (why == NULL && number > most)
        why = "is too large";
    return why == NULL || argument_wrong(value, why);
}

bool
argument_number(const char *value, uint64_t least, uint64_t most, uint64_t *out)
{
    const char *why = config_number_parse(span_text(value), out);

    return bounded(value, why, *out, least, most);
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
argument_size(const char *value, uint64_t least, uint64_t most, uint64_t *bytes)
{
    const char *why = config_size_parse(span_text(value), bytes);

    return bounded(value, why, *bytes, least, most);
}

bool
argument_duration(const char *value, uint64_t *duration_ms)
{
    const char *why = duration_parse(span_text(value), duration_ms);

    if (why == NULL && *duration_ms == 0)
        why = "is no time";
    return why == NULL || argument_wrong(value, why);
}

bool
argument_host_name(const char *value)
{
    return config_host_name_check(span_text(value)) == NULL ||
           argument_wrong(value, "is no host name");
}

bool
argument_address(const char *value, struct config_address *address)
{
    const char *why = config_address_parse_any(span_text(value), address);

    return why == NULL || argument_wrong(value, why);
}
