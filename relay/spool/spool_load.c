/* Messages read back: header and envelope whole into an area, the body through it in chunks. Direct
 * reads, as the writes are: what the page cache holds of such a file may be older than the file. */
#include "relay/spool/spool_private.h"

#include <errno.h>

#include "core/crc32c.h"

/* Readings of a chunk that ended early or not at all. */
#define LOAD_TRIES_MAX 64
#define AREA_BYTES (LOAD_FRONT_BYTES + SPOOL_LOAD_BYTES)

static uint64_t
align_down(uint64_t n)
{
    return n / SPOOL_BLOCK_BYTES * SPOOL_BLOCK_BYTES;
}

static uint64_t
align_up(uint64_t n)
{
    return align_down(n + SPOOL_BLOCK_BYTES - 1);
}

static struct segment *
area_segment(const struct spool *spool, const struct load_area *area)
{
    return segment_at(spool, area->load->place.segment);
}

/* --- the end --- */

static void
load_done(struct spool *spool, struct load_area *area, int error)
{
    struct spool_load *load = area->load;
    struct segment *segment = area_segment(spool, area);

    load->error = error;
    if (error != 0)
        chain_release(load->buffers, &load->body);
    if (error == -EBADMSG) /* invariant 2 */
        spool_log_quarantined(spool, segment->number, load->place.offset, span_of("", 0),
                              "not what was stored");
    counter_increment(error == 0 ? &spool->counters->spool_messages_loaded
                                 : &spool->counters->spool_loads_failed);
    area->next_area = NULL;
    *spool->loaded_end = area;
    spool->loaded_end = &area->next_area;
    segment_release(spool, segment);
}

/* --- reading --- */

/* What is left of what was asked for. */
static void
read_rest(struct spool *spool, struct load_area *area)
{
    operation_queue(spool, OPERATION_LOAD, area, 0,
                    (struct file_request){ .op = FILE_READ,
                                           .file = area_segment(spool, area)->file,
                                           .memory = area->to + area->came_bytes,
                                           .bytes = area->asked_bytes - area->came_bytes,
                                           .offset = area->from_offset + area->came_bytes });
}

static void
read_queue(struct spool *spool, struct load_area *area, char *to, uint64_t offset)
{
    area->to = to;
    area->from_offset = offset;
    area->came_bytes = area->tries = 0;
    read_rest(spool, area);
}

/* The front is read until header and envelope are whole. */
static void
read_front(struct spool *spool, struct load_area *area, uint64_t bytes)
{
    if (bytes > SPOOL_LOAD_BYTES)
        bytes = SPOOL_LOAD_BYTES;
    ASSERT(area->front_bytes + bytes <= LOAD_FRONT_BYTES);
    area->asked_bytes = (uint32_t)bytes;
    read_queue(spool, area, area->memory + area->front_bytes,
               area->front_offset + area->front_bytes);
}

static void
read_chunk(struct spool *spool, struct load_area *area)
{
    const struct spool_place *place = &area->load->place;
    uint64_t bytes = align_up(place->offset + place->bytes) - area->chunk_offset;

    ASSERT(area->chunk_offset < place->offset + place->bytes);
    area->in_body = true;
    area->asked_bytes = (uint32_t)(bytes < SPOOL_LOAD_BYTES ? bytes : SPOOL_LOAD_BYTES);
    read_queue(spool, area, area->memory + LOAD_FRONT_BYTES, area->chunk_offset);
}

static void
area_start(struct spool *spool, struct load_area *area, struct spool_load *load)
{
    const struct spool_place *place = &load->place;
    char *memory = area->memory;

    *area = (struct load_area){ .memory = memory, .load = load };
    area->front_offset = align_down(place->offset);
    load->progress = 0;
    read_front(spool, area, align_up(place->offset + place->bytes) - area->front_offset);
}

/* Body, then trailer. Returns 0, or what is wrong. */
static int
take(struct load_area *area, struct span in)
{
    struct spool_load *load = area->load;
    uint64_t body = load->record.flags & RECORD_BODY_FILE ? 0 : load->record.body_bytes;

    if (load->progress < body) {
        uint64_t part = body - load->progress;

        if (part > in.len)
            part = in.len;
        if (!chain_copy(load->buffers, &load->body, span_first(in, part)))
            return -ENOBUFS;
        area->crc = crc32c(area->crc, span_first(in, part));
        load->progress += part;
        span_advance(&in, part);
    }
    if (load->progress >= body) {
        size_t have = load->progress - body, part = RECORD_TRAILER_BYTES - have;

        if (part > in.len)
            part = in.len;
        if (part > 0)
            memcpy(area->trailer + have, in.data, part);
        load->progress += part;
        if (have + part == RECORD_TRAILER_BYTES) {
            uint32_t crc;

            if (!record_trailer_read(&load->record, span_of(area->trailer, RECORD_TRAILER_BYTES),
                                     &crc) ||
                crc != area->crc)
                return -EBADMSG;
            area->whole = true;
        }
    }
    return 0;
}

/* Takes what has come and asks for the next chunk. */
static void
take_and_go_on(struct spool *spool, struct load_area *area, struct span in, uint64_t next_offset)
{
    int error = take(area, in);

    area->chunk_offset = next_offset;
    if (error != 0 || area->whole)
        load_done(spool, area, error);
    else
        read_chunk(spool, area);
}

static void
front_read(struct spool *spool, struct load_area *area)
{
    struct spool_load *load = area->load;
    const struct spool_place *place = &load->place;
    const struct segment *segment = area_segment(spool, area);
    uint64_t lead = place->offset - area->front_offset, need, have;
    struct span in;

    ASSERT(area->front_bytes > lead);
    have = area->front_bytes - lead;
    if (have > place->bytes)
        have = place->bytes;
    in = span_of(area->memory + lead, have);
    if (!record_header_read(segment->number, in, &load->record) ||
        load->record.slot != place->slot || record_bytes(&load->record) != place->bytes) {
        load_done(spool, area, -EBADMSG);
        return;
    }
    need = RECORD_HEADER_BYTES + load->record.envelope_bytes;
    if (load->record.envelope_bytes > RECORD_ENVELOPE_BYTES_MAX || need > place->bytes) {
        load_done(spool, area, -EBADMSG);
        return;
    }
    if (have < need) {
        read_front(spool, area,
                   align_up(place->offset + need) - area->front_offset - area->front_bytes);
        return;
    }
    span_advance(&in, RECORD_HEADER_BYTES);
    if (!record_envelope_read(&load->record, span_first(in, load->record.envelope_bytes),
                              &load->envelope)) {
        load_done(spool, area, -EBADMSG);
        return;
    }
    area->crc = crc32c(0, span_first(in, load->record.envelope_bytes));
    span_advance(&in, load->record.envelope_bytes);
    take_and_go_on(spool, area, in, area->front_offset + area->front_bytes);
}

/* Interrupted, or cut short: read on, in whole blocks, if that has not been tried often. */
static bool
read_goes_on(struct spool *spool, struct load_area *area, int32_t result)
{
    uint32_t left = area->asked_bytes - area->came_bytes;
    uint32_t came = result > 0 ? (uint32_t)result : 0;

    ASSERT(came <= left);
    area->came_bytes += came == left ? came : (uint32_t)align_down(came);
    if (came == left || area->tries++ >= LOAD_TRIES_MAX)
        return false;
    read_rest(spool, area);
    return true;
}

void
load_complete(struct spool *spool, struct load_area *area, int32_t result)
{
    const struct spool_place *place = &area->load->place;
    uint64_t end = place->offset + place->bytes, rest;

    /* A message is not held for what a second reading may give. */
    if ((io_error_is_again(result) || (result > 0 && area->came_bytes < area->asked_bytes)) &&
        read_goes_on(spool, area, result))
        return;
    if (result < 0) {
        char name[SPOOL_NAME_BYTES];

        spool_segment_name(area_segment(spool, area)->number, name);
        spool_log_error(spool, "read", name, result);
        load_done(spool, area, result);
        return;
    }
    if (area->came_bytes != area->asked_bytes) {
        load_done(spool, area, -EBADMSG); /* shorter than what was promised */
        return;
    }
    if (!area->in_body) {
        area->front_bytes += area->asked_bytes;
        front_read(spool, area);
        return;
    }
    rest = end - area->chunk_offset;
    take_and_go_on(spool, area,
                   span_of(area->memory + LOAD_FRONT_BYTES,
                           rest < area->asked_bytes ? rest : area->asked_bytes),
                   area->chunk_offset + area->asked_bytes);
}

/* --- asking and telling --- */

void
spool_load(struct spool *spool, struct spool_load *load)
{
    struct segment *segment = segment_at(spool, load->place.segment);

    ASSERT(segment->live_records > 0);
    ASSERT(load->place.offset >= segment->records_offset);
    ASSERT(load->place.offset + load->place.bytes <= segment->bytes);
    load->error = 0;
    load->body = CHAIN_EMPTY;
    load->next_load = NULL;
    segment_hold(segment);
    *spool->loads_end = load;
    spool->loads_end = &load->next_load;
    spool->loads_open++;
}

void
load_turn(struct spool *spool)
{
    while (spool->loads != NULL && spool->load_areas_free != NULL) {
        struct load_area *area = spool->load_areas_free;
        struct spool_load *load = spool->loads;

        spool->load_areas_free = area->next_area;
        spool->loads = load->next_load;
        if (spool->loads == NULL)
            spool->loads_end = &spool->loads;
        area_start(spool, area, load);
    }
}

bool
load_event(struct spool *spool, struct spool_event *event)
{
    struct load_area *area = spool->loaded;

    if (area == NULL)
        return false;
    spool->loaded = area->next_area;
    if (spool->loaded == NULL)
        spool->loaded_end = &spool->loaded;
    ASSERT(spool->loads_open > 0);
    spool->loads_open--;
    ASSERT(spool->load_told == NULL);
    spool->load_told = area;
    *event = (struct spool_event){ .kind = SPOOL_LOADED,
                                   .load = area->load,
                                   .owner = area->load->owner };
    return true;
}

void
load_told(struct spool *spool)
{
    struct load_area *area = spool->load_told;

    if (area == NULL)
        return;
    spool->load_told = NULL;
    area->load = NULL;
    area->next_area = spool->load_areas_free;
    spool->load_areas_free = area;
}

bool
load_idle(const struct spool *spool)
{
    return spool->loads_open == 0;
}

bool
loads_create(struct spool *spool)
{
    spool->loads_end = &spool->loads;
    spool->loaded_end = &spool->loaded;
    spool->load_memory = io_memory((size_t)SPOOL_LOADS_MAX * AREA_BYTES);
    if (spool->load_memory == NULL)
        return false;
    for (uint32_t i = SPOOL_LOADS_MAX; i-- > 0;) {
        struct load_area *area = &spool->load_areas[i];

        area->memory = spool->load_memory + (size_t)i * AREA_BYTES;
        area->next_area = spool->load_areas_free;
        spool->load_areas_free = area;
    }
    return true;
}

void
loads_destroy(struct spool *spool)
{
    if (spool->load_memory != NULL)
        io_memory_free(spool->load_memory, (size_t)SPOOL_LOADS_MAX * AREA_BYTES);
}
