/* Records between an actor and its end of a connection. */
#include "tests/sim/relay_secure.h"

static struct tls_context *servers, *clients;

void
secure_world_start(void)
{
    static const struct tls_certificate_files files = { "hop.pem", "hop.pem" };
    struct tls_error error;

    servers = tls_server_context_create(&files, 1, NULL, &error);
    clients = tls_client_context_create(NULL, &error);
    ASSERT(servers != NULL && clients != NULL);
}

void
secure_world_end(void)
{
    tls_context_release(servers);
    tls_context_release(clients);
    servers = clients = NULL;
}

static void
put(struct sim_end *end, const struct outbuf *out, uint64_t *written)
{
    if (out->len == 0)
        return;
    sim_end_write(end, out->data, out->len);
    *written += out->len;
}

static bool
shake(struct secure *secure, struct sim_end *end, uint64_t *written)
{
    char room[600];
    enum tls_status status;

    do {
        struct span in = span_of(secure->cipher.data, secure->cipher.len);
        struct outbuf out = { .data = room, .size = sizeof(room) };

        status = tls_handshake(secure->tls, &in, &out);
        text_remove(&secure->cipher, secure->cipher.len - in.len);
        put(end, &out, written);
    } while (status == TLS_WANT_OUTPUT);
    if (status == TLS_OK)
        secure->shaking = false;
    return status == TLS_OK || status == TLS_WANT_INPUT;
}

bool
secure_begin(struct secure *secure, struct sim_end *end, bool server, uint64_t *written)
{
    secure->tls = server ? tls_create_server(servers)
                         : tls_create_client(clients, "edge.example", NULL);
    secure->shaking = true;
    return secure->tls != NULL && shake(secure, end, written);
}

bool
secure_feed(struct secure *secure, struct sim_end *end, const char *data, size_t len,
            struct text *plain, uint64_t *written)
{
    enum tls_status status = TLS_OK;

    if (secure->tls == NULL) {
        text_add(plain, data, len);
        return true;
    }
    text_add(&secure->cipher, data, len);
    if (secure->shaking && !shake(secure, end, written))
        return false;
    while (!secure->shaking && status == TLS_OK) {
        char room[700], out_room[200];
        struct span in = span_of(secure->cipher.data, secure->cipher.len);
        struct outbuf text = { .data = room, .size = sizeof(room) };
        struct outbuf out = { .data = out_room, .size = sizeof(out_room) };

        status = tls_read(secure->tls, &in, &text, &out);
        text_remove(&secure->cipher, secure->cipher.len - in.len);
        text_add(plain, text.data, text.len);
        put(end, &out, written);
    }
    return status != TLS_FAILED;
}

void
secure_write(struct secure *secure, struct sim_end *end, const char *data, size_t len,
             uint64_t *written)
{
    struct span plain = span_of(data, len);
    enum tls_status status = TLS_OK;
    char room[2048];

    if (secure->tls == NULL) {
        sim_end_write(end, data, len);
        *written += len;
        return;
    }
    while (plain.len > 0 && status != TLS_FAILED) {
        struct outbuf out = { .data = room, .size = sizeof(room) };

        status = tls_write(secure->tls, &plain, &out);
        put(end, &out, written);
    }
}

void
secure_end(struct secure *secure)
{
    tls_free(secure->tls);
    text_free(&secure->cipher);
    *secure = (struct secure){ 0 };
}
