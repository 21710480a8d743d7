/* transcript_play: plays a transcript against core/receiver, as it is written and in other pieces.
 * Does:    checks replies, events and deliveries line by line; then that the same octets in one
 *          piece, cut in two at every octet, in sevens and octet by octet come to the same trace.
 * Owns:    the octets of the phases, until play_close().
 * Errors:  a difference fails the test that calls, with file and line.
 */
#ifndef RINGPOST_TESTS_UNIT_TRANSCRIPT_PLAY_H
#define RINGPOST_TESTS_UNIT_TRANSCRIPT_PLAY_H

#include <criterion/criterion.h>

#include "tests/unit/transcript.h"

/* Everything sent up to the next !tls or !end is one phase: it may be cut anywhere. */
struct phase {
    struct player_bytes bytes;
    const struct transcript_item *then; /* TLS, END, or NULL at the end of the transcript */
};

#define PHASES_MAX 16
/* Cutting at every octet is quadratic: a longer phase is cut at so many drawn places. */
#define CUT_EVERYWHERE_BYTES_MAX 12000
#define CUTS_DRAWN 40

struct play {
    const struct transcript *transcript;
    struct player_verdict verdicts[PLAYER_VERDICTS_MAX];
    size_t verdicts_count;
    struct phase phases[PHASES_MAX];
    size_t phases_count;
};

static inline void
then(struct player *player, const struct transcript_item *item)
{
    if (item != NULL && item->kind == TRANSCRIPT_TLS)
        player_tls_started(player);
    if (item != NULL && item->kind == TRANSCRIPT_END)
        player_end(player, item->verdict.enhanced, item->verdict.text);
}

/* --- as it is written --- */

static inline bool
event_may_be_left_out(const char *line)
{
    static const char *const names[] = { "E: MAIL", "E: RECIPIENT", "E: DATA", "E: BODY" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strncmp(line, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static inline bool
matches(const char *line, size_t len, const char *want)
{
    size_t want_len = strlen(want);

    if (want_len > 0 && want[want_len - 1] == '*')
        return len >= want_len - 1 && memcmp(line, want, want_len - 1) == 0;
    return len == want_len && memcmp(line, want, len) == 0;
}

/* Finds `want` at *at of the trace, over events that may be left out; want NULL: nothing but those
 * may be there. */
static inline void
expect(const struct transcript *transcript, struct player *player, size_t *at, const char *want,
       unsigned line_number)
{
    const char *trace = player_trace(player);

    while (trace[*at] != '\0') {
        const char *line = trace + *at;
        size_t len = strcspn(line, "\n");

        if (want != NULL && matches(line, len, want)) {
            *at += len + 1;
            return;
        }
        cr_assert(event_may_be_left_out(line), "%s:%u: want %s, came: %.*s", transcript->path,
                  line_number, want != NULL ? want : "nothing more", (int)len, line);
        *at += len + 1;
    }
    cr_assert_null(want, "%s:%u: want %s, nothing came", transcript->path, line_number, want);
}

static inline void
add_verdict(struct play *play, size_t at, const struct player_verdict *verdict)
{
    cr_assert_lt(at, PLAYER_VERDICTS_MAX);
    play->verdicts[at] = *verdict;
    if (play->verdicts_count <= at)
        play->verdicts_count = at + 1;
}

static inline void
play_as_written(struct play *play, struct player *player)
{
    const struct transcript *transcript = play->transcript;
    size_t at = 0, ahead = 0;

    player_start(player, &transcript->policy, transcript->tls, play->verdicts, 0);
    for (size_t i = 0; i < transcript->count; i++) {
        const struct transcript_item *item = &transcript->items[i];

        if (item->kind == TRANSCRIPT_EXPECT) {
            for (unsigned n = 0; n < item->times; n++)
                expect(transcript, player, &at, item->bytes.data, item->line);
        } else if (item->kind == TRANSCRIPT_VERDICT) {
            add_verdict(play, player->verdicts_used + ahead++, &item->verdict);
            player->verdicts_count = play->verdicts_count;
        } else {
            expect(transcript, player, &at, NULL, item->line);
            ahead = 0;
            if (item->kind == TRANSCRIPT_SEND)
                player_feed(player, item->bytes.data, item->bytes.len, false);
            then(player, item);
        }
    }
    expect(transcript, player, &at, NULL, transcript->line);
}

/* What the D: lines say, and no more. */
static inline void
check_deliveries(const struct play *play, struct player *player)
{
    cr_assert_str_eq(player_deliveries(player), play->transcript->delivered.data,
                     "%s: what the next hop is to receive:\n%s\nwould be\n%s",
                     play->transcript->path, play->transcript->delivered.data,
                     player_deliveries(player));
}

/* --- in other pieces --- */

static inline void
split_into_phases(struct play *play)
{
    const struct transcript *transcript = play->transcript;

    play->phases_count = 1;
    for (size_t i = 0; i < transcript->count; i++) {
        const struct transcript_item *item = &transcript->items[i];
        struct phase *phase = &play->phases[play->phases_count - 1];

        if (item->kind == TRANSCRIPT_SEND)
            player_add(&phase->bytes, item->bytes.data, item->bytes.len);
        if (item->kind == TRANSCRIPT_TLS || item->kind == TRANSCRIPT_END) {
            phase->then = item;
            cr_assert_lt(play->phases_count, PHASES_MAX);
            play->phases_count++;
        }
    }
}

/* Plays all with phase number `cut_phase` in two pieces, or with all phases in pieces of `step`
 * octets. */
static inline void
play_in_pieces(const struct play *play, size_t cut_phase, size_t cut, size_t step,
               const char *want)
{
    struct player player;

    player_start(&player, &play->transcript->policy, play->transcript->tls, play->verdicts,
                 play->verdicts_count);
    for (size_t i = 0; i < play->phases_count; i++) {
        const struct phase *phase = &play->phases[i];
        size_t len = phase->bytes.len, at = 0;

        while (at < len) {
            size_t piece = i == cut_phase && at == 0 ? cut : len - at;

            piece = step > 0 && step < piece ? step : piece;
            player_feed(&player, phase->bytes.data + at, piece, at + piece < len);
            at += piece;
        }
        then(&player, phase->then);
    }
    cr_assert_str_eq(player_trace(&player), want, "%s: phase %zu cut at %zu (step %zu)",
                     play->transcript->path, cut_phase, cut, step);
    player_close(&player);
}

static inline void
play_all_splits(struct play *play, const char *want)
{
    uint32_t draw = 1;

    split_into_phases(play);
    play_in_pieces(play, SIZE_MAX, 0, 0, want);
    play_in_pieces(play, SIZE_MAX, 0, 1, want);
    play_in_pieces(play, SIZE_MAX, 0, 7, want);
    for (size_t i = 0; i < play->phases_count; i++) {
        size_t len = play->phases[i].bytes.len;

        for (size_t cut = 1; len <= CUT_EVERYWHERE_BYTES_MAX && cut < len; cut++)
            play_in_pieces(play, i, cut, 0, want);
        for (unsigned n = 0; len > CUT_EVERYWHERE_BYTES_MAX && n < CUTS_DRAWN; n++) {
            draw = draw * 1664525 + 1013904223;
            play_in_pieces(play, i, 1 + draw % (len - 1), 0, want);
        }
    }
}

static inline void
play_close(struct play *play)
{
    for (size_t i = 0; i < play->phases_count; i++)
        free(play->phases[i].bytes.data);
    transcript_close((struct transcript *)(uintptr_t)play->transcript);
}

#endif
