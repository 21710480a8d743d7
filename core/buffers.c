/* Buffer bookkeeping: a last-in-first-out free list and singly linked chains, by index. */
#include "core/buffers.h"

_Static_assert(BUFFER_BYTES <= UINT16_MAX, "start and len of a buffer are 16 bit");

void
buffers_init(struct buffers *buffers, char *memory, struct buffer_meta *meta, uint32_t count)
{
    *buffers = (struct buffers){ .memory = memory, .meta = meta, .count = count,
                                 .free_first = BUFFER_NONE };
    for (uint32_t i = count; i-- > 0;) {
        meta[i] = (struct buffer_meta){ .next = buffers->free_first };
        buffers->free_first = i;
    }
    buffers->free_count = count;
    buffers->free_least = count;
}

uint32_t
buffer_take(struct buffers *buffers, uint32_t reserve)
{
    uint32_t index = buffers->free_first;

    if (buffers->free_count <= reserve)
        return BUFFER_NONE;
    ASSERT(index < buffers->count);
    ASSERT(!buffers->meta[index].held);
    buffers->free_first = buffers->meta[index].next;
    buffers->free_count--;
    if (buffers->free_count < buffers->free_least)
        buffers->free_least = buffers->free_count;
    buffers->meta[index] = (struct buffer_meta){ .next = BUFFER_NONE, .held = true };
    return index;
}

void
buffer_release(struct buffers *buffers, uint32_t index)
{
    ASSERT(index < buffers->count);
#ifndef CANARY_BUFFER_TWICE
    ASSERT(buffers->meta[index].held);
#endif
    buffers->meta[index].held = false;
    buffers->meta[index].next = buffers->free_first;
    buffers->free_first = index;
    buffers->free_count++;
}

void
chain_append(struct buffers *buffers, struct chain *chain, uint32_t index, size_t start, size_t len)
{
    struct buffer_meta *meta = &buffers->meta[index];

    ASSERT(index < buffers->count);
    ASSERT(meta->held);
    ASSERT(start + len <= BUFFER_BYTES);
    *meta = (struct buffer_meta){ .next = BUFFER_NONE, .start = (uint16_t)start,
                                  .len = (uint16_t)len, .held = true };
    if (chain->count == 0)
        chain->first = index;
    else
        buffers->meta[chain->last].next = index;
    chain->last = index;
    chain->count++;
    chain->bytes += len;
}

size_t
chain_room(const struct buffers *buffers, const struct chain *chain)
{
    const struct buffer_meta *meta;

    if (chain->count == 0)
        return 0;
    meta = &buffers->meta[chain->last];
    return BUFFER_BYTES - (size_t)meta->start - meta->len;
}

struct outbuf
chain_tail(const struct buffers *buffers, const struct chain *chain)
{
    size_t room = chain_room(buffers, chain);

    if (room == 0)
        return (struct outbuf){ 0 };
    return (struct outbuf){ .data = buffer_memory(buffers, chain->last) + BUFFER_BYTES - room,
                            .size = room };
}

void
chain_grow(struct buffers *buffers, struct chain *chain, size_t len)
{
    ASSERT(len <= chain_room(buffers, chain));
    if (len == 0)
        return;
    buffers->meta[chain->last].len = (uint16_t)(buffers->meta[chain->last].len + len);
    chain->bytes += len;
}

bool
chain_copy(struct buffers *buffers, struct chain *chain, struct span bytes)
{
    size_t room = chain_room(buffers, chain);

    if (bytes.len > room) {
        size_t fresh = (bytes.len - room + BUFFER_BYTES - 1) / BUFFER_BYTES;

        if (buffers->free_count < fresh)
            return false;
    }
    while (bytes.len > 0) {
        struct buffer_meta *meta;
        size_t part;

        if (chain_room(buffers, chain) == 0) {
            uint32_t index = buffer_take(buffers, 0);

            ASSERT(index != BUFFER_NONE);
            chain_append(buffers, chain, index, 0, 0);
        }
        meta = &buffers->meta[chain->last];
        room = chain_room(buffers, chain);
        part = bytes.len < room ? bytes.len : room;
        memcpy(buffer_memory(buffers, chain->last) + meta->start + meta->len, bytes.data, part);
        meta->len = (uint16_t)(meta->len + part);
        chain->bytes += part;
        span_advance(&bytes, part);
    }
    return true;
}

uint32_t
chain_pop(struct buffers *buffers, struct chain *chain)
{
    uint32_t index = chain->first;

    ASSERT(chain->count > 0);
    chain->bytes -= buffers->meta[index].len;
    chain->first = buffers->meta[index].next;
    if (--chain->count == 0)
        *chain = CHAIN_EMPTY;
    buffers->meta[index].next = BUFFER_NONE;
    return index;
}

void
chain_consume(struct buffers *buffers, struct chain *chain, size_t len)
{
    ASSERT(len <= chain->bytes);
    while (len > 0) {
        struct buffer_meta *meta = &buffers->meta[chain->first];

        if (len < meta->len) {
            meta->start = (uint16_t)(meta->start + len);
            meta->len = (uint16_t)(meta->len - len);
            chain->bytes -= len;
            return;
        }
        len -= meta->len;
        buffer_release(buffers, chain_pop(buffers, chain));
    }
}

void
chain_release(struct buffers *buffers, struct chain *chain)
{
#ifdef CANARY_BUFFER_TWICE
    if (chain->count > 0)
        buffer_release(buffers, chain->last);
#endif
    while (chain->count > 0)
        buffer_release(buffers, chain_pop(buffers, chain));
}

void
chain_move(struct buffers *buffers, struct chain *to, struct chain *from)
{
    if (from->count == 0)
        return;
    if (to->count == 0) {
        *to = *from;
    } else {
        buffers->meta[to->last].next = from->first;
        to->last = from->last;
        to->count += from->count;
        to->bytes += from->bytes;
    }
    *from = CHAIN_EMPTY;
}
