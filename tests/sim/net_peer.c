/* Peers of the relay that follow a script: clients, and next hops for each connection that the
 * relay makes. */
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "tests/sim/net_world.h"

static void peer_run(struct peer *peer);

/* --- octets --- */

static void
add(char **to, size_t *len, size_t *room, const char *data, size_t more)
{
    if (*len + more > *room) {
        *room = (*len + more) * 2;
        *to = realloc(*to, *room);
        ASSERT(*to != NULL);
    }
    if (more > 0)
        memcpy(*to + *len, data, more);
    *len += more;
}

static void
drop(char *from, size_t *len, size_t less)
{
    ASSERT(less <= *len);
    *len -= less;
    if (*len > 0)
        memmove(from, from + less, *len);
}

static void
write_out(struct peer *peer, const struct outbuf *out)
{
    if (out->len > 0 && peer->end != NULL)
        sim_end_write(peer->end, out->data, out->len);
}

static void
say(struct peer *peer, const char *data, size_t len)
{
    struct span plain = span_of(data, len);
    char room[2048];

    if (peer->end == NULL)
        return;
    if (peer->tls == NULL) {
        sim_end_write(peer->end, data, len);
        return;
    }
    while (plain.len > 0) {
        struct outbuf out = { .data = room, .size = sizeof(room) };
        enum tls_status status = tls_write(peer->tls, &plain, &out);

        write_out(peer, &out);
        if (status == TLS_FAILED)
            return;
    }
}

/* --- TLS --- */

static void
peer_close(struct peer *peer, bool reset)
{
    if (peer->end == NULL)
        return;
    if (reset)
        sim_end_reset(peer->end);
    else
        sim_end_close(peer->end);
    peer->end = NULL;
}

static void
shake(struct peer *peer)
{
    char room[600];
    enum tls_status status;

    do {
        struct span in = span_of(peer->cipher, peer->cipher_len);
        struct outbuf out = { .data = room, .size = sizeof(room) };

        status = tls_handshake(peer->tls, &in, &out);
        drop(peer->cipher, &peer->cipher_len, peer->cipher_len - in.len);
        write_out(peer, &out);
    } while (status == TLS_WANT_OUTPUT);
    if (status == TLS_OK)
        peer->shaking = false;
    if (status == TLS_FAILED) {
        peer->failed = true;
        peer_close(peer, false);
    }
}

static void
decrypt(struct peer *peer)
{
    char plain_room[700], out_room[200];
    enum tls_status status = TLS_OK;

    while (status == TLS_OK && peer->end != NULL) {
        struct span in = span_of(peer->cipher, peer->cipher_len);
        struct outbuf plain = { .data = plain_room, .size = sizeof(plain_room) };
        struct outbuf out = { .data = out_room, .size = sizeof(out_room) };

        status = tls_read(peer->tls, &in, &plain, &out);
        drop(peer->cipher, &peer->cipher_len, peer->cipher_len - in.len);
        add(&peer->input, &peer->input_len, &peer->input_room, plain.data, plain.len);
        write_out(peer, &out);
        if (status == TLS_FAILED) {
            peer->failed = true;
            peer_close(peer, false);
        }
        peer->ended = peer->ended || status == TLS_CLOSED;
    }
}

static bool
tls_begin(struct peer *peer)
{
    peer->tls = peer->server ? tls_create_server(peer->world->tls_server)
                             : tls_create_client(peer->world->tls_client, "mx.example.com", NULL);
    if (peer->tls == NULL) {
        peer_close(peer, false);
        return false;
    }
    peer->shaking = true;
    /* What came before belongs to nobody: an end of the script. */
    EXPECT(peer->world, peer->input_len == 0);
    shake(peer);
    return !peer->shaking && peer->end != NULL;
}

/* --- the script --- */

static bool
line_take(struct peer *peer, char line[1024])
{
    char *end = peer->input_len == 0 ? NULL : memchr(peer->input, '\n', peer->input_len);
    size_t len;

    if (end == NULL)
        return false;
    len = (size_t)(end - peer->input) + 1;
    EXPECT(peer->world, len < 1024 && len >= 2 && end[-1] == '\r');
    memcpy(line, peer->input, len);
    line[len - 2] = '\0';
    drop(peer->input, &peer->input_len, len);
    return true;
}

/* A line, or a reply's last one, that begins with `text`. False: it has not come yet. */
static bool
line_expected(struct peer *peer, const char *text, bool reply)
{
    char line[1024];

    do {
        if (!line_take(peer, line))
            return false;
    } while (reply && strlen(line) > 3 && line[3] == '-');
    if (strncmp(line, text, strlen(text)) == 0)
        return true;
    peer->failed = true;
    peer_close(peer, false);
    return false;
}

/* A message up to its dot. */
static bool
data_expected(struct peer *peer)
{
    char line[1024];

    while (line_take(peer, line)) {
        if (strncmp(line, "X-Mark: ", 8) == 0) {
            peer->mark_seen = (uint32_t)strtoul(line + 8, NULL, 10);
            peer->marked = true;
        }
        if (strcmp(line, ".") == 0) {
            EXPECT(peer->world, peer->marked && peer->mark_seen < MARKS_MAX);
            peer->world->hop_messages++;
            peer->world->delivered[peer->mark_seen]++;
            peer->marked = false;
            return true;
        }
    }
    return false;
}

static void
body_say(struct peer *peer, size_t bytes)
{
    static const char text[] = "....5....10....5....20....5....30....5....40....5....50\r\n";

    char head[64];
    int len = snprintf(head, sizeof(head), "X-Mark: %u\r\n\r\n", peer->mark);

    say(peer, head, (size_t)len);
    for (size_t at = 0; at < bytes; at += sizeof(text) - 2)
        say(peer, text + 1, sizeof(text) - 2);
}

static void
literal_say(struct peer *peer, const char *text)
{
    for (; *text != '\0'; text++)
        say(peer, *text == '\n' ? "\r\n" : text, *text == '\n' ? 2 : 1);
}

static void
waited(void *context)
{
    struct peer *peer = context;

    peer->waits = false;
    peer_run(peer);
}

/* False: the step is not done yet, or the peer has come to its end. */
static bool
step_run(struct peer *peer, const char *step)
{
    char line[1100];

    if (strncmp(step, "> ", 2) == 0) {
        int len = snprintf(line, sizeof(line), "%s\r\n", step + 2);

        say(peer, line, (size_t)len);
    } else if (strncmp(step, "<< ", 3) == 0) {
        return line_expected(peer, step + 3, true);
    } else if (strncmp(step, "< ", 2) == 0) {
        return line_expected(peer, step + 2, false);
    } else if (step[0] == '=') {
        literal_say(peer, step + 1);
    } else if (strncmp(step, "body ", 5) == 0) {
        body_say(peer, strtoul(step + 5, NULL, 10));
    } else if (strcmp(step, "data") == 0) {
        return data_expected(peer);
    } else if (strcmp(step, "tls") == 0) {
        return peer->tls == NULL ? tls_begin(peer) : !peer->shaking;
    } else if (strcmp(step, "fin") == 0) {
        sim_end_shut(peer->end);
    } else if (strcmp(step, "close") == 0 || strcmp(step, "reset") == 0) {
        peer_close(peer, step[0] == 'r');
    } else if (strcmp(step, "deaf") == 0 || strcmp(step, "hear") == 0) {
        sim_end_pause(peer->end, step[0] == 'd');
    } else if (strncmp(step, "wait ", 5) == 0) {
        peer->waits = true;
        peer->at++; /* waited() goes on behind it */
        sim_net_at(sim_now_ns() + strtoul(step + 5, NULL, 10) * NS_PER_MS, waited, peer);
        return false;
    } else if (strcmp(step, "done") == 0 || strcmp(step, "over") == 0) {
        peer->done = true;
        peer->promised = step[0] == 'd';
    } else {
        world_fail(peer->world, "no such step: %s", step);
    }
    return true;
}

static void
peer_run(struct peer *peer)
{
    while (!peer->waits && peer->steps[peer->at] != NULL) {
        const char *step = peer->steps[peer->at];

        if (peer->end == NULL && strcmp(step, "over") != 0)
            return;
        if (!step_run(peer, step))
            return;
        peer->at++;
    }
}

/* --- what the network tells --- */

static void
on_connected(void *context, struct sim_end *end)
{
    (void)end;
    peer_run(context);
}

static void
on_gone(void *context, struct sim_end *end, int error)
{
    struct peer *peer = context;

    (void)end;
    peer->end = NULL;
    peer->broken = true;
    peer->error = error;
}

static void
on_received(void *context, struct sim_end *end, const char *data, size_t len)
{
    struct peer *peer = context;

    (void)end;
    if (peer->tls != NULL)
        add(&peer->cipher, &peer->cipher_len, &peer->cipher_room, data, len);
    else
        add(&peer->input, &peer->input_len, &peer->input_room, data, len);
    if (peer->tls != NULL && peer->shaking)
        shake(peer);
    if (peer->tls != NULL && !peer->shaking && !peer->failed)
        decrypt(peer);
    peer_run(peer);
}

static void
on_ended(void *context, struct sim_end *end)
{
    struct peer *peer = context;

    (void)end;
    peer->ended = true;
    peer_run(peer);
    peer_close(peer, false);
}

static const struct sim_actor actor = { .connected = on_connected,
                                        .failed = on_gone,
                                        .received = on_received,
                                        .ended = on_ended,
                                        .broken = on_gone };

static struct peer *
peer_new(struct net_world *world, bool server, const char *const *steps)
{
    struct peer *peer = calloc(1, sizeof(*peer));

    ASSERT(peer != NULL);
    peer->world = world;
    peer->server = server;
    peer->steps = steps;
    peer->next = world->peers;
    world->peers = peer;
    return peer;
}

struct peer *
world_client(struct net_world *world, uint32_t from_ipv4, const char *const *steps)
{
    struct peer *peer = peer_new(world, false, steps);

    peer->mark = world->clients++;
    ASSERT(peer->mark < MARKS_MAX);
    peer->end = sim_net_connect(&actor, peer, from_ipv4, CLIENT_PORT);
    return peer;
}

static void
greet(void *context)
{
    peer_run(context);
}

bool
world_hop_accepted(void *context, struct sim_end *end, const struct sim_actor **its_actor,
                   void **its_context)
{
    struct net_world *world = context;
    struct peer *peer;

    if (world->hop_steps == NULL)
        return false;
    world->hop_connections++;
    peer = peer_new(world, true, world->hop_steps);
    peer->end = end;
    *its_actor = &actor;
    *its_context = peer;
    sim_net_at(sim_now_ns(), greet, peer);
    return true;
}

bool
clients_done(struct net_world *world)
{
    for (const struct peer *peer = world->peers; peer != NULL; peer = peer->next)
        if (!peer->server && !peer->done)
            return false;
    return true;
}

bool
clients_over(struct net_world *world)
{
    for (const struct peer *peer = world->peers; peer != NULL; peer = peer->next)
        if (!peer->server && !peer->done && peer->end != NULL)
            return false;
    return true;
}

bool
promises_kept(struct net_world *world)
{
    for (const struct peer *peer = world->peers; peer != NULL; peer = peer->next)
        if (!peer->server && peer->promised && world->delivered[peer->mark] == 0)
            return false;
    return true;
}
