"""What a client hears is what the next hop said, and mail arrives once or not at all."""
import os
import threading

from harness import (Default, Delay, Drop, EXTENSIONS, Raw, Reset, Stall, SystemTest, stuffed,
                     wait_for)
from traffic import LETTER, deliver, letter, together

BY_DATA = {"next_hop": {"internal": {"chunking": False}}}
CHECK = {"delivery": {"recipient_check": "next_hop"}}
STREAM = {"delivery": {"buffer": "16kb"}}
PACE = 1 << 20
# Whether a multishot receive stops after 33 buffers, or goes on as long as there are any: measured
# with 6.12 and 6.18, which stop, with 6.1 and 7.3, which go on.
FILLS_FEW = (6, 12) <= tuple(int(part) for part in os.uname().release.split(".")[:2]) <= (6, 18)


def without(*names: str) -> tuple[str, ...]:
    """The extensions of a next hop but these."""
    return tuple(one for one in EXTENSIONS if one.split()[0] not in names)


class Verdicts(SystemTest):
    """One recipient: whatever the next hop says, at any point, is the reply to the end of data."""

    def verdicts(self, rows, config=None):
        """rows: (where, what the next hop says, what the client hears, in all its lines). With
        DATA, and what is not about DATA the same by BDAT in one group with MAIL and RCPT."""
        self.verdicts_of([row for row in rows if row[0] != "DATA"], config, self.next_hop())
        return self.verdicts_of(rows, config, self.next_hop(extensions=without("CHUNKING")))

    def verdicts_of(self, rows, config, hop):
        relay = self.relay(hop, config)
        for where, said, heard in rows:
            with self.subTest(where=where, said=said, extensions=hop.extensions):
                hop.off()
                if "CHUNKING" in hop.extensions:
                    self.assertEqual(deliver(relay), 250)  # a kept connection
                hop.on(where, said)
                before = len(hop.messages)
                self.assertEqual(deliver(relay).lines, heard)
                self.assertEqual(len(hop.messages), before + (heard[0][:1] == "2"))
        return hop, relay

    def test_told_as_they_are(self):
        rows = [
            (where, f"{code} {enhanced} {text}", [f"{code} {enhanced} {text}"])
            for where in ("MAIL", "RCPT", "DATA", "END")
            for code, enhanced, text in (
                (450, "4.2.0", "greylisted, see https://example.com/?a=1&b=2"),
                (451, "4.7.1", "not now"),
                (452, "4.2.2", "over quota"),
                (550, "5.7.1", "policy says no"),
                (554, "5.7.0", "this smells"),
                (571, "5.7.1", "a code of nobody's RFC"))]
        rows += [
            ("RCPT", "550 5.1.1 no such user", ["550 5.1.1 no such user"]),
            ("MAIL", "553 5.1.8 bad sender", ["553 5.1.8 bad sender"]),
            ("END", "250 2.0.0 queued as 4XyZ", ["250 2.0.0 queued as 4XyZ"]),
            ("END", "250 2.6.0 <id@example.net> taken", ["250 2.6.0 <id@example.net> taken"]),
            ("END", "552 5.3.4 too big", ["552 5.3.4 too big"]),
            ("MAIL", "552 5.3.4 too big", ["552 5.3.4 too big"])]
        _, relay = self.verdicts(rows)
        counters = relay.stats()["counters"]
        heard = [row[2][0][0] for row in rows]
        self.assertEqual(counters["messages_accepted"], heard.count("2"))
        self.assertEqual(counters["messages_deferred"], heard.count("4"))
        self.assertEqual(counters["messages_refused"], heard.count("5"))
        metrics = relay.metrics()
        for digit in "245":
            self.assertEqual(metrics[f'ringpost_next_hop_verdicts_total{{class="{digit}xx",'
                                     'next_hop="internal"}'], heard.count(digit))

    def test_lines_and_codes(self):
        """An enhanced code on each line (RFC 2034 4); one that the next hop does not give is
        made from the reply's class; text that could forge a reply cannot."""
        self.verdicts([
            ("END", "550 5.7.1 one\n5.7.1 two\n5.7.1 three",
             ["550-5.7.1 one", "550-5.7.1 two", "550 5.7.1 three"]),
            ("END", "250 2.0.0 one\n2.0.0 two", ["250-2.0.0 one", "250 2.0.0 two"]),
            ("RCPT", "550 unknown user", ["550 5.0.0 unknown user"]),
            ("MAIL", "451 later", ["451 4.0.0 later"]),
            ("END", "250 thanks", ["250 2.0.0 thanks"]),
            ("END", Raw(b"550\r\n"), ["550 5.0.0 "]),
            ("END", Raw("550 5.7.1 caf\u00e9\r\n".encode()), ["550 5.7.1 caf?"]),
            ("END", Raw(b"550 5.7.1 \x1b[31m red\r\n"),
             ["451 4.4.2 next hop may have the message, its answer to the end of data is not SMTP: "
              "not an SMTP reply: 550 5.7.1 ?[31m red"])])

    def test_long_text(self):
        """Lines that we write keep to 512 octets, and a flood of text is cut."""
        hop = self.next_hop()
        relay = self.relay(hop)
        hop.on("END", "554 " + "\n".join(f"5.7.1 {row} " + "y" * 480 for row in range(30)))
        reply = deliver(relay)
        self.assertEqual(reply, 554)
        self.assertTrue(reply.lines[0].startswith("554-5.7.1 0 yyy"), reply)
        self.assertLess(len(str(reply)), 4096)
        self.assertEqual(deliver(relay), 554)

    def test_temporary_faults_are_never_permanent(self):
        """A server that closes, wants a login, or takes no mail at all is no fault of the mail."""
        rows = []
        for where, name in (("MAIL", "MAIL FROM"), ("RCPT", "RCPT TO"), ("DATA", "DATA"),
                            ("END", "end of data")):
            rows.append((where, ["421 4.3.0 going down", Drop],
                         ["451 4.3.2 next hop is closing the connection at "
                          f"{name}: 421 4.3.0 going down"]))
            rows += [(where, f"{code} 5.7.0 login first",
                      ["451 4.7.0 next hop wants TLS or authentication from us at "
                       f"{name}: {code} 5.7.0 login first"]) for code in (530, 534, 535, 538)]
            rows.append((where, "521 5.3.2 no mail here",
                         [f"451 4.3.2 next hop accepts no mail at {name}: 521 5.3.2 no mail "
                          "here"]))
        rows += [
            ("MAIL", "503 5.5.1 what?", ["451 4.5.1 next hop says that commands are out of order "
                                         "at MAIL FROM: 503 5.5.1 what?"]),
            ("RCPT", "552 5.2.2 mailbox full", ["452 4.2.2 mailbox full"]),
            ("RCPT", "552 too many recipients", ["452 4.5.3 too many recipients"])]
        self.verdicts(rows)

    def test_not_smtp(self):
        """What is no SMTP is no verdict, and the connection is not used again."""
        hop, relay = self.verdicts_of([
            ("MAIL", Raw(b"hello?\r\n"),
             ["451 4.5.0 next hop does not keep to SMTP at MAIL FROM: not an SMTP reply: hello?"]),
            ("MAIL", "354 send it",
             ["451 4.5.0 next hop answered what makes no sense at MAIL FROM: 354 send it"]),
            ("DATA", "250 thanks",
             ["451 4.5.0 next hop answered what makes no sense at DATA: 250 thanks"]),
            ("RCPT", Raw(b"250 ok\n"),
             ["451 4.5.0 next hop does not keep to SMTP at RCPT TO: a bare CR or LF in a reply: "
              "250 ok"])], None, self.next_hop(extensions=without("CHUNKING")))
        self.assertEqual(deliver(relay), 451)
        hop.off()
        self.assertEqual(deliver(relay), 250)
        for session in hop.sessions[:5]:
            self.assertEqual(len([one for one in session.commands if one.startswith("MAIL")]), 1)

    def test_not_smtp_by_bdat(self):
        """The next hop had all of the message with MAIL: nobody knows what it did with it."""
        hop = self.next_hop()
        rows = [("MAIL", Raw(b"hello?\r\n"), "not SMTP: not an SMTP reply: hello?"),
                ("MAIL", "354 send it", "unclear: 354 send it"),
                ("RCPT", Raw(b"250 ok\n"), "not SMTP: a bare CR or LF in a reply: 250 ok")]
        for where, said, why in rows:
            with self.subTest(where=where, said=said):
                relay = self.relay(hop)
                hop.off()
                self.assertEqual(deliver(relay), 250)  # a kept connection
                hop.on(where, said)
                self.assertEqual(deliver(relay).lines, [
                    f"451 4.4.2 next hop may have the message, its answer to the end of data is {why}"])
                self.assertEqual(relay.counter("messages_ambiguous"), 1)

    def test_the_end_of_data_lost(self):
        """Nobody knows whether the message was taken: 451, counted, and never sent again."""
        hop, other = self.next_hop(), self.next_hop()
        relay = self.relay([hop, other], {"timeouts": {"data_end": "200ms"}})
        rows = [(Drop, "the connection was lost after end of data"),
                (Reset, "the connection was lost after end of data"),
                (Raw(b"gibberish\r\n"), "its answer to the end of data is not SMTP"),
                ("354 go on", "its answer to the end of data is unclear"),
                (Stall, "it did not answer the end of data")]
        for count, (action, why) in enumerate(rows, 1):
            with self.subTest(action=action):
                hop.off()
                hop.on("END", action)
                reply = deliver(relay)
                self.assertEqual((reply.code, reply.enhanced), (451, "4.4.2"))
                self.assertIn(f"next hop may have the message, {why}", reply.text)
                self.assertEqual(relay.counter("messages_ambiguous"), count)
                self.assertEqual(relay.wait_event("message", count)["status"], "ambiguous")
                self.assertEqual(len(hop.received), count)
        self.assertEqual(other.received, [])
        hop.release()

    def test_greeting_refused(self):
        for where, said, text in (
                ("CONNECT", "554 5.7.1 not from you", "in greeting: 554 not from you"),
                ("CONNECT", "421 4.3.2 busy", "in greeting: 421 busy"),
                ("EHLO", "421 4.3.2 busy", "in EHLO: 421 busy"),
                ("CONNECT", Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "in greeting: ")):
            with self.subTest(where=where, said=said):
                hop = self.next_hop()
                hop.on(where, said)
                relay = self.relay(hop)
                reply = deliver(relay)
                self.assertEqual((reply.code, reply.enhanced),
                                 (451, "4.3.2" if isinstance(said, str) else "4.5.0"))
                self.assertIn(text, relay.wait_event("server_down")["reason"])
                self.assertEqual(hop.received, [])

    def test_ehlo_refused(self):
        hop = self.next_hop(extensions=())
        hop.on("EHLO", "502 5.5.1 what is EHLO?")
        relay = self.relay(hop)
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(hop.sessions[0].commands[:2], ["EHLO edge.test", "HELO edge.test"])
        self.assertEqual(hop.messages[0].mail, "MAIL FROM:<a@example.net>")
        self.assert_relayed(hop.messages[0], LETTER)


class Extensions(SystemTest):
    """What a next hop does not offer is not used; what cannot be had without is refused."""

    EIGHT = "Subject: x\r\n\r\ncaf\u00e9\r\n".encode()

    def one(self, extensions, data=LETTER, parameters="", sender="a@example.net",
            recipients="b@example.com"):
        hop = self.next_hop(extensions=extensions)
        relay = self.relay(hop)
        return hop, deliver(relay, data, sender=sender, recipients=recipients,
                            parameters=parameters)

    def test_refusals(self):
        rows = [
            (without("8BITMIME"), self.EIGHT, " BODY=8BITMIME", "a@example.net",
             (554, "5.6.3")),
            (without("8BITMIME"), self.EIGHT, "", "a@example.net", (554, "5.6.3")),
            (without("SMTPUTF8"), LETTER, " SMTPUTF8", "j\u00f6@example.net", (553, "5.6.7")),
            (without("SMTPUTF8"), "Subject: caf\u00e9\r\n\r\nx\r\n".encode(),
             " SMTPUTF8 BODY=8BITMIME", "a@example.net", (553, "5.6.7")),
            (("SIZE 1000",), letter(2000), "", "a@example.net", (552, "5.3.4")),
        ]
        for extensions, data, parameters, sender, wanted in rows:
            with self.subTest(extensions=extensions, parameters=parameters):
                hop, reply = self.one(extensions, data, parameters, sender)
                self.assertEqual((reply.code, reply.enhanced), wanted)
                self.assertEqual(hop.commands("MAIL"), [])

    def test_parameters(self):
        """SIZE allows for our Received: field."""
        rows = [
            (EXTENSIONS, LETTER, "", r"<a@example\.net> SIZE=\d+$"),
            (EXTENSIONS, self.EIGHT, "", r"<a@example\.net> SIZE=\d+ BODY=8BITMIME$"),
            (EXTENSIONS, LETTER, " BODY=7BIT", r"<a@example\.net> SIZE=\d+ BODY=7BIT$"),
            (EXTENSIONS, LETTER, " SMTPUTF8", r"<a@example\.net> SIZE=\d+ SMTPUTF8$"),
            (EXTENSIONS, LETTER, " RET=HDRS ENVID=QQ+2B1",
             r"<a@example\.net> SIZE=\d+ RET=HDRS ENVID=QQ\+2B1$"),
            (without("SIZE"), LETTER, " SIZE=60", r"<a@example\.net>$"),
            (without("DSN"), LETTER, " RET=FULL ENVID=QQ1", r"<a@example\.net> SIZE=\d+$"),
            (without("8BITMIME"), LETTER, " BODY=8BITMIME", r"<a@example\.net> SIZE=\d+$"),
            (without("SMTPUTF8"), LETTER, " SMTPUTF8", r"<a@example\.net> SIZE=\d+$"),
            (without("PIPELINING"), LETTER, "", r"<a@example\.net> SIZE=\d+$"),
            (without("CHUNKING"), LETTER, "", r"<a@example\.net> SIZE=\d+$"),
            ((), LETTER, "", r"<a@example\.net>$"),
        ]
        for extensions, data, parameters, wanted in rows:
            with self.subTest(extensions=extensions, parameters=parameters):
                hop, reply = self.one(extensions, data, parameters)
                self.assertEqual(reply, 250)
                self.assertRegex(hop.messages[0].mail, "^MAIL FROM:" + wanted)
                self.assert_relayed(hop.messages[0], data)
                if "SIZE=" in wanted:
                    size = int(hop.messages[0].mail.split("SIZE=")[1].split()[0])
                    self.assertGreaterEqual(size, len(hop.messages[0].data))

    def test_bodies_by_chunks(self):
        """BDAT from the client goes on as BDAT or as DATA, as the next hop can."""
        for extensions, how in ((EXTENSIONS, "BDAT"), (without("CHUNKING"), "DATA")):
            for octets in (0, 1, 5000, 300000):
                with self.subTest(how=how, octets=octets):
                    hop = self.next_hop(extensions=extensions)
                    relay = self.relay(hop)
                    client = self.client(relay)
                    client.ehlo()
                    data = letter(octets) if octets > 100 else b"x\r\n"[:octets]
                    self.assertEqual(client.chunked(data, 70000), 250)
                    message = hop.messages[0]
                    # With DATA the message ends with CRLF; an empty one has none to end.
                    ended = data.endswith(b"\r\n") or not data or message.how == "BDAT"
                    self.assert_relayed(message, data + (b"" if ended else b"\r\n"))
                    if octets < 200000:
                        self.assertEqual(message.how, how)

    def test_delivery_status_notifications(self):
        hop = self.next_hop()
        relay = self.relay(hop)
        client = self.client(relay)
        client.ehlo()
        client.command("MAIL FROM:<a@example.net> RET=FULL ENVID=abc", 250)
        client.command("RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B+40x", 250)
        client.command("RCPT TO:<c@example.com> notify=never", 250)
        client.command("RCPT TO:<d@example.com>", 250)
        client.data(stuffed(LETTER))
        self.assertEqual(client.reply(), 250)
        self.assertRegex(hop.messages[0].mail, "> (SIZE=[0-9]+ )?RET=FULL ENVID=abc$")
        self.assertEqual(hop.messages[0].rcpts, [
            "RCPT TO:<b@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;B+40x",
            "RCPT TO:<c@example.com> NOTIFY=NEVER", "RCPT TO:<d@example.com>"])

    def test_success_notice_cannot_be_kept(self):
        """RFC 3461 5.2.2: without DSN there a notice would be owed by us."""
        hop = self.next_hop(extensions=without("DSN"))
        relay = self.relay(hop)
        for notify, code in (("SUCCESS", 550), ("SUCCESS,FAILURE", 550), ("FAILURE", 250),
                             ("NEVER", 250)):
            with self.subTest(notify=notify):
                client = self.client(relay)
                client.ehlo()
                client.command("MAIL FROM:<a@example.net>", 250)
                client.command(f"RCPT TO:<b@example.com> NOTIFY={notify}", 250)
                client.data(stuffed(LETTER))
                self.assertEqual(client.reply(), code)
                client.quit()
        self.assertEqual([one.rcpts for one in hop.messages], [["RCPT TO:<b@example.com>"]] * 2)


class Paths(SystemTest):

    def test_as_they_came(self):
        hop = self.next_hop()
        relay = self.relay(hop)
        rows = [
            ("", "b@example.com"),
            ("a@example.net", "postmaster"),
            ("a@example.net", "PostMaster"),
            ('"a b>c"@example.net', '"x\\"y"@example.com'),
            ("A.Mixed+Case@Example.NET", "B=c/d@EXAMPLE.com"),
            ("a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"),
            ("a@" + ".".join(["x" * 63] * 3), "l" * 64 + "@example.com"),
        ]
        for sender, recipient in rows:
            with self.subTest(sender=sender, recipient=recipient):
                self.assertEqual(deliver(relay, sender=sender, recipients=recipient), 250)
                message = hop.messages[-1]
                self.assertEqual((message.sender, message.recipients), (sender, [recipient]))


class Recipients(SystemTest):

    def session(self, relay):
        client = self.client(relay)
        client.ehlo()
        client.command("MAIL FROM:<a@example.net>", 250)
        return client

    def data(self, client, data=LETTER):
        client.data(stuffed(data))
        return client.reply()

    def test_second_is_refused(self):
        """The first is taken without a question, the second is not: both are put to the next hop
        then, and each hears its own verdict."""
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 nobody of this name", match="nobody@")
        relay = self.relay(hop)
        client = self.session(relay)
        client.command("RCPT TO:<b@example.com>", 250)
        self.assertEqual(hop.sessions, [])
        reply = client.command("RCPT TO:<nobody@example.com>")
        self.assertEqual(reply.lines, ["550 5.1.1 nobody of this name"])
        client.command("RCPT TO:<c@example.com>", 250)
        self.assertEqual(self.data(client), 250)
        self.assertEqual(hop.messages[0].recipients, ["b@example.com", "c@example.com"])
        refused = relay.wait_event("refused")
        self.assertEqual((refused["to"], refused["reply"]),
                         ("nobody@example.com", "550 5.1.1 nobody of this name"))

    def test_first_turns_out_refused(self):
        """It was told 250: that is taken back at the end of data only; the second comes again by
        itself and is not lost."""
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 nobody of this name", match="nobody@")
        relay = self.relay(hop)
        client = self.session(relay)
        client.command("RCPT TO:<nobody@example.com>", 250)
        reply = client.command("RCPT TO:<b@example.com>")
        self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))
        reply = client.command("RCPT TO:<c@example.com>")
        self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))
        self.assertEqual(self.data(client).lines, ["550 5.1.1 nobody of this name"])
        self.assertEqual(hop.received, [])
        self.assertEqual(client.message(LETTER, recipients="b@example.com"), 250)

    def test_other_next_hop(self):
        hops = self.next_hop(), self.next_hop()
        relay = self.relay(hops[0], {
            "next_hop": {"other": {"servers": [hops[1].server], "tls": "none"}},
            "route": {"other.test": "other", "*.other.test": "other"}})
        client = self.session(relay)
        client.command("RCPT TO:<b@example.com>", 250)
        for address in ("c@other.test", "c@sub.other.test"):
            reply = client.command(f"RCPT TO:<{address}>")
            self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))
        client.command("RCPT TO:<d@example.org>", 250)
        self.assertEqual(self.data(client), 250)
        self.assertEqual(client.message(LETTER, recipients="c@sub.other.test"), 250)
        self.assertEqual(hops[0].messages[0].recipients, ["b@example.com", "d@example.org"])
        self.assertEqual(hops[1].messages[0].recipients, ["c@sub.other.test"])

    def test_check_refuses_unknown(self):
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 no such user", match="nobody")
        hop.on("RCPT", "450 4.2.1 busy", match="busy")
        relay = self.relay(hop, CHECK)
        client = self.session(relay)
        rows = (("nobody", "550 5.1.1 no such user"), ("b", "250 2.1.5 ok"),
                ("busy", "450 4.2.1 busy"), ("c", "250 2.1.5 ok"),
                ("nobody2", "550 5.1.1 no such user"))
        for name, reply in rows:
            self.assertEqual(client.command(f"RCPT TO:<{name}@example.com>").lines, [reply])
        self.assertEqual(self.data(client), 250)
        self.assertEqual(hop.messages[0].recipients, ["b@example.com", "c@example.com"])
        # Nobody at all: no DATA, and the session goes on.
        client.command("MAIL FROM:<>", 250)
        client.command("RCPT TO:<nobody@example.com>", 550)
        self.assertEqual(client.command("DATA"), 554)
        client.command("RSET", 250)
        self.assertEqual(client.message(LETTER), 250)

    def test_check_sees_mail_refused(self):
        """The refusal of MAIL is heard at RCPT, where it is known."""
        hop = self.next_hop()
        hop.on("MAIL", "550 5.7.1 not you", match="evil@")
        relay = self.relay(hop, CHECK)
        client = self.client(relay)
        client.ehlo()
        client.command("MAIL FROM:<evil@example.net>", 250)
        for _ in range(2):
            self.assertEqual(client.command("RCPT TO:<b@example.com>").lines,
                             ["550 5.7.1 not you"])
        client.command("RSET", 250)
        self.assertEqual(client.message(LETTER), 250)

    def test_many(self):
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 no", match=r"<u\d*7@")
        relay = self.relay(hop, {"delivery": {"recipient_check": "next_hop"}})
        for count in (100, 1000):
            with self.subTest(count=count):
                client = self.session(relay)
                names = [f"u{number}@example.com" for number in range(count)]
                client.send("".join(f"RCPT TO:<{one}>\r\n" for one in names) + "DATA\r\n")
                codes = [reply.code for reply in client.replies(count)]
                self.assertEqual(codes, [550 if "7@" in one else 250 for one in names])
                self.assertEqual(client.reply(), 354)
                client.send(stuffed(LETTER))
                self.assertEqual(client.reply(), 250)
                self.assertEqual(hop.messages[-1].recipients,
                                 [one for one in names if "7@" not in one])
                client.quit()

    def test_many_without_pipelining_there(self):
        hop = self.next_hop(extensions=without("PIPELINING"))
        relay = self.relay(hop)
        names = [f"u{number}@example.com" for number in range(100)]
        self.assertEqual(deliver(relay, recipients=names), 250)
        self.assertEqual(hop.messages[0].recipients, names)

    def test_live_transaction_moves_to_another_server(self):
        """The first server closes in the middle: the second gets all of it, the client sees
        nothing of that."""
        for where, match in (("RCPT", "c@"), ("DATA", None), ("MAIL", None)):
            with self.subTest(where=where):
                hop, other = self.next_hop(extensions=without("CHUNKING")), self.next_hop()
                hop.on(where, Drop, match=match)
                relay = self.relay([hop, other])
                names = ["b@example.com", "c@example.com", "d@example.com"]
                self.assertEqual(deliver(relay, recipients=names), 250)
                self.assertEqual(other.messages[0].recipients, names)
                self.assertEqual(hop.received, [])

    def test_verdicts_differ_on_another_server(self):
        """All three were accepted by the first server, and the one after it knows one of them
        not: nobody may be dropped, and the others are not refused for it."""
        for config, octets in ((None, 100), (CHECK, 100), (STREAM, 400000)):
            with self.subTest(config=config, octets=octets):
                hop, other = self.next_hop(extensions=without("CHUNKING")), self.next_hop()
                hop.on("DATA", Drop)
                other.on("RCPT", "550 5.1.1 unknown here", match="c@")
                relay = self.relay([hop, other], config)
                names = ["b@example.com", "c@example.com", "d@example.com"]
                reply = deliver(relay, letter(octets), recipients=names)
                self.assertEqual((reply.code, reply.enhanced), (451, "4.5.3"))
                self.assertEqual(other.received, [])

    def test_verdicts_differ_while_one_is_asked(self):
        """The same when the first server closes at the fourth recipient."""
        hop, other = self.next_hop(), self.next_hop()
        hop.on("RCPT", Drop, match="e@")
        other.on("RCPT", "550 5.1.1 unknown here", match="c@")
        relay = self.relay([hop, other])
        client = self.session(relay)
        for name in "bcd":
            client.command(f"RCPT TO:<{name}@example.com>", 250)
        for name in "ef":
            reply = client.command(f"RCPT TO:<{name}@example.com>")
            self.assertEqual((reply.code, reply.enhanced), (452, "4.5.3"))
        reply = self.data(client)
        self.assertEqual((reply.code, reply.enhanced), (451, "4.5.3"))
        self.assertEqual(other.received, [])
        # On its own each recipient gets its own verdict.
        self.assertEqual(client.message(LETTER, recipients="b@example.com"), 250)

    def test_next_hop_lost_between_recipients(self):
        """What was told stays true: the ones accepted share the verdict at the end of data."""
        hop = self.next_hop()
        hop.on("RCPT", Drop, match="c@")
        relay = self.relay(hop)
        client = self.session(relay)
        client.command("RCPT TO:<b@example.com>", 250)
        self.assertEqual(client.command("RCPT TO:<c@example.com>"), 451)
        self.assertEqual(client.command("RCPT TO:<d@example.com>"), 452)
        self.assertEqual(self.data(client), 451)
        self.assertEqual(hop.received, [])

    def test_next_hop_lost_while_client_writes(self):
        """Nobody waits for it then: the message goes by another connection when it is whole."""
        hop = self.next_hop()
        relay = self.relay(hop)
        client = self.session(relay)
        client.command("RCPT TO:<b@example.com>", 250)
        client.command("RCPT TO:<c@example.com>", 250)
        hop.disconnect()
        wait_for(lambda: hop.sessions[0].closed, what="closed")
        self.assertEqual(self.data(client), 250)
        self.assertEqual(hop.messages[0].recipients, ["b@example.com", "c@example.com"])
        self.assertEqual(hop.messages[0].connection, 2)


class Streams(SystemTest):
    """Messages larger than delivery.buffer leave while they come."""

    def test_octets(self):
        hop = self.next_hop()
        relay = self.relay(hop, STREAM)
        for octets in (16000, 16384, 16500, 40000, 1000000, 5000000):
            with self.subTest(octets=octets):
                data = letter(octets)
                self.assertEqual(deliver(relay, data), 250)
                self.assert_relayed(hop.messages[-1], data)

    def test_leaves_while_it_comes(self):
        hop = self.next_hop()
        relay = self.relay(hop, STREAM)
        client = self.client(relay)
        client.ehlo()
        client.envelope()
        client.command("DATA", 354)
        data = letter(200000)
        wire = stuffed(data)
        client.send(wire[:150000])
        hop.wait(lambda: hop.body_octets.get(1, 0) > 100000, what="octets before the end")
        client.send(wire[150000:])
        self.assertEqual(client.reply(), 250)
        self.assert_relayed(hop.messages[0], data)

    def test_slow_next_hop(self):
        """Back-pressure: the relay holds little, however much comes."""
        hop = self.next_hop(receive_buffer=65536)
        hop.on("BODY", Stall, after=100000)
        relay = self.relay(hop, STREAM)
        client = self.client(relay, seconds=60)
        client.ehlo()
        client.envelope()
        client.command("DATA", 354)
        data = letter(24 << 20)
        sent = threading.Thread(target=client.send, args=(stuffed(data),), daemon=True)
        sent.start()
        hop.wait(lambda: hop.stalled, what="stalled")
        received = -1

        def steady() -> bool:
            nonlocal received
            before, received = received, relay.counter("bytes_received")
            return before == received and relay.gauge("transactions_current") == 1

        wait_for(steady, what="the relay stops to read")
        # What one receive may bring before it is stopped (twice 33 buffers, or twice what is
        # offered, 256), and delivery.buffer.
        self.assertLess(relay.gauge("buffers_in_use"), 80 if FILLS_FEW else 528)
        self.assertLess(received, len(data) // 2)
        hop.release()
        self.assertEqual(client.reply(), 250)
        sent.join()
        self.assert_relayed(hop.messages[0], data)
        self.assertLess(relay.metrics()['ringpost_pool_high_water{pool="buffers"}'],
                        160 if FILLS_FEW else 800)

    def test_answered_before_the_end(self):
        """250 to BDAT LAST while most of its octets are still here: never a delivery."""
        hop, other = self.next_hop(receive_buffer=65536), self.next_hop()
        hop.on("BODY", [Raw(b"250 2.0.0 taken\r\n"), Stall], after=1000)
        relay = self.relay([hop, other], {"delivery": {"buffer": "16mb"}})
        client = self.client(relay, seconds=30)
        client.ehlo()
        client.envelope()
        data = letter(12 << 20)
        client.send(b"BDAT %d LAST\r\n" % len(data))
        # Never more in the kernel than the buffers that are offered, or it would stream, as DATA:
        # Linux 6.1 and 7.3 give one receive all of them.
        for at in range(0, len(data), PACE):
            client.send(data[at:at + PACE])
            if at + PACE < len(data):
                wait_for(lambda most=at: relay.counter("bytes_received") > most)
        reply = client.reply()
        self.assertEqual((reply.code, reply.enhanced), (451, "4.4.2"))
        self.assertIn("may have the message", reply.text)
        self.assertIn("250 2.0.0 taken", reply.text)
        self.assertEqual(relay.counter("messages_ambiguous"), 1)
        self.assertEqual(relay.wait_event("message")["status"], "ambiguous")
        self.assertEqual(other.received, [])
        hop.release()
        hop.off()
        self.assertEqual(client.chunked(LETTER), 250)

    def test_next_hop_fails_in_the_middle(self):
        """Part of it is gone from memory, so no other server can have it: 451, and nothing more
        is asked of the client than to end its message."""
        rows = [(Drop, "4.4.2"), (Reset, "4.4.2"), (Raw(b"452 4.3.1 disk full\r\n"), None),
                ([Raw(b"421 4.3.0 going\r\n"), Drop], None)]
        for action, enhanced in rows:
            with self.subTest(action=action):
                hop, other = self.next_hop(), self.next_hop()
                hop.on("BODY", action, after=100000)
                relay = self.relay([hop, other], STREAM)
                client = self.client(relay)
                client.ehlo()
                client.envelope()
                client.command("DATA", 354)
                wire = stuffed(letter(600000))
                client.send(wire[:300000])
                hop.wait(lambda hop=hop: hop.sessions and hop.sessions[0].closed, what="the end")
                client.send(wire[300000:])
                reply = client.reply()
                self.assertEqual(reply, 451)
                if enhanced:
                    self.assertEqual(reply.enhanced, enhanced)
                self.assertEqual(hop.received + other.received, [])
                self.assertEqual(relay.counter("messages_ambiguous"), 0)
                hop.off()
                self.assertEqual(client.message(letter(2000000)), 250)
                client.quit()

    def test_refused_before_the_body(self):
        """The verdict is known early; the client hears it where SMTP has a place for it."""
        for where in ("MAIL", "RCPT", "DATA"):
            for reply in ("550 5.7.1 no", "450 4.7.1 later"):
                with self.subTest(where=where, reply=reply):
                    hop = self.next_hop()
                    hop.on(where, reply)
                    relay = self.relay(hop, STREAM)
                    self.assertEqual(deliver(relay, letter(500000)).lines, [reply])
                    self.assertEqual(hop.received, [])

    def test_chunks(self):
        hop = self.next_hop()
        relay = self.relay(hop, STREAM)
        client = self.client(relay)
        client.ehlo()
        data = letter(700000)
        for chunk in (100000, 30000, 0):
            with self.subTest(chunk=chunk):
                self.assertEqual(client.chunked(data, chunk), 250)
                self.assert_relayed(hop.messages[-1], data)


class Once(SystemTest):
    """A message arrives once or not at all, whatever breaks."""

    def test_idle_connection_dead_at_use(self):
        """The next hop closes a kept connection just when it is used again: replaced without a
        trace, the message arrives once."""
        rows = [("MAIL", Drop), ("MAIL", Reset), ("MAIL", ["421 4.4.2 idle too long", Drop]),
                ("MAIL", [Raw(b"42"), Drop])]
        for where, action in rows:
            for send in ("message", "chunked"):
                with self.subTest(action=action, send=send):
                    hop = self.next_hop()
                    relay = self.relay(hop, BY_DATA)
                    client = self.client(relay)
                    client.ehlo()
                    self.assertEqual(getattr(client, send)(LETTER), 250)
                    hop.on(where, action, connection=1)
                    self.assertEqual(getattr(client, send)(LETTER, sender="second@example.net"),
                                     250)
                    self.assertEqual([one.sender for one in hop.received],
                                     ["a@example.net", "second@example.net"])
                    self.assertEqual(relay.metrics()[
                        'ringpost_next_hop_connections_replaced_total{next_hop="internal"}'], 1)
                    self.assertEqual(relay.metrics()[
                        'ringpost_next_hop_servers_down{next_hop="internal"}'], 0)
                    client.quit()

    def test_all_idle_connections_dead(self):
        """A next hop that was restarted: every kept connection is dead."""
        hop = self.next_hop()
        hop.on("END", [Stall, Default], times=8)
        relay = self.relay(hop, BY_DATA)
        clients = [self.client(relay) for _ in range(8)]
        for client in clients:
            client.ehlo()
            client.envelope()
            client.data(stuffed(LETTER))
        hop.wait(lambda: hop.stalled == 8, what="8 connections in use")
        hop.release()
        self.assertEqual([client.reply().code for client in clients], [250] * 8)
        for number in range(1, 9):
            hop.on("MAIL", Drop, connection=number)
        for reply in together(
                lambda client=client: client.message(LETTER, sender="second@example.net")
                for client in clients):
            self.assertEqual(reply, 250)
        senders = [one.sender for one in hop.received]
        self.assertEqual(senders.count("second@example.net"), 8)

    def test_idle_connection_closed_by_bdat(self):
        """All of the message is out with MAIL. A next hop that says 421 has not taken it; one that
        read it and closes may have: 451, and the client's next attempt arrives once."""
        for action, code in ((["421 4.4.2 idle too long", Drop], 250), (Drop, 451), (Reset, 451)):
            with self.subTest(action=action):
                hop = self.next_hop()
                relay = self.relay(hop)
                client = self.client(relay)
                client.ehlo()
                self.assertEqual(client.message(LETTER), 250)
                hop.on("MAIL", action, connection=1)
                self.assertEqual(client.message(LETTER, sender="second@example.net"), code)
                if code != 250:
                    self.assertEqual(client.message(LETTER, sender="second@example.net"), 250)
                self.assertEqual([one.sender for one in hop.received],
                                 ["a@example.net", "second@example.net"])
                self.assertEqual(relay.counter("messages_ambiguous"), code != 250)
                client.quit()

    def test_next_hop_closes_between_messages(self):
        """Some end a connection behind so many messages without a word, and reset what is on its
        way then: the client tries that one again, and after this server did so once it is spared
        such groups. Each message arrives once."""
        hop = self.next_hop()
        hop.on("END", lambda session: [Default, Drop] if len(session.messages) % 3 == 2 else Default)
        relay = self.relay(hop, {"next_hop": {"internal": {"connections": 1}}})
        clients = [self.client(relay) for _ in range(12)]
        for client in clients:
            client.ehlo()
        names = [f"m{number}@example.net" for number in range(48)]
        left, again = list(names), []
        while left:
            now, left = left[:12], left[12:]
            replies = together(lambda client=client, name=name: client.message(LETTER, sender=name)
                               for client, name in zip(clients, now))
            lost = [name for name, reply in zip(now, replies) if reply.code != 250]
            left += lost
            again += lost
        self.assertLessEqual(len(again), 1)
        self.assertEqual(relay.counter("messages_ambiguous"), len(again))
        self.assertEqual(sorted(one.sender for one in hop.received), sorted(names))

    def test_recipient_refused_by_bdat(self):
        """The octets that came for nobody are dropped by the next hop, the connection is kept, and
        the next message is none of them."""
        hop = self.next_hop()
        relay = self.relay(hop)
        client = self.client(relay)
        client.ehlo()
        self.assertEqual(client.message(LETTER), 250)
        smuggled = LETTER + b"MAIL FROM:<x@example.net>\r\nRCPT TO:<x@example.com>\r\n"
        for where, said in (("RCPT", "550 5.1.1 unknown"), ("MAIL", "451 4.7.1 greylisted"),
                            ("END", "554 5.7.1 smells")):
            with self.subTest(where=where):
                hop.on(where, said, times=1)
                self.assertEqual(client.message(smuggled, sender="no@example.net").lines, [said])
                self.assertEqual(client.message(LETTER, sender="yes@example.net"), 250)
        self.assertEqual([one.sender for one in hop.messages],
                         ["a@example.net"] + ["yes@example.net"] * 3)
        self.assertEqual({one.data[-len(LETTER):] for one in hop.messages}, {LETTER})
        self.assertEqual(len(hop.sessions), 1)

    def test_client_gone_in_the_middle(self):
        """Without the client's final dot the next hop never sees one."""
        for config, octets in ((None, 3000), (STREAM, 400000)):
            for end in ("close", "reset"):
                with self.subTest(octets=octets, end=end):
                    hop = self.next_hop()
                    relay = self.relay(hop, config)
                    client = self.client(relay)
                    client.ehlo()
                    client.envelope()
                    client.data(stuffed(letter(octets))[:-5])
                    if config:
                        hop.wait(lambda hop=hop: hop.body_octets.get(1, 0) > 200000, what="body")
                    getattr(client, end)()
                    relay.wait_counter("messages_aborted", 1)
                    wait_for(lambda relay=relay: relay.gauge("transactions_current") == 0,
                             what="the transaction ends")
                    self.assertEqual(relay.gauge("buffers_in_use"), 0)
                    self.assertEqual(deliver(relay), 250)
                    self.assertEqual([one.data[-len(LETTER):] for one in hop.received], [LETTER])

    def test_client_gone_after_the_dot(self):
        """Its message is whole: the next hop may take it, and the log says so."""
        hop = self.next_hop()
        hop.on("END", [Stall, Default], times=1)
        relay = self.relay(hop)
        client = self.client(relay)
        client.ehlo()
        client.envelope()
        client.data(stuffed(LETTER))
        hop.wait(lambda: hop.stalled, what="the message at the next hop")
        client.reset()
        wait_for(lambda: relay.stats()["counters"]["sessions_closed_lost"] == 1, what="gone")
        hop.release()
        event = relay.wait_event("message")
        self.assertEqual((event["status"], event["client"]), ("delivered", "gone"))
        self.assertEqual(relay.counter("messages_client_lost"), 1)
        self.assertEqual(len(hop.messages), 1)
        self.assertEqual(deliver(relay), 250)

    def test_client_gone_before_the_next_hop_has_the_end(self):
        """Taken back in time: nothing arrives."""
        hop = self.next_hop()
        hop.on("DATA", [Stall, Default], times=1)
        relay = self.relay(hop)
        client = self.client(relay)
        client.ehlo()
        client.envelope()
        client.data(stuffed(LETTER))
        hop.wait(lambda: hop.stalled, what="DATA at the next hop")
        client.reset()
        relay.wait_counter("messages_client_lost", 1)
        hop.release()
        wait_for(lambda: hop.sessions[0].closed, what="the connection is given up")
        self.assertEqual(hop.received, [])
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.received), 1)

    def test_what_is_refused_does_not_arrive(self):
        """Also when most of it is with the next hop already."""
        head = b"Subject: x\r\n\r\n"
        filler = letter(300000)
        received = b"".join(b"Received: from a by b; x\r\n" for _ in range(101))
        rows = [
            ("bare LF", head + b"a\nb\r\n", b"", (550, "5.6.11")),
            ("bare CR", head + b"a\rb\r\n", b"", (550, "5.6.11")),
            ("smuggled end", head + b"a\n.\nMAIL FROM:<x@x.test>\r\n", b"", (550, "5.6.11")),
            ("smuggled end 2", head + b"a\r\n.\nMAIL FROM:<x@x.test>\r\n", b"", (550, "5.6.11")),
            ("NUL", head + b"a\0b\r\n", b"", (554, "5.6.0")),
            ("too large", head, letter(500000), (552, "5.3.4")),
            ("long line", head + b"x" * 70000 + b"\r\n", b"", (554, "5.6.0")),
            ("loop", received + head, b"", (554, "5.4.6")),
            ("late bare LF", filler, b"a\nb\r\n", (550, "5.6.11")),
            ("late smuggled end", filler, b"a\n.\r\nb\r\n", (550, "5.6.11")),
            ("late NUL", filler, b"\0\r\n", (554, "5.6.0")),
            ("late too large", filler, letter(100000), (552, "5.3.4")),
            ("late long line", filler[:250000], b"x" * 70000 + b"\r\n", (554, "5.6.0")),
        ]
        for config in ({"limits": {"message_size": "350000"}},
                       {"limits": {"message_size": "350000"}, **STREAM}):
            hop = self.next_hop()
            relay = self.relay(hop, config)
            for name, first, second, wanted in rows:
                with self.subTest(name=name, config=config):
                    client = self.client(relay)
                    client.ehlo()
                    client.envelope()
                    client.data(first + second + b"\r\n.\r\n")
                    reply = client.reply()
                    self.assertEqual((reply.code, reply.enhanced), wanted)
                    client.command("NOOP", 250)
                    client.quit()
            self.assertEqual(hop.received, [])
            self.assertEqual(deliver(relay), 250)
            self.assertEqual(len(hop.received), 1)

    def test_slow_verdict_is_no_second_try(self):
        hop = self.next_hop()
        hop.on("END", [Delay(0.5), Default])
        relay = self.relay(hop)
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.received), 1)
