/* sink_faults: faults that a sink makes on demand: the grammar of --fault, and which fault applies
 * when. Does:    reads `STAGE[~PATTERN]=ACTION[,WHEN]...`; decides for each occasion; counts
 * occasions. Owns:    its fields; patterns and the text of a fault point into the argument that was
 * parsed. Memory:  none allocated. Threads: parsed by the main thread; sink_faults_decide() by any
 * (what it counts is atomic). Errors:  a wrong argument is a text for the user.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_FAULTS_H
#define RINGPOST_RELAY_TOOLS_SINK_FAULTS_H

#include "core/reply.h"

enum sink_stage {
    SINK_CONNECT,  /* the connection was accepted, nothing was said */
    SINK_TLS,      /* before the handshake */
    SINK_GREETING, /* before the 220 */
    SINK_EHLO,
    SINK_HELO,
    SINK_STARTTLS,
    SINK_MAIL,
    SINK_RCPT,
    SINK_DATA, /* DATA or the first BDAT */
    SINK_BODY, /* while the message comes in */
    SINK_END,  /* the message is there, the verdict not */
    SINK_RSET,
    SINK_QUIT,
    SINK_STAGES
};

enum sink_action {
    SINK_REPLY, /* reply */
    SINK_RAW,   /* reply.text as it is */
    SINK_DROP,  /* the connection is closed without a reply */
    SINK_STALL, /* no reply ever; the connection stays */
    SINK_DELAY, /* what would happen happens, but later */
    SINK_SLOW,  /* the body is read at `number` octets a second */
};

struct sink_fault {
    const char *spec; /* as given, for messages */
    enum sink_stage stage;
    enum sink_action action;
    bool keep;             /* END: the message is kept all the same */
    struct reply reply;    /* REPLY, RAW */
    uint64_t number;       /* DELAY: milliseconds; SLOW: octets a second; BODY: octets before it */
    struct span path;      /* pattern for the address at hand (MAIL, RCPT); data == NULL: none */
    struct span from, to;  /* patterns for the transaction's addresses; data == NULL: none */
    uint32_t chance;       /* of SINK_CHANCE_WHOLE */
    uint64_t first, every; /* this occasion (from 1), and each so many-th after it */
    uint64_t times;        /* at most so many times; UINT64_MAX: no limit */
    uint64_t seen, happened; /* atomic: occasions that its patterns fit, and times it was chosen */
};
#define SINK_CHANCE_WHOLE 1000000u

#define SINK_FAULTS_MAX 64
struct sink_faults {
    struct sink_fault items[SINK_FAULTS_MAX];
    uint32_t count;
    uint32_t stages; /* a bit for each stage that has a fault: the others cost nothing */
};

#define SINK_FAULT_ERROR_BYTES 256
/* Adds one. False: *error says what is wrong with it. */
MUST_USE bool sink_faults_add(struct sink_faults *faults, const char *spec,
                              char error[SINK_FAULT_ERROR_BYTES]);

/* What is happening. Addresses without brackets. */
struct sink_occasion {
    enum sink_stage stage;
    struct span path;       /* MAIL: the reverse-path; RCPT: the recipient */
    struct span from;       /* of the transaction; MAIL: the same as path */
    struct span recipients; /* accepted so far, each ended by '\n' */
};

struct sink_decision {
    const struct sink_fault *fault; /* the first that applies, but for delays; NULL: none */
    uint64_t delay_ms;              /* the sum of all delays that apply; they come first */
};

/* random: the state of the caller's generator, not 0. */
struct sink_decision sink_faults_decide(struct sink_faults *faults,
                                        const struct sink_occasion *occasion, uint64_t *random);

/* '*' is any run of octets, '?' any one; ASCII letters ignore case. */
bool sink_pattern_match(struct span pattern, struct span text);

static inline bool
sink_faults_have(const struct sink_faults *faults, enum sink_stage stage)
{
    return (faults->stages & 1u << stage) != 0;
}

const char *sink_stage_name(enum sink_stage stage);

#endif
