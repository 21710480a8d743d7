/* relay_hop: a connection of the relay to a next hop, as that sees it.
 * Does:    what relay_hop.c (lines, replies, time) and relay_hop_commands.c (what they mean) share.
 * Owns:    lines live until the world ends, since deliveries point to them.
 * Threads: one.
 */
#ifndef RINGPOST_TESTS_SIM_RELAY_HOP_H
#define RINGPOST_TESTS_SIM_RELAY_HOP_H

#include "tests/sim/relay_secure.h"

enum line_state { LINE_COMMANDS, LINE_DATA, LINE_CHUNK };

struct line {
    struct line *next;
    struct next_hop *hop;
    uint32_t server, number;
    struct sim_end *end; /* NULL: gone */
    struct secure secure;
    bool injects;    /* text behind its 220 to STARTTLS */
    bool starts_tls; /* when what waits has gone */
    struct text in, octets, waiting; /* waiting: a reply that is late */
    uint64_t written, taken; /* taken: when it went */
    enum line_state state;
    uint64_t chunk_left;
    bool chunk_last, chunk_bad, by_data;
    bool late;    /* a timer stands behind it: nothing is read before */
    bool closing; /* after what waits */
    bool mail, null_sender, data_no;
    uint32_t sender; /* its number; UINT32_MAX: none */
    struct letter *letter, *report; /* what the recipients say */
    uint64_t recipients;
    uint32_t recipient_count;
    struct delivery *answered; /* whose reply waits */
    struct delivery *last;     /* whose reply waits to be heard */
};

/* A reply, at once or late, whole or in pieces. */
void line_reply(struct line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
void line_gone(struct line *line);
/* The connection goes: with or without a FIN. */
void line_drop(struct line *line);
/* A whole command, without its CRLF. */
void line_command(struct line *line, const char *command, size_t len);
/* The end of a message: line->octets. */
void line_message(struct line *line);
/* With this chance, but not while the hop is well. */
bool line_chance(const struct line *line, uint32_t of_10000);
void line_transaction_end(struct line *line);

#endif
