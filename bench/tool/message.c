/* Messages of load: made once and sent again and again with another identity in front. */
#include "bench/tool/message.h"

#include <stdlib.h>

#include "core/crc32c.h"

#define LINE_BYTES 76
/* Of so many lines one begins with a dot: that in their middle. */
#define DOT_LINES 32
#define DOT_FIRST ((uint64_t)(DOT_LINES / 2) * LINE_BYTES)
#define DOT_EVERY ((uint64_t)DOT_LINES * LINE_BYTES)

/* --- identity --- */

static void
hex_write(uint64_t number, unsigned digits, struct outbuf *out)
{
    for (unsigned i = digits; i-- > 0;)
        outbuf_add_char(out, "0123456789abcdef"[number >> 4 * i & 15]);
}

void
message_id_write(struct message_id id, struct outbuf *out)
{
    hex_write(id.run, 8, out);
    hex_write(id.thread, 4, out);
    hex_write(id.number, 12, out);
}

static bool
hex_parse(struct span text, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = char_lower(text.data[i]);

        if (char_is_digit(c))
            *number = *number << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *number = *number << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    return true;
}

bool
message_id_parse(struct span text, struct message_id *id)
{
    uint64_t run, thread;

    if (text.len != MESSAGE_ID_BYTES || !hex_parse(span_first(text, 8), &run) ||
        !hex_parse(span_of(text.data + 8, 4), &thread) ||
        !hex_parse(span_of(text.data + 12, 12), &id->number))
        return false;
    id->run = (uint32_t)run;
    id->thread = (uint16_t)thread;
    return true;
}

/* --- the pattern --- */

bool
pattern_create(struct pattern *pattern, uint64_t bytes_max)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ";
    uint64_t lines = (bytes_max + 1) / LINE_BYTES + 2;

    pattern->bytes = lines * LINE_BYTES;
    pattern->text = malloc(pattern->bytes);
    if (pattern->text == NULL)
        return false;
    for (uint64_t line = 0; line < lines; line++) {
        char *at = pattern->text + line * LINE_BYTES;

        /* Each line differs from its neighbours: one that is lost or moved shows. */
        for (unsigned i = 0; i < LINE_BYTES - 2; i++)
            at[i] = letters[(line * 7 + line / 61 + i) % (sizeof(letters) - 1)];
        if (at[LINE_BYTES - 3] == ' ')
            at[LINE_BYTES - 3] = '_';
        if (line % DOT_LINES == DOT_LINES / 2)
            at[0] = '.';
        at[LINE_BYTES - 2] = '\r';
        at[LINE_BYTES - 1] = '\n';
    }
    return true;
}

void
pattern_free(struct pattern *pattern)
{
    free(pattern->text);
    pattern->text = NULL;
}

uint64_t
pattern_fit(const struct pattern *pattern, uint64_t bytes)
{
    if (bytes > pattern->bytes)
        return pattern->bytes;
    /* A body must not begin between CR and LF. */
    return bytes % LINE_BYTES == 1 ? bytes + 1 : bytes;
}

uint32_t
pattern_digest(const struct pattern *pattern, uint32_t digest, uint64_t bytes)
{
    return crc32c(digest, span_of(pattern->text + pattern->bytes - bytes, bytes));
}

/* --- as sends need it --- */

/* Octets of stuffing before this one. */
static uint64_t
dots_before(uint64_t offset)
{
    return offset <= DOT_FIRST ? 0 : (offset - DOT_FIRST - 1) / DOT_EVERY + 1;
}

uint32_t
body_store_buffers(const struct pattern *pattern)
{
    return (uint32_t)((pattern->bytes + dots_before(pattern->bytes) + 3) / BUFFER_BYTES + 1);
}

static bool
store_add(struct body_store *store, struct buffers *buffers, struct span s)
{
    while (s.len > 0) {
        struct outbuf tail = chain_tail(buffers, &store->chain);
        size_t part;

        if (tail.size == 0) {
            uint32_t index = buffer_take(buffers, 0);

            if (index == BUFFER_NONE)
                return false;
            part = s.len < BUFFER_BYTES ? s.len : BUFFER_BYTES;
            memcpy(buffer_memory(buffers, index), s.data, part);
            store->indexes[store->chain.count] = index;
            chain_append(buffers, &store->chain, index, 0, part);
        } else {
            part = s.len < tail.size ? s.len : tail.size;
            memcpy(tail.data, s.data, part);
            chain_grow(buffers, &store->chain, part);
        }
        span_advance(&s, part);
    }
    return true;
}

bool
body_store_fill(struct body_store *store, const struct pattern *pattern, bool chunked,
                struct buffers *buffers)
{
    uint64_t at = 0;

    *store = (struct body_store){ .pattern = pattern, .chunked = chunked, .chain = CHAIN_EMPTY };
    store->indexes = calloc(body_store_buffers(pattern), sizeof(*store->indexes));
    if (store->indexes == NULL)
        return false;
    for (uint64_t dot = DOT_FIRST; !chunked && dot < pattern->bytes; dot += DOT_EVERY) {
        if (!store_add(store, buffers, span_of(pattern->text + at, dot - at)) ||
            !store_add(store, buffers, SPAN(".")))
            return false;
        at = dot;
    }
    return store_add(store, buffers, span_of(pattern->text + at, pattern->bytes - at)) &&
           (chunked || store_add(store, buffers, SPAN(".\r\n")));
}

void
body_store_free(struct body_store *store, struct buffers *buffers)
{
    chain_release(buffers, &store->chain);
    free(store->indexes);
    store->indexes = NULL;
}

uint64_t
body_store_find(const struct body_store *store, uint64_t bytes, uint32_t *index, uint32_t *offset)
{
    uint64_t at = store->pattern->bytes - bytes;

    ASSERT(bytes <= store->pattern->bytes);
    if (!store->chunked)
        at += dots_before(at);
    *index = store->indexes[at / BUFFER_BYTES];
    *offset = (uint32_t)(at % BUFFER_BYTES);
    return store->chain.bytes - at;
}

/* --- the header section --- */

void
message_head_write(struct message_id id, struct span date, struct outbuf *out)
{
    outbuf_add(out, SPAN(MESSAGE_ID_FIELD));
    message_id_write(id, out);
    outbuf_add(out, SPAN("\r\nMessage-ID: <"));
    message_id_write(id, out);
    outbuf_add(out, SPAN("@bench.example>\r\nDate: "));
    outbuf_add(out, date);
    outbuf_add(out, SPAN("\r\nFrom: Load <load@bench.example>\r\n"
                         "To: Sink <sink@bench.example>\r\n"
                         "Subject: ringpost-bench\r\n"
                         "MIME-Version: 1.0\r\n"
                         "Content-Type: text/plain; charset=us-ascii\r\n\r\n"));
}

/* --- digests by arithmetic: CRC-32C is linear --- */

static uint32_t
columns_apply(const uint32_t columns[32], uint32_t value)
{
    uint32_t sum = 0;

    for (; value != 0; value &= value - 1)
        sum ^= columns[__builtin_ctz(value)];
    return sum;
}

static void
columns_square(uint32_t square[32], const uint32_t columns[32])
{
    for (unsigned i = 0; i < 32; i++)
        square[i] = columns_apply(columns, columns[i]);
}

/* What `bytes` zero octets do to a register: the matrix of one, raised to that power. */
void
digest_shift_make(struct digest_shift *shift, const struct pattern *pattern, uint64_t bytes)
{
    uint32_t power[32], next[32];

    shift->bytes = bytes;
    shift->digest = pattern_digest(pattern, 0, bytes);
    for (unsigned i = 0; i < 32; i++) {
        /* crc32c() inverts at its start and its end: by that of 0 only the linear part is left. */
        char zero = 0;

        power[i] = crc32c(UINT32_C(1) << i, span_of(&zero, 1)) ^ crc32c(0, span_of(&zero, 1));
        shift->columns[i] = UINT32_C(1) << i;
    }
    for (; bytes > 0; bytes >>= 1) {
        if (bytes & 1)
            for (unsigned i = 0; i < 32; i++)
                shift->columns[i] = columns_apply(power, shift->columns[i]);
        columns_square(next, power);
        memcpy(power, next, sizeof(power));
    }
}

uint32_t
digest_shift_use(const struct digest_shift *shift, uint32_t digest)
{
    return columns_apply(shift->columns, digest) ^ shift->digest;
}
