/* bounce_world: writes a report and takes it apart again with a reader of its own.
 * Does:    originals stored in pieces of any size; each report is checked for what holds for all of
 *          them: legal lines, one terminator, parts and boundary, size and eight_bit as told.
 * Owns:    its buffers and the text of the last report; bounce_world_close() returns them.
 * Memory:  malloc.
 * Errors:  fail the test, with the row's name.
 */
#ifndef RINGPOST_TESTS_UNIT_BOUNCE_WORLD_H
#define RINGPOST_TESTS_UNIT_BOUNCE_WORLD_H

#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "relay/bounce.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define WORLD_BUFFERS 1024u
#define PARTS_MAX 3u

struct bounce_world {
    struct buffers buffers;
    struct buffer_meta *meta;
    char *memory;
    /* The last report, without stuffed dots and terminator, and NUL-terminated. */
    char *text;
    size_t len;
    bool eight_bit;
    uint64_t size;
    struct span header, parts[PARTS_MAX]; /* parts with their header */
    unsigned parts_count;
};

static inline void
bounce_world_open(struct bounce_world *world)
{
    *world = (struct bounce_world){ .memory = malloc(WORLD_BUFFERS * (size_t)BUFFER_BYTES),
                                    .meta = malloc(WORLD_BUFFERS * sizeof(struct buffer_meta)) };
    cr_assert(world->memory != NULL && world->meta != NULL);
    buffers_init(&world->buffers, world->memory, world->meta, WORLD_BUFFERS);
}

static inline void
bounce_world_close(struct bounce_world *world)
{
    cr_assert_eq(world->buffers.free_count, WORLD_BUFFERS, "all buffers are back");
    free(world->memory);
    free(world->meta);
    free(world->text);
}

/* The octets in buffers of `piece` octets each (0: as full as can be). */
static inline struct chain
world_store(struct bounce_world *world, struct span bytes, size_t piece)
{
    struct chain chain = CHAIN_EMPTY;

    piece = piece == 0 || piece > BUFFER_BYTES ? BUFFER_BYTES : piece;
    while (bytes.len > 0) {
        size_t len = bytes.len < piece ? bytes.len : piece, start = (BUFFER_BYTES - len) / 2;
        uint32_t index = buffer_take(&world->buffers, 0);

        cr_assert_neq(index, BUFFER_NONE);
        memcpy(buffer_memory(&world->buffers, index) + start, bytes.data, len);
        chain_append(&world->buffers, &chain, index, start, len);
        span_advance(&bytes, len);
    }
    return chain;
}

static inline char *
world_chain_text(struct bounce_world *world, const struct chain *chain, size_t *len)
{
    char *text = malloc(chain->bytes + 1);
    uint32_t index = chain->first;

    cr_assert_not_null(text);
    *len = 0;
    for (uint32_t i = 0; i < chain->count; i++, index = world->meta[index].next) {
        struct span s = buffer_span(&world->buffers, index);

        memcpy(text + *len, s.data, s.len);
        *len += s.len;
    }
    text[*len] = '\0';
    cr_assert_eq(*len, chain->bytes);
    return text;
}

/* Lines: at most 998 octets, CR and LF together only, dots stuffed; takes the stuffing out. */
static inline void
world_unstuff(struct bounce_world *world, const char *name)
{
    size_t at = 0, kept = 0, total = world->len;
    char *text = world->text;
    bool ended = false;

    while (at < total) {
        char *end = memchr(text + at, '\n', total - at);
        size_t len = end == NULL ? 0 : (size_t)(end - text) - at + 1;

        cr_assert(!ended, "%s: octets behind the terminator", name);
        cr_assert(len >= 2 && end[-1] == '\r', "%s: a line without CRLF", name);
        cr_assert(memchr(text + at, '\r', len) == end - 1, "%s: a bare CR", name);
        cr_assert(memchr(text + at, '\0', len) == NULL, "%s: a NUL", name);
        ended = len == 3 && text[at] == '.';
        if (!ended) {
            size_t dot = text[at] == '.';

            cr_assert(dot == 0 || text[at + 1] == '.', "%s: a dot alone", name);
            cr_assert_leq(len - dot, 1000, "%s: a line of %zu octets", name, len - dot - 2);
            memmove(text + kept, text + at + dot, len - dot);
            kept += len - dot;
        }
        at += len;
    }
    cr_assert(ended, "%s: no terminator", name);
    world->len = kept;
    text[kept] = '\0';
}

/* At the next line that begins with "--" and the boundary; NULL: none. */
static inline char *
world_delimiter(char *from, const char *delimiter)
{
    for (char *at = from; (at = strstr(at, delimiter)) != NULL; at++)
        if (at[-1] == '\n')
            return at;
    return NULL;
}

static inline void
world_split(struct bounce_world *world, const char *name)
{
    static const char *const wanted[] = {
        "Date: ",
        "From: MAILER-DAEMON@",
        "To: ",
        "Subject: ",
        "Message-ID: <",
        "Auto-Submitted: auto-replied\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"",
    };
    char delimiter[80] = "--", *at = world->text, *end;
    size_t len = 2;

    for (size_t i = 0; i < COUNT_OF(wanted); i++) {
        cr_assert_eq(strncmp(at, wanted[i], strlen(wanted[i])), 0, "%s: no %s", name, wanted[i]);
        at += strlen(wanted[i]);
        if (i + 1 < COUNT_OF(wanted) && (at[-1] != '\n' || at[0] == ' '))
            for (at = strchr(at, '\n') + 1; *at == ' ';) /* folded */
                at = strchr(at, '\n') + 1;
    }
    for (; *at != '"'; at++) {
        cr_assert_lt(len, 72, "%s: boundary", name);
        delimiter[len++] = *at;
    }
    delimiter[len] = '\0';
    end = strstr(at, "\r\n\r\n");
    cr_assert_not_null(end);
    world->header = span_of(world->text, (size_t)(end - world->text) + 2);
    at = world_delimiter(end, delimiter);
    for (world->parts_count = 0; at != NULL; world->parts_count++) {
        at += len;
        if (strcmp(at, "--\r\n") == 0)
            return;
        cr_assert_eq(strncmp(at, "\r\n", 2), 0, "%s: delimiter", name);
        cr_assert_lt(world->parts_count, PARTS_MAX, "%s: parts", name);
        at += 2;
        end = world_delimiter(at, delimiter);
        cr_assert(end != NULL && end[-2] == '\r', "%s: part %u has no end", name,
                  world->parts_count);
        world->parts[world->parts_count] = span_of(at, (size_t)(end - at) - 2);
        at = end;
    }
    cr_assert(false, "%s: no last delimiter", name);
}

static inline bool
world_eight_bit(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.data[i] > 127)
            return true;
    return false;
}

/* Takes what bounce_write() gave to pieces. */
static inline void
world_read(struct bounce_world *world, struct chain *out, const char *name)
{
    free(world->text);
    world->text = world_chain_text(world, out, &world->len);
    chain_release(&world->buffers, out);
    world_unstuff(world, name);
    cr_assert_eq(world->size, world->len, "%s: size %zu, told %zu", name, world->len,
                 (size_t)world->size);
    cr_assert_eq(world->eight_bit, world_eight_bit(span_of(world->text, world->len)), "%s: 8 bit",
                 name);
    world_split(world, name);
    cr_assert(world->parts_count == 2 || world->parts_count == 3, "%s: %u parts", name,
              world->parts_count);
    /* An encoding that the whole declares is that of its parts (RFC 2045 6.4). */
    bool declared = memmem(world->header.data, world->header.len,
                           "Content-Transfer-Encoding: 8bit\r\n", 33) != NULL;
    for (unsigned i = 0; i < world->parts_count; i++)
        cr_assert(declared || !world_eight_bit(world->parts[i]), "%s: 8 bit in %u", name, i);
}

static inline void
world_write(struct bounce_world *world, const struct bounce *bounce, struct span original,
            size_t piece, bool complete, bool chunked, const char *name)
{
    struct chain stored = world_store(world, original, piece), out = CHAIN_EMPTY;

    cr_assert(bounce_write(bounce, &world->buffers, &stored, complete, chunked, &out,
                           &world->eight_bit, &world->size),
              "%s: no buffer", name);
    chain_release(&world->buffers, &stored);
    world_read(world, &out, name);
}

/* A part without its header. */
static inline struct span
world_body(const struct bounce_world *world, unsigned part)
{
    struct span s = world->parts[part];
    const char *end = memmem(s.data, s.len, "\r\n\r\n", 4);

    cr_assert_not_null(end);
    return span_after(s, (size_t)(end - s.data) + 4);
}

static inline bool
span_has(struct span s, const char *text)
{
    return memmem(s.data, s.len, text, strlen(text)) != NULL;
}

/* The octets that quoted-printable text stands for; at most as many. RFC 2045 6.7: lines of 76
 * octets at most, no blank at the end of one. */
static inline size_t
world_unquote(struct span s, char *out)
{
    size_t len = 0, column = 0;

    for (size_t i = 0; i < s.len; i++) {
        unsigned value;

        column = s.data[i] == '\n' ? 0 : column + 1;
        cr_assert(column <= 76 || s.data[i] == '\r', "a line too long");
        cr_assert_not((s.data[i] == ' ' || s.data[i] == '\t') &&
                          (i + 1 == s.len || s.data[i + 1] == '\r'),
                      "a blank at a line's end");

        if (s.data[i] != '=') {
            out[len++] = s.data[i];
            continue;
        }
        cr_assert_leq(i + 2, s.len - 1, "an escape that is cut");
        if (s.data[i + 1] != '\r') {
            cr_assert_eq(sscanf(s.data + i + 1, "%2X", &value), 1);
            out[len++] = (char)value;
        }
        column = s.data[i + 1] == '\r' ? 0 : column + 2;
        i += 2;
    }
    return len;
}

/* What most tests start from. */
static inline struct bounce
sample_bounce(const struct bounce_recipient *recipients, uint32_t count)
{
    return (struct bounce){
        .hostname = SPAN("mx.example.org"),
        .id = SPAN("4ZyR1B"),
        .original_id = SPAN("4ZyQ0A"),
        .reverse_path = SPAN("alice@example.org"),
        .arrival_s = 1773478000,
        .now_s = 1773480000,
        .recipients = recipients,
        .count = count,
    };
}

#endif
