"""The shortest way through the relay: if this fails, look here before anywhere else."""
from harness import SystemTest


class Smoke(SystemTest):

    def test_one_message(self):
        hop = self.next_hop()
        relay = self.relay(hop)
        client = self.client(relay)
        client.ehlo()
        body = b"Subject: x\r\n\r\n.\r\nhello\r\n"
        self.assertEqual(client.message(body), 250)
        client.quit()
        message = hop.wait_messages(1)[0]
        parts = self.assert_relayed(message, body)
        self.assertEqual((message.sender, message.recipients), ("a@example.net", ["b@example.com"]))
        self.assertEqual((parts["helo"], parts["with"], parts["for"]),
                         ("client.test", "ESMTP", "b@example.com"))
        self.assertEqual(relay.counter("messages_accepted"), 1)
        self.assertEqual(relay.metrics()['ringpost_connections_total{result="accepted"}'], 1)
        event = relay.wait_event("message")
        self.assertEqual((event["status"], event["id"]), ("delivered", parts["id"]))

    def test_text_configuration(self):
        hop = self.next_hop()
        relay = self.relay(hop, """
hostname: edge.test
workers: 2
listen:
  smtp: { address: "127.0.0.1:$port", tls: starttls }
tls: { certificate: $certificate, key: $key }
accept: { networks: 127.0.0.0/8 }
next_hop: { internal: { servers: "$server" } }
route: { "*": internal }
stats: { address: "unix:stats.sock" }
""")
        client = self.client(relay)
        client.ehlo()
        client.starttls()
        self.assertEqual(client.message(b"Subject: x\r\n\r\nhello\r\n"), 250)
        self.assertEqual(len(hop.messages), 1)

    def test_differences_are_seen(self):
        """The comparison that other tests rest on: it must not pass what is wrong."""
        hop = self.next_hop()
        client = self.client(self.relay(hop))
        client.ehlo()
        body = b"Subject: x\r\n\r\n.dot\r\n"
        client.message(body)
        good = hop.messages[0].data
        self.assert_relayed(good, body)
        field = good[:-len(body)]
        wrong = {"an octet more": good + b"x", "an octet less": good[:-1], "no field": body,
                 "two fields": field + good, "unfolded": good.replace(b"\r\n\t", b"\n\t"),
                 "stuffed": good.replace(b"\r\n.dot", b"\r\n..dot"),
                 "other name": good.replace(b"by edge.test", b"by evil.test"),
                 "old date": good.replace(b" 20", b" 19"), "behind": body + field}
        for name, data in wrong.items():
            with self.subTest(name), self.assertRaises(AssertionError):
                self.assert_relayed(data, body)
