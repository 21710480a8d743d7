/* A stored message comes back: its record read, made a transaction without a client, and begun. */
#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/custody.h"

/* Without a free buffer reading is pointless for so long. */
#define STARVED_PAUSE_NS (50 * NS_PER_MS)

static struct queue_entry *
entry_at(struct courier *courier, const struct transaction *transaction)
{
    struct queue_entry *entry = queue_at(&courier->queue, transaction->entry);

    ASSERT(entry != NULL);
    ASSERT(entry->state == QUEUE_ACTIVE);
    return entry;
}

/* The entry is ACTIVE. False: no room; it is READY again. */
bool
courier_load(struct courier *courier, struct queue_entry *entry, enum courier_purpose purpose)
{
    struct worker *worker = courier->worker;
    struct transaction *transaction =
        courier->active < COURIER_TRANSACTIONS_MAX ? transaction_new(worker) : NULL;

    if (transaction == NULL) {
        queue_put_back(&courier->queue, entry);
        return false;
    }
    courier->active++;
    transaction->custody = CUSTODY_SPOOL;
    transaction->purpose = (uint8_t)purpose;
    transaction->entry = pool_index(&courier->queue.entries, entry);
    transaction->notice = entry->flags & QUEUE_NOTICE;
    if (entry->hop < worker->config->next_hop_count)
        transaction->hop = &worker->hops[entry->hop];
    memcpy(transaction->id, entry->id, sizeof(transaction->id));
    transaction->load = (struct spool_load){ .place = entry->place,
                                             .buffers = worker->links.buffers,
                                             .owner = transaction };
    spool_load(courier->spool, &transaction->load);
    return true;
}

static bool
has_8bit(struct span text)
{
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.data[i] > 127)
            return true;
    return false;
}

static bool
origin_copy(struct transaction *transaction, const struct record_origin *origin)
{
    struct outbuf out = { .size = BLOCK_BYTES };
    const struct span *from[] = { &origin->trace, &origin->client, &origin->helo };
    struct span *to[] = { &transaction->origin.trace, &transaction->origin.client,
                          &transaction->origin.helo };

    if (origin->trace.len + origin->client.len + origin->helo.len > BLOCK_BYTES)
        return false;
    transaction->origin_block = pool_take(&transaction->worker->blocks);
    if (transaction->origin_block == NULL)
        return false;
    out.data = transaction->origin_block;
    for (size_t i = 0; i < 3; i++) {
        *to[i] = span_of(out.data + out.len, from[i]->len);
        outbuf_add(&out, *from[i]);
    }
    return true;
}

/* The envelope, with those marked ELSEWHERE who are finished or go to another next hop: the order
 * is that of the marks. */
static bool
envelope_copy(struct transaction *transaction, struct record_envelope *from)
{
    struct worker *worker = transaction->worker;
    const struct queue_entry *entry = queue_at(&worker->courier->queue, transaction->entry);
    struct path reverse_path = { .mailbox = from->reverse_path, .utf8 = from->utf8 };
    struct mail_parameters parameters = { .size = from->declared_size,
                                          .body = from->body,
                                          .dsn_return = from->dsn_return,
                                          .smtputf8 = from->smtputf8,
                                          .envid = from->envid };
    struct record_recipient recipient;

    if (!envelope_start(&transaction->envelope, &worker->blocks, &reverse_path, &parameters))
        return false;
    for (uint32_t index = 0; record_recipient_next(from, &recipient); index++) {
        struct path path = { .mailbox = recipient.mailbox, .utf8 = has_8bit(recipient.mailbox) };
        struct rcpt_parameters rcpt = { .notify = recipient.notify, .orcpt = recipient.orcpt };
        struct mark mark = spool_mark(worker->courier->spool, &entry->place, index);
        bool ours =
            mark.state == MARK_PENDING && courier_route(worker, recipient.mailbox) == entry->hop;

#ifdef CANARY_RECIPIENT_DROPPED
        ours = ours && (mark.attempts == 0 || index == 0);
#endif
        if (envelope_add(&transaction->envelope, &path, &rcpt,
                         ours ? RECIPIENT_ACCEPTED : RECIPIENT_ELSEWHERE) == NULL)
            return false;
    }
    return true;
}

void
courier_put_back(struct transaction *transaction)
{
    struct courier *courier = transaction->worker->courier;

    queue_put_back(&courier->queue, entry_at(courier, transaction));
    courier->active--;
    transaction_free(transaction);
}

/* It cannot be read. It stays, held, for a person to look at. */
static void
unreadable(struct transaction *transaction, int error)
{
    struct courier *courier = transaction->worker->courier;
    struct queue_entry *entry = entry_at(courier, transaction);
    struct log_line line;

    log_begin(&line, LOG_LEVEL_ERROR, "message_unreadable");
    log_id(&line, span_text(transaction->id));
    log_text(&line, "reason", span_text(io_error_text(error)));
    log_text(&line, "status", SPAN("held"));
    log_end(&line);
    queue_put_back(&courier->queue, entry);
    courier_hold(courier, entry, true);
    courier->active--;
    transaction_free(transaction);
}

void
courier_read(struct transaction *transaction)
{
    spool_body_read(transaction->file, &transaction->body,
                    transaction->worker->config->delivery.buffer);
}

static bool
body_open(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;

    transaction->streaming = true;
    transaction->body_bytes = transaction->load.record.body_bytes;
    transaction->file =
        spool_body_open(worker->courier->spool, transaction->id, worker->links.buffers,
                        transaction->body_bytes, transaction);
    if (transaction->file == NULL)
        return false;
    courier_read(transaction);
    return true;
}

static void
expired_reply(const struct courier *courier, const struct queue_entry *entry, struct reply *reply)
{
    char text[COURIER_REASON_BYTES + 64];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    outbuf_add(&out, SPAN("Delivery time expired"));
    if (entry->reason != 0) {
        outbuf_add(&out, SPAN("; last: "));
        outbuf_add(&out, span_text(courier->reasons[entry->reason].text));
    }
    reply_set(reply, 451, "4.4.7", outbuf_span(&out));
}

void
courier_begin(struct transaction *transaction)
{
    struct courier *courier = transaction->worker->courier;
    struct queue_entry *entry = entry_at(courier, transaction);
    struct reply reply;

    if (transaction->purpose == COURIER_REMOVE) {
        courier_removed(transaction);
    } else if (transaction->hop == NULL) {
        /* There was one when we took it: the configuration's matter, so nobody is refused. */
        reply_set(&reply, 451, "4.4.4", SPAN("No route to this domain"));
        courier_result(transaction, VERDICT_DEFER, &reply);
    } else if (transaction->purpose == COURIER_TELL_DELAY) {
        courier_tell_delay(transaction);
    } else if (transaction->purpose == COURIER_EXPIRE ||
               queue_expired(&courier->queue, entry,
                             (uint32_t)(transaction->worker->realtime_ns / NS_PER_S))) {
        expired_reply(courier, entry, &reply);
        courier_result(transaction, VERDICT_DEFER, &reply); /* which sees that it is over */
    } else {
#ifdef CANARY_MARK_BEFORE_VERDICT
        for (uint32_t i = 0; i < entry->record_recipients; i++)
            spool_mark_set(courier->spool, &entry->place, i,
                           (struct mark){ .state = MARK_DELIVERED });
#endif
        transaction_submit(transaction);
    }
}

void
courier_loaded(struct courier *courier, struct transaction *transaction)
{
    struct spool_load *from = &transaction->load;
    uint32_t flags = from->record.flags;

    if (from->error != 0) {
        if (!io_error_is_no_buffer(from->error)) {
            unreadable(transaction, from->error);
            return;
        }
        courier->starved_ns = courier->worker->now_ns + STARVED_PAUSE_NS;
        courier_put_back(transaction);
        return;
    }
    transaction->body = from->body;
    transaction->summary = (struct receiver_summary){
        .size = from->record.size,
        .eight_bit = flags & RECORD_EIGHT_BIT,
        .header_utf8 = flags & RECORD_HEADER_UTF8,
        .chunked = flags & RECORD_CHUNKED,
        .ends_with_crlf = flags & RECORD_ENDS_CRLF,
    };
    transaction->chunked = flags & RECORD_CHUNKED;
    transaction->complete = true;
    transaction->arrival_ns = from->record.arrival_ns;
    if (!origin_copy(transaction, &from->envelope.origin) ||
        !envelope_copy(transaction, &from->envelope) ||
        (flags & RECORD_BODY_FILE && !body_open(transaction))) {
        counter_increment(&courier->worker->counters.pool_exhausted);
        courier->starved_ns = courier->worker->now_ns + STARVED_PAUSE_NS;
        courier_put_back(transaction);
        return;
    }
    courier_begin(transaction);
}

/* A body's file has moved on. */
void
courier_body_moved(struct transaction *transaction)
{
    struct reply reply;

    if (transaction->custody != CUSTODY_SPOOL) {
        custody_written(transaction);
        return;
    }
    if (transaction->reporting) {
        courier_report_read(transaction);
    } else if (spool_body_error(transaction->file) != 0) {
        reply_set(&reply, 451, "4.3.0", SPAN("The stored message cannot be read"));
        if (transaction->previous_waiting != NULL)
            hop_withdraw(transaction->hop, transaction);
        if (transaction->connection != NULL) {
            if (transaction->connection->end_sent)
                return;
            connection_abandon(transaction->connection);
        }
        courier_result(transaction, VERDICT_DEFER, &reply);
    } else if (transaction->connection != NULL) {
        connection_advance(transaction->connection);
    }
}
