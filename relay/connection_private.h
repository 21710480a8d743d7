/* connection_private: what connection.c (opening, the loop, losing it) and delivery.c (a
 * transaction's commands, body and verdict) tell each other; nobody else includes it.
 */
#ifndef RINGPOST_RELAY_CONNECTION_PRIVATE_H
#define RINGPOST_RELAY_CONNECTION_PRIVATE_H

#include "relay/connection.h"

static inline struct worker *
worker_of(const struct connection *connection)
{
    return connection->hop->worker;
}

static inline struct server *
server_of(const struct connection *connection)
{
    return &connection->hop->servers[connection->server];
}

/* --- connection.c --- */

/* Nothing more is said; released when nothing is in flight. */
void connection_close(struct connection *connection);

/* --- delivery.c --- */

/* Takes the transaction off. */
void delivery_detach(struct connection *connection);
/* The transaction is over: RSET when its turn has come, or close. */
void delivery_drain_next(struct connection *connection);
/* Nothing is in flight any more: the verdict that had to wait for that. */
void delivery_late(struct connection *connection);
/* The transaction looks for another connection, or is deferred. */
void delivery_again(struct hop *hop, struct transaction *transaction);
/* A reply to a command of a transaction. */
void delivery_reply(struct connection *connection, const struct sender_event *event);
/* What came instead of a good reply. */
struct verdict_context delivery_context(const struct connection *connection,
                                        enum sender_expectation expectation,
                                        enum verdict_class class, unsigned code);
void delivery_fail(struct connection *connection, const struct verdict_context *context,
                   const struct reply *reply);

#endif
