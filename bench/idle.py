"""measure.py idle: memory of open sessions that do nothing."""
import argparse
import time

from loads import LOADS, load_run
from relays import PEERS, relay_running
from rig import BenchError, fail, say, sessions_open, slab_bytes, table_print

SESSIONS_TLS_MAX = 1000     # of a comparison: a handshake each


def measure(peer: str, sessions: int, tls: bool, options: argparse.Namespace) -> dict:
    load = LOADS["tls-reused" if tls else "reused"]
    with relay_running(peer, options.sink, options.keep, sessions + 1000) as running:
        relay, port = running.relay, running.port
        load_run(load, load.sessions * 20, port, running.folder, 60, options.source)
        relay.settle()
        pss, slab, began = relay.pss_bytes(), slab_bytes(), time.monotonic()
        with sessions_open(port, sessions, tls) as clients:
            seconds = time.monotonic() - began
            relay.settle()
            pss_open, slab_open = relay.pss_bytes(), slab_bytes()
            cpu, began = relay.cpu_seconds(), time.monotonic()
            time.sleep(min(options.seconds, 3.0))
            cpu = (relay.cpu_seconds() - cpu) / (time.monotonic() - began)
            alive = sum(client.is_open() for client in clients)
        if alive != sessions:
            fail(f"{peer}: only {alive} of {sessions} sessions stayed open")
    return {"peer": peer, "sessions": sessions, "tls": tls,
            "pss_before_kib": pss // 1024, "pss_kib": pss_open // 1024,
            "pss_bytes_per_session": round((pss_open - pss) / sessions),
            "slab_bytes_per_session": round((slab_open - slab) / sessions),
            "idle_cpu_percent": round(cpu * 100, 2), "open_seconds": round(seconds, 2)}


def both(options: argparse.Namespace, field) -> list[dict]:
    """Plain and TLS for every relay of a comparison that has sessions of its own."""
    runs = []
    for tls in (False, True):
        for name in options.peers:
            peer = PEERS[name]
            if peer.program == "bare" or (tls and not peer.tls_in) or "spool" in name:
                continue
            if f"{name}-1" in options.peers:    # a thread more changes nothing here
                continue
            if field.is_late(f"idle{' TLS' if tls else ''}, {name}"):
                continue
            sessions = min(options.sessions, peer.sessions_max,
                           SESSIONS_TLS_MAX if tls else options.sessions)
            try:
                runs.append(measure(name, sessions, tls, options))
                say(f"idle{' TLS' if tls else ''} {name}: "
                    f"{runs[-1]['pss_bytes_per_session']} bytes/session")
            except (BenchError, OSError) as error:
                field.skip(f"idle{' TLS' if tls else ''}, {name}", error)
    return runs


def command_idle(options: argparse.Namespace) -> dict:
    if options.sessions + 1000 > options.descriptors // 2:
        fail(f"{options.sessions} sessions need more than the {options.descriptors} open files "
             f"that are allowed here (ulimit -Hn): try "
             f"--sessions {options.descriptors // 2 - 1000}")
    runs = []
    for peer in options.peers:
        if options.tls and not PEERS[peer].tls_in:
            continue
        say(f"idle {peer}: opening {options.sessions} sessions")
        runs.append(measure(peer, options.sessions, options.tls, options))
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
