"""`python -m benchmarks.recovery [--peers [NAME…]] [--only-peers] [--kills N] [--output FILE]`.

Kills flashq's workers N times (200), idle and busy, and with `--peers` those of other systems beside it, each on its
defaults. A peer's busy workers are killed several in one go, since some take an hour to be missed; their waits run at
the same time. `--output` keeps what FILE holds of systems that this run does not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.recovery import beside, ours
from benchmarks.recovery.peers import PEERS
from benchmarks.recovery.record import summary

Measured = dict[str, dict[str, Any]]


def measure_peers(names: list[str], patience_s: float | None) -> Measured:
    """The peers that only wait at the same time, then Ray, whose cluster is many processes."""
    found: Measured = {}
    if "ray" in names:
        found["ray"] = beside.measure("ray", patience_s)
    slow = [name for name in names if name != "ray"]
    with ThreadPoolExecutor(max(1, len(slow))) as pool:
        found |= zip(slow, pool.map(lambda name: beside.measure(name, patience_s), slow), strict=True)
    return found


def table(measured: Measured) -> Table:
    """What was found, for the terminal."""
    shown = Table("system", "killed", "was", "kills", "back: median", "p99", "max", "failed", "not back")
    for name, found in measured.items():
        groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for kill in found["kills"]:
            groups.setdefault((kill["part"], kill["busy"]), []).append(kill)
        for (part, busy), kills in groups.items():
            back = [kill["back_s"] for kill in kills if kill["back_s"] is not None]
            failed = sum(kill["failed_s"] is not None for kill in kills)
            times = (
                [f"{value:,.2f}" for key, value in summary(back).items() if key != "n"] if back else ["–"] * 3
            )
            lost = len(kills) - len(back) - failed
            row = [name, part, "busy" if busy else "idle", str(len(kills)), *times, str(failed), str(lost)]
            shown.add_row(*row)
    return shown


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.recovery", description=__doc__)
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), metavar="NAME", help="all, or these")
    parser.add_argument("--only-peers", action="store_true", help="leave flashq out")
    parser.add_argument("--kills", type=int, default=200, help="of flashq, in all (default 200)")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="wait so long for a peer's job")
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    arguments = parser.parse_args()
    measured: Measured = {}
    if not arguments.only_peers:
        measured["flashq"] = ours.measure(arguments.kills)
    if arguments.peers is not None:
        measured |= measure_peers(arguments.peers or sorted(PEERS), arguments.patience)
    Console().print(table(measured))
    if arguments.output:
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"systems": {}}
        record = {"systems": {**before["systems"], **measured}}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
