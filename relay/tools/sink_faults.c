/* Faults on demand, apart from the sink's sessions so that the grammar and the choice can be tested
 * without sockets. */
#include "relay/tools/sink_faults.h"

#include <stdio.h>

#include "core/config_value.h"
#include "relay/tools/duration.h"

static const char *const stage_names[SINK_STAGES] = {
    [SINK_CONNECT] = "connect", [SINK_TLS] = "tls",   [SINK_GREETING] = "greeting",
    [SINK_EHLO] = "ehlo",       [SINK_HELO] = "helo", [SINK_STARTTLS] = "starttls",
    [SINK_MAIL] = "mail",       [SINK_RCPT] = "rcpt", [SINK_DATA] = "data",
    [SINK_BODY] = "body",       [SINK_END] = "end",   [SINK_RSET] = "rset",
    [SINK_QUIT] = "quit",
};

const char *
sink_stage_name(enum sink_stage stage)
{
    ASSERT(stage < SINK_STAGES);
    return stage_names[stage];
}

bool
sink_pattern_match(struct span pattern, struct span text)
{
    size_t p = 0, t = 0, star = SIZE_MAX, resume = 0;

    /* After a mismatch only the last '*' needs to take one octet more. */
    while (t < text.len) {
        if (p < pattern.len && pattern.data[p] == '*') {
            star = p++;
            resume = t;
        } else if (p < pattern.len && (pattern.data[p] == '?' ||
                                       char_lower(pattern.data[p]) == char_lower(text.data[t]))) {
            p++;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++resume;
        } else {
            return false;
        }
    }
    while (p < pattern.len && pattern.data[p] == '*')
        p++;
    return p == pattern.len;
}

/* --- reading --- */

static struct span
take_until(struct span *in, char end)
{
    const char *at = in->len > 0 ? memchr(in->data, end, in->len) : NULL;
    struct span head = at != NULL ? span_first(*in, (size_t)(at - in->data)) : *in;

    span_advance(in, head.len);
    return head;
}

static bool
take_prefix(struct span *in, struct span prefix)
{
    if (!span_starts_ignore_case(*in, prefix))
        return false;
    span_advance(in, prefix.len);
    return true;
}

static bool
fail(char error[SINK_FAULT_ERROR_BYTES], const char *what, struct span s, const char *why)
{
    int len = s.len < 80 ? (int)s.len : 80;

    snprintf(error, SINK_FAULT_ERROR_BYTES, "%s%s'%.*s' %s", what, what[0] != '\0' ? " " : "", len,
             s.data != NULL ? s.data : "", why);
    return false;
}

/* "12.5" of a hundred. */
static bool
chance_parse(struct span s, uint32_t *chance)
{
    uint64_t whole = 0, part = 0, scale = SINK_CHANCE_WHOLE / 100;
    struct span integer = take_until(&s, '.');

    if (config_number_parse(integer, &whole) != NULL || whole > 100)
        return false;
    if (s.len > 0) {
        span_advance(&s, 1);
        if (s.len > 4 || config_number_parse(s, &part) != NULL)
            return false;
        for (size_t i = 0; i < s.len; i++)
            scale /= 10;
    }
    *chance = (uint32_t)(whole * (SINK_CHANCE_WHOLE / 100) + part * scale);
    return *chance > 0 && *chance <= SINK_CHANCE_WHOLE;
}

static bool
count_parse(struct span s, uint64_t *count)
{
    return config_number_parse(s, count) == NULL && *count > 0;
}

enum when_result { WHEN_NONE, WHEN_GOOD, WHEN_BAD };

/* One condition. NONE: it does not look like one, so it belongs to the text of a reply. */
static enum when_result
when_parse(struct span s, struct sink_fault *fault)
{
    if (take_prefix(&s, SPAN("%")))
        return chance_parse(s, &fault->chance) ? WHEN_GOOD : WHEN_BAD;
    if (take_prefix(&s, SPAN("after=")))
        return count_parse(s, &fault->first) ? WHEN_GOOD : WHEN_BAD;
    if (take_prefix(&s, SPAN("every=")))
        return count_parse(s, &fault->every) ? WHEN_GOOD : WHEN_BAD;
    if (take_prefix(&s, SPAN("times=")))
        return count_parse(s, &fault->times) ? WHEN_GOOD : WHEN_BAD;
    if (take_prefix(&s, SPAN("from~"))) {
        fault->from = s;
        return WHEN_GOOD;
    }
    if (take_prefix(&s, SPAN("rcpt~"))) {
        fault->to = s;
        return s.len > 0 ? WHEN_GOOD : WHEN_BAD;
    }
    /* A misspelt condition must not become a reply's text. */
    for (size_t i = 0; i < s.len; i++) {
        if (s.data[i] == '=' || s.data[i] == '~')
            return i > 0 ? WHEN_BAD : WHEN_NONE;
        if (char_lower(s.data[i]) < 'a' || char_lower(s.data[i]) > 'z')
            break;
    }
    return WHEN_NONE;
}

/* Takes the conditions off the end of the action: the text of a reply may have commas too. */
static bool
whens_parse(struct span *action, struct sink_fault *fault, char error[SINK_FAULT_ERROR_BYTES])
{
    for (;;) {
        const char *comma = action->len > 0 ? memrchr(action->data, ',', action->len) : NULL;
        struct span when;

        if (comma == NULL)
            return true;
        when = span_after(*action, (size_t)(comma + 1 - action->data));
        switch (when_parse(when, fault)) {
        case WHEN_NONE: return true;
        case WHEN_BAD:
            return fail(error, "", when,
                        "is no condition, expected %PERCENT, after=N, every=N, times=N, "
                        "from~PATTERN or rcpt~PATTERN");
        case WHEN_GOOD: action->len = (size_t)(comma - action->data);
        }
    }
}

/* Writes s with \n, \r, \t and \\ resolved. */
static struct span
unescape(struct span s, char *to, size_t size)
{
    struct outbuf out = { .data = to, .size = size };

    for (size_t i = 0; i < s.len && outbuf_room(&out) > 0; i++) {
        char next = i + 1 < s.len ? s.data[i + 1] : '\0';

        if (s.data[i] == '\\' && (next == 'n' || next == 'r' || next == 't' || next == '\\')) {
            outbuf_add_char(&out, next == 'n'   ? '\n'
                                  : next == 'r' ? '\r'
                                  : next == 't' ? '\t'
                                                : '\\');
            i++;
        } else {
            outbuf_add_char(&out, s.data[i]);
        }
    }
    return outbuf_span(&out);
}

static bool
reply_parse(struct span s, struct reply *reply)
{
    static const char *const usual[] = {
        [2] = "Ok", [3] = "Go on", [4] = "Try again later", [5] = "Refused"
    };
    char text[REPLY_TEXT_BYTES_MAX];
    struct enhanced_code enhanced = { 0 };
    uint64_t code;
    size_t len;

    if (s.len < 3 || config_number_parse(span_first(s, 3), &code) != NULL || code < 200 ||
        code > 599 || (s.len > 3 && s.data[3] != ' '))
        return false;
    span_advance(&s, s.len > 3 ? 4 : 3);
    len = enhanced_code_parse(s, &enhanced);
    if (len > 0 && (len == s.len || s.data[len] == ' ') && enhanced.class == code / 100)
        span_advance(&s, len < s.len ? len + 1 : len);
    else
        enhanced = (struct enhanced_code){ 0 };
    s = s.len > 0 ? unescape(s, text, sizeof(text)) : span_text(usual[code / 100]);
    reply_set(reply, (unsigned)code, NULL, s);
    reply->enhanced = enhanced;
    return true;
}

/* What stands after ':' or '=' behind the name of an action; the name alone leaves 0. */
static const char *
argument_parse(struct span s, struct sink_fault *fault)
{
    if (s.len > 0 && s.data[0] != ':' && s.data[0] != '=')
        return "is no action";
    if (s.len > 0)
        span_advance(&s, 1);
    if (fault->action == SINK_DELAY)
        return duration_parse(s, &fault->number);
    if (fault->action == SINK_SLOW)
        return config_size_parse(s, &fault->number) != NULL || fault->number == 0
                   ? "needs octets a second, such as slow:1000"
                   : NULL;
    if (s.len == 0)
        return NULL;
    return fault->stage != SINK_BODY ? "takes no number but with body"
                                     : config_size_parse(s, &fault->number);
}

static bool
action_parse(struct span s, struct sink_fault *fault, char error[SINK_FAULT_ERROR_BYTES])
{
    static const struct {
        const char *name;
        enum sink_action action;
        bool keep;
    } words[] = { { "keep-drop", SINK_DROP, true },   { "drop", SINK_DROP, false },
                  { "keep-stall", SINK_STALL, true }, { "stall", SINK_STALL, false },
                  { "delay", SINK_DELAY, false },     { "slow", SINK_SLOW, false } };
    struct span whole = s;

    if (take_prefix(&s, SPAN("raw:"))) {
        fault->action = SINK_RAW;
        reply_clear(&fault->reply);
        fault->reply.text_len =
            (uint16_t)unescape(s, fault->reply.text, sizeof(fault->reply.text)).len;
        return fault->reply.text_len > 0 || fail(error, "", whole, "says nothing");
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const char *wrong;

        if (!take_prefix(&s, span_text(words[i].name)))
            continue;
        fault->action = words[i].action;
        fault->keep = words[i].keep;
        wrong = argument_parse(s, fault);
        return wrong == NULL || fail(error, "", whole, wrong);
    }
    fault->action = SINK_REPLY;
    return reply_parse(s, &fault->reply) ||
           fail(
               error, "", whole,
               "is no action, expected CODE [ENHANCED] [TEXT] (200 to 599), raw:TEXT, drop, stall, "
               "keep-drop, keep-stall, delay=TIME or slow:OCTETS");
}

/* What makes no sense together. NULL: fine. */
static const char *
combination_check(const struct sink_fault *fault)
{
    if (fault->keep && fault->stage != SINK_END)
        return "keeps a message, which only end can do";
    if (fault->action == SINK_SLOW && fault->stage != SINK_BODY)
        return "is for body only";
    if (fault->stage == SINK_TLS && fault->action != SINK_DROP && fault->action != SINK_STALL)
        return "is not possible in a TLS handshake, only drop and stall are";
    if (fault->path.data != NULL && fault->stage != SINK_MAIL && fault->stage != SINK_RCPT)
        return "has a pattern, which only mail~, from~ and rcpt~ take; use ,from~ or ,rcpt~";
    if ((fault->from.data != NULL || fault->to.data != NULL) &&
        (fault->stage < SINK_MAIL || fault->stage > SINK_END))
        return "has a condition on addresses at a stage that knows none";
    return NULL;
}

static bool
stage_parse(struct span name, enum sink_stage *stage)
{
    for (unsigned i = 0; i < SINK_STAGES; i++) {
        if (span_equal_ignore_case(name, span_text(stage_names[i]))) {
            *stage = (enum sink_stage)i;
            return true;
        }
    }
    *stage = SINK_MAIL;
    return span_equal_ignore_case(name, SPAN("from"));
}

bool
sink_faults_add(struct sink_faults *faults, const char *spec, char error[SINK_FAULT_ERROR_BYTES])
{
    struct span in = span_text(spec), head = take_until(&in, '='), pattern = head;
    struct span name = take_until(&pattern, '~');
    struct sink_fault *fault = &faults->items[faults->count];
    const char *wrong;

    if (faults->count == SINK_FAULTS_MAX)
        return fail(error, "", in, "is one fault too many");
    *fault = (struct sink_fault){
        .spec = spec, .chance = SINK_CHANCE_WHOLE, .every = 1, .times = UINT64_MAX
    };
    if (in.len == 0)
        return fail(error, "", span_text(spec), "has no '=', expected STAGE=ACTION");
    span_advance(&in, 1);
    if (!stage_parse(name, &fault->stage))
        return fail(
            error, "", name,
            "is no stage, expected connect, tls, greeting, ehlo, helo, starttls, mail, rcpt, "
            "data, body, end, rset or quit");
    if (pattern.len > 0)
        fault->path = span_after(pattern, 1);
    if (!whens_parse(&in, fault, error) || !action_parse(in, fault, error))
        return false;
    if (fault->first == 0)
        fault->first = fault->every; /* every=10 alone: the 10th, the 20th */
    wrong = combination_check(fault);
    if (wrong != NULL)
        return fail(error, "", span_text(spec), wrong);
    faults->count++;
    faults->stages |= 1u << fault->stage;
    return true;
}

/* --- choosing --- */

static bool
recipients_match(struct span pattern, struct span recipients)
{
    while (recipients.len > 0) {
        if (sink_pattern_match(pattern, take_until(&recipients, '\n')))
            return true;
        if (recipients.len > 0)
            span_advance(&recipients, 1);
    }
    return false;
}

static bool
patterns_fit(const struct sink_fault *fault, const struct sink_occasion *occasion)
{
    if (fault->path.data != NULL && !sink_pattern_match(fault->path, occasion->path))
        return false;
    if (fault->from.data != NULL && !sink_pattern_match(fault->from, occasion->from))
        return false;
    if (fault->to.data == NULL)
        return true;
    return (occasion->stage == SINK_RCPT && sink_pattern_match(fault->to, occasion->path)) ||
           recipients_match(fault->to, occasion->recipients);
}

/* xorshift64* */
static uint64_t
draw(uint64_t *random)
{
    uint64_t x = *random;

    ASSERT(x != 0);
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *random = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

static bool
applies(struct sink_fault *fault, const struct sink_occasion *occasion, uint64_t *random)
{
    uint64_t seen;

    if (fault->stage != occasion->stage || !patterns_fit(fault, occasion))
        return false;
    seen = __atomic_add_fetch(&fault->seen, 1, __ATOMIC_RELAXED);
    if (seen < fault->first || (seen - fault->first) % fault->every != 0)
        return false;
    if (fault->chance < SINK_CHANCE_WHOLE &&
        (draw(random) >> 11) % SINK_CHANCE_WHOLE >= fault->chance)
        return false;
    if (__atomic_add_fetch(&fault->happened, 1, __ATOMIC_RELAXED) <= fault->times)
        return true;
    __atomic_sub_fetch(&fault->happened, 1, __ATOMIC_RELAXED);
    return false;
}

struct sink_decision
sink_faults_decide(struct sink_faults *faults, const struct sink_occasion *occasion,
                   uint64_t *random)
{
    struct sink_decision decision = { .fault = NULL };

    if (!sink_faults_have(faults, occasion->stage))
        return decision;
    for (uint32_t i = 0; i < faults->count; i++) {
        struct sink_fault *fault = &faults->items[i];

        if (!applies(fault, occasion, random))
            continue;
        if (fault->action != SINK_DELAY) {
            decision.fault = fault;
            break;
        }
        decision.delay_ms += fault->number;
    }
    return decision;
}
