/* `queue hold`, `release`, `retry` and `remove`: only the running relay may change its queue. */
#include <stdlib.h>
#include <time.h>

#include "core/clock.h"
#include "relay/tools/queue_private.h"

/* A removal reads what it removes: it takes a moment, and an attempt under way must end first. */
#define REMOVAL_SECONDS_MAX 10
#define PAUSE_FIRST_NS (2 * NS_PER_MS)
#define PAUSE_MOST_NS (200 * NS_PER_MS)

struct pending { /* a removal that is not over */
    struct control_target target;
    uint16_t hop;
    uint8_t outcome; /* the last one */
    bool begun;      /* at some time: it is removed when it is gone */
    bool there;      /* in the last round */
};

struct acting {
    struct queue_source *source;
    const struct queue_command *command;
    enum control_action action;
    FILE *out;
    uint64_t done, not_done;
    bool *seen; /* by index of the ids that were given */
    struct pending pending[CONTROL_ITEMS_MAX];
    uint32_t pending_count;
    struct choice { /* --sender, --domain: chosen here, acted on by place */
        struct chosen {
            struct control_target target;
            uint32_t worker;
        } * list;
        size_t count, size;
        bool failed;
    } choice;
};

/* --- what is said --- */

static const char *
result_text(enum control_action action, enum control_outcome outcome)
{
    static const char *const done[CONTROL_ACTIONS] = {
        [CONTROL_HOLD] = "held",
        [CONTROL_RELEASE] = "released",
        [CONTROL_RETRY] = "will be tried now",
        [CONTROL_REMOVE] = "removed",
    };
    static const char *const after[CONTROL_ACTIONS] = {
        [CONTROL_HOLD] = "is being delivered; held when this attempt ends",
        [CONTROL_RELEASE] = "is being delivered; not held when this attempt ends",
        [CONTROL_RETRY] = "is being delivered; tried again when this attempt ends",
        [CONTROL_REMOVE] = "is being delivered, not removed; held when this attempt ends: "
                           "remove it then",
    };

    switch (outcome) {
    case CONTROL_DONE: return done[action];
    case CONTROL_AFTER: return after[action];
    case CONTROL_BEGUN: return "is being removed; look again";
    case CONTROL_ALREADY: return action == CONTROL_HOLD ? "was held already" : "was not held";
    case CONTROL_BUSY: return "not done: too much is under way; try again";
    case CONTROL_LISTED:
    case CONTROL_OUTCOMES: break;
    }
    return "not done";
}

/* hop: its next hop's name; NULL: there is no such message. */
static void
tell(struct acting *acting, const char *id, const char *hop, const char *result, bool done)
{
    acting->done += done;
    acting->not_done += !done;
    if (!acting->command->json) {
        if (hop != NULL)
            fprintf(acting->out, "%s to %s: %s\n", id, hop, result);
        else
            fprintf(acting->out, "%s: %s\n", id, result);
        return;
    }
    fprintf(acting->out, "{\"id\":\"%s\",\"next_hop\":", id);
    if (hop != NULL)
        print_json_text(acting->out, span_text(hop));
    else
        fputs("null", acting->out);
    fprintf(acting->out, ",\"done\":%s,\"result\":\"%s\"}\n", done ? "true" : "false", result);
}

static void
see(struct acting *acting, const char id[16])
{
    const struct queue_select *select = acting->source->select;

    for (uint32_t i = 0; i < select->id_count; i++)
        if (memcmp(select->ids[i], id, 16) == 0)
            acting->seen[i] = true;
}

/* --- removals: until they are gone --- */

static bool
is_removal_pending(const struct acting *acting, const struct control_item *item)
{
    return acting->action == CONTROL_REMOVE &&
           (item->outcome == CONTROL_BEGUN || item->outcome == CONTROL_AFTER ||
            item->outcome == CONTROL_BUSY);
}

static void
page_note(struct acting *acting)
{
    const struct control_page *page = acting->source->page;

    for (uint32_t i = 0; i < page->count; i++) {
        const struct control_item *item = &page->items[i];
        enum control_outcome outcome = (enum control_outcome)item->outcome;
        struct pending *pending;

        see(acting, item->id);
        if (!is_removal_pending(acting, item)) {
            tell(acting, item->id, acting->source->names[item->hop],
                 result_text(acting->action, outcome),
                 outcome == CONTROL_DONE || outcome == CONTROL_AFTER || outcome == CONTROL_ALREADY);
            continue;
        }
        ASSERT(acting->pending_count < CONTROL_ITEMS_MAX);
        pending = &acting->pending[acting->pending_count++];
        *pending = (struct pending){ .target.index = item->index,
                                     .hop = item->hop,
                                     .outcome = item->outcome,
                                     .begun = outcome == CONTROL_BEGUN };
        memcpy(pending->target.id, item->id, sizeof(pending->target.id));
    }
}

static void
pending_update(struct acting *acting, const struct control_item *item)
{
    for (uint32_t i = 0; i < acting->pending_count; i++) {
        struct pending *pending = &acting->pending[i];

        if (pending->target.index != item->index)
            continue;
        pending->there = true;
        pending->outcome = item->outcome;
        pending->begun = pending->begun || item->outcome == CONTROL_BEGUN;
    }
}

/* Asks for all of them once more; those that are not there any more are told and leave the list. */
static bool
pending_round(struct acting *acting, uint32_t worker)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < acting->pending_count; i++)
        acting->pending[i].there = false;
    for (uint32_t at = 0; at < acting->pending_count; at += CONTROL_TARGETS_MAX) {
        struct control_request request = { .action = CONTROL_REMOVE, .worker = worker };

        while (request.target_count < CONTROL_TARGETS_MAX &&
               at + request.target_count < acting->pending_count) {
            request.targets[request.target_count] =
                acting->pending[at + request.target_count].target;
            request.target_count++;
        }
        if (!source_page(acting->source, &request))
            return false;
        for (uint32_t i = 0; i < acting->source->page->count; i++)
            pending_update(acting, &acting->source->page->items[i]);
    }
    for (uint32_t i = 0; i < acting->pending_count; i++) {
        const struct pending *pending = &acting->pending[i];

        if (pending->there)
            acting->pending[kept++] = *pending;
        else
            tell(acting, pending->target.id, acting->source->names[pending->hop],
                 pending->begun ? "removed" : "has ended: it was being delivered", true);
    }
    acting->pending_count = kept;
    return true;
}

static bool
pending_finish(struct acting *acting, uint32_t worker)
{
    uint64_t until_ns = clock_now_ns() + REMOVAL_SECONDS_MAX * NS_PER_S;
    uint64_t pause_ns = PAUSE_FIRST_NS;

    while (acting->pending_count > 0 && clock_now_ns() < until_ns) {
        struct timespec pause = { .tv_nsec = (long)pause_ns };

        nanosleep(&pause, NULL);
        pause_ns = pause_ns * 2 < PAUSE_MOST_NS ? pause_ns * 2 : PAUSE_MOST_NS;
        if (!pending_round(acting, worker))
            return false;
    }
    for (uint32_t i = 0; i < acting->pending_count; i++)
        tell(acting, acting->pending[i].target.id, acting->source->names[acting->pending[i].hop],
             result_text(acting->action, (enum control_outcome)acting->pending[i].outcome), false);
    acting->pending_count = 0;
    return true;
}

/* --- requests --- */

static bool
pages(struct acting *acting, struct control_request *request)
{
    uint32_t next;

    do {
        if (!source_page(acting->source, request))
            return false;
        next = acting->source->page->next;
        page_note(acting);
        if (!pending_finish(acting, request->worker))
            return false;
        request->from = next;
    } while (next != QUEUE_NONE);
    return true;
}

/* Whatever workers can choose by themselves. */
static bool
act_there(struct acting *acting)
{
    struct request_walk walk = { 0 };
    struct control_request request;

    while (source_request_next(acting->source, &walk, &request)) {
        request.action = acting->action;
        if (!pages(acting, &request))
            return false;
    }
    return true;
}

static bool
choose(void *context, const struct queue_message *message)
{
    struct choice *choice = context;
    struct chosen *chosen;

    if (choice->count == choice->size) {
        size_t size = choice->size == 0 ? 1024 : choice->size * 2;
        struct chosen *larger = realloc(choice->list, size * sizeof(*larger));

        if (larger == NULL) {
            choice->failed = true;
            return false;
        }
        choice->list = larger;
        choice->size = size;
    }
    chosen = &choice->list[choice->count++];
    *chosen = (struct chosen){ .target.index = message->item->index, .worker = message->worker };
    memcpy(chosen->target.id, message->item->id, sizeof(chosen->target.id));
    return true;
}

/* Workers do not know addresses: what is selected by these is chosen first, then acted on. */
static bool
act_on_chosen(struct acting *acting)
{
    struct choice *choice = &acting->choice;

    if (!source_each(acting->source, true, choose, choice))
        return false;
    if (choice->failed) {
        fputs("ringpost queue: no memory\n", acting->source->errors);
        return false;
    }
    for (size_t at = 0; at < choice->count;) {
        struct control_request request = { .action = acting->action,
                                           .worker = choice->list[at].worker };

        while (at < choice->count && choice->list[at].worker == request.worker &&
               request.target_count < CONTROL_TARGETS_MAX)
            request.targets[request.target_count++] = choice->list[at++].target;
        if (!pages(acting, &request))
            return false;
    }
    return true;
}

static void
tell_the_end(struct acting *acting)
{
    const struct queue_select *select = acting->source->select;

    for (uint32_t i = 0; i < select->id_count; i++)
        if (!acting->seen[i])
            tell(acting, select->ids[i], NULL,
                 select_is_ids(select) ? "not in the queue"
                                       : "not in the queue, or not what else was asked for",
                 false);
    if (acting->command->json)
        return;
    if (acting->done + acting->not_done == 0)
        fputs("No message of the queue is like that.\n", acting->out);
    else if (acting->done + acting->not_done > 1)
        fprintf(acting->out, "%llu message%s, %llu not done\n",
                (unsigned long long)(acting->done + acting->not_done),
                plural(acting->done + acting->not_done), (unsigned long long)acting->not_done);
}

int
queue_act(struct queue_source *source, const struct queue_command *command, FILE *out)
{
    static const enum control_action actions[VERB_VERBS] = {
        [VERB_HOLD] = CONTROL_HOLD,
        [VERB_RELEASE] = CONTROL_RELEASE,
        [VERB_RETRY] = CONTROL_RETRY,
        [VERB_REMOVE] = CONTROL_REMOVE,
    };
    struct acting *acting;
    bool good;

    if (!source->running) {
        source_tell_not_running(source, "and only it changes its queue: start it (systemctl start "
                                        "ringpost), then repeat this");
        return 1;
    }
    acting = calloc(1, sizeof(*acting));
    if (acting != NULL)
        acting->seen = calloc(command->select.id_count + 1, sizeof(bool));
    if (acting == NULL || acting->seen == NULL) {
        free(acting);
        fputs("ringpost queue: no memory\n", source->errors);
        return 1;
    }
    acting->source = source;
    acting->command = command;
    acting->action = actions[command->verb];
    acting->out = out;
    good = select_needs_record(&command->select) ? act_on_chosen(acting) : act_there(acting);
    if (good)
        tell_the_end(acting);
    good = good && acting->not_done == 0;
    free(acting->choice.list);
    free(acting->seen);
    free(acting);
    return good ? 0 : 1;
}
