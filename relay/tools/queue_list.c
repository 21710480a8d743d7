/* `queue list` and `queue summary`: many messages, little about each. */
#include "relay/tools/queue_private.h"

struct listing {
    struct queue_source *source;
    FILE *out;
    uint64_t messages, bytes, unread;
    uint64_t by_state[QUEUE_STATES];
    uint32_t oldest_s;
    bool by_domain, failed;
    struct shape shape;
};

static uint64_t
age_of(const struct queue_source *source, uint32_t arrival_s)
{
    return source->now_s > arrival_s ? source->now_s - arrival_s : 0;
}

static void
count(struct listing *listing, const struct queue_message *message)
{
    const struct control_item *item = message->item;

    listing->messages++;
    listing->bytes += item->size;
    listing->by_state[item->state]++;
    if (listing->oldest_s == 0 || item->arrival_s < listing->oldest_s)
        listing->oldest_s = item->arrival_s;
}

/* --- list --- */

static void
print_address(FILE *out, struct span mailbox)
{
    fputc('<', out);
    print_text(out, mailbox);
    fputc('>', out);
}

static void
print_envelope(const struct queue_source *source, const struct queue_message *message, FILE *out)
{
    struct recipient_walk walk = { 0 };
    struct record_recipient recipient;
    uint32_t recipients = 0;

    if (!message->read) {
        fputs("(its record cannot be read)", out);
        return;
    }
    print_address(out, message->stored.envelope.reverse_path);
    fputs(" to ", out);
    while (recipient_walk(&walk, source->config, message->hop, &message->stored, &recipient))
        if (recipients++ == 0)
            print_address(out, recipient.mailbox);
    if (recipients > 1)
        fprintf(out, " and %u more", recipients - 1);
}

static const char *
due_text(const struct queue_source *source, const struct control_item *item,
         char text[QUEUE_TEXT_BYTES])
{
    if (item->state != QUEUE_WAITING || item->due_s <= source->now_s)
        return "-";
    return age_text(item->due_s - source->now_s, text);
}

static bool
list_message(void *context, const struct queue_message *message)
{
    struct listing *listing = context;
    const struct control_item *item = message->item;
    char age[QUEUE_TEXT_BYTES], due[QUEUE_TEXT_BYTES], bytes[QUEUE_TEXT_BYTES];
    FILE *out = listing->out;

    if (listing->messages == 0)
        fprintf(out, "%-15s %-8s %5s %6s %5s %11s %-12s %s\n", "ID", "STATE", "AGE", "TRY IN",
                "TRIES", "SIZE", "NEXT HOP", "FROM, TO");
    count(listing, message);
    fprintf(out, "%-15s %-8s %5s %6s %5u %11s %-12s ", item->id,
            queue_state_name((enum queue_state)item->state),
            age_text(age_of(listing->source, item->arrival_s), age),
            due_text(listing->source, item, due), item->attempts, bytes_text(item->size, bytes),
            message->hop);
    print_envelope(listing->source, message, out);
    if (item->reason[0] != '\0') {
        fprintf(out, "\n%-15s ", "");
        print_text(out, span_text(item->reason));
    }
    fputc('\n', out);
    return !ferror(out);
}

static void
print_envelope_json(const struct queue_source *source, const struct queue_message *message,
                    FILE *out)
{
    struct recipient_walk walk = { 0 };
    struct record_recipient recipient;
    bool first = true;

    fputs(",\"sender\":", out);
    print_json_text(out, message->stored.envelope.reverse_path);
    fputs(",\"recipients\":[", out);
    while (recipient_walk(&walk, source->config, message->hop, &message->stored, &recipient)) {
        if (!first)
            fputc(',', out);
        first = false;
        print_json_text(out, recipient.mailbox);
    }
    fputc(']', out);
}

/* One object on each line: a million of them need no memory anywhere. */
static bool
list_json(void *context, const struct queue_message *message)
{
    struct listing *listing = context;
    const struct control_item *item = message->item;
    FILE *out = listing->out;

    count(listing, message);
    print_item_json(listing->source, message, out);
    if (message->read)
        print_envelope_json(listing->source, message, out);
    else
        fputs(",\"sender\":null,\"recipients\":null", out);
    fputs(",\"reason\":", out);
    print_json_text(out, span_text(item->reason));
    fputs("}\n", out);
    return !ferror(out);
}

int
queue_list_print(struct queue_source *source, const struct queue_command *command, FILE *out)
{
    struct listing listing = { .source = source, .out = out };
    char bytes[QUEUE_TEXT_BYTES];

    if (!source_each(source, true, command->json ? list_json : list_message, &listing))
        return 1;
    if (command->json)
        return 0;
    if (listing.messages == 0)
        fputs(select_is_all(source->select) ? "The queue is empty.\n"
                                            : "No message of the queue is like that.\n",
              out);
    else
        fprintf(out, "%llu message%s, %s\n", (unsigned long long)listing.messages,
                plural(listing.messages), bytes_text(listing.bytes, bytes));
    return 0;
}

/* --- summary --- */

static bool
add_domains(struct listing *listing, const struct queue_message *message)
{
    struct recipient_walk walk = { 0 };
    struct record_recipient recipient;
    uint64_t age_s = age_of(listing->source, message->item->arrival_s);
    char lower[MAILBOX_BYTES_MAX];

    while (recipient_walk(&walk, listing->source->config, message->hop, &message->stored,
                          &recipient)) {
        struct span domain = domain_of(recipient.mailbox);

        for (size_t i = 0; i < domain.len && i < sizeof(lower); i++)
            lower[i] = char_lower(domain.data[i]);
        domain = domain.len == 0 ? SPAN("(none)") : span_of(lower, domain.len);
        if (!shape_add(&listing->shape, domain, age_s, 1))
            return false;
    }
    return true;
}

static bool
add_message(void *context, const struct queue_message *message)
{
    struct listing *listing = context;
    bool good;

    count(listing, message);
    if (!listing->by_domain) {
        good = shape_add(&listing->shape, span_text(message->hop),
                         age_of(listing->source, message->item->arrival_s), 1);
    } else if (message->read) {
        good = add_domains(listing, message);
    } else {
        listing->unread++;
        good = true;
    }
    listing->failed = listing->failed || !good;
    return good;
}

static void
print_summary(struct listing *listing, FILE *out)
{
    char bytes[QUEUE_TEXT_BYTES], age[QUEUE_TEXT_BYTES];
    const char *before = ": ";

    if (listing->messages == 0) {
        fputs(select_is_all(listing->source->select) ? "The queue is empty.\n"
                                                     : "No message of the queue is like that.\n",
              out);
        return;
    }
    fprintf(out, "%llu message%s, %s", (unsigned long long)listing->messages,
            plural(listing->messages), bytes_text(listing->bytes, bytes));
    for (int i = 0; i < QUEUE_STATES; i++) {
        if (listing->by_state[i] == 0)
            continue;
        fprintf(out, "%s%llu %s", before, (unsigned long long)listing->by_state[i],
                queue_state_name((enum queue_state)i));
        before = ", ";
    }
    fprintf(out, "; the oldest %s\n\n", age_text(age_of(listing->source, listing->oldest_s), age));
    fputs(listing->by_domain ? "recipients by domain and age of their message\n"
                             : "messages by next hop and age\n",
          out);
    shape_print(&listing->shape, out);
}

static void
print_summary_json(struct listing *listing, FILE *out)
{
    fprintf(out, "{\"running\":%s,\"complete\":%s,\"messages\":%llu,\"bytes\":%llu",
            listing->source->running ? "true" : "false",
            listing->source->running && !listing->source->recovered ? "false" : "true",
            (unsigned long long)listing->messages, (unsigned long long)listing->bytes);
    fprintf(out, ",\"oldest_seconds\":%llu,\"states\":{",
            (unsigned long long)(listing->messages > 0 ? age_of(listing->source, listing->oldest_s)
                                                       : 0));
    for (int i = 0; i < QUEUE_STATES; i++)
        fprintf(out, "%s\"%s\":%llu", i > 0 ? "," : "", queue_state_name((enum queue_state)i),
                (unsigned long long)listing->by_state[i]);
    fprintf(out, "},\"by\":\"%s\",", listing->by_domain ? "domain" : "next_hop");
    shape_print_json(&listing->shape, out);
    fputs("}\n", out);
}

int
queue_summary(struct queue_source *source, const struct queue_command *command, FILE *out)
{
    struct listing listing = { .source = source, .by_domain = command->by_domain };
    int status = 1;

    if (source_each(source, command->by_domain, add_message, &listing)) {
        if (listing.failed) {
            fputs("ringpost queue: no memory\n", source->errors);
        } else {
            shape_sort(&listing.shape);
            if (command->json)
                print_summary_json(&listing, out);
            else
                print_summary(&listing, out);
            if (listing.unread > 0)
                fprintf(source->errors,
                        "ringpost queue: the records of %llu message%s cannot be read\n",
                        (unsigned long long)listing.unread, plural(listing.unread));
            status = 0;
        }
    }
    shape_free(&listing.shape);
    return status;
}
