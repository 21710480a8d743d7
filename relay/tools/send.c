/* Arguments of `ringpost send`, and what it says at the end. */
#include "relay/tools/send.h"

#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/config_value.h"
#include "relay/descriptors.h"
#include "relay/tools/argument.h"
#include "relay/tools/print.h"
#include "relay/tools/send_client.h"

#define CONNECTIONS_MAX 4096

static const char usage_text[] =
    "ringpost send: a small client for tests and demos\n"
    "\n"
    "usage: ringpost send --server HOST:PORT --from ADDRESS --to ADDRESS [--to ADDRESS]... "
    "[OPTIONS]\n"
    "\n"
    "  -s, --server HOST:PORT where to (default port 25)\n"
    "  -f, --from ADDRESS     the reverse-path; '' or '<>' for none\n"
    "  -t, --to ADDRESS       a recipient\n"
    "  -d, --data FILE        the message as it is, with its header; - for standard input; line "
    "ends\n"
    "                         become CRLF\n"
    "      --subject TEXT --body TEXT\n"
    "                         else one is composed of these\n"
    "      --size SIZE        with a body of so many octets\n"
    "  -n, --count N          send it N times (composed: each with its own Message-ID)\n"
    "  -c, --connections N    over N connections at a time\n"
    "      --tls MODE         none (default), starttls, implicit, verify (STARTTLS and a good "
    "certificate)\n"
    "      --ca FILE          trusted certificates: verifies with starttls and implicit too\n"
    "      --tls-name NAME    the name to ask for and to verify (default: HOST)\n"
    "      --chunking         BDAT in place of DATA\n"
    "      --chunk-size SIZE  in chunks of this size (implies --chunking)\n"
    "      --no-pipelining    one command at a time, whatever the server offers\n"
    "      --helo NAME        our name (default: this machine's)\n"
    "      --smtputf8         use SMTPUTF8\n"
    "      --dsn LIST         of never, success, failure, delay (NOTIFY), full, headers (RET), "
    "envid=ID\n"
    "      --timeout TIME     how long to wait for the server at each step (default 60s)\n"
    "  -v, --verbose          print the dialogue\n"
    "  -h, --help             this text\n"
    "\n"
    "Prints the server's verdict. Exit status: 0 every message was taken for every recipient, 1 "
    "not so,\n"
    "2 wrong arguments.\n";

struct arguments {
    struct send_plan plan;
    const char *data, *body, *subject, *ca;
    uint64_t size;
    bool size_given, from_given, tls, verify;
    struct span *to; /* plan.to */
    uint16_t port;
    char host[DOMAIN_BYTES_MAX + 1], machine[DOMAIN_BYTES_MAX + 1];
};

enum option_key {
    OPTION_SUBJECT = 256,
    OPTION_BODY,
    OPTION_SIZE,
    OPTION_TLS,
    OPTION_CA,
    OPTION_TLS_NAME,
    OPTION_CHUNKING,
    OPTION_CHUNK_SIZE,
    OPTION_NO_PIPELINING,
    OPTION_HELO,
    OPTION_SMTPUTF8,
    OPTION_DSN,
    OPTION_TIMEOUT,
};

static const struct option options[] = {
    { "server", required_argument, NULL, 's' },
    { "from", required_argument, NULL, 'f' },
    { "to", required_argument, NULL, 't' },
    { "data", required_argument, NULL, 'd' },
    { "subject", required_argument, NULL, OPTION_SUBJECT },
    { "body", required_argument, NULL, OPTION_BODY },
    { "size", required_argument, NULL, OPTION_SIZE },
    { "count", required_argument, NULL, 'n' },
    { "connections", required_argument, NULL, 'c' },
    { "tls", required_argument, NULL, OPTION_TLS },
    { "ca", required_argument, NULL, OPTION_CA },
    { "tls-name", required_argument, NULL, OPTION_TLS_NAME },
    { "chunking", no_argument, NULL, OPTION_CHUNKING },
    { "chunk-size", required_argument, NULL, OPTION_CHUNK_SIZE },
    { "no-pipelining", no_argument, NULL, OPTION_NO_PIPELINING },
    { "helo", required_argument, NULL, OPTION_HELO },
    { "smtputf8", no_argument, NULL, OPTION_SMTPUTF8 },
    { "dsn", required_argument, NULL, OPTION_DSN },
    { "timeout", required_argument, NULL, OPTION_TIMEOUT },
    { "verbose", no_argument, NULL, 'v' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

/* --- arguments --- */

/* Brackets are optional. What would break the command line is refused here; whether it is an
 * address is the server's to say: that may be what is tested. */
static bool
address_take(const char *value, struct span *address)
{
    *address = span_text(value);
    if (address->len >= 2 && value[0] == '<' && value[address->len - 1] == '>')
        *address = span_of(value + 1, address->len - 2);
    for (size_t i = 0; i < address->len; i++) {
        unsigned char c = (unsigned char)address->data[i];

        if (c <= ' ' || c == 127 || c == '<' || c == '>')
            return argument_wrong(value, "has an octet that no address can have in a command");
    }
    return address->len <= MAILBOX_BYTES_MAX || argument_wrong(value, "is too long");
}

static bool
recipient_take(const char *value, struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;
    struct span *to = realloc(arguments->to, (plan->to_count + 1) * sizeof(*to));

    if (to == NULL)
        return argument_wrong(value, "does not fit the memory");
    arguments->to = to;
    plan->to = to;
    return address_take(value, &to[plan->to_count++]);
}

static bool
server_take(const char *value, struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;
    struct config_server server = { .port = 0 };
    struct span host;
    const char *why = config_server_parse(span_text(value), &server, &host);

    if (why != NULL)
        return argument_wrong(value, why);
    if (host.len >= sizeof(arguments->host))
        return argument_wrong(value, "is too long");
    memcpy(arguments->host, host.data, host.len);
    arguments->host[host.len] = '\0';
    arguments->port = server.port;
    plan->server = value;
    plan->address_count = server.numeric ? 1 : 0;
    plan->addresses[0] = server.address;
    return true;
}

static bool
dsn_take(const char *value, struct send_plan *plan)
{
    static const struct {
        const char *word;
        uint8_t notify;
        enum dsn_return dsn_return;
    } words[] = { { "never", DSN_NOTIFY_NEVER, 0 },     { "success", DSN_NOTIFY_SUCCESS, 0 },
                  { "failure", DSN_NOTIFY_FAILURE, 0 }, { "delay", DSN_NOTIFY_DELAY, 0 },
                  { "full", 0, DSN_RETURN_FULL },       { "headers", 0, DSN_RETURN_HEADERS } };
    const char *at = value;

    while (*at != '\0') {
        struct span word = span_of(at, strcspn(at, ","));
        bool known = false;

        for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
            if (!span_equal_ignore_case(word, span_text(words[i].word)))
                continue;
            known = true;
            plan->rcpt.notify |= words[i].notify;
            if (words[i].dsn_return != 0)
                plan->dsn_return = words[i].dsn_return;
        }
        if (span_starts_ignore_case(word, SPAN("envid="))) {
            plan->envid = span_after(word, 6);
            known = plan->envid.len > 0 && xtext_valid(plan->envid, NULL);
        }
        if (!known)
            return argument_wrong(value, "is no list of never, success, failure, delay, full, "
                                         "headers, envid=ID (in xtext)");
        at += word.len + (at[word.len] == ',');
    }
    if ((plan->rcpt.notify & DSN_NOTIFY_NEVER) != 0 && plan->rcpt.notify != DSN_NOTIFY_NEVER)
        return argument_wrong(value, "says never and more");
    return true;
}

static bool
tls_take(const char *value, struct arguments *arguments)
{
    static const char *const modes[] = { "none", "starttls", "implicit", "verify" };
    size_t mode = 0;

    while (mode < 4 && strcmp(value, modes[mode]) != 0)
        mode++;
    if (mode == 4)
        return argument_wrong(value, "is none of none, starttls, implicit, verify");
    arguments->tls = mode > 0;
    arguments->plan.implicit = mode == 2;
    arguments->verify = mode == 3;
    return true;
}

static bool
long_option_take(int key, const char *value, struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;

    switch (key) {
    case OPTION_SUBJECT:
        arguments->subject = value;
        return strpbrk(value, "\r\n") == NULL || argument_wrong(value, "has more than one line");
    case OPTION_BODY: arguments->body = value; return true;
    case OPTION_SIZE:
        arguments->size_given = true;
        return argument_size(value, 0, SEND_BYTES_MAX / 2, &arguments->size);
    case OPTION_TLS: return tls_take(value, arguments);
    case OPTION_CA: arguments->ca = value; return true;
    case OPTION_TLS_NAME: plan->tls_name = value; return true;
    case OPTION_CHUNKING: plan->chunking = true; return true;
    case OPTION_CHUNK_SIZE:
        plan->chunking = true;
        return argument_size(value, 1, SEND_BYTES_MAX, &plan->chunk_size);
    case OPTION_NO_PIPELINING: plan->one_by_one = true; return true;
    case OPTION_HELO:
        plan->helo = span_text(value);
        return helo_name_valid(plan->helo) || argument_wrong(value, "is no host name");
    case OPTION_SMTPUTF8: plan->smtputf8 = true; return true;
    case OPTION_DSN: return dsn_take(value, plan);
    default: ASSERT(key == OPTION_TIMEOUT); return argument_duration(value, &plan->timeout_ms);
    }
}

static bool
option_take(int key, char *value, struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;

    switch (key) {
    case 's': return server_take(value, arguments);
    case 'f': arguments->from_given = true; return address_take(value, &plan->from);
    case 't': return recipient_take(value, arguments);
    case 'd': arguments->data = value; return true;
    case 'n': return argument_number(value, 1, UINT64_MAX, &plan->count);
    case 'c': return argument_number32(value, CONNECTIONS_MAX, &plan->connections);
    case 'v': plan->verbose = true; return true;
    default: return long_option_take(key, value, arguments);
    }
}

static bool
arguments_check(const struct arguments *arguments)
{
    const struct send_plan *plan = &arguments->plan;

    if (plan->server == NULL)
        return argument_refuse("--server HOST:PORT is missing");
    if (!arguments->from_given)
        return argument_refuse("--from ADDRESS is missing ('' for the null reverse-path)");
    if (plan->to_count == 0)
        return argument_refuse("--to ADDRESS is missing");
    for (size_t i = 0; i < plan->to_count; i++)
        if (plan->to[i].len == 0)
            return argument_refuse("--to '' is no recipient");
    if (arguments->data != NULL &&
        (arguments->body != NULL || arguments->subject != NULL || arguments->size_given))
        return argument_refuse(
            "--data is the whole message: no --subject, --body or --size with it");
    if (arguments->body != NULL && arguments->size_given)
        return argument_refuse("--body and --size exclude each other");
    if (!arguments->tls && (arguments->ca != NULL || plan->tls_name != NULL))
        return argument_refuse("--ca and --tls-name need --tls");
    return true;
}

/* 0: go on; else an exit status + 1. */
static int
arguments_read(int argc, char **argv, struct arguments *arguments)
{
    int key;

    argument_command("ringpost", "send", usage_text);
    while ((key = argument_next(argc, argv, "s:f:t:d:n:c:vh", options)) != -1) {
        if (key == 'h')
            return argument_help();
        if (key == '?' || !option_take(key, optarg, arguments))
            return ARGUMENT_WRONG;
    }
    return argument_none_left(argc, argv) && arguments_check(arguments) ? ARGUMENT_GOOD
                                                                        : ARGUMENT_WRONG;
}

/* --- what is needed before the first octet --- */

static bool
resolve(struct arguments *arguments)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
    struct send_plan *plan = &arguments->plan;
    int result;

    if (plan->address_count > 0)
        return true;
    result = getaddrinfo(arguments->host, NULL, &hints, &found);
    if (result != 0) {
        fprintf(stderr, "ringpost: send: %s: %s\n", arguments->host, gai_strerror(result));
        return false;
    }
    for (const struct addrinfo *i = found; i != NULL && plan->address_count < SEND_ADDRESSES_MAX;
         i = i->ai_next) {
        struct config_address *address = &plan->addresses[plan->address_count];

        *address = (struct config_address){ .port = arguments->port };
        if (i->ai_family == AF_INET) {
            address->family = CONFIG_ADDRESS_IPV4;
            memcpy(address->ip, &((const struct sockaddr_in *)(const void *)i->ai_addr)->sin_addr,
                   4);
        } else if (i->ai_family == AF_INET6) {
            address->family = CONFIG_ADDRESS_IPV6;
            memcpy(address->ip, &((const struct sockaddr_in6 *)(const void *)i->ai_addr)->sin6_addr,
                   16);
        } else {
            continue;
        }
        plan->address_count++;
    }
    freeaddrinfo(found);
    return plan->address_count > 0;
}

static bool
tls_prepare(struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;
    struct tls_client_options client = {
        .verification = arguments->verify || arguments->ca != NULL ? TLS_VERIFICATION_REQUIRE
                                                                   : TLS_VERIFICATION_NONE,
        .ca_file = arguments->ca,
    };
    struct tls_error error;

    if (!arguments->tls)
        return true;
    if (plan->tls_name == NULL)
        plan->tls_name = arguments->host;
    plan->tls = tls_client_context_create(&client, &error);
    if (error.text[0] != '\0')
        fprintf(stderr, "ringpost: send: %s\n", error.text);
    return plan->tls != NULL;
}

static bool
message_prepare(struct arguments *arguments, struct send_message *message)
{
    struct send_plan *plan = &arguments->plan;
    struct send_header header = {
        .from = plan->from,
        .to = plan->to,
        .to_count = plan->to_count,
        .subject = span_text(arguments->subject != NULL ? arguments->subject : "test message"),
        .helo = plan->helo,
        .when = (time_t)(clock_realtime_ns() / NS_PER_S),
    };
    const char *body = arguments->body != NULL ? arguments->body
                       : arguments->size_given ? NULL
                                               : "This is a test message.\n";
    char error[SEND_ERROR_BYTES];
    bool good;

    plan->composed = arguments->data == NULL;
    good = plan->composed ? send_message_compose(message, &header, body, arguments->size, error)
                          : send_message_read(message, arguments->data, error);
    good = good && send_message_frame(message, plan->chunking, error);
    if (good && plan->chunk_size > 0 && message->len / plan->chunk_size >= SEND_CHUNKS_MAX) {
        good = false;
        snprintf(error, sizeof(error), "--chunk-size is too small: more than %d chunks",
                 SEND_CHUNKS_MAX);
    }
    if (!good)
        fprintf(stderr, "ringpost: send: %s\n", error);
    return good;
}

static void
helo_default(struct arguments *arguments)
{
    struct span name;

    if (arguments->plan.helo.len > 0)
        return;
    if (gethostname(arguments->machine, sizeof(arguments->machine) - 1) != 0)
        arguments->machine[0] = '\0';
    name = span_text(arguments->machine);
    arguments->plan.helo = helo_name_valid(name) ? name : SPAN("localhost");
}

static void
summary_print(const struct send_plan *plan, const struct send_result *result)
{
    uint64_t tried = result->taken + result->partly + result->refused + result->lost;
    const struct print_count besides[] = {
        { result->partly, "for some recipients" },
        { result->refused, "refused" },
        { result->lost, "lost" },
    };
    double seconds = (double)result->elapsed_ns / (double)NS_PER_S;

    if (result->unsent > 0)
        fprintf(stderr, "ringpost: send: %llu of %llu messages were not sent\n",
                (unsigned long long)result->unsent, (unsigned long long)plan->count);
    if (plan->count == 1)
        return;
    printf("sent %llu messages in %.3f s, %.0f messages/s: %llu taken", (unsigned long long)tried,
           seconds, seconds > 0 ? (double)tried / seconds : 0, (unsigned long long)result->taken);
    PRINT_COUNTS(", ", besides);
    printf("\n");
}

static int
send_all(struct arguments *arguments)
{
    struct send_plan *plan = &arguments->plan;
    struct send_message message = { .len = 0 };
    struct send_result result;
    int status = 1;

    helo_default(arguments);
    if (plan->connections > plan->count)
        plan->connections = (uint32_t)plan->count;
    descriptors_raise(plan->connections + 64);
    if (message_prepare(arguments, &message) && tls_prepare(arguments) && resolve(arguments) &&
        send_client_run(plan, &message, &result)) {
        summary_print(plan, &result);
        status = result.taken == plan->count ? 0 : 1;
    }
    tls_context_release(plan->tls);
    send_message_free(&message);
    return status;
}

int
send_main(int argc, char **argv)
{
    struct arguments arguments = { .plan = { .count = 1, .connections = 1, .timeout_ms = 60000 } };
    int status;

    status = arguments_read(argc, argv, &arguments);
    status = status != 0 ? status - 1 : send_all(&arguments);
    free(arguments.to);
    return status;
}
