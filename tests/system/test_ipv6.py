"""IPv6 from end to end: listeners, next hops, what stands in Received: and logs, the limit by /64."""
import contextlib
import ctypes
import os
import socket
import subprocess
import unittest

from abuse import AbuseTest
from harness import Client, certificates, find_tool, missing, wait_for
from traffic import LETTER, letter

SIX = {"smtp": {"address": "[::1]:0"}}
CLONE_NEWNET = 0x40000000
TOO_MANY = "421 4.7.0 Too many connections from your address"


def loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


class Six(AbuseTest):

    def setUp(self):
        if not loopback():
            raise unittest.SkipTest("this machine has no ::1")


class EndToEnd(Six):

    def deliver(self, relay, address="::1", data=LETTER, **options):
        with Client(relay, address=address, **options) as client:
            client.ehlo()
            self.assertEqual(client.message(data), 250)
            client.quit()

    def test_to_a_next_hop(self):
        """[::1] to [::1]: the octets, the client in Received: as RFC 5321 4.1.3 writes it, in the log
        as RFC 5952 does. Finds: a literal without its tag."""
        hop = self.next_hop(address="::1")
        relay = self.relay(hop, {"listen": SIX, "accept": {"networks": ["::1/128"]}})
        self.deliver(relay)
        fields = self.assert_relayed(hop.messages[0], LETTER)
        self.assertEqual(fields["client"], "[IPv6:::1]")
        event = relay.wait_event("message")
        self.assertEqual((event["client"], event["server"]), ("::1", f"[::1]:{hop.port}"))
        large = letter(1 << 20)
        self.deliver(relay, data=large)
        self.assert_relayed(hop.messages[1], large)

    def test_both_at_once(self):
        """One listener for each family, a next hop with a server of each: the first that is up.
        Finds: an IPv4 client that is written as a mapped address."""
        six, four = self.next_hop(address="::1"), self.next_hop()
        relay = self.relay([six, four], {
            "listen": {"smtp": {"address": "127.0.0.1:0"}, "six": {"address": "[::1]:0"}},
            "accept": {"networks": ["::1/128", "127.0.0.0/8"]},
            "timeouts": {"server_retry": "60s", "server_retry_max": "60s"}})
        port = relay.ports["six"]
        for where, address in ((relay.port, "127.0.0.1"), (port, "::1")):
            self.deliver(where, address)
        self.assertEqual([self.assert_relayed(one, LETTER)["client"] for one in six.messages],
                         ["[127.0.0.1]", "[IPv6:::1]"])
        six.refuse()
        six.disconnect()
        wait_for(lambda: relay.stats()["next_hops"][0]["connections_current"] == 0, 10, "closed")
        self.deliver(port, "::1")
        self.assertEqual(self.assert_relayed(four.messages[0], LETTER)["client"], "[IPv6:::1]")

    def test_every_address(self):
        """[::]: both families where the kernel has them so; IPv4 clients keep their own address.
        Finds: accept.networks of IPv4 that mapped clients do not fit."""
        hop = self.next_hop()
        relay = self.relay(hop, {"listen": {"smtp": {"address": "[::]:0"}},
                                 "accept": {"networks": ["127.0.0.0/8", "::1/128"]}})
        self.deliver(relay, "::1")
        fields = self.assert_relayed(hop.messages[0], LETTER)
        self.assertEqual(fields["client"], "[IPv6:::1]")
        try:
            self.deliver(relay, "127.0.0.1")
        except ConnectionRefusedError:
            return  # net.ipv6.bindv6only
        fields = self.assert_relayed(hop.messages[1], LETTER)
        self.assertEqual(fields["client"], "[127.0.0.1]")

    def test_tls(self):
        """STARTTLS on both sides. Finds: a server name made of an address literal."""
        hop = self.next_hop(address="::1", tls=certificates().localhost)
        relay = self.relay(hop, {"listen": {"smtp": {"address": "[::1]:0", "tls": "starttls"}},
                                 "next_hop": {"internal": {"tls": "require"}},
                                 "accept": {"networks": ["::1/128"]}})
        client = self.client(relay, address="::1")
        client.ehlo()
        client.starttls()
        self.assertEqual(client.message(LETTER), 250)
        self.assertTrue(hop.messages[0].tls)
        fields = self.assert_relayed(hop.messages[0], LETTER)
        self.assertEqual((fields["client"], fields["with"]), ("[IPv6:::1]", "ESMTPS"))

    def test_statistics(self):
        """Finds: a statistics address in brackets that is not understood."""
        relay = self.relay(self.next_hop(), {
            "listen": SIX, "stats": {"address": ["unix:stats.sock", "[::1]:0"]}})
        with socket.create_connection(("::1", relay.ports["stats"]), 10) as scraper:
            scraper.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\n\r\n")
            self.assertTrue(scraper.recv(4096).startswith(b"HTTP/1.1 200 "))


def own_network() -> bool:
    """This process gets a network of its own; True if it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(CLONE_NEWNET) == 0


class Limits(Six):
    """limits.connections_per_client by /64. Loopback has one address: a network namespace gets more;
    the test, the relay and the next hop live there together."""

    def setUp(self):
        super().setUp()
        ip = find_tool("ip")
        before = os.open("/proc/self/ns/net", os.O_RDONLY)
        if not own_network():
            os.close(before)
            raise unittest.SkipTest("no network namespace can be made here")
        self.addCleanup(self.back, before)
        for command in ("link set lo up", *(
                f"addr add {address}/128 dev lo nodad" for address in (
                    "2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:1:ffff::3",
                    "2001:db8:1:2::1", "2001:db8:2:1::1"))):
            done = subprocess.run([ip, *command.split()], capture_output=True, text=True,
                                  check=False)
            if done.returncode != 0:
                missing(f"ip {command}: {done.stderr.strip()}")

    @staticmethod
    def back(before: int) -> None:
        ctypes.CDLL(None, use_errno=True).setns(before, CLONE_NEWNET)
        os.close(before)

    def test_by_network(self):
        """All addresses of a /64 count as one client, those of the next one do not; nobody else is
        kept out, and places come back. Finds: a count by address (three times the limit got in),
        one by /32 or /48 (the neighbour is refused)."""
        hop = self.next_hop(address="::1")
        relay = self.relay(hop, {
            "listen": {"smtp": {"address": "[::]:0"}},
            "accept": {"networks": ["::1/128"], "domains": ["example.com"]},
            "limits": {"connections_per_client": 4}})
        before = self.state(relay)
        with contextlib.ExitStack() as stack:
            def connect(address: str) -> Client:
                return stack.enter_context(Client(relay, address="::1", source=address))

            mine = ["2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:1:ffff::3",
                    "2001:db8:1:1::1"]
            inside = [connect(address) for address in mine]
            self.assertEqual([one.greeting.code for one in inside], [220] * 4)
            for address in mine:
                refused = connect(address)
                self.assertEqual(f"{refused.greeting.code} {refused.greeting.text}", TOO_MANY)
                self.assertTrue(refused.is_closed())
            event = relay.wait_event("connection_refused")
            self.assertEqual(event["client"], "2001:db8:1:1::1")
            for address in ("2001:db8:1:2::1", "2001:db8:2:1::1"):
                client = connect(address)
                self.assertEqual(client.greeting, 220)
                client.ehlo()
                self.assertEqual(client.message(LETTER), 250)
                self.assertEqual(self.assert_relayed(hop.messages[-1], LETTER)["client"],
                                 f"[IPv6:{address}]")
            for _ in range(8):  # accept.networks: exempt
                self.assertEqual(connect("::1").greeting, 220)
            inside[0].ehlo()
            inside[0].quit()
            wait_for(lambda: connect("2001:db8:1:1::2").greeting == 220, 10, "a place is free")
        wait_for(lambda: self.state(relay).values["descriptors"]
                 == before.values["descriptors"], 10, "all is given back")
