"""measure.py compare: ringpost beside every relay that is there, and beside the bare relay.

All relays run at the same time, each with a next hop of its own, and take the same load in turn:
what is compared was measured in one round, within a minute. A relay that fails is told of, left out
and does not end the run; what was measured is written after every round.
"""
import argparse
import contextlib
import json
import pathlib
import subprocess
import time
from typing import NamedTuple, Optional

import check
import crowd
import idle
import latency
import report
import report_write
import spool
from loads import LOADS, Load, load_run, source_choose
from relays import (PEERS, Running, count_for, peer_check, relay_running, relay_start,
                    run_folder)
from rig import (CPUS, BenchError, Sink, busy_seconds, fail, find_build, say, steal_seconds,
                 table_print)

FAILURES_MAX = 2
CALIBRATION_SHARE = 0.5     # of the time for all rounds
SLOW_IN_TARGETS = "postfix"
# What is of interest of a relay, so that the whole fits its time. Who names relays or loads gets all.
PLAIN = ("single", "reused", "large")
BENCH = ("bench-single", "bench-reused")
INTEREST = {
    "ringpost": PLAIN + BENCH + ("pipelined", "deep", "tls-single", "tls-reused"),
    "ringpost-spool-1": PLAIN + BENCH + ("pipelined", "deep"),
    "ringpost-spool": ("single", "reused"), "haproxy": ("single", "reused"),
    "postfix-proxy": PLAIN + ("tls-single",), "postfix": PLAIN + ("tls-single",),
    "haraka": PLAIN + ("tls-single",), "exim": PLAIN, "opensmtpd": PLAIN,
}
TLS_OF = "ringpost-1"       # BoringSSL alone is timed around its loads with TLS
TLS_SECONDS = 0.25
STOLEN_PERCENT = 5      # by the hypervisor: such a measurement is made again, once
PARTS = ("cpu", "latency", "idle", "tls", "crowd", "disk")
PART_SECONDS = {"latency": 100, "idle": 60, "crowd": 60, "disk": 40}


class Cell(NamedTuple):
    """What one relay does under one load."""
    load: str
    running: Running
    count: int


def progress(text: str, began: float) -> None:
    say(f"[{time.monotonic() - began:4.0f} s] {text}")


# --- one measurement ---

def cell_measure(cell: Cell, options: argparse.Namespace) -> dict:
    """CPU time and rate of one load through one relay."""
    relay, sink, load = cell.running.relay, cell.running.sink, LOADS[cell.load]
    limit = 30 + 20 * options.seconds
    arrived, busy, stolen = sink.messages(), busy_seconds(), steal_seconds()
    cpu, sink_cpu, began = relay.cpu_seconds(), sink.program.cpu_seconds(), time.monotonic()
    seconds, source_cpu = load_run(load, cell.count, cell.running.port, cell.running.folder, limit,
                                   options.source)
    got = sink.messages_wait(arrived + cell.count, limit) - arrived
    wall = time.monotonic() - began
    known = relay.cpu_seconds() - cpu + sink.program.cpu_seconds() - sink_cpu
    other = max(0.0, busy_seconds() - busy - known - source_cpu) / wall / CPUS
    stolen = (steal_seconds() - stolen) / wall / CPUS
    relay.settle()
    cpu = relay.cpu_seconds() - cpu
    if got != cell.count:
        fail(f"{cell.count} messages were sent, {got} arrived")
    return {"messages": cell.count, "seconds": round(seconds, 3),
            "cpu_us_per_message": round(cpu / cell.count * 1e6, 2),
            "messages_per_s": round(cell.count / seconds, 1),
            "source_us_per_message": round(source_cpu / cell.count * 1e6, 2),
            "sink_us_per_message": round((sink.program.cpu_seconds() - sink_cpu) / cell.count * 1e6,
                                         2),
            "other_percent": round(other * 100, 1), "steal_percent": round(stolen * 100, 1),
            "pss_kib": relay.pss_bytes() // 1024}


# --- all of them ---

class Field:
    """The relays that run, and what went wrong with others."""

    def __init__(self, options: argparse.Namespace, stack: contextlib.ExitStack, began: float):
        self.options, self.stack, self.began = options, stack, began
        self.end = began + options.minutes * 60
        self.running: dict[tuple[str, bool], Optional[Running]] = {}
        self.skipped: dict[str, str] = {}

    def get(self, name: str, tls_out: bool) -> Optional[Running]:
        """Starts it when it is first asked for. None: it does not work here."""
        key = (name, tls_out)
        if key not in self.running:
            self.running[key] = None
            try:
                self.running[key] = self.stack.enter_context(
                    relay_running(name, self.options.sink, self.options.keep, tls_out=tls_out))
            except (BenchError, OSError) as error:
                self.skip(name, error)
        return self.running[key]

    def is_late(self, what: str) -> bool:
        """Whether the time for all is over; then what is left out is told of."""
        if time.monotonic() < self.end:
            return False
        self.skip(what, BenchError("no time was left"))
        return True

    def is_dead(self, running: Running) -> bool:
        """Whether it has ended; told once, with its last words."""
        if not running.relay.has_ended():
            return False
        if running.name not in self.skipped:
            self.skip(running.name, BenchError(f"it ended: {running.relay.output_tail()[-300:]}"))
        return True

    def skip(self, what: str, error: Exception) -> None:
        self.skipped.setdefault(what, " ".join(str(error).split())[:300])
        progress(f"{what}: left out: {self.skipped[what]}", self.began)

    def cells(self, deadline: float) -> list[Cell]:
        """Who takes which load, calibrated; slow ones last, that in a target before the others. What
        is too late by then is left out."""
        wanted = [(load, name) for load in self.options.loads for name in self.options.peers
                  if takes(name, load, self.options.narrow)]
        wanted.sort(key=lambda cell: PEERS[cell[1]].slow and 1 + (cell[1] != SLOW_IN_TARGETS))
        cells, late = [], []
        for load, name in wanted:
            if time.monotonic() > deadline:
                late.append(f"{name} {load}")
                continue
            running = self.get(name, LOADS[load].tls_out)
            if running is None or self.is_dead(running):
                continue
            try:
                count = count_for(running, LOADS[load], self.options.seconds, self.options.source)
            except (BenchError, OSError) as error:
                self.skip(f"{name}, {load}", error)
                continue
            cells.append(Cell(load, running, count))
            progress(f"{load} {name}: {count} messages a round", self.began)
        if late:
            self.skip(", ".join(late), BenchError("no time was left"))
        order = list(self.options.loads)
        return sorted(cells, key=lambda cell: order.index(cell.load))


def takes(name: str, load_name: str, narrow: bool) -> bool:
    """Whether this relay can do that, and is of interest there."""
    peer, load = PEERS[name], LOADS[load_name]
    if (load.tls and not peer.tls_in) or (load.tls_out and not peer.tls_out):
        return False
    return not narrow or name not in INTEREST or load_name in INTEREST[name]


def due(cell: Cell, number: int) -> bool:
    """Slow relays take every second round: they are far from the others."""
    return number % 2 == 1 or not PEERS[cell.running.name].slow


def turns(cells: list[Cell], number: int) -> list[Cell]:
    """The order of a round: load by load; nobody is always the first."""
    order = []
    for load in dict.fromkeys(cell.load for cell in cells):
        mine = [cell for cell in cells if cell.load == load]
        shift = (number - 1) % len(mine)
        order += [cell for cell in mine[shift:] + mine[:shift] if due(cell, number)]
    return order


def bare_tls_measure(field: Field, result: dict, cell: Cell, number: int) -> None:
    """BoringSSL alone: handshakes and records as a session has them. Right before the load and right
    behind it: from one second to the next it takes up to a half more here."""
    folder = cell.running.folder
    try:
        found = subprocess.run([find_build("bare_tls"), str(folder / "cert.pem"),
                                str(folder / "key.pem"), str(LOADS[cell.load].octets),
                                str(TLS_SECONDS)],
                               capture_output=True, text=True, check=False, timeout=120)
        if found.returncode != 0:
            fail(found.stderr.strip())
        result["tls"].append({"round": number, "load": cell.load} | json.loads(found.stdout))
    except (BenchError, OSError, subprocess.SubprocessError, ValueError) as error:
        field.skip(f"BoringSSL alone, round {number}", error)


def rounds(field: Field, result: dict, deadline: float, save) -> None:
    options, failures = field.options, {}
    began = time.monotonic()
    cells = field.cells(began + (deadline - began) * CALIBRATION_SHARE)
    for number in range(1, options.rounds + 1):
        for cell in turns(cells, number):
            if time.monotonic() > deadline:
                progress(f"time is over in round {number}", field.began)
                return
            where = f"{cell.running.name}, {cell.load}"
            if failures.get(where, 0) >= FAILURES_MAX or field.is_dead(cell.running):
                continue
            with_tls = ("tls" in options.parts and LOADS[cell.load].tls
                        and cell.running.name == TLS_OF)
            try:
                if with_tls:
                    bare_tls_measure(field, result, cell, number)
                run = cell_measure(cell, options)
                if run["steal_percent"] > STOLEN_PERCENT:
                    run = min(run, cell_measure(cell, options), key=lambda one: one["steal_percent"])
                if with_tls:
                    bare_tls_measure(field, result, cell, number)
            except (BenchError, OSError) as error:
                failures[where] = failures.get(where, 0) + 1
                field.skip(f"{where}, round {number}", error)
                continue
            result["runs"].append({"load": cell.load, "peer": cell.running.name, "round": number}
                                  | run)
            progress(f"round {number}/{options.rounds} {cell.load} {cell.running.name}: "
                     f"{run['cpu_us_per_message']:.1f} us/message, {run['messages_per_s']:.0f}/s, "
                     f"other work {run['other_percent']:.0f} %, steal "
                     f"{run['steal_percent']:.0f} %", field.began)
        save()


# --- the other parts ---

def part_disk(options: argparse.Namespace) -> list[dict]:
    """Spool mode on a disk of 300 writes a second, and the bare commit loop on the same."""
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(run_folder(options.keep))
        brake = spool.Brake(base, options.writes)
        stack.callback(brake.remove)
        sink = stack.enter_context(Sink("ringpost", base))
        relay, port = relay_start("ringpost-spool", base, sink.port)
        peer = Running("ringpost-spool", base, stack.enter_context(relay), sink, port)
        brake.take_relay(relay)
        plan = argparse.Namespace(seconds=2.0, rounds=min(3, options.rounds))
        return spool.rounds([peer], Load(10, 4096, True), plan, brake)


def parts(field: Field, result: dict, save) -> None:
    """What is measured once, after the rounds."""
    options = field.options
    work = {"standstills": ("latency", latency.standstills),
            "latency": ("latency", lambda: latency.command(field, result["runs"],
                                                           result["standstills"][0]["core"])),
            "idle": ("idle", lambda: idle.both(options, field)),
            "crowd": ("crowd", lambda: crowd.command(options)),
            "disk": ("disk", lambda: part_disk(options))}
    for name, (part, measure) in work.items():
        if part not in options.parts:
            continue
        if field.is_late(name):
            continue
        progress(name, field.began)
        try:
            result[name] = measure()
        except (BenchError, OSError, subprocess.SubprocessError, KeyError, ValueError) as error:
            field.skip(name, error)
        save()


# --- the command ---

def summary_print(result: dict) -> None:
    for load in dict.fromkeys(run["load"] for run in result["runs"]):
        print(f"\n{load}: {result['loads'][load]['text']}")
        table_print(*report.load_table(result, load))
    measured = [target for target in report.targets(result) if target.values]
    if measured:
        print("\nAgainst the targets:")
        table_print(*report.target_table(measured))
    for what, why in result["skipped"].items():
        print(f"left out: {what}: {why}")
    for line in report.warnings(result):
        print(f"warning: {line}")


def outputs(options: argparse.Namespace) -> Optional[pathlib.Path]:
    if not options.output:
        return None
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command_compare(options: argparse.Namespace, facts: dict) -> dict:
    began, folder = time.monotonic(), outputs(options)
    reserve = sum(PART_SECONDS.get(part, 0) for part in options.parts)
    result = {"command": "compare", "machine": facts, "date": time.strftime("%Y-%m-%d"),
              "options": {name: getattr(options, name) for name in
                          ("peers", "loads", "rounds", "seconds", "sink", "parts")},
              "loads": {name: LOADS[name]._asdict() |
                        {"text": str(LOADS[name]),
                         "source": source_choose(LOADS[name], options.source)}
                        for name in options.loads},
              "peers": {name: {"durability": PEERS[name].durability,
                               "workers": PEERS[name].workers} for name in options.peers},
              "runs": [], "tls": [], "skipped": {}}

    def save() -> None:
        result["seconds"] = round(time.monotonic() - began)
        if folder:
            (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n")

    with contextlib.ExitStack() as stack:
        field = Field(options, stack, began)
        field.skipped = result["skipped"]
        for name in list(options.peers):
            try:
                peer_check(name)
            except BenchError as error:
                field.skip(name, error)
                options.peers.remove(name)
        try:
            if "cpu" in options.parts:
                rounds(field, result, began + options.minutes * 60 - reserve, save)
            parts(field, result, save)
        except KeyboardInterrupt:
            say("stopped: what was measured so far is kept")
            field.skipped["the rest"] = "the run was stopped"
    save()
    summary_print(result)
    if folder:
        report_write.write(result, folder, field.skip)
        check.baseline_write(result, folder / "baseline.json")
        print(f"\nwritten: {folder}/README.md, {folder}/results.json")
    return result
