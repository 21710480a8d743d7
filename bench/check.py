"""measure.py check: a short comparison, and what got slower against the committed baseline.

It never fails: a busy machine is no fault of the code, and a person reads the table.
"""
import argparse
import json
import pathlib

import report
from rig import fail, table_print


def baseline_write(result: dict, file: pathlib.Path) -> None:
    ratios = report.baseline_of(result)
    if ratios:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": result["machine"], "ratios": ratios},
                                   indent=1) + "\n")


def command_check(options: argparse.Namespace, result: dict) -> dict:
    """result: of the short comparison that was just made."""
    new, file = report.baseline_of(result), pathlib.Path(options.baseline)
    if not new:
        fail("nothing was measured that a baseline has")
    if options.write:
        baseline_write(result, file)
        print(f"\nwritten: {file}")
        return result | {"ratios": new}
    if not file.exists():
        fail(f"{file} does not exist: make bench-full, or --write, makes it")
    old = json.loads(file.read_text())
    head, rows, slower = report.baseline_compare(old["ratios"], new)
    print(f"\nagainst {file.name} of {old['machine'].get('date', 'some day')}:")
    table_print(head, rows)
    print("slower by more than the noise: " + "; ".join(slower) if slower
          else "nothing is slower by more than the noise")
    return result | {"ratios": new, "slower": slower}
