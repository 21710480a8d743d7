"""On every way through the relay messages come out octet for octet, but for one Received: field."""
import itertools
import random
import socket
import threading

from harness import (Client, Default, Delay, EXTENSIONS, SLOW, SystemTest, certificates,
                     seconds_max, stuffed, wait_for)

SEED = 20261122
HEADER = b"From: a@example.net\r\nTo: b@example.com\r\nSubject: corpus\r\n\r\n"
MIB = 1 << 20
# delivery.buffer (options.def) and BUFFER_BYTES (limits.h): where the relay changes its ways.
BUFFER, BURST = 16384, 256 * 1024
SMALL_SIZE_LIMIT = 64 * 1024


def text(octets: int, rng: random.Random, dots: bool = True) -> bytes:
    """Lines of random lengths, some beginning with dots, of exactly so many octets."""
    alphabet = bytes(range(0x20, 0x7f))
    out, size = [], 0
    while size < octets:
        length = rng.choice((0, 1, 2, 10, 60, 76, 78, 500, 998))
        line = bytes(rng.choices(alphabet, k=min(length, 80))) * (length // 80 + 1)
        line = line[:length]
        if dots and length and rng.random() < 0.2:
            line = b"." * min(length, rng.randint(1, 3)) + line[3:]
        out.append(line + b"\r\n")
        size += len(out[-1])
    # Whatever the cut left, the end is an end of line.
    return b"".join(out)[:octets - 2].rstrip(b"\r\n").ljust(octets - 2, b"x") + b"\r\n"


def is_clean(data: bytes) -> bool:
    rest = data.replace(b"\r\n", b"")
    return b"\r" not in rest and b"\n" not in rest and b"\0" not in rest


def corpus() -> dict[str, bytes]:
    rng = random.Random(SEED)
    eight = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"")
    bodies = {
        "empty": b"",
        "empty line": b"\r\n",
        "one dot": b".\r\n",
        "two dots": b"..\r\n",
        "dots alone": b".\r\n..\r\n...\r\n....\r\n",
        "dots everywhere": HEADER + b"".join(
            b"." * i + b"x" * j + b"." * k + b"\r\n"
            for i, j, k in itertools.product(range(4), range(3), range(4))),
        "dot first, dot last": b".first\r\nmiddle\r\n.\r\n",
        "header only": HEADER[:-2],
        "no header": b"not a header\r\n",
        "blank lines": HEADER + b"\r\n" * 50 + b".\r\n" * 50 + b"\r\n" * 3,
        "eight bit": HEADER + (eight + b"\r\n") * 20,
        "control characters": HEADER + bytes(set(range(1, 32)) - {10, 13}) + b"\r\n",
        "received fields": b"Received: from x by y; Thu, 1 Jan 2026 00:00:00 +0000\r\n" * 99
                           + HEADER,
        "every size": HEADER + b"".join(b"y" * i + b"\r\n" for i in range(200)),
    }
    for length in (998, 999, 5000, 65535, 65536):
        bodies[f"line of {length}"] = HEADER + b"z" * length + b"\r\nend\r\n"
        bodies[f"dot line of {length}"] = HEADER + b"." + b"z" * (length - 1) + b"\r\nend\r\n"
        bodies[f"last line of {length}"] = HEADER + b"." * length + b"\r\n"
    for size in (BUFFER, 2 * BUFFER, BURST):
        for more in (-700, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5):
            bodies[f"{size}{more:+} octets"] = HEADER + text(size + more - len(HEADER), rng)
    bodies["1 MiB"] = HEADER + text(MIB - len(HEADER), rng)
    return bodies


CORPUS = corpus()
GROUP = 65536  # octets as they come by DATA that may go by BDAT in one group with MAIL and RCPT
NO_CHUNKING = tuple(name for name in EXTENSIONS if name != "CHUNKING")


class Corpus(SystemTest):
    """Each way in, each way out, with and without TLS on both sides."""

    def setUp(self):
        for name, data in CORPUS.items():
            self.assertTrue(is_clean(data), name)

    def through(self, way_in: str, extensions: tuple[str, ...], tls_in: bool, tls_out: bool):
        hop = self.next_hop(extensions=extensions, tls=certificates().hop if tls_out else None)
        policy = "require" if tls_out else "none"
        relay = self.relay(hop, {"next_hop": {"internal": {"tls": policy}}},
                           tls="starttls" if tls_in else None)
        client = self.client(relay)
        client.ehlo()
        if tls_in:
            client.starttls()
        rng = random.Random(SEED)
        for name, data in CORPUS.items():
            with self.subTest(name):
                if way_in == "DATA":
                    reply = client.message(data)
                else:
                    chunk = rng.choice((0, 0, 1, 7, 1000, 16384, 100000, len(data) - 1))
                    reply = client.chunked(data, max(chunk, len(data) // 300))
                self.assertEqual(reply, 250)
                message = hop.messages.pop()
                parts = self.assert_relayed(message, data)
                self.assertEqual(parts["with"], "ESMTPS" if tls_in else "ESMTP")
                self.assertEqual("tls" in parts, tls_in)
                self.assertEqual(message.tls, tls_out)
                self.assertEqual(hop.messages, [])
                hop.received.clear()
                if extensions is NO_CHUNKING:
                    self.assertEqual(message.how, "DATA")
                elif way_in == "DATA" and relay.counter("messages_accepted") > 1:
                    self.assertEqual(message.how,
                                     "BDAT" if len(stuffed(data)) <= GROUP else "DATA")
        client.quit()
        self.assertEqual(relay.counter("messages_accepted"), len(CORPUS))
        self.assertEqual(relay.counter("message_bytes_accepted"), sum(map(len, CORPUS.values())))

    def test_data_to_data(self):
        self.through("DATA", NO_CHUNKING, False, False)

    def test_data_to_data_tls_in(self):
        self.through("DATA", NO_CHUNKING, True, False)

    def test_data_to_data_tls_out(self):
        self.through("DATA", NO_CHUNKING, False, True)

    def test_data_to_data_tls_both(self):
        self.through("DATA", NO_CHUNKING, True, True)

    def test_data_to_chunking_hop(self):
        self.through("DATA", EXTENSIONS, False, False)

    def test_data_to_chunking_hop_tls_both(self):
        self.through("DATA", EXTENSIONS, True, True)

    def test_bdat_to_bdat(self):
        self.through("BDAT", EXTENSIONS, False, False)

    def test_bdat_to_bdat_tls_in(self):
        self.through("BDAT", EXTENSIONS, True, False)

    def test_bdat_to_bdat_tls_out(self):
        self.through("BDAT", EXTENSIONS, False, True)

    def test_bdat_to_bdat_tls_both(self):
        self.through("BDAT", EXTENSIONS, True, True)

    def test_bdat_to_data(self):
        self.through("BDAT", NO_CHUNKING, False, False)

    def test_bdat_to_data_tls_in(self):
        self.through("BDAT", NO_CHUNKING, True, False)

    def test_bdat_to_data_tls_out(self):
        self.through("BDAT", NO_CHUNKING, False, True)

    def test_bdat_to_data_tls_both(self):
        self.through("BDAT", NO_CHUNKING, True, True)


@seconds_max(300)
class Large(SystemTest):

    def through(self, size: int, way_in: str, extensions: tuple[str, ...], tls_in: bool,
                tls_out: bool):
        hop = self.next_hop(extensions=extensions, tls=certificates().hop if tls_out else None)
        policy = "require" if tls_out else "none"
        relay = self.relay(hop, {"next_hop": {"internal": {"tls": policy}}},
                           tls="starttls" if tls_in else None)
        client = self.client(relay, seconds=60)
        client.ehlo()
        if tls_in:
            client.starttls()
        piece = text(MIB, random.Random(SEED))
        data = HEADER + piece * (size // MIB)
        data = data.ljust(size, b"x")[:size - 2].rstrip(b"\r\n").ljust(size - 2, b"y") + b"\r\n"
        self.assertEqual(len(data), size)
        self.assertTrue(is_clean(data))
        reply = client.message(data) if way_in == "DATA" else client.chunked(data, 3 * MIB + 1)
        self.assertEqual(reply, 250)
        self.assert_relayed(hop.messages[0], data)
        self.assertEqual(client.message(HEADER), 250)
        self.assert_relayed(hop.messages[1], HEADER)
        client.quit()

    def test_10_mib_data_to_data(self):
        self.through(10 * MIB, "DATA", EXTENSIONS, False, False)

    def test_10_mib_data_tls_both(self):
        self.through(10 * MIB, "DATA", EXTENSIONS, True, True)

    def test_10_mib_bdat_to_bdat(self):
        self.through(10 * MIB, "BDAT", EXTENSIONS, False, False)

    def test_10_mib_bdat_to_bdat_tls_both(self):
        self.through(10 * MIB, "BDAT", EXTENSIONS, True, True)

    def test_10_mib_bdat_to_data(self):
        self.through(10 * MIB, "BDAT", NO_CHUNKING, False, False)

    def test_10_mib_bdat_to_data_tls_both(self):
        self.through(10 * MIB, "BDAT", NO_CHUNKING, True, True)

    def test_50_mib_data(self):
        """Exactly the default limits.message_size."""
        self.through(50 * MIB, "DATA", EXTENSIONS, False, False)

    def test_50_mib_bdat_to_data_tls_both(self):
        self.through(50 * MIB, "BDAT", NO_CHUNKING, True, True)

    def test_slow_readers_and_senders(self):
        """Clients may fill limits.receive_memory before the next hop says its first word: that
        stops them, and must not keep the next hop's replies from being received."""
        hop = self.next_hop(receive_buffer=4096)
        hop.on("CONNECT", [Delay(1.0), Default()])
        relay = self.relay(hop, {"limits": {"receive_memory": "4mb"}})
        before = relay.resident_bytes()
        data = HEADER + text(8 * MIB, random.Random(SEED))
        clients = [self.client(relay, seconds=60) for _ in range(4)]
        replies = []

        def one(client: Client) -> None:
            client.ehlo()
            replies.append(client.message(data))

        threads = [threading.Thread(target=one, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(replies, [250] * 4)
        for message in hop.messages:
            self.assert_relayed(message, data)
        self.assertLess(relay.resident_bytes() - before, 24 * MIB)
        self.assertLess(relay.cpu_seconds(), 1.0 * SLOW, "it must wait, not spin")


class Refused(SystemTest):
    """Bodies that must not pass; the session goes on, the next hop sees no end of a message."""

    ROWS = [  # name, body as it goes over the wire without the final dot, reply, enhanced
        ("NUL", b"x\0y\r\n", 554, "5.6.0"),
        ("NUL in the header", b"Subject: \0\r\n\r\nx\r\n", 554, "5.6.0"),
        ("bare LF", b"x\ny\r\n", 550, "5.6.11"),
        ("bare CR", b"x\ry\r\n", 550, "5.6.11"),
        ("CR CR LF", b"x\r\r\ny\r\n", 550, "5.6.11"),
        ("LF . LF", b"x\n.\ny\r\n", 550, "5.6.11"),
        ("LF . CRLF", b"x\n.\r\ny\r\n", 550, "5.6.11"),
        ("CRLF . LF", b"x\r\n.\ny\r\n", 550, "5.6.11"),
        ("CR . CR", b"x\r.\ry\r\n", 550, "5.6.11"),
        ("CRLF . CR", b"x\r\n.\ry\r\n", 550, "5.6.11"),
        ("long line", b"z" * 65537 + b"\r\n", 554, "5.6.0"),
        ("loop", b"Received: by x; y\r\n" * 101 + b"\r\n", 554, "5.4.6"),
    ]

    def setUp(self):
        self.hop = self.next_hop()

    def session(self, relay) -> Client:
        client = self.client(relay)
        client.ehlo()
        return client

    def rows(self, large: bool, bdat: bool):
        relay = self.relay(self.hop, {"limits": {"errors": 1000}})
        client = self.session(relay)
        for name, body, code, enhanced in self.ROWS:
            with self.subTest(name):
                # More than delivery.buffer before it: the message is on its way to the next hop.
                wire = HEADER + (b"w" * 76 + b"\r\n") * 8000 * large + body
                if name == "loop" or "header" in name:
                    wire = body + b"\r\n" + (b"w" * 76 + b"\r\n") * 8000 * large
                client.envelope()
                if bdat:
                    client.send(b"BDAT %d LAST\r\n" % len(wire) + wire)
                else:
                    client.data(wire + b".\r\n")
                reply = client.reply()
                self.assertEqual((reply.code, reply.enhanced), (code, enhanced), reply)
                self.assertEqual(client.message(HEADER), 250)
                self.assert_relayed(self.hop.messages.pop(), HEADER)
                self.assertEqual(self.hop.messages, [])
        self.assertEqual(relay.counter("messages_accepted"), len(self.ROWS))

    def test_by_data(self):
        self.rows(large=False, bdat=False)

    def test_by_data_streaming(self):
        self.rows(large=True, bdat=False)

    def test_by_bdat(self):
        self.rows(large=False, bdat=True)

    def test_by_bdat_streaming(self):
        self.rows(large=True, bdat=True)

    def test_too_large(self):
        """One octet more than the limit, told by SIZE or found out, by DATA and BDAT."""
        relay = self.relay(self.hop, {"limits": {"message_size": SMALL_SIZE_LIMIT}})
        client = self.session(relay)
        self.assertEqual(client.extensions["SIZE"], str(SMALL_SIZE_LIMIT))
        fits = HEADER + text(SMALL_SIZE_LIMIT - len(HEADER), random.Random(SEED))
        for send in (client.message, client.chunked):
            self.assertEqual(send(fits), 250)
            self.assert_relayed(self.hop.messages.pop(), fits)
            reply = send(b"x" + fits)
            self.assertEqual((reply.code, reply.enhanced), (552, "5.3.4"))
        reply = client.command(f"MAIL FROM:<a@example.net> SIZE={SMALL_SIZE_LIMIT + 1}")
        self.assertEqual((reply.code, reply.enhanced), (552, "5.3.4"))
        client.command(f"MAIL FROM:<a@example.net> SIZE={SMALL_SIZE_LIMIT}", 250)
        client.command("RSET", 250)
        # In many chunks, none of which is too large by itself.
        client.envelope()
        client.send((b"BDAT 10000\r\n" + b"x" * 9998 + b"\r\n") * 7 + b"BDAT 0 LAST\r\n")
        replies = client.replies(8)
        self.assertEqual(replies[:6], [250] * 6)
        self.assertEqual((replies[6].code, replies[6].enhanced), (552, "5.3.4"))
        self.assertIn(replies[7].code, (503, 552))
        self.assertEqual(client.message(HEADER), 250)
        self.assertEqual(len(self.hop.messages), 1)

    def test_eight_bit_to_old_server(self):
        """RFC 6152: never raw 8-bit data to a server that does not offer 8BITMIME."""
        self.hop.extensions = ("PIPELINING",)
        relay = self.relay(self.hop)
        client = self.session(relay)
        body = HEADER + b"\xc3\xa4\r\n"
        for parameters in ("", " BODY=8BITMIME"):
            reply = client.message(body, parameters=parameters)
            self.assertEqual((reply.code, reply.enhanced), (554, "5.6.3"), reply)
        self.assertEqual(client.message(HEADER + b"seven\r\n", parameters=" BODY=8BITMIME"), 250)
        self.assertEqual(len(self.hop.messages), 1)


class Wire(SystemTest):
    """The same octets in any pieces."""

    def setUp(self):
        self.hop = self.next_hop()

    def split_everywhere(self, tls: bool) -> None:
        """Two pieces with a receive of its own for each, at every place around the final dot."""
        relay = self.relay(self.hop, tls="starttls")
        client = self.client(relay)
        client.ehlo()
        if tls:
            client.starttls()
        for body in (b"", b".\r\n", HEADER + b"x\r\n", HEADER + b".\r\n..\r\n"):
            wire = stuffed(body) + b"NOOP\r\n"
            first = max(0, len(wire) - 20)
            for at in range(first + 1, len(wire)):
                with self.subTest(body=body, at=at):
                    client.envelope()
                    client.command("DATA", 354)
                    seen = relay.counter("bytes_received")
                    client.send(wire[:at])
                    wait_for(lambda: relay.counter("bytes_received") >= seen + at, 10, "received")
                    client.send(wire[at:])
                    self.assertEqual(client.replies(2), [250, 250])
                    self.assert_relayed(self.hop.messages.pop(), body)
                    self.assertEqual(self.hop.messages, [])

    def test_end_of_data_split_everywhere(self):
        self.split_everywhere(tls=False)

    def test_end_of_data_split_everywhere_tls(self):
        self.split_everywhere(tls=True)

    def test_octet_by_octet(self):
        relay = self.relay(self.hop, tls="starttls")
        for tls in (False, True):
            client = self.client(relay)
            client.ehlo()
            if tls:
                client.starttls()
            body = CORPUS["dots everywhere"]
            session = (b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
                       + stuffed(body) + b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n"
                       + b"BDAT %d\r\n" % 100 + body[:100]
                       + b"BDAT %d LAST\r\n" % (len(body) - 100) + body[100:] + b"QUIT\r\n")
            client.drip(session)
            self.assertEqual(client.replies(9), [250, 250, 354, 250, 250, 250, 250, 250, 221])
            self.assertTrue(client.is_closed())
            for message in self.hop.messages:
                self.assert_relayed(message, body)
            self.assertEqual(len(self.hop.messages), 2)
            self.hop.messages.clear()

    def test_random_pieces(self):
        relay = self.relay(self.hop, {"workers": 2}, tls="starttls")
        rng = random.Random(SEED)
        names = rng.sample(sorted(CORPUS), 24)
        for name in names:
            data = CORPUS[name]
            top = rng.choice((40, 1460, 16384, 70000))
            sizes = [rng.randint(1, top) for _ in range(5000)]
            for send in ("message", "chunked"):
                with self.subTest(name, top=top, send=send):
                    client = self.client(relay)
                    client.ehlo()
                    if rng.random() < 0.5:
                        client.starttls()
                    self.assertEqual(getattr(client, send)(data, sizes=sizes), 250)
                    client.quit()
                    self.assert_relayed(self.hop.messages.pop(), data)

    def test_pipelined_messages_in_one_write(self):
        """300 messages by DATA and BDAT with all their commands in one write, then QUIT."""
        relay = self.relay(self.hop, tls="starttls")
        rng = random.Random(SEED)
        small = [data for data in CORPUS.values() if len(data) < 3000]
        for tls in (False, True):
            client = self.client(relay, seconds=60)
            client.ehlo()
            if tls:
                client.starttls()
            wire, expected, bodies = b"", [], []
            for number in range(300):
                body = rng.choice(small) + b"%d\r\n" % number
                bodies.append(body)
                wire += b"MAIL FROM:<%d@example.net>\r\nRCPT TO:<b@example.com>\r\n" % number
                if number % 2:
                    wire += b"BDAT %d LAST\r\n" % len(body) + body
                    expected += [250, 250, 250]
                else:
                    # Out of order for RFC 2920 (DATA ends a group), but what spammers and load
                    # generators send; the relay must not mix up what belongs to which.
                    wire += b"DATA\r\n" + stuffed(body)
                    expected += [250, 250, 354, 250]
            client.send(wire + b"QUIT\r\n")
            replies = client.replies(len(expected) + 1)
            self.assertEqual(replies, expected + [221])
            self.assertEqual(len(self.hop.messages), 300)
            for number, message in enumerate(self.hop.messages):
                self.assertEqual(message.sender, f"{number}@example.net")
                self.assert_relayed(message, bodies[number])
            self.hop.messages.clear()

    def test_half_close(self):
        """A client that writes all, closes its direction and reads: it gets every reply."""
        relay = self.relay(self.hop)
        for end in (b"QUIT\r\n", b""):
            client = self.client(relay)
            client.send(b"EHLO x.test\r\n" + (
                b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
                + stuffed(HEADER)) * 20 + end)
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual(client.replies(1 + 4 * 20), [250] + [250, 250, 354, 250] * 20)
            if end:
                self.assertEqual(client.reply(), 221)
            self.assertTrue(client.is_closed())
            self.assertEqual(len(self.hop.messages), 20)
            self.hop.messages.clear()

    @seconds_max(180)
    def test_sessions_cut_anywhere(self):
        """400 pipelined sessions that end at a random octet: what got its 250 was delivered, once;
        what was not sent to its last octet was not."""
        relay = self.relay(self.hop, {"workers": 2}, tls="starttls")
        rng = random.Random(SEED)
        names = [name for name, data in CORPUS.items() if len(data) < 300000]
        for number in range(400):
            wire, ends, bodies = b"", [], []
            for message in range(rng.randint(1, 4)):
                body = CORPUS[rng.choice(names)] + b"%d.%d\r\n" % (number, message)
                wire += b"MAIL FROM:<%d.%d@example.net>\r\n" % (number, message)
                wire += b"RCPT TO:<b@example.com>\r\n"
                if rng.random() < 0.5:
                    wire += b"BDAT %d LAST\r\n" % len(body) + body
                else:
                    wire += b"DATA\r\n" + stuffed(body)
                ends.append(len(wire))
                bodies.append(body)
            self.cut_session(relay, rng, number, wire, ends, bodies)
        wait_for(lambda: relay.stats()["gauges"]["sessions_current"] == 0, 20, "no session is left")
        wait_for(lambda: relay.stats()["gauges"]["transactions_current"] == 0, 20, "none is left")
        self.assertEqual(relay.stats()["gauges"]["buffers_in_use"], 0)

    def cut_session(self, relay, rng: random.Random, number: int, wire: bytes, ends: list[int],
                    bodies: list[bytes]) -> None:
        at = rng.choice((rng.randint(0, len(wire)), min(len(wire), rng.choice(ends) - 1)))
        client = self.client(relay)
        client.ehlo()
        if rng.random() < 0.3:
            client.starttls()
        client.send(wire[:at])
        whole = sum(end <= at for end in ends)
        wanted = rng.randint(0, whole)
        good = 0
        while good < wanted:  # three replies of each message, or four
            client.replies(2)
            reply = client.reply()
            good += (client.reply() if reply == 354 else reply) == 250
        if rng.random() < 0.5:
            client.reset()
        else:
            client.close()
        wait_for(lambda: relay.stats()["gauges"]["sessions_current"] == 0, 20, "the session ends")
        # A message whose final dot is out goes on without its client.
        wait_for(lambda: relay.stats()["gauges"]["transactions_current"] == 0, 20, "and the mail")
        seen = {message.sender: message for message in self.hop.messages}
        self.assertEqual(len(seen), len(self.hop.messages), "one came twice")
        self.assertGreaterEqual(set(seen), {f"{number}.{i}@example.net" for i in range(good)})
        self.assertLessEqual(set(seen), {f"{number}.{i}@example.net" for i in range(whole)})
        for i, body in enumerate(bodies):
            if f"{number}.{i}@example.net" in seen:
                self.assert_relayed(seen[f"{number}.{i}@example.net"], body)
        self.hop.messages.clear()

    def test_dripping_next_hop(self):
        """Replies that come octet by octet."""
        self.hop.drip_seconds = 0.0003
        relay = self.relay(self.hop)
        client = self.client(relay)
        client.ehlo()
        for name in ("dots alone", "line of 5000", "1 MiB"):
            self.assertEqual(client.message(CORPUS[name]), 250)
            self.assert_relayed(self.hop.messages.pop(), CORPUS[name])

    @seconds_max(180)
    def test_many_sessions_at_once(self):
        """Two workers, 24 clients, plain and TLS, DATA and BDAT: nothing is mixed up or lost."""
        hop = self.next_hop(tls=certificates().hop)
        relay = self.relay(hop, {"workers": 2, "next_hop": {"internal": {"tls": "opportunistic"}}},
                           tls="starttls")
        names = [name for name, data in CORPUS.items() if len(data) < 70000]
        sent: dict[str, bytes] = {}
        faults: list[BaseException] = []

        def one(number: int) -> None:
            rng = random.Random(SEED + number)
            try:
                with Client(relay, seconds=60) as client:
                    client.ehlo()
                    if number % 2:
                        client.starttls()
                    for turn in range(12):
                        sender = f"{number}.{turn}@example.net"
                        sent[sender] = CORPUS[rng.choice(names)]
                        send = client.chunked if rng.random() < 0.5 else client.message
                        reply = send(sent[sender], sender=sender)
                        assert reply == 250, reply
                    client.quit()
            except (AssertionError, OSError, EOFError) as error:
                faults.append(error)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(sorted(message.sender for message in hop.messages), sorted(sent))
        for message in hop.messages:
            self.assert_relayed(message, sent[message.sender])
        self.assertEqual(relay.counter("messages_accepted"), 24 * 12)
        wait_for(lambda: relay.stats()["gauges"]["sessions_current"] == 0, 10, "no session is left")

    def test_chunks(self):
        """Chunk layouts: empty ones, a last one of nothing, one octet, a CRLF cut in two, no CRLF
        at the end."""
        relay = self.relay(self.hop)
        client = self.client(relay)
        client.ehlo()
        body = HEADER + b".\r\nlast\r\n"
        for pieces in ([body, b""], [b"", body], [b"", b"", body, b""],
                       [body[:1], body[1:]], [body[:-1], body[-1:]], [body[:-9], body[-9:]],
                       [body[i:i + 1] for i in range(len(body))]):
            with self.subTest(pieces=[len(piece) for piece in pieces]):
                client.envelope()
                for number, piece in enumerate(pieces):
                    last = b" LAST" if number == len(pieces) - 1 else b""
                    client.send(b"BDAT %d%s\r\n" % (len(piece), last) + piece)
                    self.assertEqual(client.reply(), 250)
                self.assert_relayed(self.hop.messages.pop(), body)
        cut = HEADER + b"no end of line"
        self.assertEqual(client.chunked(cut), 250)
        message = self.hop.messages.pop()
        # By BDAT it can go as it came; by DATA it needs its CRLF.
        self.assert_relayed(message, cut if message.how == "BDAT" else cut + b"\r\n")

    def test_cut_message_to_data(self):
        """A message without CRLF at its end, by BDAT, to a server that only knows DATA."""
        self.hop.extensions = NO_CHUNKING
        relay = self.relay(self.hop)
        client = self.client(relay)
        client.ehlo()
        for cut in (b"x", HEADER + b"no end of line", HEADER + b".", HEADER + b"\r\n."):
            with self.subTest(cut):
                self.assertEqual(client.chunked(cut), 250)
                self.assert_relayed(self.hop.messages.pop(), cut + b"\r\n")

    def test_abandoned_messages(self):
        """A client that goes away inside a message: nothing of it is ever delivered."""
        relay = self.relay(self.hop)
        big = HEADER + text(2 * BURST, random.Random(SEED))
        for body in (HEADER, big):
            for ending in ("close", "reset"):
                for start in (b"DATA\r\n", b"BDAT %d LAST\r\n" % (len(body) + 1)):
                    client = self.client(relay)
                    client.ehlo()
                    client.envelope()
                    client.send(start)
                    if start.startswith(b"DATA"):
                        self.assertEqual(client.reply(), 354)
                    wire = stuffed(body)[:-3] + b".\r" if start.startswith(b"DATA") else body
                    client.send(wire)
                    if ending == "close":
                        client.socket.shutdown(socket.SHUT_WR)
                        self.assertTrue(client.is_closed())
                    client.reset() if ending == "reset" else client.close()
        wait_for(lambda: relay.stats()["gauges"]["sessions_current"] == 0, 10, "no session is left")
        client = self.client(relay)
        client.ehlo()
        self.assertEqual(client.message(big), 250)
        client.quit()
        self.assertEqual(len(self.hop.messages), 1)
        self.assert_relayed(self.hop.messages[0], big)
        self.assertEqual(len(self.hop.received), 1)
