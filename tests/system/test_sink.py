"""`ringpost sink`: its options, what it keeps, how it reports and ends. Faults: test_sink_faults.py."""
import os
import pathlib
import re
import signal
import socket
import ssl
import sys

from harness import Client, SLOW, certificates, is_listening, reserve_port, stuffed, wait_for
from tools import Sink, ToolTest, mail_in
from traffic import together

CONFINED = str(pathlib.Path(__file__).with_name("confined.py"))
EXTENSIONS = {"PIPELINING": "", "SIZE": "1073741824", "8BITMIME": "", "SMTPUTF8": "", "DSN": "",
              "CHUNKING": "", "ENHANCEDSTATUSCODES": ""}
LETTER = b"Subject: x\r\n\r\nhello\r\n"


class Arguments(ToolTest):

    def test_help(self):
        for word in ("--help", "-h"):
            done = self.run_tool("sink", word)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("usage: ringpost sink [ADDRESS] [OPTIONS]", done.stdout)
            self.assertIn("--fault SPEC", done.stdout)

    def test_wrong(self):
        """Status 2, what is wrong and with which argument, and nothing is printed or started."""
        rows = [
            (("--wrong",), "--wrong"),
            (("--maildir",), "--maildir"),
            (("127.0.0.1:0", "more"), "'more' is one argument too many"),
            (("localhost:2626",), "'localhost:2626' is not an address and port"),
            (("127.0.0.1",), "'127.0.0.1' has no port"),
            (("127.0.0.1:70000",), "'127.0.0.1:70000' "),
            (("1.2.3:0",), "'1.2.3:0' is not an address and port"),
            (("x" * 100 + ":0",), "'" + "x" * 100 + ":0' "),
            (("::1:0",), "'::1:0' "),
            (("--hostname", "no host"), "--hostname 'no host' is no host name"),
            (("--hostname", ""), "--hostname '' is no host name"),
            (("--tls", "maybe"), "--tls 'maybe' is neither starttls nor implicit"),
            (("--tls", "starttls"), "--tls needs --certificate"),
            (("--tls", "implicit"), "--tls needs --certificate"),
            (("--key", "key.pem"), "--key needs --certificate"),
            (("--size-max", "0"), "--size-max '0' is too small"),
            (("--size-max", "much"), "--size-max 'much' is not a size"),
            (("--size-max", "1xb"), "--size-max '1xb' has an unknown unit"),
            (("--size-max", "99999999999gb"), "--size-max '99999999999gb' is too large"),
            (("--recipients-max", "0"), "--recipients-max '0' is too small"),
            (("--recipients-max", "1000001"), "--recipients-max '1000001' is too large"),
            (("--threads", "0"), "--threads '0' is too small"),
            (("--threads", "65"), "--threads '65' is too large"),
            (("--threads", "two"), "--threads 'two' is not a whole number"),
            (("--timeout", "0s"), "--timeout '0s' is no time"),
            (("--timeout", "soon"), "--timeout 'soon' is not a duration"),
            (("--timeout", "5"), "--timeout '5' has no unit"),
            (("--timeout", "366d"), "--timeout '366d' is longer than a year"),
            (("--timeout", "99999999999w"), "--timeout '99999999999w' is longer than a year"),
            (("--seed", "x"), "--seed 'x' is not a whole number"),
            (("--fault", "end"), "--fault end: 'end' has no '=', expected STAGE=ACTION"),
            (("--fault", "middle=drop"), "'middle' is no stage, expected connect"),
            (("--fault", "end=explode"), "'explode' is no action, expected CODE"),
            (("--fault", "end=drop,times=0"), "'times=0' is no condition"),
            (("--fault", "mail=keep-drop"), "keeps a message, which only end can do"),
            (("--fault", "greeting=delay=3"), "has no unit"),
            (("--fault", "end=delay=366d"), "is longer than a year"),
            (("--fault", "end=drop") * 65, "is one fault too many"),
        ]
        for arguments, text in rows:
            with self.subTest(arguments=arguments[:4]):
                done = self.run_tool("sink", *arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done)
                self.assertIn(text, done.stderr)
                if not arguments[0].startswith(("--wrong", "--maildir")):
                    self.assertRegex(done.stderr, r"\Aringpost: sink: ")
                    self.assertIn("Try: ringpost sink --help\n", done.stderr)

    def test_as_many_faults_as_there_may_be(self):
        faults = ["--fault", "rcpt~none@example.com=550"] * 63
        sink = self.sink(*faults, "--fault", "rcpt~last@example.com=550 5.1.1 The last")
        client = self.greeted(sink)
        client.command("MAIL FROM:<a@example.net>", 250)
        self.assertEqual(client.command("RCPT TO:<last@example.com>").text, "5.1.1 The last")

    def test_cannot_run(self):
        """Status 1, and the reason."""
        folder = self.folder()
        (folder / "file").write_text("x")
        (folder / "text.pem").write_text("this is no certificate\n")
        (folder / "partly").mkdir()
        (folder / "partly" / "cur").write_text("a file")
        (folder / "partly" / "tmp").mkdir()
        (folder / "partly" / "new").mkdir()
        good = certificates()
        rows = [
            (("--maildir", "file"), "file: Not a directory"),
            (("--maildir", "file/mail"), "file/mail: Not a directory"),
            (("--maildir", "none/mail"), "none/mail: No such file or directory"),
            (("--maildir", "partly"), "partly: Not a directory"),
            (("--maildir", "file", "--threads", "3"), "file: Not a directory"),
            (("--tls", "starttls", "--certificate", "none.pem"), "none.pem"),
            (("--tls", "starttls", "--certificate", "text.pem"), "text.pem"),
            (("--tls", "implicit", "--certificate", good.localhost.certificate, "--key",
              "none.key"), "none.key"),
            (("--tls", "implicit", "--certificate", good.localhost.certificate, "--key",
              good.hop.key), "localhost"),
        ]
        for arguments, text in rows:
            with self.subTest(arguments=arguments):
                done = self.run_tool("sink", "127.0.0.1:0", *arguments, cwd=folder)
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                self.assertIn(text, done.stderr)
                self.assertRegex(done.stderr, r"\Aringpost: sink: ")

    def test_address_is_in_use(self):
        for threads in ("1", "2"):
            with self.subTest(threads=threads), reserve_port() as holder:
                holder.listen()
                port = holder.getsockname()[1]
                done = self.run_tool("sink", f"127.0.0.1:{port}", "--threads", threads)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(done.stderr, "ringpost: sink: cannot listen on port "
                                 f"{port}: Address already in use\n")

    def test_a_foreign_address(self):
        done = self.run_tool("sink", "192.0.2.1:2626")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Cannot assign requested address", done.stderr)

    def test_without_io_uring(self):
        done = self.run_tool("sink", "127.0.0.1:0",
                             wrapper=(sys.executable, CONFINED, "--refuse-io-uring", "1"))
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("io_uring is not permitted here", done.stderr)

    def test_default_address(self):
        """It listens on 127.0.0.1:2626, or says that somebody does."""
        sink = Sink(self.folder(), ())
        self.addCleanup(sink.process.kill)
        wait_for(lambda: sink.output() or sink.process.poll() is not None, what="an end or a start")
        if sink.process.poll() is None:
            self.assertEqual(sink.output(), "sink: listening on 127.0.0.1:2626\n")
            sink.stop()
        else:
            self.assertEqual(sink.errors(), "ringpost: sink: cannot listen on port 2626: "
                             "Address already in use\n")

    def test_addresses(self):
        with reserve_port() as holder:
            port = holder.getsockname()[1]
            sink = self.sink(address=f"127.0.0.1:{port}")
            self.assertEqual((sink.address, sink.port), ("127.0.0.1", port))
            self.assertEqual(self.client(port).quit(), 221)
        sink = self.sink(address="[::1]:0")
        self.assertEqual(sink.address, "[0:0:0:0:0:0:0:1]")
        self.assertEqual(self.client(sink.port, address="::1").quit(), 221)
        with self.assertRaises(ConnectionRefusedError):
            Client(sink.port)


class Sessions(ToolTest):

    def test_greeting_and_extensions(self):
        sink = self.sink()
        client = self.client(sink.port)
        self.assertRegex(client.greeting.text, r"\Asink\.example ESMTP\b")
        self.assertEqual(client.ehlo(), EXTENSIONS)
        self.assertEqual(client.command("HELO client.test").lines, ["250 sink.example"])
        self.assertEqual(client.command("STARTTLS").code, 502)
        client.quit()

    def test_hostname(self):
        client = self.client(self.sink("--hostname", "mx.test").port)
        self.assertRegex(client.greeting.text, r"\Amx\.test ")
        self.assertRegex(client.command("EHLO x").lines[0], r"\A250-mx\.test\b")

    def test_extensions_that_are_left_out(self):
        """Not offered, and its parameters and commands are refused."""
        rows = [("--no-pipelining", "PIPELINING", None, 0),
                ("--no-chunking", "CHUNKING", "BDAT 0 LAST", 502),
                ("--no-8bitmime", "8BITMIME", "MAIL FROM:<a@example.net> BODY=8BITMIME", 555),
                ("--no-smtputf8", "SMTPUTF8", "MAIL FROM:<a@example.net> SMTPUTF8", 555),
                ("--no-dsn", "DSN", "MAIL FROM:<a@example.net> RET=HDRS", 555),
                ("--no-size", "SIZE", "MAIL FROM:<a@example.net> SIZE=5", 555)]
        for option, word, command, code in rows:
            with self.subTest(option=option):
                client = self.greeted(self.sink(option))
                self.assertEqual(client.extensions,
                                 {key: value for key, value in EXTENSIONS.items() if key != word})
                if command:
                    self.assertEqual(client.command(command).code, code)
                self.assertEqual(client.message(LETTER), 250)
        client = self.greeted(self.sink(*(row[0] for row in rows)))
        self.assertEqual(client.extensions, {"ENHANCEDSTATUSCODES": ""})

    def test_no_ehlo(self):
        client = self.client(self.sink("--no-ehlo").port)
        self.assertEqual(client.command("EHLO client.test").code, 502)
        client.command("HELO client.test", 250)
        self.assertEqual(client.message(LETTER), 250)

    def test_pipelining_that_was_not_offered(self):
        """It is answered all the same, and counted."""
        for option, trusting in ((("--no-pipelining",), True), ((), False)):
            with self.subTest(option=option):
                sink = self.sink(*option)
                client = self.greeted(sink)
                client.send("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n"
                            "RCPT TO:<c@example.com>\r\nDATA\r\n")
                self.assertEqual([one.code for one in client.replies(4)], [250, 250, 250, 354])
                client.send(stuffed(LETTER))
                self.assertEqual(client.reply(), 250)
                client.quit()
                self.assertEqual(sink.stop()[5] > 0, trusting)

    def test_commands_one_by_one_are_not_counted(self):
        sink = self.sink("--no-pipelining")
        client = self.greeted(sink)
        self.assertEqual(client.message(LETTER), 250)
        client.quit()
        self.assertEqual(sink.stop(), (1, 1, len(LETTER), 0, 0, 0))

    def test_size_max(self):
        sink = self.sink("--size-max", "1000", "--maildir", "mail")
        client = self.greeted(sink)
        self.assertEqual(client.extensions["SIZE"], "1000")
        self.assertEqual(client.command("MAIL FROM:<a@example.net> SIZE=1001").code, 552)
        fits = LETTER + b"x" * (1000 - len(LETTER) - 2) + b"\r\n"
        self.assertEqual(client.message(fits), 250)
        self.assertEqual(client.message(b"y" + fits), 552)
        self.assertEqual(client.chunked(fits), 250)
        self.assertEqual(client.chunked(b"y" + fits), 552)
        client.quit()
        self.assertEqual(len(mail_in(sink.out.parent / "mail")), 2)
        self.assertEqual(sink.stop(), (1, 2, 2000, 3, 0, 0))

    def test_recipients_max(self):
        client = self.greeted(self.sink("--recipients-max", "2"))
        client.envelope(recipients=["a@example.com", "b@example.com"])
        self.assertEqual(client.command("RCPT TO:<c@example.com>").code, 452)

    def test_timeout(self):
        """Who says nothing is cut off, in a command and in a message; who is heard is not."""
        sink = self.sink("--timeout", "300ms")
        idle, writing = self.client(sink.port), self.greeted(sink)
        writing.envelope()
        writing.data(LETTER)
        self.assertTrue(idle.is_closed())
        self.assertTrue(writing.is_closed())
        self.assertEqual(self.client(sink.port).quit(), 221)
        self.assertEqual(sink.stop()[:2], (3, 0))

    def test_the_longest_timeout(self):
        client = self.greeted(self.sink("--timeout", "365d"))
        self.assertTrue(client.is_quiet(0.3))
        self.assertEqual(client.message(LETTER), 250)

    def test_strict(self):
        """The relay's own receiver: line ends other than CRLF do not get in."""
        sink = self.sink("--maildir", "mail")
        client = self.greeted(sink)
        client.envelope()
        client.data(b"Subject: x\r\n\r\nsmuggled\n.\n\r\n.\r\n")
        self.assertEqual(client.reply().code // 100, 5)
        self.assertEqual(mail_in(sink.out.parent / "mail"), [])

    def test_threads(self):
        sink = self.sink("--threads", "3", "--maildir", "mail", "--fault", "rcpt~bad*=550")

        def session(number: int) -> int:
            with Client(sink.port) as client:
                client.ehlo()
                client.command("MAIL FROM:<a@example.net>", 250)
                client.command("RCPT TO:<bad@example.com>", 550)
                client.command("RSET", 250)
                reply = client.message(b"Subject: %d\r\n\r\n" % number)
                client.command("QUIT", 221)
                return reply.code

        codes = together([lambda number=number: session(number) for number in range(40)])
        self.assertEqual(codes, [250] * 40)
        names = [path.name for path in (sink.out.parent / "mail" / "new").iterdir()]
        self.assertEqual(len(names), 40)
        self.assertGreater(len({re.search(r"W(\d+)Q", name).group(1) for name in names}), 1)
        subjects = {int(re.search(rb"Subject: (\d+)", one).group(1))
                    for one in mail_in(sink.out.parent / "mail")}
        self.assertEqual(subjects, set(range(40)))
        self.assertEqual(sink.stop()[:5], (40, 40, sum(len(b"Subject: %d\r\n\r\n" % one)
                                                       for one in range(40)), 40, 40))


class Maildir(ToolTest):

    BODIES = [
        ("plain", b"Subject: x\r\n\r\nhello\r\n"),
        ("dots", b".\r\n..\r\n.a\r\nb.\r\n\r\n.\r\n.\r\n"),
        ("eight bits", b"Subject: \xc3\xa4\r\n\r\n\xff\x80\r\n"),
        ("empty lines", b"\r\n\r\n\r\n"),
        ("nothing", b""),
        ("large", b"Subject: x\r\n\r\n" + b"".join(b".%06d %s\r\n" % (one, b"y" * 60)
                                                  for one in range(9000))),
    ]

    def fields(self, end: bytes, sender: bytes, *recipients: bytes) -> bytes:
        return b"Return-Path: <" + sender + b">" + end + b"".join(
            b"X-Original-To: " + one + end for one in recipients)

    def test_contents(self):
        """Octet for octet: by DATA with its stuffing taken off, by BDAT as it is."""
        for lf in (False, True):
            sink = self.sink("--maildir", "mail", *(["--lf"] if lf else []))
            maildir = sink.out.parent / "mail"
            client = self.greeted(sink)
            end = b"\n" if lf else b"\r\n"
            head = self.fields(end, b"a@example.net", b"b@example.com")
            for name, body in self.BODIES:
                for how in ("DATA", "BDAT", "BDAT in chunks"):
                    with self.subTest(lf=lf, body=name, how=how):
                        if how == "DATA":
                            self.assertEqual(client.message(body), 250)
                        else:
                            chunk = 0 if how == "BDAT" else max(1, len(body) // 7)
                            self.assertEqual(client.chunked(body, chunk), 250)
                        kept = mail_in(maildir)
                        self.assertEqual(len(kept), 1)
                        self.assertTrue(kept[0] == head + (body.replace(b"\r\n", b"\n") if lf
                                                           else body), kept[0][:300])
                        for path in (maildir / "new").iterdir():
                            path.unlink()
            self.assertEqual(list((maildir / "tmp").iterdir()), [])
            self.assertTrue((maildir / "cur").is_dir())
            self.assertEqual(sink.stop()[1:3], (3 * len(self.BODIES), 3 * sum(
                len(body) for _, body in self.BODIES)))

    def test_envelope(self):
        """Reverse-path and recipients as they were accepted; those refused are left out."""
        sink = self.sink("--maildir", "mail", "--fault", "rcpt~bad*=550", "--hostname", "mx.test")
        client = self.greeted(sink)
        client.command("MAIL FROM:<>", 250)
        for one, code in (("b@example.com", 250), ("bad@example.com", 550), ("Postmaster", 250),
                          ('"odd \\" one"@example.com', 250)):
            client.command(f"RCPT TO:<{one}>", code)
        client.data(stuffed(LETTER))
        self.assertEqual(client.reply(), 250)
        client.command("MAIL FROM:<ä@example.net> SMTPUTF8", 250)
        client.command("RCPT TO:<ö@example.com>", 250)
        client.data(stuffed(LETTER))
        self.assertEqual(client.reply(), 250)
        first, second = mail_in(sink.out.parent / "mail")
        self.assertEqual(first, self.fields(b"\r\n", b"", b"b@example.com", b"Postmaster",
                                            b'"odd \\" one"@example.com') + LETTER)
        self.assertEqual(second, self.fields(b"\r\n", "ä@example.net".encode(),
                                             "ö@example.com".encode()) + LETTER)
        for path in (sink.out.parent / "mail" / "new").iterdir():
            self.assertRegex(path.name, r"\A\d+\.M\d{6}P\d+W0Q[12]\.mx\.test\Z")
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    def test_what_is_not_kept(self):
        """Messages that were given up leave nothing behind, not even a file in tmp."""
        sink = self.sink("--maildir", "mail")
        large = dict(self.BODIES)["large"]
        client = self.greeted(sink)
        client.envelope()
        client.command("RSET", 250)
        client.envelope()
        client.send(b"BDAT %d\r\n%s" % (len(large), large))
        self.assertEqual(client.reply(), 250)
        maildir = sink.out.parent / "mail"
        self.assertEqual(len(list((maildir / "tmp").iterdir())), 1)
        client.command("RSET", 250)
        self.assertEqual(list((maildir / "tmp").iterdir()), [])
        client.envelope()
        client.data(large)
        wait_for(lambda: list((maildir / "tmp").iterdir()), what="a part of it is written")
        client.close()
        wait_for(lambda: not list((maildir / "tmp").iterdir()), what="the part is taken away")
        self.assertEqual(mail_in(maildir), [])
        self.assertEqual(sink.stop()[1:3], (0, 0))

    def test_directories_are_used_again(self):
        folder = self.folder()
        for turn in (1, 2):
            sink = self.sink("--maildir", str(folder / "mail"))
            self.assertEqual(self.greeted(sink).message(LETTER), 250)
            sink.stop()
            self.assertEqual(len(list((folder / "mail" / "new").iterdir())), turn)

    def test_it_cannot_write(self):
        """The message is deferred, nobody is told that it was kept, and the next one is tried."""
        sink = self.sink("--maildir", "mail")
        maildir = sink.out.parent / "mail"
        client = self.greeted(sink)
        self.assertEqual(client.message(LETTER), 250)
        (maildir / "tmp").rmdir()
        reply = client.message(LETTER)
        self.assertEqual((reply.code, reply.text), (451, "4.3.0 Cannot store the message"))
        self.assertEqual(client.chunked(LETTER), 451)
        self.assertEqual(client.command("NOOP").code, 250)
        self.assertEqual(sink.errors(), "ringpost: sink: cannot store a message: "
                         "No such file or directory\n" * 2)
        self.assertEqual(sink.stop()[:4], (1, 1, len(LETTER), 2))

    def test_it_cannot_write_what_a_fault_accepts(self):
        sink = self.sink("--maildir", "mail", "--fault", "end=250 2.6.0 Kept")
        client = self.greeted(sink)
        self.assertEqual(client.message(LETTER).text, "2.6.0 Kept")
        (sink.out.parent / "mail" / "tmp").rmdir()
        self.assertEqual(client.message(LETTER), 451)

    def test_it_cannot_move(self):
        sink = self.sink("--maildir", "mail")
        maildir = sink.out.parent / "mail"
        (maildir / "new").rmdir()
        self.assertEqual(self.greeted(sink).message(LETTER), 451)
        self.assertEqual(list((maildir / "tmp").iterdir()), [])

    def test_it_cannot_write_in_the_middle(self):
        """A large message is written while it comes: the client is told in the middle of it."""
        sink = self.sink("--maildir", "mail")
        client = self.greeted(sink)
        (sink.out.parent / "mail" / "tmp").rmdir()
        client.envelope()
        client.data(stuffed(dict(self.BODIES)["large"]))
        reply = client.reply()
        self.assertEqual(reply.code, 421)
        self.assertIn("4.3.0 sink.example Cannot store the message", reply.text)
        self.assertTrue(client.is_closed())
        self.assertEqual(sink.stop()[1], 0)

    def test_the_disk_is_full(self):
        """The limit on a file's size stands for a full disk."""
        sink = self.sink("--maildir", "mail", wrapper=(
            "sh", "-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"))
        client = self.greeted(sink)
        self.assertEqual(client.message(LETTER), 250)
        self.assertEqual(client.message(LETTER * 2000), 451)
        self.assertEqual(client.message(LETTER), 250)
        self.assertEqual(list((sink.out.parent / "mail" / "tmp").iterdir()), [])
        self.assertEqual(len(mail_in(sink.out.parent / "mail")), 2)
        self.assertEqual(sink.errors(),
                         "ringpost: sink: cannot store a message: File too large\n")


class Tls(ToolTest):

    def files(self, key: bool = True) -> tuple[str, ...]:
        good = certificates().localhost
        return ("--certificate", good.certificate, *(("--key", good.key) if key else ()))

    def test_starttls(self):
        sink = self.sink("--tls", "starttls", *self.files(), "--maildir", "mail")
        client = self.greeted(sink)
        self.assertIn("STARTTLS", client.extensions)
        client.starttls()
        self.assertNotIn("STARTTLS", client.extensions)
        self.assertEqual(client.socket.version(), "TLSv1.3")
        self.assertEqual(client.message(LETTER), 250)
        self.assertEqual(client.chunked(LETTER, 5), 250)
        self.assertEqual(client.command("STARTTLS").code // 100, 5)
        client.quit()
        self.assertEqual([one.split(b"\r\n", 2)[2] for one in mail_in(sink.out.parent / "mail")],
                         [LETTER, LETTER])

    def test_implicit(self):
        sink = self.sink("--tls", "implicit", *self.files())
        client = self.client(sink.port, tls=True)
        self.assertNotIn("STARTTLS", client.ehlo())
        self.assertEqual(client.message(LETTER), 250)
        client.quit()
        self.assertEqual(sink.stop()[:2], (1, 1))

    def test_key_and_certificate_in_one_file(self):
        good = certificates().localhost
        path = self.folder() / "both.pem"
        path.write_text(pathlib.Path(good.key).read_text()
                        + pathlib.Path(good.certificate).read_text())
        client = self.greeted(self.sink("--tls", "starttls", "--certificate", str(path)))
        client.starttls()
        self.assertEqual(client.message(LETTER), 250)

    def test_no_starttls(self):
        client = self.greeted(self.sink("--tls", "starttls", *self.files(), "--no-starttls"))
        self.assertEqual(client.extensions, EXTENSIONS)
        self.assertEqual(client.command("STARTTLS").code, 502)

    def test_plaintext_behind_starttls(self):
        """RFC 3207 6: what came before the handshake is no part of the session in it."""
        client = self.greeted(self.sink("--tls", "starttls", *self.files()))
        client.send("STARTTLS\r\nNOOP\r\n")
        self.assertNotEqual(client.reply().code, 220)

    def test_a_handshake_that_fails(self):
        sink = self.sink("--tls", "starttls", *self.files(), "--verbose")
        client = self.greeted(sink)
        client.command("STARTTLS", 220)
        with self.assertRaises(ssl.SSLCertVerificationError):
            client.handshake(ssl.create_default_context())
        client.close()
        wait_for(lambda: sink.lines("TLS handshake failed:"), what="the failure is printed")
        client = self.greeted(sink)
        client.command("STARTTLS", 220)
        client.send("no handshake at all\r\n")
        self.assertTrue(client.is_closed())
        wait_for(lambda: len(sink.lines("TLS handshake failed:")) == 2, what="that too")
        client = self.greeted(sink)
        client.starttls()
        client.quit()

    def test_the_client_goes_away_in_the_handshake(self):
        sink = self.sink("--tls", "implicit", *self.files())
        Client(sink.port, greeting=False).close()
        half = Client(sink.port, greeting=False)
        half.send(b"\x16\x03\x01")
        half.close()
        client = self.client(sink.port, tls=True)
        client.ehlo()
        self.assertEqual(client.message(LETTER), 250)
        client.quit()
        self.assertEqual(sink.stop()[:2], (3, 1))


class Report(ToolTest):

    def test_both_signals(self):
        """The report, status 0, sessions are cut off, the port is free again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                sink = self.sink()
                idle, writing = self.greeted(sink), self.greeted(sink)
                self.assertEqual(idle.message(LETTER), 250)
                self.assertEqual(idle.command("BREW coffee").code // 100, 5)
                writing.envelope()
                writing.data(LETTER)
                self.assertEqual(sink.stop(number), (2, 1, len(LETTER), 1, 0, 0))
                self.assertTrue(idle.is_closed())
                self.assertTrue(writing.is_closed())
                self.assertFalse(is_listening(sink.port))

    def test_nothing_came(self):
        sink = self.sink()
        self.assertEqual(sink.stop(), (0, 0, 0, 0, 0, 0))
        self.assertEqual(sink.output().splitlines()[1:],
                         ["sink: 0 connections, 0 messages, 0 bytes, 0 refused"])

    def test_quiet(self):
        """Nothing but errors."""
        with reserve_port() as holder:
            port = holder.getsockname()[1]
            for option in ("-q", "--quiet"):
                sink = Sink(self.folder(), (f"127.0.0.1:{port}", option, "--fault", "rset=500",
                                            "--maildir", "mail"))
                self.addCleanup(sink.process.kill)
                wait_for(lambda: is_listening(port), what="it listens")
                with Client(port) as client:
                    client.ehlo()
                    client.command("RSET", 500)
                    self.assertEqual(client.message(LETTER), 250)
                    (sink.out.parent / "mail" / "tmp").rmdir()
                    self.assertEqual(client.message(LETTER), 451)
                sink.process.terminate()
                self.assertEqual(sink.process.wait(20 * SLOW), 0)
                self.assertEqual(sink.output(), "")
                self.assertIn("cannot store a message", sink.errors())

    def test_verbose(self):
        """A line for each message that was kept and for each fault, before its reply is out."""
        for option in ("-v", "--verbose"):
            sink = self.sink(option, "--fault", "rcpt~bad*=550", "--fault", "end=451,after=3")
            client = self.greeted(sink)
            self.assertEqual(client.message(LETTER, recipients=["b@example.com", "c@example.com"]),
                             250)
            client.command("MAIL FROM:<>", 250)
            client.command("RCPT TO:<bad@example.com>", 550)
            client.command("RCPT TO:<good@example.com>", 250)
            client.command(b"BDAT 0 LAST", 250)
            self.assertEqual(client.message(LETTER), 451)
            self.assertEqual(sink.lines("message"), [
                f"from=<a@example.net> to=<b@example.com>,<c@example.com> size={len(LETTER)} kept",
                "from=<> to=<good@example.com> size=0 kept"])
            self.assertEqual(sink.lines("fault"), ["rcpt~bad*=550", "end=451,after=3"])
            self.assertEqual(sink.stop(), (1, 2, len(LETTER), 2, 2, 0))

    def test_verbose_with_many_recipients(self):
        sink = self.sink("-v")
        recipients = [f"{one:04}@example.com" for one in range(200)]
        self.assertEqual(self.greeted(sink).message(LETTER, recipients=recipients), 250)
        self.assertEqual(len(sink.lines("message")), 1)
        self.assertRegex(sink.lines("message")[0], r"\Afrom=<a@example\.net> to=<0000@example\.com>,"
                         r"<0001@example\.com>,.* size=\d+ kept\Z")

    def test_count_file(self):
        sink = self.sink("--count-file", "count", "--fault", "rset=500 5.5.0 No")
        path = sink.out.parent / "count"
        self.assertEqual(path.read_text(), "mesg=0 sess=0 quit=0 bytes=0 refused=0 faults=0\n")
        client = self.greeted(sink)
        for _ in range(3):
            self.assertEqual(client.message(LETTER), 250)
        want = f"mesg=3 sess=1 quit=0 bytes={3 * len(LETTER)} "
        wait_for(lambda: path.read_text().startswith(want), what="the file tells of three")
        client.command("RSET", 500)
        client.quit()
        sink.stop()
        self.assertEqual(path.read_text(),
                         f"mesg=3 sess=1 quit=1 bytes={3 * len(LETTER)} refused=1 faults=1\n")
        self.assertFalse(path.with_name("count.new").exists())

    def test_count_file_that_cannot_be_written(self):
        """It says so, and goes on."""
        sink = self.sink("--count-file", "none/count")
        wait_for(sink.errors, what="an error")
        self.assertIn("none/count.new: No such file or directory", sink.errors())
        self.assertEqual(self.greeted(sink).message(LETTER), 250)
        self.assertEqual(sink.stop()[:2], (1, 1))
        folder = self.folder()
        (folder / "count").mkdir()
        sink = self.sink("--count-file", str(folder / "count"))
        wait_for(sink.errors, what="an error")
        self.assertIn("count: Is a directory", sink.errors())

    def test_few_descriptors(self):
        """Who cannot be accepted now is accepted later."""
        sink = self.sink(wrapper=(sys.executable, CONFINED, "--descriptors", "40"))
        most = 40 - len(os.listdir(f"/proc/{sink.process.pid}/fd"))
        held = [self.client(sink.port) for _ in range(most)]
        late = [Client(sink.port, greeting=False) for _ in range(3)]
        for one in late:
            self.addCleanup(one.close)
        for one in held:
            one.close()
        for one in late:
            self.assertEqual(one.reply(), 220)

    def test_abrupt_ends(self):
        sink = self.sink()
        for text in ("", "MAIL FROM:<a@example.net>\r\n", "MAIL FROM"):
            client = self.greeted(sink)
            client.send(text)
            client.reset()
        client = self.greeted(sink)
        client.send("NOOP")
        client.socket.shutdown(socket.SHUT_WR)
        self.assertTrue(client.is_closed())
        self.assertEqual(self.greeted(sink).message(LETTER), 250)
        self.assertEqual(sink.stop()[:2], (5, 1))

    def test_a_client_that_ends_first(self):
        """Nothing more is awaited from it: its socket is closed long before the next greeting."""
        sink = self.sink("--fault", "greeting=delay=1s,after=2")
        before = len(os.listdir(f"/proc/{sink.process.pid}/fd"))
        self.greeted(sink).close()
        self.client(sink.port)
        self.assertEqual(len(os.listdir(f"/proc/{sink.process.pid}/fd")), before + 1)
