/* sender: one SMTP connection to a next hop in the sender role, as a pure state machine.
 * Does:    writes commands, reads replies, matches them in order; EHLO (HELO when refused),
 *          STARTTLS, PIPELINING, CHUNKING, SIZE, 8BITMIME, SMTPUTF8, DSN as the next hop offers
 *          them. RFC 5321, 1870, 2920, 3030, 3207, 3461, 6152, 6531.
 * Owns:    its fields only. `in` is borrowed for the call. Message data is not its business: the
 *          caller sends it.
 * Memory:  none allocated.
 * Threads: the worker that initialised it.
 * Errors:  what the next hop says or fails to say becomes events; our errors ASSERT.
 * Order:   after START_TLS no step until sender_tls_started(). Commands only when
 *          sender_may_send() says so.
 */
#ifndef RINGPOST_RELAY_SENDER_H
#define RINGPOST_RELAY_SENDER_H

#include "core/address.h"
#include "core/reply.h"

enum sender_tls { SENDER_TLS_NONE, SENDER_TLS_OPPORTUNISTIC, SENDER_TLS_REQUIRE };

struct sender_capabilities { /* complete from READY on */
    bool esmtp, pipelining, chunking, size, eight_bit_mime, smtputf8, dsn, starttls;
    bool enhanced_codes;
    uint64_t size_max; /* 0: no fixed limit, or none told */
};

/* What every command sent is waiting for. One deadline (RFC 5321 4.5.3.2) and one text for logs
 * each. */
enum sender_expectation {
    SENDER_EXPECTS_NOTHING,
    SENDER_EXPECTS_GREETING,
    SENDER_EXPECTS_EHLO,
    SENDER_EXPECTS_HELO,
    SENDER_EXPECTS_STARTTLS,
    SENDER_EXPECTS_MAIL,
    SENDER_EXPECTS_RCPT,
    SENDER_EXPECTS_DATA,  /* 354 */
    SENDER_EXPECTS_CHUNK, /* BDAT without LAST */
    SENDER_EXPECTS_END,   /* the final dot, or BDAT LAST: the verdict */
    SENDER_EXPECTS_RSET,
    SENDER_EXPECTS_QUIT,
    SENDER_EXPECTATIONS
};

enum sender_event_kind {
    SENDER_NEED_INPUT, /* what is left of *in (at most SENDER_REPLY_LINE_BYTES_MAX) is a part of a
                        * line: call again with it and more bytes after it */
    SENDER_NEED_ROOM,  /* out has less than SENDER_COMMAND_ROOM left; only before the first READY */
    SENDER_START_TLS,  /* the 220 came and nothing after it: send nothing, shake hands,
                        * sender_tls_started() */
    SENDER_READY,      /* greeting, EHLO (and TLS) are done, or RSET was answered: a transaction
                        * may begin */
    SENDER_REPLY,      /* the reply to MAIL, RCPT, DATA, CHUNK or END, in the order of the commands:
                        * event.expectation, event.reply (valid until the next step). Its class is
                        * 2, 4 or 5; for DATA 3, 4 or 5. */
    SENDER_BROKEN,     /* this connection cannot be used: event.expectation is sender_lost(),
                        * event.reply is what the next hop said (code 0: it broke the protocol;
                        * reply.text says how). All of *in is dropped. Close it; outstanding
                        * expectations are lost. Any further step says the same again. */
    SENDER_CLOSED,     /* QUIT was answered, with whatever code: close. All of *in is dropped. Any
                        * further step says the same again. */
};

/* 421 as the reply to a transaction command comes out as SENDER_REPLY, popped like any other
 * reply. From then on sender_ready(), sender_may_send() and sender_idle() are false, and the next
 * step, with or without input, is SENDER_BROKEN with the same 421; commands still outstanding are
 * lost then. 421 to any other command but QUIT, or to none (an idle connection is being closed):
 * SENDER_BROKEN at once.
 *
 * After a refused MAIL, or with every RCPT refused, the replies to what was already sent still
 * come, each as its own event; they are consequences of the first refusal and say nothing new. A
 * DATA that is answered 354 even so must be ended: queue ".CRLF" and no body, call
 * sender_end_of_data() and pay no heed to the reply (RFC 2920 3.1). */
struct sender_event {
    enum sender_event_kind kind;
    enum sender_expectation expectation; /* REPLY, BROKEN */
    uint16_t recipient;        /* REPLY to RCPT: its number in the order of sender_rcpt() calls
                                * since MAIL, from 0 */
    const struct reply *reply; /* REPLY, BROKEN; else NULL */
};

/* Which timer runs; the caller knows the durations. */
enum sender_timer {
    SENDER_TIMER_NONE,            /* nothing is awaited */
    SENDER_TIMER_GREETING,        /* RFC 5321 4.5.3.2.1: 5 minutes */
    SENDER_TIMER_COMMAND,         /* EHLO, HELO, STARTTLS and the handshake after it, RSET: not
                                   * named there; as the greeting */
    SENDER_TIMER_MAIL,            /* 4.5.3.2.2: 5 minutes */
    SENDER_TIMER_RCPT,            /* 4.5.3.2.3: 5 minutes */
    SENDER_TIMER_DATA_INITIATION, /* 4.5.3.2.4: 2 minutes */
    SENDER_TIMER_DATA_BLOCK,      /* 4.5.3.2.5: 3 minutes, since bytes last moved; between 354 and
                                   * the final dot, and for BDAT without LAST */
    SENDER_TIMER_DATA_END,        /* 4.5.3.2.6: 10 minutes, since the last byte was sent; shorter
                                   * makes duplicates (RFC 1047) */
    SENDER_TIMER_QUIT,            /* short: nothing depends on it any more */
    SENDER_TIMERS
};

/* RFC 5321 4.5.3.1.5 says 512 with CRLF; real servers put long URLs and names into refusals. */
#define SENDER_REPLY_LINE_BYTES_MAX 2048

struct sender {
    struct span hostname; /* what EHLO says; outlives the sender */
    enum sender_tls tls;
    struct sender_capabilities offered;
    /* Private from here on. */
    uint8_t expectations[SENDER_EXPECTATIONS_MAX]; /* FIFO of what is outstanding */
    uint16_t first, count;
    uint16_t recipients_sent, recipients_answered, recipients_accepted;
    uint16_t lines;      /* of the reply being read */
    uint8_t phase;       /* enum sender_expectation: what is lost when the connection ends and
                          * nothing is outstanding */
    bool ready;          /* the opening dialogue is done */
    bool tls_active;
    bool tls_pending;    /* START_TLS was handed out */
    bool broken, closed; /* no more events but the last one */
    bool quitting;       /* QUIT was sent */
    bool in_transaction; /* MAIL was sent and not refused, and nothing ended it yet */
    bool mail_refused;   /* in this transaction: the next hop cannot take the message */
    bool data_open;      /* 354 came, the final dot was not queued yet */
    bool chunked;        /* BDAT was used in this transaction */
    size_t scanned;
    struct reply reply; /* the one being read, then the one handed out */
};

/* A connection was made; nothing is written until the greeting came. tls_active: implicit TLS is
 * already up. */
void sender_start(struct sender *sender, struct span hostname, enum sender_tls tls,
                  bool tls_active);

/* One event. Advances *in. `out` receives the commands that the opening dialogue needs (EHLO,
 * STARTTLS, HELO); after READY nothing is written and no room is asked for, so that replies can be
 * read while commands wait to be sent (RFC 2920 3.1: else both sides may wait for ever). */
MUST_USE struct sender_event sender_step(struct sender *sender, struct span *in,
                                         struct outbuf *out);

/* The client side handshake is done: what was offered before is forgotten (RFC 3207 4.2); writes
 * EHLO. */
void sender_tls_started(struct sender *sender, struct outbuf *out);

/* The connection was closed or failed, or a deadline passed: what verdict_decide() is to be asked
 * about. END when sender_ambiguous(); else the expectation that was lost first; with none
 * outstanding STARTTLS in the handshake, and within a transaction the command that was answered
 * last (DATA: the body was under way). NOTHING: no message was on the connection. */
enum sender_expectation sender_lost(const struct sender *sender);
/* True when a reply to END is outstanding: the next hop may have taken the message (RFC 1047):
 * ambiguous, never failed. Not so when MAIL or every RCPT was refused. After a 421 to an earlier
 * command ask this before the message goes anywhere else. Octets are not seen here: as long as the
 * caller knows that not all of a BDAT LAST left it, or came to a peer that had ended before,
 * nothing can have been taken. A caller that sends BDAT LAST in one burst with MAIL makes a dead
 * pooled connection ambiguous: see chunk_in_group() of delivery.c. */
bool sender_ambiguous(const struct sender *sender);

/* The timer of the oldest outstanding expectation: it runs since that command was sent or since
 * the last reply came, whichever is later. */
enum sender_timer sender_deadline_kind(const struct sender *sender);

/* True when the opening dialogue is done, the connection is not broken or being closed, and n more
 * commands fit the FIFO. */
bool sender_ready(const struct sender *sender, unsigned n);
/* True when a command may be written now: sender_ready(sender, 1), and nothing is outstanding or
 * PIPELINING was offered and the last command does not end a group (DATA, RSET, QUIT and the end
 * of data do); never between 354 and the final dot. */
bool sender_may_send(const struct sender *sender);
/* True when nothing is outstanding and no transaction is open: the connection may be pooled. */
bool sender_idle(const struct sender *sender);

struct sender_mail {
    struct span reverse_path; /* mailbox without brackets; empty: <> */
    uint64_t size;            /* octets, 0: not known; sent only when SIZE is offered */
    enum body_type body;      /* sent only when 8BITMIME is offered */
    bool smtputf8;            /* sent only when SMTPUTF8 is offered: see sender_check() */
    enum dsn_return dsn_return; /* RET, ENVID, NOTIFY, ORCPT are sent only when DSN is offered */
    struct span envid;
};

/* Commands, only when sender_may_send(), MAIL only when sender_idle(). Each appends one line to out
 * (which needs SENDER_COMMAND_ROOM) and pushes what it expects. Order: MAIL, RCPT..., then DATA and
 * the final dot, or BDAT... LAST. Once a refused MAIL is known there is no transaction: nothing
 * more may be sent for it. Any other refusal, also of BDAT LAST (RFC 3030 2), leaves it open, but
 * for that of the final dot: end it by RSET. Values go out as they are given: CR, LF, NUL, other
 * controls, and spaces outside of a quoted local part are our bug. */
void sender_mail(struct sender *sender, const struct sender_mail *mail, struct outbuf *out);
void sender_rcpt(struct sender *sender, struct span mailbox,
                 const struct rcpt_parameters *parameters, struct outbuf *out);
/* The body may follow only after the SENDER_REPLY to it, of class 3. */
void sender_data(struct sender *sender, struct outbuf *out);
/* BDAT: the caller sends exactly `size` octets right after. last: expects END, else CHUNK. */
void sender_chunk(struct sender *sender, uint64_t size, bool last, struct outbuf *out);
/* The caller has queued the final dot of DATA (after 354): expects END. */
void sender_end_of_data(struct sender *sender);
/* Not between DATA and the final dot. The event, after those of earlier commands, is READY; a
 * refusal is BROKEN. */
void sender_reset(struct sender *sender, struct outbuf *out);
void sender_quit(struct sender *sender, struct outbuf *out);

/* What a message needs and whether the next hop offers it (RFC 6152 3, 6531 3.2, 1870 6.1,
 * 3461 5.2.2). */
struct sender_needs {
    uint64_t size;  /* octets; 0: not known */
    bool eight_bit; /* octets above 127 are in it, or (when it is not known yet) BODY=8BITMIME was
                     * declared */
    bool smtputf8;  /* envelope or header section need it */
    bool success_notice; /* a recipient asks for NOTIFY=SUCCESS, and we cannot send a "relayed"
                          * notice ourselves */
};
/* True: it can go. False: *refusal is the right reply (552 5.3.4, 553 5.6.7, 554 5.6.3,
 * 550 5.3.3). */
MUST_USE bool sender_check(const struct sender_capabilities *offered,
                           const struct sender_needs *needs, struct reply *refusal);

/* "MAIL FROM", "end of data", ... */
const char *sender_expectation_name(enum sender_expectation expectation);

#endif
