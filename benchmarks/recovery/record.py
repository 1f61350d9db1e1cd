"""What the jobs wrote down (see peer_programs/job.py), and what is made of many times."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Part = Literal["job", "supervisor", "worker", "host", "cut"]
"""What is killed: the process that runs the job; the one that supervises it; both; all of a machine's.

cut: all of a machine's is stopped and not killed, so that no connection closes: as when its power or network fails.
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a record."""

    number: int
    what: str
    at_ns: int
    pid: int
    parent: int


def lines(record: Path) -> list[Line]:
    """What was written so far."""
    if not record.exists():
        return []
    rows = [line.split() for line in record.read_text().splitlines() if line]
    return [Line(int(n), what, int(at), int(pid), int(parent)) for n, what, at, pid, parent in rows]


def begun(record: Path, number: int, *, after_ns: int = 0) -> Line | None:
    """The first line of a run of this job that began after a moment."""
    found = (row for row in lines(record) if row.number == number and row.what == "begin")
    return next((row for row in found if row.at_ns > after_ns), None)


@dataclass(frozen=True, slots=True)
class Kill:
    """What became of one job after one kill. Times in seconds from the kill; None: that did not happen."""

    part: Part
    busy: bool
    back_s: float | None = None
    """Until the first line of the rerun, or of the next job where the worker was idle."""
    failed_s: float | None = None
    """Until the system said that the job failed, for good."""
    went_on: bool = False
    """The run under way came to its end, without who supervised it."""
    completed_s: float | None = None
    """Until the system took that run's end for the job's."""
    watched_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, to a millisecond."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    shown = {"median": statistics.median(ordered), "p99": p99, "max": ordered[-1]}
    return {"n": len(ordered), **{name: round(value, 3) for name, value in shown.items()}}


def _scheduling() -> str:
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        return "real-time priority"
    return f"nice {os.nice(0)}" if os.nice(0) else "as usual"


def about(versions: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Where and when, and by which command."""
    module = sys.argv[0].rpartition("benchmarks/")[2].removesuffix(".py").replace("/", ".")
    return {
        "command": " ".join(["python -m", f"benchmarks.{module.removesuffix('.__main__')}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "scheduling": _scheduling(),
        "versions": dict(versions),
        **more,
    }
