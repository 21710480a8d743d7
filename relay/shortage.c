/* Memory and connections are shared by strangers: who holds them and does not go on, while others
 * wait, is ended long before its deadline. */
#include "relay/shortage.h"

#include "core/clock.h"
#include "relay/hop.h"
#include "relay/session.h"

/* Holders of more are not told apart: 1 MiB. */
#define HELD_MAX 64

bool
shortage_judge(struct shortage_mark *mark, uint64_t now_ns, uint64_t begun_ns, uint64_t octets,
               bool kept, uint64_t patience_ns)
{
    bool fresh = mark->at_ns < begun_ns;
    /* What waited for us is no news: it may have stopped long ago. Whom we had stopped goes on with
     * more than that, and has all its time. */
    bool resumed = !fresh && mark->kept_ns != 0 && octets > mark->kept_octets && !kept;

    if (fresh || resumed || octets - mark->octets >= SHORTAGE_OCTETS)
        *mark = (struct shortage_mark){ .at_ns = now_ns, .octets = octets };
    if (kept) {
        mark->kept_ns = now_ns;
        mark->kept_octets = octets;
    }
    return now_ns - mark->at_ns >= patience_ns &&
           (mark->kept_ns == 0 || now_ns - mark->kept_ns >= SHORTAGE_RESUMED_NS);
}

uint32_t
shortage_choose(const uint32_t *counts, uint32_t most, uint32_t needed, uint32_t *rest)
{
    for (uint32_t held = most; held > 0; held--) {
        if ((uint64_t)counts[held] * held >= needed) {
            *rest = needed / held + (needed % held != 0);
            return held;
        }
        needed -= counts[held] * held;
    }
    *rest = 0;
    return 0;
}

/* --- a session --- */

static bool
in_message(const struct session *session)
{
    const struct transaction *transaction = session->transaction;

    return transaction != NULL && transaction->data_ns != 0 && !transaction->complete &&
           !transaction->failed;
}

/* Buffers that come back when it ends, and promises that need not be kept then. */
static uint32_t
held_by(const struct session *session)
{
    const struct link *link = &session->link;
    const struct transaction *transaction = session->transaction;
    uint32_t held = link->in.count + link->cipher.count + (link->cipher_out != BUFFER_NONE) +
                    (link->flight_buffer != BUFFER_NONE);

    if (transaction != NULL)
        held += transaction->body.count + transaction->incoming.count + transaction->promised;
    return held;
}

/* It is the client's turn, and it holds something: a message that is not whole, replies that it
 * does not read and what it sent behind, a part of a TLS record. */
static bool
may_end(const struct session *session)
{
    const struct link *link = &session->link;

    if (link->closing || session->ending || session->waiting)
        return false;
    return in_message(session) ||
           ((link->sending || link->cipher.count > 0 || link->cipher_out != BUFFER_NONE) &&
            held_by(session) > 0);
}

static bool
stalls(struct session *session)
{
    const struct worker *worker = session->worker;
    const struct link *link = &session->link;
    uint64_t begun_ns = worker->shortage.since_ns;
    uint32_t waits = io_receive_waits(link->socket);
    bool kept;

    /* Before DATA it may have waited for a verdict. */
    if (in_message(session) && session->transaction->data_ns > begun_ns)
        begun_ns = session->transaction->data_ns;
    /* Whom we have stopped since it does not read can help it. */
    kept = (waits > 0 && !link->sending) || link->on_starved || link->on_handshakes;
    return shortage_judge(&session->mark, worker->now_ns, begun_ns,
                          link->bytes_in + link->bytes_out + waits, kept,
                          worker->config->timeouts.stalled_ms * NS_PER_MS);
}

/* The next hop whose connection it has or will have. NULL: none yet. */
static const struct hop *
hop_taken(const struct session *session)
{
    const struct transaction *transaction = session->transaction;

    if (!in_message(session) ||
        (transaction->connection == NULL && transaction->previous_waiting == NULL))
        return NULL;
    return transaction->hop;
}

/* --- the look at all of them --- */

struct look {
    bool memory; /* new messages are put off, or were lately */
    uint32_t counts[HELD_MAX + 1];
    uint32_t stalled;
    uint32_t least, rest;             /* of those that shall end: see shortage_choose() */
    uint32_t waiting[NEXT_HOPS_MAX]; /* messages that wait, or a session that stalls would */
};

static bool
taken_up(const struct hop *hop)
{
    return hop->waiting_count > 0 && hop->connection_count >= hop->config->connections;
}

/* What is short. False: nothing. */
static bool
look_begin(const struct worker *worker, struct look *look)
{
    const struct shortage *shortage = &worker->shortage;
    uint64_t lately_ns =
        worker->config->timeouts.stalled_ms * NS_PER_MS + 2 * SHORTAGE_LOOK_NS;
    bool lasts;

    memset(look, 0, sizeof(*look));
    /* Good mail that comes and goes leaves moments without: those who stall hold it all the same.
     */
    look->memory = shortage->last_ns != 0 && worker->now_ns - shortage->last_ns < lately_ns;
    lasts = look->memory;
    for (uint32_t i = 0; i < worker->config->next_hop_count; i++)
        if (taken_up(&worker->hops[i])) {
            look->waiting[i] = worker->hops[i].waiting_count;
            lasts = true;
        }
    return lasts;
}

static uint32_t
held_class(const struct session *session)
{
    uint32_t held = held_by(session);

    return held < HELD_MAX ? held : HELD_MAX;
}

static void
look_judge(struct worker *worker, struct look *look)
{
    for (uint32_t i = 0; i < worker->sessions.touched; i++) {
        struct session *session;

        if (!pool_in_use(&worker->sessions, i))
            continue;
        session = pool_at(&worker->sessions, i);
        session->mark.stalled = may_end(session) && stalls(session);
        if (!session->mark.stalled)
            continue;
        look->counts[held_class(session)]++;
        look->stalled++;
    }
}

/* Why it shall end; "": it need not. */
static struct span
look_choose(struct look *look, const struct session *session)
{
    const struct hop *hop = hop_taken(session);
    uint32_t held = held_class(session);
    bool memory = look->memory && held > look->least;

    if (held == look->least && look->rest > 0) {
        look->rest--;
        memory = true;
    }
    if (hop != NULL && look->waiting[hop->index] > 0)
        look->waiting[hop->index]--;
    else if (!memory)
        return SPAN("");
    return memory ? SPAN("receive memory is short") : SPAN("messages wait for a connection");
}

static void
look_end(struct worker *worker, struct look *look)
{
    for (uint32_t i = 0; i < worker->sessions.touched && look->stalled > 0; i++) {
        struct session *session;
        struct span reason;

        if (!pool_in_use(&worker->sessions, i))
            continue;
        session = pool_at(&worker->sessions, i);
        if (!session->mark.stalled)
            continue;
        session->mark.stalled = false;
        look->stalled--;
        /* The end of another may have changed it. */
        if (!may_end(session))
            continue;
        reason = look_choose(look, session);
        if (reason.len > 0)
            session_stalled(session, reason, held_by(session));
    }
}

void
shortage_timer(struct worker *worker)
{
    struct shortage *shortage = &worker->shortage;
    struct look look;

    if (!look_begin(worker, &look)) {
        shortage->since_ns = shortage->last_ns = 0;
        return;
    }
    timer_set(&worker->timers, &shortage->timer, worker->now_ns + SHORTAGE_LOOK_NS);
    look_judge(worker, &look);
    if (look.stalled == 0)
        return;
    if (look.memory)
        look.least = shortage_choose(look.counts, HELD_MAX, memory_wanted(worker), &look.rest);
    look_end(worker, &look);
}

/* --- when it begins --- */

void
shortage_wait(struct worker *worker)
{
    struct shortage *shortage = &worker->shortage;

    if (timer_is_set(&shortage->timer))
        return;
    shortage->since_ns = worker->now_ns;
    timer_set(&worker->timers, &shortage->timer, worker->now_ns + SHORTAGE_LOOK_NS);
}

void
shortage_note(struct worker *worker)
{
    worker->shortage.last_ns = worker->now_ns;
    shortage_wait(worker);
}
