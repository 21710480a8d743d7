"""The relays that measure.py compares: how each is set up, started and checked for.

Every relay gets the same work and the same limits; each has its own way to say so: bench/peers/.
"""
import contextlib
import json
import os
import pathlib
import pwd
import resource
import shutil
import string
import subprocess
import tempfile
from typing import Iterator, NamedTuple

from loads import Load, load_run
from rig import (CPUS, HERE, Program, Sink, fail, find_binary, find_build, find_tool,
                 free_port, greeting_wait, say)

CONFIGURATIONS = HERE / "peers"
CALIBRATION_SECONDS = 0.4


class Peer(NamedTuple):
    program: str        # of PROGRAMS
    workers: int        # 0: as many processes as it likes
    tls_in: bool
    tls_out: bool
    how: str            # ringpost: its section `delivery`; postfix: proxy or queue
    durability: str     # when its client is answered
    slow: bool = False  # every second round will do
    sessions_max: int = 1 << 30     # idle ones that it can be asked to hold


PASS = "mode: cut-through, on_defer: pass"
NOTHING = "none of its own: the client gets the next hop's answer"
COMMITTED = ("250 when the write of the group, O_DIRECT and O_DSYNC into an allocated segment, has "
             "completed")
PEERS = {
    "ringpost": Peer("ringpost", CPUS, True, True, PASS, NOTHING),
    "ringpost-1": Peer("ringpost", 1, True, True, PASS, NOTHING),
    "ringpost-defer": Peer("ringpost", CPUS, True, True, "mode: cut-through, on_defer: spool",
                           "none of its own while the next hop takes the mail"),
    "ringpost-spool": Peer("ringpost", CPUS, True, True, "mode: spool", COMMITTED),
    "ringpost-spool-1": Peer("ringpost", 1, True, True, "mode: spool", COMMITTED),
    "other": Peer("other", CPUS, True, True, PASS, NOTHING),
    "other-1": Peer("other", 1, True, True, PASS, NOTHING),
    "other-spool": Peer("other", CPUS, True, True, "mode: spool", COMMITTED),
    "bare": Peer("bare", 1, False, False, "", "none; it reads nothing: a bound"),
    "haproxy": Peer("haproxy", CPUS, False, False, "", "none; it reads no SMTP: a bound"),
    "haproxy-1": Peer("haproxy", 1, False, False, "", "none; it reads no SMTP: a bound"),
    "postfix-proxy": Peer("postfix", 0, True, False, "proxy", NOTHING, True, 50),
    "postfix": Peer("postfix", 0, True, True, "queue", "250 after fsync of the message's file "
                    "(the default; the folder is not synced)", True, 50),
    "exim": Peer("exim", 0, False, False, "", "250 after fsync of the message's two files (the "
                 "default)", True, 200),
    "opensmtpd": Peer("opensmtpd", 0, False, False, "", "250 after its files were renamed, not "
                      "synced", True),
    "haraka": Peer("haraka", CPUS, True, False, "", NOTHING, True),
}
OURS = ("ringpost", "other")
PROGRAMS = {"haproxy": "haproxy", "postfix": "postfix", "exim": "exim4", "opensmtpd": "smtpd",
            "haraka": "haraka"}
NEED_ROOT = ("postfix", "exim", "opensmtpd")
EXIM_USER = "Debian-exim"


def certificate_make(folder: pathlib.Path) -> None:
    found = subprocess.run(
        [find_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=relay.test",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        capture_output=True, text=True, check=False)
    if found.returncode != 0:
        fail(f"openssl made no certificate: {found.stderr[-300:]}")


@contextlib.contextmanager
def run_folder(keep: bool = False) -> Iterator[pathlib.Path]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-measure-"))
    path.chmod(0o755)       # Postfix's processes have other users
    try:
        certificate_make(path)
        yield path
    finally:
        if keep:
            say(f"kept: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


def program_of(peer: Peer) -> str:
    """The binary of a ringpost; `other` is one to compare with, from another build."""
    if peer.program == "ringpost":
        return find_binary()
    other = os.path.abspath(os.environ.get("RINGPOST_OTHER") or
                            fail("RINGPOST_OTHER does not name the other ringpost's binary"))
    return other if os.access(other, os.X_OK) else fail(f"{other} is missing")


def peer_check(name: str) -> None:
    """Fails early if this peer cannot run here."""
    peer = PEERS[name]
    if peer.program in OURS:
        program_of(peer)
        return
    if peer.program == "bare":
        find_build("bare_relay")
        return
    find_tool(PROGRAMS[peer.program])
    if peer.program in NEED_ROOT and os.getuid() != 0:
        fail(f"{name} needs root")
    if peer.program == "exim" and not os.path.isdir("/etc/exim4"):
        fail("exim needs the folder /etc/exim4, as its package makes it")
    for user in {"exim": [EXIM_USER], "opensmtpd": ["opensmtpd", "opensmtpq"]}.get(peer.program, []):
        try:
            pwd.getpwnam(user)
        except KeyError:
            fail(f"{name} needs the user {user} (bench/peers.sh makes it)")


def configuration(file: str, values: dict) -> str:
    """A file of bench/peers/ with its $names filled in."""
    return string.Template((CONFIGURATIONS / file).read_text(encoding="utf-8")).substitute(values)


def postfix_files(folder: pathlib.Path, values: dict, how: str) -> list[str]:
    """Its files; how it is started."""
    for name in ("etc", "spool", "lib"):
        (folder / name).mkdir(exist_ok=True)
    shutil.chown(folder / "lib", "postfix")
    main, master = {"proxy": (["postfix-proxy.cf"], []),
                    "queue": (["postfix-queue.cf"], ["postfix-queue-master.cf"])}[how]
    for target, files in (("main.cf", ["postfix-main.cf"] + main),
                          ("master.cf", ["postfix-master.cf"] + master)):
        (folder / "etc" / target).write_text("".join(configuration(file, values)
                                                     for file in files))
    return [find_tool("postfix"), "-c", str(folder / "etc"), "start-fg"]


def exim_files(folder: pathlib.Path, values: dict) -> list[str]:
    for name in ("spool", "log"):
        (folder / name).mkdir()
        shutil.chown(folder / name, EXIM_USER, EXIM_USER)
    (folder / "exim4.conf").write_text(configuration("exim.conf", values))
    return ["unshare", "-m", "sh", "-c",
            f"mount -t tmpfs none /etc/exim4 && cp {folder}/exim4.conf /etc/exim4/ && "
            f"exec {values['exim']} -bdf -q1m -oP {folder}/exim.pid"]


def opensmtpd_files(folder: pathlib.Path, values: dict) -> list[str]:
    """Its paths are compiled in: they are made in mounts of its own, and nothing of them stays."""
    (folder / "smtpd.conf").write_text(configuration("opensmtpd.conf", values))
    (folder / "smtpd").mkdir(mode=0o711)
    return ["unshare", "-m", "sh", "-c",
            "for place in /var/spool /var/lib /run; do mount -t tmpfs none $place || exit 1; done; "
            "mkdir -p -m 755 /var/spool/smtpd /var/lib/opensmtpd/empty && "
            f"mount --bind {folder}/smtpd /var/spool/smtpd && "
            f"exec {values['opensmtpd']} -d -f {folder}/smtpd.conf"]


def haraka_files(folder: pathlib.Path, values: dict) -> list[str]:
    package = pathlib.Path(os.path.realpath(values["haraka"])).parents[1]
    found = subprocess.run(["sh", str(CONFIGURATIONS / "haraka.sh"), str(values["port"]),
                            str(values["sink_port"]), str(values["threads"]), str(package)],
                           cwd=folder, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        fail(f"haraka's configuration: {found.stderr.strip()}")
    return [find_tool("haraka"), "-c", str(folder)]


def ringpost_files(peer: Peer, folder: pathlib.Path, values: dict, more: str) -> list[str]:
    (folder / "spool").mkdir(exist_ok=True)
    (folder / "ringpost.yaml").write_text(configuration("ringpost.yaml", values) + more)
    return [program_of(peer), "run", "-c", str(folder / "ringpost.yaml"),
            "--workers", str(peer.workers)]


def relay_files(name: str, folder: pathlib.Path, values: dict, more: str) -> list[str]:
    peer = PEERS[name]
    if peer.program in OURS:
        values["tls_out"] = "require" if values["tls_out"] else "none"
        return ringpost_files(peer, folder, values, more)
    if peer.program == "bare":
        return [find_build("bare_relay"), str(values["port"]), str(values["sink_port"])]
    if peer.program == "haproxy":
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        values["sessions_max"] = min(values["sessions_max"], (descriptors - 100) // 2)  # two sockets
        (folder / "haproxy.cfg").write_text(configuration("haproxy.cfg", values))
        return [find_tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    if peer.program == "postfix":
        values["tls_out"] = "encrypt" if values["tls_out"] else "none"
        return postfix_files(folder, values, peer.how)
    values[peer.program] = find_tool(PROGRAMS[peer.program])
    return {"exim": exim_files, "opensmtpd": opensmtpd_files,
            "haraka": haraka_files}[peer.program](folder, values)


def relay_start(name: str, folder: pathlib.Path, sink_port: int, sessions_max: int = 10000,
                more: str = "", port: int = 0, tls_out: bool = False) -> tuple[Program, int]:
    """The relay, answering, and its port; more: lines for ringpost's configuration."""
    peer, port = PEERS[name], port or free_port()
    values = dict(port=port, sink_port=sink_port, sessions_max=sessions_max, folder=folder,
                  threads=peer.workers, processes=min(100, sessions_max), delivery=peer.how,
                  tls_out=tls_out)
    program = Program(name, relay_files(name, folder, values, more), folder)
    try:
        greeting_wait(port, program)
    except BaseException:
        program.end()
        raise
    return program, port


class Running(NamedTuple):
    name: str
    folder: pathlib.Path
    relay: Program
    sink: Sink
    port: int


@contextlib.contextmanager
def relay_running(name: str, sink_kind: str, keep: bool = False, sessions_max: int = 10000,
                  tls_out: bool = False, more: str = "") -> Iterator[Running]:
    """A relay with a folder and a next hop of its own; more: as above."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(run_folder(keep))
        sink = stack.enter_context(Sink("ringpost" if tls_out else sink_kind, folder, tls=tls_out))
        relay, port = relay_start(name, folder, sink.port, sessions_max, more, tls_out=tls_out)
        stack.enter_context(relay)
        yield Running(name, folder, relay, sink, port)


def count_for(running: Running, load: Load, seconds: float, source: str = "auto") -> int:
    """How many messages last about so long; warms up on the way."""
    count, took = 2 * load.sessions, 0.0
    while took < min(CALIBRATION_SECONDS, seconds):
        before = running.sink.messages()
        took, _ = load_run(load, count, running.port, running.folder, 120, source)
        running.sink.messages_wait(before + count, 120)
        rate = count / took
        count *= 3
    running.relay.settle()
    return max(2, round(rate * seconds / load.sessions)) * load.sessions


# --- what ringpost says of itself ---

def stats_all(folder: pathlib.Path) -> dict:
    found = subprocess.run([find_binary(), "stats", "-c", str(folder / "ringpost.yaml"), "--json"],
                           capture_output=True, text=True, check=False, timeout=10)
    if found.returncode != 0:
        fail(f"no statistics: {found.stderr.strip()}")
    return json.loads(found.stdout)


def stats_read(folder: pathlib.Path) -> dict[str, int]:
    return stats_all(folder)["counters"]
