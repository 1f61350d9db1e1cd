"""How a worker estimates what its jobs take: one estimate to be on the safe side, one to count with. Pure."""

from __future__ import annotations

_WEIGHT = 0.2
_LONGER_WEIGHT = 0.8


def weighed(before: float | None, seconds: float) -> float:
    """The estimate after one more job: a longer one counts at once, shorter ones gradually. `before`: None at first.

    For what must not take too much on: jobs that are claimed ahead.
    """
    if before is None or seconds > before:
        return seconds
    return before + _WEIGHT * (seconds - before)


def expected(before: float | None, seconds: float) -> float:
    """The same, but one longer job is not all: for what counts with many workers, when a queue will be empty."""
    if before is None:
        return seconds
    return before + (_LONGER_WEIGHT if seconds > before else _WEIGHT) * (seconds - before)
