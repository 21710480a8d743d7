/* Beside the HTTP server, so that it knows nothing of queues and the queue nothing of sockets. */
#include "relay/queue/control_server.h"

#include <stdio.h>

#include "relay/worker.h"

struct control {
    const struct relay *relay;
    struct config_address address;
    char path[CONTROL_PATH_BYTES];
    struct control_mailbox mailboxes[CONTROL_MAILBOXES];
};

void
control_address_set(const char *directory, int descriptor, char path[CONTROL_PATH_BYTES],
                    struct config_address *address)
{
    int len = snprintf(path, CONTROL_PATH_BYTES, "%s/" CONTROL_SOCKET_NAME, directory);

    /* A Unix socket's address has 107 octets; a spool may be deeper than that. */
    if (len < 0 || len >= CONTROL_PATH_BYTES)
        (void)snprintf(path, CONTROL_PATH_BYTES, "/proc/self/fd/%d/" CONTROL_SOCKET_NAME,
                       descriptor);
    *address = (struct config_address){ .family = CONFIG_ADDRESS_UNIX, .path = path, .text = path };
}

struct control *
control_create(const struct relay *relay)
{
    struct control *control = io_memory(sizeof(*control));

    if (control == NULL)
        return NULL;
    control->relay = relay;
    control_address_set(relay->config->spool.directory, relay->spool.directory, control->path,
                        &control->address);
    return control;
}

void
control_destroy(struct control *control)
{
    if (control != NULL)
        io_memory_free(control, sizeof(*control));
}

const struct config_address *
control_address(const struct control *control)
{
    return &control->address;
}

/* --- asking --- */

static bool
hop_find(const struct config *config, struct control_request *request)
{
    if (!request->hop_given)
        return true;
    if (strcmp(request->hop, CONTROL_NO_ROUTE) == 0) {
        request->hop_index = (uint32_t)config->next_hop_count;
        return true;
    }
    for (size_t i = 0; i < config->next_hop_count; i++) {
        if (strcmp(request->hop, config->next_hops[i].name) != 0)
            continue;
        request->hop_index = (uint32_t)i;
        return true;
    }
    return false;
}

unsigned
control_ask(struct control *control, uint32_t mailbox_index, const struct http_request *request,
            struct io *io, struct io_ticket answer, struct span *text)
{
    const struct relay *relay = control->relay;
    struct control_mailbox *mailbox = &control->mailboxes[mailbox_index];
    const char *wrong;
    unsigned status;

    ASSERT(mailbox_index < CONTROL_MAILBOXES);
    ASSERT(!__atomic_load_n(&mailbox->with_worker, __ATOMIC_ACQUIRE));
    wrong = control_request_read(request, &mailbox->request, &status);
    if (wrong != NULL) {
        *text = span_text(wrong);
        return status;
    }
    if (mailbox->request.worker >= relay->worker_count) {
        *text = SPAN("it has no such worker");
        return 404;
    }
    if (!hop_find(relay->config, &mailbox->request)) {
        *text = SPAN("it has no next hop of that name");
        return 404;
    }
    mailbox->answer_to = io;
    mailbox->answer = answer;
    __atomic_store_n(&mailbox->with_worker, true, __ATOMIC_RELEASE);
    io_post(io, relay->workers[mailbox->request.worker].io,
            (struct io_ticket){ .kind = WORKER_QUEUE, .slot = mailbox_index }, 0);
    return 0;
}

static const char *
hop_name(const void *context, uint32_t hop)
{
    const struct config *config = context;

    return hop < config->next_hop_count ? config->next_hops[hop].name : CONTROL_NO_ROUTE;
}

void
control_answer(const struct control *control, uint32_t mailbox, struct outbuf *out)
{
    ASSERT(mailbox < CONTROL_MAILBOXES);
    ASSERT(!__atomic_load_n(&control->mailboxes[mailbox].with_worker, __ATOMIC_ACQUIRE));
    control_page_write(&control->mailboxes[mailbox].page, hop_name, control->relay->config, out);
}

/* --- in the worker --- */

struct control_mailbox *
control_mailbox(struct control *control, uint32_t mailbox)
{
    ASSERT(mailbox < CONTROL_MAILBOXES);
    return &control->mailboxes[mailbox];
}
