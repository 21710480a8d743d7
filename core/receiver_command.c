/* The verbs of SMTP: which is legal where, and what each does. Apart from receiver.c so that a new
 * verb is a row and a function here. */
#include "core/receiver_private.h"

enum verb {
    VERB_UNKNOWN,
    VERB_EHLO,
    VERB_HELO,
    VERB_STARTTLS,
    VERB_MAIL,
    VERB_RCPT,
    VERB_DATA,
    VERB_BDAT,
    VERB_RSET,
    VERB_NOOP,
    VERB_HELP,
    VERB_VRFY,
    VERB_EXPN,
    VERB_QUIT,
    VERB_AUTH,
    VERB_OTHER,   /* of SMTP, but not for us: ETRN, TURN, ATRN, BURL, SEND, SOML, SAML */
    VERB_FOREIGN, /* another protocol's: HTTP */
    VERBS
};

enum verb_flags {
    NO_ARGUMENT = 1,    /* 501 if there is one (RFC 5321 4.1.1) */
    ASCII_ARGUMENT = 2, /* 501 for anything but printable ASCII */
    IDLE = 8,           /* brings no mail nearer: only so many in a row */
    ON_TRUST = 4,       /* pipelined behind MAIL: when MAIL was refused, no error of the client */
};

struct verb_row {
    uint16_t counter; /* offset of commands_... in struct counters */
    uint8_t flags;
    /* What does it in each state; none: 503 5.5.1. Only states that read commands are used. */
    void (*cell[RECEIVER_STATES])(struct receiver *receiver, struct span argument,
                                  struct outbuf *out, struct receiver_event *event);
};

/* --- finding the verb --- */

#define WORD(a, b, c, d) \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* Four octets with letters in lower case. Only a letter turns into a lower case letter by this, and
 * only a space (or NUL, which no line has) into a space. */
static inline uint32_t
word_at(const char *text)
{
    const unsigned char *octets = (const unsigned char *)text;

    return WORD(octets[0], octets[1], octets[2], octets[3]) | WORD(' ', ' ', ' ', ' ');
}

/* The rest of a longer verb. */
static enum verb
verb_long(struct span line, struct span name, enum verb verb, size_t *len)
{
    if (!span_starts_ignore_case(line, name))
        return VERB_UNKNOWN;
    *len = name.len;
    return verb;
}

/* The verb at the start of the line (RFC 5321 2.4: upper and lower case are the same), and its
 * length. */
static enum verb
verb_read(struct span line, size_t *len)
{
    *len = 4;
    if (line.len < 4)
        return VERB_UNKNOWN;
    switch (word_at(line.data)) {
    case WORD('m', 'a', 'i', 'l'): return VERB_MAIL;
    case WORD('r', 'c', 'p', 't'): return VERB_RCPT;
    case WORD('d', 'a', 't', 'a'): return VERB_DATA;
    case WORD('b', 'd', 'a', 't'): return VERB_BDAT;
    case WORD('e', 'h', 'l', 'o'): return VERB_EHLO;
    case WORD('h', 'e', 'l', 'o'): return VERB_HELO;
    case WORD('r', 's', 'e', 't'): return VERB_RSET;
    case WORD('n', 'o', 'o', 'p'): return VERB_NOOP;
    case WORD('q', 'u', 'i', 't'): return VERB_QUIT;
    case WORD('h', 'e', 'l', 'p'): return VERB_HELP;
    case WORD('v', 'r', 'f', 'y'): return VERB_VRFY;
    case WORD('e', 'x', 'p', 'n'): return VERB_EXPN;
    case WORD('a', 'u', 't', 'h'): return VERB_AUTH;
    case WORD('s', 't', 'a', 'r'): return verb_long(line, SPAN("starttls"), VERB_STARTTLS, len);
    case WORD('e', 't', 'r', 'n'):
    case WORD('t', 'u', 'r', 'n'):
    case WORD('a', 't', 'r', 'n'):
    case WORD('b', 'u', 'r', 'l'):
    case WORD('s', 'e', 'n', 'd'):
    case WORD('s', 'o', 'm', 'l'):
    case WORD('s', 'a', 'm', 'l'): return VERB_OTHER;
    case WORD('g', 'e', 't', ' '):
    case WORD('p', 'u', 't', ' '):
    case WORD('p', 'r', 'i', ' '): *len = 3; return VERB_FOREIGN;
    case WORD('p', 'o', 's', 't'):
    case WORD('h', 'e', 'a', 'd'): return VERB_FOREIGN;
    case WORD('p', 'a', 't', 'c'): return verb_long(line, SPAN("patch"), VERB_FOREIGN, len);
    case WORD('t', 'r', 'a', 'c'): return verb_long(line, SPAN("trace"), VERB_FOREIGN, len);
    case WORD('d', 'e', 'l', 'e'): return verb_long(line, SPAN("delete"), VERB_FOREIGN, len);
    case WORD('o', 'p', 't', 'i'): return verb_long(line, SPAN("options"), VERB_FOREIGN, len);
    case WORD('c', 'o', 'n', 'n'): return verb_long(line, SPAN("connect"), VERB_FOREIGN, len);
    default: return VERB_UNKNOWN;
    }
}

/* White space before CRLF is tolerated (RFC 5321 4.1.1). */
static struct span
trimmed(struct span line)
{
    while (line.len > 0 && (line.data[line.len - 1] == ' ' || line.data[line.len - 1] == '\t'))
        line.len--;
    return line;
}

static struct span
without_spaces(struct span s)
{
    while (s.len > 0 && s.data[0] == ' ')
        span_advance(&s, 1);
    return s;
}

static bool
is_printable_ascii(struct span s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char octet = (unsigned char)s.data[i];

        if ((octet < ' ' && octet != '\t') || octet > '~')
            return false;
    }
    return true;
}

/* --- the session --- */

/* Forgets the transaction (RFC 5321 4.1.4, 4.1.1.5). */
static void
reset(struct receiver *receiver, const char *cause)
{
    receiver_end_transaction(receiver);
    receiver->group_failed = false;
    receiver->smtputf8 = false;
    receiver->tries = 0;
    if (receiver->state != RECEIVER_STATE_START && receiver->state != RECEIVER_STATE_READY)
        receiver_enter(receiver, RECEIVER_STATE_READY, cause);
}

static bool
greet(struct receiver *receiver, struct span argument, bool esmtp, struct outbuf *out)
{
    if (!helo_name_valid(argument)) {
        receiver_refuse(receiver, REPLY_HELO_NAME, out);
        return false;
    }
    reset(receiver, esmtp ? "EHLO" : "HELO");
    ASSERT(argument.len <= sizeof(receiver->helo));
    memcpy(receiver->helo, argument.data, argument.len);
    receiver->helo_len = (uint8_t)argument.len;
    receiver->esmtp = esmtp;
    if (receiver->state == RECEIVER_STATE_START)
        receiver_enter(receiver, RECEIVER_STATE_READY, esmtp ? "EHLO" : "HELO");
    return true;
}

static void
command_ehlo(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)event;
    if (greet(receiver, argument, true, out))
        receiver_say_ehlo(receiver, out);
}

static void
command_helo(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)event;
    if (greet(receiver, argument, false, out))
        receiver_say_helo(receiver, out);
}

/* RFC 3207 4: the 220 is written by the step that finds nothing behind this command. */
static void
command_starttls(struct receiver *receiver, struct span argument, struct outbuf *out,
                 struct receiver_event *event)
{
    (void)argument;
    (void)event;
    if (receiver->tls) {
        receiver_refuse(receiver, REPLY_TLS_ACTIVE, out);
    } else if (!receiver->policy->starttls) {
        receiver_refuse(receiver, REPLY_TLS_NOT_OFFERED, out);
    } else if (!receiver->esmtp) {
        receiver_refuse(receiver, REPLY_SAY_EHLO, out);
    } else {
        receiver_end_transaction(receiver);
        receiver_enter(receiver, RECEIVER_STATE_TLS, "STARTTLS");
    }
}

static void
command_rset(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)argument;
    (void)event;
    reset(receiver, "RSET");
    receiver_say(receiver, REPLY_OK, out);
}

static void
command_noop(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver_say(receiver, REPLY_OK, out);
}

static void
command_help(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver_say(receiver, REPLY_HELP, out);
}

/* RFC 5321 3.5.3 and 7.3: neither yes nor no. */
static void
command_vrfy(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)event;
    if (argument.len == 0)
        receiver_refuse(receiver, REPLY_ARGUMENT_MISSING, out);
    else
        receiver_say(receiver, REPLY_VRFY, out);
}

static void
command_quit(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver->quit = true;
    receiver_close(receiver, REPLY_QUIT, "QUIT", out);
}

/* RFC 5321 4.2.4: 502 for what is SMTP but not ours. */
static void
command_not_implemented(struct receiver *receiver, struct span argument, struct outbuf *out,
                        struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver_refuse(receiver, REPLY_NOT_IMPLEMENTED, out);
}

static void
command_unknown(struct receiver *receiver, struct span argument, struct outbuf *out,
                struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver_refuse(receiver, REPLY_UNKNOWN, out);
}

/* A browser or a proxy was made to speak to us: among its header lines and its body there may be
 * commands that somebody else chose. Nothing more is read. */
static void
command_foreign(struct receiver *receiver, struct span argument, struct outbuf *out,
                struct receiver_event *event)
{
    (void)argument;
    (void)event;
    receiver_close(receiver, REPLY_FOREIGN, "HTTP", out);
}

/* --- the transaction --- */

/* What each result of path_parse() and of the parameters means for MAIL and for RCPT. */
static const enum receiver_reply mail_path_replies[] = {
    [ADDRESS_OK] = REPLY_NONE,
    [ADDRESS_SYNTAX] = REPLY_MAIL_ADDRESS,
    [ADDRESS_LOCAL_TOO_LONG] = REPLY_MAIL_TOO_LONG, /* RFC 5321 4.5.3.1.10: 501 */
    [ADDRESS_DOMAIN_TOO_LONG] = REPLY_MAIL_TOO_LONG,
    [ADDRESS_NO_DOMAIN] = REPLY_MAIL_NO_DOMAIN,
    [ADDRESS_UTF8_INVALID] = REPLY_MAIL_UTF8,
};

static const enum receiver_reply rcpt_path_replies[] = {
    [ADDRESS_OK] = REPLY_NONE,
    [ADDRESS_SYNTAX] = REPLY_RCPT_ADDRESS,
    [ADDRESS_LOCAL_TOO_LONG] = REPLY_RCPT_TOO_LONG,
    [ADDRESS_DOMAIN_TOO_LONG] = REPLY_RCPT_TOO_LONG,
    [ADDRESS_NO_DOMAIN] = REPLY_RCPT_NO_DOMAIN,
    [ADDRESS_UTF8_INVALID] = REPLY_RCPT_UTF8,
};

static const enum receiver_reply parameter_replies[] = {
    [PARAMETER_OK] = REPLY_NONE,
    [PARAMETER_SYNTAX] = REPLY_PARAMETER_SYNTAX,
    [PARAMETER_UNKNOWN] = REPLY_PARAMETER_UNKNOWN, /* RFC 5321 4.1.1.11: 555 */
    [PARAMETER_VALUE] = REPLY_PARAMETER_VALUE,
    [PARAMETER_DUPLICATE] = REPLY_PARAMETER_TWICE,
    [PARAMETER_BINARY] = REPLY_PARAMETER_BINARY,
    [PARAMETER_TOO_BIG] = REPLY_MESSAGE_TOO_BIG, /* RFC 1870 6.1 */
};

/* Takes "FROM:" or "TO:" and the path. A space after the colon is not legal (RFC 5321 3.3) but real
 * clients send it, and it hides nothing; one before the colon is refused. */
static enum address_result
path_take(struct span *argument, bool null_allowed, struct path *path)
{
    enum address_result result;
    size_t consumed;

    *argument = without_spaces(*argument);
    result = path_parse(*argument, null_allowed, path, &consumed);
    if (result == ADDRESS_OK)
        span_advance(argument, consumed);
    return result;
}

/* RFC 5321 4.1.1.11: a parameter of an extension that was not offered is not recognized. */
static bool
mail_within_offer(const struct receiver *receiver, const struct mail_parameters *mail)
{
    uint32_t without = receiver->policy->without;

    return ((without & RECEIVER_SIZE) == 0 || mail->size == 0) &&
           ((without & RECEIVER_8BITMIME) == 0 || mail->body == BODY_TYPE_NONE) &&
           ((without & RECEIVER_SMTPUTF8) == 0 || !mail->smtputf8) &&
           ((without & RECEIVER_DSN) == 0 ||
            (mail->dsn_return == DSN_RETURN_NONE && mail->envid.len == 0));
}

static enum receiver_reply
mail_read(const struct receiver *receiver, struct span argument, struct receiver_event *event)
{
    enum receiver_reply refusal;

    if (!span_starts_ignore_case(argument, SPAN("FROM:")))
        return REPLY_MAIL_SYNTAX;
    span_advance(&argument, 5);
    refusal = mail_path_replies[path_take(&argument, true, &event->path)];
    if (refusal != REPLY_NONE)
        return refusal;
    /* <postmaster> alone is a recipient only (RFC 5321 4.1.1.3). */
    if (!event->path.null && event->path.domain.len == 0)
        return REPLY_MAIL_NO_DOMAIN;
    /* HELO disables extensions (RFC 5321 4.1.1.1), and each parameter is one's. */
    if (argument.len > 0 && !receiver->esmtp)
        return REPLY_PARAMETER_UNKNOWN;
    event->mail = (struct mail_parameters){ .size = 0 };
    if (argument.len > 0)
        refusal = parameter_replies[mail_parameters_parse(argument, &event->mail)];
    if (refusal != REPLY_NONE)
        return refusal;
    if (!mail_within_offer(receiver, &event->mail))
        return REPLY_PARAMETER_UNKNOWN;
    if (event->path.utf8 && !event->mail.smtputf8)
        return REPLY_NEEDS_SMTPUTF8; /* RFC 6531 3.5 */
    if (event->mail.size > receiver->policy->message_size_max)
        return REPLY_MESSAGE_TOO_BIG; /* RFC 1870 6.1 */
    return REPLY_NONE;
}

static void
command_mail(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    enum receiver_reply refusal;

    receiver->group_failed = true; /* until the verdict */
    receiver->tries = 0;
    if (receiver->policy->require_tls && !receiver->tls) {
        receiver_refuse(receiver, REPLY_TLS_REQUIRED, out);
        return;
    }
    if (receiver->transactions >= receiver->policy->transactions_max) {
        receiver_close(receiver, REPLY_TRANSACTIONS_LIMIT, "transactions", out);
        return;
    }
    refusal = mail_read(receiver, argument, event);
    if (refusal != REPLY_NONE) {
        receiver_refuse(receiver, refusal, out);
        return;
    }
    receiver->transactions++;
    receiver->idle_commands = 0;
    receiver->smtputf8 = event->mail.smtputf8;
    receiver->awaiting = RECEIVER_MAIL;
    event->kind = RECEIVER_MAIL;
}

static enum receiver_reply
rcpt_read(const struct receiver *receiver, struct span argument, struct receiver_event *event)
{
    enum receiver_reply refusal;

    if (!span_starts_ignore_case(argument, SPAN("TO:")))
        return REPLY_RCPT_SYNTAX;
    span_advance(&argument, 3);
    refusal = rcpt_path_replies[path_take(&argument, false, &event->path)];
    if (refusal != REPLY_NONE)
        return refusal;
    if (argument.len > 0 && !receiver->esmtp)
        return REPLY_PARAMETER_UNKNOWN;
    event->rcpt = (struct rcpt_parameters){ .notify = DSN_NOTIFY_NONE };
    if (argument.len > 0)
        refusal = parameter_replies[rcpt_parameters_parse(argument, &event->rcpt)];
    if (refusal != REPLY_NONE)
        return refusal;
    if ((receiver->policy->without & RECEIVER_DSN) != 0 &&
        (event->rcpt.notify != DSN_NOTIFY_NONE || event->rcpt.orcpt.len > 0))
        return REPLY_PARAMETER_UNKNOWN;
    if ((event->path.utf8 || event->rcpt.utf8) && !receiver->smtputf8)
        return REPLY_NEEDS_SMTPUTF8;
    return REPLY_NONE;
}

static void
command_rcpt(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    enum receiver_reply refusal;

    if (!receiver_count_excused(receiver, out)) /* a try, whatever becomes of it */
        return;
    refusal = rcpt_read(receiver, argument, event);
    if (refusal != REPLY_NONE) {
        counter_increment(&receiver->counters->recipients_refused);
        receiver_refuse(receiver, refusal, out);
        return;
    }
    if (receiver->recipients >= receiver->policy->recipients_max) {
        /* RFC 5321 4.5.3.1.10: 452, and not the 552 of old; the client sends the rest later. */
        counter_increment(&receiver->counters->recipients_deferred);
        receiver_say(receiver, REPLY_RECIPIENTS_LIMIT, out);
        return;
    }
    receiver->awaiting = RECEIVER_RECIPIENT;
    event->kind = RECEIVER_RECIPIENT;
}

static void
command_data(struct receiver *receiver, struct span argument, struct outbuf *out,
             struct receiver_event *event)
{
    (void)argument;
    (void)out;
    receiver->chunked = false;
    receiver->awaiting = RECEIVER_DATA;
    event->kind = RECEIVER_DATA;
    event->chunked = false;
}

/* RFC 5321 4.1.1.4 leaves 503 or 554. A client that pipelines sends DATA before it knows that all
 * its recipients were refused (RFC 2920 3.1): no error of its own. */
static void
command_data_without_recipient(struct receiver *receiver, struct span argument,
                               struct outbuf *out, struct receiver_event *event)
{
    (void)argument;
    (void)event;
    if (receiver->tries == 0)
        receiver_refuse(receiver, REPLY_SAY_RCPT, out);
    else if (receiver_count_excused(receiver, out))
        receiver_say(receiver, REPLY_NO_RECIPIENTS, out);
}

/* --- the table --- */

#define COUNTED(field) ((uint16_t)offsetof(struct counters, field))

/* RFC 5321 4.1.4: at any time, also before EHLO; RFC 3030 does not forbid them between chunks. */
#define IN_ANY_STATE(handler) { \
    [RECEIVER_STATE_START] = handler, [RECEIVER_STATE_READY] = handler, \
    [RECEIVER_STATE_MAIL] = handler, [RECEIVER_STATE_RCPT] = handler, \
    [RECEIVER_STATE_CHUNKED] = handler }

static const struct verb_row verbs[VERBS] = {
    [VERB_UNKNOWN] = {
        .counter = COUNTED(commands_unknown), .cell = IN_ANY_STATE(command_unknown),
    },
    [VERB_EHLO] = {
        .counter = COUNTED(commands_ehlo), .flags = IDLE, .cell = IN_ANY_STATE(command_ehlo),
    },
    [VERB_HELO] = {
        .counter = COUNTED(commands_helo), .flags = IDLE, .cell = IN_ANY_STATE(command_helo),
    },
    [VERB_STARTTLS] = {
        .counter = COUNTED(commands_starttls), .flags = NO_ARGUMENT, .cell = {
            [RECEIVER_STATE_READY] = command_starttls, [RECEIVER_STATE_MAIL] = command_starttls,
            [RECEIVER_STATE_RCPT] = command_starttls, [RECEIVER_STATE_CHUNKED] = command_starttls,
        },
    },
    [VERB_MAIL] = {
        .counter = COUNTED(commands_mail), .cell = { [RECEIVER_STATE_READY] = command_mail },
    },
    [VERB_RCPT] = {
        .counter = COUNTED(commands_rcpt), .flags = ON_TRUST, .cell = {
            [RECEIVER_STATE_MAIL] = command_rcpt, [RECEIVER_STATE_RCPT] = command_rcpt,
        },
    },
    [VERB_DATA] = {
        .counter = COUNTED(commands_data), .flags = NO_ARGUMENT | ON_TRUST, .cell = {
            [RECEIVER_STATE_MAIL] = command_data_without_recipient,
            [RECEIVER_STATE_RCPT] = command_data,
        },
    },
    [VERB_BDAT] = { /* where it is out of order, its octets must be dropped all the same */
        .counter = COUNTED(commands_bdat), .cell = IN_ANY_STATE(receiver_command_bdat),
    },
    [VERB_RSET] = {
        .counter = COUNTED(commands_rset), .flags = NO_ARGUMENT | IDLE,
        .cell = IN_ANY_STATE(command_rset),
    },
    [VERB_NOOP] = {
        .counter = COUNTED(commands_noop), .flags = ASCII_ARGUMENT | IDLE,
        .cell = IN_ANY_STATE(command_noop),
    },
    [VERB_HELP] = {
        .counter = COUNTED(commands_help), .flags = ASCII_ARGUMENT | IDLE,
        .cell = IN_ANY_STATE(command_help),
    },
    [VERB_VRFY] = {
        .counter = COUNTED(commands_vrfy), .flags = ASCII_ARGUMENT | IDLE,
        .cell = IN_ANY_STATE(command_vrfy),
    },
    [VERB_EXPN] = {
        .counter = COUNTED(commands_expn), .cell = IN_ANY_STATE(command_not_implemented),
    },
    [VERB_QUIT] = {
        .counter = COUNTED(commands_quit), .flags = NO_ARGUMENT,
        .cell = IN_ANY_STATE(command_quit),
    },
    [VERB_AUTH] = {
        .counter = COUNTED(commands_auth), .cell = IN_ANY_STATE(command_not_implemented),
    },
    [VERB_OTHER] = {
        .counter = COUNTED(commands_unknown), .cell = IN_ANY_STATE(command_not_implemented),
    },
    [VERB_FOREIGN] = {
        .counter = COUNTED(commands_unknown), .cell = IN_ANY_STATE(command_foreign),
    },
};

/* An illegal cell: what is missing. */
static void
out_of_order(struct receiver *receiver, const struct verb_row *row, struct outbuf *out)
{
    static const enum receiver_reply missing[RECEIVER_STATES] = {
        [RECEIVER_STATE_START] = REPLY_SAY_HELO,
        [RECEIVER_STATE_READY] = REPLY_SAY_MAIL,
        [RECEIVER_STATE_MAIL] = REPLY_NESTED,
        [RECEIVER_STATE_RCPT] = REPLY_NESTED,
        [RECEIVER_STATE_CHUNKED] = REPLY_BETWEEN_CHUNKS,
    };
    enum receiver_reply refusal = missing[receiver->state];

    ASSERT(refusal != REPLY_NONE);
    if ((row->flags & ON_TRUST) == 0 || !receiver->group_failed) {
        receiver_refuse(receiver, refusal, out);
        return;
    }
    counter_increment(&receiver->counters->command_errors);
    if (receiver_count_excused(receiver, out))
        receiver_say(receiver, refusal, out);
}

void
receiver_command(struct receiver *receiver, struct span line, struct outbuf *out,
                 struct receiver_event *event)
{
    const struct verb_row *row;
    struct span argument;
    enum verb verb;
    size_t len;

    line = trimmed(line);
    verb = verb_read(line, &len);
    if (verb != VERB_UNKNOWN && line.len > len && line.data[len] != ' ')
        verb = VERB_UNKNOWN;
    if ((verb == VERB_EHLO && (receiver->policy->without & RECEIVER_EHLO) != 0) ||
        (verb == VERB_BDAT && (receiver->policy->without & RECEIVER_CHUNKING) != 0))
        verb = VERB_OTHER;
    argument = verb != VERB_UNKNOWN ? without_spaces(span_after(line, len)) : SPAN("");
    row = &verbs[verb];
    counter_increment((uint64_t *)(void *)((char *)receiver->counters + row->counter));
    if ((row->flags & IDLE) != 0 && ++receiver->idle_commands > RECEIVER_IDLE_COMMANDS_MAX &&
        !receiver_count_error(receiver, out))
        return;
    if (row->cell[receiver->state] == NULL)
        out_of_order(receiver, row, out);
    else if ((row->flags & NO_ARGUMENT) != 0 && argument.len > 0)
        receiver_refuse(receiver, REPLY_NO_ARGUMENT, out);
    else if ((row->flags & ASCII_ARGUMENT) != 0 && !is_printable_ascii(argument))
        receiver_refuse(receiver, REPLY_ARGUMENT_OCTETS, out);
    else
        row->cell[receiver->state](receiver, argument, out, event);
}
