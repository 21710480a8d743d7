/* sink_private: what sink_session.c and sink_stage.c tell each other; nobody else includes it.
 * Does:    the stages of a session (sink_stage.c), where faults are, between the loop that receives
 *          and the receiver (sink_session.c).
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_PRIVATE_H
#define RINGPOST_RELAY_TOOLS_SINK_PRIVATE_H

#include "relay/tools/sink_session.h"

/* --- sink_session.c --- */

void sink_timer_start(struct sink_session *session, uint64_t after_ns);
/* What is written goes out, then our FIN, then the client's end is awaited. */
void sink_session_finish(struct sink_session *session);
/* Closed without another word; what was said before still goes out. */
void sink_session_drop(struct sink_session *session);

/* --- sink_stage.c --- */

/* Decides what happens at this stage, and does it now or after a delay. */
void sink_stage_enter(struct sink_session *session, enum sink_stage stage);
/* The delay is over. */
void sink_stage_act(struct sink_session *session);
/* Where a fault may be for what follows the line at the front: shortens *in to that line. */
void sink_line_limit(const struct sink_session *session, struct span *in);
/* Looks for a command at the front that a fault can be for. */
enum sink_line {
    SINK_LINE_ADMITTED,   /* for the receiver */
    SINK_LINE_DEALT_WITH, /* look again */
    SINK_LINE_PART,       /* its end must come first */
};
MUST_USE enum sink_line sink_line_admit(struct sink_session *session, struct span front);
/* After a greeting that refuses (RFC 5321 3.1): 503 to everything but QUIT. False: wait. */
MUST_USE bool sink_line_reject(struct sink_session *session, struct span front);
/* How much of the body at the front may be used now: shortens *in. False: nothing. */
MUST_USE bool sink_body_admit(struct sink_session *session, struct span *in);

#endif
