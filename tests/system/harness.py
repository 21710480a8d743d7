"""What every system test stands on: the real relay, scripted next hops, an obedient client.

A test file is test_*.py with classes derived from SystemTest; run.py finds and runs it. All traffic
is on 127.0.0.1, all ports are free ones, and only processes started here are ended, by their id.
"""
import contextlib
import copy
import email.utils
import glob
import http.client
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import ssl
import string
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any, Callable, Iterable, Iterator

from certificates import Certificate, Certificates, certificates
from next_hop import (Default, Delay, Drop, EXTENSIONS, Message, NextHop, Raw, Reset, Session,
                      Stall)

__all__ = ["Certificate", "Certificates", "Client", "Default", "Delay", "Drop", "EXTENSIONS",
           "Message", "NextHop", "Raw", "Relay", "Reply", "Reset", "Session", "Stall", "SystemTest",
           "SLOW", "certificates", "find_tool", "reserve_port", "seconds_max", "stuffed",
           "wait_for"]

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.path.abspath(os.environ.get("RINGPOST") or ROOT / "build" / "ringpost")
SANITIZER_MARKS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:",
                   "WARNING: ThreadSanitizer", "ringpost: assertion failed")
DRAIN_SECONDS = 45


def is_sanitized() -> bool:
    if os.environ.get("RINGPOST_SANITIZER"):
        return True
    with contextlib.suppress(OSError):
        return b"__ubsan_handle" in pathlib.Path(BINARY).read_bytes()
    return False


# Every deadline of ours is multiplied by this: sanitizers cost time.
SLOW = float(os.environ.get("RINGPOST_TEST_SLOW") or (4 if is_sanitized() else 1))


# --- waiting, ports, programs ---

# The log thread writes at least 20 times a second (core/log_writer.c).
LOG_BEHIND_SECONDS = 0.1


def wait_for(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """Polls until condition() is true; returns what it returned."""
    end = time.monotonic() + seconds * SLOW
    pause = 0.001
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * SLOW:g} s: {what or condition}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return result


def reserve_port(address: str = "127.0.0.1") -> socket.socket:
    """A bound socket that does not listen. A server that sets SO_REUSEADDR can listen on its port
    while nobody else gets it; hold it as long as the port is needed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((address, 0))
    return holder


def is_listening(port: int) -> bool:
    """Without connecting: a probe would be a session, and counted."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                    return True
    return False


def find_tool(name: str) -> str:
    """The path of a peer program. A missing one is a skip on a developer's machine, never in CI."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed")
    return path


def missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        raise AssertionError(f"{what}, and CI must test everything (make deps-test)")
    raise unittest.SkipTest(what)


def seconds_max(seconds: float) -> Callable:
    """Decorator: what run.py allows this test or class, in place of its default."""
    def mark(item):
        item.seconds_max = seconds
        return item
    return mark


def stuffed(data: bytes) -> bytes:
    """A message (CRLF lines) as it goes through DATA, with the final dot."""
    wire = data.replace(b"\r\n.", b"\r\n..")
    if wire.startswith(b"."):
        wire = b"." + wire
    return wire + (b"" if wire.endswith(b"\r\n") or not wire else b"\r\n") + b".\r\n"


# --- the relay ---

# RINGPOST_TEST_USER=nobody: root's relays become that user, in folders that are its own.
TEST_USER = os.environ.get("RINGPOST_TEST_USER") or pwd.getpwuid(os.geteuid()).pw_name

DEFAULTS: dict[str, Any] = {
    "hostname": "edge.test",
    "workers": 1,
    # Not `ringpost`, where the system has such a user: it could not reach a test's folder.
    "user": TEST_USER,
    "listen": {"smtp": {"address": "127.0.0.1:0"}},
    "accept": {"networks": ["127.0.0.0/8"]},
    "next_hop": {"internal": {"servers": [], "tls": "none"}},
    "route": {"*": "internal"},
    # Nothing is kept: what a next hop says is what the client hears. Tests of the spool say so.
    "delivery": {"on_defer": "pass"},
    "stats": {"address": "unix:stats.sock"},
    "log": {"target": "stderr", "format": "json"},
}


def merge(base: dict, changes: dict) -> dict:
    """Deep; a value of None takes the key away."""
    for key, value in changes.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)
    return base


class Relay:
    """`ringpost run` in a folder of its own.

    config: a dict merged into DEFAULTS (None takes a key away), or a whole YAML text in which
    $port, $server, $folder, $certificate and $key are replaced. next_hop: a NextHop, or several
    (servers of next hop `internal`, in order). tls: the `tls` of listener smtp; its certificate is
    `certificate`, by default that for localhost. Addresses of listeners with port 0 get a free
    port: .ports[name]; .port is that of smtp. start=False only writes the configuration.
    wrapper: a command that runs the relay (confined.py).
    """

    def __init__(self, next_hop: NextHop | Iterable[NextHop] | None = None,
                 config: dict | str | None = None, *, tls: str | None = None,
                 certificate: Certificate | None = None, start: bool = True,
                 arguments: Iterable[str] = (), environment: dict[str, str] | None = None,
                 wrapper: Iterable[str] = ()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-test-"))
        self.file = self.folder / "ringpost.yaml"
        self.stderr = self.folder / "stderr.log"
        self.holders: list[socket.socket] = []
        self.ports: dict[str, int] = {}
        self.process: subprocess.Popen | None = None
        self.arguments, self.wrapper = list(arguments), list(wrapper)
        self.environment = environment
        self.exit_status: int | None = None
        hops = [next_hop] if isinstance(next_hop, NextHop) else list(next_hop or [])
        self.certificate = certificate
        if isinstance(config, str):
            self._write_text(config, hops)
        else:
            self._write(config or {}, hops, tls)
        if start:
            self.start()

    # --- configuration ---

    def _reserve(self, address: str = "127.0.0.1") -> int:
        holder = reserve_port(address)
        self.holders.append(holder)
        return holder.getsockname()[1]

    def _certificate(self) -> Certificate:
        self.certificate = self.certificate or certificates().localhost
        return self.certificate

    def _write_text(self, text: str, hops: list[NextHop]) -> None:
        values = {"port": str(self._reserve()), "folder": str(self.folder),
                  "server": hops[0].server if hops else "127.0.0.1:9"}
        self.ports["smtp"] = int(values["port"])
        if "$certificate" in text:
            values["certificate"], values["key"] = self._certificate()[:2]
        self.config = None
        if "\nuser:" not in text:
            text = text.rstrip() + f"\nuser: {TEST_USER}\n"
        self.file.write_text(string.Template(text).substitute(values))

    def _write(self, changes: dict, hops: list[NextHop], tls: str | None) -> None:
        config = copy.deepcopy(DEFAULTS)
        if hops:
            config["next_hop"]["internal"]["servers"] = [hop.server for hop in hops]
        if tls:
            config["listen"]["smtp"]["tls"] = tls
        merge(config, changes)
        needs = any(one.get("tls", "none") != "none" for one in config["listen"].values())
        if needs and "tls" not in changes:
            config["tls"] = {"certificate": self._certificate().certificate,
                             "key": self._certificate().key}
        elif needs and isinstance(config["tls"], dict) and not (
                {"certificate", "certificates"} & set(config["tls"])):
            config["tls"] |= {"certificate": self._certificate().certificate,
                              "key": self._certificate().key}
        for name, listener in config["listen"].items():
            addresses = listener["address"]
            addresses = [addresses] if isinstance(addresses, str) else addresses
            listener["address"] = [self._with_port(name, one) for one in addresses]
        stats = config.get("stats", {}).get("address")
        if stats:
            stats = [stats] if isinstance(stats, str) else stats
            config["stats"]["address"] = [self._with_port("stats", one) for one in stats]
        self.config = config
        self.rewrite()

    def _with_port(self, name: str, address: str) -> str:
        if address.startswith("unix:"):
            return address
        host, port = address.rsplit(":", 1)
        number = int(port) or self._reserve(host.strip("[]"))
        self.ports.setdefault(name, number)
        return f"{host}:{number}"

    def rewrite(self, changes: dict | None = None) -> None:
        """Writes the file (JSON is YAML), after changes to .config; then reload()."""
        merge(self.config, changes or {})
        self.file.write_text(json.dumps(self.config, indent=2) + "\n")

    @property
    def port(self) -> int:
        return self.ports["smtp"]

    # --- the process ---

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> "Relay":
        assert os.access(BINARY, os.X_OK), f"no binary {BINARY}: run make, or set RINGPOST"
        environment = {**os.environ, **(self.environment or {})}
        if os.environ.get("RINGPOST_TEST_USER"):
            self._give(pwd.getpwnam(TEST_USER))
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*self.wrapper, BINARY, "run", "-c", str(self.file), *self.arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=environment)
        self.exit_status = None
        wait_for(self._is_up, 20, "the relay listens")
        return self

    def _give(self, user: pwd.struct_passwd) -> None:
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the relay ended with {self.process.returncode} at its start:\n"
                                 + self.stderr_text())
        if not all(is_listening(port) for name, port in self.ports.items()):
            return False
        if not self.stats_socket:
            return True
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.http("/healthz")[0] == 200
        return False

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def reload(self) -> None:
        """SIGHUP, and waits until the relay has said what came of it."""
        before = self._reloads()
        self.signal(signal.SIGHUP)
        wait_for(lambda: self._reloads() > before, 10, "the log says that a reload was made")

    def _reloads(self) -> int:
        return sum("reload: " in line for line in self.log())

    def stop(self, seconds: float = DRAIN_SECONDS) -> None:
        """SIGTERM; it must end with 0 in time, and no sanitizer may have said anything."""
        if self.process is None or self.exit_status is not None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.exit_status = self.process.wait(seconds * SLOW)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise AssertionError(f"the relay did not end within {seconds * SLOW:g} s of SIGTERM"
                                 ) from error
        self._check_sanitizer()
        assert self.exit_status == 0, (
            f"the relay ended with {self.exit_status}:\n{self.stderr_text()[-4000:]}")

    def _check_sanitizer(self) -> None:
        text = self.stderr_text()
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            where = re.search(r"log_path=([^:]+)", os.environ.get(name, ""))
            for path in glob.glob(f"{where.group(1)}.{self.process.pid}") if where else ():
                text += pathlib.Path(path).read_text(errors="replace")
        found = [line for line in text.splitlines()
                 if any(mark in line for mark in SANITIZER_MARKS)]
        assert not found, "the relay says:\n" + "\n".join(found[:10]) + "\n" + text[-6000:]

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.exit_status is None:
            self.process.kill()
            self.exit_status = self.process.wait()

    def close(self) -> None:
        """Frees what the test held; stop() first, to see that it ends well."""
        self.kill()
        for holder in self.holders:
            holder.close()
        if os.environ.get("RINGPOST_TEST_KEEP"):
            print(f"kept: {self.folder}", file=sys.stderr)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def cpu_seconds(self) -> float:
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        pages = int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # --- what it says ---

    @property
    def stats_socket(self) -> str | None:
        path = self.folder / "stats.sock"
        wanted = "stats.sock" in self.file.read_text()
        return str(path) if wanted else None

    def http(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("localhost", timeout=10 * SLOW)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            connection.sock.settimeout(10 * SLOW)
            connection.sock.connect(self.stats_socket)
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def stats(self) -> dict[str, Any]:
        """/stats.json. A counter: stats()["counters"]["messages_accepted"], or counter()."""
        status, text = self.http("/stats.json")
        assert status == 200, text
        return json.loads(text)

    def counter(self, name: str) -> float:
        return self.stats()["counters"][name]

    def gauge(self, name: str) -> float:
        return self.stats()["gauges"][name]

    def metrics(self) -> dict[str, float]:
        """/metrics: 'name{label="x"}' -> value."""
        status, text = self.http("/metrics")
        assert status == 200, text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def wait_counter(self, name: str, value: float, seconds: float = 10) -> None:
        """Waits until it is at least `value`."""
        wait_for(lambda: self.counter(name) >= value, seconds, f"{name} >= {value}")

    def stderr_text(self) -> str:
        return self.stderr.read_text(errors="replace") if self.stderr.exists() else ""

    def log(self) -> list[str]:
        target = (self.config or {}).get("log", {}).get("target", "stderr")
        path = self.stderr if target in ("stderr", "syslog") else self.folder / target
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def events(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Log lines of that event whose members have these values (needs log.format json), when
        everything that had happened by now is written."""
        if self.process is not None and self.process.poll() is None:
            time.sleep(LOG_BEHIND_SECONDS * SLOW)
        return self.events_so_far(name, **fields)

    def events_so_far(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        found = []
        for line in self.log():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and name in (None, event.get("event")) and all(
                        event.get(key) == value for key, value in fields.items()):
                    found.append(event)
        return found

    def wait_event(self, name: str, count: int = 1, seconds: float = 10,
                   **fields: Any) -> dict[str, Any]:
        """The count-th such event."""
        wait_for(lambda: len(self.events_so_far(name, **fields)) >= count, seconds,
                 f"{count} log lines {name} {fields}")
        return self.events_so_far(name, **fields)[count - 1]


# --- a client ---

class Reply:
    """Compares equal to its code; str() is the whole text."""

    def __init__(self, lines: list[str]):
        self.lines = lines
        self.code = int(lines[-1][:3])
        self.text = "\n".join(line[4:] for line in lines)

    @property
    def enhanced(self) -> str:
        match = re.match(r"[245]\.\d{1,3}\.\d{1,3}(?= |$)", self.text)
        return match.group(0) if match else ""

    def __eq__(self, other: object) -> bool:
        return self.code == (other.code if isinstance(other, Reply) else other)

    def __hash__(self) -> int:
        return hash(self.code)

    def __repr__(self) -> str:
        return " / ".join(self.lines)


class Client:
    """A raw SMTP client: sends octets as they are, reads replies strictly.

    where: a Relay or a port. The greeting is read at once unless greeting=False."""

    def __init__(self, where: "Relay | int", *, tls: bool = False, greeting: bool = True,
                 context: ssl.SSLContext | None = None, server_name: str | None = "localhost",
                 seconds: float = 20.0, source: str | None = None, address: str = "127.0.0.1",
                 receive_buffer: int = 0):
        self.port = where if isinstance(where, int) else where.port
        self.socket: Any = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(seconds * SLOW)
        self.socket.connect((address, self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.extensions: dict[str, str] = {}
        self.greeting: Reply | None = None
        if tls:
            self.handshake(context, server_name)
        if greeting:
            self.greeting = self.reply()

    # --- octets ---

    def send(self, data: bytes | str) -> None:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)

    def drip(self, data: bytes, sizes: Iterable[int] | int = 1, pause: float = 0.0) -> None:
        """Sends it in pieces of these sizes (a number: all alike; the last one repeats). pause:
        seconds between them; TCP_NODELAY makes each a segment, a pause makes it a receive."""
        iterator: Iterator[int] = iter([sizes] if isinstance(sizes, int) else sizes)
        at = size = 0
        while at < len(data):
            size = max(1, next(iterator, size))
            self.send(data[at:at + size])
            at += size
            if pause:
                time.sleep(pause)

    def line(self) -> str:
        while (end := self.buffer.find(b"\n")) < 0:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(f"closed by the relay after {self.buffer!r}")
            self.buffer += data
        line, self.buffer = self.buffer[:end + 1], self.buffer[end + 1:]
        assert line.endswith(b"\r\n"), f"a reply line without CRLF: {line!r}"
        assert len(line) <= 512, f"RFC 5321 4.5.3.1.5: a reply line of {len(line)}: {line!r}"
        return line[:-2].decode("utf-8")

    def reply(self) -> Reply:
        lines = [self.line()]
        while lines[-1][3:4] == "-":
            lines.append(self.line())
        for line in lines:
            assert re.match(r"[2-5][0-9][0-9]([ -]|$)", line), f"not a reply: {lines}"
            assert line[:3] == lines[0][:3], f"codes differ within a reply: {lines}"
        return Reply(lines)

    def replies(self, count: int) -> list[Reply]:
        return [self.reply() for _ in range(count)]

    def is_closed(self) -> bool:
        """Reads on: True at an orderly or abrupt end; octets that came first are in .buffer."""
        try:
            while data := self.socket.recv(65536):
                self.buffer += data
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def is_quiet(self, seconds: float = 0.2) -> bool:
        """Nothing comes for so long. Use it only to show that something does not happen."""
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            self.buffer += self.socket.recv(65536)
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(before)
        return not self.buffer

    # --- SMTP ---

    def command(self, text: str | bytes, expect: int | None = None) -> Reply:
        """One command without its CRLF; with `expect` another code is a failure."""
        self.send((text.encode() if isinstance(text, str) else text) + b"\r\n")
        reply = self.reply()
        assert expect is None or reply.code == expect, f"{text!r}: {reply}, expected {expect}"
        return reply

    def ehlo(self, name: str = "client.test") -> dict[str, str]:
        reply = self.command(f"EHLO {name}", 250)
        words = [line[4:].split(" ", 1) + [""] for line in reply.lines[1:]]
        self.extensions = {word[0].upper(): word[1] for word in words}
        return self.extensions

    def handshake(self, context: ssl.SSLContext | None = None,
                  server_name: str | None = "localhost") -> None:
        context = context or certificates().client_context()
        self.socket = context.wrap_socket(self.socket, server_hostname=server_name)

    def starttls(self, context: ssl.SSLContext | None = None,
                 server_name: str | None = "localhost") -> None:
        """STARTTLS, handshake and EHLO."""
        self.command("STARTTLS", 220)
        assert not self.buffer, f"octets after the 220: {self.buffer!r}"
        self.handshake(context, server_name)
        self.ehlo()

    def envelope(self, sender: str = "a@example.net",
                 recipients: str | Iterable[str] = "b@example.com", parameters: str = "") -> None:
        self.command(f"MAIL FROM:<{sender}>{parameters}", 250)
        for one in [recipients] if isinstance(recipients, str) else recipients:
            self.command(f"RCPT TO:<{one}>", 250)

    def data(self, wire: bytes) -> None:
        """DATA and these octets as they are; the verdict is not read."""
        self.command("DATA", 354)
        self.send(wire)

    def message(self, data: bytes, sender: str = "a@example.net",
                recipients: str | Iterable[str] = "b@example.com", parameters: str = "",
                sizes: Iterable[int] | int | None = None) -> Reply:
        """A transaction by DATA; returns the last reply. sizes: see drip()."""
        self.envelope(sender, recipients, parameters)
        if sizes is None:
            self.data(stuffed(data))
        else:
            self.command("DATA", 354)
            self.drip(stuffed(data), sizes)
        return self.reply()

    def chunked(self, data: bytes, chunk: int = 0, sender: str = "a@example.net",
                recipients: str | Iterable[str] = "b@example.com", parameters: str = "",
                sizes: Iterable[int] | int | None = None) -> Reply:
        """A transaction by BDAT in chunks of this size (0: one), the chunks pipelined."""
        self.envelope(sender, recipients, parameters)
        chunk = chunk or max(1, len(data))
        pieces = [data[at:at + chunk] for at in range(0, len(data), chunk)] or [b""]
        wire = b"".join(b"BDAT %d%s\r\n" % (len(piece), b" LAST" if at == len(pieces) - 1 else b"")
                        + piece for at, piece in enumerate(pieces))
        if sizes is None:
            self.send(wire)
        else:
            self.drip(wire, sizes)
        replies = self.replies(len(pieces))
        for one in replies[:-1]:
            assert one == 250, replies
        return replies[-1]

    def quit(self) -> Reply:
        reply = self.command("QUIT", 221)
        assert self.is_closed(), "not closed after QUIT"
        self.close()
        return reply

    def reset(self) -> None:
        """RST in place of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()


# --- tests ---

RECEIVED = re.compile(
    rb"Received: from\s+(?P<helo>[^\s]+)(?:\s+\((?P<client>[^)]+)\))?\s+by (?P<by>[^\s]+)\s+"
    rb"with (?P<with>[A-Z0-9]+)(?:\s+\((?P<tls>[^)]+)\))?\s+id (?P<id>[0-9A-Za-z-]+)"
    rb"(?:\s+for <(?P<for>[^>]+)>)?;\s+(?P<date>[^\r\n]+)\r\n")


class SystemTest(unittest.TestCase):
    """Ends what a test started, and fails it when a relay does not end well."""
    maxDiff = 2000

    def relay(self, *arguments, **options) -> Relay:
        """A Relay that is stopped, and looked at, when the test is over."""
        relay = Relay(*arguments, start=False, **options)
        self.addCleanup(self._end, relay)
        return relay.start()

    def _end(self, relay: Relay) -> None:
        try:
            relay.stop()
        finally:
            if self._has_failed():
                print(f"--- {relay.file}\n{relay.file.read_text()}--- its log, the last lines\n"
                      f"{relay.stderr_text()[-6000:]}", file=sys.stderr)
            relay.close()

    def _has_failed(self) -> bool:
        """Also during cleanup, which unittest has no public way to ask."""
        result = getattr(getattr(self, "_outcome", None), "result", None)
        return bool(getattr(result, "failures", ()) or getattr(result, "errors", ()))

    def next_hop(self, **options) -> NextHop:
        hop = NextHop(**options)
        self.addCleanup(hop.check)
        self.addCleanup(hop.close)
        return hop

    def client(self, where: Relay | int, **options) -> Client:
        client = Client(where, **options)
        self.addCleanup(client.close)
        return client

    def folder(self) -> pathlib.Path:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-test-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def assert_relayed(self, message: Message | bytes, sent: bytes) -> dict[str, str]:
        """The octets are `sent` with exactly one Received: field before them; returns its parts."""
        data = message if isinstance(message, bytes) else message.data
        match = RECEIVED.match(data)
        self.assertIsNotNone(match, f"no Received: field of ours at {data[:300]!r}")
        rest = data[match.end():]
        if rest != sent:
            self.fail(difference(rest, sent))
        field = match.group(0)
        for line in field.split(b"\r\n"):
            self.assertLessEqual(len(line), 78, field)
        self.assertNotRegex(field, rb"[^\t\r\n\x20-\x7e\x80-\xff]")
        self.assertEqual(match["by"], b"edge.test")
        self.assertRegex(match["with"], rb"^(SMTP|(ESMTP|UTF8SMTP)S?A?)$")
        date = email.utils.parsedate_to_datetime(match["date"].decode())
        self.assertLess(abs(date.timestamp() - time.time()), 300 * SLOW)
        return {key: value.decode() for key, value in match.groupdict().items() if value}


def difference(got: bytes, wanted: bytes) -> str:
    at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b),
              min(len(got), len(wanted)))
    return (f"octets differ at {at}: {len(got)} octets with {got[max(0, at - 20):at + 40]!r}, "
            f"expected {len(wanted)} with {wanted[max(0, at - 20):at + 40]!r}")
