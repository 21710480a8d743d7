/* message: what load sends and what verify knows it by.
 * Does:    an identity in a header field of its own, and behind that field content whose CRC-32C is
 *          the message's digest: relays put their trace fields in front and change neither. The
 *          body is the end of one pattern, made once: no octet of it is copied for a message.
 * Owns:    struct pattern its text; struct body_store the chain that sends read from.
 * Memory:  heap and receive buffers, at the start.
 * Threads: a pattern is shared and not changed; a body_store belongs to a thread.
 * Errors:  no memory is a result.
 */
#ifndef RINGPOST_BENCH_MESSAGE_H
#define RINGPOST_BENCH_MESSAGE_H

#include "core/buffers.h"

#define MESSAGE_ID_FIELD "X-Ringpost-Bench-ID: "
#define MESSAGE_ID_BYTES 24
#define MESSAGE_HEAD_BYTES_MAX 512
#define MESSAGE_BYTES_MAX (UINT64_C(256) << 20)

struct message_id {
    uint32_t run;    /* the same for all messages of one run */
    uint16_t thread; /* of load */
    uint64_t number; /* below 2^48 */
};
void message_id_write(struct message_id id, struct outbuf *out);
/* False: these octets are none. */
MUST_USE bool message_id_parse(struct span text, struct message_id *id);

/* Lines of 76 octets, some of which begin with a dot, so that dot stuffing is put to the test. */
struct pattern {
    char *text; /* as BDAT sends it */
    uint64_t bytes;
};
MUST_USE bool pattern_create(struct pattern *pattern, uint64_t bytes_max);
void pattern_free(struct pattern *pattern);
/* How many octets of the end to take for so many that are wanted: the same or one more. Never more
 * than there are. */
uint64_t pattern_fit(const struct pattern *pattern, uint64_t bytes);

struct body_store {
    const struct pattern *pattern;
    bool chunked; /* else dots are stuffed, and the final dot stands at the end */
    struct chain chain;
    uint32_t *indexes; /* of the chain's buffers in their order */
};
/* Receive buffers that it takes. */
uint32_t body_store_buffers(const struct pattern *pattern);
MUST_USE bool body_store_fill(struct body_store *store, const struct pattern *pattern, bool chunked,
                              struct buffers *buffers);
void body_store_free(struct body_store *store, struct buffers *buffers);
/* Where the last `bytes` octets (pattern_fit()) of the pattern begin; returns their number in wire
 * form. */
uint64_t body_store_find(const struct body_store *store, uint64_t bytes, uint32_t *index,
                         uint32_t *offset);

/* The header section and the empty line: the same length for all messages of a run. */
void message_head_write(struct message_id id, struct span date, struct outbuf *out);
/* Octets of it that stand before what the digest covers. */
#define MESSAGE_DIGEST_FROM (sizeof(MESSAGE_ID_FIELD) - 1 + MESSAGE_ID_BYTES + 2)

/* Goes on with the last `bytes` octets of the pattern. */
uint32_t pattern_digest(const struct pattern *pattern, uint32_t digest, uint64_t bytes);

/* The same for a size that comes again and again, without looking at the octets. */
struct digest_shift {
    uint64_t bytes;
    uint32_t digest; /* of these octets alone */
    uint32_t columns[32];
};
void digest_shift_make(struct digest_shift *shift, const struct pattern *pattern, uint64_t bytes);
uint32_t digest_shift_use(const struct digest_shift *shift, uint32_t digest);

#endif
