"""The table of chaos campaigns, from benchmarks/results/chaos.json, which `python -m tests.chaos` writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scripts.results_table import RESULTS, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FILE = RESULTS / "chaos.json"
_HEADINGS = (
    "broker",
    "seed",
    "jobs",
    "faults",
    "hits",
    "attempts",
    "repeated",
    "unexplained",
    "failed unexplained",
    "lost",
    "stale",
    "changed",
    "other violations",
    "settled s",
)


def rows(campaigns: Iterable[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    """A line for each campaign."""
    for one in campaigns:
        named = one["lost"] + one["stale"] + one["changed"]
        lost = f"{one['lost']}, {one['lost_by_design']} by design" if one["wipes"] else one["lost"]
        settled = "not all" if one["settled_s"] is None else f"{one['settled_s']:g}"
        numbers = (
            one["jobs"],
            sum(kind["count"] for kind in one["faults"].values()),
            one["hits"],
            one["attempts"],
            one["repeated"],
            one["repeated_unexplained"],
            one["failed_unexplained"],
        )
        yield (
            f"`{one['fsync']}`{', comes back empty' if one['wipes'] else ''}",
            str(one["seed"]),
            *(f"{number:,}" for number in numbers),
            str(lost),
            str(one["stale"]),
            str(one["changed"]),
            str(sum(one["violations"].values()) - named),
            settled,
        )


def _faults(campaigns: Iterable[dict[str, Any]]) -> str:
    """How often each fault happened in all of them, and what it hit."""
    counts: dict[str, list[int]] = {}
    for one in campaigns:
        for kind, row in one["faults"].items():
            known = counts.setdefault(kind, [0, 0])
            known[0] += row["count"]
            known[1] += row["hits"]
    lines = ((kind, f"{count:,}", f"{hits:,}") for kind, (count, hits) in sorted(counts.items()))
    return markdown(("fault", "times", "attempts hit"), lines)


def campaigns_table(file: Path = FILE) -> str:
    """Both tables and where they come from; empty where there is no record."""
    if not file.exists():
        return ""
    campaigns = json.loads(file.read_text("utf-8"))["campaigns"]
    made = []
    for one in campaigns:
        about = one["about"]
        skipped = "".join(f"; without {kind} ({why})" for kind, why in one["skipped"].items())
        made.append(
            f"- `{about['command']}`: seed {one['seed']}, `{one['fsync']}`, {about['date'][:10]}, flashq"
            f" {about['flashq']} at {about['commit']}, Python {about['python']}, {about['machine']}, load average"
            f" {about['load_average']:g}, lease {one['lease_s']:g} s, {one['took_s'] / 60:.0f} min{skipped}"
        )
    return "\n".join([markdown(_HEADINGS, rows(campaigns)), _faults(campaigns), *made])


TABLES: dict[str, Callable[[], str]] = {"chaos-campaigns": campaigns_table}
