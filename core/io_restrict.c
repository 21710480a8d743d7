/* What a ring may do is fixed before it does anything: operations that come through a ring pass by
 * every seccomp filter, so the ring itself must refuse those that we do not use. The kernel checks
 * a few bits at each submission. */
#include <errno.h>

#include "core/io_uring_private.h"

/* Every operation that io_uring.c and io_file.c queue. A new one there needs a row here, or it
 * completes with -EACCES. Not here, among others: sockets, links, xattrs, epoll, opening by
 * openat2, and all that takes a descriptor from or to another process. */
static const uint8_t operations[] = {
    IORING_OP_NOP,      IORING_OP_ACCEPT,       IORING_OP_RECV,     IORING_OP_SEND,
    IORING_OP_SENDMSG,  IORING_OP_CONNECT,      IORING_OP_CLOSE,    IORING_OP_ASYNC_CANCEL,
    IORING_OP_MSG_RING, IORING_OP_OPENAT,       IORING_OP_READ,     IORING_OP_READV,
    IORING_OP_WRITE,    IORING_OP_WRITEV,       IORING_OP_FSYNC,    IORING_OP_FALLOCATE,
    IORING_OP_RENAMEAT, IORING_OP_UNLINKAT,
};

/* What io_destroy() asks for. */
static const uint8_t registrations[] = {
    IORING_UNREGISTER_PBUF_RING,
    IORING_UNREGISTER_RING_FDS,
};

#define ENTRY_FLAGS (IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_HARDLINK)
#define OPERATIONS (sizeof(operations) / sizeof(operations[0]))
#define REGISTRATIONS (sizeof(registrations) / sizeof(registrations[0]))

int
io_restrict(struct io *io)
{
    struct io_uring_restriction rows[OPERATIONS + REGISTRATIONS + 1] = { 0 };
    unsigned count = 0;
    int result;

    for (size_t i = 0; i < OPERATIONS; i++, count++) {
        rows[count].opcode = IORING_RESTRICTION_SQE_OP;
        rows[count].sqe_op = operations[i];
    }
    for (size_t i = 0; i < REGISTRATIONS; i++, count++) {
        rows[count].opcode = IORING_RESTRICTION_REGISTER_OP;
        rows[count].register_op = registrations[i];
    }
    rows[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rows[count++].sqe_flags = ENTRY_FLAGS;
    result = io_uring_register_restrictions(&io->ring, rows, count);
    /* A kernel that does not know one of them leaves the ring as it was: it works all the same. */
    io->restricted = result == 0;
    return io_uring_enable_rings(&io->ring);
}

bool
io_restricted(const struct io *io)
{
    return io->restricted;
}
