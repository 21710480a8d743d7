/* Whole dialogues with a client from tests/transcripts/receiver/ and hostile/: each is played line
 * by line as it is written, and then in one piece, cut at every octet, and octet by octet. All must
 * come to the same. */
#include <criterion/criterion.h>

#include <dirent.h>

#include "core/receiver_private.h"
#include "tests/unit/transcript_play.h"

#define RECEIVER_FOLDER "tests/transcripts/receiver"
#define HOSTILE_FOLDER "tests/transcripts/hostile"
/* Fewer mean that the test ran in the wrong folder. */
#define RECEIVER_TRANSCRIPTS_MIN 30
#define HOSTILE_TRANSCRIPTS_MIN 120
/* Longer ones are no seeds: a fuzzer is fast with short inputs. */
#define SEED_BYTES_MAX 2048

/* --- seeds for tests/fuzz/fuzz_receiver.c, which says what they look like --- */

static void
write_seed(const struct play *play, const char *folder, const char *name)
{
    const struct receiver_policy *policy = &play->transcript->policy;
    char path[512];
    FILE *file;
    size_t len = 0;

    for (size_t i = 0; i < play->phases_count; i++)
        len += play->phases[i].bytes.len;
    if (len > SEED_BYTES_MAX)
        return;
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

static bool
is_transcript(const char *name)
{
    size_t len = strlen(name);

    return len > 5 && strcmp(name + len - 5, ".smtp") == 0;
}

/* What tests/system/hostile.py gives a relay: the smallest that options.def allows. */
static struct receiver_policy
hostile_policy(void)
{
    struct receiver_policy policy = player_policy();

    policy.message_size_max = 65536;
    policy.recipients_max = 100;
    policy.command_line_max = 2048;
    policy.text_line_max = 1000;
    policy.received_max = 10;
    return policy;
}

static void
play_file(const char *folder, const char *name, bool all_splits)
{
    static struct play play;
    const char *corpus = getenv("RINGPOST_WRITE_CORPUS");
    bool hostile = strcmp(folder, HOSTILE_FOLDER) == 0;
    struct receiver_policy policy = hostile ? hostile_policy() : player_policy();
    struct player player;
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    play = (struct play){ .transcript = transcript_open(path, &policy) };
    play_as_written(&play, &player);
    if (hostile)
        check_deliveries(&play, &player);
    note_replies(player_trace(&player));
    if (all_splits)
        play_all_splits(&play, player_trace(&player));
    if (all_splits && corpus != NULL)
        write_seed(&play, corpus, name);
    player_close(&player);
    play_close(&play);
}

/* Returns how many there are. Of all those in the folder, every `parts`-th is played. */
static unsigned
play_folder(const char *folder, unsigned part, unsigned parts, bool all_splits)
{
    struct dirent **entries;
    unsigned count = 0;
    int found = scandir(folder, &entries, NULL, alphasort);

    cr_assert_gt(found, 0, "run from the top of the source tree");
    for (int i = 0; i < found; i++) {
        if (is_transcript(entries[i]->d_name) && count++ % parts == part)
            play_file(folder, entries[i]->d_name, all_splits);
        free(entries[i]);
    }
    free(entries);
    return count;
}

Test(receiver_transcripts, every_split_gives_the_same)
{
    cr_assert_geq(play_folder(RECEIVER_FOLDER, 0, 1, true), RECEIVER_TRANSCRIPTS_MIN);
}

/* In parts, since sanitizers are slow and a test has a minute. */
Test(hostile_transcripts, every_split_gives_the_same_1)
{
    cr_assert_geq(play_folder(HOSTILE_FOLDER, 0, 4, true), HOSTILE_TRANSCRIPTS_MIN);
}

Test(hostile_transcripts, every_split_gives_the_same_2)
{
    (void)play_folder(HOSTILE_FOLDER, 1, 4, true);
}

Test(hostile_transcripts, every_split_gives_the_same_3)
{
    (void)play_folder(HOSTILE_FOLDER, 2, 4, true);
}

Test(hostile_transcripts, every_split_gives_the_same_4)
{
    (void)play_folder(HOSTILE_FOLDER, 3, 4, true);
}

Test(receiver_transcripts, every_reply_is_seen)
{
    (void)play_folder(RECEIVER_FOLDER, 0, 1, false);
    (void)play_folder(HOSTILE_FOLDER, 0, 1, false);
    for (int i = REPLY_NONE + 1; i < RECEIVER_REPLIES; i++) {
        struct span line = receiver_reply_line((enum receiver_reply)i);

        cr_assert(seen[i], "no transcript has the reply %.*s", (int)line.len, line.data);
    }
}
