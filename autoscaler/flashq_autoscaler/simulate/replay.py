"""Decisions of the past, decided again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashq_autoscaler.decide import decide
from flashq_autoscaler.record import plan_json, read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Replayed:
    """One of them: when it was, what it asked for, and in what the decision of today differs."""

    number: int
    at: float
    """Seconds since the epoch, by the broker's clock."""
    starts: int
    drains: int
    stops: int
    differs: str
    """The parts of the plan that are others now, with both; empty: it is the same."""


def replay(file: Path) -> Iterator[Replayed]:
    """Decide each again. Raises RecordError."""
    for number, one in enumerate(read(file), start=1):
        today = plan_json(decide(one.snapshot, one.params))
        plan = one.plan
        starts, drains, stops = (len(plan.get(part) or ()) for part in ("starts", "drains", "stops"))
        yield Replayed(number, one.snapshot.now, starts, drains, stops, _differences(plan, today))


def _differences(before: Any, today: Any) -> str:
    parts = sorted(before.keys() | today.keys())
    return "; ".join(
        f"{part}: was {before.get(part)}, is {today.get(part)}"
        for part in parts
        if before.get(part) != today.get(part)
    )
