#!/usr/bin/env python3
"""Runs the steps of `make test` and closes with one line 'N passed, N failed' that counts all of their tests.

usage: tests/run.py [STEP...]     all steps but canaries, system-asan and system-tsan when none is named
The output of each step goes through, and into build/test-logs/STEP.log.
"""
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "test-logs"
MAKE = [os.environ.get("MAKE", "make"), "--no-print-directory"]

PLAIN = re.compile(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$", re.M)
CRITERION = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)")
# What of a failed step is worth reading again at the end, and how much of it.
TROUBLE = re.compile(r"FAILED|FAIL\b|NOT FOUND|not ok|\berror\b|assertion|Sanitizer|\| |stopped after|\*\*\*", re.I)
TROUBLE_LINES = 60
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def tiny_exists():
    return "LIMITS_TINY" in re.sub(r"/\*.*?\*/", "", (ROOT / "core/limits.h").read_text(), flags=re.S)


def system_exists():
    return (ROOT / "tests/system/run.py").exists()


def any_file(pattern):
    return any(ROOT.glob(pattern))


STEPS = [  # (name, make arguments, seconds it may take, is there anything to run?)
    ("build", ["build"], 600, lambda: True),
    ("check", ["check"], 60, lambda: True),
    ("unit", ["unit"], 600, lambda: any_file("tests/unit/*.c")),
    ("unit-asan", ["MODE=asan", "unit"], 900, lambda: any_file("tests/unit/*.c")),
    ("unit-tiny", ["MODE=tiny", "unit"], 900, lambda: any_file("tests/unit/*.c") and tiny_exists()),
    ("fuzz", ["fuzz-smoke"], 1800, lambda: any_file("tests/fuzz/fuzz_*.c")),
    ("sim-spool", ["sim-spool"], 900, lambda: any_file("tests/sim/*.c")),
    ("sim-net", ["sim-net"], 600, lambda: any_file("tests/sim/net_*.c")),
    ("sim", ["sim-smoke"], 900, lambda: any_file("tests/sim/relay_*.c")),
    ("canaries", ["sim-canaries"], 1800, lambda: any_file("tests/sim/*.c")),
    ("system", ["system"], 1800, system_exists),
    # All but the comparison of relays and the demo, which are about the programs around it, and the hostile corpus,
    # which unit-asan feeds to the same state machines at every cut.
    ("system-asan", ["MODE=asan", "system", "SYSTEM_TESTS=" + " ".join(
        f"-k '{name}*'" for name in ("test_[!bdh]", "test_bodies", "test_delivery"))], 1800, system_exists),
    # Those in which threads meet: start, stop, reload, hand-over, statistics, the queue's commands, recovery.
    ("system-tsan", ["MODE=tsan", "system", "SYSTEM_TESTS=" + " ".join(
        f"-k '{name}*'" for name in ("test_smoke", "test_process", "test_spool.", "test_queue", "test_ledger",
                                     "test_torture", "test_tls.Reload", "test_limits"))], 1800, system_exists),
]
ONLY_WHEN_NAMED = {"canaries", "system-asan", "system-tsan"}


def run(name, arguments, seconds_max):
    """Returns (exit status, output). A step over its time is killed with its children and counts as failed."""
    log = LOGS / f"{name}.log"
    process = subprocess.Popen(MAKE + arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, text=True, errors="replace", start_new_session=True)
    late = threading.Event()

    def stop():
        late.set()
        os.killpg(process.pid, 9)

    timer = threading.Timer(seconds_max, stop)
    timer.start()
    output = []
    with log.open("w") as file:
        for line in process.stdout:
            output.append(line)
            file.write(line)
            # The closing line of the whole run must be the only one of its kind.
            shown = line if not PLAIN.match(line) else f"{name}: {line}".replace(" passed,", " passed and")
            sys.stdout.write(shown)
            sys.stdout.flush()
    status = process.wait()
    timer.cancel()
    if late.is_set():
        print(f"{name}: stopped after {seconds_max} s")
        status = 1
    return status, COLOURS.sub("", "".join(output))


def count(name, status, output):
    """Returns (passed, failed, skipped) of one step's output."""
    passed = failed = skipped = 0
    plain = PLAIN.findall(output)
    criterion = CRITERION.findall(output)
    if criterion:
        tested, passed, failing, _crashing = map(int, criterion[-1])  # a crash is a failure, too
        failed = failing
        skipped = tested - passed - failed
    elif plain:
        passed, failed, skipped = (int(number or 0) for number in plain[-1])
    elif name == "build":
        passed = 1 if status == 0 else 0
    if status != 0 and failed == 0:
        failed = 1
    if status == 0 and passed == 0:
        print(f"{name}: no test was counted")
        failed += 1
    return passed, failed, skipped


def main():
    wanted = sys.argv[1:] or [name for name, *_ in STEPS if name not in ONLY_WHEN_NAMED]
    unknown = [name for name in wanted if name not in {step[0] for step in STEPS}]
    if unknown:
        sys.exit(f"tests/run.py: unknown step {unknown[0]}; steps: {' '.join(step[0] for step in STEPS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    totals = [0, 0, 0]
    rows, trouble = [], []
    for name, arguments, seconds_max, exists in STEPS:
        if name not in wanted:
            continue
        if not exists():
            print(f"== {name}: nothing to run", flush=True)
            continue
        print(f"== {name}: make {' '.join(arguments)}", flush=True)
        start = time.monotonic()
        status, output = run(name, arguments, seconds_max)
        counts = count(name, status, output)
        rows.append((name, counts, time.monotonic() - start))
        if counts[1]:
            trouble.append((name, [line for line in output.splitlines() if TROUBLE.search(line)][-TROUBLE_LINES:]))
        totals = [total + number for total, number in zip(totals, counts)]
        if name == "build" and status != 0:
            break
    for name, lines in trouble:
        print(f"== what failed in {name} (build/test-logs/{name}.log has all)")
        for line in lines:
            print(f"   {line[:200]}")
    print("== summary")
    for name, (passed, failed, skipped), seconds in rows:
        verdict = "FAILED" if failed else "ok"
        print(f"   {name:<10} {passed:5} passed {failed:4} failed {skipped:3} skipped {seconds:7.1f} s  {verdict}")
    skipped = f", {totals[2]} skipped" if totals[2] else ""
    print(f"{totals[0]} passed, {totals[1]} failed{skipped}")
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
