"""Commands whose replies fill the block that they are collected in: each is executed and answered once."""
from harness import SystemTest


class FullReplyBlock(SystemTest):

    def test_each_command_is_answered_once(self):
        relay = self.relay(self.next_hop())
        client = self.client(relay)
        client.ehlo()
        client.send("NOOP\r\n" * 95 + "QUIT\r\n")
        self.assertEqual([reply.code for reply in client.replies(96)], [250] * 95 + [221])
        self.assertTrue(client.is_closed())

    def test_empty_chunks_are_answered_once(self):
        relay = self.relay(self.next_hop())
        client = self.client(relay)
        client.ehlo()
        client.send("MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n" +
                    "BDAT 0\r\n" * 60 + "BDAT 0 LAST\r\nQUIT\r\n")
        replies = client.replies(64)
        self.assertEqual([reply.code for reply in replies], [250] * 63 + [221])
        self.assertNotIn("octets received", str(replies[62]))
