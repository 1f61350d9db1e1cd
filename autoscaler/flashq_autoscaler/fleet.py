"""The workers of one endpoint, sorted by what they can do for its queue (R1). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flashq_autoscaler.views import EndpointView, WorkerView

_GONE = frozenset({"throttled", "unhealthy"})


def is_live(worker: WorkerView) -> bool:
    """Whether it counts against its endpoint's `maximum`: every worker with a process, draining or not."""
    return not worker.lost and worker.state not in _GONE


def is_silent(worker: WorkerView, now: float) -> bool:
    """Whether its lease has run out: a live worker on record whose heartbeat is missing."""
    return now > worker.beat_at + worker.lease_s and is_live(worker)


@dataclass(slots=True)
class Group:
    """The workers of one environment that take jobs, or will once they are ready."""

    idle: list[WorkerView] = field(default_factory=list)
    running: list[WorkerView] = field(default_factory=list)
    initializing: list[WorkerView] = field(default_factory=list)

    @property
    def ready(self) -> int:
        return len(self.idle) + len(self.running)

    @property
    def capacity(self) -> int:
        return len(self.idle) + len(self.running) + len(self.initializing)

    def add(self, worker: WorkerView) -> None:
        if worker.state == "initializing":
            self.initializing.append(worker)
        elif worker.state == "running" or worker.jobs:
            self.running.append(worker)
        else:
            self.idle.append(worker)


@dataclass(slots=True)
class Fleet:
    """All live workers of one endpoint: the current environment's, those of others, and the draining ones."""

    current: Group = field(default_factory=Group)
    others: dict[str, Group] = field(default_factory=dict)
    draining: int = 0
    draining_outdated: int = 0

    @property
    def serving(self) -> int:
        """Live workers that are not draining, whatever their environment."""
        return self.current.capacity + sum(group.capacity for group in self.others.values())

    @property
    def live(self) -> int:
        """What counts against `maximum`."""
        return self.serving + self.draining

    @property
    def ready(self) -> int:
        return self.current.ready + sum(group.ready for group in self.others.values())

    @property
    def initializing(self) -> int:
        groups = (self.current, *self.others.values())
        return sum(len(group.initializing) for group in groups)


def fleet_of(endpoint: EndpointView, workers: Iterable[WorkerView]) -> Fleet:
    """The fleet that `workers`, all live and all of `endpoint`, make up."""
    fleet = Fleet()
    current, environment = fleet.current, endpoint.environment
    for worker in workers:
        if worker.draining:
            fleet.draining += 1
            fleet.draining_outdated += worker.environment != environment
        elif worker.environment == environment:
            current.add(worker)
        else:
            fleet.others.setdefault(worker.environment, Group()).add(worker)
    return fleet
