/* Becoming another user, for a while and for good. All of it needs root; children do it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "relay/sandbox/privileges.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define NEEDS_ROOT() \
    do { \
        if (geteuid() != 0) \
            cr_skip_test("needs root"); \
    } while (0)

static char error[PRIVILEGES_ERROR_BYTES];

Test(privileges, find_as_root)
{
    static const struct {
        const char *name, *user;
        bool good, changes, root, unasked;
        const char *says;
    } rows[] = {
        { "nobody", "nobody", true, true, false, false, "" },
        { "root", "root", true, false, true, false, "" },
        { "no-such-user-here", "", false, false, false, false, "useradd --system no-such-user" },
    };
    struct privileges privileges;

    NEEDS_ROOT();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        cr_assert_eq(privileges_find(&privileges, rows[i].name, error), rows[i].good, "%s: %s",
                     rows[i].name, error);
        cr_assert_str_eq(privileges.user, rows[i].user);
        cr_assert_eq(privileges.changes, rows[i].changes, "%s", rows[i].name);
        cr_assert_eq(privileges.root, rows[i].root, "%s", rows[i].name);
        cr_assert_eq(privileges.unasked, rows[i].unasked, "%s", rows[i].name);
        cr_assert_not_null(strstr(error, rows[i].says), "%s: %s", rows[i].name, error);
    }
    /* No name: the default user, or root with a remark. */
    cr_assert(privileges_find(&privileges, NULL, error));
    if (getpwnam(PRIVILEGES_DEFAULT_USER) != NULL)
        cr_assert(privileges.changes && !privileges.unasked);
    else
        cr_assert(privileges.root && privileges.unasked);
}

/* --- in children --- */

static void
in_child(const char *name, int (*run)(void))
{
    pid_t child;
    int status;

    fflush(NULL);
    child = fork();
    cr_assert(child >= 0);
    if (child == 0)
        _exit(run());
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %#x", name,
              (unsigned)status);
}

/* Returns its line where something does not hold. */
#define HOLDS(condition) \
    do { \
        if (!(condition)) \
            return (__LINE__ & 0x7f) | 0x80; \
    } while (0)

static uint64_t
capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) != 0)
        return UINT64_MAX;
    return (uint64_t)(data[1].permitted | data[1].effective | data[1].inheritable) << 32 |
           data[0].permitted | data[0].effective | data[0].inheritable;
}

static int
drop_to_nobody(void)
{
    const uint64_t lock_memory = UINT64_C(1) << CAP_IPC_LOCK;
    struct privileges privileges;
    gid_t groups[64];
    int count;

    HOLDS(privileges_find(&privileges, "nobody", error));
    privileges_lower(&privileges);
    HOLDS(geteuid() == privileges.uid && getegid() == privileges.gid);
    HOLDS(open("/etc/shadow", O_RDONLY) < 0 && errno == EACCES);
    privileges_raise(&privileges);
    HOLDS(geteuid() == 0 && getegid() == 0);
    privileges_lower(&privileges);
    HOLDS(privileges_drop(&privileges, true, error));
    HOLDS(getuid() == privileges.uid && geteuid() == privileges.uid);
    HOLDS((capabilities() & ~lock_memory) == 0);
    HOLDS(privileges_forget() == 0 && capabilities() == 0);
    HOLDS(setuid(0) != 0 && seteuid(0) != 0 && setgid(0) != 0);
    HOLDS(prctl(PR_CAPBSET_READ, CAP_SETUID, 0, 0, 0) == 0);
    count = getgroups(COUNT_OF(groups), groups);
    for (int i = 0; i < count; i++)
        HOLDS(groups[i] != 0);
    return 0;
}

static int
root_stays(void)
{
    struct privileges privileges;

    HOLDS(privileges_find(&privileges, "root", error));
    HOLDS(privileges_drop(&privileges, true, error));
    HOLDS(geteuid() == 0);
    HOLDS(privileges_forget() == 0 && capabilities() == 0);
    HOLDS(setegid(12345) != 0);
    return 0;
}

/* `sandbox: off` and no change: as before. */
static int
nothing_asked(void)
{
    uint64_t before = capabilities();
    struct privileges privileges;

    HOLDS(privileges_find(&privileges, "root", error));
    HOLDS(privileges_drop(&privileges, false, error));
    HOLDS(capabilities() == before);
    return 0;
}

static int
not_root(void)
{
    struct privileges privileges;

    HOLDS(setgid(65534) == 0 && setuid(65534) == 0);
    HOLDS(privileges_find(&privileges, NULL, error));
    HOLDS(!privileges.changes && !privileges.root && privileges.uid == 65534);
    HOLDS(privileges_find(&privileges, "nobody", error));
    HOLDS(!privileges.changes && strcmp(privileges.user, "nobody") == 0);
    HOLDS(!privileges_find(&privileges, "root", error));
    HOLDS(strstr(error, "only root can") != NULL);
    HOLDS(privileges_drop(&(struct privileges){ .uid = 65534, .gid = 65534 }, true, error));
    return 0;
}

Test(privileges, drop)
{
    NEEDS_ROOT();
    in_child("to nobody", drop_to_nobody);
    in_child("root stays", root_stays);
    in_child("nothing asked", nothing_asked);
    in_child("not root", not_root);
}

/* --- the spool --- */

static char folder[64], spool[96], path[160];

static const char *
in_spool(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", spool, name);
    return path;
}

static uid_t
owner(const char *name)
{
    struct stat status;

    return lstat(in_spool(name), &status) == 0 ? status.st_uid : (uid_t)-1;
}

static bool
touch(const char *name)
{
    int file = open(in_spool(name), O_WRONLY | O_CREAT | O_EXCL, 0600);

    return file >= 0 && close(file) == 0;
}

static bool
hand_over(void)
{
    struct privileges privileges;
    bool good;

    if (!privileges_find(&privileges, "nobody", error))
        return false;
    privileges_lower(&privileges);
    good = privileges_hand_over(&privileges, spool, error);
    privileges_raise(&privileges);
    return good;
}

static int
root_spool(void)
{
    HOLDS(mkdir(spool, 0700) == 0 && touch("segment") && touch("linked"));
    snprintf(path, sizeof(path), "%s/outside", folder);
    HOLDS(link(in_spool("linked"), "outside") == 0 || errno == EXDEV);
    HOLDS(symlink("/etc/shadow", in_spool("symbolic")) == 0);
    HOLDS(hand_over());
    HOLDS(owner(".") == 65534 && owner("segment") == 65534);
    HOLDS(owner("linked") == 0 && owner("symbolic") == 0);
    return 0;
}

static int
no_spool(void)
{
    HOLDS(hand_over());
    HOLDS(owner(".") == 65534);
    return 0;
}

/* Where others have written, nothing in it is given away. */
static int
open_spool(void)
{
    HOLDS(mkdir(spool, 0700) == 0 && chmod(spool, 0777) == 0 && touch("segment"));
    HOLDS(hand_over());
    HOLDS(owner(".") == 0 && owner("segment") == 0);
    return 0;
}

static int
foreign_spool(void)
{
    HOLDS(mkdir(spool, 0700) == 0 && touch("segment") && chown(spool, 1234, 1234) == 0);
    HOLDS(hand_over());
    HOLDS(owner(".") == 1234 && owner("segment") == 0);
    return 0;
}

/* A link could lead anywhere. */
static int
linked_spool(void)
{
    HOLDS(mkdir("real", 0700) == 0 && symlink("real", spool) == 0 && touch("segment"));
    HOLDS(hand_over());
    HOLDS(owner("segment") == 0);
    return 0;
}

static int
no_parent(void)
{
    HOLDS(snprintf(spool, sizeof(spool), "%s/no/spool", folder) > 0);
    HOLDS(!hand_over());
    HOLDS(strstr(error, "no/spool: No such file") != NULL);
    return 0;
}

Test(privileges, spool)
{
    static const struct {
        const char *name;
        int (*run)(void);
    } rows[] = {
        { "root's", root_spool },       { "none yet", no_spool },
        { "open to all", open_spool },  { "somebody's", foreign_spool },
        { "a link", linked_spool },     { "no parent", no_parent },
    };

    NEEDS_ROOT();
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char command[96];

        memcpy(folder, "/tmp/ringpost-user-XXXXXX", 26);
        cr_assert_not_null(mkdtemp(folder));
        cr_assert_eq(chmod(folder, 0755), 0);
        cr_assert_eq(chdir(folder), 0);
        snprintf(spool, sizeof(spool), "%s/spool", folder);
        in_child(rows[i].name, rows[i].run);
        cr_assert_eq(chdir("/"), 0);
        snprintf(command, sizeof(command), "rm -rf %s", folder);
        cr_assert_eq(system(command), 0);
    }
}

Test(privileges, reading)
{
    char name[] = "/tmp/ringpost-key-XXXXXX";
    struct privileges privileges;
    int file;

    NEEDS_ROOT();
    file = mkstemp(name);
    cr_assert(file >= 0);
    cr_assert(privileges_find(&privileges, "nobody", error));
    privileges_lower(&privileges);
    cr_assert_not(privileges_can_read(name), "mode 0600, root's");
    privileges_raise(&privileges);
    cr_assert_eq(fchmod(file, 0644), 0);
    privileges_lower(&privileges);
    cr_assert(privileges_can_read(name));
    privileges_raise(&privileges);
    close(file);
    cr_assert_eq(unlink(name), 0);
}
