/* What is in the spool's files, read beside the relay that writes them: a record that is whole
 * never changes, a place that is used again has another number, so that whatever is read is either
 * what was asked for or noticed. Marks may be some milliseconds old. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "core/crc32c.h"
#include "core/io.h"
#include "relay/spool/found.h"
#include "relay/spool/walk.h"
#include "relay/tools/queue_private.h"

#define FILES_MAX 16
/* Header and envelope of most messages. */
#define FRONT_BYTES 8192u
#define PIECE_BYTES (256u * 1024u)
#define WINDOW_BYTES (1024u * 1024u)

_Static_assert(WINDOW_BYTES >= WALK_WINDOW_BYTES_MIN, "a record's front fits the window");

struct stored_file {
    int descriptor; /* -1: this place is free */
    uint64_t used;  /* when: for the choice of whom to close */
    struct segment_header header;
    uint32_t block; /* whose marks are kept; UINT32_MAX: none */
    struct mark marks[MARKS_PER_BLOCK];
};

struct stored {
    int directory;
    uint64_t clock;
    struct stored_file files[FILES_MAX];
    char *octets; /* of the record's front */
    size_t octets_size;
    struct mark *marks; /* of the message */
    uint32_t marks_size;
};

/* --- octets --- */

/* How many were read: fewer at the end of the file or after an error. */
static size_t
read_at(int file, void *to, size_t len, uint64_t offset)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(file, (char *)to + done, len - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    return done;
}

static int
open_in(const struct stored *stored, const char *name)
{
    return openat(stored->directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

/* --- the directory --- */

struct stored *
stored_open(const char *directory, int *code, char error[QUEUE_ERROR_BYTES])
{
    struct stored *stored = calloc(1, sizeof(*stored));

    *code = stored == NULL ? -ENOMEM : io_directory_open(directory, false);
    if (*code >= 0) {
        stored->directory = *code;
        for (size_t i = 0; i < FILES_MAX; i++)
            stored->files[i].descriptor = -1;
        return stored;
    }
    free(stored);
    (void)snprintf(error, QUEUE_ERROR_BYTES, "spool %s: %s%s", directory, io_error_text(*code),
                   *code == -ENOENT   ? ": nothing was ever stored with this configuration"
                   : *code == -EACCES ? ": run this as root, or as the user that ringpost runs as"
                                      : "");
    return NULL;
}

void
stored_refresh(struct stored *stored)
{
    for (size_t i = 0; i < FILES_MAX; i++) {
        if (stored->files[i].descriptor >= 0)
            close(stored->files[i].descriptor);
        stored->files[i].descriptor = -1;
    }
}

void
stored_close(struct stored *stored)
{
    if (stored == NULL)
        return;
    stored_refresh(stored);
    close(stored->directory);
    free(stored->octets);
    free(stored->marks);
    free(stored);
}

int
stored_directory(const struct stored *stored)
{
    return stored->directory;
}

/* The lock is looked up in the kernel's list, and not tried: a start at the same moment would fail.
 * False also where one cannot see (another container). */
bool
stored_locked(const struct stored *stored, uint32_t *holder)
{
    char line[256], want[64];
    struct stat status;
    bool found = false;
    FILE *locks;

    *holder = 0;
    if (fstatat(stored->directory, FOUND_LOCK_NAME, &status, 0) != 0)
        return false;
    locks = fopen("/proc/locks", "re");
    if (locks == NULL)
        return false;
    (void)snprintf(want, sizeof(want), " %02x:%02x:%llu ", major(status.st_dev),
                   minor(status.st_dev), (unsigned long long)status.st_ino);
    while (!found && fgets(line, sizeof(line), locks) != NULL) {
        const char *at = strstr(line, want);

        if (at == NULL || strstr(line, " FLOCK ") == NULL)
            continue;
        found = true;
        while (at > line && char_is_digit(at[-1]))
            at--;
        *holder = (uint32_t)strtoul(at, NULL, 10);
    }
    fclose(locks);
    return found;
}

/* --- segment files --- */

static bool
header_read(int file, uint64_t number, struct segment_header *header)
{
    char block[SPOOL_BLOCK_BYTES];

    return read_at(file, block, sizeof(block), 0) == sizeof(block) &&
           segment_header_read(block, header) && header->number == number;
}

static struct stored_file *
file_of(struct stored *stored, uint64_t number)
{
    struct stored_file *oldest = &stored->files[0];
    char name[SPOOL_NAME_BYTES];

    stored->clock++;
    for (size_t i = 0; i < FILES_MAX; i++) {
        struct stored_file *file = &stored->files[i];

        if (file->descriptor >= 0 && file->header.number == number) {
            file->used = stored->clock;
            return file;
        }
        if (oldest->descriptor >= 0 && (file->descriptor < 0 || file->used < oldest->used))
            oldest = file;
    }
    if (oldest->descriptor >= 0)
        close(oldest->descriptor);
    spool_segment_name(number, name);
    oldest->descriptor = open_in(stored, name);
    if (oldest->descriptor < 0)
        return NULL;
    if (!header_read(oldest->descriptor, number, &oldest->header)) {
        close(oldest->descriptor);
        oldest->descriptor = -1;
        return NULL;
    }
    oldest->used = stored->clock;
    oldest->block = UINT32_MAX;
    return oldest;
}

/* Of the two copies of a block the newer one that is whole; none: nothing was ever marked. */
static void
block_read(struct stored_file *file, uint32_t block)
{
    uint64_t newest = 0;

    file->block = block;
    memset(file->marks, 0, sizeof(file->marks));
    for (unsigned copy = 0; copy < 2; copy++) {
        char octets[SPOOL_BLOCK_BYTES];
        struct mark marks[MARKS_PER_BLOCK];
        uint64_t sequence;

        if (read_at(file->descriptor, octets, sizeof(octets),
                    segment_marks_offset(file->header.slots, copy, block)) != sizeof(octets) ||
            !mark_block_read(file->header.number, block, octets, &sequence, marks) ||
            sequence < newest)
            continue;
        newest = sequence;
        memcpy(file->marks, marks, sizeof(marks));
    }
}

/* False: no memory. */
static bool
marks_read(struct stored *stored, struct stored_file *file, const struct record *record)
{
    if (stored->marks_size < record->recipients) {
        struct mark *larger = realloc(stored->marks, record->recipients * sizeof(*larger));

        if (larger == NULL)
            return false;
        stored->marks = larger;
        stored->marks_size = record->recipients;
    }
    for (uint32_t i = 0; i < record->recipients; i++) {
        uint32_t slot = record->slot + i;

        if (file->block != slot / MARKS_PER_BLOCK)
            block_read(file, slot / MARKS_PER_BLOCK);
        stored->marks[i] = file->marks[slot % MARKS_PER_BLOCK];
    }
    return true;
}

/* --- one record --- */

/* At least len octets of the record are in stored->octets. */
static bool
front_read(struct stored *stored, const struct stored_file *file, uint64_t offset, size_t len)
{
    if (stored->octets_size < len) {
        char *larger = realloc(stored->octets, len);

        if (larger == NULL)
            return false;
        stored->octets = larger;
        stored->octets_size = len;
    }
    return read_at(file->descriptor, stored->octets, len, offset) == len;
}

static bool
record_fits(const struct segment_header *header, const struct record *record, uint64_t offset)
{
    return record->slot < header->slots && record->recipients <= header->slots - record->slot &&
           offset < header->bytes && record_bytes(record) <= header->bytes - offset;
}

enum stored_result
stored_read(struct stored *stored, uint64_t segment, uint64_t offset, const char id[16],
            struct stored_message *out)
{
    struct stored_file *file = file_of(stored, segment);
    struct record *record = &out->record;
    size_t front = FRONT_BYTES;

    if (file == NULL || offset >= file->header.bytes)
        return STORED_GONE;
    if (front > file->header.bytes - offset)
        front = (size_t)(file->header.bytes - offset);
    if (!front_read(stored, file, offset, front) ||
        !record_header_read(segment, span_of(stored->octets, front), record) ||
        memcmp(record->id, id, sizeof(record->id)) != 0)
        return STORED_GONE;
    if (!record_fits(&file->header, record, offset))
        return STORED_DAMAGED;
    if (RECORD_HEADER_BYTES + (size_t)record->envelope_bytes > front &&
        !front_read(stored, file, offset, RECORD_HEADER_BYTES + record->envelope_bytes))
        return STORED_DAMAGED;
    if (!record_envelope_read(record,
                              span_of(stored->octets + RECORD_HEADER_BYTES, record->envelope_bytes),
                              &out->envelope) ||
        !marks_read(stored, file, record))
        return STORED_DAMAGED;
    out->marks = stored->marks;
    out->segment = segment;
    out->offset = offset;
    return STORED_READ;
}

/* --- bodies --- */

static enum stored_result
body_in_record(struct stored *stored, const struct stored_message *message,
               bool (*piece)(void *context, struct span octets), void *context)
{
    const struct record *record = &message->record;
    uint64_t offset = message->offset + RECORD_HEADER_BYTES + record->envelope_bytes;
    struct stored_file *file = file_of(stored, message->segment);
    size_t len = (size_t)record->body_bytes;
    char trailer[RECORD_TRAILER_BYTES];
    char *body = malloc(len > 0 ? len : 1);
    enum stored_result result = STORED_GONE;
    uint32_t crc, have;

    if (file != NULL && body != NULL && read_at(file->descriptor, body, len, offset) == len &&
        read_at(file->descriptor, trailer, sizeof(trailer), offset + len) == sizeof(trailer)) {
        have = crc32c(0, span_of(stored->octets + RECORD_HEADER_BYTES, record->envelope_bytes));
        have = crc32c(have, span_of(body, len));
        if (record_trailer_read(record, span_of(trailer, sizeof(trailer)), &crc) && crc == have)
            result = piece(context, span_of(body, len)) ? STORED_READ : STORED_GONE;
        else
            result = STORED_DAMAGED;
    }
    free(body);
    return result;
}

enum stored_result
stored_body(struct stored *stored, const struct stored_message *message,
            bool (*piece)(void *context, struct span octets), void *context)
{
    uint64_t left = message->record.body_bytes, offset = 0;
    enum stored_result result = STORED_READ;
    char name[SPOOL_NAME_BYTES];
    char *octets;
    int file;

    if ((message->record.flags & RECORD_BODY_FILE) == 0)
        return body_in_record(stored, message, piece, context);
    spool_body_name(message->record.id, name);
    file = open_in(stored, name);
    octets = malloc(PIECE_BYTES);
    if (file < 0 || octets == NULL)
        result = STORED_GONE;
    while (left > 0 && result == STORED_READ) {
        size_t len = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;

        if (read_at(file, octets, len, offset) != len)
            result = STORED_DAMAGED;
        else if (!piece(context, span_of(octets, len)))
            result = STORED_GONE;
        left -= len;
        offset += len;
    }
    if (file >= 0)
        close(file);
    free(octets);
    return result;
}

/* --- all records --- */

struct scan {
    struct stored *stored;
    struct spool_found found;
    char *window;
    bool (*each)(void *context, const struct stored_message *message);
    void *context;
    bool ended;
};

/* A copy does not count where its original could be read, which has a lower number: it was looked
 * at before. */
static bool
is_void(const struct scan *scan, const struct record *record)
{
    const struct found_segment *original =
        record->moved_segment != 0 ? found_segment_of(&scan->found, record->moved_segment) : NULL;

    return original != NULL && found_record_has(original, record->moved_slot);
}

static bool
scan_record(struct scan *scan, struct stored_file *file, const struct segment_walk *walk)
{
    struct found_segment *found = found_segment_of(&scan->found, walk->header.number);
    struct stored_message message = { .record = walk->record,
                                      .envelope = walk->envelope,
                                      .segment = walk->header.number,
                                      .offset = walk->offset };
    uint32_t pending = 0;

    if (is_void(scan, &walk->record))
        return true;
    if (found != NULL)
        found_record_add(found, walk->record.slot, walk->header.slots);
    if (!marks_read(scan->stored, file, &walk->record))
        return false;
    message.marks = scan->stored->marks;
    for (uint32_t i = 0; i < walk->record.recipients; i++)
        pending += message.marks[i].state == MARK_PENDING;
    if (pending > 0 && !scan->each(scan->context, &message))
        scan->ended = true;
    return true;
}

/* False: not all of it could be read. */
static bool
scan_segment(struct scan *scan, uint64_t number, uint64_t bytes)
{
    struct stored_file *file = file_of(scan->stored, number);
    struct segment_walk walk;
    char block[SPOOL_BLOCK_BYTES];
    uint64_t end = 0, window_offset = 0;
    struct span window = { 0 };
    bool whole = true, sealed;

    if (file == NULL || file->header.bytes > bytes ||
        segment_records_offset(file->header.slots) >= bytes ||
        read_at(file->descriptor, block, sizeof(block), SPOOL_BLOCK_BYTES) != sizeof(block))
        return false;
    sealed = segment_seal_read(number, block, &end);
    walk_begin(&walk, &file->header, sealed, end);
    while (!scan->ended) {
        enum walk_step step = walk_next(&walk, window_offset, window);
        size_t len;

        if (step == WALK_END || step == WALK_TAIL)
            break;
        if (step == WALK_DAMAGE)
            whole = false;
        if (step == WALK_RECORD && !scan_record(scan, file, &walk))
            return false;
        if (step != WALK_READ)
            continue;
        len = walk.end - walk.want_offset < WINDOW_BYTES ? (size_t)(walk.end - walk.want_offset)
                                                         : WINDOW_BYTES;
        window_offset = walk.want_offset;
        window = span_of(scan->window, read_at(file->descriptor, scan->window, len, window_offset));
        if (window.len < walk.want_bytes)
            return false;
    }
    return whole;
}

int
stored_each(struct stored *stored,
            bool (*each)(void *context, const struct stored_message *message), void *context,
            uint32_t *unreadable)
{
    struct scan scan = { .stored = stored, .each = each, .context = context };
    int error = found_list(&scan.found, stored->directory);

    *unreadable = 0;
    scan.window = malloc(WINDOW_BYTES);
    if (scan.window == NULL || scan.found.no_memory)
        error = -ENOMEM;
    for (uint32_t i = 0; i < scan.found.segment_count && error == 0 && !scan.ended; i++)
        *unreadable +=
            !scan_segment(&scan, scan.found.segments[i].number, scan.found.segments[i].bytes);
    *unreadable += scan.found.damaged_files;
    free(scan.window);
    found_free(&scan.found);
    return error;
}
