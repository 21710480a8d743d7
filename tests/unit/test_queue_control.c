/* What is asked of a queue, and what it answers, as text; and which entries a request is about. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "relay/queue/control_server.h"
#include "relay/worker.h"
#include "tests/unit/config_text.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

/* --- requests --- */

static const struct request_row {
    const char *name, *line; /* the request line, but for its version */
    unsigned status;
    struct control_request want;
} request_rows[] = {
    { "everything", "GET /queue/list", 200, { 0 } },
    { "a page", "GET /queue/list?worker=3&from=512", 200, { .worker = 3, .from = 512 } },
    { "an empty query", "GET /queue/list?", 200, { 0 } },
    { "filters",
      "GET /queue/list?hop=internal&state=held&state=ready&age=600",
      200,
      { .hop_given = true,
        .hop = "internal",
        .states = 1u << QUEUE_HELD | 1u << QUEUE_READY,
        .age_min_s = 600 } },
    { "no route", "GET /queue/list?hop=.", 200, { .hop_given = true, .hop = "." } },
    { "ids",
      "GET /queue/list?id=0ABC&id=123456789012345@17",
      200,
      { .target_count = 2, .targets = { { "0ABC", QUEUE_NONE }, { "123456789012345", 17 } } } },
    { "hold",
      "POST /queue/act?do=hold&id=0A",
      200,
      { .action = CONTROL_HOLD, .target_count = 1, .targets = { { "0A", QUEUE_NONE } } } },
    { "release all",
      "POST /queue/act?do=release&all=1",
      200,
      { .action = CONTROL_RELEASE, .all = true } },
    { "retry of a next hop",
      "POST /queue/act?do=retry&hop=a",
      200,
      { .action = CONTROL_RETRY, .hop_given = true, .hop = "a" } },
    { "remove what is old",
      "POST /queue/act?do=remove&age=1",
      200,
      { .action = CONTROL_REMOVE, .age_min_s = 1 } },
    { "remove what nobody limited", "POST /queue/act?do=remove", 400, { 0 } },
    { "age 0 limits nothing", "POST /queue/act?do=remove&age=0", 400, { 0 } },
    { "all=0", "POST /queue/act?do=remove&all=0", 400, { 0 } },
    { "a path that is none", "GET /queue/", 404, { 0 } },
    { "a longer path", "GET /queue/lists", 404, { 0 } },
    { "the statistics", "GET /metrics", 404, { 0 } },
    { "an action by GET", "GET /queue/act?do=remove&all=1", 400, { 0 } },
    { "a list by POST", "POST /queue/list", 400, { 0 } },
    { "a list by HEAD", "HEAD /queue/list", 400, { 0 } },
    { "a list that does something", "GET /queue/list?do=hold", 400, { 0 } },
    { "an action that does nothing", "POST /queue/act?all=1", 400, { 0 } },
    { "do=list", "POST /queue/act?do=list&all=1", 400, { 0 } },
    { "an action that is none", "POST /queue/act?do=removed&all=1", 400, { 0 } },
    { "an unknown parameter", "GET /queue/list?workers=1", 400, { 0 } },
    { "a parameter without a value", "GET /queue/list?worker", 400, { 0 } },
    { "two ampersands", "GET /queue/list?worker=1&&from=1", 400, { 0 } },
    { "a negative worker", "GET /queue/list?worker=-1", 400, { 0 } },
    { "an empty number", "GET /queue/list?from=", 400, { 0 } },
    { "a number and more", "GET /queue/list?from=1x", 400, { 0 } },
    { "a number that is too large", "GET /queue/list?from=4294967295", 400, { 0 } },
    { "an age that is too large", "GET /queue/list?age=4294967296", 400, { 0 } },
    { "a state that is none", "GET /queue/list?state=frozen", 400, { 0 } },
    { "two next hops", "GET /queue/list?hop=a&hop=b", 400, { 0 } },
    { "an empty next hop", "GET /queue/list?hop=", 400, { 0 } },
    { "a long next hop",
      "GET /queue/list?hop=01234567890123456789012345678901234567890123456789012345678901234",
      400,
      { 0 } },
    { "an empty id", "GET /queue/list?id=", 400, { 0 } },
    { "an id of 16", "GET /queue/list?id=0123456789012345", 400, { 0 } },
    { "an id with a dot", "GET /queue/list?id=../../a", 400, { 0 } },
    { "a place without an id", "GET /queue/list?id=@1", 400, { 0 } },
    { "a place that is none", "GET /queue/list?id=A@", 400, { 0 } },
    { "two places", "GET /queue/list?id=A@1@2", 400, { 0 } },
};

static unsigned
request_read(const char *line, struct control_request *out)
{
    char head[HTTP_REQUEST_BYTES_MAX];
    struct http_request http;
    unsigned status;
    const char *wrong;
    int len = snprintf(head, sizeof(head), "%s HTTP/1.1\r\nHost: a\r\n\r\n", line);

    cr_assert(len > 0 && len < (int)sizeof(head));
    cr_assert_eq(http_request_parse(span_of(head, (size_t)len), &http), HTTP_COMPLETE, "%s", line);
    wrong = control_request_read(&http, out, &status);
    cr_assert_eq(wrong == NULL, status == 200, "%s: %u %s", line, status, wrong);
    return status;
}

static bool
request_equal(const struct control_request *a, const struct control_request *b)
{
    bool targets = a->target_count == b->target_count;

    for (uint32_t i = 0; targets && i < a->target_count; i++)
        targets = a->targets[i].index == b->targets[i].index &&
                  memcmp(a->targets[i].id, b->targets[i].id, 16) == 0;
    return targets && a->action == b->action && a->worker == b->worker && a->from == b->from &&
           a->states == b->states && a->age_min_s == b->age_min_s && a->all == b->all &&
           a->hop_given == b->hop_given && strcmp(a->hop, b->hop) == 0;
}

Test(queue_control, requests)
{
    for (size_t i = 0; i < COUNT_OF(request_rows); i++) {
        const struct request_row *row = &request_rows[i];
        struct control_request request;
        unsigned status = request_read(row->line, &request);

        cr_assert_eq(status, row->status, "%s: %u", row->name, status);
        cr_assert(status != 200 || request_equal(&request, &row->want), "%s", row->name);
    }
}

/* Whatever is asked for is understood as that, and the largest fits the server's bounds. */
Test(queue_control, requests_as_they_are_written)
{
    struct seeded seeded = { 1 };

    for (unsigned round = 0; round < 400; round++) {
        struct control_request request = { .action = seeded_below(&seeded, CONTROL_ACTIONS),
                                           .worker = (uint32_t)seeded_scale(&seeded, 31),
                                           .from = (uint32_t)seeded_scale(&seeded, 31),
                                           .states = (uint32_t)seeded_below(&seeded, 32),
                                           .age_min_s = seeded_scale(&seeded, 32),
                                           .all = true,
                                           .hop_given = round % 2 };
        char text[HTTP_REQUEST_BYTES_MAX];
        struct outbuf out = { .data = text, .size = sizeof(text) };
        struct control_request read;
        struct http_request http;
        unsigned status;

        if (request.hop_given)
            memset(request.hop, 'a', CONTROL_NAME_BYTES - 1);
        request.target_count = round == 0
                                   ? CONTROL_TARGETS_MAX
                                   : (uint32_t)seeded_below(&seeded, CONTROL_TARGETS_MAX + 1);
        if (round == 0)
            request = (struct control_request){ .action = CONTROL_RELEASE,
                                                .worker = UINT32_MAX - 1,
                                                .from = UINT32_MAX - 1,
                                                .states = 31,
                                                .age_min_s = UINT32_MAX,
                                                .all = true,
                                                .target_count = CONTROL_TARGETS_MAX };
        for (uint32_t i = 0; i < request.target_count; i++) {
            struct control_target *target = &request.targets[i];

            memset(target->id, 'A' + (int)seeded_below(&seeded, 26),
                   round == 0 ? 15 : 1 + seeded_below(&seeded, 15));
            target->index = round == 0                 ? 16777215
                            : seeded_below(&seeded, 2) ? QUEUE_NONE
                                                       : (uint32_t)seeded_below(&seeded, 16777216);
        }
        control_request_write(&request, &out);
        cr_assert_lt(out.len, HTTP_REQUEST_BYTES_MAX);
        cr_assert_eq(http_request_parse(outbuf_span(&out), &http), HTTP_COMPLETE);
        cr_assert_null(control_request_read(&http, &read, &status));
        cr_assert(request_equal(&request, &read), "%.*s", (int)out.len, text);
    }
}

/* --- pages --- */

static const char *const hop_names[] = { "internal", "other", CONTROL_NO_ROUTE };

static const char *
hop_name(const void *context, uint32_t hop)
{
    (void)context;
    return hop_names[hop];
}

static uint16_t
hop_index(void *context, struct span name)
{
    (void)context;
    for (uint16_t i = 0; i < COUNT_OF(hop_names); i++)
        if (span_equal(name, span_text(hop_names[i])))
            return i;
    return UINT16_MAX;
}

static void
page_fill(struct control_page *page, uint32_t count, struct seeded *seeded)
{
    *page = (struct control_page){ .worker = 1,
                                   .workers = 2,
                                   .next = QUEUE_NONE,
                                   .now_s = 1700000000,
                                   .recovered = count % 2,
                                   .segments = 5,
                                   .segments_done = 4,
                                   .count = count };
    for (uint32_t i = 0; i < count; i++) {
        struct control_item *item = &page->items[i];

        *item = (struct control_item){ .size = seeded_scale(seeded, 63),
                                       .offset = seeded_scale(seeded, 63),
                                       .segment = UINT64_MAX - i,
                                       .index = (uint32_t)seeded_next(seeded),
                                       .arrival_s = (uint32_t)seeded_next(seeded),
                                       .due_s = UINT32_MAX,
                                       .slot = (uint32_t)seeded_next(seeded),
                                       .recipients = i,
                                       .record_recipients = UINT32_MAX,
                                       .hop = (uint16_t)(i % 3),
                                       .state = (uint8_t)(i % QUEUE_STATES),
                                       .attempts = UINT8_MAX,
                                       .flags = (uint8_t)i,
                                       .outcome = (uint8_t)(i % CONTROL_OUTCOMES) };
        memset(item->id, 'Z', 1 + i % 15);
        memset(item->reason, "x \xc3\xa4"[i % 4], i % CONTROL_REASON_BYTES);
    }
}

static struct control_page page, page_read;
static char page_text[CONTROL_PAGE_BYTES_MAX];

Test(queue_control, pages)
{
    static const uint32_t counts[] = { 0, 1, 2, 17, CONTROL_ITEMS_MAX };
    struct seeded seeded = { 2 };

    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        struct outbuf out = { .data = page_text, .size = sizeof(page_text) };

        page_fill(&page, counts[i], &seeded);
        control_page_write(&page, hop_name, NULL, &out);
        memset(&page_read, 0x5a, sizeof(page_read));
        cr_assert(control_page_read(outbuf_span(&out), &page_read, hop_index, NULL));
        cr_assert_eq(page_read.worker, 1);
        cr_assert_eq(page_read.workers, 2);
        cr_assert_eq(page_read.next, QUEUE_NONE);
        cr_assert_eq(page_read.now_s, 1700000000);
        cr_assert_eq(page_read.recovered, page.recovered);
        cr_assert_eq(page_read.segments, 5);
        cr_assert_eq(page_read.segments_done, 4);
        cr_assert_eq(page_read.count, counts[i]);
        for (uint32_t k = 0; k < counts[i]; k++) {
            const struct control_item *a = &page.items[k], *b = &page_read.items[k];

            cr_assert_eq(memcmp(a->id, b->id, 16), 0);
            cr_assert_str_eq(a->reason, b->reason);
            cr_assert(a->size == b->size && a->offset == b->offset && a->segment == b->segment &&
                          a->index == b->index && a->arrival_s == b->arrival_s &&
                          a->due_s == b->due_s && a->slot == b->slot &&
                          a->recipients == b->recipients &&
                          a->record_recipients == b->record_recipients && a->hop == b->hop &&
                          a->state == b->state && a->attempts == b->attempts &&
                          a->flags == b->flags && a->outcome == b->outcome,
                      "%u", k);
        }
    }
}

/* A page that was cut off, or is none, is not taken for one; nothing beyond it is read. */
Test(queue_control, pages_that_are_none)
{
    static const char *const rows[] = {
        "",
        "\n",
        "ringpost-queue-2 0 1 4294967295 1 1 0 0 0\n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0\n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 0 1\n",
        "ringpost-queue-1 1 1 4294967295 1 1 0 0 0\n",
        "ringpost-queue-1 0 1 4294967296 1 1 0 0 0\n",
        "ringpost-queue-1 0 1 4294967295 1 2 0 0 0\n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 513\n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 0\nmore\n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA frozen other 0 0 0 0 0 0 0 0 0 0 0 0 \n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA held nobody 0 0 0 0 0 0 0 0 0 0 0 0 \n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA.B held other 0 0 0 0 0 0 0 0 0 0 0 0 \n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA held other 0 0 0 0 0 0 256 0 0 0 0 0 \n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA held other 0 0 0 0 0 0 0 0 0 0 0 6 \n",
        "ringpost-queue-1 0 1 4294967295 1 1 0 0 1\nA held other 0 0 0 0 0 0 0 0 0 0 0\n",
    };
    static struct guard guard;
    struct seeded seeded = { 3 };
    struct outbuf out = { .data = page_text, .size = sizeof(page_text) };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_assert_not(control_page_read(guard_end(&guard, rows[i], strlen(rows[i])), &page_read,
                                        hop_index, NULL),
                      "%s", rows[i]);
    page_fill(&page, 9, &seeded);
    control_page_write(&page, hop_name, NULL, &out);
    for (size_t len = 0; len < out.len; len++)
        cr_assert_not(
            control_page_read(guard_end(&guard, page_text, len), &page_read, hop_index, NULL),
            "%zu", len);
    cr_assert(
        control_page_read(guard_end(&guard, page_text, out.len), &page_read, hop_index, NULL));
}

/* --- which entries --- */

Test(queue_control, entries_that_match)
{
    static const struct {
        const char *name;
        struct control_request request;
        struct queue_entry entry;
        bool want;
    } rows[] = {
        { "anything", { 0 }, { .state = QUEUE_ACTIVE, .hop = 7 }, true },
        { "a state", { .states = 1u << QUEUE_HELD }, { .state = QUEUE_HELD }, true },
        { "another state", { .states = 1u << QUEUE_HELD }, { .state = QUEUE_READY }, false },
        { "one of two states",
          { .states = 1u << QUEUE_HELD | 1u << QUEUE_PARKED },
          { .state = QUEUE_PARKED },
          true },
        { "a next hop", { .hop_given = true, .hop_index = 2 }, { .hop = 2 }, true },
        { "another next hop", { .hop_given = true, .hop_index = 2 }, { .hop = 1 }, false },
        { "the first next hop", { .hop_given = true }, { .hop = 1 }, false },
        { "just old enough", { .age_min_s = 100 }, { .arrival_s = 900 }, true },
        { "too young", { .age_min_s = 100 }, { .arrival_s = 901 }, false },
        { "from the future", { .age_min_s = 1 }, { .arrival_s = 2000 }, false },
        { "from the future, any age", { 0 }, { .arrival_s = 2000 }, true },
        { "all but one",
          { .states = 1u << QUEUE_HELD, .hop_given = true, .hop_index = 1, .age_min_s = 10 },
          { .state = QUEUE_HELD, .hop = 1, .arrival_s = 991 },
          false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++)
        cr_assert_eq(control_matches(&rows[i].request, &rows[i].entry, 1000), rows[i].want, "%s",
                     rows[i].name);
}

/* --- the server's end --- */

Test(queue_control, requests_that_no_worker_sees)
{
    static const struct {
        const char *path, *query, *text;
        unsigned status;
    } rows[] = {
        { "/queue/list", "worker=1", "no such worker", 404 },
        { "/queue/list", "hop=nobody", "no next hop", 404 },
        { "/queue/list", "what=1", "not known", 400 },
        { "/queue/all", "", "/queue/list", 404 },
    };
    struct config_errors errors;
    struct relay relay = { .worker_count = 1, .spool = { .directory = 77 } };
    struct control *control;
    struct config *config = config_text_parse("spool: { directory: spool }\n", &errors);
    char path[CONTROL_PATH_BYTES], deep[300];
    struct config_address address;

    cr_assert_not_null(config);
    relay.config = config;
    control = control_create(&relay);
    cr_assert_not_null(control);
    cr_assert_str_eq(control_address(control)->path, "/etc/ringpost/spool/control.sock");
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct http_request request = { .method = HTTP_GET,
                                        .path = span_text(rows[i].path),
                                        .query = span_text(rows[i].query) };
        struct span text = { 0 };
        unsigned status = control_ask(control, 0, &request, NULL, (struct io_ticket){ 0 }, &text);

        cr_assert_eq(status, rows[i].status, "%s: %u", rows[i].query, status);
        cr_assert_not_null(memmem(text.data, text.len, rows[i].text, strlen(rows[i].text)), "%s",
                           rows[i].query);
    }
    control_destroy(control);
    config_free(config);
    /* A socket's address is short, directories need not be. */
    memset(deep, 'd', sizeof(deep));
    deep[0] = '/';
    deep[CONTROL_PATH_BYTES - sizeof("/" CONTROL_SOCKET_NAME)] = '\0';
    control_address_set(deep, 77, path, &address);
    cr_assert_eq(strlen(address.path), CONTROL_PATH_BYTES - 1);
    cr_assert_eq(strncmp(path, "/ddd", 4), 0);
    deep[CONTROL_PATH_BYTES - sizeof("/" CONTROL_SOCKET_NAME)] = 'd';
    deep[sizeof(deep) - 1] = '\0';
    control_address_set(deep, 77, path, &address);
    cr_assert_str_eq(address.path, "/proc/self/fd/77/control.sock");
}
