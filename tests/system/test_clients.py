"""Programs that people really send mail with, each with its own ways, through the relay."""
import json
import os
import pathlib
import re
import smtplib
import ssl
import subprocess

from harness import (NextHop, ROOT, Relay, SLOW, SystemTest, certificates, find_tool, missing,
                     wait_for)

BODY = b"From: a@example.net\r\nSubject: from a real client\r\n\r\nline\r\n.\r\n..dots\r\n.end\r\n"
LF_BODY = BODY.replace(b"\r\n", b"\n")
MODULES = ROOT / "third_party" / "node" / "node_modules"


class ClientTest(SystemTest):
    """Three listeners: smtp (STARTTLS), smtps (implicit TLS), plain (no TLS)."""

    def setUp(self):
        self.hop: NextHop = self.next_hop()
        self.edge: Relay = self.relay(self.hop, {"workers": 2, "listen": {
            "smtp": {"address": "127.0.0.1:0", "tls": "starttls"},
            "smtps": {"address": "127.0.0.1:0", "tls": "implicit"},
            "plain": {"address": "127.0.0.1:0", "tls": "none"}}})

    def run_tool(self, *command: str, data: bytes = b"", status: int | None = 0,
                 environment: dict | None = None) -> str:
        done = subprocess.run(command, input=data, capture_output=True, timeout=60 * SLOW,
                              check=False, env={**os.environ, **(environment or {})})
        said = (done.stdout + done.stderr).decode(errors="replace")
        if status is not None:
            self.assertEqual(done.returncode, status, f"{' '.join(command)}\n{said}")
        return said

    def one(self) -> bytes:
        """The only message that came, without the Received: field."""
        self.assertEqual(len(self.hop.messages), 1)
        message = self.hop.messages.pop()
        self.assert_relayed(message, message.data[message.data.index(b"From: a@"):])
        self.message = message
        return message.data[message.data.index(b"From: a@"):]

    def received_with(self) -> str:
        return re.search(rb"\swith (\S+)", self.message.data).group(1).decode()


class Swaks(ClientTest):

    def swaks(self, *arguments: str, port: str = "smtp", status: int | None = 0) -> str:
        program = find_tool("swaks")
        uses_tls = any("tls" in argument.lower() for argument in arguments)
        if uses_tls and "TLS supported" not in self.run_tool(program, "--support"):
            missing("swaks needs Net::SSLeay (libnet-ssleay-perl) for TLS")
        return self.run_tool(program, "--server", "127.0.0.1", "--port",
                             str(self.edge.ports[port]), "--from", "a@example.net", "--to",
                             "b@example.com", "--helo", "swaks.test", "--data", "@-",
                             "--suppress-data", *arguments, data=LF_BODY, status=status)

    def check(self, protocol: str) -> None:
        # swaks appends an empty line of its own.
        self.assertEqual(self.one().rstrip(b"\r\n"), BODY.rstrip(b"\r\n"))
        self.assertEqual(self.received_with(), protocol)

    def test_plain(self):
        self.swaks(port="plain")
        self.check("ESMTP")

    def test_helo(self):
        self.swaks("--protocol", "SMTP", port="plain")
        self.check("SMTP")

    def test_protocol_esmtps(self):
        self.swaks("--protocol", "ESMTPS")
        self.check("ESMTPS")

    def test_starttls(self):
        self.swaks("--tls", "--tls-verify", "--tls-ca-path", certificates().ca)
        self.check("ESMTPS")

    def test_starttls_not_offered(self):
        self.swaks("--tls", port="plain", status=29)
        self.assertEqual(self.hop.messages, [])

    def test_implicit_tls(self):
        self.swaks("--tlsc", port="smtps")
        self.check("ESMTPS")

    def test_tls_versions(self):
        for name in ("tlsv1_2", "tlsv1_3"):
            self.swaks("--tls", "--tls-protocol", name)
            self.check("ESMTPS")
        event = self.edge.wait_event("message", 2)
        self.assertEqual(event["tls"], "TLSv1.3")

    def test_pipeline(self):
        self.swaks("--pipeline", "--tls")
        self.check("ESMTPS")

    def test_many_recipients(self):
        names = ",".join(f"user{i}@example.com" for i in range(120))
        self.swaks("--to", names, "--pipeline", port="plain")
        self.one()
        self.assertEqual(len(self.message.rcpts), 120)

    def test_drops(self):
        """It hangs up after each command; nothing is delivered, nothing stays open."""
        for after in ("connect", "ehlo", "mail", "rcpt", "data"):
            self.swaks("--drop-after", after, port="plain", status=None)
        self.swaks("--drop-after-send", "data", port="plain", status=None)
        wait_for(lambda: self.edge.stats()["gauges"]["sessions_current"] == 0, 10, "sessions end")
        self.assertEqual(self.hop.messages, [])

    def test_refusal_of_the_next_hop(self):
        self.hop.on("END", "554 5.7.1 we do not like it")
        said = self.swaks(port="plain", status=26)
        self.assertIn("554 5.7.1 we do not like it", said)


class Msmtp(ClientTest):

    def msmtp(self, *arguments: str, port: str = "smtp", status: int | None = 0) -> str:
        return self.run_tool(find_tool("msmtp"), "--host=localhost",
                             f"--port={self.edge.ports[port]}", "--domain=msmtp.test",
                             "--set-date-header=off", "--set-msgid-header=off",
                             "--from=a@example.net", *arguments, "b@example.com", "c@example.com",
                             data=LF_BODY, status=status)

    def check(self, protocol: str) -> None:
        self.assertEqual(self.one(), BODY)
        self.assertEqual(self.message.recipients, ["b@example.com", "c@example.com"])
        # Newer ones ask for SMTPUTF8 (RFC 6531 4.3: UTF8SMTP and so on).
        self.assertIn(self.received_with(), (protocol, "UTF8" + protocol.removeprefix("E")))

    def test_plain(self):
        self.msmtp("--tls=off", port="plain")
        self.check("ESMTP")

    def test_starttls(self):
        self.msmtp("--tls=on", "--tls-starttls=on", f"--tls-trust-file={certificates().ca}")
        self.check("ESMTPS")

    def test_implicit_tls(self):
        self.msmtp("--tls=on", "--tls-starttls=off", f"--tls-trust-file={certificates().ca}",
                   port="smtps")
        self.check("ESMTPS")

    def test_untrusted_certificate(self):
        """It shakes hands first and looks at the certificate then: to us it just goes away."""
        self.msmtp("--tls=on", "--tls-starttls=on", f"--tls-trust-file={certificates().other_ca}",
                   status=None)
        self.assertEqual(self.hop.messages, [])
        self.edge.wait_counter("sessions_closed_lost", 1)
        self.assertEqual(self.edge.counter("messages_accepted"), 0)

    def test_dsn(self):
        self.msmtp("--tls=off", "--dsn-notify=failure,delay", "--dsn-return=headers", port="plain")
        self.assertEqual(self.one(), BODY)
        self.assertIn("RET=HDRS", self.message.mail_parameters)
        self.assertIn("NOTIFY=FAILURE,DELAY", self.message.rcpts[0].upper())


class Curl(ClientTest):

    def curl(self, scheme: str, port: str, *arguments: str, status: int = 0) -> str:
        return self.run_tool(
            find_tool("curl"), "-sS", "--cacert", certificates().ca, "--mail-from",
            "a@example.net", "--mail-rcpt", "b@example.com", "--upload-file", "-",
            *arguments, f"{scheme}://localhost:{self.edge.ports[port]}/curl.test", "--resolve",
            f"localhost:{self.edge.ports[port]}:127.0.0.1", data=BODY, status=status)

    def check(self, protocol: str) -> None:
        self.assertEqual(self.one(), BODY)
        self.assertEqual(self.received_with(), protocol)

    def test_plain(self):
        self.curl("smtp", "plain")
        self.check("ESMTP")

    def test_starttls(self):
        self.curl("smtp", "smtp", "--ssl-reqd")
        self.check("ESMTPS")

    def test_tls_1_2(self):
        self.curl("smtp", "smtp", "--ssl-reqd", "--tls-max", "1.2")
        self.check("ESMTPS")
        self.assertEqual(self.edge.wait_event("message")["tls"], "TLSv1.2")

    def test_implicit_tls(self):
        self.curl("smtps", "smtps")
        self.check("ESMTPS")

    def test_two_messages_on_one_connection(self):
        second = ["--next", "-sS", "--mail-from", "c@example.net", "--mail-rcpt", "d@example.com",
                  "--upload-file", os.devnull, f"smtp://localhost:{self.edge.ports['plain']}/"
                  "curl.test", "--resolve", f"localhost:{self.edge.ports['plain']}:127.0.0.1"]
        self.run_tool(find_tool("curl"), "-sS", "--mail-from", "a@example.net", "--mail-rcpt",
                      "b@example.com", "--upload-file", "-",
                      f"smtp://localhost:{self.edge.ports['plain']}/curl.test", "--resolve",
                      f"localhost:{self.edge.ports['plain']}:127.0.0.1", *second, data=BODY)
        self.assertEqual([message.sender for message in self.hop.messages],
                         ["a@example.net", "c@example.net"])
        self.assertEqual(self.edge.counter("connections_accepted"), 1)

    def test_refused_recipient(self):
        self.edge.stop()
        self.edge = self.relay(self.hop, {"listen": {"plain": {"address": "127.0.0.1:0"}},
                                          "delivery": {"recipient_check": "next_hop"}})
        self.hop.on("RCPT", "550 5.1.1 nobody", match="nobody@")
        self.curl("smtp", "plain", "--mail-rcpt", "nobody@example.com", "--mail-rcpt-allowfails")
        self.check("ESMTP")
        self.assertEqual(self.message.recipients, ["b@example.com"])
        said = self.curl("smtp", "plain", "--mail-rcpt", "nobody@example.com", status=55)
        self.assertIn("550", said)


class Smtplib(ClientTest):

    def connect(self, port: str = "plain") -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", self.edge.ports[port], "python.test", 20 * SLOW)
        self.addCleanup(client.close)
        return client

    def test_plain(self):
        with self.connect() as client:
            client.sendmail("a@example.net", ["b@example.com"], BODY)
        self.assertEqual(self.one(), BODY)

    def test_starttls_and_second_message(self):
        with self.connect("smtp") as client:
            client._host = "localhost"  # what certificates are checked against
            client.starttls(context=certificates().client_context())
            for _ in range(2):
                client.sendmail("a@example.net", ["b@example.com"], BODY)
                self.assertEqual(self.one(), BODY)
                self.assertEqual(self.received_with(), "ESMTPS")

    def test_implicit_tls(self):
        context = certificates().client_context()
        with smtplib.SMTP_SSL("localhost", self.edge.ports["smtps"], "python.test",
                              timeout=20 * SLOW, context=context) as client:
            client.sendmail("a@example.net", ["b@example.com"], BODY)
        self.assertEqual(self.one(), BODY)

    def test_helo(self):
        with self.connect() as client:
            client.helo("old.test")
            client.sendmail("a@example.net", ["b@example.com"], BODY)
        self.assertEqual(self.one(), BODY)
        self.assertEqual(self.received_with(), "SMTP")

    def test_eight_bit(self):
        body = BODY + "Grüße\r\n".encode()
        with self.connect() as client:
            client.sendmail("a@example.net", ["b@example.com"], body, ["BODY=8BITMIME"])
        self.assertEqual(self.one(), body)
        self.assertIn("BODY=8BITMIME", self.message.mail_parameters)

    def test_smtputf8(self):
        body = "From: a@example.net\r\nSubject: Grüße\r\n\r\nÄ\r\n".encode()
        with self.connect() as client:
            client.sendmail("jürgen@müller.example", ["δοκιμή@παράδειγμα.example"], body,
                            ["SMTPUTF8", "BODY=8BITMIME"])
        self.assertEqual(self.one(), body)
        self.assertEqual(self.message.sender, "jürgen@müller.example")
        self.assertEqual(self.message.recipients, ["δοκιμή@παράδειγμα.example"])
        self.assertIn("SMTPUTF8", self.message.mail_parameters)
        self.assertEqual(self.received_with(), "UTF8SMTP")

    def test_smtputf8_to_a_server_without(self):
        self.hop.extensions = ("PIPELINING", "8BITMIME")
        with self.connect() as client:
            with self.assertRaises(smtplib.SMTPException) as caught:
                client.sendmail("jürgen@müller.example", ["b@example.com"], BODY, ["SMTPUTF8"])
            self.assertRegex(str(caught.exception), r"5\.6\.7|5\.6\.9")
            # Asked for but not needed: it can go on without (RFC 6531 3.6 lets the relay choose).
        self.assertEqual(self.hop.messages, [])

    def test_many_recipients(self):
        names = [f"user{i}@example{i % 7}.com" for i in range(1000)]
        with self.connect() as client:
            self.assertEqual(client.sendmail("a@example.net", names, BODY), {})
            self.assertEqual(self.one(), BODY)
            self.assertEqual(self.message.recipients, names)
            refused = client.sendmail("a@example.net", names + ["more@example.com"], BODY)
        self.assertEqual(list(refused), ["more@example.com"])
        self.assertEqual(refused["more@example.com"][0], 452)
        self.one()
        self.assertEqual(self.message.recipients, names)

    def test_null_sender_and_postmaster(self):
        with self.connect() as client:
            client.ehlo()
            self.assertEqual(client.docmd("MAIL", "FROM:<>")[0], 250)
            self.assertEqual(client.docmd("RCPT", "TO:<Postmaster>")[0], 250)
            self.assertEqual(client.data(BODY)[0], 250)
        self.one()
        self.assertEqual((self.message.sender, self.message.recipients), ("", ["Postmaster"]))

    def test_other_commands(self):
        with self.connect() as client:
            self.assertEqual(client.noop()[0], 250)
            self.assertEqual(client.vrfy("b@example.com")[0], 252)
            self.assertIn(client.expn("list")[0], (252, 502))
            self.assertEqual(client.docmd("HELP")[0], 214)
            self.assertEqual(client.rset()[0], 250)
            self.assertEqual(client.docmd("BOGUS")[0], 500)

    def test_size_is_told(self):
        with self.connect() as client:
            client.ehlo()
            self.assertEqual(client.esmtp_features["size"], str(50 << 20))


class Nodemailer(ClientTest):

    SCRIPT = """
const nodemailer = require('nodemailer');
const job = JSON.parse(require('fs').readFileSync(0));
const transport = nodemailer.createTransport(job.transport);
(async () => {
  const results = await Promise.all(job.messages.map(m => transport.sendMail(m).then(
    i => ({ accepted: i.accepted, rejected: i.rejected, response: i.response }),
    e => ({ code: e.responseCode, response: e.response || e.message }))));
  transport.close();
  console.log(JSON.stringify(results));
})();
"""

    def mail(self, port: str, messages: list[dict], **options) -> list[dict]:
        node = find_tool("node")
        paths = [str(MODULES)] + os.environ.get("NODE_PATH", "").split(":")
        if not any(path and (pathlib.Path(path) / "nodemailer").is_dir() for path in paths):
            missing("nodemailer is not in third_party/node nor in NODE_PATH")
        job = {"transport": {"host": "127.0.0.1", "port": self.edge.ports[port],
                             "name": "node.test", **options}, "messages": messages}
        said = self.run_tool(node, "-e", self.SCRIPT, data=json.dumps(job).encode(),
                             environment={"NODE_PATH": ":".join(filter(None, paths)),
                                          "NODE_EXTRA_CA_CERTS": certificates().ca})
        return json.loads(said)

    @staticmethod
    def letter(number: int = 0) -> dict:
        return {"envelope": {"from": "a@example.net", "to": ["b@example.com"]},
                "raw": f"From: a@example.net\r\nSubject: {number}\r\n\r\n.dot\r\nend\r\n"}

    def test_plain(self):
        result = self.mail("plain", [self.letter()], secure=False)
        self.assertEqual(result[0]["accepted"], ["b@example.com"])
        self.assertEqual(self.one(), self.letter()["raw"].encode())

    def test_starttls(self):
        self.mail("smtp", [self.letter()], secure=False, requireTLS=True,
                  tls={"servername": "localhost"})
        self.assertEqual(self.one(), self.letter()["raw"].encode())
        self.assertEqual(self.received_with(), "ESMTPS")

    def test_implicit_tls(self):
        self.mail("smtps", [self.letter()], secure=True, tls={"servername": "localhost"})
        self.assertEqual(self.one(), self.letter()["raw"].encode())

    def test_pool(self):
        results = self.mail("smtp", [self.letter(number) for number in range(60)], secure=False,
                            pool=True, maxConnections=4, tls={"servername": "localhost"})
        self.assertEqual([one.get("rejected") for one in results], [[]] * 60)
        self.assertEqual(len(self.hop.messages), 60)
        subjects = sorted(int(re.search(rb"Subject: (\d+)", one.data).group(1))
                          for one in self.hop.messages)
        self.assertEqual(subjects, list(range(60)))

    def test_utf8_attachment_and_dsn(self):
        self.mail("plain", [{
            "from": "Jürgen <a@example.net>", "to": ["b@example.com", "δοκιμή@example.com"],
            "subject": "Grüße", "text": "Ä\n.\n", "dsn": {
                "id": "x y", "return": "headers", "notify": ["failure"],
                "recipient": "r@example.net"},
            "attachments": [{"filename": "ü.bin", "content": "x" * 300000}]}])
        self.assertEqual(len(self.hop.messages), 1)
        message = self.hop.messages[0]
        self.assertEqual(message.recipients, ["b@example.com", "δοκιμή@example.com"])
        self.assertIn("SMTPUTF8", message.mail_parameters)
        self.assertIn("RET=HDRS", message.mail_parameters)

    def test_refused(self):
        self.hop.on("END", "552 5.2.2 full")
        result = self.mail("plain", [self.letter()])
        self.assertEqual((result[0]["code"], "5.2.2 full" in result[0]["response"]), (552, True))


class OpensslClient(ClientTest):

    def talk(self, port: str, *arguments: str) -> str:
        lines = ("EHLO openssl.test", "MAIL FROM:<a@example.net>", "rcpt to:<b@example.com>",
                 "DATA", *BODY.decode().replace("\r\n.", "\r\n..").split("\r\n")[:-1], ".", "QUIT")
        return self.run_tool(find_tool("openssl"), "s_client", "-quiet", "-verify_return_error",
                             "-verify_quiet", "-crlf", "-CAfile", certificates().ca, "-connect",
                             f"127.0.0.1:{self.edge.ports[port]}", *arguments,
                             data="\n".join(lines).encode() + b"\n")

    def test_starttls(self):
        for version in ("-tls1_2", "-tls1_3"):
            with self.subTest(version):
                said = self.talk("smtp", "-starttls", "smtp", "-name", "openssl.test",
                                 "-servername", "localhost", "-verify_hostname", "localhost",
                                 version)
                self.assertIn("221 ", said)
                self.assertEqual(self.one(), BODY)

    def test_implicit_tls(self):
        said = self.talk("smtps", "-servername", "localhost")
        self.assertIn("221 ", said)
        self.assertEqual(self.one(), BODY)

    def test_old_versions_are_refused(self):
        for version in ("-tls1", "-tls1_1"):
            done = subprocess.run(
                [find_tool("openssl"), "s_client", "-connect",
                 f"127.0.0.1:{self.edge.ports['smtps']}", version, "-cipher", "ALL:@SECLEVEL=0"],
                input=b"", capture_output=True, timeout=30 * SLOW, check=False)
            self.assertNotEqual(done.returncode, 0, done.stdout)
        event = self.edge.wait_event("tls_failed", 2, side="server")
        self.assertRegex(event["reason"], "(?i)version|protocol")

    def test_resumption(self):
        """A second connection with the first one's ticket is counted as resumed."""
        folder = self.folder()
        for option in ("-sess_out", "-sess_in"):
            self.talk("smtps", "-servername", "localhost", option, str(folder / "session"),
                      "-tls1_2")
        self.assertEqual(self.edge.counter("tls_server_resumed"), 1)


class HandMade(ClientTest):
    """TLS by the ssl module: sessions with tickets of TLS 1.3."""

    def test_resumption_1_3(self):
        context = certificates().client_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        client = self.client(self.edge.ports["smtps"], tls=True, context=context)
        client.ehlo()
        session = client.socket.session
        client.quit()
        again = self.client(self.edge.ports["smtps"], greeting=False)
        again.socket = context.wrap_socket(again.socket, server_hostname="localhost",
                                           session=session)
        again.reply()
        self.assertTrue(again.socket.session_reused)
        again.ehlo()
        self.assertEqual(again.message(BODY), 250)
        self.assertEqual(self.one(), BODY)
