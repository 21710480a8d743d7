/* A planted bug that the fuzzer must find, or fuzzing proves nothing: an end-of-data rule that
 * takes LF . LF, as smuggling needs it, held against the real scanner. This target passes when it
 * crashes. */
#include "core/line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where a receiver that is liberal about line ends would see the end; size: nowhere. */
static size_t
liberal_end(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i + 2 < size; i++)
        if (data[i] == '\n' && data[i + 1] == '.' && data[i + 2] == '\n')
            return i + 3;
    return size;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span in = span_of(data, size);
    struct body_scanner scanner;
    enum body_result result = BODY_MORE;

    body_scanner_start(&scanner, true, 998);
    while (in.len > 0 && result != BODY_END)
        result = body_scan(&scanner, &in);
    ASSERT(liberal_end(data, size) >= size - in.len);
    return 0;
}
