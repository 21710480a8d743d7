/* Landlock, by system calls: headers of older systems know only a part of it, so its numbers stand
 * here (linux/landlock.h; they never change). */
#include "relay/sandbox/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same numbers on every architecture. */
#define CALL_CREATE_RULESET 444
#define CALL_ADD_RULE 445
#define CALL_RESTRICT_SELF 446
#define CREATE_RULESET_VERSION 1u

enum {
    FS_EXECUTE = 1 << 0,
    FS_WRITE_FILE = 1 << 1,
    FS_READ_FILE = 1 << 2,
    FS_READ_DIR = 1 << 3,
    FS_REMOVE_FILE = 1 << 5,
    FS_MAKE_REG = 1 << 8,
    FS_TRUNCATE = 1 << 14,
    NET_CONNECT_TCP = 1 << 1,
};
enum { RULE_PATH_BENEATH = 1, RULE_NET_PORT = 2 };

/* All that an ABI knows is handled, and so refused where no rule allows it. */
#define FS_ALL_1 0x1fffu      /* bits 0 to 12 */
#define FS_REFER_2 0x2000u    /* renaming and linking from one directory into another */
#define FS_TRUNCATE_3 0x4000u
#define NET_ALL_4 0x3u        /* TCP: bind, connect */
#define FS_IOCTL_DEV_5 0x8000u
#define SCOPE_ALL_6 0x3u      /* abstract Unix sockets, signals: only within the process */
/* Rights that a rule for a single file can have. */
#define FS_OF_FILES (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE)

struct ruleset {
    uint64_t handled_fs, handled_net, scoped;
};
struct rule_path {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));
struct rule_port {
    uint64_t allowed, port;
};

static uint64_t
fs_handled(int abi)
{
    return FS_ALL_1 | (abi >= 2 ? FS_REFER_2 : 0) | (abi >= 3 ? FS_TRUNCATE_3 : 0) |
           (abi >= 5 ? FS_IOCTL_DEV_5 : 0);
}

int
landlock_open(struct landlock *landlock)
{
    struct ruleset rules = { 0 };
    /* Each ABI's struct is longer than the one before; an older kernel refuses a longer one unless
     * the rest is 0. */
    long abi = syscall(CALL_CREATE_RULESET, NULL, 0, CREATE_RULESET_VERSION);

    *landlock = (struct landlock){ .list = -1 };
    if (abi < 0)
        return -errno;
    rules.handled_fs = fs_handled((int)abi);
    rules.handled_net = abi >= LANDLOCK_ABI_PORTS ? NET_ALL_4 : 0;
    rules.scoped = abi >= LANDLOCK_ABI_SCOPES ? SCOPE_ALL_6 : 0;
    landlock->list = (int)syscall(CALL_CREATE_RULESET, &rules, sizeof(rules), 0);
    if (landlock->list < 0)
        return -errno;
    landlock->abi = (int)abi;
    return 0;
}

void
landlock_close(struct landlock *landlock)
{
    if (landlock->list >= 0)
        close(landlock->list);
    landlock->list = -1;
}

int
landlock_allow(const struct landlock *landlock, const char *path, enum landlock_access access)
{
    static const uint64_t rights[] = {
        [LANDLOCK_READ] = FS_READ_FILE,
        [LANDLOCK_SPOOL] = FS_READ_FILE | FS_READ_DIR | FS_WRITE_FILE | FS_MAKE_REG |
                           FS_REMOVE_FILE | FS_TRUNCATE,
        [LANDLOCK_APPEND] = FS_WRITE_FILE | FS_MAKE_REG,
        [LANDLOCK_REMOVE] = FS_REMOVE_FILE,
    };
    struct rule_path rule = { .allowed = rights[access] & fs_handled(landlock->abi) };
    struct stat status;
    int error = 0;

    rule.parent = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent < 0)
        return -errno;
    if (fstat(rule.parent, &status) != 0)
        error = -errno;
    else if (!S_ISDIR(status.st_mode))
        rule.allowed &= FS_OF_FILES;
    if (error == 0 && rule.allowed != 0 &&
        syscall(CALL_ADD_RULE, landlock->list, RULE_PATH_BENEATH, &rule, 0) != 0)
        error = -errno;
    close(rule.parent);
    return error;
}

int
landlock_allow_port(const struct landlock *landlock, uint16_t port)
{
    struct rule_port rule = { .allowed = NET_CONNECT_TCP, .port = port };

    if (landlock->abi < LANDLOCK_ABI_PORTS)
        return 0;
    return syscall(CALL_ADD_RULE, landlock->list, RULE_NET_PORT, &rule, 0) != 0 ? -errno : 0;
}

int
landlock_enter(const struct landlock *landlock)
{
    return syscall(CALL_RESTRICT_SELF, landlock->list, 0) != 0 ? -errno : 0;
}
