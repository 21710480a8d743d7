/* compare: `ringpost-bench compare`: ringpost beside other relays and beside the bare relay.
 * Does:    hands over to bench/measure.py of the source tree that this program was built in: relays
 *          are set up, measured and told of by a script.
 * Owns:    the process, until it becomes another one.
 * Errors:  no such tree, or no python3: told on stderr, exit status 3.
 */
#ifndef RINGPOST_BENCH_COMPARE_H
#define RINGPOST_BENCH_COMPARE_H

int compare_main(int argc, char **argv);

#endif
