"""Who may send to whom, which way it goes, and the old tricks to be relayed all the same."""
from harness import SystemTest
from traffic import LETTER

STRANGER = "127.0.0.9"
CONTROL = {"accept": {"networks": ["127.0.0.1/32", "127.0.4.0/22", "127.1.2.3"],
                      "domains": ["example.com", "*.example.org", "xn--bcher-kva.example",
                                  "Mixed.Example.NET"]}}


class Control(SystemTest):

    def answers(self, relay, source, recipients):
        """One RCPT in a transaction of its own for each."""
        client = self.client(relay, source=source)
        client.ehlo()
        found = {}
        for recipient in recipients:
            client.command("MAIL FROM:<a@example.net>", 250)
            reply = client.command(f"RCPT TO:{recipient}")
            found[recipient] = (reply.code, reply.enhanced)
            client.command("RSET", 250)
        client.close()
        return found

    def expect(self, relay, rows, source=STRANGER):
        """rows: (RCPT's path, code, enhanced code)"""
        found = self.answers(relay, source, [row[0] for row in rows])
        self.assertEqual(found, {row[0]: row[1:] for row in rows})


class Networks(Control):

    def test_who_may_relay(self):
        relay = self.relay(self.next_hop(), CONTROL)
        rows = [("127.0.0.1", 250), ("127.0.4.1", 250), ("127.0.7.255", 250), ("127.0.8.0", 550),
                ("127.0.3.255", 550), ("127.1.2.3", 250), ("127.1.2.4", 550), ("127.0.0.2", 550)]
        for source, code in rows:
            with self.subTest(source=source):
                found = self.answers(relay, source, ["<b@elsewhere.test>"])
                self.assertEqual(found["<b@elsewhere.test>"][0], code)
        self.assertEqual(relay.counter("refusals_relay_denied"), 4)

    def test_nobody(self):
        """Without networks nobody may relay, this machine neither."""
        relay = self.relay(self.next_hop(), {"accept": {"networks": [],
                                                        "domains": ["example.com"]}})
        self.expect(relay, [("<b@example.com>", 250, "2.1.5"),
                            ("<b@elsewhere.test>", 550, "5.7.1")], "127.0.0.1")

    def test_ipv6(self):
        relay = self.relay(self.next_hop(), {
            "listen": {"smtp": {"address": ["127.0.0.1:0", "[::1]:0"]}},
            "accept": {"networks": ["::1/128"], "domains": ["example.com"]}})
        six = int(relay.config["listen"]["smtp"]["address"][1].rsplit(":", 1)[1])
        client = self.client(six, address="::1")
        client.ehlo()
        client.envelope(recipients="b@elsewhere.test")
        self.expect(relay, [("<b@elsewhere.test>", 550, "5.7.1")], "127.0.0.1")

    def test_refusal_is_logged(self):
        relay = self.relay(self.next_hop(), CONTROL)
        self.expect(relay, [("<b@elsewhere.test>", 550, "5.7.1")])
        event = relay.wait_event("refused")
        self.assertEqual((event["client"], event["to"], event["reply"]),
                         (STRANGER, "b@elsewhere.test", "550 5.7.1 Relaying denied"))


class Domains(Control):

    def test_strangers(self):
        hop = self.next_hop()
        relay = self.relay(hop, CONTROL)
        taken, denied = (250, "2.1.5"), (550, "5.7.1")
        self.expect(relay, [
            ("<b@example.com>", *taken),
            ("<B@EXAMPLE.com>", *taken),
            ("<b@mixed.example.net>", *taken),
            ("<b@XN--Bcher-KVA.example>", *taken),
            ("<b@sub.example.org>", *taken),
            ("<b@a.b.c.Example.Org>", *taken),
            ("<postmaster>", *taken),
            ("<POSTMASTER>", *taken),
            ('<"quoted local"@example.com>', *taken),
            # A wildcard is for what is below it, a name is not for what is below it.
            ("<b@example.org>", *denied),
            ("<b@sub.example.com>", *denied),
            ("<b@notexample.org>", *denied),
            ("<b@example.com.evil.test>", *denied),
            ("<b@evilexample.com>", *denied),
            ("<b@example.co>", *denied),
            ("<b@com>", *denied),
            ("<b@elsewhere.test>", *denied)])
        self.assertEqual(hop.sessions, [])

    def test_tricks(self):
        """What has led other servers to relay. 250 is for recipients that are ours as they stand;
        whatever else their local part says is never looked into, nor handed on by a trick."""
        relay = self.relay(self.next_hop(), CONTROL)
        rows = [
            "<b%elsewhere.test@example.com>",           # percent hack
            "<b%elsewhere.test%other.test@example.com>",
            "<elsewhere.test!b@example.com>",           # bang path
            "<@example.com:b@elsewhere.test>",          # source route
            "<@a.test,@example.com:b@elsewhere.test>",
            '<"b@elsewhere.test"@example.com>',         # quoted @
            '<"b%elsewhere.test"@example.com>',
            "<b@elsewhere.test@example.com>",           # two @
            "<b@example.com@elsewhere.test>",
            "<b@elsewhere.test.>",                      # trailing dot
            "<b@[127.0.0.1]>",                          # literals
            "<b@[192.0.2.1]>",
            "<b@[IPv6:::1]>",
            "<b@[example.com]>",
            "<b@127.0.0.1>",
            "<b@2130706433>",
            "<b>",                                      # no domain
            "<>",
            "<@example.com>",
            "<b@>",
            "<b@example.com\t@elsewhere.test>",
            "<b@example..com>",
            "<b@.example.com>",
            "<b@-example.com>",
            "<b@example.com:25>",
            "<smtp:b@elsewhere.test@example.com>",
            "b@elsewhere.test",
            "<b@elsewhere.test>x@example.com",
            "<b@elsewhere.test> <b@example.com>",
            "<b@elsewhere.test> ORCPT=rfc822;b@example.com",
            "<postmaster@elsewhere.test>",
            "<postmaster%elsewhere.test>",
        ]
        for recipient, (code, _) in self.answers_each(relay, rows).items():
            with self.subTest(recipient=recipient):
                self.assertIn(code, (501, 550, 553))

    def answers_each(self, relay, recipients):
        """A session for each: what is malformed counts as an error."""
        return {one: self.answers(relay, STRANGER, [one])[one] for one in recipients}

    def test_trailing_dot_is_no_way_around(self):
        """Neither refused here and taken there, nor the other way round."""
        relay = self.relay(self.next_hop(), CONTROL)
        code, _ = self.answers(relay, STRANGER, ["<b@example.com.>"])["<b@example.com.>"]
        self.assertIn(code, (501, 550))

    def test_tricks_of_friends(self):
        """Who may relay anywhere may use odd local parts: they go on unchanged."""
        hop = self.next_hop()
        relay = self.relay(hop, CONTROL)
        for recipient in ("b%elsewhere.test@example.com", "elsewhere.test!b@example.com",
                          '"b@elsewhere.test"@example.com', "b@[192.0.2.1]"):
            with self.subTest(recipient=recipient):
                client = self.client(relay)
                client.ehlo()
                self.assertEqual(client.message(LETTER, recipients=recipient), 250)
                self.assertEqual(hop.messages[-1].recipients, [recipient])

    def test_sender_gives_no_right(self):
        relay = self.relay(self.next_hop(), CONTROL)
        client = self.client(relay, source=STRANGER)
        client.ehlo("example.com")
        for sender in ("b@example.com", "", "postmaster@example.com"):
            client.command(f"MAIL FROM:<{sender}>", 250)
            reply = client.command("RCPT TO:<b@elsewhere.test>")
            self.assertEqual((reply.code, reply.enhanced), (550, "5.7.1"))
            client.command("RSET", 250)

    def test_one_good_recipient_does_not_help_the_others(self):
        hop = self.next_hop()
        relay = self.relay(hop, CONTROL)
        client = self.client(relay, source=STRANGER)
        client.ehlo()
        client.command("MAIL FROM:<a@example.net>", 250)
        client.command("RCPT TO:<b@example.com>", 250)
        client.command("RCPT TO:<b@elsewhere.test>", 550)
        client.command("RCPT TO:<c@sub.example.org>", 250)
        client.data(LETTER + b".\r\n")
        self.assertEqual(client.reply(), 250)
        self.assertEqual(hop.messages[0].recipients, ["b@example.com", "c@sub.example.org"])

    def test_no_recipient_no_data(self):
        relay = self.relay(self.next_hop(), CONTROL)
        client = self.client(relay, source=STRANGER)
        client.ehlo()
        client.send("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@elsewhere.test>\r\nDATA\r\n")
        self.assertEqual([one.code for one in client.replies(3)], [250, 550, 554])
        client.command("QUIT", 221)


class Routes(Control):

    def test_most_specific(self):
        names = ("exact", "wild", "deep", "rest")
        hops = {name: self.next_hop() for name in names}
        relay = self.relay(None, {
            "next_hop": {"internal": None} | {
                name: {"servers": [hop.server], "tls": "none"} for name, hop in hops.items()},
            "route": {"example.com": "exact", "*.example.com": "wild", "*.a.example.com": "deep",
                      "*": "rest"}})
        rows = [("b@example.com", "exact"), ("b@EXAMPLE.COM", "exact"),
                ("b@x.example.com", "wild"), ("b@a.example.com", "wild"),
                ("b@x.y.example.com", "wild"), ("b@x.a.example.com", "deep"),
                ("b@x.y.A.example.com", "deep"), ("b@notexample.com", "rest"),
                ("b@com", "rest"), ("b@[192.0.2.1]", "rest"), ("postmaster", "rest")]
        for recipient, name in rows:
            with self.subTest(recipient=recipient):
                client = self.client(relay)
                client.ehlo()
                before = len(hops[name].messages)
                self.assertEqual(client.message(LETTER, recipients=recipient), 250)
                self.assertEqual(len(hops[name].messages), before + 1)

    def test_postmaster_goes_where_our_name_goes(self):
        mine, rest = self.next_hop(), self.next_hop()
        relay = self.relay(None, {
            "next_hop": {"internal": {"servers": [rest.server]},
                         "mine": {"servers": [mine.server], "tls": "none"}},
            "route": {"edge.test": "mine"}})
        client = self.client(relay)
        client.ehlo()
        self.assertEqual(client.message(LETTER, recipients="postmaster"), 250)
        self.assertEqual(mine.messages[0].recipients, ["postmaster"])

    def test_no_route(self):
        hop = self.next_hop()
        relay = self.relay(hop, {"route": {"*": None, "example.com": "internal"}})
        client = self.client(relay)
        client.ehlo()
        client.command("MAIL FROM:<a@example.net>", 250)
        reply = client.command("RCPT TO:<b@elsewhere.test>")
        self.assertEqual((reply.code, reply.enhanced), (550, "5.1.2"))
        client.command("RCPT TO:<b@example.com>", 250)
        self.assertEqual(relay.counter("refusals_no_route"), 1)
