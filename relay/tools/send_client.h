/* send_client: sends messages over a few connections, each a sender joined with a link, and says
 * what came of them. Does:    all of the dialogue; prints verdicts, and the dialogue itself if so
 * wished. Owns:    its ring and connections while it runs. Memory:  at start only. Threads: its
 * caller's. Errors:  counted in the result, and told on stdout (what the server said) or stderr
 * (what failed here).
 */
#ifndef RINGPOST_RELAY_TOOLS_SEND_CLIENT_H
#define RINGPOST_RELAY_TOOLS_SEND_CLIENT_H

#include "core/config.h"
#include "relay/tools/send_message.h"
#include "relay/sender.h"
#include "tls/context.h"

#define SEND_ADDRESSES_MAX 16

struct send_plan {
    struct config_address addresses[SEND_ADDRESSES_MAX]; /* of the server, tried in order */
    size_t address_count;
    const char *server;      /* as the user wrote it */
    const char *tls_name;    /* for SNI and verification */
    struct tls_context *tls; /* NULL: none */
    bool implicit;           /* TLS from the first octet; else STARTTLS */
    struct span helo, from;
    const struct span *to;
    size_t to_count;
    struct rcpt_parameters rcpt; /* the same for all */
    enum dsn_return dsn_return;
    struct span envid;
    bool smtputf8, chunking, one_by_one; /* one_by_one: no pipelining */
    bool composed;                       /* each message gets a Message-ID of its own */
    uint64_t chunk_size;                 /* 0: one chunk */
    uint64_t count, timeout_ms;
    uint32_t connections;
    bool verbose;
};

struct send_result {
    uint64_t taken;   /* messages that were answered 2xx for all recipients */
    uint64_t partly;  /* for some */
    uint64_t refused; /* for none */
    uint64_t lost;    /* the connection ended before the verdict */
    uint64_t unsent;  /* never tried */
    uint64_t elapsed_ns;
};

/* False: it could not even start; stderr says why. */
MUST_USE bool send_client_run(const struct send_plan *plan, struct send_message *message,
                              struct send_result *result);

#endif
