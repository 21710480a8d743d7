/* process: `ringpost run`: everything that exists once: configuration, TLS contexts, listeners,
 * threads, signals.
 * Does:    starts workers and the statistics server, waits for signals: SIGTERM/SIGINT drain (a
 *          second one ends at
 *          once), SIGHUP takes new certificates and opens the log file again.
 * Owns:    struct relay and all threads.
 * Threads: the main thread.
 */
#ifndef RINGPOST_RELAY_PROCESS_H
#define RINGPOST_RELAY_PROCESS_H

#include "core/config.h"

/* Relays until told to stop; returns the exit status. Takes the configuration. workers: 0 = as
 * configured. */
int process_run(struct config *config, unsigned workers);

/* The parts of a check that are not in the configuration's text: can certificates and keys be used?
 * False: told on stderr. */
MUST_USE bool process_check(const struct config *config);

extern const char ringpost_version[];

#endif
