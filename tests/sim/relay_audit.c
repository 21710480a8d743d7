/* What nobody may ever see, whatever fails:
 *
 * A1  A letter that was answered 250 reaches each recipient that was accepted, or its sender gets a
 *     report about that recipient. Only what its next hop refused for good, or what expired, is
 *     reported.
 * A2  When the 250 of a stored letter leaves, the disk has its record: the power fails in just that
 *     moment, all that is not durable is lost, and A1 holds.
 * A3  What a next hop gets is what the client gave, with one trace field of ours on top.
 * A4  A recipient gets a letter twice only where the relay could not know of the first time: the
 *     reply was lost, late or nonsense, or the relay's life ended without order.
 * A5  A relay that has stopped in order holds nothing: sessions, transactions, connections, blocks,
 *     buffers.
 * A6  What was not answered 250 is delivered to nobody, but where its client left before the answer
 *     or A4's reason holds. A verdict is that of its own letter and recipient: 5xx comes from the
 *     next hop and not from a fault; nothing is delivered to whom RCPT was refused.
 * A7  Without faults everything comes to an end, and no worker turns for nothing (relay_life.c,
 *     relay_history.c).
 * A8  The same seed is the same history (relay_main.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "relay/courier.h"
#include "relay/relay.h"
#include "relay/session.h"
#include "tests/sim/relay_hop.h"

/* Between what the relay does at a deadline and what others see of it. */
#define SLACK_NS (2 * NS_PER_S)
/* A mark is durable so soon, if the disk does not fail. */
#define MARK_NS (10 * NS_PER_S)

/* --- replies --- */

/* [number] or [number-recipient] in a reply must be of this letter. */
static void
token_check(const struct letter *letter, const char *reply, int index)
{
    const char *at = strchr(reply, '[');
    unsigned number, recipient;
    int fields;

    if (at == NULL)
        return;
    fields = sscanf(at, "[%u-%u]", &number, &recipient);
    if (fields < 1)
        return;
    if (number != letter->number || (fields == 2 && index >= 0 && (unsigned)index != recipient))
        world_fail(ENDING_AUDIT, letter, "A6: the client hears another one's verdict: %s", reply);
}

/* Octets as they are counted: by DATA a last line has an end (RFC 5321 4.1.1.4). */
static uint64_t
counted_bytes(const struct letter *letter)
{
    bool ended = letter->bytes == 0 || letter->octets[letter->bytes - 1] == '\n';

    return letter->bytes + (letter->chunked || ended ? 0 : 2);
}

/* What the relay refuses for good by itself, for a reason that the letter gives. */
static bool
refusal_is_own(const struct letter *letter, const char *reply)
{
    const struct next_hop *hop;

    if (letter->illegal || counted_bytes(letter) > world.message_size ||
        (letter->says_size && letter_said_bytes(letter) > world.message_size))
        return true;
    if (strncmp(reply, "503 ", 4) == 0 || strncmp(reply, "554 5.5.1", 9) == 0)
        return true; /* out of order, no recipients: the client's own doing */
    for (uint32_t i = 0; i < letter->count; i++) {
        hop = &world.hops[letter->to[i].hop];
        if ((letter->eight_bit && (!hop->offers.eight_bit || !hop->offers.utf8)) ||
            (letter->utf8 && !hop->offers.utf8) || !hop->offers.ehlo)
            return letter->eight_bit || letter->utf8;
    }
    return false;
}

static bool
any_no(const struct letter *letter)
{
    for (uint32_t i = 0; i < letter->count; i++)
        if (letter->to[i].no)
            return true;
    return false;
}

/* A delivery of this letter's recipients that the client may count on. */
static uint64_t
recipients_taken(const struct letter *letter)
{
    uint64_t taken = 0;

    for (const struct delivery *at = letter->deliveries; at != NULL; at = at->next)
        taken |= at->recipients;
    return taken;
}

void
audit_told_recipient(struct letter *letter, uint32_t index, const char *reply)
{
    const struct addressee *to = &letter->to[index];

    token_check(letter, reply, (int)index);
    if (to->told == TOLD_NO && !to->no && !any_no(letter) && !refusal_is_own(letter, reply))
        world_fail(ENDING_AUDIT, letter, "A6: recipient %u is refused for good without reason: %s",
                   index, reply);
}

/* A next hop's 4xx to the message is the client's matter only without a spool: a disk that works
 * has the room that was set aside before 354. */
static void
deferral_check(const struct letter *letter, const char *reply)
{
    if (letter->told == TOLD_LATER && world.on_defer_spool && !world.any_disk_faults &&
        strstr(reply, "4.3.0 not now [") != NULL)
        world_fail(ENDING_AUDIT, letter, "A6: put off by its next hop, and not stored: %s", reply);
}

void
audit_told(struct letter *letter, const char *reply)
{
    uint64_t taken = recipients_taken(letter);

    (void)snprintf(letter->reply, sizeof(letter->reply), "%s", reply);
    token_check(letter, reply, -1);
    deferral_check(letter, reply);
    letter->queued = letter->told == TOLD_YES && strstr(reply, "queued as") != NULL;
    if (letter->told == TOLD_NO) {
        world.totals.refused++;
        if (!any_no(letter) && !refusal_is_own(letter, reply))
            world_fail(ENDING_AUDIT, letter, "A6: refused for good without reason: %s", reply);
    }
    if (letter->told != TOLD_YES)
        return;
    world.totals.accepted++;
    world.totals.queued += letter->queued;
    if (letter->illegal)
        world_fail(ENDING_AUDIT, letter, "A6: what is no legal message is accepted: %s", reply);
    if (!letter->complete)
        world_fail(ENDING_AUDIT, letter, "A6: accepted before its end: %s", reply);
    if (letter->queued) {
        if (!world.stores)
            world_fail(ENDING_AUDIT, letter, "A1: stored without a spool: %s", reply);
        return;
    }
    for (uint32_t i = 0; i < letter->count; i++)
        if (letter->to[i].told == TOLD_YES && (taken >> i & 1) == 0)
            world_fail(ENDING_AUDIT, letter, "A1: recipient %u: accepted as if its next hop had "
                       "it: %s", i, reply);
}

/* --- what comes to next hops --- */

void
audit_mail(uint32_t number)
{
    const struct letter *letter = letter_find(number);

    if (letter == NULL || letter->evil)
        world_fail(ENDING_AUDIT, letter, "A6: smuggled: MAIL FROM:<s%u@...>", number);
}

void
audit_recipient(struct letter *letter, uint32_t index, uint32_t hop)
{
    if (letter->evil || index >= letter->count)
        world_fail(ENDING_AUDIT, letter, "A6: smuggled: a recipient of letter %u", letter->number);
    if (letter->to[index].hop != hop)
        world_fail(ENDING_AUDIT, letter, "A6: recipient %u came to next hop %u", index, hop);
}

void
audit_log(struct span line)
{
    static const char *const fields[] = { "from=s", "to=r", "to=s" };
    char text[LOG_LINE_BYTES_MAX + 1];
    struct letter *letter;
    bool ambiguous, expired, stored;

    memcpy(text, line.data, line.len);
    text[line.len] = '\0';
    if (strstr(text, "message_unreadable") != NULL &&
        sim_count(SIM_FAULT_READ) == world.reads_failed)
        world_fail(ENDING_AUDIT, NULL, "A1: a message is held, and no read has failed: %s", text);
    /* Marks that a life cannot read are taken for none; behind a segment that could not be sealed
     * the next life finds what was answered with an error: rather twice than never. */
    if (strstr(text, "spool_error operation=read") != NULL && world.repeats_life < world.life)
        world.repeats_life = world.life;
    if (strstr(text, "spool_error operation=seal") != NULL)
        world.repeats_life = world.life + 1;
    ambiguous = strstr(text, "status=ambiguous") != NULL;
    expired = strstr(text, "status=expired") != NULL;
    stored = strstr(text, ": message ") != NULL && strstr(text, " status=queued, code=250") != NULL;
    for (int i = 0; i < 3 && (ambiguous || expired || stored); i++) {
        const char *at = strstr(text, fields[i]);

        letter = at != NULL ? letter_find((uint32_t)strtoul(at + strlen(fields[i]), NULL, 10))
                            : NULL;
        if (letter == NULL)
            continue;
        letter->ambiguous = letter->ambiguous || ambiguous;
        letter->stored = letter->stored || stored;
        if (expired && i == 2 &&
            (world.any_jumps || sim_now_ns() >= world.expire_ms * NS_PER_MS))
            letter->report_expired = true;
    }
    /* A2: the 250 is queued, and nobody has heard it: now, if ever. */
    if (stored && world.any_cuts && sim_chance(&world.random, 600)) {
        world.cut_wanted = true;
        world.totals.durable_cuts++;
    }
}

/* The relay could not know that a next hop had it, or its life ended before that was written. */
static bool
delivery_unsure(const struct letter *letter, const struct delivery *delivery)
{
    uint64_t end_ns = world.unclean_ns[delivery->life];

    /* A reply may be told before the send that it answers: that is nonsense to the relay. */
    if (letter->ambiguous && world.net_faults.order > 0)
        return true;
    if (world.repeats_life > delivery->life)
        return true;
    if (!delivery_heard(delivery) || delivery->heard_ns == 0 ||
        delivery->heard_ns + SLACK_NS >= delivery->end_ns + world.data_end_ms * NS_PER_MS)
        return true;
    return end_ns != 0 && (world.any_disk_faults || end_ns < delivery->heard_ns + MARK_NS);
}

/* A4: of one recipient at most one is sure. */
static void
duplicates_check(const struct letter *letter)
{
    uint64_t sure = 0;

    for (const struct delivery *at = letter->deliveries; at != NULL; at = at->next) {
        if (delivery_unsure(letter, at))
            continue;
        if ((sure & at->recipients) != 0)
            world_fail(ENDING_AUDIT, letter, "A4: delivered twice, and the relay knew");
        sure |= at->recipients;
    }
}

struct delivery *
audit_taken(struct letter *letter, uint64_t recipients, struct line *line,
            const struct text *octets, bool by_data)
{
    static uint64_t numbers;
    struct delivery *delivery = calloc(1, sizeof(*delivery));

    (void)octets, (void)by_data;
    ASSERT(delivery != NULL);
    *delivery = (struct delivery){ .next = letter->deliveries, .number = ++numbers,
                                   .recipients = recipients, .end_ns = sim_now_ns(),
                                   .life = world.life, .line = line };
    world.totals.delivered++;
    if (letter->illegal)
        world_fail(ENDING_AUDIT, letter, "A6: what is no legal message is delivered");
    if (!letter->complete && !letter->loose)
        world_fail(ENDING_AUDIT, letter, "A6: delivered before its client ended it");
    for (const struct delivery *at = letter->deliveries; at != NULL; at = at->next)
        world.totals.duplicates += (at->recipients & recipients) != 0;
    for (uint32_t i = 0; i < letter->count; i++) {
        if ((recipients >> i & 1) == 0)
            continue;
        letter->to[i].taken++;
        if ((letter->to[i].told == TOLD_LATER || letter->to[i].told == TOLD_NO) && !letter->loose)
            world_fail(ENDING_AUDIT, letter, "A6: delivered to recipient %u, which was refused", i);
    }
    letter->deliveries = delivery;
    return delivery;
}

/* Lines of an RFC 3464 report: for each recipient Final-Recipient, then Action. */
void
audit_report(struct letter *letter, const struct text *octets)
{
    char line[256];
    unsigned number = 0, index = 0, hop;
    bool about = false;

    world.totals.reports++;
    if (letter->null_sender && !letter->loose)
        world_fail(ENDING_AUDIT, letter, "A1: a report about a letter that has no sender");
    for (size_t at = 0; at < octets->len;) {
        const char *end = memmem(octets->data + at, octets->len - at, "\r\n", 2);
        size_t len = end == NULL ? octets->len - at : (size_t)(end - octets->data) - at;

        if (len < sizeof(line)) {
            memcpy(line, octets->data + at, len);
            line[len] = '\0';
            if (sscanf(line, "Final-Recipient: rfc822; r%u-%u@h%u.example", &number, &index,
                       &hop) == 3)
                about = number == letter->number && index < letter->count;
            else if (about && strcmp(line, "Action: failed") == 0)
                letter->to[index].reported = true;
        }
        at += len + 2;
    }
}

/* --- rest --- */

/* A5: high-water marks, in every turn. */
void
audit_marks(const struct worker *worker)
{
    const struct buffers *buffers = worker->links.buffers;
    struct io_counts counts = io_counts(worker->io);

    if (worker->sessions.used_most > world.connections)
        world_fail(ENDING_AUDIT, NULL, "A5: %u sessions, limits.connections is %u",
                   worker->sessions.used_most, world.connections);
    if (counts.buffers_free + counts.buffers_offered > buffers->count)
        world_fail(ENDING_AUDIT, NULL, "A5: more buffers than there are");
    if (sim_io_files_flying(worker->io) > SPOOL_OPERATIONS_MAX)
        world_fail(ENDING_AUDIT, NULL, "A5: %llu operations on files at a time",
                   (unsigned long long)sim_io_files_flying(worker->io));
}

void
audit_life_end(void)
{
    const struct relay *relay = world.relay;

    for (uint32_t i = 0; i < relay->worker_count; i++) {
        const struct worker *worker = &relay->workers[i];
        const struct buffers *buffers = worker->links.buffers;
        struct io_counts counts = io_counts(worker->io);

        if (worker->drain_forced || worker->drain_ending)
            continue;
        if (worker->sessions.used != 0 || worker->transactions.used != 0 ||
            worker->connections.used != 0 || worker->blocks.used != 0)
            world_fail(ENDING_AUDIT, NULL,
                       "A5: worker %u stops with %u sessions, %u transactions, %u connections, "
                       "%u blocks", i, worker->sessions.used, worker->transactions.used,
                       worker->connections.used, worker->blocks.used);
        if (counts.buffers_free + counts.buffers_offered != buffers->count)
            world_fail(ENDING_AUDIT, NULL, "A5: worker %u stops with %u buffers held", i,
                       buffers->count - counts.buffers_free - counts.buffers_offered);
    }
}

/* By the time of day, which may have been later than it is, and earlier when the relay wrote down
 * when it came; or it is long ago. */
static bool
expired(const struct letter *letter)
{
    uint64_t most_ns = clock_realtime_ns(), expire_ns = world.expire_ms * NS_PER_MS;

    if (world.realtime_most_ns > most_ns)
        most_ns = world.realtime_most_ns;
    return most_ns >= letter->realtime_least_ns + expire_ns ||
           sim_now_ns() >= letter->complete_ns + expire_ns;
}

static bool
may_be_reported(const struct letter *letter, uint32_t index)
{
    return letter->to[index].no || any_no(letter) || refusal_is_own(letter, "") ||
           expired(letter);
}

static void
letter_end(const struct letter *letter)
{
    for (uint32_t i = 0; i < letter->count && !letter->loose; i++) {
        const struct addressee *to = &letter->to[i];

        if (to->reported && !may_be_reported(letter, i))
            world_fail(ENDING_AUDIT, letter, "A1: recipient %u was reported as failed without "
                       "reason", i);
        if (to->told != TOLD_YES || !(letter->told == TOLD_YES || letter->stored) ||
            to->taken > 0 || to->reported)
            continue;
        if (letter->null_sender && may_be_reported(letter, i))
            continue; /* there is nobody to tell */
        if (letter->report_expired && may_be_reported(letter, i))
            continue; /* its sender could not be told in time either */
        world_fail(ENDING_AUDIT, letter, "%s: lost: recipient %u was promised it%s",
                   letter->told == TOLD_YES ? "A1" : "A2", i,
                   letter->queued || letter->stored ? ", and it was stored" : "");
    }
    if (!letter->loose)
        duplicates_check(letter);
    /* A6: told that it is still its client's, and delivered all the same. What could not be synced
     * may be on the disk in spite of that, and is found by a later life. */
    for (const struct delivery *at = letter->deliveries; at != NULL && !letter->loose;
         at = at->next)
        if ((letter->told == TOLD_LATER || letter->told == TOLD_NO) &&
            !delivery_unsure(letter, at) &&
            !(world.any_disk_faults && letter->told == TOLD_LATER && at->life > letter->told_life))
            world_fail(ENDING_AUDIT, letter, "A6: delivered, and its client was told: %s",
                       letter->reply);
}

void
audit_end(void)
{
    for (const struct letter *letter = world.letters; letter != NULL; letter = letter->next)
        letter_end(letter);
}
