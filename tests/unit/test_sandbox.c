/* The sandbox from inside: a child enters it and does what an attacker would, one thing each. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/io_uring_private.h"
#include "relay/sandbox/privileges.h"
#include "relay/sandbox/sandbox.h"
#include "tests/unit/child.h"

#define PORT_ALLOWED 9
#define PORT_OTHER 10
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static char folder[64], spool[96], keys[96], other[96];
static struct io *ring;
static int spool_fd;

static void
file_write(const char *directory, const char *name)
{
    char path[160];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs("text\n", file);
    fclose(file);
}

static void
world_make(void)
{
    memcpy(folder, "/tmp/ringpost-sandbox-XXXXXX", 29);
    cr_assert_not_null(mkdtemp(folder));
    snprintf(spool, sizeof(spool), "%s/spool", folder);
    snprintf(keys, sizeof(keys), "%s/keys", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
    cr_assert(mkdir(spool, 0700) == 0 && mkdir(keys, 0700) == 0 && mkdir(other, 0700) == 0);
    file_write(spool, "segment");
    file_write(keys, "key.pem");
    file_write(other, "secret");
}

static void
world_remove(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

/* --- what is tried: 0 or an errno --- */

static int
open_at(const char *directory, const char *name, int flags)
{
    char path[160];
    int file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = open(path, flags | O_CLOEXEC, 0600);
    return file < 0 ? errno : 0;
}

static int try_spool_read(void) { return open_at(spool, "segment", O_RDWR); }
static int try_spool_make(void) { return open_at(spool, "new", O_RDWR | O_CREAT | O_EXCL); }
static int try_spool_remove(void) { return unlinkat(spool_fd, "segment", 0) != 0 ? errno : 0; }
static int try_key_read(void) { return open_at(keys, "key.pem", O_RDONLY); }
static int try_key_write(void) { return open_at(keys, "key.pem", O_WRONLY); }
static int try_key_make(void) { return open_at(keys, "new.pem", O_WRONLY | O_CREAT); }
static int try_other_read(void) { return open_at(other, "secret", O_RDONLY); }
static int try_up_and_over(void) { return open_at(spool, "../other/secret", O_RDONLY); }
static int try_shadow(void) { return open_at("/etc", "shadow", O_RDONLY); }
static int try_self(void) { return open_at("/proc/self", "mem", O_RDWR); }

static int
try_execve(void)
{
    char *const arguments[] = { "/bin/true", NULL };

    return execve(arguments[0], arguments, arguments + 1) != 0 ? errno : 0;
}

static int try_fork(void) { return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0 ? errno : 0; }
static int try_ptrace(void) { return ptrace(PTRACE_ATTACH, getppid(), 0, 0) != 0 ? errno : 0; }
static int try_kill(void) { return kill(getppid(), 0) != 0 ? errno : 0; }
static int try_tgkill(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0) != 0 ? errno : 0;
}

static int
try_socket(int family, int type, int protocol)
{
    return socket(family, type, protocol) < 0 ? errno : 0;
}

static int try_tcp(void) { return try_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }
static int try_tcp6(void) { return try_socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0); }
static int try_udp(void) { return try_socket(AF_INET, SOCK_DGRAM, 0); }
static int try_mptcp(void) { return try_socket(AF_INET, SOCK_STREAM, 262); }
static int try_unix(void) { return try_socket(AF_UNIX, SOCK_STREAM, 0); }
static int try_syslog(void) { return try_socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); }
static int try_netlink(void) { return try_socket(AF_NETLINK, SOCK_RAW, 0); }

static int
try_waiting(void)
{
    int octets;

    return ioctl(0, FIONREAD, &octets) == 0 || errno == ENOTTY ? 0 : errno;
}

static int
try_ioctl(void)
{
    return ioctl(0, FIOCLEX) == 0 ? 0 : errno;
}

static int
try_memory_run(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? errno : 0;
}

static int
try_memory_run_later(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return mprotect(memory, 4096, PROT_READ | PROT_EXEC) != 0 ? errno : 0;
}

static int
try_ring(void)
{
    struct io_uring_params params = { 0 };

    return syscall(SYS_io_uring_setup, 4, &params) < 0 ? errno : 0;
}

static void *
nothing(void *argument)
{
    return argument;
}

static int
try_thread(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, nothing, NULL);

    return error != 0 ? error : pthread_join(thread, NULL);
}

/* --- the same through the ring, where no filter looks --- */

static int
complete(void)
{
    struct io_completion completion;

    while (!io_next(ring, &completion))
        io_wait(ring, UINT64_C(5000000000));
    return completion.result < 0 ? -completion.result : 0;
}

static int
ring_open(int directory, const char *name)
{
    io_file_open(ring, (struct io_ticket){ .slot = 1 }, directory, name, 0);
    return complete();
}

static int try_ring_spool(void) { return ring_open(spool_fd, "segment"); }
static int try_ring_over(void) { return ring_open(spool_fd, "../other/secret"); }
static int try_ring_shadow(void) { return ring_open(AT_FDCWD, "/etc/shadow"); }

static int
ring_connect(uint16_t port)
{
    const struct config_address to = { .family = CONFIG_ADDRESS_IPV4, .ip = { 127, 0, 0, 1 },
                                       .port = port };
    int one = io_socket(&to);

    if (one < 0)
        return -one;
    io_connect(ring, (struct io_ticket){ .slot = 1 }, one, &to);
    return complete();
}

static int try_ring_connect(void) { return ring_connect(PORT_ALLOWED); }
static int try_ring_connect_other(void) { return ring_connect(PORT_OTHER); }

/* Operations that core/io.h has not: what code in a worker could write into its ring. */
static int
ring_raw(void (*prepare)(struct io_uring_sqe *entry))
{
    struct io_uring_sqe *entry = entry_take(ring);

    prepare(entry);
    io_uring_sqe_set_data64(entry, ticket_pack((struct io_ticket){ .slot = 1 }, IO_FILE));
    return complete();
}

static void
prepare_socket(struct io_uring_sqe *entry)
{
    io_uring_prep_socket(entry, AF_INET, SOCK_DGRAM, 0, 0);
}

static void
prepare_openat2(struct io_uring_sqe *entry)
{
    static struct open_how how = { .flags = O_RDONLY };

    io_uring_prep_openat2(entry, spool_fd, "segment", &how);
}

static void
prepare_link(struct io_uring_sqe *entry)
{
    io_uring_prep_linkat(entry, spool_fd, "segment", spool_fd, "link", 0);
}

static void
prepare_fixed_flag(struct io_uring_sqe *entry)
{
    io_uring_prep_nop(entry);
    entry->flags |= IOSQE_ASYNC;
}

static int try_ring_socket(void) { return ring_raw(prepare_socket); }
static int try_ring_openat2(void) { return ring_raw(prepare_openat2); }
static int try_ring_link(void) { return ring_raw(prepare_link); }
static int try_ring_flag(void) { return ring_raw(prepare_fixed_flag); }

static int
try_ring_register(void)
{
    int files[1] = { -1 };

    return -io_uring_register_files(&ring->ring, files, 1);
}

/* --- in a child --- */

#define ENDED (-1) /* by SIGSYS */

struct attempt {
    const char *name;
    int (*try)(void);
    enum filter_kind kind;
    int want;     /* errno, 0, ENDED */
    int want_log; /* with `sandbox: log` */
};

static void
enter(enum config_sandbox mode, enum filter_kind kind)
{
    struct sandbox_path paths[] = { { spool, LANDLOCK_SPOOL },
                                    { keys, LANDLOCK_READ },
                                    { "/nowhere/at/all", LANDLOCK_READ } };
    const uint16_t ports[] = { PORT_ALLOWED };
    const struct sandbox_rules rules = { .mode = mode, .paths = paths,
                                         .path_count = COUNT_OF(paths), .ports = ports,
                                         .port_count = COUNT_OF(ports), .syslog = true };
    const struct io_options options = { .entries = 8, .completions = 16 };
    char error[IO_ERROR_BYTES];
    struct sandbox_report report;

    spool_fd = open(spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!sandbox_begin_with(&rules, &report)) {
        fprintf(stderr, "%s\n", report.error);
        _exit(200);
    }
    /* As threads do: the ring first, then the shorter list. */
    ring = io_create(&options, error);
    if (ring == NULL)
        _exit(201);
    if (kind != FILTER_START)
        sandbox_thread(kind);
}

struct trial {
    const struct attempt *attempt;
    enum config_sandbox mode;
};

static int
attempt_call(const void *context)
{
    const struct trial *trial = context;

    enter(trial->mode, trial->attempt->kind);
    return trial->attempt->try();
}

static int
outcome(const struct attempt *attempt, enum config_sandbox mode)
{
    int status = child_run(attempt_call, &(struct trial){ attempt, mode });

    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
        return ENDED;
    cr_assert(WIFEXITED(status), "%s: status %#x", attempt->name, (unsigned)status);
    return WEXITSTATUS(status);
}

static const struct attempt attempts[] = {
    { "the spool: read", try_spool_read, FILTER_WORKER, 0, 0 },
    { "the spool: make", try_spool_make, FILTER_WORKER, 0, 0 },
    { "the spool: remove", try_spool_remove, FILTER_MAIN, 0, 0 },
    { "a key: read again", try_key_read, FILTER_MAIN, 0, 0 },
    { "a key: write", try_key_write, FILTER_MAIN, EACCES, 0 },
    { "beside a key: make", try_key_make, FILTER_MAIN, EACCES, 0 },
    { "another file of ours", try_other_read, FILTER_WORKER, EACCES, 0 },
    { "the same by way of the spool", try_up_and_over, FILTER_WORKER, EACCES, 0 },
    { "/etc/shadow", try_shadow, FILTER_WORKER, EACCES, 0 },
    { "memory as a file", try_self, FILTER_WORKER, EACCES, 0 },
    { "another program", try_execve, FILTER_WORKER, ENDED, 0 },
    { "another program, at the start", try_execve, FILTER_START, ENDED, 0 },
    { "another process", try_fork, FILTER_WORKER, ENDED, 0 },
    { "another process, at the start", try_fork, FILTER_START, ENDED, 0 },
    { "another thread, at the start", try_thread, FILTER_START, 0, 0 },
    { "another thread", try_thread, FILTER_WORKER, ENDED, 0 },
    { "debugging the parent", try_ptrace, FILTER_WORKER, ENDED, 0 },
    { "a signal to the parent", try_kill, FILTER_WORKER, ENDED, 0 },
    { "the same by the call that abort() needs", try_tgkill, FILTER_WORKER, ENDED, 0 },
    { "TCP over IPv4", try_tcp, FILTER_WORKER, 0, 0 },
    { "TCP over IPv6", try_tcp6, FILTER_WORKER, 0, 0 },
    { "UDP", try_udp, FILTER_WORKER, ENDED, 0 },
    { "MPTCP, which Landlock's ports do not see", try_mptcp, FILTER_WORKER, ENDED, 0 },
    { "a Unix socket", try_unix, FILTER_WORKER, ENDED, 0 },
    { "a Unix socket, statistics", try_unix, FILTER_STATS, ENDED, 0 },
    { "syslog, by the log's thread", try_syslog, FILTER_LOG, 0, 0 },
    { "syslog, by a worker", try_syslog, FILTER_WORKER, ENDED, 0 },
    { "TCP, by the log's thread", try_tcp, FILTER_LOG, ENDED, 0 },
    { "octets that wait", try_waiting, FILTER_WORKER, 0, 0 },
    { "another ioctl()", try_ioctl, FILTER_WORKER, ENDED, 0 },
    { "octets that wait, statistics", try_waiting, FILTER_STATS, ENDED, 0 },
    { "netlink", try_netlink, FILTER_WORKER, ENDED, 0 },
    { "memory to write and run", try_memory_run, FILTER_WORKER, ENDED, 0 },
    { "memory to run later", try_memory_run_later, FILTER_WORKER, ENDED, 0 },
    { "a ring without restrictions", try_ring, FILTER_WORKER, ENDED, 0 },
    { "a ring without restrictions, statistics", try_ring, FILTER_STATS, ENDED, 0 },
    { "a ring without restrictions, main", try_ring, FILTER_MAIN, ENDED, 0 },
    { "a ring: the spool", try_ring_spool, FILTER_WORKER, 0, 0 },
    { "a ring: by way of the spool", try_ring_over, FILTER_WORKER, EACCES, 0 },
    { "a ring: /etc/shadow", try_ring_shadow, FILTER_WORKER, EACCES, 0 },
    { "a ring: a port of a next hop", try_ring_connect, FILTER_WORKER, ECONNREFUSED,
      ECONNREFUSED },
    { "a ring: another port", try_ring_connect_other, FILTER_WORKER, EACCES, ECONNREFUSED },
    { "a ring: a socket", try_ring_socket, FILTER_WORKER, EACCES, EACCES },
    { "a ring: openat2", try_ring_openat2, FILTER_WORKER, EACCES, EACCES },
    { "a ring: a link", try_ring_link, FILTER_WORKER, EACCES, EACCES },
    { "a ring: a flag we do not use", try_ring_flag, FILTER_WORKER, EACCES, EACCES },
    { "a ring: registering files", try_ring_register, FILTER_WORKER, EACCES, EACCES },
};

#ifdef RINGPOST_SANITIZED
#define NEEDS_PLAIN_BUILD() cr_skip_test("no sandbox in a build with sanitizers")
#else
#define NEEDS_PLAIN_BUILD() (void)0
#endif

static bool
kernel_has_all(void)
{
    struct landlock landlock;
    bool all = landlock_open(&landlock) == 0 && landlock.abi >= LANDLOCK_ABI_SCOPES;

    landlock_close(&landlock);
    return all;
}

Test(sandbox, refuses)
{
    NEEDS_PLAIN_BUILD();
    if (!kernel_has_all())
        cr_skip_test("this kernel's Landlock is older");
    for (size_t i = 0; i < COUNT_OF(attempts); i++) {
        int got;

        world_make();
        got = outcome(&attempts[i], CONFIG_SANDBOX_ON);
        cr_expect_eq(got, attempts[i].want, "%s: %d (%s) instead of %d", attempts[i].name, got,
                     got > 0 ? strerror(got) : "", attempts[i].want);
        world_remove();
    }
}

/* Nothing but what the ring itself refuses; "another program" ends well, so its status is 0. */
Test(sandbox, log_refuses_nothing)
{
    NEEDS_PLAIN_BUILD();
    for (size_t i = 0; i < COUNT_OF(attempts); i++) {
        int got;

        /* These reach beyond the child, or are refused to it by other rules than ours. */
        if (attempts[i].try == try_fork || attempts[i].try == try_ptrace ||
            attempts[i].try == try_shadow || attempts[i].try == try_ring_shadow ||
            attempts[i].try == try_mptcp || attempts[i].try == try_tcp6)
            continue;
        world_make();
        got = outcome(&attempts[i], CONFIG_SANDBOX_LOG);
        cr_expect_eq(got, attempts[i].want_log, "%s: %d (%s) instead of %d", attempts[i].name, got,
                     got > 0 ? strerror(got) : "", attempts[i].want_log);
        world_remove();
    }
}

Test(sandbox, off_does_nothing)
{
    const struct sandbox_rules rules = { .mode = CONFIG_SANDBOX_OFF };
    struct sandbox_report report;

    cr_assert(sandbox_begin_with(&rules, &report));
    sandbox_thread(FILTER_WORKER);
    cr_assert(report.landlock_abi == 0 && !report.seccomp);
    cr_assert_str_eq(report.missing, "sandbox: off");
    cr_assert_eq(prctl(PR_GET_SECCOMP, 0, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
}

static int
closed_call(const void *context)
{
    (void)context;
    enter(CONFIG_SANDBOX_ON, FILTER_START);
    return prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
               ? 0
               : 1;
}

Test(sandbox, process_is_closed)
{
    int status;

    NEEDS_PLAIN_BUILD();
    world_make();
    status = child_run(closed_call, NULL);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%#x", (unsigned)status);
    world_remove();
}

/* Whoever finds the process gone must find out why. */
Test(sandbox, says_what_ended_it)
{
    char said[512] = "", want[64];
    size_t len = 0;
    ssize_t n;
    int ends[2], status;
    pid_t child;

    NEEDS_PLAIN_BUILD();
    world_make();
    cr_assert_eq(pipe(ends), 0);
    child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        enter(CONFIG_SANDBOX_ON, FILTER_STATS);
        _exit(try_netlink());
    }
    close(ends[1]);
    while ((n = read(ends[0], said + len, sizeof(said) - 1 - len)) > 0)
        len += (size_t)n;
    close(ends[0]);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%#x", (unsigned)status);
    snprintf(want, sizeof(want), "kind stats made system call %d,", SYS_socket);
    cr_assert_not_null(strstr(said, want), "%s", said);
    world_remove();
}

/* --- the rings, in every build --- */

Test(sandbox, rings_are_restricted)
{
    static const struct {
        const char *name;
        int (*try)(void);
        int want;
    } rows[] = {
        { "the spool", try_ring_spool, 0 },       { "a socket", try_ring_socket, EACCES },
        { "openat2", try_ring_openat2, EACCES },  { "a link", try_ring_link, EACCES },
        { "a flag", try_ring_flag, EACCES },      { "files", try_ring_register, EACCES },
    };
    const struct io_options options = { .entries = 8, .completions = 16 };
    char error[IO_ERROR_BYTES];

    world_make();
    spool_fd = open(spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ring = io_create(&options, error);
    cr_assert_not_null(ring, "%s", error);
    cr_assert(io_restricted(ring));
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_expect_eq(rows[i].try(), rows[i].want, "%s", rows[i].name);
    io_destroy(ring);
    close(spool_fd);
    world_remove();
}
