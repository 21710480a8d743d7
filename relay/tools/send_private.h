/* send_private: what send_client.c and send_transaction.c tell each other; nobody else includes it.
 * Does:    a connection of `ringpost send` (send_client.c) and the message it is at
 *          (send_transaction.c).
 */
#ifndef RINGPOST_RELAY_TOOLS_SEND_PRIVATE_H
#define RINGPOST_RELAY_TOOLS_SEND_PRIVATE_H

#include "core/timers.h"
#include "relay/link.h"
#include "relay/tools/send_client.h"

enum send_state {
    SEND_OPENING, /* connecting, TLS, greeting, EHLO */
    SEND_IDLE,    /* a message may begin */
    SEND_BUSY,    /* with a message */
    SEND_RESETTING,
    SEND_QUITTING,
    SEND_CLOSING,
    SEND_GONE,
};

struct send_connection {
    struct link link;
    struct sender sender;
    struct timer timer;
    struct link_body body;
    struct send_client *client;
    size_t address;
    enum send_state state;
    bool spoke; /* sender_start() was called */
    bool mail_sent, data_sent;
    bool answered; /* the server said something to this message */
    bool refused;  /* the message is refused for all */
    bool partly;   /* a recipient was refused */
    bool body_active;
    bool verdict;         /* the reply to the end of the message came */
    bool shaking;         /* a TLS handshake is under way */
    uint32_t outstanding; /* commands without their reply */
    uint32_t recipients_sent, recipients_answered, recipients_accepted;
    uint32_t chunk;
    uint64_t messages; /* brought to an end on this connection */
};

struct send_client {
    const struct send_plan *plan;
    const struct send_message *message;
    struct send_result *result;
    struct io *io;
    struct link_shared links;
    struct pool blocks;
    struct timers timers;
    struct send_connection *connections;
    uint32_t open;
    uint64_t left; /* messages that nobody has begun */
    uint64_t now_ns, serial, printed;
};

/* --- send_client.c --- */

void send_connection_close(struct send_connection *connection);
/* The connection is of no use any more; a message that it was at is lost. */
void send_connection_lost(struct send_connection *connection, struct span why);
void send_connection_quit(struct send_connection *connection);

/* --- send_transaction.c --- */

/* The connection is free: the next message, or the end. */
void send_next(struct send_connection *connection);
/* Writes and sends what may go out now. */
void send_advance(struct send_connection *connection);
void send_on_reply(struct send_connection *connection, const struct sender_event *event);

/* Printing, with --verbose and else: lines after a mark; commands written since out had `before`
 * octets; what went wrong here. */
void send_print_lines(const char *mark, struct span lines);
void send_print_commands(const struct send_connection *connection, size_t before);
void send_complain(const struct send_connection *connection, const char *what, struct span why);
/* Whether one more failure of a message is printed: with many messages only the first ones are. */
MUST_USE bool send_may_print(struct send_client *client);

#endif
