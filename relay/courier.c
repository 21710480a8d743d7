/* The worker's part between spool, queue and next hops: events, time, reading what is due. */
#include "relay/courier.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/custody.h"
#include "relay/route.h"

/* Entries that one turn may move to READY, and steps of the sweep: both go on in the next turn. */
#define TICK_BUDGET 2000
#define RISE_BUDGET 1000
#define SWEEP_BUDGET_MIN 256
/* One round of the sweep over all entries. */
#define SWEEP_SECONDS 60
/* Of a next hop's connections, what the queue may use: new mail finds the rest. */
#define HOP_SHARE(connections) ((connections) - (connections) / 4)

static uint32_t
seconds_of(const struct worker *worker)
{
    return (uint32_t)(worker->realtime_ns / NS_PER_S);
}

struct courier *
courier_create(struct worker *worker)
{
    const struct config_spool *config = &worker->config->spool;
    struct courier *courier = io_memory(sizeof(*courier));
    struct queue_schedule schedule = { .expire_s = (uint32_t)(config->expire_ms / 1000),
                                       .delay_s = (uint32_t)(config->delay_notice_ms / 1000) };
    uint32_t *retry_s = io_memory(config->retry_count * sizeof(*retry_s));

    if (courier == NULL || retry_s == NULL)
        return NULL;
    for (size_t i = 0; i < config->retry_count; i++)
        retry_s[i] = (uint32_t)(config->retry_ms[i] / 1000);
    schedule.retry_s = retry_s;
    schedule.retry_count = (uint32_t)config->retry_count;
    courier->worker = worker;
    courier->clean_segment = UINT32_MAX;
    courier->reasons = io_memory(COURIER_REASONS_MAX * sizeof(*courier->reasons));
    courier->told = io_memory(COURIER_REPORT_RECIPIENTS_MAX * sizeof(*courier->told));
    courier->told_replies = io_memory(COURIER_REPORT_RECIPIENTS_MAX * sizeof(struct reply));
    if (courier->reasons == NULL || courier->told == NULL || courier->told_replies == NULL ||
        !courier_clean_init(courier))
        return NULL;
    /* One line more than next hops: for recipients whose route is gone. */
    if (!queue_init(&courier->queue, (uint32_t)worker->config->next_hop_count + 1,
                    worker->config->spool.messages, &schedule, seconds_of(worker),
                    worker->realtime_ns))
        return NULL;
    courier->spool =
        spool_create(&worker->relay->spool, worker->config, worker->io, &worker->counters,
                     WORKER_SPOOL, worker->index, worker->relay->worker_count);
    return courier->spool != NULL ? courier : NULL;
}

void
courier_destroy(struct courier *courier)
{
    const struct config_spool *config;

    if (courier == NULL)
        return;
    config = &courier->worker->config->spool;
    spool_destroy(courier->spool);
    io_memory_free((void *)(uintptr_t)courier->queue.schedule.retry_s,
                   config->retry_count * sizeof(uint32_t));
    queue_destroy(&courier->queue);
    io_memory_free(courier->reasons, COURIER_REASONS_MAX * sizeof(*courier->reasons));
    io_memory_free(courier->told, COURIER_REPORT_RECIPIENTS_MAX * sizeof(*courier->told));
    io_memory_free(courier->told_replies, COURIER_REPORT_RECIPIENTS_MAX * sizeof(struct reply));
    courier_clean_destroy(courier);
    io_memory_free(courier, sizeof(*courier));
}

bool
courier_room(const struct courier *courier)
{
    /* Messages may be on their way that have no entry yet, each with one per next hop. */
    return courier->queue.entries.used + COURIER_TRANSACTIONS_MAX + NEXT_HOPS_MAX <
           courier->queue.entries.capacity;
}

/* --- reasons: why a message still waits, for people --- */

static struct span
reason_text(const struct reply *reply, char text[COURIER_REASON_BYTES])
{
    struct outbuf out = { .data = text, .size = COURIER_REASON_BYTES - 1 };

    reply_codes_write(reply, &out);
    outbuf_add_some(&out, span_of(reply->text, reply->text_len));
    for (size_t i = 0; i < out.len; i++)
        if ((unsigned char)text[i] < ' ')
            text[i] = ' ';
    text[out.len] = '\0';
    return outbuf_span(&out);
}

static void
reason_drop(struct courier *courier, struct queue_entry *entry)
{
    if (entry->reason != 0) {
        ASSERT(courier->reasons[entry->reason].uses > 0);
        courier->reasons[entry->reason].uses--;
    }
    entry->reason = 0;
}

void
courier_set_reason(struct courier *courier, struct queue_entry *entry, const struct reply *reply)
{
    char text[COURIER_REASON_BYTES];
    struct span reason = reason_text(reply, text);
    uint16_t free = 0;

    reason_drop(courier, entry);
    for (uint16_t i = 1; i < COURIER_REASONS_MAX; i++) {
        struct courier_reason *known = &courier->reasons[i];

        if (known->uses == 0) {
            if (free == 0)
                free = i;
        } else if (strncmp(known->text, reason.data, COURIER_REASON_BYTES) == 0) {
            known->uses++;
            entry->reason = i;
            return;
        }
    }
    if (free == 0)
        return; /* more different texts than anybody reads */
    memcpy(courier->reasons[free].text, text, sizeof(text));
    courier->reasons[free].uses = 1;
    entry->reason = free;
}

void
courier_drop_entry(struct courier *courier, struct queue_entry *entry)
{
    reason_drop(courier, entry);
    queue_remove(&courier->queue, entry);
}

/* --- entries --- */

uint32_t
courier_route(const struct worker *worker, struct span mailbox)
{
    struct path path = { .mailbox = mailbox };
    uint32_t hop;

    for (size_t i = mailbox.len; i > 0; i--) {
        if (mailbox.data[i - 1] == '@') {
            path.domain = span_after(mailbox, i);
            break;
        }
    }
    hop = route_find(worker->config, &path);
    return hop == ROUTE_NONE ? (uint32_t)worker->config->next_hop_count : hop;
}

static struct queue_entry
entry_of(const struct record *record, const struct spool_place *place, uint32_t hop)
{
    struct queue_entry entry = {
        .place = *place,
        .size = record->size,
        .arrival_s = (uint32_t)(record->arrival_ns / NS_PER_S),
        .record_recipients = record->recipients,
        .hop = (uint16_t)hop,
        .flags = (uint8_t)((record->flags & RECORD_BODY_FILE ? QUEUE_BODY_FILE : 0) |
                           (record->flags & RECORD_NOTICE ? QUEUE_NOTICE : 0)),
    };

    memcpy(entry.id, record->id, sizeof(entry.id));
    return entry;
}

static void
queue_full(struct courier *courier, const char *id)
{
    struct log_line line;

    courier->unlisted = true;
    log_begin(&line, LOG_LEVEL_ERROR, "queue_full");
    log_id(&line, span_text(id));
    log_text(&line, "reason",
             SPAN("more messages than spool.messages: it waits in the spool for the next start"));
    log_end(&line);
}

void
courier_enter(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct courier *courier = worker->courier;
    const struct spool_store *store = &transaction->store;
    uint32_t own = transaction->hop != NULL ? transaction->hop->index
                                            : (uint32_t)worker->config->next_hop_count;
    uint32_t counts[NEXT_HOPS_MAX + 1] = { 0 };
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        uint32_t hop;

        if (r->state == RECIPIENT_REFUSED)
            continue;
        hop = courier_route(worker, recipient_mailbox(r));
        counts[hop]++;
        if (hop != own)
            r->state = RECIPIENT_ELSEWHERE;
    }
    for (uint32_t hop = 0; hop <= worker->config->next_hop_count; hop++) {
        struct queue_entry entry, *added;

        if (counts[hop] == 0)
            continue;
        entry = entry_of(&store->record, &store->place, hop);
        entry.recipients = counts[hop];
        added = queue_add(&courier->queue, &entry, hop == own ? UINT32_MAX : 0, false);
        if (added == NULL)
            queue_full(courier, transaction->id);
        else if (hop == own) {
            transaction->entry = pool_index(&courier->queue.entries, added);
            courier->active++;
        }
    }
}

/* Found at start: one entry for each next hop of those who still wait. */
static void
found(struct courier *courier, const struct spool_event *event)
{
    struct worker *worker = courier->worker;
    struct record_envelope envelope = *event->envelope;
    struct record_recipient recipient;
    uint32_t hops = (uint32_t)worker->config->next_hop_count, index = 0;
    struct {
        uint32_t count, due_s;
        uint8_t attempts;
        bool held, told;
    } by_hop[NEXT_HOPS_MAX + 1] = { 0 };

    for (; record_recipient_next(&envelope, &recipient); index++) {
        struct mark mark = spool_mark(courier->spool, &event->place, index);
        uint32_t hop;

        if (mark.state != MARK_PENDING)
            continue;
        hop = courier_route(worker, recipient.mailbox);
        by_hop[hop].count++;
        by_hop[hop].held |= (mark.flags & MARK_HELD) != 0;
        by_hop[hop].told |= (mark.flags & MARK_DELAY_TOLD) != 0;
        if (mark.attempts > by_hop[hop].attempts)
            by_hop[hop].attempts = mark.attempts;
        if (mark.due_s > by_hop[hop].due_s)
            by_hop[hop].due_s = mark.due_s;
    }
    for (uint32_t hop = 0; hop <= hops; hop++) {
        struct queue_entry entry;

        if (by_hop[hop].count == 0)
            continue;
        entry = entry_of(event->record, &event->place, hop);
        entry.recipients = by_hop[hop].count;
        entry.attempts = by_hop[hop].attempts;
        entry.flags |= (uint8_t)(QUEUE_RECOVERED | (by_hop[hop].told ? QUEUE_DELAY_TOLD : 0));
        /* It was due when the process before us died: it may have been on its way. */
        if (worker->relay->spool.unclean && by_hop[hop].due_s <= seconds_of(worker))
            counter_increment(&worker->counters.queue_duplicate_risk);
        if (queue_add(&courier->queue, &entry, by_hop[hop].due_s, by_hop[hop].held) == NULL)
            queue_full(courier, entry.id);
    }
}

/* --- events --- */

void
courier_events(struct courier *courier)
{
    struct spool_event event;
    struct log_line line;

    while (spool_event(courier->spool, &event)) {
        switch (event.kind) {
        case SPOOL_STORED: custody_stored(event.store->owner); break;
        case SPOOL_LOADED: courier_loaded(courier, event.load->owner); break;
        case SPOOL_BODY: courier_body_moved(event.owner); break;
        case SPOOL_FOUND: found(courier, &event); break;
        case SPOOL_RECOVERED:
            courier->recovered = true;
            log_begin(&line, LOG_LEVEL_NOTICE, "queue_recovered");
            log_number(&line, "worker", courier->worker->index);
            log_number(&line, "entries", courier->queue.entries.used);
            log_end(&line);
            break;
        case SPOOL_CLEAN: courier_clean(courier, event.segment); break;
        case SPOOL_MOVED: courier_moved(courier, event.move); break;
        }
    }
}

/* --- what can be begun --- */

static bool
buffers_scarce(const struct worker *worker)
{
    const struct buffers *buffers = worker->links.buffers;

    /* Clients' messages go first: half of the buffers are theirs alone. */
    return buffers->free_count < BUFFERS_RESERVED + buffers->count / 2 ||
           worker->now_ns < worker->courier->starved_ns;
}

static uint32_t
hop_limit(const struct worker *worker, uint32_t hop)
{
    return hop < worker->config->next_hop_count ? HOP_SHARE(worker->hops[hop].config->connections)
                                                : 1;
}

static bool
hop_open(const struct worker *worker, uint32_t hop)
{
    return hop >= worker->config->next_hop_count || hop_reachable(&worker->hops[hop]);
}

/* What was just stored is at hand: in mode spool, where no client waits for a connection, it had
 * better wait for one than be read again. Half of all places stay for other next hops. */
static uint32_t
first_limit(const struct courier *courier, uint32_t hop)
{
    const struct worker *worker = courier->worker;

    return custody_first(worker) && hop < worker->config->next_hop_count &&
                   courier->active < COURIER_TRANSACTIONS_MAX / 2
               ? worker->hops[hop].config->connections * 4
               : hop_limit(worker, hop);
}

void
courier_first_attempt(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct courier *courier = worker->courier;
    struct queue_entry *entry = queue_at(&courier->queue, transaction->entry);
    uint32_t hop;

    if (transaction->entry == QUEUE_NONE) { /* no room in the queue: the next start finds it */
        transaction_free(transaction);
        return;
    }
    ASSERT(entry != NULL);
    hop = entry->hop;
    if (courier->stopping || (entry->flags & QUEUE_BODY_FILE) || buffers_scarce(worker) ||
        courier->active > COURIER_TRANSACTIONS_MAX || !hop_open(worker, hop) ||
        courier->queue.lines[hop].active > first_limit(courier, hop) ||
        queue_has_ready(&courier->queue, hop)) {
        courier_put_back(transaction);
        return;
    }
    courier_begin(transaction);
}

static void
feed_hop(struct courier *courier, uint32_t hop)
{
    struct worker *worker = courier->worker;
    uint32_t limit = hop_limit(worker, hop);

    while (queue_has_ready(&courier->queue, hop) && hop_open(worker, hop) &&
           courier->active < COURIER_TRANSACTIONS_MAX && !buffers_scarce(worker)) {
        struct queue_entry *entry = queue_next(&courier->queue, hop, limit);

        if (entry == NULL || !courier_load(courier, entry, COURIER_DELIVER))
            return;
    }
}

static void
feed(struct courier *courier)
{
    if (courier->queue.counts.messages[QUEUE_READY] == 0)
        return;
    for (uint32_t hop = 0; hop < courier->queue.hop_count; hop++)
        feed_hop(courier, hop);
}

/* A next hop that could not be reached: one message at a time finds out, no sooner than its servers
 * may be tried. */
static void
probe_parked(struct courier *courier)
{
    for (uint32_t hop = 0; hop < courier->worker->config->next_hop_count; hop++) {
        const struct queue_line *line = &courier->queue.lines[hop];

        if (line->parked > 0 && line->ready == 0 && line->active == 0 &&
            hop_reachable(&courier->worker->hops[hop]))
            queue_hop_up(&courier->queue, hop, 1);
    }
}

void
courier_hop_up(struct worker *worker, uint32_t hop)
{
    if (worker->courier != NULL)
        worker->courier->rising[hop] = worker->courier->any_rising = true;
}

/* A bounded number in each turn: a next hop may have a million messages parked. */
static void
rise(struct courier *courier)
{
    if (!courier->any_rising)
        return;
    courier->any_rising = false;
    for (uint32_t hop = 0; hop < courier->worker->config->next_hop_count; hop++) {
        if (!courier->rising[hop])
            continue;
        queue_hop_up(&courier->queue, hop, RISE_BUDGET);
        courier->rising[hop] =
            courier->queue.lines[hop].parked > 0 && hop_reachable(&courier->worker->hops[hop]);
        courier->any_rising |= courier->rising[hop];
    }
}

static void
sweep(struct courier *courier, uint32_t now_s)
{
    uint32_t budget = courier->queue.entries.touched / SWEEP_SECONDS + SWEEP_BUDGET_MIN;
    struct queue_entry *entry;
    enum queue_finding finding;
    bool wrapped;

    while (courier->active < COURIER_TRANSACTIONS_MAX && !buffers_scarce(courier->worker) &&
           (finding = queue_sweep(&courier->queue, now_s, &budget, &entry, &wrapped)) !=
               QUEUE_NOTHING)
        if (!courier_load(courier, entry,
                          finding == QUEUE_EXPIRED ? COURIER_EXPIRE : COURIER_TELL_DELAY))
            return;
}

static void
count_queue(struct courier *courier)
{
    struct counters *counters = &courier->worker->counters;
    const struct queue_counts *counts = &courier->queue.counts;

    counter_set(&counters->queue_messages_ready, counts->messages[QUEUE_READY]);
    counter_set(&counters->queue_messages_waiting, counts->messages[QUEUE_WAITING]);
    counter_set(&counters->queue_messages_parked, counts->messages[QUEUE_PARKED]);
    counter_set(&counters->queue_messages_active, counts->messages[QUEUE_ACTIVE]);
    counter_set(&counters->queue_messages_held, counts->messages[QUEUE_HELD]);
    counter_set(&counters->queue_bytes_ready, counts->bytes[QUEUE_READY]);
    counter_set(&counters->queue_bytes_waiting, counts->bytes[QUEUE_WAITING]);
    counter_set(&counters->queue_bytes_parked, counts->bytes[QUEUE_PARKED]);
    counter_set(&counters->queue_bytes_active, counts->bytes[QUEUE_ACTIVE]);
    counter_set(&counters->queue_bytes_held, counts->bytes[QUEUE_HELD]);
}

static uint64_t
age_s(const struct courier *courier, enum queue_state state)
{
    uint32_t now_s = seconds_of(courier->worker), arrival_s = courier->queue.oldest_s[state];

    return courier->queue.counts.messages[state] > 0 && arrival_s != 0 && now_s > arrival_s
               ? now_s - arrival_s
               : 0;
}

static void
count_oldest(struct courier *courier)
{
    struct counters *counters = &courier->worker->counters;
    const struct spool_directory *directory = &courier->worker->relay->spool;
    int64_t room = __atomic_load_n(&directory->room_bytes, __ATOMIC_RELAXED) -
                   (int64_t)__atomic_load_n(&directory->reserved_bytes, __ATOMIC_RELAXED);

    counter_set(&counters->spool_room_bytes, room > 0 ? (uint64_t)room : 0);
    counter_set(&counters->queue_oldest_ready_s, age_s(courier, QUEUE_READY));
    counter_set(&counters->queue_oldest_waiting_s, age_s(courier, QUEUE_WAITING));
    counter_set(&counters->queue_oldest_parked_s, age_s(courier, QUEUE_PARKED));
    counter_set(&counters->queue_oldest_active_s, age_s(courier, QUEUE_ACTIVE));
    counter_set(&counters->queue_oldest_held_s, age_s(courier, QUEUE_HELD));
}

void
courier_turn(struct courier *courier)
{
    struct worker *worker = courier->worker;

    if (worker->now_ns >= courier->second_ns || courier->tick_again) {
        uint32_t now_s = seconds_of(worker);

        courier->tick_again = !queue_tick(&courier->queue, now_s, TICK_BUDGET);
        if (worker->now_ns >= courier->second_ns) {
            courier->second_ns = worker->now_ns + NS_PER_S;
            count_oldest(courier);
            if (!courier->stopping) {
                sweep(courier, now_s);
                probe_parked(courier);
            }
        }
    }
    if (!courier->stopping) {
        rise(courier);
        feed(courier);
        courier_clean_step(courier);
    }
    control_step(courier);
    count_queue(courier);
    spool_turn(courier->spool, worker->now_ns, worker->realtime_ns);
}

uint64_t
courier_wakes_ns(const struct courier *courier)
{
    uint64_t wakes = spool_wakes_ns(courier->spool);

    /* While it stops nothing rises any more: courier_turn(). */
#ifdef CANARY_TURNS_WHILE_STOPPING
    if (courier->any_rising)
        return 0;
#endif
    if (courier->tick_again || (courier->any_rising && !courier->stopping))
        return 0;
    if (courier->queue.entries.used > 0 && courier->second_ns < wakes)
        wakes = courier->second_ns;
    return control_wakes_ns(courier) < wakes ? control_wakes_ns(courier) : wakes;
}

/* --- the end --- */

void
courier_stop(struct courier *courier)
{
    struct worker *worker = courier->worker;
    uint64_t soon_ns = worker->now_ns + worker->config->timeouts.drain_ms / 3 * NS_PER_MS;

    courier->stopping = true;
    for (uint32_t i = 0; i < worker->transactions.touched; i++) {
        struct transaction *transaction;

        if (!pool_in_use(&worker->transactions, i))
            continue;
        transaction = pool_at(&worker->transactions, i);
        if (transaction->custody == CUSTODY_SPOOL && transaction->previous_waiting != NULL) {
            /* Nobody waits for it, and it waits for a connection: it is as well in the spool. */
            hop_withdraw(transaction->hop, transaction);
            courier_put_back(transaction);
        } else if (transaction->complete && custody_may_take(transaction) &&
                   timer_is_set(&transaction->timer) && transaction->timer.deadline_ns > soon_ns) {
            /* A verdict that a client waits for: the spool answers if it is late. */
            timer_set(&worker->timers, &transaction->timer, soon_ns);
        }
    }
}

bool
courier_stopped(struct courier *courier)
{
    struct worker *worker = courier->worker;

    spool_stop(courier->spool);
    if (!spool_idle(courier->spool))
        return false;
    worker->marks_lost = !spool_marks_durable(courier->spool);
    if (worker->marks_lost)
        log_plain(LOG_LEVEL_WARNING,
                  "spool: worker %u could not write all of what became of messages: some may be "
                  "delivered twice",
                  worker->index);
    return true;
}

/* --- operators --- */

void
courier_hold(struct courier *courier, struct queue_entry *entry, bool held)
{
    for (uint32_t i = 0; i < entry->record_recipients; i++) {
        struct mark mark = spool_mark(courier->spool, &entry->place, i);

        if (mark.state != MARK_PENDING)
            continue;
        mark.flags = (uint8_t)(held ? mark.flags | MARK_HELD : mark.flags & ~MARK_HELD);
        spool_mark_set(courier->spool, &entry->place, i, mark);
    }
    if (held)
        queue_hold(&courier->queue, entry);
    else
        queue_release(&courier->queue, entry);
}

bool
courier_remove(struct courier *courier, struct queue_entry *entry)
{
    if (entry->flags & QUEUE_PAUSED || !queue_take(&courier->queue, entry))
        return false;
    return courier_load(courier, entry, COURIER_REMOVE);
}
