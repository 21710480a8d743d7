/* What an attempt came to: results of single recipients, reports to the sender, marks.
 *
 * Order, so that nobody is forgotten: a report is durable before the mark that makes it the only
 * witness; a mark may be lost in a crash, and then the attempt is repeated. */
#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/custody.h"

/* --- notes: what the next hop said of single recipients --- */

struct note_record {
    const struct recipient *recipient;
    struct enhanced_code enhanced;
    uint16_t code, text_len;
    char text[];
};

struct note { /* a block of them */
    struct note *next;
    uint32_t used;
    _Alignas(struct note_record) char bytes[];
};

#define NOTE_ROOM (BLOCK_BYTES - sizeof(struct note))
#define NOTE_TEXT_MAX 512u
#define NOTE_ALIGNMENT _Alignof(struct note_record)

void
note_add(struct transaction *transaction, const struct recipient *recipient,
         const struct reply *reply)
{
    size_t len = reply->text_len < NOTE_TEXT_MAX ? reply->text_len : NOTE_TEXT_MAX;
    size_t bytes =
        (sizeof(struct note_record) + len + NOTE_ALIGNMENT - 1) / NOTE_ALIGNMENT * NOTE_ALIGNMENT;
    struct note *block = transaction->notes;
    struct note_record *record;

    if (block == NULL || NOTE_ROOM - block->used < bytes) {
        block = pool_take(&transaction->worker->blocks);
        if (block == NULL) {
            counter_increment(&transaction->worker->counters.pool_exhausted);
            return; /* the report says less of this one */
        }
        *block = (struct note){ .next = transaction->notes };
        transaction->notes = block;
    }
    record = (struct note_record *)(void *)(block->bytes + block->used);
    block->used += (uint32_t)bytes;
    *record = (struct note_record){ .recipient = recipient,
                                    .enhanced = reply->enhanced,
                                    .code = (uint16_t)reply->code,
                                    .text_len = (uint16_t)len };
    memcpy(record->text, reply->text, len);
}

void
notes_clear(struct transaction *transaction)
{
    while (transaction->notes != NULL) {
        struct note *next = transaction->notes->next;

        pool_release(&transaction->worker->blocks, transaction->notes);
        transaction->notes = next;
    }
}

/* What was said of it, or of the message as a whole. */
static void
note_reply(const struct transaction *transaction, const struct recipient *recipient,
           struct reply *reply)
{
    for (const struct note *block = transaction->notes; block != NULL; block = block->next) {
        for (uint32_t at = 0; at < block->used;) {
            const struct note_record *record =
                (const struct note_record *)(const void *)(block->bytes + at);

            if (record->recipient == recipient) {
                reply_clear(reply);
                reply->code = record->code;
                reply->enhanced = record->enhanced;
                reply->text_len = record->text_len;
                memcpy(reply->text, record->text, record->text_len);
                return;
            }
            at += (uint32_t)((sizeof(*record) + record->text_len + NOTE_ALIGNMENT - 1) /
                             NOTE_ALIGNMENT * NOTE_ALIGNMENT);
        }
    }
    *reply = transaction->final;
}

/* --- reports --- */

static uint64_t
seconds_of(const struct worker *worker)
{
    return worker->realtime_ns / NS_PER_S;
}

/* A message of ours, to be stored like any other. False: no room for it now. */
static bool
report_send(struct transaction *about, const struct bounce_recipient *recipients, uint32_t count,
            bool wait)
{
    struct worker *worker = about->worker;
    struct transaction *notice = transaction_new(worker);
    struct path null_path = { .null = true };
    struct path to = { .mailbox = about->envelope.reverse_path, .utf8 = about->envelope.utf8 };
    struct mail_parameters parameters = { .smtputf8 = about->envelope.smtputf8 };
    struct rcpt_parameters rcpt = { .notify = DSN_NOTIFY_NEVER };
    uint64_t arrival_s = about->arrival_ns / NS_PER_S;
    struct bounce bounce = {
        .hostname = span_text(worker->config->hostname),
        .original_id = span_text(about->id),
        .reverse_path = about->envelope.reverse_path,
        .envid = about->envelope.envid,
        .dsn_return = about->envelope.dsn_return,
        .smtputf8 = about->envelope.smtputf8,
        .arrival_s = arrival_s,
        .now_s = seconds_of(worker),
        .expires_s = arrival_s + worker->config->spool.expire_ms / 1000,
        .recipients = recipients,
        .count = count,
        .origin_client = about->origin.client,
    };
    uint32_t hop = courier_route(worker, about->envelope.reverse_path);
    bool eight_bit = false, whole = about->file == NULL && about->body.bytes > 0;

    if (notice == NULL)
        return false;
    notice->notice = true;
    worker_queue_id(worker, notice->id);
    bounce.id = span_text(notice->id);
    if (hop < worker->config->next_hop_count)
        notice->hop = &worker->hops[hop];
    if (!envelope_start(&notice->envelope, &worker->blocks, &null_path, &parameters) ||
        envelope_add(&notice->envelope, &to, &rcpt, RECIPIENT_ACCEPTED) == NULL ||
        !bounce_write(&bounce, worker->links.buffers, &about->body, whole, about->chunked,
                      &notice->body, &eight_bit, &notice->summary.size)) {
        transaction_free(notice);
        return false;
    }
    notice->summary.eight_bit = eight_bit;
    notice->summary.header_utf8 = false;
    notice->summary.ends_with_crlf = true;
    notice->complete = true;
    if (wait) {
        notice->parent = about;
        about->notices_pending++;
    }
    counter_increment(recipients[0].action == BOUNCE_FAILED    ? &worker->counters.reports_failed
                      : recipients[0].action == BOUNCE_DELAYED ? &worker->counters.reports_delayed
                                                               : &worker->counters.reports_relayed);
    custody_store(notice);
    return true;
}

/* One report for each COURIER_REPORT_RECIPIENTS_MAX recipients with this outcome; wait: the message
 * is not settled before they are stored. False: not all of it could be written. */
static bool
report(struct transaction *about, enum recipient_state outcome, enum bounce_action action,
       bool wait)
{
    struct courier *courier = about->worker->courier;
    const struct connection *connection = about->connection;
    struct envelope_cursor cursor = envelope_begin(&about->envelope);
    uint32_t count = 0;

    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        if (r->state != outcome || !bounce_wanted(about->envelope.reverse_path, r->notify, action))
            continue;
        note_reply(about, r, &courier->told_replies[count]);
        courier->told[count] = (struct bounce_recipient){
            .mailbox = recipient_mailbox(r),
            .orcpt = recipient_parameters(r).orcpt,
            .notify = r->notify,
            .action = action,
            .reply = &courier->told_replies[count],
            .server = connection != NULL
                          ? span_text(connection->hop->servers[connection->server].config->host)
                          : span_of(NULL, 0),
        };
        if (++count == COURIER_REPORT_RECIPIENTS_MAX) {
            if (!report_send(about, courier->told, count, wait))
                return false;
            count = 0;
        }
    }
    return count == 0 || report_send(about, courier->told, count, wait);
}

/* Whether the next hop will not tell of a success, so that we must: it has no DSN (RFC 3461 5.2.2).
 */
static bool
relayed_silently(const struct transaction *transaction)
{
    const struct connection *connection = transaction->connection;

    return connection != NULL && !connection->sender.offered.dsn;
}

static bool
wants_success(const struct transaction *transaction)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        if (r->notify & DSN_NOTIFY_SUCCESS)
            return true;
    return false;
}

void
courier_relayed(struct transaction *transaction)
{
    if (transaction->worker->courier == NULL || !relayed_silently(transaction) ||
        !wants_success(transaction))
        return;
    if (transaction->arrival_ns == 0)
        transaction->arrival_ns = transaction->worker->realtime_ns;
    /* The client has its answer whatever becomes of the report. */
    (void)!report(transaction, RECIPIENT_ACCEPTED, BOUNCE_RELAYED, false);
}

/* --- an attempt's end --- */

static struct queue_entry *
entry_of(const struct transaction *transaction)
{
    struct queue_entry *entry = queue_at(&transaction->worker->courier->queue, transaction->entry);

    ASSERT(entry != NULL);
    ASSERT(entry->state == QUEUE_ACTIVE);
    return entry;
}

/* Every recipient of the attempt gets its outcome. Returns how many were taken, deferred, failed.
 */
static void
outcomes(struct transaction *transaction, enum verdict_action action, bool expired)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        if (r->state == RECIPIENT_ACCEPTED || r->state == RECIPIENT_TAKEN)
            r->state = action == VERDICT_DELIVERED ? RECIPIENT_DELIVERED
                       : action == VERDICT_REFUSE  ? RECIPIENT_FAILED
                                                   : RECIPIENT_DEFERRED;
        if (r->state == RECIPIENT_DEFERRED && expired)
            r->state = RECIPIENT_FAILED;
    }
}

static uint32_t
outcome_count(const struct transaction *transaction, enum recipient_state outcome)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    uint32_t count = 0;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        count += r->state == outcome;
    return count;
}

void
courier_forget(struct courier *courier, const char id[16], const struct spool_place *place,
               uint32_t recipients, bool body_file)
{
    for (uint32_t i = 0; i < recipients; i++)
        spool_mark_set(courier->spool, place, i, (struct mark){ .state = MARK_REMOVED });
    spool_forget(courier->spool, place, id, body_file);
}

/* The record goes when none of its recipients waits. */
static void
record_finish(struct courier *courier, const struct queue_entry *entry)
{
    for (uint32_t i = 0; i < entry->record_recipients; i++)
        if (spool_mark(courier->spool, &entry->place, i).state == MARK_PENDING)
            return;
    spool_forget(courier->spool, &entry->place, entry->id, entry->flags & QUEUE_BODY_FILE);
}

/* The outcomes as marks; an attempt that was deferred gets its next time. */
static void
marks_write(struct transaction *transaction, const struct queue_entry *entry, uint32_t due_s)
{
    static const uint8_t state_of[] = {
        [RECIPIENT_DELIVERED] = MARK_DELIVERED, [RECIPIENT_FAILED] = MARK_FAILED
    };
    struct spool *spool = transaction->worker->courier->spool;
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    uint32_t index = 0;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        if (r->state == RECIPIENT_REFUSED)
            continue;
        if (r->state == RECIPIENT_DELIVERED || r->state == RECIPIENT_FAILED) {
            spool_mark_set(spool, &entry->place, index,
                           (struct mark){ .state = transaction->purpose == COURIER_REMOVE
                                                       ? MARK_REMOVED
                                                       : state_of[r->state],
                                          .attempts = entry->attempts });
        } else if (r->state == RECIPIENT_DEFERRED && due_s != 0) {
            struct mark mark = spool_mark(spool, &entry->place, index);

            mark.attempts = entry->attempts;
            mark.due_s = due_s;
            spool_mark_set(spool, &entry->place, index, mark);
        }
        index++;
    }
}

static void
count_outcomes(struct transaction *transaction)
{
    struct counters *counters = &transaction->worker->counters;

    if (transaction->purpose == COURIER_REMOVE)
        return;
    counter_add(&counters->queue_recipients_delivered,
                outcome_count(transaction, RECIPIENT_DELIVERED));
    counter_add(&counters->queue_recipients_deferred,
                outcome_count(transaction, RECIPIENT_DEFERRED));
    counter_add(&counters->queue_recipients_failed, outcome_count(transaction, RECIPIENT_FAILED));
}

/* Why it waits: what was said of the first one who does. The message's own verdict may be that the
 * others have it. */
static void
reason_set(const struct transaction *transaction, struct queue_entry *entry)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    struct reply said = transaction->final;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        if (r->state != RECIPIENT_DEFERRED)
            continue;
        note_reply(transaction, r, &said);
        break;
    }
    courier_set_reason(transaction->worker->courier, entry, &said);
}

/* All reports are durable (or are not to be had): marks and queue follow; the transaction ends. */
static void
settle(struct transaction *transaction)
{
    struct courier *courier = transaction->worker->courier;
    struct queue_entry *entry = entry_of(transaction);
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    uint32_t left, due_s = 0;

    if (transaction->notices_failed)
        for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
            if (r->state == RECIPIENT_FAILED &&
                bounce_wanted(transaction->envelope.reverse_path, r->notify, BOUNCE_FAILED))
                r->state = RECIPIENT_DEFERRED; /* its sender was not told: once more, later */
    count_outcomes(transaction);
    left = outcome_count(transaction, RECIPIENT_DEFERRED);
    if (left == 0) {
        marks_write(transaction, entry, 0);
        record_finish(courier, entry);
        courier_drop_entry(courier, entry);
    } else {
        entry->recipients = left;
        reason_set(transaction, entry);
        if (transaction->unreached && !transaction->notices_failed) {
            queue_park(&courier->queue, entry);
        } else {
            due_s = queue_defer(&courier->queue, entry);
        }
        marks_write(transaction, entry, due_s);
    }
    courier->active--;
    transaction_free(transaction);
}

/* The front of a body in a file, for the report: it is not in memory. */
static bool
front_missing(const struct transaction *transaction)
{
    const struct queue_entry *entry =
        queue_at(&transaction->worker->courier->queue, transaction->entry);

    return entry != NULL && (entry->flags & QUEUE_BODY_FILE) &&
           (outcome_count(transaction, RECIPIENT_FAILED) > 0 ||
            (transaction->relayed_silently && wants_success(transaction)));
}

static void
reports_begin(struct transaction *transaction)
{
    /* So that a report that is stored at once finds its parent still waiting. */
    transaction->notices_pending = 1;
    if (!report(transaction, RECIPIENT_FAILED, BOUNCE_FAILED, true))
        transaction->notices_failed = true;
    if (transaction->relayed_silently)
        (void)!report(transaction, RECIPIENT_DELIVERED, BOUNCE_RELAYED, false);
    transaction->connection = NULL;
    if (--transaction->notices_pending == 0)
        settle(transaction);
}

static void
front_read(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;

    if (transaction->file != NULL)
        spool_body_close(transaction->file, false);
    chain_release(worker->links.buffers, &transaction->body);
    transaction->file =
        spool_body_open(worker->courier->spool, transaction->id, worker->links.buffers,
                        transaction->body_bytes, transaction);
    if (transaction->file == NULL) {
        reports_begin(transaction); /* without the original's header */
        return;
    }
    transaction->reporting = true;
    transaction->connection = NULL;
    spool_body_read(transaction->file, &transaction->body, BOUNCE_HEADER_BYTES_MAX);
}

void
courier_report_read(struct transaction *transaction)
{
    if (spool_body_error(transaction->file) == 0 &&
        transaction->body.bytes < BOUNCE_HEADER_BYTES_MAX &&
        spool_body_left(transaction->file) > 0) {
        spool_body_read(transaction->file, &transaction->body, BOUNCE_HEADER_BYTES_MAX);
        return;
    }
    transaction->reporting = false;
    reports_begin(transaction);
}

static void
log_result(const struct transaction *transaction, enum verdict_action action,
           const struct reply *reply, bool expired)
{
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    bool delivered = outcome_count(transaction, RECIPIENT_DELIVERED) > 0;
    bool deferred = outcome_count(transaction, RECIPIENT_DEFERRED) > 0;

    transaction_log(transaction, "delivery",
                    delivered                     ? SPAN("delivered")
                    : expired                     ? SPAN("expired")
                    : action == VERDICT_AMBIGUOUS ? SPAN("ambiguous")
                    : deferred                    ? SPAN("deferred")
                                                  : SPAN("failed"),
                    reply);
    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;) {
        struct reply said;
        struct log_line line;

        if (transaction->notes == NULL ||
            (r->state != RECIPIENT_DEFERRED && r->state != RECIPIENT_FAILED))
            continue;
        note_reply(transaction, r, &said);
        log_begin(&line, LOG_LEVEL_INFO, "delivery_recipient");
        log_id(&line, span_text(transaction->id));
        log_text(&line, "to", recipient_mailbox(r));
        log_text(&line, "status", r->state == RECIPIENT_FAILED ? SPAN("failed") : SPAN("deferred"));
        log_number(&line, "code", said.code);
        log_text(&line, "reply", span_of(said.text, said.text_len));
        log_end(&line);
    }
}

void
courier_result(struct transaction *transaction, enum verdict_action action,
               const struct reply *reply)
{
    struct worker *worker = transaction->worker;
    struct courier *courier = worker->courier;
    bool expired;

    ASSERT(transaction->custody == CUSTODY_SPOOL);
    ASSERT(transaction->previous_waiting == NULL);
    timer_cancel(&worker->timers, &transaction->timer);
    if (reply != &transaction->final)
        transaction->final = *reply;
    if (transaction->entry == QUEUE_NONE) { /* the queue was full: see queue_full() */
        transaction->connection = NULL;
        transaction_free(transaction);
        return;
    }
    expired = queue_expired(&courier->queue, entry_of(transaction), (uint32_t)seconds_of(worker));
    transaction->relayed_silently = action == VERDICT_DELIVERED && relayed_silently(transaction);
    if (action == VERDICT_AMBIGUOUS) {
        counter_increment(&worker->counters.queue_duplicate_risk);
        if (!transaction->decided)
            counter_increment(&worker->counters.messages_ambiguous);
    }
    outcomes(transaction, action, expired);
    if (!transaction->decided) /* else custody_decided() has logged it */
        log_result(transaction, action, &transaction->final, expired);
    if (front_missing(transaction))
        front_read(transaction);
    else
        reports_begin(transaction);
}

void
courier_notice_done(struct transaction *notice, bool stored)
{
    struct transaction *parent = notice->parent;

    notice->parent = NULL;
    if (parent == NULL)
        return;
    ASSERT(parent->notices_pending > 0);
    parent->notices_failed |= !stored;
    if (--parent->notices_pending == 0)
        settle(parent);
}

/* --- what operators and time ask for --- */

void
courier_removed(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    reply_set(&transaction->final, 550, "5.7.0", SPAN("Removed by the operator"));
    transaction_log(transaction, "delivery", SPAN("removed"), &transaction->final);
    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        if (r->state == RECIPIENT_ACCEPTED)
            r->state = RECIPIENT_FAILED;
    counter_add(&worker->counters.queue_recipients_removed,
                outcome_count(transaction, RECIPIENT_FAILED));
    settle(transaction);
}

void
courier_tell_delay(struct transaction *transaction)
{
    struct courier *courier = transaction->worker->courier;
    struct queue_entry *entry = entry_of(transaction);
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);

    for (struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        if (r->state == RECIPIENT_ACCEPTED)
            r->state = RECIPIENT_DEFERRED;
    reply_set(&transaction->final, 451, "4.4.7", SPAN("Not delivered yet"));
    if (entry->reason != 0) {
        struct span why = span_text(courier->reasons[entry->reason].text);

        transaction->final.text_len = (uint16_t)why.len;
        memcpy(transaction->final.text, why.data, why.len);
    }
    /* It is told once, and not waited for: a delay notice that is lost harms nobody. */
    (void)!report(transaction, RECIPIENT_DEFERRED, BOUNCE_DELAYED, false);
    for (uint32_t i = 0; i < entry->record_recipients; i++) {
        struct mark mark = spool_mark(courier->spool, &entry->place, i);

        if (mark.state != MARK_PENDING)
            continue;
        mark.flags |= MARK_DELAY_TOLD;
        spool_mark_set(courier->spool, &entry->place, i, mark);
    }
    entry->flags |= QUEUE_DELAY_TOLD;
    queue_put_back(&courier->queue, entry);
    courier->active--;
    transaction_free(transaction);
}
