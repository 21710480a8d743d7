/* The rules that hold for every key are here, so that config_section.c can read like the schema. */
#include "core/config_walk.h"

#include <stdarg.h>

#include "core/config_option.h"

#define KNOWN_KEYS_MAX (CONFIG_OPTIONS_OF_SECTION_MAX + 16)
#define NAME_BYTES_MAX 64

static void
report(struct config_walk *walk, enum config_severity severity, const struct config_node *node,
       const char *message)
{
    config_report(walk->errors, walk->source, severity, node->place, "%s%s%s", walk->label,
                  walk->label[0] != '\0' ? ": " : "", message);
}

void
config_walk_error(struct config_walk *walk, const struct config_node *node, const char *format, ...)
{
    char message[CONFIG_PROBLEM_BYTES_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    report(walk, CONFIG_ERROR, node, message);
}

void
config_walk_warn(struct config_walk *walk, const struct config_node *node, const char *format, ...)
{
    char message[CONFIG_PROBLEM_BYTES_MAX];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    report(walk, CONFIG_WARNING, node, message);
}

void
config_walk_problem(struct config_walk *walk, const struct config_node *node, const char *problem)
{
    config_walk_error(walk, node, "'%.60s' %s", node->text, problem);
}

size_t
config_walk_enter(struct config_walk *walk, const char *name)
{
    size_t len = strlen(walk->label);

    (void)snprintf(walk->label + len, sizeof(walk->label) - len, "%s%.64s", len > 0 ? "." : "",
                   name);
    return len;
}

void
config_walk_leave(struct config_walk *walk, size_t label_len)
{
    ASSERT(label_len < sizeof(walk->label));
    walk->label[label_len] = '\0';
}

bool
config_walk_is_map(struct config_walk *walk, const struct config_node *node)
{
    if (node->kind == CONFIG_MAP || !node->given)
        return true;
    if (node->kind == CONFIG_LIST)
        config_walk_error(walk, node, "a list, expected a map of keys and values");
    else
        config_walk_error(walk, node, "'%.60s' is a value, expected a map of keys and values",
                          node->text);
    return false;
}

/* The keys that a map may have. Returns their number. */
static size_t
known_keys(const struct config_schema *schema, const char *keys[KNOWN_KEYS_MAX])
{
    size_t row_count = 0;
    const struct config_option *rows =
        schema->section != NULL ? config_options_of(schema->section, &row_count) : NULL;

    ASSERT(row_count + schema->key_count <= KNOWN_KEYS_MAX);
    for (size_t i = 0; i < schema->key_count; i++)
        keys[i] = schema->keys[i].name;
    for (size_t i = 0; i < row_count; i++)
        keys[schema->key_count + i] = rows[i].key;
    return schema->key_count + row_count;
}

static void
report_unknown_key(struct config_walk *walk, const struct config_node *key,
                   const char *const *known, size_t count)
{
    char list[256];
    struct outbuf out = { .data = list, .size = sizeof(list) };
    const char *nearest = config_nearest_word(config_node_span(key), known, count);

    if (nearest != NULL) {
        config_walk_error(walk, key, "unknown key '%.60s', did you mean '%s'?", key->text, nearest);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            (void)outbuf_add_some(&out, i + 1 == count ? SPAN(" or ") : SPAN(", "));
        (void)outbuf_add_some(&out, span_text(known[i]));
    }
    config_walk_error(walk, key, "unknown key '%.60s', expected %.*s", key->text, (int)out.len,
                      list);
}

static void
check_keys(struct config_walk *walk, const struct config_node *map,
           const struct config_schema *schema)
{
    const char *known[KNOWN_KEYS_MAX];
    const struct config_node *seen[KNOWN_KEYS_MAX] = { NULL };
    size_t count = known_keys(schema, known);

    for (const struct config_node *key = map->first; key != NULL; key = key->next->next) {
        size_t i = 0;
        while (i < count && !span_equal(config_node_span(key), span_text(known[i])))
            i++;
        if (i == count)
            report_unknown_key(walk, key, known, count);
        else if (seen[i] != NULL)
            config_walk_error(walk, key, "duplicate key '%s', the first one is on line %u",
                              known[i], seen[i]->place.line);
        else
            seen[i] = key;
    }
}

static void
read_options(struct config_walk *walk, const struct config_node *map, const char *section,
             void *target)
{
    char problem[CONFIG_PROBLEM_BYTES_MAX];
    size_t count;
    const struct config_option *rows = config_options_of(section, &count);

    for (size_t i = 0; i < count; i++) {
        const struct config_node *value = config_node_find(map, rows[i].key);
        size_t label = config_walk_enter(walk, rows[i].key);
        if (value != NULL && config_walk_is_text(walk, value) &&
            !config_option_read(&rows[i], config_node_span(value), target, problem))
            config_walk_error(walk, value, "%s", problem);
        config_walk_leave(walk, label);
    }
}

void
config_walk_map(struct config_walk *walk, const struct config_node *map,
                const struct config_schema *schema, void *target)
{
    if (!config_walk_is_map(walk, map))
        return;
    check_keys(walk, map, schema);
    if (schema->section != NULL)
        read_options(walk, map, schema->section, target);
    for (size_t i = 0; i < schema->key_count; i++) {
        const struct config_key *key = &schema->keys[i];
        const struct config_node *value = config_node_find(map, key->name);
        if (value == NULL) {
            if (key->required != NULL)
                config_walk_error(walk, map, "'%s' is missing, expected %s", key->name,
                                  key->required);
            continue;
        }
        size_t label = config_walk_enter(walk, key->name);
        key->read(walk, value, target);
        config_walk_leave(walk, label);
    }
}

/* Names stand in logs and in labels of statistics. */
static bool
name_valid(struct span name)
{
    for (size_t i = 0; i < name.len; i++) {
        char c = char_lower(name.data[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_' && c != '-')
            return false;
    }
    return name.len <= NAME_BYTES_MAX;
}

bool
config_walk_names(struct config_walk *walk, const struct config_node *map, const char *thing,
                  size_t max)
{
    if (!config_walk_is_map(walk, map))
        return false;
    if (map->count == 0) {
        config_walk_error(walk, map, "empty, expected at least one %s", thing);
        return false;
    }
    if (map->count / 2 > max) {
        config_walk_error(walk, map, "%zu entries, expected at most %zu", map->count / 2, max);
        return false;
    }
    for (const struct config_node *key = map->first; key != NULL; key = key->next->next) {
        const struct config_node *other = map->first;
        if (!name_valid(config_node_span(key)))
            config_walk_error(walk, key, "'%.60s' is no name for a %s, expected up to %d letters, "
                                         "digits, '-' and '_'", key->text, thing, NAME_BYTES_MAX);
        while (!span_equal(config_node_span(key), config_node_span(other)))
            other = other->next->next;
        if (other != key)
            config_walk_error(walk, key, "duplicate key '%.60s', the first one is on line %u",
                              key->text, other->place.line);
    }
    return true;
}

const struct config_node *
config_walk_list(struct config_walk *walk, const struct config_node *node, size_t max,
                 size_t *count)
{
    *count = node->kind == CONFIG_LIST ? node->count : 1;
    if (*count == 0) {
        config_walk_error(walk, node, "an empty list, expected at least one value");
        return NULL;
    }
    if (*count > max) {
        config_walk_error(walk, node, "%zu values, expected at most %zu", *count, max);
        return NULL;
    }
    return node->kind == CONFIG_LIST ? node->first : node;
}

bool
config_walk_is_text(struct config_walk *walk, const struct config_node *node)
{
    if (node->kind != CONFIG_SCALAR) {
        config_walk_error(walk, node, "a %s, expected one value",
                          node->kind == CONFIG_LIST ? "list" : "map");
        return false;
    }
    if (node->len == 0) {
        config_walk_error(walk, node, "no value, expected one");
        return false;
    }
    for (size_t i = 0; i < node->len; i++) {
        uint8_t byte = (uint8_t)node->text[i];
        if (byte < ' ' || byte == 0x7f) {
            config_walk_error(walk, node, "control character 0x%02x in a value, expected one line "
                                          "of text", byte);
            return false;
        }
    }
    return true;
}

/* Where there is none, the root of the file is blamed. */
static void *
memory_found(struct config_walk *walk, void *memory)
{
    if (memory == NULL)
        config_walk_error(walk, walk->root, "out of memory");
    return memory;
}

void *
config_walk_array(struct config_walk *walk, size_t count, size_t size)
{
    return memory_found(walk, config_arena_allocate(walk->arena, count, size));
}

void *
config_walk_scratch(struct config_walk *walk, size_t count, size_t size)
{
    return memory_found(walk, config_arena_allocate(walk->scratch, count, size));
}

char *
config_walk_copy(struct config_walk *walk, struct span text)
{
    return memory_found(walk, config_arena_text(walk->arena, text));
}

char *
config_walk_copy_lower(struct config_walk *walk, struct span text)
{
    char *copy = config_walk_copy(walk, text);

    for (size_t i = 0; copy != NULL && i < text.len; i++)
        copy[i] = char_lower(copy[i]);
    return copy;
}

char *
config_walk_path(struct config_walk *walk, struct span path)
{
    struct span base = span_text(walk->base_directory);
    bool joined = path.len > 0 && path.data[0] != '/' && base.len > 0;
    size_t size = path.len + (joined ? base.len + 1 : 0);
    char *copy = config_walk_array(walk, size + 1, 1);
    struct outbuf out = { .data = copy, .size = size };

    if (copy == NULL)
        return NULL;
    if (joined) {
        outbuf_add(&out, base);
        if (base.data[base.len - 1] != '/')
            outbuf_add_char(&out, '/');
    }
    outbuf_add(&out, path);
    return copy;
}
