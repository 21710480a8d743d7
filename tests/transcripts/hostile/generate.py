#!/usr/bin/env python3
"""Writes the transcripts of every neighbourhood of a dot: 01-end-of-data-*.smtp, 02-chunk-octets-*.smtp.

usage: generate.py [--check]     --check: writes nothing, fails when a file is not what would be written

SMTP smuggling lives on servers that disagree about where a message ends. So each combination of up to two octets of CR, LF,
NUL (and none) in front of a dot and behind it is tried, and the expectations come from the rules alone:

  1. Message data of DATA ends at the first CRLF . CRLF, the CRLF of the command counting as one (RFC 5321 4.1.1.4).
  2. Message data is acceptable if each CR is followed by LF, each LF preceded by CR (2.3.8), and there is no NUL (4.5.2).
  3. A line that begins with a dot loses it (4.5.2); in BDAT dots mean nothing (RFC 3030 2).
"""
import itertools
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
OCTETS = {"CR": b"\r", "LF": b"\n", "NUL": b"\0"}
AROUND = [names for count in range(3) for names in itertools.product(OCTETS, repeat=count)]

HEAD = b"Subject: dot\r\n\r\nx"
SMUGGLED = b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: evil\r\n\r\ny\r\n"


def octets(names):
    return b"".join(OCTETS[name] for name in names)


def label(names):
    return "-".join(names).lower() or "nothing"


def escaped(data):
    text = {0x0D: "\\r", 0x0A: "\\n", 0x5C: "\\\\"}
    return "".join(text.get(octet, chr(octet) if 0x20 <= octet < 0x7F else f"\\x{octet:02x}") for octet in data)


def end_of_data(stream):
    """Rule 1: the offset behind it."""
    return re.search(rb"(?:\A|\r\n)\.\r\n", stream, re.S).end()


def refusal(message):
    """Rule 2; None: acceptable."""
    if re.search(rb"\r(?!\n)|(?<!\r)\n", message):
        return "550 5.6.11 Bare CR or LF in the message (RFC 5321 2.3.8)"
    return "554 5.6.0 NUL octet in the message" if b"\0" in message else None


def unstuffed(wire):
    """Rule 3, without the end."""
    return re.sub(rb"(\A|(?<=\r\n))\.", b"", wire[:-3])


def delivery(sender, recipient, message):
    return [f"D: MAIL <{sender}>", f"D: RCPT <{recipient}>", f"D: OCTETS {escaped(message)}"]


def by_data(before, behind):
    stream = HEAD + octets(before) + b"." + octets(behind) + SMUGGLED + b".\r\n"
    wire, rest = stream[:end_of_data(stream)], stream[end_of_data(stream):]
    refused = refusal(wire)
    lines = [f"# {label(before)} . {label(behind)}", "C: MAIL FROM:<a@example.org>", "C: RCPT TO:<b@example.com>",
             "C: DATA", f"!raw {escaped(stream)}", "S: 250 2.1.0 Ok", "S: 250 2.1.5 Ok", "S: 354 *"]
    lines += ["!event ABORT", f"S: {refused}"] if refused else ["!event MESSAGE*", "S: 250 2.0.0 *"]
    if not refused:
        lines += delivery("a@example.org", "b@example.com", unstuffed(wire))
    if rest:  # this was the end: what follows are commands, and the client's own
        assert rest == SMUGGLED + b".\r\n"
        lines += ["S: 250 2.1.0 Ok", "S: 250 2.1.5 Ok", "S: 354 *", "!event MESSAGE*", "S: 250 2.0.0 *"]
        lines += delivery("evil@example.org", "victim@example.com", rest[rest.index(b"DATA\r\n") + 6:-3])
    return lines


def by_chunk(before, behind):
    message = HEAD + octets(before) + b"." + octets(behind) + SMUGGLED + b".\r\n"
    refused = refusal(message)
    lines = [f"# {label(before)} . {label(behind)}", "C: MAIL FROM:<a@example.org>", "C: RCPT TO:<b@example.com>",
             f"C: BDAT {len(message)} LAST", f"!raw {escaped(message)}", "S: 250 2.1.0 Ok", "S: 250 2.1.5 Ok"]
    if refused:
        return lines + ["!event ABORT", f"S: {refused}"]
    return lines + ["!event MESSAGE*", "S: 250 2.0.0 *"] + delivery("a@example.org", "b@example.com", message)


def transcript(before, one, why):
    lines = [f"# Written by generate.py. {why}", f"# In front of the dot: {label(before)}.", "S: 220 *", "C: EHLO c",
             "S*8: 250-*", "S: 250 *"]
    for behind in AROUND:
        lines += one(before, behind)
    return "\n".join(lines + ["C: QUIT", "S: 221 *", "!event CLOSE", ""])


def files():
    for number, before in enumerate(AROUND):
        yield (f"01-end-of-data-{number:02}-{label(before)}.smtp", transcript(
            before, by_data, "RFC 5321 4.1.1.4, SMTP smuggling: only CRLF . CRLF ends a message."))
        yield (f"02-chunk-octets-{number:02}-{label(before)}.smtp", transcript(
            before, by_chunk, "RFC 3030 2: no octet of a chunk ends it, and DATA must not be ended by one."))


def main():
    wanted = dict(files())
    found = {path.name: path.read_text() for number in ("01", "02") for path in HERE.glob(f"{number}-*.smtp")}
    if "--check" not in sys.argv[1:]:
        for name, text in wanted.items():
            (HERE / name).write_text(text)
        return 0
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    print("\n".join(f"{name}: not what generate.py writes" for name in wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
