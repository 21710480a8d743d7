/* sim_arguments: the command lines of the simulators' drivers.
 * Does:    reads the value behind an option; a wrong one ends the program with status 2.
 * Owns:    nothing.
 */
#ifndef RINGPOST_TESTS_SIM_ARGUMENTS_H
#define RINGPOST_TESTS_SIM_ARGUMENTS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The number behind arguments[*at]; *at moves on to it. */
static inline uint64_t
sim_argument_number(const char *program, char **arguments, int *at)
{
    char *end;
    const char *text = arguments[++*at];
    uint64_t value;

    if (text == NULL) {
        fprintf(stderr, "%s: %s needs a number\n", program, arguments[*at - 1]);
        exit(2);
    }
    value = strtoull(text, &end, 10);
    if (*end != '\0' || end == text) {
        fprintf(stderr, "%s: not a number: %s\n", program, text);
        exit(2);
    }
    return value;
}

#endif
