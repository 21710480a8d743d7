"""Plays tests/transcripts/hostile/*.smtp over sockets.

Reads the files (format: tests/transcripts/README.md), says how a relay must be set up for them,
sends what the client says in any pieces, and compares replies and deliveries, octet by octet."""
import dataclasses
import pathlib
import random
import re
import select
import time
from typing import Any, Iterable, Iterator

from harness import Client, RECEIVED, ROOT, SLOW
from next_hop import Message

FOLDER = ROOT / "tests" / "transcripts" / "hostile"
ESCAPE = re.compile(rb"\\(?:([rnt\\])|x([0-9A-Fa-f]{2}))")
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
INJECTED = "554 5.5.1 Plaintext after STARTTLS refused"
READY = "220 2.0.0 Ready to start TLS"

# What test_receiver_transcripts.c plays them under.
LIMITS = {"message_size": 65536, "recipients": 100, "errors": 50, "transactions": 100,
          "command_line": 2048, "text_line": 1000, "received_headers": 10}
POLICY_NAMES = {"received": "received_headers"}


# --- reading ---

@dataclasses.dataclass
class Delivery:
    """What the next hop must get: the path of MAIL and its parameters but SIZE and BODY; message
    data without our field."""
    sender: bytes
    parameters: tuple[str, ...]
    recipients: list[bytes] = dataclasses.field(default_factory=list)
    octets: bytes = b""

    def key(self) -> tuple:
        return self.sender, self.parameters, tuple(self.recipients), self.octets


@dataclasses.dataclass
class Item:
    """kind: send (value: octets), drip ((milliseconds, octets)), expect ((line, times)), close,
    tls, end."""
    kind: str
    line: int
    value: Any = None


@dataclasses.dataclass
class Transcript:
    name: str
    items: list[Item] = dataclasses.field(default_factory=list)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    tls: str | None = "starttls"
    deliveries: list[Delivery] = dataclasses.field(default_factory=list)
    over_socket: bool = True

    def setting(self) -> str:
        """Equal for those that one relay can serve."""
        return f"{self.tls} {sorted(self.config.items())}"

    def octets(self) -> int:
        return sum(len(item.value) for item in self.items if item.kind == "send")

    def chunked(self) -> bool:
        return any(b"BDAT" in item.value for item in self.items if item.kind == "send")

    def waits(self) -> bool:
        return any(item.kind in ("drip", "end") for item in self.items)


def unescaped(text: str) -> bytes:
    return ESCAPE.sub(
        lambda found: ESCAPES[found[1]] if found[1] else bytes([int(found[2], 16)]),
        text.encode())


def repeated(text: str) -> bytes:
    count, rest = text.split(" ", 1)
    return unescaped(rest) * int(count)


def read_delivery(transcript: Transcript, text: str) -> None:
    word, _, rest = text.partition(" ")
    if word == "MAIL":
        path, _, parameters = rest.rpartition(">")
        transcript.deliveries.append(
            Delivery(unescaped(path[1:]), tuple(sorted(parameters.split()))))
        return
    delivery = transcript.deliveries[-1]
    if word == "RCPT":
        delivery.recipients.append(unescaped(rest[1:rest.rindex(">")]))
    else:
        made = {"LINE": lambda: unescaped(rest) + b"\r\n", "OCTETS": lambda: unescaped(rest),
                "REPEAT": lambda: repeated(rest)}
        delivery.octets += made[word]()


def read_policy(transcript: Transcript, text: str) -> None:
    for key, value in (one.split("=") for one in text.split()):
        if key == "starttls":
            transcript.tls = "starttls" if value == "1" else None
        elif key == "tls":
            transcript.tls = "implicit" if value == "1" else transcript.tls
        elif key in ("without", "require_tls"):
            transcript.over_socket = False
        else:
            transcript.config[f"limits.{POLICY_NAMES.get(key, key)}"] = int(value)


def read_directive(transcript: Transcript, number: int, line: str) -> None:
    word, _, rest = line.partition(" ")
    if word == "!raw":
        transcript.items.append(Item("send", number, unescaped(rest)))
    elif word == "!repeat":
        transcript.items.append(Item("send", number, repeated(rest)))
    elif word == "!drip":
        pause, _, octets = rest.partition(" ")
        transcript.items.append(Item("drip", number, (int(pause), unescaped(octets))))
    elif word in ("!tls", "!end"):
        transcript.items.append(Item(word[1:], number))
    elif line == "!event CLOSE":
        transcript.items.append(Item("close", number))
    elif word == "!policy":
        read_policy(transcript, rest)
    elif word == "!relay":
        transcript.config |= dict(one.split("=", 1) for one in rest.split())
    elif word == "!verdict":
        transcript.over_socket = False
    else:
        assert word == "!event", f"{transcript.name}:{number}: {line}"


def read(path: pathlib.Path) -> Transcript:
    transcript = Transcript(path.name)
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if line.startswith("C:"):
            transcript.items.append(Item("send", number, line[3:].encode() + b"\r\n"))
        elif line.startswith("S: "):
            transcript.items.append(Item("expect", number, (line[3:], 1)))
        elif found := re.match(r"S\*(\d+): ", line):
            transcript.items.append(Item("expect", number, (line[found.end():], int(found[1]))))
        elif line.startswith("D: "):
            read_delivery(transcript, line[3:])
        elif line.startswith("!"):
            read_directive(transcript, number, line)
        else:
            assert line.startswith("#") or not line, f"{transcript.name}:{number}: {line}"
    return transcript


def read_all() -> list[Transcript]:
    found = [read(path) for path in sorted(FOLDER.glob("*.smtp"))]
    return [transcript for transcript in found if transcript.over_socket]


def relay_config(transcript: Transcript) -> dict[str, Any]:
    config: dict[str, Any] = {"hostname": "mx.example.com", "limits": dict(LIMITS)}
    for key, value in transcript.config.items():
        section, name = key.split(".")
        config.setdefault(section, {})[name] = value
    return config


# --- playing ---

class Player:
    """One session. pieces: how octets are cut; None: groups as they are written, each after the
    replies to the one before."""

    def __init__(self, transcript: Transcript, port: int, pieces: Iterator[int] | None,
                 pause: float = 0.0):
        self.transcript, self.pieces, self.pause = transcript, pieces, pause
        self.client = Client(port, greeting=False, tls=transcript.tls == "implicit")
        self.lines: list[str] = []
        self.ended = False

    def fail(self, item: Item, what: str) -> None:
        raise AssertionError(f"{self.transcript.name}:{item.line}: {what}; before it: "
                             f"{self.lines[-5:]}")

    def play(self) -> None:
        with self.client:
            for phase in self._phases():
                self._phase(phase)
            # Who stumbles in the handshake gets an alert.
            alert = self.ended and self.client.buffer.startswith(b"\x15\x03")
            if self.client.buffer and not alert:
                self.fail(self.transcript.items[-1], f"more came: {self.client.buffer!r}")

    def _phases(self) -> Iterable[list[Item]]:
        """Cut in pieces, all that is sent up to a handshake or an end goes before the first reply
        is looked at."""
        items = self.transcript.items
        if self.pieces is None:
            yield items
            return
        sends: list[Item] = []
        others: list[Item] = []
        for item in items:
            (sends if item.kind in ("send", "drip") else others).append(item)
            if item.kind in ("tls", "end"):
                yield [*sends, *others]
                sends, others = [], []
        yield [*sends, *others]

    def _phase(self, items: list[Item]) -> None:
        gathered = b""
        for item in items:
            if item.kind == "send":
                gathered += item.value
                continue
            self._send(gathered)
            gathered = b""
            if item.kind == "drip":
                self._drip(*item.value)
            elif item.kind == "expect":
                for _ in range(item.value[1]):
                    self._expect(item, item.value[0])
            elif item.kind == "tls" and not self.ended:
                self.client.handshake()
            elif item.kind == "close" and not self.ended and not self.client.is_closed():
                self.fail(item, "the relay does not close")
        self._send(gathered)

    def _send(self, data: bytes) -> None:
        try:
            while data:
                size = len(data) if self.pieces is None else next(self.pieces)
                self.client.send(data[:size])
                data = data[size:]
                self._listen(self.pause if data else 0)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed by the relay, which the replies must explain

    def _drip(self, pause: int, data: bytes) -> None:
        """Until all is sent or the relay says something."""
        for octet in data:
            self._send(bytes([octet]))
            if self._listen(pause / 1000):
                break

    def _listen(self, seconds: float) -> bool:
        """Takes what is there: a relay that cannot write stops reading."""
        if not select.select([self.client.socket], [], [], seconds)[0]:
            return False
        self.client.buffer += self.client.socket.recv(65536)
        return True

    def _expect(self, item: Item, wanted: str) -> None:
        if self.ended:
            return
        try:
            line = self.client.line()
        except (EOFError, OSError) as error:
            self.fail(item, f"want {wanted!r}, came {error!r}")
        # What comes behind STARTTLS is refused when it is there already; later it meets the
        # handshake, and there is no answer.
        if wanted == INJECTED and line == READY and self.pieces is not None:
            self.ended = True
        elif not (line.startswith(wanted[:-1]) if wanted.endswith("*") else line == wanted):
            self.fail(item, f"want {wanted!r}, came {line!r}")
        self.lines.append(line)


def random_pieces(seed: int) -> Iterator[int]:
    draw = random.Random(seed)
    while True:
        yield draw.randint(1, 1 << draw.randint(0, 9))


def octets() -> Iterator[int]:
    while True:
        yield 1


# --- what was delivered ---

def delivered(message: Message) -> Delivery:
    """As the transcripts write it. Our field must be well-formed, and the octets such that no
    server finds an end in them."""
    bad = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", message.wire)
    around = message.wire[max(0, bad.start() - 20):bad.end() + 20] if bad else b""
    assert not bad, f"a bare CR or LF, or NUL, to the next hop: {around!r}"
    field = RECEIVED.match(message.data)
    assert field, f"no Received: field of ours at {message.data[:300]!r}"
    assert field["by"] == b"mx.example.com", field.group(0)
    assert not re.search(rb"[^\t\r\n\x20-\x7e\x80-\xff]", field.group(0)), field.group(0)
    for line in field.group(0).split(b"\r\n"):
        assert len(line) <= 78 or b" " not in line.strip(), field.group(0)
    parameters = sorted(one for one in message.mail_parameters
                        if not one.startswith(("SIZE=", "BODY=")))
    recipients = [one.encode("utf-8", "surrogateescape") for one in message.recipients]
    sender = message.sender.encode("utf-8", "surrogateescape")
    return Delivery(sender, tuple(parameters), recipients, message.data[field.end():])


def differences(wanted: Iterable[Delivery], messages: Iterable[Message]) -> list[str]:
    """What is missing and what is too much, in any order: a queue may deliver in another."""
    missing = [delivery.key() for delivery in wanted]
    extra = []
    for message in messages:
        key = delivered(message).key()
        if key in missing:
            missing.remove(key)
        else:
            extra.append(key)
    return ([f"missing: {key}"[:2000] for key in missing]
            + [f"not wanted: {key}"[:2000] for key in extra])


def settle() -> None:
    """Time for something that must not come."""
    time.sleep(0.1 * SLOW)
