/* send: `ringpost send`, a small client for tests and demos.
 * Does:    reads the arguments, prepares the message, lets the client send it, says what came of
 * it. Owns:    the process. Threads: the main thread's. Errors:  texts on stderr and the exit
 * status: 0 all taken, 1 something was not, 2 wrong arguments.
 */
#ifndef RINGPOST_RELAY_TOOLS_SEND_H
#define RINGPOST_RELAY_TOOLS_SEND_H

/* argv[0] is "send". */
int send_main(int argc, char **argv);

#endif
