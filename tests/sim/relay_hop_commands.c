/* What a next hop says to each command, and what it does with a message. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tests/sim/relay_hop.h"

static bool
begins(const char *command, const char *with)
{
    return strncasecmp(command, with, strlen(with)) == 0;
}

/* Its servers have gone wrong in one of the ways that need no letter. True: it has answered. */
static bool
line_goes_wrong(struct line *line)
{
    const struct mood *mood = &line->hop->mood;

    if (line_chance(line, mood->drop)) {
        line_drop(line);
        return true;
    }
    if (line_chance(line, mood->closing)) {
        line->closing = true;
        line_reply(line, "421 4.3.2 going down");
        return true;
    }
    if (line_chance(line, mood->garbage)) {
        line_reply(line, "%s", sim_chance(&world.hops_random, 5000) ? "well, yes" : "99 what");
        return true;
    }
    return false;
}

void
line_transaction_end(struct line *line)
{
    line->mail = line->null_sender = line->data_no = false;
    line->sender = UINT32_MAX;
    line->letter = line->report = NULL;
    line->recipients = 0;
    line->recipient_count = 0;
    line->octets.len = 0;
}

/* --- before a transaction --- */

static void
on_ehlo(struct line *line)
{
    const struct next_hop *hop = line->hop;

    line_transaction_end(line);
    if (line_goes_wrong(line))
        return;
    if (!hop->offers.ehlo) {
        line_reply(line, "502 5.5.1 never heard of it");
        return;
    }
    /* One reply; a late one is late as a whole. */
    line_reply(line, "250-h%u.example%s%s%s%s%s%s%s\r\n250 HELP", hop->index,
               hop->offers.tls && line->secure.tls == NULL ? "\r\n250-STARTTLS" : "",
               hop->offers.pipelining ? "\r\n250-PIPELINING" : "",
               hop->offers.eight_bit ? "\r\n250-8BITMIME" : "",
               hop->offers.utf8 ? "\r\n250-SMTPUTF8" : "",
               hop->offers.chunking ? "\r\n250-CHUNKING" : "",
               hop->offers.dsn ? "\r\n250-DSN" : "",
               hop->offers.size ? "\r\n250-SIZE 50000000" : "");
}

/* --- a transaction --- */

/* The whole letter, or some of its recipients: it was told no, or later. */
static void
letter_note(struct letter *letter, uint64_t recipients, bool no)
{
    for (uint32_t i = 0; letter != NULL && i < letter->count; i++)
        if ((recipients >> i & 1) != 0) {
            letter->to[i].no = letter->to[i].no || no;
            letter->to[i].later = letter->to[i].later || !no;
        }
}

static void
on_mail(struct line *line, const char *command)
{
    const struct mood *mood = &line->hop->mood;
    const char *at = strchr(command, '<');
    struct letter *letter;

    if (line->mail) {
        world_fail(ENDING_AUDIT, NULL, "MAIL in a transaction: %s", command);
    }
    if (at == NULL || (at[1] != '>' && sscanf(at, "<s%u@senders.example>", &line->sender) != 1))
        world_fail(ENDING_AUDIT, NULL, "a next hop got %s", command);
    line->null_sender = at[1] == '>';
    letter = line->null_sender ? NULL : letter_find(line->sender);
    if (!line->null_sender)
        audit_mail(line->sender);
    if (line_goes_wrong(line))
        return;
    if (line_chance(line, mood->later)) {
        letter_note(letter, UINT64_MAX, false);
        line_reply(line, "451 4.2.1 not now");
    } else if (!line->null_sender && line_chance(line, mood->no / 4)) {
        letter_note(letter, UINT64_MAX, true);
        line_reply(line, "550 5.7.1 not from you [%u]", line->sender);
    } else {
        line->mail = true;
        line_reply(line, "250 2.1.0 fine");
    }
}

static void
on_rcpt(struct line *line, const char *command)
{
    const struct mood *mood = &line->hop->mood;
    const char *at = strchr(command, '<');
    unsigned number, index = 0, hop = 0;
    struct letter *letter;
    bool report;

    if (at == NULL)
        world_fail(ENDING_AUDIT, NULL, "a next hop got %s", command);
    report = sscanf(at, "<s%u@senders.example>", &number) == 1;
    if (!report && sscanf(at, "<r%u-%u@h%u.example>", &number, &index, &hop) != 3)
        world_fail(ENDING_AUDIT, NULL, "a next hop got %s", command);
    letter = letter_find(number);
    if (letter == NULL || (!report && line->mail && !line->null_sender && !letter->loose &&
                           line->sender != number))
        world_fail(ENDING_AUDIT, letter, "a next hop got %s from s%u", command, line->sender);
    if (!report)
        audit_recipient(letter, index, line->hop->index);
    if (!line->mail) {
        line_reply(line, "503 5.5.1 MAIL first");
        return;
    }
    if (line_goes_wrong(line))
        return;
    if (line_chance(line, mood->later)) {
        letter_note(report ? NULL : letter, UINT64_C(1) << index, false);
        line_reply(line, "450 4.2.1 not now [%u-%u]", number, index);
    } else if (!report && line_chance(line, mood->no)) {
        letter_note(letter, UINT64_C(1) << index, true);
        line_reply(line, "550 5.1.1 who is that [%u-%u]", number, index);
    } else {
        if (report)
            line->report = letter;
        else
            line->letter = letter;
        if (!report && !letter->loose && (line->recipients >> index & 1) != 0)
            world_fail(ENDING_AUDIT, letter, "recipient %u twice in one transaction", index);
        line->recipients |= report ? 0 : UINT64_C(1) << index;
        line->recipient_count++;
        line_reply(line, "250 2.1.5 fine");
    }
}

static void
on_data(struct line *line)
{
    const struct mood *mood = &line->hop->mood;

    if (!line->mail || line->recipient_count == 0) {
        line_reply(line, "503 5.5.1 no recipients");
        return;
    }
    if (line_goes_wrong(line))
        return;
    if (line_chance(line, mood->later)) {
        letter_note(line->letter, line->recipients, false);
        line_reply(line, "451 4.3.0 not now");
    } else if (line->letter != NULL && line_chance(line, mood->no / 4)) {
        letter_note(line->letter, line->recipients, true);
        line_reply(line, "554 5.6.0 no [%u]", line->letter->number);
    } else {
        line->octets.len = 0;
        line->state = LINE_DATA;
        line_reply(line, "354 go");
    }
}

static void
on_bdat(struct line *line, const char *command)
{
    char *end;

    if (!line->hop->offers.chunking || line->hop->by_data)
        world_fail(ENDING_AUDIT, line->letter,
                   "BDAT to a next hop that has no CHUNKING, or is to get none");
    line->chunk_left = strtoull(command + 5, &end, 10);
    line->chunk_last = strcasecmp(end, " LAST") == 0;
    line->chunk_bad = !line->mail || line->recipient_count == 0;
    line->state = LINE_CHUNK;
}

void
line_command(struct line *line, const char *command, size_t len)
{
    world_say("hop", "#%u < %.200s", line->number, command);
    if (strlen(command) != len)
        world_fail(ENDING_AUDIT, NULL, "NUL in a command to a next hop");
    if (line->injects)
        world_fail(ENDING_AUDIT, NULL, "%s behind an answer that was injected", command);
    /* RFC 2920 3.1: no group of commands for who has not offered it; a last QUIT may come. */
    if (!line->hop->offers.pipelining && line->in.len > 4 && !begins(command, "BDAT ") &&
        memcmp(line->in.data, "QUIT", 4) != 0)
        world_fail(ENDING_AUDIT, NULL, "commands behind %s to a next hop without PIPELINING",
                   command);
    if (begins(command, "EHLO ")) {
        on_ehlo(line);
    } else if (begins(command, "HELO ")) {
        line_transaction_end(line);
        if (!line_goes_wrong(line))
            line_reply(line, "250 h%u.example", line->hop->index);
    } else if (begins(command, "MAIL FROM:")) {
        on_mail(line, command);
    } else if (begins(command, "RCPT TO:")) {
        on_rcpt(line, command);
    } else if (strcasecmp(command, "DATA") == 0) {
        on_data(line);
    } else if (begins(command, "BDAT ")) {
        on_bdat(line, command);
    } else if (strcasecmp(command, "RSET") == 0) {
        line_transaction_end(line);
        if (!line_goes_wrong(line))
            line_reply(line, "250 2.0.0 fine");
    } else if (strcasecmp(command, "STARTTLS") == 0) {
        line_transaction_end(line);
        if (line_goes_wrong(line))
            return;
        if (line->in.len > 0 || line->secure.tls != NULL)
            world_fail(ENDING_AUDIT, NULL, "text behind STARTTLS, or a second one");
        line->starts_tls = true;
        /* What is added in the clear must not count as the answer to what comes by TLS. */
        world.totals.injections += line->injects = line_chance(line, line->hop->mood.garbage * 4);
        line_reply(line, line->injects ? "220 2.0.0 go\r\n250-h.example\r\n250-PIPELINING\r\n"
                                         "250-CHUNKING\r\n250 8BITMIME"
                                       : "220 2.0.0 go");
    } else if (strcasecmp(command, "QUIT") == 0) {
        line->closing = true;
        line_reply(line, "221 2.0.0 bye");
    } else {
        world_fail(ENDING_AUDIT, NULL, "a next hop got %.80s", command);
    }
}

/* --- the message --- */

/* It has the message: by rule, or by the reply being lost, garbage or late. */
static void
message_take(struct line *line, bool silent)
{
    struct delivery *delivery = NULL;

    if (line->letter != NULL)
        delivery = audit_taken(line->letter, line->recipients, line, &line->octets, line->by_data);
    if (line->report != NULL)
        audit_report(line->report, &line->octets);
    if (silent)
        return;
    line->answered = delivery;
    line_reply(line, "250 2.0.0 taken [%u]",
               line->letter != NULL ? line->letter->number
               : line->report != NULL ? line->report->number
                                      : 0);
}

void
line_message(struct line *line)
{
    const struct mood *mood = &line->hop->mood;
    const char *wrong;

    /* Whatever comes of it: nothing else may ever have come this far. */
    if (line->letter != NULL && !line->letter->loose) {
        wrong = letter_compare(line->letter, line->octets.data, line->octets.len, line->by_data);
        if (wrong != NULL)
            world_fail(ENDING_AUDIT, line->letter, "A3: a message (%zu octets at the next hop) %s",
                       line->octets.len, wrong);
    }
    if (line_chance(line, mood->drop_after_end)) {
        if (sim_chance(&world.hops_random, 5000))
            message_take(line, true);
        line_drop(line);
    } else if (line_chance(line, mood->garbage)) {
        if (sim_chance(&world.hops_random, 5000))
            message_take(line, true);
        line_reply(line, "that was nice");
    } else if (line_chance(line, mood->closing)) {
        line->closing = true;
        line_reply(line, "421 4.3.2 going down");
    } else if (line_chance(line, mood->later)) {
        letter_note(line->letter, line->recipients, false);
        line_reply(line, "451 4.3.0 not now [%u]",
                   line->letter != NULL ? line->letter->number : line->report->number);
    } else if (line->letter != NULL && line_chance(line, mood->no)) {
        letter_note(line->letter, line->recipients, true);
        line_reply(line, "554 5.6.0 no [%u]", line->letter->number);
    } else {
        message_take(line, false);
    }
    line_transaction_end(line);
}
