/* memory: how short of receive buffers a worker is, and whom that stops.
 * Does:    sees to it that commands always find a buffer, and that each message that was told to go
 *          ahead can go on by one at a time, whatever next hops do.
 * Owns:    the level and the promises; the buffers are the io's.
 * Threads: the worker's.
 * Why it holds: between two looks the kernel fills no more than it was offered. So when
 *          SHORT begins, there is one left for each promise and more for commands; from then
 *          on who has a promise takes one and is stopped until that has left, and all others
 *          receive only what they use, and give back, in the same turn.
 */
#ifndef RINGPOST_RELAY_MEMORY_H
#define RINGPOST_RELAY_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct worker;

enum memory_level {
    MEMORY_PLENTY,
    MEMORY_SHORT, /* who has message data here sends no more until it has left; then a buffer */
    MEMORY_OUT,   /* no data comes in, and nothing else that would have to wait: the last resort */
};

struct memory {
    enum memory_level level; /* as of the last look */
    uint32_t offered;        /* buffers that the kernel may have for clients */
    uint32_t promised;       /* buffers for messages under way that hold none */
};

/* The level with `left` buffers for clients to receive into (those that the kernel has, too). What
 * was stopped goes on only when clearly more are left than when it was. */
enum memory_level memory_level_of(const struct memory *memory, uint32_t left);
/* New messages are put off, so that those under way can end. At this moment, not at the last look.
 */
bool memory_refuses(const struct worker *worker);
/* Buffers that must come back until new messages are taken again, with some to spare. */
uint32_t memory_wanted(const struct worker *worker);
/* Once a turn, behind all completions: stops and resumes clients when the level has changed, and
 * says when new messages are put off: see relay/shortage.h. */
void memory_look(struct worker *worker);

#endif
