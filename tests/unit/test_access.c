/* Counting of clients in a table shared by threads, and relay control against the classic tricks.
 */
#include <criterion/criterion.h>

#include <pthread.h>
#include <stdio.h>

#include "core/access.h"
#include "tests/unit/aborts.h"
#include "tests/unit/config_text.h"
#include "tests/unit/guard.h"
#include "tests/unit/seeded.h"

static const uint64_t key[2] = { UINT64_C(0x0123456789abcdef), UINT64_C(0xfedcba9876543210) };

struct ip {
    uint8_t octets[16];
};

static struct ip
ipv4(uint32_t address)
{
    return (struct ip){ { [10] = 0xff,
                          [11] = 0xff,
                          [12] = (uint8_t)(address >> 24),
                          [13] = (uint8_t)(address >> 16),
                          [14] = (uint8_t)(address >> 8),
                          [15] = (uint8_t)address } };
}

static struct ip
ipv6(uint64_t network, uint64_t host)
{
    struct ip ip;

    for (int i = 0; i < 8; i++) {
        ip.octets[i] = (uint8_t)(network >> (56 - 8 * i));
        ip.octets[8 + i] = (uint8_t)(host >> (56 - 8 * i));
    }
    return ip;
}

static struct access
access_open(void)
{
    struct access access;

    cr_assert(access_init(&access, key));
    return access;
}

static void
access_check_empty(const struct access *access)
{
    cr_assert_eq(access->connections, 0);
    for (uint32_t i = 0; i < ACCESS_CLIENT_SLOTS; i++)
        cr_assert_eq(access->clients[i], 0, "slot %u: %#lx", i, (unsigned long)access->clients[i]);
}

/* --- limits --- */

Test(access, limit_per_client)
{
    static const struct {
        const char *name;
        uint32_t per_client, total;
        bool trusted;
        uint32_t want; /* connections of one client that are let in */
        enum access_result then;
    } rows[] = {
        { "one", 1, 100, false, 1, ACCESS_CLIENT_LIMIT },
        { "some", 7, 100, false, 7, ACCESS_CLIENT_LIMIT },
        { "the total comes first", 10, 5, false, 5, ACCESS_TOTAL_LIMIT },
        { "both at once: the total is asked first", 5, 5, false, 5, ACCESS_TOTAL_LIMIT },
        { "trusted", 2, 50, true, 50, ACCESS_TOTAL_LIMIT },
        { "the largest that is counted", 65534, 70000, false, 65534, ACCESS_CLIENT_LIMIT },
        { "beyond what a slot counts", 65535, 70000, false, 70000, ACCESS_TOTAL_LIMIT },
        { "far beyond", 1000000, 70000, false, 70000, ACCESS_TOTAL_LIMIT },
    };
    static uint32_t slots[70001];

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct config_limits limits = { .connections = rows[i].total,
                                        .connections_per_client = rows[i].per_client };
        struct access access = access_open();
        struct ip ip = ipv4(0x0a000001);
        uint32_t n = 0;
        enum access_result result;

        while ((result = access_enter(&access, &limits, ip.octets, rows[i].trusted, &slots[n])) ==
               ACCESS_OK)
            n++;
        cr_assert_eq(n, rows[i].want, "%s: %u", rows[i].name, n);
        cr_assert_eq(result, rows[i].then, "%s", rows[i].name);
        cr_assert_eq(access.connections, n, "%s: the refused one counts", rows[i].name);
        /* One goes, one may come; not two. */
        access_leave(&access, slots[--n]);
        cr_assert_eq(access_enter(&access, &limits, ip.octets, rows[i].trusted, &slots[n]),
                     ACCESS_OK, "%s", rows[i].name);
        n++;
        cr_assert_eq(access_enter(&access, &limits, ip.octets, rows[i].trusted, &slots[n]),
                     rows[i].then, "%s", rows[i].name);
        while (n > 0)
            access_leave(&access, slots[--n]);
        access_check_empty(&access);
        access_destroy(&access);
    }
}

Test(access, who_counts_as_one_client)
{
    const struct {
        const char *name;
        struct ip a, b;
        bool same;
    } rows[] = {
        { "one IPv4 address", ipv4(0x0a000001), ipv4(0x0a000001), true },
        { "two IPv4 addresses", ipv4(0x0a000001), ipv4(0x0a000002), false },
        { "IPv4 that differs in front", ipv4(0x0a000001), ipv4(0x0b000001), false },
        { "one IPv6 address", ipv6(0x20010db800000001, 1), ipv6(0x20010db800000001, 1), true },
        { "one /64", ipv6(0x20010db800000001, 1), ipv6(0x20010db800000001, UINT64_MAX), true },
        { "two /64", ipv6(0x20010db800000001, 1), ipv6(0x20010db800000002, 1), false },
        { "two /64, far apart", ipv6(0x20010db800000001, 1), ipv6(0xfe80000000000000, 1), false },
        { "almost a mapped IPv4 address", ipv6(0, 0xfffe0a000001), ipv6(0, 0xfffe0a000002), true },
        { "IPv4 and the /64 of zeros", ipv4(0x0a000001), ipv6(0, 1), false },
    };
    struct config_limits limits = { .connections = 100, .connections_per_client = 1 };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct access access = access_open();
        uint32_t first, second;

        cr_assert_eq(access_enter(&access, &limits, rows[i].a.octets, false, &first), ACCESS_OK);
        cr_assert_eq(access_enter(&access, &limits, rows[i].b.octets, false, &second),
                     rows[i].same ? ACCESS_CLIENT_LIMIT : ACCESS_OK, "%s", rows[i].name);
        access_leave(&access, first);
        if (!rows[i].same)
            access_leave(&access, second);
        access_check_empty(&access);
        access_destroy(&access);
    }
}

/* --- the table is nearly full --- */

/* Where a client's count stands in an empty table. */
static uint32_t
slot_of(struct access *access, struct ip ip)
{
    struct config_limits limits = { .connections = UINT32_MAX, .connections_per_client = 100 };
    uint32_t slot;

    cr_assert_eq(access_enter(access, &limits, ip.octets, false, &slot), ACCESS_OK);
    cr_assert_lt(slot, ACCESS_CLIENT_SLOTS);
    access_leave(access, slot);
    return slot;
}

/* A client whose first slot is the last of the table, so that its next ones are at the start. */
static struct ip
client_at_the_end(struct access *access)
{
    for (uint32_t i = 0; i < 4000000; i++)
        if (slot_of(access, ipv4(i)) == ACCESS_CLIENT_SLOTS - 1)
            return ipv4(i);
    cr_assert_fail("no address hashes to the last slot");
    return ipv4(0);
}

static void
check_probes(struct access *access, struct ip ip)
{
    struct config_limits limits = { .connections = 1000, .connections_per_client = 1 };
    uint32_t at = slot_of(access, ip), slot, again;

    for (uint32_t taken = 0; taken < 16; taken++) {
        uint32_t want = (at + taken) % ACCESS_CLIENT_SLOTS;

        cr_assert_eq(access_enter(access, &limits, ip.octets, false, &slot), ACCESS_OK);
        cr_assert_eq(slot, want, "%u taken: slot %u, not %u", taken, slot, want);
        /* It stands behind others, which now go: it is found all the same. */
        for (uint32_t i = 0; i < taken; i++)
            access->clients[(at + i) % ACCESS_CLIENT_SLOTS] = 0;
        cr_assert_eq(access_enter(access, &limits, ip.octets, false, &again), ACCESS_CLIENT_LIMIT,
                     "%u taken", taken);
        access_leave(access, slot);
        for (uint32_t i = 0; i <= taken; i++)
            access->clients[(at + i) % ACCESS_CLIENT_SLOTS] = (UINT64_C(99) + i) << 16 | 1;
    }
    /* Full: let in, under nobody's name, as often as the total allows. */
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert_eq(access_enter(access, &limits, ip.octets, false, &slot), ACCESS_OK);
        cr_assert_eq(slot, ACCESS_UNCOUNTED);
    }
    cr_assert_eq(access->connections, 3);
    limits.connections = 3;
    cr_assert_eq(access_enter(access, &limits, ip.octets, false, &slot), ACCESS_TOTAL_LIMIT);
    cr_assert_eq(access->connections, 3);
    for (uint32_t i = 0; i < 3; i++)
        access_leave(access, ACCESS_UNCOUNTED);
    for (uint32_t i = 0; i < 16; i++) {
        cr_assert_eq(access->clients[(at + i) % ACCESS_CLIENT_SLOTS], (UINT64_C(99) + i) << 16 | 1,
                     "somebody else's count changed");
        access->clients[(at + i) % ACCESS_CLIENT_SLOTS] = 0;
    }
    access_check_empty(access);
}

Test(access, sixteen_probes_and_no_more)
{
    struct access access = access_open();

    check_probes(&access, ipv4(0x0a000001));
    check_probes(&access, ipv6(0x20010db800000001, 1));
    check_probes(&access, client_at_the_end(&access));
    access_destroy(&access);
}

/* A key makes other slots: nobody can aim. */
Test(access, the_key_spreads)
{
    struct access a = access_open(), b;
    uint32_t same = 0, seen[64] = { 0 };

    cr_assert(access_init(&b, (const uint64_t[2]){ key[0] + 1, key[1] }));
    for (uint32_t i = 0; i < 6400; i++) {
        uint32_t slot = slot_of(&a, ipv4(0x0a000000 + i));

        same += slot == slot_of(&b, ipv4(0x0a000000 + i));
        seen[slot / (ACCESS_CLIENT_SLOTS / 64)]++;
    }
    cr_assert_leq(same, 10, "%u of 6400 in the same slot under another key", same);
    for (size_t i = 0; i < COUNT_OF(seen); i++)
        cr_assert(seen[i] > 50 && seen[i] < 150, "%u of 100 in part %zu of the table", seen[i], i);
    access_destroy(&a);
    access_destroy(&b);
}

static struct access misused;

static void
leave_twice(void)
{
    struct config_limits limits = { .connections = 10, .connections_per_client = 10 };
    struct ip a = ipv4(1), b = ipv4(2);
    uint32_t slot, other;

    if (access_enter(&misused, &limits, a.octets, false, &slot) == ACCESS_OK &&
        access_enter(&misused, &limits, b.octets, false, &other) == ACCESS_OK) {
        access_leave(&misused, slot);
        access_leave(&misused, slot);
    }
}

static void
leave_without_entering(void)
{
    access_leave(&misused, ACCESS_UNCOUNTED);
}

Test(access, misuse_aborts)
{
    static const struct abort_row rows[] = {
        { "leaving twice", leave_twice },
        { "leaving without entering", leave_without_entering },
    };

    misused = access_open();
    aborts_check(rows, COUNT_OF(rows));
    access_destroy(&misused);
}

/* --- threads --- */

#define THREADS 4
#define ROUNDS 20000
#define HELD_MAX 16
#define CLIENTS 24
#define TOTAL 40

static struct access shared;
static uint32_t inside;

struct visitor {
    uint64_t seed;
    uint32_t entered, refused_total, refused_client, over;
};

static void *
visit(void *argument)
{
    struct visitor *visitor = argument;
    struct config_limits limits = { .connections = TOTAL, .connections_per_client = 3 };
    struct seeded seeded = { visitor->seed };
    uint32_t held[HELD_MAX], count = 0;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        if (count < HELD_MAX && seeded_below(&seeded, 2) == 0) {
            uint64_t client = seeded_below(&seeded, CLIENTS);
            struct ip ip = client % 2 == 0 ? ipv4((uint32_t)client) : ipv6(client, round);

            switch (access_enter(&shared, &limits, ip.octets, client == 0, &held[count])) {
            case ACCESS_OK:
                count++;
                visitor->entered++;
                visitor->over += __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST) > TOTAL;
                break;
            case ACCESS_TOTAL_LIMIT: visitor->refused_total++; break;
            case ACCESS_CLIENT_LIMIT: visitor->refused_client++; break;
            }
        } else if (count > 0) {
            __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
            access_leave(&shared, held[--count]);
        }
    }
    while (count > 0) {
        __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
        access_leave(&shared, held[--count]);
    }
    return NULL;
}

Test(access, threads_end_at_zero)
{
    struct visitor visitors[THREADS];
    pthread_t threads[THREADS];
    uint32_t entered = 0, client = 0;

    shared = access_open();
    for (uint32_t i = 0; i < THREADS; i++) {
        visitors[i] = (struct visitor){ .seed = 77 + i };
        cr_assert_eq(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        cr_assert_eq(pthread_join(threads[i], NULL), 0);
        entered += visitors[i].entered;
        client += visitors[i].refused_client;
        cr_assert_eq(visitors[i].over, 0, "more inside than the total limit");
    }
    cr_assert_gt(entered, THREADS * 100);
    cr_assert_gt(client, 0, "no client met its limit");
    access_check_empty(&shared);
    access_destroy(&shared);
}

/* --- relay control --- */

static struct config *
config_of(const char *text)
{
    static struct config_errors errors;
    struct config *config = config_text_parse(text, &errors);

    cr_assert_not_null(config, "%s", errors.items[0].text);
    return config;
}

/* The classic tests for open relays, each as RCPT has it. */
static const struct {
    const char *path;
    bool want; /* taken from a stranger */
} tricks[] = {
    { "<user@example.com>", true },
    { "<USER@EXAMPLE.COM>", true },
    { "<user+tag@example.com>", true },
    { "<\"user\"@example.com>", true },
    { "<\"first last\"@example.com>", true },
    { "<postmaster>", true },
    { "<PostMaster>", true },
    { "<postmaster@example.com>", true },
    { "<user@a.sub.example.com>", true },
    { "<user@A.B.SUB.example.com>", true },
    { "<@other.example:user@example.com>", true }, /* the route is dropped: it is for us */
    { "<user@other.example>", false },
    { "<postmaster@other.example>", false },
    { "<user%other.example@example.com>", false },
    { "<user%other.example>", false },
    { "<user%other.example%example.com>", false },
    { "<other.example!user@example.com>", false },
    { "<other.example!user>", false },
    { "<\"user@other.example\"@example.com>", false },
    { "<\"user\\@other.example\"@example.com>", false },
    { "<\"user%other.example\"@example.com>", false },
    { "<\"other.example!user\"@example.com>", false },
    { "<\"user@other.example\">", false },
    { "<\"user%other.example\">", false },
    { "<user@other.example@example.com>", false },
    { "<user@example.com@other.example>", false },
    { "<@example.com:user@other.example>", false },
    { "<@example.com,@example.com:user@other.example>", false },
    { "<@example.com:user%other.example@example.com>", false },
    { "<@other.example@example.com:user@other.example>", false },
    { "<user@[127.0.0.1]>", false },
    { "<user@[IPv6:::1]>", false },
    { "<user%other.example@[127.0.0.1]>", false },
    { "<user@127.0.0.1>", false },
    { "<user@localhost>", false },
    { "<user@example.com.>", false },
    { "<user@.example.com>", false },
    { "<user@example.com.other.example>", false },
    { "<user@example.comm>", false },
    { "<user@example.co>", false },
    { "<user@xexample.com>", false },
    { "<user@www.example.com>", false },
    { "<user@sub.example.com>", false }, /* "*.sub" is what is below it */
    { "<user@xsub.example.com>", false },
    { "<user@sub.example.com.other.example>", false },
    { "<user@>", false },
    { "<@example.com>", false },
    { "<user>", false },
    { "<postmaster@>", false },
    { "<postmasterx>", false },
    { "<>", false },
};

Test(access, open_relay_tricks)
{
    struct config *config =
        config_of("accept: { domains: [ example.com, \"*.sub.example.com\", zz.example ] }\n");
    static struct guard guard;

    for (size_t i = 0; i < COUNT_OF(tricks); i++) {
        struct span in = guard_end(&guard, tricks[i].path, strlen(tricks[i].path));
        struct path path;
        size_t consumed;
        bool parsed = path_parse(in, false, &path, &consumed) == ADDRESS_OK;

        cr_assert_eq(parsed && consumed == in.len && access_recipient_local(&config->accept, &path),
                     tricks[i].want, "%s", tricks[i].path);
    }
    guard_close(&guard);
    config_free(config);
}

Test(access, no_domains_and_a_whole_tree)
{
    struct config *tree = config_of("accept: { domains: \"*.example\" }\n");
    struct config *none = config_of("accept: { networks: \"127.0.0.0/8\" }\n");
    struct path plain = { .domain = SPAN("other.example"), .local = SPAN("a") };
    struct path percent = plain, postmaster = { .local = SPAN("postmaster") };

    percent.local_special = true;
    cr_assert(access_recipient_local(&tree->accept, &plain));
    cr_assert_not(access_recipient_local(&tree->accept, &percent));
    cr_assert_not(access_recipient_local(&none->accept, &plain));
    cr_assert(access_recipient_local(&none->accept, &postmaster));
    config_free(tree);
    config_free(none);
}

Test(access, a_network_of_everybody)
{
    struct config_network all = { .prefix = 0 };
    struct config_accept accept = { .networks = &all };

    cr_assert_not(access_network_trusted(&accept, ipv4(1).octets), "there are none");
    accept.network_count = 1;
    cr_assert(access_network_trusted(&accept, ipv4(1).octets));
    cr_assert(access_network_trusted(&accept, ipv6(UINT64_MAX, UINT64_MAX).octets));
}

Test(access, networks)
{
    const struct {
        const char *networks;
        struct ip ip;
        bool want;
    } rows[] = {
        { "\"127.0.0.0/8\"", ipv4(0x7f000001), true },
        { "\"127.0.0.0/8\"", ipv4(0x7fffffff), true },
        { "\"127.0.0.0/8\"", ipv4(0x80000000), false },
        { "\"127.0.0.0/8\"", ipv4(0x7effffff), false },
        { "\"127.0.0.0/8\"", ipv6(0, 1), false },
        { "\"10.1.2.3/32\"", ipv4(0x0a010203), true },
        { "\"10.1.2.3/32\"", ipv4(0x0a010202), false },
        { "\"10.1.2.128/25\"", ipv4(0x0a010280), true },
        { "\"10.1.2.128/25\"", ipv4(0x0a01027f), false },
        { "\"172.16.0.0/12\"", ipv4(0xac1fffff), true },
        { "\"172.16.0.0/12\"", ipv4(0xac200000), false },
        { "\"::1/128\"", ipv6(0, 1), true },
        { "\"::1/128\"", ipv6(0, 2), false },
        { "\"2001:db8::/33\"", ipv6(0x20010db87fffffff, 5), true },
        { "\"2001:db8::/33\"", ipv6(0x20010db880000000, 5), false },
        { "[ \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.1\" ]", ipv4(0xc0000201), true },
        { "[ \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.1\" ]", ipv4(0xc0000202), false },
        { "[ \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.1\" ]", ipv6(0xfd12000000000000, 0), true },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char text[256];
        struct config *config;

        snprintf(text, sizeof(text), "accept: { domains: a.example, networks: %s }\n",
                 rows[i].networks);
        config = config_of(text);
        cr_assert_eq(access_network_trusted(&config->accept, rows[i].ip.octets), rows[i].want,
                     "row %zu: %s", i, rows[i].networks);
        config_free(config);
    }
}
