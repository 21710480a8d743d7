/* The record pump: BoringSSL reads from the caller's span and writes into the caller's outbuf
 * through a BIO of our own, so that no octet is held or copied twice on the way. */
#include <limits.h>
#include <stdio.h>

#include "tls/library.h"

#define FAILURE_BYTES_MAX 192
#define RECORD_HEADER_BYTES 5
/* A record that is cut short by the end of out costs a whole record's overhead for a few octets:
 * rather wait for an empty out, unless the plain text ends with it. */
#define RECORD_BYTES_WORTHWHILE 512

struct tls {
    SSL *library;
    struct tls_context *context;
    struct span *in;    /* the caller's, during a call */
    struct outbuf *out; /* the caller's, during a call */
    SSL_SESSION *session;
    char *server_name;        /* client: as given to create, without the final dot */
    char *failure;            /* NULL: none, or no memory for it */
    char *verification_error; /* NULL: none */
    int16_t alert_sent;       /* RFC 8446 6: the description; -1: none */
    int16_t alert_received;
    uint8_t first[RECORD_HEADER_BYTES]; /* the first octets of the peer */
    uint8_t first_count;
    bool established;      /* the handshake is done */
    bool flight_waits;     /* tickets that go with the first record (RFC 8446 4.6.1) */
    bool verified;         /* client */
    bool resumed_verified; /* client: the session to resume comes from a verified connection */
    bool close_sent;
    bool close_received;
    bool failed;
};

static char failure_no_memory[] = "out of memory";

/* --- between the library and the buffers of the call --- */

static int
pump_read(BIO *bio, char *data, int size)
{
    struct tls *tls = BIO_get_data(bio);
    size_t count = size < 0 ? 0 : (size_t)size;

    BIO_clear_retry_flags(bio);
    if (!tls->in || tls->in->len == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    if (count > tls->in->len)
        count = tls->in->len;
    memcpy(data, tls->in->data, count);
    for (size_t i = 0; i < count && tls->first_count < RECORD_HEADER_BYTES; i++)
        tls->first[tls->first_count++] = (uint8_t)data[i];
    span_advance(tls->in, count);
    return (int)count;
}

static int
pump_write(BIO *bio, const char *data, int size)
{
    struct tls *tls = BIO_get_data(bio);
    size_t count = size < 0 ? 0 : (size_t)size;
    size_t room = tls->out ? outbuf_room(tls->out) : 0;

    BIO_clear_retry_flags(bio);
    if (room == 0 || count == 0) {
        BIO_set_retry_write(bio);
        return -1;
    }
    if (count > room)
        count = room;
    outbuf_add(tls->out, span_of(data, count));
    return (int)count;
}

static long
pump_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH; /* there is nothing behind us to flush */
}

BIO_METHOD *
tls_pump_create(void)
{
    BIO_METHOD *method = BIO_meth_new(0, "span pump");

    if (method &&
        (!BIO_meth_set_read(method, pump_read) || !BIO_meth_set_write(method, pump_write) ||
         !BIO_meth_set_ctrl(method, pump_control))) {
        BIO_meth_free(method);
        return NULL;
    }
    return method;
}

struct tls *
tls_of(const SSL *library)
{
    return BIO_get_data(SSL_get_rbio(library));
}

struct tls_context *
tls_context_of(const struct tls *tls)
{
    return tls->context;
}

/* --- failures --- */

static void
set_text(char **text, const char *words)
{
    if (!*text)
        *text = OPENSSL_strdup(words);
    if (!*text)
        *text = failure_no_memory;
}

static void
free_text(char *text)
{
    if (text != failure_no_memory)
        OPENSSL_free(text);
}

void
tls_note_alert(const SSL *library, int type, int value)
{
    struct tls *tls = tls_of(library);

    if (type == SSL_CB_READ_ALERT)
        tls->alert_received = (int16_t)(value & 0xff);
    else if (type == SSL_CB_WRITE_ALERT)
        tls->alert_sent = (int16_t)(value & 0xff);
}

static bool
is_printable(uint8_t octet)
{
    return octet >= ' ' && octet <= '~';
}

/* SMTP to an implicit TLS port, or a 220 greeting from a server that waits for STARTTLS: common
 * enough to be named. A TLS record begins with a control octet (RFC 8446 5.1). */
static bool
describe_plain_text(const struct tls *tls, char *text, size_t text_size)
{
    char shown[33];
    size_t length = 0;
    const struct span rest = tls->in ? *tls->in : span_of(NULL, 0);

    if (tls->established || tls->first_count == 0 || !is_printable(tls->first[0]))
        return false;
    for (size_t i = 0; i < tls->first_count; i++)
        shown[length++] = (char)tls->first[i];
    for (size_t i = 0; i < rest.len && length + 1 < sizeof(shown); i++)
        shown[length++] = rest.data[i];
    shown[length] = '\0';
    length = 0;
    while (is_printable((uint8_t)shown[length]))
        length++;
    shown[length] = '\0';
    snprintf(text, text_size, "plain text instead of TLS: \"%s\"", shown);
    return true;
}

/* Words of our own for what an operator will meet; else the library's, in lower case. */
static void
describe_reason(uint32_t error, char *text, size_t text_size)
{
    static const struct {
        int library, reason;
        const char *words;
    } known[] = {
        { ERR_LIB_SSL, SSL_R_UNSUPPORTED_PROTOCOL, "no common TLS version" },
        { ERR_LIB_SSL, SSL_R_NO_SHARED_CIPHER, "no common cipher suite" },
        { ERR_LIB_SSL, SSL_R_NO_SHARED_GROUP, "no common key exchange group" },
        { ERR_LIB_SSL, SSL_R_NO_COMMON_SIGNATURE_ALGORITHMS, "no common signature algorithm" },
        { ERR_LIB_SSL, SSL_R_WRONG_VERSION_NUMBER, "not a TLS record" },
        { ERR_LIB_SSL, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, "a damaged or forged record" },
        { ERR_LIB_CIPHER, CIPHER_R_BAD_DECRYPT, "a damaged or forged record" },
    };
    const char *reason = ERR_reason_error_string(error);
    size_t i = 0;

    if (error == 0 || ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE)
        reason = "out of memory"; /* 0: there was not even enough to say so */
    for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++)
        if (known[k].library == ERR_GET_LIB(error) && known[k].reason == ERR_GET_REASON(error)) {
            snprintf(text, text_size, "%s", known[k].words);
            return;
        }
    if (!reason)
        reason = "unknown error";
    for (; reason[i] != '\0' && i + 1 < text_size; i++)
        text[i] = reason[i] == '_' ? ' ' : char_lower(reason[i]);
    text[i] = '\0';
}

static const char *
alert_name(int alert)
{
    return SSL_alert_desc_string_long(alert);
}

static void
describe_failure(const struct tls *tls, char *text, size_t text_size)
{
    uint32_t error = ERR_get_error(); /* the first is the cause, the others are its consequences */
    char reason[FAILURE_BYTES_MAX / 2];

    if (describe_plain_text(tls, text, text_size))
        return;
    if (tls->verification_error && tls->alert_sent >= 0)
        snprintf(reason, sizeof(reason), "certificate: %s", tls->verification_error);
    else if (tls->alert_received >= 0 && ERR_GET_LIB(error) == ERR_LIB_SSL &&
             ERR_GET_REASON(error) >= SSL_AD_REASON_OFFSET)
        snprintf(reason, sizeof(reason), "the peer gave up");
    else
        describe_reason(error, reason, sizeof(reason));
    if (tls->alert_received >= 0 && tls->alert_received != SSL_AD_CLOSE_NOTIFY)
        snprintf(text, text_size, "%s%s (alert received: %s)",
                 tls->established ? "" : "handshake: ", reason, alert_name(tls->alert_received));
    else if (tls->alert_sent >= 0)
        snprintf(text, text_size, "%s%s (alert sent: %s)", tls->established ? "" : "handshake: ",
                 reason, alert_name(tls->alert_sent));
    else
        snprintf(text, text_size, "%s%s", tls->established ? "" : "handshake: ", reason);
}

static enum tls_status
fail(struct tls *tls)
{
    char text[FAILURE_BYTES_MAX];

    tls->failed = true;
    describe_failure(tls, text, sizeof(text));
    set_text(&tls->failure, text);
    ERR_clear_error();
    return TLS_FAILED;
}

static enum tls_status
fail_with(struct tls *tls, const char *words)
{
    tls->failed = true;
    set_text(&tls->failure, words);
    ERR_clear_error();
    return TLS_FAILED;
}

/* What a call of the library that did not succeed means. */
static enum tls_status
outcome(struct tls *tls, int result)
{
    switch (SSL_get_error(tls->library, result)) {
    case SSL_ERROR_WANT_READ:
        return TLS_WANT_INPUT;
    case SSL_ERROR_WANT_WRITE:
        return TLS_WANT_OUTPUT;
    case SSL_ERROR_ZERO_RETURN:
        tls->close_received = true;
        return TLS_CLOSED;
    default:
        return fail(tls);
    }
}

/* --- create and free --- */

static struct tls *
create(struct tls_context *context)
{
    struct tls *tls = OPENSSL_malloc(sizeof(*tls));
    BIO *bio;

    if (!tls)
        return NULL;
    memset(tls, 0, sizeof(*tls));
    tls->alert_sent = tls->alert_received = -1;
    tls->context = tls_context_acquire(context);
    tls->library = SSL_new(context->library);
    bio = BIO_new(context->pump);
    if (!tls->library || !bio) {
        BIO_free(bio);
        tls_free(tls);
        ERR_clear_error();
        return NULL;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->library, bio, bio);
    /* The retry of a write may come with another address: the caller's buffers move. */
    SSL_set_mode(tls->library, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Idle sessions are most of the sessions: 0.7 KiB less for each. */
    SSL_set_shed_handshake_config(tls->library, 1);
    return tls;
}

struct tls *
tls_create_server(struct tls_context *context)
{
    struct tls *tls;

    ASSERT(context->server);
    tls = create(context);
    if (tls)
        SSL_set_accept_state(tls->library);
    return tls;
}

struct tls_session {
    SSL_SESSION *session;
    struct tls_context *context;
    char *server_name; /* NULL: none */
    bool verified;
};

/* A session stands for the verification of the connection it came from, so it is worth nothing
 * under another policy or another name. */
static void
use_session(struct tls *tls, const struct tls_session *resume)
{
    bool same_name = tls->server_name && resume->server_name
                         ? strcmp(tls->server_name, resume->server_name) == 0
                         : !tls->server_name && !resume->server_name;

    if (resume->context != tls->context || !same_name)
        return;
    if (!SSL_set_session(tls->library, resume->session)) {
        ERR_clear_error();
        return;
    }
    tls->resumed_verified = resume->verified;
    /* A TLS 1.2 server need not send a new ticket; the old one may be used again (RFC 5077 3.3). */
    if (!SSL_SESSION_should_be_single_use(resume->session)) {
        SSL_SESSION_up_ref(resume->session);
        tls->session = resume->session;
    }
}

/* False: no memory. A name that cannot be verified is told by the handshake, which has a text. */
static bool
use_name(struct tls *tls, const char *server_name)
{
    size_t length = server_name ? strlen(server_name) : 0;

    if (!server_name) {
        if (tls->context->verification == TLS_VERIFICATION_REQUIRE)
            fail_with(tls, "handshake: no server name to verify");
        else if (tls->context->verification == TLS_VERIFICATION_RECORD)
            set_text(&tls->verification_error, "no server name to verify");
        return true;
    }
    if (length > 0 && server_name[length - 1] == '.')
        length--;
    tls->server_name = OPENSSL_strndup(server_name, length);
    if (!tls->server_name)
        return false;
    switch (tls_set_name(tls->library, tls->server_name)) {
    case TLS_NAME_OK:
        return true;
    case TLS_NAME_INVALID:
        fail_with(tls, "handshake: the server name is neither a DNS name nor an address");
        return true;
    case TLS_NAME_NO_MEMORY:
        break;
    }
    return false;
}

struct tls *
tls_create_client(struct tls_context *context, const char *server_name,
                  struct tls_session *resume)
{
    struct tls *tls;

    ASSERT(!context->server);
    tls = create(context);
    if (tls) {
        SSL_set_connect_state(tls->library);
        if (!use_name(tls, server_name)) {
            tls_free(tls);
            tls = NULL;
        } else if (resume && !tls->failed) {
            use_session(tls, resume);
        }
    }
    tls_session_free(resume);
    return tls;
}

void
tls_free(struct tls *tls)
{
    if (!tls)
        return;
    SSL_free(tls->library); /* and the BIO with it */
    SSL_SESSION_free(tls->session);
    OPENSSL_free(tls->server_name);
    free_text(tls->failure);
    free_text(tls->verification_error);
    tls_context_release(tls->context);
    OPENSSL_free(tls);
    ERR_clear_error();
}

/* --- the handshake --- */

/* For each certificate of the chain, and for each thing that is wrong with it. */
int
tls_verify_step(int good, X509_STORE_CTX *store)
{
    const SSL *library =
        X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *tls = tls_of(library);
    char text[FAILURE_BYTES_MAX / 2];

    if (good)
        return 1;
    if (!tls->verification_error) {
        tls_verify_describe(text, sizeof(text), store, tls->server_name);
        set_text(&tls->verification_error, text);
    }
    return tls->context->verification == TLS_VERIFICATION_RECORD;
}

static void
handshake_done(struct tls *tls)
{
    tls->established = true;
    tls->flight_waits = tls->context->server;
    if (tls->context->server || tls->context->verification == TLS_VERIFICATION_NONE)
        return;
    if (!SSL_session_reused(tls->library)) {
        tls->verified = !tls->verification_error &&
                        SSL_get_verify_result(tls->library) == X509_V_OK;
        return;
    }
    tls->verified = tls->resumed_verified;
    if (!tls->verified)
        set_text(&tls->verification_error, "the session that is resumed was not verified");
}

static void
borrow(struct tls *tls, struct span *in, struct outbuf *out)
{
    tls->in = in;
    tls->out = out;
}

static enum tls_status
give_back(struct tls *tls, enum tls_status status)
{
    tls->in = NULL;
    tls->out = NULL;
    return status;
}

enum tls_status
tls_handshake(struct tls *tls, struct span *in, struct outbuf *out)
{
    enum tls_status status = TLS_OK;
    int result;

    if (tls->failed)
        return TLS_FAILED;
    if (tls->established)
        return TLS_OK;
    borrow(tls, in, out);
    result = SSL_do_handshake(tls->library);
    if (result == 1) {
        handshake_done(tls);
        ERR_clear_error();
    } else {
        status = outcome(tls, result);
    }
    if (status == TLS_CLOSED)
        status = fail_with(tls, "handshake: the peer closed the connection (close_notify)");
    ASSERT_SLOW(status != TLS_WANT_INPUT || in->len == 0);
    return give_back(tls, status);
}

/* --- records --- */

/* The library has all that came, and has handed it out but for a part of a record. To ask it once
 * more would say the same, at a fourth of the price of decrypting a command. */
static bool
all_read(const struct tls *tls, const struct span *in)
{
    return in->len == 0 && SSL_pending(tls->library) == 0;
}

enum tls_status
tls_read(struct tls *tls, struct span *in, struct outbuf *plain, struct outbuf *out)
{
    enum tls_status status = TLS_OK;

    ASSERT(tls->established || tls->failed);
    if (tls->failed)
        return TLS_FAILED;
    borrow(tls, in, out);
    while (status == TLS_OK && outbuf_room(plain) > 0) {
        size_t room = outbuf_room(plain);
        int count = SSL_read(tls->library, plain->data + plain->len,
                             room > INT_MAX ? INT_MAX : (int)room);

        if (count <= 0) {
            status = outcome(tls, count);
        } else {
            plain->len += (size_t)count;
            if (all_read(tls, in))
                status = TLS_WANT_INPUT;
        }
    }
    if (status == TLS_CLOSED)
        in->len = 0; /* what follows a close_notify is not of the peer we know (RFC 8446 6.1) */
    ASSERT_SLOW(status != TLS_WANT_INPUT || in->len == 0);
    return give_back(tls, status);
}

/* Writes the tickets that the library kept back: they may be cut at the end of out, a record of
 * plain text may not. */
static enum tls_status
write_waiting_flight(struct tls *tls)
{
    int result;

    if (!tls->flight_waits)
        return TLS_OK;
    result = SSL_write(tls->library, "", 0);
    if (result < 0)
        return outcome(tls, result);
    tls->flight_waits = false;
    return TLS_OK;
}

/* How much plain text the next record takes; 0: none is worth it in this room. */
static size_t
record_length(size_t plain_length, const struct outbuf *out)
{
    size_t room = outbuf_room(out);
    size_t length = plain_length < TLS_RECORD_BYTES_MAX ? plain_length : TLS_RECORD_BYTES_MAX;

    ASSERT(out->size > TLS_RECORD_OVERHEAD);
    if (room <= TLS_RECORD_OVERHEAD)
        return 0;
    room -= TLS_RECORD_OVERHEAD;
    if (room >= length)
        return length;
    return room >= RECORD_BYTES_WORTHWHILE || out->len == 0 ? room : 0;
}

static enum tls_status
write_record(struct tls *tls, struct span *plain, size_t length)
{
    enum tls_status status;
    int result = SSL_write(tls->library, plain->data, (int)length);

    if (result == (int)length) {
        span_advance(plain, length);
        return TLS_OK;
    }
    status = outcome(tls, result);
    /* TLS_RECORD_OVERHEAD says that this cannot be. One connection is lost if it is wrong. */
    return status == TLS_FAILED ? status : fail_with(tls, "a record did not fit its buffer");
}

enum tls_status
tls_write(struct tls *tls, struct span *plain, struct outbuf *out)
{
    enum tls_status status;

    ASSERT(tls->established || tls->failed);
    ASSERT(!tls->close_sent);
    if (tls->failed)
        return TLS_FAILED;
    borrow(tls, NULL, out);
    status = write_waiting_flight(tls);
    while (status == TLS_OK && plain->len > 0) {
        size_t length = record_length(plain->len, out);

        status = length > 0 ? write_record(tls, plain, length) : TLS_WANT_OUTPUT;
    }
    return give_back(tls, status);
}

enum tls_status
tls_close(struct tls *tls, struct outbuf *out)
{
    enum tls_status status;
    int result;

    if (tls->failed)
        return TLS_FAILED;
    if (!tls->established || tls->close_sent)
        return TLS_OK;
    borrow(tls, NULL, out);
    status = write_waiting_flight(tls);
    if (status == TLS_OK && outbuf_room(out) < TLS_RECORD_OVERHEAD)
        status = TLS_WANT_OUTPUT;
    if (status == TLS_OK) {
        result = SSL_shutdown(tls->library);
        if (result < 0)
            status = outcome(tls, result);
        else
            tls->close_sent = true;
    }
    return give_back(tls, status);
}

enum tls_status
tls_input_ended(struct tls *tls)
{
    const char *words = "the connection ended without close_notify";

    if (tls->close_received)
        return TLS_CLOSED;
    if (!tls->established)
        words = tls->first_count == 0 ? "handshake: the peer said nothing"
                                      : "handshake: the connection ended in it";
    else if (SSL_has_pending(tls->library))
        words = "the connection ended within a record";
    set_text(&tls->failure, words);
    return TLS_FAILED;
}

/* --- what there is to know --- */

static struct span
text_span(const char *text)
{
    return span_text(text ? text : "");
}

struct span
tls_failure(const struct tls *tls)
{
    return text_span(tls->failure);
}

const char *
tls_version(const struct tls *tls)
{
    return tls->established ? SSL_get_version(tls->library) : "";
}

const char *
tls_cipher(const struct tls *tls)
{
    const SSL_CIPHER *cipher = tls->established ? SSL_get_current_cipher(tls->library) : NULL;

    return cipher ? SSL_CIPHER_standard_name(cipher) : "";
}

bool
tls_resumed(const struct tls *tls)
{
    return tls->established && SSL_session_reused(tls->library);
}

bool
tls_verified(const struct tls *tls)
{
    return tls->verified;
}

struct span
tls_verification_error(const struct tls *tls)
{
    return text_span(tls->verification_error);
}

struct span
tls_server_name(const struct tls *tls)
{
    const char *name = tls->server_name;

    if (tls->context->server) {
        name = SSL_get_servername(tls->library, TLSEXT_NAMETYPE_host_name);
        if (name && !tls_dns_name_valid(name))
            name = NULL;
    }
    return text_span(name);
}

/* --- sessions --- */

int
tls_keep_session(SSL *library, SSL_SESSION *session)
{
    struct tls *tls = tls_of(library);

    SSL_SESSION_free(tls->session);
    tls->session = session;
    return 1; /* the reference is ours now */
}

struct tls_session *
tls_take_session(struct tls *tls)
{
    struct tls_session *taken;

    if (!tls->session || !tls->established || tls->failed)
        return NULL;
    taken = OPENSSL_malloc(sizeof(*taken));
    if (!taken)
        return NULL;
    memset(taken, 0, sizeof(*taken));
    if (tls->server_name) {
        taken->server_name = OPENSSL_strdup(tls->server_name);
        if (!taken->server_name) {
            OPENSSL_free(taken);
            return NULL;
        }
    }
    taken->context = tls_context_acquire(tls->context);
    taken->session = tls->session;
    taken->verified = tls->verified;
    tls->session = NULL;
    return taken;
}

void
tls_session_free(struct tls_session *session)
{
    if (!session)
        return;
    SSL_SESSION_free(session->session);
    tls_context_release(session->context);
    OPENSSL_free(session->server_name);
    OPENSSL_free(session);
}
