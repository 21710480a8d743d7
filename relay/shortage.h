/* shortage: clients that stopped in the middle of messages hold what others wait for.
 * Does:    while receive memory is short, or messages wait and all connections of their next hop
 *          are taken, ends sessions that hold some of it and bring nothing: the largest holders
 *          first, no more than are needed. docs/DELIVERY.md, "Clients that stop", has the rule.
 * Owns:    its timer, and the mark in each session.
 * Memory:  none.
 * Threads: the worker's.
 */
#ifndef RINGPOST_RELAY_SHORTAGE_H
#define RINGPOST_RELAY_SHORTAGE_H

#include "core/span.h"
#include "core/timers.h"

struct worker;

struct shortage { /* one per worker */
    struct timer timer;
    uint64_t since_ns, last_ns; /* it began; new messages were put off last. 0: there is none */
};

/* Of a session: since when it has brought less than it must. */
struct shortage_mark {
    uint64_t at_ns, octets;
    uint64_t kept_ns, kept_octets; /* we kept it waiting last, and had so many; at 0: never */
    bool stalled;                  /* when looked at last */
};

/* A new message is put off, or would be: at each, and once a turn. */
void shortage_note(struct worker *worker);
/* A message waits for a connection. */
void shortage_wait(struct worker *worker);
/* Once a second while it lasts. */
void shortage_timer(struct worker *worker);

/* --- what can be told without a worker --- */
/* A look at one session. `octets` have gone between it and us so far, those that the kernel has for
 * us among them; begun_ns: from when on it counts; kept: some of them we do not take. True: fewer
 * than SHORTAGE_OCTETS went for as long as may be, and it could go on for SHORTAGE_RESUMED_NS. */
bool shortage_judge(struct shortage_mark *mark, uint64_t now_ns, uint64_t begun_ns, uint64_t octets,
                    bool kept, uint64_t patience_ns);
/* counts[n] sessions hold n buffers (the last: or more), n > 0. To get `needed` back: all that hold
 * more than what is returned must end, and *rest of those that hold as many. */
uint32_t shortage_choose(const uint32_t *counts, uint32_t most, uint32_t needed, uint32_t *rest);

#endif
