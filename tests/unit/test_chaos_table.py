"""The table of chaos campaigns says what their record says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scripts.chaos_table import campaigns_table

if TYPE_CHECKING:
    from pathlib import Path


def campaign(seed: int, **changes: Any) -> dict[str, Any]:
    about = {
        "command": "python -m tests.chaos",
        "date": "2026-11-26T10:00:00+00:00",
        "flashq": "0.1.0",
        "commit": "abc1234",
        "python": "3.11.7",
        "machine": "2 cores, x86_64",
        "load_average": 3.5,
    }
    numbers = {"jobs": 10_001, "hits": 800, "attempts": 10_600, "repeated": 500}
    unexplained = {"repeated_unexplained": 2, "failed_unexplained": 1}
    outcome = {"lost": 0, "stale": 0, "changed": 0, "lost_by_design": 0, "settled_s": 4.5, "violations": {}}
    faults = {"kill worker": {"count": 90, "hits": 70}, "cut all off": {"count": 10, "hits": 0}}
    terms = {"fsync": "always", "wipes": False, "lease_s": 4.0, "took_s": 840, "skipped": {}}
    return {
        "about": about,
        "seed": seed,
        **terms,
        **numbers,
        **unexplained,
        **outcome,
        "faults": faults,
        **changes,
    }


def written(folder: Path, *campaigns: dict[str, Any]) -> str:
    (folder / "chaos.json").write_text(json.dumps({"campaigns": campaigns}))
    return campaigns_table(folder / "chaos.json")


def test_a_line_a_campaign_and_the_faults_of_all(tmp_path: Path) -> None:
    table = written(tmp_path, campaign(1), campaign(2))

    assert "| `always` | 1 | 10,001 | 100 | 800 | 10,600 | 500 | 2 | 1 | 0 | 0 | 0 | 0 | 4.5 |" in table
    assert "| kill worker | 180 | 140 |" in table
    assert "lease 4 s, 14 min" in table


def test_what_was_broken_lost_by_design_and_left_out_is_said(tmp_path: Path) -> None:
    bad = campaign(
        3,
        wipes=True,
        lost=1,
        lost_by_design=12,
        settled_s=None,
        violations={"lost": 1, "late": 2},
        skipped={"fill disk": "needs root"},
    )
    table = written(tmp_path, bad)

    assert "| `always`, comes back empty | 3 |" in table
    assert "| 1, 12 by design | 0 | 0 | 2 | not all |" in table
    assert "; without fill disk (needs root)" in table


def test_without_a_record_there_is_no_table(tmp_path: Path) -> None:
    assert campaigns_table(tmp_path / "none.json") == ""
