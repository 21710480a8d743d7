/* clock: the only place that reads the time.
 * Does:    monotonic time for deadlines and durations, real time for logs and trace fields. Both
 *          in nanoseconds.
 * Note:    a worker reads it once per loop turn and hands the value on; state machines get time as
 *          an argument.
 */
#ifndef RINGPOST_CORE_CLOCK_H
#define RINGPOST_CORE_CLOCK_H

#include <stdint.h>

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

uint64_t clock_now_ns(void);        /* CLOCK_MONOTONIC */
uint64_t clock_realtime_ns(void);   /* since 1970 */
uint64_t clock_thread_cpu_ns(void); /* CPU time used by the calling thread */

#endif
