"""The README's table of what was measured, from the newest record in benchmarks/results (see reference.py).

A record is what `python -m benchmarks --output FILE` writes: `about`, `jobs` (floor, flashq and their ratio) and
`starts` (values by name). Where there is none, the table is empty.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "decisions" / "measured.json"

Record = dict[str, Any]


def newest(folder: Path = RESULTS) -> Record | None:
    """The record measured last; None where there is none."""
    records = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    ours = [record for record in records if {"about", "jobs", "starts"} <= record.keys()]
    return max(ours, key=lambda record: str(record["about"]["date"]), default=None)


def rows(record: Record) -> Iterable[tuple[str, ...]]:
    """The lines of the first table: what, the floor, flashq, the ratio."""
    for what, values in record["jobs"].items():
        yield what, _number(values["floor"]), _number(values["flashq"]), f"{values['ratio']:.2f}"


def start_rows(record: Record) -> Iterable[tuple[str, str]]:
    """The lines of the second table: what has no floor, and its values."""
    for what, values in record["starts"].items():
        counted = ", ".join(f"{name} {_number(value)}" for name, value in values.items() if name != "n")
        yield what, counted + (f" ({values['n']:.0f} runs)" if "n" in values else "")


def markdown(headings: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """A table."""
    rules = ("---",) + ("---:",) * (len(headings) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rules, *lines)) + "\n"


_HEAD = """\
## Comparison in numbers that were measured

The floor is the least that a Redis queue which stores results must do: plain redis-py with hiredis, one Lua round trip
a job, no signatures, no leases, no process apart for user code. It runs in turns with flashq, on one broker.
"""


def benchmark_table(folder: Path = RESULTS) -> str:
    """The README's section: both tables, and where the numbers come from; empty where nothing was measured."""
    record = newest(folder)
    if record is None:
        return ""
    about = record["about"]
    said = (
        f"`{about['command']}`, {about['date'][:10]}, flashq {about['flashq']}, Python {about['python']},"
        f" {about['machine']}, load average {about['load_average']:.1f}; medians of {about['rounds']} rounds."
    )
    parts = [_HEAD, markdown(("what", "floor", "flashq", "flashq ÷ floor"), rows(record))]
    if record["starts"]:
        parts.append(markdown(("starts and sizes", "measured"), start_rows(record)))
    return "\n".join([*parts, said])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# -- what decision records quote ---------------------------------------------------------------------


def measured(section: str, unit: str) -> str:
    """One section of docs/decisions/measured.json, which scripts/measure.py writes, as a table."""
    found = json.loads(MEASURED.read_text("utf-8"))
    values, about = found[section], found["about"]
    if isinstance(next(iter(values.values())), dict):
        columns = list(next(iter(values.values())))
        rows = [(name, *(_number(row[column]) for column in columns)) for name, row in values.items()]
        headings = (unit, *columns)
    else:
        rows = [(name, _number(value)) for name, value in values.items()]
        headings = ("", unit)
    where = (
        f"`python -m scripts.measure`, {about['date']}: flashq {about['flashq']}, RQ {about['rq']}, redis-py"
        f" {about['redis-py']}, {about['broker']}, Python {about['python']}, {about['machine']}, load"
        f" average {about['load average']}."
    )
    return f"{markdown(headings, rows)}\n{where}\n"


def streams(folder: Path = RESULTS) -> str:
    """A sentence on how long a value is on its way."""
    file = folder / "streams.json"
    if not file.exists():
        return ""
    record = json.loads(file.read_text("utf-8"))
    about, ms = record["about"], record["yield to loop, ms"]
    return (
        f"From `yield` on a worker to the reader's loop {ms['p50']:.2f} ms (median of {ms['n']:,} values, one each "
        f"5 ms; p99 {ms['p99']:.2f} ms); at most {record['values a second']:,} small values a second. "
        f"`{about['command']}`, {about['date'][:10]}, {about['machine']}, load average {about['load_average']:.1f}.\n"
    )


def starts(folder: Path = RESULTS) -> str:
    """Starts with zero workers: the first, the second, and later ones."""
    file = folder / "starts.json"
    if not file.exists():
        return ""
    record = json.loads(file.read_text("utf-8"))
    about, kinds = record["about"], record["ms from the call to the first line"]
    rows = []
    for kind, found in kinds.items():
        for which in ("first", "second", "later"):
            one = found[which]
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in one["parts"].items())
            rows.append((kind, which, str(one["n"]), f"{one['p50']:.1f}", f"{one['p99']:.1f}", parts))
    where = (
        f"`{about['command']}`, {about['date'][:10]}, Python {about['python']}, {about['machine']}, load average"
        f" {about['load_average']:.1f}."
    )
    headings = (
        "imports",
        "start",
        "n",
        "p50 ms",
        "p99 ms",
        "medians of its parts, ms, the whole first job included",
    )
    return f"{markdown(headings, rows)}\n{where}\n"


def round_trip(folder: Path = RESULTS) -> str:
    """What a warm call takes of each thread that it passes."""
    file = folder / "roundtrip.json"
    if not file.exists():
        return ""
    record = json.loads(file.read_text("utf-8"))
    about, stages, whole = record["about"], record["stages"], record["whole"]
    ran = sum(stage["runs, µs"] for stage in stages.values())
    rows = [
        (
            name,
            f"{stage['runs, µs']:.0f}",
            f"{100 * stage['runs, µs'] / ran:.0f} %",
            f"{stage['wakes']:.1f}",
            f"{stage['waits for a core, µs']:.0f}",
        )
        for name, stage in stages.items()
    ]
    wakes = sum(stage["wakes"] for stage in stages.values())
    waits = sum(stage["waits for a core, µs"] for stage in stages.values())
    rows.append(("together", f"{ran:.0f}", "100 %", f"{wakes:.1f}", f"{waits:.0f}"))
    said = (
        f"Round trip: median {whole['round trip, median µs']:.0f} µs, the floor's {whole['floor, median µs']:.0f} µs in"
        f" turns with it. Scripts: {whole['scripts a call']:.1f} a call, {whole['in scripts, µs']:.0f} µs in them.\n"
        f"`{about['command']}`, {about['date'][:10]}, Python {about['python']}, {about['machine']}, load average"
        f" {about['load_average']:.1f}; medians of {about['rounds']} rounds of {record['calls']:,} calls."
    )
    headings = ("thread", "runs, µs a call", "share", "wakes a call", "waits for a core, µs a call")
    return f"{markdown(headings, rows)}\n{said}\n"


def shares(folder: Path = RESULTS) -> str:
    """What the processes of a warm call are busy with."""
    file = folder / "sampled.json"
    if not file.exists():
        return ""
    record = json.loads(file.read_text("utf-8"))
    about = record["about"]
    rows = [
        (process, group, f"{100 * share:.0f} %")
        for process, groups in record["shares"].items()
        for group, share in groups.items()
    ]
    where = (
        f"`{about['command']}`, {about['date'][:10]}, Python {about['python']}, {about['machine']}, load average"
        f" {about['load_average']:.1f}. Sampled stacks; of the caller both threads."
    )
    return f"{markdown(('process', 'busy with', 'share of it'), rows)}\n{where}\n"


def memory(folder: Path = RESULTS) -> str:
    """What the processes of idle workers take, and what of that is shared."""
    file = folder / "memory.json"
    if not file.exists():
        return ""
    record = json.loads(file.read_text("utf-8"))
    about = record["about"]
    rows = [
        (role, f"{sizes['n']:.0f}", *(f"{sizes[what]:.1f}" for what in ("RSS", "PSS", "own")))
        for role, sizes in record["MB"].items()
    ]
    where = f"`{about['command']}`, {about['date'][:10]}, Python {about['python']}, {about['machine']}."
    return f"{markdown(('process', 'n', 'RSS, MB each', 'PSS, MB each', 'own, MB each'), rows)}\n{where}\n"


TABLES: dict[str, Callable[[], str]] = {
    "benchmarks": benchmark_table,
    "streams": streams,
    "starts": starts,
    "round-trip": round_trip,
    "busy-with": shares,
    "idle-memory": memory,
    "measured-commands": lambda: measured("commands", "per job"),
    "measured-memory": lambda: measured("memory", "bytes"),
    "measured-imports": lambda: measured("imports", "CPU ms"),
    "measured-lines": lambda: measured("lines", "CPU µs"),
    "measured-signing": lambda: measured("signing", "CPU µs"),
    "measured-code": lambda: measured("code", "ms"),
}

if __name__ == "__main__":
    sys.stdout.write(benchmark_table())
