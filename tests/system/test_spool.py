"""Messages that are kept: stored first, stored when a next hop defers, breaks, or thinks too long;
tried again, split, reported, found again after a restart."""
import email
import email.policy
import subprocess
import time
import unittest

from harness import BINARY, SystemTest, is_sanitized, reserve_port, seconds_max, wait_for
from next_hop import Default, Delay, Drop, NextHop, Stall
from traffic import LETTER, deliver, letter, together

SPOOL = {"mode": "spool", "on_defer": "spool"}
FALL_BACK = {"mode": "cut-through", "on_defer": "spool"}
RETRY = {"retry": ["1s"], "minimum_free": "1mb", "segment": "1mb"}
NO_DSN = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES")


class SpoolTest(SystemTest):

    def edge(self, hop, delivery, changes=None, **options):
        config = {"delivery": delivery, "spool": RETRY,
                  "timeouts": {"server_retry": "200ms", "server_retry_max": "1s"}}
        config.update(changes or {})
        return self.relay(hop, config, **options)

    def queued(self, relay) -> int:
        return int(sum(value for name, value in relay.metrics().items()
                       if name.startswith("ringpost_queue_messages{")))

    def report(self, message) -> tuple[str, email.message.EmailMessage]:
        """A report's fields as text, and the whole."""
        parsed = email.message_from_bytes(message.data, policy=email.policy.SMTP)
        self.assertEqual(parsed.get_content_type(), "multipart/report")
        self.assertEqual(parsed.get_param("report-type"), "delivery-status")
        parts = list(parsed.iter_parts())
        self.assertEqual(len(parts), 3)
        for part in parsed.walk():
            self.assertEqual(part.defects, [])
        return "\n".join(str(block) for block in parts[1].get_payload()), parsed


class Stored(SpoolTest):
    """delivery.mode: spool."""

    def test_stored_then_delivered(self):
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL)
        reply = deliver(relay)
        self.assertEqual(reply, 250)
        self.assertRegex(reply.text, r"^2\.0\.0 Ok: queued as [0-9A-Za-z]+$")
        message, = hop.wait_messages(1)
        fields = self.assert_relayed(message, LETTER)
        self.assertEqual(fields["id"], reply.text.split()[-1])
        self.assertEqual(fields["for"], "b@example.com")
        wait_for(lambda: self.queued(relay) == 0)

    def test_many_clients(self):
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL, {"workers": 2})
        letters = [letter(500 + 400 * n, f"number {n}") for n in range(60)]
        for reply in together([lambda data=data: deliver(relay, data) for data in letters]):
            self.assertEqual(reply, 250)
        hop.wait_messages(60)
        self.assertEqual(sorted(len(message.data.split(b"\r\n\r\n", 1)[1])
                                for message in hop.messages),
                         sorted(len(data.split(b"\r\n\r\n", 1)[1]) for data in letters))
        wait_for(lambda: self.queued(relay) == 0)

    def test_sizes(self):
        """In a record, over several commits, in a file of its own; by DATA and by BDAT."""
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL)
        for size in (200, 4096, 16384, 100_000, 262_144, 262_200, 700_000, 3_000_000):
            data = letter(size)
            for way in ("message", "chunked"):
                with self.subTest(size=size, way=way):
                    before = len(hop.messages)
                    with self.client(relay) as client:
                        client.ehlo()
                        self.assertEqual(getattr(client, way)(data), 250)
                    hop.wait_messages(before + 1)
                    self.assert_relayed(hop.messages[-1], data)
        wait_for(lambda: self.queued(relay) == 0)
        wait_for(lambda: not list((relay.folder / "spool").glob("*.body")))

    def test_next_hop_down(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, SPOOL)
        for number in range(20):
            self.assertEqual(deliver(relay, letter(1000, str(number))), 250)
        wait_for(lambda: self.queued(relay) == 20)
        hop.listen()
        hop.wait_messages(20)
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(relay.metrics()['ringpost_queue_recipients_total{result="failed"}'], 0)

    def test_refused(self):
        """One bounce, to the sender, with the original's header."""
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 no such user", match="nobody@")
        relay = self.edge(hop, SPOOL)
        self.assertEqual(deliver(relay, sender="me@example.net",
                                 recipients=["nobody@example.com", "b@example.com"]), 250)
        hop.wait_messages(2)
        bounce, = [m for m in hop.messages if m.sender == ""]
        letter_, = [m for m in hop.messages if m.sender != ""]
        self.assertEqual(letter_.recipients, ["b@example.com"])
        self.assertEqual(bounce.recipients, ["me@example.net"])
        fields, parsed = self.report(bounce)
        self.assertIn("Final-Recipient: rfc822; nobody@example.com", fields)
        self.assertIn("Action: failed", fields)
        self.assertIn("Status: 5.1.1", fields)
        self.assertIn("no such user", fields)
        self.assertIn("Subject: one", parsed.as_string())
        wait_for(lambda: self.queued(relay) == 0)

    def test_null_sender_is_not_bounced(self):
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 no such user")
        relay = self.edge(hop, SPOOL)
        self.assertEqual(deliver(relay, sender=""), 250)
        relay.wait_event("delivery", status="failed")
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(hop.messages, [])

    def test_every_recipient_once(self):
        """Some taken, some deferred: only the latter are sent again."""
        hop = self.next_hop()
        hop.on("RCPT", "450 4.2.1 later", match="late[0-9]", times=2)
        relay = self.edge(hop, SPOOL)
        everybody = [f"r{n}@example.com" for n in range(10)] + ["late1@example.com",
                                                                "late2@example.com"]
        self.assertEqual(deliver(relay, recipients=everybody), 250)
        hop.wait_messages(2)
        self.assertEqual(sorted(sum((m.recipients for m in hop.messages), [])), sorted(everybody))
        self.assertEqual(hop.messages[1].recipients, ["late1@example.com", "late2@example.com"])

    def test_server_without_pipelining(self):
        hop = self.next_hop(extensions=("SIZE",))
        hop.on("RCPT", "450 4.2.1 later", match="first", times=1)
        hop.on("RCPT", "550 5.1.1 never", match="second")
        relay = self.edge(hop, SPOOL)
        self.assertEqual(deliver(relay, sender="me@example.net", recipients=[
            "first@example.com", "second@example.com", "third@example.com"]), 250)
        hop.wait_messages(3)
        self.assertEqual(sorted(m.recipients[0] for m in hop.messages),
                         ["first@example.com", "me@example.net", "third@example.com"])

    def test_several_next_hops(self):
        """One message, split by next hop; each recipient gets it once."""
        one, two = self.next_hop(), self.next_hop()
        two.refuse()
        relay = self.relay(one, {
            "delivery": SPOOL, "spool": RETRY,
            "timeouts": {"server_retry": "200ms", "server_retry_max": "1s"},
            "next_hop": {"other": {"servers": [two.server], "tls": "none"}},
            "route": {"other.example": "other"}})
        self.assertEqual(deliver(relay, recipients=["a@example.com", "b@other.example",
                                                    "c@example.com"]), 250)
        one.wait_messages(1)
        self.assertEqual(one.messages[0].recipients, ["a@example.com", "c@example.com"])
        wait_for(lambda: self.queued(relay) == 1)
        two.listen()
        two.wait_messages(1)
        self.assertEqual(two.messages[0].recipients, ["b@other.example"])
        wait_for(lambda: self.queued(relay) == 0)

    def expiring(self, down):
        """A relay with a message that its next hop defers, or is not there for; where the bounce goes."""
        hop, back = self.next_hop(), self.next_hop()
        if down:
            hop.refuse()
        else:
            hop.on("MAIL", "451 4.3.0 not today")
        relay = self.relay(hop, {
            "delivery": SPOOL, "spool": {**RETRY, "expire": "1min"},
            "next_hop": {"back": {"servers": [back.server], "tls": "none"}},
            "route": {"example.net": "back"}})
        self.assertEqual(deliver(relay, sender="me@example.net"), 250)
        return relay, back

    @seconds_max(300)
    @unittest.skipIf(is_sanitized(), "a minute of waiting; simulation does it under sanitizers")
    def test_expiry(self):
        """In every state: deferred, and with its next hop down."""
        for relay, back in [self.expiring(down) for down in (False, True)]:
            message, = back.wait_messages(1, seconds=150)
            fields, _ = self.report(message)
            self.assertIn("Action: failed", fields)
            self.assertIn("Status: 4.4.7", fields)
            wait_for(lambda relay=relay: self.queued(relay) == 0)


class FallBack(SpoolTest):
    """delivery.mode: cut-through, on_defer: spool."""

    def test_the_good_path_stores_nothing(self):
        hop = self.next_hop()
        relay = self.edge(hop, FALL_BACK)
        hop.on("END", "250 2.0.0 taken as 4711")
        reply = deliver(relay)
        self.assertEqual(reply, 250)
        self.assertIn("4711", reply.text)
        self.assertEqual(deliver(relay, letter(1_000_000)), 250)
        self.assertEqual(relay.metrics()["ringpost_messages_stored_total"], 0)
        wait_for(lambda: not list((relay.folder / "spool").glob("*.body")))

    def test_deferred(self):
        for event, size in (("MAIL", 500), ("RCPT", 500), ("DATA", 500), ("END", 500),
                            ("END", 600_000), ("MAIL", 600_000)):
            with self.subTest(event=event, size=size):
                hop = self.next_hop()
                hop.on(event, "451 4.3.0 not now", times=1)
                relay = self.edge(hop, FALL_BACK)
                reply = deliver(relay, letter(size))
                self.assertEqual(reply, 250)
                self.assertIn("queued as", reply.text)
                message, = hop.wait_messages(1)
                self.assert_relayed(message, letter(size))
                wait_for(lambda: self.queued(relay) == 0)

    def test_refused_is_the_clients(self):
        """A permanent refusal is told at once: nothing is stored, nobody gets a bounce."""
        hop = self.next_hop()
        hop.on("END", "554 5.7.1 spam")
        relay = self.edge(hop, FALL_BACK)
        self.assertEqual(deliver(relay), 554)
        self.assertEqual(relay.metrics()["ringpost_messages_stored_total"], 0)

    def test_down(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, FALL_BACK)
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(deliver(relay, letter(900_000)), 250)
        self.assertEqual(deliver(relay, recipients=["x@example.com", "y@example.com"]), 250)
        wait_for(lambda: self.queued(relay) == 3)
        hop.listen()
        hop.wait_messages(3)
        self.assertEqual(sorted(len(m.recipients) for m in hop.messages), [1, 1, 2])
        wait_for(lambda: self.queued(relay) == 0)

    def test_breaks_in_the_body(self):
        hop = self.next_hop()
        hop.on("BODY", Drop(), after=100_000)
        relay = self.edge(hop, FALL_BACK)
        data = letter(2_000_000)
        self.assertEqual(deliver(relay, data), 250)
        message, = hop.wait_messages(1)
        self.assert_relayed(message, data)

    def test_ambiguous(self):
        """The reply to the end of data is lost: kept, tried again, counted."""
        hop = self.next_hop()
        hop.on("END", Drop(), times=1)
        relay = self.edge(hop, FALL_BACK)
        self.assertEqual(deliver(relay), 250)
        hop.wait_messages(1)
        self.assertEqual(len(hop.received), 2)
        self.assertEqual(relay.metrics()["ringpost_messages_ambiguous_total"], 1)
        self.assertGreaterEqual(relay.metrics()["ringpost_queue_duplicate_risk_total"], 1)
        wait_for(lambda: self.queued(relay) == 0)

    def test_patience(self):
        """A verdict that takes too long: the client has its 250, and nothing is sent twice."""
        hop = self.next_hop()
        hop.on("END", [Stall(), Default()])
        relay = self.edge(hop, {**FALL_BACK, "patience": "300ms"})
        begun = time.monotonic()
        reply = deliver(relay)
        self.assertEqual(reply, 250)
        self.assertIn("queued as", reply.text)
        self.assertGreaterEqual(time.monotonic() - begun, 0.3)
        self.assertEqual(self.queued(relay), 1)
        hop.release()
        hop.wait_messages(1)
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(len(hop.received), 1)
        self.assertEqual(relay.metrics()["ringpost_messages_ambiguous_total"], 0)

    def test_patience_in_the_body(self):
        """It runs out while the next hop is still taking octets: those go on as they are."""
        hop = self.next_hop(receive_buffer=4096)
        hop.on("BODY", [Delay(1.5)], after=10_000)
        relay = self.edge(hop, {**FALL_BACK, "patience": "300ms"})
        data = letter(400_000)
        reply = deliver(relay, data)
        self.assertEqual(reply, 250)
        self.assertIn("queued as", reply.text)
        message, = hop.wait_messages(1)
        self.assert_relayed(message, data)
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(len(hop.received), 1)

    def test_patience_then_refused(self):
        hop = self.next_hop()
        hop.on("END", [Stall(), "554 5.6.0 no"], times=1)
        relay = self.edge(hop, {**FALL_BACK, "patience": "300ms"})
        self.assertEqual(deliver(relay, sender="me@example.net"), 250)
        hop.release()
        bounce, = hop.wait_messages(1)
        self.assertEqual(bounce.recipients, ["me@example.net"])
        wait_for(lambda: self.queued(relay) == 0)

    def test_recipients_of_two_next_hops(self):
        one, two = self.next_hop(), self.next_hop()
        relay = self.relay(one, {
            "delivery": FALL_BACK, "spool": RETRY,
            "next_hop": {"other": {"servers": [two.server], "tls": "none"}},
            "route": {"other.example": "other"}})
        self.assertEqual(deliver(relay, recipients=["a@example.com", "b@other.example"]), 250)
        one.wait_messages(1)
        two.wait_messages(1)
        wait_for(lambda: self.queued(relay) == 0)

    def test_a_client_that_leaves_is_promised_nothing(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, {**FALL_BACK, "patience": "10s"},
                          {"timeouts": {"connect": "1s", "server_retry": "200ms"}})
        with self.client(relay) as client:
            client.ehlo()
            client.envelope()
            client.data(LETTER[:20])
        wait_for(lambda: relay.gauge("sessions_current") == 0)
        self.assertEqual(self.queued(relay), 0)


class Notices(SpoolTest):

    def test_relayed(self):
        """NOTIFY=SUCCESS and a next hop without DSN."""
        hop = self.next_hop(extensions=NO_DSN)
        for delivery in (SPOOL, FALL_BACK):
            with self.subTest(delivery=delivery):
                relay = self.edge(hop, delivery)
                before = len(hop.messages)
                with self.client(relay) as client:
                    client.ehlo()
                    client.command("MAIL FROM:<me@example.net> RET=HDRS ENVID=QQ314159", 250)
                    client.command("RCPT TO:<b@example.com> NOTIFY=SUCCESS,FAILURE "
                                   "ORCPT=rfc822;Bob@example.com", 250)
                    client.data(LETTER + b".\r\n")
                    self.assertEqual(client.reply(), 250)
                hop.wait_messages(before + 2)
                report, = [m for m in hop.messages[before:] if m.sender == ""]
                fields, _ = self.report(report)
                self.assertIn("Action: relayed", fields)
                self.assertIn("Original-Envelope-Id: QQ314159", fields)
                self.assertIn("Original-Recipient: rfc822; Bob@example.com", fields)

    def test_never(self):
        hop = self.next_hop()
        hop.on("END", "554 5.6.0 no", times=1)
        relay = self.edge(hop, SPOOL)
        with self.client(relay) as client:
            client.ehlo()
            client.command("MAIL FROM:<me@example.net>", 250)
            client.command("RCPT TO:<b@example.com> NOTIFY=NEVER", 250)
            client.data(LETTER + b".\r\n")
            self.assertEqual(client.reply(), 250)
        relay.wait_event("delivery", status="failed")
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(hop.messages, [])

    def test_full_return(self):
        hop = self.next_hop()
        hop.on("END", "554 5.6.0 no", times=1)
        relay = self.edge(hop, SPOOL)
        with self.client(relay) as client:
            client.ehlo()
            client.command("MAIL FROM:<me@example.net> RET=FULL", 250)
            client.command("RCPT TO:<b@example.com>", 250)
            client.data(b"Subject: whole\r\n\r\n..dots\r\nend\r\n.\r\n")
            self.assertEqual(client.reply(), 250)
        report, = hop.wait_messages(1)
        _, parsed = self.report(report)
        original = list(parsed.iter_parts())[2]
        self.assertEqual(original.get_content_type(), "message/rfc822")
        self.assertIn(".dots\r\nend", report.data.decode())


class Restart(SpoolTest):

    def fill(self, relay, count, **options):
        letters = [letter(600 + 100 * n, f"number {n}") for n in range(count)]
        for data in letters:
            self.assertEqual(deliver(relay, data, **options), 250)
        return letters

    def subjects(self, hop: NextHop) -> list[bytes]:
        return sorted(line for message in hop.messages for line in message.data.split(b"\r\n")
                      if line.startswith(b"Subject: number"))

    def test_stop_and_start(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, SPOOL)
        self.fill(relay, 30)
        self.assertEqual(deliver(relay, letter(800_000, "number large")), 250)
        relay.stop()
        self.assertEqual(relay.exit_status, 0)
        relay.start()
        relay.wait_event("queue_recovered", 2)
        wait_for(lambda: self.queued(relay) == 31)
        hop.listen()
        hop.wait_messages(31)
        wait_for(lambda: self.queued(relay) == 0)
        self.assertEqual(len(set(self.subjects(hop))), 31)
        relay.stop()
        relay.start()
        relay.wait_event("queue_recovered", 3)
        self.assertEqual(self.queued(relay), 0)

    def test_kill_and_start(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, SPOOL)
        self.fill(relay, 30)
        relay.kill()
        relay.start()
        hop.listen()
        hop.wait_messages(30)
        self.assertEqual(len(set(self.subjects(hop))), 30)

    def test_other_number_of_workers(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.edge(hop, SPOOL, {"workers": 3})
        self.fill(relay, 30)
        for workers in (1, 2):
            relay.stop()
            relay.rewrite({"workers": workers})
            relay.start()
            wait_for(lambda: self.queued(relay) == 30)
        hop.listen()
        hop.wait_messages(30)
        self.assertEqual(len(set(self.subjects(hop))), 30)
        wait_for(lambda: self.queued(relay) == 0)

    def test_other_route(self):
        hop, other = self.next_hop(), self.next_hop()
        hop.refuse()
        relay = self.edge(hop, SPOOL)
        self.fill(relay, 10)
        relay.stop()
        relay.rewrite({"next_hop": {"other": {"servers": [other.server], "tls": "none"}},
                       "route": {"example.com": "other"}})
        relay.start()
        other.wait_messages(10)
        wait_for(lambda: self.queued(relay) == 0)

    def test_schedule_survives(self):
        """What was deferred for an hour is not tried at once after a restart."""
        hop = self.next_hop()
        hop.on("END", "451 4.3.0 later")
        relay = self.edge(hop, SPOOL, {"spool": {**RETRY, "retry": ["1h"]}})
        self.assertEqual(deliver(relay), 250)
        relay.wait_event("delivery", status="deferred")
        hop.off()
        relay.stop()
        relay.start()
        relay.wait_event("queue_recovered", 2)
        metrics = relay.metrics()
        self.assertEqual(metrics['ringpost_queue_messages{state="waiting"}'], 1)
        self.assertEqual(hop.messages, [])

    def test_second_process(self):
        hop = self.next_hop()
        relay = self.edge(hop, SPOOL)
        holder = reserve_port()
        self.addCleanup(holder.close)
        second = relay.folder / "second.yaml"
        text = relay.file.read_text().replace("stats.sock", "stats2.sock")
        second.write_text(text.replace(str(relay.port), str(holder.getsockname()[1])))
        done = subprocess.run([BINARY, "run", "-c", str(second)], capture_output=True, text=True,
                              timeout=20, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(str(relay.pid), done.stderr)
        self.assertIn("spool", done.stderr)
        self.assertEqual(deliver(relay), 250)


class Stop(SpoolTest):

    def test_verdict_that_does_not_come(self):
        """SIGTERM while a next hop thinks: the spool answers, and the process ends."""
        hop = self.next_hop()
        hop.on("END", Stall())
        relay = self.edge(hop, FALL_BACK, {"timeouts": {"drain": "3s"}})
        with self.client(relay) as client:
            client.ehlo()
            client.envelope()
            client.data(LETTER + b".\r\n")
            hop.wait(lambda: hop.stalled == 1)
            relay.signal(15)
            self.assertEqual(client.reply(), 250)
        relay.stop()
        self.assertEqual(relay.exit_status, 0)

    def test_slow_delivery_is_waited_for(self):
        hop = self.next_hop()
        hop.on("END", [Delay(0.5), Default()])
        relay = self.edge(hop, SPOOL)
        self.assertEqual(deliver(relay), 250)
        hop.wait(lambda: len(hop.received) == 1)
        relay.stop()
        hop.wait_messages(1)
        relay.start()
        relay.wait_event("queue_recovered", 2)
        self.assertEqual(self.queued(relay), 0)
