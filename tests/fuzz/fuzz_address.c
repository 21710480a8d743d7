/* A client may say anything after "MAIL FROM:". Oracles: what passes holds no octet that could
 * harm whoever it is handed on to, reads the same again, and the system's own reader of addresses
 * agrees on literals. */
#include <arpa/inet.h>
#include <stdint.h>

#include "core/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void
no_control_character(struct span s)
{
    for (size_t i = 0; i < s.len; i++)
        ASSERT((unsigned char)s.data[i] >= ' ' && s.data[i] != 0x7F);
    ASSERT(utf8_printable(s));
}

static void
path_check(struct span in, const struct path *path, size_t consumed)
{
    ASSERT(consumed >= 2 && consumed <= in.len);
    ASSERT(in.data[0] == '<' && in.data[consumed - 1] == '>');
    no_control_character(span_first(in, consumed));
    ASSERT(path->local.len <= LOCAL_PART_BYTES_MAX);
    ASSERT(path->domain.len <= DOMAIN_BYTES_MAX);
    ASSERT(path->null == (path->mailbox.len == 0));
    ASSERT(!path->literal || path->domain.data[path->domain.len - 1] == ']');
    for (size_t i = 0; i < path->domain.len; i++)
        ASSERT(memchr(" <>(),;@\\\"", path->domain.data[i], 10) == NULL || path->literal);
    if (path->source_route)
        ASSERT(path->mailbox.data > in.data + 3);
    else
        ASSERT(path->mailbox.data == in.data + 1);
}

/* Without its source route the path must read as the same mailbox: that is what a next hop is
 * told. */
static void
path_read_again(const struct path *path)
{
    char bytes[MAILBOX_BYTES_MAX + 2];
    struct outbuf text = { .data = bytes, .size = sizeof(bytes) };
    struct path again;
    size_t consumed;

    outbuf_add_char(&text, '<');
    outbuf_add(&text, path->mailbox);
    outbuf_add_char(&text, '>');
    ASSERT(path_parse(outbuf_span(&text), true, &again, &consumed) == ADDRESS_OK);
    ASSERT(consumed == text.len);
    ASSERT(span_equal(path->mailbox, again.mailbox));
    ASSERT(span_equal(path->local, again.local));
    ASSERT(span_equal(path->domain, again.domain));
    ASSERT(path->quoted == again.quoted && path->literal == again.literal);
    ASSERT(path->local_special == again.local_special && path->null == again.null);
    ASSERT(!again.source_route && (path->utf8 || !again.utf8));
}

static void
paths_check(struct span in)
{
    struct path path, strict;
    size_t consumed, strict_consumed;

    enum address_result result = path_parse(in, true, &path, &consumed);
    enum address_result strict_result = path_parse(in, false, &strict, &strict_consumed);
    if (result != ADDRESS_OK) {
        ASSERT(strict_result == result && consumed == 0);
        return;
    }
    ASSERT((strict_result == ADDRESS_OK) == !path.null);
    path_check(in, &path, consumed);
    path_read_again(&path);
    struct path shortest;
    ASSERT(path_parse(span_first(in, consumed), true, &shortest, &strict_consumed) == ADDRESS_OK);
    ASSERT(strict_consumed == consumed);
    ASSERT(path_parse(span_first(in, consumed - 1), true, &shortest, &strict_consumed) !=
           ADDRESS_OK);
}

static bool
whole_path(struct span in)
{
    struct path path;
    size_t consumed;

    return path_parse(in, false, &path, &consumed) == ADDRESS_OK && consumed == in.len;
}

static void
literal_check(struct span in)
{
    char bytes[128], text[64];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    unsigned char address[16];

    if (in.len >= sizeof(text) || memchr(in.data, 0, in.len) != NULL)
        return;
    memcpy(text, in.data, in.len);
    text[in.len] = '\0';
    outbuf_add(&out, SPAN("<a@[IPv6:"));
    outbuf_add(&out, in);
    outbuf_add(&out, SPAN("]>"));
    ASSERT(whole_path(outbuf_span(&out)) == (inet_pton(AF_INET6, text, address) == 1));
    if (memchr(in.data, ':', in.len) != NULL)
        return;
    out.len = 0;
    outbuf_add(&out, SPAN("<a@["));
    outbuf_add(&out, in);
    outbuf_add(&out, SPAN("]>"));
    ASSERT(whole_path(outbuf_span(&out)) == (inet_pton(AF_INET, text, address) == 1));
}

static void
keyword_add(struct outbuf *out, const char *keyword, struct span value)
{
    if (value.len == 0)
        return;
    outbuf_add(out, span_text(keyword));
    outbuf_add(out, value);
}

static void
mail_parameters_check(struct span in)
{
    static char bytes[1 << 16];
    struct outbuf out = { .data = bytes, .size = sizeof(bytes) };
    struct mail_parameters read, again;
    size_t decoded_len;

    if (mail_parameters_parse(in, &read) != PARAMETER_OK)
        return;
    no_control_character(in);
    ASSERT(read.size <= INT64_MAX);
    ASSERT(xtext_valid(read.auth, NULL));
    ASSERT(xtext_valid(read.envid, &decoded_len) && decoded_len <= ENVID_BYTES_MAX);
    outbuf_add(&out, SPAN(" SIZE="));
    outbuf_add_number(&out, read.size);
    keyword_add(&out, " ENVID=", read.envid);
    keyword_add(&out, " AUTH=", read.auth);
    if (read.smtputf8)
        outbuf_add(&out, SPAN(" SMTPUTF8"));
    if (read.body != BODY_TYPE_NONE)
        outbuf_add(&out, read.body == BODY_TYPE_7BIT ? SPAN(" BODY=7BIT") : SPAN(" BODY=8BITMIME"));
    if (read.dsn_return != DSN_RETURN_NONE)
        outbuf_add(&out,
                   read.dsn_return == DSN_RETURN_FULL ? SPAN(" RET=FULL") : SPAN(" RET=HDRS"));
    ASSERT(mail_parameters_parse(outbuf_span(&out), &again) == PARAMETER_OK);
    ASSERT(read.size == again.size && read.body == again.body && read.smtputf8 == again.smtputf8);
    ASSERT(read.dsn_return == again.dsn_return);
    ASSERT(span_equal(read.envid, again.envid) && span_equal(read.auth, again.auth));
}

static void
rcpt_parameters_check(struct span in)
{
    struct rcpt_parameters read;

    if (rcpt_parameters_parse(in, &read) != PARAMETER_OK)
        return;
    no_control_character(in);
    ASSERT(read.orcpt.len <= ORCPT_BYTES_MAX);
    ASSERT(read.notify == DSN_NOTIFY_NEVER || (read.notify & DSN_NOTIFY_NEVER) == 0);
    ASSERT(read.orcpt.len == 0 || memchr(read.orcpt.data, ';', read.orcpt.len) != NULL);
    if (read.orcpt.len > 0 && !read.utf8) {
        const char *semicolon = memchr(read.orcpt.data, ';', read.orcpt.len);
        size_t type_len = (size_t)(semicolon - read.orcpt.data);
        ASSERT(type_len > 0);
        ASSERT(xtext_valid(span_after(read.orcpt, type_len + 1), NULL));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct span in = span_of(data, len);
    struct path path;
    size_t consumed;

    if (len > COMMAND_LINE_BYTES_MAX)
        return -1;
    paths_check(in);
    if (len > 0)
        literal_check(in);
    if (path_parse(in, true, &path, &consumed) != ADDRESS_OK)
        consumed = 0;
    mail_parameters_check(span_after(in, consumed));
    rcpt_parameters_check(span_after(in, consumed));
    if (helo_name_valid(in)) {
        no_control_character(in);
        ASSERT(len <= DOMAIN_BYTES_MAX);
    }
    size_t characters = 0;
    struct span rest = in;
    for (size_t n; (n = utf8_character_len(rest)) > 0; characters++)
        span_advance(&rest, n);
    ASSERT(utf8_valid(in) == (rest.len == 0));
    ASSERT(characters <= len);
    return 0;
}
