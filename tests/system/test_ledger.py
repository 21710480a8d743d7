"""Many clients, next hops that fail at random, and a ledger of what was told and what arrived."""
import collections
import random
import re

from harness import (Client, Default, Delay, Drop, NextHop, Raw, Reset, SystemTest, certificates,
                     seconds_max, stuffed, wait_for)
from traffic import letter, together

CLIENTS, MESSAGES = 8, 40
SIZES = (300, 300, 300, 5000, 40000, 120000, 400000)


class Faults:
    """Chooses what a next hop does at each event; most of the time what it should."""

    def __init__(self, seed: int, share: float, slow: float):
        self.random, self.share, self.slow = random.Random(seed), share, slow
        self.chosen: collections.Counter = collections.Counter()

    def install(self, hop: NextHop) -> None:
        for event in ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "END", "RSET"):
            hop.on(event, lambda session, event=event: self.choose(event))
        # One in ten connections ends inside a body.
        for connection in range(10, 2000, 10) if self.share else ():
            hop.on("BODY", Drop, connection=connection, after=self.random.randrange(1, 300000))

    def choose(self, event: str):
        if self.random.random() > self.share:
            return Default
        rows = ["451 4.3.0 not now", "421 4.3.2 going", Drop, Reset, Raw(b"what?\r\n"),
                [Delay(0.01), Default], ["421 4.3.2 going", Drop]]
        if self.slow:
            rows += [[Delay(self.slow), Default], [Delay(self.slow), Drop]]
        if event in ("MAIL", "RCPT", "DATA", "END"):
            rows += ["550 5.7.1 no", "452 4.2.2 full", "530 5.7.0 login", "250 odd", "354 odd"]
        if event == "DATA":
            rows.remove("354 odd")
        if event in ("CONNECT", "EHLO", "RSET"):
            rows.append("554 5.3.2 no")
        if event == "END":
            rows.remove("250 odd")  # it would be a good reply
            rows.append([Default, Drop])
        self.chosen[event] += 1
        choice = self.random.choice(rows)
        # 250 is what is expected there.
        return Default if choice == "250 odd" and event != "DATA" else choice


class Entry:
    """What the ledger knows of one message."""

    def __init__(self, name: str, data: bytes):
        self.name, self.data = name, data
        self.accepted: list[str] = []
        self.code = 0  # 0: the client left before it heard
        self.text = ""
        self.ended = False


class Ledger(SystemTest):

    def one_message(self, client: Client, name: str, chance: random.Random) -> Entry:
        entry = Entry(name, letter(chance.choice(SIZES), name))
        client.command(f"MAIL FROM:<{name}@example.net>", 250)
        for number in range(chance.choice((1, 1, 1, 2, 5))):
            recipient = f"r{number}.{name}@example.com"
            if client.command(f"RCPT TO:<{recipient}>") == 250:
                entry.accepted.append(recipient)
        if not entry.accepted:
            entry.code = 550
            client.command("RSET", 250)
            return entry
        leaves = chance.random()
        if chance.random() < 0.3:
            half = len(entry.data) // 2
            client.send(b"BDAT %d\r\n" % half + entry.data[:half])
            if leaves < 0.03:
                client.close()
                return entry
            client.send(b"BDAT %d LAST\r\n" % (len(entry.data) - half) + entry.data[half:])
            entry.ended = True
            first = client.reply()
            reply = client.reply()
            if first != 250:
                reply = first
        else:
            go = client.command("DATA")
            if go != 354:
                entry.code = go.code
                client.command("RSET", 250)
                return entry
            wire = stuffed(entry.data)
            if leaves < 0.03:
                client.send(wire[:len(wire) // 2])
                client.close()
                return entry
            client.send(wire)
            entry.ended = True
            if leaves > 0.98:
                client.reset()
                return entry
            reply = client.reply()
        entry.code, entry.text = reply.code, reply.text
        return entry

    def client_runs(self, relay, seed: int, number: int, entries: list[Entry], tls: bool) -> None:
        chance = random.Random(seed * 1000 + number)
        client = None
        for count in range(MESSAGES):
            if client is None or client.socket.fileno() < 0 or chance.random() < 0.1:
                if client:
                    client.close()
                client = Client(relay, seconds=60)
                client.ehlo()
                if tls:
                    client.starttls()
            entries.append(self.one_message(client, f"m{number}.{count}", chance))
        client.close()

    def audit(self, relay, hops, entries) -> None:
        arrived = collections.defaultdict(list)
        for hop in hops:
            for message in hop.messages:
                arrived[message.sender.split("@")[0]].append(message)
        ambiguous = 0
        for entry in entries:
            with self.subTest(message=entry.name, code=entry.code, text=entry.text):
                copies = arrived.pop(entry.name, [])
                self.assertLessEqual(len(copies), 1, "arrived twice")
                if entry.code == 250:
                    self.assertEqual(len(copies), 1, "lost")
                elif "may have the message" in entry.text:
                    ambiguous += 1
                elif entry.code or not entry.ended:
                    self.assertEqual(len(copies), 0, "arrived although it was not accepted")
                for message in copies:
                    self.assertTrue(message.data.endswith(b"\r\n" + entry.data),
                                    "other octets arrived")
                    self.assertEqual(message.recipients, entry.accepted)
        self.assertEqual(list(arrived), [], "nobody sent these")
        self.assertLessEqual(ambiguous, relay.counter("messages_ambiguous"))
        whole = [message for hop in hops for message in hop.received]
        self.assertTrue(all(re.match(rb"Received: from client\.test ", one.data) for one in whole))

    def run_with(self, seed: int, share: float, config: dict, *, slow: float = 0,
                 tls: bool = False) -> None:
        hops = [self.next_hop(tls=certificates().hop if tls else None) for _ in range(2)]
        faults = Faults(seed, share, slow)
        for hop in hops:
            faults.install(hop)
        config.setdefault("timeouts", {}).update(server_retry="10ms", server_retry_max="20ms")
        config.setdefault("next_hop", {}).setdefault("internal", {})["tls"] = (
            "require" if tls else "none")
        relay = self.relay(hops, {"workers": 2, **config}, tls="starttls" if tls else None)
        entries: list[Entry] = []
        together(lambda number=number: self.client_runs(relay, seed, number, entries, tls)
                 for number in range(CLIENTS))
        self.assertEqual(len(entries), CLIENTS * MESSAGES)
        wait_for(lambda: relay.gauge("transactions_current") == 0, 30, "all transactions end")
        wait_for(lambda: relay.gauge("buffers_in_use") == 0, 30, "all buffers are given back")
        self.audit(relay, hops, entries)
        codes = collections.Counter(entry.code // 100 for entry in entries)
        self.assertGreater(codes[2], CLIENTS * MESSAGES // 5, codes)
        if share:
            self.assertGreater(codes[4] + codes[5], 10, codes)
            self.assertGreater(sum(faults.chosen.values()), 40)
        else:
            self.assertEqual(codes[4] + codes[5], 0, codes)
        for hop in hops:
            hop.off()

    def test_no_faults(self):
        self.run_with(1, 0, {})

    @seconds_max(120)
    def test_bursts(self):
        for seed in (2, 3):
            self.run_with(seed, 0.08, {})

    @seconds_max(120)
    def test_streams(self):
        for seed in (4, 5):
            self.run_with(seed, 0.08, {"delivery": {"buffer": "16kb"}})

    @seconds_max(120)
    def test_live(self):
        for seed in (6, 7):
            self.run_with(seed, 0.05, {"delivery": {"recipient_check": "next_hop",
                                                    "buffer": "64kb"}})

    @seconds_max(120)
    def test_tls(self):
        """Encrypted on both sides."""
        self.run_with(11, 0.05, {}, tls=True)
        self.run_with(12, 0.05, {"delivery": {"buffer": "16kb"}}, tls=True)

    @seconds_max(120)
    def test_deadlines(self):
        """Next hops that are slower than our deadlines."""
        self.run_with(10, 0.05, {"timeouts": {
            "greeting": "100ms", "mail": "100ms", "rcpt": "100ms", "data_initiation": "100ms",
            "data_end": "100ms", "quit": "100ms"}}, slow=0.3)

    @seconds_max(120)
    def test_few_connections_and_little_memory(self):
        for seed in (8, 9):
            self.run_with(seed, 0.05, {
                "delivery": {"buffer": "64kb"}, "limits": {"receive_memory": "4mb"},
                "next_hop": {"internal": {"connections": 2, "messages_per_connection": 7,
                                          "balance": "share"}}})
