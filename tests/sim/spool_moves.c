/* The owner's part of the reclaim: a segment that the spool wants to empty is paused, its messages
 * are copied one by one, and have their new places when all of it is done. */
#include "tests/sim/spool_world.h"

void
owner_clean_begin(struct world *world, struct worker *worker, uint32_t segment)
{
    if (worker->cleaning || world->stopping) {
        spool_clean_finish(worker->spool, segment, true);
        return;
    }
    worker->cleaning = true;
    worker->clean_failed = sim_chance(&world->random, 500); /* it gives up for reasons of its own */
    worker->clean_segment = segment;
    worker->moves = 0;
    world->cleans++;
}

static bool
concerned(const struct world *world, const struct worker *worker, const struct message *message)
{
    return message->live && &world->workers[message->worker] == worker &&
           message->place.segment == worker->clean_segment;
}

static void
finish(struct world *world, struct worker *worker)
{
    uint32_t segment = worker->clean_segment;

    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (!concerned(world, worker, message) || !message->moved)
            continue;
        message->moved = false;
        if (message->forgotten) {
            message->live = false;
        } else if (!worker->clean_failed) {
            message->place = message->to;
            audit_place(message, spool_segment_number(worker->spool, message->to.segment),
                        &message->to);
            world->moves++;
        }
    }
    worker->cleaning = false;
    worker->clean_segment = UINT32_MAX;
    spool_clean_finish(worker->spool, segment, worker->clean_failed);
    world_moment(world, MOMENT_CLEANED);
}

void
owner_clean_step(struct world *world, struct worker *worker)
{
    bool left = false;

    if (!worker->cleaning)
        return;
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (!concerned(world, worker, message) || message->moved || message->moving)
            continue;
        if (message->activity != ACTIVITY_NONE)
            return; /* nothing is copied while it is read */
        left = true;
        if (worker->moves == MOVES_AT_A_TIME || worker->clean_failed)
            continue;
        message->move = (struct spool_move){ .from = message->place, .owner = message };
        message->moving = true;
        worker->moves++;
        spool_move(worker->spool, &message->move);
    }
    /* A stop may come before the end: then it is as if it had never begun. */
    if (worker->moves == 0 && (worker->clean_failed || !left) && !world->stopping)
        finish(world, worker);
}

void
owner_moved(struct world *world, struct worker *worker, struct spool_move *move)
{
    struct message *message = move->owner;

    ASSERT(message->moving && worker->moves > 0);
    message->moving = false;
    worker->moves--;
    if (move->error != 0) {
        if (!world->faults_on && !message->spoiled && !world->stopping &&
            !io_error_is_no_space(move->error))
            world_fail(world, message, "cannot be moved: %s", io_error_text(move->error));
        worker->clean_failed = true;
        return;
    }
    message->moved = true;
    message->to = move->to;
}
