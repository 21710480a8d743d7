"""TLS as a weapon: handshakes that never end, by the hundred; octets that are no TLS; renegotiation."""
import subprocess
import time

from abuse import AbuseTest, FULL, good, report, size
from harness import Client, SLOW, certificates, find_tool, is_sanitized, seconds_max, wait_for
from traffic import LETTER, deliver

MESSAGES = size(100, 500)
BOTH = {"smtp": {"address": "127.0.0.1:0", "tls": "starttls"},
        "smtps": {"address": "127.0.0.1:0", "tls": "implicit"}}


class Handshakes(AbuseTest):

    def start(self, **changes):
        sink, config = self.behind()
        relay = self.relay(None, {**config, "listen": BOTH,
                                  "accept": {"networks": ["127.0.0.1/32"],
                                             "domains": ["example.com"]}, **changes})
        self.assertEqual(deliver(relay), 250)
        port = relay.ports["smtps"]
        # The library's own tables, once.
        self.all_good(good(port, 20, "--tls", certificates().ca), 20)
        return relay, port, self.state(relay)

    @seconds_max(600 if FULL else 120)
    def test_held(self):
        """A whole ClientHello and then silence, a half one, one that goes on by an octet a second,
        a record that is announced and does not come: each is ended by timeouts.tls, and what the
        library held for them is given back. Good clients get in all the while.
        Finds: a deadline that octets put off (session_timeout_set() after each receive), TLS
        memory that is not given back (tls_free() forgotten in link_release(): resident memory)."""
        relay, port, before = self.start(timeouts={"tls": "3s"})
        count = size(400, 4000)
        rows = {"nobody else": good(port, MESSAGES, "--tls", certificates().ca)}
        resident = []
        for _ in range(3):
            failed = relay.counter("tls_server_failed")
            with self.crowd(port, count, "hello", "half-hello", "dripping-hello", "records",
                            "nothing", pause=1) as crowd:
                self.assertEqual(crowd.first["failed"], 0)
                rows[f"{count} handshakes held"] = good(port, MESSAGES, "--tls",
                                                        certificates().ca)
                self.all_good(good(relay, 50), 50)
                relay.wait_counter("tls_server_failed", failed + count, 30)
                wait_for(lambda crowd=crowd: crowd.report()["open"] == 0, 20, "all are ended")
                crowd.end()
            self.as_before(relay, before)
            resident.append(relay.resident_bytes())
        if not is_sanitized():  # what the allocator keeps grows less and less; a leak twice this
            self.assertLess(resident[2], resident[0] + count * 12288)
        for row in rows.values():
            self.all_good(row, MESSAGES)
        report("TLS handshakes held", rows, "good clients shake hands, too")

    @seconds_max(600 if FULL else 120)
    def test_flood(self):
        """ClientHello, our flight, and away, without end: the dear part of a handshake is ours. Good
        clients are answered; limits.tls_handshakes bounds what a turn does for them.
        Finds: handshakes that are not gone on with (link_handshakes_continue() left out). The report
        shows a turn that signs for many before it goes on (limits.tls_handshakes was 8 by default:
        p50 of plain clients 42 ms in place of 11 with 2)."""
        rows, messages = {}, MESSAGES // 2
        for handshakes in (2, 8) if FULL else (2,):
            relay, port, before = self.start(limits={"tls_handshakes": handshakes})
            if not rows:
                rows["nobody else"] = good(relay, messages)
            with self.flood(port, "hello", parallel=size(32, 64)) as flood:
                rows[f"plain, tls_handshakes {handshakes}"] = good(relay, messages)
                name = f"TLS, tls_handshakes {handshakes}"
                rows[name] = good(port, messages, "--tls", certificates().ca)
                done = flood.end()
            self.assertGreater(done["done"], size(100, 2000))
            self.assertEqual(done["failed"], 0)
            self.as_before(relay, before)
        for row in rows.values():
            self.all_good(row, messages)
        report("TLS handshakes begun and left", rows)

    def test_noise(self):
        """Octets that are no TLS cost one alert.
        Would find garbage that is waited for until the deadline, as half a ClientHello is (no fault
        was planted for it)."""
        relay, port, before = self.start(timeouts={"tls": "60s"})
        with self.crowd(port, size(400, 4000), "noise") as crowd:
            wait_for(lambda: crowd.report()["open"] == 0, 20, "all are ended")
            self.all_good(good(port, 20, "--tls", certificates().ca), 20)
            crowd.end()
        self.as_before(relay, before)


class Established(AbuseTest):
    """After the handshake."""

    def orders(self, relay, version: str, order: str, most: int) -> int:
        """What s_client does for a line of one letter, again and again, until it is thrown out; how
        often it could."""
        with subprocess.Popen(
                [find_tool("openssl"), "s_client", "-connect",
                 f"127.0.0.1:{relay.ports['smtps']}", version], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as client:
            try:
                relay.wait_counter("tls_server_ok", 1)
                for _ in range(most):
                    client.stdin.write(order + "\n")
                    client.stdin.flush()
                    time.sleep(0.01)  # it takes a letter only at the start of what it reads
                    if client.poll() is not None:
                        break
                _, said = client.communicate(timeout=10 * SLOW)
            except BrokenPipeError:
                said = client.stderr.read()
            finally:
                client.kill()
        return said.count("KEYUPDATE\n") + said.count("RENEGOTIATING\n")

    def start(self):
        relay = self.relay(self.next_hop(), {"listen": BOTH})
        self.assertEqual(deliver(relay), 250)
        return relay, self.state(relay)

    def test_renegotiation(self):
        """Refused in TLS 1.2: an alert and the end of the connection, no handshake is begun.
        Would find a handshake that is begun again (no fault was planted for it: the library has no
        such mode for servers)."""
        relay, before = self.start()
        self.assertEqual(self.orders(relay, "-tls1_2", "R", 20), 1)
        self.assertIn("alert sent: no renegotiation", relay.wait_event("tls_failed")["reason"])
        self.assertEqual(relay.counter("tls_server_ok"), 1)
        self.as_before(relay, before)

    def test_key_updates(self):
        """TLS 1.3: a client that only asks for new keys is sent away after 32 of them.
        Finds: a library without that bound (seen to fail with 20 orders in place of 200)."""
        relay, before = self.start()
        self.assertLess(self.orders(relay, "-tls1_3", "K", 200), 100)
        self.assertIn("too many key updates", relay.wait_event("tls_failed")["reason"])
        self.as_before(relay, before)

    def test_cut_off(self):
        """Many clients leave without close_notify, in the middle of commands and messages.
        Would find a place or descriptor that stays (no fault was planted for it; leaks of the
        library's memory are found by test_held)."""
        relay, before = self.start()
        start = time.monotonic()
        for number in range(size(100, 1000)):
            client = Client(relay.ports["smtps"], tls=True)
            client.ehlo()
            client.envelope()
            if number % 2:
                client.data(LETTER)
            client.reset() if number % 4 < 2 else client.close()
        self.assertLess(time.monotonic() - start, 60 * SLOW)
        self.as_before(relay, before)
