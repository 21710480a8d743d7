"""The process: commands and their exit statuses, start, stop, reload, logs, statistics."""
import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from harness import (BINARY, Client, Default, Relay, Reply, SLOW, Stall, SystemTest, certificates,
                     find_tool, reserve_port, wait_for)
from traffic import LETTER, deliver, letter, together

CONFINED = str(pathlib.Path(__file__).with_name("confined.py"))
GOOD = """hostname: edge.test
workers: 1
listen: { smtp: { address: "127.0.0.1:%d" } }
accept: { networks: [ "127.0.0.0/8" ] }
next_hop: { internal: { servers: [ "127.0.0.1:9" ], tls: none } }
route: { "*": internal }
"""


class Process(SystemTest):

    def ringpost(self, *arguments, folder=None, wrapper=()) -> subprocess.CompletedProcess:
        return subprocess.run([*wrapper, BINARY, *arguments], cwd=folder, capture_output=True,
                              text=True, timeout=20 * SLOW, check=False, stdin=subprocess.DEVNULL)

    def write(self, text: str, name: str = "ringpost.yaml") -> pathlib.Path:
        path = self.folder() / name
        path.write_text(text)
        return path

    def expect(self, done, status: int, *texts: str) -> None:
        self.assertEqual(done.returncode, status, done)
        for text in texts:
            self.assertIn(text, done.stderr)
        if status == 0:
            self.assertEqual(done.stderr, "")
        else:
            self.assertEqual(done.stdout, "")


class Commands(Process):

    def test_usage(self):
        self.expect(self.ringpost(), 2, "no command", "Try: ringpost --help")
        self.expect(self.ringpost("relay"), 2, "unknown command relay")
        self.expect(self.ringpost("run", "--workers", "0"), 2, "--workers wants a number")
        self.expect(self.ringpost("run", "--workers", "two"), 2, "--workers wants a number")
        self.expect(self.ringpost("run", "more"), 2, "unexpected argument more")
        self.expect(self.ringpost("check", "--wrong"), 2, "--wrong")
        for word in ("--help", "-h", "help"):
            done = self.ringpost(word)
            self.expect(done, 0)
            self.assertIn("usage: ringpost COMMAND", done.stdout)
        self.assertRegex(self.ringpost("--version").stdout, r"^ringpost \d+\.\d+\.\d+")

    def test_queue(self):
        """The rest of it is in test_queue_commands.py."""
        path = self.write(GOOD % 2525)
        for word in ("list", "summary", "retry"):
            self.expect(self.ringpost("queue", word, "--age", "1h", "-c", str(path)), 1,
                        str(path.parent / "spool"), "nothing was ever stored")
        self.expect(self.ringpost("queue", "list", "-c", str(path) + ".not"), 1, ".not: error: cannot open")
        self.expect(self.ringpost("queue", "frozen"), 2, "unknown verb frozen")
        done = self.ringpost("queue", "--help")
        self.expect(done, 0)
        self.assertIn("usage: ringpost queue", done.stdout)

    def test_check(self):
        path = self.write(GOOD % 2525)
        done = self.ringpost("check", "-c", str(path))
        self.expect(done, 0)
        self.assertEqual(done.stdout, f"{path}: good\n")

    def test_errors_are_pointed_at(self):
        """FILE:LINE:COLUMN, the line, and a caret, all of them in the order of the file."""
        text = GOOD % 2525 + "limits: { recipients: 3, sessions: 4 }\ntimeouts: { data: soon }\n"
        path = self.write("wrokers: 2\n" + text.replace("workers: 1\n", "").replace(
            "tls: none", "tsl: none"))
        rows = ["1:1: error: unknown key 'wrokers', did you mean 'workers'?",
                "5:53: error: next_hop.internal: unknown key 'tsl', did you mean 'tls'?",
                "7:23: error: limits.recipients: 3 is too small, expected 100 to 50000",
                "7:26: error: limits: unknown key 'sessions'",
                "8:19: error: timeouts.data: 'soon' is not a duration"]
        for command in ("check", "run", "stats"):
            with self.subTest(command=command):
                done = self.ringpost(command, "-c", path.name, folder=path.parent)
                self.expect(done, 1)
                errors = [line for line in done.stderr.splitlines() if ": error: " in line]
                self.assertEqual(len(errors), len(rows), done.stderr)
                for row, error in zip(rows, errors):
                    self.assertTrue(error.startswith(f"{path.name}:{row}"), error)
                self.assertIn("    1 | wrokers: 2\n      | ^\n", done.stderr)

    def test_bad_files(self):
        folder = self.folder()
        self.expect(self.ringpost("check", "-c", "none.yaml", folder=folder), 1,
                    "none.yaml: error: cannot open: No such file or directory")
        for name, text, error in (
                ("syntax.yaml", "listen: { smtp\n", ": error: YAML: "),
                ("empty.yaml", "", "error: "), ("list.yaml", "- a\n", "error: "),
                ("binary.yaml", "\0\1\2", "error: ")):
            with self.subTest(name=name):
                (folder / name).write_text(text)
                self.expect(self.ringpost("check", "-c", name, folder=folder), 1, name, error)

    def test_certificates(self):
        good = certificates()
        folder = self.folder()
        (folder / "text.pem").write_text("this is no certificate\n")
        rows = [("none.pem", good.localhost.key, "none.pem"),
                (str(folder / "text.pem"), good.localhost.key, "text.pem"),
                (good.localhost.certificate, "none.key", "none.key"),
                (good.localhost.certificate, good.edge_a.key, "localhost")]
        for certificate, key, text in rows:
            path = self.write((GOOD % 2525).replace('2525"', '2525", tls: starttls')
                              + f"tls: {{ certificate: {certificate}, key: {key} }}\n")
            for command in ("check", "run"):
                with self.subTest(certificate=certificate, key=key, command=command):
                    self.expect(self.ringpost(command, "-c", str(path)), 1, text)

    def test_port_is_busy(self):
        for workers in (1, 2):
            with self.subTest(workers=workers), reserve_port() as holder:
                holder.listen()
                port = holder.getsockname()[1]
                path = self.write(GOOD % port)
                self.expect(self.ringpost("run", "-c", str(path), "--workers", str(workers)), 1,
                            f"cannot listen on 127.0.0.1:{port}: Address already in use",
                            "is another ringpost or MTA running there?")

    def test_started_twice(self):
        """The second one ends and says why; the first one, and its socket, are not disturbed."""
        for workers in (1, 2):
            for stats in ({}, None):
                with self.subTest(workers=workers, stats=stats):
                    relay = self.relay(self.next_hop(), {"workers": workers, "stats": stats})
                    done = self.ringpost("run", "-c", str(relay.file))
                    self.assertEqual(done.returncode, 1, done)
                    self.assertIn("Address already in use", done.stderr)
                    self.assertEqual(deliver(relay), 250)
                    if relay.stats_socket:
                        self.assertEqual(relay.counter("messages_accepted"), 1)

    def test_stats(self):
        hop = self.next_hop()
        relay = self.relay(hop)
        for _ in range(3):
            deliver(relay)
        done = self.ringpost("stats", "-c", str(relay.file))
        self.expect(done, 0)
        self.assertRegex(done.stdout, r"messages.*\b3\b")
        self.assertIn("internal", done.stdout)
        done = self.ringpost("stats", "-c", str(relay.file), "--json")
        self.expect(done, 0)
        self.assertEqual(json.loads(done.stdout)["counters"]["messages_accepted"], 3)
        relay.stop()
        for arguments in ((), ("--json",)):
            done = self.ringpost("stats", "-c", str(relay.file), *arguments)
            self.expect(done, 1, "stats.sock")
            self.assertRegex(done.stderr, "running|refused|No such file")

    def test_stats_without_address(self):
        path = self.write(GOOD % 2525)
        self.expect(self.ringpost("stats", "-c", str(path)), 1, "no stats.address")

    def test_io_uring_refused(self):
        """A container's seccomp profile, and a kernel without it: told apart, with what to do."""
        with reserve_port() as holder:
            path = self.write(GOOD % holder.getsockname()[1])
            rows = [(errno.EPERM, "io_uring is not permitted here", "seccomp"),
                    (errno.ENOSYS, "no io_uring at all", "Linux 6.1"),
                    (errno.ENOMEM, "no memory for the io_uring", "")]
            for code, *texts in rows:
                with self.subTest(errno=errno.errorcode[code]):
                    done = self.ringpost("run", "-c", str(path), wrapper=(
                        sys.executable, CONFINED, "--refuse-io-uring", str(code)))
                    self.expect(done, 1, *texts)

    def test_check_needs_no_io_uring(self):
        path = self.write(GOOD % 2525)
        done = self.ringpost("check", "-c", str(path), wrapper=(
            sys.executable, CONFINED, "--refuse-io-uring", str(errno.EPERM)))
        self.expect(done, 0)


class Scheduling(Process):
    """Whom the workers' wake-ups interrupt."""

    def policies(self, changes: dict, **options) -> dict[str, int]:
        relay = self.relay(self.next_hop(), {"workers": 2, **changes}, **options)
        tasks = pathlib.Path(f"/proc/{relay.process.pid}/task").iterdir()
        return {(task / "comm").read_text().strip(): os.sched_getscheduler(int(task.name))
                for task in tasks}

    def workers(self, changes: dict, **options) -> set[int]:
        return {policy for name, policy in self.policies(changes, **options).items()
                if name.startswith("worker-")}

    def test_workers_let_others_finish(self):
        policies = self.policies({})
        self.assertEqual(policies["worker-0"], os.SCHED_BATCH)
        self.assertEqual(policies["worker-1"], os.SCHED_BATCH)
        self.assertEqual({policy for name, policy in policies.items()
                          if not name.startswith("worker-")}, {os.SCHED_OTHER})

    def test_other(self):
        self.assertEqual(self.workers({"scheduling": "other"}), {os.SCHED_OTHER})

    def test_what_was_chosen_for_the_process_stays(self):
        self.assertEqual(self.workers({}, wrapper=["chrt", "--idle", "0"]), {os.SCHED_IDLE})


class Stopping(Process):

    def under_way(self, relay, client=None) -> Client:
        """A client in the middle of a message."""
        client = client or self.client(relay)
        client.ehlo()
        client.envelope()
        client.data(LETTER)
        return client

    def ended(self, relay, seconds) -> None:
        self.assertEqual(relay.process.wait(seconds * SLOW), 0)

    def test_finishes_what_is_under_way(self):
        hop = self.next_hop()
        hop.on("END", [Stall, Default], times=1)
        relay = self.relay(hop, {"workers": 2})
        waiting, writing, idle = self.under_way(relay), self.under_way(relay), self.client(relay)
        waiting.send(".\r\n")
        hop.wait(lambda: hop.stalled, what="a message at the next hop")
        relay.signal(signal.SIGTERM)
        # Idle clients are told, new ones go elsewhere.
        reply = idle.reply()
        self.assertEqual((reply.code, reply.enhanced), (421, "4.3.2"))
        self.assertTrue(idle.is_closed())

        def refused():
            try:
                Client(relay, greeting=False).close()
                return False
            except ConnectionRefusedError:
                return True

        wait_for(refused, what="new connections are refused")
        self.assertEqual(relay.http("/healthz")[0], 503)
        # The others end their message, and then hear of it.
        writing.send(".\r\n")
        self.assertEqual(writing.reply(), 250)
        self.assertEqual(writing.reply(), 421)
        self.assertIsNone(relay.process.poll())
        hop.release()
        self.assertEqual(waiting.reply(), 250)
        self.assertEqual(waiting.reply(), 421)
        waiting.close()
        writing.close()
        idle.close()
        self.ended(relay, 5)
        self.assertEqual(len(hop.messages), 2)
        wait_for(lambda: all(one.closed == "quit" for one in hop.sessions), what="QUIT")

    def test_while_accepting_is_paused(self):
        """No descriptor is left for new clients when draining begins: they are refused too, and do
        not wait in the queue of a listener that nobody looks at."""
        relay = self.relay(self.next_hop(), wrapper=(sys.executable, CONFINED, "--descriptors", "32"))
        writing = self.under_way(relay)
        clients = [self.client(relay, greeting=False) for _ in range(40)]
        relay.wait_event("accept_paused")
        relay.signal(signal.SIGTERM)

        def refused():
            try:
                Client(relay, greeting=False).close()
                return False
            except (ConnectionRefusedError, ConnectionResetError):
                return True

        wait_for(refused, 5, "new connections are refused")
        for client in clients:
            client.close()
        writing.send(".\r\n")
        self.assertIn(writing.reply().code, (250, 451))
        self.assertEqual(writing.reply(), 421)
        writing.close()
        self.ended(relay, 5)

    def test_at_once_when_idle(self):
        relay = self.relay(self.next_hop())
        self.assertEqual(deliver(relay), 250)
        clients = [self.client(relay) for _ in range(20)]
        start = time.monotonic()
        relay.signal(signal.SIGINT)
        for client in clients:
            self.assertEqual(client.reply(), 421)
            client.close()
        self.ended(relay, 2)
        self.assertLess(time.monotonic() - start, 2 * SLOW)

    def test_time_is_limited(self):
        """A client that does not go on is given timeouts.drain."""
        hop = self.next_hop()
        relay = self.relay(hop, {"timeouts": {"drain": "500ms"}})
        client = self.under_way(relay)
        relay.signal(signal.SIGTERM)
        self.ended(relay, 4)
        self.assertEqual(hop.received, [])
        self.assertTrue(client.is_closed())

    def test_second_signal(self):
        hop = self.next_hop()
        hop.on("END", Stall)
        relay = self.relay(hop)
        self.under_way(relay).send(".\r\n")
        hop.wait(lambda: hop.stalled, what="a message at the next hop")
        relay.signal(signal.SIGTERM)
        wait_for(lambda: any("draining" in line for line in relay.log()), what="draining")
        self.assertIsNone(relay.process.poll())
        relay.signal(signal.SIGTERM)
        self.ended(relay, 2)
        self.assertTrue(any("second signal" in line for line in relay.log()))

    def test_started_again_at_once(self):
        """After a stop and after kill -9: no address is in use, no stale socket in the way."""
        hop = self.next_hop()
        relay = self.relay(hop, {"workers": 2})
        client = self.client(relay)
        self.assertEqual(deliver(relay), 250)
        relay.stop()
        relay.start()
        self.assertEqual(deliver(relay), 250)
        relay.kill()
        self.assertTrue((relay.folder / "stats.sock").exists())
        relay.start()
        self.assertEqual(deliver(relay), 250)
        client.close()
        self.assertEqual(len(hop.messages), 3)


def talk(client: Client) -> Reply:
    client.ehlo()
    reply = client.message(LETTER)
    client.close()
    return reply


class Workers(Process):

    def test_spread(self):
        """50 connections, 2 workers: each has its share, however they come. Several rounds, since
        the kernel's own spreading is good by chance in two of three."""
        relay = self.relay(self.next_hop(), {"workers": 2})

        def shares():
            return [one["sessions_current"] for one in relay.stats()["workers"]]

        for how in ("one by one", "together") * 4:
            with self.subTest(how=how):
                if how == "together":
                    clients = together([lambda: self.client(relay)] * 50)
                else:
                    clients = [self.client(relay) for _ in range(50)]
                self.assertEqual(sum(shares()), 50)
                self.assertLessEqual(max(shares()), 29)
                metrics = relay.metrics()
                self.assertEqual([metrics[f'ringpost_sessions_current{{worker="{worker}"}}']
                                  for worker in (0, 1)], shares())
                together(lambda client=client: self.assertEqual(talk(client), 250)
                         for client in clients)
                wait_for(lambda: sum(shares()) == 0, what="all sessions end")
        self.assertGreater(relay.counter("connections_handed_over"), 0)

    def test_argument(self):
        relay = self.relay(self.next_hop(), arguments=["--workers", "3"])
        self.assertEqual(len(relay.stats()["workers"]), 3)
        self.assertEqual(deliver(relay), 250)


class Reload(Process):

    def test_log_is_opened_again(self):
        relay = self.relay(self.next_hop(), {"log": {"target": "mail.log"}})
        self.assertEqual(deliver(relay), 250)
        relay.wait_event("message")
        log, old = relay.folder / "mail.log", relay.folder / "mail.log.1"
        log.rename(old)
        self.assertEqual(deliver(relay, sender="between@example.net"), 250)
        wait_for(lambda: "between@" in old.read_text(), what="the old file is still in use")
        relay.signal(signal.SIGHUP)
        wait_for(log.exists, what="a new file")
        self.assertEqual(deliver(relay, sender="after@example.net"), 250)
        self.assertEqual(relay.wait_event("message")["from"], "after@example.net")
        self.assertNotIn("after@", old.read_text())

    def test_log_cannot_be_opened_again(self):
        """Its folder is gone: the old file stays in use, and says why."""
        folder, moved = self.folder() / "logs", self.folder() / "moved"
        folder.mkdir()
        relay = self.relay(self.next_hop(), {"log": {"target": str(folder / "mail.log")}})
        self.assertEqual(deliver(relay), 250)
        folder.rename(moved)
        relay.signal(signal.SIGHUP)
        self.assertEqual(deliver(relay, sender="after@example.net"), 250)
        wait_for(lambda: "after@" in (moved / "mail.log").read_text(), what="the old file is used")
        self.assertIn("No such file or directory", (moved / "mail.log").read_text())

    def test_certificates(self):
        good = certificates()
        folder = self.folder()
        names = {"certificate": folder / "cert.pem", "key": folder / "key.pem"}

        def install(one):
            shutil.copy(one.certificate, names["certificate"])
            shutil.copy(one.key, names["key"])

        def served(relay):
            client = self.client(relay)
            client.ehlo()
            client.starttls(good.client_context(verify=False), None)
            found = client.socket.getpeercert(binary_form=True)
            client.close()
            return found

        install(good.edge_a)
        relay = self.relay(self.next_hop(), {"workers": 2, "tls": {
            key: str(path) for key, path in names.items()}}, tls="starttls")
        self.assertEqual(served(relay), good.edge_a.der())
        open_one = self.client(relay)
        open_one.ehlo()
        install(good.edge_b)
        relay.reload()
        wait_for(lambda: served(relay) == good.edge_b.der(), what="the new certificate")
        # A bad one: the one in use stays, and the log and the metric say so.
        names["key"].write_text("nonsense\n")
        relay.reload()
        self.assertEqual(served(relay), good.edge_b.der())
        self.assertEqual(relay.metrics()["ringpost_config_last_reload_successful"], 0)
        install(good.localhost)
        relay.reload()
        wait_for(lambda: served(relay) == good.localhost.der(), what="the third certificate")
        self.assertEqual(relay.metrics()["ringpost_config_last_reload_successful"], 1)
        self.assertEqual(open_one.message(LETTER), 250)


class Logs(Process):

    HOSTILE = [
        '"a\\"b"@example.net', '"x, status=delivered"@example.net', '"\\\\"@example.net',
        "a={}|'@example.net", '"} {"@example.net', "a`$|&@example.net"]

    def test_json_cannot_be_forged(self):
        """Every line is one object, and values are what was said."""
        hop = self.next_hop()
        hop.on("RCPT", '550 5.1.1 no "such" \\user\\, status=delivered\n5.1.1 two', match="no@")
        relay = self.relay(hop, {"delivery": {"recipient_check": "next_hop"}})
        client = self.client(relay)
        client.ehlo("[IPv6:2001:db8::1]")
        for sender in self.HOSTILE:
            self.assertEqual(client.message(LETTER, sender=sender), 250, sender)
        unicode = ["j\u00f6\u2028\u202e\u200b@example.net", "\u0085\u00ad@example.net"]
        for sender in unicode:
            reply = client.command(f"MAIL FROM:<{sender}> SMTPUTF8")
            if reply == 250:
                client.command("RSET", 250)
        client.envelope()
        client.command("RSET", 250)
        client.command("MAIL FROM:<a@example.net>", 250)
        client.command("RCPT TO:<no@example.com>", 550)
        client.command('X"{\\\\}\x7f\xff', 500)
        client.quit()
        relay.wait_event("message", len(self.HOSTILE))
        relay.wait_event("refused", 2)
        relay.stop()
        lines = relay.log()
        for line in lines:
            event = json.loads(line)
            self.assertIn("event", event)
            self.assertRegex(line, r"^[\x20-\x7e\u00a0-\uffff]*$")
        self.assertEqual([one["from"] for one in relay.events("message")], self.HOSTILE)
        self.assertEqual({one["helo"] for one in relay.events("message")}, {"[IPv6:2001:db8::1]"})
        refused = relay.events("refused", to="no@example.com")[0]
        self.assertTrue(refused["reply"].startswith('550'), refused)

    def test_text_cannot_be_forged(self):
        """One line for each event; a value that could look like another field is quoted."""
        hop = self.next_hop()
        relay = self.relay(hop, {"log": {"format": "text"}})
        client = self.client(relay)
        client.ehlo()
        for sender in self.HOSTILE:
            self.assertEqual(client.message(LETTER, sender=sender), 250, sender)
        client.quit()
        wait_for(lambda: sum(": message " in line for line in relay.log()) == len(self.HOSTILE),
                 what="the log")
        for line in relay.log():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+Z ringpost\[\d+\]: ")
            if ": message " in line:
                unquoted = "".join(line.replace('\\\\', "").replace('\\"', "").split('"')[::2])
                self.assertEqual(unquoted.count("status="), 1, line)
                self.assertEqual(unquoted.count("from="), 1, line)

    def test_full_device(self):
        """Lines are lost and counted, mail goes on."""
        relay = self.relay(self.next_hop(), {"log": {"target": "/dev/full"}})
        for _ in range(20):
            self.assertEqual(deliver(relay), 250)
        wait_for(lambda: relay.metrics()["ringpost_log_write_errors_total"] > 0, what="errors")
        self.assertEqual(deliver(relay), 250)

    def test_nobody_reads_the_log(self):
        """stderr is a pipe that is full: lines are dropped and counted; mail and stop go on."""
        hop = self.next_hop()
        relay = Relay(hop, start=False)
        self.addCleanup(relay.close)
        process = subprocess.Popen([BINARY, "run", "-c", str(relay.file)], cwd=relay.folder,
                                   stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
            relay.process = process
            wait_for(lambda: (relay.folder / "stats.sock").exists(), what="it is up")
            client = self.client(relay)
            client.ehlo()
            for _ in range(1500):
                self.assertEqual(client.message(LETTER), 250)
            client.close()
            wait_for(lambda: relay.metrics()['ringpost_log_lines_total{result="dropped"}'] > 0,
                     what="dropped lines")
            process.terminate()
            self.assertEqual(process.wait(10 * SLOW), 0)
        finally:
            process.kill()
            process.stderr.close()
            process.wait()
            relay.exit_status = process.returncode

    def test_target_cannot_be_opened(self):
        with reserve_port() as holder:
            path = self.write(GOOD % holder.getsockname()[1] + "log: { target: none/mail.log }\n")
            self.expect(self.ringpost("run", "-c", str(path)), 1, "cannot write the log",
                        "No such file or directory")


class Statistics(Process):

    def test_a_socket_that_a_killed_process_still_holds(self):
        """The kernel takes a ring's listener down a moment after the process."""
        hop = self.next_hop()
        relay = Relay(hop, start=False)
        self.addCleanup(relay.close)
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        held.bind(str(relay.folder / "stats.sock"))
        held.listen()
        timer = threading.Timer(0.3, held.close)
        timer.start()
        relay.start()
        timer.join()
        self.assertEqual(deliver(relay), 250)
        relay.stop()

    def traffic(self):
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 no", match="no@")
        relay = self.relay(hop, {"workers": 2, "stats": {
            "address": ["unix:stats.sock", "127.0.0.1:0"]}})
        for _ in range(3):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual(deliver(relay, recipients="no@example.com"), 550)
        self.assertEqual(deliver(relay, letter(400000)), 250)
        return relay

    def test_metrics_format(self):
        promtool = find_tool("promtool")
        relay = self.traffic()
        status, text = relay.http("/metrics")
        self.assertEqual(status, 200)
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True,
                              text=True, check=False, timeout=30)
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        metrics = relay.metrics()
        self.assertEqual(metrics['ringpost_messages_total{result="accepted"}'], 4)
        self.assertEqual(metrics['ringpost_messages_total{result="refused"}'], 1)
        # The one for nobody goes whole too, with its RCPT, where its worker's connection was used before.
        self.assertIn(metrics['ringpost_next_hop_messages_total{next_hop="internal"}'], (4, 5))

    def raw(self, relay, data, *, wait=True):
        with socket.create_connection(("127.0.0.1", relay.ports["stats"]), 20 * SLOW) as scraper:
            scraper.sendall(data)
            answer = b""
            while wait and (more := scraper.recv(65536)):
                answer += more
            return answer

    def test_http(self):
        relay = self.traffic()
        rows = [(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
                (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
                (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
                (b"GET /stats.json?pretty HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
                (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
                (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
                (b"EHLO client.test\r\n\r\n", b"400"),
                (b"GET /metrics HTTP/3.0\r\nHost: x\r\n\r\n", b"505"),
                (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
                (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"404")]
        for data, status in rows:
            with self.subTest(data=data[:40]):
                answer = self.raw(relay, data)
                self.assertTrue(answer.startswith(b"HTTP/1.1 " + status), answer[:100])
                head, _, body = answer.partition(b"\r\n\r\n")
                if data.startswith(b"HEAD"):
                    self.assertEqual(body, b"")
                else:
                    self.assertIn(b"content-length: %d\r\n" % len(body),
                                  head.lower() + b"\r\n")

    def test_hostile_scrapers(self):
        """They take all places, say little, read nothing, leave: mail does not notice, and the
        places come back."""
        relay = self.traffic()
        slow = [socket.create_connection(("127.0.0.1", relay.ports["stats"]))
                for _ in range(40)]
        for number, scraper in enumerate(slow):
            self.addCleanup(scraper.close)
            scraper.sendall((b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                             b"\0" * 100)[number % 4])
        start = time.monotonic()
        for _ in range(20):
            self.assertEqual(deliver(relay), 250)
        self.assertLess(time.monotonic() - start, 5 * SLOW)
        for scraper in slow:
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            scraper.close()
        for _ in range(30):
            self.raw(relay, os.urandom(300), wait=False)
        wait_for(lambda: relay.http("/healthz") == (200, "ok\n"), what="places are free")
        self.assertEqual(deliver(relay), 250)

    def test_scrapes_under_load(self):
        relay = self.traffic()

        def scrape():
            for _ in range(30):
                relay.metrics()
                relay.stats()

        def mail():
            with Client(relay) as client:
                client.ehlo()
                for _ in range(100):
                    self.assertEqual(client.message(LETTER), 250)

        together([scrape, scrape, mail, mail])
        self.assertEqual(relay.counter("messages_accepted"), 204)
