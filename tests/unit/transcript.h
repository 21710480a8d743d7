/* transcript: reads tests/transcripts/receiver/<name>.smtp (format: tests/transcripts/README.md).
 * Does:    turns the text into a list of items: bytes to send, what must come back, directives.
 * Owns:    the bytes of the items, until transcript_close().
 * Errors:  a malformed transcript ends the test with file and line.
 */
#ifndef RINGPOST_TESTS_UNIT_TRANSCRIPT_H
#define RINGPOST_TESTS_UNIT_TRANSCRIPT_H

#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/receiver_player.h"

#define TRANSCRIPT_ITEMS_MAX 2048
#define TRANSCRIPT_LINE_BYTES_MAX 4096

enum transcript_kind {
    TRANSCRIPT_SEND,    /* C: lines, !raw and !repeat without anything in between */
    TRANSCRIPT_EXPECT,  /* "S: ..." or "E: ...", as the player's trace has it; a last '*': any */
    TRANSCRIPT_VERDICT, /* for the next event that awaits one */
    TRANSCRIPT_TLS,     /* the handshake is done */
    TRANSCRIPT_END,     /* the session is ended from our side: "4.4.2 text" */
};

struct transcript_item {
    enum transcript_kind kind;
    unsigned line;
    struct player_bytes bytes;
    struct player_verdict verdict;
};

struct transcript {
    const char *path;
    unsigned line;
    struct receiver_policy policy;
    bool tls; /* implicit */
    size_t count;
    struct transcript_item items[TRANSCRIPT_ITEMS_MAX];
};

static inline _Noreturn void
transcript_bad(const struct transcript *transcript, const char *what)
{
    fprintf(stderr, "%s:%u: %s\n", transcript->path, transcript->line, what);
    abort();
}

static inline struct transcript_item *
transcript_item(struct transcript *transcript, enum transcript_kind kind)
{
    struct transcript_item *item;

    if (transcript->count == TRANSCRIPT_ITEMS_MAX)
        transcript_bad(transcript, "too many items");
    item = &transcript->items[transcript->count++];
    *item = (struct transcript_item){ .kind = kind, .line = transcript->line };
    return item;
}

/* The open group of bytes to send, or a new one. */
static inline struct player_bytes *
transcript_send(struct transcript *transcript)
{
    if (transcript->count == 0 ||
        transcript->items[transcript->count - 1].kind != TRANSCRIPT_SEND)
        transcript_item(transcript, TRANSCRIPT_SEND);
    return &transcript->items[transcript->count - 1].bytes;
}

/* Decodes \r \n \t \\ \xHH. */
static inline void
transcript_unescape(struct transcript *transcript, const char *text, struct player_bytes *out)
{
    for (; *text != '\0'; text++) {
        unsigned octet;
        char c = *text;

        if (c == '\\') {
            switch (*++text) {
            case 'r': c = '\r'; break;
            case 'n': c = '\n'; break;
            case 't': c = '\t'; break;
            case '\\': c = '\\'; break;
            case 'x':
                if (sscanf(text + 1, "%2x", &octet) != 1)
                    transcript_bad(transcript, "\\x wants two digits");
                c = (char)octet;
                text += 2;
                break;
            default: transcript_bad(transcript, "unknown escape");
            }
        }
        player_add(out, &c, 1);
    }
}

static inline void
transcript_policy(struct transcript *transcript, const char *text)
{
    struct receiver_policy *policy = &transcript->policy;
    char key[32];
    unsigned value;
    int len;

    for (; sscanf(text, " %31[a-z_]=%u%n", key, &value, &len) == 2; text += len) {
        if (strcmp(key, "message_size") == 0)
            policy->message_size_max = value;
        else if (strcmp(key, "recipients") == 0)
            policy->recipients_max = value;
        else if (strcmp(key, "errors") == 0)
            policy->errors_max = value;
        else if (strcmp(key, "transactions") == 0)
            policy->transactions_max = value;
        else if (strcmp(key, "command_line") == 0)
            policy->command_line_max = value;
        else if (strcmp(key, "text_line") == 0)
            policy->text_line_max = value;
        else if (strcmp(key, "received") == 0)
            policy->received_max = value;
        else if (strcmp(key, "starttls") == 0)
            policy->starttls = value != 0;
        else if (strcmp(key, "require_tls") == 0)
            policy->require_tls = value != 0;
        else if (strcmp(key, "without") == 0)
            policy->without = value;
        else if (strcmp(key, "tls") == 0)
            transcript->tls = value != 0;
        else
            transcript_bad(transcript, "unknown policy");
    }
    if (text[strspn(text, " ")] != '\0')
        transcript_bad(transcript, "!policy wants key=number ...");
}

static inline void
transcript_verdict(struct transcript *transcript, const char *text)
{
    struct player_verdict verdict = { .code = 0 };
    unsigned code;

    if (strcmp(text, "accept") != 0) {
        if (sscanf(text, "%3u %11s %99[^\n]", &code, verdict.enhanced, verdict.text) != 3)
            transcript_bad(transcript, "!verdict wants: accept, or code enhanced-code text");
        verdict.code = (uint16_t)code;
    }
    transcript_item(transcript, TRANSCRIPT_VERDICT)->verdict = verdict;
}

static inline void
transcript_directive(struct transcript *transcript, const char *line)
{
    struct player_bytes once = { .data = NULL };
    struct player_bytes *send;
    unsigned count;
    int len;

    if (strncmp(line, "!raw ", 5) == 0) {
        transcript_unescape(transcript, line + 5, transcript_send(transcript));
    } else if (sscanf(line, "!repeat %u%n", &count, &len) == 1 && line[len] == ' ') {
        transcript_unescape(transcript, line + len + 1, &once);
        send = transcript_send(transcript);
        while (count-- > 0)
            player_add(send, once.data, once.len);
        free(once.data);
    } else if (strncmp(line, "!event ", 7) == 0) {
        struct player_bytes *bytes = &transcript_item(transcript, TRANSCRIPT_EXPECT)->bytes;

        player_add_text(bytes, "E: ");
        player_add(bytes, line + 7, strlen(line + 7) + 1);
    } else if (strncmp(line, "!verdict ", 9) == 0) {
        transcript_verdict(transcript, line + 9);
    } else if (strncmp(line, "!policy ", 8) == 0) {
        transcript_policy(transcript, line + 8);
    } else if (strcmp(line, "!tls") == 0) {
        transcript_item(transcript, TRANSCRIPT_TLS);
    } else if (strncmp(line, "!end ", 5) == 0) {
        struct transcript_item *item = transcript_item(transcript, TRANSCRIPT_END);

        if (sscanf(line + 5, "%11s %99[^\n]", item->verdict.enhanced, item->verdict.text) != 2)
            transcript_bad(transcript, "!end wants: enhanced-code text");
    } else {
        transcript_bad(transcript, "unknown directive");
    }
}

static inline void
transcript_line(struct transcript *transcript, const char *line)
{
    if (line[0] == '#' || line[0] == '\0')
        return;
    if (strncmp(line, "C: ", 3) == 0 || strcmp(line, "C:") == 0) {
        struct player_bytes *send = transcript_send(transcript);

        player_add_text(send, line[2] == '\0' ? "" : line + 3);
        player_add(send, "\r\n", 2);
    } else if (strncmp(line, "S: ", 3) == 0) {
        struct player_bytes *bytes = &transcript_item(transcript, TRANSCRIPT_EXPECT)->bytes;

        player_add(bytes, line, strlen(line) + 1);
    } else if (line[0] == '!') {
        transcript_directive(transcript, line);
    } else {
        transcript_bad(transcript, "neither C:, S:, ! nor #");
    }
}

static inline struct transcript *
transcript_open(const char *path)
{
    struct transcript *transcript = calloc(1, sizeof(*transcript));
    FILE *file = fopen(path, "r");
    char line[TRANSCRIPT_LINE_BYTES_MAX];

    if (transcript == NULL)
        abort();
    transcript->path = path;
    transcript->policy = player_policy();
    if (file == NULL)
        transcript_bad(transcript, "cannot be opened");
    while (fgets(line, sizeof(line), file) != NULL) {
        size_t len = strlen(line);

        transcript->line++;
        if (len == 0 || line[len - 1] != '\n')
            transcript_bad(transcript, "line too long, or without an end");
        line[len - 1] = '\0';
        transcript_line(transcript, line);
    }
    fclose(file);
    return transcript;
}

static inline void
transcript_close(struct transcript *transcript)
{
    for (size_t i = 0; i < transcript->count; i++)
        free(transcript->items[i].bytes.data);
    free(transcript);
}

#endif
