"""What docs/reliability.md and the README say of recovery and endurance, from the records in benchmarks/results.

recovery.json is what `python -m benchmarks.recovery --peers --output FILE` writes, endurance.json what `python -m
benchmarks.endurance --output FILE` does (see reference.py for how a page gets them).
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from scripts.results_table import RESULTS, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

Record = dict[str, Any]
NAMES = {
    "flashq": "flashq",
    "rq": "RQ",
    "dramatiq": "Dramatiq",
    "celery": "Celery (`acks_late`)",
    "ray": "Ray (tasks)",
    "ray_actor": "Ray (actors)",
}
#: By system and part: what was killed, in its own words.
KILLED = {
    ("flashq", "job"): "executor",
    ("flashq", "supervisor"): "supervisor",
    ("flashq", "worker"): "executor and supervisor",
    ("flashq", "host"): "a whole host: agent, supervisors, executors",
    ("flashq", "cut"): "a whole host, cut off: no connection closes",
    ("rq", "job"): "work-horse",
    ("rq", "supervisor"): "worker, the parent of the work-horse",
    ("rq", "worker"): "work-horse and worker",
    ("dramatiq", "job"): "worker process",
    ("dramatiq", "supervisor"): "main process",
    ("dramatiq", "worker"): "main process and all of its own",
    ("celery", "job"): "pool process",
    ("celery", "supervisor"): "main process",
    ("celery", "worker"): "main process and its pool",
    ("ray", "job"): "worker process",
    ("ray", "supervisor"): "raylet",
    ("ray", "host"): "a whole node: raylet and all of its own",
    ("ray", "cut"): "a whole node, cut off: no connection closes",
    ("ray_actor", "job"): "worker process",
}
_ENOUGH_FOR_P99 = 30


def _read(folder: Path, name: str) -> Record | None:
    file = folder / name
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def _groups(kills: Iterable[Record]) -> dict[tuple[str, bool], list[Record]]:
    groups: dict[tuple[str, bool], list[Record]] = {}
    for kill in kills:
        groups.setdefault((kill["part"], kill["busy"]), []).append(kill)
    return groups


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _times(kills: list[Record]) -> tuple[str, str, str]:
    """Median, 99th percentile and maximum of how long it took; "–" where there is none."""
    back = sorted(kill["back_s"] for kill in kills if kill["back_s"] is not None)
    if not back:
        return "–", "–", "–"
    p99 = back[min(len(back) - 1, int(0.99 * len(back)))]
    return (
        _seconds(statistics.median(back)),
        _seconds(p99) if len(back) >= _ENOUGH_FOR_P99 else "–",
        _seconds(back[-1]),
    )


def _else(kills: list[Record]) -> str:
    """What else became of the jobs, in words."""
    failed = [kill["failed_s"] for kill in kills if kill["failed_s"] is not None]
    completed = [kill["completed_s"] for kill in kills if kill["completed_s"] is not None]
    orphans = sum(kill["went_on"] for kill in kills) - len(completed)
    lost = [
        kill["watched_s"]
        for kill in kills
        if all(kill[name] is None for name in ("back_s", "failed_s", "completed_s"))
    ]
    said = []
    if failed:
        said.append(f"{len(failed)} failed for good, after {_seconds(statistics.median(failed))}")
    if completed:
        said.append(
            f"{len(completed)} first runs went on, with nobody to supervise them, and completed the job"
        )
    if orphans:
        said.append(f"{orphans} first runs went on, with nobody to supervise them, beside what is said here")
    if lost:
        said.append(f"{len(lost)} not back after {_seconds(min(lost))}")
    return "; ".join(said)


def recovery_table(folder: Path = RESULTS) -> str:
    """One row for each system, what was killed of it and whether it was busy; then where the numbers come from."""
    record = _read(folder, "recovery.json")
    if record is None:
        return ""
    rows, sources = [], []
    for system in (name for name in NAMES if name in record["systems"]):
        found = record["systems"][system]
        for (part, busy), kills in _groups(found["kills"]).items():
            what, state = KILLED[system, part], "busy" if busy else "idle"
            rows.append((NAMES[system], what, state, str(len(kills)), *_times(kills), _else(kills)))
        sources.append(f"- {NAMES[system]}: {_source(found['about'])}")
    headings = ("system", "killed", "was", "kills", "median", "p99", "max", "else")
    return markdown(headings, rows) + "\n" + "\n".join(sources) + "\n"


def _source(about: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    loads = [about["load_average"], about.get("load_average_after", about["load_average"])]
    load = " to ".join(f"{value:.1f}" for value in sorted(set(loads)))
    waited = f"; waited for at most {about['waited_at_most_s']:,.0f} s" if "waited_at_most_s" in about else ""
    return (
        f"`{about['command']}`, {about['date'][:10]}, {versions}, Python {about['python']}, {about['machine']}, load"
        f" average {load}, scheduled {about['scheduling']}{waited}."
    )


def recovery_lines(folder: Path = RESULTS) -> str:
    """Two sentences for the README."""
    record = _read(folder, "recovery.json")
    if record is None:
        return ""
    systems = {name: _groups(found["kills"]) for name, found in record["systems"].items()}
    ours = systems["flashq"]
    worker, host = ours["worker", True], [*ours["host", True], *ours["cut", True]]
    first = (
        f"A job whose worker is killed under it begins again after {_median(worker)} (median of {len(worker)} kills;"
        f" at most {_worst(worker)}), one whose whole host is gone after {_median(host)} (at most {_worst(host)})."
    )
    others = [
        f"{NAMES[name]} {_in_short(groups)}" for name, groups in systems.items() if ("worker", True) in groups
    ]
    if "ray" in systems:
        process, node = systems["ray"]["job", True], systems["ray"]["cut", True]
        others.append(f"{NAMES['ray']} {_in_short({('worker', True): process})}, and for a node that is cut off"
                      f" {_in_short({('worker', True): node})}")  # fmt: skip
    second = f"Others on their defaults, killed in the same way in the same harness: {'; '.join(others[1:])}."
    return f"{first} {second}\n[Recovery beside others](docs/reliability.md#recovery-beside-others) has the rest.\n"


def _median(kills: list[Record]) -> str:
    return _times(kills)[0]


def _worst(kills: list[Record]) -> str:
    return _times(kills)[2]


def _in_short(groups: dict[tuple[str, bool], list[Record]]) -> str:
    kills = groups["worker", True]
    failed = [kill["failed_s"] for kill in kills if kill["failed_s"] is not None]
    if failed and len(failed) == len(kills):
        return f"{_seconds(statistics.median(failed))}, as failed"
    if any(kill["back_s"] is not None for kill in kills):
        return _median(kills)
    return f"not within {_seconds(min(kill['watched_s'] for kill in kills))}"


# -- endurance ---------------------------------------------------------------------------------------


def endurance_table(folder: Path = RESULTS) -> str:
    """What was wanted, what was found, and where from."""
    record = _read(folder, "endurance.json")
    if record is None:
        return ""
    rows = [row for name, made in _ROWS.items() if name in record for row in made(record[name])]
    sources = [f"- {name}: {_source(record[name]['about'])}" for name in _ROWS if name in record]
    return (
        markdown(("what", "wanted", "found"), rows).replace("---:", "---") + "\n" + "\n".join(sources) + "\n"
    )


Row = tuple[str, str, str]


def _protocol(found: Record) -> list[Row]:
    apart, together = found["claim + renew + complete, ms"], found["complete and claim in one, ms"]
    signed = found["sign + verify 1 kB, CPU µs"]
    return [
        (
            "claim, renew and complete a job, each fenced and a round trip of its own",
            "≤ 1 ms",
            f"{apart['median']:.2f} ms (median of {apart['n']:,}; p99 {apart['p99']:.2f} ms)",
        ),
        (
            "complete a job and claim the next in one round trip, as workers do",
            "",
            f"{together['median']:.2f} ms (p99 {together['p99']:.2f} ms)",
        ),
        (
            "sign and verify 1 kB",
            "≤ 100 µs",
            f"{signed['sum']:.0f} µs ({signed['sign']:.0f} + {signed['verify']:.0f})",
        ),
    ]


def _rolling(found: Record) -> list[Row]:
    restarts = (
        f"{found['workers restarted by SIGTERM']} workers and {found['host agents restarted by SIGTERM']} host agents"
        f" restarted in turn under {found['jobs']:,} jobs"
    )
    told = f"{found['errors']} errors, {found['extra runs']} extra runs, {found['never run']} never run"
    return [(restarts, "0 errors, 0 extra runs", told)]


def _held(found: Record) -> list[Row]:
    minutes, longest = found["seconds"] / 60, found["held the lock in one call, s"]["max"]
    what = (
        f"{found['jobs']} jobs on {found['workers']} workers that hold the interpreter's lock in one call of C, at full"
        f" CPU for {minutes:.0f} min ({found['longer than a lease']} longer than a lease, the longest {longest:.0f} s)"
    )
    reaped = sum(found["falsely reaped"].values()) + len(found["workers lost"])
    return [(what, "no false reap", f"{reaped} reaped; every job ran once" if found["attempts"].keys() == {"1"} else
             f"{reaped} reaped; attempts {found['attempts']}")]  # fmt: skip


def _soak(found: Record) -> list[Row]:
    rows = []
    for role, trend in found["what"].items():
        change = f"{trend['first']:,.1f} → {trend['last']:,.1f} ({trend['change %']:+.1f} %)"
        wanted = "flat" if role != "of notes on completed calls" else "≤ 4,096 an endpoint"
        rows.append(
            (f"soak, {found['seconds'] / 60:.0f} min, {found['calls']:,} calls: {role}", wanted, change)
        )
    after = found["afterwards"]
    kept = ", ".join(f"`{kind}`" for kind in after["that stay, by kind"])
    told = f"{len(after['leaks'])}; of {after['keys']:,} keys {after['with a ttl']:,} expire, and there stay {kept}"
    return [*rows, ("afterwards, keys that neither expire nor belong to a kind that stays", "0", told)]


_ROWS: dict[str, Callable[[Record], list[Row]]] = {
    "protocol": _protocol,
    "rolling": _rolling,
    "held": _held,
    "soak": _soak,
}

TABLES: dict[str, Callable[[], str]] = {
    "recovery": recovery_table,
    "recovery-lines": recovery_lines,
    "endurance": endurance_table,
}
