/* The original of a report: read octet by octet in whichever form it is stored, so that what is
 * returned is the message itself, and judged before a part is opened for it. */
#include "relay/bounce_private.h"

#include "core/header.h"

enum { LINE_BYTES_MAX = 998 }; /* RFC 5322 2.1.1, without CRLF */

/* --- reading --- */

struct reader {
    const struct buffers *buffers;
    uint32_t buffer, buffers_left;
    size_t at; /* in the buffer */
    bool wire; /* dots are stuffed, and a dot alone ends it */
    bool line_start;
    int last;
};

static struct reader
reader_of(const struct bounce_original *original)
{
    return (struct reader){ .buffers = original->buffers,
                            .buffer = original->chain->first,
                            .buffers_left = original->chain->count,
                            .wire = !original->chunked,
                            .line_start = true,
                            .last = -1 };
}

static int
stored_octet(struct reader *reader)
{
    while (reader->buffers_left > 0) {
        struct span s = buffer_span(reader->buffers, reader->buffer);

        if (reader->at < s.len)
            return (unsigned char)s.data[reader->at++];
        reader->buffer = reader->buffers->meta[reader->buffer].next;
        reader->buffers_left--;
        reader->at = 0;
    }
    return -1;
}

/* The next octet of the message; -1: its end. */
static int
reader_next(struct reader *reader)
{
    int octet = stored_octet(reader);

    if (octet == '.' && reader->wire && reader->line_start) {
        octet = stored_octet(reader); /* RFC 5321 4.5.2: the first dot is not the message's */
        if (octet == '\r') {
            reader->buffers_left = 0;
            octet = -1;
        }
    }
    reader->line_start = octet == '\n' && reader->last == '\r';
    reader->last = octet;
    return octet;
}

/* --- judging --- */

struct marks { /* of all octets up to some place */
    uint64_t bytes;
    bool eight_bit, irregular;
};

struct survey {
    struct header_scanner scanner;
    struct marks marks;  /* up to here */
    struct marks line;   /* up to the start of this line */
    struct marks header; /* up to the end of the header section, or to where it is cut */
    bool header_ended;
    size_t column;
    int last;
};

static void
survey_header_ends(struct survey *survey, struct marks at)
{
    survey->header = at;
    survey->header_ended = true;
}

static void
survey_octet(struct survey *survey, char octet)
{
    struct marks *marks = &survey->marks;
    bool line_end = survey->last == '\r' && octet == '\n';

    marks->bytes++;
    marks->eight_bit |= (unsigned char)octet > 127;
    /* RFC 5321 2.3.8: CR and LF stand together only. */
    marks->irregular |= octet == '\0' || (survey->last == '\r') != (octet == '\n');
    if (octet != '\r' && octet != '\n' && ++survey->column > LINE_BYTES_MAX)
        marks->irregular = true;
    survey->last = (unsigned char)octet;

    if (!survey->scanner.ended) {
        header_scan(&survey->scanner, span_of(&octet, 1), false);
        if (survey->scanner.ended && !survey->header_ended)
            survey_header_ends(survey, survey->line); /* this line is not the header's */
    }
    if (line_end) {
        survey->column = 0;
        survey->line = *marks;
    }
    if (survey->header_ended || marks->bytes < BOUNCE_HEADER_BYTES_MAX)
        return;
    if (line_end) {
        survey_header_ends(survey, *marks);
    } else if (marks->bytes >= BOUNCE_HEADER_BYTES_MAX + LINE_BYTES_MAX) {
        survey_header_ends(survey, *marks); /* inside a line: its end may be far away */
        survey->header.irregular = true;
    }
}

/* Returns whether all of it was seen: it stops where nothing more can change the decision. */
static bool
survey_run(struct survey *survey, const struct bounce_original *original, bool all)
{
    struct reader reader = reader_of(original);
    int octet;

    *survey = (struct survey){ .last = -1 };
    header_scanner_start(&survey->scanner);
    while ((octet = reader_next(&reader)) >= 0) {
        survey_octet(survey, (char)octet);
        if (survey->header_ended &&
            (!all || survey->marks.irregular || survey->marks.bytes > BOUNCE_FULL_BYTES_MAX))
            return false;
    }
    survey->marks.irregular |= survey->last == '\r';
    return survey->marks.bytes <= BOUNCE_FULL_BYTES_MAX && !survey->marks.irregular;
}

void
original_survey(struct bounce_original *original, const struct buffers *buffers,
                const struct chain *chain, bool complete, bool chunked, bool all)
{
    struct survey survey;
    struct marks returned;

    *original = (struct bounce_original){ .buffers = buffers, .chain = chain, .chunked = chunked };
    all &= complete;
    all &= survey_run(&survey, original, all);
    if (!survey.header_ended) /* a line that is not all there tells nothing */
        survey.header = complete ? survey.marks : survey.line;
    returned = all ? survey.marks : survey.header;
    original->bytes = returned.bytes;
    original->eight_bit = returned.eight_bit;
    original->header_eight_bit = survey.scanner.eight_bit;
    original->irregular = returned.irregular;
    if (returned.bytes > 0)
        original->returned = all ? BOUNCE_RETURNS_ALL : BOUNCE_RETURNS_HEADER;
}

/* --- the boundary --- */

/* The shortest boundary has an id of one octet. So many can stand in what is returned, and with one
 * more to choose from there is always one that does not. */
#define RETURNED_BYTES_MAX BOUNCE_FULL_BYTES_MAX
#define BOUNDARIES (RETURNED_BYTES_MAX / (2 + 1 + 1 + BOUNDARY_DIGITS) + 1)
_Static_assert(BOUNCE_HEADER_BYTES_MAX + LINE_BYTES_MAX + 2 <= RETURNED_BYTES_MAX,
               "all that is returned");
_Static_assert(BOUNDARIES <= 1u << 4 * BOUNDARY_DIGITS, "the digits tell them apart");

struct finder { /* of "=_", the id, a dot and digits */
    struct span id;
    size_t matched;
    unsigned number;
    uint64_t seen[BOUNDARIES / 64 + 1];
};

static int
hex_value(int octet)
{
    if (octet >= '0' && octet <= '9')
        return octet - '0';
    return octet >= 'A' && octet <= 'F' ? octet - 'A' + 10 : -1;
}

/* '=' is nowhere but at a boundary's start, so what does not match can only begin anew. */
static void
finder_octet(struct finder *finder, int octet)
{
    size_t dot = 2 + finder->id.len, at = finder->matched;
    int wanted = at == 0 ? '=' : at == 1 ? '_' : at < dot ? finder->id.data[at - 2] : '.';

    if (at <= dot) {
        finder->matched = octet == wanted ? at + 1 : octet == '=';
        finder->number = 0;
        return;
    }
    if (hex_value(octet) < 0) {
        finder->matched = octet == '=';
        return;
    }
    finder->number = finder->number * 16 + (unsigned)hex_value(octet);
    finder->matched++;
    if (finder->matched <= dot + BOUNDARY_DIGITS)
        return;
    if (finder->number < BOUNDARIES)
        finder->seen[finder->number / 64] |= UINT64_C(1) << finder->number % 64;
    finder->matched = 0;
}

void
original_boundary(const struct bounce_original *original, struct span id, struct outbuf *boundary)
{
    struct finder finder = { .id = id };
    struct reader reader = reader_of(original);
    unsigned number = 0;

    for (uint64_t i = 0; i < original->bytes; i++)
        finder_octet(&finder, reader_next(&reader));
    while ((finder.seen[number / 64] >> number % 64 & 1) != 0)
        number++;
    ASSERT(number < BOUNDARIES);
    outbuf_add(boundary, SPAN("=_"));
    outbuf_add(boundary, id);
    outbuf_add(boundary, SPAN("."));
    for (unsigned digit = BOUNDARY_DIGITS; digit-- > 0;)
        outbuf_add_char(boundary, "0123456789ABCDEF"[number >> 4 * digit & 15]);
}

/* --- copying --- */

void
original_copy(const struct bounce_original *original, struct bounce_writer *writer)
{
    struct reader reader = reader_of(original);

    for (uint64_t i = 0; i < original->bytes; i++) {
        int octet = reader_next(&reader);

        ASSERT(octet >= 0);
        writer_octet(writer, (char)octet);
    }
}
