/* The lists are in filter.def; here is what depends on arguments, and what happens to a thread that
 * calls something else. */
#include "relay/sandbox/filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct call {
    int number;
    uint32_t threads; /* bits 1 << enum filter_kind; FILTER_START has all calls */
};

static const struct call calls[] = {
#define CALL(name, threads) { SCMP_SYS(name), threads },
#include "relay/sandbox/filter.def"
};

static struct sock_fprog programs[FILTERS];
static const char *const kind_names[FILTERS] = {
    [FILTER_START] = "start", [FILTER_MAIN] = "main", [FILTER_WORKER] = "worker",
    [FILTER_STATS] = "stats", [FILTER_LOG] = "log",
};
static _Thread_local enum filter_kind kind_here;

/* --- a call that is not in the list --- */

/* Only async-signal-safe calls, and only ones that every list has. The handler is gone when it
 * runs (SA_RESETHAND), so that raising the signal again ends the process by it. */
static void
on_refused(int signal_number, siginfo_t *info, void *context)
{
    char bytes[256];
    struct outbuf line = { .data = bytes, .size = sizeof(bytes) };

    (void)context;
    outbuf_add(&line, SPAN("ringpost: sandbox: a thread of kind "));
    outbuf_add(&line, span_text(kind_names[kind_here]));
    outbuf_add(&line, SPAN(" made system call "));
    outbuf_add_number(&line, (uint64_t)(unsigned)info->si_syscall);
    outbuf_add(&line, SPAN(", which ringpost has no use for; ended (docs/OPERATIONS.md, "
                           "The sandbox)\n"));
    if (write(STDERR_FILENO, line.data, line.len) < 0)
        line.len = 0;
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), signal_number);
}

static int
handler_install(void)
{
    struct sigaction action = { .sa_sigaction = on_refused,
                                .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER };

    sigemptyset(&action.sa_mask);
    return sigaction(SIGSYS, &action, NULL) != 0 ? -errno : 0;
}

/* --- what depends on arguments --- */

#define LOW_32 UINT64_C(0xffffffff)

/* Memory that can be written is never run: neither at once nor one after the other. */
static int
add_memory(scmp_filter_ctx list)
{
    const struct scmp_arg_cmp no_exec = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
    int error = seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, &no_exec);

    if (error == 0)
        error = seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, &no_exec);
    return error;
}

static int
add_signal(scmp_filter_ctx list)
{
    const struct scmp_arg_cmp own = SCMP_A0(SCMP_CMP_MASKED_EQ, LOW_32, (scmp_datum_t)getpid());

    return seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &own);
}

/* How many octets wait on a socket, and nothing else that ioctl() may mean. */
static int
add_waiting(scmp_filter_ctx list)
{
    const struct scmp_arg_cmp what = SCMP_A1(SCMP_CMP_MASKED_EQ, LOW_32, FIONREAD);

    return seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, &what);
}

/* protocol 0: TCP. Another one, such as MPTCP, is not seen by Landlock's rules for ports. */
static int
add_socket(scmp_filter_ctx list, int family, int type)
{
    const struct scmp_arg_cmp terms[] = {
        SCMP_A0(SCMP_CMP_MASKED_EQ, LOW_32, (scmp_datum_t)family),
        SCMP_A1(SCMP_CMP_MASKED_EQ, LOW_32 & ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK),
                (scmp_datum_t)type),
        SCMP_A2(SCMP_CMP_MASKED_EQ, LOW_32, 0),
    };

    return seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, terms);
}

/* Threads of this process, never another process. clone3() has its flags in memory, where no filter
 * can look: glibc takes clone() when there is none. */
static int
add_threads(scmp_filter_ctx list)
{
    const struct scmp_arg_cmp thread = SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD);
    int error = seccomp_rule_add(list, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

    if (error == 0)
        error = seccomp_rule_add_array(list, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, &thread);
    return error;
}

static int
add_all(scmp_filter_ctx list, enum filter_kind kind, const struct filter_options *options)
{
    int error = add_memory(list);

    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]) && error == 0; i++)
        if (kind == FILTER_START || (calls[i].threads & 1u << kind) != 0)
            error = seccomp_rule_add(list, SCMP_ACT_ALLOW, calls[i].number, 0);
    if (error == 0)
        error = add_signal(list);
    if (error == 0 && kind == FILTER_START)
        error = add_threads(list);
    if (error == 0 && (kind == FILTER_START || kind == FILTER_WORKER)) {
        error = add_waiting(list);
        if (error == 0)
            error = add_socket(list, AF_INET, SOCK_STREAM);
        if (error == 0)
            error = add_socket(list, AF_INET6, SOCK_STREAM);
    }
    if (error == 0 && (kind == FILTER_START || kind == FILTER_LOG) && options->syslog)
        error = add_socket(list, AF_UNIX, SOCK_DGRAM);
    return error;
}

/* --- programs --- */

/* The kernel's form of a list, so that a thread needs one system call and no memory to take it. */
static int
program_read(int file, struct sock_fprog *program)
{
    struct stat status;
    struct sock_filter *code;

    if (fstat(file, &status) != 0)
        return -errno;
    code = malloc((size_t)status.st_size);
    if (code == NULL)
        return -ENOMEM;
    if (pread(file, code, (size_t)status.st_size, 0) != status.st_size) {
        free(code);
        return -EIO;
    }
    program->filter = code;
    program->len = (unsigned short)((size_t)status.st_size / sizeof(*code));
    return 0;
}

static int
program_make(enum filter_kind kind, const struct filter_options *options)
{
    scmp_filter_ctx list = seccomp_init(options->log_only ? SCMP_ACT_LOG : SCMP_ACT_TRAP);
    int file = memfd_create("filter", MFD_CLOEXEC);
    int error = list == NULL ? -ENOMEM : file < 0 ? -errno : add_all(list, kind, options);

    if (error == 0)
        error = seccomp_export_bpf(list, file);
    if (error == 0)
        error = program_read(file, &programs[kind]);
    if (list != NULL)
        seccomp_release(list);
    if (file >= 0)
        close(file);
    return error;
}

static void
filters_free(void)
{
    for (int kind = 0; kind < FILTERS; kind++) {
        free(programs[kind].filter);
        programs[kind] = (struct sock_fprog){ .len = 0 };
    }
}

int
filters_make(const struct filter_options *options)
{
    const uint32_t action = options->log_only ? SECCOMP_RET_LOG : SECCOMP_RET_TRAP;
    int error = 0;

    if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0)
        return -ENOSYS;
    for (int kind = 0; kind < FILTERS && error == 0; kind++)
        error = program_make((enum filter_kind)kind, options);
    if (error == 0)
        error = handler_install();
    if (error != 0)
        filters_free();
    return error;
}

int
filter_enter(enum filter_kind kind)
{
    if (programs[kind].filter == NULL)
        return 0;
    kind_here = kind;
    /* FLAG_LOG: the kernel's audit log, where there is one, has the line too. */
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG,
                   &programs[kind]) != 0
               ? -errno
               : 0;
}
