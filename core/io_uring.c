/* core/io.h on Linux io_uring: one ring per thread, multishot accept and receive, a provided
 * buffer ring. Needs Linux 6.1 (DEFER_TASKRUN) and nothing newer. Files: io_file.c. */
#include "core/io.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/config.h"
#include "core/io_uring_private.h"

/* Connections waiting to be accepted. The kernel cuts it to net.core.somaxconn. */
#define LISTEN_BACKLOG 4096

#define ADDRESSES_PENDING 64
/* Threads of the kernel behind one ring. Only what may block on a disk needs them (syncs, opens,
 * renames, buffered writes: the kernel calls them bounded), and those come few at a time: four keep
 * a disk busy, and a stuck one cannot grow hundreds. Unbounded ones would be for sockets, where
 * polling does without; 0 would not forbid them but leave the default, which is RLIMIT_NPROC. */
#define KERNEL_THREADS_MAX 4
/* In tickets only: an IO_RECEIVE whose buffers come from the second group. */
#define RECEIVE_SURE 0x80

_Static_assert(sizeof(struct msghdr) <= sizeof(((struct io_gather *)0)->private_header),
               "struct io_gather has room for a msghdr");
/* --- creation --- */

static const char *
sysctl_text(void)
{
    static _Thread_local char text[8];
    FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");

    text[0] = '\0';
    if (file != NULL) {
        if (fgets(text, sizeof(text), file) == NULL)
            text[0] = '\0';
        fclose(file);
    }
    return text;
}

static void
explain_setup(int error, char text[IO_ERROR_BYTES])
{
    const char *sysctl = sysctl_text();

    if (error == EPERM && (sysctl[0] == '1' || sysctl[0] == '2'))
        snprintf(text, IO_ERROR_BYTES,
                 "io_uring is switched off on this system (sysctl kernel.io_uring_disabled = %c). "
                 "Allow it with: sysctl -w kernel.io_uring_disabled=0%s",
                 sysctl[0],
                 sysctl[0] == '1'
                     ? ", or run with the group of kernel.io_uring_group or CAP_SYS_ADMIN"
                     : "");
    else if (error == EPERM || error == EACCES)
        snprintf(
            text, IO_ERROR_BYTES,
            "io_uring is not permitted here: a seccomp filter refuses io_uring_setup (most "
            "container "
            "run-times' default profile does). Use a profile that allows io_uring_setup, "
            "io_uring_enter and io_uring_register (docker: --security-opt seccomp=PROFILE.json)");
    else if (error == ENOSYS)
        snprintf(
            text, IO_ERROR_BYTES,
            "this kernel or sandbox has no io_uring at all (io_uring_setup: %s). ringpost needs "
            "Linux 6.1 or later with CONFIG_IO_URING, and a sandbox that passes it through",
            strerror(error));
    else if (error == EINVAL)
        snprintf(
            text, IO_ERROR_BYTES,
            "this kernel's io_uring is too old: it refuses SINGLE_ISSUER|DEFER_TASKRUN. ringpost "
            "needs Linux 6.1 or later");
    else if (error == ENOMEM)
        snprintf(text, IO_ERROR_BYTES,
                 "no memory for the io_uring (locked memory limit?). Raise RLIMIT_MEMLOCK "
                 "(ulimit -l, systemd: LimitMEMLOCK=) or lower limits.connections");
    else
        snprintf(text, IO_ERROR_BYTES, "io_uring_setup failed: %s", strerror(error));
}

static bool
ring_create(struct io *io, const struct io_options *options, char error[IO_ERROR_BYTES])
{
    unsigned threads[2] = { KERNEL_THREADS_MAX, KERNEL_THREADS_MAX }; /* bounded, unbounded */
    struct io_uring_params params = {
        /* SINGLE_ISSUER: only this thread submits; lets the kernel skip locking.
         * DEFER_TASKRUN: completion work runs when we wait and never interrupts us.
         * SUBMIT_ALL: a bad entry does not stop the ones behind it.
         * CQSIZE: the completion queue must never overflow: overflow ends multishots.
         * R_DISABLED: until io_restrict() has said what it may do. */
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
                 IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED,
        .cq_entries = options->completions,
    };
    int result = io_uring_queue_init_params(options->entries, &io->ring, &params);

    if (result < 0) {
        explain_setup(-result, error);
        return false;
    }
    if (!(params.features & IORING_FEAT_EXT_ARG) || !(params.features & IORING_FEAT_NODROP)) {
        snprintf(error, IO_ERROR_BYTES,
                 "this kernel's io_uring is too old (features %#x). ringpost "
                 "needs Linux 6.1 or later",
                 params.features);
        io_uring_queue_exit(&io->ring);
        return false;
    }
    /* Saves the descriptor look-up in each enter; not having it is no fault. */
    io_uring_register_ring_fd(&io->ring);
    /* Nor is a default that stays. */
    io_uring_register_iowq_max_workers(&io->ring, threads);
    return true;
}

static bool
buffers_create(struct io *io, const struct io_options *options, char error[IO_ERROR_BYTES])
{
    int result;
    char *memory;

    if (options->buffer_count == 0)
        return true;
    memory = io_memory((size_t)options->buffer_count * BUFFER_BYTES);
    io->meta = io_memory((size_t)options->buffer_count * sizeof(struct buffer_meta));
    if (memory == NULL || io->meta == NULL) {
        snprintf(error, IO_ERROR_BYTES,
                 "no memory for %u receive buffers; lower limits.receive_memory",
                 options->buffer_count);
        return false;
    }
    buffers_init(&io->buffers, memory, io->meta, options->buffer_count);
    io->groups[IO_GROUP_BULK] =
        (struct group){ .most = options->buffers_offered != 0 ? options->buffers_offered
                                                              : BUFFERS_OFFERED,
                        .reserve = options->buffer_reserve,
                        .least = options->buffers_least,
                        .reserve_least = options->buffer_reserve / 2 };
    io->groups[IO_GROUP_SURE] =
        (struct group){ .most = options->buffers_sure != 0 ? options->buffers_sure : BUFFERS_SURE,
                        /* More than those: only what clients' receives cannot come to need. */
                        .reserve = options->buffer_reserve + io->groups[IO_GROUP_BULK].most,
                        .least = BUFFERS_SURE,
                        .reserve_least = options->buffer_reserve / 2 };
    for (int i = 0; i < IO_GROUPS; i++) {
        struct group *group = &io->groups[i];

        group->ring = io_uring_setup_buf_ring(&io->ring, group->most, i, 0, &result);
        if (group->ring == NULL) {
            snprintf(error, IO_ERROR_BYTES,
                     "cannot register a receive buffer ring: %s. ringpost needs Linux 6.1 or later",
                     strerror(-result));
            return false;
        }
    }
    return true;
}

static void
group_offer(struct io *io, struct group *group)
{
    unsigned added = 0;

    while (group->ring != NULL && group->offered < group->most) {
        uint32_t index = buffer_take(
            &io->buffers, group->offered < group->least ? group->reserve_least : group->reserve);

        if (index == BUFFER_NONE)
            break;
        io_uring_buf_ring_add(group->ring, buffer_memory(&io->buffers, index), BUFFER_BYTES,
                              (unsigned short)index, (int)group->most - 1, (int)added);
        group->offered++;
        added++;
    }
    if (added > 0)
        io_uring_buf_ring_advance(group->ring, (int)added);
}

/* One round trip over a socket pair. */
static bool
receive_works(struct io *io, const int pair[2])
{
    struct io_ticket ticket = { .kind = 0xff };
    struct io_completion completion;
    bool good = false, done = false;

    io_receive_some(io, ticket, pair[0]);
    io_send(io, ticket, pair[1], SPAN("ring"));
    for (int turn = 0; turn < 8 && !done; turn++) {
        io_wait(io, 1000000000);
        while (io_next(io, &completion)) {
            if (completion.buffer != BUFFER_NONE) {
                good = completion.result == 4 && completion.more;
                buffer_release(&io->buffers, completion.buffer);
                shutdown(pair[1], SHUT_RDWR);
            } else if (completion.op == IO_RECEIVE) {
                done = true;
            }
        }
    }
    return good;
}

/* No feature bit tells of multishot receive, and of a limit on it. */
static bool
probe_receive(struct io *io, char error[IO_ERROR_BYTES])
{
    bool good = io->meta == NULL;

    for (int tries = 0; tries < 2 && !good; tries++) {
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
            snprintf(error, IO_ERROR_BYTES, "socketpair: %s", strerror(errno));
            return false;
        }
        io->receive_most = tries == 0 ? RECEIVE_BYTES_MOST : 0;
        good = receive_works(io, pair);
        close(pair[0]);
        close(pair[1]);
    }
    if (!good)
        snprintf(error, IO_ERROR_BYTES,
                 "this kernel's io_uring has no multishot receive with provided "
                 "buffers. ringpost needs Linux 6.1 or later");
    return good;
}

struct io *
io_create(const struct io_options *options, char error[IO_ERROR_BYTES])
{
    struct io *io = calloc(1, sizeof(*io));
    int result;

    error[0] = '\0';
    if (io == NULL)
        return NULL;
    ASSERT(options->buffer_count <= UINT16_MAX);
    io->addresses = calloc(ADDRESSES_PENDING, sizeof(*io->addresses));
    io->ring.ring_fd = -1;
    if (io->addresses == NULL || !ring_create(io, options, error)) {
        free(io->addresses);
        free(io);
        return NULL;
    }
    if (!buffers_create(io, options, error)) {
        io_destroy(io);
        return NULL;
    }
    result = io_restrict(io);
    if (result < 0)
        snprintf(error, IO_ERROR_BYTES, "cannot enable the io_uring: %s", strerror(-result));
    if (result < 0 || !probe_receive(io, error)) {
        io_destroy(io);
        return NULL;
    }
    return io;
}

void
io_destroy(struct io *io)
{
    if (io == NULL)
        return;
    for (int i = 0; i < IO_GROUPS; i++)
        if (io->groups[i].ring != NULL)
            io_uring_free_buf_ring(&io->ring, io->groups[i].ring, io->groups[i].most, i);
    io_uring_queue_exit(&io->ring);
    if (io->buffers.memory != NULL)
        io_memory_free(io->buffers.memory, (size_t)io->buffers.count * BUFFER_BYTES);
    if (io->meta != NULL)
        io_memory_free(io->meta, (size_t)io->buffers.count * sizeof(struct buffer_meta));
    free(io->addresses);
    free(io);
}

struct buffers *
io_buffers(struct io *io)
{
    return &io->buffers;
}

/* --- operations --- */

void
io_accept(struct io *io, struct io_ticket ticket, int listener)
{
    struct io_uring_sqe *entry = entry_take(io);

    /* Not SOCK_NONBLOCK: io_uring would then give -EAGAIN to us instead of waiting itself. */
    io_uring_prep_multishot_accept(entry, listener, NULL, NULL, SOCK_CLOEXEC);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_ACCEPT));
}

static struct io_uring_sqe *
receive_from(struct io *io, struct io_ticket ticket, int socket, enum io_group group, bool once)
{
    struct io_uring_sqe *entry = entry_take(io);

    if (once)
        io_uring_prep_recv(entry, socket, NULL, 0, 0);
    else
        io_uring_prep_recv_multishot(entry, socket, NULL, 0, 0);
    /* POLL_FIRST: there is nothing yet when we arm, and with an empty buffer ring arming does not
     * fail at once. */
    entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = (unsigned short)group;
    io_uring_sqe_set_data64(
        entry, ticket_pack(ticket, group == IO_GROUP_BULK ? IO_RECEIVE : RECEIVE_SURE));
    return entry;
}

void
io_receive(struct io *io, struct io_ticket ticket, int socket)
{
    receive_from(io, ticket, socket, IO_GROUP_BULK, false);
}

void
io_receive_some(struct io *io, struct io_ticket ticket, int socket)
{
    receive_from(io, ticket, socket, IO_GROUP_BULK, false)->optlen = io->receive_most;
}

void
io_receive_once(struct io *io, struct io_ticket ticket, int socket)
{
    receive_from(io, ticket, socket, IO_GROUP_BULK, true);
}

void
io_receive_sure(struct io *io, struct io_ticket ticket, int socket)
{
    receive_from(io, ticket, socket, IO_GROUP_SURE, false);
}

void
io_receive_stop(struct io *io, struct io_ticket ticket, bool sure)
{
    struct io_uring_sqe *entry = entry_take(io);

    /* By its user data: by descriptor would end a send too, and by opcode needs Linux 6.6. */
    io_uring_prep_cancel64(entry, ticket_pack(ticket, sure ? RECEIVE_SURE : IO_RECEIVE), 0);
    io_uring_sqe_set_data64(entry, ticket_pack((struct io_ticket){ 0 }, IO_NONE));
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

bool
io_buffers_left(const struct io *io, bool sure)
{
    const struct group *group = &io->groups[sure ? IO_GROUP_SURE : IO_GROUP_BULK];

    return group->offered > 0 ||
           io->buffers.free_count > (group->least > 0 ? group->reserve_least : group->reserve);
}

uint32_t
io_receive_left(const struct io *io)
{
    const struct group *group = &io->groups[IO_GROUP_BULK];
    uint32_t free_count = io->buffers.free_count;

    return group->offered + (free_count > group->reserve ? free_count - group->reserve : 0);
}

void
io_send(struct io *io, struct io_ticket ticket, int socket, struct span data)
{
    struct io_uring_sqe *entry = entry_take(io);

    ASSERT(data.len > 0);
    /* WAITALL: the kernel goes on after a short send; a completion with less than all means a
     * broken connection. */
    io_uring_prep_send(entry, socket, data.data, data.len, MSG_WAITALL | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_SEND));
}

void
io_send_gather(struct io *io, struct io_ticket ticket, int socket, struct io_gather *gather)
{
    struct io_uring_sqe *entry = entry_take(io);
    struct msghdr *header = (struct msghdr *)(void *)gather->private_header;

    ASSERT(gather->count > 0 && gather->count <= IO_PIECES_MAX);
    *header = (struct msghdr){ .msg_iov = (struct iovec *)(void *)gather->pieces,
                               .msg_iovlen = gather->count };
    io_uring_prep_sendmsg(entry, socket, header,
                          MSG_WAITALL | MSG_NOSIGNAL | (gather->more ? MSG_MORE : 0));
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_SEND));
}

static socklen_t
address_fill(const struct config_address *address, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof(*out));
    if (address->family == 4) {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)out;

        in->sin_family = AF_INET;
        in->sin_port = htons(address->port);
        memcpy(&in->sin_addr, address->ip, 4);
        return sizeof(*in);
    }
    if (address->family == 6) {
        struct sockaddr_in6 *in = (struct sockaddr_in6 *)(void *)out;

        in->sin6_family = AF_INET6;
        in->sin6_port = htons(address->port);
        memcpy(&in->sin6_addr, address->ip, 16);
        return sizeof(*in);
    }
    struct sockaddr_un *un = (struct sockaddr_un *)(void *)out;

    un->sun_family = AF_UNIX;
    snprintf(un->sun_path, sizeof(un->sun_path), "%s", address->path);
    return sizeof(*un);
}

void
io_connect(struct io *io, struct io_ticket ticket, int socket, const struct config_address *to)
{
    struct sockaddr_storage *address;
    struct io_uring_sqe *entry = entry_take(io);
    socklen_t len;

    /* The kernel copies the address at submission: a small ring of them outlives that, since a
     * wrap-around without a submission in between is made one. */
    if (io->address_next == ADDRESSES_PENDING) {
        io->address_next = 0;
        io_uring_prep_nop(entry);
        io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_NONE));
        entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
        io_uring_submit(&io->ring);
        io->counts.enters++;
        entry = entry_take(io);
    }
    address = &io->addresses[io->address_next++];
    len = address_fill(to, address);
    io_uring_prep_connect(entry, socket, (struct sockaddr *)address, len);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_CONNECT));
}

void
io_push(int socket)
{
    int one = 1;

    /* It is set already (io_socket()): setting it again sends what MSG_MORE kept back. */
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

void
io_shutdown(struct io *io, int socket)
{
    /* A plain system call: the kernel always hands IORING_OP_SHUTDOWN to a thread of its io-wq. */
    (void)io;
    shutdown(socket, SHUT_WR);
}

void
io_cancel(struct io *io, struct io_ticket ticket, int socket)
{
    struct io_uring_sqe *entry = entry_take(io);

    io_uring_prep_cancel_fd(entry, socket, IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(entry, ticket_pack(ticket, IO_CANCEL));
}

void
io_close(struct io *io, int socket)
{
    struct io_uring_sqe *entry = entry_take(io);

    io_uring_prep_close(entry, socket);
    io_uring_sqe_set_data64(entry, ticket_pack((struct io_ticket){ 0 }, IO_NONE));
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

void
io_send_last(struct io *io, int socket, struct span data)
{
    struct io_uring_sqe *entry;

    /* Both must be in one submission to be linked. */
    if (io_uring_sq_space_left(&io->ring) < 2)
        io_uring_submit(&io->ring);
    entry = entry_take(io);
    io_uring_prep_send(entry, socket, data.data, data.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(entry, ticket_pack((struct io_ticket){ 0 }, IO_NONE));
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_HARDLINK;
    io_close(io, socket);
}

void
io_post(struct io *io, struct io *target, struct io_ticket ticket, int32_t result)
{
    struct io_uring_sqe *entry = entry_take(io);

    io_uring_prep_msg_ring(entry, target->ring.ring_fd, (unsigned)result,
                           ticket_pack(ticket, IO_MESSAGE), 0);
    io_uring_sqe_set_data64(entry, ticket_pack((struct io_ticket){ 0 }, IO_NONE));
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

/* --- the turn --- */

unsigned
io_wait(struct io *io, uint64_t timeout_ns)
{
    struct __kernel_timespec time = { .tv_sec = (long long)(timeout_ns / 1000000000),
                                      .tv_nsec = (long long)(timeout_ns % 1000000000) };
    struct io_uring_cqe *first;

    if (io->seen > 0)
        io_uring_cq_advance(&io->ring, io->seen);
    io->counts.completions += io->seen;
    io->seen = 0;
    group_offer(io, &io->groups[IO_GROUP_SURE]);
    group_offer(io, &io->groups[IO_GROUP_BULK]);
    /* A timeout of 0 programs a timer that fires at once: 10 us on a virtual machine, in each turn
     * that has handshakes left over. */
    if (timeout_ns == 0)
        io_uring_submit_and_get_events(&io->ring);
    else
        io_uring_submit_and_wait_timeout(&io->ring, &first, 1,
                                         timeout_ns == UINT64_MAX ? NULL : &time, NULL);
    io->counts.enters++;
    io->address_next = 0;
    return io_uring_cq_ready(&io->ring);
}

bool
io_next(struct io *io, struct io_completion *completion)
{
    const struct io_uring_cqe *entry;
    unsigned head = *io->ring.cq.khead + io->seen;

    for (;;) {
        if (head == io_uring_smp_load_acquire(io->ring.cq.ktail))
            return false;
        entry = &io->ring.cq.cqes[head & io->ring.cq.ring_mask];
        head++;
        io->seen++;
        if (entry->user_data >> 56 != IO_NONE)
            break;
    }
    completion->ticket = ticket_unpack(entry->user_data);
    completion->op = (uint8_t)(entry->user_data >> 56);
    completion->more = (entry->flags & IORING_CQE_F_MORE) != 0;
    completion->result = entry->res;
    completion->buffer = BUFFER_NONE;
    completion->message = entry->user_data & ((UINT64_C(1) << 56) - 1);
    if (entry->flags & IORING_CQE_F_BUFFER) {
        struct group *group =
            &io->groups[completion->op == RECEIVE_SURE ? IO_GROUP_SURE : IO_GROUP_BULK];

        completion->buffer = entry->flags >> IORING_CQE_BUFFER_SHIFT;
        ASSERT(group->offered > 0);
        group->offered--;
        /* The end of the stream may come with a buffer, which then is empty. */
        if (entry->res <= 0) {
            buffer_release(&io->buffers, completion->buffer);
            completion->buffer = BUFFER_NONE;
        }
    }
    if (completion->op == RECEIVE_SURE)
        completion->op = IO_RECEIVE;
    return true;
}

struct io_counts
io_counts(const struct io *io)
{
    struct io_counts counts = io->counts;

    counts.completions += io->seen;
    counts.overflows = *io->ring.cq.koverflow;
    counts.buffers_free = io->buffers.free_count;
    counts.buffers_offered = io->groups[0].offered + io->groups[1].offered;
    return counts;
}

/* --- sockets --- */

int
io_listen(const struct config_address *address, bool share_port)
{
    struct sockaddr_storage where;
    socklen_t len = address_fill(address, &where);
    int one = 1, error;
    int listener = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0)
        return -errno;
    if (where.ss_family != AF_UNIX) {
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        /* Inherited by accepted sockets: replies of a pipelined group must not wait for an ACK
         * (Nagle). */
        setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        if (share_port)
            setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
        if (where.ss_family == AF_INET6)
            setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    }
    if (bind(listener, (struct sockaddr *)&where, len) == 0 &&
        listen(listener, LISTEN_BACKLOG) == 0)
        return listener;
    error = errno;
    close(listener);
    return -error;
}

int
io_socket(const struct config_address *to)
{
    int one = 1, family = to->family == 4 ? AF_INET : to->family == 6 ? AF_INET6 : AF_UNIX;
    int result = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (result < 0)
        return -errno;
    if (family != AF_UNIX)
        setsockopt(result, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return result;
}

void
io_close_now(int descriptor)
{
    close(descriptor);
}

bool
io_peer(int socket, struct io_peer *peer)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    struct sockaddr_storage from;
    socklen_t len = sizeof(from);

    *peer = (struct io_peer){ 0 };
    if (getpeername(socket, (struct sockaddr *)&from, &len) != 0)
        return false;
    if (from.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&from;

        memcpy(peer->ip, mapped, sizeof(mapped));
        memcpy(peer->ip + 12, &in->sin_addr, 4);
        peer->port = ntohs(in->sin_port);
    } else if (from.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)&from;

        memcpy(peer->ip, &in->sin6_addr, 16);
        peer->port = ntohs(in->sin6_port);
    } else {
        peer->local = true;
    }
    return true;
}

uint32_t
io_receive_waits(int socket)
{
    int octets = 0;

    return ioctl(socket, FIONREAD, &octets) == 0 && octets > 0 ? (uint32_t)octets : 0;
}

uint16_t
io_port(int socket)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof(at);

    if (getsockname(socket, (struct sockaddr *)&at, &len) != 0)
        return 0;
    if (at.ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)&at)->sin_port);
    if (at.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)&at)->sin6_port);
    return 0;
}

/* --- memory --- */

#define PAGE_BYTES ((size_t)4096)

/* Whole pages, also when they are given back: of a part of one the thread sanitizer would remember
 * who wrote it, and accuse whoever has the address next (a ring: liburing maps unseen by it). */
static size_t
whole_pages(size_t bytes)
{
    ASSERT(bytes <= SIZE_MAX - PAGE_BYTES);
    return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

void *
io_memory(size_t bytes)
{
    void *memory = mmap(NULL, whole_pages(bytes), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void
io_memory_free(void *memory, size_t bytes)
{
    munmap(memory, whole_pages(bytes));
}
