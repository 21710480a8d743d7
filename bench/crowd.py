"""Very many idle sessions: what they cost a relay that works beside them."""
import argparse
import contextlib
import pathlib
import resource
import socket
import statistics
import time

from loads import LOADS, load_run
from relays import count_for, relay_running
from rig import fail, say

ADDRESS_SESSIONS = 10000    # from one address: ports are 16 bits
ROUNDS = 3


def sessions_possible(wanted: int) -> int:
    """As open files and memory allow: two sockets each, some 4 KiB of the kernel's memory a socket,
    half of what is free at the most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) * 1024 for line in text.splitlines()
                if line.startswith("MemAvailable"))
    return min(wanted, files - 1000, free // 2 // 8192)


def session_open(port: int, number: int) -> socket.socket:
    """From an address of its own for each ADDRESS_SESSIONS, as far as the reply to EHLO."""
    client = socket.socket()
    client.setsockopt(socket.SOL_IP, 24, 1)     # IP_BIND_ADDRESS_NO_PORT
    block = number // ADDRESS_SESSIONS
    client.bind((f"127.1.{block // 200}.{block % 200 + 1}", 0))
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.recv(512)
    client.sendall(b"EHLO client.test\r\n")
    if not client.recv(1024).startswith(b"250"):
        fail(f"session {number} was refused")
    return client


def rates(running, options: argparse.Namespace, count: int) -> tuple[float, float]:
    """Messages a second and CPU of a message, medians of ROUNDS."""
    seen, costs = [], []
    for _ in range(ROUNDS):
        cpu, before = running.relay.cpu_seconds(), running.sink.messages()
        seconds, _ = load_run(LOADS["reused"], count, running.port, running.folder, 60,
                              options.source)
        running.sink.messages_wait(before + count, 30)
        seen.append(count / seconds)
        costs.append((running.relay.cpu_seconds() - cpu) / count * 1e6)
    return statistics.median(seen), statistics.median(costs)


def command(options: argparse.Namespace) -> dict:
    """One relay with one worker: its rate alone, with the crowd, alone again."""
    wanted = sessions_possible(options.crowd)
    with relay_running("ringpost-1", options.sink, options.keep, wanted + 1000) as running:
        count = count_for(running, LOADS["reused"], options.seconds, options.source)
        alone = [rates(running, options, count)]
        pss, began = running.relay.pss_bytes(), time.monotonic()
        clients: list[socket.socket] = []
        try:
            for number in range(wanted):
                clients.append(session_open(running.port, number))
            opened = time.monotonic() - began
            say(f"crowd: {wanted} sessions open after {opened:.0f} s")
            beside = rates(running, options, count)
            pss = running.relay.pss_bytes() - pss
            for client in clients:
                client.settimeout(0)
            alive = 0
            for client in clients:
                with contextlib.suppress(BlockingIOError):
                    client.recv(1)
                    continue
                alive += 1
        finally:
            for client in clients:
                client.close()
        running.relay.settle()
        alone.append(rates(running, options, count))
    rate = statistics.mean(pair[0] for pair in alone)
    cost = statistics.mean(pair[1] for pair in alone)
    return {"sessions": wanted, "wanted": options.crowd, "alive": alive,
            "open_seconds": round(opened, 1), "pss_bytes_per_session": round(pss / wanted),
            "messages_per_s_alone": [round(pair[0], 1) for pair in alone],
            "messages_per_s": round(beside[0], 1), "share_of_rate": round(beside[0] / rate, 3),
            "cpu_us_per_message_alone": round(cost, 2),
            "cpu_us_per_message": round(beside[1], 2)}
