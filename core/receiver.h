/* receiver: one SMTP session in the receiver role, as a pure state machine.
 * Does:    turns input bytes into events and reply bytes. RFC 5321, 1870, 2034, 2920, 3030, 3207,
 *          3461, 6152, 6531.
 * Owns:    its fields only. `in` is borrowed for the call; spans in an event point into `in` and
 *          are good until the caller gives those bytes back.
 * Memory:  none allocated; sizeof(struct receiver) is fixed and small: an idle session costs this.
 * Threads: the worker that initialised it.
 * Errors:  peer errors become replies; those of the environment arrive by receiver_verdict().
 * Order:   after an event marked (verdict), no step until receiver_accept() or receiver_verdict();
 *          after START_TLS, none until receiver_tls_started().
 */
#ifndef RINGPOST_CORE_RECEIVER_H
#define RINGPOST_CORE_RECEIVER_H

#include "core/address.h"
#include "core/counters.h"
#include "core/header.h"
#include "core/line.h"
#include "core/reply.h"

/* Bits. STARTTLS is not among them: see receiver_policy.starttls. */
enum receiver_extension {
    RECEIVER_PIPELINING = 1,
    RECEIVER_SIZE = 2,
    RECEIVER_8BITMIME = 4,
    RECEIVER_SMTPUTF8 = 8,
    RECEIVER_DSN = 16,
    RECEIVER_CHUNKING = 32,
    RECEIVER_EHLO = 64, /* all of them: EHLO itself is refused */
};

/* What all sessions of a listener share; read only, outlives them. */
struct receiver_policy {
    struct span hostname;      /* at most DOMAIN_BYTES_MAX */
    uint64_t message_size_max; /* octets, more than 0; advertised by SIZE; beyond: 552 5.3.4 */
    uint32_t recipients_max;   /* per transaction; beyond: 452 4.5.3 */
    uint32_t errors_max;       /* per session; beyond: 421 4.7.0 and close */
    uint32_t transactions_max; /* per session; beyond: 421 4.7.0 and close */
    uint32_t command_line_max; /* octets with CRLF; beyond: 500 5.5.2 */
    uint32_t text_line_max;    /* octets of a line of a message without CRLF; beyond: 554 5.6.0 */
    uint32_t received_max;     /* more Received: fields than this: 554 5.4.6 */
    bool starttls;             /* STARTTLS is offered (until it was used) */
    bool require_tls;          /* MAIL before TLS gets 530 5.7.0 */
    uint32_t without;          /* enum receiver_extension bits: not offered, and refused (555, 502)
                                * where a client uses them all the same */
};

enum receiver_event_kind {
    RECEIVER_NEED_INPUT, /* what is left of *in is a part of a line: call again with it and more
                          * bytes after it */
    RECEIVER_NEED_ROOM,  /* out has less than RECEIVER_REPLY_ROOM left: send it, call again */
    RECEIVER_MAIL,       /* (verdict) a transaction begins: event.path, event.mail */
    RECEIVER_RECIPIENT,  /* (verdict) event.path, event.rcpt */
    RECEIVER_DATA,       /* (verdict) message data is about to come: event.chunked says BDAT (once,
                          * at the first chunk). Accepting a DATA sends 354; a refused BDAT is told
                          * after its octets were dropped. */
    RECEIVER_BODY,       /* event.body: the next piece of the message, never empty (wire form; DATA:
                          * with stuffed dots and, at the end, the final ".CRLF"). More pieces or
                          * MESSAGE or ABORT follow. */
    RECEIVER_MESSAGE,    /* (verdict) the message is complete and well-formed: event.summary */
    RECEIVER_ABORT,      /* the transaction that an accepted MAIL began is over without a message:
                          * drop what was kept of it */
    RECEIVER_START_TLS,  /* 220 is in out: send it, shake hands, receiver_tls_started(). No byte
                          * that came before the 220 was submitted may be used: if there is one,
                          * receiver_starttls_injection() instead. */
    RECEIVER_CLOSE,      /* send out, then close. Nothing else follows; further steps repeat it. */
};

struct receiver_summary {
    uint64_t size;     /* octets without stuffed dots and terminator (RFC 1870) */
    uint32_t received; /* Received: fields seen */
    struct body_dots dots; /* none with BDAT */
    bool eight_bit;    /* an octet above 127 somewhere in the message */
    bool header_utf8;  /* octets above 127 in the header section: needs SMTPUTF8 (RFC 6532) */
    bool chunked;      /* came by BDAT: no stuffed dots, no terminator in the body pieces */
    bool ends_with_crlf;
};

struct receiver_event {
    enum receiver_event_kind kind;
    bool chunked;
    struct span body;
    struct path path;
    union {
        struct mail_parameters mail;
        struct rcpt_parameters rcpt;
        struct receiver_summary summary;
    };
};

enum receiver_state {
    RECEIVER_STATE_START,   /* no EHLO or HELO yet */
    RECEIVER_STATE_READY,   /* greeted, no transaction */
    RECEIVER_STATE_MAIL,    /* a reverse-path was accepted, no recipient yet */
    RECEIVER_STATE_RCPT,    /* at least one recipient was accepted */
    RECEIVER_STATE_DATA,    /* inside DATA */
    RECEIVER_STATE_CHUNK,   /* inside a BDAT chunk */
    RECEIVER_STATE_CHUNKED, /* between BDAT chunks */
    RECEIVER_STATE_TLS,     /* STARTTLS accepted, handshake not done */
    RECEIVER_STATE_CLOSED,  /* QUIT, 421 */
    RECEIVER_STATES
};

/* Why message data is read on but thrown away. A message may have several faults: the one that
 * stands first here is told, so that the reply does not depend on how the octets were split. */
enum receiver_discard {
    RECEIVER_KEEP,
    RECEIVER_DISCARD_BARE_NEWLINE,
    RECEIVER_DISCARD_NUL,
    RECEIVER_DISCARD_LONG_LINE,
    RECEIVER_DISCARD_LOOP,
    RECEIVER_DISCARD_SIZE,
    RECEIVER_DISCARD_VERDICT, /* the caller refused this BDAT: refused_code, refused_enhanced */
    RECEIVER_DISCARD_COMMAND, /* this BDAT was malformed or out of order: refused_reply */
};

struct receiver {
    const struct receiver_policy *policy;
    struct counters *counters;
    /* Private from here on, but for reading by the accessors below. */
    enum receiver_state state;
    uint8_t awaiting;      /* enum receiver_event_kind whose verdict is awaited, or 0 */
    uint8_t discard;       /* enum receiver_discard */
    uint8_t refused_reply; /* enum receiver_reply, of RECEIVER_DISCARD_COMMAND */
    uint8_t helo_len;
    uint16_t refused_code; /* of RECEIVER_DISCARD_VERDICT */
    struct enhanced_code refused_enhanced;
    bool esmtp, tls, chunked, smtputf8;
    bool aborting;      /* ABORT is to be told before anything else */
    bool group_failed;  /* a MAIL or BDAT was refused: what a pipelining client sent on trust after
                         * it is refused too, but is no error of the client (RFC 2920 3.1) */
    bool quit;          /* the client said QUIT */
    bool skipping_line; /* inside a line that was too long */
    bool skipped_cr;    /* its last octet so far was a CR */
    bool data_ended;    /* DATA: the final dot was seen */
    bool chunk_last;
    uint32_t idle_commands; /* NOOP and the like since the last MAIL */
    uint32_t recipients, errors, transactions;
    uint32_t tries;       /* RCPT commands, and commands excused by group_failed, since MAIL */
    uint64_t size;        /* octets of message data so far; DATA: in wire form */
    uint64_t chunk_size;  /* of the current BDAT */
    uint64_t chunk_left;  /* of it, still to come */
    size_t scanned;       /* resume point in a partial line */
    struct body_scanner body;
    struct header_scanner header;
    char helo[DOMAIN_BYTES_MAX];
};

/* A session that waits for its next command costs this and no buffer. */
_Static_assert(sizeof(struct receiver) <= 512, "an idle session is small");

/* Starts a session and writes the 220 greeting (`out` needs RECEIVER_REPLY_ROOM). tls: the
 * connection came by implicit TLS. The receiver counts in `counters`: commands, replies, command
 * errors, violations, recipients, messages (accepted, refused, deferred) and their bytes, and its
 * own refusals; sessions, connections, lost messages and gauges are the caller's. */
void receiver_start(struct receiver *receiver, const struct receiver_policy *policy,
                    struct counters *counters, bool tls, struct outbuf *out);

/* One event. Advances *in. `out` collects replies; it may hold earlier ones. An event that awaits a
 * verdict leaves RECEIVER_REPLY_ROOM in it. Any split of the same bytes gives the same events and
 * replies, but that BODY pieces are cut differently, and that more or less of a message may be
 * handed out before its ABORT. */
MUST_USE struct receiver_event receiver_step(struct receiver *receiver, struct span *in,
                                             struct outbuf *out);
/* The same without two copies of the event: of it only what belongs to its kind is written. */
void receiver_step_to(struct receiver *receiver, struct span *in, struct outbuf *out,
                      struct receiver_event *event);

/* The positive verdict with the usual text ("250 2.1.0 Ok", "354 ..."). For MESSAGE give the reply
 * by receiver_verdict(). */
void receiver_accept(struct receiver *receiver, struct outbuf *out);

/* Any verdict; a 2xx reply accepts (for DATA it becomes 354). A 4xx or 5xx refuses: MAIL: no
 * transaction begins; RECIPIENT: that recipient is not added; DATA: the transaction stays as it
 * was, but with BDAT it is over (ABORT follows, RFC 3030 2: what comes after a refused chunk must
 * not pass for a message); MESSAGE: it is over. After MESSAGE the transaction is over with any
 * verdict, and no ABORT follows. A 421 verdict is sent at once and the next step gives CLOSE (after
 * ABORT if a transaction was open). Refusals are not counted as the client's errors. `out` needs
 * RECEIVER_REPLY_ROOM. */
void receiver_verdict(struct receiver *receiver, const struct reply *reply, struct outbuf *out);

/* The handshake is done: forget all the client said (RFC 3207 4.2), wait for EHLO. */
void receiver_tls_started(struct receiver *receiver);

/* Plaintext bytes came after STARTTLS: if the 220 is still at the end of `out`, it is replaced by
 * 554 5.5.1; the next step gives CLOSE. */
void receiver_starttls_injection(struct receiver *receiver, struct outbuf *out);

/* What the session waits for: chooses the caller's timer. */
enum receiver_wait {
    RECEIVER_WAITS_COMMAND,
    RECEIVER_WAITS_DATA,
    RECEIVER_WAITS_VERDICT,
    RECEIVER_WAITS_TLS
};
enum receiver_wait receiver_waits_for(const struct receiver *receiver);

/* Ends the session from our side: writes 421 with the given enhanced code and text (4.4.2 timeout,
 * 4.3.2 shutting down); nothing during a TLS handshake, nor when the session is closed already. The
 * next step gives CLOSE (after ABORT if a transaction was open). Not while a verdict is awaited:
 * give the verdict first. `out` needs RECEIVER_REPLY_ROOM. */
void receiver_end(struct receiver *receiver, const char *enhanced, struct span text,
                  struct outbuf *out);

/* True between transactions, when nothing is lost by ending the session. */
bool receiver_idle(const struct receiver *receiver);

/* True when the client ended the session with QUIT. */
bool receiver_quit(const struct receiver *receiver);

/* Accessors for the trace field and logs. */
struct span receiver_helo(const struct receiver *receiver);
bool receiver_esmtp(const struct receiver *receiver);

const char *receiver_state_name(enum receiver_state state);

#endif
