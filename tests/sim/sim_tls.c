/* tls/tls.h and tls/context.h for the simulator: what they promise to the relay, with real records
 * and flights, and without a cipher. See sim_tls.h. */
#include "tests/sim/sim_tls.h"

#include <stdlib.h>

#include "tests/sim/sim_private.h"

#define HEADER_BYTES 5
#define SUM_BYTES 8
#define INNER_BYTES (1 + SUM_BYTES) /* the content's type, as TLS 1.3 has it, and the sum */
#define RECORD_BYTES (HEADER_BYTES + INNER_BYTES)
#define BODY_BYTES_MAX (TLS_RECORD_BYTES_MAX + 256)
#define FLIGHT_BYTES_MAX 12000
#define MASK 0xa5 /* what makes text something else */

enum content { ALERT = 21, HANDSHAKE = 22, DATA = 23, TICKET = 24 };
enum message { HELLO = 1, SERVER_FLIGHT = 2, FINISHED = 20 };
enum alert { ALERT_CLOSE = 0, ALERT_BAD_RECORD = 20, ALERT_HANDSHAKE = 40, ALERT_CERTIFICATE = 42 };

struct tls_context {
    struct tls_context *next;
    uint32_t references;
    uint32_t number;
    bool server, tickets;
    enum tls_verification verification;
};

struct tls_session {
    struct tls_session *next, **at;
    uint32_t context;
    char name[256];
};

struct tls {
    struct tls *next, **at;
    struct tls_context *context;
    bool server, begun, established, failed, close_sent, close_received, resumed, verified;
    bool ticket_waits, ticket_taken, resume_asked, first, spoiled;
    char name[256], failure[96], why[64];
    uint64_t sequence_in, sequence_out;
    char *flight; /* to be written before anything else */
    size_t flight_len, flight_done;
    char body[HEADER_BYTES + BODY_BYTES_MAX]; /* the record that comes in */
    size_t body_len;
    char *plain; /* of the last record: not taken yet; in body */
    size_t plain_len;
};

static struct {
    struct sim_random random;
    struct sim_tls_faults faults;
    struct tls *connections;
    struct tls_context *contexts;
    struct tls_session *sessions;
    uint32_t context_count;
} world;

/* --- the world --- */

void
sim_tls_start(uint64_t seed)
{
    sim_tls_end();
    world.random = sim_random_of(seed, 4);
}

void
sim_tls_faults_set(const struct sim_tls_faults *faults)
{
    world.faults = faults == NULL ? (struct sim_tls_faults){ 0 } : *faults;
}

void
sim_tls_end(void)
{
    while (world.connections != NULL)
        tls_free(world.connections);
    while (world.sessions != NULL)
        tls_session_free(world.sessions);
    while (world.contexts != NULL) {
        struct tls_context *context = world.contexts;

        world.contexts = context->next;
        free(context);
    }
    world.context_count = 0;
    world.faults = (struct sim_tls_faults){ 0 };
}

uint32_t
sim_tls_count(void)
{
    uint32_t count = 0;

    for (const struct tls *tls = world.connections; tls != NULL; tls = tls->next)
        count++;
    return count;
}

/* --- contexts --- */

static struct tls_context *
context_new(bool server, struct tls_error *error)
{
    struct tls_context *context = calloc(1, sizeof(*context));

    ASSERT(context != NULL);
    error->text[0] = '\0';
    context->references = 1;
    context->number = ++world.context_count;
    context->server = server;
    context->next = world.contexts;
    world.contexts = context;
    return context;
}

struct tls_context *
tls_server_context_create(const struct tls_certificate_files *files, size_t count,
                          const struct tls_server_options *options, struct tls_error *error)
{
    struct tls_context *context = context_new(true, error);

    ASSERT(count > 0 && files != NULL);
    context->tickets = options == NULL || !options->no_tickets;
    return context;
}

struct tls_context *
tls_client_context_create(const struct tls_client_options *options, struct tls_error *error)
{
    struct tls_context *context = context_new(false, error);

    context->verification = options == NULL ? TLS_VERIFICATION_NONE : options->verification;
    return context;
}

struct tls_context *
tls_context_acquire(struct tls_context *context)
{
    ASSERT(context->references > 0);
    context->references++;
    return context;
}

/* Its memory stays until sim_tls_end(), so that a use after the last release is seen. */
void
tls_context_release(struct tls_context *context)
{
    if (context == NULL)
        return;
    ASSERT(context->references > 0);
    context->references--;
}

int64_t
tls_context_expiry_seconds(const struct tls_context *context)
{
    (void)context;
    return INT64_C(2000000000);
}

int64_t
tls_context_certificate_expiry_seconds(const struct tls_context *context, size_t index)
{
    (void)index;
    return tls_context_expiry_seconds(context);
}

/* --- connections --- */

static struct tls *
create(struct tls_context *context, bool server)
{
    struct tls *tls;

    ASSERT(context->references > 0 && context->server == server);
    if (sim_fault(&world.random, SIM_FAULT_TLS_MEMORY, world.faults.memory))
        return NULL;
    tls = calloc(1, sizeof(*tls));
    ASSERT(tls != NULL);
    tls->context = tls_context_acquire(context);
    tls->server = server;
    tls->next = world.connections;
    tls->at = &world.connections;
    if (tls->next != NULL)
        tls->next->at = &tls->next;
    world.connections = tls;
    return tls;
}

struct tls *
tls_create_server(struct tls_context *context)
{
    return create(context, true);
}

static void
name_set(char to[256], const char *name)
{
    size_t len = name == NULL ? 0 : strlen(name);

    if (len > 255)
        len = 255;
    memcpy(to, name == NULL ? "" : name, len);
    to[len] = '\0';
}

struct tls *
tls_create_client(struct tls_context *context, const char *server_name, struct tls_session *resume)
{
    struct tls *tls = create(context, false);

    if (tls != NULL) {
        name_set(tls->name, server_name);
        tls->resume_asked = resume != NULL && resume->context == context->number &&
                            strcmp(resume->name, tls->name) == 0;
    }
    tls_session_free(resume);
    return tls;
}

void
tls_free(struct tls *tls)
{
    if (tls == NULL)
        return;
    *tls->at = tls->next;
    if (tls->next != NULL)
        tls->next->at = tls->at;
    tls_context_release(tls->context);
    free(tls->flight);
    free(tls);
}

bool
sim_tls_spoiled(const struct tls *tls)
{
    return tls->spoiled;
}

static enum tls_status
fail_with(struct tls *tls, const char *before, const char *why)
{
    size_t len = strlen(before);

    tls->failed = true;
    memcpy(tls->failure, before, len);
    strcpy(tls->failure + len, why);
    return TLS_FAILED;
}

/* --- records --- */

/* Of content, its place in the stream and its direction: what is lost or doubled shows. */
static uint64_t
sum_of(const char *data, size_t len, enum content content, uint64_t sequence, bool from_server)
{
    uint64_t sum = sim_mix(sequence * 4 + from_server * 2 + 1) ^ content;

    for (size_t i = 0; i < len; i++)
        sum = (sum ^ (unsigned char)data[i]) * UINT64_C(0x100000001b3);
    return sim_mix(sum ^ len);
}

static void
record_add(struct tls *tls, enum content content, const char *data, size_t len, struct outbuf *out)
{
    size_t body = len + INNER_BYTES;
    uint64_t sum = sum_of(data, len, content, tls->sequence_out++, tls->server);
    char *to = out->data + out->len;

    ASSERT(outbuf_room(out) >= len + RECORD_BYTES);
    /* As TLS 1.3: from the outside all but the first flights is application data. */
    *to++ = (char)(content == HANDSHAKE && !tls->established ? HANDSHAKE : DATA);
    *to++ = 3;
    *to++ = 3;
    *to++ = (char)(body >> 8);
    *to++ = (char)body;
    for (size_t i = 0; i < len; i++)
        *to++ = (char)((unsigned char)data[i] ^ MASK);
    *to++ = (char)content;
    for (int i = 0; i < SUM_BYTES; i++)
        *to++ = (char)(sum >> (8 * i));
    if (sim_fault(&world.random, SIM_FAULT_RECORD, world.faults.record)) {
        tls->spoiled = true;
        out->data[out->len + HEADER_BYTES + sim_below(&world.random, body)] ^=
            (char)(1u << sim_below(&world.random, 8));
    }
    out->len += len + RECORD_BYTES;
}

/* A last word, if there is room for it. */
static void
alert_add(struct tls *tls, enum alert alert, struct outbuf *out)
{
    const char octets[2] = { alert == ALERT_CLOSE ? 1 : 2, (char)alert };

    if (out != NULL && outbuf_room(out) >= sizeof(octets) + RECORD_BYTES)
        record_add(tls, ALERT, octets, sizeof(octets), out);
}

static enum tls_status
refuse(struct tls *tls, enum alert alert, const char *why, struct outbuf *out)
{
    alert_add(tls, alert, out);
    return fail_with(tls, tls->established ? "" : "handshake: ", why);
}

/* Takes of *in what the record under way needs. TLS_OK: it is whole, and in plain. */
static enum tls_status
record_take(struct tls *tls, struct span *in, enum content *content, struct outbuf *out)
{
    const unsigned char *head = (const unsigned char *)tls->body;
    uint64_t sum = 0, wanted;
    size_t len;

    for (;;) {
        size_t whole = tls->body_len < HEADER_BYTES
                           ? HEADER_BYTES
                           : HEADER_BYTES + (size_t)(head[3] << 8 | head[4]);
        size_t part = whole - tls->body_len < in->len ? whole - tls->body_len : in->len;

        memcpy(tls->body + tls->body_len, in->data == NULL ? "" : in->data, part);
        tls->body_len += part;
        span_advance(in, part);
        if ((tls->body_len > 0 && (head[0] < ALERT || head[0] > DATA)) ||
            (tls->body_len > 1 && head[1] != 3) || (tls->body_len > 2 && head[2] != 3))
            return refuse(tls, ALERT_HANDSHAKE, "that is no TLS", out);
        if (tls->body_len < HEADER_BYTES)
            return TLS_WANT_INPUT;
        len = (size_t)(head[3] << 8 | head[4]);
        if (len < INNER_BYTES || len > TLS_RECORD_BYTES_MAX + INNER_BYTES)
            return refuse(tls, ALERT_BAD_RECORD, "record of a bad length", out);
        if (tls->body_len == HEADER_BYTES + len)
            break;
        if (in->len == 0)
            return TLS_WANT_INPUT;
    }
    tls->body_len = 0;
    len -= INNER_BYTES;
    tls->plain = tls->body + HEADER_BYTES;
    for (size_t i = 0; i < len; i++)
        tls->plain[i] = (char)((unsigned char)tls->plain[i] ^ MASK);
    *content = (enum content)(unsigned char)tls->plain[len];
    for (int i = 0; i < SUM_BYTES; i++)
        sum |= (uint64_t)(unsigned char)tls->plain[len + 1 + (size_t)i] << (8 * i);
    wanted = sum_of(tls->plain, len, *content, tls->sequence_in++, !tls->server);
    if (sum != wanted)
        return refuse(tls, ALERT_BAD_RECORD, "bad record", out);
    tls->plain_len = len;
    return TLS_OK;
}

/* --- the handshake --- */

/* A message of that size in the flight, which goes out as room allows. */
static void
flight_add(struct tls *tls, enum message message, size_t len, bool flag)
{
    size_t records = (len + TLS_RECORD_BYTES_MAX - 1) / TLS_RECORD_BYTES_MAX;
    char *text = calloc(1, len);
    struct outbuf out;

    ASSERT(text != NULL && tls->flight == NULL);
    tls->flight = malloc(len + records * RECORD_BYTES);
    ASSERT(tls->flight != NULL);
    text[0] = (char)message;
    text[1] = flag;
    for (size_t i = 2; i < len; i++)
        text[i] = (char)(i * 7);
    if (message == HELLO)
        memcpy(text + 2, tls->name, strlen(tls->name) + 1);
    out = (struct outbuf){ .data = tls->flight, .size = len + records * RECORD_BYTES };
    record_add(tls, HANDSHAKE, text, len, &out);
    tls->flight_len = out.len;
    tls->flight_done = 0;
    free(text);
}

/* False: there was no room for all. */
static bool
flight_write(struct tls *tls, struct outbuf *out)
{
    size_t left = tls->flight_len - tls->flight_done;
    size_t part = left < outbuf_room(out) ? left : outbuf_room(out);

    if (tls->flight == NULL)
        return true;
    outbuf_add(out, span_of(tls->flight + tls->flight_done, part));
    tls->flight_done += part;
    if (part < left)
        return false;
    free(tls->flight);
    tls->flight = NULL;
    return true;
}

static enum tls_status
client_hello_seen(struct tls *tls, struct outbuf *out)
{
    if (sim_fault(&world.random, SIM_FAULT_HANDSHAKE, world.faults.handshake))
        return refuse(tls, ALERT_HANDSHAKE, "no common TLS version", out);
    name_set(tls->name, tls->plain + 2);
    tls->resumed = tls->plain[1] != 0 && tls->context->tickets;
    flight_add(tls, SERVER_FLIGHT,
               tls->resumed ? sim_between(&world.random, 120, 300)
                            : sim_between(&world.random, 600, FLIGHT_BYTES_MAX),
               tls->resumed);
    return TLS_OK;
}

static enum tls_status
server_flight_seen(struct tls *tls, struct outbuf *out)
{
    bool looks = tls->context->verification != TLS_VERIFICATION_NONE;
    bool good = !sim_fault(&world.random, SIM_FAULT_UNVERIFIED, world.faults.unverified);

    if (sim_fault(&world.random, SIM_FAULT_HANDSHAKE, world.faults.handshake))
        return refuse(tls, ALERT_HANDSHAKE, "no common TLS version", out);
    tls->resumed = tls->plain[1] != 0;
    tls->verified = looks && good;
    if (looks && !good)
        strcpy(tls->why, "certificate has expired");
    if (tls->context->verification == TLS_VERIFICATION_REQUIRE && !good)
        return refuse(tls, ALERT_CERTIFICATE, "certificate has expired", out);
    flight_add(tls, FINISHED, sim_between(&world.random, 40, 80), false);
    tls->established = true; /* when it is out */
    return TLS_OK;
}

static enum tls_status
message_seen(struct tls *tls, enum content content, struct outbuf *out)
{
    enum message message = tls->plain_len > 2 ? (enum message)tls->plain[0] : 0;

    if (content == ALERT && tls->plain_len == 2)
        return fail_with(tls, "handshake: ",
                         tls->plain[1] == ALERT_CLOSE
                             ? "the peer closed the connection (close_notify)"
                             : "alert of the peer");
    if (content != HANDSHAKE)
        return refuse(tls, ALERT_HANDSHAKE, "unexpected message", out);
    if (tls->server && message == HELLO && !tls->begun) {
        tls->begun = true;
        return client_hello_seen(tls, out);
    }
    if (tls->server && message == FINISHED && tls->begun) {
        tls->established = true;
        tls->ticket_waits = tls->context->tickets;
        return TLS_OK;
    }
    if (!tls->server && message == SERVER_FLIGHT)
        return server_flight_seen(tls, out);
    return refuse(tls, ALERT_HANDSHAKE, "unexpected message", out);
}

enum tls_status
tls_handshake(struct tls *tls, struct span *in, struct outbuf *out)
{
    enum tls_status status = TLS_OK;
    enum content content;

    if (tls->failed)
        return TLS_FAILED;
    if (!tls->server && !tls->begun) {
        tls->begun = true;
        flight_add(tls, HELLO, sim_between(&world.random, 260, 1800), tls->resume_asked);
    }
    while (status == TLS_OK) {
        if (!flight_write(tls, out))
            return TLS_WANT_OUTPUT;
        if (tls->established)
            return TLS_OK;
        tls->first = tls->first || in->len > 0;
        status = record_take(tls, in, &content, out);
        if (status == TLS_OK)
            status = message_seen(tls, content, out);
        tls->plain_len = 0;
    }
    return status;
}

/* --- data --- */

static enum tls_status
record_seen(struct tls *tls, enum content content)
{
    size_t len = tls->plain_len;

    if (content == DATA)
        return TLS_OK;
    tls->plain_len = 0;
    if (content == TICKET)
        tls->ticket_taken = true;
    if (content != ALERT || len != 2)
        return TLS_OK;
    if (tls->plain[1] != ALERT_CLOSE)
        return fail_with(tls, "", "alert of the peer");
    tls->close_received = true;
    return TLS_CLOSED;
}

enum tls_status
tls_read(struct tls *tls, struct span *in, struct outbuf *plain, struct outbuf *out)
{
    enum tls_status status = TLS_OK;
    enum content content;

    ASSERT(tls->established || tls->failed);
    if (tls->failed)
        return TLS_FAILED;
    if (tls->close_received)
        status = TLS_CLOSED;
    while (status == TLS_OK && outbuf_room(plain) > 0) {
        size_t part = tls->plain_len < outbuf_room(plain) ? tls->plain_len : outbuf_room(plain);

        if (part == 0) {
            status = record_take(tls, in, &content, out);
            if (status == TLS_OK)
                status = record_seen(tls, content);
            continue;
        }
        outbuf_add(plain, span_of(tls->plain, part));
        tls->plain += part;
        tls->plain_len -= part;
    }
    if (status == TLS_OK && in->len == 0 && tls->plain_len == 0)
        status = TLS_WANT_INPUT; /* plain is full, but with the last octet there was */
    if (status == TLS_CLOSED)
        in->len = 0;
    return status;
}

/* A ticket that was kept back goes first. */
static bool
ticket_write(struct tls *tls, struct outbuf *out)
{
    char text[64] = "ticket";

    if (!tls->ticket_waits)
        return true;
    if (outbuf_room(out) < TLS_RECORD_OVERHEAD)
        return false;
    tls->ticket_waits = false;
    record_add(tls, TICKET, text, sizeof(text), out);
    return true;
}

enum tls_status
tls_write(struct tls *tls, struct span *plain, struct outbuf *out)
{
    ASSERT(tls->established || tls->failed);
    ASSERT(!tls->close_sent);
    ASSERT(out->size > TLS_RECORD_OVERHEAD);
    if (tls->failed)
        return TLS_FAILED;
    if (!ticket_write(tls, out))
        return TLS_WANT_OUTPUT;
    while (plain->len > 0) {
        size_t len = plain->len < TLS_RECORD_BYTES_MAX ? plain->len : TLS_RECORD_BYTES_MAX;
        size_t room = outbuf_room(out);

        if (room <= TLS_RECORD_OVERHEAD)
            return TLS_WANT_OUTPUT;
        if (len > room - TLS_RECORD_OVERHEAD)
            len = room - TLS_RECORD_OVERHEAD;
        record_add(tls, DATA, plain->data, len, out);
        span_advance(plain, len);
    }
    return TLS_OK;
}

enum tls_status
tls_close(struct tls *tls, struct outbuf *out)
{
    if (tls->failed)
        return TLS_FAILED;
    if (!tls->established || tls->close_sent)
        return TLS_OK;
    if (!ticket_write(tls, out) || outbuf_room(out) < TLS_RECORD_OVERHEAD)
        return TLS_WANT_OUTPUT;
    tls->close_sent = true;
    alert_add(tls, ALERT_CLOSE, out);
    return TLS_OK;
}

enum tls_status
tls_input_ended(struct tls *tls)
{
    const char *words = "the connection ended without close_notify";

    if (tls->close_received)
        return TLS_CLOSED;
    if (!tls->established)
        words = tls->first ? "handshake: the connection ended in it"
                           : "handshake: the peer said nothing";
    else if (tls->body_len > 0)
        words = "the connection ended within a record";
    strcpy(tls->failure, words);
    return TLS_FAILED;
}

/* --- what there is to know --- */

struct span
tls_failure(const struct tls *tls)
{
    return span_text(tls->failure);
}

const char *
tls_version(const struct tls *tls)
{
    return tls->established ? "TLSv1.3" : "";
}

const char *
tls_cipher(const struct tls *tls)
{
    return tls->established ? "TLS_AES_128_GCM_SHA256" : "";
}

bool
tls_resumed(const struct tls *tls)
{
    return tls->resumed;
}

bool
tls_verified(const struct tls *tls)
{
    return tls->verified;
}

struct span
tls_verification_error(const struct tls *tls)
{
    return span_text(tls->why);
}

struct span
tls_server_name(const struct tls *tls)
{
    return span_text(tls->name);
}

struct tls_session *
tls_take_session(struct tls *tls)
{
    struct tls_session *session;

    if (!tls->ticket_taken)
        return NULL;
    tls->ticket_taken = false;
    session = calloc(1, sizeof(*session));
    ASSERT(session != NULL);
    session->context = tls->context->number;
    memcpy(session->name, tls->name, sizeof(session->name));
    session->next = world.sessions;
    session->at = &world.sessions;
    if (session->next != NULL)
        session->next->at = &session->next;
    world.sessions = session;
    return session;
}

void
tls_session_free(struct tls_session *session)
{
    if (session == NULL)
        return;
    *session->at = session->next;
    if (session->next != NULL)
        session->next->at = session->at;
    free(session);
}

size_t
tls_memory_in_use(void)
{
    return 0;
}

void
tls_memory_limit(size_t bytes)
{
    (void)bytes;
}
