/* One message of load after the other on a connection: commands, content, replies. */
#include "bench/tool/load_private.h"

#include "core/crc32c.h"

/* A command with the longest path, or BDAT with the header section behind it. */
#define ROOM (MESSAGE_HEAD_BYTES_MAX + 512)

/* --- small things --- */

void
load_expect(struct load_connection *connection, enum load_expectation kind)
{
    uint8_t last =
        (uint8_t)(connection->expected_first + connection->expected_count - 1) % EXPECTATIONS_MAX;

    if (kind == EXPECT_RCPT && connection->expected_count > 0 &&
        connection->expected[last].kind == EXPECT_RCPT) {
        connection->expected[last].left++;
        return;
    }
    ASSERT(connection->expected_count < EXPECTATIONS_MAX);
    last = (uint8_t)(last + 1) % EXPECTATIONS_MAX;
    connection->expected[last].kind = (uint8_t)kind;
    connection->expected[last].left = 1;
    connection->expected_count++;
}

static struct load_message *
oldest(struct load_connection *connection)
{
    ASSERT(connection->open > 0);
    return &connection->messages[connection->oldest];
}

static struct load_message *
newest(struct load_connection *connection)
{
    ASSERT(connection->open > 0);
    return &connection->messages[(connection->oldest + connection->open - 1) % WINDOW];
}

static void
expect_of(struct load_connection *connection, struct load_message *message,
          enum load_expectation kind)
{
    load_expect(connection, kind);
    message->due_replies++;
    if (kind == EXPECT_END)
        message->end_expected = true;
}

/* A template with %n (message), %r (recipient), %t (thread), %%. */
static void
template_write(const char *text, const struct load_thread *thread, uint64_t number,
               uint32_t recipient, struct outbuf *out)
{
    for (; *text != '\0'; text++) {
        if (*text != '%' || text[1] == '\0') {
            outbuf_add_char(out, *text);
            continue;
        }
        text++;
        if (*text == 'n')
            outbuf_add_number(out, number);
        else if (*text == 'r')
            outbuf_add_number(out, recipient);
        else if (*text == 't')
            outbuf_add_number(out, thread->index);
        else
            outbuf_add_char(out, *text);
    }
}

static struct message_id
id_of(const struct load_thread *thread, uint64_t number)
{
    return (struct message_id){ .run = thread->plan->run,
                                .thread = (uint16_t)thread->index,
                                .number = number };
}

size_t
load_head_bytes(const struct load_plan *plan)
{
    char text[MESSAGE_HEAD_BYTES_MAX];
    struct outbuf out = { .data = text, .size = sizeof(text) };

    message_head_write((struct message_id){ 0 }, span_text(plan->date), &out);
    return out.len;
}

/* Lets go of messages that are through. */
static void
settle(struct load_connection *connection)
{
    while (connection->open > 0) {
        struct load_message *message = oldest(connection);

        if (message->refused && message->step <= STEP_DATA)
            message->step = STEP_DONE;
        if (message->due_replies > 0 || message->step != STEP_DONE)
            return;
        if (!message->end_expected)
            load_thread_answered(connection->thread, message, message->code, SPAN(""));
        connection->oldest = (uint8_t)((connection->oldest + 1) % WINDOW);
        connection->open--;
    }
}

/* --- content --- */

/* Octets of the body in the next chunk. A body must not begin between CR and LF: neither this part
 * nor what is left for the next one. */
static uint64_t
chunk_next(const struct load_plan *plan, uint64_t left)
{
    uint64_t bytes = plan->chunk_bytes;

    if (bytes == 0 || left <= bytes + 4)
        return left;
    while (pattern_fit(&plan->pattern, bytes) != bytes ||
           pattern_fit(&plan->pattern, left - bytes) != left - bytes)
        bytes++;
    return bytes < left ? bytes : left;
}

static uint32_t
digest_of(struct load_thread *thread, uint32_t digest, uint64_t bytes)
{
    const struct load_plan *plan = thread->plan;

    for (uint32_t i = 0; i < thread->shift_count && plan->chunk_bytes == 0; i++)
        if (thread->shifts[i].bytes == bytes)
            return digest_shift_use(&thread->shifts[i], digest);
    while (bytes > 0) {
        uint64_t part = chunk_next(plan, bytes);

        digest = pattern_digest(&plan->pattern, digest, part);
        bytes -= part;
    }
    return digest;
}

/* The header section, and what the digest of all of it is. */
static void
content_begin(struct load_connection *connection, struct load_message *message)
{
    struct load_thread *thread = connection->thread;
    struct outbuf *out = &connection->link.out;
    size_t before = out->len + MESSAGE_DIGEST_FROM;

    message_head_write(id_of(thread, message->number), span_text(thread->plan->date), out);
    message->content_begun = true;
    if (thread->ledger.file < 0)
        return;
    message->digest = crc32c(0, span_after(outbuf_span(out), before));
    message->digest = digest_of(thread, message->digest, message->bytes);
}

/* Deep: one more message may follow on this connection, as far as one can know. */
static bool
next_may_follow(const struct load_connection *connection)
{
    const struct load_plan *plan = connection->thread->plan;

    return plan->pipelining == LOAD_DEEP && connection->pipelining && connection->open < WINDOW &&
           plan->idle.count == 0 && connection->sent_count < plan->per_connection &&
           load_thread_has_work(connection->thread);
}

/* The next `bytes` octets of the body go out behind what is written. What will follow them at once
 * leaves in the same segment, as from a client that writes into one buffer. */
static void
body_begin(struct load_connection *connection, struct load_message *message, uint64_t bytes)
{
    struct load_thread *thread = connection->thread;
    struct link_body *body = pool_take(&thread->bodies);
    uint32_t index, offset;

    ASSERT(body != NULL); /* as many as connections */
    ASSERT(bytes <= message->bytes_left);
    *body = (struct link_body){ .chain = &thread->store.chain };
    connection->body_end = body_store_find(&thread->store, bytes, &index, &offset);
    body->index = index;
    body->offset = offset;
    connection->body = body;
    connection->link.body = body;
    message->bytes_left -= bytes;
    message->step = STEP_BODY;
    body->gather.more = message->bytes_left == 0 && next_may_follow(connection);
}

void
load_body_release(struct load_connection *connection)
{
    if (connection->body == NULL)
        return;
    connection->link.body = NULL;
    pool_release(&connection->thread->bodies, connection->body);
    connection->body = NULL;
}

void
load_body_look(struct load_connection *connection)
{
    struct load_message *message;

    if (connection->body == NULL || connection->body->sent < connection->body_end)
        return;
    connection->held = connection->body->gather.more;
    load_body_release(connection);
    if (connection->open == 0)
        return;
    message = newest(connection);
    if (message->step != STEP_BODY)
        return;
    message->step = message->bytes_left > 0 ? STEP_DATA : STEP_DONE;
    if (message->step == STEP_DONE)
        message->sent_ns = connection->thread->now_ns;
    settle(connection);
}

/* --- commands --- */

void
load_message_begin(struct load_connection *connection, uint64_t due_ns)
{
    struct load_thread *thread = connection->thread;
    const struct load_plan *plan = thread->plan;
    uint64_t size = distribution_draw(&plan->size, &thread->random);
    uint64_t head = plan->head_bytes;
    struct load_message *message;

    ASSERT(connection->open < WINDOW);
    connection->open++;
    message = newest(connection);
    *message = (struct load_message){
        .due_ns = due_ns,
        .number = thread->number++,
        .bytes = pattern_fit(&plan->pattern, size > head + 2 ? size - head : 2),
    };
    message->bytes_left = message->bytes;
    connection->sent_count++;
    connection->idled = false;
}

static void
mail_write(struct load_connection *connection, struct load_message *message)
{
    struct load_thread *thread = connection->thread;
    struct outbuf *out = &connection->link.out;

    outbuf_add(out, SPAN("MAIL FROM:<"));
    template_write(thread->plan->from, thread, message->number, 0, out);
    outbuf_add_char(out, '>');
    if (connection->size) {
        outbuf_add(out, SPAN(" SIZE="));
        outbuf_add_number(out, thread->plan->head_bytes + message->bytes);
    }
    outbuf_add(out, SPAN("\r\n"));
    message->mail_ns = thread->now_ns;
    message->step = STEP_RCPT;
    expect_of(connection, message, EXPECT_MAIL);
}

static void
rcpt_write(struct load_connection *connection, struct load_message *message)
{
    struct load_thread *thread = connection->thread;
    struct outbuf *out = &connection->link.out;

    outbuf_add(out, SPAN("RCPT TO:<"));
    template_write(thread->plan->rcpt, thread, message->number, message->recipients, out);
    outbuf_add(out, SPAN(">\r\n"));
    if (++message->recipients == thread->plan->recipients)
        message->step = STEP_DATA;
    expect_of(connection, message, EXPECT_RCPT);
}

static void
chunk_write(struct load_connection *connection, struct load_message *message)
{
    const struct load_plan *plan = connection->thread->plan;
    struct outbuf *out = &connection->link.out;
    uint64_t bytes = chunk_next(plan, message->bytes_left);
    bool last = bytes == message->bytes_left;

    outbuf_add(out, SPAN("BDAT "));
    outbuf_add_number(out, bytes + (message->content_begun ? 0 : plan->head_bytes));
    outbuf_add(out, last ? SPAN(" LAST\r\n") : SPAN("\r\n"));
    if (!message->content_begun)
        content_begin(connection, message);
    body_begin(connection, message, bytes);
    expect_of(connection, message, last ? EXPECT_END : EXPECT_CHUNK);
}

/* One command of the newest message. False: nothing can be written now. */
static bool
write_step(struct load_connection *connection, struct load_message *message)
{
    if (message->refused && message->step <= STEP_DATA)
        message->step = STEP_DONE;
    switch ((enum load_step)message->step) {
    case STEP_MAIL:
        if (connection->reset_due) {
            connection->reset_due = false;
            outbuf_add(&connection->link.out, SPAN("RSET\r\n"));
            load_expect(connection, EXPECT_RSET);
        } else {
            mail_write(connection, message);
        }
        return true;
    case STEP_RCPT: rcpt_write(connection, message); return true;
    case STEP_DATA:
        if (connection->thread->plan->bdat) {
            chunk_write(connection, message);
        } else {
            outbuf_add(&connection->link.out, SPAN("DATA\r\n"));
            expect_of(connection, message, EXPECT_DATA);
            message->step = STEP_WAIT;
        }
        return true;
    case STEP_WAIT:
    case STEP_BODY:
    case STEP_DONE: break;
    }
    return false;
}

/* Deep: may the next message begin behind the one at hand? */
static bool
next_may_begin(struct load_connection *connection, uint64_t *due_ns)
{
    return next_may_follow(connection) && newest(connection)->step == STEP_DONE &&
           load_thread_next(connection->thread, due_ns);
}

void
load_message_advance(struct load_connection *connection)
{
    struct link *link = &connection->link;
    bool groups = connection->pipelining && connection->thread->plan->pipelining != LOAD_ONE_BY_ONE;
    uint64_t due_ns;

    while (connection->open > 0 && connection->body == NULL) {
        if (!groups && connection->expected_count > 0)
            return;
        if (connection->expected_count > EXPECTATIONS_MAX - 4)
            return;
        if (!link_room(link, ROOM)) {
            link_flush(link);
            if (link->sending || !link_room(link, ROOM))
                return;
        }
        if (write_step(connection, newest(connection)))
            continue;
        settle(connection);
        if (connection->open == 0)
            return;
        if (!next_may_begin(connection, &due_ns))
            return;
        load_message_begin(connection, due_ns);
    }
}

/* --- replies --- */

static void
refuse(struct load_message *message, unsigned code)
{
    if (!message->refused)
        message->code = (uint16_t)code;
    message->refused = true;
}

static void
on_data(struct load_connection *connection, struct load_message *message, unsigned code)
{
    struct load_thread *thread = connection->thread;

    if (code / 100 != 3) {
        refuse(message, code);
        connection->reset_due = true;
        message->step = STEP_DONE;
        return;
    }
    load_phase_add(thread, PHASE_ENVELOPE, message->mail_ns);
    /* DATA has left us and nothing was written since: the block is empty. */
    if (!link_room(&connection->link, ROOM))
        ASSERT(!"room behind DATA");
    expect_of(connection, message, EXPECT_END);
    if (message->refused) {
        /* It has no recipients: the message is empty (RFC 2920 3.1). */
        outbuf_add(&connection->link.out, SPAN(".\r\n"));
        message->step = STEP_DONE;
        return;
    }
    content_begin(connection, message);
    body_begin(connection, message, message->bytes);
}

static void
on_rcpt(struct load_connection *connection, struct load_message *message, unsigned code)
{
    struct load_thread *thread = connection->thread;
    bool last;

    if (code / 100 == 2)
        message->accepted++;
    else
        message->code = message->code != 0 ? message->code : (uint16_t)code;
    last = connection->expected_count == 0 ||
           connection->expected[connection->expected_first].kind != EXPECT_RCPT;
    if (!last || message->recipients < thread->plan->recipients)
        return;
    if (message->accepted == 0 && !message->refused) {
        message->refused = true;
        connection->reset_due = true;
    }
    if (thread->plan->bdat)
        load_phase_add(thread, PHASE_ENVELOPE, message->mail_ns);
}

static void
on_end(struct load_connection *connection, struct load_message *message, unsigned code,
       struct span text)
{
    struct load_thread *thread = connection->thread;

    load_body_look(connection);
    /* A server that takes content takes it, whatever it said before: deep pipelining's MAIL may
     * have met a transaction that a refused BDAT left open. */
    if (message->refused && !(code / 100 == 2 && message->content_begun)) {
        code = message->code;
    } else {
        message->refused = false;
        load_phase_add(thread, PHASE_REPLY,
                       message->sent_ns != 0 ? message->sent_ns : thread->now_ns);
    }
    connection->reset_due |= thread->plan->bdat && code / 100 != 2;
    message->refused |= code / 100 != 2;
    message->code = (uint16_t)code;
    load_thread_answered(thread, message, code, text);
}

void
load_message_reply(struct load_connection *connection, enum load_expectation kind, unsigned code,
                   struct span text)
{
    struct load_message *message = oldest(connection);

    ASSERT(message->due_replies > 0);
    message->due_replies--;
    switch (kind) {
    case EXPECT_MAIL:
        if (code / 100 != 2)
            refuse(message, code);
        break;
    case EXPECT_RCPT: on_rcpt(connection, message, code); break;
    case EXPECT_DATA: on_data(connection, message, code); break;
    case EXPECT_CHUNK:
        if (code / 100 != 2) {
            refuse(message, code);
            connection->reset_due = true;
        }
        break;
    default: ASSERT(kind == EXPECT_END); on_end(connection, message, code, text);
    }
    settle(connection);
}

void
load_messages_lost(struct load_connection *connection)
{
    struct load_thread *thread = connection->thread;

    load_body_look(connection);
    for (; connection->open > 0; connection->open--) {
        struct load_message *message = oldest(connection);

        if (message->end_expected && !message->refused &&
            (message->sent_ns != 0 || message->step == STEP_DONE))
            load_thread_answered(thread, message, 0, SPAN(""));
        else
            thread->result.counts.broken++;
        connection->oldest = (uint8_t)((connection->oldest + 1) % WINDOW);
    }
}
