/* Every entry that somebody asks for, from the running relay or, without one, from its files. The
 * relay knows states and times; addresses stand in the files alone, and messages move and end while
 * one looks: what is not where it was is asked for again. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "core/clock.h"
#include "relay/queue/control_server.h"
#include "relay/route.h"
#include "relay/tools/queue_private.h"

/* How often an entry that moved is looked for again. */
#define ROUNDS_MAX 4
/* The kernel may still be taking down the listener of a relay that was killed a moment ago. */
#define ENDING_TRIES 20
#define ENDING_PAUSE_MS 50

static bool
failed(const struct queue_source *source, const char *what, const char *detail)
{
    fprintf(source->errors, "ringpost queue: %s%s%s\n", what, detail != NULL ? ": " : "",
            detail != NULL ? detail : "");
    return false;
}

/* --- names --- */

struct span
domain_of(struct span mailbox)
{
    for (size_t i = mailbox.len; i > 0; i--)
        if (mailbox.data[i - 1] == '@')
            return span_after(mailbox, i);
    return span_of(NULL, 0);
}

const char *
route_name(const struct config *config, struct span mailbox)
{
    struct path path = { .mailbox = mailbox, .domain = domain_of(mailbox) };
    uint32_t hop = route_find(config, &path);

    return hop == ROUTE_NONE ? CONTROL_NO_ROUTE : config->next_hops[hop].name;
}

static uint16_t
name_index(void *context, struct span name)
{
    struct queue_source *source = context;
    uint16_t i = 0;

    while (i < source->name_count && !span_equal(span_text(source->names[i]), name))
        i++;
    if (i < source->name_count)
        return i;
    if (i == QUEUE_NAMES_MAX || name.len >= CONTROL_NAME_BYTES)
        return UINT16_MAX;
    memcpy(source->names[i], name.data, name.len);
    source->names[i][name.len] = '\0';
    source->name_count++;
    return i;
}

/* --- selecting --- */

bool
select_is_ids(const struct queue_select *select)
{
    return select->next_hop == NULL && select->domain == NULL && select->sender == NULL &&
           select->age_min_s == 0 && select->states == 0;
}

bool
select_is_all(const struct queue_select *select)
{
    return select_is_ids(select) && select->id_count == 0;
}

bool
select_needs_record(const struct queue_select *select)
{
    return select->domain != NULL || select->sender != NULL;
}

bool
recipient_walk(struct recipient_walk *walk, const struct config *config, const char *hop,
               const struct stored_message *message, struct record_recipient *recipient)
{
    if (!walk->begun) {
        struct recipient_walk first = { .begun = true, .envelope = message->envelope };

        *walk = first;
        walk->any_hop = !recipient_walk(&first, config, hop, message, recipient);
    }
    while (walk->index < message->record.recipients &&
           record_recipient_next(&walk->envelope, recipient)) {
        const struct mark *mark = &message->marks[walk->index++];

        if (mark->state == MARK_PENDING &&
            (walk->any_hop || strcmp(route_name(config, recipient->mailbox), hop) == 0))
            return true;
    }
    return false;
}

/* "a@example.com", "<a@example.com>", "example.com", "@example.com"; "" and "<>": none. */
static bool
sender_matches(struct span wanted, struct span sender)
{
    if (wanted.len >= 2 && wanted.data[0] == '<' && wanted.data[wanted.len - 1] == '>')
        wanted = span_of(wanted.data + 1, wanted.len - 2);
    if (wanted.len > 0 && wanted.data[0] == '@')
        return span_equal_ignore_case(span_after(wanted, 1), domain_of(sender));
    if (wanted.len > 0 && domain_of(wanted).data == NULL)
        return span_equal_ignore_case(wanted, domain_of(sender));
    return span_equal_ignore_case(wanted, sender);
}

/* Whether the envelope is selected; hop: of the entry. */
static bool
select_matches(const struct queue_select *select, const struct config *config, const char *hop,
               const struct stored_message *message)
{
    struct recipient_walk walk = { 0 };
    struct record_recipient recipient;

    if (select->sender != NULL &&
        !sender_matches(span_text(select->sender), message->envelope.reverse_path))
        return false;
    if (select->domain == NULL)
        return true;
    while (recipient_walk(&walk, config, hop, message, &recipient))
        if (span_equal_ignore_case(span_text(select->domain), domain_of(recipient.mailbox)))
            return true;
    return false;
}

static bool
id_selected(const struct queue_select *select, const char id[16])
{
    for (uint32_t i = 0; i < select->id_count; i++)
        if (memcmp(select->ids[i], id, 16) == 0)
            return true;
    return select->id_count == 0;
}

bool
source_request_next(const struct queue_source *source, struct request_walk *walk,
                    struct control_request *out)
{
    const struct queue_select *select = source->select;

    if (walk->worker >= source->workers) {
        walk->worker = 0;
        walk->first_id += CONTROL_TARGETS_MAX;
        if (walk->first_id >= select->id_count)
            return false;
    }
    *out = (struct control_request){ .action = CONTROL_LIST,
                                     .worker = walk->worker++,
                                     .states = select->states,
                                     .age_min_s = select->age_min_s,
                                     .all = select->all };
    if (select->next_hop != NULL) {
        out->hop_given = true;
        (void)snprintf(out->hop, sizeof(out->hop), "%s", select->next_hop);
    }
    for (uint32_t i = walk->first_id;
         i < select->id_count && out->target_count < CONTROL_TARGETS_MAX; i++) {
        struct control_target *target = &out->targets[out->target_count++];

        target->index = QUEUE_NONE;
        memcpy(target->id, select->ids[i], sizeof(target->id));
    }
    return true;
}

/* --- the running relay --- */

/* 0, or what ask_page() returns. */
static int
page_ask(struct queue_source *source, const struct control_request *request, char **text)
{
    char path[CONTROL_PATH_BYTES];
    struct config_address address;

    control_address_set(source->config->spool.directory, stored_directory(source->stored), path,
                        &address);
    return ask_page(&address, request, source->page, name_index, source, text);
}

bool
source_page(struct queue_source *source, const struct control_request *request)
{
    char *text;
    int error = page_ask(source, request, &text);

    if (error == 0) {
        source->workers = source->page->workers;
        source->now_s = source->page->now_s;
        return true;
    }
    if (error == -EPROTO)
        failed(source, "the running relay says", text);
    else if (error == -EACCES || error == -EPERM)
        failed(source,
               "it is not yours to ask: run this as root, or as the user that ringpost runs "
               "as",
               NULL);
    else if (error == -ETIMEDOUT || error == -EAGAIN)
        failed(source, "the running relay does not answer in time", NULL);
    else
        failed(source, "the running relay cannot be asked", io_error_text(error));
    free(text);
    return false;
}

/* Somebody listened, and is gone without a word. */
static bool
is_ending(int error)
{
    return error == -ECONNRESET || error == -EPIPE || error == -ETIMEDOUT;
}

/* One page that looks at nothing: who is there. */
static bool
probe(struct queue_source *source)
{
    struct control_request request = { .action = CONTROL_LIST, .from = UINT32_MAX - 1 };
    const struct timespec pause = { .tv_nsec = ENDING_PAUSE_MS * (long)NS_PER_MS };
    char *text = NULL;
    int error = page_ask(source, &request, &text);

    for (unsigned i = 1; i < ENDING_TRIES && is_ending(error); i++) {
        free(text);
        nanosleep(&pause, NULL);
        error = page_ask(source, &request, &text);
    }
    free(text);
    if (error == -ENOENT || error == -ECONNREFUSED || is_ending(error))
        return true;
    source->running = true;
    source->recovered = true;
    for (source->workers = 1; request.worker < source->workers; request.worker++) {
        if (!source_page(source, &request))
            return false;
        source->recovered = source->recovered && source->page->recovered;
        source->segments += source->page->segments;
        source->segments_done += source->page->segments_done;
    }
    return true;
}

void
source_tell_not_running(const struct queue_source *source, const char *then)
{
    uint32_t holder;

    if (!stored_locked(source->stored, &holder))
        fprintf(source->errors, "ringpost queue: ringpost is not running; %s\n", then);
    else
        fprintf(source->errors,
                "ringpost queue: process %u has the spool but does not answer: it is starting or "
                "ending; %s\n",
                holder, then);
}

bool
source_open(struct queue_source *source, const struct config *config,
            const struct queue_select *select, FILE *errors)
{
    char error[QUEUE_ERROR_BYTES];
    int code;

    *source = (struct queue_source){ .config = config, .select = select, .errors = errors };
    source->stored = stored_open(config->spool.directory, &code, error);
    if (source->stored == NULL)
        return failed(source, error, NULL);
    source->page = malloc(sizeof(*source->page));
    if (source->page == NULL)
        return failed(source, "no memory", NULL);
    if (!probe(source))
        return false;
    if (!source->running)
        source->now_s = (uint32_t)(clock_realtime_ns() / NS_PER_S);
    else if (!source->recovered)
        fprintf(errors,
                "ringpost queue: the relay is still reading its spool (%u of %u segments): more "
                "messages will turn up\n",
                source->segments_done, source->segments);
    return true;
}

void
source_close(struct queue_source *source)
{
    stored_close(source->stored);
    free(source->page);
    source->stored = NULL;
    source->page = NULL;
}

/* --- every entry of the running relay --- */

struct visit {
    struct queue_source *source;
    bool records, ended;
    bool (*each)(void *context, const struct queue_message *message);
    void *context;
    struct control_target moved[CONTROL_ITEMS_MAX]; /* of this page: to be asked for again */
    uint32_t moved_count;
};

/* last: what cannot be read now is given without its record. */
static void
visit_item(struct visit *visit, const struct control_item *item, bool last)
{
    struct queue_source *source = visit->source;
    struct queue_message message = { .item = item,
                                     .worker = source->page->worker,
                                     .hop = source->names[item->hop] };
    enum stored_result result;

    if (visit->records) {
        result =
            stored_read(source->stored, item->segment, item->offset, item->id, &message.stored);
        if (result == STORED_GONE && !last) {
            struct control_target *target = &visit->moved[visit->moved_count++];

            target->index = item->index;
            memcpy(target->id, item->id, sizeof(target->id));
            return;
        }
        message.read = result == STORED_READ;
        if (select_needs_record(source->select) &&
            (!message.read ||
             !select_matches(source->select, source->config, message.hop, &message.stored)))
            return;
    }
    if (!visit->each(visit->context, &message))
        visit->ended = true;
}

static void
visit_page(struct visit *visit, bool last)
{
    if (visit->records)
        stored_refresh(visit->source->stored);
    visit->moved_count = 0;
    for (uint32_t i = 0; i < visit->source->page->count && !visit->ended; i++)
        visit_item(visit, &visit->source->page->items[i], last);
}

/* What had moved when its record was to be read. What does not come back has ended. */
static bool
visit_moved(struct visit *visit)
{
    for (unsigned round = 1; round < ROUNDS_MAX && visit->moved_count > 0; round++) {
        struct control_target again[CONTROL_ITEMS_MAX];
        uint32_t count = visit->moved_count, moved = 0;

        memcpy(again, visit->moved, count * sizeof(*again));
        for (uint32_t at = 0; at < count && !visit->ended; at += CONTROL_TARGETS_MAX) {
            struct control_request request = { .action = CONTROL_LIST };
            struct control_target still[CONTROL_TARGETS_MAX];

            request.worker = visit->source->page->worker;
            while (request.target_count < CONTROL_TARGETS_MAX &&
                   at + request.target_count < count) {
                request.targets[request.target_count] = again[at + request.target_count];
                request.target_count++;
            }
            if (!source_page(visit->source, &request))
                return false;
            visit_page(visit, round + 1 == ROUNDS_MAX);
            memcpy(still, visit->moved, visit->moved_count * sizeof(*still));
            memcpy(again + moved, still, visit->moved_count * sizeof(*still));
            moved += visit->moved_count;
        }
        memcpy(visit->moved, again, moved * sizeof(*again));
        visit->moved_count = moved;
    }
    return true;
}

/* All pages of one request. */
static bool
visit_pages(struct visit *visit, struct control_request *request)
{
    do {
        uint32_t next;

        if (!source_page(visit->source, request))
            return false;
        next = visit->source->page->next;
        visit_page(visit, false);
        if (!visit_moved(visit))
            return false;
        request->from = next;
    } while (request->from != QUEUE_NONE && !visit->ended);
    return true;
}

static bool
each_running(struct visit *visit)
{
    struct request_walk walk = { 0 };
    struct control_request request;

    while (!visit->ended && source_request_next(visit->source, &walk, &request))
        if (!visit_pages(visit, &request))
            return false;
    return true;
}

/* --- every entry in the files --- */

/* As the relay will see it when it starts. */
static void
item_fill(const struct queue_source *source, const struct stored_message *message,
          struct control_item *item)
{
    const struct record *record = &message->record;
    bool held = (item->flags & MARK_HELD) != 0;

    item->size = record->size;
    item->offset = message->offset;
    item->segment = message->segment;
    item->arrival_s = (uint32_t)(record->arrival_ns / NS_PER_S);
    item->slot = record->slot;
    item->record_recipients = record->recipients;
    item->flags = (uint8_t)((record->flags & RECORD_BODY_FILE ? QUEUE_BODY_FILE : 0) |
                            (record->flags & RECORD_NOTICE ? QUEUE_NOTICE : 0));
    item->state = (uint8_t)(held                          ? QUEUE_HELD
                            : item->due_s > source->now_s ? QUEUE_WAITING
                                                          : QUEUE_READY);
    memcpy(item->id, record->id, sizeof(item->id));
}

static bool
item_selected(const struct queue_source *source, const struct control_item *item)
{
    const struct queue_select *select = source->select;
    uint64_t age_s = source->now_s > item->arrival_s ? source->now_s - item->arrival_s : 0;

    return (select->states == 0 || (select->states & 1u << item->state) != 0) &&
           age_s >= select->age_min_s && id_selected(select, item->id) &&
           (select->next_hop == NULL || strcmp(select->next_hop, source->names[item->hop]) == 0);
}

static bool
visit_stored(void *context, const struct stored_message *stored)
{
    struct visit *visit = context;
    struct queue_source *source = visit->source;
    struct control_item items[QUEUE_NAMES_MAX];
    struct record_envelope envelope = stored->envelope;
    struct record_recipient recipient;
    uint16_t known = 0; /* items that are cleared: most are never looked at */
    uint32_t index = 0;

    for (; record_recipient_next(&envelope, &recipient); index++) {
        const struct mark *mark = &stored->marks[index];
        const char *hop = route_name(source->config, recipient.mailbox);
        uint16_t name = name_index(source, span_text(hop));
        struct control_item *item = &items[name];

        ASSERT(name < QUEUE_NAMES_MAX);
        for (; known <= name; known++)
            memset(&items[known], 0, sizeof(items[known]));
        if (mark->state != MARK_PENDING)
            continue;
        item->hop = name;
        item->recipients++;
        item->flags |= mark->flags;
        if (mark->attempts > item->attempts)
            item->attempts = mark->attempts;
        if (mark->due_s > item->due_s)
            item->due_s = mark->due_s;
    }
    for (uint16_t i = 0; i < known && !visit->ended; i++) {
        struct queue_message message = {
            .item = &items[i], .hop = source->names[i], .read = true, .stored = *stored
        };

        if (items[i].recipients == 0)
            continue;
        item_fill(source, stored, &items[i]);
        if (item_selected(source, &items[i]) &&
            select_matches(source->select, source->config, message.hop, stored) &&
            !visit->each(visit->context, &message))
            visit->ended = true;
    }
    return !visit->ended;
}

static bool
each_stored(struct visit *visit)
{
    struct queue_source *source = visit->source;
    uint32_t unreadable;
    int error = stored_each(source->stored, visit_stored, visit, &unreadable);

    if (error != 0)
        return failed(source, "the spool cannot be read", io_error_text(error));
    if (unreadable > 0)
        fprintf(source->errors,
                "ringpost queue: %u segment%s of the spool cannot be read, or not all of it\n",
                unreadable, plural(unreadable));
    return true;
}

bool
source_each(struct queue_source *source, bool records,
            bool (*each)(void *context, const struct queue_message *message), void *context)
{
    struct visit *visit = calloc(1, sizeof(*visit));
    bool good;

    if (visit == NULL)
        return failed(source, "no memory", NULL);
    visit->source = source;
    visit->records = records || select_needs_record(source->select);
    visit->each = each;
    visit->context = context;
    good = source->running ? each_running(visit) : each_stored(visit);
    free(visit);
    return good;
}
