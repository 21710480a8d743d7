/* Back-pressure over all sessions of a worker: each for itself cannot know that the sum of what
 * they may hold is more than there is. */
#include "relay/memory.h"

#include "relay/session.h"

/* In quarters of what is offered to the kernel, SHORT beside what is promised. One turn may take
 * all that is offered before anybody is stopped, and the next one again: a receive that was armed
 * when there was data already cannot be stopped. What is left then is for promises and commands. */
#define OUT_BELOW 6
#define OUT_ENDS 7
#define SHORT_BELOW 16
#define SHORT_ENDS 17
/* New messages are put off while fewer are left than where SHORT begins and this part of all: those
 * under way need them to end. */
#define REFUSES_PART 32
/* More than that is wanted back from those who stall, or each new message would be the last. */
#define WANTED_PART 8

_Static_assert(OUT_BELOW > 4, "a turn takes what was offered, and commands find some");
_Static_assert(SHORT_BELOW >= OUT_ENDS + 2 * 4, "what is promised does not lead to OUT");
_Static_assert(OUT_BELOW < OUT_ENDS && SHORT_BELOW < SHORT_ENDS, "levels do not flap");

static bool
below(const struct memory *memory, uint64_t left, uint64_t promised, uint64_t quarters)
{
    return left * 4 < promised * 4 + memory->offered * quarters;
}

enum memory_level
memory_level_of(const struct memory *memory, uint32_t left)
{
    if (below(memory, left, 0, memory->level == MEMORY_OUT ? OUT_ENDS : OUT_BELOW))
        return MEMORY_OUT;
    if (below(memory, left, memory->promised,
              memory->level == MEMORY_PLENTY ? SHORT_BELOW : SHORT_ENDS))
        return MEMORY_SHORT;
    return MEMORY_PLENTY;
}

static bool
refuses(const struct worker *worker, uint32_t left)
{
    const struct memory *memory = &worker->memory;
    uint64_t kept = worker->links.buffers->count / REFUSES_PART;

    return memory->level != MEMORY_PLENTY ||
           below(memory, left, memory->promised + kept, SHORT_BELOW);
}

bool
memory_refuses(const struct worker *worker)
{
    return refuses(worker, io_receive_left(worker->io));
}

uint32_t
memory_wanted(const struct worker *worker)
{
    const struct memory *memory = &worker->memory;
    uint64_t kept = worker->links.buffers->count / WANTED_PART,
             goal = memory->promised + kept + memory->offered * SHORT_ENDS / 4,
             left = io_receive_left(worker->io);

    return goal > left ? (uint32_t)(goal - left) : 0;
}

void
memory_look(struct worker *worker)
{
    uint32_t left = io_receive_left(worker->io);
    enum memory_level before = worker->memory.level;

    worker->memory.level = memory_level_of(&worker->memory, left);
    if (refuses(worker, left))
        shortage_note(worker);
    if (worker->memory.level == before)
        return;
    for (uint32_t i = 0; i < worker->sessions.touched; i++)
        if (pool_in_use(&worker->sessions, i))
            session_pressure(pool_at(&worker->sessions, i));
}
