"""The tables of recovery and endurance say what the records say: times, failures, and what did not come back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scripts import recovery_tables

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {
    "command": "python -m benchmarks.recovery",
    "date": "2026-11-26T07:00:00+00:00",
    "python": "3.11.7",
    "machine": "2 cores, x86_64",
    "load_average": 1.0,
    "scheduling": "as usual",
    "versions": {"some": "1.0"},
}


def kill(part: str, *, busy: bool = True, **fields: Any) -> dict[str, Any]:
    nothing = {"back_s": None, "failed_s": None, "went_on": False, "completed_s": None, "watched_s": 900.0}
    return {"part": part, "busy": busy, **nothing, **fields}


def system(*kills: dict[str, Any], **about: Any) -> dict[str, Any]:
    return {"about": {**ABOUT, **about}, "kills": list(kills)}


def written(folder: Path, **systems: Any) -> Path:
    (folder / "recovery.json").write_text(json.dumps({"systems": systems}))
    return folder


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_without_records_there_are_no_tables(tmp_path: Path) -> None:
    for table in (
        recovery_tables.recovery_table,
        recovery_tables.recovery_lines,
        recovery_tables.endurance_table,
    ):
        assert table(tmp_path) == ""


def test_kills_are_told_by_what_was_killed_and_what_became_of_the_job(tmp_path: Path) -> None:
    ours = [kill("worker", back_s=n / 10) for n in range(1, 41)]
    theirs = [
        kill("job", failed_s=0.0),
        kill("job", failed_s=0.6),
        kill("worker", back_s=None, watched_s=1234.5),
        kill("supervisor", went_on=True, completed_s=150.0),
        kill("supervisor", went_on=True, back_s=86.0),
        kill("worker", busy=False, back_s=0.05),
    ]
    folder = written(
        tmp_path, flashq=system(*ours, load_average_after=3.0), rq=system(*theirs, waited_at_most_s=1000)
    )

    table = recovery_tables.recovery_table(folder)

    assert rows(table) == [
        ["flashq", "executor and supervisor", "busy", "40", "2.05 s", "4.00 s", "4.00 s", ""],
        ["RQ", "work-horse", "busy", "2", "–", "–", "–", "2 failed for good, after 0.30 s"],
        ["RQ", "work-horse and worker", "busy", "1", "–", "–", "–", "1 not back after 1,234 s"],
        [
            *("RQ", "worker, the parent of the work-horse", "busy", "2", "86.0 s", "–", "86.0 s"),
            "1 first runs went on, with nobody to supervise them, and completed the job; "
            "1 first runs went on, with nobody to supervise them, beside what is said here",
        ],
        ["RQ", "work-horse and worker", "idle", "1", "0.05 s", "–", "0.05 s", ""],
    ]
    assert "load average 1.0 to 3.0" in table
    assert "waited for at most 1,000 s" in table


def test_the_readme_has_the_medians_and_the_worst_of_ours_and_how_the_others_did(tmp_path: Path) -> None:
    killed = [kill("worker", back_s=0.5), kill("worker", back_s=0.7), kill("host", back_s=14.0)]
    folder = written(
        tmp_path,
        flashq=system(*killed, kill("cut", back_s=16.0)),
        rq=system(kill("worker", failed_s=811.0)),
        celery=system(kill("worker", watched_s=3900.0)),
        ray=system(kill("job", back_s=1.5), kill("cut", back_s=20.0)),
    )

    lines = recovery_tables.recovery_lines(folder)

    assert (
        "after 0.60 s (median of 2 kills; at most 0.70 s), one whose whole host is gone after 15.0 s" in lines
    )
    assert (
        "RQ 811 s, as failed; Celery (`acks_late`) not within 3,900 s; Ray (tasks) 1.50 s, and for a node"
        in lines
    )
    assert "that is cut off 20.0 s." in lines


def test_endurance_says_what_was_wanted_beside_what_was_found(tmp_path: Path) -> None:
    record = {
        "rolling": {
            "about": ABOUT, "jobs": 10_000, "workers restarted by SIGTERM": 30,
            "host agents restarted by SIGTERM": 9, "errors": 0, "extra runs": 2, "never run": 0,
        },
        "held": {
            "about": ABOUT, "jobs": 80, "workers": 4, "seconds": 600.0, "longer than a lease": 80,
            "held the lock in one call, s": {"max": 33.6}, "attempts": {"1": 79, "2": 1},
            "falsely reaped": {"job-requeued": 1}, "workers lost": [],
        },
    }  # fmt: skip
    (tmp_path / "endurance.json").write_text(json.dumps(record))

    found = rows(recovery_tables.endurance_table(tmp_path))

    assert found[0][1:] == ["0 errors, 0 extra runs", "0 errors, 2 extra runs, 0 never run"]
    assert found[1][1:] == ["no false reap", "1 reaped; attempts {'1': 79, '2': 1}"]
