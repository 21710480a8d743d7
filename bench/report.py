"""What the figures of a comparison say: ratios, the targets of this relay, warnings, the baseline.

Pure functions over the result that measure.py compare writes as JSON; report_write.py makes text and
plots of it.
"""
import statistics
from typing import NamedTuple, Optional

from rig import spread

BUSY_PERCENT = 10.0     # of the machine, by others: above that a measurement is doubtful
STEAL_PERCENT = 2.0
ROUNDS_FEW = 3
NOISE_LEAST = 0.05      # ratios move by so much from run to run on a quiet machine
AT_MOST, AT_LEAST = "at most", "at least"


def median(values: list[float]) -> float:
    return statistics.median(values)


# --- ratios: within a round, where the machine was the same ---

def by_round(runs: list[dict], load: str, peer: str) -> dict[int, float]:
    return {run["round"]: run["cpu_us_per_message"] for run in runs
            if run["load"] == load and run["peer"] == peer and run["cpu_us_per_message"] > 0}


def ratios(runs: list[dict], load: str, peer: str, other: str,
           other_load: Optional[str] = None) -> list[float]:
    """CPU per message of `peer` over that of `other`, round by round."""
    mine, base = by_round(runs, load, peer), by_round(runs, other_load or load, other)
    return [mine[number] / base[number] for number in mine if number in base]


def same_source(runs: list[dict], load: str) -> str:
    """The load that ringpost-bench sends, to be compared with what only it can send."""
    other = f"bench-{load}"
    return other if any(run["load"] == other for run in runs) else load


def plain_load(runs: list[dict], load: str) -> str:
    """smtp-source's, as the targets say; ringpost-bench's where only that was there."""
    return load if any(run["load"] == load for run in runs) else f"bench-{load}"


def tls_ratios(result: dict, load: str, plain: str, parts: list[str]) -> list[float]:
    """CPU with TLS over (CPU without, and what BoringSSL alone took for the same before and after)."""
    bare: dict[int, list[dict]] = {}
    for entry in result.get("tls") or []:
        if entry["load"] == load and all(part in entry for part in parts):
            bare.setdefault(entry["round"], []).append(entry)
    base = by_round(result["runs"], same_source(result["runs"], plain), "ringpost-1")
    found = []
    for run in result["runs"]:
        number = run["round"]
        if (run["load"], run["peer"]) != (load, "ringpost-1") or number not in base.keys() & bare:
            continue
        alone = bare[number]
        more = sum(entry[part] for entry in alone for part in parts) / len(alone)
        if "session_in_us" not in parts:    # each connection had a handshake, however long it lived
            share = result["loads"][load].get("sessions", 0) / run["messages"]
            more += share * sum(entry.get("handshake_server_us", 0)
                                for entry in alone) / len(alone)
        found.append(run["cpu_us_per_message"] / (base[number] + more))
    return found


# --- the targets ---

class Target(NamedTuple):
    number: str
    what: str
    sense: str
    limit: float
    values: list[float]     # of the rounds
    unit: str = ""
    note: str = ""
    short: str = ""         # for the plot

    def verdict(self) -> str:
        if not self.values:
            return "not measured"
        good = [value <= self.limit if self.sense == AT_MOST else value >= self.limit
                for value in [median(self.values), *self.values]]
        if all(good):
            return "held"
        return "held in the median" if good[0] else "**not held**"

    def part_of_limit(self) -> Optional[list[float]]:
        """Low, median and high as parts of what is allowed: 1 is the limit, less is better."""
        if not self.values or min(self.values) <= 0:
            return None
        return sorted(value / self.limit if self.sense == AT_MOST else self.limit / value
                      for value in (min(self.values), median(self.values), max(self.values)))


def cpu_targets(runs: list[dict]) -> list[Target]:
    def at_most(number: str, what: str, limit: float, values: list[float],
                short: str) -> Target:
        return Target(number, what, AT_MOST, limit, values, "x", short=short)

    one, proxy = "ringpost-1", "haproxy-1"
    single, reused = plain_load(runs, "single"), plain_load(runs, "reused")
    return [
        at_most("1", "one message per connection: CPU of HAProxy's", 0.6,
                ratios(runs, single, one, proxy), "single / HAProxy"),
        at_most("1", "one message per connection: CPU of the bare relay's", 1.25,
                ratios(runs, single, one, "bare"), "single / bare relay"),
        at_most("2", "reused connections: CPU of HAProxy's", 0.6,
                ratios(runs, reused, one, proxy), "reused / HAProxy"),
        at_most("2", "reused connections: CPU of the bare relay's", 1.25,
                ratios(runs, reused, one, "bare"), "reused / bare relay"),
        *[row for load, what in (("pipelined", "pipelining clients"),
                                 ("deep", "clients pipelining across messages"))
          for row in (at_most("2", f"{what}: CPU of HAProxy's without pipelining", 0.3,
                              ratios(runs, load, one, proxy, same_source(runs, "reused")),
                              f"{load} / HAProxy reused"),
                      at_most("2", f"{what}: CPU of the bare relay's", 1.25,
                              ratios(runs, load, one, "bare"), f"{load} / bare relay"))],
        Target("3", "spool, one message per connection: Postfix's CPU over ours", AT_LEAST, 20,
               ratios(runs, single, "postfix", "ringpost-spool-1"), "x",
               short="spool single / Postfix"),
        Target("3", "spool, reused connections: Postfix's CPU over ours", AT_LEAST, 40,
               ratios(runs, reused, "postfix", "ringpost-spool-1"), "x",
               short="spool reused / Postfix"),
    ]


def tls_targets(result: dict) -> list[Target]:
    plans = [("tls-single", "single", ["session_in_us"], "STARTTLS in, one message per connection"),
             ("tls-reused", "reused", ["message_in_us"], "STARTTLS in, reused connections"),
             ("tls-both", "single", ["session_in_us", "message_out_us"],
              "STARTTLS in and out, one message per connection"),
             ("tls-both-reused", "reused", ["message_in_us", "message_out_us"],
              "STARTTLS in and out, reused connections")]
    return [Target("5", f"{what}: CPU of plain and BoringSSL's own", AT_MOST, 1.15,
                   tls_ratios(result, load, plain, parts), "x",
                   short=f"{load} / plain and BoringSSL")
            for load, plain, parts, what in plans]


def idle_values(result: dict, tls: bool) -> list[float]:
    return [run["pss_bytes_per_session"] for run in result.get("idle") or []
            if run["peer"] == "ringpost-1" and run["tls"] == tls]


def other_targets(result: dict) -> list[Target]:
    runs, crowd = result["runs"], result.get("crowd") or {}
    added = [run["added_p99_us"] for run in result.get("latency") or []
             if run["peer"] == "ringpost-1"]
    few = crowd and crowd["sessions"] < crowd["wanted"]
    return [
        Target("6", "idle session: user memory", AT_MOST, 1024, idle_values(result, False),
               " bytes", short="idle session's memory"),
        Target("6", "idle TLS session: user memory", AT_MOST, 8192, idle_values(result, True),
               " bytes", short="idle TLS session's memory"),
        Target("6", f"rate beside {crowd.get('sessions', 100000)} idle sessions", AT_LEAST, 0.9,
               [crowd["share_of_rate"]] if crowd else [], "x",
               f"{crowd['wanted']} did not fit" if few else "", "rate beside idle sessions"),
        Target("7", "p99 added at 50 % of capacity", AT_MOST, 200, added, " us",
               short="p99 added at half load"),
        *[Target("8", f"two workers, {what}: CPU of one worker's", AT_MOST, 1.05,
                 ratios(runs, plain_load(runs, load), "ringpost", "ringpost-1"), "x",
                 "source and sink share the cores", f"{load}: 2 workers / 1")
          for load, what in (("single", "one message per connection"),
                             ("reused", "reused connections"))],
    ]


def targets(result: dict) -> list[Target]:
    runs = result["runs"]
    disk = [run["share_of_loop"] for run in result.get("disk") or [] if "share_of_loop" in run]
    found = cpu_targets(runs)
    found.append(Target("3", "spool on a slow disk: rate of the bare commit loop's", AT_LEAST, 0.5,
                        disk, "x", short="slow disk / bare commits"))
    found.append(Target("4", "1 MiB messages: CPU of HAProxy's", AT_MOST, 1.2,
                        ratios(runs, "large", "ringpost-1", "haproxy-1"), "x",
                        short="1 MiB / HAProxy"))
    return found + tls_targets(result) + other_targets(result)


def target_table(found: list[Target]) -> tuple[list[str], list[list[str]]]:
    head = ["target", "what", "wanted", "measured", ""]
    rows = []
    for target in found:
        limit = f"{target.limit:g}{target.unit}"
        measured = spread(target.values) + target.unit if target.values else "-"
        rows.append([target.number, target.what, f"{target.sense} {limit}", measured,
                     target.verdict() + (f" ({target.note})" if target.note else "")])
    return head, rows


# --- tables ---

def load_table(result: dict, load: str) -> tuple[list[str], list[list[str]]]:
    """One row for each relay, the cheapest first."""
    runs = [run for run in result["runs"] if run["load"] == load]
    rows = []
    for peer in dict.fromkeys(run["peer"] for run in runs):
        mine = [run for run in runs if run["peer"] == peer]

        def column(name: str) -> str:
            return spread([run[name] for run in mine])

        def ratio(other: str) -> str:
            values = ratios(runs, load, peer, other)
            return spread(values) if values and peer != other else "-"

        rows.append((median([run["cpu_us_per_message"] for run in mine]),
                     [peer, column("cpu_us_per_message"), ratio("haproxy-1"), ratio("bare"),
                      column("messages_per_s"), str(len(mine)),
                      f"{max(run['pss_kib'] for run in mine) / 1024:.1f}",
                      column("other_percent")]))
    return (["relay", "CPU us/message", "of haproxy-1's", "of bare's", "messages/s", "rounds",
             "memory MiB", "other work %"], [row for _, row in sorted(rows, key=lambda row: row[0])])


def warnings(result: dict) -> list[str]:
    """What a reader must know before he believes the figures."""
    runs, found = result["runs"], []
    if not runs:
        return ["nothing was measured"]
    for name, limit, what in (("other_percent", BUSY_PERCENT, "other work"),
                              ("steal_percent", STEAL_PERCENT, "steal by the hypervisor")):
        values = [run[name] for run in runs]
        above = [value for value in values if value > limit]
        if above:
            found.append(f"{len(above)} of {len(values)} measurements had more than {limit:g} % "
                         f"{what} (median of all {median(values):.1f} %, most {max(values):.1f} %): "
                         "read ratios, and not the microseconds")
    cells = [(run["load"], run["peer"]) for run in runs]
    few = sorted({peer for load, peer in cells if cells.count((load, peer)) < ROUNDS_FEW})
    if few:
        found.append(f"fewer than {ROUNDS_FEW} rounds for some load: {', '.join(few)}")
    return found


# --- the baseline: ratios that outlive a machine's mood ---

def baseline_of(result: dict) -> dict[str, dict]:
    """Ratios of CPU per message, named, each with its range. Only of loads that ringpost-bench sends:
    those can be measured wherever it was built."""
    runs = [run for run in result["runs"]
            if result["loads"][run["load"]]["source"] == "ringpost-bench"]
    pairs = [(load, one, other) for load in dict.fromkeys(run["load"] for run in runs)
             for one, other in (("ringpost-1", "bare"), ("ringpost", "ringpost-1"),
                                ("ringpost-spool-1", "ringpost-1"))]
    named = {f"{load}: {one} / {other}": ratios(runs, load, one, other)
             for load, one, other in pairs}
    return {name: {"median": round(median(values), 3), "low": round(min(values), 3),
                   "high": round(max(values), 3), "rounds": len(values)}
            for name, values in named.items() if values}


def noise_of(entry: dict) -> float:
    """Half of the range as a part of the median."""
    return max(NOISE_LEAST, (entry["high"] - entry["low"]) / 2 / entry["median"])


def baseline_compare(old: dict[str, dict],
                     new: dict[str, dict]) -> tuple[list[str], list[list[str]], list[str]]:
    """A table, and the names of what got slower by more than the noise of both."""
    rows, slower = [], []
    for name in [*new, *[name for name in old if name not in new]]:
        if name not in old or name not in new:
            rows.append([name, *(f"{side[name]['median']:.2f}" if name in side else "-"
                                 for side in (old, new)), "-", "-", "only one has it"])
            continue
        change = new[name]["median"] / old[name]["median"] - 1
        noise = noise_of(old[name]) + noise_of(new[name])
        verdict = "within the noise"
        if abs(change) > noise:
            verdict = "SLOWER" if change > 0 else "faster"
        if verdict == "SLOWER":
            slower.append(name)
        rows.append([name, f"{old[name]['median']:.2f}", f"{new[name]['median']:.2f}",
                     f"{change * 100:+.0f} %", f"{noise * 100:.0f} %", verdict])
    return ["ratio of CPU per message", "baseline", "now", "change", "noise", ""], rows, slower
