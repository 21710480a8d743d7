/* The network's world: what comes next, chances, the actors' calls. How octets get from one end to
 * the other is in sim_wire.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim_net_private.h"

#define CONNECT_TIMEOUT_NS (127 * NS_PER_S)
/* Octets of a piece that a verbose trace shows. */
#define SHOWN_BYTES 60
#define FIRST_PORT 20000

struct net net;

/* --- chances, and what is told --- */

bool
net_fault(enum sim_event event, uint32_t chance)
{
    return sim_fault(&net.random, event, chance);
}

static void
show(const char *data, size_t len)
{
    fputs(" \"", stderr);
    for (size_t i = 0; i < len && i < SHOWN_BYTES; i++) {
        unsigned char c = (unsigned char)data[i];

        if (c == '\r' || c == '\n')
            fputs(c == '\r' ? "\\r" : "\\n", stderr);
        else if (c < ' ' || c > '~' || c == '"' || c == '\\')
            fprintf(stderr, "\\x%02x", c);
        else
            fputc(c, stderr);
    }
    fputs(len > SHOWN_BYTES ? "\"..." : "\"", stderr);
}

void
net_trace(const char *what, uint32_t number, int64_t result, const char *data, size_t len)
{
    uint64_t hash = sim.hash;

    for (const char *c = what; *c != '\0'; c++)
        hash = sim_mix(hash ^ (unsigned char)*c) + 1;
    hash = sim_mix(hash ^ number) + 1;
    hash = sim_mix(hash ^ (uint64_t)result) + 1;
    hash = sim_mix(hash ^ sim.now_ns) + 1;
    for (size_t i = 0; i < len && data != NULL; i++)
        hash = (hash ^ (unsigned char)data[i]) * UINT64_C(0x100000001b3);
    sim.hash = sim_mix(hash ^ len) + 1;
    if (!sim.verbose)
        return;
    fprintf(stderr, "%12.6f #%u %s %lld", (double)sim.now_ns / 1e9, number, what,
            (long long)result);
    if (data != NULL)
        show(data, len);
    fputc('\n', stderr);
}

/* --- what comes next --- */

static bool
event_before(const struct net_event *a, const struct net_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->number < b->number;
}

static void
event_at(uint64_t at_ns, void (*happen)(void *context), void *context)
{
    uint32_t at = net.event_count++;
    struct net_event event = { .at_ns = at_ns < sim.now_ns ? sim.now_ns : at_ns,
                               .number = ++net.event_number,
                               .happen = happen,
                               .context = context };

    if (net.event_count > net.event_room) {
        net.event_room = net.event_room == 0 ? 256 : net.event_room * 2;
        net.events = realloc(net.events, net.event_room * sizeof(event));
        ASSERT(net.events != NULL);
    }
    while (at > 0 && event_before(&event, &net.events[(at - 1) / 2])) {
        net.events[at] = net.events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    net.events[at] = event;
}

void
net_event_add(uint64_t delay_ns, void (*happen)(void *context), void *context)
{
    event_at(sim.now_ns + delay_ns, happen, context);
}

static struct net_event
event_take(void)
{
    struct net_event first = net.events[0], last = net.events[--net.event_count];
    uint32_t at = 0;

    for (;;) {
        uint32_t child = 2 * at + 1;

        if (child + 1 < net.event_count && event_before(&net.events[child + 1], &net.events[child]))
            child++;
        if (child >= net.event_count || !event_before(&net.events[child], &last))
            break;
        net.events[at] = net.events[child];
        at = child;
    }
    net.events[at] = last;
    return first;
}

bool
sim_net_there(void)
{
    return net.there;
}

uint64_t
sim_net_next_ns(void)
{
    return net.event_count == 0 ? UINT64_MAX : net.events[0].at_ns;
}

void
sim_net_step(void)
{
    struct net_event event = event_take();

    if (event.at_ns > sim.now_ns)
        sim.now_ns = event.at_ns;
    event.happen(event.context);
}

struct timer_call {
    void (*fire)(void *context);
    void *context;
};

static void
timer_happens(void *context)
{
    struct timer_call call = *(struct timer_call *)context;

    free(context);
    call.fire(call.context);
}

void
sim_net_at(uint64_t at_ns, void (*fire)(void *context), void *context)
{
    struct timer_call *call = malloc(sizeof(*call));

    ASSERT(call != NULL);
    *call = (struct timer_call){ fire, context };
    event_at(at_ns, timer_happens, call);
}

/* --- the world --- */

void
sim_net_start(uint64_t seed)
{
    ASSERT(!net.there);
    net = (struct net){ .there = true, .random = sim_random_of(seed, 3), .next_port = FIRST_PORT };
}

static void
sockets_free(struct net_socket *socket)
{
    while (socket != NULL) {
        struct net_socket *next = socket->next;

        free(socket);
        socket = next;
    }
}

static void
flow_free(struct net_flow *flow)
{
    octets_clear(&flow->sent);
    octets_clear(&flow->arrived);
}

/* Before sim_end(), or after it. */
void
sim_net_end(void)
{
    sim_net_machine_gone(true);
    for (uint32_t i = 0; i < net.event_count; i++)
        if (net.events[i].happen == timer_happens)
            free(net.events[i].context);
    free(net.events);
    sockets_free(net.closed_sockets);
    while (net.ends != NULL) {
        struct sim_end *end = net.ends;

        net.ends = end->next;
        flow_free(&end->in);
        flow_free(&end->out);
        free(end);
    }
    while (net.places != NULL) {
        struct net_place *place = net.places;

        net.places = place->next;
        free(place);
    }
    net = (struct net){ 0 };
}

void
sim_net_faults_set(const struct sim_net_faults *faults)
{
    net.faults = faults == NULL ? (struct sim_net_faults){ 0 } : *faults;
}

uint32_t
sim_net_relay_sockets(void)
{
    uint32_t count = 0;

    for (const struct net_socket *socket = net.sockets; socket != NULL; socket = socket->next)
        count += socket->end != NULL;
    return count;
}

/* --- connections --- */

static uint64_t
delay_draw(void)
{
    switch (sim_below(&net.random, 8)) {
    case 0:
    case 1:
    case 2: return sim_between(&net.random, 5 * 1000, 100 * 1000);
    case 7: return sim_between(&net.random, 5 * NS_PER_MS, 200 * NS_PER_MS);
    default: return sim_between(&net.random, 100 * 1000, 5 * NS_PER_MS);
    }
}

uint64_t
net_delay(const struct sim_end *end)
{
    return end->delay_ns + sim_below(&net.random, end->delay_ns);
}

static size_t
window_draw(void)
{
    return (size_t)1024 << sim_below(&net.random, 9);
}

struct sim_end *
net_end_new(uint32_t from_ipv4, uint16_t port)
{
    struct sim_end *end = calloc(1, sizeof(*end));

    ASSERT(end != NULL);
    end->number = ++net.end_count;
    end->from_ipv4 = from_ipv4;
    end->from_port = net.next_port++;
    if (net.next_port == 0)
        net.next_port = FIRST_PORT;
    end->port = port;
    end->in.sent_window = SIZE_MAX;
    end->in.arrived_window = window_draw();
    end->out.sent_window = window_draw();
    end->out.arrived_window = window_draw();
    end->delay_ns = delay_draw();
    end->next = net.ends;
    net.ends = end;
    return end;
}

static void
connect_failed(void *context)
{
    struct sim_end *end = context;

    net_trace("connect fails", end->number, end->connect_error, NULL, 0);
    end->state = NET_GONE;
    if (end->relay_began) {
        if (end->socket != NULL)
            net_socket_connected(end->socket, -end->connect_error);
        return;
    }
    if (!end->actor_there)
        return;
    end->actor_there = false;
    end->actor->failed(end->context, end, end->connect_error);
}

static void
client_arrives(void *context)
{
    struct sim_end *end = context;

    if (!end->actor_there)
        return;
    if (!net_socket_arrive(end)) {
        end->connect_error = ECONNREFUSED;
        connect_failed(end);
        return;
    }
    net_trace("client connects", end->number, end->port, NULL, 0);
    end->state = NET_OPEN;
    end->relay_there = true;
    end->actor->connected(end->context, end);
    net_in_kick(end);
}

/* False: it comes to nothing, and that is under way. */
static bool
connect_lives(struct sim_end *end)
{
    if (net_fault(SIM_FAULT_UNANSWERED, net.faults.unanswered)) {
        end->connect_error = ETIMEDOUT;
        net_event_add(CONNECT_TIMEOUT_NS, connect_failed, end);
        return false;
    }
    if (net_fault(SIM_FAULT_REFUSE, net.faults.refuse)) {
        end->connect_error = ECONNREFUSED;
        net_event_add(net_delay(end), connect_failed, end);
        return false;
    }
    return true;
}

struct sim_end *
sim_net_connect(const struct sim_actor *actor, void *context, uint32_t from_ipv4, uint16_t port)
{
    struct sim_end *end = net_end_new(from_ipv4, port);

    end->actor = actor;
    end->context = context;
    end->actor_there = true;
    if (connect_lives(end))
        net_event_add(net_delay(end), client_arrives, end);
    return end;
}

/* --- next hops --- */

void
sim_net_listen(uint16_t port,
               bool (*accepted)(void *context, struct sim_end *end, const struct sim_actor **actor,
                                void **end_context),
               void *context)
{
    struct net_place *place = malloc(sizeof(*place));

    ASSERT(place != NULL);
    sim_net_unlisten(port);
    *place = (struct net_place){
        .next = net.places, .port = port, .accepted = accepted, .context = context
    };
    net.places = place;
}

void
sim_net_unlisten(uint16_t port)
{
    struct net_place **at = &net.places;

    while (*at != NULL) {
        struct net_place *place = *at;

        if (place->port != port) {
            at = &place->next;
            continue;
        }
        *at = place->next;
        free(place);
    }
}

static void
relay_arrives(void *context)
{
    struct sim_end *end = context;
    struct net_place *place = net.places;

    if (end->socket == NULL || end->state != NET_CONNECTING)
        return;
    while (place != NULL && place->port != end->port)
        place = place->next;
    end->state = NET_OPEN;
    end->actor_there = true;
    if (place == NULL || !place->accepted(place->context, end, &end->actor, &end->context)) {
        end->actor_there = false;
        end->connect_error = ECONNREFUSED;
        connect_failed(end);
        return;
    }
    net_trace("relay connects", end->number, end->port, NULL, 0);
    net_socket_connected(end->socket, 0);
    net_in_kick(end);
}

void
net_relay_connect(struct net_socket *socket, uint16_t port)
{
    struct sim_end *end = net_end_new(0x7f000001, port);

    end->relay_began = end->relay_there = true;
    end->socket = socket;
    socket->end = end;
    if (connect_lives(end))
        net_event_add(net_delay(end), relay_arrives, end);
}

/* --- what actors do with an end --- */

void
sim_end_write(struct sim_end *end, const char *data, size_t len)
{
    ASSERT(end->actor_there && !end->in.fin);
    if (end->relay_reset || len == 0)
        return;
    octets_push(&end->in.sent, data, len);
    net_in_kick(end);
}

void
sim_end_shut(struct sim_end *end)
{
    ASSERT(end->actor_there && !end->in.fin);
    end->in.fin = true;
    net_in_kick(end);
}

static void
reset_arrives(void *context)
{
    net_relay_reset(context, ECONNRESET);
}

/* Some of what was sent may be ahead of it. */
static void
reset_goes(struct sim_end *end)
{
    struct net_octets *sent = &end->in.sent;

    if (end->state == NET_CONNECTING)
        end->state = NET_GONE;
    sent->len = sent->len == 0 ? 0 : sim_below(&net.random, sent->len + 1);
    net_event_add(net_delay(end), reset_arrives, end);
}

void
sim_end_reset(struct sim_end *end)
{
    ASSERT(end->actor_there);
    net_trace("actor resets", end->number, 0, NULL, 0);
    end->actor_there = false;
    reset_goes(end);
}

void
sim_end_close(struct sim_end *end)
{
    ASSERT(end->actor_there);
    net_trace("actor closes", end->number, (int64_t)end->out.arrived.len, NULL, 0);
    end->actor_there = false;
    if (end->state == NET_CONNECTING) {
        end->state = NET_GONE;
        return;
    }
    /* With octets that nobody has read a kernel resets instead. */
    if (end->out.arrived.len > 0) {
        reset_goes(end);
        return;
    }
    end->in.fin = true;
    net_in_kick(end);
}

void
sim_end_pause(struct sim_end *end, bool paused)
{
    ASSERT(end->actor_there);
    end->paused = paused;
    if (!paused)
        net_deliver_soon(end);
}

uint64_t
sim_end_received(const struct sim_end *end)
{
    return end->received;
}

uint64_t
sim_end_taken(const struct sim_end *end)
{
    return end->taken;
}

uint32_t
sim_end_number(const struct sim_end *end)
{
    return end->number;
}
