/* Recipient records one after the other in a list of blocks. */
#include "core/envelope.h"

struct envelope_block {
    struct envelope_block *next;
    uint32_t used;
    char bytes[];
};

#define ROOM_BYTES (BLOCK_BYTES - sizeof(struct envelope_block))
#define RECORD_ALIGNMENT _Alignof(struct recipient)

_Static_assert(sizeof(struct recipient) + MAILBOX_BYTES_MAX + ORCPT_BYTES_MAX + 64 < ROOM_BYTES,
               "a recipient fits a block");
_Static_assert(MAILBOX_BYTES_MAX + COMMAND_LINE_BYTES_MAX < ROOM_BYTES,
               "what MAIL says fits a block");

/* Room in the last block, or in a fresh one. */
static char *
room_take(struct envelope *envelope, size_t bytes)
{
    struct envelope_block *block = envelope->last;
    char *room;

    bytes = (bytes + RECORD_ALIGNMENT - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT;
    ASSERT(bytes <= ROOM_BYTES);
    if (block == NULL || ROOM_BYTES - block->used < bytes) {
        block = pool_take(envelope->blocks);
        if (block == NULL)
            return NULL;
        *block = (struct envelope_block){ 0 };
        if (envelope->last == NULL)
            envelope->first = block;
        else
            envelope->last->next = block;
        envelope->last = block;
    }
    room = block->bytes + block->used;
    block->used += (uint32_t)bytes;
    return room;
}

static struct span
copy_to(char **room, struct span s)
{
    char *start = *room;

    if (s.len > 0)
        memcpy(start, s.data, s.len);
    *room += s.len;
    return span_of(start, s.len);
}

/* MAIL's texts stand in front of the first record, so that they share its block. */
bool
envelope_start(struct envelope *envelope, struct pool *blocks, const struct path *reverse_path,
               const struct mail_parameters *parameters)
{
    char *room;

    *envelope = (struct envelope){ .blocks = blocks,
                                   .declared_size = parameters->size,
                                   .body = parameters->body,
                                   .dsn_return = parameters->dsn_return,
                                   .smtputf8 = parameters->smtputf8,
                                   .utf8 = reverse_path->utf8 };
    room = room_take(envelope, reverse_path->mailbox.len + parameters->envid.len + 1);
    if (room == NULL)
        return false;
    envelope->reverse_path = copy_to(&room, reverse_path->mailbox);
    envelope->envid = copy_to(&room, parameters->envid);
    return true;
}

struct recipient *
envelope_add(struct envelope *envelope, const struct path *forward_path,
             const struct rcpt_parameters *parameters, enum recipient_state state)
{
    size_t bytes = sizeof(struct recipient) + forward_path->mailbox.len + parameters->orcpt.len;
    struct recipient *record = (struct recipient *)(void *)room_take(envelope, bytes);
    char *room;

    if (record == NULL)
        return NULL;
    *record = (struct recipient){
        .record_bytes =
            (uint16_t)((bytes + RECORD_ALIGNMENT - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT),
        .mailbox_len = (uint16_t)forward_path->mailbox.len,
        .orcpt_len = (uint16_t)parameters->orcpt.len,
        .notify = parameters->notify,
        .state = (uint8_t)state,
    };
    room = record->bytes;
    copy_to(&room, forward_path->mailbox);
    copy_to(&room, parameters->orcpt);
    envelope->recipients++;
    envelope->accepted += state == RECIPIENT_ACCEPTED;
    envelope->utf8 |= forward_path->utf8;
    return record;
}

void
recipient_set(struct envelope *envelope, struct recipient *recipient, enum recipient_state state)
{
    envelope->accepted += state == RECIPIENT_ACCEPTED;
    envelope->accepted -= recipient->state == RECIPIENT_ACCEPTED;
    recipient->state = (uint8_t)state;
}

struct envelope_cursor
envelope_begin(const struct envelope *envelope)
{
    size_t bytes = envelope->reverse_path.len + envelope->envid.len + 1;

    return (struct envelope_cursor){
        .block = envelope->first,
        .offset = (uint32_t)((bytes + RECORD_ALIGNMENT - 1) / RECORD_ALIGNMENT * RECORD_ALIGNMENT),
    };
}

struct recipient *
envelope_next(struct envelope_cursor *cursor)
{
    struct recipient *record;

    while (cursor->block != NULL && cursor->offset == cursor->block->used) {
        cursor->block = cursor->block->next;
        cursor->offset = 0;
    }
    if (cursor->block == NULL)
        return NULL;
    record = (struct recipient *)(void *)(cursor->block->bytes + cursor->offset);
    cursor->offset += record->record_bytes;
    ASSERT(cursor->offset <= cursor->block->used);
    return record;
}

void
envelope_clear(struct envelope *envelope)
{
    while (envelope->first != NULL) {
        struct envelope_block *next = envelope->first->next;

        pool_release(envelope->blocks, envelope->first);
        envelope->first = next;
    }
    *envelope = (struct envelope){ 0 };
}

uint32_t
envelope_count(const struct envelope *envelope)
{
    struct envelope_cursor cursor = envelope_begin(envelope);
    uint32_t count = 0;

    for (const struct recipient *r; (r = envelope_next(&cursor)) != NULL;)
        count += r->state != RECIPIENT_REFUSED && r->state != RECIPIENT_ELSEWHERE;
    return count;
}
