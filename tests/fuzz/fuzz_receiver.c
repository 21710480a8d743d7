/* Any client against core/receiver, with any verdicts of the caller. The player checks the order
 * of events, the form and the number of replies and the bounds of both buffers; here every input
 * is played whole, in pieces drawn from it, and octet by octet, which must all come to the same.
 * An input is text as far as the session is: a line of its own first, one octet from '0' on, bits:
 * 1 implicit TLS, 2 TLS required, 4 no STARTTLS, 8 tight limits, then a letter for each verdict: a
 * accept, d 451, r 550, c 421 (behind them all accept), then what the client sends, in which the
 * octet 01 stands for "the handshake is done" and 02 for "we end the session". */
#include "tests/unit/receiver_player.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VERDICTS_MAX 64

struct input {
    struct receiver_policy policy;
    bool tls;
    struct player_verdict verdicts[VERDICTS_MAX];
    size_t verdicts_count;
    struct span session;
};

static struct player_verdict
verdict(char letter)
{
    switch (letter) {
    case 'd': return (struct player_verdict){ 451, "4.7.1", "Later" };
    case 'r': return (struct player_verdict){ 550, "5.7.1", "Refused" };
    case 'c': return (struct player_verdict){ 421, "4.3.2", "Closing" };
    default: return (struct player_verdict){ .code = 0 };
    }
}

static bool
input_read(const uint8_t *data, size_t size, struct input *input)
{
    struct span rest = span_of(data, size);
    unsigned bits;

    *input = (struct input){ .policy = player_policy() };
    if (size == 0)
        return false;
    bits = (unsigned char)rest.data[0] - '0';
    input->tls = (bits & 1) != 0;
    input->policy.require_tls = (bits & 2) != 0;
    input->policy.starttls = (bits & 4) == 0;
    if ((bits & 8) != 0) {
        input->policy.errors_max = 2;
        input->policy.transactions_max = 2;
        input->policy.recipients_max = 1;
        input->policy.message_size_max = 20;
        input->policy.command_line_max = 64;
        input->policy.text_line_max = 10;
        input->policy.received_max = 0;
    }
    span_advance(&rest, 1);
    while (rest.len > 0 && rest.data[0] != '\n') {
        if (input->verdicts_count < VERDICTS_MAX)
            input->verdicts[input->verdicts_count++] = verdict(rest.data[0]);
        span_advance(&rest, 1);
    }
    if (rest.len > 0)
        span_advance(&rest, 1);
    input->session = rest;
    return true;
}

/* Octets up to the next 01 or 02. */
static size_t
phase_len(struct span session)
{
    size_t len = 0;

    while (len < session.len && session.data[len] != 1 && session.data[len] != 2)
        len++;
    return len;
}

enum pieces { WHOLE, DRAWN, OCTETS };

static size_t
piece_len(enum pieces pieces, size_t len, uint64_t *draw)
{
    size_t piece;

    if (pieces == WHOLE)
        return len;
    if (pieces == OCTETS)
        return 1;
    *draw = *draw * UINT64_C(6364136223846793005) + 1442695040888963407;
    piece = 1 + (size_t)(*draw >> 33) % ((*draw >> 60) + 1);
    return piece < len ? piece : len;
}

static void
play(const struct input *input, enum pieces pieces, struct player *player)
{
    struct span rest = input->session;
    uint64_t draw = rest.len;

    player_start(player, &input->policy, input->tls, input->verdicts, input->verdicts_count);
    while (rest.len > 0) {
        size_t len = phase_len(rest);

        for (size_t at = 0; at < len;) {
            size_t piece = piece_len(pieces, len - at, &draw);

            draw += (unsigned char)rest.data[at];
            player_feed(player, rest.data + at, piece, at + piece < len);
            at += piece;
        }
        span_advance(&rest, len);
        if (rest.len == 0)
            break;
        if (rest.data[0] == 2)
            player_end(player, "4.4.2", "timeout");
        else if (player->handshake)
            player_tls_started(player);
        span_advance(&rest, 1);
    }
}

static void
same(const struct input *input, enum pieces pieces, const char *want)
{
    struct player player;

    play(input, pieces, &player);
    if (strcmp(player_trace(&player), want) != 0) {
        fprintf(stderr, "--- whole:\n%s--- in pieces:\n%s", want, player_trace(&player));
        abort();
    }
    player_close(&player);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input;
    struct player player;

    if (!input_read(data, size, &input))
        return 0;
    play(&input, WHOLE, &player);
    same(&input, DRAWN, player_trace(&player));
    if (size < 400) /* long ones would only slow the search down */
        same(&input, OCTETS, player_trace(&player));
    player_close(&player);
    return 0;
}
