/* spool_world: a spool with its workers on the simulated machine, what was given to it, and what
 * must therefore be found after a power cut.
 * Does:    lives (start, work, stop or power cut) drawn from one seed; a ledger of messages. For
 *          spool_crash.c (the driver), spool_world.c (a life), spool_message.c (what a message is),
 *          spool_audit.c (the ledger's rules), spool_moves.c, spool_rot.c and spool_prefixes.c.
 * Owns:    all of it; messages by malloc(), so that they outlive a power cut.
 * Threads: one.
 * Errors:  what the ledger does not allow ends the process, with a line that repeats it.
 */
#ifndef RINGPOST_TESTS_SIM_SPOOL_WORLD_H
#define RINGPOST_TESTS_SIM_SPOOL_WORLD_H

#include "core/log.h"
#include "relay/spool/found.h"
#include "relay/spool/spool.h"
#include "tests/sim/sim.h"

#define WORLD_WORKERS_MAX 3
#define WORLD_BUFFERS 2048
#define MOVES_AT_A_TIME 4
#define PLACES_MAX 8
#define WORLD_SEGMENTS_WATCHED 64
#define TICKET_KIND 7

/* What the spool has said of a message. */
enum story {
    STORY_GIVEN,   /* nothing yet: may be found */
    STORY_STORED,  /* that it is safe, or it was found once: must be found until it is finished */
    STORY_FAILED,  /* an error: may be found (more than promised), until a start does not */
    STORY_GONE,    /* finished for certain, or not found by a whole recovery: never again */
    STORY_EXCUSED, /* its octets were spoiled: may be found */
};

enum activity {
    ACTIVITY_NONE,
    ACTIVITY_FILLING, /* its body file is written */
    ACTIVITY_STORING,
    ACTIVITY_LOADING,
    ACTIVITY_READING, /* its body file is read */
};

struct mark_note {
    uint32_t recipient;
    struct mark mark;
};

struct place_note { /* where its octets are, or were once */
    uint64_t number, offset, bytes;
};

struct message {
    char id[16];
    uint64_t seed, body_bytes, arrival_ns;
    uint32_t recipients, flags;
    enum story story;
    /* marks: in the file for certain, and set since */
    struct mark *base, *marks;
    struct mark_note *notes;
    uint32_t note_count, notes_max;
    struct place_note places[PLACES_MAX];
    uint32_t place_count;
    uint64_t given_life; /* in which it was given to the spool */
    uint64_t found_life; /* the last in which it was found, or stored */
    /* in this life */
    bool live; /* it has a place */
    bool audited; /* its octets were compared in this life */
    bool forgotten;
    bool spoiled; /* in any life: its octets were changed on the disk */
    bool moving;
    bool moved; /* and the clean is not finished: to */
    enum activity activity;
    uint32_t worker;
    uint64_t reserved;
    struct spool_place place, to;
    struct spool_store store;
    struct spool_load load;
    struct spool_move move;
    struct spool_body *file;
    struct envelope envelope;
    struct chain body;
    uint64_t done; /* octets of the body given, or compared */
    uint64_t faults; /* that reads had when it was begun */
    char origin[512];
};

struct worker {
    struct io *io;
    struct spool *spool;
    struct counters counters;
    struct pool blocks;
    bool recovered;
    bool cleaning, clean_failed;
    uint32_t clean_segment, moves;
    struct waiting_marks { /* of a segment: the block that waits, and since when */
        uint32_t block;
        uint64_t written, writes;
    } marks[WORLD_SEGMENTS_WATCHED];
};

enum moment { MOMENT_NONE, MOMENT_CLEANED, MOMENT_FORGOTTEN, MOMENT_STORED, MOMENTS };

struct world {
    uint64_t seed;
    struct sim_random random;
    struct sim_faults faults; /* while they are on */
    bool faults_on;
    bool check_all; /* every message that is found is compared */
    struct config config;
    struct spool_directory directory;
    bool open;
    struct worker workers[WORLD_WORKERS_MAX];
    uint32_t worker_count;
    struct message **messages;
    uint32_t message_count, messages_max;
    uint64_t life, steps;
    bool recovered; /* the ledger was closed for this life */
    bool stopping;
    bool cut;     /* the power failed once */
    bool relaxed; /* octets were spoiled, or could not be read: now or earlier */
    bool excused; /* they could not be read in this life's recovery */
    uint64_t read_faults; /* when this life began */
    uint64_t sync_faults; /* when the first life began */
    uint32_t refused; /* starts in a row */
    uint64_t active_ns; /* when something happened last */
    uint32_t spins;     /* turns in a row that were asked for at once and did nothing */
    bool full_disks; /* others fill the disk now and then */
    bool bad_reads;     /* reads and opens fail during recovery, too */
    jmp_buf power;
    enum moment moment; /* around which the power may fail in this life */
    const char *repeat; /* the command that does it again */
    uint64_t stored, found, finished, moves, cleans, loads, lives;
};

_Noreturn void world_fail(const struct world *world, const struct message *message,
                          const char *format, ...) __attribute__((format(printf, 3, 4)));

/* --- spool_message.c --- */

struct message *message_new(struct world *world, bool large);
void message_free(struct message *message);
void message_octets(const struct message *message, uint64_t offset, char *out, size_t len);
/* False: no room in the worker's buffers or blocks. */
MUST_USE bool message_envelope_make(struct message *message, struct worker *worker);
MUST_USE bool message_body_add(struct message *message, struct buffers *buffers,
                               struct chain *chain, uint64_t bytes);
/* NULL, or what differs. */
const char *message_record_check(const struct message *message, const struct record *record,
                                 const struct record_envelope *envelope);
/* The octets of the chain are those from message->done on; counts them. */
MUST_USE bool message_body_check(struct message *message, const struct buffers *buffers,
                                 const struct chain *chain);
bool mark_is_final(struct mark mark);
bool message_finished(const struct message *message);
/* Counts and text of a message, for a report. */
void message_describe(const struct message *message, char *out, size_t size);

/* --- spool_world.c --- */

void world_init(struct world *world, uint64_t seed);
void world_end(struct world *world);
/* False: the directory could not be opened (a fault). */
MUST_USE bool world_open(struct world *world, uint32_t workers);
/* Faults that reads have had. */
uint64_t world_read_faults(void);
/* One turn of one worker. */
void world_turn(struct world *world, struct worker *worker);
/* Time goes on to the next thing to do. */
void world_pass(struct world *world, uint64_t most_ns);
/* Without faults: all that was asked for is answered, all that was marked is durable. */
void world_settle(struct world *world);
void world_stop(struct world *world);
/* After sim_power_lost(): of this life nothing is left. */
void world_abandon(struct world *world);
struct message *world_message(const struct world *world, const char id[16]);
void world_faults(struct world *world, bool on);

/* It has come: the power may fail soon. */
void world_moment(struct world *world, enum moment moment);

/* --- what the owner of messages does (spool_world.c, spool_moves.c) --- */

void owner_store(struct world *world, struct worker *worker, bool large);
void owner_load(struct world *world, struct message *message);
void owner_mark(struct world *world, struct message *message, uint32_t recipient, struct mark mark);
void owner_forget(struct world *world, struct message *message);
void owner_clean_begin(struct world *world, struct worker *worker, uint32_t segment);
void owner_clean_step(struct world *world, struct worker *worker);
void owner_moved(struct world *world, struct worker *worker, struct spool_move *move);

/* Something was asked for and is not answered. */
bool owner_busy(const struct world *world);

/* --- spool_audit.c --- */

void audit_stored(struct world *world, struct message *message);
void audit_found(struct world *world, struct worker *worker, const struct spool_event *event);
/* Recovery of all workers is over. */
void audit_recovered(struct world *world);
/* Everything that was set is durable. */
void audit_settled(struct world *world);
/* No segment's marks wait while those of others are written over and over. */
void audit_marks_wait(const struct world *world, struct worker *worker);
/* What the directory holds after a stop in order. */
void audit_directory(const struct world *world);
/* A life begins. */
void audit_begin(void);
/* A sink for core/log.h: alarms that nothing explains. */
void audit_log(void *context, enum log_level level, struct span line);
void audit_place(struct message *message, uint64_t number, const struct spool_place *place);

/* --- spool_rot.c --- */

/* Spoils the disk, and excuses what was hit. */
void rot(struct world *world, struct sim_random *random);

/* --- spool_history.c --- */

/* Several lives drawn from the seed. */
struct history_totals {
    uint64_t lives, stored, found, finished, moves, cleans, loads;
};
/* directory_forgets: struct sim_options. Returns the trace's hash. */
uint64_t history_run(uint64_t seed, bool directory_forgets, struct history_totals *totals);
/* What owners do with a spool: steps of each kind in 1000; the rest are turns of one worker. */
struct mix {
    uint32_t stores, marks, finishes, loads, passes, pauses, settles;
};
extern const struct mix mix_prefixes;
/* One step. */
void history_step(struct world *world, const struct mix *mix);

/* --- spool_prefixes.c --- */

/* Every prefix of a short history of so many steps, and each fate of the last `depth` changes that
 * were not durable, those before all kept or all lost. operation_only: that prefix alone, else
 * UINT64_MAX. Returns the number of images tried. */
uint64_t prefixes_run(uint64_t seed, uint32_t steps, uint32_t depth, uint64_t operation_only);

#endif
