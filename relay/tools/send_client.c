/* The connections of `ringpost send`: opening, TLS, the loop between link and sender. */
#include "relay/tools/send_client.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "relay/tools/send_private.h"

#define QUIT_NS (2 * NS_PER_S)
/* Buffers beside those of the message: input, records that come in and go out. */
#define BUFFERS_PER_CONNECTION 8
#define BUFFERS_WORKING_MAX 16384

/* --- the connection --- */

static void
deadline_set(struct send_connection *connection)
{
    struct send_client *client = connection->client;
    uint64_t after_ns = client->plan->timeout_ms * NS_PER_MS;

    if (connection->state == SEND_QUITTING && after_ns > QUIT_NS)
        after_ns = QUIT_NS;
    timer_set(&client->timers, &connection->timer, client->now_ns + after_ns);
}

/* Takes a socket for the address at hand, or for one behind it (there may be no IPv6 here). */
static bool
connection_open(struct send_connection *connection)
{
    struct send_client *client = connection->client;
    const struct config_address *address = &client->plan->addresses[connection->address];
    uint32_t slot = (uint32_t)(connection - client->connections);
    int socket;

    while ((socket = io_socket(address)) < 0) {
        send_complain(connection, "no socket", span_text(io_error_text(socket)));
        if (io_error_is_shortage(socket) || connection->address + 1 >= client->plan->address_count)
            return false;
        address = &client->plan->addresses[++connection->address];
    }
    link_open(&connection->link, &client->links, (struct io_ticket){ .slot = slot }, socket);
    link_connect(&connection->link, address);
    connection->state = SEND_OPENING;
    connection->spoke = connection->shaking = false;
    connection->messages = 0;
    connection->outstanding = 0;
    connection->mail_sent = false;
    deadline_set(connection);
    client->open++;
    return true;
}

void
send_connection_close(struct send_connection *connection)
{
    connection->state = SEND_CLOSING;
    link_close(&connection->link);
}

/* The message at hand, if there is one, ends without a verdict. */
static void
message_lost(struct send_connection *connection, struct span why)
{
    struct send_client *client = connection->client;
    enum sender_expectation at =
        connection->spoke ? sender_lost(&connection->sender) : SENDER_EXPECTS_NOTHING;

    if (connection->state != SEND_BUSY)
        return;
    if (!connection->answered && connection->messages > 0) {
        client->left++; /* the server had ended a connection that worked: again on another one */
        return;
    }
    connection->messages++;
    if (connection->refused) { /* by 421: its other replies will not come */
        client->result->refused++;
        return;
    }
    client->result->lost++;
    if (!send_may_print(client))
        return;
    printf("lost at %s: %.*s%s\n", sender_expectation_name(at), (int)why.len, why.data,
           at == SENDER_EXPECTS_END ? " (the server may have taken it)" : "");
}

void
send_connection_lost(struct send_connection *connection, struct span why)
{
    if (connection->state == SEND_CLOSING || connection->state == SEND_GONE)
        return;
    if (connection->state == SEND_OPENING)
        send_complain(connection, connection->spoke ? "no service" : "cannot connect", why);
    message_lost(connection, why);
    send_connection_close(connection);
}

void
send_connection_quit(struct send_connection *connection)
{
    struct link *link = &connection->link;
    size_t before;

    if (!sender_ready(&connection->sender, 1) || !link_room(link, SENDER_COMMAND_ROOM)) {
        send_connection_close(connection);
        return;
    }
    before = link->out.len;
    connection->state = SEND_QUITTING;
    sender_quit(&connection->sender, &link->out);
    send_print_commands(connection, before);
    link_flush(link);
    deadline_set(connection);
}

/* After its last completion: gone, or opened again. */
static void
connection_settle(struct send_connection *connection)
{
    struct send_client *client = connection->client;
    bool tried = connection->spoke, worked = connection->messages > 0;

    if (!connection->link.closing || connection->link.inflight > 0 ||
        connection->state == SEND_GONE)
        return;
    timer_cancel(&client->timers, &connection->timer);
    link_release(&connection->link);
    connection->state = SEND_GONE;
    client->open--;
    if (client->left == 0)
        return;
    if (!tried) {
        if (++connection->address < client->plan->address_count)
            (void)connection_open(connection);
    } else if (worked) {
        (void)connection_open(connection);
    }
}

/* --- TLS --- */

static void
start_tls(struct send_connection *connection)
{
    const struct send_plan *plan = connection->client->plan;
    struct tls *tls = tls_create_client(plan->tls, plan->tls_name, NULL);

    if (tls == NULL) {
        send_connection_lost(connection, SPAN("out of memory for TLS"));
        return;
    }
    connection->shaking = true;
    link_start_tls(&connection->link, tls);
}

static void
tls_look(struct send_connection *connection)
{
    struct link *link = &connection->link;
    struct span why;
    size_t before;

    if (link->tls_state == LINK_TLS) {
        connection->shaking = false;
        if (connection->client->plan->verbose)
            printf("-- %s %s%s\n", tls_version(link->tls), tls_cipher(link->tls),
                   tls_verified(link->tls) ? ", verified" : ", not verified");
        if (!connection->spoke) {
            connection->spoke = true;
            sender_start(&connection->sender, connection->client->plan->helo, SENDER_TLS_REQUIRE,
                         true);
        } else if (link_room(link, SENDER_COMMAND_ROOM)) {
            before = link->out.len;
            sender_tls_started(&connection->sender, &link->out);
            send_print_commands(connection, before);
        }
        link_flush(link);
    } else if (link->failed || link->ended) {
        why = tls_failure(link->tls);
        connection->spoke = true; /* another address would not help */
        send_connection_lost(connection, why.len > 0 ? why : SPAN("closed in the TLS handshake"));
    }
}

/* --- the loop --- */

static void
on_broken(struct send_connection *connection, const struct sender_event *event)
{
    const struct reply *reply = event->reply;
    char text[REPLY_CODES_BYTES_MAX + REPLY_TEXT_BYTES_MAX];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (reply->code != 0)
        reply_codes_write(reply, &out);
    outbuf_add(&out, span_of(reply->text, reply->text_len));
    send_connection_lost(connection, outbuf_span(&out));
}

/* One event. False: wait. */
static bool
on_event(struct send_connection *connection, const struct sender_event *event, size_t left)
{
    struct link *link = &connection->link;

    switch (event->kind) {
    case SENDER_NEED_INPUT: return left > 0 ? link_extend(link) : link->in.count > 0;
    case SENDER_NEED_ROOM: return false;
    case SENDER_START_TLS:
        if (link_unread(link) > 0)
            send_connection_lost(connection, SPAN("plaintext after the reply to STARTTLS"));
        else
            start_tls(connection);
        return false;
    case SENDER_READY: send_next(connection); return true;
    case SENDER_REPLY: send_on_reply(connection, event); return true;
    case SENDER_BROKEN: on_broken(connection, event); return false;
    case SENDER_CLOSED: send_connection_close(connection); return false;
    }
    return false;
}

static void
run(struct send_connection *connection)
{
    struct link *link = &connection->link;

    while (connection->spoke && connection->state < SEND_CLOSING &&
           link->tls_state != LINK_HANDSHAKE) {
        struct sender_event event;
        struct span front, in;
        size_t before;

        if (connection->state == SEND_OPENING && !link_room(link, SENDER_COMMAND_ROOM))
            break;
        front = in = link_front(link);
        before = link->out.len;
        event = sender_step(&connection->sender, &in, &link->out);
        if (connection->client->plan->verbose)
            send_print_lines("S: ", span_first(front, front.len - in.len));
        send_print_commands(connection, before);
        link_consume(link, front.len - in.len);
        if (!on_event(connection, &event, in.len))
            break;
    }
    if (connection->state < SEND_CLOSING)
        send_advance(connection);
}

static void
on_connected(struct send_connection *connection)
{
    link_receive(&connection->link);
    if (connection->client->plan->verbose)
        printf("-- connected to %s\n", connection->client->plan->server);
    if (connection->client->plan->implicit) {
        start_tls(connection);
        return;
    }
    connection->spoke = true;
    sender_start(&connection->sender, connection->client->plan->helo,
                 connection->client->plan->tls != NULL ? SENDER_TLS_REQUIRE : SENDER_TLS_NONE,
                 false);
}

static void
complete(struct send_connection *connection, const struct io_completion *completion)
{
    struct link *link = &connection->link;

    link_complete(link, completion);
    if (connection->state < SEND_CLOSING) {
        if (completion->op == IO_CONNECT && !link->failed)
            on_connected(connection);
        if (connection->shaking)
            tls_look(connection);
        run(connection);
        if (connection->state < SEND_CLOSING && (link_at_end(link) || link->failed))
            send_connection_lost(connection, link->error != 0
                                                 ? span_text(io_error_text(link->error))
                                                 : SPAN("connection closed by the server"));
        if (connection->state < SEND_CLOSING)
            deadline_set(connection);
    }
    connection_settle(connection);
}

static void
expire(struct send_connection *connection)
{
    send_connection_lost(connection, SPAN("timed out"));
    connection_settle(connection);
}

/* A link went on by itself: its connection looks after it. */
static void
link_progress(void *context, struct link *link)
{
    static const struct io_completion nothing = { .op = IO_NONE, .buffer = BUFFER_NONE };

    (void)context;
    complete(
        (struct send_connection *)(void *)((char *)link - offsetof(struct send_connection, link)),
        &nothing);
}

static void
turn(struct send_client *client)
{
    struct io_completion completion;
    struct timer *timer;

    io_wait(client->io,
            client->links.handshakes != NULL ? 0 : timers_wait_ns(&client->timers, client->now_ns));
    client->now_ns = clock_now_ns();
    client->links.handshakes_left = UINT32_MAX;
    link_handshakes_continue(&client->links, link_progress, client);
    while (io_next(client->io, &completion)) {
        ASSERT(completion.ticket.slot < client->plan->connections);
        complete(&client->connections[completion.ticket.slot], &completion);
    }
    while ((timer = timers_next_due(&client->timers, client->now_ns)) != NULL)
        expire((struct send_connection *)(void *)((char *)timer -
                                                  offsetof(struct send_connection, timer)));
    link_starved_continue(&client->links);
}

static bool
start(struct send_client *client, struct send_message *message)
{
    const struct send_plan *plan = client->plan;
    uint32_t working = plan->connections * BUFFERS_PER_CONNECTION;
    struct io_options options = {
        .entries = 4096,
        .completions = 65536,
        /* What the message holds, what the kernel is given, what TLS and replies need. */
        .buffer_count = send_message_buffers(message, plan->chunk_size) + BUFFERS_OFFERED +
                        BUFFERS_SURE + BUFFERS_RESERVED +
                        (working < BUFFERS_WORKING_MAX ? working : BUFFERS_WORKING_MAX),
        .buffer_reserve = BUFFERS_RESERVED,
    };
    char error[IO_ERROR_BYTES];

    _Static_assert(SEND_BYTES_MAX / BUFFER_BYTES + SEND_CHUNKS_MAX + BUFFERS_OFFERED +
                           BUFFERS_SURE + BUFFERS_RESERVED + BUFFERS_WORKING_MAX <=
                       UINT16_MAX,
                   "the largest message leaves room for its connections");
    client->io = io_create(&options, error);
    if (client->io == NULL) {
        fprintf(stderr, "ringpost: send: %s\n", error);
        return false;
    }
    client->connections = calloc(plan->connections, sizeof(*client->connections));
    if (client->connections == NULL ||
        !pool_init(&client->blocks, BLOCK_BYTES, 4 * plan->connections) ||
        !send_message_fill(message, io_buffers(client->io), plan->chunk_size)) {
        fprintf(stderr, "ringpost: send: out of memory\n");
        return false;
    }
    client->now_ns = clock_now_ns();
    timers_init(&client->timers, client->now_ns);
    link_shared_init(&client->links, client->io, &client->blocks);
    for (uint32_t i = 0; i < plan->connections; i++) {
        client->connections[i].client = client;
        client->connections[i].state = SEND_GONE;
        if (!connection_open(&client->connections[i]))
            break;
    }
    return client->open > 0;
}

bool
send_client_run(const struct send_plan *plan, struct send_message *message,
                struct send_result *result)
{
    struct send_client client = {
        .plan = plan, .message = message, .result = result, .left = plan->count
    };
    uint64_t begun_ns = clock_now_ns();
    bool good = start(&client, message);

    *result = (struct send_result){ .taken = 0 };
    while (good && client.open > 0)
        turn(&client);
    result->elapsed_ns = clock_now_ns() - begun_ns;
    result->unsent = client.left;
    for (uint32_t i = 0; client.io != NULL && i < message->chunk_count; i++)
        chain_release(io_buffers(client.io), &message->chunks[i]);
    io_destroy(client.io);
    pool_destroy(&client.blocks);
    free(client.connections);
    return good;
}
