/* verify: `ringpost-bench verify`: what load was promised against what sink received.
 * Does:    a table of the messages sent, by identity; each line received is looked up in it.
 * Owns:    the table.
 * Memory:  48 octets for each message sent, at most two thirds full; grows by doubling.
 * Threads: its caller's.
 * Errors:  lines that are none are counted; no memory is a result.
 */
#ifndef RINGPOST_BENCH_VERIFY_H
#define RINGPOST_BENCH_VERIFY_H

#include <stdio.h>

#include "bench/tool/ledger.h"

struct verify_entry {
    struct message_id id;
    uint64_t size;
    uint32_t digest, recipients, delivered; /* delivered: recipients, of all copies */
    uint32_t copies;
    uint16_t code;
    bool used, damaged;
};

struct verify {
    struct verify_entry *entries;
    uint64_t slots, count;
};

struct verify_result {
    uint64_t sent, acknowledged, refused, ambiguous;
    uint64_t received;            /* deliveries that the sink acknowledged */
    uint64_t good;                /* acknowledged, and delivered once and whole */
    uint64_t lost;                /* acknowledged, and never delivered, or not to all recipients */
    uint64_t duplicated;          /* delivered more than once */
    uint64_t damaged;             /* delivered with other content */
    uint64_t unexpected;          /* delivered though refused, or unknown to the sender */
    uint64_t ambiguous_delivered; /* sent, no answer known, and delivered: allowed */
    uint64_t foreign;             /* without an identity */
    uint64_t malformed;           /* lines */
};

MUST_USE bool verify_init(struct verify *verify);
void verify_free(struct verify *verify);
/* False: no memory. */
MUST_USE bool verify_sent(struct verify *verify, const struct ledger_record *record,
                          struct verify_result *result);
/* details: where the first few wrong ones are named; NULL: nowhere. */
void verify_received(struct verify *verify, const struct ledger_record *record,
                     struct verify_result *result, FILE *details);
/* After the last line: who was lost. */
void verify_finish(const struct verify *verify, struct verify_result *result, FILE *details);
/* What may not be: anything but good and ambiguous ones. */
bool verify_is_good(const struct verify_result *result);

int verify_main(int argc, char **argv);

#endif
