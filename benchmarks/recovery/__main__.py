"""`python -m benchmarks.recovery [--peers [NAME…]] [--only-peers] [--kills N] [--output FILE]`.

Kills flashq's workers N times (200), idle and busy, and with `--peers` those of other systems beside it, each on its
defaults. A peer's busy workers are killed several in one go, since some take an hour to be missed; their waits run at
the same time. `--output` keeps what FILE holds of systems that this run does not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.recovery import beside, ours
from benchmarks.recovery.peers import PEERS
from benchmarks.recovery.record import summary

if TYPE_CHECKING:
    from collections.abc import Iterator

Measured = dict[str, dict[str, Any]]


def measure_peers(names: list[str], patience_s: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ray first, whose cluster is many processes, then the others at the same time: they only wait."""
    clusters = [name for name in names if name.startswith("ray")]
    for name in clusters:
        yield name, beside.measure(name, patience_s)
    slow = [name for name in names if name not in clusters]
    with ThreadPoolExecutor(max(1, len(slow))) as pool:
        under_way = {pool.submit(beside.measure, name, patience_s): name for name in slow}
        for done in as_completed(under_way):
            yield under_way[done], done.result()


def table(measured: Measured) -> Table:
    """What was found, for the terminal."""
    shown = Table(
        "system", "killed", "was", "kills", "back: median", "p99", "max", "failed", "went on", "not back"
    )
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
            went_on = sum(kill["completed_s"] is not None for kill in kills)
            counts = (failed, went_on, len(kills) - len(back) - failed - went_on)
            shown.add_row(name, part, "busy" if busy else "idle", str(len(kills)), *times, *map(str, counts))
    return shown


def write(output: Path | None, measured: Measured) -> None:
    """Put what was measured into the file, beside what is in it of other systems."""
    if output is not None:
        before = json.loads(output.read_text()) if output.exists() else {"systems": {}}
        output.write_text(json.dumps({"systems": {**before["systems"], **measured}}, indent=1) + "\n")


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
        write(arguments.output, measured)
    if arguments.peers is not None:
        for name, found in measure_peers(arguments.peers or sorted(PEERS), arguments.patience):
            measured[name] = found
            write(arguments.output, measured)
    Console().print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
