/* sink_maildir: the message that a sink's session receives, and the Maildir where it goes.
 * Does:    keeps the envelope, takes dot stuffing off, writes tmp/ and moves to new/.
 * Owns:    a message: its memory and its open file. A Maildir: two directory descriptors.
 * Memory:  heap that grows with the envelope and up to SINK_CONTENT_BYTES of content, kept for the
 *          session's next message.
 * Threads: its owner's; several may write to one directory (names are unique).
 * Errors:  false, and sink_maildir_error() of the Maildir says why.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_MAILDIR_H
#define RINGPOST_RELAY_TOOLS_SINK_MAILDIR_H

#include "core/span.h"

/* Content above this goes to the file before the message is complete. */
#define SINK_CONTENT_BYTES (256 * 1024)

struct sink_text {
    char *data;
    size_t len, size;
};

struct sink_maildir {
    int tmp, new; /* directories; -1: not open */
    bool lf;      /* line ends are written as LF */
    unsigned writer;
    uint64_t serial;
    char host[256]; /* for file names */
    int error;      /* errno of the last failure */
};

struct sink_message {
    struct sink_text from;       /* the reverse-path */
    struct sink_text recipients; /* each ended by '\n' */
    struct sink_text content;    /* what is not in the file yet */
    int file;                    /* in tmp/; -1: none */
    bool headed;                 /* our own lines are in content */
    bool line_start;             /* DATA: the next octet begins a line */
    char name[320];              /* of the file */
};

/* Creates what is missing of directory/{tmp,new,cur}. writer: tells the writers of one process
 * apart. */
MUST_USE bool sink_maildir_open(struct sink_maildir *maildir, const char *directory, bool lf,
                                unsigned writer, struct span hostname);
void sink_maildir_close(struct sink_maildir *maildir);
const char *sink_maildir_error(const struct sink_maildir *maildir);

void sink_message_init(struct sink_message *message);
void sink_message_free(struct sink_message *message);
/* Forgets all of it, its file too. */
void sink_message_drop(struct sink_message *message, struct sink_maildir *maildir);

MUST_USE bool sink_message_from(struct sink_message *message, struct span reverse_path);
MUST_USE bool sink_message_recipient(struct sink_message *message, struct span recipient);
/* The next piece in wire form; chunked: it came by BDAT, without stuffed dots and terminator. */
MUST_USE bool sink_message_body(struct sink_message *message, struct sink_maildir *maildir,
                                struct span piece, bool chunked);
/* The message is complete: when this is true it is in new/. Then drop it. */
MUST_USE bool sink_message_keep(struct sink_message *message, struct sink_maildir *maildir,
                                bool chunked);

static inline struct span
sink_text_span(const struct sink_text *text)
{
    return span_of(text->data != NULL ? text->data : "", text->len);
}

#endif
