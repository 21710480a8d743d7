/* record_private: what the files of the spool format share; for relay/spool/record*.c and their
 * tests.
 * Does:    little-endian numbers at any address; the 64-bit check of headers and mark blocks.
 * Owns:    nothing.
 * Memory:  none. Pure.
 */
#ifndef RINGPOST_RELAY_SPOOL_RECORD_PRIVATE_H
#define RINGPOST_RELAY_SPOOL_RECORD_PRIVATE_H

#include <endian.h>

#include "relay/spool/record.h"

/* What a check is of: one is never taken for another. */
enum check_kind { CHECK_SEGMENT = 1, CHECK_SEAL, CHECK_MARKS, CHECK_RECORD, CHECK_TRAILER };

/* place: index of a mark block; for a trailer the check of its record's header; else 0. in.len is
 * a multiple of 8. What it promises stands in record.c. */
uint64_t record_check(enum check_kind kind, uint64_t segment, uint64_t place, struct span in);

#define CHECK_BYTES 8u                                           /* at the end of what it is of */
#define BLOCK_CHECKED_BYTES (SPOOL_BLOCK_BYTES - CHECK_BYTES)    /* of a block */
#define HEADER_CHECKED_BYTES (RECORD_HEADER_BYTES - CHECK_BYTES) /* of a record's header */

#define ENVELOPE_FRONT_BYTES 28u    /* in front of its texts */
#define ENVELOPE_RECIPIENT_BYTES 5u /* in front of its mailbox */
/* A path that RCPT takes is never empty. */
#define ENVELOPE_RECIPIENT_BYTES_MIN (ENVELOPE_RECIPIENT_BYTES + 1u)

static inline void
number16_write(char *out, uint16_t number)
{
    number = htole16(number);
    memcpy(out, &number, sizeof(number));
}

static inline void
number32_write(char *out, uint32_t number)
{
    number = htole32(number);
    memcpy(out, &number, sizeof(number));
}

static inline void
number64_write(char *out, uint64_t number)
{
    number = htole64(number);
    memcpy(out, &number, sizeof(number));
}

static inline uint16_t
number16_read(const char *in)
{
    uint16_t number;

    memcpy(&number, in, sizeof(number));
    return le16toh(number);
}

static inline uint32_t
number32_read(const char *in)
{
    uint32_t number;

    memcpy(&number, in, sizeof(number));
    return le32toh(number);
}

static inline uint64_t
number64_read(const char *in)
{
    uint64_t number;

    memcpy(&number, in, sizeof(number));
    return le64toh(number);
}

static inline bool
octets_zero(const char *in, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (in[i] != 0)
            return false;
    return true;
}

#endif
