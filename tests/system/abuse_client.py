#!/usr/bin/env python3
"""Clients by the thousand, and good ones whose waiting is measured: each a process of its own, so that
neither waits for the other, nor for the test.

usage: abuse_client.py crowd PORT --kind KIND... --count N [--sources N] [--address A] [--pause S]
       abuse_client.py flood PORT --kind KIND... [--sources N] [--parallel N]
       abuse_client.py good PORT --messages N [--size OCTETS] [--tls CA] [--source A]
A crowd connects and stays, KINDs in turn; a flood comes and goes. Both do so until standard input
ends or says "end"; "report" asks for a line of JSON. Good clients write theirs when they are done.
"""
import argparse
import asyncio
import collections
import json
import resource
import socket
import ssl
import struct
import sys
import time

FIRST_SOURCE = struct.unpack("!I", socket.inet_aton("127.16.0.1"))[0]
ENVELOPE = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
RESET = struct.pack("ii", 1, 0)
SPARE_DESCRIPTORS = 64


def source(number: int) -> str:
    """Every address of 127.0.0.0/8 is ours."""
    return socket.inet_ntoa(struct.pack("!I", FIRST_SOURCE + number))


def raise_descriptors(wanted: int) -> int:
    """What we get."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (max(hard, wanted), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            break
        except (ValueError, OSError):
            continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def client_hello() -> bytes:
    """A whole one, as the ssl module writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    half = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        half.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


HELLO = client_hello()
# Kinds of members: what is sent at once, what after a greeting, what then goes octet by octet, for
# ever.
OCTETS = b"a slow line\r\n"
KINDS = {
    "idle": (b"", b"", b""),
    "greeted": (b"", b"EHLO crowd.test\r\n", b""),
    "half": (b"", b"EHLO crowd.test\r\nNOOP ", b"x"),
    "data": (b"", b"EHLO crowd.test\r\n" + ENVELOPE, OCTETS),
    "resets": (b"", b"EHLO crowd.test\r\n", b""),
    "hello": (HELLO, b"", b""),
    "half-hello": (HELLO[:len(HELLO) // 2], b"", b""),
    "dripping-hello": (HELLO[:6], b"", HELLO[6:]),
    "records": (b"\x16\x03\x01\x40\x00" + bytes(16384), b"", b""),
    "noise": (bytes(range(256)) * 8, b"", b""),
    "nothing": (b"", b"", b""),
}
TRANSACTIONS = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nRSET\r\n" * 20


class Member(asyncio.Protocol):

    def __init__(self, crowd: "Crowd", kind: str):
        self.crowd, self.kind = crowd, kind
        self.first, self.second, self.drip = KINDS[kind]
        self.text, self.at, self.greeted, self.answers = b"", 0, False, 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.crowd.counts["open"] += 1
        if self.first:
            transport.write(self.first)

    def data_received(self, data: bytes) -> None:
        if self.first:
            return
        self.text = (self.text + data)[-4096:]
        if not self.greeted and b"\r\n" in self.text:
            self.greeted = True
            line, _, self.text = self.text.partition(b"\r\n")
            self.crowd.greetings[line[:3].decode() if line.startswith(b"220")
                                 else line.decode("utf-8", "replace")] += 1
            if line.startswith(b"220") and self.second:
                self.transport.write(self.second)
        for code in (b"421 ", b"451 ", b"452 "):
            if b"\r\n" + code in b"\r\n" + self.text:
                end = (b"\r\n" + self.text).rpartition(b"\r\n" + code)[2]
                self.crowd.refusals[(code + end.partition(b"\r\n")[0]).decode()] += 1
                self.text = b""
        if self.kind == "resets" and self.greeted:
            self.pump(data.count(b"\r\n"))

    def pump(self, lines: int) -> None:
        """The next transactions when those before are answered."""
        self.answers -= lines
        if self.answers <= 0 and not self.transport.is_closing():
            self.answers += 60
            self.transport.write(TRANSACTIONS)

    def pulse(self) -> None:
        if self.drip and (self.greeted or self.first) and not self.transport.is_closing():
            self.transport.write(self.drip[self.at % len(self.drip):][:1])
            self.at += 1

    def connection_lost(self, _error) -> None:
        self.crowd.counts["open"] -= 1
        self.crowd.counts["closed"] += 1


class Crowd:

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.counts: collections.Counter = collections.Counter(open=0, closed=0, failed=0)
        self.greetings: collections.Counter = collections.Counter()
        self.refusals: collections.Counter = collections.Counter()
        self.members: list[Member] = []

    async def join(self, number: int) -> None:
        arguments = self.arguments
        kind = arguments.kind[number % len(arguments.kind)]
        member = Member(self, kind)
        local = None if ":" in arguments.address else (source(number % arguments.sources), 0)
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: member, arguments.address, arguments.port, local_addr=local)
            self.members.append(member)
        except OSError:
            self.counts["failed"] += 1

    async def gather(self) -> None:
        for start in range(0, self.arguments.count, 200):
            await asyncio.gather(*(self.join(number) for number in
                                   range(start, min(start + 200, self.arguments.count))))

    async def pulses(self) -> None:
        """Each member's turn comes once in `pause` seconds."""
        while True:
            start = time.monotonic()
            for number, member in enumerate(self.members):
                member.pulse()
                ahead = self.arguments.pause * number / len(self.members)
                if number % 50 == 0 and (rest := start + ahead - time.monotonic()) > 0:
                    await asyncio.sleep(rest)
            rest = start + self.arguments.pause - time.monotonic()
            await asyncio.sleep(max(0.01, rest))

    def report(self) -> dict:
        return {**self.counts, "greetings": dict(self.greetings), "refusals": dict(self.refusals)}

    async def run(self, orders: "Orders") -> None:
        await self.gather()
        pulses = asyncio.create_task(self.pulses())
        await orders.obey(self.report)
        pulses.cancel()
        for member in self.members:
            if self.arguments.reset and not member.transport.is_closing():
                socket_of(member.transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            member.transport.abort()
        await asyncio.sleep(0)


def socket_of(transport: asyncio.BaseTransport) -> socket.socket:
    return transport.get_extra_info("socket")


class Orders:
    """The test's lines on our standard input."""

    async def obey(self, report) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say(report())
        while line := await reader.readline():
            say(report())
            if line.strip() == b"end":
                return


def say(what: dict) -> None:
    print(json.dumps(what), flush=True)


class Flood:
    """Connections that are over as soon as they began; one coroutine for each that is open at a
    time."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.counts: collections.Counter = collections.Counter(done=0, failed=0)
        self.number = 0
        self.stopping = False

    async def one(self, kind: str, number: int) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.bind((source(number % self.arguments.sources), 0))
            await loop.sock_connect(client, (self.arguments.address, self.arguments.port))
            if kind == "rst":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            elif kind == "hello":
                await loop.sock_sendall(client, HELLO)
                await loop.sock_recv(client, 65536)
            elif kind == "half-closed":
                client.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(client, 4096):
                    pass
            elif kind == "greet":
                await loop.sock_recv(client, 4096)
            elif kind == "pipelined":
                await loop.sock_sendall(client, b"EHLO x\r\n" + ENVELOPE)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def again(self) -> None:
        while not self.stopping:
            kind = self.arguments.kind[self.number % len(self.arguments.kind)]
            self.number += 1
            try:
                await asyncio.wait_for(self.one(kind, self.number), 30)
                self.counts["done"] += 1
            except (OSError, asyncio.TimeoutError):
                self.counts["failed"] += 1
                await asyncio.sleep(0.001)
            if self.arguments.rate:
                await asyncio.sleep(self.arguments.parallel / self.arguments.rate)

    async def run(self, orders: Orders) -> None:
        tasks = [asyncio.create_task(self.again()) for _ in range(self.arguments.parallel)]
        await orders.obey(lambda: dict(self.counts))
        self.stopping = True
        await asyncio.gather(*tasks)


# --- good clients ---

class Good:
    """A session for each message; what is measured goes from connect() to the verdict."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.codes: collections.Counter = collections.Counter()
        self.milliseconds: list[float] = []
        self.context = ssl.create_default_context(cafile=arguments.tls) if arguments.tls else None
        body = b"From: a@example.net\r\nSubject: good\r\n\r\n"
        while len(body) < arguments.size:
            body += b"x" * 70 + b"\r\n"
        self.body = body + b".\r\n"

    def expect(self, stream, code: bytes) -> bool:
        line = stream.readline()
        while line[3:4] == b"-":
            line = stream.readline()
        self.last = line
        return line.startswith(code)

    def session(self) -> str:
        """The code of the verdict, or what came in its place."""
        arguments = self.arguments
        with socket.socket() as raw:
            raw.settimeout(arguments.seconds)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.bind((arguments.source, 0))
            raw.connect((arguments.address, arguments.port))
            client = raw
            if self.context:
                client = self.context.wrap_socket(raw, server_hostname="localhost")
            with client, client.makefile("rb") as stream:
                steps = ((None, b"220"), (b"EHLO good.test\r\n", b"250"), (ENVELOPE, b"250"),
                         (None, b"250"), (None, b"354"), (self.body, b"250"))
                for send, code in steps:
                    if send:
                        client.sendall(send)
                    if not self.expect(stream, code):
                        return self.last.decode("utf-8", "replace").strip() or "closed"
                return "250"

    def run(self) -> None:
        for _ in range(self.arguments.messages):
            start = time.monotonic()
            try:
                verdict = self.session()
            except OSError as error:
                verdict = f"{type(error).__name__}: {error}"
            self.milliseconds.append((time.monotonic() - start) * 1000)
            self.codes[verdict] += 1
            time.sleep(self.arguments.pause)
        order = sorted(self.milliseconds)
        # Other work on the machine only adds: of five parts, the quietest says most of the relay.
        part = max(1, len(order) // 5)
        quiet = min(sorted(self.milliseconds[at:at + part])[part * 99 // 100]
                    for at in range(0, part * min(5, len(order)), part))
        say({"codes": dict(self.codes), "p50": order[len(order) // 2],
             "p99": order[len(order) * 99 // 100], "quiet": quiet, "max": order[-1]})


def arguments_read() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("crowd", "flood", "good"))
    parser.add_argument("port", type=int)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--sources", type=int, default=1 << 20)
    parser.add_argument("--source", default="127.0.0.1")
    parser.add_argument("--pause", type=float, default=0.001)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--reset", type=int, default=0)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tls")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_read()
    if arguments.what == "good":
        Good(arguments).run()
        return
    room = raise_descriptors(arguments.count + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS
    arguments.count = min(arguments.count, room)
    player = Crowd(arguments) if arguments.what == "crowd" else Flood(arguments)
    asyncio.run(player.run(Orders()))


if __name__ == "__main__":
    main()
