/* core/acceptor.h: what keeps an accept armed, what pauses it, and its end. */
#include <criterion/criterion.h>

#include <errno.h>

#include "core/acceptor.h"
#include "tests/unit/io_world.h"

#define START_NS (100 * SECOND_NS)
#define KIND 7

struct world {
    struct io *io;
    struct timers timers;
    struct acceptor acceptor;
    int listener;
};

static void
world_open(struct world *world)
{
    struct config_address address;

    world->io = io_open(64, 0);
    world->listener = listener_open(false, &address);
    timers_init(&world->timers, START_NS);
    acceptor_init(&world->acceptor, world->io, &world->timers,
                  (struct io_ticket){ .slot = 3, .kind = KIND }, world->listener);
}

static void
world_shut(struct world *world)
{
    close(world->listener);
    io_shut(world->io);
}

Test(acceptor, goes_on_after_each_result)
{
    static const struct {
        const char *name;
        int32_t result;
        bool more, stopped;
        bool goes_on, armed, paused;
    } rows[] = {
        { "a connection, and more", 5, true, false, true, true, false },
        { "the last of this accept", 5, false, false, true, true, false },
        { "gone before it was taken", -ECONNABORTED, false, false, true, true, false },
        { "no descriptor", -EMFILE, false, false, false, false, true },
        { "none in the system", -ENFILE, false, false, false, false, true },
        { "no memory", -ENOMEM, false, false, false, false, true },
        { "a connection behind the stop", 5, true, true, true, true, false },
        { "canceled", -ECANCELED, false, true, true, false, false },
        { "a shortage behind the stop", -EMFILE, false, true, true, false, false },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct io_completion completion = {
            .op = IO_ACCEPT, .more = rows[i].more, .result = rows[i].result, .buffer = BUFFER_NONE
        };
        struct world world;

        world_open(&world);
        acceptor_arm(&world.acceptor);
        cr_assert(world.acceptor.armed);
        if (rows[i].stopped)
            acceptor_stop(&world.acceptor);
        cr_assert_eq(acceptor_continue(&world.acceptor, &completion, START_NS), rows[i].goes_on,
                     "%s", rows[i].name);
        cr_assert_eq(world.acceptor.armed, rows[i].armed, "%s", rows[i].name);
        cr_assert_eq(timer_is_set(&world.acceptor.pause), rows[i].paused, "%s", rows[i].name);
        world_shut(&world);
    }
}

Test(acceptor, a_pause_ends_by_its_timer)
{
    struct io_completion shortage = { .op = IO_ACCEPT, .result = -EMFILE, .buffer = BUFFER_NONE };
    struct timer *due;
    struct world world;
    uint64_t wait_ns;

    world_open(&world);
    acceptor_arm(&world.acceptor);
    cr_assert_not(acceptor_continue(&world.acceptor, &shortage, START_NS));
    wait_ns = timers_wait_ns(&world.timers, START_NS);
    cr_assert(wait_ns > SECOND_NS / 20 && wait_ns < SECOND_NS, "%llu", (unsigned long long)wait_ns);
    due = timers_next_due(&world.timers, START_NS + SECOND_NS);
    cr_assert_eq(due, &world.acceptor.pause);
    cr_assert_eq(due->kind, KIND);
    acceptor_arm(&world.acceptor);
    cr_assert(world.acceptor.armed);
    world_shut(&world);
}

Test(acceptor, a_stop_is_for_good)
{
    struct io_completion shortage = { .op = IO_ACCEPT, .result = -EMFILE, .buffer = BUFFER_NONE };
    struct io_completion got[2];
    struct world world;

    /* Armed: the accept ends with its ticket. */
    world_open(&world);
    acceptor_arm(&world.acceptor);
    acceptor_stop(&world.acceptor);
    cr_assert(world.acceptor.armed);
    collect(world.io, got, 2);
    for (unsigned i = 0; i < 2; i++) {
        cr_assert_eq(got[i].ticket.slot, 3);
        cr_assert_eq(got[i].ticket.kind, KIND);
        if (got[i].op == IO_ACCEPT)
            cr_assert(acceptor_continue(&world.acceptor, &got[i], START_NS));
    }
    cr_assert_not(world.acceptor.armed);
    acceptor_arm(&world.acceptor);
    cr_assert_not(world.acceptor.armed);
    check_quiet(world.io);
    world_shut(&world);

    /* Paused: nothing would complete, and no timer is left. */
    world_open(&world);
    acceptor_arm(&world.acceptor);
    cr_assert_not(acceptor_continue(&world.acceptor, &shortage, START_NS));
    acceptor_stop(&world.acceptor);
    cr_assert_not(timer_is_set(&world.acceptor.pause));
    cr_assert_not(world.acceptor.armed);
    world_shut(&world);
}
