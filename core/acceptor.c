/* An accept that stays armed, for everybody who listens: the relay's workers and both sinks. */
#include "core/acceptor.h"

#include "core/clock.h"

#define PAUSE_NS (100 * NS_PER_MS)

void
acceptor_init(struct acceptor *acceptor, struct io *io, struct timers *timers,
              struct io_ticket ticket, int listener)
{
    *acceptor = (struct acceptor){ .io = io,
                                   .timers = timers,
                                   .pause.kind = ticket.kind,
                                   .ticket = ticket,
                                   .listener = listener };
}

void
acceptor_arm(struct acceptor *acceptor)
{
    if (acceptor->armed || acceptor->stopped)
        return;
    io_accept(acceptor->io, acceptor->ticket, acceptor->listener);
    acceptor->armed = true;
}

bool
acceptor_continue(struct acceptor *acceptor, const struct io_completion *completion,
                  uint64_t now_ns)
{
    if (!completion->more)
        acceptor->armed = false;
    if (acceptor->stopped)
        return true;
    if (completion->result < 0 && io_error_is_shortage(completion->result)) {
        timer_set(acceptor->timers, &acceptor->pause, now_ns + PAUSE_NS);
        return false;
    }
    if (!timer_is_set(&acceptor->pause))
        acceptor_arm(acceptor);
    return true;
}

void
acceptor_stop(struct acceptor *acceptor)
{
    acceptor->stopped = true;
    timer_cancel(acceptor->timers, &acceptor->pause);
    if (acceptor->armed)
        io_cancel(acceptor->io, acceptor->ticket, acceptor->listener);
}
