/* The client of `ringpost send`: connections, their dialogue, and what is printed of it. */
#include "relay/send_client.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/timers.h"
#include "relay/link.h"

/* Refusals that are printed when many messages are sent; the rest is counted. */
#define PRINTED_MAX 10
/* Room for the Message-ID field. */
#define HEAD_BYTES_MAX 400
#define SEND_COMMAND_ROOM (SENDER_COMMAND_ROOM + HEAD_BYTES_MAX)
#define QUIT_NS (2 * NS_PER_S)
#define NO_SPAN ((struct span){ .data = NULL })

enum state {
    OPENING, /* connecting, TLS, greeting, EHLO */
    IDLE,    /* a message may begin */
    BUSY,    /* with a message */
    RESETTING,
    QUITTING,
    CLOSING,
    GONE,
};

struct connection {
    struct link link;
    struct sender sender;
    struct timer timer;
    struct link_body body;
    struct client *client;
    size_t address;
    enum state state;
    bool spoke;            /* sender_start() was called */
    bool mail_sent, data_sent, go_ahead, answered;
    bool refused;          /* the message is refused for all */
    bool partly;           /* a recipient was refused */
    bool body_active;
    bool verdict;          /* the reply to the end of the message came */
    uint32_t outstanding;  /* commands without their reply */
    uint32_t recipients_sent, recipients_answered, recipients_accepted;
    uint32_t chunk;
    uint64_t messages;     /* brought to an end on this connection */
};

struct client {
    const struct send_plan *plan;
    const struct send_message *message;
    struct send_result *result;
    struct io *io;
    struct link_shared links;
    struct pool blocks;
    struct timers timers;
    struct connection *connections;
    uint32_t open;
    uint64_t left; /* messages that nobody has begun */
    uint64_t now_ns, serial, printed;
};

static void advance(struct connection *connection);

/* --- what is printed --- */

static void
print_lines(const char *mark, struct span lines)
{
    while (lines.len > 0) {
        const char *end = memchr(lines.data, '\n', lines.len);
        size_t len = end != NULL ? (size_t)(end - lines.data) + 1 : lines.len, shown = len;

        while (shown > 0 && (lines.data[shown - 1] == '\n' || lines.data[shown - 1] == '\r'))
            shown--;
        printf("%s%.*s\n", mark, (int)shown, lines.data);
        span_advance(&lines, len);
    }
}

static bool
may_print(struct client *client)
{
    return client->plan->count == 1 || client->plan->verbose || client->printed++ < PRINTED_MAX;
}

/* A reply and which command it was to, unless it is the verdict. */
static void
print_reply(const struct reply *reply, const char *where, struct span what)
{
    char text[RECEIVER_REPLY_ROOM];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    reply_write(reply, reply->enhanced.class != 0, &out);
    while (out.len > 0 && (text[out.len - 1] == '\n' || text[out.len - 1] == '\r'))
        out.len--;
    for (size_t i = 0; i < out.len; i++)
        if (text[i] == '\r')
            text[i] = ' ';
    if (where == NULL)
        printf("%.*s\n", (int)out.len, text);
    else if (what.data == NULL)
        printf("%.*s (%s)\n", (int)out.len, text, where);
    else
        printf("%.*s (%s:<%.*s>)\n", (int)out.len, text, where, (int)what.len, what.data);
}

/* Commands written since out had `before` octets. */
static void
print_commands(const struct connection *connection, size_t before)
{
    const struct outbuf *out = &connection->link.out;

    if (connection->client->plan->verbose)
        print_lines("C: ", span_after(outbuf_span(out), before));
}

static void
complain(const struct connection *connection, const char *what, struct span why)
{
    fprintf(stderr, "ringpost: send: %s: %s%s%.*s\n", connection->client->plan->server, what,
            why.len > 0 ? ": " : "", (int)why.len, why.len > 0 ? why.data : "");
}

/* --- the connection --- */

static void
deadline_set(struct connection *connection)
{
    struct client *client = connection->client;
    uint64_t after_ns = client->plan->timeout_ms * NS_PER_MS;

    if (connection->state == QUITTING && after_ns > QUIT_NS)
        after_ns = QUIT_NS;
    timer_set(&client->timers, &connection->timer, client->now_ns + after_ns);
}

/* Takes a socket for the address at hand. */
static bool
connection_open(struct connection *connection)
{
    struct client *client = connection->client;
    const struct config_address *address = &client->plan->addresses[connection->address];
    uint32_t slot = (uint32_t)(connection - client->connections);
    int socket = io_socket(address);

    if (socket < 0) {
        complain(connection, "no socket", span_text(io_error_text(socket)));
        return false;
    }
    link_open(&connection->link, &client->links, (struct io_ticket){ .slot = slot }, socket);
    link_connect(&connection->link, address);
    connection->state = OPENING;
    connection->spoke = false;
    connection->messages = 0;
    connection->outstanding = 0;
    connection->mail_sent = false;
    deadline_set(connection);
    client->open++;
    return true;
}

static void
connection_close(struct connection *connection)
{
    connection->state = CLOSING;
    link_close(&connection->link);
}

/* The message at hand, if there is one, ends without a verdict. */
static void
message_lost(struct connection *connection, struct span why)
{
    struct client *client = connection->client;
    enum sender_expectation at = connection->spoke ? sender_lost(&connection->sender)
                                                   : SENDER_EXPECTS_NOTHING;

    if (connection->state != BUSY)
        return;
    if (!connection->answered && connection->messages > 0) {
        client->left++; /* the server had ended a connection that worked: again on another one */
        return;
    }
    if (connection->refused) { /* by 421: its other replies will not come */
        client->result->refused++;
        return;
    }
    client->result->lost++;
    if (!may_print(client))
        return;
    printf("lost at %s: %.*s%s\n", sender_expectation_name(at), (int)why.len, why.data,
           at == SENDER_EXPECTS_END ? " (the server may have taken it)" : "");
}

static void
connection_lost(struct connection *connection, struct span why)
{
    if (connection->state == CLOSING || connection->state == GONE)
        return;
    if (connection->state == OPENING)
        complain(connection, connection->spoke ? "no service" : "cannot connect", why);
    message_lost(connection, why);
    connection_close(connection);
}

static void
connection_quit(struct connection *connection)
{
    struct link *link = &connection->link;
    size_t before;

    if (!sender_ready(&connection->sender, 1) || !link_room(link, SENDER_COMMAND_ROOM)) {
        connection_close(connection);
        return;
    }
    before = link->out.len;
    connection->state = QUITTING;
    sender_quit(&connection->sender, &link->out);
    print_commands(connection, before);
    link_flush(link);
    deadline_set(connection);
}

/* After its last completion: gone, or opened again. */
static void
connection_settle(struct connection *connection)
{
    struct client *client = connection->client;
    bool tried = connection->spoke, worked = connection->messages > 0;

    if (!connection->link.closing || connection->link.inflight > 0 || connection->state == GONE)
        return;
    timer_cancel(&client->timers, &connection->timer);
    link_release(&connection->link);
    connection->state = GONE;
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

/* --- a message --- */

/* Its own header field: with many messages each can be told from the others. */
static void
head_write(struct client *client, struct outbuf *out)
{
    outbuf_add(out, SPAN("Message-ID: <"));
    outbuf_add_number(out, clock_realtime_ns());
    outbuf_add_char(out, '.');
    outbuf_add_number(out, ++client->serial);
    outbuf_add_char(out, '@');
    outbuf_add(out, client->plan->helo);
    outbuf_add(out, SPAN(">\r\n"));
}

static void
body_start(struct connection *connection)
{
    connection->body = (struct link_body){ .chain = &connection->client->message->chunks[connection->chunk],
                                           .index = BUFFER_NONE };
    connection->link.body = &connection->body;
    connection->body_active = true;
}

static void
print_body(const struct connection *connection)
{
    if (connection->client->plan->verbose)
        printf("C: [%llu octets]\n", (unsigned long long)connection->body.chain->bytes);
}

static bool
may_send(struct connection *connection)
{
    if (connection->client->plan->one_by_one && connection->outstanding > 0)
        return false;
    return sender_may_send(&connection->sender) && link_room(&connection->link, SEND_COMMAND_ROOM);
}

static void
command_mail(struct connection *connection)
{
    const struct send_plan *plan = connection->client->plan;
    const struct send_message *message = connection->client->message;
    struct sender_mail mail = {
        .reverse_path = plan->from,
        .size = message->size + (plan->composed ? HEAD_BYTES_MAX / 4 : 0),
        .body = message->eight_bit ? BODY_TYPE_8BITMIME : BODY_TYPE_NONE,
        .smtputf8 = plan->smtputf8,
        .dsn_return = plan->dsn_return,
        .envid = plan->envid,
    };

    sender_mail(&connection->sender, &mail, &connection->link.out);
    connection->mail_sent = true;
}

/* BDAT with its octets behind it. */
static void
command_chunk(struct connection *connection)
{
    const struct send_message *message = connection->client->message;
    char text[HEAD_BYTES_MAX];
    struct outbuf head = { .data = text, .size = sizeof(text) };

    if (connection->chunk == 0 && connection->client->plan->composed)
        head_write(connection->client, &head);
    sender_chunk(&connection->sender, head.len + message->chunks[connection->chunk].bytes,
                 connection->chunk + 1 == message->chunk_count, &connection->link.out);
    outbuf_add(&connection->link.out, outbuf_span(&head));
    body_start(connection);
}

/* The next command, if one may go out now. */
static bool
command_write(struct connection *connection)
{
    const struct send_plan *plan = connection->client->plan;
    struct outbuf *out = &connection->link.out;
    bool all_answered = connection->recipients_answered == plan->to_count;

    if (!connection->mail_sent) {
        command_mail(connection);
    } else if (connection->recipients_sent < plan->to_count) {
        sender_rcpt(&connection->sender, plan->to[connection->recipients_sent++], &plan->rcpt, out);
    } else if (plan->chunking) {
        /* Kept back until the recipients are known: octets for nobody are a waste. A chunk that is still being sent
         * holds the next one back. */
        if (!all_answered || connection->recipients_accepted == 0 || connection->body_active ||
            connection->link.sending || connection->chunk == connection->client->message->chunk_count)
            return false;
        connection->data_sent = true;
        command_chunk(connection);
    } else {
        if (connection->data_sent || (all_answered && connection->recipients_accepted == 0))
            return false;
        connection->data_sent = true;
        sender_data(&connection->sender, out);
    }
    connection->outstanding++;
    return true;
}

static bool
command_next(struct connection *connection)
{
    size_t before;

    if (connection->state != BUSY || connection->refused || !may_send(connection))
        return false;
    before = connection->link.out.len;
    if (!command_write(connection))
        return false;
    print_commands(connection, before);
    if (connection->body_active)
        print_body(connection);
    return true;
}

/* 354 came. */
static void
data_begin(struct connection *connection)
{
    struct link *link = &connection->link;

    if (!link_room(link, HEAD_BYTES_MAX)) {
        connection_lost(connection, SPAN("out of memory"));
        return;
    }
    if (connection->refused || connection->recipients_accepted == 0) {
        /* For nobody (RFC 2920 3.1): an end and no message. */
        outbuf_add(&link->out, SPAN(".\r\n"));
        sender_end_of_data(&connection->sender);
        connection->outstanding++;
        return;
    }
    if (connection->client->plan->composed)
        head_write(connection->client, &link->out);
    body_start(connection);
    print_body(connection);
}

/* Has all of the body, or of a chunk, been handed over? */
static void
body_look(struct connection *connection)
{
    const struct link_body *body = &connection->body;

    if (!connection->body_active || body->chain->bytes != body->sent + body->flight)
        return;
    if (!connection->client->plan->chunking) {
        connection->body_active = false;
        sender_end_of_data(&connection->sender);
        connection->outstanding++;
    } else if (!connection->link.sending) {
        connection->body_active = false;
        connection->chunk++;
    }
}

static void
message_begin(struct connection *connection)
{
    connection->state = BUSY;
    connection->mail_sent = connection->data_sent = connection->answered = false;
    connection->refused = connection->partly = connection->verdict = false;
    connection->body_active = false;
    connection->recipients_sent = connection->recipients_answered = 0;
    connection->recipients_accepted = 0;
    connection->chunk = 0;
    connection->link.body = NULL;
    advance(connection);
}

/* The connection is free: the next message, or the end. */
static void
next(struct connection *connection)
{
    struct client *client = connection->client;
    const struct send_plan *plan = client->plan;
    struct sender_needs needs = { .size = client->message->size,
                                  .eight_bit = client->message->eight_bit,
                                  .smtputf8 = plan->smtputf8 };
    struct reply refusal;

    connection->state = IDLE;
    if (connection->link.sending)
        return; /* its end is looked at again when it is over */
    if (client->left == 0) {
        connection_quit(connection);
        return;
    }
    if (plan->chunking && !connection->sender.offered.chunking) {
        complain(connection, "the server does not offer CHUNKING", SPAN(""));
        connection_quit(connection);
        return;
    }
    if (!sender_check(&connection->sender.offered, &needs, &refusal)) {
        /* What holds for one of the messages holds for all. */
        client->result->refused += client->left;
        client->left = 0;
        print_reply(&refusal, "not sent: the server does not offer what it needs", NO_SPAN);
        connection_quit(connection);
        return;
    }
    client->left--;
    message_begin(connection);
}

/* All replies to the message's commands are there. */
static void
message_end(struct connection *connection)
{
    struct client *client = connection->client;
    struct link *link = &connection->link;
    bool taken = connection->verdict && !connection->refused;
    size_t before;

    if (taken && !connection->partly)
        client->result->taken++;
    else if (taken)
        client->result->partly++;
    else
        client->result->refused++;
    connection->messages++;
    connection->state = RESETTING;
    if (sender_idle(&connection->sender)) {
        next(connection);
    } else if (sender_may_send(&connection->sender) && link_room(link, SENDER_COMMAND_ROOM)) {
        before = link->out.len;
        sender_reset(&connection->sender, &link->out);
        print_commands(connection, before);
    } else if (sender_ready(&connection->sender, 1)) {
        connection_close(connection);
    } /* else it was 421, and BROKEN is the next event */
}

/* --- replies --- */

static void
refuse(struct connection *connection, const struct reply *reply, const char *where)
{
    if (!connection->refused && may_print(connection->client))
        print_reply(reply, where, NO_SPAN);
    connection->refused = true;
}

static void
on_recipient(struct connection *connection, const struct sender_event *event)
{
    const struct send_plan *plan = connection->client->plan;
    bool good = reply_class(event->reply) == 2;

    connection->recipients_answered++;
    connection->recipients_accepted += good;
    if (good || connection->refused)
        return;
    connection->partly = true;
    if (may_print(connection->client))
        print_reply(event->reply, "RCPT TO", plan->to[event->recipient]);
}

static void
on_end(struct connection *connection, const struct reply *reply)
{
    const struct send_plan *plan = connection->client->plan;

    if (connection->refused || connection->recipients_accepted == 0)
        return; /* the end of a message for nobody */
    if (reply_class(reply) != 2) {
        refuse(connection, reply, "end of data");
        return;
    }
    connection->verdict = true;
    if (plan->count > 1 && !plan->verbose)
        return;
    print_reply(reply, NULL, NO_SPAN);
    if (connection->partly)
        printf("taken for %u of %zu recipients\n", connection->recipients_accepted, plan->to_count);
}

static void
on_reply(struct connection *connection, const struct sender_event *event)
{
    const struct reply *reply = event->reply;
    bool bad = reply_class(reply) >= 4;

    ASSERT(connection->outstanding > 0);
    connection->outstanding--;
    connection->answered |= !(bad && event->expectation == SENDER_EXPECTS_MAIL && reply->code == 421);
    if (!connection->answered && connection->messages > 0)
        return; /* "connect again": BROKEN is next, and the message goes on another connection */
    switch (event->expectation) {
    case SENDER_EXPECTS_RCPT:
        on_recipient(connection, event);
        break;
    case SENDER_EXPECTS_DATA:
        if (!bad)
            data_begin(connection);
        else if (connection->recipients_accepted > 0)
            refuse(connection, reply, "DATA");
        break;
    case SENDER_EXPECTS_END:
        on_end(connection, reply);
        break;
    default:
        if (bad)
            refuse(connection, reply, sender_expectation_name(event->expectation));
        break;
    }
    if (connection->state != BUSY)
        return;
    if (connection->outstanding == 0 && !connection->body_active &&
        (connection->refused || connection->verdict ||
         (connection->recipients_accepted == 0 &&
          connection->recipients_answered == connection->client->plan->to_count)))
        message_end(connection);
}

static void
on_broken(struct connection *connection, const struct sender_event *event)
{
    const struct reply *reply = event->reply;
    char text[REPLY_TEXT_BYTES_MAX + 8];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (reply->code != 0) {
        outbuf_add_number(&out, reply->code);
        outbuf_add_char(&out, ' ');
    }
    outbuf_add(&out, span_of(reply->text, reply->text_len));
    connection_lost(connection, outbuf_span(&out));
}

/* --- TLS --- */

static void
start_tls(struct connection *connection)
{
    const struct send_plan *plan = connection->client->plan;
    struct tls *tls = tls_create_client(plan->tls, plan->tls_name, NULL);

    if (tls == NULL) {
        connection_lost(connection, SPAN("out of memory for TLS"));
        return;
    }
    link_start_tls(&connection->link, tls);
}

static void
tls_look(struct connection *connection)
{
    struct link *link = &connection->link;
    struct span why;
    size_t before;

    if (link->tls_state == LINK_TLS) {
        if (connection->client->plan->verbose)
            printf("-- %s %s%s\n", tls_version(link->tls), tls_cipher(link->tls),
                   tls_verified(link->tls) ? ", verified" : ", not verified");
        if (!connection->spoke) {
            connection->spoke = true;
            sender_start(&connection->sender, connection->client->plan->helo, SENDER_TLS_REQUIRE, true);
        } else if (link_room(link, SENDER_COMMAND_ROOM)) {
            before = link->out.len;
            sender_tls_started(&connection->sender, &link->out);
            print_commands(connection, before);
        }
        link_flush(link);
    } else if (link->failed || link->ended) {
        why = tls_failure(link->tls);
        connection->spoke = true; /* another address would not help */
        connection_lost(connection, why.len > 0 ? why : SPAN("closed in the TLS handshake"));
    }
}

/* --- the loop --- */

/* One event. False: wait. */
static bool
on_event(struct connection *connection, const struct sender_event *event, size_t left)
{
    struct link *link = &connection->link;

    switch (event->kind) {
    case SENDER_NEED_INPUT:
        return left > 0 ? link_extend(link) : link->in.count > 0;
    case SENDER_NEED_ROOM:
        return false;
    case SENDER_START_TLS:
        if (link_unread(link) > 0)
            connection_lost(connection, SPAN("plaintext after the reply to STARTTLS"));
        else
            start_tls(connection);
        return false;
    case SENDER_READY:
        next(connection);
        return true;
    case SENDER_REPLY:
        on_reply(connection, event);
        return true;
    case SENDER_BROKEN:
        on_broken(connection, event);
        return false;
    case SENDER_CLOSED:
        connection_close(connection);
        return false;
    }
    return false;
}

static void
run(struct connection *connection)
{
    struct link *link = &connection->link;

    while (connection->spoke && connection->state < CLOSING && link->tls_state != LINK_HANDSHAKE) {
        struct sender_event event;
        struct span front, in;
        size_t before;

        if (connection->state == OPENING && !link_room(link, SENDER_COMMAND_ROOM))
            break;
        front = in = link_front(link);
        before = link->out.len;
        event = sender_step(&connection->sender, &in, &link->out);
        if (connection->client->plan->verbose)
            print_lines("S: ", span_first(front, front.len - in.len));
        print_commands(connection, before);
        link_consume(link, front.len - in.len);
        if (!on_event(connection, &event, in.len))
            break;
    }
    if (connection->state < CLOSING)
        advance(connection);
}

/* Writes and sends what may go out now. */
static void
advance(struct connection *connection)
{
    if (connection->state == IDLE)
        next(connection);
    body_look(connection);
    while (command_next(connection))
        ;
    link_flush(&connection->link);
    body_look(connection);
}

static void
on_connected(struct connection *connection)
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
                 connection->client->plan->tls != NULL ? SENDER_TLS_REQUIRE : SENDER_TLS_NONE, false);
}

static void
complete(struct connection *connection, const struct io_completion *completion)
{
    struct link *link = &connection->link;
    bool shaking = link->tls_state == LINK_HANDSHAKE;

    link_complete(link, completion);
    if (connection->state < CLOSING) {
        if (completion->op == IO_CONNECT && !link->failed)
            on_connected(connection);
        if (shaking)
            tls_look(connection);
        run(connection);
        if (connection->state < CLOSING && (link_at_end(link) || link->failed))
            connection_lost(connection, link->error != 0
                                            ? span_text(io_error_text(link->error))
                                            : SPAN("connection closed by the server"));
        if (connection->state < CLOSING)
            deadline_set(connection);
    }
    connection_settle(connection);
}

static void
expire(struct connection *connection)
{
    connection_lost(connection, SPAN("timed out"));
    connection_settle(connection);
}

static void
no_handshake_waits(void *context, struct link *link)
{
    (void)context;
    (void)link;
    ASSERT(false); /* there is no budget for handshakes that one could wait for */
}

static void
turn(struct client *client)
{
    struct io_completion completion;
    struct timer *timer;

    io_wait(client->io, timers_wait_ns(&client->timers, client->now_ns));
    client->now_ns = clock_now_ns();
    client->links.handshakes_left = UINT32_MAX;
    link_handshakes_continue(&client->links, no_handshake_waits, client);
    while (io_next(client->io, &completion)) {
        ASSERT(completion.ticket.slot < client->plan->connections);
        complete(&client->connections[completion.ticket.slot], &completion);
    }
    while ((timer = timers_next_due(&client->timers, client->now_ns)) != NULL)
        expire((struct connection *)(void *)((char *)timer - offsetof(struct connection, timer)));
    link_starved_continue(&client->links);
}

static bool
start(struct client *client, struct send_message *message)
{
    const struct send_plan *plan = client->plan;
    struct io_options options = {
        .entries = 4096,
        .completions = 65536,
        .buffer_count = send_message_buffers(message, plan->chunk_size) + BUFFERS_OFFERED +
                        8 * plan->connections,
    };
    char error[IO_ERROR_BYTES];

    ASSERT(options.buffer_count <= UINT16_MAX);
    client->io = io_create(&options, error);
    if (client->io == NULL) {
        fprintf(stderr, "ringpost: send: %s\n", error);
        return false;
    }
    client->connections = calloc(plan->connections, sizeof(*client->connections));
    if (client->connections == NULL || !pool_init(&client->blocks, BLOCK_BYTES, 4 * plan->connections) ||
        !send_message_fill(message, io_buffers(client->io), plan->chunk_size)) {
        fprintf(stderr, "ringpost: send: out of memory\n");
        return false;
    }
    client->now_ns = clock_now_ns();
    timers_init(&client->timers, client->now_ns);
    link_shared_init(&client->links, client->io, &client->blocks);
    for (uint32_t i = 0; i < plan->connections; i++) {
        client->connections[i].client = client;
        client->connections[i].state = GONE;
        if (!connection_open(&client->connections[i]))
            break;
    }
    return client->open > 0;
}

bool
send_client_run(const struct send_plan *plan, struct send_message *message,
                struct send_result *result)
{
    struct client client = { .plan = plan, .message = message, .result = result, .left = plan->count };
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
