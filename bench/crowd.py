"""Very many idle sessions: what they cost a relay that works beside them."""
import argparse
import contextlib
import pathlib
import resource
import socket
import statistics
import time
from typing import Iterator

from loads import LOADS, load_run
from relays import count_for, relay_running
from rig import fail, say

ADDRESS_SESSIONS = 10000    # from one address: ports are 16 bits
ROUNDS = 3
BATCH = 100                 # below the relay's backlog, whatever net.core.somaxconn is
SAID_EVERY = 20000


def sessions_possible(wanted: int) -> int:
    """As open files and memory allow: two sockets each, some 4 KiB of the kernel's memory a socket,
    half of what is free at the most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    free = next(int(line.split()[1]) * 1024 for line in text.splitlines()
                if line.startswith("MemAvailable"))
    return min(wanted, files - 1000, free // 2 // 8192)


def batch_open(port: int, first: int, count: int) -> list[socket.socket]:
    """So many at once, as far as the reply to EHLO; each ADDRESS_SESSIONS have an address of their
    own."""
    clients = []
    for number in range(first, first + count):
        client = socket.socket()
        client.setsockopt(socket.SOL_IP, 24, 1)     # IP_BIND_ADDRESS_NO_PORT
        block = number // ADDRESS_SESSIONS
        client.bind((f"127.1.{block // 200}.{block % 200 + 1}", 0))
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        clients.append(client)
    for client in clients:
        client.recv(512)
        client.sendall(b"EHLO client.test\r\n")
    for number, client in enumerate(clients, first):
        if not client.recv(1024).startswith(b"250"):
            fail(f"session {number} was refused")
    return clients


@contextlib.contextmanager
def crowd_open(port: int, wanted: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        while len(clients) < wanted:
            clients += batch_open(port, len(clients), min(BATCH, wanted - len(clients)))
            if len(clients) % SAID_EVERY == 0:
                say(f"crowd: {len(clients)} sessions open")
        yield clients
    finally:
        for client in clients:
            client.close()


def alive_count(clients: list[socket.socket]) -> int:
    """Those to whom nothing was said and who were not closed."""
    alive = 0
    for client in clients:
        client.settimeout(0)
        with contextlib.suppress(ConnectionError):
            try:
                client.recv(1)
            except BlockingIOError:
                alive += 1
    return alive


def rates(running, options: argparse.Namespace, count: int) -> tuple[float, float]:
    """Messages a second and CPU of a message, medians of ROUNDS."""
    seen, costs = [], []
    for _ in range(ROUNDS):
        cpu, before = running.relay.cpu_seconds(), running.sink.messages()
        seconds, _ = load_run(LOADS["reused"], count, running.port, running.folder, 120,
                              options.source)
        running.sink.messages_wait(before + count, 30)
        seen.append(count / seconds)
        costs.append((running.relay.cpu_seconds() - cpu) / count * 1e6)
    return statistics.median(seen), statistics.median(costs)


def command(options: argparse.Namespace) -> dict:
    """One relay with one worker: its rate alone, with the crowd, alone again; so many times."""
    wanted = sessions_possible(options.crowd)
    beside, pss, opened, alive = [], [], [], []
    with relay_running("ringpost-1", options.sink, options.keep, wanted + 1000,
                       more="timeouts: { command: 24h }\n") as running:
        count = count_for(running, LOADS["reused"], options.seconds, options.source)
        alone = [rates(running, options, count)]
        for _ in range(options.crowd_rounds):
            before, began = running.relay.pss_bytes(), time.monotonic()
            with crowd_open(running.port, wanted) as clients:
                opened.append(time.monotonic() - began)
                say(f"crowd: {wanted} sessions open after {opened[-1]:.0f} s")
                running.relay.settle()
                pss.append((running.relay.pss_bytes() - before) / wanted)
                beside.append(rates(running, options, count))
                alive.append(alive_count(clients))
            running.relay.settle()
            alone.append(rates(running, options, count))
            say(f"crowd: {beside[-1][0]:.1f} messages/s, {alone[-2][0]:.1f} and {alone[-1][0]:.1f} "
                f"alone; {beside[-1][1]:.1f} us CPU, {alone[-2][1]:.1f} and {alone[-1][1]:.1f} "
                f"alone; {alive[-1]} alive; {pss[-1]:.0f} bytes each")
    shares = [rate / statistics.mean((alone[i][0], alone[i + 1][0]))
              for i, (rate, _) in enumerate(beside)]
    return {"sessions": wanted, "wanted": options.crowd, "alive": min(alive),
            "open_seconds": round(statistics.median(opened), 1),
            # Of the first crowd: what it leaves the next one uses again.
            "pss_bytes_per_session": round(pss[0]),
            "messages_per_s_alone": [round(rate, 1) for rate, _ in alone],
            "messages_per_s": round(statistics.median(rate for rate, _ in beside), 1),
            "share_of_rate": round(statistics.median(shares), 3),
            "shares_of_rate": [round(share, 3) for share in shares],
            "cpu_us_per_message_alone": round(statistics.mean(cost for _, cost in alone), 2),
            "cpu_us_per_message": round(statistics.median(cost for _, cost in beside), 2)}
