"""How long an endpoint's jobs and its workers' starts take, by what its last workers reported. Pure.

It outlives the workers: an endpoint scaled to zero still knows what a start costs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


_REMEMBERED = 16  # workers


class Reporting(Protocol):
    """A worker that tells of itself, in ms: how long a job takes, and how long its start took."""

    @property
    def id(self) -> str: ...
    @property
    def service_ms(self) -> float | None: ...
    @property
    def cold_ms(self) -> float | None: ...


@dataclass(slots=True)
class _Past:
    service_s: dict[str, float] = field(default_factory=dict)
    cold_s: dict[str, float] = field(default_factory=dict)


class Estimates:
    """Medians over the last workers of each endpoint."""

    def __init__(self) -> None:
        self._past: defaultdict[str, _Past] = defaultdict(_Past)

    def learn(self, endpoint: str, workers: Iterable[Reporting]) -> None:
        """Take in what these workers report of themselves."""
        past = self._past[endpoint]
        for worker in workers:
            _remember(past.service_s, worker, lambda row: row.service_ms)
            _remember(past.cold_s, worker, lambda row: row.cold_ms)

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone."""
        self._past.pop(endpoint, None)

    def service_s(self, endpoint: str) -> float | None:
        """A job's execution time; None: not known yet."""
        past = self._past[endpoint].service_s
        return median(past.values()) if past else None

    def cold_s(self, endpoint: str) -> float | None:
        """From a worker's order until it is ready; None: not known yet."""
        past = self._past[endpoint].cold_s
        return median(past.values()) if past else None


def _remember(past: dict[str, float], worker: Reporting, read: Callable[[Reporting], float | None]) -> None:
    try:
        value = read(worker)
    except ValueError:
        return
    if value is None or value < 0:
        return
    past[worker.id] = value / 1000
    if len(past) > _REMEMBERED:
        del past[next(iter(past))]
