/* How short of receive buffers a worker is: the levels, and what they leave for whom. */
#include "relay/memory.h"

#include <criterion/criterion.h>

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

Test(memory, levels)
{
    static const struct {
        const char *name;
        enum memory_level from;
        uint32_t promised, left;
        enum memory_level want;
    } rows[] = {
        { "all is free", MEMORY_PLENTY, 0, 176, MEMORY_PLENTY },
        { "just enough", MEMORY_PLENTY, 0, 64, MEMORY_PLENTY },
        { "one too few", MEMORY_PLENTY, 0, 63, MEMORY_SHORT },
        { "promises count", MEMORY_PLENTY, 100, 164, MEMORY_PLENTY },
        { "one promise more", MEMORY_PLENTY, 101, 164, MEMORY_SHORT },
        { "not yet enough to go on", MEMORY_SHORT, 0, 67, MEMORY_SHORT },
        { "enough to go on", MEMORY_SHORT, 0, 68, MEMORY_PLENTY },
        { "promises are kept", MEMORY_SHORT, 40, 24, MEMORY_SHORT },
        { "but not the last ones", MEMORY_SHORT, 0, 23, MEMORY_OUT },
        { "at once", MEMORY_PLENTY, 0, 23, MEMORY_OUT },
        { "nothing is left", MEMORY_PLENTY, 0, 0, MEMORY_OUT },
        { "out, and a few came back", MEMORY_OUT, 0, 27, MEMORY_OUT },
        { "out, and more came back", MEMORY_OUT, 0, 28, MEMORY_SHORT },
        { "out, and all came back", MEMORY_OUT, 0, 176, MEMORY_PLENTY },
        { "promises beyond all", MEMORY_PLENTY, UINT32_MAX, UINT16_MAX, MEMORY_SHORT },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct memory memory = { .level = rows[i].from,
                                       .offered = 16,
                                       .promised = rows[i].promised };

        cr_assert_eq(memory_level_of(&memory, rows[i].left), rows[i].want, "%s", rows[i].name);
    }
}

/* However much was taken before, and when those that cannot be stopped any more and all that have a
 * promise take theirs: commands find as many as are offered to the kernel. */
Test(memory, what_is_left_in_the_worst_case)
{
    for (uint32_t offered = 4; offered <= 256; offered *= 2) {
        for (uint32_t promised = 0; promised < 3 * offered; promised += offered / 4) {
            for (uint32_t at = promised + 4 * offered; at < promised + 6 * offered; at++) {
                struct memory memory = { .offered = offered, .promised = promised };
                uint32_t left = at;

                cr_assert_eq(memory_level_of(&memory, left), MEMORY_PLENTY);
                while (memory.level == MEMORY_PLENTY) {
                    left -= offered; /* by those who have some already: the worst */
                    memory.level = memory_level_of(&memory, left);
                }
                cr_assert_eq(memory.level, MEMORY_SHORT, "%u of %u", left, at);
                left -= offered + promised;
                memory.promised = 0;
                cr_assert_neq(memory_level_of(&memory, left), MEMORY_OUT);
                cr_assert_geq(left, offered);
            }
        }
    }
}
