/* clauses: what is to be said of several things, in one text: "no such file; not a key".
 * Does:    adds one more clause, cut where the text is full.
 * Memory:  the caller's text, always ended by a NUL.
 */
#ifndef RINGPOST_CORE_CLAUSES_H
#define RINGPOST_CORE_CLAUSES_H

#include <stdarg.h>
#include <stddef.h>

__attribute__((format(printf, 3, 0))) void clauses_add(char *text, size_t size, const char *format,
                                                       va_list arguments);

#endif
