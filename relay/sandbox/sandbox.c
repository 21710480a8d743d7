/* From a configuration to what its process may reach. Bound before there are workers: Landlock has
 * no way to bind threads that exist, so the one that does, the log's, is asked to bind itself. */
#include "relay/sandbox/sandbox.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "core/clauses.h"
#include "core/io.h"
#include "core/log.h"
#include "relay/sandbox/privileges.h"
#include "tls/context.h"

#ifdef RINGPOST_SANITIZED
/* Sanitizers stop threads with ptrace(), and write reports to files of their own. */
#define SANITIZED true
#else
#define SANITIZED false
#endif

static struct landlock landlock_list = { .list = -1 };
static bool begun;

/* --- rules of a configuration --- */

struct rules_builder {
    struct sandbox_path *paths;
    size_t path_count;
    uint16_t *ports;
    size_t port_count;
    size_t path_room;
};

static void
path_add(struct rules_builder *rules, const char *path, enum landlock_access access)
{
    char *copy = strdup(path);

    ASSERT(rules->path_count < rules->path_room);
    if (copy != NULL)
        rules->paths[rules->path_count++] = (struct sandbox_path){ copy, access };
}

/* The directory that a file is in; NULL when that is / or stands in it, such as /etc: too much
 * would come with it. */
static char *
directory_of(const char *path)
{
    char text[PATH_MAX], *slash, *directory;

    if ((size_t)snprintf(text, sizeof(text), "%s", path) >= sizeof(text))
        return NULL;
    slash = strrchr(text, '/');
    if (slash == NULL)
        (void)snprintf(text, sizeof(text), ".");
    else
        slash[slash == text] = '\0';
    directory = realpath(text, NULL);
    if (directory != NULL && (directory[1] == '\0' || strchr(directory + 1, '/') == NULL)) {
        free(directory);
        return NULL;
    }
    return directory;
}

/* A file that others replace by a new one of the same name: its directory is allowed, for a rule
 * holds for the file that is there now. A link's target moves in a directory of its own. */
static void
file_add(struct rules_builder *rules, const char *path, enum landlock_access access)
{
    char *target = realpath(path, NULL);
    char *directories[2] = { directory_of(path), target != NULL ? directory_of(target) : NULL };

    for (int i = 0; i < 2; i++)
        if (directories[i] != NULL && (i == 0 || directories[0] == NULL ||
                                       strcmp(directories[0], directories[1]) != 0))
            path_add(rules, directories[i], access);
    if (target != NULL)
        path_add(rules, target, access);
    free(directories[0]);
    free(directories[1]);
    free(target);
}

static bool
rules_make(const struct config *config, struct rules_builder *rules)
{
    size_t servers = 0, files = 2 * config->certificate_count + config->next_hop_count + 1;

    for (size_t i = 0; i < config->next_hop_count; i++)
        servers += config->next_hops[i].server_count;
    rules->path_room = 3 * files + config->stats.address_count + 1;
    rules->paths = calloc(rules->path_room, sizeof(*rules->paths));
    rules->ports = calloc(servers + 1, sizeof(*rules->ports));
    if (rules->paths == NULL || rules->ports == NULL)
        return false;
    if (config_stores(&config->delivery))
        path_add(rules, config->spool.directory, LANDLOCK_SPOOL);
    for (size_t i = 0; i < config->certificate_count; i++) {
        file_add(rules, config->certificates[i].certificate, LANDLOCK_READ);
        file_add(rules, config->certificates[i].key, LANDLOCK_READ);
    }
    for (size_t i = 0; i < config->next_hop_count; i++) {
        const struct config_next_hop *hop = &config->next_hops[i];

        if (hop->tls == CONFIG_HOP_TLS_VERIFY)
            file_add(rules, hop->ca != NULL ? hop->ca : TLS_SYSTEM_CA_FILE, LANDLOCK_READ);
        for (size_t k = 0; k < hop->server_count; k++)
            rules->ports[rules->port_count++] = hop->servers[k].port;
    }
    if (config->log.path != NULL)
        file_add(rules, config->log.path, LANDLOCK_APPEND);
    for (size_t i = 0; i < config->stats.address_count; i++) {
        const char *path = config->stats.addresses[i].path;
        char *directory = path != NULL ? directory_of(path) : NULL;

        if (directory != NULL)
            path_add(rules, directory, LANDLOCK_REMOVE);
        free(directory);
    }
    return true;
}

static void
rules_free(struct rules_builder *rules)
{
    for (size_t i = 0; i < rules->path_count; i++)
        free((char *)(uintptr_t)rules->paths[i].path);
    free(rules->paths);
    free(rules->ports);
}

/* --- beginning --- */

static bool
fail(struct sandbox_report *report, const char *what, const char *detail, int error)
{
    (void)snprintf(report->error, sizeof(report->error), "sandbox: %s %.100s: %s", what, detail,
                   io_error_text(error));
    return false;
}

__attribute__((format(printf, 2, 3))) static void
miss(struct sandbox_report *report, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    clauses_add(report->missing, sizeof(report->missing), format, arguments);
    va_end(arguments);
}

static bool
landlock_make(const struct sandbox_rules *rules, struct sandbox_report *report)
{
    int error = landlock_open(&landlock_list);

    if (error == -ENOSYS || error == -EOPNOTSUPP || error == -EPERM) {
        miss(report, "%s", error == -ENOSYS       ? "this kernel has no Landlock"
                           : error == -EOPNOTSUPP ? "this kernel does not use Landlock (boot "
                                                    "parameter lsm=)"
                                                  : "a container's profile refuses Landlock");
        return true;
    }
    if (error != 0)
        return fail(report, "Landlock", "", error);
    for (size_t i = 0; i < rules->path_count; i++) {
        const struct sandbox_path *path = &rules->paths[i];

        error = landlock_allow(&landlock_list, path->path, path->access);
        /* What we cannot open now we could not have used either. */
        if (error != 0 && error != -ENOENT && error != -EACCES)
            return fail(report, "Landlock for", path->path, error);
    }
    for (size_t i = 0; i < rules->port_count; i++) {
        error = landlock_allow_port(&landlock_list, rules->ports[i]);
        if (error != 0)
            return fail(report, "Landlock for a port of a next hop", "", error);
    }
    report->landlock_abi = landlock_list.abi;
    report->ports = landlock_list.abi >= LANDLOCK_ABI_PORTS;
    report->scopes = landlock_list.abi >= LANDLOCK_ABI_SCOPES;
    if (!report->ports)
        miss(report, "Landlock %d does not restrict ports (4 does)", landlock_list.abi);
    return true;
}

/* Of one thread. */
static int
bind_here(void)
{
    int error = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ? errno : 0;

    if (error == 0 && landlock_list.list >= 0)
        error = -landlock_enter(&landlock_list);
    return error;
}

static void
bind_log(void *result)
{
    int error = bind_here();

    if (error == 0)
        error = privileges_forget();
    *(int *)result = error != 0 ? error : -filter_enter(FILTER_LOG);
}

static bool
bind_all(struct sandbox_report *report)
{
    int error = 0;

    if (log_thread_call(bind_log, &error) && error != 0)
        return fail(report, "the log's thread", "", error);
    error = bind_here();
    if (error == 0)
        error = -filter_enter(FILTER_START);
    return error == 0 || fail(report, "the main thread", "", error);
}

bool
sandbox_begin_with(const struct sandbox_rules *rules, struct sandbox_report *report)
{
    const struct filter_options options = { .log_only = rules->mode == CONFIG_SANDBOX_LOG,
                                            .syslog = rules->syslog };
    bool done;
    int error;

    *report = (struct sandbox_report){ .landlock_abi = 0 };
    /* No core files with keys and mail in them, and no other process of the user looks in. A change
     * of the user has the same effect, which who switches the sandbox off does not want. */
    if (prctl(PR_SET_DUMPABLE, rules->mode != CONFIG_SANDBOX_ON || SANITIZED, 0, 0, 0) != 0)
        return fail(report, "PR_SET_DUMPABLE", "", errno);
    if (rules->mode == CONFIG_SANDBOX_OFF) {
        miss(report, "sandbox: off");
        return true;
    }
    if (SANITIZED) {
        miss(report, "not in a build with sanitizers or coverage");
        return true;
    }
    /* The log's time of day: later it could not be read. */
    tzset();
    error = filters_make(&options);
    if (error == -ENOSYS)
        miss(report, "this kernel has no seccomp filters, or a container's profile refuses them");
    else if (error != 0)
        return fail(report, "seccomp", "", error);
    report->seccomp = error == 0;
    if (rules->mode == CONFIG_SANDBOX_LOG)
        miss(report, "sandbox: log refuses nothing");
    else if (!landlock_make(rules, report))
        return false;
    begun = done = bind_all(report);
    landlock_close(&landlock_list);
    return done;
}

bool
sandbox_begin(const struct config *config, struct sandbox_report *report)
{
    struct rules_builder builder = { .path_count = 0 };
    struct sandbox_rules rules = { .mode = config->sandbox,
                                   .syslog = config->log.target == CONFIG_LOG_TARGET_SYSLOG };
    bool done = rules_make(config, &builder);

    *report = (struct sandbox_report){ .landlock_abi = 0 };
    if (!done) {
        (void)fail(report, "rules", "", ENOMEM);
    } else {
        rules.paths = builder.paths;
        rules.path_count = builder.path_count;
        rules.ports = builder.ports;
        rules.port_count = builder.port_count;
        done = sandbox_begin_with(&rules, report);
    }
    rules_free(&builder);
    return done;
}

void
sandbox_thread(enum filter_kind kind)
{
    int error = begun ? -privileges_forget() : 0;

    if (begun && error == 0)
        error = filter_enter(kind);
    /* The list of the start is only a little longer. */
    if (error != 0)
        log_plain(LOG_LEVEL_WARNING, "sandbox: a thread keeps what it had at the start: %s",
                  io_error_text(error));
}
