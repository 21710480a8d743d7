/* config_option: the rows of options.def as a table.
 * Does:    defaults, reading with range checks, spelling of values, the tables of the reference.
 * Owns:    nothing; rows are constant.
 * Memory:  none allocated.
 * Errors:  config_option_read() fills `problem` with what is wrong and what was expected.
 */
#ifndef RINGPOST_CORE_CONFIG_OPTION_H
#define RINGPOST_CORE_CONFIG_OPTION_H

#include "core/config_value.h"

enum config_option_type {
    CONFIG_OPTION_COUNT,
    CONFIG_OPTION_SIZE,
    CONFIG_OPTION_DURATION,
    CONFIG_OPTION_BOOL,
    CONFIG_OPTION_CHOICE,
};

struct config_option {
    const char *section;
    const char *key;
    enum config_option_type type;
    const char *const *choices; /* CHOICE: max + 1 words in the order of the enum; else NULL */
    size_t offset;              /* of the field in the section's struct */
    size_t size;                /* of the field */
    uint64_t value; /* default */
    uint64_t min, max;
    const char *description;
};

#define CONFIG_OPTIONS_OF_SECTION_MAX 24
#define CONFIG_PROBLEM_BYTES_MAX 384

/* The rows of a section, which stand together. *count is 0 for a name that is no section. */
const struct config_option *config_options_of(const char *section, size_t *count);

/* Sets every field of the section in its struct at `target` to its default. */
void config_options_default(const char *section, void *target);

/* Reads a value into its field. False: the field is left alone. */
MUST_USE bool config_option_read(const struct config_option *option, struct span value,
                                 void *target, char problem[CONFIG_PROBLEM_BYTES_MAX]);

/* The value as a file would spell it. */
void config_option_spell(const struct config_option *option, uint64_t value,
                         char text[CONFIG_NUMBER_TEXT_MAX]);

#endif
