/* The limit of open files: as many connections as we may have are more than most shells allow. */
#include "relay/descriptors.h"

#include <sys/resource.h>

uint64_t
descriptors_raise(uint64_t wanted)
{
    struct rlimit limit, higher = { .rlim_cur = wanted, .rlim_max = wanted };

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    if (limit.rlim_cur >= wanted)
        return limit.rlim_cur;
    if (limit.rlim_max < wanted && setrlimit(RLIMIT_NOFILE, &higher) == 0)
        return wanted;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : 0;
}
