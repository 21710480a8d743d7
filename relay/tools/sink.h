/* sink: `ringpost sink`, a next hop for tests and demos.
 * Does:    reads the arguments, starts threads, waits for SIGINT or SIGTERM, sums up.
 * Owns:    the process.
 * Threads: the main thread's; starts others.
 * Errors:  texts on stderr and the exit status: 0 good, 1 it could not run, 2 wrong arguments.
 */
#ifndef RINGPOST_RELAY_TOOLS_SINK_H
#define RINGPOST_RELAY_TOOLS_SINK_H

/* argv[0] is "sink". */
int sink_main(int argc, char **argv);

#endif
