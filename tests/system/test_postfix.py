"""Postfix on both sides: what it queues must arrive, what it says must be passed on."""
import contextlib
import mailbox
import os
import pathlib
import pwd
import random
import re
import subprocess
import time

from harness import (NextHop, SLOW, SystemTest, certificates, find_tool, is_listening,
                     reserve_port, seconds_max, stuffed, wait_for)
from postfix import Postfix

BODY = b"From: a@example.net\r\nSubject: by Postfix\r\n\r\nline\r\n.\r\n..dots\r\nend\r\n"


def generated(octets: int) -> bytes:
    """A message of short lines, dots included; no line that Postfix would fold."""
    rng = random.Random(octets)
    lines = [b"Subject: generated", b""]
    size = 0
    while size < octets:
        line = b"." * rng.choice((0, 0, 0, 1, 2)) + b"%x" % rng.getrandbits(4 * rng.randint(1, 200))
        lines.append(line)
        size += len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


class PostfixTest(SystemTest):

    def postfix(self, settings: dict[str, str], **options) -> Postfix:
        postfix = Postfix(settings, **options)
        self.addCleanup(postfix.close)
        self.addCleanup(lambda: print(f"--- Postfix\n{postfix.log()[-4000:]}")
                        if self._has_failed() else None)
        return postfix.start()


class AsClient(PostfixTest):
    """Mail that Postfix has taken goes out by its smtp client to the relay."""

    def through(self, hop: NextHop, edge_tls: str | None, settings: dict[str, str],
                messages: list[bytes], sender: str = "a@example.net", parameters: str = ""):
        self.edge = self.relay(hop, {"workers": 2}, tls=edge_tls)
        self.mta = self.postfix({"relayhost": f"[127.0.0.1]:{self.edge.port}",
                                 "smtp_tls_CAfile": certificates().ca,
                                 "smtp_tls_loglevel": "1", **settings})
        client = self.client(self.mta.port)
        client.ehlo()
        for data in messages:
            reply = client.message(data, sender=sender, parameters=parameters)
            self.assertEqual(reply, 250)
        client.quit()

    def check(self, hop: NextHop, messages: list[bytes]) -> None:
        end = time.monotonic() + 40 * SLOW
        while len(hop.messages) < len(messages) and time.monotonic() < end:
            with contextlib.suppress(AssertionError):
                hop.wait_messages(len(messages), 3)
            self.mta.flush()  # what was deferred by chance may wait for minutes
        # Postfix adds its own Received: field before ours does; the rest is as it went in.
        arrived = []
        for message in hop.messages:
            at = re.match(rb"Received: (?:[^\r]+\r\n)(?:[ \t][^\r]+\r\n)*", message.data).end()
            field = message.data[:at]
            self.assertIn(b"by edge.test", field)
            rest = message.data[at:]
            theirs = re.match(rb"Received: (?:[^\r]+\r\n)(?:[ \t][^\r]+\r\n)*", rest).end()
            arrived.append(rest[theirs:])
        self.assertEqual(sorted(arrived), sorted(messages))
        wait_for(lambda: self.mta.queue() == 0, 20, "Postfix's queue is empty")

    @staticmethod
    def letter(number: int, octets: int) -> bytes:
        # With what Postfix would add otherwise.
        return (b"Date: Sun, 22 Nov 2026 00:00:00 +0000\r\nFrom: a@example.net\r\n"
                b"Message-Id: <%d@example.net>\r\n" % number + generated(octets))

    def test_plain(self):
        hop = self.next_hop()
        messages = [self.letter(i, 2000 * i) for i in range(30)]
        self.through(hop, None, {"smtp_tls_security_level": "none"}, messages)
        self.check(hop, messages)

    def test_encrypted_and_verified(self):
        hop = self.next_hop(tls=certificates().hop)
        messages = [self.letter(i, 2000 * i) for i in range(20)]
        self.through(hop, "starttls", {"smtp_tls_security_level": "secure",
                                       "smtp_tls_secure_cert_match": "localhost"}, messages)
        self.check(hop, messages)
        self.assertIn("Verified TLS connection established", self.mta.log())

    def test_implicit_tls(self):
        hop = self.next_hop()
        messages = [self.letter(i, 3000) for i in range(5)]
        self.through(hop, "implicit", {"smtp_tls_security_level": "encrypt",
                                       "smtp_tls_wrappermode": "yes"}, messages)
        self.check(hop, messages)

    def test_large(self):
        hop = self.next_hop()
        messages = [self.letter(i, 3 << 20) for i in range(3)]
        self.through(hop, "starttls", {"smtp_tls_security_level": "may"}, messages)
        self.check(hop, messages)

    def test_smtputf8_and_dsn(self):
        hop = self.next_hop()
        messages = [self.letter(1, 500) + "Grüße\r\n".encode()]
        self.through(hop, None, {}, messages, sender="jürgen@example.net",
                     parameters=" SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=QQ314159")
        self.check(hop, messages)
        message = hop.messages[0]
        self.assertEqual(message.sender, "jürgen@example.net")
        for parameter in ("SMTPUTF8", "RET=HDRS", "ENVID=QQ314159"):
            self.assertIn(parameter, message.mail_parameters)

    def test_deferred_then_delivered(self):
        """4xx of the next hop stays 4xx: Postfix keeps the message and tries again."""
        hop = self.next_hop()
        hop.on("END", "451 4.3.0 try again later", times=2)
        messages = [self.letter(1, 5000)]
        self.through(hop, None, {}, messages)
        self.mta.wait_log("451 4.3.0 try again later")
        self.check(hop, messages)
        self.assertEqual(len(hop.received), 3)

    def test_next_hop_down_then_up(self):
        hop = self.next_hop()
        hop.refuse()
        messages = [self.letter(1, 5000), self.letter(2, 1 << 20)]
        self.through(hop, None, {}, messages)
        self.mta.wait_log("status=deferred", 2)
        self.assertEqual(self.mta.log().count("status=bounced"), 0)
        hop.listen()
        self.check(hop, messages)

    def test_refusal_makes_a_bounce(self):
        """5xx of the next hop is Postfix's to report: with our text in the report."""
        hop = self.next_hop()
        hop.on("END", "554 5.7.1 policy says no", times=1)
        self.through(hop, None, {}, [self.letter(1, 5000)])
        self.mta.wait_log("status=bounced")
        hop.wait_messages(1)
        self.assertEqual(hop.messages[0].sender, "")
        self.assertIn(b"policy says no", hop.messages[0].data)

    def test_refused_recipient_alone(self):
        """With recipient_check one bad recipient of many is refused, the others get the message."""
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 nobody here", match="nobody@")
        edge = self.relay(hop, {"delivery": {"recipient_check": "next_hop"}})
        mta = self.postfix({"relayhost": f"[127.0.0.1]:{edge.port}"})
        client = self.client(mta.port)
        client.ehlo()
        self.assertEqual(client.message(BODY, recipients=[
            "x@example.com", "nobody@example.com", "y@example.com"]), 250)
        mta.wait_log("status=sent", 2)
        mta.wait_log("status=bounced", 1)
        self.assertEqual(hop.messages[0].recipients, ["x@example.com", "y@example.com"])

    @seconds_max(180)
    def test_load_with_tls_and_reuse(self):
        """A queue of 300 messages through up to 20 connections at once."""
        hop = self.next_hop(tls=certificates().hop)
        messages = [self.letter(i, 100 + 37 * i) for i in range(300)]
        self.through(hop, "starttls", {"smtp_tls_security_level": "encrypt",
                                       "smtp_connection_cache_on_demand": "yes"}, messages)
        self.check(hop, messages)
        self.assertLess(len(hop.sessions), 300)


class AsNextHop(PostfixTest):
    """The relay's next hop is Postfix, which files what it gets into Maildirs."""

    def start(self, hop_tls: str = "none", settings: dict[str, str] | None = None,
              edge_tls: str | None = None, changes: dict | None = None) -> None:
        owner = pwd.getpwnam("postfix")
        self.store = self.folder()
        self.store.parent.joinpath(self.store.name).chmod(0o755)
        self.mails = self.store / "mail"
        self.mails.mkdir()
        os.chown(self.mails, owner.pw_uid, owner.pw_gid)
        self.mta = self.postfix({
            "virtual_mailbox_domains": "example.com", "virtual_mailbox_base": str(self.mails),
            "virtual_mailbox_maps": "static:box/", "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}", "virtual_minimum_uid": "1",
            "virtual_mailbox_limit": "0",
            "smtpd_relay_restrictions": "reject_unauth_destination",
            "smtpd_tls_cert_file": certificates().hop.certificate,
            "smtpd_tls_key_file": certificates().hop.key,
            "smtpd_tls_security_level": "none" if hop_tls == "none" else "may",
            **(settings or {})})
        self.edge = self.relay(None, {
            "workers": 2,
            "next_hop": {"internal": {"servers": self.mta.server, "tls": hop_tls,
                                      **({"ca": certificates().ca, "tls_name": "hop.test"}
                                         if hop_tls == "verify" else {})}},
            **(changes or {})}, tls=edge_tls)

    def delivered(self, count: int) -> list[bytes]:
        """The messages, with CRLF, without the fields that Postfix and the relay put first."""
        self.mta.wait_log("status=sent", count, 40)
        found = []
        box = mailbox.Maildir(self.mails / "box", create=False)
        for key in box.keys():
            data = box.get_bytes(key).replace(b"\n", b"\r\n")
            match = re.match(rb"(?:(?:Return-Path|Delivered-To|X-Original-To|Received):[^\r]*\r\n"
                             rb"(?:[ \t][^\r]*\r\n)*)*", data)
            self.assertEqual(match.group(0).count(b"by edge.test"), 1, data[:500])
            found.append(data[match.end():])
        return found

    def versions(self) -> set[str]:
        return {event["server_tls"] for event in self.edge.events("message")}

    def letters(self, sizes) -> list[bytes]:
        return [b"Date: Sun, 22 Nov 2026 00:00:00 +0000\r\nFrom: a@example.net\r\n"
                b"Message-Id: <%d@example.net>\r\n" % i + generated(size)
                for i, size in enumerate(sizes)]

    def send(self, messages: list[bytes], tls: bool = False) -> None:
        client = self.client(self.edge)
        client.ehlo()
        if tls:
            client.starttls()
        for number, data in enumerate(messages):
            send = client.chunked if number % 2 else client.message
            self.assertEqual(send(data), 250)
        client.quit()

    def test_plain(self):
        self.start()
        messages = self.letters([0, 100, 5000, 16384, 262144, 300000, 2 << 20, 2 << 20])
        self.send(messages)
        self.assertEqual(sorted(self.delivered(8)), sorted(messages))
        # The pooled connection was used again.
        self.assertLess(self.mta.log().count(": connect from"), 3)

    def test_without_chunking(self):
        self.start(settings={"smtpd_discard_ehlo_keywords": "chunking"})
        messages = self.letters([0, 100, 5000, 16384, 262144, 300000, 2 << 20, 2 << 20])
        self.send(messages)
        self.assertEqual(sorted(self.delivered(8)), sorted(messages))

    def test_without_any_extension(self):
        self.start(settings={"smtpd_discard_ehlo_keywords":
                             "pipelining,size,vrfy,etrn,enhancedstatuscodes,8bitmime,dsn,smtputf8,"
                             "chunking"})
        messages = self.letters([0, 5000, 300000])
        self.send(messages)
        self.assertEqual(sorted(self.delivered(3)), sorted(messages))

    def test_verified_tls(self):
        self.start("verify", {"smtpd_tls_loglevel": "1", "smtpd_tls_received_header": "yes"},
                   "starttls")
        messages = self.letters([100, 100000, 500000])
        self.send(messages, tls=True)
        self.assertEqual(sorted(self.delivered(3)), sorted(messages))
        self.assertIn("TLS connection established from", self.mta.log())
        self.assertEqual(self.versions(), {"TLSv1.3"})

    def test_tls_1_2_server(self):
        self.start("require", {"smtpd_tls_protocols": "<=TLSv1.2",
                               "smtpd_tls_mandatory_protocols": "<=TLSv1.2"})
        messages = self.letters([100, 500000])
        self.send(messages)
        self.assertEqual(sorted(self.delivered(2)), sorted(messages))
        self.assertEqual(self.versions(), {"TLSv1.2"})

    def test_its_refusals_are_told(self):
        self.start(changes={"delivery": {"recipient_check": "next_hop"}})
        client = self.client(self.edge)
        client.ehlo()
        client.command("MAIL FROM:<a@example.net>", 250)
        reply = client.command("RCPT TO:<x@elsewhere.test>")
        self.assertEqual((reply.code, reply.enhanced), (554, "5.7.1"))
        self.assertIn("Relay access denied", reply.text)
        client.command("RCPT TO:<b@example.com>", 250)
        client.data(stuffed(BODY))
        self.assertEqual(client.reply(), 250)
        self.mta.wait_log("status=sent")

    def test_message_too_large_for_it(self):
        self.start(settings={"message_size_limit": "200000"})
        client = self.client(self.edge)
        client.ehlo()
        for send in (client.message, client.chunked):
            for size in (250000, 2000000):
                with self.subTest(send=send.__name__, size=size):
                    reply = send(self.letters([size])[0])
                    self.assertEqual((reply.code, reply.enhanced), (552, "5.3.4"), reply)
        self.assertEqual(client.message(self.letters([100])[0]), 250)
        self.assertEqual(len(self.delivered(1)), 1)

    def test_hard_error_limit(self):
        """Postfix says 421 and hangs up in the middle: the next message finds a new connection."""
        self.start(settings={"smtpd_hard_error_limit": "1"},
                   changes={"workers": 1, "delivery": {"recipient_check": "next_hop"}})
        client = self.client(self.edge)
        client.ehlo()
        for _ in range(3):
            client.command("MAIL FROM:<a@example.net>", 250)
            self.assertIn(client.command("RCPT TO:<x@elsewhere.test>").code // 100, (4, 5))
            client.command("RSET", 250)
        self.assertEqual(client.message(self.letters([100])[0]), 250)
        self.assertEqual(len(self.delivered(1)), 1)

    @seconds_max(180)
    def test_many_senders(self):
        """smtp-source -> relay -> Postfix, which accepts and discards."""
        self.start(settings={"virtual_transport": "discard:"})
        source = find_tool("smtp-source")
        done = subprocess.run([source, "-s", "20", "-m", "500", "-l", "4000", "-f", "a@example.net",
                               "-t", "b@example.com", f"127.0.0.1:{self.edge.port}"],
                              capture_output=True, text=True, timeout=120 * SLOW, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.edge.counter("messages_accepted"), 500)
        self.mta.wait_log("status=sent", 500, 60)


class SourceAndSink(SystemTest):
    """Postfix's load tools, without Postfix."""

    def sink(self, *arguments: str) -> tuple[int, pathlib.Path]:
        holder = reserve_port()
        self.addCleanup(holder.close)
        port = holder.getsockname()[1]
        where = self.folder()
        where.chmod(0o777)
        process = subprocess.Popen(
            [find_tool("smtp-sink"), "-u", "nobody", "-R", str(where), "-d", "%M.", *arguments,
             f"127.0.0.1:{port}", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        wait_for(lambda: is_listening(port), 10, "smtp-sink listens")
        return port, where

    def source(self, port: int, *arguments: str) -> None:
        done = subprocess.run([find_tool("smtp-source"), *arguments, f"127.0.0.1:{port}"],
                              capture_output=True, text=True, timeout=80 * SLOW, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)

    def run_load(self, messages: int, sink: tuple[str, ...], source: tuple[str, ...]) -> None:
        port, where = self.sink(*sink)
        relay = self.relay(None, {"workers": 2, "next_hop": {
            "internal": {"servers": f"127.0.0.1:{port}"}}})
        self.source(relay.port, "-m", str(messages), *source)
        self.assertEqual(relay.counter("messages_accepted"), messages)
        files = [path.read_bytes() for path in where.iterdir()]
        self.assertEqual(sum(data.count(b"by edge.test") for data in files), messages)

    def test_many(self):
        self.run_load(1000, (), ("-s", "50", "-l", "10000"))

    def test_new_connection_each(self):
        self.run_load(300, (), ("-s", "10", "-d", "-l", "1000"))

    def test_helo_only(self):
        self.run_load(100, ("-E",), ("-s", "5"))

    def test_no_pipelining(self):
        self.run_load(100, ("-p",), ("-s", "5", "-l", "300000"))

    def test_many_recipients(self):
        self.run_load(20, (), ("-s", "5", "-r", "500"))
