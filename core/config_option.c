/* Everything that is the same for all scalar options is done here once, from their rows. */
#include "core/config_option.h"

static const char *const choices_sandbox[] = { "off", "log", "on" };
static const char *const choices_scheduling[] = { "other", "batch" };
static const char *const choices_listener_tls[] = { "none", "starttls", "implicit" };
static const char *const choices_tls_minimum[] = { "1.2", "1.3" };
static const char *const choices_hop_tls[] = { "none", "opportunistic", "require", "verify" };
static const char *const choices_balance[] = { "order", "share" };
static const char *const choices_delivery_mode[] = { "cut-through", "spool" };
static const char *const choices_on_defer[] = { "pass", "spool" };
static const char *const choices_recipient_check[] = { "none", "next_hop" };
static const char *const choices_log_format[] = { "text", "json" };

_Static_assert(sizeof(enum config_hop_tls) == sizeof(uint32_t), "a choice is stored as 32 bits");
_Static_assert(sizeof(bool) == 1, "a bool is stored as one byte");

/* Which struct holds the fields of a section. */
#define STRUCT_OF_process struct config
#define STRUCT_OF_listener struct config_listener
#define STRUCT_OF_tls struct config_tls
#define STRUCT_OF_next_hop struct config_next_hop
#define STRUCT_OF_delivery struct config_delivery
#define STRUCT_OF_spool struct config_spool
#define STRUCT_OF_log struct config_log
#define STRUCT_OF_limits struct config_limits
#define STRUCT_OF_timeouts struct config_timeouts

#define NAME_COUNT(key) key
#define NAME_SIZE(key) key
#define NAME_DURATION(key) key##_ms
#define NAME_BOOL(key) key
#define NAME_CHOICE(key) key

#define CHOICES_COUNT(unit) NULL
#define CHOICES_SIZE(unit) NULL
#define CHOICES_DURATION(unit) NULL
#define CHOICES_BOOL(unit) NULL
#define CHOICES_CHOICE(unit) choices_##unit

#define SIZE_OF_FIELD(type, field) sizeof(((type *)0)->field)
#define ROW(section_, key_, type_, unit_, value_, min_, max_, description_)  \
    {                                                                        \
        .section = #section_,                                                \
        .key = #key_,                                                        \
        .type = CONFIG_OPTION_##type_,                                       \
        .choices = CHOICES_##type_(unit_),                                   \
        .offset = offsetof(STRUCT_OF_##section_, NAME_##type_(key_)),        \
        .size = SIZE_OF_FIELD(STRUCT_OF_##section_, NAME_##type_(key_)),     \
        .value = (value_),                                                   \
        .min = (min_),                                                       \
        .max = (max_),                                                       \
        .description = description_,                                         \
    },

static const struct config_option options[] = { OPTIONS_ALL(ROW) };

#define OPTION_COUNT (sizeof(options) / sizeof(options[0]))

/* A row that contradicts itself does not compile. */
#define CHECK_ROW(section, key, type, unit, value, min, max, description) \
    _Static_assert((min) <= (value) && (value) <= (max), #section "." #key ": default is outside");
#define CHECK_CHOICES_COUNT(unit, max) 1
#define CHECK_CHOICES_SIZE(unit, max) 1
#define CHECK_CHOICES_DURATION(unit, max) 1
#define CHECK_CHOICES_BOOL(unit, max) 1
#define CHECK_CHOICES_CHOICE(unit, max) \
    (sizeof(choices_##unit) / sizeof(choices_##unit[0]) == (size_t)(max) + 1)
#define CHECK_WORDS(section, key, type, unit, value, min, max, description) \
    _Static_assert(CHECK_CHOICES_##type(unit, max), #section "." #key ": words and enum differ");
OPTIONS_ALL(CHECK_ROW)
OPTIONS_ALL(CHECK_WORDS)

const struct config_option *
config_options_of(const char *section, size_t *count)
{
    const struct config_option *first = NULL;

    *count = 0;
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (strcmp(options[i].section, section) != 0)
            continue;
        if (first == NULL)
            first = &options[i];
        ASSERT(first + *count == &options[i]);
        ++*count;
    }
    ASSERT(*count <= CONFIG_OPTIONS_OF_SECTION_MAX);
    return first;
}

static void
store(const struct config_option *option, uint64_t value, void *target)
{
    char *field = (char *)target + option->offset;
    uint32_t value32 = (uint32_t)value;
    uint8_t value8 = (uint8_t)value;

    ASSERT(value >= option->min && value <= option->max);
    if (option->size == sizeof(value)) {
        memcpy(field, &value, sizeof(value));
    } else if (option->size == sizeof(value32)) {
        ASSERT(value <= UINT32_MAX);
        memcpy(field, &value32, sizeof(value32));
    } else {
        ASSERT(option->size == sizeof(value8) && value <= 1);
        memcpy(field, &value8, sizeof(value8));
    }
}

void
config_options_default(const char *section, void *target)
{
    size_t count;
    const struct config_option *rows = config_options_of(section, &count);

    for (size_t i = 0; i < count; i++)
        store(&rows[i], rows[i].value, target);
}

void
config_option_spell(const struct config_option *option, uint64_t value,
                    char text[CONFIG_NUMBER_TEXT_MAX])
{
    const char *word = value != 0 ? "true" : "false";

    switch (option->type) {
    case CONFIG_OPTION_SIZE:
        config_size_format(value, text);
        return;
    case CONFIG_OPTION_DURATION:
        config_duration_format(value, text);
        return;
    case CONFIG_OPTION_COUNT:
        (void)snprintf(text, CONFIG_NUMBER_TEXT_MAX, "%llu", (unsigned long long)value);
        return;
    case CONFIG_OPTION_CHOICE:
        ASSERT(value <= option->max);
        word = option->choices[value];
        break;
    case CONFIG_OPTION_BOOL:
        break;
    }
    (void)snprintf(text, CONFIG_NUMBER_TEXT_MAX, "%s", word);
}

/* "a, b or c", each between `quote` marks. */
static void
add_choices(struct outbuf *out, const struct config_option *option, struct span quote)
{
    for (uint64_t i = 0; i <= option->max; i++) {
        if (i > 0)
            (void)outbuf_add_some(out, i == option->max ? SPAN(" or ") : SPAN(", "));
        (void)outbuf_add_some(out, quote);
        (void)outbuf_add_some(out, span_text(option->choices[i]));
        (void)outbuf_add_some(out, quote);
    }
}

/* How much of a wrong value a message repeats. */
static int
quoted_bytes(struct span value)
{
    return (int)(value.len < 60 ? value.len : 60);
}

static bool
read_choice(const struct config_option *option, struct span value, uint64_t *number,
            char problem[CONFIG_PROBLEM_BYTES_MAX])
{
    char words[CONFIG_PROBLEM_BYTES_MAX / 2];
    struct outbuf out = { .data = words, .size = sizeof(words) };
    const char *nearest = config_nearest_word(value, option->choices, option->max + 1);

    for (uint64_t i = 0; i <= option->max; i++) {
        if (span_equal(value, span_text(option->choices[i]))) {
            *number = i;
            return true;
        }
    }
    add_choices(&out, option, SPAN(""));
    (void)snprintf(problem, CONFIG_PROBLEM_BYTES_MAX, "'%.*s' is unknown, expected %.*s%s%s%s",
                   quoted_bytes(value), value.data, (int)out.len, words,
                   nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                   nearest != NULL ? "'?" : "");
    return false;
}

static const char *
read_bool(struct span value, uint64_t *number)
{
    *number = span_equal(value, SPAN("true"));
    if (*number != 0 || span_equal(value, SPAN("false")))
        return NULL;
    return "is unknown, expected true or false";
}

static bool
read_number(const struct config_option *option, struct span value, uint64_t *number,
            char problem[CONFIG_PROBLEM_BYTES_MAX])
{
    char min[CONFIG_NUMBER_TEXT_MAX], max[CONFIG_NUMBER_TEXT_MAX];
    int shown = quoted_bytes(value);
    const char *wrong;

    if (option->type == CONFIG_OPTION_SIZE)
        wrong = config_size_parse(value, number);
    else if (option->type == CONFIG_OPTION_DURATION)
        wrong = config_duration_parse(value, number);
    else if (option->type == CONFIG_OPTION_BOOL)
        wrong = read_bool(value, number);
    else
        wrong = config_number_parse(value, number);
    if (wrong != NULL) {
        (void)snprintf(problem, CONFIG_PROBLEM_BYTES_MAX, "'%.*s' %s", shown, value.data, wrong);
        return false;
    }
    if (*number >= option->min && *number <= option->max)
        return true;
    config_option_spell(option, option->min, min);
    config_option_spell(option, option->max, max);
    (void)snprintf(problem, CONFIG_PROBLEM_BYTES_MAX, "%.*s is too %s, expected %s to %s", shown,
                   value.data, *number < option->min ? "small" : "large", min, max);
    return false;
}

bool
config_option_read(const struct config_option *option, struct span value, void *target,
                   char problem[CONFIG_PROBLEM_BYTES_MAX])
{
    uint64_t number;
    bool done = option->type == CONFIG_OPTION_CHOICE ? read_choice(option, value, &number, problem)
                                                     : read_number(option, value, &number, problem);

    if (done)
        store(option, number, target);
    return done;
}

static void
print_row(const struct config_option *option, FILE *out)
{
    char text[CONFIG_NUMBER_TEXT_MAX], max[CONFIG_NUMBER_TEXT_MAX], words[256];
    struct outbuf range = { .data = words, .size = sizeof(words) };

    if (option->type == CONFIG_OPTION_CHOICE) {
        add_choices(&range, option, SPAN("`"));
    } else {
        bool is_bool = option->type == CONFIG_OPTION_BOOL;
        config_option_spell(option, is_bool ? option->max : option->min, text);
        config_option_spell(option, is_bool ? option->min : option->max, max);
        outbuf_add(&range, span_text(text));
        outbuf_add(&range, is_bool ? SPAN(" or ") : SPAN(" to "));
        outbuf_add(&range, span_text(max));
    }
    config_option_spell(option, option->value, text);
    (void)fprintf(out, "| `%s` | %s | %.*s | %s |\n", option->key, text, (int)range.len, words,
                  option->description);
}

void
config_print_options(FILE *out)
{
    static const struct {
        const char *section, *heading;
    } sections[] = {
        { "process", "(top level)" }, { "listener", "listen.NAME" },
        { "tls", "tls" },             { "next_hop", "next_hop.NAME" },
        { "delivery", "delivery" },   { "spool", "spool" },
        { "log", "log" },             { "limits", "limits" },
        { "timeouts", "timeouts" },
    };
    size_t printed = 0;

    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        size_t count;
        const struct config_option *rows = config_options_of(sections[i].section, &count);

        (void)fprintf(out, "%s### %s\n\n", i > 0 ? "\n" : "", sections[i].heading);
        (void)fprintf(out, "| key | default | allowed | meaning |\n| --- | --- | --- | --- |\n");
        for (size_t k = 0; k < count; k++)
            print_row(&rows[k], out);
        printed += count;
    }
    ASSERT(printed == OPTION_COUNT);
}
