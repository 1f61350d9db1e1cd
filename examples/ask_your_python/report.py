"""What the demo prints of its numbers, as plain lines."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from checks import Check

    from flashq import Timing

# What `Timing.startup` measures, in words.
PARTS = {
    "claim": "until a worker was there for it",
    "environment": "making its environment, or finding it made",
    "fork": "forking a process of it",
    "spawn": "starting Python in it",
    "imports": "loading the function",
    "setup": "making an instance, of a class",
    "first_job": "running the job",
}


def cold_start(timing: Timing) -> Iterator[str]:
    """Yield where the time of a job went that had to wait for a worker."""
    yield f"The first job met no worker: {_seconds(timing.total_s)} from its submission to its result."
    yield f"  {_seconds(timing.queued_s)}  waiting for a worker to start"
    for part, spent_s in timing.startup.items():
        yield f"      {_seconds(spent_s)}  {PARTS.get(part, part)}"
    yield f"  {_seconds(timing.claimed_s)}  from being taken to running"
    yield f"  {_seconds(timing.execution_s)}  in the function, which loaded the model first"


def warm_latency(latencies_s: Sequence[float]) -> str:
    """Return how long questions took, from the call to its value."""
    median_ms, longest_ms = 1000 * statistics.median(latencies_s), 1000 * max(latencies_s)
    of = len(latencies_s)
    return f"Warm: a question took {median_ms:.1f} ms (median of {of}; the longest {longest_ms:.1f} ms)."


def answer(question: str, found: Sequence[tuple[str, float]], latency_s: float) -> str:
    """Return the nearest names to a question, and how long its vector took."""
    names = ", ".join(f"{name} {cosine:.2f}" for name, cosine in found)
    return f"  {1000 * latency_s:6.1f} ms  {question} → {names}"


def check(judged: Check) -> str:
    """Return one check's line."""
    return f"  {'ok    ' if judged.held else 'FAILED'}  {judged.name}: {judged.evidence}"


def _seconds(seconds: float | None) -> str:
    return "     ?" if seconds is None else f"{seconds:6.3f} s"
