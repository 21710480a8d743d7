#!/usr/bin/env python3
"""Puts the promise to the test: what was answered 250 arrives, whatever is killed in between.

usage: tests/system/torture.py [--minutes N] [--seed N] [--kills N]
Clients send numbered messages; the relay is killed and started again, with another number of
workers, another delivery mode; next hops refuse, defer, drop, stall. A ledger keeps what each client
was told and what each next hop took. At the end everything heals, the queue must empty, and the
books must balance (Auditor). One line of progress every few seconds; exit status 1: a promise was
broken. The seed draws who does what; when it happens is the machine's.
"""
import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import sys
import threading
import time
from typing import Any, Callable

import harness
from harness import Client, Default, Delay, Drop, NextHop, Relay, Reset, SLOW, stuffed, wait_for
from traffic import letter

SIZES = (100, 100, 300, 300, 1000, 4000, 4000, 20_000, 60_000, 90_000, 300_000, 600_000, 1_048_576)
DATA_END_SECONDS = 2.0
DRAIN_SECONDS = 3.0
# A mark is written with the next batch: so long after a delivery a kill may still undo it. Longer
# where the machine lets everybody wait: by so many times what a sleep was seen to be late.
MARK_SECONDS = 1.0 * SLOW
LATE_TIMES = 10
LATE_TICK_SECONDS = 0.02
NAME = re.compile(r"(?:\A|\.)(m\d+)@")


# --- the ledger ---

@dataclasses.dataclass
class Sent:
    """A message as its client knows it."""
    name: str
    digest: bytes
    size: int
    null: bool
    recipients: list[str] = dataclasses.field(default_factory=list)  # that were answered 250
    code: int = 0  # of the verdict; 0: the client heard none
    text: str = ""
    ended: float = 0.0


@dataclasses.dataclass
class Copy:
    """A message, or one refusal of it, as a next hop knows it. doubtful: the relay could not hear
    the verdict."""
    at: float
    id: str
    digest: bytes
    doubtful: bool
    after: float = 0.0  # so many seconds later the verdict was given
    begun: float = 0.0  # its MAIL was read: with BDAT the relay had sent all of it by then


class Ledger:
    def __init__(self):
        self.lock = threading.Lock()
        self.sent: dict[str, Sent] = {}
        self.copies: dict[tuple[str, str], list[Copy]] = collections.defaultdict(list)
        self.refusals: dict[tuple[str, str], list[Copy]] = collections.defaultdict(list)
        # Reports by what they speak of, each with its own digest.
        self.reports: dict[tuple[str, str], list[Copy]] = collections.defaultdict(list)
        self.strangers: list[str] = []
        self.received = 0
        self.kills: list[float] = []
        self.late: list[tuple[float, float]] = []  # when, by how much

    def killed_between(self, begin: float, end: float) -> bool:
        return any(begin <= at <= end for at in self.kills)

    def lateness(self, around: float) -> float:
        late = [by for at, by in self.late
                if around - MARK_SECONDS <= at <= around + 5 * MARK_SECONDS]
        return LATE_TIMES * max(late, default=0.0)

    def marked_by(self, heard: float) -> float:
        """When a verdict that was given at that time must be beyond any kill."""
        return heard + MARK_SECONDS + self.lateness(heard)


class Watch(threading.Thread):
    """How late this machine is."""

    def __init__(self, ledger: Ledger):
        super().__init__(daemon=True)
        self.ledger, self.stopped = ledger, threading.Event()

    def run(self) -> None:
        before = time.monotonic()
        while not self.stopped.wait(LATE_TICK_SECONDS):
            now = time.monotonic()
            by = now - before - LATE_TICK_SECONDS
            if by > LATE_TICK_SECONDS:
                self.ledger.late.append((now, by))
            before = now


def name_of(address: str) -> str:
    match = NAME.search(address)
    return match.group(1) if match else ""


# --- next hops ---

class Hop:
    """A NextHop whose mood changes; it writes down what it took before it says so."""
    MOODS = ("good", "good", "defers", "drops", "slow", "mixed", "mixed", "down", "gone")

    def __init__(self, ledger: Ledger, seed: int, label: str):
        self.ledger, self.label = ledger, label
        self.random = random.Random(f"{seed} {label}")
        self.mood = "good"
        self.latest: collections.deque[Copy] = collections.deque(maxlen=200)
        self.gone_at = 0.0
        self.hop = NextHop()
        for event in ("CONNECT", "EHLO", "MAIL", "DATA"):
            self.hop.on(event, lambda session, event=event: self.early(event, session))
        self.hop.on("RCPT", self.recipient)
        self.hop.on("END", self.end)
        self.hop.on("BODY", lambda _session: Drop if self.chance(0.02) else [], times=10 ** 9)

    def chance(self, share: float) -> bool:
        return self.mood != "good" and self.random.random() < share

    def change(self, mood: str | None = None) -> None:
        mood = mood or self.random.choice(self.MOODS)
        if mood in ("down", "gone") and self.hop.listener:
            self.hop.refuse()
            if mood == "gone":
                self.hop.disconnect()
                with self.ledger.lock:
                    self.gone_at = time.monotonic()
                    for copy in self.latest:
                        # Its verdict was not said yet, or is lost on its way.
                        if copy.at + copy.after > time.monotonic() - 0.2 * SLOW:
                            copy.doubtful = True
        elif mood not in ("down", "gone") and not self.hop.listener:
            self.hop.listen()
        self.mood = mood

    def share(self, mood: str) -> float:
        """How often it does what that mood is named after."""
        return 0.5 if self.mood == mood else 0.1 if self.mood == "mixed" else 0.0

    def early(self, event: str, session) -> Any:
        if event == "MAIL":
            session.mail_at = time.monotonic()
        if self.random.random() < self.share("defers") / 2:
            return "421 4.3.2 going" if event == "CONNECT" else "451 4.3.0 not now"
        if self.random.random() < self.share("drops") / 5:
            return self.random.choice((Drop, Reset, ["421 4.3.2 going", Drop]))
        if self.random.random() < self.share("slow") / 3:
            return [Delay(self.random.choice((0.05, 0.3))), Default]
        return Default

    def recipient(self, session) -> Any:
        address = path = session.commands[-1].split("<", 1)[1].split(">", 1)[0]
        if path.startswith("no"):
            self.refused(session.mail or "", [address])
            return "550 5.1.1 no such user"
        return self.early("RCPT", session)

    def refused(self, mail: str, recipients: list[str]) -> None:
        with self.ledger.lock:
            for address in recipients:
                self.ledger.refusals[name_of(address), address].append(
                    Copy(time.monotonic(), mail, b"", False))

    def end(self, session) -> Any:
        """The whole message is here: takes it or not, and says so or not."""
        message = session.answering
        report = message.sender == "" and b"multipart/report" in message.data[:4000]
        doubtful, taken, action, seconds = False, True, Default, 0.0
        draw = self.random.random()
        if draw < self.share("defers"):
            taken, action = False, self.random.choice(("451 4.3.0 later", "452 4.2.2 full",
                                                       "421 4.3.2 going"))
        elif draw < self.share("defers") + self.share("drops"):
            doubtful, taken = True, self.random.random() < 0.5
            action = self.random.choice((Drop, Reset))
        elif draw < self.share("defers") + self.share("drops") + self.share("slow"):
            seconds = self.random.choice((0.1, 0.8, 0.8, DATA_END_SECONDS + 1.5))
            doubtful = seconds * SLOW > DATA_END_SECONDS
            action = [Delay(seconds), Default]
        elif not report and self.chance(0.01):
            taken, action = False, "554 5.6.0 not that"
            self.refused(message.mail, message.recipients)
        copy = self.write_down(message, report, taken, doubtful)
        copy.after, copy.begun = seconds, session.mail_at
        with self.ledger.lock:
            self.latest.append(copy)
            copy.doubtful |= time.monotonic() - self.gone_at < 0.5 * SLOW
        message.wire = b""  # a long run would keep them all
        return action

    def write_down(self, message, report: bool, taken: bool, doubtful: bool) -> Copy:
        ledger, data = self.ledger, message.data
        if report:
            return self.write_report(message, data, taken, doubtful)
        field = harness.RECEIVED.match(data)
        rest = data[field.end():] if field else data
        copy = Copy(time.monotonic(), field["id"].decode() if field else "?",
                    hashlib.sha256(rest).digest(), doubtful)
        with ledger.lock:
            ledger.received += 1
            for address in message.recipients if taken else ():
                ledger.copies[name_of(address), address].append(copy)
                if not field:
                    ledger.strangers.append(f"no Received: field in {name_of(address)}: "
                                            f"{data[:200]!r}")
        return copy

    def write_report(self, message, data: bytes, taken: bool, doubtful: bool) -> Copy:
        ledger = self.ledger
        about = re.findall(rb"(?im)^Final-Recipient: rfc822; ?(\S+)\r$", data)
        copy = Copy(time.monotonic(), "report", hashlib.sha256(data).digest(), doubtful)
        with ledger.lock:
            if taken and (not about or not name_of(message.recipients[0])):
                ledger.strangers.append(f"a report to {message.recipients} about {about}")
            for one in about if taken else ():
                address = one.decode()
                if name_of(address) != name_of(message.recipients[0]):
                    ledger.strangers.append(f"{message.recipients} was told of {address}")
                ledger.reports[name_of(address), address].append(copy)
        return copy


# --- clients ---

class Sender(threading.Thread):
    """Sends one message after the other, and writes down what it is told."""

    def __init__(self, torture: "Torture", number: int):
        super().__init__(daemon=True)
        self.torture, self.number = torture, number
        self.random = random.Random(f"{torture.seed} client {number}")
        self.client: Client | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.torture.over.is_set():
                self.one()
        except BaseException as error:  # pylint: disable=broad-except
            self.error = error
        finally:
            if self.client:
                self.client.close()

    def connect(self) -> None:
        if self.client and self.random.random() < 0.8:
            return
        if self.client:
            self.client.close()
            self.client = None
        client = Client(self.torture.relay, seconds=60)
        client.ehlo()
        self.client = client

    def one(self) -> None:
        try:
            self.connect()
        except (OSError, EOFError, AssertionError):  # also 421: it is stopping
            time.sleep(0.03)
            return
        number = self.torture.number()
        name = f"m{number}"
        data = letter(self.random.choice(SIZES), name)
        sent = Sent(name, hashlib.sha256(data).digest(), len(data), self.random.random() < 0.1)
        with self.torture.ledger.lock:
            self.torture.ledger.sent[name] = sent
        try:
            self.transaction(sent, data)
        except (OSError, EOFError):
            self.client.close()
            self.client = None
        sent.ended = time.monotonic()
        time.sleep(self.random.choice((0, 0, 0.01, 0.05)))

    def addresses(self, name: str) -> list[str]:
        found = []
        for number in range(self.random.choice((1, 1, 1, 2, 3, 5))):
            kind = "no" if self.random.random() < 0.05 else "r"
            domain = self.random.choice(("a.example", "a.example", "a.example", "b.example"))
            found.append(f"{kind}{number}.{name}@{domain}")
        return found

    def transaction(self, sent: Sent, data: bytes) -> None:
        client = self.client
        sender = "" if sent.null else f"{sent.name}@a.example"
        size = f" SIZE={len(data)}" if self.random.random() < 0.5 else ""
        reply = client.command(f"MAIL FROM:<{sender}>{size}")
        if reply.code != 250:
            self.verdict(sent, reply)
            return
        for address in self.addresses(sent.name):
            if client.command(f"RCPT TO:<{address}>").code == 250:
                sent.recipients.append(address)
        if not sent.recipients:
            client.command("RSET")
            return
        if self.random.random() < 0.3:
            reply = self.chunks(data)
        else:
            reply = client.command("DATA")
            if reply.code == 354:
                client.send(stuffed(data))
                reply = client.reply()
        self.verdict(sent, reply)

    def chunks(self, data: bytes):
        client, half = self.client, len(data) // 2
        client.send(b"BDAT %d\r\n" % half + data[:half])
        client.send(b"BDAT %d LAST\r\n" % (len(data) - half) + data[half:])
        first, last = client.reply(), client.reply()
        return last if first.code == 250 else first

    def verdict(self, sent: Sent, reply) -> None:
        sent.ended = time.monotonic()
        sent.code, sent.text = reply.code, str(reply)
        if reply.code != 250:
            self.client.command("RSET")


# --- the books ---

class Auditor:
    def __init__(self, ledger: Ledger, ambiguous: set[str]):
        self.ledger, self.ambiguous = ledger, ambiguous
        self.wrong: list[str] = []
        self.lost = self.duplicates = self.doubtful_duplicates = self.bounces = 0
        self.codes: collections.Counter = collections.Counter()

    def audit(self) -> "Auditor":
        ledger = self.ledger
        self.wrong += ledger.strangers
        for sent in ledger.sent.values():
            self.codes[sent.code // 100] += 1
            for address in sent.recipients:
                self.recipient(sent, address)
        for (name, address), copies in ledger.copies.items():
            sent = ledger.sent.get(name)
            if sent is None:
                self.wrong.append(f"{address}: nobody sent it that")
                continue
            for copy in copies:
                if copy.digest != sent.digest:
                    self.wrong.append(f"{address}: other octets arrived (id {copy.id}, "
                                      f"{sent.size} octets were sent)")
            if address not in sent.recipients and sent.code:
                self.wrong.append(f"{address}: arrived, but its RCPT was refused")
            self.repeated(f"message to {address}", copies)
        for (name, address), copies in ledger.reports.items():
            self.report(name, address, copies)
        return self

    def recipient(self, sent: Sent, address: str) -> None:
        ledger, key = self.ledger, (sent.name, address)
        copies, refusals = ledger.copies.get(key, []), ledger.refusals.get(key, [])
        reports = ledger.reports.get(key, [])
        what = f"{address} ({sent.size} octets, null={sent.null}, answered {sent.text!r})"
        if sent.code == 250:
            if not copies and not refusals:
                self.lost += 1
                self.wrong.append(f"LOST: {what}")
            elif not copies and not sent.null and not reports:
                self.lost += 1
                self.wrong.append(f"refused, and nobody was told: {what}")
        elif sent.code:
            # Told by a client that heard a verdict: only what was in doubt, or a kill, explains it.
            for copy in copies:
                begun = min(copy.begun, copy.at) - MARK_SECONDS
                if not copy.doubtful and not ledger.killed_between(begun,
                                                                   ledger.marked_by(copy.at)) \
                        and not ledger.killed_between(sent.ended - MARK_SECONDS, copy.at):
                    self.wrong.append(f"arrived, but was refused: {what} id {copy.id}")

    def repeated(self, what: str, copies: list[Copy]) -> None:
        """Each copy but the first needs a reason in the one before it."""
        for before, copy in zip(copies, copies[1:]):
            self.duplicates += 1
            heard = before.at + min(before.after, DATA_END_SECONDS)  # by then the relay knew
            # What came in one group is taken by a busy next hop although the relay is gone by then.
            begun = min(before.begun, before.at) - 0.05 - self.ledger.lateness(before.begun)
            if self.ledger.killed_between(begun, self.ledger.marked_by(heard)):
                continue
            # A body that waits in the kernel for a busy next hop: the relay counts from when it was
            # sent, and had given up, and said so, when a slow verdict came.
            given_up = before.after > 0 and before.id in self.ambiguous
            if not before.doubtful and not given_up:
                self.wrong.append(f"{what}: twice for no reason, id {before.id} and {copy.id}, "
                                  f"{copy.at - before.at:.2f} s apart")
                continue
            self.doubtful_duplicates += 1
            if before.id not in self.ambiguous and before.id != "report":
                self.wrong.append(f"{what}: twice, and id {before.id} was not logged as ambiguous")

    def report(self, name: str, address: str, copies: list[Copy]) -> None:
        ledger = self.ledger
        sent = ledger.sent.get(name)
        refusals = ledger.refusals.get((name, address), [])
        self.bounces += 1
        if sent is None or sent.null or not refusals:
            self.wrong.append(f"a report about {address}, of which there is nothing to tell")
            return
        if sent.code not in (0, 250) and not ledger.killed_between(sent.ended - MARK_SECONDS,
                                                                   copies[0].at):
            self.wrong.append(f"a report about {address}, whose client was answered {sent.text}")
        by_digest: dict[bytes, list[Copy]] = collections.defaultdict(list)
        for copy in copies:
            by_digest[copy.digest].append(copy)
        for same in by_digest.values():
            self.repeated(f"report about {address}", same)
        if len(by_digest) > 1 and not ledger.killed_between(refusals[0].at - 0.05,
                                                            refusals[-1].at):
            self.wrong.append(f"{len(by_digest)} reports about {address}, and no kill")


# --- the run ---

class Torture:
    """seconds: how long; kills: no end before so many. say: where progress goes."""

    def __init__(self, seed: int, seconds: float, kills: int = 0, clients: int = 6,
                 say: Callable[[str], None] = lambda _line: None):
        self.seed, self.seconds, self.kills_min, self.say = seed, seconds, kills, say
        self.random = random.Random(f"{seed} master")
        self.ledger = Ledger()
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        self.stops = 0
        self.log_at = 0
        self.ambiguous: set[str] = set()
        self.doubts: collections.Counter = collections.Counter()  # in this life, by event
        self.problems: list[str] = []
        self.hops = {label: Hop(self.ledger, seed, label) for label in ("a", "spare", "b")}
        self.relay = Relay(config=self.config(), start=False)
        self.clients = [Sender(self, number) for number in range(clients)]
        self.auditor: Auditor | None = None

    def config(self) -> dict:
        servers = {label: hop.hop.server for label, hop in self.hops.items()}
        hop = {"tls": "none", "connections": 16}
        return {
            "workers": 2,
            "delivery": {"mode": "spool", "on_defer": "spool", "patience": "500ms",
                         "buffer": "64kb"},
            "spool": {"retry": ["1s"], "minimum_free": "1mb", "segment": "1mb"},
            "timeouts": {"server_retry": "100ms", "server_retry_max": "500ms", "connect": "2s",
                         "greeting": "2s", "mail": "2s", "rcpt": "2s", "data_initiation": "2s",
                         "data_end": f"{DATA_END_SECONDS:g}s", "drain": f"{DRAIN_SECONDS:g}s"},
            "next_hop": {"internal": None, "a": {"servers": [servers["a"], servers["spare"]],
                                                 **hop},
                         "b": {"servers": [servers["b"]], **hop}},
            "route": {"*": None, "a.example": "a", "b.example": "b"},
        }

    def number(self) -> int:
        with self.lock:
            self.count += 1
            return self.count

    # --- the relay's lives ---

    def look_at_log(self) -> None:
        """What was added to it since; what must never be in it ends the run."""
        with self.relay.stderr.open("rb") as file:
            file.seek(self.log_at)
            data = file.read()
        data = data[:data.rfind(b"\n") + 1]
        self.log_at += len(data)
        for line in data.decode(errors="replace").splitlines():
            if any(mark in line for mark in harness.SANITIZER_MARKS):
                self.problems.append(line)
            if '"ambiguous"' not in line and '"error"' not in line:
                continue
            event = json.loads(line)
            if event.get("status") == "ambiguous":
                self.ambiguous.add(event["id"])
                self.doubts[event["event"]] += 1
            if event.get("level") == "error":
                self.problems.append(line)

    def life_ends(self) -> None:
        if self.relay.process.poll() is not None:
            raise AssertionError(f"the relay ended by itself with {self.relay.process.returncode}:"
                                 f"\n{self.relay.stderr_text()[-5000:]}")
        self.look_at_log()
        self.compare_doubts("delivery")
        if self.random.random() < 0.2:
            before = time.monotonic()
            self.relay.stop()
            self.stops += 1
            # A drain that took all of its time ended by force: that is a kill.
            if time.monotonic() - before >= DRAIN_SECONDS:
                with self.ledger.lock:
                    self.ledger.kills += [before, time.monotonic()]
        else:
            self.relay.kill()
            with self.ledger.lock:
                self.ledger.kills.append(time.monotonic())
        self.look_at_log()
        self.relay.rewrite({"workers": self.random.randint(1, 4), "delivery": {
            "mode": self.random.choice(("spool", "cut-through")),
            "buffer": self.random.choice(("16kb", "64kb", "256kb"))}})
        self.doubts.clear()
        self.relay.start()

    def compare_doubts(self, *events: str) -> None:
        """What may arrive twice is counted by the relay: at least what it has logged."""
        logged = sum(self.doubts[event] for event in events)
        counted = self.relay.metrics()["ringpost_queue_duplicate_risk_total"]
        if counted < logged:
            self.problems.append(f"{logged} were logged as ambiguous, {counted:g} are counted as "
                                 "ringpost_queue_duplicate_risk_total")

    def queued(self) -> int:
        return int(sum(value for name, value in self.relay.metrics().items()
                       if name.startswith("ringpost_queue_messages{")))

    def progress(self, begun: float) -> None:
        ledger = self.ledger
        with ledger.lock:
            extra = sum(len(copies) - 1 for copies in ledger.copies.values())
            self.say(f"{time.monotonic() - begun:5.0f} s: {len(ledger.kills)} kills, {self.stops} "
                     f"stops, {len(ledger.sent)} messages sent, {ledger.received} received, "
                     f"{extra} duplicates, {len(self.problems)} problems")

    def run(self) -> Auditor:
        watch = Watch(self.ledger)
        watch.start()
        try:
            self.relay.start()
            for client in self.clients:
                client.start()
            begun = said = time.monotonic()
            while time.monotonic() - begun < self.seconds or \
                    len(self.ledger.kills) < self.kills_min:
                for _ in range(self.random.choice((1, 1, 2, 4))):
                    time.sleep(self.random.uniform(0.05, 0.8) * min(SLOW, 1.3))
                    self.random.choice(list(self.hops.values())).change()
                self.life_ends()
                if time.monotonic() - said > 5:
                    said = time.monotonic()
                    self.progress(begun)
                if self.problems:
                    break
            self.settle(begun)
        finally:
            self.over.set()
            watch.stopped.set()
            self.relay.kill()
            for hop in self.hops.values():
                hop.hop.close()
        return self.auditor

    def settle(self, begun: float) -> None:
        """Everything heals: the queue empties, a stop is in order, nothing is left behind."""
        for hop in self.hops.values():
            hop.change("good")
            hop.hop.release()
        self.over.set()
        for client in self.clients:
            client.join(90 * SLOW)
            if client.is_alive():
                self.problems.append(f"client {client.number} waits for ever")
            if client.error:
                self.problems.append(f"client {client.number}: {client.error!r}")
        try:
            wait_for(lambda: self.queued() == 0, 60, "the queue empties")
            wait_for(lambda: self.relay.gauge("transactions_current") == 0, 30, "no transactions")
            wait_for(lambda: self.relay.gauge("buffers_in_use") == 0, 30, "no buffers in use")
        except AssertionError as error:
            held = {name: value for name, value in self.relay.metrics().items()
                    if "queue_messages" in name and value}
            self.problems.append(f"{error}: {held}")
        self.look_at_log()
        self.compare_doubts("delivery", "attempt")
        self.relay.stop()
        self.look_at_log()
        left = [path.name for path in (self.relay.folder / "spool").glob("*.body")]
        if left:
            self.problems.append(f"bodies are left: {left}")
        self.relay.start()
        wait_for(lambda: len(self.relay.events("queue_recovered")) > 0, 10, "recovery")
        if not self.problems and self.queued():
            self.problems.append("after the last stop the queue was not empty")
        self.relay.stop()
        self.look_at_log()
        self.auditor = Auditor(self.ledger, self.ambiguous).audit()
        for hop in self.hops.values():
            self.problems += hop.hop.faults[:5]
        self.explain()
        self.progress(begun)

    def explain(self) -> None:
        """What the relay said of the messages that something is wrong with."""
        ids = {found for line in self.auditor.wrong[:5]
               for found in re.findall(r"\b[0-9B-Zb]{13}\b", line)}
        for line in self.relay.log():
            if any(one in line for one in ids):
                print(line[:400], file=sys.stderr)

    def summary(self) -> str:
        found, ledger = self.auditor, self.ledger
        return (f"seed {self.seed}: {len(ledger.kills)} kills, {self.stops} stops, "
                f"{len(ledger.sent)} messages (2xx {found.codes[2]}, 4xx {found.codes[4]}, "
                f"5xx {found.codes[5]}, no verdict {found.codes[0]}), {ledger.received} received, "
                f"{found.bounces} bounces, {found.duplicates} duplicates "
                f"({found.doubtful_duplicates} of them in doubt, the others at a kill), "
                f"{found.lost} lost, {len(found.wrong) + len(self.problems)} faults")


def main() -> int:
    parser = argparse.ArgumentParser(description="Puts the promise to the test.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    arguments = parser.parse_args()
    torture = Torture(arguments.seed, arguments.minutes * 60, arguments.kills,
                      say=lambda line: print(line, flush=True))
    print(f"torture of {harness.BINARY}, seed {arguments.seed}, in {torture.relay.folder}")
    try:
        found = torture.run()
    finally:
        torture.relay.kill()
    for line in (found.wrong + torture.problems)[:40]:
        print(line)
    print(torture.summary())
    bad = bool(found.wrong or torture.problems)
    if not bad and not arguments.keep:
        shutil.rmtree(torture.relay.folder, ignore_errors=True)
    else:
        print(f"repeat with --seed {arguments.seed}; kept: {torture.relay.folder}")
    for holder in torture.relay.holders:
        holder.close()
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
