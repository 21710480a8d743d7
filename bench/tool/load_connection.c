/* A connection of load: opening, TLS, EHLO, reading replies, its end. */
#include "bench/tool/load_private.h"

#define ROOM 512
#define REPLY_LINE_BYTES 4096
/* After QUIT and in the end: how long the server may take. */
#define QUIT_NS (5 * UINT64_C(1000000000))
/* A server that refuses connections is not asked as fast as it can refuse. */
#define OPEN_PAUSE_NS (50 * UINT64_C(1000000))

static void
deadline_set(struct load_connection *connection, uint64_t after_ns)
{
    uint64_t now_ns = connection->thread->now_ns;

    connection->deadline_ns = now_ns + after_ns;
    timer_set(&connection->thread->timers, &connection->timer,
              now_ns + (after_ns > LINK_RECHECK_NS ? LINK_RECHECK_NS : after_ns));
}

/* --- the end --- */

static void
opening_end(struct load_connection *connection)
{
    if (connection->state == CONNECTING || connection->state == OPENING)
        connection->thread->opening--;
}

static void
close_it(struct load_connection *connection)
{
    if (connection->state == CLOSING)
        return;
    opening_end(connection);
    load_list_remove(connection);
    timer_cancel(&connection->thread->timers, &connection->timer);
    connection->state = CLOSING;
    link_close(&connection->link);
}

static void
lost(struct load_connection *connection, enum load_failure failure)
{
    struct load_thread *thread = connection->thread;

    if (connection->state == CLOSING)
        return;
    load_messages_lost(connection);
    if (!thread->at_once)
        load_failed(thread, failure);
    if (connection->state == CONNECTING || connection->state == OPENING) {
        thread->open_pause_ns = thread->now_ns + OPEN_PAUSE_NS;
        /* The message for which it was opened has had its chance. */
        if (connection->due_ns != 0)
            thread->result.counts.broken++;
    }
    close_it(connection);
}

/* Nothing may touch the connection after this. */
static void
settle(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;

    if (connection->state != CLOSING || connection->link.inflight > 0)
        return;
    load_body_release(connection);
    link_release(&connection->link);
    connection->state = CLOSED;
    thread->result.counts.open--;
    load_list_add(&thread->closed, connection);
}

static bool
is_idle(const struct load_connection *connection)
{
    return connection->state == READY && connection->open == 0 && connection->expected_count == 0;
}

static enum load_failure
failure_of(const struct load_connection *connection)
{
    const struct link *link = &connection->link;

    if (is_idle(connection))
        return FAILED_IDLE;
    if (link->error == 0)
        return FAILED_CLOSED;
    return io_error_is_refused(link->error) ? FAILED_REFUSED : FAILED_RESET;
}

static void
quit(struct load_connection *connection)
{
    if (!link_room(&connection->link, ROOM)) {
        close_it(connection);
        return;
    }
    if (connection->thread->plan->resume && connection->tls_done) {
        /* TLS 1.3: it came behind the handshake. */
        tls_session_free(connection->session);
        connection->session = tls_take_session(connection->link.tls);
    }
    outbuf_add(&connection->link.out, SPAN("QUIT\r\n"));
    load_expect(connection, EXPECT_QUIT);
    connection->state = QUITTING;
    link_flush(&connection->link);
    deadline_set(connection, QUIT_NS);
}

/* --- opening --- */

bool
load_connection_open(struct load_connection *connection, uint64_t due_ns)
{
    struct load_thread *thread = connection->thread;
    const struct load_plan *plan = thread->plan;
    uint32_t slot = (uint32_t)(connection - thread->connections);
    int socket = io_socket(&plan->to);
    int error = socket < 0 ? socket : load_source_bind(thread, socket);

    if (error < 0) {
        if (socket >= 0)
            io_close_now(socket);
        load_failed(thread, FAILED_LOCAL);
        thread->open_pause_ns = thread->now_ns + OPEN_PAUSE_NS;
        return false;
    }
    load_list_remove(connection);
    link_open(&connection->link, &thread->links, (struct io_ticket){ .slot = slot }, socket);
    connection->state = CONNECTING;
    connection->expected_count = connection->open = connection->code_seen = 0;
    connection->pipelining = connection->chunking = connection->starttls = connection->size = false;
    connection->tls_shaking = connection->tls_done = connection->reset_due = false;
    connection->idling = connection->idled = connection->held = false;
    connection->sent_count = 0;
    connection->due_ns = due_ns;
    connection->phase_ns = thread->now_ns;
    thread->opening++;
    thread->result.counts.open++;
    thread->result.counts.connections++;
    link_connect(&connection->link, &plan->to);
    deadline_set(connection, plan->timeout_ns);
    return true;
}

static void
start_tls(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;
    struct tls *tls =
        tls_create_client(thread->plan->tls_context, thread->plan->tls_name, connection->session);

    connection->session = NULL;
    if (tls == NULL) {
        lost(connection, FAILED_LOCAL);
        return;
    }
    connection->tls_shaking = true;
    connection->phase_ns = thread->now_ns;
    link_start_tls(&connection->link, tls);
}

static void
ehlo(struct load_connection *connection)
{
    struct outbuf *out = &connection->link.out;

    if (!link_room(&connection->link, ROOM)) {
        lost(connection, FAILED_LOCAL);
        return;
    }
    outbuf_add(out, SPAN("EHLO "));
    outbuf_add(out, span_text(connection->thread->plan->helo));
    outbuf_add(out, SPAN("\r\n"));
    connection->pipelining = connection->chunking = connection->starttls = connection->size = false;
    load_expect(connection, EXPECT_EHLO);
}

static void
on_connected(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;

    load_phase_add(thread, PHASE_CONNECT, connection->phase_ns);
    link_receive(&connection->link);
    connection->state = OPENING;
    connection->phase_ns = thread->now_ns;
    load_expect(connection, EXPECT_GREETING);
    if (thread->plan->tls == LOAD_IMPLICIT)
        start_tls(connection);
}

static void
tls_look(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;
    struct link *link = &connection->link;

    if (link->tls_state == LINK_TLS) {
        connection->tls_shaking = false;
        connection->tls_done = true;
        thread->result.counts.resumed += tls_resumed(link->tls);
        load_phase_add(thread, PHASE_TLS, connection->phase_ns);
        connection->phase_ns = thread->now_ns;
        /* As mail clients do whose library sends its last flight by itself: Finished and EHLO are
         * two segments, which a server must take. */
        link_flush(link);
        if (thread->plan->tls == LOAD_STARTTLS)
            ehlo(connection);
        link_flush(link);
    } else if (link->failed || link->ended) {
        lost(connection, FAILED_TLS);
    }
}

static void
on_ehlo(struct load_connection *connection)
{
    const struct load_plan *plan = connection->thread->plan;

    if (plan->tls == LOAD_STARTTLS && !connection->tls_done) {
        if (!connection->starttls || !link_room(&connection->link, ROOM)) {
            lost(connection, FAILED_PROTOCOL);
            return;
        }
        outbuf_add(&connection->link.out, SPAN("STARTTLS\r\n"));
        load_expect(connection, EXPECT_STARTTLS);
        return;
    }
    if (plan->bdat && !connection->chunking) {
        lost(connection, FAILED_PROTOCOL);
        return;
    }
    load_phase_add(connection->thread, PHASE_EHLO, connection->phase_ns);
    opening_end(connection);
    connection->state = READY;
    if (connection->due_ns != 0) {
        connection->idled = true;
        load_message_begin(connection, connection->due_ns);
        connection->due_ns = 0;
    }
}

/* --- replies --- */

static void
keyword_note(struct load_connection *connection, struct span text)
{
    if (span_starts_ignore_case(text, SPAN("PIPELINING")))
        connection->pipelining = true;
    else if (span_starts_ignore_case(text, SPAN("CHUNKING")))
        connection->chunking = true;
    else if (span_starts_ignore_case(text, SPAN("STARTTLS")))
        connection->starttls = true;
    else if (span_starts_ignore_case(text, SPAN("SIZE")))
        connection->size = true;
}

static void
opening_reply(struct load_connection *connection, enum load_expectation kind, unsigned code)
{
    if (code / 100 != 2) {
        lost(connection, kind == EXPECT_STARTTLS ? FAILED_TLS : FAILED_SERVICE);
        return;
    }
    if (kind == EXPECT_GREETING)
        ehlo(connection);
    else if (kind == EXPECT_EHLO)
        on_ehlo(connection);
}

/* The last line of a reply. */
static void
on_reply(struct load_connection *connection, unsigned code, struct span text)
{
    struct load_thread *thread = connection->thread;
    enum load_expectation kind;

    if (connection->expected_count == 0) {
        /* 421 comes at any time (RFC 5321 3.8). */
        lost(connection, code != 421           ? FAILED_PROTOCOL
                         : is_idle(connection) ? FAILED_IDLE
                                               : FAILED_SERVICE);
        return;
    }
    kind = connection->expected[connection->expected_first].kind;
    if (--connection->expected[connection->expected_first].left == 0) {
        connection->expected_first = (uint8_t)((connection->expected_first + 1) % EXPECTATIONS_MAX);
        connection->expected_count--;
    }
    if (code >= 400)
        thread->result.counts.codes[kind][code]++;
    if (kind == EXPECT_QUIT) {
        close_it(connection);
        return;
    }
    if (kind == EXPECT_GREETING || kind == EXPECT_EHLO || kind == EXPECT_STARTTLS)
        opening_reply(connection, kind, code);
    else if (kind != EXPECT_RSET)
        load_message_reply(connection, kind, code, text);
    if (code == 421 && connection->state != CLOSING)
        lost(connection, FAILED_SERVICE);
}

/* One line of a reply, CRLF included. False: it is none. */
static bool
on_line(struct load_connection *connection, struct span line)
{
    const char *at = line.data;
    unsigned code;

    if (line.len < 5 || !char_is_digit(at[0]) || !char_is_digit(at[1]) || !char_is_digit(at[2]))
        return false;
    code = (unsigned)(at[0] - '0') * 100 + (unsigned)(at[1] - '0') * 10 + (unsigned)(at[2] - '0');
    if (code < 200 || code > 599 || (at[3] != ' ' && at[3] != '-' && at[3] != '\r'))
        return false;
    line = at[3] == '\r' ? SPAN("") : span_after(line, 4);
    while (line.len > 0 && (line.data[line.len - 1] == '\n' || line.data[line.len - 1] == '\r'))
        line.len--;
    if (connection->expected_count > 0 &&
        connection->expected[connection->expected_first].kind == EXPECT_EHLO)
        keyword_note(connection, line);
    if (at[3] != '-')
        on_reply(connection, code, line);
    return true;
}

/* The handshake begins when the 220 was used up: nothing may stand behind it. */
static void
starttls_begin(struct load_connection *connection)
{
    if (link_unread(&connection->link) > 0)
        lost(connection, FAILED_PROTOCOL);
    else
        start_tls(connection);
}

static void
replies_read(struct load_connection *connection)
{
    struct link *link = &connection->link;

    while (connection->state > CONNECTING && connection->state < CLOSING &&
           link->tls_state != LINK_HANDSHAKE) {
        struct span front = link_front(link);
        const char *end = front.len > 0 ? memchr(front.data, '\n', front.len) : NULL;
        size_t len;
        bool starttls;

        if (end == NULL) {
            if (front.len == 0 || !link_extend(link)) {
                if (front.len >= REPLY_LINE_BYTES)
                    lost(connection, FAILED_PROTOCOL);
                return;
            }
            continue;
        }
        len = (size_t)(end - front.data) + 1;
        starttls = connection->expected_count > 0 &&
                   connection->expected[connection->expected_first].kind == EXPECT_STARTTLS;
        if (!on_line(connection, span_first(front, len))) {
            lost(connection, FAILED_PROTOCOL);
            return;
        }
        if (connection->state == CLOSING)
            return;
        link_consume(link, len);
        if (starttls && connection->expected_count == 0)
            starttls_begin(connection);
    }
}

/* --- what comes next --- */

/* Ready and without a message: begins one, pauses, waits or ends. */
static void
next(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;
    const struct load_plan *plan = thread->plan;
    uint64_t due_ns;

    if (connection->idling)
        return;
    if ((thread->stopping && !load_thread_has_work(thread)) ||
        connection->sent_count >= plan->per_connection) {
        load_list_remove(connection);
        quit(connection);
        return;
    }
    if (plan->idle.count > 0 && !connection->idled) {
        connection->idling = true;
        deadline_set(connection, distribution_draw(&plan->idle, &thread->random));
        return;
    }
    if (load_thread_next(thread, &due_ns)) {
        load_list_remove(connection);
        load_message_begin(connection, due_ns);
        return;
    }
    if (plan->rate == 0) {
        quit(connection); /* all messages are given away */
        return;
    }
    if (connection->previous == NULL) {
        load_list_add(&thread->ready, connection);
        thread->result.counts.ready++;
    }
    timer_cancel(&thread->timers, &connection->timer);
}

void
load_connection_advance(struct load_connection *connection)
{
    if (connection->state == READY && connection->open == 0)
        next(connection);
    if (connection->state == READY && connection->open > 0) {
        load_message_advance(connection);
        /* A refusal that was known before anything was said ends a message here. */
        if (connection->open == 0 && connection->expected_count == 0)
            next(connection);
    }
    if (connection->state == CLOSING || connection->state == CLOSED)
        return;
    link_flush(&connection->link);
    if (connection->held) {
        connection->held = false;
        if (link_drained(&connection->link))
            io_push(connection->link.socket); /* nothing follows after all */
    }
    if (connection->state == READY && connection->expected_count > 0)
        deadline_set(connection, connection->thread->plan->timeout_ns);
}

void
load_connection_complete(struct load_connection *connection, const struct io_completion *completion)
{
    struct link *link = &connection->link;

    link_complete(link, completion);
    if (connection->state != CLOSING) {
        if (completion->op == IO_CONNECT) {
            if (link->failed)
                lost(connection,
                     io_error_is_refused(link->error) ? FAILED_REFUSED : FAILED_CONNECT);
            else
                on_connected(connection);
        }
        if (connection->tls_shaking)
            tls_look(connection);
        load_body_look(connection);
        replies_read(connection);
    }
    if (connection->state != CLOSING && connection->state != CONNECTING) {
        load_connection_advance(connection);
        if (connection->state != CLOSING && (link_at_end(link) || link->failed)) {
            if (connection->state == QUITTING)
                close_it(connection);
            else
                lost(connection, failure_of(connection));
        }
        if (connection->state == OPENING)
            deadline_set(connection, connection->thread->plan->timeout_ns);
    }
    settle(connection);
}

void
load_connection_timer(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;

    if (thread->now_ns < connection->deadline_ns) {
        link_recheck(&connection->link);
        timer_set(&thread->timers, &connection->timer, connection->deadline_ns);
        return;
    }
    if (connection->idling) {
        connection->idling = false;
        connection->idled = true;
        load_connection_advance(connection);
        return;
    }
    if (connection->state == QUITTING)
        close_it(connection);
    else
        lost(connection, FAILED_TIMEOUT);
    settle(connection);
}

void
load_connection_stop(struct load_connection *connection)
{
    bool idle = connection->state == READY && connection->open == 0;

    if (connection->state == CLOSED || connection->state == CLOSING)
        return;
    if (connection->thread->at_once) {
        lost(connection, FAILED_CLOSED);
    } else if (idle) {
        connection->idling = false;
        load_list_remove(connection);
        quit(connection);
    } else if ((connection->state == CONNECTING || connection->state == OPENING) &&
               connection->due_ns == 0) {
        close_it(connection);
    }
    settle(connection);
}
