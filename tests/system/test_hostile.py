"""Hostile clients: every file of tests/transcripts/hostile against the real relay, whole and in
pieces, with a next hop that records what it is given."""
import itertools
import re
import subprocess
import sys
import unittest

import hostile
from harness import (Default, EXTENSIONS, NextHop, Relay, SystemTest, is_sanitized, seconds_max,
                     wait_for)

TRANSCRIPTS_MIN = 120
OCTETS_MAX = 600  # of those that are played octet by octet


class HostileTest(SystemTest):
    delivery: dict = {}

    def setUp(self):
        self.transcripts = hostile.read_all()
        self.assertGreaterEqual(len(self.transcripts), TRANSCRIPTS_MIN)
        self.relays: dict[str, tuple[Relay, NextHop]] = {}
        self.wanted: dict[str, list] = {}

    def relay_for(self, transcript, extensions=EXTENSIONS) -> tuple[Relay, NextHop]:
        key = transcript.setting()
        if key not in self.relays:
            hop = self.next_hop(extensions=extensions)
            # As the receiver says it of itself: from the second recipient on the next hop is asked.
            hop.on("RCPT", lambda session: "250 2.1.5 Ok" if session.mail else Default())
            config = hostile.relay_config(transcript) | {"delivery": {**self.delivery}}
            self.relays[key] = self.relay(hop, config, tls=transcript.tls), hop
            self.wanted[key] = []
        return self.relays[key]

    def play(self, transcript, pieces=None, pause=0.0, extensions=EXTENSIONS) -> None:
        """Fails at the first reply, and at the first message, that is not what the file says."""
        relay, hop = self.relay_for(transcript, extensions)
        wanted = self.wanted[transcript.setting()]
        before = len(hop.received)
        hostile.Player(transcript, relay.port, pieces, pause).play()
        wanted += transcript.deliveries
        wait_for(lambda: len(hop.received) >= len(wanted), what=f"{transcript.name} is delivered")
        found = hostile.differences(transcript.deliveries, hop.received[before:])
        self.assertFalse(found, f"{transcript.name}: what the next hop got")

    def tearDown(self):
        """Nothing came late, and nothing was more than one transaction to the next hop."""
        hostile.settle()
        for key, (_, hop) in self.relays.items():
            self.assertEqual(len(hop.received), len(self.wanted[key]))
            verbs = {re.split("[ :]", line)[0] for line in hop.commands("")}
            self.assertLessEqual(verbs, {"EHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT"})

    def whole(self, transcripts, extensions=EXTENSIONS):
        for transcript in transcripts:
            with self.subTest(transcript.name):
                self.play(transcript, extensions=extensions)

    def in_drawn_pieces(self, rounds: int, first_seed: int):
        for transcript, round_number in itertools.product(self.transcripts, range(rounds)):
            if transcript.waits() or transcript.octets() > 65536:
                continue
            seed = first_seed + round_number
            with self.subTest(transcript.name, seed=seed):
                self.play(transcript, hostile.random_pieces(seed), 0.0002)


@seconds_max(240)
class CutThrough(HostileTest):
    delivery = {"mode": "cut-through", "on_defer": "pass"}

    def test_whole(self):
        self.whole(self.transcripts)

    def test_one_piece(self):
        """All of it at once, before the greeting came (early talkers)."""
        for transcript in self.transcripts:
            if not transcript.waits():
                with self.subTest(transcript.name):
                    self.play(transcript, itertools.repeat(1 << 30))

    def test_whole_without_chunking(self):
        """What came by BDAT leaves by DATA: the dots are stuffed."""
        self.whole((one for one in self.transcripts if one.chunked() and not one.waits()),
                   tuple(one for one in EXTENSIONS if one != "CHUNKING"))

    def test_drawn_pieces(self):
        self.in_drawn_pieces(2, 1)

    def test_octet_by_octet(self):
        for transcript in self.transcripts:
            if not transcript.waits() and transcript.octets() <= OCTETS_MAX:
                with self.subTest(transcript.name):
                    self.play(transcript, hostile.octets(), 0.0002)


    @unittest.skipIf(is_sanitized(), "a sanitizer keeps what is freed")
    def test_floods_take_no_memory(self):
        """100,000 RCPT, and the other floods, again and again: no more than the 4 MiB of receive
        buffers that are offered in turn, and the log's ring, is touched."""
        floods = [one for one in self.transcripts if one.name.startswith(("90-", "91"))]
        self.assertGreaterEqual(len(floods), 8)
        resident = []
        for _ in range(6):
            for transcript in floods:
                self.play(transcript)
            resident.append(self.relay_for(floods[0])[0].resident_bytes())
        self.assertLess(resident[-1] - resident[0], 6 << 20, resident)


@seconds_max(240)
class Spool(HostileTest):
    delivery = {"mode": "spool"}

    def test_whole(self):
        self.whole(self.transcripts)

    def test_drawn_pieces(self):
        self.in_drawn_pieces(1, 100)


class Corpus(SystemTest):

    def test_generated_files(self):
        done = subprocess.run([sys.executable, hostile.FOLDER / "generate.py", "--check"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
