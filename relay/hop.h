/* hop: one next hop as one worker sees it: its servers' health, its connections, the transactions
 * that wait for one.
 * Does:    picks a server (groups in order, equal servers by load), reuses connections, remembers
 *          dead servers so that no message waits for them, caps and closes.
 * Owns:    its connections.
 * Threads: the worker's: health is learnt by each worker for itself.
 */
#ifndef RINGPOST_RELAY_HOP_H
#define RINGPOST_RELAY_HOP_H

#include "relay/transaction.h"

struct server { /* one server of the next hop */
    const struct config_server *config;
    const struct config_address *address; /* resolved */
    struct connection *idle;              /* last used first */
    uint32_t idle_count, busy_count, connecting_count;
    bool down;         /* not tried before retry_ns */
    bool probing;      /* a connection is being tried although it is down */
    uint32_t failures; /* in a row */
    uint64_t failed_ns, retry_ns, probing_ns; /* since when it is down, and probing */
    uint64_t tls_retry_ns;                    /* opportunistic TLS failed: no TLS until then */
    uint64_t group_retry_ns; /* it lost a message with MAIL: no BDAT in one group until then */
    struct tls_session *tls_session;             /* to resume; may be NULL */
    char failure[128];                           /* the last one, for the log */
};

struct hop {
    struct worker *worker;
    const struct config_next_hop *config;
    struct hop_counters *counters;
    uint32_t index;
    struct server servers[SERVERS_PER_HOP_MAX];
    uint32_t server_count;
    uint32_t connection_count;
    uint32_t turn; /* round robin among equally loaded servers */
    struct verdict_context
        failed;               /* how opening a connection failed last: for those who are deferred */
    struct reply failed_said; /* what the server said, or is known; code 0: not a reply */
    struct transaction *waiting, **waiting_tail;
    uint32_t waiting_count;
};

void hop_init(struct hop *hop, struct worker *worker, uint32_t index);
/* Finds a connection for it, now or later: connection_begin(), or transaction_finish() when no
 * server can be reached. */
void hop_submit(struct hop *hop, struct transaction *transaction);
/* It no longer waits. */
void hop_withdraw(struct hop *hop, struct transaction *transaction);
/* A connection is ready for a transaction. */
void hop_connection_ready(struct connection *connection);
/* It never got ready: the server is marked down, those who wait are served elsewhere or told. */
void hop_connection_failed(struct connection *connection, const char *why,
                           const struct verdict_context *context, const struct reply *said);
/* An idle connection is taken out of the idle list. */
void hop_connection_unlink(struct connection *connection);
/* A connection is gone: there is room for another. */
void hop_connection_gone(struct hop *hop);
/* Whether it is worth trying now: a server is up, or may be tried again. */
bool hop_reachable(const struct hop *hop);
/* An operator says that it is worth it: servers that are down are not left alone any longer, but
 * for a second after their last failure. */
void hop_try_now(struct hop *hop);
/* Drain: idle connections are closed. */
void hop_close_idle(struct hop *hop);
void hop_destroy(struct hop *hop);

#endif
