/* tls: one TLS connection as a pump between byte buffers: records in, plain text out, and back.
 * Does:    RFC 8446 and RFC 5246 by BoringSSL, as server and as client. No fd, no waiting, no
 *          callback to the caller.
 * Owns:    its library state and a reference to its context. Spans and outbufs are borrowed for the
 *          call.
 * Memory:  the library allocates: a server connection takes 2.7 KiB when idle, 6 KiB in the
 *          handshake, one record more while one is incomplete; a client 8 KiB with the peer's
 *          chain. See tls_memory_in_use().
 * Threads: one worker per connection; the context may be shared by all.
 * Errors:  everything a peer can cause is TLS_FAILED with a text in tls_failure(); TLS_FAILED and
 *          TLS_CLOSED stay.
 */
#ifndef RINGPOST_TLS_TLS_H
#define RINGPOST_TLS_TLS_H

#include "core/span.h"
#include "tls/context.h"

/* Octets of plain text in one record (RFC 8446 5.1). */
#define TLS_RECORD_BYTES_MAX 16384
/* Room beyond its plain text that tls_write() wants for a record: the header, the nonce, padding
 * and tag of the worst cipher suite, and one KeyUpdate answer that may have to go ahead of it. */
#define TLS_RECORD_OVERHEAD 128
/* An output buffer of this size never makes a handshake or a full record wait for room (a chain of
 * a few certificates; smaller buffers work, in more calls, as long as they are larger than
 * TLS_RECORD_OVERHEAD). */
#define TLS_OUTPUT_ROOM (TLS_RECORD_BYTES_MAX + TLS_RECORD_OVERHEAD)

struct tls;
struct tls_session; /* what a client needs to resume; see tls_take_session() */

enum tls_status {
    TLS_OK,
    TLS_WANT_INPUT,  /* all of *in was taken; more octets of the peer are needed */
    TLS_WANT_OUTPUT, /* send what is in out, then call again with an empty out */
    TLS_CLOSED,      /* the peer said close_notify: its last word; tls_write() still works */
    TLS_FAILED,      /* the connection is unusable; out may hold a last alert to send */
};

/* NULL: out of memory. Both take a reference to the context until tls_free(). */
MUST_USE struct tls *tls_create_server(struct tls_context *context);
/* server_name: DNS name for SNI and for verification, or a numeric IP address (verified against the
 * certificate's addresses, not sent: RFC 6066 3); a dot at its end is dropped; NULL: neither. A
 * name that cannot be one, or none where the context must verify, makes the handshake fail. resume:
 * may be NULL; used up and freed by this call. It is ignored when it came from another context or
 * another name: what was not verified then would not be now. */
MUST_USE struct tls *tls_create_client(struct tls_context *context, const char *server_name,
                                       struct tls_session *resume);
void tls_free(struct tls *tls); /* NULL is fine */

/* Goes on with the handshake; a client's first call has an empty *in. TLS_OK: done (*in may hold
 * octets for tls_read(), out the last flight). The flights of one call are joined in out. */
MUST_USE enum tls_status tls_handshake(struct tls *tls, struct span *in, struct outbuf *out);

/* Decrypts as much of *in as fits plain. TLS_WANT_INPUT: all of *in is taken and every octet that
 * could be decrypted is in plain (plain may hold some). TLS_OK: plain is full and there is more:
 * empty it and call again, even when *in is empty now. TLS_CLOSED: plain may hold the last octets;
 * what stands in *in after the close_notify is dropped. out takes what TLS itself must say: an
 * alert as far as there is room for it; a KeyUpdate answer goes with the next tls_write(). */
MUST_USE enum tls_status tls_read(struct tls *tls, struct span *in, struct outbuf *plain,
                                  struct outbuf *out);

/* Encrypts as much of *plain as fits out and advances *plain. TLS_OK: all of it. TLS_WANT_OUTPUT:
 * no room for another record worth sending; out then holds whole records only. Join small writes:
 * each call makes at least one record. */
MUST_USE enum tls_status tls_write(struct tls *tls, struct span *plain, struct outbuf *out);

/* Writes our close_notify, once. TLS_OK (also before the handshake is done, when there is nothing
 * to say), TLS_WANT_OUTPUT, or TLS_FAILED after a failure. No tls_write() after it; tls_read()
 * works. */
MUST_USE enum tls_status tls_close(struct tls *tls, struct outbuf *out);

/* The transport reached its end. TLS_CLOSED after a close_notify; else TLS_FAILED with a text that
 * says whether the handshake, a record, or only the close_notify is missing (a cut that an attacker
 * can make, RFC 8446 6.1). tls_write() still works: the peer may have closed one direction only. */
MUST_USE enum tls_status tls_input_ended(struct tls *tls);

/* For the log, after TLS_FAILED: why, in one line of printable ASCII ("no common TLS version").
 * Empty before. Valid until tls_free(). */
struct span tls_failure(const struct tls *tls);

/* After the handshake. "TLSv1.3"; "TLS_AES_128_GCM_SHA256" (the IANA name); "" before. */
const char *tls_version(const struct tls *tls);
const char *tls_cipher(const struct tls *tls);
bool tls_resumed(const struct tls *tls);
/* Client: the chain leads to a trusted root and the certificate is for server_name (also in a
 * resumed session, whose first connection had that). Always false with TLS_VERIFICATION_NONE. */
bool tls_verified(const struct tls *tls);
/* Client, not verified: the reason as text ("certificate has expired"), empty if verified or not
 * looked at. */
struct span tls_verification_error(const struct tls *tls);
/* Server: the name the client asked for (SNI), as it came; empty: none, or one with bytes that no
 * host name has. Client: the name it was created with. */
struct span tls_server_name(const struct tls *tls);

/* Client: the newest session that the server offered, or NULL. With TLS 1.3 it comes with the first
 * tls_read()s, not with the handshake, and should be used once (RFC 8446 C.4). The caller frees it
 * or hands it to tls_create_client(). */
MUST_USE struct tls_session *tls_take_session(struct tls *tls);
void tls_session_free(struct tls_session *session); /* NULL is fine */

/* Octets of heap that the TLS library holds in this process now, exact to about 64 KiB per thread.
 * Each worker may ask this before it begins a handshake, and say 454 instead. */
size_t tls_memory_in_use(void);
/* A ceiling for that, for the whole process (0: none, as at the start). Above it connections cannot
 * be created, and handshakes and records fail with "out of memory": set it well above what the
 * worker admits, so that only an attack meets it. */
void tls_memory_limit(size_t bytes);

#endif
