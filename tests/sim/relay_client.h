/* relay_client: somebody who sends mail through the relay.
 * Does:    what relay_client.c (octets, time, replies), relay_client_talk.c (what a sender says)
 *          and relay_client_hostile.c (what should not be said) share.
 * Owns:    clients live until the world ends, since letters point to them.
 * Threads: one.
 */
#ifndef RINGPOST_TESTS_SIM_RELAY_CLIENT_H
#define RINGPOST_TESTS_SIM_RELAY_CLIENT_H

#include "tests/sim/relay_secure.h"

#define EXPECTED_MAX 256

enum expects {
    EXPECTS_GREETING,
    EXPECTS_EHLO,
    EXPECTS_STARTTLS,
    EXPECTS_MAIL,
    EXPECTS_RCPT,
    EXPECTS_DATA,
    EXPECTS_CHUNK,
    EXPECTS_END,
    EXPECTS_NOTHING_MUCH, /* NOOP, RSET, VRFY: any reply will do */
    EXPECTS_RSET,
    EXPECTS_QUIT,
};

enum stage { STAGE_IDLE, STAGE_MAIL, STAGE_RCPT, STAGE_DATA, STAGE_CHUNKS, STAGE_WAIT, STAGE_QUIT };

struct expected {
    enum expects what;
    struct letter *letter;
    uint32_t index;
};

struct client {
    struct client *next;
    uint32_t number;
    enum client_kind kind;
    struct sim_end *end;
    struct secure secure;
    uint64_t wire; /* octets of the connection */
    struct sim_random random;
    bool begun, over;
    /* how it is */
    bool tls, injects, greeted, pipelining, bold, drips, quits, helo, pauses, chatters;
    uint32_t letters_left;
    uint64_t cut_at; /* octets after which it goes away; UINT64_MAX: it does not */
    uint32_t goes_after_end; /* chance in 10000 to go right after the last octet of a letter */
    /* what it says */
    struct text out;
    uint64_t written, queued; /* octets given to the network, and to `out` */
    bool dripping;
    uint64_t end_at; /* of `queued`: the end of `letter`; UINT64_MAX: not said yet */
    struct letter *letter;
    enum stage stage;
    uint32_t at; /* recipient, or octet of the chunks */
    /* what it hears */
    struct text in;
    struct expected expected[EXPECTED_MAX];
    uint32_t expected_first, expected_count;
    uint64_t asked_ns; /* since when it waits for what is first */
    bool has_chunking, has_utf8;
};

void client_say(struct client *client, const char *data, size_t len);
void client_line(struct client *client, enum expects what, uint32_t index, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void client_expect(struct client *client, enum expects what, uint32_t index);
/* Goes away: by a FIN, or a reset. */
void client_leave(struct client *client, bool reset);
void client_over(struct client *client);

/* --- relay_client_talk.c --- */
/* Everything was answered: what comes next. */
void client_next(struct client *client);
void client_answer(struct client *client, const struct expected *expected, unsigned code,
                   const char *text);

/* --- relay_client_hostile.c --- */
void client_hostile(struct client *client);

#endif
