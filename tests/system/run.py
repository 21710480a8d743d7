#!/usr/bin/env python3
"""Finds the system tests, runs them in a few processes, and says in one last line how it went.

usage: tests/system/run.py [-k PATTERN]... [-v] [-j N] [--timeout SECONDS] [--list]
A test that takes too long is interrupted, so that its cleanup runs; if that does not help, its
process is killed with all that it started. A few tests that failed run once more, alone: one that
passes then failed by the load beside it and is listed as such, but one in which a program of ours
crashed has no second chance. Environment: RINGPOST (the binary), CI=true (a missing peer program
is a failure), RINGPOST_TEST_KEEP=1 (keep the folders), RINGPOST_TEST_SLOW=N (more time for
everything).
"""
import argparse
import contextlib
import ctypes
import faulthandler
import fnmatch
import io
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import harness  # noqa: E402  (its folder must be on the path first)

SECONDS_MAX = 90.0
GRACE_SECONDS = 60.0
SECOND_CHANCES = 4  # more failures than that are not the load's
CRASHES = re.compile(r"assertion failed|Sanitizer|runtime error:|exit status -|died by signal|core dumped|SIGSYS")
PR_SET_CHILD_SUBREAPER = 36


# --- the process that runs tests: test ids come in on stdin, results go out as lines of JSON ---

class TooLong(BaseException):
    """Not an Exception: no `except Exception` of a test may swallow it."""


def interrupted(_signal, _frame):
    raise TooLong("the test took too long")


class Result(unittest.TestResult):
    """Of one test."""

    def __init__(self):
        super().__init__()
        self.status, self.text = "ok", ""

    def _bad(self, error, text=""):
        self.status = "FAILED"
        self.text += text + "".join(traceback.format_exception(*error))

    def addError(self, test, err):
        super().addError(test, err)
        self._bad(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._bad(err, f"in {subtest.id()}\n")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.status == "ok":
            self.status, self.text = "skipped", reason

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.status, self.text = "FAILED", "expected to fail, and did not"


def run_one(name: str) -> Result:
    result = Result()
    try:
        suite = unittest.defaultTestLoader.loadTestsFromName(name)
        suite.run(result)
    except TooLong as error:
        result.status = "FAILED"
        result.text += "".join(traceback.format_exception(error))
    if result.testsRun == 0 and result.status == "ok":
        result.status, result.text = "FAILED", f"{name} ran no test"
    return result


def work() -> int:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, interrupted)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    for line in sys.stdin:
        job = json.loads(line)
        said = io.StringIO()
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, job["seconds"])
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = run_one(job["name"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        json.dump({"status": result.status, "text": result.text, "said": said.getvalue(),
                   "seconds": time.monotonic() - start}, out)
        out.write("\n")
        out.flush()
    return 0


# --- the process that hands out the tests ---

class Worker:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "run.py"), "--work"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, start_new_session=True)

    def run(self, name: str, seconds: float) -> dict:
        job = json.dumps({"name": name, "seconds": seconds})
        killer = threading.Timer(seconds + GRACE_SECONDS * harness.SLOW, self.kill)
        killer.start()
        try:
            self.process.stdin.write(job + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            killer.cancel()
        if line:
            return json.loads(line)
        self.kill()
        return {"status": "FAILED", "text": "the process of the test died or was killed for its "
                f"time (exit status {self.process.wait()})\n", "said": "", "seconds": seconds}

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """It leads a process group of its own: what it started goes with it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.5)  # to write where it hangs
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def flatten(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    found = []
    for one in suite:
        found += flatten(one) if isinstance(one, unittest.TestSuite) else [one]
    return found


def limit_of(test: unittest.TestCase, seconds: float) -> float:
    method = getattr(test, getattr(test, "_testMethodName", ""), None)
    own = getattr(method, "seconds_max", None) or getattr(type(test), "seconds_max", None)
    return (own or seconds) * harness.SLOW


def discover(patterns: list[str], seconds: float) -> list[tuple[str, float]]:
    """Names and limits, those that may take longest first."""
    tests = flatten(unittest.defaultTestLoader.discover(str(HERE), "test_*.py", str(HERE)))
    patterns = [one if set(one) & set("*?[") else f"*{one}*" for one in patterns]
    chosen = [(test.id(), limit_of(test, seconds)) for test in tests
              if not patterns or any(fnmatch.fnmatchcase(test.id(), one) for one in patterns)]
    return sorted(chosen, key=lambda item: -item[1])


class Board:
    """Progress and totals."""

    def __init__(self, total: int, verbose: bool):
        self.total, self.verbose, self.done = total, verbose, 0
        self.lock = threading.Lock()
        self.counts = {"ok": 0, "FAILED": 0, "skipped": 0}
        self.failed: list[str] = []
        self.again: list[str] = []  # failed first, passed alone
        self.crashed = False

    def report(self, name: str, result: dict) -> None:
        with self.lock:
            self.done += 1
            self.counts[result["status"]] += 1
            note = f": {result['text']}" if result["status"] == "skipped" else ""
            print(f"{self.done:4}/{self.total} {result['status']:<7} {name} "
                  f"({result['seconds']:.1f} s){note}")
            if result["status"] == "FAILED":
                self.failed.append(name)
                if CRASHES.search(result["text"] + result["said"]):
                    self.crashed = True
                print(indented(result["text"] + result["said"]))
            elif self.verbose and result["said"]:
                print(indented(result["said"]))
            sys.stdout.flush()


def indented(text: str) -> str:
    return "\n".join("     | " + line for line in text.rstrip("\n").splitlines())


def serve(jobs: "queue.SimpleQueue[tuple[str, float]]", board: Board) -> None:
    worker = Worker()
    while True:
        try:
            name, seconds = jobs.get_nowait()
        except queue.Empty:
            break
        if not worker.alive():
            worker = Worker()
        board.report(name, worker.run(name, seconds))
    worker.close()


def second_chance(board: Board, tests: list[tuple[str, float]]) -> None:
    if board.crashed or not 0 < len(board.failed) <= SECOND_CHANCES:
        return
    worker = Worker()
    for name, seconds in tests:
        if name not in board.failed:
            continue
        if not worker.alive():
            worker = Worker()
        print(f"once more, alone: {name}")
        result = worker.run(name, seconds)
        if result["status"] == "ok":
            board.failed.remove(name)
            board.again.append(name)
            board.counts["FAILED"] -= 1
            board.counts["ok"] += 1
        else:
            print(indented(result["text"] + result["said"]))
    worker.close()


def adopt_orphans() -> None:
    """Daemons of a killed test become our children, so that end_orphans() can end them by pid."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def end_orphans() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + 5
        for pid in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        while children() and time.monotonic() < end:
            time.sleep(0.05)


def make_base() -> str:
    """Everything that tests write is below it, and open to users such as postfix."""
    base = tempfile.mkdtemp(prefix="ringpost-tests-")
    os.chmod(base, 0o755)
    os.environ["TMPDIR"] = base
    os.environ["RINGPOST_TEST_CACHE"] = os.path.join(base, "certificates")
    os.mkdir(os.environ["RINGPOST_TEST_CACHE"])
    return base


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the system tests.")
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN", dest="patterns",
                        help="only tests whose name has this (or matches, with * or ?)")
    parser.add_argument("-v", action="store_true", dest="verbose", help="what passing tests say")
    parser.add_argument("-j", type=int, default=(os.cpu_count() or 1) + 1, metavar="N", dest="jobs",
                        help="processes (one more than cores: tests wait more than they work)")
    parser.add_argument("--timeout", type=float, default=SECONDS_MAX, metavar="SECONDS")
    parser.add_argument("--list", action="store_true", help="names only")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work()
    tests = discover(arguments.patterns, arguments.timeout)
    if arguments.list:
        print("\n".join(name for name, _ in tests))
        return 0
    adopt_orphans()
    base = make_base()
    start = time.monotonic()
    jobs: "queue.SimpleQueue[tuple[str, float]]" = queue.SimpleQueue()
    for test in tests:
        jobs.put(test)
    board = Board(len(tests), arguments.verbose)
    threads = [threading.Thread(target=serve, args=(jobs, board))
               for _ in range(max(1, min(arguments.jobs, len(tests))))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        second_chance(board, tests)
    finally:
        end_orphans()
        if not os.environ.get("RINGPOST_TEST_KEEP"):
            shutil.rmtree(base, ignore_errors=True)
    for name in board.again:
        print(f"failed beside others, passed alone: {name}")
    for name in board.failed:
        print(f"FAILED: {name}")
    print(f"{len(tests)} system tests of {harness.BINARY} in {time.monotonic() - start:.0f} s")
    passed, failed, skipped = (board.counts[one] for one in ("ok", "FAILED", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
