"""The relays that measure.py compares: how each is set up, started and checked for.

Every relay gets the same work and the same limits; each has its own way to say so.
"""
import contextlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
from typing import Iterator, NamedTuple

from rig import (CPUS, BenchError, Program, fail, find_binary, find_tool, free_port,
                 greeting_wait, say)

RINGPOST_CONFIG = """\
hostname: relay.test
workers: auto
listen: {{ smtp: {{ address: "127.0.0.1:{port}", tls: starttls }} }}
tls: {{ certificate: cert.pem, key: key.pem }}
accept: {{ networks: [ "127.0.0.0/8" ] }}
next_hop: {{ sink: {{ servers: [ "127.0.0.1:{sink_port}" ], tls: none }} }}
route: {{ "*": sink }}
delivery: {{ {delivery} }}
spool: {{ directory: spool }}
stats: {{ address: "unix:stats.sock" }}
limits: {{ connections: {sessions_max}, transactions: 1000000 }}
log: {{ target: ringpost.log }}
"""

# Logs nothing, parses nothing, has one connection to the next hop for each of a client: what two
# TCP connections and the copy between them cost. Threads and limits as ringpost has them;
# `option splice-auto` was tried and changed nothing that could be told from noise.
HAPROXY_CONFIG = """\
global
  nbthread {threads}
  maxconn {sessions_max}
defaults
  mode tcp
  timeout connect 10s
  timeout client 5m
  timeout server 5m
listen smtp
  bind 127.0.0.1:{port} backlog 4096
  server sink 127.0.0.1:{sink_port}
"""

POSTFIX_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/lib
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
myhostname = relay.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
default_process_limit = {processes}
message_size_limit = 52428800
smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
"""
# Before-queue proxy: as with cut-through, the client gets the next hop's verdict, and nothing is
# stored.
POSTFIX_PROXY = """\
smtpd_proxy_filter = 127.0.0.1:{sink_port}
smtpd_proxy_timeout = 60s
"""
# Its queue: a file for each message, synced before the client is answered. Deliveries may use as
# many connections as the other relays have, and keep them.
POSTFIX_QUEUE = """\
relayhost = [127.0.0.1]:{sink_port}
disable_dns_lookups = yes
smtp_dns_support_level = disabled
smtp_tls_security_level = none
smtp_connection_cache_on_demand = yes
smtp_connection_cache_destinations = 127.0.0.1
smtp_destination_concurrency_limit = {processes}
initial_destination_concurrency = 50
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
in_flow_delay = 0
"""
POSTFIX_MASTER = """\
127.0.0.1:{port} inet n - n - {processes} smtpd
rewrite unix - - n - - trivial-rewrite
cleanup unix n - n - 0 cleanup
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""
POSTFIX_QUEUE_MASTER = """\
pickup unix n - n 60 1 pickup
qmgr unix n - n 300 1 qmgr
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
smtp unix - - n - {processes} smtp
relay unix - - n - {processes} smtp
error unix - - n - - error
retry unix - - n - - error
scache unix - - n - 1 scache
"""

# Its queue: two files for each message, synced before the client is answered. It is started with a
# mount of its own over /etc/exim4: its program trusts only files there.
EXIM_CONFIG = """\
exim_path = {exim}
exim_user = Debian-exim
exim_group = Debian-exim
primary_hostname = relay.test
spool_directory = {folder}/spool
log_file_path = {folder}/log/%slog
split_spool_directory = true
smtp_accept_max = 0
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_connect_backlog = 4096
remote_max_parallel = {processes}
host_lookup =
rfc1413_query_timeout = 0s
disable_ipv6 = true
message_size_limit = 50M
check_spool_space = 0
check_spool_inodes = 0
tls_advertise_hosts =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
acl_smtp_rcpt = accept
begin routers
all:
  driver = manualroute
  transport = sink
  route_data = 127.0.0.1
  self = send
begin transports
sink:
  driver = smtp
  port = {sink_port}
  allow_localhost
  hosts_avoid_tls = *
begin retry
* * F,1h,1m
"""



class Peer(NamedTuple):
    program: str        # ringpost, other (another ringpost), haproxy, postfix or exim
    workers: int
    speaks_tls: bool
    how: str = ""       # ringpost: its section `delivery`; postfix: proxy or queue


PASS = "mode: cut-through, on_defer: pass"
PEERS = {
    "ringpost": Peer("ringpost", CPUS, True, PASS),
    "ringpost-1": Peer("ringpost", 1, True, PASS),
    "ringpost-defer": Peer("ringpost", CPUS, True, "mode: cut-through, on_defer: spool"),
    "ringpost-spool": Peer("ringpost", CPUS, True, "mode: spool"),
    "ringpost-spool-1": Peer("ringpost", 1, True, "mode: spool"),
    "other": Peer("other", CPUS, True, PASS),
    "other-spool": Peer("other", CPUS, True, "mode: spool"),
    "haproxy": Peer("haproxy", CPUS, False),
    "haproxy-1": Peer("haproxy", 1, False),
    "postfix-proxy": Peer("postfix", 0, True, "proxy"),
    "postfix": Peer("postfix", 0, True, "queue"),
    "exim": Peer("exim", 0, False),
}
OURS = ("ringpost", "other")
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
    find_tool({"exim": "exim4"}.get(peer.program, peer.program))
    if peer.program in ("postfix", "exim") and os.getuid() != 0:
        fail(f"{name} needs root")
    if peer.program == "exim" and not os.path.isdir("/etc/exim4"):
        fail("exim needs the folder /etc/exim4, as its package makes it")


def postfix_files(folder: pathlib.Path, values: dict, how: str) -> None:
    for name in ("etc", "spool", "lib"):
        (folder / name).mkdir(exist_ok=True)
    shutil.chown(folder / "lib", "postfix")
    main, master = {"proxy": (POSTFIX_PROXY, ""),
                    "queue": (POSTFIX_QUEUE, POSTFIX_QUEUE_MASTER)}[how]
    (folder / "etc" / "main.cf").write_text((POSTFIX_MAIN + main).format(**values))
    (folder / "etc" / "master.cf").write_text((POSTFIX_MASTER + master).format(**values))


def exim_files(folder: pathlib.Path, values: dict) -> list[str]:
    """Its files; how it is started."""
    for name in ("spool", "log"):
        (folder / name).mkdir()
        shutil.chown(folder / name, EXIM_USER, EXIM_USER)
    (folder / "exim4.conf").write_text(EXIM_CONFIG.format(**values))
    return ["unshare", "-m", "sh", "-c",
            f"mount -t tmpfs none /etc/exim4 && cp {folder}/exim4.conf /etc/exim4/ && "
            f"exec {values['exim']} -bdf -q1m -oP {folder}/exim.pid"]


def relay_start(name: str, folder: pathlib.Path, sink_port: int, sessions_max: int = 10000,
                more: str = "", port: int = 0) -> tuple[Program, int]:
    """The relay, answering, and its port; more: lines for ringpost's configuration."""
    peer, port = PEERS[name], port or free_port()
    values = dict(port=port, sink_port=sink_port, sessions_max=sessions_max, threads=peer.workers,
                  folder=folder, processes=min(100, sessions_max), delivery=peer.how)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if peer.program in OURS:
        (folder / "spool").mkdir(exist_ok=True)
        (folder / "ringpost.yaml").write_text(RINGPOST_CONFIG.format(**values) + more)
        argv = [program_of(peer), "run", "-c", str(folder / "ringpost.yaml"),
                "--workers", str(peer.workers)]
    elif peer.program == "haproxy":
        values["sessions_max"] = min(sessions_max, (descriptors - 100) // 2)    # two sockets each
        (folder / "haproxy.cfg").write_text(HAPROXY_CONFIG.format(**values))
        argv = [find_tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]
    elif peer.program == "exim":
        values["exim"] = find_tool("exim4")
        argv = exim_files(folder, values)
    else:
        postfix_files(folder, values, peer.how)
        argv = [find_tool("postfix"), "-c", str(folder / "etc"), "start-fg"]
    program = Program(name, argv, folder)
    try:
        greeting_wait(port, program)
    except BaseException:
        program.end()
        raise
    return program, port


# --- what ringpost says of itself ---

def stats_all(folder: pathlib.Path) -> dict:
    found = subprocess.run([find_binary(), "stats", "-c", str(folder / "ringpost.yaml"), "--json"],
                           capture_output=True, text=True, check=False, timeout=10)
    if found.returncode != 0:
        fail(f"no statistics: {found.stderr.strip()}")
    return json.loads(found.stdout)


def stats_read(folder: pathlib.Path) -> dict[str, int]:
    return stats_all(folder)["counters"]
