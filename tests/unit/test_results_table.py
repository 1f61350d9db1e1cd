"""The README's table of measurements, from records as `python -m benchmarks --output` writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scripts import results_table

if TYPE_CHECKING:
    from pathlib import Path


def record(date: str, ratio: float = 0.5) -> dict[str, Any]:
    about = {
        "command": "python -m benchmarks",
        "date": date,
        "flashq": "0.1.0",
        "python": "3.11.7",
        "machine": "2 cores, x86_64",
        "load_average": 0.25,
        "rounds": 3,
    }
    jobs = {"throughput jobs/s": {"floor": 5700.4, "flashq": 2850.2, "ratio": ratio}}
    starts = {"import flashq, ms": {"median": 21.04, "max": 30.0, "n": 20}}
    return {"about": about, "jobs": jobs, "starts": starts, "raw": []}


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_without_a_record_nothing_is_said(tmp_path: Path) -> None:
    assert results_table.benchmark_table(tmp_path) == ""


def test_the_newest_record_is_shown_with_where_it_comes_from(tmp_path: Path) -> None:
    write(tmp_path, "a.json", record("2026-03-02T10:00:00+00:00", ratio=0.75))
    write(tmp_path, "b.json", record("2026-03-01T10:00:00+00:00"))
    write(tmp_path, "c.json", {"something": "else"})

    shown = results_table.benchmark_table(tmp_path)

    assert "`python -m benchmarks`, 2026-03-02, flashq 0.1.0, Python 3.11.7, 2 cores, x86_64" in shown
    assert "| throughput jobs/s | 5,700 | 2,850 | 0.75 |" in shown
    assert "| import flashq, ms | median 21, max 30 (20 runs) |" in shown


def test_a_record_of_jobs_alone_has_one_table(tmp_path: Path) -> None:
    write(tmp_path, "a.json", {**record("2026-03-02T10:00:00+00:00"), "starts": {}})

    assert results_table.benchmark_table(tmp_path).count("| --- |") == 1
