/* What a message of the simulation is: all of it follows from its seed, so that it can be compared
 * octet by octet with what comes back. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/spool_world.h"

#define RECORD_FLAGS_DRAWN \
    (RECORD_CHUNKED | RECORD_EIGHT_BIT | RECORD_HEADER_UTF8 | RECORD_ENDS_CRLF | RECORD_NOTICE)
#define LARGE_BYTES_MAX (300u * 1024)

/* --- drawing --- */

static uint32_t
recipients_draw(struct sim_random *random)
{
    uint64_t kind = sim_below(random, 100);

    if (kind < 80)
        return (uint32_t)sim_between(random, 1, 4);
    if (kind < 95)
        return (uint32_t)sim_between(random, 5, 60);
    /* More than one block of marks. */
    return (uint32_t)sim_between(random, 200, 540);
}

static uint64_t
body_bytes_draw(struct sim_random *random, bool large)
{
    uint64_t kind = sim_below(random, 100);

    if (large)
        return sim_between(random, 1, LARGE_BYTES_MAX);
    if (kind < 5)
        return 0;
    if (kind < 60)
        return sim_between(random, 1, 3000);
    if (kind < 85)
        return sim_between(random, 3000, 20000);
    if (kind < 95)
        return sim_between(random, 20000, SPOOL_STAGING_BYTES);
    return sim_between(random, SPOOL_STAGING_BYTES, 150u * 1024);
}

struct message *
message_new(struct world *world, bool large)
{
    struct message *message = calloc(1, sizeof(*message));
    struct sim_random random;

    ASSERT(message != NULL);
    message->seed = sim_next(&world->random);
    random = sim_random_of(message->seed, 0);
    message->recipients = recipients_draw(&random);
    message->body_bytes = body_bytes_draw(&random, large);
    message->arrival_ns = sim_next(&random) >> 2;
    message->flags = (uint32_t)sim_next(&random) & RECORD_FLAGS_DRAWN;
    if (large)
        message->flags |= RECORD_BODY_FILE;
    message->body = CHAIN_EMPTY;
    message->base = calloc(message->recipients, sizeof(struct mark));
    message->marks = calloc(message->recipients, sizeof(struct mark));
    ASSERT(message->base != NULL && message->marks != NULL);
    (void)snprintf(message->id, sizeof(message->id), "m%06x", world->message_count);
    if (world->message_count == world->messages_max) {
        world->messages_max = world->messages_max == 0 ? 64 : world->messages_max * 2;
        world->messages =
            realloc(world->messages, world->messages_max * sizeof(struct message *));
        ASSERT(world->messages != NULL);
    }
    world->messages[world->message_count++] = message;
    return message;
}

void
message_free(struct message *message)
{
    free(message->base);
    free(message->marks);
    free(message->notes);
    free(message);
}

/* --- body --- */

void
message_octets(const struct message *message, uint64_t offset, char *out, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint64_t word = sim_mix(message->seed ^ ((offset + i) / 8 + 1) * UINT64_C(0x9E3779B97F4A7));

        do {
            out[i] = (char)(word >> (offset + i) % 8 * 8);
            i++;
        } while (i < len && (offset + i) % 8 != 0);
    }
}

bool
message_body_add(struct message *message, struct buffers *buffers, struct chain *chain,
                 uint64_t bytes)
{
    char octets[1000];

    while (bytes > 0) {
        size_t part = bytes < sizeof(octets) ? (size_t)bytes : sizeof(octets);

        message_octets(message, message->done, octets, part);
        if (!chain_copy(buffers, chain, span_of(octets, part)))
            return false;
        message->done += part;
        bytes -= part;
    }
    return true;
}

bool
message_body_check(struct message *message, const struct buffers *buffers,
                   const struct chain *chain)
{
    char octets[BUFFER_BYTES];
    uint32_t index = chain->first;

    if (message->done + chain->bytes > message->body_bytes)
        return false;
    for (uint32_t i = 0; i < chain->count; i++, index = buffers->meta[index].next) {
        struct span part = buffer_span(buffers, index);

        message_octets(message, message->done, octets, part.len);
        if (memcmp(octets, part.data, part.len) != 0)
            return false;
        message->done += part.len;
    }
    return true;
}

/* --- envelope --- */

static struct span
recipient_text(const struct message *message, uint32_t index, char *out, size_t size)
{
    struct sim_random random = sim_random_of(message->seed, 100 + index);
    int pad = message->recipients > 100 ? 0 : (int)sim_below(&random, 30);
    int len = snprintf(out, size, "r%u%.*s@example.com", index, pad,
                       "abcdefghijklmnopqrstuvwxyzabcdefgh");

    return span_of(out, (size_t)len);
}

static uint8_t
recipient_notify(const struct message *message, uint32_t index)
{
    return (uint8_t)(sim_mix(message->seed + index) & (DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE));
}

static struct span
reverse_text(const struct message *message, char *out, size_t size)
{
    int len = message->seed % 10 == 0
                  ? 0
                  : snprintf(out, size, "s%llx@example.org", (unsigned long long)message->seed);

    return span_of(out, (size_t)len);
}

static struct record_origin
origin_make(const struct message *message, char *out, size_t size)
{
    int trace = snprintf(out, size, "Received: %.*s\r\n", (int)(message->seed >> 8 & 255),
                         "................................................................"
                         "................................................................"
                         "................................................................"
                         "................................................................");
    int client = snprintf(out + trace, size - (size_t)trace, "192.0.2.%u",
                          (unsigned)(message->seed & 255));

    return (struct record_origin){ .trace = span_of(out, (size_t)trace),
                                   .client = span_of(out + trace, (size_t)client),
                                   .helo = span_of(out + trace, (size_t)client / 2) };
}

bool
message_envelope_make(struct message *message, struct worker *worker)
{
    char text[128];
    struct path path = { .mailbox = reverse_text(message, text, sizeof(text)) };
    struct mail_parameters parameters = { .size = message->body_bytes,
                                          .dsn_return = DSN_RETURN_HEADERS };

    if (!envelope_start(&message->envelope, &worker->blocks, &path, &parameters))
        return false;
    for (uint32_t i = 0; i < message->recipients; i++) {
        struct rcpt_parameters rcpt = { .notify = recipient_notify(message, i) };
        struct path forward = { .mailbox = recipient_text(message, i, text, sizeof(text)) };

        if (envelope_add(&message->envelope, &forward, &rcpt, RECIPIENT_ACCEPTED) == NULL) {
            envelope_clear(&message->envelope);
            return false;
        }
    }
    message->store.origin = origin_make(message, message->origin, sizeof(message->origin));
    return true;
}

static bool
origin_equal(const struct message *message, const struct record_origin *origin)
{
    char text[512];
    struct record_origin want = origin_make(message, text, sizeof(text));

    return span_equal(want.trace, origin->trace) && span_equal(want.client, origin->client) &&
           span_equal(want.helo, origin->helo);
}

const char *
message_record_check(const struct message *message, const struct record *record,
                     const struct record_envelope *envelope)
{
    struct record_envelope rest = *envelope;
    struct record_recipient recipient;
    uint32_t count = 0;
    char text[128];

    if (strcmp(record->id, message->id) != 0)
        return "id";
    if (record->recipients != message->recipients || record->body_bytes != message->body_bytes ||
        record->flags != message->flags || record->arrival_ns != message->arrival_ns ||
        record->size != message->body_bytes)
        return "fields of the record";
    if (!span_equal(envelope->reverse_path, reverse_text(message, text, sizeof(text))))
        return "reverse-path";
    if (envelope->declared_size != message->body_bytes ||
        envelope->dsn_return != DSN_RETURN_HEADERS || !origin_equal(message, &envelope->origin))
        return "envelope";
    while (record_recipient_next(&rest, &recipient)) {
        if (!span_equal(recipient.mailbox, recipient_text(message, count, text, sizeof(text))) ||
            recipient.notify != recipient_notify(message, count))
            return "a recipient";
        count++;
    }
    return count == message->recipients ? NULL : "number of recipients";
}

/* --- marks --- */

bool
mark_is_final(struct mark mark)
{
    return mark.state != MARK_PENDING;
}

bool
message_finished(const struct message *message)
{
    for (uint32_t i = 0; i < message->recipients; i++)
        if (!mark_is_final(message->marks[i]))
            return false;
    return true;
}

void
message_describe(const struct message *message, char *out, size_t size)
{
    static const char *const stories[] = { "given", "stored", "failed", "gone", "excused" };
    uint32_t final = 0, based = 0;

    for (uint32_t i = 0; i < message->recipients; i++) {
        final += mark_is_final(message->marks[i]);
        based += mark_is_final(message->base[i]);
    }
    (void)snprintf(out, size,
                   "%s: %s, %llu octets%s, %u of %u recipients final (%u for certain), found in "
                   "life %llu, in segment %llx at %llu",
                   message->id, stories[message->story], (unsigned long long)message->body_bytes,
                   message->flags & RECORD_BODY_FILE ? " in a file" : "", final,
                   message->recipients, based, (unsigned long long)message->found_life,
                   message->place_count == 0
                       ? 0ull
                       : (unsigned long long)message->places[message->place_count - 1].number,
                   message->place_count == 0
                       ? 0ull
                       : (unsigned long long)message->places[message->place_count - 1].offset);
}
