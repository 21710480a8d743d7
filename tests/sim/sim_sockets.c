/* core/io.h's sockets: the spool uses none, and a simulation that comes to one has gone wrong. The
 * simulation of the whole relay puts its network here; queue, time and completions are sim_io.c's.
 */
#include "tests/sim/sim_private.h"

#define NO_SOCKETS() ASSERT(!"the simulated machine has no network")

void
io_accept(struct io *io, struct io_ticket ticket, int listener)
{
    (void)io, (void)ticket, (void)listener;
    NO_SOCKETS();
}

void
io_receive(struct io *io, struct io_ticket ticket, int socket)
{
    (void)io, (void)ticket, (void)socket;
    NO_SOCKETS();
}

void
io_receive_sure(struct io *io, struct io_ticket ticket, int socket)
{
    (void)io, (void)ticket, (void)socket;
    NO_SOCKETS();
}

void
io_receive_stop(struct io *io, struct io_ticket ticket, bool sure)
{
    (void)io, (void)ticket, (void)sure;
    NO_SOCKETS();
}

bool
io_buffers_left(const struct io *io, bool sure)
{
    (void)sure;
    return io->buffers.free_count > 0;
}

void
io_send(struct io *io, struct io_ticket ticket, int socket, struct span data)
{
    (void)io, (void)ticket, (void)socket, (void)data;
    NO_SOCKETS();
}

void
io_send_gather(struct io *io, struct io_ticket ticket, int socket, struct io_gather *gather)
{
    (void)io, (void)ticket, (void)socket, (void)gather;
    NO_SOCKETS();
}

void
io_connect(struct io *io, struct io_ticket ticket, int socket, const struct config_address *to)
{
    (void)io, (void)ticket, (void)socket, (void)to;
    NO_SOCKETS();
}

void
io_shutdown(struct io *io, int socket)
{
    (void)io, (void)socket;
    NO_SOCKETS();
}

void
io_cancel(struct io *io, struct io_ticket ticket, int socket)
{
    (void)io, (void)ticket, (void)socket;
    NO_SOCKETS();
}

void
io_send_last(struct io *io, int socket, struct span data)
{
    (void)io, (void)socket, (void)data;
    NO_SOCKETS();
}

void
io_post(struct io *io, struct io *target, struct io_ticket ticket, int32_t result)
{
    (void)io, (void)target, (void)ticket, (void)result;
    NO_SOCKETS();
}

int
io_listen(const struct config_address *address, bool share_port)
{
    (void)address, (void)share_port;
    NO_SOCKETS();
    return -1;
}

int
io_socket(const struct config_address *to)
{
    (void)to;
    NO_SOCKETS();
    return -1;
}

bool
io_peer(int socket, struct io_peer *peer)
{
    (void)socket, (void)peer;
    NO_SOCKETS();
    return false;
}

uint16_t
io_port(int socket)
{
    (void)socket;
    NO_SOCKETS();
    return 0;
}
