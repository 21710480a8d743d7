/* What BoringSSL itself takes for the TLS of a relayed message: handshakes and records as a session
 * has them, in memory. The relay's CPU with TLS is compared with its CPU without, and this.
 *
 *   bare_tls CERTIFICATE KEY BODY_OCTETS SECONDS
 *
 * Does: TLS 1.3 with the library's own defaults, one ticket and the same certificate, a full
 * handshake for each session, the making and freeing of its state with it; the side that the relay
 * plays is timed (CPU of this thread), the other one is not.
 * Records as they are in SMTP without pipelining: one for each command and reply, the body in
 * pieces of at most 16 KiB; towards the next hop MAIL, RCPT and DATA are one. Prints JSON,
 * microseconds: handshake_server, handshake_client   one of them, as client or server of the relay
 *   message_in     decrypting the commands and body of one message, encrypting its replies
 *   message_out    the same towards the next hop
 *   session_in     handshake_server, message_in, and EHLO, QUIT, close_notify
 * Does not: sockets, SMTP.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Messages encrypted in advance, so that a clock is read for many of them at once. */
#define BATCH 64
#define RECORD_BYTES 16384
#define TEXT_BYTES 400

struct side {
    SSL *ssl;
    BIO *in, *out; /* memory; the library frees them */
};

struct talk { /* sizes of records, 0 at the end */
    size_t received[8], sent[8];
};

static const char letters[RECORD_BYTES];

static void
die(const char *what)
{
    fprintf(stderr, "bare_tls: %s\n", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double
now_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static struct side
side_create(SSL_CTX *context, bool server, double *spent_us)
{
    double began = now_us(CLOCK_THREAD_CPUTIME_ID);
    struct side side = { .ssl = SSL_new(context),
                         .in = BIO_new(BIO_s_mem()),
                         .out = BIO_new(BIO_s_mem()) };

    if (side.ssl == NULL || side.in == NULL || side.out == NULL)
        die("out of memory");
    BIO_set_mem_eof_return(side.in, -1);
    SSL_set_bio(side.ssl, side.in, side.out);
    if (server)
        SSL_set_accept_state(side.ssl);
    else
        SSL_set_connect_state(side.ssl);
    *spent_us += now_us(CLOCK_THREAD_CPUTIME_ID) - began;
    return side;
}

/* What was in its memory is dropped before: freeing that is no part of a session. */
static void
side_free(struct side *side, double *spent_us)
{
    double began;

    SSL_set0_rbio(side->ssl, BIO_new(BIO_s_mem()));
    SSL_set0_wbio(side->ssl, BIO_new(BIO_s_mem()));
    began = now_us(CLOCK_THREAD_CPUTIME_ID);
    SSL_free(side->ssl);
    *spent_us += now_us(CLOCK_THREAD_CPUTIME_ID) - began;
}

/* What one side has written becomes what the other will read. */
static void
carry(struct side *from, struct side *to)
{
    const uint8_t *data;
    size_t len;

    if (!BIO_mem_contents(from->out, &data, &len))
        die("BIO_mem_contents");
    if (len > 0 && BIO_write(to->in, data, (int)len) != (int)len)
        die("BIO_write");
    if (!BIO_reset(from->out))
        die("BIO_reset");
}

/* True when its part is done. */
static bool
step(struct side *side, double *spent_us)
{
    double began = now_us(CLOCK_THREAD_CPUTIME_ID);
    int result = SSL_do_handshake(side->ssl);

    *spent_us += now_us(CLOCK_THREAD_CPUTIME_ID) - began;
    if (result == 1)
        return true;
    if (SSL_get_error(side->ssl, result) != SSL_ERROR_WANT_READ)
        die("handshake");
    return false;
}

static void
handshake(struct side *client, struct side *server, double *client_us, double *server_us)
{
    bool client_done = false, server_done = false;

    for (unsigned turns = 0; !client_done || !server_done; turns++) {
        if (turns > 10)
            die("a handshake without an end");
        if (!client_done)
            client_done = step(client, client_us);
        carry(client, server);
        if (!server_done)
            server_done = step(server, server_us);
        carry(server, client);
    }
}

static void
records_write(struct side *side, const size_t sizes[])
{
    for (; *sizes != 0; sizes++)
        for (size_t left = *sizes, part; left > 0; left -= part) {
            part = left < RECORD_BYTES ? left : RECORD_BYTES;
            if (SSL_write(side->ssl, letters, (int)part) != (int)part)
                die("SSL_write");
        }
}

static void
records_read(struct side *side, const size_t sizes[], unsigned times)
{
    char plain[RECORD_BYTES];
    size_t wanted = 0;
    int got;

    for (; *sizes != 0; sizes++)
        wanted += *sizes * times;
    while (wanted > 0) {
        got = SSL_read(side->ssl, plain, sizeof(plain));
        if (got <= 0)
            die("SSL_read");
        wanted -= (size_t)got;
    }
}

/* CPU of one message's records on the side of the relay. What it reads lies in memory that is only
 * read: a growing one would be moved at each record. */
static double
batch_us(struct side *relay, struct side *peer, const struct talk *talk)
{
    const uint8_t *data;
    size_t len;
    double began, spent;

    for (unsigned i = 0; i < BATCH; i++)
        records_write(peer, talk->received);
    if (!BIO_mem_contents(peer->out, &data, &len))
        die("BIO_mem_contents");
    SSL_set0_rbio(relay->ssl, BIO_new_mem_buf(data, (int)len));
    began = now_us(CLOCK_THREAD_CPUTIME_ID);
    records_read(relay, talk->received, BATCH);
    for (unsigned i = 0; i < BATCH; i++)
        records_write(relay, talk->sent);
    spent = now_us(CLOCK_THREAD_CPUTIME_ID) - began;
    if (!BIO_reset(peer->out) || !BIO_reset(relay->out))
        die("BIO_reset");
    return spent / BATCH;
}

struct result {
    double handshake_server, handshake_client, message_in, message_out, greeting_in;
    uint64_t handshakes, batches;
};

/* One session in which the relay is the server, and one in which it is the client. */
static void
round_run(SSL_CTX *server_context, SSL_CTX *client_context, size_t body, struct result *result)
{
    const struct talk in = { { 31, 24, 6, body }, { 14, 14, 51, 14 } };
    const struct talk out = { { 64, 14 }, { 74, body + 200 } };
    /* EHLO and QUIT; a close_notify is a record of two octets each way. */
    const struct talk greeting = { { 18, 6, 2 }, { 125, 44, 2 } };
    double ignored = 0;
    struct side client = side_create(client_context, false, &result->handshake_client);
    struct side server = side_create(server_context, true, &result->handshake_server);

    handshake(&client, &server, &result->handshake_client, &result->handshake_server);
    result->handshakes++;
    result->message_in += batch_us(&server, &client, &in);
    result->greeting_in += batch_us(&server, &client, &greeting);
    result->batches++;
    side_free(&client, &result->handshake_client);
    side_free(&server, &result->handshake_server);
    client = side_create(client_context, false, &ignored);
    server = side_create(server_context, true, &ignored);
    handshake(&client, &server, &ignored, &ignored);
    result->message_out += batch_us(&client, &server, &out);
    side_free(&client, &ignored);
    side_free(&server, &ignored);
}

static SSL_CTX *
context_create(const char *certificate, const char *key)
{
    SSL_CTX *context = SSL_CTX_new(TLS_method());

    if (context == NULL)
        die("SSL_CTX_new");
    if (certificate != NULL && (SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
                                SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1))
        die(certificate);
    return context;
}

static void
report(struct result *result)
{
    result->handshake_server /= (double)result->handshakes;
    result->handshake_client /= (double)result->handshakes;
    result->message_in /= (double)result->batches;
    result->message_out /= (double)result->batches;
    result->greeting_in /= (double)result->batches;
    printf("{\"handshakes\": %llu, \"handshake_server_us\": %.2f, \"handshake_client_us\": %.2f, "
           "\"message_in_us\": %.2f, \"message_out_us\": %.2f, \"session_in_us\": %.2f}\n",
           (unsigned long long)result->handshakes, result->handshake_server,
           result->handshake_client, result->message_in, result->message_out,
           result->handshake_server + result->message_in + result->greeting_in);
}

int
main(int argc, char **argv)
{
    struct result result = { 0 };
    SSL_CTX *server, *client;
    double end;
    long body;

    if (argc != 5) {
        fprintf(stderr, "usage: bare_tls CERTIFICATE KEY BODY_OCTETS SECONDS\n");
        return 2;
    }
    body = strtol(argv[3], NULL, 10);
    if (body < 1 || body > 1 << 20)
        die("BODY_OCTETS: from 1 to 1048576");
    server = context_create(argv[1], argv[2]);
    client = context_create(NULL, NULL);
    if (!SSL_CTX_set_num_tickets(server, 1))
        die("SSL_CTX_set_num_tickets");
    SSL_CTX_set_verify(client, SSL_VERIFY_NONE, NULL);
    round_run(server, client, (size_t)body + TEXT_BYTES, &(struct result){ 0 });
    end = now_us(CLOCK_MONOTONIC) + strtod(argv[4], NULL) * 1e6;
    do
        round_run(server, client, (size_t)body + TEXT_BYTES, &result);
    while (now_us(CLOCK_MONOTONIC) < end);
    report(&result);
    SSL_CTX_free(server);
    SSL_CTX_free(client);
    return 0;
}
