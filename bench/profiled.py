"""measure.py profile: functions that the CPU time is spent in, and what io_uring was asked."""
import argparse
import pathlib
import re
import shutil
import signal
import subprocess
import time

from loads import LOADS, load_run
from relays import count_for, relay_running, stats_read
from rig import Program, fail, first_line, say


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
    with relay_running(options.peer, options.sink, options.keep,
                       tls_out=load.tls_out) as running:
        folder, relay, port = running.folder, running.relay, running.port
        count = count_for(running, load, options.seconds, options.source)
        before, cpu = stats_read(folder), relay.cpu_seconds()

        def work() -> None:
            load_run(load, count, port, folder, 60 + 5 * options.seconds, options.source)

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
    print(f"\n{options.peer}, {options.load}: {load}; {count} messages, "
          f"{cpu / count * 1e6:.1f} us CPU each{' with perf' if perf else ''}")
    print(f"per message: {io['loop_enters'] / count:.2f} io_uring_enter calls, "
          f"{io['loop_completions'] / count:.2f} completions, "
          f"{io['loop_submissions'] / count:.2f} submissions; "
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
    return {"load": options.load, "peer": options.peer, "messages": count, "io": io,
            "cpu_us_per_message": round(cpu / count * 1e6, 2), "event": event,
            "symbols": [{"percent": percent, "object": place, "symbol": symbol}
                        for percent, place, _, symbol in rows[:100]]}
