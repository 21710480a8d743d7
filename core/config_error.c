/* The compiler's way of telling errors: a person with an editor open fixes them all in one go. */
#include "core/config_error.h"

#include <stdarg.h>

#include "core/utf8.h"

#define MESSAGE_BYTES_MAX 512
#define NAME_BYTES_MAX 200
/* Characters of the source line that are shown, and of those the ones before the caret. */
#define EXCERPT_MAX 72
#define EXCERPT_BEFORE_MAX 56

/* The output is for a terminal: nothing in a file or a name may control it. */
static void
add_printable(struct outbuf *out, struct span s)
{
    while (s.len > 0) {
        size_t len = utf8_character_len(s);
        struct span character = span_first(s, len > 0 ? len : 1);

        if (s.data[0] != '\t' && !utf8_printable(character))
            (void)outbuf_add_some(out, SPAN("?"));
        else if (character.len <= outbuf_room(out))
            outbuf_add(out, character);
        span_advance(&s, character.len);
    }
}

static void
add_name(struct outbuf *out, const char *name)
{
    struct span s = span_text(name);

    if (s.len > NAME_BYTES_MAX) {
        outbuf_add(out, SPAN("..."));
        s = span_after(s, s.len - NAME_BYTES_MAX);
    }
    add_printable(out, s);
}

struct span
config_source_line(struct span text, uint32_t line)
{
    uint32_t number = 1;
    size_t start = 0;

    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] != '\n' && text.data[i] != '\r')
            continue;
        if (number == line)
            return span_of(text.data + start, i - start);
        if (text.data[i] == '\r' && i + 1 < text.len && text.data[i + 1] == '\n')
            i++;
        number++;
        start = i + 1;
    }
    return number == line ? span_of(text.data + start, text.len - start) : SPAN("");
}

/* Moves *s over up to `count` characters; returns how many there were. */
static size_t
skip_characters(struct span *s, size_t count)
{
    size_t skipped = 0;

    for (; skipped < count && s->len > 0; skipped++) {
        size_t len = utf8_character_len(*s);
        span_advance(s, len > 0 ? len : 1);
    }
    return skipped;
}

static void
add_excerpt(struct outbuf *out, struct span line, struct config_place place)
{
    char gutter[32];
    size_t before = place.column - 1;
    size_t hidden = before > EXCERPT_BEFORE_MAX ? before - EXCERPT_BEFORE_MAX : 0;
    struct span shown = line;

    hidden = skip_characters(&shown, hidden);
    struct span rest = shown;
    size_t pad = skip_characters(&rest, before - hidden);
    struct span left = span_first(shown, shown.len - rest.len);
    (void)skip_characters(&rest, EXCERPT_MAX - pad);

    (void)snprintf(gutter, sizeof(gutter), "%5u | ", place.line);
    outbuf_add(out, span_text(gutter));
    (void)outbuf_add_some(out, span_text(hidden > 0 ? "..." : ""));
    add_printable(out, span_first(shown, shown.len - rest.len));
    (void)outbuf_add_some(out, span_text(rest.len > 0 ? "...\n" : "\n"));

    (void)outbuf_add_some(out, SPAN("      | "));
    (void)outbuf_add_some(out, span_text(hidden > 0 ? "   " : ""));
    for (size_t i = 0; i < pad; i++) {
        (void)outbuf_add_some(out, span_text(left.data[0] == '\t' ? "\t" : " "));
        (void)skip_characters(&left, 1);
    }
    (void)outbuf_add_some(out, SPAN("^\n"));
}

static void
render(struct config_error *item, const struct config_source *source, struct config_place place,
       const char *message)
{
    struct outbuf out = { .data = item->text, .size = sizeof(item->text) - 1 };
    struct span line = config_source_line(source->text, place.line);

    add_name(&out, source->name);
    if (place.line > 0) {
        outbuf_add_char(&out, ':');
        outbuf_add_number(&out, place.line);
        outbuf_add_char(&out, ':');
        outbuf_add_number(&out, place.column);
    }
    outbuf_add(&out, item->warning ? SPAN(": warning: ") : SPAN(": error: "));
    add_printable(&out, span_text(message));
    outbuf_add_char(&out, '\n');
    if (place.line > 0 && line.len > 0)
        add_excerpt(&out, line, place);
    item->text[out.len] = '\0';
}

/* Room for one more item; when there is none, an error takes the place of a warning. */
static bool
make_room(struct config_errors *errors, enum config_severity severity)
{
    if (errors->count < CONFIG_ERRORS_MAX)
        return true;
    if (severity == CONFIG_WARNING)
        return false;
    for (size_t i = errors->count; i-- > 0;) {
        if (!errors->items[i].warning)
            continue;
        for (size_t k = i + 1; k < errors->count; k++)
            errors->items[k - 1] = errors->items[k];
        errors->count--;
        return true;
    }
    return false;
}

void
config_report(struct config_errors *errors, const struct config_source *source,
              enum config_severity severity, struct config_place place, const char *format, ...)
{
    char message[MESSAGE_BYTES_MAX];
    va_list arguments;

    if (severity == CONFIG_WARNING)
        errors->warning_count++;
    else
        errors->error_count++;
    if (!make_room(errors, severity))
        return;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);

    /* The walk follows the schema, the reader follows the file. */
    size_t i = errors->count++;
    for (; i > 0; i--) {
        const struct config_error *before = &errors->items[i - 1];
        if (before->line < place.line ||
            (before->line == place.line && before->column <= place.column))
            break;
        errors->items[i] = *before;
    }
    errors->items[i].warning = severity == CONFIG_WARNING;
    errors->items[i].line = place.line;
    errors->items[i].column = place.column;
    render(&errors->items[i], source, place, message);
}

void
config_errors_print(const struct config_errors *errors, FILE *out)
{
    size_t all = errors->error_count + errors->warning_count;

    for (size_t i = 0; i < errors->count; i++)
        (void)fputs(errors->items[i].text, out);
    if (all > errors->count)
        (void)fprintf(out, "and %zu more\n", all - errors->count);
}
