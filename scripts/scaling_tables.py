"""What docs/scaling.md says in numbers, from what `python -m benchmarks.scaling` wrote (see reference.py)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scripts.results_table import RESULTS, markdown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE = RESULTS / "scaling.json"
REAL = "azure code"
OURS = "EARLIEST_FINISH"
BOUND = "contract-OPT (and idle_timeout)"
_HEADINGS = ("policy", "p50 wait, s", "p99 wait, s", "GPU-s per work-s", "starts", "of no use", "peak")


def _record(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text("utf-8")) if file.exists() else None


def _cells(record: dict[str, Any], trace: str) -> dict[tuple[float, float], list[dict[str, Any]]]:
    found: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for row in record["policies"]:
        if row["trace"] == trace:
            found.setdefault((row["cold_s"], row["idle_timeout_s"]), []).append(row)
    return found


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    waits = (f"{row['p50_wait_s']:.2f}", f"{row['p99_wait_s']:.2f}")
    counts = (f"{row['starts']:,}", f"{row['useless_starts']:,}", str(row["peak_workers"]))
    return (row["policy"], *waits, f"{row['gpu_per_work']:.2f}", *counts)


def policies_table(file: Path = FILE) -> str:
    """The real trace, a table for each cold start."""
    record = _record(file)
    if record is None:
        return ""
    parts = []
    for (cold_s, idle_s), rows in _cells(record, REAL).items():
        parts.append(f"**A start takes {cold_s:g} s, `idle_timeout` {idle_s:g} s**\n")
        parts.append(markdown(_HEADINGS, [_line(row) for row in rows]))
    about = record["about"]
    parts.append(
        f"`{about['command']}`, at most {record['max']} workers, {about['date'][:10]}, flashq {about['flashq']}.\n"
    )
    return "\n".join(parts)


def made_traces_table(file: Path = FILE) -> str:
    """The default rule on made traces, beside the cheapest rule that lets nobody wait longer, and the bound."""
    record = _record(file)
    if record is None:
        return ""
    lines = []
    for trace in dict.fromkeys(row["trace"] for row in record["policies"] if row["trace"] != REAL):
        for (cold_s, _), rows in _cells(record, trace).items():
            by_name = {row["policy"]: row for row in rows}
            shares = [
                f"{row['p99_wait_s']:.2f} / {row['gpu_per_work']:.2f}"
                for row in (
                    by_name[name]
                    for name in (OURS, "REQUEST_COUNT", "QUEUE_DELAY", "KEDA/HPA", "Knative KPA")
                )
            ]
            lines.append((trace, f"{cold_s:g}", *shares, f"{by_name[BOUND]['gpu_per_work']:.2f}"))
    headings = ("trace", "start, s", "flashq", "REQUEST_COUNT", "QUEUE_DELAY", "KEDA", "KPA", "contract-OPT")
    return markdown(headings, lines)


def scaling_goals(file: Path = FILE) -> str:
    """SCALING's goals that a simulation can show, and what came of each."""
    record = _record(file)
    if record is None:
        return ""
    cells = {cold: {row["policy"]: row for row in rows} for (cold, _), rows in _cells(record, REAL).items()}
    warm, cold = cells[0.1], cells[20.0]

    def share(rows: dict[str, dict[str, Any]], of: str) -> float:
        return float(rows[OURS]["gpu_s"]) / float(rows[of]["gpu_s"])

    ours = {start: rows[OURS] for start, rows in cells.items()}
    useless = ", ".join(
        f"{row['useless_starts'] / row['starts']:.1%} (start {start:g} s)" for start, row in ours.items()
    )
    safety, decides = record["safety"], record["decide"]
    lines = [
        ("GPU-seconds, start 0.1 s", "≤ 1.05 × contract-OPT", f"{share(warm, BOUND):.3f} ×"),
        ("p99 wait, start 0.1 s", "≤ start + 20 ms", f"{warm[OURS]['p99_wait_s']:.3f} s"),
        ("GPU-seconds, start 20 s", "≤ 0.85 × REQUEST_COUNT", f"{share(cold, 'REQUEST_COUNT'):.2f} ×"),
        ("GPU-seconds, start 20 s", "≤ 0.8 × KEDA", f"{share(cold, 'KEDA/HPA'):.2f} ×"),
        ("GPU-seconds, start 20 s", "≤ 0.8 × KPA", f"{share(cold, 'Knative KPA'):.2f} ×"),
        ("starts that served nothing", "≤ 2 %", useless),
        (
            "busy workers stopped",
            "0 in 10⁶ decisions",
            f"{safety['busy workers stopped']} in {safety['decisions']:,}",
        ),
        *(
            (
                f"`decide`, 100 endpoints, 1,000 workers, {name}",
                "≤ 1 ms",
                f"p50 {took['p50 ms']:g} ms, p99 {took['p99 ms']:g} ms; {took['starts']:,} starts planned",
            )
            for name, took in decides.items()
        ),
    ]
    return markdown(("what", "goal", "measured"), lines)


def reaction_table(file: Path = RESULTS / "reaction.json") -> str:
    """How soon the real autoscaler reacts, and what large fleets cost it."""
    record = _record(file)
    if record is None:
        return ""
    lines = [
        (
            f"submit to all start commands, {what}",
            "p99 ≤ 10 ms" if what.startswith("one") else "one decision",
            _spread(values),
        )
        for what, values in record["reaction"].items()
    ]
    if bursts := _record(RESULTS / "bursts.json"):
        made = ", ".join(f"{count} ({times} times)" for count, times in bursts["decisions"].items())
        lines.append(("decisions for a burst of 100, by their record", "1", made))
    for fleet in record["fleet"]:
        what = f"the autoscaler, {fleet['endpoints']:,} endpoints, {fleet['workers']:,} idle workers"
        lines.append((what, "–", f"{fleet['CPU, % of a core']:g} % of a core, {fleet['memory, MiB']:g} MiB"))
    about = record["about"]
    where = (
        f"`{about['command']}`, {about['date'][:10]}, flashq {about['flashq']}, Python {about['python']},"
        f" {about['machine']}, load average {about['load_average']:.1f}.\n"
    )
    return markdown(("what", "goal", "measured"), lines) + "\n" + where


def agreement_table(file: Path = RESULTS / "agreement.json") -> str:
    """The simulator beside the real stack."""
    record = _record(file)
    if record is None:
        return ""
    about = record["about"]
    lines = []
    for what, cell in record.items():
        if what == "about":
            continue
        for part in ("real", "simulated"):
            said = cell[part]
            start = f"{said['start_s']:.3f}" if part == "real" else ""
            waits = (f"{said['p50_wait_s']:.3f}", f"{said['p90_wait_s']:.3f}", f"{said['mean_wait_s']:.3f}")
            lines.append((f"{what}, {part}", start, *waits, f"{said['gpu_s']:.1f}", f"{said['starts']:.0f}"))
        share = cell["GPU-seconds, simulated / real"]
        median = cell["simulated"]["p50_wait_s"] / cell["real"]["p50_wait_s"]
        lines.append((f"{what}, simulated / real", "", f"{median:.2f}", "", "", f"{share:.2f}", ""))
    headings = ("what", "start, s", "p50 wait, s", "p90", "mean", "GPU-s", "starts")
    where = f"`{about['command']}`, {about['date'][:10]}, {about['machine']}, load average {about['load_average']:.1f}."
    return f"{markdown(headings, lines)}\n{where}\n"


def _spread(values: dict[str, float]) -> str:
    return f"p50 {values['p50']:g}, p99 {values['p99']:g}, most {values['max']:g} ({values['n']:.0f} times)"


TABLES: dict[str, Callable[[], str]] = {
    "scaling-policies": policies_table,
    "scaling-made-traces": made_traces_table,
    "scaling-goals": scaling_goals,
    "scaling-reaction": reaction_table,
    "scaling-agreement": agreement_table,
}
