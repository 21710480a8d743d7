/* Whole dialogues with a client from tests/transcripts/receiver/: each is played line by line as it
 * is written, and then in one piece, cut at every octet, and octet by octet. All must come to the
 * same. */
#include <criterion/criterion.h>

#include <dirent.h>

#include "core/receiver_private.h"
#include "tests/unit/transcript.h"

#define FOLDER "tests/transcripts/receiver"
/* Fewer mean that the test ran in the wrong folder. */
#define TRANSCRIPTS_MIN 50

/* Everything sent up to the next !tls or !end is one phase: it may be cut anywhere. */
struct phase {
    struct player_bytes bytes;
    const struct transcript_item *then; /* TLS, END, or NULL at the end of the transcript */
};

#define PHASES_MAX 16

struct play {
    const struct transcript *transcript;
    struct player_verdict verdicts[PLAYER_VERDICTS_MAX];
    size_t verdicts_count;
    struct phase phases[PHASES_MAX];
    size_t phases_count;
};

static void
then(struct player *player, const struct transcript_item *item)
{
    if (item != NULL && item->kind == TRANSCRIPT_TLS)
        player_tls_started(player);
    if (item != NULL && item->kind == TRANSCRIPT_END)
        player_end(player, item->verdict.enhanced, item->verdict.text);
}

/* --- as it is written --- */

static bool
event_may_be_left_out(const char *line)
{
    static const char *const names[] = { "E: MAIL", "E: RECIPIENT", "E: DATA", "E: BODY" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strncmp(line, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static bool
matches(const char *line, size_t len, const char *want)
{
    size_t want_len = strlen(want);

    if (want_len > 0 && want[want_len - 1] == '*')
        return len >= want_len - 1 && memcmp(line, want, want_len - 1) == 0;
    return len == want_len && memcmp(line, want, len) == 0;
}

/* Finds `want` at *at of the trace, over events that may be left out; want NULL: nothing but those
 * may be there. */
static void
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

static void
add_verdict(struct play *play, size_t at, const struct player_verdict *verdict)
{
    cr_assert_lt(at, PLAYER_VERDICTS_MAX);
    play->verdicts[at] = *verdict;
    if (play->verdicts_count <= at)
        play->verdicts_count = at + 1;
}

static void
play_as_written(struct play *play, struct player *player)
{
    const struct transcript *transcript = play->transcript;
    size_t at = 0, ahead = 0;

    player_start(player, &transcript->policy, transcript->tls, play->verdicts, 0);
    for (size_t i = 0; i < transcript->count; i++) {
        const struct transcript_item *item = &transcript->items[i];

        if (item->kind == TRANSCRIPT_EXPECT) {
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

/* --- in other pieces --- */

static void
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
static void
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

static void
play_all_splits(struct play *play, const char *want)
{
    split_into_phases(play);
    play_in_pieces(play, SIZE_MAX, 0, 0, want);
    play_in_pieces(play, SIZE_MAX, 0, 1, want);
    play_in_pieces(play, SIZE_MAX, 0, 7, want);
    for (size_t i = 0; i < play->phases_count; i++)
        for (size_t cut = 1; cut < play->phases[i].bytes.len; cut++)
            play_in_pieces(play, i, cut, 0, want);
}

/* --- seeds for tests/fuzz/fuzz_receiver.c, which says what they look like --- */

static void
write_seed(const struct play *play, const char *folder, const char *name)
{
    const struct receiver_policy *policy = &play->transcript->policy;
    char path[512];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%.*s", folder, (int)strcspn(name, "."), name);
    file = fopen(path, "w");
    cr_assert_not_null(file, "%s", path);
    fputc('0' + (play->transcript->tls ? 1 : 0) + (policy->require_tls ? 2 : 0) +
              (policy->starttls ? 0 : 4) + (policy->errors_max < 50 ? 8 : 0), file);
    for (size_t i = 0; i < play->verdicts_count; i++) {
        unsigned code = play->verdicts[i].code;

        fputc(code < 300 ? 'a' : code == 421 ? 'c' : code < 500 ? 'd' : 'r', file);
    }
    fputc('\n', file);
    for (size_t i = 0; i < play->phases_count; i++) {
        const struct phase *phase = &play->phases[i];

        fwrite(phase->bytes.data, 1, phase->bytes.len, file);
        if (phase->then != NULL)
            fputc(phase->then->kind == TRANSCRIPT_TLS ? 1 : 2, file);
    }
    fclose(file);
}

/* --- all of them --- */

static bool seen[RECEIVER_REPLIES];

static void
note_replies(const char *trace)
{
    for (const char *line = trace; *line != '\0'; line += strcspn(line, "\n") + 1) {
        for (int i = REPLY_NONE + 1; i < RECEIVER_REPLIES; i++) {
            struct span reply = receiver_reply_line((enum receiver_reply)i);

            /* Without its CRLF; before a host name there is none. */
            while (reply.data[reply.len - 1] == '\n' || reply.data[reply.len - 1] == '\r')
                reply.len--;
            seen[i] |= strncmp(line, "S: ", 3) == 0 &&
                       strncmp(line + 3, reply.data, reply.len) == 0;
        }
    }
}

static void
play_file(const char *name)
{
    static struct play play;
    const char *corpus = getenv("RINGPOST_WRITE_CORPUS");
    struct player player;
    char path[512];

    snprintf(path, sizeof(path), FOLDER "/%s", name);
    play = (struct play){ .transcript = transcript_open(path) };
    play_as_written(&play, &player);
    note_replies(player_trace(&player));
    play_all_splits(&play, player_trace(&player));
    if (corpus != NULL)
        write_seed(&play, corpus, name);
    for (size_t i = 0; i < play.phases_count; i++)
        free(play.phases[i].bytes.data);
    player_close(&player);
    transcript_close((struct transcript *)(uintptr_t)play.transcript);
}

Test(receiver_transcripts, every_split_gives_the_same_and_every_reply_is_seen)
{
    DIR *folder = opendir(FOLDER);
    struct dirent *entry;
    unsigned count = 0;

    cr_assert_not_null(folder, "run from the top of the source tree");
    while ((entry = readdir(folder)) != NULL) {
        size_t len = strlen(entry->d_name);

        if (len > 5 && strcmp(entry->d_name + len - 5, ".smtp") == 0) {
            play_file(entry->d_name);
            count++;
        }
    }
    closedir(folder);
    cr_assert_geq(count, TRANSCRIPTS_MIN);
    for (int i = REPLY_NONE + 1; i < RECEIVER_REPLIES; i++) {
        struct span line = receiver_reply_line((enum receiver_reply)i);

        cr_assert(seen[i], "no transcript has the reply %.*s", (int)line.len, line.data);
    }
}
