/* core/io.h's operations on sockets: as they are queued, and what is done at once. What a kernel
 * makes of them is in sim_kernel.c. */
#include <errno.h>
#include <stdlib.h>

#include "core/config.h"
#include "tests/sim/sim_net_private.h"

static struct net_socket *
socket_at(int descriptor)
{
    struct net_socket *socket = sim_descriptor_at(descriptor)->socket;

    ASSERT(socket != NULL);
    return socket;
}

/* One whose completion is handed out. */
static struct sim_operation *
queue(struct io *io, struct io_ticket ticket, enum sim_kind kind, int descriptor)
{
    socket_at(descriptor)->inflight++;
    return sim_operation_queue(io, ticket, kind, descriptor);
}

void
io_accept(struct io *io, struct io_ticket ticket, int listener)
{
    ASSERT(socket_at(listener)->listener);
    queue(io, ticket, SIM_ACCEPT, listener);
}

void
io_receive(struct io *io, struct io_ticket ticket, int socket)
{
    queue(io, ticket, SIM_RECEIVE, socket);
}

void
io_receive_some(struct io *io, struct io_ticket ticket, int socket)
{
    queue(io, ticket, SIM_RECEIVE, socket)->len = RECEIVE_BYTES_MOST;
}

void
io_receive_once(struct io *io, struct io_ticket ticket, int socket)
{
    queue(io, ticket, SIM_RECEIVE_ONCE, socket);
}

void
io_receive_sure(struct io *io, struct io_ticket ticket, int socket)
{
    queue(io, ticket, SIM_RECEIVE_SURE, socket);
}

void
io_receive_stop(struct io *io, struct io_ticket ticket, bool sure)
{
    sim_operation_queue(io, ticket, SIM_RECEIVE_STOP, -1)->flags = sure;
}

bool
io_buffers_left(const struct io *io, bool sure)
{
    const struct sim_group *group = &io->groups[sure];

    return group->offered > 0 ||
           io->buffers.free_count > (group->least > 0 ? group->reserve / 2 : group->reserve);
}

uint32_t
io_receive_left(const struct io *io)
{
    const struct sim_group *group = &io->groups[0];
    uint32_t free_count = io->buffers.free_count;

    return group->offered + (free_count > group->reserve ? free_count - group->reserve : 0);
}

void
io_send(struct io *io, struct io_ticket ticket, int socket, struct span data)
{
    struct sim_operation *operation = queue(io, ticket, SIM_SEND, socket);

    ASSERT(data.len > 0);
    operation->pieces[0] = (struct io_piece){ data.data, data.len };
    operation->piece_count = 1;
    operation->len = data.len;
}

void
io_send_gather(struct io *io, struct io_ticket ticket, int socket, struct io_gather *gather)
{
    struct sim_operation *operation = queue(io, ticket, SIM_SEND, socket);

    ASSERT(gather->count > 0 && gather->count <= IO_PIECES_MAX);
    for (uint32_t i = 0; i < gather->count; i++) {
        ASSERT(gather->pieces[i].len > 0);
        operation->pieces[i] = gather->pieces[i];
        operation->len += gather->pieces[i].len;
    }
    operation->piece_count = gather->count;
    operation->gather = gather;
}

void
io_connect(struct io *io, struct io_ticket ticket, int socket, const struct config_address *to)
{
    struct sim_operation *operation = queue(io, ticket, SIM_CONNECT, socket);

    ASSERT(to->family == CONFIG_ADDRESS_IPV4 || to->family == CONFIG_ADDRESS_IPV6);
    operation->port = to->port;
}

/* A system call of its own, and not queued, as in core/io_uring.c. */
void
io_shutdown(struct io *io, int socket)
{
    struct net_socket *shut = socket_at(socket);

    (void)io;
    if (shut->end == NULL || shut->shut)
        return;
    net_trace("relay shuts", shut->end->number, 0, NULL, 0);
    shut->shut = true;
    shut->end->out.fin = true;
    net_send_run(shut);
    net_out_kick(shut->end);
}

void
io_cancel(struct io *io, struct io_ticket ticket, int socket)
{
    queue(io, ticket, SIM_CANCEL, socket);
}

void
io_send_last(struct io *io, int socket, struct span data)
{
    struct sim_operation *operation =
        sim_operation_queue(io, (struct io_ticket){ 0 }, SIM_SEND_LAST, socket);

    ASSERT(socket_at(socket)->inflight == 0);
    operation->pieces[0] = (struct io_piece){ data.data, data.len };
    operation->piece_count = 1;
    operation->len = data.len;
}

void
io_post(struct io *io, struct io *target, struct io_ticket ticket, int32_t result)
{
    struct sim_operation *operation = sim_operation_queue(io, ticket, SIM_POST, -1);

    operation->target = target;
    operation->result = result;
}

/* --- at once --- */

static int
socket_new(bool listener)
{
    struct net_socket *socket = calloc(1, sizeof(*socket));
    int descriptor;

    ASSERT(socket != NULL);
    descriptor = sim_descriptor_new((struct sim_descriptor){ .socket = socket });
    if (descriptor < 0) {
        free(socket);
        return descriptor;
    }
    socket->descriptor = descriptor;
    socket->listener = listener;
    socket->waiting_end = &socket->waiting;
    socket->next = net.sockets;
    net.sockets = socket;
    return descriptor;
}

int
io_listen(const struct config_address *address, bool share_port)
{
    uint16_t port = address->port;
    int descriptor;

    ASSERT(net.there);
    for (const struct net_socket *other = net.sockets; other != NULL; other = other->next)
        if (other->listener && other->port == port && port != 0 && !(share_port && other->shared))
            return -EADDRINUSE;
    descriptor = socket_new(true);
    if (descriptor < 0)
        return descriptor;
    if (port == 0)
        port = net.next_port++;
    socket_at(descriptor)->port = port;
    socket_at(descriptor)->shared = share_port;
    return descriptor;
}

int
io_socket(const struct config_address *to)
{
    ASSERT(net.there);
    ASSERT(to->family == CONFIG_ADDRESS_IPV4 || to->family == CONFIG_ADDRESS_IPV6);
    return socket_new(false);
}

int
net_socket_accepted(struct sim_end *end)
{
    int descriptor = socket_new(false);

    if (descriptor < 0)
        return descriptor;
    socket_at(descriptor)->end = end;
    end->socket = socket_at(descriptor);
    return descriptor;
}

bool
io_peer(int socket, struct io_peer *peer)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    const struct sim_end *end = socket_at(socket)->end;

    *peer = (struct io_peer){ 0 };
    /* After a reset a kernel does not know any more who that was. */
    if (end == NULL || end->relay_reset)
        return false;
    memcpy(peer->ip, mapped, sizeof(mapped));
    for (int i = 0; i < 4; i++)
        peer->ip[12 + i] = (uint8_t)(end->from_ipv4 >> (24 - 8 * i));
    peer->port = end->from_port;
    return true;
}

uint32_t
io_receive_waits(int socket)
{
    const struct sim_end *end = socket_at(socket)->end;

    return end != NULL ? (uint32_t)end->in.arrived.len : 0;
}

bool
io_acknowledged(int socket, uint64_t *octets)
{
    const struct sim_end *end = socket_at(socket)->end;

    *octets = end != NULL ? end->received + end->out.arrived.len : 0;
    return end != NULL;
}

uint16_t
io_port(int socket)
{
    return socket_at(socket)->port;
}
