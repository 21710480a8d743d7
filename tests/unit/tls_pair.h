/* tls_pair: a client and a server joined in memory, with every buffer as small as a test wants it.
 * Does:    moves octets between the two in chunks, through output buffers of a chosen size.
 * Owns:    the wires (they grow by realloc); the connections belong to the pair.
 * Threads: one pair per thread.
 */
#ifndef RINGPOST_TESTS_TLS_PAIR_H
#define RINGPOST_TESTS_TLS_PAIR_H

#include <stdio.h>
#include <stdlib.h>

#include "tls/tls.h"

/* Octets on their way in one direction; data[0, taken) have arrived. */
struct wire {
    char *data;
    size_t len, size, taken;
};

struct pair {
    struct tls *client, *server;
    struct wire to_server, to_client;
};

/* How a run is cut: octets per delivery, and sizes of the buffers. 0: as large as useful. */
struct pieces {
    size_t chunk, out_room, plain_room;
};

static inline void
wire_add(struct wire *wire, struct span octets)
{
    if (octets.len == 0)
        return;
    if (wire->len + octets.len > wire->size) {
        wire->size = 2 * (wire->len + octets.len);
        wire->data = realloc(wire->data, wire->size);
        ASSERT(wire->data);
    }
    memcpy(wire->data + wire->len, octets.data, octets.len);
    wire->len += octets.len;
}

static inline struct span
wire_rest(const struct wire *wire)
{
    if (!wire->data)
        return SPAN("");
    return span_of(wire->data + wire->taken, wire->len - wire->taken);
}

static inline struct span
wire_chunk(const struct wire *wire, size_t chunk)
{
    struct span rest = wire_rest(wire);

    return chunk > 0 && rest.len > chunk ? span_first(rest, chunk) : rest;
}

/* Begins and ends an output buffer of exactly `room` octets: sanitizers see what is past it. */
static inline struct outbuf
room_begin(size_t room, size_t usual)
{
    struct outbuf out = { .size = room > 0 ? room : usual };

    out.data = malloc(out.size);
    ASSERT(out.data);
    return out;
}

static inline void
room_end(struct outbuf *out, struct wire *wire)
{
    if (wire)
        wire_add(wire, outbuf_span(out));
    free(out->data);
}

/* The certificates stand beside the unit tests. */
static inline const char *
test_file(const char *name)
{
    static _Thread_local char paths[8][512];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 8];
    const char *here = __FILE__;

    snprintf(path, sizeof(paths[0]), "%.*stls/%s", (int)(strlen(here) - strlen("tls_pair.h")), here,
             name);
    return path;
}

/* One step of one side's handshake. */
static inline enum tls_status
pair_step(struct tls *tls, struct wire *from, struct wire *to, struct pieces pieces)
{
    struct span in = wire_chunk(from, pieces.chunk);
    size_t before = in.len;
    struct outbuf out = room_begin(pieces.out_room, TLS_OUTPUT_ROOM);
    enum tls_status status = tls_handshake(tls, &in, &out);

    from->taken += before - in.len;
    room_end(&out, to);
    return status;
}

/* True when both sides are done. False: one has failed (the other got its alert). */
static inline bool
pair_handshake(struct pair *pair, struct pieces pieces)
{
    enum tls_status client = TLS_WANT_INPUT;
    enum tls_status server = TLS_WANT_INPUT;

    for (unsigned turns = 0; turns < 100000; turns++) {
        client = pair_step(pair->client, &pair->to_client, &pair->to_server, pieces);
        server = pair_step(pair->server, &pair->to_server, &pair->to_client, pieces);
        if (client == TLS_OK && server == TLS_OK)
            return true;
        if ((client == TLS_FAILED || pair->to_client.taken == pair->to_client.len) &&
            (server == TLS_FAILED || pair->to_server.taken == pair->to_server.len) &&
            (client == TLS_FAILED || server == TLS_FAILED))
            return false;
    }
    fprintf(stderr, "handshake makes no progress: %d %d\n", client, server);
    abort();
}

static inline void
pair_free(struct pair *pair)
{
    tls_free(pair->client);
    tls_free(pair->server);
    free(pair->to_server.data);
    free(pair->to_client.data);
    memset(pair, 0, sizeof(*pair));
}

static inline struct pair
pair_create(struct tls_context *client, struct tls_context *server, const char *name,
            struct tls_session *resume)
{
    struct pair pair = { 0 };

    pair.client = tls_create_client(client, name, resume);
    pair.server = tls_create_server(server);
    ASSERT(pair.client && pair.server);
    return pair;
}

/* Sends all of plain. Each record that leaves must be whole. Returns the last status. */
static inline enum tls_status
pair_send(struct tls *tls, struct wire *to, struct span plain, struct pieces pieces)
{
    enum tls_status status = TLS_WANT_OUTPUT;

    while (status == TLS_WANT_OUTPUT) {
        struct outbuf out = room_begin(pieces.out_room, TLS_OUTPUT_ROOM);

        status = tls_write(tls, &plain, &out);
        ASSERT(status != TLS_WANT_OUTPUT || out.len > 0);
        ASSERT(status != TLS_OK || plain.len == 0);
        room_end(&out, to);
    }
    return status;
}

/* Decrypts all that is on the wire, appending to plain; back takes what TLS answers. */
static inline enum tls_status
pair_receive(struct tls *tls, struct wire *from, struct wire *plain, struct wire *back,
             struct pieces pieces)
{
    enum tls_status status = TLS_WANT_INPUT;

    do {
        struct span in = wire_chunk(from, pieces.chunk);
        size_t before = in.len;
        struct outbuf some = room_begin(pieces.plain_room, TLS_RECORD_BYTES_MAX);
        struct outbuf out = room_begin(pieces.out_room, TLS_OUTPUT_ROOM);

        status = tls_read(tls, &in, &some, &out);
        ASSERT(status != TLS_WANT_INPUT || in.len == 0);
        ASSERT(status != TLS_OK || outbuf_room(&some) == 0);
        from->taken += before - in.len;
        room_end(&some, plain);
        room_end(&out, back);
    } while (status == TLS_OK || (status == TLS_WANT_INPUT && wire_rest(from).len > 0));
    return status;
}

#endif
