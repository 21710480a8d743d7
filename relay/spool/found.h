/* found: what was in the spool's directory when the process started.
 * Does:    made by spool_directory_open(), worked off by the workers' recoveries: segment i is
 * worker i % workers' to read; who finds a message with a body in a file says that it is needed.
 * Owns:    its lists.
 * Memory:  allocated at start, freed by spool_directory_close().
 * Threads: the lists never change; fields that say so are atomic.
 */
#ifndef RINGPOST_RELAY_SPOOL_FOUND_H
#define RINGPOST_RELAY_SPOOL_FOUND_H

#include "relay/spool/spool.h"

struct found_segment {
    uint64_t number;
    uint64_t bytes;
    uint8_t *records; /* bits: first slots of the records that could be read; NULL: none. Written by
                       * its worker, read by all when found->reading is 0 */
    uint32_t slots;
};
struct found_body {
    char id[16];
    uint64_t bytes;
    uint32_t needed; /* atomic: a message that is not finished has it */
};
struct spool_found {
    struct found_segment *segments; /* by number */
    struct found_body *bodies;      /* by id */
    uint64_t *spares;
    uint32_t segment_count, segments_max;
    uint32_t body_count, bodies_max;
    uint32_t spare_count, spares_max;
    uint64_t number_most;   /* of any file that has a number in its name */
    uint64_t bytes;         /* of segments, bodies and spares */
    uint32_t damaged_files; /* NAME.damaged of an earlier start */
    uint32_t other_files;   /* that are none of ours */
    char other_name[64];    /* one of these */
    bool clean;             /* the process before us stopped in order */
    bool no_memory;
    uint32_t reading; /* atomic: workers that have not read all their segments yet */
    uint32_t damaged; /* atomic: a place could not be read, now or earlier, so that nobody
                       * can say which body files are needed: all stay */
};

#define FOUND_LOCK_NAME "lock"
/* Stands there from a stop in order to the next start. */
#define FOUND_CLEAN_NAME "clean"

/* 0, or a negative errno; found->no_memory. found_free() in any case. */
MUST_USE int found_list(struct spool_found *found, int directory);
void found_free(struct spool_found *found);
/* A record was read. The first time: makes room for that; without memory it is not noted. */
void found_record_add(struct found_segment *segment, uint32_t slot, uint32_t slots);
bool found_record_has(const struct found_segment *segment, uint32_t slot);
/* NULL: none. */
struct found_segment *found_segment_of(const struct spool_found *found, uint64_t number);
struct found_body *found_body_of(const struct spool_found *found, const char id[16]);
/* "0123456789abcdef.seg.damaged" */
void found_damaged_name(uint64_t number, char name[SPOOL_NAME_BYTES]);

#endif
