"""`ringpost send`: its options, what it sends octet for octet, and what it says of the verdict."""
import os
import pathlib
import re
import socket
import sys

from harness import Default, Drop, EXTENSIONS, Raw, Stall, certificates, reserve_port
from tools import ToolTest, mail_in

CONFINED = str(pathlib.Path(__file__).with_name("confined.py"))
LETTER = b"Subject: x\r\n\r\nhello\r\n"


class Send(ToolTest):

    def send(self, where, *arguments: str, to: tuple[str, ...] = ("b@example.com",),
             sender: str = "a@example.net", **options):
        """`ringpost send` to a next hop, a sink or HOST:PORT."""
        server = where if isinstance(where, str) else where.server
        return self.run_tool("send", "--server", server, "--from", sender,
                             *(one for name in to for one in ("--to", name)), *arguments,
                             **options)

    def expect(self, done, status: int, *lines: str, errors: str = "") -> None:
        """What it prints and ends with."""
        self.assertEqual(done.returncode, status, done)
        self.assertEqual(done.stdout.splitlines(), list(lines), done)
        self.assertEqual(done.stderr, errors)


class Arguments(Send):

    def test_help(self):
        for word in ("--help", "-h"):
            done = self.run_tool("send", word)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("usage: ringpost send --server HOST:PORT", done.stdout)

    def test_wrong(self):
        """Status 2, what is wrong, and nothing is sent."""
        good = ("--server", "127.0.0.1:9", "--from", "a@example.net", "--to", "b@example.com")
        rows = [
            ((), "--server HOST:PORT is missing"),
            (good[2:], "--server HOST:PORT is missing"),
            (good[:2] + good[4:], "--from ADDRESS is missing ('' for the null reverse-path)"),
            (good[:4], "--to ADDRESS is missing"),
            (good[:4] + ("--to", ""), "--to '' is no recipient"),
            (good[:4] + ("--to", "<>"), "--to '' is no recipient"),
            ((*good, "more"), "'more' is one argument too many"),
            (("--server", "a b"), "--server 'a b' is not a server"),
            (("--server", "mx:0"), "--server 'mx:0' "),
            (("--server", "mx:70000"), "--server 'mx:70000' "),
            (("--server", "::1"), "--server '::1' "),
            (("--server", "a" * 300), "--server '" + "a" * 300 + "' "),
            (("--from", "a b@x"), "--from 'a b@x' has an octet that no address can have"),
            (("--to", "a@x>\r\nRSET"), "has an octet that no address can have"),
            (("--to", "a\x7f@x"), "has an octet that no address can have"),
            (("--to", "a" * 400), "is too long"),
            (("--count", "0"), "--count '0' is too small"),
            (("--count", "many"), "--count 'many' is not a whole number"),
            (("-c", "0"), "--connections '0' is too small"),
            (("-c", "4097"), "--connections '4097' is too large"),
            (("--size", "300mb"), "--size '300mb' is too large"),
            (("--size", "1.5mb"), "--size '1.5mb' has a fraction"),
            (("--chunk-size", "0"), "--chunk-size '0' is too small"),
            (("--subject", "a\nb"), "--subject 'a\nb' has more than one line"),
            (("--tls", "yes"), "--tls 'yes' is none of none, starttls, implicit, verify"),
            (("--helo", "no host"), "--helo 'no host' is no host name"),
            (("--timeout", "0s"), "--timeout '0s' is no time"),
            (("--timeout", "60"), "--timeout '60' has no unit"),
            (("--timeout", "366d"), "--timeout '366d' is longer than a year"),
            (("--dsn", "sometimes"), "--dsn 'sometimes' is no list of never, success"),
            (("--dsn", "full,,never"), "--dsn 'full,,never' is no list of"),
            (("--dsn", "envid="), "--dsn 'envid=' is no list of"),
            (("--dsn", "envid=a b"), "--dsn 'envid=a b' is no list of"),
            (("--dsn", "never,delay"), "--dsn 'never,delay' says never and more"),
            ((*good, "--data", "-", "--subject", "x"), "--data is the whole message"),
            ((*good, "--data", "-", "--body", "x"), "--data is the whole message"),
            ((*good, "--data", "-", "--size", "1"), "--data is the whole message"),
            ((*good, "--body", "x", "--size", "1"), "--body and --size exclude each other"),
            ((*good, "--ca", "x"), "--ca and --tls-name need --tls"),
            ((*good, "--tls-name", "x", "--tls", "none"), "--ca and --tls-name need --tls"),
        ]
        for arguments, text in rows:
            with self.subTest(arguments=arguments):
                done = self.run_tool("send", *arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done)
                self.assertIn(text, done.stderr)
                self.assertRegex(done.stderr, r"\Aringpost: send: ")
                self.assertTrue(done.stderr.endswith("Try: ringpost send --help\n"))
        done = self.run_tool("send", "--wrong")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        self.assertIn("--wrong", done.stderr)

    def test_what_is_needed_first(self):
        """Status 1 before anything is connected."""
        hop = self.next_hop()
        folder = self.folder()
        (folder / "text.pem").write_text("this is no certificate\n")
        rows = [(("--data", "none.eml"), "none.eml: No such file or directory"),
                (("--data", "."), ".: cannot read it: Is a directory"),
                (("--size", "100kb", "--chunk-size", "20"),
                 "--chunk-size is too small: more than 4096 chunks"),
                (("--tls", "starttls", "--ca", "none.pem"), "none.pem"),
                (("--tls", "verify", "--ca", "text.pem"), "text.pem")]
        for arguments, text in rows:
            with self.subTest(arguments=arguments):
                done = self.send(hop, *arguments, cwd=folder)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertIn(text, done.stderr)
                self.assertRegex(done.stderr, r"\Aringpost: send: ")
        self.assertEqual(hop.sessions, [])

    def test_a_file_that_is_too_large(self):
        path = self.folder() / "large.eml"
        with path.open("wb") as file:
            file.truncate(600 << 20)
        done = self.send(self.next_hop(), "--data", str(path))
        self.expect(done, 1, errors=f"ringpost: send: {path}: too large\n")

    def test_no_io_uring(self):
        done = self.send(self.next_hop(),
                         wrapper=(sys.executable, CONFINED, "--refuse-io-uring", "38"))
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no io_uring at all", done.stderr)


class Servers(Send):

    def test_unreachable(self):
        with reserve_port() as holder:
            server = f"127.0.0.1:{holder.getsockname()[1]}"
            self.expect(self.send(server), 1, errors=(
                f"ringpost: send: {server}: cannot connect: Connection refused\n"
                "ringpost: send: 1 of 1 messages were not sent\n"))
            done = self.send(server, "-n", "20", "-c", "3")
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr.count("Connection refused"), 3)
            self.assertIn("20 of 20 messages were not sent", done.stderr)

    def test_no_such_host(self):
        done = self.send("nobody.invalid:25")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, r"\Aringpost: send: nobody\.invalid: \S")

    def test_all_addresses_are_tried(self):
        """localhost is ::1 and 127.0.0.1, wherever the server is."""
        found = {one[4][0] for one in socket.getaddrinfo("localhost", 25, type=socket.SOCK_STREAM)}
        hop = self.next_hop()
        done = self.send(f"localhost:{hop.server.rsplit(':', 1)[1]}")
        self.assertEqual(done.returncode, 0, done)
        self.assertEqual(done.stderr.count("cannot connect"), 1 if "::1" in found else 0)
        self.assertEqual(len(hop.messages), 1)

    def test_no_ipv6(self):
        """No socket for the first address: the next one is tried."""
        hosts = self.folder() / "hosts"
        hosts.write_text("::1 both.test\n127.0.0.1 both.test\n")
        hop = self.next_hop()
        done = self.send(f"both.test:{hop.server.rsplit(':', 1)[1]}",
                         wrapper=(sys.executable, CONFINED, "--hosts", str(hosts), "--no-ipv6"))
        if done.returncode == 77:
            self.skipTest("no mount namespace is permitted here")
        self.assertEqual(done.returncode, 0, done)
        self.assertIn("no socket: Address family not supported", done.stderr)
        self.assertEqual(len(hop.messages), 1)

    def test_ipv6(self):
        sink = self.sink(address="[::1]:0")
        self.expect(self.send(f"[::1]:{sink.port}"), 0, "250 2.0.0 Ok")

    def test_descriptors_run_out(self):
        sink = self.sink()
        done = self.send(sink, "-n", "100", "-c", "100",
                         wrapper=(sys.executable, CONFINED, "--descriptors", "20"))
        self.assertIn("no socket: Too many open files", done.stderr)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(sink.stop()[1], 100)

    def test_no_service(self):
        rows = [("CONNECT", "554 5.3.2 No service", "554 5.3.2 No service"), ("CONNECT", "421 4.3.2 Busy", "421"),
                ("CONNECT", Drop, "connection closed by the server"),
                ("CONNECT", Raw(b"SSH-2.0\r\n"), "SSH-2.0"),
                ("EHLO", "421 4.3.2 Busy", "421"), ("EHLO", Drop, "connection closed")]
        for event, action, text in rows:
            with self.subTest(event=event, action=action):
                hop = self.next_hop()
                hop.on(event, action)
                done = self.send(hop, "-n", "3")
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"{hop.server}: no service", done.stderr)
                if text != "SSH-2.0":
                    self.assertIn(text, done.stderr)
                self.assertIn("3 of 3 messages were not sent", done.stderr)
                self.assertIn("sent 0 messages", done.stdout)

    def test_helo(self):
        """After a refusal of EHLO, and then without what EHLO offers."""
        sink = self.sink("--no-ehlo", "--maildir", "mail")
        self.expect(self.send(sink, "--data", "-", "--helo", "me.test", input=LETTER), 0,
                    "250 2.0.0 Ok")
        hop = self.next_hop()
        hop.on("EHLO", "502 5.5.1 What")
        hop.on("HELO", "550 5.7.1 Go away")
        self.assertEqual(self.send(hop, "--helo", "[192.0.2.1]").returncode, 1)
        self.assertEqual(hop.sessions[0].commands[:2], ["EHLO [192.0.2.1]", "HELO [192.0.2.1]"])

    def test_our_own_name(self):
        hop = self.next_hop()
        self.assertEqual(self.send(hop).returncode, 0)
        name = socket.gethostname()
        self.assertIn(hop.commands("EHLO"), (["EHLO " + name], ["EHLO localhost"]))

    def test_timeout(self):
        """At each step, with what may have become of the message."""
        rows = [("CONNECT", 1, "no service: timed out", ""), ("EHLO", 1, "no service: timed out", ""),
                ("MAIL", 1, "", "lost at MAIL FROM: timed out"),
                ("DATA", 1, "", "lost at DATA: timed out"),
                ("END", 1, "", "lost at end of data: timed out (the server may have taken it)"),
                ("QUIT", 0, "", "250 2.0.0 ok")]
        for event, status, error, line in rows:
            with self.subTest(event=event):
                hop = self.next_hop()
                hop.on(event, Stall)
                done = self.send(hop, "--timeout", "300ms")
                self.assertEqual(done.returncode, status, done)
                self.assertIn(error, done.stderr)
                self.assertTrue(any(one.startswith(line) for one in done.stdout.splitlines())
                                or not line, done)


class Messages(Send):

    def test_composed(self):
        hop = self.next_hop()
        done = self.send(hop, "--subject", "hi", "--body", "one\n.two\n\nthree", "--helo", "me.test",
                         to=("b@example.com", "<c@example.com>"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        message = hop.messages[0]
        self.assertEqual((message.sender, message.recipients),
                         ("a@example.net", ["b@example.com", "c@example.com"]))
        self.assertRegex(message.data.decode(), (
            r"\AMessage-ID: <\d+\.\d+@me\.test>\r\nFrom: <a@example\.net>\r\n"
            r"To: <b@example\.com>,\r\n <c@example\.com>\r\nSubject: hi\r\n"
            r"Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n"
            r"\r\none\r\n\.two\r\n\r\nthree\r\n\Z"))

    def test_default_body_and_null_sender(self):
        hop = self.next_hop()
        for sender in ("", "<>"):
            self.assertEqual(self.send(hop, "--helo", "me.test", sender=sender).returncode, 0)
            message = hop.messages[-1]
            self.assertEqual(message.sender, "")
            self.assertIn(b"From: <postmaster@me.test>\r\n", message.data)
            self.assertIn(b"Subject: test message\r\n", message.data)
            self.assertTrue(message.data.endswith(b"\r\n\r\nThis is a test message.\r\n"))

    def test_sizes(self):
        """So many octets of body, in lines."""
        hop = self.next_hop()
        for size, octets in (("0", 0), ("1", 2), ("2", 2), ("79", 79), ("81", 81), ("4kb", 4096),
                             ("1mb", 1 << 20)):
            for how in ((), ("--chunk-size", "100kb")):
                with self.subTest(size=size, how=how):
                    self.assertEqual(self.send(hop, "--size", size, *how).returncode, 0)
                    body = hop.messages[-1].data.split(b"\r\n\r\n", 1)[1]
                    self.assertEqual(len(body), octets)
                    self.assertLessEqual(max(map(len, body.split(b"\r\n"))), 998)

    def test_files_and_standard_input(self):
        """Octet for octet but for line ends; as DATA, one chunk and many."""
        large = b"Subject: x\n\n" + b"".join(b".%06d %s\n" % (one, b"y" * 60) for one in range(4000))
        rows = [("LF", b"Subject: x\n\nhello\n", b"Subject: x\r\n\r\nhello\r\n"),
                ("CRLF", LETTER, LETTER), ("no end", b"x", b"x\r\n"), ("empty", b"", b""),
                ("dots", b".\n..\n.x\n\n.\n", b".\r\n..\r\n.x\r\n\r\n.\r\n"),
                ("8 bit", b"\xff\xfe\n", b"\xff\xfe\r\n"),
                ("large", large, large.replace(b"\n", b"\r\n")),
                ("CRLF over the end of a part", b"x" * 65535 + b"\r\ny\r\n",
                 b"x" * 65535 + b"\r\ny\r\n")]
        path = self.folder() / "mail.eml"
        hop = self.next_hop()
        for name, data, want in rows:
            path.write_bytes(data)
            for arguments, how in (((), "DATA"), (("--chunking",), "BDAT"),
                                   (("--chunk-size", "70"), "BDAT"), (("--no-pipelining",), "DATA")):
                if name in ("large", "CRLF over the end of a part") and "70" in arguments:
                    arguments = ("--chunk-size", "9999")
                with self.subTest(name=name, arguments=arguments):
                    done = self.send(hop, "--data", str(path), *arguments)
                    self.expect(done, 0, *done.stdout.splitlines()[:1])
                    message = hop.messages[-1]
                    self.assertEqual(message.how, how)
                    self.assertTrue(message.data == want, message.data[:200])
                    done = self.send(hop, "--data", "-", *arguments, input=data)
                    self.assertEqual(done.returncode, 0)
                    self.assertTrue(hop.messages[-1].data == want)
        self.assertEqual(len(hop.messages), 2 * 4 * len(rows))

    def test_standard_input_that_is_closed(self):
        done = self.send(self.next_hop(), "--data", "-", wrapper=("sh", "-c", 'exec "$@" <&-', "sh"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("-: cannot read it: Bad file descriptor", done.stderr)

    def test_parameters(self):
        """What the message needs, if the server offers it: SIZE, BODY, SMTPUTF8, DSN."""
        rows = [
            ((), LETTER, ["SIZE=21"], []),
            ((), b"\xc3\xa4\n", ["SIZE=4", "BODY=8BITMIME"], []),
            (("--smtputf8",), LETTER, ["SIZE=21", "SMTPUTF8"], []),
            (("--dsn", "never"), LETTER, ["SIZE=21"], ["NOTIFY=NEVER"]),
            (("--dsn", "Success,failure,delay,full"), LETTER, ["SIZE=21", "RET=FULL"],
             ["NOTIFY=SUCCESS,FAILURE,DELAY"]),
            (("--dsn", "headers,envid=QQ+2B314"), LETTER,
             ["SIZE=21", "RET=HDRS", "ENVID=QQ+2B314"], []),
        ]
        for arguments, data, mail, rcpt in rows:
            with self.subTest(arguments=arguments):
                hop = self.next_hop()
                self.assertEqual(self.send(hop, "--data", "-", *arguments, input=data).returncode, 0)
                message = hop.messages[0]
                self.assertEqual(sorted(message.mail_parameters), sorted(mail))
                self.assertEqual(message.rcpts[0].split(">", 1)[1].split(), rcpt)
        bare = self.next_hop(extensions=())
        self.assertEqual(self.send(bare, "--dsn", "never,full").returncode, 0)
        self.assertEqual(bare.messages[0].mail_parameters, [])

    def test_addresses_beyond_ascii(self):
        sink = self.sink("--maildir", "mail")
        done = self.send(sink, "--smtputf8", "--data", "-", to=("ö@example.com",),
                         sender="ä@example.net", input="Subject: ü\n\n")
        self.expect(done, 0, "250 2.0.0 Ok")
        self.assertEqual(mail_in(sink.out.parent / "mail"), [
            "Return-Path: <ä@example.net>\r\nX-Original-To: <ö@example.com>\r\nSubject: ü\r\n\r\n"
            .replace("To: <ö@example.com>", "To: ö@example.com").encode()])
        done = self.send(sink, to=("ö@example.com",))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"\A5\d\d .* \(RCPT TO:<ö@example\.com>\)\n\Z")

    def test_composed_beyond_ascii(self):
        hop = self.next_hop()
        self.assertEqual(self.send(hop, "--body", "grüße").returncode, 0)
        message = hop.messages[0]
        self.assertIn("BODY=8BITMIME", message.mail_parameters)
        self.assertIn(b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
                      b"Content-Transfer-Encoding: 8bit\r\n\r\ngr\xc3\xbc\xc3\x9fe\r\n", message.data)

    def test_what_the_server_does_not_offer(self):
        """Nothing is sent that it could not understand."""
        rows = [("8BITMIME", ("--body", "ä"), "not sent: the server does not offer what it needs"),
                ("SMTPUTF8", ("--smtputf8",), "not sent: the server does not offer what it needs"),
                ("SIZE 104857600", ("--size", "20mb"), "not sent: the server does not offer")]
        for word, arguments, text in rows:
            with self.subTest(word=word):
                kept = tuple(one for one in EXTENSIONS if one != word)
                if word.startswith("SIZE"):
                    kept += ("SIZE 1000",)
                hop = self.next_hop(extensions=kept)
                done = self.send(hop, *arguments, "-n", "5")
                self.assertEqual((done.returncode, done.stderr), (1, ""), done)
                self.assertIn(text, done.stdout)
                self.assertRegex(done.stdout, r": 0 taken, 5 refused\n\Z")
                self.assertEqual(hop.commands("MAIL"), [])
                self.assertEqual(hop.commands("QUIT"), ["QUIT"])
        hop = self.next_hop(extensions=())
        done = self.send(hop, "--chunking")
        self.expect(done, 1, errors=f"ringpost: send: {hop.server}: the server does not offer "
                    "CHUNKING\nringpost: send: 1 of 1 messages were not sent\n")

    def test_verbose(self):
        """The dialogue, each line once and in order."""
        sink = self.sink()
        done = self.send(sink, "--verbose", "--data", "-", "--helo", "me.test", input=LETTER)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        self.assertEqual(lines[0], f"-- connected to {sink.server}")
        self.assertEqual([one[3:] for one in lines if one.startswith("C: ")],
                         ["EHLO me.test", "MAIL FROM:<a@example.net> SIZE=21",
                          "RCPT TO:<b@example.com>", "DATA", "[24 octets]", "QUIT"])
        self.assertEqual([one[3:6] for one in lines if one.startswith("S: ")],
                         ["220"] + 8 * ["250"] + ["250", "250", "354", "250", "221"])
        self.assertIn("250 2.0.0 Ok", lines)
        chunked = self.send(sink, "-v", "--chunk-size", "10", "--data", "-", input=LETTER).stdout
        self.assertEqual(re.findall(r"C: BDAT .*", chunked),
                         ["C: BDAT 10", "C: BDAT 10", "C: BDAT 1 LAST"])
        self.assertIn("C: [1 octets]", chunked)


class Verdicts(Send):

    REFUSALS = [("MAIL", "MAIL FROM"), ("DATA", "DATA"), ("END", "end of data")]

    def test_refusals(self):
        """The reply as it came, and the command it was to. Then QUIT."""
        for how in ((), ("--no-pipelining",), ("--chunking",)):
            for event, where in self.REFUSALS:
                if event == "DATA" and how == ("--chunking",):
                    continue
                for code in ("451", "550"):
                    with self.subTest(event=event, code=code, how=how):
                        hop = self.next_hop()
                        hop.on(event, f"{code} {code[0]}.7.1 Not so\nnot at all")
                        done = self.send(hop, *how)
                        self.expect(done, 1, f"{code}-{code[0]}.7.1 Not so ",
                                    f"{code} {code[0]}.7.1 not at all ({where})")
                        self.assertEqual(hop.messages, [])
                        hop.wait_command("QUIT")

    def test_recipients(self):
        """Each that was refused has its line; the rest get the message."""
        to = tuple(f"{one}@example.com" for one in ("bad1", "good", "bad2"))
        for how in ((), ("--no-pipelining",), ("--chunking",)):
            with self.subTest(how=how):
                sink = self.sink("--maildir", "mail", "--fault", "rcpt~bad*=550 5.1.1 No such user")
                self.expect(self.send(sink, *how, to=to), 1,
                            "550 5.1.1 No such user (RCPT TO:<bad1@example.com>)",
                            "550 5.1.1 No such user (RCPT TO:<bad2@example.com>)",
                            "250 2.0.0 Ok", "taken for 1 of 3 recipients")
                self.assertEqual(re.findall(rb"X-Original-To: (\S+)",
                                            mail_in(sink.out.parent / "mail")[0]),
                                 [b"good@example.com"])
                done = self.send(sink, *how, to=(to[0], to[2]))
                self.expect(done, 1, "550 5.1.1 No such user (RCPT TO:<bad1@example.com>)",
                            "550 5.1.1 No such user (RCPT TO:<bad2@example.com>)")
                self.assertEqual(len(mail_in(sink.out.parent / "mail")), 1)

    def test_nobody_but_354(self):
        """RFC 2920 3.1: a server that says 354 for nobody gets an end without a message."""
        hop = self.next_hop()
        hop.on("RCPT", "550 5.1.1 No")
        hop.on("DATA", "354 Go on")
        done = self.send(hop)
        self.assertEqual(done.returncode, 1)
        self.assertEqual([one.data for one in hop.messages], [b""])

    def test_many_recipients(self):
        to = tuple(f"{one}@example.com" for one in range(300))
        hop = self.next_hop()
        self.assertEqual(self.send(hop, to=to).returncode, 0)
        self.assertEqual(tuple(hop.messages[0].recipients), to)

    def test_dropped(self):
        """What the client cannot know is said."""
        rows = [("MAIL", "lost at MAIL FROM: connection closed by the server"),
                ("DATA", "lost at DATA: connection closed by the server"),
                ("END", "lost at end of data: connection closed by the server "
                        "(the server may have taken it)")]
        for event, line in rows:
            with self.subTest(event=event):
                hop = self.next_hop()
                hop.on(event, Drop)
                done = self.send(hop, "--no-pipelining")
                self.assertEqual(done.returncode, 1)
                self.assertEqual(done.stdout, line + "\n")

    def test_421(self):
        """The server ends: the message is refused, and no other is tried on this connection."""
        for event, where in self.REFUSALS:
            with self.subTest(event=event):
                hop = self.next_hop()
                hop.on(event, ["421 4.3.2 Going down", Drop], times=1)
                done = self.send(hop, "-n", "3", "--no-pipelining")
                self.assertEqual(done.returncode, 1, done)
                self.assertIn(f"421 4.3.2 Going down ({where})", done.stdout)
                self.assertRegex(done.stdout, r"sent 3 messages .*: 2 taken, 1 refused\n\Z")
                self.assertEqual(len(hop.sessions), 2)

    def test_quit_refused(self):
        hop = self.next_hop()
        hop.on("QUIT", Drop)
        self.assertEqual(self.send(hop).returncode, 0)

    def test_nonsense(self):
        hop = self.next_hop()
        hop.on("END", Raw(b"certainly\r\n"))
        done = self.send(hop)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"\Alost at end of data: .* \(the server may have taken it\)\n\Z")


class Many(Send):

    def test_count(self):
        """Each with its own Message-ID, on so many connections, all counted."""
        for count, connections in ((1, 1), (25, 1), (25, 4), (3, 10)):
            with self.subTest(count=count, connections=connections):
                hop = self.next_hop()
                done = self.send(hop, "-n", str(count), "-c", str(connections))
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertEqual(len(hop.messages), count)
                self.assertEqual(len(hop.sessions), min(count, connections))
                self.assertEqual(len({one.data.split(b"\r\n", 1)[0] for one in hop.messages}), count)
                self.assertEqual(len(hop.commands("QUIT")), min(count, connections))
                if count > 1:
                    self.assertRegex(done.stdout, rf"\Asent {count} messages in \d+\.\d+ s, "
                                     rf"\d+ messages/s: {count} taken\n\Z")

    def test_long_options(self):
        sink = self.sink()
        done = self.send(sink, "--count", "7", "--connections", "2", "--chunk-size", "64")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(sink.stop()[:2], (2, 7))

    def test_mixture(self):
        """Taken, taken for some, refused: the sums, and no more than ten lines of failures."""
        sink = self.sink("--fault", "end=451 4.3.0 Busy,every=2", "--fault", "rcpt~bad*=550 5.1.1 No")
        done = self.send(sink, "-n", "40", to=("good@example.com", "bad@example.com"))
        self.assertEqual(done.returncode, 1)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 11)
        self.assertRegex(lines[-1], r": 0 taken, 20 for some recipients, 20 refused\Z")
        self.assertEqual(sink.stop()[1], 20)

    def test_losses(self):
        """A message that is lost, even the first of a connection, does not end the others."""
        sink = self.sink("--maildir", "mail", "--fault", "end=drop,times=3",
                         "--fault", "end=keep-drop,after=4,every=4")
        done = self.send(sink, "-n", "30", "--no-pipelining")
        self.assertEqual((done.returncode, done.stderr), (1, ""), done)
        lost = done.stdout.count("(the server may have taken it)\n")
        match = re.search(r"sent 30 messages .*: (\d+) taken, (\d+) lost\n\Z", done.stdout)
        self.assertIsNotNone(match, done)
        self.assertEqual(int(match.group(1)) + int(match.group(2)), 30)
        self.assertEqual(lost, min(10, int(match.group(2))))
        self.assertGreater(int(match.group(2)), 3)
        self.assertEqual(len(mail_in(sink.out.parent / "mail")), 27)

    def test_a_server_that_ends_between_messages(self):
        """"Connect again" is no refusal of the message."""
        hop = self.next_hop()
        hop.on("MAIL", lambda session: ["421 4.7.0 Too many messages", Drop]
               if len(session.messages) == 5 else Default())
        done = self.send(hop, "-n", "10")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done)
        self.assertEqual(len(hop.messages), 10)
        self.assertEqual(len(hop.sessions), 2)

    def test_refused_and_reset(self):
        """After a refusal in the middle the connection is used again."""
        for event in ("MAIL", "RCPT", "DATA", "END"):
            with self.subTest(event=event):
                hop = self.next_hop()
                hop.on(event, "451 4.3.0 Later", times=2)
                done = self.send(hop, "-n", "6")
                self.assertRegex(done.stdout, r": 4 taken, 2 refused\n\Z")
                self.assertEqual((len(hop.messages), len(hop.sessions)), (4, 1))

    def test_large_over_many_connections(self):
        """The octets are shared; each connection has its own place in them."""
        sink = self.sink("--maildir", "mail", "--threads", "2")
        data = b"Subject: x\r\n\r\n" + os.urandom(300000).hex().encode()
        data = b"\r\n".join(data[at:at + 76] for at in range(0, len(data), 76)) + b"\r\n"
        for how in ((), ("--chunk-size", "50000")):
            done = self.send(sink, "-n", "12", "-c", "6", "--data", "-", *how, input=data)
            self.assertEqual(done.returncode, 0, done)
        bodies = {one.split(b"\r\n", 2)[2] for one in mail_in(sink.out.parent / "mail")}
        self.assertTrue(bodies == {data}, "octets differ")
        self.assertEqual(sink.stop()[1], 24)


class Tls(Send):

    def hop(self, certificate: str = "hop", **options):
        good = getattr(certificates(), certificate)
        return self.sink("--certificate", good.certificate, "--key", good.key,
                         "--maildir", "mail", *options.get("arguments", ("--tls", "starttls")))

    def test_modes(self):
        """In TLS, verified or not, by STARTTLS and from the first octet."""
        authority = certificates().ca
        rows = [(("--tls", "starttls"), "starttls", "not verified"),
                (("--tls", "starttls", "--ca", authority), "starttls", "verified"),
                (("--tls", "verify", "--ca", authority), "starttls", "verified"),
                (("--tls", "implicit"), "implicit", "not verified"),
                (("--tls", "implicit", "--ca", authority), "implicit", "verified"),
                (("--tls", "verify", "--ca", authority, "--tls-name", "hop.test"), "starttls",
                 "verified")]
        for arguments, mode, said in rows:
            with self.subTest(arguments=arguments):
                sink = self.hop(arguments=("--tls", mode))
                done = self.send(sink, "-v", "--size", "200kb", *arguments)
                self.assertEqual((done.returncode, done.stderr), (0, ""), done)
                self.assertRegex(done.stdout, rf"(?m)^-- TLSv1\.3 \S+, {said}$")
                self.assertEqual("C: STARTTLS" in done.stdout, mode == "starttls")
                self.assertEqual(len(mail_in(sink.out.parent / "mail")), 1)
                done = self.send(sink, *arguments, "-n", "6", "-c", "3", "--chunking")
                self.assertEqual(done.returncode, 0)
                self.assertEqual(sink.stop()[:2], (4, 7))

    def test_certificates_that_are_no_good(self):
        """Nothing is sent to a server that is not the one."""
        authority = certificates().ca
        rows = [("hop", ("--tls", "verify")), ("expired", ("--tls", "verify", "--ca", authority)),
                ("other_name", ("--tls", "starttls", "--ca", authority)),
                ("unknown_authority", ("--tls", "verify", "--ca", authority)),
                ("hop", ("--tls", "verify", "--ca", authority, "--tls-name", "else.test"))]
        for name, arguments in rows:
            with self.subTest(name=name, arguments=arguments):
                sink = self.hop(name)
                done = self.send(sink, *arguments)
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                self.assertRegex(done.stderr, r"no service: .*\n.*1 of 1 messages were not sent\n\Z")
                self.assertEqual(sink.stop()[:2], (1, 0))

    def test_tls_that_cannot_be_had(self):
        good = certificates().hop
        rows = [((), "starttls", "no service"), (("--fault", "starttls=454 4.7.0 Later"),
                                                 "starttls", "454 4.7.0 Later"),
                (("--fault", "tls=drop"), "starttls", "no service: "),
                (("--fault", "starttls=raw:220 Go\\r\\n250 injected\\r\\n"), "starttls",
                 "before TLS (response injection)"),
                ((), "implicit", "no service: ")]
        for faults, mode, text in rows:
            with self.subTest(faults=faults, mode=mode):
                tls = ("--tls", "starttls", "--certificate", good.certificate, "--key", good.key)
                sink = self.sink("--maildir", "mail", *(tls if faults else ()), *faults)
                done = self.send(sink, "--tls", mode, "--timeout", "2s")
                self.assertEqual((done.returncode, done.stdout), (1, ""), done)
                self.assertIn(text, done.stderr)
                self.assertEqual(mail_in(sink.out.parent / "mail"), [])
