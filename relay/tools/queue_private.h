/* queue_private: what the files of `ringpost queue` share.
 * Does:    source (running relay or files), records read from segment files, what is printed.
 * Owns:    struct queue_source and what it opened.
 * Memory:  heap; nothing grows with the queue but the table of domains and ids that were given.
 * Threads: the only one of its process.
 */
#ifndef RINGPOST_RELAY_TOOLS_QUEUE_PRIVATE_H
#define RINGPOST_RELAY_TOOLS_QUEUE_PRIVATE_H

#include "relay/queue/control.h"
#include "relay/spool/spool.h"
#include "relay/tools/queue.h"

#define QUEUE_ERROR_BYTES 512

/* --- records in the spool's files (queue_stored.c) --- */

struct stored;

/* NULL: *error says why, code is the negative errno. */
MUST_USE struct stored *stored_open(const char *directory, int *code,
                                    char error[QUEUE_ERROR_BYTES]);
void stored_close(struct stored *stored);
int stored_directory(const struct stored *stored);
/* Another process has the spool's lock: its pid, 0: not known. False: nobody, as far as one can
 * see. */
bool stored_locked(const struct stored *stored, uint32_t *holder);
/* What is kept of files is read again: they change while the relay runs. */
void stored_refresh(struct stored *stored);

enum stored_result {
    STORED_READ,
    STORED_GONE,    /* it is not there, or not any more */
    STORED_DAMAGED, /* what is there cannot be read */
};

struct stored_message { /* valid until the next stored_...() */
    struct record record;
    struct record_envelope envelope;
    const struct mark *marks; /* [record.recipients] */
    uint64_t segment, offset;
};
/* id: that it must have. */
enum stored_result stored_read(struct stored *stored, uint64_t segment, uint64_t offset,
                               const char id[16], struct stored_message *out);

/* Every record of every segment that is not finished, and is not a copy of one that still counts.
 * each: false ends it. A negative errno when the directory cannot be listed. *unreadable: segments
 * that could not be read, or not all of it. */
int stored_each(struct stored *stored,
                bool (*each)(void *context, const struct stored_message *message), void *context,
                uint32_t *unreadable);

/* The body as it is stored, piece by piece; what stored_read() gave stays valid. Nothing is given
 * of a body in the segment whose check fails. */
enum stored_result stored_body(struct stored *stored, const struct stored_message *message,
                               bool (*piece)(void *context, struct span octets), void *context);

/* --- where entries come from (queue_source.c) --- */

#define QUEUE_NAMES_MAX (NEXT_HOPS_MAX + 1)

struct queue_source {
    const struct config *config;
    const struct queue_select *select;
    FILE *errors;
    struct stored *stored;
    bool running;
    bool recovered; /* false: the relay is still reading its spool */
    uint32_t segments, segments_done;
    uint32_t workers;
    uint32_t now_s;
    char names[QUEUE_NAMES_MAX][CONTROL_NAME_BYTES]; /* of next hops, by item.hop */
    uint16_t name_count;
    struct control_page *page;
};

/* An entry of the queue. */
struct queue_message {
    const struct control_item *item;
    uint32_t worker;
    const char *hop;
    bool read; /* `stored` is valid; else it could not be read */
    struct stored_message stored;
};

/* False: said why. */
MUST_USE bool source_open(struct queue_source *source, const struct config *config,
                          const struct queue_select *select, FILE *errors);
void source_close(struct queue_source *source);
/* Not running (or so it seems): then what. */
void source_tell_not_running(const struct queue_source *source, const char *then);
/* Every entry that is selected. records: `stored` is wanted too (it is when the selection needs
 * it). False: said why; a part of them may have been given. */
MUST_USE bool source_each(struct queue_source *source, bool records,
                          bool (*each)(void *context, const struct queue_message *message),
                          void *context);
/* One page from the running relay, into source->page. False: said why. */
MUST_USE bool source_page(struct queue_source *source, const struct control_request *request);
/* The selection as far as a worker understands it, for one worker after the other, and again while
 * there are more ids than one request takes. Give {0} at first. False: no more. */
struct request_walk {
    uint32_t worker, first_id;
};
bool source_request_next(const struct queue_source *source, struct request_walk *walk,
                         struct control_request *out);
/* Nothing is given, and nothing but ids. */
bool select_is_all(const struct queue_select *select);
bool select_is_ids(const struct queue_select *select);
/* Whether envelopes must be read to select. */
bool select_needs_record(const struct queue_select *select);
/* The recipients that an entry stands for: waiting, and routed to its next hop now; all that wait,
 * if none is. Give {0} at first. False: no more. */
struct recipient_walk {
    struct record_envelope envelope;
    uint32_t index;
    bool begun, any_hop;
};
bool recipient_walk(struct recipient_walk *walk, const struct config *config, const char *hop,
                    const struct stored_message *message, struct record_recipient *recipient);
/* Name of the next hop of a mailbox by this configuration. */
const char *route_name(const struct config *config, struct span mailbox);
struct span domain_of(struct span mailbox); /* empty: none */

/* --- asking (queue_ask.c) --- */

/* 0 and the page; a negative errno; or -EPROTO with *text what it says instead. text: the caller
 * frees text->data. */
int ask_page(const struct config_address *address, const struct control_request *request,
             struct control_page *page, uint16_t (*hop_index)(void *context, struct span name),
             void *context, char **text);

/* --- printing (queue_print.c) --- */

/* Whatever a stranger sent, so that it does nothing to a terminal. */
void print_text(FILE *out, struct span text);
/* A JSON string with its quotes. */
void print_json_text(FILE *out, struct span text);
#define QUEUE_TEXT_BYTES 32
/* "59s", "12m", "5h", "3d"; and "4.1 KiB". */
const char *age_text(uint64_t seconds, char text[QUEUE_TEXT_BYTES]);
const char *bytes_text(uint64_t bytes, char text[QUEUE_TEXT_BYTES]);
/* "2026-01-15 10:11:12 UTC" */
const char *time_text(uint64_t second, char text[QUEUE_TEXT_BYTES]);
const char *plural(uint64_t number);
/* The start of an object: what the queue says of an entry. Without its closing brace. */
void print_item_json(const struct queue_source *source, const struct queue_message *message,
                     FILE *out);

/* --- the table of ages (queue_shape.c) --- */

#define SHAPE_BUCKETS 10 /* the last one is for all that is older */

struct shape_row {
    char *name;
    uint64_t total, ages[SHAPE_BUCKETS];
};
struct shape {
    struct shape_row total;
    struct shape_row **rows; /* hash table while it is filled; sorted by shape_sort() */
    size_t row_count, slots;
};
/* False: no memory. */
MUST_USE bool shape_add(struct shape *shape, struct span name, uint64_t age_s, uint64_t count);
/* The largest first; nothing may be added behind this. */
void shape_sort(struct shape *shape);
void shape_print(const struct shape *shape, FILE *out);
void shape_print_json(const struct shape *shape, FILE *out);
void shape_free(struct shape *shape);

/* --- a body as it was sent (queue_unstuff.c) --- */

struct unstuff {
    enum unstuff_state {
        UNSTUFF_LINE_START,
        UNSTUFF_DOT,    /* one was taken off */
        UNSTUFF_DOT_CR, /* the terminator, unless something else than LF comes */
        UNSTUFF_TEXT,
        UNSTUFF_TEXT_CR,
    } state;
};
/* {0} at first. Takes the stuffed dots off, and the terminator (RFC 5321 4.5.2). out needs in.len +
 * 1 octets; returns how many were written. */
size_t unstuff(struct unstuff *unstuff, struct span in, char *out);

/* --- the verbs --- */

int queue_summary(struct queue_source *source, const struct queue_command *command, FILE *out);
int queue_list_print(struct queue_source *source, const struct queue_command *command, FILE *out);
int queue_show(struct queue_source *source, const struct queue_command *command, FILE *out);
int queue_export(struct queue_source *source, const struct queue_command *command, FILE *out);
int queue_act(struct queue_source *source, const struct queue_command *command, FILE *out);

#endif
