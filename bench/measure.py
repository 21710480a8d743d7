#!/usr/bin/env python3
"""What ringpost costs: CPU per message, memory per idle session, and where the CPU time goes.

  bench/measure.py cpu         CPU time per message, beside other relays
  bench/measure.py idle        memory of open sessions that do nothing
  bench/measure.py profile     functions that the CPU time is spent in (perf), and io_uring calls
  bench/measure.py spool       rate and CPU time of messages made durable, beside other relays
  bench/measure.py queue       very many queued messages: start, memory, delivery

Each command has --help. Needed on Debian: apt-get install postfix haproxy openssl (for profile:
linux-perf; for spool, as you like: exim4-daemon-light, gnuplot-nox). exim4 is searched in PATH, so
that its package may be unpacked anywhere, beside postfix, which it cannot be installed with. The
services may be disabled: nothing of theirs is used but the programs.
The binary is build/ringpost, or what the variable RINGPOST names; RINGPOST_OTHER names the one of
the peers `other` and `other-spool`, to compare two builds. smtp-sink needs
several ms of CPU per MiB, and so bounds the load `large`: --sink ringpost is the quicker next hop.

Nothing leaves the machine: all runs in a network namespace that has only a loopback, or, where that
is not allowed, on free ports of 127.0.0.1. Root is not needed, but as root CPU time is read from a
cgroup, which is exact; without, it comes from /proc, in steps of 10 ms.
"""
import argparse
import contextlib
import json
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import queued
import spool
from relays import PEERS, peer_check, relay_start, run_folder, stats_read
from rig import (CPUS, LOADS, STOPPING, BenchError, Load, Program, Sink, busy_seconds,
                 descriptors_raise, fail, find_binary, find_tool, load_run, network_private, say,
                 sessions_open, slab_bytes, spread, table_print)

CALIBRATION_SECONDS = 1.0
WARM_SECONDS = 1.0
LOAD_CHOICES = {name: [name] for name in LOADS} | {"tls": ["tls-single", "tls-reused"]}


# --- the machine, for whoever reads the figures ---

def first_line(argv: list[str]) -> str:
    with contextlib.suppress(OSError, BenchError):
        found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
        return (found.stdout or found.stderr).strip().partition("\n")[0]
    return ""


def machine_describe(peers: list[str]) -> dict[str, str]:
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    load = pathlib.Path("/proc/loadavg").read_text().split()
    facts = {"processor": f"{model[1] if model else platform.machine()}, {CPUS} in use",
             "kernel": platform.release(),
             "date": time.strftime("%Y-%m-%d"), "load average": ", ".join(load[:3]),
             "ringpost": first_line([find_binary(), "--version"])}
    programs = {PEERS[name].program for name in peers}
    if "haproxy" in programs:
        facts["haproxy"] = first_line([find_tool("haproxy"), "-v"]).partition(" 20")[0]
    if "exim" in programs:
        facts["exim"] = first_line([find_tool("exim4"), "-bV"]).partition(" #")[0]
    with contextlib.suppress(BenchError):
        facts["postfix"] = first_line([find_tool("postconf"), "-d", "-h", "mail_version"])
    return facts


# --- cpu ---

class Plan(NamedTuple):
    """How much to send to one peer under one load; the same in every round."""
    warm: int
    count: int
    rate: float


def round_up(count: float, sessions: int) -> int:
    """A whole number of messages for each session, and two at least."""
    return max(2, -(-int(count) // sessions)) * sessions


@contextlib.contextmanager
def relay_running(peer: str, sink_kind: str, keep: bool = False, sessions_max: int = 10000):
    """Folder, sink, relay and its port."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(run_folder(keep))
        sink = stack.enter_context(Sink(sink_kind, folder))
        relay, port = relay_start(peer, folder, sink.port, sessions_max)
        stack.enter_context(relay)
        yield folder, sink, relay, port


def calibrate(peer: str, load: Load, options: argparse.Namespace) -> Plan:
    with relay_running(peer, options.sink) as (folder, _, _, port):
        count, seconds = round_up(0, load.sessions), 0.0
        while seconds < CALIBRATION_SECONDS:
            count = round_up(count * 3, load.sessions)
            seconds, _ = load_run(load, count, port, folder, 120)
    rate = count / seconds
    return Plan(round_up(rate * WARM_SECONDS, load.sessions),
                round_up(rate * options.seconds, load.sessions), rate)


def measure_cpu(peer: str, load: Load, plan: Plan, options: argparse.Namespace) -> dict:
    limit = 60 + 5 * options.seconds
    with relay_running(peer, options.sink, options.keep) as (folder, sink, relay, port):
        load_run(load, plan.warm, port, folder, limit)
        sink.messages_wait(plan.warm)
        relay.settle()
        arrived_before, busy = sink.messages(), busy_seconds()
        relay_cpu, sink_cpu = relay.cpu_seconds(), sink.program.cpu_seconds()
        seconds, source_cpu = load_run(load, plan.count, port, folder, limit)
        sink_cpu = sink.program.cpu_seconds() - sink_cpu
        known = relay.cpu_seconds() - relay_cpu + sink_cpu + source_cpu
        other = max(0.0, busy_seconds() - busy - known) / seconds / CPUS
        arrived = sink.messages_wait(arrived_before + plan.count, limit) - arrived_before
        relay.settle()
        relay_cpu = relay.cpu_seconds() - relay_cpu
        if arrived != plan.count:
            fail(f"{plan.count} messages were sent, {arrived} arrived")
        return {"messages": plan.count, "seconds": round(seconds, 3),
                "cpu_us_per_message": round(relay_cpu / plan.count * 1e6, 2),
                "messages_per_s": round(plan.count / seconds, 1),
                "source_us_per_message": round(source_cpu / plan.count * 1e6, 2),
                "sink_us_per_message": round(sink_cpu / plan.count * 1e6, 2),
                "other_percent": round(other * 100, 1),
                "pss_kib": relay.pss_bytes() // 1024}


def cpu_table(peers: list[str], load: str, runs: list[dict]) -> None:
    """One row for each peer; ratios are taken within a round, where the machine was the same."""
    def of(peer: str) -> dict[int, dict]:
        return {run["round"]: run for run in runs if run["peer"] == peer and run["load"] == load}

    rows, base = [], of("haproxy")
    for peer in peers:
        mine = of(peer)
        if not mine:
            continue

        def column(name: str) -> str:
            return spread([run[name] for run in mine.values()])

        ratios = [run["cpu_us_per_message"] / base[number]["cpu_us_per_message"]
                  for number, run in mine.items()
                  if number in base and base[number]["cpu_us_per_message"] > 0]
        rows.append([peer, column("cpu_us_per_message"),
                     spread(ratios) if ratios else "-",
                     column("messages_per_s"), str(next(iter(mine.values()))["messages"]),
                     f"{max(run['pss_kib'] for run in mine.values()) / 1024:.1f}",
                     f"{max(run['other_percent'] for run in mine.values()):.0f}"])
    print(f"\n{load}: {LOADS[load]}")
    table_print(["relay", "CPU us/message", "ratio to haproxy", "messages/s", "messages",
                 "memory MiB", "other work %"], rows)


def cpu_rounds(peers: list[str], load: str, options: argparse.Namespace) -> list[dict]:
    able = [peer for peer in peers if PEERS[peer].speaks_tls or not LOADS[load].tls]
    plans, runs = {}, []
    for peer in able:
        plans[peer] = calibrate(peer, LOADS[load], options)
        say(f"{load} {peer}: {plans[peer].rate:.0f} messages/s at first, "
            f"so {plans[peer].count} messages a round")
    for number in range(1, options.rounds + 1):
        shift = (number - 1) % max(1, len(able))    # nobody is always the first
        for peer in able[shift:] + able[:shift]:
            run = measure_cpu(peer, LOADS[load], plans[peer], options)
            runs.append({"load": load, "peer": peer, "round": number, "sink": options.sink} | run)
            say(f"{load} round {number}/{options.rounds} {peer}: "
                f"{run['cpu_us_per_message']:.1f} us/message, {run['messages_per_s']:.0f}/s, "
                f"source {run['source_us_per_message']:.0f} us, "
                f"sink {run['sink_us_per_message']:.0f} us, other work {run['other_percent']:.0f}%")
    return runs


def command_cpu(options: argparse.Namespace) -> dict:
    runs: list[dict] = []
    for load in options.loads:
        runs += cpu_rounds(options.peers, load, options)
        cpu_table(options.peers, load, runs)
    print("\nCPU us/message: user and system time of the relay's processes, median "
          f"(lowest-highest) of {options.rounds}\nrounds of {options.seconds:g} s; source, "
          f"{options.sink} and relay share {CPUS} processors, so messages/s says less.\n"
          "memory: Pss after the load. other work: the most that anything else took of the machine "
          "in a round.")
    return {"runs": runs}


# --- idle ---

def idle_measure(peer: str, options: argparse.Namespace) -> dict:
    load = LOADS["tls-reused" if options.tls else "reused"]
    with relay_running(peer, options.sink, options.keep, options.sessions + 1000) as running:
        folder, _, relay, port = running
        load_run(load, load.sessions * 20, port, folder, 60)
        relay.settle()
        pss, slab, began = relay.pss_bytes(), slab_bytes(), time.monotonic()
        with sessions_open(port, options.sessions, options.tls) as clients:
            seconds = time.monotonic() - began
            relay.settle()
            pss_open, slab_open = relay.pss_bytes(), slab_bytes()
            cpu, began = relay.cpu_seconds(), time.monotonic()
            time.sleep(options.seconds)
            cpu = (relay.cpu_seconds() - cpu) / (time.monotonic() - began)
            alive = sum(client.is_open() for client in clients)
        if alive != options.sessions:
            fail(f"{peer}: only {alive} of {options.sessions} sessions stayed open")
    return {"peer": peer, "sessions": options.sessions, "tls": options.tls,
            "pss_before_kib": pss // 1024, "pss_kib": pss_open // 1024,
            "pss_bytes_per_session": round((pss_open - pss) / options.sessions),
            "slab_bytes_per_session": round((slab_open - slab) / options.sessions),
            "idle_cpu_percent": round(cpu * 100, 2), "open_seconds": round(seconds, 2)}


def command_idle(options: argparse.Namespace) -> dict:
    if options.sessions + 1000 > options.descriptors // 2:
        fail(f"{options.sessions} sessions need more than the {options.descriptors} open files "
             f"that are allowed here (ulimit -Hn): try "
             f"--sessions {options.descriptors // 2 - 1000}")
    runs = []
    for peer in options.peers:
        if options.tls and not PEERS[peer].speaks_tls:
            continue
        say(f"idle {peer}: opening {options.sessions} sessions")
        runs.append(idle_measure(peer, options))
    print(f"\n{options.sessions} idle sessions after {'STARTTLS and ' if options.tls else ''}EHLO")
    table_print(
        ["relay", "Pss before KiB", "Pss with them KiB", "added bytes/session",
         "kernel bytes/session", "CPU % of a core", "seconds to open"],
        [[run["peer"], str(run["pss_before_kib"]), str(run["pss_kib"]),
          str(run["pss_bytes_per_session"]), str(run["slab_bytes_per_session"]),
          f"{run['idle_cpu_percent']:.2f}", f"{run['open_seconds']:.2f}"] for run in runs])
    print("\nPss: user memory of the relay's processes, after a warm-up load. kernel: growth of "
          "Slab in /proc/meminfo,\nwhich counts the sockets of clients, relay and next hop, and "
          "other work of the machine.")
    return {"runs": runs}


# --- profile ---

def perf_read(perf: str, data: pathlib.Path) -> list[tuple[float, str, bool, str]]:
    """(percent, object, is kernel, symbol), the largest first."""
    found = subprocess.run(
        [perf, "report", "--stdio", "-q", "--no-children", "-i", str(data), "-F",
         "overhead,dso,sym", "-t", "|"], capture_output=True, text=True, check=False, timeout=120)
    rows = []
    for line in found.stdout.splitlines():
        match = re.match(r"\s*([\d.]+)%?\s*\|\s*(\S+)\s*\|\s*\[(.)\] (.*?)\s*$", line)
        if match:
            rows.append((float(match[1]), match[2], match[3] == "k", match[4]))
    if not rows:
        fail(f"perf reports nothing: {found.stderr.strip()[-300:]}")
    return sorted(rows, reverse=True)


def perf_record(folder: pathlib.Path, relay: Program, perf: str, work) -> pathlib.Path:
    data = folder / "perf.data"
    argv = [perf, "record", "-F", "997", "-o", str(data)]
    for pid in relay.pids():
        argv += ["-p", str(pid)]
    with Program("perf", argv, folder) as recorder:
        time.sleep(1.0)
        if recorder.has_ended():
            fail(f"perf record: {recorder.output_tail()}\n"
                 "(root, or sysctl kernel.perf_event_paranoid=1, may be needed)")
        work()
        recorder.process.send_signal(signal.SIGINT)
        try:
            recorder.process.wait(60)
        except subprocess.TimeoutExpired:
            fail("perf record did not end")
    return data


def symbols_print(title: str, rows: list[tuple[float, str, bool, str]], count: int) -> None:
    print(f"\n{title}")
    for percent, place, _, symbol in rows[:count]:
        print(f"  {percent:6.2f}%  {symbol}  ({place})")


def shares_print(rows: list[tuple[float, str, bool, str]], event: str) -> None:
    total = sum(row[0] for row in rows)
    places: dict[str, float] = {}
    for percent, place, in_kernel, _ in rows:
        name = "kernel" if in_kernel else place
        places[name] = places.get(name, 0.0) + percent * 100 / total
    print(f"user {100 - places.get('kernel', 0.0):.1f}%, kernel {places.get('kernel', 0.0):.1f}% "
          f"(event {event})")
    print("by object: " + ", ".join(f"{name} {share:.1f}%" for name, share in
                                    sorted(places.items(), key=lambda item: -item[1])[:8]))


def command_profile(options: argparse.Namespace) -> dict:
    perf, load = shutil.which("perf"), LOADS[options.load]
    say(f"profile {options.peer}: {load}")
    plan = calibrate(options.peer, load, options)
    with relay_running(options.peer, options.sink, options.keep) as (folder, sink, relay, port):
        load_run(load, plan.warm, port, folder, 120)
        sink.messages_wait(plan.warm)
        relay.settle()
        before, cpu = stats_read(folder), relay.cpu_seconds()

        def work() -> None:
            load_run(load, plan.count, port, folder, 60 + 5 * options.seconds)

        rows, event = [], ""
        if perf:
            data = perf_record(folder, relay, perf, work)
            rows = perf_read(perf, data)
            event = first_line([perf, "evlist", "-i", str(data)])
        else:
            say("perf is not installed (apt-get install linux-perf): only io_uring's counters are "
                "shown")
            work()
        relay.settle()
        after, cpu = stats_read(folder), relay.cpu_seconds() - cpu
    io = {name: after[name] - before[name] for name in
          ("loop_turns", "loop_enters", "loop_completions", "loop_submissions")}
    print(f"\n{options.peer}, {options.load}: {load}; {plan.count} messages, "
          f"{cpu / plan.count * 1e6:.1f} us CPU each{' with perf' if perf else ''}")
    print(f"per message: {io['loop_enters'] / plan.count:.2f} io_uring_enter calls, "
          f"{io['loop_completions'] / plan.count:.2f} completions, "
          f"{io['loop_submissions'] / plan.count:.2f} submissions; "
          f"{io['loop_completions'] / max(1, io['loop_enters']):.2f} completions per enter")
    if rows:
        shares_print(rows, event)
        if ":u" in event:
            print("The kernel was not looked into: root, or sysctl kernel.perf_event_paranoid=1, "
                  "is needed for that.")
        elif event.startswith("cpu-clock"):
            print("No hardware counter here: by the timer, time with interrupts off is shown where "
                  "they come\nback on (finish_task_switch, _raw_spin_unlock_irqrestore).")
        symbols_print("all", rows, 25)
        symbols_print("ringpost's own", [row for row in rows if row[1].startswith("ringpost")], 15)
    return {"load": options.load, "peer": options.peer, "messages": plan.count, "io": io,
            "cpu_us_per_message": round(cpu / plan.count * 1e6, 2), "event": event,
            "symbols": [{"percent": percent, "object": place, "symbol": symbol}
                        for percent, place, _, symbol in rows[:100]]}


# --- arguments ---

def names_of(allowed: dict) -> object:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return names
    return parse


def loads_of(text: str) -> list[str]:
    return [load for name in names_of(LOAD_CHOICES)(text) for load in LOAD_CHOICES[name]]


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def arguments_read() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--sink", choices=("smtp-sink", "ringpost"), default="smtp-sink",
                        help="what receives behind the relay (default: %(default)s)")
    common.add_argument("--folder", metavar="DIR",
                        help="where files are made: on the disk to be measured (default: TMPDIR)")
    common.add_argument("--json", metavar="FILE", help="write the figures of every run there")
    common.add_argument("--keep", action="store_true", help="keep the folders with files and logs")
    common.add_argument("--no-namespace", action="store_true",
                        help="run on the machine's own 127.0.0.1")
    common.add_argument("--no-cgroup", action="store_true", help="take CPU time from /proc")
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True,
                                     metavar="cpu|idle|profile|spool|queue")

    cpu = commands.add_parser("cpu", parents=[common], help="CPU time per message")
    cpu.add_argument("--peers", type=names_of(PEERS), default="ringpost,ringpost-1,haproxy",
                     help=f"of {', '.join(PEERS)}; -1: one thread (default: %(default)s)")
    cpu.add_argument("--loads", type=loads_of, default="single,reused,large",
                     help=f"of {', '.join(LOAD_CHOICES)} (default: %(default)s)")
    cpu.add_argument("--rounds", type=positive, default=5, help="default: %(default)s")
    cpu.add_argument("--seconds", type=float, default=5.0,
                     help="how long a round's load lasts, about (default: %(default)s)")

    idle = commands.add_parser("idle", parents=[common], help="memory of idle sessions")
    idle.add_argument("--peers", type=names_of(PEERS), default="ringpost,haproxy",
                      help=f"of {', '.join(PEERS)} (default: %(default)s)")
    idle.add_argument("--sessions", type=positive, default=2000, help="default: %(default)s")
    idle.add_argument("--tls", action="store_true", help="after STARTTLS")
    idle.add_argument("--seconds", type=float, default=3.0,
                      help="how long they stay idle (default: %(default)s)")

    profile = commands.add_parser("profile", parents=[common], help="where the CPU time goes")
    profile.add_argument("--peer", choices=[name for name, peer in PEERS.items()
                                            if peer.program == "ringpost"], default="ringpost",
                         help="default: %(default)s")
    profile.add_argument("--load", choices=list(LOADS), default="reused",
                         help="default: %(default)s")
    profile.add_argument("--seconds", type=float, default=10.0, help="default: %(default)s")
    arguments_spool(commands, common)
    return parser.parse_args()


def numbers_of(text: str) -> list[int]:
    return [positive(number) for number in text.split(",")]


def reuse_of(text: str) -> list[bool]:
    kinds = {"single": False, "reused": True}
    return [kinds[name] for name in names_of(kinds)(text)]


def arguments_spool(commands, common: argparse.ArgumentParser) -> None:
    durable = commands.add_parser("spool", parents=[common], help="durable messages")
    durable.add_argument("--peers", type=names_of(spool.DURABILITY),
                         default="ringpost-spool,ringpost,postfix",
                         help=f"of {', '.join(spool.DURABILITY)} (default: %(default)s)")
    durable.add_argument("--connections", type=numbers_of, default="1,10,50,200",
                         help="default: %(default)s")
    durable.add_argument("--reuse", type=reuse_of, default="single,reused",
                         help="one message per connection, many, or both (default: %(default)s)")
    durable.add_argument("--octets", type=positive, default=4096,
                         help="of a message (default: %(default)s)")
    durable.add_argument("--rounds", type=positive, default=3, help="default: %(default)s")
    durable.add_argument("--seconds", type=float, default=2.0,
                         help="how long a round's load lasts, about (default: %(default)s)")
    durable.add_argument("--writes", type=positive, metavar="N",
                         help="a slow disk: so many writes a second (cgroup v1)")
    durable.add_argument("--plot", metavar="FILE.svg", help="rates over connections (gnuplot)")
    durable.set_defaults(sink="ringpost")

    queue = commands.add_parser("queue", parents=[common], help="very many queued messages")
    queue.add_argument("--messages", type=positive, default=1000000, help="default: %(default)s")
    queue.add_argument("--octets", type=positive, default=800,
                       help="of a body; the header adds some 140 (default: %(default)s)")
    queue.add_argument("--connections", type=positive, default=16, help="default: %(default)s")
    queue.add_argument("--seconds", type=float, default=5.0,
                       help="how long new mail is timed before (default: %(default)s)")
    queue.set_defaults(sink="ringpost", peer="ringpost-spool")


def on_stop(*_) -> None:
    for sign in STOPPING:       # what follows is bounded
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    options = arguments_read()
    for sign in STOPPING:
        signal.signal(sign, on_stop)
    commands = {"cpu": command_cpu, "idle": command_idle, "profile": command_profile,
                "spool": spool.command_spool, "queue": queued.command_queue}
    peers = getattr(options, "peers", None) or [options.peer]
    try:
        for peer in peers:
            peer_check(peer)
        for tool in ["smtp-source", "openssl", options.sink]:
            find_binary() if tool == "ringpost" else find_tool(tool)
        options.descriptors = descriptors_raise()
        tempfile.tempdir = options.folder
        Program.use_groups = not options.no_cgroup
        private = not options.no_namespace and network_private()
        facts = machine_describe(peers)
        print(", ".join(f"{name}: {fact}" for name, fact in facts.items() if fact), flush=True)
        if not private:
            say("on the machine's own 127.0.0.1: a network namespace is not allowed, or not wanted")
        result = commands[options.command](options)
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(
                {"command": options.command, "machine": facts} | result, indent=1) + "\n")
    except BenchError as error:
        say(f"bench/measure.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench/measure.py: stopped")
        return 130
    finally:
        Program.end_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
