/* control: what operators ask of a queue: its entries, page by page; to hold or remove some.
 * Does:    a request goes into a mailbox that is posted to the worker; the worker looks at a
 * bounded number of entries in each turn, copies what is asked for into the mailbox, acts on it,
 *          and posts it back. The text of both, for the command line's other end.
 * Owns:    nothing; a mailbox is the asker's until it is posted and after it has come back.
 * Memory:  none allocated; a mailbox holds one page.
 * Threads: a mailbox has one owner at a time: `with_worker` says who. control_step() is the
 *          worker's; everything about text is pure.
 * Errors:  whatever a stranger asks is a result with a text that says what was wrong.
 */
#ifndef RINGPOST_RELAY_QUEUE_CONTROL_H
#define RINGPOST_RELAY_QUEUE_CONTROL_H

#include "relay/queue/queue.h"
#include "relay/stats/http.h"

struct config;
struct courier;

/* Targets of one request: their text must fit a request head. */
#define CONTROL_TARGETS_MAX 96
/* Entries of one page. */
#define CONTROL_ITEMS_MAX 512
#define CONTROL_NAME_BYTES 65 /* of a next hop, with its NUL */
#define CONTROL_REASON_BYTES 128
/* In place of a next hop's name, which cannot have a dot: the configuration has no route for these
 * recipients any more. */
#define CONTROL_NO_ROUTE "."
#define CONTROL_SOCKET_NAME "control.sock" /* in the spool's directory */

enum control_action {
    CONTROL_LIST,
    CONTROL_HOLD,
    CONTROL_RELEASE,
    CONTROL_RETRY,
    CONTROL_REMOVE,
    CONTROL_ACTIONS
};

enum control_outcome {
    CONTROL_LISTED,
    CONTROL_DONE,
    CONTROL_AFTER,   /* it is being delivered: done when this attempt ends. REMOVE: it is held then,
                      * to be removed by another request */
    CONTROL_BEGUN,   /* REMOVE: on its way out; it is gone when another request does not find it */
    CONTROL_ALREADY, /* HOLD: it was held; RELEASE: it was not */
    CONTROL_BUSY,    /* REMOVE: not now; ask again */
    CONTROL_OUTCOMES
};

struct control_target {
    char id[16];
    uint32_t index; /* of the queue's pool, as a page gave it; QUEUE_NONE: look for it */
};

/* Which entries: those that all of what is given says. */
struct control_request {
    enum control_action action;
    uint32_t worker;
    uint32_t from;   /* where the page before said that the next begins; 0: at the start */
    uint32_t states; /* bit per enum queue_state; 0: any */
    uint64_t age_min_s;
    bool all; /* an action on whatever there is needs this word */
    bool hop_given;
    char hop[CONTROL_NAME_BYTES];
    uint32_t hop_index; /* of `hop`, found by the server */
    uint32_t target_count;
    struct control_target targets[CONTROL_TARGETS_MAX];
};

struct control_item {
    char id[16];
    uint64_t size, offset;
    uint64_t segment; /* number of its file */
    uint32_t index;   /* of the pool */
    uint32_t arrival_s, due_s, slot, recipients, record_recipients;
    uint16_t hop;
    uint8_t state, attempts, flags; /* as in struct queue_entry */
    uint8_t outcome;                /* enum control_outcome */
    char reason[CONTROL_REASON_BYTES];
};

struct control_page {
    uint32_t worker, workers;
    uint32_t next; /* `from` of the next page; QUEUE_NONE: this was the last one */
    uint32_t now_s;
    bool recovered; /* false: the spool is still being read, entries are missing */
    uint32_t segments, segments_done;
    uint32_t count;
    struct control_item items[CONTROL_ITEMS_MAX];
};

struct control_mailbox {
    struct control_request request;
    struct control_page page;
    bool with_worker; /* atomic */
    struct io *answer_to;
    struct io_ticket answer;
    /* the worker's */
    uint32_t cursor, looked;
    uint64_t give_up_ns;
    struct control_mailbox *next;
};

/* --- in the worker --- */
struct control_pending { /* of struct courier */
    struct control_mailbox *first, *last;
    uint64_t next_ns; /* no step before */
};
/* A mailbox was posted to it. */
void control_receive(struct courier *courier, struct control_mailbox *mailbox);
/* Once per turn. */
void control_step(struct courier *courier);
uint64_t control_wakes_ns(const struct courier *courier);
/* Pure: whether the request is about this entry (its targets aside). */
bool control_matches(const struct control_request *request, const struct queue_entry *entry,
                     uint32_t now_s);

/* --- text of requests (control_request.c) --- */
/* NULL: *out is set. Else what is wrong, for a person; *status is that of the answer. */
MUST_USE const char *control_request_read(const struct http_request *http,
                                          struct control_request *out, unsigned *status);
/* The request head up to its empty line. Needs HTTP_REQUEST_BYTES_MAX of room. */
void control_request_write(const struct control_request *request, struct outbuf *out);
const char *control_action_name(enum control_action action);
MUST_USE bool control_state_read(struct span name, enum queue_state *state);
/* 1 to 15 letters and digits. */
MUST_USE bool control_id_read(struct span text, char id[16]);

/* --- text of pages (control_page.c) --- */
#define CONTROL_PAGE_BYTES_MAX (256u + CONTROL_ITEMS_MAX * 512u)
/* hop_name gives the name of a next hop's index. */
void control_page_write(const struct control_page *page,
                        const char *(*hop_name)(const void *context, uint32_t hop),
                        const void *context, struct outbuf *out);
/* hop_index gives an index for a name, UINT16_MAX: there are too many. False: that is no page. */
MUST_USE bool control_page_read(struct span text, struct control_page *out,
                                uint16_t (*hop_index)(void *context, struct span name),
                                void *context);

#endif
