/* ledger: a file with a line for each message: what load was promised, what sink received.
 * Does:    the format (docs/man/ringpost-bench.1), written by several threads in whole lines.
 * Owns:    the descriptor and each thread's buffer.
 * Memory:  one buffer for each thread.
 * Threads: a ledger_buffer is its thread's; the file is shared, opened for appending.
 * Errors:  a line that is none is a result; a failed write is kept for the end.
 */
#ifndef RINGPOST_BENCH_LEDGER_H
#define RINGPOST_BENCH_LEDGER_H

#include "bench/tool/message.h"

struct ledger_record {
    struct message_id id;
    bool foreign;        /* received without an identity of ours */
    uint16_t code;       /* of the final reply; 0: none came, or none was given */
    uint32_t recipients; /* that were accepted */
    uint64_t size;       /* octets of the message, without dot stuffing */
    uint32_t digest;
    uint64_t time_us;     /* since 1970 */
    struct span queue_id; /* of the reply; empty: none was seen */
};

#define LEDGER_LINE_BYTES_MAX 256
void ledger_write(const struct ledger_record *record, struct outbuf *out);
/* line: without its LF. False: it is none; comments (#) are none either. queue_id points into it.
 */
MUST_USE bool ledger_parse(struct span line, struct ledger_record *record);

/* A descriptor, or a negative errno. What was there is replaced. */
int ledger_open(const char *path);

struct ledger_buffer {
    int file; /* -1: there is no ledger */
    int error;
    struct outbuf out;
};
/* False: no memory. */
MUST_USE bool ledger_buffer_init(struct ledger_buffer *buffer, int file);
void ledger_add(struct ledger_buffer *buffer, const struct ledger_record *record);
void ledger_flush(struct ledger_buffer *buffer);
/* Flushes and frees; what went wrong stays in error. */
void ledger_buffer_end(struct ledger_buffer *buffer);

#endif
