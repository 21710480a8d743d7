"""measure.py spool: what it costs to make each message durable before the client is answered.

Relays run side by side, each with a next hop of its own, and take the same load in turn, so that
ratios are of one machine in one minute.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time
from typing import Optional

from loads import Load, load_run
from relays import (OURS, PEERS, Running, count_for, relay_start, run_folder,
                    stats_all)
from rig import (CPUS, Program, Sink, busy_seconds, fail, find_build, find_tool, say, spread,
                 table_print)

SEGMENT_BYTES = 64 << 20        # spool.segment as it is by default
BLOCK_BYTES = 4096


def flushes(folder: pathlib.Path) -> Optional[int]:
    """Cache flushes of the disk below, by anybody; None if it does not count them."""
    device = os.stat(folder).st_dev
    with open("/proc/diskstats", encoding="ascii") as file:
        for line in file:
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
                return int(fields[18]) if len(fields) > 18 else None
    return None


def file_system(folder: pathlib.Path) -> str:
    found = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True,
                           check=False)
    return found.stdout.strip()


class Brake:
    """Lets the disk take only so many writes a second from those who are in it: a slow disk for
    relays and bare loop alike. Flushes are not counted."""

    def __init__(self, folder: pathlib.Path, writes: int):
        device = os.stat(folder).st_dev
        disk = f"{os.major(device)}:{os.minor(device)}"
        # Version 1: in version 2 a process is in one group, and is in another one for its CPU time.
        self.path = pathlib.Path(f"/sys/fs/cgroup/blkio/ringpost-measure-{os.getpid()}")
        try:
            self.path.mkdir()
            (self.path / "blkio.throttle.write_iops_device").write_text(f"{disk} {writes}")
        except OSError as error:
            self.remove()
            fail(f"--writes needs root, cgroups of version 1 and a whole disk: {error}")

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def take_relay(self, relay: Program) -> None:
        for pid in relay.pids():
            self.take(pid)

    def remove(self) -> None:
        for _ in range(50):
            if not self.path.exists():
                return
            with contextlib.suppress(OSError):
                self.path.rmdir()
            time.sleep(0.02)


def commit_loop(folder: pathlib.Path, writers: int, octets: float, brake: Optional[Brake] = None,
                seconds: int = 1) -> dict:
    """The disk alone: commits of so many octets, each durable before the next."""
    program = find_build("commit_loop")
    size = max(BLOCK_BYTES, -(-int(octets) // BLOCK_BYTES) * BLOCK_BYTES)
    segment = SEGMENT_BYTES if brake is None else 1 << 20      # it is written once before
    found = subprocess.run([program, str(folder), str(writers), str(size), str(segment),
                            str(seconds)], capture_output=True, text=True, check=False,
                           timeout=120, preexec_fn=lambda: brake and brake.take(os.getpid()))
    if found.returncode != 0:
        fail(found.stderr.strip())
    return json.loads(found.stdout)


def commits_of(before: dict, after: dict, seconds: float) -> dict:
    def grown(name: str) -> int:
        return after["counters"][name] - before["counters"][name]

    commits, stored = grown("spool_commits_ok"), grown("spool_messages_stored")
    turns = {"enters_per_message": round(grown("loop_enters") / grown("messages_accepted"), 2)}
    if commits == 0:
        return turns
    times = [side["durations"]["spool_commit"]["sum_seconds"] for side in (before, after)]
    return {"records_per_commit": round(stored / commits, 3),
            "octets_per_commit": round(grown("spool_bytes_records") / commits),
            "commit_us": round((times[1] - times[0]) / commits * 1e6, 1),
            "committing_percent": round((times[1] - times[0]) / seconds / CPUS * 100, 1),
            "mark_writes_per_message": round(grown("spool_mark_writes") / stored, 3),
            "loads_per_message": round(grown("spool_messages_loaded") / stored, 3)} | turns


def measure(running: Running, load: Load, count: int) -> dict:
    ours = PEERS[running.name].program in OURS
    running.relay.settle()
    before = stats_all(running.folder) if ours else {}
    arrived, flushed, busy = running.sink.messages(), flushes(running.folder), busy_seconds()
    cpu, sink_cpu, began = (running.relay.cpu_seconds(), running.sink.program.cpu_seconds(),
                            time.monotonic())
    seconds, source_cpu = load_run(load, count, running.port, running.folder, 300)
    after = stats_all(running.folder) if ours else {}
    got = running.sink.messages_wait(arrived + count, 300) - arrived
    delivered = time.monotonic() - began
    if got != count:
        fail(f"{running.name}: {count} messages were sent, {got} arrived")
    known = (running.relay.cpu_seconds() - cpu + running.sink.program.cpu_seconds() - sink_cpu +
             source_cpu)
    other = max(0.0, busy_seconds() - busy - known) / delivered / CPUS
    running.relay.settle()
    cpu = running.relay.cpu_seconds() - cpu
    result = {"messages": count, "messages_per_s": round(count / seconds, 1),
              "delivered_per_s": round(count / delivered, 1),
              "cpu_us_per_message": round(cpu / count * 1e6, 2),
              "other_percent": round(other * 100, 1)}
    flushed_after = flushes(running.folder)
    if flushed is not None and flushed_after is not None:
        result["flushes_per_message"] = round((flushed_after - flushed) / count, 3)
    if ours:
        result |= commits_of(before, after, seconds)
    return result


def loop_add(running: Running, run: dict, brake: Optional[Brake]) -> None:
    """What the disk does with the same commits and nobody else, right after."""
    if "records_per_commit" not in run:
        return
    loop = commit_loop(running.folder, PEERS[running.name].workers, run["octets_per_commit"],
                       brake, 2 if brake else 1)
    run["loop_records_per_s"] = round(loop["commits_per_s"] * run["records_per_commit"], 1)
    run["loop_p50_us"] = loop["p50_us"]
    run["share_of_loop"] = round(run["messages_per_s"] / run["loop_records_per_s"], 3)


def rounds(peers: list[Running], load: Load, options: argparse.Namespace,
           brake: Optional[Brake]) -> list[dict]:
    counts = {peer.name: count_for(peer, load, options.seconds) for peer in peers}
    runs = []
    for number in range(1, options.rounds + 1):
        shift = (number - 1) % len(peers)
        for peer in peers[shift:] + peers[:shift]:
            run = measure(peer, load, counts[peer.name])
            loop_add(peer, run, brake)
            runs.append({"peer": peer.name, "connections": load.sessions, "reused": load.reuse,
                         "round": number} | run)
            say(f"{load} round {number}/{options.rounds} {peer.name}: "
                f"{run['messages_per_s']:.0f}/s, {run['cpu_us_per_message']:.0f} us/message"
                + (f", {run['records_per_commit']:.1f} a commit, "
                   f"{run['share_of_loop'] * 100:.0f} % of the bare loop"
                   if "share_of_loop" in run else "")
                + f", other work {run['other_percent']:.0f}%")
    return runs


# --- what is shown ---

def ratio_of(runs: list[dict], run: dict, peer: str) -> Optional[float]:
    """CPU of another relay in the same round, over this one's."""
    for other in runs:
        if other["peer"] == peer and all(other[name] == run[name] for name in
                                         ("connections", "reused", "round")):
            return other["cpu_us_per_message"] / run["cpu_us_per_message"]
    return None


def table(runs: list[dict], peers: list[str], reused: bool) -> None:
    head = ["relay", "connections", "messages/s", "CPU us/message", "of cut-through's",
            "flushes/message", "records/commit", "commit us", "committing %", "% of bare loop"]
    rows = []
    for connections in sorted({run["connections"] for run in runs}):
        for peer in peers:
            mine = [run for run in runs if run["peer"] == peer and run["reused"] == reused and
                    run["connections"] == connections]
            if not mine:
                continue

            def column(name: str, factor: float = 1.0) -> str:
                values = [run[name] * factor for run in mine if name in run]
                return spread(values) if values else "-"

            cut = [1 / ratio for run in mine if (ratio := ratio_of(runs, run, "ringpost"))]
            rows.append([peer, str(connections), column("messages_per_s"),
                         column("cpu_us_per_message"), spread(cut) if cut else "-",
                         column("flushes_per_message"), column("records_per_commit"),
                         column("commit_us"), column("committing_percent"),
                         column("share_of_loop", 100)])
    print(f"\n{'connections reused' if reused else 'one message per connection'}")
    table_print(head, rows)


def ratios_print(runs: list[dict], peers: list[str]) -> None:
    """How much more CPU others take for a message that is as durable."""
    rows = []
    for mine in [peer for peer in peers if peer.startswith("ringpost-spool")]:
        for peer in [peer for peer in peers if peer in ("postfix", "exim")]:
            for reused in (False, True):
                for connections in sorted({run["connections"] for run in runs}):
                    ratios = [ratio for run in runs if (run["peer"], run["reused"],
                              run["connections"]) == (mine, reused, connections)
                              and (ratio := ratio_of(runs, run, peer))]
                    if ratios:
                        rows.append([f"{peer} / {mine}", "reused" if reused else "one message each",
                                     str(connections), spread(ratios)])
    if rows:
        table_print(["CPU", "connections", "of them", "ratio"], rows)


PLOT = """\
set terminal svg size 900,440 font "sans-serif,12" background "white"
set output "{output}"
set multiplot layout 1,2
set logscale xy
set xlabel "client connections"
set ylabel "messages/s"
set xtics ({tics})
set format y "%.0f"
set grid ytics lc rgb "#dddddd"
set key below maxrows 2
set xrange [0.8:{right}]
{panels}
unset multiplot
"""


def plot(runs: list[dict], peers: list[str], output: str) -> None:
    """Rate over connections for each relay, and of the disk alone."""
    gnuplot = find_tool("gnuplot")
    sizes = sorted({run["connections"] for run in runs})
    lines, blocks, panels = [], [], []
    for reused in (False, True):
        curves = [(peer, peer, "messages_per_s") for peer in peers]
        curves += [(f"bare commits as {peer}'s", peer, "loop_records_per_s") for peer in peers
                   if peer == "ringpost-spool"]
        lines = []
        for title, peer, field in curves:
            points = []
            for size in sizes:
                values = [run[field] for run in runs if run["peer"] == peer and field in run and
                          run["connections"] == size and run["reused"] == reused]
                if values:
                    points.append(f"{size} {statistics.median(values)}")
            if points:
                name = f"$d{len(blocks)}"
                blocks.append(f"{name} << EOD\n" + "\n".join(points) + "\nEOD")
                dashed = " dashtype 2" if field == "loop_records_per_s" else ""
                lines.append(f'{name} with linespoints linewidth 2{dashed} title "{title}"')
        if lines:
            panels.append(f'set title "{"connections reused" if reused else "one per connection"}"'
                          "\nplot " + ", ".join(lines))
    script = "\n".join(blocks) + "\n" + PLOT.format(
        output=output, right=sizes[-1] * 1.3, tics=", ".join(map(str, sizes)),
        panels="\n".join(panels))
    found = subprocess.run([gnuplot, "-"], input=script, capture_output=True, text=True,
                           check=False)
    if found.returncode != 0:
        fail(f"gnuplot: {found.stderr.strip()[-300:]}")


def command_spool(options: argparse.Namespace) -> dict:
    runs: list[dict] = []
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(run_folder(options.keep))
        kind = file_system(base)
        brake = Brake(base, options.writes) if options.writes else None
        if brake:
            stack.callback(brake.remove)        # when the relays are gone
        peers = []
        for name in options.peers:
            folder = base / name
            folder.mkdir(mode=0o755)
            for file in ("cert.pem", "key.pem"):
                shutil.copy(base / file, folder)
            sink = stack.enter_context(Sink(options.sink, folder))
            relay, port = relay_start(name, folder, sink.port)
            peers.append(Running(name, folder, stack.enter_context(relay), sink, port))
            if brake:
                brake.take_relay(relay)
        for reused in options.reuse:
            for connections in options.connections:
                runs += rounds(peers, Load(connections, options.octets, reused), options,
                               brake)
        if options.plot:
            plot(runs, options.peers, options.plot)
    for reused in options.reuse:
        table(runs, options.peers, reused)
    print()
    ratios_print(runs, options.peers)
    print(f"\nfile system: {kind}. CPU: user and system time of the relay's processes until all "
          "was delivered, median (lowest-highest)\nof the rounds; ratios are taken within a round. "
          "messages/s: as the clients are answered. committing: share of\nthe time in which a "
          "commit was under way, of all workers. bare loop: commits of the same size, by as many\n"
          "writers, and nothing else, right after. Durability:")
    for name in options.peers:
        print(f"  {name}: {PEERS[name].durability}")
    return {"octets": options.octets, "file_system": kind, "runs": runs,
            "durability": {name: PEERS[name].durability for name in options.peers}}
