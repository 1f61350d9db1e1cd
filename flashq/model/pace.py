"""How a worker estimates what its jobs take. Pure."""

from __future__ import annotations

_WEIGHT = 0.2


def weighed(before: float | None, seconds: float) -> float:
    """The estimate after one more job: a longer one counts at once, shorter ones gradually. `before`: None at first."""
    if before is None or seconds > before:
        return seconds
    return before + _WEIGHT * (seconds - before)
