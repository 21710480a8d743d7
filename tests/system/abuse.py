"""Abuse by the thousand, and what must be as before when it is over.

RINGPOST_ABUSE=full (make abuse) takes the sizes of the issue tracker's promise, ten thousand
connections; without it the same tests run with sizes that CI has time for.
"""
import contextlib
import http.client
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Iterator

from harness import Relay, SLOW, is_sanitized, wait_for
from tools import Sink, ToolTest
from traffic import deliver

CLIENT = str(pathlib.Path(__file__).with_name("abuse_client.py"))
FULL = os.environ.get("RINGPOST_ABUSE") == "full"
# What memory may grow by through tests of this size: pages of the pools that were touched, and the
# allocator's. Sanitizers keep what was freed, and tell of leaks at the end.
GROWTH_BYTES = (160 << 20) if FULL else (48 << 20)


def size(short: int, full: int) -> int:
    return full if FULL else max(1, short // 4) if is_sanitized() else short


class Helper:
    """A process of abuse_client.py that takes orders."""

    def __init__(self, what: str, relay: Relay | int, *arguments: Any):
        port = relay if isinstance(relay, int) else relay.port
        self.process = subprocess.Popen(
            [sys.executable, CLIENT, what, str(port), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first: dict | None = None

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        assert line, f"abuse_client.py ended with {self.process.wait()}"
        return json.loads(line)

    def wait(self) -> dict:
        """Until all of it is there."""
        self.first = self._read()
        return self.first

    def _order(self, what: str) -> dict:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._read()

    def report(self) -> dict:
        return self._order("report")

    def end(self) -> dict:
        report = self._order("end")
        self.process.wait(60 * SLOW)
        return report

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def good(relay: Relay | int, messages: int, *arguments: Any) -> dict:
    """Good clients' codes, p50, p99, max (milliseconds)."""
    port = relay if isinstance(relay, int) else relay.port
    done = subprocess.run(
        [sys.executable, CLIENT, "good", str(port), "--messages", str(messages),
         "--seconds", str(20 * SLOW), *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, check=True, timeout=300 * SLOW)
    return json.loads(done.stdout)


class State:
    """What a relay holds. Idle next-hop connections are allowed for: they are kept on purpose."""

    def __init__(self, relay: Relay):
        stats = relay.stats()
        self.values = {
            "sessions": sum(one["sessions_current"] for one in stats["workers"]),
            "transactions": stats["gauges"]["transactions_current"],
            "buffers": stats["gauges"]["buffers_in_use"],
            "waiting": sum(one["waiting"] for one in stats["next_hops"]),
            "busy": sum(one["connections_current"] - one["connections_idle"]
                        for one in stats["next_hops"]),
        }
        hops = sum(one["connections_current"] for one in stats["next_hops"])
        self.values["descriptors"] = relay.descriptors() - hops
        self.resident = relay.resident_bytes()


class AbuseTest(ToolTest):

    @contextlib.contextmanager
    def helper(self, what: str, relay: Relay | int, *arguments: Any) -> Iterator[Helper]:
        helper = Helper(what, relay, *arguments)
        try:
            helper.wait()
            yield helper
        finally:
            helper.close()

    def crowd(self, relay, count: int, *kinds: str, **options):
        arguments = [text for kind in kinds for text in ("--kind", kind)]
        arguments += [text for key, value in options.items() for text in (f"--{key}", value)]
        return self.helper("crowd", relay, "--count", count, *arguments)

    def flood(self, relay, *kinds: str, **options):
        arguments = [text for kind in kinds for text in ("--kind", kind)]
        arguments += [text for key, value in options.items() for text in (f"--{key}", value)]
        return self.helper("flood", relay, *arguments)

    def behind(self, *arguments: str) -> tuple[Sink, dict]:
        """A fast next hop, and the configuration that leads to it."""
        sink = self.sink(*arguments)
        return sink, {"next_hop": {"internal": {"servers": [sink.server]}}}

    def all_good(self, report: dict, count: int) -> None:
        self.assertEqual(report["codes"], {"250": count})

    @staticmethod
    def state(relay: Relay) -> State:
        """Of a relay that has nothing to do."""
        wait_for(lambda: State(relay).values["sessions"] == 0, 10, "sessions end")
        return State(relay)

    @staticmethod
    def healthy(relay: Relay) -> bool:
        """While all places are taken it hangs up."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return relay.http("/healthz") == (200, "ok\n")
        return False

    def as_before(self, relay: Relay, before: State, seconds: float = 20) -> None:
        """Everything that the abuse held is given back, and mail goes through."""
        last: list[dict] = [{}]

        def same() -> bool:
            last[0] = State(relay).values
            return last[0] == before.values

        try:
            wait_for(same, seconds)
        except AssertionError as error:
            raise AssertionError(f"before: {before.values}, now: {last[0]}") from error
        if not is_sanitized():
            self.assertLess(relay.resident_bytes(), before.resident + GROWTH_BYTES)
        self.assertEqual(deliver(relay), 250)


def report(name: str, rows: dict[str, dict], note: str = "") -> None:
    """For `make abuse`: what good clients waited, and the ratio to the first row."""
    first = next(iter(rows.values()))
    lines = [f"{name}: {note}" if note else name]
    for what, row in rows.items():
        lines.append(f"  {what:<28} p50 {row['p50']:7.2f} ms  p99 {row['p99']:7.2f} ms (x "
                     f"{row['p99'] / first['p99']:.2f})  quietest fifth's p99 "
                     f"{row['quiet']:6.2f} ms (x {row['quiet'] / first['quiet']:.2f})")
    print("\n".join(lines))
    if where := os.environ.get("RINGPOST_ABUSE_REPORT"):
        with open(where, "a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
