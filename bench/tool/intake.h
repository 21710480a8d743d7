/* intake: takes a message from the wire and knows it again.
 * Does:    finds the end of DATA, takes off the stuffed dots, reads the identity that load put in,
 *          counts the octets and sums up those behind the identity.
 * Owns:    its fields. The input is borrowed for the call.
 * Memory:  none allocated. Pure.
 * Errors:  a message without an identity is one: identified stays false. Content is not judged.
 */
#ifndef RINGPOST_BENCH_INTAKE_H
#define RINGPOST_BENCH_INTAKE_H

#include "bench/tool/message.h"

#define INTAKE_LINE_BYTES 64

struct intake {
    bool framed;  /* DATA; else BDAT octets */
    bool summing; /* identity and digest are wanted */
    bool identified, header_done;
    uint8_t after;  /* where after a dot at the start of a line: see intake.c */
    char before[2]; /* the last two octets */
    uint8_t line_len;
    char line[INTAKE_LINE_BYTES]; /* of the header line at hand */
    struct message_id id;
    uint32_t digest;
    uint64_t size; /* octets, without stuffed dots and the final dot */
};

void intake_start(struct intake *intake, bool framed, bool summing);
/* Takes octets of *in and advances it past them. True: framed, and the end was among them; what is
 * left of *in comes behind the message. */
MUST_USE bool intake_add(struct intake *intake, struct span *in);

#endif
