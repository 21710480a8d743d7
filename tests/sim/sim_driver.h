/* sim_driver: what the simulators' drivers do alike: command lines, children.
 * Does:    reads the value behind an option, forks; where that fails, the program ends with 2.
 * Owns:    nothing.
 */
#ifndef RINGPOST_TESTS_SIM_DRIVER_H
#define RINGPOST_TESTS_SIM_DRIVER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

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

/* 0 in the child. */
static inline pid_t
sim_fork(const char *program)
{
    pid_t child;

    fflush(stdout); /* or the child says it again */
    child = fork();
    if (child < 0) {
        perror(program);
        exit(2);
    }
    return child;
}

#endif
