/* One message of `ringpost send` after the other: its commands, its octets, the replies, and what
 * is printed of them. */
#include <stdio.h>

#include "core/clock.h"
#include "relay/tools/send_private.h"

/* Refusals that are printed when many messages are sent; the rest is counted. */
#define PRINTED_MAX 10
/* Room for the Message-ID field. */
#define HEAD_BYTES_MAX 400
#define COMMAND_ROOM (SENDER_COMMAND_ROOM + HEAD_BYTES_MAX)
#define NO_SPAN ((struct span){ .data = NULL })

/* --- what is printed --- */

void
send_print_lines(const char *mark, struct span lines)
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

bool
send_may_print(struct send_client *client)
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
void
send_print_commands(const struct send_connection *connection, size_t before)
{
    const struct outbuf *out = &connection->link.out;

    if (connection->client->plan->verbose)
        send_print_lines("C: ", span_after(outbuf_span(out), before));
}

void
send_complain(const struct send_connection *connection, const char *what, struct span why)
{
    fprintf(stderr, "ringpost: send: %s: %s%s%.*s\n", connection->client->plan->server, what,
            why.len > 0 ? ": " : "", (int)why.len, why.len > 0 ? why.data : "");
}

/* --- a message --- */

/* Its own header field: with many messages each can be told from the others. */
static void
head_write(struct send_client *client, struct outbuf *out)
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
body_start(struct send_connection *connection)
{
    connection->body =
        (struct link_body){ .chain = &connection->client->message->chunks[connection->chunk],
                            .index = BUFFER_NONE };
    connection->link.body = &connection->body;
    connection->body_active = true;
}

static void
print_body(const struct send_connection *connection)
{
    if (connection->client->plan->verbose)
        printf("C: [%llu octets]\n", (unsigned long long)connection->body.chain->bytes);
}

static bool
may_send(struct send_connection *connection)
{
    if (connection->client->plan->one_by_one && connection->outstanding > 0)
        return false;
    return sender_may_send(&connection->sender) && link_room(&connection->link, COMMAND_ROOM);
}

static void
command_mail(struct send_connection *connection)
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
command_chunk(struct send_connection *connection)
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
command_write(struct send_connection *connection)
{
    const struct send_plan *plan = connection->client->plan;
    struct outbuf *out = &connection->link.out;
    bool all_answered = connection->recipients_answered == plan->to_count;

    if (!connection->mail_sent) {
        command_mail(connection);
    } else if (connection->recipients_sent < plan->to_count) {
        sender_rcpt(&connection->sender, plan->to[connection->recipients_sent++], &plan->rcpt, out);
    } else if (plan->chunking) {
        /* Kept back until the recipients are known: octets for nobody are a waste. A chunk that is
         * still being sent holds the next one back. */
        if (!all_answered || connection->recipients_accepted == 0 || connection->body_active ||
            connection->link.sending ||
            connection->chunk == connection->client->message->chunk_count)
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
command_next(struct send_connection *connection)
{
    size_t before;

    if (connection->state != SEND_BUSY || connection->refused || !may_send(connection))
        return false;
    before = connection->link.out.len;
    if (!command_write(connection))
        return false;
    send_print_commands(connection, before);
    if (connection->body_active)
        print_body(connection);
    return true;
}

/* 354 came. */
static void
data_begin(struct send_connection *connection)
{
    struct link *link = &connection->link;

    if (!link_room(link, HEAD_BYTES_MAX)) {
        send_connection_lost(connection, SPAN("out of memory"));
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
body_look(struct send_connection *connection)
{
    const struct link_body *body = &connection->body;

    if (!connection->body_active || link_body_left(body) > 0)
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
message_begin(struct send_connection *connection)
{
    connection->state = SEND_BUSY;
    connection->mail_sent = connection->data_sent = connection->answered = false;
    connection->refused = connection->partly = connection->verdict = false;
    connection->body_active = false;
    connection->recipients_sent = connection->recipients_answered = 0;
    connection->recipients_accepted = 0;
    connection->chunk = 0;
    connection->link.body = NULL;
    send_advance(connection);
}

/* The connection is free: the next message, or the end. */
void
send_next(struct send_connection *connection)
{
    struct send_client *client = connection->client;
    const struct send_plan *plan = client->plan;
    struct sender_needs needs = { .size = client->message->size,
                                  .eight_bit = client->message->eight_bit,
                                  .smtputf8 = plan->smtputf8 };
    struct reply refusal;

    connection->state = SEND_IDLE;
    if (connection->link.sending)
        return; /* its end is looked at again when it is over */
    if (client->left == 0) {
        send_connection_quit(connection);
        return;
    }
    if (plan->chunking && !connection->sender.offered.chunking) {
        send_complain(connection, "the server does not offer CHUNKING", SPAN(""));
        send_connection_quit(connection);
        return;
    }
    if (!sender_check(&connection->sender.offered, &needs, &refusal)) {
        /* What holds for one of the messages holds for all. */
        client->result->refused += client->left;
        client->left = 0;
        print_reply(&refusal, "not sent: the server does not offer what it needs", NO_SPAN);
        send_connection_quit(connection);
        return;
    }
    client->left--;
    message_begin(connection);
}

/* All replies to the message's commands are there. */
static void
message_end(struct send_connection *connection)
{
    struct send_client *client = connection->client;
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
    connection->state = SEND_RESETTING;
    if (sender_idle(&connection->sender)) {
        send_next(connection);
    } else if (sender_may_send(&connection->sender) && link_room(link, SENDER_COMMAND_ROOM)) {
        before = link->out.len;
        sender_reset(&connection->sender, &link->out);
        send_print_commands(connection, before);
    } else if (sender_ready(&connection->sender, 1)) {
        send_connection_close(connection);
    } /* else it was 421, and BROKEN is the next event */
}

/* --- replies --- */

static void
refuse(struct send_connection *connection, const struct reply *reply, const char *where)
{
    if (!connection->refused && send_may_print(connection->client))
        print_reply(reply, where, NO_SPAN);
    connection->refused = true;
}

static void
on_recipient(struct send_connection *connection, const struct sender_event *event)
{
    const struct send_plan *plan = connection->client->plan;
    bool good = reply_class(event->reply) == 2;

    connection->recipients_answered++;
    connection->recipients_accepted += good;
    if (good || connection->refused)
        return;
    connection->partly = true;
    if (send_may_print(connection->client))
        print_reply(event->reply, "RCPT TO", plan->to[event->recipient]);
}

static void
on_end(struct send_connection *connection, const struct reply *reply)
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

void
send_on_reply(struct send_connection *connection, const struct sender_event *event)
{
    const struct reply *reply = event->reply;
    bool bad = reply_class(reply) >= 4;

    ASSERT(connection->outstanding > 0);
    connection->outstanding--;
    connection->answered |=
        !(bad && event->expectation == SENDER_EXPECTS_MAIL && reply->code == 421);
    if (!connection->answered && connection->messages > 0)
        return; /* "connect again": BROKEN is next, and the message goes on another connection */
    switch (event->expectation) {
    case SENDER_EXPECTS_RCPT: on_recipient(connection, event); break;
    case SENDER_EXPECTS_DATA:
        if (!bad)
            data_begin(connection);
        else if (connection->recipients_accepted > 0)
            refuse(connection, reply, "DATA");
        break;
    case SENDER_EXPECTS_END: on_end(connection, reply); break;
    default:
        if (bad)
            refuse(connection, reply, sender_expectation_name(event->expectation));
        break;
    }
    if (connection->state != SEND_BUSY)
        return;
    if (connection->outstanding == 0 && !connection->body_active &&
        (connection->refused || connection->verdict ||
         (connection->recipients_accepted == 0 &&
          connection->recipients_answered == connection->client->plan->to_count)))
        message_end(connection);
}

/* Writes and sends what may go out now. */
void
send_advance(struct send_connection *connection)
{
    if (connection->state == SEND_IDLE)
        send_next(connection);
    body_look(connection);
    while (command_next(connection))
        ;
    link_flush(&connection->link);
    body_look(connection);
}
