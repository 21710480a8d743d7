/* link: one stream connection with optional TLS, over core/io.h; the part that client sessions and
 * next-hop connections have in common.
 * Does:    keeps received plain text in order until its owner has used it (parsing in place,
 *          carrying a partial line once); sends what the owner wrote, and message bodies straight
 *          from their receive buffers.
 * Owns:    the socket, its TLS state, the buffers and blocks that it holds. Embedded in its owner.
 * Memory:  an idle link holds no buffer and no block.
 * Threads: the worker's.
 * Errors:  a broken connection sets `ended` or `failed` with a reason for the log; the owner looks
 *          after each completion.
 */
#ifndef RINGPOST_RELAY_LINK_H
#define RINGPOST_RELAY_LINK_H

#include "core/io.h"
#include "core/pool.h"
#include "tls/tls.h"

/* What links of one worker share. */
struct link_shared {
    struct io *io;
    struct buffers *buffers;
    struct pool *blocks;                        /* BLOCK_BYTES each */
    struct link *starved, **starved_tail;       /* links whose receive found no buffer */
    struct link *handshakes, **handshakes_tail; /* links that go on in the next turn: handshakes,
                                                 * and TLS input that had waited for a buffer */
    uint32_t handshakes_left;                   /* in this turn */
};

/* Message data comes and goes in two forms: octets as they are (BDAT), or with a dot more before
 * each line that begins with one (DATA, RFC 5321 4.5.2). */
enum link_dots { LINK_DOTS_KEEP, LINK_DOTS_INSERT, LINK_DOTS_REMOVE };

/* A message body on its way out: the chain is the transaction's; nothing is copied. */
struct link_body {
    struct chain *chain;
    uint32_t index, offset; /* what comes next; unused when consuming */
    uint64_t sent;          /* octets of the chain handed over so far */
    uint64_t flight;        /* octets of the chain in the send that is under way */
    uint64_t omit;          /* octets at the end of a chain that is complete which stay */
    bool consume;           /* streaming: buffers are given back as soon as they are sent */
    enum link_dots dots;
    const struct body_dots *known; /* REMOVE: where the dots are; NULL: they are looked for */
    bool line_start; /* dots: the next octet begins a line */
    bool dot_done;   /* INSERT: the dot for the next octet is out already */
    struct io_gather gather;
};

/* Octets of the chain that are still to be handed to the kernel. */
static inline uint64_t
link_body_left(const struct link_body *body)
{
    return body->chain->bytes - body->omit - body->flight - (body->consume ? 0 : body->sent);
}

enum link_tls_state { LINK_PLAIN, LINK_HANDSHAKE, LINK_TLS };

struct link {
    struct link_shared *shared;
    struct io_ticket ticket;
    int socket;       /* -1: none */
    uint8_t inflight; /* operations that will still complete */
    bool receiving;   /* a multishot receive is armed */
    bool stopping;    /* ... and was told to end: back-pressure */
    bool sending;
    bool paused;     /* the owner wants no more input for now */
    bool rechecked;  /* since the last input: see link_recheck() */
    bool ended;      /* the peer has ended its stream (or the connection broke) */
    bool failed;     /* nothing can be sent any more */
    bool closing;    /* link_close() was called: waiting for inflight == 0 */
    bool finishing;  /* link_finish(): FIN follows the last byte */
    bool last_said;  /* nothing will be written any more: see link_say_last() */
    bool close_said; /* TLS: close_notify is written, or there was no room for it */
    bool finished;   /* our FIN is out */
    bool on_starved, on_handshakes;
    bool sure; /* its input sets buffers free: it gets some when bodies hold all others. Set after
                * link_open(). */
    bool plain_waits;  /* TLS: the library may hold plain text that did not fit */
    bool cipher_ended; /* TLS: close_notify came, or a record was bad: what follows is not looked at
                        */
    uint8_t tls_state; /* enum link_tls_state */
    uint8_t receives, receives_armed; /* enum link_receives: the next one, the one that is armed */
    int32_t error;     /* negative errno of what broke it, 0 */
    struct tls *tls;
    struct chain in;       /* plain text that the owner has not used */
    struct chain cipher;   /* records that were not decrypted yet */
    struct outbuf carry;   /* a partial line over a buffer's end; data == NULL: none */
    struct outbuf out;     /* what the owner writes; data == NULL: none yet, see link_room() */
    uint32_t out_done;     /* TLS: octets of out that are encrypted already */
    char *flight_block;    /* plain: being sent */
    uint64_t flight_bytes; /* of the send under way */
    uint32_t flight_buffer, cipher_out; /* TLS: being sent, being filled */
    uint16_t cipher_out_len;
    struct link_body *body; /* NULL: no body under way */
    struct link *next_starved, *next_handshake;
    uint64_t bytes_in, bytes_out;
};

void link_shared_init(struct link_shared *shared, struct io *io, struct pool *blocks);

/* Takes the socket; ticket comes back in completions. */
void link_open(struct link *link, struct link_shared *shared, struct io_ticket ticket, int socket);
void link_connect(struct link *link, const struct config_address *to);
/* Arms the receive. */
void link_receive(struct link *link);
/* Back-pressure: no input until link_resume(). What the kernel holds stays there. */
void link_pause(struct link *link);
void link_resume(struct link *link);
/* How much may come before the owner has had its say, the least first. */
enum link_receives {
    LINK_RECEIVES_ONE,  /* a buffer; then it is paused, until link_resume() */
    LINK_RECEIVES_SOME, /* RECEIVE_BYTES_MOST and less than a buffer, where the kernel can */
    LINK_RECEIVES_MUCH, /* 32 buffers; as it is after link_open() */
};
void link_receives(struct link *link, enum link_receives most);
/* Arms the receive anew, once after each input: call it when LINK_RECHECK_NS have passed without
 * any. Kernels before the fix lose the end of a stream (FIN or RST) that comes in the same moment
 * as data: the multishot receive has taken the data, is not woken again, and would wait for ever.
 * Arming looks at the socket's state. False: nothing was to be done. */
#define LINK_RECHECK_NS UINT64_C(1000000000)
bool link_recheck(struct link *link);

/* Handles a completion that has this link's ticket. The owner then looks at in, ended, failed,
 * sending, tls_state. */
void link_complete(struct link *link, const struct io_completion *completion);

/* --- input --- */
/* The next octets; empty when there are none. */
static inline struct span
link_front(const struct link *link)
{
    if (link->carry.data != NULL)
        return outbuf_span(&link->carry);
    if (link->in.count == 0)
        return SPAN("");
    return buffer_span(link->shared->buffers, link->in.first);
}
/* Octets of link_front() that were used. */
void link_consume(struct link *link, size_t len);
/* The owner cannot use link_front() before more follows it (a partial line). True: there is more
 * now, look again; false: wait. */
MUST_USE bool link_extend(struct link *link);
/* Moves the first len octets of link_front() to the end of `to` with as little copying as possible.
 * False: no buffer was free. */
MUST_USE bool link_take(struct link *link, size_t len, struct chain *to);
/* Octets received and not used, encrypted ones included. */
uint64_t link_unread(const struct link *link);
/* The peer has ended its stream and all that came before was put into the input queue. */
bool link_at_end(const struct link *link);

/* --- output --- */
/* The block that out is written in. False: none is free. */
MUST_USE bool link_block_take(struct link *link);
/* Makes sure that out has `room` octets left. False: what is there must be sent first
 * (link_flush(), then wait for the completion), or no block is free. room <= BLOCK_BYTES. */
MUST_USE static inline bool
link_room(struct link *link, size_t room)
{
    ASSERT(room <= BLOCK_BYTES);
    if (link->out.data == NULL && !link_block_take(link))
        return false;
    return outbuf_room(&link->out) >= room;
}
/* Sends what is in out and body; goes on by itself as completions come in. */
void link_flush(struct link *link);
/* True when all that was written is with the kernel. */
bool link_drained(const struct link *link);

/* --- TLS --- */
/* Begins a handshake; takes tls. All plain text must have been used. When tls_state becomes
 * LINK_TLS the owner calls link_flush(), after it has written what it has to say: the last flight
 * goes with that. */
void link_start_tls(struct link *link, struct tls *tls);
/* Goes on with what waited for this turn. Calls `progress` for each link that took a step. */
void link_handshakes_continue(struct link_shared *shared, void (*progress)(void *, struct link *),
                              void *context);
/* Goes on where no buffer was: arms receives again, decrypts. What became of that the owners see in
 * link_handshakes_continue(). */
void link_starved_continue(struct link_shared *shared);

/* --- the end --- */
/* Everything written goes out, with TLS close_notify behind it in the same send, and no FIN yet:
 * the peer may end the connection first. The owner writes nothing more. */
void link_say_last(struct link *link);
/* Everything written goes out, then our FIN (and close_notify). The owner closes when the peer's
 * end comes, or its timer. */
void link_finish(struct link *link);
/* After the end: the last of what was sent (64 octets or more) cannot have reached who is on the
 * other side. It ended its stream before its kernel had them, or they never left ours. False: it
 * may have read everything. */
bool link_unheard(const struct link *link);
/* Ends all operations. When inflight is 0, link_release(): at once, or at the last completion, or,
 * where nothing was in flight, at the latest in link_handshakes_continue(). */
void link_close(struct link *link);
/* Closes the socket and gives everything back. Only with inflight == 0. */
void link_release(struct link *link);

#endif
