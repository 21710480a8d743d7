/* Apart from relay/process.c, which only has to say when. */
#include "relay/sandbox/confine.h"

#include <stdio.h>

#include "core/log.h"

static void
keys_look(const struct privileges *privileges, const struct config *config)
{
    for (size_t i = 0; i < config->certificate_count; i++)
        if (!privileges_can_read(config->certificates[i].key) ||
            !privileges_can_read(config->certificates[i].certificate))
            log_plain(LOG_LEVEL_WARNING,
                      "tls: the user %s may not read %s and its key: after a change they need a "
                      "restart, a reload will not do",
                      privileges->user, config->certificates[i].certificate);
}

bool
confine_files(const struct confine *confine, const struct config *config,
              char error[PRIVILEGES_ERROR_BYTES])
{
    return !config_stores(&config->delivery) ||
           privileges_hand_over(&confine->privileges, config->spool.directory, error);
}

bool
confine_begin(struct confine *confine, const struct config *config)
{
    char error[PRIVILEGES_ERROR_BYTES];

    if (!privileges_drop(&confine->privileges, config->sandbox != CONFIG_SANDBOX_OFF, error)) {
        log_plain(LOG_LEVEL_ERROR, "%s", error);
        return false;
    }
    keys_look(&confine->privileges, config);
    if (config_stores(&config->delivery) && !privileges_can_write(config->spool.directory)) {
        log_plain(LOG_LEVEL_ERROR,
                  "spool %s: the user %s%s may not write there; it must own the directory",
                  config->spool.directory, confine->privileges.user,
                  confine->privileges.root ? " (without root's capabilities)" : "");
        return false;
    }
    if (!sandbox_begin(config, &confine->report)) {
        log_plain(LOG_LEVEL_ERROR, "%s", confine->report.error);
        return false;
    }
    return true;
}

/* One line for those who look after a start: what holds, and what does not. */
void
confine_announce(const struct confine *confine, bool rings)
{
    const struct sandbox_report *report = &confine->report;
    char landlock[64] = "no Landlock";

    if (confine->privileges.unasked)
        log_plain(LOG_LEVEL_WARNING,
                  "root started ringpost, and there is no user " PRIVILEGES_DEFAULT_USER " to be: "
                  "it stays root; make that user, or set `user` (`user: root` for no warning)");
    if (report->landlock_abi > 0)
        snprintf(landlock, sizeof(landlock), "Landlock %d (files%s%s)", report->landlock_abi,
                 report->ports ? ", ports" : "", report->scopes ? ", signals" : "");
    log_plain(report->landlock_abi > 0 && report->seccomp ? LOG_LEVEL_NOTICE : LOG_LEVEL_WARNING,
              "sandbox: user %s; %s; %s; rings %s%s%s", confine->privileges.user, landlock,
              report->seccomp ? "seccomp" : "no seccomp", rings ? "restricted" : "not restricted",
              report->missing[0] != '\0' ? "; missing: " : "", report->missing);
}
