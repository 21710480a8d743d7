"""`make run`: what packaging/demo.sh starts, and that it takes all of it along, however it ends."""
import os
import pathlib
import re
import signal
import socket
import subprocess

from harness import BINARY, Client, ROOT, SLOW, find_tool, reserve_port, wait_for
from tools import ToolTest


def reserve_pair() -> tuple[socket.socket, socket.socket]:
    """A port and the one 101 above it, as the demo wants them."""
    while True:
        first = reserve_port()
        second = socket.socket()
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            second.bind(("127.0.0.1", first.getsockname()[1] + 101))
            return first, second
        except (OSError, OverflowError):
            first.close()
            second.close()


def is_alive(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Demo(ToolTest):

    def setUp(self):
        find_tool("openssl")
        find_tool("bash")
        self.place = self.folder()
        self.holders = [*reserve_pair(), reserve_port()]
        for holder in self.holders:
            self.addCleanup(holder.close)
        self.port = self.holders[0].getsockname()[1]
        self.demo: subprocess.Popen | None = None
        self.addCleanup(self.end)

    def run_demo(self, output) -> None:
        self.demo = subprocess.Popen(
            ["bash", str(ROOT / "packaging" / "demo.sh"), BINARY], stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.PIPE, cwd=ROOT, start_new_session=True,
            # Where tests run in the background these are ignored, and a shell cannot trap them then.
            preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL)
                                for number in (signal.SIGINT, signal.SIGHUP)],
            env={**os.environ, "RINGPOST_DEMO_PORT": str(self.port),
                 "RINGPOST_DEMO_STATS_PORT": str(self.holders[2].getsockname()[1]),
                 "RINGPOST_DEMO_FOLDER": str(self.place)})

    def end(self) -> None:
        if self.demo is None:
            return
        if self.demo.poll() is None:
            self.demo.kill()
        self.demo.wait(20 * SLOW)
        if self.demo.stdout:
            self.demo.stdout.close()
        self.demo.stderr.close()
        for pid in self.started():
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    def started(self) -> list[int]:
        """The processes whose command line names this test's folder or its sink's port."""
        found = []
        marks = (str(self.place / "ringpost.yaml").encode(), b"127.0.0.1:%d" % (self.port + 101))
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if any(mark in words for mark in marks):
                found.append(int(path.parent.name))
        return found

    def all_up(self) -> tuple[int, int]:
        """Reads its output to the end; relay and sink."""
        text = ""
        while "Ctrl-C ends both" not in text:
            line = self.demo.stdout.readline().decode()
            if not line:
                self.fail(f"ended early: {text} {self.demo.stderr.read().decode()}")
            text += line
        pids = tuple(int(one) for one in re.findall(r"(?m)^(?:relay|sink) .* pid (\d+),", text))
        self.assertEqual(sorted(pids), sorted(self.started()))
        self.assertIn("    Subject: first message\n", text)
        self.assertIn("    It went through the relay.\n", text)
        return pids

    def expect_gone(self, pids, status: int) -> None:
        self.assertEqual(self.demo.wait(40 * SLOW), status)
        self.assertEqual([pid for pid in pids if is_alive(pid)], [])
        self.assertEqual(self.started(), [])
        with self.assertRaises(ConnectionRefusedError):
            Client(self.port, greeting=False)

    def test_signals(self):
        for number, status in ((signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129),
                               (signal.SIGPIPE, 141)):
            with self.subTest(signal=number):
                self.run_demo(subprocess.PIPE)
                pids = self.all_up()
                self.demo.send_signal(number)
                rest = self.demo.stdout.read().decode()
                self.expect_gone(pids, status)
                self.assertIn(f"stopped the relay (pid {pids[0]})\n"
                              f"stopped the sink (pid {pids[1]})\n", rest)
                self.end()

    def test_nobody_reads(self):
        """make run | head -3: the pipe closes early, after some lines, or at the signal."""
        for lines in (0, 1, 3):
            with self.subTest(lines=lines):
                self.run_demo(subprocess.PIPE)
                for _ in range(lines):
                    self.assertTrue(self.demo.stdout.readline())
                self.demo.stdout.close()
                self.assertNotEqual(self.demo.wait(40 * SLOW), 0)
                self.assertEqual(self.started(), [])
                self.end()
        with self.subTest(lines="all"):
            self.run_demo(subprocess.PIPE)
            pids = self.all_up()
            self.demo.stdout.close()
            self.demo.terminate()
            self.expect_gone(pids, 143)

    def test_an_ended_relay(self):
        """It says so, and ends the sink."""
        self.run_demo(subprocess.PIPE)
        pids = self.all_up()
        os.kill(pids[0], signal.SIGKILL)
        self.expect_gone(pids, 1)
        self.assertIn("the relay or the sink ended by itself", self.demo.stderr.read().decode())

    def test_killed(self):
        """Nothing can be trapped, and still nothing stays."""
        self.run_demo(subprocess.PIPE)
        pids = self.all_up()
        self.demo.kill()
        self.demo.wait(20 * SLOW)
        wait_for(lambda: not any(is_alive(pid) for pid in pids), 40, "both end after the demo")

    def test_a_busy_port(self):
        self.holders[1].listen()
        self.run_demo(subprocess.PIPE)
        self.assertEqual(self.demo.wait(20 * SLOW), 1)
        self.assertIn(f"port {self.port + 101} on 127.0.0.1 is in use",
                      self.demo.stderr.read().decode())
        self.assertEqual(self.started(), [])
