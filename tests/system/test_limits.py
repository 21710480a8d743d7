"""Every limit with its reply, and what an exhausted relay still does."""
import pathlib
import resource
import select
import sys
import time

from harness import (Client, Default, Relay, SLOW, Stall, SystemTest, certificates, stuffed,
                     wait_for)
from traffic import LETTER, deliver, letter, together

CONFINED = str(pathlib.Path(__file__).with_name("confined.py"))
# 127.0.0.1 may relay; every other loopback address is a stranger who may send to example.com.
STRANGERS = {"networks": ["127.0.0.1/32"], "domains": ["example.com"]}


def limits(**values) -> dict:
    return {"limits": values}


class Limits(SystemTest):

    def session(self, relay: Relay, **options) -> Client:
        client = self.client(relay, **options)
        client.ehlo()
        return client

    def refused_at_door(self, relay: Relay, source: str) -> str:
        with Client(relay, source=source) as client:
            self.assertEqual(client.greeting, 421)
            self.assertTrue(client.is_closed())
            return str(client.greeting.text)

    def ended(self, client: Client, enhanced: str, text: str) -> None:
        """The next reply is a 421 with our name, then the connection ends."""
        reply = client.reply()
        self.assertEqual((reply.code, reply.enhanced), (421, enhanced))
        self.assertIn(text, reply.text)
        self.assertRegex(reply.text, rf"^{enhanced} edge\.test ")
        self.assertTrue(client.is_closed())


class Connections(Limits):

    def test_total(self):
        relay = self.relay(self.next_hop(), limits(connections=5))
        clients = [self.session(relay) for _ in range(5)]
        for count in range(1, 4):
            self.assertEqual(self.refused_at_door(relay, "127.0.0.1"),
                             "4.3.2 Too many connections, try again later")
            self.assertEqual(relay.counter("connections_refused_total_limit"), count)
        event = relay.wait_event("connection_refused")
        self.assertEqual((event["client"], event["reason"]), ("127.0.0.1", "limits.connections"))
        for client in clients:
            self.assertEqual(client.message(LETTER), 250)
        clients[0].quit()
        wait_for(lambda: relay.stats()["workers"][0]["sessions_current"] == 4, what="its end")
        self.assertEqual(deliver(relay), 250)

    def test_per_client(self):
        relay = self.relay(self.next_hop(), {"accept": STRANGERS, "workers": 2,
                                             **limits(connections_per_client=3)})
        clients = [self.session(relay, source="127.0.0.5") for _ in range(3)]
        self.assertEqual(self.refused_at_door(relay, "127.0.0.5"),
                         "4.7.0 Too many connections from your address")
        self.session(relay, source="127.0.0.6")
        for _ in range(6):  # trusted: no such limit
            self.session(relay)
        self.assertEqual(relay.counter("connections_refused_client_limit"), 1)
        clients.pop().quit()
        wait_for(lambda: sum(one["sessions_current"] for one in relay.stats()["workers"]) == 9,
                 what="the session ends")
        self.session(relay, source="127.0.0.5")
        self.refused_at_door(relay, "127.0.0.5")

    def test_many_come_and_go(self):
        """The counts stay right: nobody is locked out afterwards."""
        relay = self.relay(self.next_hop(), {"accept": STRANGERS, "workers": 2,
                                             **limits(connections_per_client=4, connections=20)})

        def come_and_go(number):
            for turn in range(30):
                with Client(relay, source=f"127.0.0.{5 + number % 3}", greeting=False) as client:
                    if turn % 3 == 0:
                        client.reset()
                    elif turn % 3 == 1:
                        client.reply()

        together(lambda number=number: come_and_go(number) for number in range(9))
        wait_for(lambda: sum(one["sessions_current"] for one in relay.stats()["workers"]) == 0,
                 what="all sessions end")
        for source in ("127.0.0.5", "127.0.0.6", "127.0.0.7"):
            clients = [self.session(relay, source=source) for _ in range(4)]
            self.refused_at_door(relay, source)
            for client in clients:
                client.quit()


class Commands(Limits):

    def test_recipients(self):
        hop = self.next_hop()
        relay = self.relay(hop, limits(recipients=100))
        client = self.session(relay)
        names = [f"u{number}@example.com" for number in range(100)]
        client.envelope(recipients=names)
        for number in range(150):
            reply = client.command(f"RCPT TO:<more{number}@example.com>")
            self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))
        client.data(stuffed(LETTER))
        self.assertEqual(client.reply(), 250)
        self.assertEqual(hop.messages[0].recipients, names)
        # Who does not stop is sent away.
        client.envelope(recipients=names)
        client.send("RCPT TO:<again@example.com>\r\n" * 201)
        self.assertEqual([one.code for one in client.replies(200)], [452] * 200)
        self.ended(client, "4.7.0", "too many tries")

    def test_command_line(self):
        relay = self.relay(self.next_hop(), limits(command_line=512))
        client = self.session(relay)
        for octets, code in ((511, 250), (512, 250), (513, 500), (5000, 500), (100000, 500)):
            with self.subTest(octets=octets):
                reply = client.command("NOOP " + "x" * (octets - 7))
                self.assertEqual(reply.code, code)
                self.assertIn(reply.enhanced, ("2.0.0", "5.5.2"))
        self.assertEqual(relay.counter("violations_long_line"), 3)
        client.quit()

    def test_default_command_line(self):
        client = self.session(self.relay(self.next_hop()))
        client.command("NOOP " + "x" * (2048 - 7), 250)
        client.command("NOOP " + "x" * (2049 - 7), 500)

    def test_transactions(self):
        hop = self.next_hop()
        client = self.session(self.relay(hop, limits(transactions=3)))
        self.assertEqual(client.message(LETTER), 250)
        client.command("MAIL FROM:<a@example.net>", 250)
        client.command("RSET", 250)
        self.assertEqual(client.message(LETTER), 250)
        client.send("MAIL FROM:<a@example.net>\r\n")
        self.ended(client, "4.7.0", "too many messages")
        self.assertEqual(len(hop.messages), 2)

    def test_errors(self):
        relay = self.relay(self.next_hop(), limits(errors=3))
        client = self.session(relay)
        for command in ("FOO", "MAIL FROM:<broken", "EHLO"):
            self.assertEqual(client.command(command).code // 100, 5)
        self.assertEqual(client.message(LETTER), 250)
        client.send("WHAT\r\n")
        self.ended(client, "4.7.0", "too many errors")
        self.assertEqual(relay.counter("violations_too_many_errors"), 1)
        self.assertEqual(relay.counter("sessions_closed_error"), 1)

    def test_commands_that_bring_no_mail(self):
        client = self.session(self.relay(self.next_hop()))
        client.send("NOOP\r\n" * 200)
        replies = []
        while not replies or replies[-1] == 250:
            replies.append(client.reply())
        self.assertEqual(replies[-1], 421)
        self.assertGreaterEqual(len(replies), 90)
        self.assertTrue(client.is_closed())

    def test_replies_that_nobody_reads(self):
        """A client that sends and never reads costs a little memory, not more and more."""
        hop = self.next_hop()
        relay = self.relay(hop, {"timeouts": {"command": "400ms"}, **limits(transactions=1000000)})
        client = self.session(relay, receive_buffer=4096)
        client.socket.settimeout(0.3 * SLOW)
        group = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nRSET\r\n"
        sent = 0
        try:
            while sent < 64 << 20:
                client.send(group * 500)
                sent += 500 * len(group)
        except (TimeoutError, ConnectionError):
            pass
        self.assertLess(sent, 64 << 20)
        # What one receive fills before it is paused, and what was there: 32 each, or a little more.
        self.assertLess(relay.gauge("buffers_in_use"), 128)
        self.assertEqual(deliver(relay), 250)
        relay.wait_counter("sessions_closed_timeout", 1)
        wait_for(lambda: relay.gauge("buffers_in_use") == 0, what="all is given back")


class Sizes(Limits):

    def test_message_size(self):
        most = 65536
        hop = self.next_hop()
        relay = self.relay(hop, limits(message_size=most))
        client = self.session(relay)
        self.assertEqual(client.extensions["SIZE"], str(most))
        client.command(f"MAIL FROM:<a@example.net> SIZE={most}", 250)
        client.command("RSET", 250)
        for size in (most + 1, 10 ** 12, 2 ** 63 - 1):
            reply = client.command(f"MAIL FROM:<a@example.net> SIZE={size}")
            self.assertEqual((reply.code, reply.enhanced), (552, "5.3.4"))
        for send in (client.message, client.chunked):
            for octets, code in ((most, 250), (most + 1, 552), (3 * most, 552)):
                with self.subTest(send=send.__name__, octets=octets):
                    reply = send(letter(octets))
                    self.assertEqual(reply.code, code)
        # Dots that stuff do not count (RFC 1870 5).
        dots = b"Subject: x\r\n\r\n" + b".\r\n" * ((most - 14) // 3)
        self.assertEqual(client.message(dots.ljust(most - 2, b"y") + b"\r\n"), 250)
        self.assertEqual([len(one.data) > most for one in hop.messages], [True] * 3)
        self.assertEqual(relay.counter("refusals_size"), 3 + 4)

    def test_lie_about_size(self):
        """What is declared does not matter for what is counted."""
        client = self.session(self.relay(self.next_hop(), limits(message_size=65536)))
        self.assertEqual(client.message(letter(70000), parameters=" SIZE=100"), 552)
        self.assertEqual(client.message(letter(60000), parameters=" SIZE=100"), 250)

    def test_text_line(self):
        for config, most in ((limits(text_line=998), 998), (None, 65536)):
            hop = self.next_hop()
            relay = self.relay(hop, config)
            client = self.session(relay)
            for octets, code in ((most - 1, 250), (most, 250), (most + 1, 554), (10 * most, 554)):
                for send in (client.message, client.chunked):
                    with self.subTest(octets=octets, send=send.__name__):
                        reply = send(b"Subject: x\r\n\r\n" + b"x" * octets + b"\r\nend\r\n")
                        self.assertEqual(reply.code, code)
            self.assertEqual(len(hop.messages), 4)
            self.assertEqual(relay.counter("violations_long_line"), 4)

    def test_received_headers(self):
        hop = self.next_hop()
        client = self.session(self.relay(hop, limits(received_headers=10)))
        for count, name, code in ((10, "Received", 250), (11, "Received", 554),
                                  (11, "received", 554), (11, "X-Received", 250)):
            with self.subTest(count=count, name=name):
                data = f"{name}: from a by b;\r\n\tdate\r\n".encode() * count + LETTER
                reply = client.message(data)
                self.assertEqual(reply.code, code)
                self.assertIn(reply.enhanced, ("2.0.0", "5.4.6"))
        # In the body they are text.
        self.assertEqual(client.message(LETTER + b"Received: x\r\n" * 50), 250)


class Timeouts(Limits):

    def within(self, seconds: float):
        """Context: it must take at least half of that and at most two seconds more."""
        test = self

        class Clock:
            def __enter__(self):
                self.start = time.monotonic()

            def __exit__(self, kind, *_):
                took = time.monotonic() - self.start
                if kind is None:
                    test.assertGreater(took, seconds / 2)
                    test.assertLess(took, seconds + 2 * SLOW)

        return Clock()

    def test_command(self):
        hop = self.next_hop()
        relay = self.relay(hop, {"timeouts": {"command": "300ms"}})
        for count, commands in enumerate((
                [], ["EHLO client.test"], ["EHLO client.test", "MAIL FROM:<a@example.net>"],
                ["EHLO client.test", "MAIL FROM:<a@example.net>", "RCPT TO:<b@example.com>"]), 1):
            with self.subTest(commands=commands):
                client = self.client(relay)
                for command in commands:
                    client.command(command, 250)
                with self.within(0.3):
                    self.ended(client, "4.4.2", "Timeout")
                self.assertEqual(relay.counter("sessions_closed_timeout"), count)
        self.assertEqual(relay.counter("refusals_timeout"), 4)

    def sends_until_timeout(self, client: Client, piece: str) -> float:
        """Sends one piece after the other until 421; the seconds that took."""
        client.socket.settimeout(0.03)
        start = time.monotonic()
        while True:
            client.send(piece)
            try:
                reply = client.reply()
                break
            except TimeoutError:
                self.assertLess(time.monotonic() - start, 5 * SLOW)
        self.assertEqual((reply.code, reply.enhanced), (421, "4.4.2"))
        return time.monotonic() - start

    def test_command_that_drips(self):
        """The deadline is for the whole command: octets do not put it off."""
        relay = self.relay(self.next_hop(), {"timeouts": {"command": "300ms"}})
        client = self.session(relay)
        self.sends_until_timeout(client, "x")

    def test_data(self):
        for config in (None, {"buffer": "16kb"}):
            with self.subTest(config=config):
                hop = self.next_hop()
                relay = self.relay(hop, {"timeouts": {"data": "300ms"}, "delivery": config})
                client = self.session(relay)
                client.envelope()
                client.data(letter(100000))
                with self.within(0.3):
                    self.ended(client, "4.4.2", "Timeout")
                wait_for(lambda relay=relay: relay.gauge("transactions_current") == 0, what="end")
                self.assertEqual(hop.received, [])
                self.assertEqual(relay.counter("messages_aborted"), 1)

    def test_chunk(self):
        hop = self.next_hop()
        client = self.session(self.relay(hop, {"timeouts": {"data": "300ms"}}))
        client.envelope()
        client.send("BDAT 1000\r\nhello")
        with self.within(0.3):
            self.ended(client, "4.4.2", "Timeout")
        self.assertEqual(hop.received, [])

    def test_message(self):
        """Octets keep coming, but the message does not end."""
        hop = self.next_hop()
        relay = self.relay(hop, {"timeouts": {"data": "10s", "message": "500ms"}})
        client = self.session(relay)
        client.envelope()
        client.command("DATA", 354)
        self.assertGreater(self.sends_until_timeout(client, "x\r\n"), 0.3)
        self.assertEqual(hop.received, [])

    def test_slow_verdict_is_waited_for(self):
        """While we owe the reply no deadline of the client runs."""
        hop = self.next_hop()
        hop.on("END", [Stall, Default])
        relay = self.relay(hop, {"timeouts": {"command": "100ms", "data": "100ms",
                                              "message": "200ms"}})
        client = self.session(relay)
        client.envelope()
        client.data(stuffed(LETTER))
        hop.wait(lambda: hop.stalled, what="the message at the next hop")
        self.assertTrue(client.is_quiet(0.5))
        hop.release()
        self.assertEqual(client.reply(), 250)

    def test_handshake(self):
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        for tls, octets in (("starttls", b""), ("starttls", hello), ("implicit", b""),
                            ("implicit", hello)):
            with self.subTest(tls=tls, octets=octets):
                relay = self.relay(self.next_hop(), {"timeouts": {"tls": "300ms"}}, tls=tls)
                client = self.client(relay, greeting=tls == "starttls")
                if tls == "starttls":
                    client.ehlo()
                    client.command("STARTTLS", 220)
                with self.within(0.3):
                    client.send(octets)
                    self.assertTrue(client.is_closed())
                self.assertEqual(relay.counter("tls_server_failed"), 1)
                self.assertIn("timed out", relay.wait_event("tls_failed")["reason"])

    def test_handshake_that_drips(self):
        relay = self.relay(self.next_hop(), {"timeouts": {"tls": "300ms"}}, tls="implicit")
        client = self.client(relay, greeting=False)
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500
        start = time.monotonic()
        for octet in hello:
            try:
                client.send(bytes([octet]))
            except OSError:
                break
            if not client.is_quiet(0.03):
                break
        self.assertLess(time.monotonic() - start, 5 * SLOW)
        self.assertEqual(relay.counter("tls_server_failed"), 1)

    def test_command_deadline_after_tls(self):
        """The handshake's deadline ends with it."""
        relay = self.relay(self.next_hop(), {"timeouts": {"tls": "300ms", "command": "10s"}},
                           tls="starttls")
        client = self.session(relay)
        client.starttls(certificates().client_context())
        self.assertTrue(client.is_quiet(0.6))
        self.assertEqual(client.message(LETTER), 250)
        client.quit()


class Exhausted(Limits):

    def test_receive_memory(self):
        """Far more mail at a time than memory for it: every client gets an answer, each 250 is
        one message, and the memory comes back."""
        for octets in (60000, 400000):
            with self.subTest(octets=octets):
                hop = self.next_hop()
                relay = self.relay(hop, limits(receive_memory="4mb"))
                data = letter(octets)

                def one(relay=relay, data=data):
                    with Client(relay, seconds=60) as client:
                        client.ehlo()
                        client.command("MAIL FROM:<a@example.net>", 250)
                        client.command("RCPT TO:<b@example.com>", 250)
                        go = client.command("DATA")
                        if go != 354:
                            return go
                        client.send(stuffed(data))
                        return client.reply()

                codes = [reply.code for reply in together([one] * 80)]
                self.assertLessEqual(set(codes), {250, 421, 452})
                self.assertGreater(codes.count(250), 8)
                self.assertEqual(len(hop.messages), codes.count(250))
                for message in hop.messages:
                    self.assertTrue(message.data.endswith(data))
                wait_for(lambda relay=relay: relay.gauge("buffers_in_use") == 0, what="given back")
                self.assertEqual(deliver(relay, data), 250)

    def test_stalled_next_hop_and_many_streams(self):
        """All memory waits for a next hop that takes nothing: others are still heard and
        answered, and all goes on when it does."""
        slow, good = self.next_hop(receive_buffer=65536), self.next_hop()
        slow.on("BODY", Stall, after=20000, times=40)
        relay = self.relay(slow, {
            **limits(receive_memory="4mb"), "delivery": {"buffer": "64kb"},
            "next_hop": {"good": {"servers": [good.server], "tls": "none"}},
            "route": {"good.test": "good"}})
        data = letter(6 << 20)
        wire = stuffed(data)

        def one():
            with Client(relay, seconds=60) as client:
                client.ehlo()
                client.command("MAIL FROM:<a@example.net>", 250)
                client.command("RCPT TO:<b@example.com>", 250)
                go = client.command("DATA")
                if go != 354:
                    return go
                client.send(wire)
                return client.reply()

        def other():
            # As soon as streams hold memory.
            wait_for(lambda: slow.stalled >= 4, what="streams stall")
            try:
                codes = []
                for _ in range(20):
                    with Client(relay, seconds=10) as client:
                        client.ehlo()
                        client.command("MAIL FROM:<a@example.net>", 250)
                        client.command("RCPT TO:<b@good.test>", 250)
                        reply = client.command("DATA")
                        if reply == 354:
                            client.send(stuffed(LETTER))
                            reply = client.reply()
                        codes.append(reply.code)
                return codes
            finally:
                slow.release()

        *codes, others = together([one] * 12 + [other])
        self.assertLessEqual(set(others), {250, 452})
        self.assertEqual(len(good.messages), others.count(250))
        codes = [reply.code for reply in codes]
        self.assertLessEqual(set(codes), {250, 421, 452})
        self.assertEqual(len(slow.messages), codes.count(250))
        self.assertTrue(all(one.data.endswith(data) for one in slow.messages))

    def test_all_at_once_and_nobody_takes_it(self):
        """All were told to go ahead while memory was free, then all send, and their next hop takes
        nothing: commands of others find a buffer all the same, and are answered at once; and a
        message for another next hop, that was told to go ahead too, gets through."""
        for tls, hop_tls, buffer in (("none", "none", "64kb"), ("none", "none", "256kb"),
                                     ("starttls", "require", "64kb")):
            with self.subTest(tls=tls, hop_tls=hop_tls, buffer=buffer):
                self.all_at_once(tls, hop_tls, buffer)

    def all_at_once(self, tls: str, hop_tls: str, buffer: str) -> None:
        slow, good = self.next_hop(
            receive_buffer=65536,
            tls=certificates().localhost if hop_tls != "none" else None), self.next_hop()
        slow.on("BODY", Stall, after=20000, times=60)
        relay = self.relay(slow, {
            **limits(receive_memory="4mb"), "delivery": {"buffer": buffer},
            "timeouts": {"stalled": "5min"},
            "next_hop": {"internal": {"tls": hop_tls},
                         "good": {"servers": [good.server], "tls": "none"}},
            "route": {"good.test": "good"}}, tls=tls)
        data, other = letter(6 << 20), letter(300000)
        wire = stuffed(data)

        def session() -> Client:
            client = self.session(relay)
            if tls == "starttls":
                client.starttls(certificates().client_context())
            return client

        senders = [session() for _ in range(30)]
        talker, patient = session(), session()
        patient.envelope(recipients=["b@good.test"])
        patient.command("DATA", 354)
        for client in senders:
            client.envelope()
            client.command("DATA", 354)

        def one(client):
            client.socket.settimeout(60 * SLOW)
            client.send(wire)
            return client.reply()

        def others():
            try:
                wait_for(lambda: slow.stalled > 0, what="a stream stalls")
                before, quiet = -1, 0
                while quiet < 5:  # no more is taken from anybody
                    octets = relay.counter("bytes_received")
                    quiet = quiet + 1 if octets == before else 0
                    before = octets
                    time.sleep(0.05)
                patient.send(stuffed(other))
                self.assertEqual(patient.reply(), 250)
                codes = []
                for _ in range(3):
                    talker.command("RSET", 250)
                    fresh = session()
                    for client in (talker, fresh):
                        client.envelope(recipients=["b@good.test"])
                        codes.append(client.command("DATA").code)
                    fresh.close()
                return codes
            finally:
                slow.release()

        *codes, put_off = together([lambda client=client: one(client) for client in senders]
                                   + [others])
        self.assertEqual(set(put_off), {452})
        self.assertTrue(good.messages[0].data.endswith(other))
        codes = [reply.code for reply in codes]
        self.assertEqual(set(codes), {250})
        self.assertEqual(len(slow.messages), len(senders))
        self.assertTrue(all(one.data.endswith(data) for one in slow.messages))
        wait_for(lambda: relay.gauge("buffers_in_use") == 0, what="all is given back")
        talker.command("RSET", 250)
        self.assertEqual(talker.message(LETTER), 250)

    def test_no_block_for_the_next_hop(self):
        """Others' envelopes hold every block but the one that its own reply takes: a message is put
        off at once, and does not wait for a deadline with nothing said to the next hop."""
        hop = self.next_hop()
        relay = self.relay(hop, {"next_hop": {"internal": {"connections": 2}},
                                 **limits(connections=3, recipients=5000)})
        greedy, client = self.session(relay), self.session(relay)
        greedy.envelope(recipients=["b0@example.com", "b1@example.com"])
        self.assertEqual(client.message(LETTER), 250)  # that connection is kept
        client.envelope()
        client.data(LETTER)
        for number in range(5000):
            reply = greedy.command(f"RCPT TO:<{'x' * 50}{number}@{'y' * 50}.example.com>")
            if reply != 250:
                break
        self.assertIn((reply.code, reply.enhanced), ((451, "4.3.1"), (452, "4.3.1")))
        client.send(".\r\n")
        reply = client.reply()
        self.assertEqual((reply.code, reply.enhanced), (451, "4.3.1"))
        greedy.command("RSET", 250)
        self.assertEqual(client.message(LETTER), 250)
        self.assertEqual(len(hop.messages), 2)

    def test_slow_clients_hold_little(self):
        """Idle sessions and half commands hold no buffer."""
        relay = self.relay(self.next_hop(), limits(receive_memory="4mb"))
        clients = [self.session(relay) for _ in range(300)]
        for client in clients:
            client.send("MAIL FR")
        wait_for(lambda: relay.counter("bytes_received") >= 300 * 25, what="all of it is read")
        self.assertEqual(relay.gauge("buffers_in_use"), 0)
        self.assertEqual(deliver(relay), 250)
        for client in clients:
            client.send("OM:<a@example.net>\r\n")
        for client in clients:
            self.assertEqual(client.reply(), 250)

    def test_slow_messages(self):
        """More clients in the middle of a message than there are buffers: the last ones are put
        off at DATA, everybody else is served."""
        hop = self.next_hop()
        relay = self.relay(hop, {**limits(receive_memory="4mb"), "timeouts": {"stalled": "5min"}})
        clients, put_off = [], 0
        for _ in range(300):
            client = self.session(relay)
            client.command("MAIL FROM:<a@example.net>", 250)
            client.command("RCPT TO:<b@example.com>", 250)
            reply = client.command("DATA")
            if reply == 354:
                client.send("Subject: slow\r\n")
                clients.append(client)
                wait_for(lambda: relay.gauge("buffers_in_use") == len(clients), what="read")
            else:
                self.assertEqual((reply.code, reply.enhanced), (452, "4.3.1"))
                put_off += 1
        self.assertGreater(put_off, 40)
        self.assertGreater(len(clients), 100)
        self.assertEqual(relay.counter("refusals_resources"), put_off)
        for client in clients:
            client.send("\r\nend\r\n.\r\n")
        for client in clients:
            self.assertEqual(client.reply(), 250)
        self.assertEqual(len(hop.messages), len(clients))
        self.assertEqual(relay.gauge("buffers_in_use"), 0)

    def test_descriptors(self):
        """None left: new clients wait in the kernel's queue, and are served when there are."""
        hop = self.next_hop()
        relay = self.relay(hop, wrapper=(sys.executable, CONFINED, "--descriptors", "32"))
        self.assertEqual(deliver(relay), 250)  # this connection to the next hop is kept
        clients = [self.client(relay, greeting=False) for _ in range(40)]
        relay.wait_event("accept_paused")
        served = [client for client in clients if select.select([client.socket], [], [], 0)[0]]
        self.assertGreater(len(served), 4)
        self.assertLess(len(served), 28)
        for client in served:
            self.assertEqual(client.reply(), 220)
        served[0].ehlo()
        self.assertEqual(served[0].message(LETTER), 250)
        # Each that leaves makes room for one that waits.
        waiting = [client for client in clients if client not in served]
        for client in served:
            client.close()
        for client in waiting:
            self.assertEqual(client.reply(), 220)
            client.ehlo()
            self.assertEqual(client.message(LETTER), 250)
            client.quit()
        self.assertEqual(len(hop.messages), 2 + len(waiting))
        self.assertEqual(len(hop.sessions), 1)

    def test_no_descriptor_for_the_next_hop(self):
        """451, not a hang, and it works again when there is one."""
        hop = self.next_hop()
        relay = self.relay(hop, {"timeouts": {"server_retry": "50ms", "server_retry_max": "50ms"}})
        client = self.session(relay)
        before = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (relay.descriptors() - 2, before[1]))
        try:
            self.assertEqual(client.message(LETTER), 451)
        finally:
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, before)
        self.assertIn("descriptor", relay.wait_event("server_down")["reason"])
        wait_for(lambda: client.message(LETTER) == 250, what="delivered again")
