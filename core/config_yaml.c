/* The one file that knows libfyaml. It reads events, not its documents: so the tree is ours, its
 * depth and size are bounded, every node has its place, and all library versions behave alike. */
#include "core/config_yaml.h"

#include <libfyaml.h>

#include "core/utf8.h"

struct anchor {
    char *name;
    struct config_node *node;
};

struct builder {
    struct config_arena *arena;
    const struct config_source *source;
    struct config_errors *errors;
    struct config_node *root;
    struct config_node *open[CONFIG_DEPTH_MAX];
    size_t depth;
    struct anchor anchors[CONFIG_ANCHORS_MAX];
    size_t anchor_count;
    size_t document_count;
    struct config_place place; /* of the latest event that has one: events for nothing have none */
};

/* Returns false, so that a caller can end with it. */
__attribute__((format(printf, 2, 3))) static bool
refuse(struct builder *builder, const char *format, ...)
{
    char message[256];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    config_report(builder->errors, builder->source, CONFIG_ERROR, builder->place, "%s", message);
    return false;
}

/* libfyaml 0.7 takes a NUL or a byte that is not UTF-8 for the end of the file, without a word. */
static bool
text_check(const struct config_source *source, struct config_errors *errors)
{
    struct config_place place = { .line = 1, .column = 1 };
    struct span rest = source->text;

    while (rest.len > 0) {
        size_t len = utf8_character_len(rest);
        uint8_t byte = (uint8_t)rest.data[0];

        if (len == 0) {
            config_report(errors, source, CONFIG_ERROR, place,
                          "byte 0x%02x is not UTF-8, expected the whole file to be", byte);
            return false;
        }
        if ((byte < ' ' && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f) {
            config_report(errors, source, CONFIG_ERROR, place,
                          "control character 0x%02x, expected text", byte);
            return false;
        }
        bool line_end = byte == '\n' || (byte == '\r' && !(rest.len > 1 && rest.data[1] == '\n'));
        place.column = line_end ? 1 : place.column + 1;
        place.line += line_end;
        span_advance(&rest, len);
    }
    return true;
}

static bool
is_key_position(const struct builder *builder)
{
    const struct config_node *parent = builder->open[builder->depth - 1];

    return parent->kind == CONFIG_MAP && parent->count % 2 == 0;
}

static bool
add_to_tree(struct builder *builder, struct config_node *node)
{
    if (builder->depth == 0) {
        builder->root = node;
        return true;
    }
    if (is_key_position(builder)) {
        if (node->kind != CONFIG_SCALAR)
            return refuse(builder, "a %s as a key, expected text",
                          node->kind == CONFIG_MAP ? "map" : "list");
        if (node->len == 0)
            return refuse(builder, "an empty key, expected text before the colon");
        if (strcmp(node->text, "<<") == 0)
            return refuse(builder, "merge keys ('<<') are not supported, expected the keys to be "
                                   "written out (aliases of whole values are supported)");
    }
    struct config_node *parent = builder->open[builder->depth - 1];
    if (parent->last != NULL)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
    return true;
}

static struct config_node *
node_new(struct builder *builder, enum config_node_kind kind)
{
    struct config_node *node = config_arena_allocate(builder->arena, 1, sizeof(*node));

    if (node == NULL) {
        (void)refuse(builder, "out of memory");
        return NULL;
    }
    node->kind = kind;
    node->given = true;
    node->place = builder->place;
    node->text = (char *)"";
    return node;
}

/* A copy of the token's text; NULL after a report. */
static char *
token_text(struct builder *builder, struct fy_token *token, size_t *len)
{
    const char *text = fy_token_get_text(token, len);

    if (text == NULL)
        *len = 0;
    char *copy = config_arena_text(builder->arena, span_of(text, *len));
    if (copy == NULL)
        (void)refuse(builder, "out of memory");
    return copy;
}

static bool
remember_anchor(struct builder *builder, struct fy_token *token, struct config_node *node)
{
    size_t len;

    if (token == NULL)
        return true;
    if (builder->anchor_count == CONFIG_ANCHORS_MAX)
        return refuse(builder, "too many anchors, expected at most %d", CONFIG_ANCHORS_MAX);
    struct anchor *anchor = &builder->anchors[builder->anchor_count];
    anchor->name = token_text(builder, token, &len);
    anchor->node = node;
    builder->anchor_count++;
    return anchor->name != NULL;
}

/* libfyaml 0.7 reads 'x''''y' wrong, and loses memory with it. */
static bool
has_quotes_in_a_row(const struct builder *builder, struct fy_event *event)
{
    const struct fy_mark *start = fy_event_start_mark(event), *end = fy_event_end_mark(event);
    struct span text = builder->source->text;

    if (start == NULL || end == NULL || end->input_pos > text.len)
        return false;
    for (size_t i = start->input_pos; i + 4 <= end->input_pos; i++)
        if (memcmp(text.data + i, "''''", 4) == 0)
            return true;
    return false;
}

/* A key with nothing behind it: libfyaml 0.7 says no token, 0.8 an empty plain one. */
static bool
is_absent(struct fy_event *event)
{
    struct fy_token *value = event->scalar.value;
    size_t len = 0;

    if (event->type != FYET_SCALAR)
        return false;
    if (value == NULL)
        return true;
    return fy_token_scalar_style(value) == FYSS_PLAIN &&
           (fy_token_get_text(value, &len) == NULL || len == 0);
}

static bool
add_scalar(struct builder *builder, struct fy_event *event)
{
    struct fy_token *value = event->scalar.value;
    enum fy_scalar_style style = value != NULL ? fy_token_scalar_style(value) : FYSS_PLAIN;

    /* libfyaml's place is that of the text; a person looks for the quote before it. */
    if (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED)
        builder->place.column -= builder->place.column > 1;
    if (style == FYSS_SINGLE_QUOTED && has_quotes_in_a_row(builder, event))
        return refuse(builder, "quotes in a row inside of single quotes, expected the text in "
                               "double quotes");
    struct config_node *node = node_new(builder, CONFIG_SCALAR);
    if (node == NULL)
        return false;
    node->given = !is_absent(event);
    if (node->given)
        node->text = token_text(builder, value, &node->len);
    if (node->text == NULL)
        return false;
    return remember_anchor(builder, event->scalar.anchor, node) && add_to_tree(builder, node);
}

static bool
add_collection(struct builder *builder, enum config_node_kind kind, struct fy_token *anchor)
{
    if (builder->depth == CONFIG_DEPTH_MAX)
        return refuse(builder, "nested too deeply, expected at most %d levels", CONFIG_DEPTH_MAX);
    struct config_node *node = node_new(builder, kind);
    if (node == NULL || !remember_anchor(builder, anchor, node) || !add_to_tree(builder, node))
        return false;
    node->open = true;
    builder->open[builder->depth++] = node;
    return true;
}

/* The alias shares what its anchor names; only its place is its own. */
static bool
add_alias(struct builder *builder, struct fy_event *event)
{
    size_t len;
    struct config_node *node = node_new(builder, CONFIG_SCALAR);
    char *name = node == NULL ? NULL : token_text(builder, event->alias.anchor, &len);

    if (name == NULL)
        return false;
    for (size_t i = builder->anchor_count; i-- > 0;) {
        const struct anchor *anchor = &builder->anchors[i];
        if (strcmp(anchor->name, name) != 0)
            continue;
        if (anchor->node->open)
            return refuse(builder, "alias '*%.40s' inside of what it names, expected a value that "
                                   "ends before it", name);
        *node = *anchor->node;
        node->place = builder->place;
        node->next = NULL;
        return add_to_tree(builder, node);
    }
    return refuse(builder, "no anchor '&%.40s' before this alias; a text that begins with '*' "
                           "needs quotes", name);
}

static bool
end_collection(struct builder *builder)
{
    ASSERT(builder->depth > 0);
    struct config_node *node = builder->open[--builder->depth];
    node->open = false;
    if (node->kind == CONFIG_MAP && node->count % 2 != 0)
        return refuse(builder, "YAML: a key without a value");
    return true;
}

static bool
take_event(struct builder *builder, struct fy_event *event)
{
    const struct fy_mark *mark = fy_event_start_mark(event);

    /* What is absent has its key's place. */
    if (event->type != FYET_STREAM_END && !is_absent(event) && mark != NULL && mark->line >= 0 &&
        mark->column >= 0) {
        builder->place.line = (uint32_t)mark->line + 1;
        builder->place.column = (uint32_t)mark->column + 1;
    }
    if (fy_event_get_tag_token(event) != NULL)
        return refuse(builder, "tags ('!...') are not supported, expected the value alone: its key "
                               "gives it its type");
    switch (event->type) {
    case FYET_DOCUMENT_START:
        if (++builder->document_count > 1)
            return refuse(builder, "a second document, expected one only");
        return true;
    case FYET_MAPPING_START:
        return add_collection(builder, CONFIG_MAP, event->mapping_start.anchor);
    case FYET_SEQUENCE_START:
        return add_collection(builder, CONFIG_LIST, event->sequence_start.anchor);
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END:
        return end_collection(builder);
    case FYET_SCALAR:
        return add_scalar(builder, event);
    case FYET_ALIAS:
        return add_alias(builder, event);
    default:
        return true;
    }
}

/* A mistake that libfyaml's words do not explain: `route: { *: internal }` is an alias to YAML. */
static bool
has_bare_star(struct span line)
{
    for (size_t i = 0; i + 1 < line.len; i++)
        if (line.data[i] == '*' && (line.data[i + 1] == ':' || line.data[i + 1] == '.') &&
            (i == 0 || (line.data[i - 1] != '"' && line.data[i - 1] != '\'')))
            return true;
    return false;
}

/* Hands on what libfyaml says about the syntax. */
static void
report_syntax(struct builder *builder, struct fy_diag *diag)
{
    const struct fy_diag_error *error;
    size_t count = builder->errors->error_count;
    void *position = NULL;

    while ((error = fy_diag_errors_iterate(diag, &position)) != NULL) {
        if (error->type < FYET_ERROR)
            continue;
        builder->place.line = error->line > 0 ? (uint32_t)error->line : 1;
        builder->place.column = error->column > 0 ? (uint32_t)error->column : 1;
        struct span line = config_source_line(builder->source->text, builder->place.line);
        (void)refuse(builder, "YAML: %s%s", error->msg,
                     has_bare_star(line) ? "; a text that begins with '*' needs quotes" : "");
    }
    if (builder->errors->error_count == count)
        (void)refuse(builder, "YAML: not readable from here on");
}

static bool
read_events(struct builder *builder, struct fy_parser *parser, struct fy_diag *diag)
{
    struct fy_event *event;

    while ((event = fy_parser_parse(parser)) != NULL) {
        bool ended = event->type == FYET_STREAM_END;
        bool taken = take_event(builder, event);
        fy_parser_event_free(parser, event);
        if (!taken)
            return false;
        if (ended)
            break;
    }
    if (event == NULL || fy_parser_get_stream_error(parser)) {
        report_syntax(builder, diag);
        return false;
    }
    ASSERT(builder->depth == 0);
    return true;
}

static bool
parse(struct builder *builder, struct span text)
{
    struct fy_diag_cfg diag_settings;
    struct fy_parse_cfg settings = {
        .flags = FYPCF_QUIET | FYPCF_DEFAULT_VERSION_1_2 | FYPCF_JSON_NONE,
    };
    bool done = false;

    fy_diag_cfg_default(&diag_settings);
    diag_settings.fp = NULL;
    settings.diag = fy_diag_create(&diag_settings);
    if (settings.diag == NULL)
        return refuse(builder, "out of memory");
    fy_diag_set_collect_errors(settings.diag, true);
    struct fy_parser *parser = fy_parser_create(&settings);
    if (parser == NULL || fy_parser_set_string(parser, text.data, text.len) != 0)
        (void)refuse(builder, "out of memory");
    else
        done = read_events(builder, parser, settings.diag);
    fy_parser_destroy(parser);
    fy_diag_destroy(settings.diag);
    return done;
}

struct config_node *
config_yaml_read(struct config_arena *arena, const struct config_source *source,
                 struct config_errors *errors)
{
    struct builder builder = {
        .arena = arena,
        .source = source,
        .errors = errors,
        .place = { .line = 1, .column = 1 },
    };

    if (source->text.len > CONFIG_FILE_BYTES_MAX) {
        config_report(errors, source, CONFIG_ERROR, (struct config_place){ 0 },
                      "is larger than 1mb, expected a configuration");
        return NULL;
    }
    if (!text_check(source, errors) || !parse(&builder, source->text))
        return NULL;
    if (builder.root == NULL) {
        builder.root = node_new(&builder, CONFIG_SCALAR);
        if (builder.root != NULL)
            builder.root->given = false;
    }
    return builder.root;
}

const struct config_node *
config_node_find(const struct config_node *map, const char *key)
{
    if (map->kind != CONFIG_MAP)
        return NULL;
    for (const struct config_node *node = map->first; node != NULL; node = node->next->next)
        if (strcmp(node->text, key) == 0 && node->len == strlen(key))
            return node->next;
    return NULL;
}
