/* A client that keeps to nothing: fragments of SMTP and of what is none, in any order, at any time,
 * without waiting for replies. */
#include <string.h>

#include "tests/sim/relay_client.h"

static const struct span fragments[] = {
    SPAN("EHLO x.example\r\n"),
    SPAN("HELO x\r\n"),
    SPAN("DATA\r\n"),
    SPAN("DATA\n"),
    SPAN(".\r\n"),
    SPAN("\r\n.\r\n"),
    SPAN("\n.\n"),
    SPAN("\r.\r"),
    SPAN("\r\n.\n"),
    SPAN("RSET\r\n"),
    SPAN("STARTTLS\r\n"),
    SPAN("STARTTLS\r\nEHLO y.example\r\nVRFY y\r\n"),
    SPAN("AUTH PLAIN AAAA\r\n"),
    SPAN("BDAT\r\n"),
    SPAN("BDAT 0\r\n"),
    SPAN("BDAT 0 LAST\r\n"),
    SPAN("BDAT 7\r\nabcde\r\n"),
    SPAN("BDAT 7 LAST\r\nabcde\r\n"),
    SPAN("BDAT 18446744073709551616 LAST\r\n"),
    SPAN("BDAT 18446744073709551615\r\n"),
    SPAN("BDAT 4294967297 LAST\r\n"),
    SPAN("BDAT -1 LAST\r\n"),
    SPAN("BDAT 10 FIRST\r\n"),
    SPAN("NOOP\r\n"),
    SPAN("NOOP\0\r\n"),
    SPAN("\0\0\0\0"),
    SPAN("\r\n"),
    SPAN("\n"),
    SPAN("\r"),
    SPAN("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    SPAN("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    SPAN("MAIL FROM:<x\r\n"),
    SPAN("MAIL FROM:<> SIZE=99999999999999999999\r\n"),
    SPAN("RCPT TO:<@a,@b:x@nowhere.example>\r\n"),
    SPAN("RCPT TO:<>\r\n"),
    SPAN("VRFY x\r\n"),
    SPAN("QUIT\r\n"),
    SPAN("text of a message\r\n"),
    SPAN("..\r\n"),
};

static void
fragment_add(struct client *client, struct text *text)
{
    struct sim_random *random = &client->random;
    uint64_t kind = sim_below(random, 100);
    char address[80];

    if (kind < 60) {
        const struct span *fragment =
            &fragments[sim_below(random, sizeof(fragments) / sizeof(fragments[0]))];

        text_add(text, fragment->data, fragment->len);
    } else if (kind < 72) {
        client->letter = letter_new(client);
        client->letter->loose = true;
        client->letter->illegal = false; /* that is said of octets which it does not send */
        letter_sender(client->letter, address, sizeof(address));
        text_format(text, "MAIL FROM:<%s>\r\n", address);
    } else if (kind < 90 && client->letter != NULL) {
        letter_recipient(client->letter, (uint32_t)sim_below(random, client->letter->count),
                         address, sizeof(address));
        text_format(text, "RCPT TO:<%s>\r\n", address);
    } else if (kind < 94) {
        size_t len = sim_between(random, 1, 6000);

        for (size_t i = 0; i < len; i++)
            text_add(text, "a", 1);
    } else {
        size_t len = sim_between(random, 1, 40);

        for (size_t i = 0; i < len; i++) {
            char octet = (char)sim_below(random, 256);

            text_add(text, &octet, 1);
        }
    }
}

static void
more(void *context)
{
    struct client *client = context;
    uint64_t count = sim_between(&client->random, 1, 12);
    struct text text = { 0 };

    if (client->over)
        return;
    if (world.ending || sim_chance(&client->random, 600)) {
        client_leave(client, sim_chance(&client->random, 5000));
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        fragment_add(client, &text);
    client_say(client, text.data, text.len);
    text_free(&text);
    if (!client->over)
        sim_net_at(sim_now_ns() + sim_below(&client->random, 20 * NS_PER_S), more, client);
}

/* At once: an early talker, too. */
void
client_hostile(struct client *client)
{
    more(client);
}
