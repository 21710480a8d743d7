/* What a peer has acknowledged. Apart from io_uring.c because the kernel's own tcp_info, newer than
 * the C library's, cannot be included beside <netinet/tcp.h>. */
#include <linux/tcp.h>
#include <stddef.h>
#include <sys/socket.h>

#include <netinet/in.h>

#include "core/io.h"

bool
io_acknowledged(int socket, uint64_t *octets)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);

    if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
        len < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
        return false;
    *octets = info.tcpi_bytes_acked;
    return true;
}
