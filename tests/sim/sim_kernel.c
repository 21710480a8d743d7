/* What a kernel makes of the operations on sockets that the relay has submitted, and when it tells
 * of them. Kept close to io_uring: see the comments of core/io_uring.c. */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_net_private.h"

/* Buffers that one multishot receive fills before others have their turn. */
#define FILLS_MAX 32
#define SOON_NS 20000
#define LATE_NS (2 * NS_PER_MS)

static struct net_socket *
socket_at(int descriptor)
{
    struct net_socket *socket = sim_descriptor_at(descriptor)->socket;

    ASSERT(socket != NULL);
    return socket;
}

static bool
is_receive(enum sim_kind kind)
{
    return kind == SIM_RECEIVE || kind == SIM_RECEIVE_ONCE || kind == SIM_RECEIVE_SURE;
}

/* --- telling --- */

static void
done_now(void *context)
{
    struct sim_operation *done = context;

    if (is_receive(done->kind))
        done->socket->late--;
    sim_operation_done(done);
}

static uint8_t
op_of(enum sim_kind kind)
{
    switch (kind) {
    case SIM_ACCEPT: return IO_ACCEPT;
    case SIM_SEND: return IO_SEND;
    case SIM_CONNECT: return IO_CONNECT;
    case SIM_CANCEL: return IO_CANCEL;
    case SIM_POST: return IO_MESSAGE;
    default: return IO_RECEIVE;
    }
}

/* One completion of the operation; those of one receive stay in their order. */
static struct sim_operation *
tell(const struct sim_operation *of, int32_t result, bool last)
{
    struct sim_operation *done = calloc(1, sizeof(*done));
    bool late = net_fault(SIM_FAULT_ORDER, net.faults.order);
    uint64_t delay = late ? sim_between(&net.random, 1, LATE_NS) : 0;
    bool receive = is_receive(of->kind);

    ASSERT(done != NULL);
    done->io = of->io;
    done->kind = of->kind;
    done->descriptor = of->descriptor;
    done->socket = socket_at(of->descriptor);
    done->last = last;
    done->completion = (struct io_completion){ .ticket = of->ticket,
                                               .op = op_of(of->kind),
                                               .more = !last,
                                               .result = result,
                                               .buffer = BUFFER_NONE };
    if (receive && done->socket->late > 0 && delay < LATE_NS)
        delay = LATE_NS; /* and behind those that have it too */
    if (receive)
        done->socket->late++;
    if (delay == 0)
        done_now(done);
    else
        net_event_add(delay, done_now, done);
    return done;
}

static void
end_with(struct sim_operation **at, int32_t result)
{
    struct sim_operation *operation = *at;

    *at = NULL;
    tell(operation, result, true);
    sim_operation_free(operation);
}

void
sim_net_handed_out(struct io *io, const struct sim_operation *operation)
{
    const struct io_completion *completion = &operation->completion;
    struct net_socket *socket = operation->socket;

    if (operation->kind == SIM_POST)
        return;
    net_trace("handed out", (uint32_t)operation->descriptor, completion->result, NULL,
              (size_t)completion->op * 2 + completion->more);
    if (operation->buffer_taken) {
        struct sim_group *group = &io->groups[operation->kind == SIM_RECEIVE_SURE];

        ASSERT(group->offered > 0);
        group->offered--;
        if (completion->buffer == BUFFER_NONE)
            buffer_release(&io->buffers, operation->buffer);
        else if (socket->end != NULL)
            socket->end->taken += (uint64_t)completion->result;
    }
    if (operation->last && operation->kind != SIM_CANCEL) {
        ASSERT(socket->inflight > 0);
        socket->inflight--;
    }
}

/* --- buffers --- */

void
sim_net_offer(struct io *io)
{
    for (int i = 1; i >= 0; i--) {
        struct sim_group *group = &io->groups[i];

        while (group->offered < group->most) {
            uint32_t index = buffer_take(
                &io->buffers, group->offered < group->least ? group->reserve / 2 : group->reserve);

            if (index == BUFFER_NONE)
                break;
            /* Who still reads it sees this. */
            memset(buffer_memory(&io->buffers, index), 0xdb, BUFFER_BYTES);
            group->ring[(group->first + group->count++) % group->most] = index;
            group->offered++;
        }
    }
}

static uint32_t
ring_take(struct sim_group *group)
{
    uint32_t index = group->ring[group->first];

    ASSERT(group->count > 0);
    group->first = (group->first + 1) % group->most;
    group->count--;
    return index;
}

/* --- receiving --- */

static void
wakes(void *context)
{
    struct net_socket *socket = context;

    socket->waking = false;
    if (!socket->closed)
        net_socket_run(socket);
}

void
net_socket_wake(struct net_socket *socket)
{
    const struct sim_end *end = socket->end;

    if (socket->waking)
        return;
    /* Only the end of the stream is new, and that is what it does not see. */
    if (end != NULL && socket->receive != NULL && socket->receive->deaf && end->in.arrived.len == 0)
        return;
    socket->waking = true;
    net_event_add(sim_below(&net.random, SOON_NS), wakes, socket);
}

static bool
something_there(const struct sim_end *end)
{
    return end->in.arrived.len > 0 || (end->in.fin_arrived && !end->in.fin_taken) ||
           end->relay_reset || end->in.fin_taken;
}

static int
error_take(struct sim_end *end)
{
    int error = end->relay_error;

    end->relay_error = 0;
    return error;
}

/* What a receive for some octets may still take. True: nothing. */
static bool
operation_uses_up(struct sim_operation *operation, size_t len)
{
    bool limited = operation->len > 0;

    operation->len -= len < operation->len ? len : operation->len;
    return limited && operation->len == 0;
}

/* Octets into one buffer. False: the receive has ended. */
static bool
fill(struct net_socket *socket, struct sim_group *group)
{
    struct sim_operation *operation = socket->receive, *done;
    struct io *io = operation->io;
    struct net_octets *arrived = &socket->end->in.arrived;
    size_t len = arrived->len < BUFFER_BYTES ? arrived->len : BUFFER_BYTES;
    bool last = operation->kind == SIM_RECEIVE_ONCE || operation_uses_up(operation, len) ||
                net_fault(SIM_FAULT_MULTISHOT_ENDS, net.faults.multishot_ends);
    uint32_t index = ring_take(group);

    memcpy(buffer_memory(&io->buffers, index), arrived->data + arrived->start, len);
    octets_pop(arrived, len);
    net_trace("received", socket->end->number, (int64_t)len, buffer_memory(&io->buffers, index),
              len);
    done = tell(operation, (int32_t)len, last);
    done->completion.buffer = done->buffer = index;
    done->buffer_taken = true;
    net_in_kick(socket->end);
    if (last) {
        socket->receive = NULL;
        sim_operation_free(operation);
    }
    return !last;
}

/* A reset, or the end of the stream. */
static void
receive_end(struct net_socket *socket, struct sim_group *group)
{
    struct sim_end *end = socket->end;
    int error = end->relay_reset ? error_take(end) : 0;
    struct sim_operation *operation = socket->receive, *done;

    net_trace("receive ends", end->number, error, NULL, 0);
    socket->receive = NULL;
    done = tell(operation, -error, true);
    end->in.fin_taken = true;
    /* The end of the stream may come with a buffer, which then is empty. */
    if (error == 0 && sim_chance(&net.random, 5000)) {
        done->buffer = ring_take(group);
        done->buffer_taken = true;
    }
    sim_operation_free(operation);
}

static void
receive_run(struct net_socket *socket)
{
    struct sim_operation *operation = socket->receive;
    struct sim_end *end = socket->end;
    struct sim_group *group;

    if (operation == NULL || end == NULL || end->state == NET_CONNECTING)
        return;
    group = &operation->io->groups[operation->kind == SIM_RECEIVE_SURE];
    for (int i = 0; i < FILLS_MAX && something_there(end); i++) {
        if (group->count == 0 || net_fault(SIM_FAULT_NO_BUFFER, net.faults.no_buffer)) {
            end_with(&socket->receive, -ENOBUFS);
            return;
        }
        if (end->in.arrived.len == 0) {
            if (operation->deaf)
                return;
            receive_end(socket, group);
            return;
        }
        if (!fill(socket, group))
            return;
        if (net_fault(SIM_FAULT_END_MISSED, net.faults.end_missed))
            operation->deaf = true;
    }
    if (something_there(end))
        net_socket_wake(socket);
}

/* --- sending --- */

/* What is given to the kernel must stay as it is, and the list of its pieces too. */
static void
memory_check(const struct sim_operation *operation)
{
    const char *copy = operation->copy;

    ASSERT(operation->gather == NULL || operation->gather->count == operation->piece_count);
    for (uint32_t i = 0; i < operation->piece_count; i++) {
        const struct io_piece *piece = &operation->pieces[i];

        ASSERT(operation->gather == NULL || (operation->gather->pieces[i].data == piece->data &&
                                             operation->gather->pieces[i].len == piece->len));
        ASSERT(memcmp(copy, piece->data, piece->len) == 0);
        copy += piece->len;
    }
}

static void
copy_make(struct sim_operation *operation)
{
    char *copy = malloc(operation->len);

    ASSERT(copy != NULL);
    operation->copy = copy;
    for (uint32_t i = 0; i < operation->piece_count; i++) {
        memcpy(copy, operation->pieces[i].data, operation->pieces[i].len);
        copy += operation->pieces[i].len;
    }
}

static size_t
send_room(const struct sim_end *end)
{
    return end->out.sent.len < end->out.sent_window ? end->out.sent_window - end->out.sent.len : 0;
}

/* Some went, and then it broke: their number; else why. */
static void
send_breaks(struct net_socket *socket, int error)
{
    uint64_t sent = socket->send->sent;

    end_with(&socket->send, sent > 0 ? (int32_t)sent : -error);
}

void
net_send_run(struct net_socket *socket)
{
    struct sim_operation *operation = socket->send;
    struct sim_end *end = socket->end;
    size_t len, room;

    if (operation == NULL)
        return;
    memory_check(operation);
    if (end == NULL || end->state != NET_OPEN || socket->shut || end->relay_reset) {
        int error = end != NULL && end->relay_reset ? error_take(end) : 0;

        send_breaks(socket, error != 0 ? error : EPIPE);
        return;
    }
    room = send_room(end);
    len = operation->len - operation->sent < room ? operation->len - operation->sent : room;
    octets_push(&end->out.sent, operation->copy + operation->sent, len);
    operation->sent += len;
    net_trace("sends", end->number, (int64_t)len, operation->copy + operation->sent - len, len);
    if (operation->sent == operation->len)
        end_with(&socket->send, (int32_t)operation->len);
    net_out_kick(end);
}

static void
send_submit(struct sim_operation *operation)
{
    static const int errors[] = { ECONNRESET, EPIPE, ENOMEM };
    struct net_socket *socket = socket_at(operation->descriptor);
    struct sim_end *end = socket->end;
    int error;

    ASSERT(socket->send == NULL); /* two at a time would mix */
    ASSERT(end != NULL);
    copy_make(operation);
    socket->send = operation;
    if (!net_fault(SIM_FAULT_SEND, net.faults.send)) {
        net_send_run(socket);
        return;
    }
    error = errors[sim_below(&net.random, 3)];
    net_trace("send fails", end->number, error, NULL, 0);
    if (error != ENOMEM) {
        net_actor_reset_soon(end, ECONNRESET);
        net_relay_reset(end, error);
    }
    if (socket->send != NULL)
        send_breaks(socket, error);
}

static void
send_last_submit(struct sim_operation *operation)
{
    struct net_socket *socket = socket_at(operation->descriptor);
    struct sim_end *end = socket->end;

    ASSERT(end != NULL);
    if (end->state == NET_OPEN && !end->relay_reset) {
        size_t room = send_room(end), len = operation->len < room ? operation->len : room;

        net_trace("sends last", end->number, (int64_t)len, operation->pieces[0].data, len);
        octets_push(&end->out.sent, operation->pieces[0].data, len);
        net_out_kick(end);
    }
    sim_descriptor_close(operation->descriptor);
    sim_operation_free(operation);
}

/* --- accepting, connecting --- */

bool
net_socket_arrive(struct sim_end *end)
{
    struct net_socket *chosen = NULL;
    uint32_t count = 0;

    /* Which one of those that share the port. */
    for (struct net_socket *socket = net.sockets; socket != NULL; socket = socket->next)
        if (socket->listener && socket->port == end->port && sim_below(&net.random, ++count) == 0)
            chosen = socket;
    if (chosen == NULL)
        return false;
    end->next_waiting = NULL;
    *chosen->waiting_end = end;
    chosen->waiting_end = &end->next_waiting;
    net_socket_wake(chosen);
    return true;
}

static struct sim_end *
waiting_take(struct net_socket *listener)
{
    struct sim_end *end = listener->waiting;

    listener->waiting = end->next_waiting;
    if (listener->waiting == NULL)
        listener->waiting_end = &listener->waiting;
    return end;
}

static void
accept_run(struct net_socket *listener)
{
    static const int errors[] = { EMFILE, ENFILE, ECONNABORTED };

    while (listener->waiting != NULL && listener->accept != NULL) {
        struct sim_operation *operation = listener->accept;
        bool last = net_fault(SIM_FAULT_MULTISHOT_ENDS, net.faults.multishot_ends);
        int error, descriptor;

        if (net_fault(SIM_FAULT_ACCEPT, net.faults.accept)) {
            error = errors[sim_below(&net.random, 3)];
            net_trace("accept fails", (uint32_t)listener->descriptor, error, NULL, 0);
            if (error == ECONNABORTED)
                net_relay_closes(waiting_take(listener));
            end_with(&listener->accept, -error);
            return;
        }
        descriptor = net_socket_accepted(listener->waiting);
        if (descriptor < 0) {
            end_with(&listener->accept, descriptor);
            return;
        }
        net_trace("accepted", waiting_take(listener)->number, descriptor, NULL, 0);
        if (last)
            end_with(&listener->accept, descriptor);
        else
            tell(operation, descriptor, false);
    }
}

void
net_socket_connected(struct net_socket *socket, int result)
{
    if (socket->connect != NULL)
        end_with(&socket->connect, result);
}

void
net_socket_run(struct net_socket *socket)
{
    if (socket->listener)
        accept_run(socket);
    else
        receive_run(socket);
}

/* --- ending operations --- */

static uint32_t
end_canceled(struct sim_operation **at, const struct io *io)
{
    if (*at == NULL || (*at)->io != io)
        return 0;
    end_with(at, (*at)->sent > 0 ? (int32_t)(*at)->sent : -ECANCELED);
    return 1;
}

static void
cancel_submit(struct sim_operation *operation)
{
    struct net_socket *socket = socket_at(operation->descriptor);
    uint32_t count = 0;

    /* What has just come may be first. */
    if (sim_chance(&net.random, 5000))
        net_socket_run(socket);
    count += end_canceled(&socket->accept, operation->io);
    count += end_canceled(&socket->connect, operation->io);
    count += end_canceled(&socket->receive, operation->io);
    count += end_canceled(&socket->send, operation->io);
    tell(operation, (int32_t)count, true);
    /* What it ends is in flight, but not the cancel itself: it is done. */
    socket->inflight--;
    sim_operation_free(operation);
}

static bool
ticket_same(struct io_ticket a, struct io_ticket b)
{
    return a.slot == b.slot && a.generation == b.generation && a.kind == b.kind;
}

static void
stop_submit(struct sim_operation *stop)
{
    for (struct net_socket *socket = net.sockets; socket != NULL; socket = socket->next) {
        const struct sim_operation *receive = socket->receive;

        if (receive == NULL || receive->io != stop->io ||
            !ticket_same(receive->ticket, stop->ticket) ||
            (receive->kind == SIM_RECEIVE_SURE) != (stop->flags != 0))
            continue;
        if (sim_chance(&net.random, 3000))
            receive_run(socket);
        end_canceled(&socket->receive, stop->io);
        break;
    }
    sim_operation_free(stop);
}

/* --- between instances --- */

static void
post_arrives(void *context)
{
    sim_operation_done(context);
}

static void
post_submit(struct sim_operation *operation)
{
    operation->io = operation->target;
    operation->completion = (struct io_completion){ .ticket = operation->ticket,
                                                    .op = IO_MESSAGE,
                                                    .result = operation->result,
                                                    .buffer = BUFFER_NONE };
    net_event_add(sim_below(&net.random, SOON_NS), post_arrives, operation);
}

/* --- submission --- */

static void
receive_submit(struct sim_operation *operation)
{
    struct net_socket *socket = socket_at(operation->descriptor);

    ASSERT(socket->receive == NULL); /* two at a time would mix */
    ASSERT(!socket->listener);
    socket->receive = operation;
    if (socket->end != NULL && something_there(socket->end))
        net_socket_wake(socket);
}

static void
connect_submit(struct sim_operation *operation)
{
    struct net_socket *socket = socket_at(operation->descriptor);

    ASSERT(socket->end == NULL && !socket->listener);
    socket->connect = operation;
    net_relay_connect(socket, operation->port);
}

void
sim_net_submit(struct sim_operation *operation)
{
    struct net_socket *socket;

    switch (operation->kind) {
    case SIM_ACCEPT:
        socket = socket_at(operation->descriptor);
        ASSERT(socket->accept == NULL);
        socket->accept = operation;
        if (socket->waiting != NULL)
            net_socket_wake(socket);
        break;
    case SIM_RECEIVE:
    case SIM_RECEIVE_ONCE:
    case SIM_RECEIVE_SURE: receive_submit(operation); break;
    case SIM_RECEIVE_STOP: stop_submit(operation); break;
    case SIM_SEND: send_submit(operation); break;
    case SIM_SEND_LAST: send_last_submit(operation); break;
    case SIM_CONNECT: connect_submit(operation); break;
    case SIM_CANCEL: cancel_submit(operation); break;
    case SIM_POST: post_submit(operation); break;
    default: ASSERT(!"an operation on no socket");
    }
}

/* --- the end --- */

void
sim_socket_close(struct net_socket *socket)
{
    struct net_socket **at = &net.sockets;

    /* A relay that was told to end at once may still be accepting: its process ends. */
    if (socket->listener && socket->accept != NULL) {
        sim_operation_free(socket->accept);
        socket->accept = NULL;
        socket->inflight = 0;
    }
    ASSERT(socket->listener || socket->inflight == 0);
    while (socket->waiting != NULL) {
        struct sim_end *end = waiting_take(socket);

        end->relay_there = false;
        net_actor_reset_soon(end, ECONNRESET);
    }
    if (socket->end != NULL) {
        net_trace("relay closes", socket->end->number, 0, NULL, 0);
        net_relay_closes(socket->end);
    }
    socket->closed = true;
    while (*at != socket)
        at = &(*at)->next;
    *at = socket->next;
    socket->next = net.closed_sockets;
    net.closed_sockets = socket;
}

static void
nothing(void *context)
{
    (void)context;
}

static void
forget(struct sim_operation **at, const struct io *io)
{
    if (*at == NULL || (*at)->io != io)
        return;
    sim_operation_free(*at);
    *at = NULL;
}

void
sim_net_instance_forget(struct io *io)
{
    for (struct net_socket *socket = net.sockets; socket != NULL; socket = socket->next) {
        forget(&socket->accept, io);
        forget(&socket->connect, io);
        forget(&socket->receive, io);
        forget(&socket->send, io);
    }
    for (uint32_t i = 0; i < net.event_count; i++) {
        struct net_event *event = &net.events[i];

        if ((event->happen != done_now && event->happen != post_arrives) ||
            ((struct sim_operation *)event->context)->io != io)
            continue;
        sim_operation_free(event->context);
        event->happen = nothing;
    }
}

static void
power_gone(struct sim_end *end)
{
    end->socket = NULL;
    end->relay_there = false;
    octets_clear(&end->in.arrived);
    octets_clear(&end->in.sent);
    if (end->state != NET_OPEN || end->relay_reset) {
        end->state = end->relay_began ? NET_GONE : end->state;
        return;
    }
    net_actor_reset_later(end, ECONNRESET);
}

void
sim_net_machine_gone(bool power)
{
    while (net.sockets != NULL) {
        struct net_socket *socket = net.sockets;

        for (struct io *io = sim.instances; io != NULL; io = io->next) {
            forget(&socket->accept, io);
            forget(&socket->connect, io);
            forget(&socket->receive, io);
            forget(&socket->send, io);
        }
        socket->inflight = 0;
        while (power && socket->waiting != NULL)
            power_gone(waiting_take(socket));
        if (power && socket->end != NULL) {
            power_gone(socket->end);
            socket->end = NULL;
        }
        sim_socket_close(socket);
    }
}
