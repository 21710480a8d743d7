/* assert: checks of our own reasoning; always on, in release builds too.
 * Does:    ASSERT(x) ends the process with file, line and text when x is false: a broken invariant
 *          must not become a wrong 250. ASSERT_SLOW(x) is for per-byte loops: test builds only.
 * Errors:  never use these for what a peer, a disk or a configuration can cause.
 */
#ifndef RINGPOST_CORE_ASSERT_H
#define RINGPOST_CORE_ASSERT_H

/* Prints the message, dumps the transition trace of this thread (core/trace.h), aborts. */
_Noreturn void assert_failed(const char *file, int line, const char *text);

#define ASSERT(condition)                                           \
    do {                                                            \
        if (__builtin_expect(!(condition), 0))                      \
            assert_failed(__FILE__, __LINE__, #condition);          \
    } while (0)

#ifdef RINGPOST_SLOW_CHECKS
#define ASSERT_SLOW(condition) ASSERT(condition)
#else
#define ASSERT_SLOW(condition) ((void)0)
#endif

#define MUST_USE __attribute__((warn_unused_result))

#endif
