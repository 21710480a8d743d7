/* Feeds octets to TLS connections: a server and a client in the handshake, and an established pair
 * whose records are cut, damaged and forged. The first octet of the input says which and how.
 * Checked: only the promised statuses, all input taken at TLS_WANT_INPUT, printable failure texts,
 * and that the plain text received is always a beginning of what was sent. */
#include "core/span.h"
#include "tests/unit/tls_pair.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tls_context *server;
static struct tls_context *client;

static void
contexts_create(void)
{
    const struct tls_certificate_files files = { test_file("ecdsa.pem"), test_file("ecdsa.key") };
    const struct tls_client_options options = {
        .verification = TLS_VERIFICATION_RECORD,
        .ca_file = test_file("authority.pem"),
    };
    struct tls_error error;

    server = tls_server_context_create(&files, 1, NULL, &error);
    client = tls_client_context_create(&options, &error);
    if (!server || !client) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
}

/* Peers do not get to choose what stands in our log. */
static void
check_failure(const struct tls *tls, enum tls_status status)
{
    struct span text = tls_failure(tls);

    ASSERT((status == TLS_FAILED) == (text.len > 0));
    for (size_t i = 0; i < text.len; i++)
        ASSERT(text.data[i] >= ' ' && text.data[i] <= '~');
}

/* Returns how it ended. */
static enum tls_status
handshake(struct tls *tls, struct span octets, struct pieces pieces)
{
    struct wire from = { 0 };
    struct wire to = { 0 };
    enum tls_status status = TLS_WANT_INPUT;

    wire_add(&from, octets);
    do {
        size_t before = from.taken;
        size_t written = to.len;

        status = pair_step(tls, &from, &to, pieces);
        ASSERT(status != TLS_OK && status != TLS_CLOSED); /* nobody guesses a handshake */
        ASSERT(status == TLS_FAILED || from.taken > before || to.len > written ||
               wire_rest(&from).len == 0);
    } while (status == TLS_WANT_OUTPUT ||
             (status == TLS_WANT_INPUT && wire_rest(&from).len > 0));
    check_failure(tls, status);
    tls_free(tls);
    free(from.data);
    free(to.data);
    return status;
}

/* The same octets in one piece and in others end alike. (The text of a failure may tell more of
 * what was there, and of the alert that there was room for.) */
static void
fuzz_handshake(bool at_server, struct span octets, struct pieces pieces)
{
    enum tls_status statuses[2];

    for (unsigned i = 0; i < 2; i++) {
        struct tls *tls = at_server ? tls_create_server(server)
                                    : tls_create_client(client, "mail.example.com", NULL);

        statuses[i] = handshake(tls, octets, i == 0 ? (struct pieces){ 0 } : pieces);
    }
    ASSERT(statuses[0] == statuses[1]);
}

static void
damage(struct wire *wire, uint8_t operand)
{
    struct span rest = wire_rest(wire);

    if (rest.len > 0)
        wire->data[wire->taken + (size_t)operand * rest.len / 256] ^= (char)(1 << (operand % 8));
}

/* Sends a run of octets that go on where the last one ended. */
static void
send_some(struct pair *pair, struct wire *sent, uint8_t operand, struct pieces pieces)
{
    char text[256 * 64];
    size_t length = (size_t)operand * (pieces.plain_room == 1 ? 1 : 64);

    for (size_t i = 0; i < length; i++)
        text[i] = (char)((sent->len + i) * 7 + ((sent->len + i) >> 8));
    if (pair_send(pair->client, &pair->to_server, span_of(text, length), pieces) == TLS_OK)
        wire_add(sent, span_of(text, length));
}

/* The script: pairs of an operation and its operand. */
static void
fuzz_records(struct span script, struct pieces pieces)
{
    struct pair pair = pair_create(client, server, "mail.example.com", NULL);
    struct wire sent = { 0 };
    struct wire got = { 0 };
    enum tls_status status = TLS_WANT_INPUT;
    bool whole = true;

    ASSERT(pair_handshake(&pair, (struct pieces){ 0 }));
    for (; script.len >= 2 && status == TLS_WANT_INPUT; span_advance(&script, 2)) {
        uint8_t operand = (uint8_t)script.data[1];

        switch ((uint8_t)script.data[0] % 4) {
        case 0:
            send_some(&pair, &sent, operand, pieces);
            break;
        case 1:
            damage(&pair.to_server, operand);
            whole = whole && wire_rest(&pair.to_server).len == 0;
            break;
        case 2: /* what stands in the script, as if the peer or an attacker had sent it */
            wire_add(&pair.to_server, span_first(script, operand < script.len ? operand : 2));
            whole = whole && operand == 0;
            break;
        default:
            status = pair_receive(pair.server, &pair.to_server, &got, &pair.to_client, pieces);
            ASSERT(status == TLS_WANT_INPUT || status == TLS_FAILED);
            ASSERT(status == TLS_FAILED || !whole || got.len == sent.len);
            break;
        }
        ASSERT(got.len <= sent.len && memcmp(got.data ? got.data : "", sent.data ? sent.data : "",
                                             got.len) == 0);
    }
    ASSERT(status != TLS_FAILED || !whole);
    check_failure(pair.server, status);
    free(sent.data);
    free(got.data);
    pair_free(&pair);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct pieces cuts[] = {
        { 0, 0, 0 }, { 1, 1, 1 }, { 50, 400, 300 }, { 1000, 16000, 16384 }
    };
    struct pieces pieces;
    struct span rest;

    if (!server)
        contexts_create();
    if (size == 0)
        return 0;
    pieces = cuts[(data[0] >> 4) % 4];
    rest = span_of(data + 1, size - 1);
    switch (data[0] % 3) {
    case 0:
        fuzz_handshake(true, rest, pieces);
        break;
    case 1:
        fuzz_handshake(false, rest, pieces);
        break;
    default:
        if (pieces.out_room == 1) /* tls_write() needs more than its overhead */
            pieces.out_room = TLS_RECORD_OVERHEAD + 1;
        fuzz_records(rest, pieces);
        break;
    }
    return 0;
}
