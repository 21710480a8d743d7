/* sockets: a connected pair of TCP sockets on the loopback address, as links have them.
 * Does:    connects without a next turn of anybody. (A pair of Unix sockets will not do: Linux 6.18
 *          tells a multishot receive nothing of an end of stream that is there already when the
 *          last octets are taken from such a socket.)
 * Owns:    nothing; the caller closes both.
 * Errors:  no socket: the test fails.
 */
#ifndef RINGPOST_TESTS_UNIT_SOCKETS_H
#define RINGPOST_TESTS_UNIT_SOCKETS_H

#include <criterion/criterion.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The kernel holds less than a megabyte on the way, whatever this system's defaults are. */
#define SOCKETS_KERNEL_BYTES_MAX (1u << 20)

static inline int
sockets_one(void)
{
    int one = 1, bytes = 1 << 16, result = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    cr_assert(result >= 0);
    cr_assert_eq(setsockopt(result, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)), 0);
    cr_assert_eq(setsockopt(result, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)), 0);
    cr_assert_eq(setsockopt(result, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
    return result;
}

static inline void
sockets_pair(int pair[2])
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(at);
    int listener = sockets_one();

    cr_assert_eq(bind(listener, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(listen(listener, 1), 0);
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    pair[1] = sockets_one();
    cr_assert_eq(connect(pair[1], (struct sockaddr *)&at, sizeof(at)), 0);
    pair[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    cr_assert(pair[0] >= 0);
    close(listener);
}

/* All of it at once: what does not fit the kernel's buffers fails the test. */
static inline void
sockets_write(int to, const void *data, size_t len)
{
    cr_assert_eq(send(to, data, len, MSG_NOSIGNAL | MSG_DONTWAIT), (ssize_t)len);
}

/* As much as goes without waiting. */
static inline size_t
sockets_write_some(int to, const void *data, size_t len)
{
    ssize_t n = send(to, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    return n > 0 ? (size_t)n : 0;
}

/* What is there, without waiting; *ended: the stream's end (or a reset) was reached. */
static inline size_t
sockets_read_some(int from, void *room, size_t size, bool *ended)
{
    ssize_t n = recv(from, room, size, MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK))
        *ended = true;
    return n > 0 ? (size_t)n : 0;
}

#endif
