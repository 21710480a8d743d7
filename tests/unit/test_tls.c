/* The record pump: a client and a server in memory, cut into pieces in every way. */
#include <criterion/criterion.h>

#include "core/span.h"
#include "tests/unit/tls_pair.h"
#include "tls/library.h"

static const struct pieces whole = { 0 };

/* The library object of the newest connection of a context, for what tls.h does not offer. */
static _Thread_local SSL *seen;

static void
see(const SSL *library, int type, int value)
{
    seen = (SSL *)library;
    tls_note_alert(library, type, value);
}

static struct tls_context *
server_context(enum tls_version_min version_min)
{
    const struct tls_certificate_files files = { test_file("ecdsa.pem"), test_file("ecdsa.key") };
    const struct tls_server_options options = { .version_min = version_min };
    struct tls_error error;
    struct tls_context *context = tls_server_context_create(&files, 1, &options, &error);

    cr_assert(context, "%s", error.text);
    cr_assert_eq(error.text[0], '\0', "%s", error.text);
    return context;
}

/* version: the only one that the client offers; 0: both. */
static struct tls_context *
client_context(uint16_t version)
{
    const struct tls_client_options options = {
        .verification = TLS_VERIFICATION_REQUIRE,
        .ca_file = test_file("authority.pem"),
    };
    struct tls_error error;
    struct tls_context *context = tls_client_context_create(&options, &error);

    cr_assert(context, "%s", error.text);
    if (version != 0) {
        cr_assert(SSL_CTX_set_min_proto_version(context->library, version));
        cr_assert(SSL_CTX_set_max_proto_version(context->library, version));
    }
    return context;
}

/* Two contexts, and pairs of them. */
struct fixture {
    struct tls_context *client, *server;
};

static struct fixture
fixture_create(uint16_t version)
{
    struct fixture fixture = { client_context(version), server_context(TLS_VERSION_MIN_1_2) };

    return fixture;
}

static void
fixture_free(struct fixture *fixture)
{
    tls_context_release(fixture->client);
    tls_context_release(fixture->server);
}

static struct pair
established(const struct fixture *fixture)
{
    struct pair pair = pair_create(fixture->client, fixture->server, "mail.example.com", NULL);

    cr_assert(pair_handshake(&pair, whole));
    return pair;
}

static void
assert_text(struct span got, const char *want, const char *name)
{
    cr_assert(span_equal(got, span_text(want)), "%s: got \"%.*s\", want \"%s\"", name,
              (int)got.len, got.data, want);
}

static void
assert_contains(struct span got, const char *want, const char *name)
{
    struct span rest = got;

    while (rest.len > 0 && !span_starts_ignore_case(rest, span_text(want)))
        span_advance(&rest, 1);
    cr_assert_gt(rest.len, 0, "%s: got \"%.*s\", want \"%s\"", name, (int)got.len, got.data, want);
}

/* Octets that never repeat in step with a record. */
static struct span
pattern(size_t length)
{
    char *octets = malloc(length);

    cr_assert(octets);
    for (size_t i = 0; i < length; i++)
        octets[i] = (char)((i * 131 + (i >> 8) * 7) & 0xff);
    return span_of(octets, length);
}

/* --- handshakes --- */

Test(tls, handshake_in_pieces)
{
    static const struct {
        const char *name;
        uint16_t version;
        struct pieces pieces;
        const char *want_version;
        const char *want_cipher;
    } rows[] = {
        { "1.3 whole", 0, { 0, 0, 0 }, "TLSv1.3", "TLS_AES_128_GCM_SHA256" },
        { "1.3 octet by octet", 0, { 1, 0, 0 }, "TLSv1.3", "TLS_AES_128_GCM_SHA256" },
        { "1.3 no room", 0, { 0, TLS_RECORD_OVERHEAD + 1, 0 }, "TLSv1.3",
          "TLS_AES_128_GCM_SHA256" },
        { "1.3 one octet of room", 0, { 0, 1, 0 }, "TLSv1.3", "TLS_AES_128_GCM_SHA256" },
        { "1.3 both", 0, { 1, 1, 0 }, "TLSv1.3", "TLS_AES_128_GCM_SHA256" },
        { "1.3 seven", 0, { 7, 200, 0 }, "TLSv1.3", "TLS_AES_128_GCM_SHA256" },
        { "1.2 whole", TLS1_2_VERSION, { 0, 0, 0 }, "TLSv1.2",
          "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" },
        { "1.2 octet by octet", TLS1_2_VERSION, { 1, 0, 0 }, "TLSv1.2",
          "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" },
        { "1.2 both", TLS1_2_VERSION, { 1, 1, 0 }, "TLSv1.2",
          "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" },
        { "1.2 seven", TLS1_2_VERSION, { 7, 200, 0 }, "TLSv1.2",
          "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture fixture = fixture_create(rows[i].version);
        struct pair pair = pair_create(fixture.client, fixture.server, "Mail.Example.COM.", NULL);

        cr_assert_str_eq(tls_version(pair.server), "", "%s", rows[i].name);
        cr_assert_str_eq(tls_cipher(pair.client), "", "%s", rows[i].name);
        cr_assert(pair_handshake(&pair, rows[i].pieces), "%s: %.*s", rows[i].name,
                  (int)tls_failure(pair.client).len, tls_failure(pair.client).data);
        cr_assert_str_eq(tls_version(pair.server), rows[i].want_version, "%s", rows[i].name);
        cr_assert_str_eq(tls_version(pair.client), rows[i].want_version, "%s", rows[i].name);
        cr_assert_str_eq(tls_cipher(pair.server), rows[i].want_cipher, "%s: %s", rows[i].name,
                         tls_cipher(pair.server));
        cr_assert(tls_verified(pair.client), "%s", rows[i].name);
        cr_assert(!tls_verified(pair.server), "%s", rows[i].name);
        cr_assert(!tls_resumed(pair.server), "%s", rows[i].name);
        assert_text(tls_server_name(pair.server), "Mail.Example.COM", rows[i].name);
        assert_text(tls_failure(pair.server), "", rows[i].name);
        assert_text(tls_failure(pair.client), "", rows[i].name);
        pair_free(&pair);
        fixture_free(&fixture);
    }
}

/* Delivers the first octets of each flight alone, and then the rest. */
static bool
handshake_cut_at(struct pair *pair, size_t cut)
{
    for (unsigned turns = 0; turns < 20; turns++) {
        const struct pieces pieces = { .chunk = turns % 2 == 0 ? cut : 0 };
        enum tls_status client =
            pair_step(pair->client, &pair->to_client, &pair->to_server, pieces);
        enum tls_status server =
            pair_step(pair->server, &pair->to_server, &pair->to_client, pieces);

        if (client == TLS_OK && server == TLS_OK)
            return true;
    }
    return false;
}

Test(tls, handshake_cut_at_every_place)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture = fixture_create(versions[i]);

        for (size_t cut = 1; cut < 1000; cut += cut < 150 ? 1 : 13) {
            struct pair pair = pair_create(fixture.client, fixture.server, "mx.example.com", NULL);

            cr_assert(handshake_cut_at(&pair, cut), "version %x cut at %zu", versions[i], cut);
            pair_free(&pair);
        }
        fixture_free(&fixture);
    }
}

/* The first message of the client comes in one delivery with the end of its handshake. */
Test(tls, data_behind_the_handshake)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture = fixture_create(versions[i]);
        struct pair pair = pair_create(fixture.client, fixture.server, "mail.example.com", NULL);
        enum tls_status client = TLS_WANT_INPUT;
        enum tls_status server = TLS_WANT_INPUT;
        struct wire plain = { 0 };

        while (client != TLS_OK || server != TLS_OK) {
            client = pair_step(pair.client, &pair.to_client, &pair.to_server, whole);
            if (client == TLS_OK)
                cr_assert_eq(
                    pair_send(pair.client, &pair.to_server, SPAN("EHLO client\r\n"), whole),
                    TLS_OK);
            if (server != TLS_OK)
                server = pair_step(pair.server, &pair.to_server, &pair.to_client, whole);
            if (client == TLS_OK && server == TLS_WANT_INPUT)
                cr_assert_fail("the server wants more");
        }
        cr_assert_gt(wire_rest(&pair.to_server).len, 0);
        cr_assert_eq(pair_receive(pair.server, &pair.to_server, &plain, &pair.to_client, whole),
                     TLS_WANT_INPUT);
        cr_assert_eq(plain.len % strlen("EHLO client\r\n"), 0);
        cr_assert(span_starts_ignore_case(wire_rest(&plain), SPAN("EHLO client\r\n")));
        free(plain.data);
        pair_free(&pair);
        fixture_free(&fixture);
    }
}

/* --- data --- */

Test(tls, records_cut_at_every_place)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    const struct span message = pattern(700);

    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture = fixture_create(versions[i]);
        struct pair pair = established(&fixture);

        for (size_t cut = 1; cut < 800; cut++) {
            struct wire plain = { 0 };
            struct wire part = { 0 };

            cr_assert_eq(pair_send(pair.client, &pair.to_server, message, whole), TLS_OK);
            wire_add(&part, wire_chunk(&pair.to_server, cut));
            pair.to_server.taken += part.len;
            for (unsigned k = 0; k < 2; k++)
                cr_assert_eq(pair_receive(pair.server, k == 0 ? &part : &pair.to_server, &plain,
                                          &pair.to_client, whole),
                             TLS_WANT_INPUT, "cut at %zu", cut);
            cr_assert(span_equal(wire_rest(&plain), message), "cut at %zu", cut);
            free(plain.data);
            free(part.data);
        }
        pair_free(&pair);
        fixture_free(&fixture);
    }
    free((char *)message.data);
}

Test(tls, data_in_pieces)
{
    static const struct {
        const char *name;
        uint16_t version;
        size_t length;
        struct pieces pieces;
        const char *cipher; /* the only one of the client; NULL: all */
    } rows[] = {
        { "1 MiB whole", 0, 1 << 20, { 0, 0, 0 }, NULL },
        { "1 MiB in 16 KiB deliveries", 0, 1 << 20, { 16384, 0, 0 }, NULL },
        { "1 MiB, little room for records", 0, 1 << 20, { 0, 700, 0 }, NULL },
        { "1 MiB, little room for text", 0, 1 << 20, { 1000, 0, 300 }, NULL },
        { "1 MiB, TLS 1.2", TLS1_2_VERSION, 1 << 20, { 4096, 5000, 5000 }, NULL },
        { "octet by octet", 0, 3000, { 1, TLS_RECORD_OVERHEAD + 1, 1 }, NULL },
        { "octets, TLS 1.2", TLS1_2_VERSION, 3000, { 1, TLS_RECORD_OVERHEAD + 1, 1 }, NULL },
        { "one octet", 0, 1, { 0, 0, 0 }, NULL },
        { "text fits exactly", 0, TLS_RECORD_BYTES_MAX, { 0, 0, TLS_RECORD_BYTES_MAX }, NULL },
        { "one octet over a record", 0, TLS_RECORD_BYTES_MAX + 1, { 0, 0, 0 }, NULL },
        { "CBC has the largest overhead", TLS1_2_VERSION, 1 << 20, { 0, 3000, 0 },
          "ECDHE-ECDSA-AES256-SHA" },
        { "CBC, octet by octet", TLS1_2_VERSION, 3000, { 1, TLS_RECORD_OVERHEAD + 1, 1 },
          "ECDHE-ECDSA-AES128-SHA" },
        { "ChaCha20", TLS1_2_VERSION, 100000, { 0, 0, 0 }, "ECDHE-ECDSA-CHACHA20-POLY1305" },
        { "nothing", 0, 0, { 0, 0, 0 }, NULL },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture fixture = fixture_create(rows[i].version);
        const struct span message = pattern(rows[i].length);
        struct wire there = { 0 };
        struct wire back = { 0 };
        struct pair pair;

        if (rows[i].cipher) /* these are not for peers that must be verified */
            cr_assert(SSL_CTX_set_strict_cipher_list(fixture.client->library, rows[i].cipher));
        pair = established(&fixture);
        cr_assert_eq(pair_send(pair.client, &pair.to_server, message, rows[i].pieces), TLS_OK);
        cr_assert_eq(pair_receive(pair.server, &pair.to_server, &there, &pair.to_client,
                                  rows[i].pieces),
                     TLS_WANT_INPUT, "%s", rows[i].name);
        cr_assert(span_equal(wire_rest(&there), message), "%s", rows[i].name);
        cr_assert_eq(pair_send(pair.server, &pair.to_client, message, rows[i].pieces), TLS_OK);
        cr_assert_eq(pair_receive(pair.client, &pair.to_client, &back, &pair.to_server,
                                  rows[i].pieces),
                     TLS_WANT_INPUT, "%s", rows[i].name);
        cr_assert(span_equal(wire_rest(&back), message), "%s", rows[i].name);
        free(there.data);
        free(back.data);
        free((char *)message.data);
        pair_free(&pair);
        fixture_free(&fixture);
    }
}

/* How many octets of the wire are not a whole record at its end. */
static size_t
octets_past_records(struct span octets)
{
    while (octets.len >= 5) {
        size_t length = 5 + ((size_t)(uint8_t)octets.data[3] << 8) + (uint8_t)octets.data[4];

        if (length > octets.len)
            break;
        span_advance(&octets, length);
    }
    return octets.len;
}

/* Whatever room there is, and whatever waits inside (tickets, a KeyUpdate answer): a call leaves
 * whole records of plain text or none, and what it took it has written. */
Test(tls, write_leaves_whole_records)
{
    struct fixture fixture = fixture_create(0);
    const struct span message = pattern(40000);

    for (size_t room = TLS_RECORD_OVERHEAD + 1; room < 20000; room += room < 1200 ? 1 : 997) {
        struct pair pair = established(&fixture);
        struct outbuf out = room_begin(room, 0);
        struct span plain = message;
        struct wire got = { 0 };
        enum tls_status status;

        if (room % 2 == 0) { /* with and without the tickets out of the way */
            status = pair_send(pair.server, &pair.to_client, SPAN(""), whole);
            cr_assert_eq(status, TLS_OK);
            cr_assert_eq(octets_past_records(wire_rest(&pair.to_client)), 0);
        }
        status = tls_write(pair.server, &plain, &out);
        cr_assert_eq(status, TLS_WANT_OUTPUT, "room %zu", room);
        if (plain.len < message.len)
            cr_assert_eq(octets_past_records(outbuf_span(&out)), 0, "room %zu", room);
        room_end(&out, &pair.to_client);
        cr_assert_eq(pair_receive(pair.client, &pair.to_client, &got, &pair.to_server, whole),
                     TLS_WANT_INPUT);
        cr_assert_eq(got.len, message.len - plain.len, "room %zu", room);
        cr_assert(room % 2 != 0 || got.len > 0, "room %zu", room);
        free(got.data);
        pair_free(&pair);
    }
    free((char *)message.data);
    fixture_free(&fixture);
}

Test(tls, key_update)
{
    struct fixture fixture = fixture_create(TLS1_3_VERSION);
    struct pair pair;
    struct wire plain = { 0 };
    SSL *client;

    SSL_CTX_set_info_callback(fixture.client->library, see);
    pair = established(&fixture);
    client = seen;
    for (unsigned i = 0; i < 100; i++) {
        struct outbuf out = room_begin(TLS_RECORD_OVERHEAD + 1, 0);
        struct span reply = SPAN("y");

        cr_assert(SSL_key_update(client, SSL_KEY_UPDATE_REQUESTED));
        cr_assert_eq(pair_send(pair.client, &pair.to_server, SPAN("x"), whole), TLS_OK);
        cr_assert_eq(pair_receive(pair.server, &pair.to_server, &plain, &pair.to_client, whole),
                     TLS_WANT_INPUT);
        /* The answer goes ahead of the reply, in the room that is asked for. */
        while (tls_write(pair.server, &reply, &out) == TLS_WANT_OUTPUT) {
            cr_assert_eq(i, 0, "only tickets need a second buffer");
            wire_add(&pair.to_client, outbuf_span(&out));
            out.len = 0;
        }
        cr_assert_eq(reply.len, 0);
        room_end(&out, &pair.to_client);
        cr_assert_eq(pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server, whole),
                     TLS_WANT_INPUT);
    }
    cr_assert_eq(plain.len, 200);
    free(plain.data);
    pair_free(&pair);
    fixture_free(&fixture);
}

/* --- the end --- */

Test(tls, close_both_ways)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture = fixture_create(versions[i]);
        struct pair pair = established(&fixture);
        struct outbuf small = room_begin(TLS_RECORD_OVERHEAD - 1, 0);
        struct outbuf out = room_begin(TLS_OUTPUT_ROOM, 0);
        struct wire plain = { 0 };

        cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("hello"), whole), TLS_OK);
        cr_assert_eq(pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server, whole),
                     TLS_WANT_INPUT);
        cr_assert_eq(pair_send(pair.client, &pair.to_server, SPAN("QUIT\r\n"), whole), TLS_OK);
        cr_assert_eq(tls_close(pair.client, &small), TLS_WANT_OUTPUT);
        cr_assert_eq(small.len, 0);
        cr_assert_eq(tls_close(pair.client, &out), TLS_OK);
        wire_add(&pair.to_server, outbuf_span(&out));
        out.len = 0;
        cr_assert_eq(tls_close(pair.client, &out), TLS_OK);
        cr_assert_eq(out.len, 0, "close_notify is said once");
        wire_add(&pair.to_server, SPAN("after the end"));
        cr_assert_eq(pair_receive(pair.server, &pair.to_server, &plain, &pair.to_client, whole),
                     TLS_CLOSED);
        cr_assert(span_equal(wire_rest(&plain), SPAN("helloQUIT\r\n")));
        cr_assert_eq(wire_rest(&pair.to_server).len, 0, "what follows is dropped");
        cr_assert_eq(tls_input_ended(pair.server), TLS_CLOSED);
        /* The reply can still be said, and heard by a client that only closed its own side. */
        cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("221\r\n"), whole), TLS_OK);
        cr_assert_eq(tls_close(pair.server, &out), TLS_OK);
        room_end(&out, &pair.to_client);
        room_end(&small, NULL);
        cr_assert_eq(pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server, whole),
                     TLS_CLOSED);
        cr_assert(span_equal(wire_rest(&plain), SPAN("helloQUIT\r\n221\r\n")));
        assert_text(tls_failure(pair.server), "", "close");
        free(plain.data);
        pair_free(&pair);
        fixture_free(&fixture);
    }
}

Test(tls, input_ended)
{
    struct fixture fixture = fixture_create(0);
    struct pair pair = pair_create(fixture.client, fixture.server, "mail.example.com", NULL);
    struct wire plain = { 0 };

    cr_assert_eq(tls_input_ended(pair.server), TLS_FAILED);
    assert_text(tls_failure(pair.server), "handshake: the peer said nothing", "at once");
    pair_free(&pair);
    pair = pair_create(fixture.client, fixture.server, "mail.example.com", NULL);
    cr_assert_eq(pair_step(pair.client, &pair.to_client, &pair.to_server, whole), TLS_WANT_INPUT);
    pair.to_server.len--;
    cr_assert_eq(pair_step(pair.server, &pair.to_server, &pair.to_client, whole), TLS_WANT_INPUT);
    cr_assert_eq(tls_input_ended(pair.server), TLS_FAILED);
    assert_text(tls_failure(pair.server), "handshake: the connection ended in it", "handshake");
    pair_free(&pair);

    for (size_t cut = 0; cut < 8; cut++) {
        pair = established(&fixture);
        cr_assert_eq(pair_send(pair.client, &pair.to_server, SPAN("DATA"), whole), TLS_OK);
        pair.to_server.len -= cut;
        cr_assert_eq(pair_receive(pair.server, &pair.to_server, &plain, &pair.to_client, whole),
                     TLS_WANT_INPUT);
        cr_assert_eq(tls_input_ended(pair.server), TLS_FAILED);
        assert_text(tls_failure(pair.server),
                    cut == 0 ? "the connection ended without close_notify"
                             : "the connection ended within a record",
                    "data");
        cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("451\r\n"), whole), TLS_OK);
        pair_free(&pair);
    }
    cr_assert_eq(plain.len, 4, "no octet of a record that is not whole");
    free(plain.data);
    fixture_free(&fixture);
}

/* --- failures --- */

Test(tls, not_tls)
{
    static const struct {
        const char *name;
        struct span input;
        size_t chunk;
        bool client;
        const char *want;
    } rows[] = {
        { "SMTP", SPAN("EHLO client.example\r\n"), 0, false,
          "plain text instead of TLS: \"EHLO client.example\"" },
        { "SMTP in octets", SPAN("EHLO client.example\r\n"), 1, false,
          "plain text instead of TLS: \"EHLO \"" },
        { "HTTP", SPAN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0, false,
          "plain text instead of TLS: \"GET / HTTP/1.1\"" },
        { "a long line", SPAN("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), 0, false,
          "plain text instead of TLS: \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"" },
        { "an escape", SPAN("ABCDEF\033[2J\n"), 0, false, "plain text instead of TLS: \"ABCDEF\"" },
        { "a greeting", SPAN("220 mx.example ESMTP\r\n"), 0, true,
          "plain text instead of TLS: \"220 mx.example ESMTP\"" },
        { "zeros", SPAN("\0\0\0\0\0\0\0\0\0\0\0\0"), 0, false, "handshake: not a TLS record" },
        { "high octets", SPAN("\377\377\377\377\377\377\377\377"), 1, false, "handshake: " },
        { "a record of no handshake", SPAN("\027\003\003\000\001x"), 0, false,
          "handshake: unexpected record" },
        { "a hello that is no hello", SPAN("\026\003\001\000\004\001\000\000\000"), 0, false,
          "handshake: decode error (alert sent: decode error)" },
        { "a record too long", SPAN("\026\003\001\177\377xxxx"), 0, false,
          "handshake: encrypted length too long (alert sent: record overflow)" },
        { "an alert", SPAN("\025\003\001\000\002\002\050"), 0, true,
          "handshake: the peer gave up (alert received: handshake failure)" },
        { "a farewell", SPAN("\025\003\001\000\002\001\000"), 0, true, "handshake: " },
    };
    struct fixture fixture = fixture_create(0);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct pair pair = pair_create(fixture.client, fixture.server, "mail.example.com", NULL);
        struct tls *tls = rows[i].client ? pair.client : pair.server;
        const struct pieces pieces = { .chunk = rows[i].chunk };
        struct span nothing = SPAN("");
        enum tls_status status = TLS_WANT_INPUT;
        struct outbuf out;

        wire_add(&pair.to_server, rows[i].input);
        while (status == TLS_WANT_INPUT && wire_rest(&pair.to_server).len > 0)
            status = pair_step(tls, &pair.to_server, &pair.to_client, pieces);
        cr_assert_eq(status, TLS_FAILED, "%s: %d", rows[i].name, status);
        assert_contains(tls_failure(tls), rows[i].want, rows[i].name);
        /* It stays failed, and says nothing more. */
        out = room_begin(TLS_OUTPUT_ROOM, 0);
        cr_assert_eq(tls_handshake(tls, &nothing, &out), TLS_FAILED, "%s", rows[i].name);
        cr_assert_eq(tls_write(tls, &nothing, &out), TLS_FAILED, "%s", rows[i].name);
        cr_assert_eq(tls_close(tls, &out), TLS_FAILED, "%s", rows[i].name);
        cr_assert_eq(out.len, 0, "%s", rows[i].name);
        cr_assert_eq(ERR_peek_error(), 0, "%s", rows[i].name);
        cr_assert_null(tls_take_session(tls), "%s", rows[i].name);
        room_end(&out, NULL);
        pair_free(&pair);
    }
    fixture_free(&fixture);
}

Test(tls, nothing_in_common)
{
    struct tls_context *server = server_context(TLS_VERSION_MIN_1_3);
    struct tls_context *client = client_context(TLS1_2_VERSION);
    struct pair pair = pair_create(client, server, "mail.example.com", NULL);

    cr_assert(!pair_handshake(&pair, whole));
    assert_text(tls_failure(pair.server),
                "handshake: no common TLS version (alert sent: protocol version)", "version");
    assert_text(tls_failure(pair.client),
                "handshake: the peer gave up (alert received: protocol version)", "version");
    pair_free(&pair);
    tls_context_release(server);

    server = server_context(TLS_VERSION_MIN_1_2);
    cr_assert(SSL_CTX_set_strict_cipher_list(client->library, "ECDHE-RSA-AES128-GCM-SHA256"));
    pair = pair_create(client, server, "mail.example.com", NULL);
    cr_assert(!pair_handshake(&pair, whole));
    assert_text(tls_failure(pair.server),
                "handshake: no common cipher suite (alert sent: handshake failure)", "cipher");
    pair_free(&pair);
    tls_context_release(server);
    tls_context_release(client);
}

/* Each octet of a record is protected. */
Test(tls, damaged_record)
{
    static const uint16_t versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

    for (size_t i = 0; i < 2; i++) {
        struct fixture fixture = fixture_create(versions[i]);

        for (size_t at = 0; at < 32; at++) {
            struct pair pair = established(&fixture);
            struct wire plain = { 0 };
            enum tls_status status;

            cr_assert_eq(pair_send(pair.client, &pair.to_server, SPAN("MAIL FROM:<>\r\n"), whole),
                         TLS_OK);
            pair.to_server.data[pair.to_server.taken + at] ^= 0x40;
            status = pair_receive(pair.server, &pair.to_server, &plain, &pair.to_client, whole);
            /* A length that grew leaves the record unfinished. */
            cr_assert(status == TLS_FAILED || (status == TLS_WANT_INPUT && (at == 3 || at == 4)),
                      "octet %zu: %d", at, status);
            cr_assert_eq(plain.len, 0, "octet %zu", at);
            if (at > 5)
                assert_text(tls_failure(pair.server),
                            "a damaged or forged record (alert sent: bad record mac)", "damage");
            if (status == TLS_FAILED && pair_receive(pair.client, &pair.to_client, &plain,
                                                     &pair.to_server, whole) == TLS_FAILED)
                assert_contains(tls_failure(pair.client), "the peer gave up (alert received: ",
                                "alert");
            else
                cr_assert_neq(status, TLS_FAILED, "octet %zu: no alert", at);
            pair_free(&pair);
        }
        fixture_free(&fixture);
    }
}

/* --- memory --- */

/* A pair that may not get what it needs. True when it did. */
static bool
exchange_within(const struct fixture *fixture, size_t bytes, unsigned *said)
{
    struct pair pair = { 0 };
    struct wire plain = { 0 };
    bool done = false;

    tls_memory_limit(tls_memory_in_use() + bytes);
    pair.client = tls_create_client(fixture->client, "mail.example.com", NULL);
    pair.server = tls_create_server(fixture->server);
    if (pair.client && pair.server && pair_handshake(&pair, whole) &&
        pair_send(pair.server, &pair.to_client, SPAN("220\r\n"), whole) == TLS_OK &&
        pair_receive(pair.client, &pair.to_client, &plain, &pair.to_server, whole) ==
            TLS_WANT_INPUT)
        done = span_equal(wire_rest(&plain), SPAN("220\r\n"));
    tls_memory_limit(0);
    if (pair.client && pair.server && !done) {
        cr_assert_gt(tls_failure(pair.client).len + tls_failure(pair.server).len, 0);
        *said += span_equal(tls_failure(pair.server), SPAN("handshake: out of memory"));
    }
    free(plain.data);
    pair_free(&pair);
    return done;
}

/* Whatever allocation fails: no crash, no leak, no plain text that is wrong. */
Test(tls, memory_is_bounded)
{
    struct fixture fixture = fixture_create(0);
    struct pair pair = established(&fixture); /* what the library allocates once */
    unsigned done = 0;
    unsigned said = 0;
    size_t before;

    pair_free(&pair);
    before = tls_memory_in_use();
    for (size_t bytes = 1; bytes < 120000; bytes += bytes < 60000 ? 131 : 1009)
        done += exchange_within(&fixture, bytes, &said);
    cr_assert_gt(done, 10);
    cr_assert_gt(said, 10);
    cr_assert_lt(tls_memory_in_use(), before + 512, "%zu, %zu before", tls_memory_in_use(),
                 before);
    tls_memory_limit(1);
    cr_assert_null(tls_create_server(fixture.server));
    tls_memory_limit(0);
    fixture_free(&fixture);
}

/* Pieces of all sizes, taken and given back in any order: none overlaps another, and the count is
 * right to the octet. */
Test(tls, memory_pieces_are_apart)
{
    enum { PIECES = 300, ROUNDS = 200000, BYTES_MAX = 1200 };
    static struct { unsigned char *memory; size_t bytes; } pieces[PIECES];
    size_t before = tls_memory_in_use();
    uint32_t chance = 1;

    for (size_t round = 0; round < ROUNDS + PIECES; round++) {
        size_t i = round % PIECES;

        chance = chance * 1664525 + 1013904223;
        if (round < ROUNDS)
            i = (chance >> 8) % PIECES;
        if (pieces[i].memory != NULL) {
            for (size_t at = 0; at < pieces[i].bytes; at++)
                cr_assert_eq(pieces[i].memory[at], (unsigned char)i, "%zu octets", pieces[i].bytes);
            OPENSSL_free(pieces[i].memory);
            pieces[i].memory = NULL;
        } else if (round < ROUNDS) {
            pieces[i].bytes = (chance >> 4) % BYTES_MAX;
            pieces[i].memory = OPENSSL_malloc(pieces[i].bytes);
            cr_assert_not_null(pieces[i].memory);
            memset(pieces[i].memory, (int)i, pieces[i].bytes);
        }
    }
    cr_assert_eq(tls_memory_in_use(), before, "%zu, %zu before", tls_memory_in_use(), before);
}

Test(tls, memory_is_counted_and_small)
{
    enum { CONNECTIONS = 400 };
    static struct tls *idle[CONNECTIONS];
    struct fixture fixture = fixture_create(0);
    struct pair pair = established(&fixture); /* what the library allocates once */
    size_t before, each;

    pair_free(&pair);
    before = tls_memory_in_use();
    for (size_t i = 0; i < CONNECTIONS; i++) {
        pair = established(&fixture);
        cr_assert_eq(pair_send(pair.server, &pair.to_client, SPAN("220\r\n"), whole), TLS_OK);
        idle[i] = pair.server;
        pair.server = NULL;
        pair_free(&pair);
    }
    each = (tls_memory_in_use() - before) / CONNECTIONS;
    cr_assert_gt(each, 1000, "%zu octets", each);
    cr_assert_lt(each, 4096, "%zu octets", each);
    for (size_t i = 0; i < CONNECTIONS; i++)
        tls_free(idle[i]);
    cr_assert_lt(tls_memory_in_use(), before + 512, "%zu, %zu before", tls_memory_in_use(),
                 before);
    fixture_free(&fixture);
}
