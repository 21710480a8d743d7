/* Apart from stats_server.c, so that the server itself goes through core/io.h like everything
 * else. */
#include "relay/stats/stats_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "core/io.h"

static socklen_t
address_fill(const struct config_address *address, struct sockaddr_storage *out)
{
    struct sockaddr_un *un = (struct sockaddr_un *)(void *)out;

    memset(out, 0, sizeof(*out));
    if (address->family == CONFIG_ADDRESS_IPV4) {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)out;

        in->sin_family = AF_INET;
        in->sin_port = htons(address->port);
        memcpy(&in->sin_addr, address->ip, 4);
        return sizeof(*in);
    }
    if (address->family == CONFIG_ADDRESS_IPV6) {
        struct sockaddr_in6 *in = (struct sockaddr_in6 *)(void *)out;

        in->sin6_family = AF_INET6;
        in->sin6_port = htons(address->port);
        memcpy(&in->sin6_addr, address->ip, 16);
        return sizeof(*in);
    }
    un->sun_family = AF_UNIX;
    snprintf(un->sun_path, sizeof(un->sun_path), "%s", address->path);
    return sizeof(*un);
}

/* --- listening --- */

/* True only for a socket file on which nobody answers: any other file, and a listener that is
 * merely busy, is left alone. */
static bool
path_is_stale(const struct config_address *address)
{
    struct sockaddr_storage where;
    socklen_t len = address_fill(address, &where);
    struct stat status;
    bool refused;
    int probe;

    if (lstat(address->path, &status) != 0 || !S_ISSOCK(status.st_mode))
        return false;
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return false;
    refused = connect(probe, (struct sockaddr *)&where, len) != 0 && errno == ECONNREFUSED;
    close(probe);
    return refused;
}

/* The kernel may still be taking down the listener of a process that was killed a moment ago. */
#define STALE_TRIES 20
#define STALE_PAUSE_MS 50

static int
listen_unix(const struct config_address *address, bool private)
{
    const struct timespec pause = { .tv_nsec = STALE_PAUSE_MS * 1000000 };
    mode_t before = umask(private ? 0177 : 0111);
    int result = io_listen(address, false);

    for (int i = 0; i < STALE_TRIES && result == -EADDRINUSE; i++) {
        if (path_is_stale(address) && unlink(address->path) == 0)
            result = io_listen(address, false);
        else
            nanosleep(&pause, NULL);
    }
    umask(before);
    return result;
}

int
stats_listen(const struct config_address *address, bool private, struct stats_listener *out)
{
    bool local = address->family == CONFIG_ADDRESS_UNIX;
    struct stat status;
    int result = local ? listen_unix(address, private) : io_listen(address, false);

    *out = (struct stats_listener){ .descriptor = result };
    if (result < 0)
        return result;
    if (local && lstat(address->path, &status) == 0) {
        out->path = address->path;
        out->path_device = status.st_dev;
        out->path_inode = status.st_ino;
    }
    return 0;
}

void
stats_unlisten(struct stats_listener *listener)
{
    struct stat status;

    if (listener->descriptor < 0)
        return;
    if (listener->path != NULL && lstat(listener->path, &status) == 0 &&
        status.st_dev == listener->path_device && status.st_ino == listener->path_inode)
        unlink(listener->path);
    close(listener->descriptor);
    listener->descriptor = -1;
}

/* --- waking --- */

int
stats_wake_pair(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : -errno;
}

void
stats_wake(int end)
{
    /* The other end learns of it as the end of the stream, which cannot fail for lack of room. */
    shutdown(end, SHUT_WR);
}

/* --- blocking --- */

int
stats_connect(const struct config_address *address, unsigned timeout_ms)
{
    struct timeval timeout = { .tv_sec = timeout_ms / 1000,
                              .tv_usec = (long)(timeout_ms % 1000) * 1000};
    struct sockaddr_storage where;
    socklen_t len = address_fill(address, &where);
    int error, result = socket(where.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (result < 0)
        return -errno;
    setsockopt(result, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)); /* connect() too */
    setsockopt(result, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (connect(result, (struct sockaddr *)&where, len) == 0)
        return result;
    error = errno;
    close(result);
    return -error;
}

int
stats_send(int socket, struct span data)
{
    while (data.len > 0) {
        ssize_t n = send(socket, data.data, data.len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        span_advance(&data, (size_t)n);
    }
    return 0;
}

long
stats_receive(int socket, char *data, size_t size)
{
    ssize_t n;

    do
        n = recv(socket, data, size, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}
