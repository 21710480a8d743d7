/* control_server: the asker's end of the mailboxes: between the HTTP thread and the workers.
 * Does:    says where the private socket is; turns a request into a mailbox and posts it; writes
 *          the answer.
 * Owns:    one mailbox per connection of the HTTP server.
 * Memory:  all at control_create(), touched as it is used.
 * Threads: created and destroyed by the main thread; the rest by the HTTP thread. Of the relay only
 *          what never changes is read.
 * Errors:  a request that cannot be served has a status and a text.
 */
#ifndef RINGPOST_RELAY_QUEUE_CONTROL_SERVER_H
#define RINGPOST_RELAY_QUEUE_CONTROL_SERVER_H

#include "core/config.h"
#include "relay/queue/control.h"

struct relay;
struct control;

/* One per connection that the HTTP server keeps for it: operators are few. */
#define CONTROL_MAILBOXES 4

/* The spool's directory, which must be open, is where the socket is. NULL: no memory. */
MUST_USE struct control *control_create(const struct relay *relay);
void control_destroy(struct control *control);
/* Where to listen. */
const struct config_address *control_address(const struct control *control);

/* The address of the socket in a directory: by its path if that fits, else by its descriptor, which
 * must stay open. path is where address->path and text point to. */
#define CONTROL_PATH_BYTES 108
void control_address_set(const char *directory, int descriptor, char path[CONTROL_PATH_BYTES],
                         struct config_address *address);

/* 0: the request was posted, `answer` comes back to `io`. Else the status of an answer, with *text.
 */
unsigned control_ask(struct control *control, uint32_t mailbox, const struct http_request *request,
                     struct io *io, struct io_ticket answer, struct span *text);
/* The mailbox has come back: the page. Needs CONTROL_PAGE_BYTES_MAX of room. */
void control_answer(const struct control *control, uint32_t mailbox, struct outbuf *out);

/* In the worker: what was posted to it. */
struct control_mailbox *control_mailbox(struct control *control, uint32_t mailbox);

#endif
