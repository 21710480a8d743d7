"""The shortest comparison that there is: ringpost and the bare relay, one load, one round; and that a
relay which does not work is left out and told of."""
import json
import os
import pathlib
import subprocess
import sys

from harness import BINARY, ROOT, SLOW, find_tool
from tools import ToolTest

BUILD = pathlib.Path(BINARY).parent


class Comparison(ToolTest):

    def compare(self, *arguments: str) -> tuple[dict, str, pathlib.Path]:
        find_tool("openssl")
        folder = self.folder() / "report"
        found = subprocess.run(
            [str(BUILD / "ringpost-bench"), "compare", "--source", "ringpost-bench", "--parts",
             "cpu", "--no-namespace", "--no-cgroup", "--output", str(folder), *arguments],
            capture_output=True, text=True, timeout=60 * SLOW, cwd=self.folder(), check=False,
            env={**os.environ, "RINGPOST": BINARY, "PATH": f"{pathlib.Path(sys.executable).parent}:"
                 + os.environ["PATH"]})
        self.assertEqual(found.returncode, 0, found.stdout + found.stderr)
        return json.loads((folder / "results.json").read_text()), found.stdout, folder

    def test_ringpost_and_the_bare_relay(self):
        result, printed, folder = self.compare(
            "--peers", "ringpost-1,bare", "--loads", "pipelined", "--rounds", "1",
            "--seconds", "0.2")
        self.assertEqual([run["peer"] for run in result["runs"]], ["ringpost-1", "bare"])
        self.assertEqual(result["skipped"].keys() - {"targets.svg", "cpu.svg"}, set())
        for run in result["runs"]:
            self.assertGreater(run["messages"], 0)
            self.assertGreaterEqual(run["cpu_us_per_message"], 0)
        self.assertIn("50 sessions, 4 KiB, connections reused, pipelined", printed)
        self.assertIn("| ringpost-1 |", (folder / "README.md").read_text())

    def test_a_relay_that_does_not_start_is_left_out(self):
        old = os.environ.get("RINGPOST_OTHER")
        os.environ["RINGPOST_OTHER"] = "/bin/false"
        try:
            result, printed, folder = self.compare(
                "--peers", "other-1,bare", "--loads", "pipelined", "--rounds", "1",
                "--seconds", "0.1")
        finally:
            os.environ.pop("RINGPOST_OTHER")
            if old is not None:
                os.environ["RINGPOST_OTHER"] = old
        self.assertEqual([run["peer"] for run in result["runs"]], ["bare"])
        self.assertIn("left out: other-1: other-1 does not answer", printed)
        self.assertIn("- other-1: other-1 does not answer", (folder / "README.md").read_text())

    def test_a_crowd(self):
        result, printed, _ = self.compare("--parts", "crowd", "--peers", "ringpost-1", "--loads",
                                          "bench-reused", "--crowd", "150", "--crowd-rounds", "2",
                                          "--seconds", "0.05")
        crowd = result["crowd"]
        self.assertEqual((crowd["sessions"], crowd["alive"]), (150, 150))
        self.assertEqual((len(crowd["messages_per_s_alone"]), len(crowd["shares_of_rate"])), (3, 2))
        self.assertIn("rate beside 150 idle sessions", printed)

    def test_programs_that_measure_alone(self):
        found = subprocess.run([str(BUILD / "micro"), "--json", "0.001"], capture_output=True,
                               text=True, timeout=60 * SLOW, check=True)
        figures = json.loads(found.stdout)
        for name in ("masks, plain", "message data, vector", "receiver: messages of 4 KiB"):
            self.assertGreater(figures[name]["per_second"], 0)
        folder = self.folder()
        subprocess.run([find_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=a.test",
                        "-keyout", "key.pem", "-out", "cert.pem"], cwd=folder, check=True,
                       capture_output=True)
        found = subprocess.run([str(BUILD / "bare_tls"), "cert.pem", "key.pem", "4096", "0.01"],
                               cwd=folder, capture_output=True, text=True, timeout=60 * SLOW,
                               check=True)
        times = json.loads(found.stdout)
        self.assertGreater(times["handshake_server_us"], times["message_in_us"])
        self.assertGreater(times["session_in_us"], times["handshake_server_us"])

    def test_a_wrong_argument(self):
        found = subprocess.run([sys.executable, str(ROOT / "bench" / "measure.py"), "compare",
                                "--peers", "sendmail"], capture_output=True, text=True, timeout=30,
                               check=False)
        self.assertEqual(found.returncode, 2)
        self.assertIn("'sendmail' is not one of ringpost,", found.stderr)
