"""A next hop that does what a test tells it to, so that the relay meets hostile and broken servers.

One thread per connection. Rules (`hop.on(...)`) replace the polite behaviour; everything that came
is recorded as it came, so that tests can compare octets.
"""
import dataclasses
import re
import socket
import ssl
import threading
import time
from typing import Any, Callable

EXTENSIONS = ("PIPELINING", "SIZE 104857600", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING",
              "ENHANCEDSTATUSCODES")
VERBS = ("EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT")


# --- what a rule can do; a text is a reply (lines joined by \n), a list is done in order ---

@dataclasses.dataclass(frozen=True)
class Raw:
    """These octets, as they are."""
    data: bytes


@dataclasses.dataclass(frozen=True)
class Delay:
    seconds: float


class Drop:
    """Close the connection (FIN)."""


class Reset:
    """Close the connection with RST."""


class Stall:
    """Say nothing and read nothing until release() or close()."""


class Default:
    """What happens without a rule; for lists: [Delay(1), Default()]."""


class Ended(Exception):
    """The connection is over; its text says how."""


@dataclasses.dataclass
class Rule:
    event: str
    action: Any
    connection: int | None
    times: int | None
    match: str | None
    after: int


@dataclasses.dataclass
class Message:
    """What was received. `wire` is the body as it came: with DATA including stuffed dots and the
    final dot. `data` is the message."""
    connection: int
    mail: str
    rcpts: list[str]
    tls: bool
    how: str = ""
    wire: bytes = b""
    chunks: list[int] = dataclasses.field(default_factory=list)
    reply: str = ""

    @property
    def data(self) -> bytes:
        if self.how == "BDAT":
            return self.wire
        body = self.wire[:-3]
        if body.startswith(b"."):
            body = body[1:]
        return body.replace(b"\r\n.", b"\r\n")

    @property
    def sender(self) -> str:
        return path_of(self.mail)

    @property
    def recipients(self) -> list[str]:
        return [path_of(rcpt) for rcpt in self.rcpts]

    @property
    def mail_parameters(self) -> list[str]:
        return self.mail[self.mail.index(">") + 1:].split()


def path_of(command: str) -> str:
    match = re.search(r"<((?:\"(?:[^\"\\]|\\.)*\"|[^>\"])*)>", command)
    return match.group(1) if match else command


class Session:
    """One connection. `commands` has every command line as it came; `closed` says how it ended:
    quit, eof, reset, drop, stopped, tls."""

    def __init__(self, hop: "NextHop", connection: socket.socket, number: int):
        self.hop = hop
        self.socket = connection
        self.number = number
        self.commands: list[str] = []
        self.messages: list[Message] = []
        self.helo = ""
        self.tls = False
        self.tls_version = ""
        self.tls_name: str | None = None
        self.tls_error = ""
        self.injected = b""
        self.closed = ""
        self.buffer = bytearray()
        self.out = b""
        self.mail: str | None = None
        self.rcpts: list[str] = []
        self.chunks: list[bytes] | None = None
        self.answering: Message | None = None

    # --- bytes ---

    def receive(self) -> None:
        self.flush()
        try:
            data = self.socket.recv(262144)
        except ConnectionError as error:
            raise Ended("reset") from error
        except (OSError, ValueError) as error:
            raise Ended("stopped" if self.hop.stopping else f"error: {error}") from error
        if not data:
            raise Ended("eof")
        self.buffer += data

    def flush(self) -> None:
        """Sends what was said. A message is on record before its 250 can be seen."""
        out, self.out = self.out, b""
        if out and self.answering:
            message, self.answering = self.answering, None
            message.reply = out.decode().rstrip("\r\n")
            if out.startswith(b"2"):
                with self.hop.lock:
                    self.messages.append(message)
                    self.hop.messages.append(message)
                self.hop.notify()
        if out:
            self.send(out)

    def send(self, data: bytes) -> None:
        step = len(data) if not self.hop.drip_seconds else 1
        try:
            for start in range(0, len(data), step):
                if start:
                    time.sleep(self.hop.drip_seconds)
                self.socket.sendall(data[start:start + step])
        except (OSError, ValueError) as error:
            raise Ended("stopped" if self.hop.stopping else "reset") from error

    def line(self) -> str:
        while (end := self.buffer.find(b"\n")) < 0:
            self.receive()
        line = bytes(self.buffer[:end + 1])
        del self.buffer[:end + 1]
        if not line.endswith(b"\r\n"):
            self.hop.faults.append(f"command does not end with CRLF: {line!r}")
        return line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")

    # --- actions ---

    def say(self, reply: str) -> None:
        code, rest = reply[:3], reply[4:].split("\n")
        lines = [f"{code}-{text}" for text in rest[:-1]] + [f"{code} {rest[-1]}"]
        self.out += "".join(line + "\r\n" for line in lines).encode()
        if b"\n" not in self.buffer:
            self.flush()

    def act(self, action: Any, default: str) -> str:
        """Does it; returns the last reply said ("" for none)."""
        said = ""
        for one in action if isinstance(action, list) else [action]:
            if callable(one) and not isinstance(one, type):
                one = one(self)
            if isinstance(one, list):
                said = self.act(one, default)
            if isinstance(one, type):
                one = one()
            if isinstance(one, str):
                self.say(said := one)
            elif isinstance(one, Default):
                if default:
                    self.say(default)
                said = default
            elif isinstance(one, Raw):
                self.out += one.data
                self.flush()
                said = one.data.decode("latin-1")
            elif isinstance(one, Delay):
                self.flush()
                self.hop.released.wait(one.seconds)
            elif isinstance(one, Stall):
                self.flush()
                self.hop.stalled += 1
                self.hop.notify()
                self.hop.released.wait()
            elif isinstance(one, Drop):
                self.flush()
                raise Ended("drop")
            elif isinstance(one, Reset):
                self.flush()
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                raise Ended("drop")
        return said

    def answer(self, event: str, default: str, line: str = "") -> str:
        rule = self.hop.rule(event, self.number, line)
        return self.act(rule.action if rule else Default(), default)

    # --- the conversation ---

    def offered(self, name: str) -> bool:
        return any(one.split(" ")[0] == name for one in self.hop.extensions)

    def check_parameters(self, line: str) -> None:
        """RFC 5321 2.2.3: no parameter of an extension that was not offered."""
        needs = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN",
                 "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN"}
        for parameter in line[line.rfind(">") + 1:].split():
            if not self.offered(needs.get(parameter.split("=")[0].upper(), "?")):
                self.hop.faults.append(f"{parameter} was not offered: {line!r}")

    def run(self) -> None:
        try:
            if self.hop.tls and self.hop.implicit_tls:
                self.start_tls()
            reply = self.answer("CONNECT", f"220 {self.hop.hostname} ESMTP")
            if reply.startswith("421"):
                raise Ended("drop")
            while True:
                self.command(self.line())
        except Ended as end:
            self.closed = str(end)
        finally:
            try:
                self.socket.close()
            except OSError:
                pass
            self.hop.notify()

    def start_tls(self) -> None:
        self.flush()
        self.injected, self.buffer = bytes(self.buffer), bytearray()
        if self.injected:
            self.hop.faults.append(f"octets before the TLS handshake: {self.injected!r}")
        try:
            self.socket = self.hop.tls.wrap_socket(self.socket, server_side=True,
                                                   do_handshake_on_connect=False)
            self.hop.sockets.add(self.socket)
            self.socket.do_handshake()
        except (OSError, ValueError) as error:
            self.tls_error = str(error)
            raise Ended("tls") from error
        self.tls, self.tls_version = True, self.socket.version()
        self.helo, self.mail, self.rcpts = "", None, []

    def command(self, line: str) -> None:
        self.commands.append(line)
        self.hop.notify()
        verb = line.split(" ")[0].split(":")[0].upper()
        if self.buffer and not self.offered("PIPELINING") and verb != "BDAT":
            self.hop.faults.append(f"pipelining that was not offered, after {line!r}")
        if verb not in VERBS:
            self.answer(verb, "500 5.5.1 unknown command", line)
            return
        getattr(self, f"do_{verb.lower()}")(line)

    def do_ehlo(self, line: str) -> None:
        names = list(self.hop.extensions)
        if self.hop.tls and not self.tls and self.hop.offer_starttls:
            names.append("STARTTLS")
        if self.answer("EHLO", "\n".join([f"250 {self.hop.hostname}", *names]), line)[:1] == "2":
            self.helo = line

    def do_helo(self, line: str) -> None:
        if self.answer("HELO", f"250 {self.hop.hostname}", line)[:1] == "2":
            self.helo = line

    def do_starttls(self, line: str) -> None:
        default = "220 2.0.0 go ahead" if self.hop.tls and not self.tls else "502 5.5.1 no"
        if self.answer("STARTTLS", default, line).startswith("220"):
            self.start_tls()

    def do_mail(self, line: str) -> None:
        self.check_parameters(line)
        default = "250 2.1.0 ok"
        if not self.helo:
            default = "503 5.5.1 EHLO first"
        elif self.mail is not None:
            default = "503 5.5.1 nested MAIL"
        if self.answer("MAIL", default, line)[:1] == "2":
            self.mail, self.rcpts, self.chunks = line, [], None

    def do_rcpt(self, line: str) -> None:
        self.check_parameters(line)
        default = "250 2.1.5 ok" if self.mail is not None else "503 5.5.1 MAIL first"
        if self.answer("RCPT", default, line)[:1] == "2":
            self.rcpts.append(line)

    def do_data(self, line: str) -> None:
        default = "354 go ahead"
        if self.mail is None or self.chunks is not None:
            default = "503 5.5.1 bad sequence"
        elif not self.rcpts:
            default = "554 5.5.1 no valid recipients"
        if self.answer("DATA", default, line)[:1] != "3":
            return
        message = Message(self.number, self.mail, self.rcpts, self.tls, "DATA")
        message.wire = self.body_until_dot()
        self.finish(message)

    def body_until_dot(self) -> bytes:
        looked = 0
        while True:
            if self.buffer.startswith(b".\r\n"):
                end = 3
                break
            at = self.buffer.find(b"\r\n.\r\n", max(0, looked - 5))
            if at >= 0:
                end = at + 5
                break
            looked = len(self.buffer)
            self.body_so_far(looked)
            self.receive()
        self.body_so_far(end)
        wire = bytes(self.buffer[:end])
        del self.buffer[:end]
        return wire

    def body_so_far(self, octets: int) -> None:
        self.hop.body_octets[self.number] = octets
        rule = self.hop.rule("BODY", self.number, "", octets)
        if rule:
            self.act(rule.action, "")

    def do_bdat(self, line: str) -> None:
        size, last = int(line.split()[1]), line.upper().endswith(" LAST")
        looked = 0
        while len(self.buffer) < size:
            if len(self.buffer) != looked:
                looked = len(self.buffer)
                self.body_so_far(sum(map(len, self.chunks or [])) + looked)
            self.receive()
        chunk = bytes(self.buffer[:size])
        del self.buffer[:size]
        if not self.offered("CHUNKING"):
            self.hop.faults.append("BDAT although CHUNKING was not offered")
        default = "250 2.0.0 chunk ok"
        if self.mail is None or not self.rcpts:
            default = "503 5.5.1 no transaction"
        if default[:1] == "5" or not last:
            if self.answer("BDAT", default, line)[:1] != "2":
                self.mail, self.rcpts, self.chunks = None, [], None
                return
            self.chunks = (self.chunks or []) + [chunk]
            return
        chunks = (self.chunks or []) + [chunk]
        message = Message(self.number, self.mail, self.rcpts, self.tls, "BDAT", b"".join(chunks),
                          [len(one) for one in chunks])
        self.finish(message)

    def finish(self, message: Message) -> None:
        self.flush()
        self.mail, self.rcpts, self.chunks = None, [], None
        with self.hop.lock:
            self.hop.received.append(message)
            count = len(self.hop.received)
        self.hop.notify()
        self.answering = message
        self.answer("END", f"250 2.0.0 ok {self.number}.{count}")
        self.flush()
        self.answering = None

    def do_rset(self, line: str) -> None:
        if self.answer("RSET", "250 2.0.0 ok", line)[:1] == "2":
            self.mail, self.rcpts, self.chunks = None, [], None

    def do_noop(self, line: str) -> None:
        self.answer("NOOP", "250 2.0.0 ok", line)

    def do_quit(self, line: str) -> None:
        self.answer("QUIT", "221 2.0.0 bye", line)
        self.flush()
        raise Ended("quit")


class NextHop:
    """`messages`: those answered 2xx. `received`: all that came whole. `faults`: what the relay did
    wrong as a client (assert that it is empty: check()).

    drip_seconds: replies go out octet by octet with this pause.
    tls: an ssl.SSLContext or a Certificate; offered by STARTTLS, or implicit."""

    def __init__(self, *, extensions: tuple[str, ...] = EXTENSIONS, tls: Any = None,
                 implicit_tls: bool = False, offer_starttls: bool = True,
                 drip_seconds: float = 0.0, hostname: str = "hop.test",
                 address: str = "127.0.0.1", receive_buffer: int = 0):
        self.extensions = tuple(extensions)
        self.tls: ssl.SSLContext | None = tls.server_context() if hasattr(
            tls, "server_context") else tls
        self.implicit_tls, self.offer_starttls = implicit_tls, offer_starttls
        self.drip_seconds, self.hostname, self.address = drip_seconds, hostname, address
        self.receive_buffer = receive_buffer
        self.sessions: list[Session] = []
        self.messages: list[Message] = []
        self.received: list[Message] = []
        self.faults: list[str] = []
        self.body_octets: dict[int, int] = {}
        self.stalled = 0
        self.stopping = False
        self.rules: list[Rule] = []
        if self.tls:
            self.tls.sni_callback = self._name_asked
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.released = threading.Event()
        self.sockets: set[socket.socket] = set()
        self.threads: list[threading.Thread] = []
        # Keeps the port ours while nothing listens on it (refuse()).
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.holder = socket.socket(self.family, socket.SOCK_STREAM)
        self.holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.holder.bind((address, 0))
        self.port: int = self.holder.getsockname()[1]
        self.listener: socket.socket | None = None
        self.listen()

    @property
    def server(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    # --- programming ---

    def on(self, event: str, action: Any, *, connection: int | None = None,
           times: int | None = None, match: str | None = None, after: int = 0) -> "NextHop":
        """The first rule that fits is taken. event: CONNECT, a verb, END (the whole message came),
        BODY (`after` octets of a body came). connection: only the nth, from 1. match: a regular
        expression on the command line. times: so often, then no more. action: a reply, Raw, Delay,
        Drop, Reset, Stall, Default, a function of the session that returns one, or a list."""
        with self.lock:
            once = 1 if event == "BODY" and times is None else times
            self.rules.append(Rule(event, action, connection, once, match, after))
        return self

    def off(self, event: str | None = None) -> None:
        """Forgets rules."""
        with self.lock:
            self.rules = [rule for rule in self.rules if event and rule.event != event]

    def rule(self, event: str, connection: int, line: str, octets: int = 0) -> Rule | None:
        with self.lock:
            for rule in self.rules:
                if rule.event != event or rule.times == 0 or octets < rule.after:
                    continue
                if rule.connection not in (None, connection):
                    continue
                if rule.match and not re.search(rule.match, line, re.I):
                    continue
                if rule.times:
                    rule.times -= 1
                return rule
        return None

    def release(self) -> None:
        """Ends every Stall and Delay, now and later."""
        self.released.set()

    # --- listening ---

    def listen(self) -> None:
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        listener.bind((self.address, self.port))
        listener.listen(1024)
        self.listener = listener
        self._start(self._accept, listener)

    def refuse(self) -> None:
        """Connections are refused from now on; those that are open stay. listen() ends it."""
        listener, self.listener = self.listener, None
        if listener:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def disconnect(self) -> None:
        """Closes every open connection."""
        for session in list(self.sessions):
            try:
                session.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _start(self, target: Callable, *arguments) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                session = Session(self, connection, len(self.sessions) + 1)
                self.sessions.append(session)
                self.sockets.add(connection)
            self._start(session.run)
            self.notify()

    def _name_asked(self, asking: ssl.SSLSocket, name: str | None, _context) -> None:
        for session in self.sessions:
            if session.socket is asking:
                session.tls_name = name

    # --- looking ---

    def notify(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def wait(self, condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
        """Waits until condition() is true and returns what it returned."""
        end = time.monotonic() + seconds
        with self.changed:
            while not (result := condition()):
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"next hop: not within {seconds} s: {what or 'condition'};"
                                         f" it saw {self.transcript()}")
                self.changed.wait(min(left, 0.2))
        return result

    def wait_messages(self, count: int, seconds: float = 20.0) -> list[Message]:
        self.wait(lambda: len(self.messages) >= count, seconds, f"{count} messages")
        return self.messages

    def wait_command(self, verb: str, count: int = 1, seconds: float = 20.0) -> None:
        self.wait(lambda: len(self.commands(verb)) >= count, seconds, f"{count} {verb}")

    def commands(self, verb: str) -> list[str]:
        return [line for session in list(self.sessions) for line in session.commands
                if line.upper().startswith(verb.upper())]

    def transcript(self) -> list[str]:
        return [f"{session.number}: {' | '.join(session.commands[:12])} -> {session.closed}"
                for session in list(self.sessions)[:20]]

    def check(self) -> None:
        assert not self.faults, f"the relay as a client: {self.faults[:5]}"

    def close(self) -> None:
        self.stopping = True
        self.release()
        self.refuse()
        self.disconnect()
        for connection in list(self.sockets):
            try:
                connection.close()
            except OSError:
                pass
        self.holder.close()
        for thread in self.threads:
            thread.join(2)
