/* The ledger: what was promised, and what may therefore be seen after a power cut.
 *
 *  - A message whose SPOOL_STORED said 0 and that is not finished is found, once, octet by octet.
 *  - A mark that is found is the last that is durable for certain, or one that was set since.
 *  - A finished message is found again only while its last marks were not durable for certain, and
 *    never after a stop in order.
 *  - Nothing is found that was not given, and what one whole recovery did not find is never found.
 * "For certain" is what the outside can know: the spool was at rest, without faults, after the mark
 * was set (world_settle()). */
#include <stdlib.h>

#include "relay/spool/spool_private.h"
#include "tests/sim/spool_world.h"

/* Writes of marks that may be made before it is a segment's turn: all others', a few times. */
#define MARK_WRITES_MAX 100

void
audit_place(struct message *message, uint64_t number, const struct spool_place *place)
{
    struct place_note note = { .number = number, .offset = place->offset, .bytes = place->bytes };

    if (message->place_count == PLACES_MAX) {
        memmove(message->places, message->places + 1,
                (PLACES_MAX - 1) * sizeof(message->places[0]));
        message->place_count--;
    }
    message->places[message->place_count++] = note;
}

void
audit_stored(struct world *world, struct message *message)
{
    struct worker *worker = &world->workers[message->worker];

    message->story = STORY_STORED;
    message->found_life = world->life;
    message->live = true;
    message->audited = false;
    message->place = message->store.place;
    audit_place(message, spool_segment_number(worker->spool, message->place.segment),
                &message->place);
    world->stored++;
}

/* --- what the log says --- */

static char alarm_line[512];
static uint64_t alarm_read_faults;

/* What a torn group leaves is told like damage, and no alarm here. */
void
audit_log(void *context, enum log_level level, struct span line)
{
    static const char *const torn[] = { "no record can be read here",
                                        "a record that is not whole" };
    char text[sizeof(alarm_line)];
    size_t len = line.len < sizeof(text) - 1 ? line.len : sizeof(text) - 1;

    (void)context, (void)level;
    memcpy(text, line.data, len);
    text[len] = '\0';
    if (strstr(text, "spool_quarantined") == NULL || strstr(text, torn[0]) != NULL ||
        strstr(text, torn[1]) != NULL)
        return;
    if (world_read_faults() == alarm_read_faults) /* a read that failed explains it */
        memcpy(alarm_line, text, sizeof(alarm_line));
}

void
audit_begin(void)
{
    alarm_line[0] = '\0';
    alarm_read_faults = world_read_faults();
}

/* --- what is found --- */

static bool
mark_possible(const struct message *message, uint32_t recipient, struct mark mark)
{
    if (memcmp(&mark, &message->base[recipient], sizeof(mark)) == 0)
        return true;
    for (uint32_t i = 0; i < message->note_count; i++)
        if (message->notes[i].recipient == recipient &&
            memcmp(&mark, &message->notes[i].mark, sizeof(mark)) == 0)
            return true;
    return false;
}

static void
marks_take(struct world *world, struct worker *worker, struct message *message)
{
    bool finished = true;

    for (uint32_t i = 0; i < message->recipients; i++) {
        struct mark mark = spool_mark(worker->spool, &message->place, i);

        if (!world->relaxed && !mark_possible(message, i, mark))
            world_fail(world, message,
                       "recipient %u has a mark that is too old or was never set: state %u, "
                       "attempts %u, due %u; last: state %u, attempts %u, due %u",
                       i, mark.state, mark.attempts, mark.due_s, message->marks[i].state,
                       message->marks[i].attempts, message->marks[i].due_s);
        finished = finished && mark_is_final(mark);
        message->base[i] = message->marks[i] = mark;
    }
    message->note_count = 0;
    if (finished)
        world_fail(world, message, "a finished message was given as found");
}

void
audit_found(struct world *world, struct worker *worker, const struct spool_event *event)
{
    struct message *message = world_message(world, event->record->id);
    const char *wrong;

    if (world_read_faults() != world->read_faults)
        world->relaxed = world->excused = true;
    if (message == NULL)
        world_fail(world, NULL, "found %s, which was never given", event->record->id);
    wrong = message_record_check(message, event->record, event->envelope);
    if (wrong != NULL)
        world_fail(world, message, "found with another %s", wrong);
    if (message->found_life == world->life && !world->relaxed)
        world_fail(world, message, "found twice, or stored in this life and found");
    if (message->live)
        return; /* twice, which damage may cause: the first one is as good */
    if (message->story == STORY_GONE && !world->relaxed)
        world_fail(world, message, "found, although it was gone for certain");
    if (world->recovered)
        world_fail(world, message, "found after the end of the recovery");
    message->story = STORY_STORED;
    message->found_life = world->life;
    message->live = true;
    message->audited = false;
    message->worker = (uint32_t)(worker - world->workers);
    message->place = event->place;
    audit_place(message, spool_segment_number(worker->spool, event->place.segment), &event->place);
    marks_take(world, worker, message);
    world->found++;
}

void
audit_recovered(struct world *world)
{
    ASSERT(!world->recovered);
    world->recovered = true;
    if (world_read_faults() != world->read_faults)
        world->relaxed = world->excused = true;
    if (!world->relaxed && alarm_line[0] != '\0')
        world_fail(world, NULL, "an alarm without a reason: %s", alarm_line);
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (message->found_life == world->life || message->given_life == world->life)
            continue;
        if (message->story == STORY_STORED && (world->excused || message->spoiled))
            message->story = STORY_EXCUSED;
        if (message->story == STORY_STORED && !message_finished(message))
            world_fail(world, message, "lost: it was promised, and is not found");
        /* Nobody was promised it, and the seal that hides it may be in the page cache alone, where
         * a sync failed: the power takes it away. */
        if (sim_count(SIM_FAULT_SYNC) != world->sync_faults &&
            (message->story == STORY_FAILED || message->story == STORY_GIVEN))
            continue;
        if (message->story != STORY_EXCUSED)
            message->story = STORY_GONE;
    }
}

/* --- the window of marks (invariant 4) --- */

/* The first block of the segment that is dirty; UINT32_MAX: none. */
static uint32_t
dirty_block(const struct segment *segment)
{
    for (uint32_t i = 0; segment->dirty_blocks > 0 && i < segment_mark_blocks(segment->slots); i++)
        if (segment->blocks[i].version != segment->blocks[i].written)
            return i;
    return UINT32_MAX;
}

void
audit_marks_wait(const struct world *world, struct worker *worker)
{
    const struct spool *spool = worker->spool;
    uint64_t writes = worker->counters.spool_mark_writes;

    for (uint32_t i = 0; i < spool->segments.touched && i < WORLD_SEGMENTS_WATCHED; i++) {
        struct waiting_marks *marks = &worker->marks[i];
        const struct segment *segment = pool_in_use(&spool->segments, i) ? segment_at(spool, i)
                                                                         : NULL;
        uint32_t block = segment == NULL || segment->state == SEGMENT_REMOVING
                             ? UINT32_MAX
                             : dirty_block(segment);
        uint64_t written = block == UINT32_MAX ? 0 : segment->blocks[block].written;

        if (block == UINT32_MAX || block != marks->block || written != marks->written)
            *marks = (struct waiting_marks){ .block = block, .written = written,
                                             .writes = writes };
        else if (writes - marks->writes > MARK_WRITES_MAX)
            world_fail(world, NULL,
                       "marks of segment %llx wait while %llu writes of others were made",
                       (unsigned long long)segment->number,
                       (unsigned long long)(writes - marks->writes));
    }
}

/* --- rest --- */

void
audit_settled(struct world *world)
{
    for (uint32_t i = 0; i < world->worker_count; i++) {
        const struct buffers *buffers = io_buffers(world->workers[i].io);

        if (buffers->free_count != buffers->count)
            world_fail(world, NULL, "%u buffers of worker %u are held at rest",
                       buffers->count - buffers->free_count, i);
    }
    for (uint32_t i = 0; i < world->message_count; i++) {
        struct message *message = world->messages[i];

        if (message->activity != ACTIVITY_NONE)
            world_fail(world, message, "what was asked for is not answered at rest (activity %d)",
                       message->activity);
        if (message->found_life != world->life || message->story != STORY_STORED)
            continue;
        memcpy(message->base, message->marks, message->recipients * sizeof(struct mark));
        message->note_count = 0;
        if (message_finished(message))
            message->story = STORY_GONE;
    }
}

static bool
suffix_is(const char *name, const char *suffix)
{
    size_t len = strlen(name), suffix_len = strlen(suffix);

    return len > suffix_len && strcmp(name + len - suffix_len, suffix) == 0;
}

static bool
number_lives(const struct world *world, const char *name)
{
    uint64_t number = strtoull(name, NULL, 16);

    for (uint32_t i = 0; i < world->message_count; i++) {
        const struct message *message = world->messages[i];

        if (message->story == STORY_STORED && message->place_count > 0 &&
            message->places[message->place_count - 1].number == number)
            return true;
    }
    return false;
}

/* A group that was torn by a power cut looks like damage in front of a valid record: the segment is
 * kept for people, and so are body files that it may need. */
static bool
any_kept_for_people(void)
{
    for (uint32_t i = 0; i < sim_file_count(); i++)
        if (suffix_is(sim_file_name(i), ".damaged"))
            return true;
    return false;
}

void
audit_directory(const struct world *world)
{
    bool clean = false, kept = world->cut && any_kept_for_people();

    for (uint32_t i = 0; i < sim_file_count(); i++) {
        const char *name = sim_file_name(i);
        bool expected = strcmp(name, "lock") == 0;

        if (strcmp(name, "clean") == 0) {
            clean = expected = true;
        } else if (suffix_is(name, ".seg")) {
            expected = number_lives(world, name);
        } else if (suffix_is(name, ".body")) {
            char id[16] = { 0 };
            const struct message *message;

            memcpy(id, name, strlen(name) - strlen(".body"));
            message = world_message(world, id);
            expected = kept || (message != NULL && message->story == STORY_STORED);
        } else if (suffix_is(name, ".damaged")) {
            expected = kept;
        }
        if (!expected)
            world_fail(world, NULL, "a file that nothing needs is left after a stop in order: %s",
                       name);
    }
    if (!clean)
        world_fail(world, NULL, "no word of a stop in order");
}
