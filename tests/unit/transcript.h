/* transcript: reads tests/transcripts/{receiver,hostile}/<name>.smtp (format: README.md there).
 * Does:    turns the text into a list of items: bytes to send, what must come back, directives;
 *          and into what must be delivered, as the player writes it.
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
    unsigned times; /* of EXPECT: so often in a row */
    struct player_bytes bytes;
    struct player_verdict verdict;
};

struct transcript {
    const char *path;
    unsigned line;
    struct receiver_policy policy;
    bool tls; /* implicit */
    struct player_bytes delivered; /* of all D: lines, as player.delivered */
    struct player_bytes octets;    /* of the delivery that is being read */
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
    *item = (struct transcript_item){ .kind = kind, .line = transcript->line, .times = 1 };
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

/* "N text": the octets of text, N times. */
static inline void
transcript_repeat(struct transcript *transcript, const char *text, struct player_bytes *out)
{
    struct player_bytes once = { .data = NULL };
    unsigned count;
    int len;

    if (sscanf(text, "%u%n", &count, &len) != 1 || text[len] != ' ')
        transcript_bad(transcript, "a repetition wants: number text");
    transcript_unescape(transcript, text + len + 1, &once);
    while (count-- > 0)
        player_add(out, once.data, once.len);
    free(once.data);
}

/* --- D: lines --- */

static inline void
transcript_delivery_end(struct transcript *transcript)
{
    if (transcript->octets.data == NULL)
        return;
    player_add_delivery(&transcript->delivered, transcript->octets.data, transcript->octets.len);
    free(transcript->octets.data);
    transcript->octets = (struct player_bytes){ .data = NULL };
}

/* "<path>", and parameters that only a socket shows. */
static inline void
transcript_path(struct transcript *transcript, const char *verb, const char *text)
{
    struct player_bytes path = { .data = NULL };
    const char *end = strrchr(text, '>');

    if (text[0] != '<' || end == NULL)
        transcript_bad(transcript, "D: wants a path in angle brackets");
    transcript_unescape(transcript, text, &path);
    while (path.data[path.len - 1] != '>')
        path.len--;
    player_add_text(&transcript->delivered, verb);
    player_add_escaped(&transcript->delivered, path.data, path.len);
    player_add_text(&transcript->delivered, "\n");
    free(path.data);
}

static inline void
transcript_delivery(struct transcript *transcript, const char *line)
{
    if (strncmp(line, "MAIL ", 5) == 0) {
        transcript_delivery_end(transcript);
        transcript_path(transcript, "MAIL ", line + 5);
        player_add(&transcript->octets, "", 1); /* a message may be empty: there is one now */
        transcript->octets.len = 0;
    } else if (transcript->octets.data == NULL) {
        transcript_bad(transcript, "D: begins with MAIL");
    } else if (strncmp(line, "RCPT ", 5) == 0) {
        transcript_path(transcript, "RCPT ", line + 5);
    } else if (strncmp(line, "LINE ", 5) == 0 || strcmp(line, "LINE") == 0) {
        transcript_unescape(transcript, line[4] == '\0' ? "" : line + 5, &transcript->octets);
        player_add(&transcript->octets, "\r\n", 2);
    } else if (strncmp(line, "OCTETS ", 7) == 0) {
        transcript_unescape(transcript, line + 7, &transcript->octets);
    } else if (strncmp(line, "REPEAT ", 7) == 0) {
        transcript_repeat(transcript, line + 7, &transcript->octets);
    } else {
        transcript_bad(transcript, "D: wants MAIL, RCPT, LINE, OCTETS or REPEAT");
    }
}

static inline void
transcript_directive(struct transcript *transcript, const char *line)
{
    if (strncmp(line, "!raw ", 5) == 0) {
        transcript_unescape(transcript, line + 5, transcript_send(transcript));
    } else if (strncmp(line, "!repeat ", 8) == 0) {
        transcript_repeat(transcript, line + 8, transcript_send(transcript));
    } else if (strncmp(line, "!drip ", 6) == 0) {
        line += 6 + strspn(line + 6, "0123456789"); /* how slowly is for a socket alone */
        if (line[0] != ' ')
            transcript_bad(transcript, "!drip wants: milliseconds text");
        transcript_unescape(transcript, line + 1, transcript_send(transcript));
    } else if (strncmp(line, "!relay ", 7) == 0) {
        return; /* configuration that only a relay has */
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
    unsigned times;
    int len = 0;

    if (line[0] == '#' || line[0] == '\0')
        return;
    if (strncmp(line, "C: ", 3) == 0 || strcmp(line, "C:") == 0) {
        struct player_bytes *send = transcript_send(transcript);

        player_add_text(send, line[2] == '\0' ? "" : line + 3);
        player_add(send, "\r\n", 2);
    } else if (strncmp(line, "S: ", 3) == 0) {
        struct player_bytes *bytes = &transcript_item(transcript, TRANSCRIPT_EXPECT)->bytes;

        player_add(bytes, line, strlen(line) + 1);
    } else if (sscanf(line, "S*%u: %n", &times, &len) == 1 && times > 0) {
        struct transcript_item *item = transcript_item(transcript, TRANSCRIPT_EXPECT);

        item->times = times;
        player_add_text(&item->bytes, "S: ");
        player_add(&item->bytes, line + len, strlen(line + len) + 1);
    } else if (strncmp(line, "D: ", 3) == 0) {
        transcript_delivery(transcript, line + 3);
    } else if (line[0] == '!') {
        transcript_directive(transcript, line);
    } else {
        transcript_bad(transcript, "neither C:, S:, D:, ! nor #");
    }
}

static inline struct transcript *
transcript_open(const char *path, const struct receiver_policy *policy)
{
    struct transcript *transcript = calloc(1, sizeof(*transcript));
    FILE *file = fopen(path, "r");
    char line[TRANSCRIPT_LINE_BYTES_MAX];

    if (transcript == NULL)
        abort();
    transcript->path = path;
    transcript->policy = *policy;
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
    transcript_delivery_end(transcript);
    player_add(&transcript->delivered, "", 1);
    return transcript;
}

static inline void
transcript_close(struct transcript *transcript)
{
    for (size_t i = 0; i < transcript->count; i++)
        free(transcript->items[i].bytes.data);
    free(transcript->delivered.data);
    free(transcript);
}

#endif
