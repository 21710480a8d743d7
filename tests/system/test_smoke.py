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
