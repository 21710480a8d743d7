/* confine: the steps by which a relay that starts gives up what it does not need, in order.
 * Does:    privileges and sandbox as the configuration says; tells the log what came of it.
 * Owns:    nothing; struct confine is the caller's.
 * Threads: the main thread.
 * Errors:  false, and a text or a line in the log.
 * Order:   privileges_find(), privileges_lower(), then these as they stand here.
 */
#ifndef RINGPOST_RELAY_SANDBOX_CONFINE_H
#define RINGPOST_RELAY_SANDBOX_CONFINE_H

#include "core/config.h"
#include "relay/sandbox/privileges.h"
#include "relay/sandbox/sandbox.h"

struct confine {
    struct privileges privileges;
    struct sandbox_report report;
};

/* What the user must have: the spool is given to it. */
MUST_USE bool confine_files(const struct confine *confine, const struct config *config,
                            char error[PRIVILEGES_ERROR_BYTES]);
/* For good. Keys that the user may not read again are warned of. Threads that start afterwards call
 * sandbox_thread(). */
MUST_USE bool confine_begin(struct confine *confine, const struct config *config);
/* rings: whether the kernel restricts them (io_restricted()). */
void confine_announce(const struct confine *confine, bool rings);

#endif
