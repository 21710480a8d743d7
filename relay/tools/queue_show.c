/* `queue show` and `queue export`: everything about one message, and the message itself. */
#include <errno.h>
#include <stdlib.h>

#include "core/clock.h"
#include "relay/tools/queue_private.h"

/* A message that moves between the relay's answer and our reading is asked for again. */
#define ROUNDS_MAX 4

static const char *const mark_names[MARK_STATES] = {
    [MARK_PENDING] = "waiting",
    [MARK_DELIVERED] = "delivered",
    [MARK_FAILED] = "failed",
    [MARK_REMOVED] = "removed",
};

/* --- the entries of the messages that were asked for --- */

struct entry {
    struct control_item item;
    const char *hop;
};
struct entries {
    struct entry *list;
    uint32_t count, size;
    bool failed;
};

static bool
entry_add(void *context, const struct queue_message *message)
{
    struct entries *entries = context;

    if (entries->count == entries->size) {
        uint32_t size = entries->size == 0 ? 16 : entries->size * 2;
        struct entry *larger = realloc(entries->list, size * sizeof(*larger));

        if (larger == NULL) {
            entries->failed = true;
            return false;
        }
        entries->list = larger;
        entries->size = size;
    }
    entries->list[entries->count++] = (struct entry){ *message->item, message->hop };
    return true;
}

static const struct entry *
entry_of(const struct entries *entries, const char id[16], uint32_t *from)
{
    for (; *from < entries->count; ++*from)
        if (memcmp(entries->list[*from].item.id, id, 16) == 0)
            return &entries->list[(*from)++];
    return NULL;
}

/* The message's record, wherever it is now. False: said why. */
static bool
message_find(struct queue_source *source, const char id[16], struct entries *entries,
             struct stored_message *stored)
{
    enum stored_result result = STORED_GONE;
    const struct entry *entry = NULL;

    for (unsigned round = 0; round < ROUNDS_MAX && result == STORED_GONE; round++) {
        uint32_t from = 0;

        entries->count = 0;
        if (!source_each(source, false, entry_add, entries) || entries->failed)
            return false;
        entry = entry_of(entries, id, &from);
        if (entry == NULL)
            break;
        stored_refresh(source->stored);
        result = stored_read(source->stored, entry->item.segment, entry->item.offset, id, stored);
    }
    if (entry == NULL)
        fprintf(source->errors, "ringpost queue: %s: not in the queue\n", id);
    else if (result != STORED_READ)
        fprintf(source->errors, "ringpost queue: %s: its record in %s cannot be read\n", id,
                source->config->spool.directory);
    return entry != NULL && result == STORED_READ;
}

/* --- show --- */

static void
print_field(FILE *out, const char *name, struct span value)
{
    fprintf(out, "  %-12s ", name);
    print_text(out, value);
    fputc('\n', out);
}

static void
print_schedule(const struct queue_source *source, const struct entry *entry, FILE *out)
{
    const struct control_item *item = &entry->item;
    char age[QUEUE_TEXT_BYTES], when[QUEUE_TEXT_BYTES];

    fprintf(out, "  %-12s %s: %s", "next hop",
            strcmp(entry->hop, CONTROL_NO_ROUTE) == 0 ? "none, the configuration has no route"
                                                      : entry->hop,
            queue_state_name((enum queue_state)item->state));
    if (item->state == QUEUE_WAITING && item->due_s > source->now_s)
        fprintf(out, ", next attempt in %s (%s)", age_text(item->due_s - source->now_s, age),
                time_text(item->due_s, when));
    fprintf(out, "; %u attempt%s, %u recipient%s left\n", item->attempts, plural(item->attempts),
            item->recipients, plural(item->recipients));
    if (item->reason[0] != '\0')
        print_field(out, "last reason", span_text(item->reason));
}

static void
print_parameters(const struct record_envelope *envelope, FILE *out)
{
    static const char *const bodies[] = { [BODY_TYPE_NONE] = "",
                                          [BODY_TYPE_7BIT] = " BODY=7BIT",
                                          [BODY_TYPE_8BITMIME] = " BODY=8BITMIME" };
    static const char *const returns[] = {
        [DSN_RETURN_NONE] = "", [DSN_RETURN_FULL] = " RET=FULL", [DSN_RETURN_HEADERS] = " RET=HDRS"
    };

    fprintf(out, "  %-12s <", "from");
    print_text(out, envelope->reverse_path);
    fprintf(out, ">%s%s%s", bodies[envelope->body], returns[envelope->dsn_return],
            envelope->smtputf8 ? " SMTPUTF8" : "");
    if (envelope->envid.len > 0) {
        fputs(" ENVID=", out);
        print_text(out, envelope->envid);
    }
    fputc('\n', out);
}

static void
notify_text(uint8_t notify, char text[QUEUE_TEXT_BYTES])
{
    (void)snprintf(text, QUEUE_TEXT_BYTES, "%s%s%s%s", notify & DSN_NOTIFY_NEVER ? ",NEVER" : "",
                   notify & DSN_NOTIFY_SUCCESS ? ",SUCCESS" : "",
                   notify & DSN_NOTIFY_FAILURE ? ",FAILURE" : "",
                   notify & DSN_NOTIFY_DELAY ? ",DELAY" : "");
}

static void
print_recipients(const struct queue_source *source, const struct stored_message *stored, FILE *out)
{
    struct record_envelope envelope = stored->envelope;
    struct record_recipient recipient;
    const char *title = "to";

    for (uint32_t i = 0; record_recipient_next(&envelope, &recipient); i++) {
        const struct mark *mark = &stored->marks[i];
        char notify[QUEUE_TEXT_BYTES];

        fprintf(out, "  %-12s <", title);
        print_text(out, recipient.mailbox);
        fprintf(out, "> %s", mark_names[mark->state]);
        if (mark->state == MARK_PENDING)
            fprintf(out, "%s, by %s", mark->flags & MARK_HELD ? ", held" : "",
                    route_name(source->config, recipient.mailbox));
        notify_text(recipient.notify, notify);
        if (notify[0] != '\0')
            fprintf(out, "; NOTIFY=%s", notify + 1);
        if (recipient.orcpt.len > 0) {
            fputs("; ORCPT=", out);
            print_text(out, recipient.orcpt);
        }
        fputc('\n', out);
        title = "";
    }
}

static void
print_origin(const struct queue_source *source, const struct stored_message *stored, FILE *out)
{
    const struct record *record = &stored->record;
    const struct record_origin *origin = &stored->envelope.origin;
    uint64_t arrival_s = record->arrival_ns / NS_PER_S;
    uint64_t expires_s = arrival_s + source->config->spool.expire_ms / 1000;
    char when[QUEUE_TEXT_BYTES], age[QUEUE_TEXT_BYTES], name[SPOOL_NAME_BYTES];

    fprintf(out, "  %-12s %s (%s ago)\n", "arrived", time_text(arrival_s, when),
            age_text(source->now_s > arrival_s ? source->now_s - arrival_s : 0, age));
    fprintf(out, "  %-12s %s", "expires", time_text(expires_s, when));
    if (expires_s > source->now_s)
        fprintf(out, " (in %s)", age_text(expires_s - source->now_s, age));
    fputc('\n', out);
    fprintf(out, "  %-12s %llu octets%s\n", "size", (unsigned long long)record->size,
            record->flags & RECORD_CHUNKED ? ", came by BDAT" : "");
    if (record->flags & RECORD_NOTICE)
        print_field(out, "client", SPAN("none: a report that ringpost wrote"));
    else if (origin->client.len > 0) {
        fprintf(out, "  %-12s ", "client");
        print_text(out, origin->client);
        fputs(" (", out);
        print_text(out, origin->helo);
        fputs(")\n", out);
    }
    spool_segment_name(stored->segment, name);
    fprintf(out, "  %-12s %s, offset %llu", "stored in", name, (unsigned long long)stored->offset);
    if (record->flags & RECORD_BODY_FILE) {
        spool_body_name(record->id, name);
        fprintf(out, "; its body in %s", name);
    }
    fputc('\n', out);
}

static void
show_text(const struct queue_source *source, const struct entries *entries,
          const struct stored_message *stored, FILE *out)
{
    uint32_t from = 0;

    fprintf(out, "%s\n", stored->record.id);
    for (const struct entry *entry; (entry = entry_of(entries, stored->record.id, &from)) != NULL;)
        print_schedule(source, entry, out);
    print_origin(source, stored, out);
    print_parameters(&stored->envelope, out);
    print_recipients(source, stored, out);
}

static void
recipients_json(const struct queue_source *source, const struct stored_message *stored, FILE *out)
{
    struct record_envelope envelope = stored->envelope;
    struct record_recipient recipient;

    for (uint32_t i = 0; record_recipient_next(&envelope, &recipient); i++) {
        const struct mark *mark = &stored->marks[i];
        char notify[QUEUE_TEXT_BYTES];

        fputs(i > 0 ? ",{\"address\":" : "{\"address\":", out);
        print_json_text(out, recipient.mailbox);
        fprintf(out, ",\"state\":\"%s\",\"held\":%s,\"attempts\":%u,\"due\":%u,\"next_hop\":",
                mark_names[mark->state], mark->flags & MARK_HELD ? "true" : "false", mark->attempts,
                mark->due_s);
        print_json_text(out, span_text(route_name(source->config, recipient.mailbox)));
        notify_text(recipient.notify, notify);
        fprintf(out, ",\"notify\":\"%s\",\"orcpt\":", notify[0] != '\0' ? notify + 1 : "");
        print_json_text(out, recipient.orcpt);
        fputc('}', out);
    }
}

static void
show_json(const struct queue_source *source, const struct entries *entries,
          const struct stored_message *stored, FILE *out)
{
    const struct record_envelope *envelope = &stored->envelope;
    const struct entry *entry;
    uint32_t from = 0;
    bool first = true;

    fprintf(out, "{\"id\":\"%s\",\"entries\":[", stored->record.id);
    while ((entry = entry_of(entries, stored->record.id, &from)) != NULL) {
        struct queue_message message = { .item = &entry->item, .hop = entry->hop };

        if (!first)
            fputc(',', out);
        first = false;
        print_item_json(source, &message, out);
        fputs(",\"reason\":", out);
        print_json_text(out, span_text(entry->item.reason));
        fputc('}', out);
    }
    fputs("],\"sender\":", out);
    print_json_text(out, envelope->reverse_path);
    fputs(",\"envid\":", out);
    print_json_text(out, envelope->envid);
    fputs(",\"client\":", out);
    print_json_text(out, envelope->origin.client);
    fputs(",\"helo\":", out);
    print_json_text(out, envelope->origin.helo);
    fputs(",\"received\":", out);
    print_json_text(out, envelope->origin.trace);
    fprintf(out, ",\"smtputf8\":%s,\"chunked\":%s,\"body_file\":%s,\"body_bytes\":%llu",
            envelope->smtputf8 ? "true" : "false",
            stored->record.flags & RECORD_CHUNKED ? "true" : "false",
            stored->record.flags & RECORD_BODY_FILE ? "true" : "false",
            (unsigned long long)stored->record.body_bytes);
    fputs(",\"recipients\":[", out);
    recipients_json(source, stored, out);
    fputs("]}\n", out);
}

int
queue_show(struct queue_source *source, const struct queue_command *command, FILE *out)
{
    struct entries entries = { 0 };
    int status = 0;

    for (uint32_t i = 0; i < command->select.id_count && !entries.failed; i++) {
        struct stored_message stored;

        if (!message_find(source, command->select.ids[i], &entries, &stored)) {
            status = 1;
            continue;
        }
        if (command->json)
            show_json(source, &entries, &stored, out);
        else
            show_text(source, &entries, &stored, out);
    }
    free(entries.list);
    return status;
}

/* --- export --- */

struct writing {
    FILE *out;
    bool chunked;
    struct unstuff unstuff;
    char *octets;
    size_t size;
};

static bool
piece_write(void *context, struct span piece)
{
    struct writing *writing = context;
    size_t len;

    if (writing->chunked)
        return fwrite(piece.data, 1, piece.len, writing->out) == piece.len;
    if (writing->size < piece.len + 1) {
        free(writing->octets);
        writing->octets = malloc(piece.len + 1);
        writing->size = writing->octets != NULL ? piece.len + 1 : 0;
    }
    if (writing->octets == NULL)
        return false;
    len = unstuff(&writing->unstuff, piece, writing->octets);
    return fwrite(writing->octets, 1, len, writing->out) == len;
}

int
queue_export(struct queue_source *source, const struct queue_command *command, FILE *out)
{
    const char *id = command->select.ids[0];
    struct entries entries = { 0 };
    struct stored_message stored;
    struct writing writing = { .out = out };
    enum stored_result result = STORED_GONE;
    bool found;

    ASSERT(command->select.id_count == 1);
    found = message_find(source, id, &entries, &stored);
    free(entries.list);
    if (!found)
        return 1;
    writing.chunked = stored.record.flags & RECORD_CHUNKED;
    if (command->trace)
        fwrite(stored.envelope.origin.trace.data, 1, stored.envelope.origin.trace.len, out);
    result = stored_body(source->stored, &stored, piece_write, &writing);
    free(writing.octets);
    if (fflush(out) != 0 || ferror(out)) {
        fprintf(source->errors, "ringpost queue: cannot write the message: %s\n",
                io_error_text(-errno));
        return 1;
    }
    if (result == STORED_READ)
        return 0;
    fprintf(source->errors,
            result == STORED_GONE
                ? "ringpost queue: %s: it ended or moved meanwhile: what was written is not all of "
                  "it; try again\n"
                : "ringpost queue: %s: its body is damaged; what was written is not all of it\n",
            id);
    return 1;
}
