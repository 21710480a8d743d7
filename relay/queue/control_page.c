/* A page of a queue as text: one line about the page, one for each entry, fields apart by spaces,
 * the reason last since it may hold some. The other end of the socket may be another version of us,
 * so it is read as strictly as what a stranger sends. */
#include "relay/queue/control.h"

#define FIRST_WORD "ringpost-queue-1"

/* --- writing --- */

static void
write_word(struct outbuf *out, uint64_t number)
{
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, number);
}

static void
write_item(const struct control_item *item, const char *hop_name, struct outbuf *out)
{
    outbuf_add(out, span_text(item->id));
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_text(queue_state_name((enum queue_state)item->state)));
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_text(hop_name));
    write_word(out, item->index);
    write_word(out, item->size);
    write_word(out, item->arrival_s);
    write_word(out, item->due_s);
    write_word(out, item->recipients);
    write_word(out, item->record_recipients);
    write_word(out, item->attempts);
    write_word(out, item->flags);
    write_word(out, item->segment);
    write_word(out, item->offset);
    write_word(out, item->slot);
    write_word(out, item->outcome);
    outbuf_add_char(out, ' ');
    outbuf_add(out, span_text(item->reason));
    outbuf_add_char(out, '\n');
}

void
control_page_write(const struct control_page *page,
                   const char *(*hop_name)(const void *context, uint32_t hop), const void *context,
                   struct outbuf *out)
{
    ASSERT(outbuf_room(out) >= CONTROL_PAGE_BYTES_MAX);
    ASSERT(page->count <= CONTROL_ITEMS_MAX);
    outbuf_add(out, SPAN(FIRST_WORD));
    write_word(out, page->worker);
    write_word(out, page->workers);
    write_word(out, page->next);
    write_word(out, page->now_s);
    write_word(out, page->recovered);
    write_word(out, page->segments);
    write_word(out, page->segments_done);
    write_word(out, page->count);
    outbuf_add_char(out, '\n');
    for (uint32_t i = 0; i < page->count; i++)
        write_item(&page->items[i], hop_name(context, page->items[i].hop), out);
}

/* --- reading --- */

static bool
take_line(struct span *text, struct span *line)
{
    const char *end = text->len > 0 ? memchr(text->data, '\n', text->len) : NULL;

    if (end == NULL)
        return false;
    *line = span_first(*text, (size_t)(end - text->data));
    span_advance(text, line->len + 1);
    return true;
}

/* A word and the space behind it, or the line's end. */
static struct span
take_word(struct span *line)
{
    const char *end = line->len > 0 ? memchr(line->data, ' ', line->len) : NULL;
    struct span word = span_first(*line, end != NULL ? (size_t)(end - line->data) : line->len);

    span_advance(line, end != NULL ? word.len + 1 : word.len);
    return word;
}

static bool
take_number(struct span *line, uint64_t most, uint64_t *number)
{
    struct span word = take_word(line);

    return span_take_number(&word, number) && word.len == 0 && *number <= most;
}

static bool
take_number32(struct span *line, uint32_t *number)
{
    uint64_t wide;

    if (!take_number(line, UINT32_MAX, &wide))
        return false;
    *number = (uint32_t)wide;
    return true;
}

static bool
take_number8(struct span *line, unsigned most, uint8_t *number)
{
    uint64_t wide;

    if (!take_number(line, most, &wide))
        return false;
    *number = (uint8_t)wide;
    return true;
}

static bool
read_head(struct span line, struct control_page *out)
{
    uint64_t recovered;

    if (!span_equal(take_word(&line), SPAN(FIRST_WORD)) || !take_number32(&line, &out->worker) ||
        !take_number32(&line, &out->workers) || !take_number32(&line, &out->next) ||
        !take_number32(&line, &out->now_s) || !take_number(&line, 1, &recovered) ||
        !take_number32(&line, &out->segments) || !take_number32(&line, &out->segments_done) ||
        !take_number32(&line, &out->count) || line.len > 0)
        return false;
    out->recovered = recovered;
    return out->worker < out->workers && out->count <= CONTROL_ITEMS_MAX;
}

static bool
read_item(struct span line, struct control_item *out,
          uint16_t (*hop_index)(void *context, struct span name), void *context)
{
    enum queue_state state;
    struct span hop;

    if (!control_id_read(take_word(&line), out->id) ||
        !control_state_read(take_word(&line), &state))
        return false;
    out->state = (uint8_t)state;
    hop = take_word(&line);
    if (hop.len == 0 || hop.len >= CONTROL_NAME_BYTES)
        return false;
    out->hop = hop_index(context, hop);
    if (out->hop == UINT16_MAX || !take_number32(&line, &out->index) ||
        !take_number(&line, UINT64_MAX, &out->size) || !take_number32(&line, &out->arrival_s) ||
        !take_number32(&line, &out->due_s) || !take_number32(&line, &out->recipients) ||
        !take_number32(&line, &out->record_recipients) ||
        !take_number8(&line, UINT8_MAX, &out->attempts) ||
        !take_number8(&line, UINT8_MAX, &out->flags) ||
        !take_number(&line, UINT64_MAX, &out->segment) ||
        !take_number(&line, UINT64_MAX, &out->offset) || !take_number32(&line, &out->slot) ||
        !take_number8(&line, CONTROL_OUTCOMES - 1, &out->outcome) ||
        line.len >= CONTROL_REASON_BYTES)
        return false;
    memset(out->reason, 0, sizeof(out->reason));
    memcpy(out->reason, line.data, line.len);
    return true;
}

bool
control_page_read(struct span text, struct control_page *out,
                  uint16_t (*hop_index)(void *context, struct span name), void *context)
{
    struct span line;

    if (!take_line(&text, &line) || !read_head(line, out))
        return false;
    for (uint32_t i = 0; i < out->count; i++)
        if (!take_line(&text, &line) || !read_item(line, &out->items[i], hop_index, context))
            return false;
    return text.len == 0;
}
