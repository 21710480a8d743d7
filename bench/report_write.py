"""The report of a comparison: README.md and plots, into the folder of its results.json."""
import pathlib
import subprocess

import report
from rig import BenchError, fail, find_tool, spread

PART_MOST = 3.0     # of the scale of the targets' plot

PLOT_TARGETS = """\
set terminal svg size 960,{height} font "sans-serif,12" background "white"
set output "{output}"
set title "measured, as part of what each target allows: left of 1 it holds (lines: range)"
set lmargin 32
set xrange [0:{most}]
set yrange [{bottom}:-0.7]
set xtics 0.5
set grid xtics lc rgb "#dddddd"
set ytics ({tics})
set arrow 1 from 1,graph 0 to 1,graph 1 nohead lc rgb "#b02020" lw 2 front
unset key
$d << EOD
{data}
EOD
plot $d using 2:1:(0):2:($1-0.32):($1+0.32):5 with boxxyerror fs solid 0.8 lc rgb variable, \\
     $d using 2:1:3:4 with xerrorbars pt 0 lc rgb "#222222"
"""

PLOT_LOADS = """\
set terminal svg size 960,{height} font "sans-serif,12" background "white"
set output "{output}"
set multiplot layout {rows},2
set logscale x
unset xtics
unset key
set lmargin 17
set rmargin 2
{panels}
unset multiplot
"""

PLOT_LATENCY = """\
set terminal svg size 960,360 font "sans-serif,12" background "white"
set output "{output}"
set title "time added to a message at 50 % of a relay's capacity, microseconds"
set style data histogram
set style histogram clustered gap 1
set style fill solid 0.8
set boxwidth 0.9
set logscale y
set grid ytics lc rgb "#dddddd"
set xtics rotate by -20
set key top left
$d << EOD
{data}
EOD
plot $d using 2:xtic(1) title "p50" lc rgb "#4080c0", $d using 3 title "p99" lc rgb "#c06030"
"""


def gnuplot(script: str) -> None:
    found = subprocess.run([find_tool("gnuplot"), "-"], input=script, capture_output=True,
                           text=True, check=False)
    if found.returncode != 0:
        fail(f"gnuplot: {found.stderr.strip()[-300:]}")


def plot_targets(result: dict, output: pathlib.Path) -> bool:
    tics, lines = [], []
    for target in report.targets(result):
        part = target.part_of_limit()
        if part is None:
            continue
        low, middle, high = (min(value, PART_MOST) for value in part)
        colour = {"held": 0x2E8B57, "held in the median": 0xC8A020}.get(target.verdict(), 0xC04030)
        tics.append(f'"{target.number}. {target.short}" {len(lines)}')
        lines.append(f"{len(lines)} {middle:.4f} {low:.4f} {high:.4f} {colour}")
    if not lines:
        return False
    gnuplot(PLOT_TARGETS.format(output=output, height=110 + 26 * len(lines),
                                bottom=len(lines) - 0.3, tics=", ".join(tics),
                                most=PART_MOST if any(float(line.split()[3]) > 1.4
                                                      for line in lines) else 1.5,
                                data="\n".join(lines)))
    return True


def panel(result: dict, load: str) -> str:
    runs = [run for run in result["runs"] if run["load"] == load]
    bars = []
    for peer in dict.fromkeys(run["peer"] for run in runs):
        values = [run["cpu_us_per_message"] for run in runs if run["peer"] == peer]
        middle = report.median(values)
        bars.append((middle, min(values), max(values), peer, spread([middle])))
    bars.sort()
    tics = ", ".join(f'"{bar[3]}" {i}' for i, bar in enumerate(bars))
    lines = [f"{i} {bar[0]} {bar[1]} {bar[2]} {bar[4]} "
             f"{0x4080C0 if bar[3].startswith('ringpost') else 0x909090}"
             for i, bar in enumerate(bars)]
    least, most = bars[0][1] / 2, bars[-1][2] * 4
    name = "$" + load.replace("-", "_")
    return (f'{name} << EOD\n' + "\n".join(lines) + "\nEOD\n"
            f'set title "{load}: CPU us/message (logarithmic)" font ",11"\n'
            f"set ytics ({tics})\nset yrange [{len(bars) - 0.3}:-0.7]\nset xrange [{least}:{most}]\n"
            f"plot {name} using 2:1:({least}):2:($1-0.35):($1+0.35):6 with boxxyerror "
            f"fs solid 0.8 lc rgb variable, {name} using 2:1:3:4 with xerrorbars pt 0 "
            f'lc rgb "#222222", {name} using 4:1:5 with labels left offset 0.7,0')


def plot_loads(result: dict, loads: list[str], output: pathlib.Path) -> bool:
    found = [load for load in loads if any(run["load"] == load for run in result["runs"])]
    if not found:
        return False
    count = (len(found) + 1) // 2
    tallest = max(len({run["peer"] for run in result["runs"] if run["load"] == load})
                  for load in found)
    gnuplot(PLOT_LOADS.format(output=output, height=(80 + 22 * tallest) * count, rows=count,
                              panels="\n".join(panel(result, load) for load in found)))
    return True


def latency_rows(result: dict) -> list[tuple[str, float, list[dict]]]:
    runs = result.get("latency") or []
    return [(peer, report.median([run["rate"] for run in runs if run["peer"] == peer]),
             [run for run in runs if run["peer"] == peer])
            for peer in dict.fromkeys(run["peer"] for run in runs)]


def plot_latency(result: dict, output: pathlib.Path) -> bool:
    lines = [f'"{peer}" {max(1, report.median([run["added_p50_us"] for run in mine]))} '
             f'{max(1, report.median([run["added_p99_us"] for run in mine]))}'
             for peer, _, mine in latency_rows(result)]
    if not lines:
        return False
    gnuplot(PLOT_LATENCY.format(output=output, data="\n".join(lines)))
    return True


# --- text ---

def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def text_head(result: dict, plots: list[str]) -> list[str]:
    options = result["options"]
    lines = ["# ringpost and other relays, measured", "",
             "Written by `make bench-full`; see [PERFORMANCE.md](../PERFORMANCE.md) for what the "
             "figures mean. Ratios are taken within", "one round, relays alternating; medians "
             "(lowest-highest) of the rounds.", ""]
    lines += [f"- {name}: {fact}" for name, fact in result["machine"].items() if fact]
    lines += ["- configurations: [bench/peers](../../bench/peers)"]
    lines += [f"- up to {options['rounds']} rounds of {options['seconds']:g} s for each relay and "
              f"load, {result.get('seconds', 0)} s in all; next hop: "
              + ("ringpost sink" if options["sink"] == "ringpost" else options["sink"])]
    lines += [f"- **Warning:** {line}." for line in report.warnings(result)]
    lines += ["", "## Against the targets", ""]
    lines += markdown(*report.target_table(report.targets(result)))
    if "targets.svg" in plots:
        lines += ["![each target, measured as part of what it allows](targets.svg)", ""]
    return lines


def text_loads(result: dict, plots: list[str]) -> list[str]:
    lines = ["## CPU per message", ""]
    lines += [f"![CPU per message of each relay under each load]({name})" for name in plots
              if name.startswith("cpu")]
    lines.append("")
    for load in dict.fromkeys(run["load"] for run in result["runs"]):
        facts = result["loads"][load]
        lines += [f"### {load}: {facts['text']} ({facts['source']})", ""]
        lines += markdown(*report.load_table(result, load))
    return lines


def text_latency(result: dict, plots: list[str]) -> list[str]:
    rows = []
    for peer, rate, mine in latency_rows(result):
        rows.append([peer, f"{rate:.0f}", *(spread([run[name] for run in mine]) for name in
                    ("direct_p50_us", "direct_p99_us", "p50_us", "p99_us", "added_p50_us",
                     "added_p99_us"))])
    if not rows:
        return []
    lines = ["## Latency at 50 % of capacity", "",
             "Open loop: messages arrive at a fixed rate, late ones count from when they were due. "
             "Direct: client to sink, same rate, same round. Microseconds.", ""]
    lines += markdown(["relay", "messages/s", "direct p50", "direct p99", "p50", "p99", "added p50",
                       "added p99"], rows)
    alone = result.get("standstills")
    if alone:
        lines += [f"Relays of one thread had core {alone[0]['core']}, source and sink the others, "
                  "all of them before the machine's other programs (SCHED_FIFO). Just before, while "
                  "a program on each core did nothing but read the clock, it could not for a "
                  "millisecond or more:", ""]
        lines += [f"- core {one['core']}: {one['count'] / one['seconds']:.1f} times a second, "
                  f"{one['ms'] / one['seconds']:.1f} ms in each, at most {one['longest_ms']:.1f} ms "
                  "at a time" for one in alone] + [""]
    return lines + (["![added latency](latency.svg)", ""] if "latency.svg" in plots else [])


def text_idle(result: dict) -> list[str]:
    runs, crowd = result.get("idle") or [], result.get("crowd")
    if not runs and not crowd:
        return []
    lines = ["## Idle sessions", ""]
    if runs:
        lines += markdown(["relay", "", "sessions", "user memory, bytes/session",
                           "kernel's, bytes/session", "CPU % of a core"],
                          [[run["peer"], "TLS" if run["tls"] else "plain", str(run["sessions"]),
                            str(run["pss_bytes_per_session"]), str(run["slab_bytes_per_session"]),
                            f"{run['idle_cpu_percent']:.2f}"] for run in runs])
    if crowd:
        alone = ", ".join(f"{rate:.0f}" for rate in crowd["messages_per_s_alone"])
        lines += [f"ringpost with one worker and {crowd['sessions']} idle sessions beside the load "
                  f"`reused`: {crowd['messages_per_s']:.0f} messages/s ({alone} before and after), "
                  f"{crowd['cpu_us_per_message']:.0f} us CPU each "
                  f"({crowd['cpu_us_per_message_alone']:.0f} without them), "
                  f"{crowd['pss_bytes_per_session']} bytes of user memory per session; "
                  f"{crowd['alive']} were still open at the end.", ""]
    return lines


def text_rest(result: dict) -> list[str]:
    lines = []
    if disk := result.get("disk"):
        lines += ["## A slow disk", "",
                  "300 writes a second, 10 connections, reused: messages a second of mode spool, "
                  f"{spread([run['messages_per_s'] for run in disk])}; the bare commit loop with "
                  "commits of the same size would make "
                  f"{spread([run['loop_records_per_s'] for run in disk])} durable.", ""]
    if tls := result.get("tls"):
        lines += ["## BoringSSL alone", ""]
        lines += markdown(["what", "microseconds"],
                          [[name.removesuffix("_us").replace("_", " "),
                            spread([entry[name] for entry in tls])]
                           for name in tls[0] if name.endswith("_us")])
    lines += ["## When the client is answered", ""]
    lines += markdown(["relay", "durability"], [[name, facts["durability"]]
                                                for name, facts in result["peers"].items()])
    if result["skipped"]:
        lines += ["## Left out", ""]
        lines += [f"- {what}: {' '.join(why.split())}" for what, why in result["skipped"].items()]
    return lines


def write(result: dict, folder: pathlib.Path, skip) -> None:
    """Plots that cannot be made are told of; the text is written in any case."""
    plots, loads = [], list(dict.fromkeys(run["load"] for run in result["runs"]))
    plain = [load for load in loads if not load.startswith(("tls", "bench"))]
    work = {"targets.svg": lambda path: plot_targets(result, path),
            "cpu.svg": lambda path: plot_loads(result, plain, path),
            "cpu-tls.svg": lambda path: plot_loads(
                result, [load for load in loads if load.startswith("tls")], path),
            "latency.svg": lambda path: plot_latency(result, path)}
    for name, make in work.items():
        try:
            (folder / name).unlink(missing_ok=True)
            if make(folder / name):
                plots.append(name)
        except (BenchError, OSError) as error:
            skip(name, error)
    lines = (text_head(result, plots) + text_loads(result, plots) + text_latency(result, plots) +
             text_idle(result) + text_rest(result))
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
