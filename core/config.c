/* A configuration is read whole or not at all, so that a reload can fail and change nothing. */
#include "core/config.h"

#include <errno.h>

#include "core/config_section.h"

/* The configuration stands in the first piece of its own memory. */
static struct config *
config_new(struct config_arena *arena)
{
    return config_arena_allocate(arena, 1, sizeof(struct config));
}

static struct config *
read_source(const struct config_source *source, const char *base_directory,
            const char *machine_name, struct config_errors *errors)
{
    struct config_arena arena = { 0 }, scratch = { 0 };
    struct config_walk walk = {
        .config = config_new(&arena),
        .arena = &arena,
        .scratch = &scratch,
        .errors = errors,
        .source = source,
        .base_directory = base_directory,
        .machine_name = machine_name,
    };
    struct config_node *root = config_yaml_read(&scratch, source, errors);

    walk.root = root;
    if (root != NULL && walk.config != NULL) {
        walk.config->file = config_walk_copy(&walk, span_text(source->name));
        config_sections_read(&walk);
    }
    if (walk.config == NULL)
        config_report(errors, source, CONFIG_ERROR, (struct config_place){ 0 }, "out of memory");
    config_arena_free(&scratch);
    if (errors->error_count > 0) {
        config_arena_free(&arena);
        return NULL;
    }
    walk.config->_chunks = arena.chunks;
    return walk.config;
}

struct config *
config_parse(const char *text, size_t len, const char *name, const char *base_directory,
             const char *machine_name, struct config_errors *errors)
{
    static const struct span byte_order_mark = { "\xef\xbb\xbf", 3 };
    struct config_source source = { .name = name, .text = span_of(text, len) };

    errors->count = errors->error_count = errors->warning_count = 0;
    /* Some editors write one; it is no part of the first line. */
    if (len >= 3 && span_equal(span_first(source.text, 3), byte_order_mark))
        span_advance(&source.text, 3);
    return read_source(&source, base_directory, machine_name, errors);
}

/* Fills `text` from the file. False after a report. */
static bool
read_file(const char *name, char *text, size_t *len, struct config_errors *errors)
{
    const struct config_source source = { .name = name, .text = SPAN("") };
    FILE *file = fopen(name, "re");

    if (file == NULL) {
        config_report(errors, &source, CONFIG_ERROR, (struct config_place){ 0 }, "cannot open: %s",
                      strerror(errno));
        return false;
    }
    errno = 0;
    *len = fread(text, 1, CONFIG_FILE_BYTES_MAX + 1, file);
    bool failed = ferror(file) != 0;
    if (failed)
        config_report(errors, &source, CONFIG_ERROR, (struct config_place){ 0 }, "cannot read: %s",
                      strerror(errno));
    (void)fclose(file);
    return !failed;
}

struct config *
config_load(const char *file, const char *machine_name, struct config_errors *errors)
{
    struct config_arena arena = { 0 };
    const char *slash = strrchr(file, '/');
    size_t base_len = slash == NULL ? 0 : (size_t)(slash - file) + (slash == file);
    char *text = config_arena_allocate(&arena, CONFIG_FILE_BYTES_MAX + 1, 1);
    char *base_directory = config_arena_text(&arena, span_of(file, base_len));
    struct config *config = NULL;
    size_t len;

    errors->count = errors->error_count = errors->warning_count = 0;
    if (text == NULL || base_directory == NULL)
        config_report(errors, &(struct config_source){ .name = file }, CONFIG_ERROR,
                      (struct config_place){ 0 }, "out of memory");
    else if (read_file(file, text, &len, errors))
        config = config_parse(text, len, file, base_directory, machine_name, errors);
    config_arena_free(&arena);
    return config;
}

void
config_free(struct config *config)
{
    if (config == NULL)
        return;
    struct config_arena arena = { .chunks = config->_chunks };
    config_arena_free(&arena);
}
