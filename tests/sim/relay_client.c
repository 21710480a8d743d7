/* Clients: octets out (at once, or drop by drop), replies in, patience, going away at any octet. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/relay_client.h"

static struct client *clients;
static uint32_t client_count;

const char *
client_name(const struct client *client)
{
    static char name[32];

    (void)snprintf(name, sizeof(name), "client #%u", client->number);
    return name;
}

void
client_over(struct client *client)
{
    client->over = true;
    client->end = NULL;
    client->expected_count = 0;
}

void
client_leave(struct client *client, bool reset)
{
    struct sim_end *end = client->end;

    world_say(client_name(client), reset ? "resets" : "closes");
    client_over(client);
    if (reset)
        sim_end_reset(end);
    else
        sim_end_close(end);
}

/* --- octets out --- */

static void flush(struct client *client);

static void
drip(void *context)
{
    struct client *client = context;

    client->dripping = false;
    if (!client->over)
        flush(client);
}

/* The last octet of its letter has gone. */
static void
letter_complete(struct client *client)
{
    struct letter *letter = client->letter;

    client->end_at = UINT64_MAX;
    letter->complete = true;
    letter->complete_ns = sim_now_ns();
    letter->realtime_least_ns = clock_realtime_ns();
    world_say(client_name(client), "has sent all of letter %u", letter->number);
    if (sim_chance(&client->random, client->goes_after_end))
        client_leave(client, sim_chance(&client->random, 5000));
}

static void
flush(struct client *client)
{
    uint64_t most = client->out.len;

    if (client->dripping || most == 0 || client->end == NULL)
        return;
    if (client->drips && !world.ending)
        most = sim_between(&client->random, 1, most < 400 ? most : 400);
    if (client->cut_at != UINT64_MAX && client->written + most >= client->cut_at)
        most = client->cut_at - client->written;
    secure_write(&client->secure, client->end, client->out.data, most, &client->wire);
    client->written += most;
    text_remove(&client->out, most);
    if (client->written >= client->end_at)
        letter_complete(client);
    if (client->over)
        return;
    if (client->written >= client->cut_at) {
        client_leave(client, sim_chance(&client->random, 5000));
        return;
    }
    if (client->out.len > 0) {
        client->dripping = true;
        sim_net_at(sim_now_ns() + sim_below(&client->random, 2 * NS_PER_S), drip, client);
    }
}

void
client_say(struct client *client, const char *data, size_t len)
{
    text_add(&client->out, data, len);
    client->queued += len;
    flush(client);
}

void
client_expect(struct client *client, enum expects what, uint32_t index)
{
    uint32_t slot = (client->expected_first + client->expected_count) % EXPECTED_MAX;

    ASSERT(client->expected_count < EXPECTED_MAX);
    if (client->expected_count++ == 0)
        client->asked_ns = sim_now_ns();
    client->expected[slot] = (struct expected){ .what = what, .letter = client->letter,
                                                .index = index };
}

void
client_line(struct client *client, enum expects what, uint32_t index, const char *format, ...)
{
    char line[ACTOR_LINE_BYTES];
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vsnprintf(line, sizeof(line) - 2, format, arguments);
    va_end(arguments);
    ASSERT(len >= 0 && (size_t)len < sizeof(line) - 2);
    world_say(client_name(client), "> %.200s", line);
    memcpy(line + len, "\r\n", 2);
    client_expect(client, what, index);
    text_add(&client->out, line, (size_t)len + 2);
    client->queued += (size_t)len + 2;
}

/* --- replies in --- */

/* Length of a whole reply at the front; 0: more must come. */
static size_t
reply_bytes(const struct client *client)
{
    const struct text *in = &client->in;
    size_t at = 0;

    for (;;) {
        const char *end = at < in->len ? memmem(in->data + at, in->len - at, "\r\n", 2) : NULL;
        size_t len;

        if (end == NULL)
            return 0;
        len = (size_t)(end - (in->data + at));
        if (len < 3 || in->data[at] < '2' || in->data[at] > '5' ||
            (len > 3 && in->data[at + 3] != ' ' && in->data[at + 3] != '-') ||
            memcmp(in->data + at, in->data, 3) != 0)
            world_fail(ENDING_AUDIT, client->letter, "client #%u heard no reply: %.*s",
                       client->number, (int)(len < 80 ? len : 80), in->data + at);
        at += len + 2;
        if (len == 3 || in->data[at - len - 2 + 3] == ' ')
            return at;
    }
}

static void
reply_take(struct client *client, const char *text)
{
    unsigned code = (unsigned)(text[0] - '0') * 100 + (unsigned)(text[1] - '0') * 10 +
                    (unsigned)(text[2] - '0');
    struct expected expected;

    world_say(client_name(client), "< %.120s", text);
    if (client->expected_count == 0) {
        if (code != 421)
            world_fail(ENDING_AUDIT, client->letter, "client #%u heard what it did not ask for: %s",
                       client->number, text);
        client_leave(client, false);
        return;
    }
    expected = client->expected[client->expected_first];
    client->expected_first = (client->expected_first + 1) % EXPECTED_MAX;
    client->expected_count--;
    client->asked_ns = sim_now_ns();
    client_answer(client, &expected, code, text);
    if (code == 421 && !client->over)
        client_leave(client, false);
}

static void
on_received(void *context, struct sim_end *end, const char *data, size_t len)
{
    struct client *client = context;
    char text[512];
    size_t bytes, some;

    if (client->kind == CLIENT_HOSTILE)
        return;
    if (!secure_feed(&client->secure, end, data, len, &client->in, &client->wire)) {
        client_leave(client, false);
        return;
    }
    if (client->secure.shaking)
        return;
    while (!client->over && (bytes = reply_bytes(client)) > 0) {
        some = bytes < sizeof(text) ? bytes : sizeof(text) - 1;
        memcpy(text, client->in.data, some);
        text[some] = '\0';
        while (some > 0 && (text[some - 1] == '\n' || text[some - 1] == '\r'))
            text[--some] = '\0';
        text_remove(&client->in, bytes);
        reply_take(client, text);
    }
    if (client->over || client->secure.shaking)
        return;
    if (client->expected_count == 0 && client->stage != STAGE_QUIT)
        client_next(client);
    if (!client->over)
        flush(client);
}

/* --- the network --- */

static void
on_connected(void *context, struct sim_end *end)
{
    struct client *client = context;

    (void)end;
    world_say(client_name(client), "is connected");
    if (client->kind == CLIENT_HOSTILE)
        client_hostile(client);
    else if (world.implicit &&
             !secure_begin(&client->secure, client->end, false, &client->wire))
        client_leave(client, false);
}

static void
on_failed(void *context, struct sim_end *end, int error)
{
    (void)end, (void)error;
    world_say(client_name(context), "cannot connect");
    client_over(context);
}

static void
on_ended(void *context, struct sim_end *end)
{
    world_say(client_name(context), "sees the end");
    client_over(context);
    sim_end_close(end);
}

static void
on_broken(void *context, struct sim_end *end, int error)
{
    (void)end, (void)error;
    world_say(client_name(context), "is cut off");
    client_over(context);
}

static void
on_sent(void *context, struct sim_end *end)
{
    (void)context, (void)end;
}

static const struct sim_actor client_actor = { .connected = on_connected,
                                               .failed = on_failed,
                                               .received = on_received,
                                               .ended = on_ended,
                                               .broken = on_broken,
                                               .sent = on_sent };

static void
resume(void *context)
{
    struct client *client = context;

    if (client->end != NULL)
        sim_end_pause(client->end, false);
}

static void
pause_reading(void *context)
{
    struct client *client = context;

    if (client->end == NULL)
        return;
    sim_end_pause(client->end, true);
    sim_net_at(sim_now_ns() + sim_below(&client->random, 100 * NS_PER_S), resume, client);
}

static void
begin(void *context)
{
    struct client *client = context;

    if (client->over)
        return;
    client->begun = true;
    client->end = sim_net_connect(&client_actor, client,
                                  0x7f000001u + (uint32_t)sim_below(&client->random, 3),
                                  CLIENT_PORT);
    client->expected_count = 0;
    if (client->kind == CLIENT_POLITE)
        client_expect(client, EXPECTS_GREETING, 0);
    if (client->pauses)
        sim_net_at(sim_now_ns() + sim_below(&client->random, 3 * NS_PER_S), pause_reading, client);
}

void
client_new(uint64_t at_ns, enum client_kind kind)
{
    struct client *client = calloc(1, sizeof(*client));
    struct sim_random *random = &client->random;

    ASSERT(client != NULL);
    client->number = ++client_count;
    client->kind = kind;
    client->next = clients;
    client->stage = STAGE_IDLE;
    client->end_at = UINT64_MAX;
    clients = client;
    *random = sim_random_of(world.seed, 1000 + client->number);
    client->tls = world.tls && !world.implicit && sim_chance(random, 5000);
    client->injects = client->tls && world.hostile && sim_chance(random, 3000);
    client->pipelining = sim_chance(random, 5000);
    client->bold = sim_chance(random, 3000);
    client->drips = sim_chance(random, 700);
    client->quits = sim_chance(random, 8000);
    client->helo = sim_chance(random, 300);
    client->pauses = sim_chance(random, 500);
    client->chatters = sim_chance(random, 1000);
    client->letters_left = (uint32_t)sim_between(random, 1, sim_chance(random, 2000) ? 12 : 4);
    client->cut_at = world.hostile && sim_chance(random, 1000)
                         ? sim_between(random, 1, sim_chance(random, 5000) ? 400 : 20000)
                         : UINT64_MAX;
    client->goes_after_end = world.hostile && sim_chance(random, 700) ? 4000 : 0;
    sim_net_at(at_ns, begin, client);
}

bool
clients_done(void)
{
    return client_waiting() == NULL;
}

struct client *
client_waiting(void)
{
    for (struct client *client = clients; client != NULL; client = client->next)
        if (!client->over)
            return client;
    return NULL;
}

void
clients_stop(void)
{
    for (struct client *client = clients; client != NULL; client = client->next) {
        if (!client->begun)
            client->over = true;
        client->letters_left = 0;
    }
}

void
clients_free(void)
{
    while (clients != NULL) {
        struct client *client = clients;

        clients = client->next;
        secure_end(&client->secure);
        text_free(&client->out);
        text_free(&client->in);
        free(client);
    }
    client_count = 0;
}
