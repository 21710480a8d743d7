/* limits: every compile-time bound of ringpost, with its reason; nothing a stranger can make us
 * hold is
 * without one. Runtime values (core/options.def) stay inside these ceilings.
 * A LIMITS_TINY build makes exhaustion the common case in tests.
 */
#ifndef RINGPOST_CORE_LIMITS_H
#define RINGPOST_CORE_LIMITS_H

/* --- names (RFC 5321 4.5.3.1, RFC 1035) --- */
#define DOMAIN_BYTES_MAX 255
#define LOCAL_PART_BYTES_MAX 64
/* 4.5.3.1.3 says 256 for a path with its brackets, but a legal mailbox is up to 64 + 1 + 255. */
#define MAILBOX_BYTES_MAX (LOCAL_PART_BYTES_MAX + 1 + DOMAIN_BYTES_MAX)
#define ENVID_BYTES_MAX 100 /* RFC 3461 4.4 */
#define ORCPT_BYTES_MAX 500 /* RFC 3461 4.2 */

/* --- lines --- */
/* 512 (4.5.3.1.4) + 10 SMTPUTF8 + 500 ORCPT + 109 ENVID and room for parameters we do not know yet.
 */
#define COMMAND_LINE_BYTES_MAX 2048
/* Reply lines are 512 with CRLF (4.5.3.1.5). */
#define REPLY_LINE_BYTES_MAX 512
/* Text of one reply that we keep to hand on, lines joined by \n; more is cut at a line end. */
#define REPLY_TEXT_BYTES_MAX 1024
/* Lines of one reply that we read from a next hop (EHLO replies are the longest; Exchange sends
 * ~15). */
#define REPLY_LINES_MAX 128

/* --- one session --- */
/* NOOP, RSET, VRFY, HELP, EHLO and HELO in a row without a MAIL; each one more counts as an error,
 * so that a session cannot be held open by them for ever. */
#define RECEIVER_IDLE_COMMANDS_MAX 100
/* Room that receiver_step() asks for in its output buffer before it looks at a command: the EHLO
 * reply with a 255-byte host name and every extension, or a verdict of REPLY_TEXT_BYTES_MAX with
 * the code repeated on each of its lines and our own queue id. */
#define RECEIVER_REPLY_ROOM 3072
/* Room that sender_step() and each sender command asks for: the longest command with its
 * parameters. */
#define SENDER_COMMAND_ROOM COMMAND_LINE_BYTES_MAX
/* Commands sent and not answered yet. 100 recipients in one pipelined group and room for MAIL,
 * DATA, RSET; a group larger than this goes out in parts. */
#ifdef LIMITS_TINY
#define SENDER_EXPECTATIONS_MAX 8
#else
#define SENDER_EXPECTATIONS_MAX 128
#endif
/* While something is short: a session that holds some of it has stalled when fewer octets than this
 * went between it and us in timeouts.stalled: with its default some 3 KiB a second, which any line
 * brings that mail is sent over. */
#define SHORTAGE_OCTETS 16384
/* So long whom we had kept waiting may take to go on: a round trip, and one again after a loss. */
#define SHORTAGE_RESUMED_NS UINT64_C(2000000000)
/* Between two looks at all sessions, while something is short. */
#define SHORTAGE_LOOK_NS UINT64_C(1000000000)
/* Messages up to this may go to a next hop by BDAT together with MAIL and RCPT, over a connection
 * on which it spoke no longer ago than this. A server that ends idle connections waits for longer,
 * and says so by 421 or its FIN, which has arrived long before. */
#define CHUNK_IN_GROUP_BYTES_MAX (64u * 1024)
#define CHUNK_IN_GROUP_HEARD_NS UINT64_C(2000000000)
/* Our Received: field; three folded lines of a 255-byte name each and the fixed words. */
#define TRACE_FIELD_BYTES_MAX 1536

/* --- buffers --- */
#ifdef LIMITS_TINY
/* A message spans many buffers, few are offered, and a group of commands rarely fits the queue. */
#define BUFFER_BYTES 1024
#define BUFFERS_OFFERED 4
#define BUFFERS_SURE 2
#define BUFFERS_SURE_MOST 4
#else
/* One receive buffer. 16 KiB: a TLS record's plain text fits, 1 MiB is 64 completions, a 4 KiB
 * message one. */
#define BUFFER_BYTES 16384
/* Buffers offered to the kernel at a time; the rest wait on a last-in-first-out list, so that few
 * pages are touched while few buffers are held. A power of two (io_uring's ring). */
#define BUFFERS_OFFERED 256
/* Of these kind only for next-hop connections: their replies set buffers free, so they must always
 * find one. */
#define BUFFERS_SURE 16
/* As many where memory is plenty. With 50 connections busy, more than 16 replies come between two
 * turns: half of the receives ended without a buffer and were armed anew (7.24 completions and 4.06
 * submissions per message of a pipelining client; what is needed is 6 and 3). */
#define BUFFERS_SURE_MOST 64
#endif
/* Buffers that are offered for clients' commands when message data has all others, and has begun to
 * use up what is reserved. */
#define BUFFERS_LEAST (BUFFERS_SURE / 2)
/* Octets after which a client's receive ends by itself and is armed anew, where the kernel has that
 * (Linux 6.17): what may still come in one turn from one that is to pause. Else that is 32 buffers,
 * and 200 clients that send and never read held all 4096. */
#define RECEIVE_BYTES_MOST (4 * BUFFER_BYTES)
/* Receive buffers of a worker that are never offered to the kernel: what a session copies, encrypts
 * or decrypts into. */
#define BUFFERS_RESERVED 64
/* One small block: carried partial lines, envelopes, replies waiting to be sent. */
#define BLOCK_BYTES 4096

/* --- the spool, per worker --- */
#ifdef LIMITS_TINY
/* Segments end, groups fill and envelopes span chunks all the time. */
#define RECORD_ENVELOPE_BYTES_MAX (16u * 1024)
#define SPOOL_STAGING_BYTES (64u * 1024)
#define SPOOL_SEGMENT_BYTES_MAX (256u * 1024)
#define SPOOL_RECOVERY_BYTES (8u * 1024)
#define SPOOL_LOAD_BYTES (8u * 1024)
#define SPOOL_LOADS_MAX 2
#define SPOOL_MARK_WRITES_MAX 1
#define SPOOL_BODIES_MAX 4
#else
/* Envelope of a stored message: 1000 recipients (RFC 5321 4.5.3.1.8 asks for 100) with the longest
 * addresses there are. Larger ones are refused at RCPT (452 4.5.3). */
#define RECORD_ENVELOPE_BYTES_MAX (512u * 1024)
/* One commit group. More makes a full group wait longer for no more throughput (a group of 256
 * messages of 4 KiB is within 20 % of the disk's best). There are two. */
#define SPOOL_STAGING_BYTES (1024u * 1024)
/* Largest file that spool.segment may ask for. */
#define SPOOL_SEGMENT_BYTES_MAX (1024u * 1024 * 1024)
/* What recovery reads at a time: a few milliseconds of a slow disk. */
#define SPOOL_RECOVERY_BYTES (256u * 1024)
/* A body is loaded in chunks of this, so many messages at a time. */
#define SPOOL_LOAD_BYTES (64u * 1024)
#define SPOOL_LOADS_MAX 32
/* Batches of marks in flight, of different segments. */
#define SPOOL_MARK_WRITES_MAX 8
/* Bodies in files of their own that are open at a time. */
#define SPOOL_BODIES_MAX 128
#endif
/* Segments in a worker's table: 64 GiB of the smallest, 4 TiB of usual ones. The table is touched
 * as it grows. */
#define SPOOL_SEGMENTS_MAX 65536
/* A segment is cut to this at least on small disks. */
#define SPOOL_SEGMENT_BYTES_MIN (256u * 1024)
/* A mark for so many octets of segment: the smallest message of one recipient is about this long
 * with its record, so that marks seldom end a segment. */
#define SPOOL_BYTES_PER_SLOT 1024
/* ... but at least so many: a message of this many recipients fits any segment. */
#define SPOOL_SLOTS_MIN 4096
/* Mark blocks in one write. */
#define SPOOL_MARK_BLOCKS 8
/* Between two writes of marks of one segment: at a thousand deliveries a second ten share a write,
 * and as many may be delivered again after a crash. On a slow disk longer, so many times what the
 * last write took, so that it is there for new mail; but no longer than that. */
#define SPOOL_MARKS_PAUSE_NS (10 * UINT64_C(1000000))
#define SPOOL_MARKS_PAUSE_SHARE 4
#define SPOOL_MARKS_PAUSE_MAX_NS (200 * UINT64_C(1000000))
/* Files of finished segments kept to be written again: their blocks were written once, which
 * makes the next write cheaper. */
#define SPOOL_SPARES_MAX 2
/* Segments being made, sealed and removed at a time. */
#define SPOOL_JOBS_MAX 4
/* Records being copied by the reclaim at a time. */
#define SPOOL_MOVES_MAX 8
/* Body files being unlinked at a time, and waiting for that (what does not fit goes at the next
 * start). */
#define SPOOL_REMOVALS_RUNNING_MAX 8
#define SPOOL_REMOVALS_MAX 65536
#define SPOOL_BODY_OPERATIONS 2
#define SPOOL_RECOVERY_OPERATIONS 8
/* Operations of a worker's spool that may be in flight at once; its io must have room for as many
 * completions. One commit, and the sums of the above. */
#define SPOOL_OPERATIONS_MAX \
    (1 + SPOOL_JOBS_MAX + SPOOL_MARK_WRITES_MAX + SPOOL_REMOVALS_RUNNING_MAX + SPOOL_LOADS_MAX + \
     SPOOL_MOVES_MAX + SPOOL_BODIES_MAX * SPOOL_BODY_OPERATIONS + SPOOL_RECOVERY_OPERATIONS)

/* --- processes --- */
#define WORKERS_MAX 256
#define LISTENERS_MAX 16
#define NEXT_HOPS_MAX 256
#define SERVERS_PER_HOP_MAX 16

_Static_assert(BLOCK_BYTES >= COMMAND_LINE_BYTES_MAX, "a carried line fits one block");
_Static_assert(BLOCK_BYTES >= RECEIVER_REPLY_ROOM, "a reply fits one block");
_Static_assert(BLOCK_BYTES >= SENDER_COMMAND_ROOM, "a command fits one block");
_Static_assert((BUFFERS_OFFERED & (BUFFERS_OFFERED - 1)) == 0, "the kernel wants a power of two");
_Static_assert(SPOOL_STAGING_BYTES >= RECORD_ENVELOPE_BYTES_MAX + 4096,
               "header and envelope of a record go into one group");
_Static_assert(SPOOL_STAGING_BYTES % 4096 == 0 && SPOOL_LOAD_BYTES % 4096 == 0 &&
                   SPOOL_RECOVERY_BYTES % 4096 == 0 && SPOOL_SEGMENT_BYTES_MIN % 4096 == 0,
               "direct I/O is in blocks");
_Static_assert(SPOOL_SEGMENT_BYTES_MAX >= SPOOL_SEGMENT_BYTES_MIN, "a segment can be made");
_Static_assert(SPOOL_JOBS_MAX <= 8, "bits of job_blocks_used");
_Static_assert(MAILBOX_BYTES_MAX + ORCPT_BYTES_MAX + ENVID_BYTES_MAX + 128 < COMMAND_LINE_BYTES_MAX,
               "a legal RCPT or MAIL fits the command line");

#endif
