/* Next hops: listen, read what the relay sends by a parser of their own, answer when and as it
 * pleases them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/relay_hop.h"

static struct line *lines;
static uint32_t line_count;

bool
line_chance(const struct line *line, uint32_t of_10000)
{
    return !line->hop->well && sim_chance(&world.hops_random, of_10000);
}

static const char *
line_name(const struct line *line)
{
    static char name[32];

    (void)snprintf(name, sizeof(name), "hop%u.%u #%u", line->hop->index, line->server,
                   line->number);
    return name;
}

/* --- ends --- */

bool
delivery_heard(const struct delivery *delivery)
{
    const struct line *line = delivery->line;
    uint64_t taken = line->end != NULL ? sim_end_taken(line->end) : line->taken;

    return delivery->reply_end != 0 && taken >= delivery->reply_end;
}

void
line_gone(struct line *line)
{
    if (line->end != NULL)
        line->taken = sim_end_taken(line->end);
    line->end = NULL;
}

void
line_drop(struct line *line)
{
    struct sim_end *end = line->end;

    if (end == NULL)
        return;
    world_say(line_name(line), "drops the connection");
    line_gone(line);
    if (sim_chance(&world.hops_random, 5000))
        sim_end_reset(end);
    else
        sim_end_close(end);
}

/* --- replies --- */

static void line_run(struct line *line);

static void
line_write(struct line *line)
{
    if (line->end == NULL)
        return;
    secure_write(&line->secure, line->end, line->waiting.data, line->waiting.len, &line->written);
    line->waiting.len = 0;
    if (line->answered != NULL) {
        /* What is spoiled on its way is heard by nobody. */
        if (line->secure.tls == NULL || !sim_tls_spoiled(line->secure.tls))
            line->answered->reply_end = line->written;
        line->last = line->answered;
        line->answered = NULL;
    }
    if (line->starts_tls) {
        line->starts_tls = false;
        if (!secure_begin(&line->secure, line->end, true, &line->written))
            line_drop(line);
        return;
    }
    if (line->closing) {
        struct sim_end *end = line->end;

        line_gone(line);
        sim_end_close(end);
    }
}

static void
late(void *context)
{
    struct line *line = context;
    size_t len = line->waiting.len;

    line->late = false;
    if (line->end == NULL)
        return;
    /* In pieces: some octets, and the rest a little later. */
    if (len > 1 && line_chance(line, line->hop->mood.pieces)) {
        size_t some = sim_between(&world.hops_random, 1, len - 1);

        secure_write(&line->secure, line->end, line->waiting.data, some, &line->written);
        text_remove(&line->waiting, some);
        line->late = true;
        sim_net_at(sim_now_ns() + sim_below(&world.hops_random, 3 * NS_PER_S), late, line);
        return;
    }
    line_write(line);
    line_run(line);
}

void
line_reply(struct line *line, const char *format, ...)
{
    char text[512];
    uint64_t delay_ns = 0;
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    ASSERT(len > 0 && (size_t)len + 2 < sizeof(text));
    world_say(line_name(line), "> %s", text);
    text_add(&line->waiting, text, (size_t)len);
    text_add(&line->waiting, "\r\n", 2);
    if (line_chance(line, line->hop->mood.stall))
        delay_ns = sim_below(&world.hops_random, 400 * NS_PER_S);
    else if (line_chance(line, line->hop->mood.slow))
        delay_ns = sim_below(&world.hops_random, 20 * NS_PER_S);
    else if (!line_chance(line, line->hop->mood.pieces)) {
        if (!line->late)
            line_write(line);
        return;
    }
    if (line->late)
        return;
    line->late = true;
    sim_net_at(sim_now_ns() + delay_ns, late, line);
}

/* --- octets --- */

static size_t
data_take(struct line *line)
{
    /* The line end in front of the dot may be the one of DATA itself. */
    const char *end;
    size_t from = line->octets.len > 4 ? line->octets.len - 4 : 0;
    size_t took = line->in.len;

    text_add(&line->octets, line->in.data, line->in.len);
    if (line->octets.len >= 3 && memcmp(line->octets.data, ".\r\n", 3) == 0) {
        end = line->octets.data - 2;
    } else {
        end = memmem(line->octets.data + from, line->octets.len - from, "\r\n.\r\n", 5);
        if (end == NULL)
            return took;
    }
    took -= (size_t)(line->octets.data + line->octets.len - (end + 5));
    line->octets.len = (size_t)(end + 2 - line->octets.data);
    line->state = LINE_COMMANDS;
    line->by_data = true;
    return took;
}

static void
dots_remove(struct text *text)
{
    size_t to = 0;
    bool line_start = true;
    char before = '\0';

    for (size_t i = 0; i < text->len; i++) {
        char octet = text->data[i];

        if (!line_start || octet != '.')
            text->data[to++] = octet;
        line_start = octet == '\n' && before == '\r';
        before = octet;
    }
    text->len = to;
}

/* False: more must come. */
static bool
line_step(struct line *line)
{
    const char *end;
    size_t len;

    if (line->in.len == 0)
        return false;
    if (line->state == LINE_DATA) {
        text_remove(&line->in, data_take(line));
        if (line->state == LINE_DATA)
            return false;
        dots_remove(&line->octets);
        line_message(line);
        return true;
    }
    if (line->state == LINE_CHUNK) {
        len = line->in.len < line->chunk_left ? line->in.len : line->chunk_left;
        text_add(&line->octets, line->in.data, len);
        text_remove(&line->in, len);
        line->chunk_left -= len;
        if (line->chunk_left > 0)
            return false;
    } else {
        char command[ACTOR_LINE_BYTES];

        end = memmem(line->in.data, line->in.len, "\r\n", 2);
        len = end != NULL ? (size_t)(end - line->in.data) : line->in.len;
        if (len >= sizeof(command))
            world_fail(ENDING_AUDIT, NULL, "a command of %zu octets came to a next hop", len);
        if (end == NULL)
            return false;
        memcpy(command, line->in.data, len);
        command[len] = '\0';
        text_remove(&line->in, len + 2);
        line_command(line, command, len);
        if (line->state != LINE_CHUNK || line->chunk_left > 0)
            return true;
    }
    line->state = LINE_COMMANDS;
    line->by_data = false;
    if (line->chunk_bad)
        line_reply(line, "503 5.5.1 no transaction");
    else if (line->chunk_last)
        line_message(line);
    else
        line_reply(line, "250 2.0.0 more");
    return true;
}

static void
line_run(struct line *line)
{
    while (line->end != NULL && !line->late && !line->closing && line_step(line))
        ;
}

/* --- what the network says --- */

static void
on_received(void *context, struct sim_end *end, const char *data, size_t len)
{
    struct line *line = context;

    if (!secure_feed(&line->secure, end, data, len, &line->in, &line->written)) {
        line_drop(line);
        return;
    }
    line_run(line);
}

static void
on_ended(void *context, struct sim_end *end)
{
    struct line *line = context;

    line_gone(line);
    sim_end_close(end);
}

static void
on_broken(void *context, struct sim_end *end, int error)
{
    (void)end, (void)error;
    line_gone(context);
}

static void
on_sent(void *context, struct sim_end *end)
{
    struct line *line = context;

    (void)end;
    if (line->last != NULL && line->last->reply_end != 0 &&
        line->written >= line->last->reply_end && line->waiting.len == 0) {
        line->last->heard_ns = sim_now_ns();
        line->last = NULL;
    }
}

static const struct sim_actor hop_actor = { .received = on_received,
                                            .ended = on_ended,
                                            .broken = on_broken,
                                            .sent = on_sent };

static void
greet(void *context)
{
    struct line *line = context;

    line->late = false;
    if (line->end == NULL)
        return;
    if (line_chance(line, line->hop->mood.closing)) {
        line->closing = true;
        line_reply(line, "421 4.3.2 too busy");
    } else if (line_chance(line, line->hop->mood.no)) {
        line->closing = true;
        line_reply(line, "554 5.3.2 no mail here");
    } else if (line_chance(line, line->hop->mood.garbage)) {
        line_reply(line, "hello there");
    } else {
        line_reply(line, "220 h%u.example ready", line->hop->index);
    }
    line_run(line);
}

struct place {
    struct next_hop *hop;
    uint32_t server;
};

static bool
accepted(void *context, struct sim_end *end, const struct sim_actor **actor, void **end_context)
{
    const struct place *place = context;
    struct line *line = calloc(1, sizeof(*line));

    ASSERT(line != NULL);
    *line = (struct line){ .next = lines, .hop = place->hop, .server = place->server,
                           .number = ++line_count, .end = end, .late = true,
                           .sender = UINT32_MAX };
    lines = line;
    *actor = &hop_actor;
    *end_context = line;
    world_say(line_name(line), "is connected to");
    sim_net_at(sim_now_ns(), greet, line);
    return true;
}

/* --- up and down --- */

static struct place places[HOPS_MAX][SERVERS_MAX];

static void
place_set(struct place *place, bool up)
{
    uint16_t port = (uint16_t)(HOP_PORT + 10 * place->hop->index + place->server);

    if (place->hop->up[place->server] == up)
        return;
    world_say("world", "hop%u.%u is %s", place->hop->index, place->server, up ? "up" : "down");
    place->hop->up[place->server] = up;
    if (up)
        sim_net_listen(port, accepted, place);
    else
        sim_net_unlisten(port);
}

static void
weather(void *context)
{
    struct place *place = context;
    struct sim_random *random = &world.hops_random;

    if (world.ending)
        return;
    place->hop->well = sim_chance(random, 4000);
    place_set(place, sim_chance(random, 7500));
    sim_net_at(sim_now_ns() + sim_below(random, 200 * NS_PER_S), weather, place);
}

void
hops_start(void)
{
    bool changes = sim_chance(&world.hops_random, 6000);

    lines = NULL;
    line_count = 0;
    for (uint32_t i = 0; i < world.hop_count; i++)
        for (uint32_t j = 0; j < world.hops[i].servers; j++) {
            places[i][j] = (struct place){ .hop = &world.hops[i], .server = j };
            place_set(&places[i][j], true);
            if (changes)
                sim_net_at(sim_now_ns() + sim_below(&world.hops_random, 60 * NS_PER_S), weather,
                           &places[i][j]);
        }
}

void
hops_well(void)
{
    for (uint32_t i = 0; i < world.hop_count; i++) {
        world.hops[i].well = true;
        for (uint32_t j = 0; j < world.hops[i].servers; j++)
            place_set(&places[i][j], true);
    }
}

void
hops_free(void)
{
    while (lines != NULL) {
        struct line *line = lines;

        lines = line->next;
        secure_end(&line->secure);
        text_free(&line->in);
        text_free(&line->octets);
        text_free(&line->waiting);
        free(line);
    }
}
