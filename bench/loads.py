"""Loads: what is sent, by which source.

Sources: smtp-source (Postfix; no TLS, no pipelining), and ringpost-bench, which can all of it.
"""
import contextlib
import pathlib
import resource
import signal
import subprocess
import time
from typing import NamedTuple, Optional

from rig import LIBC, LOCALHOST, BenchError, fail, find_build, find_tool


class Load(NamedTuple):
    sessions: int
    octets: int
    reuse: bool
    tls: bool = False           # STARTTLS from the client
    pipelined: bool = False
    tls_out: bool = False       # STARTTLS to the next hop
    deep: bool = False          # pipelined across messages: the next one's commands behind the end
    source: str = ""            # this one, whatever is asked for

    def __str__(self) -> str:
        size = f"{self.octets >> 20} MiB" if self.octets >= 1 << 20 else f"{self.octets >> 10} KiB"
        kept = "connections reused" if self.reuse else "one message per connection"
        more = [", pipelined across messages"] if self.deep else []
        more += [", pipelined"] if self.pipelined and not self.deep else []
        more += [", STARTTLS in and out"] if self.tls_out else [", STARTTLS"] if self.tls else []
        return f"{self.sessions} sessions, {size}, {kept}" + "".join(more)


LOADS = {
    "single": Load(50, 4096, False),
    "reused": Load(50, 4096, True),
    "bench-single": Load(50, 4096, False, source="ringpost-bench"),
    "bench-reused": Load(50, 4096, True, source="ringpost-bench"),
    "pipelined": Load(50, 4096, True, pipelined=True),
    "deep": Load(50, 4096, True, pipelined=True, deep=True),
    "large": Load(10, 1 << 20, False, source="ringpost-bench"),
    "tls-single": Load(50, 4096, False, tls=True),
    "tls-reused": Load(50, 4096, True, tls=True),
    "tls-both": Load(50, 4096, False, tls=True, tls_out=True),
    "tls-both-reused": Load(50, 4096, True, tls=True, tls_out=True),
}
SOURCES = ("auto", "smtp-source", "ringpost-bench")


def installed(tool: str) -> bool:
    with contextlib.suppress(BenchError):
        return bool(find_tool(tool))
    return False


def source_choose(load: Load, wanted: str) -> str:
    """The program that will send this load. auto: smtp-source where it can, which others can use
    too; else ringpost-bench."""
    plain = not load.tls and not load.pipelined and not load.source
    if wanted != "ringpost-bench" and plain and installed("smtp-source"):
        return "smtp-source"
    return "ringpost-bench"


def bench_command(load: Load, port: int, more: list[str]) -> list[str]:
    pipelining = "deep" if load.deep else "groups" if load.pipelined else "off"
    return [find_build("ringpost-bench"), "load", "--to", f"{LOCALHOST}:{port}", "--quiet",
            "--connections", str(load.sessions), "--per-connection", "all" if load.reuse else "1",
            "--size", str(load.octets), "--pipelining", pipelining, "--helo", "client.test",
            "--from", "from@client.test", "--rcpt", "to@sink.test",
            *(["--starttls"] if load.tls else []), *more]


def load_command(load: Load, count: int, port: int, source: str) -> list[str]:
    if source == "ringpost-bench":
        return bench_command(load, port, ["--messages", str(count)])
    return [find_tool("smtp-source"), "-4", "-s", str(load.sessions), "-l", str(load.octets),
            "-m", str(count), "-C", "5", "-M", "client.test", "-f", "from@client.test",
            "-t", "to@sink.test", *(["-d"] if load.reuse else []), f"{LOCALHOST}:{port}"]


def load_run(load: Load, count: int, port: int, folder: pathlib.Path, seconds_max: float,
             wanted: str = "auto") -> tuple[float, float]:
    """Sends `count` messages; seconds that it took, and CPU seconds of the source."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with open(folder / "source.out", "wb") as output:
        source = subprocess.Popen(load_command(load, count, port, source_choose(load, wanted)),
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                  start_new_session=True,
                                  preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL))
    try:
        status: Optional[int] = source.wait(seconds_max)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        if source.poll() is None:
            source.kill()
            source.wait()
    seconds = time.monotonic() - began
    if status != 0:
        said = (folder / "source.out").read_bytes()[-400:].decode("utf-8", "replace").strip()
        fail(f"the load ended with status {status}: {said}" if status is not None
             else f"{count} messages were not sent within {seconds_max:.0f} s: {said}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu
