/* From the wire form of DATA back to the message. The spool keeps the wire form, so that delivering
 * it costs nothing; people and files want the message. */
#include "relay/tools/queue_private.h"

static enum unstuff_state
after(char c)
{
    return c == '\r' ? UNSTUFF_TEXT_CR : UNSTUFF_TEXT;
}

size_t
unstuff(struct unstuff *unstuff, struct span in, char *out)
{
    size_t len = 0;

    for (size_t i = 0; i < in.len; i++) {
        char c = in.data[i];

        switch (unstuff->state) {
        case UNSTUFF_LINE_START:
            if (c == '.') {
                unstuff->state = UNSTUFF_DOT;
                continue;
            }
            unstuff->state = after(c);
            break;
        case UNSTUFF_DOT:
            if (c == '\r') {
                unstuff->state = UNSTUFF_DOT_CR;
                continue;
            }
            unstuff->state = UNSTUFF_TEXT;
            break;
        case UNSTUFF_DOT_CR:
            if (c == '\n') {
                unstuff->state = UNSTUFF_LINE_START;
                continue;
            }
            out[len++] = '\r';
            unstuff->state = after(c);
            break;
        case UNSTUFF_TEXT: unstuff->state = after(c); break;
        case UNSTUFF_TEXT_CR: unstuff->state = c == '\n' ? UNSTUFF_LINE_START : after(c); break;
        }
        out[len++] = c;
    }
    return len;
}
