"""`ringpost-bench`: load -> relay -> sink, audited by verify, in each mode; Postfix's tools at either end for
independence; what its audit must find; arguments."""
import json
import pathlib
import re
import signal
import socket
import struct
import subprocess
import threading

from harness import (BINARY, SANITIZER_MARKS, SLOW, SystemTest, certificates, find_tool, is_listening,
                     is_sanitized, reserve_port, wait_for)

BENCH = str(pathlib.Path(BINARY).with_name("ringpost-bench"))
# Enough to fill every pipeline; a sanitizer's program gets fewer.
COUNT = 200 if is_sanitized() else 1000
LISTENING = re.compile(r"sink: listening on 127\.0\.0\.1:(\d+)\n")


class BenchSink:
    """A running `ringpost-bench sink` with a ledger."""

    def __init__(self, folder: pathlib.Path, *arguments: str):
        self.ledger, self.out, self.err = (folder / f"sink.{one}" for one in ("ledger", "out", "err"))
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [BENCH, "sink", "127.0.0.1:0", "--ledger", str(self.ledger), *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.port = int(wait_for(self._listening, 20, "the sink listens").group(1))
        self.server = f"127.0.0.1:{self.port}"

    def _listening(self):
        assert self.process.poll() is None, self.err.read_text()
        return LISTENING.search(self.out.read_text())

    def stop(self) -> dict[str, int]:
        """What its last line counts, by the word behind the number."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20 * SLOW)
        errors = self.err.read_text(errors="replace")
        assert status == 0, f"the sink ended with {status}: {errors}"
        assert not any(mark in errors for mark in SANITIZER_MARKS), errors
        last = self.out.read_text().splitlines()[-1]
        return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last)}


class BenchTest(SystemTest):

    def sink(self, *arguments: str) -> BenchSink:
        sink = BenchSink(self.folder(), *arguments)
        self.addCleanup(sink.stop)
        return sink

    def bench(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess:
        done = subprocess.run([BENCH, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=seconds * SLOW)
        assert not any(mark in done.stderr for mark in SANITIZER_MARKS), done.stderr
        return done

    def load(self, port: int, *arguments: str, status: int = 0) -> dict:
        """Its JSON; the ledger is self.sent."""
        self.sent = self.folder() / "load.ledger"
        done = self.bench("load", "--to", f"127.0.0.1:{port}", "--ledger", str(self.sent), "--json",
                          "--quiet", *arguments)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        return json.loads(done.stdout)

    def verify(self, sink: BenchSink, *arguments: str, status: int = 0) -> dict:
        done = self.bench("verify", "--sent", str(self.sent), "--received", str(sink.ledger), "--json",
                          *arguments)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def assert_whole(self, sink: BenchSink, result: dict, count: int) -> None:
        """All arrived once, and every count says the same number."""
        totals = sink.stop()
        audit = self.verify(sink)
        self.assertEqual((result["acknowledged"], totals["messages"], audit["good"],
                          audit["received"]), (count,) * 4)
        self.assertEqual(result["failures"], {})
        # smtp-sink and relays add fields in front: never fewer octets than were sent.
        self.assertGreaterEqual(totals["octets"], result["bytes"])
        latency = result["latency_ns"]["message"]
        self.assertEqual(latency["count"], count)
        ordered = [latency[one] for one in ("min", "p50", "p90", "p99", "p99_9", "max")]
        self.assertEqual(ordered, sorted(ordered))
        self.assertGreater(latency["min"], 0)


class Direct(BenchTest):
    """load -> sink, without a relay: each option of both."""

    def test_modes(self):
        rows = [
            ("off", ("--pipelining", "off")),
            ("deep", ("--pipelining", "deep", "--size", "1-40000")),
            ("bdat", ("--bdat", "--chunk", "1000", "--pipelining", "off", "--size", "2k-9k")),
            ("deep bdat", ("--bdat", "--chunk", "3001", "--pipelining", "deep", "--size", "1-40000")),
            ("recipients", ("--recipients", "7", "--rcpt", "r%r.%n.%t@bench.example")),
            ("list of sizes", ("--size", "1k:8,64k:1,200k-300k:0.05,lognormal:8k:1:1")),
            ("one each", ("--per-connection", "1", "--from-addresses", "127.0.0.0/8")),
            ("threads", ("--threads", "2", "--per-connection", "7")),
        ]
        for name, arguments in rows:
            with self.subTest(name):
                sink = self.sink("--threads", "2")
                result = self.load(sink.port, "--messages", str(COUNT), "--connections", "10",
                                   *arguments)
                self.assert_whole(sink, result, COUNT)

    def test_tls(self):
        one = certificates().localhost
        files = ("--certificate", one.certificate, "--key", one.key)
        rows = [
            ("starttls", (), ("--starttls", "--size", "1-40000"), 10),
            ("implicit", ("--tls",), ("--tls", "--size", "1-40000"), 10),
            ("deep bdat", ("--tls",), ("--tls", "--bdat", "--chunk", "5000", "--pipelining", "deep"), 10),
            ("resumed", (), ("--starttls", "--resume", "--per-connection", "10"), COUNT // 10),
        ]
        for name, served, arguments, connections in rows:
            with self.subTest(name):
                sink = self.sink(*files, *served)
                result = self.load(sink.port, "--messages", str(COUNT), "--connections", "10",
                                   *arguments)
                self.assert_whole(sink, result, COUNT)
                self.assertEqual(result["latency_ns"]["tls"]["count"], result["connections_opened"])
                self.assertGreaterEqual(result["connections_opened"], connections)
                if name == "resumed":
                    self.assertGreaterEqual(result["tls_resumed"], connections - 10)
                else:
                    self.assertEqual(result["tls_resumed"], 0)

    def test_open_loop(self):
        """As many as are due arrive, and who waits for a busy server is not left out of the latency."""
        sink = self.sink("--delay", "end=40ms")
        result = self.load(sink.port, "--rate", "200", "--arrivals", "constant", "--duration", "1500ms",
                           "--connections", "4", "--drain", "20s")
        self.assert_whole(sink, result, result["acknowledged"])
        # Four connections do 100 a second: after 1.5 s half of what was due waits, and is sent then.
        self.assertGreaterEqual(result["arrivals"], 290)
        self.assertEqual((result["acknowledged"], result["arrivals_waiting"]), (result["arrivals"], 0))
        self.assertLess(result["measured"]["messages"], 220)
        self.assertGreater(result["latency_ns"]["message"]["p90"], 300e6)
        self.assertLess(result["latency_ns"]["reply"]["p50"], 200e6 * SLOW)
        # The sink counts from the start of its turn, load from the end of its own.
        self.assertGreaterEqual(result["latency_ns"]["reply"]["min"], 38e6)

    def test_open_loop_gives_up(self):
        sink = self.sink("--delay", "end=300ms")
        result = self.load(sink.port, "--rate", "200", "--duration", "1s", "--connections", "2", "--drain",
                           "600ms", status=1)
        self.assertGreater(result["arrivals_waiting"], 100)
        self.assertEqual(result["arrivals"], sum(result[one] for one in (
            "arrivals_waiting", "acknowledged", "ambiguous", "broken")))

    def test_open_loop_at_ease(self):
        sink = self.sink()
        result = self.load(sink.port, "--rate", "200", "--messages", "200", "--connections", "20")
        self.assert_whole(sink, result, 200)
        self.assertEqual(result["arrivals"], 200)

    def test_idle_connections(self):
        sink = self.sink()
        result = self.load(sink.port, "--connections", "300", "--idle", "1h", "--duration", "1s")
        self.assertEqual((result["acknowledged"], result["connections_opened"]), (0, 300))
        self.assertEqual(sink.stop()["connections"], 300)

    def test_closed_while_idle(self):
        """The server may; it is counted, is no error, and the next message opens another connection."""
        sink = self.sink("--timeout", "300ms")
        result = self.load(sink.port, "--messages", "6", "--connections", "1", "--idle", "900ms:1,0s:1",
                           "--seed", "3")
        self.assertEqual(result["acknowledged"], 6)
        self.assertEqual(set(result["failures"]), {"closed while idle"})
        self.assertEqual(result["connections_opened"], result["failures"]["closed while idle"] + 1)

    def test_faults(self):
        """Every count of one side is one of the other's, and the audit allows for what is not known."""
        sink = self.sink("--fault", "end=451 4.3.0 Busy,every=20", "--fault", "end=drop,every=33",
                         "--fault", "rcpt=550 5.1.1 No,every=25", "--fault", "mail=drop,every=40",
                         "--fault", "data=421 4.3.2 Bye,every=45")
        result = self.load(sink.port, "--messages", str(COUNT), "--connections", "10", status=1)
        totals = sink.stop()
        audit = self.verify(sink)
        self.assertEqual(result["acknowledged"], totals["messages"])
        self.assertEqual(result["replies"]["end 451"], totals["refused"])
        self.assertEqual((result["ambiguous"], audit["ambiguous"]), (totals["left"],) * 2)
        self.assertGreater(result["replies"]["rcpt 550"], 0)
        self.assertGreaterEqual(result["failures"]["closed by the server"], result["ambiguous"])
        self.assertEqual(sum(result[one] for one in ("acknowledged", "refused", "ambiguous", "broken")),
                         COUNT)
        self.assertEqual((audit["good"], audit["lost"]), (totals["messages"], 0))

    def test_nobody_there(self):
        with reserve_port() as holder:
            result = self.load(holder.getsockname()[1], "--messages", "5", "--connections", "5", status=1)
        self.assertEqual((result["broken"], result["failures"]), (5, {"connection refused": 5}))

    def test_silence(self):
        sink = self.sink("--fault", "end=stall,times=1")
        result = self.load(sink.port, "--messages", "20", "--connections", "2", "--timeout", "700ms",
                           status=1)
        self.assertEqual((result["acknowledged"], result["ambiguous"]), (19, 1))
        self.assertEqual(result["failures"], {"timeout": 1})


class Relayed(BenchTest):
    """load -> ringpost -> sink."""

    def test_modes(self):
        one = certificates().localhost
        relay_tls = {"next_hop": {"internal": {"tls": "require"}}}
        rows = [
            ("plain", (), {}, ()),
            ("pipelined", (), {}, ("--pipelining", "deep", "--size", "1-60000")),
            ("bdat", (), {}, ("--bdat", "--chunk", "4000", "--size", "1-60000")),
            ("large", (), {}, ("--size", "1m:1,1k:30")),
            ("starttls", ("--certificate", one.certificate, "--key", one.key), relay_tls,
             ("--starttls", "--per-connection", "20")),
            ("open loop", (), {}, ("--rate", "1000")),
            ("spool", (), {"delivery": {"mode": "spool"}}, ("--recipients", "3")),
        ]
        for name, served, config, arguments in rows:
            with self.subTest(name):
                sink = self.sink(*served)
                relay = self.relay([sink], config, tls="starttls")
                result = self.load(relay.port, "--messages", str(COUNT // 2), "--connections", "10",
                                   *arguments)
                wait_for(lambda: self.verify_count(sink) >= COUNT // 2, 20, "all came")
                self.assert_whole(sink, result, COUNT // 2)

    def verify_count(self, sink: BenchSink) -> int:
        return sum(not line.startswith("#") for line in sink.ledger.read_text().splitlines())

    def test_faults(self):
        """A next hop that defers and breaks off: nothing that was answered 250 is lost."""
        sink = self.sink("--fault", "end=451 4.3.0 Busy,%5", "--fault", "end=drop,%3",
                         "--fault", "rcpt=450 4.2.1 Later,%3")
        relay = self.relay([sink], {"delivery": {"on_defer": "spool"},
                                  "spool": {"retry": ["1s"]}})
        result = self.load(relay.port, "--messages", str(COUNT // 2), "--connections", "10")
        wait_for(lambda: self.verify_good(sink) == COUNT // 2, 40, "all came")
        totals = sink.stop()
        audit = self.verify(sink, "--allow-duplicates")
        self.assertEqual((result["acknowledged"], audit["good"] + audit["duplicated"]), (COUNT // 2,) * 2)
        self.assertGreater(totals["faults"], 0)

    def verify_good(self, sink: BenchSink) -> int:
        done = self.bench("verify", "--sent", str(self.sent), "--received", str(sink.ledger), "--json")
        audit = json.loads(done.stdout) if done.stdout else {"good": 0, "duplicated": 0}
        return audit["good"] + audit["duplicated"]


class Segments(BenchTest):
    """What a client that pipelines across messages writes in one go is one segment."""

    DATA_SEGMENTS_AT = 152      # tcpi_data_segs_in of struct tcp_info

    def serve(self, listener: socket.socket, found: list[tuple[int, bytes]]) -> None:
        """One session; what came after each 354 up to the next reply, and in how many segments."""
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(20 * SLOW)

            def segments() -> int:
                info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
                return struct.unpack_from("=I", info, self.DATA_SEGMENTS_AT)[0]

            def read(*ends: bytes) -> bytes:
                text = b""
                while not text.endswith(ends):
                    piece = peer.recv(65536)
                    if not piece:
                        return text
                    text += piece
                return text

            peer.sendall(b"220 here\r\n")
            read(b"\r\n")
            peer.sendall(b"250-here\r\n250 PIPELINING\r\n")
            text = read(b"DATA\r\n")
            while text.endswith(b"DATA\r\n"):
                before = segments()
                first = b"" if not found else b"250 taken\r\n"
                peer.sendall(first + b"250 ok\r\n250 ok\r\n354 go on\r\n")
                text = read(b"DATA\r\n", b"\r\n.\r\n")
                found.append((segments() - before, text))
            peer.sendall(b"250 taken\r\n")
            read(b"QUIT\r\n")
            peer.sendall(b"221 bye\r\n")

    def test_deep(self):
        found: list[tuple[int, bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = threading.Thread(target=self.serve, args=(listener, found))
            server.start()
            try:
                result = self.load(listener.getsockname()[1], "--messages", "4", "--connections", "1",
                                   "--pipelining", "deep", "--size", "2k")
            finally:
                server.join(30 * SLOW)
        self.assertEqual((result["acknowledged"], result["failures"]), (4, {}))
        self.assertEqual([count for count, _ in found], [1] * 4)
        followed = [text.count(b"\r\n.\r\nMAIL FROM:<") for _, text in found]
        self.assertEqual(followed, [1, 1, 1, 0])


class Independent(BenchTest):
    """Postfix's tools on the other side count what ours count."""

    def test_load_to_smtp_sink(self):
        with reserve_port() as holder:
            port = holder.getsockname()[1]
        folder = self.folder()
        process = subprocess.Popen([find_tool("smtp-sink"), "-u", "nobody", "-R", str(folder), "-d", "%M.",
                                    f"127.0.0.1:{port}", "200"], stdin=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        folder.chmod(0o777)
        wait_for(lambda: is_listening(port), 10, "smtp-sink listens")
        for mode in ("off", "groups", "deep"):
            with self.subTest(mode):
                for old in folder.iterdir():
                    old.unlink()
                result = self.load(port, "--messages", "100", "--connections", "5", "--pipelining", mode,
                                   "--size", "1k-20k")
                self.assertEqual(result["acknowledged"], 100)
                found = [one.read_bytes() for one in folder.iterdir() if one.suffix != ".ledger"]
                ids = {re.search(rb"X-Ringpost-Bench-ID: (\w{24})\r?\n", one).group(1).decode()
                       for one in found}
                self.assertEqual(ids, {line.split()[0] for line in self.sent.read_text().splitlines()[1:]})

    def test_smtp_source_to_sink(self):
        sink = self.sink("--threads", "2")
        source = find_tool("smtp-source")
        for arguments in (("-s", "10", "-m", "200"), ("-d", "-s", "5", "-m", "100", "-l", "20000"),
                          ("-N", "-s", "3", "-r", "4", "-m", "100")):
            subprocess.run([source, *arguments, sink.server], check=True, timeout=30 * SLOW,
                           stdin=subprocess.DEVNULL, capture_output=True)
        totals = sink.stop()
        self.assertEqual((totals["messages"], totals["recipients"], totals["not"]), (400, 700, 400))
        lines = [line.split() for line in sink.ledger.read_text().splitlines()[1:]]
        self.assertEqual({(line[0], line[1]) for line in lines}, {("-", "250")})
        self.assertEqual(len(lines), 400)


class Audit(BenchTest):
    """verify finds what is wrong, on ledgers that were wrong on purpose."""

    SENT = ["{0:024x} 250 2 4096 {0:08x} 1 a".format(i) for i in range(10)]

    def audit(self, sent: list[str], received: list[str], *arguments: str) -> tuple[int, dict, str]:
        folder = self.folder()
        for name, lines in (("sent", sent), ("received", received)):
            (folder / name).write_text("# ringpost-bench ledger 1\n" + "".join(f"{x}\n" for x in lines))
        done = self.bench("verify", "--sent", str(folder / "sent"), "--received",
                          str(folder / "received"), "--json", *arguments)
        return done.returncode, json.loads(done.stdout), done.stderr

    def test_findings(self):
        sent, other = self.SENT, "{:024x} 250 2 4096 00000001 1 -".format(99)
        refused, unknown = sent[0].replace(" 250 ", " 550 "), sent[0].replace(" 250 ", " 0 ")
        half = sent[0].replace(" 2 4096", " 1 4096")
        rows = [
            ("all well", sent, sent, 0, {"good": 10}),
            ("in any order", sent, sent[::-1], 0, {"good": 10}),
            ("lost", sent, sent[1:], 1, {"good": 9, "lost": 1}),
            ("one recipient lost", sent, [half, *sent[1:]], 1, {"good": 9, "lost": 1}),
            ("in two parts", sent, [half, half, *sent[1:]], 0, {"good": 10}),
            ("duplicated", sent, [*sent, sent[3]], 1, {"good": 9, "duplicated": 1}),
            ("damaged", sent, [sent[0].replace(" 00000000 ", " 00000001 "), *sent[1:]], 1,
             {"good": 9, "damaged": 1}),
            ("unexpected", sent, [*sent, other], 1, {"good": 10, "unexpected": 1}),
            ("refused, and it came", [refused, *sent[1:]], sent, 1,
             {"good": 9, "refused": 1, "unexpected": 1}),
            ("refused", [refused, *sent[1:]], sent[1:], 0, {"good": 9, "refused": 1}),
            ("no answer, and it came", [unknown, *sent[1:]], sent, 0,
             {"good": 9, "ambiguous": 1, "ambiguous_delivered": 1}),
            ("no answer", [unknown, *sent[1:]], sent[1:], 0, {"good": 9, "ambiguous": 1}),
            ("the sink refused it once", sent, [sent[0].replace(" 250 ", " 451 "), *sent], 0, {"good": 10}),
            ("and never took it", sent, [sent[0].replace(" 250 ", " 451 "), *sent[1:]], 1,
             {"good": 9, "lost": 1}),
            ("a stranger's", sent, [*sent, "- 250 1 300 00000000 1 -"], 0, {"good": 10, "foreign": 1}),
            ("no ledger", sent, ["what?", *sent], 3, {"good": 10, "malformed": 1}),
        ]
        zero = ("good", "lost", "duplicated", "damaged", "unexpected", "refused", "ambiguous",
                "ambiguous_delivered", "foreign", "malformed")
        for name, was_sent, came, status, wanted in rows:
            with self.subTest(name):
                got, counts, _ = self.audit(was_sent, came)
                self.assertEqual(got, status)
                self.assertEqual({key: counts[key] for key in zero}, dict.fromkeys(zero, 0) | wanted)

    def test_names_what_is_wrong(self):
        _, _, text = self.audit(self.SENT, self.SENT[1:])
        self.assertIn("lost: " + "0" * 24, text)

    def test_allowed_duplicates(self):
        status, counts, _ = self.audit(self.SENT, self.SENT * 2, "--allow-duplicates")
        self.assertEqual((status, counts["duplicated"]), (0, 10))

    def test_missing_file(self):
        done = self.bench("verify", "--sent", "/nonexistent", "--received", "/nonexistent")
        self.assertEqual(done.returncode, 3)
        self.assertIn("/nonexistent: No such file", done.stderr)


class Arguments(BenchTest):

    def test_help(self):
        for arguments in (("--help",), ("load", "--help"), ("sink", "-h"), ("verify", "--help")):
            done = self.bench(*arguments)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("usage: ringpost-bench", done.stdout)
            for line in done.stdout.splitlines():
                self.assertLessEqual(len(line), 100, line)

    def test_wrong(self):
        rows = [
            ((), "usage: "), (("throw",), "unknown command 'throw'"),
            (("load",), "--to ADDRESS:PORT is missing"),
            (("load", "--to", "localhost:25"), "'localhost:25' is not an address and port"),
            (("load", "--to", "127.0.0.1:25", "--size", "4x"), "'4x' has an unknown unit"),
            (("load", "--to", "127.0.0.1:25", "--size", "8k-4k"), "ends below its start"),
            (("load", "--to", "127.0.0.1:25", "--size", "4k:0"), "has a weight that is no positive number"),
            (("load", "--to", "127.0.0.1:25", "--size", "1tb"), "'1tb' "),
            (("load", "--to", "127.0.0.1:25", "--idle", "5"), "--idle '5' has no unit"),
            (("load", "--to", "127.0.0.1:25", "--threads", "0"), "--threads '0' is too small"),
            (("load", "--to", "127.0.0.1:25", "--rate", "0"), "'0' is no number of times a second"),
            (("load", "--to", "127.0.0.1:25", "--rcpt", "a b"), "has a character that no address has"),
            (("load", "--to", "127.0.0.1:25", "--pipelining", "on"), "is none of off, groups and deep"),
            (("load", "--to", "127.0.0.1:25", "--chunk", "4k"), "--chunk needs --bdat"),
            (("load", "--to", "127.0.0.1:25", "--from-addresses", "2001:db8::/64"), "are of another family"),
            (("load", "--to", "127.0.0.1:25", "more"), "'more' is one argument too many"),
            (("sink", "127.0.0.1"), "'127.0.0.1' has no port"),
            (("sink", "--tls"), "--tls needs --certificate"),
            (("sink", "--delay", "body=1ms"), "is no STAGE=TIMES"),
            (("sink", "--delay", "end=1"), "'1' has no unit"),
            (("sink", "--fault", "body=drop:5"), "is for ringpost sink"),
            (("sink", "--fault", "end=explode"), "is no action"),
            (("verify", "--sent", "x"), "wants --sent FILE and --received FILE"),
            (("verify", "--sent", "x", "--received", "y", "more"), "'more' is one argument too many"),
            (("verify", "--received", "y") + ("--sent", "x") * 17, "--sent 'x' is one file too many"),
        ]
        for arguments, text in rows:
            with self.subTest(arguments=arguments):
                done = self.bench(*arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done)
                self.assertIn(text, done.stderr)
