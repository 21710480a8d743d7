"""Which server gets the mail: order, groups, dead ones, recovery, and over how many connections."""
import contextlib
import socket
import time

from harness import (Default, Drop, NextHop, Relay, SLOW, Stall, SystemTest, stuffed, wait_for)
from traffic import LETTER, deliver, together


def attempts(relay: Relay, result: str) -> float:
    return relay.metrics()[f'ringpost_next_hop_connections_total{{result="{result}",'
                           'next_hop="internal"}']


def hop_metric(relay: Relay, name: str) -> float:
    return relay.metrics()[f'ringpost_next_hop_{name}{{next_hop="internal"}}']


class Failover(SystemTest):

    def hops(self, count: int, **options) -> list[NextHop]:
        return [self.next_hop(**options) for _ in range(count)]

    def timed(self, relay, seconds, code=250):
        """One message; the reply must come within so many seconds."""
        start = time.monotonic()
        reply = deliver(relay)
        took = time.monotonic() - start
        self.assertEqual(reply, code)
        self.assertLess(took, seconds * SLOW, f"{reply}")
        return reply


class Order(Failover):

    def test_first_one_that_is_up(self):
        first, second, third = self.hops(3)
        relay = self.relay([first, second, third])
        for _ in range(5):
            self.assertEqual(deliver(relay), 250)
        first.refuse()
        first.disconnect()
        for _ in range(5):
            self.assertEqual(deliver(relay), 250)
        second.refuse()
        second.disconnect()
        for _ in range(5):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual([len(hop.messages) for hop in (first, second, third)], [5, 5, 5])
        self.assertEqual(hop_metric(relay, "servers_down"), 2)

    def test_groups_share(self):
        hops = self.hops(4)
        relay = self.relay(None, {"next_hop": {"internal": {"servers": [
            [hop.server for hop in hops[:3]], hops[3].server]}}})
        for _ in range(30):
            self.assertEqual(deliver(relay), 250)
        counts = [len(hop.messages) for hop in hops]
        self.assertEqual(counts, [10, 10, 10, 0])
        # One of them dies: the others of the group, not the one after the group.
        hops[0].refuse()
        hops[0].disconnect()
        for _ in range(10):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual([len(hop.messages) - before for hop, before in zip(hops, counts)],
                         [0, 5, 5, 0])
        for hop in hops[1:3]:
            hop.refuse()
            hop.disconnect()
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hops[3].messages), 1)

    def test_balance_share(self):
        hops = self.hops(4)
        relay = self.relay(hops, {"next_hop": {"internal": {"balance": "share"}}})
        for _ in range(20):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual([len(hop.messages) for hop in hops], [5] * 4)

    def test_the_least_busy_of_a_group(self):
        """A server that is slow gets less: what is under way there counts."""
        slow, quick = self.hops(2)
        slow.on("END", [Stall, Default])
        relay = self.relay([slow, quick], {"next_hop": {"internal": {"balance": "share"}}})
        waiting = []
        while not slow.stalled:
            client = self.client(relay)
            client.ehlo()
            client.envelope()
            client.data(stuffed(LETTER))
            waiting.append(client)
            wait_for(lambda: slow.stalled or len(quick.messages) == len(waiting), what="taken")
        for _ in range(10):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(slow.received), 1)
        slow.release()
        for client in waiting:
            self.assertEqual(client.reply(), 250)


class Dead(Failover):

    def test_not_asked_for_each_message(self):
        """A server that is down costs one connection, not one for each message."""
        for how in ("refuse", "greeting", "drop"):
            with self.subTest(how=how):
                dead, good = self.hops(2)
                if how == "refuse":
                    dead.refuse()
                else:
                    dead.on("CONNECT", "554 5.3.2 no" if how == "greeting" else Drop)
                relay = self.relay([dead, good])
                for _ in range(20):
                    self.timed(relay, 1)
                self.assertEqual(len(good.messages), 20)
                self.assertLessEqual(len(dead.sessions), 1)
                self.assertEqual(attempts(relay, "refused"), how == "refuse")
                self.assertEqual(attempts(relay, "opened"), 2)
                event = relay.wait_event("server_down")
                self.assertEqual((event["server"], event["retry_in"]), (dead.server, 5))
                self.assertEqual(relay.stats()["next_hops"][0]["servers_down"], 1)

    def test_all_down(self):
        """451, at once, and without another attempt for each message."""
        hops = self.hops(3)
        for hop in hops:
            hop.refuse()
        relay = self.relay(hops)
        for _ in range(10):
            reply = self.timed(relay, 1, 451)
            self.assertEqual(reply.text, "4.4.1 no connection to the next hop")
        self.assertEqual(attempts(relay, "refused"), 3)
        self.assertEqual(relay.stats()["next_hops"][0]["state"], "down")
        self.assertEqual(relay.counter("messages_deferred"), 10)

    def test_all_that_wait_hear_of_it(self):
        """Many messages wait for the same greeting that never comes."""
        hop = self.next_hop()
        hop.on("CONNECT", Stall)
        relay = self.relay(hop, {"timeouts": {"greeting": "300ms"},
                                 "next_hop": {"internal": {"connections": 4}}})
        start = time.monotonic()
        replies = together([lambda: deliver(relay)] * 20)
        self.assertEqual([reply.code for reply in replies], [451] * 20)
        self.assertLess(time.monotonic() - start, 2 * SLOW)
        self.assertLessEqual(len(hop.sessions), 4)
        self.assertEqual(relay.gauge("transactions_current"), 0)

    def test_pause_doubles(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.relay(hop, {"timeouts": {"server_retry": "20ms", "server_retry_max": "90ms"}})

        def down_events():
            deliver(relay)
            return relay.events("server_down")

        wait_for(lambda: len(down_events()) >= 5, what="5 attempts")
        pauses = [event["retry_in"] for event in relay.events("server_down")[:5]]
        self.assertEqual(pauses, [0.02, 0.04, 0.08, 0.09, 0.09])

    def test_recovery(self):
        """It is noticed beside the mail, and the mail goes back to it."""
        first, second = self.hops(2)
        first.refuse()
        relay = self.relay([first, second], {"timeouts": {"server_retry": "50ms",
                                                          "server_retry_max": "50ms"}})
        self.assertEqual(deliver(relay), 250)
        first.listen()

        def back():
            self.assertEqual(deliver(relay), 250)
            return first.messages

        wait_for(back, what="mail for the first server")
        event = relay.wait_event("server_up")
        self.assertEqual(event["server"], first.server)
        before = len(second.messages)
        for _ in range(5):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(second.messages), before)
        self.assertEqual(hop_metric(relay, "servers_down"), 0)
        self.assertEqual(relay.counter("messages_deferred"), 0)

    def test_recovery_of_the_only_one(self):
        hop = self.next_hop()
        hop.refuse()
        relay = self.relay(hop, {"timeouts": {"server_retry": "50ms",
                                              "server_retry_max": "50ms"}})
        self.assertEqual(deliver(relay), 451)
        hop.listen()
        wait_for(lambda: deliver(relay) == 250, what="delivered again")

    def test_probe_does_not_hold_up_mail(self):
        """The server that may be back stalls: no message waits for it."""
        first, second = self.hops(2)
        first.refuse()
        relay = self.relay([first, second], {"timeouts": {"server_retry": "20ms",
                                                          "greeting": "10s"}})
        self.assertEqual(deliver(relay), 250)
        first.on("CONNECT", [Stall, Default])
        first.listen()

        def probed():
            self.timed(relay, 2)
            return first.stalled

        wait_for(probed, what="a probe")
        # With a connection to the other one at hand, and with none.
        for _ in range(5):
            self.timed(relay, 2)
            second.disconnect()
            wait_for(lambda: hop_metric(relay, "connections_idle") == 0, what="none is idle")
        self.assertEqual(first.stalled, 1)
        # And a stop does not wait for it either.
        start = time.monotonic()
        relay.stop()
        self.assertLess(time.monotonic() - start, 3 * SLOW)

    def test_other_next_hop_is_not_concerned(self):
        dead, good = self.hops(2)
        dead.on("CONNECT", [Stall, Default])
        relay = self.relay(dead, {
            "next_hop": {"good": {"servers": [good.server], "tls": "none"}},
            "route": {"good.test": "good"}})
        client = self.client(relay)
        client.ehlo()
        client.envelope()
        client.data(stuffed(LETTER))
        dead.wait(lambda: dead.stalled, what="stalled")
        for _ in range(5):
            self.assertEqual(deliver(relay, recipients="b@good.test"), 250)
        dead.release()
        self.assertEqual(client.reply(), 250)


class Silent(Failover):
    """Servers that say nothing cost their deadline once, and the message goes to another one."""

    def test_blackhole(self):
        """Packets are dropped: connect() never ends."""
        with contextlib.ExitStack() as stack:
            hole = stack.enter_context(socket.socket())
            hole.bind(("127.0.0.1", 0))
            hole.listen(0)
            for _ in range(3):  # what the queue takes, and more
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    filler.connect(hole.getsockname())
            good = self.next_hop()
            relay = self.relay(None, {
                "next_hop": {"internal": {"servers": [
                    f"127.0.0.1:{hole.getsockname()[1]}", good.server]}},
                "timeouts": {"connect": "300ms"}})
            self.timed(relay, 3)
            self.assertEqual(attempts(relay, "timeout"), 1)
            for _ in range(5):
                self.timed(relay, 0.25)
            self.assertEqual(len(good.messages), 6)
            self.assertEqual(attempts(relay, "timeout"), 1)

    def test_deadlines(self):
        """Each has its own; before the end of data another server takes over."""
        rows = [("CONNECT", "greeting"), ("EHLO", "greeting"), ("MAIL", "mail"),
                ("RCPT", "rcpt"), ("DATA", "data_initiation")]
        for where, timeout in rows:
            with self.subTest(where=where):
                dead, good = self.hops(2)
                dead.on(where, Stall)
                relay = self.relay([dead, good], {"timeouts": {timeout: "200ms"}})
                self.timed(relay, 3)
                self.assertEqual(len(good.messages), 1)
                self.assertEqual(dead.received, [])
                dead.release()

    def test_only_server(self):
        rows = [("CONNECT", "greeting", "4.4.1"), ("MAIL", "mail", "4.4.2"),
                ("RCPT", "rcpt", "4.4.2"), ("DATA", "data_initiation", "4.4.2")]
        for where, timeout, enhanced in rows:
            with self.subTest(where=where):
                dead = self.next_hop()
                dead.on(where, Stall)
                relay = self.relay(dead, {"timeouts": {timeout: "200ms"}})
                self.assertEqual(self.timed(relay, 3, 451).enhanced, enhanced)
                dead.release()

    def test_body_that_nobody_takes(self):
        """data_block: the server stops to read in the middle of a large message."""
        hop = self.next_hop(receive_buffer=65536)
        hop.on("BODY", Stall, after=50000)
        relay = self.relay(hop, {"timeouts": {"data_block": "300ms"},
                                 "delivery": {"buffer": "16kb"}})
        client = self.client(relay)
        client.ehlo()
        client.envelope()
        client.command("DATA", 354)
        line = b"x" * 998 + b"\r\n"
        client.send(line * 20000 + b".\r\n")
        reply = client.reply()
        self.assertEqual((reply.code, reply.enhanced), (451, "4.4.2"))
        self.assertEqual(hop.received, [])
        hop.release()
        client.quit()

    def test_dripping_server(self):
        """Replies octet by octet are replies."""
        hop = self.next_hop(drip_seconds=0.001)
        relay = self.relay(hop)
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.messages), 1)


class Another(Failover):
    """What sends a message to another server within the client's transaction, and what does not."""

    def test_server_matters(self):
        for where in ("MAIL", "RCPT", "DATA", "END"):
            for said in (["421 4.3.0 going down", Drop], "530 5.7.0 login", "521 5.3.2 no mail"):
                with self.subTest(where=where, said=said):
                    first, second = self.hops(2)
                    first.on(where, said)
                    relay = self.relay([first, second])
                    self.assertEqual(deliver(relay), 250)
                    self.assertEqual((len(first.messages), len(second.messages)), (0, 1))
                    self.assertEqual(hop_metric(relay, "failovers_total"), 1)
                    # It answered: it is not down for others.
                    self.assertEqual(hop_metric(relay, "servers_down"), 0)

    def test_message_matters(self):
        """Another server would say the same (or must not be asked: greylisting)."""
        first, second = self.hops(2)
        relay = self.relay([first, second], {"next_hop": {"internal": {"chunking": False}}})
        for where in ("MAIL", "RCPT", "DATA", "END"):
            for said in ("450 4.7.1 greylisted", "550 5.7.1 no"):
                with self.subTest(where=where, said=said):
                    first.off()
                    first.on(where, said)
                    self.assertEqual(deliver(relay).lines, [said])
        self.assertEqual(second.sessions, [])

    def test_every_server_fails(self):
        """Each is tried once, and the client hears of the last one."""
        hops = self.hops(4)
        for number, hop in enumerate(hops):
            hop.on("MAIL", [f"421 4.3.0 no {number}", Drop])
        relay = self.relay(hops)
        reply = self.timed(relay, 2, 451)
        self.assertIn("421 4.3.0 no 3", reply.text)
        self.assertEqual([len(hop.sessions) for hop in hops], [1] * 4)


class Connections(Failover):

    def test_cap(self):
        hop = self.next_hop()
        hop.on("END", [Stall, Default], times=3)
        relay = self.relay(hop, {"next_hop": {"internal": {"connections": 3},
                                              "other": {"servers": ["127.0.0.1:9"]}}})
        clients = [self.client(relay) for _ in range(12)]
        for client in clients:
            client.ehlo()
            client.envelope()
            client.data(stuffed(LETTER))
        hop.wait(lambda: hop.stalled == 3, what="3 under way")
        wait_for(lambda: relay.gauge("transactions_current") == 12, what="all have come")
        wait_for(lambda: hop_metric(relay, "waiting") == 9, what="9 wait")
        self.assertEqual(len(hop.sessions), 3)
        hop.release()
        for client in clients:
            self.assertEqual(client.reply(), 250)
        self.assertEqual(len(hop.sessions), 3)
        self.assertEqual(len(hop.messages), 12)
        self.assertEqual(hop_metric(relay, "waiting"), 0)

    def test_waiting_client_leaves(self):
        """Its place goes to the others, its message nowhere."""
        hop = self.next_hop()
        hop.on("END", [Stall, Default], times=1)
        relay = self.relay(hop, {"next_hop": {"internal": {"connections": 1}}})
        clients = [self.client(relay) for _ in range(3)]
        for number, client in enumerate(clients):
            client.ehlo()
            client.envelope(sender=f"s{number}@example.net")
            client.data(stuffed(LETTER))
            hop.wait(lambda: hop.stalled, what="the first under way")
            wait_for(lambda number=number: hop_metric(relay, "waiting") == number, what="waiting")
        clients[1].reset()
        wait_for(lambda: hop_metric(relay, "waiting") == 1, what="one waits")
        hop.release()
        self.assertEqual([clients[0].reply(), clients[2].reply()], [250, 250])
        self.assertEqual([one.sender for one in hop.received], ["s0@example.net", "s2@example.net"])

    def test_reuse(self):
        hop = self.next_hop()
        relay = self.relay(hop)
        for _ in range(20):
            self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.sessions), 1)
        self.assertEqual(hop_metric(relay, "connections_reused_total"), 19)
        # After a refusal too, when RSET is answered.
        hop.on("RCPT", "550 5.1.1 no", times=1)
        self.assertEqual(deliver(relay), 550)
        wait_for(lambda: hop_metric(relay, "connections_idle") == 1, what="RSET")
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.sessions), 1)

    def test_messages_per_connection(self):
        hop = self.next_hop()
        relay = self.relay(hop, {"next_hop": {"internal": {"messages_per_connection": 3}}})
        for _ in range(7):
            self.assertEqual(deliver(relay), 250)
        hop.wait(lambda: [one.closed for one in hop.sessions[:2]] == ["quit"] * 2, what="QUIT")
        self.assertEqual([len(one.messages) for one in hop.sessions], [3, 3, 1])

    def test_idle_timeout(self):
        hop = self.next_hop()
        relay = self.relay(hop, {"next_hop": {"internal": {"idle_timeout": "200ms"}}})
        self.assertEqual(deliver(relay), 250)
        hop.wait(lambda: hop.sessions[0].closed == "quit", what="QUIT after idling")
        wait_for(lambda: hop_metric(relay, "connections_current") == 0, what="closed")
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.sessions), 2)

    def test_next_hop_closes_an_idle_connection(self):
        """Noticed at once: no message meets it, the server is not called down for it."""
        hop = self.next_hop()
        relay = self.relay(hop)
        self.assertEqual(deliver(relay), 250)
        hop.disconnect()
        wait_for(lambda: hop_metric(relay, "connections_current") == 0, what="noticed")
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(relay.events("server_down"), [])

    def test_slow_clients_hold_no_connection(self):
        """Small messages are received whole first."""
        hop = self.next_hop()
        relay = self.relay(hop)
        clients = [self.client(relay) for _ in range(5)]
        for client in clients:
            client.ehlo()
            client.envelope()
            client.data(LETTER[:20])
        self.assertEqual(deliver(relay), 250)
        self.assertEqual(len(hop.sessions), 1)
        for client in clients:
            client.send(LETTER[20:] + b".\r\n")
            self.assertEqual(client.reply(), 250)
        self.assertEqual(len(hop.sessions), 1)

    def test_quit_does_not_end(self):
        """The answer to QUIT is waited for, but no longer than timeouts.quit."""
        for config in ({"messages_per_connection": 1}, {"idle_timeout": "100ms"}):
            with self.subTest(config=config):
                hop = self.next_hop()
                hop.on("QUIT", Stall)
                relay = self.relay(hop, {"next_hop": {"internal": config},
                                         "timeouts": {"quit": "400ms"}})
                self.assertEqual(deliver(relay), 250)
                hop.wait(lambda hop=hop: hop.stalled, what="QUIT")
                asked = time.monotonic()
                wait_for(lambda relay=relay: hop_metric(relay, "connections_current") == 0,
                         what="closed")
                self.assertGreater(time.monotonic() - asked, 0.2)
