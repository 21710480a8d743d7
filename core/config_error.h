/* config_error: messages about a configuration, with the place, the source line and a caret.
 * Does:    collects up to CONFIG_ERRORS_MAX of them in the order of the file, and counts the rest.
 * Owns:    nothing; struct config_errors is the caller's and holds its texts itself.
 * Memory:  none allocated.
 * Threads: the main thread.
 */
#ifndef RINGPOST_CORE_CONFIG_ERROR_H
#define RINGPOST_CORE_CONFIG_ERROR_H

#include "core/config.h"

struct config_source {
    const char *name; /* for messages */
    struct span text; /* the whole file; empty when it could not be read */
};

struct config_place {
    uint32_t line, column; /* from 1, columns in characters; line 0: the file as a whole */
};

enum config_severity { CONFIG_WARNING, CONFIG_ERROR };

/* Bytes that are not printable are shown as '?'. */
__attribute__((format(printf, 5, 6))) void
config_report(struct config_errors *errors, const struct config_source *source,
              enum config_severity severity, struct config_place place, const char *format, ...);

/* Finds the line with this number (from 1; ends are LF, CR, CRLF), without its end. Empty: none. */
struct span config_source_line(struct span text, uint32_t line);

#endif
