/* Octets on their way between an actor and a socket of the relay: moved in pieces, with delays,
 * stalls and resets by seed; and what becomes of them when one of the two closes. */
#include <errno.h>
#include <stdlib.h>

#include "tests/sim/sim_net_private.h"

#define STALL_NS (30 * NS_PER_S)
#define MERGE_NS (50 * NS_PER_MS)

/* --- queues --- */

void
octets_push(struct net_octets *octets, const char *data, size_t len)
{
    if (len == 0)
        return;
    if (octets->start > 0 && octets->start + octets->len + len > octets->room) {
        memmove(octets->data, octets->data + octets->start, octets->len);
        octets->start = 0;
    }
    if (octets->len + len > octets->room) {
        octets->room = (octets->len + len) * 2;
        octets->data = realloc(octets->data, octets->room);
        ASSERT(octets->data != NULL);
    }
    memcpy(octets->data + octets->start + octets->len, data, len);
    octets->len += len;
}

static const char *
octets_front(const struct net_octets *octets)
{
    return octets->data == NULL ? NULL : octets->data + octets->start;
}

void
octets_pop(struct net_octets *octets, size_t len)
{
    ASSERT(len <= octets->len);
    octets->start += len;
    octets->len -= len;
    if (octets->len == 0)
        octets->start = 0;
}

void
octets_clear(struct net_octets *octets)
{
    free(octets->data);
    *octets = (struct net_octets){ 0 };
}

/* --- one move --- */

/* Octets that go now. SIZE_MAX: the move was put off (again: when). */
static size_t
piece_draw(struct net_flow *flow, size_t room, uint64_t *again_ns)
{
    size_t len = flow->sent.len < room ? flow->sent.len : room;

    *again_ns = 0;
    if (net_fault(SIM_FAULT_STALL, net.faults.stall)) {
        *again_ns = sim_between(&net.random, NS_PER_MS, STALL_NS);
        return SIZE_MAX;
    }
    if (!flow->merged && net_fault(SIM_FAULT_MERGE, net.faults.merge)) {
        flow->merged = true;
        *again_ns = sim_between(&net.random, NS_PER_MS, MERGE_NS);
        return SIZE_MAX;
    }
    flow->merged = false;
    if (len > 1 && net_fault(SIM_FAULT_SPLIT, net.faults.split))
        len = 1 + sim_below(&net.random, sim_chance(&net.random, 5000) && len > 8 ? 8 : len);
    return len;
}

static bool
flow_can_move(const struct net_flow *flow, size_t room)
{
    return (flow->sent.len > 0 && room > 0) ||
           (flow->sent.len == 0 && flow->fin && !flow->fin_arrived);
}

/* --- towards the relay --- */

static size_t
in_room(const struct sim_end *end)
{
    const struct net_flow *in = &end->in;

    /* What comes to a closed socket is answered with a reset: it needs no room. */
    if (!end->relay_there)
        return SIZE_MAX;
    return in->arrived.len < in->arrived_window ? in->arrived_window - in->arrived.len : 0;
}

static void
in_moves(void *context)
{
    struct sim_end *end = context;
    struct net_flow *in = &end->in;
    size_t had = in->sent.len, len;
    uint64_t again_ns;

    in->moving = false;
    if (end->relay_reset || end->state != NET_OPEN || !flow_can_move(in, in_room(end)))
        return;
    if (net_fault(SIM_FAULT_RESET, net.faults.reset)) {
        net_relay_reset(end, ECONNRESET);
        net_actor_reset(end, ECONNRESET);
        return;
    }
    len = piece_draw(in, in_room(end), &again_ns);
    if (len == SIZE_MAX) {
        in->moving = true;
        net_event_add(again_ns, in_moves, end);
        return;
    }
    if (!end->relay_there && (len > 0 || in->fin)) {
        octets_pop(&in->sent, len);
        in->fin_arrived = in->fin && in->sent.len == 0;
        if (len > 0)
            net_actor_reset(end, ECONNRESET);
        return;
    }
    net_trace("to the relay", end->number, (int64_t)len, octets_front(&in->sent), len);
    octets_push(&in->arrived, octets_front(&in->sent), len);
    octets_pop(&in->sent, len);
    in->fin_arrived = in->fin && in->sent.len == 0;
    if (end->socket != NULL)
        net_socket_wake(end->socket);
    if (had > 0 && in->sent.len == 0 && end->actor_there && end->actor->sent != NULL)
        end->actor->sent(end->context, end);
    net_in_kick(end);
}

void
net_in_kick(struct sim_end *end)
{
    if (end->in.moving || end->state != NET_OPEN || !flow_can_move(&end->in, in_room(end)))
        return;
    end->in.moving = true;
    net_event_add(net_delay(end), in_moves, end);
}

/* --- towards the actor --- */

static void
deliver(void *context)
{
    struct sim_end *end = context;
    struct net_flow *out = &end->out;

    out->delivering = false;
    if (!end->actor_there || end->paused)
        return;
    if (out->arrived.len > 0) {
        struct net_octets taken = out->arrived;

        out->arrived = (struct net_octets){ 0 };
        end->received += taken.len;
        net_out_kick(end);
        end->actor->received(end->context, end, taken.data + taken.start, taken.len);
        octets_clear(&taken);
    }
    if (!end->actor_there || end->paused || out->arrived.len > 0)
        return;
    if (out->fin_arrived && !out->fin_taken) {
        out->fin_taken = true;
        net_trace("relay's end", end->number, 0, NULL, 0);
        end->actor->ended(end->context, end);
    }
}

void
net_deliver_soon(struct sim_end *end)
{
    if (end->out.delivering)
        return;
    end->out.delivering = true;
    net_event_add(0, deliver, end);
}

static size_t
out_room(const struct sim_end *end)
{
    const struct net_flow *out = &end->out;

    if (!end->actor_there)
        return SIZE_MAX;
    return out->arrived.len < out->arrived_window ? out->arrived_window - out->arrived.len : 0;
}

static void
out_moves(void *context)
{
    struct sim_end *end = context;
    struct net_flow *out = &end->out;
    uint64_t again_ns;
    size_t len;

    out->moving = false;
    if (end->state != NET_OPEN || !flow_can_move(out, out_room(end)))
        return;
    if (net_fault(SIM_FAULT_RESET, net.faults.reset)) {
        net_relay_reset(end, ECONNRESET);
        net_actor_reset(end, ECONNRESET);
        return;
    }
    len = piece_draw(out, out_room(end), &again_ns);
    if (len == SIZE_MAX) {
        out->moving = true;
        net_event_add(again_ns, out_moves, end);
        return;
    }
    net_trace(end->actor_there ? "to the actor" : "to nobody", end->number, (int64_t)len,
              octets_front(&out->sent), len);
    if (end->actor_there)
        octets_push(&out->arrived, octets_front(&out->sent), len);
    octets_pop(&out->sent, len);
    out->fin_arrived = out->fin && out->sent.len == 0;
    if (!end->actor_there && len > 0) {
        net_relay_reset(end, ECONNRESET);
        return;
    }
    if (end->socket != NULL)
        net_send_run(end->socket);
    net_out_kick(end);
    deliver(end);
}

void
net_out_kick(struct sim_end *end)
{
    if (end->out.moving || end->state != NET_OPEN || !flow_can_move(&end->out, out_room(end)))
        return;
    end->out.moving = true;
    net_event_add(net_delay(end), out_moves, end);
}

/* --- the end --- */

void
net_relay_reset(struct sim_end *end, int error)
{
    if (end->relay_reset || !end->relay_there || end->state == NET_CONNECTING)
        return;
    net_trace("reset to the relay", end->number, error, NULL, 0);
    end->relay_reset = true;
    end->relay_error = error;
    octets_clear(&end->in.sent);
    octets_clear(&end->out.sent);
    if (end->socket != NULL) {
        net_send_run(end->socket);
        net_socket_wake(end->socket);
    }
}

void
net_actor_reset(struct sim_end *end, int error)
{
    if (!end->actor_there || end->state != NET_OPEN)
        return;
    net_trace("reset to the actor", end->number, error, NULL, 0);
    end->actor_there = false;
    octets_clear(&end->out.arrived);
    octets_clear(&end->out.sent);
    end->actor->broken(end->context, end, error);
}

static void
actor_reset_arrives(void *context)
{
    struct sim_end *end = context;

    net_actor_reset(end, end->actor_error);
}

static void
actor_reset_after(struct sim_end *end, int error, uint64_t delay_ns)
{
    struct net_octets *sent = &end->out.sent;

    end->actor_error = error;
    sent->len = sent->len == 0 ? 0 : sim_below(&net.random, sent->len + 1);
    end->out.fin = false;
    net_event_add(delay_ns, actor_reset_arrives, end);
}

void
net_actor_reset_soon(struct sim_end *end, int error)
{
    actor_reset_after(end, error, net_delay(end) * 2);
}

void
net_actor_reset_later(struct sim_end *end, int error)
{
    actor_reset_after(end, error, sim_between(&net.random, NS_PER_MS, 5 * NS_PER_S));
}

void
net_relay_closes(struct sim_end *end)
{
    bool unread = end->in.arrived.len > 0;

    end->socket = NULL;
    end->relay_there = false;
    octets_clear(&end->in.arrived);
    if (end->state != NET_OPEN) {
        end->state = NET_GONE;
        return;
    }
    if (end->relay_reset)
        return;
    /* With octets that nobody has read a kernel resets instead of ending the stream. */
    if (unread) {
        net_actor_reset_soon(end, ECONNRESET);
        return;
    }
    end->out.fin = true;
    net_out_kick(end);
    net_in_kick(end);
}
