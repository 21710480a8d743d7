"""What measure.py stands on: a network of its own, programs and what they cost, a next hop, loads.

Every program runs on 127.0.0.1, in a folder that is removed afterwards; only programs started here
are ended, by their id.
"""
import contextlib
import ctypes
import fcntl
import itertools
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import time
from typing import Iterator, NamedTuple, NoReturn, Optional

HERE = pathlib.Path(__file__).resolve().parent
BINARY = os.path.abspath(os.environ.get("RINGPOST") or HERE.parent / "build" / "ringpost")
LOCALHOST = "127.0.0.1"
PACKAGES = {"smtp-source": "postfix", "smtp-sink": "postfix", "postfix": "postfix",
            "postconf": "postfix", "exim4": "exim4-daemon-light", "gnuplot": "gnuplot-nox",
            "haproxy": "haproxy", "openssl": "openssl", "perf": "linux-perf",
            "smtpd": "opensmtpd", "haraka": "npm's Haraka"}
CPUS = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 20
QUIET_SECONDS = 0.1     # a relay is at rest that twice in a row has taken less than this share of it
QUIET_SHARE = 0.012
STOPPING = {signal.SIGINT, signal.SIGTERM}
LIBC = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """A measurement that could not be made, with the reason for a person."""


def say(text: str = "") -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    raise BenchError(text)


def tool_folders() -> str:
    """PATH, and where bench/peers.sh has unpacked what cannot be installed side by side."""
    peers = pathlib.Path(os.environ.get("RINGPOST_PEERS", HERE.parent / "third_party" / "peers"))
    return ":".join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin",
                     *map(str, peers.glob("*/usr/sbin")), str(peers / "haraka/node_modules/.bin")])


def find_tool(name: str) -> str:
    path = shutil.which(name, path=tool_folders())
    return path or fail(f"{name} is not installed: {PACKAGES[name]} (packaging/deps.sh bench, "
                        "bench/peers.sh)")


def find_build(name: str) -> str:
    """A program that the build makes beside ringpost."""
    path = os.path.join(os.path.dirname(BINARY), name)
    return path if os.access(path, os.X_OK) else fail(f"{path} is missing: run make")


def find_binary() -> str:
    if not os.access(BINARY, os.X_OK):
        fail(f"{BINARY} is missing: run make, or name a binary: RINGPOST=FILE bench/measure.py ...")
    return BINARY


def first_line(argv: list[str]) -> str:
    with contextlib.suppress(OSError, BenchError):
        found = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
        text = re.sub(r"\x1b\[[0-9;]*m", "", found.stdout or found.stderr)
        return text.strip().partition("\n")[0]
    return ""


# --- where it runs ---

CONGESTION_CONTROL = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")


def network_private() -> bool:
    """Moves this process into a network that has only a loopback; False where it may not."""
    clone_newnet, clone_newuser = 0x40000000, 0x10000000
    siocsifflags, iff_up = 0x8914, 0x1
    uid, gid = os.getuid(), os.getgid()
    if LIBC.unshare(clone_newnet | (clone_newuser if uid != 0 else 0)) != 0:
        return False
    try:
        if uid != 0:
            pathlib.Path("/proc/self/setgroups").write_text("deny")
            pathlib.Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            pathlib.Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        with socket.socket() as control:
            fcntl.ioctl(control, siocsifflags, struct.pack("16sh22x", b"lo", iff_up))
        # What Debian has, or the like. This machine's may pace what is sent by timers (bbr does).
        for name in ("cubic", "reno"):
            with contextlib.suppress(OSError):
                CONGESTION_CONTROL.write_text(name)
                break
    except OSError as error:
        fail(f"the private network came up without its loopback ({error}); use --no-namespace")
    return True


def descriptors_raise() -> int:
    """As many open files as this user may have, for us and all that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):      # root may have more
        most = int(pathlib.Path("/proc/sys/fs/nr_open").read_text())
        if hard != resource.RLIM_INFINITY and hard < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            hard = most
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind((LOCALHOST, 0))
        return holder.getsockname()[1]


def busy_seconds() -> float:
    """CPU time of everything on this machine."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def steal_seconds() -> float:
    """Time in which this machine's processors were given to another one."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / TICKS


def slab_bytes() -> int:
    """Kernel memory for its objects, sockets among them, of the whole machine."""
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.search(r"^Slab:\s+(\d+) kB", text, re.M)[1]) * 1024


# --- cgroups: the CPU time of a group is exact, and has short-lived children in it ---

def cgroup_parent() -> Optional[pathlib.Path]:
    for folder in ("/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"):
        if any(os.path.exists(f"{folder}/{name}") for name in ("cpuacct.usage", "cpu.stat")):
            return pathlib.Path(folder)
    own = re.search(r"^0::(/.*)$", pathlib.Path("/proc/self/cgroup").read_text(), re.M)
    return pathlib.Path("/sys/fs/cgroup" + own[1]) if own else None


class Group:
    """A cgroup (v1 cpuacct, or v2) for one program."""
    numbers = itertools.count(1)

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.members = str(path / "cgroup.procs")

    @classmethod
    def make(cls) -> Optional["Group"]:
        parent = cgroup_parent()
        if parent is None:
            return None
        path = parent / f"ringpost-measure-{os.getpid()}-{next(cls.numbers)}"
        try:
            path.mkdir()
        except OSError:
            return None
        group = cls(path)
        try:
            group.cpu_seconds()
        except (OSError, ValueError, TypeError):
            group.remove()
            return None
        return group

    def cpu_seconds(self) -> float:
        with contextlib.suppress(FileNotFoundError):
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        text = (self.path / "cpu.stat").read_text()
        return int(re.search(r"^usage_usec (\d+)$", text, re.M)[1]) / 1e6

    def pids(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(line) for line in pathlib.Path(self.members).read_text().split()]
        return []

    def remove(self) -> None:
        for _ in range(50):
            with contextlib.suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.02)


# --- a program with its descendants ---

def process_status(pid: int) -> Optional[tuple[int, float]]:
    """Parent, and CPU seconds with those of children that it has waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS


def process_tree(root: int) -> dict[int, float]:
    """CPU seconds of a process and its descendants, by their ids."""
    all_of_them = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (status := process_status(int(name))) is not None:
            all_of_them[int(name)] = status
    tree: dict[int, float] = {}
    fresh = {root} & all_of_them.keys()
    while fresh:
        tree.update({pid: all_of_them[pid][1] for pid in fresh})
        fresh = {pid for pid, status in all_of_them.items()
                 if status[0] in fresh and pid not in tree}
    return tree


class Program:
    """Something that was started to be measured, or to help measuring."""
    use_groups = True
    running: list["Program"] = []       # ended by end_all(), wherever an interrupt hits

    def __init__(self, name: str, argv: list[str], folder: pathlib.Path, **more):
        self.name = name
        self.output = folder / f"{name}.out"
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        self.group = Group.make() if Program.use_groups else None
        members = self.group.members if self.group else None

        def enter() -> None:
            LIBC.prctl(1, signal.SIGKILL)       # PR_SET_PDEATHSIG: do not outlive this script
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
            if members is not None:
                with open(members, "w", encoding="ascii") as file:
                    file.write(str(os.getpid()))

        try:
            with open(self.output, "wb") as output:
                self.process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=enter, **more)
            Program.running.append(self)
        except (OSError, subprocess.SubprocessError) as error:
            if self.group:
                self.group.remove()
            fail(f"{name} did not start: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_) -> None:
        self.end()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def output_tail(self) -> str:
        with contextlib.suppress(OSError):
            return self.output.read_bytes()[-600:].decode("utf-8", "replace").strip()
        return ""

    def pids(self) -> list[int]:
        return self.group.pids() if self.group else list(process_tree(self.process.pid))

    def cpu_seconds(self) -> float:
        if self.group:
            return self.group.cpu_seconds()
        return sum(process_tree(self.process.pid).values())

    def pss_bytes(self) -> int:
        """User memory, with shared pages divided among those who share them."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, TypeError):
                with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
                    total += int(re.search(r"^Pss:\s+(\d+) kB", file.read(), re.M)[1]) * 1024
        return total

    def settle(self, seconds_max: float = 8.0) -> None:
        """Waits until it is quiet, so that what it does after its last reply is counted too."""
        end = time.monotonic() + seconds_max
        before, quiet = self.cpu_seconds(), 0
        while quiet < 2 and time.monotonic() < end:
            time.sleep(QUIET_SECONDS)
            now = self.cpu_seconds()
            quiet = quiet + 1 if now - before < QUIET_SHARE * QUIET_SECONDS else 0
            before = now

    def end(self, seconds: float = 4.0) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with contextlib.suppress(OSError):
                    os.kill(pid, sign)
            end = time.monotonic() + seconds
            while time.monotonic() < end and (not self.has_ended() or self.pids()):
                time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.group:
            self.group.remove()
        with contextlib.suppress(ValueError):
            Program.running.remove(self)

    @classmethod
    def end_all(cls) -> None:
        for program in reversed(list(cls.running)):
            program.end()


def greeting_wait(port: int, program: Program) -> None:
    """A session that only greets and leaves."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and not program.has_ended():
        with contextlib.suppress(OSError):
            with socket.create_connection((LOCALHOST, port), 2) as client:
                client.settimeout(5)
                if client.recv(512).startswith(b"220"):
                    client.sendall(b"QUIT\r\n")
                    while client.recv(512):
                        pass
                    return
        time.sleep(0.05)
    fail(f"{program.name} does not answer on port {port}:\n{program.output_tail()}")


# --- the next hop ---

class Sink:
    """A next hop that counts messages and throws them away: smtp-sink, or `ringpost sink`."""

    def __init__(self, kind: str, folder: pathlib.Path, port: int = 0, tls: bool = False):
        self.kind, self.port = kind, port or free_port()
        self.count_file = folder / "sink.count"
        address = f"{LOCALHOST}:{self.port}"
        if kind == "ringpost":
            argv = [find_binary(), "sink", address, "--quiet", "--count-file", str(self.count_file),
                    *(["--tls", "starttls", "--certificate", str(folder / "cert.pem"),
                       "--key", str(folder / "key.pem")] if tls else [])]
        elif tls:
            fail(f"{kind} has no TLS")
        else:
            user = ["-u", "nobody"] if os.getuid() == 0 else []
            argv = [find_tool("smtp-sink"), *user, "-4", "-c", "-m", "60000", address, "4096"]
        self.program = Program("sink", argv, folder)
        if kind != "ringpost":
            self.count_file = self.program.output
        try:
            greeting_wait(self.port, self.program)
        except BenchError:
            self.program.end()
            raise

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_) -> None:
        self.program.end()

    def messages(self) -> int:
        with contextlib.suppress(OSError), open(self.count_file, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 200))
            if found := re.findall(rb"mesg=(\d+)\s", file.read()):
                return int(found[-1])
        return 0

    def messages_wait(self, wanted: int, seconds: float = 10.0) -> int:
        end = time.monotonic() + seconds
        while self.messages() < wanted and time.monotonic() < end:
            time.sleep(0.05)
        return self.messages()


# --- idle sessions ---

class Client:
    """One session, as far as EHLO; with STARTTLS before if there is a context."""

    def __init__(self, port: int, context: Optional[ssl.SSLContext] = None):
        self.socket = socket.create_connection((LOCALHOST, port), 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reply()
        self.command(b"EHLO client.test")
        if context is not None:
            self.command(b"STARTTLS")
            self.socket = context.wrap_socket(self.socket)
            self.command(b"EHLO client.test")

    def command(self, line: bytes) -> None:
        self.socket.sendall(line + b"\r\n")
        self.reply()

    def reply(self) -> None:
        text = b""
        while not re.search(rb"(?m)^\d{3} [^\n]*\n\Z", text):
            part = self.socket.recv(4096)
            text += part
            if not part or text[:1] in b"45":
                fail(f"a session was refused: {text[:200].decode('utf-8', 'replace')!r}")

    def is_open(self) -> bool:
        self.socket.settimeout(0)
        try:
            return self.socket.recv(1) != b""
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False


@contextlib.contextmanager
def sessions_open(port: int, count: int, tls: bool) -> Iterator[list[Client]]:
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    clients: list[Client] = []
    try:
        for _ in range(count):
            clients.append(Client(port, context))
        yield clients
    finally:
        for client in clients:
            client.socket.close()


# --- tables ---

def spread(values: list[float]) -> str:
    def number(value: float) -> str:
        size = abs(value)
        return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:.0f}"

    text = number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({number(min(values))}-{number(max(values))})"


def table_print(head: list[str], rows: list[list[str]]) -> None:
    """A table that is also Markdown. Columns of text stand left."""
    words = [any(row[i][:1].isalpha() for row in rows) for i in range(len(head))]
    rows = [head] + rows
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    rows.insert(1, ["-" * width for width in widths])
    for row in rows:
        cells = [cell.ljust(width) if i == 0 or is_text else cell.rjust(width)
                 for i, (cell, width, is_text) in enumerate(zip(row, widths, words))]
        print("| " + " | ".join(cells) + " |", flush=True)
