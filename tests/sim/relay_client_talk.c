/* What a client says that has mail to send, and what it makes of the answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/relay_client.h"

/* --- saying --- */

static void
say_mail(struct client *client)
{
    const struct letter *letter = client->letter;
    char sender[80], size[40] = "";

    letter_sender(letter, sender, sizeof(sender));
    if (letter->says_size && !client->helo)
        (void)snprintf(size, sizeof(size), " SIZE=%llu",
                       (unsigned long long)letter_said_bytes(letter));
    client_line(client, EXPECTS_MAIL, 0, "MAIL FROM:<%s>%s%s%s", sender,
                letter->says_eight_bit && !client->helo ? " BODY=8BITMIME" : "",
                letter->utf8 && client->has_utf8 ? " SMTPUTF8" : "", size);
}

static void
say_recipient(struct client *client, uint32_t index)
{
    char recipient[80];

    letter_recipient(client->letter, index, recipient, sizeof(recipient));
    client_line(client, EXPECTS_RCPT, index, "RCPT TO:<%s>", recipient);
}

static bool
any_accepted(const struct letter *letter)
{
    for (uint32_t i = 0; i < letter->count; i++)
        if (letter->to[i].told == TOLD_YES)
            return true;
    return false;
}

static bool
by_chunks(const struct client *client)
{
    return client->letter->chunked && client->has_chunking && !client->helo;
}

/* Behind `queued`, all of the letter is said. */
static void
say_body(struct client *client)
{
    size_t bytes;
    char *wire;

    if (!any_accepted(client->letter)) {
        client_expect(client, EXPECTS_END, 0);
        client_say(client, ".\r\n", 3);
        return;
    }
    wire = letter_wire(client->letter, &bytes);
    client_expect(client, EXPECTS_END, 0);
    client->end_at = client->queued + bytes;
    client->stage = STAGE_WAIT;
    client_say(client, wire, bytes);
    free(wire);
}

/* One chunk, or all that are left. */
static void
say_chunks(struct client *client, bool all)
{
    const struct letter *letter = client->letter;

    do {
        size_t left = letter->bytes - client->at, size = left;
        bool last = sim_chance(&client->random, 5000) || client->expected_count > 100;

        if (!last)
            size = sim_below(&client->random, left + 1);
        else if (sim_chance(&client->random, 2000) && client->expected_count < 100)
            last = false; /* all of it, and an empty chunk ends it */
        client_line(client, last ? EXPECTS_END : EXPECTS_CHUNK, 0, "BDAT %zu%s", size,
                    last ? " LAST" : "");
        if (last) {
            client->end_at = client->queued + size;
            client->stage = STAGE_WAIT;
        }
        client->at += (uint32_t)size;
        client_say(client, letter->octets + client->at - size, size);
    } while (all && client->stage == STAGE_CHUNKS && !client->over);
}

static void
chatter(struct client *client)
{
    static const char *const lines[] = { "NOOP", "VRFY x", "RSET", "HELP", "NOOP hello", "EXPN x",
                                         "WHAT IS THIS" };
    uint64_t kind = sim_below(&client->random, sizeof(lines) / sizeof(lines[0]));
    /* Replies that fill a block, too; 100 such commands in a row are not yet an error. */
    uint64_t count = sim_chance(&client->random, 3000) ? sim_between(&client->random, 2, 95) : 1;

    if (kind > 1)
        count = 1;
    while (count-- > 0)
        client_line(client, EXPECTS_NOTHING_MUCH, 0, "%s", lines[kind]);
}

static void
say_group(struct client *client)
{
    say_mail(client);
    for (uint32_t i = 0; i < client->letter->count; i++)
        say_recipient(client, i);
    if (!by_chunks(client)) {
        client_line(client, EXPECTS_DATA, 0, "DATA");
        client->stage = STAGE_WAIT;
    } else {
        client->at = 0;
        client->stage = STAGE_CHUNKS;
        if (client->bold)
            say_chunks(client, true);
    }
}

static void
letter_begin(struct client *client)
{
    client->letters_left--;
    client->letter = letter_new(client);
    client->letter->begun = true;
    client->letter->chunked = client->letter->chunked && client->has_chunking && !client->helo;
    world_say(client_name(client), "has letter %u, %zu octets, %u recipients",
              client->letter->number, client->letter->bytes, client->letter->count);
    if (client->pipelining && !client->helo) {
        say_group(client);
        return;
    }
    say_mail(client);
    client->stage = STAGE_MAIL;
}

static void
say_more(struct client *client)
{
    switch (client->stage) {
    case STAGE_MAIL:
        client->at = 0;
        client->stage = STAGE_RCPT;
        say_recipient(client, client->at++);
        break;
    case STAGE_RCPT:
        if (client->at < client->letter->count) {
            say_recipient(client, client->at++);
        } else if (!any_accepted(client->letter)) {
            client->stage = STAGE_IDLE;
            client_line(client, EXPECTS_RSET, 0, "RSET");
        } else if (by_chunks(client)) {
            client->at = 0;
            client->stage = STAGE_CHUNKS;
            say_chunks(client, client->bold);
        } else {
            client->stage = STAGE_WAIT;
            client_line(client, EXPECTS_DATA, 0, "DATA");
        }
        break;
    case STAGE_CHUNKS:
        if (client->letter->told == TOLD_NOTHING) {
            say_chunks(client, client->bold);
        } else {
            client->stage = STAGE_IDLE;
            client_line(client, EXPECTS_RSET, 0, "RSET");
        }
        break;
    case STAGE_IDLE:
    case STAGE_DATA:
    case STAGE_WAIT:
    case STAGE_QUIT: ASSERT(!"nothing more to say here");
    }
}

void
client_next(struct client *client)
{
    if (client->stage != STAGE_IDLE && client->stage != STAGE_WAIT) {
        say_more(client);
        return;
    }
    client->letter = NULL;
    client->stage = STAGE_IDLE;
    if (client->secure.tls != NULL && !client->greeted) {
        client->greeted = true;
        client_line(client, EXPECTS_EHLO, 0, "EHLO c%u.example", client->number);
        return;
    }
    if (client->letters_left > 0 && client->chatters && sim_chance(&client->random, 5000)) {
        chatter(client);
    } else if (client->letters_left > 0) {
        letter_begin(client);
    } else if (client->quits) {
        client->stage = STAGE_QUIT;
        client_line(client, EXPECTS_QUIT, 0, "QUIT");
    } else {
        client_leave(client, sim_chance(&client->random, 3000));
    }
}

/* --- hearing --- */

static enum told
told_of(unsigned code)
{
    return code < 400 ? TOLD_YES : code < 500 ? TOLD_LATER : TOLD_NO;
}

static void
letter_told(struct letter *letter, unsigned code, const char *text)
{
    letter->told = (uint8_t)told_of(code);
    letter->told_ns = sim_now_ns();
    letter->told_life = world.life;
    audit_told(letter, text);
}

static void
greeted(struct client *client, unsigned code)
{
    if (code != 220) {
        client_leave(client, false);
        return;
    }
    client->greeted = true;
    client_line(client, EXPECTS_EHLO, 0, "%s c%u.example", client->helo ? "HELO" : "EHLO",
                client->number);
}

/* What a man in the middle would add in the clear must never be a transaction (RFC 3207 4.2). */
static void
say_starttls(struct client *client)
{
    char text[200];
    struct letter *evil;

    client_line(client, EXPECTS_STARTTLS, 0, "STARTTLS");
    if (!client->injects || client->drips)
        return;
    evil = letter_new(NULL);
    evil->evil = true;
    (void)snprintf(text, sizeof(text), "MAIL FROM:<s%u@senders.example>\r\n"
                   "RCPT TO:<r%u-0@h0.example>\r\nDATA\r\nx\r\n.\r\n",
                   evil->number, evil->number);
    world.totals.injections++;
    client_say(client, text, sim_chance(&client->random, 5000) ? strlen(text) : 20);
}

static void
data_answered(struct client *client, struct letter *letter, unsigned code, const char *text)
{
    if (code == 354) {
        say_body(client);
        return;
    }
    client->stage = STAGE_IDLE;
    if (letter->told == TOLD_NOTHING)
        letter_told(letter, code, text);
    client_line(client, EXPECTS_RSET, 0, "RSET");
}

void
client_answer(struct client *client, const struct expected *expected, unsigned code,
              const char *text)
{
    struct letter *letter = expected->letter;

    switch (expected->what) {
    case EXPECTS_GREETING: greeted(client, code); break;
    case EXPECTS_EHLO:
        client->has_chunking = strstr(text, "CHUNKING") != NULL;
        client->has_utf8 = strstr(text, "SMTPUTF8") != NULL;
        if (client->tls && client->secure.tls == NULL && strstr(text, "STARTTLS") != NULL)
            say_starttls(client);
        break;
    case EXPECTS_STARTTLS:
        client->greeted = false; /* RFC 3207 4.2: again, behind the handshake */
        if (code != 220 ||
            !secure_begin(&client->secure, client->end, false, &client->wire))
            client_leave(client, false);
        break;
    case EXPECTS_MAIL:
        if (code >= 400) {
            letter_told(letter, code, text);
            if (client->stage == STAGE_MAIL)
                client->stage = STAGE_IDLE;
        }
        break;
    case EXPECTS_RCPT:
        letter->to[expected->index].told = (uint8_t)told_of(code);
        audit_told_recipient(letter, expected->index, text);
        break;
    case EXPECTS_DATA: data_answered(client, letter, code, text); break;
    case EXPECTS_CHUNK:
        if (code >= 400 && letter->told == TOLD_NOTHING)
            letter_told(letter, code, text);
        break;
    case EXPECTS_END:
        if (letter->told == TOLD_NOTHING)
            letter_told(letter, code, text);
        break;
    case EXPECTS_RSET:
    case EXPECTS_NOTHING_MUCH: break;
    case EXPECTS_QUIT: break; /* the end comes */
    }
}
