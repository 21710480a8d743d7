/* Ledgers: the evidence of an audit, one line a message. */
#include "bench/tool/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define BUFFER_SIZE (256u * 1024)
#define QUEUE_ID_SHOWN_MAX 80

static const char heading[] =
    "# ringpost-bench ledger 1: id code recipients size digest time_us queue_id\n";

static void
hex_word_write(uint32_t word, struct outbuf *out)
{
    for (unsigned i = 8; i-- > 0;)
        outbuf_add_char(out, "0123456789abcdef"[word >> 4 * i & 15]);
}

void
ledger_write(const struct ledger_record *record, struct outbuf *out)
{
    struct span queue_id = record->queue_id;

    if (record->foreign)
        outbuf_add_char(out, '-');
    else
        message_id_write(record->id, out);
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, record->code);
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, record->recipients);
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, record->size);
    outbuf_add_char(out, ' ');
    hex_word_write(record->digest, out);
    outbuf_add_char(out, ' ');
    outbuf_add_number(out, record->time_us);
    outbuf_add_char(out, ' ');
    if (queue_id.len > QUEUE_ID_SHOWN_MAX)
        queue_id = span_first(queue_id, QUEUE_ID_SHOWN_MAX);
    if (queue_id.len == 0)
        outbuf_add_char(out, '-');
    for (size_t i = 0; i < queue_id.len; i++)
        outbuf_add_char(out,
                        queue_id.data[i] > ' ' && queue_id.data[i] < 127 ? queue_id.data[i] : '?');
    outbuf_add_char(out, '\n');
}

/* --- reading --- */

static struct span
word_take(struct span *line)
{
    const char *space = line->len > 0 ? memchr(line->data, ' ', line->len) : NULL;
    struct span word = space != NULL ? span_first(*line, (size_t)(space - line->data)) : *line;

    span_advance(line, space != NULL ? word.len + 1 : word.len);
    return word;
}

static bool
number_take(struct span *line, uint64_t most, uint64_t *number)
{
    struct span word = word_take(line);

    return word.len > 0 && span_take_number(&word, number) && word.len == 0 && *number <= most;
}

static bool
digest_take(struct span *line, uint32_t *digest)
{
    struct span word = word_take(line);

    *digest = 0;
    for (size_t i = 0; i < word.len; i++) {
        char c = word.data[i];

        if (char_is_digit(c))
            *digest = *digest << 4 | (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *digest = *digest << 4 | (uint32_t)(c - 'a' + 10);
        else
            return false;
    }
    return word.len == 8;
}

bool
ledger_parse(struct span line, struct ledger_record *record)
{
    struct span id = word_take(&line);
    uint64_t code, recipients;

    *record = (struct ledger_record){ .foreign = span_equal(id, SPAN("-")) };
    if (!record->foreign && !message_id_parse(id, &record->id))
        return false;
    if (!number_take(&line, 599, &code) || !number_take(&line, UINT32_MAX, &recipients) ||
        !number_take(&line, UINT64_MAX - 1, &record->size) ||
        !digest_take(&line, &record->digest) ||
        !number_take(&line, UINT64_MAX - 1, &record->time_us))
        return false;
    record->code = (uint16_t)code;
    record->recipients = (uint32_t)recipients;
    record->queue_id = word_take(&line);
    if (record->queue_id.len == 0 || line.len > 0)
        return false;
    if (span_equal(record->queue_id, SPAN("-")))
        record->queue_id = SPAN("");
    return true;
}

/* --- the file --- */

int
ledger_open(const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0666);

    if (file < 0)
        return -errno;
    if (write(file, heading, sizeof(heading) - 1) != (ssize_t)sizeof(heading) - 1) {
        int error = errno != 0 ? errno : EIO;

        close(file);
        return -error;
    }
    return file;
}

bool
ledger_buffer_init(struct ledger_buffer *buffer, int file)
{
    *buffer = (struct ledger_buffer){ .file = file };
    if (file < 0)
        return true;
    buffer->out.data = malloc(BUFFER_SIZE);
    buffer->out.size = BUFFER_SIZE;
    return buffer->out.data != NULL;
}

void
ledger_add(struct ledger_buffer *buffer, const struct ledger_record *record)
{
    if (buffer->file < 0)
        return;
    if (outbuf_room(&buffer->out) < LEDGER_LINE_BYTES_MAX)
        ledger_flush(buffer);
    ledger_write(record, &buffer->out);
}

void
ledger_flush(struct ledger_buffer *buffer)
{
    size_t done = 0;

    while (done < buffer->out.len) {
        ssize_t written = write(buffer->file, buffer->out.data + done, buffer->out.len - done);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            buffer->error = written < 0 ? -errno : -EIO;
            break;
        }
        done += (size_t)written;
    }
    buffer->out.len = 0;
}

void
ledger_buffer_end(struct ledger_buffer *buffer)
{
    ledger_flush(buffer);
    free(buffer->out.data);
    buffer->out = (struct outbuf){ 0 };
}
