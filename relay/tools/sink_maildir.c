/* Messages as files, so that a test can compare what went in with what came out. */
#include "relay/tools/sink_maildir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"

/* --- text --- */

static bool
text_add(struct sink_text *text, struct span s)
{
    if (s.len > text->size - text->len) {
        size_t size = text->size > 0 ? text->size : 512;
        char *data;

        while (size < text->len + s.len)
            size *= 2;
        data = realloc(text->data, size);
        if (data == NULL)
            return false;
        text->data = data;
        text->size = size;
    }
    if (s.len > 0)
        memcpy(text->data + text->len, s.data, s.len);
    text->len += s.len;
    return true;
}

static void
text_free(struct sink_text *text)
{
    free(text->data);
    *text = (struct sink_text){ 0 };
}

/* --- the directory --- */

/* A descriptor of parent/name, made if missing. -1: errno says why. */
static int
directory_open(int parent, const char *name)
{
    if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
        return -1;
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void
host_set(struct sink_maildir *maildir, struct span hostname)
{
    size_t len = hostname.len < sizeof(maildir->host) ? hostname.len : sizeof(maildir->host) - 1;

    /* '/' ends a name, ':' begins the flags of a Maildir name. */
    for (size_t i = 0; i < len; i++) {
        char c = hostname.data[i];

        maildir->host[i] = c == '/' || c == ':' ? '_' : c;
    }
    maildir->host[len] = '\0';
}

bool
sink_maildir_open(struct sink_maildir *maildir, const char *directory, bool lf, unsigned writer,
                  struct span hostname)
{
    int top = directory_open(AT_FDCWD, directory), cur = -1;

    *maildir = (struct sink_maildir){ .tmp = -1, .new = -1, .lf = lf, .writer = writer };
    host_set(maildir, hostname);
    if (top >= 0)
        cur = directory_open(top, "cur");
    if (cur >= 0)
        maildir->tmp = directory_open(top, "tmp");
    if (maildir->tmp >= 0)
        maildir->new = directory_open(top, "new");
    if (maildir->new >= 0) {
        close(cur);
        close(top);
        return true;
    }
    maildir->error = errno;
    if (cur >= 0)
        close(cur);
    if (top >= 0)
        close(top);
    sink_maildir_close(maildir);
    return false;
}

void
sink_maildir_close(struct sink_maildir *maildir)
{
    if (maildir->tmp >= 0)
        close(maildir->tmp);
    if (maildir->new >= 0)
        close(maildir->new);
    maildir->tmp = maildir->new = -1;
}

const char *
sink_maildir_error(const struct sink_maildir *maildir)
{
    const char *text = strerrordesc_np(maildir->error);

    return text != NULL ? text : "unknown error";
}

/* --- the message --- */

void
sink_message_init(struct sink_message *message)
{
    *message = (struct sink_message){ .file = -1 };
}

void
sink_message_drop(struct sink_message *message, struct sink_maildir *maildir)
{
    if (message->file >= 0) {
        close(message->file);
        unlinkat(maildir->tmp, message->name, 0);
    }
    message->file = -1;
    message->headed = false;
    message->from.len = message->recipients.len = message->content.len = 0;
}

void
sink_message_free(struct sink_message *message)
{
    ASSERT(message->file < 0);
    text_free(&message->from);
    text_free(&message->recipients);
    text_free(&message->content);
}

bool
sink_message_from(struct sink_message *message, struct span reverse_path)
{
    ASSERT(message->from.len == 0 && message->recipients.len == 0);
    return text_add(&message->from, reverse_path);
}

bool
sink_message_recipient(struct sink_message *message, struct span recipient)
{
    return text_add(&message->recipients, recipient) && text_add(&message->recipients, SPAN("\n"));
}

static bool
fail(struct sink_maildir *maildir, int error)
{
    maildir->error = error;
    return false;
}

/* Our own lines, in the message's line ends: readers must not meet a mixture. */
static bool
head_add(struct sink_message *message, const struct sink_maildir *maildir)
{
    struct sink_text *content = &message->content;
    struct span end = maildir->lf ? SPAN("\n") : SPAN("\r\n");
    struct span rest = sink_text_span(&message->recipients);
    bool good = text_add(content, SPAN("Return-Path: <")) &&
                text_add(content, sink_text_span(&message->from)) && text_add(content, SPAN(">")) &&
                text_add(content, end);

    while (good && rest.len > 0) {
        const char *stop = memchr(rest.data, '\n', rest.len);
        struct span recipient = span_first(rest, (size_t)(stop - rest.data));

        good = text_add(content, SPAN("X-Original-To: ")) && text_add(content, recipient) &&
               text_add(content, end);
        span_advance(&rest, recipient.len + 1);
    }
    message->headed = true;
    message->line_start = true;
    return good;
}

/* One line or a part of one, the stuffed dot taken off (RFC 5321 4.5.2), CR left out if so wished:
 * every CR of a message that passed the receiver has its LF. */
static bool
line_add(struct sink_message *message, struct span line, bool chunked, bool lf)
{
    if (!chunked && message->line_start && line.data[0] == '.')
        span_advance(&line, 1);
    while (lf && line.len > 0) {
        const char *cr = memchr(line.data, '\r', line.len);
        size_t len = cr != NULL ? (size_t)(cr - line.data) : line.len;

        if (!text_add(&message->content, span_first(line, len)))
            return false;
        span_advance(&line, cr != NULL ? len + 1 : len);
    }
    return text_add(&message->content, line);
}

static bool
write_all(int file, struct span s)
{
    while (s.len > 0) {
        ssize_t n = write(file, s.data, s.len);

        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0)
            span_advance(&s, (size_t)n);
    }
    return true;
}

/* Moves the first len octets of the content to the file. */
static bool
content_write(struct sink_message *message, struct sink_maildir *maildir, size_t len)
{
    if (message->file < 0) {
        uint64_t now = clock_realtime_ns();

        snprintf(message->name, sizeof(message->name), "%llu.M%06lluP%dW%uQ%llu.%s",
                 (unsigned long long)(now / NS_PER_S), (unsigned long long)(now % NS_PER_S / 1000),
                 (int)getpid(), maildir->writer, (unsigned long long)++maildir->serial,
                 maildir->host);
        message->file =
            openat(maildir->tmp, message->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (message->file < 0)
            return fail(maildir, errno);
    }
    if (!write_all(message->file, span_of(message->content.data, len)))
        return fail(maildir, errno);
    message->content.len -= len;
    memmove(message->content.data, message->content.data + len, message->content.len);
    return true;
}

bool
sink_message_body(struct sink_message *message, struct sink_maildir *maildir, struct span piece,
                  bool chunked)
{
    if (!message->headed && !head_add(message, maildir))
        return fail(maildir, ENOMEM);
    while (piece.len > 0) {
        const char *end = chunked && !maildir->lf ? NULL : memchr(piece.data, '\n', piece.len);
        struct span line = end != NULL ? span_first(piece, (size_t)(end - piece.data) + 1) : piece;

        if (!line_add(message, line, chunked, maildir->lf))
            return fail(maildir, ENOMEM);
        message->line_start = end != NULL;
        span_advance(&piece, line.len);
    }
    if (message->content.len < SINK_CONTENT_BYTES)
        return true;
    /* The last two octets stay: they may be all that is left of the terminator. */
    return content_write(message, maildir, message->content.len - 2);
}

bool
sink_message_keep(struct sink_message *message, struct sink_maildir *maildir, bool chunked)
{
    bool good;

    if (!message->headed && !head_add(message, maildir))
        return fail(maildir, ENOMEM);
    if (!chunked) {
        /* Of ".CRLF" the dot went as a stuffed one does. */
        size_t end = maildir->lf ? 1 : 2;

        ASSERT(message->content.len >= end);
        message->content.len -= end;
    }
    if (!content_write(message, maildir, message->content.len))
        return false;
    good = close(message->file) == 0;
    message->file = -1;
    if (good && renameat(maildir->tmp, message->name, maildir->new, message->name) == 0)
        return true;
    fail(maildir, errno);
    unlinkat(maildir->tmp, message->name, 0);
    return false;
}
