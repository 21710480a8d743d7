/* The limit of open files: 100,000 idle connections are more than most shells allow. */
#include "bench/tool/descriptors.h"

#include <sys/resource.h>

uint64_t
descriptors_raise(uint64_t wanted)
{
    struct rlimit limit, higher;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    if (limit.rlim_max < wanted) {
        higher = (struct rlimit){ .rlim_cur = wanted, .rlim_max = wanted };
        if (setrlimit(RLIMIT_NOFILE, &higher) == 0)
            return wanted;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_max;
}
