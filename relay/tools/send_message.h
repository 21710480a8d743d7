/* send_message: the message that `ringpost send` sends: read from a file or composed, as octets
 * ready to go out. Does:    line ends to CRLF; header fields where it composes; dot stuffing and
 * the final dot for DATA, chunks for BDAT. Owns:    its heap; the chains that it fills belong to
 * the buffers' owner. Memory:  heap, at start only. Threads: its owner's. The chains are read by
 * all connections of the thread. Errors:  false, and a text for the user.
 */
#ifndef RINGPOST_RELAY_TOOLS_SEND_MESSAGE_H
#define RINGPOST_RELAY_TOOLS_SEND_MESSAGE_H

#include <time.h>

#include "core/buffers.h"

/* Receive buffers hold it, and there are at most 65535 of them: 512 MiB. */
#define SEND_BYTES_MAX (UINT64_C(32768) * BUFFER_BYTES)
#define SEND_CHUNKS_MAX 4096

struct send_message {
    char *data; /* CRLF line ends; stuffed, and with the final dot, unless chunked */
    size_t len, allocated;
    uint64_t size;  /* octets as SIZE counts */
    bool eight_bit; /* octets above 127 in it */
    struct chain *chunks;
    uint32_t chunk_count; /* 1 for DATA */
};

struct send_header {
    struct span from; /* empty: the null reverse-path */
    const struct span *to;
    size_t to_count;
    struct span subject, helo;
    time_t when;
};

#define SEND_ERROR_BYTES 256

/* A file, "-" for standard input. */
MUST_USE bool send_message_read(struct send_message *message, const char *file,
                                char error[SEND_ERROR_BYTES]);
/* text: the body; its line ends may be LF. NULL: `size` octets of filling. */
MUST_USE bool send_message_compose(struct send_message *message, const struct send_header *header,
                                   const char *text, uint64_t size, char error[SEND_ERROR_BYTES]);
/* After one of them. chunked: for BDAT, else for DATA. */
MUST_USE bool send_message_frame(struct send_message *message, bool chunked,
                                 char error[SEND_ERROR_BYTES]);
/* Buffers that send_message_fill() will take. */
uint32_t send_message_buffers(const struct send_message *message, uint64_t chunk_size);
/* chunk_size: 0 for one chunk. False: no memory. */
MUST_USE bool send_message_fill(struct send_message *message, struct buffers *buffers,
                                uint64_t chunk_size);
void send_message_free(struct send_message *message);

#endif
