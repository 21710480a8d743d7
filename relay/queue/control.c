/* The worker's part of what operators ask: a little in each turn, however large the queue is, so
 * that nobody's mail waits for a person who looks at a million messages. */
#include "relay/queue/control.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/courier.h"
#include "relay/worker.h"

/* Entries that one turn looks at: some 50 us of memory that is not in the cache. */
#define LOOKS_PER_STEP 2000
/* Entries that one request looks at: a page that finds little comes back in time too. */
#define LOOKS_PER_REQUEST 200000
/* Comparing with so many ids costs as much as looking at an entry. */
#define TARGETS_PER_LOOK 8
/* Actions of a step, each worth a log line and marks; and the pause until the next, so that the log
 * has time for the lines of a million. */
#define ACTS_PER_STEP 50
#define RECIPIENTS_PER_ACT 16
#define ACT_PAUSE_NS (NS_PER_MS / 2)
/* An action that must wait for others does not keep its asker waiting for ever. */
#define GIVE_UP_NS (2 * NS_PER_S)
/* Removals read what they remove: half of the room for that stays free for mail. */
#define REMOVALS_MAX (COURIER_TRANSACTIONS_MAX / 2)

static uint32_t
seconds_of(const struct worker *worker)
{
    return (uint32_t)(worker->realtime_ns / NS_PER_S);
}

void
control_receive(struct courier *courier, struct control_mailbox *mailbox)
{
    struct control_pending *pending = &courier->control;

    ASSERT(__atomic_load_n(&mailbox->with_worker, __ATOMIC_ACQUIRE));
    mailbox->next = NULL;
    mailbox->cursor = mailbox->request.from;
    mailbox->looked = 0;
    mailbox->page.count = 0;
    mailbox->give_up_ns = courier->worker->now_ns + GIVE_UP_NS;
    if (pending->first == NULL)
        pending->first = mailbox;
    else
        pending->last->next = mailbox;
    pending->last = mailbox;
}

uint64_t
control_wakes_ns(const struct courier *courier)
{
    return courier->control.first != NULL ? courier->control.next_ns : UINT64_MAX;
}

/* --- which entries --- */

bool
control_matches(const struct control_request *request, const struct queue_entry *entry,
                uint32_t now_s)
{
    uint64_t age_s = now_s > entry->arrival_s ? now_s - entry->arrival_s : 0;

    return (request->states == 0 || (request->states & 1u << entry->state) != 0) &&
           (!request->hop_given || entry->hop == request->hop_index) && age_s >= request->age_min_s;
}

static bool
is_target(const struct control_request *request, const struct queue_entry *entry)
{
    for (uint32_t i = 0; i < request->target_count; i++)
        if (memcmp(request->targets[i].id, entry->id, sizeof(entry->id)) == 0)
            return true;
    return request->target_count == 0;
}

/* Every target says where it is: nothing needs to be looked for. */
static bool
is_direct(const struct control_request *request)
{
    for (uint32_t i = 0; i < request->target_count; i++)
        if (request->targets[i].index == QUEUE_NONE)
            return false;
    return request->target_count > 0;
}

/* --- what is done --- */

/* Its record is being copied to another segment, its marks with it: they must not change now. */
static bool
is_moving(const struct courier *courier, const struct queue_entry *entry)
{
    for (uint32_t i = 0; i < COURIER_MOVES_MAX; i++)
        if (courier->moves[i].owner != NULL &&
            courier->moves[i].from.segment == entry->place.segment &&
            courier->moves[i].from.offset == entry->place.offset)
            return true;
    return false;
}

static void
log_act(const struct courier *courier, const struct queue_entry *entry, const char *event,
        bool active)
{
    const struct config *config = courier->worker->config;
    struct log_line line;

    log_begin(&line, LOG_LEVEL_NOTICE, event);
    log_id(&line, span_text(entry->id));
    log_text(&line, "next_hop",
             entry->hop < config->next_hop_count ? span_text(config->next_hops[entry->hop].name)
                                                 : SPAN(CONTROL_NO_ROUTE));
    if (active)
        log_text(&line, "status", SPAN("being delivered"));
    log_end(&line);
}

static enum control_outcome
hold(struct courier *courier, struct queue_entry *entry, bool held)
{
    bool active = entry->state == QUEUE_ACTIVE;

    if (!active && held == (entry->state == QUEUE_HELD))
        return CONTROL_ALREADY;
    log_act(courier, entry, held ? "queue_held" : "queue_released", active);
    courier_hold(courier, entry, held);
    return active ? CONTROL_AFTER : CONTROL_DONE;
}

/* Also what a restart would find: due, and not held. */
static enum control_outcome
retry(struct courier *courier, struct queue_entry *entry)
{
    log_act(courier, entry, "queue_retried", entry->state == QUEUE_ACTIVE);
    for (uint32_t i = 0; i < entry->record_recipients; i++) {
        struct mark mark = spool_mark(courier->spool, &entry->place, i);

        if (mark.state != MARK_PENDING || (mark.due_s == 0 && (mark.flags & MARK_HELD) == 0))
            continue;
        mark.due_s = 0;
        mark.flags &= (uint8_t)~MARK_HELD;
        spool_mark_set(courier->spool, &entry->place, i, mark);
    }
    if (entry->hop < courier->worker->config->next_hop_count)
        hop_try_now(&courier->worker->hops[entry->hop]);
    return queue_retry(&courier->queue, entry) ? CONTROL_DONE : CONTROL_AFTER;
}

static enum control_outcome
remove_entry(struct courier *courier, struct queue_entry *entry)
{
    if (entry->state == QUEUE_ACTIVE) {
        /* Not tried again before the operator's next word. In memory only: it is meant for the few
         * seconds until then. */
        queue_hold(&courier->queue, entry);
        return CONTROL_AFTER;
    }
    if (courier->stopping || courier->active >= REMOVALS_MAX || !courier_remove(courier, entry))
        return CONTROL_BUSY;
    log_act(courier, entry, "queue_removed", false);
    return CONTROL_BEGUN;
}

static enum control_outcome
act(struct courier *courier, struct queue_entry *entry, enum control_action action)
{
    if (action == CONTROL_LIST)
        return CONTROL_LISTED;
    if (is_moving(courier, entry))
        return CONTROL_BUSY;
    switch (action) {
    case CONTROL_HOLD: return hold(courier, entry, true);
    case CONTROL_RELEASE: return hold(courier, entry, false);
    case CONTROL_RETRY: return retry(courier, entry);
    case CONTROL_REMOVE: return remove_entry(courier, entry);
    case CONTROL_LIST:
    case CONTROL_ACTIONS: break;
    }
    ASSERT(!"an action that is none");
    return CONTROL_BUSY;
}

/* --- a step --- */

static void
item_add(const struct courier *courier, struct control_page *page, const struct queue_entry *entry,
         enum control_outcome outcome)
{
    struct control_item *item = &page->items[page->count++];

    *item = (struct control_item){
        .size = entry->size,
        .offset = entry->place.offset,
        .segment = spool_segment_number(courier->spool, entry->place.segment),
        .index = pool_index(&courier->queue.entries, entry),
        .arrival_s = entry->arrival_s,
        .due_s = entry->due_s,
        .slot = entry->place.slot,
        .recipients = entry->recipients,
        .record_recipients = entry->record_recipients,
        .hop = entry->hop,
        .state = entry->state,
        .attempts = entry->attempts,
        .flags = entry->flags,
        .outcome = (uint8_t)outcome,
    };
    memcpy(item->id, entry->id, sizeof(item->id));
    _Static_assert(CONTROL_REASON_BYTES == COURIER_REASON_BYTES, "a reason fits");
    if (entry->reason != 0)
        memcpy(item->reason, courier->reasons[entry->reason].text, sizeof(item->reason));
}

struct budget {
    int32_t looks, acts;
};

/* False: not now; the same entry again in a later step. */
static bool
entry_visit(struct courier *courier, struct control_mailbox *mailbox, struct queue_entry *entry,
            struct budget *budget)
{
    enum control_action action = mailbox->request.action;
    enum control_outcome outcome;

    if (!control_matches(&mailbox->request, entry, seconds_of(courier->worker)))
        return true;
    outcome = act(courier, entry, action);
    if (outcome == CONTROL_BUSY && courier->worker->now_ns < mailbox->give_up_ns)
        return false;
    if (action != CONTROL_LIST)
        budget->acts -= (int32_t)(1 + entry->record_recipients / RECIPIENTS_PER_ACT);
    item_add(courier, &mailbox->page, entry, outcome);
    return true;
}

/* True: the page is finished. */
static bool
step_direct(struct courier *courier, struct control_mailbox *mailbox, struct budget *budget)
{
    const struct control_request *request = &mailbox->request;

    for (; mailbox->cursor < request->target_count; mailbox->cursor++) {
        const struct control_target *target = &request->targets[mailbox->cursor];
        struct queue_entry *entry = target->index < courier->queue.entries.touched
                                        ? queue_at(&courier->queue, target->index)
                                        : NULL;

        if (entry == NULL || memcmp(entry->id, target->id, sizeof(entry->id)) != 0)
            continue;
        if (budget->acts <= 0 || !entry_visit(courier, mailbox, entry, budget))
            return false;
    }
    mailbox->page.next = QUEUE_NONE;
    return true;
}

static bool
step_scan(struct courier *courier, struct control_mailbox *mailbox, struct budget *budget)
{
    const struct control_request *request = &mailbox->request;
    int32_t cost = (int32_t)(1 + request->target_count / TARGETS_PER_LOOK);

    for (; mailbox->cursor < courier->queue.entries.touched; mailbox->cursor++) {
        struct queue_entry *entry = queue_at(&courier->queue, mailbox->cursor);

        if (mailbox->page.count == CONTROL_ITEMS_MAX || mailbox->looked >= LOOKS_PER_REQUEST) {
            mailbox->page.next = mailbox->cursor;
            return true;
        }
        if (budget->looks <= 0 || budget->acts <= 0)
            return false;
        budget->looks -= cost;
        mailbox->looked++;
        if (entry != NULL && is_target(request, entry) &&
            !entry_visit(courier, mailbox, entry, budget))
            return false;
    }
    mailbox->page.next = QUEUE_NONE;
    return true;
}

static void
page_finish(struct courier *courier, struct control_mailbox *mailbox)
{
    struct spool_progress progress = spool_progress(courier->spool);
    struct control_page *page = &mailbox->page;
    struct worker *worker = courier->worker;

    page->worker = worker->index;
    page->workers = worker->relay->worker_count;
    page->now_s = seconds_of(worker);
    page->recovered = courier->recovered;
    page->segments = progress.segments;
    page->segments_done = progress.segments_done;
    courier->control.first = mailbox->next;
    io_post(worker->io, mailbox->answer_to, mailbox->answer, 0);
    /* The asker's from here on. It hears of it when this turn's operations are submitted. */
    __atomic_store_n(&mailbox->with_worker, false, __ATOMIC_RELEASE);
}

void
control_step(struct courier *courier)
{
    struct control_pending *pending = &courier->control;
    struct control_mailbox *mailbox = pending->first;
    struct budget budget = { .looks = LOOKS_PER_STEP, .acts = ACTS_PER_STEP };
    bool finished;

    if (mailbox == NULL || courier->worker->now_ns < pending->next_ns)
        return;
    finished = is_direct(&mailbox->request) ? step_direct(courier, mailbox, &budget)
                                            : step_scan(courier, mailbox, &budget);
    if (mailbox->request.action != CONTROL_LIST)
        pending->next_ns = courier->worker->now_ns + ACT_PAUSE_NS;
    if (finished)
        page_finish(courier, mailbox);
}
