/* Who has stalled, and whose end is enough: relay/shortage.h without a worker. */
#include "relay/shortage.h"

#include <criterion/criterion.h>

#include "core/clock.h"
#include "core/limits.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define PATIENCE_NS (5 * NS_PER_S)
#define SECONDS(n) ((n)*NS_PER_S)
#define ALL SHORTAGE_OCTETS

struct look {
    unsigned at_s;
    uint64_t octets;
    bool kept, want;
};

/* The shortage begins at 10 s, the first look is a second later. */
Test(shortage, judges)
{
    static const struct {
        const char *name;
        unsigned begun_s;
        struct look looks[8];
    } rows[] = {
        { "nothing comes", 10, { { 11, 50, false, false }, { 15, 50, false, false },
                                 { 16, 50, false, true }, { 17, 50, false, true } } },
        { "too little comes", 10, { { 11, 0, false, false }, { 14, ALL - 1, false, false },
                                    { 16, ALL - 1, false, true } } },
        { "enough comes", 10, { { 11, 0, false, false }, { 15, ALL, false, false },
                                { 19, ALL + 1, false, false }, { 20, ALL + 1, false, true } } },
        { "it goes on after all", 10, { { 11, 0, false, false }, { 16, 0, false, true },
                                        { 17, ALL, false, false }, { 18, ALL, false, false } } },
        { "what was before does not count", 10, { { 2, 0, false, false }, { 11, 0, false, false },
                                                  { 12, 0, false, false } } },
        { "its message has begun later", 14, { { 11, 0, false, false }, { 16, 0, false, false },
                                               { 20, 0, false, false }, { 21, 0, false, true } } },
        { "we keep it waiting", 10, { { 11, 0, true, false }, { 20, 9, true, false },
                                      { 90, 9, true, false } } },
        { "then it goes on", 10, { { 11, 0, true, false }, { 20, 9, true, false },
                                   { 21, 10, false, false }, { 25, 10, false, false },
                                   { 26, 10, false, true } } },
        { "then it does not", 10, { { 11, 0, true, false }, { 20, 9, true, false },
                                    { 21, 9, false, false }, { 22, 9, false, true } } },
        { "an octet helps once", 10, { { 11, 0, true, false }, { 20, 9, true, false },
                                       { 21, 10, false, false }, { 24, 11, false, false },
                                       { 26, 12, false, true } } },
        { "it stops and is kept waiting in turn", 10,
          { { 11, 0, false, false }, { 15, 0, false, false }, { 16, 7, true, false },
            { 17, 7, false, false }, { 18, 7, false, true } } },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct shortage_mark mark = { 0 };

        for (const struct look *look = rows[i].looks; look->at_s != 0; look++)
            cr_assert_eq(shortage_judge(&mark, SECONDS(look->at_s), SECONDS(rows[i].begun_s),
                                        look->octets, look->kept, PATIENCE_NS),
                         look->want, "%s: at %u s", rows[i].name, look->at_s);
    }
}

Test(shortage, chooses)
{
    static const struct {
        const char *name;
        uint32_t counts[5]; /* of those that hold 0, 1, ... */
        uint32_t needed, want, rest;
    } rows[] = {
        { "nothing is needed", { 9, 9, 9, 9, 9 }, 0, 4, 0 },
        { "nobody is there", { 0, 0, 0, 0, 0 }, 5, 0, 0 },
        { "one of the largest", { 0, 9, 9, 9, 9 }, 1, 4, 1 },
        { "all of the largest", { 0, 9, 9, 9, 2 }, 8, 4, 2 },
        { "and one more", { 0, 9, 9, 9, 2 }, 9, 3, 1 },
        { "rounded up", { 0, 9, 0, 9, 0 }, 7, 3, 3 },
        { "the small ones", { 0, 9, 0, 1, 1 }, 10, 1, 3 },
        { "not enough", { 0, 1, 1, 1, 1 }, 11, 0, 0 },
        { "who holds nothing is of no use", { 100, 0, 0, 0, 0 }, 1, 0, 0 },
        { "more than fits", { 0, UINT32_MAX, 0, 0, UINT32_MAX }, UINT32_MAX, 4, 1u << 30 },
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint32_t rest = 77;

        cr_assert_eq(shortage_choose(rows[i].counts, 4, rows[i].needed, &rest), rows[i].want, "%s",
                     rows[i].name);
        cr_assert_eq(rest, rows[i].rest, "%s: %u", rows[i].name, rest);
    }
}
