"""The workers of one endpoint, sorted by what they can do for its queue (R1). Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashq_autoscaler.views import EndpointView, HostView, WorkerView

GONE = frozenset({"throttled", "unhealthy"})
"""The states of a worker that has no process."""


def is_live(worker: WorkerView) -> bool:
    """Whether it counts against its endpoint's `maximum`: every worker with a process, draining or not."""
    return worker.state not in GONE


def is_silent(worker: WorkerView, now: float) -> bool:
    """Whether its lease has run out: a live worker on record whose heartbeat is missing."""
    return now > worker.beat_at + worker.lease_s and is_live(worker)


def is_mute(host: HostView, now: float) -> bool:
    """Whether a host's lease has run out, or was ended because one of its workers fell silent."""
    return now > host.beat_at + host.lease_s


@dataclass(slots=True)
class Group:
    """Workers that take jobs, or will once they are ready."""

    idle: list[WorkerView] = field(default_factory=list)
    running: list[WorkerView] = field(default_factory=list)
    initializing: list[WorkerView] = field(default_factory=list)

    @property
    def ready(self) -> int:
        return len(self.idle) + len(self.running)

    @property
    def capacity(self) -> int:
        return len(self.idle) + len(self.running) + len(self.initializing)


@dataclass(slots=True)
class Fleet:
    """All live workers of one endpoint."""

    live: int = 0
    """What counts against `maximum`."""
    current: Group = field(default_factory=Group)
    """Those of the current environment."""
    outdated: Group = field(default_factory=Group)
    """Those of all other environments: they serve too, and are to be replaced."""
    draining: int = 0
    draining_outdated: int = 0
    """Those of `draining` that are not of the current environment."""
    lending: int = 0
    """Those whose jobs all wait for what they called."""
    leaving_outdated: int = 0
    """Those of `draining_outdated` that hold no job, and so are gone in a moment."""

    @property
    def serving(self) -> int:
        """Live workers that are not draining, whatever their environment."""
        return self.live - self.draining


def most(endpoint: EndpointView, fleet: Fleet) -> int:
    """How many live workers it may have: `maximum`, and while jobs wait that jobs called, those that lend their place.

    Without the latter, calls that lead back to their own endpoint would never end. Without the former, each job of a
    long queue would get a worker, to wait in.
    """
    return endpoint.maximum + (fleet.lending if endpoint.nested else 0)


def fleet_of(endpoint: EndpointView, workers: Sequence[WorkerView]) -> Fleet:
    """The fleet that `workers`, all live and all of `endpoint`, make up."""
    fleet = Fleet(live=len(workers))
    current, outdated, environment = fleet.current, fleet.outdated, endpoint.environment
    for worker in workers:
        fleet.lending += worker.lends
        if worker.draining:
            fleet.draining += 1
            if worker.environment != environment:
                fleet.draining_outdated += 1
                fleet.leaving_outdated += not worker.jobs
            continue
        group = current if worker.environment == environment else outdated
        if worker.state == "initializing":
            group.initializing.append(worker)
        elif worker.state == "running" or worker.jobs:
            group.running.append(worker)
        else:
            group.idle.append(worker)
    return fleet
