"""The arithmetic of bench/: ratios, verdicts, the order of a round, warnings, the baseline, the report.

No relay is started here; test_bench_compare.py does that.
"""
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench"))
import compare  # noqa: E402  (its folder must be on the path first)
import loads  # noqa: E402
import relays  # noqa: E402
import report  # noqa: E402
import report_write  # noqa: E402
import rig  # noqa: E402


def run(load, peer, number, cpu, **more):
    return {"load": load, "peer": peer, "round": number, "cpu_us_per_message": cpu,
            "messages": 100, "messages_per_s": 1000.0, "pss_kib": 2048, "other_percent": 1.0,
            "steal_percent": 0.0} | more


def result(runs, **more):
    names = dict.fromkeys(entry["load"] for entry in runs)
    return {"runs": runs, "skipped": {}, "machine": {"kernel": "6.1"}, "seconds": 60,
            "options": {"rounds": 3, "seconds": 1.0, "sink": "ringpost"},
            "loads": {name: {"text": str(loads.LOADS[name]),
                             "source": loads.LOADS[name].source or "smtp-source"}
                      for name in names},
            "peers": {entry["peer"]: {"durability": "none"} for entry in runs}} | more


class Ratios(unittest.TestCase):
    RUNS = [run("single", "ringpost-1", 1, 60), run("single", "ringpost-1", 2, 90),
            run("single", "haproxy-1", 1, 120), run("single", "haproxy-1", 3, 10),
            run("reused", "haproxy-1", 1, 30), run("reused", "haproxy-1", 2, 45)]

    def test_only_within_a_round(self):
        rows = [("single", "ringpost-1", "haproxy-1", None, [0.5]),
                ("single", "ringpost-1", "haproxy-1", "reused", [2.0, 2.0]),
                ("single", "ringpost-1", "bare", None, []),
                ("large", "ringpost-1", "haproxy-1", None, [])]
        for load, peer, other, other_load, want in rows:
            with self.subTest(load=load, other=other, other_load=other_load):
                self.assertEqual(report.ratios(self.RUNS, load, peer, other, other_load), want)

    def test_tls_counts_the_handshakes_of_kept_connections(self):
        runs = [run("reused", "ringpost-1", 1, 50), run("tls-reused", "ringpost-1", 1, 160)]
        whole = result(runs, tls=[{"round": 1, "load": "tls-reused", "message_in_us": 10,
                                   "handshake_server_us": 200}])
        whole["loads"]["tls-reused"]["sessions"] = 50
        self.assertEqual(report.tls_ratios(whole, "tls-reused", "reused", ["message_in_us"]), [1.0])

    def test_tls_needs_all_parts(self):
        runs = [run("reused", "ringpost-1", 1, 50), run("tls-reused", "ringpost-1", 1, 66)]
        rows = [([], []), ([(1, "tls-reused", {"message_in_us": 10})], [1.1]),
                ([(1, "tls-reused", {"message_in_us": 5}),
                  (1, "tls-reused", {"message_in_us": 15})], [1.1]),     # before and after
                ([(1, "tls-both-reused", {"message_in_us": 10})], []),
                ([(2, "tls-reused", {"message_in_us": 10})], []),
                ([(1, "tls-reused", {"message_out_us": 10})], [])]
        for alone, want in rows:
            tls = [{"round": number, "load": load} | parts for number, load, parts in alone]
            with self.subTest(tls=tls):
                self.assertEqual(report.tls_ratios(result(runs, tls=tls), "tls-reused", "reused",
                                                   ["message_in_us"]), want)


class Verdicts(unittest.TestCase):
    ROWS = [  # sense, limit, values, verdict, part of what is allowed
        ("at most", 0.6, [0.5, 0.55, 0.6], "held", [0.5 / 0.6, 0.55 / 0.6, 1.0]),
        ("at most", 0.6, [0.5, 0.55, 0.7], "held in the median", [0.5 / 0.6, 0.55 / 0.6, 0.7 / 0.6]),
        ("at most", 0.6, [0.5, 0.65, 0.7], "**not held**", None),
        ("at least", 20, [25.0, 40.0], "held", [0.5, 20 / 32.5, 0.8]),
        ("at least", 20, [19.0, 40.0], "held in the median", None),
        ("at least", 20, [10.0], "**not held**", [2.0, 2.0, 2.0]),
        ("at most", 1024, [], "not measured", None),
        ("at most", 1024, [0.0, -3.0], "held", None),
    ]

    def test_rows(self):
        for sense, limit, values, verdict, part in self.ROWS:
            with self.subTest(sense=sense, limit=limit, values=values):
                target = report.Target("1", "what", sense, limit, values)
                self.assertEqual(target.verdict(), verdict)
                if part is not None:
                    got = target.part_of_limit()
                    for have, want in zip(got, part, strict=True):
                        self.assertAlmostEqual(have, want)
                elif not values or min(values) <= 0:
                    self.assertIsNone(target.part_of_limit())

    def test_every_target_is_told_when_nothing_was_measured(self):
        found = report.targets(result([run("single", "bare", 1, 50)]))
        self.assertEqual({target.number for target in found}, set("12345678"))
        self.assertEqual({target.verdict() for target in found}, {"not measured"})

    def test_measured_ones_are_found(self):
        both = [run(load, peer, number, cpu) for number in (1, 2, 3) for load, peer, cpu in
                (("single", "ringpost-1", 50), ("single", "haproxy-1", 100), ("single", "bare", 45),
                 ("single", "ringpost", 51), ("single", "postfix", 2000),
                 ("single", "ringpost-spool-1", 90))]
        found = [(target.number, target.verdict()) for target in report.targets(result(
            both, idle=[{"peer": "ringpost-1", "tls": False, "pss_bytes_per_session": 900}],
            crowd={"sessions": 100000, "wanted": 100000, "share_of_rate": 0.8},
            disk=[{"share_of_loop": 0.9}],
            latency=[{"peer": "ringpost-1", "added_p99_us": 150}])) if target.values]
        self.assertEqual(found, [("1", "held"), ("1", "held"), ("3", "held"), ("3", "held"),
                                 ("6", "held"), ("6", "**not held**"), ("7", "held"),
                                 ("8", "held")])


class Warnings(unittest.TestCase):

    def test_rows(self):
        def three(**more):
            return [run("single", "bare", number, 50, **more) for number in (1, 2, 3)]

        rows = [(three(), []), ([], ["nothing"]), (three(other_percent=10.5), ["other work"]),
                (three(steal_percent=5.0), ["steal"]), (three()[:2], ["fewer than 3"]),
                (three(other_percent=50.0)[:1], ["other work", "fewer than 3"])]
        for runs, want in rows:
            with self.subTest(want=want, runs=len(runs)):
                found = report.warnings(result(runs))
                self.assertEqual(len(found), len(want))
                for line, word in zip(found, want, strict=True):
                    self.assertIn(word, line)


class Baseline(unittest.TestCase):

    def test_of_a_run(self):
        runs = [run(load, "ringpost-1", number, cpu) for number, cpu in enumerate((60, 55, 50))
                for load in ("single", "bench-single")]
        runs += [run(load, "bare", number, 50) for number in range(3)
                 for load in ("single", "bench-single")]
        self.assertEqual(report.baseline_of(result(runs)), {
            "bench-single: ringpost-1 / bare": {"median": 1.1, "low": 1.0, "high": 1.2, "rounds": 3}})

    def test_what_is_slower(self):
        def entry(middle, half):
            return {"median": middle, "low": middle - half, "high": middle + half, "rounds": 3}

        rows = [("the same", entry(1, 0), entry(1, 0), "within the noise"),
                ("below the least noise", entry(1, 0), entry(1.09, 0), "within the noise"),
                ("above it", entry(1, 0), entry(1.11, 0), "SLOWER"),
                ("wide ranges", entry(1, 0.2), entry(1.3, 0.2), "within the noise"),
                ("wide, and more", entry(1, 0.2), entry(1.5, 0.2), "SLOWER"),
                ("less", entry(1, 0), entry(0.8, 0), "faster"),
                ("gone", entry(1, 0), None, "only one has it"),
                ("new", None, entry(1, 0), "only one has it")]
        for name, old, new, want in rows:
            with self.subTest(name):
                _, table, slower = report.baseline_compare({"x": old} if old else {},
                                                           {"x": new} if new else {})
                self.assertEqual([row[-1] for row in table], [want])
                self.assertEqual(slower, ["x"] if want == "SLOWER" else [])


class Rounds(unittest.TestCase):

    def test_nobody_is_always_first_and_slow_ones_rest(self):
        def cell(load, name):
            return compare.Cell(load, relays.Running(name, None, None, None, 0), 1)

        cells = [cell("single", "bare"), cell("single", "ringpost-1"), cell("single", "postfix"),
                 cell("reused", "bare"), cell("reused", "ringpost-1")]
        orders = {number: [(at.load, at.running.name) for at in compare.turns(cells, number)]
                  for number in (1, 2, 3)}
        self.assertEqual(orders[1], [("single", "bare"), ("single", "ringpost-1"),
                                     ("single", "postfix"), ("reused", "bare"),
                                     ("reused", "ringpost-1")])
        self.assertEqual(orders[2], [("single", "ringpost-1"), ("single", "bare"),
                                     ("reused", "ringpost-1"), ("reused", "bare")])
        self.assertEqual(orders[3][0], ("single", "postfix"))

    def test_who_takes_what(self):
        rows = [("bare", "single", True, True), ("bare", "tls-single", True, False),
                ("haproxy", "large", True, False), ("haproxy", "large", False, True),
                ("exim", "pipelined", False, True), ("postfix-proxy", "tls-both", False, False),
                ("ringpost-1", "tls-both", True, True)]
        for name, load, narrow, want in rows:
            with self.subTest(name=name, load=load, narrow=narrow):
                self.assertEqual(compare.takes(name, load, narrow), want)

    def test_spread(self):
        rows = [([1.234], "1.23"), ([10.04, 20, 30], "20.0 (10.0-30.0)"), ([99, 101], "100 (99.0-101)")]
        for values, want in rows:
            with self.subTest(values=values):
                self.assertEqual(rig.spread(values), want)


class Report(unittest.TestCase):

    def test_text_is_written_without_gnuplot(self):
        runs = [run("single", peer, number, 50 + number) for number in (1, 2, 3)
                for peer in ("ringpost-1", "bare", "haproxy-1")]
        skipped = {"exim": "it is\nnot installed"}

        def no_plot(_script):
            raise rig.BenchError("no gnuplot")

        kept, report_write.gnuplot = report_write.gnuplot, no_plot
        try:
            with tempfile.TemporaryDirectory() as folder:
                report_write.write(result(runs, skipped=skipped), pathlib.Path(folder),
                                   lambda what, why: skipped.setdefault(what, str(why)))
                text = (pathlib.Path(folder) / "README.md").read_text(encoding="utf-8")
        finally:
            report_write.gnuplot = kept
        for wanted in ("## Against the targets", "| ringpost-1 |", "1.00 (1.00-1.00)x",
                       "- exim: it is not installed", "- targets.svg: no gnuplot"):
            self.assertIn(wanted, text)
        self.assertNotIn("](targets.svg)", text)

    def test_configurations_are_complete(self):
        names = dict(port=1, sink_port=2, sessions_max=3, folder="/f", threads=1, processes=4,
                     delivery="mode: spool", tls_out="none", exim="/x")
        for file in relays.CONFIGURATIONS.iterdir():
            if file.suffix != ".sh":
                with self.subTest(file=file.name):
                    self.assertNotIn("$", relays.configuration(file.name, names))


if __name__ == "__main__":
    unittest.main()
