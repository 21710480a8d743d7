/* What the kernel charges for relaying at the least: the same octets between client, relay and
 * next hop as in ringpost's cut-through mode, and nothing else. ringpost is measured against it.
 *
 *   bare_relay PORT NEXT_HOP_PORT            (both on 127.0.0.1; one thread, one ring)
 *
 * Does, as the relay does: multishot accept and receive into a ring of provided 16 KiB buffers, one
 * io_uring_enter per turn, one send per group of replies, MAIL, RCPT, BDAT, trace field and body as
 * one gathered send from the receive buffers (above 64 KiB: MAIL RCPT DATA as one send, then the
 * rest), next-hop connections used again (at most 64), messages above 256 KiB streamed, the
 * client's FIN awaited after QUIT.
 *
 * Does not: read lines, addresses or bodies, keep an envelope, count, log, check, time out, spell
 * out replies, pause a fast client. It knows the script of the load beforehand (EHLO, then MAIL,
 * RCPT, DATA alone or as one group, DATA only) and looks at the first octet and at the last few of
 * what came. What does not fit the script ends the connection, or the program. Not a relay: only
 * for this measurement.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/bare_script.h"

#define BUFFER_BYTES 16384u
#define BUFFERS 16384u /* never short: 256 MiB of addresses, touched when used */
#define BUFFERS_CLIENTS 256u
#define BUFFERS_HOPS 64u
#define RING_ENTRIES 4096u
#define COMPLETIONS 65536u
#define CLIENTS_MAX 16384u
#define HOPS_MAX 64u /* next_hop.connections */
#define PIECES_MAX 64u
#define STREAM_BYTES (256u * 1024) /* delivery.buffer */
#define CHUNK_BYTES_MAX (64u * 1024)
#define TERMINATOR_BYTES 3u
#define FIN_PAUSE_NS 50000000
#define NONE UINT32_MAX

enum group { GROUP_CLIENTS, GROUP_HOPS, GROUPS };
enum operation { OP_ACCEPT, OP_CLIENT_IN, OP_CLIENT_OUT, OP_HOP_IN, OP_HOP_OUT, OP_CONNECT, OP_NO };
enum client_state { CLIENT_COMMAND, CLIENT_BODY, CLIENT_WAITS, CLIENT_QUIT };
enum hop_state { HOP_GREETING, HOP_EHLO, HOP_IDLE, HOP_DATA, HOP_BODY, HOP_END };
/* What a client sent together with the end of its message. */
enum behind { BEHIND_NOTHING, BEHIND_GROUP, BEHIND_QUIT };

struct buffer {
    uint32_t next, len;
};

struct chain {
    uint32_t first, last, bytes;
};

struct client {
    int socket;
    uint32_t inflight, group_bytes, hop, next;
    enum client_state state;
    enum behind behind;
    bool receiving, gone, body_whole, used;
    uint64_t quit_ns;
    char tail[5];
    struct chain body;
};

struct hop {
    int socket;
    uint32_t client;
    enum hop_state state;
    bool sending, begun, used, chunking, chunk;
    char group[160];
    struct chain flight;
    struct msghdr header;
    struct iovec pieces[PIECES_MAX];
};

static struct {
    struct io_uring ring;
    struct io_uring_buf_ring *rings[GROUPS];
    uint32_t offered[GROUPS];
    char *memory;
    struct buffer buffers[BUFFERS];
    uint32_t buffer_free;
    struct client clients[CLIENTS_MAX];
    uint32_t client_free, clients_top;
    struct hop hops[HOPS_MAX];
    uint32_t hops_idle[HOPS_MAX], hops_idle_count, hops_count;
    uint32_t waiting_first, waiting_last;
    struct sockaddr_in next_hop;
    int listener;
    uint32_t quitting;
    uint64_t now_ns, swept_ns;
} relay;

static void
die(const char *what, int error)
{
    fprintf(stderr, "bare_relay: %s: %s\n", what, error != 0 ? strerror(error) : "unexpected");
    exit(1);
}

static struct io_uring_sqe *
entry_take(void)
{
    struct io_uring_sqe *entry = io_uring_get_sqe(&relay.ring);

    if (entry == NULL) {
        io_uring_submit(&relay.ring);
        entry = io_uring_get_sqe(&relay.ring);
        if (entry == NULL)
            die("io_uring_get_sqe", EBUSY);
    }
    return entry;
}

static void
entry_end(struct io_uring_sqe *entry, enum operation operation, uint32_t slot)
{
    io_uring_sqe_set_data64(entry, (uint64_t)operation << 32 | slot);
}

/* --- buffers --- */

static void
buffer_release(uint32_t index)
{
    relay.buffers[index].next = relay.buffer_free;
    relay.buffer_free = index;
}

static void
chain_append(struct chain *chain, uint32_t index)
{
    relay.buffers[index].next = NONE;
    if (chain->first == NONE)
        chain->first = index;
    else
        relay.buffers[chain->last].next = index;
    chain->last = index;
    chain->bytes += relay.buffers[index].len;
}

static void
chain_release(struct chain *chain)
{
    while (chain->first != NONE) {
        uint32_t index = chain->first;

        chain->first = relay.buffers[index].next;
        buffer_release(index);
    }
    chain->last = NONE;
    chain->bytes = 0;
}

static char *
buffer_memory(uint32_t index)
{
    return relay.memory + (size_t)index * BUFFER_BYTES;
}

static void
buffers_offer(enum group group, uint32_t most)
{
    int added = 0;

    while (relay.offered[group] < most && relay.buffer_free != NONE) {
        uint32_t index = relay.buffer_free;

        relay.buffer_free = relay.buffers[index].next;
        io_uring_buf_ring_add(relay.rings[group], buffer_memory(index), BUFFER_BYTES,
                              (unsigned short)index, (int)most - 1, added++);
        relay.offered[group]++;
    }
    if (added > 0)
        io_uring_buf_ring_advance(relay.rings[group], added);
}

/* --- operations --- */

static void
receive(int socket, enum operation operation, uint32_t slot)
{
    struct io_uring_sqe *entry = entry_take();

    io_uring_prep_recv_multishot(entry, socket, NULL, 0, 0);
    entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = operation == OP_CLIENT_IN ? GROUP_CLIENTS : GROUP_HOPS;
    entry_end(entry, operation, slot);
}

static void
send_text(int socket, enum operation operation, uint32_t slot, const char *text, size_t len)
{
    struct io_uring_sqe *entry = entry_take();

    io_uring_prep_send(entry, socket, text, len, MSG_WAITALL | MSG_NOSIGNAL);
    entry_end(entry, operation, slot);
}

static void
close_later(int socket)
{
    struct io_uring_sqe *entry = entry_take();

    io_uring_prep_close(entry, socket);
    entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    entry_end(entry, OP_NO, 0);
}

static void
accept_arm(void)
{
    struct io_uring_sqe *entry = entry_take();

    io_uring_prep_multishot_accept(entry, relay.listener, NULL, NULL, SOCK_CLOEXEC);
    entry_end(entry, OP_ACCEPT, 0);
}

/* --- next hop --- */

static void
hop_send(uint32_t slot, const char *text, size_t len)
{
    relay.hops[slot].sending = true;
    send_text(relay.hops[slot].socket, OP_HOP_OUT, slot, text, len);
}

/* Trace field and all there is of the body so far, as one gathered send. */
static void
hop_body(uint32_t slot)
{
    struct hop *hop = &relay.hops[slot];
    struct client *client = &relay.clients[hop->client];
    struct io_uring_sqe *entry;
    size_t count = 0;

    if (hop->sending || client->body.first == NONE)
        return;
    if (hop->chunk)
        hop->pieces[count++] = (struct iovec){
            hop->group, (size_t)snprintf(hop->group, sizeof(hop->group), hop_chunk,
                                         sizeof(trace_field) - 1 + client->body.bytes -
                                             TERMINATOR_BYTES) };
    if (!hop->begun)
        hop->pieces[count++] = (struct iovec){ (char *)trace_field, sizeof(trace_field) - 1 };
    hop->begun = true;
    while (count < PIECES_MAX && client->body.first != NONE) {
        uint32_t index = client->body.first;
        struct buffer *buffer = &relay.buffers[index];

        client->body.first = buffer->next;
        hop->pieces[count++] = (struct iovec){ buffer_memory(index), buffer->len };
        chain_append(&hop->flight, index);
    }
    for (uint32_t left = hop->chunk ? TERMINATOR_BYTES : 0; left > 0;) {
        struct iovec *last = &hop->pieces[count - 1];
        uint32_t part = last->iov_len < left ? (uint32_t)last->iov_len : left;

        left -= part;
        count -= (last->iov_len -= part) == 0;
    }
    if (client->body.first == NONE)
        client->body.bytes = 0;
    hop->header = (struct msghdr){ .msg_iov = hop->pieces, .msg_iovlen = count };
    hop->sending = true;
    entry = entry_take();
    io_uring_prep_sendmsg(entry, hop->socket, &hop->header, MSG_WAITALL | MSG_NOSIGNAL);
    entry_end(entry, OP_HOP_OUT, slot);
}

static void
hop_begin(uint32_t slot, uint32_t client)
{
    struct hop *hop = &relay.hops[slot];
    struct client *from = &relay.clients[client];

    hop->client = client;
    from->hop = slot;
    hop->begun = false;
    hop->chunk = hop->used && from->body_whole && from->body.bytes <= CHUNK_BYTES_MAX;
    hop->used = hop->chunking;
    hop->state = hop->chunk ? HOP_BODY : HOP_DATA;
    if (hop->chunk)
        hop_body(slot);
    else
        hop_send(slot, hop_group, sizeof(hop_group) - 1);
}

static void
hop_open(void)
{
    uint32_t slot = relay.hops_count++;
    struct hop *hop = &relay.hops[slot];
    struct io_uring_sqe *entry;
    int one = 1;

    *hop = (struct hop){ .client = NONE, .flight = { .first = NONE, .last = NONE } };
    hop->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (hop->socket < 0)
        die("socket", errno);
    setsockopt(hop->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    hop->state = HOP_GREETING;
    entry = entry_take();
    io_uring_prep_connect(entry, hop->socket, (struct sockaddr *)&relay.next_hop,
                          sizeof(relay.next_hop));
    entry_end(entry, OP_CONNECT, slot);
}

static void
message_submit(uint32_t client)
{
    if (relay.hops_idle_count > 0) { /* the one used last is the warmest */
        hop_begin(relay.hops_idle[--relay.hops_idle_count], client);
        return;
    }
    relay.clients[client].next = NONE;
    if (relay.waiting_first == NONE)
        relay.waiting_first = client;
    else
        relay.clients[relay.waiting_last].next = client;
    relay.waiting_last = client;
    if (relay.hops_count < HOPS_MAX)
        hop_open();
}

static void
hop_ready(uint32_t slot)
{
    uint32_t client = relay.waiting_first;

    if (client == NONE) {
        relay.hops[slot].state = HOP_IDLE;
        relay.hops_idle[relay.hops_idle_count++] = slot;
        return;
    }
    relay.waiting_first = relay.clients[client].next;
    hop_begin(slot, client);
}

/* --- clients --- */

static void
client_send(uint32_t slot, const char *text, size_t len)
{
    relay.clients[slot].inflight++;
    send_text(relay.clients[slot].socket, OP_CLIENT_OUT, slot, text, len);
}

#define CLIENT_SEND(slot, text) client_send((slot), (text), sizeof(text) - 1)

static void
client_quit(struct client *client)
{
    client->state = CLIENT_QUIT;
    client->quit_ns = relay.now_ns;
    relay.quitting++;
}

static void
client_verdict(uint32_t slot)
{
    struct client *client = &relay.clients[slot];

    client->hop = NONE;
    client->body_whole = false;
    client->state = CLIENT_COMMAND;
    if (client->behind == BEHIND_GROUP) {
        client->state = CLIENT_BODY;
        CLIENT_SEND(slot, reply_end_group);
    } else if (client->behind == BEHIND_QUIT) {
        client_quit(client);
        CLIENT_SEND(slot, reply_end_quit);
    } else {
        CLIENT_SEND(slot, reply_end);
    }
    client->behind = BEHIND_NOTHING;
}

static bool
ends_with(const char *data, uint32_t len, const char *end)
{
    return len >= strlen(end) && memcmp(data + len - strlen(end), end, strlen(end)) == 0;
}

static void
client_command(uint32_t slot, const char *data, uint32_t len)
{
    struct client *client = &relay.clients[slot];
    bool data_last = ends_with(data, len, "DATA\r\n");

    switch (data[0]) {
    case 'E': CLIENT_SEND(slot, reply_ehlo); break;
    case 'H': CLIENT_SEND(slot, reply_helo); break;
    case 'M':
        if (data_last) {
            client->group_bytes = len;
            client->state = CLIENT_BODY;
            CLIENT_SEND(slot, reply_group);
        } else {
            CLIENT_SEND(slot, reply_mail);
        }
        break;
    case 'R': CLIENT_SEND(slot, reply_rcpt); break;
    case 'D':
        client->state = CLIENT_BODY;
        CLIENT_SEND(slot, reply_data);
        break;
    case 'Q':
        client_quit(client);
        CLIENT_SEND(slot, reply_quit);
        break;
    default: fprintf(stderr, "bare_relay: not in the script: %.*s\n", (int)len, data); exit(1);
    }
}

/* The end of the message is at the end of what came, or right before a known group. */
static bool
body_ends(struct client *client, const char *data, uint32_t *len)
{
    uint32_t behind = 0;

    if (client->group_bytes > 0 && *len > client->group_bytes &&
        ends_with(data, *len, "DATA\r\n")) {
        client->behind = BEHIND_GROUP;
        behind = client->group_bytes;
    } else if (ends_with(data, *len, "\r\n.\r\nQUIT\r\n")) {
        client->behind = BEHIND_QUIT;
        behind = 6;
    }
    *len -= behind;
    if (*len >= sizeof(client->tail)) {
        memcpy(client->tail, data + *len - sizeof(client->tail), sizeof(client->tail));
    } else {
        memmove(client->tail, client->tail + *len, sizeof(client->tail) - *len);
        memcpy(client->tail + sizeof(client->tail) - *len, data, *len);
    }
    return memcmp(client->tail, "\r\n.\r\n", sizeof(client->tail)) == 0;
}

static void
client_body(uint32_t slot, uint32_t index)
{
    struct client *client = &relay.clients[slot];
    struct buffer *buffer = &relay.buffers[index];
    bool whole = body_ends(client, buffer_memory(index), &buffer->len);

    chain_append(&client->body, index);
    client->body_whole = whole;
    if (whole)
        client->state = CLIENT_WAITS;
    if (client->hop == NONE && (whole || client->body.bytes > STREAM_BYTES)) {
        client->hop = HOPS_MAX; /* none yet, but asked for */
        message_submit(slot);
    } else if (client->hop < HOPS_MAX && relay.hops[client->hop].state == HOP_BODY) {
        hop_body(client->hop);
    }
}

static void
client_free(uint32_t slot)
{
    struct client *client = &relay.clients[slot];

    if (!client->gone || client->inflight > 0 || client->hop != NONE)
        return;
    chain_release(&client->body);
    close_later(client->socket);
    client->used = false;
    client->next = relay.client_free;
    relay.client_free = slot;
}

static void
client_accept(int socket)
{
    uint32_t slot = relay.client_free;

    if (slot == NONE) {
        close(socket);
        return;
    }
    relay.client_free = relay.clients[slot].next;
    if (slot >= relay.clients_top)
        relay.clients_top = slot + 1;
    relay.clients[slot] = (struct client){ .socket = socket,
                                           .hop = NONE,
                                           .used = true,
                                           .inflight = 1,
                                           .body = { .first = NONE, .last = NONE } };
    receive(socket, OP_CLIENT_IN, slot);
    CLIENT_SEND(slot, greeting);
}

/* --- completions --- */

/* The buffer of a receive, or NONE. */
static uint32_t
buffer_of(const struct io_uring_cqe *entry, enum group group)
{
    uint32_t index = entry->flags >> IORING_CQE_BUFFER_SHIFT;

    if (!(entry->flags & IORING_CQE_F_BUFFER))
        return NONE;
    relay.offered[group]--;
    relay.buffers[index].len = entry->res > 0 ? (uint32_t)entry->res : 0;
    if (entry->res > 0)
        return index;
    buffer_release(index);
    return NONE;
}

static void
on_client_in(uint32_t slot, const struct io_uring_cqe *entry)
{
    struct client *client = &relay.clients[slot];
    uint32_t index = buffer_of(entry, GROUP_CLIENTS);

    if (index != NONE && client->state == CLIENT_BODY) {
        client_body(slot, index);
    } else if (index != NONE) {
        if (client->state == CLIENT_COMMAND)
            client_command(slot, buffer_memory(index), relay.buffers[index].len);
        else /* apart from the end of the message that it was sent behind */
            client->behind = *buffer_memory(index) == 'Q' ? BEHIND_QUIT : BEHIND_GROUP;
        buffer_release(index);
    }
    if (entry->flags & IORING_CQE_F_MORE)
        return;
    if (entry->res == -ENOBUFS || entry->res > 0) {
        receive(client->socket, OP_CLIENT_IN, slot);
        return;
    }
    client->inflight--;
    client->gone = true;
    if (client->state == CLIENT_QUIT)
        relay.quitting--;
    client_free(slot);
}

/* True when the reply that `data` ends with has this first digit; a reply of several lines, or
 * several replies, are told by their last line. */
static bool
reply_ends(const char *data, uint32_t len, char digit)
{
    const char *line;

    if (len < 2 || data[len - 1] != '\n')
        return false;
    line = memrchr(data, '\n', len - 1);
    line = line != NULL ? line + 1 : data;
    if (data + len - line < 4 || line[3] == '-')
        return false;
    if (*line == '4' || *line == '5')
        die("the next hop refused", 0);
    return *line == digit;
}

static void
hop_reply(uint32_t slot, const char *data, uint32_t len)
{
    struct hop *hop = &relay.hops[slot];
    uint32_t client = hop->client;

    switch (hop->state) {
    case HOP_GREETING:
        if (reply_ends(data, len, '2')) {
            hop->state = HOP_EHLO;
            hop_send(slot, hop_ehlo, sizeof(hop_ehlo) - 1);
        }
        break;
    case HOP_EHLO:
        hop->chunking |= memmem(data, len, "CHUNKING", 8) != NULL;
        if (reply_ends(data, len, '2'))
            hop_ready(slot);
        break;
    case HOP_DATA:
        if (reply_ends(data, len, '3')) {
            hop->state = HOP_BODY;
            hop_body(slot);
        }
        break;
    case HOP_END:
        if (reply_ends(data, len, '2')) {
            hop->client = NONE;
            hop_ready(slot);
            client_verdict(client);
            client_free(client);
        }
        break;
    default: die("the next hop spoke out of turn", 0);
    }
}

static void
on_hop_in(uint32_t slot, const struct io_uring_cqe *entry)
{
    uint32_t index = buffer_of(entry, GROUP_HOPS);

    if (index != NONE) {
        hop_reply(slot, buffer_memory(index), relay.buffers[index].len);
        buffer_release(index);
    }
    if (entry->flags & IORING_CQE_F_MORE)
        return;
    if (entry->res != -ENOBUFS && entry->res <= 0)
        die("the next hop closed a connection", entry->res < 0 ? -entry->res : 0);
    receive(relay.hops[slot].socket, OP_HOP_IN, slot);
}

static void
on_hop_out(uint32_t slot, int result)
{
    struct hop *hop = &relay.hops[slot];
    struct client *client;

    if (result < 0)
        die("send to the next hop", -result);
    hop->sending = false;
    if (hop->state != HOP_BODY)
        return;
    chain_release(&hop->flight);
    client = &relay.clients[hop->client];
    if (client->body.first != NONE)
        hop_body(slot);
    else if (client->body_whole)
        hop->state = HOP_END;
}

static void
dispatch(const struct io_uring_cqe *entry)
{
    uint32_t slot = (uint32_t)entry->user_data;

    switch ((enum operation)(entry->user_data >> 32)) {
    case OP_ACCEPT:
        if (entry->res >= 0)
            client_accept(entry->res);
        if (!(entry->flags & IORING_CQE_F_MORE))
            accept_arm();
        break;
    case OP_CLIENT_IN: on_client_in(slot, entry); break;
    case OP_CLIENT_OUT:
        relay.clients[slot].inflight--;
        client_free(slot);
        break;
    case OP_HOP_IN: on_hop_in(slot, entry); break;
    case OP_HOP_OUT: on_hop_out(slot, entry->res); break;
    case OP_CONNECT:
        if (entry->res < 0)
            die("connect to the next hop", -entry->res);
        receive(relay.hops[slot].socket, OP_HOP_IN, slot);
        break;
    case OP_NO: break;
    }
}

/* Clients that said QUIT and wait for our FIN: rare, so all slots are looked at. */
static void
quitting_sweep(void)
{
    if (relay.quitting == 0 || relay.now_ns - relay.swept_ns < FIN_PAUSE_NS)
        return;
    relay.swept_ns = relay.now_ns;
    for (uint32_t i = 0; i < relay.clients_top; i++) {
        struct client *client = &relay.clients[i];

        if (client->used && client->state == CLIENT_QUIT && !client->gone &&
            relay.now_ns - client->quit_ns > FIN_PAUSE_NS)
            shutdown(client->socket, SHUT_WR);
    }
}

static void
run(void)
{
    struct __kernel_timespec pause = { .tv_nsec = FIN_PAUSE_NS };
    struct timespec now;

    accept_arm();
    for (;;) {
        struct io_uring_cqe *entry;
        unsigned head, seen = 0;

        buffers_offer(GROUP_HOPS, BUFFERS_HOPS);
        buffers_offer(GROUP_CLIENTS, BUFFERS_CLIENTS);
        io_uring_submit_and_wait_timeout(&relay.ring, &entry, 1, relay.quitting > 0 ? &pause : NULL,
                                         NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        relay.now_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
        io_uring_for_each_cqe(&relay.ring, head, entry)
        {
            dispatch(entry);
            seen++;
        }
        io_uring_cq_advance(&relay.ring, seen);
        quitting_sweep();
    }
}

/* --- start --- */

static struct sockaddr_in
address_of(const char *port)
{
    char *end;
    unsigned long value = strtoul(port, &end, 10);

    if (*end != '\0' || value == 0 || value > UINT16_MAX)
        die(port, EINVAL);
    return (struct sockaddr_in){ .sin_family = AF_INET,
                                 .sin_addr = { htonl(INADDR_LOOPBACK) },
                                 .sin_port = htons((uint16_t)value) };
}

static void
listen_on(struct sockaddr_in at)
{
    int one = 1;

    relay.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (relay.listener < 0)
        die("socket", errno);
    setsockopt(relay.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(relay.listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (bind(relay.listener, (struct sockaddr *)&at, sizeof(at)) != 0)
        die("bind", errno);
    if (listen(relay.listener, 4096) != 0)
        die("listen", errno);
}

static void
ring_create(void)
{
    struct io_uring_params params = { .flags = IORING_SETUP_SINGLE_ISSUER |
                                               IORING_SETUP_DEFER_TASKRUN |
                                               IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE |
                                               IORING_SETUP_CLAMP,
                                      .cq_entries = COMPLETIONS };
    const uint32_t most[GROUPS] = { BUFFERS_CLIENTS, BUFFERS_HOPS };
    int result = io_uring_queue_init_params(RING_ENTRIES, &relay.ring, &params);

    if (result < 0)
        die("io_uring_queue_init_params", -result);
    io_uring_register_ring_fd(&relay.ring);
    relay.memory = mmap(NULL, (size_t)BUFFERS * BUFFER_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (relay.memory == MAP_FAILED)
        die("mmap", errno);
    for (unsigned i = 0; i < GROUPS; i++) {
        relay.rings[i] = io_uring_setup_buf_ring(&relay.ring, most[i], (int)i, 0, &result);
        if (relay.rings[i] == NULL)
            die("io_uring_setup_buf_ring", -result);
    }
}

int
main(int argc, char **argv)
{
    struct rlimit files;

    if (argc != 3) {
        fprintf(stderr, "usage: bare_relay PORT NEXT_HOP_PORT\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    /* As ringpost's workers are scheduled: a wake-up does not interrupt source or sink. */
    sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){ .sched_priority = 0 });
    relay.next_hop = address_of(argv[2]);
    listen_on(address_of(argv[1]));
    ring_create();
    relay.waiting_first = relay.waiting_last = relay.buffer_free = NONE;
    for (uint32_t i = BUFFERS; i > 0; i--)
        buffer_release(i - 1);
    for (uint32_t i = 0; i < CLIENTS_MAX; i++)
        relay.clients[i].next = i + 1 < CLIENTS_MAX ? i + 1 : NONE;
    run();
    return 0;
}
