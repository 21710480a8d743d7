/* relay_world: the whole relay on the simulated machine, those who talk to it, and what was
 * promised to whom.
 * Does:    one world per seed: clients, next hops, lives of the relay, a ledger of letters. For
 *          relay_main.c (the driver), relay_history.c (what is drawn), relay_life.c (the relay),
 *          relay_client*.c, relay_hop*.c (actors), relay_letter.c, relay_audit.c (the rules).
 * Owns:    all of it; by malloc(), so that it outlives a power cut of the relay.
 * Threads: one.
 * Errors:  what the rules do not allow ends the process, with an exit code that says which kind.
 */
#ifndef RINGPOST_TESTS_SIM_RELAY_WORLD_H
#define RINGPOST_TESTS_SIM_RELAY_WORLD_H

#include <setjmp.h>

#include "core/clock.h"
#include "core/config.h"
#include "tests/sim/sim_net.h"
#include "tests/sim/sim_tls.h"

#define LETTER_RECIPIENTS_MAX 12
#define HOPS_MAX 3
#define SERVERS_MAX 2
#define WORKERS_DRAWN_MAX 3
#define CLIENT_PORT 2525
#define HOP_PORT 3000 /* + 10 * hop + server */
#define ACTOR_LINE_BYTES 4096
#define LIVES_MAX 64

/* How a world ends: exit codes of a child, and of the driver. */
enum ending {
    ENDING_WELL = 0,
    ENDING_AUDIT = 3,     /* a promise was broken: A1 to A6 */
    ENDING_LIVENESS = 4,  /* A7 */
    ENDING_ASSERTION = 5, /* an ASSERT or a sanitizer: the child died by a signal */
    ENDING_OTHER = 6,     /* A8: the same seed, another history */
};

/* --- letters: what clients try to send --- */

enum told { TOLD_NOTHING, TOLD_YES, TOLD_LATER, TOLD_NO };

struct line; /* a connection to a next hop */

/* A next hop has taken a letter. */
struct delivery {
    struct delivery *next; /* the one before it */
    uint64_t number, recipients; /* bits */
    uint64_t end_ns, life;
    struct line *line;
    uint64_t reply_end; /* of its line's octets; 0: it said nothing, or nonsense */
    uint64_t heard_ns;  /* the relay has taken the reply; 0: not seen */
};

struct addressee {
    uint8_t hop;
    uint8_t told;     /* what RCPT was answered (enum told) */
    bool no, later;   /* its next hop said 5xx, 4xx about it, or to the letter */
    bool reported;    /* its sender has a report that it failed */
    uint32_t taken;   /* times */
};

struct letter {
    struct letter *next;
    uint32_t number;
    struct client *client;
    char *octets; /* without dots added */
    size_t bytes;
    struct addressee to[LETTER_RECIPIENTS_MAX];
    uint32_t count;
    bool null_sender, eight_bit, utf8, says_eight_bit, says_size, whole_line;
    bool chunked;
    bool illegal; /* must be refused, and go nowhere */
    bool evil;    /* only ever named in another one's body, or by a hostile client */
    bool loose; /* a hostile client's: nobody knows what it should be */
    uint8_t told;   /* the last word (enum told) */
    bool queued;    /* the last word was that it is stored */
    bool ambiguous; /* the relay's log says so */
    bool report_expired; /* the same: its sender could not be told in time */
    bool complete;  /* its last octet was given to the network */
    bool begun;
    bool stored; /* the relay's log says that it is durable */
    uint64_t complete_ns, told_ns, told_life;
    uint64_t realtime_least_ns; /* that the time of day has been since it was complete */
    char reply[128];
    struct delivery *deliveries;
};

struct letter *letter_new(struct client *client);
struct letter *letter_find(uint32_t number);
/* What its client says of its size, if it says anything. */
uint64_t letter_said_bytes(const struct letter *letter);
/* Octets on the wire, dots added and the end put behind it; to be freed. */
char *letter_wire(const struct letter *letter, size_t *bytes);
void letter_sender(const struct letter *letter, char *out, size_t size);
void letter_recipient(const struct letter *letter, uint32_t index, char *out, size_t size);
/* NULL, or what differs: octets as they came out of a relay, dots removed. */
const char *letter_compare(const struct letter *letter, const char *octets, size_t bytes,
                           bool by_data);

/* --- text that grows --- */

struct text {
    char *data;
    size_t len, room;
};
void text_add(struct text *text, const char *data, size_t len);
void text_format(struct text *text, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void text_remove(struct text *text, size_t len);
void text_free(struct text *text);

/* --- clients --- */

enum client_kind { CLIENT_POLITE, CLIENT_HOSTILE };

struct client;
/* It comes at that time. */
void client_new(uint64_t at_ns, enum client_kind kind);
void clients_free(void);
/* False: somebody still talks, or will. */
bool clients_done(void);
/* Nobody begins anything new. */
void clients_stop(void);
struct client *client_waiting(void);
const char *client_name(const struct client *client);

/* --- next hops --- */

struct mood { /* chances in 10000 */
    uint32_t later, no, closing, drop, drop_after_end, slow, stall, pieces, garbage;
};

struct next_hop {
    uint32_t index;
    struct {
        bool pipelining, eight_bit, utf8, size, chunking, dsn, codes, ehlo, tls;
    } offers;
    bool by_data;  /* no BDAT, whatever it offers: `chunking: false` */
    bool verified; /* nothing goes to it but over TLS with a good certificate */
    struct mood mood; /* while it is not well */
    bool well;
    bool up[SERVERS_MAX];
    uint32_t servers;
};

void hops_start(void);
void hops_free(void);
/* All of them, for good. */
void hops_well(void);
/* Has the relay heard the reply that this delivery was given? */
bool delivery_heard(const struct delivery *delivery);

/* --- the world --- */

struct world {
    uint64_t seed;
    struct sim_random random, clients_random, hops_random;
    struct sim_faults disk_faults;
    struct sim_net_faults net_faults;
    struct sim_tls_faults tls_faults;
    bool tls, implicit, faults_on, any_disk_faults, any_net_faults, any_cuts, any_jumps, hostile;
    bool verbose;
    /* what the configuration says */
    bool cut_through, on_defer_spool, stores;
    uint64_t message_size, text_line, patience_ms, data_end_ms, expire_ms, retry_ms;
    uint32_t connections;
    struct next_hop hops[HOPS_MAX];
    uint32_t hop_count;
    struct config *config;
    struct text yaml;
    /* the life that runs */
    struct relay *relay;
    uint32_t worker_count;
    uint64_t life, steps, quiet_since_ns;
    uint64_t unclean_ns[LIVES_MAX]; /* when that life ended without order; 0: it did not */
    jmp_buf power;
    uint64_t repeats_life; /* the last one that may have found more in its spool than there was */
    uint64_t realtime_most_ns; /* that the time of day has ever been */
    uint64_t full_before; /* sim_count() of what keeps a letter out of the spool */
    uint64_t reads_failed; /* sim_count() when the world began */
    bool cut_wanted; /* just now, with all lost that is not durable */
    bool ending;
    /* the ledger */
    struct letter *letters, **letters_end;
    struct letter **by_number;
    uint32_t letter_count, letters_max;
    uint64_t hash;
    struct totals {
        uint64_t worlds, lives, cuts, letters, accepted, queued, refused, delivered, reports,
            duplicates, jumps, injections, durable_cuts, hours_ns;
    } totals;
};
extern struct world world;

_Noreturn void world_fail(enum ending ending, const struct letter *letter, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* A line of the story: printed with VERBOSE=1, hashed always. */
void world_say(const char *who, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One seed from its beginning to its end. Returns the hash of all that happened. */
uint64_t world_run(uint64_t seed, struct totals *totals);
void world_draw(void);
/* Time passes; the relay runs, if it is there. False: the power failed. */
bool world_pass(uint64_t until_ns);

/* --- a life (relay_life.c) --- */

/* False: a fault refused it. */
bool life_begin(uint32_t workers);
/* Until that time. */
void life_run(uint64_t until_ns);
/* Asked to stop; until it has. */
void life_drain(void);
void life_abandon(void);
/* What an operator does when the disk is well again: what was set aside comes back, what was held
 * because it could not be read is released. Before a life, and in one. */
void life_restore(void);
void life_release(void);
/* Nothing is under way or waits. */
bool life_quiet(void);

/* --- the rules (relay_audit.c) --- */

void audit_told(struct letter *letter, const char *reply);
void audit_told_recipient(struct letter *letter, uint32_t index, const char *reply);
void audit_log(struct span line);
void audit_mail(uint32_t number);
void audit_recipient(struct letter *letter, uint32_t index, uint32_t hop);
struct delivery *audit_taken(struct letter *letter, uint64_t recipients, struct line *line,
                             const struct text *octets, bool by_data);
void audit_report(struct letter *letter, const struct text *octets);
/* After each turn of a worker. */
struct worker;
void audit_marks(const struct worker *worker);
/* The relay has stopped in order. */
void audit_life_end(void);
/* Everything is quiet: all that was promised has happened. */
void audit_end(void);

#endif
