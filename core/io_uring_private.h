/* io_uring_private: what the files behind core/io.h on io_uring share.
 * Does:    the instance, tickets as user data, the next free submission. For io_uring.c,
 *          io_file.c and io_restrict.c alone: nobody else includes it.
 * Memory:  none of its own; io_uring.c creates and destroys the instance.
 * Threads: as core/io.h.
 */
#ifndef RINGPOST_CORE_IO_URING_PRIVATE_H
#define RINGPOST_CORE_IO_URING_PRIVATE_H

#include <liburing.h>

#include "core/io.h"

/* Buffer groups: the second one is for what sets buffers free, and must get some when the first has
 * none left. */
enum io_group { IO_GROUP_BULK, IO_GROUP_SURE, IO_GROUPS };

struct io {
    struct io_uring ring;
    struct group {
        struct io_uring_buf_ring *ring; /* NULL: none */
        uint32_t most;                  /* buffers that it may have */
        uint32_t reserve;               /* buffers that it leaves free */
        uint32_t least;                 /* as long as it has fewer, it leaves only these: */
        uint32_t reserve_least;
        uint32_t offered;               /* buffers that the kernel has */
    } groups[IO_GROUPS];
    struct buffers buffers;
    struct buffer_meta *meta;
    uint32_t seen; /* completions handed out since the last wait */
    struct io_counts counts;
    struct sockaddr_storage *addresses; /* of connects not submitted yet; see io_connect() */
    uint32_t address_next;
    uint32_t receive_most; /* octets after which a multishot receive ends; 0: the kernel cannot */
    bool restricted;       /* to the operations that we use */
};

_Static_assert(sizeof(struct io_piece) == sizeof(struct iovec) &&
                   offsetof(struct io_piece, len) == offsetof(struct iovec, iov_len),
               "struct io_piece is an iovec");

/* Ends the set-up of a ring that was created disabled. Returns 0 or a negative errno. */
int io_restrict(struct io *io);

/* --- tickets: op 8 bits | kind 8 | generation 24 | slot 24 --- */

static inline uint64_t
ticket_pack(struct io_ticket ticket, unsigned op)
{
    ASSERT(ticket.slot < 1u << 24);
    ASSERT(ticket.generation < 1u << 24);
    return (uint64_t)op << 56 | (uint64_t)ticket.kind << 48 | (uint64_t)ticket.generation << 24 |
           ticket.slot;
}

static inline struct io_ticket
ticket_unpack(uint64_t data)
{
    return (struct io_ticket){ .slot = data & 0xffffff,
                               .generation = (data >> 24) & 0xffffff,
                               .kind = (uint8_t)(data >> 48) };
}

static inline struct io_uring_sqe *
entry_take(struct io *io)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&io->ring);

    /* Full: one extra system call, which a larger `entries` would have saved. */
    if (entry == NULL) {
        io_uring_submit(&io->ring);
        io->counts.enters++;
        entry = io_uring_get_sqe(&io->ring);
        ASSERT(entry != NULL);
    }
    io->counts.submissions++;
    return entry;
}

#endif
