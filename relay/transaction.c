/* A mail transaction: what is kept, how it reaches the next hop, what the client is told.
 *
 * Invariants:
 *   1. The final dot goes out only when the message was received whole and well-formed.
 *   2. The client gets 250 only after the next hop's 2xx to the end of data, or after the spool has
 *      said that the message is durable (custody.c).
 *   3. After the final dot was sent and its reply lost, it is ambiguous: kept and tried again later
 *      where there is a spool (counted, logged), else told as 451; never sent again at once.
 *   4. Without a spool, all recipients answered 250 share one verdict: none is dropped silently.
 *      With one, each has its own: delivered, tried again or reported to the sender (courier).
 */
#include "relay/transaction.h"

#include "core/clock.h"
#include "core/log.h"
#include "relay/connection.h"
#include "relay/courier.h"
#include "relay/custody.h"
#include "relay/route.h"
#include "relay/session.h"

/* While its data comes and it holds none, a buffer is promised to it, with TLS one more to decrypt
 * into: or it could be stopped for ever by those who hold all. To be called where that may have
 * changed. */
void
transaction_weigh(struct transaction *transaction)
{
    const struct session *session = transaction->session;
    bool hungry = session != NULL && transaction->data_ns != 0 && !transaction->complete &&
                  !transaction->failed && transaction_held(transaction) == 0;
    uint8_t promised = !hungry ? 0 : session->link.tls_state == LINK_PLAIN ? 1 : 2;

    transaction->worker->memory.promised += promised;
    ASSERT(transaction->worker->memory.promised >= transaction->promised);
    transaction->worker->memory.promised -= transaction->promised;
    transaction->promised = promised;
}

void
transaction_free(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;

    ASSERT(transaction->connection == NULL);
    ASSERT(transaction->previous_waiting == NULL);
    ASSERT(transaction->session == NULL);
    ASSERT(transaction->custody != CUSTODY_STORING);
    transaction_weigh(transaction);
    timer_cancel(&worker->timers, &transaction->timer);
    custody_release(transaction);
    envelope_clear(&transaction->envelope);
    chain_release(worker->links.buffers, &transaction->body);
    gauge_subtract(&worker->counters.transactions_current, 1);
    pool_release(&worker->transactions, transaction);
}

static void
refuse_resources(struct worker *worker, struct reply *refusal)
{
    counter_increment(&worker->counters.refusals_resources);
    reply_set(refusal, 452, "4.3.1", SPAN("Insufficient system resources, try again later"));
}

struct transaction *
transaction_new(struct worker *worker)
{
    struct transaction *transaction = pool_take(&worker->transactions);

    if (transaction == NULL) {
        counter_increment(&worker->counters.pool_exhausted);
        return NULL;
    }
    /* Not all of it: `final` is a kilobyte that is written before it is read. */
    memset(transaction, 0, offsetof(struct transaction, final));
    transaction->final.code = 0;
    transaction->worker = worker;
    transaction->body = transaction->incoming = CHAIN_EMPTY;
    transaction->entry = QUEUE_NONE;
    transaction->timer.kind = WORKER_TRANSACTION;
    transaction->started_ns = worker->now_ns;
    gauge_add(&worker->counters.transactions_current, 1);
    return transaction;
}

struct transaction *
transaction_start(struct session *session, const struct path *reverse_path,
                  const struct mail_parameters *parameters, struct reply *refusal)
{
    struct worker *worker = session->worker;
    struct transaction *transaction = transaction_new(worker);

    if (transaction == NULL) {
        refuse_resources(worker, refusal);
        return NULL;
    }
    worker_queue_id(worker, transaction->id);
    if (!envelope_start(&transaction->envelope, &worker->blocks, reverse_path, parameters)) {
        counter_increment(&worker->counters.pool_exhausted);
        refuse_resources(worker, refusal);
        transaction_free(transaction);
        return NULL;
    }
    transaction->session = session;
    transaction->spool_first = custody_first(worker);
    return transaction;
}

/* --- recipients --- */

/* Relay control and routing. ROUTE_NONE: *refusal is set. */
static uint32_t
recipient_hop(struct transaction *transaction, const struct path *path, struct reply *refusal)
{
    struct worker *worker = transaction->worker;
    uint32_t hop;

    if (!transaction->session->trusted && !access_recipient_local(&worker->config->accept, path)) {
        counter_increment(&worker->counters.refusals_relay_denied);
        reply_set(refusal, 550, "5.7.1", SPAN("Relaying denied"));
        return ROUTE_NONE;
    }
    hop = route_find(worker->config, path);
    if (hop == ROUTE_NONE) {
        counter_increment(&worker->counters.refusals_no_route);
        reply_set(refusal, 550, "5.1.2", SPAN("No route to this domain"));
    }
    return hop;
}

static enum transaction_answer
recipient_apart(struct reply *refusal, struct span text)
{
    reply_set(refusal, 452, "4.5.3", text);
    return TRANSACTION_REFUSE;
}

/* Puts the newest recipient to the next hop; its answer is the client's. */
static void
recipient_ask(struct transaction *transaction, struct recipient *recipient)
{
    transaction->live = true;
    transaction->asked = recipient;
    if (transaction->connection != NULL)
        connection_advance(transaction->connection);
    else if (transaction->previous_waiting == NULL)
        hop_submit(transaction->hop, transaction);
}

/* What stands against one more recipient. False: *refusal is set. */
static bool
recipient_fits(struct transaction *transaction, uint32_t hop, const struct path *path,
               const struct rcpt_parameters *parameters, struct reply *refusal)
{
    struct worker *worker = transaction->worker;
    size_t bytes = record_recipient_bytes(path->mailbox.len, parameters->orcpt.len);

    if (worker->courier == NULL) {
        if (transaction->hop != NULL && transaction->hop != &worker->hops[hop]) {
            recipient_apart(refusal,
                            SPAN("Recipient has another next hop: send it in another transaction"));
            return false;
        }
    } else if (transaction->envelope_bytes + bytes > CUSTODY_RECIPIENTS_BYTES_MAX ||
               transaction->envelope.accepted >= SPOOL_SLOTS_MIN) {
        recipient_apart(refusal, SPAN("Too many recipients: send it in another transaction"));
        return false;
    }
    if (transaction->sealed) {
        recipient_apart(refusal,
                        SPAN("An earlier recipient's verdict differs: send this one in another "
                             "transaction"));
        return false;
    }
    transaction->envelope_bytes += bytes;
    return true;
}

enum transaction_answer
transaction_recipient(struct transaction *transaction, const struct path *path,
                      const struct rcpt_parameters *parameters, struct reply *refusal)
{
    struct worker *worker = transaction->worker;
    uint32_t index = recipient_hop(transaction, path, refusal);
    struct recipient *recipient;
    bool ask;

    if (index == ROUTE_NONE || !recipient_fits(transaction, index, path, parameters, refusal))
        return TRANSACTION_REFUSE;
    if (transaction->hop == NULL)
        transaction->hop = &worker->hops[index];
    else if (transaction->hop != &worker->hops[index])
        custody_take(transaction); /* several next hops, one verdict: ours */
    /* One recipient needs no question: its verdict is the message's. With a second one the verdicts
     * could differ, so both are put to the next hop now, while the client can still be told of
     * each. */
    ask = !transaction->spool_first &&
          (worker->config->delivery.recipient_check == CONFIG_RECIPIENT_CHECK_NEXT_HOP ||
           transaction->envelope.accepted > 0);
    recipient = envelope_add(&transaction->envelope, path, parameters,
                             ask ? RECIPIENT_ASKED : RECIPIENT_ACCEPTED);
    if (recipient == NULL) {
        counter_increment(&worker->counters.pool_exhausted);
        refuse_resources(worker, refusal);
        return TRANSACTION_REFUSE;
    }
    if (ask) {
        recipient_ask(transaction, recipient);
        return TRANSACTION_WAIT;
    }
    return TRANSACTION_ACCEPT;
}

/* The client hears about the recipient that it waits for. */
static void
asked_answer(struct transaction *transaction, const struct reply *reply)
{
    bool good = reply_class(reply) == 2;

    ASSERT(transaction->asked != NULL);
    if (!good && transaction->session != NULL)
        session_log_recipient(transaction->session, recipient_mailbox(transaction->asked), reply);
    recipient_set(&transaction->envelope, transaction->asked,
                  good ? RECIPIENT_ACCEPTED : RECIPIENT_REFUSED);
    transaction->asked = NULL;
    if (reply_class(reply) == 5)
        counter_increment(&transaction->worker->counters.refusals_next_hop);
    if (transaction->session != NULL)
        session_verdict(transaction->session, reply);
}

/* Keeps the verdict of the message for when the client has sent it; what it sends is dropped, and
 * so is what it has sent. */
static void
fail_later(struct transaction *transaction, const struct reply *reply)
{
    transaction->failed = true;
    transaction->sealed = true;
    if (reply != &transaction->final)
        transaction->final = *reply;
    chain_release(transaction->worker->links.buffers, &transaction->body);
    transaction_weigh(transaction);
    if (transaction->session != NULL)
        session_pressure(transaction->session); /* it may be paused for what it has sent */
}

void
transaction_answered(struct transaction *transaction, struct recipient *recipient,
                     enum verdict_action action, const struct reply *reply)
{
    struct reply apart;

    ASSERT(transaction->live);
    if (action == VERDICT_DEFER && custody_may_take(transaction)) {
        connection_abandon(transaction->connection);
        custody_take(transaction);
        return;
    }
    if (recipient == transaction->asked) {
        asked_answer(transaction, reply);
        return;
    }
    if (action == VERDICT_CONTINUE)
        return;
    /* A recipient that the client believes accepted is refused: the message goes nowhere, its
     * sender hears why at the end of data; the recipient that is asked about now must come again by
     * itself. */
    connection_abandon(transaction->connection);
    if (transaction->envelope.accepted > 1 && reply_class(reply) == 5) {
        reply_set(&apart, 451, "4.5.3", SPAN("Recipients' verdicts differ, try again later"));
        reply = &apart;
    }
    fail_later(transaction, reply);
    if (transaction->asked == NULL)
        return;
    reply_set(&apart, 452, "4.5.3",
              SPAN("An earlier recipient's verdict differs: send this one in another transaction"));
    asked_answer(transaction, &apart);
}

/* --- the message --- */

enum transaction_answer
transaction_data(struct transaction *transaction, bool chunked, struct reply *refusal)
{
    struct worker *worker = transaction->worker;

    if (memory_refuses(worker)) {
        shortage_note(worker);
        refuse_resources(worker, refusal);
        return TRANSACTION_REFUSE;
    }
    /* Where the next hop comes first, its verdict will do; there is no fall-back then. */
    if (!custody_reserve(transaction) && transaction->spool_first) {
        counter_increment(&worker->counters.refusals_spool_full);
        reply_set(refusal, 452, "4.3.1", SPAN("Insufficient system storage, try again later"));
        return TRANSACTION_REFUSE;
    }
    transaction->chunked = chunked;
    transaction->data_ns = worker->now_ns;
    transaction_weigh(transaction);
    return TRANSACTION_ACCEPT;
}

void
transaction_submit(struct transaction *transaction)
{
    if (transaction->connection != NULL)
        connection_advance(transaction->connection);
    else if (transaction->previous_waiting == NULL)
        hop_submit(transaction->hop, transaction);
}

/* The message is larger than what we hold, or memory is short: it leaves while it comes. */
static void
stream_start(struct transaction *transaction)
{
    transaction->streaming = true;
    custody_stream(transaction);
    if (!transaction->spool_first && !transaction->failed)
        transaction_submit(transaction);
}

bool
transaction_body(struct transaction *transaction, struct link *link, size_t len)
{
    struct worker *worker = transaction->worker;
    uint64_t most = worker->config->delivery.buffer;
    struct chain *to = transaction->file != NULL ? &transaction->incoming : &transaction->body;

    if (transaction->failed) {
        link_consume(link, len); /* its verdict is known: nothing of it is needed */
        return true;
    }
    while (len > 0) {
        size_t front = link_front(link).len, part = len < front ? len : front;

        if (!link_take(link, part, to))
            return false;
        len -= part;
    }
    if (transaction->file != NULL) {
        custody_body(transaction);
        transaction_weigh(transaction);
        return true;
    }
    transaction_weigh(transaction);
    if (transaction->streaming) {
        if (transaction->connection != NULL)
            connection_advance(transaction->connection);
    } else if (transaction->body.bytes > most ||
               (transaction->body.bytes > BUFFER_BYTES && memory_refuses(worker))) {
        stream_start(transaction);
    }
    return true;
}

uint64_t
transaction_held(const struct transaction *transaction)
{
    return transaction->body.bytes + transaction->incoming.bytes +
           (transaction->file != NULL ? spool_body_pending(transaction->file) : 0);
}

bool
transaction_whole(const struct transaction *transaction)
{
    const struct spool_body *file = transaction->file;

    if (!transaction->complete || file == NULL)
        return transaction->complete;
    if (transaction->custody == CUSTODY_SPOOL)
        return spool_body_left(file) == 0;
    return transaction->incoming.bytes == 0 && spool_body_pending(file) == 0 &&
           spool_body_written(transaction->file)->bytes == 0;
}

void
transaction_starved(struct transaction *transaction)
{
    if (transaction->data_ns != 0 && !transaction->streaming && !transaction->complete &&
        !transaction->failed && transaction->body.bytes > 0)
        stream_start(transaction);
}

void
transaction_complete(struct transaction *transaction, const struct receiver_summary *summary)
{
    struct worker *worker = transaction->worker;

    transaction->summary = *summary;
    transaction->complete = true;
    transaction_weigh(transaction);
    transaction->live = false; /* no recipient is asked about any more: one verdict for all */
    transaction->complete_ns = worker->now_ns;
    histogram_observe(&worker->counters.message_receive, worker->now_ns - transaction->data_ns);
    if (transaction->failed)
        transaction_finish(transaction,
                           transaction->final.code >= 500 ? VERDICT_REFUSE : VERDICT_DEFER,
                           &transaction->final);
    else if (transaction->spool_first)
        custody_store(transaction);
    else {
        custody_watch(transaction);
        transaction_submit(transaction);
    }
}

/* --- the verdict --- */

/* "2.0.0 Ok": the enhanced code stands before the text, as it does on the wire. */
static void
log_reply(struct log_line *line, const struct reply *reply)
{
    char text[ENHANCED_CODE_BYTES_MAX + 1 + REPLY_TEXT_BYTES_MAX];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    if (reply->enhanced.class != 0) {
        enhanced_code_write(reply->enhanced, &out);
        outbuf_add_char(&out, ' ');
    }
    outbuf_add(&out, span_of(reply->text, reply->text_len));
    log_text(line, "reply", outbuf_span(&out));
}

static void
log_client(struct log_line *line, const struct transaction *transaction)
{
    const struct session *session = transaction->session;
    char text[64];

    if (session != NULL) {
        log_text(line, "client", session_client_text(session, text));
        log_text(line, "helo", receiver_helo(&session->receiver));
        if (session->link.tls_state == LINK_TLS)
            log_text(line, "tls", span_text(tls_version(session->link.tls)));
    } else if (transaction->origin.client.len > 0) {
        log_text(line, "client", transaction->origin.client);
        log_text(line, "helo", transaction->origin.helo);
    } else {
        log_text(line, "client", transaction->notice ? SPAN("ringpost") : SPAN("gone"));
    }
}

static void
log_times(struct log_line *line, const struct transaction *transaction)
{
    const struct worker *worker = transaction->worker;
    uint64_t now = worker->now_ns;

    log_duration(line, "delay",
                 transaction->arrival_ns != 0 && worker->realtime_ns > transaction->arrival_ns
                     ? worker->realtime_ns - transaction->arrival_ns
                     : now - transaction->started_ns);
    if (transaction->complete_ns != 0)
        log_duration(line, "receive",
                     transaction->complete_ns > transaction->data_ns
                         ? transaction->complete_ns - transaction->data_ns
                         : 0);
    if (transaction->begun_ns != 0)
        log_duration(line, "deliver", now - transaction->begun_ns);
}

void
transaction_log(const struct transaction *transaction, const char *event, struct span status,
                const struct reply *reply)
{
    const struct connection *connection = transaction->connection;
    struct envelope_cursor cursor = envelope_begin(&transaction->envelope);
    const struct recipient *first = envelope_next(&cursor);
    struct log_line line;

    if (!log_enabled(LOG_LEVEL_INFO))
        return;
    while (first != NULL && first->state == RECIPIENT_REFUSED)
        first = envelope_next(&cursor);
    log_begin(&line, LOG_LEVEL_INFO, event);
    log_id(&line, span_text(transaction->id));
    log_client(&line, transaction);
    log_text(&line, "from", transaction->envelope.reverse_path);
    if (first != NULL)
        log_text(&line, "to", recipient_mailbox(first));
    log_number(&line, "nrcpt", envelope_count(&transaction->envelope));
    log_number(&line, "size", transaction->summary.size);
    if (transaction->hop != NULL)
        log_text(&line, "next_hop", span_text(transaction->hop->config->name));
    if (connection != NULL) {
        log_text(&line, "server",
                 span_text(connection->hop->servers[connection->server].config->text));
        if (connection->link.tls_state == LINK_TLS)
            log_text(&line, "server_tls", span_text(tls_version(connection->link.tls)));
    }
    log_text(&line, "status", status);
    log_number(&line, "code", reply->code);
    log_reply(&line, reply);
    log_times(&line, transaction);
    log_end(&line);
}

static struct span
status_of(enum verdict_action action)
{
    return action == VERDICT_DELIVERED   ? SPAN("delivered")
           : action == VERDICT_REFUSE    ? SPAN("refused")
           : action == VERDICT_AMBIGUOUS ? SPAN("ambiguous")
                                         : SPAN("deferred");
}

static void
count_verdict(struct transaction *transaction, enum verdict_action action)
{
    struct counters *counters = &transaction->worker->counters;

    if (action == VERDICT_AMBIGUOUS)
        counter_increment(&counters->messages_ambiguous);
    /* What the client is told is counted by the receiver. */
    if (transaction->session == NULL)
        counter_increment(&counters->messages_client_lost);
    else if (action == VERDICT_REFUSE)
        counter_increment(&counters->refusals_next_hop);
    histogram_observe(&counters->message_total,
                      transaction->worker->now_ns - transaction->started_ns);
}

/* The client is still at its envelope or its data. Nothing that it was told is taken back:
 * recipients that were accepted share this verdict, and it hears of it at the end of data. */
static void
finish_early(struct transaction *transaction, enum verdict_action action, const struct reply *reply)
{
    if (action != VERDICT_REFUSE && custody_may_take(transaction)) {
        custody_take(transaction);
        return;
    }
    transaction->live = false;
    if (transaction->envelope.accepted > 0)
        fail_later(transaction, reply);
    if (transaction->asked != NULL)
        asked_answer(transaction, reply);
}

void
transaction_tell(struct transaction *transaction, const struct reply *reply)
{
    struct session *session = transaction->session;

    transaction->session = NULL;
    if (session == NULL)
        return;
    session->transaction = NULL;
    session_verdict(session, reply);
}

void
transaction_finish(struct transaction *transaction, enum verdict_action action,
                   const struct reply *reply)
{
    ASSERT(action == VERDICT_DELIVERED ? reply_class(reply) == 2 : reply_class(reply) >= 4);
    if (transaction->custody == CUSTODY_SPOOL) {
        courier_result(transaction, action, reply);
        return;
    }
    if (!transaction->complete) {
        transaction->connection = NULL;
        finish_early(transaction, action, reply);
        return;
    }
    if (transaction->custody == CUSTODY_STORING ||
        (action != VERDICT_DELIVERED && action != VERDICT_REFUSE &&
         custody_may_take(transaction))) {
        custody_decided(transaction, action, reply);
        return;
    }
    transaction_log(transaction, "message", status_of(action), reply);
    count_verdict(transaction, action);
    if (action == VERDICT_DELIVERED)
        courier_relayed(transaction);
    transaction->connection = NULL;
    transaction_tell(transaction, reply);
    transaction_free(transaction);
}

void
transaction_body_sent(struct transaction *transaction)
{
    transaction_weigh(transaction);
    if (transaction->session != NULL)
        session_pressure(transaction->session);
    else if (transaction->file != NULL && transaction->custody == CUSTODY_SPOOL)
        courier_read(transaction);
}

void
transaction_timer(struct transaction *transaction)
{
    static const struct verdict_context context = { .expectation = SENDER_EXPECTS_NOTHING,
                                                    .class = VERDICT_TIMEOUT };
    struct reply reply;

    if (transaction->previous_waiting == NULL) {
        if (custody_may_take(transaction))
            custody_store(transaction); /* delivery.patience is over */
        return;
    }
    hop_withdraw(transaction->hop, transaction);
    transaction->unreached = true;
    verdict_reply(&context, VERDICT_DEFER, NULL, &reply);
    transaction_finish(transaction, VERDICT_DEFER, &reply);
}

void
transaction_abort(struct transaction *transaction)
{
    struct worker *worker = transaction->worker;
    struct connection *connection = transaction->connection;

    ASSERT(transaction->session == NULL);
    if (transaction->data_ns != 0 && !transaction->complete)
        counter_increment(&worker->counters.messages_aborted);
    transaction->asked = NULL;
    if (transaction->previous_waiting != NULL)
        hop_withdraw(transaction->hop, transaction);
    if (connection != NULL) {
        if (connection->end_sent) {
            transaction->client_lost =
                true; /* too late to take it back: the verdict is only logged */
            return;
        }
        if (transaction->custody == CUSTODY_STORING)
            connection_abandon_stored(connection);
        else
            connection_abandon(connection);
    }
    if (transaction->complete)
        counter_increment(&worker->counters.messages_client_lost);
    if (transaction->custody == CUSTODY_STORING) {
        transaction->withdrawn = true; /* nobody was promised anything: forgotten when stored */
        return;
    }
    transaction_free(transaction);
}
