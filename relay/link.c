/* A stream connection over core/io.h: receiving, the input queue, and its end. Sending is in
 * link_send.c. */
#include "relay/link.h"

#include "relay/link_private.h"

/* A piece of message data below this is copied behind the piece before it instead of holding a
 * buffer of its own: a client that sends byte by byte must not hold 16 KiB per byte. */
#define COPY_BYTES_MAX (BUFFER_BYTES / 8)

void
link_shared_init(struct link_shared *shared, struct io *io, struct pool *blocks)
{
    *shared = (struct link_shared){ .io = io, .buffers = io_buffers(io), .blocks = blocks };
    shared->starved_tail = &shared->starved;
    shared->handshakes_tail = &shared->handshakes;
}

void
link_open(struct link *link, struct link_shared *shared, struct io_ticket ticket, int socket)
{
    *link = (struct link){ .shared = shared,
                           .ticket = ticket,
                           .socket = socket,
                           .receives = LINK_RECEIVES_MUCH,
                           .in = CHAIN_EMPTY,
                           .cipher = CHAIN_EMPTY,
                           .flight_buffer = BUFFER_NONE,
                           .cipher_out = BUFFER_NONE };
}

void
link_connect(struct link *link, const struct config_address *to)
{
    io_connect(link->shared->io, link->ticket, link->socket, to);
    link->inflight++;
}

void
link_receive(struct link *link)
{
    ASSERT(!link->receiving);
    if (link->sure)
        io_receive_sure(link->shared->io, link->ticket, link->socket);
    else if (link->receives == LINK_RECEIVES_ONE)
        io_receive_once(link->shared->io, link->ticket, link->socket);
    else if (link->receives == LINK_RECEIVES_SOME)
        io_receive_some(link->shared->io, link->ticket, link->socket);
    else
        io_receive(link->shared->io, link->ticket, link->socket);
    link->receiving = true;
    link->receives_armed = link->receives;
    link->inflight++;
}

void
link_pause(struct link *link)
{
    link->paused = true;
    /* At once: one multishot receive may fill 32 more buffers in one go, with some kernels (6.1,
     * 7.3) all there are, unless it is for less. The receive alone: a client that does not read
     * what we say must be paused too, with our send under way. */
    if (link->receiving && !link->stopping) {
        io_receive_stop(link->shared->io, link->ticket, link->sure);
        link->stopping = true;
    }
}

static void
link_rearm(struct link *link)
{
    if (!link->receiving && !link->ended && !link->closing && !link->on_starved)
        link_receive(link);
}

void
link_resume(struct link *link)
{
    link->paused = false;
    if (link->tls_state != LINK_PLAIN) {
        link_decrypt(link);
        if (link->cipher_out != BUFFER_NONE)
            link_flush(link); /* the last flight of a handshake */
    }
    link_rearm(link);
}

void
link_receives(struct link *link, enum link_receives most)
{
    ASSERT(!link->sure);
    link->receives = (uint8_t)most;
    /* on_receive() arms the other kind, if it is not paused. One for less ends soon by itself. */
    if (most < link->receives_armed && link->receiving && !link->stopping) {
        io_receive_stop(link->shared->io, link->ticket, false);
        link->stopping = true;
    }
}

void
link_starved_add(struct link *link)
{
    struct link_shared *shared = link->shared;

    if (link->on_starved)
        return;
    link->on_starved = true;
    link->next_starved = NULL;
    *shared->starved_tail = link;
    shared->starved_tail = &link->next_starved;
}

bool
link_recheck(struct link *link)
{
    if (link->rechecked || !link->receiving || link->stopping || link->ended || link->closing)
        return false;
    link->rechecked = true;
    io_receive_stop(link->shared->io, link->ticket, link->sure);
    link->stopping = true; /* on_receive() arms again: it is not paused */
    return true;
}

static void
starved_remove(struct link *link)
{
    struct link_shared *shared = link->shared;
    struct link **at = &shared->starved;

    if (!link->on_starved)
        return;
    while (*at != link)
        at = &(*at)->next_starved;
    *at = link->next_starved;
    if (*at == NULL)
        shared->starved_tail = at;
    link->on_starved = false;
}

void
link_starved_continue(struct link_shared *shared)
{
    struct link *link = shared->starved;

    if (link == NULL)
        return;
    shared->starved = NULL;
    shared->starved_tail = &shared->starved;
    while (link != NULL) {
        struct link *next = link->next_starved;
        uint64_t before = link->in.bytes;

        link->on_starved = false;
        if (!io_buffers_left(shared->io, link->sure)) {
            link_starved_add(link); /* arming now would fail at once, and again, and again */
            link = next;
            continue;
        }
        if (link->tls_state != LINK_PLAIN) {
            link_decrypt(link);
            link_flush(link);
            /* No completion will tell the owner of this. */
            if (!link->on_starved || link->in.bytes != before)
                link_handshake_add(link);
        }
        if (!link->paused)
            link_rearm(link);
        link = next;
    }
}

/* Puts what was received behind the rest. A peer that sends octet by octet, faster than they can be
 * used, must not hold a buffer for each. */
static void
input_add(struct link *link, struct chain *chain, uint32_t buffer, size_t len)
{
    struct buffers *buffers = link->shared->buffers;
    bool copied;

    if (len > COPY_BYTES_MAX || len > chain_room(buffers, chain)) {
        chain_append(buffers, chain, buffer, 0, len);
        return;
    }
    copied = chain_copy(buffers, chain, span_of(buffer_memory(buffers, buffer), len));
    ASSERT(copied);
    buffer_release(buffers, buffer);
}

static void
on_receive(struct link *link, const struct io_completion *completion)
{
    if (!completion->more) {
        link->receiving = false;
        link->stopping = false;
        link->inflight--;
    }
    if (completion->result > 0) {
        ASSERT(completion->buffer != BUFFER_NONE);
        link->bytes_in += (uint64_t)completion->result;
        link->rechecked = false;
        link->paused |= link->receives == LINK_RECEIVES_ONE;
        if (link->closing) {
            buffer_release(link->shared->buffers, completion->buffer);
            return;
        }
        input_add(link, link->tls_state == LINK_PLAIN ? &link->in : &link->cipher,
                  completion->buffer, (size_t)completion->result);
        if (link->tls_state != LINK_PLAIN)
            link_decrypt(link);
    } else if (completion->result == 0) {
        link->ended = true;
        if (link->tls != NULL && link->cipher.count == 0 && !link->plain_waits &&
            tls_input_ended(link->tls) == TLS_FAILED)
            link->cipher_ended = true;
    } else if (io_error_is_no_buffer(completion->result)) {
        link_starved_add(link);
    } else if (!io_error_is_canceled(completion->result)) {
        link->ended = true;
        link->failed = true;
        link->error = completion->result;
    }
    if (!link->paused)
        link_rearm(link);
}

void
link_complete(struct link *link, const struct io_completion *completion)
{
    switch ((enum io_op)completion->op) {
    case IO_RECEIVE: on_receive(link, completion); break;
    case IO_SEND:
        link->inflight--;
        link_sent(link, completion->result);
        break;
    case IO_CONNECT:
        link->inflight--;
        if (completion->result < 0) {
            link->failed = true;
            link->ended = true;
            link->error = completion->result;
        }
        break;
    case IO_CANCEL: link->inflight--; break;
    case IO_NONE: /* a handshake went on: nothing completed */ break;
    case IO_ACCEPT:
    case IO_FILE:
    case IO_MESSAGE: ASSERT(completion->op == IO_NONE); /* a link has no such operation */
    }
}

/* --- input --- */

/* Drops octets that were used. Decryption stops while too much waits to be used, so it goes on
 * here: nothing else may ever come that would set it going. */
static void
in_consume(struct link *link, size_t len)
{
    chain_consume(link->shared->buffers, &link->in, len);
    link_refill(link);
}

static void
carry_drop(struct link *link)
{
    pool_release(link->shared->blocks, link->carry.data);
    link->carry = (struct outbuf){ 0 };
}

void
link_consume(struct link *link, size_t len)
{
    if (link->carry.data != NULL) {
        ASSERT(len <= link->carry.len);
        memmove(link->carry.data, link->carry.data + len, link->carry.len - len);
        link->carry.len -= len;
        if (link->carry.len == 0)
            carry_drop(link);
    } else if (len > 0) {
        in_consume(link, len);
    }
}

/* Adds what follows the carried part up to the end of its line, so that the owner sees whole lines
 * only. */
static void
carry_fill(struct link *link)
{
    while (link->in.count > 0 && outbuf_room(&link->carry) > 0) {
        struct span front = buffer_span(link->shared->buffers, link->in.first);
        const char *end = memchr(front.data, '\n', front.len);
        size_t part = end != NULL ? (size_t)(end - front.data) + 1 : front.len;

        if (part > outbuf_room(&link->carry))
            part = outbuf_room(&link->carry);
        outbuf_add(&link->carry, span_first(front, part));
        in_consume(link, part);
        if (end != NULL)
            return;
    }
}

bool
link_extend(struct link *link)
{
    struct span front;
    size_t before;

    if (link->carry.data == NULL) {
        if (link->in.count == 0)
            return false;
        front = buffer_span(link->shared->buffers, link->in.first);
        /* A part longer than a block is no command line: its owner has dropped it. */
        if (front.len > BLOCK_BYTES)
            return false;
        link->carry.data = pool_take(link->shared->blocks);
        if (link->carry.data == NULL)
            return false;
        link->carry.len = 0;
        link->carry.size = BLOCK_BYTES;
        outbuf_add(&link->carry, front);
        in_consume(link, front.len);
        if (link->in.count == 0)
            return false;
    }
    before = link->carry.len;
    carry_fill(link);
    return link->carry.len > before;
}

bool
link_take(struct link *link, size_t len, struct chain *to)
{
    struct buffers *buffers = link->shared->buffers;
    struct span front;
    uint32_t index, rest = BUFFER_NONE;
    bool room;

    ASSERT(link->carry.data == NULL);
    ASSERT(link->in.count > 0);
    front = buffer_span(buffers, link->in.first);
    ASSERT(len <= front.len);
    room = len <= chain_room(buffers, to) || buffers->free_count > link_reserve(link) + 1;
    /* Copy what is small, or what is smaller than the commands that follow it in the same buffer.
     */
    if (room && (len <= COPY_BYTES_MAX || len <= front.len - len)) {
        if (!chain_copy(buffers, to, span_first(front, len)))
            return false;
        in_consume(link, len);
        return true;
    }
    if (len < front.len) {
        rest = buffer_take(buffers, link_reserve(link));
        if (rest == BUFFER_NONE)
            return false;
        memcpy(buffer_memory(buffers, rest), front.data + len, front.len - len);
    }
    index = chain_pop(buffers, &link->in);
    chain_append(buffers, to, index, buffers->meta[index].start, len);
    if (rest != BUFFER_NONE) {
        struct chain tail = link->in;

        link->in = CHAIN_EMPTY;
        chain_append(buffers, &link->in, rest, 0, front.len - len);
        chain_move(buffers, &link->in, &tail);
    }
    link_refill(link);
    return true;
}

uint64_t
link_unread(const struct link *link)
{
    return link->carry.len + link->in.bytes + link->cipher.bytes;
}

bool
link_at_end(const struct link *link)
{
    return link->ended &&
           ((link->cipher.count == 0 && !link->plain_waits) || link->cipher_ended || link->failed);
}

/* --- the end --- */

void
link_close(struct link *link)
{
    if (link->closing)
        return;
    link->closing = true;
    starved_remove(link);
    link_handshake_remove(link);
    if (link->inflight == 0) {
        link_handshake_add(link); /* nothing will complete: its owner looks at it there */
        return;
    }
    io_cancel(link->shared->io, link->ticket, link->socket);
    link->inflight++;
}

void
link_release(struct link *link)
{
    struct link_shared *shared = link->shared;

#ifndef CANARY_OLD_GENERATION
    ASSERT(link->inflight == 0);
#endif
    starved_remove(link);
    link_handshake_remove(link);
    chain_release(shared->buffers, &link->in);
    chain_release(shared->buffers, &link->cipher);
    if (link->carry.data != NULL)
        carry_drop(link);
    link_send_release(link);
    if (link->socket >= 0)
        io_close(shared->io, link->socket);
    link->socket = -1;
    tls_free(link->tls);
    link->tls = NULL;
}
