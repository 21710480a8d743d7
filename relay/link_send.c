/* Sending over a link: the owner's block and a message body in one gathered send, or as TLS
 * records; TLS input. */
#include "core/line.h"
#include "relay/link_private.h"

/* Plain text waiting for the owner above which no more is decrypted. */
#define PLAIN_HIGH_BYTES (4 * BUFFER_BYTES)
/* Room behind it below which a fresh buffer is taken to decrypt into: small rooms cost a call each.
 */
#define PLAIN_ROOM_BYTES (BUFFER_BYTES / 8)

/* More than SYN and FIN, which io_acknowledged() may count, and less than any group of commands. */
#define UNHEARD_OCTETS 64

bool
link_block_take(struct link *link)
{
    ASSERT(link->out.data == NULL);
    link->out.data = pool_take(link->shared->blocks);
    if (link->out.data == NULL)
        return false;
    link->out.len = 0;
    link->out.size = BLOCK_BYTES;
    link->out_done = 0;
    return true;
}

static void
out_drop(struct link *link)
{
    if (link->out.data == NULL)
        return;
    pool_release(link->shared->blocks, link->out.data);
    link->out = (struct outbuf){ 0 };
    link->out_done = 0;
}

/* --- the body, piece by piece --- */

/* Where the next octets of the body are. False: none now. */
static bool
body_at(const struct buffers *buffers, const struct link_body *body, uint32_t *index,
        uint32_t *offset)
{
    if (body->chain->count == 0 || link_body_left(body) == 0)
        return false;
    *index = body->consume || body->index == BUFFER_NONE ? body->chain->first : body->index;
    *offset = body->consume || body->index == BUFFER_NONE ? 0 : body->offset;
    if (*offset < buffers->meta[*index].len)
        return true;
    *index = buffers->meta[*index].next;
    *offset = 0;
    return *index != BUFFER_NONE;
}

struct body_piece {
    struct span octets;
    uint32_t skipped; /* octets of the chain before it that do not go out */
    bool inserted;    /* a lone dot that is no part of the chain */
};

/* Octets of the chain that a piece stands for. */
static size_t
piece_moves(const struct body_piece *piece)
{
    return piece->inserted ? 0 : piece->skipped + piece->octets.len;
}

/* REMOVE, and it is known where: up to the next dot, without that which it begins with. */
static struct body_piece
piece_known(const struct link_body *body, struct span s)
{
    const uint32_t *dot = body->known->at, *end = dot + body->known->count;
    uint64_t at = body->sent + body->flight;
    struct body_piece piece = { .inserted = false };

    while (dot < end && *dot < at)
        dot++;
    if (dot < end && *dot == at) {
        piece.skipped = 1;
        s = span_after(s, 1);
        at++;
        dot++;
    }
    piece.octets = dot < end && *dot - at < s.len ? span_first(s, *dot - at) : s;
    return piece;
}

/* The next piece at (index, offset), with the dots that its form has. It may be empty, when all
 * that is left of the buffer is a dot to be removed. */
static struct body_piece
body_piece(const struct buffers *buffers, struct link_body *body, uint32_t index, uint32_t offset)
{
    struct span s = span_after(buffer_span(buffers, index), offset);
    struct body_piece piece = { .inserted = false };
    bool dot;

    if (s.len > link_body_left(body))
        s = span_first(s, link_body_left(body));
    piece.octets = s;
    if (body->dots == LINK_DOTS_KEEP)
        return piece;
    if (body->dots == LINK_DOTS_REMOVE && body->known != NULL)
        return piece_known(body, s);
    dot = body->line_start && !body->dot_done && s.data[0] == '.';
    if (dot && body->dots == LINK_DOTS_INSERT) {
        body->dot_done = true;
        return (struct body_piece){ .octets = SPAN("."), .inserted = true };
    }
    if (dot) {
        piece.skipped = 1;
        s = span_after(s, 1);
    }
    body->dot_done = false;
    body->line_start = false;
    if (s.len > 0) {
        s = span_first(s, body_find_stuffing(s, false));
        body->line_start = s.data[s.len - 1] == '\n';
    }
    piece.octets = s;
#ifdef CANARY_DOT_LOST_AT_EDGE
    if (s.len > 0 &&
        s.data + s.len == buffer_span(buffers, index).data + buffer_span(buffers, index).len)
        body->line_start = false;
#endif
    return piece;
}

/* Steps (index, offset) over n octets of one buffer. */
static void
body_step(const struct buffers *buffers, uint32_t *index, uint32_t *offset, size_t n)
{
    *offset += (uint32_t)n;
    if (*offset == buffers->meta[*index].len && buffers->meta[*index].next != BUFFER_NONE) {
        *index = buffers->meta[*index].next;
        *offset = 0;
    }
}

static void
body_moved(struct link_body *body, uint32_t index, uint32_t offset, size_t octets)
{
    body->index = index;
    body->offset = offset;
    body->flight += octets;
}

/* --- plain --- */

static void
pump_plain(struct link *link)
{
    struct link_body *body = link->body;
    struct span block = link->out.data != NULL ? outbuf_span(&link->out) : SPAN("");
    struct io_gather *gather = body != NULL ? &body->gather : NULL;
    uint32_t index, offset;

    if (gather != NULL)
        gather->count = 0;
    if (body != NULL && body_at(link->shared->buffers, body, &index, &offset)) {
        if (block.len > 0)
            gather->pieces[gather->count++] = (struct io_piece){ block.data, block.len };
        link->flight_bytes = block.len;
        while (gather->count < IO_PIECES_MAX && link_body_left(body) > 0 && index != BUFFER_NONE &&
               offset < link->shared->buffers->meta[index].len) {
            struct body_piece piece = body_piece(link->shared->buffers, body, index, offset);
            struct span s = piece.octets;

            if (s.len > 0)
                gather->pieces[gather->count++] = (struct io_piece){ s.data, s.len };
            link->flight_bytes += s.len;
            body_step(link->shared->buffers, &index, &offset, piece_moves(&piece));
            body_moved(body, index, offset, piece_moves(&piece));
        }
        io_send_gather(link->shared->io, link->ticket, link->socket, gather);
    } else if (block.len > 0) {
        io_send(link->shared->io, link->ticket, link->socket, block);
        link->flight_bytes = block.len;
    } else {
        out_drop(link);
        return;
    }
    link->flight_block = link->out.data;
    link->out = (struct outbuf){ 0 };
    link->sending = true;
    link->inflight++;
}

/* --- TLS --- */

static struct outbuf
cipher_buffer(struct link *link)
{
    struct buffers *buffers = link->shared->buffers;

    if (link->cipher_out == BUFFER_NONE) {
        /* A body that nobody takes must not keep the last ones, by which commands are answered. */
        bool body_only = link->body != NULL && link->out.data == NULL;

        link->cipher_out = buffer_take(buffers, body_only ? 3 * BUFFERS_SURE : 0);
        link->cipher_out_len = 0;
        if (link->cipher_out == BUFFER_NONE)
            return (struct outbuf){ 0 };
    }
    return (struct outbuf){ .data = buffer_memory(buffers, link->cipher_out),
                            .len = link->cipher_out_len,
                            .size = BUFFER_BYTES };
}

static void
cipher_send(struct link *link)
{
    /* After the cancel of link_close() nothing may begin: it would end by itself only. */
    if (link->sending || link->closing || link->cipher_out == BUFFER_NONE)
        return;
    if (link->cipher_out_len == 0) {
        buffer_release(link->shared->buffers, link->cipher_out);
        link->cipher_out = BUFFER_NONE;
        return;
    }
    link->flight_buffer = link->cipher_out;
    link->cipher_out = BUFFER_NONE;
    io_send(
        link->shared->io, link->ticket, link->socket,
        span_of(buffer_memory(link->shared->buffers, link->flight_buffer), link->cipher_out_len));
    link->flight_bytes = link->cipher_out_len;
    link->sending = true;
    link->inflight++;
}

static void
tls_failed(struct link *link)
{
    link->failed = true;
    link->ended = true;
}

/* One piece as records. False: it did not all fit. */
static bool
encrypt(struct link *link, struct span *piece, struct outbuf *out)
{
    enum tls_status status = tls_write(link->tls, piece, out);

    if (status == TLS_FAILED)
        tls_failed(link);
    return status == TLS_OK;
}

static void
encrypt_body(struct link *link, struct outbuf *out)
{
    struct link_body *body = link->body;
    const struct buffers *buffers = link->shared->buffers;
    uint32_t index, offset;

    if (!body_at(buffers, body, &index, &offset))
        return;
    while (link_body_left(body) > 0 && index != BUFFER_NONE && offset < buffers->meta[index].len &&
           outbuf_room(out) > 2 * TLS_RECORD_OVERHEAD && !link->failed) {
        struct link_body saved = { .line_start = body->line_start, .dot_done = body->dot_done };
        struct body_piece piece = body_piece(buffers, body, index, offset);
        struct span rest = piece.octets;
        bool whole = rest.len == 0 || encrypt(link, &rest, out);
        bool none = !whole && rest.len == piece.octets.len;

        piece.octets.len -= rest.len;
        if (!none) {
            body_step(buffers, &index, &offset, piece_moves(&piece));
            body_moved(body, index, offset, piece_moves(&piece));
        }
        if (!whole) {
            /* A piece cut short: the rest is a piece of its own, inside a line unless nothing went
             * out. */
            body->line_start = none ? saved.line_start : false;
            body->dot_done = none ? saved.dot_done : false;
            return;
        }
    }
}

/* Whether all that was written is encrypted: never amid a handshake, and not while a body that is
 * given back as it goes is under way. */
static bool
all_encrypted(const struct link *link)
{
    uint32_t index, offset;

    return link->tls_state == LINK_TLS && link->out.data == NULL && !link->failed &&
           (link->body == NULL || !body_at(link->shared->buffers, link->body, &index, &offset));
}

/* A close_notify leaves with the last words where there is room: by itself it is a send and a
 * segment more, and a client that has gone with the reply to QUIT answers it with a reset. */
static void
pump_tls(struct link *link)
{
    struct outbuf out = cipher_buffer(link);

    if (out.data == NULL) {
        link_starved_add(link);
        return;
    }
    if (link->out.data != NULL && link->tls_state == LINK_TLS) {
        struct span block = span_after(outbuf_span(&link->out), link->out_done);
        size_t before = block.len;
        bool whole = block.len == 0 || encrypt(link, &block, &out);

        link->out_done += (uint32_t)(before - block.len);
        if (whole)
            out_drop(link);
    }
    if (link->body != NULL && link->out.data == NULL && link->tls_state == LINK_TLS)
        encrypt_body(link, &out);
    if (link->last_said && !link->close_said && all_encrypted(link))
        link->close_said = tls_close(link->tls, &out) != TLS_WANT_OUTPUT;
    link->cipher_out_len = (uint16_t)out.len;
    cipher_send(link);
}

/* When all that was written is out, close_notify too: our FIN. */
static void
finish_step(struct link *link)
{
    uint32_t index, offset;

    if (link->finished || link->failed)
        return;
    /* Amid a handshake what was written can never go out. */
    if (link->out.data != NULL && link->tls_state != LINK_HANDSHAKE)
        return;
    if (link->body != NULL && body_at(link->shared->buffers, link->body, &index, &offset))
        return;
    if (link->sending || link->cipher_out != BUFFER_NONE)
        return;
    /* Without a buffer the close_notify is left out; the stream's end follows all the same. */
    link->close_said = link->finished = true;
    io_shutdown(link->shared->io, link->socket);
}

/* Apart from link_flush(), which mostly has nothing to do: what these need of the stack costs it
 * nothing then. */
static __attribute__((noinline)) void
pump(struct link *link)
{
    if (link->tls_state == LINK_PLAIN)
        pump_plain(link);
    else
        pump_tls(link);
    if (link->finishing)
        finish_step(link);
}

void
link_flush(struct link *link)
{
    if (link->sending || link->closing || link->failed)
        return;
    if (link->tls_state != LINK_PLAIN || link->out.data != NULL || link->body != NULL ||
        link->finishing)
        pump(link);
}

bool
link_drained(const struct link *link)
{
    return !link->sending && link->out.data == NULL && link->cipher_out == BUFFER_NONE;
}

void
link_sent(struct link *link, int32_t result)
{
    struct link_body *body = link->body;

    link->sending = false;
    if (link->flight_block != NULL)
        pool_release(link->shared->blocks, link->flight_block);
    link->flight_block = NULL;
    if (link->flight_buffer != BUFFER_NONE)
        buffer_release(link->shared->buffers, link->flight_buffer);
    link->flight_buffer = BUFFER_NONE;
    /* The kernel goes on after short sends by itself (MSG_WAITALL): less than all is a broken
     * connection. */
    if (result < 0 || (uint64_t)result != link->flight_bytes) {
        link->failed = true;
        link->error = result < 0 ? result : 0;
        return;
    }
    link->bytes_out += link->flight_bytes;
    link->flight_bytes = 0;
    if (body != NULL && body->flight > 0) {
        body->sent += body->flight;
        if (body->consume)
            chain_consume(link->shared->buffers, body->chain, body->flight);
        body->flight = 0;
    }
    if (link->tls_state == LINK_HANDSHAKE && !link->closing)
        link_decrypt(link); /* it may have waited for room */
    link_flush(link);
}

/* A peer's FIN acknowledges all that its kernel had by then, so what is missing came to a socket
 * that its owner had closed. A reset carries no such knowledge, and may be somebody else's. */
bool
link_unheard(const struct link *link)
{
    uint64_t acknowledged;

    if (link->failed && !link->sending && link->flight_bytes > 0)
        return true;
    return link->ended && link->error == 0 && io_acknowledged(link->socket, &acknowledged) &&
           acknowledged + UNHEARD_OCTETS <= link->bytes_out + link->flight_bytes;
}

void
link_say_last(struct link *link)
{
    link->last_said = true;
    link_flush(link);
}

void
link_finish(struct link *link)
{
    if (link->finishing)
        return;
    link->finishing = link->last_said = true;
    /* With a send under way it goes on when that completes: what was written comes first. */
    link_flush(link);
}

void
link_send_release(struct link *link)
{
    out_drop(link);
    ASSERT(!link->sending);
    ASSERT(link->flight_block == NULL);
    if (link->cipher_out != BUFFER_NONE)
        buffer_release(link->shared->buffers, link->cipher_out);
    link->cipher_out = BUFFER_NONE;
    link->body = NULL;
}

/* --- TLS input --- */

void
link_start_tls(struct link *link, struct tls *tls)
{
    ASSERT(link->tls == NULL);
    ASSERT(link->in.count == 0 && link->carry.data == NULL);
    link->tls = tls;
    link->tls_state = LINK_HANDSHAKE;
    link_decrypt(link);
}

void
link_handshake_add(struct link *link)
{
    struct link_shared *shared = link->shared;

    if (link->on_handshakes)
        return;
    link->on_handshakes = true;
    link->next_handshake = NULL;
    *shared->handshakes_tail = link;
    shared->handshakes_tail = &link->next_handshake;
}

void
link_handshake_remove(struct link *link)
{
    struct link_shared *shared = link->shared;
    struct link **at = &shared->handshakes;

    if (!link->on_handshakes)
        return;
    while (*at != link)
        at = &(*at)->next_handshake;
    *at = link->next_handshake;
    if (*at == NULL)
        shared->handshakes_tail = at;
    link->on_handshakes = false;
}

/* The first octets of cipher; drops what is used up. */
static struct span
cipher_front(struct link *link)
{
    return link->cipher.count == 0 ? SPAN("")
                                   : buffer_span(link->shared->buffers, link->cipher.first);
}

/* One call into the handshake. False: nothing more can be done now. */
static bool
handshake_step(struct link *link)
{
    struct outbuf out = cipher_buffer(link);
    struct span in = cipher_front(link);
    size_t before = in.len;
    enum tls_status status;

    if (out.data == NULL) {
        link_starved_add(link);
        return false;
    }
    status = tls_handshake(link->tls, &in, &out);
    link->cipher_out_len = (uint16_t)out.len;
    chain_consume(link->shared->buffers, &link->cipher, before - in.len);
    /* The last flight of a handshake goes with what its owner writes now: a client's Finished with
     * its EHLO is one send and one segment. */
    if (status != TLS_OK)
        cipher_send(link);
    if (status == TLS_OK)
        link->tls_state = LINK_TLS;
    else if (status == TLS_FAILED || status == TLS_CLOSED)
        tls_failed(link);
    else if (status == TLS_WANT_OUTPUT)
        return !link->sending;
    else if (status == TLS_WANT_INPUT)
        return link->cipher.count > 0;
    return false;
}

static void
handshake_run(struct link *link)
{
    struct link_shared *shared = link->shared;

    /* Asymmetric cryptography takes 0.1 to 1 ms: more of it than this in one turn sets everybody's
     * p99. */
    if (shared->handshakes_left == 0) {
        link_handshake_add(link);
        return;
    }
    shared->handshakes_left--;
    while (link->tls_state == LINK_HANDSHAKE && !link->failed && handshake_step(link))
        ;
}

/* Decrypts one go into the room behind the last plain buffer, or into a fresh one. False: stop. */
static bool
decrypt_step(struct link *link)
{
    struct buffers *buffers = link->shared->buffers;
    struct span in = cipher_front(link);
    size_t before = in.len;
    uint32_t index = BUFFER_NONE;
    struct outbuf plain = chain_tail(buffers, &link->in), out = cipher_buffer(link);
    enum tls_status status;

    if (plain.size < PLAIN_ROOM_BYTES && out.data != NULL) {
        index = buffer_take(buffers, link_reserve(link));
        if (index != BUFFER_NONE)
            plain = (struct outbuf){ .data = buffer_memory(buffers, index), .size = BUFFER_BYTES };
    }
    if (out.data == NULL || plain.size == 0) {
        cipher_send(link); /* gives it back when it is empty */
        link_starved_add(link);
        return false;
    }
    status = tls_read(link->tls, &in, &plain, &out);
    link->cipher_out_len = (uint16_t)out.len;
    if (index == BUFFER_NONE)
        chain_grow(buffers, &link->in, plain.len);
    else if (plain.len > 0)
        chain_append(buffers, &link->in, index, 0, plain.len);
    else
        buffer_release(buffers, index);
    chain_consume(buffers, &link->cipher, before - in.len);
    cipher_send(link);
    if (status == TLS_CLOSED)
        link->ended = true;
    else if (status == TLS_FAILED)
        tls_failed(link);
    if (status == TLS_CLOSED || status == TLS_FAILED)
        link->cipher_ended = true;
    link->plain_waits = status == TLS_OK;
    return status == TLS_OK || (status == TLS_WANT_INPUT && link->cipher.count > 0);
}

void
link_decrypt(struct link *link)
{
    if (link->tls_state == LINK_HANDSHAKE && !link->on_handshakes && !link->failed)
        handshake_run(link);
    if (link->tls_state != LINK_TLS || (link->cipher.count == 0 && !link->plain_waits))
        return;
    while (!link->failed && !link->cipher_ended && link->in.bytes < PLAIN_HIGH_BYTES &&
           decrypt_step(link))
        ;
}

void
link_refill(struct link *link)
{
    if (link->in.count == 0 && link->tls_state == LINK_TLS &&
        (link->cipher.count > 0 || link->plain_waits))
        link_decrypt(link);
}

void
link_handshakes_continue(struct link_shared *shared, void (*progress)(void *, struct link *),
                         void *context)
{
    while (shared->handshakes != NULL && shared->handshakes_left > 0) {
        struct link *link = shared->handshakes;

        link_handshake_remove(link);
        if (!link->closing)
            link_decrypt(link);
        progress(context, link);
    }
}
