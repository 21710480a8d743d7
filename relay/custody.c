/* From the client's hands into the spool: when, how, and what the client hears of it. */
#include "relay/custody.h"

#include "core/clock.h"
#include "core/header.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/session.h"

bool
custody_first(const struct worker *worker)
{
    return worker->courier != NULL && worker->config->delivery.mode == CONFIG_DELIVERY_SPOOL;
}

/* --- space --- */

bool
custody_reserve(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    const struct config *config = worker->config;
    uint64_t bytes = transaction->envelope.declared_size;

    if (worker->courier == NULL)
        return true;
    /* Nobody has said how much comes: what is held of it; a larger one asks again as it grows. */
    if (bytes < config->delivery.buffer)
        bytes = config->delivery.buffer;
    if (bytes > config->limits.message_size)
        bytes = config->limits.message_size;
    bytes += transaction->envelope_bytes;
    if (!courier_room(worker->courier) || !spool_reserve(worker->courier->spool, bytes))
        return false;
    transaction->reserved = bytes;
    return true;
}

static void
unreserve(struct transaction *transaction)
{
    if (transaction->reserved > 0)
        spool_unreserve(transaction->worker->courier->spool, transaction->reserved);
    transaction->reserved = 0;
}

/* Always one reservation, as it is given back: the costs of parts do not add up to that of the
 * whole. */
static bool
reserve_more(struct transaction *transaction, uint64_t bytes)
{
    uint64_t wanted = transaction->reserved;

    if (wanted >= bytes)
        return true;
    while (wanted < bytes)
        wanted += transaction->worker->config->delivery.buffer * 4;
    unreserve(transaction);
    if (!spool_reserve(transaction->worker->courier->spool, wanted))
        return false;
    transaction->reserved = wanted;
    return true;
}

void
custody_release(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;

    unreserve(transaction);
    if (transaction->file != NULL)
        spool_body_close(transaction->file, transaction->custody != CUSTODY_SPOOL);
    transaction->file = NULL;
    chain_release(worker->links.buffers, &transaction->incoming);
    if (transaction->origin_block != NULL)
        pool_release(&worker->blocks, transaction->origin_block);
    transaction->origin_block = NULL;
    notes_clear(transaction);
}

/* --- taking it over --- */

bool
custody_may_take(const struct transaction *transaction)
{
    const struct worker *worker = transaction->worker;

    return worker->courier != NULL && transaction->session != NULL &&
           transaction->custody == CUSTODY_CLIENT && !transaction->failed &&
           (transaction->data_ns == 0 || transaction->reserved > 0) &&
           (!transaction->streaming ||
            (transaction->file != NULL && spool_body_error(transaction->file) == 0));
}

/* From the next hop's side: it is no longer concerned. */
static void
leave_hop(struct transaction *transaction)
{
    if (transaction->previous_waiting != NULL)
        hop_withdraw(transaction->hop, transaction);
    if (transaction->connection != NULL)
        connection_abandon(transaction->connection);
    ASSERT(transaction->connection == NULL);
    if (transaction->file != NULL) /* it has them */
        chain_release(transaction->worker->links.buffers, &transaction->body);
    transaction_weigh(transaction);
}

void
custody_take(struct transaction *transaction)
{
    struct reply accepted;

    leave_hop(transaction);
    transaction->spool_first = true;
    transaction->live = false;
    session_pressure(
        transaction->session); /* it may be paused for what the next hop had not taken */
    if (transaction->asked == NULL)
        return;
    recipient_set(&transaction->envelope, transaction->asked, RECIPIENT_ACCEPTED);
    transaction->asked = NULL;
    reply_set(&accepted, 250, "2.1.5", SPAN("Ok"));
    session_verdict(transaction->session, &accepted);
}

void
custody_watch(struct transaction *transaction)
{
    const struct worker *worker = transaction->worker;
    uint64_t deadline_ns =
        transaction->complete_ns + worker->config->delivery.patience_ms * NS_PER_MS;

    /* One that waits for a connection may have less time than that. */
    if (transaction->complete && custody_may_take(transaction) &&
        (transaction->previous_waiting == NULL || transaction->timer.deadline_ns > deadline_ns))
        timer_set(&transaction->worker->timers, &transaction->timer, deadline_ns);
}

/* --- large bodies --- */

/* The next hop has it, or will: it goes on without the spool behind it. */
static void
file_given_up(struct transaction *transaction)
{
    struct buffers *buffers = transaction->worker->links.buffers;

    unreserve(transaction);
    chain_move(buffers, &transaction->body, spool_body_written(transaction->file));
    ASSERT(spool_body_pending(transaction->file) == 0);
    spool_body_close(transaction->file, true);
    transaction->file = NULL;
    chain_move(buffers, &transaction->body, &transaction->incoming);
}

/* The body cannot be kept, and has nobody else: the client hears of it at its end. */
static void
file_broken(struct transaction *transaction, int error)
{
    struct reply reply;

    if (error == 0 || io_error_is_no_space(error)) {
        counter_increment(&transaction->worker->counters.refusals_spool_full);
        reply_set(&reply, 452, "4.3.1", SPAN("Insufficient system storage, try again later"));
    } else {
        reply_set(&reply, 451, "4.3.0", SPAN("Local error in processing, try again later"));
    }
    leave_hop(transaction);
    chain_release(transaction->worker->links.buffers, &transaction->incoming);
    transaction->failed = transaction->sealed = true;
    transaction->final = reply;
    if (transaction->session != NULL)
        session_pressure(transaction->session); /* it may be paused for what was not written */
    if (transaction->complete)
        transaction_finish(transaction, VERDICT_DEFER, &reply);
}

void
custody_stream(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;

    if (worker->courier == NULL || transaction->reserved == 0)
        return;
    transaction->file = spool_body_create(worker->courier->spool, transaction->id,
                                          worker->links.buffers, transaction);
    if (transaction->file == NULL) {
        if (transaction->spool_first)
            file_broken(transaction, 0);
        return;
    }
    chain_move(worker->links.buffers, &transaction->incoming, &transaction->body);
    custody_body(transaction);
}

void
custody_body(struct transaction *transaction)
{
    uint64_t bytes = transaction->incoming.bytes;

    spool_body_write(transaction->file, &transaction->incoming);
    transaction->body_bytes += bytes;
    /* Without room the next hop goes on alone: what is written is of no use any more. */
    if (transaction->reserved > 0 && !reserve_more(transaction, transaction->body_bytes) &&
        transaction->spool_first)
        file_broken(transaction, 0);
}

/* What the file has goes on to the next hop, if that still takes it. */
static void
written_forward(struct transaction *transaction)
{
    struct buffers *buffers = transaction->worker->links.buffers;
    struct chain *written = spool_body_written(transaction->file);
    bool wanted = transaction->custody == CUSTODY_CLIENT || transaction->connection != NULL ||
                  transaction->previous_waiting != NULL;

    if (transaction->failed || transaction->spool_first || !wanted)
        chain_release(buffers, written);
    else
        chain_move(buffers, &transaction->body, written);
}

void
custody_written(struct transaction *transaction)
{
    int error = spool_body_error(transaction->file);
    bool waits;

    written_forward(transaction);
    if (error != 0 && !transaction->failed && transaction->custody == CUSTODY_CLIENT) {
        if (transaction->spool_first) {
            file_broken(transaction, error);
            return;
        }
        file_given_up(transaction);
    }
    if (transaction->session != NULL)
        session_pressure(transaction->session);
    transaction_weigh(transaction);
    waits = transaction->store_waits;
    if (transaction->connection != NULL)
        connection_advance(transaction->connection);
    if (waits)
        custody_store(transaction);
}

/* --- storing --- */

/* What is known of the client, in a block of its own, since it may be gone before the message is.
 */
static bool
origin_make(struct transaction *transaction)
{
    const struct session *session = transaction->session;
    struct worker *worker = transaction->worker;
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    const struct recipient *first = envelope_next(&cursor);
    struct outbuf out;
    struct trace trace;
    char client[64];

    if (transaction->origin_block != NULL || session == NULL)
        return true;
    transaction->origin_block = pool_take(&worker->blocks);
    if (transaction->origin_block == NULL) {
        counter_increment(&worker->counters.pool_exhausted);
        return false;
    }
    while (first != NULL && first->state == RECIPIENT_REFUSED)
        first = envelope_next(&cursor);
    session_trace(session, transaction->id, client, &trace);
    trace.smtputf8 = transaction->envelope.smtputf8;
    if (first != NULL && transaction->envelope.accepted == 1)
        trace.recipient = recipient_mailbox(first);
    out = (struct outbuf){ .data = transaction->origin_block, .size = BLOCK_BYTES };
    trace_write(&trace, &out);
    transaction->origin.trace = outbuf_span(&out);
    transaction->origin.client = span_of(out.data + out.len, trace.client.len);
    outbuf_add(&out, trace.client);
    transaction->origin.helo = span_of(out.data + out.len, trace.helo.len);
    outbuf_add(&out, trace.helo);
    return true;
}

static uint32_t
record_flags(const struct transaction *transaction)
{
    return (transaction->file != NULL ? RECORD_BODY_FILE : 0u) |
           (transaction->chunked ? RECORD_CHUNKED : 0u) |
           (transaction->summary.eight_bit ? RECORD_EIGHT_BIT : 0u) |
           (transaction->summary.header_utf8 ? RECORD_HEADER_UTF8 : 0u) |
           (transaction->summary.ends_with_crlf ? RECORD_ENDS_CRLF : 0u) |
           (transaction->notice ? RECORD_NOTICE : 0u);
}

/* There is no promise: what the client hears is what it would hear without a spool. */
static void
store_failed(struct transaction *transaction, int error)
{
    struct worker *worker = transaction->worker;
    struct reply reply;

    transaction->custody = CUSTODY_CLIENT;
    counter_increment(&worker->counters.messages_store_failed);
    if (transaction->notice) {
        courier_notice_done(transaction, false);
        transaction_free(transaction);
        return;
    }
    if (transaction->connection != NULL || transaction->previous_waiting != NULL)
        return; /* the verdict is still to come: the client waits for that */
    if (transaction->decided)
        reply = transaction->final;
    else if (io_error_is_no_space(error))
        reply_set(&reply, 452, "4.3.1", SPAN("Insufficient system storage, try again later"));
    else
        reply_set(&reply, 451, "4.3.0", SPAN("Local error in processing, try again later"));
    if (!transaction->withdrawn && transaction->session != NULL)
        transaction_log(transaction, "message", SPAN("deferred"), &reply);
    transaction_tell(transaction, &reply);
    transaction_free(transaction);
}

void
custody_store(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct spool_store *store = &transaction->store;

    ASSERT(transaction->complete);
    ASSERT(transaction->custody != CUSTODY_SPOOL);
    timer_cancel(&worker->timers, &transaction->timer);
    transaction->custody = CUSTODY_STORING;
    if (transaction->file != NULL)
        written_forward(transaction); /* the store takes the file, with all that is in it */
    transaction->store_waits =
        transaction->file != NULL && spool_body_error(transaction->file) == 0 &&
        (transaction->incoming.bytes > 0 || spool_body_pending(transaction->file) > 0);
    if (transaction->store_waits)
        return;
    if (!origin_make(transaction)) {
        store_failed(transaction, 0);
        return;
    }
    if (transaction->arrival_ns == 0)
        transaction->arrival_ns = worker->realtime_ns;
    *store = (struct spool_store){
        .envelope = &transaction->envelope,
        .origin = transaction->origin,
        .buffers = worker->links.buffers,
        .body = transaction->file == NULL ? &transaction->body : NULL,
        .body_file = transaction->file,
        .owner = transaction,
        .record = { .arrival_ns = transaction->arrival_ns,
                    .size = transaction->summary.size,
                    .recipients = transaction->envelope.accepted,
                    .body_bytes = transaction->file == NULL ? transaction->body.bytes
                                                            : transaction->body_bytes,
                    .flags = record_flags(transaction) },
    };
    memcpy(store->record.id, transaction->id, sizeof(store->record.id));
    spool_store(worker->courier->spool, store);
#ifdef CANARY_TOLD_BEFORE_DURABLE
    struct reply reply;

    reply_set(&reply, 250, "2.0.0", SPAN("Ok: queued as early"));
    transaction_tell(transaction, &reply);
#endif
}

void
custody_decided(struct transaction *transaction, enum verdict_action action,
                const struct reply *reply)
{
    transaction->decided = true;
    transaction->verdict = (uint8_t)action;
    if (reply != &transaction->final)
        transaction->final = *reply;
    if (action == VERDICT_DELIVERED || action == VERDICT_REFUSE) {
        /* It came while the message was being stored: the client hears it, not us. */
        ASSERT(transaction->custody == CUSTODY_STORING);
        transaction_log(transaction, "message",
                        action == VERDICT_DELIVERED ? SPAN("delivered") : SPAN("refused"), reply);
        if (action == VERDICT_DELIVERED)
            courier_relayed(transaction);
        transaction->connection = NULL;
        transaction->withdrawn = true;
        transaction_tell(transaction, &transaction->final);
        return;
    }
    if (action == VERDICT_AMBIGUOUS)
        counter_increment(&transaction->worker->counters.messages_ambiguous);
    transaction_log(transaction, "attempt",
                    action == VERDICT_AMBIGUOUS ? SPAN("ambiguous") : SPAN("deferred"),
                    &transaction->final);
    transaction->connection = NULL;
    if (transaction->custody != CUSTODY_STORING)
        custody_store(transaction);
}

/* Nobody was promised anything. */
static void
stored_for_nobody(struct transaction *transaction)
{
    courier_forget(transaction->worker->courier, transaction->id, &transaction->store.place,
                   transaction->store.record.recipients, transaction->file != NULL);
    transaction->file = NULL; /* the spool removes it */
    transaction->custody = CUSTODY_CLIENT;
    if (transaction->connection == NULL && transaction->previous_waiting == NULL)
        transaction_free(transaction);
}

void
custody_stored(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct reply reply;
    char text[64];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (transaction->store.error != 0) {
        transaction->file = NULL; /* gone with the store */
        store_failed(transaction, transaction->store.error);
        return;
    }
    unreserve(transaction);
#ifdef CANARY_TOLD_BEFORE_DURABLE
    if (transaction->withdrawn) {
#else
    if (transaction->withdrawn || (transaction->session == NULL && !transaction->notice)) {
#endif
        stored_for_nobody(transaction);
        return;
    }
    transaction->custody = CUSTODY_SPOOL;
    transaction->file = NULL; /* the spool's now */
    counter_increment(&worker->counters.messages_stored);
    courier_enter(transaction);
    if (transaction->notice) {
        courier_notice_done(transaction, true);
    } else {
        outbuf_add(&out, SPAN("Ok: queued as "));
        outbuf_add(&out, span_text(transaction->id));
        reply_set(&reply, 250, "2.0.0", outbuf_span(&out));
        transaction_log(transaction, "message", SPAN("queued"), &reply);
        histogram_observe(&worker->counters.message_total,
                          worker->now_ns - transaction->started_ns);
        transaction_tell(transaction, &reply);
    }
    if (transaction->decided)
        courier_result(transaction, (enum verdict_action)transaction->verdict, &transaction->final);
    else if (transaction->connection == NULL && transaction->previous_waiting == NULL)
        courier_first_attempt(transaction);
}
