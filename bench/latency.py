"""Latency of messages that arrive at a fixed rate (open loop), and what a relay adds to the direct path.

An arrival that finds all connections busy waits, and counts from when it was due: nothing is left
out because the relay was slow. A relay of one thread has a core for itself, and source and sink the
others: where a thread that is pinned shares its core with them, it waits for the end of their
time slices, some milliseconds, which says nothing of the relay. It has the core that stands still
least. All three run before the machine's other programs (SCHED_FIFO, where that is allowed): agents
and kernel workers that take a core for one to six milliseconds, a few times a second, would else
be what the slowest hundredth waits for.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from loads import Load, bench_command
from relays import PEERS
from rig import BenchError, Program, fail, say

# What reads the clock and does nothing else, and says for how long it could not, in milliseconds.
SPIN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
now, end = time.monotonic_ns(), time.monotonic_ns() + int(float(sys.argv[2]) * 1e9)
while now < end:
    last, now = now, time.monotonic_ns()
    if now - last > 1_000_000:
        print((now - last) / 1e6)
"""
SPIN_SECONDS = 4.0
SHARE = 0.5             # of what the relay takes in a closed loop
SECONDS, WARM_SECONDS, ROUNDS = 0.8, 0.3, 5
SLOW_PEERS = ("postfix-proxy",)     # the one that is asked among the slow
LOAD = Load(50, 4096, True, pipelined=True)
CAPACITY_LOADS = ("pipelined", "bench-reused", "reused")
FIRST = os.sched_param(10)      # of SCHED_FIFO


@contextlib.contextmanager
def placed(threads: list[int], cores: set[int]):
    """These threads on these cores, before all others, and then as they were. Those that pin
    themselves do so at their start, and only then."""
    before = []
    for thread in threads:
        with contextlib.suppress(OSError):
            before.append((thread, os.sched_getaffinity(thread), os.sched_getscheduler(thread),
                           os.sched_getparam(thread)))
            os.sched_setaffinity(thread, cores)
            os.sched_setscheduler(thread, os.SCHED_FIFO, FIRST)
    try:
        yield
    finally:
        for thread, cores_before, policy, parameter in before:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(thread, policy, parameter)
                os.sched_setaffinity(thread, cores_before)


def threads_of(program: Program) -> list[int]:
    """But for ringpost's that writes the log: no message waits for it."""
    return [int(task.name) for pid in program.pids()
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
            if (task / "comm").read_text() != "log\n"]


@contextlib.contextmanager
def apart(running, core: int):
    """A relay of one thread on this core; source (which inherits from us) and sink on the others."""
    others = os.sched_getaffinity(0) - {core}
    if PEERS[running.name].workers != 1 or not others:
        yield
        return
    with placed(threads_of(running.relay), {core}), placed([0, *threads_of(running.sink.program)],
                                                           others):
        yield


def times(port: int, rate: float) -> dict[str, float]:
    """p50 and p99 of a message, from when it was due to its 250, in microseconds."""
    argv = bench_command(LOAD, port, ["--rate", f"{rate:.1f}", "--duration", f"{SECONDS}s",
                                      "--warmup", f"{WARM_SECONDS}s", "--json"])
    found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if found.returncode != 0:
        fail(f"{rate:.0f} messages/s: {(found.stderr or found.stdout).strip()[-300:]}")
    result = json.loads(found.stdout)
    if result["arrivals_dropped"] > 0:
        fail(f"{rate:.0f} messages/s: {result['arrivals_dropped']} arrivals were dropped")
    message = result["latency_ns"]["message"]
    return {name: round(message[name] / 1000, 1) for name in ("p50", "p99")}


def standstills() -> list[dict]:
    """How long each core stands still, of a millisecond or more, while a program on each does
    nothing but read the clock: the hypervisor's work, or that of programs of its own. No relay can
    be quicker than its machine. The calmest core first."""
    spins = {core: subprocess.Popen([sys.executable, "-c", SPIN, str(core), str(SPIN_SECONDS)],
                                    stdout=subprocess.PIPE, text=True)
             for core in os.sched_getaffinity(0)}
    found = []
    for core, spin in spins.items():
        times_ms = [float(line) for line in spin.communicate(timeout=60)[0].split()]
        found.append({"core": core, "seconds": SPIN_SECONDS, "count": len(times_ms),
                      "ms": round(sum(times_ms), 1), "longest_ms": round(max(times_ms, default=0), 1)})
    return sorted(found, key=lambda one: (one["ms"], one["core"]))


def capacity(runs: list[dict], peer: str) -> float:
    """Messages a second of a closed loop, the median of the rounds; 0: not known."""
    for load in CAPACITY_LOADS:
        rates = sorted(run["messages_per_s"] for run in runs
                       if run["load"] == load and run["peer"] == peer)
        if rates:
            return rates[len(rates) // 2]
    return 0.0


def measure(running, rate: float, number: int, core: int) -> dict:
    """Direct and through the relay, in turn which is first."""
    ports = {"direct": running.sink.port, "relay": running.port}
    order = ["direct", "relay"] if number % 2 else ["relay", "direct"]
    found = {}
    with apart(running, core):
        for way in order:
            found[way] = times(ports[way], rate)
            time.sleep(0.2)
    direct, relay = found["direct"], found["relay"]
    return {"peer": running.name, "rate": round(rate, 1), "round": number,
            "direct_p50_us": direct["p50"], "direct_p99_us": direct["p99"],
            "p50_us": relay["p50"], "p99_us": relay["p99"],
            "added_p50_us": round(relay["p50"] - direct["p50"], 1),
            "added_p99_us": round(relay["p99"] - direct["p99"], 1)}


def command(field, runs: list[dict], core: int) -> list[dict]:
    """Every relay of a comparison that answers when the next hop has answered, or when it is durable."""
    found = []
    rates = {name: capacity(runs, name) * SHARE for name in field.options.peers
             if capacity(runs, name) > 0}
    for number in range(1, ROUNDS + 1):
        for name, rate in rates.items():
            if field.is_late(f"latency, {name}, round {number}"):
                continue
            running = field.get(name, False)
            if running is None or field.is_dead(running):
                continue
            if PEERS[name].slow and (number % 2 == 0 or name not in SLOW_PEERS):
                continue
            try:
                found.append(measure(running, rate, number, core))
            except (BenchError, KeyError, ValueError, subprocess.SubprocessError) as error:
                field.skip(f"latency, {name}, round {number}", error)
                continue
            last = found[-1]
            say(f"latency {name} at {rate:.0f}/s: p50 {last['p50_us']:.0f} us, p99 "
                f"{last['p99_us']:.0f} us; direct {last['direct_p50_us']:.0f} and "
                f"{last['direct_p99_us']:.0f}")
    return found
