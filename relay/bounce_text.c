/* The first part of a report. Most senders know nothing of mail servers: it says what happened to
 * whom, what the other side said, and what to do now. */
#include "relay/bounce_private.h"

enum { ANY = 1000 }; /* more than any detail */

struct advice {
    uint16_t subject, detail; /* RFC 3463 3 */
    struct span text;
};

static const struct advice advices[] = {
    /* the first that fits */
    { 1, 7,
      SPAN("Your own address was not accepted. Check the sender address that your mail "
           "program is set up with.") },
    { 1, 8,
      SPAN("Your own address was not accepted. Check the sender address that your mail "
           "program is set up with.") },
    { 1, 10,
      SPAN("The part of the address behind the @ takes no mail at all. Check its spelling, "
           "or ask the recipient for another address.") },
    { 1, ANY,
      SPAN("Check the address: a letter may be wrong, or the mailbox may exist no more. "
           "Then send the message again.") },
    { 2, 2,
      SPAN("The mailbox is full. Tell the recipient by other means, and send the message "
           "again later.") },
    { 2, 3,
      SPAN("The message is too large. Send it again in smaller parts, or without "
           "attachments.") },
    { 2, ANY,
      SPAN("The mailbox does not take messages now. Send the message again later, or reach "
           "the recipient by other means.") },
    { 3, 4,
      SPAN("The message is too large. Send it again in smaller parts, or without "
           "attachments.") },
    { 4, 7,
      SPAN("The message was tried until its time was over. Send it again later, or reach the "
           "recipient by other means.") },
    { 4, ANY,
      SPAN("The other server could not be reached as it should be. Send the message again "
           "later.") },
    { 6, ANY,
      SPAN("The other server cannot take the message in this form. Send it again as plain "
           "text, to an address of plain letters.") },
    { 7, ANY,
      SPAN("The other side does not take this message by its rules. If what it said does "
           "not help, ask the recipient by other means, or your mail administrator.") },
    { ANY, ANY,
      SPAN("If what is said above does not help, forward this report to your mail "
           "administrator.") },
};

static struct span
advice_for(struct enhanced_code status)
{
    for (size_t i = 0;; i++) {
        const struct advice *advice = &advices[i];

        ASSERT(i < sizeof(advices) / sizeof(advices[0]));
        if ((advice->subject == status.subject || advice->subject == ANY) &&
            (advice->detail == status.detail || advice->detail == ANY))
            return advice->text;
    }
}

static void
line_end(struct bounce_writer *writer)
{
    writer_add(writer, SPAN("\r\n"));
}

static void
paragraph(struct bounce_writer *writer, struct span text)
{
    writer_words(writer, text);
    writer_add(writer, SPAN("\r\n\r\n"));
}

static void
date_words(struct bounce_writer *writer, uint64_t when_s)
{
    writer_gap(writer, 31); /* in one piece: it is no use on two lines */
    writer_date(writer, when_s);
}

/* The words of the server or ours, line by line as they came. */
static void
said_write(const struct bounce_recipient *recipient, struct bounce_writer *writer)
{
    struct span rest = span_of(recipient->reply->text, recipient->reply->text_len);

    if (recipient->reply->code == 0 && rest.len == 0)
        return;
    writer->indent = SPAN("    ");
    if (recipient->server.len > 0) {
        writer_words(writer, SPAN("The server"));
        writer_words(writer, recipient->server);
        writer_words(writer, SPAN("said:"));
    } else {
        writer_words(writer, SPAN("The reason:"));
    }
    line_end(writer);
    writer->indent = SPAN("      ");
    if (recipient->reply->code != 0) {
        writer_gap(writer, 0);
        bounce_codes_write(recipient->reply, writer);
    }
    while (rest.len > 0) {
        const char *end = memchr(rest.data, '\n', rest.len);
        size_t len = end != NULL ? (size_t)(end - rest.data) : rest.len;

        writer_words(writer, span_first(rest, len));
        if (writer->column > 0)
            line_end(writer);
        span_advance(&rest, len < rest.len ? len + 1 : len);
    }
    if (writer->column > 0) /* codes alone */
        line_end(writer);
}

static void
recipient_write(const struct bounce_recipient *recipient, struct bounce_writer *writer)
{
    writer->indent = SPAN("  ");
    writer_gap(writer, 0);
    writer_add(writer, SPAN("<"));
    writer_foreign(writer, recipient->mailbox);
    writer_add(writer, SPAN(">"));
    line_end(writer);
    said_write(recipient, writer);
    if (recipient->action == BOUNCE_FAILED) {
        writer->indent = SPAN("    ");
        writer_words(writer, SPAN("What to do now:"));
        writer_words(writer, advice_for(bounce_status(recipient)));
        line_end(writer);
    }
    line_end(writer);
}

static void
heading_write(const struct bounce *bounce, enum bounce_action action, struct bounce_writer *writer)
{
    static const struct span headings[BOUNCE_ACTIONS] = {
        [BOUNCE_FAILED] = SPAN("Your message was NOT delivered to the recipients listed here. It "
                               "is not tried any more."),
        [BOUNCE_DELAYED] = SPAN("Your message was not delivered YET to the recipients listed "
                                "here. You need not do anything, and need not send it again:"),
        [BOUNCE_DELIVERED] = SPAN("Your message was delivered to the recipients listed here."),
        [BOUNCE_RELAYED] = SPAN("Your message was passed on for the recipients listed here, to a "
                                "server that does not tell when it delivers: no further report of "
                                "success will come."),
    };

    writer_words(writer, headings[action]);
    if (action == BOUNCE_DELAYED) {
        writer_words(writer, SPAN("it is tried again by itself"));
        if (bounce->expires_s != 0) {
            writer_words(writer, SPAN("until"));
            date_words(writer, bounce->expires_s);
        }
        writer_add(writer, SPAN("."));
    }
    writer_add(writer, SPAN("\r\n\r\n"));
}

static void
group_write(const struct bounce *bounce, enum bounce_action action, struct bounce_writer *writer)
{
    bool any = false;

    for (uint32_t i = 0; i < bounce->count; i++) {
        const struct bounce_recipient *recipient = &bounce->recipients[i];

        if (recipient->action != action)
            continue;
        if (!any)
            heading_write(bounce, action, writer);
        any = true;
        recipient_write(recipient, writer);
        writer->indent = SPAN("");
    }
}

static void
closing_write(const struct bounce *bounce, enum bounce_returned returned,
              struct bounce_writer *writer)
{
    static const struct span attached[] = {
        [BOUNCE_RETURNS_NOTHING] = SPAN("Below is the same for programs."),
        [BOUNCE_RETURNS_HEADER] = SPAN("Below are the same for programs, and the header of your "
                                       "message."),
        [BOUNCE_RETURNS_ALL] = SPAN("Below are the same for programs, and your message."),
    };

    paragraph(writer, SPAN("This report says nothing of recipients who are not listed."));
    paragraph(writer, attached[returned]);
    writer_words(writer, SPAN("For mail administrators: message"));
    writer_words(writer, bounce->original_id);
    if (bounce->origin_client.len > 0) {
        writer_words(writer, SPAN("from"));
        writer_words(writer, bounce->origin_client);
    }
    writer_words(writer, SPAN("arrived"));
    date_words(writer, bounce->arrival_s);
    writer_add(writer, SPAN(";"));
    writer_words(writer, SPAN("this is report"));
    writer_words(writer, bounce->id);
    writer_add(writer, SPAN(".\r\n"));
}

void
bounce_text_write(const struct bounce *bounce, enum bounce_returned returned,
                  struct bounce_writer *writer)
{
    writer->indent = SPAN("");
    writer_words(writer, SPAN("This is a report of the mail server"));
    writer_words(writer, bounce->hostname);
    writer_add(writer, SPAN(".\r\n\r\n"));
    group_write(bounce, BOUNCE_FAILED, writer);
    group_write(bounce, BOUNCE_DELAYED, writer);
    group_write(bounce, BOUNCE_RELAYED, writer);
    group_write(bounce, BOUNCE_DELIVERED, writer);
    closing_write(bounce, returned, writer);
}
