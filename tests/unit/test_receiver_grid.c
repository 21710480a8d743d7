/* Every verb in every state, as one table that can be read: what is answered, whether the
 * transaction ends, and where it leads. The transcripts have the texts and enhanced codes. */
#include <criterion/criterion.h>

#include "tests/unit/receiver_player.h"

#define STATES RECEIVER_STATES

/* How to get there. In TLS no step is legal and in CLOSED nothing is read: both are looked at
 * apart. */
static const char *const ways[STATES] = {
    [RECEIVER_STATE_START] = "",
    [RECEIVER_STATE_READY] = "EHLO c\r\n",
    [RECEIVER_STATE_MAIL] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\n",
    [RECEIVER_STATE_RCPT] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n",
    [RECEIVER_STATE_DATA] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"
                            "DATA\r\n",
    [RECEIVER_STATE_CHUNK] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"
                             "BDAT 900\r\n",
    [RECEIVER_STATE_CHUNKED] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"
                               "BDAT 2\r\n\r\n",
    [RECEIVER_STATE_TLS] = "EHLO c\r\nSTARTTLS\r\n",
    [RECEIVER_STATE_CLOSED] = "QUIT\r\n",
};

/* A cell is the reply, if any, and the state it leads to. '!': ABORT is told; '=': the state that
 * it was. In DATA and CHUNK, which have no column, every row is message data and no command. */
struct row {
    const char *command;
    const char *start, *ready, *mail, *rcpt, *chunked;
};

/* clang-format off */
static const struct row grid[] = {
    /*                    START         READY         MAIL           RCPT           CHUNKED */
    { "EHLO d",           "250 READY",  "250 =",      "250 !READY",  "250 !READY",  "250 !READY" },
    { "HELO d",           "250 READY",  "250 =",      "250 !READY",  "250 !READY",  "250 !READY" },
    { "EHLO",             "501 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "HELO d e",         "501 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "STARTTLS",         "503 =",      "220 TLS",    "220 !TLS",    "220 !TLS",    "220 !TLS" },
    { "STARTTLS x",       "503 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "MAIL FROM:<x@y>",  "503 =",      "250 MAIL",   "503 =",       "503 =",       "503 =" },
    { "MAIL FROM:<x",     "503 =",      "501 =",      "503 =",       "503 =",       "503 =" },
    { "RCPT TO:<x@y.z>",  "503 =",      "503 =",      "250 RCPT",    "250 =",       "503 =" },
    { "RCPT TO:<x",       "503 =",      "503 =",      "501 =",       "501 =",       "503 =" },
    { "DATA",             "503 =",      "503 =",      "503 =",       "354 DATA",    "503 =" },
    { "DATA x",           "503 =",      "503 =",      "501 =",       "501 =",       "503 =" },
    { "BDAT 0",           "503 =",      "503 =",      "503 !READY",  "250 CHUNKED", "250 =" },
    { "BDAT 0 LAST",      "503 =",      "503 =",      "503 !READY",  "250 READY",   "250 READY" },
    { "BDAT 0 x",         "503 =",      "503 =",      "503 !READY",  "501 !READY",  "501 !READY" },
    { "BDAT 5",           "CHUNK",      "CHUNK",      "!CHUNK",      "CHUNK",       "CHUNK" },
    { "BDAT 5000",        "CHUNK",      "CHUNK",      "!CHUNK",      "!CHUNK",      "!CHUNK" },
    { "BDAT",             "501 CLOSED", "501 CLOSED", "501 !CLOSED", "501 !CLOSED", "501 !CLOSED" },
    { "RSET",             "250 =",      "250 =",      "250 !READY",  "250 !READY",  "250 !READY" },
    { "RSET x",           "501 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "NOOP",             "250 =",      "250 =",      "250 =",       "250 =",       "250 =" },
    { "NOOP x y",         "250 =",      "250 =",      "250 =",       "250 =",       "250 =" },
    { "HELP",             "214 =",      "214 =",      "214 =",       "214 =",       "214 =" },
    { "VRFY x",           "252 =",      "252 =",      "252 =",       "252 =",       "252 =" },
    { "VRFY",             "501 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "EXPN x",           "502 =",      "502 =",      "502 =",       "502 =",       "502 =" },
    { "AUTH PLAIN",       "502 =",      "502 =",      "502 =",       "502 =",       "502 =" },
    { "ETRN x",           "502 =",      "502 =",      "502 =",       "502 =",       "502 =" },
    { "TURN",             "502 =",      "502 =",      "502 =",       "502 =",       "502 =" },
    { "XYZZY",            "500 =",      "500 =",      "500 =",       "500 =",       "500 =" },
    { "",                 "500 =",      "500 =",      "500 =",       "500 =",       "500 =" },
    { "QUIT",             "221 CLOSED", "221 CLOSED", "221 !CLOSED", "221 !CLOSED", "221 !CLOSED" },
    { "QUIT x",           "501 =",      "501 =",      "501 =",       "501 =",       "501 =" },
    { "GET /",            "500 CLOSED", "500 CLOSED", "500 !CLOSED", "500 !CLOSED", "500 !CLOSED" },
};
/* clang-format on */

static const char *
cell(const struct row *row, enum receiver_state state)
{
    switch (state) {
    case RECEIVER_STATE_START: return row->start;
    case RECEIVER_STATE_READY: return row->ready;
    case RECEIVER_STATE_MAIL: return row->mail;
    case RECEIVER_STATE_RCPT: return row->rcpt;
    case RECEIVER_STATE_CHUNKED: return row->chunked;
    default: return "body";
    }
}

/* What a trace says, in the words of a cell. */
static void
summarise(const char *trace, enum receiver_state before, enum receiver_state after, char *out,
          size_t size)
{
    char code[8] = "";
    bool abort = false;

    for (const char *line = trace; *line != '\0'; line += strcspn(line, "\n") + 1) {
        const char *text = line + 3;

        abort |= strncmp(line, "E: ABORT", 8) == 0;
        if (line[0] != 'S' || text[3] == '-')
            continue;
        cr_assert_eq(code[0], '\0', "one reply: %s", trace);
        snprintf(code, sizeof(code), "%.3s ", text);
    }
    snprintf(out, size, "%s%s%s", code, abort ? "!" : "",
             before == after ? "=" : receiver_state_name(after));
}

static void
try_cell(const struct row *row, enum receiver_state state)
{
    struct receiver_policy policy = player_policy();
    struct player player;
    char line[64], got[64];
    const char *want = cell(row, state);

    player_start(&player, &policy, false, NULL, 0);
    player_feed(&player, ways[state], strlen(ways[state]), false);
    cr_assert_eq(player.receiver.state, state, "the way to %s", receiver_state_name(state));
    player.trace.len = 0;
    snprintf(line, sizeof(line), "%s\r\n", row->command);
    player_feed(&player, line, strlen(line), false);
    if (strcmp(want, "body") == 0) {
        cr_assert_eq(player.receiver.state, state, "%s in %s", row->command,
                     receiver_state_name(state));
        cr_assert_eq(player.body.len, strlen(line));
        cr_assert_eq(player.trace.len, 0);
    } else {
        summarise(player_trace(&player), state, player.receiver.state, got, sizeof(got));
        cr_assert_str_eq(got, want, "'%s' in %s: want '%s', got '%s'", row->command,
                         receiver_state_name(state), want, got);
    }
    player_close(&player);
}

Test(receiver_grid, every_verb_in_every_state_that_reads)
{
    for (size_t i = 0; i < sizeof(grid) / sizeof(grid[0]); i++)
        for (int state = 0; state < STATES; state++)
            if (state != RECEIVER_STATE_TLS && state != RECEIVER_STATE_CLOSED)
                try_cell(&grid[i], (enum receiver_state)state);
}

/* TLS: whatever comes before the handshake is an injection. CLOSED: nothing is taken, nothing is
 * said. */
Test(receiver_grid, every_verb_in_the_states_that_do_not_read)
{
    struct receiver_policy policy = player_policy();

    for (size_t i = 0; i < sizeof(grid) / sizeof(grid[0]); i++) {
        struct player player;
        char line[64];

        snprintf(line, sizeof(line), "%s\r\n", grid[i].command);
        player_start(&player, &policy, false, NULL, 0);
        player_feed(&player, ways[RECEIVER_STATE_TLS], strlen(ways[RECEIVER_STATE_TLS]), false);
        cr_assert_eq(player.receiver.state, RECEIVER_STATE_TLS);
        player.trace.len = 0;
        player_feed(&player, line, strlen(line), false);
        cr_assert_str_eq(player_trace(&player), "E: CLOSE\n", "%s", grid[i].command);
        player_close(&player);

        player_start(&player, &policy, false, NULL, 0);
        player_feed(&player, ways[RECEIVER_STATE_CLOSED], strlen(ways[RECEIVER_STATE_CLOSED]),
                    false);
        cr_assert(player.closed);
        struct span in = span_text(line);
        struct receiver_event event = receiver_step(&player.receiver, &in, &player.out);
        cr_assert_eq(event.kind, RECEIVER_CLOSE, "%s", grid[i].command);
        cr_assert_eq(in.len, strlen(line));
        cr_assert_eq(player.out.len, 0);
        player_close(&player);
    }
}
