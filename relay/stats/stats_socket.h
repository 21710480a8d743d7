/* stats_socket: the few system calls that statistics need beyond core/io.h.
 * Does:    listens on Unix sockets (mode, stale files) and TCP; connects for `ringpost stats`; a
 *          pair of sockets by which one thread wakes another that waits in io_wait().
 * Owns:    nothing; descriptors and paths are the caller's.
 * Memory:  none allocated.
 * Threads: any; listening changes the umask for a moment: only while no other thread makes files.
 * Errors:  results are descriptors or negative errno values.
 */
#ifndef RINGPOST_RELAY_STATS_STATS_SOCKET_H
#define RINGPOST_RELAY_STATS_STATS_SOCKET_H

#include "core/config.h"

struct stats_listener {
    int descriptor;               /* -1: none */
    const char *path;             /* of a Unix socket, else NULL; borrowed */
    uint64_t path_device, path_inode; /* the file we made: only that one is removed */
};

/* Returns 0 or a negative errno: -EADDRINUSE when somebody answers there. A Unix socket on
 * which nobody answers (left by a crash) is replaced. Everybody may connect to a Unix socket
 * (mode 0666): the numbers are no secret on the machine, and the directory's mode can restrict
 * it; private: only our own user (mode 0600). */
MUST_USE int stats_listen(const struct config_address *address, bool private,
                          struct stats_listener *out);
/* Closes, and removes the Unix socket unless another has taken its place. */
void stats_unlisten(struct stats_listener *listener);

/* ends[0] is waited on, ends[1] wakes. Returns 0 or a negative errno. */
MUST_USE int stats_wake_pair(int ends[2]);
void stats_wake(int end);

/* --- blocking, for the command line --- */
/* A connected socket whose sends and receives give up after timeout_ms. */
MUST_USE int stats_connect(const struct config_address *address, unsigned timeout_ms);
/* All of it: 0 or a negative errno. */
MUST_USE int stats_send(int socket, struct span data);
/* Up to size bytes; 0: the end. */
MUST_USE long stats_receive(int socket, char *data, size_t size);

#endif
