/* What a power cut leaves of a relay in the memory of this process. */
#include "tests/sim/sim_relay.h"

#include <stdlib.h>

#include "relay/spool/found.h"
#include "relay/worker.h"

void
sim_relay_lost(struct relay *relay)
{
    if (relay->spool_open && relay->spool.found != NULL) {
        found_free(relay->spool.found);
        free(relay->spool.found);
    }
    *relay = (struct relay){ 0 };
}
