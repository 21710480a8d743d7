"""`ringpost sink` and `ringpost send` as the tests of both run them."""
import contextlib
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

from harness import BINARY, Client, SANITIZER_MARKS, SLOW, SystemTest, wait_for

LISTENING = re.compile(r"sink: listening on (\S+):(\d+)\n")
SUMMARY = re.compile(r"sink: (\d+) connections, (\d+) messages, (\d+) bytes, (\d+) refused"
                     r"(?:, (\d+) faults)?(?:, (\d+) commands pipelined though that was not offered)?\n")


class Sink:
    """A running `ringpost sink`. Its address is the first argument, or a free port."""

    def __init__(self, folder: pathlib.Path, arguments: tuple[str, ...], wrapper: tuple = ()):
        self.out, self.err = folder / "sink.out", folder / "sink.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*wrapper, BINARY, "sink", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                stdout=out, stderr=err)
        self.port = 0
        self.summary: re.Match | None = None
        self.exit_status: int | None = None

    def start(self) -> "Sink":
        found = wait_for(self._listening, 20, "the sink listens")
        self.address, self.port = found.group(1), int(found.group(2))
        return self

    def _listening(self) -> re.Match | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the sink ended with {self.process.returncode}: {self.errors()}")
        return LISTENING.search(self.output())

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def output(self) -> str:
        return self.out.read_text()

    def errors(self) -> str:
        return self.err.read_text(errors="replace")

    def lines(self, prefix: str) -> list[str]:
        """What it printed after "sink: PREFIX "."""
        mark = f"sink: {prefix} "
        return [line[len(mark):] for line in self.output().splitlines() if line.startswith(mark)]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, ...]:
        """Ends it; what it reports: connections, messages, bytes, refused, faults, trusting."""
        self.process.send_signal(number)
        self.exit_status = self.process.wait(20 * SLOW)
        assert self.exit_status == 0, f"the sink ended with {self.exit_status}: {self.errors()}"
        self.summary = SUMMARY.fullmatch(self.output().splitlines(True)[-1])
        assert self.summary, f"no report at the end: {self.output()!r}"
        return tuple(int(one or 0) for one in self.summary.groups())

    def close(self) -> None:
        """It must have lived until now, and no sanitizer may have said anything."""
        if self.exit_status is None:
            died = self.process.poll()
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            status = self.process.wait(20 * SLOW)
            assert died is None and status == 0, f"the sink ended with {status}: {self.errors()}"
        found = [line for line in self.errors().splitlines()
                 if any(mark in line for mark in SANITIZER_MARKS)]
        assert not found, self.errors()


class ToolTest(SystemTest):

    def sink(self, *arguments: str, address: str = "127.0.0.1:0", wrapper: tuple = ()) -> Sink:
        sink = Sink(self.folder(), (address, *arguments), wrapper)
        self.addCleanup(self._end_sink, sink)
        return sink.start()

    def _end_sink(self, sink: Sink) -> None:
        try:
            sink.close()
        finally:
            if self._has_failed():
                print(f"--- sink\n{sink.output()[-3000:]}{sink.errors()[-3000:]}", file=sys.stderr)

    def run_tool(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess:
        """`ringpost ARGUMENTS` until it ends. input: octets or text for its standard input."""
        text = options.pop("input", "")
        data = text.encode() if isinstance(text, str) else text
        done = subprocess.run([*options.pop("wrapper", ()), BINARY, *arguments], input=data,
                              capture_output=True, timeout=20 * SLOW, check=False, **options)
        done.stdout = done.stdout.decode("utf-8", "surrogateescape")
        done.stderr = done.stderr.decode("utf-8", "surrogateescape")
        self.assertFalse(any(mark in done.stderr for mark in SANITIZER_MARKS), done.stderr)
        return done

    def greeted(self, sink: Sink, **options: Any) -> Client:
        """A client after EHLO."""
        client = self.client(sink.port, **options)
        client.ehlo()
        return client


def mail_in(maildir: pathlib.Path) -> list[bytes]:
    """The messages of a Maildir, in the order of their names, which is that of their arrival for
    one thread."""
    def order(path: pathlib.Path) -> tuple[int, ...]:
        return tuple(int(one) for one in re.findall(r"\d+", path.name)[:5])

    return [path.read_bytes() for path in sorted((maildir / "new").iterdir(), key=order)]
