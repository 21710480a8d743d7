/* Root is needed for little: limits, keys, ports, a spool that is root's. All else is done as the
 * user from the beginning, so that what works at the start works at a reload too, and so that a
 * directory of that user cannot make root follow a link of its making. */
#include "relay/sandbox/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/io.h"
#include "core/log.h"

#define CAPABILITIES_MAX 64

static bool
fail(char error[PRIVILEGES_ERROR_BYTES], const char *what, const char *name, int code)
{
    (void)snprintf(error, PRIVILEGES_ERROR_BYTES, "%s %.300s: %s", what, name, io_error_text(code));
    return false;
}

/* --- who --- */

static bool
user_set(struct privileges *privileges, const struct passwd *entry)
{
    (void)snprintf(privileges->user, sizeof(privileges->user), "%s", entry->pw_name);
    privileges->uid = entry->pw_uid;
    privileges->gid = entry->pw_gid;
    return true;
}

/* Not root: we are who we are, and a name can only confirm it. */
static bool
find_own(struct privileges *privileges, const struct passwd *entry, const char *name,
         char error[PRIVILEGES_ERROR_BYTES])
{
    const struct passwd *own;

    if (name != NULL && (entry == NULL || entry->pw_uid != geteuid())) {
        (void)snprintf(error, PRIVILEGES_ERROR_BYTES,
                       "user: cannot become %.60s: only root can; start as root or as that user, "
                       "or leave `user` out",
                       name);
        return false;
    }
    own = getpwuid(geteuid());
    if (own != NULL)
        return user_set(privileges, own);
    privileges->uid = geteuid();
    privileges->gid = getegid();
    (void)snprintf(privileges->user, sizeof(privileges->user), "%u", privileges->uid);
    return true;
}

bool
privileges_find(struct privileges *privileges, const char *name,
                char error[PRIVILEGES_ERROR_BYTES])
{
    const struct passwd *entry;

    error[0] = '\0';
    *privileges = (struct privileges){ .uid = 0 };
    errno = 0;
    entry = getpwnam(name != NULL ? name : PRIVILEGES_DEFAULT_USER);
    if (geteuid() != 0)
        return find_own(privileges, entry, name, error);
    if (entry == NULL && name != NULL) {
        (void)snprintf(error, PRIVILEGES_ERROR_BYTES,
                       "user: this system knows no user %.60s%s%s; make it, for example with "
                       "useradd --system %.60s",
                       name, errno != 0 ? ": " : "", errno != 0 ? io_error_text(errno) : "", name);
        return false;
    }
    if (entry == NULL || entry->pw_uid == 0) {
        (void)snprintf(privileges->user, sizeof(privileges->user), "root");
        privileges->root = true;
        privileges->unasked = entry == NULL;
        return true;
    }
    privileges->changes = user_set(privileges, entry);
    /* The user's other groups too: it is by them that services are let at keys. */
    if (initgroups(entry->pw_name, entry->pw_gid) != 0)
        return fail(error, "user: cannot take the groups of", entry->pw_name, errno);
    return true;
}

/* --- for a while --- */

void
privileges_lower(const struct privileges *privileges)
{
    if (!privileges->changes)
        return;
    /* Neither can fail for root; going on as root unawares would be the worst outcome. */
    if (setegid(privileges->gid) != 0 || seteuid(privileges->uid) != 0)
        ASSERT(!"root could not become another user");
}

void
privileges_raise(const struct privileges *privileges)
{
    if (!privileges->changes)
        return;
    if (seteuid(0) != 0 || setegid(0) != 0)
        ASSERT(!"root could not become root again");
}

void
privileges_limits_raise(void)
{
    const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

    /* Rings count as locked memory of the user that makes them, who may be left with little. */
    if (geteuid() == 0)
        (void)setrlimit(RLIMIT_MEMLOCK, &all);
}

/* --- the spool --- */

static bool
file_give(const struct privileges *privileges, int directory, const char *name)
{
    /* By descriptor: what is looked at is what is given. */
    int file = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat status;
    bool done = true;

    if (file < 0)
        return errno == ENOENT;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == 0 &&
        status.st_nlink == 1)
        done = fchownat(file, "", privileges->uid, privileges->gid, AT_EMPTY_PATH) == 0;
    close(file);
    return done;
}

struct giving {
    const struct privileges *privileges;
    int directory;
    int error;
};

static void
each_file(void *context, const struct io_directory_entry *entry)
{
    struct giving *giving = context;

    if (giving->error == 0 && !file_give(giving->privileges, giving->directory, entry->name))
        giving->error = errno;
}

/* As root, but only where root has put it: with no link on the way, the directory is the one that
 * the configuration names; and where only root may write, nobody else has put files. */
static int
directory_give(const struct privileges *privileges, const char *path)
{
    const struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
                                  .resolve = RESOLVE_NO_SYMLINKS };
    struct giving giving = { .privileges = privileges };
    struct stat status;

    giving.directory = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
    if (giving.directory < 0)
        return errno == ELOOP ? 0 : errno;
    if (fstat(giving.directory, &status) != 0) {
        giving.error = errno;
    } else if (status.st_uid == 0 && (status.st_mode & 022) == 0) {
        giving.error = -io_directory_list(giving.directory, each_file, &giving);
        if (giving.error == 0 && fchown(giving.directory, privileges->uid, privileges->gid) != 0)
            giving.error = errno;
    }
    io_close_now(giving.directory);
    return giving.error;
}

bool
privileges_hand_over(const struct privileges *privileges, const char *directory,
                     char error[PRIVILEGES_ERROR_BYTES])
{
    int made, code;

    error[0] = '\0';
    if (!privileges->changes)
        return true;
    /* Where the user may, it is the user who makes it. */
    made = io_directory_open(directory, true);
    privileges_raise(privileges);
    if (made == -EACCES)
        made = io_directory_open(directory, true);
    if (made >= 0)
        io_close_now(made);
    code = made < 0 ? made : directory_give(privileges, directory);
    privileges_lower(privileges);
    return code == 0 || fail(error, "cannot hand over the spool", directory, code);
}

bool
privileges_can_read(const char *path)
{
    return faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0;
}

bool
privileges_can_write(const char *directory)
{
    return faccessat(AT_FDCWD, directory, R_OK | W_OK | X_OK, AT_EACCESS) == 0;
}

/* --- for good --- */

static bool
capabilities_get(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

    return syscall(SYS_capget, &header, data) == 0;
}

static bool
capabilities_set(const struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

    return syscall(SYS_capset, &header, data) == 0;
}

int
privileges_forget(void)
{
    const struct __user_cap_data_struct none[2] = { { .effective = 0 } };

    return capabilities_set(none) ? 0 : errno;
}

/* Keeps one, of those that there are: the memory of rings that are made with it does not count for
 * the user, who has room for few (8 MiB where nobody has set RLIMIT_MEMLOCK). Each thread makes its
 * own ring, and then forgets it too. */
static bool
capabilities_cut(void)
{
    const uint32_t lock_memory = UINT32_C(1) << CAP_IPC_LOCK;
    struct __user_cap_data_struct data[2];

    if (!capabilities_get(data) ||
        (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL))
        return false;
    data[0].permitted &= lock_memory;
    data[0].effective = data[0].permitted;
    data[0].inheritable = 0;
    data[1] = (struct __user_cap_data_struct){ .effective = 0 };
    return capabilities_set(data);
}

/* What an execve() could have. Needs CAP_SETPCAP, which only root brings along; without it
 * PR_SET_NO_NEW_PRIVS, which follows, has the same effect. */
static void
bounds_cut(void)
{
    for (unsigned long i = 0; i < CAPABILITIES_MAX; i++)
        if (prctl(PR_CAPBSET_DROP, i, 0, 0, 0) != 0)
            return;
}

/* The log's thread was there before. */
static void
bounds_cut_there(void *context)
{
    (void)context;
    bounds_cut();
}

static bool
is_final(const struct privileges *privileges)
{
    uid_t uid[3];
    gid_t gid[3];

    if (getresuid(&uid[0], &uid[1], &uid[2]) != 0 || getresgid(&gid[0], &gid[1], &gid[2]) != 0)
        return false;
    for (int i = 0; i < 3; i++)
        if (uid[i] != privileges->uid || gid[i] != privileges->gid)
            return false;
    /* Not what the kernel says but what it does. */
    return setresuid((uid_t)-1, 0, (uid_t)-1) != 0 && setresgid((gid_t)-1, 0, (gid_t)-1) != 0;
}

static bool
become(const struct privileges *privileges)
{
    return prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0 &&
           setresgid(privileges->gid, privileges->gid, privileges->gid) == 0 &&
           setresuid(privileges->uid, privileges->uid, privileges->uid) == 0 &&
           prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0;
}

bool
privileges_drop(const struct privileges *privileges, bool confine,
                char error[PRIVILEGES_ERROR_BYTES])
{
    error[0] = '\0';
    privileges_raise(privileges);
    if (confine) {
        bounds_cut();
        (void)log_thread_call(bounds_cut_there, NULL);
    }
    if (privileges->changes && !become(privileges))
        return fail(error, "user: cannot become", privileges->user, errno);
    if ((privileges->changes || confine) && !capabilities_cut())
        return fail(error, "cannot give up the capabilities of", privileges->user, errno);
    if (!privileges->changes || is_final(privileges))
        return true;
    (void)snprintf(error, PRIVILEGES_ERROR_BYTES,
                   "user: became %s, but could have become root again; not started",
                   privileges->user);
    return false;
}
