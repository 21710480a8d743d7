/* Every neighbourhood of a dot: all sequences of up to three CR, LF and NUL in front of it and
 * behind it, in a line; of up to two at the beginning of the data and behind a dot. The
 * expectation comes from the rules, written here in a plain way, never from the scanner: data
 * ends at the first CRLF . CRLF (RFC 5321 4.1.1.4); it is acceptable without bare CR, bare LF
 * and NUL (2.3.8, 4.5.2). */
#include <criterion/criterion.h>

#include "tests/unit/receiver_player.h"

#define NEIGHBOURS_MAX 3
#define SEQUENCES 40       /* 1 + 3 + 9 + 27 */
#define SHORT_SEQUENCES 13 /* those of up to two */

static const char opening[] = "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\n"
                              "DATA\r\n";
static const char smuggled[] = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.com>\r\n"
                               "DATA\r\ny\r\n.\r\n";

/* Sequence `number` of the 40, by length and then as a number to the base of three. */
static size_t
neighbours(unsigned number, char out[NEIGHBOURS_MAX])
{
    unsigned count = 1;
    size_t len = 0;

    while (number >= count) {
        number -= count;
        count *= 3;
        len++;
    }
    for (size_t i = 0; i < len; i++, number /= 3)
        out[i] = "\r\n"[number % 3]; /* the third is its NUL */
    return len;
}

/* The offset behind the end of data; there is one. */
static size_t
end_of_data(const char *data, size_t len)
{
    for (size_t i = 0; i + 3 <= len; i++)
        if (memcmp(data + i, ".\r\n", 3) == 0 &&
            (i == 0 || (i >= 2 && memcmp(data + i - 2, "\r\n", 2) == 0)))
            return i + 3;
    cr_assert_fail("no end");
    return len;
}

static bool
strict_line_ends(const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((data[i] == '\r' && (i + 1 == len || data[i + 1] != '\n')) ||
            (data[i] == '\n' && (i == 0 || data[i - 1] != '\r')))
            return false;
    return true;
}

static bool
acceptable(const char *data, size_t len)
{
    return strict_line_ends(data, len) && memchr(data, '\0', len) == NULL;
}

/* Octets between the true end and MAIL are commands, refused as such; MAIL is one of its own only
 * behind whole lines. */
static bool
whole_lines(const char *data, size_t len)
{
    return len == 0 || (strict_line_ends(data, len) && data[len - 1] == '\n');
}

/* What the next hop is to receive: nothing, or the message; and behind the true end the client's
 * own second message, if that is no part of the first. */
static void
expectation(const char *data, size_t len, struct player_bytes *want)
{
    size_t end = end_of_data(data, len);
    struct player_bytes octets = { .data = NULL };

    want->len = 0;
    player_add(&octets, "", 0);
    for (size_t i = 0; i < end - 3; i++)
        if (data[i] != '.' || (i > 0 && (i < 2 || memcmp(data + i - 2, "\r\n", 2) != 0)))
            player_add(&octets, data + i, 1);
    if (acceptable(data, end)) {
        player_add_text(want, "MAIL <a@example.org>\nRCPT <b@example.com>\n");
        player_add_delivery(want, octets.data, octets.len);
    }
    if (end + sizeof(smuggled) - 1 <= len &&
        whole_lines(data + end, len - end - (sizeof(smuggled) - 1)))
        player_add_text(want, "MAIL <evil@example.org>\nRCPT <victim@example.com>\n"
                              "OCTETS y\\r\\n\n");
    player_add(want, "", 1);
    free(octets.data);
}

static void
play(const struct receiver_policy *policy, struct span session, size_t cut, const char *want)
{
    struct player player;

    player_start(&player, policy, false, NULL, 0);
    for (size_t at = 0; at < session.len;) {
        size_t piece = cut == 0 ? 1 : at == 0 && cut < session.len ? cut : session.len - at;

        player_feed(&player, session.data + at, piece, at + piece < session.len);
        at += piece;
    }
    cr_assert_str_eq(player_deliveries(&player), want, "cut at %zu: %.*s", cut, (int)session.len,
                     session.data);
    player_close(&player);
}

static void
try_neighbourhood(const char *lead, unsigned before, unsigned behind)
{
    struct receiver_policy policy = player_policy();
    struct player_bytes session = { .data = NULL }, want = { .data = NULL };
    char octets[NEIGHBOURS_MAX];
    size_t start = sizeof(opening) - 1;

    policy.starttls = false;
    player_add(&session, opening, start);
    player_add_text(&session, lead);
    player_add(&session, octets, neighbours(before, octets));
    player_add(&session, ".", 1);
    player_add(&session, octets, neighbours(behind, octets));
    size_t dot = session.len;
    player_add(&session, smuggled, sizeof(smuggled) - 1);
    expectation(session.data + start, session.len - start, &want);
    for (size_t cut = start; cut <= dot + 3; cut++)
        play(&policy, span_of(session.data, session.len), cut, want.data);
    play(&policy, span_of(session.data, session.len), session.len, want.data);
    play(&policy, span_of(session.data, session.len), 0, want.data);
    free(session.data);
    free(want.data);
}

static void
try_all(const char *lead, unsigned sequences)
{
    for (unsigned before = 0; before < sequences; before++)
        for (unsigned behind = 0; behind < sequences; behind++)
            try_neighbourhood(lead, before, behind);
}

Test(end_of_data, every_neighbourhood_at_the_beginning)
{
    try_all("", SHORT_SEQUENCES);
}

Test(end_of_data, every_neighbourhood_in_a_line)
{
    try_all("x", SEQUENCES);
}

Test(end_of_data, every_neighbourhood_behind_a_dot)
{
    try_all(".", SHORT_SEQUENCES);
}
