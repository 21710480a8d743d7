"""`ringpost queue`: what it shows of a relay's queue, and what it does to it; and without a relay,
what the files say."""
import json
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time

from harness import BINARY, SLOW, SystemTest, seconds_max, wait_for
from traffic import LETTER, deliver, letter, together

QUEUED = re.compile(r"^2\.0\.0 Ok: queued as ([0-9A-Za-z]+)$")
FAR = "127.0.0.1:9"


class QueueTest(SystemTest):

    said = ""

    def edge(self, hop, far=None, changes=None, **options):
        """Next hops `internal` and `far` (recipients in far.example); no retries by themselves."""
        config = {
            "delivery": {"mode": "spool"},
            "spool": {"directory": "spool", "retry": ["1h"], "minimum_free": "1mb",
                      "segment": "1mb"},
            "timeouts": {"server_retry": "10min", "server_retry_max": "10min"},
            "next_hop": {"far": {"servers": [far.server if far else FAR], "tls": "none"}},
            "route": {"far.example": "far"},
            "workers": 2,
        }
        for key, value in (changes or {}).items():
            config[key] = {**config[key], **value} if isinstance(value, dict) else value
        return self.relay(hop, config, **options)

    def queue(self, relay, *arguments, status=0, text=True):
        """Runs the command; returns what it printed. self.said: what it said on stderr."""
        done = subprocess.run([BINARY, "queue", *arguments, "-c", str(relay.file)],
                              capture_output=True, text=text, timeout=60 * SLOW, check=False)
        self.said = done.stderr
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stdout!r} {done.stderr!r}")
        return done.stdout

    def entries(self, relay, *arguments, **options):
        """Lines of JSON."""
        lines = self.queue(relay, *arguments, "--json", **options).splitlines()
        return [json.loads(line) for line in lines]

    def send(self, relay, data=LETTER, **options) -> str:
        reply = deliver(relay, data, **options)
        self.assertRegex(reply.text, QUEUED)
        return QUEUED.match(reply.text).group(1)

    def refusing(self):
        hop = self.next_hop()
        hop.refuse()
        return hop

    def wait_states(self, relay, *states):
        """Until the queue has entries in just these states. "stuck": ready or parked, as the first
        one that found its next hop down or those behind it."""
        def there():
            found = self.entries(relay, "list")
            now = [one["state"] for one in found]
            if "stuck" in states:
                now = ["stuck" if state in ("ready", "parked") else state for state in now]
            return sorted(now) == sorted(states) and (found or True)
        return wait_for(there, 20, f"entries {states}")


class Looking(QueueTest):

    def test_nothing(self):
        relay = self.edge(self.next_hop())
        self.assertEqual(self.queue(relay), "The queue is empty.\n")
        self.assertEqual(self.queue(relay, "list"), "The queue is empty.\n")
        self.assertEqual(self.entries(relay, "list"), [])
        summary, = self.entries(relay, "summary")
        self.assertEqual((summary["running"], summary["complete"], summary["messages"]),
                         (True, True, 0))
        self.assertIn("No message of the queue", self.queue(relay, "list", "--state", "held"))
        self.assertIn("No message of the queue", self.queue(relay, "remove", "--age", "1d"))
        self.assertEqual(self.queue(relay, "hold", "A1B2C3", status=1),
                         "A1B2C3: not in the queue\n")
        self.assertEqual(self.queue(relay, "show", "A1B2C3", status=1), "")
        self.assertIn("A1B2C3: not in the queue", self.said)
        socket = relay.folder / "spool" / "control.sock"
        self.assertEqual(stat.S_IMODE(socket.stat().st_mode), 0o600)
        # Nothing of it on the socket that everybody may use.
        self.assertEqual(relay.http("/queue/list")[0], 404)

    def test_list_and_filters(self):
        hop = self.next_hop()
        hop.on("RCPT", "450 4.2.1 mailbox is busy, <try> later")
        relay = self.edge(hop)
        both = self.send(relay, recipients=["b@example.com", "c@far.example"])
        other = self.send(relay, sender="", recipients=["d@sub.example.com"])
        entries = self.wait_states(relay, "waiting", "waiting", "parked")
        by_hop = {(one["id"], one["next_hop"]): one for one in entries}
        self.assertEqual(set(by_hop), {(both, "internal"), (both, "far"), (other, "internal")})
        waiting = by_hop[both, "internal"]
        self.assertEqual(waiting["sender"], "a@example.net")
        self.assertEqual(waiting["recipients"], ["b@example.com"])
        self.assertEqual(waiting["size"], len(LETTER))
        self.assertEqual(waiting["attempts"], 1)
        self.assertEqual((waiting["recipients_left"], waiting["recipients_total"]), (1, 2))
        self.assertLess(abs(waiting["arrival"] - time.time()), 60 * SLOW)
        self.assertTrue(2700 <= waiting["due"] - waiting["arrival"] <= 4500 + 60 * SLOW, waiting)
        self.assertIn("mailbox is busy, <try> later", waiting["reason"])
        self.assertIsNone(by_hop[both, "far"]["due"])
        self.assertTrue((relay.folder / "spool" / waiting["segment"]).exists())
        for arguments, want in (
                (("--next-hop", "far"), {(both, "far")}),
                (("--next-hop", "internal"), {(both, "internal"), (other, "internal")}),
                (("--next-hop", "."), set()),
                (("--state", "parked"), {(both, "far")}),
                (("--state", "parked", "--state", "waiting"), set(by_hop)),
                (("--state", "held"), set()),
                (("--domain", "far.example"), {(both, "far")}),
                (("--domain", "Example.COM"), {(both, "internal")}),
                (("--domain", "sub.example.com", "--state", "waiting"), {(other, "internal")}),
                (("--sender", "a@example.net"), {(both, "far"), (both, "internal")}),
                (("--sender", "example.net", "--next-hop", "far"), {(both, "far")}),
                (("--sender", "<>"), {(other, "internal")}),
                (("--sender", "nobody.example"), set()),
                (("--age", "1h"), set()),
                ((both,), {(both, "far"), (both, "internal")}),
                ((other, "A1B2C3"), {(other, "internal")}),
                ((both, "--domain", "sub.example.com"), set())):
            with self.subTest(arguments=arguments):
                found = self.entries(relay, "list", *arguments)
                self.assertEqual({(one["id"], one["next_hop"]) for one in found}, want)
                text = self.queue(relay, "list", *arguments)
                self.assertEqual(len(re.findall(r"^[0-9A-Za-z]{10,15} +[a-z]+ ", text, re.M)), len(want))
        self.assertEqual(self.queue(relay, "list", "--next-hop", "nobody", status=1), "")
        self.assertIn("no next hop of that name", self.said)
        time.sleep(2.1)
        self.assertEqual(len(self.entries(relay, "list", "--age", "2s")), 3)
        text = self.queue(relay, "list")
        self.assertRegex(text, rf"{both} +waiting +\d+s +\d+m +1 +\d+ B +internal +"
                               r"<a@example.net> to <b@example.com>\n +450 4\.2\.1 mailbox is busy, <try> later\n")
        self.assertRegex(text, r"3 messages, \d+ B\n\Z")

    def test_summary(self):
        hop = self.next_hop()
        hop.on("RCPT", "450 4.2.1 later")
        relay = self.edge(hop)
        for number in range(5):
            self.send(relay, recipients=[f"b{number}@example.com", "x@EXAMPLE.com",
                                         f"y{number}@far.example"][:2 + number % 2])
        self.wait_states(relay, *["waiting"] * 5, *["stuck"] * 2)
        text = self.queue(relay)
        self.assertRegex(text, r"7 messages, .*: .*5 waiting.*; the oldest \d+s")
        self.assertRegex(text, r"\n +TOTAL +7 +7( +0){9}\n +internal +5 +5( +0){9}\n"
                               r" +far +2 +2( +0){9}\n\Z")
        self.assertEqual(text, re.sub(r"oldest \d+s", "oldest " + re.search(
            r"oldest (\d+s)", text).group(1), self.queue(relay, "summary")))
        text = self.queue(relay, "summary", "--by-domain")
        self.assertRegex(text, r"\n +TOTAL +12 +12( +0){9}\n +example.com +10 +10( +0){9}\n"
                               r" +far.example +2 +2( +0){9}\n\Z")
        summary, = self.entries(relay, "summary", "--next-hop", "far")
        self.assertEqual(summary["messages"], 2)
        self.assertEqual(set(summary["states"]), {"ready", "waiting", "parked", "active", "held"})
        self.assertEqual(sum(summary["states"].values()), 2)
        self.assertEqual(summary["rows"], [{"name": "far", "total": 2, "ages": [2] + [0] * 9}])
        self.assertEqual(len(summary["ages_below_minutes"]), 10)

    def test_show(self):
        hop = self.next_hop()
        hop.on("RCPT", "450 4.2.1 later", match="b@")
        relay = self.edge(hop)
        queue_id = self.send(relay, recipients=["b@example.com", "c@example.com", "d@far.example"],
                             parameters=" BODY=8BITMIME RET=HDRS ENVID=QQ314159")
        self.wait_states(relay, "waiting", "parked")
        # What the marks say is written a moment after the attempt.
        text = wait_for(lambda: (shown := self.queue(relay, "show", queue_id)) and
                        "<c@example.com> delivered" in shown and shown, 10, "marks on disk")
        for part in (rf"\A{queue_id}\n", r"next hop +internal: waiting, next attempt in \d+m",
                     r"next hop +far: parked; ", r"last reason +450 4\.2\.1 later\n",
                     r"arrived +20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC \(\d+s ago\)\n",
                     r"expires .* \(in [45]d\)\n", rf"size +{len(LETTER)} octets\n",
                     r"client +127.0.0.1 \(client.test\)\n",
                     r"from +<a@example.net> BODY=8BITMIME RET=HDRS ENVID=QQ314159\n",
                     r"<b@example.com> waiting, by internal\n", r"<d@far.example> waiting, by far"):
            self.assertRegex(text, part)
        shown, = self.entries(relay, "show", queue_id)
        self.assertEqual([one["next_hop"] for one in shown["entries"]], ["internal", "far"])
        self.assertEqual({one["address"]: one["state"] for one in shown["recipients"]},
                         {"b@example.com": "waiting", "c@example.com": "delivered",
                          "d@far.example": "waiting"})
        self.assertEqual(shown["client"], "127.0.0.1")
        self.assertIn(queue_id, shown["received"])

    def test_export(self):
        """Octet for octet what was sent: by DATA and BDAT, in a record and in a file."""
        relay = self.edge(self.refusing())
        dots = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n\r\n...\r\nend.\r\n.\r\n"
        no_end = b"Subject: no end\r\n\r\n.no line end"
        bare = bytes(range(32, 127)) + b"\xff\xfe\r\n"
        sent = {}
        for data in (LETTER, dots, b"\r\n", letter(100_000), letter(1_500_000), b"A: b\r\n\r\n" + bare):
            sent[self.send(relay, data, parameters=" BODY=8BITMIME")] = data
        for data in (LETTER, dots, no_end, letter(1_500_000)):
            with self.client(relay) as client:
                client.ehlo()
                reply = client.chunked(data, 300_000)
                sent[QUEUED.match(reply.text).group(1)] = data
        self.assertEqual(len(list((relay.folder / "spool").glob("*.body"))), 2)
        for queue_id, data in sent.items():
            self.assertEqual(self.queue(relay, "export", queue_id, text=False), data)
            whole = self.queue(relay, "export", "--received", queue_id, text=False)
            self.assertTrue(whole.endswith(data) and whole.startswith(b"Received: from "), whole)
            self.assertIn(queue_id.encode(), whole[:len(whole) - len(data)])
        # The same from the files alone.
        relay.stop()
        for queue_id, data in sent.items():
            self.assertEqual(self.queue(relay, "export", queue_id, text=False), data)

    def test_wrong_arguments(self):
        relay = self.edge(self.next_hop())
        for arguments in (("frozen",), ("remove",), ("hold", "--json"), ("list", "--state", "on"),
                          ("show",), ("export", "A", "B"), ("list", "../A"), ("list", "--nothing"),
                          ("retry", "--all", "A1")):
            self.queue(relay, *arguments, status=2)
            self.assertTrue(self.said.startswith(("ringpost queue: ", "queue: ", "ringpost: ")),
                            self.said)
        help_text = self.queue(relay, "--help")
        for word in ("summary", "retry", "--next-hop", "--by-domain", "Exit status"):
            self.assertIn(word, help_text)

    @seconds_max(240)
    def test_many(self):
        """More than one page of each worker; mail goes on meanwhile."""
        hop = self.refusing()
        relay = self.edge(hop, changes={"spool": {"segment": "8mb"}})
        count = 3000

        def session(first: int):
            with self.client(relay) as client:
                client.ehlo()
                for number in range(first, first + count // 10):
                    self.assertEqual(client.message(LETTER, f"s{number}@example.net",
                                                    f"r{number}@d{number % 5}.example"), 250)
                client.quit()
        together([lambda first=n * (count // 10): session(first) for n in range(10)])
        entries = self.entries(relay, "list")
        self.assertEqual(len(entries), count)
        self.assertEqual(len({one["id"] for one in entries}), count)
        self.assertEqual({one["sender"] for one in entries},
                         {f"s{n}@example.net" for n in range(count)})
        self.assertEqual(len(self.entries(relay, "list", "--domain", "d3.example")), count // 5)
        held = self.entries(relay, "hold", "--domain", "d3.example")
        self.assertEqual({one["result"] for one in held}, {"held"})
        self.assertEqual(len(held), count // 5)
        some = [one["id"] for one in entries[::11]]
        self.assertEqual(len(self.entries(relay, "list", *some)), len(some))
        removed = self.entries(relay, "remove", "--state", "held")
        self.assertEqual({one["result"] for one in removed}, {"removed"})
        self.assertEqual(len(removed), count // 5)
        # More ids than one request takes.
        some = [one["id"] for one in self.entries(relay, "list")[::11]]
        removed = self.entries(relay, "remove", *some)
        self.assertEqual(sorted(one["id"] for one in removed), sorted(some))
        self.assertEqual({one["result"] for one in removed}, {"removed"})
        removed = self.entries(relay, "remove", "--all")
        self.assertEqual(len(removed), count - count // 5 - len(some))
        self.assertEqual(self.entries(relay, "list"), [])
        # The log is written a moment behind.
        wait_for(lambda: len(relay.events("queue_removed")) >= count, what="a line for each")
        self.assertEqual(len(relay.events("queue_removed")), count)
        self.assertEqual(hop.messages, [])


class Acting(QueueTest):

    def test_hold_and_release(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, changes={"timeouts": {"server_retry": "200ms",
                                                     "server_retry_max": "200ms"}})
        held, free = self.send(relay), self.send(relay, sender="free@example.net")
        self.assertEqual(self.queue(relay, "hold", held), f"{held} to internal: held\n")
        self.assertEqual(self.queue(relay, "hold", held), f"{held} to internal: was held already\n")
        relay.wait_event("queue_held", id=held, next_hop="internal")
        hop.listen()
        hop.wait_messages(1)
        self.assertEqual(hop.messages[0].sender, "free@example.net")
        entry, = self.wait_states(relay, "held")
        self.assertEqual(entry["id"], held)
        # It stays so over a restart.
        relay.stop()
        entry, = self.entries(relay, "list")
        self.assertEqual((entry["id"], entry["state"]), (held, "held"))
        relay.start()
        self.wait_states(relay, "held")
        self.assertEqual(len(hop.messages), 1)
        self.assertEqual(self.queue(relay, "release", "--all"), f"{held} to internal: released\n")
        hop.wait_messages(2)
        relay.wait_event("queue_released", id=held)
        self.assertEqual(self.queue(relay, "release", held, free, status=1),
                         f"{held}: not in the queue\n{free}: not in the queue\n"
                         "2 messages, 2 not done\n")

    def test_hold_one_next_hop(self):
        hop, far = self.next_hop(), self.next_hop()
        hop.refuse()
        far.refuse()
        relay = self.edge(hop, far)
        both = self.send(relay, recipients=["b@example.com", "c@far.example"])
        self.wait_states(relay, "parked", "parked")
        self.assertEqual(self.queue(relay, "hold", "--next-hop", "far"), f"{both} to far: held\n")
        hop.listen()
        far.listen()
        time.sleep(1.1)  # a second after the last failure it may be tried
        self.queue(relay, "retry", "--next-hop", "internal")
        hop.wait_messages(1)
        entry, = self.wait_states(relay, "held")
        self.assertEqual(entry["next_hop"], "far")
        self.assertEqual(far.messages, [])
        self.queue(relay, "retry", both)
        message, = far.wait_messages(1)
        self.assertEqual(message.recipients, ["c@far.example"])
        self.wait_states(relay)

    def test_retry(self):
        """What waits for an hour, and what waits for a server that is left alone for ten minutes."""
        hop, far = self.next_hop(), self.next_hop()
        hop.on("END", "451 4.3.0 later")
        far.refuse()
        relay = self.edge(hop, far)
        waits = self.send(relay)
        parked = self.send(relay, recipients="c@far.example")
        self.wait_states(relay, "waiting", "parked")
        hop.off()
        far.listen()
        time.sleep(1.1)
        self.assertEqual(self.queue(relay, "retry", waits),
                         f"{waits} to internal: will be tried now\n")
        hop.wait_messages(1)
        self.wait_states(relay, "parked")
        self.assertIn("will be tried now", self.queue(relay, "retry", "--domain", "far.example"))
        far.wait_messages(1)
        self.wait_states(relay)
        relay.wait_event("queue_retried", id=waits)
        relay.wait_event("queue_retried", id=parked, next_hop="far")

    def test_remove(self):
        """No trace is left of it: not at the next hop, not at the sender, not after a restart."""
        hop, far = self.next_hop(), self.next_hop()
        hop.refuse()
        far.refuse()
        relay = self.edge(hop, far)
        both = self.send(relay, recipients=["b@example.com", "c@far.example"])
        large = self.send(relay, letter(700_000), sender="spam@bad.example")
        stays = self.send(relay)
        self.assertEqual(self.queue(relay, "remove", "--sender", "bad.example"),
                         f"{large} to internal: removed\n")
        self.assertEqual(self.queue(relay, "remove", both, "--next-hop", "far"),
                         f"{both} to far: removed\n")
        relay.wait_event("queue_removed", id=large)
        relay.wait_event("delivery", id=both, status="removed", next_hop="far")
        shown, = self.entries(relay, "show", both)
        self.assertEqual([one["next_hop"] for one in shown["entries"]], ["internal"])
        wait_for(lambda: not list((relay.folder / "spool").glob("*.body")), 10, "its body goes too")
        relay.stop()
        self.assertEqual({(one["id"], one["next_hop"]) for one in self.entries(relay, "list")},
                         {(both, "internal"), (stays, "internal")})
        hop.listen()
        far.listen()
        relay.start()
        hop.wait_messages(2)
        self.wait_states(relay)
        self.assertEqual({message.sender for message in hop.messages}, {"a@example.net"})
        self.assertEqual(far.messages, [])

    def test_remove_what_is_held(self):
        relay = self.edge(self.refusing())
        ids = [self.send(relay) for _ in range(3)]
        self.queue(relay, "hold", *ids[:2])
        self.assertEqual(self.queue(relay, "remove", "--state", "held").count(": removed\n"), 2)
        entry, = self.entries(relay, "list")
        self.assertEqual(entry["id"], ids[2])

    def gate(self, hop) -> threading.Event:
        """The next message waits for it, and is deferred then."""
        gate = threading.Event()
        self.addCleanup(gate.set)

        def act(_session):
            gate.wait(80 * SLOW)
            return "451 4.3.0 later"
        hop.on("END", act, times=1)
        return gate

    @seconds_max(120)
    def test_while_it_is_delivered(self):
        """What an attempt under way has decided is told; what is left is as the operator said."""
        hop = self.next_hop()
        gate = self.gate(hop)
        relay = self.edge(hop)
        queue_id = self.send(relay)
        self.wait_states(relay, "active")
        self.assertEqual(self.queue(relay, "hold", queue_id),
                         f"{queue_id} to internal: is being delivered; held when this attempt "
                         "ends\n")
        self.wait_states(relay, "active")
        gate.set()
        self.wait_states(relay, "held")
        self.assertEqual(hop.messages, [])
        # Removing waits for the attempt's end, and then goes on.
        gate = self.gate(hop)
        self.queue(relay, "retry", queue_id)
        self.wait_states(relay, "active")
        removing = subprocess.Popen([BINARY, "queue", "remove", queue_id, "-c", str(relay.file)],
                                    stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        self.assertIsNone(removing.poll())
        gate.set()
        self.assertEqual(removing.communicate(timeout=30 * SLOW)[0],
                         f"{queue_id} to internal: removed\n")
        self.wait_states(relay)
        self.assertEqual(hop.messages, [])

    @seconds_max(120)
    def test_removed_too_late(self):
        hop = self.next_hop()
        gate = self.gate(hop)
        relay = self.edge(hop)
        queue_id = self.send(relay)
        self.wait_states(relay, "active")
        text = self.queue(relay, "remove", queue_id, status=1)
        self.assertIn("is being delivered, not removed; held when this attempt ends", text)
        gate.set()
        self.wait_states(relay, "held")
        self.assertEqual(self.queue(relay, "remove", queue_id), f"{queue_id} to internal: removed\n")


class WithoutARelay(QueueTest):

    def test_stopped_and_killed(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop)
        first = self.send(relay)
        second = self.send(relay, sender="c@example.net", recipients="d@far.example")
        self.queue(relay, "hold", second)
        live = {(one["id"], one["next_hop"]): one["size"] for one in self.entries(relay, "list")}
        self.assertEqual(self.said, "")
        relay.stop()
        for again in range(2):
            found = self.entries(relay, "list")
            self.assertEqual({(one["id"], one["next_hop"]): one["size"] for one in found}, live)
            self.assertIn("ringpost is not running", self.said)
            self.assertEqual({one["id"]: one["state"] for one in found}[second], "held")
            text = self.queue(relay)
            self.assertRegex(text, r"2 messages, .*held; the oldest")
            self.assertRegex(text, r" +far +1 +1")
            self.assertIn(f"{first}\n", self.queue(relay, "show", first))
            self.assertEqual(self.queue(relay, "export", first, text=False), LETTER)
            for verb in ("hold", "release", "retry", "remove"):
                self.assertEqual(self.queue(relay, verb, first, status=1), "")
                self.assertRegex(self.said, "not running; .*systemctl start ringpost")
            if not again:  # and after a death that leaves the socket behind
                relay.start()
                relay.kill()
                self.assertTrue((relay.folder / "spool" / "control.sock").exists())
        relay.start()
        # While segments are still read, it is said that the list is not whole.
        wait_for(lambda: self.queue(relay, "list") != "" and self.said == "", what="recovery")
        self.assertEqual(len(self.entries(relay, "list")), 2)
        self.assertEqual(self.said, "")

    def test_nothing_was_ever_stored(self):
        relay = self.relay(self.next_hop(), {"delivery": {"mode": "cut-through",
                                                          "on_defer": "pass"}})
        self.assertEqual(self.queue(relay, "list", status=1), "")
        self.assertIn("nothing was ever stored", self.said)
        self.assertFalse((relay.folder / "spool").exists())

    def test_deep_directory(self):
        """A Unix socket's path is short; the spool's need not be."""
        hop = self.next_hop()
        hop.refuse()
        deep = pathlib.Path(tempfile.mkdtemp(prefix="ringpost-test-")) / ("d" * 120)
        self.addCleanup(shutil.rmtree, deep.parent)
        relay = self.edge(hop, changes={"spool": {"directory": str(deep)}})
        queue_id = self.send(relay)
        self.assertEqual(self.queue(relay, "hold", queue_id), f"{queue_id} to internal: held\n")
        self.assertTrue((deep / "control.sock").is_socket())
        relay.stop()
        self.assertFalse((deep / "control.sock").exists())

    def test_a_relay_that_does_not_answer(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop)
        queue_id = self.send(relay)
        (relay.folder / "spool" / "control.sock").unlink()
        found = self.entries(relay, "list")
        self.assertEqual([one["id"] for one in found], [queue_id])
        self.assertIn("has the spool but does not answer", self.said)
        self.assertIn(str(relay.pid), self.said)
        self.queue(relay, "remove", queue_id, status=1)
        self.assertIn("does not answer", self.said)
