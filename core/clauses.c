/* Clauses of one text: start-up errors come together, so that not each costs another try. */
#include "core/clauses.h"

#include <stdio.h>
#include <string.h>

void
clauses_add(char *text, size_t size, const char *format, va_list arguments)
{
    size_t len = strlen(text);

    if (len > 0 && len + sizeof("; ") < size) {
        memcpy(text + len, "; ", sizeof("; "));
        len += sizeof("; ") - 1;
    }
    (void)vsnprintf(text + len, size - len, format, arguments);
}
