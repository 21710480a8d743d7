/* What a person or a program reads. Addresses and replies come from strangers: nothing of them
 * reaches a terminal as anything but text. */
#include <time.h>

#include "core/utf8.h"
#include "relay/tools/queue_private.h"

void
print_text(FILE *out, struct span text)
{
    while (text.len > 0) {
        size_t len = utf8_character_len(text);

        if (len == 0 || !utf8_printable(span_first(text, len))) {
            fputc('?', out);
            len = len == 0 ? 1 : len;
        } else {
            fwrite(text.data, 1, len, out);
        }
        span_advance(&text, len);
    }
}

void
print_json_text(FILE *out, struct span text)
{
    fputc('"', out);
    while (text.len > 0) {
        size_t len = utf8_character_len(text);
        unsigned char c = (unsigned char)text.data[0];

        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < ' ' || c == 0x7f || len == 0)
            fprintf(out, "\\u%04x", c); /* no UTF-8: the character of its number, as in the log */
        else
            fwrite(text.data, 1, len, out);
        span_advance(&text, len == 0 ? 1 : len);
    }
    fputc('"', out);
}

const char *
age_text(uint64_t seconds, char text[QUEUE_TEXT_BYTES])
{
    static const struct {
        uint64_t seconds, below;
        char unit;
    } units[] = { { 1, 120, 's' }, { 60, 120 * 60, 'm' }, { 3600, 48 * 3600, 'h' } };

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (seconds >= units[i].below)
            continue;
        (void)snprintf(text, QUEUE_TEXT_BYTES, "%llu%c",
                       (unsigned long long)(seconds / units[i].seconds), units[i].unit);
        return text;
    }
    (void)snprintf(text, QUEUE_TEXT_BYTES, "%llud", (unsigned long long)(seconds / 86400));
    return text;
}

const char *
bytes_text(uint64_t bytes, char text[QUEUE_TEXT_BYTES])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(text, QUEUE_TEXT_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

const char *
time_text(uint64_t second, char text[QUEUE_TEXT_BYTES])
{
    time_t time = (time_t)second;
    struct tm parts;

    if (gmtime_r(&time, &parts) == NULL ||
        strftime(text, QUEUE_TEXT_BYTES, "%Y-%m-%d %H:%M:%S UTC", &parts) == 0)
        (void)snprintf(text, QUEUE_TEXT_BYTES, "%llu", (unsigned long long)second);
    return text;
}

const char *
plural(uint64_t number)
{
    return number == 1 ? "" : "s";
}

void
print_item_json(const struct queue_source *source, const struct queue_message *message, FILE *out)
{
    const struct control_item *item = message->item;
    char name[SPOOL_NAME_BYTES];

    spool_segment_name(item->segment, name);
    fprintf(out, "{\"id\":\"%s\",\"state\":\"%s\",\"next_hop\":", item->id,
            queue_state_name((enum queue_state)item->state));
    if (strcmp(message->hop, CONTROL_NO_ROUTE) == 0)
        fputs("null", out);
    else
        print_json_text(out, span_text(message->hop));
    fprintf(out, ",\"size\":%llu,\"arrival\":%u,\"age\":%u", (unsigned long long)item->size,
            item->arrival_s, source->now_s > item->arrival_s ? source->now_s - item->arrival_s : 0);
    if (item->state == QUEUE_WAITING)
        fprintf(out, ",\"due\":%u", item->due_s);
    else
        fputs(",\"due\":null", out);
    fprintf(out, ",\"attempts\":%u,\"recipients_left\":%u,\"recipients_total\":%u", item->attempts,
            item->recipients, item->record_recipients);
    fprintf(out, ",\"notice\":%s,\"segment\":\"%s\",\"offset\":%llu",
            item->flags & QUEUE_NOTICE ? "true" : "false", name, (unsigned long long)item->offset);
}
