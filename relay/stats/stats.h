/* stats: renders what the counters hold, as Prometheus text (format 0.0.4) and as JSON.
 * Does:    sums the workers' counters, writes every metric of counters.def, zeros included, plus
 *          build and certificate metrics. docs/METRICS.md lists them.
 * Owns:    nothing; struct stats_source says where everything is.
 * Memory:  none allocated; the output is bounded by stats_bytes_max().
 * Threads: any one; the counters may be written meanwhile.
 */
#ifndef RINGPOST_RELAY_STATS_STATS_H
#define RINGPOST_RELAY_STATS_STATS_H

#include "core/counters.h"

/* Longer names are cut in the output; configured names are far shorter. */
#define STATS_NAME_BYTES_MAX 256
/* One series each; the first ones are shown. */
#define STATS_CERTIFICATES_MAX 64

struct stats_hop {
    const char *name;
    uint32_t servers;
};

struct stats_certificate {
    const char *name;         /* the file, as configured */
    int64_t not_after_second; /* since 1970 */
};

/* What to render. The main thread fills it and gives it to the statistics server; it does not
 * change while the server has it, but for the counters and process_values behind the pointers. */
struct stats_source {
    const char *version;
    const struct counters *const *workers;          /* [worker_count] */
    const struct hop_counters *const *hop_counters; /* [worker_count] arrays of hop_count */
    const struct stats_hop *hops;                   /* [hop_count] */
    const struct stats_certificate *certificates;   /* [certificate_count] */
    struct process_values *process;                 /* the log_* rows are the renderer's to set */
    uint32_t worker_count;
    uint32_t hop_count;
    uint32_t certificate_count;
};

/* Bytes that either rendering of this source takes at most. */
size_t stats_bytes_max(const struct stats_source *source);

/* Both need stats_bytes_max() of room. now_ns: since 1970. */
void stats_render_prometheus(const struct stats_source *source, struct outbuf *out);
void stats_render_json(const struct stats_source *source, uint64_t now_ns, struct outbuf *out);

#endif
