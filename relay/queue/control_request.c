/* What is asked of a queue, as the path and query of an HTTP request: read strictly, since whoever
 * asks for something that is not understood must not have something else done. */
#include "relay/queue/control.h"

static const char *const action_names[CONTROL_ACTIONS] = {
    [CONTROL_LIST] = "list",   [CONTROL_HOLD] = "hold",     [CONTROL_RELEASE] = "release",
    [CONTROL_RETRY] = "retry", [CONTROL_REMOVE] = "remove",
};

_Static_assert(QUEUE_STATES <= 32, "states are bits of a word");

const char *
control_action_name(enum control_action action)
{
    ASSERT(action < CONTROL_ACTIONS);
    return action_names[action];
}

bool
control_state_read(struct span name, enum queue_state *state)
{
    for (int i = 0; i < QUEUE_STATES; i++) {
        if (!span_equal(name, span_text(queue_state_name((enum queue_state)i))))
            continue;
        *state = (enum queue_state)i;
        return true;
    }
    return false;
}

bool
control_id_read(struct span text, char id[16])
{
    if (text.len == 0 || text.len > 15)
        return false;
    for (size_t i = 0; i < text.len; i++)
        if (!char_is_letter(text.data[i]) && !char_is_digit(text.data[i]))
            return false;
    memset(id, 0, 16);
    memcpy(id, text.data, text.len);
    return true;
}

/* --- reading --- */

static bool
read_number(struct span text, uint64_t most, uint64_t *number)
{
    return span_take_number(&text, number) && text.len == 0 && *number <= most;
}

static bool
read_number32(struct span text, uint32_t *number)
{
    uint64_t wide;

    if (!read_number(text, UINT32_MAX - 1, &wide))
        return false;
    *number = (uint32_t)wide;
    return true;
}

/* A name as the configuration has them; what it means is looked up later. */
static bool
read_hop(struct span text, struct control_request *out)
{
    if (out->hop_given || text.len == 0 || text.len >= CONTROL_NAME_BYTES)
        return false;
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.data[i] <= ' ' || (unsigned char)text.data[i] > '~')
            return false;
    memcpy(out->hop, text.data, text.len);
    out->hop[text.len] = '\0';
    out->hop_given = true;
    return true;
}

/* ID or ID@INDEX. */
static bool
read_target(struct span text, struct control_request *out)
{
    struct control_target *target = &out->targets[out->target_count];
    size_t id = 0;

    if (out->target_count == CONTROL_TARGETS_MAX)
        return false;
    while (id < text.len && text.data[id] != '@')
        id++;
    *target = (struct control_target){ .index = QUEUE_NONE };
    if (!control_id_read(span_first(text, id), target->id) ||
        (id < text.len && !read_number32(span_after(text, id + 1), &target->index)))
        return false;
    out->target_count++;
    return true;
}

static bool
read_action(struct span text, struct control_request *out)
{
    for (int i = 0; i < CONTROL_ACTIONS; i++) {
        if (!span_equal(text, span_text(action_names[i])))
            continue;
        out->action = (enum control_action)i;
        return i != CONTROL_LIST;
    }
    return false;
}

static const char *
read_parameter(struct span key, struct span value, struct control_request *out)
{
    enum queue_state state;

    if (span_equal(key, SPAN("worker")))
        return read_number32(value, &out->worker) ? NULL : "worker is not a number";
    if (span_equal(key, SPAN("from")))
        return read_number32(value, &out->from) ? NULL : "from is not a number";
    if (span_equal(key, SPAN("age")))
        return read_number(value, UINT32_MAX, &out->age_min_s) ? NULL
                                                               : "age is not a number of seconds";
    if (span_equal(key, SPAN("hop")))
        return read_hop(value, out) ? NULL : "hop is not one name";
    if (span_equal(key, SPAN("id")))
        return read_target(value, out) ? NULL : "id is not a queue id, or there are too many";
    if (span_equal(key, SPAN("do")))
        return read_action(value, out) ? NULL : "do is none of hold, release, retry, remove";
    if (span_equal(key, SPAN("all"))) {
        out->all = span_equal(value, SPAN("1"));
        return out->all ? NULL : "all is not 1";
    }
    if (!span_equal(key, SPAN("state")))
        return "there is a parameter that is not known";
    if (!control_state_read(value, &state))
        return "state is not a state of a queue";
    out->states |= 1u << state;
    return NULL;
}

static const char *
read_query(struct span query, struct control_request *out)
{
    while (query.len > 0) {
        size_t end = 0, key;
        struct span parameter;
        const char *wrong;

        while (end < query.len && query.data[end] != '&')
            end++;
        parameter = span_first(query, end);
        span_advance(&query, end < query.len ? end + 1 : end);
        for (key = 0; key < parameter.len && parameter.data[key] != '=';)
            key++;
        if (key == parameter.len)
            return "there is a parameter without a value";
        wrong = read_parameter(span_first(parameter, key), span_after(parameter, key + 1), out);
        if (wrong != NULL)
            return wrong;
    }
    return NULL;
}

static bool
is_limited(const struct control_request *request)
{
    return request->hop_given || request->states != 0 || request->age_min_s != 0 ||
           request->target_count > 0;
}

const char *
control_request_read(const struct http_request *http, struct control_request *out, unsigned *status)
{
    bool list = span_equal(http->path, SPAN("/queue/list"));
    const char *wrong;

    *out = (struct control_request){ .action = CONTROL_LIST, .hop_index = UINT32_MAX };
    *status = 404;
    if (!list && !span_equal(http->path, SPAN("/queue/act")))
        return "not found; there are /queue/list and /queue/act";
    *status = 400;
    /* What changes something is never done by a GET (RFC 9110 9.2.1). */
    if (http->method != (list ? HTTP_GET : HTTP_POST))
        return list ? "/queue/list wants GET" : "/queue/act wants POST";
    wrong = read_query(http->query, out);
    if (wrong != NULL)
        return wrong;
    if (list != (out->action == CONTROL_LIST))
        return list ? "/queue/list does nothing" : "/queue/act wants do=";
    if (!list && !is_limited(out) && !out->all)
        return "an action on all messages wants all=1";
    *status = 200;
    return NULL;
}

/* --- writing --- */

static void
write_number(struct outbuf *out, struct span key, uint64_t number)
{
    outbuf_add(out, key);
    outbuf_add_number(out, number);
}

void
control_request_write(const struct control_request *request, struct outbuf *out)
{
    bool list = request->action == CONTROL_LIST;

    ASSERT(outbuf_room(out) >= HTTP_REQUEST_BYTES_MAX);
    ASSERT(request->target_count <= CONTROL_TARGETS_MAX);
    outbuf_add(out, list ? SPAN("GET /queue/list") : SPAN("POST /queue/act"));
    write_number(out, SPAN("?worker="), request->worker);
    if (!list) {
        outbuf_add(out, SPAN("&do="));
        outbuf_add(out, span_text(control_action_name(request->action)));
    }
    if (request->from != 0)
        write_number(out, SPAN("&from="), request->from);
    if (request->age_min_s != 0)
        write_number(out, SPAN("&age="), request->age_min_s);
    if (request->all)
        outbuf_add(out, SPAN("&all=1"));
    for (int i = 0; i < QUEUE_STATES; i++) {
        if ((request->states & 1u << i) == 0)
            continue;
        outbuf_add(out, SPAN("&state="));
        outbuf_add(out, span_text(queue_state_name((enum queue_state)i)));
    }
    if (request->hop_given) {
        outbuf_add(out, SPAN("&hop="));
        outbuf_add(out, span_text(request->hop));
    }
    for (uint32_t i = 0; i < request->target_count; i++) {
        outbuf_add(out, SPAN("&id="));
        outbuf_add(out, span_text(request->targets[i].id));
        if (request->targets[i].index != QUEUE_NONE)
            write_number(out, SPAN("@"), request->targets[i].index);
    }
    outbuf_add(out, SPAN(" HTTP/1.1\r\nHost: ringpost\r\nConnection: close\r\n"));
    if (!list)
        outbuf_add(out, SPAN("Content-Length: 0\r\n"));
    outbuf_add(out, SPAN("\r\n"));
}
