"""The short form of torture.py: the promise of 250 under kills, in every run of the tests."""
import os
import sys

from harness import SLOW, SystemTest, seconds_max
from torture import Torture


class Short(SystemTest):

    def endure(self, seed: int, seconds: float, kills: int) -> Torture:
        torture = Torture(seed, seconds, kills)
        self.addCleanup(torture.relay.close)
        found = torture.run()
        print(torture.summary(), file=sys.stderr)
        self.assertEqual(found.wrong[:20] + torture.problems[:20], [],
                         f"seed {seed}, see tests/system/torture.py; {torture.summary()}")
        self.assertEqual(found.lost, 0)
        return torture

    @seconds_max(240)
    def test_kills(self):
        seed = int(os.environ.get("RINGPOST_TEST_SEED") or 20)
        torture = self.endure(seed, 12 / min(SLOW, 2), 15)
        self.assertGreaterEqual(len(torture.ledger.kills), 15)
        # That it was put to the test at all.
        self.assertGreater(torture.auditor.codes[2], 100)
        self.assertGreater(torture.auditor.duplicates, 0)
        self.assertGreater(torture.auditor.bounces, 0)
