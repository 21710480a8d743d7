/* What clients send: octets that try the edges of dots, buffers and limits, each with a number that
 * is found again in sender, recipients and text. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/relay_world.h"

/* --- text that grows --- */

void
text_add(struct text *text, const char *data, size_t len)
{
    if (text->len + len > text->room) {
        text->room = (text->len + len) * 2 + 256;
        text->data = realloc(text->data, text->room);
        ASSERT(text->data != NULL);
    }
    if (len > 0)
        memcpy(text->data + text->len, data, len);
    text->len += len;
}

void
text_format(struct text *text, const char *format, ...)
{
    char line[ACTOR_LINE_BYTES];
    va_list arguments;
    int len;

    va_start(arguments, format);
    len = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    ASSERT(len >= 0 && (size_t)len < sizeof(line));
    text_add(text, line, (size_t)len);
}

void
text_remove(struct text *text, size_t len)
{
    ASSERT(len <= text->len);
    if (len > 0)
        memmove(text->data, text->data + len, text->len - len);
    text->len -= len;
}

void
text_free(struct text *text)
{
    free(text->data);
    *text = (struct text){ 0 };
}

/* --- octets --- */

static void
line_add(struct text *text, struct sim_random *random, const struct letter *letter)
{
    static const char *const edges[] = { ".\r\n", "..\r\n", "\r\n", ".x\r\n", ".\r\n.\r\n",
                                         "...\r\n", "From x\r\n", ".\r\n\r\n.\r\n" };
    size_t len = sim_below(random, 90);

    if (sim_chance(random, 2500)) {
        const char *edge = edges[sim_below(random, sizeof(edges) / sizeof(edges[0]))];

        text_add(text, edge, strlen(edge));
        return;
    }
    if (sim_chance(random, 300))
        len = sim_below(random, world.text_line - 6);
    if (sim_chance(random, 50))
        len = world.text_line;
    else if (letter->eight_bit && sim_chance(random, 3000))
        text_add(text, "gr\xc3\xbc\xc3\x9f", 6);
    else if (sim_chance(random, 800))
        text_add(text, ".", 1);
    for (size_t i = 0; i < len; i++) {
        char octet = (char)sim_between(random, '/', '~');

        text_add(text, &octet, 1);
    }
    text_add(text, "\r\n", 2);
}

/* What smuggling lives on: ends that only some see, and commands behind them. */
static void
illegal_add(struct text *text, struct sim_random *random)
{
    static const struct span ends[] = {
        SPAN("\n.\n"),     SPAN("\n.\r\n"),   SPAN("\r\n.\n"),   SPAN("\r.\r"),
        SPAN("\r\n.\r"),   SPAN("\r.\r\n"),   SPAN("\n.\r"),     SPAN("\r\n\0.\r\n"),
        SPAN("\r\n.\0\r\n"), SPAN("\n\n.\n\n"), SPAN("\r\r\n.\r\r\n"), SPAN("\n"), SPAN("\r"),
    };
    struct span end = ends[sim_below(random, sizeof(ends) / sizeof(ends[0]))];
    struct letter *evil = letter_new(NULL);

    evil->evil = true;
    text_add(text, end.data, end.len);
    text_format(text, "MAIL FROM:<s%u@senders.example>\r\nRCPT TO:<r%u-0@h0.example>\r\nDATA\r\n"
                "X-Evil: %u\r\n\r\nx\r\n",
                evil->number, evil->number, evil->number);
}

static size_t
size_draw(struct sim_random *random)
{
    uint64_t kind = sim_below(random, 100);

    if (kind < 4)
        return 0;
    if (kind < 55)
        return sim_between(random, 1, 900);
    if (kind < 75)
        return sim_between(random, 900, 6000);
    if (kind < 85)
        return sim_between(random, 1, 20) * BUFFER_BYTES + sim_below(random, 9) - 4;
    if (kind < 97)
        return sim_between(random, 6000, 40000);
    return sim_between(random, 40000, world.message_size - 4000);
}

static void
octets_draw(struct letter *letter, struct sim_random *random)
{
    struct text text = { 0 };
    size_t bytes = size_draw(random), illegal_at = SIZE_MAX;

    if (letter->illegal)
        illegal_at = sim_below(random, bytes + 1);
    if (bytes > 0 && !sim_chance(random, 500))
        text_format(&text, "X-Sim: %u\r\nSubject: letter %u\r\n%s\r\n", letter->number,
                    letter->number, sim_chance(random, 1000) ? ".odd: 1\r\n" : "");
    while (text.len < bytes) {
        if (text.len >= illegal_at) {
            illegal_add(&text, random);
            illegal_at = SIZE_MAX;
        }
        line_add(&text, random, letter);
    }
    if (illegal_at != SIZE_MAX)
        illegal_add(&text, random);
    if (letter->chunked && letter->whole_line == false && text.len > 2)
        text.len -= 2;
    letter->octets = text.data;
    letter->bytes = text.len;
}

/* Clients do not count alike: the last line's end, and what the header section will get. */
uint64_t
letter_said_bytes(const struct letter *letter)
{
    return letter->bytes + letter->number % 3;
}

struct letter *
letter_find(uint32_t number)
{
    return number < world.letter_count ? world.by_number[number] : NULL;
}

struct letter *
letter_new(struct client *client)
{
    struct sim_random *random = &world.clients_random;
    struct letter *letter = calloc(1, sizeof(*letter));

    ASSERT(letter != NULL);
    letter->client = client;
    letter->number = world.letter_count++;
    *world.letters_end = letter;
    world.letters_end = &letter->next;
    if (world.letter_count > world.letters_max) {
        world.letters_max = world.letter_count * 2 + 64;
        world.by_number = realloc(world.by_number, world.letters_max * sizeof(struct letter *));
        ASSERT(world.by_number != NULL);
    }
    world.by_number[letter->number] = letter;
    if (client == NULL)
        return letter;
    letter->count = sim_chance(random, 6000)
                        ? 1
                        : (uint32_t)sim_between(random, 1, sim_chance(random, 2000)
                                                               ? LETTER_RECIPIENTS_MAX
                                                               : 4);
    for (uint32_t i = 0; i < letter->count; i++)
        letter->to[i].hop = i > 0 && sim_chance(random, 6000)
                                ? letter->to[0].hop
                                : (uint8_t)sim_below(random, world.hop_count);
    letter->null_sender = sim_chance(random, 500);
    letter->eight_bit = sim_chance(random, 1500);
    letter->says_eight_bit = letter->eight_bit && sim_chance(random, 7000);
    letter->utf8 = sim_chance(random, 300);
    letter->says_size = sim_chance(random, 3000);
    letter->chunked = sim_chance(random, 2500);
    letter->whole_line = sim_chance(random, 7000);
    letter->illegal = world.hostile && sim_chance(random, 800);
    octets_draw(letter, random);
    return letter;
}

char *
letter_wire(const struct letter *letter, size_t *bytes)
{
    struct text text = { 0 };
    bool line_start = true;

    for (size_t i = 0; i < letter->bytes; i++) {
        char octet = letter->octets[i];
        bool end = i + 2 < letter->bytes && memcmp(letter->octets + i, ".\r\n", 3) == 0;

        /* A smuggler leaves dots alone, as long as they do not end his own message. */
        if (line_start && octet == '.' && (!letter->illegal || end))
            text_add(&text, ".", 1);
        text_add(&text, &octet, 1);
        line_start = octet == '\n' && i > 0 && letter->octets[i - 1] == '\r';
    }
    if (!line_start)
        text_add(&text, "\r\n", 2);
    text_add(&text, ".\r\n", 3);
    *bytes = text.len;
    return text.data;
}

void
letter_sender(const struct letter *letter, char *out, size_t size)
{
    if (letter->null_sender)
        (void)snprintf(out, size, "%s", "");
    else
        (void)snprintf(out, size, "s%u@senders.example", letter->number);
}

void
letter_recipient(const struct letter *letter, uint32_t index, char *out, size_t size)
{
    (void)snprintf(out, size, "r%u-%u@h%u.example", letter->number, index,
                   letter->to[index].hop);
}

/* --- what comes out --- */

/* Our trace header: one field, folded. Octets in front of what follows it; 0: there is none. */
static size_t
trace_bytes(const char *octets, size_t bytes)
{
    size_t at = 0;

    if (bytes < 14 || memcmp(octets, "Received: from", 14) != 0)
        return 0;
    do {
        const char *end = memmem(octets + at, bytes - at, "\r\n", 2);

        if (end == NULL)
            return 0;
        at = (size_t)(end - octets) + 2;
    } while (at < bytes && octets[at] == '\t');
    return at;
}

const char *
letter_compare(const struct letter *letter, const char *octets, size_t bytes, bool by_data)
{
    size_t trace = trace_bytes(octets, bytes), most;

    if (trace == 0)
        return "has no trace field of ours on top";
    octets += trace;
    bytes -= trace;
    most = bytes < letter->bytes ? bytes : letter->bytes;
    for (size_t i = 0; i < most; i++)
        if (octets[i] != letter->octets[i])
            return "has other octets";
    if (bytes == letter->bytes)
        return NULL;
    if (bytes < letter->bytes)
        return "is shorter than what was accepted";
    /* DATA cannot carry a last line without its end (RFC 5321 4.1.1.4), on either side. */
    if ((by_data || !letter->chunked) && bytes == letter->bytes + 2 &&
        memcmp(octets + letter->bytes, "\r\n", 2) == 0 && letter->bytes > 0 &&
        letter->octets[letter->bytes - 1] != '\n')
        return NULL;
    return "is longer than what was accepted";
}
