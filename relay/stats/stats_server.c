/* The statistics endpoint: a small HTTP server on its own thread with its own ring.
 *
 * A connection: READING until the request head is whole -> (ASKING: a worker has the question) ->
 * SENDING the response -> LINGERING until
 * the client closes too (or the kernel would throw away what it has not read, RFC 9112 9.6) ->
 * CLOSING: everything in flight is cancelled and waited for -> FREE. Its deadline leads from any
 * state to CLOSING.
 * */
#include "relay/stats/stats_server.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/io.h"
#include "core/log.h"
#include "relay/queue/control_server.h"
#include "relay/sandbox/sandbox.h"
#include "relay/stats/http.h"
#include "relay/stats/stats_socket.h"

/* Scrapers in front, behind them those of the private socket: neither can keep the others out. */
#define CONNECTIONS (STATS_CONNECTIONS_MAX + CONTROL_MAILBOXES)
#define LISTENERS (STATS_LISTENERS_MAX + 1)
/* A connection has at most one receive, send and cancel in flight, and one question. */
#define COMPLETIONS (8 * STATS_CONNECTIONS_MAX)
#define BUFFERS (2 * CONNECTIONS)
#define ACCEPT_PAUSE_NS (100 * NS_PER_MS)

/* For the connection after the last place; the client's request is not even read. */
#define BUSY                                           \
    "HTTP/1.1 503 Service Unavailable\r\n"             \
    "Content-Type: text/plain; charset=utf-8\r\n"      \
    "Content-Length: 5\r\nConnection: close\r\n\r\n"  \
    "busy\n"

enum ticket_kind { TICKET_WAKE, TICKET_LISTENER, TICKET_CONNECTION, TICKET_ANSWER };

_Static_assert(COMPLETIONS >= 5 * CONNECTIONS, "completions are never lost");

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_READING,
    CONNECTION_ASKING,
    CONNECTION_SENDING,
    CONNECTION_LINGERING,
    CONNECTION_CLOSING
};

struct connection {
    enum connection_state state;
    uint32_t generation;
    uint32_t in_flight;
    bool receiving; /* one of these is a receive */
    bool asking;    /* one of these is a question to a worker */
    int socket;
    uint64_t deadline_ns;
    char *response;
    size_t response_bytes;
    size_t request_bytes;
    char request[HTTP_REQUEST_BYTES_MAX];
};

struct stats_server {
    pthread_t thread;
    struct stats_listener listeners[LISTENERS]; /* with a control, the last one is private */
    uint64_t accept_again_ns[LISTENERS];        /* 0: accepting */
    size_t listener_count;
    struct control *control; /* NULL: none */
    int wake[2];
    struct io *io; /* made and used by the thread */

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t changed;
    struct stats_source source;
    bool running; /* the thread; for those who start and stop it */
    bool started; /* the thread has its ring, or `error` says why not */
    char error[STATS_ERROR_BYTES];

    bool stopping; /* the thread's from here on */
    uint64_t now_ns;
    struct connection connections[CONNECTIONS];
};

/* --- one connection --- */

static struct io_ticket
connection_ticket(const struct stats_server *server, const struct connection *connection)
{
    return (struct io_ticket){ .kind = TICKET_CONNECTION,
                               .slot = (uint32_t)(connection - server->connections),
                               .generation = connection->generation };
}

static bool
connection_private(const struct stats_server *server, const struct connection *connection)
{
    return connection >= server->connections + STATS_CONNECTIONS_MAX;
}

static uint32_t
connection_mailbox(const struct stats_server *server, const struct connection *connection)
{
    ASSERT(connection_private(server, connection));
    return (uint32_t)(connection - server->connections) - STATS_CONNECTIONS_MAX;
}

static void
connection_receive(struct stats_server *server, struct connection *connection)
{
    io_receive(server->io, connection_ticket(server, connection), connection->socket);
    connection->receiving = true;
    connection->in_flight++;
}

/* Frees the slot once nothing is in flight: until then the kernel may use the response and the
 * ticket. */
static void
connection_release(struct stats_server *server, struct connection *connection)
{
    if (connection->state != CONNECTION_CLOSING || connection->in_flight > 0)
        return;
    io_close(server->io, connection->socket);
    free(connection->response);
    connection->response = NULL;
    connection->state = CONNECTION_FREE;
    connection->generation = (connection->generation + 1) & 0xffffff;
}

static void
connection_close(struct stats_server *server, struct connection *connection)
{
    if (connection->state == CONNECTION_CLOSING)
        return;
    connection->state = CONNECTION_CLOSING;
    if (connection->in_flight > 0) {
        io_cancel(server->io, connection_ticket(server, connection), connection->socket);
        connection->in_flight++;
    }
    connection_release(server, connection);
}

/* --- responses --- */

enum content { CONTENT_METRICS, CONTENT_JSON, CONTENT_PAGE, CONTENT_TEXT };

struct answer {
    unsigned status;
    enum content content;
    struct span text; /* TEXT */
    bool with_body;
};

static void
process_values_fill(struct process_values *process)
{
    struct log_totals totals = log_totals();

    counter_set(&process->log_lines_written, totals.lines_written);
    counter_set(&process->log_lines_dropped, totals.lines_dropped);
    counter_set(&process->log_write_errors, totals.write_errors);
}

static struct span
status_body(unsigned status)
{
    switch (status) {
    case 200:
        return SPAN("ok\n");
    case 404:
        return SPAN("not found; there are /metrics, /healthz and /stats.json\n");
    case 405:
        return SPAN("only GET and HEAD\n");
    case 503:
        return SPAN("draining\n");
    default:
        return SPAN("bad request\n");
    }
}

static unsigned
request_route(struct stats_server *server, const struct http_request *request,
              enum content *content)
{
    if (request->method != HTTP_GET && request->method != HTTP_HEAD)
        return 405;
    if (span_equal(request->path, SPAN("/metrics")))
        *content = CONTENT_METRICS;
    else if (span_equal(request->path, SPAN("/stats.json")))
        *content = CONTENT_JSON;
    else if (!span_equal(request->path, SPAN("/healthz")))
        return 404;
    else
        return counter_get(&server->source.process->draining) != 0 ? 503 : 200;
    return 200;
}

/* Head and body in one piece of memory. The body is written first, at a distance that every
 * head fits in, since the head tells its length. False: no memory. */
static bool
response_make(struct stats_server *server, struct connection *connection,
              const struct answer *answer)
{
    static const char *const types[] = {
        [CONTENT_METRICS] = "text/plain; version=0.0.4; charset=utf-8",
        [CONTENT_JSON] = "application/json",
        [CONTENT_PAGE] = "text/plain; charset=utf-8",
        [CONTENT_TEXT] = "text/plain; charset=utf-8",
    };
    size_t size = answer->content == CONTENT_TEXT   ? answer->text.len
                  : answer->content == CONTENT_PAGE ? CONTROL_PAGE_BYTES_MAX
                                                    : stats_bytes_max(&server->source);
    char *smaller;
    char *memory = malloc(HTTP_RESPONSE_HEAD_BYTES_MAX + size);
    struct outbuf body = { .data = memory + HTTP_RESPONSE_HEAD_BYTES_MAX, .size = size };
    struct outbuf head = { .data = memory, .size = HTTP_RESPONSE_HEAD_BYTES_MAX };
    struct http_response response = { .status = answer->status,
                                      .content_type = span_text(types[answer->content]) };

    if (memory == NULL)
        return false;
    response.date_ns = clock_realtime_ns();
    if (answer->content == CONTENT_METRICS)
        stats_render_prometheus(&server->source, &body);
    else if (answer->content == CONTENT_JSON)
        stats_render_json(&server->source, response.date_ns, &body);
    else if (answer->content == CONTENT_PAGE)
        control_answer(server->control, connection_mailbox(server, connection), &body);
    else
        outbuf_add(&body, answer->text);
    response.content_bytes = body.len;
    http_response_write(&response, &head);
    if (answer->with_body && body.len > 0)
        memmove(memory + head.len, body.data, body.len);
    connection->response_bytes = head.len + (answer->with_body ? body.len : 0);
    /* Most of it was never touched; what was, and is not needed, goes back. */
    smaller = realloc(memory, connection->response_bytes);
    connection->response = smaller != NULL ? smaller : memory;
    return true;
}

static void
connection_respond(struct stats_server *server, struct connection *connection,
                   const struct answer *answer)
{
    if (!response_make(server, connection, answer)) {
        connection_close(server, connection);
        return;
    }
    connection->state = CONNECTION_SENDING;
    io_send(server->io, connection_ticket(server, connection), connection->socket,
            span_of(connection->response, connection->response_bytes));
    connection->in_flight++;
}

/* What anybody may know, on any of the sockets. */
static void
connection_answer(struct stats_server *server, struct connection *connection,
                  enum http_result result, const struct http_request *request)
{
    struct answer answer = { .content = CONTENT_TEXT, .with_body = true };

    pthread_mutex_lock(&server->lock);
    process_values_fill(server->source.process);
    if (result == HTTP_COMPLETE) {
        answer.status = request_route(server, request, &answer.content);
        answer.with_body = request->method != HTTP_HEAD;
    } else {
        answer.status = http_result_status(result);
    }
    answer.text = status_body(answer.status);
    connection_respond(server, connection, &answer);
    pthread_mutex_unlock(&server->lock);
}

static void
connection_ask(struct stats_server *server, struct connection *connection,
               const struct http_request *request)
{
    struct answer answer = { .content = CONTENT_TEXT, .with_body = true };
    struct io_ticket ticket = connection_ticket(server, connection);

    ticket.kind = TICKET_ANSWER;
    answer.status = control_ask(server->control, connection_mailbox(server, connection), request,
                                server->io, ticket, &answer.text);
    if (answer.status != 0) {
        connection_respond(server, connection, &answer);
        return;
    }
    connection->state = CONNECTION_ASKING;
    connection->asking = true;
    connection->in_flight++;
}

static void
connection_request(struct stats_server *server, struct connection *connection,
                   enum http_result result, const struct http_request *request)
{
    if (result == HTTP_COMPLETE && connection_private(server, connection) &&
        span_starts_ignore_case(request->path, SPAN("/queue/")))
        connection_ask(server, connection, request);
    else
        connection_answer(server, connection, result, request);
}

/* --- completions --- */

static void
connection_input(struct stats_server *server, struct connection *connection, struct span in)
{
    size_t room = sizeof(connection->request) - connection->request_bytes;
    struct http_request request;
    enum http_result result;

    if (connection->state != CONNECTION_READING)
        return; /* a second request, or a body: not asked for */
    in = span_first(in, in.len < room ? in.len : room);
    memcpy(connection->request + connection->request_bytes, in.data, in.len);
    connection->request_bytes += in.len;
    result = http_request_parse(span_of(connection->request, connection->request_bytes), &request);
    if (result != HTTP_PARTIAL)
        connection_request(server, connection, result, &request);
}

static void
connection_received(struct stats_server *server, struct connection *connection,
                    const struct io_completion *completion)
{
    if (!completion->more) {
        connection->receiving = false;
        connection->in_flight--;
    }
    if (completion->buffer != BUFFER_NONE) {
        struct buffers *buffers = io_buffers(server->io);

        connection_input(server, connection,
                         span_of(buffer_memory(buffers, completion->buffer),
                                 (size_t)completion->result));
        buffer_release(buffers, completion->buffer);
    }
    if (connection->receiving || connection->state == CONNECTION_CLOSING ||
        connection->state == CONNECTION_FREE)
        return;
    if (completion->result > 0 || io_error_is_no_buffer(completion->result))
        connection_receive(server, connection);
    else if (connection->state != CONNECTION_SENDING && connection->state != CONNECTION_ASKING)
        connection_close(server, connection); /* the client is done, or was never serious */
}

static void
connection_sent(struct stats_server *server, struct connection *connection, int32_t result)
{
    connection->in_flight--;
    if (connection->state != CONNECTION_SENDING)
        return;
    if (result < 0 || (size_t)result < connection->response_bytes || !connection->receiving) {
        connection_close(server, connection);
        return;
    }
    connection->state = CONNECTION_LINGERING;
    io_shutdown(server->io, connection->socket);
}

static void
connection_completed(struct stats_server *server, const struct io_completion *completion)
{
    struct connection *connection = &server->connections[completion->ticket.slot];

    ASSERT(completion->ticket.slot < CONNECTIONS);
    ASSERT(connection->generation == completion->ticket.generation);
    ASSERT(connection->state != CONNECTION_FREE && connection->in_flight > 0);
    if (completion->op == IO_RECEIVE)
        connection_received(server, connection, completion);
    else if (completion->op == IO_SEND)
        connection_sent(server, connection, completion->result);
    else
        connection->in_flight--; /* cancel */
    connection_release(server, connection);
}

/* A worker has answered. */
static void
connection_answered(struct stats_server *server, const struct io_completion *completion)
{
    struct connection *connection = &server->connections[completion->ticket.slot];
    struct answer answer = { .status = 200, .content = CONTENT_PAGE, .with_body = true };

    ASSERT(completion->ticket.slot < CONNECTIONS);
    if (!connection->asking) /* we are stopping, and did not wait */
        return;
    ASSERT(connection->generation == completion->ticket.generation);
    connection->asking = false;
    connection->in_flight--;
    if (connection->state == CONNECTION_ASKING)
        connection_respond(server, connection, &answer);
    connection_release(server, connection);
}

static void
connection_open(struct stats_server *server, int socket, bool private)
{
    struct connection *connection = server->connections + (private ? STATS_CONNECTIONS_MAX : 0);
    struct connection *end =
        server->connections + (private ? CONNECTIONS : STATS_CONNECTIONS_MAX);

    while (connection < end && connection->state != CONNECTION_FREE)
        connection++;
    if (server->stopping || connection == end) {
        io_send_last(server->io, socket, SPAN(BUSY));
        return;
    }
    connection->state = CONNECTION_READING;
    connection->socket = socket;
    connection->in_flight = 0;
    connection->request_bytes = 0;
    connection->deadline_ns = server->now_ns + STATS_DEADLINE_MS * NS_PER_MS;
    connection_receive(server, connection);
}

static void
listener_accept(struct stats_server *server, size_t index)
{
    server->accept_again_ns[index] = 0;
    io_accept(server->io, (struct io_ticket){ .kind = TICKET_LISTENER, .slot = (uint32_t)index },
              server->listeners[index].descriptor);
}

static void
listener_completed(struct stats_server *server, const struct io_completion *completion)
{
    size_t index = completion->ticket.slot;

    if (completion->op != IO_ACCEPT)
        return;
    if (completion->result >= 0)
        connection_open(server, completion->result,
                        server->control != NULL && index == server->listener_count - 1);
    if (completion->more || server->stopping)
        return;
    /* An error that lasts (no descriptors) must not make a busy loop. */
    if (completion->result < 0)
        server->accept_again_ns[index] = server->now_ns + ACCEPT_PAUSE_NS;
    else
        listener_accept(server, index);
}

static void
completed(struct stats_server *server, const struct io_completion *completion)
{
    switch ((enum ticket_kind)completion->ticket.kind) {
    case TICKET_WAKE:
        if (completion->buffer != BUFFER_NONE)
            buffer_release(io_buffers(server->io), completion->buffer);
        server->stopping = true;
        break;
    case TICKET_LISTENER:
        listener_completed(server, completion);
        break;
    case TICKET_CONNECTION:
        connection_completed(server, completion);
        break;
    case TICKET_ANSWER:
        connection_answered(server, completion);
        break;
    }
}

/* --- the thread --- */

/* Acts on what is due; returns how long to wait for the next. */
static uint64_t
deadlines(struct stats_server *server)
{
    uint64_t next_ns = UINT64_MAX;

    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &server->connections[i];

        if (server->stopping && connection->asking) {
            /* The workers have ended: nobody answers. */
            connection->asking = false;
            connection->in_flight--;
            connection_release(server, connection);
        }

        if (connection->state == CONNECTION_FREE || connection->state == CONNECTION_CLOSING)
            continue;
        if (connection->deadline_ns <= server->now_ns || server->stopping)
            connection_close(server, connection);
        else if (connection->deadline_ns < next_ns)
            next_ns = connection->deadline_ns;
    }
    for (size_t i = 0; i < server->listener_count && !server->stopping; i++) {
        if (server->accept_again_ns[i] != 0 && server->accept_again_ns[i] <= server->now_ns)
            listener_accept(server, i);
        else if (server->accept_again_ns[i] != 0 && server->accept_again_ns[i] < next_ns)
            next_ns = server->accept_again_ns[i];
    }
    return next_ns == UINT64_MAX ? next_ns : next_ns - server->now_ns;
}

static bool
all_free(const struct stats_server *server)
{
    for (size_t i = 0; i < CONNECTIONS; i++)
        if (server->connections[i].state != CONNECTION_FREE)
            return false;
    return true;
}

static void
serve(struct stats_server *server)
{
    struct io_completion completion;

    io_receive(server->io, (struct io_ticket){ .kind = TICKET_WAKE }, server->wake[0]);
    for (size_t i = 0; i < server->listener_count; i++)
        listener_accept(server, i);
    while (!server->stopping || !all_free(server)) {
        uint64_t timeout_ns;

        server->now_ns = clock_now_ns();
        timeout_ns = deadlines(server);
        if (server->stopping && all_free(server))
            break;
        io_wait(server->io, timeout_ns);
        server->now_ns = clock_now_ns();
        while (io_next(server->io, &completion))
            completed(server, &completion);
    }
    /* Closes of the last connections are still queued, and somebody may have connected
     * meanwhile. */
    io_wait(server->io, 0);
    while (io_next(server->io, &completion))
        if (completion.op == IO_ACCEPT && completion.result >= 0)
            io_close_now(completion.result);
}

static void *
server_run(void *argument)
{
    struct stats_server *server = argument;
    struct io_options options = {
        .entries = COMPLETIONS, .completions = COMPLETIONS, .buffer_count = BUFFERS};
    char error[IO_ERROR_BYTES];
    struct io *io = io_create(&options, error);

    server->io = io;
    pthread_mutex_lock(&server->lock);
    if (io == NULL)
        snprintf(server->error, sizeof(server->error), "statistics server: %s", error);
    server->started = true;
    pthread_cond_signal(&server->changed);
    pthread_mutex_unlock(&server->lock);
    if (io == NULL)
        return NULL;
    sandbox_thread(FILTER_STATS);
    serve(server);
    io_destroy(io);
    return NULL;
}

/* --- start and stop --- */

static void
server_free(struct stats_server *server)
{
    for (size_t i = 0; i < server->listener_count; i++)
        stats_unlisten(&server->listeners[i]);
    for (size_t i = 0; i < 2; i++)
        if (server->wake[i] >= 0)
            io_close_now(server->wake[i]);
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static bool
listeners_open(struct stats_server *server, const struct config_address *addresses, size_t count,
               char error[STATS_ERROR_BYTES])
{
    for (size_t i = 0; i < count; i++) {
        int result = stats_listen(&addresses[i], false, &server->listeners[i]);

        if (result < 0) {
            snprintf(error, STATS_ERROR_BYTES, "cannot listen on stats.address %s: %s",
                     addresses[i].text, io_error_text(result));
            return false;
        }
        server->listener_count++;
    }
    if (server->control != NULL) {
        const struct config_address *address = control_address(server->control);
        int result = stats_listen(address, true, &server->listeners[count]);

        if (result < 0) {
            snprintf(error, STATS_ERROR_BYTES, "cannot listen on %s, for `ringpost queue`: %s",
                     address->text, io_error_text(result));
            return false;
        }
        server->listener_count++;
    }
    return true;
}

/* Signals are the main thread's. */
static bool
thread_start(struct stats_server *server, char error[STATS_ERROR_BYTES])
{
    sigset_t all, before;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&server->thread, NULL, server_run, server);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result != 0) {
        snprintf(error, STATS_ERROR_BYTES, "cannot start the statistics thread: %s",
                 io_error_text(result));
        return false;
    }
    pthread_mutex_lock(&server->lock);
    while (!server->started)
        pthread_cond_wait(&server->changed, &server->lock);
    memcpy(error, server->error, STATS_ERROR_BYTES);
    pthread_mutex_unlock(&server->lock);
    if (error[0] != '\0')
        pthread_join(server->thread, NULL);
    return error[0] == '\0';
}

struct stats_server *
stats_server_open(const struct config_address *addresses, size_t address_count,
                  struct control *control, char error[STATS_ERROR_BYTES])
{
    struct stats_server *server = calloc(1, sizeof(*server));
    int result;

    error[0] = '\0';
    if (server == NULL || address_count > STATS_LISTENERS_MAX) {
        snprintf(error, STATS_ERROR_BYTES,
                 server == NULL ? "statistics server: out of memory"
                                : "stats.address: more than %d addresses",
                 STATS_LISTENERS_MAX);
        free(server);
        return NULL;
    }
    server->control = control;
    pthread_mutex_init(&server->lock, NULL);
    pthread_cond_init(&server->changed, NULL);
    result = stats_wake_pair(server->wake);
    if (result < 0) {
        server->wake[0] = server->wake[1] = -1;
        snprintf(error, STATS_ERROR_BYTES, "statistics server: %s", io_error_text(result));
    }
    if (result < 0 || !listeners_open(server, addresses, address_count, error)) {
        server_free(server);
        return NULL;
    }
    return server;
}

bool
stats_server_start(struct stats_server *server, const struct stats_source *source,
                   char error[STATS_ERROR_BYTES])
{
    server->source = *source;
    server->running = thread_start(server, error);
    return server->running;
}

void
stats_server_update(struct stats_server *server, const struct stats_source *source)
{
    pthread_mutex_lock(&server->lock);
    server->source = *source;
    pthread_mutex_unlock(&server->lock);
}

void
stats_server_stop(struct stats_server *server)
{
    if (server == NULL)
        return;
    if (server->running) {
        stats_wake(server->wake[1]);
        pthread_join(server->thread, NULL);
    }
    server_free(server);
}

uint16_t
stats_server_port(const struct stats_server *server, size_t index)
{
    ASSERT(index < server->listener_count);
    return io_port(server->listeners[index].descriptor);
}
