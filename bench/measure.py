#!/usr/bin/env python3
"""What ringpost costs, beside other relays and beside what the kernel alone would charge.

  bench/measure.py compare     everything: CPU per message, latency, memory, the targets, a report
  bench/measure.py check       a short comparison against the committed baseline of ratios
  bench/measure.py idle        memory of open sessions that do nothing
  bench/measure.py profile     functions that the CPU time is spent in (perf), and io_uring calls
  bench/measure.py spool       rate and CPU time of messages made durable, beside other relays
  bench/measure.py queue       very many queued messages: start, memory, delivery

Each command has --help. `make bench`, `make bench-full` and `make bench-check` call the first two.
They need the build only; relays to compare with, smtp-source and gnuplot are used where they are
(packaging/deps.sh bench; bench/peers.sh for those that cannot be installed side by side, searched
in third_party/peers or where RINGPOST_PEERS says). Services may be disabled: nothing of theirs is
used but the programs. The binary is build/ringpost, or what the variable RINGPOST names;
RINGPOST_OTHER names the one of the peers `other`, to compare two builds.

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
import sys
import tempfile
import time

import check
import compare
import idle
import profiled
import queued
import spool
from loads import LOADS, SOURCES
from relays import OURS, PEERS, peer_check
from rig import (CONGESTION_CONTROL, CPUS, HERE, STOPPING, BenchError, Program,
                 descriptors_raise, find_binary, find_tool, first_line, network_private, say)

BASELINE = HERE.parent / "docs" / "bench" / "baseline.json"
PEERS_ALL = ("ringpost-1,ringpost,bare,haproxy-1,haproxy,ringpost-spool-1,ringpost-spool,"
             "postfix-proxy,postfix,exim,opensmtpd,haraka")
PEERS_OWN = "ringpost-1,ringpost,bare,ringpost-spool-1"
LOADS_OWN = "bench-single,bench-reused,pipelined,deep,large"


# --- the machine, for whoever reads the figures ---

VERSIONS = {    # program of a peer -> how it tells its version
    "haproxy": ("haproxy", ["-v"]), "postfix": ("postconf", ["-d", "mail_version"]),
    "exim": ("exim4", ["-bV"]), "opensmtpd": ("smtpd", ["-h"]), "haraka": ("haraka", ["-v"]),
}


def version_of(program: str) -> str:
    with contextlib.suppress(BenchError):
        tool, arguments = VERSIONS[program]
        line = first_line([find_tool(tool), *arguments])
        return re.sub(r" (20\d\d/|#).*|mail_version = |^\D*ersion:? |^.*: ", "", line)
    return ""


def source_describe() -> str:
    """The commit that was measured, and whether the tree differed from it."""
    if not (HERE.parent / ".git").exists() or shutil.which("git") is None:
        return ""
    commit = first_line(["git", "-C", str(HERE.parent), "rev-parse", "--short", "HEAD"])
    changed = first_line(["git", "-C", str(HERE.parent), "status", "--porcelain", "-uno"])
    return commit + (" and changes" if changed else "")


def machine_describe(peers: list[str]) -> dict[str, str]:
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    load = pathlib.Path("/proc/loadavg").read_text().split()
    facts = {"processor": f"{model[1] if model else platform.machine()}, {CPUS} in use",
             "kernel": platform.release(),
             "congestion control": CONGESTION_CONTROL.read_text().strip(),
             "date": time.strftime("%Y-%m-%d"), "load average at the start": ", ".join(load[:3]),
             "ringpost": first_line([find_binary(), "--version"]).removeprefix("ringpost "),
             "source": source_describe()}
    memory = re.search(r"^MemTotal:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text(), re.M)
    facts["memory"] = f"{int(memory[1]) / 1048576:.1f} GiB" if memory else ""
    facts["file system"] = spool.file_system(pathlib.Path(tempfile.gettempdir()))
    for program in dict.fromkeys(PEERS[name].program for name in peers):
        if program in VERSIONS:
            facts[program] = version_of(program)
    return facts


# --- arguments ---

def names_of(allowed) -> object:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return names
    return parse


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def numbers_of(text: str) -> list[int]:
    return [positive(number) for number in text.split(",")]


def reuse_of(text: str) -> list[bool]:
    kinds = {"single": False, "reused": True}
    return [kinds[name] for name in names_of(kinds)(text)]


def arguments_common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--sink", choices=("smtp-sink", "ringpost"), default="ringpost",
                        help="what receives behind the relay (default: %(default)s)")
    common.add_argument("--source", choices=SOURCES, default="auto",
                        help="what sends; auto: smtp-source for what it can, else ringpost-bench")
    common.add_argument("--folder", metavar="DIR",
                        help="where files are made: on the disk to be measured (default: TMPDIR)")
    common.add_argument("--json", metavar="FILE", help="write the figures of every run there")
    common.add_argument("--keep", action="store_true", help="keep the folders with files and logs")
    common.add_argument("--no-namespace", action="store_true",
                        help="run on the machine's own 127.0.0.1")
    common.add_argument("--no-cgroup", action="store_true", help="take CPU time from /proc")
    return common


def arguments_compare(commands, common: argparse.ArgumentParser) -> None:
    full = commands.add_parser("compare", parents=[common], help="beside other relays")
    short = commands.add_parser("check", parents=[common], help="against the baseline")
    for parser, peers, loads, rounds, seconds, minutes, parts in (
            (full, PEERS_ALL, ",".join(LOADS), 10, 0.6, 14.0, ",".join(compare.PARTS)),
            (short, PEERS_OWN, LOADS_OWN, 3, 0.7, 2.0, "cpu")):
        parser.set_defaults(peers_usual=peers, loads_usual=loads)
        parser.add_argument("--peers", type=names_of(PEERS),
                            help=f"of {', '.join(PEERS)}; -1: one thread (default: {peers})")
        parser.add_argument("--loads", type=names_of(LOADS),
                            help=f"of {', '.join(LOADS)} (default: {loads})")
        parser.add_argument("--rounds", type=positive, default=rounds, help="default: %(default)s")
        parser.add_argument("--seconds", type=float, default=seconds,
                            help="how long one measurement lasts, about (default: %(default)s)")
        parser.add_argument("--minutes", type=float, default=minutes,
                            help="no round begins that would end later (default: %(default)s)")
        parser.add_argument("--parts", type=names_of(compare.PARTS), default=parts,
                            help=f"of {', '.join(compare.PARTS)} (default: %(default)s)")
        parser.add_argument("--sessions", type=positive, default=2000,
                            help="idle ones (default: %(default)s)")
        parser.add_argument("--crowd", type=positive, default=100000,
                            help="very many idle ones (default: %(default)s)")
        parser.add_argument("--crowd-rounds", type=positive, default=1, metavar="N",
                            help="with and without them, so often (default: %(default)s)")
        parser.add_argument("--writes", type=positive, default=300,
                            help="a second, of the slow disk (default: %(default)s)")
        parser.add_argument("--output", metavar="DIR", help="report, plots and figures go there")
    short.add_argument("--baseline", metavar="FILE", default=str(BASELINE),
                       help="default: docs/bench/baseline.json")
    short.add_argument("--write", action="store_true", help="make this run the baseline")


def arguments_spool(commands, common: argparse.ArgumentParser) -> None:
    durable = commands.add_parser("spool", parents=[common], help="durable messages")
    durable.add_argument("--peers", type=names_of(PEERS),
                         default="ringpost-spool,ringpost,postfix",
                         help=f"of {', '.join(PEERS)} (default: %(default)s)")
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

    queue = commands.add_parser("queue", parents=[common], help="very many queued messages")
    queue.add_argument("--messages", type=positive, default=1000000, help="default: %(default)s")
    queue.add_argument("--octets", type=positive, default=800,
                       help="of a body; the header adds some 140 (default: %(default)s)")
    queue.add_argument("--connections", type=positive, default=16, help="default: %(default)s")
    queue.add_argument("--seconds", type=float, default=5.0,
                       help="how long new mail is timed before (default: %(default)s)")
    queue.set_defaults(peer="ringpost-spool")


def arguments_read() -> argparse.Namespace:
    common = arguments_common()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True,
                                     metavar="compare|check|idle|profile|spool|queue")
    arguments_compare(commands, common)
    idling = commands.add_parser("idle", parents=[common], help="memory of idle sessions")
    idling.add_argument("--peers", type=names_of(PEERS), default="ringpost,haproxy",
                        help=f"of {', '.join(PEERS)} (default: %(default)s)")
    idling.add_argument("--sessions", type=positive, default=2000, help="default: %(default)s")
    idling.add_argument("--tls", action="store_true", help="after STARTTLS")
    idling.add_argument("--seconds", type=float, default=3.0,
                        help="how long they stay idle (default: %(default)s)")
    profile = commands.add_parser("profile", parents=[common], help="where the CPU time goes")
    profile.add_argument("--peer", choices=[name for name, peer in PEERS.items()
                                            if peer.program in OURS], default="ringpost",
                         help="default: %(default)s")
    profile.add_argument("--load", choices=list(LOADS), default="reused",
                         help="default: %(default)s")
    profile.add_argument("--seconds", type=float, default=10.0, help="default: %(default)s")
    arguments_spool(commands, common)
    options = parser.parse_args()
    if "peers_usual" in options:
        options.narrow = options.peers is None and options.loads is None
        options.peers = options.peers or options.peers_usual.split(",")
        options.loads = options.loads or options.loads_usual.split(",")
    return options


def on_stop(*_) -> None:
    for sign in STOPPING:       # what follows is bounded
        signal.signal(sign, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> None:
    peers = getattr(options, "peers", None) or [options.peer]
    if options.command not in ("compare", "check"):     # those leave out what does not work
        for peer in peers:
            peer_check(peer)
    find_binary()
    find_tool("openssl")
    options.descriptors = descriptors_raise()
    tempfile.tempdir = options.folder
    Program.use_groups = not options.no_cgroup
    private = not options.no_namespace and network_private()
    facts = machine_describe(peers)
    print(", ".join(f"{name}: {fact}" for name, fact in facts.items() if fact), flush=True)
    if not private:
        say("on the machine's own 127.0.0.1: a network namespace is not allowed, or not wanted")
    commands = {"compare": lambda: compare.command_compare(options, facts),
                "check": lambda: check.command_check(
                    options, compare.command_compare(options, facts)),
                "idle": lambda: idle.command_idle(options),
                "profile": lambda: profiled.command_profile(options),
                "spool": lambda: spool.command_spool(options),
                "queue": lambda: queued.command_queue(options)}
    result = commands[options.command]()
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(
            {"command": options.command, "machine": facts} | result, indent=1) + "\n")


def main() -> int:
    options = arguments_read()
    for sign in STOPPING:
        signal.signal(sign, on_stop)
    try:
        run(options)
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
