"""`ringpost sink --fault`: each action at each stage, conditions, and what is left of the message."""
import ssl

from harness import SLOW, certificates, stuffed, wait_for
from tools import Sink, ToolTest, mail_in

LETTER = b"Subject: x\r\n\r\nhello\r\n"


class Faults(ToolTest):

    def faulty(self, *faults: str, options: tuple[str, ...] = ()) -> Sink:
        self.folder_of_mail = self.folder() / "mail"
        return self.sink(*options, "--maildir", str(self.folder_of_mail),
                         *(one for fault in faults for one in ("--fault", fault)))

    def kept(self) -> int:
        return len(mail_in(self.folder_of_mail))

    def tls(self, mode: str) -> tuple[str, ...]:
        good = certificates().localhost
        return ("--tls", mode, "--certificate", good.certificate, "--key", good.key)

    def up_to(self, stage: str, client) -> None:
        """Sends what comes before the stage, and the command of the stage itself."""
        steps = [("ehlo", "EHLO client.test", 250), ("mail", "MAIL FROM:<a@example.net>", 250),
                 ("rcpt", "RCPT TO:<b@example.com>", 250), ("data", "DATA", 354)]
        other = {"helo": "HELO client.test", "rset": "RSET", "quit": "QUIT",
                 "starttls": "STARTTLS"}
        if stage in other:
            if stage in ("rset", "starttls"):
                client.ehlo()
            client.send(other[stage] + "\r\n")
            return
        for name, command, code in steps:
            if name == stage:
                client.send(command + "\r\n")
                return
            client.command(command, code)
        client.send(stuffed(LETTER))

    STAGES = ("connect", "greeting", "ehlo", "helo", "starttls", "mail", "rcpt", "data", "body",
              "end", "rset", "quit")


class Stages(Faults):

    def begin(self, stage: str, action: str):
        """A client for which the fault of the stage happens now."""
        options = self.tls("starttls") if stage == "starttls" else ()
        sink = self.faulty(f"{stage}={action},times=1", options=options)
        early = stage in ("connect", "greeting")
        client = self.client(sink.port, greeting=not early)
        if not early:
            self.up_to(stage, client)
        return sink, client

    def test_replies(self):
        """The words as they were given, the lines of several, and what may follow."""
        for stage in self.STAGES:
            for code in ("451", "550", "421"):
                with self.subTest(stage=stage, code=code):
                    sink, client = self.begin(stage, f"{code} {code[0]}.7.1 Not, now\\nor later")
                    reply = client.reply()
                    self.assertEqual(reply.lines, [f"{code}-{code[0]}.7.1 Not, now",
                                                   f"{code} {code[0]}.7.1 or later"])
                    if code == "421" or stage in ("connect", "body", "quit"):
                        self.assertTrue(client.is_closed())
                        self.assertEqual(client.buffer, b"")
                    elif stage == "greeting":
                        self.assertEqual(client.command("EHLO client.test").code, 503)
                        self.assertEqual(client.command("NOOP").code, 503)
                        client.quit()
                    else:
                        client.ehlo()
                        self.assertEqual(client.message(LETTER), 250)
                    replies = 3 if stage == "greeting" and code != "421" else 1
                    client.close()
                    report = sink.stop()
                    self.assertEqual(report[0], 1)
                    self.assertEqual(report[3:5], (replies, 1), "refused, faults")
                    self.assertEqual(report[1], self.kept())

    def test_usual_words(self):
        rows = [("mail=451", "Try again later"), ("mail=550", "Refused"), ("mail=250", "Ok"),
                ("mail=550 5.1.8", "5.1.8 Refused")]
        for fault, text in rows:
            with self.subTest(fault=fault):
                client = self.greeted(self.faulty(fault))
                self.assertEqual(client.command("MAIL FROM:<a@example.net>").text, text)

    def test_acceptance_in_other_words(self):
        sink = self.faulty("greeting=220 mx.test at your service", "ehlo=250 hello\\nSIZE 5",
                           "mail=251 2.1.0 fine", "rcpt=252 2.1.5 maybe", "data=354 shoot",
                           "end=250 2.6.0 kept as 1", "rset=250 2.0.0 forgotten",
                           "quit=221 2.0.0 so long")
        client = self.client(sink.port)
        self.assertEqual(client.greeting.text, "mx.test at your service")
        self.assertEqual(client.ehlo(), {"SIZE": "5"})
        for command, text in (("MAIL FROM:<a@example.net>", "2.1.0 fine"),
                              ("RCPT TO:<b@example.com>", "2.1.5 maybe"),
                              ("DATA", "shoot"), (stuffed(LETTER)[:-2], "2.6.0 kept as 1"),
                              ("RSET", "2.0.0 forgotten"), ("QUIT", "2.0.0 so long")):
            self.assertEqual(client.command(command).text, text)
        self.assertTrue(client.is_closed())
        self.assertEqual(self.kept(), 1)
        self.assertEqual(sink.stop(), (1, 1, len(LETTER), 0, 8, 0))

    def test_rset_that_is_accepted_ends_the_transaction(self):
        client = self.greeted(self.faulty("rset=250 2.0.0 forgotten"))
        client.envelope()
        client.command("RSET", 250)
        self.assertEqual(client.command("DATA").code // 100, 5)
        client.envelope()
        client.send(b"BDAT 5\r\nhello")
        self.assertEqual(client.reply(), 250)
        client.command("RSET", 250)
        self.assertEqual(client.message(LETTER), 250)
        self.assertEqual(mail_in(self.folder_of_mail)[0][-len(LETTER):], LETTER)

    def test_replies_that_make_no_sense(self):
        """They are said, and nothing follows from them."""
        rows = [("mail", "354 what", "RCPT TO:<b@example.com>"),
                ("rcpt", "354 what", "DATA"), ("data", "250 what", "RSET"),
                ("end", "354 what", "DATA"), ("starttls", "220 not really", "NOOP"),
                ("ehlo", "354 what", "MAIL FROM:<a@example.net>"), ("mail", "raw:2\\r\\n", "DATA"),
                ("end", "raw:250-\\r\\n250 odd\\r\\n", "DATA")]
        for stage, action, then in rows:
            with self.subTest(stage=stage, action=action):
                sink, client = self.begin(stage, action)
                said = action.replace("raw:", "").replace("\\r\\n", "\r\n")
                for line in said.rstrip("\r\n").split("\r\n"):
                    self.assertEqual(client.line(), line)
                code = client.command(then).code
                self.assertEqual(code // 100, 2 if then in ("RSET", "NOOP") else 5)
                client.ehlo()
                self.assertEqual(client.message(LETTER), 250)
                self.assertEqual(self.kept(), 1)
                sink.stop()

    def test_raw(self):
        """The octets as they are; the session goes on but for a connection or body."""
        for stage in self.STAGES:
            with self.subTest(stage=stage):
                sink, client = self.begin(stage, "raw:SSH-2.0\\t\\\\x\\r\\n")
                self.assertEqual(client.line(), "SSH-2.0\t\\x")
                if stage in ("connect", "body", "quit"):
                    self.assertTrue(client.is_closed())
                else:
                    client.ehlo()
                    self.assertEqual(client.message(LETTER), 250)
                client.close()
                self.assertEqual(sink.stop()[4], 1)

    def test_drop(self):
        """The end without a word, and without the message."""
        for stage in self.STAGES:
            with self.subTest(stage=stage):
                sink, client = self.begin(stage, "drop")
                self.assertTrue(client.is_closed())
                self.assertEqual(client.buffer, b"")
                self.assertEqual(self.greeted(sink).message(LETTER), 250)
                self.assertEqual(self.kept(), 1)
                self.assertEqual(sink.stop(), (2, 1, len(LETTER), 0, 1, 0))

    def test_stall(self):
        """No word for ever; others are served; a client that gives up is let go."""
        for stage in self.STAGES:
            with self.subTest(stage=stage):
                sink, client = self.begin(stage, "stall")
                self.assertTrue(client.is_quiet(0.05))
                self.assertEqual(self.greeted(sink).message(LETTER), 250)
                self.assertEqual(client.buffer, b"")
                client.close()
                self.assertEqual(self.kept(), 1)
                self.assertEqual(sink.stop()[4], 1)

    def test_a_stalled_client_times_out(self):
        sink = self.faulty("mail=stall", options=("--timeout", "200ms"))
        client = self.greeted(sink)
        client.send("MAIL FROM:<a@example.net>\r\n")
        self.assertTrue(client.is_closed())

    def test_delay(self):
        """What would happen happens afterwards."""
        for stage in self.STAGES:
            for after in ("", "451 4.3.0 Late"):
                with self.subTest(stage=stage, after=after):
                    options = self.tls("starttls") if stage == "starttls" else ()
                    sink = self.faulty(f"{stage}=delay=20ms,times=1",
                                       *([f"{stage}={after},times=1"] if after else []),
                                       options=options)
                    early = stage in ("connect", "greeting")
                    client = self.client(sink.port, greeting=False)
                    if not early:
                        self.assertEqual(client.reply(), 220)
                        self.up_to(stage, client)
                    reply = client.reply()
                    if after:
                        self.assertEqual(reply.text, "4.3.0 Late")
                    else:
                        self.assertEqual(reply.code, {"connect": 220, "greeting": 220, "data": 354,
                                                      "starttls": 220, "quit": 221}.get(stage, 250))
                    client.close()
                    self.assertEqual(sink.stop()[4], 1 if after else 0)

    def test_delays_add_up(self):
        """Both are waited for: the second alone would be over long before the test is."""
        sink = self.faulty("rset=delay=1ms", "rset=delay=1h,after=2", "rset=500 5.5.0 No,after=2")
        client = self.greeted(sink)
        client.command("RSET", 250)
        client.send("RSET\r\n")
        self.assertTrue(client.is_quiet(0.3))

    def test_a_delayed_client_goes_away(self):
        sink = self.faulty("mail=delay=100ms")
        client = self.greeted(sink)
        client.send("MAIL FROM:<a@example.net>\r\n")
        client.reset()
        late = self.greeted(sink)
        self.assertEqual(late.message(LETTER), 250)
        self.assertEqual(sink.stop()[:2], (2, 1))

    def test_commands_in_pieces(self):
        """A fault for a command waits for all of its line."""
        sink = self.faulty("rset=500 5.5.0 No", "helo=500 5.5.0 Never", "quit=500 5.5.0 Stay")
        client = self.greeted(sink)
        client.drip(b"RSET\r\nHELO x\r\n", pause=0.005)
        self.assertEqual([one.text for one in client.replies(2)], ["5.5.0 No", "5.5.0 Never"])
        client.drip(b"NOOP\r\nMAIL FROM:<a@example.net>\r\n", pause=0.002)
        self.assertEqual([one.code for one in client.replies(2)], [250, 250])
        for size in (2040, 2047, 2048, 3000, 5000, 40000):
            client.send(b"RSET" + b" " * size)
            client.send(b"\r\nRSET\r\n")
            codes = [one.code for one in client.replies(2)]
            self.assertEqual(codes, [500, 500], size)
        self.assertEqual(client.command("QUIT").text, "5.5.0 Stay")
        self.assertTrue(client.is_closed())

    def test_pipelined(self):
        """Each command meets its own fault, in order."""
        client = self.greeted(self.faulty("rcpt~bad*=550 5.1.1 No", "rset=delay=10ms",
                                          "end=451 4.3.0 Busy,times=1"))
        client.send(b"RSET\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<bad@example.com>\r\n"
                    b"RCPT TO:<good@example.com>\r\nRSET\r\nMAIL FROM:<a@example.net>\r\n"
                    b"RCPT TO:<good@example.com>\r\nBDAT 3 LAST\r\nx\r\nRSET\r\nNOOP\r\n")
        self.assertEqual([one.code for one in client.replies(10)],
                         [250, 250, 550, 250, 250, 250, 250, 451, 250, 250])
        client = self.greeted(self.faulty("rset=500 5.5.0 No,every=2", "quit=221 2.0.0 So long"))
        client.send("NOOP\r\nRSET\r\nNOOP\r\nWHAT\r\nRSET\r\nVRFY x\r\nRSET\r\nNOOP\r\nQUIT\r\n")
        replies = client.replies(9)
        self.assertEqual([one.code for one in replies],
                         [250, 250, 250, 500, 500, 252, 250, 250, 221])
        self.assertEqual((replies[4].text, replies[8].text), ("5.5.0 No", "2.0.0 So long"))

    def test_a_refusing_greeting_and_its_clients(self):
        """503 to each line, an end to what is no line."""
        sink = self.faulty("greeting=554 5.3.2 No service")
        client = self.client(sink.port)
        self.assertEqual(client.greeting.code, 554)
        client.drip(b"EHLO x\r\nMAIL FROM:<a@example.net>\r\n", sizes=3)
        self.assertEqual([one.code for one in client.replies(2)], [503, 503])
        client.send(b"x" * 5000)
        self.assertTrue(client.is_closed())
        client = self.client(sink.port)
        client.send("NOOP\r\nquit\r\nNOOP\r\n")
        self.assertEqual([one.code for one in client.replies(2)], [503, 221])
        self.assertTrue(client.is_closed())


class Transactions(Faults):

    def test_keep(self):
        """The window of RFC 1047: the message is there, and the client cannot know."""
        for action in ("keep-drop", "keep-stall"):
            for chunked in (False, True):
                with self.subTest(action=action, chunked=chunked):
                    sink = self.faulty(f"end={action}", options=("-v",))
                    client = self.greeted(sink)
                    client.envelope()
                    if chunked:
                        client.send(b"BDAT %d LAST\r\n%s" % (len(LETTER), LETTER))
                    else:
                        client.data(stuffed(LETTER))
                    wait_for(self.kept, what="it is kept")
                    if action == "keep-drop":
                        self.assertTrue(client.is_closed())
                    else:
                        self.assertTrue(client.is_quiet(0.05))
                    self.assertEqual(client.buffer, b"")
                    self.assertEqual(len(sink.lines("message")), 1)
                    self.assertEqual(sink.stop(), (1, 1, len(LETTER), 0, 1, 0))

    def test_kept_before_the_delay(self):
        """Only if it will be accepted."""
        sink = self.faulty("end=delay=1h", "end=451,from~late*")
        good, late = self.greeted(sink), self.greeted(sink)
        for client, sender in ((late, "late@example.net"), (good, "a@example.net")):
            client.envelope(sender)
            client.data(stuffed(LETTER))
        wait_for(self.kept, what="the good one is kept")
        self.assertTrue(good.is_quiet(0.05))
        self.assertTrue(late.is_quiet(0.05))
        self.assertEqual(self.kept(), 1)
        self.assertIn(b"Return-Path: <a@example.net>", mail_in(self.folder_of_mail)[0])

    def test_end_by_chunks(self):
        for chunk in (0, 5):
            sink = self.faulty("end=552 5.3.4 Too much,times=1")
            client = self.greeted(sink)
            self.assertEqual(client.chunked(LETTER, chunk).text, "5.3.4 Too much")
            self.assertEqual(client.chunked(LETTER, chunk), 250)
            self.assertEqual(self.kept(), 1)

    def test_data_by_chunks(self):
        """The refusal comes with the first BDAT, after its octets, and the rest is swallowed."""
        sink = self.faulty("data=452 4.3.1 Full,times=1")
        client = self.greeted(sink)
        client.envelope()
        client.send(b"BDAT 5\r\nRSET\r")
        reply = client.reply()
        self.assertEqual((reply.code, reply.enhanced), (452, "4.3.1"))
        client.command("RSET", 250)
        self.assertEqual(client.chunked(LETTER, 5), 250)
        for action in ("drop", "stall"):
            client = self.greeted(self.faulty(f"data={action}"))
            client.envelope()
            client.send(b"BDAT 5\r\nhello")
            self.assertTrue(client.is_closed() if action == "drop" else client.is_quiet(0.05))
            self.assertEqual(client.buffer, b"")

    def test_addresses(self):
        """Patterns of a stage and conditions: path, sender, recipients so far."""
        sink = self.faulty("mail~spam*@*=554 5.7.1 Spam", "from~=501 5.1.7 Null",
                           "rcpt~BAD?@example.com=550 5.1.1 No", "rcpt=551 5.1.6 Moved,from~mover@*",
                           "data=451 4.2.0 Late,rcpt~late@*", "end=554 5.6.0 Ugly,rcpt~ugly@*",
                           "body=421 4.7.0 Out,from~out@*")
        rows = [("spam1@x.test", "b@example.com", ["5.7.1 Spam"]),
                ("", "b@example.com", ["5.1.7 Null"]),
                ("a@x.test", "bad1@example.com", ["2.1.0", "5.1.1 No"]),
                ("mover@x.test", "b@example.com", ["2.1.0", "5.1.6 Moved"]),
                ("a@x.test", "late@example.com", ["2.1.0", "2.1.5", "4.2.0 Late"]),
                ("a@x.test", "ugly@example.com", ["2.1.0", "2.1.5", "", "5.6.0 Ugly"]),
                ("a@x.test", "bad@example.com", ["2.1.0", "2.1.5", "", "2.0.0"]),
                ("out@x.test", "b@example.com", ["2.1.0", "2.1.5", "", "4.7.0 Out"])]
        client = self.greeted(sink)
        for sender, recipient, texts in rows:
            with self.subTest(sender=sender, recipient=recipient):
                commands = (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA",
                            stuffed(LETTER)[:-2])
                for command, text in zip(commands, texts):
                    self.assertTrue(client.command(command).text.startswith(text))
                if sender != "out@x.test":
                    client.command("RSET", 250)
        self.assertTrue(client.is_closed())

    def test_occasions(self):
        """Counted over all connections, and only where the patterns fit."""
        rows = [(("end=451,times=2",), "112222"), (("end=451,after=3,times=1",), "221222"),
                (("end=451,every=3",), "221221"), (("end=451,every=2,after=1",), "121212"),
                (("end=451,from~b@*,after=2",), "222222"),
                (("end=451,times=1", "end=552,times=1"), "152222"), (("end=451,%100",), "111111")]
        for faults, want in rows:
            with self.subTest(faults=faults):
                sink = self.faulty(*faults)
                codes = []
                for _ in range(3):
                    client = self.greeted(sink)
                    codes += [client.message(LETTER).code for _ in range(2)]
                    client.quit()
                self.assertEqual("".join({250: "2", 451: "1", 552: "5"}[one] for one in codes),
                                 want)
                self.assertEqual(self.kept(), want.count("2"))

    def test_chance_and_seed(self):
        """The same seed, the same faults."""
        seen = []
        for seed in ("1", "1", "2", "18446744073709551615", None):
            sink = self.faulty("rset=500,%30", options=("--seed", seed) if seed else ())
            client = self.greeted(sink)
            seen.append([client.command("RSET").code for _ in range(100)])
            client.quit()
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[0], seen[2])
        for codes in seen:
            self.assertLess(5, codes.count(500))
            self.assertLess(5, codes.count(250))


class Bodies(Faults):

    LARGE = b"Subject: x\r\n\r\n" + b"".join(b".%06d %s\r\n" % (one, b"y" * 60)
                                            for one in range(1200))

    def test_after_octets(self):
        """Nothing before the octet, the fault at it, for whatever pieces come; wire octets count."""
        wire = stuffed(b".a\r\n" * 25)
        for action in ("drop:100", "421 4.7.0 Enough"):
            for pieces in (1, 7, 1000):
                with self.subTest(action=action, pieces=pieces):
                    sink = self.faulty(f"body={action}")
                    client = self.greeted(sink)
                    client.envelope()
                    client.command("DATA", 354)
                    if action.startswith("drop"):
                        client.drip(wire[:100], sizes=pieces)
                        self.assertTrue(client.is_quiet(0.05))
                    client.send(wire[100:101])
                    self.assertTrue(client.is_closed())
                    self.assertEqual(client.buffer, b"" if action.startswith("drop")
                                     else b"421 4.7.0 Enough\r\n")
                    self.assertEqual(sink.stop()[:2], (1, 0))
                    self.assertEqual(self.kept(), 0)

    def test_stall_after_octets(self):
        sink = self.faulty("body=stall:10kb")
        client = self.greeted(sink)
        client.envelope()
        client.data(stuffed(self.LARGE))
        self.assertTrue(client.is_quiet(0.1))
        self.assertEqual(self.kept(), 0)

    def test_a_message_that_ends_before_it(self):
        sink = self.faulty("body=drop:1mb", "end=250 2.6.0 Whole")
        client = self.greeted(sink)
        for _ in range(2):
            self.assertEqual(client.message(self.LARGE).text, "2.6.0 Whole")
            self.assertEqual(client.chunked(self.LARGE, 777).text, "2.6.0 Whole")
        self.assertEqual(self.kept(), 4)

    def test_in_chunks(self):
        """The octets of all chunks count, wherever the BDAT is cut."""
        wire = b"BDAT 4\r\nabcd" + b"BDAT 3\r\nefg" + b"BDAT 9 LAST\r\nhijk"
        for sizes in (1, 5, len(wire)):
            with self.subTest(sizes=sizes):
                sink = self.faulty("body=drop:10")
                client = self.greeted(sink)
                client.envelope()
                client.drip(wire, sizes=sizes)
                self.assertEqual([one.code for one in client.replies(2)], [250, 250])
                self.assertTrue(client.is_closed())
                self.assertEqual(client.buffer, b"")
                self.assertEqual(sink.stop()[1], 0)

    def test_commands_between_chunks(self):
        """A fault of theirs does not take the place of that of the body."""
        sink = self.faulty("body=drop:8", "rset=502 5.5.1 No", options=("-v",))
        client = self.greeted(sink)
        client.envelope()
        client.send(b"BDAT 4\r\nabcd")
        self.assertEqual(client.reply(), 250)
        client.command("RSET", 502)
        client.command("NOOP", 250)
        client.send(b"BDAT 10\r\n")
        client.send(b"0123456789")
        self.assertTrue(client.is_closed())
        self.assertEqual(client.buffer, b"")
        self.assertEqual(sink.lines("fault"), ["rset=502 5.5.1 No", "body=drop:8"])

    def test_slow(self):
        """It arrives as it is, by DATA and by BDAT, in clear and in TLS; the fault is counted."""
        for options in ((), self.tls("starttls")):
            for rate in ("1mb", "150kb", "99999999999gb"):
                with self.subTest(tls=bool(options), rate=rate):
                    sink = self.faulty(f"body=slow:{rate}", options=options)
                    client = self.greeted(sink)
                    if options:
                        client.starttls()
                    self.assertEqual(client.message(self.LARGE), 250)
                    self.assertEqual(client.chunked(self.LARGE, 30000), 250)
                    client.quit()
                    self.assertEqual([one.split(b"\r\n", 2)[2] for one in
                                      mail_in(self.folder_of_mail)], [self.LARGE] * 2)
                    self.assertEqual(sink.stop(), (1, 2, 2 * len(self.LARGE), 0, 2, 0))

    def test_very_slow(self):
        """Far more than it takes is sent: the client is held back, not cut off."""
        sink = self.faulty("body=slow:1", options=("-v",))
        client = self.greeted(sink)
        client.envelope()
        client.data(self.LARGE)
        self.assertTrue(client.is_quiet(0.2))
        self.assertEqual(sink.lines("fault"), ["body=slow:1"])
        self.assertEqual(sink.stop()[:2], (1, 0))
        self.assertTrue(client.is_closed())

    def test_slow_holds_a_large_message_back(self):
        """Much more than the sink holds unread, and the client ends in the middle of it."""
        sink = self.faulty("body=slow:4mb")
        client = self.greeted(sink)
        body = b"Subject: x\r\n\r\n" + b"z" * 70 + b"\r\n"
        body += (b"z" * 98 + b"\r\n") * 20000
        self.assertEqual(client.message(body), 250)
        client.envelope()
        client.data(body[:300000])
        client.close()
        self.assertEqual(self.greeted(sink).command("NOOP").code, 250)
        self.assertEqual(mail_in(self.folder_of_mail)[0].split(b"\r\n", 2)[2], body)

    def test_delay(self):
        client = self.greeted(self.faulty("body=delay=50ms", "body=drop:20,after=2"))
        self.assertEqual(client.message(LETTER), 250)
        client.envelope()
        client.data(stuffed(LETTER))
        self.assertTrue(client.is_closed())


class TlsFaults(Faults):

    def test_handshake(self):
        for mode in ("starttls", "implicit"):
            for action in ("drop", "stall"):
                with self.subTest(mode=mode, action=action):
                    sink = self.faulty(f"tls={action},times=1", options=self.tls(mode))
                    client = self.client(sink.port, greeting=mode == "starttls", seconds=20)
                    if mode == "starttls":
                        client.ehlo()
                        client.command("STARTTLS", 220)
                    if action == "drop":
                        with self.assertRaises((ssl.SSLError, OSError)):
                            client.handshake()
                    else:
                        client.socket.settimeout(0.2 * SLOW)
                        with self.assertRaises(TimeoutError):
                            client.handshake()
                    client.close()
                    good = self.client(sink.port, tls=mode == "implicit")
                    good.ehlo()
                    if mode == "starttls":
                        good.starttls()
                    self.assertEqual(good.message(LETTER), 250)
                    good.quit()
                    self.assertEqual(sink.stop()[4], 1)

    def test_starttls(self):
        sink = self.faulty("starttls=454 4.7.0 Not now,times=1", "starttls=drop",
                           options=self.tls("starttls"))
        client = self.greeted(sink)
        self.assertEqual(client.command("STARTTLS").text, "4.7.0 Not now")
        self.assertEqual(client.message(LETTER), 250)
        client.send("STARTTLS\r\n")
        self.assertTrue(client.is_closed())

    def test_stages_in_tls(self):
        """Words of faults are encrypted like all others."""
        for mode in ("starttls", "implicit"):
            with self.subTest(mode=mode):
                sink = self.faulty("ehlo=250 hello\\nX-LATER,after=2", "rcpt~bad*=550 5.1.1 No",
                                   "greeting=delay=5ms", "end=delay=5ms", "quit=drop",
                                   options=self.tls(mode))
                client = self.client(sink.port, tls=mode == "implicit")
                client.ehlo()
                if mode == "starttls":
                    client.starttls()
                else:
                    client.ehlo()
                self.assertEqual(client.extensions, {"X-LATER": ""})
                client.command("MAIL FROM:<a@example.net>", 250)
                client.command("RCPT TO:<bad@example.com>", 550)
                client.command("RSET", 250)
                self.assertEqual(client.message(LETTER), 250)
                client.send("QUIT\r\n")
                self.assertTrue(client.is_closed())
                self.assertEqual(client.buffer, b"")

    def test_refusing_greeting(self):
        client = self.client(self.faulty("greeting=554 5.3.2 No", options=self.tls("implicit")).port,
                             tls=True)
        self.assertEqual(client.greeting.code, 554)
        self.assertEqual(client.command("NOOP").code, 503)
