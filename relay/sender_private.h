/* sender_private: what sender.c and sender_commands.c tell each other; nobody else includes it. */
#ifndef RINGPOST_RELAY_SENDER_PRIVATE_H
#define RINGPOST_RELAY_SENDER_PRIVATE_H

#include "relay/sender.h"

/* A command was written: its reply is expected after all that is outstanding. */
void sender_expect(struct sender *sender, enum sender_expectation expectation);
void sender_invariants(const struct sender *sender);

#endif
