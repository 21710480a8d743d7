/* What `ringpost send` sends, prepared once and shared by all its connections. */
#include "relay/tools/send_message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/line.h"

static bool
out_of_memory(char error[SEND_ERROR_BYTES])
{
    snprintf(error, SEND_ERROR_BYTES, "out of memory");
    return false;
}

static bool
add(struct send_message *message, struct span s)
{
    if (s.len > message->allocated - message->len) {
        size_t allocated = message->allocated > 0 ? message->allocated : 4096;
        char *data;

        while (allocated < message->len + s.len)
            allocated *= 2;
        data = realloc(message->data, allocated);
        if (data == NULL)
            return false;
        message->data = data;
        message->allocated = allocated;
    }
    if (s.len > 0)
        memcpy(message->data + message->len, s.data, s.len);
    message->len += s.len;
    return true;
}

/* Adds text with LF made CRLF; a CR that has its LF stays. *last is the octet before, over all
 * calls. */
static bool
add_lines(struct send_message *message, struct span text, char *last)
{
    while (text.len > 0) {
        const char *end = memchr(text.data, '\n', text.len);
        size_t len = end != NULL ? (size_t)(end - text.data) : text.len;

        if (!add(message, span_first(text, len)))
            return false;
        if (len > 0)
            *last = text.data[len - 1];
        span_advance(&text, len);
        if (end == NULL)
            break;
        if (!add(message, *last == '\r' ? SPAN("\n") : SPAN("\r\n")))
            return false;
        *last = '\n';
        span_advance(&text, 1);
    }
    return true;
}

bool
send_message_read(struct send_message *message, const char *file, char error[SEND_ERROR_BYTES])
{
    bool standard = strcmp(file, "-") == 0, good = true;
    FILE *in = standard ? stdin : fopen(file, "re");
    char part[65536], last = '\n';
    size_t n;

    if (in == NULL) {
        snprintf(error, SEND_ERROR_BYTES, "%s: %s", file, strerrordesc_np(errno));
        return false;
    }
    while (good && (n = fread(part, 1, sizeof(part), in)) > 0)
        good = message->len < SEND_BYTES_MAX && add_lines(message, span_of(part, n), &last);
    if (!good)
        snprintf(error, SEND_ERROR_BYTES, "%s: too large", file);
    else if (ferror(in))
        snprintf(error, SEND_ERROR_BYTES, "%s: cannot read it: %s", file, strerrordesc_np(errno));
    good = good && !ferror(in);
    if (!standard)
        fclose(in);
    return good;
}

static bool
add_field(struct send_message *message, const char *name, struct span value)
{
    return add(message, span_text(name)) && add(message, SPAN(": ")) && add(message, value) &&
           add(message, SPAN("\r\n"));
}

static bool
add_header(struct send_message *message, const struct send_header *header, bool utf8_body)
{
    char date[64];
    struct tm parts;
    bool good = add(message, SPAN("From: <")) &&
                add(message, header->from.len > 0 ? header->from : SPAN("postmaster@"));

    if (header->from.len == 0)
        good = good && add(message, header->helo);
    good = good && add(message, SPAN(">\r\nTo: "));
    for (size_t i = 0; good && i < header->to_count; i++)
        good = add(message, i > 0 ? SPAN(",\r\n <") : SPAN("<")) && add(message, header->to[i]) &&
               add(message, SPAN(">"));
    /* Not %a and %b: their words must not follow a locale. */
    gmtime_r(&header->when, &parts);
    snprintf(date, sizeof(date), "%.3s, %02d %.3s %d %02d:%02d:%02d +0000",
             &"SunMonTueWedThuFriSat"[3 * parts.tm_wday], parts.tm_mday,
             &"JanFebMarAprMayJunJulAugSepOctNovDec"[3 * parts.tm_mon], parts.tm_year + 1900,
             parts.tm_hour, parts.tm_min, parts.tm_sec);
    good = good && add(message, SPAN("\r\n")) && add_field(message, "Subject", header->subject) &&
           add_field(message, "Date", span_text(date));
    if (utf8_body)
        good = good && add(message, SPAN("MIME-Version: 1.0\r\n"
                                         "Content-Type: text/plain; charset=utf-8\r\n"
                                         "Content-Transfer-Encoding: 8bit\r\n"));
    return good && add(message, SPAN("\r\n"));
}

static bool
has_eight_bit(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.data[i] > 127)
            return true;
    return false;
}

/* `size` octets in lines, the last one with its end: 1 octet cannot be that and becomes 2. */
static bool
add_filling(struct send_message *message, uint64_t size)
{
    static const char line[] = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-+"
                               "abcdefghijklmn\r\n";
    size_t start = message->len;

    if (size == 1)
        size = 2;
    for (uint64_t left = size; left > 0;) {
        size_t part = left < sizeof(line) - 1 ? (size_t)left : sizeof(line) - 1;

        if (!add(message, span_of(line, part)))
            return false;
        left -= part;
    }
    if (size == 0)
        return true;
    memcpy(message->data + message->len - 2, "\r\n", 2);
    if (message->len - start > 2 && message->data[message->len - 3] == '\r')
        message->data[message->len - 3] = 'x'; /* the end before was cut in half */
    return true;
}

bool
send_message_compose(struct send_message *message, const struct send_header *header,
                     const char *text, uint64_t size, char error[SEND_ERROR_BYTES])
{
    struct span body = text != NULL ? span_text(text) : SPAN("");
    char last = '\n';

    if (add_header(message, header, has_eight_bit(body)) && add_lines(message, body, &last) &&
        (text != NULL || add_filling(message, size)))
        return true;
    return out_of_memory(error);
}

/* --- ready to go out --- */

/* RFC 5321 4.5.2, and the final dot. */
static bool
stuff(struct send_message *message)
{
    struct send_message stuffed = { .len = 0 };
    struct span rest = span_of(message->data, message->len);
    bool line_start = true, good = true;

    while (good && rest.len > 0) {
        size_t len = body_find_stuffing(rest, line_start);

        good =
            add(&stuffed, span_first(rest, len)) && (len == rest.len || add(&stuffed, SPAN(".")));
        span_advance(&rest, len);
        line_start = false;
    }
    good = good && add(&stuffed, SPAN(".\r\n"));
    free(message->data);
    message->data = stuffed.data;
    message->len = stuffed.len;
    message->allocated = stuffed.allocated;
    return good;
}

bool
send_message_frame(struct send_message *message, bool chunked, char error[SEND_ERROR_BYTES])
{
    size_t len = message->len;

    if (len > 0 && message->data[len - 1] != '\n' && !add(message, SPAN("\r\n")))
        return out_of_memory(error);
    message->size = message->len;
    message->eight_bit = has_eight_bit(span_of(message->data, message->len));
    if (!chunked && !stuff(message))
        return out_of_memory(error);
    if (message->len <= SEND_BYTES_MAX)
        return true;
    snprintf(error, SEND_ERROR_BYTES, "the message is too large");
    return false;
}

static uint32_t
chunk_count(const struct send_message *message, uint64_t chunk_size)
{
    if (chunk_size == 0 || message->len == 0)
        return 1;
    return (uint32_t)((message->len + chunk_size - 1) / chunk_size);
}

uint32_t
send_message_buffers(const struct send_message *message, uint64_t chunk_size)
{
    /* Each chunk's last buffer may be nearly empty. */
    return (uint32_t)(message->len / BUFFER_BYTES) + chunk_count(message, chunk_size);
}

bool
send_message_fill(struct send_message *message, struct buffers *buffers, uint64_t chunk_size)
{
    struct span rest = span_of(message->data, message->len);

    message->chunk_count = chunk_count(message, chunk_size);
    ASSERT(message->chunk_count <= SEND_CHUNKS_MAX);
    message->chunks = calloc(message->chunk_count, sizeof(*message->chunks));
    if (message->chunks == NULL)
        return false;
    for (uint32_t i = 0; i < message->chunk_count; i++) {
        size_t len = chunk_size > 0 && chunk_size < rest.len ? (size_t)chunk_size : rest.len;

        message->chunks[i] = CHAIN_EMPTY;
        if (len > 0 && !chain_copy(buffers, &message->chunks[i], span_first(rest, len)))
            return false;
        span_advance(&rest, len);
    }
    return true;
}

void
send_message_free(struct send_message *message)
{
    free(message->data);
    free(message->chunks);
    *message = (struct send_message){ .len = 0 };
}
