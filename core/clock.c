/* The system's clocks behind core/clock.h; the simulator links its own. */
#include "core/clock.h"

#include <time.h>

static uint64_t
clock_read(clockid_t which)
{
    struct timespec t;

    clock_gettime(which, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t
clock_now_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

uint64_t
clock_realtime_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}

uint64_t
clock_thread_cpu_ns(void)
{
    return clock_read(CLOCK_THREAD_CPUTIME_ID);
}
