/* verdict: what a failure or a reply of a next hop means for the message; the one place of
 *          delivery policy.
 * Does:    a total table (what was expected x what came) -> action, with the few reply codes that
 *          say more than their class. RFC 5321 4.2.1, 4.5.4; RFC 1047.
 * Owns:    nothing.
 * Memory:  none. Pure.
 * Errors:  a context that cannot be (a code of another class, CONTINUE to be told to a client) is
 *          our bug: ASSERT.
 */
#ifndef RINGPOST_RELAY_VERDICT_H
#define RINGPOST_RELAY_VERDICT_H

#include "core/reply.h"
#include "relay/sender.h"

/* What came instead of, or as, the reply. */
enum verdict_class {
    VERDICT_2XX,
    VERDICT_3XX,
    VERDICT_4XX,
    VERDICT_5XX,
    VERDICT_LOST,     /* connection closed or reset */
    VERDICT_TIMEOUT,  /* its deadline passed */
    VERDICT_PROTOCOL, /* not SMTP, or a TLS failure */
    VERDICT_CLASSES
};

enum verdict_action {
    VERDICT_CONTINUE,    /* as it should be: go on */
    VERDICT_DELIVERED,   /* the next hop has the message */
    VERDICT_NEXT_SERVER, /* this server is no use now: try the next server of the next hop; with
                          * none left, defer */
    VERDICT_FRESH,       /* a pooled connection was dead before any byte of this message was
                          * accepted: the same server, fresh connection */
    VERDICT_DEFER,       /* 4xx to the client */
    VERDICT_REFUSE,      /* the next hop's 5xx to the client */
    VERDICT_AMBIGUOUS,   /* end of data was sent, the reply is lost: 451, never sent again in this
                          * transaction, counted */
};

struct verdict_context {
    enum sender_expectation expectation; /* what the reply answers, or sender_lost(); NOTHING: no
                                          * message was on the connection, or connecting failed */
    enum verdict_class class;
    bool reused;           /* the connection had answered an earlier transaction */
    bool nothing_answered; /* no reply to any command of this transaction came yet */
    bool restartable;      /* the whole transaction can be sent again from its start: its message
                            * is still held (burst), or none of its body was given away yet */
    unsigned code;         /* reply code, 0 if none. 421, and 521, 530, 534, 535 and 538, speak of
                            * our connection or of the server and not of the message: never told to
                            * the client as they are; 503 to MAIL and 552 to RCPT are not
                            * permanent either */
};

/* For SENDER_REPLY and SENDER_BROKEN: event.expectation, verdict_class_of(event.reply) and its
 * code; for a closed connection or a deadline: sender_lost() and LOST or TIMEOUT. After a refused
 * MAIL do not ask about the replies to what was pipelined behind it: they only follow from it.
 * With opportunistic TLS the caller may answer a failed handshake by a connection without TLS
 * before it asks here. */
enum verdict_action verdict_decide(const struct verdict_context *context);

/* The reply that a client gets for action REFUSE, DEFER or AMBIGUOUS, and for NEXT_SERVER and FRESH
 * when there is nothing left to try (as DEFER): the next hop's own code, enhanced code and text
 * where it may be told, else ours (451 4.4.1 no connection to the next hop, 4.4.2 connection lost,
 * 4.7.5 TLS, ...). A temporary fault is never 5xx. from_next_hop: what it said, needed for a class
 * that is a reply; else what is known (code 0 and a text such as "certificate has expired"), or
 * NULL. */
void verdict_reply(const struct verdict_context *context, enum verdict_action action,
                   const struct reply *from_next_hop, struct reply *to_client);

/* PROTOCOL when the code is 0. */
enum verdict_class verdict_class_of(const struct reply *reply);

/* "defer", "next_server", ...: for logs. */
const char *verdict_action_name(enum verdict_action action);

#endif
