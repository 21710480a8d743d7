/* sandbox: what the process can reach after its start, whatever happens to be executed in it.
 * Does:    Landlock and seccomp as the configuration needs them, for the calling thread, the log
 *          thread and those that start later; says what is in force and what is missing.
 * Memory:  allocated at start, kept.
 * Threads: begin and end by the main thread, sandbox_thread() by each one that was started in
 *          between, when it has made its ring.
 * Errors:  what the kernel has not is told in the report and is no error; false when the kernel has
 *          it and refuses.
 */
#ifndef RINGPOST_RELAY_SANDBOX_SANDBOX_H
#define RINGPOST_RELAY_SANDBOX_SANDBOX_H

#include "core/config.h"
#include "relay/sandbox/filter.h"
#include "relay/sandbox/landlock.h"

struct sandbox_rules {
    enum config_sandbox mode;
    struct sandbox_path {
        const char *path;
        enum landlock_access access;
    } *paths;
    size_t path_count;
    const uint16_t *ports; /* that connections are made to */
    size_t port_count;
    bool syslog;
};

struct sandbox_report {
    int landlock_abi; /* 0: not in force */
    bool seccomp, ports, scopes;
    char missing[256]; /* why not; "" */
    char error[256];
};

/* The rules for this configuration, and the whole of begin. */
MUST_USE bool sandbox_begin(const struct config *config, struct sandbox_report *report);
/* With rules of the caller's: by tests, and by sandbox_begin(). */
MUST_USE bool sandbox_begin_with(const struct sandbox_rules *rules, struct sandbox_report *report);
/* Nothing where no sandbox was begun. */
void sandbox_thread(enum filter_kind kind);

#endif
