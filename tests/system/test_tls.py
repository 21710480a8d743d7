"""TLS on both sides: who gets which certificate, who is trusted, what attackers achieve."""
import itertools
import pathlib
import shutil
import socket
import ssl
import threading

from harness import (Certificate, Client, Delay, Drop, EXTENSIONS, NextHop, Raw, Relay, Reset, SLOW,
                     Stall, SystemTest, certificates, wait_for)

BODY = b"Subject: by TLS\r\n\r\nhello\r\n.\r\n"
IMPLICIT = {"listen": {"smtps": {"address": "127.0.0.1:0", "tls": "implicit"}}}


def context_of(version: ssl.TLSVersion | None = None, verify: bool = True) -> ssl.SSLContext:
    context = certificates().client_context(verify)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


class AsServer(SystemTest):

    def setUp(self):
        self.hop = self.next_hop()

    def start(self, changes: dict | None = None, **options) -> Relay:
        self.edge = self.relay(self.hop, {**IMPLICIT, **(changes or {})}, tls="starttls", **options)
        return self.edge

    def connect(self, context: ssl.SSLContext | None = None, port: str = "smtp",
                server_name: str | None = "localhost") -> Client:
        """A client that has said EHLO inside TLS."""
        if port == "smtps":
            client = self.client(self.edge.ports[port], tls=True, context=context,
                                 server_name=server_name)
            client.ehlo()
            return client
        client = self.client(self.edge)
        client.ehlo()
        client.starttls(context, server_name)
        return client

    def assert_works(self, client: Client) -> None:
        self.assertEqual(client.message(BODY), 250)
        self.assertEqual(self.assert_relayed(self.hop.messages.pop(), BODY)["with"], "ESMTPS")

    # --- versions and certificates ---

    def test_versions(self):
        self.start()
        for port, version in itertools.product(("smtp", "smtps"), ("TLSv1.2", "TLSv1.3")):
            wanted = ssl.TLSVersion[version.replace(".", "_")]
            client = self.connect(context_of(wanted), port)
            self.assertEqual(client.socket.version(), version)
            self.assertEqual(client.message(BODY), 250)
            parts = self.assert_relayed(self.hop.messages.pop(), BODY)
            cipher = client.socket.cipher()[0]
            self.assertIn(version, parts["tls"])
            if version == "TLSv1.3":
                self.assertIn(cipher, parts["tls"])
            client.quit()
        for name, count in (("tls_server_version_1_2", 2), ("tls_server_version_1_3", 2),
                            ("tls_server_ok", 4), ("tls_server_failed", 0)):
            self.assertEqual(self.edge.counter(name), count, name)

    def test_minimum_version(self):
        self.start({"tls": {"minimum": "1.3"}})
        self.assert_works(self.connect(context_of(ssl.TLSVersion.TLSv1_3)))
        for port in ("smtp", "smtps"):
            with self.assertRaises(ssl.SSLError):
                self.connect(context_of(ssl.TLSVersion.TLSv1_2), port)
        event = self.edge.wait_event("tls_failed", 2, side="server")
        self.assertIn("version", event["reason"])

    def test_name_chooses_certificate(self):
        pairs = [{"certificate": one.certificate, "key": one.key}
                 for one in (certificates().edge_a, certificates().edge_b)]
        self.start({"tls": pairs})
        first, second = certificates().edge_a.der(), certificates().edge_b.der()
        rows = [("a.edge.test", first), ("b.edge.test", second), ("x.wild.test", second),
                ("B.EDGE.TEST", second), ("x.y.wild.test", first), ("unknown.test", first),
                (None, first)]
        for (name, wanted), port in itertools.product(rows, ("smtp", "smtps")):
            with self.subTest(name, port=port):
                client = self.connect(context_of(verify=False), port, name)
                self.assertEqual(client.socket.getpeercert(binary_form=True), wanted)
                client.quit()

    def test_verified_by_a_strict_client(self):
        self.start()
        for port in ("smtp", "smtps"):
            self.assert_works(self.connect(port=port))

    def test_client_that_does_not_trust_us(self):
        """Its alert is in the log."""
        self.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certificates().other_ca)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        for port in ("smtp", "smtps"):
            with self.assertRaises(ssl.SSLCertVerificationError):
                self.connect(context, port)
        event = self.edge.wait_event("tls_failed", 2, side="server")
        self.assertIn("unknown CA", event["reason"])

    def test_close_notify(self):
        """A client can tell the end after QUIT from a cut by an attacker."""
        self.start()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = self.client(self.edge.ports["smtps"], greeting=False)
            client.socket = context_of(version).wrap_socket(
                client.socket, server_hostname="localhost", suppress_ragged_eofs=False)
            client.reply()
            client.command("QUIT", 221)
            self.assertEqual(client.socket.recv(100), b"")

    # --- STARTTLS ---

    def test_all_is_forgotten(self):
        """RFC 3207 4.2: what was said before the handshake counts no more."""
        self.start()
        client = self.client(self.edge)
        self.assertIn("STARTTLS", client.ehlo("before.test"))
        client.command("MAIL FROM:<before@example.net>")
        client.command("STARTTLS", 220)
        client.handshake()
        self.assertEqual(client.command("MAIL FROM:<a@example.net>").code, 503)
        self.assertNotIn("STARTTLS", client.ehlo())
        self.assertEqual(client.command("RCPT TO:<b@example.com>").code, 503)
        self.assertEqual(client.command("STARTTLS").code, 503)
        self.assertEqual(client.message(BODY), 250)
        self.assertEqual(self.hop.messages[0].sender, "a@example.net")
        self.assertEqual(self.assert_relayed(self.hop.messages[0], BODY)["helo"], "client.test")

    def test_offered_or_not(self):
        self.start({"listen": {"plain": {"address": "127.0.0.1:0"}}})
        client = self.client(self.edge.ports["plain"])
        self.assertNotIn("STARTTLS", client.ehlo())
        self.assertEqual(client.command("STARTTLS").code, 502)
        client = self.client(self.edge)
        self.assertIn("STARTTLS", client.ehlo())
        self.assertEqual(client.command("STARTTLS now").code, 501)
        client.command("STARTTLS", 220)

    def test_injection_by_the_client(self):
        """RFC 3207, CVE-2011-0411: plaintext behind STARTTLS is never taken for TLS's content."""
        self.start()
        tails = (b"NOOP\r\n", b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<b@example.com>\r\n",
                 b"x", b"\r\n", b"RSET", b"\x16\x03\x01\x00\x05hello")
        for tail in tails:
            with self.subTest(tail):
                client = self.client(self.edge)
                client.ehlo()
                client.send(b"STARTTLS\r\n" + tail)
                reply = client.reply()
                self.assertEqual((reply.code, reply.enhanced), (554, "5.5.1"))
                self.assertTrue(client.is_closed())
                self.assertEqual(client.buffer, b"")
        self.assertEqual(self.edge.counter("violations_starttls_injection"), len(tails))
        self.assertEqual(self.hop.sessions, [])

    def test_injection_after_pipelined_commands(self):
        self.start()
        client = self.client(self.edge)
        client.send(b"EHLO x.test\r\nNOOP\r\nSTARTTLS\r\nMAIL FROM:<evil@example.net>\r\n")
        self.assertEqual(client.replies(2), [250, 250])
        self.assertEqual(client.reply(), 554)
        self.assertTrue(client.is_closed())

    def test_plaintext_in_place_of_a_handshake(self):
        self.start({"limits": {"errors": 5}})
        for junk in (b"EHLO x\r\nMAIL FROM:<evil@example.net>\r\n", b"\0" * 100, b"\x16\x03",
                     b"\x16\x03\x01\xff\xff" + b"x" * 70000):
            for port in ("smtp", "smtps"):
                with self.subTest(junk[:10], port=port):
                    client = self.client(self.edge.ports[port], greeting=port == "smtp")
                    if port == "smtp":
                        client.ehlo()
                        client.command("STARTTLS", 220)
                    try:
                        client.send(junk)
                        client.socket.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass  # closed before it had read all
                    self.assertTrue(client.is_closed())
                    self.assertNotIn(b"250", client.buffer)
        self.edge.wait_event("tls_failed", 8, side="server")
        self.assertEqual(self.edge.counter("tls_server_failed"), 8)
        self.assertEqual(self.hop.sessions, [])

    def test_clients_that_say_nothing(self):
        """timeouts.tls holds for both kinds of listener."""
        self.start({"timeouts": {"tls": "200ms"}})
        for port in ("smtp", "smtps"):
            client = self.client(self.edge.ports[port], greeting=port == "smtp")
            if port == "smtp":
                client.ehlo()
                client.command("STARTTLS", 220)
            self.assertTrue(client.is_closed())
        event = self.edge.wait_event("tls_failed", 2, side="server")
        self.assertIn("timed out", event["reason"])
        wait_for(lambda: self.edge.stats()["gauges"]["sessions_current"] == 0, 10, "no session")

    def test_handshake_octet_by_octet(self):
        """Records come in pieces of one octet, through a proxy that cuts them."""
        self.start()
        for port in ("smtp", "smtps"):
            ours, theirs = socket.socketpair()
            upstream = socket.create_connection(("127.0.0.1", self.edge.ports[port]))
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def forward(source, sink, step):
                try:
                    while data := source.recv(65536):
                        for at in range(0, len(data), step):
                            sink.sendall(data[at:at + step])
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            for pair in ((theirs, upstream, 1), (upstream, theirs, 7)):
                threading.Thread(target=forward, args=pair, daemon=True).start()
            client = Client.__new__(Client)
            client.socket, client.buffer, client.extensions = ours, b"", {}
            ours.settimeout(20 * SLOW)
            if port == "smtp":
                client.reply()
                client.ehlo()
                client.command("STARTTLS", 220)
                client.handshake()
            else:
                client.handshake()
                client.reply()
            client.ehlo()
            self.assertEqual(client.message(BODY * 1000), 250)
            self.assert_relayed(self.hop.messages.pop(), BODY * 1000)
            client.quit()
            for one in (theirs, upstream):
                one.close()

    def test_many_handshakes_at_once(self):
        """More than limits.tls_handshakes in one turn: all are served in the end."""
        self.start({"limits": {"tls_handshakes": 2}})
        faults: list[BaseException] = []

        def one() -> None:
            try:
                with Client(self.edge) as client:
                    client.ehlo()
                    client.starttls()
                    assert client.message(BODY) == 250
                    client.quit()
            except (AssertionError, OSError, EOFError) as error:
                faults.append(error)

        threads = [threading.Thread(target=one) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(len(self.hop.messages), 40)


class Reload(SystemTest):
    """SIGHUP: new certificates for new sessions, nothing changes for those that are open."""

    def setUp(self):
        self.hop = self.next_hop()
        self.files = self.folder()
        self.certificate = Certificate(str(self.files / "cert.pem"), str(self.files / "key.pem"),
                                       ())
        self.install(certificates().localhost)
        self.edge = self.relay(self.hop, {**IMPLICIT, "workers": 2}, tls="starttls",
                               certificate=self.certificate)

    def install(self, certificate: Certificate) -> None:
        shutil.copy(certificate.certificate, self.certificate.certificate)
        shutil.copy(certificate.key, self.certificate.key)

    def connect(self) -> Client:
        client = self.client(self.edge)
        client.ehlo()
        client.starttls(context_of(verify=False))
        return client

    def expiry(self) -> float:
        return next(value for name, value in self.edge.metrics().items() if "expiry" in name)

    @staticmethod
    def seen(client: Client) -> bytes:
        return client.socket.getpeercert(binary_form=True)

    def test_new_certificate(self):
        new = certificates().make("renewed", ("localhost",), 20, folder=str(self.files))
        old = self.connect()
        half = self.client(self.edge)
        half.ehlo()
        old.envelope()
        old.data(BODY[:5])
        expiry = self.expiry()
        self.install(new)
        self.edge.reload()
        fresh = self.connect()
        self.assertEqual(self.seen(fresh), new.der())
        self.assertEqual(fresh.message(BODY), 250)
        self.assertEqual(self.seen(old), certificates().localhost.der())
        old.send(BODY[5:-3] + b"..\r\n.\r\n")
        self.assertEqual(old.reply(), 250)
        self.assertEqual(old.message(BODY), 250)
        half.starttls(context_of(verify=False))
        self.assertEqual(self.seen(half), new.der())
        for client in (old, fresh, half):
            client.quit()
        for message in self.hop.messages:
            self.assert_relayed(message, BODY)
        self.assertEqual(len(self.hop.messages), 3)
        wait_for(lambda: self.expiry() < expiry, 5, "the metric tells the new certificate's end")

    def test_broken_certificate(self):
        """The old one stays in use, the log and a metric say what is wrong."""
        for name, break_it in (("no PEM", lambda: self.write("certificate", b"nonsense")),
                               ("empty", lambda: self.write("key", b"")),
                               ("missing", lambda: pathlib.Path(self.certificate.key).unlink()),
                               ("not a pair", lambda: self.write("key", pathlib.Path(
                                   certificates().edge_a.key).read_bytes()))):
            with self.subTest(name):
                self.install(certificates().localhost)
                break_it()
                self.edge.reload()
                said = [line for line in self.edge.log() if "reload: " in line]
                self.assertIn("the certificates in use stay", said[-1])
                self.wait_result(0)
                client = self.connect()
                self.assertEqual(self.seen(client), certificates().localhost.der())
                self.assertEqual(client.message(BODY), 250)
                client.quit()
        self.install(certificates().localhost)
        self.edge.reload()
        self.wait_result(1)

    def wait_result(self, value: int) -> None:
        """It may be told a moment after the log line."""
        name = "ringpost_config_last_reload_successful"
        wait_for(lambda: self.edge.metrics()[name] == value, 5, f"{name} is {value}")

    def write(self, which: str, data: bytes) -> None:
        pathlib.Path(getattr(self.certificate, which)).write_bytes(data)

    def test_under_traffic(self):
        """20 reloads while 6 clients send: no message fails, no connection breaks."""
        pair = [certificates().localhost,
                certificates().make("second", ("localhost",), 25, folder=str(self.files))]
        ends = threading.Event()
        faults: list[BaseException] = []
        sent = [0] * 6

        def one(number: int) -> None:
            try:
                while not ends.is_set():
                    with Client(self.edge) as client:
                        client.ehlo()
                        client.starttls()
                        for _ in range(3):
                            assert client.message(BODY) == 250
                            sent[number] += 1
                        client.quit()
            except (AssertionError, OSError, EOFError) as error:
                faults.append(error)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for number in range(20):
            self.install(pair[number % 2])
            self.edge.reload()
        ends.set()
        for thread in threads:
            thread.join()
        self.assertEqual(faults, [])
        self.assertEqual(len(self.hop.messages), sum(sent))
        self.assertGreater(min(sent), 0)


class AsClient(SystemTest):
    """Towards next hops."""

    def start(self, hop: NextHop | list[NextHop], mode: str, name: str | None = None,
              changes: dict | None = None, **more) -> Client:
        internal = {"tls": mode, **more}
        if mode == "verify":
            internal.setdefault("ca", certificates().ca)
        if name:
            internal["tls_name"] = name
        self.edge = self.relay(hop, {"next_hop": {"internal": internal}, **(changes or {})})
        client = self.client(self.edge)
        client.ehlo()
        return client

    def test_policies(self):
        """Every policy against every certificate: delivered by TLS, in the clear, or deferred."""
        made = certificates()
        rows = [  # policy, certificate of the hop (None: TLS is not offered), outcome, log
            ("none", made.hop, "clear", ""),
            ("none", None, "clear", ""),
            ("opportunistic", made.hop, "tls", ""),
            ("opportunistic", made.other_name, "tls", ""),
            ("opportunistic", made.expired, "tls", ""),
            ("opportunistic", made.unknown_authority, "tls", ""),
            ("opportunistic", None, "clear", ""),
            ("require", made.hop, "tls", ""),
            ("require", made.other_name, "tls", ""),
            ("require", made.expired, "tls", ""),
            ("require", made.unknown_authority, "tls", ""),
            ("require", None, "deferred", "(?i)tls"),
            ("verify", made.hop, "tls", ""),
            ("verify", made.other_name, "deferred", "(?i)hop.test|name"),
            ("verify", made.expired, "deferred", "(?i)expired"),
            ("verify", made.unknown_authority, "deferred", "(?i)issuer|authority|trust|chain"),
            ("verify", None, "deferred", "(?i)tls"),
        ]
        for policy, certificate, outcome, log in rows:
            name = certificate.names[0] if certificate else "no TLS"
            with self.subTest(policy=policy, certificate=name):
                hop = self.next_hop(tls=certificate)
                client = self.start(hop, policy, "hop.test")
                reply = client.message(BODY)
                if outcome == "deferred":
                    self.assertEqual(reply.code, 451, reply)
                    self.assertRegex(reply.enhanced, r"4\.7\.\d")
                    self.assertEqual(hop.commands("MAIL"), [])
                    self.assertEqual(hop.received, [])
                    wait_for(lambda: self.edge.events("server_down"), 10, "server_down is logged")
                    self.assertRegex(str(self.edge.events("server_down")), log)
                    self.assertIn("TLS", self.edge.wait_event("message")["reply"])
                else:
                    self.assertEqual(reply, 250)
                    self.assertEqual(hop.messages[0].tls, outcome == "tls")
                    self.assert_relayed(hop.messages[0], BODY)
                    self.assertEqual("server_tls" in self.edge.wait_event("message"),
                                     outcome == "tls")
                client.quit()
                self.edge.stop()

    def test_verified_by_name_of_server(self):
        """Without tls_name the name in `servers` is sent, and must be in the certificate."""
        # The first address of a name is the one that is used: ::1 in many a /etc/hosts.
        address = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0][4][0]
        for certificate, wanted in ((certificates().localhost, 250), (certificates().hop, 451)):
            hop = self.next_hop(tls=certificate, address=address)
            client = self.start(hop, "verify", servers=f"localhost:{hop.port}")
            self.assertEqual(client.message(BODY), wanted)
            self.assertEqual(hop.sessions[0].tls_name, "localhost")

    def test_server_name_is_sent(self):
        hop = self.next_hop(tls=certificates().hop)
        self.assertEqual(self.start(hop, "require", "hop.test").message(BODY), 250)
        self.assertEqual(hop.sessions[0].tls_name, "hop.test")

    def test_ehlo_again(self):
        """RFC 3207 4.2: what the server offered before TLS is forgotten as well."""
        hop = self.next_hop(tls=certificates().hop, extensions=("PIPELINING", "8BITMIME"))

        def offer(session):
            if session.tls:
                return "250 hop.test\n8BITMIME\nPIPELINING"
            return "250 hop.test\nSTARTTLS\nSIZE 10\nCHUNKING\nSMTPUTF8\nDSN"

        hop.on("EHLO", offer)
        client = self.start(hop, "require")
        self.assertEqual(client.chunked(BODY, parameters=" RET=HDRS"), 250)
        self.assert_relayed(hop.messages[0], BODY)
        self.assertEqual(hop.messages[0].how, "DATA")
        self.assertEqual(len(hop.commands("EHLO")), 2)
        self.assertEqual(hop.sessions[0].commands[1:3], ["STARTTLS", "EHLO edge.test"])

    def test_downgrade_is_not_taken(self):
        """STARTTLS taken out of the list, or refused: what must be encrypted waits."""
        hop = self.next_hop(tls=certificates().hop)
        for policy in ("require", "verify"):
            for event, reply in (("EHLO", "250 hop.test\nSIZE 1000000"),
                                 ("EHLO", "502 5.5.1 no EHLO"), ("STARTTLS", "454 4.7.0 not now"),
                                 ("STARTTLS", "502 5.5.1 no"), ("STARTTLS", "554 5.5.1 no")):
                with self.subTest(policy=policy, reply=reply):
                    hop.off()
                    hop.on(event, reply)
                    client = self.start(hop, policy, "hop.test")
                    answer = client.message(BODY)
                    self.assertEqual(answer.code, 451, answer)
                    # Without EHLO there is more wrong than TLS.
                    wanted = r"4\.[37]\." if reply.startswith("502 5.5.1 no EHLO") else r"4\.7\."
                    self.assertRegex(answer.enhanced, wanted)
                    client.quit()
                    self.edge.stop()
        self.assertEqual(hop.commands("MAIL"), [])

    def test_opportunistic_refused(self):
        hop = self.next_hop(tls=certificates().hop)
        for reply in ("454 4.7.0 not now", "502 5.5.1 no"):
            hop.off()
            hop.on("STARTTLS", reply)
            client = self.start(hop, "opportunistic")
            self.assertEqual(client.message(BODY), 250)
            self.assertFalse(hop.messages.pop().tls)
            self.assertEqual(self.edge.counter("tls_client_failed"), 0)

    def test_opportunistic_falls_back(self):
        """RFC 7435: a handshake that fails is no reason not to deliver; it is logged and counted,
        and the next message does not try again at once."""
        rows = [("garbage", ["220 go", Delay(0.05), Raw(b"this is no TLS\r\n" * 20), Drop()]),
                ("drop", ["220 go", Delay(0.05), Drop()]),
                ("reset", ["220 go", Delay(0.05), Reset()])]
        for name, action in rows:
            with self.subTest(name):
                hop = self.next_hop(tls=certificates().hop)
                hop.on("STARTTLS", action)
                client = self.start(hop, "opportunistic")
                self.assertEqual(client.message(BODY), 250)
                self.assertFalse(hop.messages[0].tls)
                self.assert_relayed(hop.messages[0], BODY)
                event = self.edge.wait_event("tls_failed", side="client")
                self.assertEqual(event["server"], hop.server)
                self.assertEqual(self.edge.counter("tls_client_failed"), 1)
                hop.disconnect()
                self.assertEqual(client.message(BODY), 250)
                self.assertEqual(len(hop.commands("STARTTLS")), 1)

    def test_opportunistic_old_server(self):
        """A server that only knows TLS 1.2 while 1.3 is the least we take: in the clear; required:
        not at all."""
        old = certificates().hop.server_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for policy, wanted in (("opportunistic", 250), ("require", 451)):
            hop = self.next_hop(tls=old)
            client = self.start(hop, policy, changes={"tls": {"minimum": "1.3"}})
            self.assertEqual(client.message(BODY), wanted)
            self.assertEqual([message.tls for message in hop.messages],
                             [False] if wanted == 250 else [])
            self.assertIn("version", self.edge.wait_event("tls_failed")["reason"])

    def test_versions(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = certificates().hop.server_context()
            context.minimum_version = context.maximum_version = version
            hop = self.next_hop(tls=context)
            self.assertEqual(self.start(hop, "verify", "hop.test").message(BODY), 250)
            self.assertEqual(hop.sessions[0].tls_version, version.name.replace("_", "."))

    def test_injection_by_the_next_hop(self):
        """Replies that a man in the middle puts behind the 220 (CVE-2011-0411's other side)."""
        for policy in ("opportunistic", "require", "verify"):
            with self.subTest(policy):
                hop = self.next_hop(tls=certificates().hop)
                hop.on("STARTTLS", Raw(b"220 go\r\n250-hop.test\r\n250 CHUNKING\r\n250 ok\r\n"))
                client = self.start(hop, policy, "hop.test")
                reply = client.message(BODY)
                self.assertEqual(reply.code, 451, reply)
                self.assertEqual(hop.received, [])
                self.assertEqual(hop.commands("MAIL"), [])
                wait_for(lambda: self.edge.events("server_down"), 10, "server_down is logged")
                self.assertIn("injection", self.edge.events("server_down")[0]["reason"])

    def test_handshake_that_stalls(self):
        """It is said and counted as what it is, once; opportunistic: delivered without TLS."""
        for policy, wanted in (("opportunistic", 250), ("require", 451)):
            with self.subTest(policy):
                hop = self.next_hop(tls=certificates().hop)
                hop.on("STARTTLS", ["220 go", Stall()])
                client = self.start(hop, policy, changes={"timeouts": {"tls": "300ms"}})
                reply = client.message(BODY)
                self.assertEqual(reply.code, wanted)
                if wanted == 451:
                    self.assertIn("took too long in TLS setup", reply.text)
                event = self.edge.wait_event("tls_failed", side="client")
                self.assertEqual(event["reason"], "timed out")
                self.assertEqual(self.edge.counter("tls_client_failed"), 1)
                metrics = self.edge.metrics()
                for result, count in (("timeout", 1), ("tls", 0)):
                    self.assertEqual(metrics[
                        f'ringpost_next_hop_connections_total{{result="{result}",'
                        'next_hop="internal"}'], count, result)
                hop.release()

    def test_next_server_after_tls_failure(self):
        """The first server's certificate has expired: the second gets the message at once."""
        bad, good = (self.next_hop(tls=one)
                     for one in (certificates().expired, certificates().hop))
        client = self.start([bad, good], "verify", "hop.test")
        self.assertEqual(client.message(BODY), 250)
        self.assert_relayed(good.messages[0], BODY)
        self.assertEqual((bad.received, bad.commands("MAIL")), ([], []))
        self.assertIn("expired", self.edge.wait_event("server_down")["reason"])

    def test_resumption(self):
        hop = self.next_hop(tls=certificates().hop)
        client = self.start(hop, "verify", "hop.test", messages_per_connection=1)
        for _ in range(4):
            self.assertEqual(client.message(BODY), 250)
        self.assertEqual(len(hop.sessions), 4)
        self.assertGreaterEqual(self.edge.counter("tls_client_resumed"), 3)
        self.assertEqual(self.edge.counter("tls_client_unverified"), 0)

    def test_connection_is_reused(self):
        hop = self.next_hop(tls=certificates().hop, extensions=EXTENSIONS)
        client = self.start(hop, "require")
        for _ in range(20):
            self.assertEqual(client.message(BODY), 250)
        self.assertEqual(len(hop.sessions), 1)
        self.assertEqual(self.edge.counter("tls_client_ok"), 1)

    def test_authority_is_read_again(self):
        """The file of authorities changes, SIGHUP: the server is trusted from then on."""
        folder = self.folder()
        authority = folder / "ca.pem"
        shutil.copy(certificates().other_ca, authority)
        hop = self.next_hop(tls=certificates().hop)
        client = self.start(hop, "verify", "hop.test", ca=str(authority), changes={
            "timeouts": {"server_retry": "10ms", "server_retry_max": "10ms"}})
        self.assertEqual(client.message(BODY), 451)
        shutil.copy(certificates().ca, authority)
        self.edge.reload()
        wait_for(lambda: client.message(BODY) == 250, 10, "the server is trusted")
        self.assert_relayed(hop.messages[0], BODY)
        self.assertTrue(hop.messages[0].tls)
