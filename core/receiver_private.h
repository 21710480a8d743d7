/* receiver_private: what the files of the receiver share; for core/receiver*.c and their tests.
 * Does:    the replies that the receiver gives of itself, each named once; the seams between
 *          receiver.c (states), receiver_command.c (verbs), receiver_data.c (DATA and BDAT) and
 *          receiver_reply.c (texts).
 */
#ifndef RINGPOST_CORE_RECEIVER_PRIVATE_H
#define RINGPOST_CORE_RECEIVER_PRIVATE_H

#include "core/receiver.h"

enum receiver_reply {
    REPLY_NONE, /* nothing to refuse */
    /* positive */
    REPLY_MAIL_OK,
    REPLY_RCPT_OK,
    REPLY_DATA_GO,
    REPLY_OK,
    REPLY_HELP,
    REPLY_VRFY,
    REPLY_QUIT,
    REPLY_START_TLS,
    /* the line or the verb */
    REPLY_UNKNOWN,
    REPLY_NOT_IMPLEMENTED,
    REPLY_FOREIGN,
    REPLY_LINE_TOO_LONG,
    REPLY_LINE_NUL,
    REPLY_LINE_BARE,
    REPLY_NO_ARGUMENT,
    REPLY_ARGUMENT_MISSING,
    REPLY_ARGUMENT_OCTETS,
    /* the order */
    REPLY_SAY_HELO,
    REPLY_SAY_EHLO,
    REPLY_SAY_MAIL,
    REPLY_SAY_RCPT,
    REPLY_NESTED,
    REPLY_BETWEEN_CHUNKS,
    REPLY_NO_RECIPIENTS,
    REPLY_TLS_NOT_OFFERED,
    REPLY_TLS_ACTIVE,
    REPLY_TLS_REQUIRED,
    REPLY_TLS_INJECTION,
    /* arguments */
    REPLY_HELO_NAME,
    REPLY_MAIL_SYNTAX,
    REPLY_MAIL_ADDRESS,
    REPLY_MAIL_TOO_LONG,
    REPLY_MAIL_NO_DOMAIN,
    REPLY_MAIL_UTF8,
    REPLY_RCPT_SYNTAX,
    REPLY_RCPT_ADDRESS,
    REPLY_RCPT_TOO_LONG,
    REPLY_RCPT_NO_DOMAIN,
    REPLY_RCPT_UTF8,
    REPLY_NEEDS_SMTPUTF8,
    REPLY_PARAMETER_SYNTAX,
    REPLY_PARAMETER_VALUE,
    REPLY_PARAMETER_TWICE,
    REPLY_PARAMETER_UNKNOWN,
    REPLY_PARAMETER_BINARY,
    REPLY_BDAT_SYNTAX,
    /* limits */
    REPLY_MESSAGE_TOO_BIG,
    REPLY_RECIPIENTS_LIMIT,
    REPLY_TRIES_LIMIT,
    REPLY_ERRORS_LIMIT,
    REPLY_TRANSACTIONS_LIMIT,
    /* the message */
    REPLY_DATA_BARE,
    REPLY_DATA_NUL,
    REPLY_DATA_LONG_LINE,
    REPLY_DATA_LOOP,
    RECEIVER_REPLIES
};

/* --- receiver_reply.c --- */

/* Writes the reply and counts it, with its reason. */
void receiver_say(struct receiver *receiver, enum receiver_reply reply, struct outbuf *out);
void receiver_say_greeting(struct receiver *receiver, struct outbuf *out);
void receiver_say_ehlo(struct receiver *receiver, struct outbuf *out);
void receiver_say_helo(struct receiver *receiver, struct outbuf *out);
void receiver_say_chunk(struct receiver *receiver, struct outbuf *out);
/* Writes a verdict; characters above 127 only to a client that used SMTPUTF8 (RFC 6531 3.7.4). */
void receiver_say_verdict(struct receiver *receiver, const struct reply *reply,
                          struct outbuf *out);
/* The line of a reply up to our host name or its end: what tests recognise it by. */
struct span receiver_reply_line(enum receiver_reply reply);

/* --- receiver.c --- */

/* The one place that changes the state. cause: a literal, for the trace. */
void receiver_enter(struct receiver *receiver, enum receiver_state to, const char *cause);
/* ABORT is told if a transaction is open; before the state or `discard` is changed. */
void receiver_end_transaction(struct receiver *receiver);
/* Says the reply and closes. */
void receiver_close(struct receiver *receiver, enum receiver_reply reply, const char *cause,
                    struct outbuf *out);
/* Counts an error of the client. False: it was one too many, 421 is said and the session is
 * closed. */
MUST_USE bool receiver_count_error(struct receiver *receiver, struct outbuf *out);
/* The same for what the client sent on trust behind a refusal: not an error, but limited too. */
MUST_USE bool receiver_count_excused(struct receiver *receiver, struct outbuf *out);
/* An error of the client: counts it and says the reply, or 421. */
void receiver_refuse(struct receiver *receiver, enum receiver_reply reply, struct outbuf *out);

/* --- receiver_command.c --- */

/* One whole command line without its CRLF. event->kind stays NEED_INPUT when there is no event. */
void receiver_command(struct receiver *receiver, struct span line, struct outbuf *out,
                      struct receiver_event *event);

/* --- receiver_data.c --- */

void receiver_command_bdat(struct receiver *receiver, struct span argument, struct outbuf *out,
                           struct receiver_event *event);
/* The DATA event was accepted. */
void receiver_data_begin(struct receiver *receiver);
/* The BDAT that asked for a verdict was refused with this reply. */
void receiver_chunk_refused(struct receiver *receiver, const struct reply *reply);
/* Octets of the whole message as SIZE counts them (RFC 1870 5). */
uint64_t receiver_message_size(const struct receiver *receiver);
/* One step in the states DATA and CHUNK. False: no event, go on. */
MUST_USE bool receiver_step_data(struct receiver *receiver, struct span *in, struct outbuf *out,
                                 struct receiver_event *event);
MUST_USE bool receiver_step_chunk(struct receiver *receiver, struct span *in, struct outbuf *out,
                                  struct receiver_event *event);

#endif
