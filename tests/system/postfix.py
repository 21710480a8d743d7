"""A private Postfix: the peer that most relays meet, as our client and as our next hop.

Nothing of the system's own Postfix is touched. Needs root, because Postfix's master does.
"""
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile

from harness import SLOW, find_tool, is_listening, missing, reserve_port, wait_for

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/lib
command_directory = {commands}
daemon_directory = {daemons}
shlib_directory = /usr/lib/postfix
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = {name}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_host_lookup = native
smtp_dns_support_level = disabled
disable_dns_lookups = yes
in_flow_delay = 0
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
message_size_limit = 104857600
maillog_file = {folder}/maillog
maillog_file_prefixes = /
"""

SERVICES = """
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 5 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """master, smtpd on .port and what they need. settings: lines of main.cf."""

    def __init__(self, settings: dict[str, str], name: str = "postfix.test"):
        master = find_tool("postfix")
        if os.getuid() != 0:
            missing("a private Postfix needs root")
        # Its processes run as user postfix: the path to the folder must be open to it.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-postfix-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen | None = None
        self.holder = reserve_port()
        self.port: int = self.holder.getsockname()[1]
        self.command = master
        self.etc = self.folder / "etc"
        for part in ("etc", "spool", "lib"):
            (self.folder / part).mkdir()
        owner = pwd.getpwnam("postfix")
        os.chown(self.folder / "lib", owner.pw_uid, owner.pw_gid)
        text = MAIN.format(folder=self.folder, name=name, commands=os.path.dirname(master),
                           daemons="/usr/lib/postfix/sbin")
        text += "".join(f"{key} = {value}\n" for key, value in settings.items())
        (self.etc / "main.cf").write_text(text)
        (self.etc / "master.cf").write_text(f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
                                            + SERVICES)

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> "Postfix":
        said = self.folder / "start.log"
        with said.open("wb") as output:
            self.process = subprocess.Popen(
                [self.command, "-c", str(self.etc), "start-fg"], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output)

        def is_up() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"Postfix did not start:\n{said.read_text()}\n{self.log()}")
            return is_listening(self.port)
        wait_for(is_up, 20, "Postfix listens")
        return self

    def log(self) -> str:
        path = self.folder / "maillog"
        return path.read_text(errors="replace") if path.exists() else ""

    def queue(self) -> int:
        """Messages that are not delivered yet."""
        names = ("maildrop", "incoming", "active", "deferred", "hold")
        return sum(path.is_file() for name in names
                   for path in (self.folder / "spool" / name).rglob("*"))

    def flush(self) -> None:
        """Tries the whole queue now."""
        subprocess.run([self.command, "-c", str(self.etc), "flush"], check=True,
                       capture_output=True, timeout=20 * SLOW)

    def wait_log(self, text: str, count: int = 1, seconds: float = 20) -> None:
        wait_for(lambda: self.log().count(text) >= count, seconds,
                 f"{count} times {text!r} in the log:\n{self.log()[-3000:]}")

    def _master(self) -> int:
        """The shell script that we started waits for it."""
        return int((self.folder / "spool/pid/master.pid").read_text())

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            master = self._master()
            os.kill(master, signal.SIGTERM)  # it then ends its children
            try:
                self.process.wait(10 * SLOW)
            except subprocess.TimeoutExpired:
                os.kill(master, signal.SIGKILL)
                self.process.wait()
        self.holder.close()
        shutil.rmtree(self.folder, ignore_errors=True)
