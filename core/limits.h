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
/* Our Received: field; three folded lines of a 255-byte name each and the fixed words. */
#define TRACE_FIELD_BYTES_MAX 1536

/* --- buffers --- */
#ifdef LIMITS_TINY
/* A message spans many buffers, few are offered, and a group of commands rarely fits the queue. */
#define BUFFER_BYTES 1024
#define BUFFERS_OFFERED 4
#define BUFFERS_SURE 2
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
#endif
/* Receive buffers of a worker that are never offered to the kernel: what a session copies, encrypts
 * or decrypts into. */
#define BUFFERS_RESERVED 64
/* One small block: carried partial lines, envelopes, replies waiting to be sent. */
#define BLOCK_BYTES 4096

/* --- processes --- */
#define WORKERS_MAX 256
#define LISTENERS_MAX 16
#define NEXT_HOPS_MAX 256
#define SERVERS_PER_HOP_MAX 16

_Static_assert(BLOCK_BYTES >= COMMAND_LINE_BYTES_MAX, "a carried line fits one block");
_Static_assert(BLOCK_BYTES >= RECEIVER_REPLY_ROOM, "a reply fits one block");
_Static_assert(BLOCK_BYTES >= SENDER_COMMAND_ROOM, "a command fits one block");
_Static_assert((BUFFERS_OFFERED & (BUFFERS_OFFERED - 1)) == 0, "the kernel wants a power of two");
_Static_assert(MAILBOX_BYTES_MAX + ORCPT_BYTES_MAX + ENVID_BYTES_MAX + 128 < COMMAND_LINE_BYTES_MAX,
               "a legal RCPT or MAIL fits the command line");

#endif
