/* How a client is told of: its address in logs, its part of our Received: field (RFC 5321 4.4). */
#include "core/clock.h"
#include "relay/session.h"
#include "relay/worker.h"

static void
address_add_v6(struct outbuf *out, const uint8_t ip[16])
{
    static const char digits[] = "0123456789abcdef";
    int best = -1, best_len = 1;

    /* RFC 5952: the longest run of zero groups becomes "::". */
    for (int i = 0; i < 8;) {
        int n = 0;

        while (i + n < 8 && ip[2 * (i + n)] == 0 && ip[2 * (i + n) + 1] == 0)
            n++;
        if (n > best_len) {
            best = i;
            best_len = n;
        }
        i += n + 1;
    }
    for (int i = 0; i < 8; i++) {
        unsigned group = (unsigned)ip[2 * i] << 8 | ip[2 * i + 1];
        bool begun = false;

        if (i == best) {
            outbuf_add(out, SPAN("::"));
            i += best_len - 1;
            continue;
        }
        if (i > 0 && i != best + best_len)
            outbuf_add_char(out, ':');
        for (int shift = 12; shift >= 0; shift -= 4) {
            unsigned digit = group >> shift & 15;

            if (digit != 0 || begun || shift == 0)
                outbuf_add_char(out, digits[digit]);
            begun |= digit != 0;
        }
    }
}

struct span
session_client_text(const struct session *session, char text[64])
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    struct outbuf out = { .data = text, .size = 64 };
    const uint8_t *ip = session->peer.ip;

    if (session->peer.local) {
        outbuf_add(&out, SPAN("local"));
    } else if (memcmp(ip, mapped, sizeof(mapped)) == 0) {
        for (int i = 12; i < 16; i++) {
            outbuf_add_number(&out, ip[i]);
            if (i < 15)
                outbuf_add_char(&out, '.');
        }
    } else {
        address_add_v6(&out, ip);
    }
    return outbuf_span(&out);
}

void
session_trace(const struct session *session, const char *queue_id, char client[64],
              struct trace *trace)
{
    const struct worker *worker = session->worker;

    *trace = (struct trace){
        .helo = receiver_helo(&session->receiver),
        .client = session_client_text(session, client),
        .by = span_text(worker->config->hostname),
        .queue_id = span_text(queue_id),
        .esmtp = receiver_esmtp(&session->receiver),
        .when = (time_t)(worker->realtime_ns / NS_PER_S),
    };
    if (session->link.tls_state == LINK_TLS) {
        trace->tls_version = span_text(tls_version(session->link.tls));
        trace->tls_cipher = span_text(tls_cipher(session->link.tls));
    }
}
