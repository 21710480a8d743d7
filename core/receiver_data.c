/* Message data, by DATA and by BDAT: what is handed on, what makes a message unacceptable, and how
 * its true end is found even then.
 *
 * Invariants:
 *  1. A message is handed out whole or is aborted: after the first fault no BODY comes, ABORT does.
 *  2. A fault is told at the true end of the data (RFC 5321 4.1.1.4: the reply is to the final dot;
 *     RFC 3030 2: to the BDAT, after its octets), so what follows is never taken for commands.
 *  3. Which fault is told does not depend on how the octets were split: all of them are looked for
 *     up to the end of the data (or of the chunk), and the first of enum receiver_discard wins. */
#include "core/receiver_private.h"

static const enum receiver_reply discard_replies[] = {
    [RECEIVER_DISCARD_BARE_NEWLINE] = REPLY_DATA_BARE,
    [RECEIVER_DISCARD_NUL] = REPLY_DATA_NUL,
    [RECEIVER_DISCARD_LONG_LINE] = REPLY_DATA_LONG_LINE,
    [RECEIVER_DISCARD_LOOP] = REPLY_DATA_LOOP,
    [RECEIVER_DISCARD_SIZE] = REPLY_MESSAGE_TOO_BIG,
};

void
receiver_data_begin(struct receiver *receiver)
{
    body_scanner_start(&receiver->body, !receiver->chunked, receiver->policy->text_line_max);
    header_scanner_start(&receiver->header);
    receiver->size = 0;
    receiver->discard = RECEIVER_KEEP;
    receiver->data_ended = false;
    receiver_enter(receiver, receiver->chunked ? RECEIVER_STATE_CHUNK : RECEIVER_STATE_DATA,
                   receiver->chunked ? "BDAT accepted" : "DATA accepted");
}

static void
discard(struct receiver *receiver, enum receiver_discard reason)
{
    if (receiver->discard == RECEIVER_KEEP) {
        receiver_end_transaction(receiver);
        receiver->discard = (uint8_t)reason;
    } else if (reason < receiver->discard) {
        receiver->discard = (uint8_t)reason;
    }
}

/* DATA: more octets than allowed. The dots that stuff and the terminator do not count (RFC 1870 5),
 * so until the end is known there may be a few more in wire form. */
static bool
data_too_big(const struct receiver *receiver)
{
    uint64_t octets = receiver->size - receiver->body.dots.count;

    return octets > receiver->policy->message_size_max + BODY_TERMINATOR_BYTES;
}

/* Takes octets of the message up to a fault, the end, or the end of *in; returns them. */
static struct span
scan(struct receiver *receiver, struct span *in)
{
    struct span piece = *in;
    enum body_result result = body_scan(&receiver->body, in);

    piece.len -= in->len;
    receiver->size += piece.len;
    if (!receiver->header.ended)
        header_scan(&receiver->header, piece, !receiver->body.eight_bit);
    if (result == BODY_END)
        receiver->data_ended = true;
    if (result == BODY_BARE_CR || result == BODY_BARE_LF)
        discard(receiver, RECEIVER_DISCARD_BARE_NEWLINE);
    /* RFC 5321 4.5.2 and RFC 5322 4.1: no NUL. Some next hops end their lines at one. */
    if (receiver->body.nul)
        discard(receiver, RECEIVER_DISCARD_NUL);
    if (result == BODY_LONG_LINE)
        discard(receiver, RECEIVER_DISCARD_LONG_LINE);
    if (receiver->header.received > receiver->policy->received_max)
        discard(receiver, RECEIVER_DISCARD_LOOP); /* RFC 5321 6.3 */
    return piece;
}

static bool
give_body(struct receiver_event *event, struct span piece)
{
    ASSERT(piece.len > 0);
    event->kind = RECEIVER_BODY;
    event->body = piece;
    return true;
}

uint64_t
receiver_message_size(const struct receiver *receiver)
{
    uint64_t framing = receiver->chunked ? 0 : BODY_TERMINATOR_BYTES + receiver->body.dots.count;

    ASSERT(receiver->size >= framing);
    return receiver->size - framing;
}

static bool
give_message(struct receiver *receiver, struct receiver_event *event)
{
    ASSERT(receiver_message_size(receiver) <= receiver->policy->message_size_max);
    receiver->awaiting = RECEIVER_MESSAGE;
    event->kind = RECEIVER_MESSAGE;
    event->chunked = receiver->chunked;
    event->summary = (struct receiver_summary){
        .size = receiver_message_size(receiver),
        .received = receiver->header.received,
        .dots = receiver->body.dots,
        .eight_bit = receiver->body.eight_bit,
        .header_utf8 = receiver->header.eight_bit,
        .chunked = receiver->chunked,
        .ends_with_crlf = receiver->body.ends_with_crlf,
    };
    return true;
}

/* The reply to message data that was dropped for what it is. */
static void
say_discarded(struct receiver *receiver, struct outbuf *out)
{
    ASSERT(receiver->discard > RECEIVER_KEEP);
    ASSERT(receiver->discard <= RECEIVER_DISCARD_SIZE);
    counter_increment(&receiver->counters->messages_refused);
    receiver_say(receiver, discard_replies[receiver->discard], out);
}

/* --- DATA --- */

bool
receiver_step_data(struct receiver *receiver, struct span *in, struct outbuf *out,
                   struct receiver_event *event)
{
    while (!receiver->data_ended) {
        struct span piece;

        if (in->len == 0)
            return true; /* NEED_INPUT */
        piece = scan(receiver, in);
        if (data_too_big(receiver))
            discard(receiver, RECEIVER_DISCARD_SIZE);
        if (receiver->discard == RECEIVER_KEEP)
            return give_body(event, piece);
        if (receiver->aborting)
            return false;
    }
    if (outbuf_room(out) < RECEIVER_REPLY_ROOM) {
        event->kind = RECEIVER_NEED_ROOM;
        return true;
    }
    if (receiver->discard == RECEIVER_KEEP)
        return give_message(receiver, event);
    receiver_enter(receiver, RECEIVER_STATE_READY, "end of dropped data");
    say_discarded(receiver, out);
    return false;
}

/* --- BDAT --- */

enum chunk_syntax {
    CHUNK_OK,
    CHUNK_BAD_REST, /* the size could be read, what follows it not */
    CHUNK_BAD_SIZE, /* nobody knows where the next command begins */
};

/* RFC 3030 2: chunk-size [SP "LAST"]. Sizes are 63 bits, as for SIZE. */
static enum chunk_syntax
chunk_read(struct span argument, uint64_t *size, bool *last)
{
    *last = false;
    if (!span_take_number(&argument, size) || *size > INT64_MAX ||
        (argument.len > 0 && argument.data[0] != ' '))
        return CHUNK_BAD_SIZE;
    while (argument.len > 0 && argument.data[0] == ' ')
        span_advance(&argument, 1);
    *last = span_equal_ignore_case(argument, SPAN("LAST"));
    return *last || argument.len == 0 ? CHUNK_OK : CHUNK_BAD_REST;
}

/* Why this BDAT is no part of a message, whatever its octets are; *excused: it was sent on
 * trust. */
static enum receiver_reply
chunk_refusal(const struct receiver *receiver, enum chunk_syntax syntax, bool *excused)
{
    *excused = receiver->group_failed;
    switch (receiver->state) {
    case RECEIVER_STATE_START:
        return REPLY_SAY_HELO;
    case RECEIVER_STATE_READY:
        return receiver->esmtp ? REPLY_SAY_MAIL : REPLY_SAY_EHLO;
    case RECEIVER_STATE_MAIL:
        if (!receiver->esmtp)
            return REPLY_SAY_EHLO;
        *excused = receiver->tries > 0;
        return receiver->tries > 0 ? REPLY_NO_RECIPIENTS : REPLY_SAY_RCPT;
    default:
        ASSERT(!receiver->group_failed);
        if (!receiver->esmtp)
            return REPLY_SAY_EHLO;
        return syntax == CHUNK_OK ? REPLY_NONE : REPLY_BDAT_SYNTAX;
    }
}

/* Enters the chunk only to drop its octets. The transaction is over: what follows a lost chunk must
 * not be taken for the message (RFC 3030 2: only RSET leads on), so that further chunks find no
 * transaction and are refused as well. */
static void
chunk_drop(struct receiver *receiver, enum receiver_discard reason)
{
    receiver_end_transaction(receiver);
    receiver->discard = (uint8_t)reason;
    receiver->group_failed = true;
    receiver_enter(receiver, RECEIVER_STATE_CHUNK, "BDAT refused");
}

void
receiver_chunk_refused(struct receiver *receiver, const struct reply *reply)
{
    receiver->refused_code = reply->code;
    receiver->refused_enhanced = reply->enhanced;
    chunk_drop(receiver, RECEIVER_DISCARD_VERDICT);
}

void
receiver_command_bdat(struct receiver *receiver, struct span argument, struct outbuf *out,
                      struct receiver_event *event)
{
    bool first = receiver->state == RECEIVER_STATE_RCPT;
    enum chunk_syntax syntax = chunk_read(argument, &receiver->chunk_size, &receiver->chunk_last);
    enum receiver_reply refusal;
    bool excused;

    if (syntax == CHUNK_BAD_SIZE) {
        counter_increment(&receiver->counters->command_errors);
        receiver_close(receiver, REPLY_BDAT_SYNTAX, "BDAT without a size", out);
        return;
    }
    receiver->chunk_left = receiver->chunk_size;
    refusal = chunk_refusal(receiver, syntax, &excused);
    if (refusal != REPLY_NONE) {
        bool go_on = excused ? receiver_count_excused(receiver, out)
                             : receiver_count_error(receiver, out);

        receiver->refused_reply = (uint8_t)refusal;
        if (go_on)
            chunk_drop(receiver, RECEIVER_DISCARD_COMMAND);
    } else if ((first ? 0 : receiver->size) + receiver->chunk_size >
               receiver->policy->message_size_max) {
        chunk_drop(receiver, RECEIVER_DISCARD_SIZE); /* RFC 1870 6.3, over all chunks */
    } else if (first) {
        receiver->chunked = true;
        receiver->awaiting = RECEIVER_DATA;
        event->kind = RECEIVER_DATA;
        event->chunked = true;
    } else {
        receiver_enter(receiver, RECEIVER_STATE_CHUNK, "BDAT");
    }
}

/* Takes octets of the chunk; returns them. */
static struct span
chunk_take(struct receiver *receiver, struct span *in)
{
    size_t len = in->len < receiver->chunk_left ? in->len : (size_t)receiver->chunk_left;
    struct span piece = span_first(*in, len);
    struct span rest = piece;

    /* Octets that were refused before they came are not looked at. */
    if (receiver->discard < RECEIVER_DISCARD_SIZE)
        piece = scan(receiver, &rest);
    span_advance(in, piece.len);
    receiver->chunk_left -= piece.len;
    return piece;
}

static void
say_chunk_dropped(struct receiver *receiver, struct outbuf *out)
{
    struct reply reply;

    if (receiver->discard == RECEIVER_DISCARD_COMMAND) {
        receiver_say(receiver, receiver->refused_reply, out);
    } else if (receiver->discard == RECEIVER_DISCARD_VERDICT) {
        reply_set(&reply, receiver->refused_code, NULL, SPAN("Message refused, octets dropped"));
        reply.enhanced = receiver->refused_enhanced;
        receiver_say_verdict(receiver, &reply, out);
    } else {
        say_discarded(receiver, out);
    }
}

/* All octets of the chunk were seen. */
static bool
chunk_end(struct receiver *receiver, struct outbuf *out, struct receiver_event *event)
{
    /* The message ends with a CR whose LF cannot come any more. */
    if (receiver->discard == RECEIVER_KEEP && receiver->chunk_last &&
        body_scanner_dangling_cr(&receiver->body)) {
        discard(receiver, RECEIVER_DISCARD_BARE_NEWLINE);
        return false;
    }
    if (receiver->discard == RECEIVER_KEEP && receiver->chunk_last)
        return give_message(receiver, event);
    if (receiver->discard == RECEIVER_KEEP) {
        receiver_enter(receiver, RECEIVER_STATE_CHUNKED, "end of chunk");
        receiver_say_chunk(receiver, out);
        return false;
    }
    receiver->group_failed = true;
    receiver_enter(receiver,
                   receiver->helo_len > 0 ? RECEIVER_STATE_READY : RECEIVER_STATE_START,
                   "end of dropped chunk");
    say_chunk_dropped(receiver, out);
    return false;
}

bool
receiver_step_chunk(struct receiver *receiver, struct span *in, struct outbuf *out,
                    struct receiver_event *event)
{
    while (receiver->chunk_left > 0) {
        struct span piece;

        if (in->len == 0)
            return true; /* NEED_INPUT */
        piece = chunk_take(receiver, in);
        if (receiver->discard == RECEIVER_KEEP)
            return give_body(event, piece);
        if (receiver->aborting)
            return false;
    }
    if (outbuf_room(out) < RECEIVER_REPLY_ROOM) {
        event->kind = RECEIVER_NEED_ROOM;
        return true;
    }
    return chunk_end(receiver, out, event);
}
