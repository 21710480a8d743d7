/* stats_server: answers GET and HEAD for /metrics, /healthz, /stats.json on a thread of its own; on
 *          a private socket also what operators ask of the queue (relay/queue/control_server.h).
 * Does:    HTTP/1.1 and 1.0, one request per connection; at most STATS_CONNECTIONS_MAX at a time,
 *          each with STATS_DEADLINE_MS in all. A slow scraper cannot hurt a worker: nothing is
 *          shared with them but the counters.
 * Owns:    its thread, ring, sockets.
 * Memory:  allocated at start, and one response per connection (bounded by stats_bytes_max()).
 * Threads: start, update and stop by one thread; with a control, stop when the workers have ended.
 * Errors:  start says what does not work; what a scraper does ends its connection.
 */
#ifndef RINGPOST_RELAY_STATS_STATS_SERVER_H
#define RINGPOST_RELAY_STATS_STATS_SERVER_H

#include "core/config.h"
#include "relay/stats/stats.h"

#define STATS_CONNECTIONS_MAX 16
#define STATS_DEADLINE_MS 10000
#define STATS_LISTENERS_MAX 16
#define STATS_ERROR_BYTES 768

struct control;
struct stats_server;

/* Listens on all addresses: apart from the thread, since the process may do less by the time that
 * there is something to count. Addresses and control (NULL: none) must stay until stop. NULL:
 * *error says why. */
MUST_USE struct stats_server *stats_server_open(const struct config_address *addresses,
                                                size_t address_count, struct control *control,
                                                char error[STATS_ERROR_BYTES]);
/* Starts the thread. *source is copied; what it points to must stay until update or stop. */
MUST_USE bool stats_server_start(struct stats_server *server, const struct stats_source *source,
                                 char error[STATS_ERROR_BYTES]);
/* After a reload: another source. On return nothing of the old one is used any more. */
void stats_server_update(struct stats_server *server, const struct stats_source *source);
/* Closes everything, removes the Unix sockets, ends the thread. NULL is allowed. */
void stats_server_stop(struct stats_server *server);

/* Port of the n-th address, for port 0 in tests. */
uint16_t stats_server_port(const struct stats_server *server, size_t index);

#endif
