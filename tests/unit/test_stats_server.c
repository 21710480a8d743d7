/* The statistics server on the real kernel: answers, refusals, limits, deadlines, Unix socket
 * files; and `ringpost stats` against it. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/clock.h"
#include "relay/stats/http.h"
#include "relay/stats/stats_client.h"
#include "relay/stats/stats_server.h"
#include "relay/stats/stats_socket.h"

static struct counters worker;
static struct hop_counters hop;
static struct process_values process;
static const struct counters *const workers[] = { &worker };
static const struct hop_counters *const hops_of[] = { &hop };
static const struct stats_hop hops[] = { { "internal", 1 } };
static const struct stats_source source = {
    .version = "0.1.0",
    .workers = workers,
    .hop_counters = hops_of,
    .hops = hops,
    .process = &process,
    .worker_count = 1,
    .hop_count = 1,
};

static char folder[] = "/tmp/ringpost-stats-XXXXXX";
static char path[64];
static struct config_address addresses[2];
static struct stats_server *server;

static struct stats_server *
server_begin(size_t count, char error[STATS_ERROR_BYTES])
{
    struct stats_server *begun = stats_server_open(addresses, count, NULL, error);

    if (begun != NULL && !stats_server_start(begun, &source, error)) {
        stats_server_stop(begun);
        return NULL;
    }
    return begun;
}

/* A Unix socket and a TCP port. */
static void
server_start(void)
{
    char error[STATS_ERROR_BYTES];

    cr_assert(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/stats.sock", folder);
    addresses[0] = (struct config_address){ .family = CONFIG_ADDRESS_UNIX, .path = path,
                                            .text = path };
    addresses[1] = (struct config_address){ .family = CONFIG_ADDRESS_IPV4,
                                            .ip = { 127, 0, 0, 1 }, .text = "127.0.0.1:0" };
    server = server_begin(2, error);
    cr_assert(server != NULL, "%s", error);
    addresses[1].port = stats_server_port(server, 1);
    cr_assert(addresses[1].port != 0);
}

static void
server_stop(void)
{
    stats_server_stop(server);
    cr_assert_eq(access(path, F_OK), -1, "the socket's file is removed");
    cr_assert_eq(rmdir(folder), 0);
}

static int
client_connect(size_t address)
{
    int result = stats_connect(&addresses[address], 20000);

    cr_assert(result >= 0, "%d", result);
    return result;
}

/* Everything until the server closes, NUL-terminated; -1: the connection broke. */
static long
client_read(int socket, char *answer, size_t size)
{
    size_t len = 0;

    while (len < size - 1) {
        long n = stats_receive(socket, answer + len, size - 1 - len);

        if (n < 0)
            return -1;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    answer[len] = '\0';
    return (long)len;
}

static char answer[256 * 1024];

static void
ask(size_t address, struct span request)
{
    int socket = client_connect(address);

    cr_assert_eq(stats_send(socket, request), 0);
    cr_assert(client_read(socket, answer, sizeof(answer)) >= 0);
    close(socket);
}

static const struct ask_row {
    const char *name;
    struct span request;
    const char *status, *contains;
    bool body;
} ask_rows[] = {
    { "metrics", SPAN("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\n",
      "\nringpost_messages_total{result=\"accepted\"} 3\n", true },
    { "metrics' type", SPAN("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\n",
      "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", true },
    { "head", SPAN("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\n",
      "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n", false },
    { "json", SPAN("GET /stats.json HTTP/1.0\r\n\r\n"), "HTTP/1.1 200 OK\r\n",
      "\"messages_accepted\":3,", true },
    { "health", SPAN("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 200 OK\r\n", "\nok\n",
      true },
    { "unknown path", SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "HTTP/1.1 404 Not Found\r\n",
      "/metrics", true },
    { "method", SPAN("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"),
      "HTTP/1.1 405 Method Not Allowed\r\n", "Allow: GET, HEAD\r\n", true },
    { "bad", SPAN("GET /metrics\r\n\r\n"), "HTTP/1.1 400 Bad Request\r\n", "bad request", true },
    { "version", SPAN("GET /metrics HTTP/2.0\r\n"), "HTTP/1.1 505 ", "bad request", true },
};

Test(stats_server, answers, .timeout = 60)
{
    server_start();
    counter_set(&worker.messages_accepted, 3);
    for (size_t address = 0; address < 2; address++)
        for (size_t i = 0; i < sizeof(ask_rows) / sizeof(ask_rows[0]); i++) {
            const struct ask_row *row = &ask_rows[i];
            const char *end, *length;

            ask(address, row->request);
            end = strstr(answer, "\r\n\r\n");
            length = strstr(answer, "Content-Length: ");
            cr_assert_eq(strncmp(answer, row->status, strlen(row->status)), 0, "%s: %s", row->name,
                         answer);
            cr_assert(strstr(answer, row->contains) != NULL, "%s: %s", row->name, answer);
            cr_assert(end != NULL && length != NULL && length < end, "%s", row->name);
            cr_assert_eq(strlen(end + 4), row->body ? strtoul(length + 16, NULL, 10) : 0, "%s",
                         row->name);
        }
    server_stop();
}

Test(stats_server, draining_and_another_source, .timeout = 60)
{
    struct stats_source next = source;

    server_start();
    counter_set(&process.draining, 1);
    ask(0, SPAN("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"));
    cr_assert_eq(strncmp(answer, "HTTP/1.1 503 ", 13), 0);
    cr_assert(strstr(answer, "\r\n\r\ndraining\n") != NULL);
    next.version = "0.2.0";
    next.hop_count = 0;
    stats_server_update(server, &next);
    ask(1, SPAN("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"));
    cr_assert(strstr(answer, "ringpost_build_info{version=\"0.2.0\"} 1\n") != NULL);
    cr_assert(strstr(answer, "internal") == NULL);
    server_stop();
}

/* One byte at a time, a head that never ends, clients that leave at every stage. */
Test(stats_server, rude_clients, .timeout = 60)
{
    static const char request[] = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    static char endless[3 * HTTP_REQUEST_BYTES_MAX];
    struct linger reset = { .l_onoff = 1 };
    int socket;

    server_start();
    socket = client_connect(1);
    for (size_t i = 0; i < sizeof(request) - 1; i++) {
        cr_assert_eq(stats_send(socket, span_of(request + i, 1)), 0);
        usleep(500);
    }
    cr_assert(client_read(socket, answer, sizeof(answer)) > 0);
    cr_assert_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    close(socket);
    memset(endless, 'a', sizeof(endless));
    socket = client_connect(0);
    /* The answer may come, and the server close, before all of it was sent. */
    (void)!stats_send(socket, span_of(endless, sizeof(endless)));
    cr_assert(client_read(socket, answer, sizeof(answer)) > 0);
    close(socket);
    cr_assert_eq(strncmp(answer, "HTTP/1.1 431 ", 13), 0, "%s", answer);
    for (size_t len = 0; len < sizeof(request); len++) {
        socket = client_connect(1);
        cr_assert_eq(stats_send(socket, span_of(request, len)), 0);
        if (len % 2 == 0)
            setsockopt(socket, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        close(socket);
        /* All their places are free again before long. */
        if (len % STATS_CONNECTIONS_MAX == STATS_CONNECTIONS_MAX - 1)
            usleep(100000);
    }
    usleep(100000);
    ask(0, SPAN("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"));
    cr_assert_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    server_stop();
}

/* Clients that hold all places get their deadline, and one too many hears of it at once. */
Test(stats_server, places_and_deadline, .timeout = 60)
{
    uint64_t start_ns;
    int sockets[STATS_CONNECTIONS_MAX], one_more;

    server_start();
    start_ns = clock_now_ns();
    for (size_t i = 0; i < STATS_CONNECTIONS_MAX; i++) {
        sockets[i] = client_connect(0);
        cr_assert_eq(stats_send(sockets[i], SPAN("GET /metrics HTTP/1.1\r\n")), 0);
    }
    one_more = client_connect(0);
    cr_assert(client_read(one_more, answer, sizeof(answer)) > 0);
    cr_assert_eq(strncmp(answer, "HTTP/1.1 503 ", 13), 0);
    cr_assert(strstr(answer, "\r\n\r\nbusy\n") != NULL);
    cr_assert(clock_now_ns() - start_ns < 5 * NS_PER_S);
    close(one_more);
    for (size_t i = 0; i < STATS_CONNECTIONS_MAX; i++) {
        cr_assert(client_read(sockets[i], answer, sizeof(answer)) <= 0);
        close(sockets[i]);
    }
    cr_assert(clock_now_ns() - start_ns >= STATS_DEADLINE_MS * NS_PER_MS);
    cr_assert(clock_now_ns() - start_ns < (STATS_DEADLINE_MS + 5000) * NS_PER_MS);
    ask(0, SPAN("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"));
    cr_assert_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);
    server_stop();
}

/* Stopping does not wait for clients, whatever they are at. */
Test(stats_server, stop_with_open_connections, .timeout = 60)
{
    uint64_t start_ns;
    int reading, lingering;

    server_start();
    reading = client_connect(0);
    cr_assert_eq(stats_send(reading, SPAN("GET ")), 0);
    lingering = client_connect(1);
    cr_assert_eq(stats_send(lingering, SPAN("GET /metrics HTTP/1.0\r\n\r\n")), 0);
    cr_assert(client_read(lingering, answer, sizeof(answer)) > 0);
    start_ns = clock_now_ns();
    server_stop();
    cr_assert(clock_now_ns() - start_ns < 3 * NS_PER_S);
    close(reading);
    close(lingering);
}

Test(stats_server, unix_socket_files, .timeout = 60)
{
    char error[STATS_ERROR_BYTES];
    struct sockaddr_un where = { .sun_family = AF_UNIX };
    struct stats_listener stale;
    struct stat status;
    int datagrams;
    FILE *file;

    server_start();
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0666);
    cr_assert(server_begin(1, error) == NULL,
              "somebody answers there");
    cr_assert(strstr(error, path) != NULL && strstr(error, "in use") != NULL, "%s", error);
    ask(0, SPAN("GET /healthz HTTP/1.0\r\n\r\n"));
    cr_assert_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0, "and still does");
    server_stop();

    /* Left by a crash: replaced. */
    cr_assert_eq(mkdir(folder, 0700), 0);
    cr_assert_eq(stats_listen(&addresses[0], false, &stale), 0);
    close(stale.descriptor);
    cr_assert_eq(access(path, F_OK), 0);
    server = server_begin(1, error);
    cr_assert(server != NULL, "%s", error);
    ask(0, SPAN("GET /healthz HTTP/1.0\r\n\r\n"));
    cr_assert_eq(strncmp(answer, "HTTP/1.1 200 ", 13), 0);

    /* Somebody else's by now: not removed. */
    cr_assert_eq(unlink(path), 0);
    file = fopen(path, "w");
    cr_assert(file != NULL);
    fclose(file);
    stats_server_stop(server);
    cr_assert_eq(access(path, F_OK), 0);

    /* A file that is no socket, or another program's socket, is not ours to remove. */
    cr_assert(server_begin(1, error) == NULL);
    cr_assert_eq(access(path, F_OK), 0);
    cr_assert_eq(unlink(path), 0);
    datagrams = socket(AF_UNIX, SOCK_DGRAM, 0);
    memcpy(where.sun_path, path, strlen(path) + 1);
    cr_assert_eq(bind(datagrams, (struct sockaddr *)&where, sizeof(where)), 0);
    cr_assert(server_begin(1, error) == NULL);
    cr_assert_eq(access(path, F_OK), 0);
    close(datagrams);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(rmdir(folder), 0);
    cr_assert(server_begin(1, error) == NULL, "no such folder");
    cr_assert(strstr(error, "stats.address") != NULL, "%s", error);
}

/* --- ringpost stats --- */

static int
run_client(bool json, bool with_address, char **out_text, char **error_text)
{
    struct config config = { .file = "ringpost.yaml" };
    size_t out_len, error_len;
    FILE *out = open_memstream(out_text, &out_len);
    FILE *errors = open_memstream(error_text, &error_len);
    int status;

    cr_assert(out != NULL && errors != NULL);
    config.stats.addresses = addresses;
    config.stats.address_count = with_address ? 1 : 0;
    status = stats_client_run(&config, json, out, errors);
    fclose(out);
    fclose(errors);
    return status;
}

Test(stats_server, command_line, .timeout = 60)
{
    static const struct {
        const char *name;
        bool running, json, with_address;
        int want;
        const char *out, *errors; /* how they begin */
    } rows[] = {
        { "json", true, true, true, 0, "{\"version\":\"0.1.0\",", "" },
        { "table", true, false, true, 0, "ringpost 0.1.0, 1 workers, up ", "" },
        { "no address", true, false, false, 1, "",
          "ringpost stats: ringpost.yaml has no stats.address" },
        { "not running", false, false, true, 1, "", "ringpost stats: /tmp/ringpost-stats-" },
    };

    server_start();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *out, *errors;

        if (!rows[i].running)
            server_stop();
        cr_assert_eq(run_client(rows[i].json, rows[i].with_address, &out, &errors), rows[i].want,
                     "%s: %s", rows[i].name, errors);
        cr_assert_eq(strncmp(out, rows[i].out, strlen(rows[i].out)), 0, "%s: %s", rows[i].name,
                     out);
        cr_assert_eq(strncmp(errors, rows[i].errors, strlen(rows[i].errors)), 0, "%s: %s",
                     rows[i].name, errors);
        cr_assert_eq(out[0] == '\0', rows[i].out[0] == '\0', "%s: %s", rows[i].name, out);
        cr_assert_eq(errors[0] == '\0', rows[i].errors[0] == '\0', "%s: %s", rows[i].name, errors);
        cr_assert(rows[i].running || strstr(errors, "is ringpost running") != NULL, "%s", errors);
        free(out);
        free(errors);
    }
}

/* Something else answers at the address. */
Test(stats_server, command_line_against_another_server, .timeout = 60)
{
    static const char *const answers[] = {
        "", "HTTP/1.1 200 OK\r\n\r\n{}", "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{\"version\":\"1\"",
        "220 mx.example.com ESMTP\r\n",
    };
    struct stats_listener listener;

    cr_assert(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/stats.sock", folder);
    addresses[0] = (struct config_address){ .family = CONFIG_ADDRESS_UNIX, .path = path,
                                            .text = path };
    cr_assert_eq(stats_listen(&addresses[0], false, &listener), 0);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        pid_t child = fork();
        char *out, *errors;

        cr_assert(child >= 0);
        if (child == 0) {
            int client = accept(listener.descriptor, NULL, NULL);

            if (stats_receive(client, answer, sizeof(answer)) > 0)
                _exit(stats_send(client, span_text(answers[i])));
            _exit(1);
        }
        cr_assert_eq(run_client(false, true, &out, &errors), 1, "%s", answers[i]);
        cr_assert_eq(out[0], '\0');
        cr_assert(strstr(errors, "is not ringpost") != NULL, "%s: %s", answers[i], errors);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        free(out);
        free(errors);
    }
    stats_unlisten(&listener);
    cr_assert_eq(rmdir(folder), 0);
}
