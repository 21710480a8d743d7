"""measure.py queue: a relay with very many messages that nobody takes: its start, memory, way out.

The next hop is down while they come in. Then the relay is stopped and started, killed and started,
and the next hop comes back.
"""
import argparse
import contextlib
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from typing import Optional

from relays import relay_start, run_folder, stats_all
from rig import (CPUS, LOCALHOST, Client, Program, Sink, fail, find_binary, free_port, say,
                 table_print)

FILL_STEP = 50000
PROBE_SECONDS = 0.01
SETTINGS = ("timeouts: { server_retry: 1s, server_retry_max: 1s }\n")


def entries(folder: pathlib.Path) -> int:
    gauges = stats_all(folder)["gauges"]
    return sum(gauges[f"queue_messages_{state}"] for state in
               ("ready", "waiting", "parked", "active", "held"))


def spool_octets(folder: pathlib.Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in (folder / "spool").iterdir())


def fill(port: int, count: int, options: argparse.Namespace) -> float:
    """Sends them over several pipelining clients; seconds."""
    began = time.monotonic()
    for sent in range(0, count, FILL_STEP):
        part = min(FILL_STEP, count - sent)
        found = subprocess.run(
            [find_binary(), "send", "--server", f"{LOCALHOST}:{port}", "--from", "from@client.test",
             "--to", "to@sink.test", "--size", str(options.octets), "--count", str(part),
             "--connections", str(options.connections)], capture_output=True, text=True,
            check=False, timeout=600)
        if found.returncode != 0:
            fail(f"not all were taken: {(found.stdout + found.stderr).strip()[-300:]}")
        seconds = time.monotonic() - began
        say(f"{sent + part} of {count} taken, {(sent + part) / seconds:.0f}/s")
    return time.monotonic() - began


def end(relay: Program, sign: int) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    for pid in relay.pids():
        os.kill(pid, sign)
    relay.process.wait(120)
    seconds = time.monotonic() - began
    relay.end()
    return seconds


def greets(port: int) -> bool:
    with contextlib.suppress(OSError):
        with socket.create_connection((LOCALHOST, port), 1) as client:
            return client.recv(100).startswith(b"220")
    return False


class Watch(threading.Thread):
    """When the listener was open, and when the last worker had read its part of the spool."""

    def __init__(self, folder: pathlib.Path, port: int):
        super().__init__(daemon=True)
        self.log, self.port = folder / "ringpost.log", port
        self.offset = self.log.stat().st_size
        self.began = time.monotonic()
        self.open_s: Optional[float] = None
        self.recovered_s: Optional[float] = None

    def recovered(self) -> int:
        with open(self.log, "rb") as file:
            file.seek(self.offset)
            return len(re.findall(rb" queue_recovered ", file.read()))

    def run(self) -> None:
        while time.monotonic() < self.began + 600 and self.recovered_s is None:
            if self.open_s is None and greets(self.port):
                self.open_s = time.monotonic() - self.began
            if self.recovered() == CPUS:
                self.recovered_s = time.monotonic() - self.began
            time.sleep(0.005)


def start_again(folder: pathlib.Path, port: int, sink_port: int,
                count: int) -> tuple[Program, dict]:
    watch = Watch(folder, port)
    watch.start()
    relay, _ = relay_start("ringpost-spool", folder, sink_port, more=SETTINGS, port=port)
    watch.join(600)
    if watch.recovered_s is None or watch.open_s is None:
        fail("it did not recover")
    found = entries(folder)
    if found != count:
        fail(f"{count} messages were taken, {found} are in the queue after the start")
    recover_cpu = relay.cpu_seconds()
    relay.settle()
    return relay, {"open_s": round(watch.open_s, 3), "recovered_s": round(watch.recovered_s, 3),
                   "cpu_s": round(recover_cpu, 2), "pss_kib": relay.pss_bytes() // 1024}


class Probe(threading.Thread):
    """New mail, one message after the other with pauses: seconds from its last octet to the 250."""

    def __init__(self, port: int):
        super().__init__(daemon=True)
        self.port, self.stopping = port, False
        self.times: list[float] = []
        self.error: Optional[Exception] = None

    def run(self) -> None:
        try:
            client = Client(self.port)
            while not self.stopping:
                for line in (b"MAIL FROM:<probe@client.test>", b"RCPT TO:<to@sink.test>", b"DATA"):
                    client.command(line)
                began = time.monotonic()
                client.command(b"Subject: probe\r\n\r\n" + b"x" * 70 + b"\r\n.")
                self.times.append(time.monotonic() - began)
                time.sleep(PROBE_SECONDS)
            client.socket.close()
        except Exception as error:      # told by whoever stops it
            self.error = error

    def stop(self) -> dict:
        self.stopping = True
        self.join(60)
        if self.error is not None or len(self.times) < 2:
            fail(f"new mail was not taken: {self.error}")
        cuts = statistics.quantiles(self.times, n=100, method="inclusive")
        return {"sent": len(self.times), "p50_ms": round(cuts[49] * 1000, 2),
                "p99_ms": round(cuts[98] * 1000, 2), "most_ms": round(max(self.times) * 1000, 1)}


def probe(port: int, seconds: float) -> dict:
    prober = Probe(port)
    prober.start()
    time.sleep(seconds)
    return prober.stop()


def drain(folder: pathlib.Path, port: int, sink_port: int, relay: Program) -> dict:
    """The next hop comes back; new mail goes on."""
    waiting, cpu = entries(folder), relay.cpu_seconds()
    prober = Probe(port)
    with Sink("ringpost", folder, sink_port) as sink:
        prober.start()
        began, first, last = time.monotonic(), 0.0, 0.0
        while sink.messages() < waiting:
            now = time.monotonic()
            if first == 0.0 and sink.messages() > 0:
                first = now - began
            if now - last > 5:
                last = now
                say(f"{sink.messages()} of {waiting} delivered")
            if now - began > 1800:
                fail(f"only {sink.messages()} of {waiting} were delivered")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        latency = prober.stop()
        while entries(folder) > 0:
            time.sleep(0.05)
        relay.settle()
        cpu = relay.cpu_seconds() - cpu
        return {"messages": waiting, "first_s": round(first, 2), "seconds": round(seconds, 2),
                "messages_per_s": round(waiting / (seconds - first), 1),
                "cpu_us_per_message": round(cpu / sink.messages() * 1e6, 1),
                "pss_kib": relay.pss_bytes() // 1024, "new_mail": latency}


def operator_times(folder: pathlib.Path) -> dict:
    """`ringpost queue`, if this ringpost has it."""
    times = {}
    config = ["-c", str(folder / "ringpost.yaml")]
    for name, argv in {"summary": ["queue", *config], "list": ["queue", "list", *config]}.items():
        began = time.monotonic()
        with open(os.devnull, "wb") as nowhere:
            found = subprocess.run([find_binary(), *argv], stdout=nowhere, stderr=nowhere,
                                   check=False, timeout=120)
        if found.returncode == 0:
            times[name + "_s"] = round(time.monotonic() - began, 3)
    return times


def command_queue(options: argparse.Namespace) -> dict:
    result: dict = {}
    with run_folder(options.keep) as folder, contextlib.ExitStack() as stack:
        sink_port = free_port()
        relay, port = relay_start("ringpost-spool", folder, sink_port, more=SETTINGS)
        stack.callback(Program.end_all)
        relay.settle()
        result["empty_pss_kib"] = relay.pss_bytes() // 1024
        cpu = relay.cpu_seconds()
        seconds = fill(port, options.messages, options)
        relay.settle()
        result["fill"] = {"seconds": round(seconds, 1),
                          "messages_per_s": round(options.messages / seconds, 1),
                          "cpu_us_per_message":
                              round((relay.cpu_seconds() - cpu) / options.messages * 1e6, 1),
                          "pss_kib": relay.pss_bytes() // 1024,
                          "spool_mib": spool_octets(folder) >> 20}
        for name, sign in {"stop": signal.SIGTERM, "kill": signal.SIGKILL}.items():
            took = end(relay, sign)
            relay, result[name] = start_again(folder, port, sink_port, options.messages)
            result[name]["end_s"] = round(took, 3)
            say(f"after {name}: {result[name]}")
        result["idle_cpu_percent"] = idle_cpu(relay)
        result["operators"] = operator_times(folder)
        result["new_mail_before"] = probe(port, options.seconds)
        say(f"new mail before: {result['new_mail_before']}")
        result["drain"] = drain(folder, port, sink_port, relay)
        result["end_s"] = round(end(relay, signal.SIGTERM), 3)
    show(result, options)
    return {"messages": options.messages, "octets": options.octets} | result


def idle_cpu(relay: Program, seconds: float = 5.0) -> float:
    before = relay.cpu_seconds()
    time.sleep(seconds)
    return round((relay.cpu_seconds() - before) / seconds * 100, 2)


def show(result: dict, options: argparse.Namespace) -> None:
    per = {name: (result[name]["pss_kib"] - result["empty_pss_kib"]) * 1024 / options.messages
           for name in ("fill", "stop", "kill")}
    print(f"\n{options.messages} messages of {options.octets} octets, next hop down")
    table_print(
        ["", "listener open s", "all known s", "CPU s", "memory MiB", "bytes/message", "end s"],
        [["taken", "-", "-", "-", f"{result['fill']['pss_kib'] / 1024:.0f}",
          f"{per['fill']:.0f}", "-"]] +
        [[f"start after {name}", f"{result[name]['open_s']:.3f}",
          f"{result[name]['recovered_s']:.2f}", f"{result[name]['cpu_s']:.2f}",
          f"{result[name]['pss_kib'] / 1024:.0f}", f"{per[name]:.0f}",
          f"{result[name]['end_s']:.2f}"] for name in ("stop", "kill")])
    fill_, drain_ = result["fill"], result["drain"]
    print(f"\ntaken: {fill_['messages_per_s']:.0f}/s, {fill_['cpu_us_per_message']:.0f} us CPU "
          f"each, {fill_['spool_mib']} MiB on disk; idle with them: "
          f"{result['idle_cpu_percent']:.2f} % of a core")
    print(f"delivered when the next hop came back: {drain_['messages_per_s']:.0f}/s, "
          f"{drain_['cpu_us_per_message']:.0f} us CPU each, the first after "
          f"{drain_['first_s']:.1f} s, all after {drain_['seconds']:.1f} s")
    before, during = result["new_mail_before"], drain_["new_mail"]
    print(f"new mail, its last octet to 250: before p50 {before['p50_ms']} ms, p99 "
          f"{before['p99_ms']} ms; while the queue is delivered p50 {during['p50_ms']} ms, p99 "
          f"{during['p99_ms']} ms, at most {during['most_ms']} ms ({during['sent']} messages)")
    for name, seconds in result["operators"].items():
        print(f"ringpost queue, {name}: {seconds}")
